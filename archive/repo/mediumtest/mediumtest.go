// Package mediumtest says, as a test, what a repository expects of its medium.
//
// A medium's own test calls [Run] with a function that makes an empty one. What only some media have (a lock of a process that
// was killed, a second process) is tested by them.
package mediumtest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"tarvm/archive/repo"
)

// Options are about the medium that is tested.
type Options struct {
	// New makes an empty medium.
	New func(t *testing.T) repo.Medium
	// Again opens another one on the same files, as another process would. nil: the same one is used.
	Again func(t *testing.T, m repo.Medium) repo.Medium
	// NoReadAfterRemove: a file that is open cannot be read when it is removed.
	NoReadAfterRemove bool
}

// Run tests a medium.
func Run(t *testing.T, o Options) {
	if o.Again == nil {
		o.Again = func(_ *testing.T, m repo.Medium) repo.Medium { return m }
	}
	for _, c := range []struct {
		name string
		test func(t *testing.T, m, again repo.Medium)
	}{
		{"empty", empty}, {"put", put}, {"create", create}, {"exist", exist}, {"abort", abort}, {"remove", remove},
		{"names", names}, {"atomic put", atomicPut}, {"many writers", manyWriters}, {"sweep", sweep},
		{"lock", lock}, {"lock waits", lockWaits}, {"lock of many", lockOfMany}, {"cancelled", cancelled},
	} {
		t.Run(c.name, func(t *testing.T) {
			m := o.New(t)
			c.test(t, m, o.Again(t, m))
		})
	}
	if !o.NoReadAfterRemove {
		t.Run("read after remove", func(t *testing.T) { readAfterRemove(t, o.New(t)) })
	}
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func content(n int, seed byte) []byte {
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(i) ^ byte(i>>8) ^ seed
	}
	return b
}

// get reads a file, by pieces.
func get(t *testing.T, m repo.Medium, name string) []byte {
	t.Helper()
	b, err := m.Open(t.Context(), name)
	must(t, err)
	defer b.Close()
	p := make([]byte, b.Size())
	if _, err := io.ReadFull(io.NewSectionReader(b, 0, b.Size()), p); err != nil {
		t.Fatal(err)
	}
	if n, err := b.ReadAt(make([]byte, 1), b.Size()); n != 0 || !errors.Is(err, io.EOF) {
		t.Errorf("%s: at the end: %d bytes, %v", name, n, err)
	}
	return p
}

func list(t *testing.T, m repo.Medium, dir string) []string {
	t.Helper()
	ns, err := m.List(t.Context(), dir)
	must(t, err)
	var s []string
	for _, n := range ns {
		name := n.Name
		if n.Dir {
			name += "/"
		}
		s = append(s, name)
	}
	slices.Sort(s)
	return s
}

func wantList(t *testing.T, m repo.Medium, dir string, want ...string) {
	t.Helper()
	if got := list(t, m, dir); !slices.Equal(got, want) {
		t.Errorf("in %q are %q, want %q", dir, got, want)
	}
}

func upload(t *testing.T, m repo.Medium, b []byte) repo.Upload {
	t.Helper()
	u, err := m.Create(t.Context())
	must(t, err)
	for part := range slices.Chunk(b, 1000) {
		n, err := u.Write(part)
		if must(t, err); n != len(part) {
			t.Fatalf("wrote %d of %d bytes", n, len(part))
		}
	}
	return u
}

func empty(t *testing.T, m, _ repo.Medium) {
	if m.String() == "" {
		t.Error("it does not say where it is")
	}
	wantList(t, m, "entries")
	wantList(t, m, "entries/none/at/all")
	if _, err := m.Open(t.Context(), "entries/none"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("open: %v", err)
	}
	must(t, m.Remove(t.Context(), "entries/none/000001-a.tar"))
	must(t, m.Sweep(t.Context()))
}

func put(t *testing.T, m, again repo.Medium) {
	for i, b := range [][]byte{{}, content(1, 1), content(70_000, 2), content(3, 3)} {
		must(t, m.Put(t.Context(), "index", b))
		if got := get(t, again, "index"); !bytes.Equal(got, b) {
			t.Errorf("%d: it is another file", i)
		}
	}
	must(t, m.Put(t.Context(), "entries/a project/000001-x.tar.at", []byte("{}")))
	wantList(t, again, "entries/a project", "000001-x.tar.at")
	wantList(t, again, "entries", "a project/")
	// The caller's bytes are its own afterwards.
	b := []byte("before")
	must(t, m.Put(t.Context(), "index", b))
	copy(b, "behind")
	if got := get(t, again, "index"); string(got) != "before" {
		t.Errorf("it kept the caller's slice: %q", got)
	}
}

func create(t *testing.T, m, again repo.Medium) {
	want := content(100_001, 4)
	u := upload(t, m, want)
	wantList(t, again, "entries")
	b, err := u.Open(t.Context())
	must(t, err)
	got := make([]byte, b.Size())
	_, err = io.ReadFull(io.NewSectionReader(b, 0, b.Size()), got)
	must(t, err)
	if !bytes.Equal(got, want) {
		t.Error("before it has a name it is another file")
	}
	must(t, b.Close())
	const name = "entries/web server/000001-é name.tar.zst"
	must(t, u.Commit(t.Context(), name))
	u.Abort()
	if !bytes.Equal(get(t, again, name), want) {
		t.Error("it is another file")
	}
	wantList(t, again, "entries/web server", "000001-é name.tar.zst")
	must(t, upload(t, m, nil).Commit(t.Context(), "entries/web server/000002-.tar"))
	if b := get(t, again, "entries/web server/000002-.tar"); len(b) != 0 {
		t.Errorf("an empty file has %d bytes", len(b))
	}
}

func exist(t *testing.T, m, again repo.Medium) {
	const name = "entries/p/000001-a.tar"
	must(t, upload(t, m, []byte("one")).Commit(t.Context(), name))
	u := upload(t, again, []byte("two"))
	if err := u.Commit(t.Context(), name); !errors.Is(err, fs.ErrExist) {
		t.Errorf("a second file of the same name: %v", err)
	}
	if err := u.Commit(t.Context(), "entries/p/000002-a.tar"); err == nil {
		t.Error("an upload that had ended was given a name")
	}
	u.Abort()
	wantList(t, m, "entries/p", "000001-a.tar")
	if got := get(t, again, name); string(got) != "one" {
		t.Errorf("it is %q", got)
	}
}

func abort(t *testing.T, m, again repo.Medium) {
	u := upload(t, m, content(5000, 1))
	u.Abort()
	u.Abort()
	if err := u.Commit(t.Context(), "entries/p/000001-a.tar"); err == nil {
		t.Error("an upload that was dropped was given a name")
	}
	wantList(t, again, "entries")
}

func remove(t *testing.T, m, again repo.Medium) {
	for i := range 3 {
		must(t, m.Put(t.Context(), fmt.Sprintf("entries/p/00000%d-a.tar", i+1), content(10, byte(i))))
	}
	must(t, m.Remove(t.Context(), "entries/p/000002-a.tar"))
	must(t, again.Remove(t.Context(), "entries/p/000002-a.tar"))
	wantList(t, again, "entries/p", "000001-a.tar", "000003-a.tar")
	must(t, m.Remove(t.Context(), "entries/p/000001-a.tar"))
	must(t, m.Remove(t.Context(), "entries/p/000003-a.tar"))
	wantList(t, again, "entries")
	must(t, m.Put(t.Context(), "entries/p/000004-a.tar", nil))
	wantList(t, again, "entries/p", "000004-a.tar")
}

// names that are none, or lead out of the medium.
func names(t *testing.T, m, _ repo.Medium) {
	for _, n := range []string{"", "/etc/passwd", "../x", "entries/../../x", "entries//x", "entries/./x", "entries/", "a\x00b"} {
		if b, err := m.Open(t.Context(), n); err == nil {
			b.Close()
			t.Errorf("open %q: no error", n)
		}
		if err := m.Put(t.Context(), n, nil); err == nil {
			t.Errorf("put %q: no error", n)
		}
		if err := m.Remove(t.Context(), n); err == nil {
			t.Errorf("remove %q: no error", n)
		}
		if _, err := m.List(t.Context(), n); err == nil {
			t.Errorf("list %q: no error", n)
		}
		u := upload(t, m, []byte("x"))
		if err := u.Commit(t.Context(), n); err == nil {
			t.Errorf("commit %q: no error", n)
		}
	}
	long := "entries/p/" + strings.Repeat("x", 100_000)
	if err := m.Put(t.Context(), long, nil); err == nil {
		wantList(t, m, "entries/p", strings.Repeat("x", 100_000)) // some media can
	}
	for i, n := range []string{"a b", "-rf", "*", "$(x)", "a'b\"c", "日本", strings.Repeat("y", 200)} {
		must(t, m.Put(t.Context(), "entries/q/"+n, []byte{byte(i)}))
		if got := get(t, m, "entries/q/"+n); len(got) != 1 || got[0] != byte(i) {
			t.Errorf("%q: it is another file", n)
		}
	}
}

// atomicPut has readers that see what was before, or what is afterwards.
func atomicPut(t *testing.T, m, again repo.Medium) {
	const name = "index"
	must(t, m.Put(t.Context(), name, bytes.Repeat([]byte{0}, 20_000)))
	var done atomic.Bool
	var wg sync.WaitGroup
	for range 2 {
		wg.Go(func() {
			for !done.Load() {
				b, err := again.Open(t.Context(), name)
				if err != nil {
					t.Errorf("a file that is replaced: %v", err)
					return
				}
				p := make([]byte, b.Size())
				_, err = io.ReadFull(io.NewSectionReader(b, 0, b.Size()), p)
				b.Close()
				if err != nil || len(p) < 20_000 || bytes.Count(p, p[:1]) != len(p) {
					t.Errorf("neither the file before nor the one behind: %d bytes, %v", len(p), err)
					return
				}
			}
		})
	}
	for i := range 30 {
		must(t, m.Put(t.Context(), name, bytes.Repeat([]byte{byte(i)}, 20_000+i)))
	}
	done.Store(true)
	wg.Wait()
}

func manyWriters(t *testing.T, m, again repo.Medium) {
	var wg sync.WaitGroup
	for w := range 4 {
		wg.Go(func() {
			on := m
			if w%2 == 1 {
				on = again
			}
			for i := range 5 {
				u, err := on.Create(t.Context())
				if err != nil {
					t.Error(err)
					return
				}
				_, err = u.Write(content(3000, byte(w*5+i)))
				if err = errors.Join(err, on.Sweep(t.Context()), u.Commit(t.Context(), fmt.Sprintf("entries/p/%d-%d", w, i))); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	if got := list(t, m, "entries/p"); len(got) != 20 {
		t.Errorf("of 20 files %d are there: %q", len(got), got)
	}
	for w := range 4 {
		for i := range 5 {
			if !bytes.Equal(get(t, m, fmt.Sprintf("entries/p/%d-%d", w, i)), content(3000, byte(w*5+i))) {
				t.Errorf("file %d of writer %d is another", i, w)
			}
		}
	}
}

// sweep leaves alone what a writer that lives is writing.
func sweep(t *testing.T, m, again repo.Medium) {
	u := upload(t, m, content(2000, 7))
	must(t, again.Sweep(t.Context()))
	must(t, m.Sweep(t.Context()))
	_, err := u.Write([]byte("more"))
	must(t, err)
	must(t, u.Commit(t.Context(), "entries/p/x"))
	if got := get(t, again, "entries/p/x"); len(got) != 2004 {
		t.Errorf("it has %d bytes", len(got))
	}
}

func readAfterRemove(t *testing.T, m repo.Medium) {
	want := content(200_000, 9)
	must(t, m.Put(t.Context(), "entries/p/x", want))
	b, err := m.Open(t.Context(), "entries/p/x")
	must(t, err)
	defer b.Close()
	must(t, m.Remove(t.Context(), "entries/p/x"))
	got := make([]byte, len(want))
	if _, err := b.ReadAt(got, 0); err != nil && !errors.Is(err, io.EOF) || !bytes.Equal(got, want) {
		t.Errorf("a file that was removed while it was read: %v", err)
	}
	must(t, m.Put(t.Context(), "index", want))
	i, err := m.Open(t.Context(), "index")
	must(t, err)
	defer i.Close()
	must(t, m.Put(t.Context(), "index", nil))
	clear(got)
	if _, err := i.ReadAt(got, 0); err != nil && !errors.Is(err, io.EOF) || !bytes.Equal(got, want) {
		t.Errorf("a file that was replaced while it was read: %v", err)
	}
}

func owner(doing string) repo.Owner {
	return repo.Owner{Host: "host", PID: 1, User: "someone", Doing: doing, Since: time.Now().UTC()}
}

func lock(t *testing.T, m, again repo.Medium) {
	for range 3 {
		release, err := m.Lock(t.Context(), owner("save"), func(repo.Owner) { t.Error("it waited for nobody") })
		must(t, err)
		must(t, m.Put(t.Context(), "index", nil)) // by who has it, as ever
		must(t, release())
		release, err = again.Lock(t.Context(), owner("rm"), nil)
		must(t, err)
		must(t, release())
	}
}

func lockWaits(t *testing.T, m, again repo.Medium) {
	release, err := m.Lock(t.Context(), owner("save"), nil)
	must(t, err)
	// No more time: it says who has it.
	ctx, cancel := context.WithTimeout(t.Context(), 120*time.Millisecond)
	defer cancel()
	told := 0
	_, err = again.Lock(ctx, owner("rm"), func(o repo.Owner) {
		if told++; o.Doing != "save" || o.User != "someone" {
			t.Errorf("it waits for %+v", o)
		}
	})
	var busy *repo.BusyError
	if !errors.As(err, &busy) || busy.Owner.Doing != "save" || told != 1 || !strings.Contains(err.Error(), "someone") {
		t.Errorf("with a deadline: %v, told %d times", err, told)
	}
	// Cancelled: that is the error.
	why := errors.New("enough")
	ctx2, cancel2 := context.WithCancelCause(t.Context())
	if _, err := again.Lock(ctx2, owner("rm"), func(repo.Owner) { cancel2(why) }); !errors.Is(err, why) {
		t.Errorf("cancelled: %v", err)
	}
	// Released: the one that waits gets it.
	got := make(chan error, 1)
	waits := make(chan bool, 1)
	go func() {
		release, err := again.Lock(context.WithoutCancel(t.Context()), owner("rm"), func(repo.Owner) { waits <- true })
		if err == nil {
			err = release()
		}
		got <- err
	}()
	<-waits
	select {
	case err := <-got:
		t.Fatalf("two had the lock: %v", err)
	case <-time.After(10 * time.Millisecond):
	}
	must(t, release())
	select {
	case err := <-got:
		must(t, err)
	case <-time.After(20 * time.Second):
		t.Fatal("it was not given on")
	}
}

// lockOfMany counts in a file, which loses counts when two have the lock.
func lockOfMany(t *testing.T, m, again repo.Medium) {
	must(t, m.Put(t.Context(), "count", []byte{0}))
	var holders, most atomic.Int32
	var wg sync.WaitGroup
	const writers, rounds = 4, 3
	for w := range writers {
		wg.Go(func() {
			on := m
			if w%2 == 1 {
				on = again
			}
			for range rounds {
				release, err := on.Lock(t.Context(), owner("save"), nil)
				if err != nil {
					t.Error(err)
					return
				}
				if n := holders.Add(1); n > most.Load() {
					most.Store(n)
				}
				b := get(t, on, "count")
				err = on.Put(t.Context(), "count", []byte{b[0] + 1})
				holders.Add(-1)
				if err = errors.Join(err, release()); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	if n := get(t, m, "count"); int(n[0]) != writers*rounds || most.Load() != 1 {
		t.Errorf("counted to %d of %d; %d had the lock at once", n[0], writers*rounds, most.Load())
	}
}

func cancelled(t *testing.T, m, _ repo.Medium) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := m.List(ctx, "."); !errors.Is(err, context.Canceled) {
		t.Errorf("list: %v", err)
	}
}
