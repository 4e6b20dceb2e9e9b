package layers

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"sync"

	"tarvm/formats"
	"tarvm/formats/raw"
)

// A Dir finds and opens files of one tree. It keeps them open until Close. Its
// methods may be called from several goroutines at once.
type Dir struct {
	fsys fs.FS
	abs  string

	mu   sync.Mutex
	open map[string]*file
}

type file struct {
	formats.Source
	f fs.File
}

var errNotFile = errors.New("not a file")

// NewDir returns a Dir of fsys, whose files must be io.ReaderAt. abs is where
// the tree is on disk, so that absolute names that lead into it are understood;
// it may be empty.
func NewDir(fsys fs.FS, abs string) *Dir {
	return &Dir{fsys: fsys, abs: toSlash(abs), open: make(map[string]*file)}
}

// Open returns the file of that name, a slash-separated path in the tree. It
// stays open until Close. Block devices are files; FIFOs and the like are not.
func (d *Dir) Open(name string) (formats.Source, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	name = path.Clean(name)
	if f := d.open[name]; f != nil {
		return f.Source, nil
	}
	// Before it is opened: to open a FIFO waits for a writer.
	st, err := fs.Stat(d.fsys, name)
	if err != nil {
		return nil, err
	}
	device := st.Mode()&fs.ModeDevice != 0 && st.Mode()&fs.ModeCharDevice == 0
	if !st.Mode().IsRegular() && !device {
		return nil, &fs.PathError{Op: "open", Path: name, Err: errNotFile}
	}
	f, err := d.fsys.Open(name)
	if err != nil {
		return nil, err
	}
	src, err := source(f, device)
	if err != nil {
		f.Close()
		return nil, &fs.PathError{Op: "open", Path: name, Err: err}
	}
	d.open[name] = &file{Source: src, f: f}
	return src, nil
}

// Add makes a file that the caller names known as name, which is best one that is no path in the tree, such as an
// absolute one. Close closes it.
func (d *Dir) Add(name string, f *os.File) error {
	st, err := f.Stat()
	if err != nil {
		return err
	}
	src, err := source(f, st.Mode()&fs.ModeDevice != 0)
	if err != nil {
		return err
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.open[name] != nil {
		return &fs.PathError{Op: "open", Path: name, Err: fs.ErrExist}
	}
	d.open[name] = &file{Source: src, f: f}
	return nil
}

func source(f fs.File, device bool) (formats.Source, error) {
	switch o := f.(type) {
	case *os.File:
		if device {
			n, err := o.Seek(0, io.SeekEnd)
			return io.NewSectionReader(o, 0, n), err
		}
		return raw.NewFile(o)
	case formats.Source:
		return o, nil
	case io.ReaderAt:
		st, err := f.Stat()
		if err != nil {
			return nil, err
		}
		return io.NewSectionReader(o, 0, st.Size()), nil
	}
	return nil, errors.New("it cannot be read at random")
}

// Path returns the path of a file that Open returned.
func (d *Dir) Path(src formats.Source) (string, bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for name, f := range d.open {
		if f.Source == src {
			return name, true
		}
	}
	return "", false
}

// has reports whether the file is open.
func (d *Dir) has(name string) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.open[path.Clean(name)] != nil
}

// drop closes a file.
func (d *Dir) drop(name string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	name = path.Clean(name)
	if f := d.open[name]; f != nil {
		f.f.Close() // it was only read
		delete(d.open, name)
	}
}

// Close closes all files.
func (d *Dir) Close() error {
	d.mu.Lock()
	defer d.mu.Unlock()
	var err error
	for _, f := range d.open {
		err = errors.Join(err, f.f.Close())
	}
	clear(d.open)
	return err
}

// Find opens the file that an image at the path from names in its structures, and
// returns its path. When there is none the error is fs.ErrNotExist.
func (d *Dir) Find(from, stored string) (string, formats.Source, error) {
	for _, name := range d.places(from, stored) {
		src, err := d.Open(name)
		if errors.Is(err, fs.ErrNotExist) || errors.Is(err, errNotFile) {
			continue
		}
		return name, src, err
	}
	return "", nil, &fs.PathError{Op: "find", Path: fmt.Sprintf("%.200q", stored), Err: fs.ErrNotExist}
}

// places returns the paths in the tree at which a stored name may be, the likeliest
// first.
func (d *Dir) places(from, stored string) []string {
	stored = strings.TrimPrefix(stored, "file://")
	stored = strings.TrimPrefix(stored, "file:")
	dir := path.Dir(from)
	var list []string
	add := func(name string) {
		name = path.Clean(name)
		if fs.ValidPath(name) && name != "." && !slices.Contains(list, name) {
			list = append(list, name)
		}
	}
	for _, s := range []string{stored, toSlash(stored)} {
		if s == "" || strings.ContainsRune(s, 0) {
			continue
		}
		if rest, ok := strings.CutPrefix(s, strings.TrimSuffix(d.abs, "/")+"/"); ok && d.abs != "" {
			add(rest)
		}
		if !strings.HasPrefix(s, "/") {
			add(path.Join(dir, s))
		}
		add(path.Join(dir, path.Base(s)))
		if strings.EqualFold(path.Base(dir), HyperVMachines) {
			// Hyper-V exports configurations and disks into directories beside each other, and
			// names the disks by where they were.
			for _, beside := range []string{path.Base(path.Dir(s)), "Virtual Hard Disks", "."} {
				add(path.Join(path.Dir(dir), beside, path.Base(s)))
			}
		}
	}
	return list
}

// toSlash makes a path of any system one with slashes, without a drive.
func toSlash(s string) string {
	s = strings.ReplaceAll(s, `\`, "/")
	if len(s) > 1 && s[1] == ':' && (s[0]|0x20 >= 'a' && s[0]|0x20 <= 'z') {
		s = s[2:]
	}
	return s
}

// Limits of the search for a parent by its ID.
const (
	maxFiles = 10_000
	maxDepth = 8
)

// files calls f with the paths of regular files, until it returns false.
func (d *Dir) files(f func(name string) bool) error {
	n := 0
	return fs.WalkDir(d.fsys, ".", func(name string, e fs.DirEntry, err error) error {
		switch {
		case err != nil && name == ".":
			return err
		case err != nil:
			return nil // it has gone, or may not be read
		case e.IsDir() && strings.Count(name, "/") >= maxDepth:
			return fs.SkipDir
		case !e.Type().IsRegular():
			return nil
		}
		if n++; n > maxFiles || !f(name) {
			return fs.SkipAll
		}
		return nil
	})
}

// HyperVMachines is the directory of configurations in what Hyper-V exports; what belongs to
// them is in directories beside it.
const HyperVMachines = "Virtual Machines"

// At splits the path of an image on disk into the tree in which what it names is
// looked for, and the path in that: the tree is the image's directory. That of
// a snapshot in VirtualBox's directory Snapshots is the machine's. Of a directory
// that is a Parallels bundle it is the descriptor in it.
func At(image string) (tree, name string, err error) {
	abs, err := filepath.Abs(image)
	if err != nil {
		return "", "", err
	}
	st, err := os.Stat(abs)
	if err != nil {
		return "", "", err
	}
	if st.IsDir() {
		const descriptor = "DiskDescriptor.xml"
		if _, err := os.Stat(filepath.Join(abs, descriptor)); err != nil {
			return "", "", &fs.PathError{Op: "open", Path: image, Err: errors.New("is a directory")}
		}
		return abs, descriptor, nil
	}
	tree, name = filepath.Split(abs)
	if up, dir := filepath.Split(filepath.Clean(tree)); strings.EqualFold(dir, "Snapshots") {
		return up, dir + "/" + name, nil
	}
	return tree, name, nil
}
