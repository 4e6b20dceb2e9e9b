package xl

import (
	"fmt"
	"slices"
	"strings"

	"tarvm/formats/machine"
)

// A report is the losses, in the order of the fields of Machine.
type report []machine.Loss

func (r *report) add(part, format string, args ...any) {
	*r = append(*r, machine.Loss{Part: part, What: fmt.Sprintf(format, args...)})
}

// changed notes a setting that is not as it was.
func (r *report) changed(part, what string, was, is any) {
	x, y := fmt.Sprint(was), fmt.Sprint(is)
	switch {
	case x == y || x == "" || x == "0":
	case y == "" || y == "0":
		r.add(part, "%s %s is left out: xl.cfg cannot say it", what, x)
	default:
		r.add(part, "%s %s becomes %s", what, x, y)
	}
}

// losses compares the machine with what was read from the text that it gave.
func (w *writer) losses(is *machine.Machine) []machine.Loss {
	m := w.m
	var r report
	r.changed("machine", "name", m.Name, is.Name)
	if m.Notes != "" {
		r.add("notes", "left out: xl.cfg has none")
	}
	r.changed("machine", "UUID", m.UUID, is.UUID)
	r.changed("machine", "management's UUID", m.InstanceUUID, is.InstanceUUID)
	if m.GenerationID != is.GenerationID {
		r.add("generation_id", "becomes one that xl makes at each start")
	}
	if m.Guest != (machine.Guest{}) {
		r.add("guest", "left out: xl.cfg does not say which operating system it is")
	}
	if m.Arch != "" && m.Arch != "x86_64" && m.Arch != "i686" {
		r.add("machine", "architecture %s: xl starts guests of its host's", m.Arch)
	}
	if m.Chipset != "" && m.Chipset != "i440fx" {
		r.add("machine", "chipset %s becomes i440fx", m.Chipset)
	}
	r.changed("machine", "virtualization", m.Virtualization, is.Virtualization)
	r.changed("firmware", "type", m.Firmware.Type, is.Firmware.Type)
	if m.Firmware.SecureBoot == machine.On {
		r.add("firmware", "secure boot is left out: xl.cfg has none")
	}
	r.changed("firmware", "loader", m.Firmware.Loader, is.Firmware.Loader)
	if v := m.Firmware.Vars; v != (machine.Media{}) {
		r.add("firmware", "variables %s are left out: Xen keeps none in a file", firstOf(v.Path, v.Host, v.URL))
	}
	if m.TPM != nil && is.TPM == nil {
		r.add("tpm", "left out: xl.cfg has no emulated TPM; vtpm= wants a domain of its own")
	}
	r.changed("cpu", "count", m.CPU.Count, is.CPU.Count)
	r.changed("cpu", "most", m.CPU.Max, is.CPU.Max)
	if m.CPU.Sockets > 0 || m.CPU.Cores > 0 || m.CPU.Threads > 1 {
		r.add("cpu", "topology of %d sockets, %d cores and %d threads is left out: xl.cfg has none", m.CPU.Sockets, m.CPU.Cores,
			max(m.CPU.Threads, 1))
	}
	if m.CPU.HotAdd == machine.On {
		r.add("cpu", "adding processors while it runs is up to maxvcpus")
	}
	r.changed("cpu", "model", m.CPU.Model, is.CPU.Model)
	r.changed("cpu", "nested", m.CPU.Nested, is.CPU.Nested)
	r.changed("memory", "size", m.Memory.Bytes, is.Memory.Bytes)
	r.changed("memory", "most", m.Memory.Max, is.Memory.Max)
	if m.Memory.HotAdd == machine.On {
		r.add("memory", "adding it while the machine runs is up to maxmem")
	}
	r.changed("features", "ACPI", m.Features.ACPI, is.Features.ACPI)
	r.changed("features", "APIC", m.Features.APIC, is.Features.APIC)
	r.changed("features", "PAE", m.Features.PAE, is.Features.PAE)
	r.changed("features", "HPET", m.Features.HPET, is.Features.HPET)
	r.changed("machine", "clock", m.Clock, is.Clock)
	r.changed("boot", "order", strings.Join(m.Boot, ", "), strings.Join(is.Boot, ", "))
	if m.Kernel != nil {
		var k machine.Kernel
		if is.Kernel != nil {
			k = *is.Kernel
		}
		r.changed("kernel", "path", m.Kernel.Path, k.Path)
		r.changed("kernel", "initial ramdisk", m.Kernel.Initrd, k.Initrd)
		r.changed("kernel", "arguments", m.Kernel.Args, k.Args)
	}
	for _, c := range m.Controllers {
		if c.Bus != machine.USB || c.Implied {
			continue // those of drives are named with the drives
		}
		part := fmt.Sprintf("controller %s%d", c.Bus, c.Index)
		if d := is.Controller(c.Bus, c.Index); d == nil {
			r.add(part, "left out: xl has one")
		} else {
			r.changed(part, "model", c.Model, d.Model)
			r.changed(part, "ports", c.Ports, d.Ports)
		}
	}
	w.lostDrives(&r, is)
	w.lostNICs(&r, is)
	w.lostDevices(&r, is)
	return r
}

func firstOf(s ...string) string {
	i := slices.IndexFunc(s, func(s string) bool { return s != "" })
	if i < 0 {
		return "of no name"
	}
	return s[i]
}

func (w *writer) lostDrives(r *report, is *machine.Machine) {
	at := 0
	for i, d := range w.m.Drives {
		part := "drive " + d.At.String()
		if w.spots[i].vdev == "" {
			r.add(part, "%s", w.spots[i].why)
			continue
		}
		if at >= len(is.Drives) {
			r.add(part, "left out")
			continue
		}
		n := is.Drives[at]
		at++
		if n.At != d.At {
			vdev := w.spots[i].vdev
			also := ""
			if n.At.Bus == machine.IDE || n.At.Bus == machine.SATA {
				also = ", and xvd" + vdev[2:] + " with Xen's drivers"
			}
			r.add(part, "becomes %s (%s%s)", n.At, vdev, also)
		}
		r.changed(part, "kind", d.Kind, n.Kind)
		r.changed(part, "medium", d.Media.Path+d.Media.Host+d.Media.URL, n.Media.Path+n.Media.Host+n.Media.URL)
		r.changed(part, "format", d.Media.Format, n.Media.Format)
		if d.Connected == machine.Off {
			r.add(part, "is connected when the machine starts: xl.cfg cannot say otherwise")
		}
		r.changed(part, "read only", d.ReadOnly, n.ReadOnly)
		for _, s := range []struct {
			what    string
			was, is machine.Switch
		}{{"removable", d.Removable, n.Removable}, {"shared", d.Shared, n.Shared}, {"transient", d.Transient, n.Transient},
			{"independent of snapshots", d.Independent, n.Independent}, {"SSD", d.SSD, n.SSD}} {
			if s.was == machine.On && s.is != machine.On {
				r.add(part, "%s: left out, xl.cfg cannot say it", s.what)
			}
		}
		r.changed(part, "discard", d.Discard, n.Discard)
		r.changed(part, "cache", d.Cache, n.Cache)
		r.changed(part, "serial number", d.Serial, n.Serial)
		if d.Boot != 0 {
			r.add(part, "its place in the boot order becomes that of its kind")
		}
	}
}

func (w *writer) lostNICs(r *report, is *machine.Machine) {
	for i, n := range w.m.NICs {
		part := fmt.Sprintf("nic %d", n.Slot)
		if i >= len(is.NICs) {
			r.add(part, "left out")
			continue
		}
		o := is.NICs[i]
		r.changed(part, "model", n.Model, o.Model)
		r.changed(part, "MAC", n.MAC, o.MAC)
		if n.Kind != o.Kind || n.Network != o.Network {
			is := "xl's own bridge"
			if o.Network != "" {
				is = "bridge " + o.Network
			} else if o.Kind == machine.NAT {
				is = "NAT by vif-nat"
			}
			if n.Kind != machine.Bridged || n.Network != "" {
				r.add(part, "%s becomes %s", strings.TrimSpace(string(n.Kind)+" "+n.Network), is)
			}
		}
		if n.Connected == machine.Off {
			r.add(part, "is connected when the machine starts: xl.cfg cannot say otherwise")
		}
		if n.Boot != 0 {
			r.add(part, "its place in the boot order becomes that of its kind")
		}
	}
}

func (w *writer) lostDevices(r *report, is *machine.Machine) {
	m := w.m
	for i, v := range m.Videos {
		part := fmt.Sprintf("video %d", i)
		if i >= len(is.Videos) {
			if v.Model != "" || v.Memory != 0 {
				r.add(part, "left out: xl has one, in guests of type hvm")
			}
			continue
		}
		r.changed(part, "model", v.Model, is.Videos[i].Model)
		r.changed(part, "memory", v.Memory, is.Videos[i].Memory)
		if v.Heads > 1 {
			r.add(part, "%d screens become one", v.Heads)
		}
		if v.Accel3D == machine.On {
			r.add(part, "acceleration in three dimensions is left out: xl has none")
		}
	}
	for _, d := range m.Displays {
		i := slices.IndexFunc(is.Displays, func(e machine.Display) bool { return e.Kind == d.Kind })
		if i < 0 {
			r.add("display "+d.Kind, "left out: xl cannot say it")
			continue
		}
		if !slices.ContainsFunc(is.Displays, func(e machine.Display) bool {
			return e.Kind == d.Kind && e.Port == d.Port && e.Listen == d.Listen
		}) {
			r.changed("display "+d.Kind, "port", d.Port, is.Displays[i].Port)
			r.changed("display "+d.Kind, "address", d.Listen, is.Displays[i].Listen)
		}
	}
	for i, s := range m.Sounds {
		if i >= len(is.Sounds) {
			r.add(fmt.Sprintf("sound %d", i), "%s is left out: xl has none such", firstOf(s.Model))
			continue
		}
		r.changed(fmt.Sprintf("sound %d", i), "model", s.Model, is.Sounds[i].Model)
	}
	w.lostPorts(r, "serial", m.Serials, is.Serials)
	w.lostPorts(r, "parallel", m.Parallels, is.Parallels)
	left := slices.Clone(is.Inputs)
	for _, i := range m.Inputs {
		if i.Bus == "ps2" || i.Bus == "xen" || i.Bus == "" {
			continue // every guest has those
		}
		at := slices.IndexFunc(left, func(j machine.Input) bool { return i.Kind == j.Kind && i.Bus == j.Bus })
		if at < 0 {
			r.add("input "+i.Kind, "left out: xl has none on the %s bus", i.Bus)
			continue
		}
		left = slices.Delete(left, at, at+1)
	}
	for _, s := range m.Shares {
		i := slices.IndexFunc(is.Shares, func(o machine.Share) bool { return o.Name == s.Name && o.Path == s.Path })
		switch {
		case i < 0:
			r.add("share "+s.Name, "left out: xl cannot say its name or path")
		case s.ReadOnly == machine.On:
			r.add("share "+s.Name, "can be written: xl has none that cannot")
		}
	}
	others := slices.Clone(is.Others)
	for _, o := range m.Others {
		at := slices.IndexFunc(others, func(p machine.Other) bool { return p.Kind == o.Kind && p.Name == o.Name })
		if at < 0 {
			r.add(strings.TrimSpace(o.Kind+" "+o.Name), "left out")
			continue
		}
		others = slices.Delete(others, at, at+1)
	}
}

func (w *writer) lostPorts(r *report, kind string, was, is []machine.Port) {
	for _, p := range was {
		part := fmt.Sprintf("%s %d", kind, p.Slot)
		i := slices.IndexFunc(is, func(q machine.Port) bool { return q.Slot == p.Slot })
		if i < 0 {
			r.add(part, "left out: xl cannot say it")
			continue
		}
		a, b := p, is[i]
		a.Origin, b.Origin = nil, nil
		if a.Server != machine.On && b.Server != machine.On {
			a.Server, b.Server = 0, 0
		}
		if a.Telnet != machine.On && b.Telnet != machine.On {
			a.Telnet, b.Telnet = 0, 0
		}
		if a != b {
			r.add(part, "becomes %s", portText(b))
		}
	}
}
