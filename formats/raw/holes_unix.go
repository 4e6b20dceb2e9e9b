//go:build linux || freebsd || darwin

package raw

import (
	"errors"
	"io"

	"golang.org/x/sys/unix"
)

// DataAt implements Sparse with SEEK_DATA and SEEK_HOLE. On a file system that
// cannot tell, all is data.
func (f *File) DataAt(off int64) (start, end int64, err error) {
	if off >= f.size {
		return f.size, f.size, nil
	}
	// Seek through os.File, so that a concurrent Close is an error instead of
	// a call on somebody else's descriptor.
	start, err = f.f.Seek(off, unix.SEEK_DATA)
	switch {
	case errors.Is(err, unix.ENXIO): // nothing but hole up to the end
		return f.size, f.size, nil
	case errors.Is(err, unix.EINVAL), errors.Is(err, unix.ENOTSUP), errors.Is(err, unix.ENOTTY):
		return off, f.size, nil
	case err != nil:
		return 0, 0, err
	}
	if start >= f.size {
		return f.size, f.size, nil
	}
	end, err = f.f.Seek(start, unix.SEEK_HOLE)
	if errors.Is(err, unix.ENXIO) { // shrunk in between
		return 0, 0, io.ErrUnexpectedEOF
	}
	if err != nil {
		return 0, 0, err
	}
	return start, min(end, f.size), nil
}
