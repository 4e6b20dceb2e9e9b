package delta

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"sort"

	"github.com/zeebo/blake3"
)

// ErrTable is wrapped by every error about a section of the table of blocks.
var ErrTable = errors.New("table of blocks")

// A Section is what the table of blocks says of one file: the digests of its blocks
// that are not all zero, where the zero ones are, and where the file had holes.
// manifest/FORMAT.md section 5.
type Section struct {
	Grid   Grid
	Size   int64 // of the file
	Blocks int64 // number of digests
	Runs   []Run
	Holes  bool     // whether Data is known
	Data   []Extent // data runs as they lay on disk
}

// A Run is Zero blocks of zeros, then Data other blocks.
type Run struct {
	Zero, Data int64
}

// A SectionWriter makes a section while a file is scanned from front to back.
type SectionWriter struct {
	s   Section
	w   io.Writer
	h   *blake3.Hasher
	n   int64 // bytes written
	err error
}

// NewSectionWriter starts the section of a file of size bytes; digests go to w.
func NewSectionWriter(w io.Writer, g Grid, size int64) *SectionWriter {
	h := blake3.New()
	var b [32]byte
	binary.LittleEndian.PutUint64(b[:], uint64(size))
	binary.LittleEndian.PutUint64(b[8:], uint64(g.Block))
	binary.LittleEndian.PutUint64(b[16:], uint64(g.Phase))
	binary.LittleEndian.PutUint64(b[24:], uint64(g.Stride))
	_, _ = h.Write(b[:]) // a hash does not fail
	return &SectionWriter{s: Section{Grid: g, Size: size}, w: w, h: h}
}

// Add appends the digests of the next blocks; the zero Digest is a block of zeros.
func (w *SectionWriter) Add(blocks []Digest) {
	for i := 0; i < len(blocks); {
		j := i
		for j < len(blocks) && blocks[j].IsZero() {
			j++
		}
		w.AddZeros(int64(j - i))
		i = j
		for j < len(blocks) && !blocks[j].IsZero() {
			w.write(blocks[j][:])
			j++
		}
		w.data(int64(j - i))
		i = j
	}
}

// AddZeros appends n blocks of zeros.
func (w *SectionWriter) AddZeros(n int64) {
	if n == 0 {
		return
	}
	if k := len(w.s.Runs); k > 0 && w.s.Runs[k-1].Data == 0 {
		w.s.Runs[k-1].Zero += n
		return
	}
	w.s.Runs = append(w.s.Runs, Run{Zero: n})
}

func (w *SectionWriter) data(n int64) {
	if n == 0 {
		return
	}
	w.s.Blocks += n
	if k := len(w.s.Runs); k > 0 {
		w.s.Runs[k-1].Data += n
		return
	}
	w.s.Runs = append(w.s.Runs, Run{Data: n})
}

func (w *SectionWriter) write(b []byte) {
	if w.err != nil {
		return
	}
	_, _ = w.h.Write(b)
	n, err := w.w.Write(b)
	w.n += int64(n)
	w.err = err
}

// Close ends the section. It returns the member's digest, the number of digests and the
// section's length in bytes. Holes tells whether data are the file's data runs.
func (w *SectionWriter) Close(holes bool, data []Extent) (d Digest, blocks, length int64, err error) {
	var b []byte
	b = binary.AppendUvarint(b, uint64(len(w.s.Runs)))
	for _, r := range w.s.Runs {
		b = binary.AppendUvarint(b, uint64(r.Zero))
		b = binary.AppendUvarint(b, uint64(r.Data))
	}
	w.write(b)
	copy(d[:], w.h.Sum(nil))
	b = b[:0]
	if !holes {
		b = append(b, 0)
	} else {
		b = binary.AppendUvarint(b, uint64(len(data))+1)
		var end int64
		for _, e := range data {
			b = binary.AppendUvarint(b, uint64(e.Offset-end))
			b = binary.AppendUvarint(b, uint64(e.Length))
			end = e.End()
		}
	}
	if w.err == nil {
		var n int
		n, w.err = w.w.Write(b)
		w.n += int64(n)
	}
	return d, w.s.Blocks, w.n, w.err
}

// A Table gives the digests of one file's blocks by index. It is safe for concurrent use.
type Table struct {
	Section
	first []int64 // by run: index of its first data block
	ord   []int64 // by run: number of digests before it
	src   io.ReaderAt
	runs  []byte
}

// OpenTable reads the section of a file of size bytes that has blocks digests and is length bytes
// long at the start of src. The digests stay where they are; runs and holes are read
// now and checked. Errors wrap ErrTable.
func OpenTable(src io.ReaderAt, g Grid, size, blocks, length int64) (*Table, error) {
	bad := func(f string, a ...any) (*Table, error) {
		return nil, fmt.Errorf("%w: %s", ErrTable, fmt.Sprintf(f, a...))
	}
	if err := g.Check(); err != nil {
		return bad("%v", err)
	}
	if size < 0 || blocks < 0 || blocks > g.Count(size) || length < blocks*DigestSize+2 {
		return bad("%d digests in %d bytes for a file of %d bytes", blocks, length, size)
	}
	rest := length - blocks*DigestSize
	// A run takes two bytes at least and names a block at least, an extent likewise.
	if rest > 64+40*(g.Count(size)+1)+20*(size/512+1) || rest > 1<<30 {
		return bad("%d bytes of runs for a file of %d bytes", rest, size)
	}
	b := make([]byte, rest)
	if _, err := src.ReadAt(b, blocks*DigestSize); err != nil && !errors.Is(err, io.EOF) {
		return nil, fmt.Errorf("%w: %w", ErrTable, err)
	}
	t := &Table{Section: Section{Grid: g, Size: size, Blocks: blocks}, src: src}
	all := b
	next := func() (int64, bool) {
		v, n := binary.Uvarint(b)
		if n <= 0 || v > 1<<62 {
			return 0, false
		}
		b = b[n:]
		return int64(v), true
	}
	n, ok := next()
	if !ok || n > int64(len(b))/2 {
		return bad("%d runs", n)
	}
	var idx, ord int64
	for i := range n {
		z, ok1 := next()
		d, ok2 := next()
		if !ok1 || !ok2 || z == 0 && i > 0 || d == 0 && i < n-1 || z+d == 0 || z > g.Count(size) || d > g.Count(size) {
			return bad("run %d is not valid", i)
		}
		t.Runs = append(t.Runs, Run{z, d})
		t.first = append(t.first, idx+z)
		t.ord = append(t.ord, ord)
		idx += z + d
		ord += d
	}
	if idx != g.Count(size) || ord != blocks {
		return bad("runs of %d blocks with %d digests, the file has %d with %d", idx, ord, g.Count(size), blocks)
	}
	t.runs = all[:len(all)-len(b)]
	h, ok := next()
	if !ok || h > int64(len(b))/2+1 {
		return bad("%d data runs", h)
	}
	if h > 0 {
		t.Holes = true
		t.Data = make([]Extent, 0, h-1)
		var end int64
		for i := range h - 1 {
			gap, ok1 := next()
			l, ok2 := next()
			if !ok1 || !ok2 || l == 0 || gap == 0 && i > 0 || gap > size-end || l > size-end-gap {
				return bad("data run %d is not valid", i)
			}
			t.Data = append(t.Data, Extent{end + gap, l})
			end += gap + l
		}
	}
	if len(b) != 0 {
		return bad("%d bytes too many", len(b))
	}
	return t, nil
}

// Read returns the digests of the len(dst) blocks from first on; a block of zeros has the
// zero Digest. Errors wrap ErrTable or are the source's.
func (t *Table) Read(first int64, dst []Digest) error {
	if n := t.Grid.Count(t.Size); first < 0 || first > n || int64(len(dst)) > n-first {
		return fmt.Errorf("%w: blocks %d to %d of %d", ErrTable, first, first+int64(len(dst)), n)
	}
	clear(dst)
	r := sort.Search(len(t.Runs), func(i int) bool { return t.first[i]+t.Runs[i].Data > first })
	end := first + int64(len(dst))
	for ; r < len(t.Runs) && t.first[r] < end; r++ {
		lo, hi := max(first, t.first[r]), min(end, t.first[r]+t.Runs[r].Data)
		if lo >= hi {
			continue
		}
		if err := t.read(t.ord[r]+lo-t.first[r], dst[lo-first:hi-first]); err != nil {
			return err
		}
	}
	return nil
}

func (t *Table) read(ord int64, dst []Digest) error {
	b := make([]byte, len(dst)*DigestSize)
	if _, err := t.src.ReadAt(b, ord*DigestSize); err != nil && !errors.Is(err, io.EOF) {
		return fmt.Errorf("%w: %w", ErrTable, err)
	}
	for i := range dst {
		copy(dst[i][:], b[i*DigestSize:])
	}
	return nil
}

// Ordinal returns how many digests stand before that of block i, and whether block i has one.
func (t *Table) Ordinal(i int64) (int64, bool) {
	r := sort.Search(len(t.Runs), func(k int) bool { return t.first[k]+t.Runs[k].Data > i })
	if r == len(t.Runs) {
		return t.Blocks, false
	}
	if i < t.first[r] {
		return t.ord[r], false
	}
	return t.ord[r] + i - t.first[r], true
}

// Block returns which block has the digest with the given ordinal, 0 <= ord < Blocks.
func (t *Table) Block(ord int64) int64 {
	r := sort.Search(len(t.ord), func(k int) bool { return t.ord[k]+t.Runs[k].Data > ord })
	return t.first[r] + ord - t.ord[r]
}

// Sum computes the member's digest from the section, reading all of it.
func (t *Table) Sum() (Digest, error) {
	w := NewSectionWriter(io.Discard, t.Grid, t.Size)
	buf := make([]byte, 64<<10)
	for off := int64(0); off < t.Blocks*DigestSize; {
		n := min(int64(len(buf)), t.Blocks*DigestSize-off)
		if _, err := t.src.ReadAt(buf[:n], off); err != nil && !errors.Is(err, io.EOF) {
			return Digest{}, fmt.Errorf("%w: %w", ErrTable, err)
		}
		_, _ = w.h.Write(buf[:n])
		off += n
	}
	_, _ = w.h.Write(t.runs)
	return Digest(w.h.Sum(nil)), nil
}
