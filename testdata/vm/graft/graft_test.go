package main

import (
	"bytes"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"tarvm/archive/archivetest"
)

// TestGraft lets qemu-img make the disk, check it afterwards, and compare it with the raw image.
func TestGraft(t *testing.T) {
	archivetest.Tool(t, "qemu-img")
	dir := t.TempDir()
	raw, vmdk := filepath.Join(dir, "d.raw"), filepath.Join(dir, "d.vmdk")
	const size = 70<<20 + 512*5 // three tables, the last grain partly used
	f, err := os.Create(raw)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	r := rand.NewChaCha8([32]byte{1})
	write := func(off int64, n int) {
		t.Helper()
		b := make([]byte, n)
		r.Read(b)
		if _, err := f.WriteAt(b, off); err != nil {
			t.Fatal(err)
		}
	}
	if err := f.Truncate(size); err != nil {
		t.Fatal(err)
	}
	write(0, 300_000)
	write(40<<20, 1<<20)
	qemuImg(t, "convert", "-f", "raw", "-O", "vmdk", "-o", "subformat=monolithicSparse", raw, vmdk)
	before, err := os.ReadFile(vmdk)
	if err != nil {
		t.Fatal(err)
	}

	write(70_000, 10)                                                           // in place
	write(10<<20+5, 200_000)                                                    // new grains of the first table
	write(size-100, 100)                                                        // the last grain
	if _, err := f.WriteAt(make([]byte, 64<<10), 40<<20+(64<<10)); err != nil { // a grain that became zero
		t.Fatal(err)
	}
	if err := graftFiles(raw, vmdk); err != nil {
		t.Fatal(err)
	}
	qemuImg(t, "check", "-f", "vmdk", vmdk)
	qemuImg(t, "compare", "-f", "raw", "-F", "vmdk", raw, vmdk)

	after, err := os.ReadFile(vmdk)
	if err != nil {
		t.Fatal(err)
	}
	differ := 0
	for i := 0; i+grainSize <= len(before); i += grainSize {
		if !bytes.Equal(before[i:i+grainSize], after[i:i+grainSize]) {
			differ++
		}
	}
	// The tables share grain-sized ranges of the file: two changed grains, and what holds the tables.
	if differ < 2 || differ > 2+12 {
		t.Errorf("%d ranges of 64 KiB of the old file changed: not in place", differ)
	}
}

// TestGraftRefuses checks that nothing but the known kind of disk is written to.
func TestGraftRefuses(t *testing.T) {
	dir := t.TempDir()
	raw, other := filepath.Join(dir, "d.raw"), filepath.Join(dir, "other")
	if err := os.WriteFile(raw, make([]byte, 1<<20), 0o644); err != nil {
		t.Fatal(err)
	}
	for _, content := range [][]byte{nil, []byte("KDMV"), make([]byte, 4096), append([]byte("KDMV\x03"), make([]byte, 4096)...)} {
		if err := os.WriteFile(other, content, 0o644); err != nil {
			t.Fatal(err)
		}
		if err := graftFiles(raw, other); err == nil {
			t.Errorf("%d bytes beginning %q: no error", len(content), content[:min(5, len(content))])
		}
		if got, err := os.ReadFile(other); err != nil || !bytes.Equal(got, content) {
			t.Errorf("%d bytes beginning %q were changed", len(content), content[:min(5, len(content))])
		}
	}
}

func qemuImg(t *testing.T, args ...string) {
	t.Helper()
	if out, err := exec.Command("qemu-img", args...).CombinedOutput(); err != nil {
		t.Fatalf("qemu-img %v: %v\n%s", args, err, out)
	}
}
