package chain

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"tarvm/archive/archivetest"
)

// TestPlan compares what a plan says with what the restore does.
func TestPlan(t *testing.T) {
	h := newHistory(t, 41, 4, "zstd")
	c := h.chain(t, 4)
	for from := -1; from < 4; from++ {
		for to := range 4 {
			dir := filepath.Join(t.TempDir(), "vm")
			if from >= 0 {
				archivetest.Copy(t, h.states[from], dir)
			}
			p, err := PlanRestore(bg, c, to, dir, RestoreOptions{})
			if err != nil {
				t.Fatal(err)
			}
			if from < 0 {
				nothingLeft(t, filepath.Dir(dir))
			} else {
				same(t, h.states[from], dir)
			}
			r, err := Restore(bg, c, to, dir, RestoreOptions{NoSync: true})
			if err != nil {
				t.Fatal(err)
			}
			if !slices.Equal(p.Fetch, r.Fetched) && len(p.Fetch)+len(r.Fetched) > 0 || p.Local != r.Local || p.ID != r.ID || p.Fresh != (from < 0) {
				t.Errorf("%d to %d: planned %+v, done %+v", from, to, p, r)
			}
			n := 0
			for _, it := range p.Items {
				if it.Action == ActionRemove {
					if n >= len(r.Removed) || r.Removed[n] != it.Path {
						t.Errorf("%d to %d: %s should be removed: %v", from, to, it.Path, r.Removed)
					}
					n++
				}
				if from == to && it.Action != ActionKeep {
					t.Errorf("%d to itself: %+v", to, it)
				}
			}
		}
	}
}

func TestUnrelated(t *testing.T) {
	h := newHistory(t, 42, 1, "lz4")
	c := h.chain(t, 1)
	dir := t.TempDir()
	letter := filepath.Join(dir, "letter")
	if err := os.WriteFile(letter, []byte("dear"), 0o600); err != nil {
		t.Fatal(err)
	}
	_, err := Restore(bg, c, 0, dir, RestoreOptions{})
	var u *UnrelatedError
	if !errors.As(err, &u) || u.Files != 1 {
		t.Fatalf("error %v", err)
	}
	if _, err := Restore(bg, c, 0, dir, RestoreOptions{Keep: true}); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(letter); err != nil {
		t.Fatal(err)
	}
	// It has common files by now.
	if _, err := Restore(bg, c, 0, dir, RestoreOptions{}); err != nil {
		t.Fatal(err)
	}
	same(t, h.states[0], dir)
	if err := os.RemoveAll(dir); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(letter, []byte("dear"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Restore(bg, c, 0, dir, RestoreOptions{Force: true}); err != nil {
		t.Fatal(err)
	}
	same(t, h.states[0], dir)
}
