package ovf

import (
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/beevik/etree"

	"tarvm/formats/machine"
	"tarvm/formats/machine/xmldoc"
)

const (
	maxItems    = 20_000 // of virtual hardware in one section; seen: 45
	maxProblems = 1000   // more are not listed
)

// The namespaces of envelopes.
const (
	space09 = "http://www.vmware.com/schema/ovf/1/envelope"
	space1  = "http://schemas.dmtf.org/ovf/envelope/1"
	space2  = "http://schemas.dmtf.org/ovf/envelope/2"
)

// Decode reads an envelope of at most MaxEnvelope bytes. What is wrong and leaves the rest readable is in Problems. Errors
// wrap ErrSyntax and are a *machine.SyntaxError.
func Decode(b []byte) (*Envelope, error) {
	root, err := parse(b)
	if err != nil {
		return nil, err
	}
	d, err := decode(root)
	if err != nil {
		return nil, err
	}
	d.e.raw = slices.Clone(b)
	return d.e, nil
}

// Machine returns the machine of a system, by its index in Systems, as it is with a deployment option; option may be empty
// for the default. Only envelopes that were decoded know other options than the default. An option that is not there is an
// error that wraps ErrSyntax.
func (e *Envelope) Machine(system int, option string) (*machine.Machine, []Problem, error) {
	if system < 0 || system >= len(e.Systems) {
		return nil, nil, invalid("", "there is no system %d, only %d", system, len(e.Systems))
	}
	known := option == ""
	for _, o := range e.Options {
		known = known || o.ID == option
	}
	if !known {
		return nil, nil, invalid("DeploymentOptionSection", "there is no option %.60q", option)
	}
	if e.raw == nil || option == "" {
		return e.Systems[system].Machine, nil, nil
	}
	root, err := parse(e.raw)
	if err != nil {
		return nil, nil, err
	}
	d, err := decode(root, option)
	if err != nil {
		return nil, nil, err
	}
	for i := range d.e.Systems {
		if d.e.Systems[i].ID == e.Systems[system].ID {
			return d.e.Systems[i].Machine, d.e.Problems, nil
		}
	}
	return nil, nil, invalid("VirtualSystem", "%.60q was not in the document", e.Systems[system].ID)
}

// DecodeBundle reads a file of texts that a Strings element names.
func DecodeBundle(b []byte) (Bundle, error) {
	doc, err := xmldoc.Parse(form, b, MaxEnvelope)
	if err != nil {
		return Bundle{}, fmt.Errorf("%w: %w", ErrSyntax, err)
	}
	if doc.Root().Tag != "Strings" && doc.Root().Tag != "Bundle" {
		return Bundle{}, invalid("", "its root is %.60q, not Strings", doc.Root().Tag)
	}
	return decodeBundle(doc.Root()), nil
}

// A decoder is one pass over a document. systems has for each system where its parts are.
type decoder struct {
	e       *Envelope
	root    *etree.Element
	option  string // the deployment option
	files   map[string]*File
	disks   map[string]*VirtualDisk
	systems []*decoded
	unknown map[owner][]*etree.Element
	more    int // problems that are not listed
}

// An owner is the index of the collection or of the system that has an unknown section; the other is -1. Both are for those
// of the package.
type owner struct{ collection, system int }

// decoded says which elements a system's parts were made of.
type decoded struct {
	items    map[string]*etree.Element // by the identity that Origins have
	hardware *etree.Element
	maxID    int64          // the largest InstanceID
	box      *etree.Element // VirtualBox's own settings, if they could be read; or nil
	copied   bool           // there are such, made of the Items
}

func decode(root *etree.Element, option ...string) (*decoder, error) {
	d := &decoder{e: &Envelope{}, root: root, files: map[string]*File{}, disks: map[string]*VirtualDisk{}, unknown: map[owner][]*etree.Element{}}
	if err := d.version(); err != nil {
		return nil, err
	}
	var err error
	if d.e.Files, err = decodeFiles(root); err != nil {
		return nil, err
	}
	for i := range d.e.Files {
		f := &d.e.Files[i]
		switch {
		case f.ID == "":
			d.problem(Error, "References", "the file %.60q has no id", f.Href)
		case d.files[f.ID] != nil:
			d.problem(Error, "References", "two files have the id %.60q: the first is taken", f.ID)
		default:
			d.files[f.ID] = f
		}
	}
	d.e.Lang = lang(root)
	for _, c := range root.ChildElements() {
		switch kind(c) {
		case "References", "VirtualSystem", "VirtualSystemCollection":
		case "DiskSection", "SharedDiskSection":
			d.diskSection(c)
		case "NetworkSection":
			d.networkSection(c)
		case "DeploymentOptionSection":
			d.optionSection(c)
		case "Strings":
			d.e.Bundles = append(d.e.Bundles, decodeBundle(c))
		default:
			d.keep(&d.e.Unknown, owner{-1, -1}, c)
		}
	}
	d.checkDisks()
	d.option = d.e.DefaultOption()
	if len(option) > 0 {
		d.option = option[0]
	}
	content := 0
	for _, c := range root.ChildElements() {
		switch kind(c) {
		case "VirtualSystem", "VirtualSystemCollection":
			if content++; content == 2 {
				d.problem(Warning, "Envelope", "more than one VirtualSystem without a collection")
			}
			if err := d.content(c, 0); err != nil {
				return nil, err
			}
		}
	}
	d.boxImages()
	if content == 0 {
		d.problem(Error, "Envelope", "there is no VirtualSystem")
	}
	d.checkIDs()
	if d.more > 0 {
		d.e.Problems = append(d.e.Problems, Problem{"Envelope", fmt.Sprintf("%d more problems are not listed", d.more), Error})
	}
	return d, nil
}

func (d *decoder) problem(s Severity, where, format string, args ...any) {
	if len(d.e.Problems) >= maxProblems {
		d.more++
		return
	}
	d.e.Problems = append(d.e.Problems, Problem{where, fmt.Sprintf(format, args...), s})
}

func (d *decoder) version() error {
	said := attr(d.root, "version")
	switch space := strings.TrimSuffix(d.root.NamespaceURI(), "/"); space {
	case space09:
		d.e.Version = "0.9"
	case space1:
		d.e.Version = "1.0"
		if strings.HasPrefix(said, "1.1") {
			d.e.Version = "1.1"
		}
	case space2:
		d.e.Version = "2.0"
		if strings.HasPrefix(said, "2.1") {
			d.e.Version = "2.1"
		}
	case "":
		d.e.Version = "1.0"
		d.problem(Warning, "Envelope", "it has no namespace: taken for version 1.0")
	default:
		return fmt.Errorf("%w: %w", ErrSyntax,
			&machine.SyntaxError{Form: form, What: "Envelope", Got: fmt.Sprintf("namespace %.100q", space), Err: machine.ErrUnsupported})
	}
	return nil
}

// kind is an element's name, or what takes its place in 0.9: <Section xsi:type="ovf:DiskSection_Type">.
func kind(e *etree.Element) string {
	if e.Tag != "Section" && e.Tag != "Content" {
		return e.Tag
	}
	for _, a := range e.Attr {
		if a.Key == "type" && a.Space != "xmlns" {
			_, name, ok := strings.Cut(a.Value, ":")
			if !ok {
				name = a.Value
			}
			return strings.TrimSuffix(name, "_Type")
		}
	}
	return e.Tag
}

func lang(e *etree.Element) string { return e.SelectAttrValue("xml:lang", "") }

// child returns the first child of a name, in any namespace, or nil.
func child(e *etree.Element, name string) *etree.Element {
	for _, t := range e.Child {
		if c, ok := t.(*etree.Element); ok && c.Tag == name {
			return c
		}
	}
	return nil
}

// text returns all text of an element, or nothing if there is no element.
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

// word is text without white space around it.
func word(e *etree.Element) string { return strings.TrimSpace(text(e)) }

func msg(e *etree.Element) Msg {
	if e == nil {
		return Msg{}
	}
	return Msg{text(e), attr(e, "msgid")}
}

// split takes a list apart that has spaces, or commas, between its words.
func split(s string) []string {
	return strings.FieldsFunc(s, func(r rune) bool { return strings.ContainsRune(" ,;\t\r\n", r) })
}

func truth(s string) machine.Switch {
	switch strings.ToLower(strings.TrimSpace(s)) {
	case "true", "1":
		return machine.On
	case "false", "0":
		return machine.Off
	}
	return machine.Unsaid
}

func (d *decoder) checkDisks() {
	for i := range d.e.Disks {
		v := &d.e.Disks[i]
		where := fmt.Sprintf("Disk %.60s", v.ID)
		if v.FileRef != "" && d.files[v.FileRef] == nil {
			d.problem(Error, where, "its fileRef %.60q is nowhere", v.FileRef)
		}
		if v.ParentRef == "" {
			continue
		}
		seen := map[string]bool{v.ID: true}
		for p := v.ParentRef; p != ""; {
			up := d.disks[p]
			if up == nil {
				d.problem(Error, where, "its parentRef %.60q is nowhere", p)
				break
			}
			if seen[p] {
				d.problem(Error, where, "it is its own parent, by %.60q", p)
				break
			}
			if len(seen) > 256 {
				d.problem(Error, where, "it has more than 256 parents")
				break
			}
			seen[p], p = true, up.ParentRef
		}
	}
}

func (d *decoder) checkIDs() {
	seen := map[string]bool{}
	check := func(what, id string) {
		if id == "" {
			d.problem(Warning, what, "it has no id")
		} else if seen[id] {
			d.problem(Warning, what+" "+id, "another one has the same id")
		}
		seen[id] = true
	}
	for i := range d.e.Collections {
		check("VirtualSystemCollection", d.e.Collections[i].ID)
	}
	for i := range d.e.Systems {
		check("VirtualSystem", d.e.Systems[i].ID)
	}
}

// content reads a system or a collection. parent is the index of the collection around it.
func (d *decoder) content(el *etree.Element, parent int) error {
	c := Content{ID: attr(el, "id"), Info: text(child(el, "Info")), Name: msg(child(el, "Name")), Parent: parent}
	if kind(el) == "VirtualSystem" {
		return d.system(el, c)
	}
	me := len(d.e.Collections)
	d.e.Collections = append(d.e.Collections, Collection{Content: c})
	v := Collection{Content: c}
	for _, s := range el.ChildElements() {
		switch k := kind(s); k {
		case "Info", "Name":
		case "VirtualSystem", "VirtualSystemCollection":
			if err := d.content(s, me); err != nil {
				return err
			}
		case "AnnotationSection":
			v.Annotation = msg(child(s, "Annotation"))
		case "StartupSection":
			v.Startup = append(v.Startup, d.startup(s)...)
		case "ResourceAllocationSection":
			v.Resources = append(v.Resources, d.allocations(s)...)
		default:
			d.shared(&v.Content, owner{me, -1}, s)
		}
	}
	d.e.Collections[me] = v
	return nil
}

// shared reads the sections that systems and collections have alike.
func (d *decoder) shared(c *Content, o owner, s *etree.Element) {
	switch kind(s) {
	case "ProductSection":
		c.Products = append(c.Products, d.product(s))
	case "EulaSection":
		c.EULAs = append(c.EULAs, msg(child(s, "License")))
	default:
		d.keep(&c.Unknown, o, s)
	}
}

// keep lists a section that is not understood.
func (d *decoder) keep(list *[]Unknown, o owner, s *etree.Element) {
	*list = append(*list, Unknown{kind(s), s.NamespaceURI(), attr(s, "required") != "false"})
	d.unknown[o] = append(d.unknown[o], s)
}

func (d *decoder) system(el *etree.Element, c Content) error {
	v := System{Content: c, Machine: &machine.Machine{}}
	m, me := v.Machine, owner{-1, len(d.e.Systems)}
	m.Name = strings.TrimSpace(c.Name.Text)
	got := &decoded{items: map[string]*etree.Element{}}
	var box *etree.Element
	var notes []string
	for _, s := range el.ChildElements() {
		switch k := kind(s); k {
		case "Info", "Name":
		case "AnnotationSection":
			if t := text(child(s, "Annotation")); t != "" {
				notes = append(notes, t)
			}
		case "OperatingSystemSection":
			d.guest(s, &m.Guest)
		case "InstallSection":
			n, _ := strconv.Atoi(strings.TrimSpace(attr(s, "initialBootStopDelay")))
			v.Install = &Install{max(n, 0)}
		case "EnvironmentFilesSection":
			for _, f := range s.ChildElements() {
				if f.Tag == "File" {
					v.EnvironmentFiles = append(v.EnvironmentFiles, EnvironmentFile{attr(f, "fileRef"), attr(f, "path")})
				}
			}
		case "VirtualHardwareSection":
			if got.hardware != nil {
				d.problem(Warning, "VirtualSystem "+c.ID, "it has another VirtualHardwareSection: the first is taken")
				d.keep(&v.Unknown, me, s)
				continue
			}
			got.hardware = s
		case "Machine":
			if strings.Contains(s.NamespaceURI(), "virtualbox.org") && box == nil && !got.copied {
				if got.copied = text(child(s, "Info")) == boxCopyInfo; !got.copied {
					box = s
				}
				continue
			}
			d.keep(&v.Unknown, me, s)
		default:
			d.shared(&v.Content, me, s)
		}
	}
	m.Notes = strings.Join(notes, "\n")
	if box != nil {
		m.Platform = "virtualbox"
	}
	if got.hardware != nil {
		if list := split(attr(got.hardware, "transport")); len(list) > 0 {
			v.Transports = list
		}
		if err := d.hardware(got, &v); err != nil {
			return err
		}
	} else {
		d.problem(Warning, "VirtualSystem "+c.ID, "it has no VirtualHardwareSection")
	}
	if box != nil {
		d.box(box, got, m)
	}
	if m.Name == "" {
		m.Name = c.ID
	}
	m.Origin = &origin{id: c.ID, option: d.option}
	if err := m.Complete(); err != nil {
		var s *machine.SyntaxError
		if errors.As(err, &s) {
			return err
		}
		return invalid("VirtualSystem", "%v", err)
	}
	d.e.Systems = append(d.e.Systems, v)
	d.systems = append(d.systems, got)
	return nil
}

// An origin is the Origin of a machine (id is that of its system) and of its parts (id is an Item's).
type origin struct {
	id     string
	option string // a machine's: with which it was decoded
	second string // an IDE controller's: the Item of the other channel
	disk   string // a drive's: the ID of its VirtualDisk
	blank  bool   // a drive's: its Item says how large it is, and no VirtualDisk
	place  string // an adapter's: its AddressOnParent
	net    string // an adapter's: the name of its network
	name   string // for people
	box    bool   // no Item has it, but VirtualBox's own settings
}

// Form returns ovf.
func (o *origin) Form() string { return form }

func from(o machine.Origin) *origin {
	p, _ := o.(*origin)
	if p == nil {
		return &origin{}
	}
	return p
}
