package ova

import (
	"bufio"
	"bytes"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path"
	"slices"
	"sort"
	"strings"
	"time"

	"tarvm/formats/machine/xmldoc"
	"tarvm/ovf"
)

// maxChunks of one file: their names have nine digits.
const maxChunks = 1_000_000

func chunkName(name string, i int) string { return fmt.Sprintf("%s.%09d", name, i) }

func isGzip(head []byte) bool { return bytes.HasPrefix(head, []byte{0x1f, 0x8b}) }

// newGzip has a buffer of its own, because the decoder reads ahead only where it finds none.
func newGzip(r io.Reader) (io.ReadCloser, error) {
	return gzip.NewReader(bufio.NewReaderSize(r, 64<<10))
}

// A MissingError says that a file is not in the package, and what needs it.
type MissingError struct {
	Name  string   // the file
	Users []string // what needs it: `reference "file1"`, `disk "vmdisk1"`
	Err   error    // nil: it is not there; else why it cannot be taken
}

// Error gives the form `disk1.vmdk: not in the package, needed by reference "file1", disk "vmdisk1"`.
func (e *MissingError) Error() string {
	what := "not in the package"
	if e.Err != nil {
		what = e.Err.Error()
	}
	s := fmt.Sprintf("%s: %s", e.Name, what)
	if len(e.Users) > 0 {
		s += ", needed by " + strings.Join(e.Users, ", ")
	}
	return s
}

// Unwrap returns fs.ErrNotExist and Err.
func (e *MissingError) Unwrap() []error {
	if e.Err != nil {
		return []error{fs.ErrNotExist, e.Err}
	}
	return []error{fs.ErrNotExist}
}

// A shown is a file as FS shows it.
type shown struct {
	name   string
	raw    *content // as it is stored, chunks joined
	gzip   bool
	at     io.ReaderAt // once it can be read at random
	size   int64       // of what is shown; -1: not known yet
	parts  []string    // stored files of which it is made, if these are several
	listed bool        // in References
}

// present makes the list of files that FS shows.
func (p *Package) present() error {
	p.files = make(map[string]*shown, len(p.stored))
	for name, c := range p.stored {
		p.files[name] = &shown{name: name, raw: c, size: c.size}
	}
	for _, f := range p.References {
		name, ok := p.Resolve(f)
		switch {
		case ok:
		case f.Chunk > 0:
			var err error
			if name, err = f.Name(); err != nil {
				continue
			}
			parts, c, err := p.chunks(f, name)
			if err != nil {
				return err
			}
			if c == nil {
				continue
			}
			for _, part := range parts {
				delete(p.files, part)
			}
			p.files[name] = &shown{name: name, raw: c, size: c.size, parts: parts}
		default:
			continue
		}
		show := p.files[name]
		if show == nil { // a chunk of another, and a file of its own
			return fmt.Errorf("%w: %q is used in two ways", ErrCorrupt, name)
		}
		show.listed = true
		switch strings.ToLower(f.Compression) {
		case "", "identity":
		case "gzip":
			show.gzip, show.size = true, -1
		default:
			return fmt.Errorf("%s: compression %.40q: %w", name, f.Compression, ovf.ErrUnsupported)
		}
	}
	p.dirs = map[string][]string{".": nil}
	for name := range p.files {
		for name != "." {
			dir := path.Dir(name)
			if slices.Contains(p.dirs[dir], path.Base(name)) {
				break
			}
			p.dirs[dir] = append(p.dirs[dir], path.Base(name))
			name = dir
		}
	}
	for dir, names := range p.dirs {
		sort.Strings(names)
		if p.files[dir] != nil {
			return fmt.Errorf("%w: %q is a file and a directory", ErrCorrupt, dir)
		}
	}
	return nil
}

// Resolve returns the path, relative to Dir, of the stored file that a reference means: its href unescaped, or as it
// stands where that is what the file is called.
func (p *Package) Resolve(f ovf.File) (string, bool) {
	if name, err := f.Name(); err == nil && p.stored[name] != nil {
		return name, true
	}
	if name, err := cleanName(f.Href); err == nil && p.stored[name] != nil {
		return name, true
	}
	return "", false
}

// chunks joins the parts of a file; nil if there is none.
func (p *Package) chunks(f ovf.File, name string) ([]string, *content, error) {
	var names []string
	var parts []*content
	size := int64(0)
	for i := 0; i < maxChunks; i++ {
		part := chunkName(name, i)
		c := p.stored[part]
		if c == nil {
			break
		}
		if i > 0 && parts[i-1].size != f.Chunk || c.size > f.Chunk || c.size == 0 && i > 0 {
			return nil, nil, fmt.Errorf("%w: %s: parts of %d bytes, but the size of one near %s is %d", ErrCorrupt, name, f.Chunk, part, c.size)
		}
		names, parts = append(names, part), append(parts, c)
		size += c.size
	}
	if len(parts) == 0 {
		return nil, nil, nil
	}
	if f.Size >= 0 && size < f.Size {
		return nil, nil, fmt.Errorf("%w: %s: its %d parts have %d bytes, it has %d", ErrCorrupt, name, len(parts), size, f.Size)
	}
	c := &content{size: size}
	at := &joined{chunk: f.Chunk, size: size}
	for _, part := range parts {
		r := part.at
		if r == nil && part.open != nil {
			r = reopened{part}
		}
		if r == nil {
			at = nil
			break
		}
		at.parts = append(at.parts, r)
	}
	if at != nil {
		c.at = at
	}
	c.stream = func() (io.ReadCloser, error) { return &sequence{parts: parts}, nil }
	return names, c, nil
}

// joined is chunks as one; all but the last have chunk bytes.
type joined struct {
	parts []io.ReaderAt
	chunk int64
	size  int64
}

func (j *joined) ReadAt(b []byte, off int64) (int, error) {
	done := 0
	for done < len(b) {
		if off >= j.size {
			return done, io.EOF
		}
		i := off / j.chunk
		n := min(int64(len(b)-done), (i+1)*j.chunk-off, j.size-off)
		m, err := j.parts[i].ReadAt(b[done:done+int(n)], off-i*j.chunk)
		done += m
		off += int64(m)
		if int64(m) < n {
			if err == nil || errors.Is(err, io.EOF) {
				err = io.ErrUnexpectedEOF
			}
			return done, err
		}
	}
	return done, nil
}

// reopened reads a file of a directory at random; it is opened each time, so that a thousand parts are not open at once.
type reopened struct{ c *content }

func (r reopened) ReadAt(b []byte, off int64) (int, error) {
	f, err := r.c.open()
	if err != nil {
		return 0, err
	}
	defer f.Close()
	at, ok := f.(io.ReaderAt)
	if !ok {
		return 0, errors.New("it cannot be read at random")
	}
	return at.ReadAt(b, off)
}

// sequence reads chunks one after the other.
type sequence struct {
	parts []*content
	r     io.ReadCloser
}

func (s *sequence) Read(b []byte) (int, error) {
	for {
		if s.r == nil {
			if len(s.parts) == 0 {
				return 0, io.EOF
			}
			var err error
			if s.r, err = s.parts[0].reader(); err != nil {
				return 0, err
			}
			s.parts = s.parts[1:]
		}
		n, err := s.r.Read(b)
		if !errors.Is(err, io.EOF) {
			return n, err
		}
		if err := s.Close(); err != nil || n > 0 {
			return n, err
		}
	}
}

func (s *sequence) Close() error {
	if s.r == nil {
		return nil
	}
	r := s.r
	s.r = nil
	return r.Close()
}

// Stored opens a file as it is stored, from its start: compressed, if it is, and chunks joined. name is one that FS shows.
// It returns its size in bytes.
func (p *Package) Stored(name string) (io.ReadCloser, int64, error) {
	f := p.files[name]
	if f == nil {
		return nil, 0, p.missing(name)
	}
	r, err := f.raw.reader()
	return r, f.raw.size, err
}

// Parts returns the names of the stored files that make up one that FS shows, if these are several.
func (p *Package) Parts(name string) []string {
	if f := p.files[name]; f != nil {
		return slices.Clone(f.parts)
	}
	return nil
}

// IsGzip reports whether a file that FS shows is stored compressed.
func (p *Package) IsGzip(name string) bool {
	f := p.files[name]
	return f != nil && f.gzip
}

// Missing returns an error for each reference whose file is not in the package, or whose href leads out of it.
func (p *Package) Missing() []*MissingError {
	var list []*MissingError
	for _, f := range p.References {
		if _, ok := p.Resolve(f); ok {
			continue
		}
		name, err := f.Name()
		if err == nil && p.files[name] != nil {
			continue
		}
		e := &MissingError{Name: f.Href, Users: p.users(f), Err: err}
		if err == nil && f.Chunk == 0 && p.stored[chunkName(name, 0)] != nil {
			e.Err = fmt.Errorf("there is %s, but the reference has no chunkSize", chunkName(name, 0))
		}
		list = append(list, e)
	}
	return list
}

// missing is Missing for one name.
func (p *Package) missing(name string) error {
	for _, e := range p.Missing() {
		if e.Name == name {
			return e
		}
		if n, err := (ovf.File{Href: e.Name}).Name(); err == nil && n == name {
			return e
		}
	}
	return &MissingError{Name: name}
}

// users returns what in the envelope refers to a file.
func (p *Package) users(f ovf.File) []string {
	users := []string{fmt.Sprintf("reference %.100q", f.ID)}
	doc, err := xmldoc.Parse("ovf", p.Envelope.Data, ovf.MaxEnvelope)
	if err != nil {
		return users
	}
	for _, e := range doc.FindElements("//Disk") {
		if f.ID != "" && attr(e.Attr, "fileRef") == f.ID {
			users = append(users, fmt.Sprintf("disk %.100q", attr(e.Attr, "diskId")))
		}
	}
	for _, e := range doc.FindElements("//HostResource") {
		if f.ID != "" && strings.HasSuffix(strings.TrimSpace(e.Text()), "/file/"+f.ID) {
			name := "?"
			for _, n := range e.Parent().ChildElements() {
				if n.Tag == "ElementName" {
					name = n.Text()
				}
			}
			users = append(users, fmt.Sprintf("device %.100q", name))
		}
	}
	return users
}

// Unpack makes a file that FS shows readable at random, which opening it would do as well: that of a gzip or deflated one
// is written to a spool. It does nothing for the others. progress is told how many bytes of the stored file were read;
// it may be nil.
func (p *Package) Unpack(ctx context.Context, name string, progress func(done int64)) error {
	f := p.files[name]
	if f == nil {
		return p.missing(name)
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if f.at != nil {
		return nil
	}
	if f.raw.at != nil && !f.gzip {
		f.at = f.raw.at
		return nil
	}
	r, err := f.raw.reader()
	if err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	defer r.Close()
	var in io.Reader = stopReader{ctx, r}
	if progress != nil {
		in = &counting{r: in, f: progress}
	}
	if f.gzip {
		z, err := newGzip(in)
		if err != nil {
			return fmt.Errorf("%s: %w: %w", name, ErrCorrupt, err)
		}
		in = z
	} else if f.raw.stream != nil {
		in = io.LimitReader(in, f.raw.size+1) // an archive may understate it
	}
	s, err := p.spool(name)
	if err != nil {
		return err
	}
	l := &limited{p: p, w: s}
	if _, err := io.Copy(l, in); err != nil {
		return fmt.Errorf("%s: %w", name, damage(err))
	}
	if !f.gzip && l.n != f.raw.size {
		return fmt.Errorf("%s: %w: it has not the %d bytes that its header says", name, ErrCorrupt, f.raw.size)
	}
	f.at, f.size = s, l.n
	return nil
}

type counting struct {
	r io.Reader
	f func(int64)
	n int64
}

func (c *counting) Read(b []byte) (int, error) {
	n, err := c.r.Read(b)
	c.n += int64(n)
	c.f(c.n)
	return n, err
}

// FS returns the package's files, relative to the envelope's directory. Its files implement io.ReaderAt and
// formats.Source, and may be read by several goroutines. Opening a compressed file unpacks all of it first: see Unpack. A
// reference's file that is not there is a *MissingError, which is fs.ErrNotExist.
func (p *Package) FS() fs.FS { return tree{p} }

type tree struct{ p *Package }

// Open implements fs.FS.
func (t tree) Open(name string) (fs.File, error) {
	fail := func(err error) (fs.File, error) { return nil, &fs.PathError{Op: "open", Path: name, Err: err} }
	if !fs.ValidPath(name) {
		return fail(fs.ErrInvalid)
	}
	if names, ok := t.p.dirs[name]; ok {
		return &openDir{t: t, name: name, names: names}, nil
	}
	f := t.p.files[name]
	if f == nil {
		return fail(t.p.missing(name))
	}
	if f.raw.open != nil && !f.gzip {
		o, err := f.raw.open()
		if err != nil {
			return fail(err)
		}
		return o, nil
	}
	if err := t.p.Unpack(context.Background(), name, nil); err != nil {
		return fail(err)
	}
	return &openFile{SectionReader: io.NewSectionReader(f.at, 0, f.size), name: path.Base(name)}, nil
}

type openFile struct {
	*io.SectionReader
	name string
}

func (f *openFile) Stat() (fs.FileInfo, error) { return info{name: f.name, size: f.Size()}, nil }
func (f *openFile) Close() error               { return nil }

type openDir struct {
	t     tree
	name  string
	names []string
}

func (d *openDir) Stat() (fs.FileInfo, error) { return info{name: path.Base(d.name), dir: true}, nil }
func (d *openDir) Close() error               { return nil }

func (d *openDir) Read([]byte) (int, error) {
	return 0, &fs.PathError{Op: "read", Path: d.name, Err: errors.New("is a directory")}
}

// ReadDir implements fs.ReadDirFile.
func (d *openDir) ReadDir(n int) ([]fs.DirEntry, error) {
	list := d.names
	if n > 0 {
		if len(list) == 0 {
			return nil, io.EOF
		}
		list = list[:min(n, len(list))]
	}
	d.names = d.names[len(list):]
	out := make([]fs.DirEntry, len(list))
	for i, name := range list {
		full := path.Join(d.name, name)
		_, dir := d.t.p.dirs[full]
		out[i] = dirEntry{t: d.t, full: full, dir: dir}
	}
	return out, nil
}

type dirEntry struct {
	t    tree
	full string
	dir  bool
}

func (e dirEntry) Name() string { return path.Base(e.full) }
func (e dirEntry) IsDir() bool  { return e.dir }
func (e dirEntry) Type() fs.FileMode {
	if e.dir {
		return fs.ModeDir
	}
	return 0
}

func (e dirEntry) Info() (fs.FileInfo, error) { return fs.Stat(e.t, e.full) }

type info struct {
	name string
	size int64
	dir  bool
}

func (i info) Name() string       { return i.name }
func (i info) Size() int64        { return i.size }
func (i info) ModTime() time.Time { return time.Time{} }
func (i info) IsDir() bool        { return i.dir }
func (i info) Sys() any           { return nil }
func (i info) Mode() fs.FileMode {
	if i.dir {
		return fs.ModeDir | 0o555
	}
	return 0o444
}
