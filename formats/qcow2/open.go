package qcow2

import (
	"errors"
	"fmt"
	"slices"

	"tarvm/formats"
	"tarvm/formats/internal/parse"
)

// cacheLimit bounds the tables that an open image keeps. A page of 64 KiB maps
// 512 MiB of a disk with the usual clusters.
const cacheLimit = 8 << 20

// mostEntries bounds how many L1 entries are read when an image is opened, so
// that 65536 snapshots cannot cost more than the largest L1 table of one.
const mostEntries = maxL1 / 8

// Open implements formats.Format. It reads the header, the L1 and refcount
// tables, and what the snapshots and dirty bitmaps say of themselves, but no L2
// table. Encrypted images are ErrUnsupported.
func (Format) Open(src formats.Source, o formats.OpenOptions) (*formats.Image, error) {
	h, err := readHeader(src)
	if err != nil {
		return nil, err
	}
	m := parse.Image{Source: src, Format: h.Format}
	im := &image{header: h, m: m, cache: parse.NewCache(m, cacheLimit), data: src}
	if err := im.validate(); err != nil {
		return nil, err
	}
	list, err := h.extensions(m)
	if err != nil {
		return nil, err
	}
	parent, err := im.parent(list)
	if err != nil {
		return nil, err
	}
	if err := im.openData(list, o); err != nil {
		return nil, err
	}
	im.flags()
	im.openRefcounts()
	if err := im.openSnapshots(); err != nil {
		return nil, err
	}
	if err := im.openBitmaps(list); err != nil {
		return nil, err
	}
	if err := im.lay(); err != nil {
		return nil, err
	}
	return im.finish(parent), nil
}

// An image is what the mappers of the active disk and of the snapshots share.
type image struct {
	*header
	m        parse.Image
	cache    *parse.Cache
	data     formats.Source // that guest data is in: m or the external data file
	dataName string         // of the external data file
	external bool

	refs      parse.Table // the refcount table; no entries if it is not in the file
	active    parse.Table // the L1 table
	snaps     []snapshot
	snapsLen  int64 // bytes of the snapshot table
	bitmaps   []*Bitmap
	directory span // of the bitmaps

	layout   layout
	problems []formats.Problem
}

// validate checks what of the header only reading needs.
func (im *image) validate() error {
	h, m := im.header, im.m
	switch h.crypt {
	case cryptNone:
	case cryptAES:
		return m.Unsupported("encryption", offCrypt, "AES")
	case cryptLUKS:
		return m.Unsupported("encryption", offCrypt, "LUKS")
	default:
		return m.Unsupported("encryption", offCrypt, "method %d", h.crypt)
	}
	flagged := h.incompat&incompatCompression != 0
	switch {
	case h.compression > compressZstd:
		return m.Unsupported("compression type", offCompression, "%d", h.compression)
	case flagged != (h.compression != compressDeflate):
		return m.Corrupt("compression type", offCompression, "%d, and the feature bit is %t", h.compression, flagged)
	case h.l1 < h.unit && h.l1Size > 0:
		return m.Corrupt("L1 offset", offL1, "0x%x lies in the header", h.l1)
	case h.backing > uint64(h.unit) || h.backing > 0 && int64(len(h.ParentHint)) > h.unit-int64(h.backing):
		return m.Corrupt("backing file name", offBacking, "%d bytes at 0x%x pass the first cluster",
			len(h.ParentHint), h.backing)
	}
	im.active = im.table("L1 table", h.l1, h.l1Size)
	return nil
}

// table returns the table of numbers of 8 bytes at off.
func (im *image) table(name string, off, count int64) parse.Table {
	return parse.Table{Name: name, Off: off, Count: count, Width: 8, Order: bigEndian, Cache: im.cache}
}

// problem notes what was found when the image was opened.
func (im *image) problem(s formats.Severity, structure string, off int64, format string, args ...any) {
	im.problems = append(im.problems, formats.Problem{
		Severity: s, Structure: structure, Offset: off, Text: fmt.Sprintf(format, args...),
	})
}

// damage notes err, if it is about the image, as a problem of severity s. An
// error of the medium is returned.
func (im *image) damage(s formats.Severity, err error) error {
	var fe *formats.FormatError
	if !damaged(err) || !errors.As(err, &fe) {
		return err
	}
	im.problem(s, fe.Structure, fe.Offset, "%s", fe.Got)
	return nil
}

// parent says what the image builds on; nil: nothing.
func (im *image) parent(list []extension) (*formats.ParentRef, error) {
	if im.ParentHint == "" {
		return nil, nil
	}
	ref := &formats.ParentRef{Names: []string{im.ParentHint}}
	i := slices.IndexFunc(list, func(e extension) bool { return e.kind == extBackingFormat })
	if i < 0 {
		return ref, nil
	}
	if list[i].n > maxFormatName {
		return nil, im.m.Corrupt("backing format", list[i].off, "%d bytes", list[i].n)
	}
	b, err := im.m.Bytes("backing format", list[i].off, list[i].n)
	if err != nil {
		return nil, err
	}
	ref.Format = string(b)
	return ref, nil
}

// openData finds the external data file.
func (im *image) openData(list []extension, o formats.OpenOptions) error {
	if im.incompat&incompatExternalData == 0 {
		return nil
	}
	im.external = true
	i := slices.IndexFunc(list, func(e extension) bool { return e.kind == extDataFile })
	if i < 0 || list[i].n == 0 {
		return im.m.Unsupported("external data file", -1, "the image does not name it")
	}
	if list[i].n > maxBackingName {
		return im.m.Corrupt("external data file", list[i].off, "a name of %d bytes", list[i].n)
	}
	b, err := im.m.Bytes("external data file", list[i].off, list[i].n)
	if err != nil {
		return err
	}
	im.dataName = string(b)
	if o.Find == nil {
		return im.m.Unsupported("external data file", list[i].off, "%q cannot be opened", im.dataName)
	}
	im.data, err = o.Find(im.dataName)
	if err != nil {
		return fmt.Errorf("external data file: %w", err)
	}
	return nil
}

// flags reports what the header says of the state of the image.
func (im *image) flags() {
	if im.incompat&incompatDirty != 0 {
		im.problem(formats.Note, "header", offIncompatible, "marked dirty: it was not closed, and refcounts may be wrong")
	}
	if im.incompat&incompatCorrupt != 0 {
		im.problem(formats.Risk, "header", offIncompatible, "marked corrupt: a program found damage in it")
	}
}

// openRefcounts finds the refcount table. Reading needs it only in order to
// tell guest data from metadata.
func (im *image) openRefcounts() {
	n := im.refClusters * im.unit
	switch {
	case im.refOrder > 6:
		im.problem(formats.Risk, "refcount order", offRefOrder, "%d", im.refOrder)
	case im.refTable%uint64(im.unit) != 0 || im.refTable < uint64(im.unit) || im.refTable > uint64(im.m.Size()):
		im.problem(formats.Risk, "refcount table offset", offRefTable, "0x%x", im.refTable)
	case n == 0 || n > maxRefTable || !im.m.Inside(int64(im.refTable), n):
		im.problem(formats.Risk, "refcount table", int64(im.refTable), "%d clusters", im.refClusters)
	default:
		im.refs = im.table("refcount table", int64(im.refTable), n/8)
	}
}

// finish puts together what a caller sees.
func (im *image) finish(parent *formats.ParentRef) *formats.Image {
	files := []formats.Source{im.m.Source}
	if im.external {
		files = append(files, im.data)
	}
	bare := formats.Hole
	if parent != nil {
		bare = formats.Parent
	}
	view := func(l1 parse.Table, size int64) *formats.Image {
		h := *im.Header
		h.VirtualSize = size
		return &formats.Image{
			Header: h, Map: &mapper{im: im, l1: l1, size: size, bare: bare},
			Files: files, Inflate: im.inflate, Parent: parent, Check: im.check,
		}
	}
	m := view(im.active, im.VirtualSize)
	m.Facts = im.facts()
	m.Problems = im.problems
	for _, s := range im.snaps {
		f := formats.Snapshot{ID: s.id, Name: s.name, Unix: s.unix}
		if s.good {
			f.Image = view(s.l1, s.size)
			if s.state > 0 {
				f.State = &mapper{im: im, l1: s.l1, base: im.stateAt(s.size), size: s.state, bare: formats.Hole}
			}
		}
		m.Snapshots = append(m.Snapshots, f)
	}
	return m
}

func (im *image) facts() []formats.Fact {
	var list []formats.Fact
	add := func(name, format string, args ...any) {
		list = append(list, formats.Fact{Name: name, Value: fmt.Sprintf(format, args...)})
	}
	add("version", "%d", im.version)
	add("cluster size", "%d", im.unit)
	add("compression", "%s", [...]string{"zlib", "zstd"}[im.compression])
	if im.refOrder <= 6 {
		add("refcount bits", "%d", 1<<im.refOrder)
	}
	add("lazy refcounts", "%t", im.compat&compatLazyRefcounts != 0)
	add("extended L2", "%t", im.words() == 2)
	if im.external {
		add("data file", "%s", im.dataName)
		add("data file raw", "%t", im.autoclear&autoclearRawData != 0)
	}
	if len(im.snaps) > 0 {
		add("snapshots", "%d", len(im.snaps))
	}
	for _, b := range im.bitmaps {
		state, up := "disabled", "in use, inconsistent"
		if b.Enabled {
			state = "enabled"
		}
		if b.Consistent {
			up = "consistent"
		}
		add("bitmap "+b.Name, "granularity %d, %s, %s", b.Granularity, state, up)
	}
	return list
}
