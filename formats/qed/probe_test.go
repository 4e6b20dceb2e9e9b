package qed_test

import (
	"testing"

	"tarvm/formats"
	"tarvm/formats/formatstest"
	"tarvm/formats/qed"
)

var goldens = map[string]formats.Header{
	"image.qed": {Format: "qed", VirtualSize: 4 << 20, Unit: 64 << 10},
}

func TestGoldens(t *testing.T) {
	for name, want := range goldens {
		h, err := formatstest.CheckProbe(t, qed.Format{}, formatstest.Golden(t, name))
		if err != nil || *h != want {
			t.Errorf("%s: %+v, %v, want %+v", name, h, err, want)
		}
	}
}

func TestTruncated(t *testing.T) {
	for name := range goldens {
		formatstest.CheckTruncated(t, qed.Format{}, formatstest.Golden(t, name))
	}
}

func TestDamage(t *testing.T) {
	formatstest.CheckDamage(t, qed.Format{}, formatstest.Golden(t, "image.qed"), nil, []formatstest.Damage{
		formatstest.Patch("magic", 0, []byte{0}, formats.ErrNotFormat, ""),
		formatstest.Patch("odd cluster", 4, []byte{1}, formats.ErrCorrupt, "cluster size"),
		formatstest.Patch("huge cluster", 4, []byte{0, 0, 0, 0x80}, formats.ErrCorrupt, "cluster size"),
		formatstest.Patch("table size", 8, []byte{3}, formats.ErrCorrupt, "table size"),
		formatstest.Patch("header size", 12, []byte{0xff, 0xff, 0xff, 0xff}, formats.ErrCorrupt, "header size"),
		formatstest.Patch("no header", 12, []byte{0}, formats.ErrCorrupt, "header size"),
		formatstest.Patch("unknown feature", 16, []byte{0x80}, formats.ErrUnsupported, "unknown bits 0x80"),
		formatstest.Patch("L1 misplaced", 40, []byte{1}, formats.ErrCorrupt, "L1 table"),
		formatstest.Patch("L1 past the end", 47, []byte{0x40}, formats.ErrCorrupt, "L1 table"),
		formatstest.Patch("disk size", 55, []byte{0x80}, formats.ErrCorrupt, "disk size"),
		formatstest.Patch("backing name outside the header", 16, []byte{
			1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0,
			0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 64, 0, 0, 0, 0, 0, 0xff, 0xff, 0xff, 0xff, 5, 0, 0, 0,
		}, formats.ErrCorrupt, "backing"),
	})
}

func FuzzProbe(f *testing.F) {
	formatstest.FuzzProbe(f, qed.Format{}, [][]byte{
		formatstest.Golden(f, "image.qed"),
	}, nil)
}
