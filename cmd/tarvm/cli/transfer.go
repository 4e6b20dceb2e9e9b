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
	"time"

	"github.com/spf13/cobra"

	"tarvm/archive"
	"tarvm/archive/chain"
	"tarvm/archive/codec"
	"tarvm/archive/repo"
	"tarvm/cmd/tarvm/settings"
)

// chainFlags are those of tarvm export and import that are about archives.
type chainFlags struct {
	full    bool
	have    string
	project string
}

func (o *chainFlags) registerExport(cmd *cobra.Command) {
	f := cmd.Flags()
	f.BoolVar(&o.full, "full", false, "of an entry, into an archive: one full archive instead of the chain")
	f.StringVar(&o.have, "have", "", "of an entry, into an archive: only what somebody lacks who has the entry of the manifest `FILE`")
}

// toArchive reports whether the output is an archive of tarvm, and not a form of others: it is called like one, or it is
// called like no form and the source is no file.
func (o *exportFlags) toArchive(p *program, source string) bool {
	switch {
	case o.to != "":
		return false
	case o.full || o.have != "" || codec.ForPath(p.codecs, o.out) != nil:
		return true
	}
	if t, err := p.target(o); err == nil && t != nil {
		return false
	}
	_, err := os.Lstat(source)
	return strings.HasPrefix(source, "#") || errors.Is(err, fs.ErrNotExist)
}

// exportEntry writes an entry's chain into one file.
func (p *program) exportEntry(ctx context.Context, arg string, o *exportFlags) error {
	eo := repo.ExportOptions{Full: o.full, Pack: p.mergePack(o.workers)}
	switch {
	case o.out == "":
		return hint(usage(errors.New("no output")), "-o FILE, or -o - for a pipe")
	case o.full && o.have != "":
		return usage(errors.New("--full and --have exclude each other"))
	case o.out == "-" && isTerminal(p.stdout):
		return hint(usage(errors.New("an archive is not for a terminal")), "-o FILE, or -o - with a pipe")
	case o.out == "-" && p.json:
		return usage(errors.New("--json and the archive cannot both go to standard output"))
	}
	s, f, err := p.openForest(ctx, &repoFlags{search: o.search}, settings.Given{})
	if err != nil {
		return err
	}
	e, err := s.entry(f, arg)
	if err != nil {
		return err
	}
	if c := codec.ForPath(p.codecs, o.out); o.full && c != nil {
		eo.Pack.Codec = c
	}
	if o.have != "" {
		h, err := p.openFile(o.have)
		if err != nil {
			return err
		}
		defer h.closer.Close()
		eo.Have = h.man
	}
	if o.dryRun {
		return s.planExport(f, e, o, eo)
	}
	began := time.Now()
	out, err := p.output(ctx, o.out, o.force)
	if err != nil {
		return err
	}
	defer out.Abort()
	r, err := s.Export(ctx, f, e, out, eo)
	var mixed *repo.CodecsError
	switch {
	case errors.As(err, &mixed):
		return hint(plainPath(err), "--full makes one archive of it; tarvm merge gives an entry another codec")
	case err != nil:
		return plainPath(err)
	}
	if err := out.Commit(); err != nil {
		return plainPath(err)
	}
	if p.json {
		return p.writeJSON(r)
	}
	what := count(len(r.Entries), "archive")
	if r.Made != nil {
		what = "made for it"
	}
	p.note("%s: %s, %s, %s, %.1f s", o.out, e, what, size(r.Bytes), time.Since(began).Seconds())
	return nil
}

// imported is what tarvm import writes with --json when it adds to the repository.
type imported struct {
	*repo.ImportResult
	Saved *repo.SaveResult `json:"saved,omitempty"` // of what was no archive
}

// importEntry adds what a file holds to the repository: entries, or a machine in a form of others, which is saved.
func (p *program) importEntry(ctx context.Context, arg string, c *chainFlags, o *exportFlags) error {
	s, err := p.openRepo(ctx, &repoFlags{search: o.search}, settings.Given{Project: c.project})
	if err != nil {
		return hintNoRepository(err)
	}
	began := time.Now()
	out := imported{}
	f, src, err := p.spoolArchive(ctx, s, arg)
	if err != nil {
		return err
	}
	defer f.Close()
	io2 := repo.ImportOptions{Project: c.project, Workers: o.workers, Progress: p.progress}
	out.ImportResult, err = s.Import(ctx, src, io2)
	var missing *chain.MissingParentError
	if errors.As(err, &missing) {
		switch there, ferr := p.fetchParents(ctx, s, missing, c.project); {
		case ferr != nil:
			return ferr
		case there:
			out.ImportResult, err = s.Import(ctx, src, io2)
		}
	}
	switch {
	case errors.Is(err, archive.ErrForeign) && arg != "-":
		so := repo.SaveOptions{Project: c.project, Identify: p.identify}
		so.Pack.Workers, so.Pack.Progress, so.Pack.Name = o.workers, p.progress, stem(arg)
		if out.Saved, err = p.importMachine(ctx, s, arg, so, o); err != nil {
			return err
		}
	case errors.Is(err, archive.ErrForeign):
		return hint(fmt.Errorf("%s: %w", sourceName(arg), err), "a package comes from a file, or with -C DIR into a directory")
	case err != nil:
		return fmt.Errorf("%s: %w", sourceName(arg), plainPath(err))
	}
	if p.json {
		return p.writeJSON(&out)
	}
	if out.Saved != nil {
		p.note("%.1f s", time.Since(began).Seconds())
		if out.Saved.Unchanged {
			return p.printf("%s: %s is that state already\n", printable(arg), printable(out.Saved.Entry.String()))
		}
		return p.printf("%s: %s in project %s\n", printable(out.Saved.Entry.String()), out.Saved.Entry.Kind, out.Saved.Entry.Project)
	}
	for _, e := range out.Refilled {
		p.note("%s has its archive again", e)
	}
	for _, e := range out.Present {
		p.note("%s is here already", e)
	}
	if len(out.Added) == 0 {
		return p.printf("%s: %s is here already\n", printable(arg), printable(out.Entry.String()))
	}
	for _, e := range out.Added {
		if err := p.printf("%s: %s in project %s\n", printable(e.String()), e.Kind, e.Project); err != nil {
			return err
		}
	}
	return nil
}

func sourceName(arg string) string {
	if arg == "-" {
		return "standard input"
	}
	return arg
}

func hintNoRepository(err error) error {
	if errors.Is(err, errNoRepository) {
		return hint(err, "-C DIR makes a directory of a package, -o FILE an archive")
	}
	return err
}

// spoolArchive opens a file for reading at random; a pipe is stored first.
func (p *program) spoolArchive(ctx context.Context, s *session, arg string) (io.Closer, *io.SectionReader, error) {
	if arg != "-" {
		f, src, err := openSource(arg)
		return f, src, err
	}
	dir, ok := s.Medium().(*repo.Dir)
	if !ok {
		return nil, nil, errors.New("standard input cannot be stored here")
	}
	up, err := dir.Create(ctx)
	if err != nil {
		return nil, nil, plainPath(err)
	}
	closer := closeFunc(func() error { up.Abort(); return nil })
	if err := p.spoolInput(ctx, up); err != nil {
		closer()
		return nil, nil, plainPath(err)
	}
	b, err := up.Open(ctx)
	if err != nil {
		closer()
		return nil, nil, plainPath(err)
	}
	return closeFunc(func() error {
		err := b.Close()
		up.Abort()
		return err
	}), io.NewSectionReader(b, 0, b.Size()), nil
}

// spoolInput copies standard input as it is.
func (p *program) spoolInput(ctx context.Context, w io.Writer) error {
	in := p.input(ctx)
	for done := int64(0); ; {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		n, err := io.CopyN(w, in, 4<<20)
		done += n
		p.bar.report(event{Phase: "read", Done: done})
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
	}
}

type closeFunc func() error

func (f closeFunc) Close() error { return f() }

// importMachine saves a machine that comes in a package, through a directory beside the repository.
func (p *program) importMachine(ctx context.Context, s *session, arg string, so repo.SaveOptions, o *exportFlags) (*repo.SaveResult, error) {
	d, ok := s.Medium().(*repo.Dir)
	if !ok {
		return nil, errors.New("a package needs a directory: -C DIR")
	}
	tmp, err := archive.NewTempDir(d.Path("import"))
	if err != nil {
		return nil, plainPath(err)
	}
	defer tmp.Remove()
	vm := filepath.Join(tmp.Path, stem(arg))
	json, quiet := p.json, p.quiet
	p.json = false
	po := *o
	po.out, po.within = "", true
	err = p.importPackage(ctx, arg, vm, &po)
	p.json, p.quiet = json, quiet
	if err != nil {
		return nil, err
	}
	if _, err := os.Stat(vm); err != nil {
		return nil, plainPath(err)
	}
	r, err := s.Save(ctx, vm, so)
	return r, plainPath(err)
}

// planExport says what an export of an entry would write.
func (s *session) planExport(f *repo.Forest, e *repo.Entry, o *exportFlags, eo repo.ExportOptions) error {
	path, err := f.Path(e)
	if err != nil {
		return err
	}
	r := repo.ExportResult{Entry: e, Entries: path}
	made := eo.Full
	if eo.Have != nil {
		i := slices.IndexFunc(path, func(p *repo.Entry) bool { return p.ID == eo.Have.ID })
		r.Entries, made = path[i+1:], i < 0
	}
	if made {
		r.Entries = nil
	}
	for _, x := range r.Entries {
		r.Bytes += x.Size
	}
	switch {
	case s.p.json:
		return s.p.writeJSON(&r)
	case made:
		return s.p.printf("%s: an archive would be made of %s\n", o.out, printable(e.String()))
	}
	return s.p.printf("%s: would get %s, %s\n", o.out, numbers(r.Entries), size(r.Bytes))
}
