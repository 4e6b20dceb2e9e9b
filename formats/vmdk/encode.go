package vmdk

import (
	"context"
	"fmt"
	"math"
	"math/bits"
	"runtime"
	"slices"
	"strconv"
	"strings"

	"tarvm/formats"
)

// What Encode writes, in the words of createType.
const (
	monolithicSparse     = "monolithicSparse"     // one file that grows
	streamOptimized      = "streamOptimized"      // one file, compressed, front to back
	twoGbMaxExtentSparse = "twoGbMaxExtentSparse" // a descriptor, and sparse extents of 2047 MiB
	monolithicFlat       = "monolithicFlat"       // a descriptor and a raw disk
	vmfs                 = "vmfs"                 // the same as ESXi names it
)

const (
	grainBytes    = 64 << 10 // what VMware writes, and the only grain that ESXi takes in a stream
	minGrainBytes = 8 << 10  // "Virtual Disk Format 5.0": more than 8 sectors, which libvmdk demands
	maxGrainBytes = 1 << 20  // the largest that 2047 MiB are a multiple of

	// A file of 2047 MiB of data and its tables is below 2 GiB when the tables
	// take less than 1 MiB; smaller grains have more.
	splitSectors  Sectors = 2047 << 20 / sector
	minSplitGrain         = 32 << 10

	tableEntries = 512                       // of a grain table, as every writer has it
	tableSectors = tableEntries * 4 / sector //

	// QEMU's limit of a directory; 1 PiB with the usual grain. All tables, twice,
	// are then 128 GiB, which u32 sectors reach.
	maxTables = 32 << 20

	maxName = 511  // bytes of an extent's name, as QEMU reads it
	maxHint = 1023 // bytes of a parent's name, likewise
)

var _ formats.Encoder = Format{}

// Subformats implements formats.Encoder.
func (Format) Subformats() []string {
	return []string{monolithicSparse, streamOptimized, twoGbMaxExtentSparse, monolithicFlat, vmfs}
}

// Streams implements formats.Encoder: streamOptimized does.
func (Format) Streams(o *formats.EncodeOptions) bool { return o.Subformat == streamOptimized }

// Encode implements formats.Encoder. The disk is rounded up to a sector, and an
// empty one is written as one sector, because readers take a capacity of 0 for a
// file without data; what is added is zero.
//
// Unit is the grain of monolithicSparse, a power of two from 8 KiB to 1 MiB, and
// of twoGbMaxExtentSparse, from 32 KiB to 1 MiB. Level is that of streamOptimized,
// which is always compressed; nothing else is. The content id is made of the last
// four bytes of ID, ddb.uuid.image is ID in its canonical form; an ID of zeros
// leaves out the UUIDs.
//
// With a Base the image is a delta link, which monolithicSparse, streamOptimized
// and twoGbMaxExtentSparse can be. Parent must then have a name, and as ID the
// parent's content id.
//
// Files made by out.Create are named after out.Name: disk-s001.vmdk and so on,
// or disk-flat.vmdk, for disk.vmdk.
func (Format) Encode(ctx context.Context, out formats.Outputs, d formats.Disk, o formats.EncodeOptions) error {
	e, err := newEncoding(out, d, o)
	if err != nil {
		return err
	}
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	switch e.subformat {
	case streamOptimized:
		return e.stream(ctx)
	case monolithicSparse:
		return e.sparse(ctx)
	case twoGbMaxExtentSparse:
		return e.split(ctx)
	}
	return e.flat(ctx)
}

// An encoding is one call of Encode, whose options were checked.
type encoding struct {
	out formats.Outputs
	d   formats.Disk
	o   formats.EncodeOptions

	subformat string
	capacity  Sectors
	grain     Sectors
	name      string // of Main, as the descriptor says it
	cid       uint32
	parentCID uint32
	hint      string
}

// unsupported makes the error for an option that VMDK cannot express.
func unsupported(what, format string, args ...any) error {
	return &formats.FormatError{
		Format: Name, Structure: what, Offset: -1, Got: fmt.Sprintf(format, args...), Err: formats.ErrUnsupported,
	}
}

func newEncoding(out formats.Outputs, d formats.Disk, o formats.EncodeOptions) (*encoding, error) {
	e := &encoding{out: out, d: d, o: o, subformat: o.Subformat, name: out.Name, cid: contentID(o.ID), parentCID: NoCID}
	if e.subformat == "" {
		e.subformat = monolithicSparse
	}
	known := Format{}.Subformats()
	if !slices.Contains(known, e.subformat) {
		return nil, unsupported("subformat", "%s, possible are %s", brief(e.subformat), strings.Join(known, ", "))
	}
	if d.Size() > math.MaxInt64-maxGrainBytes {
		return nil, unsupported("disk size", "%d bytes", d.Size())
	}
	e.capacity = max(1, Sectors((d.Size()+sector-1)/sector))
	if e.o.Workers <= 0 {
		e.o.Workers = runtime.GOMAXPROCS(0)
	}
	for _, check := range []func() error{e.checkCompression, e.checkUnit, e.checkAdapter, e.checkName, e.checkParent} {
		if err := check(); err != nil {
			return nil, err
		}
	}
	return e, nil
}

func (e *encoding) checkCompression() error {
	want := "none"
	if e.subformat == streamOptimized {
		want = "deflate"
	}
	if c := e.o.Compression; c != "" && c != want {
		return unsupported("compression", "%s, %s has %s", brief(c), e.subformat, want)
	}
	if e.o.Level < 0 || e.o.Level > 9 {
		return unsupported("level", "%d, possible are 1 to 9", e.o.Level)
	}
	return nil
}

func (e *encoding) checkUnit() error {
	unit, least, most := e.o.Unit, int64(minGrainBytes), int64(maxGrainBytes)
	switch e.subformat {
	case streamOptimized:
		least, most = grainBytes, grainBytes
	case twoGbMaxExtentSparse:
		least = minSplitGrain
	case monolithicFlat, vmfs:
		if unit != 0 {
			return unsupported("grain size", "%d bytes, %s has no grains", unit, e.subformat)
		}
	}
	if unit == 0 {
		unit = grainBytes
	}
	if unit < least || unit > most || bits.OnesCount64(uint64(unit)) != 1 {
		if least == most {
			return unsupported("grain size", "%d bytes, %s has %d", unit, e.subformat, least)
		}
		return unsupported("grain size", "%d bytes, possible are powers of two from %d to %d", unit, least, most)
	}
	e.grain = Sectors(unit / sector)
	if n := tablesOf(e.capacity, e.grain); n > maxTables && !e.isFlat() {
		return unsupported("disk size", "%d bytes, with grains of %d bytes at most %d",
			e.d.Size(), unit, maxTables*tableEntries*unit)
	}
	return nil
}

func (e *encoding) isFlat() bool { return e.subformat == monolithicFlat || e.subformat == vmfs }

func (e *encoding) checkAdapter() error {
	known := []string{"ide", "buslogic", "lsilogic", "legacyESX"}
	if e.o.Adapter == "" {
		e.o.Adapter = "lsilogic"
	}
	if !slices.Contains(known, e.o.Adapter) {
		return unsupported("adapter", "%s, possible are %s", brief(e.o.Adapter), strings.Join(known, ", "))
	}
	return nil
}

// checkName looks whether the descriptor can name the files. What names the
// file that it is in is of no use to anybody.
func (e *encoding) checkName() error {
	single := e.subformat == streamOptimized || e.subformat == monolithicSparse
	if !single && e.out.Create == nil {
		return unsupported("subformat", "%s takes several files; of one file are %s and %s",
			e.subformat, monolithicSparse, streamOptimized)
	}
	longest := e.extentName("-s00000")
	if e.name == "" || !quotable(longest, maxName) || strings.ContainsAny(longest, `/\`) {
		if !single {
			return unsupported("file name", "%s cannot stand in a descriptor", brief(e.name))
		}
		e.name = "disk.vmdk"
	}
	return nil
}

// extentName is the name of a further file.
func (e *encoding) extentName(suffix string) string {
	const ext = ".vmdk"
	stem := e.name
	if n := len(stem) - len(ext); n > 0 && strings.EqualFold(stem[n:], ext) {
		stem = stem[:n]
	}
	return stem + suffix + ext
}

func (e *encoding) checkParent() error {
	p := e.o.Parent
	switch {
	case p == nil && e.o.Base == nil:
		return nil
	case p == nil:
		return unsupported("parent", "the disk has a base that has no name")
	case e.o.Base == nil:
		return unsupported("parent", "%s, without the disk that it holds", brief(slices.Concat(p.Names, []string{""})[0]))
	case e.isFlat():
		return unsupported("parent", "%s holds the whole disk; delta links are %s, %s and %s",
			e.subformat, monolithicSparse, streamOptimized, twoGbMaxExtentSparse)
	case p.Format != "" && p.Format != Name:
		return unsupported("parent", "the parent of a vmdk is a vmdk, not %s", p.Format)
	case len(p.Names) == 0 || p.Names[0] == "":
		return unsupported("parent", "it has no name")
	case !quotable(p.Names[0], maxHint):
		return unsupported("parent", "the name %s cannot stand in a descriptor", brief(p.Names[0]))
	}
	cid, err := strconv.ParseUint(p.ID, 16, 32)
	if err != nil || cid == NoCID {
		return unsupported("parent", "content id %s, want 8 hexadecimal digits", brief(p.ID))
	}
	// Units compares up to the end of the disk, and behind it are zeros.
	if e.capacity.Bytes() > e.d.Size() && e.o.Base.Size() > e.d.Size() {
		return unsupported("parent", "a disk of %d bytes, not whole sectors, on one of %d", e.d.Size(), e.o.Base.Size())
	}
	e.hint, e.parentCID = p.Names[0], uint32(cid)
	return nil
}

// units passes what must be stored on to emit: see formats.Units.
func (e *encoding) units(
	ctx context.Context, work func(worker int, u *formats.Unit) error, emit func(u *formats.Unit) error,
) error {
	return formats.Units(ctx, e.d, e.grain.Bytes(), &e.o, work, emit)
}

// flat writes the disk as it is, and the descriptor.
func (e *encoding) flat(ctx context.Context) error {
	name := e.extentName("-flat")
	f, err := e.out.Create(name)
	if err != nil {
		return err
	}
	size := e.capacity.Bytes()
	err = e.units(ctx, nil, func(u *formats.Unit) error {
		off := u.Index * e.grain.Bytes()
		_, err := f.WriteAt(u.Data[:min(int64(len(u.Data)), size-off)], off)
		return err
	})
	if err != nil {
		return err
	}
	if err := f.Truncate(size); err != nil {
		return err
	}
	line := Extent{Access: "RW", Sectors: e.capacity, Type: "FLAT", File: name}
	if e.subformat == vmfs {
		line.Type = "VMFS"
	}
	return e.writeDescriptor([]Extent{line})
}

// writeDescriptor makes Main the descriptor.
func (e *encoding) writeDescriptor(lines []Extent) error {
	text := e.descriptor(lines)
	if _, err := e.out.Main.WriteAt(text, 0); err != nil {
		return err
	}
	return e.out.Main.Truncate(int64(len(text)))
}
