package vhd

import (
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"math"
	"slices"
	"strings"
	"unicode/utf16"

	"tarvm/formats"
)

// Fields of a parent locator, big-endian. A locator names the parent in the
// words of one platform.
const (
	offPlatform  = 0  // 4 bytes, see below; zero: none
	offNameSpace = 4  // u32, room for the name: bytes, as Windows writes it, or sectors
	offNameLen   = 8  // u32, bytes of the name
	offNameAt    = 16 // u64, file offset of the name

	platformRelative = "W2ru" // UTF-16LE, relative to this image
	platformAbsolute = "W2ku" // UTF-16LE
	platformMac      = "MacX" // UTF-8, a file: URL
)

// maxNameLen bounds the name of a locator in bytes: Windows' longest path is of
// 32767 UTF-16 units.
const maxNameLen = 64 << 10

// parent returns what the header and its locators say of the parent, where
// locators keep names, and what is wrong with them.
func (f *file) parent() (*formats.ParentRef, []region, []formats.Problem, error) {
	be := binary.BigEndian
	p := &formats.ParentRef{Format: Name, ID: uuid(f.header[offParentID:])}
	names := map[string][]string{}
	var used []region
	var problems []formats.Problem
	for i := range locators {
		off := offLocators + i*locatorLen
		l := f.header[off : off+locatorLen]
		platform := string(l[offPlatform:][:4])
		n, at := int64(be.Uint32(l[offNameLen:])), be.Uint64(l[offNameAt:])
		if platform == "\x00\x00\x00\x00" || n == 0 {
			continue
		}
		odd := func(format string, args ...any) {
			problems = append(problems, formats.Problem{
				Severity: formats.Note, Structure: "parent locator", Offset: f.headerAt + int64(off),
				Text: fmt.Sprintf("%q: %s", platform, fmt.Sprintf(format, args...)),
			})
		}
		if at > math.MaxInt64 || !f.m.Inside(int64(at), n) {
			odd("%d bytes at 0x%x pass end of file", n, at)
			continue
		}
		if n > maxNameLen {
			odd("a name of %d bytes", n)
			continue
		}
		used = append(used, region{int64(at), int64(at) + n, "parent locator"})
		wide := platform == platformRelative || platform == platformAbsolute
		if !wide && platform != platformMac {
			continue
		}
		b, err := f.m.Bytes("parent locator", int64(at), n)
		if err != nil {
			return nil, nil, nil, err
		}
		name := strings.TrimRight(string(b), "\x00")
		if wide {
			name = decode(b, binary.LittleEndian)
		}
		names[platform] = append(names[platform], name)
	}
	all := slices.Concat(names[platformRelative], names[platformAbsolute],
		[]string{parentName(f.header[offParentName : offParentName+parentNameLen])}, names[platformMac])
	for _, name := range all {
		if name != "" && !slices.Contains(p.Names, name) {
			p.Names = append(p.Names, name)
		}
	}
	return p, used, problems, nil
}

// parentName decodes the name in the header.
func parentName(b []byte) string { return decode(b, binary.BigEndian) }

// decode decodes UTF-16 up to the first NUL.
func decode(b []byte, order binary.ByteOrder) string {
	u := make([]uint16, 0, len(b)/2)
	for i := 0; i+1 < len(b); i += 2 {
		c := order.Uint16(b[i:])
		if c == 0 {
			break
		}
		u = append(u, c)
	}
	return string(utf16.Decode(u))
}

// encode is the UTF-16 of s, without NUL.
func encode(s string, order binary.AppendByteOrder) []byte {
	var b []byte
	for _, c := range utf16.Encode([]rune(s)) {
		b = order.AppendUint16(b, c)
	}
	return b
}

// A locator is a name of the parent as it is written.
type locator struct {
	platform string
	name     []byte
}

// A parentage is what a differencing disk says of its parent.
type parentage struct {
	id       [16]byte
	name     []byte // UTF-16BE, for the header
	locators []locator
}

// newParentage turns p into what Windows writes: the absolute name, where it is
// known, in the header and as the first locator; the relative one, which begins
// with a dot, as the other.
func newParentage(p *formats.ParentRef) (*parentage, error) {
	id, err := parseUUID(p.ID)
	if err != nil {
		return nil, unsupported("parent's ID", "%q: %v", p.ID, err)
	}
	if p.Format != "" && p.Format != Name {
		return nil, unsupported("parent", "it is %s", p.Format)
	}
	var relative, absolute string
	for _, name := range p.Names {
		switch {
		case name == "" || strings.ContainsRune(name, 0) || len(name) > maxNameLen/2:
			return nil, unsupported("parent's name", "%.100q", name)
		case isAbsolute(name):
			if absolute == "" {
				absolute = name
			}
		case relative == "":
			relative = strings.ReplaceAll(name, "/", `\`)
			if !strings.HasPrefix(relative, `.\`) && !strings.HasPrefix(relative, `..\`) {
				relative = `.\` + relative
			}
		}
	}
	if relative == "" && absolute == "" {
		return nil, unsupported("parent's name", "there is none")
	}
	q := &parentage{id: id}
	if absolute != "" {
		q.locators = append(q.locators, locator{platformAbsolute, encode(absolute, binary.LittleEndian)})
	}
	if relative != "" {
		q.locators = append(q.locators, locator{platformRelative, encode(relative, binary.LittleEndian)})
	}
	// The header has no room for long names; the locators have.
	for _, name := range []string{absolute, strings.TrimPrefix(relative, `.\`), base(relative), base(absolute)} {
		if b := encode(name, binary.BigEndian); name != "" && len(b) < parentNameLen {
			q.name = b
			return q, nil
		}
	}
	return nil, unsupported("parent's name", "%.100q: the header has no room for it", base(absolute+relative))
}

// isAbsolute reports whether a name of any system does not depend on where the
// image is.
func isAbsolute(name string) bool {
	drive := len(name) > 1 && name[1] == ':'
	return drive || strings.HasPrefix(name, `\`) || strings.HasPrefix(name, "/")
}

func base(name string) string { return name[strings.LastIndexAny(name, `/\`)+1:] }

// parseUUID is the reverse of uuid.
func parseUUID(s string) (id [16]byte, err error) {
	b, err := hex.DecodeString(strings.ReplaceAll(s, "-", ""))
	if err != nil || len(b) != len(id) {
		return id, errors.New("not a UUID")
	}
	copy(id[:], b)
	return id, nil
}
