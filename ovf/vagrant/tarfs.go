package vagrant

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path"
	"slices"
	"strconv"
	"strings"
	"time"

	"tarvm/formats"
	"tarvm/ovf/internal/opendir"
)

const form = "vagrant"

const (
	block      = 512     // bytes of a header, and what bodies are filled up to
	maxMembers = 100_000 // seen: 40
	maxRuns    = 4 << 20 // of a sparse member
	maxRecords = 1 << 20 // bytes of a pax header or a long name
)

// A run is bytes of a file and where they are in the archive.
type run struct{ off, length, at int64 }

// A node is a file or a directory of the archive.
type node struct {
	name string // the path in the box
	size int64
	runs []run
	dir  bool
	time time.Time
	src  formats.Source
}

// OpenTar reads the index of an archive that is not compressed. Files of the result are io.ReaderAt, and tell the holes
// of sparse members (see raw.Sparse). src must stay open while it is used. Links and devices are left out. Errors are
// formats.ErrNotFormat for what is no tar archive, or wrap formats.ErrCorrupt or formats.ErrUnsupported.
func OpenTar(src formats.Source) (fs.FS, error) {
	t := &tarFS{nodes: map[string]*node{".": {name: ".", dir: true}}}
	r := &reader{src: src}
	for {
		n, kind, err := r.next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return nil, err
		}
		name := path.Clean(strings.TrimRight(strings.TrimPrefix(n.name, "./"), "/"))
		if name == "." {
			continue
		}
		if !fs.ValidPath(name) || strings.ContainsAny(name, "\\\x00") || strings.Contains("/"+n.name+"/", "/../") {
			return nil, corrupt("member", r.header, "the name %q leads elsewhere", clip(n.name))
		}
		switch kind {
		case '0', 0, '7', 'S':
		case '5':
			n.dir = true
		default:
			continue
		}
		if old := t.nodes[name]; old != nil && (!old.dir || !n.dir) {
			return nil, corrupt("member", r.header, "%q is there twice", clip(name))
		}
		n.name, n.src = name, src
		t.nodes[name] = n
		for dir := path.Dir(name); dir != "."; dir = path.Dir(dir) {
			switch old := t.nodes[dir]; {
			case old == nil:
				t.nodes[dir] = &node{name: dir, dir: true}
			case !old.dir:
				return nil, corrupt("member", r.header, "%q is in a file", clip(name))
			}
		}
		if len(t.nodes) > maxMembers {
			return nil, fail("archive", -1, formats.ErrUnsupported, "more than %d members", maxMembers)
		}
	}
	return t, nil
}

func fail(structure string, off int64, err error, format string, a ...any) error {
	return &formats.FormatError{Format: form, Structure: structure, Offset: off, Got: fmt.Sprintf(format, a...), Err: err}
}

func corrupt(structure string, off int64, format string, a ...any) error {
	return fail(structure, off, formats.ErrCorrupt, format, a...)
}

func clip(s string) string { return s[:min(len(s), 80)] }

// reader walks the members of an archive.
type reader struct {
	src    formats.Source
	pos    int64
	header int64 // of the last member
	any    bool
}

func (r *reader) full(b []byte, off int64) error {
	n, err := r.src.ReadAt(b, off)
	if n == len(b) {
		return nil
	}
	if err == nil || errors.Is(err, io.EOF) {
		return corrupt("archive", off, "it ends in the middle of a member")
	}
	return fmt.Errorf("vagrant: at byte 0x%x: %w", off, err)
}

// next returns the next member, and io.EOF behind the last.
func (r *reader) next() (*node, byte, error) {
	records := map[string]string{}
	long, pending := "", false
	for {
		var h [block]byte
		if r.pos >= r.src.Size() {
			if pending || !r.any {
				return nil, 0, r.ends()
			}
			return nil, 0, io.EOF
		}
		if err := r.full(h[:], r.pos); err != nil {
			if !r.any {
				return nil, 0, r.ends()
			}
			return nil, 0, err
		}
		r.header = r.pos
		if formats.IsZero(h[:]) {
			if pending || !r.any {
				return nil, 0, r.ends()
			}
			return nil, 0, io.EOF
		}
		if !sumRight(&h) {
			if !r.any {
				return nil, 0, r.ends()
			}
			return nil, 0, corrupt("header", r.pos, "its checksum is wrong")
		}
		r.any = true
		size, ok := numeric(h[124:136])
		kind := h[156]
		if !ok {
			return nil, 0, corrupt("header", r.pos, "size %q", h[124:136])
		}
		if s := records["size"]; s != "" && kind != 'x' && kind != 'L' && kind != 'K' {
			n, err := strconv.ParseInt(s, 10, 64)
			if err != nil || n < 0 {
				return nil, 0, corrupt("header", r.pos, "size %q", clip(s))
			}
			size = n
		}
		body := r.pos + block
		if kind == '1' || kind == '2' || kind == '3' || kind == '4' || kind == '5' || kind == '6' {
			size = 0
		}
		if size > r.src.Size()-body {
			return nil, 0, corrupt("archive", r.pos, "it ends in the middle of a member")
		}
		switch kind {
		case 'x', 'g', 'L', 'K':
			if size > maxRecords {
				return nil, 0, fail("header", r.pos, formats.ErrUnsupported, "%d bytes of records", size)
			}
			b := make([]byte, size)
			if err := r.full(b, body); err != nil {
				return nil, 0, err
			}
			r.pos = body + (size+block-1)/block*block
			switch kind {
			case 'x':
				if err := pax(b, records); err != nil {
					return nil, 0, corrupt("header", r.header, "%s", err)
				}
				pending = true
			case 'L':
				long, pending = string(bytes.TrimRight(b, "\x00")), true
			}
			continue
		}
		n := &node{size: size, name: text(h[:100])}
		if string(h[257:263]) == "ustar\x00" {
			if prefix := text(h[345:500]); prefix != "" {
				n.name = prefix + "/" + n.name
			}
		}
		n.name = cmp.Or(records["GNU.sparse.name"], records["path"], long, n.name)
		if sec, ok := numeric(h[136:148]); ok {
			n.time = time.Unix(sec, 0).UTC()
		}
		end := body + size
		if err := r.runs(n, &h, kind, body, records); err != nil {
			return nil, 0, err
		}
		if kind == 'S' { // its map has blocks of its own
			end = r.pos + size
		}
		if end > r.src.Size() {
			return nil, 0, corrupt("archive", r.header, "it ends in the middle of a member")
		}
		r.pos = r.header + block + (end-r.header-block+block-1)/block*block
		return n, kind, nil
	}
}

// ends is the error of an archive that does not begin.
func (r *reader) ends() error {
	if !r.any {
		return fail("archive", 0, formats.ErrNotFormat, "no tar archive")
	}
	return corrupt("archive", r.header, "a header is before nothing")
}

// runs finds where the bytes of n are. For kind S it leaves r.pos behind the map.
func (r *reader) runs(n *node, h *[block]byte, kind byte, body int64, records map[string]string) error {
	var list [][2]int64
	var real int64
	stored, at := n.size, body
	switch {
	case kind == 'S':
		var ok bool
		if real, ok = numeric(h[483:495]); !ok {
			return corrupt("sparse map", r.header, "size %q", h[483:495])
		}
		more, entries := h[482] != 0, h[386:482]
		r.pos = body
		for {
			for ; len(entries) >= 24; entries = entries[24:] {
				off, ok1 := numeric(entries[:12])
				length, ok2 := numeric(entries[12:24])
				if entries[0] == 0 { // unused
					break
				}
				if !ok1 || !ok2 {
					return corrupt("sparse map", r.pos, "%q", entries[:24])
				}
				list = append(list, [2]int64{off, length})
			}
			if !more {
				break
			}
			if len(list) > maxRuns {
				return fail("sparse map", r.header, formats.ErrUnsupported, "more than %d runs", maxRuns)
			}
			var e [block]byte
			if err := r.full(e[:], r.pos); err != nil {
				return err
			}
			r.pos += block
			more, entries = e[504] != 0, e[:504]
		}
		at = r.pos
	case records["GNU.sparse.major"] == "1":
		var err error
		if list, at, err = r.sparse10(body, n.size); err != nil {
			return err
		}
		stored -= at - body
		if real, err = strconv.ParseInt(records["GNU.sparse.realsize"], 10, 64); err != nil {
			return corrupt("sparse map", r.header, "size %q", clip(records["GNU.sparse.realsize"]))
		}
	case records["GNU.sparse.map"] != "" || records["GNU.sparse.size"] != "":
		numbers := strings.Split(records["GNU.sparse.map"], ",")
		if records["GNU.sparse.map"] == "" {
			numbers = nil
		}
		for i := 0; i+1 < len(numbers); i += 2 {
			off, err1 := strconv.ParseInt(numbers[i], 10, 64)
			length, err2 := strconv.ParseInt(numbers[i+1], 10, 64)
			if err1 != nil || err2 != nil {
				return corrupt("sparse map", r.header, "%q", clip(numbers[i]))
			}
			list = append(list, [2]int64{off, length})
		}
		var err error
		if real, err = strconv.ParseInt(records["GNU.sparse.size"], 10, 64); err != nil || len(numbers)%2 != 0 {
			return corrupt("sparse map", r.header, "size %q, %d numbers", clip(records["GNU.sparse.size"]), len(numbers))
		}
	default:
		if n.size > 0 {
			n.runs = []run{{0, n.size, body}}
		}
		return nil
	}
	end := int64(0)
	for _, e := range list {
		if e[0] < end || e[1] < 0 || e[1] > stored || e[0] > real-e[1] {
			return corrupt("sparse map", r.header, "%d bytes at %d of %d", e[1], e[0], real)
		}
		if e[1] > 0 {
			n.runs = append(n.runs, run{e[0], e[1], at})
		}
		end = e[0] + e[1]
		at += e[1]
		stored -= e[1]
	}
	if stored != 0 || real < 0 {
		return corrupt("sparse map", r.header, "%d bytes belong nowhere", stored)
	}
	n.size = real
	return nil
}

// sparse10 reads the map at the start of a body, of pax sparse 1.0: decimal numbers, one a line, filled up to a block.
func (r *reader) sparse10(body, size int64) (list [][2]int64, at int64, err error) {
	var line []byte
	var numbers []int64
	count := int64(-1)
	var b [block]byte
	for at = body; count < 0 || int64(len(numbers)) < 2*count; at += block {
		if at+block > body+(size+block-1)/block*block {
			return nil, 0, corrupt("sparse map", body, "it passes the end of the member")
		}
		if err := r.full(b[:], at); err != nil {
			return nil, 0, err
		}
		for _, c := range b {
			if count >= 0 && int64(len(numbers)) == 2*count {
				break
			}
			if c != '\n' {
				if line = append(line, c); len(line) > 20 {
					return nil, 0, corrupt("sparse map", at, "%q is no number", line)
				}
				continue
			}
			v, err := strconv.ParseInt(string(line), 10, 64)
			if err != nil || v < 0 {
				return nil, 0, corrupt("sparse map", at, "%q is no number", line)
			}
			line = line[:0]
			if count < 0 {
				if count = v; count > maxRuns {
					return nil, 0, fail("sparse map", at, formats.ErrUnsupported, "%d runs", count)
				}
				continue
			}
			numbers = append(numbers, v)
		}
	}
	for i := 0; i+1 < len(numbers); i += 2 {
		list = append(list, [2]int64{numbers[i], numbers[i+1]})
	}
	return list, at, nil
}

// pax reads the records of an extended header.
func pax(b []byte, records map[string]string) error {
	var points []string // of sparse 0.0: offset and length by turns
	for len(b) > 0 {
		i := bytes.IndexByte(b, ' ')
		n, err := strconv.Atoi(string(b[:max(i, 0)]))
		if i <= 0 || err != nil || n <= i+1 || n > len(b) || b[n-1] != '\n' {
			return fmt.Errorf("record %q", b[:min(len(b), 20)])
		}
		key, value, ok := strings.Cut(string(b[i+1:n-1]), "=")
		if !ok {
			return fmt.Errorf("record %q", clip(key))
		}
		if key == "GNU.sparse.offset" || key == "GNU.sparse.numbytes" {
			points = append(points, value)
		}
		records[key] = value
		b = b[n:]
	}
	if len(points) > 0 {
		records["GNU.sparse.map"] = strings.Join(points, ",")
	}
	return nil
}

// text is a field up to its first NUL.
func text(b []byte) string {
	s, _, _ := bytes.Cut(b, []byte{0})
	return string(s)
}

// numeric reads a number: octal digits, or base-256.
func numeric(b []byte) (int64, bool) {
	if b[0]&0x80 != 0 {
		if b[0] != 0x80 {
			return 0, false // negative, or too large
		}
		v := int64(0)
		for _, c := range b[1:] {
			if v >= 1<<54 {
				return 0, false
			}
			v = v<<8 | int64(c)
		}
		return v, true
	}
	s := strings.Trim(text(b), " ")
	if s == "" {
		return 0, true
	}
	v, err := strconv.ParseUint(s, 8, 62)
	return int64(v), err == nil
}

func sumRight(h *[block]byte) bool {
	want, ok := numeric(h[148:156])
	sum, signed := int64(0), int64(0)
	for i, c := range h {
		if i >= 148 && i < 156 {
			c = ' '
		}
		sum += int64(c)
		signed += int64(int8(c))
	}
	return ok && (want == sum || want == signed)
}

// Size implements formats.Source.
func (n *node) Size() int64 { return n.size }

// ReadAt implements io.ReaderAt.
func (n *node) ReadAt(p []byte, off int64) (int, error) {
	if off < 0 {
		return 0, fs.ErrInvalid
	}
	done := 0
	for done < len(p) && off < n.size {
		want := p[done:min(int64(len(p)), int64(done)+n.size-off)]
		i, _ := slices.BinarySearchFunc(n.runs, off+1, func(r run, end int64) int { return cmp.Compare(r.off+r.length, end) })
		if i == len(n.runs) || n.runs[i].off > off { // a hole
			if i < len(n.runs) {
				want = want[:min(int64(len(want)), n.runs[i].off-off)]
			}
			clear(want)
		} else {
			r := n.runs[i]
			want = want[:min(int64(len(want)), r.off+r.length-off)]
			if m, err := n.src.ReadAt(want, r.at+off-r.off); m < len(want) {
				if err == nil || errors.Is(err, io.EOF) {
					err = io.ErrUnexpectedEOF
				}
				return done + m, err
			}
		}
		done += len(want)
		off += int64(len(want))
	}
	if done < len(p) {
		return done, io.EOF
	}
	return done, nil
}

// DataAt implements raw.Sparse.
func (n *node) DataAt(off int64) (start, end int64, err error) {
	i, _ := slices.BinarySearchFunc(n.runs, off+1, func(r run, end int64) int { return cmp.Compare(r.off+r.length, end) })
	if i == len(n.runs) {
		return n.size, n.size, nil
	}
	return max(off, n.runs[i].off), n.runs[i].off + n.runs[i].length, nil
}

type info struct{ n *node }

func (i info) Name() string       { return path.Base(i.n.name) }
func (i info) Size() int64        { return i.n.size }
func (i info) ModTime() time.Time { return i.n.time }
func (i info) IsDir() bool        { return i.n.dir }
func (i info) Sys() any           { return nil }
func (i info) Mode() fs.FileMode {
	if i.n.dir {
		return fs.ModeDir | 0o555
	}
	return 0o444
}

type tarFS struct{ nodes map[string]*node }

func (t *tarFS) find(op, name string) (*node, error) {
	if !fs.ValidPath(name) {
		return nil, &fs.PathError{Op: op, Path: name, Err: fs.ErrInvalid}
	}
	if n := t.nodes[name]; n != nil {
		return n, nil
	}
	return nil, &fs.PathError{Op: op, Path: name, Err: fs.ErrNotExist}
}

// Open implements fs.FS.
func (t *tarFS) Open(name string) (fs.File, error) {
	n, err := t.find("open", name)
	if err != nil {
		return nil, err
	}
	if n.dir {
		list, err := t.ReadDir(name)
		return &opendir.Dir{Info: info{n}, Entries: list}, err
	}
	return &openFile{io.NewSectionReader(n, 0, n.size), n}, nil
}

// Stat implements fs.StatFS.
func (t *tarFS) Stat(name string) (fs.FileInfo, error) {
	n, err := t.find("stat", name)
	if err != nil {
		return nil, err
	}
	return info{n}, nil
}

// ReadDir implements fs.ReadDirFS.
func (t *tarFS) ReadDir(name string) ([]fs.DirEntry, error) {
	n, err := t.find("readdir", name)
	if err != nil {
		return nil, err
	}
	if !n.dir {
		return nil, &fs.PathError{Op: "readdir", Path: name, Err: errors.New("not a directory")}
	}
	var list []fs.DirEntry
	for other, k := range t.nodes {
		if other != "." && path.Dir(other) == name {
			list = append(list, fs.FileInfoToDirEntry(info{k}))
		}
	}
	slices.SortFunc(list, func(a, b fs.DirEntry) int { return strings.Compare(a.Name(), b.Name()) })
	return list, nil
}

type openFile struct {
	*io.SectionReader
	n *node
}

func (o *openFile) Stat() (fs.FileInfo, error) { return info{o.n}, nil }
func (o *openFile) Close() error               { return nil }

// DataAt implements raw.Sparse.
func (o *openFile) DataAt(off int64) (start, end int64, err error) { return o.n.DataAt(off) }
