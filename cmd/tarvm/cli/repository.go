package cli

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/user"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"tarvm/archive"
	"tarvm/archive/repo"
	"tarvm/cmd/tarvm/platform"
	"tarvm/cmd/tarvm/settings"
	"tarvm/formats/machine"
	"tarvm/manifest"
)

// repoFlags say on which repository a verb works.
type repoFlags struct {
	repo     string
	search   []string
	lockWait time.Duration
}

// register adds the flags, and completion of entries to arguments where a verb takes them.
func (o *repoFlags) register(p *program, cmd *cobra.Command) {
	f := cmd.Flags()
	f.StringVar(&o.repo, "repo", "", repoUsage)
	f.StringArrayVar(&o.search, "search", nil, "look for archives that are not in the repository in `DIR`, too (repeatable)")
	f.DurationVar(&o.lockWait, "lock-wait", time.Minute, "how long to wait for another writer, 0s: for as long as it takes")
	complete(cmd, "repo", p.completeRepositories)
}

const repoUsage = "the repository, a name of the settings or a `DIR` (default: TARVM_REPO, or that of the settings)"

// repoFlag adds --repo to a verb that takes entries besides files.
func (p *program) repoFlag(cmd *cobra.Command) {
	cmd.Flags().StringVar(&p.repo, "repo", "", "of entries: "+repoUsage)
	complete(cmd, "repo", p.completeRepositories)
}

func complete(cmd *cobra.Command, flag string, f cobra.CompletionFunc) {
	if err := cmd.RegisterFlagCompletionFunc(flag, f); err != nil {
		panic(err) // a flag that is not there
	}
}

// session is a repository that is open, with what the settings say.
type session struct {
	p   *program
	set *settings.Settings
	sel settings.Selection
	*repo.Repo
}

// errNoRepository: nothing says which repository is meant.
var errNoRepository = errors.New("no repository")

// loadSettings reads the user's settings.
func loadSettings() (*settings.Settings, error) {
	path, err := settings.Path()
	if err != nil {
		return nil, err
	}
	return settings.Load(path)
}

// openRepo opens the repository that is meant. Given are names from flags and arguments.
func (p *program) openRepo(ctx context.Context, o *repoFlags, given settings.Given) (*session, error) {
	s := &session{p: p}
	var err error
	if s.set, err = loadSettings(); err != nil {
		return nil, err
	}
	if given.Repository == "" {
		given.Repository = cmp.Or(o.repo, p.repo)
	}
	if s.sel, err = s.set.Select(given); err != nil {
		return nil, settingsError(err)
	}
	if s.sel.Repository.Dir == "" {
		return nil, hint(usage(errNoRepository), "tarvm init makes one; --repo DIR or TARVM_REPO names one for this time")
	}
	s.Repo, err = repo.OpenDir(ctx, s.sel.Repository.Dir, p.repoOptions(o))
	if errors.Is(err, repo.ErrNoRepository) {
		err = hint(err, "is its disk there? tarvm init --repo %s makes a new one", platform.Quote(s.sel.Repository.Dir))
	}
	return s, err
}

func (p *program) repoOptions(o *repoFlags) repo.Options {
	ro := repo.Options{
		Codecs: p.codecs, Formats: p.disks, Search: o.search, LockTimeout: o.lockWait,
		Wait: func(w repo.Owner) { p.note("waiting for %s", w) },
	}
	if u, err := user.Current(); err == nil {
		ro.Owner.User = u.Username
	}
	ro.Fetch = p.fetchAt
	return ro
}

// settingsError makes mistakes in names into usage errors.
func settingsError(err error) error {
	var unknown *settings.UnknownError
	if !errors.As(err, &unknown) {
		var bad *settings.NameError
		var exists *settings.ExistsError
		var overlap *settings.OverlapError
		var used *settings.InUseError
		if errors.As(err, &bad) || errors.As(err, &exists) || errors.As(err, &overlap) || errors.As(err, &used) {
			return usage(err)
		}
		return err
	}
	if unknown.From == "--area" { // an argument, and not a flag
		u := *unknown
		u.From = ""
		err = &u
	}
	dir := fmt.Sprintf("a directory is named with a separator in it: ./%s", unknown.Name)
	switch {
	case unknown.Kind == settings.Area && len(unknown.Known) > 0:
		return hint(usage(err), "there are %s; %s", strings.Join(unknown.Known, ", "), dir)
	case unknown.Kind == settings.Area:
		return hint(usage(err), "tarvm area add NAME DIR makes one; %s", dir)
	case unknown.Kind == settings.Repository && len(unknown.Known) > 0:
		return hint(usage(err), "there are %s; %s", strings.Join(unknown.Known, ", "), dir)
	case unknown.Kind == settings.Repository:
		return hint(usage(err), "tarvm init makes one; %s", dir)
	case len(unknown.Known) > 0:
		return hint(usage(err), "there are %s", strings.Join(unknown.Known, ", "))
	}
	return usage(err)
}

// area returns the working area that is meant.
func (s *session) area() (settings.Choice, error) {
	if s.sel.Area.Dir == "" {
		return settings.Choice{}, hint(usage(errors.New("no working area")), "name a directory, or tarvm area add NAME DIR makes one the default")
	}
	return s.sel.Area, nil
}

// entry finds an entry that the user names.
func (s *session) entry(f *repo.Forest, text string) (*repo.Entry, error) {
	e, err := f.Find(text)
	var fe *repo.FindError
	switch {
	case errors.As(err, &fe) && len(fe.Several) > 0:
		return nil, hint(usage(err), "take its number: tarvm log")
	case errors.As(err, &fe):
		if near := nearest(f, text); near != "" {
			return nil, hint(usage(err), "did you mean %s?", near)
		}
		return nil, hint(usage(err), "tarvm log lists the entries")
	}
	return e, err
}

// nearest returns the name of an entry that may have been meant.
func nearest(f *repo.Forest, text string) string {
	best, least := "", 3
	for _, e := range slices.Backward(f.Entries) {
		if len(text) > 1 && len(e.Name) > len(text) && strings.EqualFold(e.Name[:len(text)], text) {
			return e.Name // its beginning
		}
		if d := distance(text, e.Name); e.Name != "" && d < least && len(e.Name) > d {
			best, least = e.Name, d
		}
	}
	return best
}

// entries finds several; a range A..B is all numbers from A to B that there are.
func (s *session) entries(f *repo.Forest, texts []string) ([]*repo.Entry, error) {
	var es []*repo.Entry
	taken := make(map[*repo.Entry]bool)
	add := func(e *repo.Entry) {
		if !taken[e] {
			taken[e] = true
			es = append(es, e)
		}
	}
	for _, t := range texts {
		from, to, ok := strings.Cut(t, "..")
		if _, err := f.Find(t); err == nil || !ok { // a name may hold ..
			e, err := s.entry(f, t)
			if err != nil {
				return nil, err
			}
			add(e)
			continue
		}
		a, err := s.number(f, from)
		if err != nil {
			return nil, err
		}
		b, err := s.number(f, to)
		if err != nil {
			return nil, err
		}
		if a > b {
			return nil, hint(usage(fmt.Errorf("%s: #%d is older than #%d", t, b, a)), "the older one comes first: %s..%s", to, from)
		}
		within := 0
		for _, e := range f.Entries {
			if e.Number >= a && e.Number <= b {
				within++
				add(e)
			}
		}
		if within == 0 {
			return nil, hint(usage(fmt.Errorf("%s: all of them have been removed", t)), "tarvm log lists the entries")
		}
	}
	return es, nil
}

// number reads an end of a range. A number that was an entry's will do: others of the range may be there.
func (s *session) number(f *repo.Forest, text string) (int, error) {
	if n, err := strconv.Atoi(strings.TrimPrefix(text, "#")); err == nil && n > 0 && len(f.Entries) > 0 && n < f.Entries[len(f.Entries)-1].Number {
		return n, nil
	}
	e, err := s.entry(f, text)
	if err != nil {
		return 0, err
	}
	return e.Number, nil
}

// record reads what is remembered of a directory; nil when that is nothing.
func readRecord(dir string) *repo.Record {
	path, err := settings.StatePath("areas", dir)
	if err != nil {
		return nil
	}
	b, err := os.ReadFile(path)
	if err != nil {
		return nil
	}
	rec := new(repo.Record)
	if json.Unmarshal(b, rec) != nil || rec.Tarvm != "area" || rec.Version != 1 {
		return nil
	}
	return rec
}

// keepRecord remembers what is in a directory. It is a help for the next time: that it fails is told, and no more.
func (p *program) keepRecord(dir string, rec *repo.Record) {
	path, err := settings.StatePath("areas", dir)
	if err == nil {
		err = os.MkdirAll(filepath.Dir(path), 0o700)
	}
	if err == nil && rec == nil {
		if err = os.Remove(path); errors.Is(err, fs.ErrNotExist) {
			err = nil
		}
	} else if err == nil {
		err = writeWhole(path, rec)
	}
	if err != nil {
		p.note("what is in %s will be found out anew next time: %v", dir, plainPath(err))
	}
}

func writeWhole(path string, v any) error {
	b, err := json.Marshal(v)
	if err != nil {
		return err
	}
	o, err := archive.CreateOutput(path, true)
	if err != nil {
		return err
	}
	if _, err := o.Write(append(b, '\n')); err != nil {
		o.Abort()
		return err
	}
	return o.Commit()
}

// identify says what the configuration in a directory calls its machine; nil when there is none, or more than one.
func (p *program) identify(ctx context.Context, dir string) (*manifest.Machine, error) {
	var found []*manifest.Machine
	err := p.eachConfig(ctx, dir, func(_ string, m *machine.Machine) {
		if m.UUID != "" && (len(found) == 0 || found[0].UUID != m.UUID) {
			found = append(found, &manifest.Machine{Name: m.Name, UUID: m.UUID})
		}
	})
	if err != nil || len(found) != 1 {
		return nil, err
	}
	return found[0], nil
}

// eachConfig decodes the configurations that lie directly in a directory.
func (p *program) eachConfig(ctx context.Context, dir string, f func(name string, m *machine.Machine)) error {
	list, err := os.ReadDir(dir)
	if err != nil {
		return plainPath(err)
	}
	for _, e := range list {
		if err := context.Cause(ctx); err != nil {
			return err
		}
		st, err := e.Info()
		if err != nil || !st.Mode().IsRegular() || st.Size() > machine.MaxConfig || st.Size() == 0 {
			continue
		}
		if m := p.readConfig(filepath.Join(dir, e.Name())); m != nil {
			f(e.Name(), m)
		}
	}
	return nil
}

// readConfig decodes a configuration; nil when the file is none.
func (p *program) readConfig(path string) *machine.Machine {
	head, err := readHead(path)
	if err != nil {
		return nil
	}
	for _, c := range p.configs {
		if !c.Probe(filepath.Base(path), head) {
			continue
		}
		b, err := os.ReadFile(path)
		if err != nil {
			return nil
		}
		m, err := c.Decode(b)
		if err != nil {
			return nil
		}
		return m
	}
	return nil
}

// completeRepositories completes names of repositories, and directories.
func (p *program) completeRepositories(*cobra.Command, []string, string) ([]string, cobra.ShellCompDirective) {
	s, err := loadSettings()
	if err != nil {
		return nil, cobra.ShellCompDirectiveDefault
	}
	var names []string
	for n, dir := range s.Repositories {
		names = append(names, n+"\t"+dir)
	}
	slices.Sort(names)
	return names, cobra.ShellCompDirectiveDefault
}

// completeAreas completes names of working areas, and directories.
func (p *program) completeAreas(*cobra.Command, []string, string) ([]string, cobra.ShellCompDirective) {
	s, err := loadSettings()
	if err != nil {
		return nil, cobra.ShellCompDirectiveDefault
	}
	var names []string
	for n, a := range s.Areas {
		names = append(names, n+"\t"+a.Dir)
	}
	slices.Sort(names)
	return names, cobra.ShellCompDirectiveDefault
}

// completed reads the entries for completion, which has nobody to tell what is wrong: nil then.
func (p *program) completed(cmd *cobra.Command, o *repoFlags) *repo.Forest {
	ctx := cmd.Context()
	if ctx == nil {
		ctx = context.Background()
	}
	s, err := p.openRepo(ctx, o, settings.Given{})
	if err != nil {
		return nil
	}
	f, err := s.Forest(ctx)
	if err != nil {
		return nil
	}
	return f
}

// completeEntries completes numbers and names of entries for the arguments from first to last (-1: all), and what then
// returns for later ones.
func (p *program) completeEntries(o *repoFlags, last int, then cobra.CompletionFunc) cobra.CompletionFunc {
	return func(cmd *cobra.Command, args []string, begun string) ([]string, cobra.ShellCompDirective) {
		if last >= 0 && len(args) > last {
			if then == nil {
				return nil, cobra.ShellCompDirectiveNoFileComp
			}
			return then(cmd, args, begun)
		}
		f := p.completed(cmd, o)
		if f == nil {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		hash := strings.HasPrefix(begun, "#")
		names := make(map[string]int)
		for _, e := range f.Entries {
			names[e.Name]++
		}
		var out []string
		for _, e := range slices.Backward(f.Entries) {
			about := fmt.Sprintf("%s %s", e.Time.Local().Format("2006-01-02 15:04"), printable(e.Name))
			number := strings.TrimPrefix(e.Ref(), "#")
			if hash {
				number = e.Ref()
			}
			out = append(out, number+"\t"+about)
			if e.Name != "" && names[e.Name] == 1 && quoted(e.Name) == e.Name && !hash {
				out = append(out, e.Name+"\t"+e.Ref())
			}
		}
		return out, cobra.ShellCompDirectiveNoFileComp
	}
}

// completeFilesOrEntries completes numbers and names of entries, and files where none begins like that: verbs of archives
// take both. What begins like a path, or a file that is there, is a file.
func (p *program) completeFilesOrEntries(cmd *cobra.Command, args []string, begun string) ([]string, cobra.ShellCompDirective) {
	files, _ := filepath.Glob(globQuote.Replace(begun) + "*")
	switch {
	case strings.HasPrefix(begun, "#"):
		return p.completeEntries(&repoFlags{}, -1, nil)(cmd, args, begun)
	case strings.ContainsRune(begun, filepath.Separator), strings.HasPrefix(begun, "."), strings.HasPrefix(begun, "~"), begun != "" && len(files) > 0:
		return nil, cobra.ShellCompDirectiveDefault
	}
	list, _ := p.completeEntries(&repoFlags{}, -1, nil)(cmd, args, begun)
	return slices.DeleteFunc(list, func(s string) bool { return !strings.HasPrefix(s, begun) }), cobra.ShellCompDirectiveDefault
}

var globQuote = strings.NewReplacer("*", "\\*", "?", "\\?", "[", "\\[", "\\", "\\\\")

// completeProjects completes names of projects.
func (p *program) completeProjects(o *repoFlags) cobra.CompletionFunc {
	return func(cmd *cobra.Command, _ []string, _ string) ([]string, cobra.ShellCompDirective) {
		f := p.completed(cmd, o)
		if f == nil {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		return f.Projects(), cobra.ShellCompDirectiveNoFileComp
	}
}

// problems warns of what is wrong in the repository.
func (s *session) problems(f *repo.Forest) {
	const most = 5
	for i, x := range f.Problems {
		if i == most {
			s.p.warn("%d more problems: tarvm repo check", len(f.Problems)-most)
			return
		}
		s.p.warn("%s", x)
	}
}

// openForest opens the repository that is meant, and reads its entries.
func (p *program) openForest(ctx context.Context, o *repoFlags, given settings.Given) (*session, *repo.Forest, error) {
	s, err := p.openRepo(ctx, o, given)
	if err != nil {
		return nil, nil, err
	}
	f, err := s.forest(ctx)
	return s, f, err
}

// forest reads the entries, and warns of problems.
func (s *session) forest(ctx context.Context) (*repo.Forest, error) {
	f, err := s.Forest(ctx)
	if err != nil {
		return nil, err
	}
	s.problems(f)
	return f, nil
}
