package chain

import (
	"io/fs"
	"os"
	"path/filepath"
	"testing"
	"testing/fstest"

	"tarvm/archive/archivetest"
)

func TestFS(t *testing.T) {
	// TestFS opens every name, and takes a link that leads nowhere for an error.
	h := newHistory(t, 4, 3, "zstd", func(dir string) { os.Remove(filepath.Join(dir, "dangling")) })
	c := h.chain(t, 3)
	for k := range c.Len() {
		if archivetest.Race && k > 0 {
			break // it reads all files byte by byte
		}
		fsys := c.FS(k)
		var names []string
		err := fs.WalkDir(os.DirFS(h.states[k]), ".", func(p string, d fs.DirEntry, err error) error {
			if err == nil && p != "." && fs.ValidPath(p) {
				names = append(names, p)
			}
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
		if err := fstest.TestFS(fsys, names...); err != nil {
			t.Errorf("entry %d: %v", k, err)
		}
		for _, p := range names {
			want, err := os.Lstat(filepath.Join(h.states[k], p))
			if err != nil {
				t.Fatal(err)
			}
			got, err := fs.Lstat(fsys, p)
			if err != nil || got.Mode() != want.Mode() || !got.ModTime().Equal(want.ModTime()) || want.Mode().IsRegular() && got.Size() != want.Size() {
				t.Errorf("%s: %v %v, want %v (%v)", p, got.Mode(), got.ModTime(), want, err)
			}
		}
	}
	for _, bad := range []string{"/x", "../x", "no such", "vm.vmx/below", "dangling"} {
		if _, err := fs.Stat(c.FS(0), bad); err == nil {
			t.Errorf("Stat(%q) succeeded", bad)
		}
	}
	if b, err := fs.ReadFile(c.FS(0), "link"); err != nil || len(b) == 0 {
		t.Errorf("a file through a symbolic link: %d bytes, %v", len(b), err)
	}
}
