package archive

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"tarvm/archive/vmdir"
	"tarvm/delta"
	"tarvm/manifest"
)

// A Tree is the files of a virtual machine, wherever they are: what is packed. [OpenDir] gives that of a directory; an entry
// of a chain of archives is one, too (see package chain). What is packed depends on what a tree says, and not on its kind:
// equal trees make equal archives.
//
// Errors of a tree, and of the files that it opens, name the file, except for io.EOF.
type Tree interface {
	// Name is what an entry of the tree is called if nobody says otherwise.
	Name() string
	// List lists the files, in the order of vmdir.Walk, with what Walk tells of them. It is called once.
	List(ctx context.Context, o vmdir.WalkOptions) (*Listing, error)
	// FS is where the disks of the tree look for their parents and extents. Its files can be read at random.
	FS() fs.FS
	// Open opens the file of an entry. It may be called by several goroutines at once.
	Open(e *vmdir.Entry) (TreeFile, error)
	// Refresh brings the metadata of e, whose file has changed, up to date, as vmdir.Refresh does.
	Refresh(e *vmdir.Entry) error
	// Close is called when no file is open any more.
	Close() error
}

// A TreeFile is an open file of a Tree. It may be read by several goroutines at once.
type TreeFile interface {
	io.ReaderAt
	io.Closer
	// Extents returns the runs of data of e, which is the entry of the file, as vmdir.Extents does.
	Extents(e *vmdir.Entry) ([]delta.Extent, error)
	// Changed reports whether the file is no longer what e says.
	Changed(e *vmdir.Entry) (bool, error)
}

// A KnownFile is a TreeFile whose digests are known before it is read. What it reads was compared with them.
type KnownFile interface {
	TreeFile
	// Known returns the digests of the file's blocks, nil unless they are known on grid g. It is called at most once, before
	// anything is read. Blocks that parent (nil: none) has with the same digest in the same place will not be read, and
	// neither will blocks of zeros.
	Known(g delta.Grid, parent *delta.Table) (*delta.Table, error)
}

// A Listing is what a Tree holds.
type Listing struct {
	Entries []vmdir.Entry
	Locks   []vmdir.Lock // signs that the machine runs
	// Grids says that the grids of the entries are a part of the state that is packed. Otherwise a file keeps the grid
	// that the parent has of it.
	Grids bool
}

// OpenDir opens a directory as a tree.
func OpenDir(dir string) (Tree, error) {
	abs, err := filepath.Abs(dir)
	if err != nil {
		return nil, err
	}
	root, err := os.OpenRoot(dir)
	if err != nil {
		return nil, err
	}
	return &dirTree{root: root, dir: dir, name: filepath.Base(abs)}, nil
}

type dirTree struct {
	root *os.Root
	dir  string
	name string
}

func (t *dirTree) Name() string { return t.name }
func (t *dirTree) FS() fs.FS    { return vmdir.FS(t.root) }
func (t *dirTree) Close() error { return t.root.Close() }

func (t *dirTree) List(ctx context.Context, o vmdir.WalkOptions) (*Listing, error) {
	entries, err := vmdir.Walk(ctx, t.root, o)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", t.dir, err)
	}
	locks, err := vmdir.Running(ctx, t.root, t.dir, entries)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", t.dir, err)
	}
	return &Listing{Entries: entries, Locks: locks}, nil
}

func (t *dirTree) Open(e *vmdir.Entry) (TreeFile, error) {
	f, err := vmdir.OpenRead(t.root, e)
	if err != nil {
		return nil, pathError(e.Path, err)
	}
	return &dirFile{f, e.Path}, nil
}

func (t *dirTree) Refresh(e *vmdir.Entry) error { return pathError(e.Path, vmdir.Refresh(t.root, e)) }

type dirFile struct {
	f    *os.File
	path manifest.Path
}

func (f *dirFile) ReadAt(p []byte, off int64) (int, error) {
	n, err := f.f.ReadAt(p, off)
	if err != nil && !errors.Is(err, io.EOF) {
		err = pathError(f.path, err)
	}
	return n, err
}

func (f *dirFile) Extents(e *vmdir.Entry) ([]delta.Extent, error) {
	x, err := vmdir.Extents(f.f, e.Size)
	return x, pathError(f.path, err)
}

func (f *dirFile) Changed(e *vmdir.Entry) (bool, error) {
	changed, err := vmdir.Changed(f.f, e)
	return changed, pathError(f.path, err)
}

func (f *dirFile) Close() error { return f.f.Close() }

// pathError puts the path in the directory in the place of the one that err has.
func pathError(p manifest.Path, err error) error {
	if err == nil {
		return nil
	}
	var pe *fs.PathError
	if errors.As(err, &pe) {
		err = pe.Err
	}
	return fmt.Errorf("%s: %w", p, err)
}
