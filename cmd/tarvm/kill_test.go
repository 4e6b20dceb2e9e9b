package main

import (
	"bytes"
	"errors"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"tarvm/archive/archivetest"
)

// envMain makes the test program the command.
const envMain = "TARVM_TEST_MAIN"

// run starts the command and returns what it wrote to standard error, and its exit code; -1: it was killed. It is
// killed after the given time, if that is not 0.
func run(t *testing.T, after time.Duration, args ...string) (stderr string, code int) {
	t.Helper()
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(exe, args...)
	cmd.Env = append(os.Environ(), envMain+"=1")
	var out bytes.Buffer
	cmd.Stderr = &out
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	if after > 0 {
		timer := time.AfterFunc(after, func() { _ = cmd.Process.Kill() })
		defer timer.Stop()
	}
	err = cmd.Wait()
	var ee *exec.ExitError
	if err != nil && !errors.As(err, &ee) {
		t.Fatal(err)
	}
	return out.String(), cmd.ProcessState.ExitCode()
}

// TestKill kills packs and restores of the command at random times: what has its final name is whole, and the next run
// succeeds and leaves nothing else.
func TestKill(t *testing.T) {
	points := 200
	if testing.Short() || archivetest.Race {
		points = 8
	}
	base := t.TempDir()
	vm := filepath.Join(base, "vm")
	tr := archivetest.New(t, vm, 51)
	full := filepath.Join(base, "full.tar.zst")
	must := func(args ...string) time.Duration {
		t.Helper()
		began := time.Now()
		if out, code := run(t, 0, args...); code != 0 {
			t.Fatalf("tarvm %s: exit code %d: %s", strings.Join(args, " "), code, out)
		}
		return time.Since(began)
	}
	must("pack", vm, "-o", full)
	tr.Change(t)
	r := rand.New(rand.NewPCG(1, 2))
	for _, op := range []struct {
		name string
		args func(dir string) []string
		// done checks what is there after a kill; again is run then, and leaves so many names in dir.
		done  func(t *testing.T, dir string)
		names int
	}{
		{"pack", func(dir string) []string {
			return []string{"pack", vm, "-o", filepath.Join(dir, "inc.tar.zst"), "--parent", full, "-f"}
		},
			func(t *testing.T, dir string) {
				inc := filepath.Join(dir, "inc.tar.zst")
				if _, err := os.Stat(inc); err != nil {
					return
				}
				must("verify", inc, "--search", base, "-q")
				if _, err := os.Stat(inc + ".manifest"); err != nil {
					t.Errorf("an archive without its manifest: %v", err)
				}
			}, 2},
		{"unpack", func(dir string) []string { return []string{"unpack", full, "-C", filepath.Join(dir, "out")} },
			func(t *testing.T, dir string) {
				out := filepath.Join(dir, "out")
				if _, err := os.Stat(out); err == nil {
					must("unpack", full, "-C", filepath.Join(dir, "reference"))
					for _, d := range archivetest.Diff(filepath.Join(dir, "reference"), out) {
						t.Error(d)
					}
					if err := os.RemoveAll(filepath.Join(dir, "reference")); err != nil {
						t.Error(err)
					}
				}
			}, 1},
	} {
		t.Run(op.name, func(t *testing.T) {
			took := must(op.args(t.TempDir())...)
			killed := 0
			for i := range points {
				dir := t.TempDir()
				if _, code := run(t, time.Duration(r.Int64N(int64(took)))+1, op.args(dir)...); code == -1 {
					killed++
				}
				op.done(t, dir)
				must(op.args(dir)...)
				es, err := os.ReadDir(dir)
				if err != nil || len(es) != op.names {
					t.Errorf("kill %d: left %v, %v", i, es, err)
				}
				if t.Failed() {
					t.FailNow()
				}
			}
			if killed == 0 {
				t.Errorf("of %d none was killed", points)
			}
		})
	}
}
