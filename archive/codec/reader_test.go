package codec_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"math"
	"sync/atomic"
	"testing"

	"tarvm/archive/codec"
)

// flaky is a source that fails while told to.
type flaky struct {
	*bytes.Reader
	fail atomic.Bool
}

func (f *flaky) ReadAt(p []byte, off int64) (int, error) {
	if f.fail.Load() {
		return len(p) / 2, errFail
	}
	return f.Reader.ReadAt(p, off)
}

func TestReaderSourceFails(t *testing.T) {
	each(t, func(t *testing.T, c codec.Codec) {
		a := write(t, c, fast(c, 3000, 2), step{"write", content(20_000, 41)})
		src := &flaky{Reader: bytes.NewReader(a.encoded)}
		r, err := codec.NewReader(src, c, a.frames, codec.ReaderOptions{Workers: 3})
		if err != nil {
			t.Fatal(err)
		}
		src.fail.Store(true)
		done := leaks(t)
		p := make([]byte, 5000)
		var fe *codec.FrameError
		framed := c.Name() != "none"
		if _, err := r.ReadAt(p, 4000); !errors.Is(err, errFail) || framed && (!errors.As(err, &fe) || fe.Frame != 1 || fe.Decoded != 3000) {
			t.Errorf("ReadAt: %v", err)
		}
		s := r.Section(t.Context(), 4000, 5000)
		for range 2 {
			if _, err := s.Read(p); !errors.Is(err, errFail) || framed && (!errors.As(err, &fe) || fe.Frame != 1) {
				t.Errorf("section: %v", err)
			}
		}
		if err := s.Close(); err != nil {
			t.Error(err)
		}
		if framed {
			err := r.Frames(t.Context(), []int{0, 1, 2, 3, 4, 5}, nil, func(int, int64, []byte) error { return nil })
			if !errors.Is(err, errFail) {
				t.Errorf("Frames: %v", err)
			}
		}
		done()
		src.fail.Store(false)
		if n, err := r.ReadAt(p, 4000); err != nil || !bytes.Equal(p[:n], a.data[4000:9000]) {
			t.Errorf("after the source works again: %d bytes, %v", n, err)
		}
	})
}

func TestSectionEdges(t *testing.T) {
	each(t, func(t *testing.T, c codec.Codec) {
		a := write(t, c, fast(c, 3000, 2), step{"write", content(20_000, 42)}, step{"frame", nil}, step{"write", []byte("end")})
		r := a.reader(t, codec.ReaderOptions{Workers: 2})
		size := r.Size()
		for _, tt := range []struct{ off, n, want int64 }{
			{0, 0, 0}, {0, size, size}, {0, math.MaxInt64, size}, {1, math.MaxInt64, size - 1}, {size - 1, math.MaxInt64, 1},
			{size, 1, 0}, {size + 1, math.MaxInt64, 0}, {math.MaxInt64, 1, 0}, {math.MaxInt64, math.MaxInt64, 0}, {2999, 2, 2},
		} {
			done := leaks(t)
			s := r.Section(t.Context(), tt.off, tt.n)
			got, err := io.ReadAll(s)
			if want := a.data[min(tt.off, size) : min(tt.off, size)+tt.want]; err != nil || !bytes.Equal(got, want) {
				t.Errorf("%d+%d: %s, %v", tt.off, tt.n, diff(got, want), err)
			}
			if err := s.Close(); err != nil {
				t.Error(err)
			}
			done()
		}
		s := r.Section(t.Context(), -1, 10)
		if n, err := s.Read(make([]byte, 10)); n != 0 || err == nil || err == io.EOF {
			t.Errorf("at -1: %d bytes, %v", n, err)
		}
		if err := s.Close(); err != nil {
			t.Error(err)
		}
		if n, err := r.ReadAt(make([]byte, 10), -1); n != 0 || err == nil || err == io.EOF {
			t.Errorf("ReadAt -1: %d bytes, %v", n, err)
		}
	})
}

// A section that is canceled or closed in the middle ends its goroutines.
func TestSectionStops(t *testing.T) {
	each(t, func(t *testing.T, c codec.Codec) {
		a := write(t, c, fast(c, 1000, 2), step{"write", content(50_000, 43)})
		r := a.reader(t, codec.ReaderOptions{Workers: 4})
		for _, n := range []int{0, 1, 1000, 1500, 20_000} {
			done := leaks(t)
			ctx, cancel := context.WithCancelCause(t.Context())
			s := r.Section(ctx, 100, 40_000)
			if got, err := io.ReadAll(io.LimitReader(s, int64(n))); err != nil || !bytes.Equal(got, a.data[100:100+n]) {
				t.Fatalf("%d bytes, %v", len(got), err)
			}
			cancel(errFail)
			rest, err := io.ReadAll(s)
			if !errors.Is(err, errFail) || !bytes.HasPrefix(a.data[100+n:], rest) {
				t.Errorf("canceled after %d: %d more, %v", n, len(rest), err)
			}
			if err := s.Close(); err != nil {
				t.Error(err)
			}
			s = r.Section(context.Background(), 0, 50_000)
			if _, err := io.ReadFull(s, make([]byte, n)); err != nil {
				t.Error(err)
			}
			for range 2 {
				if err := s.Close(); err != nil {
					t.Error(err)
				}
			}
			if c.Name() != "none" {
				if k, err := s.Read(make([]byte, 10)); k != 0 || err == nil || err == io.EOF {
					t.Errorf("closed: %d bytes, %v", k, err)
				}
			}
			done()
		}
	})
}

func TestFramesStop(t *testing.T) {
	eachFramed(t, func(t *testing.T, c codec.Codec) {
		a := write(t, c, fast(c, 500, 2), step{"write", content(30_000, 44)})
		r := a.reader(t, codec.ReaderOptions{Workers: 4})
		idx := make([]int, r.Count())
		for i := range idx {
			idx[i] = len(idx) - 1 - i
		}
		done := leaks(t)
		var calls atomic.Int32
		err := r.Frames(t.Context(), idx, nil, func(i int, _ int64, _ []byte) error {
			if calls.Add(1) == 10 {
				return errFail
			}
			return nil
		})
		if err != errFail {
			t.Errorf("%d calls, %v", calls.Load(), err)
		}
		ctx, cancel := context.WithCancelCause(t.Context())
		calls.Store(0)
		err = r.Frames(ctx, idx, nil, func(int, int64, []byte) error {
			switch n := calls.Add(1); {
			case n == 10:
				cancel(errFail)
			case n > 10:
				<-ctx.Done() // the one that cancels may have to wait for a processor
			}
			return nil
		})
		if err != errFail || int(calls.Load()) == len(idx) {
			t.Errorf("canceled: %d calls, %v", calls.Load(), err)
		}
		done()
	})
}
