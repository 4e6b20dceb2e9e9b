package codec_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"sync/atomic"
	"testing"

	"tarvm/archive/codec"
	"tarvm/archive/codec/all"
)

var errFail = errors.New("disk is gone")

// sink takes n bytes and then fails: with err, or, if that is nil, by taking less.
type sink struct {
	n      int
	err    error
	failed int
	called func()
}

func (s *sink) Write(p []byte) (int, error) {
	if s.called != nil {
		s.called()
	}
	k := min(len(p), s.n)
	s.n -= k
	if k < len(p) {
		s.failed++
		return k, s.err
	}
	return k, nil
}

// calls are all calls on a Writer that must fail after its first error.
var calls = []step{{"write", []byte("x")}, {"cut", nil}, {"flush", nil}, {"frame", []byte("x")}, {"stored", make([]byte, 256)}}

// checkSticky makes all calls on a Writer that has failed, closes it, and makes them again.
func checkSticky(t *testing.T, w *codec.Writer, want error) {
	t.Helper()
	for range 2 {
		for _, s := range calls {
			if err := s.do(w); !errors.Is(err, want) {
				t.Errorf("%s after an error: %v, want %v", s.kind, err, want)
			}
		}
		if err := w.Close(); !errors.Is(err, want) {
			t.Errorf("Close after an error: %v, want %v", err, want)
		}
	}
}

func TestWriterFails(t *testing.T) {
	pool := content(60_000, 31)
	steps := []step{{"write", pool[:30_000]}, {"flush", nil}, {"frame", pool[:5000]}, {"write", pool[:100]}, {"stored", pool[:300]}, {"write", pool}}
	each(t, func(t *testing.T, c codec.Codec) {
		whole := write(t, c, fast(c, 4096, 2), steps...)
		total := len(whole.encoded) - whole.trailer
		parts := 20
		if quick() {
			parts = 4
		}
		for _, err := range []error{errFail, nil} {
			want := err
			if err == nil {
				want = io.ErrShortWrite
			}
			for k := range parts + 1 {
				n := k * (total - 1) / parts
				t.Run(fmt.Sprintf("%v after %d", want, n), func(t *testing.T) {
					done := leaks(t)
					out := &sink{n: n, err: err}
					w, err := codec.NewWriter(t.Context(), out, c, fast(c, 4096, 1+k%4))
					if err != nil {
						t.Fatal(err)
					}
					for _, s := range steps {
						if err = s.do(w); err != nil {
							break
						}
					}
					if err == nil {
						err = w.Close()
					}
					if !errors.Is(err, want) {
						t.Errorf("%v, want %v", err, want)
					}
					checkSticky(t, w, want)
					if out.failed != 1 {
						t.Errorf("the output was called %d times after it failed", out.failed-1)
					}
					if w.Encoded() != int64(n) {
						t.Errorf("Encoded says %d, the output took %d", w.Encoded(), n)
					}
					done()
				})
			}
		}
	})
}

func TestWriterCanceled(t *testing.T) {
	each(t, func(t *testing.T, c codec.Codec) {
		for name, at := range map[string]int{"before": 0, "in the first call": 1, "in the third call": 3} {
			t.Run(name, func(t *testing.T) {
				done := leaks(t)
				ctx, cancel := context.WithCancelCause(t.Context())
				var n atomic.Int32
				out := &sink{n: 1 << 30}
				out.called = func() {
					if int(n.Add(1)) == at {
						cancel(errFail)
					}
				}
				if at == 0 {
					cancel(errFail)
				}
				w, err := codec.NewWriter(ctx, out, c, fast(c, 500, 3))
				if err != nil {
					t.Fatal(err)
				}
				data := content(1000, 1)
				for range 1000 {
					if _, err = w.Write(data); err != nil {
						break
					}
				}
				if !errors.Is(err, errFail) {
					t.Errorf("%v, want the cause", err)
				}
				checkSticky(t, w, errFail)
				done()
			})
		}
	})
}

// A writer that is closed without an error takes no more, and may be closed again.
func TestWriterClosed(t *testing.T) {
	each(t, func(t *testing.T, c codec.Codec) {
		done := leaks(t)
		var buf bytes.Buffer
		w, err := codec.NewWriter(t.Context(), &buf, c, codec.WriterOptions{})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := w.Write([]byte("text")); err != nil {
			t.Fatal(err)
		}
		for range 3 {
			if err := w.Close(); err != nil {
				t.Error(err)
			}
			n := buf.Len()
			for _, s := range calls {
				if s.do(w) == nil || buf.Len() != n {
					t.Errorf("%s works on a closed writer", s.kind)
				}
			}
		}
		if got, err := decode(c, buf.Bytes(), 100); err != nil || string(got) != "text" {
			t.Errorf("%q, %v", got, err)
		}
		done()
	})
}

// broken is a codec that fails at one thing.
type broken struct {
	codec.Codec
	newEncoder, newDecoder, encode int32 // calls that work
	count                          *atomic.Int32
}

func (b broken) NewEncoder(level int) (codec.Encoder, error) {
	if b.newEncoder--; b.count.Add(1) > b.newEncoder+1 {
		return nil, errFail
	}
	e, err := b.Codec.NewEncoder(level)
	return brokenEncoder{e, b.encode}, err
}

func (b broken) NewDecoder(o codec.DecoderOptions) (codec.Decoder, error) {
	if b.newDecoder == 0 {
		return nil, errFail
	}
	return b.Codec.NewDecoder(o)
}

type brokenEncoder struct {
	codec.Encoder
	max int32 // bytes that it codes
}

func (e brokenEncoder) Encode(dst, src []byte) ([]byte, error) {
	if len(src) > int(e.max) {
		return dst, errFail
	}
	return e.Encoder.Encode(dst, src)
}

func TestCodecFails(t *testing.T) {
	zstd := codec.ByName(all.Codecs(), "zstd")
	data := content(10_000, 2)
	t.Run("NewEncoder", func(t *testing.T) {
		for n := range int32(4) {
			done := leaks(t)
			c := broken{Codec: zstd, newEncoder: n, count: new(atomic.Int32)}
			if _, err := codec.NewWriter(t.Context(), io.Discard, c, codec.WriterOptions{Workers: 4}); !errors.Is(err, errFail) {
				t.Errorf("encoder %d: %v", n, err)
			}
			done()
		}
	})
	t.Run("NewEncoder of a frame", func(t *testing.T) {
		done := leaks(t)
		c := broken{Codec: zstd, newEncoder: 2, encode: 1 << 20, count: new(atomic.Int32)}
		w, err := codec.NewWriter(t.Context(), io.Discard, c, codec.WriterOptions{Workers: 2})
		if err != nil {
			t.Fatal(err)
		}
		if err := w.WriteFrame(data); !errors.Is(err, errFail) {
			t.Error(err)
		}
		checkSticky(t, w, errFail)
		done()
	})
	t.Run("Encode", func(t *testing.T) {
		done := leaks(t)
		c := broken{Codec: zstd, newEncoder: 100, encode: 999, count: new(atomic.Int32)}
		var buf bytes.Buffer
		w, err := codec.NewWriter(t.Context(), &buf, c, codec.WriterOptions{Workers: 2, FrameSize: 1000})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := w.Write(data[:500]); err != nil {
			t.Fatal(err)
		}
		if err := w.Flush(); err != nil {
			t.Fatal(err)
		}
		n := buf.Len()
		if _, err := w.Write(data); err == nil {
			err = w.Flush()
			if !errors.Is(err, errFail) {
				t.Error(err)
			}
		}
		checkSticky(t, w, errFail)
		if buf.Len() != n || len(w.Frames()) != 1 {
			t.Errorf("%d bytes, %d frames were written, want %d and 1", buf.Len(), len(w.Frames()), n)
		}
		done()
	})
	t.Run("NewDecoder", func(t *testing.T) {
		a := write(t, zstd, codec.WriterOptions{}, step{"write", data})
		a.codec = broken{Codec: zstd}
		if _, err := a.reader(t, codec.ReaderOptions{}).ReadAt(make([]byte, 10), 0); !errors.Is(err, errFail) {
			t.Error(err)
		}
	})
}
