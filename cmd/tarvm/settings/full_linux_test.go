package settings_test

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"tarvm/cmd/tarvm/settings"
)

// A disk that is full, and one that is read only, leave the file as it was, and nothing beside it. The test runs itself
// where it may mount one.
func TestSaveDisk(t *testing.T) {
	const variable = "TEST_DISK"
	disk := os.Getenv(variable)
	if disk == "" {
		exe, err := os.Executable()
		must(t, err)
		cmd := exec.Command("unshare", "-m", "sh", "-c", `mount -t tmpfs -o size=64k tarvm-test "$1" && exec "$2" -test.run='^TestSaveDisk$'`, "sh", t.TempDir(), exe)
		cmd.Env = append(os.Environ(), variable+"="+cmd.Args[6])
		out, err := cmd.CombinedOutput()
		switch {
		case strings.Contains(string(out), "FAIL"):
			t.Fatalf("%s", out)
		case err != nil:
			t.Skipf("nothing can be mounted here: %v: %s", err, out)
		}
		return
	}
	home(t)
	path := filepath.Join(disk, "config.toml")
	write(t, path, example)
	for _, want := range []error{syscall.ENOSPC, syscall.EROFS} {
		if errors.Is(want, syscall.ENOSPC) {
			for i := 0; ; i++ {
				if err := os.WriteFile(filepath.Join(disk, fmt.Sprint(i)), make([]byte, 4096), 0o600); err != nil {
					break
				}
			}
		} else if out, err := exec.Command("mount", "-o", "remount,ro", disk).CombinedOutput(); err != nil {
			t.Fatalf("%v: %s", err, out)
		}
		before, err := os.ReadDir(disk)
		must(t, err)
		s := load(t, path)
		must(t, s.AddArea("x", settings.WorkingArea{Dir: "/x"}))
		if _, err := s.Save(t.Context()); !errors.Is(err, want) || !strings.Contains(err.Error(), path) {
			t.Errorf("%v, want %v", err, want)
		}
		if got := read(t, path); got != example {
			t.Errorf("changed:\n%s", got)
		}
		if after, err := os.ReadDir(disk); err != nil || len(after) != len(before) {
			t.Errorf("%v, was %v, %v", after, before, err)
		}
		if _, ok := s.Areas["x"]; !ok {
			t.Error("the change cannot be saved again")
		}
	}
	if _, err := os.Stat(path); errors.Is(err, fs.ErrNotExist) {
		t.Error(err)
	}
}
