package vmdk

import (
	"context"
	"encoding/binary"
	"fmt"
	"math"

	"tarvm/formats"
)

// The embedded descriptor is at sector 1. 20 sectors is what every writer takes;
// the longest that is written here, with both names, has 3 KiB.
const (
	descriptorAt   Sectors = 1
	descriptorRoom Sectors = 20
)

// tablesOf is how many grain tables a disk needs.
func tablesOf(capacity, grain Sectors) int64 {
	return (int64(capacity)-1)/(int64(grain)*tableEntries) + 1
}

// roundUp is n rounded up to a multiple of unit.
func roundUp(n, unit Sectors) Sectors { return (n + unit - 1) / unit * unit }

// A sparseHeader is the header of a hosted sparse extent as it is written; its
// fields are in header.go.
type sparseHeader struct {
	version     uint32
	flags       uint32
	capacity    Sectors
	grain       Sectors
	desc        Sectors
	descSize    Sectors
	redundantGD uint64
	gd          uint64
	overHead    Sectors
	compression uint16
}

func (h *sparseHeader) encode() []byte {
	b := make([]byte, headerLen)
	le := binary.LittleEndian
	copy(b, magicHosted)
	le.PutUint32(b[offVersion:], h.version)
	le.PutUint32(b[offFlags:], h.flags)
	le.PutUint64(b[offCapacity:], uint64(h.capacity))
	le.PutUint64(b[offGrain:], uint64(h.grain))
	le.PutUint64(b[offDesc:], uint64(h.desc))
	le.PutUint64(b[offDescSize:], uint64(h.descSize))
	le.PutUint32(b[offTableLen:], tableEntries)
	le.PutUint64(b[offRedundantGD:], h.redundantGD)
	le.PutUint64(b[offGD:], h.gd)
	le.PutUint64(b[offOverHead:], uint64(h.overHead))
	copy(b[offNewline:], "\n \r\n")
	le.PutUint16(b[offCompression:], h.compression)
	return b
}

// A sparseWriter writes one hosted sparse extent: header, descriptor, a
// redundant directory with its tables, the directory with its own, and grains in
// the order in which they are added. All tables are there, because VMware does
// not take directories with gaps; both copies say the same.
type sparseWriter struct {
	out  formats.Output
	h    sparseHeader
	text []byte  // the descriptor; nil: none
	next Sectors // where the next grain goes

	redundantGT, gt Sectors // where the tables start

	table [tableEntries * 4]byte
	index int64 // of table; negative: nothing is in it
}

// newSparseWriter writes the directories.
func newSparseWriter(out formats.Output, capacity, grain Sectors, text []byte) (*sparseWriter, error) {
	w := &sparseWriter{out: out, text: text, index: -1}
	at := Sectors(1)
	w.h = sparseHeader{version: 1, flags: flagNewline | flagRedundant, capacity: capacity, grain: grain}
	if text != nil {
		w.h.desc, w.h.descSize = descriptorAt, descriptorRoom
		at = descriptorAt + descriptorRoom
	}
	tables := Sectors(tablesOf(capacity, grain))
	directory := roundUp(tables*4, sector) / sector
	w.redundantGT = at + directory
	gd := w.redundantGT + tables*tableSectors
	w.gt = gd + directory
	w.h.redundantGD, w.h.gd = uint64(at), uint64(gd)
	w.h.overHead = roundUp(w.gt+tables*tableSectors, grain)
	w.next = w.h.overHead
	// A pipe takes this, and refuses what comes next, before anything was written
	// in vain.
	if err := out.Truncate(w.next.Bytes()); err != nil {
		return nil, err
	}
	for _, c := range []struct{ gd, gt Sectors }{{at, w.redundantGT}, {gd, w.gt}} {
		if err := w.writeDirectory(c.gd.Bytes(), c.gt, int64(tables)); err != nil {
			return nil, err
		}
	}
	return w, nil
}

// writeDirectory writes, at byte off, the places of so many tables from gt on.
func (w *sparseWriter) writeDirectory(off int64, gt Sectors, tables int64) error {
	const piece = 16 << 10 // entries
	b := make([]byte, 0, 4*min(piece, tables))
	for i := int64(0); i < tables; {
		b = b[:0]
		for range min(piece, tables-i) {
			b = binary.LittleEndian.AppendUint32(b, uint32(int64(gt)+i*tableSectors))
			i++
		}
		if _, err := w.out.WriteAt(b, off); err != nil {
			return err
		}
		off += int64(len(b))
	}
	return nil
}

// add stores the grain of this number, which is greater than that of any before.
// data is a whole grain, or nil for one of zeros, which takes the room of any
// other: the entry that stands for zeros is of version 2, which VirtualBox refuses.
func (w *sparseWriter) add(number int64, data []byte) error {
	if w.next > math.MaxUint32 {
		return unsupported("file size", "the data passes the 2 TiB that a file can have; %s makes several",
			twoGbMaxExtentSparse)
	}
	if t := number / tableEntries; t != w.index {
		if err := w.flush(); err != nil {
			return err
		}
		w.index = t
	}
	binary.LittleEndian.PutUint32(w.table[number%tableEntries*4:], uint32(w.next))
	if data != nil {
		if _, err := w.out.WriteAt(data, w.next.Bytes()); err != nil {
			return err
		}
	}
	w.next += w.h.grain
	return nil
}

// flush writes both copies of the table.
func (w *sparseWriter) flush() error {
	if w.index < 0 {
		return nil
	}
	for _, tables := range []Sectors{w.redundantGT, w.gt} {
		if _, err := w.out.WriteAt(w.table[:], tables.Bytes()+w.index*int64(len(w.table))); err != nil {
			return err
		}
	}
	clear(w.table[:])
	w.index = -1
	return nil
}

// finish writes the rest: the header last, so that what was left unfinished is
// taken for nothing.
func (w *sparseWriter) finish() error {
	if err := w.flush(); err != nil {
		return err
	}
	if err := w.out.Truncate(w.next.Bytes()); err != nil {
		return err
	}
	if _, err := w.out.WriteAt(append(w.h.encode(), w.text...), 0); err != nil {
		return err
	}
	return nil
}

// sparse writes monolithicSparse.
func (e *encoding) sparse(ctx context.Context) error {
	text := e.descriptor([]Extent{{Access: "RW", Sectors: e.capacity, Type: "SPARSE", File: e.name}})
	w, err := newSparseWriter(e.out.Main, e.capacity, e.grain, text)
	if err != nil {
		return err
	}
	if err := e.units(ctx, nil, func(u *formats.Unit) error { return w.add(u.Index, u.Data) }); err != nil {
		return err
	}
	return w.finish()
}

// split writes twoGbMaxExtentSparse: the extents one after the other, then the
// descriptor.
func (e *encoding) split(ctx context.Context) error {
	// The rest of the text is below 4 KiB. QEMU, too, reads no more than 1 MiB.
	longest := Extent{Access: "RW", Sectors: splitSectors, Type: "SPARSE", File: e.extentName("-s00000")}.line()
	if n := int64(e.capacity/splitSectors) + 1; n > int64(MaxDescriptor-4<<10)/int64(len(longest)) {
		return unsupported("disk size", "%d bytes, whose descriptor passes the %d bytes that are read",
			e.d.Size(), MaxDescriptor)
	}
	lines := e.splitExtents()
	var w *sparseWriter
	begun := 0
	// upTo finishes the extents before the one of this index, and begins that.
	upTo := func(index int) error {
		for begun <= index {
			if w != nil {
				if err := w.finish(); err != nil {
					return err
				}
			}
			f, err := e.out.Create(lines[begun].File)
			if err != nil {
				return err
			}
			if w, err = newSparseWriter(f, lines[begun].Sectors, e.grain, nil); err != nil {
				return err
			}
			begun++
		}
		return nil
	}
	grains := int64(splitSectors / e.grain)
	err := e.units(ctx, nil, func(u *formats.Unit) error {
		if err := upTo(int(u.Index / grains)); err != nil {
			return err
		}
		return w.add(u.Index%grains, u.Data)
	})
	if err != nil {
		return err
	}
	if err := upTo(len(lines) - 1); err != nil {
		return err
	}
	if err := w.finish(); err != nil {
		return err
	}
	return e.writeDescriptor(lines)
}

// splitExtents cuts the disk into pieces of 2047 MiB.
func (e *encoding) splitExtents() []Extent {
	var lines []Extent
	for left := e.capacity; left > 0; left -= splitSectors {
		lines = append(lines, Extent{
			Access: "RW", Sectors: min(left, splitSectors), Type: "SPARSE",
			File: e.extentName(fmt.Sprintf("-s%03d", len(lines)+1)),
		})
	}
	return lines
}
