package parse

import (
	"encoding/binary"
	"sync"

	"tarvm/formats"
	"tarvm/formats/raw"
)

// A Cache keeps structures of an image that were read: tables and their pages.
// Its methods may be called from several goroutines at once.
type Cache struct {
	m      Image
	limit  int64
	sparse raw.Sparse // nil: the source does not tell holes

	mu    sync.Mutex
	found map[int64]*cached // by file offset
	first *cached           // newest
	last  *cached
	bytes int64
	hole  [2]int64 // the hole that was found last: its start and end
}

type cached struct {
	off        int64
	b          []byte
	prev, next *cached
}

// NewCache returns a cache of at most limit bytes, and one structure more.
func NewCache(m Image, limit int64) *Cache {
	sparse, _ := m.Source.(raw.Sparse)
	return &Cache{m: m, limit: limit, sparse: sparse, found: make(map[int64]*cached)}
}

// HoleEnd returns the end of the hole of the file that holds off; off: it is in
// none that the source tells of.
func (c *Cache) HoleEnd(off int64) int64 {
	if c.sparse == nil || off < 0 || off >= c.m.Size() {
		return off
	}
	c.mu.Lock()
	hole := c.hole
	c.mu.Unlock()
	if hole[0] <= off && off < hole[1] {
		return hole[1]
	}
	start, _, err := c.sparse.DataAt(off)
	if err != nil || start <= off {
		return off // reading it says what is wrong
	}
	start = min(start, c.m.Size())
	c.mu.Lock()
	c.hole = [2]int64{off, start}
	c.mu.Unlock()
	return start
}

// Bytes is Image.Bytes. The slice is shared: it is only to be read.
func (c *Cache) Bytes(structure string, off, n int64) ([]byte, error) {
	c.mu.Lock()
	if e := c.found[off]; e != nil && int64(len(e.b)) >= n {
		c.front(e)
		b := e.b[:n]
		c.mu.Unlock()
		return b, nil
	}
	c.mu.Unlock()
	b, err := c.load(structure, off, n) // two who want the same both read it
	if err != nil {
		return nil, err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.remove(c.found[off])
	e := &cached{off: off, b: b}
	c.found[off] = e
	c.bytes += n
	c.push(e)
	for c.bytes > c.limit && c.last != e {
		c.remove(c.last)
	}
	return b, nil
}

var (
	zeros [pageLen]byte
	pages = sync.Pool{New: func() any { return new([pageLen]byte) }}
)

// load is Image.Bytes, with one slice for all pages of zeros: a large and nearly
// empty disk has a hundred megabytes of them.
func (c *Cache) load(structure string, off, n int64) ([]byte, error) {
	if n != pageLen || !c.m.Inside(off, n) {
		return c.m.Bytes(structure, off, n)
	}
	if c.HoleEnd(off)-off >= n {
		return zeros[:], nil
	}
	page := pages.Get().(*[pageLen]byte) //nolint:forcetypeassert // the pool holds nothing else
	if err := c.m.readInto(page[:], structure, off); err != nil {
		pages.Put(page)
		return nil, err
	}
	if !formats.IsZero(page[:]) {
		return page[:], nil
	}
	pages.Put(page)
	return zeros[:], nil
}

func (c *Cache) front(e *cached) {
	if c.first != e {
		c.unlink(e)
		c.push(e)
	}
}

func (c *Cache) push(e *cached) {
	e.prev, e.next = nil, c.first
	if c.first != nil {
		c.first.prev = e
	} else {
		c.last = e
	}
	c.first = e
}

func (c *Cache) unlink(e *cached) {
	if e.prev != nil {
		e.prev.next = e.next
	} else {
		c.first = e.next
	}
	if e.next != nil {
		e.next.prev = e.prev
	} else {
		c.last = e.prev
	}
}

func (c *Cache) remove(e *cached) {
	if e != nil {
		c.unlink(e)
		delete(c.found, e.off)
		c.bytes -= int64(len(e.b))
	}
}

// pageLen is how much of a Table is read at a time.
const pageLen = 64 << 10

// A Table is an array of numbers in an image that is read page by page, so that
// a large one costs neither time nor memory before it is used.
type Table struct {
	Name  string // for errors
	Off   int64  // file offset of entry 0
	Count int64  // entries
	Width int    // bytes of an entry: 4 or 8
	Order binary.ByteOrder
	Cache *Cache
}

// Check demands that the table lies wholly in the file.
func (t *Table) Check() error {
	m := t.Cache.m
	if t.Off < 0 || t.Count < 0 || t.Off > m.Size() || t.Count > (m.Size()-t.Off)/int64(t.Width) {
		return m.Corrupt(t.Name, t.Off, "%d entries pass end of file at %d", t.Count, m.Size())
	}
	return nil
}

// At returns entry i, which must be in [0, Count).
func (t *Table) At(i int64) (uint64, error) {
	_, b, err := t.Page(i)
	if err != nil {
		return 0, err
	}
	return t.entry(b, i%t.perPage()), nil
}

func (t *Table) perPage() int64 { return pageLen / int64(t.Width) }

func (t *Table) entry(b []byte, k int64) uint64 {
	if t.Width == 4 {
		return uint64(t.Order.Uint32(b[4*k:]))
	}
	return t.Order.Uint64(b[8*k:])
}

// Page returns the bytes of the page that holds entry i, and the number of its
// first entry. The slice is only to be read.
func (t *Table) Page(i int64) (first int64, b []byte, err error) {
	per := t.perPage()
	first = i / per * per
	n := min(per, t.Count-first)
	b, err = t.Cache.Bytes(t.Name, t.Off+first*int64(t.Width), n*int64(t.Width))
	return first, b, err
}

// Run returns entry i and how many entries from i on, at most limit, are alike:
// entry i+k is alike if like(v, entry, k). Where like(v, v, 1), all that are equal
// to v are alike. It does not look beyond the page that holds i, so that the answer
// costs little; there may be more.
func (t *Table) Run(i, limit int64, like func(v, entry uint64, k int64) bool) (v uint64, n int64, err error) {
	first, b, err := t.Page(i)
	if err != nil {
		return 0, 0, err
	}
	v = t.entry(b, i-first)
	end := min(int64(len(b)/t.Width)-(i-first), limit)
	n = 1
	if end > 1 && like(v, v, 1) {
		n = same(b[(i-first)*int64(t.Width):][:end*int64(t.Width)], int64(t.Width))
	}
	for ; n < end && like(v, t.entry(b, i-first+n), n); n++ {
	}
	return v, n, nil
}

// same returns how many entries of width bytes at the start of b are equal: tables
// of disks that are nearly empty are read at the speed of memory.
func same(b []byte, width int64) (n int64) {
	n = 1
	for step := int64(1 << 10); step > 0; step /= 2 {
		for (n+step)*width <= int64(len(b)) &&
			string(b[(n-1)*width:(n+step-1)*width]) == string(b[n*width:(n+step)*width]) {
			n += step
		}
	}
	return n
}
