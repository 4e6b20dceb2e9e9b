package vmdir_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"tarvm/archive/archivetest"
	"tarvm/archive/vmdir"
	"tarvm/formats/all"
	"tarvm/manifest"
)

func run(tb testing.TB, name string, args ...string) string {
	tb.Helper()
	out, err := exec.Command(archivetest.Tool(tb, name), args...).CombinedOutput()
	if err != nil {
		tb.Fatalf("%s %q: %v\n%s", name, args, err, out)
	}
	return string(out)
}

func must(tb testing.TB, err error) {
	tb.Helper()
	if err != nil {
		tb.Fatal(err)
	}
}

func openRoot(tb testing.TB, dir string) *os.Root {
	tb.Helper()
	root, err := os.OpenRoot(dir)
	must(tb, err)
	tb.Cleanup(func() { root.Close() })
	return root
}

// tree makes files below a new directory; a name that ends with a slash is a directory.
func tree(tb testing.TB, names ...string) string {
	tb.Helper()
	dir := tb.TempDir()
	for _, n := range names {
		p := filepath.Join(dir, filepath.FromSlash(n))
		if strings.HasSuffix(n, "/") {
			must(tb, os.MkdirAll(p, 0o755))
			continue
		}
		must(tb, os.MkdirAll(filepath.Dir(p), 0o755))
		must(tb, os.WriteFile(p, []byte(n), 0o644))
	}
	return dir
}

func walk(tb testing.TB, dir string, o vmdir.WalkOptions) []vmdir.Entry {
	tb.Helper()
	entries, err := vmdir.Walk(context.Background(), openRoot(tb, dir), o)
	must(tb, err)
	return entries
}

func paths(entries []vmdir.Entry) []string {
	var list []string
	for i := range entries {
		list = append(list, string(entries[i].Path))
	}
	return list
}

func find(tb testing.TB, entries []vmdir.Entry, p string) *vmdir.Entry {
	tb.Helper()
	for i := range entries {
		if string(entries[i].Path) == p {
			return &entries[i]
		}
	}
	tb.Fatalf("no entry %s in %q", p, paths(entries))
	return nil
}

func TestWalkOrder(t *testing.T) {
	// By bytes: upper case before lower, '-' and '.' before '/': a directory's content follows it
	// even when a sibling's name sorts in between.
	dir := tree(t, "b/2", "b/10", "b/1/x", "b-c", "b.d", "B", "a", "é", "e/")
	want := []string{".", "B", "a", "b", "b/1", "b/1/x", "b/10", "b/2", "b-c", "b.d", "e", "é"}
	// Siblings by name: "b" < "b-c" < "b.d", so that b's content comes first.
	if got := paths(walk(t, dir, vmdir.WalkOptions{})); !slices.Equal(got, want) {
		t.Errorf("got  %q\nwant %q", got, want)
	}
}

func TestWalkDeep(t *testing.T) {
	dir := t.TempDir()
	p := dir
	var want []string
	for rel, i := "", 0; i < 200; i++ {
		p = filepath.Join(p, "m")
		rel += "m"
		want = append(want, rel)
		must(t, os.Mkdir(p, 0o755))
		rel += "/"
	}
	// Files that sort behind the directories on every level are listed on the way back.
	for d, i := dir, 0; i < 200; i++ {
		must(t, os.WriteFile(filepath.Join(d, "z"), nil, 0o644))
		d = filepath.Join(d, "m")
	}
	want = append([]string{"."}, want...)
	for i := 199; i >= 0; i-- {
		want = append(want, strings.Repeat("m/", i)+"z")
	}
	if got := paths(walk(t, dir, vmdir.WalkOptions{})); !slices.Equal(got, want) {
		t.Errorf("%d entries, want %d", len(got), len(want))
	}
}

func TestWalkExclude(t *testing.T) {
	dir := tree(t, "keep", "a/vm.log", "a/sub/vm.log", "cache/x/y", "b/cache/z", "top", "b/top")
	got := paths(walk(t, dir, vmdir.WalkOptions{Exclude: []string{"*.log", "cache", "/top"}}))
	want := []string{".", "a", "a/sub", "b", "b/top", "keep"}
	if !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
	if _, err := vmdir.Walk(context.Background(), openRoot(t, dir), vmdir.WalkOptions{Exclude: []string{"["}}); err == nil {
		t.Error("bad pattern accepted")
	}
}

func TestWalkReserved(t *testing.T) {
	dir := tree(t, ".tarvm/entry.json", "x", "sub/.tarvm/ok")
	root := openRoot(t, dir)
	if _, err := vmdir.Walk(context.Background(), root, vmdir.WalkOptions{}); !errors.Is(err, vmdir.ErrReserved) {
		t.Errorf("got %v, want ErrReserved", err)
	}
	got := paths(walk(t, dir, vmdir.WalkOptions{Exclude: []string{"/.tarvm"}}))
	if want := []string{".", "sub", "sub/.tarvm", "sub/.tarvm/ok", "x"}; !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
	must(t, os.Mkdir(filepath.Join(dir, ".tarvm-restore"), 0o755))
	if _, err := vmdir.Walk(context.Background(), root, vmdir.WalkOptions{Exclude: []string{"*"}}); !errors.Is(err, vmdir.ErrInterrupted) {
		t.Errorf("got %v, want ErrInterrupted", err)
	}
}

func TestWalkCancel(t *testing.T) {
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if _, err := vmdir.Walk(ctx, openRoot(t, tree(t, "a")), vmdir.WalkOptions{}); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
}

func TestWalkLockFiles(t *testing.T) {
	dir := tree(t, "vm.vmdk.lck/M12345.lck", "vm.vmx.lck/", ".lck-0123ab", ".lck-file", "Cargo.lock", "data.lckx")
	must(t, os.WriteFile(filepath.Join(dir, "empty.lock"), nil, 0o644))
	entries := walk(t, dir, vmdir.WalkOptions{})
	for p, want := range map[string]struct {
		role    manifest.Role
		skipped bool
	}{
		"vm.vmdk.lck":            {manifest.RoleLock, true},
		"vm.vmdk.lck/M12345.lck": {manifest.RoleLock, true},
		"vm.vmx.lck":             {manifest.RoleLock, true},
		".lck-0123ab":            {manifest.RoleLock, true},
		".lck-file":              {manifest.RoleOther, false},
		"Cargo.lock":             {manifest.RoleOther, false},
		"empty.lock":             {manifest.RoleLock, false},
		"data.lckx":              {manifest.RoleOther, false},
	} {
		if e := find(t, entries, p); e.Role != want.role || (e.Skipped != "") != want.skipped {
			t.Errorf("%s: role %q, skipped %q, want %v", p, e.Role, e.Skipped, want)
		}
	}
}

func TestWalkStable(t *testing.T) {
	dir := tree(t, "a", "b/c", "b/d/e", "f")
	o := vmdir.WalkOptions{Formats: all.Disks()}
	if a, b := walk(t, dir, o), walk(t, dir, o); !reflect.DeepEqual(a, b) {
		t.Error("two walks differ")
	}
}

func TestOpenReadRefusesWhatIsNoFile(t *testing.T) {
	dir := tree(t, "d/f", "f")
	root := openRoot(t, dir)
	if err := os.Symlink("f", filepath.Join(dir, "l")); err != nil {
		t.Skip(err)
	}
	must(t, os.Symlink("d", filepath.Join(dir, "ld")))
	for _, p := range []string{"l", "d", "ld/f", "f/x"} {
		if f, err := vmdir.OpenRead(root, &vmdir.Entry{Member: manifest.Member{State: manifest.State{Path: manifest.Path(p)}}}); !errors.Is(err, vmdir.ErrReplaced) {
			t.Errorf("OpenRead(%q) = %v, %v, want ErrReplaced", p, f, err)
		}
	}
	for _, p := range []string{"", "..", "../x", "/etc/passwd", "d/../f", "d//f", "d/.", "f\x00"} {
		f, err := vmdir.OpenRead(root, &vmdir.Entry{Member: manifest.Member{State: manifest.State{Path: manifest.Path(p)}}})
		if !errors.Is(err, fs.ErrInvalid) {
			t.Errorf("OpenRead(%q) = %v, %v, want fs.ErrInvalid", p, f, err)
		}
	}
	f, err := vmdir.OpenRead(root, find(t, walk(t, dir, vmdir.WalkOptions{}), "d/f"))
	must(t, err)
	f.Close()
}

func TestErrorsNameThePathOnce(t *testing.T) {
	_, err := vmdir.OpenRead(openRoot(t, t.TempDir()), &vmdir.Entry{Member: manifest.Member{State: manifest.State{Path: "a/missing"}}})
	if !errors.Is(err, fs.ErrNotExist) || strings.Count(err.Error(), "a/missing") != 1 {
		t.Errorf("got %v", err)
	}
}

func TestChanged(t *testing.T) {
	dir := tree(t, "f")
	p := filepath.Join(dir, "f")
	root := openRoot(t, dir)
	past := time.Now().Add(-time.Hour).Truncate(time.Second)
	must(t, os.Chtimes(p, past, past))
	e := find(t, walk(t, dir, vmdir.WalkOptions{}), "f")
	f, err := vmdir.OpenRead(root, e)
	must(t, err)
	defer f.Close()
	check := func(what string, want bool) {
		t.Helper()
		if got, err := vmdir.Changed(f, e); err != nil || got != want {
			t.Errorf("%s: Changed = %v, %v, want %v", what, got, err, want)
		}
	}
	check("untouched", false)
	_, err = f.ReadAt(make([]byte, 1), 0)
	must(t, err)
	check("read", false)

	must(t, os.WriteFile(p, []byte("longer content"), 0o644))
	check("rewritten", true)
	must(t, vmdir.Refresh(root, e))
	if e.Size != 14 {
		t.Errorf("size %d after Refresh", e.Size)
	}
	check("refreshed", false)

	if runtime.GOOS != "windows" {
		// Same size and modification time: the change time tells.
		time.Sleep(20 * time.Millisecond)
		must(t, os.WriteFile(p, []byte("LONGER content"), 0o644))
		must(t, os.Chtimes(p, past, e.ModTime.Time))
		check("rewritten and touched", true)
		must(t, vmdir.Refresh(root, e))

		// Another file under the same name, alike in all else.
		must(t, os.WriteFile(p+".new", []byte("longer CONTENT"), 0o644))
		must(t, os.Chtimes(p+".new", past, e.ModTime.Time))
		must(t, os.Rename(p+".new", p))
		check("replaced", true)
	}
	must(t, os.Remove(p))
	if err := vmdir.Refresh(root, e); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("Refresh of nothing: %v", err)
	}
	must(t, os.Mkdir(p, 0o755))
	if err := vmdir.Refresh(root, e); !errors.Is(err, vmdir.ErrReplaced) {
		t.Errorf("Refresh of a directory: %v", err)
	}
}

func TestRefreshKeepsHints(t *testing.T) {
	dir := tree(t, "vm.log")
	e := find(t, walk(t, dir, vmdir.WalkOptions{}), "vm.log")
	e.Phase, e.Format = 512, "x"
	must(t, os.WriteFile(filepath.Join(dir, "vm.log"), bytes.Repeat([]byte("x"), 99), 0o600))
	must(t, vmdir.Refresh(openRoot(t, dir), e))
	if e.Role != manifest.RoleLog || e.Phase != 512 || e.Format != "x" || e.Size != 99 {
		t.Errorf("%+v", e)
	}
}

// makeMany makes n small files in directories of a thousand.
func makeMany(tb testing.TB, n int) string {
	tb.Helper()
	dir := tb.TempDir()
	for i := range n {
		d := filepath.Join(dir, fmt.Sprintf("d%03d", i/1000))
		if i%1000 == 0 {
			must(tb, os.Mkdir(d, 0o755))
		}
		f, err := os.Create(filepath.Join(d, fmt.Sprintf("file%03d.txt", i%1000)))
		must(tb, err)
		must(tb, f.Close())
	}
	return dir
}

// Small files only, as in a directory that holds more than a machine: none is opened.
func BenchmarkWalk200000(b *testing.B) {
	dir := makeMany(b, 200_000)
	root := openRoot(b, dir)
	o := vmdir.WalkOptions{Formats: all.Disks()}
	b.ReportAllocs()
	for b.Loop() {
		entries, err := vmdir.Walk(context.Background(), root, o)
		if err != nil || len(entries) != 200_201 {
			b.Fatal(len(entries), err)
		}
	}
}
