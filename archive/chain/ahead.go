package chain

import (
	"container/heap"
	"context"
	"slices"
	"sync"

	"tarvm/delta"
	"tarvm/formats"
)

// A guest's order jumps among the frames of the archives: most of a disk's blocks are in one frame each, but the blocks
// of a frame are wanted far apart. Keeping whole frames for that takes a lot of memory. Instead, a frame that must be
// decoded gives its part to all blocks that are expected to be read, and these wait for their turn; when they become too
// many, those whose turn is last have to be decoded again.
//
// Of a chain of four archives and a disk of 1.9 GB, whose frames have 1.6 GB, 4.8 GB are decoded in the guest's order with
// the last four frames of each archive at hand, 3.3 GB with the last 32 of all (128 MiB), 2.5 GB with those 32 that are
// wanted soonest.
//
// To pack the last of three entries with a disk of 1.8 GB and 512 MB of memory, where they are the parts that wait, 4.8 GB
// are decoded with 48 MiB of them, 4.6 GB with 64 MiB, 4.0 GB with 96 MiB, 3.4 GB without a limit. The times of the first two
// are equal, and memory is short.
const (
	aheadBytes  = 48 << 20 // of parts that wait
	aheadBlocks = 64 << 10 // of which parts are expected
	aheadParts  = 64       // of a block; one of more is read like any other
)

// ahead are the blocks of a chain's files that are expected to be read. The zero value has none.
type ahead struct {
	mu     sync.Mutex
	landed *sync.Cond // a frame was decoded
	blocks map[aheadKey]*aheadBlock
	queue  []*aheadBlock // of blocks and of some that are not expected any more, by turns
	frames map[frameRef]*aheadFrame
	turn   int64
	held   turns // blocks of which parts wait, but for those that are being read
	pages  pages
}

type aheadKey struct {
	k     int // entry
	mem   int32
	index int64
}

type frameRef struct {
	arch  int32
	frame int
}

// An aheadBlock is a block that will be read once.
type aheadBlock struct {
	key    aheadKey
	owner  *fileAhead
	turn   int64
	n      int64
	zeros  []piece
	parts  []*aheadPart
	dst    []byte // it is being read: what comes now goes there
	place  int    // in held; negative: not there
	coming int    // frames being decoded that bring parts
	gone   bool   // nobody waits for them
}

// An aheadPart is a range of a frame that belongs in a block.
type aheadPart struct {
	b     *aheadBlock
	frame frameRef
	src   int64 // in the decoded frame
	at, n int64 // in the block
	pages []int32
	have  bool
}

// pages are the memory of what waits: most blocks of a memory image are of many parts, and wait for the last of them.
// Where each block had a buffer from its first part on, three fifths of the buffers were empty.
type pages struct {
	slabs [][]byte
	free  []int32
	most  int64 // bytes; 0: aheadBytes
	used  int64
}

const (
	pageSize = 4 << 10
	slabSize = 1 << 20
)

// take returns pages for n bytes, nil when there are not so many.
func (g *pages) take(n int64) []int32 {
	most := g.most
	if most == 0 {
		most = aheadBytes
	}
	k := int((n + pageSize - 1) / pageSize)
	if g.used+int64(k)*pageSize > most {
		return nil
	}
	for len(g.free) < k {
		first := int32(len(g.slabs) * (slabSize / pageSize))
		g.slabs = append(g.slabs, make([]byte, slabSize))
		for i := int32(slabSize/pageSize) - 1; i >= 0; i-- {
			g.free = append(g.free, first+i)
		}
	}
	g.used += int64(k) * pageSize
	p := slices.Clone(g.free[len(g.free)-k:])
	g.free = g.free[:len(g.free)-k]
	return p
}

func (g *pages) give(p []int32) {
	g.free = append(g.free, p...)
	g.used -= int64(len(p)) * pageSize
}

// page returns the memory of page i.
func (g *pages) page(i int32) []byte {
	const each = slabSize / pageSize
	return g.slabs[i/each][i%each*pageSize:][:pageSize]
}

// An aheadFrame is what is wanted of a frame, by turns.
type aheadFrame struct {
	parts  []*aheadPart
	flying bool // it is being decoded
	failed bool // it could not be decoded
}

// turns is a heap, the last turn first.
type turns []*aheadBlock

func (t turns) Len() int           { return len(t) }
func (t turns) Less(i, j int) bool { return t[i].turn > t[j].turn }
func (t turns) Swap(i, j int) {
	t[i], t[j] = t[j], t[i]
	t[i].place, t[j].place = i, j
}

func (t *turns) Push(x any) {
	b, _ := x.(*aheadBlock)
	b.place = len(*t)
	*t = append(*t, b)
}

func (t *turns) Pop() any {
	n := len(*t) - 1
	b := (*t)[n]
	(*t)[n] = nil
	*t = (*t)[:n]
	b.place = -1
	return b
}

// fileAhead is told what one reader will read of a File.
type fileAhead struct {
	f    *File
	skip *delta.Table // of a file on the same grid: blocks with the same digest there will not be read; nil: all will
}

// Ahead implements formats.Anticipator.
func (f *File) Ahead() formats.Ahead { return &fileAhead{f: f} }

// Expect implements formats.Ahead.
func (x *fileAhead) Expect(off, n int64) {
	f := x.f
	if off < 0 || off >= f.Size() || n <= 0 {
		return
	}
	a := &f.c.ahead
	first, last := f.b.at(off), f.b.at(off+min(n, f.Size()-off)-1)
	for first <= last {
		digests := make([]delta.Digest, min(last-first+1, 64))
		if f.b.read(first, digests) != nil {
			return // reading will say what is wrong, here and below
		}
		skip, err := x.skips(first, len(digests))
		if err != nil {
			return
		}
		var wants []want
		blocks := make([]*aheadBlock, len(digests))
		for j, d := range digests {
			i := first + int64(j)
			if d.IsZero() || j < len(skip) && skip[j] == d || a.has(f.key(i)) {
				continue
			}
			boff, bn := f.b.rng(i)
			blocks[j] = &aheadBlock{key: f.key(i), owner: x, n: bn, place: -1}
			wants = append(wants, want{mem: f.mem, file: int32(j), off: boff, n: bn})
		}
		ps, err := f.c.resolve(context.Background(), f.e.k, wants, nil, 0)
		if err != nil {
			return
		}
		for _, p := range ps {
			if b := blocks[p.file]; b != nil && !f.c.plan(b, p) {
				blocks[p.file] = nil
			}
		}
		if !a.add(blocks) {
			return
		}
		first += int64(len(digests))
	}
}

// skips returns the digests with which up to n blocks from first on are not read.
func (x *fileAhead) skips(first int64, n int) ([]delta.Digest, error) {
	if x.skip == nil {
		return nil, nil
	}
	skip := make([]delta.Digest, max(0, min(int64(n), x.skip.Grid.Count(x.skip.Size)-first)))
	if len(skip) == 0 {
		return nil, nil
	}
	return skip, x.skip.Read(first, skip)
}

// plan adds p to what b is made of. It is false when frames do not help there.
func (c *Chain) plan(b *aheadBlock, p piece) bool {
	if p.arch == zeroPiece {
		b.zeros = append(b.zeros, p)
		return len(b.zeros) <= aheadParts
	}
	if p.arch < 0 {
		return false
	}
	r := c.entries[p.arch].reader()
	if r == nil {
		return false
	}
	for p.n > 0 {
		i := r.FrameAt(p.src)
		if i >= r.Count() || len(b.parts) == aheadParts {
			return false
		}
		off, n := r.FrameRange(i)
		n = min(p.n, off+n-p.src)
		b.parts = append(b.parts, &aheadPart{b: b, frame: frameRef{p.arch, i}, src: p.src - off, at: p.at, n: n})
		p.src, p.at, p.n = p.src+n, p.at+n, p.n-n
	}
	return true
}

// Close implements formats.Ahead.
func (x *fileAhead) Close() {
	a := &x.f.c.ahead
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, b := range a.blocks {
		if b.owner == x {
			a.take(b)
			if b.gone = b.coming > 0; !b.gone {
				a.done(b)
			}
		}
	}
	a.rest()
}

// rest gives all memory back when nothing is expected or waits.
func (a *ahead) rest() {
	if len(a.blocks) == 0 && a.pages.used == 0 {
		a.queue, a.pages = nil, pages{most: a.pages.most}
	}
}

func (f *File) key(i int64) aheadKey { return aheadKey{f.e.k, f.mem, i} }

func (a *ahead) has(k aheadKey) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.blocks[k] != nil
}

// add makes blocks, of which some are nil, expected, in this order. It is false when there are enough.
func (a *ahead) add(blocks []*aheadBlock) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.blocks == nil {
		a.landed = sync.NewCond(&a.mu)
		a.blocks = make(map[aheadKey]*aheadBlock)
		a.frames = make(map[frameRef]*aheadFrame)
	}
	a.trim()
	for _, b := range blocks {
		if b == nil || a.blocks[b.key] != nil {
			continue
		}
		if len(a.blocks) >= aheadBlocks {
			return false
		}
		a.turn++
		b.turn = a.turn
		a.blocks[b.key] = b
		a.queue = append(a.queue, b)
		for _, p := range b.parts {
			f := a.frames[p.frame]
			if f == nil {
				f = &aheadFrame{}
				a.frames[p.frame] = f
			}
			f.parts = append(f.parts, p)
		}
	}
	return true
}

// read fills dst with block i of f, if that was expected. It is false when it was not, or when there was an error,
// which reading without this will find again.
func (a *ahead) read(f *File, i int64, dst []byte) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	b := a.blocks[f.key(i)]
	if b == nil {
		return false
	}
	a.take(b)
	b.dst = dst
	ok := true
	for _, p := range b.parts {
		for ok && !p.have {
			if !a.frames[p.frame].flying {
				ok = a.decode(f.c, p)
				continue
			}
			// Instead of waiting, what others would wait for soon. If that fails they will see it.
			if q := a.next(); q != nil {
				a.decode(f.c, q)
			} else {
				a.landed.Wait()
			}
		}
	}
	for b.coming > 0 { // after an error others may still write to dst
		a.landed.Wait()
	}
	if ok {
		for _, z := range b.zeros {
			clear(dst[z.at : z.at+z.n])
		}
		for _, p := range b.parts {
			for i, g := range p.pages {
				at := int64(i) * pageSize
				copy(dst[p.at+at:p.at+min(p.n, at+pageSize)], a.pages.page(g))
			}
		}
	}
	b.dst = nil // it is the caller's, and the queue still has b
	a.done(b)
	return ok
}

// soon is how many blocks next looks at.
const soon = 128

// next returns what has to be decoded next and is not being decoded, nil if that is not soon.
func (a *ahead) next() *aheadPart {
	a.trim()
	for _, b := range a.queue[:min(soon, len(a.queue))] {
		if !a.expects(b) {
			continue
		}
		for _, p := range b.parts {
			if f := a.frames[p.frame]; !p.have && !f.flying && !f.failed {
				if p.pages == nil && !a.room(p) {
					return nil
				}
				return p
			}
		}
	}
	return nil
}

// trim drops blocks that are not expected any more from the queue.
func (a *ahead) trim() {
	for len(a.queue) > 0 && !a.expects(a.queue[0]) {
		a.queue = a.queue[1:]
	}
	if len(a.queue) > 2*len(a.blocks)+soon {
		a.queue = slices.DeleteFunc(a.queue, func(b *aheadBlock) bool { return !a.expects(b) })
	}
}

func (a *ahead) expects(b *aheadBlock) bool { return a.blocks[b.key] == b }

// take makes b one that is not expected any more.
func (a *ahead) take(b *aheadBlock) {
	delete(a.blocks, b.key)
	if b.place >= 0 {
		heap.Remove(&a.held, b.place)
	}
}

// done ends b, which was taken.
func (a *ahead) done(b *aheadBlock) {
	for _, p := range b.parts {
		f := a.frames[p.frame]
		f.parts = slices.DeleteFunc(f.parts, func(q *aheadPart) bool { return q == p })
		if len(f.parts) == 0 && !f.flying {
			delete(a.frames, p.frame)
		}
	}
	a.reclaim(b)
}

// reclaim takes the pages from b.
func (a *ahead) reclaim(b *aheadBlock) {
	for _, p := range b.parts {
		a.pages.give(p.pages)
		p.pages, p.have = nil, false
	}
}

// decode decodes the frame of p for all blocks that want something of it. a.mu is held, but not meanwhile.
func (a *ahead) decode(c *Chain, p *aheadPart) bool {
	f := a.frames[p.frame]
	var to []*aheadPart
	var dsts [][]byte // of those in to that are being read already
	full := false
	for _, q := range f.parts {
		if q.have || q.b.dst == nil && !a.expects(q.b) {
			continue
		}
		if q.b.dst == nil && q.pages == nil {
			if full = full || !a.room(q); full {
				continue
			}
		}
		to = append(to, q)
		dsts = append(dsts, nil)
		if q.pages == nil {
			dsts[len(dsts)-1] = q.b.dst[q.at:][:q.n]
		}
		q.b.coming++
	}
	slabs := a.pages // its slabs stay where they are while parts are coming
	f.flying = true
	a.mu.Unlock()
	err := c.entries[p.frame.arch].reader().Frame(p.frame.frame, func(data []byte) {
		for i, q := range to {
			from := data[q.src:][:q.n]
			if dsts[i] != nil {
				copy(dsts[i], from)
				continue
			}
			for _, g := range q.pages {
				from = from[copy(slabs.page(g), from):]
			}
		}
	})
	a.mu.Lock()
	f.flying, f.failed = false, err != nil
	for _, q := range to {
		q.have = err == nil
		if q.b.coming--; q.b.gone && q.b.coming == 0 {
			a.done(q.b)
			a.rest()
		}
	}
	if len(f.parts) == 0 {
		delete(a.frames, p.frame)
	}
	a.landed.Broadcast()
	return err == nil
}

// room gives p pages, from a block whose turn is later if there must not be more.
func (a *ahead) room(p *aheadPart) bool {
	for {
		if p.pages = a.pages.take(p.n); p.pages != nil {
			break
		}
		if len(a.held) == 0 || a.held[0].turn <= p.b.turn || a.held[0].coming > 0 {
			return false
		}
		last := a.held[0]
		heap.Pop(&a.held)
		a.reclaim(last)
	}
	if p.b.place < 0 {
		heap.Push(&a.held, p.b)
	}
	return true
}
