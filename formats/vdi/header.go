package vdi

import (
	"encoding/binary"
	"math"

	"tarvm/formats"
	"tarvm/formats/internal/parse"
)

// Name is qemu's name of the format.
const Name = "vdi"

// All fields are little-endian. The text before the signature differs between
// the programs that write the format and is not looked at.
const (
	offSignature  = 64  // u32, 0xBEDA107F
	offVersion    = 68  // u32, major << 16 | minor
	offHeaderSize = 72  // u32, bytes from here on; 384 (qemu) or 400
	offType       = 76  // u32, see typeNames
	offOffBlocks  = 340 // u32, file offset of the block table in bytes
	offOffData    = 344 // u32, file offset of the first block in bytes
	offDiskSize   = 368 // u64, bytes; need not be a multiple of the block
	offBlockSize  = 376 // u32, bytes, a power of two
	offBlockExtra = 380 // u32, bytes before the data of each block; 0 everywhere seen
	offBlocks     = 384 // u32, entries of the block table
	headerEnd     = 72 + 384

	signature  = 0xBEDA107F
	version1_1 = 0x00010001
)

var typeNames = [...]string{1: "dynamic", 2: "fixed", 3: "undo", 4: "differencing"}

// Format recognises VDI. The zero value is ready.
type Format struct{}

// Name returns "vdi".
func (Format) Name() string { return Name }

// Probe implements formats.Format. It reads 456 bytes.
func (Format) Probe(src formats.Source) (*formats.Header, error) {
	b, err := parse.Prefix(src, Name, headerEnd)
	if err != nil {
		return nil, err
	}
	le := binary.LittleEndian
	if len(b) < offVersion || le.Uint32(b[offSignature:]) != signature {
		return nil, formats.ErrNotFormat
	}
	m := parse.Image{Source: src, Format: Name}
	h := &formats.Header{Format: Name}
	if len(b) < headerEnd {
		return h, m.Corrupt("header", 0, "%d bytes, want %d", len(b), headerEnd)
	}
	if v := le.Uint32(b[offVersion:]); v != version1_1 {
		return h, m.Unsupported("header version", offVersion, "%d.%d", v>>16, v&0xffff)
	}
	if n := le.Uint32(b[offHeaderSize:]); n < headerEnd-offHeaderSize {
		return h, m.Corrupt("header size", offHeaderSize, "%d", n)
	}
	t := le.Uint32(b[offType:])
	if t == 0 || int64(t) >= int64(len(typeNames)) {
		return h, m.Unsupported("image type", offType, "%d", t)
	}
	h.Subformat = typeNames[t]

	size := le.Uint64(b[offDiskSize:])
	unit := int64(le.Uint32(b[offBlockSize:]))
	extra := int64(le.Uint32(b[offBlockExtra:]))
	blocks := int64(le.Uint32(b[offBlocks:]))
	table := int64(le.Uint32(b[offOffBlocks:]))
	data := int64(le.Uint32(b[offOffData:]))
	switch {
	case size > math.MaxInt64:
		return h, m.Corrupt("disk size", offDiskSize, "%d", size)
	case !parse.PowerOfTwo(unit) || unit < 512:
		return h, m.Corrupt("block size", offBlockSize, "%d", unit)
	case size > uint64(blocks)*uint64(unit): // below 2^64: both are 32 bit
		return h, m.Corrupt("block count", offBlocks, "%d blocks of %d for %d bytes", blocks, unit, size)
	case table < headerEnd || !m.Inside(table, blocks*4):
		return h, m.Corrupt("block table", table, "%d entries pass end of file", blocks)
	case data < table+blocks*4:
		return h, m.Corrupt("data offset", offOffData, "%d is within the block table", data)
	}
	h.VirtualSize = int64(size)
	h.Unit = unit
	if extra == 0 {
		h.Grid = data % unit
	} else {
		h.Grid = data + extra
		h.Stride = unit + extra
	}
	return h, nil
}
