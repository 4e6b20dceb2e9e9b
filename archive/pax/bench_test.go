package pax_test

import (
	"bytes"
	"fmt"
	"io"
	"testing"
	"time"

	"tarvm/archive/pax"
)

func benchHeaders(n int) []pax.Header {
	hs := make([]pax.Header, n)
	for i := range hs {
		hs[i] = pax.Header{Name: fmt.Sprintf("machine/snapshots/file-%06d.log", i), Type: pax.TypeReg, Mode: 0o644,
			UID: 1000, GID: 1000, Uname: "user", Gname: "group", ModTime: time.Unix(1_700_000_000, 0)}
	}
	return hs
}

func TestPlainMemberAllocatesNothing(t *testing.T) {
	dst := make([]byte, 0, 4096)
	for name, change := range map[string]func(*pax.Header){
		"plain":  func(*pax.Header) {},
		"dir":    func(h *pax.Header) { h.Type = pax.TypeDir },
		"nanos":  func(h *pax.Header) { h.ModTime = time.Unix(1_700_000_000, 123456789) },
		"large":  func(h *pax.Header) { h.Size = 1 << 40 },
		"sparse": func(h *pax.Header) { h.Size, h.Sparse = 100, []pax.Extent{{Offset: 5, Length: 6}} },
	} {
		h := benchHeaders(1)[0]
		change(&h)
		if n := testing.AllocsPerRun(100, func() {
			if _, err := pax.AppendHeader(dst, &h); err != nil {
				t.Fatal(err)
			}
		}); n != 0 {
			t.Errorf("%s: %v allocations", name, n)
		}
	}
}

func BenchmarkAppendHeader(b *testing.B) {
	for _, nsec := range []int64{0, 123_456_789} {
		b.Run(fmt.Sprintf("nsec=%d", nsec), func(b *testing.B) {
			h := benchHeaders(1)[0]
			h.ModTime = time.Unix(1_700_000_000, nsec)
			dst, _ := pax.AppendHeader(nil, &h)
			b.SetBytes(int64(len(dst)))
			b.ReportAllocs()
			for b.Loop() {
				dst, _ = pax.AppendHeader(dst[:0], &h)
			}
		})
	}
}

// An operation is an archive of 200,000 empty members.
func BenchmarkReader(b *testing.B) {
	const members = 200_000
	for _, nsec := range []int64{0, 123_456_789} {
		b.Run(fmt.Sprintf("nsec=%d", nsec), func(b *testing.B) {
			var buf []byte
			hs := benchHeaders(members)
			for i := range hs {
				hs[i].ModTime = time.Unix(1_700_000_000, nsec)
				buf, _ = pax.AppendHeader(buf, &hs[i])
			}
			buf = pax.AppendEnd(buf)
			b.SetBytes(int64(len(buf)))
			b.ReportAllocs()
			for b.Loop() {
				r := pax.NewReader(bytes.NewReader(buf), pax.ReaderOptions{})
				n := 0
				for {
					_, err := r.Next()
					if err == io.EOF {
						break
					}
					if err != nil {
						b.Fatal(err)
					}
					n++
				}
				if n != members {
					b.Fatal(n)
				}
			}
			b.ReportMetric(float64(members)*float64(b.N)/b.Elapsed().Seconds()/1e6, "Mheaders/s")
		})
	}
}

func BenchmarkLimitExtents(b *testing.B) {
	ext := comb(1_000_000, 1<<20, 4096)
	b.ReportAllocs()
	for b.Loop() {
		pax.LimitExtents(ext, 1<<44)
	}
}
