package vhd_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
	"unicode/utf16"

	"tarvm/formats"
	"tarvm/formats/formatstest"
	"tarvm/formats/vhd"
)

// A layout is an image that is built here, field by field of the specification.
type layout struct {
	kind  byte // 3 dynamic, 4 differencing
	size  int64
	unit  int64
	align int64 // of the data of blocks; 0: none
	order []int // which blocks are stored, as they follow each other in the file
	// used says whether the bit of a sector of the disk is set; nil: all are.
	used  func(sector int64) bool
	stale byte   // what sectors hold whose bit is clear
	data  []byte // the guest's; at least size bytes
	// Of a differencing disk.
	parentID           []byte
	name               string // in the header
	relative, absolute string // locators
	mac                string
}

var childID = []byte("\x01\x23\x45\x67\x89\xab\xcd\xef\x01\x23\x45\x67\x89\xab\xcd\xef")

// build writes the image.
func (l layout) build() []byte {
	be := binary.BigEndian
	f := make([]byte, 512)
	copy(f, "conectix")
	be.PutUint32(f[8:], 2)
	be.PutUint32(f[12:], 0x10000)
	be.PutUint64(f[16:], 512)
	copy(f[28:], "win ")
	copy(f[36:], "Wi2k")
	be.PutUint64(f[40:], uint64(l.size))
	be.PutUint64(f[48:], uint64(l.size))
	f[63] = l.kind
	copy(f[68:], childID)

	h := make([]byte, 1024)
	copy(h, "cxsparse")
	be.PutUint64(h[8:], 1<<64-1)
	be.PutUint32(h[24:], 0x10000)
	blocks := (l.size + l.unit - 1) / l.unit
	be.PutUint32(h[28:], uint32(blocks))
	be.PutUint32(h[32:], uint32(l.unit))
	copy(h[40:], l.parentID)
	for i, c := range utf16.Encode([]rune(l.name)) {
		be.PutUint16(h[64+2*i:], c)
	}
	var names []byte
	locators := 0
	locate := func(platform string, b []byte) {
		at := h[576+24*locators:]
		locators++
		copy(at, platform)
		be.PutUint32(at[4:], 512)
		be.PutUint32(at[8:], uint32(len(b)))
		be.PutUint64(at[16:], uint64(1536+len(names)))
		names = append(names, b...)
		names = append(names, make([]byte, 512-len(b))...)
	}
	utf16le := func(s string) (b []byte) {
		for _, c := range utf16.Encode([]rune(s)) {
			b = binary.LittleEndian.AppendUint16(b, c)
		}
		return b
	}
	if l.mac != "" {
		locate("MacX", []byte(l.mac))
	}
	if l.absolute != "" {
		locate("W2ku", utf16le(l.absolute))
	}
	if l.relative != "" {
		locate("W2ru", utf16le(l.relative))
	}
	be.PutUint64(h[16:], uint64(1536+len(names)))
	bat := bytes.Repeat([]byte{0xff}, int(blocks*4+511)/512*512)

	b := slices.Concat(f, h, names)
	table := len(b)
	b = append(b, bat...)
	bitmap := int(l.unit/512/8+511) / 512 * 512
	for _, n := range l.order {
		if l.align != 0 {
			for (len(b)+bitmap)%int(l.align) != 0 {
				b = append(b, 0)
			}
		}
		be.PutUint32(b[table+4*n:], uint32(len(b)/512))
		bits := len(b)
		b = append(b, make([]byte, bitmap)...)
		for s := range l.unit / 512 {
			at := int64(n)*l.unit + s*512
			part := bytes.Repeat([]byte{l.stale}, 512)
			if l.used == nil || l.used(at/512) {
				b[bits+int(s/8)] |= 0x80 >> (s % 8)
				clear(part)
				copy(part, l.data[min(at, int64(len(l.data))):])
			}
			b = append(b, part...)
		}
	}
	b = append(b, f...)
	fix(b)
	return b
}

func random(seed byte, n int64) []byte {
	b := make([]byte, n)
	rand.NewChaCha8([32]byte{seed}).Read(b)
	return b
}

// open opens b as an image.
func open(t testing.TB, b []byte) *formats.Image {
	t.Helper()
	m, err := vhd.Format{}.Open(bytes.NewReader(b), formats.OpenOptions{})
	if err != nil {
		t.Fatal(err)
	}
	return m
}

// problems returns all that is wrong with m, as text.
func problems(t testing.TB, m *formats.Image) []string {
	t.Helper()
	list := []string{}
	add := func(p formats.Problem) { list = append(list, p.Severity.String()+" "+p.String()) }
	for _, p := range m.Problems {
		add(p)
	}
	if m.Check != nil {
		if err := m.Check(context.Background(), add); err != nil {
			t.Fatal(err)
		}
	}
	return list
}

func noProblems(t testing.TB, m *formats.Image) {
	t.Helper()
	if p := problems(t, m); len(p) > 0 {
		t.Errorf("problems: %q", p)
	}
}

func write(t testing.TB, path string, b []byte) {
	t.Helper()
	if err := os.WriteFile(path, b, 0o600); err != nil {
		t.Fatal(err)
	}
}

// What qemu-img writes is the disk that qemu-img reads, and its map, too.
func TestReadsWhatQemuWrites(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		options string
		size    int64
	}{
		{"subformat=dynamic", 10 << 20}, // qemu rounds it up to a geometry
		{"subformat=dynamic", 3<<20 + 512},
		{"subformat=dynamic,force_size=on", 10 << 20},
		{"subformat=dynamic,force_size=on", 512},
		{"subformat=dynamic,force_size=on", 2 << 20},
		{"subformat=dynamic,force_size=on", 2<<20 + 512},
		{"subformat=dynamic,force_size=on", 9<<20 - 512},
		{"subformat=fixed", 5 << 20},
		{"subformat=fixed,force_size=on", 512},
		{"subformat=fixed,force_size=on", 5<<20 + 512},
	} {
		t.Run(fmt.Sprint(c.options, " ", c.size), func(t *testing.T) {
			dir := t.TempDir()
			write(t, filepath.Join(dir, "in.raw"), formatstest.NewPattern(t, uint64(c.size), c.size).Bytes)
			formatstest.Run(t, dir, "qemu-img", "convert", "-f", "raw", "-O", "vpc", "-o", c.options, "in.raw", "a.vhd")
			path := filepath.Join(dir, "a.vhd")
			m := formatstest.OpenFile(t, vhd.Format{}, path)
			noProblems(t, m)
			d := formatstest.Disk(t, m)
			formatstest.CheckDisk(t, d, formatstest.QemuRaw(t, "vpc", path))
			if m.Subformat == "dynamic" {
				sameMap(t, d, path)
			}
		})
	}
}

// sameMap compares the extents of d with qemu's.
func sameMap(t *testing.T, d formats.Disk, path string) {
	t.Helper()
	type run struct {
		Start, Length, Offset int64
		Data                  bool
	}
	var want, got []run
	out := formatstest.Run(t, ".", "qemu-img", "map", "-f", "vpc", "--output=json", path)
	if err := json.Unmarshal(out, &want); err != nil {
		t.Fatal(err)
	}
	for _, e := range formatstest.CheckExtents(t, d) {
		got = append(got, run{e.Offset, e.Length, e.Host, e.Kind == formats.Data})
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("map %+v\nqemu says %+v", got, want)
	}
}

// An empty disk has no blocks.
func TestEmptyDisk(t *testing.T) {
	dir := t.TempDir()
	for _, subformat := range []string{"dynamic", "fixed"} {
		o := "force_size=on,subformat=" + subformat
		formatstest.Run(t, dir, "qemu-img", "create", "-q", "-f", "vpc", "-o", o, "a.vhd", "0")
		m := formatstest.OpenFile(t, vhd.Format{}, filepath.Join(dir, "a.vhd"))
		noProblems(t, m)
		formatstest.CheckDisk(t, formatstest.Disk(t, m), bytes.NewReader(nil))
	}
	m := open(t, layout{kind: 3, unit: 4096}.build())
	noProblems(t, m)
	formatstest.CheckDisk(t, formatstest.Disk(t, m), bytes.NewReader(nil))
	if _, err := m.Map.MapAt(0); !errors.Is(err, io.EOF) {
		t.Error(err)
	}
}

// Sectors whose bit is clear read as zero in a dynamic disk, whatever is stored
// there, as the specification says. 7-Zip demands that it is zeros. libvhdi
// 20210425 reads what is stored unless all sectors of a byte of the bitmap are
// clear, and qemu always does.
func TestClearBitsOfADynamicDisk(t *testing.T) {
	t.Parallel()
	l := layout{
		kind: 3, size: 7<<20 + 512, unit: 2 << 20, align: 4096, order: []int{3, 0, 2},
		data: random(1, 8<<20), stale: 0xee,
		used: func(s int64) bool { return s%13 != 0 && s/64%3 != 1 || s == 0 },
	}
	check := func(l layout) (d formats.Disk, path string) {
		want := make([]byte, l.size)
		for s := range l.size / 512 {
			if l.used(s) && s*512/l.unit != 1 {
				copy(want[s*512:][:512], l.data[s*512:])
			}
		}
		b := l.build()
		m := open(t, b)
		d = formatstest.Disk(t, m)
		formatstest.CheckDisk(t, d, bytes.NewReader(want))
		if p := problems(t, m); len(p) != 1 || !strings.HasPrefix(p[0], "note bitmap: 3 blocks have sectors") {
			t.Errorf("%q", p)
		}
		path = filepath.Join(t.TempDir(), "a.vhd")
		write(t, path, b)
		return d, path
	}
	check(l)
	l.stale = 0
	d, path := check(l)
	t.Run("7-Zip", func(t *testing.T) { formatstest.CheckDisk(t, d, formatstest.SevenZipRaw(t, path)) })
	l.stale, l.used = 0xee, func(s int64) bool { return s/8%5 != 1 }
	d, path = check(l)
	t.Run("libyal", func(t *testing.T) { formatstest.CheckDisk(t, d, formatstest.LibyalRaw(t, "pyvhdi", path)) })
}

// A child made here by the specification, over a parent of qemu's. 7-Zip reads
// it as we do. qemu ignores the parent. libvhdi 20210425 returns zeros for the
// sectors of the parent that follow a run of the child's ending within a byte of
// the bitmap, so it is asked where no run does.
func TestDifferencing(t *testing.T) {
	t.Parallel()
	const size = 9<<20 + 1024
	for _, c := range []struct {
		name   string
		used   func(s int64) bool
		libyal bool
	}{
		{"single sectors", func(s int64) bool { return s%17 == 3 || s/1000%3 == 1 || s == size/512-1 || s == 0 }, false},
		{"whole bytes", func(s int64) bool { return s/8%5 == 2 || s/512%7 == 3 }, true},
		{"all", nil, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			dir := t.TempDir()
			base := formatstest.NewPattern(t, 99, size)
			write(t, filepath.Join(dir, "in.raw"), base.Bytes)
			formatstest.Run(t, dir, "qemu-img", "convert", "-f", "raw", "-O", "vpc", "-o", "force_size=on", "in.raw", "base.vhd")
			parent := formatstest.OpenFile(t, vhd.Format{}, filepath.Join(dir, "base.vhd"))
			id := make([]byte, 16)
			if _, err := fmt.Sscanf(strings.ReplaceAll(parent.ID, "-", ""), "%x", &id); err != nil {
				t.Fatalf("ID %q: %v", parent.ID, err)
			}
			l := layout{
				kind: 4, size: size, unit: 2 << 20, order: []int{4, 1, 0, 3}, used: c.used, data: random(3, 10<<20),
				parentID: id, name: "base.vhd", relative: `.\base.vhd`,
			}
			want := bytes.Clone(base.Bytes)
			for s := range int64(size) / 512 {
				if s*512/l.unit != 2 && (c.used == nil || c.used(s)) {
					copy(want[s*512:][:512], l.data[s*512:])
				}
			}
			path := filepath.Join(dir, "child.vhd")
			write(t, path, l.build())
			m := formatstest.OpenFile(t, vhd.Format{}, path)
			noProblems(t, m)
			ref := &formats.ParentRef{Names: []string{`.\base.vhd`, "base.vhd"}, Format: "vpc", ID: parent.ID}
			if !reflect.DeepEqual(m.Parent, ref) {
				t.Errorf("%+v, want %+v", m.Parent, ref)
			}
			if m.ID != "01234567-89ab-cdef-0123-456789abcdef" {
				t.Errorf("ID %q", m.ID)
			}
			d := formatstest.Disk(t, m, parent)
			formatstest.CheckDisk(t, d, bytes.NewReader(want))
			for e, err := range formatstest.Disk(t, m).Extents(0, size) {
				if err != nil || e.Kind != formats.Data && e.Kind != formats.Parent {
					t.Fatalf("%+v, %v", e, err)
				}
			}
			t.Run("7-Zip", func(t *testing.T) { formatstest.CheckDisk(t, d, formatstest.SevenZipRaw(t, path)) })
			if c.libyal {
				t.Run("libyal", func(t *testing.T) {
					formatstest.CheckDisk(t, d, formatstest.LibyalRaw(t, "pyvhdi", path, filepath.Join(dir, "base.vhd")))
				})
			}
		})
	}
}

// Runs of sectors of one status are as long as they can be within a block, and
// neighbouring blocks that are not there are one.
func TestRunsAreLong(t *testing.T) {
	l := layout{kind: 4, size: 40 << 12, unit: 4 << 12, order: []int{3, 5}, data: random(4, 40<<12),
		used: func(s int64) bool { return s >= 100 && s < 165 || s >= 191 }}
	var got []formats.Extent
	for e, err := range formatstest.Disk(t, open(t, l.build())).Extents(0, l.size) {
		if err != nil {
			t.Fatal(err)
		}
		got = append(got, e)
	}
	const first, second = 2048 + 512, 2048 + 2*512 + 4<<12
	want := []formats.Extent{
		{Offset: 0, Length: 100 * 512, Kind: formats.Parent},
		{Offset: 100 * 512, Length: 28 * 512, Kind: formats.Data, Host: first + 4*512},
		{Offset: 128 * 512, Length: 32 * 512, Kind: formats.Parent},
		{Offset: 160 * 512, Length: 5 * 512, Kind: formats.Data, Host: second},
		{Offset: 165 * 512, Length: 26 * 512, Kind: formats.Parent},
		{Offset: 191 * 512, Length: 512, Kind: formats.Data, Host: second + 31*512},
		{Offset: 192 * 512, Length: 128 * 512, Kind: formats.Parent},
	}
	if !slices.Equal(got, want) {
		t.Errorf("%+v\nwant %+v", got, want)
	}
}

func TestParentNames(t *testing.T) {
	l := layout{kind: 4, size: 4096, unit: 4096, parentID: childID,
		name: `C:\größe.vhd`, relative: `.\größe.vhd`, absolute: `D:\vm\größe.vhd`, mac: "file://localhost/vm/a.vhd"}
	m := open(t, l.build())
	want := []string{`.\größe.vhd`, `D:\vm\größe.vhd`, `C:\größe.vhd`, "file://localhost/vm/a.vhd"}
	if !slices.Equal(m.Parent.Names, want) || m.ParentHint != `C:\größe.vhd` {
		t.Errorf("%q, %q", m.Parent.Names, m.ParentHint)
	}
	noProblems(t, m)
	for _, c := range []struct {
		name  string
		off   int64 // in the first locator
		patch []byte
		says  string
	}{
		{"past the end", 16 + 2, []byte{1}, "pass end of file"},
		{"at 2^63", 16, []byte{0x80}, "pass end of file"},
		{"2^32 bytes", 8, []byte{255, 255, 255, 255}, "pass end of file"},
		{"too long", 8, []byte{0, 2, 0, 0}, "a name of 131072 bytes"},
	} {
		l.data, l.order = nil, []int{0}
		l.unit = 1 << 18
		b := l.build()
		copy(b[512+576+c.off:], c.patch)
		fix(b)
		m := open(t, b)
		p := problems(t, m)
		if len(m.Parent.Names) != 3 || len(p) != 1 || !strings.HasPrefix(p[0], "note") || !strings.Contains(p[0], c.says) {
			t.Errorf("%s: %q, %q", c.name, m.Parent.Names, p)
		}
	}
	b := l.build()
	binary.BigEndian.PutUint64(b[512+576+16:], 1536+3*512) // of the BAT
	fix(b)
	if p := problems(t, open(t, b)); len(p) != 1 || p[0] != "risk parent locator at byte 0xc00: it lies on the BAT" {
		t.Errorf("%q", p)
	}
	none := layout{kind: 4, size: 4096, unit: 4096}
	if m := open(t, none.build()); m.Parent == nil || len(m.Parent.Names) != 0 || m.Parent.ID != "" {
		t.Errorf("%+v", m.Parent)
	}
}

func TestFacts(t *testing.T) {
	l := layout{kind: 4, size: 4096, unit: 4096, parentID: childID}
	b := l.build()
	f := b[len(b)-512:]
	copy(f[24:], []byte{0x28, 0, 0, 0})
	copy(f[32:], []byte{0, 10, 0, 3})
	copy(f[36:], "Mac ")
	copy(f[56:], []byte{0, 8, 4, 17})
	f[84] = 1
	copy(b, f)
	copy(b[512+56:], []byte{0, 0, 0, 1})
	fix(b)
	want := []formats.Fact{
		{Name: "creator", Value: "win 10.3"},
		{Name: "creator's system", Value: "Macintosh"},
		{Name: "disk type", Value: "differencing"},
		{Name: "geometry", Value: "8 cylinders, 4 heads, 17 sectors"},
		{Name: "timestamp", Value: "2021-04-07T05:30:40Z"},
		{Name: "UUID", Value: "01234567-89ab-cdef-0123-456789abcdef"},
		{Name: "block size", Value: "4096"},
		{Name: "saved state", Value: "yes"},
		{Name: "parent's UUID", Value: "01234567-89ab-cdef-0123-456789abcdef"},
		{Name: "parent's timestamp", Value: "2000-01-01T00:00:01Z"},
	}
	if m := open(t, b); !slices.Equal(m.Facts, want) {
		t.Errorf("%+v\nwant %+v", m.Facts, want)
	}
}

// One footer of two may be damaged anywhere; the header has one copy only.
func TestEachBitOfTheStructures(t *testing.T) {
	formatstest.OneGoroutine(t)
	t.Parallel()
	l := layout{kind: 4, size: 6 * 4096, unit: 4096, order: []int{4, 1}, data: random(6, 6*4096), parentID: childID,
		relative: `.\base.vhd`, used: func(s int64) bool { return s%3 == 0 }}
	b := l.build()
	first := 0
	for i, v := range b {
		if i >= 2560+512 && i < len(b)-512 {
			continue // blocks
		}
		for bit := range 8 {
			b[i] = v ^ 1<<bit
			m, err := vhd.Format{}.Open(bytes.NewReader(b), formats.OpenOptions{})
			switch {
			case i < 512, i >= len(b)-512:
				if err != nil || len(m.Problems) != 1 || m.Problems[0].Severity != formats.Note {
					t.Fatalf("bit %d of byte %d: %v, %+v", bit, i, err, m)
				}
			case i < 1536:
				if !errors.Is(err, formats.ErrCorrupt) {
					t.Fatalf("bit %d of byte %d: %v", bit, i, err)
				}
			}
			reserved := v == 0 && bit > 0
			if !reserved {
				_ = formatstest.CheckOpen(t, vhd.Format{}, b, formats.OpenOptions{})
			}
			b[i] = v
			if reserved {
				continue
			}
			fixed := bytes.Clone(b)
			fixed[i] ^= 1 << bit
			if i < 512 {
				fixed[len(b)-512+i] ^= 1 << bit
			}
			fix(fixed)
			_ = formatstest.CheckOpen(t, vhd.Format{}, fixed, formats.OpenOptions{})
		}
		first++
	}
	if first < 2048 {
		t.Errorf("only %d bytes tried", first)
	}
	f := formatstest.Golden(t, "fixed.vhd")
	f = f[len(f)-4096-512:]
	copy(f[4096+48:], []byte{0, 0, 0, 0, 0, 0, 16, 0})
	fix(f)
	for i := 4096; i < len(f); i++ {
		for bit := range 8 {
			f[i] ^= 1 << bit
			_, err := vhd.Format{}.Open(bytes.NewReader(f), formats.OpenOptions{})
			if !errors.Is(err, formats.ErrCorrupt) {
				t.Fatalf("fixed, bit %d of byte %d: %v", bit, i, err)
			}
			f[i] ^= 1 << bit
		}
	}
}

// A cut image is read as far as it goes, or refused.
func TestCutImages(t *testing.T) {
	data := random(7, 3*65536)
	l := layout{kind: 3, size: 3*65536 - 512, unit: 65536, order: []int{0, 2, 1}, data: data}
	b := l.build()
	block := func(n int) int { return 2048 + n*(512+65536) }
	for _, c := range []struct {
		cut  int
		want error
		good int64 // bytes of the disk that can be read
		note bool  // nothing is lost but the footer
	}{
		{0, formats.ErrNotFormat, 0, false},
		{511, formats.ErrCorrupt, 0, false},
		{512, formats.ErrCorrupt, 0, false},
		{1535, formats.ErrCorrupt, 0, false},
		{1536, formats.ErrCorrupt, 0, false},
		{1547, formats.ErrCorrupt, 0, false},
		{1548, formats.ErrCorrupt, 0, false},
		{2048, formats.ErrCorrupt, 0, false},
		{2048 + 511, formats.ErrCorrupt, 0, false},
		{2048 + 512, formats.ErrCorrupt, 0, false},
		{2048 + 512 + 1000, formats.ErrCorrupt, 1000, false},
		{block(1), formats.ErrCorrupt, 65536, false},
		{block(2), formats.ErrCorrupt, 65536, false},
		{block(2) + 512 + 4096, formats.ErrCorrupt, 65536 + 4096, false},
		{block(3) - 1, formats.ErrCorrupt, 2*65536 - 1, false},
		{block(3), nil, l.size, true},
		{block(3) + 10, nil, l.size, true},
		{block(3) + 510, nil, l.size, true},
		{block(3) + 511, nil, l.size, false}, // a footer of old Virtual PC's
	} {
		cut := b[:c.cut]
		if err := formatstest.CheckOpen(t, vhd.Format{}, cut, formats.OpenOptions{}); !errors.Is(err, c.want) {
			t.Errorf("cut at %d: %v, want %v", c.cut, err, c.want)
		}
		m, err := vhd.Format{}.Open(bytes.NewReader(cut), formats.OpenOptions{})
		if err != nil {
			if c.good > 0 {
				t.Errorf("cut at %d: %v", c.cut, err)
			}
			continue
		}
		d := formatstest.Disk(t, m)
		got := make([]byte, c.good)
		if _, err := d.ReadAt(got, 0); err != nil && c.good > 0 || !bytes.Equal(got, data[:c.good]) {
			t.Errorf("cut at %d: the first %d bytes: %v", c.cut, c.good, err)
		}
		if _, err := d.ReadAt(make([]byte, 1), c.good); c.good < l.size && !errors.Is(err, formats.ErrCorrupt) {
			t.Errorf("cut at %d: byte %d: %v", c.cut, c.good, err)
		}
		if p := problems(t, m); c.note != (len(p) == 1 && strings.HasPrefix(p[0], "note footer")) {
			t.Errorf("cut at %d: %q", c.cut, p)
		}
	}
}

// The last block may be stored as far as the disk goes.
func TestShortLastBlock(t *testing.T) {
	l := layout{kind: 3, size: 3*65536 - 1024, unit: 65536, order: []int{0, 2}, data: random(8, 3*65536)}
	b := l.build()
	b = append(b[:len(b)-512-1024], b[:512]...)
	m := open(t, b)
	want := bytes.Clone(l.data[:l.size])
	clear(want[65536 : 2*65536])
	formatstest.CheckDisk(t, formatstest.Disk(t, m), bytes.NewReader(want))
	if p := problems(t, m); len(p) != 1 || !strings.HasPrefix(p[0], "note BAT") {
		t.Errorf("%q", p)
	}
}

// A block that lies where none can be costs that block only.
func TestDamagedTable(t *testing.T) {
	l := layout{kind: 4, size: 5 * 4096, unit: 4096, order: []int{0, 1, 2, 3}, data: random(9, 5*4096)}
	l.relative = `.\a.vhd`
	good := l.build()
	sectors := uint32(len(good) / 512)
	const step, first = 4096/512 + 1, 5 // of blocks, in sectors
	if len(good) != (first+4*step+1)*512 {
		t.Fatal(len(good))
	}
	for _, c := range []struct {
		name  string
		entry uint32 // of block 1
		want  error
		says  []string // parts of problems, in order
	}{
		{"as it was", first + step, nil, nil},
		{"not there", absent, nil, []string{"leak file at byte 0x1c00: nothing uses 4608 bytes"}},
		{"on the footer's copy", 0, formats.ErrCorrupt, []string{"lies on the footer copy", "leak"}},
		{"on the header", 1, formats.ErrCorrupt, []string{"lies on the header", "leak"}},
		{"on the locator", 3, formats.ErrCorrupt, []string{
			"risk BAT at byte 0x804: block at 0x600 lies on the", "leak",
		}},
		{"on the BAT", 4, formats.ErrCorrupt, []string{"lies on the BAT", "leak"}},
		{"behind the end", sectors, formats.ErrCorrupt, []string{"past end of file", "leak"}},
		{"far behind the end", 0xfffffffe, formats.ErrCorrupt, []string{"past end of file", "leak"}},
		{"on the footer", sectors - 1, formats.ErrCorrupt, []string{"past end of file", "leak"}},
		{"over the footer", sectors - 3, formats.ErrCorrupt, []string{
			"risk BAT at byte 0x804: block 1 at 0x4e00: 3584 bytes pass end of file",
			"leak",
			"block 1 at 0x4e00 overlaps block 3 at 0x4000",
		}},
		{"a block of another", first, nil, []string{
			"risk BAT at byte 0x804: block 1 at 0xa00 overlaps block 0 at 0xa00",
			"leak",
		}},
		{"half in another", first + step + 1, nil, []string{
			"risk BAT at byte 0x808: block 2 at 0x2e00 overlaps block 1 at 0x1e00",
		}},
		{"half in the one before", first + step - 1, nil, []string{
			"risk BAT at byte 0x804: block 1 at 0x1a00 overlaps block 0",
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			b := bytes.Clone(good)
			binary.BigEndian.PutUint32(b[2048+4:], c.entry)
			err := formatstest.CheckOpen(t, vhd.Format{}, b, formats.OpenOptions{})
			if !errors.Is(err, c.want) || c.want == nil && err != nil {
				t.Errorf("%v, want %v", err, c.want)
			}
			m := open(t, b)
			got := problems(t, m)
			if len(got) != len(c.says) {
				t.Fatalf("%q, want %q", got, c.says)
			}
			for i := range got {
				if !strings.Contains(got[i], c.says[i]) {
					t.Errorf("%q, want %q", got[i], c.says[i])
				}
			}
			d := formatstest.Disk(t, m)
			for _, n := range []int64{0, 2, 3} {
				p := make([]byte, 4096)
				if _, err := d.ReadAt(p, n*4096); err != nil || !bytes.Equal(p, l.data[n*4096:][:4096]) {
					t.Errorf("block %d: %v", n, err)
				}
			}
		})
	}
}

const absent = 0xffffffff

func TestCheckFinds(t *testing.T) {
	l := layout{kind: 4, size: 5 * 4096, unit: 4096, order: []int{0, 1}, data: random(9, 5*4096)}
	zero := func(int64) bool { return false }
	for _, c := range []struct {
		name string
		make func() []byte
		says []string
	}{
		{"an unused block", func() []byte {
			l := l
			l.used = zero
			return l.build()
		}, []string{"leak bitmap at byte 0x800: block 0 is stored", "leak bitmap at byte 0x1a00: block 1 is stored"}},
		{"room before the footer", func() []byte {
			b := l.build()
			return append(append(b, make([]byte, 4096)...), b[:512]...)
		}, []string{"leak file at byte 0x2c00: nothing uses 4608 bytes"}},
		{"a block behind the disk", func() []byte {
			l := l
			l.order = []int{0, 4}
			b := l.build()
			be := binary.BigEndian
			for _, f := range [][]byte{b, b[len(b)-512:]} {
				be.PutUint64(f[48:], 4*4096)
			}
			fix(b)
			return b
		}, []string{"leak BAT at byte 0x610: block 4 is behind the end of the disk"}},
		{"the copy says another size", func() []byte {
			b := l.build()
			b[48+6]--
			fix(b)
			return b
		}, []string{"risk footer copy at byte 0x0: it differs from the footer: another size"}},
		{"the copy says another type", func() []byte {
			b := l.build()
			b[63]--
			fix(b)
			return b
		}, []string{"risk footer copy at byte 0x0: it differs from the footer: another type"}},
		{"the copy says another time", func() []byte {
			b := l.build()
			b[24]--
			fix(b)
			return b
		}, []string{"note footer copy at byte 0x0: it differs from the footer"}},
		{"the copy is gone", func() []byte {
			b := l.build()
			clear(b[:512])
			return b
		}, []string{"note footer copy at byte 0x0: there is none"}},
		{"fixed, and more", func() []byte {
			b := formatstest.Golden(t, "fixed.vhd")
			f := bytes.Clone(b[len(b)-512:])
			return append(append(b[:len(b)-512], make([]byte, 1024)...), f...)
		}, []string{"leak footer at byte 0x400400: 1024 bytes between the end of the disk and the footer"}},
	} {
		if got := problems(t, open(t, c.make())); !slices.Equal(got, c.says) && !prefixes(got, c.says) {
			t.Errorf("%s: %q, want %q", c.name, got, c.says)
		}
	}
}

func prefixes(got, want []string) bool {
	return len(got) == len(want) && !slices.ContainsFunc(want, func(w string) bool {
		return !slices.ContainsFunc(got, func(g string) bool { return strings.HasPrefix(g, w) })
	})
}

// The guest of a fixed disk must not choose what its image is by writing a
// footer to its first sector.
func TestFixedDiskThatBeginsWithAFooter(t *testing.T) {
	inner := layout{kind: 3, size: 4096, unit: 4096, data: random(1, 4096), order: []int{0}}.build()
	b := formatstest.Golden(t, "fixed.vhd")
	copy(b, inner)
	m := open(t, b)
	if m.Subformat != "fixed" || m.Map.Size() != 4<<20 {
		t.Errorf("%+v", m.Header)
	}
	noProblems(t, m)
	for off := range 511 {
		c := bytes.Clone(b[len(b)-4608:])
		copy(c, inner[:4096])
		c[len(c)-512+off] ^= 1
		if m, err := (vhd.Format{}).Open(bytes.NewReader(c), formats.OpenOptions{}); !errors.Is(err, formats.ErrCorrupt) {
			t.Fatalf("footer damaged at %d: %+v, %v", off, m, err)
		}
	}
}

// A large is a file of which only some parts are stored; the rest is zero. It
// counts what is read.
type large struct {
	size  int64
	parts map[int64][]byte
	// table, if not nil, computes the BAT at byte 1536.
	table  func(i int64) uint32
	tabled int64
	fill   []byte // what there is where nothing is said, over and over
	read   int64
	reads  int
}

func (l *large) Size() int64 { return l.size }

func (l *large) ReadAt(p []byte, off int64) (int, error) {
	l.read += int64(len(p))
	l.reads++
	for i := 0; i < len(p); i += copy(p[i:], l.fill) {
	}
	for at, b := range l.parts {
		if off < at+int64(len(b)) && off+int64(len(p)) > at {
			copy(p[max(0, at-off):], b[max(0, off-at):])
		}
	}
	if l.table != nil && off >= 1536 && off < 1536+4*l.tabled {
		for i := 0; i+4 <= len(p); i += 4 {
			binary.BigEndian.PutUint32(p[i:], l.table((off-1536)/4+int64(i/4)))
		}
	}
	return len(p), nil
}

var zeros, ones = make([]byte, 4096), bytes.Repeat([]byte{0xff}, 4096)

// newLarge makes a dynamic disk of entries blocks.
func newLarge(size, unit, entries int64) *large {
	b := layout{kind: 3, size: 4096, unit: 4096}.build()
	be := binary.BigEndian
	be.PutUint64(b[48:], uint64(unit*entries))
	be.PutUint32(b[512+28:], uint32(entries))
	be.PutUint32(b[512+32:], uint32(unit))
	copy(b[len(b)-512:], b[:512])
	fix(b)
	return &large{size: size, tabled: entries, fill: zeros, parts: map[int64][]byte{0: b[:1536], size - 512: b[:512]}}
}

// What is not asked for is not read, whatever the size.
func TestLargeDisks(t *testing.T) {
	const unit, entries = 2 << 20, 2040 << 30 / (2 << 20)
	const start = 1536 + 4*entries
	l := newLarge(start+entries*(unit+512)+512, unit, entries)
	l.fill = ones
	l.table = func(i int64) uint32 { return uint32((start + i*(unit+512)) / 512) }
	m, err := vhd.Format{}.Open(l, formats.OpenOptions{})
	if err != nil {
		t.Fatal(err)
	}
	d := formatstest.Disk(t, m)
	if _, err := d.ReadAt(make([]byte, 1), 1<<40); err != nil {
		t.Fatal(err)
	}
	if l.read > 3<<20 {
		t.Errorf("%d bytes read for one", l.read)
	}
	l.reads = 0
	n := 0
	for _, err := range d.Extents(0, d.Size()) {
		if n++; err != nil {
			t.Fatal(err)
		}
		if n == 10000 {
			break
		}
	}
	if l.reads > n+10 {
		t.Errorf("%d extents, %d reads", n, l.reads)
	}

	// 16 TiB, empty but for a block.
	const many = 16 << 40 / unit
	l = newLarge(1536+4*many+unit+1024, unit, many)
	l.fill = ones // blocks that are not there, and a bitmap
	entry := make([]byte, 4)
	binary.BigEndian.PutUint32(entry, (1536+4*many)/512)
	l.parts[1536+4*(many/2+17)] = entry
	if m, err = (vhd.Format{}).Open(l, formats.OpenOptions{}); err != nil {
		t.Fatal(err)
	}
	var got []formats.Extent
	for e, err := range formatstest.Disk(t, m).Extents(0, 16<<40) {
		if err != nil {
			t.Fatal(err)
		}
		got = append(got, e)
	}
	if len(got) != 3 || got[1].Offset != (many/2+17)*unit || got[1].Kind != formats.Data || got[1].Length != unit {
		t.Errorf("%+v", got)
	}
	if l.read > 5*many {
		t.Errorf("%d bytes read", l.read)
	}
	noProblems(t, m)
}

// Blocks that overlap are found where the check goes through the BAT twice, too.
func TestCheckInSeveralPasses(t *testing.T) {
	const border = 4 << 20 * 2 // sectors of 4 Mi blocks of 512 bytes
	l := newLarge(6<<30, 512, 6)
	l.fill = ones
	list := []uint32{border, 5000, border - 1, border + 2, 5001, border + 1000}
	l.table = func(i int64) uint32 { return list[i] }
	m, err := vhd.Format{}.Open(l, formats.OpenOptions{})
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, p := range problems(t, m) {
		if strings.HasPrefix(p, "risk") {
			got = append(got, p)
		}
	}
	want := []string{
		"risk BAT at byte 0x610: block 4 at 0x271200 overlaps block 1 at 0x271000",
		"risk BAT at byte 0x600: block 0 at 0x100000000 overlaps block 2 at 0xfffffe00",
	}
	if !slices.Equal(got, want) {
		t.Errorf("%q, want %q", got, want)
	}
}

// Many problems of one sort become one.
func TestCheckDoesNotGoOnForEver(t *testing.T) {
	l := newLarge(64<<20, 2<<20, 1<<17)
	l.fill = ones
	l.table = func(i int64) uint32 { return 5 << 20 / 512 }
	m, err := vhd.Format{}.Open(l, formats.OpenOptions{})
	if err != nil {
		t.Fatal(err)
	}
	n, last := 0, ""
	if err := m.Check(context.Background(), func(p formats.Problem) {
		if p.Severity == formats.Risk {
			n, last = n+1, p.String()
		}
	}); err != nil {
		t.Fatal(err)
	}
	if n != 101 || !strings.HasPrefix(last, "BAT: 130971 more") {
		t.Errorf("%d problems, %s", n, last)
	}
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if err := m.Check(ctx, func(formats.Problem) {}); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
}

// The size of a disk goes by its creator: see TestDiskSize for the rules. Both
// Open and Probe follow them.
func TestOpenSizes(t *testing.T) {
	for _, creator := range []string{"vpc ", "win ", "tap\x00"} {
		l := layout{kind: 3, size: 5 * 4096, unit: 4096, order: []int{2}, data: random(1, 5*4096)}
		b := l.build()
		for _, f := range [][]byte{b, b[len(b)-512:]} {
			copy(f[28:], creator)
			copy(f[56:], []byte{0, 2, 4, 4}) // 16 KiB
		}
		fix(b)
		if err := formatstest.CheckOpen(t, vhd.Format{}, b, formats.OpenOptions{}); err != nil {
			t.Error(err)
		}
		want := l.size
		if creator == "vpc " {
			want = 16 << 10
		}
		if m := open(t, b); m.Map.Size() != want {
			t.Errorf("%q: %d, want %d", creator, m.Map.Size(), want)
		}
	}
}

const corpus = "../../../shared/corpus/images"

// Images of other people's, and the sums of what qemu reads in them.
func TestCorpus(t *testing.T) {
	want := map[string]string{
		"dfvfs/ext2.vhd":  "870be7ae16c1fa8faab05c6eb9205dc9a7ae35c5f552c5cf8a267c0bc6a5cb99",
		"plaso/image.vhd": "c6db12a7db548e193c29420c1b4533e4708b20c5033db5cc29ef075d48316d25",
		// Over a parent of zeros, which the sum is of.
		"dfvfs/fat-differential.vhd": "9e96fac774e2e3606e0e3d5f1152844ca3c6a45ed45e61f36586b2cd60b19d3f",
	}
	refused := map[string]string{
		"dfvfs/image.vhd":              "footer copy at byte 0x0: checksum", // both are wrong
		"dfvfs/image-differential.vhd": "footer copy at byte 0x0: checksum",
		"qemu/afl5.img.bz2":            "header at byte 0x200: 1024 bytes pass end of file",
	}
	found := 0
	for _, s := range formatstest.Corpus(t, corpus, 16<<20) {
		says, bad := refused[s.Path]
		if s.Format != "vpc" && !bad {
			continue
		}
		found++
		t.Run(s.Path, func(t *testing.T) {
			err := formatstest.CheckOpen(t, vhd.Format{}, s.Bytes, formats.OpenOptions{})
			if bad {
				if err == nil || !strings.Contains(err.Error(), says) {
					t.Errorf("%v, want %q", err, says)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			m := open(t, s.Bytes)
			noProblems(t, m)
			if m.Map.Size() != s.VirtualSize {
				t.Errorf("%d bytes, want %d", m.Map.Size(), s.VirtualSize)
			}
			layers := []*formats.Image{m}
			if m.Parent != nil {
				layers = append(layers, &formats.Image{Map: nothing{}})
			}
			d := formatstest.Disk(t, layers...)
			all := formatstest.CheckExtents(t, d)
			sum, ok := want[s.Path]
			if !ok {
				if len(all) != 1 || all[0].Kind != formats.Hole {
					t.Errorf("it is empty, and yet: %+v", all)
				}
				return
			}
			h := sha256.New()
			if _, err := io.Copy(h, io.NewSectionReader(d, 0, d.Size())); err != nil || fmt.Sprintf("%x", h.Sum(nil)) != sum {
				t.Errorf("sum %x, want %s, %v", h.Sum(nil), sum, err)
			}
			if m.Parent != nil {
				want := &formats.ParentRef{
					Names:  []string{`.\fat-parent.vhd`, `C:\Projects\dfvfs\test_data\fat-parent.vhd`},
					Format: "vpc", ID: "5fa21a55-f394-aa4d-9958-1951a67d5540",
				}
				if !reflect.DeepEqual(m.Parent, want) {
					t.Errorf("%+v", m.Parent)
				}
			}
		})
	}
	if found < 8 {
		t.Errorf("only %d images", found)
	}
}

// nothing is an empty disk.
type nothing struct{}

func (nothing) Size() int64                         { return 0 }
func (nothing) MapAt(int64) (formats.Extent, error) { return formats.Extent{}, io.EOF }

func FuzzOpen(f *testing.F) {
	small := layout{kind: 3, size: 6*4096 + 512, unit: 4096, order: []int{4, 1, 6}, data: random(6, 7*4096)}
	child := small
	child.kind, child.used, child.relative = 4, func(s int64) bool { return s%5 < 2 }, `.\base.vhd`
	big := formatstest.Golden(f, "fixed.vhd")
	fixed := bytes.Clone(big[len(big)-4096-512:])
	copy(fixed[4096+48:], []byte{0, 0, 0, 0, 0, 0, 16, 0})
	fix(fixed)
	formatstest.FuzzOpen(f, vhd.Format{}, [][]byte{
		small.build(), child.build(), fixed,
	}, fix)
}
