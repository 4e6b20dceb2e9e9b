package codec

import (
	"context"
	"errors"
	"fmt"
	"io"
	"runtime"
	"sort"
	"sync"
	"sync/atomic"

	"golang.org/x/sync/errgroup"
)

// Source is what a Reader reads; formats.Source is the same.
type Source interface {
	io.ReaderAt
	Size() int64 // bytes
}

// ReaderOptions say how to read. The zero value works.
type ReaderOptions struct {
	Workers int    // goroutines of Section, Frames and Verify; 0: as many as CPUs are usable
	Cache   *Cache // of the frames that ReadAt decodes; nil: one of its own, of 16 MiB
}

// A Reader gives the decoded bytes of an encoded stream, by the table of its frames. It is safe for
// concurrent use. It does not own its source.
type Reader struct {
	src     Source
	codec   Codec
	frames  []Frame
	enc     []int64 // by frame: offset of its encoded bytes; one more at the end
	dec     []int64 // by frame: offset of its decoded bytes; one more at the end
	workers int

	checked, unchecked sync.Pool // of decoders
	cache              atomic.Pointer[Cache]
}

// maxEncoded is more than any codec makes of MaxFrame bytes: what does not compress grows by less than 1 in 1000.
const maxEncoded = MaxFrame + MaxFrame/64

// NewReader returns a reader of the frames of src, which begin at its first byte. With codec none
// frames must be empty, and the decoded bytes are those of src. A table that does not fit src is an error.
func NewReader(src Source, c Codec, frames []Frame, o ReaderOptions) (*Reader, error) {
	r := &Reader{src: src, codec: c, frames: frames, workers: o.Workers}
	if r.workers <= 0 {
		r.workers = runtime.GOMAXPROCS(0)
	}
	if o.Cache == nil {
		o.Cache = NewCache(ownCache)
	}
	r.cache.Store(o.Cache)
	if c.Name() == "none" {
		if len(frames) > 0 {
			return nil, errors.New("frames without a codec")
		}
		return r, nil
	}
	r.enc = make([]int64, len(frames)+1)
	r.dec = make([]int64, len(frames)+1)
	for i, f := range frames {
		if f.Encoded <= 0 || f.Encoded > maxEncoded || f.Encoded > src.Size()-r.enc[i] || f.Decoded < 0 || f.Decoded > MaxFrame {
			return nil, fmt.Errorf("frame %d: %d bytes, decoded %d, at byte %d of %d", i, f.Encoded, f.Decoded, r.enc[i], src.Size())
		}
		r.enc[i+1] = r.enc[i] + f.Encoded
		r.dec[i+1] = r.dec[i] + f.Decoded
	}
	return r, nil
}

// Size returns the number of decoded bytes.
func (r *Reader) Size() int64 {
	if r.dec == nil {
		return r.src.Size()
	}
	return r.dec[len(r.frames)]
}

// Count returns the number of frames; 0 with codec none.
func (r *Reader) Count() int { return len(r.frames) }

// FrameAt returns the frame that holds decoded byte off; Count when off is behind the end. With codec none
// it is 0.
func (r *Reader) FrameAt(off int64) int {
	return sort.Search(len(r.frames), func(i int) bool { return r.dec[i+1] > off })
}

// FrameRange returns where the decoded bytes of frame i are.
func (r *Reader) FrameRange(i int) (off, n int64) { return r.dec[i], r.frames[i].Decoded }

// care is what is compared of a frame, beside that it can be decoded.
type care int

const (
	whole   care = iota // its digest, and the codec's checksum: that stock programs read it
	digest              // its digest
	lightly             // nothing, unless it cannot be decoded, to tell why
)

// read decodes frame i into dst. Scratch is for the encoded bytes, and is returned for the next call. The frame's digest is
// compared first.
func (r *Reader) read(i int, dst, scratch []byte, c care) (data, next []byte, err error) {
	f := r.frames[i]
	fail := func(err error) ([]byte, []byte, error) {
		return nil, scratch, &FrameError{Frame: i, Offset: r.enc[i], Size: f.Encoded, Decoded: r.dec[i], Err: err}
	}
	if int64(cap(scratch)) < f.Encoded {
		scratch = make([]byte, f.Encoded+f.Encoded/8)
	}
	enc := scratch[:f.Encoded]
	if n, err := r.src.ReadAt(enc, r.enc[i]); n < len(enc) {
		if err == nil || errors.Is(err, io.EOF) {
			err = io.ErrUnexpectedEOF
		}
		return fail(err)
	}
	if c != lightly && sum(enc) != f.Digest {
		return fail(ErrDigest)
	}
	decoders := &r.unchecked
	if c == whole {
		decoders = &r.checked
	}
	d, ok := decoders.Get().(Decoder)
	if !ok {
		if d, err = r.codec.NewDecoder(DecoderOptions{Unchecked: c != whole}); err != nil {
			return fail(err)
		}
	}
	defer decoders.Put(d)
	if data, err = d.Decode(dst[:0], enc, f.Decoded); err != nil {
		if c == lightly && sum(enc) != f.Digest {
			err = ErrDigest
		}
		return fail(err)
	}
	return data, scratch, nil
}

// ReadAt reads decoded bytes. It decodes the frames that hold them, and keeps some.
func (r *Reader) ReadAt(p []byte, off int64) (int, error) {
	if r.dec == nil {
		return r.src.ReadAt(p, off)
	}
	if off < 0 {
		return 0, fmt.Errorf("read at %d", off)
	}
	n := 0
	for n < len(p) {
		i := r.FrameAt(off)
		if i == len(r.frames) {
			return n, io.EOF
		}
		c := r.cache.Load()
		f := c.get(r, i)
		if f.err != nil {
			return n, f.err
		}
		k := copy(p[n:], f.data[off-r.dec[i]:])
		c.release(f)
		n += k
		off += int64(k)
	}
	return n, nil
}

// Share makes r keep frames in c from now on, with other readers, instead of in a cache of its own. Before the first
// use of r by others it is free; later it is safe.
func (r *Reader) Share(c *Cache) { r.cache.Store(c) }

// Frame decodes frame i, without keeping it, and calls fn with its bytes, which are valid during the call only.
func (r *Reader) Frame(i int, fn func(data []byte)) error { return r.cache.Load().once(r, i, fn) }

// Section returns a reader of the n decoded bytes from off on. Frames are decoded ahead by
// Workers goroutines, in order; of each, digest and the codec's own checksum are compared. It must be closed. Errors of frames are
// *FrameError.
func (r *Reader) Section(ctx context.Context, off, n int64) io.ReadCloser {
	if r.dec == nil {
		return &plainSection{ctx: ctx, r: io.NewSectionReader(r.src, off, n)}
	}
	if off < 0 {
		return &section{stop: func() {}, err: fmt.Errorf("read at %d", off)}
	}
	ctx, stop := context.WithCancel(ctx)
	s := &section{r: r, stop: stop, ctx: ctx, off: off, end: off + min(n, r.Size()-off), queue: make(chan *readJob, r.workers+1)}
	jobs := make(chan *readJob)
	s.free = make(chan *readJob, 2*r.workers+4)
	s.wg.Go(func() {
		defer close(jobs)
		defer close(s.queue)
		for i := r.FrameAt(off); i < len(r.frames) && r.dec[i] < s.end; i++ {
			var j *readJob
			select {
			case j = <-s.free:
			default:
				j = &readJob{}
			}
			j.frame, j.done = i, make(chan struct{})
			for _, c := range []chan *readJob{s.queue, jobs} {
				select {
				case c <- j:
				case <-ctx.Done():
					return
				}
			}
		}
	})
	for range r.workers {
		s.wg.Go(func() {
			for j := range jobs {
				j.data, j.scratch, j.err = r.read(j.frame, j.data, j.scratch, whole)
				close(j.done)
			}
		})
	}
	return s
}

type plainSection struct {
	ctx context.Context // of one Section call
	r   io.Reader
}

func (s *plainSection) Read(p []byte) (int, error) {
	if s.ctx.Err() != nil {
		return 0, context.Cause(s.ctx)
	}
	return s.r.Read(p)
}

func (s *plainSection) Close() error { return nil }

type readJob struct {
	frame         int
	data, scratch []byte
	err           error
	done          chan struct{}
}

type section struct {
	r     *Reader
	ctx   context.Context // of one Section call
	stop  context.CancelFunc
	wg    sync.WaitGroup
	off   int64
	end   int64
	queue chan *readJob
	free  chan *readJob
	cur   *readJob
	err   error
}

func (s *section) Read(p []byte) (int, error) {
	if s.err != nil {
		return 0, s.err
	}
	if s.off >= s.end {
		return 0, io.EOF
	}
	if len(p) == 0 {
		return 0, nil
	}
	for s.cur == nil || s.off >= s.r.dec[s.cur.frame+1] {
		if s.cur != nil {
			select {
			case s.free <- s.cur:
			default:
			}
			s.cur = nil
		}
		if s.err = s.take(); s.err != nil {
			return 0, s.err
		}
	}
	at := s.off - s.r.dec[s.cur.frame]
	b := s.cur.data[at:min(int64(len(s.cur.data)), at+s.end-s.off)]
	n := copy(p, b)
	s.off += int64(n)
	return n, nil
}

func (s *section) take() error {
	select {
	case j, ok := <-s.queue:
		if !ok {
			if err := context.Cause(s.ctx); err != nil {
				return err
			}
			return io.ErrUnexpectedEOF
		}
		select {
		case <-j.done:
			s.cur = j
			return j.err
		case <-s.ctx.Done():
		}
	case <-s.ctx.Done():
	}
	return context.Cause(s.ctx)
}

// Close ends the goroutines.
func (s *section) Close() error {
	s.stop()
	s.wg.Wait()
	if s.err == nil {
		s.err = errors.New("section is closed")
	}
	return nil
}

// Frames decodes each of the listed frames once and calls fn with its number, the offset of its
// decoded bytes, and these, which are valid during the call only. Up to Workers calls run at a time, in any
// order. The first error ends it. With codec none there are no frames.
//
// Light, unless it is nil, says of which of the listed frames the digest need not be compared: the caller takes little of
// them, and compares that with a digest of its own. What cannot be decoded is found nevertheless.
func (r *Reader) Frames(ctx context.Context, idx []int, light func(k int) bool, fn func(i int, off int64, data []byte) error) error {
	return r.each(ctx, len(idx), func(data, scratch []byte, k int) ([]byte, []byte, error) {
		i := idx[k]
		c := digest
		if light != nil && light(k) {
			c = lightly
		}
		data, scratch, err := r.read(i, data, scratch, c)
		if err != nil {
			return data, scratch, err
		}
		return data, scratch, fn(i, r.dec[i], data)
	})
}

func (r *Reader) each(ctx context.Context, n int, do func(data, scratch []byte, k int) ([]byte, []byte, error)) error {
	g, ctx := errgroup.WithContext(ctx)
	jobs := make(chan int)
	g.Go(func() error {
		defer close(jobs)
		for k := range n {
			select {
			case jobs <- k:
			case <-ctx.Done():
				return context.Cause(ctx)
			}
		}
		return nil
	})
	for range r.workers {
		g.Go(func() error {
			var data, scratch []byte
			for k := range jobs {
				d, s, err := do(data, scratch, k)
				if err != nil {
					return err
				}
				data, scratch = d, s
			}
			return nil
		})
	}
	return g.Wait()
}
