package xl

import (
	"fmt"
	"slices"
	"strconv"
	"strings"

	"tarvm/formats/machine"
)

// A reader has the settings that count.
type reader struct {
	m    *machine.Machine
	vals map[string]value
	err  error
	of   *source
}

// effective returns what each name stands for in the end. Strings and lists are appended to by +=, as libxlutil does.
func effective(settings []setting) (map[string]value, error) {
	vals := map[string]value{}
	for _, s := range settings {
		old, ok := vals[s.name]
		switch {
		case !s.add || !ok:
			vals[s.name] = s.val
		case old.isLst != s.val.isLst:
			return nil, fault(s.line, machine.ErrSyntax, s.name, "a list and a string are added")
		case old.isLst:
			v := old
			v.list = append(slices.Clip(old.list), s.val.list...)
			vals[s.name] = v
		default:
			v := old
			if v.text += s.val.text; len(v.text) > machine.MaxConfig {
				return nil, fault(s.line, machine.ErrUnsupported, s.name, "it is too long")
			}
			vals[s.name] = v
		}
	}
	return vals, nil
}

// Decode reads a configuration. Settings that the model has no word for are not looked at, but for their syntax.
func (Form) Decode(b []byte) (*machine.Machine, error) {
	settings, err := parse(b)
	if err != nil {
		return nil, err
	}
	vals, err := effective(settings)
	if err != nil {
		return nil, err
	}
	if len(vals) == 0 {
		return nil, fault(0, machine.ErrSyntax, "", "no settings")
	}
	r := &reader{m: &machine.Machine{Platform: "xen"}, vals: vals, of: new(source)}
	r.general()
	r.platform()
	r.kernel()
	r.drives()
	r.nics()
	r.graphics()
	r.ports()
	r.usb()
	r.others()
	if r.err == nil {
		if err := r.m.Complete(); err != nil {
			r.err = fault(0, machine.ErrSyntax, "disk", "%s", strings.TrimSuffix(err.Error(), ": "+machine.ErrSyntax.Error()))
		}
	}
	if r.err != nil {
		return nil, r.err
	}
	_, builder := vals["builder"]
	o := &origin{text: slices.Clone(b), settings: settings, of: r.of, builder: builder && vals["type"].text == ""}
	o.was = r.m.Clone()
	r.m.Origin = o
	return r.m, nil
}

func (r *reader) fail(v value, what, format string, args ...any) {
	if r.err == nil {
		r.err = fault(v.line, machine.ErrSyntax, what, format, args...)
	}
}

// str returns a string. xl ignores lists where it wants a string, and says so.
func (r *reader) str(name string) string {
	v := r.vals[name]
	if v.isLst {
		return ""
	}
	return v.text
}

// number returns an integer as strtol reads it, with base 0. ok: it is there.
func (r *reader) number(name string, most int64) (n int64, ok bool) {
	v, ok := r.vals[name]
	if !ok || v.isLst {
		return 0, false
	}
	s := strings.TrimSpace(v.text)
	n, err := strconv.ParseInt(s, 0, 64)
	if err != nil || n < 0 || strings.ContainsAny(s, "_oObB") && !strings.HasPrefix(strings.ToLower(s), "0x") {
		r.fail(v, name, "%q is no number", v.text)
		return 0, false
	}
	if n > most {
		r.fail(v, name, "%s, at most %d", v.text, most)
		return 0, false
	}
	return n, true
}

// flag returns a BOOLEAN: any number.
func (r *reader) flag(name string) machine.Switch {
	n, ok := r.number(name, 1<<62)
	if !ok {
		return machine.Unsaid
	}
	return machine.Is(n != 0)
}

// items returns the strings of a list, or the one string. Lists within it are left out, because nothing that is read so
// has any.
func (r *reader) items(name string) []value {
	v, ok := r.vals[name]
	if !ok {
		return nil
	}
	if !v.isLst {
		return []value{v}
	}
	var list []value
	for _, w := range v.list {
		if !w.isLst {
			list = append(list, w)
		}
	}
	return list
}

func (r *reader) general() {
	m := r.m
	m.Name = r.str("name")
	if s := r.str("uuid"); s != "" {
		u, ok := uuid(s)
		if !ok {
			r.fail(r.vals["uuid"], "uuid", "%q is none", s)
		}
		m.UUID = u
	}
	switch t := r.str("type"); t {
	case "hvm", "pv", "pvh":
		m.Virtualization = t
	case "":
		switch b := r.str("builder"); b {
		case "hvm", "pvh":
			m.Virtualization = b
		case "generic", "linux":
			m.Virtualization = "pv"
		case "":
			m.Virtualization = "pv" // which is what xl takes
		default:
			r.fail(r.vals["builder"], "builder", "%q", b)
		}
		if r.flag("pvh") == machine.On {
			m.Virtualization = "pvh"
		}
	default:
		r.fail(r.vals["type"], "type", "%q", t)
	}
	const mib, most = 1 << 20, 1 << 40
	n, _ := r.number("memory", most)
	m.Memory.Bytes = n * mib
	n, _ = r.number("maxmem", most)
	m.Memory.Max = n * mib
	n, _ = r.number("vcpus", 1<<16)
	m.CPU.Count = int(n)
	n, _ = r.number("maxvcpus", 1<<16)
	m.CPU.Max = int(n)
	switch r.flag("localtime") {
	case machine.On:
		m.Clock = "localtime"
	case machine.Off:
		m.Clock = "utc"
	}
	for _, c := range strings.TrimPrefix(r.str("boot"), "order=") {
		if k := bootKinds[c]; k != "" && !slices.Contains(m.Boot, k) {
			m.Boot = append(m.Boot, k)
		}
	}
}

var bootKinds = map[rune]string{'a': "floppy", 'c': "disk", 'd': "cdrom", 'n': "network"}

// uuid brings an identifier into the model's form. libxl takes it with hyphens or without.
func uuid(s string) (string, bool) {
	h := strings.ToLower(strings.ReplaceAll(s, "-", ""))
	if len(h) != 32 || strings.Trim(h, "0123456789abcdef") != "" {
		return "", false
	}
	return h[:8] + "-" + h[8:12] + "-" + h[12:16] + "-" + h[16:20] + "-" + h[20:], true
}

func (r *reader) platform() {
	m := r.m
	m.Features.ACPI, m.Features.APIC = r.flag("acpi"), r.flag("apic")
	m.Features.PAE, m.Features.HPET = r.flag("pae"), r.flag("hpet")
	m.CPU.Nested = r.flag("nestedhvm")
	for _, k := range []string{"firmware", "bios"} { // bios= counts
		switch s := r.str(k); s {
		case "ovmf", "uefi":
			m.Firmware.Type = "efi"
		case "seabios", "rombios", "bios":
			m.Firmware.Type = "bios"
		case "", "pvgrub32", "pvgrub64":
		default:
			if k == "firmware" && strings.Contains(s, "/") {
				m.Firmware.Loader = s
			}
		}
	}
	for _, k := range []string{"bios_path_override", "firmware_override"} {
		if s := r.str(k); s != "" && !strings.Contains(s, "hvmloader") {
			m.Firmware.Loader = s
		}
	}
	if v := r.vals["vtpm"]; v.isLst && len(v.list) > 0 {
		m.TPM = &machine.TPM{Backend: "external", Origin: &item{of: r.of, name: "vtpm"}}
	}
}

// kernel reads what is booted directly. cmdline= counts before root= and extra=. The kernel of a guest of type hvm was
// hvmloader once, which is the firmware.
func (r *reader) kernel() {
	k := machine.Kernel{Path: r.str("kernel"), Initrd: r.str("ramdisk"), Args: r.str("cmdline")}
	if strings.HasSuffix(k.Path, "/hvmloader") || k.Path == "hvmloader" {
		k.Path = ""
	}
	if k.Args == "" {
		var args []string
		if s := r.str("root"); s != "" {
			args = append(args, "root="+s)
		}
		if s := r.str("extra"); s != "" {
			args = append(args, s)
		}
		k.Args = strings.Join(args, " ")
	}
	if k != (machine.Kernel{}) {
		r.m.Kernel = &k
	}
}

func (r *reader) drives() {
	v, ok := r.vals["disk"]
	if !ok || !v.isLst {
		return
	}
	type todo struct {
		at int
		it *item
	}
	var parts []todo
	seen := map[place]bool{}
	ahci := r.str("hdtype") == "ahci"
	for i, w := range v.list {
		if w.isLst {
			r.fail(w, "disk", "a list in the list")
			return
		}
		d, err := parseDisk(w.text)
		if err != nil {
			r.fail(w, "disk", "%q: %s", w.text, strings.TrimSuffix(err.Error(), ": "+machine.ErrSyntax.Error()))
			return
		}
		p, err := vdevPlace(d.vdev)
		if err != nil || seen[p] {
			r.fail(w, "disk", "%q: no name of a device, or it is there twice", d.vdev)
			return
		}
		seen[p] = true
		if d.virtio {
			p.bus = machine.Virtio
		}
		it := &item{of: r.of, name: "disk", index: i, disk: d}
		drive := machine.Drive{Kind: machine.Disk, At: machine.Address{Bus: p.bus, Unit: p.disk}, Discard: d.discard, Origin: it}
		if p.bus == machine.SCSI && p.disk >= 7 {
			drive.At.Unit++ // 7 is the controller's own
		}
		if p.bus == machine.IDE && ahci {
			drive.At.Bus = machine.SATA
		}
		if d.cdrom {
			drive.Kind = machine.Optical
		}
		switch d.access {
		case "r", "ro", "r!":
			drive.ReadOnly = machine.On
		case "w", "rw", "w!":
			drive.ReadOnly = machine.Off
		}
		if strings.HasSuffix(d.access, "!") {
			drive.Shared = machine.On
		}
		drive.Media = d.media()
		r.m.Drives = append(r.m.Drives, drive)
		if p.part != 0 {
			parts = append(parts, todo{len(r.m.Drives) - 1, it})
		}
	}
	// A device that is a partition to the guest is a disk here, at the first unit that no other has.
	for _, t := range parts {
		r.m.Drives[t.at].At.Unit = -1 - t.at
	}
	free := map[machine.Bus]int{}
	at := map[machine.Address]bool{}
	for _, d := range r.m.Drives {
		at[d.At] = true
	}
	for _, t := range parts {
		d := &r.m.Drives[t.at]
		a := machine.Address{Bus: d.At.Bus, Unit: free[d.At.Bus]}
		for at[a] || a.Bus == machine.SCSI && a.Unit == 7 {
			a.Unit++
		}
		free[a.Bus] = a.Unit + 1
		d.At = a
		r.m.Others = append(r.m.Others, machine.Other{Kind: "partition", Name: t.it.disk.vdev, Origin: t.it})
	}
	if ahci && slices.ContainsFunc(r.m.Drives, func(d machine.Drive) bool { return d.At.Bus == machine.SATA }) {
		r.m.Controllers = append(r.m.Controllers, machine.Controller{Bus: machine.SATA, Model: "ahci"})
	}
}

// media says where the content of a disk is.
func (d *disk) media() machine.Media {
	var m machine.Media
	switch d.format {
	case "vhd":
		m.Format = "vpc"
	case "empty":
		return m
	default:
		m.Format = d.format
	}
	switch t := d.target; {
	case t == "":
		return machine.Media{}
	case d.script != "":
		m.URL = d.script + ":" + t
	case strings.HasPrefix(t, "/dev/"):
		m.Host = t
	case (d.phy || d.backend == "phy") && !strings.HasPrefix(t, "/"):
		m.Host = "/dev/" + t
	case scheme(t):
		m.URL = t
	default:
		m.Path = t
	}
	return m
}

// scheme reports whether s begins as one of the addresses that QEMU takes.
func scheme(s string) bool {
	k, _, ok := strings.Cut(s, ":")
	if !ok {
		return false
	}
	switch k, _, _ = strings.Cut(k, "+"); k {
	case "rbd", "nbd", "iscsi", "http", "https", "ftp", "ftps", "ssh", "gluster", "nfs", "sheepdog", "block-iscsi", "block-nbd",
		"block-drbd":
		return true
	}
	return false
}

// pairs splits an item of the form key=value,key=value.
func pairs(s string) [][2]string {
	var list [][2]string
	for p := range strings.SplitSeq(s, ",") {
		k, v, _ := strings.Cut(strings.TrimSpace(p), "=")
		if p = strings.TrimSpace(p); p != "" {
			list = append(list, [2]string{strings.TrimSpace(k), v})
		}
	}
	return list
}

// nicModels are xl's words, which are names of QEMU's devices, for the model's.
var nicModels = map[string]string{"virtio-net": "virtio", "virtio-net-pci": "virtio", "virtio-pci": "virtio"}

func (r *reader) nics() {
	v := r.vals["vif"]
	if !v.isLst {
		return
	}
	for i, w := range v.list {
		if w.isLst {
			r.fail(w, "vif", "a list in the list")
			return
		}
		n := machine.NIC{Slot: i}
		it := &item{of: r.of, name: "vif", index: i}
		kind := ""
		for _, p := range pairs(w.text) {
			k, val := p[0], p[1]
			switch k {
			case "mac":
				mac, ok := macAddress(val)
				if !ok && val != "" {
					r.fail(w, "vif", "mac %q", val)
				}
				n.MAC = mac
			case "bridge":
				if n.Network = val; val != "" {
					n.Kind = machine.Bridged
				}
			case "model":
				n.Model = val
				if s := nicModels[val]; s != "" {
					n.Model = s
				}
			case "type":
				kind = val
				if val != "vif" && val != "netfront" {
					it.keys = append(it.keys, strings.Join(p[:], "="))
				}
			case "script":
				if val == "vif-nat" {
					n.Kind, n.Network = machine.NAT, ""
				} else {
					it.keys = append(it.keys, strings.Join(p[:], "="))
				}
			default:
				it.keys = append(it.keys, strings.Join(p[:], "="))
			}
		}
		if n.Kind == machine.NAT {
			n.Network = ""
		}
		if kind == "vif" || kind == "netfront" {
			n.Model = "netfront"
		}
		n.Origin = it
		r.m.NICs = append(r.m.NICs, n)
	}
}

// macAddress brings an address into the model's form.
func macAddress(s string) (string, bool) {
	s = strings.ToLower(strings.TrimSpace(s))
	part := strings.Split(s, ":")
	if len(part) != 6 {
		return "", false
	}
	for i, p := range part {
		n, err := strconv.ParseUint(p, 16, 8)
		if err != nil || len(p) > 2 {
			return "", false
		}
		part[i] = fmt.Sprintf("%02x", n)
	}
	return strings.Join(part, ":"), true
}

func (r *reader) graphics() {
	m := r.m
	var v machine.Video
	if s := r.str("vga"); s != "" {
		if v.Model = s; s == "stdvga" || s == "std" {
			v.Model = "vga"
		}
	} else if s := r.flag("stdvga"); s != machine.Unsaid {
		v.Model = map[machine.Switch]string{machine.On: "vga", machine.Off: "cirrus"}[s]
	}
	if r.flag("nographic") == machine.On {
		v.Model = "none"
	}
	n, _ := r.number("videoram", 1<<20)
	v.Memory = n << 20
	if v != (machine.Video{}) {
		m.Videos = append(m.Videos, v)
	}
	get := func(name string) string { return r.str(name) }
	num := func(name string, most int64) int64 { n, _ := r.number(name, most); return n }
	r.display(get, num, r.flag("vnc") == machine.On, r.flag("sdl") == machine.On)
	if r.flag("spice") == machine.On {
		m.Displays = append(m.Displays, machine.Display{Kind: "spice", Port: int(num("spiceport", 65535)), Listen: get("spicehost")})
	}
	for _, w := range r.items("vfb") {
		keys := map[string]string{}
		for _, p := range pairs(w.text) {
			keys[p[0]] = p[1]
		}
		vget := func(name string) string { return keys[name] }
		vnum := func(name string, most int64) int64 {
			n, err := strconv.ParseInt(keys[name], 0, 64)
			if keys[name] != "" && (err != nil || n < 0 || n > most) {
				r.fail(w, "vfb", "%s %q", name, keys[name])
			}
			return n
		}
		r.display(vget, vnum, vnum("vnc", 1<<30) != 0 || keys["type"] == "vnc", vnum("sdl", 1<<30) != 0 || keys["type"] == "sdl")
	}
	if s := r.str("soundhw"); s != "" {
		for model := range strings.SplitSeq(s, ",") {
			if model = strings.TrimSpace(model); model != "" {
				m.Sounds = append(m.Sounds, machine.Sound{Model: model})
			}
		}
	}
}

// display reads VNC and SDL, which are settings of a guest of type hvm and parameters of vfb for others. The number of
// VNC's screen is its port less 5900.
func (r *reader) display(get func(string) string, num func(string, int64) int64, vnc, sdl bool) {
	if vnc {
		d := machine.Display{Kind: "vnc", Listen: get("vnclisten")}
		if n := num("vncdisplay", 65535-5900); get("vncdisplay") != "" {
			d.Port = 5900 + int(n)
		}
		if host, no, ok := cutLast(d.Listen); ok && !strings.HasSuffix(host, ":") {
			if n, err := strconv.ParseUint(no, 10, 16); err == nil && n <= 65535-5900 {
				d.Listen, d.Port = host, 5900+int(n)
			}
		}
		r.m.Displays = append(r.m.Displays, d)
	}
	if sdl {
		r.m.Displays = append(r.m.Displays, machine.Display{Kind: "sdl"})
	}
}

func (r *reader) ports() {
	for _, p := range []struct {
		name string
		list *[]machine.Port
	}{{"serial", &r.m.Serials}, {"parallel", &r.m.Parallels}} {
		for i, v := range r.items(p.name) {
			if v.text == "none" || v.text == "" {
				continue
			}
			port := parsePort(v.text)
			port.Slot = i
			*p.list = append(*p.list, port)
		}
	}
}

// parsePort reads what QEMU's option -serial takes: qemu(1). What is not known keeps its word as the kind.
func parsePort(s string) machine.Port {
	kind, rest, _ := strings.Cut(s, ":")
	var p machine.Port
	options := func(s string) string {
		head, opts, _ := strings.Cut(s, ",")
		for o := range strings.SplitSeq(opts, ",") {
			switch o {
			case "server", "server=on":
				p.Server = machine.On
			case "telnet", "telnet=on":
				p.Telnet = machine.On
			}
		}
		return head
	}
	switch {
	case strings.HasPrefix(s, "/"):
		p.Kind, p.Path = "device", s
	case kind == "file" || kind == "pipe":
		p.Kind, p.Path = kind, rest
	case kind == "unix":
		p.Kind = kind
		p.Path = options(rest)
	case kind == "tcp" || kind == "telnet":
		p.Kind = "tcp"
		if kind == "telnet" {
			p.Telnet = machine.On
		}
		p.Host, p.Service, _ = cutLast(options(rest))
	case kind == "udp":
		p.Kind = kind
		to, _, _ := strings.Cut(rest, "@")
		p.Host, p.Service, _ = cutLast(to)
	case s == "pty" || s == "stdio" || s == "null":
		p.Kind = s
	case kind == "vc":
		p.Kind = "vc"
	default:
		p.Kind = s
	}
	return p
}

// usbModels are the controllers for usbversion=.
var usbModels = []string{"", "uhci", "ehci", "xhci"}

func (r *reader) usb() {
	m := r.m
	n, _ := r.number("usbversion", 3)
	switch {
	case n > 0:
		m.Controllers = append(m.Controllers, machine.Controller{Bus: machine.USB, Model: usbModels[n]})
	case r.flag("usb") == machine.On:
		m.Controllers = append(m.Controllers, machine.Controller{Bus: machine.USB})
	}
	index := 0
	if m.Controller(machine.USB, 0) != nil {
		index = 1
	}
	for _, v := range r.items("usbctrl") {
		c := machine.Controller{Bus: machine.USB, Index: index}
		for _, p := range pairs(v.text) {
			n, err := strconv.ParseUint(p[1], 10, 8)
			switch {
			case p[0] == "version" && err == nil && n < 4:
				c.Model = usbModels[n]
			case p[0] == "ports" && err == nil:
				c.Ports = int(n)
			}
		}
		m.Controllers = append(m.Controllers, c)
		index++
	}
	for _, v := range r.items("usbdevice") {
		switch v.text {
		case "tablet", "mouse", "keyboard":
			m.Inputs = append(m.Inputs, machine.Input{Kind: v.text, Bus: "usb"})
		case "":
		default:
			m.Others = append(m.Others, machine.Other{Kind: "usbdevice", Name: v.text, Origin: &item{of: r.of, name: "usbdevice"}})
		}
	}
}

// others reads what the model names only. The kinds of those that have no other word are the names of the settings.
func (r *reader) others() {
	for _, v := range r.items("p9") {
		var s machine.Share
		for _, p := range pairs(v.text) {
			switch p[0] {
			case "tag":
				s.Name = p[1]
			case "path":
				s.Path = p[1]
			}
		}
		r.m.Shares = append(r.m.Shares, s)
	}
	for _, k := range []string{"pci", "usbdev", "channel", "pvcalls", "vscsi", "vkb", "vdispl", "vsnd", "virtio", "ioports", "irqs",
		"iomem", "dtdev"} {
		kind := k
		if k == "pci" || k == "usbdev" || k == "vscsi" {
			kind = "hostdev"
		}
		if v := r.vals[k]; !v.isLst {
			continue
		}
		for _, v := range r.items(k) {
			r.m.Others = append(r.m.Others, machine.Other{Kind: kind, Name: v.text, Origin: &item{of: r.of, name: k}})
		}
	}
}
