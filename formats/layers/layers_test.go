package layers_test

import (
	"bytes"
	"context"
	"errors"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/fstest"

	"tarvm/formats"
	"tarvm/formats/all"
	"tarvm/formats/formatstest"
	"tarvm/formats/layers"
)

// tree is a directory for disks that qemu makes.
type tree struct {
	t   *testing.T
	dir string
}

func newTree(t *testing.T) *tree {
	t.Helper()
	formatstest.Tool(t, "qemu-img")
	return &tree{t, t.TempDir()}
}

func (tr *tree) img(args ...string) {
	tr.t.Helper()
	formatstest.Run(tr.t, tr.dir, "qemu-img", args...)
}

func (tr *tree) io(format, file string, commands ...string) {
	tr.t.Helper()
	args := []string{"-f", format}
	for _, c := range commands {
		args = append(args, "-c", c)
	}
	formatstest.Run(tr.t, tr.dir, "qemu-io", append(args, file)...)
}

func (tr *tree) open(name string, o layers.Options) (*layers.Disk, error) {
	tr.t.Helper()
	root, err := os.OpenRoot(tr.dir)
	if err != nil {
		tr.t.Fatal(err)
	}
	d := layers.NewDir(root.FS(), tr.dir)
	tr.t.Cleanup(func() {
		if err := d.Close(); err != nil {
			tr.t.Error(err)
		}
		root.Close()
	})
	if o.Formats == nil {
		o.Formats = all.Disks()
	}
	return layers.Open(d, name, o)
}

func (tr *tree) disk(name string, o layers.Options) *layers.Disk {
	tr.t.Helper()
	d, err := tr.open(name, o)
	if err != nil {
		tr.t.Fatalf("%s: %v", name, err)
	}
	return d
}

// TestChains: chains as qemu makes them, of mixed formats and sizes, are read as qemu reads them.
func TestChains(t *testing.T) {
	for _, c := range []struct {
		name    string
		formats []string
		sizes   []int64 // MiB; those of VMDK's deltas are the base's
	}{
		{"long", []string{"vmdk", "qcow2", "qcow2", "qcow2", "qcow2", "qcow2"}, []int64{3, 5, 2, 2, 9, 9}},
		{"vmdk", []string{"vmdk", "vmdk", "vmdk", "qcow2"}, []int64{4, 4, 4, 6}},
		{"vdi", []string{"vdi", "qcow2"}, []int64{4, 2}},
		{"vhdx", []string{"vhdx", "qcow2"}, []int64{4, 5}},
		{"raw", []string{"raw", "qcow2"}, []int64{4, 5}},
	} {
		t.Run(c.name, func(t *testing.T) {
			tr := newTree(t)
			r := rand.New(rand.NewPCG(1, 1))
			for i, f := range c.formats {
				name := itoa(int64(i)) + ".img"
				args := []string{"create", "-f", f}
				if i > 0 {
					args = append(args, "-b", itoa(int64(i-1))+".img", "-F", c.formats[i-1])
				}
				args = append(args, name)
				if i == 0 || f == "qcow2" {
					args = append(args, itoa(c.sizes[i])+"M")
				}
				tr.img(args...)
				var writes []string
				for range 10 {
					off := r.Int64N(c.sizes[i]<<11-200) * 512
					writes = append(writes, "write -P "+itoa(1+r.Int64N(255))+" "+itoa(off)+" "+itoa(512*(1+r.Int64N(150))))
				}
				if f == "qcow2" {
					writes = append(writes, "write -z "+itoa(65536*int64(i))+" 65536", "discard 0 65536")
				}
				tr.io(f, name, writes...)
				d := tr.disk(name, layers.Options{Format: f})
				formatstest.CheckDisk(t, d, formatstest.QemuRaw(t, f, filepath.Join(tr.dir, name)))
				if len(d.Layers) != i+1 || d.Info().Depth != i || d.Layers[i].Path != "0.img" {
					t.Errorf("%+v", d.Layers)
				}
			}
		})
	}
}

func itoa(n int64) string {
	var b []byte
	for ; n > 0 || b == nil; n /= 10 {
		b = append([]byte{byte('0' + n%10)}, b...)
	}
	return string(b)
}

func TestParentErrors(t *testing.T) {
	tr := newTree(t)
	tr.img("create", "-f", "vmdk", "base.vmdk", "1M")
	tr.img("create", "-f", "vmdk", "-b", "base.vmdk", "-F", "vmdk", "child.vmdk")
	if d := tr.disk("child.vmdk", layers.Options{}); len(d.Layers) != 2 {
		t.Errorf("%d layers", len(d.Layers))
	}
	// Renamed: found by its CID, which is written when the base is.
	tr.io("vmdk", "base.vmdk", "write -P 7 0 64k")
	tr.img("create", "-f", "vmdk", "-b", "base.vmdk", "-F", "vmdk", "child2.vmdk")
	if err := os.Rename(filepath.Join(tr.dir, "base.vmdk"), filepath.Join(tr.dir, "other.vmdk")); err != nil {
		t.Fatal(err)
	}
	if d := tr.disk("child2.vmdk", layers.Options{}); len(d.Layers) != 2 || d.Layers[1].Path != "other.vmdk" {
		t.Errorf("%+v", d.Layers)
	}
	// The first child's base is another state of it.
	var other *layers.IDError
	if _, err := tr.open("child.vmdk", layers.Options{Parents: []string{"other.vmdk"}}); !errors.As(err, &other) || other.Parent != "other.vmdk" {
		t.Errorf("a base that was written to: %v", err)
	}
	if d := tr.disk("child.vmdk", layers.Options{Parents: []string{"other.vmdk"}, Force: true}); len(d.Layers) != 2 {
		t.Errorf("%d layers", len(d.Layers))
	}
	if _, err := tr.open("child.vmdk", layers.Options{}); !errors.Is(err, formats.ErrNoParent) {
		t.Errorf("no base: %v", err)
	}
	d := tr.disk("child.vmdk", layers.Options{Shallow: true})
	if _, err := d.ReadAt(make([]byte, 1), 0); len(d.Layers) != 1 || !errors.Is(err, formats.ErrNoParent) {
		t.Errorf("%d layers, %v", len(d.Layers), err)
	}
}

// TestParentsFormat: a parent whose format is not recorded is not probed.
func TestParentsFormat(t *testing.T) {
	tr := newTree(t)
	tr.img("create", "-f", "raw", "base", "1M")
	tr.img("create", "-f", "qcow2", "-b", "base", "-F", "raw", "child")
	tr.img("rebase", "-u", "-b", "base", "-F", "raw", "child")
	if d := tr.disk("child", layers.Options{}); len(d.Layers) != 2 || d.Layers[1].Image.Format != "raw" {
		t.Errorf("%+v", d.Layers)
	}
	// The guest writes a qcow2 header into its raw disk: it stays raw.
	b, err := os.ReadFile(filepath.Join(tr.dir, "child"))
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(tr.dir, "base"), append(b[:512:512], make([]byte, 1<<20-512)...), 0o600); err != nil {
		t.Fatal(err)
	}
	d := tr.disk("child", layers.Options{})
	head := make([]byte, 4)
	if _, err := d.ReadAt(head, 0); err != nil || string(head) != "QFI\xfb" {
		t.Errorf("%q, %v", head, err)
	}
	// Without the extension that records it.
	i := bytes.Index(b, []byte{0xe2, 0x79, 0x2a, 0xca})
	if i < 0 {
		t.Fatal("no backing format in what qemu-img made")
	}
	b[i] = 0x12
	if err := os.WriteFile(filepath.Join(tr.dir, "child"), b, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := tr.open("child", layers.Options{}); !errors.Is(err, layers.ErrFormat) {
		t.Errorf("%v", err)
	}
	if d := tr.disk("child", layers.Options{ParentFormat: "raw"}); len(d.Layers) != 2 {
		t.Errorf("%+v", d.Layers)
	}
	if _, err := tr.open("child", layers.Options{ParentFormat: "qcow3"}); !errors.Is(err, formats.ErrUnsupported) {
		t.Errorf("%v", err)
	}
	if _, err := tr.open("base", layers.Options{Format: "vmdk"}); err == nil || errors.Is(err, formats.ErrNotFormat) {
		t.Errorf("a disk that is no vmdk: %v", err)
	}
}

func TestCircle(t *testing.T) {
	tr := newTree(t)
	tr.img("create", "-f", "qcow2", "a", "1M")
	tr.img("create", "-f", "qcow2", "-b", "a", "-F", "qcow2", "b")
	tr.img("rebase", "-u", "-b", "b", "-F", "qcow2", "a")
	if _, err := tr.open("a", layers.Options{}); !errors.Is(err, formats.ErrCorrupt) || !strings.Contains(err.Error(), "a, b, a") {
		t.Errorf("%v", err)
	}
	tr.img("rebase", "-u", "-b", "a", "-F", "qcow2", "a")
	if _, err := tr.open("a", layers.Options{}); !errors.Is(err, formats.ErrCorrupt) {
		t.Errorf("%v", err)
	}
}

// TestNames: names lead to files of the tree, and never out of it.
func TestNames(t *testing.T) {
	file := &fstest.MapFile{Data: []byte("x")}
	d := layers.NewDir(fstest.MapFS{
		"vm/base.vmdk": file, "vm/sub/child.vmdk": file, "top.vmdk": file, `vm/sub/odd\name`: file, "etc/passwd": file, "vm/sub/fifo": {Mode: fs.ModeNamedPipe},
		"hv/Virtual Machines/1.xml": file, "hv/Virtual Hard Disks/a.vhdx": file, "hv/Snapshots/a_1.avhdx": file, "hv/b.vhdx": file,
	}, "/data/vms")
	for _, c := range []struct{ from, stored, want string }{
		{"vm/sub/child.vmdk", "../base.vmdk", "vm/base.vmdk"},
		{"vm/sub/child.vmdk", `..\base.vmdk`, "vm/base.vmdk"},
		{"vm/sub/child.vmdk", `C:\somewhere\child.vmdk`, "vm/sub/child.vmdk"},
		{"vm/sub/child.vmdk", `\\server\share\child.vmdk`, "vm/sub/child.vmdk"},
		{"vm/base.vmdk", "/data/vms/vm/sub/child.vmdk", "vm/sub/child.vmdk"},
		{"vm/base.vmdk", "/vmfs/volumes/1234/vm/base.vmdk", "vm/base.vmdk"},
		{"vm/base.vmdk", "file:///data/vms/top.vmdk", "top.vmdk"},
		{"vm/sub/child.vmdk", `odd\name`, `vm/sub/odd\name`},
		{"hv/Virtual Machines/1.xml", `C:\VMs\hv\Virtual Hard Disks\a.vhdx`, "hv/Virtual Hard Disks/a.vhdx"},
		{"hv/Virtual Machines/1.xml", "C:/VMs/hv/Snapshots/a_1.avhdx", "hv/Snapshots/a_1.avhdx"},
		{"hv/Virtual Machines/1.xml", "C:/elsewhere/a.vhdx", "hv/Virtual Hard Disks/a.vhdx"},
		{"hv/Virtual Machines/1.xml", "C:/elsewhere/b.vhdx", "hv/b.vhdx"},
		{"hv/Snapshots/a_1.avhdx", "C:/elsewhere/a.vhdx", ""},
		{"hv/Virtual Machines/1.xml", "C:/a/../../etc/passwd", ""},
		{"hv/Virtual Machines/1.xml", "C:/../..", ""},
		{"vm/base.vmdk", "../../../../etc/passwd", ""},
		{"vm/base.vmdk", "../etc/passwd", "etc/passwd"}, // of the tree
		{"vm/base.vmdk", "/etc/passwd", ""},
		{"vm/base.vmdk", "", ""},
		{"vm/base.vmdk", "..", ""},
		{"vm/base.vmdk", "base.vmdk\x00", ""},
		{"vm/base.vmdk", "/", ""},
	} {
		name, src, err := d.Find(c.from, c.stored)
		if c.want == "" {
			if !errors.Is(err, fs.ErrNotExist) {
				t.Errorf("%q from %q: %q, %v", c.stored, c.from, name, err)
			}
			continue
		}
		if err != nil || name != c.want || src.Size() != 1 {
			t.Errorf("%q from %q: %q, %v; want %q", c.stored, c.from, name, err, c.want)
		}
	}
	if _, err := d.Open("vm/sub/fifo"); err == nil {
		t.Error("a FIFO was opened")
	}
	if _, err := d.Open("vm"); err == nil {
		t.Error("a directory was opened")
	}
	if err := d.Close(); err != nil {
		t.Error(err)
	}
}

// TestLinksOut: a link in the directory does not lead out of it.
func TestLinksOut(t *testing.T) {
	tr := newTree(t)
	outside := filepath.Join(t.TempDir(), "secret")
	if err := os.WriteFile(outside, make([]byte, 1<<20), 0o600); err != nil {
		t.Fatal(err)
	}
	tr.img("create", "-f", "qcow2", "-u", "-b", "link", "-F", "raw", "child", "1M")
	if err := os.Symlink(outside, filepath.Join(tr.dir, "link")); err != nil {
		t.Fatal(err)
	}
	if _, err := tr.open("child", layers.Options{}); err == nil {
		t.Error("the parent is outside of the directory, and was read")
	}
}

func TestSnapshots(t *testing.T) {
	tr := newTree(t)
	tr.img("create", "-f", "qcow2", "a", "4M")
	tr.io("qcow2", "a", "write -P 1 0 1M")
	tr.img("snapshot", "-c", "first", "a")
	tr.io("qcow2", "a", "write -P 2 512k 1M")
	now := formatstest.QemuRaw(t, "qcow2", filepath.Join(tr.dir, "a"))
	tr.img("convert", "-l", "snapshot.name=first", "-f", "qcow2", "-O", "raw", "a", "first.raw")
	was := tr.disk("first.raw", layers.Options{})
	formatstest.CheckDisk(t, tr.disk("a", layers.Options{}), now)
	for _, s := range []string{"first", "1"} {
		formatstest.CheckDisk(t, tr.disk("a", layers.Options{Snapshot: s}), was)
	}
	if _, err := tr.open("a", layers.Options{Snapshot: "second"}); err == nil || !strings.Contains(err.Error(), "1 (first)") {
		t.Errorf("%v", err)
	}
	if _, err := tr.open("first.raw", layers.Options{Snapshot: "x"}); err == nil {
		t.Error("a snapshot of a raw disk")
	}
}

// TestID: the id is that of the definition, and the same in all formats and chains.
func TestID(t *testing.T) {
	ctx := context.Background()
	id := func(d formats.Disk, workers int) layers.DiskID {
		t.Helper()
		id, err := layers.ID(ctx, d, formats.EncodeOptions{Workers: workers})
		if err != nil {
			t.Fatal(err)
		}
		return id
	}
	for _, size := range []int64{0, 512, 65536, 5<<20 + 512} {
		p := formatstest.NewPattern(t, uint64(size)+3, size)
		want := slowID(p.Bytes)
		for _, workers := range []int{1, 3} {
			if got := id(p, workers); got != want {
				t.Errorf("%d bytes: %v, want %v", size, got, want)
			}
		}
		if size > 0 {
			q := p.Changed(t, 1, size+512)
			copy(q.Bytes, p.Bytes)
			clear(q.Bytes[size:])
			if id(q, 2) == want {
				t.Error("the size is not in the id")
			}
		}
	}
	tr := newTree(t)
	p := formatstest.NewPattern(t, 9, 6<<20)
	if err := os.WriteFile(filepath.Join(tr.dir, "raw"), p.Bytes, 0o600); err != nil {
		t.Fatal(err)
	}
	want := slowID(p.Bytes)
	for _, args := range [][]string{
		{"qcow2"}, {"qcow2", "-o", "cluster_size=4k"}, {"qcow2", "-c"}, {"vmdk"}, {"vmdk", "-o", "subformat=streamOptimized"}, {"vdi"}, {"vhdx"},
		{"vpc", "-o", "force_size=on"}, {"parallels"},
	} {
		tr.img(append(append([]string{"convert", "-f", "raw", "-O", args[0]}, args[1:]...), "raw", "x")...)
		if got := id(tr.disk("x", layers.Options{}), 2); got != want {
			t.Errorf("%q: %v, want %v", args, got, want)
		}
	}
	tr.img("convert", "-f", "raw", "-O", "qcow2", "raw", "y")
	tr.img("create", "-f", "qcow2", "-b", "y", "-F", "qcow2", "z")
	tr.io("qcow2", "z", "write -P 5 100k 300k")
	raw := formatstest.QemuRaw(t, "qcow2", filepath.Join(tr.dir, "z"))
	b := make([]byte, raw.Size())
	if _, err := raw.ReadAt(b, 0); err != nil {
		t.Fatal(err)
	}
	if got := id(tr.disk("z", layers.Options{}), 2); got != slowID(b) || got == want {
		t.Errorf("a chain: %v", got)
	}
}

func TestCompare(t *testing.T) {
	ctx := context.Background()
	for _, size := range []int64{0, 1, 3 << 20, 2<<20 + 700} {
		p := formatstest.NewPattern(t, uint64(size), size)
		for seed, longer := range []int64{0, 512, 3 << 20} {
			q := p.Changed(t, uint64(seed), size+longer)
			d, err := layers.Compare(ctx, p, q, formats.EncodeOptions{Workers: 2})
			if err != nil {
				t.Fatal(err)
			}
			want := slowCompare(p.Bytes, q.Bytes)
			if len(d.Ranges) != len(want) || int64(len(want)) != d.Count || d.Sizes != [2]int64{size, size + longer} {
				t.Fatalf("%d and %d bytes: %+v, want %+v", size, size+longer, d, want)
			}
			var n int64
			for i := range want {
				if d.Ranges[i] != want[i] {
					t.Errorf("%+v, want %+v", d.Ranges[i], want[i])
				}
				n += want[i].Length
			}
			if n != d.Bytes {
				t.Errorf("%d bytes, want %d", d.Bytes, n)
			}
			back, err := layers.Compare(ctx, q, p, formats.EncodeOptions{})
			if err != nil || back.Bytes != d.Bytes || back.Count != d.Count {
				t.Errorf("the other way: %+v, %v", back, err)
			}
		}
		if d, err := layers.Compare(ctx, p, p, formats.EncodeOptions{}); err != nil || d.Count != 0 {
			t.Errorf("with itself: %+v, %v", d, err)
		}
	}
}

func slowCompare(a, b []byte) []layers.Range {
	n := max(len(a), len(b))
	a, b = append(bytes.Clone(a), make([]byte, n-len(a))...), append(bytes.Clone(b), make([]byte, n-len(b))...)
	var list []layers.Range
	for off := 0; off < n; off += 512 {
		end := min(off+512, n)
		if bytes.Equal(a[off:end], b[off:end]) {
			continue
		}
		if k := len(list) - 1; k >= 0 && list[k].Offset+list[k].Length == int64(off) {
			list[k].Length += int64(end - off)
		} else {
			list = append(list, layers.Range{Offset: int64(off), Length: int64(end - off)})
		}
	}
	return list
}

func TestDescribe(t *testing.T) {
	tr := newTree(t)
	tr.img("create", "-f", "vmdk", "base.vmdk", "4M")
	tr.io("vmdk", "base.vmdk", "write -P 1 0 1M")
	tr.img("create", "-f", "qcow2", "-b", "base.vmdk", "-F", "vmdk", "top.qcow2")
	tr.io("qcow2", "top.qcow2", "write -P 2 512k 64k", "write -z 2M 64k")
	i, err := layers.Describe(context.Background(), tr.disk("top.qcow2", layers.Options{}))
	if err != nil {
		t.Fatal(err)
	}
	if i.Format != "qcow2" || i.VirtualSize != 4<<20 || i.Unit != 65536 || len(i.Layers) != 2 || i.Parent == nil || i.Parent.Format != "vmdk" ||
		i.Content != (layers.Content{Data: 65536, Zero: 65536, Parent: 4<<20 - 2*65536}) || i.FileSize < 65536 {
		t.Errorf("%+v", i)
	}
	if b := i.Layers[1]; b.Format != "vmdk" || b.Content.Data != 1<<20 || b.Content.Hole != 3<<20 || b.Path != "base.vmdk" || len(b.ID) != 8 {
		t.Errorf("%+v", b)
	}
}
