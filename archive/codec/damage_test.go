package codec_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"math"
	"runtime"
	"strings"
	"testing"
	"testing/iotest"

	"github.com/zeebo/blake3"

	"tarvm/archive/codec"
	"tarvm/archive/codec/all"
)

// within runs fn, which may allocate limit bytes in all.
func within(t testing.TB, limit uint64, name string, fn func()) {
	t.Helper()
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	fn()
	runtime.ReadMemStats(&after)
	if n := after.TotalAlloc - before.TotalAlloc; n > limit {
		t.Errorf("%s: %d bytes allocated, %d are allowed", name, n, limit)
	}
}

// A bit flipped anywhere in a frame is found by its digest, and the other frames can be read.
func TestFlipDigest(t *testing.T) {
	eachFramed(t, func(t *testing.T, c codec.Codec) {
		a := small(t, c)
		cuts := a.cuts()
		bad := 0
		for bit := range 8 * int(cuts[len(a.frames)]) {
			for int64(bit/8) >= cuts[bad+1] {
				bad++
			}
			a.encoded[bit/8] ^= 1 << (bit % 8)
			r := a.reader(t, codec.ReaderOptions{Workers: 1})
			for i := range a.frames {
				if i != bad && bit%8 != bit/8%8 { // the others, now and then
					continue
				}
				off, n := r.FrameRange(i)
				if n == 0 && i != bad {
					continue
				}
				err := r.Frames(context.Background(), []int{i}, nil, func(_ int, _ int64, data []byte) error {
					if !bytes.Equal(data, a.data[off:off+n]) {
						t.Errorf("bit %d: frame %d: %s", bit, i, diff(data, a.data[off:off+n]))
					}
					return nil
				})
				var fe *codec.FrameError
				if i != bad && err != nil {
					t.Fatalf("bit %d: frame %d: %v", bit, i, err)
				}
				if i == bad && (!errors.Is(err, codec.ErrDigest) || !errors.As(err, &fe) || fe.Frame != i || fe.Offset != cuts[i] ||
					fe.Size != a.frames[i].Encoded || fe.Decoded != off) {
					t.Fatalf("bit %d: frame %d: %v", bit, i, err)
				}
			}
			a.encoded[bit/8] ^= 1 << (bit % 8)
		}
	})
}

// Without digests the formats' own checks find a flipped bit, or it does not matter.
func TestFlipFormat(t *testing.T) {
	eachFramed(t, func(t *testing.T, c codec.Codec) {
		a := small(t, c)
		d, err := c.NewDecoder(codec.DecoderOptions{})
		if err != nil {
			t.Fatal(err)
		}
		cuts := a.cuts()
		var at int64
		for i, f := range a.frames {
			frame := a.encoded[cuts[i]:cuts[i+1]]
			want := a.data[at : at+f.Decoded]
			at += f.Decoded
			for bit := range 8 * len(frame) {
				if quick() && bit%8 != bit/8%8 {
					continue
				}
				frame[bit/8] ^= 1 << (bit % 8)
				got, err := d.Decode(nil, frame, f.Decoded)
				if err == nil && !bytes.Equal(got, want) || err != nil && !errors.Is(err, codec.ErrCorrupt) {
					t.Errorf("frame %d, bit %d: %s, %v", i, bit, diff(got, want), err)
				}
				frame[bit/8] ^= 1 << (bit % 8)
			}
			if got, err := d.Decode(nil, frame, f.Decoded); err != nil || !bytes.Equal(got, want) {
				t.Fatalf("frame %d, after the damaged ones: %s, %v", i, diff(got, want), err)
			}
		}
		done := leaks(t)
		for bit := range 8 * len(a.encoded) {
			if bit%8 != bit/8%8 || quick() && bit/8%8 != 0 { // one bit of each byte
				continue
			}
			a.encoded[bit/8] ^= 1 << (bit % 8)
			if got, err := decode(c, a.encoded, 1<<20); err == nil && !bytes.Equal(got, a.data) {
				t.Errorf("bit %d, as a stream: %s without an error", bit, diff(got, a.data))
			}
			a.encoded[bit/8] ^= 1 << (bit % 8)
		}
		done()
	})
}

// A codec's own checksum is compared by who reads everything; where the digests alone are, a wrong one does no harm, and other damage
// makes no other length, and no panic.
func TestUnchecked(t *testing.T) {
	eachFramed(t, func(t *testing.T, c codec.Codec) {
		a := small(t, c)
		d, err := c.NewDecoder(codec.DecoderOptions{Unchecked: true})
		if err != nil {
			t.Fatal(err)
		}
		cuts := a.cuts()
		var at int64
		wrong := 0 // flips that only the checksum told
		for i, f := range a.frames {
			frame := a.encoded[cuts[i]:cuts[i+1]]
			want := a.data[at : at+f.Decoded]
			at += f.Decoded
			good := f.Digest
			for bit := range 8 * len(frame) {
				if quick() && bit%8 != bit/8%8 {
					continue
				}
				frame[bit/8] ^= 1 << (bit % 8)
				got, err := d.Decode(nil, frame, f.Decoded)
				if err == nil && len(got) != len(want) || err != nil && !errors.Is(err, codec.ErrCorrupt) {
					t.Errorf("frame %d, bit %d: %d bytes, %v", i, bit, len(got), err)
				}
				// As a writer would have it that makes wrong checksums, and right digests of what it makes.
				h := blake3.Sum256(frame)
				a.frames[i].Digest = [16]byte(h[:16])
				r := a.reader(t, codec.ReaderOptions{Workers: 1})
				s := r.Section(t.Context(), at-f.Decoded, f.Decoded)
				all, serr := io.ReadAll(s)
				s.Close()
				if serr == nil && !bytes.Equal(all, want) {
					t.Errorf("frame %d, bit %d: %s without an error", i, bit, diff(all, want))
				}
				if err == nil && serr != nil {
					wrong++
				}
				a.frames[i].Digest = good
				frame[bit/8] ^= 1 << (bit % 8)
			}
			if got, err := d.Decode(nil, frame, f.Decoded); err != nil || !bytes.Equal(got, want) {
				t.Fatalf("frame %d, after the damaged ones: %s, %v", i, diff(got, want), err)
			}
		}
		if has := c.Name() != "xz"; (wrong > 0) != has { // its library compares always
			t.Errorf("%d wrong checksums were told by who reads everything", wrong)
		}
	})
}

// An archive that ends early is an error wherever that is, and what was read before it is right.
func TestTruncated(t *testing.T) {
	eachFramed(t, func(t *testing.T, c codec.Codec) {
		a := small(t, c)
		d, err := c.NewDecoder(codec.DecoderOptions{})
		if err != nil {
			t.Fatal(err)
		}
		cuts := a.cuts()
		whole := map[int64]bool{}
		for i, at := range cuts {
			whole[at] = at > 0
			if i == len(a.frames) {
				break
			}
			frame := a.encoded[at:cuts[i+1]]
			for n := range frame {
				if got, err := d.Decode(nil, frame[:n], a.frames[i].Decoded); !errors.Is(err, codec.ErrCorrupt) || len(got) > 0 {
					t.Errorf("frame %d, %d of %d bytes: %d bytes, %v", i, n, len(frame), len(got), err)
				}
			}
			if got, err := d.Decode(nil, append(bytes.Clone(frame), 0), a.frames[i].Decoded); !errors.Is(err, codec.ErrCorrupt) || len(got) > 0 {
				t.Errorf("frame %d and a byte: %d bytes, %v", i, len(got), err)
			}
		}
		done := leaks(t)
		for n := range a.encoded {
			_, err := codec.NewReader(bytes.NewReader(a.encoded[:n]), c, a.frames, codec.ReaderOptions{})
			if (err == nil) != (int64(n) >= cuts[len(a.frames)]) {
				t.Errorf("the table with %d of %d bytes: %v", n, len(a.encoded), err)
			}
			if quick() && n%16 > 1 && !whole[int64(n)] && !whole[int64(n)+1] {
				continue
			}
			got, err := decode(c, a.encoded[:n], 1<<20)
			if whole[int64(n)] != (err == nil) {
				if n > 0 || err != nil || c.Name() != "lz4" && c.Name() != "zstd" { // for these nothing is a stream of no frames
					t.Errorf("%d of %d bytes: %d decoded, %v", n, len(a.encoded), len(got), err)
				}
			}
			if !bytes.HasPrefix(a.data, got) {
				t.Errorf("%d of %d bytes: %s", n, len(a.encoded), diff(got, a.data))
			}
		}
		done()
	})
}

// A stream with names and comments that ends early is an error, too.
func TestTruncatedMember(t *testing.T) {
	c := codec.ByName(all.Codecs(), "gzip")
	member := small(t, c).encoded
	rest := member[10:]
	for name, header := range map[string]string{
		"name": "\x1f\x8b\x08\x08\x00\x00\x00\x00\x00\x03a name\x00", "comment": "\x1f\x8b\x08\x10\x00\x00\x00\x00\x00\x03a comment\x00",
		"extra": "\x1f\x8b\x08\x04\x00\x00\x00\x00\x00\x03\x04\x00\x01\x02\x03\x04",
	} {
		b := append(bytes.Clone(member), header...)
		for n := len(member) + 1; n <= len(b); n++ {
			if got, err := decode(c, b[:n], 1<<20); !errors.Is(err, io.ErrUnexpectedEOF) {
				t.Errorf("%s: %d of %d bytes of the header: %d decoded, %v", name, n-len(member), len(header), len(got), err)
			}
		}
		if _, err := decode(c, append(b, rest...), 1<<20); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// An error of the source comes out of the stream decoder, wherever it happens.
func TestStreamSourceFails(t *testing.T) {
	each(t, func(t *testing.T, c codec.Codec) {
		a := small(t, c)
		done := leaks(t)
		// Within a skippable frame the library of zstd says unexpected EOF, whatever the error was.
		for n := 0; n < len(a.encoded)-a.trailer; n += 13 {
			src := io.MultiReader(bytes.NewReader(a.encoded[:n]), iotest.ErrReader(errFail))
			r, err := c.NewReader(src)
			var got []byte
			if err == nil {
				got, err = io.ReadAll(r)
				r.Close()
			}
			if !errors.Is(err, errFail) || !bytes.HasPrefix(a.data, got) {
				t.Errorf("fails after %d bytes: %v; %d decoded", n, err, len(got))
			}
		}
		done()
	})
}

// A stream decoder that is closed early leaves nothing behind.
func TestStreamClosedEarly(t *testing.T) {
	each(t, func(t *testing.T, c codec.Codec) {
		n := 3 << 20
		if c.Name() == "xz" || quick() {
			n = 300_000
		}
		a := write(t, c, codec.WriterOptions{FrameSize: 200_000}, step{"write", content(n, 8)})
		done := leaks(t)
		for _, k := range []int64{0, 1, 100_000, 250_000} {
			r, err := c.NewReader(bytes.NewReader(a.encoded))
			if err != nil {
				t.Fatal(err)
			}
			if _, err := io.CopyN(io.Discard, r, k); err != nil {
				t.Error(err)
			}
			if err := r.Close(); err != nil {
				t.Error(err)
			}
		}
		done()
	})
}

// A table that does not fit is refused before anything is read.
func TestTable(t *testing.T) {
	eachFramed(t, func(t *testing.T, c codec.Codec) {
		for name, frames := range map[string][]codec.Frame{
			"encoded zero":       {{Encoded: 0, Decoded: 10}},
			"encoded negative":   {{Encoded: 5}, {Encoded: -5}},
			"behind the end":     {{Encoded: 600, Decoded: 10}, {Encoded: 401, Decoded: 10}},
			"encoded overflows":  {{Encoded: 1}, {Encoded: math.MaxInt64}},
			"decoded negative":   {{Encoded: 10, Decoded: -1}},
			"decoded too large":  {{Encoded: 10, Decoded: codec.MaxFrame + 1}},
			"decoded far larger": {{Encoded: 10, Decoded: math.MaxInt64}},
		} {
			within(t, 1<<20, name, func() {
				if _, err := codec.NewReader(bytes.NewReader(make([]byte, 1000)), c, frames, codec.ReaderOptions{}); err == nil {
					t.Errorf("%s is accepted", name)
				}
			})
		}
		if _, err := codec.NewReader(huge{}, c, []codec.Frame{{Encoded: 2 * codec.MaxFrame, Decoded: codec.MaxFrame}}, codec.ReaderOptions{}); err == nil {
			t.Error("a frame that no codec makes is accepted")
		}
		if r, err := codec.NewReader(huge{}, c, nil, codec.ReaderOptions{}); err != nil || r.Size() != 0 || r.FrameAt(0) != 0 {
			t.Errorf("no frames: %v", err)
		}
	})
	none := codec.ByName(all.Codecs(), "none")
	if _, err := codec.NewReader(bytes.NewReader(nil), none, []codec.Frame{{Encoded: 1, Decoded: 1}}, codec.ReaderOptions{}); err == nil {
		t.Error("none has frames")
	}
}

// huge is a source of zeros without end.
type huge struct{}

func (huge) ReadAt(p []byte, _ int64) (int, error) { clear(p); return len(p), nil }
func (huge) Size() int64                           { return math.MaxInt64 }

// A frame that holds more or less than was said is refused, and no more than that is allocated.
func TestBomb(t *testing.T) {
	eachFramed(t, func(t *testing.T, c codec.Codec) {
		size := 16 << 20
		if quick() || c.Name() == "xz" {
			size = 4 << 20
		}
		e, err := c.NewEncoder(c.Levels().Min)
		if err != nil {
			t.Fatal(err)
		}
		frame, err := e.Encode(nil, make([]byte, size))
		if err != nil {
			t.Fatal(err)
		}
		d, err := c.NewDecoder(codec.DecoderOptions{})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := d.Decode(nil, frame, int64(size)); err != nil { // and so it has what it keeps
			t.Fatal(err)
		}
		for _, lie := range []int64{0, 1, 255, 256, 1000, int64(size) - 1, int64(size) + 1, codec.MaxFrame + 1, 1 << 40, math.MaxInt64, -1, math.MinInt64} {
			limit := uint64(2 << 20)
			if lie > 0 && lie <= codec.MaxFrame {
				limit += uint64(lie)
			}
			within(t, limit, fmt.Sprintf("%d bytes as %d", size, lie), func() {
				got, err := d.Decode([]byte("before"), frame, lie)
				if !errors.Is(err, codec.ErrCorrupt) || string(got) != "before" {
					t.Errorf("%d bytes as %d: %d, %v", size, lie, len(got), err)
				}
			})
		}
		a := write(t, c, codec.WriterOptions{Level: new(c.Levels().Min), Workers: 1}, step{"frame", make([]byte, size)})
		a.frames[0].Decoded = 100
		within(t, 4<<20, "by the table", func() {
			if n, err := a.reader(t, codec.ReaderOptions{}).ReadAt(make([]byte, 100), 0); n != 0 || !errors.Is(err, codec.ErrCorrupt) {
				t.Errorf("by the table: %d bytes, %v", n, err)
			}
		})
	})
}

// zstdFrame makes a frame of blocks that repeat one byte.
func zstdFrame(header string, blocks ...uint32) []byte {
	b := []byte("\x28\xb5\x2f\xfd" + header)
	for i, n := range blocks {
		h := n<<3 | 1<<1
		if i == len(blocks)-1 {
			h |= 1
		}
		b = append(b, byte(h), byte(h>>8), byte(h>>16), 'x')
	}
	return b
}

// Frames whose headers lie about what follows.
func TestBombZstd(t *testing.T) {
	d, err := codec.ByName(all.Codecs(), "zstd").NewDecoder(codec.DecoderOptions{})
	if err != nil {
		t.Fatal(err)
	}
	block := make([]uint32, 200)
	for i := range block {
		block[i] = 128 << 10
	}
	fill := zstdFrame("\x20\x64", 100) // single segment, 100 bytes
	for _, tt := range []struct {
		name string
		b    []byte
		size int64
	}{
		{"more than its header says", zstdFrame("\x20\x64", block...), 100},
		{"no size, more than is wanted", zstdFrame("\x00\x38", block...), 100},
		{"no size, nothing wanted", zstdFrame("\x00\x38", block...), 0},
		{"less than its header says", zstdFrame("\xa0\x00\x00\x00\x02", 100), 32 << 20},
		{"header of 2 EiB", zstdFrame("\xe0\x00\x00\x00\x00\x00\x00\x00\x20", 100), 1 << 61},
		{"two frames", append(bytes.Clone(fill), fill...), 200},
		{"a frame, an empty one", append(bytes.Clone(fill), zstdFrame("\x20\x00", 0)...), 100},
		{"a frame, a skippable one", append(bytes.Clone(fill), "\x50\x2a\x4d\x18\x00\x00\x00\x00"...), 100},
		{"a skippable frame", []byte("\x50\x2a\x4d\x18\x00\x00\x00\x00"), 0},
		{"a skippable frame, a frame", append([]byte("\x50\x2a\x4d\x18\x00\x00\x00\x00"), fill...), 100},
		{"with a dictionary", zstdFrame("\x21\x07\x64", 100), 100},
	} {
		within(t, 36<<20, tt.name, func() {
			if got, err := d.Decode(nil, tt.b, tt.size); !errors.Is(err, codec.ErrCorrupt) || len(got) > 0 {
				t.Errorf("%s: %d bytes, %v", tt.name, len(got), err)
			}
		})
	}
	if got, err := d.Decode(nil, fill, 100); err != nil || string(got) != strings.Repeat("x", 100) {
		t.Errorf("%q, %v", got, err)
	}
}

// Streams of others may ask for as much memory as those of the stock program at its highest level, and for no more.
func TestBombStream(t *testing.T) {
	c := codec.ByName(all.Codecs(), "xz")
	data := content(300, 1)
	stream := func(dict byte) []byte {
		b := c.AppendStored(nil, data)
		b[16] = dict
		binary.LittleEndian.PutUint32(b[20:], crc32.ChecksumIEEE(b[12:20]))
		return b
	}
	block := func(dict byte) []byte { b := stream(dict); return b[12 : 12+12+3+300+1+8] }
	twoBlocks := append(append(bytes.Clone(stream(0)[:12]), block(0)...), block(40)...)
	filters := stream(0)
	copy(filters[13:], "\x01\x04\x00\x21\x01\x00") // a filter for x86, then LZMA2
	binary.LittleEndian.PutUint32(filters[20:], crc32.ChecksumIEEE(filters[12:20]))
	zstdWindow := zstdFrame("\x00\x90", 100) // 1 << 28
	for _, tt := range []struct {
		codec, name string
		b           []byte
		ok          bool
	}{
		{"xz", "64 MiB", stream(28), true},
		{"xz", "96 MiB", stream(29), false},
		{"xz", "4 GiB", stream(40), false},
		{"xz", "no size at all", stream(63), false},
		{"xz", "second stream", append(stream(0), stream(40)...), false},
		{"xz", "second stream after padding", append(append(stream(0), 0, 0, 0, 0), stream(39)...), false},
		{"xz", "second block", twoBlocks, false},
		{"xz", "filters", filters, false},
		{"zstd", "window of 128 MiB", zstdFrame("\x00\x88", 100), true},
		{"zstd", "window of 256 MiB", zstdWindow, false},
		{"zstd", "second frame", append(zstdFrame("\x00\x00", 100), zstdWindow...), false},
		{"zstd", "window of 3.75 TiB", zstdFrame("\x00\xff", 100), false},
		{"zstd", "segment of 2 EiB", zstdFrame("\xe0\x00\x00\x00\x00\x00\x00\x00\x20", 100), false},
	} {
		within(t, 260<<20, tt.name, func() {
			got, err := decode(codec.ByName(all.Codecs(), tt.codec), tt.b, 1<<20)
			if tt.ok != (err == nil) {
				t.Errorf("%s: %s: %d bytes, %v", tt.codec, tt.name, len(got), err)
			}
		})
	}
}

// The seek table is found by the end of a file, and no tail makes more of it than an error.
func TestTrailer(t *testing.T) {
	c := codec.ByName(all.Codecs(), "zstd")
	for _, n := range []int{0, 1, 7, 1000} {
		frames := make([]codec.Frame, n)
		for i := range frames {
			frames[i] = codec.Frame{Encoded: int64(i) + 1, Decoded: codec.MaxFrame - int64(i)}
		}
		b := c.AppendTrailer(nil, frames)
		le := binary.LittleEndian
		if le.Uint32(b) != 0x184D2A5E || int(le.Uint32(b[4:])) != len(b)-8 || le.Uint32(b[len(b)-4:]) != 0x8F92EAB1 || len(b) != 17+8*n {
			t.Errorf("%d frames: %x", n, b)
		}
		for i, f := range frames {
			if int64(le.Uint32(b[8+8*i:])) != f.Encoded || int64(le.Uint32(b[12+8*i:])) != f.Decoded {
				t.Errorf("%d frames: frame %d differs", n, i)
			}
		}
		for _, before := range []int{0, 1, 100} {
			tail := append(make([]byte, before), b...)
			if got, err := c.TrailerLen(tail[max(0, len(tail)-64):]); err != nil || got != int64(len(b)) {
				t.Errorf("%d frames: length %d, want %d; %v", n, got, len(b), err)
			}
		}
		foot := b[len(b)-9:]
		for bit := range 8 * len(foot) {
			foot[bit/8] ^= 1 << (bit % 8)
			got, err := c.TrailerLen(foot)
			if got == int64(len(b)) || err != nil && !errors.Is(err, codec.ErrCorrupt) {
				t.Errorf("%d frames, bit %d: length %d, %v", n, bit, got, err)
			}
			foot[bit/8] ^= 1 << (bit % 8)
		}
		for k := range foot {
			if got, err := c.TrailerLen(foot[k+1:]); got != 0 || err != nil {
				t.Errorf("the last %d bytes: length %d, %v", len(foot)-k-1, got, err)
			}
		}
	}
	if got, err := c.TrailerLen([]byte("\xff\xff\xff\xff\x00\xb1\xea\x92\x8f")); err != nil || got != 17+8*math.MaxUint32 {
		t.Errorf("most frames: %d, %v", got, err)
	}
}
