package vmdir

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"slices"

	"tarvm/formats"
	"tarvm/manifest"
)

// An Entry is a file as Walk found it.
//
// State has everything but the digest. Of the hints Role, Format and Subformat are set.
type Entry struct {
	manifest.Member

	// What is true here and now; all zero where the system has no such thing.
	Dev, Ino uint64
	Nlink    uint64
	CTime    int64 // change time, ns since 1970

	// Skipped says why the file is not to be packed ("socket", "lock file"); "": it is.
	Skipped string
}

// Identity is what tells whether a file is still the one that was seen: device, inode, and change time in ns since
// 1970. Together with an equal size and modification time it says that nobody wrote, as far as the system's clock is not
// set back to the nanosecond.
type Identity [3]int64

// Identity returns that of e.
func (e *Entry) Identity() Identity { return Identity{int64(e.Dev), int64(e.Ino), e.CTime} }

// WalkOptions say what to list. The zero value lists everything.
type WalkOptions struct {
	Exclude []string         // patterns of Match; excluded directories are not entered
	Formats []formats.Format // that recognise disks; none: by signature and name only
	Block   int64            // block size, for State.Grid; 0: phases are 0
}

// Walk lists the directory, in the order that the package comment gives; first its own entry, ".".
//
// A file that vanishes during the walk is left out. What cannot be read is an error that names
// it; so are ErrReserved and ErrInterrupted.
func Walk(ctx context.Context, root *os.Root, o WalkOptions) ([]Entry, error) {
	exclude, err := compileAll(o.Exclude)
	if err != nil {
		return nil, err
	}
	w := &walker{root: root, exclude: exclude, first: make(map[inode]int)}
	top, err := openTop(root)
	if err != nil {
		return nil, named(".", err)
	}
	var e Entry
	e.Path = "."
	if err := w.fill(top, ".", &e); err != nil {
		top.Close()
		return nil, named(".", err)
	}
	w.entries = append(w.entries, e)
	if err := w.list(ctx, top, &e, 0, false); err != nil {
		return nil, err
	}
	open := func(e *Entry) (Content, error) {
		f, err := OpenRead(root, e)
		if err != nil {
			return nil, err
		}
		return &namedFile{f, e.Path}, nil
	}
	if err := Recognise(ctx, w.entries, open, o); err != nil {
		return nil, err
	}
	for i := range w.entries {
		if e := &w.entries[i]; e.Type == manifest.Link {
			f := &w.entries[w.first[e.inode()]]
			e.Role, e.Format, e.Subformat = f.Role, f.Format, f.Subformat
		}
	}
	return w.entries, nil
}

// Refresh reads the metadata of e again after the file has changed. Role, format, phase and the
// name's place among hard links stay. It returns ErrReplaced when another type of file has taken
// the name, and an error that is fs.ErrNotExist when nothing is there any more.
func Refresh(root *os.Root, e *Entry) error {
	w := &walker{}
	now := Entry{Member: manifest.Member{State: manifest.State{Path: e.Path}}}
	err := at(root, e.Path, func(d *dir, name string) error {
		if err := w.fill(d, name, &now); err != nil {
			return err
		}
		if want := e.Type; now.Type != want && !(want == manifest.Link && now.Type != manifest.Dir) {
			return opError("stat", ErrReplaced)
		}
		return nil
	})
	if err != nil {
		return err
	}
	now.Phase, now.Stride, now.Hints, now.Stored, now.Skipped = e.Phase, e.Stride, e.Hints, e.Stored, e.Skipped
	if e.Type == manifest.Link {
		now.toLink(e.Target)
	}
	*e = now
	return nil
}

// A namedFile is known in its errors by its path in the directory.
type namedFile struct {
	*os.File
	path manifest.Path
}

func (f *namedFile) ReadAt(p []byte, off int64) (int, error) {
	n, err := f.File.ReadAt(p, off)
	if err != nil && err != io.EOF {
		err = named(f.path, err)
	}
	return n, err
}

type inode struct{ dev, ino uint64 }

func (e *Entry) inode() inode { return inode{e.Dev, e.Ino} }

// toLink makes e a further name of the file at first. Content and attributes are the first's.
func (e *Entry) toLink(first manifest.Path) {
	e.Type, e.Target, e.Size, e.Xattrs = manifest.Link, first, 0, nil
}

type walker struct {
	root    *os.Root
	exclude []pattern
	names   Names
	first   map[inode]int // of files with several names, the place of the first
	entries []Entry
}

// Directories up to this depth stay open while what is below is walked; deeper ones are opened
// again, so that depth costs time instead of file descriptors.
const keepOpen = 64

// list appends what d, whose entry is of, holds. It closes d.
func (w *walker) list(ctx context.Context, d *dir, of *Entry, depth int, locked bool) error {
	defer func() { d.Close() }()
	names, err := d.names()
	if err != nil {
		return named(of.Path, err)
	}
	slices.Sort(names)
	for i, name := range names {
		if err := ctx.Err(); err != nil {
			return err
		}
		p := join(string(of.Path), name)
		if p == restoreName {
			return fmt.Errorf("%s: %w", p, ErrInterrupted)
		}
		if w.excluded(p) {
			continue
		}
		if p == reservedName {
			return fmt.Errorf("%s: %w", p, ErrReserved)
		}
		sub, e, err := w.entry(d, name, p, locked)
		if err != nil {
			return named(manifest.Path(p), err)
		}
		if sub == nil {
			continue
		}
		reopen := depth >= keepOpen && i+1 < len(names)
		if reopen {
			d.Close()
		}
		if err := w.list(ctx, sub, &e, depth+1, e.Skipped != ""); err != nil {
			return err
		}
		if reopen {
			if d, err = w.again(of); err != nil {
				return named(of.Path, err)
			}
		}
	}
	return nil
}

// again opens the directory of an entry a second time.
func (w *walker) again(of *Entry) (*dir, error) {
	d, err := openDir(w.root, string(of.Path))
	if err != nil {
		return d, err
	}
	var now Entry
	if err := d.stat(".", &now); err != nil {
		return d, err
	}
	if now.inode() != of.inode() {
		return d, opError("open", ErrReplaced)
	}
	return d, nil
}

func (w *walker) excluded(p string) bool {
	return slices.ContainsFunc(w.exclude, func(x pattern) bool { return x.match(p) })
}

// entry appends the entry of name in d. For a directory it returns that, opened. Between two
// calls name may become something else; then it starts over.
func (w *walker) entry(d *dir, name, p string, locked bool) (sub *dir, e Entry, err error) {
	for range 10 {
		e = Entry{}
		e.Path = manifest.Path(p)
		if err = d.stat(name, &e); err != nil {
			if errors.Is(err, fs.ErrNotExist) {
				return nil, e, nil
			}
			return nil, e, err
		}
		if e.Type == manifest.Dir {
			if sub, err = d.open(name); err == nil {
				// The metadata is that of the very directory that will be listed.
				e = Entry{}
				e.Path = manifest.Path(p)
				if err = w.fill(sub, ".", &e); err != nil {
					sub.Close()
				}
			}
		} else {
			err = w.more(d, name, &e)
		}
		if errors.Is(err, fs.ErrNotExist) || errors.Is(err, ErrReplaced) {
			continue
		}
		if err != nil {
			return nil, e, err
		}
		if isLock(name, e.Type) || locked {
			e.Role, e.Skipped = manifest.RoleLock, "lock file"
		}
		if e.Nlink > 1 && e.Skipped == "" && (e.Type == manifest.File || e.Type == manifest.Fifo) {
			if i, ok := w.first[e.inode()]; ok {
				e.toLink(w.entries[i].Path)
			} else {
				w.first[e.inode()] = len(w.entries)
			}
		}
		w.entries = append(w.entries, e)
		return sub, e, nil
	}
	return nil, e, err
}

// fill reads all metadata of name in d.
func (w *walker) fill(d *dir, name string, e *Entry) error {
	if err := d.stat(name, e); err != nil {
		return err
	}
	return w.more(d, name, e)
}

// more reads what stat left.
func (w *walker) more(d *dir, name string, e *Entry) (err error) {
	if hasOwners {
		e.User, e.Group = w.names.user(e.UID), w.names.group(e.GID)
	}
	switch e.Type {
	case manifest.Symlink:
		e.Target, err = d.readlink(name)
	case manifest.File:
		if err = d.readable(name); err == nil {
			e.Xattrs, err = d.xattrs(name)
		}
	case manifest.Dir:
		e.Xattrs, err = d.xattrs(name)
	}
	return err
}
