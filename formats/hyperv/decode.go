package hyperv

import (
	"bytes"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/beevik/etree"

	"tarvm/formats/machine"
	"tarvm/formats/machine/xmldoc"
)

// Form is Hyper-V's configuration in XML.
type Form struct{}

var _ machine.Config = Form{}

const formName = "hyperv"

// Name returns hyperv.
func (Form) Name() string { return formName }

// Probe tells the form by its root element, whose name many have, and by an element that only it has: the properties may
// lie behind the first bytes.
func (Form) Probe(_ string, head []byte) bool {
	if root, _ := xmldoc.Root(head); root != "configuration" {
		return false
	}
	plain := bytes.ReplaceAll(head, []byte{0}, nil) // of UTF-16, what is ASCII
	return bytes.Contains(plain, []byte("<VDEVVersion ")) || bytes.Contains(plain, []byte("<dynamic_memory_enabled ")) ||
		bytes.Contains(plain, []byte("<vm-controllers")) && bytes.Contains(plain, []byte("<subtype "))
}

// Encode is not supported.
func (Form) Encode(*machine.Machine, machine.EncodeOptions) ([]byte, []machine.Loss, error) {
	return nil, nil, &machine.SyntaxError{Form: formName, Got: "nothing is written in this form", Err: machine.ErrUnsupported}
}

// Types of devices, as the manifest has them.
const (
	typeIDE       = "83f8638b-8dca-4152-9eda-2ca8b33039b4"
	typeSCSI      = "d422512d-2bf2-4752-809d-7b82b5fcb1b4"
	typeFloppy    = "8f0d2762-0b00-4e04-af4f-19010527cb93"
	typeSerial    = "8e3a359f-559a-4b6a-98a9-1690a6100ed7"
	typeFirmware  = "ac6b8dc1-3257-4a70-b1b2-a9c9215659ad"
	typeSynthetic = "2fc216b0-d2e2-4967-9b6d-b8a5c9ca2778" // a network adapter of VMBus
)

// ordinary are the types of devices that every machine has, or that serve Hyper-V's own services in the guest: nothing is
// lost without them.
var ordinary = map[string]bool{
	typeFirmware: true, typeFloppy: true, typeSerial: true,
	"197f74e3-b84b-46de-8ae6-82f1cd181cdc": true, // keyboard
	"2497f4de-e9fa-4204-80e4-4b75c46419c0": true, // time
	"2a34b1c2-fd73-4043-8a5b-dd2159bc743f": true, // key-value pairs
	"35b0b12f-a0d7-482f-80a0-f52f1ab3da2e": true, // super I/O
	"4d42d9f7-6531-4f6c-9e46-1f0477876104": true, // ISA bus
	"4d46d139-7821-4dc4-98a3-01e98a586a44": true, // speaker
	"58f75a6d-d949-4320-99e1-a2a2576d581c": true, // mouse
	"5ced1297-4598-4915-a5fc-ad21bb4d02a4": true, // VSS
	"655bc5c5-a784-46b7-81bc-e26328f7eb0e": true, // i8042
	"6c09bb55-d683-4da0-8931-c9bf705f6480": true, // guest interface
	"6c5addb9-a11a-4e8e-84cb-e6208201db63": true, // remote desktop
	"72682fc4-040a-430a-be0b-224574b953fe": true, // I/O APIC
	"7d80d3db-61ee-4879-8879-5609f1100ad0": true, // S3 Trio
	"84535fad-4d98-4a6a-bdcd-21d5720dc430": true, // PCI bus
	"84eaae65-2f2e-45f5-9bb5-0e857dc8eb47": true, // heartbeat
	"87045ce9-5323-438f-93bb-1e83dcbce18e": true, // DMA
	"9edd1639-9bca-40dc-b3a2-07c828da60b5": true, // PIC
	"9f8233ac-be49-4c79-8ee3-e7e1985b2077": true, // shutdown
	"a28e4d02-3323-4148-9569-565930a5cb39": true, // PIT
	"ba8735ef-e3a9-4f1b-badd-dbf3a5909915": true, // monitor
	"bc12c717-8898-4688-8ee4-2cd14894f8ea": true, // activation
	"d41a1872-3740-41ce-a1ee-4522ab82f991": true, // VMBus
	"db8b9818-b4bb-4725-b99d-b4612716b6b4": true, // power management
	"de6cdc86-e1fb-4940-801b-c3c1a26c4da4": true, // input
	"e3c82929-edb4-475e-85a4-29aaa2a30c2d": true, // dynamic memory
	"e51b7ef6-4a7f-4780-aaae-d4b291aacd2e": true, // clock
	"f3cf6965-e8d3-44a9-9b7d-a04245ea7525": true, // video
}

// synthetic is the model of Hyper-V's own adapters, named after the driver for them. Nobody else has it.
const synthetic = "netvsc"

const (
	maxMemory     = 1 << 30 // MiB
	maxProcessors = 1 << 16
	maxController = 64 // Hyper-V has up to 4 of SCSI
	maxDrive      = 256
	maxSnapshots  = 1000
)

// Decode reads a configuration.
func (Form) Decode(b []byte) (*machine.Machine, error) {
	doc, err := xmldoc.Parse(formName, b, machine.MaxConfig)
	if err != nil {
		return nil, err
	}
	root := doc.Root()
	if root.Tag != "configuration" {
		return nil, syntax(root.Tag, "the root element is not configuration")
	}
	d := &decoder{root: root, m: &machine.Machine{Platform: "hyperv"}}
	if child(root, "properties") == nil || child(root, "settings") == nil {
		return nil, syntax("configuration", "no properties and settings of a virtual machine")
	}
	d.properties()
	d.settings()
	for _, dev := range d.devices() {
		d.device(dev)
	}
	d.packer()
	d.order()
	d.rest()
	if d.err == nil {
		if err := d.m.Complete(); err != nil {
			d.err = &machine.SyntaxError{Form: formName, Err: err}
		}
	}
	if d.err != nil {
		return nil, d.err
	}
	return d.m, nil
}

func syntax(what, format string, a ...any) error {
	return &machine.SyntaxError{Form: formName, What: what, Got: fmt.Sprintf(format, a...), Err: machine.ErrSyntax}
}

// decoder keeps its first error.
type decoder struct {
	root *etree.Element
	m    *machine.Machine
	scsi int // controllers so far
	err  error
}

func (d *decoder) fail(err error) {
	if d.err == nil {
		d.err = err
	}
}

// child returns the first child of that name, or nil; e may be nil.
func child(e *etree.Element, tag string) *etree.Element {
	if e == nil {
		return nil
	}
	for _, c := range e.ChildElements() {
		if c.Tag == tag {
			return c
		}
	}
	return nil
}

// at returns the text of the element at a path of names, without space around it.
func at(e *etree.Element, path ...string) string {
	for _, tag := range path {
		e = child(e, tag)
	}
	if e == nil {
		return ""
	}
	return strings.TrimSpace(e.Text())
}

// number reads a number from 0 to limit; ok: it is there.
func (d *decoder) number(limit int64, path ...string) (n int64, ok bool) {
	s := at(d.root, path...)
	if s == "" {
		return 0, false
	}
	n, err := strconv.ParseInt(s, 10, 64)
	if err != nil || n < 0 || n > limit {
		d.fail(syntax(strings.Join(path, "/"), "%.40q is no number from 0 to %d", s, limit))
		return 0, false
	}
	return n, true
}

// uuid returns an identifier in the form of machine.Machine.UUID.
func (d *decoder) uuid(what, s string) string {
	if s == "" {
		return ""
	}
	hex := strings.ToLower(strings.NewReplacer("-", "", "{", "", "}", "").Replace(s))
	if len(hex) != 32 || strings.Trim(hex, "0123456789abcdef") != "" {
		d.fail(syntax(what, "%.60q is no identifier", s))
		return ""
	}
	return hex[:8] + "-" + hex[8:12] + "-" + hex[12:16] + "-" + hex[16:20] + "-" + hex[20:]
}

func isTrue(s string) bool { return strings.EqualFold(s, "true") }

func (d *decoder) properties() {
	p := child(d.root, "properties")
	m := d.m
	m.Name = at(p, "name")
	notes := child(p, "notes")
	if notes == nil {
		notes = child(d.root, "notes")
	}
	if notes != nil {
		m.Notes = strings.TrimSpace(strings.ReplaceAll(notes.Text(), "\r\n", "\n"))
	}
	m.InstanceUUID = d.uuid("properties/global_id", at(p, "global_id"))
	m.GenerationID = d.uuid("global_settings/devices/generation_id", at(d.root, "global_settings", "devices", "generation_id"))
	if v, ok := d.number(1<<16-1, "properties", "version"); ok && v > 0 {
		m.Version = fmt.Sprintf("%d.%d", v>>8, v&0xff)
	}
	// Before Windows Server 2012 R2 there was one generation, and no word for it.
	m.Firmware.Type = "bios"
	switch n, _ := d.number(1000, "properties", "subtype"); n {
	case 0:
	case 1:
		m.Firmware.Type = "efi"
	default:
		d.fail(&machine.SyntaxError{Form: formName, What: "properties/subtype", Got: fmt.Sprintf("generation %d", n+1), Err: machine.ErrUnsupported})
	}
}

func (d *decoder) settings() {
	m := d.m
	if n, ok := d.number(maxMemory, "settings", "memory", "bank", "size"); ok {
		m.Memory.Bytes = n << 20
	}
	if n, ok := d.number(maxProcessors, "settings", "processors", "count"); ok {
		m.CPU.Count = int(n)
	}
	if bank := []string{"settings", "memory", "bank"}; isTrue(at(d.root, append(bank, "dynamic_memory_enabled")...)) {
		low, _ := d.number(maxMemory, append(bank, "reservation")...)
		high, _ := d.number(maxMemory, append(bank, "limit")...)
		m.Others = append(m.Others, machine.Other{Kind: "balloon", Name: fmt.Sprintf("dynamic memory, %d to %d MiB", low, high)})
	}
}

// A device is the element of an instance, with what the manifest says of it.
type device struct {
	kind, name string // empty: the manifest does not have it
	e          *etree.Element
}

// devices returns them in the order of the manifest, and those that it does not have behind them.
func (d *decoder) devices() []device {
	elements := map[string]*etree.Element{}
	var order []string
	for _, e := range d.root.ChildElements() {
		if id := strings.ToLower(e.Tag); len(id) == 38 && id[0] == '_' && id[37] == '_' {
			if elements[id[1:37]] == nil {
				order = append(order, id[1:37])
			}
			elements[id[1:37]] = e
		}
	}
	var list []device
	done := map[string]bool{}
	if manifest := child(d.root, "manifest"); manifest != nil {
		for _, v := range manifest.ChildElements() {
			id := guid(at(v, "instance"))
			if !strings.HasPrefix(v.Tag, "vdev") || done[id] {
				continue
			}
			done[id] = true
			list = append(list, device{guid(at(v, "device")), at(v, "name"), elements[id]})
		}
	}
	for _, id := range order {
		if !done[id] {
			dev := device{e: elements[id]}
			switch id { // devices of which there is one have their type for their instance
			case typeIDE, typeFloppy, typeSerial, typeFirmware:
				dev.kind = id
			}
			list = append(list, dev)
		}
	}
	return list
}

func guid(s string) string { return strings.ToLower(strings.Trim(s, "{}")) }

func (d *decoder) device(dev device) {
	switch {
	case dev.kind == typeIDE:
		d.controllers(dev.e, machine.IDE)
	case dev.kind == typeSCSI, dev.kind == "" && child(dev.e, "ChannelInstanceGuid") != nil && child(dev.e, "controller0") != nil:
		d.controllers(dev.e, machine.SCSI)
	case dev.kind == typeFloppy:
		d.controllers(dev.e, machine.Floppy)
	case dev.kind == typeSerial:
		d.serial(dev.e)
	case dev.kind == typeFirmware:
		d.firmware(dev.e)
	case child(dev.e, "MacAddress") != nil:
		d.nic(dev)
	case dev.kind != "" && !ordinary[dev.kind]:
		name := dev.name
		if name == "" {
			name = dev.kind
		}
		d.m.Others = append(d.m.Others, machine.Other{Kind: "device", Name: name})
	}
}

func (d *decoder) firmware(e *etree.Element) {
	d.m.UUID = d.uuid("bios_guid", at(e, "bios_guid"))
	d.boot(child(e, "boot"))
	d.secureBoot(child(e, "secure_boot_enabled"))
}

// secureBoot is for machines that could have it: the others say no.
func (d *decoder) secureBoot(e *etree.Element) {
	if e != nil && d.m.Firmware.Type == "efi" {
		d.m.Firmware.SecureBoot = machine.Is(isTrue(at(e)))
	}
}

func (d *decoder) boot(e *etree.Element) {
	words := map[string]string{"Floppy": "floppy", "HardDrive": "disk", "Optical": "cdrom", "Network": "network"}
	for i := range 8 {
		if w := words[at(e, fmt.Sprintf("device%d", i))]; w != "" {
			d.m.Boot = append(d.m.Boot, w)
		}
	}
}

// controllers reads controller0, controller1 and so on. Those of IDE are the channels of one.
func (d *decoder) controllers(e *etree.Element, bus machine.Bus) {
	if e == nil {
		return
	}
	index := 0
	if bus == machine.SCSI {
		index = d.scsi
		d.scsi++
	}
	found := false
	for _, c := range e.ChildElements() {
		n, ok := indexed(c.Tag, "controller")
		if !ok {
			continue
		}
		if n >= maxController {
			d.fail(syntax(c.Tag, "there are %d controllers", maxController))
			return
		}
		first := 0
		switch {
		case bus == machine.IDE:
			first = 2 * n
		case bus == machine.SCSI && n > 0: // Packer's file has all of them in one element
			index = d.scsi
			d.scsi++
		}
		found = true
		if bus == machine.SCSI {
			d.controller(bus, index)
		}
		for _, v := range c.ChildElements() {
			if unit, ok := indexed(v.Tag, "drive"); ok {
				d.drive(v, machine.Address{Bus: bus, Index: index, Unit: first + unit})
			}
		}
	}
	switch {
	case bus == machine.IDE:
		d.controller(bus, 0)
	case bus == machine.SCSI && !found:
		d.controller(bus, index)
	}
}

func (d *decoder) controller(bus machine.Bus, index int) {
	if d.m.Controller(bus, index) == nil {
		d.m.Controllers = append(d.m.Controllers, machine.Controller{Bus: bus, Index: index})
	}
}

// indexed reads drive3.
func indexed(tag, name string) (int, bool) {
	rest, ok := strings.CutPrefix(tag, name)
	n, err := strconv.Atoi(rest)
	return n, ok && err == nil && n >= 0 && rest[0] != '+'
}

func (d *decoder) drive(e *etree.Element, a machine.Address) {
	if a.Unit >= maxDrive || a.Bus == machine.IDE && a.Unit > 3 {
		d.fail(syntax(e.Tag, "no controller of %s has it", a.Bus))
		return
	}
	kind, name := strings.ToUpper(at(e, "type")), at(e, "pathname")
	v := machine.Drive{Kind: machine.Disk, At: a}
	switch {
	case kind == "NONE", kind == "" && name == "":
		return
	case kind == "VFD":
		v.Kind = machine.Diskette
		if name == "" {
			return
		}
	case kind == "ISO", strings.Contains(kind, "DVD"), strings.Contains(kind, "CD"):
		v.Kind = machine.Optical
	}
	switch {
	case strings.HasPrefix(name, `\\.\`), strings.HasPrefix(name, `\\?\`), name != "" && kind != "VHD" && kind != "ISO" && kind != "VFD" && kind != "":
		v.Media.Host = name
	default:
		v.Media.Path = strings.ReplaceAll(name, `\`, "/")
	}
	if v.Kind == machine.Disk {
		// Hyper-V itself goes by the name.
		switch lower := strings.ToLower(v.Media.Path); {
		case strings.HasSuffix(lower, ".vhdx"), strings.HasSuffix(lower, ".avhdx"):
			v.Media.Format = "vhdx"
		case strings.HasSuffix(lower, ".vhd"), strings.HasSuffix(lower, ".avhd"):
			v.Media.Format = "vpc"
		}
		if isTrue(at(e, "persistent_reservations_supported")) {
			v.Shared = machine.On
		}
	}
	if d.m.DriveAt(v.At) != nil {
		v.At.Unit = 0
		if v.At.Bus == machine.IDE {
			v.At.Unit = a.Unit &^ 1
		}
		for d.m.DriveAt(v.At) != nil {
			v.At.Unit++
		}
		if v.At.Unit >= maxDrive || a.Bus == machine.IDE && v.At.Unit > 3 {
			d.fail(syntax(e.Tag, "more drives than %s%d has room for", a.Bus, a.Index))
			return
		}
	}
	d.m.Drives = append(d.m.Drives, v)
}

func (d *decoder) serial(e *etree.Element) {
	for i := range 2 {
		if pipe := at(e, fmt.Sprintf("port%d", i), "connection"); pipe != "" {
			d.m.Serials = append(d.m.Serials, machine.Port{Slot: i, Kind: "pipe", Path: pipe, Server: machine.On})
		}
	}
}

func (d *decoder) nic(dev device) {
	n := machine.NIC{Slot: len(d.m.NICs), Generated: child(dev.e, "MacAddressIsStatic") != nil && !isTrue(at(dev.e, "MacAddressIsStatic"))}
	switch dev.kind {
	case typeSynthetic, "":
		n.Model = synthetic
	default:
		n.Model = "tulip" // DEC 21140: the only other kind that there is
	}
	hex := strings.ToLower(strings.NewReplacer("-", "", ":", "").Replace(at(dev.e, "MacAddress")))
	switch {
	case strings.Trim(hex, "0") == "": // none was made yet
	case len(hex) != 12 || strings.Trim(hex, "0123456789abcdef") != "":
		d.fail(syntax("MacAddress", "%.40q is no address", hex))
	default:
		n.MAC = hex[:2]
		for i := 2; i < 12; i += 2 {
			n.MAC += ":" + hex[i:i+2]
		}
	}
	n.Network = at(dev.e, "Connection", "AltSwitchName")
	for _, path := range [][]string{{"SwitchName"}, {"Connection", "SwitchName"}, {"Connection", "HostResources", "HostResource"}} {
		if n.Network == "" {
			n.Network = at(dev.e, path...)
		}
	}
	n.Kind = machine.Named
	if c := child(dev.e, "IsConnected"); c != nil && !isTrue(at(c)) || n.Network == "" {
		n.Kind, n.Network, n.Connected = machine.NoNet, "", machine.Off
	}
	d.m.NICs = append(d.m.NICs, n)
}

// packer reads what Packer has below the root.
func (d *decoder) packer() {
	if e := child(d.root, "vm-controllers"); e != nil {
		if child(e, "controller0") != nil || child(e, "controller1") != nil {
			d.controllers(e, machine.IDE)
		}
		for _, c := range e.ChildElements() {
			if c.SelectAttr("ChannelInstanceGuid") != nil {
				d.controllers(c, machine.SCSI)
			}
		}
	}
	if name := at(d.root, "AltSwitchName"); name != "" && len(d.m.NICs) == 0 {
		d.m.NICs = []machine.NIC{{Model: synthetic, Kind: machine.Named, Network: name}}
	}
	if len(d.m.Boot) == 0 {
		d.boot(child(d.root, "boot"))
	}
	d.secureBoot(child(d.root, "secure_boot_enabled"))
}

// order puts IDE first: the manifest does not have that controller, and generation 1 starts from it alone.
func (d *decoder) order() {
	buses := []machine.Bus{machine.IDE, machine.SCSI, machine.Floppy}
	rank := func(b machine.Bus) int { return slices.Index(buses, b) }
	slices.SortStableFunc(d.m.Controllers, func(a, b machine.Controller) int { return rank(a.Bus) - rank(b.Bus) })
	slices.SortStableFunc(d.m.Drives, func(a, b machine.Drive) int { return rank(a.At.Bus) - rank(b.At.Bus) })
}

// rest names what the machine has beside its hardware.
func (d *decoder) rest() {
	if s := child(d.root, "savedstate"); at(s, "memlocation") != "" || at(s, "vsvlocation") != "" {
		d.m.Others = append(d.m.Others, machine.Other{Kind: "saved-state"})
	}
	n, _ := d.number(maxSnapshots, "global_settings", "snapshots", "list", "size")
	for i := range n {
		d.m.Others = append(d.m.Others, machine.Other{Kind: "snapshot", Name: strconv.FormatInt(i+1, 10)})
	}
}
