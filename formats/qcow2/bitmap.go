package qcow2

import (
	"iter"
	"math/bits"
	"slices"
	"strings"

	"tarvm/formats"
	"tarvm/formats/internal/parse"
)

// The bitmap directory is an array of entries of different lengths, each of
// which begins at a multiple of 8 bytes. Fields are big-endian, offsets are in
// the entry. The name follows the extra data.
const (
	dirTable       = 0  // u64, file offset of the bitmap table, a multiple of the cluster
	dirTableSize   = 8  // u32, entries of the bitmap table
	dirFlags       = 12 // u32, see below
	dirType        = 16 // u8, 1: dirty tracking
	dirGranularity = 17 // u8, a bit stands for 2^n guest bytes
	dirName        = 18 // u16, bytes of the name
	dirExtra       = 20 // u32, bytes of extra data
	dirFixed       = 24

	bitmapInUse      = 1 << 0 // it was not saved: what it says may be wrong
	bitmapAuto       = 1 << 1 // enabled: it must reflect all writes
	bitmapCompatible = 1 << 2 // extra data may be ignored
	bitmapDirty      = 1      // the type

	// An entry of a bitmap table is a u64: offsetMask, or, without an offset,
	// whether all bits are set.
	bitmapOnes = 1 << 0

	bitmapsLen     = 24      // bytes of the header extension
	maxBitmaps     = 65535   // as in qemu
	maxBitmapName  = 1023    // as in qemu
	maxBitmapTable = 4 << 20 // entries; qemu's limit is 512 MiB of clusters
)

// A Bitmap is a dirty bitmap that an image keeps: it says which parts of the disk
// were written since it was made. The methods may be called from several
// goroutines at once.
type Bitmap struct {
	Name string // as stored: untrusted
	// Granularity is how many guest bytes a bit stands for.
	Granularity int64
	// Enabled: programs that write to the disk write to the bitmap, too.
	Enabled bool
	// Consistent: what the bitmap says can be relied on. A bitmap is not
	// consistent while a VM runs, and after one crashed.
	Consistent bool

	im    *image
	table parse.Table
}

// A Range is a piece of a disk.
type Range struct {
	Offset, Length int64 // bytes
}

// Bitmaps returns the dirty bitmaps of the image in src, which must stay open for
// as long as they are used. Those that a program without bitmaps has made stale,
// by writing to the image, are left out. Errors are those of Format.Open.
func Bitmaps(src formats.Source) ([]*Bitmap, error) {
	h, err := readHeader(src)
	if err != nil {
		return nil, err
	}
	m := parse.Image{Source: src, Format: h.Format}
	if h.version < 3 {
		return nil, nil
	}
	im := &image{header: h, m: m, cache: parse.NewCache(m, cacheLimit), data: src}
	list, err := h.extensions(m)
	if err != nil {
		return nil, err
	}
	if err := im.readBitmaps(list); err != nil {
		return nil, err
	}
	return im.bitmaps, nil
}

// openBitmaps reads the bitmap directory. What is wrong there is a problem: the
// guest's data does not need it.
func (im *image) openBitmaps(list []extension) error {
	err := im.readBitmaps(list)
	if err != nil {
		im.bitmaps, im.directory = nil, span{}
	}
	return im.damage(formats.Note, err)
}

func (im *image) readBitmaps(list []extension) error {
	i := slices.IndexFunc(list, func(e extension) bool { return e.kind == extBitmaps })
	if i < 0 {
		return nil
	}
	if im.autoclear&autoclearBitmaps == 0 {
		im.problem(formats.Note, "bitmaps", list[i].off,
			"stale: a program that does not know bitmaps has written to the image")
		return nil
	}
	if list[i].n != bitmapsLen {
		return im.m.Corrupt("bitmaps", list[i].off, "%d bytes, want %d", list[i].n, bitmapsLen)
	}
	b, err := im.m.Bytes("bitmaps", list[i].off, bitmapsLen)
	if err != nil {
		return err
	}
	count, size, at := bigEndian.Uint32(b), bigEndian.Uint64(b[8:]), bigEndian.Uint64(b[16:])
	switch {
	case count == 0 || count > maxBitmaps:
		return im.m.Corrupt("bitmaps", list[i].off, "%d bitmaps", count)
	case at%uint64(im.unit) != 0 || at < uint64(im.unit) || at > uint64(im.m.Size()) || size > uint64(im.m.Size())-at:
		return im.m.Corrupt("bitmap directory", list[i].off, "%d bytes at 0x%x, the file has %d", size, at, im.m.Size())
	}
	off, end := int64(at), int64(at+size)
	im.directory = span{off, end, "bitmap directory"}
	for range count {
		bm, n, err := im.readBitmap(off, end)
		if err != nil {
			return err
		}
		im.bitmaps = append(im.bitmaps, bm)
		off += (n + 7) &^ 7
	}
	return nil
}

// readBitmap reads the entry at off of a directory that ends at end, and returns
// its length.
func (im *image) readBitmap(off, end int64) (*Bitmap, int64, error) {
	const what = "bitmap directory"
	if off > end-dirFixed {
		return nil, 0, im.m.Corrupt(what, off, "an entry passes its end at 0x%x", end)
	}
	b, err := im.m.Bytes(what, off, dirFixed)
	if err != nil {
		return nil, 0, err
	}
	at, count, flags := bigEndian.Uint64(b[dirTable:]), int64(bigEndian.Uint32(b[dirTableSize:])),
		bigEndian.Uint32(b[dirFlags:])
	extra, name, gran := int64(bigEndian.Uint32(b[dirExtra:])), int64(bigEndian.Uint16(b[dirName:])), b[dirGranularity]
	switch {
	case name == 0 || name > maxBitmapName || extra+name > end-off-dirFixed:
		return nil, 0, im.m.Corrupt(what, off, "a name of %d bytes behind %d bytes of extra data", name, extra)
	case gran > 62:
		return nil, 0, im.m.Corrupt(what, off, "granularity 2^%d", gran)
	case count > maxBitmapTable || at%uint64(im.unit) != 0 || at < uint64(im.unit):
		return nil, 0, im.m.Corrupt(what, off, "a bitmap table of %d entries at 0x%x", count, at)
	case at > uint64(im.m.Size()) || !im.m.Inside(int64(at), count*8):
		return nil, 0, im.m.Corrupt(what, off, "a bitmap table of %d entries at 0x%x passes end of file at %d", count,
			at, im.m.Size())
	}
	text, err := im.m.Bytes(what, off+dirFixed+extra, name)
	if err != nil {
		return nil, 0, err
	}
	bm := &Bitmap{Name: strings.ToValidUTF8(string(text), "\ufffd"), Granularity: 1 << gran,
		Enabled: flags&bitmapAuto != 0, im: im}
	bm.table = im.table("bitmap table", int64(at), count)
	bm.Consistent = flags&bitmapInUse == 0 && b[dirType] == bitmapDirty && (extra == 0 || flags&bitmapCompatible != 0)
	if bm.Consistent && count*im.unit < bm.bytes() {
		im.problem(formats.Note, what, off, "bitmap %q has %d clusters, which is less than the disk", bm.Name, count)
		bm.Consistent = false
	}
	return bm, dirFixed + extra + name, nil
}

// bytes is the number of bytes of the bits of the whole disk.
func (b *Bitmap) bytes() int64 {
	if b.im.VirtualSize == 0 {
		return 0
	}
	return ((b.im.VirtualSize-1)/b.Granularity)/8 + 1
}

// Dirty yields the parts of the disk whose bits are set, in order and apart from
// each other, clipped to the disk. It stops after the first error. A bitmap that
// is not Consistent is ErrUnsupported.
func (b *Bitmap) Dirty() iter.Seq2[Range, error] {
	return func(yield func(Range, error) bool) {
		if !b.Consistent {
			yield(Range{}, b.im.m.Unsupported("bitmap", -1, "%q is not consistent", b.Name))
			return
		}
		var last Range
		stopped := false
		set := func(first, n int64) bool { // n bits from bit first on
			off := first * b.Granularity
			if n > (b.im.VirtualSize-off-1)/b.Granularity {
				n = b.im.VirtualSize - off
			} else {
				n *= b.Granularity
			}
			if last.Length > 0 && last.Offset+last.Length == off {
				last.Length += n
				return true
			}
			if last.Length > 0 && !yield(last, nil) {
				stopped = true
				return false
			}
			last = Range{off, n}
			return true
		}
		err := b.walk(set)
		if stopped || last.Length > 0 && !yield(last, nil) {
			return
		}
		if err != nil {
			yield(Range{}, err)
		}
	}
}

// walk calls set for each run of set bits of the disk, until it returns false.
func (b *Bitmap) walk(set func(first, n int64) bool) error {
	unit, total := b.im.unit, b.bytes()
	most := (b.im.VirtualSize-1)/b.Granularity + 1 // bits
	if total == 0 {
		return nil
	}
	for i := int64(0); i < b.table.Count && i*unit < total; {
		v, n, err := b.table.Run(i, b.table.Count-i, func(v, entry uint64, _ int64) bool {
			return v&offsetMask == 0 && entry == v
		})
		if err != nil {
			return err
		}
		first := i * unit * 8
		switch {
		case v&offsetMask != 0:
			more, err := b.cluster(v, i, min(unit, total-i*unit), func(bit, n int64) bool {
				return bit >= most || set(bit, min(n, most-bit))
			})
			if err != nil || !more {
				return err
			}
		case v&bitmapOnes != 0:
			if !set(first, min(n*unit*8, most-first)) {
				return nil
			}
		}
		i += n
	}
	return nil
}

// cluster calls set for the set bits in the first n bytes of cluster i, whose
// table entry is v. It reports whether there is more to do.
func (b *Bitmap) cluster(v uint64, i, n int64, set func(bit, n int64) bool) (bool, error) {
	host := int64(v & offsetMask)
	if host%b.im.unit != 0 || host+n > b.im.m.Size() {
		return false, b.im.m.Corrupt(b.table.Name, b.table.Off+8*i, "%d bytes at 0x%x, the file has %d", n, host,
			b.im.m.Size())
	}
	const piece = 64 << 10
	for at := int64(0); at < n; at += piece {
		p, err := b.im.cache.Bytes("bitmap", host+at, min(piece, n-at))
		if err != nil {
			return false, err
		}
		bit := (i*b.im.unit + at) * 8
		for len(p) > 0 {
			switch v := p[0]; v {
			case 0, 0xff:
				k := 1
				for k < len(p) && p[k] == v {
					k++
				}
				if v != 0 && !set(bit, int64(k)*8) {
					return false, nil
				}
				p, bit = p[k:], bit+int64(k)*8
			default:
				for v != 0 {
					from := bits.TrailingZeros8(v)
					run := bits.TrailingZeros8(^(v >> from))
					if !set(bit+int64(from), int64(run)) {
						return false, nil
					}
					v &^= 1<<(from+run) - 1
				}
				p, bit = p[1:], bit+8
			}
		}
	}
	return true, nil
}
