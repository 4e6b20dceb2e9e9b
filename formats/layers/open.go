package layers

import (
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strings"

	"tarvm/formats"
	"tarvm/formats/raw"
)

// ErrFormat: the format of a parent is not recorded, and the caller names none.
var ErrFormat = errors.New("the parent's format is not recorded")

// An IDError: the file that is named as the parent is another one, or was written
// to since the image was made on it.
type IDError struct {
	Path       string // of the image
	Parent     string // its path
	Want, Have string // IDs
}

// Error gives the form "b.vmdk builds on a parent with id 1234abcd, a.vmdk has 99887766".
func (e *IDError) Error() string {
	return fmt.Sprintf("%s builds on a parent with id %s, %s has %s", e.Path, e.Want, e.Parent, e.Have)
}

// Options say how a disk is opened.
type Options struct {
	// Formats are asked in order.
	Formats []formats.Format
	// Format is qemu's name of the image's format. Empty: by content, and raw if
	// no format claims it.
	Format string
	// ParentFormat is that of parents whose format is not recorded.
	ParentFormat string
	// Parents are paths in the Dir of files that may be parents, tried before
	// those that the images name.
	Parents []string
	// Force takes a parent although its ID is another one: what the guest saw is
	// then not certain.
	Force bool
	// Shallow opens the image without parents: see formats.NewDisk.
	Shallow bool
	// Snapshot is the ID or the name of a snapshot in the image, which is opened
	// instead of the present state.
	Snapshot string
}

// A Layer is an image of a Disk.
type Layer struct {
	Path  string // in the Dir
	Image *formats.Image
}

// A Disk is the guest's view of an image and its parents.
type Disk struct {
	formats.Disk
	Layers []Layer // the topmost first
}

// maxLayers is far above what hypervisors allow (VMware: 32; VirtualBox warns at 30).
const maxLayers = 1000

// Open opens the image at name, a path in d, and its parents. The files stay
// open until d is closed.
//
// Errors: those of the format's Open; *IDError; formats.ErrNoParent when a parent
// is not found; ErrFormat; formats.ErrCorrupt when images build on each other in
// a circle.
func Open(d *Dir, name string, o Options) (*Disk, error) {
	src, err := d.Open(name)
	if err != nil {
		return nil, err
	}
	op := &opener{d: d, o: o}
	f, err := op.format(src, o.Format)
	if err != nil {
		return nil, err
	}
	m, err := op.image(f, name, src)
	if err != nil {
		return nil, err
	}
	if o.Snapshot != "" {
		if m, err = snapshot(m, o.Snapshot); err != nil {
			return nil, err
		}
	}
	list := []Layer{{name, m}}
	seen := []string{name}
	for !o.Shallow && m.Parent != nil {
		if len(list) == maxLayers {
			return nil, &formats.FormatError{Format: m.Format, Structure: "parent", Offset: -1, Got: fmt.Sprintf("%d layers", len(list)), Err: formats.ErrUnsupported}
		}
		l, err := op.parent(list[len(list)-1])
		if err != nil {
			return nil, err
		}
		if m.Parent.Open == nil {
			if slices.Contains(seen, l.Path) {
				return nil, &formats.FormatError{Format: m.Format, Structure: "parent", Offset: -1, Got: "a circle: " + strings.Join(append(seen, l.Path), ", "), Err: formats.ErrCorrupt}
			}
			seen = append(seen, l.Path)
		}
		list = append(list, l)
		m = l.Image
	}
	images := make([]*formats.Image, len(list))
	for i := range list {
		images[i] = list[i].Image
	}
	disk, err := formats.NewDisk(images...)
	if err != nil {
		return nil, err
	}
	return &Disk{Disk: disk, Layers: list}, nil
}

type opener struct {
	d *Dir
	o Options
}

// format returns the format called name; if that is empty it is told by content.
func (op *opener) format(src formats.Source, name string) (formats.Format, error) {
	if name == raw.Name {
		return raw.Format{}, nil
	}
	for _, f := range op.o.Formats {
		if name != "" {
			if f.Name() == name {
				return f, nil
			}
			continue
		}
		if _, err := f.Probe(src); !errors.Is(err, formats.ErrNotFormat) {
			return f, nil // if it is damaged, Open says so
		}
	}
	if name != "" {
		return nil, &formats.FormatError{Format: name, Structure: "image", Offset: -1, Got: "unknown format", Err: formats.ErrUnsupported}
	}
	return raw.Format{}, nil
}

func (op *opener) image(f formats.Format, name string, src formats.Source) (*formats.Image, error) {
	m, err := f.Open(src, formats.OpenOptions{Find: func(stored string) (formats.Source, error) {
		_, src, err := op.d.Find(name, stored)
		return src, err
	}})
	if errors.Is(err, formats.ErrNotFormat) {
		return nil, &formats.FormatError{Format: f.Name(), Structure: "start of file", Offset: 0, Got: "another format", Err: formats.ErrCorrupt}
	}
	return m, err
}

func snapshot(m *formats.Image, want string) (*formats.Image, error) {
	var have []string
	for _, by := range []func(s *formats.Snapshot) string{
		func(s *formats.Snapshot) string { return s.ID },
		func(s *formats.Snapshot) string { return s.Name },
	} {
		for i := range m.Snapshots {
			s := &m.Snapshots[i]
			if by(s) != want {
				continue
			}
			if s.Image == nil {
				return nil, &formats.FormatError{Format: m.Format, Structure: "snapshot " + want, Offset: -1, Got: "it is damaged", Err: formats.ErrCorrupt}
			}
			return s.Image, nil
		}
	}
	for i := range m.Snapshots {
		have = append(have, fmt.Sprintf("%s (%s)", m.Snapshots[i].ID, m.Snapshots[i].Name))
	}
	if len(have) == 0 {
		have = []string{"none"}
	}
	return nil, fmt.Errorf("snapshot %q: %w; there are: %s", want, fs.ErrNotExist, strings.Join(have, ", "))
}

// parent opens what l builds on.
func (op *opener) parent(l Layer) (Layer, error) {
	ref := l.Image.Parent
	if ref.Open != nil {
		m, err := ref.Open()
		return Layer{l.Path, m}, err
	}
	// What else was wrong than that there is no such file, the first counts.
	var reason error
	try := func(name string, src formats.Source) (*formats.Image, bool) {
		m, err := op.candidate(l, name, src)
		if err != nil {
			if reason == nil {
				reason = err
			}
			return nil, false
		}
		return m, true
	}
	for _, name := range op.o.Parents {
		src, err := op.d.Open(name)
		if err != nil {
			return Layer{}, err
		}
		if name == l.Path {
			continue
		}
		if m, ok := try(name, src); ok {
			op.o.Parents = slices.DeleteFunc(slices.Clone(op.o.Parents), func(s string) bool { return s == name })
			return Layer{name, m}, nil
		}
		if ref.ID == "" {
			break // nothing tells which of several it is: they are in order
		}
	}
	for _, stored := range ref.Names {
		name, src, err := op.d.Find(l.Path, stored)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return Layer{}, err
		}
		if m, ok := try(name, src); ok {
			return Layer{name, m}, nil
		}
	}
	if name, m := op.search(l); m != nil {
		return Layer{name, m}, nil
	}
	if reason != nil {
		return Layer{}, reason
	}
	got := "of unknown name"
	if len(ref.Names) > 0 {
		got = fmt.Sprintf("%.200q", ref.Names[0])
	}
	if ref.ID != "" {
		got += ", id " + ref.ID
	}
	return Layer{}, fmt.Errorf("%s: %w", l.Path, &formats.FormatError{Format: l.Image.Format, Structure: "parent", Offset: -1, Got: got, Err: formats.ErrNoParent})
}

// candidate opens the file at name as the parent of l, if it can be that.
func (op *opener) candidate(l Layer, name string, src formats.Source) (*formats.Image, error) {
	ref := l.Image.Parent
	format := ref.Format
	if format == "" {
		format = op.o.ParentFormat
	}
	if format == "" {
		return nil, fmt.Errorf("%s: %w: %s", l.Path, ErrFormat, name)
	}
	f, err := op.format(src, format)
	if err != nil {
		return nil, err
	}
	m, err := op.image(f, name, src)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	if ref.ID != "" && ref.ID != m.ID && !op.o.Force {
		return nil, &IDError{Path: l.Path, Parent: name, Want: ref.ID, Have: m.ID}
	}
	return m, nil
}

// search looks in the whole tree for the parent of l, by its ID.
func (op *opener) search(l Layer) (string, *formats.Image) {
	ref := l.Image.Parent
	if ref.ID == "" || ref.Format == "" {
		return "", nil
	}
	f, err := op.format(nil, ref.Format)
	if err != nil {
		return "", nil
	}
	var found string
	var image *formats.Image
	_ = op.d.files(func(name string) bool {
		if name == l.Path {
			return true
		}
		was := op.d.has(name)
		if src, err := op.d.Open(name); err == nil {
			if _, err = f.Probe(src); err == nil {
				if m, err := op.image(f, name, src); err == nil && m.ID == ref.ID {
					found, image = name, m
					return false
				}
			}
			if !was {
				op.d.drop(name)
			}
		}
		return true
	})
	return found, image
}
