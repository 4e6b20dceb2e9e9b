package vmdk

import (
	"bytes"
	"encoding/binary"
	"math"

	"tarvm/formats"
	"tarvm/formats/internal/parse"
)

// Name is qemu's name of the format.
const Name = "vmdk"

const (
	sector    = 512
	headerLen = 512

	magicHosted = "KDMV"
	magicCOWD   = "COWD"
	magicSE     = "\xBE\xBA\xFE\xCA\x00\x00\x00\x00" // u64 0xCAFEBABE
)

// Fields of the hosted sparse header, little-endian, packed; places and lengths
// count sectors of 512 bytes.
const (
	offVersion     = 4  // u32, 1, 2 (zeroed grains) or 3
	offFlags       = 8  // u32, see below
	offCapacity    = 12 // u64, guest sectors
	offGrain       = 20 // u64, sectors of a grain, a power of two
	offDesc        = 28 // u64, place of the descriptor; 0: none
	offDescSize    = 36 // u64, its length
	offTableLen    = 44 // u32, entries of a grain table, 512
	offRedundantGD = 48 // u64, place of the second grain directory
	offGD          = 56 // u64, place of the grain directory; all ones: in the footer
	offOverHead    = 64 // u64, sectors before the first grain
	offUnclean     = 72 // u8, 1: a program has the extent open, or did not close it
	offNewline     = 73 // "\n \r\n", when flagNewline
	offCompression = 77 // u16, 0 none, 1 deflate

	flagNewline    = 1 << 0
	flagRedundant  = 1 << 1  // offRedundantGD is valid
	flagZeroed     = 1 << 2  // a grain table's entry 1 is a grain of zeros
	flagCompressed = 1 << 16 // grains are zlib streams
	flagMarkers    = 1 << 17 // markers stand before grains and metadata

	gdAtEnd = math.MaxUint64

	maxTableLen    = 1 << 14 // entries
	maxGrain       = 1 << 17 // sectors (64 MiB); 128 is usual, ours to limit
	maxPackedGrain = 1 << 13 // sectors (4 MiB) of a compressed grain, which is decoded as a whole
)

// tableBudget is how many bytes of directories and tables Probe reads.
// A directory of 64 Ki entries (2 TiB) and 128 tables fit.
const tableBudget = 512 << 10

// Format recognises VMDK. The zero value is ready.
type Format struct{}

// Name returns "vmdk".
func (Format) Name() string { return Name }

// Probe implements formats.Format. It reads the header, an embedded descriptor,
// the footer of a stream, and at most 512 KiB of grain directory and tables; or
// a descriptor file.
//
// Subformat is the embedded descriptor's create type; streamOptimized for
// compressed extents; twoGbMaxExtentSparse for hosted sparse extents without
// descriptor; vmfsSparse and seSparse for ESX's; "descriptor" for a text file,
// which holds no guest data (see ReadDescriptor).
//
// Tables and grains that pass the end of the file do not matter here: what they
// hold cannot be read, the rest of the disk can.
func (Format) Probe(src formats.Source) (*formats.Header, error) {
	p, h, err := probe(src)
	if err != nil || p.text {
		return h, err
	}
	grid, err := p.grid(h)
	if err != nil {
		return h, err
	}
	h.Grid = grid
	return h, nil
}

// A probed file is what its fixed structures say.
type probed struct {
	m      parse.Image
	desc   *Descriptor // nil: none
	text   bool        // the file is a descriptor
	hosted *hosted     // the header that counts; nil: not hosted
	first  *hosted     // the header at the start, where a footer counts
	cowd   *cowd
	se     *seHeader
	tables tables // of hosted and COWD
}

// probe reads what Probe reads, up to the tables; Grid is still missing in the
// header.
func probe(src formats.Source) (*probed, *formats.Header, error) {
	b, err := parse.Prefix(src, Name, signatureWindow)
	if err != nil {
		return nil, nil, err
	}
	p := &probed{m: parse.Image{Source: src, Format: Name}}
	h := &formats.Header{Format: Name}
	switch {
	case hasMagic(b, magicHosted):
		return p, h, p.probeHosted(h, b)
	case hasMagic(b, magicCOWD):
		return p, h, p.probeCOWD(h, b)
	case hasMagic(b, magicSE):
		return p, h, p.probeSE(h, b)
	case IsDescriptor(b):
		h.Subformat, p.text = "descriptor", true
		if p.desc, err = readText(p.m, b); err != nil {
			return p, h, err
		}
		h.VirtualSize = p.desc.Size()
		h.ParentHint = p.desc.ParentFileNameHint
		return p, h, nil
	}
	return nil, nil, formats.ErrNotFormat
}

// grid is where the grains start, modulo their size.
func (p *probed) grid(h *formats.Header) (int64, error) {
	switch {
	case h.Compressed:
		return 0, nil
	case p.se != nil:
		return p.se.grains.Bytes() % h.Unit, nil
	case p.cowd != nil:
		return p.tables.phase(p.cowd.free.Bytes())
	}
	return p.tables.phase(p.hosted.overHead.Bytes())
}

func hasMagic(b []byte, magic string) bool { return bytes.HasPrefix(b, []byte(magic)) }

// hosted is the header of a hosted sparse extent, checked.
type hosted struct {
	version     uint32
	flags       uint32
	capacity    Sectors
	grain       Sectors
	desc        Sectors
	descSize    Sectors
	tableLen    int64 // entries
	redundantGD uint64
	gd          uint64
	overHead    Sectors
	unclean     bool
}

func (h *hosted) compressed() bool { return h.flags&flagCompressed != 0 }

// parseHosted reads the header b found at byte at.
func parseHosted(m parse.Image, b []byte, at int64) (*hosted, error) {
	if len(b) < headerLen {
		return nil, m.Corrupt("header", at, "%d bytes, want %d", len(b), headerLen)
	}
	le := binary.LittleEndian
	if v := le.Uint32(b[offVersion:]); v < 1 || v > 3 {
		return nil, m.Unsupported("header version", at+offVersion, "%d", v)
	}
	h := &hosted{
		version:     le.Uint32(b[offVersion:]),
		unclean:     b[offUnclean] != 0,
		flags:       le.Uint32(b[offFlags:]),
		tableLen:    int64(le.Uint32(b[offTableLen:])),
		redundantGD: le.Uint64(b[offRedundantGD:]),
		gd:          le.Uint64(b[offGD:]),
	}
	// A transfer as text would have changed these.
	if nl := b[offNewline : offNewline+4]; h.flags&flagNewline != 0 && string(nl) != "\n \r\n" {
		return nil, m.Corrupt("newline test", at+offNewline, "%q", nl)
	}
	if c := le.Uint16(b[offCompression:]); c > 1 || c == 0 && h.flags&flagCompressed != 0 {
		return nil, m.Unsupported("compression", at+offCompression, "%d", c)
	}
	for _, f := range []struct {
		name string
		off  int64
		to   *Sectors
	}{
		{"capacity", offCapacity, &h.capacity},
		{"grain size", offGrain, &h.grain},
		{"descriptor offset", offDesc, &h.desc},
		{"descriptor size", offDescSize, &h.descSize},
		{"overhead", offOverHead, &h.overHead},
	} {
		v := le.Uint64(b[f.off:])
		if v > maxSectors {
			return nil, m.Corrupt(f.name, at+f.off, "%d sectors", v)
		}
		*f.to = Sectors(v)
	}
	if !parse.PowerOfTwo(int64(h.grain)) || h.grain > maxGrain {
		return nil, m.Corrupt("grain size", at+offGrain, "%d sectors", h.grain)
	}
	if h.compressed() && h.grain > maxPackedGrain {
		return nil, m.Unsupported("grain size", at+offGrain, "%d sectors, compressed, limit %d", h.grain, maxPackedGrain)
	}
	if h.tableLen == 0 {
		return nil, m.Corrupt("grain table size", at+offTableLen, "0 entries")
	}
	if h.tableLen > maxTableLen {
		return nil, m.Unsupported("grain table size", at+offTableLen, "%d entries, limit %d", h.tableLen, maxTableLen)
	}
	return h, nil
}

// descriptor reads the embedded descriptor; nil when there is none.
func (h *hosted) descriptor(m parse.Image) (*Descriptor, error) {
	if h.desc == 0 || h.descSize == 0 {
		return nil, nil
	}
	b, err := m.Bytes("descriptor", h.desc.Bytes(), h.descSize.Bytes())
	if err != nil {
		return nil, err
	}
	if len(bytes.Trim(b, "\x00")) == 0 {
		return nil, nil // qemu reserves the room in the extents of a split disk
	}
	if !IsDescriptor(b) {
		return nil, m.Corrupt("descriptor", h.desc.Bytes(), "starts with %s", brief(string(b[:40])))
	}
	return parseDescriptor(b, h.desc.Bytes())
}

func (p *probed) probeHosted(out *formats.Header, b []byte) error {
	m := p.m
	h, err := parseHosted(m, b, 0)
	if err != nil {
		return err
	}
	out.VirtualSize = h.capacity.Bytes()
	out.Unit = h.grain.Bytes()
	out.Compressed = h.compressed()
	out.Subformat = "twoGbMaxExtentSparse"
	if out.Compressed {
		out.Subformat = "streamOptimized"
	}
	if p.desc, err = h.descriptor(m); err != nil {
		return err
	}
	if d := p.desc; d != nil {
		out.ParentHint = d.ParentFileNameHint
		if d.CreateType != "" {
			out.Subformat = d.CreateType
		}
	}
	p.first = h
	if h.gd == gdAtEnd {
		// Footer marker, footer and end-of-stream marker are the last sectors.
		at := p.footer()
		f, err := m.Bytes("footer", at, headerLen)
		if err != nil {
			return err
		}
		if !hasMagic(f, magicHosted) {
			return m.Corrupt("footer", at, "no footer before the end of file: the stream is cut short")
		}
		if h, err = parseHosted(m, f, at); err != nil {
			return err
		}
		// What the writer knew at the end counts.
		out.VirtualSize = h.capacity.Bytes()
		out.Unit = h.grain.Bytes()
		out.Compressed = h.compressed()
	}
	p.hosted = h
	p.tables = tables{
		m: m, grain: h.grain, tableLen: h.tableLen,
		entries: directoryEntries(h.capacity, h.grain, h.tableLen), redundant: -1,
	}
	t := &p.tables
	var primary, redundant bool
	t.directory, primary = t.place(h.gd)
	if h.flags&flagRedundant != 0 {
		t.redundant, redundant = t.place(h.redundantGD)
	}
	switch {
	case primary:
	case redundant:
		t.directory, t.redundant, t.repaired = t.redundant, -1, true
	default:
		return m.Corrupt("grain directory", -1, "%d entries at sector %d pass end of file", t.entries, h.gd)
	}
	return nil
}

// footer is where the footer of a stream is.
func (p *probed) footer() int64 { return p.m.Size() - 2*sector }

// Fields of the vmfsSparse (COWD) header, u32, little-endian, sectors.
const (
	offCOWDVersion  = 4  // 1
	offCOWDCapacity = 12 // guest sectors
	offCOWDGrain    = 16 // sectors of a grain; 1 on ESX
	offCOWDGD       = 20 // place of the grain directory, 4
	offCOWDGDLen    = 24 // its entries
	offCOWDFree     = 28 // first sector not in use
	cowdHeaderLen   = 32
	cowdHeaderRoom  = 2048 // bytes that the header takes; what follows the fields is not used
	cowdTableLen    = 4096 // entries of a grain table
)

// cowd is the header of a COWD extent, checked.
type cowd struct {
	capacity, grain, free Sectors
}

func (p *probed) probeCOWD(out *formats.Header, b []byte) error {
	m := p.m
	out.Subformat = "vmfsSparse"
	if len(b) < cowdHeaderLen {
		return m.Corrupt("COWD header", 0, "%d bytes, want %d", len(b), cowdHeaderLen)
	}
	le := binary.LittleEndian
	if v := le.Uint32(b[offCOWDVersion:]); v != 1 {
		return m.Unsupported("COWD version", offCOWDVersion, "%d", v)
	}
	h := &cowd{
		capacity: Sectors(le.Uint32(b[offCOWDCapacity:])),
		grain:    Sectors(le.Uint32(b[offCOWDGrain:])),
		free:     Sectors(le.Uint32(b[offCOWDFree:])),
	}
	if !parse.PowerOfTwo(int64(h.grain)) || h.grain > maxGrain {
		return m.Corrupt("COWD grain size", offCOWDGrain, "%d sectors", h.grain)
	}
	out.VirtualSize = h.capacity.Bytes()
	out.Unit = h.grain.Bytes()
	p.cowd = h
	p.tables = tables{
		m: m, grain: h.grain, tableLen: cowdTableLen, entries: int64(le.Uint32(b[offCOWDGDLen:])), redundant: -1,
	}
	t := &p.tables
	least := directoryEntries(h.capacity, h.grain, cowdTableLen)
	if t.entries < least {
		return m.Corrupt("COWD directory size", offCOWDGDLen, "%d entries, want %d", t.entries, least)
	}
	gd := le.Uint32(b[offCOWDGD:])
	var ok bool
	if t.directory, ok = t.place(uint64(gd)); !ok {
		return m.Corrupt("COWD directory", Sectors(gd).Bytes(), "%d entries pass end of file", t.entries)
	}
	t.entries = least
	return nil
}

// Fields of the seSparse constant header, u64, little-endian, sectors.
const (
	offSEVersion   = 8         // 0x0000000200000001
	offSECapacity  = 16        // guest sectors
	offSEGrain     = 24        // sectors of a grain, 8
	offSETable     = 32        // sectors of a grain table, 64
	offSEVolatile  = 80        // place of the volatile header; its length follows, as with those below
	offSEJournalH  = 80 + 16   // place of the journal's header
	offSEJournal   = 80 + 2*16 // place of the journal
	offSEGD        = 80 + 3*16 // place of the grain directory
	offSETables    = 80 + 4*16 // place of the grain tables
	offSEFree      = 80 + 5*16 // place of the bitmap of free grains
	offSEBackmap   = 80 + 6*16 // place of the map from grains to the guest's
	offSEGrains    = 80 + 7*16 // place of the grains
	seHeaderLen    = 26 * 8    //
	seVersion      = 2<<32 | 1 //
	seGrain        = 8         // sectors, the only size known
	seTableSectors = 64        // the only size known
	seTableLen     = seTableSectors * sector / 8
)

// Fields of the seSparse volatile header, u64, little-endian.
const (
	seVolatileMagic = 0xCAFECAFE // at 0
	offSEReplay     = 24         // not 0: the journal must be replayed before tables can be trusted
	seVolatileLen   = 32
)

// seHeader is the constant header of a seSparse extent, checked.
type seHeader struct {
	capacity, grains Sectors
	end              Sectors  // of the grains
	regions          []region // what the header places, grains excepted
	directory        region
	tables           region
	volatile         int64 // bytes
}

func (p *probed) probeSE(out *formats.Header, b []byte) error {
	m := p.m
	out.Subformat = "seSparse"
	if len(b) < seHeaderLen {
		return m.Corrupt("seSparse header", 0, "%d bytes, want %d", len(b), seHeaderLen)
	}
	le := binary.LittleEndian
	if v := le.Uint64(b[offSEVersion:]); v != seVersion {
		return m.Unsupported("seSparse version", offSEVersion, "0x%x", v)
	}
	if g := le.Uint64(b[offSEGrain:]); g != seGrain {
		return m.Unsupported("seSparse grain size", offSEGrain, "%d sectors", g)
	}
	if n := le.Uint64(b[offSETable:]); n != seTableSectors {
		return m.Unsupported("seSparse grain table size", offSETable, "%d sectors", n)
	}
	capacity := le.Uint64(b[offSECapacity:])
	grains, grainsLen := le.Uint64(b[offSEGrains:]), le.Uint64(b[offSEGrains+8:])
	if capacity > maxSectors {
		return m.Corrupt("seSparse capacity", offSECapacity, "%d sectors", capacity)
	}
	if grains > uint64(m.Size())/sector {
		return m.Corrupt("seSparse grains", offSEGrains, "start at sector %d, past end of file", grains)
	}
	if grainsLen > maxSectors-grains {
		return m.Corrupt("seSparse grains", offSEGrains+8, "%d sectors", grainsLen)
	}
	h := &seHeader{capacity: Sectors(capacity), grains: Sectors(grains), end: Sectors(grains + grainsLen)}
	h.regions = []region{{0, sector, "header"}}
	for _, f := range []struct {
		off  int64
		name string
		to   *region
	}{
		{offSEVolatile, "volatile header", nil},
		{offSEJournalH, "journal header", nil},
		{offSEJournal, "journal", nil},
		{offSEGD, "grain directory", &h.directory},
		{offSETables, "grain tables", &h.tables},
		{offSEFree, "free bitmap", nil},
		{offSEBackmap, "backmap", nil},
	} {
		at, n := le.Uint64(b[f.off:]), le.Uint64(b[f.off+8:])
		if at > maxSectors || n > maxSectors-at {
			return m.Corrupt("seSparse "+f.name, f.off, "%d sectors at sector %d", n, at)
		}
		r := region{Sectors(at).Bytes(), Sectors(at + n).Bytes(), f.name}
		if n != 0 {
			h.regions = append(h.regions, r)
		}
		if f.to != nil {
			*f.to = r
		}
		if f.off == offSEVolatile {
			h.volatile = r.start
		}
	}
	need := directoryEntries(h.capacity, seGrain, seTableLen) * 8
	if d := h.directory; d.start == 0 || d.end-d.start < need || !m.Inside(d.start, need) {
		return m.Corrupt("seSparse grain directory", offSEGD, "bytes %d to %d, want %d bytes, in the file", d.start,
			d.end, need)
	}
	p.se = h
	out.VirtualSize = h.capacity.Bytes()
	out.Unit = seGrain * sector
	return nil
}
