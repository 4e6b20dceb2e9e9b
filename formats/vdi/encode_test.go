package vdi_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"testing"

	"tarvm/formats"
	"tarvm/formats/formatstest"
	"tarvm/formats/vdi"
)

var id = [16]byte{0xde, 0xad, 0xbe, 0xef, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12}

const (
	idText     = "deadbeef-0102-4304-8506-0708090a0b0c" // with the version's bits
	defaultSub = ""
)

// rounded is p filled up to whole sectors.
func rounded(p *formatstest.Pattern) formats.Source {
	b := make([]byte, (len(p.Bytes)+511)/512*512)
	copy(b, p.Bytes)
	return bytes.NewReader(b)
}

func TestEncode(t *testing.T) {
	for _, size := range []int64{0, 512, 1 << 20, 1<<20 + 512, 7<<20 + 12345, 24 << 20} {
		for _, sub := range []string{defaultSub, "dynamic", "fixed"} {
			t.Run(fmt.Sprint(size, sub), func(t *testing.T) {
				p := formatstest.NewPattern(t, uint64(size), size)
				path := formatstest.Encode(t, vdi.Format{}, "disk.vdi", p, formats.EncodeOptions{Subformat: sub, ID: id})
				m := formatstest.OpenFile(t, vdi.Format{}, path)
				d := formatstest.Disk(t, m)
				formatstest.CheckDisk(t, d, rounded(p))
				if list := formatstest.ProblemTexts(t, m); len(list) > 0 {
					t.Errorf("%q", list)
				}
				if !strings.HasPrefix(m.ID, idText+"/") || m.Parent != nil || m.Grid != 0 || m.Unit != 1<<20 {
					t.Errorf("%+v", m)
				}
				formatstest.QemuCheck(t, "vdi", path)
				formatstest.CheckDisk(t, d, formatstest.QemuRaw(t, "vdi", path))
				if size > 0 {
					formatstest.CheckMap(t, d, "vdi", path)
					formatstest.CheckDisk(t, d, formatstest.SevenZipRaw(t, path))
				}
			})
		}
	}
}

// Blocks of other sizes: qemu and 7-Zip read none.
func TestEncodeUnits(t *testing.T) {
	p := formatstest.NewPattern(t, 5, 20<<20+512)
	for _, unit := range []int64{512 << 10, 2 << 20, 8 << 20} {
		for _, sub := range []string{"dynamic", "fixed"} {
			path := formatstest.Encode(t, vdi.Format{}, "disk.vdi", p, formats.EncodeOptions{Subformat: sub, ID: id,
				Unit: unit})
			b, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			m := open(t, b)
			formatstest.CheckDisk(t, formatstest.Disk(t, m), p.Source())
			if list := formatstest.ProblemTexts(t, m); len(list) > 0 || m.Unit != unit {
				t.Errorf("%+v: %q", m, list)
			}
			if got := read(t, b, nil); !bytes.Equal(got, p.Bytes) {
				t.Errorf("%d, %s: another disk", unit, sub)
			}
		}
	}
}

// read is another reader of VDI, as simple as can be: the whole disk above that
// of its parent.
func read(t *testing.T, b, parent []byte) []byte {
	t.Helper()
	table, data, block := int(le.Uint32(b[340:])), int(le.Uint32(b[344:])), int(le.Uint32(b[376:]))
	disk := make([]byte, int(le.Uint32(b[384:]))*block)
	allocated := uint32(0)
	for i := 0; i < len(disk)/block; i++ {
		to := disk[i*block:][:block]
		switch v := le.Uint32(b[table+4*i:]); {
		case v == free && i*block < len(parent):
			copy(to, parent[i*block:])
		case v == free, v == zero:
		default:
			if copy(to, b[data+int(v)*block:]) != block {
				t.Fatalf("block %d is cut", i)
			}
			allocated++
		}
	}
	if got := le.Uint32(b[388:]); got != allocated {
		t.Errorf("%d blocks allocated, header says %d", allocated, got)
	}
	if len(b) != data+int(allocated)*block {
		t.Errorf("file of %d bytes, want %d", len(b), data+int(allocated)*block)
	}
	return disk[:le.Uint64(b[368:])]
}

func TestEncodeDifferencing(t *testing.T) {
	p := formatstest.NewPattern(t, 1, 12<<20+512)
	parentPath := formatstest.Encode(t, vdi.Format{}, "parent.vdi", p, formats.EncodeOptions{ID: [16]byte{15: 9}})
	parent := formatstest.OpenFile(t, vdi.Format{}, parentPath)
	for _, c := range []struct {
		name string
		size int64
		base bool
	}{
		{"same size", 12<<20 + 512, true}, {"larger", 15 << 20, true}, {"smaller", 5<<20 + 512, true},
		{"equal", 0, true}, {"without a base", 12<<20 + 512, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			q := p
			if c.size > 0 {
				q = p.Changed(t, uint64(c.size), c.size)
			}
			o := formats.EncodeOptions{ID: id, Parent: &formats.ParentRef{Format: "vdi", ID: parent.ID}}
			if c.base {
				o.Base = formatstest.Disk(t, parent)
			}
			path := formatstest.Encode(t, vdi.Format{}, "child.vdi", q, o)
			m := formatstest.OpenFile(t, vdi.Format{}, path)
			formatstest.CheckDisk(t, formatstest.Disk(t, m, parent), q.Source())
			if list := formatstest.ProblemTexts(t, m); len(list) > 0 {
				t.Errorf("%q", list)
			}
			if m.Subformat != "differencing" || m.Parent == nil || m.Parent.ID != parent.ID {
				t.Errorf("%+v, parent %+v", m, m.Parent)
			}
			b, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			if got := read(t, b, p.Bytes); !bytes.Equal(got, q.Bytes) {
				t.Error("the other reader reads another disk")
			}
			if c.size == 0 && le.Uint32(b[388:]) != 0 {
				t.Errorf("%d blocks of a disk that is its parent's", le.Uint32(b[388:]))
			}
			if !c.base {
				formatstest.CheckDisk(t, formatstest.Disk(t, m), q.Source())
			}
		})
	}
}

// The header as VirtualBox 7 makes it: VDICore.h.
func TestEncodedHeader(t *testing.T) {
	p := formatstest.NewPattern(t, 3, 3<<20)
	parent := vdiID(t)
	path := formatstest.Encode(t, vdi.Format{}, "x.vdi", p, formats.EncodeOptions{ID: id,
		Parent: &formats.ParentRef{ID: parent}})
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	for off, want := range map[int]uint32{
		64: 0xBEDA107F, 68: 0x10001, 72: 400, 76: 4, 80: 0, 340: 1 << 20, 344: 2 << 20, 348: 0, 352: 0, 356: 0, 360: 512,
		364: 0,
		368: 3 << 20, 372: 0, 376: 1 << 20, 380: 0, 384: 3, 456: 6, 460: 16, 464: 63, 468: 512,
	} {
		if got := le.Uint32(b[off:]); got != want {
			t.Errorf("%d: 0x%x, want 0x%x", off, got, want)
		}
	}
	if !bytes.HasPrefix(b, []byte("<<< Oracle VM VirtualBox Disk Image >>>\n\x00")) {
		t.Errorf("%q", b[:64])
	}
	// Fields of a UUID are little-endian, in text they are not.
	if got := fmt.Sprintf("%x", b[392:408]); got != "efbeadde"+"0201"+"0443"+"85060708090a0b0c" {
		t.Errorf("UUID %s", got)
	}
	if b[408+7]>>4 != 4 || b[408+8]>>6 != 2 || bytes.Equal(b[392:408], b[408:424]) {
		t.Errorf("modification UUID %x", b[408:424])
	}
}

func vdiID(t *testing.T) string {
	t.Helper()
	return open(t, built{kind: 1, size: 512, block: 512, entries: []uint32{free}}.bytes()).ID
}

func TestGeometry(t *testing.T) {
	for size, want := range map[int64]string{
		512 << 10:  "1/16/63",
		504 << 20:  "1024/16/63",
		600 << 20:  "609/32/63",
		4 << 30:    "522/255/63",
		2 << 40:    "1024/255/63",
		1000 << 20: "1015/32/63",
	} {
		d := formatstest.Disk(t, &formats.Image{Map: empty(size)})
		seek := &memory{}
		if err := (vdi.Format{}).Encode(context.Background(), formats.Outputs{Main: seek}, d,
			formats.EncodeOptions{ID: id}); err != nil {
			t.Fatal(err)
		}
		got := ""
		for _, f := range open(t, seek.b).Facts {
			if f.Name == "geometry" {
				got = f.Value
			}
		}
		if got != want {
			t.Errorf("%d: %s, want %s", size, got, want)
		}
	}
}

// empty is a disk of one hole.
type empty int64

func (e empty) Size() int64 { return int64(e) }

func (e empty) MapAt(off int64) (formats.Extent, error) {
	if off < 0 || off >= int64(e) {
		return formats.Extent{}, io.EOF
	}
	return formats.Extent{Length: int64(e), Kind: formats.Hole}, nil
}

// memory is an Output.
type memory struct{ b []byte }

func (m *memory) Truncate(size int64) error {
	m.b = append(m.b, make([]byte, max(0, size-int64(len(m.b))))...)[:size]
	return nil
}

func (m *memory) WriteAt(p []byte, off int64) (int, error) {
	if end := off + int64(len(p)); end > int64(len(m.b)) {
		m.b = append(m.b, make([]byte, end-int64(len(m.b)))...)
	}
	return copy(m.b[off:], p), nil
}

func TestEncodeRefuses(t *testing.T) {
	small, base := formatstest.Disk(t, &formats.Image{Map: empty(1 << 20)}), formatstest.Disk(t,
		&formats.Image{Map: empty(1 << 20)})
	parent := &formats.ParentRef{ID: vdiID(t)}
	for name, c := range map[string]struct {
		d    formats.Disk
		o    formats.EncodeOptions
		says string
	}{
		"subformat":           {small, formats.EncodeOptions{Subformat: "undo"}, "subformat"},
		"no parent":           {small, formats.EncodeOptions{Subformat: "differencing"}, "differencing"},
		"dynamic with parent": {small, formats.EncodeOptions{Subformat: "dynamic", Parent: parent}, "dynamic"},
		"fixed with parent":   {small, formats.EncodeOptions{Subformat: "fixed", Parent: parent}, "fixed"},
		"base alone":          {small, formats.EncodeOptions{Base: base}, "not named"},
		"no ID":               {small, formats.EncodeOptions{Parent: &formats.ParentRef{}}, "not two UUIDs"},
		"half an ID":          {small, formats.EncodeOptions{Parent: &formats.ParentRef{ID: idText}}, "not two UUIDs"},
		"no UUID": {small,
			formats.EncodeOptions{Parent: &formats.ParentRef{ID: idText + "/" + idText[:35] + "g"}}, "not a UUID"},
		"zero UUID": {small, formats.EncodeOptions{Parent: &formats.ParentRef{
			ID: "00000000-0000-0000-0000-000000000000/" + idText,
		}}, "zeros"},
		"foreign parent": {small, formats.EncodeOptions{Parent: &formats.ParentRef{Format: "vmdk", ID: vdiID(t)}}, "vmdk"},
		"compression":    {small, formats.EncodeOptions{Compression: "zstd"}, "compression"},
		"unit odd":       {small, formats.EncodeOptions{Unit: 1<<20 + 512}, "block size"},
		"unit small":     {small, formats.EncodeOptions{Unit: 64 << 10}, "block size"},
		"unit large":     {small, formats.EncodeOptions{Unit: 16 << 20}, "block size"},
		"disk too large": {formatstest.Disk(t, &formats.Image{Map: empty(1 << 50)}), formats.EncodeOptions{}, "disk size"},
		"disk of 2^63": {formatstest.Disk(t, &formats.Image{Map: empty(1<<63 - 1)}), formats.EncodeOptions{},
			"disk size"},
	} {
		err := vdi.Format{}.Encode(context.Background(), formats.Outputs{Main: &memory{}}, c.d, c.o)
		var fe *formats.FormatError
		if !errors.Is(err, formats.ErrUnsupported) || !errors.As(err, &fe) || !strings.Contains(err.Error(), c.says) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// failing is an Output whose write number n fails.
type failing struct {
	memory
	n int
}

var errFull = errors.New("no space")

func (f *failing) WriteAt(p []byte, off int64) (int, error) {
	if f.n--; f.n < 0 {
		return 0, errFull
	}
	return f.memory.WriteAt(p, off)
}

func (f *failing) Truncate(size int64) error {
	if f.n--; f.n < 0 {
		return errFull
	}
	return f.memory.Truncate(size)
}

// Each write that fails is an error; until the last there is no image.
func TestEncodeFails(t *testing.T) {
	p := formatstest.NewPattern(t, 8, 3<<20)
	for _, sub := range []string{"dynamic", "fixed"} {
		for n := 0; ; n++ {
			out := &failing{n: n}
			err := vdi.Format{}.Encode(context.Background(), formats.Outputs{Main: out}, p, formats.EncodeOptions{ID: id,
				Subformat: sub})
			if err == nil {
				if n < 5 {
					t.Errorf("%s: %d writes", sub, n)
				}
				break
			}
			if !errors.Is(err, errFull) {
				t.Errorf("%s, write %d: %v", sub, n, err)
			}
			if _, err := (vdi.Format{}).Probe(bytes.NewReader(out.b)); sub == "dynamic" && !errors.Is(err,
				formats.ErrNotFormat) {
				t.Errorf("write %d failed, and there is an image: %v", n, err)
			}
		}
	}
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if err := (vdi.Format{}).Encode(ctx, formats.Outputs{Main: &memory{}}, p, formats.EncodeOptions{}); !errors.Is(err,
		context.Canceled) {
		t.Error(err)
	}
}

func TestStreams(t *testing.T) {
	parent := &formats.ParentRef{ID: vdiID(t)}
	for _, c := range []struct {
		o    formats.EncodeOptions
		want bool
	}{
		{formats.EncodeOptions{}, false}, {formats.EncodeOptions{Subformat: "dynamic"}, false},
		{formats.EncodeOptions{Subformat: "fixed"}, true}, {formats.EncodeOptions{Parent: parent}, false},
	} {
		if got := (vdi.Format{}).Streams(&c.o); got != c.want {
			t.Errorf("%+v: %t", c.o, got)
		}
	}
}
