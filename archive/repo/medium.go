package repo

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"time"

	"tarvm/formats"
)

// A Medium holds the files of a repository under slash separated names (as of fs.ValidPath). Package mediumtest says
// in tests what is expected of one.
//
// Files appear under their names complete and durable, and do not change while they are there, except by Put.
type Medium interface {
	// List returns the names that lie directly in a folder, "." being the top, in any order; what is being written is not
	// among them. A folder that is not there is empty.
	List(ctx context.Context, dir string) ([]Name, error)
	// Open opens a file for reading at random. It stays readable when it is removed meanwhile, where the medium can do that.
	// The error is fs.ErrNotExist when it is not there.
	Open(ctx context.Context, name string) (Blob, error)
	// Create starts a file.
	Create(ctx context.Context) (Upload, error)
	// Put makes a small file, or replaces one as a whole.
	Put(ctx context.Context, name string, content []byte) error
	// Remove removes a file; one that is not there is no error. A folder in which nothing is left goes with it.
	Remove(ctx context.Context, name string) error
	// Lock excludes other writers, and waits for one that has the lock; wait, unless nil, is told about it once. Release
	// ends it. An error is ctx's, *BusyError when ctx ends while it waits, or the medium's.
	Lock(ctx context.Context, owner Owner, wait func(Owner)) (release func() error, err error)
	// Sweep removes what writers that were killed have left aside.
	Sweep(ctx context.Context) error
	// String says for messages where the medium is.
	String() string
}

// A Name is what List says of a file or folder.
type Name struct {
	Name string // the last component
	Dir  bool
}

// A Blob is a file that is open for reading. It is safe for concurrent use.
type Blob interface {
	formats.Source
	io.Closer
}

// An Upload is a file that is being written, front to back.
type Upload interface {
	io.Writer
	// Open opens for reading what was written. Nothing is written any more then.
	Open(ctx context.Context) (Blob, error)
	// Commit gives the file its name, when all of it is durable. It is fs.ErrExist when there is one; the upload has ended
	// then, too.
	Commit(ctx context.Context, name string) error
	// Abort drops what was written. After Commit it does nothing.
	Abort()
}

// An Owner is who holds a lock.
type Owner struct {
	Host    string    `json:"host,omitempty"`
	PID     int       `json:"pid,omitempty"`
	User    string    `json:"user,omitempty"`
	Doing   string    `json:"doing,omitempty"` // "save", "rm", ...
	Since   time.Time `json:"since"`
	Refresh time.Time `json:"refresh,omitzero"` // of media on which a lock does not end with its process
}

func (o Owner) String() string {
	s := fmt.Sprintf("process %d", o.PID)
	if o.User != "" {
		s += " of " + o.User
	}
	if o.Host != "" {
		s += " on " + o.Host
	}
	if o.Doing != "" {
		s += " (" + o.Doing + ")"
	}
	if !o.Since.IsZero() {
		s += " since " + o.Since.Local().Format("2006-01-02 15:04:05")
	}
	return s
}

// A BusyError says that another writer had the lock for as long as there was time to wait.
type BusyError struct {
	Medium string
	Owner  Owner
}

func (e *BusyError) Error() string {
	return fmt.Sprintf("%s: locked by %s", e.Medium, e.Owner)
}

// A removedError says that an entry was removed between two looks at the repository. It is ErrNoEntry, and fs.ErrNotExist.
type removedError struct{ entry *Entry }

func (e *removedError) Error() string { return fmt.Sprintf("%s was removed meanwhile", e.entry) }

func (e *removedError) Is(target error) bool { return target == ErrNoEntry || target == fs.ErrNotExist } //nolint:errorlint // sentinels

// Errors of this package; test with errors.Is.
var (
	// ErrNoRepository: there is no repository at the place.
	ErrNoRepository = errors.New("no repository")
	// ErrVersion: the repository needs a later version of tarvm.
	ErrVersion = errors.New("repository needs a later version of tarvm")
	// ErrCorrupt: a file of the repository is not what it should be.
	ErrCorrupt = errors.New("repository is damaged")
	// ErrNoEntry: there is no such entry.
	ErrNoEntry = errors.New("no such entry")
)
