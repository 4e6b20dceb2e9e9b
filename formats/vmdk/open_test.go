package vmdk_test

import (
	"bytes"
	"compress/zlib"
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"tarvm/formats"
	"tarvm/formats/formatstest"
	"tarvm/formats/vmdk"
)

// qemu runs qemu-img and qemu-io, which writes what the commands say, and
// returns the path of the image.
func qemu(t testing.TB, dir, name, size, options string, commands ...string) string {
	t.Helper()
	args := []string{"create", "-q", "-f", "vmdk"}
	if options != "" {
		args = append(args, "-o", options)
	}
	formatstest.Run(t, dir, "qemu-img", append(args, name, size)...)
	write(t, dir, name, commands...)
	return filepath.Join(dir, name)
}

func write(t testing.TB, dir, name string, commands ...string) {
	t.Helper()
	if len(commands) == 0 {
		return
	}
	args := []string{"-f", "vmdk"}
	for _, c := range commands {
		args = append(args, "-c", c)
	}
	formatstest.Run(t, dir, "qemu-io", append(args, name)...)
}

// problems runs the check of m and returns what it and Open found.
func problems(t testing.TB, m *formats.Image) []formats.Problem {
	t.Helper()
	list := append([]formats.Problem(nil), m.Problems...)
	if err := m.Check(context.Background(), func(p formats.Problem) { list = append(list, p) }); err != nil {
		t.Error(err)
	}
	return list
}

// clean fails if the check of m finds anything.
func clean(t testing.TB, m *formats.Image) {
	t.Helper()
	for _, p := range problems(t, m) {
		t.Errorf("%v: %v", p.Severity, p)
	}
}

// runsAsQemu compares the runs of d with those that qemu-img sees.
func runsAsQemu(t *testing.T, path string, d formats.Disk) {
	t.Helper()
	type run struct {
		Start, Length int64
		Depth         int
		Zero, Data    bool
		Offset        int64
	}
	var want, got []run
	out := formatstest.Run(t, filepath.Dir(path), "qemu-img", "map", "-f", "vmdk", "--output=json", filepath.Base(path))
	if err := json.Unmarshal(out, &want); err != nil {
		t.Fatal(err)
	}
	add := func(list []run, r run) []run {
		if r.Zero {
			r.Offset, r.Depth = 0, 0 // which layer has no bytes is a matter of taste
		}
		if n := len(list); n > 0 {
			l := &list[n-1]
			if l.Zero == r.Zero && l.Data == r.Data && l.Depth == r.Depth && (r.Offset == 0 && l.Offset == 0 ||
				l.Offset+l.Length == r.Offset) {
				l.Length += r.Length
				return list
			}
		}
		return append(list, r)
	}
	var norm []run
	for _, r := range want {
		r.Data = !r.Zero
		norm = add(norm, r)
	}
	for e, err := range d.Extents(0, d.Size()) {
		if err != nil {
			t.Fatal(err)
		}
		r := run{Start: e.Offset, Length: e.Length, Depth: e.Depth, Zero: e.Kind == formats.Zero || e.Kind == formats.Hole}
		r.Data = !r.Zero
		if e.Kind == formats.Data {
			r.Offset = e.Host
		}
		got = add(got, r)
	}
	if !reflect.DeepEqual(got, norm) {
		t.Errorf("runs %+v\nqemu-img %+v", got, norm)
	}
}

// Everything that qemu-img writes, in sizes that end within a grain, too.
func TestQemuImages(t *testing.T) {
	pattern := []string{
		"write -P 0xa5 0 4k", "write -P 0x11 60k 200k", "write -P 0x22 1M 64k", "write -z 2M 1M", "write -P 0x33 2100k 1k",
	}
	for _, c := range []struct {
		options, size string
		commands      []string
		libyal, seven bool
	}{
		{"subformat=monolithicSparse", "8M", pattern, true, true},
		{"subformat=monolithicSparse", "8389120", pattern, true, true},
		// libvmdk takes zeroed grains for sector 1.
		{"subformat=monolithicSparse,zeroed_grain=on", "40M", append(pattern, "write -P 0x44 33M 3M"), false, true},
		{"subformat=monolithicSparse", "5G", append(pattern, "write -P 0x55 5242879k 1k", "write -P 0x66 2147418k 200k"),
			false, false},
		{"subformat=monolithicSparse", "512", []string{"write -P 0x77 0 512"}, true, true},
		{"subformat=monolithicFlat", "8389120", pattern, true, false},
		{"subformat=twoGbMaxExtentSparse", "5G", append(pattern, "write -P 0x55 5242879k 1k",
			"write -P 0x66 2147418k 200k"), false, false},
		{"subformat=twoGbMaxExtentSparse,zeroed_grain=on", "8389120", pattern, false, true},
		{"subformat=twoGbMaxExtentFlat", "8389120", pattern, true, false},
	} {
		t.Run(c.options+"/"+c.size, func(t *testing.T) {
			path := qemu(t, t.TempDir(), "a.vmdk", c.size, c.options, c.commands...)
			m := formatstest.OpenFile(t, vmdk.Format{}, path)
			d := formatstest.Disk(t, m)
			formatstest.CheckDisk(t, d, formatstest.QemuRaw(t, "vmdk", path))
			if !strings.Contains(c.options, "Flat") {
				runsAsQemu(t, path, d)
			}
			clean(t, m)
			if m.Parent != nil || len(m.ID) != 8 {
				t.Errorf("parent %+v, id %q", m.Parent, m.ID)
			}
			if c.libyal {
				formatstest.CheckDisk(t, d, formatstest.LibyalRaw(t, "pyvmdk", path))
			}
			if c.seven {
				formatstest.CheckDisk(t, d, formatstest.SevenZipRaw(t, path))
			}
		})
	}
}

// A grain that became zeros leaves its room behind.
func TestQemuLeak(t *testing.T) {
	path := qemu(t, t.TempDir(), "a.vmdk", "8M", "zeroed_grain=on", "write -P 1 0 256k", "write -z 64k 128k")
	list := problems(t, formatstest.OpenFile(t, vmdk.Format{}, path))
	if len(list) != 1 || list[0].Severity != formats.Leak || !strings.HasPrefix(list[0].Text, "2 grains of 65536 bytes") {
		t.Errorf("%v", list)
	}
}

// qemu-img writes empty disks, but does not read them.
func TestQemuEmpty(t *testing.T) {
	for _, options := range []string{"subformat=monolithicSparse", "subformat=monolithicFlat",
		"subformat=streamOptimized", "subformat=twoGbMaxExtentSparse"} {
		m := formatstest.OpenFile(t, vmdk.Format{}, qemu(t, t.TempDir(), "a.vmdk", "0", options))
		formatstest.CheckDisk(t, formatstest.Disk(t, m), bytes.NewReader(nil))
		clean(t, m)
	}
}

// Flat extents of which the second begins at 2 GiB: only the seam is read.
func TestQemuFlatExtents(t *testing.T) {
	path := qemu(t, t.TempDir(), "a.vmdk", "5G", "subformat=twoGbMaxExtentFlat", "write -P 0x66 2097052k 200k",
		"write -P 0x77 5242879k 1k")
	m := formatstest.OpenFile(t, vmdk.Format{}, path)
	d := formatstest.Disk(t, m)
	want := []formats.Extent{
		{Length: 2 << 30, Kind: formats.Data, File: 1},
		{Offset: 2 << 30, Length: 2 << 30, Kind: formats.Data, File: 2},
		{Offset: 4 << 30, Length: 1 << 30, Kind: formats.Data, File: 3},
	}
	if got := formatstest.CheckExtents(t, d); !reflect.DeepEqual(got, want) {
		t.Errorf("%+v", got)
	}
	clean(t, m)
	raw := formatstest.QemuRaw(t, "vmdk", path)
	for _, off := range []int64{0, 2<<30 - 256<<10, 5<<30 - 256<<10} {
		a, b := make([]byte, 256<<10), make([]byte, 256<<10)
		n, err := d.ReadAt(a, off)
		if k, err2 := raw.ReadAt(b, off); n != len(a) || k != n || !bytes.Equal(a, b) {
			t.Errorf("at %d: %d bytes, %v; %d, %v", off, n, err, k, err2)
		}
	}
}

// qemu-img's streams have their directory in the header.
func TestQemuStream(t *testing.T) {
	for _, size := range []int64{1 << 20, 40<<20 + 512*3, 512} {
		dir := t.TempDir()
		raw, path := filepath.Join(dir, "raw"), filepath.Join(dir, "a.vmdk")
		p := formatstest.NewPattern(t, 5, size)
		if err := os.WriteFile(raw, p.Bytes, 0o600); err != nil {
			t.Fatal(err)
		}
		formatstest.Run(t, dir, "qemu-img", "convert", "-f", "raw", "-O", "vmdk", "-o", "subformat=streamOptimized", raw,
			path)
		m := formatstest.OpenFile(t, vmdk.Format{}, path)
		d := formatstest.Disk(t, m)
		formatstest.CheckDisk(t, d, p.Source())
		runsAsQemu(t, path, d)
		clean(t, m)
		formatstest.CheckDisk(t, d, formatstest.LibyalRaw(t, "pyvmdk", path))
	}
}

// A chain of deltas: what a link does not have, its parent has; zeroed grains
// hide the parent. The parent may be shorter.
func TestQemuDelta(t *testing.T) {
	for _, options := range []string{"subformat=monolithicSparse", "subformat=monolithicSparse,zeroed_grain=on",
		"subformat=twoGbMaxExtentSparse"} {
		dir := t.TempDir()
		qemu(t, dir, "base.vmdk", "8M", "", "write -P 0xa5 0 1M", "write -P 0x11 4M 1M")
		qemu(t, dir, "mid.vmdk", "12M", options+",backing_file=base.vmdk,backing_fmt=vmdk", "write -P 0x22 512k 1M",
			"write -z 4M 64k")
		top := qemu(t, dir, "top.vmdk", "12M", options+",backing_file=mid.vmdk,backing_fmt=vmdk", "write -P 0x33 700k 2k",
			"write -P 0x44 9M 64k")
		var layers []*formats.Image
		for _, name := range []string{"top.vmdk", "mid.vmdk", "base.vmdk"} {
			layers = append(layers, formatstest.OpenFile(t, vmdk.Format{}, filepath.Join(dir, name)))
		}
		d := formatstest.Disk(t, layers...)
		formatstest.CheckDisk(t, d, formatstest.QemuRaw(t, "vmdk", top))
		runsAsQemu(t, top, d)
		for i, l := range layers {
			clean(t, l)
			if i == 2 {
				if l.Parent != nil {
					t.Errorf("base has a parent: %+v", l.Parent)
				}
				break
			}
			want := &formats.ParentRef{Names: []string{[]string{"mid.vmdk", "base.vmdk"}[i]}, Format: "vmdk", ID: layers[i+1].ID}
			if !reflect.DeepEqual(l.Parent, want) {
				t.Errorf("parent %+v, want %+v", l.Parent, want)
			}
		}
		if _, err := formatstest.Disk(t, layers[0]).ReadAt(make([]byte, 512), 0); !errors.Is(err, formats.ErrNoParent) {
			t.Errorf("a delta alone: %v", err)
		}
	}
}

// A delta of ESX over a flat base. qemu reads it, too.
func TestESXDeltas(t *testing.T) {
	base, data := random(1<<20), bytes.Repeat([]byte("guest data of a delta "), 1<<20/22+1)[:1<<20]
	for _, c := range []struct {
		create, kind string
		unit         int
		delta        []byte
		grains       []int
		libyal       bool
	}{
		{"vmfsSparse", "VMFSSPARSE", 512, cowd(1, 3, data, 9, 2, 10, 11, 0, 2047), []int{9, 2, 10, 11, 0, 2047}, true},
		{"vmfsSparse", "VMFSSPARSE", 4096, cowd(8, 3, data, 255, 4, 5), []int{255, 4, 5}, true},
		{"seSparse", "SESPARSE", 4096, se(data, 9, 2, 3, 0, 255), []int{9, 2, 3, 0, 255}, false},
	} {
		t.Run(fmt.Sprint(c.create, c.unit), func(t *testing.T) {
			want := bytes.Clone(base)
			for _, g := range c.grains {
				copy(want[g*c.unit:], data[g*c.unit:][:c.unit])
			}
			files := map[string][]byte{
				"base-flat.vmdk": base,
				"base.vmdk":      []byte(descriptor("vmfs", `RW 2048 VMFS "base-flat.vmdk"`)),
				"a-delta.vmdk":   c.delta,
				"a.vmdk": []byte(strings.Replace(descriptor(c.create, `RW 2048 `+c.kind+` "a-delta.vmdk"`),
					"parentCID=ffffffff", "parentCID=fffffffe\nparentFileNameHint=\"base.vmdk\"", 1)),
			}
			dir := t.TempDir()
			for name, b := range files {
				if err := os.WriteFile(filepath.Join(dir, name), b, 0o600); err != nil {
					t.Fatal(err)
				}
			}
			path := filepath.Join(dir, "a.vmdk")
			m := formatstest.OpenFile(t, vmdk.Format{}, path)
			b := formatstest.OpenFile(t, vmdk.Format{}, filepath.Join(dir, "base.vmdk"))
			d := formatstest.Disk(t, m, b)
			formatstest.CheckDisk(t, d, bytes.NewReader(want))
			clean(t, m)
			clean(t, b)
			if m.Parent == nil || m.Parent.ID != b.ID || b.ID != "fffffffe" || b.Subformat != "vmfs" {
				t.Errorf("parent %+v of %s", m.Parent, b.ID)
			}
			// Alone, the file says that it has a parent, and no more.
			alone := formatstest.OpenFile(t, vmdk.Format{}, filepath.Join(dir, "a-delta.vmdk"))
			if want := (&formats.ParentRef{Format: "vmdk"}); !reflect.DeepEqual(alone.Parent, want) || alone.ID != "" {
				t.Errorf("%+v, id %q", alone.Parent, alone.ID)
			}
			formatstest.CheckDisk(t, formatstest.Disk(t, alone, b), bytes.NewReader(want))
			formatstest.CheckDisk(t, d, formatstest.QemuRaw(t, "vmdk", path))
			if c.libyal {
				formatstest.CheckDisk(t, d, formatstest.LibyalRaw(t, "pyvmdk", path, filepath.Join(dir, "base.vmdk")))
			}
		})
	}
}

// Entries of a seSparse table that are not grains.
func TestSEEntries(t *testing.T) {
	data := random(1 << 20)
	b := se(data, 0, 5)
	le := binary.LittleEndian
	for g, v := range map[int]uint64{1: 1 << 60, 2: 2 << 60, 3: 2<<60 | 7, 4: 0} {
		le.PutUint64(b[9*512+8*g:], v)
	}
	m := openBytes(t, b, nil)
	want := []formats.Extent{
		{Offset: 0, Length: 4096, Kind: formats.Data, Host: 83 * 512},
		{Offset: 4096, Length: 3 * 4096, Kind: formats.Zero},
		{Offset: 4 * 4096, Length: 4096, Kind: formats.Parent},
		{Offset: 5 * 4096, Length: 4096, Kind: formats.Data, Host: 91 * 512},
		{Offset: 6 * 4096, Length: 1<<20 - 6*4096, Kind: formats.Parent},
	}
	if got := formatstest.CheckExtents(t, formatstest.Disk(t, m)); !reflect.DeepEqual(got, want) {
		t.Errorf("%+v, want %+v", got, want)
	}
	clean(t, m)
	qemuReads(t, keep(data, 4096, 0, 5), "a.vmdk", map[string][]byte{
		"a-sesparse.vmdk": b, "a.vmdk": []byte(descriptor("seSparse", `RW 2048 SESPARSE "a-sesparse.vmdk"`)),
	})
}

func openBytes(t testing.TB, b []byte, files map[string][]byte) *formats.Image {
	t.Helper()
	m, err := vmdk.Format{}.Open(bytes.NewReader(b), formats.OpenOptions{Find: formatstest.Sources(files)})
	if err != nil {
		t.Fatal(err)
	}
	return m
}

// Grains as VMware lays them out, with neighbours in one run, and the file under
// another name than its descriptor has.
func TestHostedRuns(t *testing.T) {
	data := random(4 << 20)
	grains := []int{7, 8, 9, 0, 63, 2}
	b := sparse{phase: 53, grains: grains, desc: descriptor("monolithicSparse",
		`RW 8192 SPARSE "another name.vmdk"`)}.build(data)
	m := openBytes(t, b, nil)
	formatstest.CheckDisk(t, formatstest.Disk(t, m), bytes.NewReader(keep(data, 64<<10, grains...)))
	clean(t, m)
	const g = 64 << 10
	first := int64(128+53) * 512
	for _, w := range []formats.Extent{
		{Offset: 0, Length: g, Kind: formats.Data, Host: first + 3*g},
		{Offset: g, Length: g, Kind: formats.Hole},
		{Offset: 3 * g, Length: 4 * g, Kind: formats.Hole},
		{Offset: 7 * g, Length: 3 * g, Kind: formats.Data, Host: first},
		{Offset: 10 * g, Length: 53 * g, Kind: formats.Hole},
	} {
		if e, err := m.Map.MapAt(w.Offset); err != nil || e != w {
			t.Errorf("%+v, %v, want %+v", e, err, w)
		}
	}
	if _, err := m.Map.MapAt(4 << 20); !errors.Is(err, io.EOF) {
		t.Errorf("behind the end: %v", err)
	}
}

// stream is a streamOptimized extent as a one-pass writer makes it: markers
// before everything, the directory in a footer.
type stream struct {
	version int
	grains  []int // in file order
	desc    string
	inside  bool // directory in the header, no footer
	short   bool // the last grain is no longer than the disk
}

func (s stream) build(t testing.TB, data []byte) []byte {
	t.Helper()
	le := binary.LittleEndian
	capacity := len(data) / 512
	tables := (capacity + 512*grain - 1) / (512 * grain)
	b := make([]byte, grain*512)
	copy(b, "KDMV")
	le.PutUint32(b[4:], uint32(s.version))
	le.PutUint32(b[8:], 0x30001)
	le.PutUint64(b[12:], uint64(capacity))
	le.PutUint64(b[20:], grain)
	if s.desc != "" {
		le.PutUint64(b[28:], 1)
		le.PutUint64(b[36:], 1)
		copy(b[512:1024], s.desc)
	}
	le.PutUint32(b[44:], 512)
	le.PutUint64(b[64:], grain)
	copy(b[73:], "\n \r\n")
	le.PutUint16(b[77:], 1)
	pad := func() { b = append(b, make([]byte, (512-len(b)%512)%512)...) }
	marker := func(sectors uint64, kind uint32) {
		m := make([]byte, 512)
		le.PutUint64(m, sectors)
		le.PutUint32(m[12:], kind)
		b = append(b, m...)
	}
	table := make([]byte, tables*2048)
	for _, g := range s.grains {
		le.PutUint32(table[4*g:], uint32(len(b)/512))
		full := make([]byte, grain*512)
		n := copy(full, data[g*grain*512:])
		if !s.short {
			n = len(full)
		}
		var z bytes.Buffer
		w := zlib.NewWriter(&z)
		if _, err := w.Write(full[:n]); err != nil {
			t.Fatal(err)
		}
		if err := w.Close(); err != nil {
			t.Fatal(err)
		}
		b = le.AppendUint64(b, uint64(g*grain))
		b = le.AppendUint32(b, uint32(z.Len()))
		b = append(b, z.Bytes()...)
		pad()
	}
	dir := make([]byte, 512*((tables*4+511)/512))
	for i := range tables {
		if bytes.Count(table[2048*i:][:2048], []byte{0}) == 2048 {
			continue
		}
		marker(4, 1)
		le.PutUint32(dir[4*i:], uint32(len(b)/512))
		b = append(b, table[2048*i:][:2048]...)
	}
	marker(uint64(len(dir)/512), 2)
	gd := uint64(len(b) / 512)
	b = append(b, dir...)
	if s.inside {
		le.PutUint64(b[56:], gd)
		return b
	}
	footer := bytes.Clone(b[:512])
	le.PutUint64(footer[56:], gd)
	le.PutUint64(b[56:], ^uint64(0))
	marker(1, 3)
	b = append(b, footer...)
	return append(b, make([]byte, 512)...)
}

// Streams of either layout and version, whose last grain is whole or short, in
// any order of grains.
func TestStreams(t *testing.T) {
	const size = 40<<20 + 512*5
	data := formatstest.NewPattern(t, 9, size).Bytes
	for i, s := range []stream{
		{version: 3, grains: []int{0, 1, 5, 511, 512, 639, 640}},
		{version: 1, grains: []int{0, 1, 5, 511, 512, 639, 640}, short: true},
		{version: 3, grains: []int{7, 640, 3, 2}, inside: true},
		{version: 1, grains: []int{600}, inside: true, desc: descriptor("streamOptimized", `RDONLY 81925 SPARSE "x"`)},
		{version: 3, desc: descriptor("streamOptimized", `RDONLY 81925 SPARSE "call-me-stream.vmdk"`)},
	} {
		b := s.build(t, data)
		want := keepShort(data, s.grains...)
		m := openBytes(t, b, nil)
		formatstest.CheckDisk(t, formatstest.Disk(t, m), bytes.NewReader(want))
		for _, p := range problems(t, m) {
			if p.Severity != formats.Note || s.desc != "" {
				t.Errorf("%d: %v: %v", i, p.Severity, p)
			}
		}
		if m.Subformat != "streamOptimized" || !m.Compressed {
			t.Errorf("%d: %+v", i, m.Header)
		}
		if s.desc == "" {
			continue
		}
		path := filepath.Join(t.TempDir(), "a.vmdk")
		if err := os.WriteFile(path, b, 0o600); err != nil {
			t.Fatal(err)
		}
		formatstest.CheckDisk(t, formatstest.Disk(t, m), formatstest.QemuRaw(t, "vmdk", path))
	}
}

// keepShort is keep of grains, the last of which may end early.
func keepShort(data []byte, grains ...int) []byte {
	out := make([]byte, len(data))
	for _, g := range grains {
		at := g * grain * 512
		n := min(grain*512, len(data)-at)
		copy(out[at:], data[at:][:n])
	}
	return out
}

// Descriptors by hand: extents of all kinds, and what is refused.
func TestDescriptors(t *testing.T) {
	data := random(1 << 20)
	files := map[string][]byte{
		"flat": data, "größe.vmdk": data[:4096], "text": []byte(descriptor("vmfs", "RW 1 ZERO")),
		"s1": sparse{phase: 3, grains: []int{1, 3}}.build(data[:512<<10]),
	}
	for _, c := range []struct {
		name, extents string
		want          []byte
		err           error
		says          string
	}{
		{"flat with offset", `RW 8 FLAT "flat" 100`, data[51200:][:4096], nil, ""},
		{"flat without offset", `RW 8 VMFS "flat"`, data[:4096], nil, ""},
		{"read only", `RDONLY 8 FLAT "flat" 0`, data[:4096], nil, ""},
		{"zero in the middle", "RW 2 FLAT \"flat\" 4\nRW 3 ZERO\nNOACCESS 1 ZERO\nRW 0 FLAT \"flat\" 0\nRW 1 FLAT \"flat\" 1",
			joined(data[2048:3072], make([]byte, 2048), data[512:1024]), nil, ""},
		{"nothing", "", nil, nil, ""},
		{"name in windows-1252", "encoding=windows-1252\nRW 8 FLAT \"gr\xf6\xdfe.vmdk\" 0", data[:4096], nil, ""},
		{"sparse between flat", "RW 1 FLAT \"flat\" 0\nRW 1024 SPARSE \"s1\"\nRW 1 FLAT \"flat\" 9",
			joined(data[:512], keep(data[:512<<10], 64<<10, 1, 3), data[9*512:][:512]), nil, ""},
		{"sparse longer than its line", "RW 300 SPARSE \"s1\"\nRW 1 FLAT \"flat\" 9",
			joined(keep(data[:512<<10], 64<<10, 1, 3)[:300*512], data[9*512:][:512]), nil, ""},
		{"raw device mapping", `RW 8 VMFSRDM "x-rdm.vmdk"`, nil, formats.ErrUnsupported, "VMFSRDM"},
		{"not known", `RW 8 VMFSTHING "x"`, nil, formats.ErrUnsupported, "VMFSTHING"},
		{"no access", `NOACCESS 8 FLAT "flat" 0`, nil, formats.ErrUnsupported, "accessed"},
		{"device", "createType=fullDevice\nRW 8 FLAT \"/dev/sda\" 0", nil, formats.ErrUnsupported, "device"},
		{"encrypted", "encryptionKeys=\"vmware:key/list\"\nRW 8 FLAT \"flat\" 0", nil, formats.ErrUnsupported, "encrypted"},
		{"no file", `RW 8 FLAT "gone.vmdk" 0`, nil, os.ErrNotExist, `extent "gone.vmdk"`},
		{"no sparse extent", `RW 8 SPARSE "flat"`, nil, formats.ErrCorrupt, "no sparse extent"},
		{"itself", `RW 8 SPARSE "text"`, nil, formats.ErrCorrupt, "no sparse extent"},
		{"flat far behind", `RW 8 FLAT "flat" 18014398509481983`, nil, formats.ErrCorrupt, "sectors at"},
	} {
		t.Run(c.name, func(t *testing.T) {
			b := []byte("# Disk DescriptorFile\nCID=00000001\n" + c.extents + "\n")
			m, err := vmdk.Format{}.Open(bytes.NewReader(b), formats.OpenOptions{Find: formatstest.Sources(files)})
			if c.err != nil {
				if !errors.Is(err, c.err) || m != nil || !strings.Contains(err.Error(), c.says) {
					t.Errorf("%v, want %v, %q", err, c.err, c.says)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			formatstest.CheckDisk(t, formatstest.Disk(t, m), bytes.NewReader(c.want))
			for _, p := range problems(t, m) {
				if p.Severity != formats.Note {
					t.Errorf("%v: %v", p.Severity, p)
				}
			}
		})
	}
	b := []byte(descriptor("vmfs", `RW 8 VMFS "flat"`))
	if _, err := (vmdk.Format{}).Open(bytes.NewReader(b), formats.OpenOptions{}); !errors.Is(err, formats.ErrUnsupported) {
		t.Errorf("nobody finds files: %v", err)
	}
}

func joined(parts ...[]byte) []byte { return bytes.Join(parts, nil) }

func TestFacts(t *testing.T) {
	text := "# Disk DescriptorFile\nversion=1\nCID=0a0b0c0d\nparentCID=00000007\ncreateType=\"twoGbMaxExtentFlat\"\n" +
		"parentFileNameHint=\"C:\\x\\gr\xf6sse.vmdk\"\nRW 8 FLAT \"f\" 3\nRW 2 ZERO\n" +
		"ddb.adapterType = \"ide\"\nddb.virtualHWVersion = \"4\"\n" +
		"ddb.geometry.cylinders = \"1\"\nddb.geometry.heads = \"16\"\nddb.geometry.sectors = \"63\"\n" +
		"ddb.uuid = \"60 00\"\nddb.uuid.image=\"u\"\nddb.longContentID=\"000000000000000000000000ffffffff\"\n"
	m := openBytes(t, []byte(text), map[string][]byte{"f": make([]byte, 11*512)})
	var want []formats.Fact
	for _, f := range [][2]string{
		{"createType", "twoGbMaxExtentFlat"},
		{"CID", "0a0b0c0d"},
		{"parentCID", "00000007"},
		{"parentFileNameHint", `C:\x\grösse.vmdk`},
		{"adapterType", "ide"},
		{"virtualHWVersion", "4"},
		{"geometry", "1/16/63"},
		{"uuid", "60 00"},
		{"uuid.image", "u"},
		{"longContentID", "000000000000000000000000ffffffff"},
		{"extent", `RW 8 FLAT "f" 3`},
		{"extent", "RW 2 ZERO"},
	} {
		want = append(want, formats.Fact{Name: f[0], Value: f[1]})
	}
	if !reflect.DeepEqual(m.Facts, want) {
		t.Errorf("%+v\nwant %+v", m.Facts, want)
	}
	if m.ID != "0a0b0c0d" || m.Parent == nil || m.Parent.ID != "00000007" || m.Parent.Names[0] != `C:\x\grösse.vmdk` {
		t.Errorf("id %q, parent %+v", m.ID, m.Parent)
	}
	if list := problems(t, m); len(list) != 1 || !strings.Contains(list[0].Text, "longContentID") {
		t.Errorf("%v", list)
	}
	m = openBytes(t, formatstest.Golden(t, "monolithicSparse.vmdk"), nil)
	if !reflect.DeepEqual(m.Facts[0], formats.Fact{Name: "version", Value: "1"}) || len(m.Files) != 1 {
		t.Errorf("%+v", m.Facts)
	}
}

// A parent's name without its CID: what is missing is not the parent's, and
// somebody must look.
func TestParentWithoutCID(t *testing.T) {
	m := openBytes(t,
		[]byte("# Disk DescriptorFile\nCID=1\nparentCID=ffffffff\nparentFileNameHint=\"b.vmdk\"\nRW 1 ZERO\n"), nil)
	if m.Parent != nil || len(m.Problems) != 1 || m.Problems[0].Severity != formats.Risk {
		t.Errorf("%+v, %v", m.Parent, m.Problems)
	}
}

// A counted source fails when more is read than a large empty disk may cost.
type counted struct {
	t    testing.TB
	head []byte
	size int64
	left int64
}

func (c *counted) Size() int64 { return c.size }

func (c *counted) ReadAt(p []byte, off int64) (int, error) {
	if c.left -= int64(len(p)); c.left < 0 {
		c.t.Fatal("too much is read")
	}
	clear(p)
	if off < int64(len(c.head)) {
		copy(p, c.head[off:])
	}
	return len(p), nil
}

// 16 TiB with one grain: what is read and how many runs there are do not depend
// on the size.
func TestHugeEmpty(t *testing.T) {
	const tables = 16 << 40 / (512 * grain * 512)
	le := binary.LittleEndian
	head := bytes.Clone(sparse{}.build(make([]byte, 1<<20))[:512])
	le.PutUint64(head[12:], tables*512*grain)
	le.PutUint64(head[56:], 8)
	le.PutUint64(head[64:], 128+tables*4/512)
	head = append(head, make([]byte, 8*512-512+tables*4)...)
	at := len(head) / 512
	le.PutUint32(head[8*512+4*(tables-5):], uint32(at))
	head = append(head, make([]byte, 2048)...)
	first := (len(head)/512 + 127) / 128 * 128
	le.PutUint32(head[at*512+4*7:], uint32(first))
	src := &counted{t: t, head: head, size: int64(first+128) * 512, left: 16 << 20}
	m, err := vmdk.Format{}.Open(src, formats.OpenOptions{})
	if err != nil {
		t.Fatal(err)
	}
	var got []formats.Extent
	for e, err := range formatstest.Disk(t, m).Extents(0, m.Map.Size()) {
		if err != nil {
			t.Fatal(err)
		}
		got = append(got, e)
	}
	off := int64(tables-5)*32<<20 + 7*64<<10
	want := []formats.Extent{
		{Length: off, Kind: formats.Hole},
		{Offset: off, Length: 64 << 10, Kind: formats.Data, Host: int64(first) * 512},
		{Offset: off + 64<<10, Length: 16<<40 - off - 64<<10, Kind: formats.Hole},
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("%+v, want %+v", got, want)
	}
	if err := m.Check(context.Background(), func(p formats.Problem) { t.Error(p) }); err != nil {
		t.Error(err)
	}
}

// A disk of more extents than are kept open at a time.
func TestManyExtents(t *testing.T) {
	const n = 60
	data := random(n * 128 << 10)
	files := map[string][]byte{}
	var lines, want []byte
	for i := range n {
		part := data[i*128<<10:][:128<<10]
		name := fmt.Sprintf("a-s%03d.vmdk", i+1)
		files[name] = sparse{phase: i, grains: []int{i & 1}}.build(part)
		lines = fmt.Appendf(lines, "RW 256 SPARSE %q\n", name)
		want = append(want, keep(part, 64<<10, i&1)...)
	}
	m := openBytes(t, []byte(descriptor("twoGbMaxExtentSparse", string(lines))), files)
	formatstest.CheckDisk(t, formatstest.Disk(t, m), bytes.NewReader(want))
	clean(t, m)
}
