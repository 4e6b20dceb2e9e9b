package ovf

import (
	"fmt"
	"math/bits"
	"slices"
	"strconv"
	"strings"

	"github.com/beevik/etree"

	"tarvm/formats/machine"
)

// The kinds of virtual hardware, from CIM_ResourceAllocationSettingData.ResourceType.
const (
	typeOther      = 1
	typeCPU        = 3
	typeMemory     = 4
	typeIDE        = 5
	typeSCSI       = 6
	typeEthernet   = 10
	typeFloppy     = 14
	typeCD         = 15
	typeDVD        = 16
	typeDisk       = 17
	typeStorage    = 20 // SATA, NVMe, virtio-scsi
	typeSerial     = 21
	typeParallel   = 22
	typeUSB        = 23
	typeVideo      = 24
	typeExtent     = 31 // "storage extent": a disk without an image
	typeSound      = 35
	typeVBoxNVRAM  = 32768
	maxUnit        = 1 << 12
	maxControllers = 1 << 10
)

// Units returns how many of base (byte, hertz) a unit is: "byte * 2^20", "byte*1024*1024", "MegaBytes", "hertz * 10^6",
// "MHz". An empty unit is one of base. Source: DMTF DSP0004, annex C, and the words that OVF 0.9 has in its place.
func Units(units, base string) (int64, error) {
	u := strings.ToLower(strings.Join(strings.Fields(units), ""))
	if u == "" {
		return 1, nil
	}
	for _, w := range words {
		if u == w.name {
			if w.base != base {
				return 0, fmt.Errorf("unit %.40q is not of %ss", units, base)
			}
			return w.n, nil
		}
	}
	parts := strings.Split(u, "*")
	if parts[0] != base && parts[0] != base+"s" {
		return 0, fmt.Errorf("unit %.40q is not of %ss", units, base)
	}
	n := uint64(1)
	for _, p := range parts[1:] {
		number, power, ok := strings.Cut(p, "^")
		x, err := strconv.ParseUint(number, 10, 63)
		y := uint64(1)
		if ok && err == nil {
			y, err = strconv.ParseUint(power, 10, 8)
		}
		if err != nil || x == 0 {
			return 0, fmt.Errorf("unit %.40q is not known", units)
		}
		for ; y > 0; y-- {
			hi, lo := bits.Mul64(n, x)
			if hi != 0 || lo > 1<<62 {
				return 0, fmt.Errorf("unit %.40q is too large", units)
			}
			n = lo
		}
	}
	return int64(n), nil //nolint:gosec // at most 1<<62
}

var words = []struct {
	name, base string
	n          int64
}{
	{"kilobytes", "byte", 1 << 10}, {"kilobyte", "byte", 1 << 10}, {"kb", "byte", 1 << 10}, {"kib", "byte", 1 << 10},
	{"megabytes", "byte", 1 << 20}, {"megabyte", "byte", 1 << 20}, {"mb", "byte", 1 << 20}, {"mib", "byte", 1 << 20},
	{"gigabytes", "byte", 1 << 30}, {"gigabyte", "byte", 1 << 30}, {"gb", "byte", 1 << 30}, {"gib", "byte", 1 << 30},
	{"terabytes", "byte", 1 << 40}, {"terabyte", "byte", 1 << 40}, {"tb", "byte", 1 << 40}, {"tib", "byte", 1 << 40},
	{"kilohertz", "hertz", 1e3}, {"khz", "hertz", 1e3}, {"megahertz", "hertz", 1e6}, {"mhz", "hertz", 1e6},
	{"gigahertz", "hertz", 1e9}, {"ghz", "hertz", 1e9},
}

// Quantity returns a number of units in base: see Units.
func Quantity(s, units, base string) (int64, error) {
	n, err := number(s)
	if err != nil {
		return 0, err
	}
	u, err := Units(units, base)
	if err != nil {
		return 0, err
	}
	hi, lo := bits.Mul64(uint64(n), uint64(u)) //nolint:gosec // neither is negative
	if hi != 0 || lo > 1<<62 {
		return 0, fmt.Errorf("%s of %q is too large", s, units)
	}
	return int64(lo), nil //nolint:gosec // at most 1<<62
}

// An item is an Item, StorageItem or EthernetPortItem.
type item struct {
	el            *etree.Element
	key           string // as in Origins: InstanceID, or made up where that is missing or there twice
	id            string
	kind          int
	subtype       string   // as it stands
	subtypes      []string // lower case
	field         map[string]string
	host, network []string
	configuration []string
	bound         string
}

func readItem(el *etree.Element) item {
	it := item{el: el, field: map[string]string{}, configuration: strings.Fields(attr(el, "configuration")), bound: attr(el, "bound"), kind: -1}
	for _, t := range el.Child {
		c, ok := t.(*etree.Element)
		if !ok {
			continue
		}
		name := c.Tag
		switch name {
		case "HostResource":
			it.host = append(it.host, word(c))
		case "Connection":
			it.network = append(it.network, text(c))
		case "InstanceId": // 0.9
			name = "InstanceID"
		}
		if _, ok := it.field[name]; !ok {
			it.field[name] = word(c)
		}
	}
	it.id = it.field["InstanceID"]
	if n, err := number(it.field["ResourceType"]); err == nil && n < 1<<31 {
		it.kind = int(n)
	}
	it.subtype = it.field["ResourceSubType"]
	it.subtypes = split(strings.ToLower(it.subtype))
	return it
}

// config returns a vmw:Config of an element.
func config(el *etree.Element, name, key string) (string, bool) {
	for _, t := range el.Child {
		if c, ok := t.(*etree.Element); ok && c.Tag == name && attr(c, "key") == key {
			return attr(c, "value"), true
		}
	}
	return "", false
}

// chosen returns the items that the deployment option has. An item for the option takes the place of one with the same
// InstanceID for all; of those that are bounds of a range (min, max) none is taken unless there is nothing else, and then
// the smallest. (DSP0243 1.1.1, 8.3 and 9.8.)
func (d *decoder) chosen(s *etree.Element, where string) ([]item, int64, error) {
	var order []string
	groups := map[string][]item{}
	count, largest := 0, int64(0)
	for _, c := range s.ChildElements() {
		switch c.Tag {
		case "Item", "StorageItem", "EthernetPortItem":
		default:
			continue
		}
		if count++; count > maxItems {
			return nil, 0, invalid("VirtualHardwareSection", "more than %d items", maxItems)
		}
		it := readItem(c)
		it.key = it.id
		if it.id == "" {
			it.key = fmt.Sprintf("#%d", count)
			d.problem(Warning, fmt.Sprintf("%s, item %d", where, count), "it has no InstanceID")
		}
		if n, err := number(it.id); err == nil && n < 1<<31 {
			largest = max(largest, n)
		}
		if groups[it.key] == nil {
			order = append(order, it.key)
		}
		groups[it.key] = append(groups[it.key], it)
	}
	var list []item
	for _, key := range order {
		var own, all, range_ []item
		for _, it := range groups[key] {
			mine := slices.Contains(it.configuration, d.option) && d.option != ""
			switch {
			case !mine && len(it.configuration) > 0:
			case it.bound == "min" || it.bound == "max":
				if it.bound == "min" {
					range_ = append(range_, it)
				}
			case mine:
				own = append(own, it)
			default:
				all = append(all, it)
			}
		}
		take := all
		if len(own) > 0 {
			take = own
		} else if len(all) == 0 && len(range_) > 0 {
			take = range_[:1]
		}
		for n, it := range take {
			if n > 0 {
				d.problem(Error, where+", Item "+it.id, "another item has the same InstanceID")
				it.key = fmt.Sprintf("%s#%d", it.key, n)
			}
			list = append(list, it)
		}
	}
	return list, largest, nil
}

// A board is a machine that is being put together.
type board struct {
	*decoder
	m      *machine.Machine
	where  string
	parent map[string]place // by InstanceID
	used   map[machine.Address]bool
	next   map[place]int // the first unit that may be free
	index  map[machine.Bus]map[int]bool
	ide    [4]bool // channels that are there
}

// A place is a controller. Of an IDE controller, base is 0 or 2: the first unit of the channel.
type place struct {
	bus         machine.Bus
	index, base int
	other       bool // it is none that drives are attached to here
}

// hardware reads got.hardware into v.
func (d *decoder) hardware(got *decoded, v *System) error {
	where := "VirtualSystem " + v.ID
	items, largest, err := d.chosen(got.hardware, where)
	if err != nil {
		return err
	}
	got.maxID = largest
	b := &board{
		decoder: d, m: v.Machine, where: where, parent: map[string]place{}, used: map[machine.Address]bool{}, next: map[place]int{},
		index: map[machine.Bus]map[int]bool{},
	}
	if s := child(got.hardware, "System"); s != nil {
		v.Families = split(word(child(s, "VirtualSystemType")))
		version, platform := family(v.Families)
		b.m.Version = version
		if b.m.Platform == "" {
			b.m.Platform = platform
		}
		if b.m.Name == "" {
			b.m.Name = word(child(s, "VirtualSystemIdentifier"))
		}
	}
	for i := range items {
		got.items[items[i].key] = items[i].el
		b.controller(&items[i])
	}
	for i := range items {
		b.device(&items[i])
	}
	b.settings(got.hardware)
	return nil
}

// family returns the version and the platform that a list of hardware families names first.
func family(list []string) (version, platform string) {
	for _, f := range list {
		l := strings.ToLower(f)
		for _, p := range []struct{ prefix, platform string }{
			{"vmx-", "vmware"}, {"virtualbox", "virtualbox"}, {"xen", "xen"}, {"hvm-", "xen"}, {"kvm", "kvm"}, {"qemu", "qemu"}, {"hyper-v", "hyperv"},
			{"dmtf:hyper-v", "hyperv"}, {"microsoft", "hyperv"},
		} {
			if strings.HasPrefix(l, p.prefix) {
				return f, p.platform
			}
		}
	}
	return "", ""
}

func (b *board) at(it *item) string { return b.where + ", Item " + it.id }

// take returns a free index of a bus: that which is asked for, if it is free.
func (b *board) take(bus machine.Bus, want string) int {
	if b.index[bus] == nil {
		b.index[bus] = map[int]bool{}
	}
	n, err := number(want)
	i := int(min(n, maxControllers))
	if err != nil || i >= maxControllers || b.index[bus][i] {
		for i = 0; b.index[bus][i]; i++ {
		}
	}
	b.index[bus][i] = true
	return i
}

// known returns what the first subtype that is in table means.
func known(it *item, table []pair) (string, bool) {
	for _, s := range it.subtypes {
		for _, p := range table {
			if s == strings.ToLower(p.ovf) {
				return p.model, true
			}
		}
	}
	return "", len(it.subtypes) == 0
}

// A pair is a model in the words of OVF (as they are read; case does not matter) and in those of machine.
type pair struct{ ovf, model string }

var (
	scsiModels = []pair{
		{"lsilogic", "lsilogic"}, {"lsilogicsas", "lsisas1068"}, {"buslogic", "buslogic"}, {"virtualscsi", "vmpvscsi"}, {"pvscsi", "vmpvscsi"},
		{"virtio", "virtio-scsi"}, {"virtioscsi", "virtio-scsi"}, {"virtio-scsi", "virtio-scsi"}, {"sas", "lsisas1068"}, {"scsi", ""},
	}
	ideModels = []pair{{"piix4", "piix4"}, {"piix3", "piix3"}, {"ich6", "ich6"}, {"ide", ""}}
	usbModels = []pair{
		{"vmware.usb.ehci", "ehci"}, {"vmware.usb.xhci", "xhci"}, {"vmware.usb.uhci", "uhci"}, {"ehci", "ehci"}, {"xhci", "xhci"}, {"ohci", "ohci"},
		{"uhci", "uhci"},
	}
	nicModels = []pair{
		{"e1000", "e1000"}, {"e1000e", "e1000e"}, {"vmxnet3", "vmxnet3"}, {"vmxnet2", "vmxnet2"}, {"vmxnet", "vmxnet"}, {"pcnet32", "pcnet"},
		{"pcnet", "pcnet"}, {"virtio", "virtio"}, {"virtionet", "virtio"}, {"virtio-net", "virtio"}, {"rtl8139", "rtl8139"}, {"8139", "rtl8139"},
		{"82543gc", "e1000-82543gc"}, {"82545em", "e1000-82545em"}, {"82540em", "e1000"}, {"am79c973", "pcnet"}, {"am79c970a", "pcnet"},
		{"ne2k_pci", "ne2k_pci"}, {"netfront", "netfront"},
	}
	soundModels = []pair{
		{"ensoniq1371", "es1371"}, {"vmware.soundcard.ensoniq1371", "es1371"}, {"vmware.soundcard.hdaudio", "hda"}, {"hda", "hda"}, {"ac97", "ac97"},
		{"sb16", "sb16"}, {"vmware.soundcard.soundblaster16", "sb16"}, {"ich6", "hda"}, {"ich9", "ich9"},
	}
)

// controller reads an item if it is one.
func (b *board) controller(it *item) {
	o := &origin{id: it.key, name: it.field["ElementName"]}
	add := func(bus machine.Bus, model string) {
		if len(b.index[bus]) >= maxControllers {
			b.problem(Error, b.at(it), "too many controllers")
			return
		}
		i := b.take(bus, it.field["Address"])
		b.m.Controllers = append(b.m.Controllers, machine.Controller{Bus: bus, Index: i, Model: model, Origin: o})
		b.place(it, place{bus: bus, index: i})
	}
	odd := func(ok bool) {
		if !ok {
			b.problem(Warning, b.at(it), "ResourceSubType %.60q is not known", it.subtype)
		}
	}
	switch it.kind {
	case typeIDE:
		model, ok := known(it, ideModels)
		odd(ok)
		b.channel(it, model, o)
	case typeSCSI:
		model, ok := known(it, scsiModels)
		odd(ok)
		add(machine.SCSI, model)
	case typeUSB:
		model, ok := known(it, usbModels)
		odd(ok)
		add(machine.USB, model)
	case typeStorage:
		s := strings.ToLower(it.subtype)
		switch {
		case strings.Contains(s, "nvme"):
			add(machine.NVMe, "")
		case strings.Contains(s, "virtio"):
			add(machine.SCSI, "virtio-scsi")
		case s == "" || strings.Contains(s, "ahci") || strings.Contains(s, "sata"):
			model := ""
			if strings.Contains(s, "ahci") {
				model = "ahci"
			}
			add(machine.SATA, model)
		default:
			if !strings.Contains(s, "nvdimm") {
				odd(false)
			}
			b.place(it, place{other: true})
		}
	}
}

// place remembers where a controller is. Parents are named by InstanceID: of two items with the same, the first counts.
func (b *board) place(it *item, p place) {
	if _, ok := b.parent[it.id]; !ok && it.id != "" {
		b.parent[it.id] = p
	}
}

// channel reads an IDE controller, which is what OVF calls a channel: two of them are one controller of the machine.
func (b *board) channel(it *item, model string, o *origin) {
	n, err := number(it.field["Address"])
	if err != nil || n >= int64(len(b.ide)) || b.ide[n] {
		for n = 0; n < int64(len(b.ide)) && b.ide[n]; n++ {
		}
		if n == int64(len(b.ide)) {
			b.problem(Error, b.at(it), "more than %d IDE controllers", len(b.ide))
			b.place(it, place{other: true})
			return
		}
	}
	b.ide[n] = true
	i := int(n / 2)
	b.place(it, place{bus: machine.IDE, index: i, base: int(n%2) * 2})
	if c := b.m.Controller(machine.IDE, i); c != nil {
		first := from(c.Origin)
		two := *first
		// The Item of channel 0 comes first, whichever the document has first.
		if n%2 == 0 {
			two.id, two.second = o.id, max(first.id, first.second)
		} else {
			two.second = o.id
		}
		c.Origin = &two
		if c.Model == "" {
			c.Model = model
		}
		return
	}
	if n%2 == 1 {
		o.id, o.second = "", o.id
	}
	b.m.Controllers = append(b.m.Controllers, machine.Controller{Bus: machine.IDE, Index: i, Model: model, Origin: o})
}

// address returns where a drive is: on its Parent, at AddressOnParent, or at the first free unit if it does not say.
func (b *board) address(it *item, fallback machine.Bus) (machine.Address, bool) {
	p, ok := b.parent[it.field["Parent"]]
	switch {
	case ok && p.other:
		return machine.Address{}, false
	case !ok && it.kind == typeFloppy:
		p = place{bus: machine.Floppy}
	case !ok && it.field["Parent"] == "":
		b.problem(Error, b.at(it), "it has no Parent")
		p = b.some(fallback)
	case !ok:
		b.problem(Error, b.at(it), "its Parent %.40q is nowhere", it.field["Parent"])
		p = b.some(fallback)
	}
	a := machine.Address{Bus: p.bus, Index: p.index}
	if s := it.field["AddressOnParent"]; s != "" {
		n, err := number(s)
		if err == nil && n < maxUnit {
			a.Unit = int(n)
			// One IDE controller with four places, or two with two.
			if p.bus == machine.IDE && n < 2 {
				a.Unit += p.base
			}
			if !b.used[a] && (p.bus != machine.IDE || n < 4) {
				b.used[a] = true
				return a, true
			}
			b.problem(Warning, b.at(it), "AddressOnParent %d is taken: it gets the next one", n)
		} else {
			b.problem(Warning, b.at(it), "AddressOnParent %.40q: it gets the next free one", s)
		}
	}
	n := max(b.next[p], p.base)
	for a.Unit = n; b.used[a] || (a.Bus == machine.SCSI && a.Unit == 7); a.Unit++ {
	}
	b.used[a], b.next[p] = true, a.Unit+1
	return a, true
}

// some returns a controller for a drive that has none.
func (b *board) some(fallback machine.Bus) place {
	for _, c := range b.m.Controllers {
		if c.Bus == fallback {
			return place{bus: c.Bus, index: c.Index}
		}
	}
	return place{bus: fallback}
}

// device reads an item that is no controller.
func (b *board) device(it *item) {
	o := &origin{id: it.key, name: it.field["ElementName"]}
	m := b.m
	switch it.kind {
	case typeIDE, typeSCSI, typeUSB:
	case typeStorage:
		if p, ok := b.parent[it.id]; ok && p.other {
			b.other(it, o)
		}
	case typeCPU:
		b.processors(it)
	case typeMemory:
		b.memory(it)
	case typeEthernet:
		b.nic(it, o)
	case typeDisk, typeExtent, typeCD, typeDVD, typeFloppy:
		b.drive(it, o)
	case typeSerial:
		m.Serials = append(m.Serials, machine.Port{Slot: len(m.Serials), Origin: o})
	case typeParallel:
		m.Parallels = append(m.Parallels, machine.Port{Slot: len(m.Parallels), Origin: o})
	case typeVideo:
		v := machine.Video{Origin: o}
		if s, ok := config(it.el, "Config", "videoRamSizeInKB"); ok {
			v.Memory = b.setting(it, "videoRamSizeInKB", s, 1<<30) << 10
		}
		if s, ok := config(it.el, "Config", "numDisplays"); ok {
			v.Heads = int(b.setting(it, "numDisplays", s, 1<<10))
		}
		if s, ok := config(it.el, "Config", "enable3DSupport"); ok {
			v.Accel3D = truth(s)
		}
		m.Videos = append(m.Videos, v)
	case typeSound:
		model, _ := known(it, soundModels)
		m.Sounds = append(m.Sounds, machine.Sound{Model: model, Origin: o})
	case typeVBoxNVRAM:
		if kind, id := resource(it); kind == "file" && b.files[id] != nil {
			m.Firmware.Vars.Path = b.files[id].Href
		} else {
			b.problem(Error, b.at(it), "its file is nowhere")
		}
	default:
		switch {
		case strings.HasPrefix(strings.ToLower(it.subtype), "vmware.soundcard."):
			model, _ := known(it, soundModels)
			m.Sounds = append(m.Sounds, machine.Sound{Model: model, Origin: o})
		case strings.EqualFold(it.subtype, "vmware.vtpm"):
			m.TPM = &machine.TPM{Version: "2.0", Origin: o}
		default:
			b.other(it, o)
		}
	}
}

func (b *board) other(it *item, o *origin) {
	k := it.subtype
	if k == "" {
		k = "resource type " + it.field["ResourceType"]
	}
	b.m.Others = append(b.m.Others, machine.Other{Kind: k, Name: o.name, Origin: o})
}

// setting reads a number of a vmw:Config, and gives 0 for what is none or larger than limit.
func (b *board) setting(it *item, key, s string, limit int64) int64 {
	n, err := number(s)
	if err == nil && n > limit {
		err = fmt.Errorf("%d is too large", n)
	}
	if err != nil {
		b.problem(Warning, b.at(it), "%s: %v", key, err)
		return 0
	}
	return n
}

func (b *board) processors(it *item) {
	c := &b.m.CPU
	if c.Count != 0 {
		b.problem(Warning, b.at(it), "the number of processors is there twice: the first is taken")
		return
	}
	n, err := number(it.field["VirtualQuantity"])
	if err == nil && n > 1<<16 {
		err = fmt.Errorf("%d is too large", n)
	}
	if err != nil {
		b.problem(Error, b.at(it), "processors: %v", err)
		return
	}
	c.Count = int(n)
	if s := it.field["CoresPerSocket"]; s != "" {
		c.Cores = int(b.setting(it, "CoresPerSocket", s, 1<<16))
		if c.Cores > 0 && c.Count%c.Cores == 0 {
			c.Sockets = c.Count / c.Cores
		}
	}
}

func (b *board) memory(it *item) {
	if b.m.Memory.Bytes != 0 {
		b.problem(Warning, b.at(it), "the size of the memory is there twice: the first is taken")
		return
	}
	units := it.field["AllocationUnits"]
	if units == "" {
		units = "byte * 2^20"
		b.problem(Warning, b.at(it), "the memory has no AllocationUnits: taken for MiB")
	}
	n, err := Quantity(it.field["VirtualQuantity"], units, "byte")
	if err != nil {
		b.problem(Error, b.at(it), "memory: %v", err)
	}
	b.m.Memory.Bytes = n
}

func (b *board) nic(it *item, o *origin) {
	n := machine.NIC{Slot: len(b.m.NICs), MAC: mac(it.field["Address"]), Connected: truth(it.field["AutomaticAllocation"]), Origin: o}
	var ok bool
	if n.Model, ok = known(it, nicModels); !ok {
		b.problem(Warning, b.at(it), "ResourceSubType %.60q is not known", it.subtype)
	}
	o.place = it.field["AddressOnParent"]
	if len(it.network) > 0 {
		o.net = it.network[0]
		n.Kind, n.Network = b.network(o.net)
		if !slices.ContainsFunc(b.e.Networks, func(n Network) bool { return n.Name == o.net }) {
			b.problem(Error, b.at(it), "its network %.60q is nowhere", o.net)
		}
	}
	b.m.NICs = append(b.m.NICs, n)
}

// network says what the names stand for that VirtualBox, and VMware's programs for workstations, give to networks.
func (b *board) network(name string) (machine.NetKind, string) {
	switch strings.ToLower(name) {
	case "nat":
		if b.m.Platform == "virtualbox" {
			return machine.UserNet, ""
		}
		return machine.NAT, ""
	case "bridged":
		return machine.Bridged, ""
	case "hostonly":
		return machine.HostOnly, ""
	case "internal":
		return machine.Internal, ""
	case "null":
		return machine.NoNet, ""
	}
	return machine.Named, name
}

// resource returns "disk" or "file" and the ID that a HostResource names: ovf:/disk/ID, or /disk/ID in 0.9.
func resource(it *item) (kind, id string) {
	if len(it.host) == 0 {
		return "", ""
	}
	s := strings.TrimPrefix(it.host[0], "ovf:")
	s = strings.TrimLeft(s, "/")
	kind, id, ok := strings.Cut(s, "/")
	if !ok || (kind != "disk" && kind != "file") {
		return "", it.host[0]
	}
	return kind, id
}

// DiskOf returns the element of Disks that is the content of a drive, which is one of a machine of this envelope or of a copy
// of it; nil: there is none.
func (e *Envelope) DiskOf(d *machine.Drive) *VirtualDisk {
	if id := from(d.Origin).disk; id != "" {
		return e.Disk(id)
	}
	return nil
}

func (b *board) drive(it *item, o *origin) {
	v := machine.Drive{Kind: machine.Disk, Origin: o}
	fallback := machine.SCSI
	switch it.kind {
	case typeCD, typeDVD:
		v.Kind, fallback = machine.Optical, machine.IDE
	case typeFloppy:
		v.Kind, fallback = machine.Diskette, machine.Floppy
	}
	if v.Kind != machine.Disk {
		v.Connected = truth(it.field["AutomaticAllocation"])
	}
	var ok bool
	if v.At, ok = b.address(it, fallback); !ok {
		b.other(it, o)
		return
	}
	switch kind, id := resource(it); {
	case kind == "disk" && b.disks[id] != nil:
		disk := b.disks[id]
		o.disk = id
		v.Media = machine.Media{Format: FormatName(disk.Format), UUID: disk.UUID, Capacity: disk.Capacity, Populated: max(disk.Populated, 0)}
		if f := b.files[disk.FileRef]; f != nil {
			v.Media.Path = f.Href
		}
	case kind == "file" && b.files[id] != nil:
		v.Media.Path = b.files[id].Href
		if v.Kind != machine.Disk {
			v.Media.Format = "raw"
		}
	case kind != "":
		b.problem(Error, b.at(it), "its %s %.60q is nowhere", kind, id)
	case id != "" && v.Kind != machine.Disk:
		v.Media.Host = id
	case id != "":
		b.problem(Error, b.at(it), "its HostResource %.60q is neither a disk nor a file of the package", id)
	case v.Kind == machine.Disk:
		if q := it.field["VirtualQuantity"]; q != "" && it.field["AllocationUnits"] != "" {
			n, err := Quantity(q, it.field["AllocationUnits"], "byte")
			if err != nil {
				b.problem(Error, b.at(it), "VirtualQuantity: %v", err)
			}
			v.Media.Capacity, o.blank = n, true
		} else {
			b.problem(Error, b.at(it), "the disk has no HostResource")
		}
	}
	b.m.Drives = append(b.m.Drives, v)
}

// The keys of the UUID that the guest sees: a setting of .vmx files, and a property of vSphere's VirtualMachineConfigSpec.
const (
	keyBIOS = "uuid.bios"
	keyUUID = "uuid"
)

// dashed returns a UUID that may be written as VMware does: 56 4d 3b 0e 51 a7 4c 52-9d 5e 7c 1f 2a 3b 4c 5d. It is empty if it
// is none.
func dashed(s string) string {
	s = strings.NewReplacer(" ", "", "-", "").Replace(s)
	if len(s) != 32 {
		return ""
	}
	return uuid(s[:8] + "-" + s[8:12] + "-" + s[12:16] + "-" + s[16:20] + "-" + s[20:])
}

// settings reads what VMware says of the whole machine.
func (b *board) settings(s *etree.Element) {
	m := b.m
	set := func(to *machine.Switch, key string) {
		if v, ok := config(s, "Config", key); ok {
			*to = truth(v)
		}
	}
	set(&m.CPU.HotAdd, "cpuHotAddEnabled")
	set(&m.Memory.HotAdd, "memoryHotAddEnabled")
	set(&m.CPU.Nested, "nestedHVEnabled")
	set(&m.Firmware.SecureBoot, "bootOptions.efiSecureBootEnabled")
	switch v, ok := config(s, "Config", "firmware"); {
	case v == "bios" || v == "efi":
		m.Firmware.Type = v
	case ok:
		b.problem(Warning, b.where, "firmware %.40q is neither bios nor efi", v)
	}
	if v, ok := config(s, "ExtraConfig", keyBIOS); ok && m.UUID == "" {
		m.UUID = dashed(v)
	}
	if v, ok := config(s, "Config", keyUUID); ok && m.UUID == "" {
		m.UUID = dashed(v)
	}
	if v, ok := config(s, "ExtraConfig", "nvram"); ok {
		switch kind, id := resource(&item{host: []string{v}}); {
		case kind == "file" && b.files[id] != nil:
			m.Firmware.Vars.Path = b.files[id].Href
		case kind != "":
			b.problem(Error, b.where, "the file %.60q of its nvram is nowhere", id)
		default:
			m.Firmware.Vars.Path = v
		}
	}
}
