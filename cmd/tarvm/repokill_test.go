package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"tarvm/archive/archivetest"
	codecs "tarvm/archive/codec/all"
	"tarvm/archive/repo"
	"tarvm/formats/all"
)

// memoryDir is a temporary directory in memory, where there is one: what is killed here is processes, not the power, and
// hundreds of them sync all that they write.
func memoryDir(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("/dev/shm", "tarvm-test-*")
	if err != nil {
		return t.TempDir()
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	return dir
}

// A killing is a repository on which commands are killed, while another writer and a reader work on it.
type killing struct {
	*testing.T
	dir  string
	r    *repo.Repo
	rnd  *rand.Rand
	took map[string]time.Duration // by what a command does
	// stable are the names of entries that nobody removes. Of these some get other archives.
	stable []string
	saves  int
	kills  int
}

func (k *killing) path(p string) string { return filepath.Join(k.dir, p) }

func (k *killing) ok(err error) {
	k.Helper()
	if err != nil {
		k.Fatal(err)
	}
}

// machine makes a machine of about a megabyte, of which a few blocks are the state's own.
func (k *killing) machine(name string, seed, state int64) {
	k.Helper()
	dir := k.path(name)
	k.ok(os.MkdirAll(dir, 0o755))
	disk := bytesOf(seed, 1<<20)
	copy(disk[(state%15)<<16:], bytesOf(1000+state, 70_000))
	k.ok(os.WriteFile(filepath.Join(dir, "disk.raw"), disk, 0o644))
	k.ok(os.WriteFile(filepath.Join(dir, "notes"), fmt.Append(nil, "state ", state), 0o644))
}

// command runs the command to its end, or kills it at a random moment.
func (k *killing) command(kill bool, args ...string) (done bool) {
	k.Helper()
	exe, err := os.Executable()
	k.ok(err)
	cmd := exec.Command(exe, args...)
	cmd.Env = k.environment()
	var out bytes.Buffer
	cmd.Stderr = &out
	began := time.Now()
	var changes *watch
	if kill && k.rnd.IntN(2) > 0 {
		changes = k.watch()
	}
	k.ok(cmd.Start())
	switch {
	case changes != nil:
		// What changes the repository takes a small part of the time: some time behind one of the changes.
		at, later := 1+k.rnd.IntN(5), time.Duration(k.rnd.IntN(2)*k.rnd.IntN(200))*time.Microsecond
		go func() {
			if changes.wait(at) {
				if later > 0 {
					time.Sleep(later)
				}
				_ = cmd.Process.Kill()
			}
		}()
		defer changes.close()
	case kill:
		took := k.took[args[0]]
		// Less than the first part is the program's start.
		timer := time.AfterFunc(took/8+time.Duration(k.rnd.Int64N(int64(took))), func() { _ = cmd.Process.Kill() })
		defer timer.Stop()
	}
	err = cmd.Wait()
	switch {
	case err == nil:
		if was := k.took[args[0]]; was == 0 || time.Since(began) < was {
			k.took[args[0]] = time.Since(began)
		}
		return true
	case kill && cmd.ProcessState.ExitCode() == -1:
		k.kills++
		return false
	}
	k.Fatalf("tarvm %q: %v: %s", args, err, out.String())
	return false
}

func (k *killing) environment() []string {
	return append(os.Environ(), envMain+"=1", "TMPDIR="+k.path("temp"), "XDG_CONFIG_HOME="+k.path("config"), "XDG_STATE_HOME="+k.path("state"),
		"TARVM_REPO="+k.path("repo"), "GOMAXPROCS=2")
}

// forest returns what is there, and makes sure that what must be there is.
func (k *killing) forest(want ...string) *repo.Forest {
	k.Helper()
	r, err := repo.OpenDir(context.Background(), k.path("repo"), k.options())
	k.ok(err)
	f, err := r.Forest(context.Background())
	k.ok(err)
	for _, name := range slices.Concat(k.stable, want) {
		if e := named(f, name); e == nil {
			k.Errorf("%s has gone", name)
		} else if _, err := f.Path(e); err != nil {
			k.Error(err)
		}
	}
	return f
}

func (k *killing) options() repo.Options {
	return repo.Options{Codecs: codecs.Codecs(), Formats: all.Disks()}
}

func named(f *repo.Forest, name string) *repo.Entry {
	i := slices.IndexFunc(f.Entries, func(e *repo.Entry) bool { return e.Name == name })
	if i < 0 {
		return nil
	}
	return f.Entries[i]
}

// holds makes sure that a directory is a machine, with the times that it was saved with.
func (k *killing) holds(dir, want string) {
	k.Helper()
	for _, d := range archivetest.Diff(k.path(want), k.path(dir)) {
		k.Errorf("%s is not %s: %s", dir, want, d)
	}
}

// write is another writer: it saves a machine of its own into a project of its own, and removes what it saved before.
func (k *killing) write(ctx context.Context, project string, seed int64, rnd *rand.Rand) error {
	vm := k.path(project)
	f, err := k.r.Forest(ctx)
	if err != nil {
		return err
	}
	for n := int64(0); ; n++ {
		if ctx.Err() != nil {
			return nil
		}
		disk := bytesOf(seed, 300_000)
		copy(disk[n%4<<16:], bytesOf(n, 1000))
		if err := os.WriteFile(filepath.Join(vm, "disk.raw"), disk, 0o644); err != nil {
			return err
		}
		res, err := k.r.Save(context.WithoutCancel(ctx), vm, repo.SaveOptions{Project: project, Parent: f.Latest(project), Force: true})
		if err != nil {
			return fmt.Errorf("writer %s: %w", project, err)
		}
		if f, err = k.r.Forest(context.WithoutCancel(ctx)); err != nil {
			return err
		}
		if e, err := f.Find(res.Entry.Ref()); err != nil || e.ID != res.Entry.ID {
			return fmt.Errorf("%s of writer %s has gone: %w", res.Entry, project, err)
		}
		if n%5 == 4 {
			var mine []*repo.Entry
			for _, e := range f.Entries {
				if e.Project == project {
					mine = append(mine, e)
				}
			}
			if _, err := k.r.Remove(context.WithoutCancel(ctx), mine, repo.RemoveOptions{}); err != nil {
				return fmt.Errorf("writer %s: %w", project, err)
			}
			if f, err = k.r.Forest(context.WithoutCancel(ctx)); err != nil {
				return err
			}
		}
		time.Sleep(time.Duration(rnd.IntN(120)) * time.Millisecond)
	}
}

// read is the reader: what is stable can be read at any moment.
func (k *killing) read(ctx context.Context) error {
	for n := 0; ctx.Err() == nil; n++ {
		f, err := k.r.Forest(context.WithoutCancel(ctx))
		if err != nil {
			return err
		}
		for _, p := range f.Problems {
			return fmt.Errorf("the reader: %s", p)
		}
		name := k.stable[n%len(k.stable)]
		e := named(f, name)
		if e == nil {
			return fmt.Errorf("the reader does not see %s", name)
		}
		rd, err := k.r.Read(context.WithoutCancel(ctx), f, e)
		if err != nil {
			return fmt.Errorf("the reader: %w", err)
		}
		if rd.Snapshot(rd.Head()).ID != e.ID {
			err = fmt.Errorf("the reader wants %s", name)
		}
		if err = errors.Join(err, rd.Close()); err != nil {
			return err
		}
		time.Sleep(5 * time.Millisecond)
	}
	return nil
}

// A victim is a command that is killed.
func (k *killing) victim(n int) {
	k.Helper()
	ctx := context.Background()
	switch n % 5 {
	case 0: // save
		k.saves++
		name := fmt.Sprint("s", k.saves)
		k.machine("vm", 1, int64(100+k.saves))
		if k.command(k.took["save"] > 0, "save", k.path("vm"), "--name", name, "--project", "victim", "-q") {
			k.forest(name)
		}
		k.forest()
	case 1: // restore, over the other state
		name := k.stable[n/5%2]
		done := k.command(k.took["restore"] > 0, "restore", name, k.path("out"), "--discard", "-q")
		if !done {
			f := k.forest()
			_, err := k.r.Restore(ctx, f, named(f, name), k.path("out"), repo.RestoreOptions{Discard: true})
			k.ok(err)
		}
		k.holds("out", name)
	case 2: // rm of what was saved
		var gone []string
		for _, e := range k.forest().Entries {
			if e.Project == "victim" {
				gone = append(gone, e.Ref())
			}
		}
		if len(gone) < 3 {
			return
		}
		if k.command(k.took["rm"] > 0, append([]string{"rm", "-q"}, gone...)...) {
			if f := k.forest(); slices.ContainsFunc(f.Entries, func(e *repo.Entry) bool { return e.Project == "victim" }) {
				k.Error("what was removed is there")
			}
		}
		k.forest()
	case 3: // merge: another archive for the last of the stable ones
		codec := []string{"zstd", "lz4", "gzip"}[n/5%3]
		k.command(k.took["merge"] > 0, "merge", k.stable[len(k.stable)-1], "--codec", codec, "-q")
		k.forest()
	case 4: // import of two entries
		f := k.forest()
		var es []*repo.Entry
		for _, e := range f.Entries {
			if e.Project == "imported" {
				es = append(es, e)
			}
		}
		if len(es) == 2 {
			_, err := k.r.Remove(ctx, es, repo.RemoveOptions{})
			k.ok(err)
		}
		if k.command(k.took["import"] > 0, "import", k.path("export"), "-q") {
			k.forest("x1", "x2")
		}
		k.forest()
	}
}

// check reads everything, and makes sure that nothing is left that does not belong there when the next writer is through.
func (k *killing) check() {
	k.Helper()
	ctx := context.Background()
	k.ok(k.r.SetPlace(ctx, repo.Place{Name: fmt.Sprint("p", k.rnd.IntN(1000)), Dir: k.path("place")}))
	_, err := k.r.Reindex(ctx)
	k.ok(err)
	rep, err := k.r.Check(ctx, repo.CheckOptions{Read: true})
	k.ok(err)
	for _, p := range rep.Problems {
		k.Errorf("problem: %s", p)
	}
	if rep.Stale {
		k.Error("the index is stale")
	}
	k.forest()
	for _, dir := range []string{"repo", "temp"} {
		k.ok(filepath.WalkDir(k.path(dir), func(p string, d fs.DirEntry, err error) error {
			if err == nil && (strings.HasPrefix(d.Name(), ".") || filepath.Base(filepath.Dir(p)) == "tmp" || dir == "temp" && p != k.path("temp")) {
				k.Errorf("left: %s", p)
			}
			return err
		}))
	}
}

// checkNow reads everything while others write.
func (k *killing) checkNow() {
	k.Helper()
	rep, err := k.r.Check(context.Background(), repo.CheckOptions{Read: true})
	k.ok(err)
	for _, p := range rep.Problems {
		// What others remove while it is looked at is no problem of those that stay.
		if strings.Contains(p.File, "entries/stable/") && !strings.Contains(p.What, "another archive has taken its place") {
			k.Errorf("problem: %s", p)
		}
	}
}

// TestKillRepository kills savings, restores, removals, merges and imports, while two other writers and a reader work on the
// same repository.
func TestKillRepository(t *testing.T) {
	kills := 500
	if testing.Short() || archivetest.Race {
		kills = 15
	}
	const lanes = 2
	for lane := range lanes {
		t.Run(fmt.Sprint(lane), func(t *testing.T) {
			t.Parallel()
			k := &killing{T: t, dir: memoryDir(t), rnd: rand.New(rand.NewPCG(9, uint64(lane))), took: make(map[string]time.Duration)}
			k.prepare()
			ctx, cancel := context.WithCancel(context.Background())
			defer cancel()
			var wg sync.WaitGroup
			ended := make(chan error, 3)
			for i, project := range []string{"first", "second"} {
				wg.Go(func() { ended <- k.write(ctx, project, int64(50+i), rand.New(rand.NewPCG(uint64(10+i), uint64(lane)))) })
			}
			wg.Go(func() { ended <- k.read(ctx) })
			n := 0
			for ; k.kills < (kills+lanes-1)/lanes && !t.Failed(); n++ {
				k.victim(n)
				select {
				case err := <-ended:
					t.Error(err)
				default:
				}
				if n%150 == 149 {
					k.checkNow()
				}
				if n > 4*kills {
					t.Errorf("of %d commands %d were killed", n, k.kills)
				}
			}
			cancel()
			wg.Wait()
			for len(ended) > 0 {
				if err := <-ended; err != nil {
					t.Error(err)
				}
			}
			k.check()
			t.Logf("killed %d of %d", k.kills, n)
		})
	}
}

// prepare makes the repository with its stable entries, and a file to import.
func (k *killing) prepare() {
	k.Helper()
	ctx := context.Background()
	for _, dir := range []string{"temp", "first", "second"} {
		k.ok(os.MkdirAll(k.path(dir), 0o755))
	}
	other, err := repo.CreateDir(ctx, k.path("other"), k.options())
	k.ok(err)
	k.r, err = repo.CreateDir(ctx, k.path("repo"), k.options())
	k.ok(err)
	var parent, last *repo.Entry
	for i := range int64(3) {
		name := fmt.Sprint("stable", i)
		k.machine(name, 1, i)
		k.stable = append(k.stable, name)
		res, err := k.r.Save(ctx, k.path(name), repo.SaveOptions{Project: "stable", Parent: parent})
		k.ok(err)
		parent = res.Entry
	}
	for i := range int64(2) {
		name := fmt.Sprint("x", i+1)
		k.machine(name, 7, 20+i)
		res, err := other.Save(ctx, k.path(name), repo.SaveOptions{Project: "imported", Parent: last})
		k.ok(err)
		last = res.Entry
	}
	f, err := other.Forest(ctx)
	k.ok(err)
	var b bytes.Buffer
	_, err = other.Export(ctx, f, last, &b, repo.ExportOptions{})
	k.ok(err)
	k.ok(os.WriteFile(k.path("export"), b.Bytes(), 0o644))
}
