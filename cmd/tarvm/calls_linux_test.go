package main

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// failures are what system calls may answer.
var failures = map[string][]string{
	"openat":     {"EIO", "ENOSPC", "EACCES", "EROFS", "EMFILE", "EDQUOT", "EINTR"},
	"write":      {"EIO", "ENOSPC", "EDQUOT", "EINTR"},
	"read":       {"EIO", "EINTR"},
	"pread64":    {"EIO", "EINTR"},
	"fsync":      {"EIO", "ENOSPC", "EDQUOT"},
	"close":      {"EIO", "EDQUOT"},
	"renameat":   {"EIO", "ENOSPC", "EROFS", "EACCES"},
	"unlinkat":   {"EIO", "EROFS", "EACCES"},
	"mkdirat":    {"EIO", "ENOSPC", "EROFS", "EDQUOT"},
	"getdents64": {"EIO"},
	"flock":      {"EIO", "EINTR"},
}

var (
	threadCall = regexp.MustCompile(`^(\d+) +(\w+)\(`)
	injected   = regexp.MustCompile(`(?m)^.*\(INJECTED\)$`)
)

// A place is a call that can be made to fail: the n-th of its name in a thread.
type place struct {
	call string
	n    int
}

// places are the calls that have to do with the repository, another disk of it, or the working area.
func (k *killing) places(args []string) []place {
	k.Helper()
	log := k.path("calls")
	names := make([]string, 0, len(failures))
	for name := range failures {
		names = append(names, name)
	}
	slices.Sort(names)
	if out, err := k.below([]string{"-f", "-y", "-s", "300", "-o", log, "-e", "trace=" + strings.Join(names, ",")}, args...).CombinedOutput(); err != nil {
		k.Fatalf("tarvm %q: %v: %s", args, err, out)
	}
	b, err := os.ReadFile(log)
	k.ok(err)
	count := make(map[string]int)
	var list []place
	for line := range strings.Lines(string(b)) {
		m := threadCall.FindStringSubmatch(line)
		if m == nil {
			continue
		}
		count[m[1]+m[2]]++
		p := place{m[2], count[m[1]+m[2]]}
		for _, dir := range []string{"repo", "place", "areas"} {
			if strings.Contains(line, k.path(dir)) && !slices.Contains(list, p) {
				list = append(list, p)
			}
		}
	}
	return list
}

// TestFailedCalls has system calls fail, one in each run: the command says so in one message, or does its work; what was
// there is there, and once more it succeeds and leaves nothing behind.
func TestFailedCalls(t *testing.T) {
	needStrace(t)
	base := &killing{T: t, dir: memoryDir(t), rnd: rand.New(rand.NewPCG(1, 1))}
	ids := base.prepareFeats()
	base.ok(os.Mkdir(base.path("place"), 0o755))
	each := 17
	if testing.Short() {
		each = 2
	}
	for i, ft := range feats(ids) {
		t.Run(ft.name, func(t *testing.T) {
			k := base.scene(t, uint64(i))
			f, err := k.r.Forest(t.Context())
			k.ok(err)
			list := k.places(append(ft.args(k, f), "-q"))
			// Calls that are rare are the ones that matter.
			byName := make(map[string][]place)
			for _, p := range list {
				byName[p.call] = append(byName[p.call], p)
			}
			failed, hit := 0, 0
			var names []string
			for name := range byName {
				names = append(names, name)
				if name == "fsync" || name == "renameat" || name == "unlinkat" {
					names = append(names, name, name)
				}
			}
			slices.Sort(names)
			for n := range each {
				name := names[(n+i)%len(names)]
				ps, errnos := byName[name], failures[name]
				p, errno := ps[k.rnd.IntN(len(ps))], errnos[k.rnd.IntN(len(errnos))]
				where := fmt.Sprintf("%s %d is %s", p.call, p.n, errno)
				k.ok(os.RemoveAll(k.dir))
				k.ok(os.CopyFS(k.dir, os.DirFS(base.dir)))
				log := k.path("calls")
				cmd := k.below([]string{"-f", "-y", "-s", "300", "-o", log, "-e", "trace=" + p.call, "-e", fmt.Sprintf("inject=%s:error=%s:when=%d", p.call, errno, p.n)},
					append(ft.args(k, f), "-q")...)
				var out bytes.Buffer
				cmd.Stderr = &out
				err := cmd.Run()
				var exit *exec.ExitError
				if err != nil && !errors.As(err, &exit) {
					t.Fatal(err)
				}
				code := cmd.ProcessState.ExitCode()
				b, err := os.ReadFile(log)
				k.ok(err)
				lines := injected.FindAllString(string(b), -1)
				if len(lines) > 0 {
					hit++
				}
				if code != 0 {
					failed++
				}
				message := out.String()
				// What starts the program needs calls, too.
				ours := slices.ContainsFunc(lines, func(l string) bool { return strings.Contains(l, k.dir) })
				switch {
				case code != 0 && len(lines) > 0 && !ours:
				case code == 0 || code == 3:
				case code != 1 && code != 4, !strings.HasPrefix(message, "tarvm: "), strings.Contains(message, "goroutine"), len(lines) == 0:
					t.Errorf("%s: exit code %d: %s", where, code, message)
				}
				// What was not synced is not done.
				for _, l := range lines {
					if p.call == "fsync" && strings.Contains(l, k.path("repo")+string(filepath.Separator)) && code == 0 {
						t.Errorf("%s: no error: %s", where, l)
					}
				}
				now := k.whole(where, ids, ft.keeps, true)
				if code == 0 && ft.done != nil && !ft.done(now) {
					t.Errorf("%s: no error, and it was not done: %s", where, lines)
				}
				if code == 0 && ft.area != "" {
					k.sameContent(where, ft.area)
				}
				k.again(where, &ft, ids, now)
				if t.Failed() {
					t.Fatalf("%s: %q\n%s", where, lines, message)
				}
			}
			t.Logf("%d calls failed, and %d commands of %d", hit, failed, each)
		})
	}
}
