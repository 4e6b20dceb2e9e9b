package qcow2

import (
	"encoding/binary"
	"fmt"
	"io"

	"tarvm/formats"
	"tarvm/formats/internal/parse"
)

var bigEndian = binary.BigEndian

// Entries of L1 and L2 tables are u64. An L2 entry with subclusters has a second
// u64: bits 0 to 31 say which subclusters are in the file, bits 32 to 63 which
// read as zero; one that is both is corrupt.
const (
	flagCopied     = 1 << 63               // the refcount of what is pointed at is 1; not of use to a reader
	flagCompressed = 1 << 62               // L2 only: see compressedAt
	flagZero       = 1 << 0                // L2 only, version 3 without subclusters: reads as zero
	offsetMask     = 0x00ff_ffff_ffff_fe00 // file offset, a multiple of the cluster; 0: nothing
	reservedMask   = 0x7f00_0000_0000_01ff // of an L1 entry; 0 as yet
	subclusters    = 32

	maxRun = 1024 // units that one MapAt looks at, so that reads of 4 KiB in a large run stay cheap
)

// A mapper maps what one L1 table describes: the disk, a snapshot, or its state.
type mapper struct {
	im   *image
	l1   parse.Table
	base int64 // where the mapper's byte 0 is, in what the L1 table describes
	size int64
	bare formats.Kind // of what is not stored: Parent or Hole
}

// Size implements formats.Mapper.
func (mp *mapper) Size() int64 { return mp.size }

// MapAt implements formats.Mapper.
func (mp *mapper) MapAt(off int64) (formats.Extent, error) {
	if off < 0 || off >= mp.size {
		return formats.Extent{}, io.EOF
	}
	e, err := mp.at(mp.base + off)
	if err != nil {
		return formats.Extent{}, err
	}
	e.Offset -= mp.base // not negative: base is where an L1 entry begins
	e.Length = min(e.Length, mp.size-e.Offset)
	return e, nil
}

// at maps byte off of what the L1 table describes.
func (mp *mapper) at(off int64) (formats.Extent, error) {
	im := mp.im
	covers := im.covers()
	i := off / covers
	v, n, err := mp.l1.Run(i, mp.l1.Count-i, func(v, entry uint64, _ int64) bool {
		return v&offsetMask == 0 && entry&offsetMask == 0
	})
	if err != nil {
		return formats.Extent{}, err
	}
	if v&offsetMask == 0 {
		return formats.Extent{Offset: i * covers, Length: n * covers, Kind: mp.bare}, nil
	}
	host, err := im.l2At(v, mp.l1.Off+8*i)
	if err != nil {
		return formats.Extent{}, err
	}
	l2 := im.table("L2 table", host, im.unit/8)
	words := im.words()
	first, b, err := l2.Page(off % covers / im.unit * words)
	if err != nil {
		return formats.Extent{}, err
	}
	p := page{im: im, b: b, off: host + 8*first, guest: i*covers + first/words*im.unit, words: words,
		step: im.unit, bare: mp.bare}
	if words == 2 {
		p.step /= subclusters
	}
	return p.run(off)
}

// l2At returns where the L2 table of an L1 entry lies, which is at file offset at.
func (im *image) l2At(entry uint64, at int64) (int64, error) {
	host := int64(entry & offsetMask)
	if host%im.unit != 0 {
		return 0, im.m.Corrupt("L1 entry", at, "the L2 table's offset 0x%x is not a multiple of the cluster", host)
	}
	if !im.m.Inside(host, im.unit) {
		return 0, im.m.Corrupt("L1 entry", at, "the L2 table at 0x%x passes end of file at %d", host, im.m.Size())
	}
	if what := im.layout.tableAt(host); what != "" {
		return 0, im.m.Corrupt("L1 entry", at, "the L2 table's offset 0x%x lies in the %s", host, what)
	}
	return host, nil
}

// A page is a part of an L2 table.
type page struct {
	im    *image
	b     []byte
	off   int64 // its file offset
	guest int64 // the first byte that it describes
	words int64
	step  int64 // bytes of a unit: a cluster or subcluster
	bare  formats.Kind
}

// A place says where a unit is.
type place struct {
	kind   formats.Kind
	host   int64
	stored int64
	end    int64 // Data: the file holds no metadata from host to here
}

// at returns the place of unit u of the page. In a run, clear is what place.end
// was before.
func (p *page) at(u, clear int64) (place, error) {
	im := p.im
	per := im.unit / p.step
	k := u / per * p.words
	entry := bigEndian.Uint64(p.b[8*k:])
	at, guest := p.off+8*k, p.guest+u/per*im.unit
	if entry&flagCompressed != 0 {
		return im.compressedAt(entry, at)
	}
	host := int64(entry & offsetMask)
	if host%im.unit != 0 {
		return place{}, im.m.Corrupt("L2 entry", at, "offset 0x%x is not a multiple of the cluster", host)
	}
	stored := host != 0 || im.external && entry&flagCopied != 0
	sub := int64(0)
	if p.words == 2 {
		sub = u % per
		bits := bigEndian.Uint64(p.b[8*k+8:])
		have, zero := uint32(bits), uint32(bits>>32)
		switch {
		case have&zero != 0:
			return place{}, im.m.Corrupt("L2 entry", at, "subclusters that are data and zero: 0x%x", bits)
		case have != 0 && !stored:
			return place{}, im.m.Corrupt("L2 entry", at, "subclusters of no cluster: 0x%x", bits)
		case zero>>sub&1 != 0:
			return place{kind: formats.Zero}, nil
		}
		stored = have>>sub&1 != 0
	} else if entry&flagZero != 0 {
		if im.version < 3 {
			return place{}, im.m.Corrupt("L2 entry", at, "a zero cluster in version %d", im.version)
		}
		return place{kind: formats.Zero}, nil
	}
	if !stored {
		return place{kind: p.bare}, nil
	}
	if host >= clear || host < 0 {
		var err error
		if clear, err = im.clearFrom(host, guest, at); err != nil {
			return place{}, err
		}
	}
	host += sub * p.step
	if host >= im.data.Size() {
		return place{kind: formats.Zero}, nil // the last cluster of a file may be short
	}
	return place{kind: formats.Data, host: host, end: clear}, nil
}

// clearFrom returns up to where the file holds no metadata behind host, where
// the L2 entry at file offset at says that the cluster of guest is.
func (im *image) clearFrom(host, guest, at int64) (int64, error) {
	if host >= im.data.Size() {
		return 0, im.m.Corrupt("L2 entry", at, "data at 0x%x is behind the end of file at %d", host, im.data.Size())
	}
	if im.external {
		if host != guest {
			return 0, im.m.Corrupt("L2 entry", at, "offset 0x%x in the external data file is not the guest's 0x%x", host, guest)
		}
		return host + im.unit, nil
	}
	end, what := im.layout.clear(host)
	if what != "" {
		return 0, im.m.Corrupt("L2 entry", at, "data at 0x%x lies in the %s", host, what)
	}
	return end, nil
}

// compressedAt decodes the entry of a compressed cluster. With x = 70 - bits of
// the cluster, bits 0 to x-1 are the file offset of its first byte, and bits x to
// 61 how many sectors of 512 bytes it takes behind the one of that byte. The last
// may hold bytes of other clusters, and may pass end of file.
func (im *image) compressedAt(entry uint64, at int64) (place, error) {
	if im.external {
		return place{}, im.m.Corrupt("L2 entry", at, "a compressed cluster in an image with an external data file")
	}
	x := 62 - (im.clusterBits - 8)
	host := int64(entry & (1<<x - 1))
	more := int64(entry &^ (3 << 62) >> x)
	n := (more+1)*512 - host%512
	if host >= im.m.Size() {
		return place{}, im.m.Corrupt("L2 entry", at, "a compressed cluster at 0x%x is behind the end of file at %d",
			host, im.m.Size())
	}
	n = min(n, im.m.Size()-host)
	for c := host &^ (im.unit - 1); c < host+n; c += im.unit {
		if _, what := im.layout.clear(c); what != "" {
			return place{}, im.m.Corrupt("L2 entry", at, "a compressed cluster of %d bytes at 0x%x lies in the %s", n,
				host, what)
		}
	}
	return place{kind: formats.Compressed, host: host, stored: n}, nil
}

// run returns the run of units that holds off, as far as the page and maxRun go.
func (p *page) run(off int64) (formats.Extent, error) {
	u := (off - p.guest) / p.step
	first, err := p.at(u, 0)
	if err != nil {
		return formats.Extent{}, err
	}
	e := formats.Extent{Offset: p.guest + u*p.step, Length: p.step, Kind: first.kind, Host: first.host,
		Stored: first.stored}
	if first.kind == formats.Compressed {
		e.Offset, e.Length = p.guest+(off-p.guest)/p.im.unit*p.im.unit, p.im.unit
		return e, nil
	}
	if first.kind == formats.Data {
		if p.im.external {
			e.File = 1
		}
		if rest := p.im.data.Size() - first.host; rest < p.step {
			if off < e.Offset+rest {
				e.Length = rest
				return e, nil
			}
			return formats.Extent{Offset: e.Offset + rest, Length: p.step - rest, Kind: formats.Zero}, nil
		}
	}
	units := int64(len(p.b)) / (8 * p.words) * (p.im.unit / p.step)
	clear := first.end
	for last := min(units, u+maxRun); u+1 < last; {
		u++
		next, err := p.at(u, clear)
		if err != nil || next.kind != first.kind {
			break // the next call says what is there
		}
		if next.kind == formats.Data {
			if next.host != e.Host+e.Length || p.im.data.Size()-next.host < p.step {
				break
			}
			clear = next.end
		}
		e.Length += p.step
	}
	return e, nil
}

// A span is a piece of the file that holds one structure.
type span struct {
	off, end int64
	what     string
}

// String is for errors.
func (s span) String() string { return fmt.Sprintf("%s at 0x%x", s.what, s.off) }
