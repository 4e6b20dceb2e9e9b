package chain

import (
	"bytes"
	"errors"
	"os"
	"path"
	"testing"

	"tarvm/archive/vmdir"
	"tarvm/manifest"
)

// A journal is what writeJournal writes, or it is refused: as a whole, and before anything is done.
func FuzzJournal(f *testing.F) {
	dir := f.TempDir()
	root, err := os.OpenRoot(dir)
	if err != nil {
		f.Fatal(err)
	}
	defer root.Close()
	if err := root.Mkdir(restoreDir, 0o700); err != nil {
		f.Fatal(err)
	}
	write := func(t testing.TB, steps []step) []byte {
		t.Helper()
		if err := writeJournal(root, steps, false); err != nil {
			t.Fatal(err)
		}
		b, err := root.ReadFile(path.Join(restoreDir, journalName))
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	m := &manifest.Member{State: manifest.State{Path: "a", Type: manifest.File, Size: 9000, Mode: 0o640, Digest: [32]byte{1}}}
	good := write(f, []step{
		{Op: opBegin, Opts: &vmdir.ApplyOptions{}}, {Op: opAway, Path: "a", N: 3, Ino: 7}, {Op: opOpen, Path: "."}, {Op: opMkdir, Path: "d"},
		{Op: opPatch, Path: "a", N: 3, M: m, Size: 9000, Data: [][2]int64{{0, 10}}, Zero: [][2]int64{{100, 8900}}},
		{Op: opIn, Path: "\xff", N: 4}, {Op: opMeta, Path: "a", M: m}, {Op: opSync}, {Op: opEnd},
	})
	if _, err := parseJournal(bytes.NewReader(good)); err != nil {
		f.Fatal(err)
	}
	f.Add(good)
	for _, old := range []string{`"a"`, `[0,10]`, `[100,8900]`, `"n":3`} {
		for _, with := range []string{`"../a"`, `[-1,10]`, `[8999,2]`, `[1,9223372036854775807]`, `"n":-3`} {
			f.Add(bytes.ReplaceAll(good, []byte(old), []byte(with)))
		}
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		steps, err := parseJournal(bytes.NewReader(b))
		if err != nil {
			if !errors.Is(err, ErrCorrupt) {
				t.Fatalf("error without its class: %v", err)
			}
			return
		}
		for i := range steps {
			s := &steps[i]
			if s.Path != "" && s.Path != "." && checkPath(s.Path) != nil || s.N < 0 {
				t.Fatalf("%+v", s)
			}
			for _, x := range append(s.Data[:len(s.Data):len(s.Data)], s.Zero...) {
				if end := x[0] + x[1]; x[0] < 0 || end < x[0] || end > s.Size {
					t.Fatalf("%v of %d", x, s.Size)
				}
			}
		}
		text := write(t, steps)
		again, err := parseJournal(bytes.NewReader(text))
		if err != nil || !bytes.Equal(write(t, again), text) {
			t.Fatalf("%v: %+v became %+v", err, steps, again)
		}
	})
}
