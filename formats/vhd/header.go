package vhd

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"math"
	"slices"
	"time"

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
	noOffset     = math.MaxUint64
)

// Fields of the footer, big-endian.
const (
	offFeatures       = 8  // u32, bit 1 is always set
	offVersion        = 12 // u32, 0x00010000
	offDataOffset     = 16 // u64, file offset of the header; fixed: all ones
	offTime           = 24 // u32, seconds since epoch
	offCreator        = 28 // 4 bytes, the program
	offCreatorVersion = 32 // u16 major, u16 minor
	offCreatorOS      = 36 // 4 bytes, Wi2k or Mac
	offOriginalSize   = 40 // u64, guest bytes when the disk was made
	offCurrentSize    = 48 // u64, guest bytes
	offCylinders      = 56 // u16
	offHeads          = 58 // u8
	offSectors        = 59 // u8, per track
	offType           = 60 // u32, see below
	offChecksum       = 64 // u32, ones' complement of the sum of all other bytes
	offID             = 68 // 16 bytes, UUID of this image
	offSaved          = 84 // u8, 1: the VM is suspended

	typeFixed        = 2
	typeDynamic      = 3
	typeDifferencing = 4
)

// epoch is 2000-01-01 00:00 UTC, where times count from, in seconds since 1970.
const epoch = 946684800

// Fields of the header, big-endian.
const (
	offHeaderNext     = 8   // u64, not used, all ones
	offTable          = 16  // u64, file offset of the BAT in bytes
	offHeaderVersion  = 24  // u32, 0x00010000
	offEntries        = 28  // u32, entries of the BAT
	offBlockSize      = 32  // u32, bytes of data in a block, a power of two
	offHeaderChecksum = 36  // u32, as in the footer
	offParentID       = 40  // 16 bytes, UUID in the parent's footer
	offParentTime     = 56  // u32, seconds since epoch; Windows leaves 0
	offParentName     = 64  // UTF-16BE, ends at NUL
	offLocators       = 576 // 8 parent locators

	parentNameLen = 512
	locators      = 8
	locatorLen    = 24
)

// Format recognises, opens and writes VHD. The zero value is ready.
type Format struct{}

// Name returns "vpc".
func (Format) Name() string { return Name }

// A file is what the fixed structures say.
type file struct {
	m        parse.Image
	footer   []byte // the one that is used, 512 or 511 bytes
	footerAt int64  // where it is
	end      int64  // structures and guest data end here: at the footer, or where it should be
	tail     string // why the footer at the end is not the one that is used; empty: it is
	tailAt   int64  // where the footer at the end is, or should be
	kind     uint32 // typeFixed ...
	size     int64  // guest's disk in bytes

	// Not of a fixed disk.
	header   []byte
	headerAt int64
	table    int64 // file offset of the BAT in bytes
	entries  int64 // of the BAT
	unit     int64 // bytes of data in a block
	bitmap   int64 // bytes of the bitmap that precedes them
}

// tableEnd is where the BAT ends, which is padded to a sector.
func (f *file) tableEnd() int64 { return (f.table + f.entries*4 + sector - 1) / sector * sector }

// read reads the footer, and the header if there is one. Its Header holds what
// was known when an error came; it is nil for ErrNotFormat and when the medium
// failed before the magic was seen.
func read(src formats.Source) (*file, *formats.Header, error) {
	m := parse.Image{Source: src, Format: Name}
	size := max(src.Size(), 0)
	n := min(footerLen, size)
	tail, err := m.Bytes("footer", size-n, n)
	if err != nil {
		return nil, nil, err
	}
	f := &file{m: m, tailAt: size - n}
	switch {
	case nearCookie(tail, 0):
	case nearCookie(tail, 1): // old Virtual PC wrote 511 bytes
		tail, f.tailAt = tail[1:], f.tailAt+1
	default:
		tail, f.tail = nil, "there is none"
	}
	if tail != nil {
		if !hasCookie(tail) {
			f.tail = fmt.Sprintf("cookie %q", tail[:len(cookie)])
		} else if len(tail) < footerLen-1 {
			f.tail = fmt.Sprintf("%d bytes, want %d", len(tail), footerLen)
		} else if err := checksum(tail, offChecksum); err != nil {
			f.tail = err.Error()
		} else {
			h := &formats.Header{Format: Name}
			f.footer, f.footerAt, f.end = tail, f.tailAt, f.tailAt
			return f, h, f.parse(h)
		}
	}
	head, err := parse.Prefix(src, Name, footerLen)
	if err != nil {
		return nil, nil, err
	}
	h := &formats.Header{Format: Name}
	switch {
	case hasCookie(head) && len(head) < footerLen:
		return nil, h, m.Corrupt("footer", 0, "%d bytes, want %d", len(head), footerLen)
	case hasCookie(head) && checksum(head, offChecksum) != nil:
		return nil, h, m.Corrupt("footer copy", 0, "%v", checksum(head, offChecksum))
	case tail != nil && (!hasCookie(head) || saysFixed(tail)):
		// A fixed disk begins with the guest's bytes, whatever they look like.
		return nil, h, m.Corrupt("footer", f.tailAt, "%s", f.tail)
	case !hasCookie(head):
		return nil, nil, formats.ErrNotFormat
	}
	f.footer, f.footerAt, f.end = head, 0, size
	if tail != nil {
		f.end = f.tailAt
	}
	return f, h, f.parse(h)
}

func hasCookie(b []byte) bool {
	return len(b) >= len(cookie) && string(b[:len(cookie)]) == cookie
}

// nearCookie reports whether most of a cookie is at b[at:]: a footer that is
// damaged there is still one, and must not be taken for the guest's.
func nearCookie(b []byte, at int) bool {
	if len(b) < at+len(cookie) {
		return false
	}
	like := 0
	for i := range len(cookie) {
		if b[at+i] == cookie[i] {
			like++
		}
	}
	return like >= len(cookie)-2
}

// saysFixed reports whether a footer, which may be damaged, is that of a fixed
// disk. The type does not tell: a single bit makes one of another.
func saysFixed(b []byte) bool {
	return len(b) >= offTime && bytes.Count(b[offDataOffset:offTime], []byte{0xff}) >= 4
}

// parse reads what the footer says and names, and fills h.
func (f *file) parse(h *formats.Header) error {
	be := binary.BigEndian
	if v := be.Uint32(f.footer[offVersion:]); v != version1 {
		return f.m.Unsupported("footer version", f.footerAt+offVersion, "0x%x", v)
	}
	size, ok := diskSize(f.footer)
	if !ok {
		return f.m.Corrupt("disk size", f.footerAt+offCurrentSize, "%d", be.Uint64(f.footer[offCurrentSize:]))
	}
	f.size, h.VirtualSize = size, size
	f.kind = be.Uint32(f.footer[offType:])
	if h.Subformat = subformat(f.kind); h.Subformat == "" {
		return f.m.Unsupported("disk type", f.footerAt+offType, "%d", f.kind)
	}
	if f.kind == typeFixed {
		if f.tail != "" {
			return f.m.Corrupt("footer", f.tailAt, "only a copy at the start of a fixed disk")
		}
		if size > f.end {
			return f.m.Corrupt("disk size", f.footerAt+offCurrentSize, "%d bytes, the file has %d", size, f.end)
		}
		return nil
	}
	return f.parseHeader(h)
}

// subformat is the name of a type; empty if it is not known.
func subformat(kind uint32) string {
	switch kind {
	case typeFixed:
		return "fixed"
	case typeDynamic:
		return "dynamic"
	case typeDifferencing:
		return "differencing"
	}
	return ""
}

// parseHeader reads the header and checks where the BAT is.
func (f *file) parseHeader(h *formats.Header) error {
	be, m := binary.BigEndian, f.m
	at64 := be.Uint64(f.footer[offDataOffset:])
	if at64 > math.MaxInt64 {
		return m.Corrupt("header", -1, "at 0x%x", at64)
	}
	at := int64(at64)
	b, err := m.Bytes("header", at, headerLen)
	if err != nil {
		return err
	}
	switch {
	case at < footerLen:
		return m.Corrupt("header", at, "it begins in the footer's copy")
	case at > f.end-headerLen:
		return m.Corrupt("header", at, "it reaches into the footer")
	case string(b[:len(headerCookie)]) != headerCookie:
		return m.Corrupt("header", at, "cookie %q", b[:len(headerCookie)])
	}
	if err := checksum(b, offHeaderChecksum); err != nil {
		return m.Corrupt("header", at, "%v", err)
	}
	if v := be.Uint32(b[offHeaderVersion:]); v != version1 {
		return m.Unsupported("header version", at+offHeaderVersion, "0x%x", v)
	}
	h.ParentHint = parentName(b[offParentName : offParentName+parentNameLen])
	f.header, f.headerAt = b, at
	f.unit = int64(be.Uint32(b[offBlockSize:]))
	f.entries = int64(be.Uint32(b[offEntries:]))
	table64 := be.Uint64(b[offTable:])
	f.table = int64(table64 & math.MaxInt64)
	switch {
	case !parse.PowerOfTwo(f.unit) || f.unit < sector:
		return m.Corrupt("block size", at+offBlockSize, "%d", f.unit)
	case table64 > math.MaxInt64 || f.table > f.end || f.entries > (f.end-f.table)/4:
		return m.Corrupt("BAT", f.table, "%d entries pass end of file", f.entries)
	case f.table < footerLen || f.table < at+headerLen && f.table+max(f.entries*4, 1) > at:
		return m.Corrupt("BAT", f.table, "it lies in the header")
	case f.size > 0 && (f.size-1)/f.unit >= f.entries:
		return m.Corrupt("BAT size", at+offEntries, "%d entries for a disk of %d bytes", f.entries, f.size)
	}
	f.bitmap = bitmapLen(f.unit)
	return nil
}

// bitmapLen is the length in bytes of the bitmap of a block of unit bytes: a bit
// for each sector, padded to whole sectors.
func bitmapLen(unit int64) int64 {
	return (unit/sector + 8*sector - 1) / (8 * sector) * sector
}

// Probe implements formats.Format. It reads the last and the first sector, and
// of a disk that is not fixed the header and at most 1 MiB of the BAT. Blocks
// that lie where none can be do not keep it from an answer: the others can be
// read.
//
// The Header of such a disk has Stride set: a bitmap precedes each block.
func (Format) Probe(src formats.Source) (*formats.Header, error) {
	f, h, err := read(src)
	if err == nil && f.kind != typeFixed {
		err = f.findGrid(h)
	}
	return h, err
}

// findGrid fills in where units lie in the file.
func (f *file) findGrid(h *formats.Header) error {
	bat, err := f.m.Bytes("BAT", f.table, min(f.entries*4, parse.Limit))
	if err != nil {
		return err
	}
	metaEnd := max(f.headerAt+headerLen, f.tableEnd())
	var data []int64
	for i := 0; i < len(bat); i += 4 {
		e := binary.BigEndian.Uint32(bat[i:])
		if off := int64(e)*sector + f.bitmap; e != absent && off < f.m.Size() {
			data = append(data, off)
		}
	}
	// The next block to be added takes the footer's place.
	if f.footerAt >= metaEnd && len(bat) == int(f.entries*4) {
		data = append(data, f.footerAt+f.bitmap)
	}
	h.Unit = f.unit
	h.Grid, h.Stride = layout(data, f.unit, f.bitmap, metaEnd)
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

// largest is the number of sectors of the largest geometry.
const largest = 65535 * 16 * 255

// diskSize is the size of the guest's disk. Virtual PC and programs that follow
// it present cylinders * heads * sectors, unless that is the largest geometry;
// the others present the current size.
func diskSize(f []byte) (int64, bool) {
	be := binary.BigEndian
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

// uuid is the text of a UUID, whose bytes stand in the order of the text; empty
// if it is zero.
func uuid(b []byte) string {
	if formats.IsZero(b[:16]) {
		return ""
	}
	return fmt.Sprintf("%x-%x-%x-%x-%x", b[:4], b[4:6], b[6:8], b[8:10], b[10:16])
}

// when is the text of a time; empty if it is zero.
func when(b []byte) string {
	t := binary.BigEndian.Uint32(b)
	if t == 0 {
		return ""
	}
	return time.Unix(epoch+int64(t), 0).UTC().Format(time.RFC3339)
}

// checksumError is a checksum that does not fit the bytes.
type checksumError struct{ want, got uint32 }

func (e checksumError) Error() string {
	return fmt.Sprintf("checksum 0x%08x, the bytes give 0x%08x", e.got, e.want)
}

// checksum compares the u32 at off with the other bytes of b.
func checksum(b []byte, off int) error {
	want := sum(b, off)
	if got := binary.BigEndian.Uint32(b[off:]); got != want {
		return checksumError{want, got}
	}
	return nil
}

// sum is the checksum of b that belongs into the u32 at off.
func sum(b []byte, off int) uint32 {
	var n uint32
	for i, c := range b {
		if i < off || i >= off+4 {
			n += uint32(c)
		}
	}
	return ^n
}
