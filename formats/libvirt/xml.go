package libvirt

import (
	"strconv"
	"strings"

	"github.com/beevik/etree"
)

// etree's own lookups take an element or attribute of any prefix for one without: these take only those without.

// child returns the first child of that name, or nil, also if e is nil.
func child(e *etree.Element, tag string) *etree.Element {
	if e == nil {
		return nil
	}
	for _, t := range e.Child {
		if c, ok := t.(*etree.Element); ok && c.Tag == tag && c.Space == "" {
			return c
		}
	}
	return nil
}

// children returns all children of that name.
func children(e *etree.Element, tag string) []*etree.Element {
	if e == nil {
		return nil
	}
	var list []*etree.Element
	for _, t := range e.Child {
		if c, ok := t.(*etree.Element); ok && c.Tag == tag && c.Space == "" {
			list = append(list, c)
		}
	}
	return list
}

// down follows names from e and returns the element, or nil.
func down(e *etree.Element, tags ...string) *etree.Element {
	for _, t := range tags {
		e = child(e, t)
	}
	return e
}

// attr returns an attribute, or "", also if e is nil.
func attr(e *etree.Element, key string) string {
	v, _ := lookup(e, key)
	return v
}

func lookup(e *etree.Element, key string) (string, bool) {
	if e == nil {
		return "", false
	}
	for _, a := range e.Attr {
		if a.Key == key && a.Space == "" {
			return a.Value, true
		}
	}
	return "", false
}

// text is all character data in e, also on both sides of a comment, as XPath's string() has it.
func text(e *etree.Element) string {
	if e == nil {
		return ""
	}
	var b strings.Builder
	for _, t := range e.Child {
		if c, ok := t.(*etree.CharData); ok {
			b.WriteString(c.Data)
		}
	}
	return b.String()
}

func word(e *etree.Element) string { return strings.TrimSpace(text(e)) }

// setText replaces all character data in e.
func setText(e *etree.Element, s string) {
	for i := len(e.Child) - 1; i >= 0; i-- {
		if _, ok := e.Child[i].(*etree.CharData); ok {
			e.RemoveChildAt(i)
		}
	}
	if s != "" {
		e.InsertChildAt(0, etree.NewText(s))
	}
}

// setAttr sets an attribute, or removes it if value is empty.
func setAttr(e *etree.Element, key, value string) {
	if value == "" {
		e.RemoveAttr(key)
		return
	}
	e.CreateAttr(key, value)
}

// ensure returns the child of that name, and adds it behind the others if there is none.
func ensure(e *etree.Element, tag string) *etree.Element {
	if c := child(e, tag); c != nil {
		return c
	}
	return add(e, tag)
}

// add adds a child behind the others.
func add(e *etree.Element, tag string) *etree.Element {
	c := etree.NewElement(tag)
	insert(e, c, nil)
	return c
}

// insert puts c behind after, or behind the last child of e if after is nil, with the white space that e has in front of
// its other children.
func insert(e, c, after *etree.Element) {
	at, first := 0, true
	sep, known := "", false
	for i, t := range e.Child {
		switch t := t.(type) {
		case *etree.Element:
			first = false
			if !known && i > 0 {
				sep, known = before(t), true
			}
			at = i + 1
		case *etree.CharData:
			if !blank(t) {
				known, at = true, i+1
			}
		default:
			at = i + 1
		}
	}
	if after != nil {
		at = after.Index() + 1
	}
	if !known {
		sep = indent(e, 1)
	}
	if sep != "" {
		e.InsertChildAt(at, etree.NewText(sep))
		at++
	}
	e.InsertChildAt(at, c)
	if first && !known && sep != "" && at == len(e.Child)-1 {
		e.AddChild(etree.NewText(indent(e, 0)))
	}
}

// before is the white space in front of an element.
func before(c *etree.Element) string {
	if i := c.Index(); i > 0 {
		if w, ok := c.Parent().Child[i-1].(*etree.CharData); ok && blank(w) {
			return w.Data
		}
	}
	return ""
}

// blank tells whether a text is white space alone. (etree's flag is that of the parser.)
func blank(c *etree.CharData) bool { return !c.IsCData() && strings.TrimSpace(c.Data) == "" }

// indent is the white space in front of an element that is more levels below e, or nothing in a document that has none.
func indent(e *etree.Element, more int) string {
	depth := more
	for e.Parent() != nil && e.Parent().Parent() != nil {
		e = e.Parent()
		depth++
	}
	if len(e.Child) > 0 {
		if w, ok := e.Child[0].(*etree.CharData); !ok || !blank(w) {
			return ""
		}
	}
	return "\n" + strings.Repeat("  ", depth)
}

// drop removes an element and the white space in front of it.
func drop(c *etree.Element) {
	if c == nil || c.Parent() == nil {
		return
	}
	e, i := c.Parent(), c.Index()
	e.RemoveChildAt(i)
	if i > 0 {
		if w, ok := e.Child[i-1].(*etree.CharData); ok && blank(w) {
			e.RemoveChildAt(i - 1)
		}
	}
	for _, t := range e.Child {
		if w, ok := t.(*etree.CharData); !ok || !blank(w) {
			return
		}
	}
	for len(e.Child) > 0 {
		e.RemoveChildAt(0)
	}
}

// prune removes an element that says nothing any more.
func prune(c *etree.Element) {
	if c != nil && len(c.Attr) == 0 && len(c.Child) == 0 {
		drop(c)
	}
}

// clear empties an element but for some attributes.
func clear(e *etree.Element, keep ...string) {
	for len(e.Child) > 0 {
		e.RemoveChildAt(0)
	}
	var kept []etree.Attr
	for _, k := range keep {
		if v, ok := lookup(e, k); ok {
			kept = append(kept, etree.Attr{Key: k, Value: v})
		}
	}
	e.Attr = nil
	for _, a := range kept {
		e.CreateAttr(a.Key, a.Value)
	}
}

func itoa(n int) string { return strconv.Itoa(n) }
