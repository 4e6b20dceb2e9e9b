package vdi_test

import (
	"testing"

	"tarvm/formats"
	"tarvm/formats/formatstest"
	"tarvm/formats/vdi"
)

var goldens = map[string]formats.Header{
	"dynamic.vdi": {Format: "vdi", Subformat: "dynamic", VirtualSize: 8 << 20, Unit: 1 << 20, Grid: 1024},
	"fixed.vdi":   {Format: "vdi", Subformat: "fixed", VirtualSize: 4 << 20, Unit: 1 << 20, Grid: 1024},
}

func TestGoldens(t *testing.T) {
	for name, want := range goldens {
		h, err := formatstest.CheckProbe(t, vdi.Format{}, formatstest.Golden(t, name))
		if err != nil || *h != want {
			t.Errorf("%s: %+v, %v, want %+v", name, h, err, want)
		}
	}
}

func TestTruncated(t *testing.T) {
	for name := range goldens {
		formatstest.CheckTruncated(t, vdi.Format{}, formatstest.Golden(t, name))
	}
}

func TestDamage(t *testing.T) {
	formatstest.CheckDamage(t, vdi.Format{}, formatstest.Golden(t, "dynamic.vdi"), nil, []formatstest.Damage{
		formatstest.Patch("text does not matter", 0, make([]byte, 64), nil, ""),
		formatstest.Patch("signature", 64, []byte{0}, formats.ErrNotFormat, ""),
		formatstest.Patch("version 0", 68, []byte{1, 0, 0, 0}, formats.ErrUnsupported, "0.1"),
		formatstest.Patch("header size", 72, []byte{1, 0, 0, 0}, formats.ErrCorrupt, "header size"),
		formatstest.Patch("type 0", 76, []byte{0}, formats.ErrUnsupported, "image type"),
		formatstest.Patch("type 5", 76, []byte{5}, formats.ErrUnsupported, "image type"),
		formatstest.Patch("type 2^31", 76, []byte{0, 0, 0, 0x80}, formats.ErrUnsupported, "image type"),
		formatstest.Patch("map past the end", 340, []byte{0xff, 0xff, 0xff, 0xff}, formats.ErrCorrupt, "block table"),
		formatstest.Patch("map in the header", 340, []byte{0, 0, 0, 0}, formats.ErrCorrupt, "block table"),
		formatstest.Patch("data in the map", 344, []byte{0, 2, 0, 0}, formats.ErrCorrupt, "data offset"),
		formatstest.Patch("disk size above int64", 368, []byte{0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff},
			formats.ErrCorrupt, "disk size"),
		formatstest.Patch("disk size above the map", 368, []byte{0, 0, 0, 1}, formats.ErrCorrupt, "block count"),
		formatstest.Patch("block size 0", 376, []byte{0, 0, 0, 0}, formats.ErrCorrupt, "block size"),
		formatstest.Patch("block size odd", 376, []byte{1}, formats.ErrCorrupt, "block size"),
		formatstest.Patch("2^32 blocks", 384, []byte{0xff, 0xff, 0xff, 0xff}, formats.ErrCorrupt, "block table"),
	})
}

// The bytes before each block's data drift the grid: no program is known to
// write them, VirtualBox reads them.
func TestBlockExtra(t *testing.T) {
	b := formatstest.Golden(t, "dynamic.vdi")
	copy(b[380:], []byte{0, 2, 0, 0})
	h, err := formatstest.CheckProbe(t, vdi.Format{}, b)
	if err != nil || h.Grid != 1024+512 || h.Stride != 1<<20+512 {
		t.Errorf("%+v, %v", h, err)
	}
}

// VirtualBox aligns the first block to 1 MiB.
func TestAlignedData(t *testing.T) {
	b := formatstest.Golden(t, "dynamic.vdi")
	copy(b[344:], []byte{0, 0, 0x10, 0})
	h, err := formatstest.CheckProbe(t, vdi.Format{}, b)
	if err != nil || h.Grid != 0 || h.Stride != 0 {
		t.Errorf("%+v, %v", h, err)
	}
}

func TestDifferencing(t *testing.T) {
	b := formatstest.Golden(t, "dynamic.vdi")
	b[76] = 4
	h, err := formatstest.CheckProbe(t, vdi.Format{}, b)
	if err != nil || h.Subformat != "differencing" {
		t.Errorf("%+v, %v", h, err)
	}
}

func FuzzProbe(f *testing.F) {
	formatstest.FuzzProbe(f, vdi.Format{}, [][]byte{
		formatstest.Golden(f, "dynamic.vdi"),
	}, nil)
}
