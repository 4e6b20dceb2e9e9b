package qcow2

import (
	"encoding/binary"
	"io"
	"iter"
	"math"

	"tarvm/formats"
)

// encLayout gives out the clusters of a new file in ascending order, and counts
// how often each is used. A refcount block is written as soon as all clusters
// that it counts were given out, so that counts take no memory.
type encLayout struct {
	encSpool
	cluster int64 // bytes
	limit   int64 // clusters that entries can point to
	per     int64 // clusters that a refcount block counts
	next    int64 // the first free cluster
	first   int64 // the first cluster that counts has
	counts  []byte
	full    [][]byte // blocks that wait for their place: those before counts
	blocks  []int64  // file offsets of the blocks that were written

	// What is free of the last cluster with compressed data: file offset and
	// bytes. It is in counts.
	open, left int64
}

func newEncLayout(out formats.Output, cluster int64) encLayout {
	return encLayout{
		encSpool: encSpool{out: out},
		cluster:  cluster,
		// Offsets have 56 bits, those of compressed clusters perhaps fewer.
		limit:  1 << min(56, compressedShift(cluster)) / cluster,
		per:    cluster / 2,
		counts: make([]byte, cluster),
	}
}

// take gives out n clusters that follow each other, each used once, and returns
// the file offset of the first. It does not write them.
func (l *encLayout) take(n int64) (int64, error) {
	for len(l.full) > 0 {
		b := l.full[0]
		l.full = l.full[1:]
		if len(l.blocks) >= encMaxRefTable/8 {
			return 0, encUnsupported("refcount table", "%d entries: the clusters are too small", len(l.blocks)+1)
		}
		at := l.next * l.cluster
		l.one()
		l.blocks = append(l.blocks, at)
		if err := l.write(b, at); err != nil {
			return 0, err
		}
	}
	if n > l.limit-l.next {
		return 0, encUnsupported("file size", "more than %d clusters", l.limit)
	}
	at := l.next * l.cluster
	for range n {
		l.one()
	}
	return at, nil
}

func (l *encLayout) one() {
	if l.next-l.first == l.per {
		l.full = append(l.full, l.counts)
		l.counts = make([]byte, l.cluster)
		l.first = l.next
		l.left = 0
	}
	binary.BigEndian.PutUint16(l.counts[2*(l.next-l.first):], 1)
	l.next++
}

// again counts one more use of the cluster at file offset at, which is in counts.
func (l *encLayout) again(at int64) {
	b := l.counts[2*(at/l.cluster-l.first):]
	n := binary.BigEndian.Uint16(b) + 1
	binary.BigEndian.PutUint16(b, n)
	if n == math.MaxUint16 {
		l.left = 0
	}
}

// pack gives out n bytes, less than a cluster, for compressed data, and returns
// their file offset. They follow those before if they fit into the rest of that
// cluster, or if the next cluster is free, too.
func (l *encLayout) pack(n int64) (int64, error) {
	at := l.open
	if n <= l.left {
		l.left -= n
		l.open += n
		l.again(at)
		return at, nil
	}
	left := l.left
	next, err := l.take(1)
	switch {
	case err != nil:
		return 0, err
	case l.left > 0 && next == l.open+l.left:
		l.again(at)
	default: // a new cluster; take may have closed the last
		at, left = next, 0
	}
	if left == 0 {
		left = l.cluster
	} else {
		left += l.cluster
	}
	l.open, l.left = at+n, left-n
	return at, nil
}

// putRefcounts writes the refcount table and the blocks that are left, which
// count themselves. It returns the table's file offset and its clusters. No
// cluster can be given out afterwards.
func (l *encLayout) putRefcounts() (at, clusters int64, err error) {
	have := int64(len(l.blocks))
	blocks, clusters := have, int64(0)
	for {
		// Both numbers only grow, until they count themselves.
		b := (l.next + clusters + blocks - have + l.per - 1) / l.per
		t := (8*b + l.cluster - 1) / l.cluster
		if b == blocks && t == clusters {
			break
		}
		blocks, clusters = b, t
	}
	if blocks > encMaxRefTable/8 {
		return 0, 0, encUnsupported("refcount table", "%d entries: the clusters are too small", blocks)
	}
	at = l.next * l.cluster
	if blocks-have+clusters > l.limit-l.next {
		return 0, 0, encUnsupported("file size", "more than %d clusters", l.limit)
	}
	for range blocks - have + clusters {
		l.one()
	}
	table := make([]byte, clusters*l.cluster)
	behind := at + clusters*l.cluster
	for i, b := range append(l.full, l.counts) {
		l.blocks = append(l.blocks, behind+int64(i)*l.cluster)
		if err := l.write(b, l.blocks[len(l.blocks)-1]); err != nil {
			return 0, 0, err
		}
	}
	for i, b := range l.blocks {
		binary.BigEndian.PutUint64(table[8*i:], uint64(b))
	}
	return at, clusters, l.write(table, at)
}

// spoolSize makes few writes of small clusters. Between 256 KiB and 4 MiB no
// difference could be measured.
const spoolSize = 1 << 20

// encSpool collects writes that follow each other.
type encSpool struct {
	out formats.Output
	buf []byte
	at  int64 // file offset of buf
	top int64 // end of all that was written so far, buf included
}

// write writes p at file offset off, later if that saves a write.
func (s *encSpool) write(p []byte, off int64) error {
	end, n := s.at+int64(len(s.buf)), int64(len(p))
	top := max(s.top, off+n)
	switch {
	case off >= s.at && off+n <= end:
		copy(s.buf[off-s.at:], p)
		return nil
	case len(s.buf) > 0 && off >= end && off+n-s.at <= spoolSize && (off == end || s.top == end):
		// Behind top nothing was written: the gap is zero.
		s.buf = append(s.buf, make([]byte, off-end)...)
		s.buf = append(s.buf, p...)
		s.top = top
		return nil
	}
	if err := s.flush(); err != nil {
		return err
	}
	s.top = top
	if n >= spoolSize/2 {
		return writeFull(s.out, p, off)
	}
	if s.buf == nil {
		s.buf = make([]byte, 0, spoolSize)
	}
	s.buf, s.at = append(s.buf, p...), off
	return nil
}

func (s *encSpool) flush() error {
	if len(s.buf) == 0 {
		return nil
	}
	err := writeFull(s.out, s.buf, s.at)
	s.buf = s.buf[:0]
	return err
}

func writeFull(w io.WriterAt, p []byte, off int64) error {
	n, err := w.WriteAt(p, off)
	if err == nil && n < len(p) {
		err = io.ErrShortWrite
	}
	return err
}

// wholeSectors is a disk with zeros up to size.
type wholeSectors struct {
	formats.Disk
	size int64
}

func (d *wholeSectors) Size() int64 { return d.size }

func (d *wholeSectors) ReadAt(p []byte, off int64) (int, error) {
	if off < 0 || off >= d.size {
		return d.Disk.ReadAt(p, off)
	}
	var err error
	if n := d.size - off; int64(len(p)) > n {
		p, err = p[:n], io.EOF
	}
	have := max(0, min(int64(len(p)), d.Disk.Size()-off))
	if have > 0 {
		if n, err := d.Disk.ReadAt(p[:have], off); int64(n) < have {
			return n, err
		}
	}
	clear(p[have:])
	return len(p), err
}

func (d *wholeSectors) Extents(off, n int64) iter.Seq2[formats.Extent, error] {
	return func(yield func(formats.Extent, error) bool) {
		for e, err := range d.Disk.Extents(off, n) {
			if !yield(e, err) || err != nil {
				return
			}
		}
		start := max(off, d.Disk.Size())
		if end := off + min(n, max(0, d.size-off)); start < end {
			yield(formats.Extent{Offset: start, Length: end - start, Kind: formats.Hole}, nil)
		}
	}
}
