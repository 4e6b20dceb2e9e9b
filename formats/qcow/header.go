package qcow

import (
	"encoding/binary"
	"math"

	"tarvm/formats"
	"tarvm/formats/internal/parse"
)

// Name is qemu's name of the format.
const Name = "qcow"

// All fields are big-endian.
const (
	magic          = "QFI\xfb\x00\x00\x00\x01" // with u32 version, 1
	offBacking     = 8                         // u64, file offset of the parent's name; 0: none
	offBackingSize = 16                        // u32, bytes of the name, at most 1023
	offTime        = 20                        // u32, seconds since 1970, when the parent was changed; 0: not known
	offSize        = 24                        // u64, guest bytes, more than 1
	offClusterBits = 32                        // u8, 9 to 16
	offL2Bits      = 33                        // u8, an L2 table has 2^n entries; 6 to 13
	offCrypt       = 36                        // u32, 0: none, 1: AES
	offL1          = 40                        // u64, file offset
	headerLen      = 48

	maxBackingName = 1023
)

// Format recognises and opens QCOW. The zero value is ready.
type Format struct{}

// Name returns "qcow".
func (Format) Name() string { return Name }

// Probe implements formats.Format. It reads less than 2 KiB.
func (Format) Probe(src formats.Source) (*formats.Header, error) {
	h, err := readHeader(src)
	if h == nil {
		return nil, err
	}
	return &h.Header, err
}

// A header is what the fixed part of an image says.
type header struct {
	formats.Header
	m      parse.Image
	l2     int64 // entries of an L2 table
	l1     int64 // file offset of the L1 table
	l1Size int64 // entries that the disk needs
	crypt  uint32
	time   uint32
}

func readHeader(src formats.Source) (*header, error) {
	b, err := parse.Prefix(src, Name, headerLen)
	if err != nil {
		return nil, err
	}
	if len(b) < len(magic) || string(b[:len(magic)]) != magic {
		return nil, formats.ErrNotFormat
	}
	m := parse.Image{Source: src, Format: Name}
	h := &header{Header: formats.Header{Format: Name, Subformat: "v1"}, m: m}
	return h, h.read(b)
}

func (h *header) read(b []byte) error {
	m, be := h.m, binary.BigEndian
	if len(b) < headerLen {
		return m.Corrupt("header", 0, "%d bytes, want %d", len(b), headerLen)
	}
	cluster, l2 := b[offClusterBits], b[offL2Bits]
	if cluster < 9 || cluster > 16 {
		return m.Corrupt("cluster size", offClusterBits, "2^%d bytes", cluster)
	}
	if l2 < 6 || l2 > 13 {
		return m.Corrupt("L2 size", offL2Bits, "2^%d entries", l2)
	}
	size := be.Uint64(b[offSize:])
	if size <= 1 || size > math.MaxInt64 {
		return m.Corrupt("disk size", offSize, "%d", size)
	}
	h.VirtualSize, h.Unit, h.l2 = int64(size), 1<<cluster, 1<<l2
	h.crypt, h.time = be.Uint32(b[offCrypt:]), be.Uint32(b[offTime:])
	if err := h.backing(b); err != nil {
		return err
	}
	h.l1Size = (h.VirtualSize-1)>>(cluster+l2) + 1
	at := be.Uint64(b[offL1:])
	if at > math.MaxInt64 || h.l1Size > math.MaxInt64/8 || !m.Inside(int64(at), h.l1Size*8) {
		return m.Corrupt("L1 table", int64(at&math.MaxInt64), "%d entries pass end of file", h.l1Size)
	}
	h.l1 = int64(at)
	return nil
}

// backing reads the parent's name.
func (h *header) backing(b []byte) error {
	off, n := binary.BigEndian.Uint64(b[offBacking:]), int64(binary.BigEndian.Uint32(b[offBackingSize:]))
	switch {
	case off == 0 || n == 0:
		return nil
	case n > maxBackingName:
		return h.m.Corrupt("backing file name", offBackingSize, "%d bytes", n)
	case off > math.MaxInt64:
		return h.m.Corrupt("backing file name", offBacking, "offset 0x%x", off)
	}
	name, err := h.m.Bytes("backing file name", int64(off), n)
	if err == nil {
		h.ParentHint = string(name)
	}
	return err
}
