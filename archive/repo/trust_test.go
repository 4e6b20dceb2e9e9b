package repo_test

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"testing"

	"tarvm/archive"
	"tarvm/archive/chain"
	"tarvm/archive/codec"
	codecs "tarvm/archive/codec/all"
	"tarvm/archive/repo"
)

// Where files are what they were by size, times and inode, going from entry to entry reads nothing of them; where one is not,
// even with its old time, it is read.
func TestRestoreTrustsTimes(t *testing.T) {
	ctx := t.Context()
	dir := t.TempDir()
	r := open(t, filepath.Join(dir, "repo"))
	vm := filepath.Join(dir, "vm")
	if err := os.Mkdir(vm, 0o755); err != nil {
		t.Fatal(err)
	}
	states := [][]byte{noise(3<<20+5000, 1), nil}
	states[1] = bytes.Clone(states[0])
	copy(states[1][1<<20:], noise(200<<10, 2))
	disk := filepath.Join(vm, "disk.raw")
	var rec *repo.Record
	for _, b := range states {
		write(t, disk, b)
		s, err := r.Save(ctx, vm, repo.SaveOptions{Record: rec})
		if err != nil {
			t.Fatal(err)
		}
		rec = s.Record
	}
	f := mustForest(t, r)
	for i := range 4 {
		want := i % 2
		scanned := int64(0)
		o := repo.RestoreOptions{Record: rec, TrustTimes: true, RestoreOptions: chain.RestoreOptions{Progress: func(p archive.Progress) {
			if p.Phase == "scan" {
				scanned = max(scanned, p.Done)
			}
		}}}
		res, err := r.Restore(ctx, f, f.Entries[want], vm, o)
		if err != nil {
			t.Fatal(err)
		}
		rec = res.Record
		if got, err := os.ReadFile(disk); err != nil || !bytes.Equal(got, states[want]) {
			t.Fatalf("state %d: %v, content differs", want, err)
		}
		if res.Written == 0 || res.Written > 300<<10 || res.Was != f.Entries[1-want] {
			t.Fatalf("written %d, was %v", res.Written, res.Was)
		}
	}
	// One byte, and the old modification time: the change time tells.
	st, err := os.Stat(disk)
	if err != nil {
		t.Fatal(err)
	}
	h, err := os.OpenFile(disk, os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := h.WriteAt([]byte{^states[1][77]}, 77); err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(h.Close(), os.Chtimes(disk, st.ModTime(), st.ModTime())); err != nil {
		t.Fatal(err)
	}
	var unsaved *repo.UnsavedError
	o := repo.RestoreOptions{Record: rec, TrustTimes: true}
	if _, err := r.Restore(ctx, f, f.Entries[0], vm, o); !errors.As(err, &unsaved) {
		t.Fatalf("a changed disk was not noticed: %v", err)
	}
	o.Discard = true
	if _, err := r.Restore(ctx, f, f.Entries[0], vm, o); err != nil {
		t.Fatal(err)
	}
	if got, err := os.ReadFile(disk); err != nil || !bytes.Equal(got, states[0]) {
		t.Fatal("content differs", err)
	}
}

// An entry whose archive was lost has it again when it is imported.
func TestImportRefills(t *testing.T) {
	ctx := t.Context()
	dir := t.TempDir()
	r := open(t, filepath.Join(dir, "repo"))
	vm := filepath.Join(dir, "vm")
	if err := os.Mkdir(vm, 0o755); err != nil {
		t.Fatal(err)
	}
	write(t, filepath.Join(vm, "disk.raw"), noise(1<<20, 9))
	s, err := r.Save(ctx, vm, repo.SaveOptions{})
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(dir, "repo", filepath.FromSlash(s.Entry.File))
	b, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(file); err != nil {
		t.Fatal(err)
	}
	f := mustForest(t, r)
	if !f.Entries[0].Missing {
		t.Fatal("a missing archive is not noticed")
	}
	var off *repo.OfflineError
	if _, err := r.Restore(ctx, f, f.Entries[0], filepath.Join(dir, "out"), repo.RestoreOptions{}); !errors.As(err, &off) {
		t.Fatal(err)
	}
	im, err := r.Import(ctx, bytes.NewReader(b), repo.ImportOptions{})
	if err != nil || len(im.Refilled) != 1 || len(im.Added) != 0 {
		t.Fatalf("%v %+v", err, im)
	}
	f = mustForest(t, r)
	if _, err := r.Restore(ctx, f, f.Entries[0], filepath.Join(dir, "out"), repo.RestoreOptions{}); err != nil {
		t.Fatal(err)
	}
}

// Of frames from which little is wanted the digest is not compared: what is wrong in them is found by the blocks.
func TestRestoreLittleOfDamaged(t *testing.T) {
	ctx := t.Context()
	for _, name := range []string{"zstd", "gzip", "lz4"} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			r := open(t, filepath.Join(dir, "repo"))
			vm := filepath.Join(dir, "vm")
			if err := os.Mkdir(vm, 0o755); err != nil {
				t.Fatal(err)
			}
			disk := filepath.Join(vm, "disk.raw")
			old := noise(6<<20, 1)
			now := bytes.Clone(old)
			copy(now[1<<20:], noise(64<<10, 2))
			var rec *repo.Record
			for _, b := range [][]byte{old, now} {
				write(t, disk, b)
				s, err := r.Save(ctx, vm, repo.SaveOptions{Record: rec, Pack: archive.PackOptions{Codec: codec.ByName(codecs.Codecs(), name)}})
				if err != nil {
					t.Fatal(err)
				}
				rec = s.Record
			}
			f := mustForest(t, r)
			file := filepath.Join(dir, "repo", filepath.FromSlash(f.Entries[0].File))
			b, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			at := bytes.Index(b, old[1<<20+100:][:64]) // random bytes are stored as they are
			if at < 0 {
				t.Skip("the codec changes what cannot be compressed")
			}
			b[at] ^= 4
			write(t, file, b)
			_, err = r.Restore(ctx, f, f.Entries[0], vm, repo.RestoreOptions{Record: rec, TrustTimes: true})
			if err == nil {
				t.Fatal("a damaged block was restored")
			}
			if got, rerr := os.ReadFile(disk); rerr != nil || !bytes.Equal(got, now) {
				t.Fatalf("%v; after %v the disk is not what it was", rerr, err)
			}
			// Damage beside what is wanted does no harm, or is found.
			b[at] ^= 4
			b[at+1<<20] ^= 4
			write(t, file, b)
			want := now
			if _, err = r.Restore(ctx, f, f.Entries[0], vm, repo.RestoreOptions{Record: rec, TrustTimes: true}); err == nil {
				want = old
			}
			if got, rerr := os.ReadFile(disk); rerr != nil || !bytes.Equal(got, want) {
				t.Fatalf("%v; after %v the disk is something else", rerr, err)
			}
		})
	}
}
