package cli

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"tarvm/archive/repo"
	"tarvm/archive/repo/rotation"
	"tarvm/cmd/tarvm/settings"
	"tarvm/formats/machine"
)

// saveFlags are those of tarvm save.
type saveFlags struct {
	repoFlags
	packFlags
	project      string
	full         bool
	differential bool
	incremental  bool
	parent       string
	force        bool
	policy       string
	noMemory     bool
}

func (p *program) saveCommand() *cobra.Command {
	var o saveFlags
	cmd := &cobra.Command{
		Use:   "save [AREA]",
		Short: "Save a machine as a new entry of the repository",
		Long: `Saves what is in AREA, a working area or a directory, as a new entry. When nothing has changed since an entry, that
is said, and there is no new one.

What the entry builds on is found by itself: the entry with the same disks; what was last saved from or restored into
AREA; an entry of the machine with the same UUID; the entry that has most of the machine's blocks. That it chose, and why,
is said. A machine that is like none of these becomes a full entry. --parent, --full and --differential decide otherwise.

With --policy, or a policy in the settings, the policy decides of which kind the entry is, and what is forgotten
after it: "full=monthly,differential=weekly,replace,keep-weekly=5,keep-monthly=12" (tarvm forget --help).`,
		Example: `  tarvm save
  tarvm save web --name 'before the upgrade' --label ticket=4711
  tarvm save ./vm --policy full=monthly,differential=weekly,replace`,
		Args:              args(0, 1, "at most one working area"),
		ValidArgsFunction: p.completeAreas,
		RunE: func(cmd *cobra.Command, a []string) error {
			o.levelSet = cmd.Flags().Changed("level")
			return p.save(cmd.Context(), a, &o)
		},
	}
	o.repoFlags.register(p, cmd)
	f := cmd.Flags()
	f.StringVar(&o.project, "project", "", "the group of entries, `NAME` (default: the area's, the parent's, or the directory's name)")
	f.StringVar(&o.name, "name", "", "name of the entry (default: the directory's)")
	f.StringVar(&o.note, "note", "", "a remark")
	f.StringArrayVar(&o.labels, "label", nil, "a label, `KEY=VALUE` (repeatable)")
	f.BoolVar(&o.full, "full", false, "an entry that builds on no other")
	f.BoolVar(&o.differential, "differential", false, "an entry that builds on the full one of its tree")
	f.BoolVar(&o.incremental, "incremental", false, "an entry that builds on the last one, whatever a policy says")
	f.StringVar(&o.parent, "parent", "", "build on `ENTRY`")
	f.BoolVarP(&o.force, "force", "f", false, "make an entry even if nothing has changed")
	f.StringVar(&o.codec, "codec", "", "compression: zstd, gzip, xz, lz4 or none (default zstd)")
	f.IntVar(&o.level, "level", 0, "level of compression, as the codec's own program has them (default: the codec's)")
	f.Var(&o.block, "block-size", "unit of comparison, 4K to 4M; an increment has its parent's (default 64K)")
	f.StringArrayVar(&o.exclude, "exclude", nil, "leave out what matches `PATTERN`, as of tarvm pack (repeatable)")
	f.BoolVar(&o.noMemory, "no-memory", false, "leave out memory and saved states: the machine will be as after a power failure")
	f.BoolVar(&o.trustTimes, "trust-times", false, "do not read files whose size, times and inode are as they were")
	f.BoolVar(&o.live, "live", false, "save a machine that runs: the state is what a power failure would leave")
	f.IntVar(&o.tries, "tries", 0, "how often a file that changes is read (default 3)")
	f.StringVar(&o.time, "time", "", "time of the entry, as 2026-05-01T12:00:00Z or @SECONDS (default: SOURCE_DATE_EPOCH, or now)")
	f.IntVar(&o.workers, "workers", 0, "how many processors to use (default: all)")
	f.StringVar(&o.policy, "policy", "", "the kind of the entry, and what is forgotten after it: a name of the settings or a `POLICY`")
	p.jsonFlag(cmd)
	complete(cmd, "project", p.completeProjects(&o.repoFlags))
	complete(cmd, "parent", p.completeEntries(&o.repoFlags, -1, nil))
	var names []string
	for _, c := range p.codecs {
		names = append(names, c.Name())
	}
	fixed(cmd, "codec", names...)
	return cmd
}

// saved is what save writes with --json.
type saved struct {
	*repo.SaveResult
	Policy    string             `json:"policy,omitempty"` // why the policy wanted that kind
	Forgotten *repo.RemoveResult `json:"forgotten,omitempty"`
}

func (p *program) save(ctx context.Context, a []string, o *saveFlags) error {
	kinds := 0
	for _, b := range []bool{o.full, o.differential, o.incremental} {
		if b {
			kinds++
		}
	}
	switch {
	case kinds > 1:
		return usage(errors.New("--full, --differential and --incremental exclude each other"))
	case o.full && o.parent != "":
		return usage(errors.New("--full and --parent exclude each other"))
	}
	given := settings.Given{Project: o.project}
	if len(a) > 0 {
		given.Area = a[0]
	}
	s, err := p.openRepo(ctx, &o.repoFlags, given)
	if err != nil {
		return err
	}
	area, err := s.area()
	if err != nil {
		return err
	}
	so, err := p.saveOptions(o)
	if err != nil {
		return err
	}
	so.Project = s.sel.Project.Name
	so.Record = readRecord(area.Dir)
	so.Pack.TrustTimes = o.trustTimes || s.set.TrustTimes
	if st, err := os.Stat(area.Dir); errors.Is(err, fs.ErrNotExist) && area.Name != "" {
		return hint(plainPath(err), "is the disk of working area %s there? tarvm restore makes its directory anew", area.Name)
	} else if err != nil {
		return plainPath(err)
	} else if !st.IsDir() {
		return usage(fmt.Errorf("%s: is not a directory", area.Dir))
	}
	if list, err := os.ReadDir(area.Dir); err == nil && len(list) == 0 && !o.force {
		return hint(fmt.Errorf("%s: is empty: there is nothing to save", area.Dir), "put a machine into it; --force saves it as it is")
	}
	f, err := s.forest(ctx)
	if err != nil {
		return err
	}
	if o.parent != "" {
		if so.Parent, err = s.entry(f, o.parent); err != nil {
			return err
		}
	}
	out := saved{}
	policy, err := s.policy(o.policy)
	if err != nil {
		return err
	}
	if policy != nil && kinds == 0 && so.Parent == nil {
		if out.Policy, err = s.follow(f, policy, &so); err != nil {
			return err
		}
	}
	if o.noMemory {
		if err := p.noteSavedState(ctx, area.Dir); err != nil {
			return err
		}
	}
	began := time.Now()
	if out.SaveResult, err = s.Save(ctx, area.Dir, so); err != nil {
		return plainPath(err)
	}
	p.keepRecord(area.Dir, out.Record)
	if policy != nil {
		if out.Forgotten, err = s.rotate(ctx, policy, out.Entry); err != nil {
			return fmt.Errorf("%s was saved; then: %w", out.Entry, err)
		}
	}
	if p.json {
		return p.writeJSON(&out)
	}
	p.sayWhy(&out)
	if out.Unchanged {
		return p.printf("%s: nothing has changed since %s\n", printable(area.Dir), printable(out.Entry.String()))
	}
	for _, t := range out.Pack.Torn {
		p.warn("%s: changed while it was read; its state is what a power failure would leave", name(t))
	}
	for _, g := range out.Pack.Vanished {
		p.warn("%s: vanished before it was read; it is left out", name(g))
	}
	st := out.Pack.Stats
	p.note("%s for %s in %s, %.1f s", size(out.Pack.Encoded), size(st.Bytes), count(st.Files, "file"), time.Since(began).Seconds())
	on := ""
	if out.Parent != nil {
		on = " on " + out.Parent.Ref()
	}
	return p.printf("%s: %s%s in project %s\n", printable(out.Entry.String()), out.Entry.Kind, on, out.Entry.Project)
}

// noteSavedState says of a configuration that it names a saved state, which is left out. The file is saved as it is, so that a
// hypervisor will look for the state.
func (p *program) noteSavedState(ctx context.Context, dir string) error {
	return p.eachConfig(ctx, dir, func(name string, m *machine.Machine) {
		for _, o := range m.Others {
			if o.Kind == "saved-state" {
				p.note("%s says that the machine is suspended, in %s, which is left out: after a restore, discard the suspended state before it is started", quoted(name), quoted(o.Name))
			}
		}
	})
}

// saveOptions turns flags into the library's options.
func (p *program) saveOptions(o *saveFlags) (repo.SaveOptions, error) {
	pf := o.packFlags
	pf.out = "-" // not asked for
	parent := pf.parent
	pf.parent, pf.differential, pf.trustTimes = "", false, false
	json := p.json
	p.json = false
	po, err := pf.options(p)
	p.json = json
	pf.parent = parent
	so := repo.SaveOptions{Pack: po, Force: o.force, NoMemory: o.noMemory, Identify: p.identify}
	if o.codec == "" {
		so.Pack.Codec = nil
	}
	switch {
	case o.full:
		so.Kind = repo.Full
	case o.differential:
		so.Kind = repo.Differential
	case o.incremental:
		so.Kind = repo.Incremental
	}
	return so, err
}

// sayWhy tells how the parent was chosen.
func (p *program) sayWhy(r *saved) {
	if r.Unchanged {
		return
	}
	for _, t := range r.Tried {
		p.note("%s was tried first, and is something else", t)
	}
	if r.Policy != "" {
		p.note("%s: %s", r.Entry.Kind, r.Policy)
	}
	switch r.Reason {
	case repo.ReasonDisk:
		p.note("its disks are those of %s", r.Parent)
	case repo.ReasonLast:
		p.note("%s was here last; %s of the data are the same", r.Parent, part(r.Shared))
	case repo.ReasonUUID:
		p.note("%s is of the same machine; %s of the data are the same", r.Parent, part(r.Shared))
	case repo.ReasonSimilar:
		p.note("%s is what it is most like: %s of the data are the same", r.Parent, part(r.Shared))
	case repo.ReasonNone:
		p.note("nothing in the repository is like it: a full entry")
	case repo.ReasonGiven, repo.ReasonFull:
	}
}

// part is a share from 0 to 1 for people: what is nearly all is not all.
func part(share float64) string {
	switch {
	case share >= 1:
		return "all"
	case share > 0.99:
		return "more than 99 %"
	case share > 0 && share < 0.01:
		return "less than 1 %"
	}
	return fmt.Sprintf("%.0f %%", 100*share)
}

// policy returns the policy that is meant: by a flag, a name of the settings or a policy itself, or else by the settings;
// nil if there is none.
func (s *session) policy(flag string) (*rotation.Policy, error) {
	text := cmp.Or(flag, s.sel.Policy.Name)
	if text == "" {
		return nil, nil
	}
	pol := new(rotation.Policy)
	err := s.set.DecodePolicy(text, pol)
	var unknown *settings.UnknownError
	if errors.As(err, &unknown) {
		*pol, err = rotation.Parse(text)
		if err != nil && flag == text {
			h := "for example full=monthly,differential=weekly,replace,keep-weekly=5"
			if names := s.set.Policies(); len(names) > 0 {
				h += "; in the settings there are " + strings.Join(names, ", ")
			}
			return nil, hint(usage(fmt.Errorf("--policy: %w", err)), "%s", h)
		}
	}
	if err == nil {
		err = pol.Check()
	}
	if err != nil {
		return nil, fmt.Errorf("policy %s: %w", text, err)
	}
	return pol, nil
}

// follow lets a policy decide of which kind the next entry is.
func (s *session) follow(f *repo.Forest, policy *rotation.Policy, so *repo.SaveOptions) (string, error) {
	rf, err := rotationForest(f)
	if err != nil {
		return "", err
	}
	at := 0
	if so.Record != nil {
		if e := f.ByDigest(so.Record.ID, so.Record.Digest); e != nil && so.Record.Repository == f.Repository {
			at = e.Number
		}
	}
	now := so.Pack.Time
	if now.IsZero() {
		now = time.Now()
	}
	next, err := policy.Next(rf, at, now.Local())
	if err != nil {
		return "", err
	}
	so.Kind = repo.Kind(next.Kind)
	if next.Kind == rotation.Incremental {
		so.Kind = ""
	}
	return next.Reason, nil
}
