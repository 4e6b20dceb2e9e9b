package vmdir_test

import (
	"bytes"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"tarvm/archive/vmdir"
	"tarvm/delta"
	"tarvm/manifest"
)

func state(p string, t manifest.Type, mode manifest.Mode) *manifest.State {
	return &manifest.State{
		Path: manifest.Path(p), Type: t, Mode: mode, UID: int64(os.Getuid()), GID: int64(os.Getgid()),
		ModTime: manifest.Time{Time: time.Unix(1_600_000_000, 123456789)},
	}
}

func TestApply(t *testing.T) {
	if runtime.GOOS == "windows" {
		t.Skip("modes are those of Unix")
	}
	dir := tree(t, "f", "d/")
	root := openRoot(t, dir)
	must(t, vmdir.Symlink(root, "somewhere/else", "l"))
	for _, s := range []*manifest.State{
		state("f", manifest.File, 0o4751), state("d", manifest.Dir, 0o1500), state("l", manifest.Symlink, 0o777), state(".", manifest.Dir, 0o700),
	} {
		warnings, err := vmdir.Apply(root, s.Path, s, vmdir.ApplyOptions{})
		if err != nil || len(warnings) > 0 {
			t.Fatalf("%s: %v, %v", s.Path, warnings, err)
		}
		e := find(t, walk(t, dir, vmdir.WalkOptions{}), string(s.Path))
		if e.Type != s.Type || !e.ModTime.Equal(s.ModTime.Time) || e.Type != manifest.Symlink && e.Mode != s.Mode {
			t.Errorf("%s: %+v, want %+v", s.Path, e.State, s)
		}
	}
	// Not even set-user-ID survives where it is not wanted, and that is said.
	warnings, err := vmdir.Apply(root, "f", state("f", manifest.File, 0o6755), vmdir.ApplyOptions{NoSetID: true})
	if err != nil || len(warnings) != 1 || !strings.Contains(warnings[0].Error(), "0755 instead of 6755") {
		t.Errorf("%v, %v", warnings, err)
	}
	if e := find(t, walk(t, dir, vmdir.WalkOptions{}), "f"); e.Mode != 0o755 {
		t.Errorf("mode %o", e.Mode)
	}
}

// What is not there, or of another type, is left alone; a link to it, too.
func TestApplyRefuses(t *testing.T) {
	dir := tree(t, "f", "d/inside")
	outside := tree(t, "victim")
	must(t, os.Chmod(filepath.Join(outside, "victim"), 0o600))
	root := openRoot(t, dir)
	if err := vmdir.Symlink(root, manifest.Path(filepath.Join(outside, "victim")), "l"); err != nil {
		t.Skip(err)
	}
	must(t, vmdir.Symlink(root, manifest.Path(outside), "ld"))
	for _, c := range []struct {
		s    *manifest.State
		want error
	}{
		{state("d", manifest.File, 0o777), vmdir.ErrReplaced},
		{state("f", manifest.Dir, 0o777), vmdir.ErrReplaced},
		{state("l", manifest.File, 0o777), vmdir.ErrReplaced},
		{state("ld/victim", manifest.File, 0o777), vmdir.ErrReplaced},
		{state("f/x", manifest.File, 0o777), vmdir.ErrReplaced},
		{state("missing", manifest.File, 0o777), fs.ErrNotExist},
		{state("../victim", manifest.File, 0o777), fs.ErrInvalid},
		{state("", manifest.File, 0o777), fs.ErrInvalid},
	} {
		if _, err := vmdir.Apply(root, c.s.Path, c.s, vmdir.ApplyOptions{}); !errors.Is(err, c.want) {
			t.Errorf("%s: %v, want %v", c.s.Path, err, c.want)
		}
	}
	if runtime.GOOS != "windows" {
		if st, err := os.Stat(filepath.Join(outside, "victim")); err != nil || st.Mode() != 0o600 || st.ModTime().Unix() == 1_600_000_000 {
			t.Errorf("the file outside was touched: %v, %v", st, err)
		}
	}
}

// Nothing is made over something else, or through a link.
func TestMake(t *testing.T) {
	dir := tree(t, "taken", "sub/")
	outside := t.TempDir()
	root := openRoot(t, dir)
	if err := vmdir.Symlink(root, manifest.Path(outside), "a-link"); err != nil {
		t.Skip(err)
	}
	makers := map[string]func(p manifest.Path) error{
		"Mkdir":   func(p manifest.Path) error { return vmdir.Mkdir(root, p) },
		"Symlink": func(p manifest.Path) error { return vmdir.Symlink(root, "x", p) },
		"Link":    func(p manifest.Path) error { return vmdir.Link(root, "taken", p) },
		"Mkfifo":  func(p manifest.Path) error { return vmdir.Mkfifo(root, p) },
		"CreateFile": func(p manifest.Path) error {
			f, err := vmdir.CreateFile(root, p)
			if err == nil {
				err = f.Close()
			}
			return err
		},
	}
	for name, do := range makers {
		err := do(manifest.Path("sub/" + name))
		if errors.Is(err, errors.ErrUnsupported) {
			continue
		}
		must(t, err)
		if _, err := os.Lstat(filepath.Join(dir, "sub", name)); err != nil {
			t.Error(err)
		}
		for p, want := range map[manifest.Path]error{
			"taken": fs.ErrExist, "a-link": fs.ErrExist, "sub": fs.ErrExist, "a-link/new": vmdir.ErrReplaced, "taken/new": vmdir.ErrReplaced,
			"../new": fs.ErrInvalid, "/new": fs.ErrInvalid, "sub/../new": fs.ErrInvalid, "none/new": fs.ErrNotExist,
		} {
			if err := do(p); !errors.Is(err, want) {
				t.Errorf("%s(%q) = %v, want %v", name, p, err, want)
			} else if strings.Count(err.Error(), string(p)) != 1 {
				t.Errorf("%s(%q): the message names the path more or less than once: %v", name, p, err)
			}
		}
	}
	if left, err := os.ReadDir(outside); err != nil || len(left) > 0 {
		t.Errorf("made outside: %v, %v", left, err)
	}
}

// The holes that Extents sees tile the file with what reads as zero, and data is never in one.
func TestExtents(t *testing.T) {
	const size = 9<<20 + 5
	f, err := os.Create(filepath.Join(t.TempDir(), "f"))
	must(t, err)
	defer f.Close()
	must(t, f.Truncate(size))
	want := map[int64][]byte{0: []byte("front"), 3 << 20: bytes.Repeat([]byte("x"), 70_000), size - 1: []byte("e")}
	for off, b := range want {
		_, err := f.WriteAt(b, off)
		must(t, err)
	}
	check := func() []delta.Extent {
		t.Helper()
		list, err := vmdir.Extents(f, size)
		must(t, err)
		var end int64
		for i, e := range list {
			if e.Length <= 0 || e.Offset < end || i > 0 && e.Offset == end || e.Offset+e.Length > size {
				t.Fatalf("%v", list)
			}
			hole := make([]byte, e.Offset-end)
			if _, err := f.ReadAt(hole, end); err != nil || !delta.IsZero(hole) {
				t.Errorf("data in the hole from %d to %d: %v", end, e.Offset, err)
			}
			end = e.Offset + e.Length
		}
		return list
	}
	list := check()
	if list == nil {
		t.Skip("this file system tells no holes")
	}
	for off := range want {
		in := false
		for _, e := range list {
			in = in || e.Offset <= off && off < e.Offset+e.Length
		}
		if !in {
			t.Errorf("byte %d is not in %v", off, list)
		}
	}
	// A hole that is punched is one, and space that is reserved holds no data.
	if err := vmdir.PunchHole(f, 3<<20, 1<<20); errors.Is(err, errors.ErrUnsupported) {
		t.Skip(err)
	} else {
		must(t, err)
	}
	if again := check(); len(again) >= len(list) {
		t.Errorf("%v after punching, %v before", again, list)
	}
	if err := vmdir.Allocate(f, 3<<20, 1<<20); err == nil {
		check()
	} else if !errors.Is(err, errors.ErrUnsupported) {
		t.Error(err)
	}
	// A file that is shorter than expected ends the list.
	must(t, f.Truncate(100_000))
	list, err = vmdir.Extents(f, size)
	must(t, err)
	for _, e := range list {
		if e.Offset+e.Length > size {
			t.Errorf("%v", list)
		}
	}
	// All hole, no hole, nothing.
	must(t, f.Truncate(0))
	must(t, f.Truncate(1<<20))
	if list, err := vmdir.Extents(f, 1<<20); err != nil || list == nil || len(list) != 0 {
		t.Errorf("a hole: %v, %v", list, err)
	}
	_, err = f.WriteAt(bytes.Repeat([]byte("x"), 1<<20), 0)
	must(t, err)
	if list, err := vmdir.Extents(f, 1<<20); err != nil || list != nil {
		t.Errorf("no hole: %v, %v", list, err)
	}
	if list, err := vmdir.Extents(f, 0); err != nil || list != nil {
		t.Errorf("nothing: %v, %v", list, err)
	}
}

func TestCopyRange(t *testing.T) {
	dir := t.TempDir()
	b := bytes.Repeat([]byte("0123456789abcde\n"), 200_000)
	must(t, os.WriteFile(filepath.Join(dir, "src"), b, 0o600))
	src, err := os.Open(filepath.Join(dir, "src"))
	must(t, err)
	defer src.Close()
	dst, err := os.Create(filepath.Join(dir, "dst"))
	must(t, err)
	defer dst.Close()
	must(t, vmdir.CopyRange(dst, src, 5, 17, int64(len(b)-17)))
	must(t, vmdir.CopyRange(dst, src, 0, 0, 5))
	must(t, vmdir.CopyRange(dst, src, 0, 0, 0))
	got, err := io.ReadAll(dst)
	must(t, err)
	if want := append(bytes.Clone(b[:5]), b[17:]...); !bytes.Equal(got, want) {
		t.Errorf("%d bytes, want %d", len(got), len(want))
	}
	if err := vmdir.CopyRange(dst, src, 0, int64(len(b)-10), 11); !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Errorf("past the end: %v", err)
	}
	if n, err := vmdir.FreeSpace(openRoot(t, dir)); err != nil || n <= 0 {
		t.Errorf("FreeSpace: %d, %v", n, err)
	}
}
