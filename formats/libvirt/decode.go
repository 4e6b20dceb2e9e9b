package libvirt

import (
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/beevik/etree"

	"tarvm/formats/machine"
	"tarvm/formats/machine/xmldoc"
)

// osinfoSpace is the namespace of the guest's name in metadata.
const osinfoSpace = "http://libosinfo.org/xmlns/libvirt/domain/1.0"

// An origin is the document, and what it meant. Nothing changes it once Decode has returned.
type origin struct {
	doc   *etree.Document
	was   *machine.Machine
	parts []held
}

// Form is "libvirt".
func (*origin) Form() string { return formName }

// A part is the elements of a device, the first of which has the settings, and what they meant.
type part[T any] struct {
	els []*etree.Element
	was T
}

// Form is "libvirt".
func (*part[T]) Form() string { return formName }

func (p *part[T]) elements() []*etree.Element { return p.els }

// held is a part of any type.
type held interface {
	machine.Origin
	elements() []*etree.Element
}

// decoder keeps the first error.
type decoder struct {
	o       *origin
	m       *machine.Machine
	root    *etree.Element
	devices *etree.Element
	wide    bool // SCSI buses have 15 places
	err     error
}

// Decode reads a domain. Its length is at most machine.MaxConfig bytes. Errors are *machine.SyntaxError; containers, and
// more than 10,000 devices, are ErrUnsupported.
func (Form) Decode(b []byte) (*machine.Machine, error) {
	doc, err := xmldoc.Parse(formName, b, machine.MaxConfig)
	if err != nil {
		return nil, err
	}
	d := &decoder{o: &origin{doc: doc}, m: &machine.Machine{}, root: doc.Root()}
	if d.root.Tag != "domain" || d.root.Space != "" {
		d.fail(machine.ErrSyntax, d.root.FullTag(), "is the root element, not domain")
		return nil, d.err
	}
	d.devices = child(d.root, "devices")
	d.domain()
	d.all()
	if d.err != nil {
		return nil, d.err
	}
	if err := d.m.Complete(); err != nil {
		return nil, &machine.SyntaxError{Form: formName, What: "devices", Got: strings.TrimSuffix(err.Error(), ": "+machine.ErrSyntax.Error()), Err: machine.ErrSyntax}
	}
	d.o.was = d.m.Clone()
	d.m.Origin = d.o
	return d.m, nil
}

func (d *decoder) fail(kind error, what, format string, args ...any) {
	if d.err == nil {
		d.err = &machine.SyntaxError{Form: formName, What: what, Got: fmt.Sprintf(format, args...), Err: kind}
	}
}

// number reads an attribute that is a number from least to most; 0 if it is absent.
func (d *decoder) number(e *etree.Element, key string, least, most int) int {
	s, ok := lookup(e, key)
	if !ok {
		return 0
	}
	return d.parse(e.Tag+" "+key, s, least, most)
}

func (d *decoder) parse(what, s string, least, most int) int {
	base, digits := 10, strings.TrimSpace(s)
	if hex, ok := strings.CutPrefix(digits, "0x"); ok {
		base, digits = 16, hex
	}
	n, err := strconv.ParseInt(digits, base, 64)
	if err != nil {
		d.fail(machine.ErrSyntax, what, "%q is no number", s)
		return 0
	}
	if n < int64(least) || n > int64(most) {
		d.fail(machine.ErrSyntax, what, "%d, not from %d to %d", n, least, most)
		return 0
	}
	return int(n)
}

// yes reads an attribute that is yes or no, or on or off.
func (d *decoder) yes(e *etree.Element, key string) machine.Switch {
	switch s := attr(e, key); s {
	case "":
		return machine.Unsaid
	case "yes", "on":
		return machine.On
	case "no", "off":
		return machine.Off
	default:
		d.fail(machine.ErrSyntax, e.Tag+" "+key, "%q, not yes or no", s)
		return machine.Unsaid
	}
}

func (d *decoder) size(e *etree.Element) int64 {
	if e == nil {
		return 0
	}
	n, err := bytesOf(text(e), attr(e, "unit"))
	if err != nil {
		d.fail(machine.ErrSyntax, e.Tag, "%s", err)
	}
	return n
}

func (d *decoder) uuid(tag string) string {
	e := child(d.root, tag)
	if e == nil || word(e) == "" {
		return ""
	}
	u, ok := uuidOf(text(e))
	if !ok {
		d.fail(machine.ErrSyntax, tag, "%q is none", text(e))
	}
	return u
}

// has is On if e has such a child.
func has(e *etree.Element, tag string) machine.Switch {
	if child(e, tag) != nil {
		return machine.On
	}
	return machine.Unsaid
}

// domain reads everything but devices.
func (d *decoder) domain() {
	m, root := d.m, d.root
	kind := attr(root, "type")
	if kind == "" {
		d.fail(machine.ErrSyntax, "domain type", "is missing")
	}
	if containers[kind] {
		d.fail(machine.ErrUnsupported, "domain type", "%q is a container", kind)
	}
	m.Platform = translate(platforms, kind)
	d.wide = kind == "vmware"
	m.Name = word(child(root, "name"))
	m.Notes = linesOf(text(child(root, "description")))
	m.UUID = d.uuid("uuid")
	if u := d.uuid("hwuuid"); u != "" {
		m.UUID, m.InstanceUUID = u, m.UUID
	}
	m.GenerationID = d.uuid("genid")
	m.Guest.Osinfo = attr(osinfoElement(root), "id")
	d.memory()
	d.processors()
	d.system()
	if f := child(root, "features"); f != nil {
		m.Features.ACPI, m.Features.APIC, m.Features.PAE = has(f, "acpi"), has(f, "apic"), has(f, "pae")
	}
	if c := child(root, "clock"); c != nil {
		m.Clock = clockOf(c)
		if t := timer(c, "hpet"); t != nil {
			m.Features.HPET = d.yes(t, "present")
		}
	}
	for _, t := range root.ChildElements() {
		if t.Space != "" {
			d.other(t, t.FullTag(), "")
		}
	}
}

// linesOf returns text whose lines end in \n alone, as XML has them.
func linesOf(s string) string {
	return strings.NewReplacer("\r\n", "\n", "\r", "\n").Replace(s)
}

// osinfoElement is the one that names the guest, or nil.
func osinfoElement(root *etree.Element) *etree.Element {
	for _, lib := range child(root, "metadata").NotNil().ChildElements() {
		if lib.Tag != "libosinfo" || lib.NamespaceURI() != osinfoSpace {
			continue
		}
		for _, os := range lib.ChildElements() {
			if os.Tag == "os" && os.NamespaceURI() == osinfoSpace {
				return os
			}
		}
	}
	return nil
}

func clockOf(c *etree.Element) string {
	switch offset := attr(c, "offset"); offset {
	case "utc", "localtime":
		return offset
	case "variable":
		if attr(c, "basis") == "localtime" {
			return "localtime"
		}
		return "utc"
	}
	return ""
}

func timer(clock *etree.Element, name string) *etree.Element {
	for _, t := range children(clock, "timer") {
		if attr(t, "name") == name {
			return t
		}
	}
	return nil
}

func (d *decoder) memory() {
	d.m.Memory.Bytes = d.size(child(d.root, "memory"))
	d.size(child(d.root, "currentMemory"))
	if e := child(d.root, "maxMemory"); e != nil {
		d.m.Memory.Max, d.m.Memory.HotAdd = d.size(e), machine.On
	}
}

func (d *decoder) processors() {
	c := &d.m.CPU
	if e := child(d.root, "vcpu"); e != nil {
		c.Count = d.parse("vcpu", text(e), 1, maxIndex)
		if now := d.number(e, "current", 1, maxIndex); now != 0 {
			if now > c.Count {
				d.fail(machine.ErrSyntax, "vcpu", "%d of %d", now, c.Count)
			}
			if now < c.Count {
				c.HotAdd = machine.On
			}
			c.Count, c.Max = now, c.Count
		}
	}
	e := child(d.root, "cpu")
	if e == nil {
		return
	}
	switch mode := strings.TrimSpace(attr(e, "mode")); mode {
	case "", "custom":
		c.Model = word(child(e, "model"))
	default:
		c.Model = mode
	}
	if t := child(e, "topology"); t != nil {
		c.Sockets, c.Threads = d.number(t, "sockets", 1, maxIndex), d.number(t, "threads", 1, 1024)
		c.Cores = d.number(t, "cores", 1, 1024)
		for _, key := range []string{"dies", "clusters"} {
			if n := d.number(t, key, 1, 1024); n > 1 && c.Cores > 0 {
				if c.Cores *= n; c.Cores > maxIndex {
					d.fail(machine.ErrSyntax, "topology", "%d cores of a socket", c.Cores)
				}
			}
		}
	}
	if f := nestedFeature(e); f != nil {
		switch attr(f, "policy") {
		case "disable", "forbid":
			c.Nested = machine.Off
		default: // optional, too: if the host can
			c.Nested = machine.On
		}
	}
}

// nestedFeature is the feature of a CPU that makes hypervisors possible, Intel's or AMD's, or nil.
func nestedFeature(cpu *etree.Element) *etree.Element {
	for _, f := range children(cpu, "feature") {
		if n := attr(f, "name"); n == "vmx" || n == "svm" {
			return f
		}
	}
	return nil
}

// chipsetOf tells the chipset from QEMU's name of a machine.
func chipsetOf(version string) string {
	switch {
	case version == "q35" || strings.HasPrefix(version, "pc-q35"):
		return "q35"
	case version == "pc" || strings.HasPrefix(version, "pc-") || strings.HasPrefix(version, "rhel6."):
		return "i440fx"
	case version == "virt" || strings.HasPrefix(version, "virt-"):
		return "virt"
	}
	return ""
}

func (d *decoder) system() {
	m, os := d.m, child(d.root, "os")
	if os == nil {
		if child(d.root, "bootloader") != nil {
			m.Virtualization = "pv"
		}
		return
	}
	t := child(os, "type")
	switch kind := word(t); kind {
	case "exe", "uml":
		d.fail(machine.ErrUnsupported, "os type", "%q is a container", kind)
	default:
		m.Virtualization = translate(virtualizations, kind)
	}
	m.Arch, m.Version = attr(t, "arch"), attr(t, "machine")
	m.Chipset = chipsetOf(m.Version)
	d.firmware(os)
	for _, b := range children(os, "boot") {
		if w := translate(bootKinds, attr(b, "dev")); w != "" {
			m.Boot = append(m.Boot, w)
		}
	}
	k := machine.Kernel{Path: word(child(os, "kernel")), Initrd: word(child(os, "initrd")), Args: text(child(os, "cmdline"))}
	if k.Path != "" {
		m.Kernel = &k
	}
}

func (d *decoder) firmware(os *etree.Element) {
	f := &d.m.Firmware
	loader := child(os, "loader")
	f.Type = attr(os, "firmware")
	f.Loader = word(loader)
	if f.Type == "" {
		f.Type = loaderType(loader)
	}
	f.SecureBoot = d.yes(loader, "secure")
	if e := secureBootElement(os); e != nil {
		f.SecureBoot = d.yes(e, "enabled")
	}
	n := child(os, "nvram")
	if n == nil {
		return
	}
	f.Template = attr(n, "template")
	if src := child(n, "source"); src != nil {
		d.source(&f.Vars, attr(n, "type"), src)
	} else {
		f.Vars.Path = word(n)
	}
	f.Vars.Format = attr(n, "format")
}

// loaderType tells what a loader is where the domain does not say: code in a flash memory is EFI, and so is one whose
// name says so.
func loaderType(loader *etree.Element) string {
	name := strings.ToLower(word(loader))
	for _, w := range []string{"ovmf", "aavmf", "edk2", "efi"} {
		if strings.Contains(name, w) {
			return "efi"
		}
	}
	if attr(loader, "type") == "pflash" {
		return "efi"
	}
	return ""
}

func secureBootElement(os *etree.Element) *etree.Element {
	for _, e := range children(child(os, "firmware"), "feature") {
		if attr(e, "name") == "secure-boot" {
			return e
		}
	}
	return nil
}

// all reads the devices.
func (d *decoder) all() {
	if n := len(d.devices.NotNil().Child); n > 2*maxDevices+1 {
		d.fail(machine.ErrUnsupported, "devices", "%d, limit %d", n/2, maxDevices)
		return
	}
	d.controllers()
	d.disks()
	d.ports()
	counts := map[string]int{}
	for _, e := range d.devices.NotNil().ChildElements() {
		if e.Space != "" {
			d.other(e, e.FullTag(), "")
			continue
		}
		switch e.Tag {
		case "interface":
			d.nic(e)
		case "video":
			d.video(e)
		case "graphics":
			d.display(e)
		case "sound":
			v := machine.Sound{Model: translate(soundModels, attr(e, "model"))}
			p := keep(d, v, e)
			v.Origin = p
			d.m.Sounds = append(d.m.Sounds, v)
		case "input":
			v := machine.Input{Kind: attr(e, "type"), Bus: attr(e, "bus")}
			p := keep(d, v, e)
			v.Origin = p
			d.m.Inputs = append(d.m.Inputs, v)
		case "tpm":
			d.tpm(e)
		case "filesystem":
			d.share(e)
		case "controller", "disk", "serial", "parallel", "console", "emulator", "alias", "audio":
		case "memballoon":
			if model := attr(e, "model"); model != "none" {
				d.other(e, otherKinds[e.Tag], model)
			}
		default:
			counts[e.Tag]++
			d.other(e, translate(otherKinds, e.Tag), otherName(e, counts[e.Tag]))
		}
	}
}

// keep makes the Origin of a device and lists it.
func keep[T any](d *decoder, was T, els ...*etree.Element) *part[T] {
	p := &part[T]{els, was}
	d.o.parts = append(d.o.parts, p)
	return p
}

func (d *decoder) other(e *etree.Element, kind, name string) {
	v := machine.Other{Kind: kind, Name: name}
	v.Origin = keep(d, v, e)
	d.m.Others = append(d.m.Others, v)
}

// otherName is what tells a device from others: its model, the address of the host's device, a name, or its number.
func otherName(e *etree.Element, n int) string {
	src := child(e, "source")
	for _, a := range []*etree.Element{child(src, "address"), child(src, "adapter"), src} {
		switch {
		case attr(a, "slot") != "" && attr(a, "bus") != "":
			hex := func(key string) string { return strings.TrimPrefix(attr(a, key), "0x") }
			return fmt.Sprintf("%s %s:%s:%s.%s", attr(e, "type"), hex("domain"), hex("bus"), hex("slot"), hex("function"))
		case attr(a, "name") != "":
			return strings.TrimSpace(attr(e, "type") + " " + attr(a, "name"))
		}
	}
	if v := child(src, "vendor"); v != nil {
		return strings.TrimSpace(attr(e, "type") + " " + attr(v, "id") + ":" + attr(child(src, "product"), "id"))
	}
	if name := attr(child(e, "target"), "name"); name != "" {
		return name
	}
	for _, key := range []string{"model", "name", "type"} {
		if s := attr(e, key); s != "" {
			return s
		}
	}
	return itoa(n)
}

func (d *decoder) controllers() {
	type key struct {
		kind  string
		index int
	}
	taken := map[key]bool{}
	list := children(d.devices, "controller")
	for _, e := range list {
		if _, ok := lookup(e, "index"); ok {
			taken[key{attr(e, "type"), d.number(e, "index", -1, maxIndex)}] = true
		}
	}
	next := map[string]int{}
	usb := map[int]*part[machine.Controller]{}
	for _, e := range list {
		kind := attr(e, "type")
		v := machine.Controller{Model: attr(e, "model")}
		if s, ok := lookup(e, "index"); ok && strings.TrimSpace(s) != "-1" {
			v.Index = d.number(e, "index", 0, maxIndex)
		} else { // libvirt takes the first that is free
			for taken[key{kind, next[kind]}] {
				next[kind]++
			}
			v.Index = next[kind]
			taken[key{kind, v.Index}] = true
		}
		switch kind {
		case "ide", "fdc", "nvme":
			v.Bus = machine.Bus(kind)
		case "sata":
			v.Bus, v.Model = machine.SATA, "ahci"
		case "scsi":
			v.Bus, v.Model = machine.SCSI, translate(scsiModels, v.Model)
		case "usb":
			if v.Model == "none" {
				continue
			}
			if p := usb[v.Index]; p != nil {
				d.companion(p, e)
				continue
			}
			v.Bus, v.Model = machine.USB, usbModel(v.Model)
		default:
			continue
		}
		p := keep(d, v, e)
		if v.Bus == machine.USB {
			usb[v.Index] = p
		}
		v.Origin = p
		d.m.Controllers = append(d.m.Controllers, v)
	}
}

// companion adds a controller to those that share its number. The one without a master is the first.
func (d *decoder) companion(p *part[machine.Controller], e *etree.Element) {
	p.els = append(p.els, e)
	if child(p.els[0], "master") == nil || child(e, "master") != nil {
		return
	}
	last := len(p.els) - 1
	p.els[0], p.els[last] = p.els[last], p.els[0]
	p.was.Model = usbModel(attr(e, "model"))
	d.m.Controller(machine.USB, p.was.Index).Model = p.was.Model
}

func (d *decoder) nic(e *etree.Element) {
	src := child(e, "source")
	v := machine.NIC{Slot: len(d.m.NICs), Model: attr(child(e, "model"), "type"), Boot: d.boot(e)}
	if t, ok := nicModels[strings.ToLower(v.Model)]; ok {
		v.Model = t
	}
	if a := child(e, "mac"); a != nil {
		mac, ok := macOf(attr(a, "address"))
		if !ok && attr(a, "address") != "" {
			d.fail(machine.ErrSyntax, "mac", "%q is no address", attr(a, "address"))
		}
		v.MAC, v.Generated = mac, attr(a, "type") == "generated"
	}
	switch attr(child(e, "link"), "state") {
	case "up":
		v.Connected = machine.On
	case "down":
		v.Connected = machine.Off
	}
	kind := attr(e, "type")
	v.Kind, v.Network = networkOf(kind, src)
	p := keep(d, v, e)
	v.Origin = p
	d.m.NICs = append(d.m.NICs, v)
	if v.Kind == "" && kind != "ethernet" { // a way of attaching it that the model has no word for
		o := machine.Other{Kind: "network backend", Name: fmt.Sprintf("nic %d: %s", v.Slot, kind)}
		o.Origin = keep(d, o)
		d.m.Others = append(d.m.Others, o)
	}
}

// networkOf reads what an adapter is attached to.
func networkOf(kind string, src *etree.Element) (machine.NetKind, string) {
	switch kind {
	case "network":
		if n := attr(src, "network"); n != defaultNetwork {
			return machine.Named, n
		}
		return machine.NAT, ""
	case "bridge":
		return machine.Bridged, attr(src, "bridge")
	case "direct":
		return machine.Bridged, attr(src, "dev")
	case "vds":
		return machine.Named, attr(src, "portgroupid")
	case "user":
		return machine.UserNet, ""
	case "internal":
		return machine.Internal, attr(src, "name")
	case "null":
		return machine.NoNet, ""
	}
	return "", ""
}

// defaultNetwork is the one that libvirt comes with: NAT for all machines of the host.
const defaultNetwork = "default"

// boot is a device's place in the boot order.
func (d *decoder) boot(e *etree.Element) int {
	return d.number(child(e, "boot"), "order", 1, maxIndex)
}

func (d *decoder) video(e *etree.Element) {
	t := child(e, "model")
	v := machine.Video{Model: translate(videoModels, attr(t, "type")), Heads: d.number(t, "heads", 0, maxIndex)}
	v.Memory = int64(d.number(t, "vram", 0, 1<<31-1)) << 10
	v.Accel3D = d.yes(child(t, "acceleration"), "accel3d")
	v.Origin = keep(d, v, e)
	d.m.Videos = append(d.m.Videos, v)
}

func (d *decoder) display(e *etree.Element) {
	v := machine.Display{Kind: attr(e, "type"), Port: max(0, d.number(e, "port", -1, 65535)), Listen: attr(e, "listen")}
	if l := child(e, "listen"); v.Listen == "" && (attr(l, "type") == "address" || attr(l, "type") == "") {
		v.Listen = attr(l, "address")
	}
	v.Origin = keep(d, v, e)
	d.m.Displays = append(d.m.Displays, v)
}

func (d *decoder) tpm(e *etree.Element) {
	if d.m.TPM != nil {
		d.other(e, "tpm", attr(e, "model"))
		return
	}
	b := child(e, "backend")
	v := machine.TPM{Version: attr(b, "version"), Model: strings.TrimPrefix(attr(e, "model"), "tpm-"), Backend: attr(b, "type")}
	v.Origin = keep(d, v, e)
	d.m.TPM = &v
}

// share reads a directory of the host. Other kinds of file systems are Others.
func (d *decoder) share(e *etree.Element) {
	kind, dir := attr(e, "type"), attr(child(e, "source"), "dir")
	if name := attr(child(e, "target"), "dir"); kind != "" && kind != "mount" || dir == "" || name == "" {
		d.other(e, "filesystem", strings.TrimSpace(kind+" "+name))
		return
	}
	v := machine.Share{Name: attr(child(e, "target"), "dir"), Path: dir, ReadOnly: has(e, "readonly")}
	v.Origin = keep(d, v, e)
	d.m.Shares = append(d.m.Shares, v)
}

// ports reads serial and parallel ports, and consoles.
func (d *decoder) ports() {
	numbered := map[string]bool{}
	for _, tag := range []string{"serial", "parallel"} {
		for _, e := range children(d.devices, tag) {
			if s, ok := lookup(child(e, "target"), "port"); ok {
				numbered[tag+s] = true
			}
		}
	}
	next := map[string]int{}
	serials := map[int]*part[machine.Port]{}
	read := func(tag string, e *etree.Element) machine.Port {
		v := d.port(e)
		if _, ok := lookup(child(e, "target"), "port"); !ok {
			for numbered[tag+itoa(next[tag])] {
				next[tag]++
			}
			v.Slot = next[tag]
			numbered[tag+itoa(v.Slot)] = true
		}
		p := keep(d, v, e)
		if _, ok := serials[v.Slot]; !ok && tag == "serial" {
			serials[v.Slot] = p
		}
		v.Origin = p
		return v
	}
	for _, e := range children(d.devices, "serial") {
		d.m.Serials = append(d.m.Serials, read("serial", e))
	}
	for _, e := range children(d.devices, "parallel") {
		d.m.Parallels = append(d.m.Parallels, read("parallel", e))
	}
	none := len(d.m.Serials) == 0
	para := d.m.Virtualization == "pv" || d.m.Virtualization == "pvh" // has a console of its own
	for i, e := range children(d.devices, "console") {
		target := child(e, "target")
		if kind := attr(target, "type"); kind != "serial" && (kind != "" || para) {
			d.other(e, "console", strings.TrimSpace(kind+" "+attr(target, "port")))
			continue
		}
		slot := d.number(target, "port", 0, maxIndex)
		switch p := serials[slot]; {
		case p != nil: // another name for it
			p.els = append(p.els, e)
		case none && i == 0: // libvirt adds the serial port that is behind it
			d.m.Serials = append(d.m.Serials, read("serial", e))
		default:
			d.other(e, "console", itoa(slot))
		}
	}
}

// port reads a character device.
func (d *decoder) port(e *etree.Element) machine.Port {
	v := machine.Port{Slot: d.number(child(e, "target"), "port", 0, maxIndex), Kind: translate(portKinds, attr(e, "type"))}
	sources := children(e, "source")
	var src *etree.Element
	if len(sources) > 0 {
		src = sources[0]
	}
	switch v.Kind {
	case "tcp":
		v.Host, v.Service = attr(src, "host"), attr(src, "service")
		v.Server, v.Telnet = listens(src), machine.Unsaid
		if p := child(e, "protocol"); p != nil {
			v.Telnet = machine.Is(attr(p, "type") == "telnet")
		}
	case "udp":
		if i := slices.IndexFunc(sources, func(s *etree.Element) bool { return attr(s, "mode") == "connect" }); i >= 0 {
			src = sources[i]
		}
		v.Host, v.Service = attr(src, "host"), attr(src, "service")
	case "unix":
		v.Path, v.Server = attr(src, "path"), listens(src)
	case "pty", "vc", "null", "stdio": // a path of a pty is that of the last run
	default:
		v.Path = attr(src, "path")
	}
	return v
}

// listens tells whether a socket waits for others.
func listens(src *etree.Element) machine.Switch {
	switch attr(src, "mode") {
	case "bind":
		return machine.On
	case "connect":
		return machine.Off
	}
	return machine.Unsaid
}
