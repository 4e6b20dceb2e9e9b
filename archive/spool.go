package archive

import (
	"errors"
	"fmt"
	"io"
	"os"

	"tarvm/archive/vmdir"
)

// spoolMemory is how much a spool keeps in memory before it goes to a file: the digests of 32 GiB.
const spoolMemory = 16 << 20

// A spool keeps what must wait until the end of an archive: in memory while it is small, then in a
// temporary file without a name.
type spool struct {
	dir  string
	mem  []byte
	file *os.File
	name string // to be removed at the end, where an open file cannot be
	n    int64
	err  error
}

func (s *spool) Write(p []byte) (int, error) {
	if s.err != nil {
		return 0, s.err
	}
	if s.file == nil && len(s.mem)+len(p) > spoolMemory {
		if s.err = s.spill(); s.err != nil {
			return 0, s.err
		}
	}
	if s.file == nil {
		s.mem = append(s.mem, p...)
		s.n += int64(len(p))
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
	if _, err := f.WriteAt(s.mem, 0); err != nil {
		return fmt.Errorf("temporary table: %w", err)
	}
	s.mem = nil
	return nil
}

func (s *spool) Size() int64 { return s.n }

func (s *spool) ReadAt(p []byte, off int64) (int, error) {
	if s.file != nil {
		return s.file.ReadAt(p, off)
	}
	if off < 0 || off > int64(len(s.mem)) {
		return 0, io.EOF
	}
	n := copy(p, s.mem[off:])
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
