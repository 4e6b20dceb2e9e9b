package xva

import (
	"context"
	"io"

	"tarvm/formats"
	"tarvm/formats/machine"
	"tarvm/ovf/target"
)

// Target writes a machine as an XVA.
type Target struct{}

// Name implements target.Target.
func (Target) Name() string { return "xva" }

// Description implements target.Target.
func (Target) Description() string { return "one file for XenServer and XCP-ng" }

// Profiles implements target.Target.
func (Target) Profiles() []string { return nil }

// Single implements target.Target.
func (Target) Single() bool { return true }

// Plan implements target.Target.
func (Target) Plan(vm *target.VM, o target.Options) (*target.Plan, error) {
	p, err := target.NewPlan(vm, o, target.Shape{Target: "xva", Variables: []string{target.StoreVolume}})
	if err != nil {
		return nil, err
	}
	var disks []Disk
	for i := range p.Disks {
		disks = append(disks, Disk{At: p.Machine.Drives[p.Disks[i].Drive].At, Content: p.Disks[i].Disk, Source: p.Disks[i].Source})
	}
	xo := Options{Unix: vm.Unix, Workers: o.Encode.Workers, Progress: p.Progress("write", "", 0)}
	for _, c := range p.Copies {
		if xo.Variables, err = readVariables(c.File); err != nil {
			p.Lose(machine.Loss{Part: "firmware", What: "its variables in " + c.Source + " do not come along: " + err.Error()})
			xo.Variables = nil
		}
	}
	p.Copies, p.Machine.Firmware.Vars = nil, machine.Media{}
	for i := range p.Disks {
		p.Disks[i].Name = "" // blocks have numbers
	}
	losses, err := Losses(p.Machine, disks, xo)
	if err != nil {
		return nil, err
	}
	p.Lose(losses...)
	p.Use(func(ctx context.Context, p *target.Plan, out target.Sink) error {
		w := out.Pipe
		if w == nil {
			w = io.NewOffsetWriter(out.File, 0)
		}
		_, err := Write(ctx, w, p.Machine, disks, xo)
		return err
	})
	return p, nil
}

// readVariables reads OVMF's store as far as it is one.
func readVariables(src formats.Source) ([]byte, error) {
	const most = 4 << 20 // OVMF's largest builds have 528 KiB
	b, err := io.ReadAll(io.NewSectionReader(src, 0, min(src.Size(), most)))
	if err != nil {
		return nil, err
	}
	return OVMFVariables(b)
}
