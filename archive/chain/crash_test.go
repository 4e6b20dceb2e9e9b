package chain

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"

	"tarvm/archive"
	"tarvm/archive/archivetest"
	codecs "tarvm/archive/codec/all"
)

// A child of this test restores, and kills itself before the step with the given number.
const (
	envCrash  = "TARVM_TEST_CRASH"
	envFiles  = "TARVM_TEST_FILES" // of the chain, separated by colons
	envTarget = "TARVM_TEST_TARGET"
	envStream = "TARVM_TEST_STREAM"
)

func TestCrashChild(t *testing.T) {
	if os.Getenv(envCrash) == "" {
		t.Skip("is for the child of TestKill")
	}
	at, err := strconv.ParseInt(os.Getenv(envCrash), 10, 64)
	if err != nil {
		t.Fatal(err)
	}
	var steps atomic.Int64
	hook := func(string) {
		if steps.Add(1) == at {
			p, err := os.FindProcess(os.Getpid())
			if err != nil {
				panic(err)
			}
			_ = p.Kill()
			select {}
		}
	}
	o := RestoreOptions{Workers: 2, hook: hook, NoSync: true}
	var archs []*archive.Archive
	var files []io.Reader
	for _, name := range strings.Split(os.Getenv(envFiles), ":") {
		b, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		archs = append(archs, open(t, b))
		files = append(files, bytes.NewReader(b))
	}
	if os.Getenv(envStream) != "" {
		_, err = RestoreStream(bg, io.MultiReader(files...), codecs.Codecs(), os.Getenv(envTarget), StreamOptions{RestoreOptions: o})
	} else {
		var c *Chain
		if c, err = New(archs); err == nil {
			_, err = Restore(bg, c, c.Head(), os.Getenv(envTarget), o)
		}
	}
	if err != nil {
		t.Fatal(err)
	}
	fmt.Printf("steps %d\n", steps.Load())
}

// crash runs the child, and reports whether it was killed, and else how many steps there were.
func crash(t *testing.T, at int64, files []string, target string, stream bool) (killed bool, steps int64) {
	t.Helper()
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(exe, "-test.run=^TestCrashChild$")
	cmd.Env = append(os.Environ(), fmt.Sprintf("%s=%d", envCrash, at), envFiles+"="+strings.Join(files, ":"), envTarget+"="+target)
	if stream {
		cmd.Env = append(cmd.Env, envStream+"=1")
	}
	out, err := cmd.CombinedOutput()
	var ee *exec.ExitError
	if errors.As(err, &ee) && ee.ExitCode() == -1 {
		return true, 0
	}
	if err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	if _, err := fmt.Sscanf(string(out), "steps %d", &steps); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	return false, steps
}

// TestKill kills restores at random points: the directory holds the old state, or a restore that is completed
// without the archives; and the next restore succeeds and leaves nothing behind.
func TestKill(t *testing.T) {
	points := 40
	if testing.Short() || archivetest.Race {
		points = 8
	}
	h := newHistory(t, 11, 3, "lz4")
	var files []string
	for i, b := range h.raw {
		name := filepath.Join(t.TempDir(), fmt.Sprint(i))
		if err := os.WriteFile(name, b, 0o600); err != nil {
			t.Fatal(err)
		}
		files = append(files, name)
	}
	c := h.chain(t, 3)
	for _, kind := range []struct {
		name   string
		from   int // state in the directory; -1: there is none
		stream bool
	}{{"fresh", -1, false}, {"over", 0, false}, {"stream", -1, true}, {"stream over", 1, true}} {
		t.Run(kind.name, func(t *testing.T) {
			prepare := func() (up, dir string) {
				up = t.TempDir()
				dir = filepath.Join(up, "vm")
				if kind.from >= 0 {
					archivetest.Copy(t, h.states[kind.from], dir)
				}
				return up, dir
			}
			_, dir := prepare()
			_, steps := crash(t, 0, files, dir, kind.stream)
			same(t, h.states[2], dir)
			r := rand.New(rand.NewPCG(1, uint64(steps)))
			var before, behind int
			for range points {
				at := 1 + r.Int64N(steps)
				up, dir := prepare()
				if killed, _ := crash(t, at, files, dir, kind.stream); !killed {
					continue // with other timing there are fewer steps
				}
				if kind.from < 0 {
					if _, err := os.Lstat(dir); err == nil {
						same(t, h.states[2], dir) // what stands under the name is whole
					}
				} else {
					// Where the journal was written, the new state comes without an archive.
					done, err := Recover(bg, dir)
					if err != nil {
						t.Fatalf("step %d: %v", at, err)
					}
					if done {
						behind++
						same(t, h.states[2], dir)
					} else {
						before++
						old := content(h.states[kind.from], dir)
						if len(old) > 0 && len(content(h.states[2], dir)) > 0 {
							t.Errorf("step %d of %d: neither the old state nor the new: %v", at, steps, old)
						}
					}
				}
				if _, err := Restore(bg, c, 2, dir, RestoreOptions{NoSync: true}); err != nil {
					t.Fatalf("step %d: the next restore: %v", at, err)
				}
				same(t, h.states[2], dir)
				es, err := os.ReadDir(up)
				if err != nil || len(es) != 1 {
					t.Errorf("step %d: left %v, %v", at, es, err)
				}
				if t.Failed() {
					t.Fatalf("step %d of %d", at, steps)
				}
			}
			if kind.from >= 0 && !testing.Short() && !archivetest.Race && (before == 0 || behind == 0) {
				t.Errorf("%d kills before the journal, %d behind it", before, behind)
			}
		})
	}
}

// content compares directories, but for the time of the directory itself: that of the staging directory's coming and
// going.
func content(want, got string) []string {
	return slices.DeleteFunc(archivetest.Diff(want, got), func(d string) bool { return strings.HasPrefix(d, `".":`) })
}

// TestCancel cancels restores at random steps: there is an error, and the directory is as it was, or, behind the
// journal, as it is to be.
func TestCancel(t *testing.T) {
	h := newHistory(t, 12, 2, "lz4")
	c := h.chain(t, 2)
	count := func(o RestoreOptions, dir string) int64 {
		var steps atomic.Int64
		o.hook = func(string) { steps.Add(1) }
		if _, err := Restore(bg, c, 1, dir, o); err != nil {
			t.Fatal(err)
		}
		return steps.Load()
	}
	for _, fresh := range []bool{true, false} {
		prepare := func() (up, dir string) {
			up = t.TempDir()
			dir = filepath.Join(up, "vm")
			if !fresh {
				archivetest.Copy(t, h.states[0], dir)
			}
			return up, dir
		}
		_, dir := prepare()
		steps := count(RestoreOptions{NoSync: true}, dir)
		for at := int64(1); at <= steps; at += 1 + steps/40 {
			up, dir := prepare()
			ctx, cancel := context.WithCancelCause(bg)
			why := errors.New("enough")
			var n atomic.Int64
			_, err := Restore(ctx, c, 1, dir, RestoreOptions{NoSync: true, hook: func(string) {
				if n.Add(1) == at {
					cancel(why)
				}
			}})
			cancel(nil)
			if err == nil {
				same(t, h.states[1], dir)
				continue
			}
			if !errors.Is(err, why) {
				t.Errorf("step %d: error %v", at, err)
			}
			if fresh {
				nothingLeft(t, up)
			} else {
				same(t, h.states[0], dir)
			}
		}
	}
}

// TestFailingSource has a medium error in the middle of an archive.
func TestFailingSource(t *testing.T) {
	h := newHistory(t, 13, 2, "lz4")
	for at := int64(0); at < int64(len(h.raw[0])); at += int64(len(h.raw[0]))/23 + 1 {
		src := &failingSource{Reader: bytes.NewReader(h.raw[0])}
		a, err := archive.Open(src, codecs.Codecs())
		if err != nil {
			t.Fatal(err)
		}
		src.at = at
		c, err := New([]*archive.Archive{a, h.archs[1]})
		if err != nil {
			t.Fatal(err)
		}
		up := t.TempDir()
		dir := filepath.Join(up, "vm")
		if _, err := Restore(bg, c, 1, dir, RestoreOptions{NoSync: true}); err == nil {
			same(t, h.states[1], dir) // what cannot be read was not needed
			continue
		} else if !errors.Is(err, errMedium) {
			t.Errorf("byte %d: %v", at, err)
		}
		nothingLeft(t, up)
		archivetest.Copy(t, h.states[0], dir)
		if _, err := Restore(bg, c, 1, dir, RestoreOptions{NoSync: true}); err == nil {
			same(t, h.states[1], dir)
		} else {
			same(t, h.states[0], dir)
		}
	}
}

var errMedium = errors.New("medium error")

// failingSource cannot be read from byte at on, if at is not 0, for 64 KiB.
type failingSource struct {
	*bytes.Reader
	at int64
}

func (s *failingSource) ReadAt(p []byte, off int64) (int, error) {
	if s.at > 0 && off < s.at+64<<10 && off+int64(len(p)) > s.at {
		return 0, errMedium
	}
	return s.Reader.ReadAt(p, off)
}
