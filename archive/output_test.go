package archive_test

import (
	"bytes"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"sync"
	"testing"

	"tarvm/archive"
)

func names(t *testing.T, dir string) []string {
	t.Helper()
	es, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	var list []string
	for _, e := range es {
		list = append(list, e.Name())
	}
	return list
}

func TestOutput(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "a.tar")
	left := filepath.Join(dir, ".a.tar.tarvm-0badcafe") // of a process that was killed
	others := []string{".a.tar.tarvm-backup", ".b.tar.tarvm-0badcafe"}
	for _, p := range append([]string{left}, filepath.Join(dir, others[0]), filepath.Join(dir, others[1])) {
		if err := os.WriteFile(p, []byte("x"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	one, err := archive.CreateOutput(path, false)
	if err != nil {
		t.Fatal(err)
	}
	two, err := archive.CreateOutput(path, false) // must not sweep the first
	if err != nil {
		t.Fatal(err)
	}
	if n := names(t, dir); len(n) != 4 {
		t.Errorf("two outputs and %q: %q", others, n)
	}
	if _, err := os.Lstat(path); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("there is something before Commit: %v", err)
	}
	for _, o := range []*archive.Output{one, two} {
		if _, err := o.Write([]byte("content")); err != nil {
			t.Fatal(err)
		}
	}
	if err := one.Commit(); err != nil {
		t.Fatal(err)
	}
	if err := one.Commit(); err == nil {
		t.Error("a second Commit succeeded")
	}
	one.Abort()
	two.Abort()
	if b, err := os.ReadFile(path); err != nil || string(b) != "content" {
		t.Errorf("%q, %v", b, err)
	}
	if n := names(t, dir); len(n) != 3 {
		t.Errorf("an output and %q: %q", others, n)
	}
	if _, err := archive.CreateOutput(path, false); !errors.Is(err, fs.ErrExist) {
		t.Errorf("over a file: %v", err)
	}
	o, err := archive.CreateOutput(path, true)
	if err != nil {
		t.Fatal(err)
	}
	o.Abort()
	if b, err := os.ReadFile(path); err != nil || string(b) != "content" {
		t.Errorf("after Abort: %q, %v", b, err)
	}
	if _, err := archive.CreateOutput(dir, true); err == nil {
		t.Error("over a directory")
	}
}

// What is written in any order, and from several goroutines, is all there, also what
// was sent to disk on the way.
func TestOutputAnywhere(t *testing.T) {
	path := filepath.Join(t.TempDir(), "disk.raw")
	o, err := archive.CreateOutput(path, false)
	if err != nil {
		t.Fatal(err)
	}
	const piece, count = 1 << 20, 40
	var wg sync.WaitGroup
	for w := range 2 {
		wg.Go(func() {
			for i := w; i < count; i += 2 {
				at := int64(count - 1 - i)
				if _, err := o.WriteAt(bytes.Repeat([]byte{byte(at + 1)}, piece), at*piece); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	if err := o.Truncate(count*piece + 5); err != nil {
		t.Fatal(err)
	}
	if err := o.Commit(); err != nil {
		t.Fatal(err)
	}
	b, err := os.ReadFile(path)
	if err != nil || len(b) != count*piece+5 {
		t.Fatalf("%d bytes, %v", len(b), err)
	}
	for i := range count {
		if !bytes.Equal(b[i*piece:][:piece], bytes.Repeat([]byte{byte(i + 1)}, piece)) {
			t.Fatalf("piece %d is not what was written", i)
		}
	}
}
