package settings

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strconv"
	"time"

	"github.com/BurntSushi/toml"
	"github.com/gofrs/flock"

	"tarvm/archive"
	"tarvm/archive/vmdir"
)

// A change takes milliseconds: whoever holds the lock for longer is stopped, or hangs.
const (
	lockWait  = 10 * time.Second
	lockRetry = 10 * time.Millisecond
)

// Save makes the changes in the file, on what it holds by now, which s is afterwards. What it returns are notices for
// the user. A change that is no longer possible, because another process took the name, is its error, and the file is
// as it was.
func (s *Settings) Save(ctx context.Context) (notices []string, err error) {
	if len(s.changes) == 0 {
		return nil, nil
	}
	path, err := follow(s.Path)
	if err != nil {
		return nil, err
	}
	unlock, err := lock(ctx, path)
	if err != nil {
		return nil, err
	}
	defer func() {
		if uerr := unlock(); err == nil {
			err = uerr
		}
	}()
	text, err := read(path)
	if err != nil {
		return nil, err
	}
	next, small, after, err := s.apply(text)
	if err != nil {
		return nil, err
	}
	if next != text {
		if !small {
			kept, err := keep(path, text)
			if err != nil {
				return nil, err
			}
			notices = append(notices, fmt.Sprintf("%s was written anew, without its comments: its form does not allow for small changes; what it was is %s", s.Path, kept))
		}
		if err := write(path, next); err != nil {
			return nil, err
		}
	}
	*s = *after
	return notices, nil
}

// apply makes the changes in text. It returns what that becomes, whether small changes would do, and what it means then.
func (s *Settings) apply(text string) (next string, small bool, after *Settings, err error) {
	now, err := decode(s.Path, text)
	if err != nil {
		return "", false, nil, err
	}
	want := now.content.clone()
	for _, c := range s.changes {
		if err := c(&want); err != nil {
			return "", false, nil, err
		}
	}
	if next, small = now.edit(&want); !small {
		var b bytes.Buffer
		if err := toml.NewEncoder(&b).Encode(want); err != nil {
			return "", false, nil, fmt.Errorf("%s: %w", s.Path, err)
		}
		if next = b.String(); !says(next, &want) {
			return "", false, nil, fmt.Errorf("%s: cannot be changed: edit it by hand", s.Path)
		}
	}
	after, err = decode(s.Path, next)
	return next, small, after, err
}

// edit returns the text with the changes that make want of what it says. It is not ok when that does not succeed.
func (s *Settings) edit(want *content) (text string, ok bool) {
	d := s.doc
	put := func(key []string, from, to string) {
		switch {
		case from == to:
			return
		case to == "":
			d = parse(d.remove(key))
		default:
			d = parse(d.set(key, quote(to)))
		}
	}
	have := &s.content
	for _, name := range removed(have.Repositories, want.Repositories) {
		d = parse(d.remove([]string{"repositories", name}))
	}
	for _, name := range removed(have.Areas, want.Areas) {
		d = parse(d.remove([]string{"areas", name}))
	}
	for _, name := range removed(have.Catalogues, want.Catalogues) {
		d = parse(d.remove([]string{"catalogues", name}))
	}
	put([]string{"repository"}, have.Repository, want.Repository)
	put([]string{"area"}, have.Area, want.Area)
	put([]string{"project"}, have.Project, want.Project)
	put([]string{"policy"}, have.Policy, want.Policy)
	for _, name := range slices.Sorted(maps.Keys(want.Repositories)) {
		put([]string{"repositories", name}, have.Repositories[name], want.Repositories[name])
	}
	for _, name := range slices.Sorted(maps.Keys(want.Areas)) {
		from, to := have.Areas[name], want.Areas[name]
		put([]string{"areas", name, "dir"}, from.Dir, to.Dir)
		put([]string{"areas", name, "project"}, from.Project, to.Project)
		put([]string{"areas", name, "repository"}, from.Repository, to.Repository)
	}
	for _, name := range slices.Sorted(maps.Keys(want.Catalogues)) {
		put([]string{"catalogues", name}, have.Catalogues[name], want.Catalogues[name])
	}
	return d.text, says(d.text, want)
}

func removed[V any](from, to map[string]V) []string {
	var names []string
	for _, name := range slices.Sorted(maps.Keys(from)) {
		if _, ok := to[name]; !ok {
			names = append(names, name)
		}
	}
	return names
}

// says reports whether text means want.
func says(text string, want *content) bool {
	var got content
	if _, err := toml.Decode(text, &got); err != nil {
		return false
	}
	plain := func(c content) content {
		c = c.clone()
		if len(c.Policies) == 0 {
			c.Policies = nil
		}
		return c
	}
	return reflect.DeepEqual(plain(got), plain(*want))
}

// follow returns the file that a path leads to, which need not be there.
func follow(path string) (string, error) {
	path, err := filepath.Abs(path)
	if err != nil {
		return "", fmt.Errorf("settings: %w", err)
	}
	const most = 40
	for range most {
		to, err := os.Readlink(path)
		if err != nil {
			return path, nil //nolint:nilerror // no link, or nothing at all: opening it says what
		}
		if !filepath.IsAbs(to) {
			to = filepath.Join(filepath.Dir(path), to)
		}
		path = to
	}
	return "", fmt.Errorf("settings: %s: too many symbolic links", path)
}

// lock keeps other processes from changing the file. The lock is not beside it, where people keep their settings under
// version control; nor the file itself, which a change replaces.
func lock(ctx context.Context, path string) (unlock func() error, err error) {
	name, err := StatePath("locks", path)
	if err != nil {
		return nil, err
	}
	if err := os.MkdirAll(filepath.Dir(name), 0o700); err != nil {
		return nil, fmt.Errorf("settings: %w", err)
	}
	l := flock.New(name)
	ctx, cancel := context.WithTimeoutCause(ctx, lockWait, &LockedError{name})
	defer cancel()
	switch _, err := l.TryLockContext(ctx, lockRetry); {
	case ctx.Err() != nil:
		return nil, context.Cause(ctx)
	case err != nil:
		return nil, fmt.Errorf("settings: %w", err)
	}
	return l.Unlock, nil
}

// keep writes what the file was beside it, under a name that nothing has.
func keep(path, text string) (string, error) {
	for n := 0; ; n++ {
		name := path + ".bak"
		if n > 0 {
			name += strconv.Itoa(n)
		}
		mode := fs.FileMode(0o600)
		if st, err := os.Stat(path); err == nil {
			mode = st.Mode().Perm()
		}
		f, err := os.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, mode)
		if errors.Is(err, fs.ErrExist) {
			continue
		}
		if err != nil {
			return "", fmt.Errorf("settings: %w", err)
		}
		return name, finish(f, text)
	}
}

// write replaces the file when its new text is on disk.
func write(path, text string) error {
	dir := filepath.Dir(path)
	st, err := os.Stat(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return fmt.Errorf("settings: %w", err)
		}
	case err != nil:
		return fmt.Errorf("settings: %w", err)
	case !st.Mode().IsRegular():
		return fmt.Errorf("settings: %s: is not a regular file", path)
	default:
		// A file that the user may not write is not replaced either.
		f, err := os.OpenFile(path, os.O_WRONLY, 0)
		if err != nil {
			return fmt.Errorf("settings: %w", err)
		}
		if err := f.Close(); err != nil {
			return fmt.Errorf("settings: %w", err)
		}
	}
	_ = vmdir.SweepTemp(path, false, os.Remove) // making a new one says what is wrong with the directory
	f, err := os.OpenFile(vmdir.Temp(path), os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o666)
	if err != nil {
		return named(path, err)
	}
	temp := f.Name()
	if st != nil {
		if err = f.Chmod(st.Mode().Perm()); err == nil {
			err = sameOwner(f, st)
		}
	}
	if err != nil {
		f.Close()
		os.Remove(temp)
		return named(path, err)
	}
	if err := finish(f, text); err != nil {
		return named(path, err)
	}
	if err := os.Rename(temp, path); err != nil {
		os.Remove(temp)
		return named(path, err)
	}
	return archive.SyncDir(dir)
}

// named gives an error the name that the user knows.
func named(path string, err error) error {
	var pe *fs.PathError
	var le *os.LinkError
	switch {
	case errors.As(err, &pe):
		err = &fs.PathError{Op: pe.Op, Path: path, Err: pe.Err}
	case errors.As(err, &le):
		err = &fs.PathError{Op: le.Op, Path: path, Err: le.Err}
	}
	return fmt.Errorf("settings: %w", err)
}

// finish writes a file, or removes it.
func finish(f *os.File, text string) error {
	_, err := f.WriteString(text)
	if err == nil {
		err = f.Sync()
	}
	if cerr := f.Close(); err == nil {
		err = cerr
	}
	if err != nil {
		os.Remove(f.Name())
	}
	return err
}
