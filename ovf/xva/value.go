package xva

import (
	"bytes"
	"fmt"
	"strconv"
	"strings"

	"github.com/beevik/etree"

	"tarvm/formats/machine"
	"tarvm/formats/machine/xmldoc"
)

// A value is one of XML-RPC. Methods that look into it take nil for a value that is not there.
type value struct {
	// kind is the element in the value element: string, int, i4, i8, double, boolean, dateTime.iso8601, base64, nil,
	// struct or array. Empty: text without an element, as xapi writes strings and numbers of 64 bits.
	kind    string
	text    string
	members []member
	items   []*value
}

type member struct {
	name  string
	value *value
}

// parseValue reads a document whose root is a value.
func parseValue(b []byte) (*value, error) {
	doc, err := xmldoc.Parse(form, b, machine.MaxConfig)
	if err != nil {
		return nil, err
	}
	root := doc.Root()
	if root.Tag == "appliance" {
		return nil, syntax("ova.xml", "root element appliance: the form of XenServer 3", machine.ErrUnsupported)
	}
	if root.Tag != "value" {
		return nil, syntax("ova.xml", fmt.Sprintf("root element %s, and not value", root.Tag), machine.ErrSyntax)
	}
	return fromElement(root)
}

func fromElement(e *etree.Element) (*value, error) {
	kids := e.ChildElements()
	switch len(kids) {
	case 0:
		return &value{text: content(e)}, nil
	case 1:
		if strings.TrimSpace(content(e)) != "" {
			return nil, syntax("value", "text beside an element", machine.ErrSyntax)
		}
	default:
		return nil, syntax("value", fmt.Sprintf("%d elements in one", len(kids)), machine.ErrSyntax)
	}
	k := kids[0]
	v := &value{kind: k.Tag}
	switch k.Tag {
	case "struct":
		seen := map[string]bool{}
		for _, m := range k.ChildElements() {
			name, val := m.SelectElement("name"), m.SelectElement("value")
			if m.Tag != "member" || name == nil || val == nil || len(m.ChildElements()) != 2 {
				return nil, syntax("struct", "a member is a name and a value", machine.ErrSyntax)
			}
			w, err := fromElement(val)
			if err != nil {
				return nil, err
			}
			label := content(name)
			if seen[label] {
				return nil, syntax("struct", fmt.Sprintf("member %q is there twice", label), machine.ErrSyntax)
			}
			seen[label] = true
			v.members = append(v.members, member{label, w})
		}
	case "array":
		data := k.ChildElements()
		if len(data) != 1 || data[0].Tag != "data" {
			return nil, syntax("array", "an array is one element data", machine.ErrSyntax)
		}
		for _, item := range data[0].ChildElements() {
			if item.Tag != "value" {
				return nil, syntax("array", fmt.Sprintf("element %s, and not value", item.Tag), machine.ErrSyntax)
			}
			w, err := fromElement(item)
			if err != nil {
				return nil, err
			}
			v.items = append(v.items, w)
		}
	case "string", "int", "i4", "i8", "double", "boolean", "dateTime.iso8601", "base64", "nil":
		if len(k.ChildElements()) > 0 {
			return nil, syntax(k.Tag, "an element in it", machine.ErrSyntax)
		}
		v.text = content(k)
	default:
		return nil, syntax("value", fmt.Sprintf("type %s", k.Tag), machine.ErrSyntax)
	}
	return v, nil
}

// content is all the text that is directly in an element, comments left out.
func content(e *etree.Element) string {
	var b strings.Builder
	for _, t := range e.Child {
		if c, ok := t.(*etree.CharData); ok {
			b.WriteString(c.Data)
		}
	}
	return b.String()
}

// xml returns the document, as xapi writes it: without white space between elements.
func (v *value) xml() []byte {
	var b bytes.Buffer
	b.WriteString("<?xml version=\"1.0\"?>\n")
	v.write(&b)
	return b.Bytes()
}

func (v *value) write(b *bytes.Buffer) {
	b.WriteString("<value>")
	switch v.kind {
	case "":
		escape(b, v.text)
	case "struct":
		b.WriteString("<struct>")
		for _, m := range v.members {
			b.WriteString("<member><name>")
			escape(b, m.name)
			b.WriteString("</name>")
			m.value.write(b)
			b.WriteString("</member>")
		}
		b.WriteString("</struct>")
	case "array":
		b.WriteString("<array><data>")
		for _, i := range v.items {
			i.write(b)
		}
		b.WriteString("</data></array>")
	default:
		b.WriteString("<" + v.kind + ">")
		escape(b, v.text)
		b.WriteString("</" + v.kind + ">")
	}
	b.WriteString("</value>")
}

// escape writes text; characters that XML does not have become U+FFFD.
func escape(b *bytes.Buffer, s string) {
	for _, r := range s {
		switch {
		case r == '&':
			b.WriteString("&amp;")
		case r == '<':
			b.WriteString("&lt;")
		case r == '>':
			b.WriteString("&gt;")
		case r == '"':
			b.WriteString("&quot;")
		case r == '\r':
			b.WriteString("&#13;") // a parser would make \n of it
		case r == '\t' || r == '\n' || r >= 0x20 && r != 0xfffe && r != 0xffff:
			b.WriteRune(r)
		default:
			b.WriteRune(0xfffd)
		}
	}
}

// get returns a member of a struct, or nil.
func (v *value) get(name string) *value {
	if v == nil {
		return nil
	}
	for _, m := range v.members {
		if m.name == name {
			return m.value
		}
	}
	return nil
}

// str returns the text of a member, or nothing.
func (v *value) str(name string) string {
	if w := v.get(name); w != nil {
		return w.text
	}
	return ""
}

// yes returns the meaning of a member that is a boolean, or a text that xapi takes for one.
func (v *value) yes(name string) machine.Switch {
	switch strings.ToLower(strings.TrimSpace(v.str(name))) {
	case "1", "true":
		return machine.On
	case "0", "false":
		return machine.Off
	}
	return machine.Unsaid
}

// number returns a member that is a number from 0 up to limit, or 0 where there is none.
func (v *value) number(name string, limit int64) (int64, error) {
	s := strings.TrimSpace(v.str(name))
	if s == "" {
		return 0, nil
	}
	n, err := strconv.ParseInt(s, 10, 64)
	if err != nil || n < 0 || n > limit {
		return 0, syntax(name, fmt.Sprintf("%q is no number from 0 to %d", s, limit), machine.ErrSyntax)
	}
	return n, nil
}

// set changes a member of a struct, or adds it at the end.
func (v *value) set(name string, w *value) {
	for i := range v.members {
		if v.members[i].name == name {
			v.members[i].value = w
			return
		}
	}
	v.members = append(v.members, member{name, w})
}

// setText sets a member to text. One that is there keeps its type where that can hold it.
func (v *value) setText(name, text string) {
	kind := ""
	if w := v.get(name); w != nil && w.kind != "struct" && w.kind != "array" && w.kind != "nil" {
		kind = w.kind
	}
	v.set(name, &value{kind: kind, text: text})
}

func (v *value) setNumber(name string, n int64) { v.setText(name, strconv.FormatInt(n, 10)) }

// table returns a member that is a struct, and makes it if there is none.
func (v *value) table(name string) *value {
	w := v.get(name)
	if w == nil || w.kind != "struct" {
		w = fields()
		v.set(name, w)
	}
	return w
}

// drop removes a member, if it is there.
func (v *value) drop(name string) {
	if v == nil {
		return
	}
	for i := range v.members {
		if v.members[i].name == name {
			v.members = append(v.members[:i], v.members[i+1:]...)
			return
		}
	}
}

func (v *value) clone() *value {
	c := &value{kind: v.kind, text: v.text}
	for _, m := range v.members {
		c.members = append(c.members, member{m.name, m.value.clone()})
	}
	for _, i := range v.items {
		c.items = append(c.items, i.clone())
	}
	return c
}

// text, number, flag, real, when, array and fields make values.
func text(s string) *value { return &value{text: s} }

func number(n int64) *value { return &value{text: strconv.FormatInt(n, 10)} }

func flag(on bool) *value {
	if on {
		return &value{kind: "boolean", text: "1"}
	}
	return &value{kind: "boolean", text: "0"}
}

func real(s string) *value { return &value{kind: "double", text: s} }

func when(s string) *value { return &value{kind: "dateTime.iso8601", text: s} }

func array(texts ...string) *value {
	v := &value{kind: "array"}
	for _, t := range texts {
		v.items = append(v.items, text(t))
	}
	return v
}

func fields(m ...member) *value { return &value{kind: "struct", members: m} }

func syntax(what, got string, err error) error {
	return &machine.SyntaxError{Form: form, What: what, Got: got, Err: err}
}
