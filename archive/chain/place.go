package chain

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strings"
	"time"

	"tarvm/archive/vmdir"
	"tarvm/manifest"
)

// ErrBusy: another process restores into the same directory.
var ErrBusy = errors.New("another restore into this directory is running")

// A place is where a restore goes and where it is staged.
type place struct {
	dir     string   // the directory, absolute, without symbolic links at its end
	fresh   bool     // it is absent or empty, and will be replaced as a whole
	staging string   // fresh: the directory that becomes dir
	root    *os.Root // fresh: of staging; else of dir
	lock    *os.File
	mtime   time.Time // of dir, before it was changed
	resumed bool      // an interrupted restore was completed first
}

// find looks at dir, and completes or sweeps what an interrupted restore left. It changes nothing else.
func findPlace(dir string, recovered func(root *os.Root) (bool, error)) (*place, error) {
	abs, err := filepath.Abs(dir)
	if err != nil {
		return nil, err
	}
	p := &place{dir: abs}
	if fi, err := os.Lstat(abs); err == nil && fi.Mode()&fs.ModeSymlink != 0 {
		if p.dir, err = filepath.EvalSymlinks(abs); err != nil {
			return nil, err
		}
	}
	fi, err := os.Stat(p.dir)
	if errors.Is(err, fs.ErrNotExist) {
		p.fresh = true
		parent, err := os.Stat(filepath.Dir(p.dir))
		if err == nil && !parent.IsDir() {
			err = &fs.PathError{Op: "restore", Path: filepath.Dir(p.dir), Err: errors.New("not a directory")}
		}
		return p, err
	}
	if err != nil {
		return nil, err
	}
	if !fi.IsDir() {
		return nil, &fs.PathError{Op: "restore", Path: p.dir, Err: errors.New("not a directory")}
	}
	root, err := os.OpenRoot(p.dir)
	if err != nil {
		return nil, err
	}
	if p.resumed, err = recovered(root); err != nil {
		root.Close()
		return nil, fmt.Errorf("%s: %w", p.dir, err)
	}
	empty, err := isEmpty(p.dir)
	if err != nil {
		root.Close()
		return nil, err
	}
	up := filepath.Dir(p.dir)
	if empty && up != p.dir && mayWrite(up) && !isMount(p.dir) {
		ufi, err := os.Stat(up)
		if err == nil && deviceOf(ufi) == deviceOf(fi) {
			p.fresh = true
			return p, root.Close()
		}
	}
	p.root = root
	return p, nil
}

func isEmpty(dir string) (bool, error) {
	f, err := os.Open(dir)
	if err != nil {
		return false, err
	}
	defer f.Close()
	_, err = f.Readdirnames(1)
	if errors.Is(err, io.EOF) {
		return true, nil
	}
	return false, err
}

// begin makes the staging directory.
func (p *place) begin() error {
	if !p.fresh {
		fi, err := p.root.Stat(".")
		if err != nil {
			return err
		}
		p.mtime = fi.ModTime()
		if err := p.root.Mkdir(restoreDir, 0o700); err != nil {
			return err
		}
		if p.lock, err = lockDir(p.root, restoreDir); err != nil {
			return err
		}
		for _, d := range []string{newDir, oldDir} {
			if err := p.root.Mkdir(path.Join(restoreDir, d), 0o700); err != nil {
				return err
			}
		}
		return nil
	}
	if err := vmdir.SweepTemp(p.dir, true, removeTree); err != nil {
		return err
	}
	for {
		p.staging = vmdir.Temp(p.dir)
		err := os.Mkdir(p.staging, 0o700)
		if err == nil {
			break
		}
		if !errors.Is(err, fs.ErrExist) {
			p.staging = ""
			var pe *fs.PathError
			if errors.As(err, &pe) {
				err = &fs.PathError{Op: pe.Op, Path: p.dir, Err: pe.Err} // what is beside it is of no interest
			}
			return err
		}
	}
	var err error
	if p.root, err = os.OpenRoot(p.staging); err != nil {
		return err
	}
	p.lock, err = lockDir(p.root, ".")
	return err
}

func removeTree(dir string) error {
	up, err := os.OpenRoot(filepath.Dir(dir))
	if err != nil {
		return err
	}
	defer up.Close()
	return removeAll(up, filepath.Base(dir))
}

// abandon removes what was staged.
func (p *place) abandon() error {
	var err error
	switch {
	case p.fresh && p.staging != "":
		err = removeTree(p.staging)
	case !p.fresh && p.lock != nil:
		if err = removeAll(p.root, restoreDir); err == nil {
			_ = p.root.Chtimes(".", time.Time{}, p.mtime) // to nobody's harm if it cannot be
		}
	}
	return err
}

func (p *place) close() {
	if p.lock != nil {
		p.lock.Close()
	}
	if p.root != nil {
		p.root.Close()
	}
}

// lockDir opens a directory and locks it, so that nobody takes it for one that was left.
func lockDir(root *os.Root, name string) (*os.File, error) {
	f, err := root.Open(name)
	if err != nil {
		return nil, err
	}
	if err := vmdir.Claim(f); err != nil && !errors.Is(err, errors.ErrUnsupported) {
		f.Close()
		if errors.Is(err, vmdir.ErrClaimed) {
			err = ErrBusy
		}
		return nil, err
	}
	return f, nil
}

func syncDirs(root *os.Root, names ...string) error {
	for _, n := range names {
		f, err := root.Open(n)
		if errors.Is(err, fs.ErrNotExist) {
			continue // it has gone since
		}
		if err != nil {
			return err
		}
		err = vmdir.SyncDir(f)
		f.Close()
		if err != nil {
			return err
		}
	}
	return nil
}

// reservedName reports whether the first component of p is one that a restore needs, in any case.
func reservedName(p manifest.Path) bool {
	first, _, _ := strings.Cut(string(p), "/")
	return strings.EqualFold(first, ".tarvm") || strings.EqualFold(first, restoreDir)
}
