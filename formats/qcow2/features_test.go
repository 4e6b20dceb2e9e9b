package qcow2_test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"tarvm/formats"
	"tarvm/formats/formatstest"
	"tarvm/formats/qcow2"
)

// Chains of images of different sizes and units, the last of which qemu reads.
func TestChainsAgainstQemu(t *testing.T) {
	units := []int64{64 << 10, 4096, 16 << 10, 512, 1 << 20, 64 << 10}
	sizes := []int64{4 << 20, 6<<20 + 512, 3<<20 + 1024, 5 << 20, 8<<20 + 512, 2 << 20}
	options := []string{"", "compression_type=zstd", "extended_l2=on", "compat=0.10", "", "refcount_bits=1"}
	for depth := 1; depth <= 5; depth++ {
		t.Run(fmt.Sprint(depth), func(t *testing.T) {
			t.Parallel()
			dir := t.TempDir()
			var layers []*formats.Image
			var path string
			for i := range depth + 1 {
				k := (i + depth) % len(units)
				parent := path
				path = filepath.Join(dir, fmt.Sprintf("%d.qcow2", i))
				o := fmt.Sprintf("cluster_size=%d", units[k])
				if options[k] != "" {
					o += "," + options[k]
				}
				var more []string
				if i > 0 {
					more = []string{"-b", filepath.Base(parent), "-F", "qcow2"}
				}
				create(t, path, o, sizes[k], more...)
				qemuIO(t, path, writes(uint64(10*depth+i), 15, sizes[k], units[k], true)...)
				m := formatstest.OpenFile(t, qcow2.Format{}, path)
				switch {
				case i == 0 && m.Parent != nil:
					t.Errorf("parent %+v", m.Parent)
				case i > 0 && (m.Parent == nil || !slices.Equal(m.Parent.Names, []string{filepath.Base(parent)}) ||
					m.Parent.Format != "qcow2"):
					t.Errorf("parent %+v", m.Parent)
				}
				for _, p := range formatstest.Problems(t, m) {
					t.Errorf("%s: %v", p.Severity, p)
				}
				layers = append([]*formats.Image{m}, layers...)
			}
			d := formatstest.Disk(t, layers...)
			formatstest.CheckDisk(t, d, formatstest.QemuRaw(t, "qcow2", path))
			checkMap(t, d, path)
		})
	}
}

// A parent whose format is not recorded must not be guessed.
func TestParentWithoutFormat(t *testing.T) {
	b := formatstest.Golden(t, "child.qcow2")
	i := bytes.Index(b, []byte{0xe2, 0x79, 0x2a, 0xca})
	if i < 0 {
		t.Fatal("no backing format in the golden")
	}
	b[i] = 0x12 // an extension that nobody knows
	m, err := qcow2.Format{}.Open(bytes.NewReader(b), formats.OpenOptions{})
	if err != nil || m.Parent == nil || m.Parent.Format != "" || m.Parent.Names[0] != "v3.qcow2" {
		t.Errorf("%+v, %v", m, err)
	}
}

func TestSnapshotsAgainstQemu(t *testing.T) {
	for _, o := range []string{"compat=0.10", "cluster_size=4096,refcount_bits=8",
		"extended_l2=on,compression_type=zstd"} {
		t.Run(o, func(t *testing.T) {
			t.Parallel()
			path := filepath.Join(t.TempDir(), "disk.qcow2")
			size := int64(5<<20 + 512)
			create(t, path, o, size)
			sizes := []int64{size, size, size}
			for i, name := range []string{"first", "second: ü", "third"} {
				qemuIO(t, path, writes(uint64(i), 12, size, 64<<10, i == 0)...)
				formatstest.Run(t, filepath.Dir(path), "qemu-img", "snapshot", "-c", name, path)
				if i == 1 && !strings.Contains(o, "0.10") {
					size += 3<<20 + 1024
					sizes[2] = size
					formatstest.Run(t, filepath.Dir(path), "qemu-img", "resize", "-f", "qcow2", path, fmt.Sprint(size))
				}
			}
			qemuIO(t, path, writes(9, 12, size, 64<<10, false)...)
			m := formatstest.OpenFile(t, qcow2.Format{}, path)
			check(t, m, path)
			formatstest.CheckDisk(t, formatstest.Disk(t, m), formatstest.QemuRaw(t, "qcow2", path))
			if len(m.Snapshots) != 3 || fact(m, "snapshots") != "3" {
				t.Fatalf("%+v", m.Snapshots)
			}
			for i, s := range m.Snapshots {
				if s.ID != fmt.Sprint(i+1) || s.Name != []string{"first", "second: ü", "third"}[i] || s.Unix < 1.6e9 ||
					s.State != nil || s.Image == nil || s.Image.VirtualSize != sizes[i] {
					t.Fatalf("%+v", s)
				}
				raw := filepath.Join(t.TempDir(), "raw")
				formatstest.Run(t, ".", "qemu-img", "convert", "-f", "qcow2", "-l", "snapshot.id="+s.ID, "-O", "raw", path, raw)
				want, err := os.ReadFile(raw)
				if err != nil {
					t.Fatal(err)
				}
				// qemu-img gives a snapshot the size that the disk has now.
				formatstest.CheckDisk(t, formatstest.Disk(t, s.Image), bytes.NewReader(want[:s.Image.VirtualSize]))
			}
		})
	}
}

// The saved memory lies behind the disk in a snapshot's L1 table. qemu-io writes
// it there; the length is patched in, because only a running VM records one.
func TestVMState(t *testing.T) {
	path := filepath.Join(t.TempDir(), "disk.qcow2")
	const size, state = 3<<20 + 512, 200<<10 + 7
	create(t, path, "cluster_size=4096", size)
	qemuIO(t, path, "write -P 1 0 3M", "write -b -P 7 0 100k", "write -b -P 9 150k 100k")
	formatstest.Run(t, filepath.Dir(path), "qemu-img", "snapshot", "-c", "s", path)
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	at := binary.BigEndian.Uint64(b[64:])
	binary.BigEndian.PutUint64(b[at+40:], state)
	m, err := qcow2.Format{}.Open(bytes.NewReader(b), formats.OpenOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if len(m.Snapshots) != 1 || m.Snapshots[0].State == nil {
		t.Fatalf("%+v", m.Snapshots)
	}
	s := m.Snapshots[0]
	d := formatstest.Disk(t, &formats.Image{Header: m.Header, Map: s.State, Files: s.Image.Files,
		Inflate: s.Image.Inflate})
	want := make([]byte, state)
	for i := range want {
		switch {
		case i < 100<<10:
			want[i] = 7
		case i >= 150<<10:
			want[i] = 9
		}
	}
	formatstest.CheckDisk(t, d, bytes.NewReader(want))
	binary.BigEndian.PutUint64(b[at+40:], 1<<40)
	m, err = qcow2.Format{}.Open(bytes.NewReader(b), formats.OpenOptions{})
	if err != nil || m.Snapshots[0].Image != nil || len(m.Problems) != 1 || m.Problems[0].Severity != formats.Risk {
		t.Errorf("a state larger than the L1 table: %+v, %v", m, err)
	}
}

func TestExternalDataAgainstQemu(t *testing.T) {
	for _, raw := range []string{"on", "off"} {
		t.Run(raw, func(t *testing.T) {
			t.Parallel()
			path := filepath.Join(t.TempDir(), "disk.qcow2")
			const size = 4<<20 + 512
			create(t, path, "cluster_size=16k,data_file=disk.data,data_file_raw="+raw, size)
			qemuIO(t, path, writes(3, 30, size, 16<<10, false)...)
			m := formatstest.OpenFile(t, qcow2.Format{}, path)
			if len(m.Files) != 2 || m.Unit != 0 || fact(m, "data file") != "disk.data" {
				t.Errorf("%+v", m)
			}
			d := formatstest.Disk(t, m)
			formatstest.CheckDisk(t, d, formatstest.QemuRaw(t, "qcow2", path))
			checkMap(t, d, path)
			check(t, m, path)

			b, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			if _, err := (qcow2.Format{}).Open(bytes.NewReader(b), formats.OpenOptions{}); !errors.Is(err,
				formats.ErrUnsupported) {
				t.Errorf("without Find: %v", err)
			}
			missing := formats.OpenOptions{Find: formatstest.Sources(nil)}
			if _, err := (qcow2.Format{}).Open(bytes.NewReader(b), missing); !errors.Is(err, os.ErrNotExist) {
				t.Errorf("a missing data file: %v", err)
			}
			cut := formats.OpenOptions{Find: formatstest.Sources(map[string][]byte{"disk.data": make([]byte, 20000)})}
			if err := formatstest.CheckOpen(t, qcow2.Format{}, b, cut); !errors.Is(err, formats.ErrCorrupt) {
				t.Errorf("a data file that is cut: %v", err)
			}
		})
	}
}

func dirty(t *testing.T, b *qcow2.Bitmap) []qcow2.Range {
	t.Helper()
	var list []qcow2.Range
	for r, err := range b.Dirty() {
		if err != nil {
			t.Fatal(err)
		}
		list = append(list, r)
	}
	return list
}

func TestBitmapsAgainstQemu(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "disk.qcow2")
	const size = 4<<30 + 1536
	create(t, path, "cluster_size=4096", size)
	bitmap := func(args ...string) { formatstest.Run(t, dir, "qemu-img", append([]string{"bitmap"}, args...)...) }
	bitmap("--add", "-g", "64k", path, "coarse")
	qemuIO(t, path, "write 1M 64k", "write 1200k 4k", "write 4G 1536", "write 3G 20M")
	bitmap("--add", "-g", "512", path, "fine")
	bitmap("--add", "--disable", path, "off")
	qemuIO(t, path, "write 100 512", "write 2048k 1k", "discard 0 4k")
	m := formatstest.OpenFile(t, qcow2.Format{}, path)
	check(t, m, path)
	if got := fact(m, "bitmap coarse"); got != "granularity 65536, enabled, consistent" {
		t.Errorf("coarse: %q", got)
	}
	if got := fact(m, "bitmap off"); got != "granularity 4096, disabled, consistent" {
		t.Errorf("off: %q", got)
	}
	src, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	list, err := qcow2.Bitmaps(bytes.NewReader(src))
	if err != nil || len(list) != 3 {
		t.Fatalf("%v, %v", list, err)
	}
	want := map[string][]qcow2.Range{
		"coarse": {{0, 64 << 10}, {1 << 20, 64 << 10}, {1200 << 10 &^ 0xffff, 64 << 10}, {2 << 20, 64 << 10},
			{3 << 30, 20 << 20}, {4 << 30, 1536}},
		"fine": {{0, 4096}, {2 << 20, 1024}},
		"off":  nil,
	}
	for _, b := range list {
		if got := dirty(t, b); !slices.Equal(got, want[b.Name]) {
			t.Errorf("%s: %v, want %v", b.Name, got, want[b.Name])
		}
	}

	// A bitmap in use is not consistent: what it says must not be used.
	ext := bytes.Index(src, []byte{0x23, 0x85, 0x28, 0x75})
	at := binary.BigEndian.Uint64(src[ext+24:])
	src[at+15] |= 1
	list, err = qcow2.Bitmaps(bytes.NewReader(src))
	if err != nil || list[0].Consistent {
		t.Fatalf("%+v, %v", list[0], err)
	}
	for _, err := range list[0].Dirty() {
		if !errors.Is(err, formats.ErrUnsupported) {
			t.Error(err)
		}
	}
	// A program that does not know bitmaps takes the autoclear bit away.
	src[95] &^= 1
	if list, err = qcow2.Bitmaps(bytes.NewReader(src)); err != nil || len(list) != 0 {
		t.Errorf("stale: %v, %v", list, err)
	}
}

// A disk of 16 TiB with little in it is opened and mapped by few steps.
func TestHugeAndNearlyEmpty(t *testing.T) {
	path := filepath.Join(t.TempDir(), "disk.qcow2")
	create(t, path, "", 16<<40)
	qemuIO(t, path, "write -P 1 0 64k", "write -P 2 9T 1M", fmt.Sprintf("write -P 3 %d 512", int64(16<<40-512)))
	m := formatstest.OpenFile(t, qcow2.Format{}, path)
	check(t, m, path)
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
	if data != 64<<10+1<<20+64<<10 || calls > 100 {
		t.Errorf("%d bytes of data, %d calls", data, calls)
	}
}

// The corpus has images that other programs wrote.
func TestCorpus(t *testing.T) {
	n := 0
	for _, s := range formatstest.Corpus(t, "../../../shared/corpus/images", 1<<20, "qcow2") {
		n++
		t.Run(s.Path, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "disk.qcow2")
			if err := os.WriteFile(path, s.Bytes, 0o600); err != nil {
				t.Fatal(err)
			}
			m := formatstest.OpenFile(t, qcow2.Format{}, path)
			d := formatstest.Disk(t, m)
			formatstest.CheckDisk(t, d, formatstest.QemuRaw(t, "qcow2", path))
			checkMap(t, d, path)
			check(t, m, path)
			if s.VirtualSize < 64<<20 {
				formatstest.CheckDisk(t, d, formatstest.LibyalRaw(t, "pyqcow", path))
			}
		})
	}
	if n == 0 {
		t.Error("no qcow2 in the corpus")
	}
}
