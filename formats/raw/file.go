package raw

import (
	"fmt"
	"os"
)

// A File is an open file as a Source that knows its holes. Its methods may be
// called from several goroutines at once. It moves the file's own offset.
type File struct {
	f    *os.File
	size int64
}

// NewFile returns f as a Source of the size that f has now. f stays the
// caller's to close.
func NewFile(f *os.File) (*File, error) {
	info, err := f.Stat()
	if err != nil {
		return nil, fmt.Errorf("size: %w", err)
	}
	return &File{f: f, size: info.Size()}, nil
}

// ReadAt implements io.ReaderAt.
func (f *File) ReadAt(p []byte, off int64) (int, error) { return f.f.ReadAt(p, off) }

// Size implements formats.Source.
func (f *File) Size() int64 { return f.size }
