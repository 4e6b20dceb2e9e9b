package raw

import (
	"fmt"
	"io"

	"tarvm/formats"
)

// Name is qemu's name of the format.
const Name = "raw"

// Header describes src as a raw disk.
func Header(src formats.Source) *formats.Header {
	return &formats.Header{Format: Name, VirtualSize: src.Size()}
}

// Sparse is what a Source implements that knows its holes.
type Sparse interface {
	// DataAt returns the first run of data [start, end) that ends behind off,
	// clipped to begin at off. Without one, start and end are the Size. What
	// lies outside the runs reads as zero.
	DataAt(off int64) (start, end int64, err error)
}

// Mapper maps a raw disk: data, and holes where the Source tells them.
type Mapper struct {
	src    formats.Source
	sparse Sparse // nil: all is data
}

// NewMapper returns a Mapper of src, whose holes it asks for if src is Sparse.
func NewMapper(src formats.Source) *Mapper {
	sparse, _ := src.(Sparse)
	return &Mapper{src: src, sparse: sparse}
}

// Size implements formats.Mapper.
func (m *Mapper) Size() int64 { return m.src.Size() }

// MapAt implements formats.Mapper. A run starts at off.
func (m *Mapper) MapAt(off int64) (formats.Extent, error) {
	size := m.src.Size()
	if off < 0 || off >= size {
		return formats.Extent{}, io.EOF
	}
	if m.sparse == nil {
		return data(off, size), nil
	}
	start, end, err := m.sparse.DataAt(off)
	if err != nil {
		return formats.Extent{}, fmt.Errorf("raw: holes at byte 0x%x: %w", off, err)
	}
	start, end = min(start, size), min(end, size)
	if start > off {
		return formats.Extent{Offset: off, Length: start - off, Kind: formats.Hole}, nil
	}
	// A run that does not get on would make callers loop for ever.
	if start < off || end <= off {
		return formats.Extent{}, &formats.FormatError{
			Format: Name, Structure: "holes", Offset: off,
			Got: fmt.Sprintf("run from %d to %d", start, end), Err: formats.ErrCorrupt,
		}
	}
	return data(off, end), nil
}

func data(off, end int64) formats.Extent {
	return formats.Extent{Offset: off, Length: end - off, Kind: formats.Data, Host: off}
}
