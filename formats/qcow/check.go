package qcow

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"

	"tarvm/formats"
)

const (
	mostAlike = 100      // problems of one structure that a check tells one by one
	mostRuns  = 16 << 20 // runs of used bytes that a check remembers
)

// A use is bytes of the file that something needs.
type use struct {
	off, end int64
	at       int64 // where the entry is that says so
	what     string
}

// A checker remembers which bytes of the file are in use.
type checker struct {
	im     *image
	report func(formats.Problem)
	alike  map[string]int // problems by structure
	uses   []use
	buf    []byte
}

func (c *checker) problem(p formats.Problem, format string, args ...any) {
	if c.alike[p.Structure]++; c.alike[p.Structure] <= mostAlike {
		p.Text = fmt.Sprintf(format, args...)
		c.report(p)
	}
}

// damage reports err, if it is about the image. An error of the medium is returned.
func (c *checker) damage(err error, guest, length int64) error {
	var fe *formats.FormatError
	if !errors.Is(err, formats.ErrCorrupt) || !errors.As(err, &fe) {
		return err
	}
	c.problem(formats.Problem{
		Severity: formats.Risk, Structure: fe.Structure, Offset: fe.Offset, Guest: guest,
		Length: min(length, c.im.VirtualSize-guest),
	}, "%s", fe.Got)
	return nil
}

// use remembers n bytes at off. Those that follow each other are one.
func (c *checker) use(off, n, at int64, what string) {
	if last := len(c.uses) - 1; last >= 0 && c.uses[last].end == off && c.uses[last].what == what {
		c.uses[last].end += n
		return
	}
	c.uses = append(c.uses, use{off, off + n, at, what})
}

// check implements formats.Image.Check.
func (im *image) check(ctx context.Context, report func(formats.Problem)) error {
	c := &checker{im: im, report: report, alike: make(map[string]int), buf: make([]byte, im.Unit)}
	c.use(0, headerLen, 0, "header")
	c.use(im.l1, 8*im.l1Size, offL1, "L1 table")
	for i := int64(0); i < im.l1Size; {
		if err := ctx.Err(); err != nil {
			return err
		}
		v, n, err := im.table.Run(i, im.l1Size-i, func(v, entry uint64, _ int64) bool { return v == 0 && entry == 0 })
		if err != nil {
			return err
		}
		if v != 0 {
			if err := im.l2At(v, i); err == nil {
				c.use(int64(v), 8*im.l2, im.l1+8*i, "L2 table")
				err = c.l2(ctx, int64(v), i)
				if err != nil {
					return err
				}
			} else if err := c.damage(err, i*im.covers, im.covers); err != nil {
				return err
			}
		}
		i += n
		if len(c.uses) > mostRuns {
			c.problem(formats.Problem{Severity: formats.Note, Structure: "image", Offset: -1},
				"more than %d runs of clusters: not checked to the end", mostRuns)
			return nil
		}
	}
	c.overlaps()
	for structure, n := range c.alike {
		if n > mostAlike {
			report(formats.Problem{Severity: formats.Risk, Structure: structure, Offset: -1, Text: fmt.Sprintf("%d more problems", n-mostAlike)})
		}
	}
	return nil
}

// l2 checks the table at off, of L1 entry i.
func (c *checker) l2(ctx context.Context, off, i int64) error {
	im := c.im
	t := im.tableAt("L2 table", off, im.l2)
	for k := range t.Count {
		guest, at := i*im.covers+k*im.Unit, off+8*k
		if guest >= im.VirtualSize {
			break // entries that the disk does not need
		}
		v, err := t.At(k)
		if err != nil {
			return err
		}
		if v == 0 {
			continue
		}
		e, err := im.extent(v, 1, guest, guest, at)
		switch {
		case err != nil:
		case e.Kind == formats.Compressed:
			c.use(e.Host, e.Stored, at, "compressed cluster")
			if err = ctx.Err(); err == nil {
				err = im.inflate(e, c.buf[:e.Length])
			}
		case e.Length < min(im.Unit, im.VirtualSize-guest):
			err = im.m.Corrupt("L2 entry", at, "the cluster at 0x%x passes end of file at %d", v, im.m.Size())
		default:
			c.use(e.Host, min(im.Unit, im.m.Size()-e.Host), at, "cluster")
		}
		if err != nil {
			if err := c.damage(err, guest, im.Unit); err != nil {
				return err
			}
		}
	}
	return nil
}

// overlaps reports what is used twice, and what is not used.
func (c *checker) overlaps() {
	slices.SortFunc(c.uses, func(a, b use) int { return cmp.Or(cmp.Compare(a.off, b.off), cmp.Compare(a.at, b.at)) })
	last, unused := use{}, int64(0)
	for _, u := range append(c.uses, use{off: c.im.m.Size(), end: c.im.m.Size()}) {
		if u.off < last.end {
			c.problem(formats.Problem{Severity: formats.Risk, Structure: u.what, Offset: u.at},
				"bytes at 0x%x are also those of the %s that 0x%x names", u.off, last.what, last.at)
		}
		// What begins at a multiple of the cluster leaves less than one before it, and
		// qemu fills up the L1 table to a sector.
		if gap := u.off - last.end; gap >= c.im.Unit+sector {
			unused += gap
		}
		if u.end > last.end {
			last = u
		}
	}
	if unused > 0 {
		c.problem(formats.Problem{Severity: formats.Leak, Structure: "image", Offset: -1}, "%d bytes are not used", unused)
	}
}
