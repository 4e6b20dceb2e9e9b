package cli

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/spf13/cobra"

	"tarvm/archive"
	"tarvm/archive/chain"
	"tarvm/delta"
)

// unpackFlags are those of tarvm unpack.
type unpackFlags struct {
	dir      string
	only     []string
	keep     bool
	force    bool
	dryRun   bool
	manifest string
	search   []string
	workers  int
}

func (p *program) unpackCommand() *cobra.Command {
	var o unpackFlags
	cmd := &cobra.Command{
		Use:   "unpack ARCHIVE... -C DIR",
		Short: "Restore a state of a machine",
		Long: `Makes DIR what was packed. The last archive is enough: the archives on which it builds are found by their ids beside
it, or in --search directories. They may also be named, in any order. With - a stream is read from standard input; it
may hold a whole chain, one archive after the other, the full one first.

Every block is compared with its digest before DIR changes, and DIR changes as a whole or not at all. What DIR holds
already is used, so that going to a near state is fast. What the entry does not have is removed from DIR, except
with --keep. When DIR has nothing in common with the entry, that takes --force.

A tar of another program is unpacked as well, where that is safe.`,
		Example: `  tarvm unpack tuesday.tar.zst -C vm
  tarvm unpack tuesday.tar.zst -C part --only '*.vmx' --only nvram
  cat monday.tar.zst tuesday.tar.zst | tarvm unpack - -C vm`,
		Args: args(1, -1, "archives, or -"),
		RunE: func(cmd *cobra.Command, a []string) error { return p.unpack(cmd.Context(), a, &o) },
	}
	f := cmd.Flags()
	f.StringVarP(&o.dir, "directory", "C", "", "restore into `DIR`; it is made if need be")
	f.StringArrayVar(&o.only, "only", nil, "restore what matches `PATTERN`, as of pack's --exclude; a directory with all that is in it (repeatable)")
	f.BoolVar(&o.keep, "keep", false, "do not remove what the entry does not have")
	f.BoolVarP(&o.force, "force", "f", false, "replace the content of a directory that has nothing to do with the entry")
	f.BoolVarP(&o.dryRun, "dry-run", "n", false, "only say what would be done")
	f.StringVar(&o.manifest, "manifest", "", "restore only if the entry is the one of this manifest, `FILE`")
	f.StringArrayVar(&o.search, "search", nil, "look for ancestors in `DIR`, too (repeatable)")
	f.IntVar(&o.workers, "workers", 0, "how many processors to use (default: all)")
	p.jsonFlag(cmd)
	return cmd
}

func (o *unpackFlags) options(p *program) chain.RestoreOptions {
	return chain.RestoreOptions{
		Only: o.only, Keep: o.keep || len(o.only) > 0, Force: o.force, Workers: o.workers,
		Progress: func(e archive.Progress) { p.bar.report(event(e)) },
	}
}

func (p *program) unpack(ctx context.Context, paths []string, o *unpackFlags) error {
	if o.dir == "" {
		return hint(usage(errors.New("unpack: no directory given")), "-C DIR says where to restore")
	}
	if err := checkPatterns("--only", o.only); err != nil {
		return err
	}
	s := p.newShelf(o.search)
	defer s.close()
	var want *delta.Digest
	if o.manifest != "" {
		f, err := p.openFile(o.manifest)
		if err != nil {
			return err
		}
		f.closer.Close()
		want = &f.man.ID
	}
	if slices.Contains(paths, "-") {
		return p.unpackStream(ctx, paths, o, want)
	}
	for _, path := range paths {
		if _, err := s.archive(ctx, path); err != nil {
			if errors.Is(err, archive.ErrForeign) && len(paths) == 1 {
				return p.unpackForeign(ctx, path, o, err)
			}
			return err
		}
	}
	c, err := s.chain(ctx)
	if err != nil {
		return err
	}
	id := c.Snapshot(c.Head()).ID
	if want != nil && *want != id {
		return otherEntry(id, *want)
	}
	if err := checkTarget(o.dir, s); err != nil {
		return err
	}
	if o.dryRun {
		plan, err := chain.PlanRestore(ctx, c, c.Head(), o.dir, o.options(p))
		if err != nil {
			return plainPath(err)
		}
		return p.printRestorePlan(func(i int) string { return s.pathOf(c.Entry(i)) }, plan)
	}
	began := time.Now()
	r, err := chain.Restore(ctx, c, c.Head(), o.dir, o.options(p))
	if err != nil {
		return plainPath(err)
	}
	return p.restored(paths[len(paths)-1], o, r, began)
}

func otherEntry(id, want delta.Digest) error {
	return fmt.Errorf("%w: the entry is %s, the manifest is of %s", errUnverified, id.Short(), want.Short())
}

func (p *program) unpackStream(ctx context.Context, paths []string, o *unpackFlags, want *delta.Digest) error {
	switch {
	case len(paths) > 1:
		return hint(usage(errors.New("unpack: - cannot stand beside other archives")), "cat ARCHIVE... | tarvm unpack - -C DIR")
	case o.dryRun:
		return usage(errors.New("unpack: --dry-run needs archives that can be read at random"))
	}
	began := time.Now()
	ro := chain.StreamOptions{RestoreOptions: o.options(p)}
	if want != nil {
		ro.Want = *want
	}
	r, err := chain.RestoreStream(ctx, p.input(ctx), p.codecs, o.dir, ro)
	if err != nil {
		return fmt.Errorf("standard input: %w", plainPath(err))
	}
	return p.restored("standard input", o, r, began)
}

// unpackForeign unpacks a tar of another program. When it is none, the error is why.
func (p *program) unpackForeign(ctx context.Context, path string, o *unpackFlags, why error) error {
	f, err := os.Open(path)
	if err != nil {
		return plainPath(err)
	}
	defer f.Close()
	if o.manifest != "" || o.dryRun {
		return fmt.Errorf("%w: --manifest and --dry-run need one", why)
	}
	began := time.Now()
	r, err := chain.RestoreStream(ctx, f, p.codecs, o.dir, chain.StreamOptions{RestoreOptions: o.options(p)})
	if errors.Is(err, archive.ErrForeign) {
		return why
	}
	if err != nil {
		return fmt.Errorf("%s: %w", path, plainPath(err))
	}
	return p.restored(path, o, r, began)
}

// checkTarget refuses a directory that holds the archives: they would be removed.
func checkTarget(dir string, s *shelf) error {
	top, err := os.Stat(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return plainPath(err)
	}
	if !top.IsDir() {
		return usage(fmt.Errorf("%s: is not a directory", dir))
	}
	for _, f := range s.open {
		in, err := inside(f.path, top)
		if err != nil {
			return err
		}
		if in {
			abs, err := filepath.Abs(f.path)
			if err != nil {
				abs = f.path
			}
			return hint(usage(fmt.Errorf("%s: is in the directory that is to be restored", f.path)), "choose another directory than %s", filepath.Dir(abs))
		}
	}
	return nil
}

func (p *program) restored(from string, o *unpackFlags, r *chain.RestoreResult, began time.Time) error {
	if r.Foreign {
		p.note("note: %s is a tar of another program: there are no digests to compare it with", from)
	}
	for _, w := range r.Warnings {
		p.warn("%s", w)
	}
	if p.json {
		return p.writeJSON(r)
	}
	p.note("%s: %s written, %s kept, %.1f s", o.dir, size(r.Written), size(r.Kept), time.Since(began).Seconds())
	return nil
}

func (p *program) printRestorePlan(from func(i int) string, plan *chain.Plan) error {
	if p.json {
		return p.writeJSON(plan)
	}
	if err := p.printf("entry %s into %s\n", plan.ID.Short(), plan.Dir); err != nil {
		return err
	}
	for _, it := range plan.Items {
		if it.Action == chain.ActionKeep && !p.verbose {
			continue
		}
		if err := p.printf("%-7s %12s  %s\n", it.Action, size(it.Write), memberName(it.Path, it.Type)); err != nil {
			return err
		}
	}
	for _, f := range plan.Fetch {
		if err := p.printf("read %s from %s\n", size(f.Bytes), from(f.Index)); err != nil {
			return err
		}
	}
	free := "not known"
	if plan.Free >= 0 {
		free = size(plan.Free)
	}
	return p.printf("write %s, keep %s in place, take %s from elsewhere in it; space needed: %s, free: %s\n",
		size(plan.Write), size(plan.Keep), size(plan.Local), size(plan.Need), free)
}
