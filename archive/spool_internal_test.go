package archive

import (
	"bytes"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"testing"
)

// A spool reads the same in memory and in its file, and leaves none behind.
func TestSpool(t *testing.T) {
	dir := t.TempDir()
	s := spool{dir: dir}
	defer s.Close()
	b := make([]byte, 1<<20)
	var want []byte
	for i := range spoolMemory>>20 + 3 {
		for j := range b {
			b[j] = byte(i + j*j>>8)
		}
		if n, err := s.Write(b[:len(b)-i]); n != len(b)-i || err != nil {
			t.Fatal(n, err)
		}
		want = append(want, b[:len(b)-i]...)
		if s.Size() != int64(len(want)) {
			t.Fatalf("%d bytes, want %d", s.Size(), len(want))
		}
		got, err := io.ReadAll(io.NewSectionReader(&s, 100, s.Size()))
		if err != nil || !bytes.Equal(got, want[100:]) {
			t.Fatalf("after %d bytes: %d bytes, %v", len(want), len(got), err)
		}
		if n, err := s.ReadAt(make([]byte, 2), s.Size()-1); n != 1 || !errors.Is(err, io.EOF) {
			t.Errorf("at the end: %d, %v", n, err)
		}
	}
	if s.file == nil {
		t.Fatal("it is still in memory")
	}
	if err := s.Close(); err != nil {
		t.Error(err)
	}
	if left, err := os.ReadDir(dir); err != nil || len(left) > 0 {
		t.Errorf("left behind: %v, %v", left, err)
	}
	none := spool{dir: filepath.Join(dir, "missing")}
	if _, err := none.Write(make([]byte, spoolMemory+1)); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("without a directory: %v", err)
	}
	if _, err := none.Write([]byte("x")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the first error does not stick: %v", err)
	}
}
