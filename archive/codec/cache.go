package codec

import (
	"container/list"
	"runtime"
	"slices"
	"sync"
)

// A Cache keeps decoded frames of one Reader, or of several that share it, up to a number of bytes. It is safe for
// concurrent use.
type Cache struct {
	mu     sync.Mutex
	max    int64
	used   int64
	frames map[frameKey]*list.Element
	lru    list.List // of *cached, latest first
	// New buffers for each frame would cost as much as a fifth of the decoding.
	data, scratch spares
}

type frameKey struct {
	r *Reader
	i int
}

type cached struct {
	key     frameKey
	size    int64
	done    chan struct{}
	data    []byte
	err     error
	users   int  // of data
	dropped bool // from the cache: the last user gives data back
}

// spares are buffers that wait for another frame.
type spares struct {
	list [][]byte
	most int
}

// take returns a buffer for n bytes, perhaps nil. One that is kept must not be much too long.
func (s *spares) take(n int64, kept bool) []byte {
	for i, b := range s.list {
		if c := int64(cap(b)); c >= n && (!kept || c <= n+n/4) {
			s.list = slices.Delete(s.list, i, i+1)
			return b
		}
	}
	return nil
}

// put adds b, instead of the shortest if there are enough.
func (s *spares) put(b []byte) {
	if b == nil {
		return
	}
	if len(s.list) < s.most {
		s.list = append(s.list, b)
		return
	}
	least := 0
	for i, have := range s.list {
		if cap(have) < cap(s.list[least]) {
			least = i
		}
	}
	if cap(s.list[least]) < cap(b) {
		s.list[least] = b
	}
}

// ownCache is what a Reader keeps that shares no Cache: four frames of most codecs.
const ownCache = 16 << 20

// entryCost is about what a frame takes besides its bytes.
const entryCost = 256

// NewCache returns a cache of so many bytes, and at least one frame.
func NewCache(size int64) *Cache {
	n := max(2, runtime.GOMAXPROCS(0))
	return &Cache{max: size, frames: make(map[frameKey]*list.Element), data: spares{most: n}, scratch: spares{most: n}}
}

// get returns the decoded frame i of r, or decodes it; one goroutine does, others wait. Unless there was an error, it
// must be released.
func (c *Cache) get(r *Reader, i int) *cached {
	k := frameKey{r, i}
	c.mu.Lock()
	if e, ok := c.frames[k]; ok {
		c.lru.MoveToFront(e)
		f, _ := e.Value.(*cached)
		f.users++
		c.mu.Unlock()
		<-f.done
		return f
	}
	f := &cached{key: k, size: r.frames[i].Decoded + entryCost, done: make(chan struct{}), users: 1}
	e := c.lru.PushFront(f)
	c.frames[k] = e
	c.used += f.size
	for c.used > c.max && c.lru.Len() > 1 {
		c.drop(c.lru.Back())
	}
	data, scratch := c.data.take(r.frames[i].Decoded, true), c.scratch.take(r.frames[i].Encoded, false)
	c.mu.Unlock()
	f.data, scratch, f.err = r.read(i, data, scratch, digest)
	c.mu.Lock()
	c.scratch.put(scratch)
	if f.err != nil && c.frames[k] == e { // an error may pass; it is not kept
		c.drop(e)
	}
	c.mu.Unlock()
	close(f.done)
	return f
}

// once is get, but does not keep the frame if it has to be decoded.
func (c *Cache) once(r *Reader, i int, use func(data []byte)) error {
	c.mu.Lock()
	if _, ok := c.frames[frameKey{r, i}]; ok {
		c.mu.Unlock()
		f := c.get(r, i)
		if f.err != nil {
			return f.err
		}
		use(f.data)
		c.release(f)
		return nil
	}
	data, scratch := c.data.take(r.frames[i].Decoded, false), c.scratch.take(r.frames[i].Encoded, false)
	c.mu.Unlock()
	data, scratch, err := r.read(i, data, scratch, digest)
	if err == nil {
		use(data)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.data.put(data)
	c.scratch.put(scratch)
	return err
}

// drop forgets a frame; who uses it may go on. c.mu is held.
func (c *Cache) drop(e *list.Element) {
	c.lru.Remove(e)
	f, ok := e.Value.(*cached)
	if !ok {
		return
	}
	delete(c.frames, f.key)
	c.used -= f.size
	f.dropped = true
	c.recycle(f)
}

// release ends the use of a frame's data.
func (c *Cache) release(f *cached) {
	c.mu.Lock()
	f.users--
	c.recycle(f)
	c.mu.Unlock()
}

// recycle keeps the buffer of a frame that nobody has any more. c.mu is held.
func (c *Cache) recycle(f *cached) {
	if f.dropped && f.users == 0 && f.data != nil {
		c.data.put(f.data)
		f.data = nil
	}
}
