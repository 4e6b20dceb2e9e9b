package delta

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"reflect"
	"strings"
	"testing"

	"pgregory.net/rapid"
)

func TestGrid(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		g := Grid{Block: int64(MinBlock) << rapid.IntRange(0, 4).Draw(t, "shift")}
		if rapid.Bool().Draw(t, "strided") {
			g.Stride = rapid.Int64Range(0, 5).Draw(t, "blocks")*g.Block + g.Block + rapid.Int64Range(1, g.Block-1).Draw(t, "more")
		}
		g.Phase = rapid.Int64Range(0, max(g.Block, g.Stride)-1).Draw(t, "phase")
		if err := g.Check(); err != nil {
			t.Fatal(err)
		}
		size := rapid.Int64Range(0, 20*g.Block).Draw(t, "size")
		var at int64
		n := g.Count(size)
		for i := range n {
			off, l := g.Range(i, size)
			if off != at || l <= 0 || l > g.Block {
				t.Fatalf("block %d of %d: %d+%d, want it at %d", i, n, off, l, at)
			}
			if g.Index(off) != i || g.Index(off+l-1) != i {
				t.Fatalf("block %d holds %d and %d, Index says %d and %d", i, off, off+l-1, g.Index(off), g.Index(off+l-1))
			}
			if k := off - g.Phase; g.Stride > 0 && k >= 0 && (k/g.Stride != (k+l-1)/g.Stride || k%g.Stride%g.Block != 0) {
				t.Fatalf("%+v: block %d at %d+%d", g, i, off, l)
			}
			at += l
		}
		if at != size {
			t.Fatalf("%d blocks end at %d, the file at %d", n, at, size)
		}
	})
	for _, g := range []Grid{{}, {Block: 4095}, {Block: 3 << 12}, {Block: 8 << 20}, {Block: 4096, Phase: 4096}, {Block: 4096, Phase: -1},
		{Block: 4096, Stride: 4096}, {Block: 4096, Stride: 8192}, {Block: 4096, Stride: -5000}, {Block: 4096, Stride: 1<<32 + 512}, {Block: 4096, Stride: 5000, Phase: 5000},
	} {
		if g.Check() == nil {
			t.Errorf("%+v passes", g)
		}
	}
}

// drawSection makes a section of random digests, zeros and holes.
func drawSection(t *rapid.T) (g Grid, size int64, digests []Digest, holes []Extent) {
	g = Grid{
		Block: MinBlock, Phase: rapid.SampledFrom([]int64{0, 1, 512, 4095}).Draw(t, "phase"),
		Stride: rapid.SampledFrom([]int64{0, 0, 4608, 9000}).Draw(t, "stride"),
	}
	size = rapid.Int64Range(1, 60*g.Block).Draw(t, "size")
	digests = make([]Digest, g.Count(size))
	for i := range digests {
		if rapid.Bool().Draw(t, "data") {
			digests[i] = Sum(binary.LittleEndian.AppendUint64(nil, uint64(i)))
		}
	}
	for at := int64(0); at < size; {
		gap := rapid.Int64Range(0, 10000).Draw(t, "gap")
		if gap == 0 && len(holes) > 0 {
			gap = 1
		}
		l := rapid.Int64Range(1, 10000).Draw(t, "length")
		if at+gap+l > size {
			break
		}
		holes = append(holes, Extent{at + gap, l})
		at += gap + l
	}
	return g, size, digests, holes
}

func TestTableRoundTrip(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		g, size, digests, data := drawSection(t)
		var buf bytes.Buffer
		w := NewSectionWriter(&buf, g, size)
		for i := 0; i < len(digests); {
			n := rapid.IntRange(1, len(digests)-i).Draw(t, "n")
			w.Add(digests[i : i+n])
			i += n
		}
		sparse := rapid.Bool().Draw(t, "sparse")
		if !sparse {
			data = nil
		}
		d, blocks, length, err := w.Close(sparse, data)
		if err != nil || length != int64(buf.Len()) {
			t.Fatal(length, buf.Len(), err)
		}
		tab, err := OpenTable(bytes.NewReader(buf.Bytes()), g, size, blocks, length)
		if err != nil {
			t.Fatal(err)
		}
		if tab.Holes != sparse || len(tab.Data) != len(data) || len(data) > 0 && !reflect.DeepEqual(tab.Data, data) {
			t.Fatalf("data runs %v, want %v", tab.Data, data)
		}
		if s, err := tab.Sum(); err != nil || s != d {
			t.Fatalf("sum %s, %v, want %s", s, err, d)
		}
		first := rapid.IntRange(0, len(digests)).Draw(t, "first")
		n := rapid.IntRange(0, len(digests)-first).Draw(t, "count")
		got := make([]Digest, n)
		if err := tab.Read(int64(first), got); err != nil {
			t.Fatal(err)
		}
		for i := range got {
			if got[i] != digests[first+i] {
				t.Fatalf("block %d has %s, want %s", first+i, got[i], digests[first+i])
			}
		}
		var ord int64
		for i, want := range digests {
			o, ok := tab.Ordinal(int64(i))
			if o != ord || ok == want.IsZero() {
				t.Fatalf("ordinal of block %d: %d %v, want %d", i, o, ok, ord)
			}
			if ok {
				if b := tab.Block(ord); b != int64(i) {
					t.Fatalf("digest %d is of block %d, want %d", ord, b, i)
				}
				ord++
			}
		}
		if tab.Read(int64(len(digests)), make([]Digest, 1)) == nil {
			t.Fatal("a block behind the end was read")
		}
	})
}

// The digest of a member commits to size, grid, digests and runs, and not to holes.
func TestSectionDigest(t *testing.T) {
	sum := func(g Grid, size int64, holes bool, ds ...Digest) Digest {
		w := NewSectionWriter(&bytes.Buffer{}, g, size)
		w.Add(ds)
		d, _, _, err := w.Close(holes, nil)
		if err != nil {
			t.Fatal(err)
		}
		return d
	}
	a, b, z := Sum([]byte("a")), Sum([]byte("b")), Digest{}
	g := Grid{Block: 4096}
	base := sum(g, 12288, false, a, b, z)
	if sum(g, 12288, true, a, b, z) != base {
		t.Error("holes change the digest")
	}
	for name, d := range map[string]Digest{
		"size": sum(g, 12287, false, a, b, z), "order": sum(g, 12288, false, b, a, z), "place of zeros": sum(g, 12288, false, a, z, b),
		"block size": sum(Grid{Block: 8192}, 12288, false, a, b, z), "phase": sum(Grid{Block: 4096, Phase: 1}, 12288, false, a, b, z),
	} {
		if d == base {
			t.Errorf("%s does not change the digest", name)
		}
	}
}

func FuzzOpenTable(f *testing.F) {
	var buf bytes.Buffer
	w := NewSectionWriter(&buf, Grid{Block: 4096}, 5*4096)
	w.Add([]Digest{{}, {1}, {2}, {}, {3}})
	_, blocks, _, err := w.Close(true, []Extent{{4096, 8192}, {16384, 4096}})
	if err != nil {
		f.Fatal(err)
	}
	f.Add(buf.Bytes(), int64(5*4096), blocks, int64(0))
	f.Add(buf.Bytes(), int64(5*4096), blocks, int64(512))
	f.Fuzz(func(t *testing.T, b []byte, size, blocks, phase int64) {
		g := Grid{Block: 4096, Phase: phase}
		tab, err := OpenTable(bytes.NewReader(b), g, size, blocks, int64(len(b)))
		if err != nil {
			if !errors.Is(err, ErrTable) {
				t.Fatalf("error without its class: %v", err)
			}
			return
		}
		if size > 1<<24 {
			return
		}
		// What was accepted is written again to the same bytes, as far as varints have one form.
		ds := make([]Digest, g.Count(size))
		if err := tab.Read(0, ds); err != nil {
			t.Fatal(err)
		}
		for i, d := range ds {
			_, ok := tab.Ordinal(int64(i))
			if d.IsZero() && ok {
				return // a digest of zeros stands for nothing that a writer writes
			}
		}
		var again bytes.Buffer
		w := NewSectionWriter(&again, g, size)
		w.Add(ds)
		if _, n, _, err := w.Close(tab.Holes, tab.Data); err != nil || n != blocks {
			t.Fatal(n, err)
		}
		if again.Len() > len(b) {
			t.Fatalf("%d bytes became %d", len(b), again.Len())
		}
	})
}

func drawSegment(t *rapid.T) (*SegmentWriter, []Op, []string) {
	var w SegmentWriter
	start := rapid.Int64Range(0, 1<<40).Draw(t, "start")
	w.Reset(start)
	var want []Op
	paths := []string{"vm.vmdk", "a/b", "x\xff"}
	for range rapid.IntRange(0, 30).Draw(t, "ops") {
		k := Kind(rapid.IntRange(0, int(kinds)-1).Draw(t, "kind"))
		op := Op{Kind: k, Length: rapid.Int64Range(1, 1<<18).Draw(t, "length")}
		src := ""
		if k >= Copy {
			op.Source = rapid.IntRange(0, len(paths)-1).Draw(t, "source")
			src = paths[op.Source]
			op.Offset = rapid.Int64Range(0, 1<<42).Draw(t, "offset")
		}
		w.Add(k, op.Length, src, op.Offset)
		want = append(want, op)
	}
	return &w, want, paths
}

func TestSegmentRoundTrip(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		w, want, paths := drawSegment(t)
		full := w.End()
		b := w.AppendHead(nil, full)
		s, err := ParseSegment(b)
		if err != nil {
			t.Fatal(err)
		}
		if s.Head != int64(len(b)) || s.Start != w.Start() || s.End != w.End() || s.Size != full || s.Data != w.DataLen() {
			t.Fatalf("%+v of a segment from %d to %d", s, w.Start(), w.End())
		}
		// Merged or not, the operations say the same of each byte.
		type at struct {
			kind Kind
			src  string
			off  int64
		}
		flat := func(ops []Op, sources []string) map[int64]at {
			m := make(map[int64]at)
			pos := s.Start
			for _, o := range ops {
				if o.Kind == Same && pos >= s.End {
					break
				}
				for _, p := range []int64{0, o.Length - 1} {
					a := at{kind: o.Kind}
					if o.Kind >= Copy {
						a.src, a.off = sources[o.Source], o.Offset+p
					}
					m[pos+p] = a
				}
				pos += o.Length
			}
			return m
		}
		parsed := flat(s.Ops, s.Sources)
		for pos, a := range flat(want, paths) {
			if p, ok := parsed[pos]; ok && p != a {
				t.Fatalf("byte %d is %v, want %v", pos, p, a)
			}
		}
		var n int64
		for _, o := range s.Ops {
			n += o.Length
		}
		if n != s.End-s.Start {
			t.Fatalf("operations of %d bytes for a range of %d", n, s.End-s.Start)
		}
	})
}

func TestSegmentMerges(t *testing.T) {
	var w SegmentWriter
	w.Reset(100)
	w.Add(Data, 10, "", 0)
	w.Add(Data, 20, "", 0)
	w.Add(Copy, 5, "a", 50)
	w.Add(Copy, 5, "a", 55)
	w.Add(Copy, 5, "b", 60)
	w.Add(Self, 5, "a", 65)
	w.Add(Same, 1000, "", 0)
	s, err := ParseSegment(w.AppendHead(nil, 5000))
	if err != nil {
		t.Fatal(err)
	}
	want := []Op{{Data, 30, 0, 0}, {Copy, 10, 0, 50}, {Copy, 5, 1, 60}, {Self, 5, 0, 65}}
	if !reflect.DeepEqual(s.Ops, want) || s.End != 150 || strings.Join(s.Sources, " ") != "a b" {
		t.Errorf("got %+v", s)
	}
}

func TestParseSegmentHostile(t *testing.T) {
	var w SegmentWriter
	w.Reset(0)
	w.Add(Data, 4096, "", 0)
	w.Add(Copy, 4096, "disk", 8192)
	good := w.AppendHead(nil, 8192)
	if _, err := ParseSegment(good); err != nil {
		t.Fatal(err)
	}
	put64 := func(off int, v uint64) func([]byte) {
		return func(b []byte) { binary.LittleEndian.PutUint64(b[off:], v) }
	}
	put32 := func(off int, v uint32) func([]byte) {
		return func(b []byte) { binary.LittleEndian.PutUint32(b[off:], v) }
	}
	for name, change := range map[string]func([]byte){
		"magic":               func(b []byte) { b[0]++ },
		"start behind end":    put64(8, 1<<40),
		"negative end":        put64(16, 1<<63),
		"end behind the size": put64(16, 9000),
		"size too small":      put64(24, 100),
		"head not aligned":    put64(32, 513),
		"head of 2^40":        put64(32, 1<<40),
		"data of 2^60":        put64(40, 1<<60),
		"data too short":      put64(40, 100),
		"2^32-1 sources":      put32(48, 1<<32-1),
		"no sources":          put32(48, 0),
		"2^32-1 operations":   put32(52, 1<<32-1),
		"operations cut":      put32(52, 2),
		"padding":             func(b []byte) { b[len(b)-1] = 1 },
		"reserved operation":  func(b []byte) { b[62] = b[62]&^7 | 5 },
	} {
		b := bytes.Clone(good)
		change(b)
		if s, err := ParseSegment(b); err == nil || !errors.Is(err, ErrSegment) {
			t.Errorf("%s: %+v, %v", name, s, err)
		}
	}
	for n := range good {
		if _, err := ParseSegment(good[:n]); !errors.Is(err, ErrSegment) {
			t.Fatalf("cut at %d: %v", n, err)
		}
	}
}

func FuzzParseSegment(f *testing.F) {
	var w SegmentWriter
	w.Reset(4096)
	w.Add(Data, 4096, "", 0)
	w.Add(Zero, 100, "", 0)
	w.Add(Copy, 4096, "disk", 8192)
	w.Add(Self, 1, "other", 7)
	f.Add(w.AppendHead(nil, 1<<20))
	f.Fuzz(func(t *testing.T, b []byte) {
		s, err := ParseSegment(b)
		if err != nil {
			if !errors.Is(err, ErrSegment) {
				t.Fatalf("error without its class: %v", err)
			}
			return
		}
		// Written again and parsed again it says the same.
		var w SegmentWriter
		w.Reset(s.Start)
		for _, o := range s.Ops {
			src := ""
			if o.Kind >= Copy {
				src = fmt.Sprint(o.Source)
			}
			w.Add(o.Kind, o.Length, src, o.Offset)
		}
		again, err := ParseSegment(w.AppendHead(nil, s.Size))
		if err != nil {
			t.Fatal(err)
		}
		if again.Data != s.Data || again.Start != s.Start || again.End > s.End {
			t.Fatalf("%+v became %+v", s, again)
		}
	})
}

func TestSums(t *testing.T) {
	k := Key{1}
	b := make([]byte, 3*FindUnit+100)
	for i := FindUnit; i < 2*FindUnit; i++ {
		b[i] = byte(i)
	}
	b[len(b)-1] = 9
	s := k.AppendSums(nil, b, 6)
	zero := FindSum{}
	if len(s) != 6 || s[0] != zero || s[1] == zero || s[2] != zero || s[3] == zero || s[4] != zero || s[5] != zero {
		t.Errorf("sums %x", s)
	}
	other := Key{2}
	if other.AppendSums(nil, b, 6)[1] == s[1] {
		t.Error("the key does not matter")
	}
	for _, n := range []int{0, 1, 7, 8, 9, 4096, 65536, 65537, 200000} {
		b := make([]byte, n)
		if !IsZero(b) {
			t.Errorf("%d zero bytes are not zero", n)
		}
		for _, i := range []int{0, n / 2, n - 1} {
			if n > 0 {
				b[i] = 1
				if IsZero(b) {
					t.Errorf("byte %d of %d was not seen", i, n)
				}
				b[i] = 0
			}
		}
	}
}

// An index finds each sum, or a run from any of its indexed places, whether the table is in memory or
// not and whether all places are indexed.
func TestIndex(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	const n = 5000
	table := make([]byte, n*16)
	for i := range n {
		switch {
		case i%7 == 0: // zero: not indexed
		case i%11 == 0:
			copy(table[i*16:], table[(i/2)*16:][:16]) // repeated
		default:
			binary.LittleEndian.PutUint64(table[i*16:], r.Uint64())
			binary.LittleEndian.PutUint64(table[i*16+8:], r.Uint64())
		}
	}
	at := func(i int64) []byte { return table[i*16:][:16] }
	for _, c := range []struct{ entries, loaded int64 }{{n, 1 << 20}, {n, 0}, {700, 1 << 20}, {700, 0}} {
		x, err := newIndex(bytes.NewReader(table), n, 16, c.entries, c.loaded)
		if err != nil {
			t.Fatal(err)
		}
		missed := 0
		for i := range int64(n) {
			pos, ok := x.Lookup(at(i))
			if IsZero(at(i)) {
				if ok {
					t.Fatalf("%+v: a zero sum was found", c)
				}
				continue
			}
			if ok && !bytes.Equal(at(pos), at(i)) {
				t.Fatalf("%+v: position %d is not %d", c, pos, i)
			}
			if !ok {
				missed++
			}
		}
		if x.step == 1 && missed > 0 {
			t.Errorf("%+v: %d of %d not found", c, missed, n)
		}
		if _, ok := x.Lookup(bytes.Repeat([]byte{3}, 16)); ok {
			t.Errorf("%+v: found what is not there", c)
		}
		// A moved run is found as one run.
		var sums [][]byte
		var want []bool
		for i := int64(1001); i < 1060; i++ {
			sums = append(sums, at(i))
			want = append(want, !IsZero(at(i)))
		}
		pos := make([]int64, len(sums))
		x.Find(sums, want, pos)
		found, there := 0, 0
		for i, p := range pos {
			if want[i] {
				there++
			}
			if p >= 0 {
				found++
				if !bytes.Equal(at(p), sums[i]) {
					t.Fatalf("%+v: position %d is wrong", c, p)
				}
			}
		}
		// Zero and repeated sums cut the run in pieces of six and less, so a step of eight misses some.
		if x.step == 1 && found != there || found < there/2 {
			t.Errorf("%+v: %d of %d found", c, found, there)
		}
	}
}

func TestIndexReadError(t *testing.T) {
	if _, err := NewIndex(bytes.NewReader(make([]byte, 100)), 10, 16); err == nil {
		t.Error("a table that is too short was indexed")
	}
}

func TestSelfIndex(t *testing.T) {
	var s SelfIndex
	sum := func(i int) FindSum {
		d := Sum(binary.LittleEndian.AppendUint64(nil, uint64(i)))
		return FindSum(d[:16])
	}
	if _, ok := s.Lookup(sum(1)); ok {
		t.Fatal("found in nothing")
	}
	const n = 100_000
	for i := range n {
		s.Put(sum(i), Place{1, int64(i)})
		s.Put(sum(i), Place{2, 0}) // the first place counts
	}
	for i := range n {
		if p, ok := s.Lookup(sum(i)); !ok || p != (Place{1, int64(i)}) {
			t.Fatalf("sum %d: %v %v", i, p, ok)
		}
	}
	// When it is full it stays as large as it is, and knows what came last.
	for i := range 2 * maxSelf {
		s.Put(sum(i), Place{1, int64(i)})
	}
	if len(s.sums) != maxSelf {
		t.Errorf("%d slots", len(s.sums))
	}
	last := 2*maxSelf - 1
	if p, ok := s.Lookup(sum(last)); !ok || p.Offset != int64(last) {
		t.Errorf("the last sum: %v %v", p, ok)
	}
}

func BenchmarkSum64K(b *testing.B) {
	buf := make([]byte, 64<<10)
	rand.NewChaCha8([32]byte{}).Read(buf)
	b.SetBytes(int64(len(buf)))
	for b.Loop() {
		Sum(buf)
	}
}

func BenchmarkFindSums64K(b *testing.B) {
	buf := make([]byte, 64<<10)
	rand.NewChaCha8([32]byte{}).Read(buf)
	var k Key
	sums := make([]FindSum, 0, 16)
	b.SetBytes(int64(len(buf)))
	for b.Loop() {
		sums = k.AppendSums(sums[:0], buf, 16)
	}
}
