package vmdk

import (
	"bytes"
	"cmp"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"math/bits"
	"runtime"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sync/errgroup"

	"tarvm/formats"
)

const (
	// maxReports is how many problems of one severity and structure of an
	// extent are reported one by one.
	maxReports = 100
	// maxListed is how many tables of an extent are compared with each other
	// and with grains: 64 TiB of the usual grains, in both copies.
	maxListed = 1 << 22
)

// checker looks for damage in the extents of a disk.
type checker struct {
	disk  *disk
	files []formats.Source
	desc  *Descriptor
}

// check implements Image.Check.
//
// It finds: flat extents that are shorter than the descriptor says, and extents
// that share a file; directories that name tables outside the file, in metadata,
// or twice; grains outside the file, in metadata, or used twice, wholly or in
// part; tables that differ from their redundant copies; compressed grains that
// are another's, that do not decode, or whose sum is wrong; headers that are not
// as the footer says; room in the file that no grain uses. Of seSparse extents
// it does not look at the bitmap of free grains, the backmap and the journal.
func (c *checker) check(ctx context.Context, report func(formats.Problem)) error {
	r := &reporter{report: report}
	if d := c.desc; d != nil {
		long := d.DDB["longcontentid"]
		if n := len(long) - 8; n >= 0 && d.CID != 0 && !strings.EqualFold(long[n:], cid(d.CID)) {
			r.add(formats.Note, "descriptor", -1, "longContentID ends in %s, the CID is %s", brief(long[n:]), cid(d.CID))
		}
	}
	c.shares(r)
	done := map[*sparse]bool{}
	for i := range c.disk.parts {
		p := &c.disk.parts[i]
		if p.sparse == nil || done[p.sparse] {
			continue
		}
		done[p.sparse] = true
		k := &sparseCheck{sparse: p.sparse, st: p.sparse.state(), start: p.start, r: r}
		if err := k.run(ctx); err != nil {
			return err
		}
		r.flush()
	}
	return ctx.Err()
}

// shares looks at what extents have in common, and at the ends of flat ones.
func (c *checker) shares(r *reporter) {
	type use struct {
		region
		p *part
	}
	byFile := map[int][]use{}
	for i := range c.disk.parts {
		p := &c.disk.parts[i]
		switch {
		case p.flat != nil:
			f := p.flat
			byFile[p.file] = append(byFile[p.file], use{region{f.offset, f.offset + f.size, ""}, p})
			if have := f.m.Size() - f.offset; have < f.size {
				have = max(have, 0)
				r.send(formats.Problem{
					Severity: formats.Risk, Structure: "flat extent", Offset: f.m.Size(), Guest: p.start + have, Length: f.size - have,
					Text: fmt.Sprintf("%d bytes from byte %d on pass end of file at %d", f.size, f.offset, f.m.Size()),
				})
			}
		case p.sparse != nil:
			byFile[p.file] = append(byFile[p.file], use{region{0, p.sparse.m.Size(), ""}, p})
		}
	}
	for file := range c.files {
		uses := byFile[file]
		slices.SortStableFunc(uses, func(a, b use) int { return cmp.Compare(a.start, b.start) })
		end := int64(0)
		for i, u := range uses {
			if i > 0 && u.start < end {
				r.send(formats.Problem{
					Severity: formats.Risk, Structure: "descriptor extent", Offset: -1, Guest: u.p.start, Length: u.p.size,
					Text: fmt.Sprintf("two extents have byte %d of one file", u.start),
				})
			}
			end = max(end, u.end)
		}
		if len(uses) > 0 && uses[0].p.flat != nil && end < uses[0].p.flat.m.Size() {
			r.add(formats.Note, "flat extent", end, "the file has %d bytes more", uses[0].p.flat.m.Size()-end)
		}
	}
	r.flush()
}

// A reporter passes problems on, and counts those that would be too many.
type reporter struct {
	report func(formats.Problem)
	sent   map[reportKey]int
	order  []reportKey
}

type reportKey struct {
	severity  formats.Severity
	structure string
}

func (r *reporter) add(s formats.Severity, structure string, off int64, format string, args ...any) {
	r.send(formats.Problem{Severity: s, Structure: structure, Offset: off, Text: fmt.Sprintf(format, args...)})
}

func (r *reporter) send(p formats.Problem) {
	if r.sent == nil {
		r.sent = map[reportKey]int{}
	}
	k := reportKey{p.Severity, p.Structure}
	if r.sent[k]++; r.sent[k] <= maxReports {
		r.report(p)
	}
	if r.sent[k] == maxReports+1 {
		r.order = append(r.order, k)
	}
}

// flush says how many were not passed on.
func (r *reporter) flush() {
	for _, k := range r.order {
		r.report(formats.Problem{
			Severity: k.severity, Structure: k.structure, Offset: -1,
			Text: fmt.Sprintf("%d more of this kind", r.sent[k]-maxReports),
		})
	}
	r.sent, r.order = nil, nil
}

// bitmap is a set of numbers, in pages that cost nothing while they are empty.
type bitmap map[int64]*[512]uint64

// add adds the n numbers from i on; false: some were there.
func (b bitmap) add(i, n int64) bool {
	fresh := true
	for n > 0 {
		page := b[i>>15]
		if page == nil {
			page = new([512]uint64)
			b[i>>15] = page
		}
		word := &page[i>>6&511]
		k := min(n, 64-i&63)
		mask := (^uint64(0) >> (64 - uint(k))) << uint(i&63)
		fresh = fresh && *word&mask == 0
		*word |= mask
		i, n = i+k, n-k
	}
	return fresh
}

func (b bitmap) count() int64 {
	n := 0
	for _, page := range b {
		for _, w := range page {
			n += bits.OnesCount64(w)
		}
	}
	return int64(n)
}

// sparseCheck checks one extent.
type sparseCheck struct {
	*sparse
	st    *state
	start int64 // guest offset of the extent
	r     *reporter

	other  []uint64 // a table's copy
	tables []int64  // byte offsets, sorted
	many   bool     // there are more than are listed

	// Grains that are not compressed are unit*n + base; a byte is one of a
	// sector, and a unit a whole grain unless grains are at odds.
	base, unit int64
	seen       bitmap
	risk       bool // grains overlap, or cannot be found

	// Compressed ones, while they follow each other in the file.
	last      int64
	unordered bool
}

func (k *sparseCheck) problem(s formats.Severity, structure string, off, g, n int64, format string, args ...any) {
	e := k.clip(g, n, 0, 0)
	k.risk = k.risk || s == formats.Risk
	k.r.send(formats.Problem{
		Severity: s, Structure: k.kind + structure, Offset: off, Guest: k.start + e.Offset, Length: e.Length,
		Text: fmt.Sprintf(format, args...),
	})
}

func (k *sparseCheck) run(ctx context.Context) error {
	k.checkFixed()
	if err := k.footer(); err != nil {
		return err
	}
	if err := k.directories(ctx); err != nil {
		return err
	}
	k.base, k.unit, k.seen = -1, k.grain, bitmap{}
	if !k.packed {
		if err := k.walk(ctx, k.phase); err != nil {
			return err
		}
	}
	if err := k.walk(ctx, k.table); err != nil {
		return err
	}
	if k.unordered {
		k.base, k.unit = 0, sector
		if err := k.walk(ctx, k.sectors); err != nil {
			return err
		}
	}
	k.leaks()
	return nil
}

// checkFixed looks at what the header places.
func (k *sparseCheck) checkFixed() {
	for i, a := range k.fixed {
		if a.end > k.m.Size() {
			k.r.add(formats.Note, a.name, a.start, "passes end of file at %d", k.m.Size())
		}
		if b := overlap(k.fixed[:i], a.start, a.end); b != nil {
			k.r.add(formats.Risk, a.name, a.start, "overlaps the %s", b.name)
		}
	}
}

// footer compares the copies of the header in a stream, and looks at the markers
// of its end.
func (k *sparseCheck) footer() error {
	if k.foot == nil {
		return nil
	}
	at := k.m.Size() - 3*sector
	b, err := k.m.Bytes("footer", at, 3*sector)
	if err != nil {
		if errors.Is(err, formats.ErrCorrupt) {
			k.r.add(formats.Note, "footer", at, "%v", err)
			return nil
		}
		return err
	}
	le := binary.LittleEndian
	if le.Uint32(b[offMarkerSize:]) != 0 || le.Uint32(b[offMarkerType:]) != markerFooter {
		k.r.add(formats.Note, "footer marker", at, "not there")
	}
	if len(bytes.Trim(b[2*sector:], "\x00")) != 0 {
		k.r.add(formats.Note, "end of stream", at+2*sector, "no marker")
	}
	a, z := k.head, k.foot
	for _, f := range []struct {
		name string
		a, b int64
	}{
		{"capacity", int64(a.capacity), int64(z.capacity)},
		{"grain size", int64(a.grain), int64(z.grain)},
		{"grain table size", a.tableLen, z.tableLen},
		{"flags", int64(a.flags), int64(z.flags)},
	} {
		if f.a != f.b {
			k.r.add(formats.Note, "header", 0, "%s %d, in the footer, which counts, %d", f.name, f.a, f.b)
		}
	}
	return nil
}

// directories looks at all tables that the directories name.
func (k *sparseCheck) directories(ctx context.Context) error {
	n := k.tableLen * k.width
	for i, dir := range []int64{k.directory, k.redundant} {
		if dir < 0 {
			continue
		}
		name := "grain directory"
		if i == 1 {
			name = "redundant grain directory"
		}
		err := k.entries(ctx, dir, func(d int64, v uint64) error {
			off, err := k.tableAt(v, dir+d*k.width)
			if err != nil {
				severity, used := formats.Risk, ""
				if i == 1 {
					severity = formats.Note
				} else if _, found, err := k.spare(k.st, d); err != nil {
					return err
				} else if found {
					severity, used = formats.Note, ": the redundant table is used"
				}
				k.problem(severity, name, dir+d*k.width, d*k.tableLen, k.tableLen, "%s%s", got(err), used)
				return nil
			}
			if i == 1 {
				first, err := k.one(k.st, k.directory, d)
				if err != nil || first == v {
					return err // one table for both: nothing redundant, nothing wrong
				}
			}
			if len(k.tables) < maxListed {
				k.tables = append(k.tables, off)
			} else {
				k.many = true
			}
			return nil
		})
		if err != nil {
			return err
		}
	}
	if k.many {
		k.r.add(formats.Note, "grain directory", k.directory, "more than %d tables: not all were compared", maxListed)
	}
	slices.Sort(k.tables)
	for i, off := range k.tables {
		if i > 0 && off < k.tables[i-1]+n {
			k.r.add(formats.Risk, k.kind+"grain table", off, "two tables have this place")
		}
	}
	return nil
}

// got is what an error found, without its place.
func got(err error) string {
	var fe *formats.FormatError
	if errors.As(err, &fe) {
		return fe.Got
	}
	return err.Error()
}

// entries calls do for all entries of a directory that are not 0.
func (k *sparseCheck) entries(ctx context.Context, dir int64, do func(d int64, v uint64) error) error {
	tables := k.sparse.tables
	for d := int64(0); d < tables; {
		if err := ctx.Err(); err != nil {
			return err
		}
		v, n, err := k.sparse.run(k.st, dir, d, tables-d, func(v, e uint64, _ int64) bool { return v == 0 && e == 0 })
		if err != nil {
			return err
		}
		if v != 0 {
			if err := do(d, v); err != nil {
				return err
			}
		}
		d += n
	}
	return nil
}

// A visit is told the entries of table d, which is at byte off.
type visit func(ctx context.Context, d, off int64, table []uint64) error

// walk calls do with each table that is read.
func (k *sparseCheck) walk(ctx context.Context, do visit) error {
	var table []uint64
	return k.entries(ctx, k.directory, func(d int64, v uint64) error {
		off, err := k.sparse.table(k.st, d, v)
		if errors.Is(err, formats.ErrCorrupt) {
			return nil // directories has said so
		}
		if err != nil {
			return err
		}
		if table, err = k.load(table, off, d); err != nil {
			return err
		}
		return do(ctx, d, off, table)
	})
}

// load reads the entries of table d at byte off.
func (k *sparseCheck) load(table []uint64, off, d int64) ([]uint64, error) {
	n := k.used(d)
	if int64(cap(table)) < n {
		table = make([]uint64, k.tableLen)
	}
	table = table[:n]
	clear(table)
	err := k.each(k.st, off, n, func(i int64, v uint64) (bool, error) {
		table[i] = v
		return true, nil
	})
	return table, err
}

// phase finds the unit in which all grains can be counted.
func (k *sparseCheck) phase(_ context.Context, _, _ int64, table []uint64) error {
	for _, v := range table {
		kind, host := k.entry(v)
		if kind != formats.Data || host >= k.m.Size() {
			continue
		}
		if k.base < 0 {
			k.base = host % k.grain
		}
		for (host-k.base)%k.unit != 0 {
			k.unit /= 2
		}
	}
	return nil
}

// table checks the grains of a table, and compares it with its copy.
func (k *sparseCheck) table(ctx context.Context, d, off int64, table []uint64) error {
	if err := k.compare(d, off, table); err != nil {
		return err
	}
	if k.packed {
		return k.packedTable(ctx, d, off, table)
	}
	for i, v := range table {
		if v == 0 {
			continue
		}
		g, at := d*k.tableLen+int64(i), off+int64(i)*k.width
		why, err := k.wrong(k.st, g, v)
		if err != nil {
			return err
		}
		if why != "" {
			k.problem(formats.Risk, "grain table", at, g, 1, "%s", why)
			continue
		}
		kind, host := k.entry(v)
		if kind != formats.Data {
			continue
		}
		if t, ok := k.inTable(host, k.need(g)); ok {
			k.problem(formats.Risk, "grain table", at, g, 1, "grain at 0x%x lies in the grain table at 0x%x", host, t)
		}
		if k.se != nil && host+k.grain > k.se.end.Bytes() {
			k.problem(formats.Note, "grain table", at, g, 1, "grain at 0x%x passes the end of the grains at 0x%x", host,
				k.se.end.Bytes())
		}
		if k.free > 0 && host+k.need(g) > k.free {
			k.problem(formats.Risk, "grain table", at, g, 1,
				"grain at 0x%x is in room that the header has as free from 0x%x on", host, k.free)
		}
		if !k.seen.add((host-k.base+k.grain)/k.unit, k.grain/k.unit) {
			k.problem(formats.Risk, "grain table", at, g, 1, "grain at 0x%x is used twice", host)
		}
	}
	return nil
}

// inTable returns a grain table that has some of the n bytes at off.
func (k *sparseCheck) inTable(off, n int64) (int64, bool) {
	room := k.tableLen * k.width
	i, _ := slices.BinarySearch(k.tables, off-room+1)
	if i < len(k.tables) && k.tables[i] < off+n {
		return k.tables[i], true
	}
	return 0, false
}

// compare compares the copies of table d, of which that at byte off is read.
func (k *sparseCheck) compare(d, off int64, table []uint64) error {
	if k.redundant < 0 {
		return nil
	}
	v1, err := k.one(k.st, k.directory, d)
	if err != nil {
		return err
	}
	v2, err := k.one(k.st, k.redundant, d)
	if err != nil {
		return err
	}
	at := k.redundant + d*k.width
	if v2 == 0 {
		k.problem(formats.Note, "redundant grain directory", at, d*k.tableLen, k.tableLen, "has no table")
		return nil
	}
	off2, err := k.tableAt(v2, at)
	if err != nil {
		return nil //nolint:nilerr // directories has said so
	}
	if off1, err := k.tableAt(v1, 0); err != nil || off1 != off {
		if err == nil {
			k.problem(formats.Note, "grain table", off1, d*k.tableLen, k.tableLen,
				"is damaged: the redundant table at 0x%x is used", off)
		}
		return nil
	}
	if k.other, err = k.load(k.other, off2, d); err != nil || slices.Equal(k.other, table) {
		return err
	}
	other := k.other
	n, first := 0, -1
	for i := range other {
		if other[i] != table[i] {
			if n++; first < 0 {
				first = i
			}
		}
	}
	k.problem(formats.Risk, "redundant grain table", off2+int64(first)*k.width, d*k.tableLen+int64(first), 1,
		"%d entries are not as in the grain table at 0x%x: the first is 0x%x, there 0x%x", n, off, other[first], table[first])
	return nil
}

// packedTable checks the compressed grains of a table, and decodes them.
func (k *sparseCheck) packedTable(ctx context.Context, d, off int64, table []uint64) error {
	extents, errs := make([]formats.Extent, len(table)), make([]error, len(table))
	g, ctx := errgroup.WithContext(ctx)
	workers := runtime.GOMAXPROCS(0)
	for w := range workers {
		g.Go(func() error {
			dst := make([]byte, k.grain)
			for i := w; i < len(table); i += workers {
				kind, host := k.entry(table[i])
				if kind == 0 {
					errs[i] = k.m.Corrupt("grain table", off+int64(i)*k.width, "entry 0x%x", table[i])
				}
				if kind != formats.Data {
					continue
				}
				if err := ctx.Err(); err != nil {
					return err
				}
				e, err := k.packedAt(k.st, off+int64(i)*k.width, d*k.tableLen+int64(i), host)
				if err == nil {
					err = k.sparse.inflate(e, dst[:e.Length])
				}
				if err != nil && !errors.Is(err, formats.ErrCorrupt) {
					return err
				}
				extents[i], errs[i] = e, err
			}
			return nil
		})
	}
	if err := g.Wait(); err != nil {
		return err
	}
	for i, err := range errs {
		var fe *formats.FormatError
		if errors.As(err, &fe) {
			k.problem(formats.Risk, fe.Structure, fe.Offset, d*k.tableLen+int64(i), 1, "%s", fe.Got)
		}
		if e := &extents[i]; err == nil && e.Kind == formats.Compressed {
			if t, ok := k.inTable(e.Host, k.stored(e)); ok {
				k.problem(formats.Risk, "grain table", off+int64(i)*k.width, d*k.tableLen+int64(i), 1,
					"grain at 0x%x lies in the grain table at 0x%x", e.Host, t)
			}
			k.unordered = k.unordered || e.Host < k.last
			k.last = e.Host + k.stored(e)
		}
	}
	return nil
}

// stored is how many bytes of the file a compressed grain is known to have.
func (k *sparseCheck) stored(e *formats.Extent) int64 {
	if k.markers {
		return e.Stored
	}
	return 1
}

// sectors looks for compressed grains that share sectors.
func (k *sparseCheck) sectors(_ context.Context, d, off int64, table []uint64) error {
	for i, v := range table {
		kind, host := k.entry(v)
		if kind != formats.Data {
			continue
		}
		g, at := d*k.tableLen+int64(i), off+int64(i)*k.width
		e, err := k.packedAt(k.st, at, g, host)
		if errors.Is(err, formats.ErrCorrupt) {
			continue
		}
		if err != nil {
			return err
		}
		if !k.seen.add(host/sector, (k.stored(&e)-1)/sector+1) {
			k.problem(formats.Risk, "grain table", at, g, 1, "grain at 0x%x has room of another", host)
		}
	}
	return nil
}

// leaks counts the room that no grain uses.
func (k *sparseCheck) leaks() {
	if k.packed || k.head == nil || k.risk || k.unit != k.grain || k.overHead <= 0 || k.overHead > k.m.Size() {
		return
	}
	from := k.overHead
	if k.base >= 0 {
		from += (k.base - from%k.grain + k.grain) % k.grain
	}
	slots := (k.m.Size() - from) / k.grain
	for _, t := range k.tables {
		if t+k.tableLen*k.width > from {
			return // tables among the grains: which room is free is not said
		}
	}
	if n := slots - k.seen.count(); n > 0 {
		k.r.add(formats.Leak, "file", from, "%d grains of "+strconv.FormatInt(k.grain, 10)+" bytes are not used", n)
	}
}
