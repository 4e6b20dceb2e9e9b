package target

import (
	"fmt"
	"slices"

	"tarvm/formats"
	"tarvm/formats/layers"
	"tarvm/formats/machine"
	"tarvm/ovf"
)

// Disk opens the image of a drive and its parents: those that the image names, and in an OVF package those of its
// parentRef. A disk of a package that has no file is blank. Errors name the drive; one that wraps ErrMissing says that
// there is no such file.
func (vm *VM) Disk(d *machine.Drive) (*layers.Disk, error) {
	disk, err := vm.disk(d)
	if err != nil {
		return nil, fmt.Errorf("drive %s: %w", d.At, err)
	}
	return disk, nil
}

func (vm *VM) disk(d *machine.Drive) (*layers.Disk, error) {
	if vm.Envelope != nil && d.Media.Host == "" && d.Media.URL == "" {
		v := vm.Envelope.DiskOf(d)
		switch {
		case v != nil && (v.ParentRef != "" || v.FileRef == ""):
			return vm.delta(v)
		case v == nil && d.Media.Path == "" && d.Media.Capacity > 0:
			return blank(d.Media.Capacity)
		}
	}
	name, _, err := vm.find(d.Media)
	if err != nil {
		return nil, err
	}
	disk, err := layers.Open(vm.Dir, name, layers.Options{Formats: vm.Formats, Format: vm.format(d.Media.Format)})
	if err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	return disk, nil
}

// An image is a file of a disk, and its format if that is known.
type image struct{ name, format string }

// maxParents of a disk: hypervisors allow 32.
const maxParents = 256

// delta opens a disk of an envelope that is a difference to others, or blank. A disk between two others may have no file:
// nothing was changed in it.
func (vm *VM) delta(v *ovf.VirtualDisk) (*layers.Disk, error) {
	e, capacity := vm.Envelope, v.Capacity
	var files []image
	var seen []string
	for {
		if slices.Contains(seen, v.ID) {
			return nil, fmt.Errorf("disk %s is its own parent: %w", quote(v.ID), ovf.ErrSyntax)
		}
		if seen = append(seen, v.ID); len(seen) > maxParents {
			return nil, fmt.Errorf("disk %s has more than %d parents: %w", quote(seen[0]), maxParents, ovf.ErrUnsupported)
		}
		if v.FileRef != "" {
			f := e.File(v.FileRef)
			if f == nil {
				return nil, fmt.Errorf("disk %s: its fileRef %s is nowhere: %w", quote(v.ID), quote(v.FileRef), ovf.ErrSyntax)
			}
			href, err := f.Name()
			if err != nil {
				return nil, err
			}
			name, _, err := vm.find(machine.Media{Path: href})
			if err != nil {
				return nil, err
			}
			files = append(files, image{name, vm.format(ovf.FormatName(v.Format))})
		}
		if v.ParentRef == "" {
			break
		}
		parent := e.Disk(v.ParentRef)
		if parent == nil {
			return nil, fmt.Errorf("disk %s: its parentRef %s is nowhere: %w", quote(v.ID), quote(v.ParentRef), ovf.ErrSyntax)
		}
		if v = parent; capacity == 0 {
			capacity = v.Capacity
		}
	}
	if len(files) == 0 {
		return blank(capacity)
	}
	return vm.stack(files)
}

// stack opens images each of which is a difference to the next one.
func (vm *VM) stack(files []image) (*layers.Disk, error) {
	o := layers.Options{Formats: vm.Formats, Format: files[0].format}
	for _, f := range files[1:] {
		o.Parents = append(o.Parents, f.name)
	}
	disk, err := layers.Open(vm.Dir, files[0].name, o)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", files[0].name, err)
	}
	n := len(disk.Layers)
	for i := range min(n, len(files)) {
		if has := disk.Layers[i].Path; has != files[i].name {
			return nil, fmt.Errorf("%s builds on %s, and its parentRef says %s: %w", quote(files[i-1].name), quote(has), quote(files[i].name), ovf.ErrSyntax)
		}
	}
	if n >= len(files) {
		return disk, nil
	}
	// An image that records no parent, and is a difference nevertheless: what it does not hold is its parent's.
	rest, err := vm.stack(files[n:])
	if err != nil {
		return nil, err
	}
	last := *disk.Layers[n-1].Image
	last.Parent = &formats.ParentRef{Names: []string{files[n].name}, Format: rest.Layers[0].Image.Format}
	last.Map = seeThrough{last.Map}
	disk.Layers[n-1].Image = &last
	list := append(disk.Layers, rest.Layers...)
	var images []*formats.Image
	for _, l := range list {
		images = append(images, l.Image)
	}
	d, err := formats.NewDisk(images...)
	if err != nil {
		return nil, err
	}
	return &layers.Disk{Disk: d, Layers: list}, nil
}

// seeThrough shows the parent where an image has nothing.
type seeThrough struct{ formats.Mapper }

// MapAt implements formats.Mapper.
func (m seeThrough) MapAt(off int64) (formats.Extent, error) {
	e, err := m.Mapper.MapAt(off)
	if e.Kind == formats.Hole {
		e.Kind = formats.Parent
	}
	return e, err
}

// blank is a disk without an image.
func blank(size int64) (*layers.Disk, error) {
	if size <= 0 {
		return nil, fmt.Errorf("it has no file, and its size is not said: %w", ErrMissing)
	}
	m := &formats.Image{Header: formats.Header{Format: "raw", VirtualSize: size}, Map: nothing(size)}
	d, err := formats.NewDisk(m)
	if err != nil {
		return nil, err
	}
	return &layers.Disk{Disk: d, Layers: []layers.Layer{{Image: m}}}, nil
}

// nothing is the map of a disk of so many bytes that holds none.
type nothing int64

// Size implements formats.Mapper.
func (n nothing) Size() int64 { return int64(n) }

// MapAt implements formats.Mapper.
func (n nothing) MapAt(int64) (formats.Extent, error) {
	return formats.Extent{Length: int64(n), Kind: formats.Hole}, nil
}
