package qcow2

import (
	"encoding/binary"
	"errors"
	"math"
	"slices"
	"strconv"
	"strings"

	"tarvm/formats"
	"tarvm/formats/internal/parse"
)

// Name is qemu's name of the format.
const Name = "qcow2"

// All fields are big-endian.
const (
	offMagic       = 0  // u32, "QFI\xfb"
	offVersion     = 4  // u32, 2 or 3; 1: package qcow
	offBacking     = 8  // u64, file offset of the parent's name; 0: none
	offBackingSize = 16 // u32, bytes of the name, at most 1023

	offClusterBits    = 20  // u32, 9 to 21
	offSize           = 24  // u64, guest bytes
	offCrypt          = 32  // u32, 0: none, 1: AES, 2: LUKS
	offL1Size         = 36  // u32, entries of 8 bytes
	offL1             = 40  // u64, file offset, a multiple of the cluster
	offRefTable       = 48  // u64, file offset of the refcount table, a multiple of the cluster
	offRefClusters    = 56  // u32, clusters of the refcount table
	offSnapshots      = 60  // u32, number of snapshots
	offSnapshotTable  = 64  // u64, file offset of the snapshot table, a multiple of the cluster
	offIncompatible   = 72  // u64, version 3: features that a reader must know
	offCompatible     = 80  // u64, version 3: features that may be ignored
	offAutoclear      = 88  // u64, version 3: features that a writer who does not know them takes away
	offRefOrder       = 96  // u32, version 3: a refcount has 2^n bits, 0 to 6; version 2 has 16 bits
	offHeaderLength   = 100 // u32, version 3: bytes, at least 104
	offCompression    = 104 // u8, if the header is longer than 104: 0 deflate, 1 zstd
	headerV2          = 72
	headerV3          = 104
	headerCompression = 105 // bytes of a header that says how data is compressed

	incompatDirty        = 1 << 0 // refcounts may be wrong
	incompatCorrupt      = 1 << 1 // a program found damage
	incompatExternalData = 1 << 2 // guest data is in another file
	incompatCompression  = 1 << 3 // offCompression is not 0
	incompatExtendedL2   = 1 << 4 // L2 entries have 16 bytes
	incompatKnown        = 1<<5 - 1

	compatLazyRefcounts = 1 << 0

	autoclearBitmaps = 1 << 0 // the bitmaps extension is up to date
	autoclearRawData = 1 << 1 // the external data file is a raw image of the disk

	cryptNone = 0
	cryptAES  = 1
	cryptLUKS = 2

	compressDeflate = 0
	compressZstd    = 1

	maxBackingName = 1023
	maxL1          = 32 << 20 // bytes, qemu's QCOW_MAX_L1_SIZE
	maxRefTable    = 8 << 20  // bytes, qemu's QCOW_MAX_REFTABLE_SIZE
)

// Header extensions begin behind the header and end with type 0, at the backing
// file's name, or with the first cluster. Each is a u32 type, a u32 length of
// its data, and the data, filled up to a multiple of 8 bytes.
const (
	extEnd           = 0
	extBackingFormat = 0xe2792aca // the parent's format, in qemu's words
	extFeatureNames  = 0x6803f857 // entries of 48 bytes: u8 type, u8 bit, 46 bytes of name
	extBitmaps       = 0x23852875 // u32 number, u32 reserved, u64 bytes of the directory, u64 its file offset
	extCrypto        = 0x0537be77 // u64 file offset, u64 bytes of a LUKS header
	extDataFile      = 0x44415441 // the external data file's name

	maxExtensions   = 256      // qemu writes 5
	maxExtension    = 64 << 10 // bytes of one that is read
	maxFormatName   = 15       // bytes, as in qemu
	featureNameLen  = 48
	featureIncompat = 0 // the type of an incompatible feature's name
)

const magic = "QFI\xfb"

// A header is what the fixed part of a version 2 or 3 image says.
type header struct {
	*formats.Header
	version      int
	clusterBits  uint
	unit         int64 // bytes of a cluster
	incompat     uint64
	compat       uint64
	autoclear    uint64
	crypt        uint32
	l1, l1Size   int64 // file offset, entries
	refTable     uint64
	refClusters  int64
	refOrder     uint32
	snapshots    int64 // number
	snapshotsOff uint64
	length       int64
	compression  byte
	backing      uint64 // file offset of the name; 0: none
}

// An extension of the header.
type extension struct {
	kind uint32
	off  int64 // file offset of the data
	n    int64 // bytes
}

// Format recognises and opens QCOW2. The zero value is ready.
type Format struct{}

// Name returns "qcow2".
func (Format) Name() string { return Name }

// Probe implements formats.Format. It reads the header and the backing file's
// name, less than 2 KiB.
//
// An image whose guest data is in an external file has Unit 0: its clusters
// are not in this one.
func (Format) Probe(src formats.Source) (*formats.Header, error) {
	h, err := readHeader(src)
	if h == nil {
		return nil, err
	}
	return h.Header, err
}

// readHeader reads the header of any version; version is 0 if it is not known.
func readHeader(src formats.Source) (*header, error) {
	b, err := parse.Prefix(src, Name, headerCompression)
	if err != nil {
		return nil, err
	}
	if len(b) < 4 || string(b[:4]) != magic {
		return nil, formats.ErrNotFormat
	}
	m := parse.Image{Source: src, Format: Name}
	h := &header{Header: &formats.Header{Format: Name}}
	if len(b) < offBacking {
		return h, m.Corrupt("header", 0, "%d bytes", len(b))
	}
	be := binary.BigEndian
	switch v := be.Uint32(b[offVersion:]); v {
	case 1: // another format, which qemu calls qcow
		return nil, formats.ErrNotFormat
	case 2:
		h.Subformat, h.version = "v2", 2
		return h, h.read(m, b, headerV2)
	case 3:
		h.Subformat, h.version = "v3", 3
		return h, h.read(m, b, headerV3)
	default:
		return h, m.Unsupported("version", offVersion, "%d", v)
	}
}

// read fills h from the header b of a version 2 or 3 image, whose fixed part
// has want bytes.
func (h *header) read(m parse.Image, b []byte, want int) error {
	be := binary.BigEndian
	if len(b) < want {
		return m.Corrupt("header", 0, "%d bytes, want %d", len(b), want)
	}
	bits := be.Uint32(b[offClusterBits:])
	if bits < 9 || bits > 21 {
		return m.Corrupt("cluster size", offClusterBits, "2^%d bytes", bits)
	}
	unit := int64(1) << bits
	h.clusterBits, h.unit = uint(bits), unit
	h.crypt = be.Uint32(b[offCrypt:])
	h.refTable, h.refClusters, h.refOrder = be.Uint64(b[offRefTable:]), int64(be.Uint32(b[offRefClusters:])), 4
	h.snapshots, h.snapshotsOff = int64(be.Uint32(b[offSnapshots:])), be.Uint64(b[offSnapshotTable:])
	h.length = headerV2
	if want == headerV3 {
		h.incompat, h.compat, h.autoclear = be.Uint64(b[offIncompatible:]), be.Uint64(b[offCompatible:]),
			be.Uint64(b[offAutoclear:])
		h.refOrder = be.Uint32(b[offRefOrder:])
		n := be.Uint32(b[offHeaderLength:])
		if n < headerV3 || int64(n) > unit {
			return m.Corrupt("header length", offHeaderLength, "%d", n)
		}
		h.length = int64(n)
		if n >= headerCompression && len(b) >= headerCompression {
			h.compression = b[offCompression]
		}
		if h.incompat&incompatExtendedL2 != 0 && bits < 14 {
			return m.Corrupt("cluster size", offClusterBits, "2^%d bytes with subclusters", bits)
		}
	}
	size := be.Uint64(b[offSize:])
	if size > math.MaxInt64 {
		return m.Corrupt("disk size", offSize, "%d", size)
	}
	h.VirtualSize = int64(size)
	if h.incompat&incompatExternalData == 0 {
		h.Unit = unit
	}
	if err := backing(m, h.Header, b); err != nil {
		return err
	}
	if h.ParentHint != "" {
		h.backing = be.Uint64(b[offBacking:])
	}
	if unknown := h.incompat &^ incompatKnown; unknown != 0 {
		names, err := h.featureNames(m, unknown)
		if err != nil {
			return err
		}
		return m.Unsupported("incompatible features", offIncompatible, "unknown bits 0x%x%s", unknown, names)
	}

	l1 := uint64(be.Uint32(b[offL1Size:]))
	at := be.Uint64(b[offL1:])
	switch {
	case l1*8 > maxL1:
		return m.Corrupt("L1 size", offL1Size, "%d entries", l1)
	case size > 0 && (size-1)/uint64(h.covers()) >= l1:
		return m.Corrupt("L1 size", offL1Size, "%d entries for a disk of %d bytes", l1, size)
	case at%uint64(unit) != 0:
		return m.Corrupt("L1 offset", offL1, "0x%x is not a multiple of the cluster", at)
	case at > math.MaxInt64 || !m.Inside(int64(at), int64(l1)*8):
		return m.Corrupt("L1 table", int64(at&math.MaxInt64), "%d entries pass end of file", l1)
	}
	h.l1, h.l1Size = int64(at), int64(l1)
	return nil
}

// words is how many numbers of 8 bytes an L2 entry has.
func (h *header) words() int64 {
	if h.incompat&incompatExtendedL2 != 0 {
		return 2
	}
	return 1
}

// covers is how many guest bytes an L1 entry stands for, at most 2^39.
func (h *header) covers() int64 { return h.unit * (h.unit / (8 * h.words())) }

// extensions lists the header's extensions.
func (h *header) extensions(m parse.Image) ([]extension, error) {
	end := min(h.unit, m.Size())
	if h.backing > 0 && h.backing < uint64(end) {
		end = int64(h.backing)
	}
	var list []extension
	for off := h.length; off <= end-8; {
		b, err := m.Bytes("header extension", off, 8)
		if err != nil {
			return list, err
		}
		e := extension{binary.BigEndian.Uint32(b), off + 8, int64(binary.BigEndian.Uint32(b[4:]))}
		if e.kind == extEnd {
			break
		}
		if e.n > end-e.off {
			return list, m.Corrupt("header extension", off, "type 0x%x of %d bytes passes the end of the header", e.kind, e.n)
		}
		if len(list) == maxExtensions {
			return list, m.Unsupported("header extension", off, "more than %d", maxExtensions)
		}
		list = append(list, e)
		off = e.off + (e.n+7)&^7
	}
	return list, nil
}

// featureNames returns what the image itself calls its incompatible features of
// these bits, for an error's text. Its error is the medium's.
func (h *header) featureNames(m parse.Image, bits uint64) (string, error) {
	list, err := h.extensions(m)
	if err != nil && !damaged(err) {
		return "", err
	}
	i := slices.IndexFunc(list, func(e extension) bool { return e.kind == extFeatureNames && e.n <= maxExtension })
	if i < 0 {
		return "", nil
	}
	b, err := m.Bytes("feature names", list[i].off, list[i].n)
	if err != nil {
		return "", err
	}
	var names []string
	for ; len(b) >= featureNameLen; b = b[featureNameLen:] {
		if b[0] == featureIncompat && b[1] < 64 && bits>>b[1]&1 != 0 {
			name, _, _ := strings.Cut(string(b[2:featureNameLen]), "\x00")
			names = append(names, strconv.Quote(name))
		}
	}
	if len(names) == 0 {
		return "", nil
	}
	return " (" + strings.Join(names, ", ") + ")", nil
}

// damaged reports whether err is about the image and not about the medium.
func damaged(err error) bool {
	return errors.Is(err, formats.ErrCorrupt) || errors.Is(err, formats.ErrUnsupported)
}

// backing reads the parent's name into h.
func backing(m parse.Image, h *formats.Header, b []byte) error {
	off := binary.BigEndian.Uint64(b[offBacking:])
	n := binary.BigEndian.Uint32(b[offBackingSize:])
	if off == 0 || n == 0 {
		return nil
	}
	if n > maxBackingName {
		return m.Corrupt("backing file name", offBackingSize, "%d bytes", n)
	}
	if off > math.MaxInt64 {
		return m.Corrupt("backing file name", offBacking, "offset 0x%x", off)
	}
	name, err := m.Bytes("backing file name", int64(off), int64(n))
	if err != nil {
		return err
	}
	h.ParentHint = string(name)
	return nil
}
