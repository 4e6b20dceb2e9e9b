package vhdx

import (
	"encoding/binary"
	"hash/crc32"
	"math"
	"unicode/utf16"

	"tarvm/formats"
	"tarvm/formats/internal/parse"
)

// Name is qemu's name of the format.
const Name = "vhdx"

const (
	signature = "vhdxfile" // at byte 0
	mib       = 1 << 20

	headerLen   = 4 << 10
	tableLen    = 64 << 10 // region table and metadata table
	entryLen    = 32       // of either table
	maxRegions  = 2047
	maxMetadata = 1023
	maxLocator  = 64 << 10 // ours: some hundred bytes are usual
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

// Regions, [MS-VHDX] 2.2.3.2, and metadata items, 2.6.2.
var (
	regionBAT      = makeGUID(0x2DC27766, 0xF623, 0x4200, 0x9D64115E9BFD4A08)
	regionMetadata = makeGUID(0x8B7CA206, 0x4790, 0x4B9A, 0xB8FE575F050F886E)

	itemFileParameters = makeGUID(0xCAA16737, 0xFA36, 0x4D43, 0xB3B633F0AA44E76B)
	itemDiskSize       = makeGUID(0x2FA54224, 0xCD1B, 0x4876, 0xB2115DBED83BF4B8)
	itemPage83         = makeGUID(0xBECA12AB, 0xB2E6, 0x4523, 0x93EFC309E000C746)
	itemLogicalSector  = makeGUID(0x8141BF1D, 0xA96F, 0x4709, 0xBA47F233A8FAAB5F)
	itemPhysicalSector = makeGUID(0xCDA348C7, 0x445D, 0x4471, 0x9CC9E9885251C556)
	itemParentLocator  = makeGUID(0xA8D35F2D, 0xB30B, 0x454D, 0xABF7D3D84834AB0C)
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// Format recognises VHDX. The zero value is ready.
type Format struct{}

// Name returns "vhdx".
func (Format) Name() string { return Name }

// Probe implements formats.Format. It reads both headers, both region tables
// and the metadata.
//
// Unit is 1 MiB, to which blocks are aligned, not the block size: blocks of,
// say, 32 MiB start at any multiple of 1 MiB.
func (Format) Probe(src formats.Source) (*formats.Header, error) {
	b, err := parse.Prefix(src, Name, int64(len(signature)))
	if err != nil {
		return nil, err
	}
	if string(b) != signature {
		return nil, formats.ErrNotFormat
	}
	m := parse.Image{Source: src, Format: Name}
	h := &formats.Header{Format: Name}
	return h, probe(m, h)
}

func probe(m parse.Image, h *formats.Header) error {
	if err := checkHeaders(m); err != nil {
		return err
	}
	at, n, err := metadataRegion(m)
	if err != nil {
		return err
	}
	return readMetadata(m, h, at, n)
}

// valid reports whether the structure b starts with the signature and carries
// its CRC-32C (u32 at 4, counted as zero).
func valid(b []byte, signature string) bool {
	if string(b[:4]) != signature {
		return false
	}
	sum := crc32.Update(0, castagnoli, b[:4])
	sum = crc32.Update(sum, castagnoli, make([]byte, 4))
	sum = crc32.Update(sum, castagnoli, b[8:])
	return sum == binary.LittleEndian.Uint32(b[4:])
}

// checkHeaders demands one valid header of a known version.
// Header: signature "head", checksum u32 at 4, sequence u64 at 8, log version
// u16 at 64, version u16 at 66.
func checkHeaders(m parse.Image) error {
	var current []byte
	var currentAt int64
	for _, at := range headerAt {
		b, err := m.Bytes("header", at, headerLen)
		if err != nil {
			return err
		}
		if !valid(b, "head") {
			continue
		}
		if current == nil || binary.LittleEndian.Uint64(b[8:]) > binary.LittleEndian.Uint64(current[8:]) {
			current, currentAt = b, at
		}
	}
	if current == nil {
		return m.Corrupt("headers", headerAt[0], "neither copy has its checksum")
	}
	if v := binary.LittleEndian.Uint16(current[66:]); v != 1 {
		return m.Unsupported("version", currentAt+66, "%d", v)
	}
	return nil
}

// metadataRegion finds the place and length in bytes of the metadata.
// Region table: signature "regi", checksum, entries u32 at 8, then from 16 on
// GUID, file offset u64, length u32, required u32 (bit 0).
func metadataRegion(m parse.Image) (at, n int64, err error) {
	le := binary.LittleEndian
	var table []byte
	var tableAt int64
	for _, tableAt = range regionAt {
		b, err := m.Bytes("region table", tableAt, tableLen)
		if err != nil {
			return 0, 0, err
		}
		if valid(b, "regi") {
			table = b
			break
		}
	}
	if table == nil {
		return 0, 0, m.Corrupt("region tables", regionAt[0], "neither copy has its checksum")
	}
	count := le.Uint32(table[8:])
	if count > maxRegions {
		return 0, 0, m.Corrupt("region table", tableAt+8, "%d entries", count)
	}
	var bat bool
	for i := range int64(count) {
		e := table[16+i*entryLen:][:entryLen]
		place := tableAt + 16 + i*entryLen
		off, length := le.Uint64(e[16:]), int64(le.Uint32(e[24:]))
		switch guid(e[:16]) {
		case regionBAT, regionMetadata:
		default:
			if le.Uint32(e[28:])&1 != 0 {
				return 0, 0, m.Unsupported("region table", place, "required region %x", e[:16])
			}
			continue
		}
		if off%mib != 0 || off < mib || off > math.MaxInt64 || !m.Inside(int64(off), length) {
			return 0, 0, m.Corrupt("region table", place, "region of %d bytes at 0x%x, the file has %d", length, off, m.Size())
		}
		if guid(e[:16]) == regionBAT {
			bat = true
		} else {
			at, n = int64(off), length
		}
	}
	if at == 0 || !bat {
		return 0, 0, m.Corrupt("region table", tableAt, "no BAT or no metadata")
	}
	return at, n, nil
}

// readMetadata fills h from the metadata region of n bytes at byte at.
// Metadata table: signature "metadata", entries u16 at 10, then from 32 on
// GUID, offset u32 within the region, length u32, flags u32 (bit 2 required).
func readMetadata(m parse.Image, h *formats.Header, at, n int64) error {
	le := binary.LittleEndian
	if n < tableLen {
		return m.Corrupt("metadata region", at, "%d bytes", n)
	}
	table, err := m.Bytes("metadata table", at, tableLen)
	if err != nil {
		return err
	}
	if string(table[:8]) != "metadata" {
		return m.Corrupt("metadata table", at, "signature %q", table[:8])
	}
	count := le.Uint16(table[10:])
	if count > maxMetadata {
		return m.Corrupt("metadata table", at+10, "%d entries", count)
	}
	// item returns the bytes of entry e, which must be at least least.
	item := func(name string, e []byte, least int64) ([]byte, error) {
		off, length := int64(le.Uint32(e[16:])), int64(le.Uint32(e[20:]))
		if length < least || length > maxLocator || off > n-length {
			return nil, m.Corrupt(name, at+off, "%d bytes", length)
		}
		return m.Bytes(name, at+off, length)
	}
	var haveParameters, haveSize bool
	var locator []byte
	for i := range int64(count) {
		e := table[32+i*entryLen:][:entryLen]
		switch guid(e[:16]) {
		case itemFileParameters:
			b, err := item("file parameters", e, 8)
			if err != nil {
				return err
			}
			block, flags := int64(le.Uint32(b)), le.Uint32(b[4:])
			if !parse.PowerOfTwo(block) || block < mib || block > 256*mib {
				return m.Corrupt("block size", at+int64(le.Uint32(e[16:])), "%d", block)
			}
			switch {
			case flags&2 != 0:
				h.Subformat = "differencing"
			case flags&1 != 0:
				h.Subformat = "fixed"
			default:
				h.Subformat = "dynamic"
			}
			haveParameters = true
		case itemDiskSize:
			b, err := item("disk size", e, 8)
			if err != nil {
				return err
			}
			size := le.Uint64(b)
			if size > math.MaxInt64 {
				return m.Corrupt("disk size", at+int64(le.Uint32(e[16:])), "%d", size)
			}
			h.VirtualSize = int64(size)
			haveSize = true
		case itemParentLocator:
			if locator, err = item("parent locator", e, 20); err != nil {
				return err
			}
		case itemPage83, itemLogicalSector, itemPhysicalSector:
		default:
			if le.Uint32(e[24:])&4 != 0 {
				return m.Unsupported("metadata table", at+32+i*entryLen, "required item %x", e[:16])
			}
		}
	}
	if !haveParameters || !haveSize {
		return m.Corrupt("metadata table", at, "no file parameters or no disk size")
	}
	h.Unit = mib
	h.ParentHint = parentPath(locator)
	return nil
}

// parentPath picks the parent's path from a parent locator: the relative one,
// or else the absolute one. Locator: type GUID, entries u16 at 18, then from 20
// on offset of key and value u32, length of key and value u16, all in bytes
// from the locator's start; strings are UTF-16LE.
func parentPath(b []byte) string {
	if len(b) < 20 {
		return ""
	}
	le := binary.LittleEndian
	text := func(off uint32, n uint16) string {
		if int64(off)+int64(n) > int64(len(b)) {
			return ""
		}
		s := b[off:][:n]
		u := make([]uint16, len(s)/2)
		for i := range u {
			u[i] = le.Uint16(s[2*i:])
		}
		return string(utf16.Decode(u))
	}
	var absolute string
	for e := b[20:]; len(e) >= 12; e = e[12:] {
		if (len(b)-len(e)-20)/12 >= int(le.Uint16(b[18:])) {
			break
		}
		value := text(le.Uint32(e[4:]), le.Uint16(e[10:]))
		switch text(le.Uint32(e), le.Uint16(e[8:])) {
		case "relative_path":
			if value != "" {
				return value
			}
		case "absolute_win32_path":
			absolute = value
		}
	}
	return absolute
}
