package vdi

import (
	"encoding/binary"
	"fmt"
	"io"
	"strconv"

	"tarvm/formats"
	"tarvm/formats/internal/parse"
)

// cacheBytes bounds the pages of the map that an image keeps: the map of a disk
// of 4 TiB in blocks of 1 MiB.
const cacheBytes = 16 << 20

// image is an open image.
type image struct {
	*header
	parse.Image
	entries *parse.Table
}

// Open implements formats.Format. It asks for no other files.
func (Format) Open(src formats.Source, _ formats.OpenOptions) (*formats.Image, error) {
	h, m, err := readHeader(src)
	if err != nil {
		return nil, err
	}
	im := &image{header: h, Image: m}
	im.entries = &parse.Table{
		Name: "block table", Off: h.table, Count: h.blocks, Width: 4,
		Order: binary.LittleEndian, Cache: parse.NewCache(m, cacheBytes),
	}
	if err := im.entries.Check(); err != nil {
		return nil, err
	}
	out := &formats.Image{
		Header: h.generic(), Map: (*mapper)(im), Files: []formats.Source{src},
		ID: pairID(h.create, h.modify), Facts: h.facts(), Problems: h.problems(), Check: im.check,
	}
	if h.child() {
		out.Parent = &formats.ParentRef{Format: Name, ID: pairID(h.link, h.parentModify)}
	}
	return out, nil
}

func (h *header) facts() []formats.Fact {
	list := []formats.Fact{
		{Name: "version", Value: fmt.Sprintf("%d.%d", h.version>>16, h.version&0xffff)},
		{Name: "type", Value: typeNames[h.kind]},
		{Name: "block size", Value: strconv.FormatInt(h.block, 10)},
		{Name: "blocks", Value: strconv.FormatInt(h.blocks, 10)},
		{Name: "allocated", Value: strconv.FormatInt(h.allocated, 10)},
		{Name: "data offset", Value: strconv.FormatInt(h.data, 10)},
	}
	add := func(name, value string, have bool) {
		if have {
			list = append(list, formats.Fact{Name: name, Value: value})
		}
	}
	add("block extra", strconv.FormatInt(h.extra, 10), h.extra != 0)
	add("header size", strconv.FormatInt(h.headerSize, 10), h.headerSize != 0)
	add("creator", h.text, h.text != "")
	add("comment", h.comment, h.comment != "")
	add("UUID", h.create.String(), true)
	add("modification UUID", h.modify.String(), true)
	add("parent UUID", h.link.String(), h.link != uuid{})
	add("parent modification UUID", h.parentModify.String(), h.parentModify != uuid{})
	add("geometry", fmt.Sprintf("%d/%d/%d", h.lchs[0], h.lchs[1], h.lchs[2]), h.lchs[0] != 0)
	return list
}

// problems are what the header alone shows.
func (h *header) problems() []formats.Problem {
	var list []formats.Problem
	add := func(s formats.Severity, off int64, format string, args ...any) {
		list = append(list, formats.Problem{
			Severity: s, Structure: "header", Offset: off, Text: fmt.Sprintf(format, args...),
		})
	}
	at := struct{ flags, size, create, link int64 }{offFlags, offDiskSize, offCreate, offLink}
	if h.version == version0_2 {
		at.flags, at.size, at.create, at.link = off0Flags, off0DiskSize, off0Create, off0Link
	}
	if unknown := h.flags &^ knownFlags; unknown != 0 {
		add(formats.Note, at.flags, "unknown flags 0x%x: VirtualBox refuses the image", unknown)
	}
	if h.size%sector != 0 {
		add(formats.Note, at.size, "the disk of %d bytes is no whole number of sectors: VirtualBox leaves out the rest",
			h.size)
	}
	if h.create == (uuid{}) || h.modify == (uuid{}) {
		add(formats.Note, at.create, "a UUID is zero: VirtualBox refuses the image")
	}
	if h.hasLCHS && h.lchs[3] != sector {
		add(formats.Note, offLCHS+12, "sectors of %d bytes: VirtualBox refuses the image", h.lchs[3])
	}
	switch {
	case !h.child() && h.link != uuid{}:
		add(formats.Risk, at.link, "the type is %s, but parent %s is named: it is not read", typeNames[h.kind], h.link)
	case h.child() && h.link == uuid{}:
		add(formats.Note, at.link, "the type is %s, but no parent is named", typeNames[h.kind])
	}
	return list
}

// mapper is the guest's view of an image.
type mapper image

// Size implements formats.Mapper.
func (m *mapper) Size() int64 { return m.size }

// MapAt implements formats.Mapper. A run ends with the page of the map.
func (m *mapper) MapAt(off int64) (formats.Extent, error) {
	if off < 0 || off >= m.size {
		return formats.Extent{}, io.EOF
	}
	k := off / m.block
	v, n, err := (*image)(m).run(k)
	if err != nil {
		return formats.Extent{}, err
	}
	e := formats.Extent{Offset: k * m.block, Length: min(n*m.block, m.size-k*m.block)}
	switch {
	case v == entryZero:
		e.Kind = formats.Zero
		return e, nil
	case v == entryFree && m.child():
		e.Kind = formats.Parent
		return e, nil
	case v == entryFree:
		e.Kind = formats.Hole
		return e, nil
	}
	e.Kind = formats.Data
	var have int64
	e.Host, have = (*image)(m).place(v)
	// Of a run, or a block, that the file was cut in, the first part is whole.
	e.Length = min(e.Length, have)
	if off >= e.End() {
		// The block at fault, of a run that began in order.
		at := k + (e.Length / m.block)
		return formats.Extent{}, m.Corrupt("block table", m.table+4*at,
			"block %d of the disk is block %d of the file, which ends at %d", at, int64(v)+at-k, m.Image.Size())
	}
	return e, nil
}

// run returns entry k of the map, and how many from k on make one run: they are
// the same, or follow each other in the file.
func (m *image) run(k int64) (v uint32, n int64, err error) {
	first, n, err := m.entries.Run(k, m.entries.Count-k, func(v, entry uint64, i int64) bool {
		if v >= entryZero {
			return entry == v
		}
		return m.extra == 0 && entry < entryZero && entry == v+uint64(i)
	})
	return uint32(first), n, err
}

// place returns the file offset of block v's data, and how many bytes from there
// on the file has; none, with any offset, where the block is behind its end.
func (m *image) place(v uint32) (host, have int64) {
	room := m.Image.Size() - m.data - m.extra
	// Divided, because the product may pass 2^63.
	if room <= 0 || int64(v) > (room-1)/m.step() {
		return m.data, 0
	}
	at := int64(v) * m.step()
	return m.data + m.extra + at, room - at
}
