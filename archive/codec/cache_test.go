package codec_test

import (
	"bytes"
	"errors"
	"math/rand/v2"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"

	"tarvm/archive/codec"
	"tarvm/archive/codec/all"
)

// counted is a source that counts its reads, of which each frame takes one.
type counted struct {
	*bytes.Reader
	n atomic.Int64
}

func (c *counted) ReadAt(p []byte, off int64) (int, error) {
	c.n.Add(1)
	return c.Reader.ReadAt(p, off)
}

// TestCacheShared: readers that share a cache keep as much as it may, together, and tell their frames apart.
func TestCacheShared(t *testing.T) {
	eachFramed(t, func(t *testing.T, c codec.Codec) {
		const frame, frames = 8 << 10, 8
		cache := codec.NewCache(frames * frame) // which is one less, with what each costs besides
		var data [][]byte
		var rs []*codec.Reader
		var srcs []*counted
		for i := range uint64(2) {
			a := write(t, c, fast(c, frame, 2), step{"write", content(frame*frames/2, 60+i)})
			src := &counted{Reader: bytes.NewReader(a.encoded)}
			r, err := codec.NewReader(src, c, a.frames, codec.ReaderOptions{})
			if err != nil {
				t.Fatal(err)
			}
			r.Share(cache)
			data, rs, srcs = append(data, a.data), append(rs, r), append(srcs, src)
		}
		pass := func(backwards bool) int64 {
			t.Helper()
			before := srcs[0].n.Load() + srcs[1].n.Load()
			for k := range frames {
				if backwards {
					k = frames - 1 - k
				}
				r, off := k%2, k/2*frame
				p := make([]byte, 100)
				if n, err := rs[r].ReadAt(p, int64(off+50)); err != nil || !bytes.Equal(p[:n], data[r][off+50:off+150]) {
					t.Fatalf("frame %d of reader %d: %d bytes, %v", k/2, r, n, err)
				}
			}
			return srcs[0].n.Load() + srcs[1].n.Load() - before
		}
		if n := pass(false); n != frames {
			t.Errorf("first: %d frames were decoded, want %d", n, frames)
		}
		if n := pass(true); n != 1 {
			t.Errorf("again: %d frames were decoded, %d are kept", n, frames-1)
		}
		rs[0].Share(codec.NewCache(0))
		if n := pass(false); n < frames/2 {
			t.Errorf("%d frames were decoded, without a cache for half of them", n)
		}
	})
}

// TestFrame: a frame that is asked for by its number is the same as by its bytes, is not kept, and uses what is.
func TestFrame(t *testing.T) {
	eachFramed(t, func(t *testing.T, c codec.Codec) {
		a := write(t, c, fast(c, 5000, 2), step{"write", content(50_000, 65)})
		src := &flaky{Reader: bytes.NewReader(a.encoded)}
		r, err := codec.NewReader(src, c, a.frames, codec.ReaderOptions{})
		if err != nil {
			t.Fatal(err)
		}
		var wg sync.WaitGroup
		for g := range 4 {
			wg.Go(func() {
				rnd := rand.New(rand.NewPCG(uint64(g), 1))
				for range 50 {
					i := rnd.IntN(r.Count())
					off, n := r.FrameRange(i)
					if rnd.IntN(4) == 0 {
						p := make([]byte, n)
						if _, err := r.ReadAt(p, off); err != nil || !bytes.Equal(p, a.data[off:off+n]) {
							t.Errorf("read at %d: %v", off, err)
						}
					}
					called := false
					err := r.Frame(i, func(b []byte) {
						called = true
						if !bytes.Equal(b, a.data[off:off+n]) {
							t.Errorf("frame %d: %s", i, diff(b, a.data[off:off+n]))
						}
					})
					if err != nil || !called {
						t.Errorf("frame %d: called %v, %v", i, called, err)
					}
				}
			})
		}
		wg.Wait()
		r.Share(codec.NewCache(1))
		if _, err := r.ReadAt(make([]byte, 1), 5000); err != nil { // frame 1 is kept
			t.Fatal(err)
		}
		src.fail.Store(true)
		if err := r.Frame(1, func([]byte) {}); err != nil {
			t.Errorf("the frame that is kept: %v", err)
		}
		var fe *codec.FrameError
		if err := r.Frame(2, func([]byte) { t.Error("called") }); !errors.Is(err, errFail) || !errors.As(err, &fe) || fe.Frame != 2 {
			t.Errorf("a frame that cannot be read: %v", err)
		}
		src.fail.Store(false)
		if err := r.Frame(2, func([]byte) {}); err != nil {
			t.Errorf("when it can be read again: %v", err)
		}
	})
}

// TestCacheMemory: short frames do not keep the buffers of long ones.
func TestCacheMemory(t *testing.T) {
	c := codec.ByName(all.Codecs(), "lz4")
	steps := []step{{"frame", make([]byte, 4<<20)}}
	for range 100 {
		steps = append(steps, step{"frame", []byte("short")})
	}
	a := write(t, c, fast(c, 4<<20, 1), steps...)
	r := a.reader(t, codec.ReaderOptions{})
	live := heap()
	for i := range r.Count() {
		if err := r.Frame(0, func([]byte) {}); err != nil {
			t.Fatal(err)
		}
		off, n := r.FrameRange(i)
		if _, err := r.ReadAt(make([]byte, n), off); err != nil {
			t.Fatal(err)
		}
	}
	if more := heap() - live; more > 40<<20 {
		t.Errorf("%d frames, most of them short, keep %d bytes", r.Count(), more)
	}
	runtime.KeepAlive(r)
}

// heap returns the bytes that are in use.
func heap() int64 {
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc)
}
