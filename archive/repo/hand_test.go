package repo_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"tarvm/archive/repo"
)

// file is the path of entry n's archive, with a suffix.
func (s *scene) file(t testing.TB, n int, suffix string) string {
	t.Helper()
	list, err := filepath.Glob(s.path(fmt.Sprintf("repo/entries/p/%06d-*.tar", n)))
	must(t, err)
	if len(list) != 1 {
		t.Fatalf("#%d: %q", n, list)
	}
	return list[0] + suffix
}

func swap(t testing.TB, a, b string) {
	t.Helper()
	must(t, os.Rename(a, a+"~"))
	must(t, os.Rename(b, a))
	must(t, os.Rename(a+"~", b))
}

// change replaces a file's content.
func change(t testing.TB, path string, f func([]byte) []byte) {
	t.Helper()
	b, err := os.ReadFile(path)
	must(t, err)
	must(t, os.Remove(path))
	must(t, os.WriteFile(path, f(b), 0o644))
}

// catalogued says that a catalogue has an entry's archive.
func catalogued(e *repo.Entry, archive []byte) repo.At {
	return repo.At{URL: "https://catalogue.example/x", Name: "x@1", ID: e.ID, Digest: e.Digest, Size: int64(len(archive)), SHA: fmt.Sprintf("%x", sha256.Sum256(archive))}
}

func half(b []byte) []byte { return b[:len(b)/2] }

func flipped(b []byte) []byte {
	b[len(b)/2] ^= 1
	return b
}

func garbage([]byte) []byte { return []byte("garbage\x00\xff") }

func copyFile(t testing.TB, from, to string) {
	t.Helper()
	b, err := os.ReadFile(from)
	must(t, err)
	must(t, os.MkdirAll(filepath.Dir(to), 0o755))
	must(t, os.WriteFile(to, b, 0o644))
}

// What somebody did to the files of a repository is named, by file, and the rest works.
func TestByHand(t *testing.T) {
	base := newScene(t)
	strange := newScene(t) // other states, but files of the same names
	strangers, err := filepath.Glob(strange.path("repo/entries/p/000002-*.tar"))
	must(t, err)
	for _, c := range []struct {
		name string
		do   func(t *testing.T, s *scene)
		// names: a problem of Check has it in its file's name, and of Forest, too, when there is no index; "": there is no problem.
		names, what string
		onlyCheck   bool  // Forest does not read so far
		ok          []int // entries that can be restored
		read        bool  // Check finds it when it reads everything
		moved       bool  // without the index the numbers have changed: archives say what they are
	}{
		{name: "nothing", do: func(*testing.T, *scene) {}, ok: []int{1, 2, 3, 4, 5}},
		{name: "index gone", do: func(t *testing.T, s *scene) { must(t, os.Remove(s.path("repo/index"))) }, ok: []int{1, 2, 3, 4, 5}},
		{name: "index torn", do: func(t *testing.T, s *scene) { change(t, s.path("repo/index"), half) }, ok: []int{1, 2, 3, 4, 5}},
		{name: "index flipped", do: func(t *testing.T, s *scene) { change(t, s.path("repo/index"), flipped) }, ok: []int{1, 2, 3, 4, 5}},
		{name: "index of another repository", do: func(t *testing.T, s *scene) {
			must(t, os.Remove(s.path("repo/index")))
			copyFile(t, strange.path("repo/index"), s.path("repo/index"))
		}, ok: []int{1, 2, 3, 4, 5}},
		{name: "archive gone", do: func(t *testing.T, s *scene) { must(t, os.Remove(s.file(t, 3, ""))) }, names: "000003", what: "not in the repository", onlyCheck: true, ok: []int{1, 2, 5}},
		{name: "archive and manifest gone", do: func(t *testing.T, s *scene) {
			must(t, os.Remove(s.file(t, 3, ".manifest")))
			must(t, os.Remove(s.file(t, 3, "")))
		}, names: "000004", what: "not in the repository", onlyCheck: true, ok: []int{1, 2, 5}},
		{name: "archive truncated", do: func(t *testing.T, s *scene) { change(t, s.file(t, 3, ""), half) }, names: "000003", ok: []int{1, 2, 5}},
		{name: "archive empty", do: func(t *testing.T, s *scene) { change(t, s.file(t, 3, ""), func([]byte) []byte { return nil }) }, names: "000003", ok: []int{1, 2, 5}},
		{name: "archive flipped", do: func(t *testing.T, s *scene) { change(t, s.file(t, 3, ""), flipped) }, names: "000003", onlyCheck: true, read: true, ok: []int{1, 2, 4, 5}}, // what is flipped, #4 has of its own
		{name: "archive garbage", do: func(t *testing.T, s *scene) { change(t, s.file(t, 3, ""), garbage) }, names: "000003", ok: []int{1, 2, 5}},
		{name: "archive truncated, manifest gone", do: func(t *testing.T, s *scene) {
			must(t, os.Remove(s.file(t, 3, ".manifest")))
			change(t, s.file(t, 3, ""), half)
		}, names: "000003", ok: []int{1, 2, 5}},
		{name: "archives swapped", do: func(t *testing.T, s *scene) { swap(t, s.file(t, 3, ""), s.file(t, 5, "")) }, names: "000003", what: "another", onlyCheck: true, ok: []int{1, 2}, moved: true},
		{name: "archive of another repository", do: func(t *testing.T, s *scene) {
			f := s.file(t, 3, "")
			must(t, os.Remove(f))
			copyFile(t, strangers[0], f)
		}, names: "000003", what: "not in the repository", onlyCheck: true, ok: []int{1, 2, 5}},
		{name: "archive is a folder", do: func(t *testing.T, s *scene) {
			f := s.file(t, 3, "")
			must(t, os.Remove(f))
			must(t, os.Mkdir(f, 0o755))
		}, names: "000003", what: "is no file of an entry", ok: []int{1, 2, 5}},
		{name: "archive is a FIFO", do: func(t *testing.T, s *scene) {
			f := s.file(t, 3, "")
			must(t, os.Remove(f))
			if err := exec.Command("mkfifo", f).Run(); err != nil {
				t.Skip(err)
			}
		}, names: "000003", what: "not a regular file", ok: []int{1, 2, 5}},
		{name: "archive is a link to nowhere", do: func(t *testing.T, s *scene) {
			f := s.file(t, 3, "")
			must(t, os.Remove(f))
			must(t, os.Symlink("nowhere", f))
		}, names: "000003", ok: []int{1, 2, 5}},
		{name: "manifest gone", do: func(t *testing.T, s *scene) { must(t, os.Remove(s.file(t, 3, ".manifest"))) }, ok: []int{1, 2, 3, 4, 5}},
		{name: "manifest truncated", do: func(t *testing.T, s *scene) { change(t, s.file(t, 3, ".manifest"), half) }, names: "000003", onlyCheck: true, ok: []int{1, 2, 3, 4, 5}},
		{name: "manifest garbage", do: func(t *testing.T, s *scene) { change(t, s.file(t, 3, ".manifest"), garbage) }, names: "000003", onlyCheck: true, ok: []int{1, 2, 3, 4, 5}},
		{name: "manifests swapped", do: func(t *testing.T, s *scene) { swap(t, s.file(t, 3, ".manifest"), s.file(t, 5, ".manifest")) }, names: "000003", what: "another", onlyCheck: true, ok: []int{1, 2, 3, 4, 5}},
		{name: "manifest is a folder", do: func(t *testing.T, s *scene) {
			f := s.file(t, 3, ".manifest")
			must(t, os.Remove(f))
			must(t, os.Mkdir(f, 0o755))
		}, names: "000003", what: "is no file of an entry", ok: []int{1, 2, 3, 4, 5}},
		{name: ".at garbage", do: func(t *testing.T, s *scene) { must(t, os.WriteFile(s.file(t, 3, ".at"), []byte("garbage"), 0o644)) }, ok: []int{1, 2, 3, 4, 5}},
		{name: ".at garbage, archive gone", do: func(t *testing.T, s *scene) {
			must(t, os.WriteFile(s.file(t, 3, ".at"), []byte("garbage"), 0o644))
			must(t, os.Remove(s.file(t, 3, "")))
		}, names: "000003", ok: []int{1, 2, 5}},
		{name: ".at alone", do: func(t *testing.T, s *scene) {
			must(t, os.WriteFile(s.path("repo/entries/p/000009-x.tar.at"), []byte("{}"), 0o644))
		}, names: "000009", what: "no manifest", ok: []int{1, 2, 3, 4, 5}},
		{name: ".at leads out", do: func(t *testing.T, s *scene) {
			must(t, os.WriteFile(s.file(t, 3, ".at"), []byte(`{"place":"x","file":"../../../../../../etc/passwd"}`), 0o644))
			must(t, os.WriteFile(s.path("repo/places.json"), []byte(`{"tarvm":"places","version":1,"places":[{"name":"x","dir":"/etc"}]}`), 0o644))
			must(t, os.Remove(s.file(t, 3, "")))
		}, names: "", ok: []int{1, 2, 5}},
		{name: "a number twice", do: func(t *testing.T, s *scene) {
			copyFile(t, s.file(t, 3, ""), s.path("repo/entries/q/000003-x.tar"))
		}, names: "entries/q/000003-x.tar", what: "has the number of entries/p/000003", ok: []int{1, 2, 3, 4, 5}},
		{name: "a number twice in a project", do: func(t *testing.T, s *scene) {
			copyFile(t, s.file(t, 5, ""), s.path("repo/entries/p/000003-x.tar"))
		}, names: "000003", what: "has the number of", ok: []int{1, 2, 3, 4, 5}},
		{name: "a generation of another state", do: func(t *testing.T, s *scene) {
			copyFile(t, s.file(t, 3, ""), s.path("repo/entries/p/000003.1-x.tar"))
			change(t, s.path("repo/entries/p/000003.1-x.tar"), half)
		}, names: "000003.1-x.tar", ok: []int{1, 2, 3, 4, 5}},
		{name: "a leftover generation", do: func(t *testing.T, s *scene) {
			f := s.file(t, 3, "")
			copyFile(t, f, strings.Replace(f, "000003-", "000003.7-", 1))
		}, names: "000003-", what: "next writer", onlyCheck: true, ok: []int{1, 2, 3, 4, 5}},
		{name: "hostile projects", do: func(t *testing.T, s *scene) {
			for _, n := range []string{"a\nb", "\x1b[31m", "\xff", " x", strings.Repeat("x", 200), "x."} {
				copyFile(t, s.file(t, 3, ""), s.path("repo/entries/"+n+"/000009-x.tar"))
			}
		}, names: "entries/\x1b[31m", what: "is no name of a project", ok: []int{1, 2, 3, 4, 5}},
		{name: "hostile names", do: func(t *testing.T, s *scene) {
			for i := range 400 {
				must(t, os.WriteFile(s.path(fmt.Sprintf("repo/entries/p/%0200d-\n", i)), nil, 0o644))
			}
			must(t, os.WriteFile(s.path("repo/entries/file"), nil, 0o644))
		}, names: "entries/file", what: "is no folder", ok: []int{1, 2, 3, 4, 5}},
		{name: "places garbage", do: func(t *testing.T, s *scene) {
			must(t, os.WriteFile(s.path("repo/places.json"), []byte("garbage"), 0o644))
		}, ok: []int{1, 2, 3, 4, 5}},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			ctx := context.Background()
			s := base.copy(t)
			c.do(t, s)
			has := func(ps []repo.Problem) bool {
				return slices.ContainsFunc(ps, func(p repo.Problem) bool {
					return strings.Contains(p.File, c.names) && strings.Contains(p.What, c.what)
				})
			}
			rep, err := s.r.Check(ctx, repo.CheckOptions{Workers: 1, Read: c.read})
			must(t, err)
			if c.names == "" && len(rep.Problems) > 0 || c.names != "" && (!has(rep.Problems) || !errors.Is(rep.Err(), repo.ErrCorrupt)) {
				t.Errorf("check: %v", rep.Problems)
			}
			// With the index, and without it.
			for _, without := range []bool{false, true} {
				if without {
					if err := os.Remove(s.path("repo/index")); err != nil && !errors.Is(err, fs.ErrNotExist) {
						t.Fatal(err)
					}
				}
				f, err := s.r.Forest(ctx)
				must(t, err)
				if without && !c.onlyCheck && (c.names != "") != has(f.Problems) {
					t.Errorf("forest: %v", f.Problems)
				}
				for n := range 5 {
					if without && c.moved {
						break
					}
					e := numbered(f, n+1)
					good := slices.Contains(c.ok, n+1)
					if e != nil && good && e.ID != s.ids[n+1] {
						t.Errorf("index %v: #%d is another", !without, n+1)
					}
					dir := s.path(fmt.Sprint("restored", without, n))
					switch {
					case e != nil:
						o := repo.RestoreOptions{}
						o.NoSync, o.Workers = true, 1
						_, err = s.r.Restore(ctx, f, e, dir, o)
					case good:
						err = errors.New("it is not there")
					default:
						err = errors.New("it is not to be there")
					}
					if (err == nil) != good {
						t.Errorf("index %v: #%d: %v", !without, n+1, err)
					}
					if b, rerr := os.ReadFile(filepath.Join(dir, "notes")); err == nil && (rerr != nil || string(b) != fmt.Sprint("state ", n)) {
						t.Errorf("#%d is %q, %v", n+1, b, rerr)
					}
				}
			}
			// Something new can be saved, under a number that nobody has.
			res, err := s.r.Save(ctx, s.path("next"), repo.SaveOptions{Pack: small(), Project: "new"})
			if err != nil || res.Entry.Number < 6 {
				t.Errorf("save: %+v %v", res, err)
			}
			if _, err := s.r.Reindex(ctx); err != nil {
				t.Errorf("reindex: %v", err)
			}
			f, err := s.r.Forest(ctx)
			must(t, err)
			for _, n := range c.ok {
				if e := numbered(f, n); e == nil || e.ID != s.ids[n] {
					t.Errorf("behind it #%d has gone", n)
				}
			}
		})
	}
}

// An index that says of an entry what is true of another one is found out when that is read, and does not outlive a reindex.
func TestIndexOfWrongFacts(t *testing.T) {
	ctx := context.Background()
	s := newScene(t)
	f, err := s.r.Forest(ctx)
	must(t, err)
	// As if the archives had been exchanged behind the index: it is of their names.
	for _, suffix := range []string{"", ".manifest"} {
		swap(t, s.file(t, 3, suffix), s.file(t, 5, suffix))
	}
	if _, err := s.r.Read(ctx, f, numbered(f, 3)); !errors.Is(err, repo.ErrCorrupt) || !strings.Contains(err.Error(), "000003") {
		t.Errorf("an archive of other facts than the index has: %v", err)
	}
	rep, err := s.r.Check(ctx, repo.CheckOptions{Workers: 1})
	must(t, err)
	if !rep.Stale || len(rep.Problems) > 0 {
		t.Errorf("stale %v, %v", rep.Stale, rep.Problems)
	}
	_, err = s.r.Reindex(ctx)
	must(t, err)
	f, err = s.r.Forest(ctx)
	must(t, err)
	if numbered(f, 3).ID != s.ids[5] || numbered(f, 5).ID != s.ids[3] {
		t.Error("the index is still that of the names")
	}
	rep, err = s.r.Check(ctx, repo.CheckOptions{Workers: 1, Read: true})
	must(t, err)
	must(t, rep.Err())
}

// A leftover of what was replaced goes with the next writer, and only when it is of the same state.
func TestLeftovers(t *testing.T) {
	ctx := context.Background()
	base := newScene(t)
	s := base.copy(t)
	three := s.file(t, 3, "")
	newer := strings.Replace(three, "000003-", "000003.2-", 1)
	copyFile(t, three, newer)
	must(t, s.r.SetPlace(ctx, repo.Place{Name: "x", Dir: s.dir}))
	_, err := s.r.Save(ctx, s.path("next"), repo.SaveOptions{Pack: small()})
	must(t, err)
	if _, err := os.Lstat(three); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("it is still there: %v", err)
	}
	s.check(t, []int{1, 2, 3, 4, 5}, false)
	// Of another state: nothing goes.
	s = base.copy(t)
	copyFile(t, s.file(t, 5, ""), s.path("repo/entries/p/000003.1-x.tar"))
	_, err = s.r.Save(ctx, s.path("next"), repo.SaveOptions{Pack: small()})
	must(t, err)
	for _, name := range []string{"repo/entries/p/000003.1-x.tar", "repo/entries/p/" + filepath.Base(three)} {
		if _, err := os.Lstat(s.path(name)); err != nil {
			t.Error(err)
		}
	}
}

// Reindex gives a number of its own to what has that of another, and loses neither.
func TestRenumber(t *testing.T) {
	ctx := context.Background()
	s := newScene(t)
	for _, suffix := range []string{"", ".manifest"} {
		copyFile(t, s.file(t, 3, suffix), s.path("repo/entries/q/000003-x.tar"+suffix))
	}
	f, err := s.r.Reindex(ctx)
	must(t, err)
	if len(f.Entries) != 6 || numbered(f, 6) == nil || numbered(f, 6).ID != s.ids[3] || numbered(f, 6).Project != "q" || numbered(f, 3).Project != "p" {
		t.Errorf("%+v", f.Entries)
	}
	s.check(t, []int{1, 2, 3, 4, 5}, false)
	s.tidy(t)
}

// Numbers of removed entries are not given again, not even that of the last one; an index that cannot be read now
// is an error for who would give it.
func TestNumbers(t *testing.T) {
	ctx := context.Background()
	s := newScene(t)
	f, err := s.r.Forest(ctx)
	must(t, err)
	_, err = s.r.Remove(ctx, f.Entries[4:], repo.RemoveOptions{})
	must(t, err)
	if f, err = s.r.Forest(ctx); err != nil || !strings.Contains(findError(f, "#5"), "removed") {
		t.Errorf("%v %v", err, findError(f, "#5"))
	}
	m := &faulty{Medium: s.r.Medium(), err: fs.ErrPermission}
	closed := &closedIndex{Medium: m}
	r, err := repo.Open(ctx, closed, options())
	must(t, err)
	if _, err := r.Save(ctx, s.path("next"), repo.SaveOptions{Pack: small()}); !errors.Is(err, fs.ErrPermission) {
		t.Errorf("an index that cannot be read: %v", err)
	}
	f, err = r.Forest(ctx)
	if err != nil || len(f.Entries) != 4 || len(f.Problems) != 1 || f.Problems[0].File != "index" {
		t.Errorf("read all the same: %v", err)
	}
	res, err := s.r.Save(ctx, s.path("next"), repo.SaveOptions{Pack: small()})
	if err != nil || res.Entry.Number != 6 {
		t.Errorf("%+v %v", res, err)
	}
}

func findError(f *repo.Forest, text string) string {
	_, err := f.Find(text)
	return fmt.Sprint(err)
}

// closedIndex is a medium on which the index may not be read.
type closedIndex struct{ repo.Medium }

func (m *closedIndex) Open(ctx context.Context, name string) (repo.Blob, error) {
	if name == "index" {
		return nil, &fs.PathError{Op: "open", Path: name, Err: fs.ErrPermission}
	}
	return m.Medium.Open(ctx, name)
}

// unreadable is a medium on which one entry cannot be read, for now, and the index is lost.
type unreadable struct {
	repo.Medium
	number string
}

func (m *unreadable) Open(ctx context.Context, name string) (repo.Blob, error) {
	if strings.Contains(name, m.number) || name == "index" {
		return nil, &fs.PathError{Op: "open", Path: name, Err: map[bool]error{true: fs.ErrNotExist, false: fs.ErrPermission}[name == "index"]}
	}
	return m.Medium.Open(ctx, name)
}

// What cannot be read may build on what is to be removed.
func TestRemoveUnread(t *testing.T) {
	ctx := context.Background()
	s := newScene(t)
	r, err := repo.Open(ctx, &unreadable{s.r.Medium(), "000005"}, options())
	must(t, err)
	f, err := r.Forest(ctx)
	must(t, err)
	if numbered(f, 5) != nil || len(f.Problems) == 0 {
		t.Fatal("it was read")
	}
	if _, err := r.Remove(ctx, f.Entries[1:], repo.RemoveOptions{}); !errors.Is(err, fs.ErrPermission) || !strings.Contains(err.Error(), "000005") {
		t.Errorf("removed what something may build on: %v", err)
	}
	s.check(t, []int{1, 2, 3, 4, 5}, false)
}

// A file at a place is removed only when it is the entry's archive.
func TestRemoveAtPlace(t *testing.T) {
	ctx := context.Background()
	s := newScene(t)
	f, err := s.r.Forest(ctx)
	must(t, err)
	_, err = s.r.Relocate(ctx, f, f.Entries[3:], repo.RelocateOptions{Place: repo.Place{Name: "a", Dir: s.path("a")}})
	must(t, err)
	f, err = s.r.Forest(ctx)
	must(t, err)
	mine := filepath.Join(s.path("a"), filepath.FromSlash(f.Entries[4].At.File))
	must(t, os.WriteFile(mine, []byte("somebody's own"), 0o644))
	res, err := s.r.Remove(ctx, f.Entries[3:], repo.RemoveOptions{})
	if err != nil || len(res.Removed) != 2 || len(res.Left) != 1 || !strings.Contains(res.Left[0], "000005") {
		t.Fatalf("%+v %v", res, err)
	}
	if b, err := os.ReadFile(mine); err != nil || string(b) != "somebody's own" {
		t.Errorf("%q %v", b, err)
	}
	if list, err := filepath.Glob(s.path("a/entries/p/000004*")); err != nil || len(list) > 0 {
		t.Errorf("left: %q %v", list, err)
	}
	s.check(t, []int{1, 2, 3}, false)
}

// An archive that is fetched has to be the entry's, before it gets its name.
func TestFetchAnother(t *testing.T) {
	ctx := context.Background()
	s := newScene(t)
	f, err := s.r.Forest(ctx)
	must(t, err)
	e := numbered(f, 1)
	right, err := os.ReadFile(s.file(t, 1, ""))
	must(t, err)
	wrong, err := os.ReadFile(s.file(t, 2, ""))
	must(t, err)
	must(t, s.r.Evict(ctx, e, catalogued(e, right)))
	for _, c := range []struct {
		name string
		b    []byte
		ok   bool
	}{{"another", wrong, false}, {"half", half(right), false}, {"right", right, true}} {
		o := options()
		o.Fetch = func(_ context.Context, _ *repo.At, w io.Writer) error {
			_, err := bytes.NewReader(c.b).WriteTo(w)
			return err
		}
		r, err := repo.OpenDir(ctx, s.path("repo"), o)
		must(t, err)
		f, err := r.Forest(ctx)
		must(t, err)
		rd, err := r.Read(ctx, f, numbered(f, 4))
		if (err == nil) != c.ok {
			t.Errorf("%s: %v", c.name, err)
		}
		if err == nil {
			must(t, rd.Close())
		}
		list, err := filepath.Glob(s.path("repo/entries/p/000001-*.tar"))
		must(t, err)
		if (len(list) == 1) != c.ok {
			t.Errorf("%s: there is %q", c.name, list)
		}
	}
}
