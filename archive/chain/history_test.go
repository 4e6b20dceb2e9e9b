package chain

import (
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"

	"tarvm/archive"
	"tarvm/archive/archivetest"
)

// TestHistories packs random histories with branches through every codec, and restores each state into nothing, into
// every other state, and into damaged ones.
func TestHistories(t *testing.T) {
	seeds := 2
	names := []string{"none", "lz4", "zstd", "gzip", "xz"}
	if testing.Short() || archivetest.Race {
		seeds = 1
		names = names[:3]
	}
	for i, name := range names {
		if name == "gzip" || name == "xz" {
			seeds = 1 // these take longest, and what is restored does not depend on the codec
		}
		for seed := range seeds {
			t.Run(fmt.Sprint(name, seed), func(t *testing.T) {
				histories(t, name, uint64(100*i+seed))
			})
		}
	}
}

func histories(t *testing.T, codec string, seed uint64) {
	const states = 5
	r := rand.New(rand.NewPCG(seed, 5))
	base := t.TempDir()
	var archs []*archive.Archive
	var sides []*archive.Manifest
	parent := make([]int, states)
	dirs := make([]string, states)
	tr := archivetest.New(t, filepath.Join(base, "0"), seed)
	for k := range states {
		o := packOptions{codec: codec}
		dirs[k] = filepath.Join(base, fmt.Sprint(k))
		if k > 0 {
			// Mostly the last state is the parent, sometimes an older one.
			parent[k] = k - 1
			if r.IntN(3) == 0 {
				parent[k] = r.IntN(k)
			}
			archivetest.Copy(t, dirs[parent[k]], dirs[k])
			tr.Dir = dirs[k]
			tr.Change(t)
			o.parent = sides[parent[k]]
			if r.IntN(3) == 0 {
				o.parent = archs[parent[k]].Manifest() // without what only the file beside it has
			}
		}
		a, m, _ := pack(t, dirs[k], o)
		archs, sides = append(archs, a), append(sides, m)
	}
	target := filepath.Join(base, "target")
	for k := range states {
		c, err := NewFor(archs[k].Manifest().Digest, archs)
		if err != nil {
			t.Fatal(err)
		}
		if v, err := Verify(bg, c, VerifyOptions{Workers: 2}); err != nil || v.Err() != nil {
			t.Fatalf("state %d: %v, %v", k, err, v.Err())
		}
		restore := func(what string) {
			t.Helper()
			if _, err := Restore(bg, c, c.Head(), target, RestoreOptions{NoSync: true}); err != nil {
				t.Fatalf("state %d %s: %v", k, what, err)
			}
			same(t, dirs[k], target)
			if t.Failed() {
				t.Fatalf("state %d %s", k, what)
			}
		}
		clean := func() {
			if err := os.RemoveAll(target); err != nil {
				t.Fatal(err)
			}
		}
		clean()
		restore("into nothing")
		for other := range states {
			clean()
			archivetest.Copy(t, dirs[other], target)
			restore(fmt.Sprint("over state ", other))
			clean()
			archivetest.Copy(t, dirs[other], target)
			damage(t, r, target)
			restore(fmt.Sprint("over a damaged state ", other))
		}
	}
}

// damage changes bytes, lengths and types of files below dir.
func damage(t *testing.T, r *rand.Rand, dir string) {
	t.Helper()
	var files []string
	err := filepath.WalkDir(dir, func(p string, d os.DirEntry, err error) error {
		if err == nil && d.Type().IsRegular() {
			files = append(files, p)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	r.Shuffle(len(files), func(i, j int) { files[i], files[j] = files[j], files[i] })
	for _, p := range files[:4] {
		fi, err := os.Lstat(p)
		if err != nil {
			continue
		}
		switch r.IntN(6) {
		case 0:
			err = os.Remove(p)
		case 1:
			err = os.Truncate(p, r.Int64N(fi.Size()+70_000))
		case 2:
			if err = os.Remove(p); err == nil {
				err = os.MkdirAll(filepath.Join(p, "sub"), 0o700)
			}
		case 3:
			if err = os.Remove(p); err == nil {
				err = os.Symlink("../../../etc/passwd", p)
			}
		case 4:
			err = os.Rename(p, p+".moved")
		default:
			var f *os.File
			if f, err = os.OpenFile(p, os.O_WRONLY, 0); err == nil {
				for range 5 {
					if fi.Size() > 0 && fi.Mode().IsRegular() {
						_, err = f.WriteAt([]byte{byte(r.Uint32())}, r.Int64N(fi.Size()))
					}
				}
				f.Close()
			}
		}
		if err != nil {
			t.Fatal(err)
		}
	}
}
