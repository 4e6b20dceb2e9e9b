package parallels

import (
	"context"
	"crypto/md5"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"slices"

	"tarvm/formats"
)

const (
	// windowBits is how many clusters of the file are looked at in one pass over
	// the table: 32 MiB of bits, which is all of a file of 256 TiB in clusters
	// of 1 MiB.
	windowBits = 1 << 28
	// mostAlike is how many problems of one kind are reported one by one.
	mostAlike = 100
	// mostAstray is how many clusters off the grid are compared: 2 MiB.
	mostAstray = 1 << 18
)

// check implements formats.Image.Check.
func (f *file) check(ctx context.Context, report func(formats.Problem)) error {
	c := &checker{file: f, report: report, window: windowBits}
	return c.run(ctx)
}

// A checker divides the file into slots of one cluster, so that those on the
// grid fill one each. Slot 0 begins before the file.
type checker struct {
	*file
	report func(formats.Problem)
	window int64 // slots of one pass

	base    int64 // file offset of slot 0; negative or 0
	used    int64 // clusters
	behind  int64 // of them, those behind the end of the disk
	outside int64 // those not wholly in the file, or in the table
	early   int64 // those before the first cluster
	overlap int64
	astray  []int64 // offsets of those off the grid
	lost    bool    // there were more
	leaked  int64
	leakAt  int64 // file offset of the first
}

func (c *checker) run(ctx context.Context) error {
	c.base = c.generic.Grid - c.unit
	slots := (c.m.Size() - c.base + c.unit - 1) / c.unit
	// What is before the first cluster is not lost.
	firstData := (max(c.tableEnd(), min(c.data, c.m.Size())) - c.base + c.unit - 1) / c.unit
	var seen []uint64
	for start := int64(0); start < slots; start += c.window {
		w := &window{start: start, n: min(c.window, slots-start)}
		if words := (w.n + 63) / 64; int64(len(seen)) < words {
			seen = make([]uint64, words)
		}
		clear(seen)
		w.seen = seen
		if err := c.pass(ctx, w); err != nil {
			return err
		}
		c.strays(w)
		for i := max(0, firstData-start); i < w.n; i++ {
			if i%64 == 0 && ctx.Err() != nil {
				return context.Cause(ctx)
			}
			if !w.get(start + i) {
				if c.leaked++; c.leaked == 1 {
					c.leakAt = c.base + (start+i)*c.unit
				}
			}
		}
	}
	c.sums()
	return c.sumOfExtension(ctx)
}

// window is the slots of one pass, a bit each.
type window struct {
	start, n int64
	seen     []uint64
}

func (w *window) get(slot int64) bool {
	s := slot - w.start
	return s >= 0 && s < w.n && w.seen[s/64]&(1<<(s%64)) != 0
}

func (w *window) set(slot int64) {
	if s := slot - w.start; s >= 0 && s < w.n {
		w.seen[s/64] |= 1 << (s % 64)
	}
}

// pass looks at all clusters that are in use.
func (c *checker) pass(ctx context.Context, w *window) error {
	for k := int64(0); k < c.entries; {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		first, b, err := c.table.Page(k)
		if err != nil {
			return err
		}
		for i := 0; i < len(b); i += 4 {
			v := binary.LittleEndian.Uint32(b[i:])
			if v == 0 {
				continue
			}
			at, host := first+int64(i/4), int64(v)*c.place
			p := formats.Problem{Structure: c.table.Name, Offset: headerLen + 4*at}
			if guest := at * c.unit; guest < c.size {
				p.Guest, p.Length = guest, min(c.unit, c.size-guest)
			}
			if w.start == 0 {
				c.entry(p, at, host)
			}
			c.mark(w, host, p)
		}
		k = first + int64(len(b)/4)
	}
	if c.extension < c.tableEnd() || !c.m.Inside(c.extension, c.unit) {
		return nil
	}
	c.mark(w, c.extension, formats.Problem{Structure: c.what("format extension"), Offset: offExt})
	for _, m := range c.bitmaps {
		if err := c.bitmap(ctx, w, m); err != nil {
			return err
		}
	}
	return nil
}

// bitmap looks at the clusters of a dirty bitmap.
func (c *checker) bitmap(ctx context.Context, w *window, m bitmap) error {
	const per = 8 << 10
	for i := int64(0); i < m.entries; i += per {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		n := min(per, m.entries-i)
		b, err := c.m.Bytes(c.what("dirty bitmap"), m.table+8*i, 8*n)
		if err != nil {
			return err
		}
		for k := range n {
			v := binary.LittleEndian.Uint64(b[8*k:])
			if v <= 1 {
				continue
			}
			p := formats.Problem{Severity: formats.Note, Structure: c.what("dirty bitmap"), Offset: m.table + 8*(i+k)}
			if v > uint64(c.m.Size()/sector) || int64(v)*sector < c.tableEnd() || !c.m.Inside(int64(v)*sector, c.unit) {
				if w.start == 0 {
					p.Text = fmt.Sprintf("a cluster at sector %d, of a file of %d", v, c.m.Size()/sector)
					c.report(p)
				}
				continue
			}
			c.mark(w, int64(v)*sector, p)
		}
	}
	return nil
}

// entry looks at the cluster at host, of entry at, by itself.
func (c *checker) entry(p formats.Problem, at, host int64) {
	c.used++
	if p.Length == 0 {
		c.behind++
		return
	}
	have := max(0, min(p.Length, c.m.Size()-host))
	switch {
	case host < c.tableEnd():
		p.Text = fmt.Sprintf("cluster %d of the disk is at 0x%x, within the table", at, host)
	case have < p.Length:
		p.Text = fmt.Sprintf("cluster %d of the disk is at 0x%x of a file of 0x%x bytes", at, host, c.m.Size())
		p.Guest, p.Length = p.Guest+have, p.Length-have
	default:
		if host < c.data {
			c.early++
		}
		return
	}
	if c.outside++; c.outside <= mostAlike {
		p.Severity = formats.Risk
		c.report(p)
	}
}

// mark takes the cluster at host into account; p says who uses it.
func (c *checker) mark(w *window, host int64, p formats.Problem) {
	if host >= c.m.Size() {
		return
	}
	off := host - c.base
	if off%c.unit != 0 {
		if w.start > 0 {
			return
		}
		if len(c.astray) == mostAstray {
			c.lost = true
			return
		}
		c.astray = append(c.astray, host)
		return
	}
	slot := off / c.unit
	if w.get(slot) {
		p.Text = fmt.Sprintf("the cluster at 0x%x is used twice", host)
		c.overlaps(p)
	}
	w.set(slot)
}

func (c *checker) overlaps(p formats.Problem) {
	if c.overlap++; c.overlap <= mostAlike {
		p.Severity = formats.Risk
		c.report(p)
	}
}

// strays compares the clusters off the grid with those in w, and with each other
// in the first pass.
func (c *checker) strays(w *window) {
	if w.start == 0 {
		slices.Sort(c.astray)
	}
	p := formats.Problem{Structure: c.table.Name, Offset: headerLen}
	for i, host := range c.astray {
		slot := (host - c.base) / c.unit
		if w.get(slot) || w.get(slot+1) {
			p.Text = fmt.Sprintf("the cluster at 0x%x overlaps another", host)
			c.overlaps(p)
		}
		if w.start == 0 && i > 0 && host-c.astray[i-1] < c.unit {
			p.Text = fmt.Sprintf("the clusters at 0x%x and 0x%x overlap", c.astray[i-1], host)
			c.overlaps(p)
		}
	}
	for _, host := range c.astray {
		slot := (host - c.base) / c.unit
		w.set(slot)
		w.set(slot + 1)
	}
}

// sums reports what only the whole table shows.
func (c *checker) sums() {
	add := func(s formats.Severity, off int64, format string, args ...any) {
		c.report(formats.Problem{Severity: s, Structure: c.table.Name, Offset: off, Text: fmt.Sprintf(format, args...)})
	}
	if c.outside > mostAlike {
		add(formats.Risk, headerLen, "%d clusters are not wholly in the file, or in the table", c.outside)
	}
	if c.overlap > mostAlike {
		add(formats.Risk, headerLen, "%d clusters are used twice or overlap", c.overlap)
	}
	if c.behind > 0 {
		add(formats.Leak, headerLen, "%d clusters are behind the end of the disk", c.behind)
	}
	if c.early > 0 {
		add(formats.Note, headerLen, "%d clusters are before 0x%x, where the first should be", c.early, c.data)
	}
	if len(c.astray) > 0 {
		add(formats.Note, headerLen, "%d clusters are not at a multiple of their size from the others", len(c.astray))
	}
	if c.lost {
		add(formats.Note, headerLen, "there are more such clusters, which were not looked at")
	}
	if c.flags&flagEmpty != 0 && c.used > 0 {
		add(formats.Note, headerLen, "the header says that the image is empty, but %d clusters are in use", c.used)
	}
	if c.leaked > 0 && !c.lost {
		c.report(formats.Problem{
			Severity: formats.Leak, Structure: c.what("clusters"), Offset: c.leakAt,
			Text: fmt.Sprintf("%d clusters of the file are used by nothing", c.leaked),
		})
	}
}

// sumOfExtension compares the checksum of the format extension.
func (c *checker) sumOfExtension(ctx context.Context) error {
	what := c.what("format extension")
	if c.extension < c.tableEnd() || !c.m.Inside(c.extension, c.unit) {
		return nil
	}
	head, err := c.m.Bytes(what, c.extension, extFirst)
	if err != nil {
		return err
	}
	if binary.LittleEndian.Uint64(head) != extMagic {
		return nil // noted when the image was opened
	}
	sum := md5.New()
	b := make([]byte, min(c.unit, 64<<10))
	for off := int64(extFirst); off < c.unit; {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		n, err := c.m.ReadAt(b[:min(int64(len(b)), c.unit-off)], c.extension+off)
		sum.Write(b[:n])
		off += int64(n)
		if err != nil && (off < c.unit || !errors.Is(err, io.EOF)) {
			return &formats.FormatError{Format: Name, Structure: what, Offset: c.extension + off, Err: err}
		}
	}
	if string(sum.Sum(nil)) != string(head[extSum:extFirst]) {
		c.report(formats.Problem{
			Severity: formats.Note, Structure: what, Offset: c.extension + extSum,
			Text: "the checksum is wrong: dirty bitmaps are not to be trusted",
		})
	}
	return nil
}
