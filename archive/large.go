package archive

import (
	"errors"
	"fmt"
	"io"
	"slices"
	"sync"
	"time"

	"tarvm/archive/codec"
	"tarvm/archive/pax"
	"tarvm/delta"
	"tarvm/manifest"
)

// large is a file that goes through the archive in chunks. Its fields up to pt are set before the
// first job runs; the rest belongs to the consumer.
type large struct {
	f       TreeFile
	grid    delta.Grid
	extents []delta.Extent
	pm      *manifest.Member // increments: the parent's file of this path, nil: there is none
	pt      *delta.Table     // its digests, nil: none on this grid
	known   *delta.Table     // the file's own digests, nil: they are computed

	m       manifest.Member
	short   bool
	section *delta.SectionWriter
	runs    []pax.Extent // whole: what is stored, nil: everything
	seg     delta.SegmentWriter
	file    int32 // number for the self index
	lastPos int64 // of the last copy
	lastSrc manifest.Path
	lastOff int64
}

// produceLarge emits the jobs of a large file: begin, a job for each chunk and hole, end.
func (k *packer) produceLarge(i int, emit emitFunc) error {
	e := k.entry(i)
	l := &large{}
	var err error
	if l.f, err = k.tree.Open(e); err != nil {
		if k.vanished(err) {
			return emit(func() (func() error, error) { return func() error { return k.vanish(i) }, nil })
		}
		return err
	}
	k.keep(l)
	// What is packed is the file as it is now, not as it was when the directory was walked.
	if changed, err := l.f.Changed(e); err != nil {
		return err
	} else if changed {
		if err := k.tree.Refresh(e); k.vanished(err) {
			k.forget(l)
			return emit(func() (func() error, error) { return func() error { return k.vanish(i) }, nil })
		} else if err != nil {
			return err
		}
		k.keepGrid(e)
		k.update(i, e)
	}
	if e.Size <= k.Entry.Block {
		k.forget(l)
		return emit(func() (func() error, error) { return k.readSmall(k.ctx, i) })
	}
	if l.extents, err = l.f.Extents(e); err != nil {
		return err
	}
	l.m = manifest.Member{State: e.State, Hints: e.Hints}
	l.grid = e.Grid(k.Entry.Block)
	if l.pm = k.parent(&l.m); l.pm != nil && l.pm.Grid(k.Entry.Block) == l.grid {
		if l.pt, err = k.o.Parent.Table(l.pm); err != nil {
			return fmt.Errorf("parent's manifest: %s: %w", e.Path, err)
		}
	}
	if f, ok := l.f.(KnownFile); ok {
		if l.known, err = f.Known(l.grid, k.skips(l)); err != nil {
			return err
		}
	}
	if err := emit(func() (func() error, error) {
		return func() error { return k.beginLarge(i, l) }, nil
	}); err != nil {
		return err
	}
	size := e.Size
	for at := int64(0); at < size; {
		// Blocks that touch no data run are a hole, the others are read.
		data := nextData(l.extents, at, size)
		first := l.grid.Index(data)
		if data < size {
			data, _ = l.grid.Range(first, size)
		}
		data = max(at, data)
		if from := at; data > at {
			if err := emit(func() (func() error, error) { return k.hole(l, from, data) }); err != nil {
				return err
			}
			at = data
			continue
		}
		end := min(at+max(chunkSize, l.grid.Block), size)
		if end < size {
			end, _ = l.grid.Range(l.grid.Index(end), size)
		}
		if h := holeEnd(l.extents, at, end); h < end {
			if b, n := l.grid.Range(l.grid.Index(h-1), size); b+n < end {
				end = b + n
			}
		}
		from := at
		if err := emit(func() (func() error, error) { return k.chunk(l, from, end) }); err != nil {
			return err
		}
		at = end
	}
	return emit(func() (func() error, error) {
		return func() error { return k.endLarge(i, l) }, nil
	})
}

// nextData returns the first byte of data at or behind off, size if there is none.
func nextData(extents []delta.Extent, off, size int64) int64 {
	if extents == nil {
		return off
	}
	if i := searchExtent(extents, off); i < len(extents) {
		return max(off, extents[i].Offset)
	}
	return size
}

// holeEnd returns where the data that begins at or before off ends, as far as end: nothing is stored
// between the returned offset and end, unless it is end.
func holeEnd(extents []delta.Extent, off, end int64) int64 {
	if extents == nil {
		return end
	}
	last := off
	for i := searchExtent(extents, off); i < len(extents) && extents[i].Offset < end; i++ {
		last = min(end, extents[i].End())
	}
	return max(last, off+1)
}

// searchExtent returns the first extent that ends behind off.
func searchExtent(extents []delta.Extent, off int64) int {
	lo, hi := 0, len(extents)
	for lo < hi {
		if mid := (lo + hi) / 2; extents[mid].End() > off {
			hi = mid
		} else {
			lo = mid + 1
		}
	}
	return lo
}

// chunk reads and digests the blocks from off to end, and returns what stores them.
func (k *packer) chunk(l *large, off, end int64) (func() error, error) {
	size := l.m.Size
	c := k.chunks.get(off)
	c.buf = k.bufs.get(int(end - off))
	c.data = (*c.buf)[:0]
	p := k.chunks.get(off)
	defer k.chunks.Put(p)
	inc := k.o.Parent != nil
	var scratch *[]byte
	if inc {
		// Of most pieces nothing is kept: they are read to where the cache has its lines already.
		scratch = k.scratch.get(int(max(pieceSize, l.grid.Block)))
		defer k.scratch.Put(scratch)
	}
	for at := off; at < end; {
		// A piece is some whole blocks.
		to := min(at+max(pieceSize, l.grid.Block), end)
		if to < end {
			to, _ = l.grid.Range(l.grid.Index(to), size)
		}
		p.reset(at)
		if inc {
			p.data = (*scratch)[:to-at]
		} else {
			p.data = (*c.buf)[at-off : to-off]
		}
		first := l.grid.Index(at)
		if err := k.readPiece(l, p, first); err != nil {
			return nil, err
		}
		if !inc {
			p.sums = k.allSums(p.sums, p, l.grid, first, size)
			c.data = (*c.buf)[:to-off]
		} else if err := k.compare(l, p, first); err != nil {
			return nil, err
		}
		c.join(p)
		at = to
	}
	return func() error {
		defer k.chunks.Put(c)
		defer k.bufs.Put(c.buf)
		k.progress(&l.m, end-off)
		l.section.Add(c.digests)
		k.addSums(c)
		l.short = l.short || c.short
		if k.o.Parent == nil {
			return k.storeRuns(l, c.off, c.data)
		}
		return k.addUnits(l, c)
	}, nil
}

// skips returns the digests with which blocks of l are the parent's without a look, if their digests are known: all that
// an increment says of them is in the parent's manifest. It is nil when that has no sums.
func (k *packer) skips(l *large) *delta.Table {
	if k.o.Parent == nil || k.o.Parent.local == nil {
		return nil
	}
	return l.pt
}

// readPiece gives p its digests, and reads what is needed of its bytes.
func (k *packer) readPiece(l *large, p *chunk, first int64) error {
	if k.o.Parent != nil {
		p.parent = sized(p.parent, l.grid.Index(p.off+int64(len(p.data))-1)-first+1)
		var err error
		if p.inParent, err = l.parentDigests(first, p.parent); err != nil {
			return err
		}
	}
	if l.known == nil {
		if err := l.read(p); err != nil {
			return err
		}
		k.digest(p, l.grid, first)
		return nil
	}
	p.digests = sized(p.digests, l.grid.Index(p.off+int64(len(p.data))-1)-first+1)
	if err := l.known.Read(first, p.digests); err != nil {
		return fmt.Errorf("%s: %w", l.m.Path, err)
	}
	if k.o.Parent == nil {
		return l.read(p)
	}
	skip := k.skips(l) != nil
	from := int64(-1) // what is to be read begins there
	flush := func(to int64) error {
		if from < 0 {
			return nil
		}
		q := chunk{off: from, data: p.data[from-p.off : to-p.off]}
		from = -1
		err := l.read(&q)
		p.short = p.short || q.short
		return err
	}
	for j, d := range p.digests {
		off, _ := l.grid.Range(first+int64(j), l.m.Size)
		if d.IsZero() || skip && p.isParents(j) {
			if err := flush(off); err != nil {
				return err
			}
		} else if from < 0 {
			from = off
		}
	}
	return flush(p.off + int64(len(p.data)))
}

// isParents reports whether the parent has block j in the same place.
func (c *chunk) isParents(j int) bool { return j < c.inParent && c.digests[j] == c.parent[j] }

// buffers are kept for the next one who needs some.
type buffers struct{ sync.Pool }

// get returns a buffer of at least n bytes, of any content.
func (p *buffers) get(n int) *[]byte {
	if b, ok := p.Get().(*[]byte); ok && len(*b) >= n {
		return b
	}
	b := make([]byte, n)
	return &b
}

// chunks are kept for the next one who needs one.
type chunks struct{ sync.Pool }

// get returns an empty chunk at off.
func (p *chunks) get(off int64) *chunk {
	c, ok := p.Get().(*chunk)
	if !ok {
		c = &chunk{}
	}
	c.reset(off)
	return c
}

// reset makes c an empty chunk at off, with the memory that it had.
func (c *chunk) reset(off int64) {
	*c = chunk{
		off: off, digests: c.digests[:0], sums: c.sums[:0], units: c.units[:0],
		parent: c.parent[:0], old: c.old[:0], look: c.look,
	}
}

// sized returns a slice of n elements of any content, s if it has room for them.
func sized[T any](s []T, n int64) []T {
	return slices.Grow(s[:0], int(n))[:n]
}

// join appends what p, which follows c, says. Of an increment it copies the new data.
func (c *chunk) join(p *chunk) {
	c.digests = append(c.digests, p.digests...)
	c.sums = append(c.sums, p.sums...)
	c.short = c.short || p.short
	at := int64(0)
	for _, u := range p.units {
		if u.kind == delta.Data {
			c.data = append(c.data, p.data[at:at+u.n]...)
		}
		at += u.n
		c.add(u)
	}
}

// read fills c from the file; holes become zeros, and so does what the file has lost.
func (l *large) read(c *chunk) error {
	b, at := c.data, c.off
	to := at + int64(len(b))
	if l.extents == nil {
		return l.readAt(c, b, at)
	}
	done := at
	for i := searchExtent(l.extents, at); i < len(l.extents) && l.extents[i].Offset < to; i++ {
		lo, hi := max(at, l.extents[i].Offset), min(to, l.extents[i].End())
		clear(b[done-at : lo-at])
		if err := l.readAt(c, b[lo-at:hi-at], lo); err != nil {
			return err
		}
		done = hi
	}
	clear(b[done-at:])
	return nil
}

func (l *large) readAt(c *chunk, b []byte, off int64) error {
	n, err := l.f.ReadAt(b, off)
	if n < len(b) && errors.Is(err, io.EOF) {
		c.short = true
		clear(b[n:])
		return nil
	}
	if n == len(b) {
		return nil
	}
	return err
}

// hole stores blocks from off to end that hold no data.
func (k *packer) hole(l *large, off, end int64) (func() error, error) {
	first := l.grid.Index(off)
	count := l.grid.Index(end-1) - first + 1
	c := &chunk{off: off}
	if k.o.Parent != nil {
		const batch = 4096
		pd := make([]delta.Digest, min(count, batch))
		for i := int64(0); i < count; i += batch {
			b := pd[:min(batch, count-i)]
			if _, err := l.parentDigests(first+i, b); err != nil {
				return nil, err
			}
			for j := range b {
				boff, n := l.grid.Range(first+i+int64(j), l.m.Size)
				c.add(unit{kind: l.zeroKind(b[j], boff+n), n: n})
			}
		}
	}
	return func() error {
		k.progress(&l.m, end-off)
		l.section.AddZeros(count)
		k.stats.Zero += end - off
		if k.o.Parent == nil {
			return nil // where the sparse map has data here, storeRuns writes zeros
		}
		return k.addUnits(l, c)
	}, nil
}

// parentDigests reads the parent's digests of the blocks from first on, and returns how many of them the parent has. The
// others get a digest that nothing has.
func (l *large) parentDigests(first int64, dst []delta.Digest) (int, error) {
	none := delta.Digest{31: 1}
	n := int64(0)
	if l.pt != nil {
		n = max(0, min(int64(len(dst)), l.pt.Grid.Count(l.pt.Size)-first))
		if n > 0 {
			if err := l.pt.Read(first, dst[:n]); err != nil {
				return 0, fmt.Errorf("parent's manifest: %s: %w", l.m.Path, err)
			}
		}
	}
	for i := n; i < int64(len(dst)); i++ {
		dst[i] = none
	}
	return int(n), nil
}

// zeroKind is the operation for zeros up to end, where the parent's block has the digest pd.
func (l *large) zeroKind(pd delta.Digest, end int64) delta.Kind {
	if pd.IsZero() && end <= l.pt.Size {
		return delta.Same
	}
	return delta.Zero
}

func (c *chunk) add(u unit) {
	if n := len(c.units); n > 0 && u.kind < delta.Data && c.units[n-1].kind == u.kind {
		c.units[n-1].n += u.n
		return
	}
	c.units = append(c.units, u)
}

// compare finds out, for an increment, what the parent has of the blocks of c.
func (k *packer) compare(l *large, c *chunk, first int64) error {
	pd := c.parent
	var err error
	if c.old, err = k.o.Parent.appendRows(c.old, l.pm, l.pt, first, k.subs, pd[:c.inParent]); err != nil {
		return err
	}
	for j := 0; j < len(c.digests); j++ {
		off, n := l.grid.Range(first+int64(j), l.m.Size)
		d := c.digests[j]
		if d.IsZero() {
			c.add(unit{kind: l.zeroKind(pd[j], off+n), n: n})
			continue
		}
		b := c.data[off-c.off:][:n]
		var old []delta.FindSum // nil: not known
		if at := j * k.subs; at < len(c.old) {
			old = c.old[at:][:k.subs]
		}
		if c.isParents(j) {
			c.add(unit{kind: delta.Same, n: n})
			if old != nil {
				c.sums = append(c.sums, old...)
			} else {
				c.sums = k.key.AppendSums(c.sums, b, k.subs)
			}
			continue
		}
		at := len(c.sums)
		c.sums = k.key.AppendSums(c.sums, b, k.subs)
		if err := k.compareBlock(l, c, off, n, d, c.sums[at:], old); err != nil {
			return err
		}
	}
	return nil
}

// compareBlock adds the units of a changed block, of n bytes at off.
func (k *packer) compareBlock(l *large, c *chunk, off, n int64, d delta.Digest, sums, old []delta.FindSum) error {
	x, err := k.index()
	if err != nil {
		return err
	}
	if x.perBlock == 1 {
		if pos, ok := x.Lookup(d[:]); ok {
			c.add(unit{kind: delta.Copy, n: n, pos: pos})
			return nil
		}
	}
	units := int((n + delta.FindUnit - 1) / delta.FindUnit)
	w := &c.look
	w.kinds, w.want, w.list, w.pos = sized(w.kinds, int64(units)), sized(w.want, int64(units)), sized(w.list, int64(units)), sized(w.pos, int64(units))
	kinds, want, list, pos := w.kinds, w.want, w.list, w.pos
	clear(want)
	for u := range units {
		list[u] = sums[u][:]
		end := off + min(n, int64(u+1)*delta.FindUnit)
		switch zero := sums[u] == (delta.FindSum{}); {
		case old != nil && sums[u] == old[u] && (!zero || end <= l.pm.Size):
			kinds[u] = delta.Same
		case zero:
			kinds[u] = delta.Zero
		default:
			kinds[u] = delta.Data
			want[u] = x.perBlock > 1
		}
	}
	x.Find(list, want, pos)
	for u := range units {
		x := unit{kind: kinds[u], n: min(n-int64(u)*delta.FindUnit, delta.FindUnit), sum: sums[u]}
		if want[u] && pos[u] >= 0 {
			x.kind, x.pos = delta.Copy, pos[u]
		}
		c.add(x)
	}
	return nil
}

// beginLarge starts the member.
func (k *packer) beginLarge(i int, l *large) error {
	l.section = k.startSection(i, &l.m)
	k.setHoles(&l.m, l.extents)
	if k.o.Parent == nil {
		if err := k.startWhole(&l.m, l.extents); err != nil {
			return err
		}
		if l.extents != nil {
			l.runs = sparseMap(l.extents, l.m.Size)
		}
		return nil
	}
	l.m.Stored = manifest.Stored{As: manifest.AsDelta}
	k.paths = append(k.paths, string(l.m.Path))
	l.file = int32(len(k.paths) - 1)
	l.lastPos = -1
	l.seg.Reset(0)
	return nil
}

var zeroPage [64 << 10]byte

// storeRuns writes what of the bytes at off belongs to the stored runs.
func (k *packer) storeRuns(l *large, off int64, data []byte) error {
	if l.runs == nil {
		return k.s.data(data)
	}
	for len(l.runs) > 0 {
		r := &l.runs[0]
		// What the run has before data was a hole too small for the sparse map.
		if z := min(off, r.Offset+r.Length) - r.Offset; z > 0 {
			if err := k.zeros(z); err != nil {
				return err
			}
			r.Offset += z
			r.Length -= z
		}
		if r.Length == 0 {
			l.runs = l.runs[1:]
			continue
		}
		end := off + int64(len(data))
		if r.Offset >= end {
			return nil
		}
		n := min(end, r.Offset+r.Length) - r.Offset
		if err := k.s.data(data[r.Offset-off:][:n]); err != nil {
			return err
		}
		r.Offset += n
		r.Length -= n
		if r.Length > 0 {
			return nil
		}
		l.runs = l.runs[1:]
	}
	return nil
}

func (k *packer) zeros(n int64) error {
	for n > 0 {
		b := zeroPage[:min(n, int64(len(zeroPage)))]
		if err := k.s.data(b); err != nil {
			return err
		}
		n -= int64(len(b))
	}
	return nil
}

// addUnits writes the operations of c, and keeps its new data for the segment.
func (k *packer) addUnits(l *large, c *chunk) error {
	off := c.off
	for _, u := range c.units {
		need := int64(0)
		if u.kind == delta.Data {
			need = u.n
		}
		if l.seg.Full(need) || int64(len(k.payload))+need > segmentData {
			if err := k.flushSegment(l); err != nil {
				return err
			}
		}
		if u.kind == delta.Same && l.seg.Empty() {
			off += u.n
			l.seg.Reset(off)
			k.stats.Same += u.n
			continue
		}
		kind, src, at := u.kind, "", int64(0)
		data := c.data[:need]
		c.data = c.data[need:]
		switch u.kind {
		case delta.Same:
			k.stats.Same += u.n
		case delta.Zero:
			k.stats.Zeroed += u.n
		case delta.Copy:
			p, o, err := k.locate(l, u.pos)
			if err != nil {
				return err
			}
			src, at = string(p), o
			k.stats.Copy += u.n
		case delta.Data:
			if p, ok := k.self.Lookup(u.sum); ok && k.paths[p.File] != "" {
				kind, src, at = delta.Self, k.paths[p.File], p.Offset
				k.stats.Self += u.n
				break
			}
			k.self.Put(u.sum, delta.Place{File: l.file, Offset: off})
			if k.payload == nil {
				k.payload = make([]byte, 0, segmentData)
			}
			k.payload = append(k.payload, data...)
			k.stats.Data += u.n
		}
		l.seg.Add(kind, u.n, src, at)
		off += u.n
	}
	return nil
}

// locate returns the parent's file and offset of position pos in the finder's table.
func (k *packer) locate(l *large, pos int64) (manifest.Path, int64, error) {
	x, err := k.index()
	if err != nil {
		return "", 0, err
	}
	if pos == l.lastPos+1 && pos%int64(x.perBlock) != 0 {
		l.lastOff += delta.FindUnit
	} else if l.lastSrc, l.lastOff, err = x.locate(pos); err != nil {
		return "", 0, err
	}
	l.lastPos = pos
	return l.lastSrc, l.lastOff, nil
}

// flushSegment writes the segment so far, and starts the next one behind it.
func (k *packer) flushSegment(l *large) error {
	next := l.seg.End()
	if err := k.s.w.Cut(); err != nil {
		return err
	}
	head := l.seg.AppendHead(nil, l.m.Size)
	g := manifest.Segment{Start: l.seg.Start(), End: l.seg.End(), Head: int64(len(head)), Data: int64(len(k.payload))}
	name := fmt.Sprintf("%s%s/%08d", nameDelta, l.m.Path, len(l.m.Stored.Segments))
	if err := k.s.header(k.s.own(name, g.Head+g.Data)); err != nil {
		return fmt.Errorf("%s: %w", l.m.Path, err)
	}
	g.Body = k.s.offset()
	if err := k.s.meta(head); err != nil {
		return err
	}
	if g.Data > 0 {
		if k.o.Codec.Name() == "none" {
			g.Digest = delta.Sum(k.payload) // else the frames' digests cover it: to hash it again is a tenth of an increment's time
		}
		if err := k.s.w.Cut(); err != nil {
			return err
		}
		var err error
		if k.payload, err = k.s.w.Take(k.payload); err != nil { // other digests cover it
			return err
		}
	}
	if err := k.s.pad(g.Head + g.Data); err != nil {
		return err
	}
	l.m.Stored.Segments = append(l.m.Stored.Segments, g)
	l.m.Stored.Bytes += g.Data
	k.stats.Stored += g.Data
	l.seg.Reset(next)
	return nil
}

// endLarge ends the member, or has it packed again.
func (k *packer) endLarge(i int, l *large) error {
	defer k.forget(l)
	if err := k.endSection(i, &l.m, l.section, l.extents); err != nil {
		return err
	}
	if k.o.Parent == nil {
		var rest int64
		for _, r := range l.runs {
			rest += r.Length
		}
		if err := k.zeros(rest); err != nil {
			return err
		}
		if err := k.s.pad(l.m.Stored.Bytes); err != nil {
			return err
		}
	} else if err := k.endDelta(l); err != nil {
		return err
	}
	changed, err := l.f.Changed(k.entry(i))
	if err != nil {
		return err
	}
	if changed || l.short {
		k.tries[i]++
		if !k.o.Live {
			if k.tries[i] >= k.o.Tries {
				return &ChangedError{l.m.Path, k.tries[i]}
			}
			return k.again(i, l)
		}
		l.m.Torn = true
	}
	if l.m.Torn {
		k.torn = append(k.torn, l.m.Path)
	}
	k.members[i] = l.m
	return nil
}

func (k *packer) endDelta(l *large) error {
	empty := l.seg.Empty()
	if empty && len(l.m.Stored.Segments) == 0 && l.pm != nil && l.pm.Size == l.m.Size {
		l.m.Stored = manifest.Stored{As: manifest.AsSame}
		k.stats.Unchanged++
		return nil
	}
	if !empty || len(l.m.Stored.Segments) == 0 {
		return k.flushSegment(l)
	}
	return nil
}

// again puts what was packed of a file that changed under superseded, and the file on the list of
// those to be packed again.
func (k *packer) again(i int, l *large) error {
	if l.m.Stored.As != manifest.AsSame {
		k.superseded = append(k.superseded, l.m)
		k.oldPlace = append(k.oldPlace, place{off: k.place[i].off, length: k.place[i].length})
	}
	if l.file > 0 {
		k.paths[l.file] = ""
	}
	k.place[i] = place{}
	k.retry = append(k.retry, i)
	if err := sleep(k.ctx, time.Duration(k.tries[i])*200*time.Millisecond); err != nil {
		return err
	}
	e := k.entry(i)
	if err := k.tree.Refresh(e); err != nil {
		return err
	}
	k.keepGrid(e)
	k.update(i, e)
	return nil
}

// finder finds content in the parent.
type finder struct {
	*delta.Index
	par      *Manifest
	perBlock int // positions for each digest
}

// newFinder indexes the parent's small sums, or its block digests where it has no others.
func newFinder(par *Manifest) (*finder, error) {
	x := &finder{par: par, perBlock: 1}
	var err error
	if par.local != nil {
		x.perBlock = int(par.Entry.Block / delta.FindUnit)
		x.Index, err = delta.NewIndex(par.local.sums, par.digests*int64(x.perBlock), 16)
	} else {
		x.Index, err = delta.NewIndex(&digestReader{par}, par.digests, delta.DigestSize)
	}
	if err != nil {
		return nil, fmt.Errorf("parent's manifest: %w", err)
	}
	return x, nil
}

func (x *finder) locate(pos int64) (manifest.Path, int64, error) {
	m, ord := x.par.memberAt(pos / int64(x.perBlock))
	t, err := x.par.Table(m)
	if err != nil {
		return "", 0, err
	}
	off, _ := t.Grid.Range(t.Block(ord), t.Size)
	return m.Path, off + pos%int64(x.perBlock)*delta.FindUnit, nil
}

// writerOptions are those of the codec's writer.
func (p *Plan) writerOptions(workers int) codec.WriterOptions {
	frame := p.o.Codec.FrameSize()
	for p.Bytes/int64(frame) > maxFrames/2 && frame < 64<<20 {
		frame *= 2
	}
	return codec.WriterOptions{Level: p.o.Level, Workers: workers, FrameSize: frame}
}
