package vhd

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"io"
	"math/bits"
	"strings"

	"tarvm/formats"
	"tarvm/formats/internal/parse"
)

const (
	// tableCache is what is kept of a BAT: 4 MiB are that of a disk of 2 TiB
	// with blocks of 2 MiB.
	tableCache = 4 << 20
	// bitmapCache is what is kept of bitmaps: those of 4 GiB of guest data.
	bitmapCache = 1 << 20
)

// Open implements formats.Format. There are no further files. The ID is the
// footer's UUID, and the parent's names are the relative one, the absolute one,
// and that of the header.
func (Format) Open(src formats.Source, _ formats.OpenOptions) (*formats.Image, error) {
	f, h, err := read(src)
	if err != nil {
		return nil, err
	}
	img := &formats.Image{Header: *h, Files: []formats.Source{src}, ID: uuid(f.footer[offID:]), Facts: f.facts()}
	if f.tail != "" {
		img.Problems = append(img.Problems, formats.Problem{
			Severity: formats.Note, Structure: "footer", Offset: f.tailAt, Text: f.tail + "; its copy at the start is used",
		})
	}
	if f.kind == typeFixed {
		img.Map = fixed(f.size)
		if rest := f.end - max(f.size, f.current()); rest >= sector {
			img.Problems = append(img.Problems, formats.Problem{
				Severity: formats.Leak, Structure: "footer", Offset: f.footerAt,
				Text: fmt.Sprintf("%d bytes between the end of the disk and the footer", rest),
			})
		}
		return img, nil
	}
	if err := f.findGrid(&img.Header); err != nil {
		return nil, err
	}
	d := &dynamic{
		file:    f,
		blocks:  (f.size + f.unit - 1) / f.unit,
		nothing: formats.Hole,
		bits:    parse.NewCache(f.m, bitmapCache),
	}
	d.bat = parse.Table{
		Name: "BAT", Off: f.table, Count: f.entries, Width: 4,
		Order: binary.BigEndian, Cache: parse.NewCache(f.m, tableCache),
	}
	d.used = []region{
		{0, footerLen, "footer copy"},
		{f.headerAt, f.headerAt + headerLen, "header"},
		{f.table, f.table + f.entries*4, "BAT"},
	}
	if f.kind == typeDifferencing {
		d.nothing = formats.Parent
		p, used, problems, err := f.parent()
		if err != nil {
			return nil, err
		}
		img.Parent = p
		img.Problems = append(img.Problems, problems...)
		for _, r := range used {
			if on := d.structureAt(r.start, r.end); on != "" {
				img.Problems = append(img.Problems, formats.Problem{
					Severity: formats.Risk, Structure: r.name, Offset: r.start, Text: "it lies on the " + on,
				})
			}
		}
		d.used = append(d.used, used...)
	}
	if f.tail == "" {
		p, err := f.compareCopy()
		if err != nil {
			return nil, err
		}
		img.Problems = append(img.Problems, p...)
	}
	img.Map, img.Check = d, d.check
	return img, nil
}

// current is the size that the footer says, whether or not the disk has it.
func (f *file) current() int64 {
	n := binary.BigEndian.Uint64(f.footer[offCurrentSize:])
	return int64(min(n, uint64(f.end)))
}

// compareCopy says what is wrong with the copy of the footer at the start.
func (f *file) compareCopy() ([]formats.Problem, error) {
	b, err := f.m.Bytes("footer copy", 0, footerLen)
	if err != nil {
		return nil, err
	}
	p := formats.Problem{Severity: formats.Note, Structure: "footer copy"}
	switch {
	case bytes.Equal(b[:len(f.footer)], f.footer):
		return nil, nil
	case !hasCookie(b):
		p.Text = "there is none"
	case checksum(b, offChecksum) != nil:
		p.Text = checksum(b, offChecksum).Error()
	default:
		p.Text = "it differs from the footer"
		for _, part := range []struct {
			name     string
			from, to int
		}{
			{"header's place", offDataOffset, offTime},
			{"creator", offCreator, offCreatorVersion},
			{"size", offCurrentSize, offCylinders},
			{"geometry", offCylinders, offType},
			{"type", offType, offChecksum},
		} {
			if !bytes.Equal(b[part.from:part.to], f.footer[part.from:part.to]) {
				// Both are valid, and one of them describes another disk.
				p.Severity = formats.Risk
				p.Text += ": another " + part.name
				break
			}
		}
	}
	return []formats.Problem{p}, nil
}

func (f *file) facts() []formats.Fact {
	be := binary.BigEndian
	var list []formats.Fact
	add := func(name, value string) {
		if value != "" {
			list = append(list, formats.Fact{Name: name, Value: value})
		}
	}
	add("creator", fmt.Sprintf("%s %d.%d", printable(f.footer[offCreator:][:4]),
		be.Uint16(f.footer[offCreatorVersion:]), be.Uint16(f.footer[offCreatorVersion+2:])))
	os := printable(f.footer[offCreatorOS:][:4])
	switch os {
	case "Wi2k":
		os = "Windows"
	case "Mac":
		os = "Macintosh"
	}
	add("creator's system", os)
	add("disk type", subformat(f.kind))
	add("geometry", fmt.Sprintf("%d cylinders, %d heads, %d sectors",
		be.Uint16(f.footer[offCylinders:]), f.footer[offHeads], f.footer[offSectors]))
	if n := be.Uint64(f.footer[offCurrentSize:]); n != uint64(f.size) {
		add("current size", fmt.Sprint(n))
	}
	add("timestamp", when(f.footer[offTime:]))
	add("UUID", uuid(f.footer[offID:]))
	if f.kind != typeFixed {
		add("block size", fmt.Sprint(f.unit))
	}
	if f.footer[offSaved] != 0 {
		add("saved state", "yes")
	}
	if f.kind == typeDifferencing {
		add("parent's UUID", uuid(f.header[offParentID:]))
		add("parent's timestamp", when(f.header[offParentTime:]))
	}
	return list
}

// printable is a text of four bytes that may be anything.
func printable(b []byte) string {
	return strings.TrimRight(strings.Map(func(r rune) rune {
		if r < ' ' || r > '~' {
			return '.'
		}
		return r
	}, strings.TrimRight(string(b), "\x00")), " ")
}

// fixed maps a fixed disk of so many bytes.
type fixed int64

func (d fixed) Size() int64 { return int64(d) }

func (d fixed) MapAt(off int64) (formats.Extent, error) {
	if off < 0 || off >= int64(d) {
		return formats.Extent{}, io.EOF
	}
	return formats.Extent{Length: int64(d), Kind: formats.Data}, nil
}

// A region is a part of the file that a structure has.
type region struct {
	start, end int64
	name       string
}

// dynamic maps a dynamic or differencing disk.
type dynamic struct {
	*file
	blocks  int64        // of the disk; the BAT may have more entries
	nothing formats.Kind // what a block or sector that is not there is
	bat     parse.Table
	bits    *parse.Cache
	used    []region // what the structures have, blocks and the footer excepted
}

func (d *dynamic) Size() int64 { return d.size }

// MapAt implements formats.Mapper. A lookup reads a page of the BAT and one
// bitmap, unless they are cached.
func (d *dynamic) MapAt(off int64) (formats.Extent, error) {
	if off < 0 || off >= d.size {
		return formats.Extent{}, io.EOF
	}
	i := off / d.unit
	start := i * d.unit
	v, n, err := d.bat.Run(i, d.blocks-i, bothAbsent)
	if err != nil {
		return formats.Extent{}, err
	}
	if v == absent {
		return formats.Extent{Offset: start, Length: min((i+n)*d.unit, d.size) - start, Kind: d.nothing}, nil
	}
	at, short, err := d.place(i, v)
	if err != nil {
		return formats.Extent{}, err
	}
	bitmap, err := d.bits.Bytes("bitmap", at, d.bitmap)
	if err != nil {
		return formats.Extent{}, err
	}
	first := (off - start) / sector
	set, k := run(bitmap, first, d.unit/sector)
	e := formats.Extent{Offset: start + first*sector, Kind: d.nothing}
	e.Length = min(start+(first+k)*sector, d.size) - e.Offset
	if !set {
		return e, nil
	}
	e.Kind, e.Host = formats.Data, at+d.bitmap+first*sector
	if have := d.end - e.Host; have < e.Length {
		if off-e.Offset >= have {
			return formats.Extent{}, d.bad(i, "block at 0x%x: %d bytes pass end of file", at, short)
		}
		e.Length = have
	}
	return e, nil
}

func bothAbsent(v, entry uint64, _ int64) bool { return v == absent && entry == absent }

// bad makes the error of entry i of the BAT.
func (d *dynamic) bad(i int64, format string, args ...any) error {
	return d.m.Corrupt("BAT", d.table+4*i, format, args...)
}

// place checks entry i of the BAT, which is v and not absent. It returns the
// file offset of the block's bitmap, and how many bytes that belong to the
// guest's disk are missing at the end of the file.
func (d *dynamic) place(i int64, v uint64) (at, short int64, err error) {
	at = int64(v) * sector
	if at > d.end-d.bitmap {
		return 0, 0, d.bad(i, "block at 0x%x is past end of file at 0x%x", at, d.end)
	}
	if on := d.structureAt(at, at+d.bitmap+d.unit); on != "" {
		return 0, 0, d.bad(i, "block at 0x%x lies on the %s", at, on)
	}
	want := min(d.unit, max(d.size-i*d.unit, 0))
	return at, max(0, at+d.bitmap+want-d.end), nil
}

// structureAt is the name of a structure that has some of the bytes from start to
// end; empty if none does.
func (d *dynamic) structureAt(start, end int64) string {
	for _, r := range d.used {
		if start < r.end && end > r.start {
			return r.name
		}
	}
	return ""
}

// run reports whether bit i of a bitmap is set, the highest bit of a byte being
// the first, and how many bits from i on, below end, are like it. The bitmap has
// whole sectors.
func run(bitmap []byte, i, end int64) (set bool, n int64) {
	set = bitmap[i/8]&(0x80>>(i%8)) != 0
	var like uint64
	if set {
		like = ^like
	}
	j := i
	for j < end {
		w := (binary.BigEndian.Uint64(bitmap[j/64*8:]) ^ like) << (j % 64)
		if w != 0 {
			j += int64(bits.LeadingZeros64(w))
			break
		}
		j = (j/64 + 1) * 64
	}
	return set, min(j, end) - i
}
