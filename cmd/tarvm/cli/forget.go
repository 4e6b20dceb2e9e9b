package cli

import (
	"context"
	"errors"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"tarvm/archive/repo"
	"tarvm/archive/repo/rotation"
	"tarvm/cmd/tarvm/settings"
)

// forgetFlags are those of tarvm forget.
type forgetFlags struct {
	repoFlags
	rules    map[string]*string
	labels   []string
	policy   string
	project  string
	reparent bool
	dryRun   bool
	workers  int
}

// keepFlags are the rules that are numbers or spans, with what they keep.
var keepFlags = []struct{ name, value, help string }{
	{"keep-last", "N", "the `N` newest; all is a number, too"},
	{"keep-hourly", "N", "the last of each of the `N` newest hours that have an entry"},
	{"keep-daily", "N", "the last of each of `N` days"},
	{"keep-weekly", "N", "the last of each of `N` weeks"},
	{"keep-monthly", "N", "the last of each of `N` months"},
	{"keep-yearly", "N", "the last of each of `N` years"},
	{"keep-within", "SPAN", "all of this long before the newest: `SPAN` is like 14d or 1y6m"},
}

func (p *program) forgetCommand() *cobra.Command {
	o := forgetFlags{rules: make(map[string]*string)}
	cmd := &cobra.Command{
		Use:   "forget --keep-...",
		Short: "Remove old entries by rules",
		Long: `Removes the entries that no rule keeps. Rules count in each project by itself, and for each machine in it; the newest entry
is always kept, and what nothing is said about stays: without rules nothing is forgotten.

An entry that no rule keeps, but on which a kept one builds, stays until that goes as well; with --reparent the kept one
gets an archive of its own.

A policy says in one text what is kept and of which kind new entries are; tarvm save follows it, and forgets after each
save. In it, a rule keeps of each period the entry that was meant for it:

  full=monthly,differential=weekly,replace,keep-weekly=5,keep-monthly=12

makes a full entry each month, a differential one each week and increments else; replace lets increments go when
a later differential or full one is a week old.`,
		Example: `  tarvm forget --keep-daily 7 --keep-weekly 5 --keep-monthly 12 --dry-run
  tarvm forget --policy nightly --project web`,
		Args: args(0, 0, "nothing but flags"),
		RunE: func(cmd *cobra.Command, _ []string) error { return p.forget(cmd.Context(), &o) },
	}
	o.register(p, cmd)
	f := cmd.Flags()
	for _, k := range keepFlags {
		o.rules[k.name] = f.String(k.name, "", "keep "+k.help)
	}
	f.StringArrayVar(&o.labels, "keep-label", nil, "keep what has the label, `KEY` or KEY=VALUE (repeatable)")
	f.StringVar(&o.policy, "policy", "", "the rules of a policy, a name of the settings or a `POLICY`")
	f.StringVar(&o.project, "project", "", "only entries of this project, `NAME`")
	f.BoolVar(&o.reparent, "reparent", false, "give kept entries archives of their own, so that what they build on can go")
	f.BoolVarP(&o.dryRun, "dry-run", "n", false, "only say what would be done")
	f.IntVar(&o.workers, "workers", 0, "how many processors to use for --reparent (default: all)")
	p.jsonFlag(cmd)
	complete(cmd, "project", p.completeProjects(&o.repoFlags))
	return cmd
}

// rotationForest is what rotation has to know of a forest.
func rotationForest(f *repo.Forest) (*rotation.Forest, error) {
	items := make([]rotation.Item, len(f.Entries))
	for i, e := range f.Entries {
		it := rotation.Item{
			Number: e.Number, Twin: e.ID.String(), Time: e.Time.Time, Kind: rotation.Kind(e.Kind), Project: e.Project, Labels: e.Labels, Bytes: e.Size,
		}
		if e.Machine != nil {
			it.Machine = e.Machine.UUID
		}
		if e.Parent != nil {
			if it.Parent = rotation.Absent; f.Parent(e) != nil {
				it.Parent = f.Parent(e).Number
			}
		}
		items[i] = it
	}
	return rotation.NewForest(items)
}

// forgotten is what forget writes with --json.
type forgotten struct {
	Verdicts []rotation.Verdict `json:"verdicts"`
	Plan     *rotation.Plan     `json:"plan"`
	DryRun   bool               `json:"dry_run,omitempty"`
	Result   *repo.RemoveResult `json:"result,omitempty"`
}

func (p *program) forget(ctx context.Context, o *forgetFlags) error {
	var text []string
	for _, k := range keepFlags {
		if v := *o.rules[k.name]; v != "" {
			text = append(text, k.name+"="+v)
		}
	}
	for _, l := range o.labels {
		text = append(text, "keep-label="+strings.NewReplacer(`\`, `\\`, `,`, `\,`).Replace(l))
	}
	if len(text) > 0 && o.policy != "" {
		return usage(errors.New("--policy and --keep-... exclude each other"))
	}
	s, err := p.openRepo(ctx, &o.repoFlags, settings.Given{})
	if err != nil {
		return err
	}
	var policy *rotation.Policy
	if len(text) > 0 {
		pol, err := rotation.Parse(strings.Join(text, ","))
		if err != nil {
			return usage(err)
		}
		policy = &pol
	} else if policy, err = s.policy(o.policy); err != nil {
		return err
	}
	if policy == nil || policy.Empty() && !policy.Replace {
		return hint(usage(errors.New("forget: no rule says what to keep")), "--keep-last 10, --keep-daily 7, or --policy; tarvm rm removes single entries")
	}
	f, err := s.forest(ctx)
	if err != nil {
		return err
	}
	if o.project != "" {
		if err := knownProject(f, o.project); err != nil {
			return err
		}
	}
	out, err := p.planForget(f, policy, o.project, o.reparent, len(text) > 0)
	if err != nil {
		return err
	}
	out.DryRun = o.dryRun
	if !o.dryRun && len(out.Plan.Remove) > 0 {
		if out.Result, err = s.carryOut(ctx, f, out.Plan, o.workers); err != nil {
			return err
		}
	}
	if p.json {
		return p.writeJSON(out)
	}
	return p.printForget(f, out)
}

// planForget decides what goes. Plain rules judge every entry alike, policies by what it was meant for.
func (p *program) planForget(f *repo.Forest, policy *rotation.Policy, project string, reparent, plain bool) (*forgotten, error) {
	rf, err := rotationForest(f)
	if err != nil {
		return nil, err
	}
	out := &forgotten{}
	now := time.Now()
	if plain {
		out.Verdicts = rf.Keep(policy.Rules, now)
	} else {
		out.Verdicts = policy.After(rf, now)
	}
	if project != "" {
		out.Verdicts = slices.DeleteFunc(out.Verdicts, func(v rotation.Verdict) bool {
			e, err := f.Find("#" + strconv.Itoa(v.Number))
			return err != nil || e.Project != project
		})
	}
	gone := rotation.Forgotten(out.Verdicts)
	if reparent {
		out.Plan, err = rf.Reparent(gone)
	} else {
		out.Plan, err = rf.Remove(gone)
	}
	return out, err
}

// carryOut does what a plan says.
func (s *session) carryOut(ctx context.Context, f *repo.Forest, plan *rotation.Plan, workers int) (*repo.RemoveResult, error) {
	var es []*repo.Entry
	for _, n := range plan.Remove {
		e, err := f.Find("#" + strconv.Itoa(n))
		if err != nil {
			return nil, err
		}
		es = append(es, e)
	}
	return s.Remove(ctx, es, repo.RemoveOptions{Reparent: len(plan.Reparent) > 0, Pack: s.p.mergePack(workers)})
}

// rotate forgets after a save what a policy does not keep, in the new entry's project.
func (s *session) rotate(ctx context.Context, policy *rotation.Policy, e *repo.Entry) (*repo.RemoveResult, error) {
	if policy.Empty() && !policy.Replace {
		return nil, nil
	}
	f, err := s.Forest(ctx)
	if err != nil {
		return nil, err
	}
	plan, err := s.p.planForget(f, policy, e.Project, false, false)
	if err != nil || len(plan.Plan.Remove) == 0 {
		return nil, err
	}
	r, err := s.carryOut(ctx, f, plan.Plan, 0)
	if err == nil {
		s.p.note("forgotten: %s, %s", numbers(r.Removed), size(r.Bytes))
	}
	return r, err
}

// numbers lists entries by their numbers.
func numbers(es []*repo.Entry) string {
	var b strings.Builder
	for i, e := range es {
		if i > 0 {
			b.WriteString(", ")
		}
		b.WriteString(e.Ref())
	}
	return b.String()
}

func (p *program) printForget(f *repo.Forest, out *forgotten) error {
	needed := make(map[int]rotation.Need)
	for _, n := range out.Plan.Needed {
		needed[n.Number] = n
	}
	byNumber := make(map[int]*repo.Entry)
	for _, e := range f.Entries {
		byNumber[e.Number] = e
	}
	t := newTable(" ENTRY", "TIME", "PROJECT", "NAME", "")
	for _, v := range out.Verdicts {
		e := byNumber[v.Number]
		why := "keep: " + strings.Join(v.Reasons, ", ")
		if !v.Keep {
			why = "forget"
			if n, ok := needed[v.Number]; ok {
				why = "stays: " + n.String()
			}
		}
		t.add(e.Ref(), clock(e.Time), quoted(e.Project), entryName(e), why)
	}
	if err := p.printf("%s", t); err != nil {
		return err
	}
	verb := "forgotten"
	if out.DryRun {
		verb = "would be forgotten"
	}
	freed := out.Plan.Freed
	if out.Result != nil {
		freed = out.Result.Bytes
	}
	return p.printf("%s %s, %s\n", count(len(out.Plan.Remove), "entry"), verb, size(freed))
}
