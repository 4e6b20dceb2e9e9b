package formats

import (
	"io"
	"iter"
)

// Kind is the status of a run of guest bytes.
type Kind uint8

const (
	// Data: the bytes are in the file at Host, one for one.
	Data Kind = iota + 1
	// Compressed: the bytes come out of a compressed unit at Host.
	Compressed
	// Zero: recorded as zero; a parent is not asked.
	Zero
	// Hole: nothing is stored and there is no parent: reads as zero.
	Hole
	// Parent: nothing is stored here; the parent's bytes show through, and
	// zeros where the parent is shorter.
	Parent
)

// String returns the word used in listings: data, compressed, zero, hole,
// parent.
func (k Kind) String() string {
	switch k {
	case Data:
		return "data"
	case Compressed:
		return "compressed"
	case Zero:
		return "zero"
	case Hole:
		return "hole"
	case Parent:
		return "parent"
	}
	return "invalid"
}

// An Extent is a run of guest bytes with one status.
type Extent struct {
	Offset int64 // guest offset of the first byte
	Length int64 // bytes; positive
	Kind   Kind
	File   int   // which of the image's files Host is in, an index of Image.Files
	Host   int64 // file offset of the first byte (Data) or of the compressed unit (Compressed); else 0
	Stored int64 // Compressed: bytes of the unit in the file, or more where the format does not say exactly; else 0
	Depth  int   // how many parents down the bytes were found; 0: in this image
}

// End is the guest offset behind the last byte.
func (e Extent) End() int64 { return e.Offset + e.Length }

// A Mapper says where guest bytes lie: all that a disk format must supply. Its
// methods may be called from several goroutines at once.
type Mapper interface {
	// Size is the guest's disk in bytes.
	Size() int64
	// MapAt returns the run that holds guest offset off, as long as one
	// lookup tells: Offset <= off < End() <= Size(). Neighbouring runs may
	// have the same status. A Compressed run is one whole compressed unit,
	// clipped at Size. off outside [0, Size()) gives io.EOF.
	MapAt(off int64) (Extent, error)
}

// Info describes an open Disk.
type Info struct {
	Header
	// Depth is the number of parents in use below this image.
	Depth int
}

// A Disk is the guest's bytes, with parents and compression resolved. Its
// methods may be called from several goroutines at once, Close excepted.
type Disk interface {
	Source
	// Info describes the topmost image.
	Info() Info
	// Extents yields the runs that tile [off, off+n) clipped to the disk, in
	// order, neighbours of one status merged where their bytes follow each
	// other in the file, too. It stops after the first error.
	Extents(off, n int64) iter.Seq2[Extent, error]
	Anticipator
	io.Closer
}

// An Anticipator reads with less work when it is told what will be read. Sources
// may be one.
type Anticipator interface {
	// Ahead returns where one reader says what it will read. nil: nobody wants to
	// know.
	Ahead() Ahead
}

// Ahead is told what one reader will read. What is said changes how much work
// reading is, and nothing else. It is for one goroutine, reads go on in others.
type Ahead interface {
	// Expect says that n bytes from off on will be read once, after all that was
	// expected before, or nearly so.
	Expect(off, n int64)
	// Close forgets what was expected and not read.
	Close()
}
