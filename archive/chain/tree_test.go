package chain

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"testing/fstest"
	"time"

	"tarvm/archive"
	"tarvm/archive/archivetest"
	"tarvm/archive/codec"
	codecs "tarvm/archive/codec/all"
	"tarvm/archive/pax"
	"tarvm/archive/vmdir"
	"tarvm/delta"
	disks "tarvm/formats/all"
	"tarvm/manifest"
)

// treeOptions are those with which the tests of this file pack, directories as well as entries.
func treeOptions(codecName string, workers int, parent *archive.Manifest) archive.PackOptions {
	return archive.PackOptions{
		Codec: codec.ByName(codecs.Codecs(), codecName), Name: "vm", Parent: parent, Formats: disks.Disks(), Workers: workers,
	}
}

// packed is what a plan wrote.
type packed struct {
	out, side []byte
	result    *archive.Result
}

func execute(plan *archive.Plan, err error) (*packed, error) {
	if err != nil {
		return nil, err
	}
	defer plan.Close()
	var out, side bytes.Buffer
	r, err := plan.Pack(bg, &out, &side)
	if err != nil {
		return nil, err
	}
	return &packed{out.Bytes(), side.Bytes(), r}, nil
}

// fresh packs a directory.
func fresh(t testing.TB, dir string, o archive.PackOptions) *packed {
	t.Helper()
	p, err := execute(archive.MakePlan(bg, dir, o))
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// merge packs entry k of c.
func merge(c *Chain, k int, o archive.PackOptions) (*packed, error) {
	return execute(archive.MakePlanOf(bg, Tree(c, k), PackOptions(c, k, o)))
}

// sideParts are the members of a manifest beside an archive.
func sideParts(t testing.TB, b []byte) map[string]string {
	t.Helper()
	parts := make(map[string]string)
	for r := pax.NewReader(bytes.NewReader(b), pax.ReaderOptions{}); ; {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			return parts
		}
		if err != nil {
			t.Fatal(err)
		}
		text, err := io.ReadAll(r)
		if err != nil {
			t.Fatal(err)
		}
		parts[h.Name] = string(text)
	}
}

// sameBytes compares what was packed from a chain with what was packed from the directory.
func sameBytes(t testing.TB, what string, got, want *packed, incremental bool) {
	t.Helper()
	if !bytes.Equal(got.out, want.out) {
		n := 0
		for n < min(len(got.out), len(want.out)) && got.out[n] == want.out[n] {
			n++
		}
		t.Errorf("%s: archives of %d and %d bytes differ from byte %d on", what, len(got.out), len(want.out), n)
		a, b := got.result.Snapshot, want.result.Snapshot
		for i := range a.Members {
			if i < len(b.Members) && fmt.Sprintf("%+v", a.Members[i]) != fmt.Sprintf("%+v", b.Members[i]) {
				t.Errorf("%s:\n%+v\n%+v", a.Members[i].Path, a.Members[i], b.Members[i])
			}
		}
		if a.Stats != b.Stats {
			t.Errorf("%+v, want %+v", a.Stats, b.Stats)
		}
	}
	x, y := sideParts(t, got.side), sideParts(t, want.side)
	if len(x) != len(y) {
		t.Errorf("%s: %d parts beside the archive, want %d", what, len(x), len(y))
	}
	for name := range x {
		// What this machine saw is its own; and so are, in a full, the sums, which have a key by chance.
		own := strings.HasSuffix(name, "/local.json") || strings.HasSuffix(name, "/find") && !incremental
		if x[name] != y[name] && !own {
			t.Errorf("%s: %s beside the archive is another", what, name)
		}
	}
}

// story is a directory that lives on, each state packed as an increment of the one before, and anew.
type story struct {
	archs []*archive.Archive
	sides []*archive.Manifest
	raw   []*packed
	full  []*packed   // as a full, from the directory
	incs  [][]*packed // as an increment of each older entry, from the directory
}

func tell(t testing.TB, dir, codecName string, states int, next func(k int)) *story {
	t.Helper()
	s := &story{}
	for k := range states {
		next(k)
		s.full = append(s.full, fresh(t, dir, treeOptions(codecName, 2, nil)))
		var incs []*packed
		for _, side := range s.sides {
			incs = append(incs, fresh(t, dir, treeOptions(codecName, 2, side)))
		}
		s.incs = append(s.incs, incs)
		p := s.full[k]
		if k > 0 {
			p = incs[k-1]
		}
		m, err := archive.OpenManifest(bytes.NewReader(p.side))
		if err != nil {
			t.Fatal(err)
		}
		s.archs, s.sides, s.raw = append(s.archs, open(t, p.out)), append(s.sides, m), append(s.raw, p)
	}
	return s
}

// check packs all entries out of the chain, as fulls and as increments of all older ones.
func (s *story) check(t *testing.T, codecName string, workers ...int) {
	t.Helper()
	for k := range s.archs {
		c, err := New(s.archs[:k+1])
		if err != nil {
			t.Fatal(err)
		}
		for _, w := range workers {
			for j := -1; j < k; j++ {
				what, want, side := fmt.Sprintf("entry %d, %d workers", k, w), s.full[k], (*archive.Manifest)(nil)
				if j >= 0 {
					what, want, side = fmt.Sprintf("%s, on %d", what, j), s.incs[k][j], s.sides[j]
				}
				got, err := merge(c, k, treeOptions(codecName, w, side))
				if err != nil {
					t.Fatalf("%s: %v", what, err)
				}
				sameBytes(t, what, got, want, j >= 0)
				if t.Failed() {
					t.FailNow()
				}
			}
		}
	}
}

// TestTree packs entries of chains again, and wants what packing the directory made, to the byte.
func TestTree(t *testing.T) {
	for i, name := range []string{"lz4", "none", "zstd", "gzip", "xz"} {
		states, workers := 2, []int{3}
		if i == 0 && !archivetest.Race && !testing.Short() {
			states, workers = 4, []int{1, 3}
		}
		if i > 2 && archivetest.Race {
			continue
		}
		t.Run(name, func(t *testing.T) {
			dir := filepath.Join(t.TempDir(), "vm")
			tr := archivetest.New(t, dir, uint64(400+i))
			if i > 2 { // which take their time
				for _, p := range []string{"vm.vmem", "million"} {
					if err := os.Remove(filepath.Join(dir, p)); err != nil {
						t.Fatal(err)
					}
				}
			}
			s := tell(t, dir, name, states, func(k int) {
				if k > 0 {
					tr.Change(t)
				}
			})
			s.check(t, name, workers...)
		})
	}
}

// TestTreeAttributes has what tar keeps besides content.
func TestTreeAttributes(t *testing.T) {
	archivetest.Tools(t, "setfattr", "setfacl", "mkfifo")
	dir := filepath.Join(t.TempDir(), "vm")
	tr := archivetest.New(t, dir, 410)
	run := func(name string, args ...string) {
		t.Helper()
		cmd := exec.Command(name, args...)
		cmd.Dir = dir
		if out, err := cmd.CombinedOutput(); err != nil {
			if bytes.Contains(out, []byte("not supported")) {
				t.Skipf("%s: %s", name, out)
			}
			t.Fatalf("%s %q: %v: %s", name, args, err, out)
		}
	}
	s := tell(t, dir, "lz4", 3, func(k int) {
		switch k {
		case 0:
			run("mkfifo", "fifo")
			run("ln", "fifo", "fifo-2")
			run("setfattr", "-n", "user.a", "-v", "1", "disk.img")
			run("setfattr", "-n", "user.dir", "-v", "x", "logs")
			run("setfacl", "-m", "u:12345:rw", "vm.vmx")
			run("ln", "disk.img", "another-name") // which comes first now
			run("ln", "-s", "disk.img", "sym")
		case 1:
			run("setfattr", "-n", "user.a", "-v", "2", "disk.img")
			run("setfattr", "-n", "user.b", "-v", "", "vm.vmem")
			run("chmod", "0711", "logs")
			run("truncate", "-s", "+100000", "disk.img")
		case 2:
			run("rm", "another-name") // a link becomes the file
			run("setfattr", "-x", "user.dir", "logs")
			tr.Change(t)
		}
	})
	s.check(t, "lz4", 2)
}

// TestTreeDisks has images that build on each other, and such whose blocks have a phase.
func TestTreeDisks(t *testing.T) {
	archivetest.Tools(t, "qemu-img", "qemu-io")
	dir := t.TempDir()
	run := func(name string, args ...string) {
		t.Helper()
		cmd := exec.Command(name, args...)
		cmd.Dir = dir
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("%s %q: %v: %s", name, args, err, out)
		}
	}
	write := func(file, format string, at, n int) {
		t.Helper()
		run("qemu-io", "-f", format, "-c", fmt.Sprintf("write -P %d %dk %dk", 1+at%250, at, n), file)
	}
	config := func(disk string) {
		t.Helper()
		// What has less than 512 bytes is not looked at.
		text := fmt.Sprintf("<domain><!-- %s --><source file='%s'/></domain>", strings.Repeat("x", 500), disk)
		if err := os.WriteFile(filepath.Join(dir, "vm.xml"), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	s := tell(t, dir, "lz4", 3, func(k int) {
		switch k {
		case 0:
			run("qemu-img", "create", "-q", "-f", "qcow2", "base.qcow2", "64M")
			run("qemu-img", "create", "-q", "-f", "vmdk", "second.vmdk", "64M")
			run("qemu-img", "create", "-q", "-f", "vmdk", "-o", "subformat=monolithicFlat", "flat.vmdk", "2M")
			run("qemu-img", "create", "-q", "-f", "raw", "odd.raw", "3M")
			run("qemu-img", "create", "-q", "-f", "vdi", "phase.vdi", "64M")
			run("qemu-img", "create", "-q", "-f", "vpc", "stride.vhd", "64M")
			write("phase.vdi", "vdi", 100, 2000)
			write("stride.vhd", "vpc", 100, 2000)
			write("base.qcow2", "qcow2", 100, 3000)
			write("second.vmdk", "vmdk", 64, 1500)
			write("flat.vmdk", "vmdk", 4, 700)
			write("odd.raw", "raw", 4, 700)
			config("base.qcow2")
		case 1:
			run("qemu-img", "create", "-q", "-f", "qcow2", "-b", "base.qcow2", "-F", "qcow2", "child.qcow2")
			run("qemu-img", "create", "-q", "-f", "qcow2", "-b", "base.qcow2", "-F", "qcow2", "other.qcow2")
			write("child.qcow2", "qcow2", 1000, 1200)
			write("second.vmdk", "vmdk", 20000, 600)
			config("child.qcow2")
		case 2:
			write("child.qcow2", "qcow2", 5000, 1100)
			write("phase.vdi", "vdi", 9000, 1000)
			write("stride.vhd", "vpc", 9000, 1000)
			write("flat.vmdk", "vmdk", 1000, 100)
			run("fallocate", "-p", "-o", "4096", "-l", "100000", "odd.raw")
		}
	})
	// These tests are of nothing unless disks have what hints tell.
	last := s.full[2].result.Snapshot
	for path, want := range map[manifest.Path]manifest.Hints{
		"child.qcow2":    {Format: "qcow2", DiskParent: "base.qcow2", Active: true},
		"other.qcow2":    {Format: "qcow2", DiskParent: "base.qcow2"},
		"base.qcow2":     {Format: "qcow2"},
		"second.vmdk":    {Format: "vmdk", Active: true},
		"flat-flat.vmdk": {Format: "raw", Subformat: "extent"},
	} {
		h := last.Find(path).Hints
		if h.Format != want.Format || h.DiskParent != want.DiskParent || h.Active != want.Active || (h.DiskID != "") != want.Active {
			t.Errorf("%s: %+v", path, h)
		}
	}
	if a, b := last.Find("phase.vdi"), last.Find("stride.vhd"); a.Phase == 0 || b.Stride == 0 {
		t.Errorf("%+v, %+v", a, b)
	}
	s.check(t, "lz4", 2)
}

// TestTreeGrids has an image that was made anew: an increment keeps the parent's grid, a full would not. What is packed out
// of the chain is the entry, with its id.
func TestTreeGrids(t *testing.T) {
	archivetest.Tools(t, "qemu-img", "qemu-io")
	dir := t.TempDir()
	s := tell(t, dir, "lz4", 2, func(k int) {
		for _, args := range [][]string{
			{"qemu-img", "create", "-q", "-f", "vdi", "d.vdi", []string{"64M", "7G"}[k]},
			{"qemu-io", "-f", "vdi", "-c", "write -P 5 0 1M", "d.vdi"},
		} {
			cmd := exec.Command(args[0], args[1:]...)
			cmd.Dir = dir
			if out, err := cmd.CombinedOutput(); err != nil {
				t.Fatalf("%q: %v: %s", args, err, out)
			}
		}
	})
	id := s.archs[1].Manifest().ID
	if s.full[1].result.ID == id {
		t.Fatal("both images have the same grid: this tests nothing")
	}
	c, err := New(s.archs)
	if err != nil {
		t.Fatal(err)
	}
	got, err := merge(c, 1, treeOptions("lz4", 2, nil))
	if err != nil {
		t.Fatal(err)
	}
	want, have := s.archs[1].Manifest().Find("d.vdi"), got.result.Snapshot.Find("d.vdi")
	if got.result.ID != id || have.Grid(delta.DefaultBlock) != want.Grid(delta.DefaultBlock) || have.Digest != want.Digest {
		t.Errorf("%+v, want %+v", have, want)
	}
	// As an increment it is what it was.
	inc, err := merge(c, 1, treeOptions("lz4", 2, s.sides[0]))
	if err != nil {
		t.Fatal(err)
	}
	sameBytes(t, "increment", inc, s.incs[1][0], true)
	// And the full takes the entry's place in front of others.
	full := open(t, got.out)
	if _, err := NewFor(id, []*archive.Archive{full}); err != nil {
		t.Error(err)
	}
}

// watched reads an archive, and knows which bytes were read.
type watched struct {
	*bytes.Reader
	mu   sync.Mutex
	read map[int64]bool // by block of 512 bytes
}

func (w *watched) ReadAt(p []byte, off int64) (int, error) {
	w.mu.Lock()
	for at := off / 512; at <= (off+int64(len(p))-1)/512; at++ {
		w.read[at] = true
	}
	w.mu.Unlock()
	return w.Reader.ReadAt(p, off)
}

// TestTreeUnread: of an increment, blocks that the new parent has in the same place are not read out of the chain; without
// the parent's sums they are, because the new manifest needs theirs.
func TestTreeUnread(t *testing.T) {
	dir := t.TempDir()
	disk := make([]byte, 4<<20)
	rand.NewChaCha8([32]byte{45}).Read(disk)
	s := tell(t, dir, "none", 3, func(k int) {
		if k > 0 {
			rand.NewChaCha8([32]byte{byte(k)}).Read(disk[k<<20:][:100<<10])
		}
		if err := os.WriteFile(filepath.Join(dir, "disk.img"), disk, 0o600); err != nil {
			t.Fatal(err)
		}
	})
	var b bytes.Buffer
	if err := s.archs[0].WriteManifest(&b); err != nil {
		t.Fatal(err)
	}
	bare, err := archive.OpenManifest(bytes.NewReader(b.Bytes()))
	if err != nil {
		t.Fatal(err)
	}
	for i, parent := range []*archive.Manifest{s.sides[0], bare} {
		w := &watched{Reader: bytes.NewReader(s.raw[0].out), read: make(map[int64]bool)}
		base, err := archive.Open(w, codecs.Codecs())
		if err != nil {
			t.Fatal(err)
		}
		c, err := New([]*archive.Archive{base, s.archs[1], s.archs[2]})
		if err != nil {
			t.Fatal(err)
		}
		got, err := merge(c, 2, treeOptions("none", 2, parent))
		if err != nil {
			t.Fatal(err)
		}
		if i == 0 {
			sameBytes(t, "increment", got, s.incs[2][0], true)
		} else {
			want := fresh(t, dir, treeOptions("none", 2, parent))
			sameBytes(t, "increment on a manifest without sums", got, want, true)
		}
		m := base.Manifest().Find("disk.img")
		n := int64(0)
		for at := m.Stored.Body; at < m.Stored.Body+m.Stored.Bytes; at += 512 {
			if w.read[at/512] {
				n += 512
			}
		}
		// The first bytes tell the format. Two changed places touch four blocks, of which the base has a part.
		if most := int64(512 << 10); i == 0 && n > most {
			t.Errorf("%d of %d bytes of the base were read, want %d at most", n, m.Stored.Bytes, most)
		} else if i == 1 && n < m.Stored.Bytes-most {
			t.Errorf("%d of %d bytes of the base were read: this tests nothing", n, m.Stored.Bytes)
		}
	}
}

// TestTreeWant: options that would make another entry are an error, not an archive.
func TestTreeWant(t *testing.T) {
	h := newHistory(t, 420, 2, "lz4")
	c := h.chain(t, 2)
	var state *archive.StateError
	o := treeOptions("lz4", 2, nil)
	o.Block = 128 << 10
	if _, err := merge(c, 1, o); !errors.As(err, &state) || state.Want != c.Snapshot(1).ID || state.Have == state.Want {
		t.Errorf("another size of blocks: %v", err)
	}
	o = treeOptions("lz4", 2, nil)
	o.Exclude = []string{"*.vmem"}
	if _, err := merge(c, 1, o); !errors.Is(err, errExclude) {
		t.Errorf("with something left out: %v", err)
	}
	// What an entry says of itself stays.
	o = PackOptions(c, 1, treeOptions("lz4", 2, nil))
	if e := c.Snapshot(1).Entry; !o.Time.Equal(e.Time.Time) || o.Block != e.Block || o.Name != "vm" || o.Want != c.Snapshot(1).ID {
		t.Errorf("%+v", o)
	}
	if o = PackOptions(c, 1, archive.PackOptions{Name: "a", Note: "b"}); o.Name != "a" || o.Note != "b" {
		t.Errorf("%+v", o)
	}
}

// TestTreeDamage: an archive of a chain that is damaged is an error that names the file, wherever the damage is.
func TestTreeDamage(t *testing.T) {
	for _, name := range []string{"none", "lz4"} {
		t.Run(name, func(t *testing.T) {
			h := newHistory(t, 430, 2, name)
			clean := h.chain(t, 2)
			for _, m := range clean.Snapshot(0).Members {
				if m.Stored.As != manifest.AsWhole || m.Stored.Bytes == 0 {
					continue
				}
				for _, at := range []int64{0, m.Stored.Bytes / 2} {
					raw := bytes.Clone(h.raw[0])
					off := m.Stored.Body + at
					if name != "none" {
						off = int64(len(raw)) / 3
					}
					raw[off] ^= 0x10
					c, err := New([]*archive.Archive{open(t, raw)})
					if err != nil {
						t.Fatal(err)
					}
					p, err := merge(c, 0, treeOptions("lz4", 2, nil))
					var bad *MemberError
					var digest *DigestError
					named := errors.As(err, &digest) && digest.Member == m.Path
					if name != "none" {
						named = errors.As(err, &bad) && bad.Member != "" && strings.Contains(err.Error(), "frame")
					}
					if p != nil || !named || strings.Count(err.Error(), string(m.Path)+" ") > 1 {
						t.Fatalf("%s damaged at %d: %v", m.Path, at, err)
					}
				}
			}
		})
	}
}

// TestTreeTorn: a file that was packed while it changed stays one of which this is known.
func TestTreeTorn(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "vm")
	archivetest.New(t, dir, 440)
	big := filepath.Join(dir, "big.img")
	data := make([]byte, 6<<20)
	rand.NewChaCha8([32]byte{44}).Read(data)
	if err := os.WriteFile(big, data, 0o600); err != nil {
		t.Fatal(err)
	}
	o := treeOptions("lz4", 1, nil)
	o.Live = true
	once := false
	o.Progress = func(p archive.Progress) {
		if p.Path != "big.img" || once {
			return
		}
		once = true
		f, err := os.OpenFile(big, os.O_WRONLY, 0)
		if err == nil {
			_, err = f.WriteAt([]byte("late"), 100)
			err = errors.Join(err, f.Close())
		}
		if err != nil {
			t.Error(err)
		}
	}
	p := fresh(t, dir, o)
	if len(p.result.Torn) != 1 {
		t.Fatalf("torn: %q", p.result.Torn)
	}
	a := open(t, p.out)
	c, err := New([]*archive.Archive{a})
	if err != nil {
		t.Fatal(err)
	}
	got, err := merge(c, 0, treeOptions("lz4", 2, nil))
	if err != nil {
		t.Fatal(err)
	}
	s := got.result.Snapshot
	if !bytes.Equal(got.out, p.out) || !s.Find("big.img").Torn || !s.Entry.Live || len(got.result.Torn) != 1 {
		t.Errorf("%+v, live %v, torn %q", s.Find("big.img"), s.Entry.Live, got.result.Torn)
	}
}

// TestTreeUnsafe: names that a restore refuses are not passed on.
func TestTreeUnsafe(t *testing.T) {
	h := newHistory(t, 450, 1, "lz4")
	for _, name := range []manifest.Path{"../out", "/abs", ".tarvm/entry.json", "a/../b", ".tarvm-restore/x"} {
		c := h.chain(t, 1)
		m := *c.entries[0].snap
		m.Members = append(m.Members[:1:1], manifest.Member{State: manifest.State{Path: name, Type: manifest.Dir}})
		e := *c.entries[0]
		e.snap = &m
		c.entries[0] = &e
		if p, err := merge(c, 0, treeOptions("lz4", 2, nil)); p != nil || !errors.Is(err, ErrUnsafe) {
			t.Errorf("%q: %v", name, err)
		}
	}
}

// TestTreeCancel: it ends when it is told to.
func TestTreeCancel(t *testing.T) {
	h := newHistory(t, 460, 2, "lz4")
	c := h.chain(t, 2)
	ctx, cancel := context.WithCancel(bg)
	o := PackOptions(c, 1, treeOptions("lz4", 2, nil))
	o.Progress = func(archive.Progress) { cancel() }
	plan, err := archive.MakePlanOf(ctx, Tree(c, 1), o)
	if err != nil {
		t.Fatal(err)
	}
	defer plan.Close()
	if _, err := plan.Pack(ctx, io.Discard, nil); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
}

// A holey is a tree of one file, in memory, with holes as no file system has so many.
type holey struct {
	data []byte
	runs []delta.Extent
}

func (h *holey) Name() string               { return "vm" }
func (h *holey) FS() fs.FS                  { return fstest.MapFS{} }
func (h *holey) Refresh(*vmdir.Entry) error { return nil }
func (h *holey) Close() error               { return nil }

func (h *holey) List(context.Context, vmdir.WalkOptions) (*archive.Listing, error) {
	l := &archive.Listing{Entries: make([]vmdir.Entry, 2)}
	for i, s := range []manifest.State{
		{Path: ".", Type: manifest.Dir, Mode: 0o755}, {Path: "file", Type: manifest.File, Mode: 0o644, Size: int64(len(h.data))},
	} {
		s.ModTime = manifest.Time{Time: time.Unix(1_700_000_000, 5).UTC()}
		l.Entries[i].State = s
	}
	return l, nil
}

func (h *holey) Open(*vmdir.Entry) (archive.TreeFile, error) {
	return &holeyFile{bytes.NewReader(h.data), h.runs}, nil
}

type holeyFile struct {
	*bytes.Reader
	runs []delta.Extent
}

func (f *holeyFile) Extents(*vmdir.Entry) ([]delta.Extent, error) { return f.runs, nil }
func (f *holeyFile) Changed(*vmdir.Entry) (bool, error)           { return false, nil }
func (f *holeyFile) Close() error                                 { return nil }

// TestTreeManyHoles has a file whose map does not fit in a tar: holes are stored as zeros, and yet are holes again.
func TestTreeManyHoles(t *testing.T) {
	if archivetest.Race {
		t.Skip("100 MB, with nothing that runs together which other tests do not run")
	}
	const unit, runs = 1024, 90_000
	h := &holey{data: make([]byte, unit*runs)}
	for i := range runs {
		x := delta.Extent{Offset: int64(i) * unit, Length: 512}
		h.data[x.Offset], h.data[x.End()-1] = byte(i)|1, byte(i>>8)|1
		h.runs = append(h.runs, x)
	}
	want, err := execute(archive.MakePlanOf(bg, h, treeOptions("lz4", 2, nil)))
	if err != nil {
		t.Fatal(err)
	}
	m := want.result.Snapshot.Find("file")
	if m.Holes != runs*512 || m.Stored.Bytes < runs*512+5000 {
		t.Fatalf("%+v: this tests nothing", m)
	}
	c, err := New([]*archive.Archive{open(t, want.out)})
	if err != nil {
		t.Fatal(err)
	}
	got, err := merge(c, 0, treeOptions("lz4", 2, nil))
	if err != nil {
		t.Fatal(err)
	}
	sameBytes(t, "many holes", got, want, false)
}
