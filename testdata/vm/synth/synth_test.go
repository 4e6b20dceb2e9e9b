package main

import (
	"bytes"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"testing"

	"tarvm/archive/archivetest"
)

const (
	testDisk   = 48 << 20 // two grain tables, the second one partly used
	testMemory = 4 << 20
)

// TestSameSeedSameBytes makes the machine twice, with a different number of workers.
func TestSameSeedSameBytes(t *testing.T) {
	one, two := t.TempDir(), t.TempDir()
	if err := makeStates(one, 7, testDisk, testMemory, 0.3); err != nil {
		t.Fatal(err)
	}
	defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(1))
	if err := makeStates(two, 7, testDisk, testMemory, 0.3); err != nil {
		t.Fatal(err)
	}
	files := 0
	err := filepath.WalkDir(one, func(p string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		files++
		rel, err := filepath.Rel(one, p)
		if err != nil {
			return err
		}
		a, err := os.ReadFile(p)
		if err != nil {
			return err
		}
		b, err := os.ReadFile(filepath.Join(two, rel))
		if err != nil {
			return err
		}
		if !bytes.Equal(a, b) {
			t.Errorf("%s differs between two runs", rel)
		}
		ai, err := os.Stat(p)
		if err != nil {
			return err
		}
		bi, err := os.Stat(filepath.Join(two, rel))
		if err != nil {
			return err
		}
		if d.Name() != marker && !ai.ModTime().Equal(bi.ModTime()) {
			t.Errorf("%s: times differ: %v, %v", rel, ai.ModTime(), bi.ModTime())
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if files != 16 {
		t.Errorf("%d files, want 3 states of 5 and the marker", files)
	}
}

// TestStatesResembleLife bounds how much changes between states, so that what is measured on them means something.
func TestStatesResembleLife(t *testing.T) {
	g := newGuest(3, 128<<20, 16<<20)
	g.install(0.3)
	for _, st := range states[1:] {
		disk, memory := bytes.Join(blocksOf(g, g.disk), nil), bytes.Join(blocksOf(g, g.memory), nil)
		used := g.used
		g.live(st.step)
		changed := differing(disk, bytes.Join(blocksOf(g, g.disk), nil))
		if share := float64(changed) / float64(used); share < 0.05 || share > 0.4 {
			t.Errorf("%s: %.0f %% of the disk's data changed, want 5 to 40", st.name, share*100)
		}
		after := bytes.Join(blocksOf(g, g.memory), nil)
		if share := float64(differing(memory, after)) / float64(len(g.memory)); share < 0.1 || share > 0.9 {
			t.Errorf("%s: %.0f %% of memory changed, want 10 to 90", st.name, share*100)
		}
		onDisk := make(map[string]bool)
		for _, b := range blocksOf(g, g.disk) {
			onDisk[string(b)] = true
		}
		zero, mirror := 0, 0
		for _, b := range blocksOf(g, g.memory) {
			switch {
			case bytes.Count(b, []byte{0}) == len(b):
				zero++
			case onDisk[string(b)]:
				mirror++
			}
		}
		if p := 100 * zero / len(g.memory); p < 8 || p > 30 {
			t.Errorf("%s: %d %% of the pages are zero, want 8 to 30", st.name, p)
		}
		if p := 100 * mirror / len(g.memory); p < 25 || p > 55 {
			t.Errorf("%s: %d %% of the pages stand on the disk, want 25 to 55", st.name, p)
		}
	}
}

func blocksOf(g *guest, refs []ref) [][]byte {
	out := make([][]byte, len(refs))
	for i, r := range refs {
		out[i] = make([]byte, blockSize)
		g.render(out[i], r)
	}
	return out
}

func differing(a, b []byte) (n int) {
	for i := 0; i < len(a); i += blockSize {
		if !bytes.Equal(a[i:i+blockSize], b[i:i+blockSize]) {
			n++
		}
	}
	return n
}

// TestQEMUReadsTheDisk compares what qemu-img finds in each vmdk with the guest's own list of blocks.
func TestQEMUReadsTheDisk(t *testing.T) {
	archivetest.Tool(t, "qemu-img")
	dir := t.TempDir()
	g := newGuest(11, testDisk, testMemory)
	for i, st := range states {
		if i == 0 {
			g.install(0.3)
		} else {
			g.live(st.step)
		}
		vmdk, raw := filepath.Join(dir, st.name+".vmdk"), filepath.Join(dir, st.name+".raw")
		if err := g.writeVMDK(vmdk, i); err != nil {
			t.Fatal(err)
		}
		for _, args := range [][]string{
			{"check", "-f", "vmdk", vmdk},
			{"convert", "-f", "vmdk", "-O", "raw", vmdk, raw},
		} {
			if out, err := exec.Command("qemu-img", args...).CombinedOutput(); err != nil {
				t.Fatalf("%s: qemu-img %s: %v\n%s", st.name, args[0], err, out)
			}
		}
		got, err := os.ReadFile(raw)
		if err != nil {
			t.Fatal(err)
		}
		if len(got) != testDisk {
			t.Fatalf("%s: qemu-img reads %d bytes, want %d", st.name, len(got), testDisk)
		}
		if n := differing(bytes.Join(blocksOf(g, g.disk), nil), got); n != 0 {
			t.Errorf("%s: %d blocks differ from what qemu-img reads", st.name, n)
		}
		data := 0
		for _, r := range g.disk {
			if r != 0 {
				data++
			}
		}
		if data < len(g.disk)/5 {
			t.Fatalf("%s: %d of %d blocks hold data: too few to compare", st.name, data, len(g.disk))
		}
	}
}

// TestParseSize is a table of the flag's spellings.
func TestParseSize(t *testing.T) {
	for s, want := range map[string]int64{"0": 0, "512": 512, "4k": 4 << 10, "256M": 256 << 20, "4G": 4 << 30, "1T": 1 << 40} {
		if got, err := parseSize(s); err != nil || got != want {
			t.Errorf("parseSize(%q) = %d, %v, want %d", s, got, err, want)
		}
	}
	for _, s := range []string{"", "G", "-1", "4GB", "9223372036854775807G", "1.5G"} {
		if got, err := parseSize(s); err == nil {
			t.Errorf("parseSize(%q) = %d, want an error", s, got)
		}
	}
}

// TestRunRefuses checks that neither a bad argument nor a directory of somebody else's gets as far as removing it.
func TestRunRefuses(t *testing.T) {
	dir := t.TempDir()
	keep := filepath.Join(dir, "S1")
	if err := os.Mkdir(keep, 0o755); err != nil {
		t.Fatal(err)
	}
	for _, args := range [][]string{
		{}, {"-o", dir, "extra"}, {"-o", dir, "-size", "1M"}, {"-o", dir, "-size", "2T"}, {"-o", dir, "-fill", "0.9"},
		{"-o", dir, "-fill", "NaN"}, {"-o", dir, "-size", "x"}, {"-o", dir, "-mem", "0"}, {"-o", dir, "-size", "64M", "-mem", "65M"},
		{"-o", dir, "-size", "16M"},
	} {
		if err := run(args); err == nil {
			t.Errorf("run(%q): no error", args)
		}
	}
	if _, err := os.Stat(keep); err != nil {
		t.Errorf("a refused run removed S1: %v", err)
	}
}
