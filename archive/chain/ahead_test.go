package chain

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"sync/atomic"
	"testing"

	"tarvm/archive"
	codecs "tarvm/archive/codec/all"
)

const testBlock = 64 << 10 // the usual block

// jumpy is a chain of three archives with a disk whose blocks are spread over their frames.
type jumpy struct {
	disk []byte
	raw  [][]byte
}

func newJumpy(t *testing.T) *jumpy {
	t.Helper()
	j := &jumpy{disk: make([]byte, 6<<20+1000)}
	rnd := rand.New(rand.NewPCG(3, 9))
	dir := t.TempDir()
	var parent *archive.Manifest
	for i, every := range []int{1, 3, 5} {
		for off := i; off < len(j.disk); off += every * testBlock {
			if i == 0 && off/testBlock%7 == 0 {
				continue // zeros
			}
			b := j.disk[off:min(off+testBlock, len(j.disk))]
			if i > 0 {
				b = b[:min(len(b), 5000)] // of two sources, then
			}
			for k := range b {
				b[k] = byte(rnd.Uint32())
			}
		}
		if err := os.WriteFile(filepath.Join(dir, "disk.raw"), j.disk, 0o600); err != nil {
			t.Fatal(err)
		}
		_, m, b := pack(t, dir, packOptions{codec: "gzip", parent: parent})
		parent = m
		j.raw = append(j.raw, b)
	}
	return j
}

// countReads counts reads of an archive: each frame takes one.
type countReads struct {
	*bytes.Reader
	n *atomic.Int64
}

func (c countReads) ReadAt(p []byte, off int64) (int, error) {
	c.n.Add(1)
	return c.Reader.ReadAt(p, off)
}

// open opens the disk, anew, and looks once where everything is. It returns the number of frames, too.
func (j *jumpy) open(t *testing.T) (f *File, frames int, reads *atomic.Int64) {
	t.Helper()
	reads = new(atomic.Int64)
	var archs []*archive.Archive
	for _, b := range j.raw {
		a, err := archive.Open(countReads{bytes.NewReader(b), reads}, codecs.Codecs())
		if err != nil {
			t.Fatal(err)
		}
		frames += a.Data().Count()
		archs = append(archs, a)
	}
	c, err := New(archs)
	if err != nil {
		t.Fatal(err)
	}
	if f, err = c.Open(2, "disk.raw"); err != nil {
		t.Fatal(err)
	}
	if err := f.b.check(); err != nil {
		t.Fatal(err)
	}
	for off := int64(0); off < f.Size(); {
		x, err := f.MapAt(off)
		if err != nil {
			t.Fatal(err)
		}
		off = x.End()
	}
	reads.Store(0)
	return f, frames, reads
}

// idle checks that nothing is expected or kept.
func (a *ahead) idle(t *testing.T) {
	t.Helper()
	if len(a.blocks)+len(a.frames)+len(a.held) != 0 || a.pages.used != 0 {
		t.Errorf("%d blocks, %d frames, %d buffers, %d bytes are left", len(a.blocks), len(a.frames), len(a.held), a.pages.used)
	}
}

// TestAhead: what is expected is read with each frame decoded once, if there is room, in any order and number of
// goroutines; with less room it takes more.
func TestAhead(t *testing.T) {
	j := newJumpy(t)
	for _, workers := range []int{1, 4} {
		for _, most := range []int64{0, 20 * testBlock, testBlock, 1} {
			t.Run(fmt.Sprint(workers, "workers", most), func(t *testing.T) {
				f, frames, reads := j.open(t)
				f.c.ahead.pages.most = most
				order := rand.New(rand.NewPCG(1, 2)).Perm(int(f.b.count()))
				x := f.Ahead()
				for _, i := range order {
					x.Expect(f.b.rng(int64(i)))
				}
				todo := make(chan int)
				var wg sync.WaitGroup
				for range workers {
					wg.Go(func() {
						p := bytes.Repeat([]byte{0xa5}, testBlock)
						for i := range todo {
							off, n := f.b.rng(int64(i))
							lo, hi := int64(0), n
							if i%4 == 0 {
								lo, hi = 100, n-100 // a part
							}
							if k, err := f.ReadAt(p[lo:hi], off+lo); err != nil || !bytes.Equal(p[lo:hi], j.disk[off+lo:off+hi]) {
								t.Errorf("block %d: %d bytes, %v, or other bytes", i, k, err)
							}
						}
					})
				}
				for _, i := range order {
					todo <- i
				}
				close(todo)
				wg.Wait()
				if n := int(reads.Load()); most == 0 && n > frames {
					t.Errorf("%d of %d frames were decoded", n, frames)
				} else if most == 1 && n < 2*frames {
					t.Errorf("%d frames were decoded without room: the test shows nothing", n)
				}
				f.c.ahead.idle(t)
				x.Close()
			})
		}
	}
}

// TestPages: there are so many pages and not more, each is given to one, and memory is used again.
func TestPages(t *testing.T) {
	g := pages{most: 3<<20 + 5000}
	rnd := rand.New(rand.NewPCG(5, 6))
	var all [][]int32
	owner := make(map[int32]bool)
	for range 10000 {
		if p := g.take(1 + rnd.Int64N(300<<10)); p != nil {
			for _, i := range p {
				if owner[i] || len(g.page(i)) != pageSize {
					t.Fatalf("page %d was given twice, or has %d bytes", i, len(g.page(i)))
				}
				owner[i] = true
			}
			all = append(all, p)
		} else if len(all) == 0 {
			t.Fatal("no page is left")
		} else {
			k := rnd.IntN(len(all))
			for _, i := range all[k] {
				delete(owner, i)
			}
			g.give(all[k])
			all = slices.Delete(all, k, k+1)
		}
		if g.used != int64(len(owner))*pageSize || g.used > g.most {
			t.Fatalf("%d bytes in use of %d, %d pages", g.used, g.most, len(owner))
		}
	}
	if n := int64(len(g.slabs)) * slabSize; n > g.most+slabSize {
		t.Errorf("%d bytes of slabs for %d", n, g.most)
	}
}

// TestAheadForgets: what was expected is forgotten at the end, what another reader expects is not, and nonsense is not
// expected.
func TestAheadForgets(t *testing.T) {
	f, _, _ := newJumpy(t).open(t)
	x, y := f.Ahead(), f.Ahead()
	x.Expect(0, 2<<20)
	y.Expect(1<<20, 2<<20)
	for _, r := range [][2]int64{{-1, 5}, {0, -5}, {f.Size(), 1}, {f.Size() + 1, 1}, {5, 0}} {
		x.Expect(r[0], r[1])
	}
	y.Expect(f.Size()-10, 1<<62)
	if _, err := f.ReadAt(make([]byte, 1000), testBlock); err != nil {
		t.Fatal(err)
	}
	a := &f.c.ahead
	if len(a.held) == 0 {
		t.Error("nothing was kept for others")
	}
	x.Close()
	if len(a.blocks) == 0 {
		t.Error("what the other reader expects was forgotten")
	}
	y.Close()
	y.Close()
	a.idle(t)
	if a.pages.slabs != nil {
		t.Error("buffers are kept for nobody")
	}
}

// TestAheadDamage: errors are the same, whether what is read was expected or not.
func TestAheadDamage(t *testing.T) {
	j := newJumpy(t)
	for i, b := range j.raw {
		j.raw[i] = slices.Clone(b)
		j.raw[i][len(b)/3] ^= 1
	}
	plain, _, _ := j.open(t)
	told, _, _ := j.open(t)
	x := told.Ahead()
	x.Expect(0, told.Size())
	p, q := make([]byte, testBlock), make([]byte, testBlock)
	bad := 0
	for i := range plain.b.count() {
		off, n := plain.b.rng(i)
		a, aerr := plain.ReadAt(p[:n], off)
		b, berr := told.ReadAt(q[:n], off)
		if a != b || fmt.Sprint(aerr) != fmt.Sprint(berr) || aerr == nil && !bytes.Equal(p[:n], q[:n]) {
			t.Errorf("block %d: %d bytes, %v; expected: %d bytes, %v", i, a, aerr, b, berr)
		}
		if aerr != nil {
			bad++
		}
	}
	if bad == 0 {
		t.Error("nothing was damaged")
	}
	told.c.ahead.idle(t)
	x.Close()
}
