package vagrant

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"strings"

	"tarvm/formats"
	"tarvm/formats/machine"
	"tarvm/ovf/target"
)

// The providers for which boxes are written, as Options.Profile has them.
const (
	virtualBox = "virtualbox"
	libvirt    = "libvirt"
	vmware     = "vmware_desktop"
)

// Target writes a machine as a box. The sizes of a tar's members come before them, in what is compressed then, so that
// the disks are first written to Sink.Temp.
type Target struct {
	// Inner are the targets of which boxes are made: ovf and vmx.
	Inner []target.Target
}

// Name implements target.Target.
func (Target) Name() string { return "vagrant" }

// Description implements target.Target.
func (Target) Description() string { return "a box of Vagrant's" }

// Profiles implements target.Target.
func (Target) Profiles() []string { return []string{virtualBox, libvirt, vmware} }

// Single implements target.Target.
func (Target) Single() bool { return true }

// Plan implements target.Target.
func (t Target) Plan(vm *target.VM, o target.Options) (*target.Plan, error) {
	provider := o.Profile
	if provider == "" {
		provider = virtualBox
	}
	inner := o
	inner.Stem = "box"
	var p *target.Plan
	var err error
	switch provider {
	case virtualBox:
		inner.Profile = "virtualbox"
		p, err = t.inner("ovf", vm, inner)
	case vmware:
		inner.Profile = ""
		p, err = t.inner("vmx", vm, inner)
	case libvirt:
		p, err = target.NewPlan(vm, inner, target.Shape{Target: "vagrant", Formats: []string{"qcow2"}})
		if err == nil {
			p.Use(func(ctx context.Context, p *target.Plan, out target.Sink) error { return p.WriteFiles(ctx, out) })
			p.Lose(boxLosses(p)...)
		}
	default:
		return nil, fmt.Errorf("boxes for %q: %w", provider, machine.ErrUnsupported)
	}
	if err != nil {
		return nil, err
	}
	if provider == libvirt && len(p.Disks) == 1 {
		p.Disks[0].Name = "box.img"
		d := &p.Machine.Drives[p.Disks[0].Drive]
		d.Media.Path = "box.img"
		// vagrant-libvirt makes the disk of what the box says.
		if size, has := gibUp(p.Disks[0].Capacity), p.Disks[0].Capacity; size<<30 != has {
			p.Lose(machine.Loss{Part: "drive " + d.At.String(), What: fmt.Sprintf("grows from %d to %d bytes: the box says whole GiB", has, size<<30)})
		}
	}
	box := *p
	box.Target, box.Profile = "vagrant", provider
	box.Texts = append([]string{"metadata.json", "Vagrantfile"}, p.Texts...)
	box.Use(func(ctx context.Context, b *target.Plan, out target.Sink) error { return write(ctx, p, b, out) })
	return &box, nil
}

func (t Target) inner(name string, vm *target.VM, o target.Options) (*target.Plan, error) {
	for _, i := range t.Inner {
		if i.Name() == name {
			return i.Plan(vm, o)
		}
	}
	return nil, fmt.Errorf("boxes are made of %s: %w", name, machine.ErrUnsupported)
}

// boxLosses are what a box for libvirt, which has no configuration, cannot say.
func boxLosses(p *target.Plan) (list []machine.Loss) {
	m := p.Machine
	lose := func(part, what string) { list = append(list, machine.Loss{Part: part, What: what}) }
	if m.Firmware.Type == "efi" {
		lose("firmware", "the box cannot say efi: those who use it set libvirt.loader")
	}
	for i := range m.Drives {
		if d := &m.Drives[i]; d.Kind != machine.Disk {
			lose("drive "+d.At.String(), "left out: a box for libvirt has disks alone")
		}
	}
	for i := range m.NICs {
		if i > 0 {
			lose(fmt.Sprintf("nic %d", i), "left out: a box for libvirt has none of its own")
		} else if m.NICs[i].MAC != "" {
			lose("nic 0", "its address is left out: vagrant-libvirt makes one for each machine")
		}
	}
	return list
}

// errNoTemp: a Sink without room for the disks.
var errNoTemp = errors.New("a box needs room for its disks while it is written")

// write writes p into temporary files, and these into the box.
func write(ctx context.Context, p, b *target.Plan, out target.Sink) error {
	if out.Temp == nil {
		return errNoTemp
	}
	var names []string
	files := map[string]target.TempFile{}
	create := func(name string, _ fs.FileMode) (formats.Output, error) {
		f, err := out.Temp()
		if err != nil {
			return nil, err
		}
		names = append(names, name)
		files[name] = f
		return f, nil
	}
	if err := p.Write(ctx, target.Sink{Create: create, Temp: out.Temp}); err != nil {
		return err
	}
	box := &Package{Provider: b.Profile, Architecture: architecture(p.Machine), Vagrantfile: defaults(p.Machine, b.Profile)}
	add := func(name string) error {
		f := files[name]
		n, err := f.Seek(0, io.SeekEnd)
		if err != nil {
			return err
		}
		box.Files = append(box.Files, File{Name: name, Size: n, Write: func(w io.Writer) error {
			_, err := io.Copy(w, io.NewSectionReader(f, 0, n))
			return err
		}})
		return nil
	}
	// The configuration comes first: it was written last.
	for _, text := range []bool{true, false} {
		for _, name := range names {
			if isDisk := p.HasDisk(name); isDisk != text {
				if err := add(name); err != nil {
					return err
				}
			}
		}
	}
	if b.Profile == libvirt {
		for _, d := range p.Disks {
			box.Disks = append(box.Disks, Disk{Path: d.Name, Format: d.Format, VirtualSize: d.Capacity})
		}
	}
	w := out.Pipe
	if w == nil {
		w = io.NewOffsetWriter(out.File, 0)
	}
	return Write(ctx, w, box, Options{Unix: max(p.VM.Unix, 0), Level: b.Options.Encode.Level, Workers: b.Options.Encode.Workers})
}

// architecture is Vagrant's word.
func architecture(m *machine.Machine) string {
	switch m.Arch {
	case "x86_64":
		return "amd64"
	case "aarch64":
		return "arm64"
	case "i686":
		return "i386"
	}
	if m.Guest.Bits() == 64 && !strings.Contains(m.Guest.VMware, "arm") {
		return "amd64"
	}
	return ""
}

// defaults are what the Vagrantfile says.
func defaults(m *machine.Machine, provider string) Defaults {
	d := Defaults{Memory: m.Memory.Bytes, CPUs: m.CPU.Count}
	switch provider {
	case virtualBox:
		if len(m.NICs) > 0 {
			d.BaseMAC = m.NICs[0].MAC
		}
	case libvirt:
		if disks := m.Disks(); len(disks) > 0 {
			switch bus := disks[0].At.Bus; bus {
			case machine.IDE, machine.SATA, machine.SCSI, machine.Virtio:
				d.DiskBus = string(bus)
			case machine.NVMe:
				d.DiskBus = "sata" // libvirt attaches no disk by NVMe
			}
		}
		if len(m.NICs) > 0 {
			d.NICModel = m.NICs[0].Model
		}
		if m.Chipset == "q35" {
			d.Machine = "q35"
		}
	}
	return d
}
