package vhd

import (
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"runtime"

	"tarvm/formats"
	"tarvm/formats/internal/parse"
)

const (
	defaultUnit = 2 << 20
	// minUnit and maxUnit bound the blocks that are written, and with them the
	// BAT, which is kept in memory: 16 MiB.
	minUnit = 512 << 10
	maxUnit = 16 << 20
	// maxDynamic is the largest disk that is not fixed: 2040 GiB.
	maxDynamic = 2040 << 30
	// pageLen is what guest data is aligned to in the file. Windows does so,
	// because disks with sectors of 4 KiB are slow otherwise.
	pageLen = 4 << 10
	// azureUnit as EncodeOptions.Unit of a fixed disk makes its size a multiple.
	azureUnit = 1 << 20
	// copyUnit is in what pieces fixed disks are written.
	copyUnit = 1 << 20
)

// Subformats implements formats.Encoder.
func (Format) Subformats() []string { return []string{"dynamic", "fixed", "differencing"} }

// Streams implements formats.Encoder: fixed disks do.
func (Format) Streams(o *formats.EncodeOptions) bool { return o.Subformat == "fixed" }

// Encode implements formats.Encoder. The size is rounded up to 512 bytes.
//
// A dynamic disk, the default, or a differencing one, the default with a Base,
// has at most 2040 GiB, and blocks of o.Unit: a power of two from 512 KiB to
// 16 MiB; Windows knows 512 KiB and 2 MiB, the default. Blocks that are zero are
// not stored. All bits of a stored block are set; in a differencing disk those
// of the sectors that differ from o.Base. o.Parent names the parent and has its
// ID; of its names the first absolute one and the first other one are stored.
//
// A fixed disk is written front to back. With o.Unit 1 MiB its size is rounded
// up to a whole MiB, which Azure demands.
//
// The UUID is o.ID, the timestamp o.Unix.
func (Format) Encode(ctx context.Context, out formats.Outputs, d formats.Disk, o formats.EncodeOptions) error {
	if o.Subformat == "" {
		o.Subformat = "dynamic"
		if o.Base != nil {
			o.Subformat = "differencing"
		}
	}
	if o.Compression != "" && o.Compression != "none" {
		return unsupported("compression", "%s", o.Compression)
	}
	if (o.Base != nil) != (o.Subformat == "differencing") {
		return unsupported("subformat", "%s, with a base: %t", o.Subformat, o.Base != nil)
	}
	options := o
	w := &writer{out: out.Main, o: &options, d: d, size: roundUp(d.Size(), sector)}
	switch o.Subformat {
	case "fixed":
		return w.fixed(ctx)
	case "dynamic":
		return w.dynamic(ctx, typeDynamic)
	case "differencing":
		if o.Parent == nil {
			return unsupported("subformat", "differencing without a parent's name")
		}
		var err error
		if w.parent, err = newParentage(o.Parent); err != nil {
			return err
		}
		// Behind the disk's end the parent must not show through, either.
		w.d = padded{d, w.size}
		if o.Progress != nil {
			w.o.Progress = func(done int64) { o.Progress(min(done, d.Size())) }
		}
		return w.dynamic(ctx, typeDifferencing)
	}
	return unsupported("subformat", "%q", o.Subformat)
}

func unsupported(structure, format string, args ...any) error {
	return &formats.FormatError{
		Format: Name, Structure: structure, Offset: -1,
		Got: fmt.Sprintf(format, args...), Err: formats.ErrUnsupported,
	}
}

func roundUp(n, to int64) int64 { return (n + to - 1) / to * to }

// padded is a disk with zeros up to size. Its Extents are the disk's.
type padded struct {
	formats.Disk
	size int64
}

func (d padded) Size() int64 { return d.size }

func (d padded) ReadAt(p []byte, off int64) (int, error) {
	n := int(max(0, min(int64(len(p)), d.Disk.Size()-off)))
	if got, err := d.Disk.ReadAt(p[:n], off); got < n {
		return got, err
	}
	rest := p[n:max(n, int(min(int64(len(p)), d.size-off)))]
	clear(rest)
	if n += len(rest); n < len(p) {
		return n, io.EOF
	}
	return n, nil
}

type writer struct {
	out    formats.Output
	o      *formats.EncodeOptions
	d      formats.Disk
	size   int64      // of the disk that is written
	parent *parentage // of a differencing disk
}

func (w *writer) fixed(ctx context.Context) error {
	switch w.o.Unit {
	case 0:
	case azureUnit:
		w.size = roundUp(w.d.Size(), azureUnit)
	default:
		return unsupported("block size", "%d of a fixed disk", w.o.Unit)
	}
	err := formats.Units(ctx, w.d, copyUnit, w.o, nil, func(u *formats.Unit) error {
		off := u.Index * copyUnit
		_, err := w.out.WriteAt(u.Out[:min(copyUnit, w.size-off)], off)
		return err
	})
	if err != nil {
		return err
	}
	_, err = w.out.WriteAt(w.footer(typeFixed), w.size)
	return err
}

// dynamic writes blocks, and then what says where they are.
func (w *writer) dynamic(ctx context.Context, kind uint32) error {
	unit := w.o.Unit
	if unit == 0 {
		unit = defaultUnit
	}
	if !parse.PowerOfTwo(unit) || unit < minUnit || unit > maxUnit {
		return unsupported("block size", "%d, not a power of two from %d to %d", unit, minUnit, maxUnit)
	}
	if w.size > maxDynamic {
		return unsupported("disk size", "%d bytes, only a fixed disk may have more than %d", w.size, int64(maxDynamic))
	}
	header := w.header(unit)
	bat := make([]byte, roundUp(4*w.entries(unit), sector))
	for i := range bat {
		bat[i] = 0xff
	}
	be := binary.BigEndian
	table := int64(be.Uint64(header[offTable:])) // what precedes it is in header
	bits := bitmapLen(unit)
	// next is where the next bitmap goes, or the footer.
	place := func(end int64) int64 { return roundUp(end+bits, pageLen) - bits }
	next := place(footerLen + int64(len(header)) + int64(len(bat)))
	work, all := w.work(unit)
	err := formats.Units(ctx, w.d, unit, w.o, work, func(u *formats.Unit) error {
		if next/sector >= absent {
			return unsupported("BAT", "block at 0x%x", next)
		}
		bitmap := all
		if b, ok := u.Any.([]byte); ok {
			bitmap = b
		}
		if _, err := w.out.WriteAt(bitmap, next); err != nil {
			return err
		}
		if u.Out != nil {
			if _, err := w.out.WriteAt(u.Out, next+bits); err != nil {
				return err
			}
		}
		be.PutUint32(bat[4*u.Index:], uint32(next/sector))
		next = place(next + bits + unit)
		return nil
	})
	if err != nil {
		return err
	}
	footer := w.footer(kind)
	for _, part := range []struct {
		b   []byte
		off int64
	}{{bat, table}, {header, footerLen}, {footer, next}, {footer, 0}} {
		if _, err := w.out.WriteAt(part.b, part.off); err != nil {
			return err
		}
	}
	return nil
}

// entries is the number of entries of the BAT. Without any, programs refuse the
// disk.
func (w *writer) entries(unit int64) int64 { return max(1, (w.size+unit-1)/unit) }

// work returns what makes the bitmap and the data of a unit, and the bitmap of
// a unit for which it is nil.
func (w *writer) work(unit int64) (work func(worker int, u *formats.Unit) error, all []byte) {
	bits := bitmapLen(unit)
	if w.parent == nil {
		all = make([]byte, bits)
		for i := range all {
			all[i] = 0xff
		}
		return nil, all
	}
	if w.o.Workers <= 0 {
		w.o.Workers = runtime.GOMAXPROCS(0)
	}
	bases := make([][]byte, w.o.Workers)
	zero := make([]byte, sector)
	return func(worker int, u *formats.Unit) error {
		if bases[worker] == nil {
			bases[worker] = make([]byte, unit)
		}
		base, off := bases[worker], u.Index*unit
		clear(base)
		if n := max(0, min(unit, w.d.Size()-off, w.o.Base.Size()-off)); n > 0 {
			// All bytes with io.EOF are all bytes.
			if got, err := w.o.Base.ReadAt(base[:n], off); int64(got) < n {
				return fmt.Errorf("base at byte %d: %w", off, err)
			}
		}
		bitmap := make([]byte, bits)
		for i := range unit / sector {
			old, now := base[i*sector:][:sector], zero
			if u.Data != nil {
				now = u.Data[i*sector:][:sector]
			}
			if string(old) != string(now) {
				bitmap[i/8] |= 0x80 >> (i % 8)
			} else if u.Data != nil {
				clear(now)
			}
		}
		u.Any, u.Out = bitmap, u.Data
		return nil
	}, nil
}

// footer makes the footer, the same for both places.
func (w *writer) footer(kind uint32) []byte {
	be := binary.BigEndian
	b := make([]byte, footerLen)
	copy(b, cookie)
	be.PutUint32(b[offFeatures:], 2)
	be.PutUint32(b[offVersion:], version1)
	be.PutUint64(b[offDataOffset:], footerLen)
	if kind == typeFixed {
		be.PutUint64(b[offDataOffset:], noOffset)
	}
	if t := w.o.Unix - epoch; t > 0 && t < 1<<32 {
		be.PutUint32(b[offTime:], uint32(t))
	}
	// The creator decides what the size is: that of Windows is the current one.
	copy(b[offCreator:], "win ")
	be.PutUint16(b[offCreatorVersion:], 10)
	copy(b[offCreatorOS:], "Wi2k")
	be.PutUint64(b[offOriginalSize:], uint64(w.size))
	be.PutUint64(b[offCurrentSize:], uint64(w.size))
	c, h, s := geometry(w.size / sector)
	be.PutUint16(b[offCylinders:], uint16(c))
	b[offHeads], b[offSectors] = byte(h), byte(s)
	be.PutUint32(b[offType:], kind)
	copy(b[offID:], w.o.ID[:])
	be.PutUint32(b[offChecksum:], sum(b, offChecksum))
	return b
}

// header makes the header, and what stands between it and the BAT: the parent's
// names.
func (w *writer) header(unit int64) []byte {
	be := binary.BigEndian
	b := make([]byte, headerLen)
	copy(b, headerCookie)
	be.PutUint64(b[offHeaderNext:], noOffset)
	be.PutUint32(b[offHeaderVersion:], version1)
	be.PutUint32(b[offEntries:], uint32(w.entries(unit)))
	be.PutUint32(b[offBlockSize:], uint32(unit))
	if p := w.parent; p != nil {
		copy(b[offParentID:], p.id[:])
		copy(b[offParentName:], p.name)
		for i, l := range p.locators {
			f := b[offLocators+i*locatorLen:][:locatorLen]
			space := roundUp(int64(len(l.name)), sector)
			copy(f[offPlatform:], l.platform)
			be.PutUint32(f[offNameSpace:], uint32(space))
			be.PutUint32(f[offNameLen:], uint32(len(l.name)))
			be.PutUint64(f[offNameAt:], uint64(footerLen+len(b)))
			b = append(append(b, l.name...), make([]byte, space-int64(len(l.name)))...)
		}
	}
	be.PutUint64(b[offTable:], uint64(footerLen+len(b)))
	be.PutUint32(b[offHeaderChecksum:], sum(b[:headerLen], offHeaderChecksum))
	return b
}

// geometry is the specification's: what a disk of so many sectors shows to a
// BIOS, rounded down.
func geometry(sectors int64) (cylinders, heads, perTrack int64) {
	sectors = min(sectors, largest)
	if sectors >= 65535*16*63 {
		return sectors / 255 / 16, 16, 255
	}
	perTrack = 17
	tracks := sectors / perTrack
	heads = max(4, (tracks+1023)/1024)
	if tracks >= heads*1024 || heads > 16 {
		perTrack, heads = 31, 16
		tracks = sectors / perTrack
	}
	if tracks >= heads*1024 {
		perTrack, heads = 63, 16
		tracks = sectors / perTrack
	}
	return tracks / heads, heads, perTrack
}
