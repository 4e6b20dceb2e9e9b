package chain

import (
	"errors"
	"fmt"
	"io"
	"sort"

	"tarvm/archive"
	"tarvm/archive/codec"
	"tarvm/delta"
	"tarvm/manifest"
)

// An entry is one state of the chain and where its archive's bytes are.
type entry struct {
	k       int
	arch    *archive.Archive // nil: of a stream
	snap    *manifest.Snapshot
	index   func() map[manifest.Path]int
	table   func(*manifest.Member) (*delta.Table, error)
	segment func(*manifest.Segment) (*delta.Segment, error)
	data    io.ReaderAt // decoded
	size    int64       // of data
	// local is set when the content lies in files that were restored already: it returns the number
	// of the local file that holds member mem.
	local func(mem int32) int32
}

// reader returns the frames of the entry's archive, nil when its data has none.
func (e *entry) reader() *codec.Reader {
	if e.arch == nil || e.arch.Codec().Name() == "none" {
		return nil
	}
	return e.arch.Data()
}

// find returns the member at path, -1 when there is none. Near is a guess.
func (e *entry) find(p manifest.Path, near int32) int32 {
	if n := int(near); n < len(e.snap.Members) && e.snap.Members[n].Path == p {
		return near
	}
	if i, ok := e.index()[p]; ok {
		return int32(i)
	}
	return -1
}

func (e *entry) fail(m *manifest.Member, off int64, err error) error {
	var me *MemberError
	if errors.As(err, &me) {
		return err
	}
	return &MemberError{Entry: e.snap.ID, Member: m.Path, Offset: off, Err: err}
}

func (e *entry) corrupt(m *manifest.Member, off int64, f string, a ...any) error {
	return e.fail(m, off, fmt.Errorf("%w: %s", ErrCorrupt, fmt.Sprintf(f, a...)))
}

// blocks are the blocks of a file and their digests. A file of at most one block is one block.
type blocks struct {
	m *manifest.Member
	t *delta.Table
}

func (e *entry) blocks(m *manifest.Member) (blocks, error) {
	t, err := e.table(m)
	if err != nil {
		return blocks{}, e.fail(m, -1, err)
	}
	return blocks{m, t}, nil
}

func (b blocks) count() int64 {
	if b.t != nil {
		return b.t.Grid.Count(b.m.Size)
	}
	return min(1, b.m.Size)
}

func (b blocks) rng(i int64) (off, n int64) {
	if b.t != nil {
		return b.t.Grid.Range(i, b.m.Size)
	}
	return 0, b.m.Size
}

func (b blocks) at(off int64) int64 {
	if b.t != nil {
		return b.t.Grid.Index(off)
	}
	return 0
}

// read fills dst with the digests of the blocks from first on; zero blocks have the zero Digest.
func (b blocks) read(first int64, dst []delta.Digest) error {
	if b.t != nil {
		return b.t.Read(first, dst)
	}
	for i := range dst {
		dst[i] = b.m.Digest
	}
	return nil
}

// check compares the section of the table with the member's digest, to which the entry's id commits.
func (b blocks) check() error {
	if b.t == nil {
		return nil
	}
	d, err := b.t.Sum()
	if err != nil {
		return err
	}
	if d != b.m.Digest {
		return fmt.Errorf("%w: its table of blocks has digest %s, want %s", ErrCorrupt, d.Short(), b.m.Digest.Short())
	}
	return nil
}

// runs are the stored runs of a whole member.
type runs struct {
	ext []delta.Extent
	cum []int64 // bytes stored before each
}

// storedRuns returns what of m lies in the archive, nil when everything does.
func (c *Chain) storedRuns(e *entry, m *manifest.Member) (*runs, error) {
	if m.Stored.Bytes == m.Size {
		return nil, nil
	}
	if r, ok := c.cache.get(m).(*runs); ok {
		return r, nil
	}
	t, err := e.table(m)
	if err != nil {
		return nil, e.fail(m, -1, err)
	}
	r := &runs{ext: archive.StoredRuns(m, t)}
	var sum int64
	for _, x := range r.ext {
		r.cum = append(r.cum, sum)
		sum += x.Length
	}
	if sum != m.Stored.Bytes {
		return nil, e.corrupt(m, -1, "%d bytes are stored, its data runs have %d", m.Stored.Bytes, sum)
	}
	c.cache.put(m, r, int64(len(r.ext))*24+100)
	return r, nil
}

// segment is a parsed segment in a small form.
type segment struct {
	g       *manifest.Segment
	sources []string
	ops     []op
}

type op struct {
	start int64 // in the file
	off   int64 // Data: in the decoded archive; Copy, Self: in the source
	src   int32
	kind  delta.Kind
}

// Segments in their small form that are kept: about 2.8 million operations.
const segmentCache = 64 << 20

// parsed reads segment g of m, or takes it from the cache.
func (c *Chain) parsed(e *entry, m *manifest.Member, g *manifest.Segment) (*segment, error) {
	if s, ok := c.cache.get(g).(*segment); ok {
		return s, nil
	}
	d, err := e.segment(g)
	if err != nil {
		if errors.Is(err, delta.ErrSegment) {
			err = fmt.Errorf("%w: %w", ErrCorrupt, err)
		}
		return nil, e.fail(m, g.Start, err)
	}
	if d.Size != m.Size {
		return nil, e.corrupt(m, g.Start, "a segment says that the file has %d bytes, the manifest says %d", d.Size, m.Size)
	}
	if g.Body < 0 || g.Body > e.size || g.Head+g.Data > e.size-g.Body {
		return nil, e.corrupt(m, g.Start, "segment at %d passes the end of the archive", g.Body)
	}
	s := &segment{g: g, sources: d.Sources, ops: make([]op, len(d.Ops))}
	at := d.Start
	for i, o := range d.Ops {
		s.ops[i] = op{start: at, off: o.Offset, src: int32(o.Source), kind: o.Kind}
		if o.Kind == delta.Data {
			s.ops[i].off += g.Body + g.Head
		}
		at += o.Length
	}
	c.cache.put(g, s, int64(len(s.ops))*24+200)
	return s, nil
}

// end returns where operation i of s ends.
func (s *segment) end(i int) int64 {
	if i+1 < len(s.ops) {
		return s.ops[i+1].start
	}
	return s.g.End
}

// opAt returns the operation that holds off, which is in the segment's range.
func (s *segment) opAt(off int64) int {
	return sort.Search(len(s.ops), func(i int) bool { return s.ops[i].start > off }) - 1
}
