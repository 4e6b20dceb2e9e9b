package ova

import (
	"archive/zip"
	"bytes"
	"errors"
	"fmt"
	"io"
	"math"
	"strings"

	"tarvm/formats"
	"tarvm/ovf"
)

func isZip(head []byte) bool {
	return bytes.HasPrefix(head, []byte("PK\x03\x04")) || bytes.HasPrefix(head, []byte("PK\x05\x06"))
}

const zipEncrypted = 1 // flag bit 0

func (p *Package) openZip(src formats.Source) error {
	p.Container = Zip
	z, err := zip.NewReader(src, src.Size())
	if err != nil && !errors.Is(err, zip.ErrInsecurePath) {
		return fmt.Errorf("%w: zip: %w", ErrCorrupt, err)
	}
	if len(z.File) > maxMembers {
		return fmt.Errorf("%w: %d members", ErrLimit, len(z.File))
	}
	seen := make(map[string]bool)
	for _, f := range z.File {
		name, err := cleanName(strings.TrimRight(f.Name, "/"))
		if err != nil {
			return err
		}
		if f.Mode().IsDir() {
			continue
		}
		switch {
		case !f.Mode().IsRegular():
			return fmt.Errorf("%w: member %.200q is not a file", ovf.ErrUnsafe, f.Name)
		case seen[name]:
			return fmt.Errorf("%w: member %.200q is there twice", ErrCorrupt, name)
		case f.Flags&zipEncrypted != 0:
			return fmt.Errorf("%w: member %.200q is encrypted", ovf.ErrUnsupported, name)
		case f.UncompressedSize64 > math.MaxInt64/2:
			return fmt.Errorf("%w: member %.200q has %d bytes", ErrCorrupt, name, f.UncompressedSize64)
		}
		seen[name] = true
		size := int64(f.UncompressedSize64)
		c := &content{size: size}
		switch f.Method {
		case zip.Store:
			off, err := f.DataOffset()
			if err != nil {
				return fmt.Errorf("%w: zip: %.200q: %w", ErrCorrupt, name, err)
			}
			if f.CompressedSize64 != f.UncompressedSize64 || size > src.Size()-off {
				return fmt.Errorf("%w: zip: %.200q passes the end", ErrCorrupt, name)
			}
			c.at = io.NewSectionReader(src, off, size)
		case zip.Deflate:
			c.stream = func() (io.ReadCloser, error) {
				r, err := f.Open()
				if err != nil {
					return nil, fmt.Errorf("%w: zip: %w", ErrCorrupt, err)
				}
				return r, nil
			}
		default:
			return fmt.Errorf("%w: member %.200q has compression method %d", ovf.ErrUnsupported, name, f.Method)
		}
		p.Members = append(p.Members, Member{Name: f.Name, Path: name, Size: size, Time: f.Modified, content: c})
	}
	return nil
}
