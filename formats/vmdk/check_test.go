package vmdk_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"tarvm/formats"
	"tarvm/formats/formatstest"
	"tarvm/formats/vmdk"
)

// A finding is what a damage must be called by Open, the map, or the check.
type finding struct {
	name string
	do   func(b []byte) []byte
	open error // what Open says; the rest is then not asked
	read error // what reading the whole disk says
	what formats.Severity
	says string
}

func (f finding) check(t *testing.T, b []byte, want []byte) {
	t.Run(f.name, func(t *testing.T) {
		b := f.do(bytes.Clone(b))
		if err := formatstest.CheckOpen(t, vmdk.Format{}, b, formats.OpenOptions{}); f.open != nil {
			if !errors.Is(err, f.open) || !strings.Contains(err.Error(), f.says) {
				t.Errorf("%v, want %v, %q", err, f.open, f.says)
			}
			return
		}
		m := openBytes(t, b, nil)
		d := formatstest.Disk(t, m)
		got := make([]byte, d.Size())
		_, err := d.ReadAt(got, 0)
		if f.read != nil || err != nil {
			if !errors.Is(err, f.read) || f.read == nil {
				t.Errorf("read: %v, want %v", err, f.read)
			}
		} else if want != nil && !bytes.Equal(got, want) {
			t.Error("another disk")
		}
		for _, p := range problems(t, m) {
			if p.Severity == f.what && strings.Contains(p.String(), f.says) {
				return
			}
		}
		t.Errorf("want %v %q, found %v", f.what, f.says, problems(t, m))
	})
}

// put32 patches numbers into an image: offset, value, ...
func put32(pairs ...int) func([]byte) []byte {
	return func(b []byte) []byte {
		for i := 0; i < len(pairs); i += 2 {
			binary.LittleEndian.PutUint32(b[pairs[i]:], uint32(pairs[i+1]))
		}
		return b
	}
}

func fill(from, to int, v byte) func([]byte) []byte {
	return func(b []byte) []byte {
		copy(b[from:to], bytes.Repeat([]byte{v}, to-from))
		return b
	}
}

func cut(n int) func([]byte) []byte { return func(b []byte) []byte { return b[:len(b)-n] } }

// Both copies of directory and table, as qemu-img writes them: what one can
// repair, and what none can.
func TestRedundant(t *testing.T) {
	b := formatstest.Golden(t, "monolithicSparse.vmdk")
	le := binary.LittleEndian
	rgd, gd := int(le.Uint64(b[48:]))*512, int(le.Uint64(b[56:]))*512
	rgt, gt := int(le.Uint32(b[rgd:]))*512, int(le.Uint32(b[gd:]))*512
	want := make([]byte, 8<<20)
	for _, off := range []int{1 << 20, 3 << 20} {
		v := byte(0xa5)
		if off == 3<<20 {
			v = 0x5a
		}
		copy(want[off:], bytes.Repeat([]byte{v}, 64<<10))
	}
	for _, f := range []finding{
		{"directory past the end", put32(56, 1<<30), nil, nil, formats.Note, "the redundant one is used"},
		{"redundant directory past the end", put32(48, 1<<30), nil, nil, formats.Note, "not in the file"},
		{"both past the end", put32(48, 1<<30, 56, 1<<30), formats.ErrCorrupt, nil, 0, "grain directory"},
		{"entry past the end", put32(gd, 1<<30), nil, nil, formats.Note, "the redundant table is used"},
		{"entry in the header", put32(gd, 0x10), nil, nil, formats.Note, "lies in the descriptor"},
		{"entry in the directory", put32(gd, gd/512), nil, nil, formats.Note, "the redundant table is used"},
		{"both entries past the end", put32(gd, 1<<30, rgd, 1<<30), nil, formats.ErrCorrupt, formats.Risk, "passes end"},
		{"redundant entry past the end", put32(rgd, 1<<30), nil, nil, formats.Note, "redundant grain directory"},
		{"redundant entry gone", put32(rgd, 0), nil, nil, formats.Note, "has no table"},
		{"table overwritten", fill(gt, gt+2048, 0xee), nil, nil, formats.Note, "the redundant table"},
		{"one grain past the end", put32(gt+4*16, 1<<30), nil, nil, formats.Note, "the redundant table"},
		{"both tables overwritten", func(b []byte) []byte { return fill(gt, gt+2048, 0xee)(fill(rgt, rgt+2048, 0xee)(b)) },
			nil, formats.ErrCorrupt, formats.Risk, "end of file"},
		{"redundant table overwritten", fill(rgt, rgt+2048, 0xee), nil, nil, formats.Risk,
			"entries are not as in the grain table"},
		{"grain forgotten by the redundant table", put32(rgt+4*16, 0), nil, nil, formats.Risk, "1 entries"},
	} {
		f.check(t, b, want)
	}
	// Both directories may name the same tables.
	clean(t, openBytes(t, put32(rgd, gt/512)(bytes.Clone(b)), nil))
}

func TestHostedDamage(t *testing.T) {
	data := random(4 << 20)
	b := sparse{phase: 9, grains: []int{7, 8, 0, 63}}.build(data)
	const gd, gt, first = 24 * 512, 25 * 512, 128 + 9
	want := keep(data, 64<<10, 7, 8, 0, 63)
	for _, f := range []finding{
		{"whole", put32(), nil, nil, formats.Note, "no descriptor"},
		{"in use", func(b []byte) []byte { b[72] = 1; return b }, nil, nil, formats.Note, "in use"},
		{"grain past the end", put32(gt, 1<<30), nil, formats.ErrCorrupt, formats.Risk, "passes end of file"},
		{"grain in the header", put32(gt, 1), nil, formats.ErrCorrupt, formats.Risk, "entry 0x1"},
		{"grain in the directory", put32(gt, 23), nil, formats.ErrCorrupt, formats.Risk, "lies in the grain directory"},
		{"grain in the table", put32(gt, 28), nil, formats.ErrCorrupt, formats.Risk, "lies in the grain tables"},
		{"grain used twice", put32(gt+4, first), nil, nil, formats.Risk, "used twice"},
		{"grain used in part", put32(gt+4, first+1), nil, nil, formats.Risk, "used twice"},
		{"grain used in part, before", put32(gt+4, first-1), nil, nil, formats.Risk, "used twice"},
		{"grain leaked", put32(gt+4*7, 0), nil, nil, formats.Leak, "1 grains"},
		{"table past the end", put32(gd, 1<<30), nil, formats.ErrCorrupt, formats.Risk, "passes end of file"},
		{"table at the directory", put32(gd, 24), nil, formats.ErrCorrupt, formats.Risk, "lies in the grain directory"},
		{"end cut in a grain", cut(512), nil, formats.ErrCorrupt, formats.Risk, "passes end of file"},
		{"end cut before a grain", cut(64 << 10), nil, formats.ErrCorrupt, formats.Risk, "passes end of file"},
		{"grain table of 2^31", put32(44, 1<<31-1), formats.ErrUnsupported, nil, 0, "grain table size"},
		{"compressed grain of 8 MiB", func(b []byte) []byte { b[10], b[77] = 1, 1; return put32(20, 1<<14)(b) },
			formats.ErrUnsupported, nil, 0, "grain size"},
	} {
		w := want
		if f.what == formats.Leak || strings.HasPrefix(f.name, "grain used") {
			w = nil
		}
		f.check(t, b, w)
	}
	// Two tables in one place.
	const two = 64 << 20
	big := sparse{grains: []int{600}}.build(append(bytes.Clone(data), make([]byte, two-len(data))...))
	finding{"table used twice", put32(gd+4, 25), nil, nil, formats.Risk, "two tables"}.check(t, big, nil)
}

// A last grain may end where the disk ends.
func TestShortLastGrain(t *testing.T) {
	data := random(3<<16 + 512*7)
	b := sparse{grains: []int{0}}.build(append(bytes.Clone(data), make([]byte, 1<<16)...))
	binary.LittleEndian.PutUint64(b[12:], uint64(len(data)/512))
	at := len(b)
	b = append(b, data[3<<16:]...)
	binary.LittleEndian.PutUint32(b[25*512+4*3:], uint32(at/512))
	m := openBytes(t, b, nil)
	want := bytes.Clone(data)
	clear(want[1<<16 : 3<<16])
	formatstest.CheckDisk(t, formatstest.Disk(t, m), bytes.NewReader(want))
	for _, p := range problems(t, m) {
		if p.Severity != formats.Note {
			t.Errorf("%v", p)
		}
	}
	// What is there of a grain that is cut is still read.
	m = openBytes(t, b[:len(b)-512], nil)
	got := make([]byte, len(data)-512)
	if _, err := formatstest.Disk(t, m).ReadAt(got, 0); err != nil || !bytes.Equal(got, want[:len(got)]) {
		t.Errorf("up to the cut: %v", err)
	}
}

func TestStreamDamage(t *testing.T) {
	data := bytes.Repeat([]byte("compressed "), 100000)[:16*64<<10]
	s := stream{version: 3, grains: []int{0, 1, 2, 9}}
	b := s.build(t, data)
	le := binary.LittleEndian
	gd := int(le.Uint64(b[len(b)-1024+56:])) * 512
	gt := int(le.Uint32(b[gd:])) * 512
	at := func(g int) int { return int(le.Uint32(b[gt+4*g:])) * 512 }
	size := func(g int) int { return int(le.Uint32(b[at(g)+8:])) }
	want := keepShort(data, s.grains...)
	for _, f := range []finding{
		{"whole", put32(), nil, nil, formats.Note, "no descriptor"},
		{"marker of another grain", put32(at(2), 7*128), nil, formats.ErrCorrupt, formats.Risk, "is of sector 896"},
		{"marker of size 0", put32(at(2)+8, 0), nil, formats.ErrCorrupt, formats.Risk, "0 bytes"},
		{"marker of a huge size", put32(at(2)+8, 1<<30), nil, formats.ErrCorrupt, formats.Risk, "bytes, at most"},
		{"marker of a short size", put32(at(2)+8, size(2)-1), nil, formats.ErrCorrupt, formats.Risk, "EOF"},
		{"sum", func(b []byte) []byte { b[at(1)+12+size(1)-1] ^= 1; return b }, nil, formats.ErrCorrupt, formats.Risk,
			"checksum"},
		{"data", func(b []byte) []byte { b[at(1)+12+2] ^= 0x55; return b }, nil, formats.ErrCorrupt, formats.Risk,
			"compressed grain"},
		{"no zlib", func(b []byte) []byte { b[at(1)+12] = 0; return b }, nil, formats.ErrCorrupt, formats.Risk, "header"},
		{"entries swapped", put32(gt+4, at(2)/512, gt+8, at(1)/512), nil, formats.ErrCorrupt, formats.Risk, "is of sector"},
		{"grain in the footer", put32(gt+4, len(b)/512-1), nil, formats.ErrCorrupt, formats.Risk, "lies in the footer"},
		{"grain in the table", put32(gt+4, gt/512), nil, formats.ErrCorrupt, formats.Risk, "is of sector"},
		{"grain past the end", put32(gt+4, 1<<30), nil, formats.ErrCorrupt, formats.Risk, "passes end of file"},
		{"no end of stream", cut(512), formats.ErrCorrupt, nil, 0, "cut short"},
		{"no footer marker", fill(len(b)-1536, len(b)-1024, 0), nil, nil, formats.Note, "footer marker"},
		{"end not empty", fill(len(b)-8, len(b), 1), nil, nil, formats.Note, "end of stream"},
		{"header as it was at first", put32(12, 0), nil, nil, formats.Note, "in the footer, which counts"},
	} {
		f.check(t, b, want)
	}
	// Sectors of two grains: the longer size of one reaches into the next, whose
	// place in the file is not behind it.
	b = stream{version: 3, grains: []int{9, 0, 1}}.build(t, data)
	gd = int(le.Uint64(b[len(b)-1024+56:])) * 512
	gt = int(le.Uint32(b[gd:])) * 512
	finding{"grains that overlap", put32(at(9)+8, 600), nil, nil, formats.Risk, "room of another"}.check(t, b,
		keepShort(data, 0, 1, 9))

	// A grain of 128 sectors where the header says 8.
	bomb := stream{version: 1, grains: []int{0}, inside: true}.build(t, data)
	finding{"bomb", put32(20, 8), nil, formats.ErrCorrupt, formats.Risk, "more than a grain"}.check(t, bomb, nil)
}

func TestESXDamage(t *testing.T) {
	data := random(1 << 20)
	c := cowd(1, 3, data, 9, 2, 10)
	const gd, gt, first = 4 * 512, 5 * 512, 67
	for _, f := range []finding{
		{"COWD grain past the end", put32(gt+4*2, 1<<30), nil, formats.ErrNoParent, formats.Risk, "passes end of file"},
		{"COWD grain in the header", put32(gt+4*2, 1), nil, formats.ErrNoParent, formats.Risk, "entry 0x1"},
		{"COWD grain in the table", put32(gt+4*2, 6), nil, formats.ErrNoParent, formats.Risk,
			"lies in the COWD grain tables"},
		{"COWD grain twice", put32(gt+4*2, first), nil, formats.ErrNoParent, formats.Risk, "used twice"},
		{"COWD table in the header", put32(gd, 2), nil, formats.ErrCorrupt, formats.Risk, "lies in the COWD header"},
		{"COWD grain in free room", put32(28, first+1), nil, formats.ErrNoParent, formats.Risk, "free from"},
	} {
		f.check(t, c, nil)
	}
	s := se(data, 9, 2, 10)
	const sgd, sgt = 8 * 512, 9 * 512
	for _, f := range []finding{
		{"seSparse journal", put32(512+24, 1), formats.ErrUnsupported, nil, 0, "journal"},
		{"seSparse volatile header", put32(512, 1), formats.ErrCorrupt, nil, 0, "volatile header"},
		{"seSparse table size", put32(32, 32), formats.ErrUnsupported, nil, 0, "table size"},
		{"seSparse directory gone", put32(128, 0), formats.ErrCorrupt, nil, 0, "grain directory"},
		{"seSparse directory too short", put32(136, 0), formats.ErrCorrupt, nil, 0, "grain directory"},
		{"seSparse directory entry", put32(sgd+4, 0x20000000), nil, formats.ErrCorrupt, formats.Risk, "entry 0x"},
		{"seSparse table past its region", put32(sgd, 1), nil, formats.ErrCorrupt, formats.Risk, "entry 0x"},
		{"seSparse entry", put32(sgt+4, 0x40000000), nil, formats.ErrCorrupt, formats.Risk, "entry 0x"},
		{"seSparse entry without a kind", put32(sgt, 7), nil, formats.ErrCorrupt, formats.Risk, "entry 0x"},
		{"seSparse grain past the end", put32(sgt+8*2, 0xffff), nil, formats.ErrNoParent, formats.Risk, "passes end of file"},
		{"seSparse grain twice", put32(sgt+8*2+4, 3<<28), nil, formats.ErrNoParent, formats.Risk, "used twice"},
		{"seSparse grains end before", put32(24*8+8, 16), nil, formats.ErrNoParent, formats.Note, "the end of the grains"},
		{"seSparse regions overlap", put32(160, 64), nil, formats.ErrNoParent, formats.Risk, "overlaps"},
	} {
		f.check(t, s, nil)
	}
}

// Extents that are not what the descriptor says.
func TestDescriptorDamage(t *testing.T) {
	data := random(1 << 20)
	files := map[string][]byte{"flat": data, "s1": sparse{grains: []int{1}}.build(data[:512<<10])}
	for _, c := range []struct {
		name, extents string
		read          error
		what          formats.Severity
		says          string
	}{
		{"flat too short", `RW 2049 FLAT "flat" 0`, formats.ErrCorrupt, formats.Risk, "end of file"},
		{"flat behind the end", `RW 1 FLAT "flat" 4096`, formats.ErrCorrupt, formats.Risk, "end of file"},
		{"flat too long", `RW 2047 FLAT "flat" 0`, nil, formats.Note, "512 bytes more"},
		{"flat twice", "RW 20 FLAT \"flat\" 0\nRW 1 FLAT \"flat\" 19", nil, formats.Risk, "one file"},
		{"sparse twice", "RW 1024 SPARSE \"s1\"\nRW 1024 SPARSE \"s1\"", nil, formats.Risk, "one file"},
		{"sparse too short", `RW 1025 SPARSE "s1"`, formats.ErrCorrupt, formats.Risk, "in its header"},
		{"sparse too long", `RW 1023 SPARSE "s1"`, nil, formats.Note, "in its header"},
	} {
		t.Run(c.name, func(t *testing.T) {
			b := []byte("# Disk DescriptorFile\nCID=00000001\n" + c.extents + "\n")
			err := formatstest.CheckOpen(t, vmdk.Format{}, b, formats.OpenOptions{Find: formatstest.Sources(files)})
			if !errors.Is(err, c.read) || c.read == nil && err != nil {
				t.Errorf("%v, want %v", err, c.read)
			}
			list := problems(t, openBytes(t, b, files))
			for _, p := range list {
				if p.Severity == c.what && strings.Contains(p.Text, c.says) {
					return
				}
			}
			t.Errorf("want %v %q, found %v", c.what, c.says, list)
		})
	}
}

// Thousands of problems are not reported one by one.
func TestManyProblems(t *testing.T) {
	b := sparse{grains: []int{0}}.build(make([]byte, 32<<20))
	for i := range 512 {
		binary.LittleEndian.PutUint32(b[25*512+4*i:], 1<<30)
	}
	list := problems(t, openBytes(t, b, nil))
	if n := len(list); n != 102 || list[n-1].Text != "412 more of this kind" || list[n-1].Severity != formats.Risk {
		t.Errorf("%d problems, the last %v", n, list[n-1])
	}
}

func TestCheckCancel(t *testing.T) {
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	for _, b := range hostile(t) {
		m := openBytes(t, b, nil)
		if err := m.Check(ctx, func(formats.Problem) {}); !errors.Is(err, context.Canceled) {
			t.Errorf("%v", err)
		}
	}
}

// hostile is one image of each kind that is one file.
func hostile(t testing.TB) [][]byte {
	data := bytes.Repeat([]byte("some guest data "), 1<<16)
	return [][]byte{
		formatstest.Golden(t, "monolithicSparse.vmdk"), formatstest.Golden(t, "streamOptimized.vmdk"),
		sparse{phase: 3, grains: []int{0, 5}, desc: descriptor("monolithicSparse", "RW 2048 SPARSE \"x\"")}.build(data),
		sparse{phase: 3, grains: []int{0, 5}, footer: true}.build(data),
		stream{version: 3, grains: []int{0, 1, 5}}.build(t, data),
		stream{version: 1, grains: []int{5, 0}, inside: true}.build(t, data),
		cowd(8, 3, data, 0, 5), cowd(1, 0, data, 0, 5, 6), se(data, 0, 5, 6),
	}
}

// Each bit of the headers, directories and tables flipped, one at a time.
func TestBitFlips(t *testing.T) {
	formatstest.OneGoroutine(t)
	for n, b := range hostile(t) {
		var places []int
		add := func(from, to int) {
			for i := max(from, 0); i < min(to, len(b)); i++ {
				places = append(places, i)
			}
		}
		if n == 8 {
			add(0, 208)
		} else {
			add(0, 80)
		}
		if n == 7 || n == 6 {
			add(4*512, 4*512+8)
			add(5*512, 5*512+32)
		} else {
			add(8*512, 8*512+8)
			add(9*512, 9*512+64)
			add(21*512, 21*512+4)
			add(24*512, 24*512+4)
			add(25*512, 25*512+32)
		}
		add(512, 512+48)
		add(len(b)-1536, len(b)-1536+16)
		add(len(b)-1024, len(b)-1024+80)
		for _, i := range places {
			for bit := range 8 {
				b[i] ^= 1 << bit
				_ = formatstest.CheckOpen(t, vmdk.Format{}, b, formats.OpenOptions{})
				b[i] ^= 1 << bit
			}
		}
	}
}

// Images cut at, before and behind each structure.
func TestOpenTruncated(t *testing.T) {
	for i, b := range hostile(t) {
		for at := 0; at < len(b); at += 512 {
			if at > 64<<10 && at < len(b)-4096 && at/512%61 != 0 {
				continue
			}
			for _, n := range []int{at - 1, at, at + 1} {
				if n < 0 || n >= len(b) {
					continue
				}
				err := formatstest.CheckOpen(t, vmdk.Format{}, b[:n], formats.OpenOptions{})
				if err == nil && n < len(b)-64<<10-1024 && i != 2 {
					t.Errorf("image %d, %d bytes of %d: read as if whole", i, n, len(b))
				}
			}
		}
	}
}

// A failing medium is no damage.
type failing struct {
	*bytes.Reader
	from int64
}

func (f *failing) ReadAt(p []byte, off int64) (int, error) {
	if off+int64(len(p)) > f.from {
		return 0, os.ErrDeadlineExceeded
	}
	return f.Reader.ReadAt(p, off)
}

func TestMediumFails(t *testing.T) {
	for i, b := range hostile(t) {
		for _, from := range []int64{0, 100, 512, 4096, 12 << 10, 16 << 10, 64 << 10, 80 << 10} {
			src := &failing{bytes.NewReader(b), from}
			m, err := vmdk.Format{}.Open(src, formats.OpenOptions{})
			if err == nil {
				err = m.Check(context.Background(), func(p formats.Problem) {
					if p.Severity == formats.Risk {
						t.Errorf("image %d from %d: %v", i, from, p)
					}
				})
			}
			if errors.Is(err, formats.ErrCorrupt) || errors.Is(err, formats.ErrNotFormat) {
				t.Errorf("image %d from %d: %v", i, from, err)
			}
		}
	}
}

// What others made, read as qemu reads it.
func TestOpenCorpus(t *testing.T) {
	dir := "../../../shared/corpus/images"
	samples := formatstest.Corpus(t, dir, 32<<20)
	byName := map[string][]byte{}
	for _, s := range samples {
		byName[s.Path] = s.Bytes
	}
	n := 0
	for _, s := range samples {
		if h, err := (vmdk.Format{}).Probe(bytes.NewReader(s.Bytes)); errors.Is(err, formats.ErrNotFormat) || h == nil {
			continue
		}
		n++
		t.Run(s.Path, func(t *testing.T) {
			find := func(name string) (formats.Source, error) {
				b, ok := byName[filepath.ToSlash(filepath.Join(filepath.Dir(s.Path), filepath.Base(name)))]
				if ok {
					return bytes.NewReader(b), nil
				}
				// Flat extents are beside their descriptors, but not in the index.
				b, err := os.ReadFile(filepath.Join(dir, filepath.Dir(s.Path), filepath.Base(name)))
				return bytes.NewReader(b), err
			}
			_ = formatstest.CheckOpen(t, vmdk.Format{}, s.Bytes, formats.OpenOptions{Find: find})
			m, err := vmdk.Format{}.Open(bytes.NewReader(s.Bytes), formats.OpenOptions{Find: find})
			if s.Format != "vmdk" {
				t.Logf("not for qemu: %v", err)
				if err == nil {
					t.Log(problems(t, m))
				}
				return
			}
			if errors.Is(err, os.ErrNotExist) {
				t.Skip(err)
			}
			if err != nil {
				t.Fatal(err)
			}
			for _, p := range problems(t, m) {
				if p.Severity == formats.Risk {
					t.Errorf("%v", p)
				} else {
					t.Logf("%v: %v", p.Severity, p)
				}
			}
			path, err := filepath.Abs(filepath.Join(dir, s.Path))
			if err != nil {
				t.Fatal(err)
			}
			formatstest.CheckDisk(t, formatstest.Disk(t, m), formatstest.QemuRaw(t, "vmdk", path))
		})
	}
	if n < 10 {
		t.Errorf("only %d samples", n)
	}
}

// Grains that are compressed, but have no markers.
func TestNoMarkers(t *testing.T) {
	data := bytes.Repeat([]byte("some guest data "), 1<<16)
	b := stream{version: 1, grains: []int{5, 0}, inside: true}.build(t, data)
	le := binary.LittleEndian
	gd := int(le.Uint64(b[56:])) * 512
	gt := int(le.Uint32(b[gd:])) * 512
	for _, g := range []int{5, 0} {
		at := int(le.Uint32(b[gt+4*g:])) * 512
		copy(b[at:], b[at+12:][:le.Uint32(b[at+8:])])
	}
	b[10] &^= 2
	m := openBytes(t, b, nil)
	formatstest.CheckDisk(t, formatstest.Disk(t, m), bytes.NewReader(keep(data, 64<<10, 5, 0)))
	for _, p := range problems(t, m) {
		if p.Severity != formats.Note {
			t.Error(p)
		}
	}
	b[int(le.Uint32(b[gt:]))*512+40] ^= 0x10
	if err := formatstest.CheckOpen(t, vmdk.Format{}, b, formats.OpenOptions{}); !errors.Is(err, formats.ErrCorrupt) {
		t.Errorf("damaged: %v", err)
	}
}

func BenchmarkInflate(b *testing.B) {
	const size, letters = 16 << 20, "aaaaeeeiiootnrsdlhcu \n\x00\x00\x01\x02"
	data := make([]byte, size)
	r := rand.New(rand.NewPCG(1, 2))
	for i := range data {
		data[i] = letters[r.IntN(len(letters))]
	}
	var grains []int
	for g := range size / grain / 512 {
		grains = append(grains, g)
	}
	m := openBytes(b, stream{version: 3, grains: grains}.build(b, data), nil)
	b.SetBytes(size)
	b.ReportAllocs()
	for b.Loop() {
		var wg sync.WaitGroup
		for w := range 2 {
			wg.Go(func() {
				dst := make([]byte, grain*512)
				for g := w; g < len(grains); g += 2 {
					e, err := m.Map.MapAt(int64(g) * grain * 512)
					if err == nil {
						err = m.Inflate(e, dst)
					}
					if err != nil {
						b.Error(err)
						return
					}
				}
			})
		}
		wg.Wait()
	}
}

func FuzzOpen(f *testing.F) {
	list := append(hostile(f), []byte(descriptor("custom", "RW 100 FLAT \"x\" 3\nRW 4 ZERO\nRW 8 FLAT \"y\"")))
	formatstest.FuzzOpen(f, vmdk.Format{}, list, nil)
}
