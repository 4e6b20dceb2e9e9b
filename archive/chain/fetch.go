package chain

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"sort"
	"sync/atomic"

	"golang.org/x/sync/errgroup"

	"tarvm/archive/codec"
)

// windowPieces is how many pieces and wants are in memory at a time: 32 to 40 bytes each.
const windowPieces = 1 << 20

// littleOf is the part of a frame below which its digest costs more than it tells: to compare 4 MiB takes as long as to
// decode them.
const littleOf = 4

// A sink takes bytes of destinations. Its methods may run at once, for different bytes.
type sink interface {
	write(file int32, at int64, data []byte) error
	// lost is told that the bytes of p cannot be had; an error ends everything.
	lost(p piece, err error) error
	// cut returns the start of the block of file that holds at: where long pieces are divided.
	cut(file int32, at int64) int64
}

// fetcher brings pieces to a sink: every frame is decoded once, files at hand are read in order.
type fetcher struct {
	c       *Chain
	workers int
	sink    sink
	locals  *handles // nil: none
	done    func(n int64)
	// lightly: everything that is fetched is compared with digests of blocks, and what is not fetched does not matter. Then
	// digests of frames of which little is wanted are left out.
	lightly bool

	local   atomic.Int64   // bytes taken from files at hand
	fetched []atomic.Int64 // bytes taken from each archive
	frames  []atomic.Int64 // frames decoded of each archive
}

func (f *fetcher) run(ctx context.Context, ps []piece) error {
	slices.SortFunc(ps, func(a, b piece) int {
		return cmp.Or(cmp.Compare(a.arch, b.arch), cmp.Compare(a.src, b.src))
	})
	for len(ps) > 0 {
		n := 1
		arch := ps[0].arch
		for n < len(ps) && (ps[n].arch == arch || arch <= localPiece && ps[n].arch <= localPiece) {
			n++
		}
		var err error
		switch {
		case arch <= localPiece:
			err = f.copy(ctx, ps[:n], &f.local, func(p piece) (io.ReaderAt, func(), error) {
				h, err := f.locals.get(localPiece - p.arch)
				if err != nil {
					return nil, nil, err
				}
				return h, func() { f.locals.put(h) }, nil
			})
		case arch == zeroPiece:
			err = f.zero(ps[:n])
		default:
			e := f.c.entries[arch]
			if r := e.reader(); r != nil {
				err = f.decode(ctx, e, r, ps[:n])
			} else {
				err = f.copy(ctx, ps[:n], &f.fetched[arch], func(piece) (io.ReaderAt, func(), error) { return e.data, func() {}, nil })
			}
		}
		if err != nil {
			return err
		}
		ps = ps[n:]
	}
	return nil
}

var zeroBuf [64 << 10]byte

func (f *fetcher) zero(ps []piece) error {
	for _, p := range ps {
		for at := p.at; at < p.at+p.n; {
			n := min(p.at+p.n-at, int64(len(zeroBuf)))
			if err := f.sink.write(p.file, at, zeroBuf[:n]); err != nil {
				return err
			}
			at += n
		}
		f.done(p.n)
	}
	return nil
}

// decode takes pieces, which are sorted, out of frames.
func (f *fetcher) decode(ctx context.Context, e *entry, r *codec.Reader, ps []piece) error {
	// Where pieces overlap in the archive, the first that reaches a frame is found by what ends furthest.
	reach := make([]int64, len(ps))
	var idx []int
	wanted := make(map[int]int64) // bytes of each frame
	var far int64
	for i, p := range ps {
		far = max(far, p.src+p.n)
		reach[i] = far
		first, last := r.FrameAt(p.src), r.FrameAt(p.src+p.n-1)
		if first < 0 || last < 0 {
			return fmt.Errorf("%w: bytes %d to %d of the archive of entry %s", ErrCorrupt, p.src, p.src+p.n, e.snap.ID.Short())
		}
		for i := first; f.lightly && i <= last; i++ {
			off, n := r.FrameRange(i)
			wanted[i] += min(off+n, p.src+p.n) - max(off, p.src)
		}
		if n := len(idx); n > 0 {
			first = max(first, idx[n-1]+1)
		}
		for ; first <= last; first++ {
			idx = append(idx, first)
		}
	}
	each := func(off, end int64, fn func(p piece) error) error {
		i := sort.Search(len(ps), func(i int) bool { return reach[i] > off })
		for ; i < len(ps) && ps[i].src < end; i++ {
			p := ps[i]
			lo, hi := max(off, p.src), min(end, p.src+p.n)
			if lo >= hi {
				continue
			}
			p.at, p.src, p.n = p.at+lo-p.src, lo, hi-lo
			if err := fn(p); err != nil {
				return err
			}
		}
		return nil
	}
	little := func(k int) bool {
		_, n := r.FrameRange(idx[k])
		return f.lightly && wanted[idx[k]] < n/littleOf
	}
	seen := make([]atomic.Bool, len(idx)) // by place in idx
	for len(idx) > 0 {
		err := r.Frames(ctx, idx, little, func(i int, off int64, data []byte) error {
			if j, ok := slices.BinarySearch(idx, i); ok {
				seen[j].Store(true)
			}
			f.frames[e.k].Add(1)
			return each(off, off+int64(len(data)), func(p piece) error {
				if err := f.sink.write(p.file, p.at, data[p.src-off:][:p.n]); err != nil {
					return err
				}
				f.fetched[e.k].Add(p.n)
				f.done(p.n)
				return nil
			})
		})
		var bad *codec.FrameError
		if !errors.As(err, &bad) {
			return err
		}
		err = fmt.Errorf("archive of entry %s: %w", e.snap.ID.Short(), err)
		// Behind a damaged frame the others are as good as before.
		off, n := r.FrameRange(bad.Frame)
		if lerr := each(off, off+n, func(p piece) error {
			f.done(p.n)
			return f.sink.lost(p, err)
		}); lerr != nil {
			return lerr
		}
		rest := idx[:0:0]
		for j, i := range idx {
			if !seen[j].Load() && i != bad.Frame {
				rest = append(rest, i)
			}
		}
		idx, seen = rest, make([]atomic.Bool, len(rest))
	}
	return nil
}

// copy reads pieces, which are sorted, from what can be read at random.
func (f *fetcher) copy(ctx context.Context, ps []piece, count *atomic.Int64, source func(piece) (io.ReaderAt, func(), error)) error {
	const job = 1 << 20
	g, ctx := errgroup.WithContext(ctx)
	jobs := make(chan []piece)
	g.Go(func() error {
		defer close(jobs)
		send := func(js []piece) error {
			select {
			case jobs <- js:
				return nil
			case <-ctx.Done():
				return context.Cause(ctx)
			}
		}
		for i := 0; i < len(ps); {
			if ps[i].n > job {
				for p := ps[i]; p.n > 0; {
					q := p
					if p.n > job {
						if c := f.sink.cut(p.file, p.at+job); c > p.at {
							q.n = c - p.at
						}
					}
					if err := send([]piece{q}); err != nil {
						return err
					}
					p.src, p.at, p.n = p.src+q.n, p.at+q.n, p.n-q.n
				}
				i++
				continue
			}
			j, sum := i, int64(0)
			for j < len(ps) && sum+ps[j].n <= job {
				sum += ps[j].n
				j++
			}
			if err := send(ps[i:j]); err != nil {
				return err
			}
			i = j
		}
		return nil
	})
	for range max(1, f.workers) {
		g.Go(func() error {
			var buf []byte
			for js := range jobs {
				for _, p := range js {
					if int64(len(buf)) < p.n {
						buf = make([]byte, max(p.n, 64<<10))
					}
					err := func() error {
						r, put, err := source(p)
						if err != nil {
							return err
						}
						defer put()
						return readFull(r, buf[:p.n], p.src)
					}()
					if err != nil {
						err = f.sink.lost(p, err)
					} else {
						count.Add(p.n)
						err = f.sink.write(p.file, p.at, buf[:p.n])
					}
					if err != nil {
						return err
					}
					f.done(p.n)
				}
			}
			return nil
		})
	}
	return g.Wait()
}

// windows resolves the wants of gen in portions that keep memory bounded, and gives the pieces of each to use.
// Gen yields the wants in order; cut divides one that has too many pieces at a block.
func (c *Chain) windows(ctx context.Context, k int, f finder, gen func(yield func(want) bool) error, cut func(want) int64, use func([]piece) error) error {
	// Bytes of a window: halved when its pieces are too many, doubled when they are few.
	size := int64(4 << 30)
	var batch []want
	var sum int64
	var failed error
	flush := func() {
		for todo := batch; len(todo) > 0 && failed == nil; {
			n, bytes := 0, int64(0)
			for n < len(todo) && (n == 0 || bytes+todo[n].n <= size) {
				bytes += todo[n].n
				n++
			}
			ps, err := c.resolve(ctx, k, slices.Clone(todo[:n]), f, windowPieces)
			if errors.Is(err, errTooMany) {
				size = max(1, bytes/2)
				if n > 1 {
					continue
				}
				at := cut(todo[0])
				if at <= todo[0].off || at >= todo[0].off+todo[0].n {
					failed = fmt.Errorf("%w: a block of more than %d pieces", ErrCorrupt, windowPieces)
					return
				}
				a, b := todo[0], todo[0]
				a.n = at - a.off
				b.off, b.at, b.n = at, b.at+a.n, b.n-a.n
				todo = append([]want{a, b}, todo[1:]...)
				continue
			}
			if err != nil {
				failed = err
				return
			}
			if len(ps) < windowPieces/4 {
				size = min(size*2, 64<<30)
			}
			failed = use(ps)
			todo = todo[n:]
		}
		batch, sum = batch[:0], 0
	}
	err := gen(func(w want) bool {
		batch = append(batch, w)
		sum += w.n
		if len(batch) >= windowPieces/4 || sum >= size {
			flush()
		}
		return failed == nil
	})
	if failed == nil && err == nil {
		flush()
	}
	return errors.Join(failed, err)
}
