package repo

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"time"

	"github.com/gofrs/flock"

	"tarvm/archive"
	"tarvm/archive/vmdir"
)

// Names at the top of a directory that are the medium's own.
const (
	dirTemp = "tmp"
	dirLock = "lock"
)

// lockPoll is how often a lock is tried that somebody else has.
const lockPoll = 50 * time.Millisecond

// lockStale is after what time a lock is void that does not end with its process, when it was not refreshed: several
// times what a writer takes for a refresh, and longer than clocks of two hosts differ.
const lockStale = 30 * time.Minute

// Dir is a Medium in a directory of the file system.
type Dir struct {
	root string
}

// NewDir returns the medium in the directory at path, which must be there.
func NewDir(path string) (*Dir, error) {
	abs, err := filepath.Abs(path)
	if err != nil {
		return nil, err
	}
	st, err := os.Stat(abs)
	if err != nil {
		return nil, err
	}
	if !st.IsDir() {
		return nil, fmt.Errorf("%s: is not a directory", path)
	}
	return &Dir{root: abs}, nil
}

// Path returns where the file with the given name is.
func (d *Dir) Path(name string) string { return filepath.Join(d.root, filepath.FromSlash(name)) }

// String implements Medium.
func (d *Dir) String() string { return d.root }

func (d *Dir) check(name string) error {
	if !fs.ValidPath(name) || strings.ContainsRune(name, 0) {
		return fmt.Errorf("%s: %q is no name of a file", d.root, name)
	}
	return nil
}

// List implements Medium.
func (d *Dir) List(ctx context.Context, dir string) ([]Name, error) {
	if err := errors.Join(d.check(dir), context.Cause(ctx)); err != nil {
		return nil, err
	}
	f, err := os.Open(d.Path(dir))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	defer f.Close()
	list, err := f.ReadDir(-1)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil // it was removed while it was read
	}
	if err != nil {
		return nil, err
	}
	names := make([]Name, 0, len(list))
	for _, e := range list {
		n := Name{Name: e.Name(), Dir: e.IsDir()}
		if e.Type()&fs.ModeSymlink != 0 { // a project may have been moved to another disk by hand
			st, err := os.Stat(filepath.Join(d.Path(dir), e.Name()))
			n.Dir = err == nil && st.IsDir()
		}
		if !strings.HasPrefix(n.Name, ".") {
			names = append(names, n)
		}
	}
	return names, nil
}

// Open implements Medium.
func (d *Dir) Open(_ context.Context, name string) (Blob, error) {
	if err := d.check(name); err != nil {
		return nil, err
	}
	return openFile(d.Path(name))
}

func openFile(path string) (Blob, error) {
	st, err := os.Stat(path)
	if err == nil && !st.Mode().IsRegular() { // a FIFO would block
		err = fmt.Errorf("%s: is not a regular file", path)
	}
	if err != nil {
		return nil, err
	}
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	return blobOf(f)
}

func blobOf(f *os.File) (Blob, error) {
	st, err := f.Stat()
	if err != nil {
		f.Close()
		return nil, err
	}
	return &fileBlob{SectionReader: io.NewSectionReader(f, 0, st.Size()), f: f}, nil
}

type fileBlob struct {
	*io.SectionReader
	f *os.File
}

func (b *fileBlob) Close() error { return b.f.Close() }

// Create implements Medium.
func (d *Dir) Create(context.Context) (Upload, error) {
	o, err := d.create()
	if err != nil {
		return nil, err
	}
	return &dirUpload{d: d, o: o}, nil
}

func (d *Dir) create() (*archive.Output, error) {
	tmp := d.Path(dirTemp)
	if err := os.MkdirAll(tmp, 0o777); err != nil {
		return nil, err
	}
	return archive.CreateOutput(filepath.Join(tmp, "upload"), true)
}

type dirUpload struct {
	d     *Dir
	o     *archive.Output
	ended bool
}

func (u *dirUpload) Write(p []byte) (int, error) { return u.o.Write(p) }

func (u *dirUpload) Abort() {
	u.ended = true
	u.o.Abort()
}

func (u *dirUpload) Open(context.Context) (Blob, error) {
	f, err := u.o.Open()
	if err != nil {
		return nil, err
	}
	return blobOf(f)
}

func (u *dirUpload) Commit(_ context.Context, name string) error {
	if u.ended {
		return errors.New("upload was ended already")
	}
	u.ended = true
	return u.d.commit(u.o, name, false)
}

// commit gives a file its name.
func (d *Dir) commit(o *archive.Output, name string, replace bool) (err error) {
	defer o.Abort()
	if err := d.check(name); err != nil {
		return err
	}
	path := d.Path(name)
	folder := filepath.Dir(path)
	if err := d.folder(folder); err != nil {
		return err
	}
	// Writers hold the lock, so that nothing comes between.
	switch st, err := os.Lstat(path); {
	case err == nil && !replace:
		return &fs.PathError{Op: "create", Path: path, Err: fs.ErrExist}
	case err == nil && !st.Mode().IsRegular():
		return fmt.Errorf("%s: is not a regular file", path)
	}
	if d.same(folder) {
		return o.CommitAs(path)
	}
	src, err := o.Open()
	if err != nil {
		return err
	}
	defer src.Close()
	there, err := archive.CreateOutput(filepath.Join(folder, "upload"), true)
	if err != nil {
		return err
	}
	defer there.Abort()
	if _, err := io.Copy(there, src); err != nil {
		return err
	}
	return there.CommitAs(path)
}

// same reports whether a folder is where its name says: one that somebody moved away, leaving a link, may be on another
// file system.
func (d *Dir) same(folder string) bool {
	for ; len(folder) > len(d.root); folder = filepath.Dir(folder) {
		if st, err := os.Lstat(folder); err != nil || !st.IsDir() {
			return false
		}
	}
	return true
}

// folder makes a folder, and its name durable.
func (d *Dir) folder(path string) error {
	if st, err := os.Stat(path); err == nil && st.IsDir() {
		return nil
	}
	if err := os.MkdirAll(path, 0o777); err != nil {
		return err
	}
	for up := path; up != d.root && len(up) > len(d.root); {
		up = filepath.Dir(up)
		if err := archive.SyncDir(up); err != nil {
			return err
		}
	}
	return nil
}

// Put implements Medium.
func (d *Dir) Put(_ context.Context, name string, content []byte) error {
	if err := d.check(name); err != nil {
		return err
	}
	o, err := d.create()
	if err != nil {
		return err
	}
	if _, err := o.Write(content); err != nil {
		o.Abort()
		return err
	}
	return d.commit(o, name, true)
}

// Remove implements Medium.
func (d *Dir) Remove(_ context.Context, name string) error {
	if err := d.check(name); err != nil {
		return err
	}
	path := d.Path(name)
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	up := filepath.Dir(path)
	if err := archive.SyncDir(up); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	for len(up) > len(d.root) {
		// Not of a link, which would go whatever is in its folder. Remove fails unless the folder is empty, as it should.
		if st, err := os.Lstat(up); err != nil || !st.IsDir() || os.Remove(up) != nil {
			break
		}
		up = filepath.Dir(up)
	}
	return nil
}

// Sweep implements Medium.
func (d *Dir) Sweep(context.Context) error {
	err := vmdir.SweepTemp(filepath.Join(d.Path(dirTemp), "upload"), false, os.Remove)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}

// Lock implements Medium. The system ends the lock with the process that has it; where it has no such locks, the lock is
// a file, which is void when its process is not there any more, or did not refresh it for half an hour.
func (d *Dir) Lock(ctx context.Context, owner Owner, wait func(Owner)) (func() error, error) {
	path := d.Path(dirLock)
	told := false
	for {
		release, err := d.tryLock(path, owner)
		if release != nil || err != nil {
			return release, err
		}
		if !told && wait != nil {
			wait(readOwner(path))
		}
		told = true
		select {
		case <-time.After(lockPoll):
		case <-ctx.Done():
			if errors.Is(context.Cause(ctx), context.DeadlineExceeded) {
				return nil, &BusyError{Medium: d.root, Owner: readOwner(path)}
			}
			return nil, context.Cause(ctx)
		}
	}
}

// tryLock returns neither a release nor an error when somebody else has the lock.
func (d *Dir) tryLock(path string, owner Owner) (func() error, error) {
	l := flock.New(path, flock.SetPermissions(0o666)) // as other files are: the users of a repository may be several
	ok, err := l.TryLock()
	switch {
	case err != nil && noLocks(err):
		return d.tryFile(path+".held", owner)
	case err != nil:
		return nil, err
	case !ok:
		return nil, l.Close()
	}
	// Who it is, for those who wait. That it cannot be written is for the writer to find out.
	if b, err := json.Marshal(owner); err == nil {
		_ = os.WriteFile(path, append(b, '\n'), 0o666)
	}
	return func() error {
		_ = os.Truncate(path, 0)
		return l.Close()
	}, nil
}

// tryFile is for file systems without locks.
func (d *Dir) tryFile(path string, owner Owner) (func() error, error) {
	owner.Refresh = owner.Since
	b, err := json.Marshal(owner)
	if err != nil {
		return nil, err
	}
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o666)
	if errors.Is(err, fs.ErrExist) {
		return nil, breakLock(path, owner.Host)
	}
	if err != nil {
		return nil, err
	}
	b = append(b, '\n')
	_, err = f.Write(b)
	if err = errors.Join(err, f.Close()); err != nil {
		os.Remove(path)
		return nil, err
	}
	// Who was taken for dead, and is not, leaves the lock of the next one alone.
	mine := func() bool {
		now, err := os.ReadFile(path)
		return err == nil && bytes.Equal(now, b)
	}
	stop := make(chan struct{})
	var wg sync.WaitGroup
	wg.Go(func() {
		t := time.NewTicker(lockStale / 10)
		defer t.Stop()
		for {
			select {
			case now := <-t.C:
				if mine() {
					_ = os.Chtimes(path, now, now)
				}
			case <-stop:
				return
			}
		}
	})
	return func() error {
		close(stop)
		wg.Wait()
		if !mine() {
			return fmt.Errorf("%s: the lock was lost: %w", d.root, fs.ErrNotExist)
		}
		return os.Remove(path)
	}, nil
}

// breakLock removes a lock that is void. Of several that find it so only one does it, and looks again before.
func breakLock(path, host string) error {
	void := func() bool {
		st, err := os.Stat(path)
		if err != nil {
			return false
		}
		o := readOwner(path)
		return o.stale(host, st.ModTime(), time.Now())
	}
	if !void() {
		return nil
	}
	breaker := path + ".void"
	f, err := os.OpenFile(breaker, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o666)
	if errors.Is(err, fs.ErrExist) {
		if st, err := os.Stat(breaker); err == nil && time.Since(st.ModTime()) > lockStale {
			os.Remove(breaker) // who made it was killed
		}
		return nil
	}
	if err != nil {
		return err
	}
	f.Close()
	defer os.Remove(breaker)
	if void() {
		if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	return nil
}

// stale reports whether o, in a file that was refreshed last at the given time, has gone without its lock.
func (o *Owner) stale(host string, refreshed, now time.Time) bool {
	if o.Host == host && o.PID > 0 && runtime.GOOS != "windows" && !alive(o.PID) {
		return true
	}
	return now.Sub(refreshed) > lockStale
}

func readOwner(path string) Owner {
	var o Owner
	b, err := os.ReadFile(path)
	if err == nil {
		err = json.Unmarshal(b, &o)
	}
	if err != nil {
		return Owner{}
	}
	return o
}
