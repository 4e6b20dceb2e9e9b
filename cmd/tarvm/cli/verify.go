package cli

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/spf13/cobra"

	"tarvm/archive"
	"tarvm/archive/chain"
	"tarvm/delta"
)

// verifyFlags are those of tarvm verify.
type verifyFlags struct {
	quick   bool
	alone   bool
	workers int
	search  []string
}

func (p *program) verifyCommand() *cobra.Command {
	var o verifyFlags
	cmd := &cobra.Command{
		Use:   "verify ARCHIVE...",
		Short: "Check that every byte of archives is right",
		Long: `Compares every byte of the archives, and of the archives on which they build, with the digest that covers it. Then it
rebuilds each entry from its chain, without writing it, and compares every block. Ancestors are looked for beside the
archives and in --search directories. Damaged members and ranges of bytes are named, and the exit code is 4; so it is
when an ancestor is not found.

--quick reads only the structure: manifests, tables, operations and links.`,
		Example: `  tarvm verify monday.tar.zst tuesday.tar.zst
  tarvm verify tuesday.tar.zst --search /vault
  tarvm verify --alone tuesday.tar.zst`,
		Args: args(1, -1, "archives"),
		RunE: func(cmd *cobra.Command, a []string) error { return p.verify(cmd.Context(), a, &o) },
	}
	f := cmd.Flags()
	f.BoolVar(&o.quick, "quick", false, "structure and links only, no data")
	f.BoolVar(&o.alone, "alone", false, "only the archives that are named, each by itself, and not the entries' chains")
	f.StringArrayVar(&o.search, "search", nil, "look for ancestors in `DIR`, too (repeatable)")
	f.IntVar(&o.workers, "workers", 0, "how many processors to use (default: all)")
	p.jsonFlag(cmd)
	return cmd
}

// verdict is what verify writes with --json.
type verdict struct {
	OK       bool             `json:"ok"`
	Archives []archiveVerdict `json:"archives"`
	Entries  []entryVerdict   `json:"entries,omitempty"`
}

type archiveVerdict struct {
	File   string          `json:"file"`
	Report *archive.Report `json:"report,omitempty"` // nil: the archive cannot be opened
	Error  string          `json:"error,omitempty"`
}

// entryVerdict is about an entry, rebuilt from its chain.
type entryVerdict struct {
	File     string        `json:"file"` // the last archive
	ID       delta.Digest  `json:"id"`
	Archives []string      `json:"archives"`         // base first
	Report   *chain.Report `json:"report,omitempty"` // nil: not rebuilt
	Error    string        `json:"error,omitempty"`
}

func (p *program) verify(ctx context.Context, paths []string, o *verifyFlags) error {
	s := p.newShelf(o.search)
	defer s.close()
	v := &verdict{OK: true}
	bad := 0
	var given []*file
	var unread error
	for _, path := range paths {
		f, err := s.archive(ctx, path)
		if err == nil {
			given = append(given, f)
			continue
		}
		if exitCode(err) != exitCorrupt {
			return err
		}
		bad++
		unread = errors.Join(unread, err)
		v.Archives = append(v.Archives, archiveVerdict{File: path, Error: err.Error()})
		if !p.json {
			if err := p.printf("%s: damaged\n", printable(err.Error())); err != nil {
				return err
			}
		}
	}
	if !o.alone {
		if err := s.ancestors(ctx); err != nil {
			return err
		}
	}
	for _, f := range s.open {
		if f.arch == nil {
			continue // it cannot be reached: so says what builds on it
		}
		ok, err := p.verifyArchive(ctx, f, o, v)
		if err != nil {
			return fmt.Errorf("%s: %w", f.path, err)
		}
		if !ok {
			bad++
		}
	}
	var missing error
	if !o.alone {
		n, err := p.verifyEntries(ctx, s, given, o, v)
		if err != nil && !errors.Is(err, errUnverified) {
			return err
		}
		bad += n
		missing = err
	}
	v.OK = bad == 0 && missing == nil
	if p.json {
		if err := p.writeJSON(v); err != nil {
			return err
		}
	}
	switch {
	case missing != nil:
		return missing
	case unread != nil && len(given) == 0:
		return unread
	case bad > 0:
		return hint(fmt.Errorf("%w: there is damage", errUnverified), "what is not damaged can be restored: tarvm unpack ARCHIVE -C DIR --only PATTERN")
	}
	return nil
}

func (p *program) verifyArchive(ctx context.Context, f *file, o *verifyFlags, v *verdict) (ok bool, err error) {
	r, err := f.arch.Verify(ctx, archive.VerifyOptions{
		Quick: o.quick, Workers: o.workers,
		Progress: func(e archive.Progress) { p.bar.report(event(e)) },
	})
	if err != nil {
		return false, err
	}
	v.Archives = append(v.Archives, archiveVerdict{File: f.path, Report: r})
	p.bar.clear()
	if p.json {
		return len(r.Damages) == 0, nil
	}
	for _, d := range r.Damages {
		if err := p.printf("%s: damaged: %s\n", quoted(f.path), printable(d.String())); err != nil {
			return false, err
		}
	}
	if len(r.Damages) > 0 {
		return false, nil
	}
	what := size(r.Bytes) + " compared"
	if o.quick {
		what = "structure only"
	}
	return true, p.printf("%s: ok, %s, id %s\n", quoted(f.path), what, r.ID.Short())
}

// verifyEntries rebuilds the entries of the given archives, except those on which another one of them builds. Its
// error wraps errUnverified when an ancestor is missing.
func (p *program) verifyEntries(ctx context.Context, s *shelf, given []*file, o *verifyFlags, v *verdict) (bad int, err error) {
	type head struct {
		f *file
		c *chain.Chain
	}
	var heads []head
	var unlinked error
	for _, f := range given {
		c, err := chain.NewFor(f.man.Digest, s.archives())
		var m *chain.MissingParentError
		switch {
		case errors.As(err, &m):
			// The chain of another one lacks the same entry: once is enough.
			if unlinked == nil {
				unlinked = &verifyMissing{s.missing(fmt.Errorf("%s: %w", f.path, err))}
			}
			v.Entries = append(v.Entries, entryVerdict{File: f.path, ID: f.man.ID, Archives: []string{}, Error: err.Error()})
			continue
		case err != nil:
			return 0, err
		}
		heads = append(heads, head{f, c})
	}
	slices.SortStableFunc(heads, func(a, b head) int { return b.c.Len() - a.c.Len() })
	done := make(map[delta.Digest]bool)
	for _, h := range heads {
		if done[h.f.man.Digest] {
			continue
		}
		e := entryVerdict{File: h.f.path, ID: h.f.man.ID}
		for i := range h.c.Len() {
			done[h.c.Snapshot(i).Digest] = true
			e.Archives = append(e.Archives, s.pathOf(h.c.Entry(i)))
		}
		for _, n := range h.c.Notes() {
			p.note("%s", n)
		}
		// A full archive was compared with all digests already.
		if h.c.Len() > 1 && !o.quick {
			if e.Report, err = chain.Verify(ctx, h.c, chain.VerifyOptions{
				Workers:  o.workers,
				Progress: func(e archive.Progress) { p.bar.report(event(e)) },
			}); err != nil {
				return 0, fmt.Errorf("%s: %w", h.f.path, err)
			}
			p.bar.clear()
			n, err := p.printEntry(h.f, &e)
			if err != nil {
				return 0, err
			}
			bad += n
		}
		v.Entries = append(v.Entries, e)
	}
	return bad, unlinked
}

func (p *program) printEntry(f *file, e *entryVerdict) (bad int, err error) {
	if len(e.Report.Damages) > 0 {
		bad = 1
	}
	if p.json {
		return bad, nil
	}
	for _, d := range e.Report.Damages {
		if err := p.printf("entry %s: damaged: %s\n", f.man.ID.Short(), printable(d.String())); err != nil {
			return 0, err
		}
	}
	if bad > 0 {
		return bad, nil
	}
	return 0, p.printf("entry %s: ok, rebuilt from %s\n", f.man.ID.Short(), count(len(e.Archives), "archive"))
}

// verifyMissing says that an entry could not be rebuilt because an ancestor is missing.
type verifyMissing struct{ err error }

func (e *verifyMissing) Error() string        { return e.err.Error() }
func (e *verifyMissing) Unwrap() error        { return e.err }
func (e *verifyMissing) Is(target error) bool { return target == errUnverified }
