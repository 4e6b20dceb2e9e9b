package catalogue

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"

	"tarvm/archive"
	"tarvm/archive/vmdir"
)

// What is added to the name of a file for what is beside it while it is fetched.
const (
	partSuffix  = ".part"
	stateSuffix = ".part.json"
)

// A state is what NAME.part.json says about NAME.part.
type state struct {
	Tarvm        string  `json:"tarvm"` // "part"
	URL          string  `json:"url"`   // without what may be secret
	ETag         string  `json:"etag,omitempty"`
	LastModified string  `json:"last_modified,omitempty"`
	Size         int64   `json:"size"`
	Digests      Digests `json:"digests,omitzero"`
}

// same reports whether the part is a part of what the blob says.
func (s *state) same(b *Blob) bool {
	if s.Size != b.Size {
		return false
	}
	equal := false
	for _, d := range [][2]string{
		{s.Digests.SHA256, b.Digests.SHA256}, {s.Digests.SHA512, b.Digests.SHA512}, {s.Digests.BLAKE3, b.Digests.BLAKE3},
	} {
		if d[0] == "" || d[1] == "" {
			continue
		}
		if d[0] != d[1] {
			return false
		}
		equal = true
	}
	return equal
}

// A ForeignPartError: a file has the name that a part would have, and nothing says that it is one.
type ForeignPartError struct{ Path string }

func (e *ForeignPartError) Error() string {
	return e.Path + ": exists, and is not the beginning of a file that was being fetched"
}

// A SpaceError: the file does not fit.
type SpaceError struct {
	Dir        string
	Need, Free int64 // bytes
}

func (e *SpaceError) Error() string {
	return fmt.Sprintf("%s: %d bytes are needed, %d are free", e.Dir, e.Need, e.Free)
}

// A part is a file on its way to its name. Whoever has it has claimed it, so that no other process writes to it.
type part struct {
	f     *os.File
	dst   string
	state *state // as it is on disk; nil: nothing
}

// openPart opens or makes the part of dst. It is nil when another process has just finished the file.
func openPart(dst string) (*part, error) {
	name := dst + partSuffix
	for {
		st, err := os.Lstat(name)
		if err == nil && !st.Mode().IsRegular() {
			return nil, &ForeignPartError{Path: name}
		}
		f, err := os.OpenFile(name, os.O_RDWR|os.O_CREATE, 0o666)
		if err != nil {
			return nil, err
		}
		if err := vmdir.Claim(f); err != nil && !errors.Is(err, errors.ErrUnsupported) {
			f.Close()
			if errors.Is(err, vmdir.ErrClaimed) {
				err = &fs.PathError{Op: "fetch", Path: name, Err: err}
			}
			return nil, err
		}
		// It may have got its name, or have been removed, just before.
		now, err := os.Lstat(name)
		st, serr := f.Stat()
		if err == nil && serr == nil && os.SameFile(now, st) {
			p := &part{f: f, dst: dst}
			if err := p.load(st.Size()); err != nil {
				f.Close()
				return nil, err
			}
			return p, nil
		}
		f.Close()
		if _, err := os.Lstat(dst); err == nil {
			return nil, nil
		}
	}
}

// load reads the state. A file with content and no state is not ours.
func (p *part) load(size int64) error {
	b, err := os.ReadFile(p.dst + stateSuffix)
	if err == nil {
		var s state
		if json.Unmarshal(b, &s) == nil && s.Tarvm == "part" {
			p.state = &s
		}
	}
	if p.state == nil && size > 0 {
		return &ForeignPartError{Path: p.dst + partSuffix}
	}
	return nil
}

// save writes the state, which is on disk before the first byte of the part.
func (p *part) save(s *state) error {
	s.Tarvm = "part"
	if p.state != nil && *p.state == *s {
		return nil
	}
	b, err := json.MarshalIndent(s, "", "  ")
	if err != nil {
		return err
	}
	if err := writeFile(p.dst+stateSuffix, append(b, '\n')); err != nil {
		return err
	}
	p.state = s
	return nil
}

// finish gives the part its name.
func (p *part) finish() error {
	if err := p.f.Sync(); err != nil {
		p.f.Close()
		return err
	}
	name := p.dst + partSuffix
	// It is renamed while it is claimed: who waits for it looks, and finds that it has gone. Windows renames no open file.
	if runtime.GOOS == "windows" {
		if err := p.f.Close(); err != nil {
			return err
		}
	}
	err := os.Rename(name, p.dst)
	if runtime.GOOS != "windows" {
		if cerr := p.f.Close(); err == nil {
			err = cerr
		}
	}
	if err != nil {
		return err
	}
	_ = os.Remove(p.dst + stateSuffix) // what is left says nothing any more
	return archive.SyncDir(filepath.Dir(p.dst))
}

// keep leaves the part for a later call. One that is empty goes.
func (p *part) keep() {
	st, err := p.f.Stat()
	if err == nil && st.Size() == 0 {
		p.drop()
		return
	}
	p.f.Close()
}

// drop removes the part.
func (p *part) drop() {
	name := p.dst + partSuffix
	if runtime.GOOS == "windows" {
		p.f.Close()
	}
	_ = os.Remove(name)
	_ = os.Remove(p.dst + stateSuffix)
	p.f.Close()
}

// present reports whether dst holds what the blob says. It is an error that is fs.ErrExist when it holds something else
// that is not to be overwritten.
func present(dst string, b *Blob, overwrite bool, read func(io.Reader) error) (bool, error) {
	st, err := os.Lstat(dst)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	if st.Mode().IsRegular() && st.Size() == b.Size && b.Digests.Strong() {
		f, err := os.Open(dst)
		if err != nil {
			return false, err
		}
		defer f.Close()
		h := newHasher(&b.Digests)
		if err := read(io.TeeReader(f, h)); err != nil {
			return false, err
		}
		if h.check() == nil {
			return true, nil
		}
	}
	if !overwrite || !st.Mode().IsRegular() {
		return false, &fs.PathError{Op: "fetch", Path: dst, Err: fs.ErrExist}
	}
	return false, nil
}
