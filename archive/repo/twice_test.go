package repo_test

import (
	"bytes"
	"context"
	"io"
	"os"
	"path/filepath"
	"sync/atomic"
	"testing"

	"tarvm/archive"
	"tarvm/archive/repo"
)

// lateMedium lets another writer do something when an archive is done and has no name yet.
type lateMedium struct {
	repo.Medium
	meanwhile func()
}

func (m *lateMedium) Lock(ctx context.Context, o repo.Owner, wait func(repo.Owner)) (func() error, error) {
	if do := m.meanwhile; do != nil {
		m.meanwhile = nil
		do()
	}
	return m.Medium.Lock(ctx, o, wait)
}

// Of two that save or import the same at once, the second finds that it is there.
func TestTwoOfTheSame(t *testing.T) {
	base := newScene(t)
	export, err := os.ReadFile(base.path("export"))
	must(t, err)
	save := func(s *scene, r *repo.Repo, o repo.SaveOptions) (int, bool) {
		o.Pack, o.Project = small(), "p"
		res, err := r.Save(t.Context(), s.path("next"), o)
		must(t, err)
		return res.Entry.Number, !res.Unchanged
	}
	into := func(_ *scene, r *repo.Repo) (int, bool) {
		res, err := r.Import(t.Context(), bytes.NewReader(export), repo.ImportOptions{Workers: 1})
		must(t, err)
		if len(res.Added)+len(res.Present) != 4 {
			t.Errorf("of four archives %d were added, %d were here", len(res.Added), len(res.Present))
		}
		return res.Entry.Number, len(res.Added) > 0
	}
	for _, c := range []struct {
		name string
		do   func(s *scene, r *repo.Repo) (int, bool)
		// empty: in a repository without entries; twice: both are made.
		empty, twice bool
	}{
		{name: "save", do: func(s *scene, r *repo.Repo) (int, bool) { return save(s, r, repo.SaveOptions{}) }},
		{name: "save --full", do: func(s *scene, r *repo.Repo) (int, bool) { return save(s, r, repo.SaveOptions{Kind: repo.Full}) }},
		{name: "save --force", do: func(s *scene, r *repo.Repo) (int, bool) { return save(s, r, repo.SaveOptions{Force: true}) }, twice: true},
		{name: "import", do: into, empty: true},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := base.copy(t)
			m := s.r.Medium()
			if c.empty {
				dir := s.path("empty")
				r, err := repo.CreateDir(t.Context(), dir, options())
				must(t, err)
				m = r.Medium()
			}
			other, err := repo.Open(t.Context(), m, options())
			must(t, err)
			var first int
			late := &lateMedium{Medium: m}
			r, err := repo.Open(t.Context(), late, options())
			must(t, err)
			late.meanwhile = func() { first, _ = c.do(s, other) }
			second, made := c.do(s, r)
			if made != c.twice || (first != second) != c.twice {
				t.Errorf("#%d, and then #%d, made %v", first, second, made)
			}
			rep, err := r.Check(t.Context(), repo.CheckOptions{Read: true})
			must(t, err)
			must(t, rep.Err())
		})
	}
}

// unsteady gives a wrong bit in the middle from the n-th time on that this is read.
type unsteady struct {
	b    []byte
	left atomic.Int32
}

func (u *unsteady) Size() int64 { return int64(len(u.b)) }

func (u *unsteady) ReadAt(p []byte, off int64) (int, error) {
	n := 0
	if off < int64(len(u.b)) {
		n = copy(p, u.b[off:])
	}
	if mid := int64(len(u.b) / 2); off <= mid && mid < off+int64(n) && u.left.Add(-1) < 0 {
		p[mid-off] ^= 1
	}
	if n < len(p) {
		return n, io.EOF
	}
	return n, nil
}

// What was verified is what is kept, also when the source is read right once and wrong the next time.
func TestImportUnsteady(t *testing.T) {
	base := newScene(t)
	b, err := os.ReadFile(base.path("export"))
	must(t, err)
	good := 0
	for n := range int32(8) {
		r, err := repo.CreateDir(t.Context(), filepath.Join(memoryDir(t), "repo"), options())
		must(t, err)
		u := &unsteady{b: b}
		u.left.Store(n)
		res, err := r.Import(t.Context(), u, repo.ImportOptions{Workers: 1})
		f := mustForest(t, r)
		if err == nil {
			good++
		} else if len(f.Entries) > 0 {
			t.Errorf("read right %d times: %v, and %d entries are there", n, err, len(f.Entries))
		}
		rep, cerr := r.Check(t.Context(), repo.CheckOptions{Read: true})
		must(t, cerr)
		if rep.Err() != nil {
			t.Errorf("read right %d times: %+v, then %v", n, res, rep.Err())
		}
	}
	if good == 0 || good == 8 {
		t.Errorf("%d of 8 came in", good)
	}
}

// A machine that gets a large disk beside the one that it has is the machine that it was; one of which all is new is not.
func TestSaveGrown(t *testing.T) {
	dir := t.TempDir()
	r := open(t, filepath.Join(dir, "repo"))
	vm := filepath.Join(dir, "vm")
	must(t, os.Mkdir(vm, 0o755))
	write(t, filepath.Join(vm, "disk.raw"), noise(1<<20, 1))
	a, err := r.Save(t.Context(), vm, repo.SaveOptions{})
	must(t, err)
	write(t, filepath.Join(vm, "data.raw"), noise(40<<20, 2))
	b, err := r.Save(t.Context(), vm, repo.SaveOptions{Record: a.Record, Pack: archive.PackOptions{Name: "grown"}})
	must(t, err)
	if b.Parent == nil || b.Parent.Number != 1 || b.Reason != repo.ReasonLast || b.Shared > 0.05 {
		t.Errorf("grown: %+v on %v", b, b.Parent)
	}
	write(t, filepath.Join(vm, "disk.raw"), noise(1<<20, 3))
	write(t, filepath.Join(vm, "data.raw"), noise(40<<20, 4))
	c, err := r.Save(t.Context(), vm, repo.SaveOptions{Record: b.Record})
	must(t, err)
	if c.Parent != nil || c.Reason != repo.ReasonNone {
		t.Errorf("another machine: %+v on %v", c, c.Parent)
	}
}
