package vmx

import (
	"cmp"
	"fmt"
	"hash/fnv"
	"net"
	"slices"
	"strconv"
	"strings"

	"tarvm/formats/machine"
)

// A setting is a key and its value.
type setting struct {
	key, value string
	// keep: a file that has the key keeps what it says, unless what the machine says of it changed. It is for keys that
	// several words mean the same of.
	keep bool
}

// A rendering is what a VMX says of a machine.
type rendered struct {
	settings []setting
	index    map[string]int    // by the key in lower case
	groups   map[string]bool   // heads of the devices that are there, in lower case
	heads    map[string]string // of drives and adapters, by the heads that they have in the document
	losses   []machine.Loss
}

func (w *rendered) set(key, value string) {
	k := lower(key)
	if i, ok := w.index[k]; ok {
		w.settings[i].value = value
		return
	}
	w.index[k] = len(w.settings)
	w.settings = append(w.settings, setting{key: key, value: value})
}

// loose sets a key that several words mean the same of.
func (w *rendered) loose(key, value string) {
	w.set(key, value)
	w.settings[w.index[lower(key)]].keep = true
}

// said sets a key if there is something to say.
func (w *rendered) said(key, value string) {
	if value != "" {
		w.set(key, value)
	}
}

func (w *rendered) flag(key string, s machine.Switch) {
	switch s {
	case machine.On:
		w.set(key, "TRUE")
	case machine.Off:
		w.set(key, "FALSE")
	}
}

func (w *rendered) lose(part, format string, args ...any) {
	w.losses = append(w.losses, machine.Loss{Part: part, What: fmt.Sprintf(format, args...)})
}

// device begins one.
func (w *rendered) device(head string) {
	w.groups[lower(head)] = true
	w.set(head+".present", "TRUE")
}

// A renderer makes a rendering.
type renderer struct {
	rendered
	m     *machine.Machine
	doc   *document // where the machine comes from; nil: another form
	hw    int       // virtualHW.version
	guest string    // guestOS
}

// render says what a VMX says of m. The version is that of the options, already checked.
func render(m *machine.Machine, doc *document, hw int) *rendered {
	r := &renderer{m: m, doc: doc, hw: hw}
	r.index, r.groups, r.heads = map[string]int{}, map[string]bool{}, map[string]string{}
	r.machine()
	r.processor()
	r.boot(r.drives(), r.nics())
	r.screen()
	r.ports("serial", m.Serials, maxSerials)
	r.ports("parallel", m.Parallels, 3)
	r.others()
	return &r.rendered
}

// hardware returns the number in vmx-NN.
func hardware(version string) (int, bool) {
	s, ok := strings.CutPrefix(version, "vmx-")
	n, err := strconv.ParseUint(s, 10, 16)
	return int(n), ok && err == nil && n > 0
}

func (r *renderer) machine() {
	m := r.m
	r.set("config.version", "8")
	r.set("virtualHW.version", strconv.Itoa(r.hw))
	if r.hw >= 7 && r.doc == nil && m.Arch != "aarch64" {
		// From this version on there is PCI Express, and devices are found behind bridges that must be said.
		r.set("pciBridge0.present", "TRUE")
		for i := 4; i <= 7; i++ {
			h := fmt.Sprintf("pciBridge%d", i)
			r.set(h+".present", "TRUE")
			r.set(h+".virtualDev", "pcieRootPort")
			r.set(h+".functions", "8")
		}
		r.set("vmci0.present", "TRUE")
	}
	r.said("displayName", m.Name)
	r.said("annotation", m.Notes)
	r.said("uuid.bios", spaced(m.UUID))
	r.said("vc.uuid", spaced(m.InstanceUUID))
	if d := strings.ReplaceAll(m.GenerationID, "-", ""); len(d) == 32 {
		for i, key := range []string{"vm.genid", "vm.genidX"} {
			if v, err := strconv.ParseUint(d[16*i:16*i+16], 16, 64); err == nil {
				r.set(key, strconv.FormatInt(int64(v), 10))
			}
		}
	}
	r.guest = m.Guest.InVMware()
	if r.guest == "" {
		r.guest = map[string]string{"i686": "other", "aarch64": "arm-other-64"}[m.Arch]
		if r.guest == "" {
			r.guest = "other-64"
		}
		if said := m.Guest; said != (machine.Guest{}) && said != (machine.Guest{Text: said.Text}) || m.Guest.Text != "" && m.Platform != "vmware" {
			r.lose("guest", "becomes %s", r.guest)
		}
	}
	r.set("guestOS", r.guest)
	r.said("guestOSAltName", m.Guest.Text)
	if a := m.Arch; a != "" && a != guestArch(r.guest) && (a != "i686" && a != "x86_64" || guestArch(r.guest) == "aarch64") {
		r.lose("arch", "%s becomes %s", a, guestArch(r.guest))
	}
	if c := m.Chipset; c != "" && c != "i440fx" {
		r.lose("chipset", "%s becomes VMware's 440BX", c)
	}
	if v := m.Virtualization; v != "" && v != "hvm" {
		r.lose("virtualization", "%s becomes hvm: the guest needs a boot loader on its disk", v)
	}
	r.firmware()
}

// spaced gives a UUID as "56 4d ad 58 06 29 d3 e6-ec fe 8f f8 39 c5 e3 5d".
func spaced(uuid string) string {
	d := lower(strings.ReplaceAll(uuid, "-", ""))
	if len(d) != 32 || strings.Trim(d, "0123456789abcdef") != "" {
		return ""
	}
	var b []byte
	for i := 0; i < 32; i += 2 {
		if i > 0 {
			sep := byte(' ')
			if i == 16 {
				sep = '-'
			}
			b = append(b, sep)
		}
		b = append(b, d[i:i+2]...)
	}
	return string(b)
}

func (r *renderer) firmware() {
	f := r.m.Firmware
	if f.Type != "bios" { // which is what there is without a word; libvirt refuses a file that says it
		r.said("firmware", f.Type)
	}
	r.flag("uefi.secureBoot.enabled", f.SecureBoot)
	if f.Loader != "" || f.Template != "" {
		r.lose("firmware", "its file is left out: VMware brings its own")
	}
	switch v := f.Vars.Path; {
	case v == "":
	case r.m.Platform == "vmware", r.m.Platform == "" && strings.HasSuffix(lower(v), ".nvram"):
		r.set("nvram", v)
	default:
		r.lose("firmware", "its variables are left out: %s is not VMware's", v)
	}
	if t := r.m.TPM; t != nil {
		r.groups["vtpm"] = true
		r.set("managedvm.autoAddVTPM", "software")
		if t.Version == "1.2" {
			r.lose("tpm", "becomes 2.0")
		}
		if t.Backend == "passthrough" {
			r.lose("tpm", "the host's becomes a new one")
		}
	}
}

func (r *renderer) processor() {
	c, mem := r.m.CPU, r.m.Memory
	if c.Count > 0 {
		r.set("numvcpus", strconv.Itoa(c.Count))
	}
	if c.Max > c.Count {
		r.lose("cpu", "more than %d, up to %d: left out", c.Count, c.Max)
	}
	cores := c.Cores
	if cores == 0 && c.Sockets > 0 && c.Count%c.Sockets == 0 {
		cores = c.Count / c.Sockets
	}
	if c.Threads > 1 {
		cores = max(cores, 1) * c.Threads
		r.lose("cpu", "threads become cores")
	}
	if cores > 0 {
		if c.Count > 0 && c.Count%cores != 0 && r.m.Platform != "vmware" {
			r.lose("cpu", "%d cores in each socket: left out, %d are not a multiple", cores, c.Count)
		} else {
			r.set("cpuid.coresPerSocket", strconv.Itoa(cores))
		}
	}
	r.flag("vcpu.hotadd", c.HotAdd)
	r.flag("vhv.enable", c.Nested)
	if c.Model != "" && c.Model != "host-passthrough" && c.Model != "host-model" {
		r.lose("cpu", "model %s: left out, the guest sees the host's", c.Model)
	}
	const mib = 1 << 20
	if mem.Bytes > 0 {
		n := mem.Bytes / mib
		// VMware asks for a multiple of 4 MiB.
		if r.m.Platform != "vmware" && mem.Bytes%(4*mib) != 0 {
			n = (mem.Bytes/(4*mib) + 1) * 4
			r.lose("memory", "becomes %d MiB", n)
		}
		r.set("memsize", strconv.FormatInt(n, 10))
	}
	if mem.Max > mem.Bytes {
		r.lose("memory", "more than it starts with, up to %d bytes: left out", mem.Max)
	}
	r.flag("mem.hotadd", mem.HotAdd)
	for _, f := range []struct {
		word string
		s    machine.Switch
	}{{"acpi", r.m.Features.ACPI}, {"apic", r.m.Features.APIC}, {"pae", r.m.Features.PAE}} {
		if f.s == machine.Off {
			r.lose("features", "%s cannot be off", f.word)
		}
	}
	r.flag("hpet0.present", r.m.Features.HPET)
	switch r.m.Clock {
	case "utc":
		r.set("rtc.diffFromUTC", "0")
	case "":
	default:
		r.lose("clock", "%s is left to the host", r.m.Clock)
	}
	if r.m.Kernel != nil {
		r.lose("kernel", "left out: VMware boots from disks")
	}
}

// usbHeads gives each USB controller its head.
func (r *renderer) usbHeads() map[int]string {
	heads, seen := map[int]string{}, map[string]bool{}
	for _, c := range r.m.Controllers {
		if c.Bus != machine.USB {
			continue
		}
		h := "usb_xhci"
		switch model := c.Model; {
		case strings.Contains(model, "xhci"):
		case strings.Contains(model, "ehci"):
			h = "ehci"
		case strings.Contains(model, "uhci"), strings.Contains(model, "ohci"), model == "":
			h = "usb"
		default:
			r.lose(fmt.Sprintf("controller usb%d", c.Index), "%s becomes xhci", model)
		}
		if seen[h] {
			r.lose(fmt.Sprintf("controller usb%d", c.Index), "left out: there is one of a kind")
		} else {
			r.device(h)
		}
		seen[h], heads[c.Index] = true, h
	}
	return heads
}

// A place is where a drive is put.
type place struct {
	drive *machine.Drive
	at    machine.Address
	head  string
}

// fits reports whether a drive can be at an address.
func (r *renderer) fits(d *machine.Drive, a machine.Address) bool {
	if d.Kind == machine.Diskette || a.Bus == machine.Floppy {
		return d.Kind == machine.Diskette && a.Bus == machine.Floppy && a.Index == 0 && a.Unit >= 0 && a.Unit < 2
	}
	if a.Index < 0 || a.Index >= maxControllers || a.Unit < 0 {
		return false
	}
	switch a.Bus {
	case machine.SCSI:
		units := 16
		if c := r.m.Controller(a.Bus, a.Index); c != nil && c.Model == "vmpvscsi" || r.m.Platform == "vmware" {
			units = maxSCSI
		}
		return a.Unit != 7 && a.Unit < units
	case machine.SATA:
		return d.Kind != machine.LUN && a.Unit < maxSATA
	case machine.NVMe:
		units := 15
		if r.hw >= 21 || r.m.Platform == "vmware" {
			units = maxNVMe
		}
		return d.Kind == machine.Disk && a.Unit < units
	case machine.IDE:
		return d.Kind != machine.LUN && a.Index == 0 && a.Unit < 4
	}
	return false
}

// places finds one for every drive: its own, or the first free one that can be had.
func (r *renderer) places(usb map[int]string) []place {
	list := make([]place, len(r.m.Drives))
	taken := map[machine.Address]bool{}
	for i := range r.m.Drives {
		d := &r.m.Drives[i]
		list[i].drive = d
		h, ok := usb[d.At.Index]
		ok = ok && d.At.Bus == machine.USB && d.Kind == machine.Disk && d.At.Unit >= 0 && d.At.Unit < maxUSB
		if ok {
			list[i].head = fmt.Sprintf("%s:%d", h, d.At.Unit)
		}
		if (ok || r.fits(d, d.At)) && !taken[d.At] {
			taken[d.At] = true
			list[i].at = d.At
		}
	}
	for i := range list {
		p := &list[i]
		if p.at.Bus != "" {
			continue
		}
		p.head = ""
		for _, a := range candidates(p.drive) {
			if !taken[a] && r.fits(p.drive, a) {
				p.at = a
				taken[a] = true
				break
			}
		}
	}
	for i := range list {
		if p := &list[i]; p.head == "" && p.at.Bus != "" {
			p.head = headAt(p.at)
		}
	}
	return list
}

// candidates are the places where a drive may go that cannot be where it is, the best first.
func candidates(d *machine.Drive) []machine.Address {
	var list []machine.Address
	add := func(b machine.Bus, units int) {
		for i := range maxControllers {
			for u := range units {
				list = append(list, machine.Address{Bus: b, Index: i, Unit: u})
			}
		}
	}
	switch d.Kind {
	case machine.Diskette:
		add(machine.Floppy, 2)
	case machine.Optical:
		for _, u := range []int{2, 3, 1, 0} { // where VMware puts it
			list = append(list, machine.Address{Bus: machine.IDE, Unit: u})
		}
		add(machine.SATA, maxSATA)
	case machine.LUN:
		add(machine.SCSI, 16)
	default:
		add(machine.SCSI, 16)
		add(machine.SATA, maxSATA)
	}
	return list
}

func headAt(a machine.Address) string {
	switch a.Bus {
	case machine.IDE:
		return fmt.Sprintf("ide%d:%d", a.Unit/2, a.Unit%2)
	case machine.Floppy:
		return fmt.Sprintf("floppy%d", a.Unit)
	}
	return fmt.Sprintf("%s%d:%d", a.Bus, a.Index, a.Unit)
}

// drives renders controllers and drives.
func (r *renderer) drives() []place {
	usb := r.usbHeads()
	list := r.places(usb)
	type key struct {
		bus   machine.Bus
		index int
	}
	// Controllers that are said, and those of the drives.
	all := map[key]string{}
	for _, c := range r.m.Controllers {
		switch k := (key{c.Bus, c.Index}); c.Bus {
		case machine.SCSI, machine.SATA, machine.NVMe:
			if c.Index < 0 || c.Index >= maxControllers {
				r.lose(fmt.Sprintf("controller %s%d", c.Bus, c.Index), "left out: there are %d", maxControllers)
				continue
			}
			all[k] = r.controller(&c)
		}
	}
	shared := map[key]bool{}
	for _, p := range list {
		k := key{p.at.Bus, p.at.Index}
		switch p.at.Bus {
		case machine.SCSI, machine.SATA, machine.NVMe:
			if _, ok := all[k]; !ok {
				all[k] = ""
				if k.bus == machine.SCSI {
					all[k] = r.scsiModel()
				}
			}
			if p.drive.Shared == machine.On {
				shared[k] = true
			}
		}
	}
	for _, bus := range []machine.Bus{machine.SCSI, machine.SATA, machine.NVMe} {
		for i := range maxControllers {
			model, ok := all[key{bus, i}]
			if !ok {
				continue
			}
			h := fmt.Sprintf("%s%d", bus, i)
			r.device(h)
			r.said(h+".virtualDev", model)
			if bus == machine.SCSI && !shared[key{bus, i}] {
				r.set(h+".sharedBus", "none")
			}
		}
	}
	for _, p := range list {
		switch {
		case p.at.Bus == "":
			r.lose("drive "+p.drive.At.String(), "left out: no place for it is free")
		case p.at != p.drive.At:
			r.lose("drive "+p.drive.At.String(), "becomes %s", p.head)
		}
		if p.at.Bus != "" {
			r.moved(p.drive.Origin, p.head)
			r.drive(p)
		}
	}
	if !r.groups["floppy0"] {
		r.set("floppy0.present", "FALSE") // it would be there
	}
	return list
}

// controller returns the virtualDev of one.
func (r *renderer) controller(c *machine.Controller) string {
	if c.Bus != machine.SCSI {
		return ""
	}
	switch c.Model {
	case "buslogic", "lsilogic", "lsisas1068":
		return c.Model
	case "vmpvscsi":
		return "pvscsi"
	case "":
		return r.scsiModel()
	}
	model := "lsilogic"
	if strings.HasPrefix(c.Model, "lsisas") {
		model = "lsisas1068"
	} else if s := r.scsiModel(); s != "" {
		model = s
	}
	if r.m.Platform == "vmware" {
		return c.Model // a word of VMware's that is not known here
	}
	r.lose(fmt.Sprintf("controller %s%d", c.Bus, c.Index), "%s becomes %s", c.Model, model)
	return model
}

// scsiModel is that of controllers of which nothing is said. VMware's own default is one that few systems have a driver
// for; Windows has had one for the parallel LSI Logic until Vista, and for the SAS one since.
func (r *renderer) scsiModel() string {
	if r.m.Platform == "vmware" {
		return ""
	}
	w := lower(r.guest)
	for _, old := range []string{"windows7", "windows8", "windows9", "windows1", "windows2", "longhorn", "winvista"} {
		if strings.HasPrefix(w, old) {
			return "lsisas1068"
		}
	}
	return "lsilogic"
}

// moved notes which head a device of the document has now. Of several with one origin, the one that stays is meant.
func (r *renderer) moved(o machine.Origin, head string) {
	if o, ok := o.(*origin); ok && r.doc != nil && o.doc == r.doc {
		h := lower(head)
		if _, seen := r.heads[o.head]; !seen || o.head == h {
			r.heads[o.head] = h
		}
	}
}

func (r *renderer) drive(p place) {
	d, h, part := p.drive, p.head, "drive "+p.drive.At.String()
	r.device(h)
	media := d.Media
	if media.URL != "" {
		r.lose(part, "its medium at %s is left out", media.URL)
	}
	if media.Path == "" && media.Host == "" && d.Kind != machine.Optical && d.Kind != machine.Diskette && r.m.Platform != "vmware" {
		r.lose(part, "its medium is not said")
	}
	if f := media.Format; d.Kind == machine.Disk && f != "" && f != "vmdk" {
		r.lose(part, "its image is %s, VMware opens vmdk alone", f)
	}
	connected := d.Connected
	switch d.Kind {
	case machine.Diskette:
		switch {
		case media.Host == "auto":
			r.set(h+".fileType", "device")
			r.set(h+".fileName", "")
			r.set(h+".autodetect", "TRUE")
		case media.Host != "":
			r.set(h+".fileType", "device")
			r.set(h+".fileName", media.Host)
		case media.Path != "":
			r.set(h+".fileType", "file")
			r.set(h+".fileName", media.Path)
		default: // as vSphere has it: the medium is that of the console
			r.loose(h+".fileType", "device")
			r.loose(h+".fileName", "")
			r.set(h+".clientDevice", "TRUE")
		}
		r.inserted(h, media, &connected)
	case machine.Optical:
		switch {
		case media.Host == "auto":
			r.medium(h, "cdrom-raw", "auto detect")
		case media.Host != "":
			r.medium(h, "cdrom-raw", media.Host)
		case strings.HasSuffix(lower(media.Path), ".iso"): // which says it as well
			r.medium(h, "cdrom-image", media.Path)
		case media.Path != "":
			r.set(h+".deviceType", "cdrom-image")
			r.set(h+".fileName", media.Path)
		default:
			kind := "cdrom-image"
			if o, ok := d.Origin.(*origin); ok && r.doc != nil && o.doc == r.doc {
				if is, _ := r.doc.get(o.head + ".deviceType"); is != "" {
					kind = lower(is) // of a drive of the host's, too, which an image would make another
				}
			}
			r.medium(h, kind, empty)
		}
		r.inserted(h, media, &connected)
	case machine.LUN:
		r.medium(h, "scsi-passthru", cmp.Or(media.Host, media.Path))
	default:
		// VMware leaves the type of a disk on SATA and NVMe out; virt-v2v passes over those that have one.
		kind := ""
		switch {
		case media.Host != "":
			kind = "rawDisk"
			r.lose(part, "%s needs a descriptor", media.Host)
		case p.at.Bus == machine.SCSI:
			kind = "scsi-hardDisk"
		case p.at.Bus == machine.IDE:
			kind = "ata-hardDisk"
		case p.at.Bus == machine.USB, strings.HasSuffix(lower(media.Path), ".iso"): // else the name would tell
			kind = "disk"
		}
		r.medium(h, kind, cmp.Or(media.Host, media.Path))
	}
	r.flag(h+".startConnected", connected)
	r.flag(h+".readonly", readOnly(d))
	r.mode(h, d)
	switch d.Cache {
	case "":
	case "writethrough", "directsync":
		r.set(h+".writeThrough", "TRUE")
	case "writeback":
		r.set(h+".writeThrough", "FALSE")
	default:
		r.lose(part, "cache %s: left out", d.Cache)
	}
	switch d.SSD {
	case machine.On:
		r.set(h+".virtualSSD", "1")
	case machine.Off:
		r.set(h+".virtualSSD", "0")
	}
	switch d.Shared {
	case machine.On:
		r.set(h+".sharing", "multi-writer")
	case machine.Off:
		r.set(h+".sharing", "none")
	}
	if d.Removable == machine.On && d.Kind == machine.Disk && p.at.Bus != machine.USB {
		r.lose(part, "it cannot be removable")
	}
	if d.Discard == machine.On {
		r.lose(part, "discard: left out")
	}
	if d.Serial != "" {
		r.lose(part, "its serial number is left out")
	}
}

// readOnly: of an optical drive that goes without saying.
func readOnly(d *machine.Drive) machine.Switch {
	if d.Kind == machine.Optical {
		return machine.Unsaid
	}
	return d.ReadOnly
}

func (r *renderer) medium(h, kind, file string) {
	if kind != "" {
		r.loose(h+".deviceType", kind)
	}
	r.set(h+".fileName", file)
}

// inserted says that the medium is the machine's. A drive without one must not be connected, or VMware asks for it.
func (r *renderer) inserted(h string, media machine.Media, connected *machine.Switch) {
	if media.Path != "" || media.Host != "" {
		r.set(h+".clientDevice", "FALSE")
	} else if *connected == machine.Unsaid {
		*connected = machine.Off
	}
}

func (r *renderer) mode(h string, d *machine.Drive) {
	switch {
	case d.Independent == machine.On && d.Transient == machine.On:
		r.set(h+".mode", "independent-nonpersistent")
	case d.Independent == machine.On:
		r.set(h+".mode", "independent-persistent")
	case d.Transient == machine.On:
		r.set(h+".mode", "nonpersistent")
	case d.Independent == machine.Off || d.Transient == machine.Off:
		r.set(h+".mode", "persistent")
	}
}

// nics renders the adapters, and returns the head of each; "" if it has none.
func (r *renderer) nics() []string {
	list := make([]string, len(r.m.NICs))
	taken := map[int]bool{}
	for i, n := range r.m.NICs {
		if n.Slot >= 0 && n.Slot < maxNICs && !taken[n.Slot] {
			taken[n.Slot] = true
			list[i] = fmt.Sprintf("ethernet%d", n.Slot)
		}
	}
	for i := range r.m.NICs {
		for s := 0; s < maxNICs && list[i] == ""; s++ {
			if !taken[s] {
				taken[s] = true
				list[i] = fmt.Sprintf("ethernet%d", s)
			}
		}
		n := &r.m.NICs[i]
		part := fmt.Sprintf("nic %d", n.Slot)
		if list[i] == "" {
			r.lose(part, "left out: there are %d", maxNICs)
			continue
		}
		if list[i] != fmt.Sprintf("ethernet%d", n.Slot) {
			r.lose(part, "becomes %s", list[i])
		}
		r.moved(n.Origin, list[i])
		r.nic(n, list[i], part)
	}
	return list
}

func (r *renderer) nic(n *machine.NIC, h, part string) {
	r.device(h)
	model := n.Model
	switch model {
	case "", "e1000", "e1000e", "vmxnet", "vmxnet3":
	case "pcnet":
		model = "vlance"
	case "vmxnet2":
		model = "vmxnet"
		r.set(h+".features", "15")
	case "virtio", "netfront":
		model = "vmxnet3"
		r.lose(part, "%s becomes vmxnet3", n.Model)
	default:
		if r.m.Platform != "vmware" { // else a word of VMware's that is not known here
			model = "e1000"
			r.lose(part, "%s becomes e1000", n.Model)
		}
	}
	r.said(h+".virtualDev", model)
	switch n.Kind {
	case "":
	case machine.Bridged:
		r.set(h+".connectionType", "bridged")
		if isVnet(n.Network) {
			r.set(h+".vnet", n.Network)
		} else if n.Network != "" {
			r.lose(part, "bridged to %s: becomes the default bridge", n.Network)
		}
	case machine.NAT, machine.UserNet:
		r.set(h+".connectionType", "nat")
		if n.Kind == machine.UserNet {
			r.lose(part, "a network of its own becomes NAT for all machines")
		}
	case machine.HostOnly:
		r.set(h+".connectionType", "hostonly")
	case machine.Internal:
		r.set(h+".connectionType", "pvn")
		if spaced(strings.ReplaceAll(n.Network, " ", "")) != "" || r.m.Platform == "vmware" {
			r.said(h+".pvnID", n.Network)
		} else {
			r.set(h+".pvnID", pvnID(n.Network))
			r.lose(part, "network %s gets an identifier in place of its name", n.Network)
		}
	case machine.NoNet:
		r.set(h+".connectionType", "none")
	default:
		if isVnet(n.Network) {
			r.set(h+".connectionType", "custom")
			r.set(h+".vnet", n.Network)
			r.loose(h+".networkName", n.Network) // libvirt wants it, VMware does not look at it
		} else {
			r.said(h+".networkName", n.Network)
		}
	}
	r.mac(n, h, part)
	r.flag(h+".startConnected", n.Connected)
}

// isVnet: VMnet8, /dev/vmnet8.
func isVnet(s string) bool {
	_, ok := numbered(strings.TrimPrefix(lower(s), "/dev/"), "vmnet", 256)
	return ok
}

// pvnID makes an identifier of a name: the same for all machines that use it.
func pvnID(name string) string {
	h := fnv.New128a()
	h.Write([]byte(name))
	return spaced(fmt.Sprintf("%x", h.Sum(nil)))
}

func (r *renderer) mac(n *machine.NIC, h, part string) {
	mac := lower(n.MAC)
	switch {
	case !isMAC(mac):
		if n.MAC != "" {
			r.lose(part, "%q is no MAC address: a new one is made", n.MAC)
		}
		r.set(h+".addressType", "generated")
	case n.Generated && strings.HasPrefix(mac, "00:50:56:") && mac[9] >= '8' && mac[9] <= 'b' && r.m.Platform == "vmware":
		r.loose(h+".addressType", "vpx")
		r.set(h+".generatedAddress", mac)
	case n.Generated && r.m.Platform == "vmware":
		r.loose(h+".addressType", "generated")
		r.set(h+".generatedAddress", mac)
	default:
		if n.Generated {
			r.lose(part, "its MAC address stays, and is no longer generated")
		}
		r.set(h+".addressType", "static")
		r.set(h+".address", mac)
		// Static addresses outside of VMware's range are refused unless that is said.
		if !strings.HasPrefix(mac, "00:50:56:") || mac[9] > '3' {
			r.set(h+".checkMACAddress", "FALSE")
		}
	}
}

// boot renders the order: devices with a place of their own, then kinds.
func (r *renderer) boot(drives []place, nics []string) {
	type device struct {
		place int
		head  string
		word  string
	}
	var own []device
	for _, p := range drives {
		if p.drive.Boot > 0 && p.at.Bus != "" {
			w := map[machine.DriveKind]string{machine.Optical: "cdrom", machine.Diskette: "floppy"}[p.drive.Kind]
			own = append(own, device{p.drive.Boot, p.head, cmp.Or(w, "hdd")})
		}
	}
	for i, n := range r.m.NICs {
		if n.Boot > 0 && nics[i] != "" {
			own = append(own, device{n.Boot, nics[i], nics[i]})
		}
	}
	slices.SortStableFunc(own, func(a, b device) int { return cmp.Compare(a.place, b.place) })
	var order, disks []string
	add := func(w string) {
		if !slices.Contains(order, w) {
			order = append(order, w)
		}
	}
	for _, d := range own {
		add(d.word)
		if d.word == "hdd" {
			disks = append(disks, d.head)
		}
	}
	for _, kind := range r.m.Boot {
		switch kind {
		case "disk":
			add("hdd")
		case "cdrom", "floppy":
			add(kind)
		case "network":
			for _, h := range nics {
				if h != "" {
					add(h)
				}
			}
		default:
			r.lose("boot", "%s: left out", kind)
		}
	}
	r.said("bios.bootOrder", strings.Join(order, ","))
	r.said("bios.hddOrder", strings.Join(disks, ","))
}

func (r *renderer) screen() {
	const maxVideo = 2 << 30
	for i, v := range r.m.Videos {
		part := fmt.Sprintf("video %d", i)
		if i > 0 {
			r.lose(part, "left out: there is one")
			continue
		}
		r.groups["svga"] = true
		if v.Model == "none" {
			r.set("svga.present", "FALSE")
			continue
		}
		r.set("svga.present", "TRUE")
		if v.Model != "" && v.Model != "vmvga" {
			r.lose(part, "%s becomes vmvga", v.Model)
		}
		if v.Memory > 0 {
			n := v.Memory
			if n > maxVideo && r.m.Platform != "vmware" {
				n = maxVideo
				r.lose(part, "its memory becomes %d bytes", n)
			}
			r.set("svga.vramSize", strconv.FormatInt(n, 10))
		}
		if v.Heads > 0 {
			r.set("svga.numDisplays", strconv.Itoa(v.Heads))
		}
		if v.Memory > 0 || v.Heads > 0 {
			r.set("svga.autodetect", "FALSE")
		}
		r.flag("mks.enable3d", v.Accel3D)
	}
	vnc := false
	for _, d := range r.m.Displays {
		if d.Kind != "vnc" || vnc {
			r.lose("display "+d.Kind, "left out")
			continue
		}
		vnc = true
		r.groups["remotedisplay.vnc"] = true
		r.set("RemoteDisplay.vnc.enabled", "TRUE")
		if d.Port > 0 {
			r.set("RemoteDisplay.vnc.port", strconv.Itoa(d.Port))
		}
		r.said("RemoteDisplay.vnc.ip", d.Listen)
	}
	for i, s := range r.m.Sounds {
		part := fmt.Sprintf("sound %d", i)
		if i > 0 {
			r.lose(part, "left out: there is one")
			continue
		}
		model := s.Model
		switch model {
		case "", "es1371", "sb16":
		case "hda":
			model = "hdaudio"
		default:
			if r.m.Platform == "vmware" {
				break
			}
			if model = "hdaudio"; s.Model == "ac97" || s.Model == "es1370" {
				model = "es1371"
			}
			r.lose(part, "%s becomes %s", s.Model, model)
		}
		r.device("sound")
		r.said("sound.virtualDev", model)
		if r.doc == nil {
			r.set("sound.fileName", "-1")
			r.set("sound.autodetect", "TRUE")
		}
	}
}

func (r *renderer) ports(word string, list []machine.Port, limit int) {
	taken := map[int]bool{}
	for _, p := range list {
		part := fmt.Sprintf("%s %d", word, p.Slot)
		if p.Slot < 0 || p.Slot >= limit || taken[p.Slot] {
			r.lose(part, "left out: there are %d", limit)
			continue
		}
		taken[p.Slot] = true
		r.port(p, fmt.Sprintf("%s%d", word, p.Slot), part)
	}
}

func (r *renderer) port(p machine.Port, h, part string) {
	r.device(h)
	server := func(key string, s machine.Switch) {
		switch s {
		case machine.On:
			r.set(key, "server")
		case machine.Off:
			r.set(key, "client")
		}
	}
	kind := p.Kind
	switch kind {
	case "file":
		r.set(h+".fileType", "file")
		r.set(h+".fileName", p.Path)
	case "device":
		r.set(h+".fileType", "device")
		r.set(h+".fileName", p.Path)
		if p.Path == "" {
			r.set(h+".fileName", "auto detect")
			r.set(h+".autodetect", "TRUE")
		}
	case "pipe", "unix":
		if kind == "unix" {
			r.lose(part, "a socket becomes a pipe")
		}
		r.set(h+".fileType", "pipe")
		r.set(h+".fileName", p.Path)
		server(h+".pipe.endPoint", p.Server)
	case "tcp":
		scheme := "tcp"
		if p.Telnet == machine.On {
			scheme = "telnet"
		}
		r.set(h+".fileType", "network")
		if p.Host != "" || p.Service != "" {
			r.set(h+".fileName", scheme+"://"+net.JoinHostPort(strings.ReplaceAll(p.Host, "%", "%25"), p.Service)) // of a zone
		}
		server(h+".network.endPoint", p.Server)
	default:
		if kind == "" && r.m.Platform == "vmware" {
			return // said in words of VMware's that are not known here
		}
		// A guest whose console it is needs the port.
		r.set(h+".fileType", "file")
		r.set(h+".fileName", h+".out")
		r.lose(part, "%s becomes a file", cmp.Or(kind, "what is not said"))
	}
}

func (r *renderer) others() {
	for _, in := range r.m.Inputs {
		if in.Bus != "" && in.Bus != "ps2" || in.Kind != "keyboard" && in.Kind != "mouse" {
			r.lose("input "+in.Kind, "becomes VMware's own")
		}
	}
	used := map[string]bool{}
	head := func(o machine.Origin) string {
		if o, ok := o.(*origin); ok && r.doc != nil && o.doc == r.doc && !used[o.head] {
			used[o.head] = true
			return o.head
		}
		return ""
	}
	heads := make([]string, len(r.m.Shares))
	for i, s := range r.m.Shares {
		heads[i] = head(s.Origin)
	}
	top := 0
	for i, s := range r.m.Shares {
		h := heads[i]
		for n := 0; h == "" && n < maxShares; n++ {
			try := fmt.Sprintf("sharedfolder%d", n)
			if !used[try] {
				used[try] = true
				h = try
			}
		}
		n, ok := numbered(h, "sharedfolder", maxShares)
		if !ok {
			r.lose("share "+s.Name, "left out: there are %d", maxShares)
			continue
		}
		top = max(top, n+1)
		h = fmt.Sprintf("sharedFolder%d", n)
		r.device(h)
		r.set(h+".enabled", "TRUE")
		r.set(h+".readAccess", "TRUE")
		switch s.ReadOnly {
		case machine.On:
			r.set(h+".writeAccess", "FALSE")
		case machine.Off:
			r.set(h+".writeAccess", "TRUE")
		}
		r.set(h+".hostPath", s.Path)
		r.set(h+".guestName", s.Name)
		r.set(h+".expiration", "never")
	}
	if top > 0 {
		r.set("sharedFolder.maxNum", strconv.Itoa(top))
		r.set("isolation.tools.hgfs.disable", "FALSE")
	}
	for _, o := range r.m.Others {
		switch h := head(o.Origin); {
		case h != "" && o.Kind == "hostdev":
			r.groups[h] = true
			continue
		case h != "" && o.Kind == "saved-state":
			r.set(suspended, o.Name)
			continue
		}
		r.lose(strings.TrimSpace(o.Kind+" "+o.Name), "left out")
	}
}
