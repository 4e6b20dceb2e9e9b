package main

import (
	"os"
	"runtime"
	"sync"
)

// partition is the first block of the guest's partition: 1 MiB in.
const partition = 1 << 20 / blockSize

// extent is some neighbouring blocks of the disk.
type extent struct{ at, n uint32 }

// file is a file inside the guest: what is in it, and where it lies.
type file struct {
	kind kind
	runs []extent
}

// guest is the machine's present state. Blocks are names of bytes, not bytes: a 4 GiB disk takes 8 MiB here.
type guest struct {
	seed     uint64
	r        rng
	words    *words
	contents []content
	disk     []ref // one for each block of the disk; what was deleted stays, as without discard
	memory   []ref // one for each page
	files    []*file
	free     []extent // places of deleted files
	cursor   uint32   // first block that was never given out
	used     uint32   // blocks that belong to files

	grains   []uint32 // place in the vmdk of each of the disk's grains, counted from 1; 0 has none
	written  []uint32 // the reverse: which of the disk's grains the vmdk's n-th holds
	vmdkInfo layout
}

// rates say how much of the guest changes from one state to the next, as shares of its data.
type rates struct {
	patch   float64 // blocks that change by a few bytes
	move    float64 // files written to another place, unchanged
	remove  float64 // files deleted
	add     float64 // new files
	upgrade float64 // files replaced by a version that shares most blocks
	memory  float64 // pages of memory used for something else
}

// newGuest makes a machine without anything on its disk. The sizes are bytes, whole MiB.
func newGuest(seed uint64, disk, memory int64) *guest {
	g := &guest{
		seed: seed, r: newRNG(seed, 'g'), words: newWords(seed),
		contents: make([]content, 1),
		disk:     make([]ref, disk/blockSize),
		memory:   make([]ref, memory/blockSize),
		cursor:   partition,
		grains:   make([]uint32, disk/grainSize),
		vmdkInfo: newLayout(disk),
	}
	return g
}

// newContent returns the number of a new content.
func (g *guest) newContent(c content) uint32 {
	g.contents = append(g.contents, c)
	return uint32(len(g.contents) - 1)
}

// set writes one block of the disk and, with it, gives its grain a place in the vmdk.
func (g *guest) set(block uint32, at ref) {
	g.disk[block] = at
	grain := block / blocksPerGrain
	if g.grains[grain] == 0 {
		g.written = append(g.written, grain)
		g.grains[grain] = uint32(len(g.written))
	}
}

// allocate finds room for n blocks: in what was deleted, or after everything. It returns fewer, down to none,
// on a full disk.
func (g *guest) allocate(n uint32) []extent {
	var out []extent
	for n > 0 {
		if k := len(g.free); k > 0 && g.r.chance(0.3) {
			i := g.r.below(k)
			got := extent{g.free[i].at, min(n, g.free[i].n)}
			if g.free[i].at, g.free[i].n = got.at+got.n, g.free[i].n-got.n; g.free[i].n == 0 {
				g.free[i] = g.free[k-1]
				g.free = g.free[:k-1]
			}
			out, n = append(out, got), n-got.n
			continue
		}
		if g.r.chance(0.15) {
			g.cursor += uint32(g.r.below(96)) // left free: holes, and grains that are partly written
		}
		room := uint32(max(0, int64(len(g.disk))-int64(g.cursor)))
		got := extent{g.cursor, min(n, room)}
		if g.r.chance(0.1) {
			got.n = min(got.n, 1+uint32(g.r.below(64))) // a fragment
		}
		if got.n == 0 {
			break
		}
		g.cursor += got.n
		out, n = append(out, got), n-got.n
	}
	return out
}

// write puts the blocks of refs on the disk as a file.
func (g *guest) write(k kind, refs []ref) *file {
	f := &file{kind: k, runs: g.allocate(uint32(len(refs)))}
	i := 0
	for _, r := range f.runs {
		for b := range r.n {
			g.set(r.at+b, refs[i])
			i++
		}
	}
	g.used += uint32(i)
	g.files = append(g.files, f)
	return f
}

// refs lists what a file's blocks hold now.
func (g *guest) refs(f *file) []ref {
	var out []ref
	for _, r := range f.runs {
		out = append(out, g.disk[r.at:r.at+r.n]...)
	}
	return out
}

// remove deletes file i; its blocks keep what they hold.
func (g *guest) remove(i int) {
	f := g.files[i]
	for _, r := range f.runs {
		g.used -= r.n
	}
	g.free = append(g.free, f.runs...)
	g.files[i] = g.files[len(g.files)-1]
	g.files = g.files[:len(g.files)-1]
}

// create writes a new file of a random kind and size, or a copy of one that exists.
func (g *guest) create() {
	if len(g.files) > 20 && g.r.chance(0.04) {
		f := g.files[g.r.below(len(g.files))]
		g.write(f.kind, g.refs(f))
		return
	}
	var k kind
	switch p := g.r.below(100); {
	case p < 4:
		k = kindInodes
	case p < 24:
		k = kindText
	case p < 36:
		k = kindLog
	case p < 74:
		k = kindProgram
	case p < 88:
		k = kindPages
	default:
		k = kindRandom
	}
	// Most files are small; most bytes are in large ones.
	n := uint32(1) << g.r.below(10)
	n += uint32(g.r.below(int(n)))
	n = min(n, uint32(len(g.disk)/64))
	c := g.newContent(content{kind: k, seed: g.r.next(), blocks: n, tail: uint16(1 + g.r.below(blockSize))})
	refs := make([]ref, n)
	for i := range refs {
		refs[i] = makeRef(c, uint32(i))
	}
	g.write(k, refs)
}

// fillTo creates files until so many blocks are used, or the disk is full.
func (g *guest) fillTo(blocks uint32) {
	for g.used < blocks {
		before := g.used
		if g.create(); g.used == before {
			return
		}
	}
}

// install makes the first state: a share of the disk's blocks is used, and memory is in use.
func (g *guest) install(fill float64) {
	g.set(0, makeRef(g.newContent(content{kind: kindBoot, seed: 1, blocks: 1, tail: blockSize}), 0))
	tables := uint32(len(g.disk) / 256)
	g.fillTablesAt(partition, tables)
	g.cursor = partition + tables
	g.fillTo(uint32(fill * float64(len(g.disk))))
	g.remember(1)
}

// fillTablesAt writes the file system's tables.
func (g *guest) fillTablesAt(at, n uint32) {
	c := g.newContent(content{kind: kindInodes, seed: g.r.next(), blocks: n, tail: blockSize})
	for i := range n {
		g.set(at+i, makeRef(c, i))
	}
	g.files = append(g.files, &file{kind: kindInodes, runs: []extent{{at, n}}})
	g.used += n
}

// live makes the next state.
func (g *guest) live(s rates) {
	share := func(p float64) int { return int(p * float64(g.used)) }
	patch, move, remove, add, upgrade := share(s.patch), share(s.move), share(s.remove), share(s.add), share(s.upgrade)
	size := func(f *file) (n int) {
		for _, r := range f.runs {
			n += int(r.n)
		}
		return n
	}
	for n := 0; n < remove && len(g.files) > 1; {
		i := 1 + g.r.below(len(g.files)-1) // file 0 is the tables
		n += max(1, size(g.files[i]))
		g.remove(i)
	}
	for n := 0; n < move && len(g.files) > 1; {
		i := 1 + g.r.below(len(g.files)-1)
		f := g.files[i]
		refs := g.refs(f)
		n += max(1, len(refs))
		g.write(f.kind, refs) // before it is removed: never over itself
		g.remove(i)
	}
	for n := 0; n < upgrade && len(g.files) > 1; {
		i := 1 + g.r.below(len(g.files)-1)
		f := g.files[i]
		refs := g.refs(f)
		n += max(1, len(refs))
		for j := range refs {
			if g.r.chance(0.3) {
				refs[j] = g.patched(refs[j])
			}
		}
		g.write(f.kind, refs)
		g.remove(i)
	}
	for range patch { // in bursts: a changed block often has changed neighbours
		f := g.files[g.r.below(len(g.files))]
		if len(f.runs) == 0 {
			continue
		}
		r := f.runs[g.r.below(len(f.runs))]
		b := r.at + uint32(g.r.below(int(r.n)))
		g.set(b, g.patched(g.disk[b]))
	}
	g.fillTo(g.used + uint32(add))
	g.remember(s.memory)
}

// patched returns a block like old with a few runs of bytes overwritten.
func (g *guest) patched(old ref) ref {
	return makeRef(g.newContent(content{kind: kindPatch, seed: g.r.next(), blocks: 1, tail: blockSize, base: old}), 0)
}

// remember puts something else into a share of the memory's pages: files of the disk, heaps, or nothing.
func (g *guest) remember(share float64) {
	for at := 0; at < len(g.memory); {
		n := min(1+g.r.below(32), len(g.memory)-at)
		page := g.memory[at : at+n]
		at += n
		if !g.r.chance(share) {
			continue
		}
		switch p := g.r.below(100); {
		case p < 17:
			clear(page)
		case p < 17+45: // what it mirrors may change on the disk later, so that two fifths remain
			for tries := 0; len(page) > 0 && tries < 100; tries++ {
				if refs := g.refs(g.files[g.r.below(len(g.files))]); len(refs) > 0 {
					page = page[copy(page, refs[g.r.below(len(refs)):]):]
				}
			}
		default:
			c := g.newContent(content{kind: kindHeap, seed: g.r.next(), blocks: uint32(n), tail: blockSize})
			for i := range page {
				page[i] = makeRef(c, uint32(i))
			}
		}
	}
}

// writeMemory writes the memory image in full, zero pages too, as hypervisors do.
func (g *guest) writeMemory(path string) error {
	f, err := os.Create(path)
	if err != nil {
		return err
	}
	err = g.writeBlocks(f, 0, len(g.memory), false, func(i int) ref { return g.memory[i] })
	if cerr := f.Close(); err == nil {
		err = cerr
	}
	return err
}

// writeBlocks writes n blocks from byte off of f on; at names the i-th. With holes, blocks of zeros are left
// out. The file's size is set by the last block, written or not.
func (g *guest) writeBlocks(f *os.File, off int64, n int, holes bool, at func(i int) ref) error {
	const batch = 256 // 1 MiB at a time
	if err := f.Truncate(off + int64(n)*blockSize); err != nil {
		return err
	}
	var (
		wg    sync.WaitGroup
		once  sync.Once
		first error
		work  = make(chan int)
	)
	for range runtime.GOMAXPROCS(0) {
		wg.Go(func() {
			buf := make([]byte, batch*blockSize)
			flush := func(from, to int) {
				if from == to {
					return
				}
				if _, err := f.WriteAt(buf[:(to-from)*blockSize], off+int64(from)*blockSize); err != nil {
					once.Do(func() { first = err })
				}
			}
			for from := range work {
				start, end := from, min(from+batch, n)
				for i := from; i < end; i++ {
					r := at(i)
					if holes && r == 0 {
						flush(start, i)
						start = i + 1
						continue
					}
					g.render(buf[(i-start)*blockSize:][:blockSize], r)
				}
				flush(start, end)
			}
		})
	}
	for i := 0; i < n; i += batch {
		work <- i
	}
	close(work)
	wg.Wait()
	return first
}
