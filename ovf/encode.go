package ovf

import (
	"bytes"
	"fmt"
	"net/url"
	"path"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/beevik/etree"

	"tarvm/formats/machine"
	"tarvm/formats/machine/xmldoc"
)

// A Profile is for whom an envelope is written.
type Profile string

// The profiles. Keep, which is that of the zero value, leaves an envelope that was decoded as it is but for what was
// changed, and writes one that was not as Generic. Generic is what VirtualBox, virt-v2v and vSphere take alike: if the
// firmware is EFI, the hardware is there a second time as VirtualBox has it, which reads that in no other place. VMware has
// the controllers and devices of a version of its hardware. VirtualBox has its own controllers, and its own settings in a
// vbox:Machine element, with all that it can say of a machine. Xen is for XenServer and XCP-ng.
const (
	Keep       Profile = ""
	Generic    Profile = "generic"
	VMware     Profile = "vmware"
	VirtualBox Profile = "virtualbox"
	Xen        Profile = "xen"
)

// DefaultHardware is the version of VMware's virtual hardware that is written when none is asked for: vSphere 6.5 and
// later know it.
const DefaultHardware = "vmx-13"

// hardwareFamily is what the name of a family of virtual hardware looks like.
var hardwareFamily = regexp.MustCompile(`^[A-Za-z]+-[0-9]+(\.[0-9]+)?$`)

// EncodeOptions say how an envelope is written. The zero value works.
type EncodeOptions struct {
	// Version is 1.0, 1.1 or 2.0; empty: that of the document with Keep, else 1.1. VMware's programs and virt-v2v read no
	// 2.0.
	Version string
	Profile Profile
	// Hardware is the family of virtual hardware: vmx-13. Empty: the machine's own if it is one of the profile's, else
	// DefaultHardware, virtualbox-2.2 or xen-3.
	Hardware string
	// NewIdentity leaves out Ethernet addresses and UUIDs, so that the importer makes new ones.
	NewIdentity bool
	// Strict makes it an error that wraps machine.ErrUnsupported if anything is lost.
	Strict bool
}

// New returns an envelope of one machine. files and disks are what is known of the machine's files, by the Path of a
// drive's Media and the FileRef of a disk; those that are missing are added when it is encoded.
func New(m *machine.Machine, files []File, disks []VirtualDisk) *Envelope {
	id := m.Name
	if id == "" {
		id = "vm"
	}
	return &Envelope{Files: files, Disks: disks, Systems: []System{{Content: Content{ID: id}, Machine: m}}}
}

// Encode writes the envelope as UTF-8. It changes nothing in it, and is the same each time. What the profile cannot say
// comes back as losses; with Keep these are only those of what was changed. An envelope that was decoded, and in which
// nothing was changed, comes back with Keep byte for byte.
//
// Of a disk that is in Disks, capacity, format and what is in use are taken from there, and from the drive's Media only where
// it does not say.
//
// A system needs two values that a machine may not have: one processor and 1 GiB of memory are written then. Files that
// lead out of the package are left out, as losses.
func (e *Envelope) Encode(o EncodeOptions) ([]byte, []machine.Loss, error) {
	switch o.Profile {
	case Keep, Generic, VMware, VirtualBox, Xen:
	default:
		return nil, nil, fmt.Errorf("%w: profile %q", machine.ErrUnsupported, o.Profile)
	}
	switch o.Version {
	case "", "1.0", "1.1", "2.0":
	default:
		return nil, nil, fmt.Errorf("%w: writing version %q", machine.ErrUnsupported, o.Version)
	}
	if h := o.Hardware; h != "" && !hardwareFamily.MatchString(h) {
		return nil, nil, fmt.Errorf("%w: hardware %.40q is not of the form vmx-13", machine.ErrUnsupported, h)
	}
	if len(e.Systems) == 0 && len(e.Collections) == 0 && e.raw == nil {
		return nil, nil, fmt.Errorf("%w: an envelope without a system", machine.ErrUnsupported)
	}
	var src *decoder
	if e.raw != nil {
		root, err := parse(e.raw)
		if err != nil {
			return nil, nil, err
		}
		if src, err = decodeLike(root, e); err != nil {
			return nil, nil, err
		}
	}
	var b []byte
	var losses []machine.Loss
	var err error
	if src != nil && o.Profile == Keep && (o.Version == "" || o.Version == src.e.Version) && o.Hardware == "" && !o.NewIdentity {
		b, losses, err = e.patch(src)
	} else {
		w := newWriter(e, o, src, false)
		root := w.envelope()
		b, err = document(root)
		losses = w.losses
	}
	if err != nil {
		return nil, nil, err
	}
	if len(b) > MaxEnvelope {
		return nil, nil, fmt.Errorf("%w: an envelope of %d bytes", machine.ErrUnsupported, len(b))
	}
	if o.Strict && len(losses) > 0 {
		return nil, losses, fmt.Errorf("%w: %d losses, the first: %s", machine.ErrUnsupported, len(losses), losses[0])
	}
	return b, losses, nil
}

// decodeLike decodes the document with the deployment options that e's machines were decoded with.
func decodeLike(root *etree.Element, e *Envelope) (*decoder, error) {
	for i := range e.Systems {
		m := e.Systems[i].Machine
		if m == nil {
			continue
		}
		if o := from(m.Origin); o.option != "" {
			return decode(root, o.option)
		}
	}
	return decode(root)
}

// document gives a tree its final form.
func document(root *etree.Element) ([]byte, error) {
	doc := etree.NewDocument()
	doc.CreateProcInst("xml", `version="1.0" encoding="UTF-8"`)
	doc.AddChild(root)
	s := etree.NewIndentSettings()
	s.Spaces, s.PreserveLeafWhitespace = 2, true
	doc.IndentWithSettings(s)
	return xmldoc.Write(doc)
}

// The namespaces that are written, and their prefixes.
var namespaces = []struct{ prefix, uri string }{
	{"rasd", "http://schemas.dmtf.org/wbem/wscim/1/cim-schema/2/CIM_ResourceAllocationSettingData"},
	{"vssd", "http://schemas.dmtf.org/wbem/wscim/1/cim-schema/2/CIM_VirtualSystemSettingData"},
	{"sasd", "http://schemas.dmtf.org/wbem/wscim/1/cim-schema/2/CIM_StorageAllocationSettingData"},
	{"epasd", "http://schemas.dmtf.org/wbem/wscim/1/cim-schema/2/CIM_EthernetPortAllocationSettingData"},
	{"vmw", "http://www.vmware.com/schema/ovf"},
	{"vbox", "http://www.virtualbox.org/ovf/machine"},
}

// A writer renders an envelope.
type writer struct {
	e    *Envelope
	o    EncodeOptions
	src  *decoder // what e was decoded from, or nil
	keep bool     // parts have the identities that they have in src
	two  bool     // 2.x
	root *etree.Element

	files    []File
	disks    []VirtualDisk
	networks []Network
	losses   []machine.Loss
	lost     map[machine.Loss]bool // those that are in losses
	uuids    bool                  // VirtualBox's settings name disks by their UUIDs
	many     bool                  // several systems: their names are in the losses
	name     string                // of the system
}

func newWriter(e *Envelope, o EncodeOptions, src *decoder, keep bool) *writer {
	w := &writer{
		e: e, o: o, src: src, keep: keep, many: len(e.Systems) > 1, lost: map[machine.Loss]bool{},
		files: slices.Clone(e.Files), disks: slices.Clone(e.Disks), networks: slices.Clone(e.Networks),
	}
	if w.o.Version == "" {
		w.o.Version = "1.1"
		if o.Profile == Keep && src != nil {
			// 0.9 and 2.1 are not written.
			w.o.Version = map[string]string{"1.0": "1.0", "2.0": "2.0", "2.1": "2.0"}[e.Version]
			if w.o.Version == "" {
				w.o.Version = "1.1"
			}
			if keep {
				w.o.Version = e.Version
			}
		}
	}
	w.two = strings.HasPrefix(w.o.Version, "2")
	return w
}

func (w *writer) lose(part, format string, args ...any) {
	if w.many && w.name != "" {
		part = w.name + ": " + part
	}
	l := machine.Loss{Part: part, What: fmt.Sprintf(format, args...)}
	if !w.lost[l] {
		w.lost[l] = true
		w.losses = append(w.losses, l)
	}
}

// add makes a child with text.
func add(to *etree.Element, tag, text string) *etree.Element {
	c := to.CreateElement(tag)
	if text != "" {
		c.SetText(text)
	}
	return c
}

// addMsg makes a child with a text for people.
func addMsg(to *etree.Element, tag string, m Msg) {
	c := add(to, tag, m.Text)
	if m.ID != "" {
		c.CreateAttr("ovf:msgid", m.ID)
	}
}

func optional(e *etree.Element, key, value string) {
	if value != "" {
		e.CreateAttr(key, value)
	}
}

func (w *writer) envelope() *etree.Element {
	space := space1
	if w.two {
		space = space2
	}
	root := etree.NewElement("Envelope")
	w.root = root
	root.CreateAttr("xmlns", space)
	root.CreateAttr("xmlns:ovf", space)
	for _, n := range namespaces {
		if !w.two && (n.prefix == "sasd" || n.prefix == "epasd") {
			continue
		}
		root.CreateAttr("xmlns:"+n.prefix, n.uri)
	}
	if v := w.o.Version; v != "1.0" {
		root.CreateAttr("ovf:version", v)
	}
	optional(root, "xml:lang", w.e.Lang)
	// The systems are rendered first: they add files, disks and networks.
	contents := w.contents()
	w.name = ""
	w.references(root)
	w.diskSection(root, false)
	if w.two {
		w.diskSection(root, true)
	}
	w.networkSection(root)
	w.optionSection(root)
	for i, u := range w.e.Unknown {
		w.unknown(root, u, i, w.srcUnknown(owner{-1, -1}))
	}
	for _, c := range contents {
		root.AddChild(c)
	}
	for _, b := range w.e.Bundles {
		s := root.CreateElement("Strings")
		optional(s, "xml:lang", b.Lang)
		optional(s, "ovf:fileRef", b.FileRef)
		for _, m := range b.Messages {
			add(s, "Msg", m.Text).CreateAttr("ovf:msgid", m.ID)
		}
	}
	return root
}

func (w *writer) references(root *etree.Element) {
	refs := root.CreateElement("References")
	for _, f := range w.files {
		c := refs.CreateElement("File")
		c.CreateAttr("ovf:href", f.Href)
		c.CreateAttr("ovf:id", f.ID)
		if f.Size >= 0 {
			c.CreateAttr("ovf:size", strconv.FormatInt(f.Size, 10))
		}
		optional(c, "ovf:compression", f.Compression)
		if f.Chunk > 0 {
			c.CreateAttr("ovf:chunkSize", strconv.FormatInt(f.Chunk, 10))
		}
	}
}

func (w *writer) diskSection(root *etree.Element, shared bool) {
	var s *etree.Element
	for _, d := range w.disks {
		if w.two && d.Shared != shared {
			continue
		}
		tag := "Disk"
		if d.Shared && w.two {
			tag = "SharedDisk"
		} else if d.Shared {
			w.lose("disk "+d.ID, "OVF 1 has no shared disks: it becomes one of each machine's own")
		}
		if s == nil {
			s = root.CreateElement(map[bool]string{false: "DiskSection", true: "SharedDiskSection"}[shared])
			add(s, "Info", "Virtual disk information")
		}
		c := s.CreateElement(tag)
		switch {
		case d.CapacityText != "":
			c.CreateAttr("ovf:capacity", d.CapacityText)
			optional(c, "ovf:capacityAllocationUnits", d.CapacityUnits)
		default:
			c.CreateAttr("ovf:capacity", strconv.FormatInt(d.Capacity, 10))
			c.CreateAttr("ovf:capacityAllocationUnits", "byte")
		}
		c.CreateAttr("ovf:diskId", d.ID)
		optional(c, "ovf:fileRef", d.FileRef)
		optional(c, "ovf:format", d.Format)
		optional(c, "ovf:parentRef", d.ParentRef)
		if d.Populated >= 0 {
			c.CreateAttr("ovf:populatedSize", strconv.FormatInt(d.Populated, 10))
		}
		if d.UUID != "" && (w.keep || w.uuids || w.o.Profile == VirtualBox) {
			c.CreateAttr("vbox:uuid", d.UUID)
		}
	}
}

func (w *writer) networkSection(root *etree.Element) {
	if len(w.networks) == 0 {
		return
	}
	s := root.CreateElement("NetworkSection")
	add(s, "Info", "The list of logical networks")
	for _, n := range w.networks {
		c := s.CreateElement("Network")
		c.CreateAttr("ovf:name", n.Name)
		if n.Description != (Msg{}) {
			addMsg(c, "Description", n.Description)
		}
	}
}

func (w *writer) optionSection(root *etree.Element) {
	if len(w.e.Options) == 0 {
		return
	}
	s := root.CreateElement("DeploymentOptionSection")
	add(s, "Info", "The list of deployment options")
	for _, o := range w.e.Options {
		c := s.CreateElement("Configuration")
		c.CreateAttr("ovf:id", o.ID)
		if o.Default {
			c.CreateAttr("ovf:default", "true")
		}
		addMsg(c, "Label", o.Label)
		addMsg(c, "Description", o.Description)
	}
}

// contents renders the systems and collections, as a tree again.
func (w *writer) contents() []*etree.Element {
	var top []*etree.Element
	collections := make([]*etree.Element, len(w.e.Collections))
	// What is in a collection comes behind its sections; their own are rendered first.
	for i := range w.e.Collections {
		v := &w.e.Collections[i]
		w.name = v.Name.Text
		el := w.content("VirtualSystemCollection", &v.Content, v.Name, "A group of virtual machines")
		collections[i] = el
		if v.Annotation != (Msg{}) {
			s := el.CreateElement("AnnotationSection")
			add(s, "Info", "A human-readable annotation")
			addMsg(s, "Annotation", v.Annotation)
		}
		w.products(el, &v.Content)
		w.allocations(el, v.Resources)
		w.startup(el, v.Startup)
		for n, u := range v.Unknown {
			w.unknown(el, u, n, w.srcUnknown(owner{i, -1}))
		}
		if i == 0 {
			top = append(top, el)
		}
	}
	// The systems of a collection go before the collections in it.
	for i := range w.e.Systems {
		v := &w.e.Systems[i]
		el := w.system(v, i)
		if len(collections) == 0 {
			top = append(top, el)
		} else {
			collections[w.inside(v.Parent, len(collections))].AddChild(el)
		}
	}
	for i := 1; i < len(collections); i++ {
		collections[w.inside(w.e.Collections[i].Parent, i)].AddChild(collections[i])
	}
	if len(collections) == 0 && len(top) > 1 && !w.keep {
		// An envelope has one content: several systems need a collection.
		el := w.content("VirtualSystemCollection", &Content{ID: w.freeID("vapp")}, Msg{}, "A group of virtual machines")
		for _, s := range top {
			el.AddChild(s)
		}
		top = []*etree.Element{el}
	}
	return top
}

func (w *writer) freeID(id string) string {
	for n := 0; ; n++ {
		try := id
		if n > 0 {
			try += strconv.Itoa(n)
		}
		if !slices.ContainsFunc(w.e.Systems, func(s System) bool { return s.ID == try }) {
			return try
		}
	}
}

// inside returns an index of a collection before the one with index n: the root's for what makes no sense.
func (w *writer) inside(parent, n int) int {
	if parent < 0 || parent >= n {
		return 0
	}
	return parent
}

func (w *writer) content(tag string, c *Content, name Msg, info string) *etree.Element {
	el := etree.NewElement(tag)
	id := c.ID
	if id == "" && !w.keep {
		id = "vm"
	}
	el.CreateAttr("ovf:id", id)
	if c.Info != "" {
		info = c.Info
	}
	add(el, "Info", info)
	if name != (Msg{}) {
		addMsg(el, "Name", name)
	}
	return el
}

func (w *writer) startup(el *etree.Element, items []StartupItem) {
	if len(items) == 0 {
		return
	}
	s := el.CreateElement("StartupSection")
	// Importers that do not know the order should start the machines nevertheless.
	s.CreateAttr("ovf:required", "false")
	add(s, "Info", "The order in which the members are started")
	for _, v := range items {
		c := s.CreateElement("Item")
		c.CreateAttr("ovf:id", v.ID)
		c.CreateAttr("ovf:order", strconv.Itoa(v.Order))
		if v.StartDelay > 0 {
			c.CreateAttr("ovf:startDelay", strconv.Itoa(v.StartDelay))
		}
		if v.WaitingForGuest {
			c.CreateAttr("ovf:waitingForGuest", "true")
		}
		if v.StopDelay > 0 {
			c.CreateAttr("ovf:stopDelay", strconv.Itoa(v.StopDelay))
		}
		optional(c, "ovf:startAction", v.StartAction)
		optional(c, "ovf:stopAction", v.StopAction)
	}
}

func (w *writer) allocations(el *etree.Element, list []Allocation) {
	if len(list) == 0 {
		return
	}
	s := el.CreateElement("ResourceAllocationSection")
	s.CreateAttr("ovf:required", "false")
	add(s, "Info", "Limits of what the members use together")
	for i, v := range list {
		c := s.CreateElement("Item")
		// Attributes of items are the envelope's in 2.0 and of no namespace in the schema of 1.1, which takes both.
		optional(c, "ovf:configuration", v.Configuration)
		optional(c, "ovf:bound", v.Bound)
		if v.Units != "" {
			add(c, "rasd:AllocationUnits", v.Units)
		}
		add(c, "rasd:ElementName", v.Name)
		add(c, "rasd:InstanceID", strconv.Itoa(i+1))
		for _, f := range []struct {
			name string
			n    int64
		}{{"Limit", v.Limit}, {"Reservation", v.Reservation}, {"ResourceType", int64(v.Type)}, {"Weight", v.Weight}} {
			if f.n >= 0 {
				add(c, "rasd:"+f.name, strconv.FormatInt(f.n, 10))
			}
		}
	}
}

// products renders the ProductSections and EulaSections.
func (w *writer) products(el *etree.Element, c *Content) {
	for i := range c.Products {
		p := &c.Products[i]
		s := el.CreateElement("ProductSection")
		switch p.Required {
		case machine.On:
			s.CreateAttr("ovf:required", "true")
		case machine.Off:
			s.CreateAttr("ovf:required", "false")
		}
		optional(s, "ovf:class", p.Class)
		optional(s, "ovf:instance", p.Instance)
		info := p.Info
		if info == "" {
			info = "Information about the installed software"
		}
		add(s, "Info", info)
		for _, f := range []struct {
			tag string
			m   Msg
		}{
			{"Product", p.Name}, {"Vendor", p.Vendor}, {"Version", Msg{Text: p.Version}}, {"FullVersion", Msg{Text: p.FullVersion}},
			{"ProductUrl", Msg{Text: p.URL}}, {"VendorUrl", Msg{Text: p.VendorURL}}, {"AppUrl", Msg{Text: p.AppURL}},
		} {
			if f.m != (Msg{}) {
				addMsg(s, f.tag, f.m)
			}
		}
		for _, v := range p.Icons {
			icon := s.CreateElement("Icon")
			if v.Height > 0 {
				icon.CreateAttr("ovf:height", strconv.Itoa(v.Height))
			}
			if v.Width > 0 {
				icon.CreateAttr("ovf:width", strconv.Itoa(v.Width))
			}
			optional(icon, "ovf:mimeType", v.MimeType)
			icon.CreateAttr("ovf:fileRef", v.FileRef)
		}
		category := Msg{}
		for j := range p.Properties {
			q := &p.Properties[j]
			if q.Category != category {
				category = q.Category
				addMsg(s, "Category", category)
			}
			property(s, q)
		}
	}
	for _, m := range c.EULAs {
		s := el.CreateElement("EulaSection")
		add(s, "Info", "License agreement")
		addMsg(s, "License", m)
	}
}

func property(s *etree.Element, q *Property) {
	c := s.CreateElement("Property")
	c.CreateAttr("ovf:key", q.Key)
	typ := q.Type
	if typ == "" {
		typ = "string"
	}
	c.CreateAttr("ovf:type", typ)
	optional(c, "ovf:qualifiers", q.Qualifiers)
	if q.UserConfigurable {
		c.CreateAttr("ovf:userConfigurable", "true")
	}
	optional(c, "ovf:value", q.Value)
	if q.Password {
		c.CreateAttr("ovf:password", "true")
	}
	optional(c, "ovf:configuration", q.Configuration)
	if q.Label != (Msg{}) {
		addMsg(c, "Label", q.Label)
	}
	if q.Description != (Msg{}) {
		addMsg(c, "Description", q.Description)
	}
	for _, v := range q.Values {
		x := c.CreateElement("Value")
		x.CreateAttr("ovf:value", v.Value)
		optional(x, "ovf:configuration", v.Configuration)
	}
}

// srcUnknown returns the elements in the document that the Unknowns of a collection or system were made of, by its ID.
func (w *writer) srcUnknown(o owner) []*etree.Element {
	if w.src == nil {
		return nil
	}
	at := owner{-1, -1}
	switch {
	case o.collection >= 0:
		id := w.e.Collections[o.collection].ID
		at.collection = slices.IndexFunc(w.src.e.Collections, func(c Collection) bool { return c.ID == id })
	case o.system >= 0:
		id := w.e.Systems[o.system].ID
		at.system = slices.IndexFunc(w.src.e.Systems, func(s System) bool { return s.ID == id })
	}
	if at == (owner{-1, -1}) && o != at {
		return nil
	}
	return w.src.unknown[at]
}

// placeholder is the element that stands for an unknown section in renderings that are compared.
const placeholder = "Unknown"

// unknown copies a section that is not understood. In an envelope for another hypervisor, or version, it means nothing
// unless it is DMTF's.
func (w *writer) unknown(to *etree.Element, u Unknown, n int, from []*etree.Element) {
	if w.keep {
		// It is in the document, and stays there; this stands for it.
		to.CreateElement(placeholder).CreateAttr("name", u.Name)
		return
	}
	if n >= len(from) || kind(from[n]) != u.Name {
		from = slices.DeleteFunc(slices.Clone(from), func(e *etree.Element) bool { return kind(e) != u.Name || e.NamespaceURI() != u.Space })
		n = 0
	}
	same := u.Space == space1 && !w.two || u.Space == space2 && w.two
	ours := strings.Contains(u.Space, "vmware.com") && u.Space != space09 && w.o.Profile == VMware ||
		strings.Contains(u.Space, "virtualbox.org") && w.o.Profile == VirtualBox ||
		w.o.Profile == Keep && u.Space != space1 && u.Space != space2 && u.Space != space09
	// Hosts take UEFI for BIOS when they find it.
	if len(from) == 0 || !same && !ours || u.Name == "BootOrderSection" {
		w.lose("section "+u.Name, "left out")
		return
	}
	to.AddChild(transplant(from[n], w.root))
}

// file returns the ID of the file with a path, and adds it to the References if it is not there.
func (w *writer) file(part, p string) string {
	for i := range w.files {
		f := &w.files[i]
		if f.Href == p && f.ID != "" {
			return f.ID
		}
		if n, err := f.Name(); err == nil && n == p && f.ID != "" {
			return f.ID
		}
	}
	f := File{Href: (&url.URL{Path: path.Clean(p)}).EscapedPath(), Size: -1}
	if _, err := f.Name(); err != nil {
		w.lose(part, "its file is not in the package: %s", p)
		return ""
	}
	for n := len(w.files) + 1; ; n++ {
		f.ID = fmt.Sprintf("file%d", n)
		if !slices.ContainsFunc(w.files, func(g File) bool { return g.ID == f.ID }) {
			break
		}
	}
	w.files = append(w.files, f)
	return f.ID
}

// formatURI is the URI of a format by qemu's name.
func formatURI(name string) string {
	switch name {
	case "vmdk", "":
		return FormatVMDK
	case "vpc":
		return FormatVHD
	case "vhdx":
		return FormatVHDX
	case "qcow2":
		return FormatQcow2
	}
	return ""
}

// disk returns the ID of the VirtualDisk of a drive, which it adds if it is not there. It is empty when the drive has no
// content that can be in a package.
func (w *writer) disk(part string, v *machine.Drive) string {
	ref := ""
	if v.Media.Path != "" {
		if ref = w.file(part, v.Media.Path); ref == "" {
			return ""
		}
	}
	o := from(v.Origin)
	found := -1
	for i := range w.disks {
		d := &w.disks[i]
		if d.FileRef == ref && (ref != "" || d.ID == o.disk) && d.ID != "" && (found < 0 || d.ID == o.disk) {
			found = i
		}
	}
	if found >= 0 {
		d := &w.disks[found]
		if d.Capacity == 0 && d.CapacityText == "" {
			d.Capacity = v.Media.Capacity
		}
		if d.UUID == "" {
			d.UUID = v.Media.UUID
		}
		return d.ID
	}
	switch {
	case ref == "" && v.Media.Capacity == 0:
		what := "it has no content"
		if v.Media.Host != "" || v.Media.URL != "" {
			what = "its content is not a file: " + v.Media.Host + v.Media.URL
		}
		w.lose(part, "left out: %s", what)
		return ""
	case v.Media.Capacity == 0:
		w.lose(part, "its capacity is not known")
	}
	d := VirtualDisk{FileRef: ref, Capacity: v.Media.Capacity, Populated: -1, UUID: v.Media.UUID, Format: formatURI(v.Media.Format)}
	if v.Media.Populated > 0 {
		d.Populated = v.Media.Populated
	}
	d.ID = w.diskID("vmdisk")
	w.disks = append(w.disks, d)
	return d.ID
}

func (w *writer) diskID(prefix string) string {
	for n := len(w.disks) + 1; ; n++ {
		id := fmt.Sprintf("%s%d", prefix, n)
		if !slices.ContainsFunc(w.disks, func(d VirtualDisk) bool { return d.ID == id }) {
			return id
		}
	}
}

// patch writes the document with what was changed since it was decoded.
func (e *Envelope) patch(src *decoder) ([]byte, []machine.Loss, error) {
	was := newWriter(src.e, EncodeOptions{}, src, true)
	old := was.envelope()
	is := newWriter(e, EncodeOptions{}, src, true)
	current := is.envelope()
	losses := slices.DeleteFunc(is.losses, func(l machine.Loss) bool { return was.lost[l] })
	x, err := flat(old)
	if err != nil {
		return nil, nil, err
	}
	y, err := flat(current)
	if err != nil {
		return nil, nil, err
	}
	if bytes.Equal(x, y) {
		return bytes.Clone(e.raw), losses, nil
	}
	p := &patcher{src: src}
	p.merge(src.root, old, current)
	doc := etree.NewDocument()
	// The comments and instructions in front of the root are its document's.
	if top := src.root.Parent(); top != nil {
		for _, t := range slices.Clone(top.Child) {
			doc.AddChild(t)
		}
	} else {
		doc.AddChild(src.root)
	}
	b, err := xmldoc.Write(doc)
	return b, losses, err
}

func flat(root *etree.Element) ([]byte, error) {
	doc := etree.NewDocument()
	doc.AddChild(root)
	return doc.WriteToBytes()
}
