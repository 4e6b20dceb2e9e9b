package vhdx

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"strings"
	"unicode/utf16"

	"tarvm/formats"
	"tarvm/formats/internal/parse"
)

// Where a written file has its structures.
const (
	logAt      = 1 * mib
	logLen     = 1 * mib
	metadataAt = 2 * mib
	batAt      = 3 * mib

	// itemsAt is where items begin in the metadata region.
	itemsAt = 64 << 10

	// defaultBlock is what Hyper-V takes for disks without a parent, and
	// defaultDiff for those with one.
	defaultBlock = 32 * mib
	defaultDiff  = 2 * mib

	// readUnit is in what pieces the disk is read: those that are zero are not
	// written. A large block costs a sparse file no more than a small one.
	readUnit = 256 << 10
	// diffUnit is in what pieces a disk is compared with its parent.
	diffUnit = 64 << 10

	writtenSector   = 512
	writtenPhysical = 4096
	creator         = "tarvm"
)

// Subformats implements formats.Encoder.
func (Format) Subformats() []string { return []string{"dynamic", "fixed", "differencing"} }

// Streams implements formats.Encoder: the BAT comes before the blocks, and is
// known after them.
func (Format) Streams(*formats.EncodeOptions) bool { return false }

// Encode implements formats.Encoder. Unit is the block, 1 to 256 MiB, by default
// 32 MiB, and 2 MiB with a Base. A Base makes the image differencing, and needs a
// Parent with the ID that this package gives an image and at least one name. A
// disk whose size is not a multiple of 512 bytes is filled up with zeros.
//
// Blocks follow each other in the order of the disk. Of a block only what is not
// zero is written; the rest is a gap in the output, which is as long as the
// blocks make it. In a fixed image all blocks have a place.
func (Format) Encode(ctx context.Context, out formats.Outputs, d formats.Disk, o formats.EncodeOptions) error {
	w, err := newWriter(out.Main, d, &o)
	if err != nil {
		return err
	}
	unit := int64(readUnit)
	if w.meta.hasParent {
		unit = diffUnit
	}
	if err := formats.Units(ctx, d, unit, &o, nil, func(u *formats.Unit) error {
		return w.put(u.Index*unit, unit, u.Data)
	}); err != nil {
		return err
	}
	return w.finish()
}

// A writer makes an image, block by block.
type writer struct {
	out  formats.Output
	o    *formats.EncodeOptions
	meta metadata
	// next is where in the file the next block goes.
	next int64
	// done is how many payload blocks have their BAT entry, or none.
	done int64
	// place is the file offset of block done-1, the only one that is written to.
	place int64

	bat     []byte // entries from number batFrom on
	batFrom int64

	// Of a differencing image: the bitmap of the chunk that block done-1 is in,
	// and its file offset; 0: it has none yet.
	bitmap   []byte
	bitmapAt int64
	// present is how many sectors block done-1 has.
	present int64
}

// batPage is how many bytes of the BAT are written at a time.
const batPage = 64 << 10

func newWriter(out formats.Output, d formats.Disk, o *formats.EncodeOptions) (*writer, error) {
	m := parse.Image{Format: Name}
	refuse := func(structure, format string, args ...any) (*writer, error) {
		return nil, m.Unsupported(structure, -1, format, args...)
	}
	w := &writer{out: out, o: o, meta: metadata{
		size: (d.Size() + writtenSector - 1) / writtenSector * writtenSector, sector: writtenSector, physical: writtenPhysical, block: defaultBlock,
	}}
	switch o.Subformat {
	case "":
		w.meta.hasParent = o.Base != nil
	case "dynamic":
	case "fixed":
		w.meta.leave = true
	case "differencing":
		w.meta.hasParent = true
	default:
		return refuse("subformat", "%q", o.Subformat)
	}
	if w.meta.hasParent != (o.Base != nil) {
		return refuse("subformat", "%s and its parent: only a differencing image has one, and must have it",
			w.meta.subformat())
	}
	if w.meta.hasParent {
		w.meta.block = defaultDiff
		if err := w.nameParent(m, o.Parent); err != nil {
			return nil, err
		}
	}
	if o.Compression != "" && o.Compression != "none" {
		return refuse("compression", "%q", o.Compression)
	}
	if o.Unit != 0 {
		w.meta.block = o.Unit
	}
	if b := w.meta.block; !parse.PowerOfTwo(b) || b < mib || b > 256*mib {
		return refuse("block size", "%d bytes; a power of two from 1 to 256 MiB is wanted", b)
	}
	if w.meta.size > maxDisk {
		return refuse("disk size", "%d bytes; the format holds up to 64 TiB", w.meta.size)
	}
	w.next = batAt + max(mib, (8*w.entries()+mib-1)/mib*mib)
	return w, nil
}

// entries is the number of BAT entries.
func (w *writer) entries() int64 {
	blocks, ratio := w.meta.blocks(), w.meta.ratio()
	if w.meta.hasParent {
		return (blocks + ratio - 1) / ratio * (ratio + 1)
	}
	return blocks + max(blocks-1, 0)/ratio
}

// nameParent fills the locator.
func (w *writer) nameParent(m parse.Image, p *formats.ParentRef) error {
	if p == nil || len(p.Names) == 0 || p.ID == "" {
		return m.Unsupported("parent", -1, "a parent without a name or an ID")
	}
	if p.Format != "" && p.Format != Name {
		return m.Unsupported("parent", -1, "of the format %s", p.Format)
	}
	l := &w.meta.parent
	if !isGUID(p.ID) {
		return m.Unsupported("parent", -1, "ID %q, which is no GUID", p.ID)
	}
	l.linkage = "{" + strings.ToLower(p.ID) + "}"
	for _, name := range p.Names {
		into := &l.relative
		switch {
		case strings.HasPrefix(name, `\\?\Volume{`):
			into = &l.volume
		case strings.HasPrefix(name, `\\`):
			into = &l.absolute
		case len(name) > 2 && name[1] == ':' && name[2] == '\\':
			into, name = &l.absolute, `\\?\`+name
		default:
			name = strings.ReplaceAll(name, "/", `\`)
		}
		if len(utf16.Encode([]rune(name))) > 1<<15-1 {
			return m.Unsupported("parent", -1, "a name of %d bytes", len(name))
		}
		if *into == "" {
			*into = name
		}
	}
	return nil
}

// isGUID reports whether s has the form of guid.String.
func isGUID(s string) bool {
	if len(s) != 36 {
		return false
	}
	for i, c := range []byte(strings.ToLower(s)) {
		if dash := i == 8 || i == 13 || i == 18 || i == 23; dash != (c == '-') ||
			!dash && !strings.ContainsRune("0123456789abcdef", rune(c)) {
			return false
		}
	}
	return true
}

// put stores n bytes of the disk at off, of which data is nil when all are zero.
// Calls come in the order of the disk.
func (w *writer) put(off, n int64, data []byte) error {
	block := off / w.meta.block
	if block >= w.done {
		if err := w.skipTo(block); err != nil {
			return err
		}
		if err := w.begin(); err != nil {
			return err
		}
	}
	within := off - block*w.meta.block
	if w.meta.hasParent {
		w.mark(block, within, min(n, w.meta.size-off))
	}
	if data == nil {
		return nil
	}
	_, err := w.out.WriteAt(data, w.place+within)
	return err
}

// skipTo ends the block being written, and gives entries to those before block.
func (w *writer) skipTo(block int64) error {
	if err := w.endBlock(); err != nil {
		return err
	}
	ratio := w.meta.ratio()
	for w.done < block {
		if w.meta.leave {
			if err := w.begin(); err != nil {
				return err
			}
			continue
		}
		// To the end of the chunk, or to block: these have no entries.
		if err := w.endChunk(w.done); err != nil {
			return err
		}
		w.done = min(block, (w.done/ratio+1)*ratio)
	}
	return w.endChunk(w.done)
}

// begin gives block number done its place.
func (w *writer) begin() error {
	w.place = w.next
	w.next += w.meta.block
	w.present = 0
	if w.meta.hasParent {
		if w.bitmapAt == 0 {
			w.bitmap = make([]byte, mib)
			w.bitmapAt = w.next
			w.next += mib
		}
		w.done++
		return nil
	}
	i := w.done + w.done/w.meta.ratio()
	w.done++
	return w.entry(i, uint64(w.place)|fullyPresent)
}

// mark sets the bits of n bytes, whole sectors, at within of a block.
func (w *writer) mark(block, within, n int64) {
	first := (block%w.meta.ratio()*w.meta.block + within) / w.meta.sector
	for i := first; i < first+n/w.meta.sector; i++ {
		w.bitmap[i/8] |= 1 << (i % 8)
	}
	w.present += n / w.meta.sector
}

// endBlock writes the BAT entry of block done-1 of a differencing image, if it
// has a place.
func (w *writer) endBlock() error {
	if !w.meta.hasParent || w.place == 0 {
		return nil
	}
	block := w.done - 1
	state := uint64(partly)
	if w.present*w.meta.sector == min(w.meta.block, w.meta.size-block*w.meta.block) {
		state = fullyPresent
	}
	place := w.place
	w.place = 0
	return w.entry(block+block/w.meta.ratio(), uint64(place)|state)
}

// endChunk writes the sector bitmap block and its entry when block is the first
// of a chunk.
func (w *writer) endChunk(block int64) error {
	if w.bitmapAt == 0 || block%w.meta.ratio() != 0 {
		return nil
	}
	return w.flushBitmap(block/w.meta.ratio() - 1)
}

func (w *writer) flushBitmap(chunk int64) error {
	if w.bitmapAt == 0 {
		return nil
	}
	at := w.bitmapAt
	w.bitmapAt = 0
	if _, err := w.out.WriteAt(w.bitmap, at); err != nil {
		return err
	}
	ratio := w.meta.ratio()
	return w.entry(chunk*(ratio+1)+ratio, uint64(at)|fullyPresent)
}

// entry sets BAT entry i. Calls come in the order of the table.
func (w *writer) entry(i int64, v uint64) error {
	const per = batPage / 8
	if from := i / per * per; w.bat == nil || from != w.batFrom {
		if err := w.flushBAT(); err != nil {
			return err
		}
		w.bat, w.batFrom = make([]byte, batPage), from
	}
	binary.LittleEndian.PutUint64(w.bat[8*(i-w.batFrom):], v)
	return nil
}

func (w *writer) flushBAT() error {
	if w.bat == nil {
		return nil
	}
	_, err := w.out.WriteAt(w.bat, batAt+8*w.batFrom)
	return err
}

// finish writes all but the blocks. What makes the file an image comes last.
func (w *writer) finish() error {
	blocks, ratio := w.meta.blocks(), w.meta.ratio()
	if err := w.skipTo(blocks); err != nil {
		return err
	}
	if err := w.flushBitmap(max(blocks-1, 0) / ratio); err != nil {
		return err
	}
	if err := w.flushBAT(); err != nil {
		return err
	}
	if err := w.out.Truncate(w.next); err != nil {
		return err
	}
	table := w.regionTable()
	for _, p := range []struct {
		at int64
		b  []byte
	}{
		{metadataAt, w.metadata()},
		{regionAt[0], table}, {regionAt[1], table},
		{headerAt[0], w.header(1)}, {headerAt[1], w.header(2)},
		{0, fileType()},
	} {
		if _, err := w.out.WriteAt(p.b, p.at); err != nil {
			return err
		}
	}
	return nil
}

// fileType is the file type identifier, 2.2.1: signature, then the creator.
func fileType() []byte {
	b := make([]byte, creatorAt+creatorLen)
	copy(b, signature)
	putUTF16(b[creatorAt:], creator)
	return b
}

func (w *writer) header(sequence uint64) []byte {
	le := binary.LittleEndian
	b := make([]byte, headerLen)
	copy(b, "head")
	le.PutUint64(b[8:], sequence)
	for i, name := range []string{"file write", "data write"} {
		g := makeID(w.o.ID, name)
		copy(b[16+16*i:], g[:])
	}
	le.PutUint16(b[66:], 1)
	le.PutUint32(b[68:], logLen)
	le.PutUint64(b[72:], logAt)
	le.PutUint32(b[4:], sum(b))
	return b
}

func (w *writer) regionTable() []byte {
	le := binary.LittleEndian
	b := make([]byte, tableLen)
	copy(b, "regi")
	regions := []struct {
		id     guid
		at     uint64
		length int64
	}{
		{regionBAT, batAt, max(mib, (8*w.entries()+mib-1)/mib*mib)},
		{regionMetadata, metadataAt, mib},
	}
	le.PutUint32(b[8:], uint32(len(regions)))
	for i, r := range regions {
		e := b[16+entryLen*i:]
		copy(e, r.id[:])
		le.PutUint64(e[16:], r.at)
		le.PutUint32(e[24:], uint32(r.length))
		le.PutUint32(e[28:], 1)
	}
	le.PutUint32(b[4:], sum(b))
	return b
}

// metadata makes the metadata region: the table, and the items behind it.
func (w *writer) metadata() []byte {
	le := binary.LittleEndian
	m := &w.meta
	b := make([]byte, mib)
	copy(b, "metadata")
	at, count := itemsAt, 0
	add := func(id guid, flags uint32, item []byte) {
		e := b[32+entryLen*count:]
		copy(e, id[:])
		le.PutUint32(e[16:], uint32(at))
		le.PutUint32(e[20:], uint32(len(item)))
		le.PutUint32(e[24:], flags)
		copy(b[at:], item)
		at += (len(item) + 7) / 8 * 8
		count++
	}
	var flags uint32
	if m.leave {
		flags |= 1
	}
	if m.hasParent {
		flags |= 2
	}
	id := makeID(w.o.ID, "virtual disk")
	add(itemFileParameters, flagRequired, le.AppendUint32(le.AppendUint32(nil, uint32(m.block)), flags))
	add(itemDiskSize, flagRequired|flagDisk, le.AppendUint64(nil, uint64(m.size)))
	add(itemPage83, flagRequired|flagDisk, id[:])
	add(itemLogicalSector, flagRequired|flagDisk, le.AppendUint32(nil, uint32(m.sector)))
	add(itemPhysicalSector, flagRequired|flagDisk, le.AppendUint32(nil, uint32(m.physical)))
	if m.hasParent {
		add(itemParentLocator, flagRequired, m.parent.encode())
	}
	le.PutUint16(b[10:], uint16(count))
	return b
}

// encode is the inverse of parseLocator.
func (l *locator) encode() []byte {
	le := binary.LittleEndian
	var pairs [][2]string
	for _, p := range [][2]string{
		{"parent_linkage", l.linkage}, {"relative_path", l.relative},
		{"volume_path", l.volume}, {"absolute_win32_path", l.absolute},
	} {
		if p[1] != "" {
			pairs = append(pairs, p)
		}
	}
	b := make([]byte, 20+12*len(pairs))
	copy(b, locatorVHDX[:])
	le.PutUint16(b[18:], uint16(len(pairs)))
	for i, p := range pairs {
		for k, s := range p {
			u := utf16.Encode([]rune(s))
			le.PutUint32(b[20+12*i+4*k:], uint32(len(b)))
			le.PutUint16(b[20+12*i+8+2*k:], uint16(2*len(u)))
			for _, c := range u {
				b = le.AppendUint16(b, c)
			}
		}
	}
	return b
}

func putUTF16(b []byte, s string) {
	for i, c := range utf16.Encode([]rune(s)) {
		binary.LittleEndian.PutUint16(b[2*i:], c)
	}
}

// makeID makes a GUID of version 4 out of an image's ID and what it is for.
func makeID(id [16]byte, use string) guid {
	h := sha256.Sum256(fmt.Appendf(nil, "vhdx %s %x", use, id))
	g := guid(h[:16])
	g[7] = g[7]&0x0f | 0x40
	g[8] = g[8]&0x3f | 0x80
	return g
}
