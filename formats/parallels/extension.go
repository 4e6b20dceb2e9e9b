package parallels

import (
	"encoding/binary"
	"fmt"
	"math"

	"tarvm/formats"
)

// The format extension: a cluster of features. All is little-endian.
const (
	extMagic = 0xAB234CEF23DCEA87 // u64 at 0
	extSum   = 8                  // 16 bytes, MD5 of the cluster from extFirst on
	extFirst = 24                 // the first feature

	// A feature, aligned to 8 bytes.
	featMagic  = 0  // u64; 0: the last, which has only zeros
	featFlags  = 8  // u64, bit 0: who does not know it must not write the image
	featLen    = 16 // u32, bytes of the data that follow the header
	featHeader = 24

	bitmapMagic = 0x20385FAE252CB34A

	// The data of a dirty bitmap.
	bitmapSize        = 0  // u64, sectors of the disk
	bitmapID          = 8  // 16 bytes, a UUID in the order of its text
	bitmapGranularity = 24 // u32, sectors of a bit
	bitmapEntries     = 28 // u32, entries of the table that follows
	bitmapHeader      = 32 // u64 each: 0 all clear, 1 all set, else the sector of a cluster of bits

	// maxFeatures is far more than anybody uses.
	maxFeatures = 64
)

// bitmap is a dirty bitmap of the extension.
type bitmap struct {
	id          string
	granularity int64 // bytes
	table       int64 // file offset
	entries     int64
}

// A noter takes what is odd in a structure at a file offset.
type noter func(structure string, off int64, format string, args ...any)

// readExtension lists the dirty bitmaps. What is wrong is noted, because the
// guest's data does not depend on it; an error is one of the medium.
func (f *file) readExtension(note noter) error {
	const what = "format extension"
	at := f.extension
	if f.inUse != inUseClosed {
		note(what, at, "the image was not closed by a program that knows it: dirty bitmaps may be out of date")
	}
	if at < f.tableEnd() || !f.m.Inside(at, f.unit) {
		note(what, offExt, "it is at 0x%x of a file of 0x%x bytes", at, f.m.Size())
		return nil
	}
	le := binary.LittleEndian
	b, err := f.m.Bytes(f.what(what), at, extFirst)
	if err != nil {
		return err
	}
	if magic := le.Uint64(b); magic != extMagic {
		note(what, at, "magic 0x%x", magic)
		return nil
	}
	end := at + f.unit
	pos := at + extFirst
	for n := 0; ; n++ {
		if n == maxFeatures || end-pos < featHeader {
			note(what, pos, "no end of features")
			return nil
		}
		b, err := f.m.Bytes(f.what(what), pos, featHeader)
		if err != nil {
			return err
		}
		magic, length := le.Uint64(b[featMagic:]), int64(le.Uint32(b[featLen:]))
		pos += featHeader
		if length > end-pos {
			note(what, pos-featHeader, "a feature of %d bytes passes the end of the cluster", length)
			return nil
		}
		switch magic {
		case 0:
			return nil
		case bitmapMagic:
			if err := f.readBitmap(note, pos, length); err != nil {
				return err
			}
		default:
			note(what, pos-featHeader, "feature 0x%x with flags 0x%x is not known", magic, le.Uint64(b[featFlags:]))
		}
		pos += (length + 7) &^ 7
	}
}

func (f *file) readBitmap(note func(structure string, off int64, format string, args ...any), pos,
	length int64) error {
	const what = "dirty bitmap"
	if length < bitmapHeader {
		note(what, pos, "%d bytes, want %d", length, bitmapHeader)
		return nil
	}
	b, err := f.m.Bytes(f.what(what), pos, bitmapHeader)
	if err != nil {
		return err
	}
	le := binary.LittleEndian
	id := b[bitmapID:][:16]
	m := bitmap{
		id:          fmt.Sprintf("%x-%x-%x-%x-%x", id[:4], id[4:6], id[6:8], id[8:10], id[10:]),
		granularity: int64(le.Uint32(b[bitmapGranularity:])) * sector,
		table:       pos + bitmapHeader,
		entries:     int64(le.Uint32(b[bitmapEntries:])),
	}
	if sectors := le.Uint64(b[bitmapSize:]); sectors > math.MaxInt64/sector || int64(sectors)*sector != f.size {
		note(what, pos, "of %d sectors, the disk has %d", sectors, f.size/sector)
	}
	if m.entries > (length-bitmapHeader)/8 {
		note(what, pos, "%d entries in %d bytes", m.entries, length)
		m.entries = (length - bitmapHeader) / 8
	}
	f.bitmaps = append(f.bitmaps, m)
	return nil
}

func (f *file) extFacts() []formats.Fact {
	var list []formats.Fact
	for _, m := range f.bitmaps {
		list = append(list, formats.Fact{Name: "dirty bitmap", Value: fmt.Sprintf("%s, a bit for %d bytes", m.id,
			m.granularity)})
	}
	return list
}
