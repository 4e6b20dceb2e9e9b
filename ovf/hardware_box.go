package ovf

import (
	"fmt"
	"slices"
	"strings"

	"github.com/beevik/etree"

	"tarvm/formats/machine"
	"tarvm/formats/vbox"
)

// boxInfo is what VirtualBox says of its own settings in an envelope.
const boxInfo = "Complete VirtualBox machine configuration in VirtualBox format"

// boxCopyInfo stands in its place where the settings are a second description, for VirtualBox alone, of hardware that is
// for others: whoever reads the envelope again goes by the Items.
const boxCopyInfo = "The hardware above in VirtualBox format: VirtualBox finds EFI nowhere else"

// box writes VirtualBox's own settings, as VirtualBox always does: it goes by them, and takes no more than disks and the
// file of variables from the rest. Source: Main/xml/Settings.cpp of VirtualBox 7.2, and what it exports.
func (r *rack) box(el *etree.Element) {
	if r.keep {
		// As in the document: what is not changed is equal, and stays.
		if b := r.keptBox(); b != nil {
			el.AddChild(b)
		}
		return
	}
	b, losses, err := vbox.EncodeElement(r.boxMachine(), machine.EncodeOptions{})
	if err != nil {
		r.lose("machine", "VirtualBox's own settings are left out: %v", err)
		return
	}
	for _, l := range losses {
		r.lose(l.Part, "%s", l.What)
	}
	b.Space = "vbox"
	b.Attr = slices.Insert(b.Attr, 0, etree.Attr{Space: "ovf", Key: "required", Value: "false"})
	tighten(b)
	if child(b, "Info") == nil {
		info := etree.NewElement("ovf:Info")
		info.SetText(boxInfo)
		b.InsertChildAt(0, info)
	}
	el.AddChild(b)
}

// tighten takes out the white space between elements, in place of which an envelope has its own.
func tighten(e *etree.Element) {
	list := e.ChildElements()
	if len(list) > 0 {
		e.Child = nil
		for _, c := range list {
			tighten(c)
			e.AddChild(c)
		}
	}
}

// boxMachine returns the machine with the places and the disks that it has in the envelope, and without what is the
// host's: directories, files behind ports, and how its screen is reached are nobody's business on another host.
func (r *rack) boxMachine() *machine.Machine {
	m := r.m.Clone()
	if m.Name == "" {
		m.Name = r.v.ID
	}
	if r.o.NewIdentity {
		m.UUID, m.InstanceUUID, m.GenerationID = "", "", ""
		for i := range m.NICs {
			m.NICs[i].MAC = ""
		}
	}
	if m.Version != "1" && m.Version != "2" {
		m.Version = "" // the envelope's family
	}
	if !slices.Contains([]string{"", "x86_64", "i686", "aarch64"}, m.Arch) {
		r.lose("arch", "left out: %s", m.Arch)
		m.Arch = ""
	}
	if m.Guest.VirtualBox == "" && m.Guest.InVirtualBox() == "" && m.Arch == "" {
		m.Guest.VirtualBox = "Other_64" // else a processor of 32 bits
	}
	if len(m.Videos) == 0 {
		m.Videos = []machine.Video{{Model: "vmvga", Memory: 16 << 20}} // else one that new guests have no driver for
	}
	if v := &m.Videos[0]; v.Model == "" {
		v.Model = "vmvga" // VMware's
	}
	m.Memory.Bytes = (m.Memory.Bytes + 1<<20 - 1) &^ (1<<20 - 1) // as its Item is rounded
	m.Firmware.Vars = machine.Media{}                            // its Item says it
	m.Shares, m.Displays, m.Parallels = nil, nil, nil
	for i := range m.Serials {
		p := &m.Serials[i]
		*p = machine.Port{Slot: p.Slot, Origin: p.Origin}
	}
	m.Others = slices.DeleteFunc(m.Others, func(o machine.Other) bool { return !r.boxOwn(&o) || o.Kind == "snapshot" || o.Kind == "saved-state" })
	m.Controllers = slices.DeleteFunc(m.Controllers, func(c machine.Controller) bool { return c.Bus != machine.USB })
	for _, s := range r.slots {
		c := machine.Controller{Bus: s.bus, Index: s.index, Model: s.model, Implied: s.implied}
		if s.source != nil {
			c.Ports, c.Origin = s.source.Ports, s.source.Origin
		}
		m.Controllers = append(m.Controllers, c)
	}
	m.Drives = nil
	for i := range r.drive {
		a := &r.drive[i]
		d := *a.d
		d.At = machine.Address{Bus: a.at.bus, Index: a.at.index, Unit: a.unit}
		d.Media = machine.Media{UUID: r.boxImage(a)}
		if d.Kind != machine.Disk {
			d.Connected = machine.Unsaid // or a medium that is in the package would be nowhere
		}
		// That is said where images are registered, which an envelope does not have: see flags.
		d.ReadOnly, d.Shared, d.Transient, d.Independent = machine.Unsaid, machine.Unsaid, machine.Unsaid, machine.Unsaid
		m.Drives = append(m.Drives, d)
	}
	return m
}

// boxImage returns the UUID by which the settings name the disk in a drive, and that the disk has in the DiskSection: by
// this the two are one.
func (r *rack) boxImage(a *attached) string {
	for i := range r.disks {
		if v := &r.disks[i]; v.ID == a.disk && a.disk != "" {
			if v.UUID == "" || r.o.NewIdentity {
				v.UUID = madeImage(r.v, v)
			}
			return v.UUID
		}
	}
	return ""
}

func madeImage(v *System, d *VirtualDisk) string { return made("disk", v.ID, d.ID, d.FileRef) }

// boxImages takes the UUIDs from disks that have them only because a copy of the hardware names them so.
func (d *decoder) boxImages() {
	disks := make(map[string]*VirtualDisk, len(d.e.Disks))
	for i := range d.e.Disks {
		disks[d.e.Disks[i].ID] = &d.e.Disks[i]
	}
	for i := range d.e.Systems {
		v := &d.e.Systems[i]
		if !d.systems[i].copied {
			continue
		}
		for j := range v.Machine.Drives {
			drive := &v.Machine.Drives[j]
			if disk := disks[from(drive.Origin).disk]; disk != nil && disk.UUID == madeImage(v, disk) {
				disk.UUID, drive.Media.UUID = "", ""
			}
		}
	}
}

// boxOwn reports whether a device is one that only VirtualBox's settings have words for, and comes from such.
func (r *rack) boxOwn(o *machine.Other) bool {
	return r.profile == VirtualBox && !r.keep && o.Origin != nil && o.Origin.Form() == vbox.Form{}.Name()
}

// keptBox returns the settings in the document with what was changed of the machine; nil: there are none.
func (r *rack) keptBox() *etree.Element {
	if !r.boxed() {
		return nil
	}
	b, err := vbox.DecodeElement(r.got.box)
	if err != nil {
		return nil // it was read
	}
	m := r.m
	b.Name, b.UUID, b.InstanceUUID = m.Name, m.UUID, m.InstanceUUID
	if m.Guest.VirtualBox != "" {
		b.Guest.VirtualBox = m.Guest.VirtualBox
	}
	b.Arch, b.Chipset, b.Clock, b.Boot, b.Features = m.Arch, m.Chipset, m.Clock, m.Boot, m.Features
	b.Firmware.Type = m.Firmware.Type
	b.CPU.Count, b.CPU.Max, b.CPU.HotAdd, b.CPU.Nested = m.CPU.Count, m.CPU.Max, m.CPU.HotAdd, m.CPU.Nested
	b.Memory.Bytes = m.Memory.Bytes
	switch {
	case m.TPM == nil:
		b.TPM = nil
	case b.TPM == nil:
		b.TPM = &machine.TPM{Version: m.TPM.Version, Backend: m.TPM.Backend}
	default:
		b.TPM.Version, b.TPM.Backend = m.TPM.Version, m.TPM.Backend
	}
	if len(m.Videos) > 0 && len(b.Videos) > 0 {
		v := m.Videos[0]
		v.Origin = b.Videos[0].Origin
		b.Videos[0] = v
	}
	if len(m.NICs) == len(b.NICs) {
		for i := range m.NICs {
			n, to := &m.NICs[i], &b.NICs[i]
			to.MAC, to.Model, to.Connected = n.MAC, n.Model, n.Connected
			if n.Kind != machine.Named { // VirtualBox has none, and attaches it to what it has in its place
				to.Kind, to.Network = n.Kind, n.Network
			}
		}
	}
	e, _, err := vbox.EncodeElement(b, machine.EncodeOptions{})
	if err != nil {
		r.lose("machine", "VirtualBox's own settings stay as they were: %v", err)
		return nil
	}
	return e
}

// copyBox writes VirtualBox's settings beside hardware that is for others, if the firmware is EFI: VirtualBox reads only
// there that it is.
func (r *rack) copyBox(el *etree.Element, index int) {
	b, losses := r.boxFor(r.v, index)
	if b == nil {
		r.lose("firmware", "it is a BIOS to VirtualBox: %v", losses)
		return
	}
	el.AddChild(b)
	r.uuids = true
}

// boxFor makes VirtualBox's settings of a system, as an envelope for VirtualBox has them. The disks get the UUIDs by which
// the settings name them. What VirtualBox has no words for it would not take from the Items either: that is no loss of
// the envelope's. Without settings, the losses say why.
func (w *writer) boxFor(v *System, index int) (*etree.Element, []machine.Loss) {
	in := newWriter(w.e, EncodeOptions{Profile: VirtualBox, NewIdentity: w.o.NewIdentity}, w.src, false)
	in.root, in.files, in.disks, in.networks = etree.NewElement("Envelope"), slices.Clone(w.files), slices.Clone(w.disks), slices.Clone(w.networks)
	b := child(in.system(v, index), "Machine")
	if b == nil {
		return nil, in.losses
	}
	setText(child(b, "Info"), boxCopyInfo)
	there := make(map[string]bool)
	for i := range w.disks {
		w.disks[i].UUID = in.disks[i].UUID
		there[in.disks[i].UUID] = true
	}
	// Images that are disks for VirtualBox alone: their drives are empty there.
	for _, i := range b.FindElements(".//AttachedDevice/Image") {
		if !there[strings.Trim(attr(i, "uuid"), "{}")] {
			remove(i.Parent(), i)
		}
	}
	return b, in.losses
}

// BoxSettings returns VirtualBox's own settings of the i-th system as a vbox:Machine, which a VirtualSystem may have
// beside its hardware, and the UUIDs by which they name disks, by the IDs of these: vbox:uuid of their elements. Prefixes
// ovf and vbox are used; children without a prefix are the envelope's.
func (e *Envelope) BoxSettings(i int) (*etree.Element, map[string]string, error) {
	w := newWriter(e, EncodeOptions{}, nil, false)
	b, losses := w.boxFor(&e.Systems[i], i)
	if b == nil {
		return nil, nil, fmt.Errorf("%w: VirtualBox's own settings: %v", machine.ErrUnsupported, losses)
	}
	disks := make(map[string]string)
	for _, d := range w.disks {
		if d.UUID != "" {
			disks[d.ID] = d.UUID
		}
	}
	return b, disks, nil
}

// boxed reports whether VirtualBox's own settings of this machine are in the document, which is changed.
func (r *rack) boxed() bool {
	return r.keep && r.got != nil && r.got.box != nil && r.profile == VirtualBox
}

// box reads VirtualBox's own settings: what OVF has no words for, and what they say more exactly. What is the host's is
// left there: who made a package does not choose which files, directories and ports of another host are used.
func (d *decoder) box(el *etree.Element, got *decoded, m *machine.Machine) {
	b, err := vbox.DecodeElement(el)
	if err != nil {
		d.problem(Warning, "Machine "+attr(el, "name"), "VirtualBox's own settings are not read: %v", err)
		return
	}
	got.box = el
	m.UUID, m.InstanceUUID, m.Arch = b.UUID, b.InstanceUUID, b.Arch
	// Other_64 is what stands there when nobody said.
	if t := b.Guest.VirtualBox; m.Guest.VirtualBox == "" && t != "" && !strings.HasPrefix(t, "Other") {
		m.Guest.VirtualBox = t
	}
	if b.Firmware.Type != "" {
		m.Firmware.Type = b.Firmware.Type
	}
	m.Chipset, m.Clock, m.Boot, m.Features = b.Chipset, b.Clock, b.Boot, b.Features
	m.CPU.Max, m.CPU.HotAdd, m.CPU.Nested = b.CPU.Max, b.CPU.HotAdd, b.CPU.Nested
	if m.TPM = b.TPM; b.TPM != nil {
		m.TPM.Origin = &origin{box: true}
	}
	mine := &origin{box: true}
	if m.Videos == nil {
		for _, v := range b.Videos {
			v.Origin = mine
			m.Videos = append(m.Videos, v)
		}
	}
	for _, v := range b.Inputs {
		m.Inputs = append(m.Inputs, machine.Input{Kind: v.Kind, Bus: v.Bus, Origin: mine})
	}
	if len(m.Serials) == 0 {
		for _, p := range b.Serials {
			m.Serials = append(m.Serials, machine.Port{Slot: p.Slot, Origin: mine})
		}
	}
	for i := range min(len(m.Serials), len(b.Serials)) {
		m.Serials[i].Slot = b.Serials[i].Slot
	}
	for i := range min(len(m.Sounds), len(b.Sounds)) {
		m.Sounds[i].Model = b.Sounds[i].Model // the Item always says the same
	}
	boxControllers(m, b)
	boxDrives(m, b)
	// The Items are made of the adapters that are switched on, in their order.
	for i := range min(len(m.NICs), len(b.NICs)) {
		n, from := &m.NICs[i], &b.NICs[i]
		n.Slot = from.Slot
		if n.Kind != machine.Named || from.Kind == machine.NAT && n.Network == "NATNetwork" {
			n.Kind, n.Network = from.Kind, from.Network
		}
		if n.MAC == "" {
			n.MAC = from.MAC
		}
		if from.Model != "" {
			n.Model = from.Model
		}
	}
}

// boxControllers takes over what an Item does not say of a controller, and USB, of which there may be one Item for several.
func boxControllers(m, b *machine.Machine) {
	used := make([]bool, len(m.Controllers))
	for _, c := range b.Controllers {
		i := slices.IndexFunc(m.Controllers, func(x machine.Controller) bool {
			return x.Bus == c.Bus && (x.Model == c.Model || x.Model == "")
		})
		for ; i >= 0 && i < len(used) && used[i]; i++ {
			if next := slices.IndexFunc(m.Controllers[i+1:], func(x machine.Controller) bool { return x.Bus == c.Bus && x.Model == c.Model }); next < 0 {
				i = len(used)
			} else {
				i += next
			}
		}
		switch {
		case i >= 0 && i < len(used):
			used[i] = true
			m.Controllers[i].Model, m.Controllers[i].Ports = c.Model, c.Ports
		case c.Bus == machine.USB && !c.Implied:
			index := 0
			for m.Controller(machine.USB, index) != nil {
				index++
			}
			m.Controllers = append(m.Controllers, machine.Controller{Bus: machine.USB, Index: index, Model: c.Model, Ports: c.Ports, Origin: &origin{box: true}})
		}
	}
}

// boxDrives takes over what an Item does not say of a drive, which the settings have with the same image or place.
func boxDrives(m, b *machine.Machine) {
	for i := range m.Drives {
		d := &m.Drives[i]
		n := slices.IndexFunc(b.Drives, func(x machine.Drive) bool {
			return x.Kind == d.Kind && (d.Media.UUID != "" && x.Media.UUID == d.Media.UUID || d.Media.UUID == "" && x.At == d.At)
		})
		if n >= 0 {
			from := &b.Drives[n]
			d.Removable, d.SSD, d.Discard = from.Removable, from.SSD, from.Discard
		}
	}
}
