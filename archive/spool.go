package archive

import (
	"errors"
	"fmt"
	"io"
	"os"

	"tarvm/archive/vmdir"
)

// spoolMemory is how much a spool keeps in memory before it goes to a file: the digests of 32 GiB.
const (
	spoolMemory = 16 << 20
	spoolPiece  = 256 << 10
)

// A spool keeps what must wait until the end of an archive: in memory while it is small, then in a
// temporary file without a name.
type spool struct {
	dir  string
	mem  [][]byte // pieces of spoolPiece bytes, the last one as far as it is filled: nothing is copied as they grow
	file *os.File
	name string // to be removed at the end, where an open file cannot be
	n    int64
	err  error
}

func (s *spool) Write(p []byte) (int, error) {
	if s.err != nil {
		return 0, s.err
	}
	if s.file == nil && s.n+int64(len(p)) > spoolMemory {
		if s.err = s.spill(); s.err != nil {
			return 0, s.err
		}
	}
	if s.file == nil {
		for left := p; len(left) > 0; {
			if s.n%spoolPiece == 0 {
				s.mem = append(s.mem, make([]byte, 0, spoolPiece))
			}
			last := &s.mem[len(s.mem)-1]
			k := min(len(left), spoolPiece-len(*last))
			*last = append(*last, left[:k]...)
			s.n += int64(k)
			left = left[k:]
		}
		return len(p), nil
	}
	n, err := s.file.WriteAt(p, s.n)
	s.n += int64(n)
	if err != nil {
		s.err = fmt.Errorf("temporary table: %w", err)
	}
	return n, s.err
}

func (s *spool) spill() error {
	f, name, err := vmdir.Nameless(s.dir, ".tarvm-table-*")
	if err != nil {
		return fmt.Errorf("temporary table: %w", err)
	}
	s.file, s.name = f, name
	for i, b := range s.mem {
		if _, err := f.WriteAt(b, int64(i)*spoolPiece); err != nil {
			return fmt.Errorf("temporary table: %w", err)
		}
	}
	s.mem = nil
	return nil
}

func (s *spool) Size() int64 { return s.n }

func (s *spool) ReadAt(p []byte, off int64) (int, error) {
	if s.file != nil {
		return s.file.ReadAt(p, off)
	}
	if off < 0 || off > s.n {
		return 0, io.EOF
	}
	n := 0
	for n < len(p) && off < s.n {
		k := copy(p[n:], s.mem[off/spoolPiece][off%spoolPiece:])
		n += k
		off += int64(k)
	}
	if n < len(p) {
		return n, io.EOF
	}
	return n, nil
}

func (s *spool) Close() error {
	if s.file == nil {
		return nil
	}
	err := s.file.Close()
	if s.name != "" {
		err = errors.Join(err, os.Remove(s.name))
	}
	s.file = nil
	return err
}
