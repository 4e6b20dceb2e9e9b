// Package parse holds what the disk format parsers share: bounded reads of
// structures, errors with an offset, and the vote on where units lie.
//
// Security: Bytes checks offset and length against the file and against Limit
// before it allocates, so a count found in a file cannot cost more than the
// file's own size, nor more than Limit.
package parse

import (
	"errors"
	"fmt"
	"io"

	"tarvm/formats"
)

// Limit is the largest structure that is read at once, in bytes.
const Limit = 1 << 20

// An Image is a Source that has claimed to be of a format.
type Image struct {
	formats.Source
	Format string // qemu's name, for errors
}

// Prefix returns the first n bytes of src, or all of it if it is shorter.
func Prefix(src formats.Source, format string, n int64) ([]byte, error) {
	m := Image{src, format}
	return m.read("start of file", 0, min(n, max(src.Size(), 0)))
}

// Bytes returns the n bytes at off. A structure that is not wholly in the file
// is corrupt, one of more than Limit bytes not supported.
func (m Image) Bytes(structure string, off, n int64) ([]byte, error) {
	if !m.Inside(off, n) {
		return nil, m.Corrupt(structure, off, "%d bytes pass end of file at %d", n, m.Size())
	}
	if n > Limit {
		return nil, m.Unsupported(structure, off, "%d bytes, limit %d", n, Limit)
	}
	return m.read(structure, off, n)
}

// Inside reports whether the n bytes at off are in the file.
func (m Image) Inside(off, n int64) bool {
	return off >= 0 && n >= 0 && off <= m.Size() && n <= m.Size()-off
}

func (m Image) read(structure string, off, n int64) ([]byte, error) {
	b := make([]byte, n)
	if err := m.readInto(b, structure, off); err != nil {
		return nil, err
	}
	return b, nil
}

func (m Image) readInto(b []byte, structure string, off int64) error {
	got, err := m.ReadAt(b, off)
	if got == len(b) {
		return nil
	}
	// The Source promised these bytes: a file that shrinks is a fault of the
	// medium, not of the format.
	if err == nil || errors.Is(err, io.EOF) {
		err = io.ErrUnexpectedEOF
	}
	return &formats.FormatError{Format: m.Format, Structure: structure, Offset: off, Err: err}
}

// Corrupt makes a FormatError around ErrCorrupt. A negative off: nowhere in
// particular.
func (m Image) Corrupt(structure string, off int64, format string, args ...any) error {
	return m.fail(formats.ErrCorrupt, structure, off, format, args)
}

// Unsupported makes a FormatError around ErrUnsupported.
func (m Image) Unsupported(structure string, off int64, format string, args ...any) error {
	return m.fail(formats.ErrUnsupported, structure, off, format, args)
}

func (m Image) fail(kind error, structure string, off int64, format string, args []any) error {
	return &formats.FormatError{
		Format: m.Format, Structure: structure, Offset: off,
		Got: fmt.Sprintf(format, args...), Err: kind,
	}
}

// A Phase votes on the file offset of units modulo their distance.
type Phase struct {
	Step  int64 // distance in bytes; positive
	votes map[int64]int
	n     int
}

// Enough is the number of votes after which more tell nothing new.
const Enough = 512

// Add counts the unit at file offset off.
func (p *Phase) Add(off int64) {
	if p.votes == nil {
		p.votes = make(map[int64]int)
	}
	p.votes[off%p.Step]++
	p.n++
}

// Full reports whether Enough votes are in.
func (p *Phase) Full() bool { return p.n >= Enough }

// Winner is the commonest phase, the smallest of equals; without votes it is
// fallback modulo Step.
func (p *Phase) Winner(fallback int64) int64 {
	best, most := fallback%p.Step, 0
	for phase, n := range p.votes {
		if n > most || n == most && phase < best {
			best, most = phase, n
		}
	}
	return best
}

// PowerOfTwo reports whether n is one.
func PowerOfTwo(n int64) bool { return n > 0 && n&(n-1) == 0 }
