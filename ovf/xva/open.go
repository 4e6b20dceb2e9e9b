package xva

import (
	"archive/tar"
	"bytes"
	"cmp"
	"crypto/sha1"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"

	"github.com/cespare/xxhash/v2"

	"tarvm/formats"
	"tarvm/formats/machine"
)

// The digests that a block can have.
const (
	noDigest = iota
	digestXX
	digestSHA1
	digestTable // SHA-1, in checksum.xml
)

const (
	maxBlock = 64 << 20 // bytes; seen: 1 MiB
	xxDigits = 16
	shDigits = 40
	// maxProblems is how many of one kind are listed.
	maxProblems = 20
)

// A Package is an open XVA. Its functions may be used from several goroutines.
type Package struct {
	// Machine is what the file is about: the one machine that is neither snapshot nor template, or else the first.
	Machine *machine.Machine
	// Systems are all the machines of the file, in its order; Machine is one of them.
	Systems []System
	// Disks are those of Machine's drives, in their order. Their blocks may be missing: see Problems.
	Disks []Disk
	// Others are the disks of other systems, and the memory of suspended machines.
	Others []Disk
	// Version is what wrote the file: "XCP-ng 8.2.1".
	Version string
	// Problems are what was found wrong, and does not keep the file from being read.
	Problems []formats.Problem

	doc    *document
	src    formats.Source
	ova    []byte
	vars   []byte
	layout []*layout
}

// A System is one of the machines in a file.
type System struct {
	Ref     string // its id in the file: "Ref:0"
	Kind    Kind
	Machine *machine.Machine
}

// A Disk is a disk in an XVA, or one to be written to it.
type Disk struct {
	// At is the drive of the Machine that has it. The zero Address: none.
	At machine.Address
	// Content is the disk's bytes. Reading a part of a block reads all of it and compares its digest: a wrong one
	// is formats.ErrCorrupt.
	Content formats.Disk
	// Source is where it comes from, for errors of writing it: it names the file that could not be read. Empty: not said.
	Source string

	// What follows is said of disks that were read. Writing takes no notice of it.

	// Ref is its id in the file, Label what people call it, Name that of its file in the FS.
	Ref, Label, Name string
	// Image maps it: blocks of the archive, and holes.
	Image *formats.Image
}

// Probe reports whether a file may be an XVA, by its first 512 bytes: a tar archive whose first member is ova.xml.
// Compressed ones are not told from other compressed files.
func Probe(head []byte) bool {
	name, _, _ := bytes.Cut(head[:min(100, len(head))], []byte{0})
	return len(head) >= 263 && string(head[257:262]) == "ustar" && strings.TrimPrefix(string(name), "./") == "ova.xml"
}

// Open reads the index of an archive that is not compressed. src must stay open while the Package is used. Errors are
// formats.ErrNotFormat where there is no tar archive with an ova.xml; else they wrap formats.ErrCorrupt,
// formats.ErrUnsupported, or are those of [Config.Decode] and of src.
//
// An archive that was cut short is an error; one that ends where a member ends is told by the last blocks of its disks,
// which are then missing and among the Problems.
func Open(src formats.Source) (*Package, error) {
	p := &Package{src: src}
	x := &index{p: p, disks: map[string]*layout{}, sums: map[string]string{}}
	if err := x.read(); err != nil {
		return nil, err
	}
	var err error
	if p.doc, err = parse(p.ova); err != nil {
		return nil, err
	}
	main := p.doc.main()
	if main == nil {
		return nil, syntax("objects", "no VM", machine.ErrSyntax)
	}
	v := p.doc.root.get("version")
	p.Version = strings.TrimSpace(v.str("product_brand") + " " + v.str("product_version"))
	for _, o := range p.doc.objects {
		if o.class != "VM" {
			continue
		}
		m, err := p.doc.machine(o)
		if err != nil {
			if o == main {
				return nil, err
			}
			p.problem(formats.Note, "VM "+o.id, -1, "%s", err)
			continue
		}
		p.Systems = append(p.Systems, System{o.id, o.kind(), m})
		if o == main {
			p.Machine = m
		}
	}
	if b, err := variables(main.snap); err != nil {
		p.problem(formats.Note, "NVRAM", -1, "EFI-variables: %s", err)
	} else if p.Machine.Firmware.Vars.Path != "" {
		p.vars = b
	}
	if err := x.finish(); err != nil {
		return nil, err
	}
	return p, nil
}

func (p *Package) problem(s formats.Severity, structure string, off int64, format string, a ...any) {
	p.Problems = append(p.Problems, formats.Problem{Severity: s, Structure: structure, Offset: off, Text: fmt.Sprintf(format, a...)})
}

// corrupt makes an error about a place in the archive.
func corrupt(structure string, off int64, format string, a ...any) error {
	return &formats.FormatError{Format: form, Structure: structure, Offset: off, Got: fmt.Sprintf(format, a...), Err: formats.ErrCorrupt}
}

// index collects the members of an archive.
type index struct {
	p     *Package
	disks map[string]*layout
	order []*layout
	sums  map[string]string // of checksum.xml
	odd   int
}

// A layout is the blocks of one disk.
type layout struct {
	p      *Package
	ref    string
	size   int64
	blocks []block
	// digests are those that came without their block, yet.
	digests map[int64]block
	sums    map[string]string
}

// A block is a piece of a disk.
type block struct {
	number int64
	pos    int64 // in the disk
	off    int64 // in the archive
	size   int64
	sum    int64 // where its digest is in the archive
	digest uint8
}

func (x *index) read() error {
	sr := io.NewSectionReader(x.p.src, 0, x.p.src.Size())
	tr := tar.NewReader(sr)
	first := true
	for {
		h, err := tr.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		at, serr := sr.Seek(0, io.SeekCurrent)
		if serr != nil {
			return serr
		}
		if err != nil {
			return x.fail(err, first, at)
		}
		name := strings.TrimPrefix(h.Name, "./")
		if first && name != "ova.xml" {
			x.p.problem(formats.Note, "archive", 0, "the first member is %q and not ova.xml: no import takes that", clip(name))
		}
		first = false
		if h.Typeflag == tar.TypeDir {
			continue
		}
		if h.Typeflag != tar.TypeReg || h.PAXRecords["GNU.sparse.major"] != "" || h.PAXRecords["GNU.sparse.map"] != "" ||
			h.PAXRecords["GNU.sparse.size"] != "" {
			return corrupt("member", at, "%q is no plain file", clip(name))
		}
		if h.Size > x.p.src.Size()-at {
			return x.fail(io.ErrUnexpectedEOF, false, at)
		}
		if err := x.member(name, at, h.Size); err != nil {
			return err
		}
	}
	if x.p.ova == nil {
		return &formats.FormatError{Format: form, Structure: "archive", Offset: -1, Got: "no ova.xml", Err: formats.ErrNotFormat}
	}
	return nil
}

func (x *index) fail(err error, first bool, at int64) error {
	switch {
	case errors.Is(err, io.ErrUnexpectedEOF) && !first:
		return corrupt("archive", at, "it ends in the middle of a member")
	case (errors.Is(err, tar.ErrHeader) || errors.Is(err, io.ErrUnexpectedEOF)) && first:
		return &formats.FormatError{Format: form, Structure: "archive", Offset: 0, Got: "no tar archive", Err: formats.ErrNotFormat}
	case errors.Is(err, tar.ErrHeader):
		return corrupt("header", at, "%s", err)
	}
	return fmt.Errorf("xva: at byte 0x%x: %w", at, err)
}

func clip(s string) string { return s[:min(len(s), 80)] }

func (x *index) member(name string, at, size int64) error {
	switch name {
	case "ova.xml":
		if x.p.ova != nil {
			return corrupt("ova.xml", at, "it is there twice")
		}
		b, err := x.text(name, at, size)
		x.p.ova = b
		return err
	case "checksum.xml": // before digests were beside their blocks
		b, err := x.text(name, at, size)
		if err != nil {
			return err
		}
		v, err := parseValue(b)
		if err != nil {
			return fmt.Errorf("checksum.xml: %w", err)
		}
		for _, m := range v.members {
			x.sums[m.name] = m.value.text
		}
		return nil
	}
	dir, file, ok := strings.Cut(name, "/")
	digits, ext, _ := strings.Cut(file, ".")
	number, err := strconv.ParseUint(digits, 10, 40)
	if !ok || err != nil || len(digits) < 8 || digits[0] == '+' || ext != "" && ext != "xxhash" && ext != "checksum" || dir == "" {
		if x.odd++; x.odd <= maxProblems {
			x.p.problem(formats.Note, "member", at, "%q is unknown", clip(name))
		}
		return nil
	}
	l := x.disks[dir]
	if l == nil {
		l = &layout{p: x.p, ref: dir, digests: map[int64]block{}, sums: x.sums}
		x.disks[dir] = l
		x.order = append(x.order, l)
	}
	n := int64(number)
	switch ext {
	case "xxhash", "checksum":
		b := block{number: n, sum: at, digest: digestXX}
		want := int64(xxDigits)
		if ext == "checksum" {
			b.digest, want = digestSHA1, shDigits
		}
		if size < want || size > want+2 {
			return corrupt("digest", at, "%q has %d bytes, and not %d", clip(name), size, want)
		}
		if k := len(l.blocks) - 1; k >= 0 && l.blocks[k].number == n && l.blocks[k].digest == noDigest {
			l.blocks[k].sum, l.blocks[k].digest = at, b.digest
		} else if _, twice := l.digests[n]; twice {
			return corrupt("digest", at, "%q is there twice", clip(name))
		} else {
			l.digests[n] = b
		}
	default:
		if size > maxBlock {
			return corrupt("block", at, "%q has %d bytes, limit %d", clip(name), size, maxBlock)
		}
		l.blocks = append(l.blocks, block{number: n, off: at, size: size})
	}
	return nil
}

// text reads a member that is XML.
func (x *index) text(name string, at, size int64) ([]byte, error) {
	if size > machine.MaxConfig {
		return nil, syntax(name, fmt.Sprintf("%d bytes, limit %d", size, machine.MaxConfig), machine.ErrUnsupported)
	}
	b := make([]byte, size)
	if _, err := readFull(x.p.src, b, at); err != nil {
		return nil, err
	}
	return b, nil
}

func readFull(src io.ReaderAt, b []byte, off int64) (int, error) {
	n, err := src.ReadAt(b, off)
	if n == len(b) {
		return n, nil
	}
	if err == nil || errors.Is(err, io.EOF) {
		err = io.ErrUnexpectedEOF
	}
	return n, fmt.Errorf("xva: at byte 0x%x: %w", off, err)
}

// finish gives blocks their places and disks to drives.
func (x *index) finish() error {
	p := x.p
	names := p.doc.names()
	drives := map[string]machine.Address{}
	for i := range p.Machine.Drives {
		d := &p.Machine.Drives[i]
		from, ok := d.Origin.(*origin)
		if !ok || d.Kind != machine.Disk {
			continue
		}
		vdi := p.doc.find("VBD", from.id).snap.str("VDI")
		if p.doc.find("VDI", vdi) != nil {
			drives[vdi] = d.At
		}
	}
	for _, o := range p.doc.objects {
		if o.class != "VDI" {
			continue
		}
		at, ours := drives[o.id]
		l := x.disks[o.id]
		if l == nil && !ours {
			continue // an ISO image, which no file has
		}
		if l == nil {
			l = &layout{p: p, ref: o.id}
			p.problem(formats.Risk, "VDI "+o.id, -1, "none of its blocks is there")
		}
		delete(x.disks, o.id)
		size, err := o.snap.number("virtual_size", maxDisk)
		if err != nil {
			return err
		}
		if err := l.arrange(size); err != nil {
			return err
		}
		img := l.image()
		content, err := formats.NewDisk(img)
		if err != nil {
			return err
		}
		d := Disk{At: at, Content: content, Ref: o.id, Label: o.snap.str("name_label"), Name: names[o.id], Image: img}
		if ours {
			p.Disks = append(p.Disks, d)
		} else {
			p.Others = append(p.Others, d)
		}
		p.layout = append(p.layout, l)
	}
	slices.SortStableFunc(p.Disks, func(a, b Disk) int { return cmp.Compare(a.At.Unit, b.At.Unit) })
	for _, l := range x.order {
		if x.disks[l.ref] != nil {
			p.problem(formats.Note, "blocks", -1, "%d of %q, which is no VDI", len(l.blocks), clip(l.ref))
		}
	}
	return nil
}

// arrange puts blocks in order and says where they belong in a disk of size bytes.
func (l *layout) arrange(size int64) error {
	if !slices.IsSortedFunc(l.blocks, byNumber) {
		slices.SortStableFunc(l.blocks, byNumber)
		l.p.problem(formats.Note, "blocks of "+l.ref, -1, "they are not in order: no import takes that")
	}
	step, pos, last := int64(blockSize), int64(0), int64(-1)
	if len(l.blocks) > 0 && l.blocks[0].size > 0 {
		step = l.blocks[0].size
	}
	missing := 0
	for i := range l.blocks {
		b := &l.blocks[i]
		if b.number == last {
			return corrupt("block", b.off, "%s/%08d is there twice", l.ref, b.number)
		}
		skip := b.number - last - 1
		if skip > (maxDisk-pos)/step {
			return corrupt("block", b.off, "%s/%08d is behind any disk", l.ref, b.number)
		}
		pos += skip * step
		b.pos, last = pos, b.number
		pos += b.size
		if d, ok := l.digests[b.number]; ok && b.digest == noDigest {
			b.sum, b.digest = d.sum, d.digest
		}
		if b.digest == noDigest && l.sums[l.name(b)] != "" {
			b.digest = digestTable
		}
		if b.digest == noDigest && b.size > 0 {
			missing++
		}
	}
	if missing > 0 {
		l.p.problem(formats.Note, "blocks of "+l.ref, -1, "%d of %d have no digest", missing, len(l.blocks))
	}
	l.digests = nil
	l.blocks = slices.DeleteFunc(l.blocks, func(b block) bool { return b.size == 0 })
	l.size = size
	if n := len(l.blocks); n > 0 {
		b := &l.blocks[n-1]
		switch {
		case size == 0:
			l.size = pos
			l.p.problem(formats.Note, "VDI "+l.ref, -1, "its size is not said: %d bytes, by its blocks", pos)
		case b.pos >= size:
			return corrupt("block", b.off, "%s/%08d is behind the disk's %d bytes", l.ref, b.number, size)
		case b.pos+b.size < size:
			l.p.problem(formats.Risk, "VDI "+l.ref, -1, "the last block that is there ends at byte %d of %d: the file was cut short", b.pos+b.size, size)
		}
		for i := range l.blocks[:n-1] {
			if c := &l.blocks[i]; c.pos+c.size > l.size {
				return corrupt("block", c.off, "%s/%08d is behind the disk's %d bytes", l.ref, c.number, l.size)
			}
		}
	}
	return nil
}

func byNumber(a, b block) int { return cmp.Compare(a.number, b.number) }

func (l *layout) name(b *block) string { return fmt.Sprintf("%s/%08d", l.ref, b.number) }

func (l *layout) image() *formats.Image {
	return &formats.Image{
		Header: formats.Header{Format: form, VirtualSize: l.size},
		Map:    l, Files: []formats.Source{l.p.src}, Inflate: l.inflate,
	}
}

// Size implements formats.Mapper.
func (l *layout) Size() int64 { return l.size }

// MapAt implements formats.Mapper. Blocks are Compressed runs although they are not, so that a block is read as a whole
// and its digest compared.
func (l *layout) MapAt(off int64) (formats.Extent, error) {
	if off < 0 || off >= l.size {
		return formats.Extent{}, io.EOF
	}
	i, found := slices.BinarySearchFunc(l.blocks, off, func(b block, off int64) int { return cmp.Compare(b.pos, off) })
	if !found {
		i-- // the block that begins before off
	}
	start := int64(0)
	if i >= 0 {
		b := &l.blocks[i]
		start = b.pos + b.size
		if off < start {
			return formats.Extent{
				Offset: b.pos, Length: min(b.size, l.size-b.pos), Kind: formats.Compressed, Host: b.off, Stored: b.size,
			}, nil
		}
	}
	end := l.size
	if i+1 < len(l.blocks) {
		end = min(end, l.blocks[i+1].pos)
	}
	return formats.Extent{Offset: start, Length: end - start, Kind: formats.Hole}, nil
}

// inflate reads the block of e.
func (l *layout) inflate(e formats.Extent, dst []byte) error {
	i, found := slices.BinarySearchFunc(l.blocks, e.Offset, func(b block, off int64) int { return cmp.Compare(b.pos, off) })
	if !found {
		return corrupt("block", e.Host, "no block is at %d", e.Offset)
	}
	b := &l.blocks[i]
	whole := dst
	if b.size != int64(len(dst)) { // the last, which is longer than what is left of the disk
		whole = make([]byte, b.size)
	}
	if _, err := readFull(l.p.src, whole, b.off); err != nil {
		return err
	}
	if b.size != int64(len(dst)) {
		copy(dst, whole)
	}
	return l.compare(b, whole)
}

// compare returns an error when a block's digest is not that of data.
func (l *layout) compare(b *block, data []byte) error {
	var want, got string
	switch b.digest {
	case digestXX, digestSHA1:
		n := xxDigits
		if b.digest == digestSHA1 {
			n = shDigits
		}
		digits := make([]byte, n)
		if _, err := readFull(l.p.src, digits, b.sum); err != nil {
			return err
		}
		want = string(digits)
	case digestTable:
		want = l.sums[l.name(b)]
	default:
		return nil
	}
	if b.digest == digestXX {
		got = xxText(xxhash.Sum64(data))
	} else {
		sum := sha1.Sum(data)
		got = hex.EncodeToString(sum[:])
	}
	if !strings.EqualFold(want, got) {
		return &formats.FormatError{
			Format: form, Structure: "block " + l.name(b), Offset: b.off,
			Got: fmt.Sprintf("its digest is %s, and not %q", got, want), Err: formats.ErrCorrupt,
		}
	}
	return nil
}

func xxText(sum uint64) string { return fmt.Sprintf("%016X", sum) }
