package qemu

import (
	"fmt"
	"path"
	"strconv"
	"strings"

	"tarvm/formats/machine"
)

// scsiModels are QEMU's controllers for the model's words, with why where they are not the same.
var scsiModels = map[string][2]string{
	"": {"lsi53c895a"}, "lsilogic": {"lsi53c895a"}, "lsisas1068": {"mptsas1068"}, "lsisas1078": {"megasas"},
	"vmpvscsi": {"pvscsi"}, "virtio-scsi": {"virtio-scsi-pci"},
	"buslogic": {"lsi53c895a", "lsi53c895a: QEMU has no BusLogic"},
}

// units is how many drives a controller takes.
var units = map[string]int{
	"": 4, "ich9-ahci": 6, "lsi53c895a": 7, "mptsas1068": 8, "megasas": 64, "pvscsi": 64, "virtio-scsi-pci": 256, "nvme": 256, "usb": 16,
	"virtio": 24, "fdc": 2,
}

// mostControllers is how many of them are added: each takes a slot of the bus, of 32.
const mostControllers = 12

// controller returns one by its name, which it adds.
func (w *writer) controller(kind, id string) *ctl {
	for _, c := range w.ctls {
		if c.kind == kind && c.id == id {
			return c
		}
	}
	if len(w.ctls) >= mostControllers {
		return nil
	}
	c := &ctl{kind: kind, id: id, used: map[int]bool{}}
	w.ctls = append(w.ctls, c)
	switch kind {
	case "", "usb", "virtio":
	case "fdc":
		if w.q35 {
			w.add("-device", "isa-fdc,id="+id)
		}
	case "nvme":
		w.add("-device", "nvme,id="+id+",serial="+id)
	default:
		w.add("-device", kind+",id="+id)
	}
	return c
}

// place finds a controller and a unit on it for a drive: its own if QEMU has that, else the next that is free.
func (w *writer) place(d *machine.Drive, part string) (*ctl, int) {
	a := d.At
	kind, id := "", "ide"
	optical := d.Kind == machine.Optical
	switch a.Bus {
	case machine.IDE:
		if w.q35 || w.virt || a.Index != 0 {
			kind, id = "ich9-ahci", "ahci"+strconv.Itoa(a.Index)
		}
	case machine.SCSI:
		model := ""
		if c := w.m.Controller(a.Bus, a.Index); c != nil {
			model = c.Model
		}
		m, ok := scsiModels[model]
		if !ok {
			m = [2]string{"lsi53c895a", "lsi53c895a: QEMU has none"}
		}
		if w.virt && m[0] == "lsi53c895a" && model == "" {
			m = [2]string{"virtio-scsi-pci"}
		}
		kind, id = m[0], fmt.Sprintf("scsi%d", a.Index)
		if m[1] != "" {
			w.loseOnce(fmt.Sprintf("controller %s%d", a.Bus, a.Index), model+" becomes "+m[1])
		}
	case machine.NVMe:
		if kind, id = "nvme", fmt.Sprintf("nvme%d", a.Index); optical {
			kind, id = "ich9-ahci", "sata0"
		}
	case machine.Virtio:
		if kind, id = "virtio", "virtio"; optical {
			kind, id = "ich9-ahci", "sata0"
		}
	case machine.USB:
		kind, id = "usb", "usb"
	case machine.Floppy:
		kind, id = "fdc", "fdc0"
	case machine.SATA:
		kind, id = "ich9-ahci", fmt.Sprintf("sata%d", a.Index)
	default: // Xen's and SD cards: what most guests have a driver for
		kind, id = "ich9-ahci", "sata0"
	}
	switch {
	case d.Kind == machine.Diskette && !w.virt:
		kind, id = "fdc", "fdc0"
	case d.Kind == machine.Diskette:
		kind, id = "usb", "usb"
	case kind == "fdc":
		kind, id = "ich9-ahci", "sata0"
	}
	if kind == "usb" && w.usb == "" {
		kind, id = "ich9-ahci", "sata0"
	}
	for n := 0; n < mostControllers; n++ {
		c := w.controller(kind, id)
		if c == nil {
			break
		}
		from := 0
		if n == 0 && a.Unit >= 0 && a.Unit < units[kind] && !c.used[a.Unit] && !(a.Unit == 7 && a.Bus == machine.SCSI) {
			from = a.Unit
		}
		for u := from; u < units[kind]; u++ {
			if !c.used[u] && !(u == 7 && a.Bus == machine.SCSI) {
				c.used[u] = true
				if string(a.Bus)+strconv.Itoa(a.Index) != c.id && !same(a, c) || u != a.Unit {
					w.lose(part, "becomes %s, unit %d", strings.TrimSpace(c.kind+" "+c.id), u)
				}
				return c, u
			}
		}
		if kind == "" || kind == "usb" || kind == "virtio" || kind == "fdc" { // there is one of them
			kind = "ich9-ahci"
			if d.Kind == machine.Diskette {
				break
			}
		}
		id = fmt.Sprintf("more-%s-%d", kind, n)
	}
	w.lose(part, "left out: there is no place for it")
	return nil, 0
}

// same reports whether a controller is what an address names, though its name is another.
func same(a machine.Address, c *ctl) bool {
	switch a.Bus {
	case machine.IDE:
		return c.kind == "" && a.Index == 0
	case machine.Virtio:
		return c.kind == "virtio"
	case machine.USB:
		return c.kind == "usb"
	case machine.Floppy:
		return c.kind == "fdc"
	}
	return false
}

func (w *writer) loseOnce(part, what string) {
	for _, l := range w.losses {
		if l.Part == part && l.What == what {
			return
		}
	}
	w.lose(part, "%s", what)
}

func (w *writer) drives() {
	for i := range w.m.Drives {
		d := &w.m.Drives[i]
		part := "drive " + d.At.String()
		media, ok := w.media(d, part, i)
		if !ok {
			continue
		}
		c, unit := w.place(d, part)
		if c == nil {
			continue
		}
		dev := ""
		kind := "hd"
		if d.Kind == machine.Optical {
			kind = "cd"
		}
		ssd := ""
		if d.SSD == machine.On && kind == "hd" {
			ssd = ",rotation_rate=1"
		}
		switch c.kind {
		case "":
			dev = fmt.Sprintf("ide-%s,bus=ide.%d,unit=%d%s", kind, unit/2, unit%2, ssd)
		case "ich9-ahci":
			dev = fmt.Sprintf("ide-%s,bus=%s.%d%s", kind, c.id, unit, ssd)
		case "nvme":
			dev = fmt.Sprintf("nvme-ns,bus=%s,nsid=%d", c.id, unit+1)
		case "virtio":
			dev = "virtio-blk-pci"
		case "usb":
			dev = "usb-storage,bus=" + w.usb
			if d.Removable == machine.On {
				dev += ",removable=on"
			}
		case "fdc":
			dev = fmt.Sprintf("floppy,unit=%d", unit)
		default:
			dev = fmt.Sprintf("scsi-%s,bus=%s.0,scsi-id=%d%s", kind, c.id, unit, ssd)
		}
		dev += ",id=drive" + strconv.Itoa(i)
		if media != "" {
			w.add("-drive", media)
			dev += ",drive=media" + strconv.Itoa(i)
		} else if c.kind == "usb" || c.kind == "virtio" || c.kind == "nvme" {
			w.lose(part, "left out: there is nothing in it")
			continue
		}
		if d.Serial != "" && c.kind != "nvme" && c.kind != "fdc" && !strings.ContainsRune(d.Serial, 0) {
			dev += ",serial=" + escape(d.Serial)
		} else if d.Serial != "" {
			w.lose(part, "serial number %s is left out", d.Serial)
		}
		if d.Shared == machine.On && media != "" && c.kind != "fdc" {
			dev += ",share-rw=on"
		}
		w.add("-device", dev+w.boot(fmt.Sprintf("drive %d", i)))
	}
}

// endings are what names of images that say no format end in.
var endings = map[string]string{".raw": "raw", ".img": "raw", ".vmdk": "vmdk", ".qcow2": "qcow2", ".vdi": "vdi", ".vhd": "vpc",
	".vhdx": "vhdx", ".qed": "qed"}

// media returns the option for what is in a drive: nothing for an empty one; ok is false when there cannot be a drive.
func (w *writer) media(d *machine.Drive, part string, i int) (s string, ok bool) {
	m := d.Media
	id := "if=none,id=media" + strconv.Itoa(i)
	empty := d.Kind == machine.Optical || d.Kind == machine.Diskette
	none := func(why string) (string, bool) {
		if empty {
			w.lose(part, "starts empty: %s", why)
		} else {
			w.lose(part, "left out: %s", why)
		}
		return "", empty
	}
	switch {
	case empty && d.Connected == machine.Off && m != (machine.Media{}):
		return none("its medium is not connected")
	case m.Path != "":
		f, ok := w.file(m.Path)
		if !ok {
			return none(m.Path + " is not in the script's folder")
		}
		id += ",file.driver=file,file.filename=" + escape(f)
	case m.URL != "":
		if !w.o.Host || strings.ContainsRune(m.URL, 0) {
			return none(m.URL + " is on a network")
		}
		id += ",file=" + escape(m.URL)
	case m.Host != "":
		if !w.o.Host || !path.IsAbs(m.Host) || strings.ContainsRune(m.Host, 0) {
			return none(m.Host + " is a device of the host")
		}
		driver := "host_device"
		if d.Kind == machine.Optical {
			driver = "host_cdrom"
		}
		id += ",file.driver=" + driver + ",file.filename=" + escape(m.Host)
	default:
		if empty {
			return "", true
		}
		return none("it has no medium")
	}
	format := m.Format
	switch end := strings.ToLower(path.Ext(m.Path)); {
	case format != "":
	case empty:
		format = "raw"
	default: // else QEMU looks into it
		format = endings[end]
	}
	if word(format) {
		id += ",format=" + format
	} else if format != "" {
		return none("format " + format)
	}
	switch {
	case d.Kind == machine.Optical:
		id += ",media=cdrom,readonly=on"
	case d.ReadOnly == machine.On:
		id += ",readonly=on"
	}
	if d.Transient == machine.On {
		id += ",snapshot=on"
	}
	switch d.Cache {
	case "none", "writeback", "writethrough", "directsync", "unsafe":
		id += ",cache=" + d.Cache
	case "", "default":
	default:
		w.lose(part, "cache %s is left out", d.Cache)
	}
	if d.Discard == machine.On {
		id += ",discard=unmap"
	}
	return id, true
}
