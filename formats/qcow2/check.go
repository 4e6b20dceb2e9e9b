package qcow2

import (
	"context"
	"errors"
	"fmt"
	"math/bits"

	"tarvm/formats"
	"tarvm/formats/internal/parse"
)

// mostAlike bounds how many problems of one structure and severity are told one
// by one.
const mostAlike = 100

// A checker counts what refers to each cluster of the file, and compares the
// counts with those that the image keeps.
type checker struct {
	im     *image
	ctx    context.Context //nolint:containedctx // it lives as long as one call of check
	report func(formats.Problem)
	alike  map[kindOf]int
	order  []kindOf
	uses   uses
	bad    []uint64 // a bit for each entry of the refcount table that is of no use
	skip   []bool   // snapshots whose L1 table overlaps something
	full   bool     // there were too many clusters to count

	bytes    []byte         // of a decoded cluster
	verified map[int64]bool // compressed clusters that were decoded, by file offset
	decoded  int64          // bytes of compressed clusters, in the file
	run      mismatch       // that was not reported yet
	at       int64          // file offset of block
	block    []byte         // a page of refcounts
}

type kindOf struct {
	structure string
	severity  formats.Severity
}

// maxVerified bounds the memory for compressed clusters that L2 tables share, and
// verifyFactor, with the file's size, how many bytes of them are decoded: in a
// hostile image many units may overlap.
const (
	maxVerified  = 1 << 20
	verifyFactor = 16
)

// check implements formats.Image.Check. Like qemu's it recomputes all refcounts.
// Each L2 table is walked once however many L1 tables refer to it, so that the
// time is bounded by the file's size. Compressed clusters are decoded, because
// nothing else shows damage of their bytes.
func (im *image) check(ctx context.Context, report func(formats.Problem)) error {
	c := &checker{
		im: im, ctx: ctx, report: report, alike: make(map[kindOf]int),
		uses: uses{pages: make(map[int64]*usePage)}, verified: make(map[int64]bool), at: -1,
		bad: make([]uint64, im.refs.Count/64+1), skip: make([]bool, len(im.snaps)),
	}
	for _, step := range []func() error{c.tables, c.blocks, c.bitmaps, c.l2s, c.walk, c.compare} {
		if err := step(); err != nil {
			return err
		}
		if c.full {
			c.problem(formats.Risk, "image", -1, "more than %d clusters are in use: not checked further",
				int64(maxUsePages)*usePageLen)
			break
		}
	}
	for _, k := range c.order {
		if n := c.alike[k] - mostAlike; n > 0 {
			report(formats.Problem{Severity: k.severity, Structure: k.structure, Offset: -1,
				Text: fmt.Sprintf("%d more problems", n)})
		}
	}
	return nil
}

func (c *checker) problem(s formats.Severity, structure string, off int64, format string, args ...any) {
	c.tell(formats.Problem{Severity: s, Structure: structure, Offset: off}, format, args...)
}

// tell reports p with a text, if it is not the hundredth of its kind.
func (c *checker) tell(p formats.Problem, format string, args ...any) {
	k := kindOf{p.Structure, p.Severity}
	n := c.alike[k]
	c.alike[k]++
	if n == 0 {
		c.order = append(c.order, k)
	}
	if n < mostAlike {
		p.Text = fmt.Sprintf(format, args...)
		c.report(p)
	}
}

// damage reports err, if it is about the image. An error of the medium is
// returned.
func (c *checker) damage(err error, guest, length int64) error {
	var fe *formats.FormatError
	if err == nil || !damaged(err) || !errors.As(err, &fe) {
		return err
	}
	c.tell(formats.Problem{Severity: formats.Risk, Structure: fe.Structure, Offset: fe.Offset, Guest: guest,
		Length: length}, "%s", fe.Got)
	return nil
}

// use counts times uses of the clusters of n bytes at off, which are in the
// file at least in part, as role. It reports whether nothing else is there.
func (c *checker) use(off, n int64, as role, times uint64, what string) bool {
	alone := true
	unit := c.im.unit
	if off < 0 || n <= 0 {
		return alone // where nothing is, a header may say anything
	}
	for at := off &^ (unit - 1); at < off+n && at < c.im.m.Size(); at += unit {
		p, k := c.uses.page(at >> c.im.clusterBits)
		if p == nil {
			c.full = true
			return alone
		}
		old := p.role[k]
		var clash role
		switch as {
		case roleData:
			clash = old & (roleTable | roleBlock | roleL2)
		case roleL2:
			clash = old &^ (roleL2 | roleWalked)
		default:
			clash = old
		}
		if clash != 0 {
			alone = false
			c.problem(formats.Risk, what, at, "its cluster is used for %s, too", clash)
		}
		p.role[k] |= as
		p.add(k, times)
	}
	return alone
}

// tables counts the tables that the header names.
func (c *checker) tables() error {
	im := c.im
	c.use(0, 1, roleTable, 1, "header")
	c.use(im.active.Off, 8*im.active.Count, roleTable, 1, "L1 table")
	c.use(im.refs.Off, 8*im.refs.Count, roleTable, 1, "refcount table")
	c.use(int64(im.snapshotsOff), im.snapsLen, roleTable, 1, "snapshot table")
	for i, s := range im.snaps {
		if err := c.ctx.Err(); err != nil {
			return err
		}
		c.skip[i] = !s.good || !c.use(s.l1.Off, 8*s.l1.Count, roleTable, 1, s.l1.Name)
	}
	return nil
}

// blocks counts refcount blocks.
func (c *checker) blocks() error {
	im := c.im
	return c.each(&im.refs, func(i int64, v uint64) error {
		off, at := v&^511, im.refs.Off+8*i
		fail := func(format string, args ...any) error {
			c.bad[i/64] |= 1 << (i % 64)
			c.problem(formats.Risk, "refcount table entry", at, format, args...)
			return nil
		}
		switch {
		case v&511 != 0:
			c.problem(formats.Risk, "refcount table entry", at, "reserved bits 0x%x are set", v&511)
		case v == 0:
			return nil
		}
		switch {
		case off == 0:
		case off%uint64(im.unit) != 0:
			return fail("offset 0x%x is not a multiple of the cluster", off)
		case off > uint64(im.m.Size()) || !im.m.Inside(int64(off), im.unit):
			return fail("the block at 0x%x passes end of file at %d", off, im.m.Size())
		case !c.use(int64(off), im.unit, roleBlock, 1, "refcount block"):
			c.bad[i/64] |= 1 << (i % 64)
		}
		return nil
	})
}

// each calls f for the entries of t.
func (c *checker) each(t *parse.Table, f func(i int64, v uint64) error) error {
	for i := int64(0); i < t.Count && !c.full; {
		if err := c.ctx.Err(); err != nil {
			return err
		}
		_, b, err := t.Page(i)
		if err != nil {
			return err
		}
		for ; len(b) >= 8 && !c.full; b = b[8:] {
			if v := bigEndian.Uint64(b); v != 0 {
				if err := f(i, v); err != nil {
					return err
				}
			}
			i++
		}
	}
	return nil
}

// bitmaps counts the clusters of dirty bitmaps.
func (c *checker) bitmaps() error {
	im := c.im
	c.use(im.directory.off, im.directory.end-im.directory.off, roleTable, 1, "bitmap directory")
	for _, b := range im.bitmaps {
		if !c.use(b.table.Off, 8*b.table.Count, roleTable, 1, "bitmap table") {
			continue
		}
		err := c.each(&b.table, func(i int64, v uint64) error {
			off, at := int64(v&offsetMask), b.table.Off+8*i
			switch {
			case v&^uint64(offsetMask) != 0 && (off != 0 || v != bitmapOnes):
				c.problem(formats.Risk, "bitmap table entry", at, "reserved bits 0x%x are set", v&^uint64(offsetMask))
			case off == 0:
				return nil
			}
			switch {
			case off == 0:
			case off%im.unit != 0:
				c.problem(formats.Risk, "bitmap table entry", at, "offset 0x%x is not a multiple of the cluster", off)
			case off >= im.m.Size():
				c.problem(formats.Risk, "bitmap table entry", at, "offset 0x%x is behind the end of file at %d", off, im.m.Size())
			default:
				c.use(off, im.unit, roleTable, 1, "bitmap")
			}
			return nil
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// views calls f for the L1 tables of the active disk and of the snapshots.
func (c *checker) views(f func(l1 *parse.Table, active bool) error) error {
	if err := f(&c.im.active, true); err != nil {
		return err
	}
	for i := range c.im.snaps {
		if !c.skip[i] {
			if err := f(&c.im.snaps[i].l1, false); err != nil {
				return err
			}
		}
	}
	return nil
}

// l2s counts how often each L2 table is used.
func (c *checker) l2s() error {
	covers := c.im.covers()
	return c.views(func(l1 *parse.Table, active bool) error {
		return c.each(l1, func(i int64, v uint64) error {
			at := l1.Off + 8*i
			if v&reservedMask != 0 {
				c.problem(formats.Risk, "L1 entry", at, "reserved bits 0x%x are set", v&reservedMask)
			}
			if v&offsetMask == 0 {
				return nil
			}
			host, err := c.im.l2At(v, at)
			if err != nil {
				var guest, length int64
				if active {
					guest, length = i*covers, covers
				}
				return c.damage(err, guest, length)
			}
			c.use(host, c.im.unit, roleL2, 1, "L2 table")
			if active {
				return c.copied("L1 entry", at, v, host)
			}
			return nil
		})
	})
}

// walk counts what L2 tables refer to. A table that several L1 entries share is
// walked once, and its clusters are counted as often as it is used.
func (c *checker) walk() error {
	covers := c.im.covers()
	return c.views(func(l1 *parse.Table, active bool) error {
		return c.each(l1, func(i int64, v uint64) error {
			if v&offsetMask == 0 {
				return nil
			}
			host, err := c.im.l2At(v, l1.Off+8*i)
			if err != nil {
				return nil // l2s reported it
			}
			p, k := c.uses.page(host >> c.im.clusterBits)
			if p == nil || p.role[k]&roleWalked != 0 {
				return nil
			}
			p.role[k] |= roleWalked
			return c.walkL2(host, p.get(k), i*covers, active)
		})
	})
}

func (c *checker) walkL2(host int64, times uint64, guest int64, active bool) error {
	im := c.im
	t := im.table("L2 table", host, im.unit/8)
	words := im.words()
	for i := int64(0); i < t.Count && !c.full; {
		if err := c.ctx.Err(); err != nil {
			return err
		}
		_, b, err := t.Page(i)
		if err != nil {
			return err
		}
		p := page{im: im, b: b, off: host + 8*i, guest: guest + i/words*im.unit, words: words, step: im.unit,
			bare: formats.Hole}
		if words == 2 {
			p.step /= subclusters
		}
		for k := int64(0); k < int64(len(b))/8 && !c.full; k += words {
			if bigEndian.Uint64(b[8*k:]) == 0 && (words == 1 || bigEndian.Uint64(b[8*k+8:]) == 0) {
				continue
			}
			if err := c.entry(&p, k, times, active); err != nil {
				return err
			}
		}
		i += int64(len(b)) / 8
	}
	return nil
}

// entry checks the L2 entry that is number k of the page, and counts what it
// refers to.
func (c *checker) entry(p *page, k int64, times uint64, active bool) error {
	im := c.im
	entry, at := bigEndian.Uint64(p.b[8*k:]), p.off+8*k
	var guest, length int64
	if active {
		guest = p.guest + k/p.words*im.unit
		length = min(im.unit, max(0, im.VirtualSize-guest))
	}
	var bitmap uint64
	if p.words == 2 {
		bitmap = bigEndian.Uint64(p.b[8*k+8:])
	}
	u := k / p.words * (im.unit / p.step)
	if entry&flagCompressed != 0 {
		pl, err := p.at(u, 0)
		if err != nil {
			return c.damage(err, guest, length)
		}
		if entry&flagCopied != 0 || bitmap != 0 {
			c.problem(formats.Note, "L2 entry", at, "a compressed cluster with bits that only others have")
		}
		c.use(pl.host, pl.stored, roleData, times, "compressed cluster")
		return c.verify(pl, guest, length)
	}
	reserved := entry & (reservedMask &^ flagZero &^ flagCompressed)
	if p.words == 2 {
		reserved |= entry & flagZero
		if have := uint32(bitmap); have != 0 {
			u += int64(bits.TrailingZeros32(have)) // one whose place is looked at
		}
	}
	if reserved != 0 {
		c.tell(formats.Problem{Severity: formats.Risk, Structure: "L2 entry", Offset: at, Guest: guest,
			Length: length}, "reserved bits 0x%x are set", reserved)
	}
	if _, err := p.at(u, 0); err != nil {
		return c.damage(err, guest, length)
	}
	host := int64(entry & offsetMask)
	if host == 0 || im.external {
		return nil
	}
	if host >= im.m.Size() { // of a zero cluster: p.at did not look at it
		c.problem(formats.Risk, "L2 entry", at, "offset 0x%x is behind the end of file at %d", host, im.m.Size())
		return nil
	}
	need := min(im.unit, length)
	if p.words == 2 {
		need = min(need, int64(bits.Len32(uint32(bitmap)))*p.step)
	}
	if rest := im.m.Size() - host; active && rest < need && entry&flagZero == 0 {
		// Programs leave away what is behind the end of the disk, and no more.
		c.tell(formats.Problem{Severity: formats.Note, Structure: "guest data", Offset: host, Guest: guest + rest,
			Length: need - rest},
			"the file ends %d bytes into the cluster: the rest reads as zero", rest)
	}
	c.use(host, im.unit, roleData, times, "guest data")
	if active {
		return c.copied("L2 entry", at, entry, host)
	}
	return nil
}

// copied compares the flag of an entry of the active disk with the refcount of
// the cluster at host. Where the refcounts are known to be wrong it does nothing.
func (c *checker) copied(structure string, at int64, entry uint64, host int64) error {
	if c.im.incompat&incompatDirty != 0 {
		return nil
	}
	n, known, err := c.recorded(host >> c.im.clusterBits)
	if err != nil || !known {
		return err
	}
	switch flag := entry&flagCopied != 0; {
	case flag && n != 1:
		c.problem(formats.Risk, structure, at, "the cluster at 0x%x may be written in place, and its refcount is %d", host, n)
	case !flag && n == 1:
		c.problem(formats.Note, structure, at, "the flag that the refcount of the cluster at 0x%x is 1 is missing", host)
	}
	return nil
}

// verify decodes a compressed cluster.
func (c *checker) verify(p place, guest, length int64) error {
	if c.verified[p.host] {
		return nil
	}
	if len(c.verified) == maxVerified {
		clear(c.verified)
	}
	c.verified[p.host] = true
	if c.decoded/verifyFactor > c.im.m.Size() {
		c.problem(formats.Note, "compressed cluster", p.host, "not verified: too many are shared")
		return nil
	}
	c.decoded += p.stored
	if length == 0 {
		length = c.im.unit
	}
	if c.bytes == nil {
		c.bytes = make([]byte, c.im.unit)
	}
	err := c.im.inflate(formats.Extent{Length: length, Host: p.host, Stored: p.stored}, c.bytes[:length])
	return c.damage(err, guest, length)
}
