package formats_test

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"tarvm/formats"
	"tarvm/formats/formatstest"
)

// A layer is an image in memory: runs of 100 bytes, one letter each.
//
//	d data, c compressed, z zero, h hole, p parent
type layer struct {
	runs string
	size int64
	fill byte
	err  error // of the runs 'e'
	// how often a unit was decoded
	inflated *atomic.Int64
}

const run = 100

func (l layer) Size() int64 { return l.size }

func (l layer) MapAt(off int64) (formats.Extent, error) {
	if off < 0 || off >= l.size {
		return formats.Extent{}, io.EOF
	}
	i := off / run
	e := formats.Extent{Offset: i * run, Length: min(run, l.size-i*run)}
	switch l.runs[i] {
	case 'd':
		e.Kind, e.Host = formats.Data, i*run
	case 'c':
		e.Kind, e.Host, e.Stored = formats.Compressed, 1000+i, 10
	case 'z':
		e.Kind = formats.Zero
	case 'h':
		e.Kind = formats.Hole
	case 'p':
		e.Kind = formats.Parent
	case 'e':
		return formats.Extent{}, l.err
	case 'b': // a run that does not hold off
		e.Offset += run
	}
	return e, nil
}

func (l layer) image() *formats.Image {
	data := bytes.Repeat([]byte{l.fill}, int(max(l.size, 0)))
	m := &formats.Image{Header: formats.Header{Format: "letters"}, Map: l, Files: []formats.Source{bytes.NewReader(data)}}
	m.Inflate = func(e formats.Extent, dst []byte) error {
		if int64(len(dst)) != e.Length || e.Offset%run != 0 {
			return fmt.Errorf("asked for %d bytes of %+v", len(dst), e)
		}
		if l.inflated != nil {
			l.inflated.Add(1)
		}
		for i := range dst {
			dst[i] = l.fill + 1
		}
		return nil
	}
	if strings.Contains(l.runs, "p") {
		m.Parent = &formats.ParentRef{}
	}
	return m
}

func want(layers ...layer) []byte {
	b := make([]byte, layers[0].size)
	for off := range b {
	down:
		for _, l := range layers {
			if int64(off) >= l.size {
				break
			}
			switch l.runs[off/run] {
			case 'd':
				b[off] = l.fill
				break down
			case 'c':
				b[off] = l.fill + 1
				break down
			case 'z', 'h':
				break down
			}
		}
	}
	return b
}

func TestDiskOfLayers(t *testing.T) {
	for _, c := range [][]layer{
		{{runs: "d", size: 1, fill: 'a'}},
		{{runs: "dczhdd", size: 555, fill: 'a'}},
		{{runs: "pppp", size: 400, fill: 'a'}, {runs: "dczh", size: 400, fill: 'k'}},
		{{runs: "dpppp", size: 450, fill: 'a'}, {runs: "dcd", size: 222, fill: 'k'}},
		{{runs: "pp", size: 150, fill: 'a'}, {runs: "cccc", size: 400, fill: 'k'}},
		{{runs: "pppppp", size: 600, fill: 'a'}, {runs: "zpcpd", size: 500, fill: 'k'}, {runs: "dddddd", size: 600, fill: 't'}},
		{{runs: "", size: 0}},
	} {
		var images []*formats.Image
		for _, l := range c {
			images = append(images, l.image())
		}
		d, err := formats.NewDisk(images...)
		if err != nil {
			t.Fatal(err)
		}
		formatstest.CheckDisk(t, d, bytes.NewReader(want(c...)))
		if d.Info().Depth != len(c)-1 || d.Info().Format != "letters" || d.Close() != nil {
			t.Errorf("%+v", d.Info())
		}
	}
}

func TestDiskExtents(t *testing.T) {
	top := layer{runs: "ddppppp", size: 700, fill: 'a'}
	base := layer{runs: "hhdczz", size: 520, fill: 'k'}
	d := formatstest.Disk(t, top.image(), base.image())
	var got []string
	for e, err := range d.Extents(50, 1000) {
		if err != nil {
			t.Fatal(err)
		}
		got = append(got, fmt.Sprint(e.Offset, e.Length, e.Kind, e.Host, e.Depth))
	}
	if s, w := strings.Join(got, "; "), "50 150 data 50 0; 200 100 data 200 1; 300 100 compressed 1003 1; 400 120 zero 0 1; 520 180 hole 0 1"; s != w {
		t.Errorf("got  %s\nwant %s", s, w)
	}
	for range d.Extents(0, 700) {
		break // must not go on
	}
	for _, c := range [][2]int64{{-1, 5}, {0, -1}} {
		for _, err := range d.Extents(c[0], c[1]) {
			if err == nil {
				t.Errorf("extents of %v", c)
			}
		}
	}
	for e := range d.Extents(700, 1) {
		t.Errorf("behind the end: %+v", e)
	}
	for e := range d.Extents(5, 1<<63-1) {
		if e.Offset != 5 {
			t.Errorf("%+v", e)
		}
		break
	}
}

func TestDiskErrors(t *testing.T) {
	if _, err := formats.NewDisk(); err == nil {
		t.Error("a disk of nothing")
	}
	if _, err := formats.NewDisk(layer{runs: "d", size: 1}.image(), layer{runs: "d", size: 1}.image()); err == nil {
		t.Error("a base with a parent")
	}
	if _, err := formats.NewDisk(layer{size: -1}.image()); !errors.Is(err, formats.ErrCorrupt) {
		t.Errorf("a disk of -1 bytes: %v", err)
	}
	alone := formatstest.Disk(t, layer{runs: "dp", size: 200}.image())
	if _, err := alone.ReadAt(make([]byte, 150), 0); !errors.Is(err, formats.ErrNoParent) {
		t.Errorf("a delta alone: %v", err)
	}
	if x := formatstest.CheckExtents(t, alone); len(x) != 2 || x[1].Kind != formats.Parent {
		t.Errorf("%+v", x)
	}
	broken := errors.New("broken")
	d := formatstest.Disk(t, layer{runs: "dpp", size: 300}.image(), layer{runs: "ded", size: 300, err: broken}.image())
	if n, err := d.ReadAt(make([]byte, 300), 0); n != 100 || !errors.Is(err, broken) || !strings.Contains(err.Error(), "parent 1") {
		t.Errorf("%d, %v", n, err)
	}
	seen := 0
	for e, err := range d.Extents(0, 300) {
		if seen++; seen == 1 && (err != nil || e.Length != 100) || seen == 2 && !errors.Is(err, broken) || seen > 2 {
			t.Errorf("%d: %+v, %v", seen, e, err)
		}
	}
	if _, err := formatstest.Disk(t, layer{runs: "b", size: 100}.image()).ReadAt(make([]byte, 1), 0); err == nil {
		t.Error("a map that answers something else")
	}
	short := layer{runs: "dd", size: 200}.image()
	short.Files[0] = bytes.NewReader(make([]byte, 50))
	if n, err := formatstest.Disk(t, short).ReadAt(make([]byte, 100), 0); n != 0 || !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Errorf("%d, %v", n, err)
	}
	none := layer{runs: "d", size: 100}.image()
	none.Files = nil
	if _, err := formatstest.Disk(t, none).ReadAt(make([]byte, 1), 0); err == nil {
		t.Error("a file that is not there")
	}
}

// TestDiskDecodesOnce: parts of a unit that many ask for are decoded once, and a unit that failed is tried again.
func TestDiskDecodesOnce(t *testing.T) {
	var n atomic.Int64
	m := layer{runs: "cccc", size: 400, fill: 'a', inflated: &n}.image()
	d := formatstest.Disk(t, m)
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			for range 100 {
				var b [10]byte
				if _, err := d.ReadAt(b[:], 2*run+rand.Int64N(90)); err != nil || b != [10]byte(bytes.Repeat([]byte{'b'}, 10)) {
					t.Errorf("%q, %v", b, err)
				}
			}
		})
	}
	wg.Wait()
	if n.Load() != 1 {
		t.Errorf("decoded %d times", n.Load())
	}
	inflate, bad := m.Inflate, true
	m.Inflate = func(e formats.Extent, dst []byte) error {
		if bad {
			return io.ErrClosedPipe
		}
		return inflate(e, dst)
	}
	var b [10]byte
	if _, err := d.ReadAt(b[:], 0); !errors.Is(err, io.ErrClosedPipe) {
		t.Error(err)
	}
	bad = false
	if _, err := d.ReadAt(b[:], 0); err != nil {
		t.Error(err)
	}
}

// big is a disk of compressed units of 1 MiB.
type big struct{}

func (big) Size() int64 { return 1 << 30 }
func (big) MapAt(off int64) (formats.Extent, error) {
	return formats.Extent{Offset: off &^ (1<<20 - 1), Length: 1 << 20, Kind: formats.Compressed}, nil
}

func TestDiskCacheIsBounded(t *testing.T) {
	var live, most atomic.Int64
	m := &formats.Image{Map: big{}, Inflate: func(e formats.Extent, dst []byte) error {
		most.Store(max(most.Load(), live.Add(int64(len(dst)))))
		dst[0] = byte(e.Offset >> 20)
		return nil
	}}
	d := formatstest.Disk(t, m)
	var b [1]byte
	for i := range int64(1 << 10) {
		for range 2 {
			if _, err := d.ReadAt(b[:], i<<20); err != nil || b[0] != byte(i) {
				t.Fatalf("%d: %d, %v", i, b[0], err)
			}
		}
	}
	if live.Load() != 1<<30 {
		t.Errorf("%d bytes were decoded: each unit once", live.Load())
	}
	// The oldest are gone, the newest are not.
	before := live.Load()
	if _, err := d.ReadAt(b[:], 1<<30-1<<20); err != nil || live.Load() != before {
		t.Errorf("the last unit was decoded again, %v", err)
	}
	if _, err := d.ReadAt(b[:], 0); err != nil || live.Load() == before {
		t.Errorf("a gigabyte is kept, %v", err)
	}
}
