package formats

import (
	"errors"
	"fmt"
	"io"
	"iter"
	"slices"
	"sync"
)

// cacheBytes bounds the decoded compressed units that a Disk keeps for reads
// of parts of them.
const cacheBytes = 8 << 20

// NewDisk makes the guest's view of an image and its parents: layers[0] is the
// topmost, each other is the parent of the one before. Where the last layer has
// a parent that is not among them, Extents shows runs of Kind Parent, and
// reading them is ErrNoParent.
//
// It is the only place that follows parents, fills zeros, and decodes compressed
// units. Close does nothing: the sources belong to whoever opened them.
func NewDisk(layers ...*Image) (Disk, error) {
	if len(layers) == 0 {
		return nil, errors.New("a disk without an image")
	}
	d := &disk{layers: layers, size: layers[0].Map.Size()}
	if d.size < 0 {
		return nil, &FormatError{Format: layers[0].Format, Structure: "disk size", Offset: -1, Got: fmt.Sprint(d.size), Err: ErrCorrupt}
	}
	for i, l := range layers {
		if l.Parent == nil && i+1 < len(layers) {
			return nil, fmt.Errorf("layer %d of %d has no parent", i, len(layers))
		}
	}
	return d, nil
}

type disk struct {
	layers []*Image
	size   int64
	cache  unitCache
}

func (d *disk) Size() int64 { return d.size }

func (d *disk) Info() Info { return Info{Header: d.layers[0].Header, Depth: len(d.layers) - 1} }

func (*disk) Close() error { return nil }

// at returns the run that holds off, clipped to the disk, and beginning at off.
// For a Compressed run unit is the whole unit, in the guest offsets of its layer.
func (d *disk) at(off int64) (e, unit Extent, err error) {
	end := d.size
	for depth, l := range d.layers {
		size := l.Map.Size()
		if off >= size {
			// A shorter parent: zeros up to where the child ends.
			return Extent{Offset: off, Length: end - off, Kind: Hole, Depth: depth}, Extent{}, nil
		}
		e, err = l.Map.MapAt(off)
		if err != nil {
			return Extent{}, Extent{}, d.fail(l, depth, err)
		}
		if e.Offset > off || e.Offset < 0 || e.Length <= 0 || e.Length > size-e.Offset || e.End() <= off {
			return Extent{}, Extent{}, d.fail(l, depth, fmt.Errorf("asked for byte %d of %d, the map returned %+v", off, size, e))
		}
		e.Depth = depth
		unit = e
		if e.Kind == Data {
			e.Host += off - e.Offset
		}
		end = min(end, e.End())
		e.Offset, e.Length = off, end-off
		if e.Kind != Parent || depth == len(d.layers)-1 {
			return e, unit, nil
		}
	}
	return e, unit, nil
}

// fail says which layer an error is of, where there are several.
func (d *disk) fail(l *Image, depth int, err error) error {
	if err == nil || depth == 0 {
		return err
	}
	return fmt.Errorf("parent %d (%s): %w", depth, l.Format, err)
}

// source returns what the Host of e is an offset of.
func (d *disk) source(e Extent) (Source, error) {
	l := d.layers[e.Depth]
	if e.File < 0 || e.File >= len(l.Files) {
		return nil, fmt.Errorf("%s: the map names file %d of %d", l.Format, e.File, len(l.Files))
	}
	return l.Files[e.File], nil
}

// ReadAt implements io.ReaderAt.
func (d *disk) ReadAt(p []byte, off int64) (int, error) {
	if off < 0 {
		return 0, fmt.Errorf("offset %d", off)
	}
	n := 0
	for n < len(p) {
		if off >= d.size {
			return n, io.EOF
		}
		e, unit, err := d.at(off)
		if err != nil {
			return n, err
		}
		dst := p[n:][:min(int64(len(p)-n), e.Length)]
		if err := d.read(dst, e, unit); err != nil {
			return n, err
		}
		n += len(dst)
		off += int64(len(dst))
	}
	return n, nil
}

// read fills dst with the first bytes of e.
func (d *disk) read(dst []byte, e, unit Extent) error {
	l := d.layers[e.Depth]
	switch e.Kind {
	case Zero, Hole:
		clear(dst)
		return nil
	case Data:
		src, err := d.source(e)
		if err != nil {
			return err
		}
		n, err := src.ReadAt(dst, e.Host)
		if n == len(dst) {
			return nil
		}
		if err == nil || errors.Is(err, io.EOF) {
			err = io.ErrUnexpectedEOF
		}
		return d.fail(l, e.Depth, &FormatError{Format: l.Format, Structure: "guest data", Offset: e.Host, Err: err})
	case Compressed:
		if l.Inflate == nil {
			return fmt.Errorf("%s: compressed data that nothing decodes", l.Format)
		}
		if int64(len(dst)) == unit.Length {
			return d.fail(l, e.Depth, l.Inflate(unit, dst))
		}
		b, err := d.cache.get(unit, func(b []byte) error { return l.Inflate(unit, b) })
		if err != nil {
			return d.fail(l, e.Depth, err)
		}
		copy(dst, b[e.Offset-unit.Offset:])
		return nil
	case Parent:
		return &FormatError{
			Format: l.Format, Structure: "guest data", Offset: -1,
			Got: fmt.Sprintf("byte %d of the disk is the parent's", e.Offset), Err: ErrNoParent,
		}
	}
	return fmt.Errorf("%s: run of kind %d", l.Format, e.Kind)
}

// Extents implements Disk.
func (d *disk) Extents(off, n int64) iter.Seq2[Extent, error] {
	return func(yield func(Extent, error) bool) {
		if off < 0 || n < 0 {
			yield(Extent{}, fmt.Errorf("extents of %d bytes at %d", n, off))
			return
		}
		end := d.size
		if n < end-min(off, end) {
			end = off + n
		}
		var last Extent
		for at := off; at < end; {
			e, _, err := d.at(at)
			if err != nil {
				if last.Length == 0 || yield(last, nil) {
					yield(Extent{}, err)
				}
				return
			}
			e.Length = min(e.Length, end-at)
			at = e.End()
			if joins(last, e) {
				last.Length += e.Length
				continue
			}
			if last.Length > 0 && !yield(last, nil) {
				return
			}
			last = e
		}
		if last.Length > 0 {
			yield(last, nil)
		}
	}
}

// Ahead implements Disk.
func (d *disk) Ahead() Ahead {
	a := &diskAhead{d: d, files: make([][]Ahead, len(d.layers))}
	some := false
	for i, l := range d.layers {
		a.files[i] = make([]Ahead, len(l.Files))
		for j, f := range l.Files {
			if an, ok := f.(Anticipator); ok {
				a.files[i][j] = an.Ahead()
				some = some || a.files[i][j] != nil
			}
		}
	}
	if !some {
		return nil
	}
	return a
}

// diskAhead passes on what is expected of a disk to the files where that lies.
type diskAhead struct {
	d     *disk
	files [][]Ahead // by layer and file; nil: it does not want to know
}

// Expect implements Ahead. What cannot be found is left to who reads it.
func (a *diskAhead) Expect(off, n int64) {
	for e, err := range a.d.Extents(off, n) {
		if err != nil {
			return
		}
		if e.Kind != Data && e.Kind != Compressed || e.File < 0 || e.File >= len(a.files[e.Depth]) {
			continue
		}
		f := a.files[e.Depth][e.File]
		switch {
		case f == nil:
		case e.Kind == Data:
			f.Expect(e.Host, e.Length)
		default:
			f.Expect(e.Host, e.Stored)
		}
	}
}

// Close implements Ahead.
func (a *diskAhead) Close() {
	for _, files := range a.files {
		for _, f := range files {
			if f != nil {
				f.Close()
			}
		}
	}
}

// joins reports whether b continues a.
func joins(a, b Extent) bool {
	if a.Length == 0 || a.Kind != b.Kind || a.Depth != b.Depth {
		return false
	}
	switch a.Kind {
	case Data:
		return a.File == b.File && a.Host+a.Length == b.Host
	case Compressed:
		return a.File == b.File && a.Host == b.Host // parts of one unit
	}
	return true
}

// unitCache keeps decoded units, the newest first. Goroutines that want the
// same unit decode it once.
type unitCache struct {
	mu    sync.Mutex
	units []*cachedUnit
	bytes int64
}

type cachedUnit struct {
	depth int
	off   int64
	size  int64
	once  sync.Once
	data  []byte
	err   error
}

// get returns what decode makes of the unit. The slice is only to be read.
func (c *unitCache) get(unit Extent, decode func([]byte) error) ([]byte, error) {
	u := c.find(unit)
	u.once.Do(func() {
		u.data = make([]byte, u.size)
		u.err = decode(u.data)
	})
	if u.err != nil {
		c.drop(u) // the medium may be better next time
	}
	return u.data, u.err
}

func (c *unitCache) drop(u *cachedUnit) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if i := slices.Index(c.units, u); i >= 0 {
		c.units = slices.Delete(c.units, i, i+1)
		c.bytes -= u.size
	}
}

func (c *unitCache) find(unit Extent) *cachedUnit {
	c.mu.Lock()
	defer c.mu.Unlock()
	i := slices.IndexFunc(c.units, func(u *cachedUnit) bool { return u.off == unit.Offset && u.depth == unit.Depth })
	if i >= 0 {
		u := c.units[i]
		copy(c.units[1:], c.units[:i])
		c.units[0] = u
		return u
	}
	u := &cachedUnit{depth: unit.Depth, off: unit.Offset, size: unit.Length}
	c.units = slices.Insert(c.units, 0, u)
	c.bytes += u.size
	// What is dropped while somebody decodes it still serves them.
	for c.bytes > cacheBytes && len(c.units) > 2 {
		last := len(c.units) - 1
		c.bytes -= c.units[last].size
		c.units[last] = nil
		c.units = c.units[:last]
	}
	return u
}
