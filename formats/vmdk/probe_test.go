package vmdk_test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"

	"tarvm/formats"
	"tarvm/formats/formatstest"
	"tarvm/formats/vmdk"
)

var goldens = map[string]formats.Header{
	"monolithicSparse.vmdk": {Format: "vmdk", Subformat: "monolithicSparse", VirtualSize: 8 << 20, Unit: 64 << 10},
	"split.vmdk":            {Format: "vmdk", Subformat: "descriptor", VirtualSize: 8 << 20},
	"split-s001.vmdk":       {Format: "vmdk", Subformat: "twoGbMaxExtentSparse", VirtualSize: 8 << 20, Unit: 64 << 10},
	"streamOptimized.vmdk":  {Format: "vmdk", Subformat: "streamOptimized", VirtualSize: 8 << 20, Unit: 64 << 10, Compressed: true},
}

func TestGoldens(t *testing.T) {
	for name, want := range goldens {
		h, err := formatstest.CheckProbe(t, vmdk.Format{}, formatstest.Golden(t, name))
		if err != nil || *h != want {
			t.Errorf("%s: %+v, %v, want %+v", name, h, err, want)
		}
	}
}

func TestTruncated(t *testing.T) {
	for name := range goldens {
		formatstest.CheckTruncated(t, vmdk.Format{}, formatstest.Golden(t, name))
	}
	data := make([]byte, 1<<20)
	for _, b := range [][]byte{
		sparse{phase: 3, grains: []int{0, 5}}.build(data),
		sparse{phase: 3, grains: []int{0, 5}, footer: true}.build(data),
		cowd(8, 3, data, 0, 5), se(data, 0, 5),
	} {
		formatstest.CheckTruncated(t, vmdk.Format{}, b)
	}
}

// sparse is a hosted sparse extent as VMware might lay it out.
type sparse struct {
	phase  int   // sectors by which grains are off a multiple of the grain
	grains []int // the grains that are there, in file order
	desc   string
	footer bool // grain directory at the end of the file, found by a footer
}

const grain = 128 // sectors

// build makes the extent of the disk data.
func (s sparse) build(data []byte) []byte {
	le := binary.LittleEndian
	capacity := len(data) / 512
	tables := (capacity/grain + 511) / 512
	const gd, gt = 24, 25 // sectors; one sector of directory, then tables of four
	first := (gt+4*tables+grain-1)/grain*grain + s.phase
	b := make([]byte, (first+grain*len(s.grains))*512)
	copy(b, "KDMV")
	put := func(off int, v uint64) { le.PutUint64(b[off:], v) }
	le.PutUint32(b[4:], 1)
	le.PutUint32(b[8:], 1)
	put(12, uint64(capacity))
	put(20, grain)
	if s.desc != "" {
		put(28, 1)
		put(36, 20)
		copy(b[512:], s.desc)
	}
	le.PutUint32(b[44:], 512)
	put(56, gd)
	put(64, uint64(first))
	copy(b[73:], "\n \r\n")
	for i := range tables {
		le.PutUint32(b[gd*512+4*i:], uint32(gt+4*i))
	}
	for i, g := range s.grains {
		at := first + grain*i
		le.PutUint32(b[gt*512+4*g:], uint32(at))
		copy(b[at*512:], data[g*grain*512:][:grain*512])
	}
	if s.footer {
		footer := bytes.Clone(b[:512])
		put(56, ^uint64(0))
		b = append(b, make([]byte, 512)...) // marker
		b = append(append(b, footer...), make([]byte, 512)...)
	}
	return b
}

// cowd makes a vmfsSparse extent with grains of the given sectors, the first of
// which is off by phase sectors from where it would be aligned.
func cowd(grain, phase int, data []byte, grains ...int) []byte {
	le := binary.LittleEndian
	n := len(data) / 512
	const gd, gt = 4, 5
	first := 64 + phase
	b := make([]byte, (first+grain*len(grains))*512)
	copy(b, "COWD")
	for i, v := range []int{1, 3, n, grain, gd, 1, first + grain*len(grains)} {
		le.PutUint32(b[4+4*i:], uint32(v))
	}
	le.PutUint32(b[gd*512:], gt)
	for i, g := range grains {
		le.PutUint32(b[gt*512+4*g:], uint32(first+grain*i))
		copy(b[(first+grain*i)*512:], data[g*grain*512:][:grain*512])
	}
	return b
}

// se makes a seSparse extent, whose grains start off the grid.
func se(data []byte, grains ...int) []byte {
	le := binary.LittleEndian
	const first = 83
	b := make([]byte, (first+8*len(grains))*512)
	for i, v := range []uint64{
		0xcafebabe, 2<<32 | 1, uint64(len(data) / 512), 8, 64, 0, 0, 0, 0, 0,
		1, 1, 2, 1, 4, 4, 8, 1, 9, 64, 73, 1, 74, 1, first, uint64(8 * len(grains)),
	} {
		le.PutUint64(b[8*i:], v)
	}
	le.PutUint64(b[512:], 0xcafecafe)
	le.PutUint64(b[8*512:], 1<<60)
	for i, g := range grains {
		le.PutUint64(b[9*512+8*g:], 3<<60|uint64(i)<<48)
		copy(b[(first+8*i)*512:], data[g*4096:][:4096])
	}
	return b
}

func random(n int) []byte {
	b := make([]byte, n)
	rand.NewChaCha8([32]byte{3}).Read(b)
	return b
}

// keep clears all units of data but the listed.
func keep(data []byte, unit int, units ...int) []byte {
	out := make([]byte, len(data))
	for _, u := range units {
		copy(out[u*unit:], data[u*unit:][:unit])
	}
	return out
}

// qemuReads fails unless qemu reads the files as the disk want.
func qemuReads(t *testing.T, want []byte, open string, files map[string][]byte) {
	t.Helper()
	dir := t.TempDir()
	for name, b := range files {
		if err := os.WriteFile(filepath.Join(dir, name), b, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	formatstest.Run(t, dir, "qemu-img", "convert", "-f", "vmdk", "-O", "raw", open, "raw")
	got, err := os.ReadFile(filepath.Join(dir, "raw"))
	if err != nil || !bytes.Equal(got, want) {
		t.Errorf("qemu reads another disk (%d bytes, %v)", len(got), err)
	}
}

func descriptor(createType, extent string) string {
	return "# Disk DescriptorFile\nversion=1\nCID=fffffffe\nparentCID=ffffffff\ncreateType=\"" + createType +
		"\"\n\n# Extent description\n" + extent + "\n\n# The Disk Data Base\n#DDB\n\nddb.adapterType = \"ide\"\n"
}

// Grains lie where the writer's tables ended. qemu reads the same image to the
// same disk.
func TestHostedPhase(t *testing.T) {
	data := random(4 << 20)
	for _, phase := range []int{0, 1, 9, 53, 127} {
		grains := []int{7, 0, 63, 2}
		b := sparse{phase: phase, grains: grains, desc: descriptor("monolithicSparse", `RW 8192 SPARSE "a.vmdk"`)}.build(data)
		want := formats.Header{Format: "vmdk", Subformat: "monolithicSparse", VirtualSize: 4 << 20, Unit: 64 << 10, Grid: int64(phase) * 512}
		h, err := formatstest.CheckProbe(t, vmdk.Format{}, b)
		if err != nil || *h != want {
			t.Errorf("%+v, %v, want %+v", h, err, want)
		}
		qemuReads(t, keep(data, 64<<10, grains...), "a.vmdk", map[string][]byte{"a.vmdk": b})

		// Without grains the overhead tells; with a few strays the majority.
		h, err = formatstest.CheckProbe(t, vmdk.Format{}, sparse{phase: phase}.build(data))
		if want.Subformat = "twoGbMaxExtentSparse"; err != nil || *h != want {
			t.Errorf("empty: %+v, %v, want %+v", h, err, want)
		}
		binary.LittleEndian.PutUint32(b[25*512+4*63:], 24)
		if h, err = formatstest.CheckProbe(t, vmdk.Format{}, b); err != nil || h.Grid != want.Grid {
			t.Errorf("stray grain: %+v, %v, want %+v", h, err, want)
		}
	}
}

// The primary directory may be damaged where the redundant one is not, and the
// directory may be at the end.
func TestDirectoryPlaces(t *testing.T) {
	data := random(1 << 20)
	s := sparse{phase: 5, grains: []int{1, 3}}
	b := s.build(data)
	le := binary.LittleEndian
	le.PutUint64(b[48:], 24)
	le.PutUint64(b[56:], 1<<40)
	if _, err := formatstest.CheckProbe(t, vmdk.Format{}, b); !errors.Is(err, formats.ErrCorrupt) {
		t.Errorf("directory past the end, redundant one not valid: %v", err)
	}
	b[8] |= 2
	if h, err := formatstest.CheckProbe(t, vmdk.Format{}, b); err != nil || h.Grid != 5*512 {
		t.Errorf("redundant directory: %+v, %v", h, err)
	}
	s.footer = true
	b = s.build(data)
	if h, err := formatstest.CheckProbe(t, vmdk.Format{}, b); err != nil || h.Grid != 5*512 {
		t.Errorf("footer: %+v, %v", h, err)
	}
	h, err := formatstest.CheckProbe(t, vmdk.Format{}, b[:len(b)-512])
	if !errors.Is(err, formats.ErrCorrupt) || h.VirtualSize != 1<<20 {
		t.Errorf("a stream without its end: %+v, %v", h, err)
	}
}

func TestCOWDPhase(t *testing.T) {
	data := random(1 << 20)
	for _, c := range []struct{ grain, phase int }{{1, 0}, {1, 3}, {8, 0}, {8, 3}} {
		grains := []int{9, 2, 0}
		b := cowd(c.grain, c.phase, data, grains...)
		want := formats.Header{Format: "vmdk", Subformat: "vmfsSparse", VirtualSize: 1 << 20, Unit: int64(c.grain) * 512, Grid: int64(c.phase%c.grain) * 512}
		h, err := formatstest.CheckProbe(t, vmdk.Format{}, b)
		if err != nil || *h != want {
			t.Errorf("%+v, %v, want %+v", h, err, want)
		}
		qemuReads(t, keep(data, c.grain*512, grains...), "a.vmdk", map[string][]byte{
			"a-delta.vmdk": b, "a.vmdk": []byte(descriptor("vmfsSparse", `RW 2048 VMFSSPARSE "a-delta.vmdk"`)),
		})
	}
}

func TestSEPhase(t *testing.T) {
	data := random(1 << 20)
	b := se(data, 9, 2, 0)
	want := formats.Header{Format: "vmdk", Subformat: "seSparse", VirtualSize: 1 << 20, Unit: 4096, Grid: 3 * 512}
	h, err := formatstest.CheckProbe(t, vmdk.Format{}, b)
	if err != nil || *h != want {
		t.Errorf("%+v, %v, want %+v", h, err, want)
	}
	qemuReads(t, keep(data, 4096, 9, 2, 0), "a.vmdk", map[string][]byte{
		"a-sesparse.vmdk": b, "a.vmdk": []byte(descriptor("seSparse", `RW 2048 SESPARSE "a-sesparse.vmdk"`)),
	})
}

// A directory of tables without grains must not cost more than the budget:
// CheckProbe counts.
func TestManyEmptyTables(t *testing.T) {
	const tables = 1 << 16
	le := binary.LittleEndian
	b := make([]byte, 1<<20)
	copy(b, sparse{}.build(make([]byte, 1<<20))[:512])
	le.PutUint64(b[12:], tables*512*grain)
	le.PutUint64(b[56:], 8)
	for i := range tables {
		le.PutUint32(b[8*512+4*i:], 1024)
	}
	h, err := formatstest.CheckProbe(t, vmdk.Format{}, b)
	if err != nil || h.VirtualSize != tables*512*grain*512 {
		t.Errorf("%+v, %v", h, err)
	}
}

func TestDamage(t *testing.T) {
	ff8 := bytes.Repeat([]byte{0xff}, 8)
	b := formatstest.Golden(t, "monolithicSparse.vmdk")
	gd := binary.LittleEndian.Uint64(b[56:]) * 512
	gt := int64(binary.LittleEndian.Uint32(b[gd:])) * 512
	formatstest.CheckDamage(t, vmdk.Format{}, b, nil, []formatstest.Damage{
		formatstest.Patch("magic", 0, []byte{'x'}, formats.ErrNotFormat, ""),
		formatstest.Patch("version 0", 4, []byte{0}, formats.ErrUnsupported, "version"),
		formatstest.Patch("version 4", 4, []byte{4}, formats.ErrUnsupported, "version"),
		formatstest.Patch("sent as text", 73, []byte("\n \n\n"), formats.ErrCorrupt, "newline"),
		formatstest.Patch("compression", 77, []byte{2}, formats.ErrUnsupported, "compression"),
		formatstest.Patch("capacity", 12, ff8, formats.ErrCorrupt, "capacity"),
		formatstest.Patch("capacity above the directory", 18, []byte{1}, formats.ErrCorrupt, "grain directory"),
		formatstest.Patch("grain of 0", 20, make([]byte, 8), formats.ErrCorrupt, "grain size"),
		formatstest.Patch("grain odd", 20, []byte{129}, formats.ErrCorrupt, "grain size"),
		formatstest.Patch("grain of 2^40", 20, []byte{0, 0, 0, 0, 0, 1}, formats.ErrCorrupt, "grain size"),
		formatstest.Patch("descriptor past the end", 28, []byte{0, 0, 0, 1}, formats.ErrCorrupt, "descriptor"),
		formatstest.Patch("descriptor of 2^63", 36, ff8, formats.ErrCorrupt, "descriptor size"),
		formatstest.Patch("descriptor spoilt", 512, []byte("hello"), formats.ErrCorrupt, "descriptor at byte 0x200"),
		formatstest.Patch("table of 0", 44, make([]byte, 4), formats.ErrCorrupt, "table size"),
		formatstest.Patch("both directories past the end", 48, bytes.Repeat([]byte{0xff, 0xff, 0xff, 0, 0, 0, 0, 0}, 2), formats.ErrCorrupt, "grain directory"),
		formatstest.Patch("footer announced", 56, ff8, formats.ErrCorrupt, "footer"),
		formatstest.Patch("table past the end", int64(gd)+2, []byte{0xff}, nil, ""),
		formatstest.Patch("grain past the end", gt+2, []byte{0xff}, nil, ""),
		formatstest.Patch("zeroed grain", gt, []byte{1, 0, 0, 0}, nil, ""),
	})
	data := make([]byte, 1<<20)
	formatstest.CheckDamage(t, vmdk.Format{}, cowd(1, 0, data, 3), nil, []formatstest.Damage{
		formatstest.Patch("COWD version", 4, []byte{2}, formats.ErrUnsupported, "version"),
		formatstest.Patch("COWD capacity", 15, []byte{1}, formats.ErrCorrupt, "directory size"),
		formatstest.Patch("COWD grain", 16, []byte{3}, formats.ErrCorrupt, "grain size"),
		formatstest.Patch("COWD directory past the end", 22, []byte{1}, formats.ErrCorrupt, "directory"),
		formatstest.Patch("COWD directory of 2^32", 24, []byte{0xff, 0xff, 0xff, 0xff}, formats.ErrCorrupt, "directory"),
	})
	formatstest.CheckDamage(t, vmdk.Format{}, se(data, 3), nil, []formatstest.Damage{
		formatstest.Patch("seSparse version", 8, []byte{3}, formats.ErrUnsupported, "version"),
		formatstest.Patch("seSparse capacity", 16, ff8, formats.ErrCorrupt, "capacity"),
		formatstest.Patch("seSparse grain", 24, []byte{16}, formats.ErrUnsupported, "grain size"),
		formatstest.Patch("seSparse grains past the end", 24*8, ff8, formats.ErrCorrupt, "grains"),
	})
}

func FuzzProbe(f *testing.F) {
	data := make([]byte, 1<<20)
	list := [][]byte{
		sparse{phase: 3, grains: []int{0, 5}}.build(data),
		sparse{phase: 3, grains: []int{0, 5}, footer: true, desc: descriptor("custom", "RW 2048 ZERO")}.build(data),
		cowd(8, 3, data, 0, 5), se(data, 0, 5),
	}
	for _, name := range []string{"monolithicSparse.vmdk", "split.vmdk", "split-s001.vmdk", "streamOptimized.vmdk"} {
		list = append(list, formatstest.Golden(f, name))
	}
	formatstest.FuzzProbe(f, vmdk.Format{}, list, nil)
}

func ExampleReadDescriptor() {
	text := "# Disk DescriptorFile\nCreateType = twoGbMaxExtentFlat\nRW 20480 FLAT \"disk-f001.vmdk\" 0\n"
	d, err := vmdk.ReadDescriptor(bytes.NewReader([]byte(text)))
	if err != nil {
		fmt.Println(err)
		return
	}
	for _, e := range d.Extents {
		fmt.Println(e.Type, d.DecodeName(e.File), e.Sectors.Bytes())
	}
	// Output: FLAT disk-f001.vmdk 10485760
}
