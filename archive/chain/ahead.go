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
// wanted soonest, 2.4 GB with 64 MiB of blocks, 2.3 GB with 96 MiB, 2.0 GB with 128 MiB.
const (
	aheadBytes  = 96 << 20 // of blocks that wait
	aheadBlocks = 64 << 10 // that are expected
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
	held   turns // blocks with a buffer, but for those that are being read
	most   int64 // bytes of buffers; 0: aheadBytes
	used   int64
	free   [][]byte
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
	buf    []byte // nil: nothing has come
	place  int    // in held; negative: not there
	coming int    // frames being decoded that write to buf
	gone   bool   // nobody waits for them
}

// An aheadPart is a range of a frame that belongs in a block.
type aheadPart struct {
	b     *aheadBlock
	frame frameRef
	src   int64 // in the decoded frame
	at, n int64 // in the block
	have  bool
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
type fileAhead struct{ f *File }

// Ahead implements formats.Anticipator.
func (f *File) Ahead() formats.Ahead { return &fileAhead{f} }

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
		var wants []want
		blocks := make([]*aheadBlock, len(digests))
		for j, d := range digests {
			i := first + int64(j)
			if d.IsZero() || a.has(f.key(i)) {
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
	if len(a.blocks) == 0 {
		a.queue, a.free = nil, nil
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
	direct := b.buf == nil
	if direct {
		b.buf = dst
	}
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
			clear(b.buf[z.at : z.at+z.n])
		}
		if !direct {
			copy(dst, b.buf)
		}
	}
	if direct {
		b.buf = nil
	}
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
				if b.buf == nil && !a.room(b) {
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

// reclaim takes the buffer from b.
func (a *ahead) reclaim(b *aheadBlock) {
	if b.buf == nil {
		return
	}
	a.used -= b.n
	a.free = append(a.free, b.buf)
	b.buf = nil
	for _, p := range b.parts {
		p.have = false
	}
}

// decode decodes the frame of p for all blocks that want something of it. a.mu is held, but not meanwhile.
func (a *ahead) decode(c *Chain, p *aheadPart) bool {
	f := a.frames[p.frame]
	var to []*aheadPart
	full := false
	for _, q := range f.parts {
		// Who reads a block has a buffer for it.
		if q.have || q.b.buf == nil && (full || !a.expects(q.b)) {
			continue
		}
		if q.b.buf == nil {
			if full = !a.room(q.b); full {
				continue
			}
		}
		to = append(to, q)
		q.b.coming++
	}
	f.flying = true
	a.mu.Unlock()
	err := c.entries[p.frame.arch].reader().Frame(p.frame.frame, func(data []byte) {
		for _, q := range to {
			copy(q.b.buf[q.at:q.at+q.n], data[q.src:])
		}
	})
	a.mu.Lock()
	f.flying, f.failed = false, err != nil
	for _, q := range to {
		q.have = err == nil
		if q.b.coming--; q.b.gone && q.b.coming == 0 {
			a.done(q.b)
		}
	}
	if len(f.parts) == 0 {
		delete(a.frames, p.frame)
	}
	a.landed.Broadcast()
	return err == nil
}

// room gives b a buffer, from a block whose turn is later if there must not be more.
func (a *ahead) room(b *aheadBlock) bool {
	most := a.most
	if most == 0 {
		most = aheadBytes
	}
	for a.used+b.n > most {
		if len(a.held) == 0 || a.held[0].turn <= b.turn || a.held[0].coming > 0 {
			return false
		}
		last := a.held[0]
		heap.Pop(&a.held)
		a.reclaim(last)
	}
	a.used += b.n
	if n := len(a.free); n > 0 && int64(cap(a.free[n-1])) >= b.n {
		b.buf, a.free = a.free[n-1][:b.n], a.free[:n-1]
	} else {
		b.buf = make([]byte, b.n)
		if n > 0 {
			a.free = a.free[:n-1] // too short; it would stay in the way
		}
	}
	heap.Push(&a.held, b)
	return true
}
