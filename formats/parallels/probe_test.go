package parallels_test

import (
	"bytes"
	"encoding/binary"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"

	"tarvm/formats"
	"tarvm/formats/formatstest"
	"tarvm/formats/parallels"
)

var goldens = map[string]formats.Header{
	"ext.hds": {Format: "parallels", Subformat: "v2", VirtualSize: 8 << 20, Unit: 1 << 20},
}

func TestGoldens(t *testing.T) {
	for name, want := range goldens {
		h, err := formatstest.CheckProbe(t, parallels.Format{}, formatstest.Golden(t, name))
		if err != nil || *h != want {
			t.Errorf("%s: %+v, %v, want %+v", name, h, err, want)
		}
	}
}

func TestTruncated(t *testing.T) {
	for name := range goldens {
		formatstest.CheckTruncated(t, parallels.Format{}, formatstest.Golden(t, name))
	}
}

func TestDamage(t *testing.T) {
	formatstest.CheckDamage(t, parallels.Format{}, formatstest.Golden(t, "ext.hds"), nil, []formatstest.Damage{
		formatstest.Patch("magic", 15, []byte{'x'}, formats.ErrNotFormat, ""),
		formatstest.Patch("version", 16, []byte{3}, formats.ErrUnsupported, "version"),
		formatstest.Patch("cluster of 0", 28, []byte{0, 0, 0, 0}, formats.ErrCorrupt, "cluster size"),
		formatstest.Patch("cluster of 2^31", 28, []byte{0, 0, 0, 0x80}, formats.ErrCorrupt, "cluster size"),
		formatstest.Patch("table past the end", 32, []byte{0xff, 0xff, 0xff, 0xff}, formats.ErrCorrupt, "table"),
		formatstest.Patch("disk above the table", 39, []byte{1}, formats.ErrCorrupt, "table size"),
		formatstest.Patch("disk of 2^64", 36, []byte{0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff}, formats.ErrCorrupt,
			"disk size"),
		formatstest.Patch("left open", 44, []byte{0x59, 0x6e, 0x6f, 0x74}, nil, ""),
	})
}

// old makes an image of the older magic, with clusters of the given sectors
// and clusters 0 and 2 of a disk of three at the given sectors.
func old(cluster, first, second uint32, data []byte) []byte {
	unit := int(cluster) * 512
	b := make([]byte, int(max(first, second))*512+unit)
	copy(b, "WithoutFreeSpace")
	le := binary.LittleEndian
	for off, v := range map[int]uint32{
		16: 2, 20: 16, 24: 1, 28: cluster, 32: 3, 36: 3 * cluster,
		40: 0xdeadbeef, // means nothing in the older format
		48: min(first, second),
		64: first, 72: second,
	} {
		le.PutUint32(b[off:], v)
	}
	copy(b[first*512:], data[:unit])
	copy(b[second*512:], data[2*unit:3*unit])
	return b
}

// Clusters of the older format count sectors and lie anywhere. qemu reads the
// same image to the same disk.
func TestOldClustersAnywhere(t *testing.T) {
	for _, cluster := range []uint32{63, 128, 504, 2048} {
		data := make([]byte, 3*cluster*512)
		rand.NewChaCha8([32]byte{1}).Read(data)
		clear(data[cluster*512 : 2*cluster*512])
		b := old(cluster, 5+cluster, 5, data)
		want := formats.Header{Format: "parallels", Subformat: "v1", VirtualSize: int64(len(data)),
			Unit: int64(cluster) * 512, Grid: 5 * 512}
		h, err := formatstest.CheckProbe(t, parallels.Format{}, b)
		if err != nil || *h != want {
			t.Errorf("%+v, %v, want %+v", h, err, want)
		}
		formatstest.CheckTruncated(t, parallels.Format{}, b)

		dir := t.TempDir()
		if err := os.WriteFile(filepath.Join(dir, "old.hds"), b, 0o644); err != nil {
			t.Fatal(err)
		}
		formatstest.Run(t, dir, "qemu-img", "convert", "-f", "parallels", "-O", "raw", "old.hds", "raw")
		if got, err := os.ReadFile(filepath.Join(dir, "raw")); err != nil || !bytes.Equal(got, data) {
			t.Errorf("%d sectors: qemu reads another disk (%d bytes, %v)", cluster, len(got), err)
		}
	}
}

func TestOldDamage(t *testing.T) {
	formatstest.CheckDamage(t, parallels.Format{}, old(8, 5, 13, make([]byte, 3*8*512)), nil, []formatstest.Damage{
		formatstest.Patch("cluster past the end", 66, []byte{1}, nil, ""), // for whoever reads it
		formatstest.Patch("no data offset", 48, []byte{0}, nil, ""),
	})
}

func FuzzProbe(f *testing.F) {
	formatstest.FuzzProbe(f, parallels.Format{}, [][]byte{
		formatstest.Golden(f, "ext.hds"),
		old(63, 5, 68, make([]byte, 3*63*512)),
	}, nil)
}
