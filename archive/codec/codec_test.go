package codec_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"math"
	"math/rand/v2"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"pgregory.net/rapid"

	"tarvm/archive/archivetest"
	"tarvm/archive/codec"
	"tarvm/archive/codec/all"
)

// each runs fn for every codec.
func each(t *testing.T, fn func(t *testing.T, c codec.Codec)) {
	for _, c := range all.Codecs() {
		t.Run(c.Name(), func(t *testing.T) { fn(t, c) })
	}
}

// eachFramed runs fn for every codec that has frames.
func eachFramed(t *testing.T, fn func(t *testing.T, c codec.Codec)) {
	each(t, func(t *testing.T, c codec.Codec) {
		if c.Name() == "none" {
			t.Skip("no frames")
		}
		fn(t, c)
	})
}

// quick reports whether the tests are to do less.
func quick() bool { return testing.Short() || archivetest.Race }

// content returns n bytes, the same for the same seed: pages of noise, of text and of zeros.
func content(n int, seed uint64) []byte {
	r := rand.New(rand.NewPCG(seed, 1))
	out := make([]byte, 0, n+4096)
	for len(out) < n {
		switch r.IntN(4) {
		case 0, 1:
			for range 512 {
				v := r.Uint64()
				out = append(out, byte(v), byte(v>>8), byte(v>>16), byte(v>>24), byte(v>>32), byte(v>>40), byte(v>>48), byte(v>>56))
			}
		case 2:
			for end := len(out) + 4096; len(out) < end; {
				out = fmt.Appendf(out, "line %d of a log, at %d\n", r.IntN(100), r.IntN(1e6))
			}
		case 3:
			out = append(out, make([]byte, 4096)...)
		}
	}
	return out[:n:n]
}

// step is one call on a Writer.
type step struct {
	kind string // "write", "take", "cut", "flush", "frame", "stored"
	data []byte
}

func (s step) do(w *codec.Writer) error {
	switch s.kind {
	case "write":
		n, err := w.Write(s.data)
		if err == nil && n != len(s.data) {
			err = io.ErrShortWrite
		}
		return err
	case "take":
		b, err := w.Take(append(make([]byte, 0, max(len(s.data), takeSize)), s.data...))
		if err == nil && (len(b) > 0 || cap(b) == 0 && len(s.data) > 0) {
			err = fmt.Errorf("Take gave %d bytes of %d", len(b), cap(b))
		}
		for i := range b[:cap(b)] { // it is the caller's
			b[:cap(b)][i] = 0xa5
		}
		return err
	case "cut":
		return w.Cut()
	case "flush":
		return w.Flush()
	case "frame":
		return w.WriteFrame(s.data)
	case "stored":
		return w.WriteStored(s.data)
	}
	panic(s.kind)
}

// takeSize is how much room there is at least in what a Writer is given to take.
const takeSize = 10_000

// archive is a stream that was written.
type archive struct {
	codec   codec.Codec
	data    []byte // decoded
	encoded []byte // frames and trailer
	frames  []codec.Frame
	trailer int
}

// write makes an archive by the steps.
func write(t failer, c codec.Codec, o codec.WriterOptions, steps ...step) archive {
	t.Helper()
	a := archive{codec: c}
	var buf bytes.Buffer
	w, err := codec.NewWriter(context.Background(), &buf, c, o)
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range steps {
		a.data = append(a.data, s.data...)
		if err := s.do(w); err != nil {
			t.Fatal(s.kind, err)
		}
		if w.Offset() != int64(len(a.data)) {
			t.Fatalf("offset %d after %d bytes", w.Offset(), len(a.data))
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	if w.Encoded() != int64(buf.Len()) {
		t.Fatalf("Encoded says %d, %d bytes were written", w.Encoded(), buf.Len())
	}
	a.frames = w.Frames()
	a.encoded = c.AppendTrailer(buf.Bytes(), a.frames)
	a.trailer = len(a.encoded) - int(w.Encoded())
	return a
}

// fast are options of a small frame size, for which the lowest level, which has the smallest tables, is as good.
func fast(c codec.Codec, frameSize, workers int) codec.WriterOptions {
	return codec.WriterOptions{Level: new(c.Levels().Min), FrameSize: frameSize, Workers: workers}
}

// failer is what testing.TB and rapid.T share.
type failer interface {
	Helper()
	Fatal(args ...any)
	Fatalf(format string, args ...any)
}

func (a archive) reader(t failer, o codec.ReaderOptions) *codec.Reader {
	t.Helper()
	r, err := codec.NewReader(bytes.NewReader(a.encoded[:len(a.encoded)-a.trailer]), a.codec, a.frames, o)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// cuts returns where frames begin, and where the last ends, in the encoded bytes.
func (a archive) cuts() []int64 {
	out := []int64{0}
	for _, f := range a.frames {
		out = append(out, out[len(out)-1]+f.Encoded)
	}
	return out
}

// small is an archive of a few short frames of all kinds, for tests that take it apart byte by byte.
func small(t failer, c codec.Codec) archive {
	text := []byte(strings.Repeat("all work and no play ", 20))
	return write(t, c, fast(c, 256, 1),
		step{"write", text}, step{"cut", nil}, step{"write", content(40, 3)}, step{"frame", nil},
		step{"frame", text[:100]}, step{"stored", content(256, 4)})
}

// decode decodes a stream as NewReader does, up to limit bytes.
func decode(c codec.Codec, b []byte, limit int64) ([]byte, error) {
	r, err := c.NewReader(bytes.NewReader(b))
	if err != nil {
		return nil, err
	}
	out, err := io.ReadAll(io.LimitReader(r, limit))
	return out, errors.Join(err, r.Close())
}

// decodeAny does the same with Open.
func decodeAny(list []codec.Codec, b []byte, limit int64) ([]byte, error) {
	r, err := codec.Open(list, bytes.NewReader(b))
	if err != nil {
		return nil, err
	}
	out, err := io.ReadAll(io.LimitReader(r, limit))
	return out, errors.Join(err, r.Close())
}

// What is in several codecs is decoded to its end, and a part of it is no whole.
func TestOpenMixed(t *testing.T) {
	defer leaks(t)()
	list := all.Codecs()
	each(t, func(t *testing.T, a codec.Codec) {
		each(t, func(t *testing.T, b codec.Codec) {
			if a.Name() == "none" || b.Name() == "none" {
				return // that has no end, and no beginning but a tar's
			}
			x, y := small(t, a), small(t, b)
			both := slices.Concat(x.encoded, y.encoded, x.encoded)
			want := slices.Concat(x.data, y.data, x.data)
			if got, err := decodeAny(list, both, 1<<30); err != nil || !bytes.Equal(got, want) {
				t.Errorf("%s, %s, %s: %s, %v", a.Name(), b.Name(), a.Name(), diff(got, want), err)
			}
			ends := make(map[int64]bool) // of frames: there a stream may end
			for _, at := range y.cuts() {
				ends[at] = true
			}
			for n := 1; n < len(y.encoded); n += 1 + n/50 {
				if ends[int64(n)] || n >= len(y.encoded)-y.trailer && y.trailer > 0 {
					continue
				}
				if got, err := decodeAny(list, slices.Concat(x.encoded, y.encoded[:n]), 1<<30); err == nil {
					t.Fatalf("%s, and %d bytes of %s: %d bytes without an error", a.Name(), n, b.Name(), len(got))
				}
			}
		})
		if a.Name() != "none" {
			x := small(t, a)
			if got, err := decodeAny(list, append(bytes.Clone(x.encoded), "noise"...), 1<<30); err == nil {
				t.Errorf("%s, and noise: %d bytes without an error", a.Name(), len(got))
			}
		}
	})
	if _, err := codec.Open(list, bytes.NewReader(nil)); !errors.Is(err, codec.ErrUnknown) {
		t.Errorf("nothing: %v", err)
	}
}

// leaks returns what fails the test if there are more goroutines than now.
func leaks(t testing.TB) func() {
	before := runtime.NumGoroutine()
	return func() {
		t.Helper()
		for range 200 {
			if runtime.NumGoroutine() <= before {
				return
			}
			time.Sleep(5 * time.Millisecond)
		}
		buf := make([]byte, 1<<16)
		t.Errorf("%d goroutines, %d before\n%s", runtime.NumGoroutine(), before, buf[:runtime.Stack(buf, true)])
	}
}

// diff says where two slices part, and nothing if they do not.
func diff(got, want []byte) string {
	if bytes.Equal(got, want) {
		return ""
	}
	n := min(len(got), len(want))
	for i := range n {
		if got[i] != want[i] {
			return fmt.Sprintf("%d bytes, want %d; byte %d differs", len(got), len(want), i)
		}
	}
	return fmt.Sprintf("%d bytes, want %d; alike as far as they go", len(got), len(want))
}

func TestNames(t *testing.T) {
	list := all.Codecs()
	for path, want := range map[string]string{
		"a.tar": "none", "a.tar.zst": "zstd", "a.TZST": "zstd", "a.tgz": "gzip", "a.tar.gz": "gzip", "a.tar.xz": "xz", "a.txz": "xz",
		"a.tar.lz4": "lz4", "a.zst": "zstd", "a.tar.": "", "a.zip": "", "": "", "tar": "",
	} {
		got := ""
		if c := codec.ForPath(list, path); c != nil {
			got = c.Name()
		}
		if got != want {
			t.Errorf("%q: codec %q, want %q", path, got, want)
		}
	}
	each(t, func(t *testing.T, c codec.Codec) {
		if codec.ByName(list, c.Name()) != c {
			t.Error("not found by its name")
		}
		for _, s := range c.Suffixes() {
			if codec.ForPath(list, "vm"+s) != c {
				t.Errorf("not found by %s", s)
			}
		}
		if l := c.Levels(); l.Default < l.Min || l.Default > l.Max {
			t.Errorf("default level %d is not in %d to %d", l.Default, l.Min, l.Max)
		}
		if n := c.FrameSize(); n <= 0 || n > codec.MaxFrame {
			t.Errorf("frame size %d", n)
		}
	})
	if codec.ByName(list, "bzip2") != nil {
		t.Error("an unknown name has a codec")
	}
}

// A stream is recognized as its codec's, by as much of the beginning as there is, and as no other's.
func TestDetect(t *testing.T) {
	list := all.Codecs()
	tar := make([]byte, 2048)
	copy(tar[257:], "ustar\x0000")
	each(t, func(t *testing.T, c codec.Codec) {
		for _, s := range []step{{"write", tar}, {"stored", tar}} {
			b := write(t, c, codec.WriterOptions{}, s).encoded
			if got := codec.Detect(list, b[:min(len(b), codec.HeadLen)]); got != c {
				t.Errorf("%s: found %v", s.kind, got)
			}
		}
	})
	for name, head := range map[string][]byte{"empty": nil, "zeros": make([]byte, 512), "short": {0x28}, "zip": []byte("PK\x03\x04")} {
		if c := codec.Detect(list, head); c != nil {
			t.Errorf("%s is %s", name, c.Name())
		}
	}
	var lz4 codec.Codec
	for _, c := range list {
		if c.Name() == "lz4" {
			lz4 = c
		}
	}
	// Both formats have skippable frames: what follows decides.
	skip := []byte("\x50\x2a\x4d\x18\x04\x00\x00\x00abcd")
	if got := codec.Detect(list, append(skip, small(t, lz4).encoded...)); got != lz4 {
		t.Errorf("a skippable frame before lz4 is %v", got)
	}
}

func TestWriterOptions(t *testing.T) {
	each(t, func(t *testing.T, c codec.Codec) {
		done := leaks(t)
		l := c.Levels()
		low, high := l.Min-1, l.Max+1
		for name, o := range map[string]codec.WriterOptions{
			"level too low": {Level: &low}, "level too high": {Level: &high},
			"frame size negative": {FrameSize: -1}, "frame size too large": {FrameSize: codec.MaxFrame + 1},
		} {
			if _, err := codec.NewWriter(t.Context(), io.Discard, c, o); err == nil {
				t.Errorf("%s is accepted", name)
			}
		}
		done()
		w, err := codec.NewWriter(t.Context(), io.Discard, c, codec.WriterOptions{Workers: 1})
		if err != nil {
			t.Fatal(err)
		}
		if w.WriteFrame(make([]byte, codec.MaxFrame+1)) == nil {
			t.Error("a frame larger than MaxFrame is accepted")
		}
		for _, n := range []int{0, 1, 255, codec.MaxStored + 1, 65536 + 300} {
			if w.WriteStored(make([]byte, n)) == nil {
				t.Errorf("a stored frame of %d bytes is accepted", n)
			}
		}
		if _, err := w.Write([]byte("it goes on")); err != nil {
			t.Error(err)
		}
		if err := w.Close(); err != nil {
			t.Error(err)
		}
	})
}

// Stored frames have the length that StoredLen gives, decode to what they hold, and have one form: these
// digests are of archives that exist.
func TestStored(t *testing.T) {
	golden := map[string]string{
		"zstd": "ec52519e1cedfcfd",
		"gzip": "c2328396113cfad7",
		"xz":   "deb4a4734f347237",
		"lz4":  "e426ad24b289169c",
		"none": "e089bdf933a88fa0",
	}
	each(t, func(t *testing.T, c codec.Codec) {
		d, err := c.NewDecoder(codec.DecoderOptions{})
		if err != nil {
			t.Fatal(err)
		}
		for _, n := range []int{256, 257, 1000, 2047, 2048, 4095, 4096, 4097, codec.MaxStored - 1, codec.MaxStored} {
			data := content(n, uint64(n))
			b := c.AppendStored([]byte("before"), data)
			frame, ok := bytes.CutPrefix(b, []byte("before"))
			if !ok || len(frame) != c.StoredLen(n) {
				t.Fatalf("%d bytes: frame of %d, StoredLen says %d", n, len(frame), c.StoredLen(n))
			}
			got, err := d.Decode([]byte("before"), frame, int64(n))
			if err != nil || !bytes.Equal(got, append([]byte("before"), data...)) {
				t.Fatalf("%d bytes: %s, %v", n, diff(got, data), err)
			}
			if got, err := decode(c, frame, 1<<20); err != nil || !bytes.Equal(got, data) {
				t.Fatalf("%d bytes, as a stream: %s, %v", n, diff(got, data), err)
			}
		}
		sum := sha256.Sum256(c.AppendStored(nil, bytes.Repeat([]byte("tarvm.00"), 2048/8)))
		if got := hex.EncodeToString(sum[:8]); got != golden[c.Name()] {
			t.Errorf("digest %s, want %s", got, golden[c.Name()])
		}
	})
}

// Whatever an encoder coded before, the same bytes become the same frame.
func TestEncoderHasNoMemory(t *testing.T) {
	inputs := [][]byte{content(100_000, 1), nil, content(3, 2), make([]byte, 50_000), content(100_000, 1), content(70_000, 3)}
	inputs = append(inputs, inputs[0][10_000:60_000])
	each(t, func(t *testing.T, c codec.Codec) {
		l := c.Levels()
		for level := l.Min; level <= l.Max; level++ {
			if quick() && level != l.Default || c.Name() == "xz" && level%4 != 2 {
				continue
			}
			old, err := c.NewEncoder(level)
			if err != nil {
				t.Fatal(err)
			}
			d, err := c.NewDecoder(codec.DecoderOptions{})
			if err != nil {
				t.Fatal(err)
			}
			var buf []byte
			for i, in := range inputs {
				fresh, err := c.NewEncoder(level)
				if err != nil {
					t.Fatal(err)
				}
				want, err := fresh.Encode(nil, in)
				if err != nil {
					t.Fatal(err)
				}
				if buf, err = old.Encode(buf[:0], in); err != nil {
					t.Fatal(err)
				}
				if s := diff(buf, want); s != "" {
					t.Errorf("level %d, input %d: %s", level, i, s)
				}
				if b, err := old.Encode([]byte("before"), in); err != nil || string(b[:6]) != "before" || !bytes.Equal(b[6:], want) {
					t.Errorf("level %d, input %d: appended to a slice it differs, %v", level, i, err)
				}
				if got, err := d.Decode(nil, want, int64(len(in))); err != nil || !bytes.Equal(got, in) {
					t.Errorf("level %d, input %d: %s, %v", level, i, diff(got, in), err)
				}
			}
		}
	})
}

// drawSteps draws calls on a Writer.
func drawSteps(t *rapid.T) []step {
	pool := content(40_000, rapid.Uint64Range(0, 3).Draw(t, "seed"))
	var out []step
	for range rapid.IntRange(0, 8).Draw(t, "steps") {
		s := step{kind: rapid.SampledFrom([]string{"write", "write", "write", "cut", "flush", "frame", "stored"}).Draw(t, "kind")}
		lo, hi := 0, 12_000
		switch s.kind {
		case "cut", "flush":
			hi = 0
		case "stored":
			lo = 256
		}
		n := rapid.IntRange(lo, hi).Draw(t, "length")
		off := rapid.IntRange(0, len(pool)-n).Draw(t, "offset")
		s.data = pool[off : off+n]
		out = append(out, s)
	}
	return out
}

// What is written does not depend on the number of workers, and is read back in every way.
func TestRoundTrip(t *testing.T) {
	each(t, func(t *testing.T, c codec.Codec) {
		rapid.Check(t, func(t *rapid.T) {
			l := c.Levels()
			level := rapid.SampledFrom([]int{l.Min, l.Min, l.Min, l.Min, l.Default}).Draw(t, "level")
			o := codec.WriterOptions{Level: &level, FrameSize: rapid.SampledFrom([]int{1, 500, 4096, 10_000, 1 << 20}).Draw(t, "frame size"), Workers: 1}
			steps := drawSteps(t)
			if o.FrameSize == 1 || c.Name() == "xz" { // a frame for each byte; or slow
				for i, s := range steps {
					if s.kind == "write" {
						steps[i].data = s.data[:min(len(s.data), 20*o.FrameSize, 3000)]
					}
				}
			}
			a := write(t, c, o, steps...)
			o.Workers = rapid.IntRange(2, 8).Draw(t, "workers")
			// Whose memory it is makes no difference either.
			for i, s := range steps {
				if s.kind == "write" && rapid.Bool().Draw(t, "take") {
					steps[i].kind = "take"
				}
			}
			if b := write(t, c, o, steps...); !bytes.Equal(a.encoded, b.encoded) || !slices.Equal(a.frames, b.frames) {
				t.Fatalf("%d workers: %s", o.Workers, diff(b.encoded, a.encoded))
			}
			checkTrailer(t, a)
			checkRead(t, a)
			if len(a.encoded) > 0 {
				if got, err := decode(c, a.encoded, 1<<20); err != nil || !bytes.Equal(got, a.data) {
					t.Fatalf("as a stream: %s, %v", diff(got, a.data), err)
				}
			}
		})
	})
}

func checkTrailer(t *rapid.T, a archive) {
	tail := a.encoded[max(0, len(a.encoded)-64):]
	n, err := a.codec.TrailerLen(tail)
	if err != nil || n != int64(a.trailer) {
		t.Fatalf("trailer of %d bytes, want %d; %v", n, a.trailer, err)
	}
	if n, err := a.codec.TrailerLen(a.encoded); err != nil || n != int64(a.trailer) {
		t.Fatalf("by the whole file: trailer of %d bytes, want %d; %v", n, a.trailer, err)
	}
}

// checkRead reads an archive by its frames.
func checkRead(t *rapid.T, a archive) {
	r := a.reader(t, codec.ReaderOptions{Workers: rapid.IntRange(1, 8).Draw(t, "readers"), Cache: codec.NewCache(rapid.Int64Range(0, 3000).Draw(t, "cache"))})
	size := int64(len(a.data))
	if r.Size() != size || r.Count() != len(a.frames) {
		t.Fatalf("%d bytes in %d frames, want %d in %d", r.Size(), r.Count(), size, len(a.frames))
	}
	if r.Count() > 0 {
		var at int64
		for i := range r.Count() {
			off, n := r.FrameRange(i)
			if off != at || n != a.frames[i].Decoded {
				t.Fatalf("frame %d: %d+%d, want it at %d", i, off, n, at)
			}
			if n > 0 && (r.FrameAt(off) != i || r.FrameAt(off+n-1) != i) {
				t.Fatalf("frame %d holds %d and %d, FrameAt says %d and %d", i, off, off+n-1, r.FrameAt(off), r.FrameAt(off+n-1))
			}
			at += n
		}
		if at != size || r.FrameAt(size) != r.Count() || r.FrameAt(math.MaxInt64) != r.Count() {
			t.Fatalf("frames end at %d of %d; FrameAt says %d of %d there", at, size, r.FrameAt(size), r.Count())
		}
	}
	for range 4 {
		off := rapid.Int64Range(0, size+10).Draw(t, "off")
		n := rapid.Int64Range(0, size+10).Draw(t, "n")
		want := a.data[min(off, size):min(off+n, size)]
		p := make([]byte, n)
		k, err := r.ReadAt(p, off)
		if s := diff(p[:k], want); s != "" || (int64(k) < n) != (err == io.EOF) && n > 0 || err != nil && err != io.EOF {
			t.Fatalf("ReadAt %d+%d: %d, %v; %s", off, n, k, err, s)
		}
		s := r.Section(context.Background(), off, n)
		got, err := io.ReadAll(s)
		if d := diff(got, want); d != "" || err != nil {
			t.Fatalf("section %d+%d: %v; %s", off, n, err, d)
		}
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
	}
	if r.Count() == 0 {
		return
	}
	all := make([]int, r.Count())
	for i := range all {
		all[i] = i
	}
	idx := rapid.SliceOfDistinct(rapid.SampledFrom(all), func(i int) int { return i }).Draw(t, "frames")
	var mu sync.Mutex
	seen := map[int]int{}
	err := r.Frames(context.Background(), idx, nil, func(i int, off int64, data []byte) error {
		mu.Lock()
		defer mu.Unlock()
		seen[i]++
		at, n := r.FrameRange(i)
		if at != off || !bytes.Equal(data, a.data[at:at+n]) {
			return fmt.Errorf("frame %d at %d: %s", i, off, diff(data, a.data[at:at+n]))
		}
		return nil
	})
	if err != nil || len(seen) != len(idx) {
		t.Fatalf("%d of %d frames: %v", len(seen), len(idx), err)
	}
	for _, i := range idx {
		if seen[i] != 1 {
			t.Fatalf("frame %d came %d times", i, seen[i])
		}
	}
}

// Several goroutines read the same few frames through a cache of one.
func TestReadAtTogether(t *testing.T) {
	each(t, func(t *testing.T, c codec.Codec) {
		a := write(t, c, fast(c, 8<<10, 2), step{"write", content(60_000, 5)})
		r := a.reader(t, codec.ReaderOptions{Cache: codec.NewCache(1)})
		var wg sync.WaitGroup
		for g := range 8 {
			wg.Go(func() {
				rnd := rand.New(rand.NewPCG(uint64(g), 0))
				p := make([]byte, 20_000)
				for range 30 {
					off := rnd.IntN(len(a.data))
					b := p[:min(1+rnd.IntN(len(p)), len(a.data)-off)]
					if n, err := r.ReadAt(b, int64(off)); err != nil || n != len(b) || !bytes.Equal(b, a.data[off:off+n]) {
						t.Errorf("at %d: %d of %d bytes, %v", off, n, len(b), err)
						return
					}
				}
			})
		}
		wg.Wait()
	})
}

// Frames of MaxFrame bytes are written and read, and offsets go past 4 GiB.
func TestLarge(t *testing.T) {
	if quick() {
		t.Skip("frames of 64 MiB take seconds")
	}
	eachFramed(t, func(t *testing.T, c codec.Codec) {
		if c.Name() == "xz" {
			t.Skip("takes seconds")
		}
		e, err := c.NewEncoder(c.Levels().Min)
		if err != nil {
			t.Fatal(err)
		}
		data := make([]byte, codec.MaxFrame)
		for i := 0; i < len(data); i += 1 << 20 {
			data[i] = byte(i >> 20)
		}
		frame, err := e.Encode(nil, data)
		if err != nil {
			t.Fatal(err)
		}
		a := write(t, c, codec.WriterOptions{Workers: 1, Level: new(c.Levels().Min)}, step{"frame", data})
		if s := diff(a.encoded[:len(a.encoded)-a.trailer], frame); s != "" {
			t.Fatal(s)
		}
		a.frames = slices.Repeat(a.frames, 80)
		a.encoded = bytes.Repeat(frame, 80)
		a.trailer = 0
		r := a.reader(t, codec.ReaderOptions{Cache: codec.NewCache(1)})
		if r.Size() != 80*codec.MaxFrame {
			t.Fatalf("size %d", r.Size())
		}
		off := int64(70)*codec.MaxFrame - 2 // the last bytes of frame 69, the first of frame 70
		data[1], data[0] = data[codec.MaxFrame-1], data[codec.MaxFrame-2]
		p := make([]byte, 5)
		if n, err := r.ReadAt(p, off); n != 5 || err != nil || r.FrameAt(off) != 69 || r.FrameAt(off+2) != 70 {
			t.Fatalf("%d bytes, frames %d and %d: %v", n, r.FrameAt(off), r.FrameAt(off+2), err)
		}
		if n, err := r.ReadAt(p, off+1<<20+2); n != 5 || err != nil || p[0] != 1 {
			t.Fatalf("%d bytes, %x: %v", n, p, err)
		}
		d, err := c.NewDecoder(codec.DecoderOptions{})
		if err != nil {
			t.Fatal(err)
		}
		if b, err := d.Decode([]byte("before"), frame, codec.MaxFrame); err != nil || len(b) != 6+codec.MaxFrame {
			t.Fatalf("appended: %d bytes, %v", len(b), err)
		}
	})
}
