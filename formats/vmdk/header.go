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
	offNewline     = 73 // "\n \r\n", when flagNewline
	offCompression = 77 // u16, 0 none, 1 deflate

	flagNewline    = 1 << 0
	flagRedundant  = 1 << 1
	flagCompressed = 1 << 16

	gdAtEnd = math.MaxUint64

	maxGrain = 1 << 17 // sectors (64 MiB); 128 is usual, ours to limit
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
func (Format) Probe(src formats.Source) (*formats.Header, error) {
	b, err := parse.Prefix(src, Name, signatureWindow)
	if err != nil {
		return nil, err
	}
	m := parse.Image{Source: src, Format: Name}
	h := &formats.Header{Format: Name}
	switch {
	case hasMagic(b, magicHosted):
		return h, probeHosted(m, h, b)
	case hasMagic(b, magicCOWD):
		return h, probeCOWD(m, h, b)
	case hasMagic(b, magicSE):
		return h, probeSE(m, h, b)
	case IsDescriptor(b):
		h.Subformat = "descriptor"
		d, err := readText(m, b)
		if err != nil {
			return h, err
		}
		h.VirtualSize = d.Size()
		h.ParentHint = d.ParentFileNameHint
		return h, nil
	}
	return nil, formats.ErrNotFormat
}

func hasMagic(b []byte, magic string) bool { return bytes.HasPrefix(b, []byte(magic)) }

// hosted is the header of a hosted sparse extent, checked.
type hosted struct {
	flags       uint32
	capacity    Sectors
	grain       Sectors
	desc        Sectors
	descSize    Sectors
	tableLen    int64 // entries
	redundantGD uint64
	gd          uint64
	overHead    Sectors
}

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
	if h.tableLen == 0 {
		return nil, m.Corrupt("grain table size", at+offTableLen, "0 entries")
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

func probeHosted(m parse.Image, out *formats.Header, b []byte) error {
	h, err := parseHosted(m, b, 0)
	if err != nil {
		return err
	}
	out.VirtualSize = h.capacity.Bytes()
	out.Unit = h.grain.Bytes()
	out.Compressed = h.flags&flagCompressed != 0
	out.Subformat = "twoGbMaxExtentSparse"
	if out.Compressed {
		out.Subformat = "streamOptimized"
	}
	d, err := h.descriptor(m)
	if err != nil {
		return err
	}
	if d != nil {
		out.ParentHint = d.ParentFileNameHint
		if d.CreateType != "" {
			out.Subformat = d.CreateType
		}
	}
	if h.gd == gdAtEnd {
		// Footer marker, footer and end-of-stream marker are the last sectors.
		at := m.Size() - 2*sector
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
		out.Compressed = h.flags&flagCompressed != 0
	}
	t := tables{
		m: m, grain: h.grain, tableLen: h.tableLen, compressed: out.Compressed,
		entries: directoryEntries(h.capacity, h.grain, h.tableLen),
	}
	switch {
	case t.place(h.gd):
	case h.flags&flagRedundant != 0 && t.place(h.redundantGD):
	default:
		return m.Corrupt("grain directory", -1, "%d entries at sector %d pass end of file", t.entries, h.gd)
	}
	phase, err := t.phase(h.overHead.Bytes())
	if err != nil || out.Compressed {
		return err
	}
	out.Grid = phase
	return nil
}

// Fields of the vmfsSparse (COWD) header, u32, little-endian, sectors.
const (
	offCOWDVersion  = 4  // 1
	offCOWDCapacity = 12 // guest sectors
	offCOWDGrain    = 16 // sectors of a grain; 1 on ESX
	offCOWDGD       = 20 // place of the grain directory, 4
	offCOWDGDLen    = 24 // its entries
	offCOWDFree     = 28 // first sector not in use
	cowdHeaderLen   = 32
	cowdTableLen    = 4096 // entries of a grain table
)

func probeCOWD(m parse.Image, out *formats.Header, b []byte) error {
	out.Subformat = "vmfsSparse"
	if len(b) < cowdHeaderLen {
		return m.Corrupt("COWD header", 0, "%d bytes, want %d", len(b), cowdHeaderLen)
	}
	le := binary.LittleEndian
	if v := le.Uint32(b[offCOWDVersion:]); v != 1 {
		return m.Unsupported("COWD version", offCOWDVersion, "%d", v)
	}
	capacity := Sectors(le.Uint32(b[offCOWDCapacity:]))
	grain := Sectors(le.Uint32(b[offCOWDGrain:]))
	if !parse.PowerOfTwo(int64(grain)) || grain > maxGrain {
		return m.Corrupt("COWD grain size", offCOWDGrain, "%d sectors", grain)
	}
	out.VirtualSize = capacity.Bytes()
	out.Unit = grain.Bytes()
	t := tables{m: m, grain: grain, tableLen: cowdTableLen, entries: int64(le.Uint32(b[offCOWDGDLen:]))}
	if least := directoryEntries(capacity, grain, cowdTableLen); t.entries < least {
		return m.Corrupt("COWD directory size", offCOWDGDLen, "%d entries, want %d", t.entries, least)
	}
	gd := le.Uint32(b[offCOWDGD:])
	if !t.place(uint64(gd)) {
		return m.Corrupt("COWD directory", Sectors(gd).Bytes(), "%d entries pass end of file", t.entries)
	}
	phase, err := t.phase(Sectors(le.Uint32(b[offCOWDFree:])).Bytes())
	if err != nil {
		return err
	}
	out.Grid = phase
	return nil
}

// Fields of the seSparse constant header, u64, little-endian, sectors.
const (
	offSEVersion  = 8         // 0x0000000200000001
	offSECapacity = 16        // guest sectors
	offSEGrain    = 24        // sectors of a grain, 8
	offSETable    = 32        // sectors of a grain table, 64
	offSEGrains   = 24 * 8    // place of the grains
	offSEGrainLen = 24*8 + 8  // sectors they take
	seHeaderLen   = 26 * 8    //
	seVersion     = 2<<32 | 1 //
	seGrain       = 8         // the only one known
)

func probeSE(m parse.Image, out *formats.Header, b []byte) error {
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
	capacity, grains := le.Uint64(b[offSECapacity:]), le.Uint64(b[offSEGrains:])
	if capacity > maxSectors {
		return m.Corrupt("seSparse capacity", offSECapacity, "%d sectors", capacity)
	}
	if grains > uint64(m.Size())/sector {
		return m.Corrupt("seSparse grains", offSEGrains, "start at sector %d, past end of file", grains)
	}
	out.VirtualSize = Sectors(capacity).Bytes()
	out.Unit = seGrain * sector
	out.Grid = Sectors(grains).Bytes() % out.Unit
	return nil
}
