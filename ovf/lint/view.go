package lint

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"path"
	"slices"
	"strconv"
	"strings"

	"github.com/beevik/etree"

	"tarvm/formats"
	"tarvm/formats/machine/xmldoc"
	"tarvm/ovf"
	"tarvm/ovf/ova"
)

// What the namespaces of envelopes begin with, and those of extensions.
const (
	nsEnvelope1 = "http://schemas.dmtf.org/ovf/envelope/1"
	nsEnvelope2 = "http://schemas.dmtf.org/ovf/envelope/2"
	nsVMware    = "http://www.vmware.com/schema/ovf"
	nsVBox      = "http://www.virtualbox.org/ovf/machine"
)

// A view is a package as the rules look at it.
type view struct {
	container ova.Container
	dir       string
	members   []ova.Member
	envelope  string
	manifest  ova.Text
	signed    bool
	trailing  int64 // bytes behind the archive's end
	doc       *etree.Document
	files     []*refFile
	disks     []*diskElement
	items     []*item
	lines     []line
	// damaged are the files that were found not to have their digests.
	damaged []string
	// hardware is the family that is written for one that VMware does not know.
	hardware string
	// boxes are the systems that need VirtualBox's own settings, which are made when all else is repaired.
	boxes []*etree.Element
	// meaning is what the document was read as; nil: not yet.
	meaning *ovf.Envelope
}

// A refFile is a reference and what is known of its file.
type refFile struct {
	ovf.File
	e       *etree.Element
	name    string // as shown; "" if it is missing
	missing string // why
	suffix  string // that its name gets
	parts   int
	gzip    bool
	size    int64 // as stored
	image   *image
}

type diskElement struct {
	e    *etree.Element
	id   string
	file *refFile // nil: none
	href string   // its fileRef
}

// An item is a device in a VirtualHardwareSection.
type item struct {
	e        *etree.Element
	system   *etree.Element // the VirtualHardwareSection
	kind     int            // ResourceType; -1: not a number
	id       string
	parent   string
	required bool
}

// child returns the text of a child element, and the element; the text has no spaces around it.
func child(e *etree.Element, tag string) (string, *etree.Element) {
	for _, c := range e.ChildElements() {
		if c.Tag == tag {
			return strings.TrimSpace(c.Text()), c
		}
	}
	return "", nil
}

// attribute returns an attribute by its name in any namespace.
func attribute(e *etree.Element, name string) (string, *etree.Attr) {
	for i := range e.Attr {
		if e.Attr[i].Key == name && e.Attr[i].Space != "xmlns" {
			return e.Attr[i].Value, &e.Attr[i]
		}
	}
	return "", nil
}

// where names an item.
func (i *item) where() string {
	name, _ := child(i.e, "ElementName")
	if name == "" {
		name, _ = child(i.e, "Caption")
	}
	if name == "" {
		return "Item " + quote(i.id)
	}
	return "Item " + quote(i.id) + " (" + quote(name) + ")"
}

func newView(ctx context.Context, p *ova.Package) (*view, error) {
	doc, err := xmldoc.Parse("ovf", p.Envelope.Data, ovf.MaxEnvelope)
	if err != nil {
		return nil, fmt.Errorf("%s: %w: %w", p.Envelope.Name, ovf.ErrSyntax, err)
	}
	v := &view{
		container: p.Container, dir: p.Dir, members: p.Members, envelope: p.Envelope.Name, manifest: p.Manifest,
		signed: p.Certificate.Name != "", doc: doc, trailing: p.Trailing, lines: manifestLines(p.Manifest.Data), hardware: defaultHardware,
	}
	if err := v.readFiles(ctx, p); err != nil {
		return nil, err
	}
	v.read()
	return v, nil
}

// read finds disks and items in the document.
func (v *view) read() {
	v.disks, v.items, v.meaning = nil, nil, nil
	byID := make(map[string]*refFile)
	for _, f := range v.files {
		byID[f.ID] = f
	}
	for _, s := range v.root().ChildElements() {
		if s.Tag != "DiskSection" && s.Tag != "Section" {
			continue
		}
		for _, e := range s.ChildElements() {
			if e.Tag == "Disk" {
				d := &diskElement{e: e}
				d.id, _ = attribute(e, "diskId")
				d.href, _ = attribute(e, "fileRef")
				if d.href != "" {
					d.file = byID[d.href]
				}
				v.disks = append(v.disks, d)
			}
		}
	}
	for _, s := range v.sections("VirtualHardwareSection") {
		for _, e := range s.ChildElements() {
			switch e.Tag {
			case "Item", "StorageItem", "EthernetPortItem":
			default:
				continue
			}
			i := &item{e: e, system: s, kind: -1, required: true}
			if t, _ := child(e, "ResourceType"); t != "" {
				if n, err := strconv.Atoi(t); err == nil {
					i.kind = n
				}
			}
			if i.id, _ = child(e, "InstanceID"); i.id == "" {
				i.id, _ = child(e, "InstanceId")
			}
			i.parent, _ = child(e, "Parent")
			if r, _ := attribute(e, "required"); r == "false" || r == "0" {
				i.required = false
			}
			v.items = append(v.items, i)
		}
	}
}

func (v *view) root() *etree.Element { return v.doc.Root() }

// systems returns the virtual systems, also those in collections.
func (v *view) systems() []*etree.Element {
	var list []*etree.Element
	var walk func(e *etree.Element)
	walk = func(e *etree.Element) {
		for _, c := range e.ChildElements() {
			switch c.Tag {
			case "VirtualSystem", "Content": // 0.9 has Content
				list = append(list, c)
			case "VirtualSystemCollection":
				walk(c)
			}
		}
	}
	walk(v.root())
	return list
}

// sections returns the sections of that name in all virtual systems. In 0.9 a section's name is in its type.
func (v *view) sections(tag string) []*etree.Element {
	var list []*etree.Element
	for _, s := range v.systems() {
		for _, c := range s.ChildElements() {
			t, _ := attribute(c, "type")
			if c.Tag == tag || c.Tag == "Section" && strings.HasPrefix(t[strings.IndexByte(t, ':')+1:], tag) {
				list = append(list, c)
			}
		}
	}
	return list
}

// prefix returns the prefix that is bound to a namespace at the root, as for an attribute; it binds one if there is none.
func (v *view) prefix(ns, want string) string {
	r := v.root()
	for _, a := range r.Attr {
		if a.Space == "xmlns" && a.Value == ns {
			return a.Key
		}
	}
	taken := func(p string) bool {
		return slices.ContainsFunc(r.Attr, func(a etree.Attr) bool { return a.Space == "xmlns" && a.Key == p })
	}
	name := want
	for i := 2; taken(name); i++ {
		name = want + strconv.Itoa(i)
	}
	r.CreateAttr("xmlns:"+name, ns)
	return name
}

// set sets an attribute of the envelope's namespace.
func (v *view) set(e *etree.Element, name, value string) {
	if _, a := attribute(e, name); a != nil {
		a.Value = value
		return
	}
	if ns := v.root().NamespaceURI(); ns != "" {
		name = v.prefix(ns, "ovf") + ":" + name
	}
	e.CreateAttr(name, value)
}

// box is VirtualBox's own settings of a virtual system.
type box struct {
	e     *etree.Element
	disks map[string]string // UUIDs by IDs
}

var errOwnBox = errors.New("it has settings of VirtualBox's that say otherwise")

// box makes VirtualBox's own settings of a virtual system, of what the document says now.
func (v *view) box(system *etree.Element) (*box, error) {
	if _, m := child(system, "Machine"); m != nil {
		return nil, errOwnBox
	}
	if v.meaning == nil {
		text, err := xmldoc.Write(v.doc)
		if err != nil {
			return nil, err
		}
		if v.meaning, err = ovf.Decode(text); err != nil {
			return nil, err
		}
	}
	i, list := slices.Index(v.systems(), system), v.meaning.Systems
	if i < 0 || len(list) != len(v.systems()) {
		return nil, errors.New("it is not read as a system of its own")
	}
	b := &box{}
	var err error
	b.e, b.disks, err = v.meaning.BoxSettings(i)
	return b, err
}

// addBoxes puts VirtualBox's own settings into the systems that need them.
func (v *view) addBoxes() error {
	v.meaning = nil
	for _, s := range v.boxes {
		b, err := v.box(s)
		if err != nil {
			return err
		}
		space, vbox := v.prefix(v.root().NamespaceURI(), "ovf"), v.prefix(nsVBox, "vbox")
		indent := etree.NewIndentSettings()
		indent.Spaces, indent.PreserveLeafWhitespace = 2, true
		b.e.IndentWithSettings(indent)
		b.e.Space = vbox
		for i := range b.e.Attr {
			if b.e.Attr[i].Space == "ovf" {
				b.e.Attr[i].Space = space
			}
		}
		if _, info := child(b.e, "Info"); info != nil {
			info.Space = space
		}
		s.AddChild(b.e)
		for _, d := range v.disks {
			if id := b.disks[d.id]; id != "" {
				if _, a := attribute(d.e, "uuid"); a == nil {
					d.e.CreateAttr(vbox+":uuid", id)
				}
			}
		}
	}
	return nil
}

func (v *view) readFiles(ctx context.Context, p *ova.Package) error {
	var elements []*etree.Element
	for _, s := range v.root().ChildElements() {
		if s.Tag == "References" {
			for _, e := range s.ChildElements() {
				if e.Tag == "File" {
					elements = append(elements, e)
				}
			}
		}
	}
	missing := make(map[string]string)
	for _, m := range p.Missing() {
		missing[m.Name] = m.Error()
	}
	images := make(map[string]*image)
	for n, f := range p.References {
		r := &refFile{File: f}
		if n < len(elements) {
			r.e = elements[n]
		}
		v.files = append(v.files, r)
		if r.missing = missing[f.Href]; r.missing != "" {
			continue
		}
		name, ok := p.Resolve(f)
		if !ok {
			var err error
			if name, err = f.Name(); err != nil {
				r.missing = err.Error()
				continue
			}
		}
		r.name, r.parts, r.gzip = name, len(p.Parts(name)), p.IsGzip(name)
		rd, size, err := p.Stored(name)
		if err != nil {
			return err
		}
		if err := rd.Close(); err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
		r.size = size
		if r.gzip {
			continue // to look into it would unpack all of it
		}
		if images[name] == nil {
			if images[name], err = look(ctx, p.FS(), name); err != nil {
				return fmt.Errorf("%s: %w", name, err)
			}
		}
		r.image = images[name]
	}
	return nil
}

// look reads what kind of image a file is.
func look(ctx context.Context, fsys fs.FS, name string) (*image, error) {
	f, err := fsys.Open(name)
	if errors.Is(err, ova.ErrSpool) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	defer f.Close()
	src, ok := f.(formats.Source)
	if !ok {
		st, err := f.Stat()
		if err != nil {
			return nil, err
		}
		at, ok := f.(readerAt)
		if !ok {
			return nil, errors.New("it cannot be read at random")
		}
		src = sized{at, st.Size()}
	}
	return readImage(ctx, src)
}

type readerAt interface {
	ReadAt(b []byte, off int64) (int, error)
}

type sized struct {
	readerAt
	size int64
}

func (s sized) Size() int64 { return s.size }

// ext is the suffix of a file's name, in lower case.
func ext(name string) string { return strings.ToLower(path.Ext(name)) }
