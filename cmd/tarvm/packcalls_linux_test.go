package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"

	"tarvm/archive/archivetest"
)

// TestFailedPack has the calls fail with which a pack over an earlier archive ends. Each archive that is there is whole then, has
// its own manifest or none, and nothing else is left; without an error it is the new one, and is durable.
func TestFailedPack(t *testing.T) {
	needStrace(t)
	k := &killing{T: t, dir: memoryDir(t), rnd: rand.New(rand.NewPCG(2, 2))}
	tr := archivetest.New(t, k.path("vm"), 52)
	k.ok(os.Mkdir(k.path("old"), 0o755))
	must := func(args ...string) {
		t.Helper()
		if out, code := run(t, 0, args...); code != 0 {
			t.Fatalf("tarvm %s: exit code %d: %s", strings.Join(args, " "), code, out)
		}
	}
	must("pack", k.path("vm"), "-o", k.path("old/a.tar.zst"))
	tr.Change(t)
	must("pack", k.path("vm"), "-o", k.path("new.tar.zst"))
	read := func(name string) string {
		t.Helper()
		b, err := os.ReadFile(k.path(name))
		k.ok(err)
		return string(b)
	}
	before, after := read("old/a.tar.zst"), read("new.tar.zst")
	again := func() {
		t.Helper()
		k.ok(os.RemoveAll(k.path("place")))
		k.ok(os.CopyFS(k.path("place"), os.DirFS(k.path("old"))))
	}
	args := []string{"pack", k.path("vm"), "-o", k.path("place/a.tar.zst"), "--force", "-q"}
	again()
	failed := 0
	for i, p := range k.places(args) {
		errnos := failures[p.call]
		if testing.Short() && p.call != "fsync" && p.call != "renameat" && i%5 != 0 {
			continue
		}
		errno := errnos[i%len(errnos)]
		where := fmt.Sprintf("%s %d is %s", p.call, p.n, errno)
		again()
		log := k.path("calls")
		cmd := k.below([]string{"-f", "-y", "-s", "300", "-o", log, "-e", "trace=" + p.call, "-e", fmt.Sprintf("inject=%s:error=%s:when=%d", p.call, errno, p.n)}, args...)
		out, err := cmd.CombinedOutput()
		var exit *exec.ExitError
		if err != nil && !errors.As(err, &exit) {
			t.Fatal(err)
		}
		b, err := os.ReadFile(log)
		k.ok(err)
		lines := injected.FindAllString(string(b), -1)
		if !slices.ContainsFunc(lines, func(l string) bool { return strings.Contains(l, k.path("place")) }) {
			continue // it came in another order, or hit what starts the program
		}
		code := cmd.ProcessState.ExitCode()
		if code != 0 {
			failed++
		}
		archive := read("place/a.tar.zst")
		_, merr := os.Stat(k.path("place/a.tar.zst.manifest"))
		switch {
		case code != 0 && code != 1, code == 1 && !bytes.HasPrefix(out, []byte("tarvm: ")):
			t.Errorf("%s: exit code %d: %s", where, code, out)
		case code == 0 && (archive != after || merr != nil):
			t.Errorf("%s: no error, and it was not done: %v", where, merr)
		case code == 0 && p.call == "fsync":
			t.Errorf("%s: no error: %q", where, lines)
		case archive != before && archive != after:
			t.Errorf("%s: the archive is neither the old nor the new one", where)
		}
		if msg, code := run(t, 0, "verify", k.path("place/a.tar.zst"), "-q"); code != 0 {
			t.Errorf("%s: %s", where, msg)
		}
		if merr == nil && k.id("place/a.tar.zst.manifest") != k.id("place/a.tar.zst") {
			t.Errorf("%s: the manifest is another archive's", where)
		}
		must(args...)
		names, err := os.ReadDir(k.path("place"))
		k.ok(err)
		if len(names) != 2 {
			t.Errorf("%s: left behind: %v", where, names)
		}
		if t.Failed() {
			t.Fatalf("%q", lines)
		}
	}
	if failed == 0 {
		t.Error("no call made the command fail")
	}
	t.Logf("%d commands failed", failed)
}

// id is that of an archive or a manifest.
func (k *killing) id(name string) string {
	k.Helper()
	exe, err := os.Executable()
	k.ok(err)
	cmd := exec.Command(exe, "show", "--json", k.path(name))
	cmd.Env = k.environment()
	b, err := cmd.Output()
	k.ok(err)
	var v struct {
		ID string `json:"id"`
	}
	k.ok(json.Unmarshal(b, &v))
	if v.ID == "" {
		k.Fatalf("no id: %s", b)
	}
	return v.ID
}
