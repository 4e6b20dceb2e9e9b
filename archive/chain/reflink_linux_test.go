package chain

import (
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"

	"golang.org/x/sys/unix"

	"tarvm/archive/archivetest"
)

// On a file system whose files can share blocks, what is restored over another state is a clone of it with changes. The
// test makes an XFS in a file, mounts it where it may, and runs itself there, with others that restore over something.
func TestReflink(t *testing.T) {
	const variable = "TARVM_TEST_REFLINK"
	if os.Getenv(variable) == "" {
		archivetest.Tools(t, "mkfs.xfs")
		base := t.TempDir()
		image, disk := filepath.Join(base, "xfs"), filepath.Join(base, "disk")
		for _, err := range []error{os.WriteFile(image, nil, 0o600), os.Truncate(image, 512<<20), os.Mkdir(disk, 0o700)} {
			if err != nil {
				t.Fatal(err)
			}
		}
		if out, err := exec.Command("mkfs.xfs", "-q", "-m", "reflink=1", image).CombinedOutput(); err != nil {
			t.Fatalf("mkfs.xfs: %v: %s", err, out)
		}
		exe, err := os.Executable()
		if err != nil {
			t.Fatal(err)
		}
		run := "^TestReflink$"
		if !testing.Short() && !archivetest.Race {
			run = "^(TestReflink|TestRestoreOver|TestKill|TestCancel|TestStream|TestHistories)$"
		}
		// The mount ends with the process, whose alone it is.
		cmd := exec.Command("unshare", "-m", "sh", "-c", `mount -o loop "$1" "$2" && echo mounted && exec "$3" -test.short -test.v -test.run="$4"`, "sh",
			image, disk, exe, run)
		cmd.Env = append(os.Environ(), variable+"=1", "TMPDIR="+disk)
		out, err := cmd.CombinedOutput()
		switch {
		case !strings.Contains(string(out), "mounted\n"):
			t.Skipf("nothing can be mounted here: %v: %s", err, out)
		case err != nil || !strings.Contains(string(out), "--- PASS: TestReflink"):
			t.Fatalf("%v: %s", err, out)
		}
		return
	}
	// A disk that grows and shrinks, by parts of blocks, too, and of which a little changes each time: data, zeros, holes.
	disk := make([]byte, 8<<20+777)
	rand.NewChaCha8([32]byte{46}).Read(disk)
	n := 0
	h := newHistory(t, 3, 5, "lz4", func(dir string) {
		n++
		size := len(disk) - n%3*300_001
		rand.NewChaCha8([32]byte{byte(n)}).Read(disk[n<<20:][:100<<10])
		clear(disk[n<<20+512<<10:][:130<<10])
		name := filepath.Join(dir, "large.img")
		if err := os.WriteFile(name, disk[:size], 0o600); err != nil {
			t.Fatal(err)
		}
		f, err := os.OpenFile(name, os.O_WRONLY, 0)
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		if err := unix.Fallocate(int(f.Fd()), unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE, int64(n)<<20+700<<10, 64<<10); err != nil {
			t.Fatal(err)
		}
		clear(disk[n<<20+700<<10:][:64<<10])
	})
	c := h.chain(t, 5)
	var clones atomic.Int64
	for from := range c.Len() {
		for to := range c.Len() {
			dir := filepath.Join(t.TempDir(), "out")
			archivetest.Copy(t, h.states[from], dir)
			if _, err := Restore(bg, c, to, dir, RestoreOptions{hook: func(step string) {
				if step == "cloned" {
					clones.Add(1)
				}
			}}); err != nil {
				t.Fatalf("%d to %d: %v", from, to, err)
			}
			same(t, h.states[to], dir)
		}
	}
	if n := clones.Load(); n < 10 {
		t.Errorf("%d clones", n)
	}
}
