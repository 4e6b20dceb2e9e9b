package cli

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"tarvm/archive"
	"tarvm/archive/repo"
	"tarvm/cmd/tarvm/settings"
)

// removeFlags are those of the verbs that remove entries.
type removeFlags struct {
	repoFlags
	reparent bool
	dryRun   bool
	workers  int
}

func (o *removeFlags) register(p *program, cmd *cobra.Command) {
	o.repoFlags.register(p, cmd)
	f := cmd.Flags()
	f.BoolVar(&o.reparent, "reparent", false, "give what builds on them archives of its own, so that they can go")
	f.BoolVarP(&o.dryRun, "dry-run", "n", false, "only say what would be done")
	f.IntVar(&o.workers, "workers", 0, "how many processors to use for --reparent (default: all)")
	p.jsonFlag(cmd)
}

func (p *program) rmCommand() *cobra.Command {
	var o removeFlags
	cmd := &cobra.Command{
		Use:   "rm ENTRY...",
		Short: "Remove entries",
		Long: `Removes entries for good; A..B are all from A to B. Entries on which others build are refused, and the others are named;
a set goes when it holds all that builds on it. With --reparent, what stays gets archives first that can do without what
goes. A twin, an entry of the same state, is as good to build on: of two twins one can go.`,
		Example: `  tarvm rm 7
  tarvm rm 3..6 --reparent`,
		Args: args(1, -1, "entries"),
		RunE: func(cmd *cobra.Command, a []string) error { return p.rm(cmd.Context(), a, &o) },
	}
	o.register(p, cmd)
	cmd.ValidArgsFunction = p.completeEntries(&o.repoFlags, -1, nil)
	return cmd
}

func (p *program) rm(ctx context.Context, a []string, o *removeFlags) error {
	s, f, err := p.openForest(ctx, &o.repoFlags, settings.Given{})
	if err != nil {
		return err
	}
	es, err := s.entries(f, a)
	if err != nil {
		return err
	}
	return s.remove(ctx, f, es, o)
}

// remove removes entries, or says what would be removed.
func (s *session) remove(ctx context.Context, f *repo.Forest, es []*repo.Entry, o *removeFlags) error {
	if o.dryRun {
		if orphans := f.Orphans(es); len(orphans) > 0 && !o.reparent {
			return orphansHint(&repo.OrphansError{Remove: es, Orphans: orphans})
		}
		r := &repo.RemoveResult{Removed: es}
		for _, e := range es {
			r.Bytes += e.Size
		}
		if s.p.json {
			return s.p.writeJSON(r)
		}
		return s.p.printf("would remove %s, %s\n", numbers(es), size(r.Bytes))
	}
	r, err := s.Remove(ctx, es, repo.RemoveOptions{Reparent: o.reparent, Pack: s.p.mergePack(o.workers)})
	if err != nil {
		if r != nil && len(r.Removed) > 0 {
			s.p.note("removed before that: %s", numbers(r.Removed))
		}
		return orphansHint(plainPath(err))
	}
	for _, l := range r.Left {
		s.p.warn("%s: cannot be reached: remove the archive there", l)
	}
	if s.p.json {
		return s.p.writeJSON(r)
	}
	if len(r.Reparented) > 0 {
		s.p.note("with archives of their own now: %s", numbers(r.Reparented))
	}
	return s.p.printf("removed %s, %s\n", numbers(r.Removed), size(r.Bytes))
}

func orphansHint(err error) error {
	var o *repo.OrphansError
	if !errors.As(err, &o) {
		return err
	}
	all := slices.Concat(o.Remove, o.Orphans)
	return hint(err, "tarvm rm %s removes all of them; --reparent gives what stays archives of its own", ranges(all))
}

// ranges lists entries as arguments, without the # that begins a comment in a shell: 1 3..7 9.
func ranges(es []*repo.Entry) string {
	ns := make([]int, len(es))
	for i, e := range es {
		ns[i] = e.Number
	}
	slices.Sort(ns)
	ns = slices.Compact(ns)
	var b strings.Builder
	for i := 0; i < len(ns); {
		j := i + 1
		for j < len(ns) && ns[j] == ns[j-1]+1 {
			j++
		}
		if i > 0 {
			b.WriteByte(' ')
		}
		switch {
		case j-i > 2:
			fmt.Fprintf(&b, "%d..%d", ns[i], ns[j-1])
		default:
			j = i + 1
			fmt.Fprint(&b, ns[i])
		}
		i = j
	}
	return b.String()
}

// mergePack are the options of archives that are made of others.
func (p *program) mergePack(workers int) archive.PackOptions {
	return archive.PackOptions{Workers: workers, Progress: p.progress, Formats: p.disks}
}

// mergeFlags are those of tarvm merge.
type mergeFlags struct {
	repoFlags
	differential bool
	squash       string
	reparent     bool
	codec        string
	level        int
	workers      int
}

func (p *program) mergeCommand() *cobra.Command {
	var o mergeFlags
	cmd := &cobra.Command{
		Use:   "merge {ENTRY | --squash A..B}",
		Short: "Make a full entry out of a chain, without the machine",
		Long: `Gives ENTRY an archive that builds on no other (with --differential: on the full one of its tree). The entry keeps its number
and id, what builds on it builds on it still, and its ancestors may go. The new archive is what packing the same files
afresh would have made, at equal options byte for byte; it is verified before it replaces the old one.

--squash A..B makes one increment of those from A to B: B builds on what A was built on, and what is between them goes.`,
		Example: `  tarvm merge 12
  tarvm merge --squash 4..12`,
		Args: func(cmd *cobra.Command, a []string) error {
			if (len(a) == 1) == (o.squash != "") || len(a) > 1 {
				return hint(usage(errors.New("merge: want one entry, or --squash A..B")), "%s --help", cmd.CommandPath())
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, a []string) error {
			var level *int
			if cmd.Flags().Changed("level") {
				level = &o.level
			}
			return p.merge(cmd.Context(), a, level, &o)
		},
	}
	o.register(p, cmd)
	f := cmd.Flags()
	f.BoolVar(&o.differential, "differential", false, "build on the full entry of the tree")
	f.StringVar(&o.squash, "squash", "", "make one increment of `A..B`")
	f.BoolVar(&o.reparent, "reparent", false, "with --squash: give what builds on what goes archives of its own")
	f.StringVar(&o.codec, "codec", "", "compression of the new archive (default: the old one's)")
	f.IntVar(&o.level, "level", 0, "level of compression (default: the codec's)")
	f.IntVar(&o.workers, "workers", 0, "how many processors to use (default: all)")
	cmd.ValidArgsFunction = p.completeEntries(&o.repoFlags, 0, nil)
	var names []string
	for _, c := range p.codecs {
		names = append(names, c.Name())
	}
	fixed(cmd, "codec", names...)
	p.jsonFlag(cmd)
	return cmd
}

func (p *program) merge(ctx context.Context, a []string, level *int, o *mergeFlags) error {
	mo := repo.MergeOptions{Pack: p.mergePack(o.workers), Reparent: o.reparent}
	var err error
	if mo.Pack.Codec, mo.Pack.Level, err = p.codecFlag(o.codec, level); err != nil {
		return err
	}
	s, f, err := p.openForest(ctx, &o.repoFlags, settings.Given{})
	if err != nil {
		return err
	}
	began := time.Now()
	var r *repo.MergeResult
	if o.squash != "" {
		from, to, ok := strings.Cut(o.squash, "..")
		if !ok || o.differential || len(a) > 0 {
			return hint(usage(errors.New("merge: --squash wants A..B, and no other entry or --differential")), "tarvm merge --help")
		}
		x, err := s.entry(f, from)
		if err != nil {
			return err
		}
		y, err := s.entry(f, to)
		if err != nil {
			return err
		}
		r, err = s.Squash(ctx, f, x, y, mo)
		if err != nil {
			return orphansHint(plainPath(err))
		}
	} else {
		e, err := s.entry(f, a[0])
		if err != nil {
			return err
		}
		var parent *repo.Entry
		if o.differential {
			path, err := f.Path(e)
			if err != nil {
				return err
			}
			if parent = path[0]; parent == e {
				return fmt.Errorf("%s is the full entry of its tree", e)
			}
		} else if e.Kind == repo.Full && o.codec == "" && level == nil {
			return p.printf("%s is full already\n", printable(e.String()))
		}
		if parent != nil && f.Parent(e) == parent && o.codec == "" && level == nil {
			return p.printf("%s builds on %s already\n", printable(e.String()), parent.Ref())
		}
		if r, err = s.Merge(ctx, f, e, parent, mo); err != nil {
			return plainPath(err)
		}
	}
	for _, l := range r.Left {
		p.warn("%s: cannot be reached: remove the archive there", l)
	}
	if p.json {
		return p.writeJSON(r)
	}
	if len(r.Removed) > 0 {
		p.note("gone: %s", numbers(r.Removed))
	}
	if len(r.Reparented) > 0 {
		p.note("with archives of their own now: %s", numbers(r.Reparented))
	}
	on := "full"
	if r.Parent != nil {
		on = "on " + r.Parent.Ref()
	}
	p.note("%s, was %s, %.1f s", size(r.Entry.Size), size(r.Before), time.Since(began).Seconds())
	return p.printf("%s: %s\n", printable(r.Entry.String()), on)
}

func (p *program) projectCommand() *cobra.Command {
	cmd := &cobra.Command{Use: "project", Short: "The groups of entries", Args: noVerb, RunE: p.onlyHelp}
	cmd.AddCommand(p.projectListCommand(), p.projectRmCommand())
	return cmd
}

func (p *program) projectListCommand() *cobra.Command {
	var o repoFlags
	cmd := &cobra.Command{
		Use:   "list",
		Short: "List the projects of the repository",
		Args:  args(0, 0, "nothing but flags"),
		RunE: func(cmd *cobra.Command, _ []string) error {
			_, f, err := p.openForest(cmd.Context(), &o, settings.Given{})
			if err != nil {
				return err
			}
			ps := f.Stats().Projects
			if p.json {
				return p.writeJSON(ps)
			}
			t := newTable("PROJECT", " ENTRIES", " SIZE", " LATEST", "TIME", "NAME")
			for _, x := range ps {
				t.add(quoted(x.Name), fmt.Sprint(x.Entries), size(x.Archives), x.Latest.Ref(), clock(x.Latest.Time), entryName(x.Latest))
			}
			return p.printf("%s", t)
		},
	}
	o.register(p, cmd)
	p.jsonFlag(cmd)
	return cmd
}

func (p *program) projectRmCommand() *cobra.Command {
	var o removeFlags
	cmd := &cobra.Command{
		Use:   "rm PROJECT",
		Short: "Remove a project with all its entries",
		Long:  `Removes all entries of a project, as tarvm rm does: refused when entries of other projects build on them.`,
		Args:  args(1, 1, "one project"),
		RunE: func(cmd *cobra.Command, a []string) error {
			s, f, err := p.openForest(cmd.Context(), &o.repoFlags, settings.Given{})
			if err != nil {
				return err
			}
			if err := knownProject(f, a[0]); err != nil {
				return err
			}
			es := slices.DeleteFunc(slices.Clone(f.Entries), func(e *repo.Entry) bool { return e.Project != a[0] })
			return s.remove(cmd.Context(), f, es, &o)
		},
	}
	o.register(p, cmd)
	cmd.ValidArgsFunction = p.completeProjects(&o.repoFlags)
	return cmd
}
