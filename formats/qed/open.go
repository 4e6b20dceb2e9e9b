package qed

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math"
	"slices"

	"tarvm/formats"
	"tarvm/formats/internal/parse"
)

// Entries of L1 and L2 tables are u64: file offsets in bytes, multiples of the
// cluster.
const (
	entryNone = 0 // the parent's, or zero
	entryZero = 1 // L2 only: reads as zero

	cacheLimit = 8 << 20
	maxRun     = 1024    // entries that one MapAt looks at, so that small reads in a large run stay cheap
	mostTables = 4 << 20 // L2 tables whose places are remembered
	mostAlike  = 100     // problems of one structure that a check tells one by one
	mostUnits  = 1 << 32 // clusters of a file that is checked: a bit for each
)

// Open implements formats.Format. It reads the header and the L1 table.
func (Format) Open(src formats.Source, _ formats.OpenOptions) (*formats.Image, error) {
	h, err := Format{}.Probe(src)
	if err != nil {
		return nil, err
	}
	m := parse.Image{Source: src, Format: Name}
	b, err := m.Bytes("header", 0, headerLen)
	if err != nil {
		return nil, err
	}
	le := binary.LittleEndian
	im := &image{
		m: m, cache: parse.NewCache(m, cacheLimit), size: h.VirtualSize, unit: h.Unit, bare: formats.Hole,
		header: int64(le.Uint32(b[offHeader:])) * h.Unit, table: int64(le.Uint32(b[offTable:])) * h.Unit,
	}
	im.covers = im.unit * (im.table / 8)
	if im.size > 0 {
		im.l1 = im.tableAt("L1 table", int64(le.Uint64(b[offL1:])))
		im.l1.Count = (im.size-1)/im.covers + 1
		switch {
		case im.l1.Count > im.table/8:
			return nil, m.Corrupt("disk size", offSize, "%d, and the tables are for %d L2 tables", im.size, im.table/8)
		case im.l1.Off < im.header:
			return nil, m.Corrupt("L1 table", offL1, "offset 0x%x lies in the header", im.l1.Off)
		}
	}
	features := le.Uint64(b[offFeatures:])
	img := &formats.Image{Header: *h, Map: im, Files: []formats.Source{src}, Check: im.check}
	if features&featureBacking != 0 && h.ParentHint != "" {
		img.Parent = &formats.ParentRef{Names: []string{h.ParentHint}}
		if features&featureRaw != 0 {
			img.Parent.Format = "raw"
		}
		im.bare = formats.Parent
	}
	if features&featureCheck != 0 {
		img.Problems = append(img.Problems, formats.Problem{
			Severity: formats.Note, Structure: "header", Offset: offFeatures,
			Text: "marked as not closed: its tables need a check",
		})
	}
	img.Facts = []formats.Fact{
		{Name: "cluster size", Value: fmt.Sprint(im.unit)},
		{Name: "table size", Value: fmt.Sprint(im.table)},
	}
	return img, im.findTables()
}

// An image maps a QED disk.
type image struct {
	m      parse.Image
	cache  *parse.Cache
	size   int64 // guest bytes
	unit   int64 // bytes of a cluster
	header int64 // bytes
	table  int64 // bytes of a table
	covers int64 // guest bytes of an L1 entry, at most 2^53
	l1     parse.Table
	l2s    []int64 // file offsets of L2 tables, sorted
	bare   formats.Kind
}

// tableAt returns the table at off.
func (im *image) tableAt(name string, off int64) parse.Table {
	return parse.Table{Name: name, Off: off, Count: im.table / 8, Width: 8, Order: binary.LittleEndian, Cache: im.cache}
}

// findTables remembers where L2 tables are, so that no guest data is read there.
func (im *image) findTables() error {
	if im.l1.Count > mostTables {
		return nil
	}
	for i := int64(0); i < im.l1.Count; i++ {
		v, err := im.l1.At(i)
		if err != nil {
			return err
		}
		if v != entryNone && im.l2At(v, i) == nil {
			im.l2s = append(im.l2s, int64(v))
		}
	}
	slices.Sort(im.l2s)
	return nil
}

// Size implements formats.Mapper.
func (im *image) Size() int64 { return im.size }

// MapAt implements formats.Mapper.
func (im *image) MapAt(off int64) (formats.Extent, error) {
	if off < 0 || off >= im.size {
		return formats.Extent{}, io.EOF
	}
	i := off / im.covers
	v, n, err := im.l1.Run(i, im.l1.Count-i, func(v, entry uint64, _ int64) bool {
		return v == entryNone &&
			entry == entryNone
	})
	if err != nil {
		return formats.Extent{}, err
	}
	if v == entryNone {
		e := formats.Extent{Offset: i * im.covers, Length: im.size - i*im.covers, Kind: im.bare}
		if i+n < im.l1.Count {
			e.Length = n * im.covers
		}
		return e, nil
	}
	if err := im.l2At(v, i); err != nil {
		return formats.Extent{}, err
	}
	l2 := im.tableAt("L2 table", int64(v))
	k := off % im.covers / im.unit
	v, n, err = l2.Run(k, min(maxRun, l2.Count-k), func(v, entry uint64, n int64) bool {
		if v <= entryZero {
			return entry == v
		}
		return entry == v+uint64(n*im.unit)
	})
	if err != nil {
		return formats.Extent{}, err
	}
	e := formats.Extent{Offset: i*im.covers + k*im.unit, Length: n * im.unit}
	switch v {
	case entryNone:
		e.Kind = im.bare
	case entryZero:
		e.Kind = formats.Zero
	default:
		room, err := im.room(v, l2.Off+8*k)
		if err != nil {
			return formats.Extent{}, err
		}
		e.Kind, e.Host, e.Length = formats.Data, int64(v), min(e.Length, room)
	}
	e.Length = min(e.Length, im.size-e.Offset)
	return e, nil
}

// l2At checks entry i of the L1 table.
func (im *image) l2At(v uint64, i int64) error {
	at := im.l1.Off + 8*i
	switch {
	case v%uint64(im.unit) != 0:
		return im.m.Corrupt("L1 entry", at, "offset 0x%x is not a multiple of the cluster", v)
	case v > math.MaxInt64 || !im.m.Inside(int64(v), im.table):
		return im.m.Corrupt("L1 entry", at, "the L2 table at 0x%x passes end of file at %d", v, im.m.Size())
	case im.inTables(int64(v), im.table):
		return im.m.Corrupt("L1 entry", at, "the L2 table at 0x%x lies in the header or the L1 table", v)
	}
	return nil
}

// inTables reports whether any of the n bytes at off are the header's or the L1
// table's.
func (im *image) inTables(off, n int64) bool {
	return off < im.header || off < im.l1.Off+im.table && im.l1.Off < off+n
}

// room returns how many bytes from v on, where the L2 entry at file offset at says
// that a cluster is, are neither metadata nor behind the last whole cluster.
func (im *image) room(v uint64, at int64) (int64, error) {
	if v%uint64(im.unit) != 0 {
		return 0, im.m.Corrupt("L2 entry", at, "offset 0x%x is not a multiple of the cluster", v)
	}
	if v > math.MaxInt64 || !im.m.Inside(int64(v), im.unit) {
		return 0, im.m.Corrupt("L2 entry", at, "the cluster at 0x%x passes end of file at %d", v, im.m.Size())
	}
	off := int64(v)
	if im.inTables(off, im.unit) {
		return 0, im.m.Corrupt("L2 entry", at, "the cluster at 0x%x lies in the header or the L1 table", v)
	}
	end := im.m.Size() / im.unit * im.unit
	if im.l1.Off > off {
		end = min(end, im.l1.Off)
	}
	i, _ := slices.BinarySearch(im.l2s, off+1) // the first table that begins behind off
	if i > 0 && im.l2s[i-1]+im.table > off {
		return 0, im.m.Corrupt("L2 entry", at, "the cluster at 0x%x lies in the L2 table at 0x%x", v, im.l2s[i-1])
	}
	if i < len(im.l2s) {
		end = min(end, im.l2s[i])
	}
	return end - off, nil
}

// A checker remembers which clusters of the file are in use.
type checker struct {
	im     *image
	report func(formats.Problem)
	alike  []formats.Problem // for each structure the first; Length: how many
	used   []uint64
}

func (c *checker) problem(p formats.Problem, format string, args ...any) {
	i := slices.IndexFunc(c.alike, func(q formats.Problem) bool {
		return q.Structure == p.Structure &&
			q.Severity == p.Severity
	})
	if i < 0 {
		i = len(c.alike)
		c.alike = append(c.alike, formats.Problem{Severity: p.Severity, Structure: p.Structure, Offset: -1})
	}
	c.alike[i].Length++
	if c.alike[i].Length <= mostAlike {
		p.Text = fmt.Sprintf(format, args...)
		c.report(p)
	}
}

// damage reports err, if it is about the image. An error of the medium is
// returned.
func (c *checker) damage(err error, guest, length int64) error {
	var fe *formats.FormatError
	if !errors.Is(err, formats.ErrCorrupt) || !errors.As(err, &fe) {
		return err
	}
	if guest < 0 || guest >= c.im.size { // an entry that the disk does not need
		guest, length = 0, 0
	}
	c.problem(formats.Problem{
		Severity: formats.Risk, Structure: fe.Structure, Offset: fe.Offset, Guest: guest, Length: min(length,
			c.im.size-guest),
	}, "%s", fe.Got)
	return nil
}

// use marks the n bytes at off as used. It reports whether they were free.
func (c *checker) use(off, n int64, what string, at int64) bool {
	free := true
	for k := off / c.im.unit; k < (off+n)/c.im.unit; k++ {
		if c.used[k/64]>>(k%64)&1 != 0 {
			free = false
		}
		c.used[k/64] |= 1 << (k % 64)
	}
	if !free {
		c.problem(formats.Problem{Severity: formats.Risk, Structure: what, Offset: at},
			"the cluster at 0x%x is used twice", off)
	}
	return free
}

// check implements formats.Image.Check.
func (im *image) check(ctx context.Context, report func(formats.Problem)) error {
	c := &checker{im: im, report: report}
	units := im.m.Size() / im.unit
	if units > mostUnits {
		c.problem(formats.Problem{Severity: formats.Risk, Structure: "image", Offset: -1}, "%d clusters: not checked", units)
		return nil
	}
	c.used = make([]uint64, units/64+1)
	c.use(0, im.header, "header", 0)
	if im.l1.Count > 0 {
		c.use(im.l1.Off, im.table, "L1 table", im.l1.Off)
	}
	// All tables first, so that data in a table is found where the data is.
	for _, walk := range []func(v uint64, i int64) error{
		func(v uint64, i int64) error {
			if err := im.l2At(v, i); err != nil {
				return c.damage(err, i*im.covers, im.covers)
			}
			c.use(int64(v), im.table, "L2 table", im.l1.Off+8*i)
			return nil
		},
		c.walk(ctx),
	} {
		for i := int64(0); i < im.l1.Count; i++ {
			if err := ctx.Err(); err != nil {
				return err
			}
			v, err := im.l1.At(i)
			if err != nil {
				return err
			}
			if v != entryNone {
				if err := walk(v, i); err != nil {
					return err
				}
			}
		}
	}
	c.leaks(units)
	for _, p := range c.alike {
		if n := p.Length - mostAlike; n > 0 {
			p.Length, p.Text = 0, fmt.Sprintf("%d more problems", n)
			report(p)
		}
	}
	return nil
}

// walk returns what checks the L2 table of an L1 entry. A table that two entries
// share is checked once.
func (c *checker) walk(ctx context.Context) func(v uint64, i int64) error {
	im := c.im
	done := make(map[uint64]bool)
	return func(v uint64, i int64) error {
		if im.l2At(v, i) != nil || done[v] {
			return nil
		}
		done[v] = true
		t := im.tableAt("L2 table", int64(v))
		for k := int64(0); k < t.Count; {
			if err := ctx.Err(); err != nil {
				return err
			}
			first, b, err := t.Page(k)
			if err != nil {
				return err
			}
			for k = first; len(b) >= 8; k, b = k+1, b[8:] {
				v := binary.LittleEndian.Uint64(b)
				if v <= entryZero {
					continue
				}
				at := t.Off + 8*k
				if _, err := im.room(v, at); err != nil {
					if err := c.damage(err, i*im.covers+k*im.unit, im.unit); err != nil {
						return err
					}
					continue
				}
				c.use(int64(v), im.unit, "L2 entry", at)
			}
		}
		return nil
	}
}

// leaks reports the clusters that nothing uses.
func (c *checker) leaks(units int64) {
	var from, n int64
	flush := func() {
		if n > 0 {
			c.problem(formats.Problem{Severity: formats.Leak, Structure: "cluster", Offset: from * c.im.unit},
				"%d clusters are not used", n)
		}
		n = 0
	}
	for k := range units {
		switch {
		case c.used[k/64]>>(k%64)&1 != 0:
			flush()
		case n == 0:
			from, n = k, 1
		default:
			n++
		}
	}
	flush()
}
