package chain

import (
	"cmp"
	"context"
	"errors"
	"slices"
	"sort"

	"tarvm/delta"
	"tarvm/manifest"
)

// A want is a range of a member of one entry that is needed at a place of a destination.
type want struct {
	mem  int32 // member of the entry at hand
	file int32 // destination, the caller's number
	look bool  // the blocks it touches have not been looked for at hand yet
	off  int64 // in the member
	n    int64
	at   int64 // in the destination
}

// A piece is a range of a destination and where its bytes are.
type piece struct {
	arch int32 // entry in whose archive they are; zeroPiece; or localPiece - number of a local file
	file int32 // destination
	src  int64 // in the decoded archive or the local file
	n    int64
	at   int64 // in the destination
}

const (
	zeroPiece  = -1
	localPiece = -2
)

// A finder knows blocks that need not come from an archive.
type finder interface {
	// find returns a local file and the offset in it of a block with digest d, preferring that of
	// block i of the file at path.
	find(d delta.Digest, path manifest.Path, i int64, b blocks) (file int32, off int64, ok bool)
}

// errTooMany: the pieces of a window pass the limit.
var errTooMany = errors.New("too many pieces")

// resolver turns wants into pieces. It goes from entry to entry, not from want to want, so that the
// operations of a segment are read once for all, and the depth of the chain costs no stack.
type resolver struct {
	c      *Chain
	finder finder // nil: none
	limit  int    // of pieces and wants together; 0: none
	pieces []piece
	next   []want
	e      *entry
}

// resolve returns the pieces of wants, which are of entry k. Wants is used up.
func (c *Chain) resolve(ctx context.Context, k int, wants []want, f finder, limit int) ([]piece, error) {
	r := &resolver{c: c, finder: f, limit: limit}
	for ; len(wants) > 0; k-- {
		if k < 0 {
			return nil, ErrCorrupt // a base that builds on something: manifest.Decode refuses it
		}
		if err := ctx.Err(); err != nil {
			return nil, context.Cause(ctx)
		}
		slices.SortFunc(wants, func(a, b want) int {
			return cmp.Or(cmp.Compare(a.mem, b.mem), cmp.Compare(a.off, b.off), cmp.Compare(a.file, b.file), cmp.Compare(a.at, b.at))
		})
		r.e = c.entries[k]
		r.next = nil
		for _, w := range wants {
			if err := r.want(w); err != nil {
				return nil, err
			}
			if limit > 0 && len(r.pieces)+len(r.next) > limit {
				return nil, errTooMany
			}
		}
		wants = r.next
	}
	return r.pieces, nil
}

func (r *resolver) want(w want) error {
	if w.mem < 0 || int(w.mem) >= len(r.e.snap.Members) {
		return ErrCorrupt
	}
	m := &r.e.snap.Members[w.mem]
	if m.Type != manifest.File {
		return r.e.corrupt(m, w.off, "content of a %s is needed", m.Type)
	}
	if w.off < 0 || w.n <= 0 || w.off > m.Size-w.n {
		return r.e.corrupt(m, w.off, "%d bytes are needed, the file ends at %d", w.n, m.Size)
	}
	if w.look && r.finder != nil {
		return r.look(m, w)
	}
	return r.stored(m, w)
}

// look takes what is at hand of w, and passes on the rest.
func (r *resolver) look(m *manifest.Member, w want) error {
	b, err := r.e.blocks(m)
	if err != nil {
		return err
	}
	var buf [256]delta.Digest
	rest := want{}
	flush := func() error {
		if rest.n == 0 {
			return nil
		}
		defer func() { rest.n = 0 }()
		return r.stored(m, rest)
	}
	for at, end := w.off, w.off+w.n; at < end; {
		first := b.at(at)
		ds := buf[:min(int64(len(buf)), b.at(end-1)-first+1)]
		if err := b.read(first, ds); err != nil {
			return r.e.fail(m, at, err)
		}
		for j, d := range ds {
			boff, bn := b.rng(first + int64(j))
			lo, hi := max(at, boff), min(end, boff+bn)
			dst := w.at + lo - w.off
			at = hi
			if d.IsZero() {
				if err := flush(); err != nil {
					return err
				}
				r.piece(piece{arch: zeroPiece, file: w.file, n: hi - lo, at: dst})
				continue
			}
			if f, off, ok := r.finder.find(d, m.Path, first+int64(j), b); ok {
				if err := flush(); err != nil {
					return err
				}
				r.piece(piece{arch: localPiece - f, file: w.file, src: off + lo - boff, n: hi - lo, at: dst})
				continue
			}
			if rest.n == 0 {
				rest = want{mem: w.mem, file: w.file, off: lo, at: dst}
			}
			rest.n += hi - lo
		}
	}
	return flush()
}

// stored adds what the entry's archive says of w.
func (r *resolver) stored(m *manifest.Member, w want) error {
	switch st := &m.Stored; st.As {
	case manifest.AsWhole:
		return r.whole(m, w)
	case manifest.AsSame:
		return r.parent(m, w, w.off, w.off+w.n, 0, m.Size, true)
	case manifest.AsDelta:
		return r.delta(m, w)
	}
	return r.e.corrupt(m, w.off, "its content is not stored")
}

// whole adds the pieces of a member that the archive holds at its own path.
func (r *resolver) whole(m *manifest.Member, w want) error {
	if r.e.local != nil {
		r.piece(piece{arch: localPiece - r.e.local(w.mem), file: w.file, src: w.off, n: w.n, at: w.at})
		return nil
	}
	st := &m.Stored
	if st.Body > r.e.size || st.Bytes > r.e.size-st.Body {
		return r.e.corrupt(m, -1, "it passes the end of the archive")
	}
	rs, err := r.c.storedRuns(r.e, m)
	if err != nil {
		return err
	}
	if rs == nil {
		r.piece(piece{arch: int32(r.e.k), file: w.file, src: st.Body + w.off, n: w.n, at: w.at})
		return nil
	}
	i := sort.Search(len(rs.ext), func(i int) bool { return rs.ext[i].End() > w.off })
	for at, end := w.off, w.off+w.n; at < end; i++ {
		lo, hi := end, end
		if i < len(rs.ext) {
			lo, hi = min(max(at, rs.ext[i].Offset), end), min(rs.ext[i].End(), end)
		}
		if lo > at {
			r.piece(piece{arch: zeroPiece, file: w.file, n: lo - at, at: w.at + at - w.off})
		}
		if hi > lo {
			r.piece(piece{arch: int32(r.e.k), file: w.file, src: st.Body + rs.cum[i] + lo - rs.ext[i].Offset, n: hi - lo, at: w.at + lo - w.off})
		}
		at = hi
	}
	return nil
}

// parent passes the bytes from lo to hi of w on to the parent's file of the same path. From and to are the
// whole range that is as in the parent: a block that lies in it has the parent's digest.
func (r *resolver) parent(m *manifest.Member, w want, lo, hi, from, to int64, all bool) error {
	p := r.up()
	if p == nil {
		return r.e.corrupt(m, lo, "it builds on a parent, and there is none")
	}
	i := p.find(m.Path, w.mem)
	if i < 0 {
		return r.e.corrupt(m, lo, "it builds on a file that the parent does not have")
	}
	pm := &p.snap.Members[i]
	if all && (pm.Size != m.Size || pm.Digest != m.Digest && p.snap.Grid(pm) == r.e.snap.Grid(m)) {
		return r.e.corrupt(m, -1, "it should be as in the parent, which has another file")
	}
	n := want{mem: i, file: w.file, off: lo, n: hi - lo, at: w.at + lo - w.off}
	if r.finder == nil || all {
		r.pass(n)
		return nil
	}
	// Only at the edges of the range does a block have another digest in the parent.
	b, err := p.blocks(pm)
	if err != nil {
		return err
	}
	if pm.Type != manifest.File || hi > pm.Size {
		n.look = true
		r.pass(n) // refused there
		return nil
	}
	cut := func(to int64, look bool) {
		if k := min(to, hi) - n.off; k > 0 {
			x := n
			x.n, x.look = k, look
			r.pass(x)
			n.off += k
			n.at += k
		}
	}
	if off, l := b.rng(b.at(lo)); off < from {
		cut(off+l, true)
	}
	off, l := b.rng(b.at(hi - 1))
	if off+l > to {
		cut(off, false)
		cut(hi, true)
	}
	cut(hi, false)
	return nil
}

func (r *resolver) up() *entry {
	if r.e.k == 0 {
		return nil
	}
	return r.c.entries[r.e.k-1]
}

func (r *resolver) delta(m *manifest.Member, w want) error {
	segs := m.Stored.Segments
	i := sort.Search(len(segs), func(i int) bool { return segs[i].End > w.off })
	for at, end := w.off, w.off+w.n; at < end; i++ {
		from, stop := int64(0), m.Size // of the gap before segment i
		if i > 0 {
			from = segs[i-1].End
		}
		if i < len(segs) {
			stop = segs[i].Start
		}
		if at < stop {
			to := min(stop, end)
			if err := r.parent(m, w, at, to, from, stop, false); err != nil {
				return err
			}
			at = to
		}
		if i == len(segs) || at >= end {
			continue
		}
		s, err := r.c.parsed(r.e, m, &segs[i])
		if err != nil {
			return err
		}
		to := min(end, segs[i].End)
		for j := s.opAt(at); at < to; j++ {
			hi := min(to, s.end(j))
			if err := r.op(m, w, s, j, at, hi); err != nil {
				return err
			}
			if r.limit > 0 && len(r.pieces)+len(r.next) > r.limit {
				return errTooMany
			}
			at = hi
		}
	}
	return nil
}

// op adds the bytes of w from lo to hi, which operation j of s describes.
func (r *resolver) op(m *manifest.Member, w want, s *segment, j int, lo, hi int64) error {
	o := &s.ops[j]
	dst := w.at + lo - w.off
	switch o.kind {
	case delta.Same:
		return r.parent(m, w, lo, hi, o.start, s.end(j), false)
	case delta.Zero:
		r.piece(piece{arch: zeroPiece, file: w.file, n: hi - lo, at: dst})
	case delta.Data:
		r.piece(piece{arch: int32(r.e.k), file: w.file, src: o.off + lo - o.start, n: hi - lo, at: dst})
	case delta.Copy:
		p := r.up()
		if p == nil {
			return r.e.corrupt(m, lo, "it copies from a parent, and there is none")
		}
		src := manifest.Path(s.sources[o.src])
		i := p.find(src, w.mem)
		if i < 0 {
			return r.e.corrupt(m, lo, "it copies from %q, which the parent does not have", src)
		}
		r.pass(want{mem: i, file: w.file, look: true, off: o.off + lo - o.start, n: hi - lo, at: dst})
	case delta.Self:
		return r.self(m, w, s, j, lo, hi)
	default:
		return r.e.corrupt(m, lo, "unknown operation %s", o.kind)
	}
	return nil
}

// self adds bytes that a self operation takes from this archive. What it names must be stored there as
// data, in front of the operation; so one step is enough and nothing loops.
func (r *resolver) self(m *manifest.Member, w want, s *segment, j int, lo, hi int64) error {
	o := &s.ops[j]
	path := manifest.Path(s.sources[o.src])
	i := r.e.find(path, w.mem)
	if i < 0 {
		return r.e.corrupt(m, lo, "it takes bytes from %q, which the entry does not have", path)
	}
	sm := &r.e.snap.Members[i]
	at, end := o.off+lo-o.start, o.off+hi-o.start
	if sm.Type != manifest.File || at < 0 || end > sm.Size {
		return r.e.corrupt(m, lo, "it takes bytes %d to %d from %q, which has no such bytes", at, end, path)
	}
	src := want{mem: i, file: w.file, off: at, n: end - at, at: w.at + lo - w.off}
	switch sm.Stored.As {
	case manifest.AsWhole:
		if sm.Stored.Body >= s.g.Body {
			return r.e.corrupt(m, lo, "it takes bytes from %q, which comes later", path)
		}
		return r.whole(sm, src)
	case manifest.AsDelta:
	default:
		return r.e.corrupt(m, lo, "it takes bytes from %q, which the archive does not hold", path)
	}
	segs := sm.Stored.Segments
	k := sort.Search(len(segs), func(k int) bool { return segs[k].End > at })
	for ; at < end; k++ {
		if k == len(segs) || segs[k].Start > at || segs[k].Body > s.g.Body {
			return r.e.corrupt(m, lo, "it takes bytes at %d of %q, which are not stored in front of it", at, path)
		}
		d, err := r.c.parsed(r.e, sm, &segs[k])
		if err != nil {
			return err
		}
		to := min(end, segs[k].End)
		for x := d.opAt(at); at < to; x++ {
			h := min(to, d.end(x))
			if d.ops[x].kind != delta.Data || segs[k].Body == s.g.Body && h > o.start {
				return r.e.corrupt(m, lo, "it takes bytes at %d of %q, which are not stored in front of it", at, path)
			}
			r.piece(piece{arch: int32(r.e.k), file: w.file, src: d.ops[x].off + at - d.ops[x].start, n: h - at, at: src.at + at - src.off})
			at = h
		}
	}
	return nil
}

// piece appends p, or makes the last piece longer.
func (r *resolver) piece(p piece) {
	if n := len(r.pieces); n > 0 {
		l := &r.pieces[n-1]
		if l.arch == p.arch && l.file == p.file && l.at+l.n == p.at && (l.src+l.n == p.src || p.arch == zeroPiece) {
			l.n += p.n
			return
		}
	}
	r.pieces = append(r.pieces, p)
}

// pass appends w to what the parent is asked, or makes the last one longer.
func (r *resolver) pass(w want) {
	if n := len(r.next); n > 0 {
		l := &r.next[n-1]
		if l.mem == w.mem && l.file == w.file && l.look == w.look && l.off+l.n == w.off && l.at+l.n == w.at {
			l.n += w.n
			return
		}
	}
	r.next = append(r.next, w)
}
