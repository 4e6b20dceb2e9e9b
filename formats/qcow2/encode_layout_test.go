package qcow2

import (
	"bytes"
	"encoding/binary"
	"errors"
	"math/rand/v2"
	"testing"

	"tarvm/formats"
)

// encMemory is a file in memory that wants each byte to be written once, but
// for zeros.
type encMemory struct {
	t *testing.T
	b []byte
}

func (m *encMemory) WriteAt(p []byte, off int64) (int, error) {
	if n := off + int64(len(p)) - int64(len(m.b)); n > 0 {
		m.b = append(m.b, make([]byte, n)...)
	}
	for i, c := range m.b[off:][:len(p)] {
		if c != 0 && c != p[i] {
			m.t.Fatalf("byte %d of the file was %#x, and becomes %#x", off+int64(i), c, p[i])
		}
	}
	return copy(m.b[off:], p), nil
}

func (m *encMemory) Truncate(int64) error { return nil }

// The refcounts written are those of a count by cluster, nothing overlaps, and
// every byte arrives.
func TestLayoutCounts(t *testing.T) {
	for seed := range uint64(3) {
		r := rand.New(rand.NewPCG(seed, 0))
		cluster := int64(512) << (seed % 3)
		m := &encMemory{t: t}
		l := newEncLayout(m, cluster)
		want := map[int64]uint16{}
		sum := int64(0)
		used := func(at, n int64) {
			for c := at / cluster; c <= (at+n-1)/cluster; c++ {
				want[c]++
			}
			b := make([]byte, n)
			for i := range b {
				b[i] = byte(1 + r.IntN(255))
				sum += int64(b[i])
			}
			if err := l.write(b, at); err != nil {
				t.Fatal(err)
			}
		}
		for range 1500 {
			n := 1 + r.Int64N(cluster-1)
			if r.IntN(3) == 0 {
				n = 1 + r.Int64N(9)
			}
			var at int64
			var err error
			if whole := r.IntN(20); whole == 0 {
				n = 1 + r.Int64N(3)
				if r.IntN(50) == 0 {
					n = 3*l.per + 5
				}
				at, err = l.take(n)
				n *= cluster
			} else {
				at, err = l.pack(n)
			}
			if err != nil {
				t.Fatal(err)
			}
			used(at, n)
		}
		table, clusters, err := l.putRefcounts()
		if err == nil {
			err = l.flush()
		}
		if err != nil {
			t.Fatal(err)
		}
		for c := range clusters {
			want[table/cluster+c]++
		}
		for _, at := range l.blocks {
			want[at/cluster]++
		}
		for c := range int64(len(l.blocks)) * l.per {
			block := binary.BigEndian.Uint64(m.b[table+8*(c/l.per):])
			if got := binary.BigEndian.Uint16(m.b[int64(block)+2*(c%l.per):]); got != want[c] {
				t.Fatalf("seed %d: cluster %d of %d has %d uses, written is %d", seed, c, l.next, want[c], got)
			}
			if (want[c] == 0) != (c >= l.next) {
				t.Errorf("seed %d: cluster %d of %d is used %d times", seed, c, l.next, want[c])
			}
		}
		for _, at := range append(l.blocks, table) {
			for i := range cluster {
				sum += int64(m.b[at+i])
			}
		}
		for i := range (clusters - 1) * cluster {
			sum += int64(m.b[table+cluster+i])
		}
		for _, c := range m.b {
			sum -= int64(c)
		}
		if sum != 0 {
			t.Errorf("seed %d: the sum of the bytes is wrong by %d", seed, sum)
		}
	}
}

// A refcount has 16 bits: what would be one more goes to the next cluster.
func TestLayoutMostUses(t *testing.T) {
	l := newEncLayout(&encMemory{t: t}, 2<<20)
	var first, last int64
	for i := range 65536 {
		at, err := l.pack(1)
		if err != nil {
			t.Fatal(err)
		}
		switch {
		case i == 0:
			first = at
		case i == 65535 && at != first+2<<20:
			t.Errorf("use 65536 is at %d, the first at %d", at, first)
		case i < 65535 && at != last+1:
			t.Fatalf("use %d is at %d, behind %d", i, at, last)
		}
		last = at
	}
	if n := binary.BigEndian.Uint16(l.counts); n != 65535 {
		t.Errorf("%d uses", n)
	}
}

func TestLayoutLimits(t *testing.T) {
	l := newEncLayout(&encMemory{t: t}, 512)
	l.blocks = make([]int64, encMaxRefTable/8)
	l.next, l.first = l.per, 0
	if _, err := l.take(1); err != nil { // the block that is full waits
		t.Fatal(err)
	}
	if _, err := l.take(1); !errors.Is(err, formats.ErrUnsupported) {
		t.Errorf("a refcount table of more than 8 MiB: %v", err)
	}
	l = newEncLayout(&encMemory{t: t}, 2<<20)
	l.next, l.first = 1<<28-2, 1<<28-2
	if _, err := l.take(2); err != nil {
		t.Fatal(err)
	}
	if _, err := l.take(1); !errors.Is(err, formats.ErrUnsupported) {
		t.Errorf("a cluster above what a compressed entry reaches: %v", err)
	}
	if _, err := l.pack(5); !errors.Is(err, formats.ErrUnsupported) {
		t.Errorf("compressed data above that: %v", err)
	}
	if _, _, err := l.putRefcounts(); !errors.Is(err, formats.ErrUnsupported) {
		t.Errorf("refcounts above that: %v", err)
	}
}

// The fields of an entry, as the format's document describes them.
func TestCompressedEntry(t *testing.T) {
	for _, x := range []struct {
		at      int64
		n       int
		cluster int64
		want    uint64
	}{
		{0x50000, 512, 64 << 10, 1<<62 | 0x50000},
		{0x50000, 513, 64 << 10, 1<<62 | 1<<54 | 0x50000},
		{0x501ff, 1, 64 << 10, 1<<62 | 0x501ff},
		{0x501ff, 2, 64 << 10, 1<<62 | 1<<54 | 0x501ff},
		{0x50001, 65535, 64 << 10, 1<<62 | 127<<54 | 0x50001},
		{0x501ff, 65535, 64 << 10, 1<<62 | 128<<54 | 0x501ff},
		{0x3ff, 511, 512, 1<<62 | 1<<61 | 0x3ff},
		{0x1ffffff, 2<<20 - 1, 2 << 20, 1<<62 | 4096<<49 | 0x1ffffff},
	} {
		if got := compressedEntry(x.at, x.n, x.cluster); got != x.want {
			t.Errorf("%+v: 0x%x", x, got)
		}
	}
}

// Writes arrive in any order, and a gap is filled only where nothing was written.
func TestSpool(t *testing.T) {
	for seed := range uint64(20) {
		r := rand.New(rand.NewPCG(seed, 1))
		m := &encMemory{t: t}
		s := encSpool{out: m}
		var want []byte
		var holes [][2]int64 // what was passed over, and may be written later
		put := func(off, n int64) {
			if grow := off + n - int64(len(want)); grow > 0 {
				want = append(want, make([]byte, grow)...)
			}
			for i := range want[off:][:n] {
				want[off+int64(i)] = byte(seed) + 1
			}
			if err := s.write(want[off:][:n], off); err != nil {
				t.Fatal(err)
			}
		}
		for range 60 {
			if len(holes) > 0 && r.IntN(3) == 0 {
				i := r.IntN(len(holes))
				put(holes[i][0], holes[i][1])
				holes = append(holes[:i], holes[i+1:]...)
				continue
			}
			at := int64(len(want))
			if r.IntN(3) == 0 {
				hole := 1 + r.Int64N(50<<10)
				holes = append(holes, [2]int64{at, hole})
				at += hole
			}
			put(at, 1+r.Int64N(1<<(4+r.IntN(17))))
		}
		if err := s.flush(); err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(m.b, want) {
			t.Errorf("seed %d: %d bytes, want %d, or others", seed, len(m.b), len(want))
		}
	}
}
