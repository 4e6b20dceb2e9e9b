package vmdir

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"io"
	"io/fs"
	"path"
	"runtime"
	"strings"

	"golang.org/x/sync/errgroup"

	"tarvm/delta"
	"tarvm/formats"
	"tarvm/formats/vmdk"
	"tarvm/manifest"
)

// Kinds of disks that only this package names.
const (
	formatRaw  = "raw"
	formatISO  = "iso"
	subExtent  = "extent"     // part of a disk, named by a descriptor
	descriptor = "descriptor" // the vmdk package's subformat of text
)

// Content is an open file, as far as recognising it goes.
type Content interface {
	io.ReaderAt
	io.Closer
}

// Recognise sets the hints Role, Format and Subformat, and the grid, of the files among entries, by their names and by what
// they hold. Open opens a file, and may be called by several goroutines at once; where its error is fs.ErrNotExist or
// ErrReplaced, the name alone decides. Other errors are those of open and of what it opened. O.Exclude means nothing here.
func Recognise(ctx context.Context, entries []Entry, open func(e *Entry) (Content, error), o WalkOptions) error {
	g, stop := errgroup.WithContext(ctx)
	g.SetLimit(min(4, runtime.GOMAXPROCS(0)))
	for i := range entries {
		e := &entries[i]
		if e.Type != manifest.File || e.Skipped != "" {
			continue
		}
		_, name := cut(e.Path)
		k := byName(name, e.Size)
		e.Role, e.Format = k.role, k.format
		if !opens(name, e.Size) {
			continue
		}
		if stop.Err() != nil {
			break
		}
		g.Go(func() error { return probe(open, e, o) })
	}
	if err := errors.Join(g.Wait(), ctx.Err()); err != nil {
		return err
	}
	return markExtents(open, entries)
}

// head is a file whose first bytes were read, so that a list of formats costs one read.
type head struct {
	f    io.ReaderAt
	size int64
	b    []byte
}

const headLen = 4 << 10

func (h *head) Size() int64 { return h.size }

func (h *head) ReadAt(p []byte, off int64) (int, error) {
	if off >= 0 && off+int64(len(p)) <= int64(len(h.b)) {
		return copy(p, h.b[off:]), nil
	}
	return h.f.ReadAt(p, off)
}

// probe looks into the file of e.
func probe(open func(e *Entry) (Content, error), e *Entry, o WalkOptions) error {
	f, err := open(e)
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, ErrReplaced) {
		return nil // packing will find out
	}
	if err != nil {
		return err
	}
	defer f.Close()
	b := make([]byte, min(headLen, e.Size))
	n, err := f.ReadAt(b, 0)
	if err != nil && err != io.EOF {
		return err
	}
	return e.recognise(&head{f: f, size: e.Size, b: b[:n]}, o)
}

// recognise decides by content, and leaves what the name said where that says nothing.
func (e *Entry) recognise(src *head, o WalkOptions) error {
	h, err := formats.Probe(src, o.Formats)
	switch {
	case err == nil || errors.Is(err, formats.ErrCorrupt) || errors.Is(err, formats.ErrUnsupported):
		e.Role, e.Format, e.Subformat = manifest.RoleDisk, h.Format, h.Subformat
		if err == nil {
			e.SetGrid(grid(h, e.Size, o.Block))
		}
		return nil
	case errors.Is(err, formats.ErrNotFormat), errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
	default:
		return err
	}
	_, name := cut(e.Path)
	ext := strings.ToLower(path.Ext(name))
	switch {
	case isMemory(src.b):
		e.Role, e.Format = manifest.RoleMemory, ""
	case isConfig(src.b):
		e.Role, e.Format = manifest.RoleConfig, ""
	case ext == ".iso" && isISO(src):
		e.Format = formatISO
	case e.Role == manifest.RoleOther && isPartitioned(src.b, e.Size):
		e.Role, e.Format = manifest.RoleDisk, formatRaw
	case strings.HasSuffix(strings.ToLower(name), "-flat.vmdk"):
		e.Format, e.Subformat = formatRaw, subExtent
	}
	return nil
}

// grid is that on which the guest's data is cut alike in all formats, if the file keeps its alignment.
func grid(h *formats.Header, size, block int64) delta.Grid {
	const page = delta.MinBlock
	g := delta.Grid{Block: block}
	if block <= 0 || size <= block || h.Compressed || h.Grid < 0 || h.Unit <= 0 || h.Unit%page != 0 {
		return g
	}
	switch step := h.Step(); {
	case step%page == 0:
		g.Phase = h.Grid % block
	case step > block && step <= delta.MaxStride:
		// Something short stands between the units, as VHD's bitmaps.
		g.Stride, g.Phase = step, h.Grid%step
	}
	return g
}

// isMemory tells saved states by their first bytes.
func isMemory(b []byte) bool {
	if len(b) < 20 {
		return false
	}
	switch binary.LittleEndian.Uint32(b) {
	case 0xBED2BED0, 0xBED2BED2, 0xBED3BED3, 0xBAD1BAD1: // .vmss, .vmsn
		return true
	}
	for _, magic := range []string{
		"QEVM\x00\x00\x00\x03", // QEMU's migration stream, version 3
		"LibvirtQemudSave", "LibvirtQemudPart",
		"\x7fVirtualBox SavedState V",
		"KDUMP   ", "makedumpfile\x00", // virsh dump --memory-only
	} {
		if bytes.HasPrefix(b, []byte(magic)) {
			return true
		}
	}
	if bytes.HasPrefix(b, []byte("\x7fELF")) { // a core: e_type at 16 is 4, in the byte order at 5
		const core = 4
		if b[5] == 2 {
			return binary.BigEndian.Uint16(b[16:]) == core
		}
		return binary.LittleEndian.Uint16(b[16:]) == core
	}
	return false
}

// isConfig tells XML by its root element.
func isConfig(b []byte) bool {
	b = bytes.TrimPrefix(b, []byte("\xEF\xBB\xBF"))
	for {
		b = bytes.TrimLeft(b, " \t\r\n")
		end := ""
		switch {
		case bytes.HasPrefix(b, []byte("<?")):
			end = "?>"
		case bytes.HasPrefix(b, []byte("<!--")):
			end = "-->"
		case bytes.HasPrefix(b, []byte("<!")):
			end = ">"
		}
		if end == "" {
			break
		}
		i := bytes.Index(b, []byte(end))
		if i < 0 {
			return false
		}
		b = b[i+len(end):]
	}
	if len(b) == 0 || b[0] != '<' {
		return false
	}
	i := bytes.IndexAny(b, " \t\r\n/>")
	if i < 0 {
		return false
	}
	switch string(b[1:i]) {
	case "domain", "domainsnapshot", "domstatus", // libvirt
		"VirtualBox", "Envelope", "ovf:Envelope", "Parallels_disk_image", "ParallelsVirtualMachine", "Foundry":
		return true
	}
	return false
}

// isISO tells the volume descriptors of ISO 9660 and UDF, in sector 16.
func isISO(src io.ReaderAt) bool {
	var b [5]byte
	if _, err := src.ReadAt(b[:], 16*2048+1); err != nil {
		return false
	}
	return string(b[:]) == "CD001" || string(b[:]) == "BEA01"
}

// isPartitioned tells a raw disk: a GPT, a partition table, or a boot sector of FAT or NTFS.
func isPartitioned(b []byte, size int64) bool {
	const sector = 512
	if size%sector != 0 || len(b) < 2*sector {
		return false
	}
	if string(b[sector:sector+8]) == "EFI PART" {
		return true
	}
	if b[510] != 0x55 || b[511] != 0xAA {
		return false
	}
	if (b[0] == 0xEB && b[2] == 0x90 || b[0] == 0xE9) && binary.LittleEndian.Uint16(b[11:]) == sector {
		return true // the jump and the bytes per sector of a boot sector
	}
	used := false
	for at := 446; at < 510; at += 16 {
		if b[at]&0x7F != 0 { // active is 0x80 or 0
			return false
		}
		used = used || b[at+4] != 0 && binary.LittleEndian.Uint32(b[at+12:]) != 0
	}
	return used
}

// markExtents finds the extents that descriptors name: files without a magic of their own.
func markExtents(open func(e *Entry) (Content, error), entries []Entry) error {
	var at map[manifest.Path]*Entry
	for i := range entries {
		e := &entries[i]
		if e.Format != vmdk.Name || e.Subformat != descriptor || e.Type != manifest.File {
			continue
		}
		d, err := readDescriptor(open, e)
		if err != nil {
			return err
		}
		if d == nil {
			continue
		}
		if at == nil {
			at = make(map[manifest.Path]*Entry, len(entries))
			for j := range entries {
				at[entries[j].Path] = &entries[j]
			}
		}
		parent, _ := cut(e.Path)
		for _, x := range d.Extents {
			f := at[manifest.Path(join(parent, d.DecodeName(x.File)))]
			if f == nil || f.Type != manifest.File || f.Skipped != "" || strings.ContainsAny(x.File, `/\`) {
				continue
			}
			switch x.Type {
			case "FLAT", "VMFS": // raw, even when the guest has written another format's header into it
				f.Role, f.Format, f.Subformat, f.Phase, f.Stride = manifest.RoleDisk, formatRaw, subExtent, 0, 0
			default:
				if f.Role != manifest.RoleDisk {
					f.Role, f.Format, f.Subformat = manifest.RoleDisk, "", subExtent
				}
			}
		}
	}
	return nil
}

// readDescriptor returns nil when the file is not, or no longer, a valid descriptor.
func readDescriptor(open func(e *Entry) (Content, error), e *Entry) (*vmdk.Descriptor, error) {
	f, err := open(e)
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, ErrReplaced) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	defer f.Close()
	d, err := vmdk.ReadDescriptor(io.NewSectionReader(f, 0, e.Size))
	if err != nil {
		return nil, nil // a hint only: Probe has judged the file already
	}
	return d, nil
}
