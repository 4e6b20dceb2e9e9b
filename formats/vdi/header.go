package vdi

import (
	"encoding/binary"
	"encoding/hex"
	"errors"
	"math"
	"strings"
	"unicode"

	"tarvm/formats"
	"tarvm/formats/internal/parse"
)

// Name is qemu's name of the format.
const Name = "vdi"

// All fields are little-endian. The text before the signature differs between
// the programs that write the format and is not looked at.
const (
	offText      = 0  // 64 bytes, for people; ends in a line feed and zeros
	offSignature = 64 // u32, 0xBEDA107F
	offVersion   = 68 // u32, major << 16 | minor

	// Version 1.1.
	offHeaderSize   = 72  // u32, bytes from here on; 384 (qemu, old VirtualBox) or 400
	offType         = 76  // u32, see typeNames
	offFlags        = 80  // u32, bit 0: new blocks are written whole; others are not defined
	offComment      = 84  // 256 bytes, UTF-8, ends in a zero
	offOffBlocks    = 340 // u32, file offset of the map in bytes
	offOffData      = 344 // u32, file offset of the first block in bytes
	offLegacy       = 348 // 16 bytes, geometry, of no meaning but for its sector size at 360
	offDiskSize     = 368 // u64, bytes; need not be a multiple of the block
	offBlockSize    = 376 // u32, bytes, a power of two
	offBlockExtra   = 380 // u32, bytes before the data of each block; 0 everywhere seen
	offBlocks       = 384 // u32, entries of the map
	offAllocated    = 388 // u32, blocks that are in the file
	offCreate       = 392 // UUID of the image
	offModify       = 408 // UUID of its last modification
	offLink         = 424 // UUID of the parent; zero: none
	offParentModify = 440 // UUID of the parent's last modification
	headerEnd       = 72 + 384
	offLCHS         = 456 // u32 each: cylinders, heads, sectors of a track, bytes of a sector
	headerPlusEnd   = 72 + 400

	// Version 0.2. The map follows the header, the blocks follow the map.
	off0Type      = 72  // u32
	off0Flags     = 76  // u32
	off0Comment   = 80  // 256 bytes
	off0DiskSize  = 352 // u64, bytes
	off0BlockSize = 360 // u32, bytes
	off0Blocks    = 364 // u32
	off0Allocated = 368 // u32
	off0Create    = 372 // UUID
	off0Modify    = 388 // UUID
	off0Link      = 404 // UUID of the parent
	header0End    = 420

	signature  = 0xBEDA107F
	version0_2 = 0x00000002
	version1_1 = 0x00010001

	knownFlags = 1
	commentLen = 256
	sector     = 512
)

// Entries of the map that are no block numbers.
const (
	entryFree = 0xFFFFFFFF // not stored: the parent's, or zero
	entryZero = 0xFFFFFFFE // zero, also where there is a parent
)

const (
	typeDynamic = iota + 1
	typeFixed
	typeUndo
	typeDifferencing
)

var typeNames = [...]string{
	typeDynamic: "dynamic", typeFixed: "fixed", typeUndo: "undo", typeDifferencing: "differencing",
}

type uuid [16]byte

// String returns the usual form. The first three fields are stored
// little-endian.
func (u uuid) String() string {
	b := u.swapped()
	var t [36]byte
	hex.Encode(t[:], b[:4])
	t[8], t[13], t[18], t[23] = '-', '-', '-', '-'
	hex.Encode(t[9:], b[4:6])
	hex.Encode(t[14:], b[6:8])
	hex.Encode(t[19:], b[8:10])
	hex.Encode(t[24:], b[10:])
	return string(t[:])
}

// swapped converts between the stored order of bytes and that of the text.
func (u uuid) swapped() uuid {
	u[0], u[1], u[2], u[3] = u[3], u[2], u[1], u[0]
	u[4], u[5] = u[5], u[4]
	u[6], u[7] = u[7], u[6]
	return u
}

// parseUUID reads what String makes.
func parseUUID(s string) (u uuid, err error) {
	if len(s) != 36 || s[8] != '-' || s[13] != '-' || s[18] != '-' || s[23] != '-' {
		return u, errors.New("not a UUID")
	}
	if _, err := hex.Decode(u[:], []byte(strings.ReplaceAll(s, "-", ""))); err != nil {
		return u, errors.New("not a UUID")
	}
	return u.swapped(), nil
}

// pairID is the form of Image.ID and ParentRef.ID; empty when there is none.
func pairID(image, modify uuid) string {
	if image == (uuid{}) {
		return ""
	}
	return image.String() + "/" + modify.String()
}

// header is the fixed part of an image.
type header struct {
	text, comment string
	version       uint32
	headerSize    int64 // 0: version 0.2
	kind          uint32
	flags         uint32
	table         int64 // file offset of the map
	data          int64 // file offset of the first block
	size          int64 // of the disk, bytes
	block         int64 // bytes
	extra         int64 // bytes before each block's data
	blocks        int64 // entries of the map
	allocated     int64
	create        uuid
	modify        uuid
	link          uuid
	parentModify  uuid
	lchs          [4]uint32
	hasLCHS       bool
}

// step is the distance of blocks in the file: less than 2^33.
func (h *header) step() int64 { return h.block + h.extra }

// child reports whether free blocks are the parent's.
func (h *header) child() bool { return h.kind == typeUndo || h.kind == typeDifferencing }

// readHeader reads and checks the header, as far as it gets: kind is set where
// only later fields are wrong.
func readHeader(src formats.Source) (*header, parse.Image, error) {
	m := parse.Image{Source: src, Format: Name}
	b, err := parse.Prefix(src, Name, headerPlusEnd)
	if err != nil {
		return nil, m, err
	}
	le := binary.LittleEndian
	if len(b) < offVersion || le.Uint32(b[offSignature:]) != signature {
		return nil, m, formats.ErrNotFormat
	}
	h := &header{text: text(b[offText:offSignature])}
	if len(b) < header0End {
		return h, m, m.Corrupt("header", 0, "%d bytes, want %d", len(b), headerEnd)
	}
	h.version = le.Uint32(b[offVersion:])
	var size uint64
	at := struct{ kind, size, block, blocks int64 }{offType, offDiskSize, offBlockSize, offBlocks}
	u32 := func(off int64) int64 { return int64(le.Uint32(b[off:])) }
	id := func(off int64) uuid { return uuid(b[off:]) }
	switch h.version {
	case version1_1:
		if len(b) < headerEnd {
			return h, m, m.Corrupt("header", 0, "%d bytes, want %d", len(b), headerEnd)
		}
		if h.headerSize = u32(offHeaderSize); h.headerSize < headerEnd-offHeaderSize {
			return h, m, m.Corrupt("header size", offHeaderSize, "%d", h.headerSize)
		}
		h.flags, h.comment = le.Uint32(b[offFlags:]), text(b[offComment:][:commentLen])
		h.table, h.data, h.extra = u32(offOffBlocks), u32(offOffData), u32(offBlockExtra)
		size, h.block, h.blocks, h.allocated = le.Uint64(b[offDiskSize:]), u32(offBlockSize), u32(offBlocks),
			u32(offAllocated)
		h.create, h.modify, h.link, h.parentModify = id(offCreate), id(offModify), id(offLink), id(offParentModify)
		if h.hasLCHS = h.headerSize >= headerPlusEnd-offHeaderSize && len(b) == headerPlusEnd; h.hasLCHS {
			for i := range h.lchs {
				h.lchs[i] = le.Uint32(b[offLCHS+4*i:])
			}
		}
	case version0_2:
		at.kind, at.size, at.block, at.blocks = off0Type, off0DiskSize, off0BlockSize, off0Blocks
		h.flags, h.comment = le.Uint32(b[off0Flags:]), text(b[off0Comment:][:commentLen])
		size, h.block, h.blocks, h.allocated = le.Uint64(b[off0DiskSize:]), u32(off0BlockSize), u32(off0Blocks),
			u32(off0Allocated)
		h.table, h.data = header0End, header0End+4*h.blocks
		h.create, h.modify, h.link = id(off0Create), id(off0Modify), id(off0Link)
	default:
		return h, m, m.Unsupported("header version", offVersion, "%d.%d", h.version>>16, h.version&0xffff)
	}
	kind := u32(at.kind)
	if kind == 0 || kind >= int64(len(typeNames)) {
		return h, m, m.Unsupported("image type", at.kind, "%d", kind)
	}
	h.kind = uint32(kind)
	switch {
	case size > math.MaxInt64:
		return h, m, m.Corrupt("disk size", at.size, "%d", size)
	case !parse.PowerOfTwo(h.block) || h.block < sector:
		return h, m, m.Corrupt("block size", at.block, "%d", h.block)
	case size > uint64(h.blocks)*uint64(h.block): // below 2^64: both are 32 bit
		return h, m, m.Corrupt("block count", at.blocks, "%d blocks of %d for %d bytes", h.blocks, h.block, size)
	case h.version == version1_1 && h.table < headerEnd || !m.Inside(h.table, h.blocks*4):
		return h, m, m.Corrupt("block table", h.table, "%d entries pass end of file", h.blocks)
	case h.data < h.table+h.blocks*4:
		return h, m, m.Corrupt("data offset", offOffData, "%d is within the block table", h.data)
	}
	h.size = int64(size)
	return h, m, nil
}

// text is what of a field people can read.
func text(b []byte) string {
	s, _, _ := strings.Cut(string(b), "\x00")
	return strings.TrimSpace(strings.Map(func(r rune) rune {
		if r == unicode.ReplacementChar || !unicode.IsPrint(r) {
			return -1
		}
		return r
	}, s))
}

// generic is what all formats say.
func (h *header) generic() formats.Header {
	g := formats.Header{Format: Name, Subformat: typeNames[h.kind], VirtualSize: h.size}
	if h.block == 0 {
		return g
	}
	g.Unit = h.block
	if h.extra == 0 {
		g.Grid = h.data % h.block
	} else {
		g.Grid, g.Stride = h.data+h.extra, h.step()
	}
	return g
}

// Format reads and writes VDI. The zero value is ready.
type Format struct{}

var _ formats.Encoder = Format{}

// Name returns "vdi".
func (Format) Name() string { return Name }

// Probe implements formats.Format. It reads 472 bytes.
func (Format) Probe(src formats.Source) (*formats.Header, error) {
	h, _, err := readHeader(src)
	if h == nil {
		return nil, err
	}
	if err != nil {
		return &formats.Header{Format: Name, Subformat: typeNames[h.kind]}, err
	}
	g := h.generic()
	return &g, nil
}
