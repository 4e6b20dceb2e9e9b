package vhd

import (
	"encoding/binary"
	"fmt"
	"math"
	"slices"
	"unicode/utf16"

	"tarvm/formats"
	"tarvm/formats/internal/parse"
)

// Name is qemu's name of the format.
const Name = "vpc"

const (
	sector    = 512
	footerLen = 512
	headerLen = 1024

	cookie       = "conectix"
	headerCookie = "cxsparse"
	version1     = 0x00010000
	absent       = 0xFFFFFFFF // BAT entry: block not in the file
)

// Fields of the footer, big-endian.
const (
	offVersion     = 12 // u32, 0x00010000
	offDataOffset  = 16 // u64, file offset of the header; fixed: all ones
	offCreator     = 28 // 4 bytes, the program
	offCurrentSize = 48 // u64, guest bytes
	offCylinders   = 56 // u16
	offHeads       = 58 // u8
	offSectors     = 59 // u8, per track
	offType        = 60 // u32, see below
	offChecksum    = 64 // u32, ones' complement of the sum of all other bytes

	typeFixed        = 2
	typeDynamic      = 3
	typeDifferencing = 4
)

// Fields of the header, big-endian.
const (
	offTable          = 16 // u64, file offset of the BAT in bytes
	offHeaderVersion  = 24 // u32, 0x00010000
	offEntries        = 28 // u32, entries of the BAT
	offBlockSize      = 32 // u32, bytes of data in a block, a power of two
	offHeaderChecksum = 36 // u32, as in the footer
	offParentName     = 64 // UTF-16BE, ends at NUL
	parentNameLen     = 512
)

// Format recognises VHD. The zero value is ready.
type Format struct{}

// Name returns "vpc".
func (Format) Name() string { return Name }

// Probe implements formats.Format. It reads the last and the first sector, and
// of a disk that is not fixed the header and at most 1 MiB of the BAT.
//
// The Header of such a disk has Stride set: a bitmap precedes each block.
func (Format) Probe(src formats.Source) (*formats.Header, error) {
	m := parse.Image{Source: src, Format: Name}
	n := min(footerLen, max(src.Size(), 0))
	tail, err := m.Bytes("footer", max(src.Size(), 0)-n, n)
	if err != nil {
		return nil, err
	}
	tailAt := src.Size() - n
	switch { // old Virtual PC wrote 511 bytes
	case hasCookie(tail, 0):
	case hasCookie(tail, 1):
		tail, tailAt = tail[1:], tailAt+1
	default:
		tail = nil
	}
	if tail != nil && len(tail) >= footerLen-1 && checksum(tail, offChecksum) == nil {
		h := &formats.Header{Format: Name}
		return h, probe(m, h, tail, tailAt, tailAt)
	}
	head, err := parse.Prefix(src, Name, footerLen)
	if err != nil {
		return nil, err
	}
	h := &formats.Header{Format: Name}
	switch {
	case hasCookie(head, 0) && len(head) < footerLen:
		return h, m.Corrupt("footer", 0, "%d bytes, want %d", len(head), footerLen)
	case hasCookie(head, 0) && checksum(head, offChecksum) == nil:
		return h, probe(m, h, head, 0, src.Size())
	case hasCookie(head, 0):
		return h, m.Corrupt("footer copy", 0, "%v", checksum(head, offChecksum))
	case tail != nil:
		return h, m.Corrupt("footer", tailAt, "%v", checksum(tail, offChecksum))
	}
	return nil, formats.ErrNotFormat
}

func hasCookie(b []byte, at int) bool {
	return len(b) >= at+len(cookie) && string(b[at:at+len(cookie)]) == cookie
}

// probe fills h from the footer f found at byte at; guest data and structures
// end at byte end.
func probe(m parse.Image, h *formats.Header, f []byte, at, end int64) error {
	be := binary.BigEndian
	if v := be.Uint32(f[offVersion:]); v != version1 {
		return m.Unsupported("footer version", at+offVersion, "0x%x", v)
	}
	size, ok := diskSize(f)
	if !ok {
		return m.Corrupt("disk size", at+offCurrentSize, "%d", be.Uint64(f[offCurrentSize:]))
	}
	h.VirtualSize = size
	switch t := be.Uint32(f[offType:]); t {
	case typeFixed:
		h.Subformat = "fixed"
		if at == 0 && end == m.Size() {
			return m.Corrupt("footer", end, "only a copy at the start of a fixed disk")
		}
		if size > end {
			return m.Corrupt("disk size", at+offCurrentSize, "%d bytes, the file has %d", size, end)
		}
		return nil
	case typeDynamic:
		h.Subformat = "dynamic"
	case typeDifferencing:
		h.Subformat = "differencing"
	default:
		return m.Unsupported("disk type", at+offType, "%d", t)
	}
	// The next block to be added takes the footer's place.
	next := int64(-1)
	if at > 0 {
		next = at
	}
	return probeHeader(m, h, be.Uint64(f[offDataOffset:]), next)
}

// probeHeader fills h from the header at byte at64; next is where a block will
// be added, negative if that is not known.
func probeHeader(m parse.Image, h *formats.Header, at64 uint64, next int64) error {
	be := binary.BigEndian
	if at64 > math.MaxInt64 {
		return m.Corrupt("header", -1, "at 0x%x", at64)
	}
	at := int64(at64)
	b, err := m.Bytes("header", at, headerLen)
	if err != nil {
		return err
	}
	if string(b[:len(headerCookie)]) != headerCookie {
		return m.Corrupt("header", at, "cookie %q", b[:len(headerCookie)])
	}
	if err := checksum(b, offHeaderChecksum); err != nil {
		return m.Corrupt("header", at, "%v", err)
	}
	if v := be.Uint32(b[offHeaderVersion:]); v != version1 {
		return m.Unsupported("header version", at+offHeaderVersion, "0x%x", v)
	}
	h.ParentHint = parentName(b[offParentName : offParentName+parentNameLen])
	unit := int64(be.Uint32(b[offBlockSize:]))
	entries := int64(be.Uint32(b[offEntries:]))
	table64 := be.Uint64(b[offTable:])
	switch {
	case !parse.PowerOfTwo(unit) || unit < sector:
		return m.Corrupt("block size", at+offBlockSize, "%d", unit)
	case table64 > math.MaxInt64 || !m.Inside(int64(table64), entries*4):
		return m.Corrupt("BAT", int64(table64&math.MaxInt64), "%d entries pass end of file", entries)
	case h.VirtualSize > 0 && (h.VirtualSize-1)/unit >= entries:
		return m.Corrupt("BAT size", at+offEntries, "%d entries for a disk of %d bytes", entries, h.VirtualSize)
	}
	table := int64(table64)
	bat, err := m.Bytes("BAT", table, min(entries*4, parse.Limit))
	if err != nil {
		return err
	}
	bitmap := (unit/sector + 8*sector - 1) / (8 * sector) * sector
	var data []int64
	for i := 0; i < len(bat); i += 4 {
		e := be.Uint32(bat[i:])
		if e == absent {
			continue
		}
		off := int64(e)*sector + bitmap
		if off >= m.Size() {
			return m.Corrupt("BAT", table+int64(i), "block at 0x%x is past end of file", off)
		}
		data = append(data, off)
	}
	h.Unit = unit
	metaEnd := max(at+headerLen, (table+entries*4+sector-1)/sector*sector)
	if next >= metaEnd && len(bat) == int(entries*4) {
		data = append(data, next+bitmap)
	}
	h.Grid, h.Stride = layout(data, unit, bitmap, metaEnd)
	return nil
}

// layout says where blocks lie, given the file offsets of the data of some, and
// the end of what precedes them all. Writers put blocks one behind the other;
// Hyper-V pads the bitmap so that data is aligned to 4 KiB.
func layout(data []int64, unit, bitmap, metaEnd int64) (grid, stride int64) {
	slices.Sort(data)
	stride = unit + bitmap
	most := 0
	gaps := make(map[int64]int)
	for i := 1; i < len(data); i++ {
		// Distances that do not leave room for a block come from a damaged
		// table, and large ones from blocks that are not in data.
		d := data[i] - data[i-1]
		if d < unit+bitmap || d >= 2*unit {
			continue
		}
		gaps[d]++
		if gaps[d] > most || gaps[d] == most && d < stride {
			stride, most = d, gaps[d]
		}
	}
	phase := parse.Phase{Step: stride}
	for _, d := range data {
		phase.Add(d)
	}
	grid = phase.Winner(metaEnd + bitmap)
	// The smallest offset of that phase that leaves room for what precedes it.
	if least := metaEnd + bitmap; grid < least {
		grid += (least - grid + stride - 1) / stride * stride
	}
	return grid, stride
}

// diskSize is the size of the guest's disk. Virtual PC and programs that follow
// it present cylinders * heads * sectors, unless that is the largest geometry;
// the others present the current size.
func diskSize(f []byte) (int64, bool) {
	be := binary.BigEndian
	const largest = 65535 * 16 * 255
	chs := int64(be.Uint16(f[offCylinders:])) * int64(f[offHeads]) * int64(f[offSectors])
	switch string(f[offCreator : offCreator+4]) {
	case "vpc ", "vs  ", "qemu":
		if chs > 0 && chs != largest {
			return chs * sector, true
		}
	}
	n := be.Uint64(f[offCurrentSize:])
	return int64(n & math.MaxInt64), n <= math.MaxInt64
}

// parentName decodes b up to the first NUL.
func parentName(b []byte) string {
	u := make([]uint16, 0, len(b)/2)
	for i := 0; i+1 < len(b); i += 2 {
		c := binary.BigEndian.Uint16(b[i:])
		if c == 0 {
			break
		}
		u = append(u, c)
	}
	return string(utf16.Decode(u))
}

// checksumError is a checksum that does not fit the bytes.
type checksumError struct{ want, got uint32 }

func (e checksumError) Error() string {
	return fmt.Sprintf("checksum 0x%08x, the bytes give 0x%08x", e.got, e.want)
}

// checksum compares the u32 at off with the other bytes of b.
func checksum(b []byte, off int) error {
	var sum uint32
	for i, c := range b {
		if i < off || i >= off+4 {
			sum += uint32(c)
		}
	}
	if got := binary.BigEndian.Uint32(b[off:]); got != ^sum {
		return checksumError{^sum, got}
	}
	return nil
}
