package repo_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"

	codecs "tarvm/archive/codec/all"
	"tarvm/archive/repo"
	"tarvm/formats/all"
	"tarvm/manifest"
)

func open(t *testing.T, dir string) *repo.Repo {
	t.Helper()
	o := repo.Options{Codecs: codecs.Codecs(), Formats: all.Disks()}
	r, err := repo.OpenDir(t.Context(), dir, o)
	if errors.Is(err, repo.ErrNoRepository) {
		r, err = repo.CreateDir(t.Context(), dir, o)
	}
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func write(t *testing.T, path string, b []byte) {
	t.Helper()
	if err := os.WriteFile(path, b, 0o644); err != nil {
		t.Fatal(err)
	}
}

func noise(n int, seed uint64) []byte {
	b := make([]byte, n)
	r := rand.NewChaCha8([32]byte{byte(seed), byte(seed >> 8)})
	_, _ = io.ReadFull(r, b)
	return b
}

func TestSaveRestoreBranch(t *testing.T) {
	ctx := context.Background()
	dir := t.TempDir()
	r := open(t, filepath.Join(dir, "repo"))
	vm := filepath.Join(dir, "vm")
	if err := os.Mkdir(vm, 0o755); err != nil {
		t.Fatal(err)
	}
	disk := noise(4<<20, 1)
	write(t, filepath.Join(vm, "disk.raw"), disk)
	write(t, filepath.Join(vm, "notes"), []byte("one"))
	a, err := r.Save(ctx, vm, repo.SaveOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if a.Entry.Number != 1 || a.Entry.Kind != repo.Full || a.Reason != repo.ReasonNone {
		t.Fatalf("%+v %+v", a, a.Entry)
	}
	again, err := r.Save(ctx, vm, repo.SaveOptions{Record: a.Record})
	if err != nil || !again.Unchanged || again.Entry.Number != 1 {
		t.Fatalf("%v %+v", err, again)
	}
	copy(disk[1<<20:], noise(100<<10, 2))
	write(t, filepath.Join(vm, "disk.raw"), disk)
	b, err := r.Save(ctx, vm, repo.SaveOptions{Record: a.Record, Pack: packNote("second")})
	if err != nil || b.Entry.Number != 2 || b.Parent.Number != 1 || b.Reason != repo.ReasonLast {
		t.Fatalf("%v %+v", err, b)
	}
	f, err := r.Forest(ctx)
	if err != nil || len(f.Entries) != 2 || f.Parent(f.Entries[1]) != f.Entries[0] || len(f.Problems) > 0 {
		t.Fatalf("%v %+v", err, f)
	}
	write(t, filepath.Join(vm, "notes"), []byte("unsaved"))
	first := f.Entries[0]
	var unsaved *repo.UnsavedError
	if _, err := r.Restore(ctx, f, first, vm, repo.RestoreOptions{Record: b.Record}); !errors.As(err, &unsaved) {
		t.Fatal(err)
	}
	res, err := r.Restore(ctx, f, first, vm, repo.RestoreOptions{Record: b.Record, Discard: true})
	if err != nil || !res.Lost {
		t.Fatalf("%v %+v", err, res)
	}
	got, err := os.ReadFile(filepath.Join(vm, "disk.raw"))
	if err != nil || !bytes.Equal(got, noise(4<<20, 1)) {
		t.Fatal("disk differs", err)
	}
	copy(got[3<<20:], noise(70<<10, 3))
	write(t, filepath.Join(vm, "disk.raw"), got)
	c, err := r.Save(ctx, vm, repo.SaveOptions{Record: res.Record})
	if err != nil || c.Entry.Number != 3 || c.Parent.Number != 1 {
		t.Fatalf("%v %+v", err, c)
	}
	// What somebody else put there is recognised by its blocks.
	foreign := bytes.Clone(disk)
	copy(foreign[2<<20:], noise(70<<10, 4))
	vm2 := filepath.Join(dir, "vm2")
	if err := os.Mkdir(vm2, 0o755); err != nil {
		t.Fatal(err)
	}
	write(t, filepath.Join(vm2, "other.raw"), foreign)
	d, err := r.Save(ctx, vm2, repo.SaveOptions{})
	if err != nil || d.Parent == nil || d.Parent.Number != 2 || d.Reason != repo.ReasonSimilar {
		t.Fatalf("%v %+v", err, d)
	}
	m, err := r.Merge(ctx, mustForest(t, r), c.Entry, nil, repo.MergeOptions{})
	if err != nil || m.Entry.Number != 3 || m.Entry.Kind != repo.Full || m.Entry.ID != c.Entry.ID {
		t.Fatalf("%v %+v", err, m)
	}
	rep, err := r.Check(ctx, repo.CheckOptions{Read: true})
	if err != nil || rep.Err() != nil || rep.Stale || rep.Entries != 4 {
		t.Fatalf("%v %v %+v", err, rep.Err(), rep)
	}
	f = mustForest(t, r)
	var orphans *repo.OrphansError
	if _, err := r.Remove(ctx, f.Entries[:1], repo.RemoveOptions{}); !errors.As(err, &orphans) || len(orphans.Orphans) != 2 {
		t.Fatalf("%v %+v", err, orphans)
	}
	rm, err := r.Remove(ctx, f.Entries[:1], repo.RemoveOptions{Reparent: true})
	if err != nil || len(rm.Removed) != 1 || len(rm.Reparented) != 1 {
		t.Fatalf("%v %+v", err, rm)
	}
	var buf bytes.Buffer
	f = mustForest(t, r)
	last := f.Entries[len(f.Entries)-1]
	if _, err := r.Export(ctx, f, last, &buf, repo.ExportOptions{}); err != nil {
		t.Fatal(err)
	}
	other := open(t, filepath.Join(dir, "other"))
	im, err := other.Import(ctx, bytes.NewReader(buf.Bytes()), repo.ImportOptions{})
	if err != nil || len(im.Added) != 2 {
		t.Fatalf("%v %+v", err, im)
	}
	rep, err = r.Check(ctx, repo.CheckOptions{Read: true})
	if err != nil || rep.Err() != nil {
		t.Fatalf("%v %v", err, rep.Err())
	}
	out := filepath.Join(dir, "out")
	fo := mustForest(t, other)
	if _, err := other.Restore(ctx, fo, fo.Entries[1], out, repo.RestoreOptions{}); err != nil {
		t.Fatal(err)
	}
	if got, err = os.ReadFile(filepath.Join(out, "other.raw")); err != nil || !bytes.Equal(got, foreign) {
		t.Fatal("restored disk differs", err)
	}
	_ = manifest.Full
}

func mustForest(t *testing.T, r *repo.Repo) *repo.Forest {
	t.Helper()
	f, err := r.Forest(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return f
}
