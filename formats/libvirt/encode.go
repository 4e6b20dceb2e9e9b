package libvirt

import (
	"fmt"
	"path"
	"slices"
	"strings"

	"github.com/beevik/etree"

	"tarvm/formats/machine"
	"tarvm/formats/machine/xmldoc"
)

// section orders losses as the fields of a Machine are.
type section int

const (
	sIdentity section = iota
	sGuest
	sPlatform
	sFirmware
	sTPM
	sCPU
	sMemory
	sFeatures
	sBoot
	sKernel
	sControllers
	sDrives
	sNICs
	sVideos
	sDisplays
	sSounds
	sSerials
	sParallels
	sInputs
	sShares
	sOthers
)

type ranked struct {
	at section
	machine.Loss
}

// encoder writes one machine. Each put function takes what an element meant and what it is to mean, and changes the
// difference; a new element meant nothing. So a changed document and a new one are written by the same code.
type encoder struct {
	m       *machine.Machine
	root    *etree.Element
	devices *etree.Element
	fresh   bool
	qemu    bool                              // the domain is for QEMU
	x86     bool                              // the guest's processor
	wide    bool                              // SCSI buses have 15 places
	copies  map[*etree.Element]*etree.Element // elements of the Origin's document, and of its copy
	used    map[held]bool
	names   map[string]bool           // of targets of disks
	last    map[string]*etree.Element // device of each kind; "": of all
	next    map[string]int            // by prefix: where the search for a free name begins
	losses  []ranked
}

func (e *encoder) lose(at section, part, format string, args ...any) {
	e.losses = append(e.losses, ranked{at, machine.Loss{Part: part, What: fmt.Sprintf(format, args...)}})
}

// Encode writes a domain: a copy of the one that m was read from in which only what changed is changed, or a new one for
// QEMU (see the package's documentation). Version is the name of QEMU's machine (pc-q35-7.2). The error wraps
// machine.ErrSyntax if two of m's drives, or two of its controllers, have one address.
func (Form) Encode(m *machine.Machine, o machine.EncodeOptions) ([]byte, []machine.Loss, error) {
	e := &encoder{m: m.Clone(), used: map[held]bool{}, names: map[string]bool{}, next: map[string]int{}, copies: map[*etree.Element]*etree.Element{}}
	if err := e.m.Complete(); err != nil {
		return nil, nil, fmt.Errorf("%s: %w", formName, err)
	}
	var doc *etree.Document
	was := &machine.Machine{}
	org, ok := m.Origin.(*origin)
	if ok {
		doc, was = org.doc.Copy(), org.was
		pair(e.copies, &org.doc.Element, &doc.Element)
		e.root = doc.Root()
		e.devices = child(e.root, "devices")
	} else {
		org, e.fresh = &origin{}, true
		doc = etree.NewDocument()
		e.root = doc.CreateElement("domain")
		e.root.AddChild(etree.NewText("\n")) // says that the document is indented, and comes to be the end of it
		e.root.CreateAttr("type", domainType(m))
	}
	kind := attr(e.root, "type")
	if !e.fresh && e.m.Platform != was.Platform {
		kind = domainType(m)
		if words := map[string]string{"virtualbox": "vbox", "parallels": "vz"}; m.Platform != "" && domainType(m) == "kvm" {
			kind = translate(words, m.Platform)
		}
		e.root.CreateAttr("type", kind)
	}
	e.qemu = slices.Contains([]string{"qemu", "kvm", "hvf"}, kind)
	e.wide = kind == "vmware"
	e.x86 = slices.Contains([]string{"", "x86_64", "i686", "i586", "i486", "i386"}, m.Arch)
	if e.fresh && e.qemu {
		e.adapt()
	}
	if o.Version != "" {
		e.m.Version = o.Version
	}
	e.domain(was)
	e.all(org)
	if e.fresh {
		doc.AddChild(etree.NewText("\n"))
	}
	b, err := xmldoc.Write(doc)
	if err != nil {
		return nil, nil, fmt.Errorf("%s: %w", formName, err)
	}
	slices.SortStableFunc(e.losses, func(a, b ranked) int { return int(a.at) - int(b.at) })
	losses := make([]machine.Loss, len(e.losses))
	for i, l := range e.losses {
		losses[i] = l.Loss
	}
	return b, losses, nil
}

// domainType is the type of a new domain.
func domainType(m *machine.Machine) string {
	switch {
	case m.Platform == "qemu":
		return "qemu"
	case m.Platform == "xen" && m.Virtualization == "pv":
		return "xen"
	}
	return "kvm"
}

// pair notes which element of a copy is which.
func pair(copies map[*etree.Element]*etree.Element, a, b *etree.Element) {
	copies[a] = b
	for i, t := range a.Child {
		if c, ok := t.(*etree.Element); ok {
			d, _ := b.Child[i].(*etree.Element)
			pair(copies, c, d)
		}
	}
}

// put writes a text element of the domain, or removes it.
func (e *encoder) put(tag, was, now string) {
	switch {
	case was == now:
	case now == "":
		drop(child(e.root, tag))
	default:
		setText(ensure(e.root, tag), now)
	}
}

// domain writes everything but devices.
func (e *encoder) domain(was *machine.Machine) {
	m := e.m
	if e.fresh {
		if m.Name == "" {
			m.Name = "unnamed"
		}
		if name := strings.Map(inName, m.Name); name != m.Name {
			e.lose(sIdentity, "name", "becomes %q: libvirt keeps files of that name", name)
			m.Name = name
		}
	}
	e.put("name", was.Name, m.Name)
	e.identity(was)
	e.guest(was)
	e.put("description", was.Notes, linesOf(m.Notes))
	e.memory(was)
	e.vcpu(was)
	e.system(was)
	e.features(was)
	e.cpu(was)
	e.clock(was)
}

// inName replaces what cannot be in a domain's name.
func inName(r rune) rune {
	if r == '/' || r < ' ' {
		return '-'
	}
	return r
}

func (e *encoder) identity(was *machine.Machine) {
	m := e.m
	if child(e.root, "hwuuid") != nil {
		e.put("hwuuid", was.UUID, m.UUID)
		e.put("uuid", was.InstanceUUID, m.InstanceUUID)
	} else {
		e.put("uuid", was.UUID, m.UUID)
		if m.InstanceUUID != was.InstanceUUID && m.InstanceUUID != "" && m.InstanceUUID != m.UUID {
			e.lose(sIdentity, "instance uuid", "left out: libvirt knows a machine by what the guest sees")
		}
	}
	e.put("genid", was.GenerationID, m.GenerationID)
}

func (e *encoder) guest(was *machine.Machine) {
	if e.m.Guest == was.Guest {
		return
	}
	id := e.m.Guest.InOsinfo()
	if id == "" {
		if e.m.Guest != (machine.Guest{}) {
			e.lose(sGuest, "guest", "left out: libosinfo has no name for it")
		}
		if os := osinfoElement(e.root); os != nil {
			lib, meta := os.Parent(), os.Parent().Parent()
			drop(lib)
			prune(meta)
		}
		return
	}
	os := osinfoElement(e.root)
	if os == nil {
		lib := add(ensure(e.root, "metadata"), "libosinfo:libosinfo")
		lib.CreateAttr("xmlns:libosinfo", osinfoSpace)
		os = add(lib, "libosinfo:os")
	}
	os.CreateAttr("id", id)
}

// kib is a size in libvirt's unit, rounded up.
func kib(n int64) int64 { return n>>10 + (n&1023+1023)>>10 }

func putSize(el *etree.Element, n int64) {
	el.CreateAttr("unit", "KiB")
	setText(el, fmt.Sprint(kib(n)))
}

func (e *encoder) memory(was *machine.Machine) {
	if e.fresh && e.m.Memory.Bytes <= 0 {
		e.m.Memory.Bytes = 1 << 30
		e.lose(sMemory, "memory", "becomes 1 GiB: the source does not say, and a domain must")
	}
	now := e.m.Memory
	numa := down(e.root, "cpu", "numa")
	if now.Max != was.Memory.Max {
		if now.Max > now.Bytes || !e.fresh && now.Max > 0 {
			max := ensure(e.root, "maxMemory")
			if attr(max, "slots") == "" {
				max.CreateAttr("slots", "16")
			}
			putSize(max, now.Max)
			if now.HotAdd == machine.Off {
				e.lose(sMemory, "memory", "can be added while it runs: a maximum says so")
			}
		} else {
			drop(child(e.root, "maxMemory"))
		}
	}
	if now.HotAdd != was.Memory.HotAdd && now.HotAdd == machine.On && now.Max == 0 {
		e.lose(sMemory, "memory", "none can be added while it runs: no maximum is known")
	}
	if now.Bytes == was.Memory.Bytes {
		return
	}
	if now.Bytes&1023 != 0 {
		e.lose(sMemory, "memory", "becomes %d KiB", kib(now.Bytes))
	}
	if now.Bytes <= 0 {
		drop(child(e.root, "memory"))
	} else {
		putSize(ensure(e.root, "memory"), now.Bytes)
	}
	if c := child(e.root, "currentMemory"); c != nil {
		putSize(c, now.Bytes)
	}
	if numa != nil {
		drop(numa)
		e.lose(sMemory, "memory", "the cells are left out: their sum is another")
	}
}

// processors is what vcpu says at most.
func processors(c machine.CPU) int { return max(c.Count, c.Max) }

func (e *encoder) vcpu(was *machine.Machine) {
	now, old := e.m.CPU, was.CPU
	if now.HotAdd != old.HotAdd && now.HotAdd == machine.On && now.Max <= now.Count {
		e.lose(sCPU, "cpu", "none can be added while it runs: no maximum is known")
	}
	if now.Count == old.Count && now.Max == old.Max {
		return
	}
	if now.Count == 0 {
		drop(child(e.root, "vcpu"))
		return
	}
	v := ensure(e.root, "vcpu")
	setText(v, itoa(processors(now)))
	if now.Max > now.Count {
		v.CreateAttr("current", itoa(now.Count))
	} else {
		v.RemoveAttr("current")
	}
	drop(child(e.root, "vcpus"))
}

// topology returns all three numbers, or false if what is said does not give them, or gives another number of processors
// than there are.
func topology(c machine.CPU) (sockets, cores, threads int, ok bool) {
	sockets, cores, threads = c.Sockets, max(c.Cores, 1), max(c.Threads, 1)
	all := processors(c)
	each := int64(cores) * int64(threads)
	if sockets == 0 && all > 0 && int64(all)%each == 0 {
		sockets = int(int64(all) / each)
	}
	return sockets, cores, threads, sockets > 0 && int64(sockets)*each == int64(max(all, 1))
}

func (e *encoder) cpu(was *machine.Machine) {
	now, old := e.m.CPU, was.CPU
	el := child(e.root, "cpu")
	open := func() *etree.Element {
		if el == nil {
			el = ensure(e.root, "cpu")
		}
		return el
	}
	host := func(model string) bool {
		return strings.HasPrefix(model, "host-") || model == "maximum"
	}
	if now.Model != old.Model {
		switch {
		case now.Model == "":
			if el != nil {
				el.RemoveAttr("mode")
				drop(child(el, "model"))
			}
		case host(now.Model):
			open().CreateAttr("mode", now.Model)
			drop(child(el, "model"))
		default:
			open().CreateAttr("mode", "custom")
			setText(ensure(el, "model"), now.Model)
		}
		if el != nil && (e.fresh || now.Model == "") {
			for _, tag := range []string{"feature", "vendor"} {
				for _, f := range children(el, tag) {
					drop(f)
				}
			}
		}
	}
	if now.Count != old.Count || now.Max != old.Max || now.Sockets != old.Sockets || now.Cores != old.Cores || now.Threads != old.Threads {
		s, c, t, ok := topology(now)
		switch said := now.Sockets != 0 || now.Cores != 0 || now.Threads != 0; {
		case !said:
			drop(child(el, "topology"))
		case !ok:
			drop(child(el, "topology"))
			e.lose(sCPU, "cpu", "the topology is left out: it is not that of %d processors", processors(now))
		default:
			top := ensure(open(), "topology")
			for _, key := range []string{"dies", "clusters"} {
				top.RemoveAttr(key)
			}
			top.CreateAttr("sockets", itoa(s))
			top.CreateAttr("cores", itoa(c))
			top.CreateAttr("threads", itoa(t))
		}
	}
	if now.Nested != old.Nested {
		e.nested(el, open)
	}
	if e.fresh && e.qemu && e.x86 && e.m.Memory.Max > e.m.Memory.Bytes {
		cell := add(add(open(), "numa"), "cell") // QEMU's driver wants one where memory can be added
		cell.CreateAttr("id", "0")
		cell.CreateAttr("cpus", "0-"+itoa(max(1, processors(now))-1))
		cell.CreateAttr("memory", fmt.Sprint(kib(e.m.Memory.Bytes)))
		cell.CreateAttr("unit", "KiB")
	}
	prune(el)
}

// nested writes whether the guest can be a hypervisor. Which feature that is, Intel's or AMD's, the host knows.
func (e *encoder) nested(el *etree.Element, open func() *etree.Element) {
	f := nestedFeature(el.NotNil())
	switch now := e.m.CPU.Nested; {
	case now == machine.Unsaid:
		for ; f != nil; f = nestedFeature(el) {
			drop(f)
		}
	case now == machine.Off && e.m.CPU.Model == "" && f == nil:
		e.lose(sCPU, "cpu", "whether the guest can be a hypervisor becomes the default of the host")
	case !e.x86:
		e.lose(sCPU, "cpu", "whether the guest can be a hypervisor is left out: not known for %s", e.m.Arch)
	default:
		policy := map[machine.Switch]string{machine.On: "optional", machine.Off: "disable"}[now]
		if e.m.CPU.Model == "" {
			open().CreateAttr("mode", "host-model")
			e.lose(sCPU, "cpu", "becomes the host's model, that the guest can be a hypervisor")
		}
		if f == nil {
			for _, name := range []string{"vmx", "svm"} {
				add(open(), "feature").CreateAttr("name", name)
			}
		}
		for _, f := range children(open(), "feature") {
			if n := attr(f, "name"); n == "vmx" || n == "svm" {
				f.CreateAttr("policy", policy)
			}
		}
	}
}

func (e *encoder) system(was *machine.Machine) {
	m := e.m
	os := child(e.root, "os")
	if e.fresh {
		os = add(e.root, "os")
		t := add(os, "type")
		word := "hvm"
		switch {
		case !e.qemu:
			word = "linux"
		case m.Virtualization == "pv" || m.Virtualization == "pvh":
			e.lose(sPlatform, "machine", "becomes a whole one: QEMU has no paravirtualized machines")
		}
		setAttr(t, "arch", m.Arch)
		setAttr(t, "machine", m.Version)
		t.SetText(word)
	} else if m.Virtualization != was.Virtualization || m.Arch != was.Arch || m.Version != was.Version || m.Chipset != was.Chipset {
		if os == nil {
			os = add(e.root, "os")
		}
		t := ensure(os, "type")
		setAttr(t, "arch", m.Arch)
		if m.Version == was.Version && m.Chipset != was.Chipset {
			m.Version = map[string]string{"i440fx": "pc"}[m.Chipset]
			if m.Version == "" {
				m.Version = m.Chipset
			}
		}
		setAttr(t, "machine", m.Version)
		if m.Virtualization != was.Virtualization {
			setText(t, map[string]string{"pv": "linux", "pvh": "xenpvh"}[m.Virtualization])
			if m.Virtualization == "hvm" {
				setText(t, "hvm")
			}
		}
	}
	if m.Firmware != was.Firmware {
		if os == nil {
			os = add(e.root, "os")
		}
		e.firmware(os, was.Firmware, m.Firmware)
	}
	e.boot(os, was)
	var old, now machine.Kernel
	if was.Kernel != nil {
		old = *was.Kernel
	}
	if m.Kernel != nil {
		now = *m.Kernel
	}
	if now == old {
		return
	}
	if os == nil {
		os = add(e.root, "os")
	}
	for _, v := range []struct{ tag, was, now string }{{"kernel", old.Path, now.Path}, {"initrd", old.Initrd, now.Initrd}, {"cmdline", old.Args, now.Args}} {
		switch {
		case v.now == v.was:
		case v.now == "":
			drop(child(os, v.tag))
		default:
			setText(ensure(os, v.tag), v.now)
			if v.tag != "cmdline" {
				e.checkPath(sKernel, "kernel", v.now)
			}
		}
	}
}

// checkPath notes a loss if a path means nothing to libvirt.
func (e *encoder) checkPath(at section, what, p string) {
	if e.fresh && !path.IsAbs(p) {
		e.lose(at, what, "the path %q is relative: libvirt wants an absolute one", p)
	}
}

func (e *encoder) firmware(os *etree.Element, was, now machine.Firmware) {
	loader := child(os, "loader")
	if now.Loader != was.Loader && e.fresh {
		e.lose(sFirmware, "firmware", "the loader %q is left out: the host's libvirt chooses one", now.Loader)
	} else if now.Loader != was.Loader {
		if now.Loader == "" {
			drop(loader)
			loader = nil
		} else {
			loader = ensure(os, "loader")
			setText(loader, now.Loader)
		}
	}
	if now.Type != was.Type {
		switch now.Type {
		case "efi", "bios":
			if loaderType(loader) != now.Type || attr(os, "firmware") != "" {
				if loader != nil && loaderType(loader) != now.Type {
					drop(loader)
				}
				os.CreateAttr("firmware", now.Type)
			}
		case "":
			os.RemoveAttr("firmware")
			if loaderType(loader) != "" {
				drop(loader)
			}
		default:
			e.lose(sFirmware, "firmware", "%q is left out: libvirt has bios and efi", now.Type)
		}
		loader = child(os, "loader")
	}
	// In a new domain BIOS is what libvirt takes. To say it makes libvirt look for a description of one, which few hosts have.
	if e.fresh && now.Type == "bios" {
		os.RemoveAttr("firmware")
	}
	if now.SecureBoot != was.SecureBoot {
		e.secureBoot(os, loader, now)
	}
	e.vars(os, was, now)
}

func (e *encoder) secureBoot(os, loader *etree.Element, now machine.Firmware) {
	feature := secureBootElement(os)
	yes := map[machine.Switch]string{machine.On: "yes", machine.Off: "no"}[now.SecureBoot]
	switch {
	case e.fresh && now.Type != "efi":
		if now.SecureBoot == machine.On {
			e.lose(sFirmware, "secure boot", "left out: it is EFI's")
		}
	case yes == "":
		if feature != nil {
			list := feature.Parent()
			drop(feature)
			prune(list)
		}
		if loader != nil {
			loader.RemoveAttr("secure")
		}
	case feature != nil || attr(os, "firmware") != "":
		if feature == nil {
			feature = add(ensure(os, "firmware"), "feature")
			feature.CreateAttr("enabled", yes)
			feature.CreateAttr("name", "secure-boot")
		}
		feature.CreateAttr("enabled", yes)
	default:
		ensure(os, "loader").CreateAttr("secure", yes)
	}
}

// vars writes where the firmware keeps its variables.
func (e *encoder) vars(os *etree.Element, was, now machine.Firmware) {
	if e.fresh && now.Template != "" {
		e.lose(sFirmware, "firmware", "the template %q of the variables is left out: the host's libvirt chooses one", now.Template)
		now.Template = ""
	}
	now.Vars.UUID, now.Vars.Capacity, now.Vars.Populated = was.Vars.UUID, was.Vars.Capacity, was.Vars.Populated
	if now.Vars == was.Vars && now.Template == was.Template {
		return
	}
	if e.fresh && now.Type != "efi" { // VirtualBox and VMware have such a file for a BIOS, too
		if now.Vars != (machine.Media{}) {
			e.lose(sFirmware, "firmware", "its variables are left out: a BIOS of QEMU has none")
		}
		return
	}
	n := child(os, "nvram")
	if now.Vars == (machine.Media{}) && now.Template == "" {
		drop(n)
		return
	}
	if n == nil {
		n = add(os, "nvram")
	}
	setAttr(n, "template", now.Template)
	if e.fresh && now.Vars.Format == "raw" { // the default, and a word that libvirt 9 does not know here
		now.Vars.Format = ""
	}
	setAttr(n, "format", now.Vars.Format)
	if now.Vars.Path == was.Vars.Path && now.Vars.Host == was.Vars.Host && now.Vars.URL == was.Vars.URL {
		return
	}
	drop(child(n, "source"))
	setText(n, "")
	n.RemoveAttr("type")
	switch v := now.Vars; {
	case v.Path != "":
		setText(n, v.Path)
		e.checkPath(sFirmware, "firmware", v.Path)
	case v.Host != "":
		n.CreateAttr("type", "block")
		add(n, "source").CreateAttr("dev", v.Host)
	case v.URL != "":
		src := add(n, "source")
		kind, ok := putURL(src, v.URL)
		if !ok {
			drop(src)
			e.lose(sFirmware, "firmware", "its variables are left out: %q is no source of libvirt's", v.URL)
			return
		}
		n.CreateAttr("type", kind)
	}
	if e.fresh && e.m.Platform != "kvm" && e.m.Platform != "qemu" && e.m.Platform != "xen" {
		e.lose(sFirmware, "firmware", "its variables are those of another firmware, and may have to be made new")
	}
}

// boot writes the order of kinds of devices. libvirt takes either that or places of devices: where both are said, the
// first device of each kind gets the next place.
func (e *encoder) boot(os *etree.Element, was *machine.Machine) {
	m := e.m
	changed := !slices.Equal(m.Boot, was.Boot)
	own := 0
	taken := map[int]bool{}
	place := func(what string, at section, order *int, before int) {
		if e.fresh && *order > 0 && taken[*order] {
			e.lose(at, what, "its place %d in the boot order is left out: another device has it", *order)
			*order = 0
		}
		taken[*order] = true
		own = max(own, *order)
		changed = changed || *order != before && before == 0
	}
	for i := range m.Drives {
		p, _ := m.Drives[i].Origin.(*part[machine.Drive])
		before := 0
		if p != nil && !e.fresh {
			before = p.was.Boot
		}
		place("drive "+m.Drives[i].At.String(), sDrives, &m.Drives[i].Boot, before)
	}
	for i := range m.NICs {
		p, _ := m.NICs[i].Origin.(*part[machine.NIC])
		before := 0
		if p != nil && !e.fresh {
			before = p.was.Boot
		}
		place("nic "+itoa(m.NICs[i].Slot), sNICs, &m.NICs[i].Boot, before)
	}
	if !changed {
		return
	}
	for _, b := range children(os.NotNil(), "boot") {
		drop(b)
	}
	if own > 0 {
		for _, kind := range m.Boot {
			if p := e.first(kind); p != nil && *p == 0 && own < maxIndex {
				own++
				*p = own
			}
		}
		return
	}
	for _, kind := range m.Boot {
		w := bootWords[kind]
		if w == "" {
			e.lose(sBoot, "boot", "%q is left out: libvirt has disk, cdrom, network and floppy", kind)
			continue
		}
		if os == nil {
			os = add(e.root, "os")
		}
		add(os, "boot").CreateAttr("dev", w)
	}
}

// first returns the place in the boot order of the device of a kind that has one, else of the first of that kind.
func (e *encoder) first(kind string) *int {
	var found *int
	for i := range e.m.Drives {
		if d := &e.m.Drives[i]; string(d.Kind) == kind && (found == nil || *found == 0 && d.Boot > 0) {
			found = &d.Boot
		}
	}
	if kind == "network" {
		for i := range e.m.NICs {
			if n := &e.m.NICs[i]; found == nil || *found == 0 && n.Boot > 0 {
				found = &n.Boot
			}
		}
	}
	return found
}

func (e *encoder) features(was *machine.Machine) {
	f := child(e.root, "features")
	for _, v := range []struct {
		tag      string
		was, now machine.Switch
	}{
		{"acpi", was.Features.ACPI, e.m.Features.ACPI}, {"apic", was.Features.APIC, e.m.Features.APIC},
		{"pae", was.Features.PAE, e.m.Features.PAE},
	} {
		switch {
		case v.now == v.was:
		case v.now == machine.On:
			if f == nil {
				f = add(e.root, "features")
			}
			ensure(f, v.tag)
		default:
			drop(child(f, v.tag))
		}
	}
}

func (e *encoder) clock(was *machine.Machine) {
	c := child(e.root, "clock")
	open := func() *etree.Element {
		if c == nil {
			c = add(e.root, "clock")
			c.CreateAttr("offset", "utc")
		}
		return c
	}
	if e.m.Clock != was.Clock {
		for _, key := range []string{"basis", "adjustment", "timezone", "start"} {
			open().RemoveAttr(key)
		}
		switch e.m.Clock {
		case "utc", "localtime":
			c.CreateAttr("offset", e.m.Clock)
		case "":
			if len(c.Child) == 0 {
				drop(c)
				c = nil
			} else {
				c.CreateAttr("offset", "timezone")
			}
		default:
			e.lose(sFeatures, "clock", "becomes utc: %q is none of libvirt's", e.m.Clock)
		}
	}
	if hpet := e.m.Features.HPET; hpet != was.Features.HPET {
		t := timer(c.NotNil(), "hpet")
		if hpet == machine.Unsaid {
			drop(t)
			return
		}
		if t == nil {
			t = add(open(), "timer")
			t.CreateAttr("name", "hpet")
		}
		t.CreateAttr("present", map[machine.Switch]string{machine.On: "yes", machine.Off: "no"}[hpet])
	}
}
