package vbox

import (
	"fmt"
	"path"
	"slices"
	"strconv"
	"strings"

	"github.com/beevik/etree"

	"tarvm/formats/machine"
)

// A ctl is a StorageController that is written.
type ctl struct {
	e     *etree.Element
	kind  *kind
	index int  // that the machine gives it; -1 for one that it does not have
	ports int  // that the machine says
	made  bool // it is new
	used  map[int]bool
	last  int // the count of ports that drives need which were not on it before
}

type ctlKey struct {
	bus   machine.Bus
	index int
}

// A storer writes controllers and drives.
type storer struct {
	*writer
	list []*ctl // in the document's order
	at   map[ctlKey]*ctl
}

// several is how many controllers of a kind there can be.
func (s *storer) several(k *kind) int {
	if k.several && (s.m.Chipset == "q35" || s.m.Chipset == "virt") {
		return 8
	}
	return 1
}

func (w *writer) storage() {
	if !w.fresh && w.minor < 11 {
		w.oldStorage()
		return
	}
	s := &storer{writer: w, at: map[ctlKey]*ctl{}}
	s.keep()
	s.add()
	s.drives()
	s.number()
}

// oldStorage names the changes that are not written.
func (w *writer) oldStorage() {
	bare := func(m *machine.Machine) (list []string) {
		for _, c := range m.Controllers {
			c.Origin = nil
			list = append(list, fmt.Sprintf("controller %s%d\x00%v", c.Bus, c.Index, c))
		}
		for _, d := range m.Drives {
			d.Origin = nil
			list = append(list, fmt.Sprintf("drive %s\x00%v", d.At, d))
		}
		return list
	}
	now, old := bare(w.m), bare(w.old)
	said := map[string]bool{}
	for _, x := range slices.Concat(now, old) {
		part, _, _ := strings.Cut(x, "\x00")
		if slices.Contains(now, x) != slices.Contains(old, x) && !said[part] {
			said[part] = true
			w.lose(part, "stays as it was: storage is not changed in settings before 1.11")
		}
	}
}

// keep begins with the controllers that the document has and the machine still has.
func (s *storer) keep() {
	kept := map[*etree.Element]machine.Controller{}
	for _, c := range s.m.Controllers {
		if from := s.f.of(c.Origin); from != nil && c.Bus != machine.USB {
			if _, ok := kept[from]; !ok {
				kept[from] = c
			}
		}
	}
	olds := map[*etree.Element]machine.Controller{}
	for _, c := range s.old.Controllers {
		if from := s.f.of(c.Origin); from != nil && c.Bus != machine.USB {
			olds[from] = c
			now, ok := kept[from]
			if !ok || now.Bus != c.Bus {
				remove(s.twin[from])
				delete(kept, from)
			}
		}
	}
	back := map[*etree.Element]*etree.Element{}
	for from, e := range s.twin {
		back[e] = from
	}
	for _, list := range []*etree.Element{find(s.mach, "Hardware/StorageControllers"), child(s.mach, "StorageControllers")} {
		for _, e := range children(list, "StorageController") {
			name, _ := attr(e, "type")
			i := storageType(name)
			c := &ctl{e: e, kind: storageTypes[i].kind, index: -1, used: map[int]bool{}}
			now, ok := kept[back[e]]
			switch {
			case ok:
				c.index = now.Index
				s.model(c, now, olds[back[e]])
				s.at[ctlKey{now.Bus, now.Index}] = c
			case c.kind == usbKind:
				s.at[ctlKey{machine.USB, 0}] = c
			}
			s.list = append(s.list, c)
		}
		if len(s.list) > 0 {
			break // as it was read
		}
	}
}

// model sets what changed of a controller.
func (s *storer) model(c *ctl, now, old machine.Controller) {
	part := fmt.Sprintf("controller %s%d", now.Bus, now.Index)
	if now.Model != old.Model {
		if i, exact := storageFor(now.Bus, now.Model); i >= 0 && storageTypes[i].kind == c.kind {
			setAttr(c.e, "type", storageTypes[i].vbox)
			if !exact {
				s.lose(part, "%s becomes %s", now.Model, storageTypes[i].vbox)
			}
		} else {
			s.lose(part, "stays %s", old.Model)
		}
	}
	if now.Ports != old.Ports {
		c.ports = now.Ports
	}
}

// root returns the element of storage controllers.
func (s *storer) root() *etree.Element {
	if e := child(s.mach, "StorageControllers"); e != nil && find(s.mach, "Hardware/StorageControllers") == nil {
		return e
	}
	if s.minor < 19 {
		return makePath(s.mach, "StorageControllers")
	}
	return makePath(s.mach, "Hardware/StorageControllers")
}

// create adds a controller, or returns nil when there are too many of its kind.
func (s *storer) create(i int) *ctl {
	k := storageTypes[i].kind
	n := 0
	names := map[string]bool{}
	for _, c := range s.list {
		if c.kind == k {
			n++
		}
		name, _ := attr(c.e, "name")
		names[name] = true
	}
	if n >= s.several(k) {
		return nil
	}
	name := k.name
	for j := 1; names[name]; j++ {
		name = fmt.Sprintf("%s %d", k.name, j)
	}
	e := add(s.root(), "StorageController", "name", name, "type", storageTypes[i].vbox, "PortCount", strconv.Itoa(k.ports),
		"useHostIOCache", truth(k.hostIO), "Bootable", "true")
	c := &ctl{e: e, kind: k, index: -1, made: true, used: map[int]bool{}}
	s.list = append(s.list, c)
	return c
}

// add adds the controllers that the document does not have.
func (s *storer) add() {
	list := slices.Clone(s.m.Controllers)
	for _, d := range s.m.Drives {
		if !slices.ContainsFunc(list, func(c machine.Controller) bool { return c.Bus == d.At.Bus && c.Index == d.At.Index }) {
			list = append(list, machine.Controller{Bus: d.At.Bus, Index: d.At.Index, Implied: true})
		}
	}
	// VirtualBox numbers them in the document's order.
	slices.SortStableFunc(list, func(a, b machine.Controller) int {
		if a.Bus != b.Bus {
			return 0
		}
		return a.Index - b.Index
	})
	for _, c := range list {
		if c.Bus == machine.USB || s.at[ctlKey{c.Bus, c.Index}] != nil {
			continue
		}
		part := fmt.Sprintf("controller %s%d", c.Bus, c.Index)
		i, exact := storageFor(c.Bus, c.Model)
		if i < 0 {
			if !c.Implied && c.Bus != machine.Virtio && c.Bus != machine.Xen {
				s.lose(part, "left out: VirtualBox has no such bus")
			}
			continue // its drives say what becomes of them
		}
		n := s.create(i)
		if n == nil {
			s.lose(part, "left out: VirtualBox has %d of them", s.several(storageTypes[i].kind))
			continue
		}
		n.index, n.ports = c.Index, c.Ports
		s.at[ctlKey{c.Bus, c.Index}] = n
		if !exact {
			s.lose(part, "%s becomes %s", c.Model, storageTypes[i].vbox)
		}
	}
}

// of returns a controller of a kind with a free place, which it adds if it can.
func (s *storer) of(k *kind) *ctl {
	for _, c := range s.list {
		if c.kind == k && c.free() >= 0 {
			return c
		}
	}
	for i, t := range storageTypes {
		if t.kind == k {
			return s.create(i)
		}
	}
	return nil
}

// free returns the first free unit, or -1.
func (c *ctl) free() int {
	for u := range c.kind.units() {
		if !c.used[u] && u != c.kind.reserved {
			return u
		}
	}
	return -1
}

// fits is whether a kind of controller takes a kind of drive.
func fits(k *kind, d machine.DriveKind) bool {
	switch d {
	case machine.Diskette:
		return k == floppyKind
	case machine.Optical:
		return k != floppyKind && k != nvmeKind
	}
	return k != floppyKind
}

func (s *storer) drives() {
	olds := map[*etree.Element]machine.Drive{}
	for _, d := range s.old.Drives {
		olds[s.f.of(d.Origin)] = d
	}
	mine := make([]*etree.Element, len(s.m.Drives))
	used := map[*etree.Element]bool{}
	for i, d := range s.m.Drives {
		from := s.f.of(d.Origin)
		if _, ok := olds[from]; ok && from != nil && !used[from] {
			used[from], mine[i] = true, from
		}
	}
	for _, d := range s.old.Drives {
		if from := s.f.of(d.Origin); !used[from] {
			remove(s.twin[from])
		}
	}
	// Those whose place is there come first, so that nobody else gets it.
	type place struct {
		c    *ctl
		unit int
	}
	places := make([]place, len(s.m.Drives))
	possible := make([]bool, len(s.m.Drives))
	for i, d := range s.m.Drives {
		var old machine.Drive
		if mine[i] != nil {
			old = olds[mine[i]]
		}
		// What is there stays, even if VirtualBox would refuse it.
		if possible[i] = s.possible(d) || (d.Kind == old.Kind && d.Media == old.Media); !possible[i] {
			continue
		}
		c := s.at[ctlKey{d.At.Bus, d.At.Index}]
		if c == nil && d.At.Bus == machine.USB && d.Kind != machine.Diskette {
			if c = s.of(usbKind); c != nil {
				s.at[ctlKey{d.At.Bus, d.At.Index}] = c
			}
		}
		same := mine[i] != nil && old.At == d.At
		if c != nil && !c.used[d.At.Unit] && (same || (d.At.Unit >= 0 && d.At.Unit < c.kind.units() && fits(c.kind, d.Kind))) {
			c.used[d.At.Unit] = true
			if !same || c.made {
				c.last = max(c.last, d.At.Unit/c.kind.devices+1)
			}
			places[i] = place{c, d.At.Unit}
		}
	}
	for i, d := range s.m.Drives {
		part := "drive " + d.At.String()
		if !possible[i] {
			s.impossible(part, d)
			if mine[i] != nil {
				remove(s.twin[mine[i]])
			}
			continue
		}
		p := places[i]
		if p.c == nil {
			if p.c, p.unit = s.elsewhere(d); p.c == nil {
				s.lose(part, "left out: no place is free")
				if mine[i] != nil {
					remove(s.twin[mine[i]])
				}
				continue
			}
			p.c.used[p.unit] = true
			p.c.last = max(p.c.last, p.unit/p.c.kind.devices+1)
			name, _ := attr(p.c.e, "name")
			s.lose(part, "moves to %s, port %d", name, p.unit/p.c.kind.devices)
		}
		var e *etree.Element
		old := machine.Drive{}
		if mine[i] != nil {
			old, e = olds[mine[i]], s.twin[mine[i]]
			if e.Parent() != p.c.e {
				remove(e)
				insert(p.c.e, e)
			}
		} else {
			e = add(p.c.e, "AttachedDevice", "type", "")
		}
		s.drive(part, e, d, old)
		if port := strconv.Itoa(p.unit / p.c.kind.devices); mine[i] == nil || d.At != old.At || places[i].c == nil {
			setAttr(e, "port", port)
			setAttr(e, "device", strconv.Itoa(p.unit%p.c.kind.devices))
		}
	}
}

// possible is whether VirtualBox can have a drive.
func (s *storer) possible(d machine.Drive) bool {
	switch d.Kind {
	case machine.Disk:
		if s.media[d.Media.UUID] == nil && !formatKnown(d.Media) {
			return false // VirtualBox would refuse all the settings
		}
		known := d.Media.UUID != "" && (s.element || s.media[d.Media.UUID] != nil || !s.fresh)
		return d.Media.Path != "" || known || (d.Media.URL != "" && s.media[d.Media.UUID] != nil)
	case machine.Optical, machine.Diskette:
		return true
	}
	return false
}

func (s *storer) impossible(part string, d machine.Drive) {
	switch {
	case d.Kind != machine.Disk:
		s.lose(part, "%s left out", d.Kind)
	case !formatKnown(d.Media):
		s.lose(part, "left out: VirtualBox does not read images in %s", d.Media.Format)
	case d.Media.URL != "":
		s.lose(part, "left out: VirtualBox does not reach %s", d.Media.URL)
	case d.Media.Host != "":
		s.lose(part, "left out: VirtualBox has no disk %s of the host without an image that names it", d.Media.Host)
	default:
		s.lose(part, "left out: a disk needs an image")
	}
}

// elsewhere finds a place for a drive whose own there is not.
func (s *storer) elsewhere(d machine.Drive) (*ctl, int) {
	var kinds []*kind
	if d.Kind == machine.Diskette {
		kinds = []*kind{floppyKind}
	} else {
		model := ""
		if c := s.m.Controller(d.At.Bus, d.At.Index); c != nil {
			model = c.Model
		}
		if i, _ := storageFor(d.At.Bus, model); i >= 0 {
			kinds = append(kinds, storageTypes[i].kind)
		}
		kinds = append(kinds, sataKind, sasKind)
	}
	for _, k := range kinds {
		if fits(k, d.Kind) {
			if c := s.of(k); c != nil {
				return c, c.free()
			}
		}
	}
	return nil, 0
}

// drive sets what changed of a drive.
func (s *storer) drive(part string, e *etree.Element, d, old machine.Drive) {
	if d.Kind != old.Kind {
		t := map[machine.DriveKind]string{machine.Disk: "HardDisk", machine.Optical: "DVD", machine.Diskette: "Floppy"}
		setAttr(e, "type", t[d.Kind])
	}
	flag := func(key string, now, old machine.Switch) {
		if now != old {
			dropAttr(e, key)
			if now != machine.Unsaid {
				setAttr(e, key, truth(now == machine.On))
			}
		}
	}
	if d.Kind == machine.Disk {
		flag("nonrotational", d.SSD, old.SSD)
		flag("discard", d.Discard, old.Discard)
	} else if d.SSD == machine.On || d.Discard == machine.On {
		s.lose(part, "what is said of the disk's kind is left out")
	}
	flag("hotpluggable", d.Removable, old.Removable)
	media := d.Media
	if d.Connected == machine.Off {
		if d.Kind == machine.Disk {
			s.lose(part, "is connected at the start")
		} else if media != (machine.Media{}) {
			s.lose(part, "nothing is inserted: it was not connected")
			media = machine.Media{}
		}
	}
	for _, x := range []struct{ what, value string }{{"cache", d.Cache}, {"serial number", d.Serial}} {
		if x.value != "" {
			s.lose(part, "%s %s left out", x.what, x.value)
		}
	}
	// Equality is of what VirtualBox can say.
	if media.Path != old.Media.Path || media.UUID != old.Media.UUID || media.Host != old.Media.Host || media.URL != old.Media.URL || media.Format != old.Media.Format {
		s.medium(part, e, d.Kind, media)
	} else if media.UUID != "" {
		s.written[media.UUID] = media.Path
	}
	s.use(part, e, d, old)
}

// medium puts an image or a drive of the host into a drive.
func (s *storer) medium(part string, e *etree.Element, kind machine.DriveKind, m machine.Media) {
	image := ""
	switch {
	case m.Path != "", m.UUID != "" && m.Host == "" && m.URL == "":
		image = s.register(part, kind, m)
	case m.URL != "":
		if s.media[m.UUID] != nil {
			image = m.UUID
			break
		}
		s.lose(part, "nothing is inserted: VirtualBox does not reach %s", m.URL)
	}
	if was, ok := attr(child(e, "Image"), "uuid"); ok && image != "" {
		if u, _ := parseUUID(was); u == image {
			return
		}
	}
	for _, tag := range []string{"Image", "HostDrive"} {
		for _, c := range children(e, tag) {
			remove(c)
		}
	}
	switch {
	case image != "":
		add(e, "Image", "uuid", braces(image))
	case m.Host == "auto":
		s.lose(part, "nothing is inserted: it is not said which drive of the host")
	case m.Host != "" && m.Path == "":
		add(e, "HostDrive", "src", s.clean(part, m.Host))
	}
}

// registry finds the images that the document knows.
func (w *writer) registry() {
	reg := child(w.mach, "MediaRegistry")
	var tree func(e *etree.Element, tag string)
	tree = func(e *etree.Element, tag string) {
		for _, c := range children(e, tag) {
			if s, ok := attr(c, "uuid"); ok {
				if u, ok := parseUUID(s); ok && u != "" {
					w.media[u] = c
				}
			}
			tree(c, tag)
		}
	}
	tree(child(reg, "HardDisks"), "HardDisk")
	tree(child(reg, "DVDImages"), "Image")
	tree(child(reg, "FloppyImages"), "Image")
}

// register puts an image into the registry and returns its UUID; "" if it cannot be there.
func (s *storer) register(part string, kind machine.DriveKind, m machine.Media) string {
	u := s.wanted(part, m.UUID)
	if u == "" {
		if m.Path == "" {
			return ""
		}
		u = derived("medium\n" + m.Path)
	}
	if p, ok := s.written[u]; ok && p != m.Path && s.err == nil {
		s.err = fmt.Errorf("vbox: %s: %s and %s have the UUID %s: %w", part, p, m.Path, u, machine.ErrUnsupported)
	}
	s.written[u] = m.Path
	e := s.media[u]
	if e == nil {
		if m.Path == "" {
			if !s.element && s.fresh {
				s.lose(part, "nothing is inserted: where image %s is, is not said", u)
				return ""
			}
			return u
		}
		place, tag := "MediaRegistry/HardDisks", "HardDisk"
		switch kind {
		case machine.Optical:
			place, tag = "MediaRegistry/DVDImages", "Image"
		case machine.Diskette:
			place, tag = "MediaRegistry/FloppyImages", "Image"
		}
		e = add(makePath(s.mach, place), tag, "uuid", braces(u), "location", s.clean(part, m.Path))
		s.media[u] = e
		if kind == machine.Disk {
			setAttr(e, "format", format(m))
			setAttr(e, "type", "Normal")
		}
		return u
	}
	if is, _ := attr(e, "location"); m.Path != "" && slashes(is) != m.Path {
		setAttr(e, "location", s.clean(part, m.Path))
	}
	if e.Tag == "HardDisk" && m.Format != "" {
		is, _ := attr(e, "format")
		if word, _ := imageFormats.word(is); word != m.Format {
			if formatKnown(m) {
				setAttr(e, "format", format(m))
			} else {
				s.lose(part, "stays %s, not %s", is, m.Format)
			}
		}
	}
	return u
}

// formatKnown is whether VirtualBox has a name for an image's format.
func formatKnown(m machine.Media) bool {
	_, ok := imageFormats.vbox(m.Format)
	return ok || m.Format == ""
}

// format is VirtualBox's name of an image's format.
func format(m machine.Media) string {
	word := m.Format
	if word == "" {
		word = strings.TrimPrefix(strings.ToLower(path.Ext(m.Path)), ".")
		switch word {
		case "vhd":
			word = "vpc"
		case "hdd":
			word = "parallels"
		case "img":
			word = "raw"
		}
	}
	if name, ok := imageFormats.vbox(word); ok {
		return name
	}
	return "VDI"
}

// use sets how a disk is used, which is said of the root of its tree of images.
func (s *storer) use(part string, e *etree.Element, d, old machine.Drive) {
	if d.Kind != machine.Disk {
		if d.ReadOnly == machine.On && d.Kind == machine.Diskette {
			s.lose(part, "can be written")
		}
		return
	}
	is, _ := attr(child(e, "Image"), "uuid")
	u, _ := parseUUID(is)
	image := s.media[u]
	if image == nil || u == "" {
		return
	}
	root := image
	for p := root.Parent(); p != nil && p.Tag == "HardDisk"; p = p.Parent() {
		root = p
	}
	same := d.Media.UUID == old.Media.UUID
	if !same {
		old = machine.Drive{}
	}
	if d.Transient != old.Transient {
		if d.Transient == machine.On {
			s.lose(part, "what is written to it is kept")
		} else {
			dropAttr(image, "autoReset")
		}
	}
	if d.Independent == old.Independent && d.Shared == old.Shared && d.ReadOnly == old.ReadOnly {
		return
	}
	t := "Normal"
	set := 0
	for _, x := range []struct {
		on   machine.Switch
		name string
	}{{d.ReadOnly, "Readonly"}, {d.Independent, "Writethrough"}, {d.Shared, "Shareable"}} {
		if x.on == machine.On {
			t = x.name
			set++
		}
	}
	if set > 1 {
		s.lose(part, "is %s alone", t)
	}
	setAttr(root, "type", t)
}

// number sets the counts of ports, and says which controllers got another number.
func (s *storer) number() {
	count := map[machine.Bus]int{}
	for _, c := range s.list {
		if c.kind != usbKind {
			index := count[c.kind.bus]
			count[c.kind.bus]++
			if c.index >= 0 && c.index != index {
				s.lose(fmt.Sprintf("controller %s%d", c.kind.bus, c.index), "becomes %s%d", c.kind.bus, index)
			}
		}
		is, _ := attr(c.e, "PortCount")
		n, err := natural(is)
		if err != nil {
			n = 0
		}
		have := int(n)
		was := have
		switch {
		case c.kind.fixed:
			if c.ports != 0 && c.ports != have {
				s.lose(fmt.Sprintf("controller %s%d", c.kind.bus, c.index), "%d ports become %d", c.ports, have)
			}
		case c.ports > 0:
			for u := range c.used {
				c.last = max(c.last, u/c.kind.devices+1)
			}
			have = max(min(c.ports, c.kind.ports), c.last)
			if have != c.ports {
				s.lose(fmt.Sprintf("controller %s%d", c.kind.bus, c.index), "%d ports become %d", c.ports, have)
			}
		case c.made:
			have = max(c.last, 1)
		default:
			have = max(have, c.last)
		}
		if have != was && have > 0 {
			setAttr(c.e, "PortCount", strconv.Itoa(have))
		}
	}
}

// usb writes the controllers of USB.
func (w *writer) usb() {
	if w.minor <= 14 && !w.fresh && find(w.mach, "Hardware/USB") == nil {
		w.oldUSB()
		return
	}
	const place = "Hardware/USB/Controllers"
	olds := map[*etree.Element]machine.Controller{}
	for _, c := range w.old.Controllers {
		if from := w.f.of(c.Origin); from != nil && c.Bus == machine.USB {
			olds[from] = c
		}
	}
	used := map[*etree.Element]bool{}
	models := map[string]bool{}
	var missing []machine.Controller
	for _, c := range w.m.Controllers {
		if c.Bus != machine.USB || c.Implied {
			continue
		}
		from := w.f.of(c.Origin)
		if old, ok := olds[from]; ok && from != nil && !used[from] && old.Model == c.Model {
			used[from] = true
			models[c.Model] = true
			continue
		}
		missing = append(missing, c)
	}
	for from := range olds {
		if !used[from] {
			remove(w.twin[from])
		}
	}
	tablet := w.fresh && len(missing) == 0 && slices.ContainsFunc(w.m.Inputs, func(i machine.Input) bool { return i.Bus == "usb" })
	if tablet {
		missing = append(missing, machine.Controller{Bus: machine.USB, Model: "ohci"}) // or it would not start
	}
	for _, c := range missing {
		part := fmt.Sprintf("controller usb%d", c.Index)
		model := c.Model
		if _, ok := usbModels.vbox(model); !ok {
			if model != "" {
				w.lose(part, "%s becomes ohci", model)
			}
			model = "ohci"
		}
		if models[model] {
			w.lose(part, "left out: VirtualBox has one %s", model)
			continue
		}
		models[model] = true
		t, _ := usbModels.vbox(model)
		name := t
		if t == "XHCI" {
			name = "xHCI"
		}
		add(makePath(w.mach, place), "Controller", "name", name, "type", t)
	}
}

// oldUSB sets the two flags of settings up to 1.14.
func (w *writer) oldUSB() {
	has := func(m *machine.Machine, model string) bool {
		return slices.ContainsFunc(m.Controllers, func(c machine.Controller) bool {
			return c.Bus == machine.USB && c.Model == model && !c.Implied
		})
	}
	for _, x := range []struct{ model, key string }{{"ohci", "enabled"}, {"ehci", "enabledEhci"}} {
		if now := has(w.m, x.model); now != has(w.old, x.model) {
			w.set("Hardware/USBController", x.key, truth(now))
		}
	}
	for _, c := range w.m.Controllers {
		if c.Bus == machine.USB && !c.Implied && c.Model != "ohci" && c.Model != "ehci" {
			w.lose(fmt.Sprintf("controller usb%d", c.Index), "%s left out: settings of VirtualBox 4.3 have none", c.Model)
		}
	}
}

// forget removes the images from the registry that drives had and nobody has.
func (w *writer) forget() {
	if w.fresh {
		return
	}
	had := map[string]bool{}
	for _, d := range w.old.Drives {
		had[d.Media.UUID] = d.Media.UUID != ""
	}
	var walk func(e *etree.Element)
	walk = func(e *etree.Element) {
		for _, c := range e.ChildElements() {
			if c.Tag == "Image" && e.Tag != "DVDImages" && e.Tag != "FloppyImages" {
				if s, ok := attr(c, "uuid"); ok {
					u, _ := parseUUID(s)
					delete(had, u)
				}
			}
			walk(c)
		}
	}
	walk(w.mach)
	for u, ok := range had {
		if e := w.media[u]; ok && e != nil && len(children(e, "HardDisk")) == 0 {
			remove(e)
		}
	}
}
