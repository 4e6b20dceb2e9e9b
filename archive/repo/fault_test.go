package repo_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"

	"tarvm/archive"
	"tarvm/archive/archivetest"
	"tarvm/archive/chain"
	codecs "tarvm/archive/codec/all"
	"tarvm/archive/repo"
	"tarvm/delta"
	"tarvm/formats/all"
)

// A faulty medium fails one call, with err. What can be done before it fails (a file that has its name, one that has gone)
// is done when late is set: the answer got lost. Then it works again, as a disk does on which somebody made room.
type faulty struct {
	repo.Medium
	at    int64
	err   error
	late  bool
	calls atomic.Int64
	what  string // the call that failed
}

// fail counts a call, and returns whether this is the one.
func (m *faulty) fail(op, name string) error {
	if m.calls.Add(1) != m.at {
		return nil
	}
	m.what = op + " " + name
	return &fs.PathError{Op: op, Path: name, Err: m.err}
}

// change does what changes the medium.
func (m *faulty) change(op, name string, do func() error) error {
	err := m.fail(op, name)
	if err != nil && !m.late {
		return err
	}
	return errors.Join(do(), err)
}

func (m *faulty) List(ctx context.Context, dir string) ([]repo.Name, error) {
	if err := m.fail("list", dir); err != nil {
		return nil, err
	}
	return m.Medium.List(ctx, dir)
}

func (m *faulty) Open(ctx context.Context, name string) (repo.Blob, error) {
	if err := m.fail("open", name); err != nil {
		return nil, err
	}
	b, err := m.Medium.Open(ctx, name)
	if err != nil {
		return nil, err
	}
	return &faultyBlob{b, m, name}, nil
}

func (m *faulty) Create(ctx context.Context) (repo.Upload, error) {
	if err := m.fail("create", "upload"); err != nil {
		return nil, err
	}
	u, err := m.Medium.Create(ctx)
	if err != nil {
		return nil, err
	}
	return &faultyUpload{u, m}, nil
}

func (m *faulty) Put(ctx context.Context, name string, b []byte) error {
	return m.change("put", name, func() error { return m.Medium.Put(ctx, name, b) })
}

func (m *faulty) Remove(ctx context.Context, name string) error {
	return m.change("remove", name, func() error { return m.Medium.Remove(ctx, name) })
}

func (m *faulty) Lock(ctx context.Context, o repo.Owner, wait func(repo.Owner)) (func() error, error) {
	if err := m.fail("lock", "lock"); err != nil {
		return nil, err
	}
	return m.Medium.Lock(ctx, o, wait)
}

func (m *faulty) Sweep(ctx context.Context) error {
	if err := m.fail("sweep", "tmp"); err != nil {
		return err
	}
	return m.Medium.Sweep(ctx)
}

type faultyBlob struct {
	repo.Blob
	m    *faulty
	name string
}

func (b *faultyBlob) ReadAt(p []byte, off int64) (int, error) {
	if err := b.m.fail("read", b.name); err != nil {
		n, _ := b.Blob.ReadAt(p[:len(p)/2], off)
		return n, err
	}
	return b.Blob.ReadAt(p, off)
}

type faultyUpload struct {
	repo.Upload
	m *faulty
}

func (u *faultyUpload) Write(p []byte) (int, error) {
	if err := u.m.fail("write", "upload"); err != nil {
		n, _ := u.Upload.Write(p[:len(p)/2])
		return n, err
	}
	return u.Upload.Write(p)
}

func (u *faultyUpload) Open(ctx context.Context) (repo.Blob, error) {
	if err := u.m.fail("open", "upload"); err != nil {
		return nil, err
	}
	b, err := u.Upload.Open(ctx)
	if err != nil {
		return nil, err
	}
	return &faultyBlob{b, u.m, "upload"}, nil
}

func (u *faultyUpload) Commit(ctx context.Context, name string) error {
	err := u.m.change("commit", name, func() error { return u.Upload.Commit(ctx, name) })
	u.Abort()
	return err
}

// A scene is a repository of small machines, in a directory, and what operations on it need.
type scene struct {
	dir string
	r   *repo.Repo
	ids map[int]delta.Digest // of the entries by number
}

func (s *scene) path(p string) string { return filepath.Join(s.dir, p) }

func options() repo.Options { return repo.Options{Codecs: codecs.Codecs(), Formats: all.Disks()} }

func small() archive.PackOptions {
	for _, c := range codecs.Codecs() {
		if c.Name() == "none" { // others take large buffers
			return archive.PackOptions{Codec: c, Workers: 1}
		}
	}
	panic("no codec")
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// block is the unit of comparison.
const block = 64 << 10

// machine makes a machine of some files. The states with the numbers from 0 differ in a few blocks, each from all others.
func machine(t testing.TB, dir string, state int) {
	t.Helper()
	must(t, os.MkdirAll(dir, 0o755))
	disk := noise(8*block, 1)
	for i := range state {
		copy(disk[(i+1)*block+1000:], noise(3000, uint64(100+i)))
	}
	must(t, os.WriteFile(filepath.Join(dir, "disk.raw"), disk, 0o644))
	must(t, os.WriteFile(filepath.Join(dir, "notes"), []byte(fmt.Sprint("state ", state)), 0o644))
}

// newScene makes a repository with the entries
//
//	#1 ─ #2 ─ #3 ─ #4
//	      └ #5
//
// and vm, which holds state 5, next, which no entry has, and out, which holds #1.
func newScene(t testing.TB) *scene {
	t.Helper()
	s := &scene{dir: memoryDir(t), ids: make(map[int]delta.Digest)}
	ctx := context.Background()
	r, err := repo.CreateDir(ctx, s.path("repo"), options())
	must(t, err)
	s.r = r
	for i, parent := range []int{0, 1, 2, 3, 2} {
		machine(t, s.path("vm"), i)
		o := repo.SaveOptions{Pack: small(), Project: "p"}
		o.Pack.Name = fmt.Sprint("state ", i)
		f, err := r.Forest(ctx)
		must(t, err)
		if parent > 0 {
			o.Parent = f.Entries[parent-1]
		}
		res, err := r.Save(ctx, s.path("vm"), o)
		must(t, err)
		s.ids[i+1] = res.Entry.ID
	}
	machine(t, s.path("next"), 6)
	f, err := r.Forest(ctx)
	must(t, err)
	_, err = r.Restore(ctx, f, f.Entries[0], s.path("out"), repo.RestoreOptions{})
	must(t, err)
	var b bytes.Buffer
	_, err = r.Export(ctx, f, f.Entries[3], &b, repo.ExportOptions{})
	must(t, err)
	must(t, os.WriteFile(s.path("export"), b.Bytes(), 0o644))
	return s
}

// memoryDir is a temporary directory in memory, where there is one: to sync there costs nothing.
func memoryDir(t testing.TB) string {
	t.Helper()
	dir, err := os.MkdirTemp("/dev/shm", "tarvm-test-*")
	if err != nil {
		return t.TempDir()
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	return dir
}

// copy copies the scene, with its times.
func (s *scene) copy(t testing.TB) *scene {
	t.Helper()
	c := &scene{dir: memoryDir(t), ids: s.ids}
	var dirs []string
	must(t, filepath.WalkDir(s.dir, func(p string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(s.dir, p)
		if rel == "vm" {
			return filepath.SkipDir
		}
		if err != nil || d.IsDir() {
			dirs = append(dirs, rel)
			return errors.Join(err, os.MkdirAll(c.path(rel), 0o755))
		}
		if rel == filepath.Join("repo", "lock") {
			return nil
		}
		if !strings.HasPrefix(rel, "out") { // never changed in place
			return os.Link(p, c.path(rel))
		}
		b, err := os.ReadFile(p)
		if err != nil {
			return err
		}
		st, err := d.Info()
		if err != nil {
			return err
		}
		return errors.Join(os.WriteFile(c.path(rel), b, st.Mode()), os.Chtimes(c.path(rel), st.ModTime(), st.ModTime()))
	}))
	for _, d := range dirs { // when all is in them
		st, err := os.Stat(s.path(d))
		must(t, err)
		must(t, os.Chtimes(c.path(d), st.ModTime(), st.ModTime()))
	}
	var err error
	c.r, err = repo.OpenDir(context.Background(), c.path("repo"), options())
	must(t, err)
	return c
}

// check compares the repository with what it must hold: the entries in want, whole.
func (s *scene) check(t testing.TB, want []int, leftovers bool) *repo.Forest {
	t.Helper()
	ctx := context.Background()
	r, err := repo.OpenDir(ctx, s.path("repo"), options())
	must(t, err)
	rep, err := r.Check(ctx, repo.CheckOptions{Read: true, Workers: 1})
	must(t, err)
	for _, p := range rep.Problems {
		if !leftovers || !strings.Contains(p.What, "another archive has taken its place") {
			t.Errorf("problem: %s", p)
		}
	}
	if rep.Stale && !leftovers {
		t.Error("the index is stale")
	}
	f, err := r.Forest(ctx)
	must(t, err)
	for _, n := range want {
		i := slices.IndexFunc(f.Entries, func(e *repo.Entry) bool { return e.Number == n })
		if i < 0 || f.Entries[i].ID != s.ids[n] {
			t.Errorf("#%d has gone, or is another", n)
		}
	}
	return f
}

// tidy makes sure that nothing is left but what belongs there.
func (s *scene) tidy(t testing.TB) {
	t.Helper()
	must(t, filepath.WalkDir(s.dir, func(p string, d fs.DirEntry, err error) error {
		if err == nil && (strings.HasPrefix(d.Name(), ".") || filepath.Base(filepath.Dir(p)) == "tmp") {
			t.Errorf("left: %s", p)
		}
		return err
	}))
	f, err := s.r.Forest(context.Background())
	must(t, err)
	for _, p := range f.Problems {
		t.Errorf("problem: %s", p)
	}
}

// An operation on a scene.
type operation struct {
	name string
	do   func(ctx context.Context, s *scene, r *repo.Repo) error
	// keeps are the entries that it leaves alone.
	keeps []int
	// done reports whether it was done; nothing of it may be there, either.
	done func(s *scene, f *repo.Forest) bool
}

func numbered(f *repo.Forest, n int) *repo.Entry {
	e, err := f.Find(fmt.Sprintf("#%d", n))
	if err != nil {
		return nil
	}
	return e
}

func operations() []operation {
	all := []int{1, 2, 3, 4, 5}
	// with finds entries first.
	with := func(do func(ctx context.Context, s *scene, r *repo.Repo, f *repo.Forest) error) func(context.Context, *scene, *repo.Repo) error {
		return func(ctx context.Context, s *scene, r *repo.Repo) error {
			f, err := r.Forest(ctx)
			if err != nil {
				return err
			}
			return do(ctx, s, r, f)
		}
	}
	gone := func(f *repo.Forest, ns ...int) bool {
		return !slices.ContainsFunc(ns, func(n int) bool { return numbered(f, n) != nil })
	}
	remove := func(reparent bool, ns ...int) func(context.Context, *scene, *repo.Repo) error {
		return with(func(ctx context.Context, s *scene, r *repo.Repo, f *repo.Forest) error {
			var es []*repo.Entry
			for _, n := range ns {
				if e := numbered(f, n); e != nil {
					es = append(es, e)
				}
			}
			_, err := r.Remove(ctx, es, repo.RemoveOptions{Reparent: reparent, Pack: small()})
			return err
		})
	}
	isFull := func(n int) func(*scene, *repo.Forest) bool {
		return func(_ *scene, f *repo.Forest) bool { return numbered(f, n).Kind == repo.Full }
	}
	relocate := func(name string) func(context.Context, *scene, *repo.Repo) error {
		return with(func(ctx context.Context, s *scene, r *repo.Repo, f *repo.Forest) error {
			_, err := r.Relocate(ctx, f, f.Entries[1:3], repo.RelocateOptions{Place: repo.Place{Name: name, Dir: s.path("place " + name)}})
			return err
		})
	}
	return []operation{
		{"save", func(ctx context.Context, s *scene, r *repo.Repo) error {
			_, err := r.Save(ctx, s.path("next"), repo.SaveOptions{Pack: small(), Project: "other"})
			return err
		}, all, func(_ *scene, f *repo.Forest) bool { return len(f.Entries) == 6 }},
		{"restore", with(func(ctx context.Context, s *scene, r *repo.Repo, f *repo.Forest) error {
			o := repo.RestoreOptions{}
			o.NoSync = true
			_, err := r.Restore(ctx, f, f.Entries[3], s.path("out"), o)
			return err
		}), all, nil},
		{"rm", remove(false, 2, 3, 4, 5), []int{1}, func(_ *scene, f *repo.Forest) bool { return gone(f, 2, 3, 4, 5) }},
		{"rm --reparent", remove(true, 2), []int{1, 3, 4, 5}, func(_ *scene, f *repo.Forest) bool { return gone(f, 2) }},
		{"merge", with(func(ctx context.Context, s *scene, r *repo.Repo, f *repo.Forest) error {
			_, err := r.Merge(ctx, f, numbered(f, 3), nil, repo.MergeOptions{Pack: small()})
			return err
		}), all, isFull(3)},
		{"merge to another codec", with(func(ctx context.Context, s *scene, r *repo.Repo, f *repo.Forest) error {
			po := small()
			po.Codec = nil
			for _, c := range codecs.Codecs() {
				if c.Name() == "lz4" {
					po.Codec = c
				}
			}
			_, err := r.Merge(ctx, f, numbered(f, 3), nil, repo.MergeOptions{Pack: po})
			return err
		}), all, isFull(3)},
		{"squash", with(func(ctx context.Context, s *scene, r *repo.Repo, f *repo.Forest) error {
			if numbered(f, 3) == nil {
				return nil
			}
			_, err := r.Squash(ctx, f, numbered(f, 3), numbered(f, 4), repo.MergeOptions{Pack: small()})
			if numbered(f, 4).Parent.ID == s.ids[2] { // what was merged before
				_, err = r.Remove(ctx, []*repo.Entry{numbered(f, 3)}, repo.RemoveOptions{})
			}
			return err
		}), []int{1, 2, 4, 5}, func(_ *scene, f *repo.Forest) bool { return gone(f, 3) }},
		{"import", func(ctx context.Context, s *scene, r *repo.Repo) error {
			b, err := os.ReadFile(s.path("export"))
			if err != nil {
				return err
			}
			f, err := r.Forest(ctx)
			if err != nil {
				return err
			}
			// Of what is exported, two are not there.
			if e := numbered(f, 4); e != nil {
				if _, err := r.Remove(ctx, []*repo.Entry{numbered(f, 3), e}, repo.RemoveOptions{}); err != nil {
					return err
				}
			}
			_, err = r.Import(ctx, bytes.NewReader(b), repo.ImportOptions{Workers: 1})
			return err
		}, []int{1, 2, 5}, func(s *scene, f *repo.Forest) bool { return f.ByDigest(s.ids[4], delta.Digest{}) != nil }},
		{"export", with(func(ctx context.Context, s *scene, r *repo.Repo, f *repo.Forest) error {
			_, err := r.Export(ctx, f, f.Entries[3], io.Discard, repo.ExportOptions{})
			return err
		}), all, nil},
		{"relocate", relocate("a"), all, func(_ *scene, f *repo.Forest) bool { return f.Entries[1].Missing && f.Entries[2].Missing }},
		{"relocate there and back", func(ctx context.Context, s *scene, r *repo.Repo) error {
			return errors.Join(relocate("a")(ctx, s, r), relocate("b")(ctx, s, r), relocate("")(ctx, s, r))
		}, all, nil},
		{"rm of what is elsewhere", func(ctx context.Context, s *scene, r *repo.Repo) error {
			f, err := r.Forest(ctx)
			if err != nil {
				return err
			}
			if numbered(f, 4) != nil && numbered(f, 3) != nil && numbered(f, 2) != nil {
				if err := relocate("a")(ctx, s, r); err != nil {
					return err
				}
			}
			return remove(false, 2, 3, 4, 5)(ctx, s, r)
		}, []int{1}, func(_ *scene, f *repo.Forest) bool { return gone(f, 2, 3, 4, 5) }},
		{"evict", with(func(ctx context.Context, s *scene, r *repo.Repo, f *repo.Forest) error {
			e := f.Entries[0]
			if e.Missing {
				return nil
			}
			b, err := os.ReadFile(s.path(filepath.Join("repo", e.File)))
			if err != nil {
				return err
			}
			return r.Evict(ctx, e, catalogued(e, b))
		}), all, func(_ *scene, f *repo.Forest) bool { return f.Entries[0].Missing }},
		{"reindex", func(ctx context.Context, s *scene, r *repo.Repo) error {
			_, err := r.Reindex(ctx)
			return err
		}, all, nil},
		{"place", func(ctx context.Context, s *scene, r *repo.Repo) error {
			return r.SetPlace(ctx, repo.Place{Name: "a", Dir: s.path("a")})
		}, all, nil},
	}
}

// TestFaults fails each call on the medium, one in each run, until there is none: whatever the operation was doing, the entries
// that it does not take away are whole; done again, it succeeds and leaves nothing behind.
func TestFaults(t *testing.T) {
	base := newScene(t)
	errs := []error{syscall.EIO, syscall.ENOSPC, syscall.EACCES, syscall.EROFS, syscall.EMFILE}
	for i, op := range operations() {
		t.Run(op.name, func(t *testing.T) {
			t.Parallel()
			ctx := context.Background()
			// The calls are many, and most are reads.
			count := base.copy(t)
			m := &faulty{Medium: count.r.Medium()}
			r, err := repo.Open(ctx, m, options())
			must(t, err)
			must(t, op.do(ctx, count, r))
			calls := m.calls.Load()
			stride := int64(1)
			if points := int64(10); testing.Short() || archivetest.Race {
				stride = 1 + calls/6
			} else if calls > points {
				stride = 1 + calls/points
			}
			for at := int64(1) + int64(i)%stride; ; at += stride {
				s := base.copy(t)
				// The last calls are those that change something: none of them is passed over.
				if at > calls-8 && stride > 1 && !testing.Short() && !archivetest.Race {
					stride = 1
				}
				m := &faulty{Medium: s.r.Medium(), at: at, err: errs[at%int64(len(errs))], late: at/int64(len(errs))%2 == 1}
				r, err := repo.Open(ctx, m, options())
				if err == nil {
					err = op.do(ctx, s, r)
				}
				if m.what == "" {
					break
				}
				where := fmt.Sprintf("call %d of %d (%s, late %v)", at, calls, m.what, m.late)
				// What cannot be read while it is verified is reported as damage, by its place.
				if err != nil && !errors.Is(err, m.err) && (!errors.Is(err, archive.ErrCorrupt) && !errors.Is(err, chain.ErrCorrupt) || !strings.HasPrefix(m.what, "read")) {
					t.Errorf("%s: %v", where, err)
				}
				f := s.check(t, op.keeps, true)
				if err == nil && op.done != nil && !op.done(s, f) {
					t.Errorf("%s: no error, and it was not done", where)
				}
				if err := op.do(ctx, s, s.r); err != nil {
					t.Errorf("%s: done again: %v", where, err)
				}
				// Whoever writes next cleans up.
				if op.name == "restore" || op.name == "export" {
					must(t, s.r.SetPlace(ctx, repo.Place{Name: "x", Dir: s.path("x")}))
				}
				if f = s.check(t, op.keeps, false); op.done != nil && !op.done(s, f) {
					t.Errorf("%s: it was not done the second time", where)
				}
				s.tidy(t)
				if t.Failed() {
					t.Fatal(where, ": ", err)
				}
				os.RemoveAll(s.dir)
			}
		})
	}
}
