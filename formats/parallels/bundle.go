package parallels

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"sort"
	"strconv"
	"strings"
	"unicode"

	"tarvm/formats"
	"tarvm/formats/internal/parse"
)

// printable is what of a text people can read.
func printable(s string) string {
	return strings.Map(func(r rune) rune {
		if r == unicode.ReplacementChar || !unicode.IsPrint(r) {
			return -1
		}
		return r
	}, s)
}

// openBundle opens all layers of a bundle, whose descriptor is src.
func openBundle(src formats.Source, o formats.OpenOptions) (*formats.Image, error) {
	m := parse.Image{Source: src, Format: Name}
	d, err := readDescriptor(m)
	if err != nil {
		return nil, err
	}
	if o.Find == nil {
		return nil, m.Unsupported("descriptor", -1, "an image of further files")
	}
	files := 0
	for _, s := range d.storages {
		files += len(s.images)
	}
	b := &bundle{
		descriptor: d, m: m, find: o.Find, cache: cacheBytes / int64(max(files, 1)),
		layers: make(map[string]*layer), failed: make(map[string]error),
	}
	parents := make(map[string]string)
	for _, s := range d.shots {
		parents[s.guid] = s.parent
		l, err := b.open(s)
		if err != nil && s.guid == d.top {
			return nil, err
		}
		if err != nil {
			b.failed[s.guid] = err
		} else {
			b.layers[s.guid] = l
		}
	}
	chain := make(map[string]bool)
	for at := d.top; at != nullGUID; at = parents[at] {
		chain[at] = true
	}
	return b.top(chain), nil
}

// bundle is a bundle being opened.
type bundle struct {
	*descriptor
	m      parse.Image
	find   func(name string) (formats.Source, error)
	cache  int64 // bytes for each file
	layers map[string]*layer
	failed map[string]error
}

// layer is one state of the disk, and the Mapper of what was written since the
// one below it.
type layer struct {
	image  *formats.Image
	size   int64
	child  bool
	pieces []piece
}

// piece is the part of a layer that is in one file.
type piece struct {
	start, end int64 // bytes of the disk
	m          formats.Mapper
	file       *file  // m, or nil
	plain      *plain // m, or nil
}

// open opens the files of a layer.
func (b *bundle) open(s shot) (*layer, error) {
	l := &layer{size: b.size, child: s.parent != nullGUID}
	img := &formats.Image{Header: b.generic(), Map: l, ID: s.guid, Check: l.check}
	l.image = img
	for _, st := range b.storages {
		i := slices.IndexFunc(st.images, func(f imageFile) bool { return f.guid == s.guid })
		if i < 0 {
			return nil, b.m.Corrupt("descriptor", -1, "storage from sector %d has no image of snapshot %s", st.start/sector,
				s.guid)
		}
		f := st.images[i]
		src, err := b.find(f.name)
		if err != nil {
			return nil, fmt.Errorf("%s: image file %q: %w", Name, f.name, err)
		}
		p := piece{start: st.start, end: st.end}
		if f.kind == "Plain" {
			err = b.plain(l, &p, src, f.name)
		} else {
			err = b.file(l, &p, src, f.name, st.cluster)
		}
		if err != nil {
			return nil, err
		}
		l.pieces = append(l.pieces, p)
		img.Files = append(img.Files, src)
	}
	if l.child {
		parent := s.parent
		img.Parent = &formats.ParentRef{Format: Name, ID: parent, Open: func() (*formats.Image, error) {
			if l := b.layers[parent]; l != nil {
				return l.image, nil
			}
			return nil, b.failed[parent]
		}}
	}
	return l, nil
}

func (l *layer) note(name, format string, args ...any) {
	l.image.Problems = append(l.image.Problems, formats.Problem{
		Severity: formats.Note, Structure: "image file " + strconv.Quote(name), Offset: -1, Text: fmt.Sprintf(format,
			args...),
	})
}

// plain opens a raw file.
func (b *bundle) plain(l *layer, p *piece, src formats.Source, name string) error {
	if l.child {
		return b.m.Corrupt("descriptor", -1, "image file %q is plain, and has a parent", name)
	}
	if n := src.Size(); n > p.end-p.start {
		l.note(name, "%d bytes, its storage has %d", n, p.end-p.start)
	}
	p.plain = &plain{parse.Image{Source: src, Format: Name}, name, p.end - p.start}
	p.m = p.plain
	return nil
}

// file opens an image file.
func (b *bundle) file(l *layer, p *piece, src formats.Source, name string, cluster int64) error {
	f, err := openFile(src, name, b.cache)
	if errors.Is(err, formats.ErrNotFormat) {
		err = b.m.Corrupt("header", 0, "no magic")
	}
	if err != nil {
		return fmt.Errorf("image file %q: %w", name, err)
	}
	f.child = l.child
	p.m, p.file = f, f
	l.image.Problems = append(l.image.Problems, f.problems...)
	if f.size != p.end-p.start {
		l.note(name, "a disk of %d bytes, its storage has %d", f.size, p.end-p.start)
	}
	if cluster != 0 && cluster != f.unit {
		l.note(name, "clusters of %d bytes, its storage has %d", f.unit, cluster)
	}
	return nil
}

// top completes the image of the layer that the guest writes to, with what no
// other image will tell. chain is the layers that it builds on, and itself.
func (b *bundle) top(chain map[string]bool) *formats.Image {
	l := b.layers[b.descriptor.top]
	img := l.image
	img.Facts = b.facts(l)
	img.Problems = slices.Concat(b.problems, img.Problems)
	var aside []*layer
	for _, s := range b.shots {
		if err := b.failed[s.guid]; err != nil {
			img.Problems = append(img.Problems, formats.Problem{
				Severity: formats.Risk, Structure: "snapshot " + s.guid, Offset: -1, Text: err.Error(),
			})
		}
		if s.guid == b.descriptor.top {
			continue
		}
		snap := formats.Snapshot{ID: s.guid}
		if other := b.layers[s.guid]; other != nil {
			snap.Image = other.image
			if !chain[s.guid] {
				aside = append(aside, other)
				img.Problems = append(img.Problems, other.image.Problems...)
			}
		}
		img.Snapshots = append(img.Snapshots, snap)
	}
	img.Check = func(ctx context.Context, report func(formats.Problem)) error {
		for _, l := range append([]*layer{l}, aside...) {
			if err := l.check(ctx, report); err != nil {
				return err
			}
		}
		return nil
	}
	return img
}

func (b *bundle) facts(l *layer) []formats.Fact {
	var list []formats.Fact
	add := func(name, value string) {
		if value != "" {
			list = append(list, formats.Fact{Name: name, Value: value})
		}
	}
	add("name", b.name)
	add("UID", b.uid)
	add("storages", strconv.Itoa(len(b.storages)))
	add("layers", strconv.Itoa(len(b.shots)))
	add("top", b.descriptor.top)
	for _, p := range l.pieces {
		if p.file == nil {
			continue
		}
		add("file", strconv.Quote(p.file.name))
		list = append(list, append(p.file.facts(), p.file.extFacts()...)...)
	}
	return list
}

// check looks at the files of l, without those below.
func (l *layer) check(ctx context.Context, report func(formats.Problem)) error {
	for _, p := range l.pieces {
		if p.plain != nil {
			p.plain.check(p.start, report)
			continue
		}
		// Within the file its part of the disk begins at 0.
		if err := p.file.check(ctx, func(q formats.Problem) {
			if q.Length > 0 {
				q.Guest += p.start
			}
			report(q)
		}); err != nil {
			return err
		}
	}
	return nil
}

// Size implements formats.Mapper.
func (l *layer) Size() int64 { return l.size }

// MapAt implements formats.Mapper.
func (l *layer) MapAt(off int64) (formats.Extent, error) {
	if off < 0 || off >= l.size {
		return formats.Extent{}, io.EOF
	}
	i := sort.Search(len(l.pieces), func(i int) bool { return l.pieces[i].end > off })
	p := &l.pieces[i]
	end := min(p.end, l.size)
	if size := p.m.Size(); off-p.start >= size {
		// A disk that was made larger later.
		e := formats.Extent{Offset: p.start + size, Length: end - p.start - size, Kind: formats.Hole}
		if l.child {
			e.Kind = formats.Zero
		}
		return e, nil
	}
	e, err := p.m.MapAt(off - p.start)
	if err != nil {
		return e, err
	}
	e.Offset += p.start
	e.Length = min(e.Length, end-e.Offset)
	e.File = i
	return e, nil
}

// plain is a raw file of a bundle.
type plain struct {
	parse.Image
	name string
	size int64 // of its part of the disk
}

// Size implements formats.Mapper.
func (m *plain) Size() int64 { return m.size }

// MapAt implements formats.Mapper.
func (m *plain) MapAt(off int64) (formats.Extent, error) {
	have := min(m.Source.Size(), m.size)
	if off >= have {
		return formats.Extent{}, m.Corrupt("image file "+strconv.Quote(m.name), have, "%d bytes, its storage has %d", have,
			m.size)
	}
	return formats.Extent{Length: have, Kind: formats.Data}, nil
}

// check reports a file that is too short, of the part of the disk at start.
func (m *plain) check(start int64, report func(formats.Problem)) {
	if have := m.Source.Size(); have < m.size {
		report(formats.Problem{
			Severity: formats.Risk, Structure: "image file " + strconv.Quote(m.name), Offset: have,
			Guest: start + have, Length: m.size - have,
			Text: fmt.Sprintf("%d bytes, its storage has %d", have, m.size),
		})
	}
}
