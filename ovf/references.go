package ovf

import (
	"bytes"
	"encoding/xml"
	"fmt"
	"io"
	"net/url"
	"path"
	"strconv"
	"strings"

	"github.com/beevik/etree"
)

// A File is one File element of an envelope's References.
type File struct {
	ID          string
	Href        string // as it stands there
	Size        int64  // bytes; -1: it does not say
	Compression string // "", "identity" or "gzip"
	Chunk       int64  // size of the parts NAME.000000000 and on in which the file comes; 0: it comes whole
}

// Name returns the file's path relative to the package. Errors wrap ErrUnsafe for one that leads out of it, and
// ErrUnsupported for one on another host.
func (f File) Name() (string, error) {
	u, err := url.Parse(f.Href)
	if err != nil {
		// Spaces and percent signs that were not escaped: it is meant as it stands.
		u = &url.URL{Path: f.Href}
	}
	if u.Scheme == "file" && u.Host == "" {
		u.Path = strings.TrimPrefix(u.Path, "/")
	} else if u.Scheme != "" || u.Host != "" {
		return "", fmt.Errorf("%w: %q is not in the package", ErrUnsupported, f.Href)
	}
	p := path.Clean(u.Path)
	if u.Path == "" || path.IsAbs(p) || p == "." || p == ".." || strings.HasPrefix(p, "../") || strings.ContainsAny(p, "\x00\\") {
		return "", fmt.Errorf("%w: %q", ErrUnsafe, f.Href)
	}
	return p, nil
}

// MaxEnvelope is the largest envelope that is read, in bytes.
const MaxEnvelope = 64 << 20

// ReadReferences returns the files that an envelope lists, in its order. Errors wrap ErrSyntax or are the reader's.
func ReadReferences(r io.Reader) ([]File, error) {
	b, err := io.ReadAll(io.LimitReader(r, MaxEnvelope+1))
	if err != nil {
		return nil, err
	}
	if len(b) > MaxEnvelope {
		return nil, fmt.Errorf("%w: envelope of more than %d bytes", ErrSyntax, MaxEnvelope)
	}
	if err := checkDepth(b); err != nil {
		return nil, err
	}
	doc := etree.NewDocument()
	if err := doc.ReadFromBytes(b); err != nil {
		return nil, fmt.Errorf("%w: envelope: %w", ErrSyntax, err)
	}
	root := doc.Root()
	if root == nil || root.Tag != "Envelope" {
		return nil, fmt.Errorf("%w: no Envelope", ErrSyntax)
	}
	var files []File
	for _, refs := range root.ChildElements() {
		if refs.Tag != "References" {
			continue
		}
		for _, e := range refs.ChildElements() {
			if e.Tag != "File" {
				continue
			}
			f := File{ID: attr(e, "id"), Href: attr(e, "href"), Size: -1, Compression: attr(e, "compression")}
			if f.Href == "" {
				return nil, fmt.Errorf("%w: File %q without href", ErrSyntax, f.ID)
			}
			if s := attr(e, "size"); s != "" {
				if f.Size, err = number(s); err != nil {
					return nil, fmt.Errorf("%w: size of %q: %w", ErrSyntax, f.Href, err)
				}
			}
			if s := attr(e, "chunkSize"); s != "" {
				if f.Chunk, err = number(s); err != nil {
					return nil, fmt.Errorf("%w: chunkSize of %q: %w", ErrSyntax, f.Href, err)
				}
			}
			files = append(files, f)
		}
	}
	return files, nil
}

// maxDepth of elements; an envelope has about 10. etree has a stack of them.
const maxDepth = 1000

func checkDepth(b []byte) error {
	d := xml.NewDecoder(bytes.NewReader(b))
	d.CharsetReader = func(_ string, r io.Reader) (io.Reader, error) { return r, nil }
	d.Strict = false
	for n := 0; n <= maxDepth; {
		t, err := d.RawToken()
		if err != nil {
			return nil // the reader behind this says what it is
		}
		switch t.(type) {
		case xml.StartElement:
			n++
		case xml.EndElement:
			n--
		}
	}
	return fmt.Errorf("%w: elements in more than %d levels", ErrSyntax, maxDepth)
}

func number(s string) (int64, error) {
	n, err := strconv.ParseInt(strings.TrimSpace(s), 10, 64)
	if err == nil && n < 0 {
		err = fmt.Errorf("%d is negative", n)
	}
	return n, err
}

// attr returns an attribute by its name in any namespace: 0.9 has them in none.
func attr(e *etree.Element, name string) string {
	for _, a := range e.Attr {
		if a.Key == name {
			return a.Value
		}
	}
	return ""
}
