package chain

import (
	"bytes"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"tarvm/archive"
	"tarvm/archive/archivetest"
	codecs "tarvm/archive/codec/all"
	"tarvm/archive/pax"
	"tarvm/manifest"
)

func restoreStream(b []byte, dir string, o StreamOptions) (*RestoreResult, error) {
	o.NoSync = true
	return RestoreStream(bg, bytes.NewReader(b), codecs.Codecs(), dir, o)
}

func TestStream(t *testing.T) {
	for i, name := range []string{"none", "lz4", "zstd", "gzip", "xz"} {
		t.Run(name, func(t *testing.T) {
			h := newHistory(t, uint64(20+i), 3, name)
			for n := 1; n <= 3; n++ {
				dir := filepath.Join(t.TempDir(), "out")
				if _, err := restoreStream(bytes.Join(h.raw[:n], nil), dir, StreamOptions{}); err != nil {
					t.Fatal(err)
				}
				same(t, h.states[n-1], dir)
				// What tar fills its last record with may stand between.
				dir = filepath.Join(t.TempDir(), "out")
				archivetest.Copy(t, h.states[2], dir)
				o := StreamOptions{Want: h.archs[n-1].Manifest().ID}
				if name == "none" {
					if _, err := restoreStream(bytes.Join(h.raw[:n], make([]byte, 10240)), dir, o); err != nil {
						t.Fatal(err)
					}
				} else if _, err := restoreStream(bytes.Join(h.raw[:n], nil), dir, o); err != nil {
					t.Fatal(err)
				}
				same(t, h.states[n-1], dir)
			}
		})
	}
}

// Each archive of a stream may be in a codec of its own.
func TestStreamMixed(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "vm")
	tr := archivetest.New(t, dir, 29)
	names := []string{"zstd", "none", "xz", "gzip", "none", "none", "lz4", "zstd", "gzip", "lz4", "xz", "zstd"}
	if testing.Short() || archivetest.Race {
		names = names[:5]
	}
	var all []byte
	o := packOptions{}
	for i, name := range names {
		if i > 0 {
			tr.Change(t)
		}
		o.codec = name
		_, m, b := pack(t, dir, o)
		o.parent = m
		all = append(all, b...)
		if name == "none" && i > 1 {
			all = append(all, make([]byte, 5120)...) // as tar fills its records
		}
		out := filepath.Join(t.TempDir(), "out")
		if _, err := restoreStream(all, out, StreamOptions{Want: m.ID}); err != nil {
			t.Fatalf("%q: %v", names[:i+1], err)
		}
		same(t, dir, out)
	}
}

func TestStreamOnly(t *testing.T) {
	h := newHistory(t, 26, 3, "lz4")
	dir := filepath.Join(t.TempDir(), "out")
	if _, err := restoreStream(bytes.Join(h.raw, nil), dir, StreamOptions{RestoreOptions: RestoreOptions{Only: []string{"vm.vmx"}}}); err != nil {
		t.Fatal(err)
	}
	want, err := os.ReadFile(filepath.Join(h.states[2], "vm.vmx"))
	if err != nil {
		t.Fatal(err)
	}
	if got, err := os.ReadFile(filepath.Join(dir, "vm.vmx")); err != nil || !bytes.Equal(got, want) {
		t.Error(err)
	}
	if es, err := os.ReadDir(dir); err != nil || len(es) != 1 {
		t.Errorf("%v, %v", es, err)
	}
}

func TestStreamErrors(t *testing.T) {
	h := newHistory(t, 27, 3, "lz4")
	other := newHistory(t, 28, 1, "zstd")
	join := func(bs ...[]byte) []byte { return bytes.Join(bs, nil) }
	mid := len(h.raw[0]) / 2
	flipped := bytes.Clone(h.raw[0])
	flipped[mid] ^= 1
	for _, c := range []struct {
		name string
		b    []byte
		want error
		o    StreamOptions
	}{
		{"nothing", nil, archive.ErrForeign, StreamOptions{}},
		{"text", []byte(strings.Repeat("hello\n", 1000)), archive.ErrForeign, StreamOptions{}},
		{"an increment", h.raw[1], ErrOrder, StreamOptions{}},
		{"a gap", join(h.raw[0], h.raw[2]), ErrOrder, StreamOptions{}},
		{"backwards", join(h.raw[1], h.raw[0]), ErrOrder, StreamOptions{}},
		{"two bases", join(h.raw[0], h.raw[0]), ErrOrder, StreamOptions{}},
		{"another base", join(h.raw[0], other.raw[0]), ErrOrder, StreamOptions{}},
		{"garbage behind", join(h.raw[0], []byte("garbage")), archive.ErrCorrupt, StreamOptions{}},
		{"another entry", h.raw[0], ErrCorrupt, StreamOptions{Want: h.archs[1].Manifest().ID}},
		{"a bit", flipped, ErrCorrupt, StreamOptions{}},
		{"the second cut off", join(h.raw[0], h.raw[1][:len(h.raw[1])/2]), archive.ErrTruncated, StreamOptions{}},
	} {
		for _, over := range []bool{false, true} {
			up := t.TempDir()
			dir := filepath.Join(up, "out")
			if over {
				archivetest.Copy(t, h.states[1], dir)
			}
			_, err := restoreStream(c.b, dir, c.o)
			if !errors.Is(err, c.want) && (err == nil || c.want != ErrCorrupt || !errors.Is(err, archive.ErrCorrupt)) {
				t.Errorf("%s: error %v, want %v", c.name, err, c.want)
			}
			if over {
				same(t, h.states[1], dir)
			} else {
				nothingLeft(t, up)
			}
		}
	}
	_, err := RestoreStream(bg, io.MultiReader(bytes.NewReader(h.raw[0][:mid]), failingReader{}), codecs.Codecs(), filepath.Join(t.TempDir(), "x"), StreamOptions{})
	if !errors.Is(err, errMedium) {
		t.Errorf("a medium error is reported as %v", err)
	}
}

type failingReader struct{}

func (failingReader) Read([]byte) (int, error) { return 0, errMedium }

// TestStreamTruncated cuts a stream at many places: an error, and nothing left.
func TestStreamTruncated(t *testing.T) {
	for _, name := range []string{"none", "lz4", "zstd", "gzip", "xz"} {
		h := newHistory(t, 29, 2, name)
		b := bytes.Join(h.raw, nil)
		step := len(b)/29 + 1
		if testing.Short() || archivetest.Race {
			step = len(b)/5 + 1
		}
		for n := 1; n < len(b); n += step {
			if n == len(h.raw[0]) {
				continue
			}
			up := t.TempDir()
			if _, err := restoreStream(b[:n], filepath.Join(up, "out"), StreamOptions{}); err == nil {
				t.Errorf("%s: %d of %d bytes (the first archive has %d): no error", name, n, len(b), len(h.raw[0]))
			}
			nothingLeft(t, up)
		}
	}
}

// TestForeign restores what other programs packed.
func TestForeign(t *testing.T) {
	src := filepath.Join(t.TempDir(), "vm")
	archivetest.New(t, src, 31)
	for _, c := range [][]string{
		{"tar", "--format=posix", "-cf"},
		{"tar", "--format=posix", "--sparse", "--sparse-version=1.0", "-cf"},
		{"tar", "--format=posix", "--sparse", "--sparse-version=0.1", "-cf"},
		{"tar", "--format=posix", "--sort=name", "-czf"},
		{"bsdtar", "--format=pax", "-cf"},
	} {
		t.Run(strings.Join(c, " "), func(t *testing.T) {
			file := filepath.Join(t.TempDir(), "x.tar")
			cmd := exec.Command(archivetest.Tool(t, c[0]), append(c[1:], file, "-C", src, ".")...)
			if out, err := cmd.CombinedOutput(); err != nil {
				t.Fatalf("%v: %s", err, out)
			}
			b, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			dir := filepath.Join(t.TempDir(), "out")
			r, err := restoreStream(b, dir, StreamOptions{})
			if err != nil || !r.Foreign {
				t.Fatalf("%+v, %v", r, err)
			}
			same(t, src, dir)
			// Again, over a state that differs.
			if err := os.WriteFile(filepath.Join(dir, "vm.vmx"), []byte("other"), 0o600); err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(filepath.Join(dir, "more"), nil, 0o600); err != nil {
				t.Fatal(err)
			}
			if _, err := restoreStream(b, dir, StreamOptions{}); err != nil {
				t.Fatal(err)
			}
			same(t, src, dir)
		})
	}
}

// tarOf makes a tar; a member's body is its name.
func tarOf(t *testing.T, hs ...pax.Header) []byte {
	t.Helper()
	var b []byte
	for _, h := range hs {
		if h.Type == 0 {
			h.Type = pax.TypeReg
		}
		if h.Type == pax.TypeReg {
			h.Size = int64(len(h.Name))
		}
		if h.Mode == 0 {
			h.Mode = 0o644
		}
		h.ModTime = time.Unix(1_700_000_000, 0)
		var err error
		if b, err = pax.AppendHeader(b, &h); err != nil {
			t.Fatal(err)
		}
		if h.Type == pax.TypeReg {
			b = append(b, h.Name...)
			b = append(b, make([]byte, -len(b)&511)...)
		}
	}
	return append(b, make([]byte, 1024)...)
}

// rename replaces a name in a tar of one member by one that the writer refuses, and mends the checksum.
func rename(b []byte, from, to string) []byte {
	b = bytes.Replace(b, []byte(from), []byte(to), 1)
	copy(b[148:156], "        ")
	sum := 0
	for _, c := range b[:512] {
		sum += int(c)
	}
	copy(b[148:156], []byte{'0' + byte(sum>>15&7), '0' + byte(sum>>12&7), '0' + byte(sum>>9&7), '0' + byte(sum>>6&7), '0' + byte(sum>>3&7), '0' + byte(sum&7), 0, ' '})
	return b
}

func TestForeignUnsafe(t *testing.T) {
	reg, link, sym, dir := pax.TypeReg, pax.TypeLink, pax.TypeSymlink, pax.TypeDir
	for name, b := range map[string][]byte{
		"up":              rename(tarOf(t, pax.Header{Name: "xx/name"}), "xx/name", "../name"),
		"up behind":       rename(tarOf(t, pax.Header{Name: "a/xx/xx/name"}), "a/xx/xx/name", "a/../../name"),
		"absolute":        rename(tarOf(t, pax.Header{Name: "xtmp/name"}), "xtmp/name", "/tmp/name"),
		"device":          tarOf(t, pax.Header{Name: "null", Type: pax.TypeChar, Devmajor: 1, Devminor: 3}),
		"link outside":    rename(tarOf(t, pax.Header{Name: "passwd", Type: link, Linkname: "xx/etc/passwd"}), "xx/etc/passwd", "../etc/passwd"),
		"link to nothing": tarOf(t, pax.Header{Name: "a", Type: link, Linkname: "b"}),
		"links in a ring": tarOf(t, pax.Header{Name: "a", Type: link, Linkname: "b"}, pax.Header{Name: "b", Type: link, Linkname: "a"}),
		"through a link":  tarOf(t, pax.Header{Name: "out", Type: sym, Linkname: "../outside"}, pax.Header{Name: "out/file", Type: reg}),
		"below a file":    tarOf(t, pax.Header{Name: "out"}, pax.Header{Name: "out/file"}),
		"a file on top":   tarOf(t, pax.Header{Name: "d", Type: dir}, pax.Header{Name: "d/file"}, pax.Header{Name: "d"}),
	} {
		up := t.TempDir()
		outside := filepath.Join(up, "outside")
		if err := os.Mkdir(outside, 0o755); err != nil {
			t.Fatal(err)
		}
		_, err := restoreStream(b, filepath.Join(up, "out"), StreamOptions{})
		if !errors.Is(err, ErrUnsafe) {
			t.Errorf("%s: error %v", name, err)
		}
		nothingLeft(t, outside)
		if es, err := os.ReadDir(up); err != nil || len(es) != 1 {
			t.Errorf("%s: left %v", name, es)
		}
	}
}

func TestForeignForms(t *testing.T) {
	b := tarOf(t,
		pax.Header{Name: "d/deep/file"}, // without members for its directories
		pax.Header{Name: "twice"},
		pax.Header{Name: "twice", Mode: 0o600}, // the last one counts
		pax.Header{Name: "first"},
		pax.Header{Name: "a-link", Type: pax.TypeLink, Linkname: "first"},
		pax.Header{Name: "b-link", Type: pax.TypeLink, Linkname: "a-link"},
		pax.Header{Name: ".tarvm/README"}, // of an archive that was unpacked with tar
	)
	dir := filepath.Join(t.TempDir(), "out")
	r, err := restoreStream(b, dir, StreamOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if len(r.Warnings) != 1 || !strings.Contains(r.Warnings[0], ".tarvm/README") {
		t.Errorf("warnings %q", r.Warnings)
	}
	if b, err := os.ReadFile(filepath.Join(dir, "d/deep/file")); err != nil || string(b) != "d/deep/file" {
		t.Error(err)
	}
	if fi, err := os.Stat(filepath.Join(dir, "twice")); err != nil || fi.Mode() != 0o600 {
		t.Errorf("%v, %v", fi, err)
	}
	first, err := os.Stat(filepath.Join(dir, "first"))
	if err != nil {
		t.Fatal(err)
	}
	for _, l := range []string{"a-link", "b-link"} {
		if fi, err := os.Stat(filepath.Join(dir, l)); err != nil || !os.SameFile(fi, first) {
			t.Errorf("%s: %v", l, err)
		}
	}
	if _, err := os.Lstat(filepath.Join(dir, ".tarvm")); err == nil {
		t.Error(".tarvm was restored")
	}
}

// TestSwapped puts a symbolic link to a directory outside in the place of one that a restore works in, at every
// step: nothing outside changes.
func TestSwapped(t *testing.T) {
	h := newHistory(t, 33, 3, "lz4")
	c := h.chain(t, 3)
	outside := filepath.Join(t.TempDir(), "outside")
	archivetest.Copy(t, h.states[1], outside)
	reference := filepath.Join(t.TempDir(), "reference")
	archivetest.Copy(t, outside, reference)
	step := 3
	if testing.Short() || archivetest.Race {
		step = 13
	}
	for _, victim := range []string{"logs", "logs/old", "vm.vmx", restoreDir + "/new", restoreDir + "/old"} {
		for at := 1; at < 70; at += step {
			dir := filepath.Join(t.TempDir(), "vm")
			archivetest.Copy(t, h.states[0], dir)
			n := 0
			done := make(chan bool, 1)
			done <- true
			_, err := Restore(bg, c, 2, dir, RestoreOptions{NoSync: true, Workers: 2, hook: func(string) {
				<-done
				if n++; n == at {
					p := filepath.Join(dir, victim)
					if os.Rename(p, p+"-was") == nil {
						_ = os.Symlink(outside, p)
					}
				}
				done <- true
			}})
			_ = err // whether it notices depends on the step
			same(t, reference, outside)
			if t.Failed() {
				t.Fatalf("%s replaced at step %d: %v", victim, at, err)
			}
		}
	}
}

// TestReserved has members with names that a restore needs.
func TestReserved(t *testing.T) {
	for _, p := range []manifest.Path{".tarvm/x", ".tarvm-restore", ".TARVM/manifest.json", "../x", "/x", "a/../b", "a//b", "."} {
		s := &manifest.Snapshot{Members: []manifest.Member{
			{State: manifest.State{Path: ".", Type: manifest.Dir}},
			{State: manifest.State{Path: p, Type: manifest.File}},
		}}
		if err := checkMembers(s); !errors.Is(err, ErrUnsafe) {
			t.Errorf("%q: %v", p, err)
		}
	}
}
