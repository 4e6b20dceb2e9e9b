package ovf

import (
	"errors"
	"fmt"
	"io"
	"net/url"
	"path"
	"strconv"
	"strings"

	"github.com/beevik/etree"

	"tarvm/formats/machine"
	"tarvm/formats/machine/xmldoc"
)

// A File is one File element of an envelope's References.
type File struct {
	ID          string `json:"id"`
	Href        string `json:"href"`                  // as it stands there
	Size        int64  `json:"size"`                  // bytes; -1: it does not say
	Compression string `json:"compression,omitempty"` // "", "identity" or "gzip"
	Chunk       int64  `json:"chunk,omitempty"`       // size of the parts NAME.000000000 and on in which the file comes; 0: it comes whole
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

// MaxEnvelope is the largest envelope that is read, in bytes. Of nearly a thousand that other programs wrote the largest
// has 1 MiB. The tree that is built of it takes up to 20 times as much.
const MaxEnvelope = machine.MaxConfig

// ReadReferences returns the files that an envelope lists, in its order. It reads nothing else of the envelope. Errors
// wrap ErrSyntax or are the reader's.
func ReadReferences(r io.Reader) ([]File, error) {
	b, err := io.ReadAll(io.LimitReader(r, MaxEnvelope+1))
	if err != nil {
		return nil, err
	}
	root, err := parse(b)
	if err != nil {
		return nil, err
	}
	return decodeFiles(root)
}

// parse returns the root element of an envelope. Errors wrap ErrSyntax and are a *machine.SyntaxError.
func parse(b []byte) (*etree.Element, error) {
	doc, err := xmldoc.Parse(form, b, MaxEnvelope)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrSyntax, err)
	}
	if root := doc.Root(); root.Tag == "Envelope" {
		return root, nil
	}
	return nil, invalid("", "its root is %.60q, not Envelope", doc.Root().Tag)
}

// form is the name of the form in errors and Origins.
const form = "ovf"

// invalid returns an error that wraps ErrSyntax and is a *machine.SyntaxError.
func invalid(what, format string, args ...any) error {
	return fmt.Errorf("%w: %w", ErrSyntax,
		&machine.SyntaxError{Form: form, What: what, Got: fmt.Sprintf(format, args...), Err: machine.ErrSyntax})
}

func decodeFiles(root *etree.Element) ([]File, error) {
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
				return nil, invalid("File", "%.60q has no href", f.ID)
			}
			var err error
			if s := attr(e, "size"); s != "" {
				if f.Size, err = number(s); err != nil {
					return nil, invalid("File", "size of %.60q: %v", f.Href, err)
				}
			}
			if s := attr(e, "chunkSize"); s != "" {
				if f.Chunk, err = number(s); err != nil {
					return nil, invalid("File", "chunkSize of %.60q: %v", f.Href, err)
				}
			}
			files = append(files, f)
		}
	}
	return files, nil
}

// number reads a number of at least 0 in decimal digits. etree has the text; XML Schema allows white space around it.
func number(s string) (int64, error) {
	n, err := strconv.ParseInt(strings.TrimSpace(s), 10, 64)
	if errors.Is(err, strconv.ErrRange) {
		return 0, fmt.Errorf("%.40q is too large", s)
	}
	if err != nil {
		return 0, fmt.Errorf("%.40q is no number", s)
	}
	if n < 0 {
		return 0, fmt.Errorf("%d is negative", n)
	}
	return n, nil
}

// attr returns an attribute by its name in any namespace: 0.9 has them in none. xsi:type and the declarations of
// namespaces are none of the envelope's.
func attr(e *etree.Element, name string) string {
	if a := attribute(e, name); a != nil {
		return a.Value
	}
	return ""
}

func attribute(e *etree.Element, name string) *etree.Attr {
	for i := range e.Attr {
		if a := &e.Attr[i]; a.Key == name && a.Space != "xmlns" && a.Space != "xsi" {
			return a
		}
	}
	return nil
}
