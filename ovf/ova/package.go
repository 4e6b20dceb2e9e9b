package ova

import (
	"archive/tar"
	"archive/zip"
	"bytes"
	"compress/flate"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"
	"unicode"
	"unicode/utf8"

	"tarvm/formats"
	"tarvm/formats/machine/xmldoc"
	"tarvm/ovf"
)

// Errors of this package; test with errors.Is. Beside these there are those of package ovf (ErrUnsafe for a member that
// may not be in a package, ErrSyntax for a text), and the Source's.
var (
	// ErrNotPackage: no directory, tar or zip archive with an envelope in it.
	ErrNotPackage = errors.New("not an OVF package")
	// ErrCorrupt: an archive that is damaged, or contradicts itself.
	ErrCorrupt = errors.New("damaged package")
	// ErrTruncated: an archive that ends too early. It is ErrCorrupt, too.
	ErrTruncated = fmt.Errorf("%w: it is cut off", ErrCorrupt)
	// ErrSpool: content that must be written elsewhere to be read at random, and there is no Options.Spool.
	ErrSpool = errors.New("needs room to unpack")
	// ErrLimit: more than a limit allows.
	ErrLimit = errors.New("limit passed")
	// ErrSeveral: there are several envelopes and Options.Envelope chooses none.
	ErrSeveral = errors.New("several envelopes")
)

const (
	maxMembers = 100_000 // in one archive; an appliance has some ten
	// What is unpacked of a package may be so many times as much as is stored, or freeSpool if that is more, and defaultMaxSpool
	// at most. Deflate makes at most 1032 bytes of one: a raw disk that is nearly empty, in a .gz, is no attack. Zeros become
	// holes where that is possible.
	maxRatio        = 1100
	freeSpool       = 16 << 30
	defaultMaxSpool = 1 << 40
)

// Options say how a package is opened. The zero value opens directories, and archives that are not compressed.
type Options struct {
	// Envelope is the path of the envelope in the package, for one that has several. Empty: the only one.
	Envelope string
	// Decompress returns what a compressed stream holds. It is asked when an archive is neither tar nor zip.
	// nil: gzip alone is known.
	Decompress func(io.Reader) (io.ReadCloser, error)
	// Spool makes a file for what must be unpacked to be read at random; name says what it will hold, and is to be trusted
	// as little as any name in the package. The Package closes it. nil: such content is ErrSpool.
	Spool func(name string) (Spool, error)
	// MaxSpool is the largest number of bytes that one package may write to its spools. 0: 16 GiB or 1100 times what is
	// stored, whichever is more, and 1 TiB at most.
	MaxSpool int64
}

// A Spool keeps bytes that are written once, front to back, and then read at random. *os.File is one; whoever made it
// removes it.
type Spool interface {
	io.Writer
	io.ReaderAt
	io.Closer
}

// A Container is what holds the files of a package.
type Container string

// The containers.
const (
	Directory Container = "directory"
	Tar       Container = "tar"
	Zip       Container = "zip"
)

// A Member is a file of a package as it is stored.
type Member struct {
	Name string     `json:"name"`          // as it is stored: "./vm/disk.vmdk"
	Path string     `json:"path"`          // the same as a clean path: "vm/disk.vmdk"
	Size int64      `json:"size"`          // bytes
	Time time.Time  `json:"time,omitzero"` // when it was last changed; zero: not said
	Tar  *TarHeader `json:"tar,omitempty"`

	content *content
}

// A Text is one of the small files of a package.
type Text struct {
	Name string // relative to the envelope's directory
	Data []byte
}

// A Package is an open package. Its methods may be called from several goroutines at once, but for Close.
type Package struct {
	Container Container
	// Compressed: the archive itself was compressed, and is read from a spool.
	Compressed bool
	// Dir is the directory in the package in which the envelope is, and to which its references are relative; ".": the
	// package's own.
	Dir string
	// Envelope is the .ovf as it is stored. Manifest and Certificate are empty if there are none.
	Envelope, Manifest, Certificate Text
	// References are the files that the envelope lists, in its order.
	References []ovf.File
	// Members are all files in the order in which they are stored; of a directory they are those beside the envelope and
	// those that it refers to.
	Members []Member
	// Trailing is the number of bytes behind the end of a tar archive that are not zero, or are more zeros than a block
	// of 10240 explains. Only the first 64 KiB are looked at for that; if there are any, all bytes count.
	Trailing int64

	opts     Options
	stored   map[string]*content // by path relative to Dir
	mu       sync.Mutex
	files    map[string]*shown
	dirs     map[string][]string // names in each directory
	spooled  int64
	packed   func() int64 // how many bytes are stored, as far as that is known yet
	toClose  []io.Closer
	closeErr error
}

// content is the bytes of a member.
type content struct {
	size int64
	at   io.ReaderAt // nil: it can only be read from the start
	// stream reads from the start.
	stream func() (io.ReadCloser, error)
	// open is how a file of a directory is opened; at and stream are made of it.
	open func() (fs.File, error)
}

func (c *content) reader() (io.ReadCloser, error) {
	switch {
	case c.at != nil:
		return io.NopCloser(io.NewSectionReader(c.at, 0, c.size)), nil
	case c.open != nil:
		return c.open()
	}
	return c.stream()
}

// text reads a small file.
func (c *content) text(limit int64) ([]byte, error) {
	if c.size > limit {
		return nil, fmt.Errorf("%w: %d bytes, at most %d", ErrLimit, c.size, limit)
	}
	r, err := c.reader()
	if err != nil {
		return nil, err
	}
	defer r.Close()
	b, err := io.ReadAll(io.LimitReader(r, limit+1))
	err = damage(err)
	if err == nil && int64(len(b)) > limit {
		err = fmt.Errorf("%w: more than %d bytes", ErrLimit, limit)
	}
	return b, err
}

// Open opens an archive. src must stay open until the Package is closed. A compressed archive is unpacked to a spool
// first, which ctx may stop.
func Open(ctx context.Context, src formats.Source, o Options) (*Package, error) {
	head := make([]byte, tarBlock)
	n, err := src.ReadAt(head, 0)
	if err != nil && !errors.Is(err, io.EOF) {
		return nil, err
	}
	head = head[:n]
	p := &Package{opts: o, packed: src.Size}
	switch {
	case isZip(head):
		err = p.openZip(src)
	case isTar(head):
		err = p.openTar(ctx, src)
	default:
		err = p.openCompressed(ctx, io.NewSectionReader(src, 0, src.Size()), head)
	}
	return p.finish(err)
}

// OpenStream opens an archive that can only be read from the start, such as a pipe: a tar archive, compressed or not. It is
// copied to a spool.
func OpenStream(ctx context.Context, r io.Reader, o Options) (*Package, error) {
	head := make([]byte, tarBlock)
	n, err := io.ReadFull(r, head)
	if err != nil && !errors.Is(err, io.EOF) && !errors.Is(err, io.ErrUnexpectedEOF) {
		return nil, err
	}
	head = head[:n]
	in := &counter{r: io.MultiReader(bytes.NewReader(head), r)}
	r = in
	p := &Package{opts: o, packed: in.n.Load}
	switch {
	case isZip(head):
		err = fmt.Errorf("%w: a zip archive has its directory at the end and cannot come through a pipe", ErrNotPackage)
	case isTar(head):
		err = p.spoolTar(ctx, r)
	default:
		err = p.openCompressed(ctx, r, head)
	}
	return p.finish(err)
}

// OpenDir opens a package in a directory. The files of fsys must be io.ReaderAt, as those of os.Root and os.DirFS are;
// fsys decides where symbolic links lead. Files in other directories than the envelope's are seen only if it refers to
// them.
func OpenDir(fsys fs.FS, o Options) (*Package, error) {
	p := &Package{opts: o}
	p.packed = func() (n int64) {
		for i := range p.Members {
			n += p.Members[i].Size
		}
		return n
	}
	return p.finish(p.openDir(fsys))
}

func (p *Package) finish(err error) (*Package, error) {
	if err == nil {
		err = p.index()
	}
	if err != nil {
		p.Close()
		return nil, err
	}
	return p, nil
}

func (p *Package) openCompressed(ctx context.Context, r io.Reader, head []byte) error {
	if len(head) == 0 {
		return fmt.Errorf("%w: empty", ErrNotPackage)
	}
	if t := bytes.TrimLeft(head, "\ufeff \t\r\n"); bytes.HasPrefix(t, []byte("<?xml")) || bytes.HasPrefix(t, []byte("<Env")) || bytes.HasPrefix(t, []byte("<ovf:Env")) {
		return fmt.Errorf("%w: this is an envelope alone; its directory is the package", ErrNotPackage)
	}
	var z io.ReadCloser
	var err error
	switch {
	case p.opts.Decompress != nil:
		if z, err = p.opts.Decompress(r); err != nil {
			return fmt.Errorf("%w: neither tar nor zip: %w", ErrNotPackage, err)
		}
	case isGzip(head):
		if z, err = newGzip(r); err != nil {
			return fmt.Errorf("%w: %w", ErrCorrupt, err)
		}
	default:
		return fmt.Errorf("%w: neither tar nor zip", ErrNotPackage)
	}
	p.Compressed = true
	err = p.spoolTar(ctx, z)
	if cerr := z.Close(); err == nil && cerr != nil {
		err = fmt.Errorf("%w: %w", ErrCorrupt, cerr)
	}
	return err
}

// index finds the envelope among the members, and what belongs to it.
func (p *Package) index() error {
	env, err := p.choose()
	if err != nil {
		return err
	}
	p.Dir = path.Dir(env.Path)
	p.stored = make(map[string]*content, len(p.Members))
	for i := range p.Members {
		if rel, ok := p.relative(p.Members[i].Path); ok {
			p.stored[rel] = p.Members[i].content
		}
	}
	p.Envelope.Name = path.Base(env.Path)
	for _, t := range []struct {
		to    *Text
		ext   string
		limit int64
	}{{&p.Envelope, ".ovf", ovf.MaxEnvelope}, {&p.Manifest, ".mf", ovf.MaxManifest}, {&p.Certificate, ".cert", ovf.MaxCertificate}} {
		if t.to.Name == "" {
			t.to.Name = p.beside(t.ext)
		}
		if t.to.Name == "" {
			continue
		}
		if t.to.Data, err = p.stored[t.to.Name].text(t.limit); err != nil {
			return fmt.Errorf("%s: %w", t.to.Name, err)
		}
	}
	doc, err := xmldoc.Parse("ovf", p.Envelope.Data, ovf.MaxEnvelope)
	if err != nil {
		return fmt.Errorf("%s: %w: %w", p.Envelope.Name, ovf.ErrSyntax, err)
	}
	plain, err := xmldoc.Write(doc)
	if err != nil {
		return fmt.Errorf("%s: %w: %w", p.Envelope.Name, ovf.ErrSyntax, err)
	}
	if p.References, err = ovf.ReadReferences(bytes.NewReader(plain)); err != nil {
		return fmt.Errorf("%s: %w", p.Envelope.Name, err)
	}
	if len(p.References) > maxMembers {
		return fmt.Errorf("%s: %w: %d references", p.Envelope.Name, ErrLimit, len(p.References))
	}
	return p.present()
}

// Newest is the newest time of the members; zero: none is said.
func (p *Package) Newest() time.Time {
	var at time.Time
	for _, m := range p.Members {
		if m.Time.After(at) {
			at = m.Time
		}
	}
	return at
}

// relative returns a member's path relative to the envelope's directory.
func (p *Package) relative(name string) (string, bool) {
	if p.Dir == "." {
		return name, true
	}
	return strings.CutPrefix(name, p.Dir+"/")
}

// choose returns the envelope among the members.
func (p *Package) choose() (*Member, error) {
	var found []*Member
	want, chosen := "", p.opts.Envelope != ""
	if chosen {
		var err error
		if want, err = cleanName(p.opts.Envelope); err != nil {
			return nil, err
		}
	}
	for i := range p.Members {
		m := &p.Members[i]
		// AppleDouble files, which macOS puts beside each, have the name with "._" before it.
		is := strings.EqualFold(path.Ext(m.Path), ".ovf") && !strings.HasPrefix(path.Base(m.Path), "._")
		if chosen {
			is = m.Path == want
		}
		if is {
			found = append(found, m)
		}
	}
	switch {
	case len(found) == 1:
		return found[0], nil
	case len(found) > 1:
		var names []string
		for _, m := range found[:min(len(found), 10)] {
			names = append(names, fmt.Sprintf("%q", m.Path))
		}
		return nil, fmt.Errorf("%w: %s", ErrSeveral, strings.Join(names, ", "))
	case chosen:
		return nil, fmt.Errorf("%w: no file %q in it", ErrNotPackage, want)
	}
	return nil, fmt.Errorf("%w: no .ovf in it", ErrNotPackage)
}

// beside returns the name of the envelope's manifest or certificate: the same with another suffix, or else the only file
// with that suffix.
func (p *Package) beside(ext string) string {
	stem := strings.TrimSuffix(p.Envelope.Name, path.Ext(p.Envelope.Name))
	var others []string
	for name := range p.stored {
		if strings.Contains(name, "/") || !strings.EqualFold(path.Ext(name), ext) || strings.HasPrefix(name, "._") {
			continue
		}
		if strings.EqualFold(strings.TrimSuffix(name, path.Ext(name)), stem) {
			return name
		}
		others = append(others, name)
	}
	if len(others) == 1 {
		return others[0]
	}
	return ""
}

// Close closes the spools. Files of the package cannot be read after it.
func (p *Package) Close() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, c := range p.toClose {
		p.closeErr = errors.Join(p.closeErr, c.Close())
	}
	p.toClose = nil
	return p.closeErr
}

// spool makes a spool and has it closed at the end.
func (p *Package) spool(name string) (Spool, error) {
	if p.opts.Spool == nil {
		return nil, fmt.Errorf("%s: %w", name, ErrSpool)
	}
	s, err := p.opts.Spool(name)
	if err != nil {
		return nil, err
	}
	p.toClose = append(p.toClose, s)
	return s, nil
}

// room is what may still be spooled.
func (p *Package) room() int64 {
	limit := p.opts.MaxSpool
	if limit <= 0 {
		limit = MostUnpacked(p.packed())
	}
	return limit - p.spooled
}

// MostUnpacked is how many bytes may be unpacked of so many that are stored, where Options do not say.
func MostUnpacked(stored int64) int64 {
	return min(max(min(stored, defaultMaxSpool)*maxRatio, freeSpool), defaultMaxSpool)
}

// A counter counts what is read, perhaps by a decoder in a goroutine of its own.
type counter struct {
	r io.Reader
	n atomic.Int64
}

func (c *counter) Read(b []byte) (int, error) {
	n, err := c.r.Read(b)
	c.n.Add(int64(n))
	return n, err
}

// limited fails instead of writing more than may be spooled.
type limited struct {
	p *Package
	w io.Writer
	n int64 // written
}

func (l *limited) Write(b []byte) (int, error) {
	if int64(len(b)) > l.p.room() {
		return 0, fmt.Errorf("%w: more than %d bytes to unpack", ErrLimit, l.p.spooled+l.p.room())
	}
	n, err := l.w.Write(b)
	l.n += int64(n)
	l.p.spooled += int64(n)
	return n, err
}

// damage makes ErrCorrupt of the errors by which decoders of the standard library say that their input is none; what a
// caller's decompressor says stays as it is.
func damage(err error) error {
	var deflate flate.CorruptInputError
	if errors.As(err, &deflate) || errors.Is(err, gzip.ErrChecksum) || errors.Is(err, gzip.ErrHeader) || errors.Is(err, zip.ErrChecksum) ||
		errors.Is(err, zip.ErrFormat) || errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, tar.ErrHeader) || errors.Is(err, tar.ErrFieldTooLong) {
		return fmt.Errorf("%w: %w", ErrCorrupt, err)
	}
	return err
}

// stopReader ends a copy when the context does.
type stopReader struct {
	ctx context.Context
	r   io.Reader
}

func (s stopReader) Read(b []byte) (int, error) {
	if err := s.ctx.Err(); err != nil {
		return 0, err
	}
	return s.r.Read(b)
}

// cleanName returns a stored name as a clean path, or ErrUnsafe.
func cleanName(name string) (string, error) {
	bad := name == "" || !utf8.ValidString(name) || strings.Contains(name, `\`) || path.IsAbs(name) ||
		len(name) > 1 && name[1] == ':' || strings.ContainsFunc(name, unicode.IsControl)
	if !bad {
		bad = slices.Contains(strings.Split(name, "/"), "..")
	}
	p := path.Clean(name)
	if bad || p == "." || !fs.ValidPath(p) {
		return "", fmt.Errorf("%w: %.200q", ovf.ErrUnsafe, name)
	}
	return p, nil
}
