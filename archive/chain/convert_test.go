package chain

import (
	"bytes"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"tarvm/archive"
	"tarvm/archive/archivetest"
)

// TestConvertedDisk: a disk that another program wrote in another format is found in the parent, on any grid, and a
// chain that goes on in that format is restored.
func TestConvertedDisk(t *testing.T) {
	archivetest.Tool(t, "qemu-io")
	qemu := archivetest.Tool(t, "qemu-img")
	run := func(name string, args ...string) {
		t.Helper()
		if out, err := exec.Command(name, args...).CombinedOutput(); err != nil {
			t.Fatalf("%q: %v\n%s", args, err, out)
		}
	}
	const mib = 1 << 20
	raw := make([]byte, 24*mib)
	r := rand.New(rand.NewPCG(4, 2))
	for _, x := range [][2]int{{0, 5 * mib}, {7*mib + 4096, 9 * mib}, {12 * mib, 20*mib + 8192}, {23 * mib, 24 * mib}} {
		for i := x[0]; i < x[1]; i++ {
			raw[i] = byte(r.Uint32())
		}
	}
	base := t.TempDir()
	source := filepath.Join(base, "disk")
	if err := os.WriteFile(source, raw, 0o600); err != nil {
		t.Fatal(err)
	}
	dirs := map[string]string{}
	formats := []string{"raw", "vmdk", "qcow2", "vdi", "vpc", "vhdx"}
	for _, f := range formats {
		dirs[f] = filepath.Join(base, f)
		if err := os.Mkdir(dirs[f], 0o700); err != nil {
			t.Fatal(err)
		}
		run(qemu, "convert", "-f", "raw", "-O", f, source, filepath.Join(dirs[f], "disk."+f))
	}
	pairs := [][2]string{}
	for _, f := range formats {
		pairs = append(pairs, [2]string{"vmdk", f}, [2]string{f, "raw"}, [2]string{f, "vpc"}, [2]string{"vpc", f})
	}
	type packed struct {
		arch *archive.Archive
		man  *archive.Manifest
	}
	fulls := map[string]packed{}
	done := map[[2]string]bool{}
	for _, p := range pairs {
		if p[0] == p[1] || done[p] {
			continue
		}
		done[p] = true
		full, ok := fulls[p[0]]
		if !ok {
			a, m, _ := pack(t, dirs[p[0]], packOptions{})
			full = packed{a, m}
			fulls[p[0]] = full
		}
		a, m, b := pack(t, dirs[p[1]], packOptions{parent: full.man})
		if len(b) > len(raw)/100 {
			t.Errorf("%s as a child of %s: %d bytes", p[1], p[0], len(b))
		}
		// It is written to, in its format.
		later := filepath.Join(t.TempDir(), "later")
		run("cp", "-a", dirs[p[1]], later)
		run("qemu-io", "-f", p[1], "-c", "write -P 7 1M 300k", "-c", "write -P 8 10M 100k", "-c", "write -z 13M 64k", filepath.Join(later, "disk."+p[1]))
		a2, _, b2 := pack(t, later, packOptions{parent: m})
		if len(b2) > mib {
			t.Errorf("%s, written to: %d bytes", p[1], len(b2))
		}
		c, err := New([]*archive.Archive{full.arch, a, a2})
		if err != nil {
			t.Fatal(err)
		}
		out := filepath.Join(t.TempDir(), "out")
		for k, want := range []string{dirs[p[0]], dirs[p[1]], later} {
			if _, err := Restore(bg, c, k, out, RestoreOptions{Force: true}); err != nil {
				t.Fatalf("%v, entry %d: %v", p, k, err)
			}
			compareDirs(t, want, out)
		}
		if rep, err := Verify(bg, c, VerifyOptions{}); err != nil || len(rep.Damages) > 0 || rep.Err() != nil {
			t.Errorf("%v: %v, %+v", p, err, rep)
		}
	}
}

func compareDirs(t *testing.T, want, got string) {
	t.Helper()
	names, err := os.ReadDir(want)
	if err != nil {
		t.Fatal(err)
	}
	have, err := os.ReadDir(got)
	if err != nil || len(have) != len(names) {
		t.Fatalf("%d files, want %d, %v", len(have), len(names), err)
	}
	for _, n := range names {
		a, err := os.ReadFile(filepath.Join(want, n.Name()))
		if err != nil {
			t.Fatal(err)
		}
		b, err := os.ReadFile(filepath.Join(got, n.Name()))
		if err != nil || !bytes.Equal(a, b) {
			t.Errorf("%s: %d bytes, want %d, %v", n.Name(), len(b), len(a), err)
		}
	}
}
