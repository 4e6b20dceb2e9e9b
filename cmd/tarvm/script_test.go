package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	"tarvm/archive/archivetest"
)

func TestMain(m *testing.M) {
	if os.Getenv(envMain) != "" {
		main()
	}
	testscript.Main(m, map[string]func(){"tarvm": main})
}

func TestScripts(t *testing.T) {
	testscript.Run(t, testscript.Params{
		Dir:                 "cli/testdata/script",
		RequireExplicitExec: true,
		RequireUniqueNames:  true,
		Setup: func(e *testscript.Env) error {
			// What is remembered of repositories and areas is the script's own.
			own := filepath.Join(e.WorkDir, ".xdg")
			e.Setenv("XDG_CONFIG_HOME", filepath.Join(own, "config"))
			e.Setenv("XDG_STATE_HOME", filepath.Join(own, "state"))
			e.Setenv("XDG_CACHE_HOME", filepath.Join(own, "cache"))
			return noServer(e)
		},
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			"exits": exits, "data": data, "poke": poke, "flip": flip, "cut": cut, "same": same, "json": checkJSON, "await": await, "gone": gone, "serve": serve,
		},
		Condition: func(c string) (bool, error) {
			switch name, arg, _ := strings.Cut(c, ":"); name {
			case "tool":
				_, err := exec.LookPath(arg)
				if err != nil && os.Getenv("TARVM_REQUIRE_TOOLS") == "1" {
					return false, fmt.Errorf("%s is missing, and TARVM_REQUIRE_TOOLS is 1", arg)
				}
				return err == nil, nil
			case "mounts":
				dir, err := os.MkdirTemp("", "")
				if err != nil {
					return false, err
				}
				defer os.Remove(dir)
				return exec.Command("unshare", "-m", "mount", "-t", "tmpfs", "tarvm-test", dir).Run() == nil, nil
			}
			return false, fmt.Errorf("unknown condition %q", c)
		},
	})
}

// exits CODE PROGRAM ARGS...: runs a program and compares its exit code.
func exits(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 2 {
		ts.Fatalf("usage: exits CODE PROGRAM ARGS...")
	}
	code := 0
	var ee *exec.ExitError
	if err := ts.Exec(args[1], args[2:]...); errors.As(err, &ee) {
		code = ee.ExitCode()
	} else {
		ts.Check(err)
	}
	if strconv.Itoa(code) != args[0] {
		ts.Fatalf("exit code %d, want %s", code, args[0])
	}
}

func number(ts *testscript.TestScript, s string) int64 {
	n, err := strconv.ParseInt(s, 0, 64)
	ts.Check(err)
	return n
}

// day is the time of files that data makes.
var day = time.Date(2026, 5, 1, 12, 0, 0, 0, time.UTC)

// bytesOf makes data that only the seed decides, half of which compresses.
func bytesOf(seed, n int64) []byte {
	b := make([]byte, n)
	r := rand.New(rand.NewPCG(uint64(seed), 3))
	for i := range b {
		if i%512 < 256 {
			b[i] = byte(r.Uint32())
		}
	}
	return b
}

// data FILE SIZE SEED [HOLE]: makes a file; HOLE bytes follow that are a hole.
func data(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 3 {
		ts.Fatalf("usage: data FILE SIZE SEED [HOLE]")
	}
	path, n := ts.MkAbs(args[0]), number(ts, args[1])
	ts.Check(os.MkdirAll(filepath.Dir(path), 0o755))
	ts.Check(os.WriteFile(path, bytesOf(number(ts, args[2]), n), 0o644))
	if len(args) > 3 {
		ts.Check(os.Truncate(path, n+number(ts, args[3])))
	}
	ts.Check(os.Chtimes(path, day, day))
}

// poke FILE OFFSET SIZE SEED: overwrites a part of a file.
func poke(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 4 {
		ts.Fatalf("usage: poke FILE OFFSET SIZE SEED")
	}
	f, err := os.OpenFile(ts.MkAbs(args[0]), os.O_WRONLY, 0)
	ts.Check(err)
	_, err = f.WriteAt(bytesOf(number(ts, args[3]), number(ts, args[2])), number(ts, args[1]))
	ts.Check(errors.Join(err, f.Close()))
}

// flip FILE OFFSET: inverts a bit; an offset below zero counts from the end, and 50% is the middle.
func flip(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 2 {
		ts.Fatalf("usage: flip FILE OFFSET")
	}
	path := ts.MkAbs(args[0])
	b, err := os.ReadFile(path)
	ts.Check(err)
	var off int64
	if p, ok := strings.CutSuffix(args[1], "%"); ok {
		off = int64(len(b)) * number(ts, p) / 100
	} else if off = number(ts, args[1]); off < 0 {
		off += int64(len(b))
	}
	b[off] ^= 4
	ts.Check(os.WriteFile(path, b, 0o644))
}

// cut FILE PERCENT: leaves so much of a file.
func cut(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 2 {
		ts.Fatalf("usage: cut FILE PERCENT")
	}
	path := ts.MkAbs(args[0])
	st, err := os.Stat(path)
	ts.Check(err)
	ts.Check(os.Truncate(path, st.Size()*number(ts, args[1])/100))
}

// same A B: two directories are equal, with metadata.
func same(ts *testscript.TestScript, neg bool, args []string) {
	if len(args) != 2 {
		ts.Fatalf("usage: same A B")
	}
	diffs := archivetest.Diff(ts.MkAbs(args[0]), ts.MkAbs(args[1]))
	if neg == (len(diffs) == 0) {
		ts.Fatalf("%d differences between %s and %s:\n%s", len(diffs), args[0], args[1], strings.Join(diffs, "\n"))
	}
}

// json PATH [VALUE]: what the last command wrote to standard output is one JSON object, in which PATH (keys and
// indexes joined by dots; length of a list) has VALUE, or with ! is not there.
func checkJSON(ts *testscript.TestScript, neg bool, args []string) {
	if len(args) < 1 || len(args) > 2 {
		ts.Fatalf("usage: json PATH [VALUE]")
	}
	var v any
	if err := json.Unmarshal([]byte(ts.ReadFile("stdout")), &v); err != nil {
		ts.Fatalf("standard output is no JSON object: %v", err)
	}
	found := true
	for _, k := range strings.Split(args[0], ".") {
		switch o := v.(type) {
		case map[string]any:
			v, found = o[k]
		case []any:
			i, err := strconv.Atoi(k)
			switch {
			case k == "length":
				v = float64(len(o))
			case err == nil && i < len(o):
				v = o[i]
			default:
				found = false
			}
		default:
			found = false
		}
		if !found {
			break
		}
	}
	got := fmt.Sprint(v)
	if f, ok := v.(float64); ok {
		got = strconv.FormatFloat(f, 'f', -1, 64)
	}
	if neg {
		if found && (len(args) == 1 || got == args[1]) {
			ts.Fatalf("%s is %s", args[0], got)
		}
		return
	}
	if !found {
		ts.Fatalf("there is no %s", args[0])
	}
	if len(args) == 2 && got != args[1] {
		ts.Fatalf("%s is %s, want %s", args[0], got, args[1])
	}
}

// await PATTERN: waits until a file is there that matches.
func await(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 1 {
		ts.Fatalf("usage: await PATTERN")
	}
	for range 300 {
		list, err := filepath.Glob(ts.MkAbs(args[0]))
		ts.Check(err)
		if len(list) > 0 {
			return
		}
		time.Sleep(20 * time.Millisecond)
	}
	ts.Fatalf("nothing matches %s", args[0])
}

// gone PATTERN...: no file matches, among hidden ones, too.
func gone(ts *testscript.TestScript, neg bool, args []string) {
	for _, p := range args {
		list, err := filepath.Glob(ts.MkAbs(p))
		ts.Check(err)
		if neg == (len(list) == 0) {
			ts.Fatalf("%s: %q", p, list)
		}
	}
}
