package vmdir

import (
	"errors"
	"io/fs"
	"os"

	"tarvm/delta"
	"tarvm/manifest"
)

// OpenRead opens the file of e, a File or a Link, for reading. It follows no link, does not block
// on a FIFO, and leaves the access time alone where the system allows that. What is not a file
// is ErrReplaced. That it is still the same file, Changed tells. The caller closes it.
func OpenRead(root *os.Root, e *Entry) (f *os.File, err error) {
	err = at(root, e.Path, func(d *dir, name string) error {
		f, err = d.file(name)
		return err
	})
	return f, err
}

// Changed reports whether f is no longer what e says: another file, or size, modification or
// change time differ. Two writes within one tick of the file system's clock (some milliseconds
// on older kernels) have the same times.
func Changed(f *os.File, e *Entry) (bool, error) {
	now := Entry{Member: manifest.Member{State: manifest.State{Path: e.Path}}}
	if err := fstat(f, &now); err != nil {
		return false, named(e.Path, err)
	}
	return now.Type != manifest.File || now.inode() != e.inode() || e.Type == manifest.File && now.Size != e.Size ||
		!now.ModTime.Equal(e.ModTime.Time) || now.CTime != e.CTime, nil
}

// Extents returns the runs of data of f, a file of size bytes, in order; what is between them are
// holes, which read as zeros. Nil: there are no holes, or the system or file system cannot tell;
// empty, but not nil: nothing but a hole. Space that is allocated but was never written counts as
// a hole on most file systems. The file's offset moves.
func Extents(f *os.File, size int64) ([]delta.Extent, error) {
	if size <= 0 {
		return nil, nil
	}
	return extents(f, size)
}

// FS returns the files of root, as root.FS does; what is read of them cannot be seen by their access times, where the system
// can do that.
func FS(root *os.Root) fs.FS { return quietFS{root.FS(), root} }

type quietFS struct {
	fs.FS
	root *os.Root
}

func (f quietFS) Open(name string) (fs.File, error) {
	if oNoAtime != 0 && fs.ValidPath(name) {
		file, err := f.root.OpenFile(name, os.O_RDONLY|oNoAtime, 0)
		if err == nil {
			return file, nil
		}
		if !errors.Is(err, fs.ErrPermission) { // it may be another user's, which may be read, but not so
			return nil, err
		}
	}
	return f.FS.Open(name)
}

func (f quietFS) Stat(name string) (fs.FileInfo, error)      { return fs.Stat(f.FS, name) }
func (f quietFS) ReadDir(name string) ([]fs.DirEntry, error) { return fs.ReadDir(f.FS, name) }
