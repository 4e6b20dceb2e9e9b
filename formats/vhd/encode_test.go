package vhd_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"

	"tarvm/formats"
	"tarvm/formats/formatstest"
	"tarvm/formats/vhd"
)

var _ formats.Encoder = vhd.Format{}

var testID = [16]byte{0xf8, 0x4f, 0x16, 0x36, 0xcd, 0x9e, 0x90, 0x41, 0xa6, 0x9e, 0xdc, 0xc2, 0x38, 0x0e, 0x41, 0x6a}

const testIDText = "f84f1636-cd9e-9041-a69e-dcc2380e416a"

// padded is b with zeros up to size.
func padded(b []byte, size int64) formats.Source {
	return bytes.NewReader(append(bytes.Clone(b), make([]byte, size-int64(len(b)))...))
}

func roundUp(n, to int64) int64 { return (n + to - 1) / to * to }

// What is written is read back here and by qemu, libvhdi and 7-Zip.
func TestEncode(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		subformat string
		unit      int64
		round     int64 // of the size; 0: 512
		sizes     []int64
	}{
		{"", 0, 0, []int64{0, 1, 511, 512, 513, 2<<20 - 1, 2 << 20, 2<<20 + 1, 5<<20 + 12345}},
		{"dynamic", 512 << 10, 0, []int64{512 << 10, 512<<10 + 512, 5<<20 - 512}},
		{"dynamic", 4 << 20, 0, []int64{9<<20 + 512}}, // bitmaps of two sectors
		{"fixed", 0, 0, []int64{0, 1, 512, 1 << 20, 1<<20 + 512, 5<<20 - 700}},
		{"fixed", 1 << 20, 1 << 20, []int64{0, 1, 1 << 20, 1<<20 + 512, 5<<20 - 700}},
	} {
		for i, size := range c.sizes {
			t.Run(fmt.Sprint(c.subformat, " ", c.unit, " ", size), func(t *testing.T) {
				p := formatstest.NewPattern(t, uint64(size), size)
				path := formatstest.Encode(t, vhd.Format{}, "a.vhd", p, formats.EncodeOptions{
					Subformat: c.subformat, Unit: c.unit, ID: testID, Unix: 1600000000,
				})
				m := formatstest.OpenFile(t, vhd.Format{}, path)
				noProblems(t, m)
				want := padded(p.Bytes, roundUp(size, max(c.round, 512)))
				if m.ID != testIDText || !slices.Contains(m.Facts, formats.Fact{Name: "timestamp", Value: "2020-09-13T12:26:40Z"}) {
					t.Errorf("%q, %v", m.ID, m.Facts)
				}
				d := formatstest.Disk(t, m)
				formatstest.CheckDisk(t, d, want)
				st, err := os.Stat(path)
				if err != nil {
					t.Fatal(err)
				}
				switch {
				case c.subformat == "fixed" && st.Size() != want.Size()+512:
					t.Errorf("file of %d bytes", st.Size())
				case c.subformat != "fixed" && c.unit <= 2<<20 && st.Size()%4096 != 0:
					t.Errorf("file of %d bytes: the next block would not be aligned", st.Size())
				}
				for e := range d.Extents(0, d.Size()) {
					if e.Kind == formats.Data && e.Host%4096 != 0 {
						t.Errorf("%+v is not aligned", e)
					}
				}
				if size == 0 {
					return // others do not like it
				}
				formatstest.CheckDisk(t, d, formatstest.QemuRaw(t, "vpc", path))
				if i < len(c.sizes)-1 {
					return
				}
				t.Run("7-Zip", func(t *testing.T) { formatstest.CheckDisk(t, d, formatstest.SevenZipRaw(t, path)) })
				t.Run("libyal", func(t *testing.T) { formatstest.CheckDisk(t, d, formatstest.LibyalRaw(t, "pyvhdi", path)) })
			})
		}
	}
}

// qemu can write to what is written here, and leaves nothing that is wrong.
func TestQemuWritesToWhatIsWritten(t *testing.T) {
	t.Parallel()
	for _, size := range []int64{9 << 20, 9<<20 + 512} {
		for _, d := range []formats.Disk{empty(t, size), formatstest.NewPattern(t, 6, size)} {
			path := formatstest.Encode(t, vhd.Format{}, "a.vhd", d, formats.EncodeOptions{})
			formatstest.Run(t, ".", "qemu-io", "-f", "vpc", "-c", "write -P 0x11 8M 1M", "-c", "write -P 0x22 1000k 3000k", path)
			want := make([]byte, size)
			if _, err := d.ReadAt(want, 0); err != nil {
				t.Fatal(err)
			}
			copy(want[8<<20:], bytes.Repeat([]byte{0x11}, 1<<20))
			copy(want[1000<<10:], bytes.Repeat([]byte{0x22}, 3000<<10))
			m := formatstest.OpenFile(t, vhd.Format{}, path)
			noProblems(t, m)
			formatstest.CheckDisk(t, formatstest.Disk(t, m), bytes.NewReader(want))
		}
	}
}

// A child holds the sectors that differ, and no others; 7-Zip reads child and
// parent as the disk that was written. So does libvhdi where its fault does not
// show (see TestDifferencing).
func TestEncodeDifferencing(t *testing.T) {
	t.Parallel()
	const size = 9<<20 + 512*5
	base := formatstest.NewPattern(t, 5, size)
	for _, c := range []struct {
		name   string
		size   int64
		change func(b []byte) // nil: Pattern.Changed
		libyal bool
	}{
		{"changes", size, nil, false},
		{"longer", size + 3<<20, nil, false},
		{"shorter", size - 3<<20 - 100, nil, false},
		{"nothing", size, func([]byte) {}, false},
		{"first and last sector", size, func(b []byte) { b[0]++; b[len(b)-1]++ }, false},
		{"zeros", size, func(b []byte) { clear(b[1<<20 : 7<<20]) }, false},
		{"whole bytes of the bitmap", size, func(b []byte) {
			fillOnes(b[64<<10:][:256<<10])
			fillOnes(b[5<<20:][:4096])
		}, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			parentPath := formatstest.Encode(t, vhd.Format{}, "base.vhd", base, formats.EncodeOptions{ID: [16]byte{1, 2, 3}})
			parent := formatstest.OpenFile(t, vhd.Format{}, parentPath)
			p := base.Changed(t, 3, c.size)
			if c.change != nil {
				copy(p.Bytes, base.Bytes)
				c.change(p.Bytes)
			}
			path := formatstest.Encode(t, vhd.Format{}, "child.vhd", p, formats.EncodeOptions{
				Subformat: "differencing", ID: testID, Base: formatstest.Disk(t, parent),
				Parent: &formats.ParentRef{Names: []string{`C:\vm\base.vhd`, "base.vhd"}, Format: "vpc", ID: parent.ID},
			})
			m := formatstest.OpenFile(t, vhd.Format{}, path)
			noProblems(t, m)
			ref := &formats.ParentRef{
				Names: []string{`.\base.vhd`, `C:\vm\base.vhd`}, Format: "vpc", ID: "01020300-0000-0000-0000-000000000000",
			}
			if !reflect.DeepEqual(m.Parent, ref) || m.Subformat != "differencing" || m.ParentHint != `C:\vm\base.vhd` {
				t.Errorf("%+v, %+v", m.Parent, m.Header)
			}
			d := formatstest.Disk(t, m, parent)
			want := padded(p.Bytes, roundUp(c.size, 512))
			formatstest.CheckDisk(t, d, want)
			now, was := make([]byte, 512), make([]byte, 512)
			for e, err := range d.Extents(0, d.Size()) {
				if err != nil {
					t.Fatal(err)
				}
				for off := e.Offset; off < e.End(); off += 512 {
					clear(was)
					if off < base.Size() {
						copy(was, base.Bytes[off:])
					}
					if _, err := want.ReadAt(now, off); err != nil {
						t.Fatal(err)
					}
					if stored := e.Depth == 0 && e.Kind == formats.Data; stored != !bytes.Equal(now, was) {
						t.Fatalf("sector at %d: stored %t", off, stored)
					}
				}
			}
			data, err := os.ReadFile(parentPath)
			if err != nil {
				t.Fatal(err)
			}
			write(t, filepath.Join(filepath.Dir(path), "base.vhd"), data)
			if c.size == size {
				t.Run("7-Zip", func(t *testing.T) { formatstest.CheckDisk(t, d, formatstest.SevenZipRaw(t, path)) })
			}
			if c.libyal {
				t.Run("libyal", func(t *testing.T) {
					formatstest.CheckDisk(t, d, formatstest.LibyalRaw(t, "pyvhdi", path, parentPath))
				})
			}
		})
	}
}

func fillOnes(b []byte) {
	for i := range b {
		b[i] = 0xff
	}
}

// memory is an Output.
type memory struct{ b []byte }

func (m *memory) WriteAt(p []byte, off int64) (int, error) {
	if n := off + int64(len(p)); n > int64(len(m.b)) {
		m.b = append(m.b, make([]byte, n-int64(len(m.b)))...)
	}
	return copy(m.b[off:], p), nil
}

func (m *memory) Truncate(n int64) error {
	m.b = append(m.b, make([]byte, max(0, n-int64(len(m.b))))...)[:n]
	return nil
}

// hole is a disk of zeros.
type hole int64

func (h hole) Size() int64 { return int64(h) }
func (h hole) MapAt(off int64) (formats.Extent, error) {
	if off < 0 || off >= int64(h) {
		return formats.Extent{}, io.EOF
	}
	return formats.Extent{Length: int64(h), Kind: formats.Hole}, nil
}

func empty(t testing.TB, size int64) formats.Disk {
	return formatstest.Disk(t, &formats.Image{Header: formats.Header{Format: "hole"}, Map: hole(size)})
}

func encode(t testing.TB, d formats.Disk, o formats.EncodeOptions) ([]byte, error) {
	t.Helper()
	var out memory
	err := vhd.Format{}.Encode(context.Background(), formats.Outputs{Main: &out, Name: "a.vhd"}, d, o)
	return out.b, err
}

// The footer is, byte for byte, what Windows writes, and so is the header, but
// for where it puts the names and the table.
func TestAsWindowsWrites(t *testing.T) {
	for _, s := range formatstest.Corpus(t, corpus, 16<<20, "vpc") {
		want := s.Bytes
		if len(want) < 2048 || string(want[:8]) != "conectix" || string(want[28:32]) != "win " {
			continue
		}
		t.Run(s.Path, func(t *testing.T) {
			be := binary.BigEndian
			m := open(t, want)
			o := formats.EncodeOptions{Unix: int64(be.Uint32(want[24:])) + 946684800, ID: [16]byte(want[68:84])}
			if m.Parent != nil {
				o.Base, o.Parent = empty(t, m.Map.Size()), m.Parent
			}
			got, err := encode(t, empty(t, m.Map.Size()), o)
			if err != nil {
				t.Fatal(err)
			}
			// Of Windows 8 and later.
			copy(got[32:36], want[32:36])
			copy(got[len(got)-512+32:], want[32:36])
			fix(got)
			if !bytes.Equal(got[:512], want[:512]) || !bytes.Equal(got[len(got)-512:], want[:512]) {
				t.Errorf("footer\n%x\nwant\n%x", got[:512], want[:512])
			}
			h, w := got[512:1536], bytes.Clone(want[512:1536])
			copy(w[16:24], h[16:24])
			copy(w[36:40], h[36:40])
			for i := range 8 {
				at := 576 + 24*i
				if string(w[at:at+4]) != string(h[at:at+4]) {
					t.Errorf("locator %d: %q, want %q", i, h[at:at+4], w[at:at+4])
				}
				copy(w[at+4:at+8], h[at+4:at+8])
				n := be.Uint32(h[at+8:])
				a, b := be.Uint64(h[at+16:]), be.Uint64(w[at+16:])
				if be.Uint32(w[at+8:]) != n || !bytes.Equal(got[a:][:n], want[b:][:n]) {
					t.Errorf("locator %d holds %x, want %x", i, got[a:][:n], want[b:][:n])
				}
				copy(w[at+16:at+24], h[at+16:at+24])
			}
			if !bytes.Equal(h, w) {
				t.Errorf("header\n%x\nwant\n%x", h, w)
			}
		})
	}
}

// Cylinders, heads and sectors are the specification's.
func TestGeometry(t *testing.T) {
	for _, c := range []struct {
		sectors int64
		want    [3]int
	}{
		{0, [3]int{0, 4, 17}},
		{8192, [3]int{120, 4, 17}},
		{16 * 1024 * 17, [3]int{1024 * 17 / 31 * 16 / 16, 16, 31}},
		{4*1024*17 - 17, [3]int{1023, 4, 17}},
		{4 * 1024 * 17, [3]int{140, 16, 31}},
		{16 * 1024 * 31, [3]int{1024 * 31 / 63, 16, 63}},
		{65535*16*63 - 1, [3]int{65534, 16, 63}},
		{65535 * 16 * 63, [3]int{65535 * 63 / 255, 16, 255}},
		{65535 * 16 * 255, [3]int{65535, 16, 255}},
		{65535*16*255 + 1, [3]int{65535, 16, 255}},
		{2040 << 30 / 512, [3]int{65535, 16, 255}},
	} {
		b, err := encode(t, empty(t, c.sectors*512), formats.EncodeOptions{})
		if err != nil {
			t.Fatal(err)
		}
		got := [3]int{int(binary.BigEndian.Uint16(b[56:])), int(b[58]), int(b[59])}
		if got != c.want {
			t.Errorf("%d sectors: %v, want %v", c.sectors, got, c.want)
		}
		if m := open(t, b); m.Map.Size() != c.sectors*512 {
			t.Errorf("%d sectors: read as %d", c.sectors, m.Map.Size())
		}
	}
}

func TestParentNamesThatAreWritten(t *testing.T) {
	const id = testIDText
	long := strings.Repeat("d/", 200) + "base.vhd"
	for _, c := range []struct {
		names, want []string
		hint        string
	}{
		{[]string{"base.vhd"}, []string{`.\base.vhd`, "base.vhd"}, "base.vhd"},
		{[]string{`.\base.vhd`}, []string{`.\base.vhd`, "base.vhd"}, "base.vhd"},
		{[]string{"../a/base.vhd"}, []string{`..\a\base.vhd`}, `..\a\base.vhd`},
		{[]string{"../größe.vhd", "/vm/größe.vhd"}, []string{`..\größe.vhd`, "/vm/größe.vhd"}, "/vm/größe.vhd"},
		{[]string{`\\host\share\b.vhd`}, []string{`\\host\share\b.vhd`}, `\\host\share\b.vhd`},
		{[]string{"😀.vhd", `C:\a.vhd`, `D:\b.vhd`, "c.vhd"}, []string{`.\😀.vhd`, `C:\a.vhd`}, `C:\a.vhd`},
		{[]string{long}, []string{`.\` + strings.ReplaceAll(long, "/", `\`), "base.vhd"}, "base.vhd"},
	} {
		b, err := encode(t, empty(t, 4096), formats.EncodeOptions{
			Base: empty(t, 4096), Parent: &formats.ParentRef{Names: c.names, ID: id},
		})
		if err != nil {
			t.Errorf("%q: %v", c.names, err)
			continue
		}
		m := open(t, b)
		noProblems(t, m)
		if !slices.Equal(m.Parent.Names, c.want) || m.ParentHint != c.hint || m.Parent.ID != id {
			t.Errorf("%q: %q, hint %q, ID %s", c.names, m.Parent.Names, m.ParentHint, m.Parent.ID)
		}
	}
}

func TestEncodeRefuses(t *testing.T) {
	small := empty(t, 4096)
	child := func(format, id string, names ...string) formats.EncodeOptions {
		return formats.EncodeOptions{Base: small, Parent: &formats.ParentRef{Names: names, Format: format, ID: id}}
	}
	based := func(subformat string) formats.EncodeOptions {
		o := child("vpc", testIDText, "a")
		o.Subformat = subformat
		return o
	}
	for _, c := range []struct {
		name string
		d    formats.Disk
		o    formats.EncodeOptions
		says string
	}{
		{"subformat", small, formats.EncodeOptions{Subformat: "sparse"}, "subformat"},
		{"compression", small, formats.EncodeOptions{Compression: "zstd"}, "compression"},
		{"a unit that is no power of two", small, formats.EncodeOptions{Unit: 3 << 20}, "block size"},
		{"a unit too small", small, formats.EncodeOptions{Unit: 64 << 10}, "block size"},
		{"a unit too large", small, formats.EncodeOptions{Unit: 32 << 20}, "block size"},
		{"a unit of a fixed disk", small, formats.EncodeOptions{Subformat: "fixed", Unit: 2 << 20}, "block size"},
		{"too large", empty(t, 2040<<30+1), formats.EncodeOptions{}, "disk size"},
		{"fixed with a base", small, based("fixed"), "subformat"},
		{"dynamic with a base", small, based("dynamic"), "subformat"},
		{"differencing without a base", small, formats.EncodeOptions{Subformat: "differencing"}, "subformat"},
		{"no parent", small, formats.EncodeOptions{Base: small}, "parent's name"},
		{"no name", small, child("", testIDText), "parent's name"},
		{"an empty name", small, child("", testIDText, ""), "parent's name"},
		{"a name with NUL", small, child("", testIDText, "a\x00b"), "parent's name"},
		{"a long name", small, child("", testIDText, strings.Repeat("a", 256)), "parent's name"},
		{"another format", small, child("qcow2", testIDText, "a"), "it is qcow2"},
		{"no ID", small, child("vpc", "", "a"), "not a UUID"},
		{"a bad ID", small, child("vpc", testIDText[1:]+"x", "a"), "not a UUID"},
	} {
		_, err := encode(t, c.d, c.o)
		var fe *formats.FormatError
		if !errors.Is(err, formats.ErrUnsupported) || !errors.As(err, &fe) || !strings.Contains(err.Error(), c.says) {
			t.Errorf("%s: %v", c.name, err)
		}
	}
	if _, err := encode(t, empty(t, 2040<<30), formats.EncodeOptions{}); err != nil {
		t.Error(err)
	}
}

// Times before 2000 and after 2136 are not told.
func TestTimes(t *testing.T) {
	const year2000 = 946684800
	for unix, want := range map[int64]uint32{
		0: 0, year2000 - 1: 0, year2000 + 1: 1, year2000 + 1<<32 - 1: 1<<32 - 1, year2000 + 1<<32: 0,
	} {
		b, err := encode(t, empty(t, 512), formats.EncodeOptions{Unix: unix, Subformat: "fixed"})
		if got := binary.BigEndian.Uint32(b[512+24:]); err != nil || got != want {
			t.Errorf("%d: %d, want %d, %v", unix, got, want, err)
		}
	}
}

// spots is a large disk with a few bytes at some places.
type spots struct {
	size int64
	at   []int64
}

func (s spots) Size() int64 { return s.size }
func (s spots) MapAt(off int64) (formats.Extent, error) {
	if off < 0 || off >= s.size {
		return formats.Extent{}, io.EOF
	}
	e := formats.Extent{Offset: 0, Length: s.size, Kind: formats.Hole}
	for i, at := range s.at {
		switch {
		case off < at:
			e.Length = at - e.Offset
			return e, nil
		case off < at+512:
			return formats.Extent{Offset: at, Length: 512, Kind: formats.Data, Host: int64(512 * i)}, nil
		}
		e.Offset, e.Length = at+512, s.size-at-512
	}
	return e, nil
}

// The largest disk, of which only its ends and its middle hold something. qemu
// sees the same runs.
func TestLargestDisk(t *testing.T) {
	const size = 2040 << 30
	m := &formats.Image{
		Header: formats.Header{Format: "spots"}, Map: spots{size, []int64{0, 1<<40 + 512, size - 512}},
		Files: []formats.Source{bytes.NewReader(random(1, 3*512))},
	}
	path := formatstest.Encode(t, vhd.Format{}, "a.vhd", formatstest.Disk(t, m), formats.EncodeOptions{})
	got := formatstest.OpenFile(t, vhd.Format{}, path)
	noProblems(t, got)
	d := formatstest.Disk(t, got)
	if d.Size() != size {
		t.Fatal(d.Size())
	}
	want := formatstest.Disk(t, m)
	for _, off := range []int64{0, 1 << 40, size - 4096} {
		a, b := make([]byte, 4096), make([]byte, 4096)
		if _, err := d.ReadAt(a, off); err != nil {
			t.Fatal(err)
		}
		if _, err := want.ReadAt(b, off); err != nil || !bytes.Equal(a, b) {
			t.Errorf("at %d: other bytes, %v", off, err)
		}
	}
	sameMap(t, d, path)
}

// A disk that fails is not a disk of zeros.
func TestEncodePassesErrorsOn(t *testing.T) {
	p := formatstest.NewPattern(t, 1, 4<<20)
	bad := formatstest.Disk(t, &formats.Image{
		Header: formats.Header{Format: "bad"}, Map: flat(p.Size()), Files: []formats.Source{bytes.NewReader(p.Bytes[:3<<20])},
	})
	for _, o := range []formats.EncodeOptions{
		{}, {Subformat: "fixed"},
		{Base: p, Parent: &formats.ParentRef{Names: []string{"a"}, ID: testIDText}},
	} {
		if _, err := encode(t, bad, o); !errors.Is(err, io.ErrUnexpectedEOF) {
			t.Errorf("%+v: %v", o, err)
		}
	}
	o := formats.EncodeOptions{Base: bad, Parent: &formats.ParentRef{Names: []string{"a"}, ID: testIDText}}
	if _, err := encode(t, p, o); !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Errorf("base: %v", err)
	}
	for _, subformat := range []string{"dynamic", "fixed"} {
		for n := range 12 {
			out := failing{n: n}
			o := formats.EncodeOptions{Subformat: subformat}
			err := vhd.Format{}.Encode(context.Background(), formats.Outputs{Main: &out}, p, o)
			if out.n < 0 && !errors.Is(err, errFull) || out.n >= 0 && err != nil {
				t.Errorf("%s, write %d: %v", subformat, n, err)
			}
		}
	}
}

// flat maps all of a disk to its file.
type flat int64

func (h flat) Size() int64 { return int64(h) }
func (h flat) MapAt(int64) (formats.Extent, error) {
	return formats.Extent{Length: int64(h), Kind: formats.Data}, nil
}

var errFull = errors.New("no room")

// failing refuses the write numbered n.
type failing struct{ n int }

func (f *failing) WriteAt(p []byte, _ int64) (int, error) {
	if f.n--; f.n < 0 {
		return 0, errFull
	}
	return len(p), nil
}

func (*failing) Truncate(int64) error { return nil }
