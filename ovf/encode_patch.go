package ovf

import (
	"slices"
	"strconv"
	"strings"

	"github.com/beevik/etree"
)

// A patcher carries what differs between two renderings of an envelope over to the document: all else in it stays as it
// is, with comments, order and white space.
type patcher struct {
	src *decoder
}

// merge changes dst, the element in the document, as old became new.
func (p *patcher) merge(dst, old, new *etree.Element) {
	for _, a := range new.Attr {
		if a.Space == "xmlns" || a.Key == "xmlns" {
			continue
		}
		if was := attribute(old, a.Key); was == nil || was.Value != a.Value {
			p.set(dst, new, a)
			// A number and its units are one value.
			if a.Key == "capacity" {
				if u := attribute(new, "capacityAllocationUnits"); u != nil {
					p.set(dst, new, *u)
				}
			}
		}
	}
	for _, a := range old.Attr {
		if a.Space == "xmlns" || a.Key == "xmlns" || attribute(new, a.Key) != nil {
			continue
		}
		if have := attribute(dst, a.Key); have != nil {
			dst.RemoveAttr(have.FullKey())
		}
	}
	if s := text(new); s != text(old) && len(new.ChildElements()) == 0 {
		setText(dst, s)
	}
	was, is := keyed(old), keyed(new)
	have := p.document(dst)
	var last *etree.Element // what stands in the document for the child before
	units := false
	for i, k := range is.order {
		n := is.by[k]
		o, d := was.by[k], have[k]
		switch {
		case n.Tag == placeholder: // it is in the document, or what it says is not known
		case o == nil && d == nil, o != nil && d == nil && !same(o, n):
			d = transplant(n, root(dst))
			p.insert(dst, d, last, is.order[i+1:], have)
			have[k] = d
		case o == nil:
			// It came to be, and the document has one that was not read as such.
			p.merge(d, etree.NewElement(n.Tag), n)
		case d != nil && !same(o, n):
			p.merge(d, o, n)
			units = units || n.Tag == "VirtualQuantity"
		}
		if d != nil {
			last = d
		}
	}
	for _, k := range was.order {
		if d := have[k]; d != nil && is.by[k] == nil {
			remove(dst, d)
		}
	}
	if u := child(new, "AllocationUnits"); units && u != nil {
		if d := child(dst, "AllocationUnits"); d != nil {
			setText(d, text(u))
		}
	}
}

// set sets an attribute, by the name that it has in dst.
func (p *patcher) set(dst, new *etree.Element, a etree.Attr) {
	if have := attribute(dst, a.Key); have != nil {
		have.Value = a.Value
		return
	}
	key := a.Key
	if a.Space != "" && !(p.src.e.Version == "0.9" && a.Space == "ovf" && bare(dst)) {
		key = prefix(root(dst), space(new, a.Space), a.Space, true) + ":" + key
	}
	dst.CreateAttr(key, a.Value)
}

// bare reports whether an element has attributes without a prefix: 0.9 may have them so.
func bare(e *etree.Element) bool {
	for _, a := range e.Attr {
		if a.Space == "" && a.Key != "xmlns" {
			return true
		}
	}
	return false
}

// insert adds d behind last, or in front of the first of the following that are there, or at the end.
func (p *patcher) insert(dst, d, last *etree.Element, following []string, have map[string]*etree.Element) {
	at := len(dst.Child)
	if last != nil {
		at = last.Index() + 1
	} else {
		for _, k := range following {
			if n := have[k]; n != nil {
				at = n.Index()
				break
			}
		}
	}
	// The white space in front of a sibling, for those who read it.
	space := ""
	for _, c := range dst.Child {
		if t, ok := c.(*etree.CharData); ok && strings.TrimSpace(t.Data) == "" {
			space = t.Data
			break
		}
	}
	if last == nil && at < len(dst.Child) {
		dst.InsertChildAt(at, d)
		dst.InsertChildAt(at+1, etree.NewText(space))
		return
	}
	for last == nil && at > 0 {
		t, ok := dst.Child[at-1].(*etree.CharData)
		if !ok || strings.TrimSpace(t.Data) != "" {
			break
		}
		at--
	}
	dst.InsertChildAt(at, d)
	if space != "" {
		dst.InsertChildAt(at, etree.NewText(space))
	}
}

func remove(from, d *etree.Element) {
	if i := d.Index(); i > 0 && d.Parent() == from {
		if t, ok := from.Child[i-1].(*etree.CharData); ok && strings.TrimSpace(t.Data) == "" {
			from.RemoveChildAt(i - 1)
		}
	}
	from.RemoveChild(d)
}

func setText(e *etree.Element, s string) {
	e.Child = slices.DeleteFunc(e.Child, func(t etree.Token) bool { _, ok := t.(*etree.CharData); return ok })
	e.ReindexChildren()
	e.InsertChildAt(0, etree.NewText(s))
}

// same reports whether two renderings are equal.
func same(a, b *etree.Element) bool {
	if a.Tag != b.Tag || len(a.Attr) != len(b.Attr) || len(a.Child) != len(b.Child) {
		return false
	}
	for i := range a.Attr {
		if a.Attr[i].Key != b.Attr[i].Key || a.Attr[i].Value != b.Attr[i].Value {
			return false
		}
	}
	for i := range a.Child {
		switch x := a.Child[i].(type) {
		case *etree.Element:
			if y, ok := b.Child[i].(*etree.Element); !ok || !same(x, y) {
				return false
			}
		case *etree.CharData:
			if y, ok := b.Child[i].(*etree.CharData); !ok || x.Data != y.Data {
				return false
			}
		}
	}
	return true
}

// children are those of an element by what tells them apart.
type children struct {
	by    map[string]*etree.Element
	order []string
}

func keyed(e *etree.Element) children {
	c := children{by: map[string]*etree.Element{}}
	n := map[string]int{}
	for _, t := range e.Child {
		el, ok := t.(*etree.Element)
		if !ok {
			continue
		}
		k := unique(n, identity(e, el))
		c.by[k] = el
		c.order = append(c.order, k)
	}
	return c
}

func unique(n map[string]int, k string) string {
	n[k]++
	if n[k] > 1 {
		return k + "\x00+" + strconv.Itoa(n[k])
	}
	return k
}

// identity is what an element is known by among its siblings.
func identity(parent, e *etree.Element) string {
	k := kind(e)
	id := func(names ...string) string {
		for _, n := range names {
			k += "\x00" + attr(e, n)
		}
		return k
	}
	switch k {
	case placeholder:
		return attr(e, "name")
	case "File":
		return id("id", "fileRef", "path")
	case "Disk", "SharedDisk":
		k = "Disk"
		return id("diskId")
	case "Network":
		if attribute(e, "name") == nil {
			return k
		}
		return id("name")
	case "Configuration", "VirtualSystem", "VirtualSystemCollection":
		return id("id")
	case "Property":
		return id("key", "configuration")
	case "Value":
		return id("configuration")
	case "Config", "ExtraConfig":
		return id("key")
	case "Adapter", "Port":
		return id("slot")
	case "Order":
		return id("position")
	case "StorageController":
		return id("name")
	case "AttachedDevice":
		return id("port", "device")
	case "Msg":
		return id("msgid")
	case "Item", "StorageItem", "EthernetPortItem":
		k = "Item"
		switch kind(parent) {
		case "StartupSection":
			return id("id")
		case "VirtualHardwareSection":
			i := child(e, "InstanceID")
			return k + "\x00" + word(i)
		}
	}
	return k
}

// document returns the children of an element of the document. An Item is known by what its part of the machine has as its
// identity: others, of other deployment options, may have the same InstanceID.
func (p *patcher) document(dst *etree.Element) map[string]*etree.Element {
	have := map[string]*etree.Element{}
	if kind(dst) == "VirtualHardwareSection" {
		for _, got := range p.src.systems {
			if got.hardware != dst {
				continue
			}
			for key, el := range got.items {
				have["Item\x00"+key] = el
			}
			break
		}
	}
	n := map[string]int{}
	for _, el := range dst.ChildElements() {
		k := identity(dst, el)
		if strings.HasPrefix(k, "Item\x00") && kind(dst) == "VirtualHardwareSection" {
			continue
		}
		have[unique(n, k)] = el
	}
	return have
}

func root(e *etree.Element) *etree.Element {
	for e.Parent() != nil && e.Parent().Tag != "" {
		e = e.Parent()
	}
	return e
}

// space returns the namespace of a prefix at an element.
func space(e *etree.Element, prefix string) string {
	for ; e != nil; e = e.Parent() {
		for _, a := range e.Attr {
			if prefix == "" && a.Space == "" && a.Key == "xmlns" || prefix != "" && a.Space == "xmlns" && a.Key == prefix {
				return a.Value
			}
		}
	}
	return ""
}

// prefix returns a prefix that root has for a namespace; it declares wish, or a name made of it, if there is none.
// Attributes need one that is not empty.
func prefix(root *etree.Element, uri, wish string, attribute bool) string {
	// What is the envelope's own has its namespace, whichever version that is of.
	if uri == space1 || uri == space2 || uri == space09 {
		if own := root.NamespaceURI(); own != "" {
			uri = own
		}
	}
	for _, a := range root.Attr {
		// VirtualBox has ".xsd" at the end of two of CIM's.
		if a.Space == "xmlns" && (a.Value == uri || a.Value == uri+".xsd" && strings.Contains(uri, "/wscim/")) {
			return a.Key
		}
		if a.Space == "" && a.Key == "xmlns" && a.Value == uri && !attribute {
			return ""
		}
	}
	if uri == "" {
		return ""
	}
	if wish == "" {
		wish = "ns"
	}
	name := wish
	for n := 'a'; slices.ContainsFunc(root.Attr, func(a etree.Attr) bool { return a.Space == "xmlns" && a.Key == name }); n++ {
		name = wish + string(n)
	}
	root.CreateAttr("xmlns:"+name, uri)
	return name
}

// transplant returns a copy of an element for the tree below root, with the prefixes that are declared there.
func transplant(e, root *etree.Element) *etree.Element {
	c := etree.NewElement(e.Tag)
	c.Space = prefix(root, space(e, e.Space), e.Space, false)
	for _, a := range e.Attr {
		switch {
		case a.Space == "xmlns" || a.Space == "" && a.Key == "xmlns":
		case a.Space == "" || a.Space == "xml":
			c.CreateAttr(a.FullKey(), a.Value)
		default:
			if p := prefix(root, space(e, a.Space), a.Space, true); p != "" {
				c.CreateAttr(p+":"+a.Key, a.Value)
			}
		}
	}
	for _, t := range e.Child {
		switch t := t.(type) {
		case *etree.Element:
			c.AddChild(transplant(t, root))
		case *etree.CharData:
			c.CreateText(t.Data)
		case *etree.Comment:
			c.CreateComment(t.Data)
		}
	}
	return c
}
