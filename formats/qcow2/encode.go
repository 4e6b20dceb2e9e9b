package qcow2

import (
	"context"
	"encoding/binary"
	"fmt"
	"math/bits"
	"runtime"
	"strings"

	"tarvm/formats"
)

var _ formats.Encoder = Format{}

// Values of EncodeOptions.Compression.
const (
	encNone    = "none"
	encDeflate = "deflate"
	encZstd    = "zstd"
)

// Bits of L1 and L2 entries, u64 big-endian.
const (
	encCopied     = 1 << 63 // the refcount of the cluster is 1
	encCompressed = 1 << 62 // a compressed cluster, see compressedEntry
	encZero       = 1       // version 3, L2 only: reads as zero
)

// Limits that qemu sets to what it opens.
const (
	encMaxRefTable = 8 << 20 // bytes of the refcount table
	encMaxFormat   = 15      // bytes of the name of the parent's format
)

const sectorSize = 512

// Subformats implements formats.Encoder: v3, and v2 for programs older than
// qemu 1.1.
func (Format) Subformats() []string { return []string{"v3", "v2"} }

// Streams implements formats.Encoder. The header and the L1 table are in front
// of the data, and are known last.
func (Format) Streams(*formats.EncodeOptions) bool { return false }

// Encode implements formats.Encoder. The file is: header, L1 table, then data,
// and each L2 table behind the data that it maps; each refcount block behind the
// clusters that it counts, the refcount table last. The header is written at
// the end: a file that was not finished is no image.
//
// Unit is the cluster, a power of two from 512 B to 2 MiB, by default 64 KiB.
// Compression may be none, deflate and, in v3, zstd. A disk that does not end
// with a sector of 512 bytes is filled up with zeros. With a Base the image
// names Parent.Names[0] and Parent.Format, which readers must not guess. ID,
// Unix and Adapter are not used.
//
// Memory is the L1 table, an L2 table, and what formats.Units takes: about
// 5 clusters and a compressor for each worker.
func (Format) Encode(ctx context.Context, out formats.Outputs, d formats.Disk, o formats.EncodeOptions) error {
	e, err := newEncoder(out.Main, d.Size(), &o)
	if err != nil {
		return err
	}
	if e.size != d.Size() {
		d = &wholeSectors{Disk: d, size: e.size}
	}
	if err := formats.Units(ctx, d, e.cluster, &o, e.work(&o), e.emit); err != nil {
		return err
	}
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	return e.finish()
}

type encoder struct {
	encLayout
	version     uint32
	size        int64 // of the disk, whole sectors
	compression string
	parent      string // name and format; empty: none
	parentIs    string

	l1At    int64
	l1      []byte // the whole table
	l2      []byte // the table of L1 entry l2Index
	l2Index int64  // -1: none yet
}

func encUnsupported(structure, format string, a ...any) error {
	return &formats.FormatError{
		Format: Name, Structure: structure, Offset: -1, Got: fmt.Sprintf(format, a...), Err: formats.ErrUnsupported,
	}
}

// newEncoder checks o, and fills in what it leaves open.
func newEncoder(out formats.Output, size int64, o *formats.EncodeOptions) (*encoder, error) {
	e := &encoder{compression: o.Compression, l2Index: -1}
	switch o.Subformat {
	case "", "v3":
		e.version = 3
	case "v2":
		e.version = 2
	default:
		return nil, encUnsupported("subformat", "%q", o.Subformat)
	}
	cluster := o.Unit
	if cluster == 0 {
		cluster = 64 << 10
	}
	if cluster < 512 || cluster > 2<<20 || cluster&(cluster-1) != 0 {
		return nil, encUnsupported("cluster size", "%d", cluster)
	}
	switch e.compression {
	case "":
		e.compression = encNone
	case encNone, encDeflate:
	case encZstd:
		if e.version == 2 {
			return nil, encUnsupported("compression", "zstd in version 2")
		}
	default:
		return nil, encUnsupported("compression", "%q", o.Compression)
	}
	if o.Level < 0 || o.Level > 9 {
		return nil, encUnsupported("compression level", "%d", o.Level)
	}
	if err := e.setParent(o); err != nil {
		return nil, err
	}
	// Guest bytes of an L1 entry.
	covers := cluster / 8 * cluster
	if size < 0 || (size-1)/covers >= maxL1/8 {
		return nil, encUnsupported("disk size", "%d bytes in clusters of %d", size, cluster)
	}
	e.size = (size + sectorSize - 1) &^ (sectorSize - 1)
	e.l1 = make([]byte, 8*max(1, (e.size+covers-1)/covers))
	e.l2 = make([]byte, cluster)
	e.encLayout = newEncLayout(out, cluster)
	// The header says where things are: it has to fit before anything is written.
	if _, err := e.header(0, 0); err != nil {
		return nil, err
	}
	if _, err := e.take(1); err != nil { // the header
		return nil, err
	}
	var err error
	if e.l1At, err = e.take((int64(len(e.l1)) + cluster - 1) / cluster); err != nil {
		return nil, err
	}

	if o.Workers <= 0 {
		o.Workers = runtime.GOMAXPROCS(0)
	}
	if progress := o.Progress; progress != nil && e.size != size {
		o.Progress = func(done int64) { progress(min(done, size)) }
	}
	return e, nil
}

func (e *encoder) setParent(o *formats.EncodeOptions) error {
	if o.Base == nil && o.Parent == nil {
		return nil
	}
	switch {
	case o.Base == nil:
		return encUnsupported("backing file name", "a parent without a base disk")
	case o.Parent == nil || len(o.Parent.Names) == 0:
		return encUnsupported("backing file name", "none")
	}
	e.parent, e.parentIs = o.Parent.Names[0], o.Parent.Format
	switch {
	case e.parent == "" || len(e.parent) > maxBackingName || strings.ContainsRune(e.parent, 0):
		return encUnsupported("backing file name", "%q", e.parent)
	case isProtocol(e.parent):
		return encUnsupported("backing file name", "%q, which readers take for a protocol", e.parent)
	case e.parentIs == "" || len(e.parentIs) > encMaxFormat || strings.ContainsRune(e.parentIs, 0):
		return encUnsupported("backing file format", "%q", e.parentIs)
	}
	return nil
}

// isProtocol reports whether qemu opens name as something else than a file:
// nbd:, json:, fd: and the like have no slash before the colon. A drive of
// Windows is none.
func isProtocol(name string) bool {
	head, rest, found := strings.Cut(name, ":")
	drive := len(head) == 1 && (strings.HasPrefix(rest, `\`) || strings.HasPrefix(rest, "/"))
	return found && !strings.Contains(head, "/") && !drive
}

// emit stores a cluster, and its entry in the L2 table.
func (e *encoder) emit(u *formats.Unit) error {
	per := e.cluster / 8 // entries of an L2 table
	if i := u.Index / per; i != e.l2Index {
		if err := e.putL2(); err != nil {
			return err
		}
		e.l2Index = i
	}
	entry, err := e.store(u.Out)
	if err != nil {
		return err
	}
	binary.BigEndian.PutUint64(e.l2[u.Index%per*8:], entry)
	return nil
}

// store appends the data of a cluster, compressed if it is shorter, and returns
// its L2 entry. nil is a cluster of zeros.
func (e *encoder) store(data []byte) (entry uint64, err error) {
	switch {
	case data == nil && e.version >= 3:
		return encZero, nil
	case data != nil && int64(len(data)) < e.cluster:
		at, err := e.pack(int64(len(data)))
		if err != nil {
			return 0, err
		}
		return compressedEntry(at, len(data), e.cluster), e.write(data, at)
	}
	at, err := e.take(1)
	if err != nil || data == nil { // bytes that are not written are zero
		return uint64(at) | encCopied, err
	}
	return uint64(at) | encCopied, e.write(data, at)
}

// compressedEntry returns the L2 entry of n compressed bytes at file offset at.
// With x = 62 - (cluster bits - 8): bits 0 to x-1 are the offset in bytes, bits x
// to 61 the number of 512-byte sectors that are touched behind the first.
func compressedEntry(at int64, n int, cluster int64) uint64 {
	x := compressedShift(cluster)
	more := (at+int64(n)-1)/sectorSize - at/sectorSize
	return encCompressed | uint64(more)<<x | uint64(at)
}

func compressedShift(cluster int64) int { return 62 - (bits.TrailingZeros64(uint64(cluster)) - 8) }

// putL2 appends the L2 table, and makes it empty.
func (e *encoder) putL2() error {
	if e.l2Index < 0 {
		return nil
	}
	at, err := e.take(1)
	if err != nil {
		return err
	}
	binary.BigEndian.PutUint64(e.l1[8*e.l2Index:], uint64(at)|encCopied)
	err = e.write(e.l2, at)
	clear(e.l2)
	return err
}

// finish writes all that is known only now.
func (e *encoder) finish() error {
	if err := e.putL2(); err != nil {
		return err
	}
	table, clusters, err := e.putRefcounts()
	if err != nil {
		return err
	}
	header, err := e.header(table, clusters)
	if err != nil {
		return err
	}
	if err := e.write(e.l1, e.l1At); err != nil {
		return err
	}
	if err := e.flush(); err != nil {
		return err
	}
	if err := e.out.Truncate(e.next * e.cluster); err != nil {
		return err
	}
	return writeFull(e.out, header, 0)
}

// header returns the header, its extensions and the parent's name, for a
// refcount table of so many clusters at file offset table.
func (e *encoder) header(table, clusters int64) ([]byte, error) {
	be := binary.BigEndian
	b := append(make([]byte, 0, 1024), magic...)
	b = be.AppendUint32(b, e.version)
	b = be.AppendUint64(b, 0) // 8, u64: file offset of the parent's name, below
	b = be.AppendUint32(b, uint32(len(e.parent)))
	b = be.AppendUint32(b, uint32(bits.TrailingZeros64(uint64(e.cluster))))
	b = be.AppendUint64(b, uint64(e.size)) // 24, u64: guest bytes
	b = be.AppendUint32(b, 0)              // 32, u32: encryption; 0: none
	b = be.AppendUint32(b, uint32(len(e.l1)/8))
	b = be.AppendUint64(b, uint64(e.l1At))
	b = be.AppendUint64(b, uint64(table))    // 48, u64: file offset of the refcount table
	b = be.AppendUint32(b, uint32(clusters)) // 56, u32: clusters of the refcount table
	b = be.AppendUint32(b, 0)                // 60, u32: number of snapshots
	b = be.AppendUint64(b, 0)                // 64, u64: file offset of the snapshot table
	if e.version >= 3 {
		var incompatible uint64
		length := uint32(headerV3)
		if e.compression == encZstd {
			incompatible, length = 1<<3, headerV3+8 // bit 3: the compression type is not deflate
		}
		b = be.AppendUint64(b, incompatible)
		b = be.AppendUint64(b, 0) // 80, u64: compatible features
		b = be.AppendUint64(b, 0) // 88, u64: autoclear features
		b = be.AppendUint32(b, 4) // 96, u32: refcounts have 2^4 bits
		b = be.AppendUint32(b, length)
		if e.compression == encZstd {
			b = append(b, 1, 0, 0, 0, 0, 0, 0, 0) // 104, u8: compression type, 1: zstd; padding
		}
	}
	if e.parent != "" {
		b = appendExtension(b, 0xe2792aca, []byte(e.parentIs))
	}
	// What unknown features are called helps people only: it may be left out.
	const end = 8 // bytes of the extension that ends the list
	if n := int64(len(b)+8+len(encFeatures)*featureSize+end) + int64(len(e.parent)); e.version >= 3 && n <= e.cluster {
		b = appendExtension(b, 0x6803f857, featureTable())
	}
	b = appendExtension(b, 0, nil)
	if e.parent != "" {
		be.PutUint64(b[8:], uint64(len(b)))
		b = append(b, e.parent...)
	}
	if int64(len(b)) > e.cluster {
		return nil, encUnsupported("backing file name", "%d bytes do not fit into a cluster of %d", len(e.parent), e.cluster)
	}
	return b, nil
}

// appendExtension appends a header extension: u32 type, u32 length, data, filled
// up to 8 bytes.
func appendExtension(b []byte, kind uint32, data []byte) []byte {
	b = binary.BigEndian.AppendUint32(b, kind)
	b = binary.BigEndian.AppendUint32(b, uint32(len(data)))
	b = append(b, data...)
	return append(b, make([]byte, -len(data)&7)...)
}

// featureSize is the bytes of an entry of the feature name table: u8 type (0
// incompatible, 1 compatible, 2 autoclear), u8 bit, 46 bytes of name, filled up
// with zeros.
const featureSize = 48

var encFeatures = []struct {
	kind, bit byte
	name      string
}{
	{0, 0, "dirty bit"},
	{0, 1, "corrupt bit"},
	{0, 2, "external data file"},
	{0, 3, "compression type"},
	{0, 4, "extended L2 entries"},
	{1, 0, "lazy refcounts"},
	{2, 0, "bitmaps"},
	{2, 1, "raw external data"},
}

func featureTable() []byte {
	b := make([]byte, featureSize*len(encFeatures))
	for i, f := range encFeatures {
		x := b[featureSize*i:]
		x[0], x[1] = f.kind, f.bit
		copy(x[2:featureSize], f.name)
	}
	return b
}
