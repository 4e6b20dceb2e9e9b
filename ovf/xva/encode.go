package xva

import (
	"cmp"
	"crypto/sha1"
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"slices"
	"strings"

	"tarvm/formats/machine"
)

// blockSize is what xapi cuts disks into.
const blockSize = 1 << 20

// maxHVM is how many drives xapi gives to a machine, as its first devices: the emulated ones and those beside them.
const maxHVM = 16

// Encode implements machine.Config. o.Version must be empty.
func (Config) Encode(m *machine.Machine, o machine.EncodeOptions) ([]byte, []machine.Loss, error) {
	if o.Version != "" {
		return nil, nil, fmt.Errorf("xva: version %q: %w", o.Version, machine.ErrUnsupported)
	}
	e, err := encode(m, nil, &Options{})
	if err != nil {
		return nil, nil, err
	}
	b := e.doc.root.xml()
	if len(b) > machine.MaxConfig {
		return nil, nil, fmt.Errorf("xva: ova.xml of %d bytes: %w", len(b), machine.ErrUnsupported)
	}
	return b, e.losses, nil
}

// An encoder changes a document until it says what a machine is.
type encoder struct {
	m    *machine.Machine
	was  *machine.Machine // what doc says before anything is changed
	doc  *document
	vm   *object
	made bool // the VM object is a new one
	seed [16]byte
	o    *Options
	// sizes are those of the disks' content, where it is known.
	sizes map[machine.Address]int64
	// vdi is the object of each drive's disk.
	vdi    map[machine.Address]*object
	losses []machine.Loss
}

// encode makes the document of m.
func encode(m *machine.Machine, sizes map[machine.Address]int64, o *Options) (*encoder, error) {
	switch m.Arch {
	case "", "x86_64", "i686":
	default:
		return nil, fmt.Errorf("xva: processor %s: XenServer and XCP-ng have x86 alone: %w", m.Arch, machine.ErrUnsupported)
	}
	if err := m.Clone().Complete(); err != nil {
		return nil, fmt.Errorf("xva: %w", err)
	}
	e := &encoder{m: m, o: o, sizes: sizes, vdi: map[machine.Address]*object{}, seed: o.ID}
	if e.seed == ([16]byte{}) {
		sum := sha1.Sum([]byte("xva\x00" + m.UUID + "\x00" + m.Name))
		copy(e.seed[:], sum[:])
	}
	if err := e.begin(); err != nil {
		return nil, err
	}
	e.general()
	e.processors()
	e.memory()
	e.firmware()
	if err := e.drives(); err != nil {
		return nil, err
	}
	e.nics()
	e.devices()
	return e, nil
}

func (e *encoder) lose(part, format string, a ...any) {
	e.losses = append(e.losses, machine.Loss{Part: part, What: fmt.Sprintf(format, a...)})
}

// uuid makes a UUID of version 5 (RFC 4122) of the seed.
func (e *encoder) uuid(name string) string {
	sum := sha1.Sum(append(e.seed[:len(e.seed):len(e.seed)], name...))
	sum[6] = sum[6]&0x0f | 0x50
	sum[8] = sum[8]&0x3f | 0x80
	h := hex.EncodeToString(sum[:16])
	return h[:8] + "-" + h[8:12] + "-" + h[12:16] + "-" + h[16:20] + "-" + h[20:]
}

// begin takes the document that the machine came from, or makes one.
func (e *encoder) begin() error {
	if from, ok := e.m.Origin.(*origin); ok && from.doc.find("VM", from.id) != nil {
		e.doc = from.doc.clone()
		e.vm = e.doc.find("VM", from.id)
	} else {
		e.doc = fresh()
		e.vm, e.made = e.add("VM", freshVM(e)), true
	}
	was, err := e.doc.machine(e.vm)
	if err != nil {
		return err // it was decoded once: it cannot be
	}
	e.was = was
	return nil
}

// add appends an object with an id of its own. Ids have three digits, so that their order is that of their numbers.
func (e *encoder) add(class string, snap *value) *object {
	n, id := len(e.doc.objects), ""
	for id = ref(n); e.taken(id); id = ref(n) {
		n++
	}
	names := fields(member{"class", text(class)}, member{"id", text(id)}, member{"snapshot", snap})
	o := &object{class: class, id: id, snap: snap, names: names}
	e.doc.objects = append(e.doc.objects, o)
	list := e.doc.root.get("objects")
	list.items = append(list.items, names)
	return o
}

func ref(n int) string { return fmt.Sprintf("Ref:%03d", n) }

func (e *encoder) taken(id string) bool {
	return slices.ContainsFunc(e.doc.objects, func(o *object) bool { return o.id == id })
}

// remove takes an object out, and from the lists that name it.
func (e *encoder) remove(gone *object) {
	e.doc.objects = slices.DeleteFunc(e.doc.objects, func(o *object) bool { return o == gone })
	list := e.doc.root.get("objects")
	list.items = slices.DeleteFunc(list.items, func(v *value) bool { return v == gone.names })
	for _, o := range e.doc.objects {
		for _, name := range []string{"VBDs", "VIFs", "VDIs", "VTPMs"} {
			if w := o.snap.get(name); w != nil {
				w.items = slices.DeleteFunc(w.items, func(v *value) bool { return v.text == gone.id })
			}
		}
	}
}

// enlist adds an id to a member that is an array.
func (o *object) enlist(name, id string) {
	w := o.snap.get(name)
	if w == nil || w.kind != "array" {
		w = array()
		o.snap.set(name, w)
	}
	w.items = append(w.items, text(id))
}

func (e *encoder) general() {
	s, m := e.vm.snap, e.m
	if m.Name != e.was.Name {
		s.setText("name_label", m.Name)
	}
	if m.Notes != e.was.Notes {
		s.setText("name_description", m.Notes)
	}
	if m.UUID != e.was.UUID && m.UUID != "" {
		s.setText("uuid", m.UUID)
	}
	if m.InstanceUUID != "" {
		e.lose("instance uuid", "left out: a machine has one UUID")
	}
	if m.GenerationID != "" {
		e.lose("generation id", "left out: an import makes a new one")
	}
	if g := m.Guest; g != e.was.Guest && g != (machine.Guest{}) {
		e.lose("guest", "left out: the file says which template a machine was made of, and that becomes %q", otherMedia)
	}
	if m.Chipset != "" && m.Chipset != "i440fx" {
		e.lose("chipset", "%s becomes i440fx", m.Chipset)
	}
	if m.Clock == "localtime" {
		e.lose("clock", "becomes utc: the file holds the distance from it, which is not known")
	}
}

func (e *encoder) processors() {
	s, c, was := e.vm.snap, e.m.CPU, e.was.CPU
	if c.Count != was.Count || c.Max != was.Max {
		n := max(c.Count, 1)
		s.setNumber("VCPUs_at_startup", int64(n))
		s.setNumber("VCPUs_max", int64(max(n, c.Max)))
	}
	cores := c.Cores
	if c.Threads > 1 {
		cores = max(c.Cores, 1) * c.Threads
		e.lose("cpu", "%d threads of a core become cores", c.Threads)
	}
	if cores == 0 && c.Sockets > 0 && c.Count%c.Sockets == 0 {
		cores = c.Count / c.Sockets
	}
	if cores != was.Cores || cores > 0 && (c.Count != was.Count || c.Max != was.Max) {
		most, _ := s.number("VCPUs_max", maxCPUs)
		switch {
		case cores == 0:
			s.table("platform").drop("cores-per-socket")
		case most%int64(cores) != 0: // xapi would not start it
			s.table("platform").drop("cores-per-socket")
			e.lose("cpu", "%d cores of a socket left out: %d processors are no multiple of it", cores, most)
		default:
			s.table("platform").setNumber("cores-per-socket", int64(cores))
		}
	}
	if c.Nested != was.Nested {
		s.get("platform").drop("exp-nested-hvm")
	}
	e.toggle("nested-virt", c.Nested, was.Nested)
	if c.Model != "" {
		e.lose("cpu", "model %s left out: guests see the pool's", c.Model)
	}
	if c.HotAdd == machine.On && c.Max <= c.Count {
		e.lose("cpu", "more cannot be added while it runs: the greatest number is not said")
	}
}

// toggle changes a flag of the platform.
func (e *encoder) toggle(key string, now, was machine.Switch) {
	switch {
	case now == was:
	case now == machine.On:
		e.vm.snap.table("platform").setText(key, "true")
	case now == machine.Off:
		e.vm.snap.table("platform").setText(key, "false")
	case !e.made: // else what new documents say stays
		e.vm.snap.table("platform").drop(key)
	}
}

func (e *encoder) memory() {
	s, now, was := e.vm.snap, e.m.Memory, e.was.Memory
	if now.Bytes != was.Bytes || now.Max != was.Max {
		n := cmp.Or(now.Bytes, now.Max, defaultMemory)
		s.setNumber("memory_static_max", max(n, now.Max))
		s.setNumber("memory_dynamic_max", n)
		s.setNumber("memory_dynamic_min", n)
		if least, err := s.number("memory_static_min", maxMemory); err != nil || least > n || least == defaultMemory {
			s.setNumber("memory_static_min", n)
		}
	}
}

const defaultMemory = 1 << 30

func (e *encoder) firmware() {
	s, m, was := e.vm.snap, e.m, e.was
	virt := cmp.Or(m.Virtualization, "hvm")
	if virt != cmp.Or(was.Virtualization, "hvm") {
		s.setText("domain_type", virt)
		policy := "BIOS order"
		if virt == "pv" {
			policy = ""
			if m.Kernel == nil {
				s.setText("PV_bootloader", "pygrub")
			}
		}
		s.setText("HVM_boot_policy", policy)
	}
	if f := m.Firmware; virt != "pv" {
		if f.Type != was.Firmware.Type && f.Type != "" {
			// xapi refuses qemu-trad with UEFI, and qemu-upstream-uefi with BIOS.
			words, model := "bios", "qemu-upstream-compat"
			if f.Type == "efi" {
				words, model = "uefi", "qemu-upstream-uefi"
			}
			s.table("HVM_boot_params").setText("firmware", words)
			s.table("platform").setText("device-model", model)
		}
		e.variables()
	} else if f.Type != "" {
		e.lose("firmware", "left out: a paravirtual machine has none")
	}
	e.toggle("secureboot", m.Firmware.SecureBoot, was.Firmware.SecureBoot)
	e.toggle("acpi", m.Features.ACPI, was.Features.ACPI)
	e.toggle("apic", m.Features.APIC, was.Features.APIC)
	e.toggle("pae", m.Features.PAE, was.Features.PAE)
	e.toggle("hpet", m.Features.HPET, was.Features.HPET)
	if m.TPM != nil && was.TPM == nil {
		e.lose("tpm", "left out: its state is not in the file, and an import makes no new one")
	}
	if m.TPM == nil && was.TPM != nil {
		for _, o := range e.doc.of("VTPM", e.vm.id) {
			e.remove(o)
		}
	}
	order := m.Boot
	if len(order) == 0 {
		order = devicesOrder(m)
	}
	if !slices.Equal(order, was.Boot) && len(order) > 0 {
		word := ""
		for _, kind := range order {
			for r, k := range letters {
				if k == kind {
					word += string(r)
				}
			}
		}
		s.table("HVM_boot_params").setText("order", word)
	}
	e.kernel(virt)
}

// devicesOrder is the order of kinds in which devices have places of their own.
func devicesOrder(m *machine.Machine) []string {
	type place struct {
		at   int
		kind string
	}
	var places []place
	for _, d := range m.Drives {
		if kind := string(d.Kind); d.Boot > 0 && d.Kind != machine.LUN {
			places = append(places, place{d.Boot, kind})
		}
	}
	for _, n := range m.NICs {
		if n.Boot > 0 {
			places = append(places, place{n.Boot, "network"})
		}
	}
	slices.SortStableFunc(places, func(a, b place) int { return cmp.Compare(a.at, b.at) })
	var order []string
	for _, p := range places {
		if !slices.Contains(order, p.kind) {
			order = append(order, p.kind)
		}
	}
	return order
}

// variables writes the firmware's, as varstored keeps them.
func (e *encoder) variables() {
	now, was := e.m.Firmware.Vars, e.was.Firmware.Vars
	b := e.o.Variables
	if len(b) > 0 && !isVarstored(b) {
		vars, err := OVMFVariables(b)
		if err != nil {
			e.lose("firmware", "variables left out: %s", err)
			return
		}
		b = vars
	}
	switch {
	case len(b) > 0:
		e.vm.snap.table("NVRAM").setText("EFI-variables", base64.StdEncoding.EncodeToString(b))
	case now == was:
	case now == (machine.Media{}):
		e.vm.snap.table("NVRAM").drop("EFI-variables")
	default:
		e.vm.snap.table("NVRAM").drop("EFI-variables")
		e.lose("firmware", "variables left out: the content of %s was not given", cmp.Or(now.Path, "their file"))
	}
}

func (e *encoder) kernel(virt string) {
	s := e.vm.snap
	var now, was machine.Kernel
	if e.m.Kernel != nil {
		now = *e.m.Kernel
	}
	if e.was.Kernel != nil {
		was = *e.was.Kernel
	}
	if now == was {
		return
	}
	if virt == "hvm" && now != (machine.Kernel{}) {
		e.lose("kernel", "left out: only paravirtual machines start one of the host's files")
		return
	}
	s.setText("PV_kernel", now.Path)
	s.setText("PV_ramdisk", now.Initrd)
	s.setText("PV_args", now.Args)
}

// storage is the SR object that new disks are in.
func (e *encoder) storage() *object {
	for _, o := range e.doc.objects {
		if o.class == "SR" && o.snap.str("content_type") != "iso" {
			return o
		}
	}
	return e.add("SR", freshSR(e))
}

func (e *encoder) drives() error {
	taken := map[int]bool{}
	for _, d := range e.m.Drives {
		if d.At.Bus == machine.Xen && d.At.Index == 0 {
			taken[d.At.Unit] = true
		}
	}
	// The devices 0 to 3 are also emulated as IDE, which a drive for discs needs; XenServer makes it the last of them.
	reserve := -1
	for _, d := range e.m.Drives {
		if d.Kind == machine.Optical && d.At.Bus != machine.Xen && !taken[3] {
			reserve = 3
		}
	}
	kept := map[*object]bool{}
	for i := range e.m.Drives {
		d := &e.m.Drives[i]
		o, was := e.sameDrive(d)
		_, given := e.sizes[d.At]
		if (o == nil || e.sizes != nil && d.Kind == machine.Disk && !given) && !e.expressible(d) {
			continue
		}
		unit := d.At.Unit
		if (was == nil || was.At != d.At) && (d.At.Bus != machine.Xen || d.At.Index != 0 || unit > maxUnit) {
			var ok bool
			if unit, ok = place(d, taken, reserve); !ok {
				e.lose("drive "+d.At.String(), "left out: no device number is free")
				continue
			}
			taken[unit] = true
			e.lose("drive "+d.At.String(), "becomes device %d (%s)", unit, letter(unit))
		}
		if o == nil {
			o = e.add("VBD", freshVBD(e, d.At))
			o.snap.setText("VM", e.vm.id)
			e.vm.enlist("VBDs", o.id)
		}
		kept[o] = true
		if err := e.drive(d, o, was, unit); err != nil {
			return err
		}
	}
	for _, o := range e.doc.of("VBD", e.vm.id) {
		if kept[o] {
			continue
		}
		e.remove(o)
		if vdi := e.doc.find("VDI", o.snap.str("VDI")); vdi != nil && !e.used(vdi) {
			e.remove(vdi)
		}
	}
	return nil
}

func (e *encoder) used(vdi *object) bool {
	return slices.ContainsFunc(e.doc.objects, func(o *object) bool {
		return o.class == "VBD" && o.snap.str("VDI") == vdi.id || o.class == "VM" && o.snap.str("suspend_VDI") == vdi.id
	})
}

// sameDrive returns the VBD that a drive was made of and what that says, or nothing.
func (e *encoder) sameDrive(d *machine.Drive) (*object, *machine.Drive) {
	from, ok := d.Origin.(*origin)
	if !ok {
		return nil, nil
	}
	for i := range e.was.Drives {
		w := &e.was.Drives[i]
		if of, ok := w.Origin.(*origin); ok && of.id == from.id && w.Kind == d.Kind {
			return e.doc.find("VBD", from.id), w
		}
	}
	return nil, nil
}

// expressible reports whether there can be such a drive.
func (e *encoder) expressible(d *machine.Drive) bool {
	part := "drive " + d.At.String()
	_, has := e.sizes[d.At]
	switch {
	case d.Kind == machine.Diskette:
		e.lose(part, "left out: there are no floppy drives")
	case d.Kind == machine.LUN:
		e.lose(part, "left out: a device of the host")
	case d.Kind == machine.Disk && e.sizes != nil && !has:
		e.lose(part, "left out: its content was not given")
	case d.Kind == machine.Disk && e.sizes == nil && d.Media == (machine.Media{}):
		e.lose(part, "left out: a disk without content")
	default:
		return true
	}
	return false
}

// place finds a device number: for disks the first that is free, for drives for discs 3 or one of those before.
func place(d *machine.Drive, taken map[int]bool, reserve int) (int, bool) {
	if d.Kind == machine.Optical {
		for unit := 3; unit >= 0; unit-- {
			if !taken[unit] {
				return unit, true
			}
		}
		return 0, false
	}
	for unit := range maxHVM {
		if !taken[unit] && unit != reserve {
			return unit, true
		}
	}
	return 0, false
}

// drive makes a VBD say what d is. was is what it says, or nil for a new one.
func (e *encoder) drive(d *machine.Drive, o *object, was *machine.Drive, unit int) error {
	part := "drive " + d.At.String()
	if was == nil {
		was = &machine.Drive{Kind: d.Kind, At: machine.Address{Bus: machine.Xen, Unit: -1}}
		switch d.Kind {
		case machine.Optical:
			o.snap.setText("type", "CD")
			o.snap.setText("mode", "RO")
			o.snap.set("unpluggable", flag(false))
		default:
			o.snap.setText("type", "Disk")
		}
	}
	if unit != was.At.Unit {
		o.snap.setNumber("userdevice", int64(unit))
		o.snap.setText("device", letter(unit))
	}
	if d.Kind != machine.Optical && d.ReadOnly != was.ReadOnly {
		mode := "RW"
		if d.ReadOnly == machine.On {
			mode = "RO"
		}
		o.snap.setText("mode", mode)
	}
	for _, l := range []struct {
		on   bool
		what string
	}{
		{d.Connected == machine.Off, "disconnected: left out"},
		{d.Removable == machine.On && d.Kind == machine.Disk, "removable: left out"},
		{d.Transient == machine.On, "transient: what is written stays"},
		{d.Independent == machine.On, "independent: snapshots hold it"},
		{d.SSD == machine.On, "that it does not rotate: left out"},
		{d.Cache != "", "cache " + d.Cache + ": left out"},
		{d.Serial != "", "serial number: left out"},
	} {
		if l.on {
			e.lose(part, "%s", l.what)
		}
	}
	if d.Kind == machine.Disk {
		return e.disk(d, o, was)
	}
	if d.Media != was.Media {
		if d.Media != (machine.Media{}) {
			e.lose(part, "medium %s left out: the drive is empty", cmp.Or(d.Media.Path, d.Media.Host, d.Media.URL))
		}
		o.snap.setText("VDI", null)
		o.snap.set("empty", flag(true))
	}
	return nil
}

// disk makes the VDI of a VBD say what the content of d is.
func (e *encoder) disk(d *machine.Drive, o *object, was *machine.Drive) error {
	vdi, made := e.doc.find("VDI", o.snap.str("VDI")), false
	size, given := e.sizes[d.At]
	if !given {
		size = d.Media.Capacity
	}
	if vdi == nil && !given && d.Media == (machine.Media{}) {
		return nil // a VBD without a disk, as it was
	}
	if vdi == nil {
		sr := e.storage()
		vdi = e.add("VDI", freshVDI(e, d.At))
		vdi.snap.setText("SR", sr.id)
		sr.enlist("VDIs", vdi.id)
		vdi.enlist("VBDs", o.id)
		o.snap.setText("VDI", vdi.id)
		o.snap.set("empty", flag(false))
		was, made = &machine.Drive{}, true
	}
	e.vdi[d.At] = vdi
	if size > maxDisk {
		return fmt.Errorf("xva: drive %s: %d bytes, limit %d: %w", d.At, size, int64(maxDisk), machine.ErrUnsupported)
	}
	if made || size != was.Media.Capacity {
		whole := (size + blockSize - 1) / blockSize * blockSize
		if given {
			whole = max(whole, blockSize) // there must be a block
		}
		if whole != size {
			e.lose("drive "+d.At.String(), "grows from %d to %d bytes: disks are whole MiB", size, whole)
		}
		vdi.snap.setNumber("virtual_size", whole)
		vdi.snap.setNumber("physical_utilisation", whole)
	}
	if label := stem(d.Media.Path); d.Media.Path != was.Media.Path && d.Media.Path != "" {
		vdi.snap.setText("name_label", label)
	}
	if id := d.Media.UUID; id != was.Media.UUID && id != "" {
		vdi.snap.setText("uuid", id)
		vdi.snap.setText("location", id)
	}
	if d.Shared != was.Shared {
		vdi.snap.set("sharable", flag(d.Shared == machine.On))
	}
	return nil
}

func (e *encoder) nics() {
	emulated := ""
	if len(e.m.NICs) > 0 {
		emulated = e.m.NICs[0].Model
	}
	for _, n := range e.m.NICs {
		if n.Model != emulated {
			emulated = ""
		}
	}
	before := ""
	if len(e.was.NICs) > 0 {
		before = e.was.NICs[0].Model
	}
	if emulated != before {
		if emulated == "e1000" || emulated == "rtl8139" {
			e.vm.snap.table("platform").setText("nic_type", emulated)
		} else if p := e.vm.snap.table("platform"); before != "" && p.get("nic_type") != nil {
			p.drop("nic_type")
		}
	}
	kept, slots := map[*object]bool{}, map[int]bool{}
	for i := range e.m.NICs {
		n := &e.m.NICs[i]
		part := fmt.Sprintf("nic %d", n.Slot)
		o, was := e.sameNIC(n)
		if o == nil {
			o = e.add("VIF", freshVIF(e, i))
			o.snap.setText("VM", e.vm.id)
			e.vm.enlist("VIFs", o.id)
			was = &machine.NIC{Slot: -1, Model: n.Model}
			switch n.Model {
			case "", "netfront":
			case emulated:
				if emulated != "e1000" && emulated != "rtl8139" {
					e.lose(part, "%s becomes XenServer's own (netfront), with rtl8139 for guests without drivers", n.Model)
				}
			default:
				e.lose(part, "%s becomes XenServer's own (netfront), with rtl8139 for guests without drivers", n.Model)
			}
		}
		kept[o] = true
		slot := n.Slot
		for was.Slot < 0 && (slots[slot] || slot > maxUnit) {
			slot = (slot + 1) % (maxUnit + 1)
		}
		slots[slot] = true
		if slot != was.Slot {
			o.snap.setNumber("device", int64(slot))
			if slot > 6 {
				e.lose(part, "device %d: most versions take seven adapters", slot)
			}
		}
		if n.MAC != was.MAC {
			o.snap.setText("MAC", n.MAC)
		}
		if n.Generated != was.Generated || n.MAC != was.MAC {
			o.snap.set("MAC_autogenerated", flag(n.Generated || n.MAC == ""))
		}
		if n.Kind != was.Kind || n.Network != was.Network {
			e.network(n, o, part)
		}
		if n.Connected == machine.Off {
			e.lose(part, "disconnected: left out")
		}
	}
	for _, o := range e.doc.of("VIF", e.vm.id) {
		if !kept[o] {
			e.remove(o)
		}
	}
}

func (e *encoder) sameNIC(n *machine.NIC) (*object, *machine.NIC) {
	from, ok := n.Origin.(*origin)
	if !ok {
		return nil, nil
	}
	for i := range e.was.NICs {
		w := &e.was.NICs[i]
		if of, ok := w.Origin.(*origin); ok && of.id == from.id {
			return e.doc.find("VIF", from.id), w
		}
	}
	return nil, nil
}

// network attaches a VIF to the network of a name. An import looks for one of that label and makes one where there is
// none, so that a bridge of another host must not be named.
func (e *encoder) network(n *machine.NIC, vif *object, part string) {
	label := n.Network
	if label == "" {
		label = "Network 0"
	}
	if n.Kind != machine.Named {
		e.lose(part, "%s network becomes the one labelled %q", cmp.Or(string(n.Kind), "its"), label)
	}
	var net *object
	for _, o := range e.doc.objects {
		if o.class == "network" && o.snap.str("name_label") == label {
			net = o
		}
	}
	if net == nil {
		net = e.add("network", freshNetwork(e, label))
	}
	vif.snap.setText("network", net.id)
	net.enlist("VIFs", vif.id)
}

// devices reports what there is no word for.
func (e *encoder) devices() {
	m, was := e.m, e.was
	for _, c := range m.Controllers {
		switch {
		case c.Implied, c.Bus == machine.Xen, c.Bus == machine.Floppy:
		case c.Bus == machine.IDE && (c.Model == "" || strings.HasPrefix(c.Model, "piix")):
		default:
			e.lose(fmt.Sprintf("controller %s%d", c.Bus, c.Index), "left out: drives are Xen devices")
		}
	}
	if !slices.EqualFunc(m.Videos, was.Videos, func(a, b machine.Video) bool {
		return a.Model == b.Model && a.Memory == b.Memory
	}) {
		e.video()
	}
	for i, v := range m.Videos {
		if i > 0 {
			e.lose(fmt.Sprintf("video %d", i), "left out: there is one adapter")
		}
		if v.Heads > 1 {
			e.lose("video", "%d screens become one", v.Heads)
		}
		if v.Accel3D == machine.On {
			e.lose("video", "3D left out")
		}
	}
	count := func(part string, n int, what string) {
		if n > 0 {
			e.lose(part, "left out: %s", what)
		}
	}
	for _, d := range m.Displays {
		e.lose("display "+d.Kind, "left out: xapi has the console")
	}
	for i, s := range m.Sounds {
		e.lose(fmt.Sprintf("sound %d", i), "%s left out", cmp.Or(s.Model, "card"))
	}
	count("serial", len(m.Serials), "an import makes no ports")
	count("parallel", len(m.Parallels), "there are no ports")
	for _, i := range m.Inputs {
		if i.Bus == "usb" && i.Kind != "tablet" {
			e.lose("input "+i.Kind, "usb becomes ps2")
		}
	}
	for _, s := range m.Shares {
		e.lose("share "+s.Name, "left out")
	}
	for _, o := range m.Others {
		e.lose(strings.TrimSpace(o.Kind+" "+o.Name), "left out")
	}
	for _, d := range m.Drives {
		if d.Boot > 0 && len(m.Boot) > 0 {
			e.lose("drive "+d.At.String(), "place %d of its own in the boot order left out", d.Boot)
		}
	}
	for _, n := range m.NICs {
		if n.Boot > 0 && len(m.Boot) > 0 {
			e.lose(fmt.Sprintf("nic %d", n.Slot), "place %d of its own in the boot order left out", n.Boot)
		}
	}
}

func (e *encoder) video() {
	p := e.vm.snap.table("platform")
	p.drop("vga")
	p.drop("videoram")
	if len(e.m.Videos) == 0 {
		return
	}
	v := e.m.Videos[0]
	switch v.Model {
	case "vga":
		p.setText("vga", "std")
	case "cirrus":
		p.setText("vga", "cirrus")
	case "":
	default:
		p.setText("vga", "std")
		e.lose("video", "%s becomes vga", v.Model)
	}
	switch mib := (v.Memory + 1<<20 - 1) >> 20; {
	case mib > 1<<20 || mib < 0:
		e.lose("video", "%d bytes of memory left out", v.Memory)
	case mib > 0:
		p.setNumber("videoram", mib)
		if mib<<20 != v.Memory {
			e.lose("video", "memory becomes %d MiB", mib)
		}
	}
}
