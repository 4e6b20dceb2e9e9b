package archive

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"sync"

	"tarvm/archive/vmdir"
	"tarvm/formats"
)

// An Output is a file that gets its name only when it is complete: Commit syncs it, renames it, and
// syncs the directory. Until then, and after Abort, what was at the name before is untouched.
type Output struct {
	f      *os.File
	path   string
	n      int64 // bytes written by Write
	behind int64 // of these, what goes to disk already
	random struct {
		sync.Mutex
		from, to int64 // where WriteAt wrote what does not go to disk yet
		n        int64 // how many bytes
	}
	done  bool
	named bool
}

// writeback is how much is sent to disk at a time, so that Commit has little to wait for.
const writeback = 16 << 20

// CreateOutput starts an output. Without overwrite a file that is there already is an error that
// wraps fs.ErrExist.
func CreateOutput(path string, overwrite bool) (*Output, error) {
	if st, err := os.Lstat(path); err == nil {
		if !overwrite {
			return nil, &fs.PathError{Op: "create", Path: path, Err: fs.ErrExist}
		}
		if !st.Mode().IsRegular() {
			return nil, fmt.Errorf("%s: is not a regular file", path)
		}
	} else if !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	_ = vmdir.SweepTemp(path, false, os.Remove) // creating the output will say what is wrong with the directory
	for {
		// Not os.CreateTemp: the file is to have the permissions that the umask gives a new file.
		name := vmdir.Temp(path)
		f, err := os.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o666)
		if err == nil {
			err = vmdir.Claim(f)
			if err == nil || errors.Is(err, errors.ErrUnsupported) {
				// Another process may have swept it away just before.
				if _, err = os.Lstat(name); err == nil {
					return &Output{f: f, path: path}, nil
				}
				err = fs.ErrExist
			}
			f.Close()
			os.Remove(name)
		}
		if !errors.Is(err, fs.ErrExist) && !errors.Is(err, vmdir.ErrClaimed) {
			return nil, (&Output{path: path}).errorOf(err)
		}
	}
}

// Open opens for reading what was written so far.
func (o *Output) Open() (*os.File, error) {
	f, err := os.Open(o.f.Name())
	return f, o.errorOf(err)
}

// Write appends to the file.
func (o *Output) Write(p []byte) (int, error) {
	n, err := o.f.Write(p)
	if o.n += int64(n); o.n-o.behind >= writeback {
		vmdir.StartWriteback(o.f, o.behind, o.n-o.behind)
		o.behind = o.n
	}
	return n, o.errorOf(err)
}

// WriteAt writes at an offset: an Output is written front to back by Write, or anywhere by WriteAt, not both.
func (o *Output) WriteAt(p []byte, off int64) (int, error) {
	n, err := o.f.WriteAt(p, off)
	o.wrote(off, int64(n))
	return n, o.errorOf(err)
}

// wrote sends to disk what WriteAt wrote, when there is enough of it.
func (o *Output) wrote(off, n int64) {
	r := &o.random
	r.Lock()
	if r.n == 0 {
		r.from, r.to = off, off
	}
	r.from, r.to, r.n = min(r.from, off), max(r.to, off+n), r.n+n
	from, to, enough := r.from, r.to, r.n >= writeback
	if enough {
		r.n = 0
	}
	r.Unlock()
	if enough {
		vmdir.StartWriteback(o.f, from, to-from)
	}
}

// Truncate sets the size.
func (o *Output) Truncate(size int64) error { return o.errorOf(o.f.Truncate(size)) }

// errorOf gives an error the name that the user knows.
func (o *Output) errorOf(err error) error {
	var pe *fs.PathError
	if errors.As(err, &pe) {
		return &fs.PathError{Op: pe.Op, Path: o.path, Err: pe.Err}
	}
	return err
}

var (
	_ io.Writer      = (*Output)(nil)
	_ formats.Output = (*Output)(nil)
)

// Sync makes what was written durable, still without its name.
func (o *Output) Sync() error { return o.errorOf(o.f.Sync()) }

// Commit gives the file its name.
func (o *Output) Commit() error { return o.CommitAs(o.path) }

// CommitAs gives the file another name, which must be on the same file system, and replaces what has it.
func (o *Output) CommitAs(path string) error {
	if o.done {
		return errors.New("output was ended already")
	}
	err := o.f.Sync()
	// The file is claimed while it is open: closed before it has its name, it might be swept away. Some systems rename nothing
	// that is open, and remove nothing either.
	o.named = err == nil && os.Rename(o.f.Name(), path) == nil
	if cerr := o.f.Close(); err == nil {
		err = cerr
	}
	if err == nil && !o.named {
		err = os.Rename(o.f.Name(), path)
		o.named = err == nil
	}
	if err != nil {
		os.Remove(o.f.Name())
		o.done = true
		return fmt.Errorf("%s: %w", path, err)
	}
	o.done = true
	return SyncDir(filepath.Dir(path))
}

// Named reports whether the file has its name, which it may have after an error of Commit, too: that of what makes it durable.
func (o *Output) Named() bool { return o.named }

// Abort removes what was written. After Commit it does nothing.
func (o *Output) Abort() {
	if !o.done {
		o.done = true
		o.f.Close()
		os.Remove(o.f.Name())
	}
}

// SyncDir makes renames in a directory durable, where the system can.
func SyncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer d.Close()
	if err := vmdir.SyncDir(d); err != nil {
		return fmt.Errorf("%s: %w", dir, err)
	}
	return nil
}
