package repo

import (
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// held makes a lock in a file, as another writer would have left it.
func held(t *testing.T, path string, o Owner, age time.Duration) {
	t.Helper()
	b, err := json.Marshal(o)
	if err != nil {
		t.Fatal(err)
	}
	at := time.Now().Add(-age)
	if err := os.WriteFile(path, b, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Chtimes(path, at, at); err != nil {
		t.Fatal(err)
	}
}

// gone is the number of a process that was there.
func gone(t *testing.T) int {
	t.Helper()
	cmd := exec.Command(os.Args[0], "-test.run=^$")
	if err := cmd.Run(); err != nil {
		t.Fatal(err)
	}
	return cmd.Process.Pid
}

// The lock of file systems without locks: who has it, when it is void, and that it is taken by one alone.
func TestLockFile(t *testing.T) {
	d := &Dir{root: t.TempDir()}
	path := filepath.Join(d.root, "lock.held")
	me := Owner{Host: "here", PID: os.Getpid(), Since: time.Now()}
	try := func() func() error {
		t.Helper()
		release, err := d.tryFile(path, me)
		if err == nil && release == nil { // a void lock has gone now
			release, err = d.tryFile(path, me)
		}
		if err != nil {
			t.Fatal(err)
		}
		return release
	}
	for _, c := range []struct {
		name  string
		owner Owner
		age   time.Duration
		void  bool
	}{
		{"alive", me, 0, false},
		{"gone", Owner{Host: "here", PID: gone(t)}, 0, true},
		{"elsewhere", Owner{Host: "there", PID: gone(t)}, lockStale / 2, false},
		{"elsewhere, not refreshed", Owner{Host: "there", PID: 1}, lockStale + time.Minute, true},
		{"alive, not refreshed", me, lockStale + time.Minute, true},
		{"nothing written", Owner{}, 0, false},
		{"from the future", Owner{Host: "there", PID: 1}, -time.Hour, false},
	} {
		held(t, path, c.owner, c.age)
		release := try()
		if (release != nil) != c.void {
			t.Errorf("%s: taken %v", c.name, release != nil)
		}
		if release != nil {
			if err := release(); err != nil {
				t.Errorf("%s: %v", c.name, err)
			}
		}
		os.Remove(path)
	}
	// Who lost the lock does not take it from the next one.
	release := try()
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	held(t, path, Owner{Host: "there", PID: 1}, 0)
	if err := release(); err == nil {
		t.Error("a lock that was lost was given back")
	}
	if _, err := os.Lstat(path); err != nil {
		t.Errorf("the lock of the next one has gone: %v", err)
	}
	// A breaker that was killed.
	held(t, path, Owner{Host: "here", PID: gone(t)}, 0)
	held(t, path+".void", Owner{}, lockStale+time.Minute)
	if try() != nil {
		t.Error("two broke it")
	}
	if release = try(); release == nil {
		t.Fatal("who broke it was killed, and nobody else may")
	}
	if err := release(); err != nil {
		t.Error(err)
	}
	if es, err := os.ReadDir(d.root); err != nil || len(es) > 0 {
		t.Errorf("left: %v %v", es, err)
	}
}

// Many find the same void lock: one has it at a time.
func TestLockFileOfMany(t *testing.T) {
	d := &Dir{root: t.TempDir()}
	path := filepath.Join(d.root, "lock.held")
	dead := gone(t)
	me := Owner{Host: "here", PID: os.Getpid(), Since: time.Now()}
	for range 20 {
		held(t, path, Owner{Host: "here", PID: dead}, 0)
		var holders, had atomic.Int32
		var wg sync.WaitGroup
		for range 6 {
			wg.Go(func() {
				for range 2000 {
					release, err := d.tryFile(path, me)
					if err != nil {
						t.Error(err)
						return
					}
					if release == nil {
						continue
					}
					if holders.Add(1) > 1 {
						t.Error("two have it")
					}
					had.Add(1)
					holders.Add(-1)
					if err := release(); err != nil {
						t.Error(err)
					}
					return
				}
			})
		}
		wg.Wait()
		if had.Load() == 0 {
			t.Fatal("nobody got it")
		}
	}
}
