package vmdk

import (
	"errors"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"

	"tarvm/formats"
	"tarvm/formats/internal/parse"
)

// A layer maps one extent; offsets are in the extent.
type layer interface {
	mapAt(off int64) (formats.Extent, error)
}

// A part is an extent where it is in the disk.
type part struct {
	start, size int64
	layer       layer
	sparse      *sparse // layer, or what it bounds; nil: a flat one or zeros
	flat        *flat
	file        int // index of Image.Files
}

// disk maps the extents of a disk, one after the other.
type disk struct {
	size  int64
	parts []part // none of them empty
}

// Size implements formats.Mapper.
func (d *disk) Size() int64 { return d.size }

func (d *disk) part(off int64) *part {
	i, ok := slices.BinarySearchFunc(d.parts, off, func(p part, off int64) int {
		switch {
		case off < p.start:
			return 1
		case off >= p.start+p.size:
			return -1
		}
		return 0
	})
	if !ok {
		return nil
	}
	return &d.parts[i]
}

// MapAt implements formats.Mapper.
func (d *disk) MapAt(off int64) (formats.Extent, error) {
	if off < 0 || off >= d.size {
		return formats.Extent{}, io.EOF
	}
	p := d.part(off)
	e, err := p.layer.mapAt(off - p.start)
	if err != nil {
		return formats.Extent{}, err
	}
	e.Length = min(e.Length, p.size-e.Offset)
	e.Offset += p.start
	if e.Kind == formats.Data || e.Kind == formats.Compressed {
		e.File = p.file
	}
	return e, nil
}

func (d *disk) inflate(e formats.Extent, dst []byte) error {
	p := d.part(e.Offset)
	if p == nil || p.sparse == nil {
		return fmt.Errorf("vmdk: a compressed run at byte %d", e.Offset)
	}
	e.Offset -= p.start
	return p.sparse.inflate(e, dst)
}

// Open implements formats.Format. src is a descriptor, whose extents o.Find
// opens, or a sparse extent: one with a descriptor in it is a whole disk,
// whatever name the descriptor has for it. An extent without one is the layer's
// share of the disk; of a vmfsSparse or seSparse extent the parent is then not
// known.
//
// Raw device mappings, disks on partitions and devices, encrypted disks and
// seSparse extents with a journal to replay are ErrUnsupported.
func (Format) Open(src formats.Source, o formats.OpenOptions) (*formats.Image, error) {
	p, h, err := probe(src)
	if err != nil {
		return nil, err
	}
	x := &opener{
		m: p.m, find: o.Find, warm: &warm{}, byName: map[string]int{}, images: map[int]*sparse{},
		image: &formats.Image{Header: *h, Files: []formats.Source{src}}, disk: &disk{},
	}
	if p.text {
		err = x.descriptor(p.desc)
	} else {
		err = x.single(p)
	}
	if err != nil {
		return nil, err
	}
	x.link(p)
	x.facts(p)
	c := &checker{disk: x.disk, files: x.image.Files, desc: p.desc}
	x.image.Map, x.image.Inflate, x.image.Check = x.disk, x.disk.inflate, c.check
	x.image.VirtualSize = x.disk.size
	return x.image, nil
}

// An opener makes an Image.
type opener struct {
	m      parse.Image
	find   func(string) (formats.Source, error)
	warm   *warm
	byName map[string]int  // index of image.Files
	images map[int]*sparse // by index of image.Files
	image  *formats.Image
	disk   *disk
}

func (x *opener) problem(s formats.Severity, structure string, off int64, format string, args ...any) {
	x.image.Problems = append(x.image.Problems, formats.Problem{
		Severity: s, Structure: structure, Offset: off, Text: fmt.Sprintf(format, args...),
	})
}

func (x *opener) add(size int64, p part) {
	p.start, p.size = x.disk.size, size
	x.disk.size += size
	if size > 0 {
		x.disk.parts = append(x.disk.parts, p)
	}
}

// single opens a file that is the whole layer.
func (x *opener) single(p *probed) error {
	if d := p.desc; d != nil {
		if err := refused(x.m, d); err != nil {
			return err
		}
		if len(d.Extents) > 1 {
			return x.m.Unsupported("descriptor", p.first.desc.Bytes(), "%d extents in the descriptor of one of them",
				len(d.Extents))
		}
	}
	s, err := x.sparse(p)
	if err != nil {
		return err
	}
	x.images[0] = s
	x.add(s.size, part{layer: s, sparse: s})
	if d := p.desc; d != nil && len(d.Extents) == 1 && d.Size() != s.size {
		severity := formats.Note
		if d.Size() > s.size {
			severity = formats.Risk
		}
		x.problem(severity, "descriptor", p.first.desc.Bytes(), "has an extent of %d bytes, the header of %d", d.Size(),
			s.size)
	}
	if grid, err := p.grid(&x.image.Header); err != nil {
		return err
	} else if !x.image.Compressed {
		x.image.Grid = grid
	}
	return nil
}

// sparse makes the map of a sparse extent, and notes what is odd about it.
func (x *opener) sparse(p *probed) (*sparse, error) {
	switch {
	case p.cowd != nil:
		return newCOWD(p, x.warm), nil
	case p.se != nil:
		return newSE(p, x.warm)
	}
	t := &p.tables
	if t.repaired {
		x.problem(formats.Note, "grain directory", Sectors(min(p.hosted.gd, maxSectors)).Bytes(),
			"is not in the file: the redundant one is used")
	} else if p.hosted.flags&flagRedundant != 0 && t.redundant < 0 {
		x.problem(formats.Note, "redundant grain directory", Sectors(min(p.hosted.redundantGD, maxSectors)).Bytes(),
			"is not in the file")
	}
	if p.hosted.unclean {
		x.problem(formats.Note, "header", offUnclean, "the extent is in use, or was not closed")
	}
	return newHosted(p, x.warm), nil
}

// devices are the create types of disks whose data is not in files.
var devices = []string{
	"fullDevice", "partitionedDevice", "vmfsRaw", "vmfsRDM", "vmfsRDMP", "vmfsRawDeviceMap", "vmfsPassthroughRawDeviceMap",
}

// refused says why a disk cannot be read that has the descriptor d.
func refused(m parse.Image, d *Descriptor) error {
	for _, name := range devices {
		if strings.EqualFold(d.CreateType, name) {
			return m.Unsupported("create type", -1, "%s: the data is on a device", brief(d.CreateType))
		}
	}
	for _, list := range []map[string]string{d.Other, d.DDB} {
		for key := range list {
			if strings.HasPrefix(key, "encryption") {
				return m.Unsupported("descriptor", -1, "the disk is encrypted")
			}
		}
	}
	return nil
}

// descriptor opens the extents that a descriptor names.
func (x *opener) descriptor(d *Descriptor) error {
	if err := refused(x.m, d); err != nil {
		return err
	}
	for i := range d.Extents {
		if err := x.extent(d, &d.Extents[i]); err != nil {
			return err
		}
	}
	if d.CreateType != "" {
		x.image.Subformat = d.CreateType
	}
	return nil
}

func (x *opener) extent(d *Descriptor, e *Extent) error {
	size := e.Sectors.Bytes()
	if e.Type == "ZERO" {
		x.add(size, part{layer: &zero{size}})
		return nil
	}
	name := d.DecodeName(e.File)
	structure := "extent " + brief(name)
	switch e.Type {
	case "FLAT", "VMFS", "SPARSE", "VMFSSPARSE", "SESPARSE":
	default:
		return x.m.Unsupported(structure, -1, "type %s", brief(e.Type))
	}
	if e.Access == "NOACCESS" {
		return x.m.Unsupported(structure, -1, "must not be accessed")
	}
	file, err := x.open(structure, name)
	if err != nil {
		return err
	}
	m := parse.Image{Source: x.image.Files[file], Format: Name}
	if e.Type == "FLAT" || e.Type == "VMFS" {
		if e.Offset > maxSectors-e.Sectors {
			return x.m.Corrupt(structure, -1, "%d sectors at sector %d", e.Sectors, e.Offset)
		}
		f := &flat{m: m, offset: e.Offset.Bytes(), size: size}
		x.add(size, part{layer: f, flat: f, file: file})
		return nil
	}
	s := x.images[file]
	if s == nil {
		if s, err = x.openSparse(m); err != nil {
			return fmt.Errorf("%s: %w", structure, err)
		}
		x.images[file] = s
	}
	x.image.Compressed = x.image.Compressed || s.packed
	var l layer = s
	switch {
	case size > s.size:
		x.problem(formats.Risk, structure, -1, "has %d bytes in the descriptor, %d in its header", size, s.size)
		l = &bounded{layer: s, m: m, size: s.size}
	case size < s.size:
		x.problem(formats.Note, structure, -1, "has %d bytes in the descriptor, %d in its header", size, s.size)
	}
	x.add(size, part{layer: l, sparse: s, file: file})
	return nil
}

// openSparse opens a sparse extent that a descriptor names.
func (x *opener) openSparse(m parse.Image) (*sparse, error) {
	p, _, err := probe(m.Source)
	if errors.Is(err, formats.ErrNotFormat) || err == nil && p.text {
		return nil, m.Corrupt("header", 0, "no sparse extent")
	}
	if err != nil {
		return nil, err
	}
	return x.sparse(p)
}

// open returns the index of the file with a name.
func (x *opener) open(structure, name string) (int, error) {
	if i, ok := x.byName[name]; ok {
		return i, nil
	}
	if x.find == nil {
		return 0, x.m.Unsupported(structure, -1, "the disk has other files, which were not supplied")
	}
	src, err := x.find(name)
	if err != nil {
		return 0, &formats.FormatError{Format: Name, Structure: structure, Offset: -1, Err: err}
	}
	x.image.Files = append(x.image.Files, src)
	i := len(x.image.Files) - 1
	x.byName[name] = i
	return i, nil
}

func cid(v uint32) string { return fmt.Sprintf("%08x", v) }

// link sets what connects the layer with its parent and children.
func (x *opener) link(p *probed) {
	d := p.desc
	switch {
	case d != nil:
		x.image.ID = cid(d.CID)
		if d.ParentCID != NoCID {
			x.image.Parent = &formats.ParentRef{Format: Name, ID: cid(d.ParentCID)}
			if d.ParentFileNameHint != "" {
				x.image.Parent.Names = []string{d.DecodeName(d.ParentFileNameHint)}
			}
		} else if d.ParentFileNameHint != "" {
			x.problem(formats.Risk, "descriptor", -1, "names the parent %s, but has no parentCID: it is read as a base",
				brief(d.DecodeName(d.ParentFileNameHint)))
		}
	case p.hosted != nil:
		x.problem(formats.Note, "header", offDesc,
			"the extent has no descriptor: whether it is of a disk with a parent is not known")
	default:
		// ESX makes extents of these kinds for snapshots only.
		x.image.Parent = &formats.ParentRef{Format: Name}
	}
	absent := formats.Hole
	if x.image.Parent != nil {
		absent = formats.Parent
	}
	for _, s := range x.images {
		s.absent = absent
	}
}

// maxFacts is how many extents are listed.
const maxFacts = 64

// facts lists what descriptor and headers say.
func (x *opener) facts(p *probed) {
	add := func(name, value string) {
		if value != "" {
			x.image.Facts = append(x.image.Facts, formats.Fact{Name: name, Value: strings.ToValidUTF8(value, "\uFFFD")})
		}
	}
	if h := p.first; h != nil {
		add("version", strconv.FormatUint(uint64(h.version), 10))
	}
	d := p.desc
	if d != nil {
		add("createType", d.CreateType)
		add("CID", cid(d.CID))
		add("parentCID", cid(d.ParentCID))
		add("parentFileNameHint", d.DecodeName(d.ParentFileNameHint))
		add("changeTrackPath", d.DecodeName(d.ChangeTrackPath))
		add("adapterType", d.DDB["adaptertype"])
		add("virtualHWVersion", d.DDB["virtualhwversion"])
		if c := d.DDB["geometry.cylinders"]; c != "" {
			add("geometry", c+"/"+d.DDB["geometry.heads"]+"/"+d.DDB["geometry.sectors"])
		}
		add("thinProvisioned", d.DDB["thinprovisioned"])
		add("uuid", d.DDB["uuid"])
		add("uuid.image", d.DDB["uuid.image"])
		add("uuid.parent", d.DDB["uuid.parent"])
		add("longContentID", d.DDB["longcontentid"])
		add("toolsVersion", d.DDB["toolsversion"])
	}
	for i := range x.disk.parts {
		if s := x.disk.parts[i].sparse; s != nil {
			add("grain size", strconv.FormatInt(s.grain, 10))
			break
		}
	}
	if d == nil {
		return
	}
	for i := range d.Extents {
		if i == maxFacts {
			add("extents", fmt.Sprintf("%d more", len(d.Extents)-i))
			break
		}
		e := &d.Extents[i]
		text := fmt.Sprintf("%s %d %s", e.Access, e.Sectors, e.Type)
		if e.File != "" {
			text += " " + strconv.Quote(d.DecodeName(e.File))
		}
		if e.Offset != 0 {
			text += fmt.Sprintf(" %d", e.Offset)
		}
		add("extent", text)
	}
}
