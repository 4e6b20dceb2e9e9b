package chain

import (
	"context"
	"encoding/binary"
	"os"
	"sync"

	"golang.org/x/sync/errgroup"

	"tarvm/archive"
	"tarvm/archive/vmdir"
	"tarvm/delta"
	"tarvm/manifest"
)

// A target is what a directory holds before a restore.
type target struct {
	root    *os.Root
	entries []vmdir.Entry
	byPath  map[manifest.Path]int32
	grids   []delta.Grid   // of files, by entry: how they were scanned
	outs    map[int32]*out // by entry: the wanted file of the same path
	index   blockIndex
	known   map[int32]*delta.Table // by entry: digests of files that need not be read
}

func newTarget(root *os.Root, entries []vmdir.Entry) *target {
	t := &target{root: root, entries: entries, byPath: make(map[manifest.Path]int32), grids: make([]delta.Grid, len(entries)), outs: make(map[int32]*out)}
	for i := range entries {
		t.byPath[entries[i].Path] = int32(i)
	}
	return t
}

// know takes from m the digests of files that are as m has them.
func (t *target) know(m *archive.Manifest, seen map[manifest.Path]vmdir.Identity) {
	if m == nil {
		return
	}
	t.known = make(map[int32]*delta.Table)
	for i := range m.Members {
		o := &m.Members[i]
		n, ok := t.byPath[o.Path]
		if !ok || o.Type != manifest.File || o.Torn {
			continue
		}
		e := &t.entries[n]
		id, ok := seen[o.Path]
		if !ok || e.Ino == 0 || id != e.Identity() || e.Type != o.Type || e.Size != o.Size || !e.ModTime.Equal(o.ModTime.Time) {
			continue
		}
		if tab, err := m.Table(o); err == nil && tab != nil {
			t.known[n] = tab
		}
	}
}

func (t *target) at(p manifest.Path) *vmdir.Entry {
	if t == nil {
		return nil
	}
	if i, ok := t.byPath[p]; ok {
		return &t.entries[i]
	}
	return nil
}

func (t *target) openFile(i int32) (*os.File, error) { return vmdir.OpenRead(t.root, &t.entries[i]) }

// scan reads all regular files and finds out which wanted blocks are there. What cannot be read, or is shorter
// than it was, contributes nothing.
func (t *target) scan(ctx context.Context, c *Chain, k int, outs []*out, workers int, done func(path manifest.Path, n int64)) error {
	type job struct {
		i        int32
		from, to int64 // blocks
		hole     bool
		f        *os.File
		wg       *sync.WaitGroup
	}
	byPath := make(map[manifest.Path]*out, len(outs))
	for _, o := range outs {
		byPath[o.b.m.Path] = o
	}
	for i := range t.entries {
		if o := byPath[t.entries[i].Path]; o != nil && t.entries[i].Type == manifest.File && t.entries[i].Skipped == "" {
			t.outs[int32(i)] = o
		}
	}
	block := c.entries[k].snap.Entry.Block
	g, ctx := errgroup.WithContext(ctx)
	jobs := make(chan job)
	g.Go(func() error {
		defer close(jobs)
		for i := range t.entries {
			e := &t.entries[i]
			if e.Type != manifest.File || e.Skipped != "" {
				continue
			}
			grid := delta.Grid{Block: block}
			if o := t.outs[int32(i)]; o != nil {
				grid = o.grid(block)
				if o.b.m.Size == 0 || e.Size == 0 {
					continue
				}
			} else {
				for _, old := range c.entries[:k+1] {
					if j := old.find(e.Path, 0); j >= 0 && old.snap.Entry.Block == block {
						grid = old.snap.Grid(&old.snap.Members[j])
					}
				}
			}
			t.grids[i] = grid
			if tab := t.known[int32(i)]; tab != nil && tab.Grid == grid {
				if err := t.scanKnown(ctx, int32(i), tab); err != nil {
					return err
				}
				done(e.Path, e.Size)
				continue
			}
			f, err := vmdir.OpenRead(t.root, e)
			if err != nil {
				continue
			}
			ext, err := vmdir.Extents(f, e.Size)
			if err != nil {
				ext = nil
			}
			wg := new(sync.WaitGroup)
			n := grid.Count(e.Size)
			err = func() error {
				per := max(1, (1<<20)/block)
				x := 0
				for at := int64(0); at < n; {
					off, _ := grid.Range(at, e.Size)
					j := job{i: int32(i), from: at, to: min(n, at+per), f: f, wg: wg}
					if ext != nil {
						for x < len(ext) && ext[x].End() <= off {
							x++
						}
						next := n
						if x < len(ext) {
							next = max(at, grid.Index(max(off, ext[x].Offset)))
						}
						if next > at {
							j.hole, j.to = true, next
						}
					}
					wg.Add(1)
					select {
					case jobs <- j:
					case <-ctx.Done():
						wg.Done()
						return context.Cause(ctx)
					}
					at = j.to
				}
				return nil
			}()
			go func() { wg.Wait(); f.Close() }()
			if err != nil {
				wg.Wait()
				return err
			}
		}
		return nil
	})
	for range workers {
		g.Go(func() error {
			buf := make([]byte, max(1<<20, block)+block)
			for j := range jobs {
				err := t.scanRange(j.i, j.f, j.from, j.to, j.hole, buf, done)
				j.wg.Done()
				if err != nil {
					return err
				}
			}
			return nil
		})
	}
	return g.Wait()
}

// scanKnown does what scanRange does for a file whose digests are known.
func (t *target) scanKnown(ctx context.Context, i int32, tab *delta.Table) error {
	const step = 4096
	o := t.outs[i]
	have, want := make([]delta.Digest, step), make([]delta.Digest, step)
	n := tab.Grid.Count(tab.Size)
	for at := int64(0); at < n; at += step {
		if err := context.Cause(ctx); err != nil {
			return err
		}
		h := have[:min(step, n-at)]
		if err := tab.Read(at, h); err != nil {
			return err
		}
		var w []delta.Digest
		if o != nil && o.b.t != nil {
			if k := min(at+int64(len(h)), o.b.count()) - at; k > 0 {
				w = want[:k]
				if err := o.b.read(at, w); err != nil {
					off, _ := o.b.rng(at)
					return o.e.fail(o.b.m, off, err)
				}
			}
		}
		for j, d := range h {
			b := at + int64(j)
			if j < len(w) && w[j] == d {
				o.inPlace.set(b)
				continue
			}
			if !d.IsZero() {
				t.index.put(d, i, b)
			}
		}
	}
	return nil
}

// scanRange digests blocks of file i.
func (t *target) scanRange(i int32, f *os.File, from, to int64, hole bool, buf []byte, done func(manifest.Path, int64)) error {
	e, grid := &t.entries[i], t.grids[i]
	o := t.outs[i]
	start, _ := grid.Range(from, e.Size)
	off, n := grid.Range(to-1, e.Size)
	total := off + n - start
	defer done(e.Path, total)
	var data []byte
	if !hole {
		data = buf[:total]
		if readFull(f, data, start) != nil {
			return nil
		}
	}
	var want []delta.Digest
	count := int64(0)
	if o != nil {
		count = o.b.count()
		if k := min(to, count) - from; k > 0 {
			want = make([]delta.Digest, k)
			if err := o.b.read(from, want); err != nil {
				return o.e.fail(o.b.m, start, err)
			}
		}
	}
	for b := from; b < to; b++ {
		off, n := grid.Range(b, e.Size)
		var p []byte
		if !hole {
			p = data[off-start:][:n]
		}
		in := b-from < int64(len(want))
		if in && o.b.t == nil {
			// A file of one block: its digest is that of its content, zeros or not.
			if e.Size == o.b.m.Size {
				if hole {
					p = make([]byte, n)
				}
				if delta.Sum(p) == want[0] {
					o.inPlace.set(0)
					continue
				}
			}
			in = false
		}
		zero := hole || delta.IsZero(p)
		if in && want[b-from].IsZero() {
			if _, wn := o.b.rng(b); zero || delta.IsZero(p[:min(n, wn)]) {
				o.inPlace.set(b)
			}
			continue
		}
		if zero {
			continue
		}
		d := delta.Sum(p)
		if in && want[b-from] == d {
			o.inPlace.set(b)
			continue
		}
		t.index.put(d, i, b)
	}
	return nil
}

// find implements finder.
func (t *target) find(d delta.Digest, path manifest.Path, i int64, b blocks) (int32, int64, bool) {
	if e, ok := t.byPath[path]; ok {
		if o := t.outs[e]; o != nil && o.inPlace.has2(i, o.b.count()) && sameGrid(o.b, b) {
			var have [1]delta.Digest
			if o.b.read(i, have[:]) == nil && have[0] == d {
				off, _ := o.b.rng(i)
				return e, off, true
			}
		}
	}
	if f, k, ok := t.index.get(d); ok {
		off, _ := t.grids[f].Range(k, t.entries[f].Size)
		return f, off, true
	}
	return 0, 0, false
}

func sameGrid(a, b blocks) bool {
	if a.t == nil || b.t == nil {
		return a.t == nil && b.t == nil
	}
	return a.t.Grid == b.t.Grid
}

func (b bitset) has2(i, n int64) bool { return i < n && b.has(i) }

// blockIndex remembers where in a directory blocks are. Its memory is bounded: what comes when it is full is
// not remembered, and fetched instead.
type blockIndex struct {
	mu    sync.Mutex
	slots []indexSlot
	used  int
}

// indexSlot is half a digest, which tells blocks apart well enough: what is taken from here is verified.
type indexSlot struct {
	tag   [16]byte
	place uint64 // file+1 in the upper 24 bits, block in the lower 40
}

const (
	maxIndexSlots = 2 << 20 // 48 MiB
	placeBits     = 40
)

func (x *blockIndex) put(d delta.Digest, file int32, block int64) {
	if file+1 >= 1<<(64-placeBits) || block >= 1<<placeBits {
		return
	}
	x.mu.Lock()
	defer x.mu.Unlock()
	if x.used >= len(x.slots)/4*3 {
		if len(x.slots) >= maxIndexSlots {
			return
		}
		old := x.slots
		x.slots = make([]indexSlot, max(1024, 2*len(old)))
		for _, s := range old {
			if s.place != 0 {
				*x.slot(s.tag) = s
			}
		}
	}
	if s := x.slot([16]byte(d[:16])); s.place == 0 {
		*s = indexSlot{[16]byte(d[:16]), uint64(file+1)<<placeBits | uint64(block)}
		x.used++
	}
}

func (x *blockIndex) slot(tag [16]byte) *indexSlot {
	mask := uint64(len(x.slots) - 1)
	i := binary.LittleEndian.Uint64(tag[:]) & mask
	for x.slots[i].place != 0 && x.slots[i].tag != tag {
		i = (i + 1) & mask
	}
	return &x.slots[i]
}

// get may run at once with itself, not with put.
func (x *blockIndex) get(d delta.Digest) (file int32, block int64, ok bool) {
	if len(x.slots) == 0 {
		return 0, 0, false
	}
	s := x.slot([16]byte(d[:16]))
	if s.place == 0 {
		return 0, 0, false
	}
	return int32(s.place>>placeBits) - 1, int64(s.place & (1<<placeBits - 1)), true
}
