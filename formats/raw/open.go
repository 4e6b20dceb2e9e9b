package raw

import (
	"fmt"

	"tarvm/formats"
)

// Format opens disks without a format. The zero value is ready. It stands in no
// list of formats to ask, since anything can be a raw disk.
type Format struct{}

// Name returns "raw".
func (Format) Name() string { return Name }

// Probe claims nothing: it always answers formats.ErrNotFormat.
func (Format) Probe(formats.Source) (*formats.Header, error) {
	return nil, fmt.Errorf("raw disk: %w", formats.ErrNotFormat)
}

// Open implements formats.Format. Every source is a raw disk.
func (Format) Open(src formats.Source, _ formats.OpenOptions) (*formats.Image, error) {
	return &formats.Image{Header: *Header(src), Map: NewMapper(src), Files: []formats.Source{src}}, nil
}
