package pax

import (
	"cmp"
	"math"
	"slices"
)

// A mapBuilder checks the entries of a sparse map as they are read and brings them to the form of Header.Sparse: empty
// runs dropped, touching ones joined.
type mapBuilder struct {
	size int64 // logical size
	max  int   // entries
	n    int
	end  int64 // of the last entry
	sum  int64
	ext  []Extent
}

func newMapBuilder(size int64, max int) *mapBuilder {
	return &mapBuilder{size: size, max: max, ext: []Extent{}}
}

func (m *mapBuilder) add(off, length int64) error {
	if m.n++; m.n > m.max {
		return tooLarge("sparse map has more than %d entries; raise MaxExtents", m.max)
	}
	switch {
	case off < 0 || length < 0:
		return headerErr("sparse entry %d is negative: %d+%d", m.n, off, length)
	case off > m.size || length > m.size-off:
		return headerErr("sparse entry %d, %d+%d, passes the end of the file at %d", m.n, off, length, m.size)
	case off < m.end:
		return headerErr("sparse entry %d at %d starts before the end of the one before it at %d", m.n, off, m.end)
	}
	if length == 0 {
		m.end = off
		return nil
	}
	if k := len(m.ext); k > 0 && m.ext[k-1].Offset+m.ext[k-1].Length == off {
		m.ext[k-1].Length += length
	} else {
		m.ext = append(m.ext, Extent{off, length})
	}
	m.end = off + length
	m.sum += length
	return nil
}

// checkExtents validates a map for writing and returns the sum of its lengths.
//
// All runs but the last are whole blocks because GNU tar 1.34 starts to read each run at a block, while bsdtar, Python and
// Go expect one right behind the other.
func checkExtents(ext []Extent, size int64) (sum int64, err error) {
	end := int64(-1)
	for i, e := range ext {
		switch {
		case e.Offset < 0 || e.Length <= 0:
			return 0, headerErr("sparse run %d is empty or negative: %d+%d", i, e.Offset, e.Length)
		case e.Offset <= end:
			return 0, headerErr("sparse run %d at %d does not leave a hole after the one before it, which ends at %d",
				i, e.Offset, end)
		case e.Offset > size || e.Length > size-e.Offset:
			return 0, headerErr("sparse run %d, %d+%d, passes the end of the file at %d", i, e.Offset, e.Length, size)
		case Padding(e.Length) != 0 && i < len(ext)-1:
			return 0, headerErr("sparse run %d of %d bytes is not whole blocks; use LimitExtents", i, e.Length)
		}
		end = e.Offset + e.Length
		sum += e.Length
	}
	return sum, nil
}

// endMark tells whether the map needs an empty run at the end of the file: where it ends in a hole, and where it has no
// runs at all, because GNU tar 1.34 restores a file from a map of no entries as an empty one.
func endMark(ext []Extent, size int64) bool {
	if len(ext) == 0 {
		return true
	}
	last := ext[len(ext)-1]
	return last.Offset+last.Length < size
}

// appendMap writes a GNU.sparse 1.0 map: decimal numbers, each with a newline, first the count of entries, then offset
// and length of each; NULs to the end of the block.
func appendMap(dst []byte, ext []Extent, size int64) []byte {
	start := len(dst)
	mark := endMark(ext, size)
	n := len(ext)
	if mark {
		n++
	}
	dst = append(appendInt(dst, int64(n)), '\n')
	for _, e := range ext {
		dst = append(appendInt(dst, e.Offset), '\n')
		dst = append(appendInt(dst, e.Length), '\n')
	}
	if mark {
		dst = append(appendInt(dst, size), "\n0\n"...)
	}
	return AppendPadding(dst, int64(len(dst)-start))
}

// mapLen is the length in bytes of what appendMap writes, without padding.
func mapLen(ext []Extent, size int64) int64 {
	var s mapSizer
	for _, e := range ext {
		s.add(e)
	}
	return s.total(endMark(ext, size), size)
}

type mapSizer struct {
	n     int64
	bytes int64
}

func (s *mapSizer) add(e Extent) {
	s.n++
	s.bytes += int64(digits(e.Offset) + digits(e.Length) + 2)
}

func (s *mapSizer) total(mark bool, size int64) int64 {
	n, b := s.n, s.bytes
	if mark {
		n++
		b += int64(digits(size)) + 3
	}
	return b + int64(digits(n)) + 1
}

// LimitExtents returns a map that AppendHeader accepts. That is ext itself when its encoding stays within MaxMap and all
// its runs but the last are whole blocks. Otherwise it is a new one: each run is extended to block borders in the file,
// then the smallest holes, of equal ones the first, become data until the map fits, as few as will do. ext must be as
// Header.Sparse describes. What was a hole and now is data, the caller must store like other data: zeros, as a rule.
func LimitExtents(ext []Extent, size int64) []Extent {
	return limitExtents(ext, size, MaxMap)
}

// alignExtents extends all runs to block borders, the last one no further than to the end of the file.
func alignExtents(ext []Extent, size int64) []Extent {
	out := make([]Extent, 0, len(ext))
	for _, e := range ext {
		start := e.Offset &^ (BlockSize - 1)
		end := e.Offset + e.Length
		if pad := Padding(end); pad > size-end {
			end = size
		} else {
			end += pad
		}
		if k := len(out) - 1; k >= 0 && start <= out[k].Offset+out[k].Length {
			out[k].Length = end - out[k].Offset
		} else {
			out = append(out, Extent{start, end - start})
		}
	}
	return out
}

func limitExtents(ext []Extent, size, limit int64) []Extent {
	if _, err := checkExtents(ext, size); err == nil && mapLen(ext, size) <= limit {
		return ext
	}
	ext = alignExtents(ext, size)
	if len(ext) < 2 || mapLen(ext, size) <= limit {
		return ext
	}
	// holes[i] lies before ext[i+1].
	holes := make([]hole, len(ext)-1)
	for i := range holes {
		end := ext[i].Offset + ext[i].Length
		holes[i] = hole{end, ext[i+1].Offset - end}
	}
	slices.SortFunc(holes, hole.compare)
	mark := endMark(ext, size)
	// Closing a hole always makes the map shorter: a number of the joined run has at most one digit more than the longer
	// of the two that it replaces, and two separators and a number go. So the count to close can be searched for.
	lo, _ := slices.BinarySearchFunc(holes, limit, func(h hole, limit int64) int {
		var s mapSizer
		closeHoles(ext, h, s.add)
		if s.total(mark, size) <= limit {
			return 1
		}
		return -1
	})
	if lo == len(holes) {
		lo-- // not even one run fits: no limit in use is that small
	}
	var out []Extent
	closeHoles(ext, holes[lo], func(e Extent) { out = append(out, e) })
	return out
}

type hole struct{ offset, length int64 }

func (h hole) compare(o hole) int {
	return cmp.Or(cmp.Compare(h.length, o.length), cmp.Compare(h.offset, o.offset))
}

// closeHoles yields ext with all holes up to and including last closed.
func closeHoles(ext []Extent, last hole, yield func(Extent)) {
	cur := ext[0]
	for _, e := range ext[1:] {
		end := cur.Offset + cur.Length
		if (hole{end, e.Offset - end}).compare(last) <= 0 {
			cur.Length = e.Offset + e.Length - cur.Offset
			continue
		}
		yield(cur)
		cur = e
	}
	yield(cur)
}

// Padding returns the bytes from the end of a body of stored bytes to the next block: 0 to 511.
func Padding(stored int64) int64 { return -stored & (BlockSize - 1) }

// maxStored keeps sums of an offset, a body and its padding inside int64.
const maxStored = math.MaxInt64 - 4*BlockSize
