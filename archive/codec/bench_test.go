package codec_test

import (
	"bytes"
	"io"
	"math/rand/v2"
	"strconv"
	"testing"

	"tarvm/archive/codec"
	"tarvm/archive/codec/all"
)

// mixed returns n bytes; a share of percent of its pages is noise, the others are text.
func mixed(n, percent int) []byte {
	noise := make([]byte, n)
	rand.NewChaCha8([32]byte{61}).Read(noise)
	text := bytes.Repeat([]byte("Jan  1 00:00:00 host kernel: nothing happens\n"), n/45+1)
	out := make([]byte, n)
	for at := 0; at < n; at += 4096 {
		src := text
		if at/4096*percent/100 != (at/4096+1)*percent/100 {
			src = noise
		}
		copy(out[at:min(n, at+4096)], src[at:])
	}
	return out
}

// eachShare runs fn with data of which 0, 50 and 100 % of the pages are noise.
func eachShare(b *testing.B, fn func(b *testing.B, c codec.Codec, data []byte)) {
	for _, c := range all.Codecs() {
		n := 16 << 20
		if c.Name() == "xz" {
			n = 4 << 20
		}
		for _, percent := range []int{0, 50, 100} {
			data := mixed(n, percent)
			b.Run(c.Name()+"/"+strconv.Itoa(percent), func(b *testing.B) {
				b.SetBytes(int64(n))
				b.ReportAllocs()
				fn(b, c, data)
			})
		}
	}
}

func BenchmarkWrite(b *testing.B) {
	eachShare(b, func(b *testing.B, c codec.Codec, data []byte) {
		for b.Loop() {
			w, err := codec.NewWriter(b.Context(), io.Discard, c, codec.WriterOptions{})
			if err != nil {
				b.Fatal(err)
			}
			if _, err := w.Write(data); err != nil {
				b.Fatal(err)
			}
			if err := w.Close(); err != nil {
				b.Fatal(err)
			}
			b.ReportMetric(float64(w.Encoded())/float64(len(data)), "ratio")
		}
	})
}

func BenchmarkRead(b *testing.B) {
	eachShare(b, func(b *testing.B, c codec.Codec, data []byte) {
		r := write(b, c, codec.WriterOptions{}, step{"write", data}).reader(b, codec.ReaderOptions{})
		for b.Loop() {
			s := r.Section(b.Context(), 0, r.Size())
			if n, err := io.Copy(io.Discard, s); err != nil || n != r.Size() {
				b.Fatal(n, err)
			}
			if err := s.Close(); err != nil {
				b.Fatal(err)
			}
		}
	})
}

// BenchmarkStream decodes without the table of frames.
func BenchmarkStream(b *testing.B) {
	eachShare(b, func(b *testing.B, c codec.Codec, data []byte) {
		a := write(b, c, codec.WriterOptions{}, step{"write", data})
		for b.Loop() {
			r, err := c.NewReader(bytes.NewReader(a.encoded))
			if err != nil {
				b.Fatal(err)
			}
			if n, err := io.Copy(io.Discard, r); err != nil || n != int64(len(data)) {
				b.Fatal(n, err)
			}
			if err := r.Close(); err != nil {
				b.Fatal(err)
			}
		}
	})
}
