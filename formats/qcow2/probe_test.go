package qcow2_test

import (
	"bytes"
	"testing"

	"tarvm/formats"
	"tarvm/formats/formatstest"
	"tarvm/formats/qcow2"
)

var goldens = map[string]formats.Header{
	"v2.qcow2":    {Format: "qcow2", Subformat: "v2", VirtualSize: 8 << 20, Unit: 64 << 10},
	"v3.qcow2":    {Format: "qcow2", Subformat: "v3", VirtualSize: 8 << 20, Unit: 64 << 10},
	"child.qcow2": {Format: "qcow2", Subformat: "v3", VirtualSize: 8 << 20, Unit: 16 << 10, ParentHint: "v3.qcow2"},
}

func TestGoldens(t *testing.T) {
	for name, want := range goldens {
		h, err := formatstest.CheckProbe(t, qcow2.Format{}, formatstest.Golden(t, name))
		if err != nil || *h != want {
			t.Errorf("%s: %+v, %v, want %+v", name, h, err, want)
		}
	}
}

func TestTruncated(t *testing.T) {
	for name := range goldens {
		formatstest.CheckTruncated(t, qcow2.Format{}, formatstest.Golden(t, name))
	}
}

func TestDamage(t *testing.T) {
	formatstest.CheckDamage(t, qcow2.Format{}, formatstest.Golden(t, "child.qcow2"), nil, []formatstest.Damage{
		formatstest.Patch("magic", 3, []byte{0}, formats.ErrNotFormat, ""),
		formatstest.Patch("version 1", 7, []byte{1}, formats.ErrNotFormat, ""),
		formatstest.Patch("version", 7, []byte{4}, formats.ErrUnsupported, "version"),
		formatstest.Patch("backing name too long", 16, []byte{0, 0, 4, 0}, formats.ErrCorrupt, "backing"),
		formatstest.Patch("backing name past the end", 12, []byte{1}, formats.ErrCorrupt, "backing"),
		formatstest.Patch("backing name at 2^63", 8, []byte{0x80}, formats.ErrCorrupt, "backing"),
		formatstest.Patch("clusters of 2^8", 23, []byte{8}, formats.ErrCorrupt, "cluster size"),
		formatstest.Patch("clusters of 2^22", 23, []byte{22}, formats.ErrCorrupt, "cluster size"),
		formatstest.Patch("small clusters with subclusters", 23, []byte{13}, formats.ErrCorrupt, "subclusters"),
		formatstest.Patch("disk of 2^63", 24, []byte{0x80}, formats.ErrCorrupt, "disk size"),
		formatstest.Patch("disk above L1", 26, []byte{1}, formats.ErrCorrupt, "L1 size"),
		formatstest.Patch("L1 too large", 36, []byte{0xff}, formats.ErrCorrupt, "L1 size"),
		formatstest.Patch("L1 past the end", 38, []byte{0xff}, formats.ErrCorrupt, "L1 table"),
		formatstest.Patch("L1 unaligned", 47, []byte{8}, formats.ErrCorrupt, "L1 offset"),
		formatstest.Patch("L1 at 2^63", 40, []byte{0x80}, formats.ErrCorrupt, "L1 table"),
		formatstest.Patch("unknown feature", 79, []byte{0x30}, formats.ErrUnsupported, "unknown bits 0x20"),
		formatstest.Patch("dirty and corrupt bits", 79, []byte{0x13}, nil, ""),
		formatstest.Patch("header length", 103, []byte{8}, formats.ErrCorrupt, "header length"),
	})
}

// The header survives a refusal, so that a listing can say what was refused.
func TestRefusedStillDescribed(t *testing.T) {
	b := formatstest.Golden(t, "child.qcow2")
	b[79] |= 0x40
	h, err := qcow2.Format{}.Probe(bytes.NewReader(b))
	if err == nil || h.VirtualSize != 8<<20 || h.ParentHint != "v3.qcow2" {
		t.Errorf("%+v, %v", h, err)
	}
}

// With an external data file this one holds no clusters.
func TestExternalData(t *testing.T) {
	b := formatstest.Golden(t, "v3.qcow2")
	b[79] |= 4
	h, err := formatstest.CheckProbe(t, qcow2.Format{}, b)
	if err != nil || h.Unit != 0 {
		t.Errorf("%+v, %v", h, err)
	}
}

func FuzzProbe(f *testing.F) {
	formatstest.FuzzProbe(f, qcow2.Format{}, [][]byte{
		formatstest.Golden(f, "v2.qcow2"),
		formatstest.Golden(f, "v3.qcow2"),
		formatstest.Golden(f, "child.qcow2"),
	}, nil)
}
