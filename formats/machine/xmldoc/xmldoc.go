// Package xmldoc reads configurations that are XML: as a tree that keeps comments, order and white space, for programs
// that change a part of it and leave the rest as it was.
//
// Encodings: UTF-8, UTF-16 with a byte order mark or a declaration, ISO-8859-1, windows-1252, US-ASCII. What is written
// is UTF-8.
//
// # Security
//
// Refused are document types (and with them entities of a document's own), depths and sizes beyond a limit, attributes
// that are there twice, and anything behind the root element. Nothing that a document names is opened.
package xmldoc

import (
	"bytes"
	"encoding/binary"
	"encoding/xml"
	"errors"
	"fmt"
	"io"
	"strings"
	"unicode/utf16"
	"unicode/utf8"

	"github.com/beevik/etree"

	"tarvm/formats/machine"
)

const (
	maxDepth    = 700     // of elements: VirtualBox nests up to 300 media, and 250 snapshots two levels each
	maxElements = 500_000 // in one document; seen: 30,000, in an envelope with 900 properties
	maxAttrs    = 1000    // of one element; seen: 20
)

// Parse reads a document of at most limit bytes. Errors are *machine.SyntaxError with the form.
func Parse(form string, b []byte, limit int) (*etree.Document, error) {
	fail := func(line int, err error, format string, args ...any) (*etree.Document, error) {
		return nil, &machine.SyntaxError{Form: form, Line: line, Got: fmt.Sprintf(format, args...), Err: err}
	}
	if len(b) > limit {
		return fail(0, machine.ErrUnsupported, "%d bytes, limit %d", len(b), limit)
	}
	b, err := utf8Text(b)
	if err != nil {
		return fail(0, machine.ErrUnsupported, "%s", err)
	}
	if line, err := check(b); err != nil {
		if errors.Is(err, machine.ErrUnsupported) {
			return fail(line, machine.ErrUnsupported, "%s", strings.TrimSuffix(err.Error(), ": "+machine.ErrUnsupported.Error()))
		}
		return fail(line, machine.ErrSyntax, "%s", err)
	}
	doc := etree.NewDocument()
	doc.ReadSettings.CharsetReader = asIs
	doc.ReadSettings.PreserveCData = true
	if err := doc.ReadFromBytes(b); err != nil {
		return fail(0, machine.ErrSyntax, "%s", err)
	}
	if doc.Root() == nil {
		return fail(0, machine.ErrSyntax, "no element")
	}
	return doc, nil
}

// Root returns the name of a document's root element, without prefix, and its namespace, from the first bytes of the
// document. The name is empty if it is no XML, or if the root begins behind these bytes.
func Root(head []byte) (name, space string) {
	head, err := utf8Text(head)
	if err != nil {
		return "", ""
	}
	d := xml.NewDecoder(bytes.NewReader(head))
	d.CharsetReader = asIs
	for {
		t, err := d.Token()
		if err != nil {
			return "", ""
		}
		switch t := t.(type) {
		case xml.StartElement:
			return t.Name.Local, t.Name.Space
		case xml.CharData:
			if len(bytes.TrimSpace(t)) > 0 {
				return "", ""
			}
		}
	}
}

// Write returns the document as UTF-8 text. Line ends and tabs in attributes are written as references, because a reader
// would take them for spaces.
func Write(doc *etree.Document) ([]byte, error) {
	for _, t := range doc.Child {
		if p, ok := t.(*etree.ProcInst); ok && p.Target == "xml" {
			p.Inst = `version="1.0" encoding="UTF-8"`
		}
	}
	doc.WriteSettings.CanonicalAttrVal, doc.WriteSettings.CanonicalText = true, true
	return doc.WriteToBytes()
}

func asIs(_ string, r io.Reader) (io.Reader, error) { return r, nil }

// check walks the tokens and returns the line of what is wrong.
func check(b []byte) (int, error) {
	d := xml.NewDecoder(bytes.NewReader(b))
	d.CharsetReader = asIs
	depth, elements, roots := 0, 0, 0
	for {
		t, err := d.Token() // in strict mode: unknown entities and elements that do not match are errors
		line, _ := d.InputPos()
		if errors.Is(err, io.EOF) {
			if roots == 0 {
				return line, errors.New("no element")
			}
			return 0, nil
		}
		if err != nil {
			var s *xml.SyntaxError
			if errors.As(err, &s) {
				return s.Line, errors.New(s.Msg)
			}
			return line, err
		}
		switch t := t.(type) {
		case xml.Directive:
			return line, fmt.Errorf("document types and entities are refused: %w", machine.ErrUnsupported)
		case xml.StartElement:
			if depth == 0 {
				roots++
			}
			depth++
			elements++
			switch {
			case roots > 1:
				return line, fmt.Errorf("element %s behind the root element", t.Name.Local)
			case depth > maxDepth:
				return line, fmt.Errorf("elements in more than %d levels", maxDepth)
			case elements > maxElements:
				return line, fmt.Errorf("more than %d elements", maxElements)
			case len(t.Attr) > maxAttrs:
				return line, fmt.Errorf("more than %d attributes of %s", maxAttrs, t.Name.Local)
			}
			seen := make(map[xml.Name]bool, len(t.Attr))
			for _, a := range t.Attr {
				if seen[a.Name] {
					return line, fmt.Errorf("attribute %s of %s is there twice", a.Name.Local, t.Name.Local)
				}
				seen[a.Name] = true
			}
		case xml.EndElement:
			depth--
		case xml.CharData:
			if depth == 0 && len(bytes.TrimSpace(t)) > 0 {
				return line, errors.New("text outside of the root element")
			}
		}
	}
}

// utf8Text returns b as UTF-8 without a byte order mark.
func utf8Text(b []byte) ([]byte, error) {
	switch {
	case bytes.HasPrefix(b, []byte("\xef\xbb\xbf")):
		return valid(b[3:])
	case bytes.HasPrefix(b, []byte("\xff\xfe")):
		return wide(b[2:], binary.LittleEndian), nil
	case bytes.HasPrefix(b, []byte("\xfe\xff")):
		return wide(b[2:], binary.BigEndian), nil
	case bytes.HasPrefix(b, []byte("<\x00")):
		return wide(b, binary.LittleEndian), nil
	case bytes.HasPrefix(b, []byte("\x00<")):
		return wide(b, binary.BigEndian), nil
	}
	switch name := strings.ToLower(declared(b)); name {
	case "", "utf-8", "utf8", "us-ascii", "ascii":
		return valid(b)
	case "iso-8859-1", "latin1", "latin-1", "windows-1252", "cp1252":
		return Latin(b), nil
	default:
		return nil, fmt.Errorf("encoding %q", name)
	}
}

// valid refuses what is not UTF-8; characters that are cut at the end, as by reading a prefix, are dropped.
func valid(b []byte) ([]byte, error) {
	for n := 0; n < utf8.UTFMax && n < len(b); n++ {
		if utf8.Valid(b[:len(b)-n]) {
			return b[:len(b)-n], nil
		}
	}
	if len(b) == 0 {
		return b, nil
	}
	return nil, errors.New("it says UTF-8, and is not")
}

func wide(b []byte, order binary.ByteOrder) []byte {
	u := make([]uint16, len(b)/2)
	for i := range u {
		u[i] = order.Uint16(b[2*i:])
	}
	return []byte(string(utf16.Decode(u)))
}

// declared is the encoding in the XML declaration.
func declared(b []byte) string {
	rest, ok := bytes.CutPrefix(b, []byte("<?xml"))
	if !ok || len(rest) == 0 || !strings.ContainsRune(" \t\r\n", rune(rest[0])) {
		return ""
	}
	decl, _, ok := bytes.Cut(rest, []byte("?>"))
	if !ok {
		return ""
	}
	_, value, ok := bytes.Cut(decl, []byte("encoding"))
	if !ok {
		return ""
	}
	value = bytes.TrimLeft(value, " \t\r\n=")
	if len(value) == 0 || (value[0] != '"' && value[0] != '\'') {
		return ""
	}
	value, _, _ = bytes.Cut(value[1:], value[:1])
	return string(value)
}

// high is what windows-1252 has at 0x80 to 0x9f; the rest is that of ISO-8859-1. (The five that it leaves open are C1
// controls, as browsers have it.)
var high = [32]rune{
	0x20ac, 0x81, 0x201a, 0x0192, 0x201e, 0x2026, 0x2020, 0x2021, 0x02c6, 0x2030, 0x0160, 0x2039, 0x0152, 0x8d, 0x017d, 0x8f,
	0x90, 0x2018, 0x2019, 0x201c, 0x201d, 0x2022, 0x2013, 0x2014, 0x02dc, 0x2122, 0x0161, 0x203a, 0x0153, 0x9d, 0x017e, 0x0178,
}

// Latin returns text in windows-1252, or ISO-8859-1 without control characters, as UTF-8.
func Latin(b []byte) []byte {
	out := make([]byte, 0, len(b)+len(b)/16)
	for _, c := range b {
		r := rune(c)
		if c >= 0x80 && c < 0xa0 {
			r = high[c-0x80]
		}
		out = utf8.AppendRune(out, r)
	}
	return out
}
