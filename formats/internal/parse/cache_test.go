package parse_test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"

	"tarvm/formats"
	"tarvm/formats/internal/parse"
)

// counted counts what is read.
type counted struct {
	*bytes.Reader
	n *atomic.Int64
}

func (c counted) ReadAt(p []byte, off int64) (int, error) {
	c.n.Add(int64(len(p)))
	return c.Reader.ReadAt(p, off)
}

func noise(n int) []byte {
	b := make([]byte, n)
	r := rand.New(rand.NewPCG(1, 1))
	for i := range b {
		b[i] = byte(r.Uint32())
	}
	return b
}

func TestCache(t *testing.T) {
	data := noise(1 << 20)
	var n atomic.Int64
	c := parse.NewCache(parse.Image{Source: counted{bytes.NewReader(data), &n}, Format: "x"}, 10_000)
	get := func(off, l int64) {
		t.Helper()
		b, err := c.Bytes("thing", off, l)
		if err != nil || !bytes.Equal(b, data[off:off+l]) {
			t.Fatalf("%d bytes at %d: %v", l, off, err)
		}
	}
	reads := func(want int64, what string) {
		t.Helper()
		if got := n.Swap(0); got != want {
			t.Errorf("%s: %d bytes were read, want %d", what, got, want)
		}
	}
	get(0, 4000)
	get(5000, 4000)
	get(0, 4000)
	get(0, 100)
	reads(8000, "two, one of them again")
	get(0, 5000)
	reads(5000, "more than is kept")
	get(5000, 4000)
	get(0, 5000)
	reads(0, "both are still there")
	get(20_000, 3000)
	get(0, 5000)
	reads(3000, "the oldest goes")
	get(5000, 4000)
	reads(4000, "that was it")
	get(100_000, 20_000)
	get(100_000, 20_000)
	reads(20_000, "one that is larger than the cache stays until the next")
	get(5000, 4000)
	reads(4000, "and drives out all others")
	for _, x := range [][2]int64{{-1, 5}, {1 << 20, 1}, {5, -1}, {1<<20 - 5, 10}} {
		if _, err := c.Bytes("thing", x[0], x[1]); !errors.Is(err, formats.ErrCorrupt) {
			t.Errorf("%v: %v", x, err)
		}
	}
	var wg sync.WaitGroup
	for seed := range uint64(8) {
		wg.Go(func() {
			r := rand.New(rand.NewPCG(seed, 3))
			for range 2000 {
				off, l := r.Int64N(50)*700, 1+r.Int64N(1500)
				if b, err := c.Bytes("thing", off, l); err != nil || !bytes.Equal(b, data[off:off+l]) {
					t.Errorf("%d bytes at %d: %v", l, off, err)
					return
				}
			}
		})
	}
	wg.Wait()
}

func TestTable(t *testing.T) {
	const count = 40_000 // three pages of u64
	for _, width := range []int{4, 8} {
		for _, order := range []binary.ByteOrder{binary.LittleEndian, binary.BigEndian} {
			data := make([]byte, 100+width*count)
			want := make([]uint64, count)
			r := rand.New(rand.NewPCG(2, 2))
			for i := range want {
				if i > 0 && r.IntN(100) != 0 {
					want[i] = want[i-1]
				} else {
					want[i] = uint64(r.Uint32())
				}
				if width == 4 {
					order.PutUint32(data[100+4*i:], uint32(want[i]))
				} else {
					want[i] <<= 20
					order.PutUint64(data[100+8*i:], want[i])
				}
			}
			m := parse.Image{Source: bytes.NewReader(data), Format: "x"}
			tab := parse.Table{Name: "table", Off: 100, Count: count, Width: width, Order: order, Cache: parse.NewCache(m, 1<<20)}
			if err := tab.Check(); err != nil {
				t.Fatal(err)
			}
			same := func(v, entry uint64, _ int64) bool { return v == entry }
			for i := int64(0); i < count; {
				v, n, err := tab.Run(i, count-i, same)
				if err != nil || v != want[i] || n < 1 || i+n > count {
					t.Fatalf("at %d: %d, %d, %v", i, v, n, err)
				}
				for k := range n {
					if at, err := tab.At(i + k); err != nil || at != want[i+k] || at != v {
						t.Fatalf("at %d: %d, %v, the run has %d", i+k, at, err, v)
					}
				}
				first, b, err := tab.Page(i + n - 1)
				if err != nil || first > i {
					t.Fatalf("a run from %d to %d, the page begins at %d, %v", i, i+n, first, err)
				}
				if end := first + int64(len(b)/width); i+n < end && want[i+n] == v {
					t.Fatalf("a run from %d ends at %d, and goes on to %d at least", i, i+n, end)
				}
				i += n
			}
			if _, n, err := tab.Run(7, 3, func(uint64, uint64, int64) bool { return true }); err != nil || n != 3 {
				t.Errorf("a run of 3 at most: %d, %v", n, err)
			}
			for _, bad := range []parse.Table{
				{Off: 100, Count: count + 1}, {Off: 101, Count: count}, {Off: -1, Count: 1}, {Off: 100, Count: 1 << 62}, {Off: 1 << 62, Count: 1},
				{Off: 100, Count: -1},
			} {
				bad.Width, bad.Cache = width, tab.Cache
				if err := bad.Check(); !errors.Is(err, formats.ErrCorrupt) {
					t.Errorf("%+v: %v", bad, err)
				}
			}
		}
	}
}
