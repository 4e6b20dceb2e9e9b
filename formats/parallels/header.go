package parallels

import (
	"encoding/binary"
	"fmt"
	"math"
	"strconv"

	"tarvm/formats"
	"tarvm/formats/internal/parse"
)

// All fields are little-endian. A sector has 512 bytes.
const (
	magicOld = "WithoutFreeSpace" // places in sectors, 32-bit disk size
	magicExt = "WithouFreSpacExt" // places in clusters, 64-bit disk size

	offVersion   = 16 // u32, 2
	offHeads     = 20 // u32, geometry
	offCylinders = 24 // u32, geometry
	offTracks    = 28 // u32, sectors of a cluster
	offEntries   = 32 // u32, entries of the table
	offSectors   = 36 // u64, guest sectors; the upper half means nothing in the older one
	offInUse     = 44 // u32, see below
	offData      = 48 // u32, sector of the first cluster; 0: behind the table
	offFlags     = 52 // u32, bit 0: nothing was written yet
	offExt       = 56 // u64, sector of the format extension, a cluster; 0: none
	headerLen    = 64 // the table follows

	inUseOpen   = 0x746F6E59 // a program has it open, or crashed
	inUseClosed = 0x312e3276 // closed by a program that knows the extension
	inUseOld    = 0          // closed by one that does not

	flagEmpty = 1

	sector = 512
)

// header is the fixed part of an image file.
type header struct {
	ext        bool  // the newer magic
	unit       int64 // of a cluster, bytes; less than 2^31
	place      int64 // what an entry of the table counts, bytes
	entries    int64
	size       int64 // of the disk, bytes
	data       int64 // file offset of the first cluster
	extension  int64 // file offset of the format extension; 0: none
	inUse      uint32
	flags      uint32
	heads, cyl uint32
}

// tableEnd is where clusters may begin.
func (h *header) tableEnd() int64 { return headerLen + 4*h.entries }

// isFile reports whether b begins as an image file.
func isFile(b []byte) bool {
	return len(b) >= 16 && (string(b[:16]) == magicOld || string(b[:16]) == magicExt)
}

// readHeader reads and checks the header of an image file.
func readHeader(m parse.Image) (*header, error) {
	b, err := parse.Prefix(m, Name, headerLen)
	if err != nil {
		return nil, err
	}
	if !isFile(b) {
		return nil, formats.ErrNotFormat
	}
	h := &header{ext: string(b[:16]) == magicExt}
	if len(b) < headerLen {
		return h, m.Corrupt("header", 0, "%d bytes, want %d", len(b), headerLen)
	}
	le := binary.LittleEndian
	sectors := le.Uint64(b[offSectors:])
	if !h.ext {
		sectors &= math.MaxUint32
	}
	if v := le.Uint32(b[offVersion:]); v != 2 {
		return h, m.Unsupported("version", offVersion, "%d", v)
	}
	tracks := int64(le.Uint32(b[offTracks:]))
	h.entries = int64(le.Uint32(b[offEntries:]))
	switch {
	case tracks == 0 || tracks > math.MaxInt32/sector:
		return h, m.Corrupt("cluster size", offTracks, "%d sectors", tracks)
	case sectors > math.MaxInt64/sector:
		return h, m.Corrupt("disk size", offSectors, "%d sectors", sectors)
	case sectors > uint64(tracks)*uint64(h.entries):
		return h, m.Corrupt("table size", offEntries, "%d clusters of %d sectors for a disk of %d", h.entries, tracks,
			sectors)
	case !m.Inside(headerLen, h.entries*4):
		return h, m.Corrupt("table", headerLen, "%d entries pass end of file", h.entries)
	}
	h.size, h.unit, h.place = int64(sectors)*sector, tracks*sector, sector
	if h.ext {
		h.place = h.unit
	}
	if h.data = int64(le.Uint32(b[offData:])) * sector; h.data == 0 {
		h.data = (h.tableEnd() + sector - 1) / sector * sector
	}
	h.inUse, h.flags = le.Uint32(b[offInUse:]), le.Uint32(b[offFlags:])
	h.heads, h.cyl = le.Uint32(b[offHeads:]), le.Uint32(b[offCylinders:])
	// Sectors behind any file are reported when the extension is looked for.
	h.extension = int64(min(le.Uint64(b[offExt:]), math.MaxInt64/sector)) * sector
	return h, nil
}

// generic is what all formats say. It reads up to 2 KiB of the table.
func (h *header) generic(m parse.Image) (formats.Header, error) {
	g := formats.Header{Format: Name, Subformat: "v1", VirtualSize: h.size, Unit: h.unit}
	if h.ext {
		g.Subformat = "v2"
		return g, nil
	}
	table, err := m.Bytes("table", headerLen, min(h.entries, parse.Enough)*4)
	if err != nil {
		return g, err
	}
	phase := parse.Phase{Step: h.unit}
	for i := 0; i < len(table); i += 4 {
		// Those that are at fault are for whoever reads them.
		if off := int64(binary.LittleEndian.Uint32(table[i:])) * sector; off >= h.tableEnd() && off < m.Size() {
			phase.Add(off)
		}
	}
	g.Grid = phase.Winner(h.data)
	return g, nil
}

func (h *header) facts() []formats.Fact {
	state := "closed"
	switch h.inUse {
	case inUseOpen:
		state = "open"
	case inUseOld:
		state = "closed by an old program"
	case inUseClosed:
	default:
		state = fmt.Sprintf("0x%x", h.inUse)
	}
	return []formats.Fact{
		{Name: "version", Value: "2"},
		{Name: "cluster size", Value: strconv.FormatInt(h.unit, 10)},
		{Name: "clusters", Value: strconv.FormatInt(h.entries, 10)},
		{Name: "state", Value: state},
		{Name: "data offset", Value: strconv.FormatInt(h.data, 10)},
		{Name: "geometry", Value: fmt.Sprintf("%d cylinders, %d heads", h.cyl, h.heads)},
	}
}
