package cli

import (
	"errors"
	"fmt"
	"io/fs"
	"path"
	"path/filepath"
	"slices"
	"strings"

	"tarvm/formats"
	"tarvm/formats/layers"
	"tarvm/formats/machine"
	"tarvm/ovf/target"
)

// rawSuffixes are the names of images that no content tells.
var rawSuffixes = []string{".img", ".raw", ".dd", ".bin", ".hdd"}

// drives reads --disk: FILE, and words behind it. A comma in FILE is part of it where no such word follows. Drives have
// no places yet, only buses; the empty one is --bus.
func (o *sourceFlags) drives() ([]machine.Drive, error) {
	var list []machine.Drive
	booting := ""
	for _, arg := range o.bareDisks {
		d := machine.Drive{Kind: machine.Disk, At: machine.Address{Bus: machine.Bus(o.bus)}, Media: machine.Media{Path: arg}}
		for {
			i := strings.LastIndexByte(d.Media.Path, ',')
			if i < 0 {
				break
			}
			word := d.Media.Path[i+1:]
			bus, is := strings.CutPrefix(word, "bus=")
			switch {
			case is && !slices.Contains(buses, bus):
				return nil, hint(usage(fmt.Errorf("--disk %s: bus %q", arg, bus)), "there are %s", strings.Join(buses, ", "))
			case is:
				d.At.Bus = machine.Bus(bus)
			case word == "boot":
				d.Boot = 1
			case word == "cdrom":
				d.Kind = machine.Optical
			default:
				i = -1
			}
			if i < 0 {
				break
			}
			d.Media.Path = d.Media.Path[:i]
		}
		name := d.Media.Path
		switch {
		case !fs.ValidPath(name) || name == ".":
			return nil, usage(fmt.Errorf("--disk %q is no path in a directory", name))
		case slices.ContainsFunc(list, func(x machine.Drive) bool { return x.Media.Path == name }):
			return nil, usage(fmt.Errorf("--disk %s is given twice", name))
		case d.Boot > 0 && booting != "":
			return nil, usage(fmt.Errorf("--disk: both %s and %s boot", booting, name))
		}
		if d.Boot > 0 {
			booting = name
		}
		list = append(list, d)
	}
	return list, nil
}

// findDisks makes a machine of a tree without a configuration: of the disks that --disk names, or else of the only one.
func (p *program) findDisks(s *source, d *layers.Dir, fsys fs.FS, o *sourceFlags, oo target.OpenOptions) error {
	drives, err := o.drives()
	if err != nil {
		return err
	}
	if len(drives) == 0 {
		if drives, err = p.onlyDisk(s, d, fsys); err != nil {
			return err
		}
	}
	for i := range drives {
		v := &drives[i]
		src, err := d.Open(v.Media.Path)
		if err != nil {
			return fmt.Errorf("%s: %w", s.name, plainPath(err))
		}
		if v.Kind == machine.Optical {
			continue
		}
		if err := p.isDisk(src, v.Media.Path); err != nil {
			return err
		}
	}
	return p.bare(s, d, fsys, drives, o, oo)
}

// isDisk reports why a file is no disk.
func (p *program) isDisk(src formats.Source, name string) error {
	_, err := formats.Probe(src, p.disks)
	if errors.Is(err, formats.ErrNotFormat) {
		if slices.Contains(rawSuffixes, strings.ToLower(path.Ext(name))) {
			return nil
		}
		return hint(usage(fmt.Errorf("%s: no disk of a format that is known", name)), "a raw disk is known by its name: .raw or .img")
	}
	if err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	return nil
}

// maxBare bounds how many disks of a tree are looked at.
const maxBare = 50

// onlyDisk returns the one image in a tree on which no other builds.
func (p *program) onlyDisk(s *source, d *layers.Dir, fsys fs.FS) ([]machine.Drive, error) {
	var disks []string
	binary := ""
	err := fs.WalkDir(fsys, ".", func(name string, e fs.DirEntry, err error) error {
		if err != nil || !e.Type().IsRegular() || strings.HasPrefix(name, ".tarvm/") || len(disks) > maxBare {
			return nil
		}
		if strings.EqualFold(path.Ext(name), ".vmcx") {
			binary = name
		}
		src, err := d.Open(name)
		if err != nil {
			return nil
		}
		if _, err := formats.Probe(src, p.disks); err == nil {
			disks = append(disks, name)
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("%s: %w", s.name, err)
	}
	disks = p.topmost(d, disks)
	if len(disks) == 1 && binary == "" {
		return []machine.Drive{{Kind: machine.Disk, Media: machine.Media{Path: disks[0]}}}, nil
	}
	err = fmt.Errorf("%s: %w: no .vmx, .vbox, domain XML, xl.cfg or .ovf", s.name, target.ErrNoMachine)
	switch {
	case binary != "":
		// What it says, such as firmware and buses, is better not guessed.
		err = fmt.Errorf("%s: %w: Hyper-V's %s is binary, and is not read", s.name, target.ErrNoMachine, quoted(binary))
	case len(disks) > 1:
		err = fmt.Errorf("%s: %w: %s, and no configuration", s.name, target.ErrNoMachine, count(len(disks), "disk"))
	}
	if len(disks) == 0 {
		return nil, hint(usage(err), "a disk by itself will do, with --memory and --cpus")
	}
	var names []string
	for _, name := range disks[:min(len(disks), 10)] {
		names = append(names, quoted(name))
	}
	return nil, hint(usage(err), "--disk FILE, for each in its order, with --memory, --cpus and --firmware: %s", strings.Join(names, ", "))
}

// topmost leaves out files on which others build, or of which they consist.
func (p *program) topmost(d *layers.Dir, disks []string) []string {
	below := map[string]bool{}
	for _, name := range disks {
		disk, err := layers.Open(d, name, layers.Options{Formats: p.disks})
		if err != nil {
			continue // whoever wants it is told
		}
		for i, l := range disk.Layers {
			if i > 0 {
				below[l.Path] = true
			}
			for _, f := range l.Image.Files {
				if file, ok := d.Path(f); ok && file != name {
					below[file] = true
				}
			}
		}
	}
	return slices.DeleteFunc(disks, func(name string) bool { return below[name] })
}

func (p *program) findDisk(s *source, arg string, o *sourceFlags) error {
	if o.bareDisks != nil {
		return hint(usage(fmt.Errorf("--disk is for a directory or an archive, and %s is neither", arg)), "give its directory, and --disk for each of the disks")
	}
	tree, name, err := layers.At(arg)
	if err != nil {
		return plainPath(err)
	}
	d, err := s.openTree(tree)
	if err != nil {
		return err
	}
	src, err := d.Open(name)
	if err != nil {
		return plainPath(err)
	}
	_, err = formats.Probe(src, p.disks)
	if errors.Is(err, formats.ErrNotFormat) && !slices.Contains(rawSuffixes, strings.ToLower(filepath.Ext(arg))) {
		err = fmt.Errorf("%s: neither a machine's configuration, an archive, a package nor a disk", arg)
		if strings.EqualFold(filepath.Ext(arg), ".vmcx") {
			err = fmt.Errorf("%s: this form of Hyper-V's is binary, and is not read", arg)
			return hint(usage(err), "give the directory with the disks, and --disk for each of them")
		}
		return hint(usage(err), "a raw disk is known by its name: .raw or .img")
	}
	if err != nil && !errors.Is(err, formats.ErrNotFormat) {
		return fmt.Errorf("%s: %w", arg, err)
	}
	return p.bare(s, d, s.root.FS(), []machine.Drive{{Kind: machine.Disk, At: machine.Address{Bus: machine.Bus(o.bus)}, Media: machine.Media{Path: name}}}, o, p.openOptions(o))
}

// bare makes a machine of drives, whose places are chosen here.
func (p *program) bare(s *source, d *layers.Dir, fsys fs.FS, drives []machine.Drive, o *sourceFlags, oo target.OpenOptions) error {
	i := slices.IndexFunc(drives, func(d machine.Drive) bool { return d.Kind == machine.Disk })
	if i < 0 {
		return hint(usage(fmt.Errorf("%s: an optical disc, and no disk", s.name)), "--disk FILE")
	}
	first := drives[i].Media.Path
	m := &machine.Machine{
		Name:     strings.TrimSuffix(path.Base(first), path.Ext(first)),
		Memory:   machine.Memory{Bytes: int64(o.memory)},
		CPU:      machine.CPU{Count: o.cpus},
		Firmware: machine.Firmware{Type: o.firmware},
		Guest:    machine.Guest{VMware: o.guest},
	}
	var assumed []string
	if m.Memory.Bytes == 0 {
		m.Memory.Bytes = 2 << 30
		assumed = append(assumed, "2 GiB of memory")
	}
	if m.CPU.Count == 0 {
		m.CPU.Count = 2
		assumed = append(assumed, "2 processors")
	}
	if m.Firmware.Type == "" {
		m.Firmware.Type = "bios"
		assumed = append(assumed, "a BIOS")
	}
	var names []string
	guessed := false
	for _, v := range drives {
		if v.At.Bus == "" {
			v.At.Bus = machine.Bus(o.bus)
		}
		if v.At.Bus == "" {
			// What every hypervisor has, and every system of the last fifteen years has drivers for.
			v.At.Bus, guessed = machine.SATA, true
		}
		if v.At = m.Free(v.At.Bus, 0, 0); v.At.Bus == machine.IDE && v.At.Unit > 3 {
			return hint(usage(fmt.Errorf("%s: IDE has room for 4 drives", quoted(v.Media.Path))), "--disk FILE,bus=scsi")
		}
		names = append(names, v.Media.Path)
		m.Drives = append(m.Drives, v)
	}
	if guessed {
		assumed = append(assumed, "a SATA controller")
	}
	m.NICs = []machine.NIC{{Model: "e1000", Kind: machine.NAT}}
	if err := m.Complete(); err != nil {
		return err
	}
	s.VM, s.bare = target.Bare(d, strings.Join(names, "\n"), m, oo), true
	if len(assumed) > 0 {
		what := "the disk is"
		if len(drives) > 1 {
			what = "the disks are"
		}
		s.Notes = append(s.Notes, "nothing says what machine "+what+" for: it gets "+strings.Join(assumed, ", ")+" and an e1000 network adapter")
	}
	if s.Unix != 0 {
		return nil
	}
	return s.setTime(fsys)
}
