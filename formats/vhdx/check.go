package vhdx

import (
	"context"
	"encoding/binary"
	"fmt"

	"tarvm/formats"
)

// maxReports is how many problems of the BAT are reported one by one.
const maxReports = 1000

// slack is how many unused MiB before the first block are taken for the way in
// which the file was laid out: qemu leaves four, Disk2vhd one.
const slack = 8

// A checker walks the BAT.
type checker struct {
	*mapper
	report func(formats.Problem)
	count  int // problems so far
	hidden [formats.Risk + 1]int
	// used has a bit for each MiB of the file that something lies in, old one
	// for those to which blocks point that are not read: they may keep their
	// space.
	used, old bitset
	// lowest is the first MiB of a block.
	lowest int64
	// partial is a block of the current chunk that needs the sector bitmap;
	// negative: there is none.
	partial int64
}

// check looks for blocks that lie in structures, in each other or behind the end
// of the file, for missing sector bitmaps, and for space that nothing uses. Its
// memory is two bits for each MiB of the file.
func (m *mapper) check(ctx context.Context, report func(formats.Problem)) error {
	mibs := m.m.Size() / mib
	if mibs > maxFile/mib {
		report(formats.Problem{Severity: formats.Note, Structure: "file", Offset: -1,
			Text: fmt.Sprintf("%d bytes: blocks behind 2^48 are not checked for overlaps", m.m.Size())})
		mibs = maxFile / mib
	}
	c := &checker{mapper: m, report: report, used: newBitset(mibs), old: newBitset(mibs), lowest: mibs, partial: -1}
	for _, r := range m.reserved {
		c.used.set(r.off/mib, (r.end+mib-1)/mib)
	}
	for i := int64(0); i < m.bat.Count; {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		first, b, err := m.bat.Page(i)
		if err != nil {
			return err
		}
		for ; i-first < int64(len(b)/8); i++ {
			c.entry(i, batEntry(binary.LittleEndian.Uint64(b[8*(i-first):])))
		}
	}
	c.bitmapMissing(m.bat.Count)
	for s, n := range c.hidden {
		if n > 0 {
			report(formats.Problem{Severity: formats.Severity(s), Structure: "BAT", Offset: m.bat.Off,
				Text: fmt.Sprintf("%d more problems of this kind", n)})
		}
	}
	if lost, first := c.leaked(mibs); lost > 0 {
		report(formats.Problem{Severity: formats.Leak, Structure: "file", Offset: first * mib,
			Text: fmt.Sprintf("%d MiB are not in use", lost)})
	}
	return nil
}

// problem reports what is wrong with BAT entry i.
func (c *checker) problem(s formats.Severity, i, block int64, format string, args ...any) {
	if c.count++; c.count > maxReports {
		c.hidden[s]++
		return
	}
	p := formats.Problem{Severity: s, Structure: "BAT", Offset: c.entryAt(i), Text: fmt.Sprintf(format, args...)}
	if block >= 0 {
		p.Guest = block * c.meta.block
		p.Length = min(c.meta.block, c.meta.size-p.Guest)
	}
	c.report(p)
}

func (c *checker) entry(i int64, e batEntry) {
	chunk, k := i/(c.ratio+1), i%(c.ratio+1)
	block := chunk*c.ratio + k
	if uint64(e)>>3&(1<<17-1) != 0 {
		c.problem(formats.Note, i, -1, "entry %d has reserved bits: 0x%x", i, uint64(e))
	}
	if k == c.ratio {
		c.bitmapEntry(i, chunk, e)
		return
	}
	if block >= c.blocks {
		return
	}
	switch e.state() {
	case notPresent, undefined, zero, unmapped:
		c.spare(e)
	case unmappedOld:
		c.problem(formats.Note, i, block, "payload block %d in state 5, which early drafts had for unmapped", block)
		c.spare(e)
	case reserved4:
		c.problem(formats.Risk, i, block, "payload block %d in state 4", block)
	case partly:
		if !c.meta.hasParent {
			c.problem(formats.Risk, i, block, "payload block %d is partly present, and the disk has no parent", block)
		}
		c.partial = block
		fallthrough
	case fullyPresent:
		c.payload(i, block, e)
	}
}

func (c *checker) payload(i, block int64, e batEntry) {
	n := c.meta.block
	guest := min(n, c.meta.size-block*n)
	if text := c.misplaced(e, n); text != "" {
		severity := formats.Risk
		if guest < n && c.misplaced(e, guest) == "" && !c.touches(e, n) {
			severity = formats.Note // the guest's part is there
		}
		c.problem(severity, i, block, "payload block %d %s", block, text)
	}
	c.claim(i, block, e, n, fmt.Sprintf("payload block %d", block))
}

// touches reports whether n bytes of a block touch a structure.
func (c *checker) touches(e batEntry, n int64) bool {
	_, ok := c.conflict(e.host(), e.host()+n)
	return ok
}

func (c *checker) bitmapEntry(i, chunk int64, e batEntry) {
	switch {
	case !c.meta.hasParent:
		// Nobody reads it. Some releases of qemu left copies of other entries.
		if e.state() != notPresent {
			c.problem(formats.Note, i, -1, "sector bitmap block %d in state %d, and the disk has no parent", chunk, e.state())
		}
	case e.state() == fullyPresent:
		severity := formats.Note
		if c.partial >= 0 {
			severity = formats.Risk
		}
		if text := c.misplaced(e, mib); text != "" {
			c.problem(severity, i, c.partial, "sector bitmap block %d %s", chunk, text)
		}
		c.claim(i, c.partial, e, mib, fmt.Sprintf("sector bitmap block %d", chunk))
	default:
		if e.state() != notPresent {
			c.problem(formats.Note, i, -1, "sector bitmap block %d in state %d", chunk, e.state())
		}
		c.bitmapMissing(i)
	}
	c.partial = -1
}

// bitmapMissing reports that entry i, of a sector bitmap block, is not there
// though a block needs it.
func (c *checker) bitmapMissing(i int64) {
	if c.partial >= 0 && c.meta.hasParent {
		c.problem(formats.Risk, i, c.partial, "payload block %d is partly present, and its sector bitmap block is missing",
			c.partial)
	}
	c.partial = -1
}

// claim marks the place of a block. One that is misplaced is reported already.
func (c *checker) claim(i, block int64, e batEntry, n int64, what string) {
	host := e.host()
	if host < 0 || c.touches(e, n) {
		return
	}
	first, end := host/mib, (host+n)/mib
	if at := c.used.first(first, end); at >= 0 {
		c.problem(formats.Risk, i, block, "%s at 0x%x lies where another block does", what, host)
	}
	c.used.set(first, end)
	c.lowest = min(c.lowest, first)
}

// spare marks the place to which a block points that is not read.
func (c *checker) spare(e batEntry) {
	if host := e.host(); host > 0 {
		c.lowest = min(c.lowest, host/mib)
		c.old.set(host/mib, (host+c.meta.block)/mib)
	}
}

// leaked counts the MiB of the file that nothing uses.
func (c *checker) leaked(mibs int64) (lost, first int64) {
	count := func(from, to int64) (n, first int64) {
		for i := to - 1; i >= from; i-- {
			if !c.used.has(i) && !c.old.has(i) {
				n, first = n+1, i
			}
		}
		return n, first
	}
	lost, first = count(c.lowest, mibs)
	if before, at := count(0, min(c.lowest, mibs)); before > slack {
		lost, first = lost+before, at
	}
	return lost, first
}

// A bitset holds bits [0, n). What lies outside is left out.
type bitset struct {
	words []uint64
	n     int64
}

func newBitset(n int64) bitset { return bitset{make([]uint64, (n+63)/64), n} }

func (s bitset) has(i int64) bool { return s.words[i/64]>>(i%64)&1 != 0 }

// set sets bits [from, to).
func (s bitset) set(from, to int64) {
	for i := max(from, 0); i < min(to, s.n); i++ {
		s.words[i/64] |= 1 << (i % 64)
	}
}

// first is the first bit of [from, to) that is set, or negative.
func (s bitset) first(from, to int64) int64 {
	for i := max(from, 0); i < min(to, s.n); i++ {
		if s.has(i) {
			return i
		}
	}
	return -1
}
