package vmdk

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"strings"
	"unicode/utf8"
)

// contentID makes the CID of an image of the last four bytes of id.
func contentID(id [16]byte) uint32 {
	cid := binary.BigEndian.Uint32(id[12:])
	switch cid {
	case 0, NoCID, NoCID - 1:
		// 0 and ffffffff say that there is none, and with fffffffe VMware marks
		// a disk that was never written to.
		cid ^= 0x5a5a5a5a
	}
	return cid
}

// ImageID returns the Image.ID of what Encode writes with an EncodeOptions.ID: images that build on it record it.
func (Format) ImageID(id [16]byte) string { return cid(contentID(id)) }

// quotable reports whether s can stand between quotes in a descriptor of UTF-8.
func quotable(s string, most int) bool {
	bad := func(r rune) bool { return r < ' ' || r == '"' || r == 0x7f }
	return len(s) <= most && utf8.ValidString(s) && !strings.ContainsFunc(s, bad)
}

// descriptor makes the text of a disk of these extents. Programs read it line
// by line and in this order; VirtualBox knows the sections by what is in them.
func (e *encoding) descriptor(lines []Extent) []byte {
	var b bytes.Buffer
	put := func(format string, args ...any) { fmt.Fprintf(&b, format, args...) }
	put("# Disk DescriptorFile\nversion=1\nencoding=\"UTF-8\"\nCID=%08x\nparentCID=%08x\n", e.cid, e.parentCID)
	if e.subformat == vmfs {
		put("isNativeSnapshot=\"no\"\n")
	}
	put("createType=\"%s\"\n", e.subformat)
	if e.hint != "" {
		put("parentFileNameHint=\"%s\"\n", e.hint)
	}
	put("\n# Extent description\n")
	for _, l := range lines {
		b.WriteString(l.line())
	}
	put("\n# The Disk Data Base\n#DDB\n\n")
	g := e.geometry()
	put("ddb.adapterType = \"%s\"\n", e.o.Adapter)
	put("ddb.geometry.cylinders = \"%d\"\n", g.cylinders)
	put("ddb.geometry.heads = \"%d\"\n", g.heads)
	put("ddb.geometry.sectors = \"%d\"\n", g.sectors)
	id := e.o.ID
	put("ddb.longContentID = \"%x%08x\"\n", id[:12], e.cid)
	// The version of VMware's tools in the guest: they are not VMware's to update.
	put("ddb.toolsVersion = \"2147483647\"\n")
	if id != [16]byte{} {
		// The serial number that the guest sees: 6 is NAA's, 000c29 VMware's.
		put("ddb.uuid = \"60 00 C2 9%x % x-% x\"\n", id[3]&0xf, id[4:8], id[8:])
		put("ddb.uuid.image = \"%x-%x-%x-%x-%x\"\n", id[:4], id[4:6], id[6:8], id[8:10], id[10:])
	}
	// The oldest that is in use: every program attaches it.
	put("ddb.virtualHWVersion = \"4\"\n")
	return b.Bytes()
}

// line is x as it stands in a descriptor, with the line's end.
func (x Extent) line() string {
	s := fmt.Sprintf("%s %d %s \"%s\"", x.Access, x.Sectors, x.Type, x.File)
	if x.Type == "FLAT" {
		s += fmt.Sprintf(" %d", x.Offset)
	}
	return s + "\n"
}

// A geometry is the disk in cylinders, heads and sectors of a track, as BIOSes
// of old saw it.
type geometry struct{ cylinders, heads, sectors int64 }

// geometry is what VMware gives to a disk of this size.
func (e *encoding) geometry() geometry {
	g := geometry{heads: 255, sectors: 63}
	switch {
	case e.o.Adapter == "ide":
		g = geometry{heads: 16, sectors: 63}
	case e.capacity.Bytes() <= 1<<30:
		g = geometry{heads: 64, sectors: 32}
	}
	g.cylinders = int64(e.capacity) / (g.heads * g.sectors)
	if e.o.Adapter == "ide" {
		g.cylinders = min(g.cylinders, 16383) // ATA has no more
	}
	return g
}
