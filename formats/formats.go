// Package formats holds what all virtual disk formats share: the Source that
// every parser reads, the errors it returns, the Header that recognition
// yields, the Image that is an open one, the types of the guest's view (Extent,
// Mapper, Disk), and what writes disks (Encoder, Units).
//
// A [Format] only says where the guest's bytes lie, as an [Image]; [NewDisk]
// makes the guest's view of an image and its parents, for all formats. Package
// layers finds the parents.
//
// Recognition goes by content, never by a file's name: [Probe] asks each
// [Format] of a list in turn. Raw is not recognised by content; that a file
// which nothing claims is a raw disk is the caller's decision, and must not be
// taken after a format has claimed the file and found it damaged.
//
//	h, err := formats.Probe(src, all.Disks())
//	switch {
//	case errors.Is(err, formats.ErrNotFormat): // no known magic
//	case err != nil: // h.Format claimed it, but it is damaged or not supported
//	default: // guest data starts at h.Grid, one unit every h.Step() bytes
//	}
//
// A parser takes a Source and opens nothing: parents and extent files come
// through the caller. Every byte of a Source is untrusted; names found in it
// are returned as stored and must be confined by whoever opens them. Probing
// reads at most 2 MiB and allocates by what was read, never by a count found in
// the file.
package formats

import (
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"
)

// A Source is random access to bytes of a known number. *io.SectionReader is
// one. ReadAt may be called from several goroutines at once.
type Source interface {
	io.ReaderAt
	// Size is the number of bytes; it does not change.
	Size() int64
}

// The reasons why an image cannot be read. Test with errors.Is.
var (
	// ErrNotFormat: the file does not carry this format's magic; try the next.
	ErrNotFormat = errors.New("not this format")
	// ErrCorrupt: the magic matched, the content contradicts the format.
	ErrCorrupt = errors.New("corrupt")
	// ErrUnsupported: valid or possibly valid, but not known to this reader.
	ErrUnsupported = errors.New("not supported")
	// ErrNoParent: the parent that the image builds on was not supplied.
	ErrNoParent = errors.New("parent needed")
)

// A FormatError says what is wrong with an image, and where.
type FormatError struct {
	Format    string // qemu's name of the format: "qcow2"
	Structure string // the structure at fault: "L1 table"
	Offset    int64  // its file offset in bytes; negative: nowhere in particular
	Got       string // what was found: "9000 entries pass end of file"; may be empty
	Err       error  // one of the sentinels, or the error of the Source
}

// Error gives the form "qcow2: L1 table at byte 0x30000: 9000 entries pass end
// of file: corrupt".
func (e *FormatError) Error() string {
	var b strings.Builder
	b.WriteString(e.Format)
	b.WriteString(": ")
	b.WriteString(e.Structure)
	if e.Offset >= 0 {
		b.WriteString(" at byte 0x")
		b.WriteString(strconv.FormatInt(e.Offset, 16))
	}
	if e.Got != "" {
		b.WriteString(": ")
		b.WriteString(e.Got)
	}
	if e.Err != nil {
		b.WriteString(": ")
		b.WriteString(e.Err.Error())
	}
	return b.String()
}

// Unwrap returns Err.
func (e *FormatError) Unwrap() error { return e.Err }

// A Header is what the fixed structures of an image say, before its tables are
// walked. The zero value is a file without structure: raw.
//
// Grid, Unit and Stride say where guest data lies in the file: slot k occupies
// Unit bytes from file offset Grid + k*Step(), and its first byte is at a guest
// offset that is a multiple of Unit. Which guest unit a slot holds, and whether
// it holds metadata instead, only the tables know. The three describe where
// most units of the image are; some may lie elsewhere.
type Header struct {
	// Format is qemu's name: raw, vmdk, qcow2, vdi, vpc, vhdx, parallels.
	Format string
	// Subformat tells variants apart in the format's own words:
	// monolithicSparse, streamOptimized, dynamic, fixed, v3. May be empty.
	Subformat string
	// VirtualSize is the guest's disk in bytes; for one extent of a split disk
	// that extent's share. 0: the header does not say.
	VirtualSize int64
	// Unit is the cluster, grain or block in bytes, or, where the format
	// aligns blocks to less than their size, that alignment; 0: none.
	Unit int64
	// Grid is the file offset of the first unit modulo Unit, so that it is 0
	// when units are aligned to the start of the file. With a Stride it is
	// the file offset of the first unit.
	Grid int64
	// Stride is the distance in bytes between the starts of neighbouring units
	// where the format puts something between them; 0: Unit.
	Stride int64
	// Compressed: guest data is stored compressed, so that Grid says nothing.
	Compressed bool
	// ParentHint is the name of the parent as stored: untrusted, perhaps
	// absolute, perhaps of another system. Empty: the header names none.
	ParentHint string
}

// Step is the distance in bytes between neighbouring units: Stride, or Unit
// where units follow each other.
func (h *Header) Step() int64 {
	if h.Stride != 0 {
		return h.Stride
	}
	return h.Unit
}

// A Format recognises and opens one disk format. Implementations have no state
// and may be used from several goroutines.
type Format interface {
	// Name is qemu's name of the format.
	Name() string
	// Probe reads the fixed structures of src. It returns ErrNotFormat (and a
	// nil Header) when the magic is not there. After the magic matched it
	// returns ErrCorrupt or ErrUnsupported, in a FormatError, with a Header
	// that holds at least Format. Errors of src itself are returned wrapped
	// in a FormatError and are neither. It keeps no reference to src.
	Probe(src Source) (*Header, error)
	// Open reads what is needed to map the image. src, and what o.Find
	// returned, must stay open for as long as the Image is used. Errors are
	// those of Probe and of o.Find.
	Open(src Source, o OpenOptions) (*Image, error)
}

// Probe asks each format of list in turn and returns the first answer that is
// not ErrNotFormat: a Header, or the error of the format that claimed src with
// a Header that holds at least Format. When nothing claims src it returns
// nil and an error that is ErrNotFormat. An error of src stops the search.
func Probe(src Source, list []Format) (*Header, error) {
	for _, f := range list {
		h, err := f.Probe(src)
		if errors.Is(err, ErrNotFormat) {
			continue
		}
		if err != nil && h == nil {
			h = &Header{Format: f.Name()}
		}
		return h, err
	}
	return nil, fmt.Errorf("disk image: %w", ErrNotFormat)
}
