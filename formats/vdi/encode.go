package vdi

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"strings"

	"tarvm/formats"
	"tarvm/formats/internal/parse"
)

// What VirtualBox writes, and writes only.
const (
	writtenText = "<<< Oracle VM VirtualBox Disk Image >>>\n"
	align       = 1 << 20 // of the map and of the first block
	defaultUnit = 1 << 20 // qemu and 7-Zip read no other
	minUnit     = 512 << 10
	maxUnit     = 8 << 20
	// maxBlocks is qemu's limit: its map has to fit in 2 GiB.
	maxBlocks = 0x1fffffff
)

// mapPage is how many bytes of the map are written at a time.
const mapPage = 64 << 10

// Subformats implements formats.Encoder.
func (Format) Subformats() []string { return []string{"dynamic", "fixed", "differencing"} }

// Streams implements formats.Encoder: a fixed image is written front to back.
func (Format) Streams(o *formats.EncodeOptions) bool {
	return o.Subformat == "fixed" && o.Parent == nil
}

// Encode implements formats.Encoder. Blocks lie in the order of the guest. The
// disk is filled up to whole sectors of 512 bytes, because VirtualBox leaves out
// what is beyond them. With a Parent the image is a differencing one, and the
// Parent's ID is needed; what is equal to o.Base is left out, and without a Base
// everything is stored, so that nothing of the parent shows through.
//
// An image made with Base and Parent is to be opened above that parent only.
// o.Unit is a power of two from 512 KiB to 8 MiB; qemu opens 1 MiB only.
func (Format) Encode(ctx context.Context, out formats.Outputs, d formats.Disk, o formats.EncodeOptions) error {
	h, err := plan(d.Size(), &o)
	if err != nil {
		return err
	}
	w := &writer{header: h, out: out.Main, fill: entryFree}
	if o.Parent != nil && o.Base == nil {
		w.fill = entryZero
	}
	if h.kind == typeFixed {
		return w.fixed(ctx, d, &o)
	}
	return w.dynamic(ctx, d, &o)
}

func refuse(structure, format string, args ...any) error {
	return &formats.FormatError{
		Format: Name, Structure: structure, Offset: -1, Got: fmt.Sprintf(format, args...), Err: formats.ErrUnsupported,
	}
}

// plan makes the header of an image of a disk of size bytes, without blocks.
func plan(size int64, o *formats.EncodeOptions) (*header, error) {
	h := &header{
		text: writtenText, version: version1_1, headerSize: headerPlusEnd - offHeaderSize,
		size: (size + sector - 1) &^ (sector - 1), block: o.Unit, hasLCHS: true,
	}
	if h.block == 0 {
		h.block = defaultUnit
	}
	sub := o.Subformat
	if sub == "" {
		sub = "dynamic"
		if o.Parent != nil {
			sub = "differencing"
		}
	}
	switch sub {
	case "dynamic":
		h.kind = typeDynamic
	case "fixed":
		h.kind = typeFixed
	case "differencing":
		h.kind = typeDifferencing
	default:
		return nil, refuse("subformat", "%q", sub)
	}
	switch {
	case size < 0 || h.size < size:
		return nil, refuse("disk size", "%d", size)
	case o.Compression != "" && o.Compression != "none":
		return nil, refuse("compression", "%q", o.Compression)
	case !parse.PowerOfTwo(h.block) || h.block < minUnit || h.block > maxUnit:
		return nil, refuse("block size", "%d, want a power of two from %d to %d", h.block, minUnit, maxUnit)
	case (h.size-1)/h.block >= maxBlocks:
		return nil, refuse("disk size", "%d in blocks of %d, limit %d blocks", size, h.block, maxBlocks)
	case o.Base != nil && o.Parent == nil:
		return nil, refuse("parent", "a base that is not named")
	case h.child() != (o.Parent != nil):
		return nil, refuse("subformat", "%s, with parent: %t", sub, o.Parent != nil)
	}
	if o.Parent != nil {
		if o.Parent.Format != "" && o.Parent.Format != Name {
			return nil, refuse("parent", "of format %q", o.Parent.Format)
		}
		var err error
		if h.link, h.parentModify, err = parsePair(o.Parent.ID); err != nil {
			return nil, refuse("parent", "ID %q: %v", o.Parent.ID, err)
		}
	}
	h.blocks = (h.size + h.block - 1) / h.block
	h.table = align
	h.data = (h.table + 4*h.blocks + align - 1) &^ (align - 1)
	h.create, h.modify = random(o.ID[:]), random([]byte("VDI modification"), o.ID[:])
	h.lchs = geometry(h.size / sector)
	return h, nil
}

func parsePair(id string) (image, modify uuid, err error) {
	a, b, ok := strings.Cut(id, "/")
	if !ok {
		return image, modify, errors.New("not two UUIDs")
	}
	if image, err = parseUUID(a); err == nil {
		modify, err = parseUUID(b)
	}
	if err == nil && image == (uuid{}) {
		err = errors.New("a UUID of zeros")
	}
	return image, modify, err
}

// random makes a UUID of version 4, RFC 4122, that depends on seed alone. A seed
// of 16 bytes is kept as far as the form allows.
func random(seed ...[]byte) uuid {
	b := bytes.Join(seed, nil)
	if len(b) != 16 {
		sum := sha256.Sum256(b)
		b = sum[:16]
	}
	u := uuid(b)
	u[6] = u[6]&0x0f | 0x40
	u[8] = u[8]&0x3f | 0x80
	return u.swapped()
}

// geometry is what a BIOS makes of a disk by the LBA-assisted method.
func geometry(sectors int64) [4]uint32 {
	const perTrack = 63
	heads := int64(16)
	for heads < 128 && sectors > 1024*heads*perTrack {
		heads *= 2
	}
	if sectors > 1024*heads*perTrack {
		heads = 255
	}
	return [4]uint32{uint32(min(sectors/(heads*perTrack), 1024)), uint32(heads), perTrack, sector}
}

type writer struct {
	*header
	out  formats.Output
	fill uint32 // entries of what is not stored

	page  [mapPage]byte
	first int64 // entry at the start of page
}

// fixed writes front to back: the map first, all blocks there.
func (w *writer) fixed(ctx context.Context, d formats.Disk, o *formats.EncodeOptions) error {
	w.allocated = w.blocks
	if err := w.writeHeader(); err != nil {
		return err
	}
	w.clearPage()
	for k := range w.blocks {
		if err := w.set(ctx, k, uint32(k)); err != nil {
			return err
		}
	}
	if err := w.endMap(ctx); err != nil {
		return err
	}
	err := formats.Units(ctx, d, w.block, o, nil, func(u *formats.Unit) error {
		return w.write(u.Data, w.data+u.Index*w.block)
	})
	if err != nil {
		return err
	}
	return w.out.Truncate(w.data + w.blocks*w.block)
}

// dynamic writes blocks as they come, pages of the map when they are done, and
// the header, without which it is no image, at the end.
func (w *writer) dynamic(ctx context.Context, d formats.Disk, o *formats.EncodeOptions) error {
	w.clearPage()
	err := formats.Units(ctx, d, w.block, o, nil, func(u *formats.Unit) error {
		if u.Data == nil {
			return w.set(ctx, u.Index, entryZero)
		}
		if err := w.write(u.Data, w.data+w.allocated*w.block); err != nil {
			return err
		}
		w.allocated++
		return w.set(ctx, u.Index, uint32(w.allocated-1))
	})
	if err != nil {
		return err
	}
	if err := w.endMap(ctx); err != nil {
		return err
	}
	if err := w.out.Truncate(w.data + w.allocated*w.block); err != nil {
		return err
	}
	return w.writeHeader()
}

func (w *writer) write(b []byte, off int64) error {
	_, err := w.out.WriteAt(b, off)
	return err
}

// set stores entry k. Entries come in order; what is left out is filled.
func (w *writer) set(ctx context.Context, k int64, v uint32) error {
	if err := w.flushUpTo(ctx, k); err != nil {
		return err
	}
	binary.LittleEndian.PutUint32(w.page[4*(k-w.first):], v)
	return nil
}

// flushUpTo writes pages until the one at hand holds entry k.
func (w *writer) flushUpTo(ctx context.Context, k int64) error {
	const per = mapPage / 4
	for k >= w.first+per {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		if err := w.write(w.page[:], w.table+4*w.first); err != nil {
			return err
		}
		w.first += per
		w.clearPage()
	}
	return nil
}

func (w *writer) endMap(ctx context.Context) error {
	if w.blocks == 0 {
		return nil
	}
	if err := w.flushUpTo(ctx, w.blocks-1); err != nil {
		return err
	}
	return w.write(w.page[:4*(w.blocks-w.first)], w.table+4*w.first)
}

func (w *writer) clearPage() {
	for i := 0; i < mapPage; i += 4 {
		binary.LittleEndian.PutUint32(w.page[i:], w.fill)
	}
}

func (w *writer) writeHeader() error {
	var b [headerPlusEnd]byte
	le := binary.LittleEndian
	put := func(off int, v int64) { le.PutUint32(b[off:], uint32(v)) }
	copy(b[offText:], w.text)
	put(offSignature, signature)
	put(offVersion, int64(w.version))
	put(offHeaderSize, w.headerSize)
	put(offType, int64(w.kind))
	put(offOffBlocks, w.table)
	put(offOffData, w.data)
	put(offLegacy+12, sector)
	le.PutUint64(b[offDiskSize:], uint64(w.size))
	put(offBlockSize, w.block)
	put(offBlocks, w.blocks)
	put(offAllocated, w.allocated)
	copy(b[offCreate:], w.create[:])
	copy(b[offModify:], w.modify[:])
	copy(b[offLink:], w.link[:])
	copy(b[offParentModify:], w.parentModify[:])
	for i, v := range w.lchs {
		put(offLCHS+4*i, int64(v))
	}
	return w.write(b[:], 0)
}
