package cli

import (
	"bufio"
	"bytes"
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"sync/atomic"

	"tarvm/archive"
	"tarvm/archive/codec"
	"tarvm/delta"
	"tarvm/formats"
	"tarvm/formats/layers"
	"tarvm/ovf"
	"tarvm/ovf/ova"
	"tarvm/ovf/target"
	"tarvm/ovf/vagrant"
	"tarvm/ovf/xva"
)

// errNoPackage: a tar or something compressed, and no package.
var errNoPackage = errors.New("no package of a virtual machine")

// isPackage reports whether a file may be a package by its first bytes.
func (p *program) isPackage(head []byte) bool {
	return bytes.HasPrefix(head, zipMagic) || codec.Detect(p.codecs, head) != nil
}

// decompress is for packages.
func (p *program) decompress(r io.Reader) (io.ReadCloser, error) {
	return p.decoder(r, ova.MostUnpacked)
}

// decoder reads what is compressed. most, which may be nil, is how much may come of so many bytes.
func (p *program) decoder(r io.Reader, most func(int64) int64) (io.ReadCloser, error) {
	in := &failing{r: r}
	z, err := codec.Open(p.codecs, in)
	if err != nil {
		return nil, err
	}
	return &unpacking{ReadCloser: z, in: in, most: most}, nil
}

// failing remembers what went wrong with what a decoder reads, which may read ahead in a goroutine of its own.
type failing struct {
	r      io.Reader
	n      atomic.Int64
	failed atomic.Bool
}

func (f *failing) Read(b []byte) (int, error) {
	n, err := f.r.Read(b)
	f.n.Add(int64(n))
	if err != nil && !errors.Is(err, io.EOF) {
		f.failed.Store(true)
	}
	return n, err
}

// unpacking says of what is wrong with a compressed package that the package is damaged: a decoder has its own words.
type unpacking struct {
	io.ReadCloser
	in   *failing
	most func(int64) int64
	n    int64
}

func (u *unpacking) Read(b []byte) (int, error) {
	n, err := u.ReadCloser.Read(b)
	u.n += int64(n)
	switch {
	case u.most != nil && u.n > u.most(u.in.n.Load()):
		return 0, fmt.Errorf("%w: %s of %s", ova.ErrLimit, size(u.n), size(u.in.n.Load()))
	case err == nil, errors.Is(err, io.EOF), u.in.failed.Load(): // it could not be read
	case errors.Is(err, io.ErrUnexpectedEOF):
		err = fmt.Errorf("%w: %w", ova.ErrTruncated, err)
	default:
		err = fmt.Errorf("%w: %w", ova.ErrCorrupt, err)
	}
	return n, err
}

// A spool is a place for what must be unpacked, made when it is needed.
type spool struct {
	near string // what it belongs to: the output
	dir  *archive.TempDir
	n    int
}

func (s *source) newSpool(near string) *spool {
	sp := &spool{near: near}
	s.done = append(s.done, func() {
		if sp.dir != nil {
			sp.dir.Remove()
		}
	})
	return sp
}

// A spoolFile is what must be unpacked or written elsewhere. Its errors name what it belongs to: nobody knows its own name.
type spoolFile struct {
	*os.File
	near string // empty: there is nothing to name
}

func (f *spoolFile) rename(err error) error {
	var pe *fs.PathError
	if f.near != "" && errors.As(err, &pe) && pe.Path == f.Name() {
		return &fs.PathError{Op: pe.Op, Path: f.near, Err: pe.Err}
	}
	return err
}

// Write implements io.Writer.
func (f *spoolFile) Write(b []byte) (int, error) {
	n, err := f.File.Write(b)
	return n, f.rename(err)
}

// WriteAt implements io.WriterAt.
func (f *spoolFile) WriteAt(b []byte, off int64) (int, error) {
	n, err := f.File.WriteAt(b, off)
	return n, f.rename(err)
}

// ReadFrom implements io.ReaderFrom.
func (f *spoolFile) ReadFrom(r io.Reader) (int64, error) {
	n, err := f.File.ReadFrom(r)
	return n, f.rename(err)
}

// Truncate changes the size.
func (f *spoolFile) Truncate(size int64) error { return f.rename(f.File.Truncate(size)) }

// A holeFile is a new file in which zeros become holes, so that a package of nothing else does not fill a disk.
type holeFile struct{ *spoolFile }

// hole is what file systems can leave out.
const hole = 4 << 10

// Write implements io.Writer.
func (f *holeFile) Write(b []byte) (int, error) {
	at, err := f.Seek(0, io.SeekCurrent)
	if err != nil {
		return 0, err
	}
	for n := 0; n < len(b); {
		// Up to the next border, and then as many blocks as are alike.
		end := min(len(b), n+int(hole-(at+int64(n))%hole))
		zero := delta.IsZero(b[n:end])
		for end < len(b) {
			next := min(len(b), end+hole)
			if delta.IsZero(b[end:next]) != zero {
				break
			}
			end = next
		}
		if zero {
			_, err = f.Seek(int64(end-n), io.SeekCurrent)
		} else {
			_, err = f.spoolFile.Write(b[n:end])
		}
		if err == nil && zero && end == len(b) {
			err = f.Truncate(at + int64(end)) // nothing may follow
		}
		if err != nil {
			return n, err
		}
		n = end
	}
	return len(b), nil
}

// ReadFrom implements io.ReaderFrom.
func (f *holeFile) ReadFrom(r io.Reader) (int64, error) {
	return io.CopyBuffer(struct{ io.Writer }{f}, struct{ io.Reader }{r}, make([]byte, 1<<20))
}

// create makes a file. Names of packages are not used.
func (sp *spool) create(string) (*spoolFile, error) {
	if sp.dir == nil {
		near := sp.near
		if near == "" || special(near) {
			near = filepath.Join(os.TempDir(), "package")
		}
		var err error
		if sp.dir, err = archive.NewTempDir(near); err != nil {
			return nil, plainPath(err)
		}
	}
	sp.n++
	f, err := os.Create(filepath.Join(sp.dir.Path, fmt.Sprint(sp.n)))
	if err != nil {
		return nil, err
	}
	sf := &spoolFile{File: f}
	if sp.near != "" && !special(sp.near) {
		sf.near = sp.near
	}
	return sf, nil
}

func (p *program) packageOptions(sp *spool) ova.Options {
	return ova.Options{
		Decompress: p.decompress,
		Spool: func(name string) (ova.Spool, error) {
			f, err := sp.create(name)
			if err != nil {
				return nil, err
			}
			return &holeFile{f}, nil
		},
	}
}

// findPackage opens a package in a file or, for "-", from standard input. What is compressed is unpacked near the output.
func (p *program) findPackage(ctx context.Context, s *source, arg string, o *sourceFlags, near string) error {
	err := p.openPackage(ctx, s, arg, o, s.newSpool(near))
	switch {
	case err == nil:
		return nil
	case errors.Is(err, ova.ErrNotPackage), errors.Is(err, codec.ErrUnknown):
		return fmt.Errorf("%s: %w", arg, errNoPackage)
	case errors.Is(err, ova.ErrSeveral):
		return hint(usage(fmt.Errorf("%s: %w", arg, err)), "--config PATH says which")
	case errors.Is(err, target.ErrSeveral):
		return hint(usage(fmt.Errorf("%s: %w", arg, err)), "--system ID says which")
	}
	return fmt.Errorf("%s: %w", arg, err)
}

func (p *program) openPackage(ctx context.Context, s *source, arg string, o *sourceFlags, sp *spool) error {
	if arg == "-" {
		return p.openStream(ctx, s, bufio.NewReaderSize(p.input(ctx), 64<<10), o, sp)
	}
	f, src, err := openSource(arg)
	if err != nil {
		return err
	}
	s.done = append(s.done, func() { f.Close() })
	head, err := readHead(arg)
	if err != nil {
		return err
	}
	if c := codec.Detect(p.codecs, head); c != nil && c.Name() != "none" {
		return p.openStream(ctx, s, bufio.NewReaderSize(io.NewSectionReader(src, 0, src.Size()), 64<<10), o, sp)
	}
	return p.openPlain(ctx, s, src, head, o, sp)
}

// openPlain opens a package that is not compressed as a whole.
func (p *program) openPlain(ctx context.Context, s *source, src *io.SectionReader, head []byte, o *sourceFlags, sp *spool) error {
	if xva.Probe(head) {
		return p.openXVA(s, src, o)
	}
	if t, err := vagrant.OpenTar(src); err == nil {
		if is, err := p.openBox(s, t, o); is || err != nil {
			return err
		}
	}
	return p.openOVA(s, o, func(oo ova.Options) (*ova.Package, error) { return ova.Open(ctx, src, oo) }, sp)
}

// openStream unpacks a stream into the spool, and opens what was in it.
func (p *program) openStream(ctx context.Context, s *source, r *bufio.Reader, o *sourceFlags, sp *spool) error {
	head, err := r.Peek(codec.HeadLen)
	if err != nil && !errors.Is(err, io.EOF) {
		return err
	}
	if !p.isPackage(head) {
		return errNoPackage
	}
	var plain io.Reader = r
	if !bytes.HasPrefix(head, zipMagic) {
		z, err := p.decompress(r)
		if err != nil {
			return err
		}
		defer z.Close()
		plain = z
	}
	f, err := sp.create("")
	if err != nil {
		return err
	}
	s.done = append(s.done, func() { f.Close() })
	n, err := p.spoolTo(ctx, &holeFile{f}, plain)
	if err != nil {
		return err
	}
	src := io.NewSectionReader(f, 0, n)
	head = make([]byte, min(n, codec.HeadLen))
	if _, err := src.ReadAt(head, 0); err != nil && !errors.Is(err, io.EOF) {
		return err
	}
	return p.openPlain(ctx, s, src, head, o, sp)
}

// maxUnpacked is the largest package that is unpacked, in bytes.
const maxUnpacked = 1 << 40

var zipMagic = []byte("PK\x03\x04")

// spoolTo copies a stream that begins like a package.
func (p *program) spoolTo(ctx context.Context, w io.Writer, r io.Reader) (int64, error) {
	in := bufio.NewReaderSize(r, 1<<20)
	head, err := in.Peek(codec.HeadLen)
	if err != nil && !errors.Is(err, io.EOF) {
		return 0, err
	}
	if c := codec.Detect(p.codecs, head); !bytes.HasPrefix(head, zipMagic) && (c == nil || c.Name() != "none") {
		return 0, errNoPackage // whatever else is compressed must not fill a disk
	}
	var done int64
	for {
		if ctx.Err() != nil {
			return 0, context.Cause(ctx)
		}
		n, err := io.CopyN(w, in, 4<<20)
		if done += n; done > maxUnpacked {
			return 0, fmt.Errorf("%w: more than %s to unpack", ova.ErrLimit, size(maxUnpacked))
		}
		p.bar.report(event{Phase: "unpack", Done: done})
		if errors.Is(err, io.EOF) {
			return done, nil
		}
		if err != nil {
			return 0, err
		}
	}
}

// openBox opens a Vagrant box, if it is one.
func (p *program) openBox(s *source, fsys fs.FS, o *sourceFlags) (bool, error) {
	if _, err := fs.Stat(fsys, "metadata.json"); err != nil {
		return false, nil
	}
	box, err := vagrant.Open(fsys)
	if errors.Is(err, formats.ErrNotFormat) {
		return false, nil
	}
	if err != nil {
		return true, err
	}
	d := layers.NewDir(fsys, "")
	s.done = append(s.done, func() { d.Close() })
	oo := p.openOptions(o)
	config := o.config
	if config == "" && box.Config != "" {
		if f, err := fsys.Open(box.Config); err == nil {
			head := make([]byte, 64<<10)
			n, err := io.ReadFull(f, head)
			f.Close()
			if (err == nil || errors.Is(err, io.ErrUnexpectedEOF)) && target.Form(box.Config, head[:n], p.configs) != "" {
				config = box.Config
			}
		}
	}
	if config != "" {
		c := *o
		c.config = config
		err = p.findInTree(s, d, fsys, &c, oo)
	} else {
		seed := append([]byte("box "+box.Provider), box.Metadata...)
		if len(box.Disks) == 0 && len(box.Problems) > 0 {
			return true, fmt.Errorf("%w: %s", target.ErrNoMachine, box.Problems[0].Text)
		}
		s.VM = &target.VM{Machine: box.Machine(), Form: "vagrant", Dir: d, Formats: p.disks, Seed: seed}
		if box.Config != "" {
			s.Notes = append(s.Notes, box.Config+" is of a form that is not read: the disks come along, and what the Vagrantfile says")
		}
		err = s.setTime(fsys)
	}
	if err != nil {
		return true, err
	}
	s.Notes = append(s.Notes, "a Vagrant box for "+box.Provider)
	for _, problem := range box.Problems {
		s.Notes = append(s.Notes, problem.String())
	}
	return true, nil
}

func (p *program) openXVA(s *source, src *io.SectionReader, o *sourceFlags) error {
	x, err := xva.Open(src)
	if err != nil {
		return err
	}
	d := layers.NewDir(x.FS(), "")
	s.done = append(s.done, func() { d.Close() })
	s.VM = &target.VM{Machine: x.Machine, Form: "xva", Config: "ova.xml", Dir: d, Formats: p.disks, Seed: []byte("xva " + x.Machine.UUID)}
	s.Notes = append(s.Notes, "written by "+x.Version)
	for _, problem := range x.Problems {
		s.Notes = append(s.Notes, problem.String())
	}
	return s.setTime(x.FS())
}

// openOVA opens an OVF package.
func (p *program) openOVA(s *source, o *sourceFlags, open func(ova.Options) (*ova.Package, error), sp *spool) error {
	oo := p.packageOptions(sp)
	oo.Envelope = o.config
	pkg, err := open(oo)
	if err != nil {
		return err
	}
	s.done = append(s.done, func() { pkg.Close() })
	s.pkg = pkg
	d := layers.NewDir(pkg.FS(), "")
	s.done = append(s.done, func() { d.Close() })
	return s.openSystems(d, pkg, p.openOptions(o), o.several)
}

// openTreeOVA opens an OVF package whose files are in a tree.
func (p *program) openTreeOVA(s *source, fsys fs.FS, name string, o *sourceFlags, unix int64) error {
	c := *o
	c.config = name
	err := p.openOVA(s, &c, func(oo ova.Options) (*ova.Package, error) { return ova.OpenDir(fsys, oo) }, s.newSpool(""))
	if err == nil && unix != 0 {
		for _, vm := range s.machines() {
			vm.Unix = unix
		}
	}
	return err
}

// verifyPackage compares the digests in a package.
func (p *program) verifyPackage(ctx context.Context, s *source) error {
	if s.pkg == nil {
		return nil
	}
	v, err := s.pkg.Verify(ctx, p.verifyOptions(s.name, nil))
	if err != nil {
		return fmt.Errorf("%s: %w", s.name, err)
	}
	p.bar.clear()
	if errors.Is(v.SignatureErr, ovf.ErrValidity) {
		// That it has expired says nothing against the files.
		p.warn("%s: %v", s.name, v.SignatureErr)
		v.SignatureErr = nil
	}
	if err := v.Err(); err != nil {
		return fmt.Errorf("%s: %w", s.name, err)
	}
	if !v.Manifest {
		p.note("%s: has no manifest: nothing says whether its files are whole", s.name)
	}
	return nil
}

func (p *program) verifyOptions(name string, roots *x509.CertPool) ova.VerifyOptions {
	return ova.VerifyOptions{
		Roots:    roots,
		Progress: func(done, total int64) { p.bar.report(event{Phase: "verify", Path: name, Done: done, Total: total}) },
	}
}

// readRoots reads the certificates of authorities.
func readRoots(path string) (*x509.CertPool, error) {
	b, err := os.ReadFile(path)
	if err != nil {
		return nil, plainPath(err)
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(b) {
		return nil, fmt.Errorf("%s: no certificate in PEM form: %w", path, ovf.ErrSyntax)
	}
	return pool, nil
}
