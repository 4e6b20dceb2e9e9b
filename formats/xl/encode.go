package xl

import (
	"cmp"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"tarvm/formats/machine"
)

// An assign is a setting to be written, its value as text of the file.
type assign struct{ name, text string }

// A group is settings that say one thing together: they are compared, and replaced, as one.
type group struct {
	names []string // all that belong to it, whether written or not
	out   []assign
}

// Encode writes m. If m was decoded from this form, what is written is that text with the changes; else it is new.
// EncodeOptions.Version is not looked at: xl.cfg has none.
func (f Form) Encode(m *machine.Machine, _ machine.EncodeOptions) ([]byte, []machine.Loss, error) {
	o, _ := m.Origin.(*origin)
	if o == nil {
		o = &origin{was: &machine.Machine{}}
	}
	w := &writer{o: o, m: m}
	w.place()
	before := groups(o.was, o)
	for i, g := range groups(m, o) {
		if !slices.Equal(g.out, before[i].out) {
			w.replace(g)
		}
	}
	w.list("disk", w.disks())
	w.list("vif", w.vifs())
	out := w.apply()
	got, err := f.Decode(out)
	if err != nil {
		return nil, nil, fmt.Errorf("xl: what would be written is not valid (%w): %w", err, machine.ErrUnsupported)
	}
	return out, w.losses(got), nil
}

// groups are the settings of m, lists of disks and network adapters left out. The number and order is the same for each
// machine.
func groups(m *machine.Machine, o *origin) []group {
	fresh := len(o.text) == 0
	var list []group
	add := func(names string, out ...assign) {
		list = append(list, group{strings.Fields(names), out})
	}
	text := func(names, s string) {
		if s == "" {
			add(names)
			return
		}
		add(names, assign{strings.Fields(names)[0], quote(s)})
	}
	number := func(name string, n int64) {
		if n == 0 {
			add(name)
			return
		}
		add(name, assign{name, strconv.FormatInt(n, 10)})
	}
	flag := func(name string, s machine.Switch) {
		switch s {
		case machine.On:
			add(name, assign{name, "1"})
		case machine.Off:
			add(name, assign{name, "0"})
		default:
			add(name)
		}
	}
	kind := m.Virtualization
	if kind == "" && m != o.was {
		kind = "hvm"
	}
	hvm := kind == "hvm"
	text("name", m.Name)
	text("uuid", m.UUID)
	switch {
	case o.builder && (kind == "hvm" || kind == "pv"):
		add("builder type pvh", assign{"builder", quote(map[string]string{"hvm": "hvm", "pv": "generic"}[kind])})
	default:
		text("type builder pvh", kind)
	}
	const mib = 1 << 20
	number("memory", (m.Memory.Bytes+mib-1)/mib)
	number("maxmem", (m.Memory.Max+mib-1)/mib)
	number("vcpus", int64(m.CPU.Count))
	number("maxvcpus", int64(m.CPU.Max))
	flag("acpi", m.Features.ACPI)
	flag("apic", m.Features.APIC)
	flag("pae", m.Features.PAE)
	flag("hpet", m.Features.HPET)
	flag("nestedhvm", m.CPU.Nested)
	switch m.Clock {
	case "localtime":
		flag("localtime", machine.On)
	case "utc":
		flag("localtime", machine.Off)
	default:
		add("localtime")
	}
	bios := map[string]string{"efi": "ovmf", "bios": "seabios"}[m.Firmware.Type]
	if !hvm {
		bios = ""
	}
	text("bios firmware", bios)
	loader := m.Firmware.Loader
	if m.Platform != "xen" {
		loader = "" // another hypervisor's
	}
	text("bios_path_override firmware_override", loader)
	text("boot", bootOrder(m, hvm))
	k := machine.Kernel{}
	if m.Kernel != nil {
		k = *m.Kernel
	}
	var kernel []assign
	for _, p := range [][2]string{{"kernel", k.Path}, {"ramdisk", k.Initrd}, {"cmdline", k.Args}} {
		if p[1] != "" {
			kernel = append(kernel, assign{p[0], quote(p[1])})
		}
	}
	add("kernel ramdisk cmdline root extra", kernel...)
	switch {
	case fresh && k.Path == "" && kind == "pv":
		text("bootloader", "pygrub")
	case fresh && k.Path == "" && kind == "pvh":
		text("firmware", "pvgrub64")
	default:
		add("bootloader")
	}
	genid := ""
	if m.GenerationID != "" && hvm {
		genid = "generate"
	}
	text("ms_vm_genid", genid)
	list = append(list, screens(m, o, hvm, fresh)...)
	var sounds []string
	for _, s := range m.Sounds {
		if model := soundModel(s.Model, fresh); model != "" && hvm {
			sounds = append(sounds, model)
		}
	}
	text("soundhw", strings.Join(sounds, ","))
	serials, parallels := m.Serials, m.Parallels
	if fresh {
		parallels = nil // xl does not know the setting: files of xm and libvirt have it
	}
	add("serial", portList("serial", serials)...)
	add("parallel", portList("parallel", parallels)...)
	if hvm {
		add("usb usbversion usbctrl usbdevice", usbSettings(m, o)...)
	} else {
		add("usb usbversion usbctrl usbdevice")
	}
	var shares []string
	for _, s := range m.Shares {
		if s.Path != "" && !strings.ContainsAny(s.Name+s.Path, ",=") {
			shares = append(shares, quote("tag="+s.Name+",path="+s.Path+",security_model=none"))
		}
	}
	add("p9", listOf("p9", shares)...)
	for _, name := range otherLists {
		var items []string
		for _, d := range m.Others {
			if it, ok := d.Origin.(*item); ok && it.name == name && own(it, o) {
				items = append(items, quote(d.Name))
			}
		}
		add(name, listOf(name, items)...)
	}
	add("vtpm", keptTPM(m, o)...)
	return list
}

// keptTPM stands for the vTPMs of the text, which stay or go. It is the same before and after, and so never written.
func keptTPM(m *machine.Machine, o *origin) []assign {
	if m.TPM == nil {
		return nil
	}
	if it, ok := m.TPM.Origin.(*item); ok && own(it, o) {
		return []assign{{"vtpm", ""}}
	}
	return nil
}

// otherLists are the lists of devices that the model names only.
var otherLists = []string{"pci", "usbdev", "channel", "pvcalls", "vscsi", "vkb", "vdispl", "vsnd", "virtio", "ioports", "irqs",
	"iomem", "dtdev"}

// own reports whether an item is of the text that is changed.
func own(it *item, o *origin) bool {
	return o.of != nil && it.of == o.of
}

func listOf(name string, items []string) []assign {
	if len(items) == 0 {
		return nil
	}
	return []assign{{name, "[ " + strings.Join(items, ", ") + " ]"}}
}

// bootOrder is the kinds of devices. Where only devices have places, these give the order of the kinds.
func bootOrder(m *machine.Machine, hvm bool) string {
	if !hvm {
		return ""
	}
	kinds := m.Boot
	if len(kinds) == 0 {
		type at struct {
			boot int
			kind string
		}
		var list []at
		for _, d := range m.Drives {
			if d.Boot > 0 {
				list = append(list, at{d.Boot, map[machine.DriveKind]string{machine.Optical: "cdrom", machine.Diskette: "floppy"}[d.Kind]})
			}
		}
		for _, n := range m.NICs {
			if n.Boot > 0 {
				list = append(list, at{n.Boot, "network"})
			}
		}
		slices.SortStableFunc(list, func(a, b at) int { return cmp.Compare(a.boot, b.boot) })
		for _, a := range list {
			kinds = append(kinds, cmp.Or(a.kind, "disk"))
		}
	}
	s := ""
	for _, k := range kinds {
		if c := map[string]string{"disk": "c", "cdrom": "d", "network": "n", "floppy": "a"}[k]; !strings.Contains(s, c) {
			s += c
		}
	}
	return s
}

// videoModels are xl's words.
var videoModels = map[string]string{"vga": "stdvga", "cirrus": "cirrus", "qxl": "qxl", "none": "none"}

// leastVideo is the memory below which libxl refuses to start, in MiB.
var leastVideo = map[string]int64{"stdvga": 16, "cirrus": 8, "qxl": 128}

// screens are graphics adapters and what shows them.
func screens(m *machine.Machine, o *origin, hvm, fresh bool) []group {
	vga := group{names: []string{"vga", "stdvga", "nographic"}}
	ram := group{names: []string{"videoram"}}
	if len(m.Videos) > 0 && hvm {
		v := m.Videos[0]
		model := videoModels[v.Model]
		switch {
		case model == "" && !fresh:
			model = v.Model
		case model == "" && v.Model != "":
			model = "stdvga"
		}
		if model != "" {
			vga.out = []assign{{"vga", quote(model)}}
		}
		if n := (v.Memory + 1<<20 - 1) >> 20; n > 0 && model != "none" {
			if fresh {
				n = max(n, leastVideo[model])
			}
			ram.out = []assign{{"videoram", strconv.FormatInt(n, 10)}}
		}
	}
	show := group{names: []string{"vnc", "vnclisten", "vncdisplay", "vncunused", "sdl", "spice", "spiceport", "spicehost", "vfb"}}
	var vfb []string
	seen := map[string]bool{}
	for _, d := range m.Displays {
		var out []assign
		switch d.Kind {
		case "vnc":
			out = append(out, assign{"vnc", "1"})
			if d.Listen != "" {
				out = append(out, assign{"vnclisten", quote(d.Listen)})
			}
			if d.Port >= 5900 {
				out = append(out, assign{"vncdisplay", strconv.Itoa(d.Port - 5900)}, assign{"vncunused", "0"})
			}
		case "sdl":
			out = append(out, assign{"sdl", "1"})
		case "spice":
			if !hvm {
				continue
			}
			out = append(out, assign{"spice", "1"})
			if d.Port > 0 {
				out = append(out, assign{"spiceport", strconv.Itoa(d.Port)})
			}
			if d.Listen != "" {
				out = append(out, assign{"spicehost", quote(d.Listen)})
			}
		}
		switch {
		case len(out) == 0:
		case hvm && !seen[d.Kind]:
			seen[d.Kind] = true
			show.out = append(show.out, out...)
		case !hvm && !strings.ContainsAny(d.Listen, ","):
			var p []string
			for _, a := range out {
				p = append(p, a.name+"="+strings.Trim(a.text, `"`))
			}
			vfb = append(vfb, quote(strings.Join(p, ",")))
		}
	}
	show.out = append(show.out, listOf("vfb", vfb)...)
	return []group{vga, ram, show}
}

// soundModel is xl's word. Models that xl does not have are replaced by one with the same driver, or left out.
func soundModel(model string, fresh bool) string {
	switch model {
	case "hda", "ac97", "es1370", "sb16", "adlib", "cs4231a", "gus":
		return model
	case "ich6", "ich9", "ich7":
		return "hda"
	case "es1371":
		return "es1370"
	}
	if fresh || strings.Contains(model, ",") {
		return ""
	}
	return model
}

// portList is the setting of serial or parallel ports: a string for the first alone.
func portList(name string, ports []machine.Port) []assign {
	var list []string
	for _, p := range ports {
		s := portText(p)
		if s == "" || p.Slot > 3 || p.Slot < 0 {
			continue
		}
		for len(list) <= p.Slot {
			list = append(list, quote("none"))
		}
		list[p.Slot] = quote(s)
	}
	if len(list) == 1 {
		return []assign{{name, list[0]}}
	}
	return listOf(name, list)
}

func portText(p machine.Port) string {
	server := ""
	if p.Server == machine.On {
		server = ",server,nowait"
	}
	switch p.Kind {
	case "file", "pipe":
		return p.Kind + ":" + p.Path
	case "unix":
		return "unix:" + p.Path + server
	case "device":
		return p.Path
	case "tcp":
		if p.Telnet == machine.On {
			return "telnet:" + p.Host + ":" + p.Service + server
		}
		return "tcp:" + p.Host + ":" + p.Service + server
	case "udp":
		return "udp:" + p.Host + ":" + p.Service
	}
	return p.Kind
}

// usbSettings are the bus and what is on it. xl has either usb= with devices, or usbversion=.
func usbSettings(m *machine.Machine, o *origin) []assign {
	var devices []string
	for _, i := range m.Inputs {
		if i.Bus == "usb" && (i.Kind == "tablet" || i.Kind == "mouse" || i.Kind == "keyboard") {
			devices = append(devices, quote(i.Kind))
		}
	}
	for _, d := range m.Others {
		if it, ok := d.Origin.(*item); ok && it.name == "usbdevice" && own(it, o) {
			devices = append(devices, quote(d.Name))
		}
	}
	version, bus := 0, false
	for _, c := range m.Controllers {
		if c.Bus == machine.USB && !c.Implied {
			bus = true
			version = max(version, slices.Index(usbModels, c.Model))
		}
	}
	switch {
	case len(devices) == 1:
		return []assign{{"usb", "1"}, {"usbdevice", devices[0]}}
	case len(devices) > 1:
		return append([]assign{{"usb", "1"}}, listOf("usbdevice", devices)...)
	case version > 0:
		return []assign{{"usbversion", strconv.Itoa(version)}}
	case bus:
		return []assign{{"usb", "1"}}
	}
	return nil
}

// A writer changes a text.
type writer struct {
	o     *origin
	m     *machine.Machine
	spots []spot // of the drives
	edits []edit
	tail  []assign
}

// A spot is where a drive goes.
type spot struct {
	vdev   string // empty: the drive is left out
	why    string
	virtio bool
}

// An edit replaces bytes of the text.
type edit struct {
	start, end int
	text       string
}

// replace writes a group anew: at the place of the last assignment that there is to a name, else at the end.
func (w *writer) replace(g group) {
	for _, name := range g.names {
		at := slices.IndexFunc(g.out, func(a assign) bool { return a.name == name })
		last := -1
		for i, s := range w.o.settings {
			if s.name == name && (!s.add || last < 0) {
				last = i
			}
		}
		for i, s := range w.o.settings {
			switch {
			case s.name != name:
			case i != last || at < 0:
				w.remove(s)
			case s.add:
				w.edits = append(w.edits, edit{s.start, s.val.end, name + " = " + g.out[at].text})
			default:
				w.edits = append(w.edits, edit{s.val.start, s.val.end, g.out[at].text})
			}
		}
	}
	for _, a := range g.out {
		if !slices.ContainsFunc(w.o.settings, func(s setting) bool { return s.name == a.name }) {
			w.tail = append(w.tail, a)
		}
	}
}

// remove takes out an assignment, with its line if nothing else is on it.
func (w *writer) remove(s setting) {
	t := w.o.text
	start, end := s.start, s.val.end
	for start > 0 && (t[start-1] == ' ' || t[start-1] == '\t') {
		start--
	}
	for end < len(t) && (t[end] == ' ' || t[end] == '\t' || t[end] == '\r') {
		end++
	}
	switch {
	case (start == 0 || t[start-1] == '\n') && end < len(t) && t[end] == '\n':
		end++
	case end < len(t) && t[end] == ';':
		start, end = s.start, end+1
	default:
		start, end = s.start, s.val.end
	}
	w.edits = append(w.edits, edit{start, end, ""})
}

// An entry is an item of a list as it is to be: that of the text, or another.
type entry struct {
	index int    // in the text; -1: new
	text  string // without quotes; of one that stays, not looked at
	same  bool
}

// list changes a list of strings. Where items only change or are added, the others stay as they are, with comments.
func (w *writer) list(name string, want []entry) {
	var src []value
	first := -1
	var more []setting
	for i, s := range w.o.settings {
		switch {
		case s.name != name:
		case !s.add || first < 0:
			if first >= 0 {
				more = append(more, w.o.settings[first]) // it does not count
			}
			first, src = i, slices.Clip(s.val.list)
		default:
			src = append(src, s.val.list...)
		}
	}
	for i, s := range w.o.settings {
		if s.name == name && s.add && i > first {
			more = append(more, s)
		}
	}
	if first >= 0 && !w.o.settings[first].val.isLst {
		src = nil
	}
	inPlace := len(want) >= len(src)
	for i, e := range want {
		inPlace = inPlace && (i < len(src)) == (e.index == i)
	}
	if inPlace && (len(src) > 0 || len(want) == 0) {
		for i, e := range want {
			switch {
			case i < len(src) && !e.same:
				w.edits = append(w.edits, edit{src[i].start, src[i].end, quote(e.text)})
			case i >= len(src):
				at := src[len(src)-1].end
				w.edits = append(w.edits, edit{at, at, ", " + quote(e.text)})
			}
		}
		return
	}
	var items []string
	for _, e := range want {
		if e.same {
			items = append(items, string(w.o.text[src[e.index].start:src[e.index].end]))
		} else {
			items = append(items, quote(e.text))
		}
	}
	text := "[ " + strings.Join(items, ", ") + " ]"
	if first < 0 {
		if len(items) > 0 {
			w.tail = append(w.tail, assign{name, text})
		}
		return
	}
	s := w.o.settings[first]
	w.edits = append(w.edits, edit{s.start, s.val.end, name + " = " + text})
	for _, s := range more {
		w.remove(s)
	}
}

// apply returns the text with the edits.
func (w *writer) apply() []byte {
	slices.SortStableFunc(w.edits, func(a, b edit) int { return cmp.Compare(a.start, b.start) })
	var out []byte
	at := 0
	for _, e := range w.edits {
		if e.start < at {
			e.start = min(at, e.end) // two removals that share white space
		}
		out = append(out, w.o.text[at:e.start]...)
		out = append(out, e.text...)
		at = max(at, e.end)
	}
	out = append(out, w.o.text[at:]...)
	if len(w.tail) > 0 && len(out) > 0 && out[len(out)-1] != '\n' {
		out = append(out, '\n')
	}
	for _, a := range w.tail {
		out = append(out, a.name+" = "+a.text+"\n"...)
	}
	return out
}

// item returns the item of the text that o is, or nil.
func (w *writer) item(o machine.Origin, name string) *item {
	if it, ok := o.(*item); ok && own(it, w.o) && it.name == name {
		return it
	}
	return nil
}

// place chooses the names of the drives.
func (w *writer) place() {
	m := w.m
	w.spots = make([]spot, len(m.Drives))
	used := map[place]bool{}  // those of the text, with partitions
	taken := map[place]bool{} // whole disks
	numbers := map[int]bool{} // of disks that are the guest's xvd*
	set := func(i int, p place) bool {
		if taken[p] {
			return false
		}
		// A disk hda is xvda to the guest; an optical drive is not.
		if (p.bus == machine.IDE || p.bus == machine.Xen) && m.Drives[i].Kind == machine.Disk {
			if numbers[p.disk] {
				return false
			}
			numbers[p.disk] = true
		}
		taken[p] = true
		w.spots[i].vdev = deviceName(map[machine.Bus]string{machine.IDE: "hd", machine.SCSI: "sd", machine.Xen: "xvd"}[p.bus], p.disk)
		return true
	}
	next := func(i int, b machine.Bus, from, to int) bool {
		for n := from; n < to; n++ {
			if set(i, place{b, n, 0}) {
				return true
			}
		}
		return false
	}
	const many = 1 << 16
	pv := m.Virtualization == "pv" || m.Virtualization == "pvh"
	done := make([]bool, len(m.Drives))
	for i, d := range m.Drives {
		var was machine.Drive
		it := w.item(d.Origin, "disk")
		if it != nil {
			was = w.o.was.Drives[it.index]
		}
		if why := unwritable(&d); why != "" && (it == nil || d.Media != was.Media || d.Kind != was.Kind) {
			w.spots[i].why, done[i] = why, true
			continue
		}
		if it == nil || was.At != d.At {
			continue
		}
		if p, err := vdevPlace(it.disk.vdev); err == nil && !used[p] {
			used[p], done[i] = true, true
			taken[place{p.bus, p.disk, 0}] = true
			if (p.bus == machine.IDE || p.bus == machine.Xen) && d.Kind == machine.Disk {
				numbers[p.disk] = true
			}
			w.spots[i] = spot{vdev: it.disk.vdev, virtio: it.disk.virtio}
		}
	}
	xen, fresh := m.Platform == "xen", len(w.o.text) == 0
	ide := slices.ContainsFunc(m.Drives, func(d machine.Drive) bool { return d.At.Bus == machine.IDE })
	for i, d := range m.Drives { // those that have a place of the same name
		if done[i] {
			continue
		}
		switch u := d.At.Unit; {
		case pv && d.At.Bus != machine.Xen || u < 0:
		case (d.At.Bus == machine.IDE || d.At.Bus == machine.SATA && !ide) && d.At.Index == 0 && u < 4:
			done[i] = set(i, place{machine.IDE, u, 0})
		case !xen || d.At.Index != 0:
		case d.At.Bus == machine.Xen && !pv && fresh && u < 4:
			// SeaBIOS has no driver for xvda: XenServer, too, shows the first four as IDE, where the guest's drivers find xvda.
			done[i] = set(i, place{machine.IDE, u, 0})
		case d.At.Bus == machine.SCSI && u != 7 && u <= 16 && d.Kind != machine.Optical:
			if u > 7 {
				u--
			}
			done[i] = set(i, place{machine.SCSI, u, 0})
		case d.At.Bus == machine.Xen && u < many && (pv || d.Kind != machine.Optical):
			done[i] = set(i, place{machine.Xen, u, 0})
		case d.At.Bus == machine.Virtio && u < many && d.Kind != machine.Optical:
			if done[i] = set(i, place{machine.Xen, u, 0}); done[i] {
				w.spots[i].virtio = true
			}
		}
	}
	for _, optical := range []bool{true, false} {
		for i, d := range m.Drives {
			switch {
			case done[i] || (d.Kind == machine.Optical) != optical:
			case pv:
				done[i] = next(i, machine.Xen, 0, many)
			default:
				done[i] = next(i, machine.IDE, 0, 4)
				if !done[i] && !optical {
					// hda is xvda to the guest, so those come after them.
					done[i] = next(i, machine.Xen, 4, many)
				}
				if !done[i] {
					w.spots[i].why, done[i] = "left out: xl has four optical drives at most, disks included", true
				}
			}
		}
	}
}

// unwritable says why a drive cannot be one of xl's, or nothing.
func unwritable(d *machine.Drive) string {
	m := d.Media
	format, ok := diskFormat(m)
	switch {
	case d.Kind == machine.Diskette:
		return "left out: xl has no diskette drives"
	case !ok:
		return "left out: xl reads raw, qcow, qcow2, qed and vhd, not " + format
	case strings.IndexFunc(m.Path+m.Host+m.URL, func(r rune) bool { return r < ' ' || r == 0x7f }) >= 0:
		return "left out: a control character in its name"
	case d.Kind == machine.Optical:
		return ""
	case m.Path == "" && m.URL == "" && !strings.HasPrefix(m.Host, "/"):
		return "left out: xl wants a file or a device"
	}
	return ""
}

// diskFormat is xl's word for the format of an image; ok is whether there is one. A format that is not said is told by the
// ending of the name, because xl takes raw.
func diskFormat(m machine.Media) (format string, ok bool) {
	switch m.Format {
	case "raw", "qcow", "qcow2", "qed":
		return m.Format, true
	case "vpc":
		return "vhd", true
	case "":
	default:
		return m.Format, false
	}
	for _, end := range []string{"qcow2", "qcow", "qed", "vhd"} {
		if strings.HasSuffix(strings.ToLower(m.Path), "."+end) {
			return end, true
		}
	}
	for _, end := range []string{"vmdk", "vdi", "vhdx", "hdd", "hds"} {
		if strings.HasSuffix(strings.ToLower(m.Path), "."+end) {
			return end, false
		}
	}
	return "", true
}

// disks are the items of the list disk.
func (w *writer) disks() []entry {
	var list []entry
	for i := range w.m.Drives {
		d, s := &w.m.Drives[i], w.spots[i]
		if s.vdev == "" {
			continue
		}
		it := w.item(d.Origin, "disk")
		var n disk
		var was machine.Drive
		if it != nil {
			n, was = it.disk, w.o.was.Drives[it.index]
			a, b := *d, was
			a.Origin, b.Origin = nil, nil
			if a == b && s.vdev == n.vdev {
				list = append(list, entry{index: it.index, same: true})
				continue
			}
		}
		n.vdev, n.cdrom, n.discard, n.virtio = s.vdev, d.Kind == machine.Optical, d.Discard, s.virtio
		if d.ReadOnly != was.ReadOnly || it == nil {
			n.access = map[machine.Switch]string{machine.On: "ro", machine.Off: "rw"}[d.ReadOnly]
		}
		if d.Shared != was.Shared {
			n.access = strings.TrimSuffix(n.access, "!")
		}
		if n.phy && !strings.HasPrefix(n.target, "/") && n.target != "" {
			n.target = "/dev/" + n.target
		}
		if d.Media != was.Media || it == nil {
			n.setMedia(d.Media)
		}
		e := entry{index: -1, text: n.String()}
		if it != nil {
			e.index = it.index
		}
		list = append(list, e)
	}
	return list
}

// setMedia is the other way round than media.
func (d *disk) setMedia(m machine.Media) {
	d.format, _ = diskFormat(m)
	d.script, d.backend, d.target = "", "", ""
	switch {
	case m.Path != "":
		d.target = m.Path
	case m.URL != "":
		d.target, d.backend = m.URL, "qdisk"
		if s, rest, ok := strings.Cut(m.URL, ":"); ok && strings.HasPrefix(s, "block-") {
			d.script, d.backend, d.target = s, "", rest
		}
	case strings.HasPrefix(m.Host, "/"):
		d.target = m.Host
	default:
		d.format = ""
	}
}

// vifs are the items of the list vif.
func (w *writer) vifs() []entry {
	var list []entry
	for _, n := range w.m.NICs {
		it := w.item(n.Origin, "vif")
		var p []string
		if it != nil {
			a, b := n, w.o.was.NICs[it.index]
			a.Origin, b.Origin, a.Slot, b.Slot = nil, nil, 0, 0
			if a == b {
				list = append(list, entry{index: it.index, same: true})
				continue
			}
		}
		if mac, ok := macAddress(n.MAC); ok {
			p = append(p, "mac="+mac)
		}
		switch {
		case n.Kind == machine.Bridged && bridgeName(n.Network):
			p = append(p, "bridge="+n.Network)
		case n.Kind == machine.NAT:
			p = append(p, "script=vif-nat")
		}
		if model := w.nicModel(n.Model); model != "" {
			p = append(p, model)
		}
		e := entry{index: -1}
		if it != nil {
			for _, k := range it.keys {
				if !strings.HasPrefix(k, "model=") && (!strings.HasPrefix(k, "script=") || n.Kind != machine.NAT) {
					p = append(p, k)
				}
			}
			e.index = it.index
		}
		e.text = strings.Join(p, ",")
		list = append(list, e)
	}
	return list
}

// bridgeName reports whether s can be the name of a bridge, with the VLANs that Open vSwitch's script takes.
func bridgeName(s string) bool {
	head, _, _ := strings.Cut(s, ":")
	return s != "" && len(head) <= 15 && len(s) <= 200 && plain(strings.ReplaceAll(s, ":", ""))
}

// nicModel is the parameter for a model. The manual knows rtl8139 and e1000; the others are devices of each QEMU that
// Xen 4.17 is built with. VMware's are replaced by e1000, which all of VMware's guests have a driver for.
func (w *writer) nicModel(model string) string {
	if w.m.Virtualization == "pv" || w.m.Virtualization == "pvh" {
		return ""
	}
	switch model {
	case "":
		return ""
	case "netfront":
		return "type=vif"
	case "e1000", "rtl8139", "e1000e", "pcnet", "ne2k_pci":
		return "model=" + model
	case "virtio":
		return "model=virtio-net"
	}
	if w.m.Platform == "xen" && plain(model) {
		return "model=" + model
	}
	return "model=e1000"
}
