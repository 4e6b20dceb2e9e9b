package libvirt

import (
	"regexp"
	"strings"

	"github.com/beevik/etree"

	"tarvm/formats/machine"
)

// element finds the element of a device in the document, or adds one behind the last of its kind.
func element[T any](e *encoder, org machine.Origin, tag string) (el *etree.Element, was T, isNew bool) {
	if p := kept[T](e, org); p != nil {
		e.used[p] = true
		return e.copies[p.els[0]], p.was, false
	}
	el = etree.NewElement(tag)
	e.attach(el)
	return el, was, true
}

// kept returns the part that an Origin is, if its elements are in the document and no other device took them.
func kept[T any](e *encoder, org machine.Origin) *part[T] {
	p, ok := org.(*part[T])
	if !ok || e.fresh || e.used[p] || len(p.els) == 0 || e.copies[p.els[0]] == nil {
		return nil
	}
	return p
}

// attach adds a new element to the devices, behind the last of its kind.
func (e *encoder) attach(el *etree.Element) {
	if e.devices == nil {
		e.devices = add(e.root, "devices")
	}
	if e.last == nil {
		e.last = map[string]*etree.Element{}
		for _, c := range e.devices.ChildElements() {
			e.last[c.Tag], e.last[""] = c, c
		}
	}
	after := e.last[el.Tag]
	if after == nil || after.Parent() != e.devices {
		after = e.last[""]
	}
	if after == nil || after.Parent() != e.devices {
		insert(e.devices, el, nil)
	} else {
		at := after.Index() + 1
		if sep := before(after); sep != "" {
			e.devices.InsertChildAt(at, etree.NewText(sep))
			at++
		}
		e.devices.InsertChildAt(at, el)
	}
	if e.last[""] == nil || el.Index() > e.last[""].Index() || e.last[""].Parent() != e.devices {
		e.last[""] = el
	}
	e.last[el.Tag] = el
}

// all writes the devices, and removes those of the document that the machine has no more.
func (e *encoder) all(org *origin) {
	m := e.m
	for i := range m.Drives {
		if p := kept[machine.Drive](e, m.Drives[i].Origin); p != nil {
			e.names[attr(child(p.els[0], "target"), "dev")] = true
		}
	}
	for i := range m.Drives {
		e.drive(&m.Drives[i])
	}
	for i := range m.Controllers {
		e.controller(&m.Controllers[i])
	}
	for i := range m.NICs {
		e.nic(&m.NICs[i])
	}
	for i := range m.Serials {
		e.port(&m.Serials[i], "serial", sSerials)
	}
	for i := range m.Parallels {
		e.port(&m.Parallels[i], "parallel", sParallels)
	}
	for i := range m.Inputs {
		e.input(&m.Inputs[i])
	}
	e.tpm()
	for i := range m.Displays {
		e.display(&m.Displays[i])
	}
	for i := range m.Sounds {
		e.sound(&m.Sounds[i])
	}
	for i := range m.Videos {
		e.video(&m.Videos[i])
	}
	for i := range m.Shares {
		e.share(&m.Shares[i])
	}
	for i := range m.Others {
		e.other(&m.Others[i])
	}
	for _, p := range org.parts {
		if e.used[p] {
			continue
		}
		for _, el := range p.elements() {
			drop(e.copies[el])
		}
	}
}

// flag writes an element that is there or not.
func flag(el *etree.Element, tag string, was, now machine.Switch) {
	switch {
	case now == was:
	case now == machine.On:
		ensure(el, tag)
	case was == machine.On:
		drop(child(el, tag))
	}
}

// putBoot writes a device's place in the boot order.
func putBoot(el *etree.Element, was, now int) {
	switch {
	case now == was:
	case now == 0:
		drop(child(el, "boot"))
	default:
		ensure(el, "boot").CreateAttr("order", itoa(now))
	}
}

func yesNo(s machine.Switch, yes, no string) string {
	return [...]string{"", yes, no}[s%3]
}

// cleanSerial is what QEMU's driver takes as a serial number (qemuValidateDomainDeviceDefDiskSerial).
var cleanSerial = regexp.MustCompile(`^[A-Za-z0-9_. +-]+$`)

func (e *encoder) drive(d *machine.Drive) {
	el, was, isNew := element[machine.Drive](e, d.Origin, "disk")
	now, what := *d, "drive "+d.At.String()
	if now.Kind != was.Kind {
		el.CreateAttr("device", string(now.Kind))
	}
	e.format(el, was, now, what, isNew)
	e.media(el, was.Media, now.Media, what, isNew)
	e.target(el, was, now, what, isNew)
	flag(el, "readonly", was.ReadOnly, now.ReadOnly)
	flag(el, "shareable", was.Shared, now.Shared)
	flag(el, "transient", was.Transient, now.Transient)
	if now.Independent != was.Independent {
		setAttr(el, "snapshot", yesNo(now.Independent, "no", ""))
	}
	if now.Serial != was.Serial {
		switch {
		case now.Serial == "":
			drop(child(el, "serial"))
		case e.qemu && !cleanSerial.MatchString(now.Serial):
			e.lose(sDrives, what, "the serial number %q is left out: libvirt takes letters and digits", now.Serial)
		default:
			setText(ensure(el, "serial"), now.Serial)
		}
	}
	putBoot(el, was.Boot, now.Boot)
}

// format writes the driver of a disk.
func (e *encoder) format(el *etree.Element, was, now machine.Drive, what string, isNew bool) {
	driver := child(el, "driver")
	set := func(key, value string) {
		if driver == nil && value == "" {
			return
		}
		if driver == nil {
			driver = add(el, "driver")
			if e.qemu {
				driver.CreateAttr("name", "qemu")
			}
		}
		setAttr(driver, key, value)
	}
	if f := now.Media.Format; f != was.Media.Format {
		w, ok := imageWords[f]
		if !ok && f != "" {
			e.lose(sDrives, what, "the format %s is left out, and QEMU will take the image for raw: libvirt has no word for it", f)
		}
		set("type", w)
	}
	if now.Cache != was.Cache {
		set("cache", now.Cache)
	}
	if now.Discard != was.Discard {
		set("discard", yesNo(now.Discard, "unmap", "ignore"))
	}
	prune(driver)
}

func (e *encoder) media(el *etree.Element, was, now machine.Media, what string, isNew bool) {
	if isNew {
		el.CreateAttr("type", "file")
	} else if now.Path == was.Path && now.Host == was.Host && now.URL == was.URL {
		return
	}
	src, kind := child(el, "source"), attr(el, "type")
	drop(child(el, "backingStore")) // the chain of another image
	drop(child(el, "mirror"))
	if now.Path == "" && (now.Host == "" || now.Host == "auto") && now.URL == "" {
		if now.Host == "auto" {
			e.lose(sDrives, what, "becomes empty: libvirt wants to know which device of the host")
		}
		if src != nil {
			drop(src)
			el.CreateAttr("type", "file")
		}
		return
	}
	if src == nil {
		src = add(el, "source")
	}
	switch {
	case now.Path != "":
		key := "file"
		if kind == "dir" {
			key = "dir"
		} else if kind != "file" && kind != "" {
			clear(src, "startupPolicy")
			el.CreateAttr("type", "file")
		}
		src.CreateAttr(key, now.Path)
		e.checkPath(sDrives, what, now.Path)
	case now.Host != "":
		if kind != "block" {
			clear(src, "startupPolicy")
			el.CreateAttr("type", "block")
		}
		src.CreateAttr("dev", now.Host)
	default:
		clear(src)
		kind, ok := putURL(src, now.URL)
		if !ok {
			drop(src)
			e.lose(sDrives, what, "becomes empty: %q is no source of libvirt's", now.URL)
			return
		}
		el.CreateAttr("type", kind)
	}
}

// target writes where a disk is, and what else its target says.
func (e *encoder) target(el *etree.Element, was, now machine.Drive, what string, isNew bool) {
	t := child(el, "target")
	if t == nil {
		t = add(el, "target")
	}
	if isNew || now.At != was.At {
		index := nameOf(now.At, e.wide)
		dev := e.name(prefixOf(now.At.Bus), index)
		if now.At.Bus == machine.NVMe {
			dev = "nvme" + itoa(now.At.Index) + "n" + itoa(now.At.Unit+1)
			e.names[dev] = true
		}
		t.CreateAttr("dev", dev)
		t.CreateAttr("bus", string(now.At.Bus))
		e.address(el, now.At)
	}
	if now.Removable != was.Removable {
		if e.qemu && now.At.Bus != machine.USB {
			if now.Removable == machine.On && now.Kind == machine.Disk {
				e.lose(sDrives, what, "cannot be taken out: QEMU has that for USB")
			}
		} else {
			setAttr(t, "removable", yesNo(now.Removable, "on", "off"))
		}
	}
	if now.Connected != was.Connected {
		if now.Kind == machine.Optical || now.Kind == machine.Diskette {
			setAttr(t, "tray", yesNo(now.Connected, "closed", "open"))
		} else if now.Connected == machine.Off {
			e.lose(sDrives, what, "is connected at the start: libvirt's disks are")
		}
	}
	if now.SSD != was.SSD {
		rotates := map[machine.Bus]bool{machine.IDE: true, machine.SATA: true, machine.SCSI: true}[now.At.Bus] && now.Kind == machine.Disk
		switch {
		case now.SSD == machine.On && e.qemu && !rotates:
			e.lose(sDrives, what, "the guest is not told that it is an SSD: QEMU says so on IDE, SATA and SCSI")
		case now.SSD == machine.On:
			t.CreateAttr("rotation_rate", "1")
		default: // what QEMU does not say, guests take for a disk that rotates
			t.RemoveAttr("rotation_rate")
		}
	}
}

// name returns a target's name that no other disk has, that with the index if it is free.
func (e *encoder) name(prefix string, index int) string {
	if index >= 0 {
		if n := diskName(prefix, index); !e.names[n] {
			e.names[n] = true
			return n
		}
	}
	for {
		n := diskName(prefix, e.next[prefix])
		e.next[prefix]++
		if !e.names[n] {
			e.names[n] = true
			return n
		}
	}
}

// address writes the address of a disk. On virtio, Xen, USB and SD its name says enough.
func (e *encoder) address(el *etree.Element, at machine.Address) {
	a := child(el, "address")
	bus, target, unit := 0, 0, at.Unit
	switch at.Bus {
	case machine.IDE:
		bus, unit = at.Unit/2, at.Unit%2
	case machine.SCSI:
		c := e.m.Controller(machine.SCSI, at.Index)
		if c != nil && e.qemu && qemuSCSI[c.Model].target {
			target, unit = at.Unit, 0
		}
	case machine.SATA, machine.Floppy:
	default:
		drop(a)
		return
	}
	if a == nil {
		a = add(el, "address")
	}
	clear(a)
	for _, v := range []struct {
		key   string
		value int
	}{{"controller", at.Index}, {"bus", bus}, {"target", target}, {"unit", unit}} {
		if v.key == "controller" {
			a.CreateAttr("type", "drive")
		}
		a.CreateAttr(v.key, itoa(v.value))
	}
}

// controllerTypes are the buses whose controllers libvirt lists.
var controllerTypes = map[machine.Bus]string{
	machine.IDE: "ide", machine.SCSI: "scsi", machine.SATA: "sata", machine.USB: "usb", machine.Floppy: "fdc", machine.NVMe: "nvme",
}

func (e *encoder) controller(c *machine.Controller) {
	kind := controllerTypes[c.Bus]
	if kind == "" || c.Implied {
		return
	}
	el, was, isNew := element[machine.Controller](e, c.Origin, "controller")
	what := "controller " + string(c.Bus) + itoa(c.Index)
	if isNew {
		el.CreateAttr("type", kind)
		if c.Bus == machine.USB { // that there is none is said by a controller, too
			for _, o := range children(e.devices.NotNil(), "controller") {
				if attr(o, "type") == "usb" && attr(o, "model") == "none" {
					drop(o)
				}
			}
		}
	}
	if isNew || c.Index != was.Index {
		el.CreateAttr("index", itoa(c.Index))
	}
	if c.Model != was.Model {
		switch c.Bus {
		case machine.SCSI:
			e.scsiModel(el, c.Model, what)
		case machine.USB:
			model := qemuUSB[c.Model]
			if model == "" && c.Model != "" {
				e.lose(sControllers, what, "the model %s is left out", c.Model)
			}
			setAttr(el, "model", model)
		case machine.IDE:
			if !e.qemu {
				setAttr(el, "model", c.Model)
			}
		}
	}
	if isNew && attr(el, "model") == "ich9-ehci1" && e.qemu { // serves fast devices alone: its companions serve the rest
		for i, model := range []string{"ich9-uhci1", "ich9-uhci2", "ich9-uhci3"} {
			u := etree.NewElement("controller")
			u.CreateAttr("type", "usb")
			u.CreateAttr("index", itoa(c.Index))
			u.CreateAttr("model", model)
			e.attach(u)
			add(u, "master").CreateAttr("startport", itoa(2*i))
		}
	}
}

func (e *encoder) scsiModel(el *etree.Element, model, what string) {
	if _, ok := qemuSCSI[model]; e.qemu && !ok {
		e.lose(sControllers, what, "the model %s is left out: QEMU has none", model)
		model = ""
	}
	setAttr(el, "model", model)
}

func (e *encoder) nic(n *machine.NIC) {
	el, was, isNew := element[machine.NIC](e, n.Origin, "interface")
	now, what := *n, "nic "+itoa(n.Slot)
	if isNew || now.Kind != was.Kind || now.Network != was.Network {
		e.network(el, now, what)
	}
	if now.MAC != was.MAC {
		if now.MAC == "" {
			drop(child(el, "mac"))
		} else {
			ensure(el, "mac").CreateAttr("address", now.MAC)
		}
	}
	if now.Generated != was.Generated {
		if mac := child(el, "mac"); mac != nil && !e.qemu {
			setAttr(mac, "type", map[bool]string{true: "generated", false: "static"}[now.Generated])
		}
	}
	if now.Model != was.Model {
		model := now.Model
		if e.qemu && model != "" {
			model = qemuNICs[now.Model]
			if model == "" {
				if model = nearNICs[now.Model]; model == "" {
					e.lose(sNICs, what, "the model %s is left out: QEMU has none, and libvirt takes its default", now.Model)
				} else {
					e.lose(sNICs, what, "becomes %s: QEMU has no %s", model, now.Model)
				}
			}
		}
		if model == "" {
			drop(child(el, "model"))
		} else {
			ensure(el, "model").CreateAttr("type", model)
		}
	}
	if now.Connected != was.Connected {
		if s := yesNo(now.Connected, "up", "down"); s == "" {
			drop(child(el, "link"))
		} else {
			ensure(el, "link").CreateAttr("state", s)
		}
	}
	if isNew && now.Kind == machine.NoNet && e.qemu {
		ensure(el, "link").CreateAttr("state", "down")
	}
	putBoot(el, was.Boot, now.Boot)
}

// hostName is what can be a network device of a Linux host.
var hostName = regexp.MustCompile(`^[A-Za-z0-9_.-]{1,15}$`)

// network writes what an adapter is attached to.
func (e *encoder) network(el *etree.Element, n machine.NIC, what string) {
	src := child(el, "source")
	if src != nil && attr(el, "type") == "direct" && n.Kind == machine.Bridged {
		src.CreateAttr("dev", n.Network)
		return
	}
	set := func(kind, key, value string) {
		el.CreateAttr("type", kind)
		if value == "" {
			drop(src)
			return
		}
		if src == nil {
			src = add(el, "source")
		}
		clear(src)
		src.CreateAttr(key, value)
	}
	own := e.m.Platform == "kvm" || e.m.Platform == "qemu" || e.m.Platform == "xen"
	closed := func(name string) {
		if n.Network != "" {
			name = n.Network
		}
		set("network", "network", name)
		e.lose(sNICs, what, "becomes attached to the network %q, which has to be made: libvirt has no %s network of its own", name, n.Kind)
	}
	switch n.Kind {
	case machine.Bridged:
		switch {
		case !e.qemu || own && hostName.MatchString(n.Network):
			set("bridge", "bridge", n.Network)
		default:
			set("network", "network", defaultNetwork)
			e.lose(sNICs, what, "becomes attached to the network %q: %s", defaultNetwork, bridgeText(n.Network))
		}
	case machine.NAT, "":
		set("network", "network", defaultNetwork)
		if n.Network != "" {
			e.lose(sNICs, what, "becomes attached to the network %q: %q is none of libvirt's", defaultNetwork, n.Network)
		}
	case machine.Named:
		name := n.Network
		if name == "" {
			name = defaultNetwork
		}
		set("network", "network", name)
		if !own && e.qemu && n.Network != "" {
			e.lose(sNICs, what, "the network %q has to be made on the host", n.Network)
		}
	case machine.UserNet:
		set("user", "", "")
	case machine.Internal:
		if !e.qemu {
			set("internal", "name", n.Network)
			return
		}
		closed("internal")
	case machine.HostOnly:
		closed("hostonly")
	default: // a cable that leads nowhere
		if !e.qemu && n.Kind == machine.NoNet {
			set("null", "", "")
			return
		}
		set("user", "", "")
		ensure(el, "link").CreateAttr("state", "down")
		e.lose(sNICs, what, "becomes unplugged: libvirt before 8.7 has no adapter without a network")
	}
}

func bridgeText(name string) string {
	if name == "" {
		return "it is not said which bridge of the host"
	}
	return "the bridge \"" + name + "\" is none of the host's"
}

func (e *encoder) port(p *machine.Port, tag string, at section) {
	el, was, isNew := element[machine.Port](e, p.Origin, tag)
	now, what := *p, tag+" "+itoa(p.Slot)
	now.Origin = nil
	if !isNew && now == was {
		return
	}
	org, _ := p.Origin.(*part[machine.Port])
	if org != nil && !isNew { // libvirt makes them again, as the port is then
		for _, c := range org.els[1:] {
			drop(e.copies[c])
		}
	}
	if isNew || now.Slot != was.Slot {
		ensure(el, "target").CreateAttr("port", itoa(now.Slot))
	}
	was.Slot = now.Slot
	if now == was && !isNew {
		return
	}
	kind := now.Kind
	switch {
	case kind == "":
		kind = "pty"
	case portWords[kind] != "":
		kind = portWords[kind]
	case isNew:
		e.lose(at, what, "becomes null: libvirt has no %q", kind)
		kind = "null"
	}
	need := map[string]string{"file": now.Path, "pipe": now.Path, "unix": now.Path, "dev": now.Path, "tcp": now.Service, "udp": now.Service}
	if v, ok := need[kind]; ok && v == "" {
		e.lose(at, what, "becomes null: it is not said where it leads to")
		kind = "null"
	}
	el.CreateAttr("type", kind)
	for _, s := range children(el, "source") {
		drop(s)
	}
	drop(child(el, "protocol"))
	mode := yesNo(now.Server, "bind", "connect")
	if mode == "" {
		mode = "bind"
	}
	switch kind {
	case "file", "pipe", "dev":
		add(el, "source").CreateAttr("path", now.Path)
		e.checkPath(at, what, now.Path)
	case "unix":
		src := add(el, "source")
		src.CreateAttr("mode", mode)
		src.CreateAttr("path", now.Path)
		e.checkPath(at, what, now.Path)
	case "tcp":
		src := add(el, "source")
		src.CreateAttr("mode", mode)
		setAttr(src, "host", now.Host)
		src.CreateAttr("service", now.Service)
		if now.Telnet != machine.Unsaid {
			add(el, "protocol").CreateAttr("type", yesNo(now.Telnet, "telnet", "raw"))
		}
	case "udp":
		src := add(el, "source")
		src.CreateAttr("mode", "connect")
		setAttr(src, "host", now.Host)
		src.CreateAttr("service", now.Service)
	}
}

func (e *encoder) input(v *machine.Input) {
	known := map[string]bool{"keyboard": true, "mouse": true, "tablet": true}[v.Kind]
	if e.fresh && (!known || v.Bus == "xen" && e.qemu) {
		e.lose(sInputs, "input "+v.Kind, "left out: QEMU has no %s on %s", v.Kind, v.Bus)
		return
	}
	el, was, isNew := element[machine.Input](e, v.Origin, "input")
	if isNew || v.Kind != was.Kind {
		el.CreateAttr("type", v.Kind)
	}
	if v.Bus != was.Bus {
		bus := v.Bus
		if e.fresh && v.Kind == "tablet" && bus == "ps2" {
			bus = "usb"
			e.lose(sInputs, "input tablet", "becomes one on usb")
		}
		setAttr(el, "bus", bus)
	}
}

func (e *encoder) tpm() {
	t := e.m.TPM
	if t == nil {
		return
	}
	el, was, isNew := element[machine.TPM](e, t.Origin, "tpm")
	now := *t
	if isNew && e.qemu && e.x86 {
		if now.Version == "1.2" && now.Model == "crb" {
			now.Model = "tis"
			e.lose(sTPM, "tpm", "becomes tis: crb is of version 2.0")
		}
		if now.Model == "" && now.Version == "2.0" { // what VMware, Hyper-V and VirtualBox have
			now.Model = "crb"
		}
		if now.Backend == "external" {
			now.Backend = ""
			e.lose(sTPM, "tpm", "becomes an emulator: where the external one is was not said")
		}
	}
	if now.Model != was.Model {
		if now.Model != "" {
			now.Model = "tpm-" + strings.TrimPrefix(now.Model, "tpm-")
		}
		setAttr(el, "model", now.Model)
	}
	if isNew && now.Backend == "" {
		now.Backend = "emulator"
	}
	if now.Backend != was.Backend || now.Version != was.Version {
		b := ensure(el, "backend")
		if now.Backend != was.Backend {
			clear(b)
			setAttr(b, "type", now.Backend)
		}
		version := now.Version
		if now.Backend == "passthrough" {
			version = ""
		}
		setAttr(b, "version", version)
	}
}

func (e *encoder) display(v *machine.Display) {
	if known := map[string]bool{"vnc": true, "spice": true, "sdl": true}[v.Kind]; e.fresh && e.qemu && !known {
		e.lose(sDisplays, "display "+v.Kind, "left out: libvirt's QEMU has vnc, spice and sdl")
		return
	}
	el, was, isNew := element[machine.Display](e, v.Origin, "graphics")
	if isNew || v.Kind != was.Kind {
		el.CreateAttr("type", v.Kind)
	}
	switch {
	case v.Kind == "sdl":
	case v.Port != was.Port && v.Port != 0:
		el.CreateAttr("port", itoa(v.Port))
		el.CreateAttr("autoport", "no")
	case isNew || v.Port != was.Port:
		el.CreateAttr("port", "-1")
		el.CreateAttr("autoport", "yes")
	}
	if v.Listen != was.Listen {
		setAttr(el, "listen", v.Listen)
		for _, l := range children(el, "listen") {
			drop(l)
		}
	}
}

func (e *encoder) sound(v *machine.Sound) {
	if kept[machine.Sound](e, v.Origin) == nil && e.qemu && v.Model != "" && soundWords[v.Model] == "" {
		e.lose(sSounds, "sound", "becomes %s: QEMU has no %s", map[bool]string{true: "es1370", false: "ich6"}[v.Model == "es1371"], v.Model)
		v.Model = map[bool]string{true: "es1370", false: "hda"}[v.Model == "es1371"]
	}
	el, was, isNew := element[machine.Sound](e, v.Origin, "sound")
	if isNew && v.Model == "" {
		v.Model = "hda"
	}
	if v.Model != was.Model {
		setAttr(el, "model", back(soundWords, v.Model, v.Model))
	}
}

func (e *encoder) video(v *machine.Video) {
	el, was, _ := element[machine.Video](e, v.Origin, "video")
	now := *v
	if now.Model != was.Model {
		model := now.Model
		if e.qemu {
			model = qemuVideos[now.Model]
			if model == "" && now.Model != "" {
				model = back(nearVideos, now.Model, "vga")
				e.lose(sVideos, "video", "becomes %s: QEMU has no %s", model, now.Model)
			}
			if !e.x86 && (model == "vga" || model == "cirrus" || model == "vmvga" || model == "qxl") {
				e.lose(sVideos, "video", "becomes virtio: %s is not for %s", model, e.m.Arch)
				model = "virtio"
			}
		} else if model == "vboxvga" {
			model = "vbox"
		}
		now.Model = model
		setAttr(ensure(el, "model"), "type", model)
	}
	e.screen(el, was, now)
}

// screen writes the memory and heads of a graphics adapter.
func (e *encoder) screen(el *etree.Element, was, now machine.Video) {
	t := child(el, "model")
	if t == nil && (now.Memory != was.Memory || now.Heads != was.Heads || now.Accel3D != was.Accel3D) {
		e.lose(sVideos, "video", "its memory is left out: the model is not said")
		return
	}
	if now.Memory != was.Memory {
		n := kib(now.Memory)
		switch {
		case now.Memory == 0:
			t.RemoveAttr("vram")
		case e.qemu && (now.Model == "virtio" || now.Model == "none" || now.Model == "ramfb"): // has none of its own
		case e.qemu && (n&(n-1) != 0 || n < 1024 || n > 1<<20):
			e.lose(sVideos, "video", "%d KiB of memory become the default: QEMU wants a power of 2", n)
		default:
			t.CreateAttr("vram", itoa(int(n)))
		}
	}
	if now.Heads != was.Heads {
		if e.qemu && now.Heads > 1 && now.Model != "qxl" && now.Model != "virtio" {
			e.lose(sVideos, "video", "%d screens become one: QEMU has more with qxl and virtio", now.Heads)
		} else if now.Heads == 0 {
			t.RemoveAttr("heads")
		} else {
			t.CreateAttr("heads", itoa(now.Heads))
		}
	}
	if now.Accel3D == was.Accel3D {
		return
	}
	if e.qemu && now.Model != "virtio" {
		if now.Accel3D == machine.On {
			e.lose(sVideos, "video", "no 3D acceleration: QEMU has it with virtio")
		}
		return
	}
	a := ensure(t, "acceleration")
	setAttr(a, "accel3d", yesNo(now.Accel3D, "yes", "no"))
	prune(a)
}

func (e *encoder) share(v *machine.Share) {
	el, was, isNew := element[machine.Share](e, v.Origin, "filesystem")
	if isNew {
		el.CreateAttr("type", "mount")
		el.CreateAttr("accessmode", "mapped")
		e.lose(sShares, "share "+v.Name, "becomes a 9p file system: the guest has to mount it by that name")
	}
	if v.Path != was.Path {
		ensure(el, "source").CreateAttr("dir", v.Path)
		e.checkPath(sShares, "share "+v.Name, v.Path)
	}
	if v.Name != was.Name {
		ensure(el, "target").CreateAttr("dir", v.Name)
	}
	flag(el, "readonly", was.ReadOnly, v.ReadOnly)
}

// other keeps a device, or writes one of those that need no more than a model.
func (e *encoder) other(v *machine.Other) {
	if p, ok := v.Origin.(*part[machine.Other]); ok && !e.fresh && !e.used[p] && (len(p.els) == 0 || e.copies[p.els[0]] != nil) {
		e.used[p] = true
		return
	}
	key := v.Kind + " " + v.Name
	what := strings.TrimSpace(key)
	if !e.qemu {
		e.lose(sOthers, what, "left out")
		return
	}
	switch key {
	case "balloon virtio":
		el := etree.NewElement("memballoon")
		el.CreateAttr("model", v.Name)
		e.attach(el)
	case "channel org.qemu.guest_agent.0": // libvirt chooses the socket
		el := etree.NewElement("channel")
		el.CreateAttr("type", "unix")
		e.attach(el)
		t := add(el, "target")
		t.CreateAttr("type", "virtio")
		t.CreateAttr("name", v.Name)
	case "rng virtio":
		el := etree.NewElement("rng")
		el.CreateAttr("model", "virtio")
		e.attach(el)
		b := add(el, "backend")
		b.CreateAttr("model", "random")
		setText(b, "/dev/urandom")
	case "watchdog i6300esb", "watchdog ib700", "panic isa":
		el := etree.NewElement(v.Kind)
		el.CreateAttr("model", v.Name)
		e.attach(el)
	default:
		e.lose(sOthers, what, "left out")
	}
}
