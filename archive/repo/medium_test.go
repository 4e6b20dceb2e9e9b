package repo_test

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"tarvm/archive/repo"
	"tarvm/archive/repo/mediumtest"
)

func newDir(t *testing.T, path string) *repo.Dir {
	t.Helper()
	d, err := repo.NewDir(path)
	if err != nil {
		t.Fatal(err)
	}
	return d
}

func TestDir(t *testing.T) {
	mediumtest.Run(t, mediumtest.Options{
		New: func(t *testing.T) repo.Medium { return newDir(t, t.TempDir()) },
		Again: func(t *testing.T, m repo.Medium) repo.Medium {
			return newDir(t, m.String())
		},
	})
}

// A child of this test takes the lock of a directory, and keeps it until it is killed or its standard input ends.
const envHold = "TARVM_TEST_HOLD"

func TestHoldChild(t *testing.T) {
	dir := os.Getenv(envHold)
	if dir == "" {
		t.Skip("is for the child of TestLockOfProcess")
	}
	d := newDir(t, dir)
	release, err := d.Lock(t.Context(), repo.Owner{Host: "here", PID: os.Getpid(), Doing: "test", Since: time.Now()}, nil)
	if err != nil {
		t.Fatal(err)
	}
	u, err := d.Create(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := u.Write([]byte("half")); err != nil {
		t.Fatal(err)
	}
	fmt.Println("held")
	_, _ = bufio.NewReader(os.Stdin).ReadByte()
	_ = release()
}

// TestLockOfProcess: another process excludes this one, until it is killed; then what it was writing is swept, and not before.
func TestLockOfProcess(t *testing.T) {
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	cmd := exec.Command(exe, "-test.run=^TestHoldChild$")
	cmd.Env = append(os.Environ(), envHold+"="+dir)
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	defer in.Close()
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	if line, err := bufio.NewReader(out).ReadString('\n'); err != nil || line != "held\n" {
		t.Fatalf("%q %v", line, err)
	}
	d := newDir(t, dir)
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	var busy *repo.BusyError
	if _, err := d.Lock(ctx, repo.Owner{}, nil); !errors.As(err, &busy) || busy.Owner.PID != cmd.Process.Pid || busy.Owner.Doing != "test" {
		t.Errorf("while it lives: %v", err)
	}
	left := func() int {
		es, err := os.ReadDir(filepath.Join(dir, "tmp"))
		if err != nil {
			t.Fatal(err)
		}
		return len(es)
	}
	if err := d.Sweep(t.Context()); err != nil || left() != 1 {
		t.Errorf("while it lives %d files are left: %v", left(), err)
	}
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = cmd.Wait()
	release, err := d.Lock(t.Context(), repo.Owner{}, nil)
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(d.Sweep(t.Context()), release()); err != nil || left() != 0 {
		t.Errorf("when it was killed %d files are left: %v", left(), err)
	}
}

// A folder that somebody moved away, leaving a link, is used where it is, and the link stays when it is empty.
func TestMovedFolder(t *testing.T) {
	dir, away := t.TempDir(), t.TempDir()
	if err := os.Mkdir(filepath.Join(dir, "entries"), 0o755); err != nil {
		t.Fatal(err)
	}
	// Another file system, where there is one: files cannot be renamed to it.
	if shm, err := os.MkdirTemp("/dev/shm", "tarvm-test-*"); err == nil {
		t.Cleanup(func() { os.RemoveAll(shm) })
		away = shm
	}
	link := filepath.Join(dir, "entries", "p")
	if err := os.Symlink(away, link); err != nil {
		t.Skip(err)
	}
	d := newDir(t, dir)
	for _, name := range []string{"entries/p/000001-a.tar", "entries/p/000002-a.tar"} {
		u, err := d.Create(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if _, err = u.Write([]byte(name)); err == nil {
			err = u.Commit(t.Context(), name)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	if err := d.Put(t.Context(), "entries/p/000001-a.tar.at", []byte("{}")); err != nil {
		t.Fatal(err)
	}
	if b, err := os.ReadFile(filepath.Join(away, "000001-a.tar")); err != nil || string(b) != "entries/p/000001-a.tar" {
		t.Errorf("%q %v", b, err)
	}
	for _, name := range []string{"entries/p/000001-a.tar", "entries/p/000002-a.tar", "entries/p/000001-a.tar.at"} {
		if err := d.Remove(t.Context(), name); err != nil {
			t.Fatal(err)
		}
		if _, err := os.Lstat(link); err != nil {
			t.Fatalf("the link went with %s: %v", name, err)
		}
	}
	for _, x := range []string{away, filepath.Join(dir, "tmp")} {
		if es, err := os.ReadDir(x); err != nil || len(es) > 0 {
			t.Errorf("left in %s: %v %v", x, es, err)
		}
	}
}

// What is no file is not opened: a FIFO would wait for ever.
func TestDirOfOtherKinds(t *testing.T) {
	dir := t.TempDir()
	d := newDir(t, dir)
	if err := errors.Join(os.MkdirAll(filepath.Join(dir, "entries", "p", "folder"), 0o755), os.Symlink("nowhere", filepath.Join(dir, "entries/p/link"))); err != nil {
		t.Skip(err)
	}
	if out, err := exec.Command("mkfifo", filepath.Join(dir, "entries/p/fifo")).CombinedOutput(); err != nil {
		t.Logf("no FIFO: %v %s", err, out)
	} else if _, err := d.Open(t.Context(), "entries/p/fifo"); err == nil || !strings.Contains(err.Error(), "regular") {
		t.Errorf("a FIFO: %v", err)
	}
	if _, err := d.Open(t.Context(), "entries/p/folder"); err == nil {
		t.Error("a folder was opened")
	}
	if err := d.Put(t.Context(), "entries/p/folder", nil); err == nil {
		t.Error("a folder was replaced")
	}
	if _, err := d.Open(t.Context(), "entries/p/link"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a link to nowhere: %v", err)
	}
	u, err := d.Create(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if err := u.Commit(t.Context(), "entries/p/link"); !errors.Is(err, fs.ErrExist) {
		t.Errorf("behind a link: %v", err)
	}
	if _, err := repo.NewDir(filepath.Join(dir, "entries/p/link")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a medium that is not there: %v", err)
	}
}

// What somebody wrote into the lock's file does no harm.
func TestLockGarbage(t *testing.T) {
	dir := t.TempDir()
	for _, b := range [][]byte{nil, []byte("garbage"), {0xff, 0}, []byte(`{"pid":-1,"since":3}`)} {
		write(t, filepath.Join(dir, "lock"), b)
		release, err := newDir(t, dir).Lock(t.Context(), repo.Owner{PID: 7}, nil)
		if err != nil {
			t.Fatal(err)
		}
		var o repo.Owner
		if b, err := os.ReadFile(filepath.Join(dir, "lock")); err != nil || json.Unmarshal(b, &o) != nil || o.PID != 7 {
			t.Errorf("the owner is %q, %v", b, err)
		}
		if err := release(); err != nil {
			t.Error(err)
		}
	}
}
