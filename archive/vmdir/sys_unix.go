//go:build linux || darwin || freebsd

package vmdir

import (
	"errors"
	"os"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"tarvm/delta"
	"tarvm/manifest"
)

const hasOwners = true

func validName(string) bool { return true }

// A dir is an open directory. Its methods take names of files in it, or "." for itself, and never
// follow a link.
type dir struct{ f *os.File }

func openTop(root *os.Root) (*dir, error) {
	f, err := root.Open(".")
	if err != nil {
		return nil, err
	}
	return &dir{f}, nil
}

// Close may be called again, and on nil.
func (d *dir) Close() error {
	if d == nil {
		return nil
	}
	return d.f.Close()
}

func (d *dir) fd() int { return int(d.f.Fd()) }

// retry calls fn until no signal interrupts it; file systems over a network are interruptible.
func retry(fn func() error) error {
	for {
		if err := fn(); err != unix.EINTR {
			return err
		}
	}
}

func (d *dir) openat(name string, flags int, mode uint32) (int, error) {
	fd := -1
	err := retry(func() (err error) {
		fd, err = unix.Openat(d.fd(), name, flags|unix.O_NOFOLLOW|unix.O_CLOEXEC, mode)
		return err
	})
	switch err {
	case unix.ELOOP, unix.ENOTDIR, unix.EMLINK: // a link; FreeBSD says EMLINK
		err = ErrReplaced
	}
	return fd, opError("open", err)
}

// open opens a directory in d.
func (d *dir) open(name string) (*dir, error) {
	fd, err := d.openat(name, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	return &dir{os.NewFile(uintptr(fd), name)}, nil
}

func (d *dir) names() ([]string, error) { return d.f.Readdirnames(-1) }

func (d *dir) stat(name string, e *Entry) error {
	var st unix.Stat_t
	err := retry(func() error { return unix.Fstatat(d.fd(), name, &st, unix.AT_SYMLINK_NOFOLLOW) })
	if err != nil {
		return opError("stat", err)
	}
	e.set(&st)
	return nil
}

// set fills in what stat tells.
func (e *Entry) set(st *unix.Stat_t) {
	e.Mode = manifest.Mode(st.Mode & 0o7777)
	e.UID, e.GID = int64(st.Uid), int64(st.Gid)
	sec, nsec := st.Mtim.Unix()
	e.ModTime = manifest.Time{Time: time.Unix(sec, nsec).UTC()}
	sec, nsec = st.Ctim.Unix()
	e.CTime = sec*1e9 + nsec
	e.Dev, e.Ino, e.Nlink = uint64(st.Dev), uint64(st.Ino), uint64(st.Nlink)
	switch uint32(st.Mode) & unix.S_IFMT {
	case unix.S_IFREG:
		e.Type, e.Size = manifest.File, st.Size
	case unix.S_IFDIR:
		e.Type = manifest.Dir
	case unix.S_IFLNK:
		e.Type = manifest.Symlink
	case unix.S_IFIFO:
		e.Type = manifest.Fifo
	case unix.S_IFSOCK:
		e.Skipped = "socket"
	case unix.S_IFBLK, unix.S_IFCHR:
		e.Skipped = "device"
	default:
		e.Skipped = "not a file"
	}
}

func (d *dir) readlink(name string) (manifest.Path, error) {
	for size := 256; ; size *= 4 {
		b := make([]byte, size)
		n, err := 0, error(nil)
		err = retry(func() error { n, err = unix.Readlinkat(d.fd(), name, b); return err })
		if err == unix.EINVAL {
			err = ErrReplaced
		}
		if err != nil {
			return "", opError("readlink", err)
		}
		if n < size {
			return manifest.Path(b[:n]), nil
		}
	}
}

// readable fails when name, a file, could not be read later.
func (d *dir) readable(name string) error {
	if os.Geteuid() == 0 {
		return nil
	}
	err := unix.Faccessat(d.fd(), name, unix.R_OK, unix.AT_EACCESS|unix.AT_SYMLINK_NOFOLLOW)
	if err == unix.ENOSYS || err == unix.EOPNOTSUPP || err == unix.EINVAL {
		return nil // opening will tell
	}
	return opError("open", err)
}

// file opens a file for reading. Something else is ErrReplaced.
func (d *dir) file(name string) (*os.File, error) {
	const flags = unix.O_RDONLY | unix.O_NONBLOCK // a FIFO must not block
	fd, err := d.openat(name, flags|oNoAtime, 0)
	if err != nil && oNoAtime != 0 && errors.Is(err, unix.EPERM) { // the file is another user's
		fd, err = d.openat(name, flags, 0)
	}
	if err != nil {
		if errors.Is(err, unix.ENXIO) || errors.Is(err, unix.EOPNOTSUPP) { // a socket
			err = opError("open", ErrReplaced)
		}
		return nil, err
	}
	var st unix.Stat_t
	if err = unix.Fstat(fd, &st); err == nil && uint32(st.Mode)&unix.S_IFMT != unix.S_IFREG {
		err = ErrReplaced
	}
	if err == nil {
		err = unix.SetNonblock(fd, false)
	}
	if err != nil {
		unix.Close(fd)
		return nil, opError("open", err)
	}
	return os.NewFile(uintptr(fd), name), nil
}

func fstat(f *os.File, e *Entry) error {
	var st unix.Stat_t
	if err := retry(func() error { return unix.Fstat(int(f.Fd()), &st) }); err != nil {
		return opError("stat", err)
	}
	e.set(&st)
	return nil
}

// extents walks the holes. A file that ends early ends the list.
func extents(f *os.File, size int64) ([]delta.Extent, error) {
	fd := int(f.Fd())
	list := []delta.Extent{}
	seek := func(off int64, whence int) (at int64, err error) {
		err = retry(func() error { at, err = unix.Seek(fd, off, whence); return err })
		return at, err
	}
	for off := int64(0); off < size; {
		data, err := seek(off, unix.SEEK_DATA)
		if err == unix.ENXIO { // a hole to the end
			break
		}
		if err == unix.EINVAL || err == unix.EOPNOTSUPP || err == unix.ENOTTY {
			return nil, nil
		}
		if err != nil {
			return nil, opError("seek", err)
		}
		if data >= size {
			break
		}
		hole, err := seek(data, unix.SEEK_HOLE)
		if err == unix.ENXIO { // truncated in between
			break
		}
		if err != nil {
			return nil, opError("seek", err)
		}
		if data < off || hole <= data {
			return nil, nil // the file changes, or the file system makes no sense
		}
		hole = min(hole, size)
		list = append(list, delta.Extent{Offset: data, Length: hole - data})
		off = hole
	}
	if len(list) == 1 && list[0] == (delta.Extent{Length: size}) {
		return nil, nil
	}
	return list, nil
}

func (d *dir) mkdir(name string) error {
	return opError("mkdir", retry(func() error { return unix.Mkdirat(d.fd(), name, 0o700) }))
}

func (d *dir) symlink(target manifest.Path, name string) error {
	if strings.IndexByte(string(target), 0) >= 0 {
		return opError("symlink", unix.EINVAL)
	}
	return opError("symlink", retry(func() error { return unix.Symlinkat(string(target), d.fd(), name) }))
}

// link gives the file at old another name.
func link(root *os.Root, old, p manifest.Path) error {
	var made error // names p, as far as old is not to blame
	err := at(root, old, func(from *dir, oldName string) error {
		made = at(root, p, func(d *dir, name string) error {
			return opError("link", retry(func() error { return unix.Linkat(from.fd(), oldName, d.fd(), name, 0) }))
		})
		return nil
	})
	return errors.Join(err, made)
}

func (d *dir) create(name string) (*os.File, error) {
	fd, err := d.openat(name, unix.O_RDWR|unix.O_CREAT|unix.O_EXCL, 0o600)
	if err != nil {
		return nil, err
	}
	return os.NewFile(uintptr(fd), name), nil
}

func (d *dir) chown(name string, uid, gid int) error {
	return opError("chown", retry(func() error { return unix.Fchownat(d.fd(), name, uid, gid, unix.AT_SYMLINK_NOFOLLOW) }))
}

// setTime sets the modification time of anything.
func (d *dir) setTime(name string, t time.Time) error {
	mtime, err := unix.TimeToTimespec(t)
	if err != nil {
		return opError("utimensat", err)
	}
	ts := []unix.Timespec{{Nsec: utimeOmit}, mtime}
	return opError("utimensat", retry(func() error { return unix.UtimesNanoAt(d.fd(), name, ts, unix.AT_SYMLINK_NOFOLLOW) }))
}

func geteuid() int { return os.Geteuid() }

func freeSpace(root *os.Root) (int64, error) {
	d, err := openTop(root)
	if err != nil {
		return 0, err
	}
	defer d.Close()
	var st unix.Statfs_t
	if err := retry(func() error { return unix.Fstatfs(d.fd(), &st) }); err != nil {
		return 0, opError("statfs", err)
	}
	return freeBytes(&st), nil
}

// keepOnly says why err of setting metadata is no reason to stop: the file system or the user's
// rights do not allow it.
func keepOnly(err error) bool {
	for _, e := range []error{unix.EPERM, unix.EACCES, unix.ENOTSUP, unix.EOPNOTSUPP, unix.ENOSYS, unix.EINVAL, unix.E2BIG, unix.ENOSPC, unix.ERANGE} {
		if errors.Is(err, e) {
			return true
		}
	}
	return false
}
