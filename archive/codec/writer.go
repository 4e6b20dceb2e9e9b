package codec

import (
	"context"
	"errors"
	"fmt"
	"io"
	"runtime"
	"sync"

	"github.com/zeebo/blake3"
)

// WriterOptions say how to write. The zero value works.
type WriterOptions struct {
	Level     *int // nil: the codec's default
	Workers   int  // 0: as many as CPUs are usable
	FrameSize int  // bytes before coding; 0: the codec's
}

// A Writer cuts a stream into frames, which are coded by Workers goroutines and written in order. Its
// output depends on what is written and where it is cut, and not on the number of workers. It is for
// one goroutine, and must be closed.
//
// The first error sticks: every later call returns it.
type Writer struct {
	ctx   context.Context // of the whole stream, which the Writer's goroutines live in
	out   io.Writer
	codec Codec
	plain bool // codec none: bytes pass through
	size  int
	level int

	cur    *writeJob
	offset int64

	jobs  chan *writeJob
	queue chan *writeJob
	free  chan *writeJob
	wg    sync.WaitGroup
	stop  context.CancelCauseFunc
	close sync.Once
	made  int
	limit int

	mu      sync.Mutex
	err     error
	frames  []Frame
	encoded int64
}

type writeJob struct {
	in, out []byte
	err     error
	done    chan struct{}
	flush   chan struct{} // a job that only says that all before it is written
}

// NewWriter returns a writer to w. A canceled context makes its calls fail.
func NewWriter(ctx context.Context, w io.Writer, c Codec, o WriterOptions) (*Writer, error) {
	l := c.Levels()
	level := l.Default
	if o.Level != nil {
		level = *o.Level
		if level < l.Min || level > l.Max {
			if l.Max == 0 {
				return nil, fmt.Errorf("codec %s has no levels", c.Name())
			}
			return nil, fmt.Errorf("level %d: %s has %d to %d", level, c.Name(), l.Min, l.Max)
		}
	}
	size := o.FrameSize
	if size == 0 {
		size = c.FrameSize()
	}
	if size < 0 || size > MaxFrame {
		return nil, fmt.Errorf("frame size %d: at most %d", size, MaxFrame)
	}
	workers := o.Workers
	if workers <= 0 {
		workers = runtime.GOMAXPROCS(0)
	}
	ctx, stop := context.WithCancelCause(ctx)
	z := &Writer{ctx: ctx, stop: stop, out: w, codec: c, plain: c.Name() == "none", size: size, level: level}
	if z.plain {
		return z, nil
	}
	encoders := make([]Encoder, workers)
	for i := range encoders {
		var err error
		if encoders[i], err = c.NewEncoder(level); err != nil {
			stop(nil)
			return nil, err
		}
	}
	z.limit = workers + 2
	z.jobs = make(chan *writeJob)
	z.queue = make(chan *writeJob, z.limit+1)
	z.free = make(chan *writeJob, z.limit)
	for _, e := range encoders {
		z.wg.Go(func() { z.encode(e) })
	}
	z.wg.Go(z.emit)
	return z, nil
}

func (w *Writer) encode(e Encoder) {
	for j := range w.jobs {
		if j.out == nil {
			j.out = make([]byte, 0, w.size+w.size>>8+1<<10) // what does not get smaller has room, too
		}
		j.out, j.err = e.Encode(j.out[:0], j.in)
		close(j.done)
	}
}

func (w *Writer) emit() {
	for j := range w.queue {
		if j.flush != nil {
			close(j.flush)
			continue
		}
		<-j.done
		if j.err != nil {
			w.fail(j.err)
		} else if w.sticky() == nil {
			w.put(j.out, int64(len(j.in)))
		}
		w.free <- j
	}
}

func sum(b []byte) [16]byte {
	d := blake3.Sum256(b)
	return [16]byte(d[:16])
}

// put writes an encoded frame.
func (w *Writer) put(b []byte, decoded int64) {
	f := Frame{Encoded: int64(len(b)), Decoded: decoded}
	if !w.plain {
		f.Digest = sum(b)
	}
	n, err := w.out.Write(b)
	if err == nil && n < len(b) {
		err = io.ErrShortWrite
	}
	w.mu.Lock()
	w.encoded += int64(n)
	if !w.plain {
		w.frames = append(w.frames, f)
	}
	w.mu.Unlock()
	if err != nil {
		w.fail(err)
	}
}

func (w *Writer) fail(err error) {
	w.mu.Lock()
	if w.err == nil {
		w.err = err
	}
	w.mu.Unlock()
	w.stop(err)
}

func (w *Writer) sticky() error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.err == nil && w.ctx.Err() != nil {
		w.err = context.Cause(w.ctx)
	}
	return w.err
}

// Write appends a copy of p to the stream.
func (w *Writer) Write(p []byte) (int, error) {
	if err := w.sticky(); err != nil {
		return 0, err
	}
	if w.plain {
		w.offset += int64(len(p))
		w.put(p, int64(len(p)))
		return len(p), w.sticky()
	}
	n := 0
	for n < len(p) {
		if w.cur == nil {
			if err := w.next(); err != nil {
				return n, err
			}
		}
		k := min(len(p)-n, w.size-len(w.cur.in))
		w.cur.in = append(w.cur.in, p[n:n+k]...)
		n += k
		w.offset += int64(k)
		if len(w.cur.in) == w.size {
			if err := w.Cut(); err != nil {
				return n, err
			}
		}
	}
	return n, nil
}

// Take appends p to the stream as Write does, but takes its memory where it can, and gives other memory for it, of length 0:
// what is a frame by itself is not copied. That is where a frame begins, for a p that has the capacity of a frame and is no longer.
func (w *Writer) Take(p []byte) ([]byte, error) {
	if w.plain || w.cur != nil || len(p) == 0 || len(p) > w.size || cap(p) < w.size {
		_, err := w.Write(p)
		return p[:0], err
	}
	if err := w.sticky(); err != nil {
		return p[:0], err
	}
	if err := w.next(); err != nil {
		return p[:0], err
	}
	w.offset += int64(len(p))
	w.cur.in, p = p, w.cur.in
	if len(w.cur.in) == w.size {
		return p, w.Cut()
	}
	return p, nil
}

// next takes a free job for the next frame.
func (w *Writer) next() error {
	select {
	case w.cur = <-w.free:
	default:
		if w.made < w.limit {
			w.made++
			w.cur = &writeJob{in: make([]byte, 0, w.size)}
			break
		}
		select {
		case w.cur = <-w.free:
		case <-w.ctx.Done():
			return w.sticky()
		}
	}
	w.cur.in = w.cur.in[:0]
	w.cur.done = make(chan struct{})
	return nil
}

// Cut ends the current frame here. It does nothing at the start of a frame.
func (w *Writer) Cut() error {
	if err := w.sticky(); err != nil {
		return err
	}
	if w.cur == nil {
		return nil
	}
	j := w.cur
	w.cur = nil
	w.queue <- j // has room for all jobs and a flush
	w.jobs <- j  // workers always take one: they wait for nothing else
	return nil
}

// Offset returns the number of bytes that were written to the stream.
func (w *Writer) Offset() int64 { return w.offset }

// Flush ends the current frame, and waits until all is written.
func (w *Writer) Flush() error {
	if err := w.Cut(); err != nil {
		return err
	}
	if !w.plain {
		f := &writeJob{flush: make(chan struct{})}
		w.queue <- f
		<-f.flush
	}
	return w.sticky()
}

// Encoded returns the number of encoded bytes that were written; it is exact after Flush.
func (w *Writer) Encoded() int64 {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.encoded
}

// Frames returns all frames so far; it is complete after Flush. With codec none there are none.
func (w *Writer) Frames() []Frame {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.frames[:len(w.frames):len(w.frames)]
}

// WriteFrame appends p, of at most MaxFrame bytes, as one frame, after a Flush.
func (w *Writer) WriteFrame(p []byte) error {
	if len(p) > MaxFrame {
		return fmt.Errorf("frame of %d bytes: at most %d", len(p), MaxFrame)
	}
	return w.whole(len(p), func() ([]byte, error) {
		e, err := w.codec.NewEncoder(w.level)
		if err != nil {
			return nil, err
		}
		return e.Encode(nil, p)
	})
}

// WriteStored appends data as one frame without compression, after a Flush; see Codec.AppendStored.
func (w *Writer) WriteStored(data []byte) error {
	if len(data) < MinStored || len(data) > MaxStored {
		return fmt.Errorf("stored frame of %d bytes: %d to %d", len(data), MinStored, MaxStored)
	}
	return w.whole(len(data), func() ([]byte, error) { return w.codec.AppendStored(nil, data), nil })
}

func (w *Writer) whole(n int, encode func() ([]byte, error)) error {
	if err := w.Flush(); err != nil {
		return err
	}
	b, err := encode()
	if err != nil {
		w.fail(err)
		return err
	}
	w.offset += int64(n)
	w.put(b, int64(n))
	return w.sticky()
}

var errClosed = errors.New("writer is closed")

// Close writes what is left, and ends all goroutines, after an error too. It does not close the
// output.
func (w *Writer) Close() error {
	err := w.sticky()
	w.close.Do(func() {
		if err == nil {
			err = w.Flush()
		}
		if !w.plain {
			close(w.jobs)
			close(w.queue)
			w.wg.Wait()
		}
		if err == nil {
			err = w.sticky()
		}
		w.fail(errClosed)
	})
	if errors.Is(err, errClosed) {
		return nil
	}
	return err
}
