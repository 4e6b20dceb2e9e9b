package qemu

import (
	"cmp"
	"fmt"
	"path"
	"slices"
	"strconv"
	"strings"

	"tarvm/formats/machine"
)

// Options say how a script is written. The zero value works.
type Options struct {
	// Memory, in bytes, of machines that do not say it; 0: 1 GiB.
	Memory int64
	// Host takes what the machine says of files anywhere, devices and addresses as it stands: for machines that are
	// trusted and stay where they are.
	Host bool
}

const defaultMemory = 1 << 30

// A writer collects the options of QEMU and what is lost.
type writer struct {
	m      *machine.Machine
	o      Options
	arch   string // of QEMU's name
	q35    bool
	virt   bool     // the machine of aarch64
	args   []string // words of the shell
	losses []machine.Loss
	ctls   []*ctl
	usb    string         // bus of what is on USB
	order  map[string]int // places in the boot order: "drive 0", "nic 1"
}

// A ctl is a controller that drives are put on.
type ctl struct {
	kind string // QEMU's name of the device; empty: the machine's own IDE
	id   string
	used map[int]bool
}

// Script writes the script for m, which it does not change. It ends in a new line and is to be made executable. An error
// wraps machine.ErrUnsupported.
func Script(m *machine.Machine, o Options) ([]byte, []machine.Loss, error) {
	w := &writer{m: m, o: o}
	switch m.Arch {
	case "", "x86_64", "i686", "i386", "i586", "i486":
		w.arch = "x86_64"
	case "aarch64":
		w.arch, w.virt = "aarch64", true
	default:
		return nil, nil, fmt.Errorf("qemu: architecture %s: %w", m.Arch, machine.ErrUnsupported)
	}
	if m.Virtualization == "pv" || m.Virtualization == "pvh" {
		if m.Kernel == nil || m.Kernel.Path == "" {
			w.lose("machine", "a guest of type %s starts only if it can do without Xen", m.Virtualization)
		}
	}
	w.q35 = m.Chipset == "q35" || m.Firmware.SecureBoot == machine.On && !w.virt
	w.bootOrder()
	w.general()
	w.kernel()
	w.usbBus()
	w.drives()
	w.nics()
	w.videos()
	w.sounds()
	w.ports()
	w.devices()
	return []byte(w.script()), w.losses, nil
}

func (w *writer) lose(part, format string, args ...any) {
	w.losses = append(w.losses, machine.Loss{Part: part, What: fmt.Sprintf(format, args...)})
}

// add takes the words of an option, which are quoted.
func (w *writer) add(words ...string) {
	for i, s := range words {
		words[i] = quote(s)
	}
	w.args = append(w.args, strings.Join(words, " "))
}

// quote makes one word of the shell. A NUL cannot be in one, and is left out.
func quote(s string) string {
	s = strings.ReplaceAll(s, "\x00", "")
	if s != "" && strings.Trim(s, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_./:=,+@") == "" {
		return s
	}
	return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'"
}

// escape makes a value of one of QEMU's options, where a comma is written twice.
func escape(s string) string { return strings.ReplaceAll(s, ",", ",,") }

// file returns a name relative to the script's folder, or says that it is outside.
func (w *writer) file(name string) (string, bool) {
	switch {
	case name == "" || strings.ContainsRune(name, 0):
		return "", false
	case path.IsAbs(name):
		return name, w.o.Host
	}
	c := path.Clean(name)
	if c == ".." || strings.HasPrefix(c, "../") {
		return c, w.o.Host
	}
	if strings.Contains(c, `\`) || len(c) > 1 && c[1] == ':' {
		return c, w.o.Host // a name of Windows
	}
	return "./" + c, true
}

// word reports whether s can be a name that QEMU knows.
func word(s string) bool {
	return s != "" && strings.Trim(s, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_.") == ""
}

// bootOrder gives each drive and adapter its place: those that say it, then the kinds of devices.
func (w *writer) bootOrder() {
	type dev struct {
		key  string
		boot int
		kind string
	}
	var list []dev
	for i, d := range w.m.Drives {
		kind := map[machine.DriveKind]string{machine.Optical: "cdrom", machine.Diskette: "floppy"}[d.Kind]
		list = append(list, dev{fmt.Sprintf("drive %d", i), d.Boot, cmp.Or(kind, "disk")})
	}
	for i, n := range w.m.NICs {
		list = append(list, dev{fmt.Sprintf("nic %d", i), n.Boot, "network"})
	}
	w.order = map[string]int{}
	said := slices.DeleteFunc(slices.Clone(list), func(d dev) bool { return d.boot <= 0 })
	slices.SortStableFunc(said, func(a, b dev) int { return cmp.Compare(a.boot, b.boot) })
	for _, kind := range w.m.Boot {
		for _, d := range list {
			if d.kind == kind && d.boot <= 0 {
				said = append(said, d)
			}
		}
	}
	for _, d := range said {
		if w.order[d.key] == 0 {
			w.order[d.key] = len(w.order) + 1
		}
	}
}

// boot is the property of a device.
func (w *writer) boot(key string) string {
	if n := w.order[key]; n > 0 {
		return ",bootindex=" + strconv.Itoa(n)
	}
	return ""
}

func (w *writer) general() {
	m := w.m
	if m.Name != "" {
		w.add("-name", "guest="+escape(m.Name))
	}
	kind := "pc"
	switch {
	case w.virt:
		kind = "virt"
	case w.q35:
		kind = "q35"
	}
	if m.Features.ACPI == machine.Off {
		kind += ",acpi=off"
	}
	if m.Features.HPET == machine.Off && !w.virt {
		kind += ",hpet=off"
	}
	if m.Firmware.SecureBoot == machine.On && !w.virt {
		kind += ",smm=on"
		w.add("-global", "driver=cfi.pflash01,property=secure,value=on")
	}
	w.add("-machine", kind)
	w.add("-nodefaults")
	w.cpu()
	n := m.Memory.Bytes
	if n <= 0 {
		n = cmp.Or(w.o.Memory, defaultMemory)
	}
	w.add("-m", strconv.FormatInt((n+1<<20-1)>>20, 10)) // MiB
	if m.Memory.Max > m.Memory.Bytes {
		w.lose("memory", "%d bytes are all: more cannot be added while it runs", n)
	}
	if uuid(m.UUID) {
		w.add("-uuid", m.UUID)
	}
	if uuid(m.GenerationID) && !w.virt {
		w.add("-device", "vmgenid,guid="+m.GenerationID)
	}
	switch m.Clock {
	case "utc", "localtime":
		w.add("-rtc", "base="+m.Clock)
	}
	if m.Firmware.Loader != "" {
		w.lose("firmware", "%s becomes what is installed where the script runs", m.Firmware.Loader)
	}
	if m.Firmware.Type != "efi" && m.Firmware.Vars.Path != "" || m.Firmware.Type == "efi" && m.Firmware.Vars.Path != "" && w.vars() == defaultVars {
		w.lose("firmware", "variables in %s are left out: OVMF has its own", m.Firmware.Vars.Path)
	}
}

// uuid reports whether s is of the model's form.
func uuid(s string) bool {
	return len(s) == 36 && strings.Trim(s, "0123456789abcdefABCDEF-") == "" && s[8] == '-' && s[13] == '-' && s[18] == '-' && s[23] == '-' &&
		strings.Count(s, "-") == 4
}

// cpu writes the number of processors, their topology if its product is that, and the model with what is off. max is all
// that the accelerator has, with KVM the host's.
func (w *writer) cpu() {
	c := w.m.CPU
	n := max(c.Count, 1)
	smp := strconv.Itoa(n)
	most := max(c.Max, n)
	if c.Sockets > 0 || c.Cores > 0 || c.Threads > 0 {
		cores, threads := max(c.Cores, 1), max(c.Threads, 1)
		sockets := c.Sockets
		if sockets == 0 {
			sockets = (most + cores*threads - 1) / (cores * threads)
		}
		if all := sockets * cores * threads; all >= n {
			smp += fmt.Sprintf(",sockets=%d,cores=%d,threads=%d", sockets, cores, threads)
			most = all
		} else {
			w.lose("cpu", "topology of %d sockets, %d cores, %d threads is left out: that is not %d", sockets, cores, threads, n)
		}
	}
	if most > n {
		smp += ",maxcpus=" + strconv.Itoa(most)
	}
	w.add("-smp", smp)
	model := "max"
	switch s := c.Model; {
	case s == "" || strings.HasPrefix(s, "host-") || s == "maximum":
	case word(s) && (w.m.Platform == "kvm" || w.m.Platform == "qemu"):
		model = s
	default:
		w.lose("cpu", "model %s becomes what the host has", s)
	}
	if w.m.Features.APIC == machine.Off && !w.virt {
		model += ",-apic"
	}
	if w.m.Features.PAE == machine.Off && !w.virt {
		model += ",-pae"
	}
	w.args = append(w.args, `-cpu "${CPU:-`+model+`}"`)
}

func (w *writer) kernel() {
	k := w.m.Kernel
	if k == nil || k.Path == "" {
		return
	}
	p, ok := w.file(k.Path)
	if !ok {
		w.lose("kernel", "%s is left out: it is not in the script's folder", k.Path)
		return
	}
	w.add("-kernel", p)
	if k.Initrd != "" {
		if p, ok := w.file(k.Initrd); ok {
			w.add("-initrd", p)
		} else {
			w.lose("kernel", "%s is left out: it is not in the script's folder", k.Initrd)
		}
	}
	if k.Args != "" {
		w.add("-append", k.Args)
	}
}

// usbModels are QEMU's devices for the model's words.
var usbModels = map[string]string{"uhci": "piix3-usb-uhci", "ohci": "pci-ohci", "ehci": "usb-ehci", "xhci": "qemu-xhci"}

// usbBus adds the controllers, and one if something needs it. Models that are not said are xHCI on newer chipsets, UHCI
// on the older one, which every guest has a driver for.
func (w *writer) usbBus() {
	used := slices.ContainsFunc(w.m.Inputs, func(i machine.Input) bool { return i.Bus == "usb" }) ||
		slices.ContainsFunc(w.m.Sounds, func(s machine.Sound) bool { return s.Model == "usb" }) || w.virt
	n := 0
	add := func(model string) {
		id := fmt.Sprintf("usb%d", n)
		n++
		w.add("-device", model+",id="+id)
		if w.usb == "" {
			w.usb = id + ".0"
		}
	}
	def := "piix3-usb-uhci"
	if w.q35 || w.virt {
		def = "qemu-xhci"
	}
	for _, c := range w.m.Controllers {
		if c.Bus == machine.USB {
			model := usbModels[c.Model]
			if model == "" && c.Model != "" {
				w.lose(fmt.Sprintf("controller usb%d", c.Index), "%s becomes %s", c.Model, def)
			}
			add(cmp.Or(model, def))
		}
	}
	used = used || slices.ContainsFunc(w.m.Drives, func(d machine.Drive) bool { return d.At.Bus == machine.USB })
	if n == 0 && used {
		add(def)
	}
	if w.virt {
		w.add("-device", "usb-kbd,bus="+w.usb)
	}
}

// nicModels are QEMU's devices for the model's words, and why where they are not the same.
var nicModels = map[string][2]string{
	"e1000": {"e1000"}, "e1000e": {"e1000e"}, "vmxnet3": {"vmxnet3"}, "pcnet": {"pcnet"}, "rtl8139": {"rtl8139"}, "ne2k_pci": {"ne2k_pci"},
	"virtio": {"virtio-net-pci"}, "e1000-82545em": {"e1000-82545em"},
	"e1000-82543gc": {"e1000-82544gc", "e1000-82544gc, of the same driver"},
	"vmxnet":        {"pcnet", "pcnet"}, "vmxnet2": {"e1000", "e1000"}, "netfront": {"e1000", "e1000"},
}

// mostNICs is how many fit into the slots of the bus beside the other devices.
const mostNICs = 12

func (w *writer) nics() {
	for i, n := range w.m.NICs {
		part := fmt.Sprintf("nic %d", n.Slot)
		if i >= mostNICs {
			w.lose(part, "left out: the bus has no slot for more than %d", mostNICs)
			continue
		}
		model, ok := nicModels[n.Model]
		def := "e1000"
		if w.virt {
			def = "virtio-net-pci"
		}
		switch {
		case n.Model == "":
			model = [2]string{def}
		case !ok:
			model = [2]string{def, def}
		}
		if model[1] != "" {
			w.lose(part, "%s becomes %s", n.Model, model[1])
		}
		dev := model[0] + ",id=nic" + strconv.Itoa(i)
		if mac(n.MAC) {
			dev += ",mac=" + n.MAC
		}
		dev += w.boot(fmt.Sprintf("nic %d", i))
		if n.Kind == machine.NoNet || n.Connected == machine.Off {
			w.add("-device", dev) // QEMU's cable leads nowhere
			continue
		}
		id := "net" + strconv.Itoa(i)
		opt := ""
		switch n.Kind {
		case machine.HostOnly, machine.Internal:
			opt = ",restrict=on"
			w.lose(part, "%s network becomes one that reaches nothing, unless NET names a bridge", n.Kind)
		case machine.Bridged, machine.Named:
			w.lose(part, "%s becomes QEMU's own network, unless NET names a bridge", strings.TrimSpace(string(n.Kind)+" "+n.Network))
		}
		w.args = append(w.args, `-netdev "$(net `+id+` `+quote(opt)+`)"`)
		w.add("-device", dev+",netdev="+id)
	}
}

func mac(s string) bool {
	return len(s) == 17 && strings.Trim(s, "0123456789abcdefABCDEF:") == "" && strings.Count(s, ":") == 5
}

// videoModels are QEMU's devices: the first, and those after it, which cannot be VGA.
var videoModels = map[string][3]string{
	"": {"VGA", "secondary-vga"}, "vga": {"VGA", "secondary-vga"}, "cirrus": {"cirrus-vga", "secondary-vga"}, "vmvga": {"vmware-svga", "secondary-vga"},
	"qxl": {"qxl-vga", "qxl"}, "virtio": {"virtio-vga", "virtio-gpu-pci"}, "bochs": {"bochs-display", "bochs-display"},
	"vboxvga": {"VGA", "secondary-vga", "VGA"}, "vboxsvga": {"vmware-svga", "secondary-vga", "vmware-svga"}, "xen": {"VGA", "secondary-vga", "VGA"},
}

func (w *writer) videos() {
	list := w.m.Videos
	if len(list) == 0 {
		list = []machine.Video{{}}
	}
	for i, v := range list {
		if v.Model == "none" {
			continue
		}
		part := fmt.Sprintf("video %d", i)
		model, ok := videoModels[v.Model]
		if !ok {
			model = videoModels[""]
			model[2] = model[0]
		}
		dev := model[min(i, 1)]
		if w.virt {
			dev = "virtio-gpu-pci"
		}
		if model[2] != "" {
			w.lose(part, "%s becomes %s", v.Model, dev)
		} else if v.Model != "" && dev != model[0] && dev == "secondary-vga" {
			w.lose(part, "%s becomes %s: QEMU has one of that kind", v.Model, dev)
		}
		if n := v.Memory >> 20; n > 0 && (dev == "VGA" || dev == "secondary-vga") {
			size := int64(8)
			for size < n && size < 256 {
				size *= 2
			}
			if size<<20 != v.Memory {
				w.lose(part, "memory of %d bytes becomes %d", v.Memory, size<<20)
			}
			dev += ",vgamem_mb=" + strconv.FormatInt(size, 10)
		}
		if v.Heads > 1 && strings.HasPrefix(dev, "virtio") {
			dev += ",max_outputs=" + strconv.Itoa(min(v.Heads, 16))
		} else if v.Heads > 1 {
			w.lose(part, "%d screens become one", v.Heads)
		}
		if v.Accel3D == machine.On {
			w.lose(part, "acceleration in three dimensions is left out")
		}
		w.add("-device", dev+",id=video"+strconv.Itoa(i))
	}
	for _, d := range w.m.Displays {
		w.lose("display "+d.Kind, "left out: the screen is in QEMU's window; arguments of the script can change that")
	}
}

func (w *writer) sounds() {
	for i, s := range w.m.Sounds {
		id := fmt.Sprintf("sound%d", i)
		audio := ",audiodev=snd"
		switch s.Model {
		case "ac97":
			w.add("-device", "AC97,id="+id+audio)
		case "es1370", "es1371":
			w.add("-device", "ES1370,id="+id+audio)
		case "sb16":
			w.add("-device", "sb16,id="+id+audio)
		case "hda", "ich6", "":
			w.add("-device", "intel-hda,id="+id, "-device", "hda-duplex,bus="+id+".0"+audio)
		case "usb":
			w.add("-device", "usb-audio,bus="+w.usb+audio)
		default:
			w.add("-device", "ich9-intel-hda,id="+id, "-device", "hda-duplex,bus="+id+".0"+audio)
		}
		switch s.Model {
		case "es1371":
			w.lose(fmt.Sprintf("sound %d", i), "es1371 becomes ES1370")
		case "ac97", "es1370", "sb16", "hda", "ich6", "ich9", "usb", "":
		default:
			w.lose(fmt.Sprintf("sound %d", i), "%s becomes ich9", s.Model)
		}
	}
}

// chardev returns where a port leads.
func (w *writer) chardev(part string, p machine.Port) string {
	local := func() (string, bool) {
		f, ok := w.file(p.Path)
		return escape(f), ok
	}
	server := ""
	if p.Server == machine.On {
		server = ",server=on,wait=off"
	}
	if p.Telnet == machine.On {
		server += ",telnet=on"
	}
	switch p.Kind {
	case "null", "pty", "vc":
		return p.Kind
	case "stdio":
		return "stdio,signal=off"
	case "", "none":
		return "null"
	case "file":
		if f, ok := local(); ok {
			return "file,path=" + f
		}
	case "pipe", "unix":
		if f, ok := local(); ok {
			return "socket,path=" + f + server
		}
	case "device":
		if w.o.Host && path.IsAbs(p.Path) {
			return "serial,path=" + escape(p.Path)
		}
	case "tcp":
		if w.o.Host && p.Service != "" {
			return "socket,host=" + escape(cmp.Or(p.Host, "127.0.0.1")) + ",port=" + escape(p.Service) + server
		}
	case "udp":
		if w.o.Host && p.Service != "" {
			return "udp,host=" + escape(cmp.Or(p.Host, "127.0.0.1")) + ",port=" + escape(p.Service)
		}
	}
	w.lose(part, "%s %s leads nowhere: it is of the host", p.Kind, firstOf(p.Path, strings.TrimPrefix(p.Host+":"+p.Service, ":")))
	return "null"
}

func firstOf(a, b string) string { return cmp.Or(a, b) }

func (w *writer) ports() {
	stdio := false
	for _, k := range []struct {
		name, dev string
		most      int
		list      []machine.Port
	}{{"serial", "isa-serial", 4, w.m.Serials}, {"parallel", "isa-parallel", 3, w.m.Parallels}} {
		seen := map[int]bool{}
		for _, p := range k.list {
			part := fmt.Sprintf("%s %d", k.name, p.Slot)
			if p.Slot < 0 || p.Slot >= k.most || seen[p.Slot] || w.virt {
				w.lose(part, "left out: QEMU has %d", k.most)
				continue
			}
			seen[p.Slot] = true
			id := fmt.Sprintf("%s%d", k.name, p.Slot)
			if p.Kind == "stdio" {
				if stdio {
					p.Kind = "null" // one can have it
				}
				stdio = true
			}
			w.add("-chardev", insert(w.chardev(part, p), "id="+id), "-device", fmt.Sprintf("%s,chardev=%s,index=%d", k.dev, id, p.Slot))
		}
	}
}

// insert puts an option behind the first word, which is the kind.
func insert(s, opt string) string {
	kind, rest, ok := strings.Cut(s, ",")
	if !ok {
		return kind + "," + opt
	}
	return kind + "," + opt + "," + rest
}

func (w *writer) devices() {
	for _, i := range w.m.Inputs {
		dev := map[string]string{"keyboard": "kbd", "mouse": "mouse", "tablet": "tablet"}[i.Kind]
		switch {
		case dev != "" && i.Bus == "usb":
			w.add("-device", "usb-"+dev+",bus="+w.usb)
		case dev != "" && i.Bus == "virtio":
			w.add("-device", "virtio-"+strings.ReplaceAll(dev, "kbd", "keyboard")+"-pci")
		case (i.Bus == "ps2" || i.Bus == "") && i.Kind != "tablet" && !w.virt:
			// the machine has them
		default:
			w.lose("input "+i.Kind, "left out: QEMU has none on the bus %s", i.Bus)
		}
	}
	for i, s := range w.m.Shares {
		p, ok := w.file(s.Path)
		if !ok || s.Name == "" || strings.ContainsRune(s.Name, 0) {
			w.lose("share "+s.Name, "left out: %s is not in the script's folder", s.Path)
			continue
		}
		ro := ""
		if s.ReadOnly == machine.On {
			ro = ",readonly=on"
		}
		w.add("-fsdev", fmt.Sprintf("local,id=fs%d,path=%s,security_model=mapped-xattr%s", i, escape(p), ro),
			"-device", fmt.Sprintf("virtio-9p-pci,fsdev=fs%d,mount_tag=%s", i, escape(s.Name)))
	}
	for _, d := range w.m.Others {
		w.lose(strings.TrimSpace(d.Kind+" "+d.Name), "left out")
	}
}
