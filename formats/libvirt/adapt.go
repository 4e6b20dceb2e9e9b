package libvirt

import (
	"fmt"
	"strings"

	"tarvm/formats/machine"
)

// adapt makes of a machine one that QEMU can be: its chipset, its controllers, and where its drives are.
func (e *encoder) adapt() {
	m := e.m
	m.Origin = nil
	own := m.Platform == "kvm" || m.Platform == "qemu"
	if m.Features.ACPI == machine.Unsaid && (!own && e.x86 || m.Firmware.Type == "efi") {
		m.Features.ACPI = machine.On
	}
	if m.Features.APIC == machine.Unsaid && !own && e.x86 {
		m.Features.APIC = machine.On
	}
	if !e.x86 {
		m.Features.APIC, m.Features.PAE = machine.Unsaid, machine.Unsaid
	}
	if m.Firmware.SecureBoot == machine.On && m.Firmware.Type == "" {
		m.Firmware.Type = "efi"
	}
	chipset := e.chipset()
	switch {
	case own && m.Version != "" && chipsetOf(m.Version) == chipset:
	case chipset == "i440fx":
		m.Version = "pc"
	default:
		m.Version = chipset
	}
	if m.Chipset != "" && m.Chipset != chipset {
		e.lose(sPlatform, "chipset", "%s becomes %s", m.Chipset, chipset)
	}
	m.Chipset = chipset
	e.moveDrives()
	e.possible()
}

// chipset chooses one.
func (e *encoder) chipset() string {
	m := e.m
	if !e.x86 {
		switch m.Arch {
		case "aarch64", "armv7l", "riscv64", "loongarch64":
			return "virt"
		}
		return m.Chipset
	}
	if m.Firmware.SecureBoot == machine.On {
		return "q35" // it needs the chipset's system management mode
	}
	if m.Chipset == "q35" || m.Chipset == "i440fx" {
		return m.Chipset
	}
	buses := map[machine.Bus]int{}
	for _, d := range m.Drives {
		buses[d.At.Bus]++
	}
	switch {
	case buses[machine.IDE] > 0:
		return "i440fx"
	case m.Firmware.Type == "efi":
		return "q35"
	case len(m.Drives) > 0 && buses[machine.SATA]+buses[machine.NVMe]+buses[machine.Floppy] == len(m.Drives) && buses[machine.Floppy] < len(m.Drives):
		return "q35"
	}
	return "i440fx"
}

// scsiLimit is the number of units of a controller.
func (e *encoder) scsiLimit(index int) int {
	if c := e.m.Controller(machine.SCSI, index); c != nil {
		if v, ok := qemuSCSI[c.Model]; ok {
			return v.drives
		}
	}
	return qemuSCSI[""].drives
}

// maxControllers of one bus: for each number libvirt adds those below it. No other form numbers more than 30.
const maxControllers = 64

// fits tells whether QEMU's chipset has a place for a drive where it is.
func (e *encoder) fits(d *machine.Drive) bool {
	if d.At.Index >= maxControllers {
		return false
	}
	optical, disk := d.Kind == machine.Optical, d.Kind == machine.Disk || d.Kind == machine.LUN
	switch d.At.Bus {
	case machine.IDE:
		return e.m.Chipset == "i440fx" && d.At.Index == 0 && d.At.Unit < 4 && (disk || optical)
	case machine.SATA:
		return d.At.Unit < 6 && (disk || optical)
	case machine.SCSI:
		return d.At.Unit < e.scsiLimit(d.At.Index) && (disk || optical)
	case machine.USB:
		return disk || optical
	case machine.Virtio:
		return disk && d.At.Unit < 1<<10
	case machine.Floppy:
		return e.x86 && d.Kind == machine.Diskette && d.At.Index == 0 && d.At.Unit < 2
	}
	return false
}

// room is how many drives a controller of a bus takes, and how many controllers there can be.
func (e *encoder) room(b machine.Bus, index int) (units, controllers int) {
	switch b {
	case machine.IDE:
		return 4, 1
	case machine.Floppy:
		return 2, 1
	case machine.SATA:
		return 6, maxControllers
	case machine.SCSI:
		return e.scsiLimit(index), maxControllers
	}
	return 1 << 10, 1
}

// elsewhere is the bus of a drive that does not fit where it is.
func (e *encoder) elsewhere(d *machine.Drive) machine.Bus {
	disk := d.Kind == machine.Disk || d.Kind == machine.LUN
	switch b := d.At.Bus; {
	case d.Kind == machine.Diskette:
		return machine.Floppy
	case b == machine.Xen && disk:
		return machine.Virtio // has drivers for a hypervisor's disks, at least
	case b == machine.SCSI && (disk || d.Kind == machine.Optical):
		return machine.SCSI
	case e.m.Chipset == "i440fx" && d.Kind == machine.Optical && b != machine.SATA:
		return machine.IDE
	}
	return machine.SATA
}

// moveDrives gives those drives another place that do not fit where they are.
func (e *encoder) moveDrives() {
	m := e.m
	for i := range m.Controllers {
		if c := &m.Controllers[i]; c.Bus == machine.SCSI && c.Model == "buslogic" {
			c.Model = "lsilogic"
			e.lose(sControllers, fmt.Sprintf("controller scsi%d", c.Index), "becomes lsilogic: QEMU has no buslogic")
		}
	}
	taken := map[machine.Address]bool{}
	for i := range m.Drives {
		if d := &m.Drives[i]; e.fits(d) {
			taken[d.At] = true
		}
	}
	next := map[machine.Address]int{}
	kept := m.Drives[:0]
	for _, d := range m.Drives {
		what := "drive " + d.At.String()
		if d.Kind == machine.LUN && (d.Media.Host == "" || d.At.Bus != machine.SCSI && d.At.Bus != machine.Virtio) {
			d.Kind = machine.Disk
			if d.ReadOnly == machine.On || strings.HasPrefix(d.Media.Host, "/dev/sr") || strings.HasPrefix(d.Media.Host, "/dev/scd") {
				d.Kind = machine.Optical
			}
			e.lose(sDrives, what, "becomes a %s: only devices of the host can be passed through, on SCSI and virtio", d.Kind)
		}
		if e.fits(&d) {
			kept = append(kept, d)
			continue
		}
		at, ok := e.free(e.elsewhere(&d), d.At, taken, next)
		if !ok || at.Bus == machine.Floppy && !e.x86 {
			e.lose(sDrives, what, "left out: there is no room on %s", at.Bus)
			continue
		}
		why := ""
		if d.At.Bus == machine.NVMe {
			why = ": libvirt before 11.5 has no NVMe drives, and the guest needs the driver ahci to start from it"
		}
		e.lose(sDrives, what, "becomes %s%s", at, why)
		d.At = at
		kept = append(kept, d)
	}
	m.Drives = kept
	for i := range m.Drives {
		e.readOnly(&m.Drives[i])
	}
}

// readOnly removes what QEMU's disks cannot be together.
func (e *encoder) readOnly(d *machine.Drive) {
	what := "drive " + d.At.String()
	if d.ReadOnly == machine.On && d.Kind == machine.Disk && (d.At.Bus == machine.IDE || d.At.Bus == machine.SATA) {
		d.ReadOnly = machine.Unsaid
		e.lose(sDrives, what, "can be written: QEMU has no read-only disks on %s", d.At.Bus)
	}
	if d.ReadOnly == machine.On && d.Transient == machine.On {
		d.Transient = machine.Unsaid
		e.lose(sDrives, what, "is read-only alone: libvirt has no disk that is transient, too")
	}
}

// free finds the next place on a bus, from the controller that the drive was on.
func (e *encoder) free(b machine.Bus, from machine.Address, taken map[machine.Address]bool, next map[machine.Address]int) (machine.Address, bool) {
	at := machine.Address{Bus: b}
	if b == from.Bus && from.Index < maxControllers {
		at.Index = from.Index
	}
	start := at
	if same := (machine.Address{Bus: b, Unit: from.Unit}); b == machine.Virtio && from.Unit < 1<<10 && !taken[same] { // the same letter
		taken[same] = true
		return same, true
	}
	_, controllers := e.room(b, at.Index)
	cursor := machine.Address{Bus: b, Index: start.Index, Unit: -1} // the controllers before that are full
	for at.Index = max(at.Index, next[cursor]); at.Index < controllers; at.Index++ {
		next[cursor] = at.Index
		if b == machine.SCSI && e.m.Controller(b, at.Index) == nil {
			model := ""
			if c := e.m.Controller(b, start.Index); c != nil {
				model = c.Model
			}
			e.m.Controllers = append(e.m.Controllers, machine.Controller{Bus: b, Index: at.Index, Model: model})
		}
		units, _ := e.room(b, at.Index)
		key := machine.Address{Bus: b, Index: at.Index}
		for at.Unit = next[key]; at.Unit < units; at.Unit++ {
			next[key] = at.Unit + 1
			if !taken[at] {
				taken[at] = true
				return at, true
			}
		}
	}
	return at, false
}

// possible leaves the controllers that QEMU can have. libvirt adds what drives need beside them.
func (e *encoder) possible() {
	m := e.m
	list := m.Controllers[:0]
	for _, c := range m.Controllers {
		switch c.Bus {
		case machine.IDE:
			if m.Chipset != "i440fx" || c.Index > 0 {
				continue
			}
		case machine.Floppy:
			if !e.x86 || c.Index > 0 {
				continue
			}
		case machine.NVMe, machine.Virtio, machine.Xen, machine.SD:
			continue
		}
		if c.Index >= maxControllers {
			continue
		}
		list = append(list, c)
	}
	m.Controllers = list
}
