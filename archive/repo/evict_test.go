package repo_test

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	codecs "tarvm/archive/codec/all"
	"tarvm/archive/repo"
	"tarvm/formats/all"
)

// An archive is given up only for the very file that a catalogue has, and comes back when it is needed; M2.
func TestEvict(t *testing.T) {
	dir := t.TempDir()
	vm := filepath.Join(dir, "vm")
	if err := os.Mkdir(vm, 0o755); err != nil {
		t.Fatal(err)
	}
	write(t, filepath.Join(vm, "disk.raw"), noise(200<<10, 1))
	place := filepath.Join(dir, "repo")
	saved, err := open(t, place).Save(t.Context(), vm, repo.SaveOptions{})
	if err != nil {
		t.Fatal(err)
	}
	e := saved.Entry
	file := filepath.Join(place, filepath.FromSlash(e.File))
	archive, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	sum := sha256.Sum256(archive)
	good := repo.At{URL: "https://example.org/x", Size: e.Size, SHA: hex.EncodeToString(sum[:]), ID: e.ID, Digest: e.Digest}

	broken := errors.New("no network")
	var bring error
	var asked *repo.At
	r, err := repo.OpenDir(t.Context(), place, repo.Options{Codecs: codecs.Codecs(), Formats: all.Disks(), Fetch: func(_ context.Context, at *repo.At, w io.Writer) error {
		asked = at
		_, err := w.Write(archive)
		return errors.Join(err, bring)
	}})
	if err != nil {
		t.Fatal(err)
	}
	for name, spoil := range map[string]func(*repo.At){
		"no URL":         func(a *repo.At) { a.URL = "" },
		"another state":  func(a *repo.At) { a.ID[0]++ },
		"another digest": func(a *repo.At) { a.Digest[0]++ },
		"another size":   func(a *repo.At) { a.Size++ },
		"other content":  func(a *repo.At) { a.SHA = strings.Repeat("0", 64) },
		"no SHA-256":     func(a *repo.At) { a.SHA = "" },
	} {
		at := good
		spoil(&at)
		if err := r.Evict(t.Context(), e, at); err == nil {
			t.Fatalf("%s: evicted", name)
		}
		if _, err := os.Stat(file); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
	}
	if err := r.Evict(t.Context(), e, good); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(file); !errors.Is(err, os.ErrNotExist) {
		t.Fatalf("the archive is there: %v", err)
	}
	f := mustForest(t, r)
	if len(f.Entries) != 1 || !f.Entries[0].Missing || f.Entries[0].At == nil || *f.Entries[0].At != good || len(f.Problems) > 0 {
		t.Fatalf("%+v", f.Entries[0])
	}

	back := filepath.Join(dir, "back")
	bring = broken
	if _, err := r.Restore(t.Context(), f, f.Entries[0], back, repo.RestoreOptions{}); !errors.Is(err, broken) {
		t.Fatalf("%v", err)
	}
	if _, err := os.Stat(file); !errors.Is(err, os.ErrNotExist) {
		t.Fatalf("half an archive is there: %v", err)
	}
	bring = nil
	if _, err := r.Restore(t.Context(), f, f.Entries[0], back, repo.RestoreOptions{}); err != nil {
		t.Fatal(err)
	}
	if asked == nil || *asked != good {
		t.Errorf("asked for %+v", asked)
	}
	if got, err := os.ReadFile(filepath.Join(back, "disk.raw")); err != nil || string(got) != string(noise(200<<10, 1)) {
		t.Errorf("another disk: %v", err)
	}
	if f = mustForest(t, r); f.Entries[0].Missing {
		t.Error("still missing after it was fetched")
	}
}
