package xmldoc

import (
	"encoding/binary"
	"errors"
	"fmt"
	"strings"
	"testing"
	"unicode/utf16"

	"tarvm/formats/machine"
)

func utf16Text(s string, order binary.AppendByteOrder, mark bool) []byte {
	var b []byte
	if mark {
		b = order.AppendUint16(b, 0xfeff)
	}
	for _, u := range utf16.Encode([]rune(s)) {
		b = order.AppendUint16(b, u)
	}
	return b
}

func TestEncodings(t *testing.T) {
	const text = "<?xml version=\"1.0\"?>\n<a><!-- kept --><b c=\"für 2 €\"/></a>"
	for name, b := range map[string][]byte{
		"utf-8":                []byte(text),
		"utf-8 with mark":      []byte("\xef\xbb\xbf" + text),
		"utf-16le":             utf16Text(text, binary.LittleEndian, true),
		"utf-16be":             utf16Text(text, binary.BigEndian, true),
		"utf-16le, no mark":    utf16Text(text, binary.LittleEndian, false),
		"utf-16be, declared":   utf16Text(strings.Replace(text, "?>", " encoding='UTF-16'?>", 1), binary.BigEndian, true),
		"windows-1252":         []byte("<?xml version='1.0' encoding='windows-1252'?>\n<a><!-- kept --><b c=\"f\xfcr 2 \x80\"/></a>"),
		"declared iso-8859-1":  []byte("<?xml version=\"1.0\" encoding = \"ISO-8859-1\" ?><a><!-- kept --><b c=\"f\xfcr 2 &#x20ac;\"/></a>"),
		"declared in capitals": []byte(strings.Replace(text, "?>", " encoding=\"UTF-8\"?>", 1)),
	} {
		doc, err := Parse("test", b, 1000)
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if got := doc.FindElement("/a/b").SelectAttrValue("c", ""); got != "für 2 €" {
			t.Errorf("%s: %q", name, got)
		}
		out, err := Write(doc)
		if err != nil || !strings.Contains(string(out), "<!-- kept --><b c=\"für 2 €\"/>") {
			t.Errorf("%s: written as %q, %v", name, out, err)
		}
		if again, err := Parse("test", out, 1000); err != nil || again.Root().Tag != "a" {
			t.Errorf("%s: what was written: %v", name, err)
		}
		if root, _ := Root(b); root != "a" {
			t.Errorf("%s: root %q", name, root)
		}
	}
}

func TestRefused(t *testing.T) {
	for name, tc := range map[string]struct {
		text string
		line int
		says string
		err  error
	}{
		"empty":            {"", 1, "no element", machine.ErrSyntax},
		"only a comment":   {"<!-- -->", 1, "no element", machine.ErrSyntax},
		"doctype":          {"<!DOCTYPE a>\n<a/>", 1, "refused", machine.ErrUnsupported},
		"entity":           {"<!DOCTYPE a [<!ENTITY x \"y\">]><a>&x;</a>", 1, "refused", machine.ErrUnsupported},
		"unknown entity":   {"<a>\n&x;</a>", 2, "entity", machine.ErrSyntax},
		"second root":      {"<a/>\n<b/>", 2, "behind the root", machine.ErrSyntax},
		"text behind":      {"<a/>\nmore", 2, "outside", machine.ErrSyntax},
		"text in front":    {"x<a/>", 1, "outside", machine.ErrSyntax},
		"not closed":       {"<a><b></a>", 1, "closed by", machine.ErrSyntax},
		"cut":              {"<a><b>", 1, "EOF", machine.ErrSyntax},
		"twice":            {"<a>\n<b c='1' d='2' c='3'/></a>", 2, "twice", machine.ErrSyntax},
		"deep":             {strings.Repeat("<a>", 800) + strings.Repeat("</a>", 800), 1, "levels", machine.ErrSyntax},
		"many attributes":  {"<a" + manyAttributes(1200) + "/>", 1, "attributes", machine.ErrSyntax},
		"unknown encoding": {"<?xml version='1.0' encoding='EBCDIC'?><a/>", 0, "ebcdic", machine.ErrUnsupported},
		"not utf-8":        {"<a>\xff\xff\xff\xff\xff\xff</a>", 0, "UTF-8", machine.ErrUnsupported},
		"too long":         {"<a>" + strings.Repeat(" ", 100_000) + "</a>", 0, "limit", machine.ErrUnsupported},
	} {
		_, err := Parse("test", []byte(tc.text), 50_000)
		var s *machine.SyntaxError
		if !errors.As(err, &s) || !errors.Is(err, tc.err) || s.Line != tc.line || !strings.Contains(err.Error(), tc.says) {
			t.Errorf("%s: %v, want line %d, %q", name, err, tc.line, tc.says)
		}
	}
}

func manyAttributes(n int) string {
	var b strings.Builder
	for i := range n {
		fmt.Fprintf(&b, " a%d='1'", i)
	}
	return b.String()
}

func FuzzParse(f *testing.F) {
	for _, s := range []string{"<a/>", "<?xml version='1.0' encoding='latin1'?><a b='\xfc'>x<![CDATA[y]]><!--z--></a>", "\xff\xfe<\x00a\x00/\x00>\x00"} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		Root(b)
		doc, err := Parse("test", b, 1<<16)
		if err != nil {
			return
		}
		out, err := Write(doc)
		if err != nil {
			t.Fatal(err)
		}
		again, err := Parse("test", out, 1<<20)
		if err != nil {
			t.Fatalf("%v: %q", err, out)
		}
		if out2, err := Write(again); err != nil || string(out2) != string(out) {
			t.Fatalf("%q then %q, %v", out, out2, err)
		}
	})
}
