package repo

import (
	"context"
	"crypto/rand"
	_ "embed"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"strings"
	"time"

	"tarvm/archive"
	"tarvm/archive/codec"
	"tarvm/formats"
)

//go:embed README.txt
var readme []byte

// Options are what a repository needs from its user. The zero value reads the index alone.
type Options struct {
	Codecs  []codec.Codec
	Formats []formats.Format
	// Owner says for others who waits or writes. Host, process and time are filled in.
	Owner Owner
	// Wait is told whom a writer waits for; nil: nobody is. LockTimeout is for how long it waits; 0: until the context ends.
	Wait        func(Owner)
	LockTimeout time.Duration
	// Places are further folders in which archives are looked for by their files' names.
	Search []string
	// Fetch brings the archive of an entry that is at a catalogue into the repository; nil: that is an *OfflineError.
	Fetch func(ctx context.Context, at *At, w io.Writer) error
}

// A Repo is a repository. It is safe for concurrent use.
type Repo struct {
	m    Medium
	o    Options
	info Info
}

// Info is what a repository says of itself, in tarvm-repository.json.
type Info struct {
	Tarvm   string    `json:"tarvm"` // "repository"
	Version int       `json:"version"`
	ID      string    `json:"id"` // 32 hexadecimal digits
	Created time.Time `json:"created"`
}

// Version is that of repositories which this package writes, and the latest that it reads.
const Version = 1

// Create makes a repository. It is fs.ErrExist when there is one.
func Create(ctx context.Context, m Medium, o Options) (*Repo, error) {
	r := &Repo{m: m, o: o}
	unlock, err := r.lock(ctx, "init")
	if err != nil {
		return nil, err
	}
	defer unlock()
	if b, err := m.Open(ctx, fileRepository); err == nil {
		b.Close()
		return nil, fmt.Errorf("%s: a repository: %w", m, fs.ErrExist)
	}
	names, err := m.List(ctx, ".")
	if err != nil {
		return nil, err
	}
	for _, n := range names {
		switch n.Name {
		case dirLock, dirTemp, fileReadme:
		default:
			return nil, fmt.Errorf("%s: is not empty (%s): %w", m, n.Name, fs.ErrExist)
		}
	}
	var id [16]byte
	if _, err := rand.Read(id[:]); err != nil {
		return nil, err
	}
	r.info = Info{Tarvm: "repository", Version: Version, ID: hex.EncodeToString(id[:]), Created: time.Now().UTC().Truncate(time.Second)}
	b, err := json.MarshalIndent(r.info, "", "  ")
	if err != nil {
		return nil, err
	}
	if err := m.Put(ctx, fileReadme, readme); err != nil {
		return nil, err
	}
	return r, m.Put(ctx, fileRepository, append(b, '\n'))
}

// Open opens a repository. Errors wrap ErrNoRepository, ErrVersion or ErrCorrupt, or are the medium's.
func Open(ctx context.Context, m Medium, o Options) (*Repo, error) {
	r := &Repo{m: m, o: o}
	b, err := readFile(ctx, m, fileRepository, 64<<10)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("%s: %w", m, ErrNoRepository)
	}
	if err == nil {
		if jerr := json.Unmarshal(b, &r.info); jerr != nil || r.info.Tarvm != "repository" || r.info.Version < 1 {
			err = fmt.Errorf("%s: %w: %s is none of a repository", m, ErrCorrupt, fileRepository)
		} else if r.info.Version > Version {
			err = fmt.Errorf("%s: %w: version %d", m, ErrVersion, r.info.Version)
		}
	}
	if err != nil {
		return nil, err
	}
	return r, nil
}

// CreateDir makes a repository in a directory, which is made if need be.
func CreateDir(ctx context.Context, path string, o Options) (*Repo, error) {
	if err := os.MkdirAll(path, 0o777); err != nil {
		return nil, err
	}
	d, err := NewDir(path)
	if err != nil {
		return nil, err
	}
	return Create(ctx, d, o)
}

// OpenDir opens the repository in a directory.
func OpenDir(ctx context.Context, path string, o Options) (*Repo, error) {
	d, err := NewDir(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("%s: %w", path, ErrNoRepository)
	}
	if err != nil {
		return nil, err
	}
	return Open(ctx, d, o)
}

// Info returns what the repository says of itself.
func (r *Repo) Info() Info { return r.info }

// Medium returns where the repository is.
func (r *Repo) Medium() Medium { return r.m }

// lock excludes other writers, and removes what killed ones have left.
func (r *Repo) lock(ctx context.Context, doing string) (func(), error) {
	o := r.o.Owner
	o.Doing, o.PID, o.Since = doing, os.Getpid(), time.Now().UTC()
	if o.Host == "" {
		o.Host, _ = os.Hostname()
	}
	if r.o.LockTimeout > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, r.o.LockTimeout)
		defer cancel()
	}
	release, err := r.m.Lock(ctx, o, r.o.Wait)
	if err != nil {
		return nil, err
	}
	return func() { _ = release() }, nil // the lock is void anyway
}

// readFile reads a small file whole.
func readFile(ctx context.Context, m Medium, name string, limit int64) ([]byte, error) {
	b, err := m.Open(ctx, name)
	if err != nil {
		return nil, err
	}
	defer b.Close()
	if b.Size() > limit {
		return nil, fmt.Errorf("%s: %w: %s has %d bytes", m, ErrCorrupt, name, b.Size())
	}
	p := make([]byte, b.Size())
	if _, err := io.ReadFull(io.NewSectionReader(b, 0, b.Size()), p); err != nil {
		return nil, fmt.Errorf("%s: %s: %w", m, name, err)
	}
	return p, nil
}

// named says which file of the repository an error is about, unless the error does.
func (r *Repo) named(name string, err error) error {
	if err == nil || strings.Contains(err.Error(), name) {
		return err
	}
	return fmt.Errorf("%s: %s: %w", r.m, name, err)
}

// manifest opens an entry's manifest: the file beside the archive, or else the one within.
func (r *Repo) manifest(ctx context.Context, f fileName) (*archive.Manifest, io.Closer, error) {
	b, err := r.m.Open(ctx, f.manifest())
	if err == nil {
		m, merr := archive.OpenManifest(b)
		if merr == nil {
			return m, b, nil
		}
		b.Close()
		err = r.named(f.manifest(), merr)
	}
	m, c, aerr := r.manifestWithin(ctx, f)
	if errors.Is(aerr, fs.ErrNotExist) {
		return nil, nil, err
	}
	return m, c, aerr
}

// manifestWithin opens the manifest in an entry's archive, which has it, too, but for what helps to find copies.
func (r *Repo) manifestWithin(ctx context.Context, f fileName) (*archive.Manifest, io.Closer, error) {
	b, err := r.m.Open(ctx, f.archive())
	if err != nil {
		return nil, nil, err
	}
	a, err := archive.Open(b, r.o.Codecs)
	if err != nil {
		b.Close()
		return nil, nil, r.named(f.archive(), err)
	}
	return a.Manifest(), b, nil
}
