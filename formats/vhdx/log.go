package vhdx

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"slices"
	"sort"

	"tarvm/formats"
	"tarvm/formats/internal/parse"
)

const (
	sectorLen     = 4 << 10 // the log's unit
	entryHeadLen  = 64
	descriptorLen = 32
	// maxWrites is how many writes a log may hold; one of 1 MiB holds 32,736 at
	// most.
	maxWrites = 1 << 18
	// logWindow is how much of the log is read at a time; a divisor of 1 MiB.
	logWindow = 64 << 10
)

// A replay is what a log in use does to the file.
type replay struct {
	entries int
	writes  int
	tail    int64  // file offset of the first entry
	first   uint64 // its sequence number
	// size is how long the file is afterwards.
	size int64
	// patches are disjoint and in order.
	patches []patch
}

// A patch is a run of bytes that the log overwrites.
type patch struct {
	off, end int64
	// data is the file offset of the data sector, 2.3.1.4, whose bytes 8 to
	// 4091 are written; 0: zeros are written.
	data  int64
	lead  [8]byte // what is written before them
	trail [4]byte // and after them
}

// A log is a circular buffer of sectors. Places in it are counted in sectors
// from its start.
type log struct {
	cache *parse.Cache
	off   int64 // file offset
	count int64 // sectors
	id    guid  // of the entries that count
}

// offset returns the file offset of sector i, counted on over the log's end.
func (l *log) offset(i int64) int64 { return l.off + i%l.count*sectorLen }

func (l *log) sector(i int64) ([]byte, error) {
	at := i % l.count * sectorLen
	b, err := l.cache.Bytes("log", l.off+at/logWindow*logWindow, logWindow)
	if err != nil {
		return nil, err
	}
	return b[at%logWindow:][:sectorLen], nil
}

// A logEntry is the header of a log entry, 2.3.1.1, signature "loge", checksum
// u32 at 4 over the whole entry.
type logEntry struct {
	at          int64  // its first sector
	sectors     int64  // u32 at 8: bytes, a multiple of 4 KiB
	tail        int64  // u32 at 12: bytes from the log's start; here the sector of the oldest entry still needed
	sequence    uint64 // u64 at 16, not 0
	descriptors int64  // u32 at 24
	flushed     uint64 // u64 at 48, behind the GUID at 32: the file is at least so long
	last        uint64 // u64 at 56: all structures are below
}

// descriptorSectors is how many sectors the header and the descriptors take:
// there are 126 in the first, and 128 in each other.
func (e *logEntry) descriptorSectors() int64 {
	return (entryHeadLen + e.descriptors*descriptorLen + sectorLen - 1) / sectorLen
}

// entry returns the entry that begins at sector at, if there is a valid one, and
// nil if not. It reads no further than to the next sector that looks like the
// start of an entry, so that all of the log is scanned in linear time.
func (l *log) entry(at int64) (*logEntry, error) {
	b, err := l.sector(at)
	if err != nil {
		return nil, err
	}
	le := binary.LittleEndian
	length, tail := int64(le.Uint32(b[8:])), int64(le.Uint32(b[12:]))
	e := &logEntry{
		at:          at % l.count,
		sectors:     length / sectorLen,
		tail:        tail / sectorLen,
		sequence:    le.Uint64(b[16:]),
		descriptors: int64(le.Uint32(b[24:])),
		flushed:     le.Uint64(b[48:]),
		last:        le.Uint64(b[56:]),
	}
	if string(b[:4]) != "loge" || guid(b[32:48]) != l.id || e.sequence == 0 ||
		length%sectorLen != 0 || e.sectors == 0 || e.sectors > l.count ||
		tail%sectorLen != 0 || e.tail >= l.count || e.descriptorSectors() > e.sectors {
		return nil, nil
	}
	want, s := le.Uint32(b[4:]), sum(b)
	data, err := l.descriptors(e, nil)
	if err != nil || data < 0 || e.descriptorSectors()+data > e.sectors {
		return nil, err
	}
	for i := int64(1); i < e.sectors; i++ {
		b, err := l.sector(at + i)
		if err != nil {
			return nil, err
		}
		if string(b[:4]) == "loge" {
			return nil, nil
		}
		if k := i - e.descriptorSectors(); k >= 0 && k < data {
			if string(b[:4]) != "data" || le.Uint32(b[4:]) != uint32(e.sequence>>32) ||
				le.Uint32(b[sectorLen-4:]) != uint32(e.sequence) {
				return nil, nil
			}
		}
		s = crc32.Update(s, castagnoli, b)
	}
	if s != want {
		return nil, nil
	}
	return e, nil
}

// descriptors hands the writes of e to each, if it is not nil, and returns how
// many are data descriptors; negative: one is not valid. Data descriptor,
// 2.3.1.3: signature "desc", trailing bytes at 4, leading bytes at 8, file
// offset u64 at 16, sequence number u64 at 24. Zero descriptor, 2.3.1.2:
// signature "zero", length u64 at 8, the rest alike.
func (l *log) descriptors(e *logEntry, each func(p patch)) (data int64, err error) {
	le := binary.LittleEndian
	perSector := int64(sectorLen / descriptorLen)
	for i := range e.descriptors {
		k := i + entryHeadLen/descriptorLen
		s, err := l.sector(e.at + k/perSector)
		if err != nil {
			return 0, err
		}
		d := s[k%perSector*descriptorLen:][:descriptorLen]
		off, n := le.Uint64(d[16:]), uint64(sectorLen)
		p := patch{}
		switch string(d[:4]) {
		case "desc":
			p.data = l.offset(e.at + e.descriptorSectors() + data)
			copy(p.trail[:], d[4:])
			copy(p.lead[:], d[8:])
			data++
		case "zero":
			n = le.Uint64(d[8:])
		default:
			return -1, nil
		}
		if le.Uint64(d[24:]) != e.sequence || off%sectorLen != 0 || n%sectorLen != 0 || off > maxFile || n > maxFile {
			return -1, nil
		}
		p.off, p.end = int64(off), int64(off+n)
		if each != nil && n > 0 {
			each(p)
		}
	}
	return data, nil
}

// active returns the entries to be replayed, 2.3.3: of the sequences that are
// valid the one whose last entry has the greatest number, from the entry on at
// which that one's tail points. nil: there is no valid sequence.
func (l *log) active() ([]*logEntry, error) {
	var best []*logEntry
	for tail := int64(0); tail < l.count; {
		var seq []*logEntry
		head := tail
		for {
			e, err := l.entry(head)
			if err != nil {
				return nil, err
			}
			if e == nil || len(seq) > 0 && e.sequence != seq[len(seq)-1].sequence+1 || head+e.sectors > tail+l.count {
				break
			}
			seq = append(seq, e)
			head += e.sectors
		}
		if len(seq) == 0 {
			tail++
			continue
		}
		last := seq[len(seq)-1]
		from := slices.IndexFunc(seq, func(e *logEntry) bool { return e.at == last.tail })
		if from >= 0 && (best == nil || last.sequence > best[len(best)-1].sequence) {
			best = seq[from:]
		}
		// If it is not valid, no part of it that ends as it does is; and within
		// its entries none begins.
		tail = head
	}
	return best, nil
}

// replayLog makes f.m the file with the writes of its log.
func (f *file) replayLog(limit int64) error {
	h := &f.head
	if h.logLen > limit {
		return f.src.Unsupported("log", int64(h.logAt), "%d bytes in use, limit %d", h.logLen, limit)
	}
	l := &log{
		cache: parse.NewCache(f.src, probeLog),
		off:   int64(h.logAt), count: h.logLen / sectorLen, id: h.log,
	}
	seq, err := l.active()
	if err != nil {
		return err
	}
	if len(seq) == 0 {
		return f.src.Corrupt("log", l.off, "in use, and without a valid sequence of entries")
	}
	last := seq[len(seq)-1]
	switch {
	case last.flushed > uint64(f.src.Size()):
		return f.src.Corrupt("log", l.offset(last.at)+48, "the file had %d bytes at least, and has %d", last.flushed,
			f.src.Size())
	case last.last > maxFile:
		return f.src.Corrupt("log", l.offset(last.at)+56, "file of %d bytes", last.last)
	}
	r := &replay{
		entries: len(seq), tail: l.offset(seq[0].at), first: seq[0].sequence,
		size: max(f.src.Size(), int64(last.last)),
	}
	var writes []patch
	for _, e := range seq {
		if int64(len(writes))+e.descriptors > maxWrites {
			return f.src.Unsupported("log", l.off, "more than %d writes", maxWrites)
		}
		if _, err := l.descriptors(e, func(p patch) { writes = append(writes, p) }); err != nil {
			return err
		}
	}
	for _, p := range writes {
		r.size = max(r.size, p.end)
	}
	r.writes = len(writes)
	r.patches = settle(writes)
	f.replay = r
	f.m.Source = &overlay{src: f.src, replay: r}
	f.problem(formats.Note, "log", r.tail, "in use: %d entries with %d writes from number %d on are applied when reading",
		r.entries, r.writes, r.first)
	return nil
}

// settle makes writes, of which later ones go over earlier ones, disjoint and
// sorts them. A data sector is never cut, since all begin and end at multiples
// of 4 KiB.
func settle(writes []patch) []patch {
	bounds := make([]int64, 0, 2*len(writes))
	for _, w := range writes {
		bounds = append(bounds, w.off, w.end)
	}
	slices.Sort(bounds)
	bounds = slices.Compact(bounds)
	// The stretch i lies between bounds i and i+1. The last write takes its
	// stretches, then each earlier one those that are left; free leads to the
	// next one that is.
	owner := make([]int32, len(bounds))
	free := make([]int32, len(bounds)+1)
	for i := range free {
		free[i] = int32(i)
	}
	next := func(i int32) int32 {
		for free[i] != i {
			free[i] = free[free[i]]
			i = free[i]
		}
		return i
	}
	for k := len(writes) - 1; k >= 0; k-- {
		i, _ := slices.BinarySearch(bounds, writes[k].off)
		for s := next(int32(i)); int(s) < len(bounds) && bounds[s] < writes[k].end; s = next(s) {
			owner[s] = int32(k) + 1
			free[s] = s + 1
		}
	}
	var out []patch
	for i := 0; i+1 < len(bounds); i++ {
		if owner[i] == 0 {
			continue
		}
		p := writes[owner[i]-1]
		p.off, p.end = max(p.off, bounds[i]), min(p.end, bounds[i+1])
		if n := len(out); n > 0 && p.data == 0 && out[n-1].data == 0 && out[n-1].end == p.off {
			out[n-1].end = p.end
			continue
		}
		out = append(out, p)
	}
	return out
}

// An overlay is a file with the writes of its log.
type overlay struct {
	src    parse.Image
	replay *replay
}

// Size implements formats.Source.
func (o *overlay) Size() int64 { return o.replay.size }

// ReadAt implements io.ReaderAt.
func (o *overlay) ReadAt(b []byte, off int64) (int, error) {
	if off < 0 {
		return 0, fmt.Errorf("offset %d", off)
	}
	list := o.replay.patches
	n := 0
	for n < len(b) {
		at := off + int64(n)
		if at >= o.replay.size {
			return n, io.EOF
		}
		dst := b[n:][:min(int64(len(b)-n), o.replay.size-at)]
		i := sort.Search(len(list), func(i int) bool { return list[i].end > at })
		var err error
		switch {
		case i < len(list) && list[i].off <= at:
			dst = dst[:min(int64(len(dst)), list[i].end-at)]
			err = o.readPatch(dst, &list[i], at)
		case at >= o.src.Size():
			dst = dst[:o.upTo(dst, at, i)]
			clear(dst)
		default:
			dst = dst[:min(o.upTo(dst, at, i), o.src.Size()-at)]
			err = readFull(o.src, dst, at)
		}
		if err != nil {
			return n, err
		}
		n += len(dst)
	}
	return n, nil
}

// upTo is how much of dst lies before patch i.
func (o *overlay) upTo(dst []byte, at int64, i int) int64 {
	if i < len(o.replay.patches) {
		return min(int64(len(dst)), o.replay.patches[i].off-at)
	}
	return int64(len(dst))
}

// readPatch fills dst with what p writes at byte at of the file.
func (o *overlay) readPatch(dst []byte, p *patch, at int64) error {
	if p.data == 0 {
		clear(dst)
		return nil
	}
	var s [sectorLen]byte
	if err := readFull(o.src, s[:], p.data); err != nil {
		return err
	}
	copy(s[:], p.lead[:])
	copy(s[sectorLen-len(p.trail):], p.trail[:])
	copy(dst, s[at-p.off:])
	return nil
}

// readFull fills b from bytes that src has.
func readFull(src io.ReaderAt, b []byte, off int64) error {
	n, err := src.ReadAt(b, off)
	if n == len(b) {
		return nil
	}
	if err == nil || errors.Is(err, io.EOF) {
		err = io.ErrUnexpectedEOF
	}
	return err
}
