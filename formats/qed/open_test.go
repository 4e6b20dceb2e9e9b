package qed_test

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"tarvm/formats"
	"tarvm/formats/formatstest"
	"tarvm/formats/qed"
)

// write has qemu-io write to a disk in all the ways that there are.
func write(t *testing.T, path string, seed uint64, size int64) {
	t.Helper()
	r := rand.New(rand.NewPCG(seed, 2))
	var args []string
	for i := range 25 {
		off := r.Int64N(size/512) * 512
		cmd := fmt.Sprintf("write -P %d %d %d", i+1, off, min(size-off, (1+r.Int64N(400))*512))
		if i%4 == 3 {
			cmd = fmt.Sprintf("write -z %d %d", off, min(size-off, 300<<10))
		}
		args = append(args, "-c", cmd)
	}
	formatstest.Run(t, filepath.Dir(path), "qemu-io", append(args, "-f", "qed", path)...)
}

// checkMap compares extents with those that qemu-img lists.
func checkMap(t *testing.T, d formats.Disk, path string) {
	t.Helper()
	var list []struct {
		Start, Length int64
		Depth         int
		Zero, Data    bool
		Offset        *int64
	}
	if err := json.Unmarshal(formatstest.Run(t, filepath.Dir(path), "qemu-img", "map", "--output=json", "-f",
		"qed", path), &list); err != nil {
		t.Fatal(err)
	}
	for _, q := range list {
		for e, err := range d.Extents(q.Start, q.Length) {
			if err != nil {
				t.Fatal(err)
			}
			ok := q.Zero && !q.Data
			if e.Kind == formats.Data {
				ok = q.Data && q.Depth == e.Depth && q.Offset != nil && *q.Offset+e.Offset-q.Start == e.Host
			}
			if !ok {
				t.Fatalf("%+v, qemu-img says %+v", e, q)
			}
		}
	}
}

func TestAgainstQemu(t *testing.T) {
	for i, o := range []string{"", "cluster_size=4096", "cluster_size=4096,table_size=2",
		"cluster_size=65536,table_size=16", "cluster_size=1M,table_size=2"} {
		t.Run(o, func(t *testing.T) {
			t.Parallel()
			dir := t.TempDir()
			base, child, raw := filepath.Join(dir, "base.qed"), filepath.Join(dir, "child.qed"), filepath.Join(dir, "base.raw")
			size := int64(5<<20 + 512*(i+1))
			create := func(path string, size int64, more ...string) {
				args := append([]string{"create", "-q", "-f", "qed"}, more...)
				if o != "" {
					args = append(args, "-o", o)
				}
				formatstest.Run(t, dir, "qemu-img", append(args, path, fmt.Sprint(size))...)
			}
			create(base, size)
			write(t, base, uint64(i), size)
			m := formatstest.OpenFile(t, qed.Format{}, base)
			d := formatstest.Disk(t, m)
			formatstest.CheckDisk(t, d, formatstest.QemuRaw(t, "qed", base))
			checkMap(t, d, base)

			create(child, size+1<<20, "-b", "base.qed", "-F", "qed")
			write(t, child, uint64(i+20), size+1<<20)
			c := formatstest.OpenFile(t, qed.Format{}, child)
			if c.Parent == nil || c.Parent.Names[0] != "base.qed" || c.Parent.Format != "" {
				t.Errorf("parent %+v", c.Parent)
			}
			d = formatstest.Disk(t, c, m)
			formatstest.CheckDisk(t, d, formatstest.QemuRaw(t, "qed", child))
			checkMap(t, d, child)
			for _, p := range append(formatstest.Problems(t, m), formatstest.Problems(t, c)...) {
				t.Errorf("%s: %v", p.Severity, p)
			}
			formatstest.QemuCheck(t, "qed", child)

			if err := os.WriteFile(raw, nil, 0o600); err != nil {
				t.Fatal(err)
			}
			create(filepath.Join(dir, "raw.qed"), size, "-b", "base.raw", "-F", "raw")
			if m := formatstest.OpenFile(t, qed.Format{}, filepath.Join(dir, "raw.qed")); m.Parent == nil ||
				m.Parent.Format != "raw" {
				t.Errorf("parent %+v", m.Parent)
			}
		})
	}
}

func TestHugeAndNearlyEmpty(t *testing.T) {
	path := filepath.Join(t.TempDir(), "disk.qed")
	formatstest.Run(t, ".", "qemu-img", "create", "-q", "-f", "qed", path, "16T")
	formatstest.Run(t, ".", "qemu-io", "-f", "qed", "-c", "write 9T 64k", path)
	m := formatstest.OpenFile(t, qed.Format{}, path)
	calls, data := 0, int64(0)
	for off := int64(0); off < m.VirtualSize; calls++ {
		e, err := m.Map.MapAt(off)
		if err != nil {
			t.Fatal(err)
		}
		if e.Kind == formats.Data {
			data += e.Length
		}
		off = e.End()
	}
	if data != 64<<10 || calls > 100 || len(formatstest.Problems(t, m)) > 0 {
		t.Errorf("%d bytes of data, %d calls, %v", data, calls, formatstest.Problems(t, m))
	}
}

func TestDamagedTables(t *testing.T) {
	golden := formatstest.Golden(t, "image.qed")
	le := binary.LittleEndian
	l1 := int64(le.Uint64(golden[40:]))
	l2 := int64(le.Uint64(golden[l1:]))
	entry := l2 + 16*8 // of the data at 1 MiB
	data := le.Uint64(golden[entry:])
	for _, c := range []struct {
		name string
		off  int64
		v    uint64
		read error
		want formats.Severity
		says string
	}{
		{"L1 entry to the L1 table", l1, uint64(l1), formats.ErrCorrupt, formats.Risk, "the L1 table"},
		{"L1 entry to the header", l1, 1, formats.ErrCorrupt, formats.Risk, "multiple"},
		{"L1 entry past the end", l1, 1 << 40, formats.ErrCorrupt, formats.Risk, "passes end"},
		{"L1 entry at 2^63", l1, 1 << 63, formats.ErrCorrupt, formats.Risk, "passes end"},
		{"data in the L1 table", entry, uint64(l1), formats.ErrCorrupt, formats.Risk, "the L1 table"},
		{"data in the L2 table", entry, uint64(l2), formats.ErrCorrupt, formats.Risk, "L2 table"},
		{"data behind the end", entry, 1 << 40, formats.ErrCorrupt, formats.Risk, "passes end"},
		{"data unaligned", entry, data + 512, formats.ErrCorrupt, formats.Risk, "multiple"},
		{"data used twice", entry + 8, data, nil, formats.Risk, "used twice"},
		{"data leaked", entry, 1, nil, formats.Leak, "not used"},
		{"not closed", 16, 2, nil, formats.Note, "not closed"},
	} {
		t.Run(c.name, func(t *testing.T) {
			b := bytes.Clone(golden)
			le.PutUint64(b[c.off:], c.v)
			if err := formatstest.CheckOpen(t, qed.Format{}, b, formats.OpenOptions{}); !errors.Is(err, c.read) {
				t.Errorf("%v, want %v", err, c.read)
			}
			m, err := qed.Format{}.Open(bytes.NewReader(b), formats.OpenOptions{})
			if err != nil {
				t.Fatal(err)
			}
			found := false
			for _, p := range formatstest.Problems(t, m) {
				found = found || p.Severity == c.want && strings.Contains(p.Text, c.says)
			}
			if !found {
				t.Errorf("%v, want %v: %s", formatstest.Problems(t, m), c.want, c.says)
			}
		})
	}
}

// Any bit of the header, and of the tables' first entries.
func TestFlippedBits(t *testing.T) {
	golden := formatstest.Golden(t, "image.qed")
	l1 := int(binary.LittleEndian.Uint64(golden[40:]))
	l2 := int(binary.LittleEndian.Uint64(golden[l1:]))
	for _, from := range []int{0, l1, l2 + 16*8} {
		n := 8
		if from == 0 {
			n = 64
		}
		for off := from; off < from+n; off++ {
			for bit := range 8 {
				b := bytes.Clone(golden)
				b[off] ^= 1 << bit
				_ = formatstest.CheckOpen(t, qed.Format{}, b, formats.OpenOptions{})
			}
		}
	}
}

func TestTruncatedImages(t *testing.T) {
	golden := formatstest.Golden(t, "image.qed")
	for n := 0; n < len(golden); n += 0x8000 {
		if err := formatstest.CheckOpen(t, qed.Format{}, golden[:n], formats.OpenOptions{}); err == nil {
			t.Errorf("cut at 0x%x: no error", n)
		}
	}
}

func FuzzOpen(f *testing.F) {
	formatstest.FuzzOpen(f, qed.Format{}, [][]byte{formatstest.Golden(f, "image.qed")}, nil)
}
