package vhd_test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"
	"unicode/utf16"

	"tarvm/formats"
	"tarvm/formats/formatstest"
	"tarvm/formats/vhd"
)

var goldens = map[string]formats.Header{
	"dynamic.vhd": {
		Format: "vpc", Subformat: "dynamic", VirtualSize: 8 << 20, Unit: 2 << 20, Grid: 2560, Stride: 2<<20 + 512,
	},
	"fixed.vhd": {Format: "vpc", Subformat: "fixed", VirtualSize: 4 << 20},
}

func TestGoldens(t *testing.T) {
	for name, want := range goldens {
		h, err := formatstest.CheckProbe(t, vhd.Format{}, formatstest.Golden(t, name))
		if err != nil || *h != want {
			t.Errorf("%s: %+v, %v, want %+v", name, h, err, want)
		}
	}
}

func TestTruncated(t *testing.T) {
	for name := range goldens {
		formatstest.CheckTruncated(t, vhd.Format{}, formatstest.Golden(t, name))
	}
}

// fix repairs the checksums of the footer, its copy and the header at 512.
func fix(b []byte) {
	sum := func(b []byte, off int) {
		var n uint32
		binary.BigEndian.PutUint32(b[off:], 0)
		for _, c := range b {
			n += uint32(c)
		}
		binary.BigEndian.PutUint32(b[off:], ^n)
	}
	if len(b) >= 512 {
		sum(b[len(b)-512:], 64)
	}
	if len(b) >= 1536+512 {
		sum(b[:512], 64)
		sum(b[512:1536], 36)
	}
}

func TestDamage(t *testing.T) {
	b := formatstest.Golden(t, "dynamic.vhd")
	formatstest.CheckDamage(t, vhd.Format{}, b, nil, []formatstest.Damage{
		formatstest.Patch("footer damaged, copy intact", -500, []byte{0xff}, nil, ""),
		formatstest.Patch("footer gone, copy intact", -512, make([]byte, 512), nil, ""),
		formatstest.Patch("copy damaged, footer intact", 100, []byte{0xff}, nil, ""),
		formatstest.Patch("header checksum", 512+28, []byte{0xff}, formats.ErrCorrupt, "header at byte 0x200: checksum"),
	})
	formatstest.CheckDamage(t, vhd.Format{}, b, fix, []formatstest.Damage{
		formatstest.Patch("footer version", -512+12, []byte{9}, formats.ErrUnsupported, "footer version"),
		formatstest.Patch("type", -512+63, []byte{7}, formats.ErrUnsupported, "disk type"),
		formatstest.Patch("disk of 2^63", -512+48, []byte{0x80}, formats.ErrCorrupt, "disk size"),
		formatstest.Patch("disk above the BAT", -512+50, []byte{1}, formats.ErrCorrupt, "BAT size"),
		formatstest.Patch("header past the end", -512+17, []byte{1}, formats.ErrCorrupt, "header"),
		formatstest.Patch("header at 2^63", -512+16, []byte{0x80}, formats.ErrCorrupt, "header"),
		formatstest.Patch("header cookie", 512, []byte{'x'}, formats.ErrCorrupt, "cookie"),
		formatstest.Patch("header version", 512+24, []byte{9}, formats.ErrUnsupported, "header version"),
		formatstest.Patch("BAT past the end", 512+16, []byte{0, 1}, formats.ErrCorrupt, "BAT"),
		formatstest.Patch("BAT at 2^63", 512+16, []byte{0x80}, formats.ErrCorrupt, "BAT"),
		formatstest.Patch("2^30+1 entries", 512+28, []byte{0x40, 0, 0, 1}, formats.ErrCorrupt, "BAT"),
		formatstest.Patch("block of 0", 512+32, []byte{0, 0, 0, 0}, formats.ErrCorrupt, "block size"),
		formatstest.Patch("block odd", 512+35, []byte{1}, formats.ErrCorrupt, "block size"),
		// The others can be read.
		formatstest.Patch("block past the end", 1536, []byte{0x7f, 0, 0, 0}, nil, ""),
		formatstest.Patch("header in the copy of the footer", -512+22, []byte{0, 0}, formats.ErrCorrupt, "footer's copy"),
		formatstest.Patch("BAT in the copy of the footer", 512+22, []byte{1, 0}, formats.ErrCorrupt, "lies in the header"),
		formatstest.Patch("BAT in the header", 512+22, []byte{5, 0}, formats.ErrCorrupt, "lies in the header"),
		formatstest.Patch("blocks on top of each other", 1536,
			[]byte{0, 0, 0, 5, 0, 0, 0, 6, 0, 0, 0, 6, 0, 0, 0, 5}, nil, ""),
	})
	both := bytes.Clone(b)
	both[100], both[len(both)-512+100] = 1, 1
	if _, err := formatstest.CheckProbe(t, vhd.Format{}, both); !errors.Is(err, formats.ErrCorrupt) {
		t.Errorf("both footers damaged: %v", err)
	}
	f := formatstest.Golden(t, "fixed.vhd")
	formatstest.CheckDamage(t, vhd.Format{}, f, nil, []formatstest.Damage{
		formatstest.Patch("fixed, footer damaged", -400, []byte{1}, formats.ErrCorrupt, "checksum"),
		formatstest.Patch("fixed, no footer", -512, make([]byte, 512), formats.ErrNotFormat, ""),
		formatstest.Patch("fixed, a copy at the start only", 0, f[len(f)-512:], nil, ""),
	})
	turned := append(bytes.Clone(f[len(f)-512:]), f[:len(f)-512]...)
	if h, err := formatstest.CheckProbe(t, vhd.Format{}, turned); !errors.Is(err, formats.ErrCorrupt) {
		t.Errorf("fixed with its footer at the start: %+v, %v", h, err)
	}
	if h, err := formatstest.CheckProbe(t, vhd.Format{}, f[1<<20:]); !errors.Is(err, formats.ErrCorrupt) {
		t.Errorf("fixed without its first MiB: %+v, %v", h, err)
	}
}

// Old Virtual PC wrote footers of 511 bytes.
func TestFooter511(t *testing.T) {
	for _, name := range []string{"dynamic.vhd", "fixed.vhd"} {
		b := formatstest.Golden(t, name)
		want := goldens[name]
		h, err := formatstest.CheckProbe(t, vhd.Format{}, b[:len(b)-1])
		if err != nil || *h != want {
			t.Errorf("%s: %+v, %v, want %+v", name, h, err, want)
		}
	}
}

// Virtual PC's disks have cylinders * heads * sectors, others the current size.
func TestDiskSize(t *testing.T) {
	for _, c := range []struct {
		creator string
		chs     []byte
		want    int64
	}{
		{"vpc ", []byte{0, 1, 2, 3}, 6 * 512},
		{"vs  ", []byte{0, 1, 2, 3}, 6 * 512},
		{"qemu", []byte{0, 1, 2, 3}, 6 * 512},
		{"qemu", []byte{0xff, 0xff, 16, 255}, 8 << 20},
		{"qemu", []byte{0, 0, 0, 0}, 8 << 20},
		{"win ", []byte{0, 1, 2, 3}, 8 << 20},
		{"qem2", []byte{0, 1, 2, 3}, 8 << 20},
		{"vbox", []byte{0, 1, 2, 3}, 8 << 20},
	} {
		b := formatstest.Golden(t, "dynamic.vhd")
		f := b[len(b)-512:]
		copy(f[28:], c.creator)
		copy(f[56:], c.chs)
		fix(b)
		h, err := formatstest.CheckProbe(t, vhd.Format{}, b)
		if err != nil || h.VirtualSize != c.want {
			t.Errorf("%q %v: %+v, %v, want %d", c.creator, c.chs, h, err, c.want)
		}
	}
}

func TestParentName(t *testing.T) {
	b := formatstest.Golden(t, "dynamic.vhd")
	for i, c := range utf16.Encode([]rune("C:\\größe.vhd")) {
		binary.BigEndian.PutUint16(b[512+64+2*i:], c)
	}
	b[len(b)-512+63] = 4
	fix(b)
	h, err := formatstest.CheckProbe(t, vhd.Format{}, b)
	if err != nil || h.Subformat != "differencing" || h.ParentHint != "C:\\größe.vhd" {
		t.Errorf("%+v, %v", h, err)
	}
}

// hyperV makes a dynamic disk of four blocks of which the listed ones are
// there, padded so that data is aligned to 4 KiB. Blocks hold data.
func hyperV(t *testing.T, data []byte, blocks ...int) []byte {
	g := formatstest.Golden(t, "dynamic.vhd")
	footer := g[len(g)-512:]
	b := append(bytes.Clone(g[:1536]), bytes.Repeat([]byte{0xff}, 512)...)
	b = append(b, make([]byte, 4096-512-len(b))...)
	for _, n := range blocks {
		binary.BigEndian.PutUint32(b[1536+4*n:], uint32(len(b)/512))
		b = append(b, bytes.Repeat([]byte{0xff}, 512)...)
		b = append(b, data[n<<21:][:2<<20]...)
		b = append(b, make([]byte, 4096-512)...)
	}
	b = append(b, footer...)
	fix(b)
	return b
}

// Hyper-V aligns data to 4 KiB, so that blocks are 4 KiB further apart. qemu
// reads the same image to the same disk.
func TestAlignedBlocks(t *testing.T) {
	data := make([]byte, 8<<20)
	rand.NewChaCha8([32]byte{2}).Read(data)
	for _, c := range []struct {
		blocks []int
		stride int64
	}{
		{[]int{3, 0, 1}, 2<<20 + 4096},
		{[]int{2}, 2<<20 + 4096},
		{nil, 2<<20 + 512}, // nothing there to tell
	} {
		b := hyperV(t, data, c.blocks...)
		want := formats.Header{
			Format: "vpc", Subformat: "dynamic", VirtualSize: 8 << 20, Unit: 2 << 20, Grid: 4096, Stride: c.stride,
		}
		h, err := formatstest.CheckProbe(t, vhd.Format{}, b)
		if err != nil || *h != want {
			t.Errorf("%v: %+v, %v, want %+v", c.blocks, h, err, want)
		}
		wantData := make([]byte, len(data))
		for _, n := range c.blocks {
			copy(wantData[n<<21:], data[n<<21:][:2<<20])
		}
		dir := t.TempDir()
		if err := os.WriteFile(filepath.Join(dir, "a.vhd"), b, 0o644); err != nil {
			t.Fatal(err)
		}
		formatstest.Run(t, dir, "qemu-img", "convert", "-f", "vpc", "-O", "raw", "a.vhd", "raw")
		if got, err := os.ReadFile(filepath.Join(dir, "raw")); err != nil || !bytes.Equal(got, wantData) {
			t.Errorf("%v: qemu reads another disk (%d bytes, %v)", c.blocks, len(got), err)
		}
	}
}

func FuzzProbe(f *testing.F) {
	formatstest.FuzzProbe(f, vhd.Format{}, [][]byte{
		formatstest.Golden(f, "dynamic.vhd"),
	}, fix)
}
