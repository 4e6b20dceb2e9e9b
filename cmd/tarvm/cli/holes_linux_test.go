package cli

import (
	"bytes"
	"errors"
	"path/filepath"
	"syscall"
	"testing"
)

// A spool is what was written to it, in whatever pieces, with holes where there are zeros.
func TestHoles(t *testing.T) {
	want := make([]byte, 10<<20)
	copy(want[5:], guestBytes(100_000))
	copy(want[4<<20-3:], guestBytes(10_000))
	want[6<<20+4096] = 1
	for _, step := range []int{1 << 20, 4096, 5000, 512, 10 << 20} {
		p := &program{}
		s := &source{}
		f, err := s.newSpool(filepath.Join(t.TempDir(), "x")).create("")
		if err != nil {
			t.Fatal(err)
		}
		h := &holeFile{f}
		for b := want; len(b) > 0; b = b[min(step, len(b)):] {
			if n, err := h.Write(b[:min(step, len(b))]); err != nil || n != min(step, len(b)) {
				t.Fatal(n, err)
			}
		}
		if n, err := p.spoolTo(t.Context(), h, bytes.NewReader(nil)); n != 0 || !errors.Is(err, errNoPackage) {
			t.Error(n, err)
		}
		if n, err := h.ReadFrom(bytes.NewReader(want[:9999])); err != nil || n != 9999 {
			t.Error(n, err)
		}
		got := make([]byte, len(want)+9999)
		if n, err := h.ReadAt(got, 0); n != len(got) || !bytes.Equal(got[:len(want)], want) || !bytes.Equal(got[len(want):], want[:9999]) {
			t.Errorf("by %d: %d bytes, %v", step, n, err)
		}
		st, err := f.Stat()
		if err != nil {
			t.Fatal(err)
		}
		if used := st.Sys().(*syscall.Stat_t).Blocks * 512; used > 1<<20 {
			t.Errorf("by %d: it takes %d bytes", step, used)
		}
		s.close()
	}
}
