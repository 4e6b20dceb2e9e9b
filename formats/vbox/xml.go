package vbox

import (
	"slices"
	"strings"

	"github.com/beevik/etree"
)

// attr returns an attribute that has no prefix.
func attr(e *etree.Element, key string) (string, bool) {
	if e != nil {
		for i := range e.Attr {
			if a := &e.Attr[i]; a.Space == "" && a.Key == key {
				return a.Value, true
			}
		}
	}
	return "", false
}

func setAttr(e *etree.Element, key, value string) {
	for i := range e.Attr {
		if a := &e.Attr[i]; a.Space == "" && a.Key == key {
			a.Value = value
			return
		}
	}
	e.CreateAttr(key, value)
}

func dropAttr(e *etree.Element, key string) {
	for i := range e.Attr {
		if a := &e.Attr[i]; a.Space == "" && a.Key == key {
			e.Attr = slices.Delete(e.Attr, i, i+1)
			return
		}
	}
}

// child returns the first element of a name, with any prefix; nil if there is none, or no e.
func child(e *etree.Element, tag string) *etree.Element {
	if e != nil {
		for _, t := range e.Child {
			if c, ok := t.(*etree.Element); ok && c.Tag == tag {
				return c
			}
		}
	}
	return nil
}

// children returns the elements of a name.
func children(e *etree.Element, tag string) []*etree.Element {
	var list []*etree.Element
	if e != nil {
		for _, t := range e.Child {
			if c, ok := t.(*etree.Element); ok && c.Tag == tag {
				list = append(list, c)
			}
		}
	}
	return list
}

// find follows a path of names with slashes.
func find(e *etree.Element, path string) *etree.Element {
	for tag := range strings.SplitSeq(path, "/") {
		e = child(e, tag)
	}
	return e
}

// text is all text of an element, around comments too.
func text(e *etree.Element) string {
	var b strings.Builder
	if e != nil {
		for _, t := range e.Child {
			if c, ok := t.(*etree.CharData); ok {
				b.WriteString(c.Data)
			}
		}
	}
	return b.String()
}

// order is that in which VirtualBox writes the children of Machine, Hardware and Platform; it reads any. Elements that
// are not listed are added at the end.
var order = []string{
	"Description", "MediaRegistry", "ExtraData",
	"Hardware", "Platform", "Groups",
	"Memory", "HID", "Boot", "Display", "RemoteDisplay", "Firmware", "BIOS", "TrustedPlatformModule", "USB", "Network",
	"UART", "LPT", "AudioAdapter", "SharedFolders", "Clipboard", "DragAndDrop", "StorageControllers",
	"RTC", "Chipset", "CPU", "arm", "x86", "HPET",
	"HardDisks", "DVDImages", "FloppyImages",
	"ACPI", "IOAPIC", "SmbiosUuidLittleEndian", "AutoSerialNumGen", "NVRAM",
}

// insert puts an element into another, in its place in order and with the white space that VirtualBox writes.
func insert(parent, e *etree.Element) {
	depth := 0
	for p := parent.Parent(); p != nil; p = p.Parent() {
		depth++ // a document is an element without a name, and the root's parent
	}
	in, out := "\n"+strings.Repeat("  ", depth), "\n"+strings.Repeat("  ", max(depth-1, 0))
	last := -1
	rank := slices.Index(order, e.Tag)
	for i, t := range parent.Child {
		c, ok := t.(*etree.Element)
		if !ok {
			continue
		}
		if rank >= 0 && slices.Index(order, c.Tag) > rank {
			parent.InsertChildAt(i, etree.NewText(in))
			parent.InsertChildAt(i, e)
			return
		}
		last = i
	}
	if last < 0 && strings.TrimSpace(text(parent)) == "" {
		for _, c := range slices.Clone(parent.Child) {
			if c, ok := c.(*etree.CharData); ok {
				parent.RemoveChild(c)
			}
		}
		parent.AddChild(etree.NewText(in))
		parent.AddChild(e)
		parent.AddChild(etree.NewText(out))
		return
	}
	parent.InsertChildAt(last+1, etree.NewText(in))
	parent.InsertChildAt(last+2, e)
}

// remove takes an element out, and the white space in front of it.
func remove(e *etree.Element) {
	p := e.Parent()
	if p == nil {
		return
	}
	if i := e.Index(); i > 0 {
		if c, ok := p.Child[i-1].(*etree.CharData); ok && strings.TrimSpace(c.Data) == "" {
			p.RemoveChildAt(i - 1)
		}
	}
	p.RemoveChild(e)
}

// make follows a path of names with slashes, and adds what is not there.
func makePath(e *etree.Element, path string) *etree.Element {
	for tag := range strings.SplitSeq(path, "/") {
		c := child(e, tag)
		if c == nil {
			c = etree.NewElement(tag)
			c.Space = childSpace(e)
			insert(e, c)
		}
		e = c
	}
	return e
}

// add adds an element with attributes, given as names and values by turns.
func add(parent *etree.Element, tag string, attrs ...string) *etree.Element {
	e := etree.NewElement(tag)
	e.Space = childSpace(parent)
	for i := 0; i+1 < len(attrs); i += 2 {
		e.CreateAttr(attrs[i], attrs[i+1])
	}
	insert(parent, e)
	return e
}

// childSpace is the prefix that elements in e have: that of the first of them, which in an OVF envelope is another than
// that of Machine; else that of e.
func childSpace(e *etree.Element) string {
	for _, t := range e.Child {
		if c, ok := t.(*etree.Element); ok {
			return c.Space
		}
	}
	if e.Tag == "Machine" {
		return ""
	}
	return e.Space
}

// twins maps the elements of a tree to those of its copy.
func twins(a, b *etree.Element, m map[*etree.Element]*etree.Element) {
	m[a] = b
	for i, t := range a.Child {
		if c, ok := t.(*etree.Element); ok {
			if d, ok := b.Child[i].(*etree.Element); ok {
				twins(c, d, m)
			}
		}
	}
}
