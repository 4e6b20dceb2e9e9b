package qcow2

import (
	"encoding/binary"
	"math"

	"tarvm/formats"
	"tarvm/formats/internal/parse"
)

// Names that qemu gives to version 1 and to later versions.
const (
	Name   = "qcow2"
	NameV1 = "qcow"
)

// All fields are big-endian. Up to offBackingSize the versions agree.
const (
	offMagic       = 0  // u32, "QFI\xfb"
	offVersion     = 4  // u32, 1, 2 or 3
	offBacking     = 8  // u64, file offset of the parent's name; 0: none
	offBackingSize = 16 // u32, bytes of the name, at most 1023

	offClusterBits  = 20 // u32, 9 to 21
	offSize         = 24 // u64, guest bytes
	offL1Size       = 36 // u32, entries of 8 bytes
	offL1           = 40 // u64, file offset, a multiple of the cluster
	offIncompatible = 72 // u64, version 3: features that a reader must know
	offHeaderLength = 100
	headerV2        = 72
	headerV3        = 104

	offV1ClusterBits = 32 // u8, 9 to 16
	offV1L2Bits      = 33 // u8, entries of an L2 table; 6 to 13
	offV1L1          = 40 // u64, file offset
	headerV1         = 48

	incompatExternalData = 1 << 2
	incompatExtendedL2   = 1 << 4
	incompatKnown        = 1<<5 - 1 // dirty, corrupt, external data, compression type, extended L2

	maxBackingName = 1023
	maxL1          = 32 << 20 // bytes, qemu's QCOW_MAX_L1_SIZE
)

const magic = "QFI\xfb"

// Format recognises QCOW2 and QCOW. The zero value is ready.
type Format struct{}

// Name returns "qcow2".
func (Format) Name() string { return Name }

// Probe implements formats.Format. It reads the header and the backing file's
// name, less than 2 KiB. A version 1 image gives a Header of Format "qcow".
//
// An image whose guest data is in an external file has Unit 0: its clusters
// are not in this one.
func (Format) Probe(src formats.Source) (*formats.Header, error) {
	b, err := parse.Prefix(src, Name, headerV3)
	if err != nil {
		return nil, err
	}
	if len(b) < 4 || string(b[:4]) != magic {
		return nil, formats.ErrNotFormat
	}
	m := parse.Image{Source: src, Format: Name}
	h := &formats.Header{Format: Name}
	if len(b) < offBacking {
		return h, m.Corrupt("header", 0, "%d bytes", len(b))
	}
	be := binary.BigEndian
	switch v := be.Uint32(b[offVersion:]); v {
	case 1:
		m.Format, h.Format, h.Subformat = NameV1, NameV1, "v1"
		return h, probeV1(m, h, b)
	case 2:
		h.Subformat = "v2"
		return h, probeV2(m, h, b, headerV2)
	case 3:
		h.Subformat = "v3"
		return h, probeV2(m, h, b, headerV3)
	default:
		return h, m.Unsupported("version", offVersion, "%d", v)
	}
}

// probeV2 fills h from the header b of a version 2 or 3 image, whose fixed part
// has want bytes.
func probeV2(m parse.Image, h *formats.Header, b []byte, want int) error {
	be := binary.BigEndian
	if len(b) < want {
		return m.Corrupt("header", 0, "%d bytes, want %d", len(b), want)
	}
	bits := be.Uint32(b[offClusterBits:])
	if bits < 9 || bits > 21 {
		return m.Corrupt("cluster size", offClusterBits, "2^%d bytes", bits)
	}
	unit := int64(1) << bits
	entry := int64(8) // bytes of an L2 entry
	var incompat uint64
	if want == headerV3 {
		incompat = be.Uint64(b[offIncompatible:])
		if n := be.Uint32(b[offHeaderLength:]); n < headerV3 || int64(n) > unit {
			return m.Corrupt("header length", offHeaderLength, "%d", n)
		}
		if incompat&incompatExtendedL2 != 0 {
			if bits < 14 {
				return m.Corrupt("cluster size", offClusterBits, "2^%d bytes with subclusters", bits)
			}
			entry = 16
		}
	}
	size := be.Uint64(b[offSize:])
	if size > math.MaxInt64 {
		return m.Corrupt("disk size", offSize, "%d", size)
	}
	h.VirtualSize = int64(size)
	if incompat&incompatExternalData == 0 {
		h.Unit = unit
	}
	if err := backing(m, h, b); err != nil {
		return err
	}
	if unknown := incompat &^ incompatKnown; unknown != 0 {
		return m.Unsupported("incompatible features", offIncompatible, "unknown bits 0x%x", unknown)
	}

	covers := uint64(unit) * uint64(unit/entry) // guest bytes of an L1 entry, at most 2^39
	l1 := uint64(be.Uint32(b[offL1Size:]))
	at := be.Uint64(b[offL1:])
	switch {
	case l1*8 > maxL1:
		return m.Corrupt("L1 size", offL1Size, "%d entries", l1)
	case size > 0 && (size-1)/covers >= l1:
		return m.Corrupt("L1 size", offL1Size, "%d entries for a disk of %d bytes", l1, size)
	case at%uint64(unit) != 0:
		return m.Corrupt("L1 offset", offL1, "0x%x is not a multiple of the cluster", at)
	case at > math.MaxInt64 || !m.Inside(int64(at), int64(l1)*8):
		return m.Corrupt("L1 table", int64(at&math.MaxInt64), "%d entries pass end of file", l1)
	}
	return nil
}

func probeV1(m parse.Image, h *formats.Header, b []byte) error {
	be := binary.BigEndian
	if len(b) < headerV1 {
		return m.Corrupt("header", 0, "%d bytes, want %d", len(b), headerV1)
	}
	cb, l2 := b[offV1ClusterBits], b[offV1L2Bits]
	if cb < 9 || cb > 16 {
		return m.Corrupt("cluster size", offV1ClusterBits, "2^%d bytes", cb)
	}
	if l2 < 6 || l2 > 13 {
		return m.Corrupt("L2 size", offV1L2Bits, "2^%d entries", l2)
	}
	size := be.Uint64(b[offSize:])
	if size <= 1 || size > math.MaxInt64 {
		return m.Corrupt("disk size", offSize, "%d", size)
	}
	h.VirtualSize = int64(size)
	h.Unit = 1 << cb
	if err := backing(m, h, b); err != nil {
		return err
	}
	l1 := (size-1)>>(cb+l2) + 1
	at := be.Uint64(b[offV1L1:])
	if at > math.MaxInt64 || l1 > math.MaxInt64/8 || !m.Inside(int64(at), int64(l1)*8) {
		return m.Corrupt("L1 table", int64(at&math.MaxInt64), "%d entries pass end of file", l1)
	}
	return nil
}

// backing reads the parent's name into h.
func backing(m parse.Image, h *formats.Header, b []byte) error {
	off := binary.BigEndian.Uint64(b[offBacking:])
	n := binary.BigEndian.Uint32(b[offBackingSize:])
	if off == 0 || n == 0 {
		return nil
	}
	if n > maxBackingName {
		return m.Corrupt("backing file name", offBackingSize, "%d bytes", n)
	}
	if off > math.MaxInt64 {
		return m.Corrupt("backing file name", offBacking, "offset 0x%x", off)
	}
	name, err := m.Bytes("backing file name", int64(off), int64(n))
	if err != nil {
		return err
	}
	h.ParentHint = string(name)
	return nil
}
