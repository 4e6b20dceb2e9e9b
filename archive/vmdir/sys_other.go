//go:build !linux && !darwin && !freebsd

package vmdir

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"tarvm/delta"
	"tarvm/manifest"
)

// hasOwners: os.FileInfo tells no owner. Nor can a file be opened so that nobody sees it.
const (
	hasOwners = false
	hasXattrs = false
	oNoAtime  = 0
)

// validName refuses what the system takes for more than a name: C:, NUL, a\b.
func validName(s string) bool { return filepath.IsLocal(s) && filepath.Base(s) == s }

// A dir is an open directory. Its methods take names of files in it, or "." for itself.
type dir struct {
	root  *os.Root
	owned bool
}

func openTop(root *os.Root) (*dir, error) { return &dir{root: root}, nil }

// Close may be called again, and on nil.
func (d *dir) Close() error {
	if d == nil || !d.owned {
		return nil
	}
	return d.root.Close()
}

// open opens a directory in d. That it is not behind a link is checked before and after.
func (d *dir) open(name string) (*dir, error) {
	fi, err := d.root.Lstat(name)
	if err != nil {
		return nil, err
	}
	if !fi.IsDir() {
		return nil, opError("open", ErrReplaced)
	}
	r, err := d.root.OpenRoot(name)
	if err != nil {
		return nil, err
	}
	now, err := r.Stat(".")
	if err == nil && !os.SameFile(fi, now) {
		err = opError("open", ErrReplaced)
	}
	if err != nil {
		r.Close()
		return nil, err
	}
	return &dir{root: r, owned: true}, nil
}

func (d *dir) names() ([]string, error) {
	f, err := d.root.Open(".")
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return f.Readdirnames(-1)
}

func (d *dir) stat(name string, e *Entry) error {
	fi, err := d.root.Lstat(name)
	if err != nil {
		return err
	}
	e.set(fi)
	return nil
}

// set fills in what stat tells.
func (e *Entry) set(fi fs.FileInfo) {
	m := fi.Mode()
	e.Mode = manifest.Mode(m.Perm())
	for _, b := range modeBits {
		if m&b.go_ != 0 {
			e.Mode |= b.posix
		}
	}
	e.ModTime = manifest.Time{Time: fi.ModTime().UTC()}
	switch {
	case m.IsRegular():
		e.Type, e.Size = manifest.File, fi.Size()
	case m.IsDir():
		e.Type = manifest.Dir
	case m&fs.ModeSymlink != 0:
		e.Type = manifest.Symlink
	case m&fs.ModeNamedPipe != 0:
		e.Skipped = "FIFO"
	case m&fs.ModeSocket != 0:
		e.Skipped = "socket"
	case m&fs.ModeDevice != 0:
		e.Skipped = "device"
	default:
		e.Skipped = "not a file"
	}
}

var modeBits = []struct {
	go_   fs.FileMode
	posix manifest.Mode
}{{fs.ModeSetuid, 0o4000}, {fs.ModeSetgid, 0o2000}, {fs.ModeSticky, 0o1000}}

func (d *dir) readlink(name string) (manifest.Path, error) {
	s, err := d.root.Readlink(name)
	return manifest.Path(filepath.ToSlash(s)), err
}

func (d *dir) readable(string) error { return nil }

func (d *dir) file(name string) (*os.File, error) {
	before, err := d.root.Lstat(name)
	if err != nil {
		return nil, err
	}
	if !before.Mode().IsRegular() {
		return nil, opError("open", ErrReplaced)
	}
	f, err := d.root.Open(name)
	if err != nil {
		return nil, err
	}
	fi, err := f.Stat()
	if err == nil && !os.SameFile(before, fi) {
		err = opError("open", ErrReplaced)
	}
	if err != nil {
		f.Close()
		return nil, err
	}
	return f, nil
}

func fstat(f *os.File, e *Entry) error {
	fi, err := f.Stat()
	if err != nil {
		return err
	}
	e.set(fi)
	return nil
}

func extents(*os.File, int64) ([]delta.Extent, error) { return nil, nil }

func (d *dir) mkdir(name string) error { return d.root.Mkdir(name, 0o700) }

func (d *dir) symlink(target manifest.Path, name string) error {
	return d.root.Symlink(filepath.FromSlash(string(target)), name)
}

func link(root *os.Root, old, p manifest.Path) error {
	if err := errors.Join(check(old), check(p)); err != nil {
		return err
	}
	return root.Link(string(old), string(p))
}

func (d *dir) mkfifo(string) error { return opError("mkfifo", errors.ErrUnsupported) }

func (d *dir) create(name string) (*os.File, error) {
	return d.root.OpenFile(name, os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600)
}

func (d *dir) chown(string, int, int) error { return opError("chown", errors.ErrUnsupported) }

func (d *dir) chmod(name string, mode uint32) error {
	m := fs.FileMode(mode & 0o777)
	for _, b := range modeBits {
		if mode&uint32(b.posix) != 0 {
			m |= b.go_
		}
	}
	return d.root.Chmod(name, m)
}

func (d *dir) setTime(name string, t time.Time) error { return d.root.Chtimes(name, time.Time{}, t) }

func keepXattr(string) bool                             { return false }
func (d *dir) xattrs(string) (map[string][]byte, error) { return nil, nil }
func (d *dir) setXattr(string, string, []byte) error {
	return opError("setxattr", errors.ErrUnsupported)
}
func (d *dir) removeXattr(string, string) error {
	return opError("removexattr", errors.ErrUnsupported)
}

// geteuid: there is no root to be.
func geteuid() int { return -1 }

// keepOnly says why err of setting metadata is no reason to stop.
func keepOnly(err error) bool {
	return errors.Is(err, errors.ErrUnsupported) || errors.Is(err, fs.ErrPermission)
}
