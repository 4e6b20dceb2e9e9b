package vhdx

import (
	"bytes"
	"cmp"
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"slices"
	"sort"

	"tarvm/formats"
	"tarvm/formats/internal/parse"
)

// Name is qemu's name of the format.
const Name = "vhdx"

const (
	signature = "vhdxfile" // at byte 0
	mib       = 1 << 20

	headerLen  = 4 << 10
	tableLen   = 64 << 10 // region table and metadata table
	entryLen   = 32       // of either table
	maxEntries = 2047     // of either table

	creatorAt  = 8   // byte of the file: UTF-16, ends with NUL or at its full length
	creatorLen = 512 // bytes

	// maxFile is ours: twice what the largest disk, of 64 TiB, takes, and more.
	maxFile = 1 << 48
	// maxDisk is the largest disk, 2.6.2.2.
	maxDisk = 64 << 40

	// probeLog is the largest log that Probe replays. Hyper-V and qemu make
	// logs of 1 MiB.
	probeLog = 1 << 20
	// maxLog is the largest log that Open replays.
	maxLog = 64 << 20
)

// The two copies of the header and of the region table, file offsets.
var (
	headerAt = [2]int64{64 << 10, 128 << 10}
	regionAt = [2]int64{192 << 10, 256 << 10}
)

// guid is a GUID as stored: the first three groups little-endian.
type guid [16]byte

// makeGUID takes the groups as they are printed, the last two as one.
func makeGUID(a uint32, b, c uint16, d uint64) (g guid) {
	binary.LittleEndian.PutUint32(g[0:], a)
	binary.LittleEndian.PutUint16(g[4:], b)
	binary.LittleEndian.PutUint16(g[6:], c)
	binary.BigEndian.PutUint64(g[8:], d)
	return g
}

// String gives the groups in lower case and without braces.
func (g guid) String() string {
	le := binary.LittleEndian
	return fmt.Sprintf("%08x-%04x-%04x-%04x-%012x",
		le.Uint32(g[0:]), le.Uint16(g[4:]), le.Uint16(g[6:]), g[8:10], g[10:])
}

// Regions, 2.2.3.2, metadata items, 2.6.2, and the type of a locator, 2.6.2.6.3.
var (
	regionBAT      = makeGUID(0x2DC27766, 0xF623, 0x4200, 0x9D64115E9BFD4A08)
	regionMetadata = makeGUID(0x8B7CA206, 0x4790, 0x4B9A, 0xB8FE575F050F886E)

	itemFileParameters = makeGUID(0xCAA16737, 0xFA36, 0x4D43, 0xB3B633F0AA44E76B)
	itemDiskSize       = makeGUID(0x2FA54224, 0xCD1B, 0x4876, 0xB2115DBED83BF4B8)
	itemPage83         = makeGUID(0xBECA12AB, 0xB2E6, 0x4523, 0x93EFC309E000C746)
	itemLogicalSector  = makeGUID(0x8141BF1D, 0xA96F, 0x4709, 0xBA47F233A8FAAB5F)
	itemPhysicalSector = makeGUID(0xCDA348C7, 0x445D, 0x4471, 0x9CC9E9885251C556)
	itemParentLocator  = makeGUID(0xA8D35F2D, 0xB30B, 0x454D, 0xABF7D3D84834AB0C)

	locatorVHDX = makeGUID(0xB04AEFB7, 0xD19E, 0x4A81, 0xB78925B8E9445913)
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// Format recognises, opens and writes VHDX. The zero value is ready.
type Format struct{}

// Name returns "vhdx".
func (Format) Name() string { return Name }

// Probe implements formats.Format. It reads both headers, a log in use of up to
// 1 MiB, both region tables and the metadata. With a larger log in use it names
// the format alone, because what the log holds may change all the rest.
//
// Unit is 1 MiB, to which blocks are aligned, not the block size: blocks of,
// say, 32 MiB start at any multiple of 1 MiB.
func (Format) Probe(src formats.Source) (*formats.Header, error) {
	f, err := load(src, probeLog)
	if f == nil {
		return nil, err
	}
	return &f.info, err
}

// A file is what the fixed structures of an image say.
type file struct {
	info formats.Header
	src  parse.Image // the file as it is
	m    parse.Image // the file with the writes of its log
	head header
	// replay is what the log holds; nil: it is empty, or was too large.
	replay        *replay
	bat, metadata region
	// reserved is where the structures are: disjoint, in order.
	reserved []region
	meta     metadata
	problems []formats.Problem
}

func (f *file) problem(s formats.Severity, structure string, off int64, format string, args ...any) {
	f.problems = append(f.problems, formats.Problem{
		Severity: s, Structure: structure, Offset: off, Text: fmt.Sprintf(format, args...),
	})
}

// A region is a part of the file, in bytes.
type region struct {
	name     string
	off, end int64
}

// load reads everything but the BAT. A log in use of more than limit bytes is
// not supported; where limit is that of Probe, its image has no metadata. With
// an error that is not ErrNotFormat nor of the first read it returns a file that
// has a header.
func load(src formats.Source, limit int64) (*file, error) {
	b, err := parse.Prefix(src, Name, int64(len(signature)))
	if err != nil {
		return nil, err
	}
	if string(b) != signature {
		return nil, formats.ErrNotFormat
	}
	m := parse.Image{Source: src, Format: Name}
	f := &file{src: m, m: m, info: formats.Header{Format: Name}}
	return f, f.load(limit)
}

func (f *file) load(limit int64) error {
	if err := f.readHeaders(); err != nil {
		return err
	}
	if f.head.log != (guid{}) {
		if limit == probeLog && f.head.logLen > limit {
			f.info.Unit = mib
			return nil
		}
		if err := f.replayLog(limit); err != nil {
			return err
		}
	}
	if err := f.readRegions(); err != nil {
		return err
	}
	if err := f.readMetadata(); err != nil {
		return err
	}
	f.info = formats.Header{
		Format: Name, Subformat: f.meta.subformat(), VirtualSize: f.meta.size, Unit: mib,
		ParentHint: f.meta.parent.hint(),
	}
	return nil
}

// valid reports whether the structure b starts with the signature and carries
// its CRC-32C (u32 at 4, counted as zero).
func valid(b []byte, signature string) bool {
	return string(b[:4]) == signature && sum(b) == binary.LittleEndian.Uint32(b[4:])
}

// sum is the CRC-32C of b with zeros for the four bytes at 4.
func sum(b []byte) uint32 {
	s := crc32.Update(0, castagnoli, b[:4])
	s = crc32.Update(s, castagnoli, make([]byte, 4))
	return crc32.Update(s, castagnoli, b[8:])
}

// A header is one copy of the header, 2.2.2: 4 KiB, signature "head", checksum
// u32 at 4.
type header struct {
	at         int64  // its file offset
	sequence   uint64 // u64 at 8: the copy with the greater number is current
	fileWrite  guid   // at 16: changes before any change to the file
	dataWrite  guid   // at 32: changes before the guest's data changes; a child knows its parent by it
	log        guid   // at 48: that of the entries in the log; zero: the log is empty
	logVersion uint16 // at 64: 0
	version    uint16 // at 66: 1
	logLen     int64  // u32 at 68: bytes, a multiple of 1 MiB
	logAt      uint64 // u64 at 72: file offset of the log, a multiple of 1 MiB
}

func parseHeader(b []byte, at int64) header {
	le := binary.LittleEndian
	return header{
		at:         at,
		sequence:   le.Uint64(b[8:]),
		fileWrite:  guid(b[16:32]),
		dataWrite:  guid(b[32:48]),
		log:        guid(b[48:64]),
		logVersion: le.Uint16(b[64:]),
		version:    le.Uint16(b[66:]),
		logLen:     int64(le.Uint32(b[68:])),
		logAt:      le.Uint64(b[72:]),
	}
}

// readHeaders finds the current header.
func (f *file) readHeaders() error {
	var copies [2][]byte
	var good []header
	for i, at := range headerAt {
		b, err := f.src.Bytes("header", at, headerLen)
		if err != nil {
			return err
		}
		copies[i] = b
		if valid(b, "head") {
			good = append(good, parseHeader(b, at))
		} else {
			f.problem(formats.Note, "header", at, "the checksum is wrong; the other copy is used")
		}
	}
	switch {
	case len(good) == 0:
		f.problems = nil
		return f.src.Corrupt("headers", headerAt[0], "neither copy has its checksum")
	case len(good) == 1:
		f.head = good[0]
	case good[0].sequence == good[1].sequence:
		// Disk2vhd writes two like copies.
		if !bytes.Equal(copies[0], copies[1]) {
			return f.src.Corrupt("headers", headerAt[0], "both copies have sequence number %d, and they differ",
				good[0].sequence)
		}
		f.head = good[0]
		f.problem(formats.Note, "headers", headerAt[0], "both copies have sequence number %d", good[0].sequence)
	case good[0].sequence > good[1].sequence:
		f.head = good[0]
	default:
		f.head = good[1]
	}
	h := &f.head
	if h.version != 1 {
		return f.src.Unsupported("version", h.at+66, "%d", h.version)
	}
	if h.logAt > maxFile || h.logAt%mib != 0 || h.logAt < mib || h.logLen == 0 || h.logLen%mib != 0 ||
		!f.src.Inside(int64(h.logAt), h.logLen) {
		if h.log != (guid{}) {
			return f.src.Corrupt("log", h.at+68, "%d bytes at 0x%x, the file has %d", h.logLen, h.logAt, f.src.Size())
		}
		f.problem(formats.Note, "header", h.at+68, "no place for a log: %d bytes at 0x%x", h.logLen, h.logAt)
		h.logLen = 0
	}
	if h.log != (guid{}) && h.logVersion != 0 {
		return f.src.Unsupported("log version", h.at+64, "%d", h.logVersion)
	}
	return nil
}

// readRegions finds the BAT and the metadata, and what else must not be taken
// for payload. Region table, 2.2.3: 64 KiB, signature "regi", checksum u32 at 4,
// entries u32 at 8, then from 16 on GUID, file offset u64, length in bytes u32,
// required u32 (bit 0).
func (f *file) readRegions() error {
	le := binary.LittleEndian
	var table []byte
	var tableAt int64
	for _, at := range regionAt {
		b, err := f.m.Bytes("region table", at, tableLen)
		if err != nil {
			return err
		}
		switch {
		case !valid(b, "regi"):
			f.problem(formats.Note, "region table", at, "the checksum is wrong; the other copy is used")
		case table == nil:
			table, tableAt = b, at
		case !bytes.Equal(table, b):
			f.problem(formats.Risk, "region table", at, "differs from the copy at byte 0x%x, which is used", tableAt)
		}
	}
	if table == nil {
		return f.m.Corrupt("region tables", regionAt[0], "neither copy has its checksum")
	}
	count := le.Uint32(table[8:])
	if count > maxEntries {
		return f.m.Corrupt("region table", tableAt+8, "%d entries", count)
	}
	all := []region{{"header section", 0, mib}}
	if f.head.logLen > 0 {
		all = append(all, region{"log", int64(f.head.logAt), int64(f.head.logAt) + f.head.logLen})
	}
	for i := range int64(count) {
		e := table[16+i*entryLen:][:entryLen]
		place := tableAt + 16 + i*entryLen
		off, length := le.Uint64(e[16:]), int64(le.Uint32(e[24:]))
		id := guid(e[:16])
		known := id == regionBAT || id == regionMetadata
		if !known && le.Uint32(e[28:])&1 != 0 {
			return f.m.Unsupported("region table", place, "required region %v", id)
		}
		if off%mib != 0 || off < mib || off > maxFile || !f.m.Inside(int64(off), length) {
			if known {
				return f.m.Corrupt("region table", place, "region of %d bytes at 0x%x, the file has %d", length, off, f.m.Size())
			}
			f.problem(formats.Note, "region table", place, "unknown region %v of %d bytes at 0x%x", id, length, off)
			continue
		}
		r := region{"region " + id.String(), int64(off), int64(off) + length}
		var into *region
		switch id {
		case regionBAT:
			r.name, into = "BAT", &f.bat
		case regionMetadata:
			r.name, into = "metadata region", &f.metadata
		}
		if into != nil {
			if into.end != 0 {
				return f.m.Corrupt("region table", place, "a second %s", r.name)
			}
			*into = r
		}
		if length%mib != 0 {
			f.problem(formats.Note, "region table", place, "%s of %d bytes", r.name, length)
		}
		if length > 0 {
			all = append(all, r)
		}
	}
	if f.metadata.end == 0 || f.bat.end == 0 {
		return f.m.Corrupt("region table", tableAt, "no BAT or no metadata")
	}
	f.reserve(all)
	return nil
}

// reserve sets f.reserved, and reports structures that overlap.
func (f *file) reserve(all []region) {
	slices.SortFunc(all, func(a, b region) int { return cmp.Or(cmp.Compare(a.off, b.off), cmp.Compare(a.end, b.end)) })
	for _, r := range all {
		if n := len(f.reserved); n > 0 && r.off < f.reserved[n-1].end {
			last := &f.reserved[n-1]
			f.problem(formats.Risk, r.name, r.off, "overlaps the %s at byte 0x%x", last.name, last.off)
			last.end = max(last.end, r.end)
			continue
		}
		f.reserved = append(f.reserved, r)
	}
}

// conflict returns the first structure that the bytes [off, end) touch.
func (f *file) conflict(off, end int64) (region, bool) {
	i := sort.Search(len(f.reserved), func(i int) bool { return f.reserved[i].end > off })
	if i < len(f.reserved) && f.reserved[i].off < end {
		return f.reserved[i], true
	}
	return region{}, false
}
