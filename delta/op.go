package delta

import (
	"encoding/binary"
	"errors"
	"fmt"
)

// Kind is what an operation does.
type Kind uint8

// The kinds of operations; archive/FORMAT.md section 4.
const (
	Same Kind = iota // as in the parent's file of the same path, at the same offset
	Zero
	Data // the next bytes of the segment's data
	Copy // from one of the parent entry's files
	Self // from one of this entry's files, described earlier in the archive
	kinds
)

func (k Kind) String() string {
	if k < kinds {
		return [...]string{"same", "zero", "data", "copy", "self"}[k]
	}
	return fmt.Sprintf("kind %d", uint8(k))
}

// An Op describes Length bytes of a file.
type Op struct {
	Kind   Kind
	Length int64 // bytes, positive
	Source int   // Copy, Self: index into the segment's sources
	Offset int64 // Copy, Self: in that source; Data (when read): in the segment's data
}

// Limits of a segment that a writer keeps and a reader demands.
const (
	MaxData = 16 << 20 // bytes of data
	MaxOps  = 1 << 20  // bytes of operations
	maxHead = 8 << 20  // header, sources and operations
)

const (
	segmentMagic = "TARVMDL1"
	segmentFixed = 56
	align        = 512
)

// ErrSegment is wrapped by every error about the bytes of a segment.
var ErrSegment = errors.New("delta segment")

// A Segment is the head of one segment of a delta: the range of the file that it describes and how.
type Segment struct {
	Start, End int64 // bytes of the file
	Size       int64 // of the file
	Head       int64 // offset of the data in the segment
	Data       int64 // length of the data
	Sources    []string
	Ops        []Op
}

// A SegmentWriter collects the operations of a segment.
type SegmentWriter struct {
	start, end int64
	ops        []byte
	sources    []string
	index      map[string]int
	last       int64 // end of the last source range
	pend       Op    // not yet encoded: it may grow
	data       int64
}

// Reset starts a segment at offset start of the file.
func (w *SegmentWriter) Reset(start int64) {
	*w = SegmentWriter{start: start, end: start, ops: w.ops[:0]}
}

// Start and End are the range described so far.
func (w *SegmentWriter) Start() int64 { return w.start }

// End is the offset behind the range described so far.
func (w *SegmentWriter) End() int64 { return w.end }

// Empty reports whether nothing but Same was added.
func (w *SegmentWriter) Empty() bool {
	return len(w.ops) == 0 && (w.pend.Length == 0 || w.pend.Kind == Same)
}

// Full reports whether the segment should be ended before more operations of up to n bytes come.
func (w *SegmentWriter) Full(n int64) bool {
	return w.data+n > MaxData || len(w.ops) > MaxOps-64<<10 || len(w.sources) > 1000
}

// DataLen is the number of bytes of data that the operations take.
func (w *SegmentWriter) DataLen() int64 { return w.data }

// Add appends an operation of n bytes. Copy and Self name a source path and an offset in it.
func (w *SegmentWriter) Add(k Kind, n int64, source string, off int64) {
	w.end += n
	if k == Data {
		w.data += n
	}
	src := -1
	if k == Copy || k == Self {
		src = w.source(source)
	}
	if p := &w.pend; p.Length > 0 && p.Kind == k && (src < 0 || p.Source == src && p.Offset+p.Length == off) {
		p.Length += n
		return
	}
	w.flush()
	w.pend = Op{Kind: k, Length: n, Source: src, Offset: off}
}

func (w *SegmentWriter) source(path string) int {
	if i, ok := w.index[path]; ok {
		return i
	}
	if w.index == nil {
		w.index = make(map[string]int)
	}
	i := len(w.sources)
	w.index[path] = i
	w.sources = append(w.sources, path)
	return i
}

func (w *SegmentWriter) flush() {
	p := w.pend
	if p.Length == 0 {
		return
	}
	w.ops = binary.AppendUvarint(w.ops, uint64(p.Length)<<3|uint64(p.Kind))
	if p.Kind == Copy || p.Kind == Self {
		w.ops = binary.AppendUvarint(w.ops, uint64(p.Source))
		w.ops = binary.AppendVarint(w.ops, p.Offset-w.last)
		w.last = p.Offset + p.Length
	}
	w.pend = Op{}
}

// AppendHead ends the segment and appends its head to b: header, sources, operations, padding.
// A trailing Same is left out. Size is the file's.
func (w *SegmentWriter) AppendHead(b []byte, size int64) []byte {
	if w.pend.Kind == Same {
		w.end -= w.pend.Length
		w.pend = Op{}
	}
	w.flush()
	head := segmentFixed + len(w.ops)
	for _, s := range w.sources {
		head += 2 + len(s)
	}
	padded := (head + align - 1) / align * align
	le := binary.LittleEndian
	b = append(b, segmentMagic...)
	for _, v := range []int64{w.start, w.end, size, int64(padded), w.data} {
		b = le.AppendUint64(b, uint64(v))
	}
	b = le.AppendUint32(b, uint32(len(w.sources)))
	b = le.AppendUint32(b, uint32(len(w.ops)))
	for _, s := range w.sources {
		b = le.AppendUint16(b, uint16(len(s)))
		b = append(b, s...)
	}
	b = append(b, w.ops...)
	return append(b, make([]byte, padded-head)...)
}

// HeadLen returns the length of the head of the segment that begins with b, of which the
// first 64 bytes are enough.
func HeadLen(b []byte) (int64, error) {
	if len(b) < segmentFixed || string(b[:8]) != segmentMagic {
		return 0, fmt.Errorf("%w: no segment header", ErrSegment)
	}
	n := binary.LittleEndian.Uint64(b[32:])
	if n < segmentFixed || n > maxHead || n%align != 0 {
		return 0, fmt.Errorf("%w: head of %d bytes", ErrSegment, n)
	}
	return int64(n), nil
}

// ParseSegment reads the head of a segment. It checks all that can be checked without the
// files that the operations name: ranges, sums, limits. Errors wrap ErrSegment.
func ParseSegment(b []byte) (*Segment, error) {
	head, err := HeadLen(b)
	if err != nil {
		return nil, err
	}
	bad := func(f string, a ...any) (*Segment, error) {
		return nil, fmt.Errorf("%w: %s", ErrSegment, fmt.Sprintf(f, a...))
	}
	if int64(len(b)) < head {
		return bad("%d bytes of a head of %d", len(b), head)
	}
	b = b[:head]
	le := binary.LittleEndian
	s := &Segment{
		Start: int64(le.Uint64(b[8:])), End: int64(le.Uint64(b[16:])), Size: int64(le.Uint64(b[24:])),
		Head: head, Data: int64(le.Uint64(b[40:])),
	}
	nsrc, nops := le.Uint32(b[48:]), le.Uint32(b[52:])
	if s.Start < 0 || s.End < s.Start || s.Size < s.End || s.Data < 0 || s.Data > MaxData || s.Data > s.End-s.Start || nops > MaxOps {
		return bad("range %d to %d of %d, %d bytes of data, %d of operations", s.Start, s.End, s.Size, s.Data, nops)
	}
	b = b[segmentFixed:]
	if int(nsrc) > len(b)/3 {
		return bad("%d sources", nsrc)
	}
	for i := range nsrc {
		if len(b) < 2 {
			return bad("source %d is cut off", i)
		}
		n := int(le.Uint16(b))
		if n == 0 || len(b) < 2+n {
			return bad("source %d is cut off", i)
		}
		s.Sources = append(s.Sources, string(b[2:2+n]))
		b = b[2+n:]
	}
	if len(b) < int(nops) {
		return bad("operations are cut off")
	}
	for _, c := range b[nops:] {
		if c != 0 {
			return bad("padding is not zero")
		}
	}
	b = b[:nops]
	var last, data int64
	at := s.Start
	for len(b) > 0 {
		v, n := binary.Uvarint(b)
		op := Op{Kind: Kind(v & 7), Length: int64(v >> 3)}
		if n <= 0 || op.Length == 0 || op.Length > s.End-at {
			return bad("operation at byte %d of the file is not valid", at)
		}
		b = b[n:]
		switch op.Kind {
		case Same, Zero:
		case Data:
			op.Offset = data
			data += op.Length
		case Copy, Self:
			src, n := binary.Uvarint(b)
			if n <= 0 || src >= uint64(nsrc) {
				return bad("%s at byte %d of the file: source %d of %d", op.Kind, at, src, nsrc)
			}
			b = b[n:]
			move, n := binary.Varint(b)
			if n <= 0 {
				return bad("%s at byte %d of the file is cut off", op.Kind, at)
			}
			b = b[n:]
			op.Source = int(src)
			op.Offset = last + move
			if move > 1<<62 || move < -(1<<62) || op.Offset < 0 || op.Offset > 1<<62-op.Length {
				return bad("%s at byte %d of the file: offset out of range", op.Kind, at)
			}
			last = op.Offset + op.Length
		default:
			return bad("operation at byte %d of the file has %s, which needs a later version of tarvm", at, op.Kind)
		}
		at += op.Length
		s.Ops = append(s.Ops, op)
	}
	if at != s.End || data != s.Data {
		return bad("operations end at %d with %d bytes of data, want %d with %d", at, data, s.End, s.Data)
	}
	return s, nil
}
