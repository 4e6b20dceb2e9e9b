package vhdx_test

import (
	"bytes"
	"encoding/binary"
	"hash/crc32"
	"slices"
	"testing"
	"unicode/utf16"
)

// What nothing here writes is made by hand: differencing disks as Hyper-V makes
// them, logs in use, sectors of 4096 bytes.

const mib = 1 << 20

// Where a made image has its structures.
const (
	genLog   = 1 * mib
	genBAT   = 2 * mib
	genMeta  = 3 * mib
	genFirst = 4 * mib // the first block
)

var le = binary.LittleEndian

func sealed(b []byte) []byte {
	clear(b[4:8])
	le.PutUint32(b[4:], crc32.Checksum(b, crc32.MakeTable(crc32.Castagnoli)))
	return b
}

// A disk is an image to be made.
type disk struct {
	size, block int64
	sector      uint32 // 512 if 0
	flags       uint32 // 1 fixed, 2 with a parent
	blocks      map[int64]block
	locator     []string // keys and values
	dataWrite   byte     // fills the data write GUID
	logGUID     byte     // fills the log's GUID
	log         []byte   // up to 1 MiB
}

// A block is in the file, or has a state alone.
type block struct {
	state   uint64
	data    []byte  // of states 6 and 7
	sectors []int64 // of state 7: those present
}

func (d *disk) sectorLen() int64 {
	if d.sector == 0 {
		return 512
	}
	return int64(d.sector)
}

func (d *disk) ratio() int64 { return (1 << 23) * d.sectorLen() / d.block }

// batAt is the file offset of the entry of a payload block, bitmapAt that of
// the sector bitmap block of its chunk.
func (d *disk) batAt(block int64) int64 { return genBAT + 8*(block+block/d.ratio()) }
func (d *disk) bitmapAt(block int64) int64 {
	return genBAT + 8*((block/d.ratio()+1)*(d.ratio()+1)-1)
}

// make returns the file. Blocks lie in it in the order of their numbers, sector
// bitmap blocks before the first that needs them.
func (d *disk) make() []byte {
	b := make([]byte, genFirst)
	copy(b, "vhdxfile")
	for i, c := range utf16.Encode([]rune("made by hand")) {
		le.PutUint16(b[8+2*i:], c)
	}
	for i := range 2 {
		h := b[64<<10*(i+1):][:4096]
		copy(h, "head")
		le.PutUint64(h[8:], uint64(7+i))
		copy(h[16:], bytes.Repeat([]byte{0x11}, 16))
		copy(h[32:], bytes.Repeat([]byte{d.dataWrite}, 16))
		copy(h[48:], bytes.Repeat([]byte{d.logGUID}, 16))
		le.PutUint16(h[66:], 1)
		le.PutUint32(h[68:], mib)
		le.PutUint64(h[72:], genLog)
		r := b[192<<10+64<<10*i:][:64<<10]
		copy(r, "regi")
		le.PutUint32(r[8:], 2)
		copy(r[16:], []byte{0x66, 0x77, 0xC2, 0x2D, 0x23, 0xF6, 0x00, 0x42, 0x9D, 0x64, 0x11, 0x5E, 0x9B, 0xFD, 0x4A, 0x08})
		le.PutUint64(r[32:], genBAT)
		le.PutUint32(r[40:], mib)
		le.PutUint32(r[44:], 1)
		copy(r[48:], []byte{0x06, 0xA2, 0x7C, 0x8B, 0x90, 0x47, 0x9A, 0x4B, 0xB8, 0xFE, 0x57, 0x5F, 0x05, 0x0F, 0x88, 0x6E})
		le.PutUint64(r[64:], genMeta)
		le.PutUint32(r[72:], mib)
		le.PutUint32(r[76:], 1)
	}
	copy(b[genLog:genBAT], d.log)

	m := b[genMeta:]
	copy(m, "metadata")
	at, n := 64<<10, 0
	item := func(id []byte, flags uint32, v []byte) {
		e := m[32+32*n:]
		copy(e, id)
		le.PutUint32(e[16:], uint32(at))
		le.PutUint32(e[20:], uint32(len(v)))
		le.PutUint32(e[24:], flags)
		copy(m[at:], v)
		at += len(v)
		n++
		le.PutUint16(m[10:], uint16(n))
	}
	u32 := func(v ...uint32) (b []byte) {
		for _, v := range v {
			b = le.AppendUint32(b, v)
		}
		return b
	}
	item([]byte{0x37, 0x67, 0xA1, 0xCA, 0x36, 0xFA, 0x43, 0x4D, 0xB3, 0xB6, 0x33, 0xF0, 0xAA, 0x44, 0xE7, 0x6B}, 4,
		u32(uint32(d.block), d.flags))
	item([]byte{0x24, 0x42, 0xA5, 0x2F, 0x1B, 0xCD, 0x76, 0x48, 0xB2, 0x11, 0x5D, 0xBE, 0xD8, 0x3B, 0xF4, 0xB8}, 6,
		u32(uint32(d.size), uint32(d.size>>32)))
	item([]byte{0x1D, 0xBF, 0x41, 0x81, 0x6F, 0xA9, 0x09, 0x47, 0xBA, 0x47, 0xF2, 0x33, 0xA8, 0xFA, 0xAB, 0x5F}, 6,
		u32(uint32(d.sectorLen())))
	item([]byte{0xC7, 0x48, 0xA3, 0xCD, 0x5D, 0x44, 0x71, 0x44, 0x9C, 0xC9, 0xE9, 0x88, 0x52, 0x51, 0xC5, 0x56}, 6,
		u32(4096))
	item([]byte{0xAB, 0x12, 0xCA, 0xBE, 0xE6, 0xB2, 0x23, 0x45, 0x93, 0xEF, 0xC3, 0x09, 0xE0, 0x00, 0xC7, 0x46}, 6,
		bytes.Repeat([]byte{0x83}, 16))
	if d.locator != nil {
		item([]byte{0x2D, 0x5F, 0xD3, 0xA8, 0x0B, 0xB3, 0x4D, 0x45, 0xAB, 0xF7, 0xD3, 0xD8, 0x48, 0x34, 0xAB, 0x0C}, 4,
			makeLocator(d.locator))
	}

	var numbers []int64
	for i := range d.blocks {
		numbers = append(numbers, i)
	}
	slices.Sort(numbers)
	for _, i := range numbers {
		x := d.blocks[i]
		if x.state < 6 {
			le.PutUint64(b[d.batAt(i):], x.state)
			continue
		}
		if x.state == 7 {
			if le.Uint64(b[d.bitmapAt(i):]) == 0 {
				le.PutUint64(b[d.bitmapAt(i):], uint64(len(b))|6)
				b = append(b, make([]byte, mib)...)
			}
			bits := b[le.Uint64(b[d.bitmapAt(i):])&^(mib-1):][i%d.ratio()*(d.block/d.sectorLen()/8):]
			for _, s := range x.sectors {
				bits[s/8] |= 1 << (s % 8)
			}
		}
		le.PutUint64(b[d.batAt(i):], uint64(len(b))|x.state)
		b = append(b, x.data...)
		b = append(b, make([]byte, d.block-int64(len(x.data)))...)
	}
	fix(b)
	return b
}

// makeLocator makes a parent locator of keys and values.
func makeLocator(kv []string) []byte {
	item := make([]byte, 20+12*len(kv)/2)
	copy(item, []byte{0xB7, 0xEF, 0x4A, 0xB0, 0x9E, 0xD1, 0x81, 0x4A, 0xB7, 0x89, 0x25, 0xB8, 0xE9, 0x44, 0x59, 0x13})
	le.PutUint16(item[18:], uint16(len(kv)/2))
	for i, s := range kv {
		u := utf16.Encode([]rune(s))
		e := 20 + 12*(i/2)
		le.PutUint32(item[e+4*(i%2):], uint32(len(item)))
		le.PutUint16(item[e+8+2*(i%2):], uint16(2*len(u)))
		for _, c := range u {
			item = le.AppendUint16(item, c)
		}
	}
	return item
}

// A write is one that a log holds: 4 KiB of data, or zeros.
type write struct {
	off  int64
	data []byte
	zero int64
}

// A logEntry is an entry of a log to be made.
type logEntry struct {
	sequence      uint64
	tail          int64 // sector of the log
	guid          byte
	flushed, last int64
	writes        []write
}

func (e *logEntry) make() []byte {
	n := (64 + 32*len(e.writes) + 4095) / 4096 * 4096
	b := make([]byte, n)
	copy(b, "loge")
	le.PutUint32(b[12:], uint32(e.tail*4096))
	le.PutUint64(b[16:], e.sequence)
	le.PutUint32(b[24:], uint32(len(e.writes)))
	copy(b[32:], bytes.Repeat([]byte{e.guid}, 16))
	le.PutUint64(b[48:], uint64(e.flushed))
	le.PutUint64(b[56:], uint64(e.last))
	for i, w := range e.writes {
		d := b[64+32*i:]
		le.PutUint64(d[16:], uint64(w.off))
		le.PutUint64(d[24:], e.sequence)
		if w.data == nil {
			copy(d, "zero")
			le.PutUint64(d[8:], uint64(w.zero))
			continue
		}
		copy(d, "desc")
		copy(d[4:8], w.data[4092:])
		copy(d[8:16], w.data)
		s := bytes.Clone(w.data)
		copy(s, "data")
		le.PutUint32(s[4:], uint32(e.sequence>>32))
		le.PutUint32(s[4092:], uint32(e.sequence))
		b = append(b, s...)
	}
	le.PutUint32(b[8:], uint32(len(b)))
	return sealed(b)
}

// putLog puts an entry into a log at a sector, and over its end where it must;
// it returns the sector behind it.
func putLog(log []byte, at int64, entry []byte) int64 {
	for i := 0; i < len(entry); i += 4096 {
		copy(log[at*4096:], entry[i:i+4096])
		at = (at + 1) % int64(len(log)/4096)
	}
	return at
}

// apply makes the writes of an entry in the file, which grows as it must.
func (e *logEntry) apply(b []byte) []byte {
	grow := func(n int64) {
		if n > int64(len(b)) {
			b = append(b, make([]byte, n-int64(len(b)))...)
		}
	}
	for _, w := range e.writes {
		if w.data == nil {
			grow(w.off + w.zero)
			clear(b[w.off:][:w.zero])
			continue
		}
		grow(w.off + 4096)
		copy(b[w.off:], w.data)
	}
	grow(e.last)
	return b
}

// cleaned returns b with an empty log.
func cleaned(b []byte) []byte {
	b = bytes.Clone(b)
	for i := range 2 {
		clear(b[64<<10*(i+1)+48:][:16])
	}
	clear(b[genLog:][:mib])
	fix(b)
	return b
}

// noise fills n bytes by a number.
func noise(seed, n int) []byte {
	b := make([]byte, n)
	x := uint32(seed)*2654435761 + 1
	for i := range b {
		x ^= x << 13
		x ^= x >> 17
		x ^= x << 5
		b[i] = byte(x)
	}
	return b
}

func TestMakersAgreeWithThemselves(t *testing.T) {
	b := (&disk{size: 8 * mib, block: mib, blocks: map[int64]block{3: {state: 6, data: noise(1, mib)}}}).make()
	if !bytes.Equal(b, cleaned(b)) || len(b) != genFirst+mib {
		t.Errorf("%d bytes", len(b))
	}
}
