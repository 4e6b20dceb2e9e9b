package parse

import (
	"encoding/binary"
	"sync"
)

// A Cache keeps structures of an image that were read: tables and their pages.
// Its methods may be called from several goroutines at once.
type Cache struct {
	m     Image
	limit int64

	mu    sync.Mutex
	found map[int64]*cached // by file offset
	first *cached           // newest
	last  *cached
	bytes int64
}

type cached struct {
	off        int64
	b          []byte
	prev, next *cached
}

// NewCache returns a cache of at most limit bytes, and one structure more.
func NewCache(m Image, limit int64) *Cache {
	return &Cache{m: m, limit: limit, found: make(map[int64]*cached)}
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
	b, err := c.m.Bytes(structure, off, n) // two who want the same both read it
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
// entry i+k is alike if like(v, entry, k). It does not look beyond the page that
// holds i, so that the answer costs little; there may be more.
func (t *Table) Run(i, limit int64, like func(v, entry uint64, k int64) bool) (v uint64, n int64, err error) {
	first, b, err := t.Page(i)
	if err != nil {
		return 0, 0, err
	}
	v = t.entry(b, i-first)
	end := min(int64(len(b)/t.Width)-(i-first), limit)
	for n = 1; n < end && like(v, t.entry(b, i-first+n), n); n++ {
	}
	return v, n, nil
}
