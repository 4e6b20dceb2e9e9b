package delta

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"

	"github.com/minio/highwayhash"
)

// FindUnit is the grid on which copies are found, in bytes: the page of a memory image and
// the block of most file systems. On a Debian machine's changes, new data was 889 MB by 64 KiB,
// 785 MB by 16 KiB and 633 MB by 4 KiB.
const FindUnit = 4 << 10

// A FindSum helps to find copies of a unit. It is keyed, and says nothing to who does not
// know the key; it never verifies anything. All zero: the unit is zero.
type FindSum [16]byte

// A Key is the secret under which FindSums are made. With a known key a guest could craft
// two units with one sum, and ruin its own backups.
type Key [32]byte

// AppendSums appends the sums of the units of block, whose last one may be short, and zero
// sums for the rest of units.
func (k *Key) AppendSums(dst []FindSum, block []byte, units int) []FindSum {
	for ; units > 0; units-- {
		u := block[:min(FindUnit, len(block))]
		block = block[len(u):]
		dst = append(dst, k.sum(u))
	}
	return dst
}

func (k *Key) sum(u []byte) FindSum {
	if IsZero(u) {
		return FindSum{}
	}
	s := FindSum(highwayhash.Sum128(u, k[:]))
	s[15] |= 1
	return s
}

var zeros [64 << 10]byte

// IsZero reports whether b is all zero bytes. It stops at the first that is not.
func IsZero(b []byte) bool {
	for len(b) > len(zeros) {
		if !bytes.Equal(b[:len(zeros)], zeros[:]) {
			return false
		}
		b = b[len(zeros):]
	}
	return bytes.Equal(b, zeros[:len(b)])
}

// Memory that an Index takes: 8 bytes a slot, half of the slots used, and the sums
// themselves up to maxLoaded. 4 Mi entries find every unit of 16 GiB of data; of more data
// every second, third, ... unit is indexed, which finds every moved run that is longer
// than that.
const (
	maxEntries = 4 << 20
	maxLoaded  = 64 << 20
)

// An Index finds where in a table of equally long sums a sum stands. It is safe for concurrent use.
type Index struct {
	src   io.ReaderAt
	width int
	n     int64
	step  int64
	mask  uint64
	slots []uint64 // tag in the upper 24 bits, position/step+1 in the lower 40; 0: free
	mem   []byte   // the whole table when it is small enough
}

const (
	posBits = 40
	posMask = 1<<posBits - 1
)

// NewIndex indexes the n sums of width bytes (at least 16) at the start of src. Where a sum
// occurs more than once, its first place counts; sums that are all zero are left out.
func NewIndex(src io.ReaderAt, n int64, width int) (*Index, error) {
	return newIndex(src, n, width, maxEntries, maxLoaded)
}

func newIndex(src io.ReaderAt, n int64, width int, entries, loaded int64) (*Index, error) {
	if width < 16 || width > 64 || n < 0 || n > 1<<posBits {
		return nil, fmt.Errorf("index of %d sums of %d bytes", n, width)
	}
	x := &Index{src: src, width: width, n: n, step: max(1, (n+entries-1)/entries)}
	size := 1024
	for int64(size) < 2*(n/x.step+1) {
		size *= 2
	}
	x.slots = make([]uint64, size)
	x.mask = uint64(size - 1)
	if n*int64(width) <= loaded {
		x.mem = make([]byte, n*int64(width))
		if err := readFull(src, x.mem, 0); err != nil {
			return nil, err
		}
		for pos := int64(0); pos < n; pos += x.step {
			x.insert(x.mem[pos*int64(width):][:width], pos)
		}
		return x, nil
	}
	const batch = 16 << 10
	buf := make([]byte, batch*width)
	for at := int64(0); at < n; at += batch {
		b := buf[:min(batch, n-at)*int64(width)]
		if err := readFull(src, b, at*int64(width)); err != nil {
			return nil, err
		}
		for pos := (at + x.step - 1) / x.step * x.step; pos < min(at+batch, n); pos += x.step {
			x.insert(b[(pos-at)*int64(width):][:width], pos)
		}
	}
	return x, nil
}

func readFull(src io.ReaderAt, b []byte, off int64) error {
	n, err := src.ReadAt(b, off)
	if n == len(b) {
		return nil
	}
	if err == nil || errors.Is(err, io.EOF) {
		err = io.ErrUnexpectedEOF
	}
	return fmt.Errorf("table of sums at byte %d: %w", off, err)
}

func (x *Index) hash(sum []byte) (slot, tag uint64) {
	h := binary.LittleEndian.Uint64(sum)
	return h & x.mask, binary.LittleEndian.Uint64(sum[8:]) >> 8 << posBits
}

func (x *Index) insert(sum []byte, pos int64) {
	if IsZero(sum) {
		return
	}
	i, tag := x.hash(sum)
	for ; x.slots[i] != 0; i = (i + 1) & x.mask {
		if x.slots[i]&^posMask == tag && x.Match(int64(x.slots[i]&posMask-1)*x.step, sum) {
			return
		}
	}
	x.slots[i] = tag | uint64(pos/x.step+1)
}

// Lookup returns a position that holds sum.
func (x *Index) Lookup(sum []byte) (pos int64, ok bool) {
	i, tag := x.hash(sum)
	for ; x.slots[i] != 0; i = (i + 1) & x.mask {
		if x.slots[i]&^posMask == tag {
			if pos := int64(x.slots[i]&posMask-1) * x.step; x.Match(pos, sum) {
				return pos, true
			}
		}
	}
	return 0, false
}

// Match reports whether position pos holds sum. A table that cannot be read matches nothing:
// that makes an increment larger, not wrong.
func (x *Index) Match(pos int64, sum []byte) bool {
	if pos < 0 || pos >= x.n {
		return false
	}
	if x.mem != nil {
		return bytes.Equal(x.mem[pos*int64(x.width):][:x.width], sum)
	}
	var b [64]byte
	if readFull(x.src, b[:x.width], pos*int64(x.width)) != nil {
		return false
	}
	return bytes.Equal(b[:x.width], sum)
}

// Find sets pos[i] to a position that holds sums[i], or to -1. Runs are kept together: a
// position that continues the one before is preferred, and a run is followed in both directions from where
// the index knows it. Where want[i] is false pos[i] is -1.
func (x *Index) Find(sums [][]byte, want []bool, pos []int64) {
	for i := range sums {
		pos[i] = -1
		if !want[i] {
			continue
		}
		if i > 0 && pos[i-1] >= 0 && x.Match(pos[i-1]+1, sums[i]) {
			pos[i] = pos[i-1] + 1
			continue
		}
		p, ok := x.Lookup(sums[i])
		if !ok {
			continue
		}
		pos[i] = p
		for j := i - 1; x.step > 1 && j >= 0 && want[j] && pos[j] < 0 && x.Match(pos[j+1]-1, sums[j]); j-- {
			pos[j] = pos[j+1] - 1
		}
	}
}

// A SelfIndex remembers where in this entry a unit's content was stored. Its memory is bounded: when it
// is full, newer units replace older ones.
type SelfIndex struct {
	sums  []FindSum
	place []Place
	used  int
}

// A Place is an offset in a file of this entry.
type Place struct {
	File   int32 // the caller's number for a file, positive
	Offset int64
}

const maxSelf = 1 << 20 // slots: 32 MiB

// Lookup returns where sum was put first, unless that was forgotten.
func (s *SelfIndex) Lookup(sum FindSum) (Place, bool) {
	if len(s.sums) == 0 {
		return Place{}, false
	}
	i := s.home(sum)
	for range probes {
		if s.place[i].File == 0 {
			break
		}
		if s.sums[i] == sum {
			return s.place[i], true
		}
		i = (i + 1) & uint64(len(s.sums)-1)
	}
	return Place{}, false
}

const probes = 16

// Put remembers that the unit with the given sum is at p, unless it has a place already.
func (s *SelfIndex) Put(sum FindSum, p Place) {
	if s.used*2 >= len(s.sums) && len(s.sums) < maxSelf {
		s.grow()
	}
	for !s.put(sum, p) {
		if len(s.sums) < maxSelf {
			s.grow()
			continue
		}
		// No room near home: the slot that the sum's own bits choose gives way.
		i := (s.home(sum) + uint64(sum[15]>>4)) & uint64(len(s.sums)-1)
		s.sums[i], s.place[i] = sum, p
		return
	}
}

func (s *SelfIndex) grow() {
	n := max(1024, 2*len(s.sums))
	g := SelfIndex{sums: make([]FindSum, n), place: make([]Place, n)}
	for i, q := range s.place {
		if q.File != 0 {
			g.put(s.sums[i], q) // what finds no room is forgotten
		}
	}
	*s = g
}

func (s *SelfIndex) home(sum FindSum) uint64 {
	return binary.LittleEndian.Uint64(sum[:]) & uint64(len(s.sums)-1)
}

// put reports whether there is a slot for sum.
func (s *SelfIndex) put(sum FindSum, p Place) bool {
	i := s.home(sum)
	for range probes {
		if s.place[i].File == 0 {
			s.used++
			s.sums[i], s.place[i] = sum, p
			return true
		}
		if s.sums[i] == sum {
			return true
		}
		i = (i + 1) & uint64(len(s.sums)-1)
	}
	return false
}
