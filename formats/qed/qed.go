// Package qed reads and checks QEMU Enhanced Disk images, which no program has
// written by default for years but which old VMs still have.
//
// Source: QEMU, docs/interop/qed_spec.txt, and where that is silent block/qed.c.
// Guest data lies in clusters that are aligned to the start of the file. An L1
// table names L2 tables, whose entries name clusters; both have the same size.
//
// Covered: parents, zero clusters, images that were not closed.
// Refused: unknown incompatible features.
//
// Security: all offsets are checked before use, and tables are read by pages of
// 64 KiB. A cluster that lies in the header or in a table, or is not wholly in the
// file, is corrupt. A check keeps a bit for each cluster of the file, at most
// 512 MiB. The backing file's name is untrusted and returned as stored.
package qed

import (
	"encoding/binary"
	"math"

	"tarvm/formats"
	"tarvm/formats/internal/parse"
)

// Name is qemu's name of the format.
const Name = "qed"

// All fields are little-endian.
const (
	magic          = "QED\x00"
	offCluster     = 4  // u32, bytes, a power of two, 4 KiB to 64 MiB
	offTable       = 8  // u32, clusters of an L1 or L2 table, a power of two, 1 to 16
	offHeader      = 12 // u32, clusters of the header
	offFeatures    = 16 // u64, see below
	offL1          = 40 // u64, file offset in bytes
	offSize        = 48 // u64, guest bytes
	offBacking     = 56 // u32, file offset of the parent's name
	offBackingSize = 60 // u32, bytes of the name
	headerLen      = 64

	featureBacking = 1 << 0 // there is a parent
	featureCheck   = 1 << 1 // the image was not closed
	featureRaw     = 1 << 2 // the parent is raw, and must not be probed
	featureKnown   = 1<<3 - 1

	maxBackingName = 1023
)

// Format recognises and opens QED. The zero value is ready.
type Format struct{}

// Name returns "qed".
func (Format) Name() string { return Name }

// Probe implements formats.Format. It reads less than 2 KiB.
func (Format) Probe(src formats.Source) (*formats.Header, error) {
	b, err := parse.Prefix(src, Name, headerLen)
	if err != nil {
		return nil, err
	}
	if len(b) < 4 || string(b[:4]) != magic {
		return nil, formats.ErrNotFormat
	}
	m := parse.Image{Source: src, Format: Name}
	h := &formats.Header{Format: Name}
	return h, probe(m, h, b)
}

func probe(m parse.Image, h *formats.Header, b []byte) error {
	le := binary.LittleEndian
	if len(b) < headerLen {
		return m.Corrupt("header", 0, "%d bytes, want %d", len(b), headerLen)
	}
	unit := int64(le.Uint32(b[offCluster:]))
	table := int64(le.Uint32(b[offTable:]))
	header := int64(le.Uint32(b[offHeader:]))
	features := le.Uint64(b[offFeatures:])
	size := le.Uint64(b[offSize:])
	l1 := le.Uint64(b[offL1:])
	switch {
	case !parse.PowerOfTwo(unit) || unit < 4<<10 || unit > 64<<20:
		return m.Corrupt("cluster size", offCluster, "%d", unit)
	case !parse.PowerOfTwo(table) || table > 16:
		return m.Corrupt("table size", offTable, "%d clusters", table)
	case size > math.MaxInt64:
		return m.Corrupt("disk size", offSize, "%d", size)
	case header == 0 || !m.Inside(0, header*unit):
		return m.Corrupt("header size", offHeader, "%d clusters pass end of file", header)
	}
	h.VirtualSize = int64(size)
	h.Unit = unit
	if features&featureBacking != 0 {
		off, n := int64(le.Uint32(b[offBacking:])), int64(le.Uint32(b[offBackingSize:]))
		if n > maxBackingName || off+n > header*unit {
			return m.Corrupt("backing file name", offBacking, "%d bytes at %d", n, off)
		}
		name, err := m.Bytes("backing file name", off, n)
		if err != nil {
			return err
		}
		h.ParentHint = string(name)
	}
	if unknown := features &^ featureKnown; unknown != 0 {
		return m.Unsupported("features", offFeatures, "unknown bits 0x%x", unknown)
	}
	if l1%uint64(unit) != 0 || l1 > math.MaxInt64 || !m.Inside(int64(l1), table*unit) {
		return m.Corrupt("L1 table", int64(l1&math.MaxInt64), "%d bytes pass end of file", table*unit)
	}
	return nil
}
