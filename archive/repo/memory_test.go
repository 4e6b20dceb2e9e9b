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
	"strings"
	"sync"
	"testing"

	"tarvm/archive/repo"
	"tarvm/archive/repo/mediumtest"
)

// memory is a medium that has nothing of a directory: what a repository does must go with Medium alone.
type memory struct {
	mu    sync.Mutex
	files map[string][]byte
	lock  chan struct{}
	owner repo.Owner
}

func newMemory() *memory {
	return &memory{files: make(map[string][]byte), lock: make(chan struct{}, 1)}
}

func (m *memory) String() string { return "memory" }

func (m *memory) check(ctx context.Context, name string) error {
	if !fs.ValidPath(name) || strings.Contains(name, "\x00") {
		return fmt.Errorf("%q is no name", name)
	}
	return context.Cause(ctx)
}

func (m *memory) List(ctx context.Context, dir string) ([]repo.Name, error) {
	if err := m.check(ctx, dir); err != nil {
		return nil, err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	seen := make(map[repo.Name]bool)
	for name := range m.files {
		if dir != "." {
			rest, ok := strings.CutPrefix(name, dir+"/")
			if !ok {
				continue
			}
			name = rest
		}
		first, _, folder := strings.Cut(name, "/")
		seen[repo.Name{Name: first, Dir: folder}] = true
	}
	var list []repo.Name
	for n := range seen {
		list = append(list, n)
	}
	return list, nil
}

type memoryBlob struct{ *bytes.Reader }

func (memoryBlob) Close() error { return nil }

func (m *memory) Open(ctx context.Context, name string) (repo.Blob, error) {
	if err := m.check(ctx, name); err != nil {
		return nil, err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	b, ok := m.files[name]
	if !ok {
		return nil, &fs.PathError{Op: "open", Path: name, Err: fs.ErrNotExist}
	}
	return memoryBlob{bytes.NewReader(b)}, nil
}

func (m *memory) put(ctx context.Context, name string, b []byte, replace bool) error {
	if err := m.check(ctx, name); err != nil {
		return err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if _, there := m.files[name]; there && !replace {
		return &fs.PathError{Op: "create", Path: name, Err: fs.ErrExist}
	}
	m.files[name] = bytes.Clone(b)
	return nil
}

func (m *memory) Put(ctx context.Context, name string, b []byte) error {
	return m.put(ctx, name, b, true)
}

func (m *memory) Remove(ctx context.Context, name string) error {
	if err := m.check(ctx, name); err != nil {
		return err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	delete(m.files, name)
	return nil
}

func (m *memory) Sweep(context.Context) error { return nil }

func (m *memory) Lock(ctx context.Context, owner repo.Owner, wait func(repo.Owner)) (func() error, error) {
	holder := func() repo.Owner {
		m.mu.Lock()
		defer m.mu.Unlock()
		return m.owner
	}
	select {
	case m.lock <- struct{}{}:
	default:
		if wait != nil {
			wait(holder())
		}
		select {
		case m.lock <- struct{}{}:
		case <-ctx.Done():
			if errors.Is(context.Cause(ctx), context.DeadlineExceeded) {
				return nil, &repo.BusyError{Medium: m.String(), Owner: holder()}
			}
			return nil, context.Cause(ctx)
		}
	}
	m.mu.Lock()
	m.owner = owner
	m.mu.Unlock()
	return func() error { <-m.lock; return nil }, nil
}

type memoryUpload struct {
	bytes.Buffer
	m     *memory
	ended bool
}

func (m *memory) Create(context.Context) (repo.Upload, error) { return &memoryUpload{m: m}, nil }

func (u *memoryUpload) Open(context.Context) (repo.Blob, error) {
	return memoryBlob{bytes.NewReader(u.Bytes())}, nil
}

func (u *memoryUpload) Commit(ctx context.Context, name string) error {
	if u.ended {
		return errors.New("it has ended")
	}
	u.ended = true
	return u.m.put(ctx, name, u.Bytes(), false)
}

func (u *memoryUpload) Abort() { u.ended = true }

var _ io.Writer = (*memoryUpload)(nil)

func TestMemory(t *testing.T) {
	mediumtest.Run(t, mediumtest.Options{New: func(*testing.T) repo.Medium { return newMemory() }})
}

// All that a repository can do goes without a directory.
func TestRepoInMemory(t *testing.T) {
	ctx := t.Context()
	dir := t.TempDir()
	m := newMemory()
	r, err := repo.Create(ctx, m, options())
	must(t, err)
	vm := filepath.Join(dir, "vm")
	var rec *repo.Record
	for i := range 4 {
		machine(t, vm, i)
		res, err := r.Save(ctx, vm, repo.SaveOptions{Pack: small(), Record: rec, Project: "p"})
		must(t, err)
		if res.Unchanged || res.Entry.Number != i+1 || (i > 0) != (res.Parent != nil) {
			t.Fatalf("%+v", res)
		}
		rec = res.Record
	}
	f := mustForest(t, r)
	var b bytes.Buffer
	_, err = r.Export(ctx, f, f.Entries[3], &b, repo.ExportOptions{})
	must(t, err)
	_, err = r.Merge(ctx, f, f.Entries[2], nil, repo.MergeOptions{Pack: small()})
	must(t, err)
	_, err = r.Remove(ctx, f.Entries[:1], repo.RemoveOptions{Reparent: true, Pack: small()})
	must(t, err)
	f = mustForest(t, r)
	_, err = r.Relocate(ctx, f, f.Entries[:1], repo.RelocateOptions{Place: repo.Place{Name: "disk", Dir: filepath.Join(dir, "disk")}})
	must(t, err)
	again, err := repo.Open(ctx, m, options())
	must(t, err)
	im, err := again.Import(ctx, bytes.NewReader(b.Bytes()), repo.ImportOptions{})
	must(t, err)
	if len(im.Added) != 1 || len(im.Present) != 3 {
		t.Errorf("import: %+v", im)
	}
	must(t, m.Remove(ctx, "index"))
	_, err = again.Reindex(ctx)
	must(t, err)
	f = mustForest(t, again)
	last, err := f.Find("#4")
	must(t, err)
	out := filepath.Join(dir, "out")
	_, err = again.Restore(ctx, f, last, out, repo.RestoreOptions{})
	must(t, err)
	if got, err := os.ReadFile(filepath.Join(out, "notes")); err != nil || string(got) != "state 3" {
		t.Errorf("it is %q, %v", got, err)
	}
	rep, err := again.Check(ctx, repo.CheckOptions{Read: true})
	must(t, err)
	must(t, rep.Err())
	must(t, again.RemoveAll(ctx))
	if len(m.files) > 0 {
		t.Errorf("left: %d files", len(m.files))
	}
}
