package cli

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/spf13/cobra"

	"tarvm/archive"
	"tarvm/archive/chain"
	"tarvm/archive/repo"
	"tarvm/cmd/tarvm/platform"
	"tarvm/cmd/tarvm/settings"
)

// restoreFlags are those of tarvm restore, and of open.
type restoreFlags struct {
	repoFlags
	discard    bool
	saveFirst  bool
	trustTimes bool
	live       bool
	dryRun     bool
	workers    int
}

func (o *restoreFlags) register(p *program, cmd *cobra.Command) {
	o.repoFlags.register(p, cmd)
	f := cmd.Flags()
	f.BoolVar(&o.discard, "discard", false, "overwrite what is not saved")
	f.BoolVar(&o.saveFirst, "save-first", false, "save what is there, and then restore")
	f.BoolVar(&o.trustTimes, "trust-times", false, "do not read files whose size, times and inode are as they were when they were last saved or restored")
	f.BoolVar(&o.live, "live", false, "overwrite a machine that seems to run")
	f.IntVar(&o.workers, "workers", 0, "how many processors to use (default: all)")
	cmd.ValidArgsFunction = p.completeEntries(&o.repoFlags, 0, p.completeAreas)
	p.jsonFlag(cmd)
}

func (p *program) restoreCommand() *cobra.Command {
	var o restoreFlags
	cmd := &cobra.Command{
		Use:   "restore ENTRY [AREA]",
		Short: "Make a working area what an entry is",
		Long: `Makes AREA, a working area or a directory, the state that was saved as ENTRY: a number, a name, PROJECT/NAME,
the beginning of an id, or latest; ~N behind it is the Nth ancestor.

Whatever AREA holds is used: only blocks that differ are read and written, in whatever direction in the tree of entries
that is. What is there and is no entry's state is not overwritten, unless --discard or --save-first says what is to
become of it. All blocks are verified before AREA changes, and it changes as a whole or not at all.`,
		Example: `  tarvm restore 3
  tarvm restore 'before the upgrade' web --save-first
  tarvm restore latest~2 ./vm`,
		Args: args(1, 2, "an entry, and perhaps a working area"),
		RunE: func(cmd *cobra.Command, a []string) error {
			return p.restore(cmd.Context(), a, &o)
		},
	}
	o.register(p, cmd)
	cmd.Flags().BoolVarP(&o.dryRun, "dry-run", "n", false, "only say what would be done")
	return cmd
}

// restoredEntry is what restore writes with --json.
type restoredEntry struct {
	*repo.RestoreResult
	Saved *repo.SaveResult `json:"saved,omitempty"` // by --save-first
}

func (p *program) restore(ctx context.Context, a []string, o *restoreFlags) error {
	out, dir, err := p.restoreArea(ctx, a, o)
	switch {
	case err != nil || o.dryRun:
		return err
	case p.json:
		return p.writeJSON(out)
	}
	return p.printf("%s\n", printable(p.restoredText(out, dir)))
}

// restoredText says what is in a directory now, and what was there.
func (p *program) restoredText(r *restoredEntry, dir string) string {
	was := ""
	if r.Was != nil && r.Was.Number != r.Entry.Number {
		was = ", was " + r.Was.Ref()
	}
	return fmt.Sprintf("%s: %s%s", dir, r.Entry, was)
}

// restoreArea makes an area what an entry is, and returns its directory. The result is nil after a dry run.
func (p *program) restoreArea(ctx context.Context, a []string, o *restoreFlags) (*restoredEntry, string, error) {
	if o.discard && o.saveFirst {
		return nil, "", usage(errors.New("--discard and --save-first exclude each other"))
	}
	given := settings.Given{}
	if len(a) > 1 {
		given.Area = a[1]
	}
	s, err := p.openRepo(ctx, &o.repoFlags, given)
	if err != nil {
		return nil, "", err
	}
	area, err := s.area()
	if err != nil {
		return nil, "", err
	}
	f, err := s.forest(ctx)
	if err != nil {
		return nil, "", err
	}
	e, err := s.entry(f, a[0])
	if err != nil {
		return nil, "", err
	}
	ro := repo.RestoreOptions{
		RestoreOptions: chain.RestoreOptions{Workers: o.workers, Progress: p.progress},
		Record:         readRecord(area.Dir), TrustTimes: o.trustTimes || s.set.TrustTimes, Discard: o.discard, Live: o.live,
	}
	if o.dryRun {
		return nil, "", s.planRestore(ctx, f, e, area.Dir, ro)
	}
	began := time.Now()
	out := restoredEntry{}
	out.RestoreResult, err = s.Restore(ctx, f, e, area.Dir, ro)
	var unsaved *repo.UnsavedError
	if errors.As(err, &unsaved) && o.saveFirst {
		so := repo.SaveOptions{Record: ro.Record, Identify: p.identify, Project: s.sel.Project.Name}
		so.Pack.Workers, so.Pack.Live, so.Pack.Progress = o.workers, o.live, p.progress
		if out.Saved, err = s.Save(ctx, area.Dir, so); err != nil {
			return nil, "", plainPath(err)
		}
		p.note("saved what was there as %s", out.Saved.Entry)
		p.keepRecord(area.Dir, out.Saved.Record)
		ro.Record = out.Saved.Record
		if f, err = s.Forest(ctx); err != nil {
			return nil, "", err
		}
		out.RestoreResult, err = s.Restore(ctx, f, e, area.Dir, ro)
	}
	if err != nil {
		return nil, "", restoreHint(plainPath(err))
	}
	p.keepRecord(area.Dir, out.Record)
	for _, w := range out.Warnings {
		p.warn("%s", w)
	}
	p.note("%s written, %s kept, %.1f s", size(out.Written), size(out.Kept), time.Since(began).Seconds())
	return &out, area.Dir, nil
}

// progress shows what a library reports.
func (p *program) progress(e archive.Progress) { p.bar.report(event(e)) }

// planRestore says what a restore would do.
func (s *session) planRestore(ctx context.Context, f *repo.Forest, e *repo.Entry, dir string, o repo.RestoreOptions) error {
	if _, err := os.Lstat(dir); err == nil {
		st, err := s.State(ctx, f, dir, repo.StateOptions{Record: o.Record, TrustTimes: o.TrustTimes, Live: true, Workers: o.Workers, Progress: o.Progress})
		if err != nil {
			return plainPath(err)
		}
		defer st.Close()
		if !st.Empty && st.Entry == nil && !o.Discard {
			s.p.note("%v: restoring takes --save-first or --discard", &repo.UnsavedError{Dir: dir, Base: st.Base})
		}
		if st.Scan != nil {
			o.Known, o.Seen = st.Scan.Manifest, st.Scan.Seen
		}
	}
	plan, err := s.PlanRestore(ctx, f, e, dir, o)
	if err != nil {
		return plainPath(err)
	}
	path, err := f.Path(e)
	if err != nil {
		return err
	}
	return s.p.printRestorePlan(func(i int) string { return printable(path[i].String()) }, plan)
}

// restoreHint says what can be done about what is in the way of a restore.
func restoreHint(err error) error {
	var running *archive.RunningError
	if errors.As(err, &running) {
		return hint(err, "shut the machine down; --live overwrites its files nevertheless, and a machine that runs will not bear that")
	}
	return err
}

// unsavedHint says what can be done about changes.
func unsavedHint(err error) []string {
	var u *repo.UnsavedError
	if !errors.As(err, &u) {
		return nil
	}
	return []string{fmt.Sprintf("--save-first saves it before, --discard gives it up; tarvm status %s says what has changed", platform.Quote(u.Dir))}
}
