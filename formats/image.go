package formats

import (
	"context"
	"fmt"
)

// An Image is one layer of a disk as a Format opened it: a file, or a
// descriptor and its extents. It holds no resources of its own; it reads the
// Sources that it was opened with. What its functions do may run in several
// goroutines at once.
type Image struct {
	Header
	// Map says where the guest's bytes lie. Size is the guest's disk.
	Map Mapper
	// Files are the sources that Extent.File counts; the first is usually the
	// one that was opened.
	Files []Source
	// Inflate decodes the compressed unit of e, a Compressed run as Map
	// returns it, into dst, which has e.Length bytes. nil: nothing is ever
	// compressed.
	Inflate func(e Extent, dst []byte) error
	// Parent is what shows through the runs of Kind Parent. nil: a base, whose
	// Map never returns that Kind.
	Parent *ParentRef
	// ID is what a child of this image, as it is now, stores in order to
	// recognise it, in the form of ParentRef.ID. Empty: the format has none.
	ID string
	// Snapshots are states that the image itself keeps, oldest first.
	Snapshots []Snapshot
	// Facts are what else the headers say, in the format's own words and
	// order, for people to read.
	Facts []Fact
	// Problems are what was found wrong when the image was opened, and does
	// not keep it from being read.
	Problems []Problem
	// Check looks for what is wrong in the whole of the image's structures,
	// and reports all that Problems does not hold. Of the guest's data it reads
	// no more than what is compressed, which it decodes. Its error is one of the medium or of
	// ctx; damage is reported. nil: the format has nothing that can be wrong.
	Check func(ctx context.Context, report func(Problem)) error
}

// A ParentRef says which image an image builds on.
type ParentRef struct {
	// Names are the file's names as stored, the most telling first: untrusted,
	// perhaps absolute, perhaps of another system.
	Names []string
	// Format is qemu's name of the parent's format. Empty: it is not recorded,
	// and must not be guessed, because a raw disk belongs to its guest.
	Format string
	// ID is the parent's Image.ID. Empty: it is not recorded.
	ID string
	// Open returns a parent that is part of the same image, as of a bundle.
	// nil: Names say where it is.
	Open func() (*Image, error)
}

// A Snapshot is an earlier state that an image keeps.
type Snapshot struct {
	ID, Name string
	Unix     int64 // when it was made, seconds since 1970; 0: not known
	// Image is the disk at that time, with Files and a Parent of its own. nil: it
	// cannot be read, and Problems say why.
	Image *Image
	// State is the saved memory, a stream of the hypervisor's. nil: none.
	State Mapper
}

// A Fact is something that an image's headers say.
type Fact struct {
	Name  string `json:"name"`
	Value string `json:"value"`
}

// Severity tells how bad a Problem is.
type Severity uint8

const (
	// Note: it is odd, or a copy of a damaged structure was used; the guest's
	// data is whole.
	Note Severity = iota + 1
	// Leak: space in the file is lost; the guest's data is whole.
	Leak
	// Risk: some of the guest's data cannot be read, is wrong, or may be
	// overwritten by the next program that writes to the image.
	Risk
)

// String returns note, leak or risk.
func (s Severity) String() string {
	switch s {
	case Note:
		return "note"
	case Leak:
		return "leak"
	case Risk:
		return "risk"
	}
	return "invalid"
}

// MarshalText returns String.
func (s Severity) MarshalText() ([]byte, error) { return []byte(s.String()), nil }

// A Problem is something wrong in an image.
type Problem struct {
	Severity  Severity `json:"severity"`
	Structure string   `json:"structure"`       // the structure at fault: "L2 table"
	Offset    int64    `json:"offset"`          // its file offset; negative: nowhere in particular
	Guest     int64    `json:"guest,omitempty"` // with Length: the guest's bytes that are concerned
	Length    int64    `json:"length,omitempty"`
	Text      string   `json:"text"` // "cluster 17 is used twice"
}

// String gives the form "L2 table at byte 0x30000: cluster 17 is used twice".
func (p Problem) String() string {
	if p.Offset < 0 {
		return p.Structure + ": " + p.Text
	}
	return fmt.Sprintf("%s at byte 0x%x: %s", p.Structure, p.Offset, p.Text)
}

// OpenOptions are what a Format needs besides the file.
type OpenOptions struct {
	// Find opens a file that the image consists of, by the name stored in the
	// image: an extent, an external data file. It is not asked for parents.
	// Whoever supplies it confines the names and closes the sources. nil: there
	// are no other files, and an image that needs one is ErrUnsupported.
	Find func(name string) (Source, error)
}
