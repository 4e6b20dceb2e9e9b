package chain

import (
	"errors"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"

	"tarvm/archive"
	"tarvm/archive/archivetest"
)

// line packs a directory as it goes through states, each an increment of the one before.
func line(t *testing.T, states ...string) ([]*archive.Archive, []*archive.Manifest) {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "vm")
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(dir, "state")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	var archs []*archive.Archive
	var sides []*archive.Manifest
	for i, s := range states {
		if err := os.WriteFile(file, []byte(s), 0o600); err != nil {
			t.Fatal(err)
		}
		when := day
		for _, p := range []string{file, dir} {
			if err := os.Chtimes(p, when, when); err != nil {
				t.Fatal(err)
			}
		}
		var o packOptions
		if i > 0 {
			o.parent = sides[i-1]
		}
		a, m, _ := pack(t, dir, o)
		archs, sides = append(archs, a), append(sides, m)
	}
	return archs, sides
}

// content of the only file of entry k.
func stateOf(t *testing.T, c *Chain, k int) string {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "out")
	if _, err := Restore(bg, c, k, dir, RestoreOptions{NoSync: true}); err != nil {
		t.Fatal(err)
	}
	b, err := os.ReadFile(filepath.Join(dir, "state"))
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

func TestOrder(t *testing.T) {
	archs, _ := line(t, "a", "b", "c", "d")
	r := rand.New(rand.NewPCG(3, 4))
	for range 20 {
		in := append([]*archive.Archive{}, archs...)
		in = append(in, archs[r.IntN(4)]) // twice is not once too often
		r.Shuffle(len(in), func(i, j int) { in[i], in[j] = in[j], in[i] })
		c, err := New(in)
		if err != nil {
			t.Fatal(err)
		}
		if c.Len() != 4 || len(c.Notes()) != 0 {
			t.Fatalf("%d entries, notes %q", c.Len(), c.Notes())
		}
		for k := range archs {
			if c.Snapshot(k).Digest != archs[k].Manifest().Digest {
				t.Fatalf("entry %d is another", k)
			}
		}
	}
}

func TestOrderErrors(t *testing.T) {
	archs, sides := line(t, "a", "b", "c")
	other, _ := line(t, "x", "y")
	var missing *MissingParentError
	var heads *HeadsError
	if _, err := New(nil); err == nil {
		t.Error("no archives make a chain")
	}
	for name, in := range map[string][]*archive.Archive{
		"the base is missing": archs[1:],
		"a gap":               {archs[0], archs[2]},
		"an increment alone":  archs[2:],
	} {
		if _, err := New(in); !errors.As(err, &missing) && !errors.As(err, &heads) {
			t.Errorf("%s: %v", name, err)
		}
		c, err := NewFor(archs[2].Manifest().ID, in)
		if !errors.As(err, &missing) || missing.Child == "" || missing.ID.IsZero() {
			t.Errorf("%s: %v, %v", name, c, err)
		}
	}
	if _, err := NewFor(archs[2].Manifest().ID, archs[:2]); !errors.As(err, &missing) || missing.Child != "" {
		t.Errorf("an entry that is not there: %v", err)
	}
	// Of two machines, and of two branches.
	if _, err := New(append(archs[:3:3], other...)); !errors.As(err, &heads) || len(heads.Heads) != 2 {
		t.Errorf("two machines: %v", err)
	}
	dir := filepath.Join(t.TempDir(), "vm")
	archivetest.New(t, dir, 71)
	branch, _, _ := pack(t, dir, packOptions{parent: sides[1]})
	all := append(archs[:3:3], branch)
	if _, err := New(all); !errors.As(err, &heads) || len(heads.Heads) != 2 {
		t.Errorf("two branches: %v", err)
	}
	if c, err := NewFor(branch.Manifest().ID, all); err != nil || c.Len() != 3 {
		t.Errorf("a branch by its id: %v", err)
	}
}

// TestOrderSameState has entries of one id: nothing changed, or the machine went back to what it was.
func TestOrderSameState(t *testing.T) {
	var missing *MissingParentError
	for _, states := range [][]string{{"a", "a"}, {"a", "a", "a"}, {"a", "b", "a"}, {"a", "b", "a", "b"}, {"a", "b", "b", "a", "c"}} {
		archs, _ := line(t, states...)
		last := len(archs) - 1
		c, err := NewFor(archs[last].Manifest().Digest, archs)
		if err != nil {
			t.Fatalf("%q: %v", states, err)
		}
		if got := stateOf(t, c, c.Head()); got != states[last] {
			t.Errorf("%q: restored %q", states, got)
		}
		// Without the base, it is the base that is missing.
		if c, err := New(archs[1:]); !errors.As(err, &missing) {
			t.Errorf("%q without the base: %v, %v", states, c, err)
		}
		if c, err := NewFor(archs[last].Manifest().Digest, archs[1:]); !errors.As(err, &missing) {
			t.Errorf("%q without the base, by digest: %v, %v", states, c, err)
		}
	}
}

// TestOrderAnotherBase replaces the base by one that was packed anew, with another codec.
func TestOrderAnotherBase(t *testing.T) {
	h := newHistory(t, 72, 2, "lz4")
	again, _, _ := pack(t, h.states[0], packOptions{codec: "gzip"})
	c, err := New([]*archive.Archive{h.archs[1], again})
	if err != nil {
		t.Fatal(err)
	}
	if len(c.Notes()) != 1 {
		t.Errorf("notes %q", c.Notes())
	}
	dir := filepath.Join(t.TempDir(), "out")
	if _, err := Restore(bg, c, 1, dir, RestoreOptions{NoSync: true}); err != nil {
		t.Fatal(err)
	}
	same(t, h.states[1], dir)
	// With both there, the one that was meant is taken.
	if c, err = New([]*archive.Archive{again, h.archs[1], h.archs[0]}); err != nil || c.Entry(0) != h.archs[0] {
		t.Errorf("%v, %v", c, err)
	}
}
