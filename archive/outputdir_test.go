package archive_test

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"testing"

	"tarvm/archive"
)

func TestOutputDir(t *testing.T) {
	up := t.TempDir()
	names := func() (list []string) {
		t.Helper()
		es, err := os.ReadDir(up)
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range es {
			list = append(list, e.Name())
		}
		return list
	}
	path := filepath.Join(up, "out")
	begin := func() *archive.OutputDir {
		t.Helper()
		o, err := archive.CreateOutputDir(path)
		if err != nil {
			t.Fatal(err)
		}
		f, err := o.Create("a", 0o644)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := f.WriteString("text"); err != nil {
			t.Fatal(err)
		}
		return o
	}

	o := begin()
	if _, err := o.Create("../b", 0o644); err == nil {
		t.Error("a name that leads out of the directory was taken")
	}
	if _, err := o.Create("a", 0o644); !errors.Is(err, fs.ErrExist) {
		t.Errorf("the same name again: %v", err)
	}
	o.Abort()
	if n := names(); len(n) != 0 {
		t.Errorf("left after Abort: %q", n)
	}

	// Another run does not take what is being written for something that was left, but removes what was.
	stale := filepath.Join(up, ".out.tarvm-0123abcd")
	if err := os.MkdirAll(filepath.Join(stale, "x"), 0o777); err != nil {
		t.Fatal(err)
	}
	first, second := begin(), begin()
	if n := names(); len(n) != 2 {
		t.Errorf("two at work: %q", n)
	}
	if err := first.Commit(); err != nil {
		t.Fatal(err)
	}
	if err := second.Commit(); err == nil {
		t.Error("a directory with content was replaced")
	}
	if n := names(); len(n) != 1 || n[0] != "out" {
		t.Errorf("left: %q", n)
	}
	if b, err := os.ReadFile(filepath.Join(path, "a")); err != nil || string(b) != "text" {
		t.Errorf("%q, %v", b, err)
	}
	if _, err := archive.CreateOutputDir(path); !errors.Is(err, fs.ErrExist) {
		t.Errorf("over a directory with content: %v", err)
	}
	if err := os.Remove(filepath.Join(path, "a")); err != nil {
		t.Fatal(err)
	}
	if err := begin().Commit(); err != nil { // an empty one is replaced
		t.Fatal(err)
	}
	if _, err := archive.CreateOutputDir(filepath.Join(path, "a", "b")); err == nil {
		t.Error("below a file")
	}

	tmp, err := archive.NewTempDir(path)
	if err != nil {
		t.Fatal(err)
	}
	if n := names(); len(n) != 2 || filepath.Dir(tmp.Path) != up {
		t.Errorf("with %s: %q", tmp.Path, n)
	}
	tmp.Remove()
	if n := names(); len(n) != 1 {
		t.Errorf("left: %q", n)
	}
}
