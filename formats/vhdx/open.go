package vhdx

import (
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"math/bits"
	"strings"

	"tarvm/formats"
	"tarvm/formats/internal/parse"
)

// cacheBytes bounds the pieces of the BAT, and those of the sector bitmaps, that
// an open image keeps.
const cacheBytes = 4 << 20

// Open implements formats.Format. When the log is in use, Image.Files holds the
// file with its writes, not src itself, and the Problems say so.
//
// ID and the parent's ID are data write GUIDs, in lower case and without braces.
func (Format) Open(src formats.Source, o formats.OpenOptions) (*formats.Image, error) {
	f, err := load(src, maxLog)
	if err != nil {
		return nil, err
	}
	m, err := f.mapper()
	if err != nil {
		return nil, err
	}
	img := &formats.Image{
		Header:   f.info,
		Map:      m,
		Files:    []formats.Source{f.m.Source},
		ID:       f.head.dataWrite.String(),
		Facts:    f.facts(),
		Problems: f.problems,
		Check:    func(ctx context.Context, report func(formats.Problem)) error { return m.check(ctx, report) },
	}
	if f.meta.hasParent {
		p := &f.meta.parent
		img.Parent = &formats.ParentRef{Names: p.names(), Format: Name, ID: p.id()}
	}
	return img, nil
}

// facts are what people want to know of the headers and the metadata.
func (f *file) facts() []formats.Fact {
	var list []formats.Fact
	add := func(name, format string, args ...any) {
		list = append(list, formats.Fact{Name: name, Value: fmt.Sprintf(format, args...)})
	}
	if b, err := f.src.Bytes("creator", creatorAt, creatorLen); err == nil {
		name, _, _ := strings.Cut(decodeUTF16(b), "\x00")
		add("creator", "%s", name)
	}
	m := &f.meta
	add("block size", "%d", m.block)
	add("logical sector size", "%d", m.sector)
	if m.physical != 0 {
		add("physical sector size", "%d", m.physical)
	}
	add("file write GUID", "%v", f.head.fileWrite)
	add("data write GUID", "%v", f.head.dataWrite)
	if m.page83 != (guid{}) {
		add("virtual disk id", "%v", m.page83)
	}
	if r := f.replay; r != nil {
		add("log", "dirty, %d entries with %d writes", r.entries, r.writes)
	} else {
		add("log", "clean")
	}
	if m.hasParent {
		p := &m.parent
		for _, v := range [][2]string{
			{"parent_linkage", p.linkage}, {"parent_linkage2", p.linkage2}, {"relative_path", p.relative},
			{"volume_path", p.volume}, {"absolute_win32_path", p.absolute},
		} {
			if v[1] != "" {
				add(v[0], "%s", v[1])
			}
		}
	}
	return list
}

// A BAT entry, 2.5.1, is a u64: the state in bits 0 to 2, and in bits 20 to 63
// the block's file offset in units of 1 MiB.
type batEntry uint64

// States of payload blocks, 2.5.1.1. Sector bitmap blocks are notPresent or
// fullyPresent.
const (
	notPresent   = 0 // the parent's, or zeros
	undefined    = 1 // may be anything: zeros here
	zero         = 2
	unmapped     = 3 // its old content or zeros: zeros here
	reserved4    = 4
	unmappedOld  = 5 // unmapped in version 0.95 of the specification; reserved now
	fullyPresent = 6
	partly       = 7 // of a differencing disk: the sector bitmap tells
)

func (e batEntry) state() uint64 { return uint64(e) & 7 }

// mibs is the file offset in MiB.
func (e batEntry) mibs() int64 { return int64(e >> 20) }

// host is the file offset in bytes; negative: no file is that long.
func (e batEntry) host() int64 {
	if e.mibs() > maxFile/mib {
		return -1
	}
	return e.mibs() * mib
}

// kind says how a block without data of its own reads.
func (e batEntry) kind(parent bool) (formats.Kind, bool) {
	switch e.state() {
	case notPresent:
		if parent {
			return formats.Parent, true
		}
		return formats.Hole, true
	case undefined, zero, unmapped, unmappedOld:
		return formats.Zero, true
	}
	return 0, false
}

// A mapper maps the disk. The entry of payload block b is number b + b/ratio of
// the BAT: the entry of a sector bitmap block follows those of each ratio
// payload blocks, whether the disk has a parent or not.
type mapper struct {
	*file
	bat     parse.Table
	ratio   int64
	blocks  int64
	bitmaps *parse.Cache
}

func (f *file) mapper() (*mapper, error) {
	m := &mapper{file: f, ratio: f.meta.ratio(), blocks: f.meta.blocks(), bitmaps: parse.NewCache(f.m, cacheBytes)}
	have := (f.bat.end - f.bat.off) / 8
	need := int64(0)
	if m.blocks > 0 {
		need = m.index(m.blocks-1) + 1
	}
	if have < need {
		return nil, f.m.Corrupt("BAT", f.bat.off, "%d entries, %d blocks need %d", have, m.blocks, need)
	}
	if f.meta.hasParent {
		need = min(have, (m.blocks+m.ratio-1)/m.ratio*(m.ratio+1))
	}
	m.bat = parse.Table{
		Name: "BAT", Off: f.bat.off, Count: need, Width: 8, Order: binary.LittleEndian,
		Cache: parse.NewCache(f.m, cacheBytes),
	}
	return m, m.bat.Check()
}

// index is the number of the BAT entry of a payload block.
func (m *mapper) index(block int64) int64 { return block + block/m.ratio }

// entryAt is the file offset of BAT entry i.
func (m *mapper) entryAt(i int64) int64 { return m.bat.Off + 8*i }

// Size implements formats.Mapper.
func (m *mapper) Size() int64 { return m.meta.size }

// MapAt implements formats.Mapper. A run does not go over the end of a chunk,
// that is of 4 GiB with sectors of 512 bytes. Of a block that passes the end of
// the file the part that is there can be read.
func (m *mapper) MapAt(off int64) (formats.Extent, error) {
	if off < 0 || off >= m.meta.size {
		return formats.Extent{}, io.EOF
	}
	block := off / m.meta.block
	parent := m.meta.hasParent
	like := func(v, next uint64, k int64) bool {
		a, b := batEntry(v), batEntry(next)
		if a.state() == fullyPresent {
			return b.state() == fullyPresent && b.mibs() == a.mibs()+k*(m.meta.block/mib)
		}
		ka, ok := a.kind(parent)
		kb, _ := b.kind(parent)
		return ok && ka == kb
	}
	limit := min(m.blocks-block, m.ratio-block%m.ratio)
	v, n, err := m.bat.Run(m.index(block), limit, like)
	if err != nil {
		return formats.Extent{}, err
	}
	e := batEntry(v)
	x := formats.Extent{Offset: block * m.meta.block}
	x.Length = min(n*m.meta.block, m.meta.size-x.Offset)
	if kind, ok := e.kind(parent); ok {
		x.Kind = kind
		return x, nil
	}
	at := m.entryAt(m.index(block))
	switch {
	case e.state() == fullyPresent:
		x.Kind, x.Host = formats.Data, e.host()
		return m.data(x, off, at)
	case e.state() == partly && parent:
		return m.partial(block, e, off)
	}
	return formats.Extent{}, m.m.Corrupt("BAT", at, "payload block %d in state %d", block, e.state())
}

// data clips the data run x to what is in the file and outside of structures; it
// must still hold off. at is where the BAT has it.
func (m *mapper) data(x formats.Extent, off, at int64) (formats.Extent, error) {
	if x.Host < 0 {
		return formats.Extent{}, m.m.Corrupt("BAT", at, "data at 2^48 or beyond")
	}
	if r, ok := m.conflict(x.Host, x.Host+x.Length); ok {
		// Blocks before the one that is wrong are as good as any.
		whole := max(0, r.off-x.Host) / m.meta.block * m.meta.block
		if off >= x.Offset+whole {
			return formats.Extent{}, m.m.Corrupt("BAT", at, "data at 0x%x lies in the %s", x.Host+whole, r.name)
		}
		x.Length = whole
	}
	if left := m.m.Size() - x.Host; left < x.Length {
		if off-x.Offset >= left {
			return formats.Extent{}, m.m.Corrupt("BAT", at, "data at 0x%x passes end of file at %d", x.Host, m.m.Size())
		}
		x.Length = left
	}
	return x, nil
}

// partial maps off in a block of which the sector bitmap tells what is present.
func (m *mapper) partial(block int64, e batEntry, off int64) (formats.Extent, error) {
	sector := m.meta.sector
	start := block * m.meta.block
	at := m.entryAt(m.index(block))
	bitmap, err := m.bitmap(block / m.ratio)
	if err != nil {
		return formats.Extent{}, err
	}
	// One bit for each sector, the first sector's the lowest of the first byte.
	per := m.meta.block / sector
	b, err := m.bitmaps.Bytes("sector bitmap", bitmap+block%m.ratio*(per/8), per/8)
	if err != nil {
		return formats.Extent{}, err
	}
	first := (off - start) / sector
	n := sameBits(b, first)
	x := formats.Extent{Offset: start + first*sector, Kind: formats.Parent}
	x.Length = min(n*sector, m.meta.size-x.Offset)
	if b[first/8]>>(first%8)&1 == 0 {
		return x, nil
	}
	x.Kind, x.Host = formats.Data, e.host()
	if x.Host >= 0 {
		x.Host += first * sector
	}
	if r, ok := m.conflict(x.Host, x.Host+x.Length); ok && x.Host >= 0 {
		return formats.Extent{}, m.m.Corrupt("BAT", at, "data at 0x%x lies in the %s", x.Host, r.name)
	}
	return m.data(x, off, at)
}

// bitmap returns the file offset of the sector bitmap block of a chunk.
func (m *mapper) bitmap(chunk int64) (int64, error) {
	i := chunk*(m.ratio+1) + m.ratio
	at := m.entryAt(i)
	if i >= m.bat.Count {
		return 0, m.m.Corrupt("BAT", at, "no room for the sector bitmap block of chunk %d", chunk)
	}
	v, err := m.bat.At(i)
	if err != nil {
		return 0, err
	}
	e := batEntry(v)
	if e.state() != fullyPresent {
		return 0, m.m.Corrupt("BAT", at, "the sector bitmap block of chunk %d, which is needed, is in state %d", chunk,
			e.state())
	}
	if text := m.misplaced(e, mib); text != "" {
		return 0, m.m.Corrupt("BAT", at, "the sector bitmap block of chunk %d %s", chunk, text)
	}
	return e.host(), nil
}

// misplaced says what is wrong with the place of a block of n bytes; empty:
// nothing.
func (m *mapper) misplaced(e batEntry, n int64) string {
	host := e.host()
	if host < 0 {
		return "is at 2^48 or beyond"
	}
	if r, ok := m.conflict(host, host+n); ok {
		return fmt.Sprintf("at 0x%x lies in the %s", host, r.name)
	}
	if !m.m.Inside(host, n) {
		return fmt.Sprintf("at 0x%x passes end of file at %d", host, m.m.Size())
	}
	return ""
}

// sameBits returns how many bits from i on are like bit i, low bits first.
func sameBits(b []byte, i int64) int64 {
	end := int64(len(b)) * 8
	flip := -(b[i/8] >> (i % 8) & 1) // all ones where the bit is one
	for j := i; j < end; j = (j/8 + 1) * 8 {
		if rest := (b[j/8] ^ flip) >> (j % 8); rest != 0 {
			return j + int64(bits.TrailingZeros8(rest)) - i
		}
	}
	return end - i
}
