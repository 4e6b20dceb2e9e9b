package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"tarvm/archive"
	"tarvm/archive/chain"
	"tarvm/archive/repo"
	"tarvm/cmd/tarvm/settings"
	"tarvm/delta"
	"tarvm/manifest"
)

// A file is an archive or a manifest that was opened.
type file struct {
	path   string
	closer io.Closer
	entry  *repo.Entry      // nil: it is no entry of a repository
	off    error            // why an entry's archive cannot be reached
	arch   *archive.Archive // nil: a manifest beside an archive
	man    *archive.Manifest
}

// shelf is the archives and manifests that a run works with, and where it looks for more.
type shelf struct {
	p      *program
	search []string
	open   []*file

	scanned map[string]bool // directories
	found   []found
	broken  []string // files that may be what is looked for, and cannot be read
	seen    int      // archives and manifests in the directories
	whole   bool     // what is wanted came out of a repository, with all that there is of its chain
}

// found is a file that a scan saw.
type found struct {
	path     string
	id       delta.Digest
	digest   delta.Digest
	manifest bool
}

func (p *program) newShelf(search []string) *shelf {
	return &shelf{p: p, search: search, scanned: make(map[string]bool)}
}

func (s *shelf) close() {
	for _, f := range s.open {
		f.closer.Close() // only read
	}
}

// get opens an archive, a manifest, or an entry of the repository; it stays open until the shelf is closed.
func (s *shelf) get(ctx context.Context, path string) (*file, error) {
	if strings.HasPrefix(path, "#") {
		return s.entry(ctx, path)
	}
	f, err := s.p.openFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		// Not a file: perhaps an entry.
		e, eerr := s.entry(ctx, path)
		switch {
		case eerr == nil:
			return e, nil
		case !errors.Is(eerr, errNoRepository) && !strings.ContainsRune(path, filepath.Separator):
			err = &noFileError{path, eerr}
		}
	}
	if err != nil {
		return nil, err
	}
	s.open = append(s.open, f)
	return f, nil
}

// A noFileError is about an argument that is no file, and no entry either.
type noFileError struct {
	path string
	err  error // about the entry
}

func (e *noFileError) Error() string {
	var fe *repo.FindError
	if errors.As(e.err, &fe) && fe.Why != "" {
		return fmt.Sprintf("%s: no such file, and no entry: %s", e.path, fe.Why)
	}
	return fmt.Sprintf("%s: no such file; %v", e.path, e.err)
}

func (e *noFileError) Unwrap() error { return e.err }

// archive opens an archive.
func (s *shelf) archive(ctx context.Context, path string) (*file, error) {
	f, err := s.get(ctx, path)
	if err != nil {
		return nil, err
	}
	if f.off != nil {
		return nil, f.off
	}
	if f.arch == nil {
		return nil, hint(usage(fmt.Errorf("%s: is a manifest, an archive is needed", path)), "the archive is usually called %s", strings.TrimSuffix(path, manifestSuffix))
	}
	return f, nil
}

// entry opens an entry with all on which it builds. Of what cannot be reached, the manifests are opened.
func (s *shelf) entry(ctx context.Context, text string) (*file, error) {
	ses, err := s.p.openRepo(ctx, &repoFlags{search: s.search}, settings.Given{})
	if err != nil {
		return nil, err
	}
	f, err := ses.Forest(ctx)
	if err != nil {
		return nil, err
	}
	e, err := ses.entry(f, text)
	if err != nil {
		return nil, err
	}
	path, err := f.Path(e)
	if err != nil {
		path = []*repo.Entry{e} // what there is of it can be looked at
	}
	s.whole = true
	var last *file
	for _, x := range slices.Backward(path) {
		o := &file{path: ses.Where(ctx, x), entry: x}
		a, closer, err := ses.Archive(ctx, x)
		var off *repo.OfflineError
		switch {
		case err == nil:
			o.arch, o.man = a, a.Manifest()
		case errors.As(err, &off):
			o.off = err
			if o.man, closer, err = ses.ManifestOf(ctx, x); err != nil {
				return nil, err
			}
		default:
			return nil, err
		}
		o.closer = closer
		s.open = append(s.open, o)
		if last == nil {
			last = o
		}
	}
	return last, nil
}

// openFile opens an archive or a manifest. Errors begin with the path.
func (p *program) openFile(path string) (*file, error) {
	f, src, err := openSource(path)
	if err != nil {
		return nil, err
	}
	o := &file{path: path, closer: f}
	o.arch, err = archive.Open(src, p.codecs)
	if err == nil {
		o.man = o.arch.Manifest()
		return o, nil
	}
	if errors.Is(err, archive.ErrForeign) {
		var merr error
		if o.man, merr = archive.OpenManifest(src); merr == nil {
			return o, nil
		}
		if !errors.Is(merr, archive.ErrForeign) {
			err = merr
		}
	}
	f.Close()
	return nil, fmt.Errorf("%s: %w", path, err)
}

// openSource opens a file for reading at random.
func openSource(path string) (*os.File, *io.SectionReader, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, nil, plainPath(err)
	}
	st, err := f.Stat()
	if err == nil && st.IsDir() {
		err = errors.New("is a directory")
	}
	var n int64
	if err == nil {
		if n, err = f.Seek(0, io.SeekEnd); err != nil { // Stat does not know a device's size
			err = hint(errors.New("cannot be read at random"), "tarvm unpack - restores from a pipe")
		}
	}
	if err != nil {
		f.Close()
		return nil, nil, fmt.Errorf("%s: %w", path, err)
	}
	return f, io.NewSectionReader(f, 0, n), nil
}

// plainPath makes "open x: no such file" into "x: no such file".
func plainPath(err error) error {
	var pe *fs.PathError
	if errors.As(err, &pe) && errors.Unwrap(err) == pe.Err { //nolint:errorlint // not one that is wrapped in something else
		return fmt.Errorf("%s: %w", pe.Path, pe.Err)
	}
	return err
}

// dirs are the directories in which ancestors are looked for.
func (s *shelf) dirs() []string {
	var ds []string
	for _, f := range s.open {
		ds = append(ds, filepath.Dir(f.path))
	}
	ds = append(ds, s.search...)
	slices.Sort(ds)
	return slices.Compact(ds)
}

// scan looks at all files of the directories that were not looked at yet.
func (s *shelf) scan(ctx context.Context) error {
	for _, dir := range s.dirs() {
		if s.scanned[dir] {
			continue
		}
		s.scanned[dir] = true
		list, err := os.ReadDir(dir)
		if err != nil {
			if slices.Contains(s.search, dir) {
				return plainPath(err)
			}
			continue // an archive can be readable in a directory that is not
		}
		for _, e := range list {
			if ctx.Err() != nil {
				return context.Cause(ctx)
			}
			if e.Type().IsRegular() || e.Type()&fs.ModeSymlink != 0 {
				s.look(filepath.Join(dir, e.Name()))
			}
		}
	}
	return nil
}

// look notes what the file at path is.
func (s *shelf) look(path string) {
	if st, err := os.Stat(path); err != nil || !st.Mode().IsRegular() {
		return // a dangling link, or a FIFO, which would block
	}
	f, err := s.p.openFile(path)
	switch {
	case err == nil:
		s.found = append(s.found, found{path, f.man.ID, f.man.Digest, f.arch == nil})
		s.seen++
		f.closer.Close()
	case errors.Is(err, archive.ErrForeign), errors.Is(err, io.ErrUnexpectedEOF), errors.Is(err, fs.ErrNotExist):
	default:
		s.broken = append(s.broken, err.Error())
	}
}

// pick opens what the directories have of the wanted entry, exactly the wanted one if it is there: then
// one file, else all of that state. With manifests, a manifest will do.
func (s *shelf) pick(ctx context.Context, want *manifest.Parent, manifests bool) ([]*file, error) {
	if s.whole {
		return s.opened(want, manifests), nil
	}
	if err := s.scan(ctx); err != nil {
		return nil, err
	}
	var exact, same []found
	for _, f := range s.found {
		switch {
		case f.id != want.ID || f.manifest && !manifests:
		case f.digest == want.Digest:
			exact = append(exact, f)
		default:
			same = append(same, f)
		}
	}
	list := same
	if len(exact) > 0 {
		// Of copies one is enough; an archive has more to tell than a manifest.
		i := slices.IndexFunc(exact, func(f found) bool { return !f.manifest })
		list = exact[max(i, 0):][:1]
	}
	var fs []*file
	for _, f := range list {
		o, err := s.get(ctx, f.path)
		if err != nil {
			return nil, err
		}
		fs = append(fs, o)
	}
	return fs, nil
}

// opened is what pick finds when all that there is was opened.
func (s *shelf) opened(want *manifest.Parent, manifests bool) []*file {
	var fs []*file
	for _, f := range s.open {
		switch {
		case f.man.ID != want.ID || f.arch == nil && !manifests:
		case f.man.Digest == want.Digest:
			return []*file{f}
		default:
			fs = append(fs, f)
		}
	}
	return fs
}

// ancestors opens the archives on which those on the shelf build, as far as they are found. They are told apart by
// their manifests: an increment in which nothing changed has its parent's id.
func (s *shelf) ancestors(ctx context.Context) error {
	have := make(map[delta.Digest]bool)
	for _, f := range s.open {
		have[f.man.Digest] = true
	}
	for i := 0; i < len(s.open); i++ {
		par := s.open[i].man.Entry.Parent
		if par == nil || have[par.Digest] {
			continue
		}
		have[par.Digest] = true
		fs, err := s.pick(ctx, par, false)
		if err != nil {
			return err
		}
		for _, f := range fs {
			have[f.man.Digest] = true
		}
	}
	return nil
}

// archives are those on the shelf.
func (s *shelf) archives() []*archive.Archive {
	var as []*archive.Archive
	for _, f := range s.open {
		if f.arch != nil {
			as = append(as, f.arch)
		}
	}
	return as
}

// pathOf returns the name of the file that holds an archive.
func (s *shelf) pathOf(a *archive.Archive) string {
	for _, f := range s.open {
		if f.arch == a {
			return f.path
		}
	}
	return ""
}

// chain orders the archives on the shelf, after it has looked for ancestors.
func (s *shelf) chain(ctx context.Context) (*chain.Chain, error) {
	if err := s.ancestors(ctx); err != nil {
		return nil, err
	}
	c, err := chain.New(s.archives())
	if err != nil {
		return nil, s.missing(err)
	}
	for _, n := range c.Notes() {
		s.p.note("%s", n)
	}
	return c, nil
}

// missing says where a missing parent was looked for.
func (s *shelf) missing(err error) error {
	var m *chain.MissingParentError
	if !errors.As(err, &m) {
		return err
	}
	for _, f := range s.open {
		if f.off != nil && f.man.ID == m.ID {
			return f.off
		}
	}
	what := fmt.Sprintf("the id is %s; looked in %s, at %s and manifests", m.ID, strings.Join(s.dirs(), ", "), count(s.seen, "archive"))
	if len(s.broken) > 0 {
		what += fmt.Sprintf(" and %s that cannot be read (%s)", count(len(s.broken), "file"), strings.Join(s.broken, "; "))
	}
	return hint(hint(err, "--search DIR looks in a further directory"), "%s", what)
}

// lineage returns the manifests from f back to its base, f first, as far as they are found. Archives are
// not needed for it. Missing is the last one's parent, nil when the base was found.
func (s *shelf) lineage(ctx context.Context, f *file) (line []*file, missing *manifest.Parent, err error) {
	on := make(map[delta.Digest]bool)
	for {
		line = append(line, f)
		on[f.man.Digest] = true
		par := f.man.Entry.Parent
		if par == nil {
			return line, nil, nil
		}
		var next *file
		for _, o := range s.open {
			if o.man.ID == par.ID && !on[o.man.Digest] && (next == nil || o.man.Digest == par.Digest) {
				next = o
			}
		}
		if next == nil {
			fs, err := s.pick(ctx, par, true)
			if err != nil {
				return nil, nil, err
			}
			for _, o := range fs {
				if !on[o.man.Digest] && (next == nil || o.man.Entry.Kind == manifest.Full) {
					next = o
				}
			}
		}
		if next == nil || len(line) >= chain.MaxDepth {
			return line, par, nil
		}
		f = next
	}
}
