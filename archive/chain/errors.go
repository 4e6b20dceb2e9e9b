package chain

import (
	"errors"
	"fmt"
	"strings"

	"tarvm/delta"
	"tarvm/manifest"
)

// Errors of this package; test with errors.Is.
var (
	// ErrCorrupt: manifests and operations of the chain contradict each other.
	ErrCorrupt = errors.New("chain is damaged")
	// ErrDepth: the chain is longer than MaxDepth.
	ErrDepth = errors.New("chain is too long")
	// ErrUnsafe: a member cannot be restored without a risk for what is outside of the directory.
	ErrUnsafe = errors.New("unsafe member")
)

var errNoArchives = errors.New("no archives")

// MaxDepth is the largest number of entries in a chain.
const MaxDepth = 100_000

// A MissingParentError says which entry is needed and not there.
type MissingParentError struct {
	ID     delta.Digest // of the entry that is wanted
	Digest delta.Digest // of its manifest.json
	Name   string       // its name as the child knows it, perhaps ""
	Child  string       // the entry that builds on it; "" when it was asked for by id
}

func (e *MissingParentError) Error() string {
	name := ""
	if e.Name != "" {
		name = fmt.Sprintf(" (%s)", e.Name)
	}
	if e.Child == "" {
		return fmt.Sprintf("entry %s%s is not among the archives", e.ID.Short(), name)
	}
	return fmt.Sprintf("entry %s builds on entry %s%s, which is not among the archives", e.Child, e.ID.Short(), name)
}

// A HeadsError says that the archives hold more than one last entry.
type HeadsError struct {
	Heads []string // name and short id of each
}

func (e *HeadsError) Error() string {
	return fmt.Sprintf("the archives hold %d last entries, name one of them: %s", len(e.Heads), strings.Join(e.Heads, ", "))
}

// A DigestError says that bytes of a member are not what the manifest says.
type DigestError struct {
	Entry  delta.Digest // id
	Member manifest.Path
	Offset int64 // in the member
	Length int64
	Want   delta.Digest
	Found  delta.Digest
}

func (e *DigestError) Error() string {
	return fmt.Sprintf("%s of entry %s: bytes %d to %d have digest %s, want %s",
		e.Member, e.Entry.Short(), e.Offset, e.Offset+e.Length, e.Found.Short(), e.Want.Short())
}

// Is makes a DigestError an ErrCorrupt.
func (e *DigestError) Is(target error) bool { return target == ErrCorrupt }

// A MemberError says what is wrong with a member of an entry.
type MemberError struct {
	Entry  delta.Digest
	Member manifest.Path
	Offset int64 // in the member; negative: no place
	Err    error
}

func (e *MemberError) Error() string {
	if e.Offset < 0 {
		return fmt.Sprintf("%s of entry %s: %v", e.Member, e.Entry.Short(), e.Err)
	}
	return fmt.Sprintf("%s of entry %s at byte %d: %v", e.Member, e.Entry.Short(), e.Offset, e.Err)
}

// Unwrap returns Err.
func (e *MemberError) Unwrap() error { return e.Err }

// A SpaceError says that a restore would not fit.
type SpaceError struct {
	Path       string
	Need, Free int64 // bytes
}

func (e *SpaceError) Error() string {
	return fmt.Sprintf("%s: %d bytes are needed, %d are free", e.Path, e.Need, e.Free)
}

// A CollisionError says that two members have names that the file system cannot tell apart, or that
// something stands where a member belongs and may not be removed.
type CollisionError struct {
	Path  manifest.Path
	Other string // what is there
}

func (e *CollisionError) Error() string {
	return fmt.Sprintf("%s: in the way is %s", e.Path, e.Other)
}

// An UnrelatedError says that a directory has none of the entry's files, all of which a restore would remove.
type UnrelatedError struct {
	Path  string
	Files int
}

func (e *UnrelatedError) Error() string {
	return fmt.Sprintf("%s: holds files that the entry does not have (%d), and none that it has", e.Path, e.Files)
}
