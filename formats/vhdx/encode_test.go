package vhdx_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"tarvm/formats"
	"tarvm/formats/formatstest"
	"tarvm/formats/vhdx"
)

// What is written is read by this package, qemu, libvhdi and 7-Zip alike.
func TestEncode(t *testing.T) {
	for _, c := range []struct {
		subformat string
		unit      int64
		size      int64
	}{
		{"", 0, 40*mib + 512},
		{"dynamic", mib, 9*mib - 1024},
		{"dynamic", 64 * mib, 3 * mib},
		{"dynamic", mib, 512},
		{"fixed", 0, 5 * mib},
		{"fixed", 2 * mib, 7*mib + 512},
		{"", mib, 3*mib + 100},
	} {
		t.Run(fmt.Sprint(c.subformat, " ", c.unit, " ", c.size), func(t *testing.T) {
			p := formatstest.NewPattern(t, 5, c.size)
			o := formats.EncodeOptions{Subformat: c.subformat, Unit: c.unit, ID: [16]byte{1, 2, 3}}
			path := formatstest.Encode(t, vhdx.Format{}, "disk.vhdx", p.Disk, o)
			m := formatstest.OpenFile(t, vhdx.Format{}, path)
			p.Bytes = append(p.Bytes, make([]byte, -c.size&511)...) // what it is filled up with
			formatstest.CheckDisk(t, formatstest.Disk(t, m), p.Source())
			sound(t, m)
			want := c.subformat
			if want == "" {
				want = "dynamic"
			}
			if m.Subformat != want {
				t.Errorf("%+v", m.Header)
			}
			t.Run("qemu", func(t *testing.T) {
				formatstest.QemuCheck(t, "vhdx", path)
				formatstest.CheckDisk(t, formatstest.Disk(t, m), formatstest.QemuRaw(t, "vhdx", path))
			})
			t.Run("libvhdi", func(t *testing.T) {
				formatstest.CheckDisk(t, formatstest.Disk(t, m), formatstest.LibyalRaw(t, "pyvhdi", path))
			})
			t.Run("7-Zip", func(t *testing.T) {
				if c.size%1024 != 0 {
					t.Skip("7-Zip 26.02 refuses an odd number of sectors, in qemu's images, too")
				}
				formatstest.CheckDisk(t, formatstest.Disk(t, m), formatstest.SevenZipRaw(t, path))
			})
		})
	}
}

// Holes cost the file nothing but BAT entries, and chunks are stepped over.
func TestEncodeLarge(t *testing.T) {
	const size = 9 << 30
	src := bytes.NewReader(noise(1, 1<<20))
	d := formatstest.Disk(t, &formats.Image{
		Header: formats.Header{Format: "test"},
		Map: runs{size, []formats.Extent{
			{Offset: 3 * mib, Length: mib, Kind: formats.Data},
			{Offset: 4<<30 - 4096, Length: 8192, Kind: formats.Data, Host: 4096},
			{Offset: size - 512, Length: 512, Kind: formats.Data, Host: 77 * 512},
		}},
		Files: []formats.Source{src},
	})
	path := formatstest.Encode(t, vhdx.Format{}, "disk.vhdx", d, formats.EncodeOptions{Unit: mib})
	st, err := os.Stat(path)
	if err != nil || st.Size() != 3*mib+mib+4*mib {
		t.Errorf("%d bytes, %v", st.Size(), err)
	}
	m := formatstest.OpenFile(t, vhdx.Format{}, path)
	sound(t, m)
	got := formatstest.Disk(t, m)
	for e, err := range d.Extents(0, size) {
		if err != nil || e.Kind != formats.Data {
			continue
		}
		a, b := make([]byte, e.Length), make([]byte, e.Length)
		_, err1 := d.ReadAt(a, e.Offset)
		_, err2 := got.ReadAt(b, e.Offset)
		if !bytes.Equal(a, b) || err1 != nil || err2 != nil {
			t.Errorf("%+v: %v, %v", e, err1, err2)
		}
	}
	formatstest.QemuCheck(t, "vhdx", path)
}

// runs maps to what it lists, and holes.
type runs struct {
	size int64
	list []formats.Extent
}

func (r runs) Size() int64 { return r.size }

func (r runs) MapAt(off int64) (formats.Extent, error) {
	at := int64(0)
	for _, e := range r.list {
		if off < e.Offset {
			return formats.Extent{Offset: at, Length: e.Offset - at, Kind: formats.Hole}, nil
		}
		if off < e.End() {
			return e, nil
		}
		at = e.End()
	}
	if off >= r.size {
		return formats.Extent{}, io.EOF
	}
	return formats.Extent{Offset: at, Length: r.size - at, Kind: formats.Hole}, nil
}

func TestEncodeDifferencing(t *testing.T) {
	for _, c := range []struct{ unit, base, size int64 }{
		{0, 9 * mib, 9 * mib},
		{mib, 5*mib + 512, 9*mib - 512},
		{32 * mib, 9 * mib, 40 * mib},
		{mib, 9 * mib, 3 * mib},
	} {
		t.Run(fmt.Sprint(c), func(t *testing.T) {
			base := formatstest.NewPattern(t, 3, c.base)
			basePath := formatstest.Encode(t, vhdx.Format{}, "base.vhdx", base.Disk, formats.EncodeOptions{ID: [16]byte{1}})
			parent := formatstest.OpenFile(t, vhdx.Format{}, basePath)
			top := base.Changed(t, 4, c.size)
			path := formatstest.Encode(t, vhdx.Format{}, "top.vhdx", top.Disk, formats.EncodeOptions{
				ID: [16]byte{2}, Unit: c.unit, Base: base.Disk,
				Parent: &formats.ParentRef{Names: []string{"base.vhdx", `C:\vm\base.vhdx`}, ID: parent.ID, Format: "vhdx"},
			})
			m := formatstest.OpenFile(t, vhdx.Format{}, path)
			formatstest.CheckDisk(t, formatstest.Disk(t, m, parent), top.Source())
			sound(t, m)
			if p := m.Parent; p == nil || p.ID != parent.ID || strings.Join(p.Names, " ") != `base.vhdx \\?\C:\vm\base.vhdx` ||
				m.ID == parent.ID || m.Subformat != "differencing" {
				t.Errorf("%+v, %+v", m.Header, p)
			}
			if c.base >= c.size {
				t.Run("libvhdi", func(t *testing.T) {
					formatstest.CheckDisk(t, formatstest.Disk(t, m, parent), formatstest.LibyalRaw(t, "pyvhdi", path, basePath))
				})
			}
		})
	}
}

// Blocks and sector bitmap blocks of several chunks, with gaps between them.
func TestEncodeDifferencingChunks(t *testing.T) {
	const size = 13<<30 + 512
	layer := func(list ...formats.Extent) formats.Disk {
		return formatstest.Disk(t, &formats.Image{
			Header: formats.Header{Format: "test"}, Map: runs{size, list}, Files: []formats.Source{bytes.NewReader(noise(1,
				mib))},
		})
	}
	top := layer(
		formats.Extent{Offset: mib, Length: 128 << 10, Kind: formats.Data},
		formats.Extent{Offset: 4<<30 - 64<<10, Length: 128 << 10, Kind: formats.Data},
		formats.Extent{Offset: size - 512, Length: 512, Kind: formats.Data, Host: 512},
	)
	path := filepath.Join(t.TempDir(), "top.vhdx")
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	err = vhdx.Format{}.Encode(context.Background(), formats.Outputs{Main: f}, top, formats.EncodeOptions{
		Base: layer(), Unit: mib,
		Parent: &formats.ParentRef{Names: []string{"p"}, ID: "83ed0ec3-24c8-49a6-a959-5e4bf1288bfb"},
	})
	if err != nil {
		t.Fatal(err)
	}
	m := formatstest.OpenFile(t, vhdx.Format{}, path)
	sound(t, m)
	var got []string
	for e, err := range formatstest.Disk(t, m).Extents(0, size) {
		if err != nil {
			t.Fatal(err)
		}
		got = append(got, fmt.Sprintf("%v %d", e.Kind, e.Length>>9))
	}
	const kib = 2
	want := fmt.Sprintf("parent %d, data %d, parent %d, data %d, parent %d, data 1", 1024*kib, 128*kib,
		4<<21-64*kib-1152*kib, 128*kib, 9<<21-64*kib)
	if s := strings.Join(got, ", "); s != want {
		t.Errorf("%s, want %s", s, want)
	}
}

func TestEncodeRefuses(t *testing.T) {
	d := formatstest.NewPattern(t, 1, 2*mib).Disk
	huge := formatstest.Disk(t, &formats.Image{Map: runs{size: 64<<40 + 512}})
	parent := &formats.ParentRef{Names: []string{"p"}, ID: "83ed0ec3-24c8-49a6-a959-5e4bf1288bfb"}
	for _, c := range []struct {
		d    formats.Disk
		o    formats.EncodeOptions
		says string
	}{
		{d, formats.EncodeOptions{Subformat: "thin"}, "subformat"},
		{d, formats.EncodeOptions{Subformat: "differencing"}, "parent"},
		{d, formats.EncodeOptions{Subformat: "fixed", Base: d, Parent: parent}, "parent"},
		{d, formats.EncodeOptions{Base: d}, "without a name"},
		{d, formats.EncodeOptions{Base: d, Parent: &formats.ParentRef{Names: []string{"p"}, ID: "5"}}, "no GUID"},
		{d, formats.EncodeOptions{Base: d, Parent: &formats.ParentRef{Names: []string{"p"}, ID: parent.ID, Format: "vpc"}},
			"vpc"},
		{d, formats.EncodeOptions{Compression: "zstd"}, "compression"},
		{d, formats.EncodeOptions{Unit: 3 * mib}, "block size"},
		{d, formats.EncodeOptions{Unit: 512 * mib}, "block size"},
		{huge, formats.EncodeOptions{}, "disk size"},
	} {
		f, err := os.Create(filepath.Join(t.TempDir(), "x"))
		if err != nil {
			t.Fatal(err)
		}
		err = vhdx.Format{}.Encode(context.Background(), formats.Outputs{Main: f}, c.d, c.o)
		if !errors.Is(err, formats.ErrUnsupported) || !strings.Contains(err.Error(), c.says) {
			t.Errorf("%+v: %v", c.o, err)
		}
		if st, err := f.Stat(); err != nil || st.Size() != 0 {
			t.Errorf("%s: %d bytes were written, %v", c.says, st.Size(), err)
		}
		f.Close()
	}
}

func TestEncodeEmptyDisk(t *testing.T) {
	p := formatstest.NewPattern(t, 1, 0)
	for _, subformat := range []string{"dynamic", "fixed"} {
		path := formatstest.Encode(t, vhdx.Format{}, "disk.vhdx", p.Disk, formats.EncodeOptions{Subformat: subformat})
		m := formatstest.OpenFile(t, vhdx.Format{}, path)
		formatstest.CheckDisk(t, formatstest.Disk(t, m), p.Source())
		sound(t, m)
	}
}

// GUIDs come from the ID: the same one makes the same file, another another.
func TestEncodeIDs(t *testing.T) {
	p := formatstest.NewPattern(t, 1, mib)
	ids := map[string]bool{}
	for i := range 2 {
		o := formats.EncodeOptions{ID: [16]byte{byte(i)}}
		m := formatstest.OpenFile(t, vhdx.Format{}, formatstest.Encode(t, vhdx.Format{}, "disk.vhdx", p.Disk, o))
		for _, f := range m.Facts {
			if strings.Contains(f.Name, "GUID") || f.Name == "virtual disk id" {
				if ids[f.Value] || len(f.Value) != 36 || f.Value[14] != '4' || !strings.ContainsRune("89ab", rune(f.Value[19])) {
					t.Errorf("%s %s", f.Name, f.Value)
				}
				ids[f.Value] = true
			}
		}
	}
	if len(ids) != 6 {
		t.Errorf("%d GUIDs", len(ids))
	}
}

// Qemu reads a fixed image that it may write to without changing its size.
func TestQemuWritesToWhatIsWritten(t *testing.T) {
	p := formatstest.NewPattern(t, 9, 12*mib)
	for _, subformat := range []string{"dynamic", "fixed"} {
		path := formatstest.Encode(t, vhdx.Format{}, "disk.vhdx", p.Disk, formats.EncodeOptions{Subformat: subformat,
			Unit: mib})
		formatstest.Run(t, filepath.Dir(path), "qemu-io", "-f", "vhdx", "-c", "write -P 0x77 1000k 3M", "-c",
			"write -P 0x78 11M 1M", path)
		want := bytes.Clone(p.Bytes)
		copy(want[1000<<10:], bytes.Repeat([]byte{0x77}, 3*mib))
		copy(want[11*mib:], bytes.Repeat([]byte{0x78}, mib))
		m := formatstest.OpenFile(t, vhdx.Format{}, path)
		formatstest.CheckDisk(t, formatstest.Disk(t, m), bytes.NewReader(want))
		sound(t, m)
		if _, err := exec.LookPath("qemu-img"); err == nil {
			formatstest.QemuCheck(t, "vhdx", path)
		}
	}
}
