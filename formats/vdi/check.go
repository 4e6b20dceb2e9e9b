package vdi

import (
	"context"
	"encoding/binary"
	"fmt"

	"tarvm/formats"
)

// windowBits is how many blocks of the file are looked at in one pass over the
// map: 32 MiB of bits, which is all of a file of 256 TiB in blocks of 1 MiB.
const windowBits = 1 << 28

// mostAlike is how many problems of one kind are reported one by one.
const mostAlike = 100

// check implements formats.Image.Check.
func (m *image) check(ctx context.Context, report func(formats.Problem)) error {
	c := &checker{image: m, report: report, window: windowBits}
	return c.run(ctx)
}

type checker struct {
	*image
	report func(formats.Problem)
	window int64 // blocks of the file in one pass

	used     int64 // entries that are block numbers
	top      int64 // the highest block that is in the file; -1: none
	behind   int64 // entries behind the end of the disk
	outside  int64 // blocks not wholly in the file
	doubly   int64
	leaked   int64
	leakedAt int64 // the first of them
}

func (c *checker) run(ctx context.Context) error {
	c.top = -1
	// Blocks that begin in the file.
	slots := int64(0)
	if room := c.Image.Size() - c.data; room > 0 {
		slots = min((room-1)/c.step()+1, entryZero)
	}
	var seen []uint64
	for start := int64(0); ; start += c.window {
		n := max(0, min(c.window, slots-start))
		if words := (n + 63) / 64; int64(len(seen)) < words {
			seen = make([]uint64, words)
		}
		clear(seen)
		if err := c.pass(ctx, start, n, seen); err != nil {
			return err
		}
		for i := range n {
			if i%64 == 0 && ctx.Err() != nil {
				return context.Cause(ctx)
			}
			if seen[i/64]&(1<<(i%64)) == 0 {
				if c.leaked == 0 {
					c.leakedAt = start + i
				}
				c.leaked++
			}
		}
		if start+c.window >= slots {
			break
		}
	}
	c.sums()
	return nil
}

// pass looks at the entries that name blocks [start, start+n) of the file, and
// the first one at all others, too.
func (c *checker) pass(ctx context.Context, start, n int64, seen []uint64) error {
	for k := int64(0); k < c.blocks; {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		first, b, err := c.entries.Page(k)
		if err != nil {
			return err
		}
		for i := 0; i < len(b); i += 4 {
			v := binary.LittleEndian.Uint32(b[i:])
			if v >= entryZero {
				continue
			}
			if start == 0 {
				c.entry(first+int64(i/4), v)
			}
			if s := int64(v) - start; s >= 0 && s < n {
				if bit := uint64(1) << (s % 64); seen[s/64]&bit != 0 {
					c.twice(first+int64(i/4), v)
				} else {
					seen[s/64] |= bit
				}
			}
		}
		k = first + int64(len(b)/4)
	}
	return nil
}

// entry looks at entry k of the map by itself.
func (c *checker) entry(k int64, v uint32) {
	c.used++
	guest := k * c.block
	if guest >= c.size {
		c.behind++
		return
	}
	need := min(c.block, c.size-guest)
	_, have := c.place(v)
	if have > 0 {
		c.top = max(c.top, int64(v))
	}
	if have >= need {
		return
	}
	if c.outside++; c.outside <= mostAlike {
		c.report(formats.Problem{
			Severity: formats.Risk, Structure: "block table", Offset: c.table + 4*k, Guest: guest + have, Length: need - have,
			Text: fmt.Sprintf("block %d of the disk is block %d of the file, which has %d of its %d bytes", k, v, have, need),
		})
	}
}

func (c *checker) twice(k int64, v uint32) {
	if c.doubly++; c.doubly > mostAlike {
		return
	}
	p := formats.Problem{
		Severity: formats.Risk, Structure: "block table", Offset: c.table + 4*k,
		Text: fmt.Sprintf("block %d of the file is used twice, the second time for block %d of the disk", v, k),
	}
	if guest := k * c.block; guest < c.size {
		p.Guest, p.Length = guest, min(c.block, c.size-guest)
	}
	c.report(p)
}

// sums reports what only the whole map shows.
func (c *checker) sums() {
	add := func(s formats.Severity, structure string, off int64, format string, args ...any) {
		c.report(formats.Problem{Severity: s, Structure: structure, Offset: off, Text: fmt.Sprintf(format, args...)})
	}
	if c.outside > mostAlike {
		add(formats.Risk, "block table", c.table, "%d blocks are not wholly in the file", c.outside)
	}
	if c.doubly > mostAlike {
		add(formats.Risk, "block table", c.table, "%d blocks are used twice", c.doubly)
	}
	if c.behind > 0 {
		add(formats.Leak, "block table", c.table, "%d blocks are behind the end of the disk", c.behind)
	}
	if c.leaked > 0 {
		add(formats.Leak, "blocks", c.data+c.leakedAt*c.step(),
			"%d blocks of the file are used by nothing, the first is %d", c.leaked, c.leakedAt)
	}
	at := int64(offAllocated)
	if c.version == version0_2 {
		at = off0Allocated
	}
	switch {
	case c.allocated <= c.top:
		// VirtualBox puts the next block there.
		add(formats.Risk, "allocated count", at, "it is %d, but block %d of the file is in use and may be overwritten",
			c.allocated, c.top)
	case c.allocated != c.used:
		add(formats.Note, "allocated count", at, "it is %d, but %d blocks are in use", c.allocated, c.used)
	}
	if c.allocated > c.blocks {
		add(formats.Note, "allocated count", at, "it is %d of %d blocks: VirtualBox refuses the image", c.allocated,
			c.blocks)
	}
}
