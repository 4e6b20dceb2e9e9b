// Package folder writes a machine as a directory that a hypervisor opens: its configuration, and the disks that it
// names. There is one for VMware's products (vmx), VirtualBox (vbox), libvirt, Xen's xl, and a script for plain QEMU.
//
// The configuration is written last: without it a hypervisor does not take the directory for a machine.
package folder

import (
	"context"
	"fmt"
	"io/fs"
	"path/filepath"
	"slices"
	"strings"

	"tarvm/formats/machine"
	"tarvm/formats/qemu"
	"tarvm/ovf/target"
)

// kinds are the directories that there are.
var kinds = []kind{
	{
		name: "vmx", form: "vmx", suffix: ".vmx", text: "directory with .vmx and VMDKs", profiles: []string{"workstation", esxi},
		shape: target.Shape{
			Formats:    []string{"vmdk"},
			Subformats: map[string]string{"vmdk": "monolithicSparse"},
			Variables:  []string{target.StoreVMware},
		},
	},
	{
		name: "vbox", form: "vbox", suffix: ".vbox", platform: "virtualbox", text: "directory with .vbox and VDIs (disk formats vdi, vmdk, vhd)",
		shape: target.Shape{
			Formats:   []string{"vdi", "vmdk", "vpc"},
			Suffixes:  map[string]string{"vpc": "vhd"},
			Variables: []string{target.StoreVirtualBox},
		},
	},
	{
		name: "libvirt", form: "libvirt", suffix: ".xml", platform: "kvm", absolute: true, text: "directory with domain XML and disks (qcow2, raw)",
		shape: target.Shape{
			Formats:   []string{"qcow2", "raw"},
			Suffixes:  map[string]string{"raw": "img"},
			Variables: []string{target.StoreVolume},
		},
	},
	{
		name: "xl", form: "xl", suffix: ".cfg", platform: "xen", absolute: true, text: "directory with xl.cfg and disks (raw, vhd, qcow2)",
		shape: target.Shape{
			Formats:  []string{"raw", "vpc", "qcow2"},
			Suffixes: map[string]string{"raw": "img", "vpc": "vhd"},
		},
	},
	{
		name: "qemu", suffix: ".sh", platform: "qemu", text: "directory with a script that starts QEMU, and disks (qcow2, raw, vmdk, vdi, vhdx)",
		shape: target.Shape{
			Formats:   []string{"qcow2", "raw", "vmdk", "vdi", "vhdx"},
			Suffixes:  map[string]string{"raw": "img"},
			Variables: []string{target.StoreVolume},
		},
	},
}

type kind struct {
	name, form, suffix string
	platform           string // what a machine of another form becomes; empty: one of nobody's, so that no word of its own is taken for VMware's
	text               string
	profiles           []string
	absolute           bool // paths in the configuration must be absolute
	shape              target.Shape
}

// Target is one of the directories.
type Target struct {
	kind
	config machine.Config // nil: QEMU's script
}

// Targets returns those whose form is among configs, and the script.
func Targets(configs []machine.Config) []target.Target {
	var list []target.Target
	for _, k := range kinds {
		i := slices.IndexFunc(configs, func(c machine.Config) bool { return c.Name() == k.form })
		switch {
		case i >= 0:
			list = append(list, Target{k, configs[i]})
		case k.form == "":
			list = append(list, Target{k, nil})
		}
	}
	return list
}

// Name implements target.Target.
func (t Target) Name() string { return t.name }

// Description implements target.Target.
func (t Target) Description() string { return t.text }

// Profiles implements target.Target.
func (t Target) Profiles() []string { return t.profiles }

// Single implements target.Target.
func (Target) Single() bool { return false }

// Plan implements target.Target.
func (t Target) Plan(vm *target.VM, o target.Options) (*target.Plan, error) {
	s := t.shape
	s.Target, s.Profile, s.Optical = t.name, o.Profile, true
	if s.Profile == "" && len(t.profiles) > 0 {
		s.Profile = t.profiles[0]
	}
	if s.Profile == esxi {
		s.Subformats = map[string]string{"vmdk": "vmfs"}
	}
	p, err := target.NewPlan(vm, o, s)
	if err != nil {
		return nil, err
	}
	if vm.Form != t.form {
		version := ""
		if t.form == "vmx" && strings.HasPrefix(p.Machine.Version, "vmx-") {
			version = p.Machine.Version // of an OVF package, which has the same words
		}
		p.Machine.Platform, p.Machine.Version = t.platform, version
	}
	if t.form == "vbox" {
		for i := range p.Machine.Drives {
			if media := &p.Machine.Drives[i].Media; media.Format == "vpc" {
				media.UUID = swapped(media.UUID)
			}
		}
	}
	if s.Profile == esxi {
		portGroups(p)
	}
	p.Texts = []string{p.Stem + t.suffix}
	_, losses, err := t.configuration(p)
	if err != nil {
		return nil, err
	}
	p.Lose(losses...)
	p.Use(t.write)
	return p, nil
}

// esxi is the profile of VMX for ESXi, whose adapters are all attached to a port group by its name.
const esxi = "esxi"

// portGroups attaches adapters of a network that has no name to the port group that every ESXi has when it is installed.
func portGroups(p *target.Plan) {
	for i := range p.Machine.NICs {
		n := &p.Machine.NICs[i]
		if n.Kind == machine.Named || n.Kind == machine.NoNet || n.Kind == "" {
			continue
		}
		was := string(n.Kind)
		if n.Network == "" {
			n.Network = "VM Network"
		}
		n.Kind = machine.Named
		p.Lose(machine.Loss{Part: fmt.Sprintf("nic %d", n.Slot), What: fmt.Sprintf("%s becomes the port group %q", was, n.Network)})
	}
}

// swapped is a UUID as VirtualBox reads it in a VHD: it takes the first three fields for little-endian numbers.
func swapped(uuid string) string {
	if len(uuid) != 36 {
		return uuid
	}
	u := func(i int) string { return uuid[i : i+2] }
	return u(6) + u(4) + u(2) + u(0) + "-" + u(11) + u(9) + "-" + u(16) + u(14) + uuid[18:]
}

// configuration makes the text.
func (t Target) configuration(p *target.Plan) ([]byte, []machine.Loss, error) {
	m := p.Machine
	if t.absolute {
		m = m.Clone()
		place := func(media *machine.Media) {
			if media.Path != "" {
				media.Path = filepath.Join(p.Options.Dir, media.Path)
			}
		}
		for i := range m.Drives {
			place(&m.Drives[i].Media)
		}
		place(&m.Firmware.Vars)
	}
	if t.config == nil {
		return qemu.Script(m, qemu.Options{})
	}
	return t.config.Encode(m, machine.EncodeOptions{Version: p.Options.Version})
}

func (t Target) write(ctx context.Context, p *target.Plan, out target.Sink) error {
	if err := p.WriteFiles(ctx, out); err != nil {
		return err
	}
	text, _, err := t.configuration(p)
	if err != nil {
		return err
	}
	mode := 0o644
	if t.config == nil {
		mode = 0o755
	}
	return target.WriteText(out, p.Texts[0], fs.FileMode(mode), text)
}
