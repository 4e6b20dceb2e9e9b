package vmdir

import (
	"errors"
	"io/fs"
	"os"
	"strings"

	"tarvm/manifest"
)

// Errors that say what to do. Test with errors.Is.
var (
	// ErrReserved: the directory holds a name that archives need for themselves.
	ErrReserved = errors.New("this name is reserved for archives (tar -x leaves it): remove it, or exclude it")
	// ErrInterrupted: a restore into the directory did not end.
	ErrInterrupted = errors.New("a restore was interrupted here: complete it first")
	// ErrReplaced: at the path is not, or no longer, the kind of file that was expected there.
	ErrReplaced = errors.New("replaced by something else")
)

// Names at the top that no member has.
const (
	reservedName = ".tarvm"
	restoreName  = ".tarvm-restore"
)

// check returns an error when p is not a clean relative path.
func check(p manifest.Path) error {
	if p == "." {
		return nil
	}
	for _, c := range strings.Split(string(p), "/") {
		if c == "" || c == "." || c == ".." || strings.IndexByte(c, 0) >= 0 || !validName(c) {
			return &fs.PathError{Op: "open", Path: string(p), Err: fs.ErrInvalid}
		}
	}
	return nil
}

// cut splits p into the directory, "." at the top, and the last component.
func cut(p manifest.Path) (dir, name string) {
	s := string(p)
	if i := strings.LastIndexByte(s, '/'); i >= 0 {
		return s[:i], s[i+1:]
	}
	return ".", s
}

func join(dir, name string) string {
	if dir == "." {
		return name
	}
	return dir + "/" + name
}

// openDir opens the directory at path, without following a link in it.
func openDir(root *os.Root, path string) (*dir, error) {
	d, err := openTop(root)
	if err != nil || path == "." {
		return d, err
	}
	for c := range strings.SplitSeq(path, "/") {
		sub, err := d.open(c)
		d.Close()
		if err != nil {
			return nil, err
		}
		d = sub
	}
	return d, nil
}

// at calls fn with p's directory, opened, and p's last component.
func at(root *os.Root, p manifest.Path, fn func(d *dir, name string) error) error {
	if err := check(p); err != nil {
		return err
	}
	parent, name := cut(p)
	d, err := openDir(root, parent)
	if err != nil {
		return named(p, err)
	}
	defer d.Close()
	return named(p, fn(d, name))
}

// named makes the error name the whole path, once.
func named(p manifest.Path, err error) error {
	var pe *fs.PathError
	if err == nil {
		return nil
	}
	if errors.As(err, &pe) {
		return &fs.PathError{Op: pe.Op, Path: string(p), Err: pe.Err}
	}
	return &fs.PathError{Op: "access", Path: string(p), Err: err}
}

// opError says which call went wrong; named adds the path.
func opError(op string, err error) error {
	if err == nil {
		return nil
	}
	return &fs.PathError{Op: op, Err: err}
}
