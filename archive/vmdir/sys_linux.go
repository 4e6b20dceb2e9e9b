package vmdir

import (
	"bytes"
	"errors"
	"os"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

const (
	oNoAtime  = unix.O_NOATIME // reading must not change the source
	utimeOmit = unix.UTIME_OMIT
)

// keepXattr tells which attributes belong to the file; see the package comment.
func keepXattr(name string) bool {
	return strings.HasPrefix(name, "user.") || name == "security.capability" ||
		name == "system.posix_acl_access" || name == "system.posix_acl_default"
}

const hasXattrs = true

// ref names a file in d for calls that take paths and do not follow the last component. The
// directory is the one that is open, wherever it has been moved.
func (d *dir) ref(name string) string {
	return "/proc/self/fd/" + strconv.Itoa(d.fd()) + "/" + name
}

// Sizes of the first tries; the kernel's limit for both lists and values is 64 KiB.
const (
	xattrTry = 1 << 10
	xattrMax = 64 << 10
)

// grow calls get with a buffer that holds its answer.
func grow(get func(b []byte) (int, error)) ([]byte, error) {
	b := make([]byte, xattrTry)
	for {
		n := 0
		err := retry(func() (err error) { n, err = get(b); return err })
		if err != unix.ERANGE || len(b) >= xattrMax {
			if err != nil {
				return nil, err
			}
			return b[:n], nil
		}
		b = make([]byte, xattrMax)
	}
}

func (d *dir) xattrs(name string) (map[string][]byte, error) {
	path := d.ref(name)
	var first [xattrTry]byte
	n, err := unix.Llistxattr(path, first[:])
	switch err {
	case nil:
		if n == 0 {
			return nil, nil
		}
	case unix.ENOTSUP:
		return nil, nil
	case unix.ENOENT, unix.ENOTDIR:
		return d.fdXattrs(name)
	}
	return readXattrs(
		func(b []byte) (int, error) { return unix.Llistxattr(path, b) },
		func(attr string, b []byte) (int, error) { return unix.Lgetxattr(path, attr, b) })
}

// fdXattrs is xattrs where /proc is not mounted. It needs the right to read the file.
func (d *dir) fdXattrs(name string) (map[string][]byte, error) {
	fd, err := d.openat(name, unix.O_RDONLY|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	defer unix.Close(fd)
	return readXattrs(
		func(b []byte) (int, error) { return unix.Flistxattr(fd, b) },
		func(attr string, b []byte) (int, error) { return unix.Fgetxattr(fd, attr, b) })
}

func readXattrs(list func([]byte) (int, error), get func(string, []byte) (int, error)) (map[string][]byte, error) {
	names, err := grow(list)
	if err == unix.ENOTSUP {
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
		v, err := grow(func(b []byte) (int, error) { return get(string(name), b) })
		if err == unix.ENODATA { // removed in between
			continue
		}
		if err != nil {
			return nil, opError("getxattr "+string(name), err)
		}
		if err := checkXattr(string(name)); err != nil {
			return nil, opError("getxattr", err)
		}
		if m == nil {
			m = make(map[string][]byte)
		}
		m[string(name)] = bytes.Clone(v)
	}
	return m, nil
}

// pin opens name itself, without the right to read it, and returns a path that stays with it.
func (d *dir) pin(name string) (path string, done func(), err error) {
	fd, err := d.openat(name, unix.O_PATH, 0)
	if err != nil {
		return "", nil, err
	}
	return "/proc/self/fd/" + strconv.Itoa(fd), func() { unix.Close(fd) }, nil
}

// chmod sets the mode of what is not a symbolic link.
func (d *dir) chmod(name string, mode uint32) error {
	err := retry(func() error { return unix.Fchmodat(d.fd(), name, mode, unix.AT_SYMLINK_NOFOLLOW) })
	if err != unix.EOPNOTSUPP {
		return opError("chmod", err)
	}
	return d.oldChmod(name, mode)
}

// oldChmod is chmod before Linux 6.6, which could not do without following links.
func (d *dir) oldChmod(name string, mode uint32) error {
	path, done, err := d.pin(name)
	if err != nil {
		return err
	}
	defer done()
	err = retry(func() error { return unix.Chmod(path, mode) })
	if err != unix.ENOENT {
		return opError("chmod", err)
	}
	fd, err := d.openat(name, unix.O_RDONLY|unix.O_NONBLOCK, 0) // no /proc
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	return opError("chmod", retry(func() error { return unix.Fchmod(fd, mode) }))
}

func (d *dir) setXattr(name, attr string, value []byte) error {
	err := retry(func() error { return unix.Lsetxattr(d.ref(name), attr, value, 0) })
	if err == unix.ENOENT { // no /proc
		var fd int
		if fd, err = d.openat(name, unix.O_RDONLY|unix.O_NONBLOCK, 0); err != nil {
			return err
		}
		defer unix.Close(fd)
		err = retry(func() error { return unix.Fsetxattr(fd, attr, value, 0) })
	}
	return opError("setxattr "+attr, err)
}

func (d *dir) removeXattr(name, attr string) error {
	err := retry(func() error { return unix.Lremovexattr(d.ref(name), attr) })
	if err == unix.ENOENT {
		var fd int
		if fd, err = d.openat(name, unix.O_RDONLY|unix.O_NONBLOCK, 0); err != nil {
			return err
		}
		defer unix.Close(fd)
		err = retry(func() error { return unix.Fremovexattr(fd, attr) })
	}
	if err == unix.ENODATA {
		err = nil
	}
	return opError("removexattr "+attr, err)
}

func (d *dir) mkfifo(name string) error {
	return opError("mkfifo", retry(func() error { return unix.Mknodat(d.fd(), name, unix.S_IFIFO|0o600, 0) }))
}

func freeBytes(st *unix.Statfs_t) int64 {
	unit := int64(st.Frsize)
	if unit == 0 {
		unit = int64(st.Bsize)
	}
	return clampMul(st.Bavail, unit)
}

func fallocate(f *os.File, mode uint32, off, n int64) error {
	if n == 0 {
		return nil
	}
	err := retry(func() error { return unix.Fallocate(int(f.Fd()), mode, off, n) })
	if err == unix.EOPNOTSUPP || err == unix.ENOSYS || err == unix.ENODEV {
		err = errors.ErrUnsupported
	}
	return opError("fallocate", err)
}

func punchHole(f *os.File, off, n int64) error {
	return fallocate(f, unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE, off, n)
}

func allocate(f *os.File, off, n int64) error { return fallocate(f, 0, off, n) }

func cloneRange(dst, src *os.File, dstOff, srcOff, n int64) error {
	if n == 0 {
		return nil // to the ioctl this means all
	}
	r := &unix.FileCloneRange{Src_fd: int64(src.Fd()), Src_offset: uint64(srcOff), Src_length: uint64(n), Dest_offset: uint64(dstOff)}
	err := retry(func() error { return unix.IoctlFileCloneRange(int(dst.Fd()), r) })
	switch err {
	case unix.EOPNOTSUPP, unix.ENOTTY, unix.ENOSYS, unix.EXDEV, unix.EINVAL, unix.ETXTBSY:
		err = errors.ErrUnsupported
	}
	return opError("clone", err)
}

// copySome copies up to n bytes in the kernel. 0 and ErrUnsupported: it does not do this.
func copySome(dst, src *os.File, dstOff, srcOff, n int64) (int64, error) {
	const most = 1 << 30
	m := 0
	err := retry(func() (err error) {
		from, to := srcOff, dstOff
		m, err = unix.CopyFileRange(int(src.Fd()), &from, int(dst.Fd()), &to, int(min(n, most)), 0)
		return err
	})
	switch err {
	case unix.EOPNOTSUPP, unix.ENOSYS, unix.EXDEV, unix.EINVAL, unix.EPERM, unix.EIO:
		// EIO: reading and writing tells on which side.
		return 0, errors.ErrUnsupported
	}
	return int64(m), opError("copy", err)
}

func startWriteback(f *os.File, off, n int64) {
	_ = unix.SyncFileRange(int(f.Fd()), off, n, unix.SYNC_FILE_RANGE_WRITE)
}
