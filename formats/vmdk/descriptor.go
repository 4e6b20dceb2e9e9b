package vmdk

import (
	"bytes"
	"fmt"
	"math"
	"strconv"
	"strings"
	"unicode/utf8"

	"tarvm/formats"
	"tarvm/formats/internal/parse"
)

// MaxDescriptor is the largest descriptor that is read, in bytes. A disk of
// 62 TiB in extents of 2 GB has 31744 lines of about 35 bytes.
const MaxDescriptor = parse.Limit

// signatureWindow is where the first line of a descriptor must be found: only
// blank lines, comments and a byte order mark may precede it.
const signatureWindow = 4 << 10

// NoCID is the ParentCID of a disk that has no parent.
const NoCID = 0xFFFFFFFF

// Sectors is a count or place in units of 512 bytes. Those of this package fit
// an int64 in bytes.
type Sectors int64

// Bytes is s in bytes.
func (s Sectors) Bytes() int64 { return int64(s) * sector }

const maxSectors = math.MaxInt64 / sector

// A Descriptor is the text that describes a disk and names its extents.
type Descriptor struct {
	Version            int    // 1 to 3; 0: not stated
	Encoding           string // of names: "UTF-8", "windows-1252"; empty: not stated
	CID                uint32 // changes when the content does
	ParentCID          uint32 // CID that the parent must have; NoCID: no parent
	CreateType         string // as stored: "monolithicSparse"
	ParentFileNameHint string // name of the parent's descriptor as stored; untrusted
	ChangeTrackPath    string // name of the change tracking file as stored; untrusted
	Extents            []Extent
	// DDB is the disk database, without the prefix "ddb.": adapterType,
	// geometry.heads. Keys are in lower case.
	DDB map[string]string
	// Other holds what has no field here. Keys are in lower case.
	Other map[string]string
}

// An Extent is one line of a Descriptor: a run of the disk, in disk order.
type Extent struct {
	Access  string  // RW, RDONLY, NOACCESS
	Sectors Sectors // length
	Type    string  // FLAT, SPARSE, ZERO, VMFS, VMFSSPARSE, VMFSRDM, SESPARSE, ...
	File    string  // name as stored, untrusted; empty for ZERO
	Offset  Sectors // where a flat extent starts in File
}

// Size is the disk in bytes: the sum of the extents.
func (d *Descriptor) Size() int64 {
	var n Sectors
	for _, e := range d.Extents {
		n += e.Sectors
	}
	return n.Bytes()
}

// DecodeName returns a stored name as UTF-8. Names that are valid UTF-8 are
// returned as they are; others are taken for windows-1252, which VMware writes
// on Windows, whatever Encoding says, because that decodes any bytes.
func (d *Descriptor) DecodeName(stored string) string {
	latin := strings.EqualFold(d.Encoding, "windows-1252") || strings.EqualFold(d.Encoding, "ISO-8859-1")
	if !latin && utf8.ValidString(stored) {
		return stored
	}
	var b strings.Builder
	for i := range len(stored) {
		c := stored[i]
		if c >= 0x80 && c < 0xA0 {
			b.WriteRune(windows1252[c-0x80])
		} else {
			b.WriteRune(rune(c))
		}
	}
	return b.String()
}

// windows1252 is bytes 0x80 to 0x9F; unassigned ones keep their value.
var windows1252 = [32]rune{
	0x20AC, 0x81, 0x201A, 0x0192, 0x201E, 0x2026, 0x2020, 0x2021, 0x02C6, 0x2030, 0x0160, 0x2039, 0x0152, 0x8D, 0x017D, 0x8F,
	0x90, 0x2018, 0x2019, 0x201C, 0x201D, 0x2022, 0x2013, 0x2014, 0x02DC, 0x2122, 0x0161, 0x203A, 0x0153, 0x9D, 0x017E, 0x0178,
}

// IsDescriptor reports whether b, the start of a file, is that of a
// descriptor: "# Disk DescriptorFile" before anything but comments, in any case
// and spacing.
func IsDescriptor(b []byte) bool {
	if len(b) > signatureWindow {
		b = b[:signatureWindow]
	}
	b = bytes.TrimPrefix(b, []byte("\xEF\xBB\xBF"))
	for len(b) > 0 {
		var line []byte
		line, b, _ = bytes.Cut(b, []byte("\n"))
		line = bytes.TrimSpace(line)
		if len(line) == 0 {
			continue
		}
		if line[0] != '#' {
			return false
		}
		// VirtualBox accepts "Descriptor File", too.
		text := bytes.Join(bytes.Fields(line[1:]), nil)
		if bytes.EqualFold(text, []byte("DiskDescriptorFile")) {
			return true
		}
	}
	return false
}

// ParseDescriptor reads a descriptor, which ends at the first NUL. It accepts
// what programs in the wild write: keys in any case, values with or without
// quotes, CR LF, spaces at either end of a line. Of a repeated key the first
// counts. The result does not alias b.
//
// Errors are ErrNotFormat when IsDescriptor is false, ErrUnsupported when b is
// longer than MaxDescriptor, and ErrCorrupt, with the offset of the line in b.
func ParseDescriptor(b []byte) (*Descriptor, error) {
	if !IsDescriptor(b) {
		return nil, formats.ErrNotFormat
	}
	return parseDescriptor(b, 0)
}

// parseDescriptor is ParseDescriptor of text that is known to be a descriptor
// and starts at byte base of its file.
func parseDescriptor(b []byte, base int64) (*Descriptor, error) {
	m := parse.Image{Format: Name}
	if len(b) > MaxDescriptor {
		return nil, m.Unsupported("descriptor", base, "%d bytes, limit %d", len(b), MaxDescriptor)
	}
	b, _, _ = bytes.Cut(b, []byte{0})
	d := &Descriptor{ParentCID: NoCID, DDB: map[string]string{}, Other: map[string]string{}}
	seen := map[string]bool{}
	text := strings.TrimPrefix(string(b), "\xEF\xBB\xBF")
	at := base + int64(len(b)-len(text))
	var total Sectors
	for len(text) > 0 {
		line, rest, _ := strings.Cut(text, "\n")
		here := at
		at += int64(len(text) - len(rest))
		text = rest
		line = strings.TrimSpace(line)
		if line == "" || line[0] == '#' {
			continue
		}
		if e, ok, err := parseExtent(line); err != nil {
			return nil, m.Corrupt("descriptor extent", here, "%v", err)
		} else if ok {
			if e.Sectors > maxSectors-total {
				return nil, m.Corrupt("descriptor extent", here, "extents sum up to more than %d sectors", int64(maxSectors))
			}
			total += e.Sectors
			d.Extents = append(d.Extents, e)
			continue
		}
		key, value, ok := strings.Cut(line, "=")
		if !ok {
			return nil, m.Corrupt("descriptor line", here, "%s", brief(line))
		}
		key = strings.ToLower(strings.TrimSpace(key))
		if seen[key] {
			continue
		}
		seen[key] = true
		if err := d.set(key, unquote(value)); err != nil {
			return nil, m.Corrupt("descriptor "+brief(key), here, "%v", err)
		}
	}
	return d, nil
}

func (d *Descriptor) set(key, value string) error {
	cid := func(p *uint32) error {
		n, err := strconv.ParseUint(value, 16, 32)
		if err != nil {
			return fmt.Errorf("%s is not a 32-bit hexadecimal number", brief(value))
		}
		*p = uint32(n)
		return nil
	}
	switch key {
	case "version":
		n, err := strconv.ParseUint(value, 10, 16)
		if err != nil {
			return fmt.Errorf("%s is not a number", brief(value))
		}
		d.Version = int(n)
	case "encoding":
		d.Encoding = value
	case "cid":
		return cid(&d.CID)
	case "parentcid":
		return cid(&d.ParentCID)
	case "createtype":
		d.CreateType = value
	case "parentfilenamehint":
		d.ParentFileNameHint = value
	case "changetrackpath":
		d.ChangeTrackPath = value
	default:
		if k, ok := strings.CutPrefix(key, "ddb."); ok {
			d.DDB[k] = value
		} else {
			d.Other[key] = value
		}
	}
	return nil
}

// parseExtent reads a line such as
//
//	RW 4192256 SPARSE "disk-s001.vmdk"
//	RW 20971520 FLAT "disk-flat.vmdk" 0
//
// ok is false when the line does not start with an access mode.
func parseExtent(line string) (e Extent, ok bool, err error) {
	access, rest := word(line)
	switch access = strings.ToUpper(access); access {
	case "RW", "RDONLY", "NOACCESS":
	default:
		return e, false, nil
	}
	if rest == "" || rest[0] == '=' {
		return e, false, nil // a key that happens to have this name
	}
	e.Access = access
	length, rest := word(rest)
	if e.Sectors, err = sectors(length); err != nil {
		return e, true, err
	}
	kind, rest := word(rest)
	if kind == "" {
		return e, true, fmt.Errorf("no type in %s", brief(line))
	}
	e.Type = strings.ToUpper(kind)
	if rest == "" {
		if e.Type != "ZERO" {
			return e, true, fmt.Errorf("no file name in %s", brief(line))
		}
		return e, true, nil
	}
	if rest[0] == '"' {
		name, after, closed := strings.Cut(rest[1:], `"`)
		if !closed {
			return e, true, fmt.Errorf("no closing quote in %s", brief(line))
		}
		e.File, rest = name, strings.TrimSpace(after)
	} else {
		e.File, rest = word(rest)
	}
	// What follows the offset (a partition's UUID, a device id) is not ours.
	if off, _ := word(rest); off != "" {
		if e.Offset, err = sectors(off); err != nil {
			return e, true, err
		}
	}
	return e, true, nil
}

func sectors(s string) (Sectors, error) {
	n, err := strconv.ParseUint(s, 10, 64)
	if err != nil || n > maxSectors {
		return 0, fmt.Errorf("%s is not a number of sectors", brief(s))
	}
	return Sectors(n), nil
}

// word splits the first word off s, which has no space in front.
func word(s string) (first, rest string) {
	i := strings.IndexFunc(s, func(r rune) bool { return r == ' ' || r == '\t' })
	if i < 0 {
		return s, ""
	}
	return s[:i], strings.TrimSpace(s[i:])
}

func unquote(s string) string {
	s = strings.TrimSpace(s)
	if len(s) >= 2 && s[0] == '"' && s[len(s)-1] == '"' {
		return s[1 : len(s)-1]
	}
	return s
}

// brief quotes untrusted text for an error.
func brief(s string) string {
	const most = 40
	if len(s) > most {
		return strconv.QuoteToASCII(s[:most]) + "..."
	}
	return strconv.QuoteToASCII(s)
}

// ReadDescriptor returns the descriptor that src is, or that a hosted sparse
// extent carries. It is ErrNotFormat when src is neither, and when the extent
// carries none, as those of a split disk do.
func ReadDescriptor(src formats.Source) (*Descriptor, error) {
	b, err := parse.Prefix(src, Name, signatureWindow)
	if err != nil {
		return nil, err
	}
	m := parse.Image{Source: src, Format: Name}
	if hasMagic(b, magicHosted) {
		h, err := parseHosted(m, b, 0)
		if err != nil {
			return nil, err
		}
		d, err := h.descriptor(m)
		if err == nil && d == nil {
			err = formats.ErrNotFormat
		}
		return d, err
	}
	return readText(m, b)
}

// readText reads a descriptor file whose start is b.
func readText(m parse.Image, b []byte) (*Descriptor, error) {
	if !IsDescriptor(b) {
		return nil, formats.ErrNotFormat
	}
	if m.Size() > MaxDescriptor {
		return nil, m.Unsupported("descriptor", 0, "%d bytes, limit %d", m.Size(), MaxDescriptor)
	}
	b, err := m.Bytes("descriptor", 0, m.Size())
	if err != nil {
		return nil, err
	}
	return parseDescriptor(b, 0)
}
