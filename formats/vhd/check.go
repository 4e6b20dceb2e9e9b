package vhd

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"

	"tarvm/formats"
)

// window is how many places for blocks are looked at in one pass over the BAT,
// 8 bytes each. A file of 2 TiB with blocks of 2 MiB has a million.
const window = 4 << 20

// maxReports is how many problems of one sort are told one by one.
const maxReports = 100

// Sorts of problems.
const (
	outside  = iota // blocks that cannot be where the BAT says
	overlaps        // blocks on top of each other
	beyond          // blocks that are not of the disk
	short           // blocks that are not whole
	empty           // blocks of which nothing is used
	lost            // room that nothing uses
	sorts
)

// A tally passes problems on, and counts those of a sort after the first.
type tally struct {
	report func(formats.Problem)
	n      [sorts]int64
	last   [sorts]formats.Problem
}

func (t *tally) add(sort int, p formats.Problem) {
	t.n[sort]++
	t.last[sort] = p
	if t.n[sort] <= maxReports {
		t.report(p)
	}
}

func (t *tally) close() {
	for sort, n := range t.n {
		if n > maxReports {
			p := t.last[sort]
			t.report(formats.Problem{
				Severity: p.Severity, Structure: p.Structure, Offset: -1,
				Text: fmt.Sprintf("%d more, the last of them: %s", n-maxReports, p.Text),
			})
		}
	}
}

// A slot is a block in the file: its sector, and its number plus one, 0 for none.
// Numbers fit, because a BAT has less than 1<<32 entries.
type slot struct{ sector, number uint32 }

// check implements formats.Image.Check. The file is cut into places of the size
// of a block with its bitmap. Blocks that begin in one place overlap, and so may
// those in neighbouring places. Each pass over the BAT fills a window of them.
func (d *dynamic) check(ctx context.Context, report func(formats.Problem)) error {
	c := &checker{dynamic: d, tally: tally{report: report}, span: (d.bitmap + d.unit) / sector}
	c.used = slices.SortedFunc(slices.Values(d.used), func(a, b region) int { return cmp.Compare(a.start, b.start) })
	places := min(d.end, absent*sector)/sector/c.span + 1
	c.slots = make([]slot, min(places, window))
	for c.first = 0; c.first < places; c.first += int64(len(c.slots)) {
		clear(c.slots)
		if err := c.fill(ctx); err != nil {
			return err
		}
		if err := c.walk(ctx); err != nil {
			return err
		}
	}
	c.gap(c.done, d.end)
	if c.partial > 0 {
		report(formats.Problem{
			Severity: formats.Note, Structure: "bitmap", Offset: -1,
			Text: fmt.Sprintf("%d blocks have sectors that are marked as not used: they read as zero, "+
				"but programs that ignore bitmaps read what is stored there", c.partial),
		})
	}
	c.tally.close()
	return nil
}

type checker struct {
	*dynamic
	tally
	span    int64    // sectors of a block with its bitmap
	used    []region // in order
	slots   []slot
	first   int64 // place of slots[0]
	prev    slot  // the block before
	done    int64 // where the space that was looked at ends
	partial int64 // blocks of a dynamic disk with clear bits
}

// fill goes through the BAT and notes the blocks that begin in the window. The
// first time it reports what is wrong with entries.
func (c *checker) fill(ctx context.Context) error {
	for i := int64(0); i < c.entries; {
		if i%1024 == 0 && ctx.Err() != nil {
			return context.Cause(ctx)
		}
		v, n, err := c.bat.Run(i, c.entries-i, bothAbsent)
		if err != nil {
			return err
		}
		if v == absent {
			if ctx.Err() != nil {
				return context.Cause(ctx)
			}
			i += n
			continue
		}
		c.entry(i, v)
		i++
	}
	return nil
}

// risk begins a Problem of entry i of the BAT.
func (c *checker) risk(i int64) formats.Problem {
	p := formats.Problem{Severity: formats.Risk, Structure: "BAT", Offset: c.table + 4*i}
	if i < c.blocks {
		p.Guest, p.Length = i*c.unit, min(c.unit, c.size-i*c.unit)
	}
	return p
}

// entry notes and checks entry i of the BAT.
func (c *checker) entry(i int64, v uint64) {
	p := c.risk(i)
	at, missing, err := c.place(i, v)
	if c.first == 0 {
		switch {
		case i >= c.blocks:
			p.Severity = formats.Leak
			p.Text = fmt.Sprintf("block %d is behind the end of the disk", i)
			c.add(beyond, p)
		case err != nil:
			p.Text = got(err)
			c.add(outside, p)
		case missing > 0:
			p.Guest, p.Length = p.Guest+p.Length-min(missing, p.Length), min(missing, p.Length)
			p.Text = fmt.Sprintf("block %d at 0x%x: %d bytes pass end of file", i, at, missing)
			c.add(short, p)
		case at+c.bitmap+c.unit > c.end:
			p.Severity = formats.Note
			p.Text = fmt.Sprintf("block %d at 0x%x is stored only as far as the disk goes", i, at)
			c.report(p) // there is only one
		}
	}
	if err != nil {
		return
	}
	k := int64(v)/c.span - c.first
	if k < 0 || k >= int64(len(c.slots)) {
		return
	}
	s := &c.slots[k]
	if s.number != 0 {
		p.Severity = formats.Risk
		p.Text = overlap(i, at, *s)
		c.add(overlaps, p)
		return
	}
	*s = slot{uint32(v), uint32(i + 1)}
}

func overlap(i, at int64, with slot) string {
	return fmt.Sprintf("block %d at 0x%x overlaps block %d at 0x%x", i, at, with.number-1, int64(with.sector)*sector)
}

// got is what an error of place found.
func got(err error) string {
	if fe := (*formats.FormatError)(nil); errors.As(err, &fe) {
		return fe.Got
	}
	return err.Error()
}

// walk goes through the window in the file's order.
func (c *checker) walk(ctx context.Context) error {
	for k, s := range c.slots {
		if k%1024 == 0 && ctx.Err() != nil {
			return context.Cause(ctx)
		}
		if s.number == 0 {
			continue
		}
		i, at := int64(s.number-1), int64(s.sector)*sector
		if c.prev.number != 0 && int64(s.sector)-int64(c.prev.sector) < c.span {
			p := c.risk(i)
			p.Text = overlap(i, at, c.prev)
			c.add(overlaps, p)
		}
		c.gap(c.done, at)
		c.done = max(c.done, at+c.span*sector)
		c.prev = s
		if i >= c.blocks {
			continue
		}
		if err := c.checkBitmap(i, at); err != nil {
			return err
		}
	}
	return nil
}

// checkBitmap looks at the bitmap of block i at byte at.
func (c *checker) checkBitmap(i, at int64) error {
	b, err := c.m.Bytes("bitmap", at, c.bitmap)
	if err != nil {
		return err
	}
	sectors := (min(c.unit, c.size-i*c.unit) + sector - 1) / sector
	set, n := run(b, 0, sectors)
	switch {
	case n == sectors && !set:
		c.add(empty, formats.Problem{
			Severity: formats.Leak, Structure: "bitmap", Offset: at,
			Text: fmt.Sprintf("block %d is stored, and none of its sectors is used", i),
		})
	case n < sectors && c.nothing == formats.Hole:
		c.partial++
	}
	return nil
}

// gap reports room for a block between from and to that nothing uses. Less is
// what writers leave in order to align blocks.
func (c *checker) gap(from, to int64) {
	piece := func(to int64) {
		if n := to - from; n >= c.span*sector {
			c.add(lost, formats.Problem{
				Severity: formats.Leak, Structure: "file", Offset: from,
				Text: fmt.Sprintf("nothing uses %d bytes", n),
			})
		}
	}
	for _, r := range c.used {
		if r.end > from && r.start < to {
			piece(r.start)
			from = max(from, r.end)
		}
	}
	if from < to {
		piece(to)
	}
}
