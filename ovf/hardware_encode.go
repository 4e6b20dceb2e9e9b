package ovf

import (
	"crypto/sha256"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"

	"github.com/beevik/etree"

	"tarvm/formats/machine"
)

// A rack is a VirtualHardwareSection that is being written.
type rack struct {
	*writer
	v       *System
	m       *machine.Machine
	got     *decoded // where its parts are in the document, or nil
	profile Profile
	hw      int // vmx-NN

	used  map[string]bool // identities
	ids   map[string]string
	last  int64
	items [3][]*etree.Element // Item, EthernetPortItem, StorageItem
	slots []*slot
	nvram string     // the ID of the file of the firmware's variables
	drive []attached // in the machine's order
}

// A slot is a controller that is written, with the units that are taken.
type slot struct {
	bus     machine.Bus
	index   int
	model   string
	source  *machine.Controller
	id      [2]string // InstanceID; of IDE, one for each channel
	taken   map[int]bool
	implied bool
}

// attached is a drive and where it goes.
type attached struct {
	d    *machine.Drive
	at   *slot
	unit int
	disk string // ID of its VirtualDisk
}

// system renders a VirtualSystem.
func (w *writer) system(v *System, index int) *etree.Element {
	m := v.Machine
	if m == nil {
		m = &machine.Machine{}
	}
	w.name = m.Name
	r := &rack{writer: w, v: v, m: m, used: map[string]bool{}, ids: map[string]string{}}
	r.profile = w.o.Profile
	if r.profile == Keep {
		r.profile = Generic
		if w.src != nil {
			r.profile = map[string]Profile{"virtualbox": VirtualBox, "xen": Xen}[m.Platform]
			if r.profile == Keep {
				r.profile = VMware
			}
		}
	}
	if w.src != nil {
		for i := range w.src.e.Systems {
			if w.src.e.Systems[i].ID == v.ID {
				r.got = w.src.systems[i]
				break
			}
		}
	}
	if w.keep && r.got != nil {
		r.last = r.got.maxID
	}
	name := v.Name
	if m.Name != "" && strings.TrimSpace(name.Text) != m.Name {
		name = Msg{Text: m.Name}
	}
	if w.o.Profile != Keep && name.Text == "" {
		name = Msg{Text: v.ID}
	}
	el := w.content("VirtualSystem", &v.Content, name, "A virtual machine")
	if m.Notes != "" {
		s := el.CreateElement("AnnotationSection")
		add(s, "Info", "A human-readable annotation")
		add(s, "Annotation", m.Notes)
	}
	w.products(el, &v.Content)
	r.guest(el)
	hardware := r.hardware(name.Text)
	el.AddChild(hardware)
	if v.Install != nil {
		s := el.CreateElement("InstallSection")
		s.CreateAttr("ovf:initialBootStopDelay", strconv.Itoa(v.Install.StopDelay))
		add(s, "Info", "It restarts once for its own setup")
	}
	switch {
	case len(v.EnvironmentFiles) == 0:
	case !w.two:
		w.lose("environment files", "left out: OVF 1 has none")
	default:
		s := el.CreateElement("EnvironmentFilesSection")
		add(s, "Info", "Files for the guest")
		for _, f := range v.EnvironmentFiles {
			c := s.CreateElement("File")
			c.CreateAttr("ovf:fileRef", f.FileRef)
			c.CreateAttr("ovf:path", f.Path)
		}
	}
	switch {
	case r.profile == VirtualBox:
		r.box(el)
	case r.o.Profile == Keep && r.got != nil && r.got.copied, !r.keep && r.profile == Generic && m.Firmware.Type == "efi":
		r.copyBox(el, index)
	}
	for n, u := range v.Unknown {
		w.unknown(el, u, n, w.srcUnknown(owner{-1, index}))
	}
	return el
}

func (r *rack) guest(el *etree.Element) {
	g := r.m.Guest
	if g == (machine.Guest{}) {
		return
	}
	s := el.CreateElement("OperatingSystemSection")
	id, vmw, box := guestNames(g, r.keep)
	s.CreateAttr("ovf:id", strconv.Itoa(id))
	optional(s, "ovf:version", g.CIMVersion)
	if vmw != "" && (r.keep || r.profile == VMware || r.profile == Generic) {
		s.CreateAttr("vmw:osType", vmw)
	}
	add(s, "Info", "The kind of installed guest operating system")
	if t := g.Text; t != "" {
		add(s, "Description", t)
	} else if t = g.Describe(); t != "" && !r.keep {
		add(s, "Description", t)
	}
	if box != "" && (r.keep || r.profile == VirtualBox || r.profile == Generic) {
		add(s, "vbox:OSType", box).CreateAttr("ovf:required", "false")
	}
}

// guestNames returns what a guest is called by CIM, by vSphere and by VirtualBox. With keep these are only the words that
// were said.
func guestNames(g machine.Guest, keep bool) (cim int, vsphere, box string) {
	if keep {
		if g.VMware != "" {
			vsphere = machine.Guest{VMware: g.VMware}.InVSphere()
		}
		return g.CIM, vsphere, g.VirtualBox
	}
	if cim, _ = g.InCIM(); cim == 0 {
		cim = 1 // other
	}
	return cim, g.InVSphere(), g.InVirtualBox()
}

// family returns the family of virtual hardware to be written.
func (r *rack) family() string {
	mine := r.m.Version
	if r.keep {
		if len(r.v.Families) > 0 && slices.Contains(r.v.Families, mine) {
			return strings.Join(r.v.Families, " ")
		}
		return mine
	}
	prefix, other := "vmx-", DefaultHardware
	switch r.profile {
	case VirtualBox:
		prefix, other = "virtualbox", "virtualbox-2.2"
	case Xen:
		prefix, other = "xen", "xen-3"
	}
	switch {
	case r.o.Hardware != "":
		return r.o.Hardware
	case strings.HasPrefix(mine, prefix) && prefix != "xen" && r.profile != Generic:
		return mine
	case strings.HasPrefix(mine, "xen-") && r.profile == Xen:
		return mine
	}
	return other
}

// identify returns the InstanceID for a part: with keep that which it has in the document, else the next one.
func (r *rack) identify(old string) string {
	if r.keep && r.got != nil && old != "" && !r.used[old] && r.got.items[old] != nil {
		r.used[old] = true
		return old
	}
	r.last++
	id := strconv.FormatInt(r.last, 10)
	if old != "" {
		r.ids[old] = id
	}
	return id
}

func (r *rack) hardware(name string) *etree.Element {
	s := etree.NewElement("VirtualHardwareSection")
	optional(s, "ovf:transport", strings.Join(r.v.Transports, " "))
	add(s, "Info", "Virtual hardware requirements")
	family := r.family()
	if _, n, ok := strings.Cut(family, "vmx-"); ok {
		r.hw, _ = strconv.Atoi(n)
	}
	if !r.keep || r.got == nil || r.got.hardware != nil && child(r.got.hardware, "System") != nil || family != "" {
		sys := s.CreateElement("System")
		add(sys, "vssd:ElementName", "Virtual Hardware Family")
		add(sys, "vssd:InstanceID", "0")
		if name == "" {
			name = r.v.ID
		}
		add(sys, "vssd:VirtualSystemIdentifier", name)
		add(sys, "vssd:VirtualSystemType", family)
	}
	r.processors()
	r.memory()
	r.layout()
	r.controllers()
	r.drives()
	r.devices()
	r.nics()
	for _, list := range r.items {
		for _, c := range list {
			s.AddChild(c)
		}
	}
	r.settings(s)
	r.leftOut()
	return s
}

// An entry is an item to be written. Fields go in the order of their names, as the schemas have it.
type entry struct {
	kind     int
	old      string // the identity in the document
	id       string // InstanceID, if it has been given already
	fields   map[string]string
	required machine.Switch
	config   [][2]string
	extra    [][2]string // elements of VMware's, by name and text
}

func (r *rack) write(x entry) string {
	if x.id == "" {
		x.id = r.identify(x.old)
	}
	tag, prefix, list := "Item", "rasd:", 0
	if r.two {
		switch x.kind {
		case typeEthernet:
			tag, prefix, list = "EthernetPortItem", "epasd:", 1
		case typeDisk, typeCD, typeDVD, typeFloppy, typeExtent:
			tag, prefix, list = "StorageItem", "sasd:", 2
		}
	}
	el := etree.NewElement(tag)
	if x.required == machine.Off {
		el.CreateAttr("ovf:required", "false")
	}
	x.fields["InstanceID"] = x.id
	x.fields["ResourceType"] = strconv.Itoa(x.kind)
	for _, k := range slices.Sorted(maps.Keys(x.fields)) {
		if x.fields[k] != "" {
			add(el, prefix+k, x.fields[k])
		}
	}
	for _, c := range x.extra {
		add(el, "vmw:"+c[0], c[1]).CreateAttr("ovf:required", "false")
	}
	for _, c := range x.config {
		setting(el, "Config", c[0], c[1])
	}
	r.extras(el, x.old)
	r.items[list] = append(r.items[list], el)
	return x.id
}

// setting adds a vmw:Config. None is required: hosts that do not know it would refuse the package.
func setting(el *etree.Element, name, key, value string) {
	c := el.CreateElement("vmw:" + name)
	c.CreateAttr("ovf:required", "false")
	c.CreateAttr("vmw:key", key)
	c.CreateAttr("vmw:value", value)
}

// extras copies what VMware's programs said of a part to an envelope that is for them again.
func (r *rack) extras(el *etree.Element, old string) {
	if r.keep || r.got == nil || old == "" || (r.profile != VMware && r.o.Profile != Keep) {
		return
	}
	r.vmware(el, r.got.items[old])
}

// identities are settings of VMware's that tell a machine from its copies.
var identities = []string{keyUUID, keyBIOS, "uuid.location", "vc.uuid"}

func (r *rack) vmware(to, from *etree.Element) {
	if from == nil {
		return
	}
	for _, c := range from.ChildElements() {
		if !strings.Contains(c.NamespaceURI(), "vmware.com/schema/ovf") || c.NamespaceURI() == space09 || c.Tag == "Item" {
			continue
		}
		key := attr(c, "key")
		if key == "" && child(to, c.Tag) != nil {
			continue
		}
		if _, ok := config(to, c.Tag, key); ok || key == "nvram" || r.o.NewIdentity && slices.Contains(identities, strings.ToLower(key)) {
			continue
		}
		n := transplant(c, r.root)
		to.AddChild(n)
	}
}

func (r *rack) processors() {
	n := r.m.CPU.Count
	if n == 0 {
		if r.keep {
			return
		}
		n = 1
		r.lose("cpu", "how many there are is not said: 1")
	}
	x := entry{kind: typeCPU, old: r.find(typeCPU), fields: map[string]string{
		"AllocationUnits": "hertz * 10^6", "Description": "Number of Virtual CPUs", "ElementName": fmt.Sprintf("%d virtual CPU(s)", n),
		"VirtualQuantity": strconv.Itoa(n),
	}}
	if r.m.CPU.Cores > 0 && r.profile != Xen && (r.profile != VirtualBox || r.keep) {
		x.extra = [][2]string{{"CoresPerSocket", strconv.Itoa(r.m.CPU.Cores)}}
	} else if r.m.CPU.Cores > 1 && r.profile == Xen {
		r.lose("cpu", "%d cores in a socket: left out", r.m.CPU.Cores)
	}
	r.write(x)
}

// find returns the identity of the first item of a kind in the document.
func (r *rack) find(kind int) string {
	if r.got == nil {
		return ""
	}
	best, found := "", false
	for key, el := range r.got.items {
		if word(child(el, "ResourceType")) == strconv.Itoa(kind) && (!found || el.Index() < r.got.items[best].Index()) {
			best, found = key, true
		}
	}
	return best
}

func (r *rack) memory() {
	n := r.m.Memory.Bytes
	if n == 0 {
		if r.keep {
			return
		}
		n = 1 << 30
		r.lose("memory", "its size is not said: 1024 MiB")
	}
	mb := n >> 20
	if n&(1<<20-1) != 0 && !r.keep {
		// Readers take any other unit for this one.
		mb++
		r.lose("memory", "%d bytes become %d MiB", n, mb)
	}
	units, number := "byte * 2^20", mb
	if r.keep && n&(1<<20-1) != 0 {
		units, number = "byte", n
	}
	r.write(entry{kind: typeMemory, old: r.find(typeMemory), fields: map[string]string{
		"AllocationUnits": units, "Description": "Memory Size", "ElementName": fmt.Sprintf("%dMB of memory", mb),
		"VirtualQuantity": strconv.FormatInt(number, 10),
	}})
}

// A rule says where drives of a bus go that a profile has not.
func (r *rack) bus(d *machine.Drive) machine.Bus {
	b := d.At.Bus
	optical := d.Kind == machine.Optical
	switch {
	case d.Kind == machine.Diskette, b == machine.Floppy:
		return machine.Floppy
	case r.keep && (b == machine.IDE || b == machine.SCSI || b == machine.SATA || b == machine.NVMe):
		return b
	}
	switch r.profile {
	case Generic, Xen:
		// vcsim, which stands for vSphere here, knows no other places than these.
		if optical || b == machine.IDE {
			return machine.IDE
		}
		return machine.SCSI
	case VirtualBox:
		switch b {
		case machine.IDE, machine.SCSI, machine.SATA, machine.NVMe:
			return b
		}
		if optical {
			return machine.IDE
		}
		return machine.SATA
	}
	switch {
	case b == machine.IDE || b == machine.SCSI, b == machine.SATA && r.hw >= 10, b == machine.NVMe && r.hw >= 13:
		return b
	case optical:
		return machine.IDE
	}
	return machine.SCSI
}

// limit returns how many controllers of a bus there may be, and how many units each has.
func (r *rack) limit(b machine.Bus) (controllers, units int) {
	if r.keep {
		return maxControllers, maxUnit
	}
	many := 4
	if r.profile != VMware {
		many = 1
	}
	switch b {
	case machine.IDE:
		return 1, 4
	case machine.SATA:
		return many, 30
	case machine.NVMe:
		return many, 15
	case machine.Floppy:
		return 1, 2
	}
	if r.profile == VirtualBox {
		many = 3 // one of each model: see slot
	}
	return many, 16
}

// model returns what a controller becomes.
func (r *rack) model(c *machine.Controller) string {
	if r.keep || c.Bus != machine.SCSI {
		return c.Model
	}
	switch {
	case c.Model == "buslogic", c.Model == "lsilogic", c.Model == "lsisas1068", c.Model == "vmpvscsi" && r.profile != VirtualBox,
		c.Model == "virtio-scsi" && r.profile == VirtualBox:
		return c.Model
	case c.Model == "lsisas1078":
		return "lsisas1068"
	}
	return "lsilogic"
}

// place returns the controller with an index, or of a model, and makes it if there may be another.
func (r *rack) place(b machine.Bus, index int, c *machine.Controller) *slot {
	most, _ := r.limit(b)
	model := ""
	if c != nil {
		model = r.model(c)
	} else if b == machine.SCSI && !r.keep {
		model = "lsilogic"
	}
	n := 0
	var last *slot
	for _, s := range r.slots {
		if s.bus != b {
			continue
		}
		if s.index == index {
			return s
		}
		// VirtualBox takes one controller of each model.
		if b == machine.SCSI && !r.keep && (r.profile == VirtualBox || r.profile == Generic || r.profile == Xen) && s.model == model {
			return s
		}
		n++
		last = s
	}
	if n >= most {
		return last
	}
	s := &slot{bus: b, index: n, model: model, source: c, taken: map[int]bool{}, implied: c == nil}
	if r.keep || r.profile == VMware {
		s.index = index
	}
	r.slots = append(r.slots, s)
	return s
}

// layout says which controllers there are and where each drive goes.
func (r *rack) layout() {
	for i := range r.m.Controllers {
		c := &r.m.Controllers[i]
		switch c.Bus {
		case machine.IDE, machine.SCSI, machine.SATA, machine.NVMe:
		default:
			continue
		}
		if to := r.bus(&machine.Drive{Kind: machine.Disk, At: machine.Address{Bus: c.Bus}}); to != c.Bus {
			if to = r.bus(&machine.Drive{Kind: machine.Optical, At: machine.Address{Bus: c.Bus}}); to != c.Bus {
				continue
			}
		}
		if c.Implied && r.keep {
			continue
		}
		s := r.place(c.Bus, c.Index, c)
		switch was := c.Model; {
		case s.source != c:
			r.lose(fmt.Sprintf("controller %s%d", c.Bus, c.Index), "becomes one with %s%d", s.bus, s.index)
		case was != "" && was != s.model:
			r.lose(fmt.Sprintf("controller %s%d", c.Bus, c.Index), "%s becomes %s", was, s.model)
		case was != "" && c.Bus == machine.IDE && r.profile != VirtualBox && !r.keep:
			r.lose(fmt.Sprintf("controller %s%d", c.Bus, c.Index), "%s: the model is not said", was)
		}
	}
	// Those that stay where they are go first, so that others do not take their places.
	list := make([]attached, len(r.m.Drives))
	for pass := range 2 {
		for i := range r.m.Drives {
			d := &r.m.Drives[i]
			if list[i].d != nil {
				continue
			}
			to := r.bus(d)
			if moved := to != d.At.Bus; moved == (pass == 0) {
				continue
			}
			list[i] = r.seat(d, to)
		}
	}
	for _, a := range list {
		if a.d != nil && a.at != nil {
			r.drive = append(r.drive, a)
		}
	}
}

// seat finds a place for a drive on a bus.
func (r *rack) seat(d *machine.Drive, to machine.Bus) attached {
	part := "drive " + d.At.String()
	if d.Kind == machine.LUN {
		r.lose(part, "left out: it is a device of the host")
		return attached{}
	}
	if to == machine.Floppy && r.profile == Xen && !r.keep {
		r.lose(part, "left out: Xen takes no floppy drive from an OVF")
		return attached{}
	}
	var c *machine.Controller
	index := 0
	if to == d.At.Bus {
		index = d.At.Index
		c = r.m.Controller(to, index)
	}
	s := r.place(to, index, c)
	_, units := r.limit(to)
	free := func(s *slot, n int) bool {
		return n < units && !s.taken[n] && (s.bus != machine.SCSI || n != 7 || r.keep || r.profile == VirtualBox)
	}
	unit := d.At.Unit
	if to != d.At.Bus || s.index != d.At.Index && r.keep || !free(s, unit) {
		unit = 0
	}
	for ; !free(s, unit) && unit < units; unit++ {
	}
	// What has no place on the one SCSI controller of a model that VirtualBox takes goes to a SATA controller, which all but vcsim take.
	overflow := (r.profile == Generic || r.profile == VirtualBox) && !r.keep && d.Kind == machine.Disk
	if unit >= units && to != machine.SCSI && to != machine.Floppy && !r.keep && d.Kind == machine.Disk && r.profile != VirtualBox && !(overflow && to == machine.SATA) {
		return r.seat(d, machine.SCSI)
	}
	if unit >= units {
		most, _ := r.limit(to)
		for n := 0; n < most && unit >= units; n++ {
			if s = r.place(to, n, nil); s.index != n {
				break
			}
			for unit = 0; !free(s, unit) && unit < units; unit++ {
			}
		}
	}
	if unit >= units && overflow && to == machine.SCSI {
		return r.seat(d, machine.SATA)
	}
	if unit >= units {
		r.lose(part, "left out: there is no place for it")
		return attached{}
	}
	if a := (machine.Address{Bus: to, Index: s.index, Unit: unit}); a != d.At {
		r.lose(part, "becomes %s", a)
	}
	s.taken[unit] = true
	return attached{d: d, at: s, unit: unit}
}

func (r *rack) controllers() {
	for _, s := range r.slots {
		o := &origin{}
		if s.source != nil {
			o = from(s.source.Origin)
		}
		number := strconv.Itoa(s.index)
		x := entry{old: o.id, fields: map[string]string{"Address": number}}
		switch s.bus {
		case machine.IDE:
			r.ide(s, o)
			continue
		case machine.Floppy:
			continue
		case machine.SCSI:
			x.kind = typeSCSI
			x.fields["Description"], x.fields["ElementName"] = "SCSI Controller", "SCSI Controller "+number
			x.fields["ResourceSubType"] = map[string]string{
				"lsilogic": "lsilogic", "lsisas1068": "lsilogicsas", "buslogic": "buslogic", "vmpvscsi": "VirtualSCSI", "virtio-scsi": "VirtioSCSI",
			}[s.model]
			if s.model == "virtio-scsi" {
				x.kind = typeStorage
			}
		case machine.SATA:
			x.kind = typeStorage
			x.fields["Description"], x.fields["ElementName"] = "SATA Controller", "SATA Controller "+number
			x.fields["ResourceSubType"] = "vmware.sata.ahci"
			if r.profile == VirtualBox {
				x.fields["ResourceSubType"] = "AHCI"
			}
		case machine.NVMe:
			x.kind = typeStorage
			x.fields["Description"], x.fields["ElementName"] = "NVMe Controller", "NVMe Controller "+number
			x.fields["ResourceSubType"] = "vmware.nvme.controller"
			if r.profile == VirtualBox {
				x.fields["ResourceSubType"] = "NVMe"
			}
		}
		s.id[0] = r.write(x)
	}
}

// ide writes both channels of a controller, which are two for OVF.
func (r *rack) ide(s *slot, o *origin) {
	old := [2]string{o.id, o.second}
	for n := range 2 {
		if r.keep && old[n] == "" && r.got != nil && s.source != nil && s.source.Origin != nil && !s.taken[2*n] && !s.taken[2*n+1] {
			continue
		}
		number := strconv.Itoa(2*s.index + n)
		x := entry{kind: typeIDE, old: old[n], fields: map[string]string{
			"Address": number, "Description": "IDE Controller", "ElementName": "VirtualIDEController " + number,
		}}
		if r.profile == VirtualBox {
			// vSphere wants none.
			x.fields["ResourceSubType"] = "PIIX4"
			if m := strings.ToUpper(s.model); m == "PIIX3" || m == "ICH6" {
				x.fields["ResourceSubType"] = m
			}
		}
		s.id[n] = r.write(x)
	}
}

func (r *rack) drives() {
	list := r.drive
	r.drive = nil
	count := map[machine.DriveKind]int{}
	for _, a := range list {
		d := a.d
		part := "drive " + d.At.String()
		x := entry{old: from(d.Origin).id, fields: map[string]string{"AddressOnParent": strconv.Itoa(a.unit), "Parent": a.at.id[0]}}
		count[d.Kind]++
		n := count[d.Kind]
		switch {
		case a.at.bus == machine.IDE:
			x.fields["AddressOnParent"] = strconv.Itoa(a.unit % 2)
			if a.unit < 4 {
				x.fields["Parent"] = a.at.id[a.unit/2]
			}
		case a.at.bus == machine.Floppy:
			delete(x.fields, "Parent")
		}
		switch d.Kind {
		case machine.Optical:
			x.kind = typeCD
			x.fields["Description"], x.fields["ElementName"] = "CD-ROM Drive", fmt.Sprintf("CD/DVD drive %d", n)
			r.medium(part, d, &x, &a)
		case machine.Diskette:
			x.kind = typeFloppy
			x.fields["Description"], x.fields["ElementName"] = "Floppy Drive", fmt.Sprintf("Floppy drive %d", n)
			r.medium(part, d, &x, &a)
		default:
			x.kind = typeDisk
			x.fields["Description"], x.fields["ElementName"] = "Hard disk", fmt.Sprintf("Hard disk %d", n)
			if r.keep && from(d.Origin).blank && d.Media.Path == "" && d.Media.Capacity > 0 {
				x.fields["VirtualQuantity"], x.fields["AllocationUnits"] = strconv.FormatInt(d.Media.Capacity, 10), "byte"
			} else if a.disk = r.disk(part, d); a.disk == "" {
				if !r.keep || d.Origin == nil {
					continue
				}
			} else {
				x.fields["HostResource"] = "ovf:/disk/" + a.disk
			}
		}
		r.write(x)
		r.drive = append(r.drive, a)
		r.flags(part, d)
	}
}

// medium writes what is in a drive. A drive whose medium cannot be had is one that importers may leave out.
func (r *rack) medium(part string, d *machine.Drive, x *entry, a *attached) {
	x.required = machine.Off
	on := d.Connected
	switch {
	case d.Media.Path != "":
		o := from(d.Origin)
		switch {
		// VirtualBox finds media among the disks alone.
		case r.profile == VirtualBox && !r.keep && d.Kind == machine.Optical || r.keep && o.disk != "":
			a.disk = r.iso(part, d, o)
			if a.disk != "" {
				x.fields["HostResource"] = "ovf:/disk/" + a.disk
			}
		default:
			if id := r.file(part, d.Media.Path); id != "" {
				x.fields["HostResource"] = "ovf:/file/" + id
			}
		}
		if x.fields["HostResource"] != "" {
			x.required = machine.Unsaid
			if on == machine.Unsaid && !r.keep {
				on = machine.On
			}
		}
	case d.Media.Host != "" && r.keep:
		x.fields["HostResource"] = d.Media.Host
	case d.Media.Host != "" || d.Media.URL != "":
		r.lose(part, "left empty: its medium is not a file: %s%s", d.Media.Host, d.Media.URL)
	}
	if on == machine.Unsaid && !r.keep {
		on = machine.Off
	}
	if on != machine.Unsaid {
		x.fields["AutomaticAllocation"] = strconv.FormatBool(on == machine.On)
	}
}

// iso returns the ID of the VirtualDisk of an optical medium, which it adds if it is not there.
func (r *rack) iso(part string, d *machine.Drive, o *origin) string {
	ref := r.file(part, d.Media.Path)
	if ref == "" {
		return ""
	}
	for i := range r.disks {
		if v := &r.disks[i]; v.FileRef == ref && v.ID != "" && (o.disk == "" || v.ID == o.disk) {
			return v.ID
		}
	}
	v := VirtualDisk{ID: r.diskID("iso"), FileRef: ref, Format: FormatISO, Capacity: d.Media.Capacity, Populated: -1, UUID: d.Media.UUID}
	if v.Capacity == 0 {
		for _, f := range r.files {
			if f.ID == ref && f.Size > 0 && f.Compression != "gzip" {
				v.Capacity = f.Size
			}
		}
	}
	r.disks = append(r.disks, v)
	return v.ID
}

// flags names what of a drive has no word in OVF.
func (r *rack) flags(part string, d *machine.Drive) {
	var lost []string
	box := r.profile == VirtualBox && !r.keep // whose own settings say the rest, or lose it
	for _, f := range []struct {
		name string
		on   bool
	}{
		{"read-only", d.ReadOnly == machine.On && d.Kind == machine.Disk}, {"removable", d.Removable == machine.On && !box},
		{"shared", d.Shared == machine.On}, {"transient", d.Transient == machine.On}, {"independent", d.Independent == machine.On},
		{"ssd", d.SSD != machine.Unsaid && !box}, {"discard", d.Discard != machine.Unsaid && !box}, {"cache " + d.Cache, d.Cache != "" && !box},
		{"serial number " + d.Serial, d.Serial != "" && !box}, {"boot order", d.Boot != 0 && !box},
	} {
		if f.on {
			lost = append(lost, f.name)
		}
	}
	if len(lost) > 0 {
		r.lose(part, "left out: %s", strings.Join(lost, ", "))
	}
}

// devices writes what is no controller, drive or network adapter.
func (r *rack) devices() {
	m := r.m
	vmware := r.keep || r.profile == VMware || r.profile == Generic
	for i, c := range m.Controllers {
		if c.Bus != machine.USB || r.boxes(c.Origin) {
			continue
		}
		if r.profile == Xen && !r.keep {
			continue
		}
		x := entry{kind: typeUSB, old: from(c.Origin).id, required: machine.Off, fields: map[string]string{
			"Address": strconv.Itoa(c.Index), "Description": "USB Controller", "ElementName": fmt.Sprintf("USB controller %d", c.Index),
		}}
		if vmware {
			x.fields["ResourceSubType"] = map[string]string{"ehci": "vmware.usb.ehci", "xhci": "vmware.usb.xhci"}[c.Model]
			if c.Model == "uhci" || c.Model == "ohci" {
				x.fields["ResourceSubType"] = "vmware.usb.ehci"
				r.lose(fmt.Sprintf("controller usb%d", c.Index), "%s becomes ehci", c.Model)
			}
		} else if c.Model != "" && r.profile == VirtualBox && i > 0 {
			x.fields["Caption"] = "usb"
		}
		r.write(x)
	}
	for i, v := range m.Videos {
		if !vmware || r.boxes(v.Origin) {
			continue
		}
		x := entry{kind: typeVideo, old: from(v.Origin).id, required: machine.Off, fields: map[string]string{
			"AutomaticAllocation": "false", "ElementName": "Video card",
		}}
		if v.Accel3D != machine.Unsaid {
			x.config = append(x.config, [2]string{"enable3DSupport", strconv.FormatBool(v.Accel3D == machine.On)})
		}
		if v.Heads > 0 {
			x.config = append(x.config, [2]string{"numDisplays", strconv.Itoa(v.Heads)})
		}
		if v.Memory > 0 {
			x.config = append(x.config, [2]string{"videoRamSizeInKB", strconv.FormatInt(v.Memory>>10, 10)})
		}
		r.write(x)
		if v.Model != "" && v.Model != "vmvga" {
			r.lose(fmt.Sprintf("video %d", i), "%s: the model is not said", v.Model)
		}
	}
	switch {
	case m.TPM == nil || r.profile == VirtualBox:
	case m.TPM.Version == "1.2":
		r.lose("tpm", "left out: OVF has no word for version 1.2")
	case r.profile == Xen && !r.keep:
		r.lose("tpm", "left out")
	default:
		r.write(entry{kind: typeOther, old: from(m.TPM.Origin).id, required: machine.Off, fields: map[string]string{
			"AutomaticAllocation": "false", "ElementName": "Virtual TPM", "ResourceSubType": "vmware.vtpm",
		}})
	}
	for i, v := range m.Sounds {
		switch old := from(v.Origin).id; {
		case r.profile == VirtualBox || r.keep && r.origin(old) == typeSound:
			r.write(entry{kind: typeSound, old: old, required: machine.Off, fields: map[string]string{
				"AddressOnParent": "3", "AutomaticAllocation": "false", "Description": "Sound Card", "ElementName": "sound",
				"ResourceSubType": "ensoniq1371",
			}})
			if v.Model != "" && v.Model != "es1371" && r.profile != VirtualBox {
				r.lose(fmt.Sprintf("sound %d", i), "%s becomes es1371", v.Model)
			}
		case vmware:
			sub := map[string]string{"hda": "hdaudio", "ich9": "hdaudio", "sb16": "soundblaster16"}[v.Model]
			if sub == "" {
				sub = "ensoniq1371"
			}
			r.write(entry{kind: typeOther, old: old, required: machine.Off, fields: map[string]string{
				"AutomaticAllocation": "false", "ElementName": "Sound card", "ResourceSubType": "vmware.soundcard." + sub,
			}})
		default:
			r.lose(fmt.Sprintf("sound %d", i), "left out")
		}
	}
	r.ports("serial", typeSerial, m.Serials)
	r.ports("parallel", typeParallel, m.Parallels)
	for _, v := range m.Others {
		r.other(&v)
	}
	r.vars()
}

// origin returns the kind of an item in the document.
func (r *rack) origin(old string) int {
	if r.got == nil || r.got.items[old] == nil {
		return 0
	}
	n, _ := strconv.Atoi(word(child(r.got.items[old], "ResourceType")))
	return n
}

// ports writes serial and parallel ports where they do no harm: vcsim refuses them, required or not.
func (r *rack) ports(name string, kind int, list []machine.Port) {
	for i, p := range list {
		if r.boxes(p.Origin) {
			continue
		}
		if !r.keep && r.profile == VirtualBox && kind == typeParallel {
			r.lose(fmt.Sprintf("%s %d", name, p.Slot), "left out")
			continue
		}
		if !r.keep && r.profile != VMware && r.profile != VirtualBox {
			r.lose(fmt.Sprintf("%s %d", name, p.Slot), "left out")
			continue
		}
		title := map[int]string{typeSerial: "Serial port", typeParallel: "Parallel port"}[kind]
		r.write(entry{kind: kind, old: from(p.Origin).id, required: machine.Off, fields: map[string]string{
			"AutomaticAllocation": "false", "ElementName": fmt.Sprintf("%s %d", title, i+1),
		}})
		if p.Kind != "" {
			r.lose(fmt.Sprintf("%s %d", name, p.Slot), "what it is connected to (%s) is left out", p.Kind)
		}
	}
}

// boxes reports whether a part is in the document, and in VirtualBox's own settings there alone.
func (r *rack) boxes(o machine.Origin) bool { return r.keep && from(o).box }

// other writes a device that is only named, if it is from an envelope for the same hypervisor.
func (r *rack) other(v *machine.Other) {
	old := from(v.Origin).id
	part := "device " + v.Kind
	if r.boxOwn(v) {
		return // its settings have it
	}
	if r.got == nil || r.got.items[old] == nil {
		r.lose(part, "left out")
		return
	}
	el := r.got.items[old]
	if r.keep {
		// It stays as it is in the document.
		n := etree.NewElement("Item")
		add(n, "rasd:InstanceID", r.identify(old))
		r.items[0] = append(r.items[0], n)
		return
	}
	if r.o.Profile != Keep && (r.profile != VMware || r.m.Platform != "vmware") || el.Tag != "Item" && !r.two {
		r.lose(part, "left out")
		return
	}
	n := transplant(el, r.root)
	if c := child(n, "InstanceID"); c != nil {
		c.SetText(r.identify(old))
	}
	if c := child(n, "Parent"); c != nil {
		p := r.ids[c.Text()]
		if p == "" {
			r.lose(part, "left out: what it is attached to is left out")
			return
		}
		c.SetText(p)
	}
	inOrder(n)
	list := map[string]int{"EthernetPortItem": 1, "StorageItem": 2}[n.Tag]
	r.items[list] = append(r.items[list], n)
}

// inOrder sorts the fields of an item by their names, as the schemas have it; what is not CIM's goes behind them.
func inOrder(el *etree.Element) {
	list := el.ChildElements()
	slices.SortStableFunc(list, func(a, b *etree.Element) int {
		x, y := strings.HasSuffix(a.Space, "asd"), strings.HasSuffix(b.Space, "asd")
		switch {
		case x && y:
			return strings.Compare(a.Tag, b.Tag)
		case x:
			return -1
		case y:
			return 1
		}
		return 0
	})
	el.Child = nil
	for _, c := range list {
		el.AddChild(c.Copy())
	}
}

// vars writes the file of the firmware's variables: hypervisors cannot use each other's.
func (r *rack) vars() {
	v := r.m.Firmware.Vars
	if v == (machine.Media{}) {
		return
	}
	mine := map[Profile]string{Generic: "vmware", VMware: "vmware", VirtualBox: "virtualbox"}[r.profile]
	switch {
	case v.Path == "" || (r.m.Platform != mine && !r.keep):
		r.lose("firmware", "its variables are left out: they are of no use there")
	case r.profile == VirtualBox && (!r.keep || r.find(typeVBoxNVRAM) != "" || !r.has("ExtraConfig", "nvram")):
		id := r.file("firmware", v.Path)
		if id == "" {
			return
		}
		r.write(entry{kind: typeVBoxNVRAM, old: r.find(typeVBoxNVRAM), fields: map[string]string{
			"Caption": "NVRAM", "Description": "NVRAM pathname", "ElementName": "NVRAM", "HostResource": "ovf:/file/" + id,
		}})
	default:
		if r.keep && r.has("ExtraConfig", "nvram") && !slices.ContainsFunc(r.files, func(f File) bool { return f.Href == v.Path }) {
			r.nvram = v.Path
			return
		}
		if id := r.file("firmware", v.Path); id != "" {
			r.nvram = "ovf:/file/" + id
		}
	}
}

// has reports whether the document has a vmw:Config or vmw:ExtraConfig with a key.
func (r *rack) has(name, key string) bool {
	if r.got == nil || r.got.hardware == nil {
		return false
	}
	_, ok := config(r.got.hardware, name, key)
	return ok
}

// settings writes what VMware says of the whole machine.
func (r *rack) settings(s *etree.Element) {
	m := r.m
	if !r.keep && r.profile == VirtualBox {
		return // its own settings say it, or lose it
	}
	if !r.keep && r.profile == Xen {
		if m.Firmware.Type == "efi" {
			// Not XenServer, but virt-v2v, takes it from here.
			setting(s, "Config", "firmware", "efi")
		}
		for _, f := range []struct {
			part string
			s    machine.Switch
			what string
		}{
			{"firmware", m.Firmware.SecureBoot, "secure boot"}, {"cpu", m.CPU.HotAdd, "adding processors while it runs"},
			{"memory", m.Memory.HotAdd, "adding memory while it runs"}, {"cpu", m.CPU.Nested, "nested virtualization"},
		} {
			if f.s == machine.On {
				r.lose(f.part, "%s: left out", f.what)
			}
		}
		return
	}
	for _, f := range []struct {
		key string
		s   machine.Switch
	}{
		{"bootOptions.efiSecureBootEnabled", m.Firmware.SecureBoot}, {"cpuHotAddEnabled", m.CPU.HotAdd},
		{"memoryHotAddEnabled", m.Memory.HotAdd}, {"nestedHVEnabled", m.CPU.Nested},
	} {
		if f.s != machine.Unsaid {
			setting(s, "Config", f.key, strconv.FormatBool(f.s == machine.On))
		}
	}
	if m.Firmware.Type != "" && (!r.boxed() || r.has("Config", "firmware")) {
		setting(s, "Config", "firmware", m.Firmware.Type)
	}
	if r.nvram != "" {
		setting(s, "ExtraConfig", "nvram", r.nvram)
	}
	r.uuid(s)
	if !r.keep && r.got != nil && (r.profile == VMware || r.o.Profile == Keep) {
		r.vmware(s, r.got.hardware)
	}
}

// uuid writes that which the guest sees. OVF has no place for it: VMware's programs for workstations write settings of
// theirs as ExtraConfig, which vSphere asks about before it takes them. So an envelope for others, too, has the name of the
// property of vSphere's API, as other Configs have theirs: who does not know it passes over it.
func (r *rack) uuid(s *etree.Element) {
	u := r.m.UUID
	if u == "" || r.o.NewIdentity || r.boxed() {
		return
	}
	if r.keep && r.has("Config", keyUUID) || r.profile == Generic && !r.has("ExtraConfig", keyBIOS) {
		setting(s, "Config", keyUUID, u)
		return
	}
	digits := strings.ReplaceAll(u, "-", "")
	var b strings.Builder
	for i := 0; i+2 <= len(digits); i += 2 {
		switch {
		case i == 16:
			b.WriteByte('-')
		case i > 0:
			b.WriteByte(' ')
		}
		b.WriteString(digits[i : i+2])
	}
	setting(s, "ExtraConfig", keyBIOS, b.String())
}

// subtypes of network adapters by model.
var nicSubtypes = map[string]string{
	"e1000": "E1000", "e1000e": "E1000e", "vmxnet3": "VmxNet3", "vmxnet2": "VmxNet2", "vmxnet": "VmxNet", "pcnet": "PCNet32",
	"virtio": "virtio", "rtl8139": "rtl8139", "ne2k_pci": "ne2k_pci", "netfront": "netfront",
	"e1000-82543gc": "82543GC", "e1000-82545em": "82545EM",
}

// adapter returns the model that an adapter becomes.
func (r *rack) adapter(model string) string {
	if r.keep {
		return model
	}
	switch model {
	case "", "e1000", "pcnet":
		return model
	case "e1000e", "vmxnet3":
		if r.profile == VMware || r.profile == Generic {
			return model
		}
	case "vmxnet", "vmxnet2":
		if r.profile == VMware {
			return model
		}
	case "virtio":
		if r.profile == VirtualBox {
			return model
		}
	}
	return "e1000"
}

func (r *rack) nics() {
	for i := range r.m.NICs {
		n := &r.m.NICs[i]
		part := fmt.Sprintf("nic %d", n.Slot)
		model := r.adapter(n.Model)
		if model != n.Model && r.profile != VirtualBox {
			r.lose(part, "%s becomes %s", n.Model, model)
		}
		o := from(n.Origin)
		net := r.network(part, n, o)
		x := entry{kind: typeEthernet, old: o.id, fields: map[string]string{
			"AddressOnParent": strconv.Itoa(7 + i), "AutomaticAllocation": "true", "Connection": net,
			"ElementName": fmt.Sprintf("Network adapter %d", i+1), "ResourceSubType": nicSubtypes[model],
		}}
		if r.keep {
			x.fields["AddressOnParent"] = o.place
			if n.Connected == machine.Unsaid && n.Origin != nil {
				delete(x.fields, "AutomaticAllocation")
			}
		}
		if n.Connected == machine.Off {
			x.fields["AutomaticAllocation"] = "false"
		}
		if !r.o.NewIdentity {
			x.fields["Address"] = n.MAC
		}
		if net != "" {
			x.fields["Description"] = strings.TrimSpace(nicSubtypes[model] + " ethernet adapter on \"" + net + "\"")
		}
		r.write(x)
		if n.Boot != 0 && (r.profile != VirtualBox || r.keep) {
			r.lose(part, "left out: boot order")
		}
	}
}

// network returns the name of an adapter's network, which it adds if it is not there.
func (r *rack) network(part string, n *machine.NIC, o *origin) string {
	name := n.Network
	lose := r.lose
	if r.profile == VirtualBox {
		lose = func(string, string, ...any) {} // its own settings say it, or lose it
	}
	b := &board{decoder: &decoder{}, m: r.m}
	if kind, net := b.network(o.net); o.net != "" && kind == n.Kind && (net == n.Network || kind == machine.Internal) {
		name = o.net
	} else {
		fixed := map[machine.NetKind]string{machine.NAT: "nat", machine.UserNet: "nat", machine.Bridged: "bridged", machine.HostOnly: "hostonly", machine.Internal: "internal"}
		if r.profile == VirtualBox {
			fixed = map[machine.NetKind]string{machine.NAT: "NAT", machine.UserNet: "NAT", machine.Bridged: "Bridged", machine.HostOnly: "HostOnly", machine.Internal: "Internal", machine.NoNet: "Null"}
		}
		switch {
		case n.Kind == machine.NoNet && r.profile != VirtualBox:
			return ""
		case fixed[n.Kind] != "" && (name == "" || r.profile == VirtualBox):
			name = fixed[n.Kind]
			if n.Network != "" && n.Kind != machine.Internal {
				lose(part, "%s %s: the name is left out", n.Kind, n.Network)
			}
		case fixed[n.Kind] != "":
			lose(part, "%s %s becomes the network %s", n.Kind, name, name)
		case name == "" && r.keep:
			return ""
		case name == "":
			name = "VM Network"
			lose(part, "its network is not said: %s", name)
		}
	}
	if !slices.ContainsFunc(r.networks, func(w Network) bool { return w.Name == name }) && !(r.keep && o.net == name) {
		r.networks = append(r.networks, Network{name, Msg{Text: "The " + name + " network"}})
	}
	return name
}

// leftOut names what of a machine OVF has no words for.
func (r *rack) leftOut() {
	m := r.m
	box := r.boxed()                          // VirtualBox's own settings have it
	all := r.profile == VirtualBox && !r.keep // they are written, with losses of their own
	for _, l := range []struct {
		part, what string
		is         bool
	}{
		{"uuid", m.UUID, m.UUID != "" && !r.o.NewIdentity && (r.profile == Xen || r.profile == VirtualBox && !box)}, {"instance uuid", m.InstanceUUID, m.InstanceUUID != "" && !box && !r.o.NewIdentity},
		{"generation id", m.GenerationID, m.GenerationID != "" && !r.o.NewIdentity},
		{"arch", m.Arch, m.Arch != "" && m.Arch != "x86_64" && m.Arch != "i686" && !box},
		{"chipset", m.Chipset, m.Chipset != "" && m.Chipset != "i440fx" && !box}, {"virtualization", m.Virtualization, m.Virtualization == "pv" || m.Virtualization == "pvh"},
		{"clock", m.Clock, m.Clock != "" && !box}, {"boot", strings.Join(m.Boot, ", "), len(m.Boot) > 0 && !box}, {"cpu", "model " + m.CPU.Model, m.CPU.Model != ""},
		{"cpu", fmt.Sprintf("at most %d", m.CPU.Max), m.CPU.Max > m.CPU.Count && !box}, {"cpu", fmt.Sprintf("%d threads of a core", m.CPU.Threads), m.CPU.Threads > 1},
		{"memory", fmt.Sprintf("at most %d bytes", m.Memory.Max), m.Memory.Max > m.Memory.Bytes},
		{"firmware", m.Firmware.Loader + m.Firmware.Template, m.Firmware.Loader+m.Firmware.Template != ""},
		{"acpi", "off", m.Features.ACPI == machine.Off && !box}, {"apic", "off", m.Features.APIC == machine.Off && !box},
		{"pae", "on", m.Features.PAE == machine.On && !box}, {"hpet", m.Features.HPET.String(), m.Features.HPET != machine.Unsaid && !box},
		{"kernel", "started directly", m.Kernel != nil},
	} {
		if l.is && !all {
			r.lose(l.part, "left out: %s", l.what)
		}
	}
	if mine := m.Version; r.profile == Generic && r.o.Hardware == "" && strings.HasPrefix(mine, "vmx-") && mine != r.family() {
		r.lose("version", "%s becomes %s, the same for all hosts", mine, r.family())
	}
	for _, c := range m.Controllers {
		if c.Bus == machine.USB && r.profile == Xen && !r.keep {
			r.lose(fmt.Sprintf("controller usb%d", c.Index), "left out")
		}
	}
	for i, v := range m.Videos {
		if r.profile == Xen && !r.keep {
			r.lose(fmt.Sprintf("video %d", i), "left out: %s", v.Model)
		}
	}
	for _, v := range m.Displays {
		r.lose("display "+v.Kind, "left out")
	}
	for _, v := range m.Inputs {
		if v.Bus != "ps2" && !all && !box {
			r.lose(v.Kind, "left out: %s", v.Bus)
		}
	}
	for _, v := range m.Shares {
		r.lose("share "+v.Name, "left out: %s", v.Path)
	}
}

// made returns a UUID that is always the same for the same words.
func made(words ...string) string {
	h := sha256.Sum256([]byte("tarvm ovf\x00" + strings.Join(words, "\x00")))
	h[6], h[8] = h[6]&0x0f|0x80, h[8]&0x3f|0x80 // version 8, RFC 9562
	return fmt.Sprintf("%x-%x-%x-%x-%x", h[:4], h[4:6], h[6:8], h[8:10], h[10:16])
}
