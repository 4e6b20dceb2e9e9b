package cli

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"tarvm/archive/chain"
	"tarvm/archive/inspect"
	"tarvm/archive/repo"
	"tarvm/cmd/tarvm/settings"
	"tarvm/manifest"
)

func (p *program) logCommand() *cobra.Command {
	var o repoFlags
	var project string
	var last int
	cmd := &cobra.Command{
		Use:               "log [ENTRY]",
		Short:             "List the entries of the repository",
		Long:              `Lists the entries, the newest first; with ENTRY, that one and its ancestors. tarvm tree shows how they hang together.`,
		Args:              args(0, 1, "at most one entry"),
		ValidArgsFunction: p.completeEntries(&o, 0, nil),
		RunE:              func(cmd *cobra.Command, a []string) error { return p.log(cmd.Context(), a, project, last, &o) },
	}
	o.register(p, cmd)
	cmd.Flags().StringVar(&project, "project", "", "only entries of this project, `NAME`")
	cmd.Flags().IntVarP(&last, "last", "n", 0, "only the `N` newest")
	complete(cmd, "project", p.completeProjects(&o))
	p.jsonFlag(cmd)
	return cmd
}

// listed is an entry as it is written with --json: with its parent's number.
type listed struct {
	*repo.Entry
	ParentNumber int  `json:"parent_number,omitempty"` // 0: none, or it is not in the repository
	Broken       bool `json:"broken,omitempty"`        // an archive on which it builds is not in the repository
}

// withParents adds to entries of a forest what is known of them there.
func withParents(f *repo.Forest, es []*repo.Entry) []listed {
	broken := make(map[int]bool) // by going down, as paths of many entries would be the same
	for _, root := range f.Roots() {
		if root.Parent == nil {
			continue
		}
		todo := []*repo.Entry{root}
		for len(todo) > 0 {
			e := todo[len(todo)-1]
			broken[e.Number] = true
			todo = append(todo[:len(todo)-1], f.Children(e)...)
		}
	}
	out := make([]listed, len(es))
	for i, e := range es {
		out[i] = listed{Entry: e, Broken: broken[e.Number]}
		if par := f.Parent(e); par != nil {
			out[i].ParentNumber = par.Number
		}
	}
	return out
}

func (p *program) log(ctx context.Context, a []string, project string, last int, o *repoFlags) error {
	s, f, err := p.openForest(ctx, o, settings.Given{})
	if err != nil {
		return err
	}
	es := slices.Clone(f.Entries)
	if len(a) > 0 {
		e, err := s.entry(f, a[0])
		if err != nil {
			return err
		}
		es = es[:0]
		for ; e != nil && len(es) <= len(f.Entries); e = f.Parent(e) {
			es = append(es, e)
		}
		slices.Reverse(es)
	}
	if project != "" {
		if err := knownProject(f, project); err != nil {
			return err
		}
		es = slices.DeleteFunc(es, func(e *repo.Entry) bool { return e.Project != project })
	}
	slices.Reverse(es)
	if last > 0 && len(es) > last {
		es = es[:last]
	}
	if p.json {
		return p.writeJSON(withParents(f, es))
	}
	if len(f.Entries) == 0 {
		p.noEntries(s)
		return nil
	}
	t := newTable(" ENTRY", "TIME", "PROJECT", "NAME", "KIND", " ON", " SIZE", " STATE", "")
	for _, e := range es {
		on := ""
		switch par := f.Parent(e); {
		case par != nil:
			on = par.Ref()
		case e.Parent != nil:
			on = "?"
		}
		t.add(e.Ref(), clock(e.Time), quoted(e.Project), entryName(e), string(e.Kind), on, size(e.Size), size(max(0, e.Stats.Bytes-e.Stats.Zero)), remarks(e))
	}
	return p.printf("%s", t)
}

// knownProject refuses the name of a project that has no entries.
func knownProject(f *repo.Forest, name string) error {
	ps := f.Projects()
	if slices.Contains(ps, name) {
		return nil
	}
	err := usage(fmt.Errorf("there is no project %q", name))
	best, least := "", 3
	for _, p := range ps {
		if d := distance(name, p); d < least && len(p) > d {
			best, least = p, d
		}
	}
	switch {
	case best != "":
		return hint(err, "did you mean %s?", quoted(best))
	case len(ps) == 0:
		return hint(err, "the repository is empty")
	}
	return hint(err, "there are %s", strings.Join(ps, ", "))
}

// noEntries says why there is nothing to see.
func (p *program) noEntries(s *session) {
	p.note("%s: no entries yet: tarvm save makes one", s.sel.Repository.Dir)
}

func clock(t manifest.Time) string { return t.Local().Format("2006-01-02 15:04") }

func entryName(e *repo.Entry) string {
	if e.Name == "" {
		return "-"
	}
	return quoted(e.Name)
}

// remarks are what is notable of an entry.
func remarks(e *repo.Entry) string {
	var r []string
	if e.Memory {
		r = append(r, "memory")
	}
	if e.Live {
		r = append(r, "live")
	}
	switch {
	case e.Missing && e.At != nil:
		r = append(r, "at "+e.At.String())
	case e.Missing:
		r = append(r, "archive missing")
	}
	for _, k := range sortedKeys(e.Labels) {
		r = append(r, k+"="+e.Labels[k])
	}
	s := strings.Join(r, ", ")
	if e.Note != "" {
		if s != "" {
			s += "; "
		}
		s += strings.ReplaceAll(e.Note, "\n", " ")
	}
	return printable(s)
}

func sortedKeys(m map[string]string) []string {
	ks := make([]string, 0, len(m))
	for k := range m {
		ks = append(ks, k)
	}
	slices.Sort(ks)
	return ks
}

func (p *program) treeCommand() *cobra.Command {
	var o repoFlags
	var project string
	cmd := &cobra.Command{
		Use:   "tree",
		Short: "Draw the forest of entries",
		Long: `Draws which entry builds on which. What builds on an entry alone stands below it; where several do, each begins a branch,
the oldest first. <- says which working areas were last saved as an entry, or restored to it.`,
		Args: args(0, 0, "nothing but flags"),
		RunE: func(cmd *cobra.Command, _ []string) error { return p.tree(cmd.Context(), project, &o) },
	}
	o.register(p, cmd)
	cmd.Flags().StringVar(&project, "project", "", "only trees with entries of this project, `NAME`")
	complete(cmd, "project", p.completeProjects(&o))
	p.jsonFlag(cmd)
	return cmd
}

func (p *program) tree(ctx context.Context, project string, o *repoFlags) error {
	s, f, err := p.openForest(ctx, o, settings.Given{})
	if err != nil {
		return err
	}
	if project != "" {
		if err := knownProject(f, project); err != nil {
			return err
		}
	}
	if p.json {
		return p.writeJSON(withParents(f, f.Entries))
	}
	here := make(map[int][]string)
	for _, name := range sortedAreas(s.set.Areas) {
		if rec := readRecord(s.set.Areas[name].Dir); rec != nil && rec.Repository == f.Repository {
			if e := f.ByDigest(rec.ID, rec.Digest); e != nil {
				here[e.Number] = append(here[e.Number], name)
			}
		}
	}
	var b strings.Builder
	for _, root := range f.Roots() {
		if project != "" && !inProject(f, root, project) {
			continue
		}
		if b.Len() > 0 {
			b.WriteString("\n")
		}
		drawTree(&b, f.Children, root, here)
	}
	if len(f.Entries) == 0 {
		p.noEntries(s)
	}
	return p.printf("%s", b.String())
}

func sortedAreas(m map[string]settings.WorkingArea) []string {
	var ns []string
	for n := range m {
		ns = append(ns, n)
	}
	slices.Sort(ns)
	return ns
}

func inProject(f *repo.Forest, root *repo.Entry, project string) bool {
	todo := []*repo.Entry{root}
	for len(todo) > 0 {
		e := todo[len(todo)-1]
		todo = append(todo[:len(todo)-1], f.Children(e)...)
		if e.Project == project {
			return true
		}
	}
	return false
}

// drawDepth is how many branches are drawn beside each other. What is deeper has its left ones cut off, so that lines, and
// the time to draw them, stay short.
const drawDepth = 40

// drawTree draws a tree without recursion, as chains may be long. A single child continues its parent's line.
func drawTree(b *strings.Builder, children func(*repo.Entry) []*repo.Entry, root *repo.Entry, here map[int][]string) {
	type node struct {
		e     *repo.Entry
		above string // what is left of its own branch
		own   string // its own branch: nothing, ├─ or └─
	}
	const width = 3 // of a branch, in runes
	todo := []node{{e: root}}
	for len(todo) > 0 {
		n := todo[len(todo)-1]
		todo = todo[:len(todo)-1]
		e := n.e
		line := fmt.Sprintf("%s%s%s %s  %s  %s", n.above, n.own, e.Ref(), entryName(e), clock(e.Time), e.Kind)
		if e == root {
			line += "  " + quoted(e.Project)
			if e.Parent != nil {
				line += fmt.Sprintf("  (on %s, which is not here)", e.Parent.ID.Short())
			}
		}
		if r := remarks(e); r != "" {
			line += "  " + r
		}
		if a := here[e.Number]; len(a) > 0 {
			line += "  <- " + strings.Join(a, ", ")
		}
		b.WriteString(line + "\n")
		below := n.above
		switch n.own {
		case "├─ ":
			below += "│  "
		case "└─ ":
			below += "   "
		}
		if r := []rune(below); len(r) > width*drawDepth {
			below = "…  " + string(r[len(r)-width*(drawDepth-1):])
		}
		kids := children(e)
		for i, k := range slices.Backward(kids) {
			c := node{e: k, above: below, own: "├─ "}
			switch {
			case len(kids) == 1:
				c.own = ""
			case i == len(kids)-1:
				c.own = "└─ "
			}
			todo = append(todo, c)
		}
	}
}

func (p *program) statusCommand() *cobra.Command {
	var o repoFlags
	var quick, all bool
	cmd := &cobra.Command{
		Use:   "status [AREA]",
		Short: "Say what is in a working area, and what has changed since it was saved",
		Long: `Says which entry AREA holds, or how it differs from the one that was last saved from or restored into it. All files are
read and compared by content, except with --quick, which looks at their sizes, times and inodes alone. Without AREA it is
about the one that is meant when none is named, or, with --all, about all.`,
		Args:              args(0, 1, "at most one working area"),
		ValidArgsFunction: p.completeAreas,
		RunE:              func(cmd *cobra.Command, a []string) error { return p.status(cmd.Context(), a, quick, all, &o) },
	}
	o.register(p, cmd)
	cmd.Flags().BoolVar(&quick, "quick", false, "do not read files")
	cmd.Flags().BoolVarP(&all, "all", "a", false, "say it of all working areas of the settings")
	p.jsonFlag(cmd)
	return cmd
}

// areaStatus is what status writes with --json.
type areaStatus struct {
	Area string `json:"area,omitempty"`
	*repo.State
	Diff *inspect.Report `json:"diff,omitempty"` // from Base
}

func (p *program) status(ctx context.Context, a []string, quick, all bool, o *repoFlags) error {
	if all && len(a) > 0 {
		return usage(errors.New("status: --all and an area exclude each other"))
	}
	set, err := loadSettings()
	if err != nil {
		return err
	}
	if all {
		a = sortedAreas(set.Areas)
	} else if len(a) == 0 {
		a = []string{""} // whichever is meant
	}
	out := []areaStatus{}
	for _, name := range a {
		st, err := p.statusOf(ctx, name, quick, o)
		switch {
		case err == nil:
			out = append(out, st)
		case all && ctx.Err() == nil:
			p.warn("%s: %v", name, err) // the others can be looked at
		default:
			return err
		}
	}
	if p.json {
		return p.writeJSON(out)
	}
	for i := range out {
		if err := p.printStatus(&out[i]); err != nil {
			return err
		}
	}
	return nil
}

// statusOf looks at one area. Each may have a repository of its own.
func (p *program) statusOf(ctx context.Context, name string, quick bool, o *repoFlags) (areaStatus, error) {
	s, err := p.openRepo(ctx, o, settings.Given{Area: name})
	if err != nil {
		return areaStatus{}, err
	}
	area, err := s.area()
	if err != nil {
		return areaStatus{}, err
	}
	f, err := s.forest(ctx)
	if err != nil {
		return areaStatus{}, err
	}
	st, err := s.areaStatus(ctx, f, area, quick)
	return st, plainPath(err)
}

func (s *session) areaStatus(ctx context.Context, f *repo.Forest, c settings.Choice, quick bool) (areaStatus, error) {
	out := areaStatus{Area: c.Name}
	st, err := s.State(ctx, f, c.Dir, repo.StateOptions{Record: readRecord(c.Dir), Quick: quick, Live: true, Progress: s.p.progress})
	if err != nil {
		return out, err
	}
	defer st.Close()
	out.State = st
	if st.Scan == nil || st.Entry != nil || st.Base == nil {
		return out, nil
	}
	m, closer, err := s.ManifestOf(ctx, st.Base)
	if err != nil {
		return out, err
	}
	defer closer.Close()
	out.Diff, err = inspect.Compare(m, st.Scan.Manifest)
	return out, err
}

func (p *program) printStatus(st *areaStatus) error {
	what := printable(st.Dir)
	if st.Area != "" {
		what = st.Area + " (" + what + ")"
	}
	switch {
	case st.Absent:
		return p.printf("%s: its directory is not there\n", what)
	case st.Empty:
		return p.printf("%s: empty\n", what)
	case st.Entry != nil && st.Quick:
		return p.printf("%s: %s, as far as sizes and times tell\n", what, printable(st.Entry.String()))
	case st.Entry != nil:
		return p.printf("%s: %s, unchanged\n", what, printable(st.Entry.String()))
	case st.Base == nil && st.Quick:
		return p.printf("%s: nothing is known of it; without --quick it is looked at\n", what)
	case st.Base == nil:
		return p.printf("%s: not saved\n", what)
	}
	if err := p.printf("%s: changed since %s\n", what, printable(st.Base.String())); err != nil {
		return err
	}
	if st.Diff != nil {
		return p.printDiff(st.Diff)
	}
	for _, c := range st.Changed {
		if err := p.printf("* %s\n", name(c)); err != nil {
			return err
		}
	}
	return nil
}

func (p *program) pathCommand() *cobra.Command {
	var o repoFlags
	cmd := &cobra.Command{
		Use:   "path ENTRY [AREA]",
		Short: "Say of which archives an entry is built, and how much is read of each",
		Long: `Lists the archives from the full one to ENTRY, where each of them is, and how many of its bytes a restore would
read: into an empty directory, or into AREA as it is now.`,
		Args: args(1, 2, "an entry, and perhaps a working area"),
		RunE: func(cmd *cobra.Command, a []string) error { return p.path(cmd.Context(), a, &o) },
	}
	o.register(p, cmd)
	cmd.ValidArgsFunction = p.completeEntries(&o, 0, p.completeAreas)
	p.jsonFlag(cmd)
	return cmd
}

// pathStep is one archive of a build path.
type pathStep struct {
	listed
	Where string `json:"where"`          // the archive's file
	Read  *int64 `json:"read,omitempty"` // decoded bytes; absent: it cannot be reached
}

func (p *program) path(ctx context.Context, a []string, o *repoFlags) error {
	given := settings.Given{}
	if len(a) > 1 {
		given.Area = a[1]
	}
	s, f, err := p.openForest(ctx, o, given)
	if err != nil {
		return err
	}
	e, err := s.entry(f, a[0])
	if err != nil {
		return err
	}
	path, err := f.Path(e)
	if err != nil {
		return err
	}
	steps := make([]pathStep, len(path))
	for i, l := range withParents(f, path) {
		steps[i] = pathStep{listed: l, Where: s.Where(ctx, l.Entry)}
	}
	dir, done, err := planDir(a, s)
	if err != nil {
		return err
	}
	defer done()
	plan, err := s.PlanRestore(ctx, f, e, dir, repo.RestoreOptions{RestoreOptions: chain.RestoreOptions{Progress: p.progress}})
	var off *repo.OfflineError
	switch {
	case errors.As(err, &off):
		p.note("%v", off)
	case err != nil:
		return plainPath(err)
	default:
		for i := range steps {
			steps[i].Read = new(int64)
		}
		for _, x := range plan.Fetch {
			*steps[x.Index].Read = x.Bytes
		}
	}
	if p.json {
		return p.writeJSON(steps)
	}
	t := newTable(" ENTRY", "NAME", "KIND", " SIZE", " READ", "WHERE")
	for _, x := range steps {
		read := "?"
		if x.Read != nil {
			read = size(*x.Read)
		}
		t.add(x.Ref(), entryName(x.Entry), string(x.Kind), size(x.Size), read, printable(x.Where))
	}
	return p.printf("%s", t)
}

// planDir is the directory for which a path is planned: the given one, or one that is not there.
func planDir(a []string, s *session) (string, func(), error) {
	if len(a) > 1 {
		return s.sel.Area.Dir, func() {}, nil
	}
	tmp, err := os.MkdirTemp("", ".tarvm-path-*")
	if err != nil {
		return "", nil, err
	}
	return filepath.Join(tmp, "vm"), func() { os.Remove(tmp) }, nil
}
