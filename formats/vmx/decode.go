package vmx

import (
	"fmt"
	"net/url"
	"slices"
	"strconv"
	"strings"

	"tarvm/formats/machine"
)

// How many of each there can be: what the newest versions of the virtual hardware take. Keys beyond are kept, and have
// no meaning.
const (
	maxControllers = 4 // of each bus
	maxSCSI        = 65
	maxSATA        = 30
	maxNVMe        = 64
	maxUSB         = 16
	maxNICs        = 10
	maxSerials     = 32
	maxParallels   = 4
	maxShares      = 1000
	maxPassthru    = 64
)

// An origin is where a part of a machine was said.
type origin struct {
	doc *document
	// head of the device's keys: scsi0:1, ethernet0. Empty: the machine.
	head string
}

// Form returns vmx.
func (*origin) Form() string { return form }

// A reader reads values, and keeps the first error.
type reader struct {
	doc *document
	err error
}

func (r *reader) fail(n int, key, format string, args ...any) {
	if r.err == nil {
		r.err = &machine.SyntaxError{Form: form, Line: n, What: key, Got: fmt.Sprintf(format, args...), Err: machine.ErrSyntax}
	}
}

func (r *reader) has(key string) bool {
	_, n := r.doc.get(key)
	return n > 0
}

func (r *reader) text(key string) string {
	s, _ := r.doc.get(key)
	return s
}

// word is text that has no cases.
func (r *reader) word(key string) string { return lower(strings.TrimSpace(r.text(key))) }

// flag reads the words that VMware takes. Any other one is not said: VMware complains and takes its default.
func (r *reader) flag(key string) machine.Switch {
	switch r.word(key) {
	case "true", "t", "yes", "y", "on", "1":
		return machine.On
	case "false", "f", "no", "n", "off", "0":
		return machine.Off
	}
	return machine.Unsaid
}

func (r *reader) on(key string) bool { return r.flag(key) == machine.On }

// number reads one from 0 to limit; nothing is 0. As in C, 0x and 0 begin other bases.
func (r *reader) number(key string, limit int64) int64 {
	s, n := r.doc.get(key)
	s = strings.TrimSpace(s)
	if s == "" {
		return 0
	}
	v, err := strconv.ParseInt(s, 0, 64)
	if err != nil || strings.Contains(s, "_") {
		r.fail(n, key, "%q is no number", s)
		return 0
	}
	if v < 0 || v > limit {
		r.fail(n, key, "%d is not between 0 and %d", v, limit)
		return 0
	}
	return v
}

// uuid reads "56 4d ad 58 06 29 d3 e6-ec fe 8f f8 39 c5 e3 5d".
func (r *reader) uuid(key string) string {
	s, n := r.doc.get(key)
	digits := strings.NewReplacer(" ", "", "-", "", "\t", "").Replace(lower(s))
	if digits == "" {
		return ""
	}
	if len(digits) != 32 || strings.Trim(digits, "0123456789abcdef") != "" {
		r.fail(n, key, "%q is no UUID", s)
		return ""
	}
	return dashed(digits)
}

func dashed(d string) string {
	return d[:8] + "-" + d[8:12] + "-" + d[12:16] + "-" + d[16:20] + "-" + d[20:]
}

func (r *reader) mac(key string) string {
	s, n := r.doc.get(key)
	m := strings.ReplaceAll(lower(strings.TrimSpace(s)), "-", ":")
	if m == "" {
		return ""
	}
	if !isMAC(m) {
		r.fail(n, key, "%q is no MAC address", s)
		return ""
	}
	return m
}

func isMAC(s string) bool {
	if len(s) != 17 {
		return false
	}
	for i := range len(s) {
		if i%3 == 2 {
			if s[i] != ':' {
				return false
			}
		} else if strings.IndexByte("0123456789abcdef", s[i]) < 0 {
			return false
		}
	}
	return true
}

// path reads the name of a file; Windows' separators become slashes.
func (r *reader) path(key string) string {
	s := r.text(key)
	drive := len(s) > 2 && s[1] == ':' && s[2] == '\\'
	if drive || strings.HasPrefix(s, `\\`) || strings.Contains(s, `\`) && !strings.Contains(s, "/") {
		s = strings.ReplaceAll(s, `\`, "/")
	}
	return s
}

// id parses a number of a device.
func id(s string, limit int) (int, bool) {
	n, err := strconv.Atoi(s)
	return n, err == nil && n >= 0 && n < limit && strconv.Itoa(n) == s
}

// numbered splits ethernet0.
func numbered(head, word string, limit int) (int, bool) {
	s, ok := strings.CutPrefix(head, word)
	if !ok {
		return 0, false
	}
	return id(s, limit)
}

// isDocument reports whether a file is a VMX: other files of VMware's have the same syntax.
func (r *reader) isDocument() bool {
	return r.has("config.version") || r.has("virtualHW.version")
}

// decode turns a document into a machine.
func decode(doc *document) (*machine.Machine, error) {
	r := &reader{doc: doc}
	if !r.isDocument() {
		if r.has("encryption.data") {
			return nil, &machine.SyntaxError{Form: form, What: "encryption.data", Got: "the configuration is encrypted", Err: machine.ErrUnsupported}
		}
		return nil, &machine.SyntaxError{Form: form, What: "config.version", Got: "absent, and virtualHW.version, too", Err: machine.ErrSyntax}
	}
	m := &machine.Machine{
		Name:         r.text("displayName"),
		Notes:        strings.ReplaceAll(r.text("annotation"), "\r\n", "\n"),
		UUID:         r.uuid("uuid.bios"),
		InstanceUUID: r.uuid("vc.uuid"),
		GenerationID: r.generation(),
		Platform:     "vmware",
		Origin:       &origin{doc: doc},
	}
	m.Guest, m.Arch = r.guest()
	if v := r.number("virtualHW.version", 999); v > 0 {
		m.Version = fmt.Sprintf("vmx-%02d", v)
	}
	r.firmware(m)
	r.processor(m)
	const mib = 1 << 20
	m.Memory.Bytes = r.number("memsize", 1<<42) * mib
	m.Memory.HotAdd = r.flag("mem.hotadd")
	m.Features.HPET = r.flag("hpet0.present")
	if s := strings.TrimSpace(r.text("rtc.diffFromUTC")); s == "0" {
		m.Clock = "utc"
	}
	r.drives(m)
	r.nics(m)
	r.boot(m)
	r.screen(m)
	r.ports(m)
	r.others(m)
	if r.err != nil {
		return nil, r.err
	}
	if err := m.Complete(); err != nil {
		return nil, &machine.SyntaxError{Form: form, Got: err.Error(), Err: machine.ErrSyntax}
	}
	return m, nil
}

// generation joins two signed numbers of 64 bits, the first one being the upper half of what the guest sees.
func (r *reader) generation() string {
	var d string
	for _, key := range []string{"vm.genid", "vm.genidX"} {
		s, n := r.doc.get(key)
		s = strings.TrimSpace(s)
		if s == "" {
			return ""
		}
		v, err := strconv.ParseInt(s, 10, 64)
		if err != nil {
			r.fail(n, key, "%q is no number of 64 bits", s)
			return ""
		}
		d += fmt.Sprintf("%016x", uint64(v))
	}
	return dashed(d)
}

func (r *reader) guest() (g machine.Guest, arch string) {
	g.Text = r.text("guestOSAltName")
	w := strings.TrimSpace(r.text("guestOS"))
	if w == "" {
		return g, ""
	}
	g.VMware = shortGuest(w)
	return g, guestArch(g.VMware)
}

// guestArch is what the machine's processor is by the guest's name.
func guestArch(w string) string {
	w = lower(w)
	switch {
	case strings.HasPrefix(w, "arm-"):
		return "aarch64"
	case strings.HasSuffix(w, "-64"), strings.HasPrefix(w, "vmkernel"):
		return "x86_64"
	}
	return "i686"
}

// shortGuest turns vSphere's names of guests (VirtualMachineGuestOsIdentifier) into those of a VMX: debian12_64Guest
// into debian12-64, windows9Server64Guest into windows9srv-64, otherGuest64 into other-64.
func shortGuest(w string) string {
	name, ok := strings.CutSuffix(w, "Guest")
	if w == "otherGuest64" {
		name, ok = "other64", true
	}
	if !ok || name == "" {
		return w
	}
	name = strings.ToLower(name)
	if b, ok := strings.CutPrefix(name, "vmwarephoton"); ok {
		name = "vmware-photon" + b
	}
	bits := ""
	if b, ok := strings.CutSuffix(name, "64"); ok {
		name, bits = strings.TrimRight(b, "_-"), "-64"
	}
	switch {
	case name == "winlonghorn":
		name = "longhorn"
	case name == "windowshyperv":
		name = "winhyperv"
	case strings.HasPrefix(name, "windows"):
		name = strings.Replace(name, "server", "srv", 1)
	}
	return name + bits
}

func (r *reader) firmware(m *machine.Machine) {
	switch s, n := r.doc.get("firmware"); lower(strings.TrimSpace(s)) {
	case "efi":
		m.Firmware.Type = "efi"
	case "bios":
		m.Firmware.Type = "bios"
	case "":
	default:
		r.fail(n, "firmware", "%q is neither bios nor efi", s)
	}
	m.Firmware.SecureBoot = r.flag("uefi.secureBoot.enabled")
	m.Firmware.Vars.Path = r.path("nvram")
	if r.on("vtpm.present") || r.word("managedvm.autoAddVTPM") == "software" {
		m.TPM = &machine.TPM{Version: "2.0", Origin: &origin{r.doc, "vtpm"}}
	}
}

func (r *reader) processor(m *machine.Machine) {
	const limit = 1 << 16
	m.CPU.Count = int(r.number("numvcpus", limit))
	m.CPU.Cores = int(r.number("cpuid.coresPerSocket", limit))
	if c := m.CPU.Cores; c > 0 && m.CPU.Count > 0 && m.CPU.Count%c == 0 {
		m.CPU.Sockets = m.CPU.Count / c
	}
	m.CPU.HotAdd = r.flag("vcpu.hotadd")
	m.CPU.Nested = r.flag("vhv.enable")
}

// A usbKind is a USB controller: its head, and the model.
type usbKind struct{ head, model string }

var usbKinds = [...]usbKind{{"usb", "uhci"}, {"ehci", "ehci"}, {"usb_xhci", "xhci"}}

// drives reads the controllers and what is attached to them: SCSI, SATA, NVMe, IDE, floppies, USB.
func (r *reader) drives(m *machine.Machine) {
	for _, b := range []struct {
		bus   machine.Bus
		units int
	}{{machine.SCSI, maxSCSI}, {machine.SATA, maxSATA}, {machine.NVMe, maxNVMe}} {
		for i := range maxControllers {
			h := fmt.Sprintf("%s%d", b.bus, i)
			if !r.on(h + ".present") {
				continue
			}
			c := machine.Controller{Bus: b.bus, Index: i, Origin: &origin{r.doc, h}}
			switch b.bus {
			case machine.SCSI:
				if c.Model = r.word(h + ".virtualDev"); c.Model == "pvscsi" {
					c.Model = "vmpvscsi"
				}
			case machine.SATA:
				c.Model = "ahci"
			}
			m.Controllers = append(m.Controllers, c)
			shared := b.bus == machine.SCSI && (r.word(h+".sharedBus") == "virtual" || r.word(h+".sharedBus") == "physical")
			for u := range b.units {
				if b.bus == machine.SCSI && u == 7 { // the controller's own
					continue
				}
				if d, ok := r.drive(fmt.Sprintf("%s:%d", h, u), machine.Address{Bus: b.bus, Index: i, Unit: u}); ok {
					if shared {
						d.Shared = machine.On
					}
					m.Drives = append(m.Drives, d)
				}
			}
		}
	}
	for u := range 4 {
		if d, ok := r.drive(fmt.Sprintf("ide%d:%d", u/2, u%2), machine.Address{Bus: machine.IDE, Unit: u}); ok {
			m.Drives = append(m.Drives, d)
		}
	}
	for u := range 2 {
		if d, ok := r.floppy(u); ok {
			m.Drives = append(m.Drives, d)
		}
	}
	n := 0
	for _, k := range usbKinds {
		if !r.on(k.head + ".present") {
			continue
		}
		m.Controllers = append(m.Controllers, machine.Controller{Bus: machine.USB, Index: n, Model: k.model, Origin: &origin{r.doc, k.head}})
		for u := range maxUSB {
			h := fmt.Sprintf("%s:%d", k.head, u)
			if r.word(h+".deviceType") != "disk" {
				continue
			}
			if d, ok := r.drive(h, machine.Address{Bus: machine.USB, Index: n, Unit: u}); ok {
				m.Drives = append(m.Drives, d)
			}
		}
		n++
	}
}

// empty is what vSphere writes for a drive without a medium.
const empty = "emptyBackingString"

func (r *reader) drive(h string, at machine.Address) (d machine.Drive, ok bool) {
	if !r.on(h + ".present") {
		return d, false
	}
	d = machine.Drive{At: at, Kind: machine.Disk, Connected: r.flag(h + ".startConnected"), Origin: &origin{r.doc, h}}
	file, host := r.path(h+".fileName"), ""
	kind := r.word(h + ".deviceType")
	switch kind {
	case "cdrom-image":
		d.Kind = machine.Optical
	case "cdrom-raw", "atapi-cdrom":
		d.Kind = machine.Optical
		host, file = r.text(h+".fileName"), ""
		switch {
		case kind == "atapi-cdrom" && host == "":
		case lower(host) == "auto detect", host == "", r.on(h + ".autodetect"):
			host = "auto"
		case strings.HasSuffix(lower(host), ".iso"):
			file, host = r.path(h+".fileName"), ""
		}
	case "scsi-passthru":
		d.Kind = machine.LUN
		host, file = r.text(h+".fileName"), ""
	case "rawdisk":
		if strings.HasPrefix(file, "/dev/") || strings.HasPrefix(file, "//./") {
			host, file = r.text(h+".fileName"), ""
		}
	case "": // libvirt goes by the name, too
		if strings.HasSuffix(lower(file), ".iso") {
			d.Kind = machine.Optical
		}
	}
	if file == empty || host == empty || r.on(h+".clientDevice") && d.Kind == machine.Optical {
		// The medium of a client device is that of the console's user, and named by nobody.
		file, host = "", ""
	}
	d.Media = machine.Media{Path: file, Host: host}
	switch r.word(h + ".mode") {
	case "persistent":
		d.Independent, d.Transient = machine.Off, machine.Off
	case "nonpersistent":
		d.Independent, d.Transient = machine.Off, machine.On
	case "independent-persistent":
		d.Independent, d.Transient = machine.On, machine.Off
	case "independent-nonpersistent":
		d.Independent, d.Transient = machine.On, machine.On
	}
	if r.on(h + ".writeThrough") {
		d.Cache = "writethrough"
	}
	d.SSD = r.flag(h + ".virtualSSD")
	d.ReadOnly = r.flag(h + ".readonly")
	switch r.word(h + ".sharing") {
	case "multi-writer":
		d.Shared = machine.On
	case "none":
		d.Shared = machine.Off
	}
	return d, true
}

// floppy reads a drive for diskettes. The first one is there unless something else is said, which is believed where
// anything is said of it.
func (r *reader) floppy(u int) (d machine.Drive, ok bool) {
	h := fmt.Sprintf("floppy%d", u)
	if _, said := r.doc.heads[h]; !said || r.flag(h+".present") == machine.Off || u > 0 && !r.on(h+".present") {
		return d, false
	}
	d = machine.Drive{
		At: machine.Address{Bus: machine.Floppy, Unit: u}, Kind: machine.Diskette,
		Connected: r.flag(h + ".startConnected"), ReadOnly: r.flag(h + ".readonly"), Origin: &origin{r.doc, h},
	}
	name := r.text(h + ".fileName")
	switch {
	case r.on(h + ".clientDevice"), name == empty:
	case r.on(h + ".autodetect"), lower(name) == "auto detect":
		d.Media.Host = "auto"
	case r.word(h+".fileType") == "device", r.word(h+".fileType") == "" && strings.HasPrefix(name, "/dev/"):
		d.Media.Host = name
	default:
		d.Media.Path = r.path(h + ".fileName")
	}
	return d, true
}

func (r *reader) nics(m *machine.Machine) {
	for i := range maxNICs {
		h := fmt.Sprintf("ethernet%d", i)
		if !r.on(h + ".present") {
			continue
		}
		n := machine.NIC{Slot: i, Connected: r.flag(h + ".startConnected"), Origin: &origin{r.doc, h}}
		switch n.Model = r.word(h + ".virtualDev"); n.Model {
		case "vlance":
			n.Model = "pcnet"
		case "vmxnet":
			if r.word(h+".features") == "15" {
				n.Model = "vmxnet2"
			}
		}
		if r.word(h+".addressType") == "static" {
			n.MAC = r.mac(h + ".address")
		} else if n.MAC = r.mac(h + ".generatedAddress"); n.MAC != "" {
			n.Generated = true
		}
		r.network(&n, h)
		m.NICs = append(m.NICs, n)
	}
}

// network reads what an adapter is attached to. vSphere says a name, or the identifiers of a distributed or an opaque
// switch; the hosted products a type.
func (r *reader) network(n *machine.NIC, h string) {
	name := r.text(h + ".networkName")
	for _, key := range []string{".dvs.portgroupId", ".opaqueNetwork.id"} {
		if name == "" {
			name = r.text(h + key)
		}
	}
	vnet := r.text(h + ".vnet")
	switch r.word(h + ".connectionType") {
	case "":
		if name != "" {
			n.Kind, n.Network = machine.Named, name
		}
	case "bridged":
		if n.Kind, n.Network = machine.Bridged, vnet; name != "" {
			n.Kind, n.Network = machine.Named, name
		}
	case "nat":
		n.Kind = machine.NAT
	case "hostonly":
		n.Kind = machine.HostOnly
	case "pvn":
		n.Kind, n.Network = machine.Internal, r.text(h+".pvnID")
	case "none":
		n.Kind = machine.NoNet
	default: // custom
		if vnet == "" {
			vnet = name
		}
		if vnet != "" {
			n.Kind, n.Network = machine.Named, vnet
		}
	}
}

// boot reads the order of devices. One that names single disks first gives these places of their own.
func (r *reader) boot(m *machine.Machine) {
	words := strings.FieldsFunc(r.word("bios.bootOrder"), func(c rune) bool { return c == ',' || c == ' ' })
	if len(words) == 0 {
		classes, _ := strings.CutPrefix(r.word("bios.bootDeviceClasses"), "allow:")
		words = strings.FieldsFunc(classes, func(c rune) bool { return c == ',' || c == ' ' })
	}
	for _, w := range words {
		kind := ""
		switch w {
		case "hdd", "hd", "disk":
			kind = "disk"
		case "cdrom", "cd":
			kind = "cdrom"
		case "floppy", "fd":
			kind = "floppy"
		case "net", "ethernet", "network":
			kind = "network"
		default:
			if _, ok := numbered(w, "ethernet", maxNICs); ok {
				kind = "network"
			}
		}
		if kind != "" && !slices.Contains(m.Boot, kind) {
			m.Boot = append(m.Boot, kind)
		}
	}
	if len(m.Boot) > 0 && m.Boot[0] != "disk" {
		return // a place of its own would put the disk before the others
	}
	place := 0
	for _, w := range strings.FieldsFunc(r.word("bios.hddOrder"), func(c rune) bool { return c == ',' || c == ' ' }) {
		for i := range m.Drives {
			if d := &m.Drives[i]; d.Boot == 0 && d.Kind == machine.Disk && headOf(d) == w {
				place++
				d.Boot = place
			}
		}
	}
}

func headOf(d *machine.Drive) string {
	if o, ok := d.Origin.(*origin); ok {
		return o.head
	}
	return ""
}

func (r *reader) screen(m *machine.Machine) {
	if _, said := r.doc.heads["svga"]; said {
		v := machine.Video{
			Model: "vmvga", Memory: r.number("svga.vramSize", 1<<40), Heads: int(r.number("svga.numDisplays", 1000)),
			Accel3D: r.flag("mks.enable3d"), Origin: &origin{r.doc, "svga"},
		}
		if r.flag("svga.present") == machine.Off {
			v.Model = "none"
		}
		m.Videos = append(m.Videos, v)
	}
	if r.on("RemoteDisplay.vnc.enabled") {
		m.Displays = append(m.Displays, machine.Display{
			Kind: "vnc", Port: int(r.number("RemoteDisplay.vnc.port", 65535)), Listen: r.text("RemoteDisplay.vnc.ip"),
			Origin: &origin{r.doc, "remotedisplay"},
		})
	}
	if r.on("sound.present") {
		s := machine.Sound{Model: r.word("sound.virtualDev"), Origin: &origin{r.doc, "sound"}}
		if s.Model == "hdaudio" {
			s.Model = "hda"
		}
		m.Sounds = append(m.Sounds, s)
	}
}

func (r *reader) ports(m *machine.Machine) {
	for i := range maxSerials {
		if p, ok := r.port("serial", i); ok {
			m.Serials = append(m.Serials, p)
		}
	}
	for i := range maxParallels {
		if p, ok := r.port("parallel", i); ok {
			m.Parallels = append(m.Parallels, p)
		}
	}
}

func (r *reader) port(word string, slot int) (p machine.Port, ok bool) {
	h := fmt.Sprintf("%s%d", word, slot)
	if !r.on(h + ".present") {
		return p, false
	}
	p = machine.Port{Slot: slot, Origin: &origin{r.doc, h}}
	name := r.text(h + ".fileName")
	server := func(key string) machine.Switch {
		switch r.word(key) {
		case "server":
			return machine.On
		case "client":
			return machine.Off
		}
		return machine.Unsaid
	}
	switch r.word(h + ".fileType") {
	case "file":
		p.Kind, p.Path = "file", r.path(h+".fileName")
	case "device", "":
		if p.Kind, p.Path = "device", name; lower(name) == "auto detect" || r.on(h+".autodetect") {
			p.Path = ""
		}
		if !r.has(h+".fileType") && name == "" {
			p.Kind = ""
		}
	case "pipe":
		p.Kind, p.Path, p.Server = "pipe", name, server(h+".pipe.endPoint")
	case "network":
		p.Kind, p.Server = "tcp", server(h+".network.endPoint")
		// Behind a name without brackets, a colon and no number are taken for a part of the name.
		if u, err := url.Parse(name); err == nil && u.Host != "" && (u.Host[0] == '[' || !strings.Contains(u.Hostname(), ":")) {
			p.Host, p.Service = u.Hostname(), u.Port()
			p.Telnet = machine.Is(strings.HasPrefix(lower(u.Scheme), "telnet"))
		}
	}
	return p, true
}

// suspended names the file with the memory of a machine that is suspended.
const suspended = "checkpoint.vmState"

func (r *reader) others(m *machine.Machine) {
	for i := range maxShares {
		h := fmt.Sprintf("sharedFolder%d", i)
		if !r.on(h+".present") || !r.on(h+".enabled") {
			continue
		}
		s := machine.Share{Name: r.text(h + ".guestName"), Path: r.text(h + ".hostPath"), Origin: &origin{r.doc, lower(h)}}
		switch r.flag(h + ".writeAccess") {
		case machine.On:
			s.ReadOnly = machine.Off
		case machine.Off:
			s.ReadOnly = machine.On
		}
		m.Shares = append(m.Shares, s)
	}
	if s := r.text(suspended); s != "" {
		m.Others = append(m.Others, machine.Other{Kind: "saved-state", Name: s, Origin: &origin{r.doc, lower(suspended)}})
	}
	for i := range maxPassthru {
		h := fmt.Sprintf("pciPassthru%d", i)
		if r.on(h + ".present") {
			m.Others = append(m.Others, machine.Other{Kind: "hostdev", Name: h, Origin: &origin{r.doc, lower(h)}})
		}
	}
}
