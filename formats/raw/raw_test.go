package raw_test

import (
	"bytes"
	"errors"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"sync"
	"testing"

	"tarvm/formats"
	"tarvm/formats/formatstest"
	"tarvm/formats/raw"
)

// tile collects the extents of m, which must tile it.
func tile(t *testing.T, m formats.Mapper) []formats.Extent {
	t.Helper()
	var all []formats.Extent
	for off := int64(0); off < m.Size(); {
		e, err := m.MapAt(off)
		if err != nil {
			t.Fatal(err)
		}
		if e.Offset != off || e.Length <= 0 || e.End() > m.Size() {
			t.Fatalf("at %d of %d: %+v", off, m.Size(), e)
		}
		if e.Kind == formats.Data && e.Host != off {
			t.Fatalf("data of a raw disk elsewhere: %+v", e)
		}
		all = append(all, e)
		off = e.End()
	}
	for _, off := range []int64{-1, m.Size(), m.Size() + 1} {
		if _, err := m.MapAt(off); !errors.Is(err, io.EOF) {
			t.Errorf("at %d of %d: %v, want io.EOF", off, m.Size(), err)
		}
	}
	return all
}

func TestMapperWithoutHoles(t *testing.T) {
	for _, n := range []int{0, 1, 513} {
		src := bytes.NewReader(make([]byte, n))
		all := tile(t, raw.NewMapper(src))
		if n > 0 && (len(all) != 1 || all[0].Kind != formats.Data) {
			t.Errorf("%d bytes: %+v", n, all)
		}
		if h := raw.Header(src); h.Format != "raw" || h.VirtualSize != int64(n) || h.Unit != 0 {
			t.Errorf("%+v", h)
		}
	}
}

// runs is a Source with given runs of data.
type runs struct {
	*bytes.Reader
	runs [][2]int64
	err  error
}

func (r runs) DataAt(off int64) (start, end int64, err error) {
	for _, x := range r.runs {
		if x[1] > off {
			return max(off, x[0]), x[1], r.err
		}
	}
	return r.Size(), r.Size(), r.err
}

func TestMapperWithHoles(t *testing.T) {
	src := runs{Reader: bytes.NewReader(make([]byte, 100)), runs: [][2]int64{{10, 20}, {50, 60}}}
	all := tile(t, raw.NewMapper(src))
	want := []formats.Extent{
		{Offset: 0, Length: 10, Kind: formats.Hole},
		{Offset: 10, Length: 10, Kind: formats.Data, Host: 10},
		{Offset: 20, Length: 30, Kind: formats.Hole},
		{Offset: 50, Length: 10, Kind: formats.Data, Host: 50},
		{Offset: 60, Length: 40, Kind: formats.Hole},
	}
	if len(all) != len(want) {
		t.Fatalf("%+v", all)
	}
	for i := range want {
		if all[i] != want[i] {
			t.Errorf("%d: %+v, want %+v", i, all[i], want[i])
		}
	}
}

// stuck answers with a run that ends where it begins.
type stuck struct{ *bytes.Reader }

func (stuck) DataAt(off int64) (start, end int64, err error) { return off, off, nil }

func TestMapperDoesNotTrustItsSource(t *testing.T) {
	b := bytes.NewReader(make([]byte, 100))
	if e, err := raw.NewMapper(stuck{b}).MapAt(5); err == nil {
		t.Errorf("a run without length: %+v", e)
	}
	broken := runs{Reader: b, err: io.ErrClosedPipe}
	if _, err := raw.NewMapper(broken).MapAt(5); !errors.Is(err, io.ErrClosedPipe) {
		t.Error(err)
	}
	long := runs{Reader: b, runs: [][2]int64{{0, 1 << 40}}}
	tile(t, raw.NewMapper(long))
}

// sparseFile makes a file with data at some multiples of 1 MiB.
func sparseFile(t *testing.T, size int64, at ...int64) *os.File {
	t.Helper()
	f, err := os.Create(filepath.Join(t.TempDir(), "disk.raw"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	if err := f.Truncate(size); err != nil {
		t.Fatal(err)
	}
	for _, off := range at {
		if _, err := f.WriteAt(bytes.Repeat([]byte{0xA5}, 64<<10), off); err != nil {
			t.Fatal(err)
		}
	}
	return f
}

func TestFileHoles(t *testing.T) {
	const size = 16<<20 + 1000
	f := sparseFile(t, size, 1<<20, 7<<20)
	src, err := raw.NewFile(f)
	if err != nil {
		t.Fatal(err)
	}
	var holes, data int64
	for _, e := range tile(t, raw.NewMapper(src)) {
		b := make([]byte, e.Length)
		if _, err := src.ReadAt(b, e.Offset); err != nil {
			t.Fatal(err)
		}
		switch e.Kind {
		case formats.Hole:
			holes += e.Length
			if len(bytes.Trim(b, "\x00")) != 0 {
				t.Errorf("a hole with data: %+v", e)
			}
		case formats.Data:
			data += e.Length
		default:
			t.Errorf("%+v", e)
		}
	}
	if holes+data != size || data < 128<<10 {
		t.Errorf("%d bytes of holes, %d of data", holes, data)
	}
	// qemu-img's view of the same file: what it calls data must be data here.
	out := formatstest.Run(t, ".", "qemu-img", "map", "-f", "raw", "--output=json", f.Name())
	checkMap(t, out, raw.NewMapper(src))
}

func TestFileAllHoleAndEmpty(t *testing.T) {
	for _, size := range []int64{0, 1, 5 << 20} {
		src, err := raw.NewFile(sparseFile(t, size))
		if err != nil {
			t.Fatal(err)
		}
		tile(t, raw.NewMapper(src))
	}
}

func TestFileClosed(t *testing.T) {
	f := sparseFile(t, 1<<20)
	src, err := raw.NewFile(f)
	if err != nil {
		t.Fatal(err)
	}
	f.Close()
	if e, err := raw.NewMapper(src).MapAt(0); err == nil && e.Kind == formats.Hole {
		t.Errorf("a closed file has a hole: %+v", e)
	}
}

func TestFileConcurrent(t *testing.T) {
	src, err := raw.NewFile(sparseFile(t, 32<<20, 0, 5<<20, 6<<20, 30<<20))
	if err != nil {
		t.Fatal(err)
	}
	m := raw.NewMapper(src)
	want := make([]formats.Extent, 64)
	for i := range want {
		if want[i], err = m.MapAt(int64(i) << 19); err != nil {
			t.Fatal(err)
		}
	}
	var wg sync.WaitGroup
	for seed := range uint64(8) {
		wg.Go(func() {
			r := rand.New(rand.NewPCG(seed, 0))
			for range 500 {
				i := r.IntN(len(want))
				if e, err := m.MapAt(int64(i) << 19); err != nil || e != want[i] {
					t.Errorf("%d: %+v, %v, want %+v", i, e, err, want[i])
					return
				}
			}
		})
	}
	wg.Wait()
}
