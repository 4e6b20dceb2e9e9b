package codec_test

import (
	"bytes"
	"errors"
	"testing"

	"tarvm/archive/codec"
	"tarvm/archive/codec/all"
)

func FuzzDecodeZstd(f *testing.F) { fuzzDecode(f, "zstd") }
func FuzzDecodeGzip(f *testing.F) { fuzzDecode(f, "gzip") }
func FuzzDecodeXz(f *testing.F)   { fuzzDecode(f, "xz") }
func FuzzDecodeLz4(f *testing.F)  { fuzzDecode(f, "lz4") }

// fuzzDecode decodes a frame that should hold size bytes, and the same bytes as a stream. The two agree, make no
// more than they may, and what they make comes back when it is coded again.
func fuzzDecode(f *testing.F, name string) {
	c := codec.ByName(all.Codecs(), name)
	a := small(f, c)
	cuts := a.cuts()
	seeds := 0
	for i, fr := range a.frames {
		f.Add(a.encoded[cuts[i]:cuts[i+1]], uint32(fr.Decoded))
		seeds++
	}
	f.Add(a.encoded, uint32(len(a.data)))
	f.Add(append(bytes.Clone(a.encoded), a.encoded...), uint32(0))
	e, err := c.NewEncoder(c.Levels().Min)
	if err != nil {
		f.Fatal(err)
	}
	for _, in := range [][]byte{content(9000, 51), make([]byte, 100_000), bytes.Repeat([]byte("abc"), 1000)} {
		b, err := e.Encode(nil, in)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b, uint32(len(in)))
		seeds++
	}
	f.Add(zstdFrame("\x00\x38", 1000, 50_000), uint32(51_000))
	if seeds < 6 {
		f.Fatalf("%d seeds", seeds)
	}
	d, err := c.NewDecoder(codec.DecoderOptions{})
	if err != nil {
		f.Fatal(err)
	}
	const limit = 1 << 20
	f.Fuzz(func(t *testing.T, b []byte, size32 uint32) {
		if len(b) > 1<<16 {
			return
		}
		size := int64(size32 % limit)
		frame, err := d.Decode([]byte("before"), b, size)
		if err != nil && (!errors.Is(err, codec.ErrCorrupt) || string(frame) != "before") {
			t.Fatalf("%q, %v", frame[:min(len(frame), 10)], err)
		}
		stream, serr := decode(c, b, limit+1)
		if len(stream) > limit {
			return // a stream may be as long as it likes
		}
		if err == nil {
			if string(frame[:6]) != "before" || int64(len(frame)) != 6+size {
				t.Fatalf("%d bytes, want %d", len(frame)-6, size)
			}
			if s := diff(stream, frame[6:]); s != "" || serr != nil {
				t.Fatalf("the frame as a stream: %s, %v", s, serr)
			}
		}
		// Open follows the frames by itself, and must find the same ends as the decoder.
		if c.Match(b[:min(len(b), codec.HeadLen)]) {
			opened, oerr := decodeAny([]codec.Codec{c}, b, limit+1)
			if (oerr == nil) != (serr == nil) || serr == nil && !bytes.Equal(opened, stream) {
				t.Fatalf("Open: %s, %v; NewReader: %v", diff(opened, stream), oerr, serr)
			}
		}
		if serr != nil {
			return
		}
		again, err := e.Encode(nil, stream)
		if err != nil {
			t.Fatal(err)
		}
		if got, err := d.Decode(nil, again, int64(len(stream))); err != nil || !bytes.Equal(got, stream) {
			t.Fatalf("coded again: %s, %v", diff(got, stream), err)
		}
		if got, err := d.Decode(nil, b, int64(len(stream))); err == nil && !bytes.Equal(got, stream) {
			t.Fatalf("the stream as a frame: %s", diff(got, stream))
		}
	})
}

// FuzzTrailer parses the end of a file: by its last 64 bytes as by all, and what is found is what would be written.
func FuzzTrailer(f *testing.F) {
	list := all.Codecs()
	for _, c := range list {
		a := small(f, c)
		f.Add(a.encoded)
		f.Add(a.encoded[len(a.encoded)-a.trailer:])
		f.Add(c.AppendTrailer([]byte("before"), nil))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		for _, c := range list {
			n, err := c.TrailerLen(b)
			if n < 0 || err != nil && (n != 0 || !errors.Is(err, codec.ErrCorrupt)) {
				t.Fatalf("%s: %d, %v", c.Name(), n, err)
			}
			if short, serr := c.TrailerLen(b[max(0, len(b)-64):]); short != n || (serr == nil) != (err == nil) {
				t.Fatalf("%s: %d, %v by the last 64 bytes; %d, %v by all", c.Name(), short, serr, n, err)
			}
			none := int64(len(c.AppendTrailer(nil, nil)))
			if n == 0 || n > 1<<20 {
				continue
			}
			if none == 0 {
				t.Fatalf("%s has no trailer, and %d bytes were found", c.Name(), n)
			}
			frames := make([]codec.Frame, (n-none)/8)
			w := c.AppendTrailer(nil, frames)
			if int64(len(w)) != n || !bytes.HasSuffix(b, w[len(w)-9:]) {
				t.Fatalf("%s: %d bytes, a table of %d frames has %d", c.Name(), n, len(frames), len(w))
			}
		}
	})
}
