// Package parallels recognises Parallels disk images (.hds, .hdd).
//
// Source: QEMU, docs/interop/parallels.txt and block/parallels.c. A header, a
// table of 32-bit cluster places, then clusters. The older magic counts places
// in sectors, so that clusters may lie anywhere; the newer one counts in
// clusters, so that they are aligned to the start of the file.
//
// Covered: both magics, any cluster size (63-sector clusters exist), images
// left open. Bundles with a DiskDescriptor.xml consist of such images.
//
// Security: counts are checked against the file; at most 2 KiB of the table are
// read.
package parallels

import (
	"encoding/binary"
	"math"

	"tarvm/formats"
	"tarvm/formats/internal/parse"
)

// Name is qemu's name of the format.
const Name = "parallels"

// All fields are little-endian. A sector has 512 bytes.
const (
	magicOld = "WithoutFreeSpace" // places in sectors, 32-bit disk size
	magicExt = "WithouFreSpacExt" // places in clusters, 64-bit disk size

	offVersion = 16 // u32, 2
	offTracks  = 28 // u32, sectors of a cluster
	offEntries = 32 // u32, entries of the table
	offSectors = 36 // u64, guest sectors; the upper half means nothing in the older one
	offData    = 48 // u32, sector of the first cluster; 0: behind the table
	headerLen  = 64 // the table follows

	sector = 512
)

// Format recognises Parallels images. The zero value is ready.
type Format struct{}

// Name returns "parallels".
func (Format) Name() string { return Name }

// Probe implements formats.Format. It reads the header and up to 2 KiB of the
// table.
func (Format) Probe(src formats.Source) (*formats.Header, error) {
	b, err := parse.Prefix(src, Name, headerLen)
	if err != nil {
		return nil, err
	}
	if len(b) < 16 || string(b[:16]) != magicOld && string(b[:16]) != magicExt {
		return nil, formats.ErrNotFormat
	}
	m := parse.Image{Source: src, Format: Name}
	h := &formats.Header{Format: Name}
	return h, probe(m, h, b)
}

func probe(m parse.Image, h *formats.Header, b []byte) error {
	if len(b) < headerLen {
		return m.Corrupt("header", 0, "%d bytes, want %d", len(b), headerLen)
	}
	le := binary.LittleEndian
	ext := string(b[:16]) == magicExt
	h.Subformat = "v1"
	sectors := le.Uint64(b[offSectors:])
	if ext {
		h.Subformat = "v2"
	} else {
		sectors &= math.MaxUint32
	}
	if v := le.Uint32(b[offVersion:]); v != 2 {
		return m.Unsupported("version", offVersion, "%d", v)
	}
	tracks := int64(le.Uint32(b[offTracks:]))
	entries := int64(le.Uint32(b[offEntries:]))
	switch {
	case tracks == 0 || tracks > math.MaxInt32/sector:
		return m.Corrupt("cluster size", offTracks, "%d sectors", tracks)
	case sectors > math.MaxInt64/sector:
		return m.Corrupt("disk size", offSectors, "%d sectors", sectors)
	case sectors > uint64(tracks)*uint64(entries):
		return m.Corrupt("table size", offEntries, "%d clusters of %d sectors for a disk of %d", entries, tracks, sectors)
	case !m.Inside(headerLen, entries*4):
		return m.Corrupt("table", headerLen, "%d entries pass end of file", entries)
	}
	h.VirtualSize = int64(sectors) * sector
	h.Unit = tracks * sector
	if ext {
		return nil
	}
	first := int64(le.Uint32(b[offData:])) * sector
	if first == 0 {
		first = (headerLen + entries*4 + sector - 1) / sector * sector
	}
	table, err := m.Bytes("table", headerLen, min(entries, parse.Enough)*4)
	if err != nil {
		return err
	}
	phase := parse.Phase{Step: h.Unit}
	for i := 0; i < len(table); i += 4 {
		off := int64(le.Uint32(table[i:])) * sector
		if off == 0 {
			continue
		}
		if off >= m.Size() {
			return m.Corrupt("table", headerLen+int64(i), "cluster at 0x%x is past end of file", off)
		}
		phase.Add(off)
	}
	h.Grid = phase.Winner(first)
	return nil
}
