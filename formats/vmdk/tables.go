package vmdk

import (
	"encoding/binary"

	"tarvm/formats/internal/parse"
)

// tables is a grain directory and the tables it points to: u32 sector numbers,
// 0 for what is not there, 1 in a table for a grain of zeros.
type tables struct {
	m          parse.Image
	grain      Sectors
	tableLen   int64 // entries of a table
	entries    int64 // of the directory
	compressed bool

	directory int64 // byte offset
}

// directoryEntries is how many tables a disk needs.
func directoryEntries(capacity, grain Sectors, tableLen int64) int64 {
	if capacity == 0 {
		return 0
	}
	// grain is a power of two up to 2^17, tableLen below 2^32: no overflow.
	return (int64(capacity)-1)/(int64(grain)*tableLen) + 1
}

// place sets where the directory is and reports whether it is in the file.
func (t *tables) place(gd uint64) bool {
	if gd == 0 || gd > uint64(t.m.Size())/sector || t.entries > t.m.Size()/4 {
		return false
	}
	t.directory = Sectors(gd).Bytes()
	return t.m.Inside(t.directory, t.entries*4)
}

// phase returns the file offset of grains modulo their size, as most of the
// first ones have it; without grains that of fallback. Tables and grains that
// start past the end of the file are an error.
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
			if table == 0 {
				continue
			}
			if left -= tableBytes; left < 0 {
				break
			}
			if !t.m.Inside(table, t.tableLen*4) {
				return 0, t.m.Corrupt("grain directory", t.directory+at+int64(i),
					"table at 0x%x passes end of file", table)
			}
			b, err := t.m.Bytes("grain table", table, tableBytes)
			if err != nil {
				return 0, err
			}
			for j := 0; j < len(b) && !votes.Full(); j += 4 {
				e := le.Uint32(b[j:])
				if e <= 1 {
					continue
				}
				off := Sectors(e).Bytes()
				if off >= t.m.Size() {
					return 0, t.m.Corrupt("grain table", table+int64(j),
						"grain at 0x%x is past end of file", off)
				}
				votes.Add(off)
			}
		}
	}
	return votes.Winner(fallback), nil
}
