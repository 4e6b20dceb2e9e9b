package vmdk

import (
	"cmp"
	"encoding/binary"
	"fmt"
	"math"
	"slices"
	"sync"

	"tarvm/formats"
	"tarvm/formats/internal/parse"
)

// cacheBytes is how much of a sparse extent's tables is kept.
const cacheBytes = 1 << 20

// maxRegions bounds what is remembered of places of tables; beyond it, only
// Check sees grains that lie in tables.
const maxRegions = 1 << 16

// A region is a range of bytes of a file that holds metadata.
type region struct {
	start, end int64
	name       string
}

// sparse maps a hosted sparse, COWD or seSparse extent: a directory of tables of
// grains.
type sparse struct {
	m         parse.Image
	kind      string // before the names of structures: "", "COWD ", "seSparse "
	size      int64  // guest bytes
	grain     int64  // bytes
	tableLen  int64  // entries of a table
	width     int64  // bytes of an entry of directory and table
	tables    int64  // entries of the directory
	directory int64  // byte offset
	redundant int64  // byte offset of the second directory; negative: none
	overHead  int64  // bytes before the first grain, where the header says so; else MaxInt64
	zeroed    bool   // entry 1 is a grain of zeros
	packed    bool   // grains are compressed
	markers   bool   // and have markers
	absent    formats.Kind
	fixed     []region // what the header places, sorted
	se        *seHeader
	free      int64   // bytes: what is from here on is free; 0: not known
	head      *hosted // of a hosted extent: the header
	foot      *hosted // the footer of a stream; nil: none

	warm *warm
	mu   sync.Mutex
	st   *state
}

// state is what was read of an extent and may be forgotten.
type state struct {
	words parse.Table // the whole file as numbers, so that tables that are neighbours are read at once

	mu      sync.Mutex
	sound   map[int64]int64 // by number of table: where the copy is that is to be used
	regions []region        // fixed and tables, sorted, not overlapping
	scanned bool            // regions are complete
}

// warm keeps the states of the extents that were used last: a disk may have
// tens of thousands.
type warm struct {
	mu   sync.Mutex
	list [16]*sparse
	next int
}

// hold drops the state of another extent for that of s.
func (w *warm) hold(s *sparse) {
	w.mu.Lock()
	old := w.list[w.next]
	w.list[w.next] = s
	w.next = (w.next + 1) % len(w.list)
	w.mu.Unlock()
	if old != nil && old != s {
		old.mu.Lock()
		old.st = nil
		old.mu.Unlock()
	}
}

func (s *sparse) state() *state {
	s.mu.Lock()
	st := s.st
	if st != nil {
		s.mu.Unlock()
		return st
	}
	st = &state{
		words: parse.Table{
			Name: s.kind + "grain table", Count: s.m.Size() / s.width, Width: int(s.width),
			Order: binary.LittleEndian, Cache: parse.NewCache(s.m, cacheBytes),
		},
		sound: make(map[int64]int64),
	}
	s.st = st
	s.mu.Unlock()
	s.warm.hold(s)
	return st
}

// newHosted makes the map of a hosted sparse extent.
func newHosted(p *probed, w *warm) *sparse {
	h := p.hosted
	s := &sparse{
		m: p.m, size: h.capacity.Bytes(), grain: h.grain.Bytes(), tableLen: h.tableLen, width: 4,
		tables: p.tables.entries, directory: p.tables.directory, redundant: p.tables.redundant,
		overHead: h.overHead.Bytes(), zeroed: h.flags&flagZeroed != 0,
		packed: h.compressed(), markers: h.flags&flagMarkers != 0, absent: formats.Hole, head: p.first, warm: w,
	}
	if s.redundant == s.directory {
		s.redundant = -1
	}
	s.fix(region{0, headerLen, "header"})
	if p.desc != nil {
		s.fix(region{p.first.desc.Bytes(), (p.first.desc + p.first.descSize).Bytes(), "descriptor"})
	}
	if h != p.first {
		s.foot = h
		s.fix(region{p.footer(), p.m.Size(), "footer"})
	}
	s.fixDirectories()
	return s
}

// newCOWD makes the map of a COWD extent.
func newCOWD(p *probed, w *warm) *sparse {
	s := &sparse{
		m: p.m, kind: "COWD ", size: p.cowd.capacity.Bytes(), grain: p.cowd.grain.Bytes(), tableLen: cowdTableLen, width: 4,
		tables: p.tables.entries, directory: p.tables.directory, redundant: -1,
		overHead: math.MaxInt64, absent: formats.Parent, free: p.cowd.free.Bytes(), warm: w,
	}
	s.fix(region{0, cowdHeaderRoom, "COWD header"})
	s.fixDirectories()
	return s
}

// newSE makes the map of a seSparse extent. An extent whose journal was not
// replayed is ErrUnsupported.
func newSE(p *probed, w *warm) (*sparse, error) {
	b, err := p.m.Bytes("seSparse volatile header", p.se.volatile, seVolatileLen)
	if err != nil {
		return nil, err
	}
	if v := binary.LittleEndian.Uint64(b); v != seVolatileMagic {
		return nil, p.m.Corrupt("seSparse volatile header", p.se.volatile, "starts with 0x%x", v)
	}
	if binary.LittleEndian.Uint64(b[offSEReplay:]) != 0 {
		return nil, p.m.Unsupported("seSparse journal", p.se.volatile+offSEReplay,
			"not replayed: the tables cannot be trusted")
	}
	s := &sparse{
		m: p.m, kind: "seSparse ", size: p.se.capacity.Bytes(), grain: seGrain * sector, tableLen: seTableLen, width: 8,
		tables:    directoryEntries(p.se.capacity, seGrain, seTableLen),
		directory: p.se.directory.start, redundant: -1, overHead: math.MaxInt64,
		absent: formats.Parent, se: p.se, warm: w,
	}
	for _, r := range p.se.regions {
		r.name = s.kind + r.name
		s.fix(r)
	}
	return s, nil
}

func (s *sparse) fix(r region) { s.fixed = append(s.fixed, r) }

func (s *sparse) fixDirectories() {
	s.fix(region{s.directory, s.directory + s.tables*s.width, s.kind + "grain directory"})
	if s.redundant >= 0 {
		s.fix(region{s.redundant, s.redundant + s.tables*s.width, "redundant grain directory"})
	}
}

// entry says what an entry of a table stands for, and where a grain is. Kind 0:
// it is not valid.
func (s *sparse) entry(v uint64) (formats.Kind, int64) {
	if s.se != nil {
		switch v >> 60 {
		case 0:
			if v != 0 {
				return 0, 0
			}
			return s.absent, 0
		case 1, 2: // unmapped by the guest, zero
			return formats.Zero, 0
		case 3:
			index := v>>48&0xfff | v<<12&(1<<60-1)
			if index > uint64(s.m.Size())/uint64(s.grain) {
				return formats.Data, math.MaxInt64
			}
			return formats.Data, s.se.grains.Bytes() + int64(index)*s.grain
		}
		return 0, 0
	}
	switch {
	case v == 0:
		return s.absent, 0
	case v == 1:
		if s.zeroed {
			return formats.Zero, 0
		}
		return 0, 0 // sector 1 is never a grain's
	}
	return formats.Data, int64(v) * sector
}

// tableAt returns where the table is that entry v of a directory names, v not
// being 0. at is where the entry is.
func (s *sparse) tableAt(v uint64, at int64) (int64, error) {
	off := int64(0)
	if s.se != nil {
		index := int64(v & math.MaxUint32)
		if v>>32 != 1<<28 || index >= (s.se.tables.end-s.se.tables.start)/(seTableSectors*sector) {
			return 0, s.m.Corrupt(s.kind+"grain directory", at, "entry 0x%x", v)
		}
		off = s.se.tables.start + index*seTableSectors*sector
	} else {
		off = int64(v) * sector
	}
	n := s.tableLen * s.width
	if !s.m.Inside(off, n) {
		return 0, s.m.Corrupt(s.kind+"grain directory", at, "table at 0x%x passes end of file at %d", off, s.m.Size())
	}
	if s.se == nil {
		if r := overlap(s.fixed, off, off+n); r != nil {
			return 0, s.m.Corrupt(s.kind+"grain directory", at, "table at 0x%x lies in the %s", off, r.name)
		}
	}
	return off, nil
}

// overlap returns a region of list that has bytes of [start, end).
func overlap(list []region, start, end int64) *region {
	for i := range list {
		if r := &list[i]; start < r.end && end > r.start {
			return r
		}
	}
	return nil
}

// runsPerLookup bounds how many pages of a table one lookup reads.
const runsPerLookup = 4

// An alike says whether entry, k behind v, continues the run of v.
type alike func(v, entry uint64, k int64) bool

// run returns entry i of the array of numbers at byte off, and how many from it
// on, at most limit, are alike: see parse.Table.Run.
func (s *sparse) run(st *state, off, i, limit int64, like alike) (v uint64, n int64, err error) {
	at := off/s.width + i
	if v, n, err = st.words.Run(at, limit, like); err != nil {
		return 0, 0, err
	}
	for range runsPerLookup {
		if n >= limit || !like(v, v, 0) {
			break
		}
		w, more, err := st.words.Run(at+n, limit-n, func(_, e uint64, k int64) bool { return like(v, e, n+k) })
		if err != nil {
			return 0, 0, err
		}
		if !like(v, w, n) {
			break
		}
		n += more
	}
	return v, n, nil
}

// one returns entry i of the array at byte off.
func (s *sparse) one(st *state, off, i int64) (uint64, error) { return st.words.At(off/s.width + i) }

// need is how many bytes of the file grain g must have: less at the disk's end,
// where a short last grain is enough.
func (s *sparse) need(g int64) int64 { return min(s.grain, s.size-g*s.grain) }

// mapAt returns the run that holds guest byte off of the extent.
func (s *sparse) mapAt(off int64) (formats.Extent, error) {
	st := s.state()
	span := s.grain * s.tableLen
	d := off / span
	v, n, err := s.run(st, s.directory, d, s.tables-d, func(v, e uint64, _ int64) bool { return v == 0 && e == 0 })
	if err != nil {
		return formats.Extent{}, err
	}
	if v == 0 {
		return s.clip(d*s.tableLen, n*s.tableLen, s.absent, 0), nil
	}
	table, err := s.table(st, d, v)
	if err != nil {
		return formats.Extent{}, err
	}
	g := off / s.grain
	i := g - d*s.tableLen
	var kind formats.Kind
	var host int64
	v, n, err = s.run(st, table, i, min(s.tableLen-i, s.grains()-g), func(v, e uint64, k int64) bool {
		if v == 0 {
			return e == 0
		}
		kind, host = s.entry(v)
		if kind != formats.Data {
			return e == v || kind != 0 && kind == first(s.entry(e))
		}
		_, h := s.entry(e)
		return !s.packed && host <= math.MaxInt64-k*s.grain && h == host+k*s.grain
	})
	if err != nil {
		return formats.Extent{}, err
	}
	kind, host = s.entry(v)
	switch {
	case kind == 0:
		return formats.Extent{}, s.m.Corrupt(s.kind+"grain table", table+i*s.width, "entry 0x%x", v)
	case kind != formats.Data:
		if v == 0 && i+n == s.tableLen {
			more, err := s.emptyTables(st, d, table)
			if err != nil {
				return formats.Extent{}, err
			}
			n += more * s.tableLen
		}
		return s.clip(g, n, kind, 0), nil
	case s.packed:
		return s.packedAt(st, table+i*s.width, g, host)
	}
	return s.data(st, table+i*s.width, off, g, n, host)
}

// emptyTables returns how many tables behind table d, which is at byte table, are
// in the hole of the file that it is in. A disk of 16 TiB has half a million tables
// that were made with it and never written.
func (s *sparse) emptyTables(st *state, d, table int64) (int64, error) {
	bytes := s.tableLen * s.width
	most := min((st.words.Cache.HoleEnd(table)-table)/bytes, s.tables-d)
	if most <= 1 {
		return 0, nil
	}
	step := uint64(bytes / sector)
	if s.se != nil {
		step = 1
	}
	v, n, err := s.run(st, s.directory, d, most, func(v, e uint64, k int64) bool { return e == v+uint64(k)*step })
	if err != nil {
		return 0, err
	}
	// It may be the redundant table that is used, or the directory be damaged.
	if off, err := s.tableAt(v, 0); err != nil || off != table || overlap(s.fixed, table, table+n*bytes) != nil {
		return 0, nil //nolint:nilerr // one lookup for each table says what is wrong
	}
	return n - 1, nil
}

func first(k formats.Kind, _ int64) formats.Kind { return k }

// grains is how many grains the disk has.
func (s *sparse) grains() int64 {
	if s.size == 0 {
		return 0
	}
	return (s.size-1)/s.grain + 1
}

// used is how many entries of table d are for grains of the disk.
func (s *sparse) used(d int64) int64 { return min(s.tableLen, s.grains()-d*s.tableLen) }

// clip makes the run of n grains from grain g on.
func (s *sparse) clip(g, n int64, kind formats.Kind, host int64) formats.Extent {
	e := formats.Extent{Offset: g * s.grain, Kind: kind, Host: host}
	if n >= s.grains()-g {
		e.Length = s.size - e.Offset
	} else {
		e.Length = n * s.grain
	}
	return e
}

// data makes the run of n grains from grain g on, which are at byte host, as far
// as they are in the file and not in metadata. The entry of the first is at
// byte at.
func (s *sparse) data(st *state, at, off, g, n, host int64) (formats.Extent, error) {
	e := s.clip(g, n, formats.Data, host)
	if host >= s.m.Size() {
		return e, s.m.Corrupt(s.kind+"grain table", at, "grain at 0x%x is past end of file at %d", host, s.m.Size())
	}
	e.Length = min(e.Length, s.m.Size()-host)
	if off >= e.End() {
		return e, s.m.Corrupt(s.kind+"grain table", at, "grain at 0x%x passes end of file at %d", host, s.m.Size())
	}
	r, err := s.inMetadata(st, host, host+e.Length)
	if err != nil {
		return e, err
	}
	if r != nil {
		whole := max(0, r.start-host) / s.grain * s.grain
		if whole == 0 {
			return e, s.m.Corrupt(s.kind+"grain table", at, "grain at 0x%x lies in the %s", host, r.name)
		}
		e.Length = whole
	}
	return e, nil
}

// inMetadata returns the first region that has bytes of [start, end); nil: none.
func (s *sparse) inMetadata(st *state, start, end int64) (*region, error) {
	st.mu.Lock()
	defer st.mu.Unlock()
	if !st.scanned {
		regions, err := s.scan(st)
		if err != nil {
			return nil, err
		}
		st.regions, st.scanned = regions, true
	}
	if n := len(st.regions); start >= st.regions[n-1].end {
		return nil, nil
	}
	i, _ := slices.BinarySearchFunc(st.regions, start, func(r region, start int64) int {
		if r.end <= start {
			return -1
		}
		return 1
	})
	if i < len(st.regions) && st.regions[i].start < end {
		return &st.regions[i], nil
	}
	return nil, nil
}

// scan collects the regions where no grain can be. Of tables it takes those that
// are where the header says that no grain is: others may be a damaged
// directory's. The grains of a stream say themselves what they are.
func (s *sparse) scan(st *state) ([]region, error) {
	const most = 1 << 20 // entries of a directory: 32 TiB of the usual grains
	list := slices.Clone(s.fixed)
	if !s.packed && s.se == nil && s.tables <= most {
		for _, dir := range []int64{s.directory, s.redundant} {
			if dir < 0 {
				continue
			}
			err := s.each(st, dir, s.tables, func(_ int64, v uint64) (bool, error) {
				off, err := s.tableAt(v, 0)
				if err != nil || off+s.tableLen*s.width > s.overHead {
					return true, nil //nolint:nilerr // what is not a table is not in the way
				}
				if last := &list[len(list)-1]; last.end == off && len(list) > len(s.fixed) {
					last.end += s.tableLen * s.width
				} else if len(list) < maxRegions {
					list = append(list, region{off, off + s.tableLen*s.width, s.kind + "grain tables"})
				}
				return true, nil
			})
			if err != nil {
				return nil, err
			}
		}
	}
	return tidy(list), nil
}

// tidy sorts regions and makes one of those that overlap.
func tidy(list []region) []region {
	slices.SortFunc(list, func(a, b region) int { return cmp.Compare(a.start, b.start) })
	out := list[:0]
	for _, r := range list {
		if n := len(out); n > 0 && r.start < out[n-1].end {
			out[n-1].end = max(out[n-1].end, r.end)
			continue
		}
		out = append(out, r)
	}
	return out
}

// table returns where table d is, of which the directory says v: where it is
// damaged and the redundant one is not, the redundant one's.
func (s *sparse) table(st *state, d int64, v uint64) (int64, error) {
	off, err := s.tableAt(v, s.directory+d*s.width)
	if s.redundant < 0 {
		return off, err
	}
	st.mu.Lock()
	known, ok := st.sound[d]
	st.mu.Unlock()
	if ok {
		return known, nil
	}
	bad := err != nil
	if !bad {
		if bad, err = s.damaged(st, d, off); err != nil {
			return 0, err
		}
	}
	use := off
	if bad {
		other, found, err2 := s.spare(st, d)
		switch {
		case err2 != nil:
			return 0, err2
		case found:
			use = other
		case err != nil:
			return 0, err
		}
	}
	st.mu.Lock()
	if len(st.sound) >= maxRegions {
		clear(st.sound)
	}
	st.sound[d] = use
	st.mu.Unlock()
	return use, nil
}

// spare returns the redundant copy of table d; false: there is none, or it is
// damaged, too.
func (s *sparse) spare(st *state, d int64) (int64, bool, error) {
	if s.redundant < 0 {
		return 0, false, nil
	}
	v, err := s.one(st, s.redundant, d)
	if err != nil || v == 0 {
		return 0, false, err
	}
	off, err := s.tableAt(v, s.redundant+d*s.width)
	if err != nil {
		return 0, false, nil //nolint:nilerr // what is wrong with the copy does not matter
	}
	bad, err := s.damaged(st, d, off)
	return off, err == nil && !bad, err
}

// damaged reports whether an entry of table d at byte off is not valid.
func (s *sparse) damaged(st *state, d, off int64) (bool, error) {
	bad := false
	err := s.each(st, off, s.used(d), func(i int64, v uint64) (bool, error) {
		why, err := s.wrong(st, d*s.tableLen+i, v)
		bad = why != ""
		return !bad, err
	})
	return bad, err
}

// each calls do for the entries of the array at byte off that are not 0, until
// it returns false.
func (s *sparse) each(st *state, off, n int64, do func(i int64, v uint64) (bool, error)) error {
	at := off / s.width
	for i := int64(0); i < n; {
		start, b, err := st.words.Page(at + i)
		if err != nil {
			return err
		}
		for k := (at + i - start) * s.width; k < int64(len(b)) && i < n; k, i = k+s.width, i+1 {
			v := uint64(0)
			if s.width == 4 {
				v = uint64(binary.LittleEndian.Uint32(b[k:]))
			} else {
				v = binary.LittleEndian.Uint64(b[k:])
			}
			if v == 0 {
				continue
			}
			if more, err := do(i, v); err != nil || !more {
				return err
			}
		}
	}
	return nil
}

// wrong says why grain g cannot be where entry v has it; empty: it can.
func (s *sparse) wrong(st *state, g int64, v uint64) (string, error) {
	kind, host := s.entry(v)
	if kind == 0 {
		return fmt.Sprintf("entry 0x%x", v), nil
	}
	if kind != formats.Data {
		return "", nil
	}
	need := s.need(g)
	if s.packed {
		need = markerLen
	}
	if !s.m.Inside(host, need) {
		return fmt.Sprintf("grain at 0x%x passes end of file at %d", host, s.m.Size()), nil
	}
	r, err := s.inMetadata(st, host, host+need)
	if err == nil && r != nil {
		return fmt.Sprintf("grain at 0x%x lies in the %s", host, r.name), nil
	}
	return "", err
}

// flat maps a run of a file, one for one.
type flat struct {
	m      parse.Image
	offset int64 // bytes
	size   int64
}

func (f *flat) mapAt(off int64) (formats.Extent, error) {
	have := min(f.size, f.m.Size()-f.offset)
	if off >= have {
		return formats.Extent{}, f.m.Corrupt("flat extent", f.m.Size(), "%d bytes from byte %d on pass end of file",
			f.size, f.offset)
	}
	return formats.Extent{Length: have, Kind: formats.Data, Host: f.offset}, nil
}

// zero is an extent without a file.
type zero struct{ size int64 }

func (z *zero) mapAt(int64) (formats.Extent, error) {
	return formats.Extent{Length: z.size, Kind: formats.Zero}, nil
}

// bounded keeps a map that ends before its extent from being asked further.
type bounded struct {
	layer
	m    parse.Image
	size int64
}

func (b *bounded) mapAt(off int64) (formats.Extent, error) {
	if off >= b.size {
		return formats.Extent{}, b.m.Corrupt("extent", -1, "the descriptor has more than the %d bytes of its header", b.size)
	}
	return b.layer.mapAt(off)
}
