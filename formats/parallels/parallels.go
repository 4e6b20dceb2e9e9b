package parallels

import (
	"errors"

	"tarvm/formats"
	"tarvm/formats/internal/parse"
)

// Name is qemu's name of the format.
const Name = "parallels"

// Format recognises and reads Parallels images. The zero value is ready.
type Format struct{}

// Name returns "parallels".
func (Format) Name() string { return Name }

// Probe implements formats.Format. It reads the header and up to 2 KiB of the
// table of a file, or a descriptor, which may have 1 MiB.
func (Format) Probe(src formats.Source) (*formats.Header, error) {
	m := parse.Image{Source: src, Format: Name}
	h, err := readHeader(m)
	if errors.Is(err, formats.ErrNotFormat) {
		d, err := readDescriptor(m)
		if errors.Is(err, formats.ErrNotFormat) {
			return nil, formats.ErrNotFormat
		}
		if err != nil {
			return &formats.Header{Format: Name, Subformat: bundleName}, err
		}
		g := d.generic()
		return &g, nil
	}
	if h == nil {
		return nil, err
	}
	if err != nil {
		return &formats.Header{Format: Name}, err
	}
	g, err := h.generic(m)
	return &g, err
}

// Open implements formats.Format. For a bundle, src is its descriptor, and
// o.Find is asked for all of its files.
func (Format) Open(src formats.Source, o formats.OpenOptions) (*formats.Image, error) {
	f, err := openFile(src, "", cacheBytes)
	if errors.Is(err, formats.ErrNotFormat) {
		return openBundle(src, o)
	}
	if err != nil {
		return nil, err
	}
	return &formats.Image{
		Header: f.generic, Map: f, Files: []formats.Source{src},
		Facts: append(f.facts(), f.extFacts()...), Problems: f.problems, Check: f.check,
	}, nil
}
