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

// holey is a source that tells its holes, and in which reading one is a mistake.
type holey struct {
	t    *testing.T
	data []byte
	hole [2]int64
	asks atomic.Int64
}

func (h *holey) Size() int64 { return int64(len(h.data)) }

func (h *holey) ReadAt(p []byte, off int64) (int, error) {
	if off >= h.hole[0] && off+int64(len(p)) <= h.hole[1] {
		h.t.Errorf("read %d bytes at %d, in the hole", len(p), off)
	}
	return copy(p, h.data[off:]), nil
}

func (h *holey) DataAt(off int64) (start, end int64, err error) {
	h.asks.Add(1)
	switch {
	case off < h.hole[0]:
		return off, h.hole[0], nil
	case off < h.hole[1]:
		return h.hole[1], h.Size(), nil
	}
	return off, h.Size(), nil
}

// Pages in a hole are not read, and pages of zeros are one page.
func TestHoles(t *testing.T) {
	const page = 64 << 10
	h := &holey{t: t, data: make([]byte, 40*page), hole: [2]int64{10*page - 7, 30*page + 7}}
	for i := range h.hole[0] {
		h.data[i] = byte(i%251) + 1
	}
	h.data[len(h.data)-1] = 1
	c := parse.NewCache(parse.Image{Source: h, Format: "x"}, 4*page)
	tab := parse.Table{Name: "table", Count: 40 * page / 8, Width: 8, Order: binary.LittleEndian, Cache: c}
	for i := range tab.Count {
		if i%97 != 0 && i%(page/8) > 2 {
			continue
		}
		if v, err := tab.At(i); err != nil || v != binary.LittleEndian.Uint64(h.data[8*i:]) {
			t.Fatalf("entry %d: %x, %v", i, v, err)
		}
	}
	for off, want := range map[int64]int64{
		0: 0, h.hole[0] - 1: h.hole[0] - 1, h.hole[0]: h.hole[1], 20 * page: h.hole[1], h.hole[1] - 1: h.hole[1],
		h.hole[1]: h.hole[1], -1: -1, h.Size(): h.Size(),
	} {
		if got := c.HoleEnd(off); got != want {
			t.Errorf("the hole at %d ends at %d, want %d", off, got, want)
		}
	}
	before := h.asks.Load()
	for i := range int64(1000) {
		c.HoleEnd(12*page + i)
	}
	if n := h.asks.Load() - before; n > 1 {
		t.Errorf("asked %d times for one hole", n)
	}
	if n, _, err := tab.Page(39 * page / 8); err != nil || n != 39*page/8 {
		t.Errorf("the last page: %d, %v", n, err)
	}
}
