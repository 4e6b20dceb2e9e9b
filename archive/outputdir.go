package archive

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"tarvm/archive/vmdir"
)

// An OutputDir is a directory that gets its name only when it is complete: Commit syncs its files, renames it, and syncs
// the directory that holds it. Until then, and after Abort, nothing is at the name.
type OutputDir struct {
	path  string // absolute
	temp  string
	lock  *os.File // the directory, claimed
	files []*os.File
	done  bool
}

// CreateOutputDir starts a directory. What is at path already is an error that wraps fs.ErrExist, unless it is an empty
// directory, which is replaced.
func CreateOutputDir(path string) (*OutputDir, error) {
	abs, err := filepath.Abs(path)
	if err != nil {
		return nil, err
	}
	list, err := os.ReadDir(abs)
	if err == nil && len(list) > 0 {
		return nil, fmt.Errorf("%s: is not empty: %w", path, fs.ErrExist)
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	temp, lock, err := claimDir(abs)
	if err != nil {
		return nil, err
	}
	return &OutputDir{path: abs, temp: temp, lock: lock}, nil
}

// claimDir makes a directory beside path, after it has removed what killed processes left there.
func claimDir(path string) (string, *os.File, error) {
	_ = vmdir.SweepTemp(path, true, os.RemoveAll) // making one will say what is wrong with the place
	for {
		temp := vmdir.Temp(path)
		if err := os.Mkdir(temp, 0o777); err != nil {
			if errors.Is(err, fs.ErrExist) {
				continue
			}
			return "", nil, err
		}
		lock, err := os.Open(temp)
		if err == nil {
			if err = vmdir.Claim(lock); err == nil || errors.Is(err, errors.ErrUnsupported) {
				if _, err = os.Lstat(temp); err == nil {
					return temp, lock, nil
				}
			}
			lock.Close()
		}
		os.RemoveAll(temp)
		if !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, vmdir.ErrClaimed) {
			return "", nil, err
		}
		// Another process swept it away before it was claimed.
	}
}

// A TempDir is a directory for what is needed while an output is written. What a killed process leaves of it goes when
// the same output is written again.
type TempDir struct {
	Path string
	lock *os.File
}

// NewTempDir makes one beside path, where there is room for what becomes path.
func NewTempDir(path string) (*TempDir, error) {
	abs, err := filepath.Abs(path)
	if err != nil {
		return nil, err
	}
	temp, lock, err := claimDir(abs)
	if err != nil {
		return nil, err
	}
	return &TempDir{temp, lock}, nil
}

// Remove removes the directory and what is in it.
func (d *TempDir) Remove() {
	d.lock.Close()
	os.RemoveAll(d.Path)
}

// Path is where the directory is until Commit.
func (o *OutputDir) Path() string { return o.temp }

// Create makes a file in the directory by its base name. Commit and Abort close it.
func (o *OutputDir) Create(name string, mode fs.FileMode) (*os.File, error) {
	if filepath.Base(name) != name || name == "." || name == ".." {
		return nil, fmt.Errorf("%q is no name of a file", name)
	}
	f, err := os.OpenFile(filepath.Join(o.temp, name), os.O_RDWR|os.O_CREATE|os.O_EXCL, mode)
	if err != nil {
		return nil, o.named(err)
	}
	o.files = append(o.files, f)
	return f, nil
}

// named gives an error the name that the user knows.
func (o *OutputDir) named(err error) error {
	var pe *fs.PathError
	if errors.As(err, &pe) {
		return &fs.PathError{Op: pe.Op, Path: filepath.Join(o.path, filepath.Base(pe.Path)), Err: pe.Err}
	}
	return err
}

// Commit gives the directory its name. After an error nothing is left.
func (o *OutputDir) Commit() error {
	if o.done {
		return errors.New("output was ended already")
	}
	err := o.commit()
	if err != nil {
		o.Abort()
		return fmt.Errorf("%s: %w", o.path, err)
	}
	o.done = true
	o.lock.Close() // only read
	return SyncDir(filepath.Dir(o.path))
}

func (o *OutputDir) commit() error {
	for len(o.files) > 0 {
		f := o.files[0]
		err := f.Sync()
		if cerr := f.Close(); err == nil {
			err = cerr
		}
		o.files = o.files[1:]
		if err != nil {
			return o.named(err)
		}
	}
	if err := vmdir.SyncDir(o.lock); err != nil {
		return err
	}
	if st, err := os.Lstat(o.path); err == nil && st.IsDir() {
		if err := os.Remove(o.path); err != nil {
			return err // it is no longer empty
		}
	}
	return os.Rename(o.temp, o.path)
}

// Abort removes what was written. After Commit it does nothing.
func (o *OutputDir) Abort() {
	if o.done {
		return
	}
	o.done = true
	for _, f := range o.files {
		f.Close()
	}
	o.lock.Close()
	os.RemoveAll(o.temp)
}
