package xva

import (
	"bytes"
	"cmp"
	"encoding/base64"
	"fmt"
	"path"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"

	"tarvm/formats/machine"
	"tarvm/formats/machine/xmldoc"
)

const form = "xva"

const (
	maxMemory = 1 << 50 // bytes; a limit of this reader
	maxCPUs   = 1 << 16
	// maxDisk is what a disk's virtual_size may be, in bytes. xapi takes 2 TiB less a little for VHD, and more on newer storage.
	maxDisk = 64 << 40
	maxUnit = 4095
)

// null is xapi's reference to nothing.
const null = "OpaqueRef:NULL"

// Config is the form of ova.xml alone: what a machine is, without the content of its disks.
//
// Decode returns the machine that is neither a snapshot nor a template, if there is one. A disk's Media.Path is the name
// of its file in [Package.FS], and that of an optical medium the name that its storage has for it. Encode writes a
// file's base name without extension as the disk's label.
//
// What ova.xml demands and a machine may not say: memory (1 GiB), processors (1), UUIDs (made of the machine's own, or of
// its name), a label for networks ("Network 0"), device numbers of drives on other buses.
type Config struct{}

var _ machine.Config = Config{}

// Name implements machine.Config.
func (Config) Name() string { return form }

// Probe implements machine.Config.
func (Config) Probe(_ string, head []byte) bool {
	root, _ := xmldoc.Root(head)
	text := bytes.ReplaceAll(head, []byte{0}, nil) // it may be UTF-16
	return root == "value" && (bytes.Contains(text, []byte("export_vsn")) || bytes.Contains(text, []byte("xapi_major")))
}

// Decode implements machine.Config.
func (Config) Decode(b []byte) (*machine.Machine, error) {
	d, err := parse(b)
	if err != nil {
		return nil, err
	}
	vm := d.main()
	if vm == nil {
		return nil, syntax("objects", "no VM", machine.ErrSyntax)
	}
	return d.machine(vm)
}

// origin is what parts of a machine were made of: the whole document, and the object in it.
type origin struct {
	doc *document
	id  string
}

func (*origin) Form() string { return form }

// A document is a parsed ova.xml. It is not changed; encode works on a copy.
type document struct {
	root    *value
	objects []*object
}

type object struct {
	class, id string
	snap      *value // a struct
	names     *value // the struct that holds class, id and snapshot
}

func parse(b []byte) (*document, error) {
	root, err := parseValue(b)
	if err != nil {
		return nil, err
	}
	d := &document{root: root}
	if root.get("objects") == nil || root.get("objects").kind != "array" {
		return nil, syntax("objects", "no array of that name", machine.ErrSyntax)
	}
	if v, err := root.get("version").number("export_vsn", 1<<31); err != nil {
		return nil, err
	} else if v > 2 {
		return nil, syntax("export_vsn", fmt.Sprint(v), machine.ErrUnsupported)
	}
	seen := map[string]bool{}
	for _, v := range root.get("objects").items {
		o := &object{class: v.str("class"), id: v.str("id"), snap: v.get("snapshot"), names: v}
		if o.class == "" || o.id == "" || o.snap == nil || o.snap.kind != "struct" {
			return nil, syntax("objects", "an object without class, id or snapshot", machine.ErrSyntax)
		}
		if seen[o.id] {
			return nil, syntax("objects", fmt.Sprintf("two objects are %q", o.id), machine.ErrSyntax)
		}
		seen[o.id] = true
		d.objects = append(d.objects, o)
	}
	return d, nil
}

func (d *document) clone() *document {
	c := &document{root: d.root.clone()}
	for _, v := range c.root.get("objects").items {
		c.objects = append(c.objects, &object{class: v.str("class"), id: v.str("id"), snap: v.get("snapshot"), names: v})
	}
	return c
}

// find returns an object of a class by its id, or nil.
func (d *document) find(class, id string) *object {
	for _, o := range d.objects {
		if o.class == class && o.id == id {
			return o
		}
	}
	return nil
}

// of returns the objects of a class that belong to a machine.
func (d *document) of(class, vm string) []*object {
	var list []*object
	for _, o := range d.objects {
		if o.class == class && o.snap.str("VM") == vm {
			list = append(list, o)
		}
	}
	return list
}

// Kind says what a machine in an XVA is.
type Kind string

// The kinds of machines.
const (
	Normal   Kind = "vm"
	Template Kind = "template"
	Snapshot Kind = "snapshot"
	Control  Kind = "control domain"
)

func (o *object) kind() Kind {
	switch {
	case o.snap.yes("is_control_domain") == machine.On:
		return Control
	case o.snap.yes("is_a_snapshot") == machine.On:
		return Snapshot
	case o.snap.yes("is_a_template") == machine.On:
		return Template
	}
	return Normal
}

// main returns the machine that the file is about.
func (d *document) main() *object {
	for _, k := range []Kind{Normal, Template, Snapshot, Control} {
		for _, o := range d.objects {
			if o.class == "VM" && o.kind() == k {
				return o
			}
		}
	}
	return nil
}

// machine makes the neutral machine of one VM object.
func (d *document) machine(vm *object) (*machine.Machine, error) {
	s := vm.snap
	m := &machine.Machine{
		Name: s.str("name_label"), Notes: s.str("name_description"), Platform: "xen",
		Origin: &origin{d, vm.id},
	}
	m.UUID = uuid(s.str("uuid"))
	m.Virtualization = virtualization(s)
	m.Guest.Text = d.guest(s)
	if err := processors(m, s); err != nil {
		return nil, err
	}
	if err := memory(m, s); err != nil {
		return nil, err
	}
	if err := platform(m, s); err != nil {
		return nil, err
	}
	boot(m, s)
	if len(d.of("VTPM", vm.id)) > 0 {
		m.TPM = &machine.TPM{Version: "2.0", Origin: &origin{d, vm.id}} // the only kind that there is
	}
	if err := d.drives(m, vm.id); err != nil {
		return nil, err
	}
	if err := d.nics(m, vm.id); err != nil {
		return nil, err
	}
	if err := m.Complete(); err != nil {
		return nil, syntax("VBD", strings.TrimSuffix(err.Error(), ": "+machine.ErrSyntax.Error()), machine.ErrSyntax)
	}
	return m, nil
}

func virtualization(s *value) string {
	switch s.str("domain_type") {
	case "hvm":
		return "hvm"
	case "pv", "pv_in_pvh":
		return "pv"
	case "pvh":
		return "pvh"
	}
	// Before XenServer 7.5 the boot policy told.
	if s.get("HVM_boot_policy") == nil {
		return ""
	}
	if s.str("HVM_boot_policy") == "" {
		return "pv"
	}
	return "hvm"
}

// guest returns what the tools in the guest said of its system, or the template that the machine was made of.
func (d *document) guest(s *value) string {
	if gm := d.find("VM_guest_metrics", s.str("guest_metrics")); gm != nil {
		if name := gm.snap.get("os_version").str("name"); name != "" {
			return name
		}
	}
	if t := s.get("other_config").str("base_template_name"); t != otherMedia {
		return t
	}
	return ""
}

// otherMedia is the template that suits everything.
const otherMedia = "Other install media"

func processors(m *machine.Machine, s *value) error {
	start, err := s.number("VCPUs_at_startup", maxCPUs)
	if err != nil {
		return err
	}
	most, err := s.number("VCPUs_max", maxCPUs)
	if err != nil {
		return err
	}
	m.CPU.Count = int(start)
	if start == 0 {
		m.CPU.Count = int(most)
	} else if most > start {
		m.CPU.Max = int(most)
	}
	cores, err := s.get("platform").number("cores-per-socket", maxCPUs)
	m.CPU.Cores = int(cores)
	m.CPU.Nested = s.get("platform").yes("nested-virt")
	if m.CPU.Nested == machine.Unsaid {
		m.CPU.Nested = s.get("platform").yes("exp-nested-hvm") // before XCP-ng 8.3
	}
	return err
}

func memory(m *machine.Machine, s *value) error {
	most, err := s.number("memory_static_max", maxMemory)
	if err != nil {
		return err
	}
	dynamic, err := s.number("memory_dynamic_max", maxMemory)
	if err != nil {
		return err
	}
	m.Memory.Bytes = dynamic
	if dynamic == 0 { // before XenServer 5.6
		m.Memory.Bytes = most
	} else if most > dynamic {
		m.Memory.Max = most
	}
	return nil
}

// platform reads the flags of the platform table.
func platform(m *machine.Machine, s *value) error {
	p := s.get("platform")
	m.Features = machine.Features{ACPI: p.yes("acpi"), APIC: p.yes("apic"), PAE: p.yes("pae"), HPET: p.yes("hpet")}
	m.Firmware.SecureBoot = p.yes("secureboot") // "auto" hangs on the pool
	mib, err := p.number("videoram", 1<<20)
	if err != nil {
		return err
	}
	model := map[string]string{"std": "vga", "cirrus": "cirrus"}[p.str("vga")]
	if mib > 0 || model != "" {
		m.Videos = []machine.Video{{Model: model, Memory: mib << 20}}
	}
	return nil
}

// letters are HVM_boot_params' words for kinds of devices.
var letters = map[rune]string{'a': "floppy", 'c': "disk", 'd': "cdrom", 'n': "network"}

func boot(m *machine.Machine, s *value) {
	if m.Virtualization != "pv" {
		params := s.get("HVM_boot_params")
		switch params.str("firmware") {
		case "bios":
			m.Firmware.Type = "bios"
		case "uefi":
			m.Firmware.Type = "efi"
		}
		for _, r := range params.str("order") {
			if kind := letters[r]; kind != "" && !slices.Contains(m.Boot, kind) {
				m.Boot = append(m.Boot, kind)
			}
		}
		if b, err := variables(s); err == nil && len(b) > 0 {
			m.Firmware.Vars = machine.Media{Path: varsFile, Format: "varstored"}
		}
	}
	if k := s.str("PV_kernel"); k != "" {
		m.Kernel = &machine.Kernel{Path: k, Initrd: s.str("PV_ramdisk"), Args: s.str("PV_args")}
	}
}

// varsFile is where the FS of a Package shows the firmware's variables.
const varsFile = "efi-variables.bin"

// variables returns what varstored keeps of the firmware.
func variables(s *value) ([]byte, error) {
	return base64.StdEncoding.DecodeString(strings.TrimSpace(s.get("NVRAM").str("EFI-variables")))
}

func (d *document) drives(m *machine.Machine, vm string) error {
	names := d.names()
	var later []machine.Drive
	for _, o := range d.of("VBD", vm) {
		s := o.snap
		v := machine.Drive{At: machine.Address{Bus: machine.Xen}, Origin: &origin{d, o.id}}
		switch s.str("type") {
		case "CD":
			v.Kind = machine.Optical
		case "Floppy":
			v.Kind, v.At.Bus = machine.Diskette, machine.Floppy
		default:
			v.Kind = machine.Disk
			if s.str("mode") == "RO" {
				v.ReadOnly = machine.On
			}
		}
		if vdi := d.find("VDI", s.str("VDI")); vdi != nil && s.yes("empty") != machine.On {
			if err := medium(&v, vdi.snap, names[vdi.id]); err != nil {
				return err
			}
		}
		unit, ok := device(s.str("userdevice"))
		if !ok {
			unit, ok = device(s.str("device"))
		}
		if !ok {
			later = append(later, v)
			continue
		}
		v.At.Unit = unit
		m.Drives = append(m.Drives, v)
	}
	for _, v := range later { // "autodetect"
		v.At = m.Free(v.At.Bus, 0, 0)
		m.Drives = append(m.Drives, v)
	}
	slices.SortStableFunc(m.Drives, func(a, b machine.Drive) int {
		return cmp.Or(-cmp.Compare(a.At.Bus, b.At.Bus), cmp.Compare(a.At.Unit, b.At.Unit))
	})
	return nil
}

// medium says of a drive what its VDI is.
func medium(v *machine.Drive, s *value, name string) error {
	v.Media.UUID = uuid(s.str("uuid"))
	if v.Kind != machine.Disk {
		v.Media.Path = cmp.Or(s.str("location"), s.str("name_label"))
		return nil
	}
	size, err := s.number("virtual_size", maxDisk)
	if err != nil {
		return err
	}
	v.Media.Path, v.Media.Format, v.Media.Capacity = name, "raw", size
	if s.yes("sharable") == machine.On {
		v.Shared = machine.On
	}
	return nil
}

// device returns the number of a userdevice: 3, xvdd, hdd, sdd.
func device(s string) (unit int, ok bool) {
	if n, err := strconv.ParseUint(s, 10, 16); err == nil {
		return int(n), n <= maxUnit
	}
	for _, prefix := range []string{"xvd", "hd", "sd", "fd"} {
		rest, found := strings.CutPrefix(s, prefix)
		if !found || len(rest) == 0 || len(rest) > 2 {
			continue
		}
		n := 0
		for _, c := range rest {
			if c < 'a' || c > 'z' {
				return 0, false
			}
			n = 26*n + int(c-'a') + 1
		}
		return n - 1, true
	}
	return 0, false
}

// letter is the reverse: 3 is xvdd.
func letter(unit int) string {
	s := ""
	for unit++; unit > 0; unit = (unit - 1) / 26 {
		s = string(rune('a'+(unit-1)%26)) + s
	}
	return "xvd" + s
}

func (d *document) nics(m *machine.Machine, vm string) error {
	model := ""
	if vms := d.find("VM", vm); vms != nil {
		switch t := vms.snap.get("platform").str("nic_type"); t {
		case "e1000", "rtl8139":
			model = t
		}
	}
	for i, o := range d.of("VIF", vm) {
		s := o.snap
		n := machine.NIC{Slot: i, Model: model, Kind: machine.NoNet, Origin: &origin{d, o.id}}
		if dev, err := s.number("device", maxUnit); err != nil {
			return err
		} else if s.str("device") != "" {
			n.Slot = int(dev)
		}
		n.MAC = mac(s.str("MAC"))
		n.Generated = n.MAC != "" && s.yes("MAC_autogenerated") == machine.On
		if net := d.find("network", s.str("network")); net != nil {
			n.Kind, n.Network = machine.Named, net.snap.str("name_label")
		}
		m.NICs = append(m.NICs, n)
	}
	slices.SortStableFunc(m.NICs, func(a, b machine.NIC) int { return cmp.Compare(a.Slot, b.Slot) })
	return nil
}

// names returns the name of each VDI's file, by id.
func (d *document) names() map[string]string {
	out, taken := map[string]string{}, map[string]bool{varsFile: true, "ova.xml": true}
	for _, o := range d.objects {
		if o.class != "VDI" {
			continue
		}
		base, ext := clean(o.snap.str("name_label")), ".raw"
		if o.snap.str("type") == "suspend" {
			ext = ".suspend"
		}
		base = strings.TrimSuffix(base, ext)
		if base == "" {
			base = cmp.Or(clean(o.id), "disk")
		}
		name := base + ext
		for n := 2; taken[strings.ToLower(name)]; n++ {
			name = fmt.Sprintf("%s-%d%s", base, n, ext)
		}
		taken[strings.ToLower(name)] = true
		out[o.id] = name
	}
	return out
}

// clean makes a file's name of a label: one that leads nowhere else on any system.
func clean(label string) string {
	s := strings.Map(func(r rune) rune {
		if r < 0x20 || r == 0x7f || r == utf8.RuneError || strings.ContainsRune(`/\:*?"<>|`, r) {
			return '_'
		}
		return r
	}, label)
	s = strings.Trim(s, " .")
	for len(s) > 120 {
		_, n := utf8.DecodeLastRuneInString(s)
		s = s[:len(s)-n]
	}
	return strings.TrimRight(s, " .")
}

// stem is the label that a file's name stands for.
func stem(file string) string {
	base := path.Base(strings.ReplaceAll(file, `\`, "/"))
	return strings.TrimSuffix(base, path.Ext(base))
}

// uuid returns s in the form of Machine.UUID, or nothing.
func uuid(s string) string {
	s = strings.ToLower(strings.TrimSpace(s))
	if len(s) != 36 {
		return ""
	}
	for i, c := range []byte(s) {
		switch i {
		case 8, 13, 18, 23:
			if c != '-' {
				return ""
			}
		default:
			if !strings.ContainsRune("0123456789abcdef", rune(c)) {
				return ""
			}
		}
	}
	return s
}

// mac returns s in the form of NIC.MAC, or nothing.
func mac(s string) string {
	s = strings.ToLower(strings.ReplaceAll(strings.TrimSpace(s), "-", ":"))
	if len(s) != 17 {
		return ""
	}
	for i, c := range []byte(s) {
		if i%3 == 2 && c != ':' || i%3 != 2 && !strings.ContainsRune("0123456789abcdef", rune(c)) {
			return ""
		}
	}
	return s
}
