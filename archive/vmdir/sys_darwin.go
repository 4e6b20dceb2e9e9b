package vmdir

import (
	"bytes"
	"errors"

	"golang.org/x/sys/unix"
)

const (
	oNoAtime  = 0
	utimeOmit = -2 // UTIME_OMIT of sys/stat.h
)

// keepXattr tells which attributes belong to the file; see the package comment.
func keepXattr(name string) bool {
	return name != "com.apple.provenance" && name != "com.apple.quarantine"
}

const hasXattrs = true

// xattrLimit is the largest list or value that is read.
const xattrLimit = 16 << 20

func (d *dir) xattrs(name string) (map[string][]byte, error) {
	fd, err := d.openat(name, unix.O_RDONLY|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	defer unix.Close(fd)
	names, err := sized(func(b []byte) (int, error) { return unix.Flistxattr(fd, b) })
	if err == unix.ENOTSUP || err == unix.EPERM {
		return nil, nil
	}
	if err != nil {
		return nil, opError("listxattr", err)
	}
	var m map[string][]byte
	for name := range bytes.SplitSeq(names, []byte{0}) {
		if len(name) == 0 || !keepXattr(string(name)) {
			continue
		}
		if err := checkXattr(string(name)); err != nil {
			return nil, opError("getxattr", err)
		}
		v, err := sized(func(b []byte) (int, error) { return unix.Fgetxattr(fd, string(name), b) })
		if err == unix.ENOATTR { // removed in between
			continue
		}
		if err != nil {
			return nil, opError("getxattr "+string(name), err)
		}
		if m == nil {
			m = make(map[string][]byte)
		}
		m[string(name)] = v
	}
	return m, nil
}

// sized asks for the size, then for the content.
func sized(get func([]byte) (int, error)) ([]byte, error) {
	for {
		n, err := get(nil)
		if err != nil || n == 0 {
			return nil, err
		}
		if n > xattrLimit {
			return nil, unix.E2BIG
		}
		b := make([]byte, n)
		if n, err = get(b); err == nil {
			return b[:n], nil
		}
		if err != unix.ERANGE && err != unix.EINTR {
			return nil, err
		}
	}
}

func (d *dir) setXattr(name, attr string, value []byte) error {
	fd, err := d.openat(name, unix.O_RDONLY|unix.O_NONBLOCK, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	return opError("setxattr "+attr, unix.Fsetxattr(fd, attr, value, 0))
}

func (d *dir) removeXattr(name, attr string) error {
	fd, err := d.openat(name, unix.O_RDONLY|unix.O_NONBLOCK, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	err = unix.Fremovexattr(fd, attr)
	if err == unix.ENOATTR {
		err = nil
	}
	return opError("removexattr "+attr, err)
}

func (d *dir) chmod(name string, mode uint32) error {
	return opError("chmod", retry(func() error { return unix.Fchmodat(d.fd(), name, mode, unix.AT_SYMLINK_NOFOLLOW) }))
}

// mkfifo: there is no mkfifoat that all supported versions have.
func (d *dir) mkfifo(string) error { return opError("mkfifo", errors.ErrUnsupported) }

func freeBytes(st *unix.Statfs_t) int64 { return clampMul(st.Bavail, int64(st.Bsize)) }
