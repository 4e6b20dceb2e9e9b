package vbox

import (
	"crypto/sha1"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/beevik/etree"

	"tarvm/formats/machine"
	"tarvm/formats/machine/xmldoc"
)

const (
	maxCPUs     = 64                 // VBoxManage list systemproperties, VirtualBox 7.2
	maxMemory   = int64(2<<20) * mib // there too
	freshMemory = 1024 * mib
	freshName   = "machine"
	maxNICs     = 36 // on ICH9
	piix3NICs   = 8
	maxBoot     = 4
	maxSerials  = 4
	maxPrinters = 2
	maxVideo    = 256 * mib
	maxScreens  = 64
)

// Encode writes settings. A machine that Decode made is written into its own document.
func (Form) Encode(m *machine.Machine, o machine.EncodeOptions) ([]byte, []machine.Loss, error) {
	w, err := newWriter(m, o, false)
	if err != nil {
		return nil, nil, err
	}
	doc := w.doc
	if err := w.write(o); err != nil {
		return nil, nil, err
	}
	b, err := xmldoc.Write(doc)
	if err != nil {
		return nil, nil, err
	}
	return b, w.losses, nil
}

// EncodeElement writes the element Machine for an OVF envelope, with the attribute version and without a MediaRegistry:
// the envelope says where the images are, which it knows by the UUID in vbox:uuid of Disk. Elements have no prefix. A
// machine that DecodeElement made is written into a copy of its element, and one that Decode made into a copy of that in
// its settings, if these are 1.11 or later.
func EncodeElement(m *machine.Machine, o machine.EncodeOptions) (*etree.Element, []machine.Loss, error) {
	w, err := newWriter(m, o, true)
	if err != nil {
		return nil, nil, err
	}
	if err := w.write(o); err != nil {
		return nil, nil, err
	}
	if reg := child(w.mach, "MediaRegistry"); reg != nil {
		remove(reg)
	}
	switch _, ok := attr(w.mach, "version"); {
	case ok:
	case w.fresh:
		setAttr(w.mach, "version", versionText(w.minor))
	case w.mach != w.doc.Root(): // that of the settings, which is the same in their element
		version, _ := attr(w.doc.Root(), "version")
		setAttr(w.mach, "version", version)
	}
	return w.mach.Copy(), w.losses, nil
}

// A writer changes a document until it says what a machine is.
type writer struct {
	m, old  *machine.Machine // what is wanted, and what the document means
	f       *file            // where it came from; nil if it is fresh
	fresh   bool
	element bool // it is for an OVF envelope
	doc     *etree.Document
	mach    *etree.Element
	minor   int
	arm     bool
	twin    map[*etree.Element]*etree.Element // from f to doc
	media   map[string]*etree.Element         // images in the registry by UUID
	written map[string]string                 // paths of images that drives have, by UUID
	losses  []machine.Loss
	err     error
}

func versionText(minor int) string { return fmt.Sprintf("1.%d-linux", minor) }

func newWriter(m *machine.Machine, o machine.EncodeOptions, element bool) (*writer, error) {
	w := &writer{m: m, element: element, twin: map[*etree.Element]*etree.Element{}, media: map[string]*etree.Element{}, written: map[string]string{}}
	if o.Version != "" && o.Version != "1" && o.Version != "2" {
		return nil, fmt.Errorf("vbox: version %q of the hardware, want 1 or 2: %w", o.Version, machine.ErrUnsupported)
	}
	from, ok := m.Origin.(origin)
	if ok {
		whole := from.file.doc.Root().Tag == "VirtualBox"
		ok = whole != element || whole && from.file.minor >= 11 // before, images are said elsewhere
	}
	if ok {
		w.f, w.old, w.minor = from.file, from.file.meant, from.file.minor
		w.arm = w.old.Arch == "aarch64"
		w.doc = w.f.doc.Copy()
		twins(w.f.doc.Root(), w.doc.Root(), w.twin)
		w.mach = w.twin[w.f.mach]
	} else {
		w.fresh, w.old, w.minor = true, &machine.Machine{}, freshMinor
		switch m.Arch {
		case "", "x86_64", "i686":
		case "aarch64":
			w.minor, w.arm = 20, true
		default:
			return nil, fmt.Errorf("vbox: architecture %s: %w", m.Arch, machine.ErrUnsupported)
		}
		w.doc = etree.NewDocument()
		if element {
			w.mach = etree.NewElement("Machine")
			w.doc.SetRoot(w.mach)
		} else {
			w.doc.CreateProcInst("xml", `version="1.0" encoding="UTF-8"`)
			w.doc.CreateText("\n")
			root := w.doc.CreateElement("VirtualBox")
			root.CreateAttr("xmlns", space)
			root.CreateAttr("version", versionText(w.minor))
			w.mach = add(root, "Machine")
			w.doc.CreateText("\n")
		}
	}
	return w, nil
}

func (w *writer) write(o machine.EncodeOptions) error {
	w.identity(o)
	w.arch()
	w.chipset()
	w.firmware()
	w.cpu()
	w.memory()
	w.boot()
	w.registry()
	w.storage()
	w.usb()
	w.forget()
	w.nics()
	w.screens()
	w.sounds()
	w.ports("UART", w.m.Serials, w.old.Serials, true)
	w.ports("LPT", w.m.Parallels, w.old.Parallels, false)
	w.inputs()
	w.shares()
	w.others()
	if !w.fresh && child(w.mach, "Snapshot") != nil && len(machine.Difference(w.old, w.m)) > 0 {
		dropAttr(w.mach, "currentStateModified") // true, then
	}
	return w.err
}

func (w *writer) lose(part, format string, args ...any) {
	w.losses = append(w.losses, machine.Loss{Part: part, What: fmt.Sprintf(format, args...)})
}

// clean returns text that XML can hold.
func (w *writer) clean(part, s string) string {
	legal := strings.Map(func(r rune) rune {
		switch {
		case r == '\t', r == '\n', r == '\r', r >= ' ' && r <= 0xd7ff, r >= 0xe000 && r <= 0xfffd, r >= 0x10000:
			return r
		}
		return utf8.RuneError
	}, strings.ToValidUTF8(s, "\ufffd"))
	if legal != s {
		w.lose(part, "characters of %q that XML cannot hold are replaced", s)
	}
	return legal
}

// set sets an attribute of the element at a path below Machine.
func (w *writer) set(path, key, value string) { setAttr(makePath(w.mach, path), key, value) }

// drop removes an attribute, and its element when nothing is left of that.
func (w *writer) drop(path, key string) {
	e := find(w.mach, path)
	if e == nil {
		return
	}
	dropAttr(e, key)
	if len(e.Attr) == 0 && len(e.ChildElements()) == 0 {
		remove(e)
	}
}

// flag sets enabled of the element at a path where a switch changed.
func (w *writer) flag(path string, now, old machine.Switch) {
	switch {
	case now == old:
	case now == machine.Unsaid:
		w.drop(path, "enabled")
	default:
		w.set(path, "enabled", truth(now == machine.On))
	}
}

func truth(on bool) string {
	if on {
		return "true"
	}
	return "false"
}

func braces(uuid string) string { return "{" + uuid + "}" }

// namespace is that of the UUIDs that are made here.
const namespace = "6d0a1b52-3f5c-5a5e-9c1e-7462f0c4d9aa"

// derived returns a UUID of version 5 (RFC 9562, section 5.5).
func derived(text string) string {
	h := sha1.New()
	var ns [16]byte
	hex := strings.ReplaceAll(namespace, "-", "")
	for i := range ns {
		n, err := strconv.ParseUint(hex[2*i:2*i+2], 16, 8)
		if err != nil {
			panic(err) // the constant is wrong
		}
		ns[i] = byte(n)
	}
	h.Write(ns[:])
	h.Write([]byte(text))
	b := h.Sum(nil)[:16]
	b[6] = b[6]&0x0f | 0x50
	b[8] = b[8]&0x3f | 0x80
	return fmt.Sprintf("%x-%x-%x-%x-%x", b[:4], b[4:6], b[6:8], b[8:10], b[10:])
}

// wanted returns a UUID if it is one, and else says that it is lost.
func (w *writer) wanted(part, u string) string {
	if u == "" {
		return ""
	}
	p, ok := parseUUID(u)
	if !ok {
		w.lose(part, "left out: %.60q is no UUID", u)
	}
	return p
}

func (w *writer) identity(o machine.EncodeOptions) {
	m, old := w.m, w.old
	if w.fresh || m.UUID != old.UUID || m.InstanceUUID != old.InstanceUUID {
		guest, own := w.wanted("uuid", m.UUID), w.wanted("instance_uuid", m.InstanceUUID)
		if own == "" {
			own, guest = guest, ""
		}
		if own == "" {
			seed := "machine\n" + m.Name
			for _, n := range m.NICs {
				seed += "\n" + n.MAC
			}
			for _, d := range m.Drives {
				seed += "\n" + d.At.String() + " " + d.Media.UUID + " " + d.Media.Path
			}
			own = derived(seed)
		}
		setAttr(w.mach, "uuid", braces(own))
		if guest != "" && guest != own {
			w.set("Hardware", "uuid", braces(guest))
		} else if hw := child(w.mach, "Hardware"); hw != nil {
			dropAttr(hw, "uuid")
		}
	}
	if w.fresh || m.Name != old.Name {
		name := w.clean("name", m.Name)
		if name == "" {
			name = freshName
		}
		setAttr(w.mach, "name", name)
	}
	if m.Notes != old.Notes {
		if e := child(w.mach, "Description"); e != nil {
			remove(e)
		}
		if m.Notes != "" {
			add(w.mach, "Description").SetText(w.clean("notes", m.Notes))
		}
	}
	if m.GenerationID != "" {
		w.lose("generation_id", "left out: VirtualBox has none")
	}
	if w.fresh || m.Guest.VirtualBox != old.Guest.VirtualBox {
		setAttr(w.mach, "OSType", w.clean("guest", osType(m)))
	}
	if w.fresh {
		setAttr(w.mach, "snapshotFolder", "Snapshots")
		makePath(w.mach, "Hardware")
	}
	version := o.Version
	if version == "" && m.Platform == "virtualbox" && m.Version != old.Version {
		version = m.Version
		if version != "" && version != "1" && version != "2" {
			w.lose("version", "left out: VirtualBox has no %q", version)
			version = ""
		}
	}
	if version != "" {
		w.set("Hardware", "version", version)
	}
}

// osType is the guest in VirtualBox's word.
func osType(m *machine.Machine) string {
	if m.Guest.VirtualBox != "" {
		return m.Guest.VirtualBox
	}
	word := m.Guest.InVirtualBox()
	switch arm := strings.HasSuffix(word, "_arm64"); {
	case m.Arch == "aarch64" && !arm:
		return "Other_arm64"
	case word != "" && (!arm || m.Arch == "aarch64"):
		return word
	case m.Arch == "x86_64":
		return "Other_64"
	}
	return "Other"
}

func (w *writer) arch() {
	m := w.m
	if !w.fresh && m.Arch != w.old.Arch && (m.Arch == "aarch64" || w.old.Arch == "aarch64" || (m.Arch != "" && m.Arch != "x86_64" && m.Arch != "i686")) {
		w.lose("arch", "stays %s", w.old.Arch)
		return
	}
	switch {
	case w.arm && w.fresh:
		w.set("Platform", "architecture", "ARM")
	case m.Arch == "x86_64" || m.Arch == "i686":
		if m.Arch != w.old.Arch {
			w.set(cpuFlagsPath(w.minor)+"/LongMode", "enabled", truth(m.Arch == "x86_64"))
		}
	}
}

func (w *writer) chipset() {
	m := w.m
	if m.Chipset != w.old.Chipset {
		switch name, ok := chipsets.vbox(m.Chipset); {
		case m.Chipset == "":
			w.drop(chipsetPath(w.minor), "type")
		case !ok || (m.Chipset == "virt") != w.arm:
			w.lose("chipset", "%s becomes VirtualBox's default", m.Chipset)
		default:
			w.set(chipsetPath(w.minor), "type", name)
		}
	}
	if w.fresh && w.arm && m.Chipset == "" {
		w.set(chipsetPath(w.minor), "type", "ARMv8Virtual")
	}
	if m.Virtualization != "" && m.Virtualization != "hvm" {
		w.lose("virtualization", "%s becomes hvm", m.Virtualization)
	}
}

func (w *writer) firmware() {
	m, old := w.m, w.old
	f := m.Firmware
	if f.Type != old.Firmware.Type {
		switch f.Type {
		case "", "bios":
			w.drop("Hardware/Firmware", "type")
		case "efi":
			t := "EFI"
			switch {
			case w.arm:
			case m.Arch == "x86_64":
				t = "EFI64"
			case m.Arch == "i686":
				t = "EFI32"
			}
			w.set("Hardware/Firmware", "type", t)
		default:
			w.lose("firmware", "%s becomes bios", f.Type)
		}
	}
	if w.fresh && w.arm && f.Type != "efi" {
		if f.Type != "" {
			w.lose("firmware", "%s becomes efi", f.Type)
		}
		w.set("Hardware/Firmware", "type", "EFI") // ARM has no other
	}
	w.vars()
	if f.SecureBoot == machine.On {
		w.lose("firmware", "secure boot is said by the file of variables alone: VBoxManage modifynvram secureboot")
	}
	for _, s := range []struct{ what, value string }{{"loader", f.Loader}, {"template", f.Template}, {"variables", f.Vars.Host}, {"variables", f.Vars.URL}} {
		if s.value != "" {
			w.lose("firmware", "%s %s left out", s.what, s.value)
		}
	}
	bios := biosPath(w.minor)
	w.flag(bios+"/ACPI", m.Features.ACPI, old.Features.ACPI)
	w.flag(bios+"/IOAPIC", m.Features.APIC, old.Features.APIC)
	if w.fresh {
		if m.Features.APIC == machine.Unsaid && !w.arm {
			w.set(bios+"/IOAPIC", "enabled", "true")
		}
		w.set(bios+"/SmbiosUuidLittleEndian", "enabled", "true")
	}
	if w.arm {
		if m.Features.HPET == machine.On && old.Features.HPET != machine.On {
			w.lose("features", "hpet left out: not on ARM")
		}
	} else {
		w.flag(hpetPath(w.minor), m.Features.HPET, old.Features.HPET)
	}
	w.tpm()
}

// vars sets the place of the variables where it is not the one that settings need not say.
func (w *writer) vars() {
	want := w.m.Firmware.Vars.Path
	path := biosPath(w.minor) + "/NVRAM"
	is, said := attr(find(w.mach, path), "path")
	implied := ""
	if w.m.Firmware.Type == "efi" {
		implied = defaultVars(w.m.Name)
	}
	switch {
	case said && is != "" && slashes(is) == want:
	case want == "" || want == implied:
		if said {
			w.drop(path, "path")
		}
	default:
		w.set(path, "path", w.clean("firmware", want))
	}
}

func (w *writer) tpm() {
	now, old := w.m.TPM, w.old.TPM
	const path = "Hardware/TrustedPlatformModule"
	if now == nil {
		if old != nil {
			w.set(path, "type", "None")
		}
		return
	}
	if now.Model != "" {
		w.lose("tpm", "VirtualBox chooses the interface, not %s", now.Model)
	}
	if old != nil && now.Version == old.Version && now.Backend == old.Backend {
		return
	}
	t := "v2_0"
	switch {
	case now.Backend == "passthrough":
		t = "Host"
	case now.Version == "1.2":
		t = "v1_2"
	case now.Version != "2.0" && now.Version != "":
		w.lose("tpm", "version %s becomes 2.0", now.Version)
	}
	if now.Backend == "external" {
		w.lose("tpm", "the one outside becomes VirtualBox's own, %s", t)
	}
	w.set(path, "type", t)
	if _, ok := attr(find(w.mach, path), "location"); !ok {
		w.set(path, "location", "")
	}
}

func (w *writer) cpu() {
	c, old := w.m.CPU, w.old.CPU
	path := cpuPath(w.minor)
	if c.Count != old.Count || c.Max != old.Max || c.HotAdd != old.HotAdd {
		count, most := c.Count, max(c.Max, c.Count)
		if most > maxCPUs {
			w.lose("cpu", "%d processors become %d", most, maxCPUs)
			count, most = min(count, maxCPUs), maxCPUs
		}
		if e := find(w.mach, path+"/CpuTree"); e != nil {
			remove(e)
		}
		switch {
		case c.HotAdd == machine.On && most > 0:
			w.set(path, "count", strconv.Itoa(most))
			w.set(path, "hotplug", "true")
			tree := makePath(w.mach, path+"/CpuTree")
			for i := range max(count, 1) {
				add(tree, "Cpu", "id", strconv.Itoa(i))
			}
		default:
			if most > count {
				w.lose("cpu", "up to %d processors left out: they cannot be added", most)
			}
			w.drop(path, "count")
			if count > 0 {
				w.set(path, "count", strconv.Itoa(count))
			}
			w.drop(path, "hotplug")
			if c.HotAdd != machine.Unsaid {
				w.set(path, "hotplug", truth(c.HotAdd == machine.On))
			}
		}
	}
	if c.Sockets > 1 || c.Threads > 1 {
		w.lose("cpu", "%d sockets, %d cores, %d threads become cores of one socket", c.Sockets, c.Cores, c.Threads)
	}
	if c.Model != "" {
		w.lose("cpu", "model %s becomes the host's", c.Model)
	}
	if w.arm {
		if c.Nested == machine.On && old.Nested != machine.On {
			w.lose("cpu", "nested virtualization left out: not on ARM")
		}
		return
	}
	w.flag(cpuFlagsPath(w.minor)+"/NestedHWVirt", c.Nested, old.Nested)
	w.flag(cpuFlagsPath(w.minor)+"/PAE", w.m.Features.PAE, w.old.Features.PAE)
}

func (w *writer) memory() {
	m := w.m.Memory
	if w.fresh || m.Bytes != w.old.Memory.Bytes {
		n := m.Bytes
		switch {
		case n <= 0:
			n = freshMemory
		case n > maxMemory:
			n = maxMemory
			w.lose("memory", "%d bytes become %d", m.Bytes, n)
		case n%mib != 0 || n < 4*mib:
			n = max(n/mib, 4) * mib
			w.lose("memory", "%d bytes become %d", m.Bytes, n)
		}
		w.set("Hardware/Memory", "RAMSize", strconv.FormatInt(n/mib, 10))
	}
	if m.Max > m.Bytes || m.HotAdd == machine.On {
		w.lose("memory", "none can be added to a running machine")
	}
	switch c := w.m.Clock; {
	case c == w.old.Clock:
	case c == "utc":
		w.set(clockPath(w.minor), "localOrUTC", "UTC")
	case c == "localtime":
		w.set(clockPath(w.minor), "localOrUTC", "local")
	case c == "":
		w.drop(clockPath(w.minor), "localOrUTC")
	default:
		w.lose("clock", "%s left out", c)
	}
}

// boot writes the order of kinds of devices, in which those that have a place of their own go first.
func (w *writer) boot() {
	type place struct {
		at   int
		kind string
	}
	var own []place
	drives := map[string]int{}
	for _, d := range w.m.Drives {
		kind := map[machine.DriveKind]string{machine.Disk: "disk", machine.Optical: "cdrom", machine.Diskette: "floppy"}[d.Kind]
		drives[kind]++
		if d.Boot > 0 && kind != "" {
			own = append(own, place{d.Boot, kind})
		}
	}
	for _, d := range w.m.Drives {
		if d.Boot > 0 && drives[string(d.Kind)] > 1 {
			w.lose("drive "+d.At.String(), "its place in the boot order becomes that of all its kind")
		}
	}
	for _, n := range w.m.NICs {
		if n.Boot > 0 {
			own = append(own, place{n.Boot, "network"})
		}
	}
	slices.SortStableFunc(own, func(a, b place) int { return a.at - b.at })
	var list []string
	put := func(kind string) {
		if !slices.Contains(list, kind) {
			list = append(list, kind)
		}
	}
	for _, p := range own {
		put(p.kind)
	}
	for _, k := range w.m.Boot {
		if _, ok := bootDevices.vbox(k); !ok {
			w.lose("boot", "%s left out", k)
			continue
		}
		put(k)
	}
	if w.m.Kernel != nil {
		w.lose("kernel", "left out: VirtualBox boots from media")
	}
	if slices.Equal(list, w.old.Boot) {
		return
	}
	if e := find(w.mach, "Hardware/Boot"); e != nil {
		remove(e)
	}
	if len(list) == 0 {
		return
	}
	boot := makePath(w.mach, "Hardware/Boot")
	for i := range maxBoot {
		device := "None"
		if i < len(list) {
			device, _ = bootDevices.vbox(list[i])
		}
		add(boot, "Order", "position", strconv.Itoa(i+1), "device", device)
	}
}

func (w *writer) nics() {
	var adapters []*etree.Element
	free := map[int]*etree.Element{} // of adapters that are not used
	for _, e := range children(find(w.mach, "Hardware/Network"), "Adapter") {
		adapters = append(adapters, e)
		free[slotOf(e)] = e
	}
	olds := map[*etree.Element]machine.NIC{}
	var given *machine.NIC // the first adapter, of which nothing is said
	for _, n := range w.old.NICs {
		from := w.f.of(n.Origin)
		olds[from] = n
		if from == nil {
			given = &n
		}
	}
	// Those that stay keep their elements.
	mine := make([]*etree.Element, len(w.m.NICs))
	used := map[*etree.Element]bool{}
	for i, n := range w.m.NICs {
		from := w.f.of(n.Origin)
		if _, ok := olds[from]; ok && from != nil && !used[from] {
			used[from] = true
			mine[i] = w.twin[from]
			delete(free, slotOf(mine[i]))
		}
	}
	for _, n := range w.old.NICs {
		if from := w.f.of(n.Origin); from != nil && !used[from] {
			setAttr(w.twin[from], "enabled", "false")
		}
	}
	limit := piix3NICs
	if w.m.Chipset == "q35" || slices.ContainsFunc(adapters, func(a *etree.Element) bool { return slotOf(a) >= piix3NICs }) {
		limit = maxNICs
	}
	taken := map[int]bool{}
	if given != nil && len(w.m.NICs) > 0 && w.m.NICs[0] == *given {
		taken[0] = true
	} else {
		given = nil
	}
	for i, n := range w.m.NICs {
		part := fmt.Sprintf("nic %d", n.Slot)
		if given != nil && i == 0 {
			continue
		}
		e := mine[i]
		slot := n.Slot
		if slot < 0 || slot >= limit || taken[slot] {
			for slot = 0; slot < limit && (taken[slot] || w.wants(slot, i)); slot++ {
			}
			if slot == limit {
				w.lose(part, "left out: VirtualBox has %d", limit)
				if e != nil {
					setAttr(e, "enabled", "false")
				}
				continue
			}
			w.lose(part, "becomes the adapter in slot %d", slot)
		}
		taken[slot] = true
		old := machine.NIC{Slot: -1}
		switch {
		case e != nil:
			for from, o := range olds {
				if w.twin[from] == e {
					old = o
				}
			}
			if was := slotOf(e); was != slot { // the adapter that has the slot takes this one's
				for _, a := range adapters {
					if a != e && slotOf(a) == slot {
						setAttr(a, "slot", strconv.Itoa(was))
						delete(free, slot)
						free[was] = a
					}
				}
				setAttr(e, "slot", strconv.Itoa(slot))
			}
		case free[slot] != nil:
			e = free[slot]
			delete(free, slot)
			setAttr(e, "enabled", "true")
			dropAttr(e, "MACAddress")
		default:
			e = add(makePath(w.mach, "Hardware/Network"), "Adapter", "slot", strconv.Itoa(slot), "enabled", "true")
			adapters = append(adapters, e)
		}
		w.nic(part, e, n, old)
	}
	if given == nil && !slices.ContainsFunc(adapters, func(a *etree.Element) bool { return slotOf(a) == 0 }) && child(w.mach, "Hardware") != nil {
		add(makePath(w.mach, "Hardware/Network"), "Adapter", "slot", "0", "enabled", "false") // or VirtualBox adds one
	}
}

// wants is whether an adapter behind the i-th has a slot of its own.
func (w *writer) wants(slot, i int) bool {
	for _, n := range w.m.NICs[i+1:] {
		if n.Slot == slot {
			return true
		}
	}
	return false
}

func slotOf(e *etree.Element) int {
	s, _ := attr(e, "slot")
	n, err := natural(s)
	if err != nil {
		return 0 // as it was read
	}
	return int(n)
}

func (w *writer) nic(part string, e *etree.Element, n, old machine.NIC) {
	added := old.Slot < 0
	if n.MAC != old.MAC {
		if mac, ok := parseMAC(n.MAC); ok {
			setAttr(e, "MACAddress", strings.ToUpper(strings.ReplaceAll(mac, ":", "")))
		} else {
			if n.MAC != "" {
				w.lose(part, "MAC address %.40q left out", n.MAC)
			}
			dropAttr(e, "MACAddress")
		}
	}
	if n.Connected != old.Connected || added {
		dropAttr(e, "cable")
		if n.Connected == machine.Off || (n.Connected == machine.On && w.minor < 16) {
			setAttr(e, "cable", truth(n.Connected == machine.On))
		}
	}
	if n.Model != old.Model || added {
		t, ok := nicModels.vbox(n.Model)
		if !ok {
			t = "82540EM"
			if n.Model != "" {
				w.lose(part, "%s becomes e1000", n.Model)
			}
		}
		setAttr(e, "type", t)
	}
	if n.Kind == old.Kind && n.Network == old.Network && !added {
		return
	}
	w.attach(part, e, n)
}

// attach puts another mode of attachment into an adapter. As VirtualBox does it, the one before joins the disabled ones,
// and takes its settings along.
func (w *writer) attach(part string, e *etree.Element, n machine.NIC) {
	tag, key := "NAT", ""
	switch n.Kind {
	case machine.NoNet:
		tag = ""
	case machine.UserNet:
	case machine.NAT:
		if w.m.Platform == "virtualbox" && n.Network != "" {
			tag, key = "NATNetwork", "name"
		} else {
			w.lose(part, "nat becomes user: VirtualBox's NAT is each machine's own")
		}
	case machine.Bridged:
		tag, key = "BridgedInterface", "name"
	case machine.HostOnly:
		tag, key = "HostOnlyInterface", "name"
	case machine.Internal:
		tag, key = "InternalNetwork", "name"
	default:
		if n.Kind != "" {
			w.lose(part, "%s becomes user", strings.TrimSpace(string(n.Kind)+" "+n.Network))
		}
	}
	now := mode(e)
	if now != nil && now.Tag == "HostOnlyNetwork" && n.Kind == machine.HostOnly {
		tag = now.Tag
	}
	if now == nil || now.Tag != tag {
		disabled := child(e, "DisabledModes")
		if now != nil {
			remove(now)
			if disabled == nil {
				disabled = add(e, "DisabledModes")
			}
			if c := child(disabled, now.Tag); c != nil {
				remove(c)
			}
			insert(disabled, now)
			now = nil
		}
		if tag != "" {
			if now = child(disabled, tag); now != nil {
				remove(now)
				insert(e, now)
			} else {
				now = add(e, tag)
			}
		}
	}
	if now != nil && key != "" {
		dropAttr(now, key)
		if n.Network != "" {
			setAttr(now, key, w.clean(part, n.Network))
		}
	}
}

func (w *writer) screens() {
	now, old := machine.Video{}, machine.Video{}
	if len(w.old.Videos) > 0 {
		old = w.old.Videos[0]
	}
	const path = "Hardware/Display"
	if len(w.m.Videos) == 0 {
		if len(w.old.Videos) > 0 && old.Model != "none" {
			w.set(path, "controller", "None")
		}
	} else {
		now = w.m.Videos[0]
		if now.Model != old.Model {
			t, ok := videoModels.vbox(now.Model)
			switch {
			case now.Model == "":
				w.drop(path, "controller")
			case !ok || (t == "QemuRamFB" && w.minor < 20):
				w.lose("video 0", "%s becomes vmvga", now.Model)
				t = "VMSVGA"
				fallthrough
			default:
				w.set(path, "controller", t)
			}
		}
		if now.Memory != old.Memory {
			w.drop(path, "VRAMSize")
			if now.Memory > 0 {
				n := min(max(now.Memory/mib, 1), maxVideo/mib)
				if n*mib != now.Memory {
					w.lose("video 0", "%d bytes of memory become %d", now.Memory, n*mib)
				}
				w.set(path, "VRAMSize", strconv.FormatInt(n, 10))
			}
		}
		if now.Heads != old.Heads {
			w.drop(path, "MonitorCount")
			w.drop(path, "monitorCount")
			if now.Heads > 0 {
				if now.Heads > maxScreens {
					w.lose("video 0", "%d screens become %d", now.Heads, maxScreens)
				}
				w.set(path, "monitorCount", strconv.Itoa(min(now.Heads, maxScreens)))
			}
		}
		if now.Accel3D != old.Accel3D {
			w.drop(path, "accelerate3D")
			if now.Accel3D != machine.Unsaid {
				w.set(path, "accelerate3D", truth(now.Accel3D == machine.On))
			}
		}
		for i, v := range w.m.Videos[1:] {
			w.lose(fmt.Sprintf("video %d", i+1), "%s left out: VirtualBox has one adapter", v.Model)
		}
	}
	w.displays()
}

func (w *writer) displays() {
	const path = "Hardware/RemoteDisplay"
	var now, old *machine.Display
	for i := range w.m.Displays {
		d := &w.m.Displays[i]
		if d.Kind == "rdp" && now == nil {
			now = d
		} else {
			w.lose(fmt.Sprintf("display %d", i), "%s left out", d.Kind)
		}
	}
	if len(w.old.Displays) > 0 {
		old = &w.old.Displays[0]
	}
	switch {
	case now == nil:
		if old != nil {
			w.set(path, "enabled", "false")
		}
		return
	case old == nil:
		w.set(path, "enabled", "true")
		old = &machine.Display{}
		if e := find(w.mach, path); firstPort(rdpPort(e)) != 0 || property(e, "TCP/Address") != nil {
			old = &machine.Display{Port: -1, Listen: "?"} // of the time when it was disabled: written over
		}
	}
	if now.Port != old.Port {
		port := ""
		if now.Port > 0 {
			port = strconv.Itoa(now.Port)
		}
		w.rdp("TCP/Ports", "port", port)
	}
	if now.Listen != old.Listen {
		w.rdp("TCP/Address", "netAddress", w.clean("display", now.Listen))
	}
}

// rdp sets a property of the remote display: an attribute before 1.11.
func (w *writer) rdp(name, old, value string) {
	e := makePath(w.mach, "Hardware/RemoteDisplay")
	dropAttr(e, old)
	for p := property(e, name); p != nil; p = property(e, name) {
		remove(p)
	}
	switch {
	case value == "":
	case w.minor < 11:
		setAttr(e, old, value)
	default:
		add(makePath(e, "VRDEProperties"), "Property", "name", name, "value", value)
	}
}

func (w *writer) sounds() {
	const path = "Hardware/AudioAdapter"
	was := len(w.old.Sounds) > 0
	if len(w.m.Sounds) == 0 {
		if was {
			w.set(path, "enabled", "false")
		}
		return
	}
	now := w.m.Sounds[0]
	if !was {
		if find(w.mach, path) == nil {
			w.set(path, "useDefault", "true")
			w.set(path, "driver", "Default")
			w.set(path, "enabledOut", "true")
		}
		w.set(path, "enabled", "true")
	}
	if !was || now.Model != w.old.Sounds[0].Model {
		t, ok := soundModels.vbox(now.Model)
		if !ok {
			t = "AC97"
			switch now.Model {
			case "ich6", "ich9":
				t = "HDA"
			case "":
				t = ""
			}
			if t != "" {
				w.lose("sound 0", "%s becomes %s", now.Model, strings.ToLower(t))
			}
		}
		e := makePath(w.mach, path)
		dropAttr(e, "controller")
		dropAttr(e, "codec") // goes with the controller
		if t != "" {
			setAttr(e, "controller", t)
		}
	}
	for i, s := range w.m.Sounds[1:] {
		w.lose(fmt.Sprintf("sound %d", i+1), "%s left out: VirtualBox has one card", s.Model)
	}
}

// The usual places of serial and parallel ports.
var (
	serialPlaces   = [maxSerials][2]string{{"0x3f8", "4"}, {"0x2f8", "3"}, {"0x3e8", "4"}, {"0x2e8", "3"}}
	parallelPlaces = [maxPrinters][2]string{{"0x378", "7"}, {"0x278", "5"}}
)

// ports writes serial or parallel ports.
func (w *writer) ports(tag string, now, before []machine.Port, serial bool) {
	hw := child(w.mach, "Hardware")
	list := child(hw, tag)
	if older := child(hw, tag[:1]+strings.ToLower(tag[1:])); list == nil && older != nil {
		list = older
	}
	word, limit := "serial", maxSerials
	if !serial {
		word, limit = "parallel", maxPrinters
	}
	olds := map[*etree.Element]machine.Port{}
	for _, p := range before {
		olds[w.f.of(p.Origin)] = p
	}
	used := map[*etree.Element]bool{}
	taken := map[int]bool{}
	var missing []machine.Port
	for _, p := range now {
		from := w.f.of(p.Origin)
		old, ok := olds[from]
		if !ok || from == nil || used[from] || p.Slot != old.Slot {
			missing = append(missing, p)
			continue
		}
		used[from], taken[p.Slot] = true, true
		if p.Origin = old.Origin; p != old {
			w.port(w.twin[from], fmt.Sprintf("%s %d", word, p.Slot), p, serial)
		}
	}
	for _, p := range before {
		if from := w.f.of(p.Origin); !used[from] {
			setAttr(w.twin[from], "enabled", "false")
		}
	}
	for _, p := range missing {
		part := fmt.Sprintf("%s %d", word, p.Slot)
		if p.Slot < 0 || p.Slot >= limit || taken[p.Slot] {
			w.lose(part, "left out: VirtualBox has %d", limit)
			continue
		}
		if !serial && (p.Kind != "device" || p.Path == "") {
			w.lose(part, "%s left out: VirtualBox connects devices of the host", p.Kind)
			continue
		}
		taken[p.Slot] = true
		if list == nil {
			list = makePath(hw, tag)
		}
		var e *etree.Element
		for _, c := range children(list, "Port") {
			if slotOf(c) == p.Slot {
				e = c
			}
		}
		if e == nil {
			place, base := parallelPlaces[min(p.Slot, 1)], "IOBase"
			if serial {
				place = serialPlaces[p.Slot]
			}
			if w.minor == 20 {
				base = "IOAddress"
			}
			e = add(list, "Port", "slot", strconv.Itoa(p.Slot), "enabled", "true", base, place[0], "IRQ", place[1])
		}
		setAttr(e, "enabled", "true")
		w.port(e, part, p, serial)
	}
}

// port sets what a port leads to.
func (w *writer) port(e *etree.Element, part string, p machine.Port, serial bool) {
	for _, key := range []string{"hostMode", "path", "server"} {
		dropAttr(e, key)
	}
	path := p.Path
	if !serial {
		setAttr(e, "path", w.clean(part, path))
		return
	}
	mode := "Disconnected"
	switch p.Kind {
	case "null", "":
	case "file":
		mode = "RawFile"
	case "device":
		mode = "HostDevice"
	case "pipe":
		mode = "HostPipe"
	case "unix":
		mode = "HostPipe"
		w.lose(part, "unix becomes pipe, which is a socket on Unix")
	case "tcp":
		mode = "TCP"
		path = p.Service
		if p.Server != machine.On {
			path = p.Host + ":" + p.Service
		} else if p.Host != "" {
			w.lose(part, "listens on all addresses, not %s", p.Host)
		}
		if p.Telnet == machine.On {
			w.lose(part, "telnet left out")
		}
	default:
		w.lose(part, "%s becomes null", p.Kind)
	}
	if mode != "Disconnected" && path == "" {
		w.lose(part, "%s to nothing becomes null", p.Kind)
		mode = "Disconnected"
	}
	if mode == "HostPipe" || mode == "TCP" {
		setAttr(e, "server", truth(p.Server == machine.On))
	}
	if mode != "Disconnected" {
		setAttr(e, "path", w.clean(part, path))
	}
	setAttr(e, "hostMode", mode)
}

// inputs writes the one pointing device and keyboard that there are. A tablet stands for a mouse, too, because a PS/2 one
// is always there.
func (w *writer) inputs() {
	type in struct{ kind, bus string }
	flat := func(list []machine.Input) []in {
		var out []in
		for _, i := range list {
			out = append(out, in{i.Kind, i.Bus})
		}
		return out
	}
	now := flat(w.m.Inputs)
	if slices.Equal(now, flat(w.old.Inputs)) {
		return
	}
	if len(now) == 0 && w.fresh {
		return
	}
	has := map[in]bool{}
	for i, d := range now {
		if d.bus == "" {
			d.bus = "ps2"
			if d.kind == "tablet" {
				d.bus = "usb"
			}
		}
		if d.bus != "ps2" && d.bus != "usb" {
			w.lose(fmt.Sprintf("input %d", i), "%s %s becomes usb", d.bus, d.kind)
			d.bus = "usb"
		}
		if d.kind != "mouse" && d.kind != "tablet" && d.kind != "keyboard" {
			w.lose(fmt.Sprintf("input %d", i), "%s left out", d.kind)
			continue
		}
		has[d] = true
	}
	pointing, keyboard := "None", "None"
	switch {
	case has[in{"tablet", "usb"}], has[in{"tablet", "ps2"}]:
		pointing = "USBTablet"
	case has[in{"mouse", "usb"}] && has[in{"mouse", "ps2"}]:
		pointing = "ComboMouse"
	case has[in{"mouse", "usb"}]:
		pointing = "USBMouse"
	case has[in{"mouse", "ps2"}]:
		pointing = "PS2Mouse"
	}
	switch {
	case has[in{"keyboard", "usb"}] && has[in{"keyboard", "ps2"}]:
		keyboard = "ComboKeyboard"
	case has[in{"keyboard", "usb"}]:
		keyboard = "USBKeyboard"
	case has[in{"keyboard", "ps2"}]:
		keyboard = "PS2Keyboard"
	}
	w.set("Hardware/HID", "Pointing", pointing)
	w.set("Hardware/HID", "Keyboard", keyboard)
}

func (w *writer) shares() {
	olds := map[*etree.Element]machine.Share{}
	for _, s := range w.old.Shares {
		olds[w.f.of(s.Origin)] = s
	}
	used := map[*etree.Element]bool{}
	for i, s := range w.m.Shares {
		from := w.f.of(s.Origin)
		old, ok := olds[from]
		var e *etree.Element
		if ok && from != nil && !used[from] {
			used[from] = true
			e = w.twin[from]
		} else {
			old = machine.Share{}
			e = add(makePath(w.mach, "Hardware/SharedFolders"), "SharedFolder", "name", "", "hostPath", "")
		}
		part := fmt.Sprintf("share %d", i)
		if s.Name != old.Name {
			setAttr(e, "name", w.clean(part, s.Name))
		}
		if s.Path != old.Path {
			setAttr(e, "hostPath", w.clean(part, s.Path))
		}
		if s.ReadOnly != old.ReadOnly {
			setAttr(e, "writable", truth(s.ReadOnly != machine.On))
		} else if old.Origin == nil {
			setAttr(e, "writable", "true") // not said: as elsewhere
		}
	}
	for _, s := range w.old.Shares {
		if from := w.f.of(s.Origin); !used[from] {
			remove(w.twin[from])
		}
	}
}

// forgetSnapshots removes all snapshots, and the images that only they have.
func (w *writer) forgetSnapshots() {
	for _, e := range children(w.mach, "Snapshot") {
		remove(e)
	}
	dropAttr(w.mach, "currentSnapshot")
	dropAttr(w.mach, "currentStateModified")
	var used func(e *etree.Element) bool
	used = func(e *etree.Element) bool {
		if s, ok := attr(e, "uuid"); ok {
			if u, ok := parseUUID(s); ok {
				if _, ok := w.written[u]; ok {
					return true
				}
			}
		}
		return slices.ContainsFunc(e.ChildElements(), used)
	}
	reg := child(w.mach, "MediaRegistry")
	if reg == nil {
		return
	}
	for _, list := range reg.ChildElements() {
		for _, e := range list.ChildElements() {
			if !used(e) {
				remove(e)
			}
		}
	}
}

func (w *writer) others() {
	kept := map[machine.Origin]int{}
	for _, o := range w.m.Others {
		if w.f.of(o.Origin) == nil {
			w.lose(strings.TrimSpace(o.Kind+" "+o.Name), "left out")
			continue
		}
		kept[o.Origin]++
	}
	none := !slices.ContainsFunc(w.m.Others, func(o machine.Other) bool { return o.Kind == "snapshot" })
	for _, o := range w.old.Others {
		if kept[o.Origin]--; kept[o.Origin] >= 0 {
			continue
		}
		e := w.twin[w.f.of(o.Origin)]
		switch o.Kind {
		case "snapshot":
			if none {
				w.forgetSnapshots()
			} else {
				w.lose("snapshot "+o.Name, "stays")
			}
		case "saved-state":
			dropAttr(e, "stateFile")
		case "smartcard":
			setAttr(e, "enabled", "false")
		case "network": // goes with its adapter
		default:
			remove(e)
		}
	}
}
