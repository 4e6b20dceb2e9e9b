package ovf

import (
	"slices"
	"strconv"
	"strings"

	"github.com/beevik/etree"

	"tarvm/formats/machine"
)

// box writes VirtualBox's own configuration when it has words for something that OVF has none for: VirtualBox goes by it
// and takes only the disks from the OVF. Source: Main/xml/Settings.cpp of VirtualBox 7.2, and what it exports.
func (r *rack) box(el *etree.Element) {
	m := r.m
	if r.keep {
		if r.got == nil || !r.boxed() {
			return
		}
	} else if !r.boxNeeded() {
		return
	}
	b := el.CreateElement("vbox:Machine")
	b.CreateAttr("ovf:required", "false")
	b.CreateAttr("version", "1.19-linux")
	id := m.UUID
	if id == "" || r.o.NewIdentity {
		id = made("machine", r.v.ID, m.Name)
	}
	if !r.keep || m.UUID != "" {
		b.CreateAttr("uuid", "{"+id+"}")
	}
	name := m.Name
	if name == "" {
		name = r.v.ID
	}
	b.CreateAttr("name", name)
	if _, _, os := guestNames(m.Guest, r.keep); os != "" {
		b.CreateAttr("OSType", os)
	} else if !r.keep {
		b.CreateAttr("OSType", "Other_64")
	}
	if !r.keep {
		b.CreateAttr("snapshotFolder", "Snapshots")
		b.CreateAttr("lastStateChange", "1970-01-01T00:00:00Z")
		add(b, "ovf:Info", "Complete VirtualBox machine configuration in VirtualBox format")
		if m.Notes != "" {
			add(b, "Description", m.Notes)
		}
	}
	h := b.CreateElement("Hardware")
	if !r.keep {
		r.boxHardware(h)
	}
	if m.Firmware.Type != "" || !r.keep {
		f := h.CreateElement("Firmware")
		if m.Firmware.Type == "efi" {
			f.CreateAttr("type", "EFI64")
		}
	}
	if m.TPM != nil {
		v := "v2_0"
		if m.TPM.Version == "1.2" {
			v = "v1_2"
		}
		t := h.CreateElement("TrustedPlatformModule")
		t.CreateAttr("type", v)
		if !r.keep {
			t.CreateAttr("location", "")
		}
	}
	switch m.Chipset {
	case "q35":
		h.CreateElement("Chipset").CreateAttr("type", "ICH9")
	case "i440fx":
		h.CreateElement("Chipset").CreateAttr("type", "PIIX3")
	}
	switch m.Clock {
	case "utc":
		h.CreateElement("RTC").CreateAttr("localOrUTC", "UTC")
	case "localtime":
		h.CreateElement("RTC").CreateAttr("localOrUTC", "local")
	}
	if !r.keep {
		r.boxNetwork(h)
		r.boxStorage(h)
	}
}

func (r *rack) boxNeeded() bool {
	m := r.m
	if m.Firmware.Type == "efi" || m.TPM != nil || m.Chipset == "q35" || m.Clock != "" {
		return true
	}
	return !r.o.NewIdentity && (m.UUID != "" || slices.ContainsFunc(m.NICs, func(n machine.NIC) bool { return n.MAC != "" })) ||
		slices.ContainsFunc(m.NICs, func(n machine.NIC) bool { return n.Kind == machine.Internal && n.Network != "" })
}

// boxed reports whether the document has VirtualBox's configuration of this machine.
func (r *rack) boxed() bool {
	if r.got.hardware == nil || r.got.hardware.Parent() == nil {
		return false
	}
	return slices.ContainsFunc(r.got.hardware.Parent().ChildElements(), func(e *etree.Element) bool {
		return e.Tag == "Machine" && strings.Contains(e.NamespaceURI(), "virtualbox.org")
	})
}

func (r *rack) boxHardware(h *etree.Element) {
	m := r.m
	cpu := h.CreateElement("CPU")
	cpu.CreateAttr("count", strconv.Itoa(max(m.CPU.Count, 1)))
	cpu.CreateElement("PAE").CreateAttr("enabled", strconv.FormatBool(m.Features.PAE == machine.On))
	cpu.CreateElement("LongMode").CreateAttr("enabled", strconv.FormatBool(m.Arch != "i686"))
	memory := m.Memory.Bytes
	if memory == 0 {
		memory = 1 << 30
	}
	h.CreateElement("Memory").CreateAttr("RAMSize", strconv.FormatInt((memory+1<<20-1)>>20, 10))
	d := h.CreateElement("Display")
	d.CreateAttr("controller", "VMSVGA")
	d.CreateAttr("VRAMSize", "16")
	bios := h.CreateElement("BIOS")
	bios.CreateElement("ACPI").CreateAttr("enabled", strconv.FormatBool(m.Features.ACPI != machine.Off))
	bios.CreateElement("IOAPIC").CreateAttr("enabled", strconv.FormatBool(m.Features.APIC != machine.Off))
	for _, c := range m.Controllers {
		if c.Bus != machine.USB {
			continue
		}
		usb := child(h, "USB")
		if usb == nil {
			usb = h.CreateElement("USB")
			usb.CreateElement("Controllers")
		}
		typ := map[string]string{"ehci": "EHCI", "xhci": "XHCI"}[c.Model]
		if typ == "" {
			typ = "OHCI"
		}
		list := child(usb, "Controllers")
		if slices.ContainsFunc(list.ChildElements(), func(e *etree.Element) bool { return attr(e, "type") == typ }) {
			continue
		}
		x := list.CreateElement("Controller")
		x.CreateAttr("name", typ)
		x.CreateAttr("type", typ)
	}
	if len(m.Sounds) > 0 {
		a := h.CreateElement("AudioAdapter")
		a.CreateAttr("controller", map[string]string{"hda": "HDA", "ich9": "HDA", "sb16": "SB16"}[m.Sounds[0].Model])
		if a.Attr[0].Value == "" {
			a.Attr[0].Value = "AC97"
		}
		a.CreateAttr("useDefault", "true")
		a.CreateAttr("enabled", "true")
		a.CreateAttr("enabledOut", "true")
	}
}

func (r *rack) boxNetwork(h *etree.Element) {
	nets := h.CreateElement("Network")
	for i := range r.m.NICs {
		n := &r.m.NICs[i]
		if i >= 8 {
			break
		}
		a := nets.CreateElement("Adapter")
		a.CreateAttr("slot", strconv.Itoa(i))
		a.CreateAttr("enabled", "true")
		if n.MAC != "" && !r.o.NewIdentity {
			a.CreateAttr("MACAddress", strings.ToUpper(strings.ReplaceAll(n.MAC, ":", "")))
		}
		if n.Connected == machine.Off {
			a.CreateAttr("cable", "false")
		}
		typ := map[string]string{"pcnet": "Am79C973", "virtio": "virtio", "e1000-82543gc": "82543GC", "e1000-82545em": "82545EM"}[n.Model]
		if typ == "" {
			typ = "82540EM"
		}
		a.CreateAttr("type", typ)
		switch n.Kind {
		case machine.Bridged:
			a.CreateElement("BridgedInterface")
		case machine.HostOnly:
			a.CreateElement("HostOnlyInterface")
		case machine.Internal:
			name := n.Network
			if name == "" {
				name = "intnet"
			}
			a.CreateElement("InternalNetwork").CreateAttr("name", name)
		case machine.NoNet:
		default:
			a.CreateElement("NAT")
		}
	}
}

func (r *rack) boxStorage(h *etree.Element) {
	list := h.CreateElement("StorageControllers")
	for _, s := range r.slots {
		name, typ, ports := "", "", 0
		switch s.bus {
		case machine.IDE:
			name, typ, ports = "IDE", "PIIX4", 2
			if m := strings.ToUpper(s.model); m == "PIIX3" || m == "ICH6" {
				typ = m
			}
		case machine.SATA:
			name, typ, ports = "SATA", "AHCI", 1
		case machine.NVMe:
			name, typ, ports = "NVMe", "NVMe", 1
		case machine.Floppy:
			name, typ, ports = "Floppy", "I82078", 1
		case machine.SCSI:
			switch s.model {
			case "buslogic":
				name, typ, ports = "BusLogic", "BusLogic", 16
			case "lsisas1068":
				name, typ, ports = "SAS", "LsiLogicSas", 1
			case "virtio-scsi":
				name, typ, ports = "VirtioSCSI", "VirtioSCSI", 1
			default:
				name, typ, ports = "SCSI", "LsiLogic", 16
			}
		}
		for unit := range s.taken {
			if s.bus == machine.SATA || s.bus == machine.NVMe || typ == "LsiLogicSas" || typ == "VirtioSCSI" {
				ports = max(ports, unit+1)
			}
		}
		c := list.CreateElement("StorageController")
		c.CreateAttr("name", name)
		c.CreateAttr("type", typ)
		c.CreateAttr("PortCount", strconv.Itoa(ports))
		c.CreateAttr("useHostIOCache", strconv.FormatBool(s.bus == machine.IDE || s.bus == machine.Floppy))
		c.CreateAttr("Bootable", "true")
		for i := range r.drive {
			a := &r.drive[i]
			if a.at != s {
				continue
			}
			r.boxDevice(c, a)
		}
	}
}

func (r *rack) boxDevice(c *etree.Element, a *attached) {
	x := c.CreateElement("AttachedDevice")
	switch a.d.Kind {
	case machine.Optical:
		x.CreateAttr("passthrough", "false")
		x.CreateAttr("type", "DVD")
	case machine.Diskette:
		x.CreateAttr("type", "Floppy")
	default:
		x.CreateAttr("type", "HardDisk")
	}
	x.CreateAttr("hotpluggable", "false")
	port, device := a.unit, 0
	switch a.at.bus {
	case machine.IDE:
		port, device = a.unit/2, a.unit%2
	case machine.Floppy:
		port, device = 0, a.unit
	}
	x.CreateAttr("port", strconv.Itoa(port))
	x.CreateAttr("device", strconv.Itoa(device))
	if a.disk == "" {
		return
	}
	for i := range r.disks {
		// The image and the disk of the OVF are one by this.
		if v := &r.disks[i]; v.ID == a.disk {
			if v.UUID == "" || r.o.NewIdentity {
				v.UUID = made("disk", r.v.ID, v.ID, v.FileRef)
			}
			x.CreateElement("Image").CreateAttr("uuid", "{"+v.UUID+"}")
		}
	}
}
