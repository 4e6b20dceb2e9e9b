package target

import (
	"fmt"
	"slices"

	"tarvm/formats"
	"tarvm/formats/machine"
)

// An identifier is an Encoder that says by what images record that they build on one that it writes: its Image.ID.
type identifier interface{ ImageID(id [16]byte) string }

// bases adds the disks of Options.Base, each in front of the disk that becomes a difference to it: that at the same
// address or, where there is none, that with the same place among the disks. A disk of another size than its base, or
// without one, is written whole. One that does not differ at all is a difference without content.
func (p *Plan) bases(s *Shape) error {
	base := p.Options.Base
	switch {
	case base == nil:
		return nil
	case !s.Deltas:
		return fmt.Errorf("%s has no delta disks: %w", s.Target, machine.ErrUnsupported)
	}
	drives := base.Machine.Disks()
	taken := make([]bool, len(drives))
	mine := p.Machine.Disks()
	match := make([]*machine.Drive, len(p.Disks))
	for i := range p.Disks {
		at := p.Machine.Drives[p.Disks[i].Drive].At
		if n := slices.IndexFunc(drives, func(d *machine.Drive) bool { return d.At == at }); n >= 0 {
			match[i], taken[n] = drives[n], true
		}
	}
	for i := range p.Disks {
		d := &p.Machine.Drives[p.Disks[i].Drive]
		if n := slices.Index(mine, d); match[i] == nil && n < len(drives) && !taken[n] {
			match[i], taken[n] = drives[n], true
		}
	}
	var list []Disk
	for i := range p.Disks {
		d := p.Disks[i]
		drive := &p.Machine.Drives[d.Drive]
		if match[i] == nil {
			p.Notes = append(p.Notes, driveName(drive)+": the base has no such disk: it is written whole")
			list = append(list, d)
			continue
		}
		disk, err := base.Disk(match[i])
		if err != nil {
			return fmt.Errorf("base: %w", err)
		}
		if disk.Size() != d.Capacity {
			p.Notes = append(p.Notes, fmt.Sprintf("%s: the base's disk has %d bytes, not %d: it is written whole", driveName(drive), disk.Size(), d.Capacity))
			list = append(list, d)
			continue
		}
		known, ok := d.Encoder.(identifier)
		if !ok {
			return fmt.Errorf("delta disks of format %s: %w", d.Format, machine.ErrUnsupported)
		}
		b := d
		b.Name = fmt.Sprintf("%s-base%d%s", p.Stem, i+1, d.Name[len(fmt.Sprintf("%s-disk%d", p.Stem, i+1)):])
		b.Drive, b.Source, b.Disk = -1, disk.Layers[0].Path, disk
		if b.Data, err = stored(disk); err != nil {
			return fmt.Errorf("base: %s: %w", b.Source, err)
		}
		b.Options.ID = p.id(base, "base", fmt.Sprint(i), disk.Layers[0].Image.ID, fmt.Sprint(disk.Size()), string(p.Options.NewIdentity))
		d.Base = b.Name
		d.Options.Base = disk
		d.Options.Parent = &formats.ParentRef{Names: []string{b.Name}, Format: b.Format, ID: known.ImageID(b.Options.ID)}
		list = append(list, b, d)
	}
	if len(list) > len(p.Disks) {
		p.Notes = append(p.Notes, "the package has delta disks (ovf:parentRef): VirtualBox and Xen Orchestra refuse them, virt-v2v and govc take a delta for the whole disk")
	}
	p.Disks = list
	return nil
}
