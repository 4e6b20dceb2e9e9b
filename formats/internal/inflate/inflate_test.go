package inflate

import (
	"bytes"
	"compress/flate"
	"compress/zlib"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"testing"

	kflate "github.com/klauspost/compress/flate"

	"tarvm/formats/formatstest"
)

// samples are data of many kinds, some of which no code of the fast loop sees.
func samples(t testing.TB) map[string][]byte {
	t.Helper()
	r := rand.New(rand.NewPCG(1, 2))
	random := make([]byte, 200000)
	for i := range random {
		random[i] = byte(r.Uint32())
	}
	few := make([]byte, 150000)
	for i := range few {
		few[i] = "aaaaaaaabbbbccdefghi"[r.IntN(20)]
	}
	// Frequencies as of Fibonacci make the longest codes.
	var skewed []byte
	for i, a, b := 0, 1, 1; len(skewed) < 300000; i, a, b = i+1, b, a+b {
		skewed = append(skewed, bytes.Repeat([]byte{byte(i * 7)}, a)...)
	}
	r.Shuffle(len(skewed), func(i, j int) { skewed[i], skewed[j] = skewed[j], skewed[i] })
	var periods []byte
	for p := 1; p < 70; p++ {
		for range 900 / p {
			periods = append(periods, random[p*100:][:p]...)
		}
	}
	source, err := os.ReadFile("inflate.go")
	if err != nil {
		t.Fatal(err)
	}
	mixed := bytes.Clone(random[:65536])
	for i := 0; i < len(mixed); i += 1 + r.IntN(900) {
		copy(mixed[i:], source[r.IntN(len(source)-300):][:r.IntN(300)])
	}
	return map[string][]byte{
		"empty": {}, "one": {7}, "two": {7, 7}, "zeros": make([]byte, 100000), "random": random, "few": few,
		"skewed": skewed, "periods": periods, "source": source, "mixed": mixed, "short": source[:300],
	}
}

// packers make streams in as many ways as there are.
var packers = map[string]func(io.Writer) (io.WriteCloser, error){}

func init() {
	for _, level := range []int{-2, 0, 1, 6, 9} {
		packers[fmt.Sprint("std ", level)] = func(w io.Writer) (io.WriteCloser, error) { return flate.NewWriter(w, level) }
		packers[fmt.Sprint("klauspost ", level)] = func(w io.Writer) (io.WriteCloser, error) { return kflate.NewWriter(w, level) }
	}
}

func pack(t testing.TB, name string, b []byte) []byte {
	t.Helper()
	var out bytes.Buffer
	w, err := packers[name](&out)
	if err == nil {
		_, err = w.Write(b)
	}
	if err == nil {
		err = w.Close()
	}
	if err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

func TestDeflate(t *testing.T) {
	formatstest.OneGoroutine(t)
	var d Decoder
	for kind, want := range samples(t) {
		for name := range packers {
			src := pack(t, name, want)
			what := kind + " by " + name
			for _, room := range []int{0, 1, 1000} {
				dst := make([]byte, len(want)+room)
				n, used, err := d.Deflate(dst, append(src[:len(src):len(src)], 1, 2, 3, 4, 5, 6, 7, 8, 9)[:len(src)+min(room, 9)])
				if err != nil || used != len(src) || !bytes.Equal(dst[:n], want) {
					t.Fatalf("%s, room for %d: %d bytes of %d, used %d of %d: %v", what, room, n, len(want), used, len(src), err)
				}
			}
			for _, short := range []int{1, 2, 100, len(want) / 2, len(want) - 1} {
				if short > len(want) || short <= 0 {
					continue
				}
				whole := make([]byte, len(want))
				for i := range whole {
					whole[i] = 0xa5
				}
				dst := whole[: len(want)-short : len(want)-short]
				n, _, err := d.Deflate(dst, src)
				if !errors.Is(err, ErrFull) || n != len(dst) || !bytes.Equal(dst, want[:n]) {
					t.Fatalf("%s, %d bytes too little room: %d, %v", what, short, n, err)
				}
				for _, v := range whole[n:] {
					if v != 0xa5 {
						t.Fatalf("%s: written behind dst", what)
					}
				}
			}
			for cut := 0; cut < len(src); cut += 1 + cut/9 + len(src)/200 {
				dst := make([]byte, len(want))
				if n, used, err := d.Deflate(dst, src[:cut]); !errors.Is(err, io.ErrUnexpectedEOF) || used > cut || !bytes.Equal(dst[:n], want[:n]) {
					t.Fatalf("%s cut at %d of %d: %d, %v", what, cut, len(src), n, err)
				}
			}
		}
	}
}

func TestZlib(t *testing.T) {
	var d Decoder
	want := []byte("a text, a text, a text")
	var out bytes.Buffer
	w := zlib.NewWriter(&out)
	w.Write(want)
	w.Close()
	good := out.Bytes()
	dst := make([]byte, 100)
	if n, err := d.Zlib(dst, good); err != nil || string(dst[:n]) != string(want) {
		t.Fatalf("%q, %v", dst[:n], err)
	}
	if allocs := testing.AllocsPerRun(10, func() { _, _ = d.Zlib(dst, good) }); allocs > 0 {
		t.Errorf("%v allocations", allocs)
	}
	for cut := range good {
		if _, err := d.Zlib(dst, good[:cut]); !errors.Is(err, io.ErrUnexpectedEOF) {
			t.Errorf("cut at %d: %v", cut, err)
		}
	}
	for _, c := range []struct {
		at   int
		xor  byte
		want error
	}{{0, 1, ErrHeader}, {0, 0x80, ErrHeader}, {1, 1, ErrHeader}, {2, 6, ErrCorrupt}, {len(good) - 1, 1, ErrSum}} {
		bad := bytes.Clone(good)
		bad[c.at] ^= c.xor
		if _, err := d.Zlib(dst, bad); !errors.Is(err, c.want) {
			t.Errorf("byte %d xor %#x: %v, want %v", c.at, c.xor, err, c.want)
		}
	}
	dictionary := bytes.Clone(good)
	dictionary[1] = 0x20
	for binary.BigEndian.Uint16(dictionary)%31 != 0 {
		dictionary[1]++
	}
	if _, err := d.Zlib(dst, dictionary); !errors.Is(err, ErrHeader) {
		t.Errorf("a dictionary: %v", err)
	}
}

// What RFC 1951 forbids, and zlib refuses; and what it takes, though it looks odd.
func TestForms(t *testing.T) {
	for _, c := range []struct {
		name string
		bits string // as they come: fields from their lowest bit on, codes from their highest
		want error
		data string
	}{
		{"stored", "1 00 00000 1100000000000000 0011111111111111 10000110 01000110 11000110", nil, "abc"},
		{"stored, complement", "1 00 00000 1100000000000000 1011111111111111", ErrCorrupt, ""},
		{"stored, cut", "1 00 00000 1100000000000000 0011111111111111 10000110", io.ErrUnexpectedEOF, "a"},
		{"reserved kind", "1 11 00000", ErrCorrupt, ""},
		{"fixed", "1 10 10010001 10010010 0000000", nil, "ab"},
		{"fixed, match", "1 10 10010001 0000001 00000 0000000", nil, "aaaa"},
		{"fixed, match before the start", "1 10 10010001 0000001 00001 0000000", ErrCorrupt, "a"},
		{"fixed, length 286", "1 10 10010001 11000110 0000000 000000", ErrCorrupt, "a"},
		{"fixed, distance 30", "1 10 10010001 0000001 11110 0000000 0000", ErrCorrupt, "a"},
		{"fixed, two blocks", "0 10 10010001 0000000 1 10 10010010 0000000", nil, "ab"},
		{"287 lengths", "1 01 01111 00000 0000 00000000", ErrCorrupt, ""},
		{"31 distances", "1 01 00000 01111 0000 00000000", ErrCorrupt, ""},
		{"code of code lengths: none", "1 01 00000 00000 0000 000 000 000 000 00000000", ErrCorrupt, ""},
		{"code of code lengths: too many", "1 01 00000 00000 0000 100 100 100 000 00000000", ErrCorrupt, ""},
		// Lengths 16 and 17 with one bit each.
		{"repeat of nothing", "1 01 00000 00000 0000 100 100 000 000 0 00 00000000", ErrCorrupt, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			var d Decoder
			dst := make([]byte, 100)
			n, _, err := d.Deflate(dst, bitsOf(c.bits))
			if !errors.Is(err, c.want) || string(dst[:n]) != c.data {
				t.Errorf("%q, %v, want %q, %v", dst[:n], err, c.data, c.want)
			}
			b, stdErr := io.ReadAll(flate.NewReader(bytes.NewReader(bitsOf(c.bits))))
			if (stdErr == nil) != (err == nil) || err == nil && string(b) != c.data {
				t.Errorf("the standard library: %q, %v", b, stdErr)
			}
		})
	}
}

func bitsOf(s string) (b []byte) {
	n := 0
	for _, c := range s {
		if c == ' ' {
			continue
		}
		if n%8 == 0 {
			b = append(b, 0)
		}
		b[n/8] |= byte(c-'0') << (n % 8)
		n++
	}
	return b
}

// Streams mean the same here and in the standard library.
func FuzzDeflate(f *testing.F) {
	for kind, b := range samples(f) {
		if len(b) < 1000 || kind == "periods" || kind == "skewed" {
			for _, name := range []string{"std -2", "std 1", "std 9", "klauspost 1"} {
				f.Add(pack(f, name, b[:min(len(b), 20000)]), uint16(len(b)))
			}
		}
	}
	f.Add(bitsOf("1 10 10010001 0000001 00000 0000000"), uint16(4))
	var d Decoder
	f.Fuzz(func(t *testing.T, src []byte, room uint16) {
		whole := make([]byte, int(room)+64)
		for i := range whole {
			whole[i] = 0xa5
		}
		dst := whole[:room:room]
		n, used, err := d.Deflate(dst, src)
		if n > len(dst) || used > len(src) {
			t.Fatalf("%d of %d, used %d of %d", n, len(dst), used, len(src))
		}
		for _, v := range whole[room:] {
			if v != 0xa5 {
				t.Fatal("written behind dst")
			}
		}
		std := bytes.NewReader(src)
		want, stdErr := io.ReadAll(io.LimitReader(flate.NewReader(std), int64(room)+1))
		switch {
		case len(want) > int(room):
			if !errors.Is(err, ErrFull) || n != len(dst) || !bytes.Equal(dst, want[:n]) {
				// The standard library sees what is wrong behind the end later or sooner.
				if err == nil || n > 0 && !bytes.Equal(dst[:n], want[:n]) {
					t.Fatalf("%d bytes, %v; the standard library has %d", n, err, len(want))
				}
			}
		case err == nil:
			if stdErr != nil || !bytes.Equal(dst[:n], want) || used != len(src)-std.Len() {
				t.Fatalf("%d bytes, used %d; the standard library: %d, %v, used %d", n, used, len(want), stdErr, len(src)-std.Len())
			}
		default:
			// It takes an incomplete code of code lengths, which zlib refuses.
			if stdErr == nil && !errors.Is(err, ErrCorrupt) {
				t.Fatalf("%v; the standard library: %d bytes", err, len(want))
			}
			if m := min(n, len(want)); !bytes.Equal(dst[:m], want[:m]) {
				t.Fatal("other bytes than the standard library's")
			}
		}
	})
}

func BenchmarkDeflate(b *testing.B) {
	for _, kind := range []string{"source", "mixed", "few", "zeros"} {
		data := samples(b)[kind]
		src := pack(b, "klauspost 6", data)
		b.Run(kind, func(b *testing.B) {
			b.SetBytes(int64(len(data)))
			b.ReportAllocs()
			var d Decoder
			dst := make([]byte, len(data))
			for b.Loop() {
				if _, _, err := d.Deflate(dst, src); err != nil {
					b.Fatal(err)
				}
			}
		})
		b.Run(kind+"/klauspost", func(b *testing.B) {
			b.SetBytes(int64(len(data)))
			r := kflate.NewReader(nil)
			dst := make([]byte, len(data))
			for b.Loop() {
				if err := r.(kflate.Resetter).Reset(bytes.NewReader(src), nil); err != nil {
					b.Fatal(err)
				}
				if _, err := io.ReadFull(r, dst); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
