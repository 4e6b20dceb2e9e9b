package repo_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"tarvm/archive/archivetest"
	"tarvm/archive/repo"
	"tarvm/delta"
)

// A history is what several writers and a reader do to one repository at the same time. Each has opened it by itself, as
// other processes would have.
type history struct {
	t *testing.T
	s *scene

	mu sync.Mutex
	// saved are the entries that were reported as saved; going, those that somebody has begun to remove, gone those of
	// which it was reported.
	saved       map[int]delta.Digest
	going, gone map[int]bool
	log         []string
}

// note remembers what was done, for whoever has to find out what went wrong.
func (h *history) note(format string, args ...any) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.log = append(h.log, fmt.Sprintf(format, args...))
}

// lost reports whether err is what becomes of a writer that others were faster than.
func lost(err error) bool {
	return errors.Is(err, repo.ErrNoEntry) || errors.As(err, new(*repo.OrphansError)) || errors.As(err, new(*repo.BrokenError)) ||
		strings.Contains(err.Error(), "was removed while") || strings.Contains(err.Error(), "which builds on it") || strings.Contains(err.Error(), "does not build on")
}

// pinned are the entries of the scene that nobody removes.
func pinned(n int) bool { return n == 1 || n == 2 || n == 5 }

// writer does some things, one behind the other.
func (h *history) writer(w int, rnd *rand.Rand, export []byte) error {
	ctx := context.Background()
	r, err := repo.OpenDir(ctx, h.s.path("repo"), options())
	if err != nil {
		return err
	}
	vm := h.s.path(fmt.Sprint("vm", w))
	if err := os.Mkdir(vm, 0o755); err != nil {
		return err
	}
	for step := range 6 {
		f, err := r.Forest(ctx)
		if err != nil {
			return err
		}
		for _, p := range f.Problems {
			return fmt.Errorf("writer %d: %s", w, p)
		}
		e := f.Entries[rnd.IntN(len(f.Entries))]
		what := ""
		remove := func(reparent bool) error {
			if pinned(e.Number) {
				what = "nothing"
				return nil
			}
			h.mu.Lock()
			h.going[e.Number] = true
			h.mu.Unlock()
			res, err := r.Remove(ctx, []*repo.Entry{e}, repo.RemoveOptions{Reparent: reparent, Pack: small()})
			if err == nil && len(res.Removed) != 1 {
				err = fmt.Errorf("%d removed", len(res.Removed))
			}
			if err == nil {
				h.mu.Lock()
				h.gone[e.Number] = true
				h.mu.Unlock()
			}
			return err
		}
		switch n := rnd.IntN(12); n {
		case 0, 1, 2, 3:
			what = "save"
			disk := noise(3*block, 1)
			copy(disk[rnd.IntN(3)*block:], noise(1000, uint64(1000+100*w+step)))
			if err := os.WriteFile(filepath.Join(vm, "disk.raw"), disk, 0o644); err != nil {
				return err
			}
			o := repo.SaveOptions{Pack: small(), Project: []string{"p", fmt.Sprint("w", w)}[n%2], Force: true}
			if n < 3 {
				o.Parent = e
			}
			var res *repo.SaveResult
			if res, err = r.Save(ctx, vm, o); err == nil {
				h.mu.Lock()
				if id, there := h.saved[res.Entry.Number]; there {
					err = fmt.Errorf("number %d was given twice, to %s and %s", res.Entry.Number, id.Short(), res.Entry.ID.Short())
				}
				h.saved[res.Entry.Number] = res.Entry.ID
				h.mu.Unlock()
				what += " " + res.Entry.Ref()
			}
		case 4, 5:
			what = "rm " + e.Ref()
			err = remove(false)
		case 6:
			what = "rm --reparent " + e.Ref()
			err = remove(true)
		case 7, 8:
			what = "merge " + e.Ref()
			_, err = r.Merge(ctx, f, e, nil, repo.MergeOptions{Pack: small()})
		case 9:
			what = "import"
			_, err = r.Import(ctx, bytes.NewReader(export), repo.ImportOptions{Workers: 1})
		case 10:
			what = "relocate " + e.Ref()
			place := repo.Place{}
			if rnd.IntN(2) == 0 {
				place = repo.Place{Name: "disk", Dir: h.s.path("place")}
			}
			_, err = r.Relocate(ctx, f, []*repo.Entry{e}, repo.RelocateOptions{Place: place})
		case 11:
			what = "reindex"
			_, err = r.Reindex(ctx)
		}
		h.note("writer %d: %s: %v", w, what, err)
		if err != nil && !lost(err) {
			return fmt.Errorf("writer %d: %s: %w", w, what, err)
		}
	}
	return nil
}

// reader looks at what must be there, until the writers have ended.
func (h *history) reader(done <-chan struct{}) error {
	ctx := context.Background()
	r, err := repo.OpenDir(ctx, h.s.path("repo"), options())
	if err != nil {
		return err
	}
	for {
		select {
		case <-done:
			return nil
		default:
		}
		h.mu.Lock()
		want := make(map[int]delta.Digest)
		for n, id := range h.saved {
			want[n] = id
		}
		h.mu.Unlock()
		f, err := r.Forest(ctx)
		if err != nil {
			return err
		}
		h.mu.Lock()
		for n := range h.going {
			delete(want, n)
		}
		h.mu.Unlock()
		for n, id := range want {
			e := numbered(f, n)
			if e == nil || e.ID != id {
				return fmt.Errorf("the reader does not see #%d: %v", n, e)
			}
			if !pinned(n) {
				continue
			}
			rd, err := r.Read(ctx, f, e)
			if err != nil {
				return fmt.Errorf("the reader: #%d: %w", n, err)
			}
			rd.Close()
		}
		time.Sleep(time.Millisecond) // where there is one processor, the writers are to have it as well
	}
}

// Whatever several writers do at the same time, in whatever order: no entry is lost that nobody removed, none is there twice,
// no number is given twice, and all that is left can be built.
func TestHistories(t *testing.T) {
	base := newScene(t)
	export, err := os.ReadFile(base.path("export"))
	must(t, err)
	count := 120
	if testing.Short() || archivetest.Race {
		count = 12
	}
	const lanes = 4
	for lane := range lanes {
		t.Run(fmt.Sprint(lane), func(t *testing.T) {
			t.Parallel()
			for i := lane; i < count && !t.Failed(); i += lanes {
				h := &history{t: t, s: base.copy(t), saved: make(map[int]delta.Digest), going: make(map[int]bool), gone: make(map[int]bool)}
				for n, id := range h.s.ids {
					h.saved[n] = id
				}
				h.run(2+i%4, uint64(i), export)
				if t.Failed() {
					t.Logf("history %d:\n%s", i, strings.Join(h.log, "\n"))
				}
				os.RemoveAll(h.s.dir)
			}
		})
	}
}

func (h *history) run(writers int, seed uint64, export []byte) {
	t := h.t
	done := make(chan struct{})
	var wg, reading sync.WaitGroup
	errs := make(chan error, writers+1)
	for w := range writers {
		wg.Go(func() { errs <- h.writer(w, rand.New(rand.NewPCG(seed, uint64(w))), export) })
	}
	reading.Go(func() { errs <- h.reader(done) })
	wg.Wait()
	close(done)
	reading.Wait()
	for range writers + 1 {
		if err := <-errs; err != nil {
			t.Error(err)
		}
	}
	var want []int
	h.s.ids = h.saved
	for n := range h.saved {
		if !h.going[n] {
			want = append(want, n)
		}
	}
	slices.Sort(want)
	f := h.s.check(t, want, false)
	for n := range h.gone {
		if numbered(f, n) != nil {
			t.Errorf("#%d was removed, and is there", n)
		}
	}
	h.s.tidy(t)
}
