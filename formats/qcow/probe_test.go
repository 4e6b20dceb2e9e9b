package qcow_test

import (
	"testing"

	"tarvm/formats"
	"tarvm/formats/formatstest"
	"tarvm/formats/qcow"
)

var goldens = map[string]formats.Header{
	"v1.qcow":     {Format: "qcow", Subformat: "v1", VirtualSize: 8 << 20, Unit: 4 << 10},
	"packed.qcow": {Format: "qcow", Subformat: "v1", VirtualSize: 276992, Unit: 4 << 10},
	"child.qcow":  {Format: "qcow", Subformat: "v1", VirtualSize: 9 << 20, Unit: 512, ParentHint: "v1.qcow"},
}

func TestGoldens(t *testing.T) {
	for name, want := range goldens {
		h, err := formatstest.CheckProbe(t, qcow.Format{}, formatstest.Golden(t, name))
		if err != nil || *h != want {
			t.Errorf("%s: %+v, %v, want %+v", name, h, err, want)
		}
	}
}

func TestTruncated(t *testing.T) {
	for name := range goldens {
		formatstest.CheckTruncated(t, qcow.Format{}, formatstest.Golden(t, name))
	}
}

func TestDamage(t *testing.T) {
	formatstest.CheckDamage(t, qcow.Format{}, formatstest.Golden(t, "child.qcow"), nil, []formatstest.Damage{
		formatstest.Patch("magic", 3, []byte{0}, formats.ErrNotFormat, ""),
		formatstest.Patch("version 2", 7, []byte{2}, formats.ErrNotFormat, ""),
		formatstest.Patch("backing name too long", 16, []byte{0, 0, 4, 0}, formats.ErrCorrupt, "backing"),
		formatstest.Patch("backing name past the end", 12, []byte{1}, formats.ErrCorrupt, "backing"),
		formatstest.Patch("backing name at 2^63", 8, []byte{0x80}, formats.ErrCorrupt, "backing"),
		formatstest.Patch("clusters of 2^8", 32, []byte{8}, formats.ErrCorrupt, "cluster size"),
		formatstest.Patch("clusters of 2^17", 32, []byte{17}, formats.ErrCorrupt, "cluster size"),
		formatstest.Patch("small L2 tables", 33, []byte{5}, formats.ErrCorrupt, "L2 size"),
		formatstest.Patch("large L2 tables", 33, []byte{14}, formats.ErrCorrupt, "L2 size"),
		formatstest.Patch("disk of 2^63", 24, []byte{0xff}, formats.ErrCorrupt, "disk size"),
		formatstest.Patch("empty disk", 24, []byte{0, 0, 0, 0, 0, 0, 0, 1}, formats.ErrCorrupt, "disk size"),
		formatstest.Patch("huge disk", 24, []byte{0x7f}, formats.ErrCorrupt, "L1 table"),
		formatstest.Patch("L1 past the end", 40, []byte{0x7f}, formats.ErrCorrupt, "L1 table"),
		formatstest.Patch("L1 at 2^63", 40, []byte{0x80}, formats.ErrCorrupt, "L1 table"),
	})
}

// seeds are the goldens, in an order that stays.
func seeds(t testing.TB) (list [][]byte) {
	t.Helper()
	for _, name := range []string{"child.qcow", "packed.qcow", "v1.qcow"} {
		list = append(list, formatstest.Golden(t, name))
	}
	return list
}

func FuzzProbe(f *testing.F) { formatstest.FuzzProbe(f, qcow.Format{}, seeds(f), nil) }

func FuzzOpen(f *testing.F) { formatstest.FuzzOpen(f, qcow.Format{}, seeds(f), nil) }
