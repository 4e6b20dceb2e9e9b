package qcow_test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"tarvm/formats"
	"tarvm/formats/formatstest"
	"tarvm/formats/qcow"
)

// write has qemu-io write to a disk, some of it compressed.
func write(t *testing.T, path string, seed uint64, size int64) {
	t.Helper()
	r := rand.New(rand.NewPCG(seed, 2))
	var args []string
	for i := range 25 {
		off := r.Int64N(size/512) * 512
		args = append(args, "-c", fmt.Sprintf("write -P %d %d %d", i+1, off, min(size-off, (1+r.Int64N(200))*512)))
	}
	formatstest.Run(t, filepath.Dir(path), "qemu-io", append(args, "-f", "qcow", path)...)
}

// pack compresses an image. qemu-img 7.2 makes a good one, and exits with 1.
func pack(t *testing.T, from, to string) {
	t.Helper()
	formatstest.Tool(t, "qemu-img")
	if err := exec.Command("qemu-img", "convert", "-f", "qcow", "-c", "-O", "qcow", from, to).Run(); err != nil {
		t.Logf("qemu-img convert -c: %v", err)
	}
	formatstest.Run(t, ".", "qemu-img", "compare", "-f", "qcow", "-F", "qcow", from, to)
}

func TestAgainstQemu(t *testing.T) {
	for i, size := range []int64{512, 4096, 5<<20 + 512, 40 << 20} {
		t.Run(fmt.Sprint(size), func(t *testing.T) {
			t.Parallel()
			dir := t.TempDir()
			path := func(name string) string { return filepath.Join(dir, name) }
			formatstest.Run(t, dir, "qemu-img", "create", "-q", "-f", "qcow", "base.qcow", fmt.Sprint(size))
			write(t, path("base.qcow"), uint64(i), size)
			base := formatstest.OpenFile(t, qcow.Format{}, path("base.qcow"))
			d := formatstest.Disk(t, base)
			formatstest.CheckDisk(t, d, formatstest.QemuRaw(t, "qcow", path("base.qcow")))
			formatstest.CheckMap(t, d, "qcow", path("base.qcow"))

			pack(t, path("base.qcow"), path("packed.qcow"))
			packed := formatstest.OpenFile(t, qcow.Format{}, path("packed.qcow"))
			formatstest.CheckDisk(t, formatstest.Disk(t, packed), formatstest.QemuRaw(t, "qcow", path("base.qcow")))
			if size > 1<<20 {
				// Over compressed clusters, which are lost then.
				write(t, path("packed.qcow"), uint64(i+40), size)
				m := formatstest.OpenFile(t, qcow.Format{}, path("packed.qcow"))
				formatstest.CheckDisk(t, formatstest.Disk(t, m), formatstest.QemuRaw(t, "qcow", path("packed.qcow")))
				for _, p := range formatstest.Problems(t, m) {
					if p.Severity != formats.Leak {
						t.Errorf("%s: %v", p.Severity, p)
					}
				}
			}

			formatstest.Run(t, dir, "qemu-img", "create", "-q", "-f", "qcow", "-b", "base.qcow", "-F", "qcow", "child.qcow", fmt.Sprint(size+1<<20))
			write(t, path("child.qcow"), uint64(i+20), size+1<<20)
			child := formatstest.OpenFile(t, qcow.Format{}, path("child.qcow"))
			if child.Parent == nil || child.Parent.Names[0] != "base.qcow" || child.Parent.Format != "" {
				t.Errorf("parent %+v", child.Parent)
			}
			formatstest.CheckDisk(t, formatstest.Disk(t, child, base), formatstest.QemuRaw(t, "qcow", path("child.qcow")))
			for _, p := range append(formatstest.Problems(t, base), formatstest.Problems(t, child)...) {
				t.Errorf("%s: %v", p.Severity, p)
			}
			t.Run("libqcow", func(t *testing.T) {
				formatstest.CheckDisk(t, d, formatstest.LibyalRaw(t, "pyqcow", path("base.qcow")))
			})
		})
	}
}

func TestHugeAndNearlyEmpty(t *testing.T) {
	path := filepath.Join(t.TempDir(), "disk.qcow")
	formatstest.Run(t, ".", "qemu-img", "create", "-q", "-f", "qcow", path, "16T")
	formatstest.Run(t, ".", "qemu-io", "-f", "qcow", "-c", "write 9T 64k", path)
	m := formatstest.OpenFile(t, qcow.Format{}, path)
	calls, data := 0, int64(0)
	for off := int64(0); off < m.VirtualSize; calls++ {
		e, err := m.Map.MapAt(off)
		if err != nil {
			t.Fatal(err)
		}
		if off = e.End(); e.Kind == formats.Data {
			data += e.Length
		}
	}
	if data != 64<<10 || calls > 20000 {
		t.Errorf("%d bytes in %d look-ups", data, calls)
	}
}

// What a damaged image says when it is read, and when it is checked.
func TestDamagedTables(t *testing.T) {
	good := formatstest.Golden(t, "v1.qcow")
	packed := formatstest.Golden(t, "packed.qcow")
	be := binary.BigEndian
	l1 := int64(be.Uint64(good[40:]))
	l2 := int64(be.Uint64(good[l1:])) // of the first 2 MiB
	entry := l2 + 8*256               // of guest byte 1 MiB
	packedL2 := int64(be.Uint64(packed[be.Uint64(packed[40:]):]))
	for _, c := range []struct {
		name  string
		b     []byte
		off   int64
		value uint64
		want  error
		says  string
		found string // by the check; empty: what says says
	}{
		{"L2 table past the end", good, l1, 1 << 40, formats.ErrCorrupt, "L2 table at 0x10000000000 passes end", ""},
		{"L2 table in the L1 table", good, l1, uint64(l1), formats.ErrCorrupt, "lies in the header or the L1 table", ""},
		{"cluster past the end", good, entry, 1 << 40, formats.ErrCorrupt, "cluster at 0x10000000000 passes end", ""},
		{"cluster that is not aligned", good, entry, 5001, formats.ErrCorrupt, "not a multiple of 512", ""},
		{"cluster in an L2 table", good, entry, uint64(l2), nil, "", "also those of the L2 table"},
		{"cluster used twice", good, entry, be.Uint64(good[entry+8:]), nil, "", "also those of the cluster"},
		{"compressed of no bytes", packed, packedL2, 1<<63 | 4096, formats.ErrCorrupt, "0 compressed bytes", ""},
		{"compressed past the end", packed, packedL2, 1<<63 | 9<<51 | 1<<30, formats.ErrCorrupt, "9 compressed bytes at 0x40000000", ""},
		{"compressed, of zeros", packed, packedL2, 1<<63 | 9<<51 | 60, formats.ErrCorrupt, "compressed cluster", ""},
		{"AES", good, 32, 0x0c09_0000_0000_0001, formats.ErrUnsupported, "AES", "-"},
	} {
		t.Run(c.name, func(t *testing.T) {
			b := bytes.Clone(c.b)
			be.PutUint64(b[c.off:], c.value)
			err := formatstest.CheckOpen(t, qcow.Format{}, b, formats.OpenOptions{})
			if !errors.Is(err, c.want) || err != nil && !strings.Contains(err.Error(), c.says) {
				t.Errorf("%v, want %v, %q", err, c.want, c.says)
			}
			if c.found == "-" {
				return
			}
			if c.found == "" {
				c.found = c.says
			}
			m, err := qcow.Format{}.Open(bytes.NewReader(b), formats.OpenOptions{})
			if err != nil {
				t.Fatal(err)
			}
			if list := formatstest.ProblemTexts(t, m); !strings.Contains(strings.Join(list, "\n"), c.found) ||
				!strings.HasPrefix(list[0], "risk") {
				t.Errorf("the check finds %q, want %q", list, c.found)
			}
		})
	}
}

func TestParentFacts(t *testing.T) {
	m, err := qcow.Format{}.Open(bytes.NewReader(formatstest.Golden(t, "child.qcow")), formats.OpenOptions{})
	if err != nil || len(m.Facts) < 2 || m.Parent == nil {
		t.Fatalf("%+v, %v", m, err)
	}
}
