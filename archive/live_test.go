package archive_test

import (
	"bytes"
	"context"
	"errors"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"tarvm/archive"
	"tarvm/archive/archivetest"
	"tarvm/manifest"
)

func mustDo(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func writeFile(t testing.TB, dir, name string, b []byte) {
	t.Helper()
	mustDo(t, os.WriteFile(filepath.Join(dir, name), b, 0o644))
}

// noise returns n bytes that neither repeat nor compress.
func noise(seed uint64, n int) []byte {
	b := make([]byte, n)
	rand.NewChaCha8([32]byte{byte(seed), byte(seed >> 8), 77}).Read(b)
	return b
}

func member(t testing.TB, s *manifest.Snapshot, p manifest.Path) *manifest.Member {
	t.Helper()
	m := s.Find(p)
	if m == nil {
		t.Fatalf("no member %s", p)
	}
	return m
}

// liveSize is the size of the file under test: with one worker it is longer than what the pipeline has
// read when the first progress is reported.
const liveSize = 8 << 20

// at returns a Progress that calls change when a read of the file, the first of its directory, begins. The
// first report of a read comes when the file's first chunk has been written: a read again begins 200 ms after the one
// before, so that it is not suppressed.
func at(path string, change func(read int)) func(archive.Progress) {
	last := 0
	return func(p archive.Progress) {
		if read := int((p.Done-1)/liveSize) + 1; p.Path == path && read > last {
			last = read
			change(read)
		}
	}
}

// What can happen to a file while it is read. The tests that use it are not parallel: a child of this process that is
// about to start another program has, for a moment, this process's files open, and counts as a machine that runs.
var changes = []struct {
	name string
	do   func(t testing.TB, path string)
}{
	{"written", func(t testing.TB, path string) {
		f, err := os.OpenFile(path, os.O_WRONLY, 0)
		mustDo(t, err)
		_, err = f.WriteAt([]byte("behind what has been read"), liveSize-100_000)
		mustDo(t, errors.Join(err, f.Close()))
	}},
	{"grown", func(t testing.TB, path string) {
		f, err := os.OpenFile(path, os.O_WRONLY|os.O_APPEND, 0)
		mustDo(t, err)
		_, err = f.Write(noise(2, 300_001))
		mustDo(t, errors.Join(err, f.Close()))
	}},
	{"shrunk", func(t testing.TB, path string) {
		st, err := os.Stat(path)
		mustDo(t, err)
		mustDo(t, os.Truncate(path, st.Size()-liveSize/4-1))
	}},
	{"shrunk to less than a block", func(t testing.TB, path string) { mustDo(t, os.Truncate(path, 1000)) }},
	{"emptied", func(t testing.TB, path string) { mustDo(t, os.Truncate(path, 0)) }},
	{"replaced", func(t testing.TB, path string) {
		mustDo(t, os.WriteFile(path+".new", noise(3, liveSize), 0o644))
		mustDo(t, os.Rename(path+".new", path))
	}},
}

// A file that changes once while it is read is read again: the archive holds the later state, and
// plain tar, for which the last member of a name counts, restores that, too.
func TestChangedIsReadAgain(t *testing.T) {
	for _, c := range changes {
		for _, kind := range []string{"full", "increment"} {
			t.Run(c.name+"/"+kind, func(t *testing.T) {
				dir := filepath.Join(t.TempDir(), "vm")
				mustDo(t, os.Mkdir(dir, 0o755))
				writeFile(t, dir, "disk.img", noise(1, liveSize))
				writeFile(t, dir, "other", []byte("other"))
				var chain []packed
				o := archive.PackOptions{Workers: 1}
				if kind == "increment" {
					chain = append(chain, pack(t, dir, archive.PackOptions{}))
					o.Parent = chain[0].manifest(t)
					writeFile(t, dir, "disk.img", noise(5, liveSize))
				}
				if c.name != "replaced" {
					mustDo(t, os.Link(filepath.Join(dir, "disk.img"), filepath.Join(dir, "link")))
				}
				reads := 0
				o.Progress = at("disk.img", func(n int) {
					if reads = n; n == 1 {
						top, err := os.Stat(dir)
						mustDo(t, err)
						c.do(t, filepath.Join(dir, "disk.img"))
						mustDo(t, os.Chtimes(dir, top.ModTime(), top.ModTime())) // directories are as they were walked
					}
				})
				p := pack(t, dir, o)
				if reads == 0 {
					t.Fatal("the file was not changed")
				}
				p.verify(t)
				if s := p.result.Snapshot; len(s.Superseded) != 1 || s.Superseded[0].Path != "disk.img" || member(t, s, "disk.img").Torn {
					t.Errorf("superseded: %v", s.Superseded)
				}
				if len(p.result.Torn) != 0 {
					t.Errorf("torn: %q", p.result.Torn)
				}
				chain = append(chain, p)
				archivetest.Tools(t, "python3")
				out := filepath.Join(t.TempDir(), "out")
				restorePy(t, out, chain...)
				same(t, dir, out)
				if kind == "full" {
					archivetest.Tools(t, "tar")
					file := filepath.Join(t.TempDir(), "a.tar")
					mustDo(t, os.WriteFile(file, p.data, 0o600))
					to := t.TempDir()
					command(t, to, "tar", "-xpf", file)
					mustDo(t, os.RemoveAll(filepath.Join(to, ".tarvm")))
					fixTop(t, dir, to)
					same(t, dir, to)
				}
				// The next increment builds on the state that counts.
				writeFile(t, dir, "other", []byte("changed"))
				next := pack(t, dir, archive.PackOptions{Parent: p.manifest(t)})
				next.verify(t)
				if member(t, next.result.Snapshot, "disk.img").Stored.As != manifest.AsSame {
					t.Errorf("the next increment stores the file: %+v", next.result.Stats)
				}
			})
		}
	}
}

// A file that never stands still ends packing after as many reads as were asked for.
func TestChangedEveryTime(t *testing.T) {
	for _, tries := range []int{0, 1, 2} {
		for _, kind := range []string{"full", "increment"} {
			dir := t.TempDir()
			writeFile(t, dir, "disk.img", noise(1, liveSize))
			o := archive.PackOptions{Workers: 1, Tries: tries}
			if kind == "increment" {
				o.Parent = pack(t, dir, archive.PackOptions{}).manifest(t)
			}
			reads := 0
			o.Progress = at("disk.img", func(n int) {
				reads = n
				changes[0].do(t, filepath.Join(dir, "disk.img"))
			})
			_, err := tryPack(dir, o)
			want := tries
			if tries == 0 {
				want = 3
			}
			var ce *archive.ChangedError
			if !errors.As(err, &ce) || ce.Path != "disk.img" || ce.Tries != want || reads != want {
				t.Errorf("%s, %d tries: %v after %d reads", kind, tries, err, reads)
			} else if strings.Count(err.Error(), "disk.img") != 1 {
				t.Errorf("the message names the file more or less than once: %v", err)
			}
		}
	}
}

// Live, the same file is stored as it was read, and marked.
func TestChangedLive(t *testing.T) {
	for _, c := range append(changes, struct {
		name string
		do   func(t testing.TB, path string)
	}{"removed", func(t testing.TB, path string) { mustDo(t, os.Remove(path)) }}) {
		for _, kind := range []string{"full", "increment"} {
			t.Run(c.name+"/"+kind, func(t *testing.T) {
				dir := t.TempDir()
				writeFile(t, dir, "disk.img", noise(1, liveSize))
				writeFile(t, dir, "other", []byte("other"))
				var chain []packed
				o := archive.PackOptions{Workers: 1, Live: true}
				if kind == "increment" {
					chain = append(chain, pack(t, dir, archive.PackOptions{}))
					o.Parent = chain[0].manifest(t)
					writeFile(t, dir, "disk.img", noise(5, liveSize))
				}
				reads := 0
				o.Progress = at("disk.img", func(n int) {
					if reads = n; n == 1 {
						c.do(t, filepath.Join(dir, "disk.img"))
					}
				})
				p := pack(t, dir, o)
				p.verify(t)
				chain = append(chain, p)
				if m := member(t, p.result.Snapshot, "disk.img"); reads != 1 || !m.Torn || m.Size != liveSize {
					t.Fatalf("%d reads, torn %v, %d bytes", reads, m.Torn, m.Size)
				}
				if len(p.result.Torn) != 1 || p.result.Torn[0] != "disk.img" || !p.result.Snapshot.Entry.Live {
					t.Errorf("torn: %q, live: %v", p.result.Torn, p.result.Snapshot.Entry.Live)
				}
				if m := member(t, p.open(t).Manifest().Snapshot, "disk.img"); !m.Torn {
					t.Error("the manifest that was read back does not say so")
				}
				archivetest.Tools(t, "python3")
				out := filepath.Join(t.TempDir(), "out")
				restorePy(t, out, chain...)
				agree(t, p, out)
				// It is read again next time, even when times are trusted.
				if c.name == "removed" {
					return
				}
				next := pack(t, dir, archive.PackOptions{Parent: p.manifest(t), TrustTimes: true})
				next.verify(t)
				restored := filepath.Join(t.TempDir(), "next")
				restorePy(t, restored, append(chain, next)...)
				same(t, dir, restored)
			})
		}
	}
}

// agree compares a restored directory with the manifest's digests by packing it.
func agree(t testing.TB, p packed, dir string) {
	t.Helper()
	again := pack(t, dir, archive.PackOptions{})
	for i := range p.result.Snapshot.Members {
		m := &p.result.Snapshot.Members[i]
		if o := member(t, again.result.Snapshot, m.Path); m.Type == manifest.File && (o.Digest != m.Digest || o.Size != m.Size) {
			t.Errorf("%s: restored with digest %s and %d bytes, packed with %s and %d", m.Path, o.Digest, o.Size, m.Digest, m.Size)
		}
	}
}

// A file that is gone when its turn comes is an error that names it.
func TestVanished(t *testing.T) {
	for _, size := range []int{5, 3 << 20} {
		dir := t.TempDir()
		writeFile(t, dir, "a", []byte("a"))
		writeFile(t, dir, "gone", noise(1, size))
		plan, err := archive.MakePlan(context.Background(), dir, archive.PackOptions{Codec: codecNamed(t, "none")})
		mustDo(t, err)
		defer plan.Close()
		mustDo(t, os.Remove(filepath.Join(dir, "gone")))
		_, err = plan.Pack(context.Background(), &bytes.Buffer{}, nil)
		if !errors.Is(err, fs.ErrNotExist) || strings.Count(err.Error(), "gone") != 1 {
			t.Errorf("%d bytes: %v", size, err)
		}
	}
	// Between two reads, too.
	dir := t.TempDir()
	writeFile(t, dir, "gone", noise(1, liveSize))
	_, err := tryPack(dir, archive.PackOptions{Workers: 1, Progress: at("gone", func(int) { os.Remove(filepath.Join(dir, "gone")) })})
	if !errors.Is(err, fs.ErrNotExist) || strings.Count(err.Error(), "gone") != 1 {
		t.Errorf("between two reads: %v", err)
	}
}

// Live, what is gone is left out, and said: only what other names still have of it stays.
func TestVanishedLive(t *testing.T) {
	archivetest.Tools(t, "python3")
	for _, kind := range []string{"full", "increment"} {
		t.Run(kind, func(t *testing.T) {
			dir := filepath.Join(t.TempDir(), "vm")
			mustDo(t, os.MkdirAll(filepath.Join(dir, "logs"), 0o755))
			writeFile(t, dir, "a", []byte("a"))
			for i, n := range []string{"gone", "large", "logs/rotated", "twice", "twice-large", "other", "became"} {
				size := 1000
				if strings.HasSuffix(n, "large") {
					size = 3 << 20
				}
				writeFile(t, dir, n, noise(uint64(i), size))
			}
			for _, l := range [][2]string{{"twice", "u1"}, {"twice", "u2"}, {"twice", "u3"}, {"twice-large", "v1"}, {"twice-large", "v2"}, {"other", "p1"}} {
				mustDo(t, os.Link(filepath.Join(dir, l[0]), filepath.Join(dir, l[1])))
			}
			var chain []packed
			o := archive.PackOptions{Codec: codecNamed(t, "none"), Live: true}
			if kind == "increment" {
				chain = append(chain, pack(t, dir, archive.PackOptions{}))
				o.Parent = chain[0].manifest(t)
				for i, n := range []string{"gone", "large", "twice", "twice-large"} {
					f, err := os.OpenFile(filepath.Join(dir, n), os.O_WRONLY, 0)
					mustDo(t, err)
					_, err = f.Write(noise(uint64(50+i), 900)) // the other names see it, too
					mustDo(t, errors.Join(err, f.Close()))
				}
			}
			plan, err := archive.MakePlan(context.Background(), dir, o)
			mustDo(t, err)
			defer plan.Close()
			gone := []manifest.Path{"became", "gone", "large", "logs/rotated", "other", "p1", "twice", "twice-large", "u1"}
			for _, n := range gone {
				mustDo(t, os.Remove(filepath.Join(dir, string(n))))
			}
			mustDo(t, os.Mkdir(filepath.Join(dir, "became"), 0o700))
			var out, side bytes.Buffer
			r, err := plan.Pack(context.Background(), &out, &side)
			mustDo(t, err)
			p := packed{out.Bytes(), side.Bytes(), r}
			p.verify(t)
			if got := slices.Sorted(slices.Values(r.Vanished)); !slices.Equal(got, gone) {
				t.Errorf("vanished: %q, want %q", got, gone)
			}
			if n := member(t, p.open(t).Manifest().Snapshot, "u3"); n.Type != manifest.Link || n.Target != "u2" {
				t.Errorf("u3: %+v", n.State)
			}
			chain = append(chain, p)
			restored := filepath.Join(t.TempDir(), "out")
			restorePy(t, restored, chain...)
			mustDo(t, os.Remove(filepath.Join(dir, "became")))
			top, err := os.Stat(restored)
			mustDo(t, err)
			mustDo(t, os.Chtimes(dir, top.ModTime(), top.ModTime())) // as they were walked
			logs, err := os.Stat(filepath.Join(restored, "logs"))
			mustDo(t, err)
			mustDo(t, os.Chtimes(filepath.Join(dir, "logs"), logs.ModTime(), logs.ModTime()))
			same(t, dir, restored)
			if kind == "full" {
				archivetest.Tools(t, "tar")
				to := t.TempDir()
				file := filepath.Join(t.TempDir(), "a.tar")
				mustDo(t, os.WriteFile(file, p.data, 0o600))
				command(t, to, "tar", "-xpf", file)
				mustDo(t, os.RemoveAll(filepath.Join(to, ".tarvm")))
				fixTop(t, dir, to)
				same(t, dir, to)
			} else {
				to, said := tarIncrements(t, chain...)
				for _, n := range gone {
					if _, err := os.Lstat(filepath.Join(to, string(n))); !errors.Is(err, fs.ErrNotExist) {
						t.Errorf("after tar -x -g there is %s: %v; tar said: %s", n, err, said)
					}
				}
				for _, n := range []string{"a", "u2", "logs"} {
					if _, err := os.Lstat(filepath.Join(to, n)); err != nil {
						t.Errorf("%v; tar said: %s", err, said)
					}
				}
			}
			next := pack(t, dir, archive.PackOptions{Parent: p.manifest(t), TrustTimes: true})
			next.verify(t)
			if next.result.ID != r.ID {
				t.Error("the same state packed again is another one")
			}
		})
	}
}

// What happens between the walk and the read is no tear: the file is packed as it is when it is read.
func TestChangedBeforeItsTurn(t *testing.T) {
	for name, c := range map[string]struct{ before, after []byte }{
		"small":            {noise(1, 3000), noise(2, 3100)},
		"small, blocks":    {noise(1, 300_000), noise(2, 200_000)},
		"large":            {noise(1, 3<<20), noise(2, 2<<20)},
		"large to small":   {noise(1, 3<<20), noise(2, 200_000)},
		"large to block":   {noise(1, 3<<20), noise(2, 64<<10)},
		"large to nothing": {noise(1, 3<<20), nil},
		"small to large":   {noise(1, 3000), noise(2, 2<<20)},
		"small to larger":  {noise(1, 3000), noise(2, 9<<20)},
		"nothing to large": {nil, noise(2, 9<<20)},
	} {
		for _, live := range []bool{false, true} {
			for _, tries := range []int{0, 1} {
				dir := t.TempDir()
				writeFile(t, dir, "f", c.before)
				o := archive.PackOptions{Codec: codecNamed(t, "none"), Live: live, Tries: tries}
				plan, err := archive.MakePlan(context.Background(), dir, o)
				mustDo(t, err)
				defer plan.Close()
				writeFile(t, dir, "f", c.after)
				var out, side bytes.Buffer
				r, err := plan.Pack(context.Background(), &out, &side)
				if err != nil {
					t.Errorf("%s, live %v, %d tries: %v", name, live, tries, err)
					continue
				}
				p := packed{out.Bytes(), side.Bytes(), r}
				p.verify(t)
				again := pack(t, dir, archive.PackOptions{})
				got, want := member(t, r.Snapshot, "f"), member(t, again.result.Snapshot, "f")
				if got.Digest != want.Digest || got.Size != want.Size || got.Torn {
					t.Errorf("%s, live %v, %d tries: %d bytes, digest %s, torn %v; the file has %d, %s",
						name, live, tries, got.Size, got.Digest, got.Torn, want.Size, want.Digest)
				}
			}
		}
	}
}

// Small files that somebody writes without a pause.
func TestBusySmallFiles(t *testing.T) {
	dir := t.TempDir()
	names := []string{"a.log", "b.log"}
	for i, n := range names {
		writeFile(t, dir, n, noise(uint64(i), 600_000))
	}
	done := make(chan struct{})
	var writers sync.WaitGroup
	for _, n := range names {
		f, err := os.OpenFile(filepath.Join(dir, n), os.O_WRONLY, 0)
		mustDo(t, err)
		writers.Go(func() {
			defer f.Close()
			for i := int64(0); ; i++ {
				select {
				case <-done:
					return
				default:
				}
				// A size of its own each time, so that no clock has to tell.
				if err := f.Truncate(500_000 + i%200_000); err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	defer writers.Wait()
	defer close(done)
	// That a file stands still for the moment of a read is possible, not likely.
	for range 20 {
		_, err := tryPack(dir, archive.PackOptions{})
		if err == nil {
			continue
		}
		var ce *archive.ChangedError
		if !errors.As(err, &ce) || ce.Tries != 3 || !strings.HasSuffix(string(ce.Path), ".log") {
			t.Fatal(err)
		}
		break
	}
	torn := 0
	for range 20 {
		p := pack(t, dir, archive.PackOptions{Live: true})
		p.verify(t)
		for i, n := range names {
			m := member(t, p.result.Snapshot, manifest.Path(n))
			if m.Torn {
				torn++
			}
			if m.Size < 500_000 || m.Size > 700_000 {
				t.Fatalf("%s: %d bytes", n, m.Size)
			}
			// Whatever was written, the first half of a million never changed.
			r, err := p.open(t).Manifest().Table(m)
			if err != nil || r == nil {
				t.Fatal(err)
			}
			body := p.data[m.Stored.Body:][:500_000]
			if !bytes.Equal(body, noise(uint64(i), 600_000)[:500_000]) {
				t.Fatalf("%s, torn %v: what nobody wrote is not what was stored", n, m.Torn)
			}
		}
		if torn > 0 {
			break
		}
	}
	if torn == 0 {
		t.Error("in 20 runs no file was torn")
	}
}
