package vhdx

import (
	"cmp"
	"encoding/binary"
	"slices"
	"strings"
	"unicode/utf16"

	"tarvm/formats"
	"tarvm/formats/internal/parse"
)

const (
	maxItem    = 1 << 20   // bytes of a metadata item, 2.6.1.2
	maxLocator = 256 << 10 // ours: some hundred bytes are usual, two long paths make 128 KiB
)

// Flags of an entry of the metadata table, u32 at 24 of the entry.
const (
	flagUser     = 1 << 0 // the user's: such an item is never one of the known ones
	flagDisk     = 1 << 1 // of the virtual disk, not of the file
	flagRequired = 1 << 2 // who does not know it must not open the file
)

// metadata is what the known items say.
type metadata struct {
	block     int64 // bytes of a payload block: file parameters, u32 at 0
	leave     bool  // file parameters, u32 at 4, bit 0: blocks stay allocated, the disk is fixed
	hasParent bool  // file parameters, u32 at 4, bit 1
	size      int64 // bytes of the disk: u64
	sector    int64 // bytes of a logical sector, 512 or 4096: u32
	physical  int64 // bytes of a physical sector: u32; 0: not there
	page83    guid  // the disk's identity for the guest
	parent    locator
}

func (m *metadata) subformat() string {
	switch {
	case m.hasParent:
		return "differencing"
	case m.leave:
		return "fixed"
	}
	return "dynamic"
}

// ratio is the number of payload blocks for which one sector bitmap block has
// bits, 2.4.
func (m *metadata) ratio() int64 { return (1 << 23) * m.sector / m.block }

// blocks is the number of payload blocks.
func (m *metadata) blocks() int64 { return (m.size + m.block - 1) / m.block }

// readMetadata reads the metadata region. Metadata table, 2.6.1: 64 KiB,
// signature "metadata", entries u16 at 10, then from 32 on GUID, offset u32
// within the region, length u32, flags u32.
func (f *file) readMetadata() error {
	le := binary.LittleEndian
	at, n := f.metadata.off, f.metadata.end-f.metadata.off
	if n < tableLen {
		return f.m.Corrupt("metadata region", at, "%d bytes", n)
	}
	table, err := f.m.Bytes("metadata table", at, tableLen)
	if err != nil {
		return err
	}
	if string(table[:8]) != "metadata" {
		return f.m.Corrupt("metadata table", at, "signature %q", table[:8])
	}
	count := le.Uint16(table[10:])
	if count > maxEntries {
		return f.m.Corrupt("metadata table", at+10, "%d entries", count)
	}
	type key struct {
		id   guid
		user bool
	}
	seen := make(map[key]bool)
	var items []region
	for i := range int64(count) {
		e := table[32+i*entryLen:][:entryLen]
		place := at + 32 + i*entryLen
		off, length, flags := int64(le.Uint32(e[16:])), int64(le.Uint32(e[20:])), le.Uint32(e[24:])
		k := key{guid(e[:16]), flags&flagUser != 0}
		if seen[k] {
			return f.m.Corrupt("metadata table", place, "a second item %v", k.id)
		}
		seen[k] = true
		inside := off >= tableLen && length <= maxItem && off <= n-length
		if inside && length > 0 {
			items = append(items, region{"metadata item " + k.id.String(), at + off, at + off + length})
		}
		if name, least := knownItem(k.id); name != "" && !k.user {
			if !inside || length < least {
				return f.m.Corrupt(name, at+off, "%d bytes", length)
			}
			if length > maxLocator {
				return f.m.Unsupported(name, at+off, "%d bytes, limit %d", length, maxLocator)
			}
			b, err := f.m.Bytes(name, at+off, length)
			if err != nil {
				return err
			}
			if err := f.readItem(k.id, b, at+off); err != nil {
				return err
			}
			continue
		}
		if flags&flagRequired != 0 {
			return f.m.Unsupported("metadata table", place, "required item %v", k.id)
		}
		if !inside && (off != 0 || length != 0) {
			f.problem(formats.Note, "metadata table", place, "item %v of %d bytes at %d of the region", k.id, length, off)
		}
	}
	slices.SortFunc(items, func(a, b region) int { return cmp.Compare(a.off, b.off) })
	for i := 1; i < len(items); i++ {
		if items[i].off < items[i-1].end {
			f.problem(formats.Risk, items[i].name, items[i].off, "overlaps the %s", items[i-1].name)
		}
	}
	var missing []string
	for _, id := range []guid{itemFileParameters, itemDiskSize, itemLogicalSector, itemPhysicalSector, itemPage83} {
		if seen[key{id, false}] {
			continue
		}
		name, _ := knownItem(id)
		if id == itemPhysicalSector || id == itemPage83 {
			f.problem(formats.Note, "metadata table", at, "no %s", name)
			continue
		}
		missing = append(missing, "no "+name)
	}
	if len(missing) > 0 {
		return f.m.Corrupt("metadata table", at, "%s", strings.Join(missing, ", "))
	}
	f.judgeMetadata()
	return nil
}

// judgeMetadata reports what is odd in items that make sense by themselves.
func (f *file) judgeMetadata() {
	m, at := &f.meta, f.metadata.off
	if m.size%m.sector != 0 {
		f.problem(formats.Note, "disk size", at, "%d bytes are not a multiple of the sector of %d", m.size, m.sector)
	}
	p := &m.parent
	switch {
	case !m.hasParent && p.at != 0:
		f.problem(formats.Note, "parent locator", p.at, "the disk has no parent")
	case m.hasParent && p.at == 0:
		f.problem(formats.Risk, "parent locator", -1, "there is none, and the disk has a parent")
	case m.hasParent && p.kind != locatorVHDX:
		f.problem(formats.Risk, "parent locator", p.at, "of the unknown type %v", p.kind)
	case m.hasParent && p.linkage == "":
		f.problem(formats.Risk, "parent locator", p.at, "no parent_linkage: the parent cannot be recognised")
	}
}

// knownItem returns the name of a system item and the least it must have, in
// bytes; no name: the item is unknown.
func knownItem(id guid) (name string, least int64) {
	switch id {
	case itemFileParameters:
		return "file parameters", 8
	case itemDiskSize:
		return "disk size", 8
	case itemLogicalSector:
		return "logical sector size", 4
	case itemPhysicalSector:
		return "physical sector size", 4
	case itemPage83:
		return "virtual disk id", 16
	case itemParentLocator:
		return "parent locator", 20
	}
	return "", 0
}

// readItem takes in the known item b, which has at least its least length.
func (f *file) readItem(id guid, b []byte, at int64) error {
	le := binary.LittleEndian
	m := &f.meta
	switch id {
	case itemFileParameters:
		m.block = int64(le.Uint32(b))
		if !parse.PowerOfTwo(m.block) || m.block < mib || m.block > 256*mib {
			return f.m.Corrupt("block size", at, "%d", m.block)
		}
		flags := le.Uint32(b[4:])
		m.leave, m.hasParent = flags&1 != 0, flags&2 != 0
	case itemDiskSize:
		size := le.Uint64(b)
		if size > maxDisk {
			return f.m.Corrupt("disk size", at, "%d", size)
		}
		m.size = int64(size)
	case itemLogicalSector:
		if m.sector = int64(le.Uint32(b)); m.sector != 512 && m.sector != 4096 {
			return f.m.Corrupt("logical sector size", at, "%d", m.sector)
		}
	case itemPhysicalSector:
		if m.physical = int64(le.Uint32(b)); m.physical != 512 && m.physical != 4096 {
			f.problem(formats.Note, "physical sector size", at, "%d", m.physical)
		}
	case itemPage83:
		m.page83 = guid(b)
	case itemParentLocator:
		m.parent = parseLocator(b)
		m.parent.at = at
	}
	return nil
}

// A locator is a parent locator, 2.6.2.6: type GUID at 0, entries u16 at 18,
// then from 20 on offset of key and value u32, length of key and value u16, all
// in bytes from the locator's start; strings are UTF-16. What is not there, or
// lies outside, is empty.
type locator struct {
	at   int64 // its file offset; 0: there is none
	kind guid
	// linkage is the parent's data write GUID, linkage2 another that it may
	// have if a merge was broken off: "{83ed0ec3-24c8-49a6-a959-5e4bf1288bfb}".
	linkage, linkage2          string
	relative, volume, absolute string
}

func parseLocator(b []byte) (l locator) {
	le := binary.LittleEndian
	l.kind = guid(b[:16])
	text := func(off uint32, n uint16) string {
		if int64(off)+int64(n) > int64(len(b)) {
			return ""
		}
		return decodeUTF16(b[off:][:n])
	}
	e := b[20:]
	for range le.Uint16(b[18:]) {
		if len(e) < 12 {
			break
		}
		// A longer key is none of ours. Not decoding it, and no value twice,
		// keeps many entries for the same long strings from costing much.
		if n := le.Uint16(e[8:]); n <= 64 {
			var into *string
			switch text(le.Uint32(e), n) {
			case "parent_linkage":
				into = &l.linkage
			case "parent_linkage2":
				into = &l.linkage2
			case "relative_path":
				into = &l.relative
			case "volume_path":
				into = &l.volume
			case "absolute_win32_path":
				into = &l.absolute
			}
			if into != nil && *into == "" {
				*into = text(le.Uint32(e[4:]), le.Uint16(e[10:]))
			}
		}
		e = e[12:]
	}
	return l
}

// decodeUTF16 decodes little-endian UTF-16; half a character at the end is
// left out.
func decodeUTF16(b []byte) string {
	u := make([]uint16, len(b)/2)
	for i := range u {
		u[i] = binary.LittleEndian.Uint16(b[2*i:])
	}
	return string(utf16.Decode(u))
}

// names are the parent's paths in the order in which they are to be tried.
func (l *locator) names() (names []string) {
	for _, s := range []string{l.relative, l.volume, l.absolute} {
		if s != "" {
			names = append(names, s)
		}
	}
	return names
}

func (l *locator) hint() string {
	if n := l.names(); len(n) > 0 {
		return n[0]
	}
	return ""
}

// id is linkage in the form of guid.String.
func (l *locator) id() string { return strings.ToLower(strings.Trim(l.linkage, "{}")) }
