package parallels

import (
	"encoding/binary"
	"fmt"
	"io"
	"strconv"

	"tarvm/formats"
	"tarvm/formats/internal/parse"
)

// cacheBytes bounds the pages of tables that an image keeps: the table of a disk
// of 4 TiB in clusters of 1 MiB. The files of a bundle share it.
const cacheBytes = 16 << 20

// file is an open image file, and the Mapper of what it holds.
type file struct {
	*header
	m        parse.Image
	name     string // base name in a bundle; empty outside
	generic  formats.Header
	table    *parse.Table
	child    bool // what is not stored is the parent's
	bitmaps  []bitmap
	problems []formats.Problem
}

// openFile opens the image file src. cache bounds what is kept of its table.
func openFile(src formats.Source, name string, cache int64) (*file, error) {
	m := parse.Image{Source: src, Format: Name}
	h, err := readHeader(m)
	if err != nil {
		return nil, err
	}
	f := &file{header: h, m: m, name: name}
	if f.generic, err = h.generic(m); err != nil {
		return nil, err
	}
	f.table = &parse.Table{
		Name: f.what("table"), Off: headerLen, Count: h.entries, Width: 4,
		Order: binary.LittleEndian, Cache: parse.NewCache(m, cache),
	}
	if err := f.table.Check(); err != nil {
		return nil, err
	}
	note := func(structure string, off int64, format string, args ...any) {
		f.problems = append(f.problems, formats.Problem{
			Severity: formats.Note, Structure: f.what(structure), Offset: off, Text: fmt.Sprintf(format, args...),
		})
	}
	switch h.inUse {
	case inUseClosed, inUseOld:
	case inUseOpen:
		note("header", offInUse, "the image was not closed: a program uses it, or crashed")
	default:
		note("header", offInUse, "the state 0x%x is not known", h.inUse)
	}
	switch {
	case h.data < h.tableEnd():
		note("header", offData, "the first cluster is at 0x%x, which is in the table", h.data)
	case h.ext && h.data%h.unit != 0:
		note("header", offData, "the first cluster is at 0x%x, which is not aligned", h.data)
	}
	if h.extension != 0 {
		if err := f.readExtension(note); err != nil {
			return nil, err
		}
	}
	return f, nil
}

// what names a structure, with the file where there are several.
func (f *file) what(structure string) string {
	if f.name == "" {
		return structure
	}
	return structure + " of " + strconv.Quote(f.name)
}

// Size implements formats.Mapper.
func (f *file) Size() int64 { return f.size }

// MapAt implements formats.Mapper. A run ends with the page of the table.
func (f *file) MapAt(off int64) (formats.Extent, error) {
	if off < 0 || off >= f.size {
		return formats.Extent{}, io.EOF
	}
	k := off / f.unit
	v, n, err := f.run(k)
	if err != nil {
		return formats.Extent{}, err
	}
	e := formats.Extent{Offset: k * f.unit, Length: min(n*f.unit, f.size-k*f.unit)}
	if v == 0 {
		e.Kind = formats.Hole
		if f.child {
			e.Kind = formats.Parent
		}
		return e, nil
	}
	e.Kind, e.Host = formats.Data, int64(v)*f.place
	if e.Host < f.tableEnd() {
		return formats.Extent{}, f.m.Corrupt(f.table.Name, headerLen+4*k,
			"cluster %d of the disk is at 0x%x, within the table", k, e.Host)
	}
	// Of a run, or a cluster, that the file was cut in, the first part is whole.
	e.Length = min(e.Length, f.m.Size()-e.Host)
	if off >= e.Offset+e.Length {
		at := k + max(e.Length, 0)/f.unit
		return formats.Extent{}, f.m.Corrupt(f.table.Name, headerLen+4*at,
			"cluster %d of the disk is at 0x%x of a file of 0x%x bytes", at, e.Host+(at-k)*f.unit, f.m.Size())
	}
	return e, nil
}

// run returns entry k of the table, and how many from k on make one run: they
// are all 0, or follow each other in the file.
func (f *file) run(k int64) (v uint32, n int64, err error) {
	step := uint64(f.unit / f.place)
	first, n, err := f.table.Run(k, f.table.Count-k, func(v, entry uint64, i int64) bool {
		if v == 0 {
			return entry == 0
		}
		return entry == v+uint64(i)*step
	})
	return uint32(first), n, err
}
