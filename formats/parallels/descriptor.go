package parallels

import (
	"bytes"
	"encoding/xml"
	"errors"
	"fmt"
	"io"
	"math"
	"slices"
	"strconv"
	"strings"

	"tarvm/formats"
	"tarvm/formats/internal/parse"
)

const (
	bundleName = "bundle"
	rootName   = "Parallels_disk_image"
	nullGUID   = "00000000-0000-0000-0000-000000000000"
	// topGUID is the layer that the guest writes to, where the descriptor does
	// not name another.
	topGUID = "5fbaabe3-6958-40ff-92a7-860e329aab41"

	maxDescriptor = parse.Limit
	maxDepth      = 16   // seen: 4
	maxShots      = 1024 // snapshots of a disk
	maxFiles      = 4096 // image files of a disk

	// scanLen is where the root element must begin.
	scanLen = 4 << 10
)

// descriptor is what a DiskDescriptor.xml says, checked for consistency.
type descriptor struct {
	size     int64 // of the disk, bytes
	uid      string
	name     string
	storages []storage // in order, without gaps
	shots    []shot    // parents before children
	top      string    // GUID of the layer that the guest writes to
	problems []formats.Problem
}

// A storage is a part of the disk.
type storage struct {
	start, end int64 // bytes of the disk
	cluster    int64 // bytes; 0: not said
	images     []imageFile
}

// An imageFile is what a storage has for one layer.
type imageFile struct {
	guid, kind, name string
}

// A shot is a layer, and the one below it; nullGUID: none.
type shot struct{ guid, parent string }

func (d *descriptor) generic() formats.Header {
	return formats.Header{Format: Name, Subformat: bundleName, VirtualSize: d.size}
}

// isDescriptor reports whether b begins as XML with the right root element.
func isDescriptor(b []byte) bool {
	b = bytes.TrimPrefix(b, []byte("\xef\xbb\xbf"))
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
		default:
			rest, ok := bytes.CutPrefix(b, []byte("<"+rootName))
			return ok && len(rest) > 0 && strings.IndexByte(" \t\r\n/>", rest[0]) >= 0
		}
		i := bytes.Index(b, []byte(end))
		if i < 0 {
			return false
		}
		b = b[i+len(end):]
	}
}

// readDescriptor reads and checks a descriptor.
func readDescriptor(m parse.Image) (*descriptor, error) {
	b, err := parse.Prefix(m, Name, scanLen)
	if err != nil {
		return nil, err
	}
	if !isDescriptor(b) {
		return nil, formats.ErrNotFormat
	}
	if m.Size() > maxDescriptor {
		return nil, m.Unsupported("descriptor", 0, "%d bytes, limit %d", m.Size(), int64(maxDescriptor))
	}
	if b, err = m.Bytes("descriptor", 0, m.Size()); err != nil {
		return nil, err
	}
	r := &reader{m: m, set: make(map[*string]bool)}
	if err := r.read(b); err != nil {
		return nil, err
	}
	return r.finish()
}

// A reader collects the texts of a descriptor.
type reader struct {
	m   parse.Image
	at  int64 // where the reader is
	set map[*string]bool

	size, padding, engine, uid, name, top string
	storages                              []*rawStorage
	shots                                 []*shot
	images                                int
}

type rawStorage struct {
	start, end, cluster string
	images              []*imageFile
}

func (r *reader) corrupt(format string, args ...any) error {
	return r.m.Corrupt("descriptor", r.at, format, args...)
}

func (r *reader) unsupported(format string, args ...any) error {
	return r.m.Unsupported("descriptor", r.at, format, args...)
}

func (r *reader) read(b []byte) error {
	dec := xml.NewDecoder(bytes.NewReader(b))
	charset := ""
	dec.CharsetReader = func(name string, _ io.Reader) (io.Reader, error) {
		charset = name
		return nil, errors.New("unknown")
	}
	var path []string
	var text []byte
	done := false
	for {
		tok, err := dec.Token()
		r.at = dec.InputOffset()
		switch {
		case errors.Is(err, io.EOF) && done:
			return nil
		case charset != "":
			return r.unsupported("character set %q", charset)
		case err != nil:
			return r.corrupt("%v", err)
		}
		switch t := tok.(type) {
		case xml.Directive:
			return r.unsupported("a document type")
		case xml.StartElement:
			if len(path) == 0 && (done || t.Name.Local != rootName) {
				return r.corrupt("element %q beside %s", t.Name.Local, rootName)
			}
			if len(path) == maxDepth {
				return r.unsupported("more than %d levels", maxDepth)
			}
			path, text = append(path, t.Name.Local), nil
			if err := r.start(path, t); err != nil {
				return err
			}
		case xml.CharData:
			if len(path) > 0 {
				text = append(text, t...)
			}
		case xml.EndElement:
			if err := r.end(path, strings.TrimSpace(string(text))); err != nil {
				return err
			}
			path, text = path[:len(path)-1], nil
			done = len(path) == 0
		}
	}
}

// start makes what an element stands for.
func (r *reader) start(path []string, t xml.StartElement) error {
	switch strings.Join(path[1:], "/") {
	case "":
		for _, a := range t.Attr {
			if a.Name.Local == "Version" && a.Value != "1.0" {
				return r.unsupported("version %q", a.Value)
			}
		}
	case "StorageData/Storage":
		if len(r.storages) == maxFiles {
			return r.unsupported("more than %d storages", maxFiles)
		}
		r.storages = append(r.storages, &rawStorage{})
	case "StorageData/Storage/Image":
		if r.images++; r.images > maxFiles {
			return r.unsupported("more than %d image files", maxFiles)
		}
		s := r.storages[len(r.storages)-1]
		s.images = append(s.images, &imageFile{})
	case "Snapshots/Shot":
		if len(r.shots) == maxShots {
			return r.unsupported("more than %d snapshots", maxShots)
		}
		r.shots = append(r.shots, &shot{})
	}
	return nil
}

// end stores the text of an element.
func (r *reader) end(path []string, text string) error {
	var to *string
	guid := false
	switch strings.Join(path[1:], "/") {
	case "Disk_Parameters/Disk_size":
		to = &r.size
	case "Disk_Parameters/Padding":
		to = &r.padding
	case "Disk_Parameters/Encryption/Engine":
		to = &r.engine
	case "Disk_Parameters/UID":
		to = &r.uid
	case "Disk_Parameters/Name":
		to = &r.name
	case "StorageData/Storage/Start":
		to = &r.storages[len(r.storages)-1].start
	case "StorageData/Storage/End":
		to = &r.storages[len(r.storages)-1].end
	case "StorageData/Storage/Blocksize":
		to = &r.storages[len(r.storages)-1].cluster
	case "StorageData/Storage/Image/GUID":
		to, guid = &r.image().guid, true
	case "StorageData/Storage/Image/Type":
		to = &r.image().kind
	case "StorageData/Storage/Image/File":
		to = &r.image().name
	case "Snapshots/TopGUID":
		to, guid = &r.top, true
	case "Snapshots/Shot/GUID":
		to, guid = &r.shots[len(r.shots)-1].guid, true
	case "Snapshots/Shot/ParentGUID":
		to, guid = &r.shots[len(r.shots)-1].parent, true
	default:
		return nil
	}
	if r.set[to] {
		return r.corrupt("%s is there twice", path[len(path)-1])
	}
	r.set[to] = true
	if guid {
		g, ok := parseGUID(text)
		if !ok {
			return r.corrupt("%s %q", path[len(path)-1], text)
		}
		text = g
	}
	*to = text
	return nil
}

func (r *reader) image() *imageFile {
	s := r.storages[len(r.storages)-1]
	return s.images[len(s.images)-1]
}

// parseGUID returns the form that is compared.
func parseGUID(s string) (string, bool) {
	if a, ok := strings.CutPrefix(s, "{"); ok {
		if s, ok = strings.CutSuffix(a, "}"); !ok {
			return "", false
		}
	}
	s = strings.ToLower(s)
	if len(s) != len(nullGUID) {
		return "", false
	}
	for i := range len(s) {
		if (nullGUID[i] == '-') != (s[i] == '-') || strings.IndexByte("0123456789abcdef-", s[i]) < 0 {
			return "", false
		}
	}
	return s, true
}

// sectors reads a number of sectors.
func (r *reader) sectors(what, text string) (int64, error) {
	n, err := strconv.ParseInt(text, 10, 64)
	if err != nil || n < 0 || n > math.MaxInt64/sector {
		return 0, r.corrupt("%s %q", what, text)
	}
	return n * sector, nil
}

// finish checks the whole.
func (r *reader) finish() (*descriptor, error) {
	r.at = 0
	d := &descriptor{uid: printable(r.uid), name: printable(r.name)}
	if r.padding != "" && r.padding != "0" {
		return nil, r.unsupported("padding %q", r.padding)
	}
	if g, ok := parseGUID(r.engine); r.engine != "" && (!ok || g != nullGUID) {
		return nil, r.unsupported("encryption by %q", r.engine)
	}
	if err := r.layout(d); err != nil {
		return nil, err
	}
	if err := r.tree(d); err != nil {
		return nil, err
	}
	return d, nil
}

func (d *descriptor) note(format string, args ...any) {
	d.problems = append(d.problems, formats.Problem{
		Severity: formats.Note, Structure: "descriptor", Offset: -1, Text: fmt.Sprintf(format, args...),
	})
}

// layout puts the storages in order.
func (r *reader) layout(d *descriptor) error {
	if len(r.storages) == 0 {
		return r.corrupt("no storage")
	}
	// Files are found by base name, so it has to tell them apart.
	names := make(map[string]bool)
	for _, raw := range r.storages {
		var s storage
		var err error
		if s.start, err = r.sectors("Start", raw.start); err != nil {
			return err
		}
		if s.end, err = r.sectors("End", raw.end); err != nil {
			return err
		}
		if raw.cluster != "" {
			if s.cluster, err = r.sectors("Blocksize", raw.cluster); err != nil {
				return err
			}
		}
		guids := make(map[string]bool)
		for _, f := range raw.images {
			base := f.name[strings.LastIndexAny(f.name, `/\`)+1:]
			switch {
			case f.guid == "":
				return r.corrupt("an image without GUID")
			case guids[f.guid]:
				return r.corrupt("image %s is there twice", f.guid)
			case f.kind != "Compressed" && f.kind != "Plain":
				return r.unsupported("image of type %q", f.kind)
			case base == "" || base == "." || base == ".." || strings.ContainsRune(base, 0):
				return r.corrupt("image file %q", f.name)
			case names[base]:
				return r.unsupported("two image files %q", base)
			}
			guids[f.guid], names[base] = true, true
			s.images = append(s.images, imageFile{guid: f.guid, kind: f.kind, name: base})
		}
		d.storages = append(d.storages, s)
	}
	slices.SortStableFunc(d.storages, func(a, b storage) int {
		switch {
		case a.start < b.start:
			return -1
		case a.start > b.start:
			return 1
		}
		return 0
	})
	end := int64(0)
	for _, s := range d.storages {
		if s.start != end || s.end < s.start || s.end == s.start && len(d.storages) > 1 {
			return r.corrupt("storage from sector %d to %d, behind %d", s.start/sector, s.end/sector, end/sector)
		}
		end = s.end
	}
	d.size = end
	if r.size == "" {
		return nil
	}
	size, err := r.sectors("Disk_size", r.size)
	switch {
	case err != nil:
		return err
	case size > end:
		return r.corrupt("Disk_size %d, the storages have %d sectors", size/sector, end/sector)
	case size < end:
		d.note("Disk_size %d, the storages have %d sectors", size/sector, end/sector)
		d.size = size
	}
	return nil
}

// tree puts the snapshots in order and finds the top.
func (r *reader) tree(d *descriptor) error {
	if d.top = r.top; d.top == "" {
		d.top = topGUID
	}
	if len(r.shots) == 0 {
		// Without snapshots there is one layer, whatever its name.
		first := d.storages[0].images
		if len(first) != 1 || r.top != "" && first[0].guid != r.top {
			return r.corrupt("no snapshots, and %d images", len(first))
		}
		d.top = first[0].guid
		r.shots = []*shot{{guid: d.top, parent: nullGUID}}
	}
	parents := make(map[string]string)
	for _, s := range r.shots {
		if s.parent == "" {
			s.parent = nullGUID
		}
		if _, ok := parents[s.guid]; ok || s.guid == "" || s.guid == nullGUID {
			return r.corrupt("snapshot %q is there twice, or has no GUID", s.guid)
		}
		parents[s.guid] = s.parent
	}
	depth := make(map[string]int)
	for _, s := range r.shots {
		n := 0
		for at := s.guid; at != nullGUID; at = parents[at] {
			if _, ok := parents[at]; !ok {
				return r.corrupt("snapshot %s is the parent of another, and is not there", at)
			}
			if n++; n > len(parents) {
				return r.corrupt("snapshot %s is its own parent", s.guid)
			}
		}
		depth[s.guid] = n
	}
	if depth[d.top] == 0 {
		return r.corrupt("top snapshot %s is not there", d.top)
	}
	for _, s := range r.shots {
		d.shots = append(d.shots, *s)
	}
	slices.SortStableFunc(d.shots, func(a, b shot) int { return depth[a.guid] - depth[b.guid] })
	for _, s := range d.storages {
		for _, f := range s.images {
			if depth[f.guid] == 0 {
				d.note("image file %q belongs to no snapshot", f.name)
			}
		}
	}
	return nil
}
