package vmdk

import (
	"encoding/binary"

	"tarvm/formats/internal/parse"
)

// tables is a grain directory and the tables it points to: u32 sector numbers,
// 0 for what is not there, 1 in a table for a grain of zeros.
type tables struct {
	m         parse.Image
	grain     Sectors
	tableLen  int64 // entries of a table
	entries   int64 // of the directory
	directory int64 // byte offset
	redundant int64 // byte offset of the second directory; negative: none
	repaired  bool  // directory is the second one, because the first is not in the file
}

// directoryEntries is how many tables a disk needs.
func directoryEntries(capacity, grain Sectors, tableLen int64) int64 {
	if capacity == 0 {
		return 0
	}
	// grain is a power of two up to 2^17, tableLen below 2^32: no overflow.
	return (int64(capacity)-1)/(int64(grain)*tableLen) + 1
}

// place returns the byte offset of a directory at sector gd; false: it is not in
// the file.
func (t *tables) place(gd uint64) (int64, bool) {
	if gd == 0 || gd > uint64(t.m.Size())/sector || t.entries > t.m.Size()/4 {
		return -1, false
	}
	at := Sectors(gd).Bytes()
	if !t.m.Inside(at, t.entries*4) {
		return -1, false
	}
	return at, true
}

// phase returns the file offset of grains modulo their size, as most of the
// first ones have it; without grains that of fallback.
func (t *tables) phase(fallback int64) (int64, error) {
	const piece = 16 << 10 // bytes of the directory read at once
	le := binary.LittleEndian
	votes := parse.Phase{Step: t.grain.Bytes()}
	tableBytes := min(t.tableLen, parse.Enough) * 4
	left := int64(tableBudget)
	for at := int64(0); at < t.entries*4 && !votes.Full(); at += piece {
		n := min(piece, t.entries*4-at)
		if left -= n; left < 0 {
			break
		}
		dir, err := t.m.Bytes("grain directory", t.directory+at, n)
		if err != nil {
			return 0, err
		}
		for i := 0; i < len(dir) && !votes.Full(); i += 4 {
			table := Sectors(le.Uint32(dir[i:])).Bytes()
			if table == 0 || !t.m.Inside(table, t.tableLen*4) {
				continue
			}
			if left -= tableBytes; left < 0 {
				break
			}
			b, err := t.m.Bytes("grain table", table, tableBytes)
			if err != nil {
				return 0, err
			}
			for j := 0; j < len(b) && !votes.Full(); j += 4 {
				e := le.Uint32(b[j:])
				if off := Sectors(e).Bytes(); e > 1 && off < t.m.Size() {
					votes.Add(off)
				}
			}
		}
	}
	return votes.Winner(fallback), nil
}
