package vbox

import (
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/beevik/etree"

	"tarvm/formats/machine"
)

const (
	mib          = 1 << 20
	maxNumber    = 1<<32 - 1 // VirtualBox's numbers have 32 bits
	maxSnapshots = 10_000    // seen: 4
)

// A reader turns elements into a machine. It keeps its first error.
type reader struct {
	f     *file
	m     *machine.Machine
	minor int
	media map[string]machine.Media // by UUID
	types map[string]imageType     // by UUID, of hard disks
	err   error
}

// An imageType is what a MediaRegistry says of how a disk is used.
type imageType struct {
	name  string // Normal, Writethrough, Immutable, Shareable, Readonly, MultiAttach: that of the tree's root
	reset bool   // what is written is discarded at each start
}

func decode(doc *etree.Document, mach *etree.Element, version string) (*machine.Machine, error) {
	minor, err := parseVersion(version)
	if err != nil {
		return nil, err
	}
	f := &file{doc: doc, mach: mach, minor: minor}
	r := &reader{f: f, minor: minor, m: &machine.Machine{Platform: "virtualbox", Origin: origin{f, mach}}, media: map[string]machine.Media{}, types: map[string]imageType{}}
	r.single("", "Hardware", "Hardware/CPU", "Hardware/BIOS", "Hardware/Firmware", "Hardware/USB", "Hardware/RemoteDisplay",
		"Platform", "Platform/CPU", "Platform/x86", "Platform/x86/CPU", "MediaRegistry")
	r.machine()
	r.firmware()
	r.cpu()
	r.chipset()
	r.registry()
	r.storage()
	r.usb()
	r.network()
	r.screens()
	r.sound()
	r.ports()
	r.inputs()
	r.shares()
	r.others()
	if r.err != nil {
		return nil, r.err
	}
	if err := r.m.Complete(); err != nil {
		return nil, &machine.SyntaxError{Form: formName, What: "StorageControllers", Got: strings.TrimSuffix(err.Error(), ": "+machine.ErrSyntax.Error()), Err: machine.ErrSyntax}
	}
	f.meant = r.m.Clone()
	return r.m, nil
}

func (r *reader) fail(what, format string, args ...any) {
	if r.err == nil {
		r.err = &machine.SyntaxError{Form: formName, What: what, Got: fmt.Sprintf(format, args...), Err: machine.ErrSyntax}
	}
}

func (r *reader) from(e *etree.Element) machine.Origin { return origin{r.f, e} }

// single refuses elements that are there twice in others, because it is not clear which of them counts.
func (r *reader) single(paths ...string) {
	for _, p := range paths {
		e := r.f.mach
		if p != "" {
			e = find(e, p)
		}
		if e == nil {
			continue
		}
		seen := map[string]bool{}
		for _, c := range e.ChildElements() {
			if seen[c.Tag] {
				r.fail(c.Tag, "there twice in %s", e.Tag)
			}
			seen[c.Tag] = true
		}
	}
}

// number reads an attribute in decimal or 0x hexadecimal; def if it is not there.
func (r *reader) number(e *etree.Element, key string, def int64) int64 {
	s, ok := attr(e, key)
	if !ok {
		return def
	}
	n, err := natural(s)
	if err != nil {
		r.fail(e.Tag+"/@"+key, "%.40q is no number up to %d", s, int64(maxNumber))
		return def
	}
	return n
}

// natural parses a number of 32 bits, which may be written with base 16.
func natural(s string) (int64, error) {
	base := 10
	digits := strings.TrimSpace(s)
	if h, ok := strings.CutPrefix(strings.ToLower(digits), "0x"); ok {
		digits, base = h, 16
	}
	n, err := strconv.ParseUint(digits, base, 32)
	return int64(n), err
}

// small reads a number that names a place or counts devices.
func (r *reader) small(e *etree.Element, key string, def int64) int {
	n := r.number(e, key, def)
	if n > 0xffff {
		r.fail(e.Tag+"/@"+key, "%d", n)
		return 0
	}
	return int(n)
}

func (r *reader) flag(e *etree.Element, key string, def machine.Switch) machine.Switch {
	s, ok := attr(e, key)
	if !ok {
		return def
	}
	switch strings.ToLower(s) {
	case "true", "yes", "1":
		return machine.On
	case "false", "no", "0":
		return machine.Off
	}
	r.fail(e.Tag+"/@"+key, "%.40q is neither true nor false", s)
	return def
}

// on is whether a flag is set, with what it is when not said.
func (r *reader) on(e *etree.Element, key string, def bool) bool {
	return r.flag(e, key, machine.Is(def)) == machine.On
}

// uuid reads one; "" if there is none.
func (r *reader) uuid(e *etree.Element, key string) string {
	s, ok := attr(e, key)
	if !ok {
		return ""
	}
	u, ok := parseUUID(s)
	if !ok {
		r.fail(e.Tag+"/@"+key, "%.60q is no UUID", s)
	}
	return u
}

// slashes turns the separators of a path on Windows into slashes.
func slashes(p string) string {
	drive := len(p) > 2 && p[1] == ':' && p[2] == '\\'
	if drive || strings.HasPrefix(p, `\\`) || (strings.Contains(p, `\`) && !strings.Contains(p, "/")) {
		return strings.ReplaceAll(p, `\`, "/")
	}
	return p
}

// lines returns text with \n between lines.
func lines(s string) string {
	return strings.ReplaceAll(strings.ReplaceAll(s, "\r\n", "\n"), "\r", "\n")
}

func (r *reader) machine() {
	m, e := r.m, r.f.mach
	hw := child(e, "Hardware")
	m.Name, _ = attr(e, "name")
	m.Notes = lines(text(child(e, "Description")))
	m.UUID = r.uuid(e, "uuid")
	if u := r.uuid(hw, "uuid"); u != "" && u != m.UUID {
		m.UUID, m.InstanceUUID = u, m.UUID
	}
	m.Guest.VirtualBox, _ = attr(e, "OSType")
	m.Version, _ = attr(hw, "version")
	m.Memory.Bytes = r.number(child(hw, "Memory"), "RAMSize", 0) * mib
	m.Arch = "x86_64"
	if arch, _ := attr(child(e, "Platform"), "architecture"); strings.EqualFold(arch, "ARM") || strings.HasSuffix(m.Guest.VirtualBox, "_arm64") {
		m.Arch = "aarch64"
	} else if r.flag(find(e, cpuFlagsPath(r.minor)+"/LongMode"), "enabled", machine.On) == machine.Off {
		m.Arch = "i686"
	}
}

func (r *reader) firmware() {
	m, hw := r.m, child(r.f.mach, "Hardware")
	if hw == nil {
		return
	}
	m.Firmware.Type = "bios"
	switch t, _ := attr(child(hw, "Firmware"), "type"); strings.ToUpper(t) {
	case "", "BIOS", "1":
		if m.Arch == "aarch64" {
			m.Firmware.Type = "efi"
		}
	case "EFI", "EFI32", "EFI64", "EFIDUAL", "2":
		m.Firmware.Type = "efi"
	default:
		r.fail("Firmware/@type", "%.40q", t)
	}
	bios := find(r.f.mach, biosPath(r.minor))
	if p, ok := attr(child(bios, "NVRAM"), "path"); ok && p != "" {
		m.Firmware.Vars.Path = slashes(p)
	} else if m.Firmware.Type == "efi" {
		m.Firmware.Vars.Path = defaultVars(m.Name)
	}
	x86 := machine.Off
	if m.Arch == "aarch64" {
		x86 = machine.Unsaid
	}
	m.Features.ACPI = r.flag(child(bios, "ACPI"), "enabled", machine.On)
	m.Features.APIC = r.flag(child(bios, "IOAPIC"), "enabled", x86)
	m.Features.HPET = r.flag(find(r.f.mach, hpetPath(r.minor)), "enabled", x86)

	tpm := child(hw, "TrustedPlatformModule")
	switch t, _ := attr(tpm, "type"); t {
	case "", "None":
	case "v1_2":
		m.TPM = &machine.TPM{Version: "1.2", Backend: "emulator", Origin: r.from(tpm)}
	case "v2_0":
		m.TPM = &machine.TPM{Version: "2.0", Backend: "emulator", Origin: r.from(tpm)}
	case "Host":
		m.TPM = &machine.TPM{Backend: "passthrough", Origin: r.from(tpm)}
	case "Swtpm":
		m.TPM = &machine.TPM{Backend: "external", Origin: r.from(tpm)}
	default:
		r.fail("TrustedPlatformModule/@type", "%.40q", t)
	}
}

// defaultVars is where an EFI keeps its variables when settings do not say it: beside them, with their name, which is the
// machine's.
func defaultVars(name string) string {
	if name == "" || strings.ContainsAny(name, `/\:*?"<>|`) {
		return "" // VirtualBox puts something else into the file's name
	}
	return name + ".nvram"
}

func (r *reader) cpu() {
	m, e := r.m, find(r.f.mach, cpuPath(r.minor))
	flags := find(r.f.mach, cpuFlagsPath(r.minor))
	m.CPU.Count = r.small(e, "count", 1)
	if _, ok := attr(e, "count"); !ok {
		m.CPU.Count = r.small(child(e, "CPUCount"), "count", 1) // before 1.5
	}
	m.CPU.HotAdd = r.flag(e, "hotplug", machine.Unsaid)
	if m.CPU.HotAdd == machine.On {
		m.CPU.Max = m.CPU.Count
		plugged := map[int]bool{0: true} // the first cannot be taken out
		for _, c := range children(child(e, "CpuTree"), "Cpu") {
			plugged[r.small(c, "id", 0)] = true
		}
		m.CPU.Count = len(plugged)
		if m.CPU.Count > m.CPU.Max {
			r.fail("CpuTree", "%d processors of %d", m.CPU.Count, m.CPU.Max)
		}
	}
	m.CPU.Nested = r.flag(child(flags, "NestedHWVirt"), "enabled", machine.Unsaid)
	pae := machine.Unsaid // depends on the host
	if r.minor < 9 {
		pae = machine.Off
	}
	m.Features.PAE = r.flag(child(flags, "PAE"), "enabled", pae)
}

func (r *reader) chipset() {
	m := r.m
	hw := child(r.f.mach, "Hardware")
	if t, ok := attr(find(r.f.mach, chipsetPath(r.minor)), "type"); ok {
		if m.Chipset, ok = chipsets.word(t); !ok {
			r.fail("Chipset/@type", "%.40q", t)
		}
	} else if m.Arch != "aarch64" {
		m.Chipset = "i440fx"
	}
	m.Clock = "localtime"
	if c, _ := attr(find(r.f.mach, clockPath(r.minor)), "localOrUTC"); c == "UTC" {
		m.Clock = "utc"
	}
	boot := child(hw, "Boot")
	if boot == nil {
		m.Boot = []string{"floppy", "cdrom", "disk"}
		return
	}
	places := map[int]string{}
	last := 0
	for _, o := range children(boot, "Order") {
		p := r.small(o, "position", 0)
		d, _ := attr(o, "device")
		word, known := bootDevices.word(d)
		switch {
		case p < 1 || p > 16:
			r.fail("Order/@position", "%d", p)
			return
		case places[p] != "":
			r.fail("Order/@position", "%d is there twice", p)
		case !known && d != "None":
			r.fail("Order/@device", "%.40q", d)
		}
		places[p] = word
		last = max(last, p)
	}
	for p := 1; p <= last; p++ {
		if w := places[p]; w != "" && w != "none" && !slices.Contains(m.Boot, w) {
			m.Boot = append(m.Boot, w)
		}
	}
}

// registry reads what is said of images.
func (r *reader) registry() {
	reg := child(r.f.mach, "MediaRegistry")
	put := func(e *etree.Element, format string) {
		u := r.uuid(e, "uuid")
		if u == "" {
			r.fail(e.Tag, "no UUID")
			return
		}
		if _, ok := r.media[u]; ok {
			r.fail(e.Tag+"/@uuid", "%s is there twice", u)
			return
		}
		m := machine.Media{UUID: u, Format: format}
		p, ok := attr(e, "location")
		if !ok {
			p, _ = attr(e, "src") // before 1.4
		}
		if strings.Contains(p, "://") {
			m.URL = p
		} else {
			m.Path = slashes(p)
		}
		r.media[u] = m
	}
	var tree func(e *etree.Element, root imageType)
	tree = func(e *etree.Element, root imageType) {
		for _, d := range children(e, "HardDisk") {
			t := root
			if root.name == "" {
				t.name, _ = attr(d, "type")
				if t.name == "" {
					t.name = "Normal"
				}
			}
			t.reset = r.on(d, "autoReset", false)
			f, _ := attr(d, "format")
			if f != "" {
				f, _ = imageFormats.word(f)
			}
			put(d, f)
			if u := r.uuid(d, "uuid"); u != "" {
				r.types[u] = t
			}
			tree(d, imageType{name: t.name})
		}
	}
	tree(child(reg, "HardDisks"), imageType{})
	for _, list := range []string{"DVDImages", "FloppyImages"} {
		for _, e := range children(child(reg, list), "Image") {
			put(e, "")
		}
	}
}

// image returns the medium that an element refers to by its child Image or HostDrive.
func (r *reader) image(e *etree.Element, key string) machine.Media {
	if host := child(e, "HostDrive"); host != nil {
		m := machine.Media{}
		m.Host, _ = attr(host, "src")
		if m.Host == "" {
			m.Host = "auto"
		}
		return m
	}
	im := child(e, "Image")
	if key != "uuid" {
		im = e
	}
	u := r.uuid(im, key)
	if m, ok := r.media[u]; ok && u != "" {
		return m
	}
	m := machine.Media{UUID: u}
	if p, ok := attr(im, "src"); ok && u == "" { // before 1.4
		m.Path = slashes(p)
	}
	return m
}

// storage reads controllers and drives.
func (r *reader) storage() {
	hw := child(r.f.mach, "Hardware")
	list := child(hw, "StorageControllers")
	if list == nil {
		list = child(r.f.mach, "StorageControllers") // before 1.19
	}
	count := map[machine.Bus]int{}
	for _, e := range children(list, "StorageController") {
		t, _ := attr(e, "type")
		i := storageType(t)
		if i < 0 {
			r.fail("StorageController/@type", "%.40q", t)
			return
		}
		k := storageTypes[i].kind
		index := count[k.bus]
		if k != usbKind { // it is no controller of the bus, but what is behind one
			count[k.bus]++
			c := machine.Controller{Bus: k.bus, Index: index, Model: storageTypes[i].model, Ports: r.small(e, "PortCount", 0), Origin: r.from(e)}
			r.m.Controllers = append(r.m.Controllers, c)
		}
		for _, a := range children(e, "AttachedDevice") {
			r.attached(a, k, index)
		}
	}
	if r.minor < 9 {
		r.oldStorage(hw)
	}
}

func (r *reader) attached(e *etree.Element, k *kind, index int) {
	d := machine.Drive{Origin: r.from(e)}
	switch t, _ := attr(e, "type"); t {
	case "HardDisk":
		d.Kind = machine.Disk
		d.SSD = r.flag(e, "nonrotational", machine.Unsaid)
		d.Discard = r.flag(e, "discard", machine.Unsaid)
	case "DVD":
		d.Kind = machine.Optical
	case "Floppy":
		d.Kind = machine.Diskette
	default:
		return // VirtualBox ignores it
	}
	port, device := r.small(e, "port", 0), r.small(e, "device", 0)
	if device >= k.devices || port >= max(k.ports, 256) || (k.devices > 1 && port >= k.ports) {
		r.fail("AttachedDevice", "port %d, device %d on %s", port, device, k.name)
		return
	}
	d.At = machine.Address{Bus: k.bus, Index: index, Unit: port*k.devices + device}
	d.Removable = r.flag(e, "hotpluggable", machine.Unsaid)
	d.Media = r.image(e, "uuid")
	r.use(&d)
	r.m.Drives = append(r.m.Drives, d)
}

// use reads how the registry says that a disk is used.
func (r *reader) use(d *machine.Drive) {
	if d.Kind != machine.Disk {
		return
	}
	t := r.types[d.Media.UUID]
	switch t.name {
	case "Writethrough":
		d.Independent = machine.On
	case "Shareable":
		d.Shared = machine.On
	case "Readonly":
		d.ReadOnly = machine.On
	}
	if t.reset {
		d.Transient = machine.On
	}
}

// oldStorage reads what was in other places: disks and their controllers before 1.7, CD and floppy drives before 1.9.
func (r *reader) oldStorage(hw *etree.Element) {
	has := func(b machine.Bus) bool { return r.m.Controller(b, 0) != nil }
	if ide := find(hw, "BIOS/IDEController"); ide != nil && r.minor < 7 && !has(machine.IDE) {
		t, _ := attr(ide, "type")
		r.m.Controllers = append(r.m.Controllers, machine.Controller{Bus: machine.IDE, Model: strings.ToLower(t), Ports: 2, Origin: r.from(ide)})
	}
	if sata := child(hw, "SATAController"); sata != nil && r.minor < 7 && !has(machine.SATA) && r.on(sata, "enabled", false) {
		r.m.Controllers = append(r.m.Controllers, machine.Controller{Bus: machine.SATA, Model: "ahci", Ports: r.small(sata, "PortCount", 0), Origin: r.from(sata)})
	}
	if r.minor < 7 {
		list := child(r.f.mach, "HardDiskAttachments")
		for _, e := range children(list, "HardDiskAttachment") {
			d := machine.Drive{Kind: machine.Disk, Media: r.image(e, "hardDisk"), Origin: r.from(e)}
			bus, _ := attr(e, "bus")
			dev, _ := attr(e, "device")
			switch {
			case bus == "SATA":
				d.At = machine.Address{Bus: machine.SATA, Unit: r.small(e, "channel", 0)}
			case bus == "IDE":
				d.At = machine.Address{Bus: machine.IDE, Unit: 2*r.small(e, "channel", 0) + r.small(e, "device", 0)}
			case (bus == "ide0" || bus == "ide1") && (dev == "master" || dev == "slave"): // before 1.3
				d.At.Bus = machine.IDE
				if bus == "ide1" {
					d.At.Unit = 2
				}
				if dev == "slave" {
					d.At.Unit++
				}
			default:
				r.fail("HardDiskAttachment/@bus", "%.40q, device %.40q", bus, dev)
			}
			if d.At.Bus == machine.IDE && d.At.Unit > 3 {
				r.fail("HardDiskAttachment/@channel", "device %d on IDE", d.At.Unit)
			}
			r.use(&d)
			r.m.Drives = append(r.m.Drives, d)
		}
	}
	if dvd := child(hw, "DVDDrive"); dvd != nil { // always the second channel's first
		at := machine.Address{Bus: machine.IDE, Unit: 2}
		r.m.Drives = append(r.m.Drives, machine.Drive{Kind: machine.Optical, At: at, Media: r.image(dvd, "uuid"), Origin: r.from(dvd)})
	}
	if fd := child(hw, "FloppyDrive"); fd != nil && r.on(fd, "enabled", r.minor < 3) {
		at := machine.Address{Bus: machine.Floppy}
		r.m.Drives = append(r.m.Drives, machine.Drive{Kind: machine.Diskette, At: at, Media: r.image(fd, "uuid"), Origin: r.from(fd)})
	}
}

func (r *reader) usb() {
	hw := child(r.f.mach, "Hardware")
	index := 0
	put := func(model string, e *etree.Element) {
		r.m.Controllers = append(r.m.Controllers, machine.Controller{Bus: machine.USB, Index: index, Model: model, Origin: r.from(e)})
		index++
	}
	for _, e := range children(find(hw, "USB/Controllers"), "Controller") {
		t, _ := attr(e, "type")
		model, ok := usbModels.word(t)
		if !ok {
			r.fail("Controller/@type", "%.40q", t)
			return
		}
		put(model, e)
	}
	if e := child(hw, "USBController"); e != nil && r.minor <= 14 && child(hw, "USB") == nil {
		if r.on(e, "enabled", false) {
			put("ohci", e)
		}
		if r.on(e, "enabledEhci", false) {
			put("ehci", e)
		}
	}
}

// The elements that say what an adapter is attached to, with what names the network.
var netModes = []struct {
	tag, name string
	kind      machine.NetKind
}{
	{"NAT", "", machine.UserNet},
	{"NATNetwork", "name", machine.NAT},
	{"BridgedInterface", "name", machine.Bridged},
	{"HostInterface", "name", machine.Bridged}, // before 1.7; of its time's drivers
	{"HostOnlyInterface", "name", machine.HostOnly},
	{"HostOnlyNetwork", "name", machine.HostOnly}, // macOS
	{"InternalNetwork", "name", machine.Internal},
}

// mode returns the element that says what an adapter is attached to, or nil.
func mode(adapter *etree.Element) *etree.Element {
	for _, c := range adapter.ChildElements() {
		if c.Tag != "DisabledModes" {
			return c
		}
	}
	return nil
}

func (r *reader) network() {
	slots := map[int]bool{}
	for _, e := range children(find(r.f.mach, "Hardware/Network"), "Adapter") {
		slot := r.small(e, "slot", 0)
		if slots[slot] || slot >= maxNICs {
			r.fail("Adapter/@slot", "%d is there twice, or more than %d", slot, maxNICs-1)
			return
		}
		slots[slot] = true
		if !r.on(e, "enabled", false) {
			continue
		}
		n := machine.NIC{Slot: slot, Model: "pcnet", Origin: r.from(e)}
		if t, ok := attr(e, "type"); ok {
			n.Model, _ = nicModels.word(t)
		}
		if mac, ok := attr(e, "MACAddress"); ok && mac != "" {
			if n.MAC, ok = parseMAC(mac); !ok {
				r.fail("Adapter/@MACAddress", "%.40q", mac)
			}
		}
		n.Connected = r.flag(e, "cable", machine.Is(r.minor >= 16))
		n.Kind = machine.NoNet
		if c := mode(e); c != nil {
			n.Kind = ""
			for _, t := range netModes {
				if t.tag == c.Tag {
					n.Kind = t.kind
					n.Network, _ = attr(c, t.name)
				}
			}
			r.netDetails(n, c)
		}
		r.m.NICs = append(r.m.NICs, n)
	}
	if hw := child(r.f.mach, "Hardware"); hw != nil && !slots[0] {
		// Without a word of the first adapter, VirtualBox gives the machine one, of a model that suits the guest.
		n := machine.NIC{Kind: machine.UserNet, Connected: machine.On, Origin: r.from(nil)}
		r.m.NICs = slices.Insert(r.m.NICs, 0, n)
	}
}

// netDetails names what the model has no words for.
func (r *reader) netDetails(n machine.NIC, c *etree.Element) {
	if n.Kind == "" {
		driver, _ := attr(c, "driver")
		r.other("network", strings.TrimSpace(fmt.Sprintf("nic %d: %s %s", n.Slot, c.Tag, driver)), c)
	}
	for _, f := range children(c, "Forwarding") {
		a := func(key string) string { v, _ := attr(f, key); return v }
		proto := "tcp"
		if a("proto") == "0" {
			proto = "udp"
		}
		r.other("forward", fmt.Sprintf("nic %d: %s %s:%s to %s:%s", n.Slot, proto, a("hostip"), a("hostport"), a("guestip"), a("guestport")), f)
	}
}

func parseMAC(s string) (string, bool) {
	s = strings.ToLower(strings.NewReplacer(":", "", "-", "").Replace(s))
	if len(s) != 12 || strings.Trim(s, "0123456789abcdef") != "" {
		return "", false
	}
	var b strings.Builder
	for i := 0; i < 12; i += 2 {
		if i > 0 {
			b.WriteByte(':')
		}
		b.WriteString(s[i : i+2])
	}
	return b.String(), true
}

func (r *reader) screens() {
	hw := child(r.f.mach, "Hardware")
	if hw == nil {
		return
	}
	e := child(hw, "Display")
	v := machine.Video{Model: "vboxvga", Memory: r.number(e, "VRAMSize", 8) * mib, Heads: r.small(e, "monitorCount", 1), Accel3D: r.flag(e, "accelerate3D", machine.Off), Origin: r.from(e)}
	if _, ok := attr(e, "monitorCount"); !ok {
		v.Heads = r.small(e, "MonitorCount", 1) // before 1.5
	}
	if t, ok := attr(e, "controller"); ok {
		if v.Model, ok = videoModels.word(t); !ok {
			r.fail("Display/@controller", "%.40q", t)
		}
	}
	r.m.Videos = []machine.Video{v}

	rd := child(hw, "RemoteDisplay")
	if !r.on(rd, "enabled", r.minor < 16) {
		return
	}
	d := machine.Display{Kind: "rdp", Origin: r.from(rd)}
	port, listen := rdpPort(rd), ""
	if a, ok := attr(rd, "netAddress"); ok {
		listen = a
	}
	if p := property(rd, "TCP/Address"); p != nil {
		listen, _ = attr(p, "value")
	}
	d.Listen = listen
	d.Port = firstPort(port)
	r.m.Displays = []machine.Display{d}
}

// rdpPort is the list of ports of a RemoteDisplay: 5000-5010,6000.
func rdpPort(rd *etree.Element) string {
	port, _ := attr(rd, "port")
	if p := property(rd, "TCP/Ports"); p != nil {
		port, _ = attr(p, "value")
	}
	return port
}

// firstPort returns the first of a list of ports and ranges; 0 for the default or what is no port.
func firstPort(s string) int {
	if i := strings.IndexAny(s, ",-"); i >= 0 {
		s = s[:i]
	}
	n, err := strconv.ParseUint(strings.TrimSpace(s), 10, 16)
	if err != nil {
		return 0
	}
	return int(n)
}

// property returns the element Property of a name in VRDEProperties, or nil.
func property(rd *etree.Element, name string) *etree.Element {
	var found *etree.Element
	for _, p := range children(child(rd, "VRDEProperties"), "Property") {
		if n, _ := attr(p, "name"); n == name {
			found = p // the last one counts
		}
	}
	return found
}

func (r *reader) sound() {
	e := find(r.f.mach, "Hardware/AudioAdapter")
	if child(r.f.mach, "Hardware") == nil || !r.on(e, "enabled", r.minor < 16) {
		return
	}
	s := machine.Sound{Model: "ac97", Origin: r.from(e)}
	if t, ok := attr(e, "controller"); ok {
		if s.Model, ok = soundModels.word(t); !ok {
			r.fail("AudioAdapter/@controller", "%.40q", t)
		}
	}
	r.m.Sounds = []machine.Sound{s}
}

// named returns the child of Hardware of a name, or of the one that it had before 1.3.
func (r *reader) named(tag, old string) *etree.Element {
	hw := child(r.f.mach, "Hardware")
	if e := child(hw, tag); e != nil {
		return e
	}
	return child(hw, old)
}

func (r *reader) ports() {
	read := func(list *etree.Element, serial bool) []machine.Port {
		var ports []machine.Port
		seen := map[int]bool{}
		for _, e := range children(list, "Port") {
			p := machine.Port{Slot: r.small(e, "slot", 0), Origin: r.from(e)}
			if seen[p.Slot] {
				r.fail(list.Tag+"/Port/@slot", "%d is there twice", p.Slot)
			}
			seen[p.Slot] = true
			if !r.on(e, "enabled", false) {
				continue
			}
			if serial {
				r.serial(e, &p)
			} else {
				p.Kind = "device"
				p.Path, _ = attr(e, "path")
			}
			ports = append(ports, p)
		}
		return ports
	}
	r.m.Serials = read(r.named("UART", "Uart"), true)
	r.m.Parallels = read(r.named("LPT", "Lpt"), false)
}

func (r *reader) serial(e *etree.Element, p *machine.Port) {
	path, _ := attr(e, "path")
	switch mode, _ := attr(e, "hostMode"); strings.ToLower(mode) {
	case "", "disconnected":
		p.Kind = "null"
	case "rawfile":
		p.Kind, p.Path = "file", path
	case "hostdevice":
		p.Kind, p.Path = "device", path
	case "hostpipe":
		p.Kind, p.Path, p.Server = "pipe", path, r.flag(e, "server", machine.Off)
	case "tcp":
		p.Kind, p.Server = "tcp", r.flag(e, "server", machine.Off)
		p.Service = path
		if i := strings.LastIndexByte(path, ':'); i >= 0 && p.Server != machine.On {
			p.Host, p.Service = path[:i], path[i+1:]
		}
	default:
		r.fail("UART/Port/@hostMode", "%.40q", mode)
	}
}

func (r *reader) inputs() {
	e := find(r.f.mach, "Hardware/HID")
	in := func(kind, bus string) {
		r.m.Inputs = append(r.m.Inputs, machine.Input{Kind: kind, Bus: bus, Origin: r.from(e)})
	}
	switch p, _ := attr(e, "Pointing"); p {
	case "", "PS2Mouse":
		in("mouse", "ps2")
	case "USBMouse":
		in("mouse", "usb")
	case "USBTablet", "USBMultiTouch", "USBMTScreenPlusPad":
		in("tablet", "usb")
	case "ComboMouse":
		in("mouse", "ps2")
		in("mouse", "usb")
	case "None":
	default:
		r.fail("HID/@Pointing", "%.40q", p)
	}
	switch k, _ := attr(e, "Keyboard"); k {
	case "", "PS2Keyboard":
		in("keyboard", "ps2")
	case "USBKeyboard":
		in("keyboard", "usb")
	case "ComboKeyboard":
		in("keyboard", "ps2")
		in("keyboard", "usb")
	case "None":
	default:
		r.fail("HID/@Keyboard", "%.40q", k)
	}
}

func (r *reader) shares() {
	for _, e := range children(find(r.f.mach, "Hardware/SharedFolders"), "SharedFolder") {
		s := machine.Share{ReadOnly: machine.On, Origin: r.from(e)}
		s.Name, _ = attr(e, "name")
		s.Path, _ = attr(e, "hostPath")
		s.Path = slashes(s.Path)
		if r.on(e, "writable", false) {
			s.ReadOnly = machine.Off
		}
		r.m.Shares = append(r.m.Shares, s)
	}
}

func (r *reader) other(kind, name string, e *etree.Element) {
	r.m.Others = append(r.m.Others, machine.Other{Kind: kind, Name: name, Origin: r.from(e)})
}

// others names what would be missed.
func (r *reader) others() {
	mach, hw := r.f.mach, child(r.f.mach, "Hardware")
	name := func(e *etree.Element, key string) string { v, _ := attr(e, key); return v }
	for _, f := range children(find(hw, "USB/DeviceFilters"), "DeviceFilter") {
		r.other("usb-filter", name(f, "name"), f)
	}
	for _, f := range children(child(hw, "USBController"), "DeviceFilter") { // up to 1.14
		r.other("usb-filter", name(f, "name"), f)
	}
	for _, d := range children(find(hw, "HostPci/Devices"), "Device") {
		r.other("hostdev", strings.TrimSpace(name(d, "host")+" "+name(d, "name")), d)
	}
	if c := find(hw, "EmulatedUSB/CardReader"); r.on(c, "enabled", false) {
		r.other("smartcard", "", c)
	}
	if s := name(mach, "stateFile"); s != "" {
		r.other("saved-state", slashes(s), mach)
	}
	count := 0
	var tree func(e *etree.Element)
	tree = func(e *etree.Element) {
		for _, s := range children(e, "Snapshot") {
			if count++; count > maxSnapshots {
				r.fail("Snapshot", "more than %d", maxSnapshots)
				return
			}
			r.other("snapshot", name(s, "name"), s)
			tree(child(s, "Snapshots"))
		}
	}
	tree(mach)
}
