package cli

import (
	"bufio"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"

	"tarvm/archive/codec"
	"tarvm/archive/repo"
	"tarvm/cmd/tarvm/platform"
	"tarvm/cmd/tarvm/settings"
)

// codecFlag reads --codec and --level; nil codec: the default.
func (p *program) codecFlag(name string, level *int) (codec.Codec, *int, error) {
	var c codec.Codec
	if name != "" {
		if c = codec.ByName(p.codecs, name); c == nil {
			return nil, nil, hint(usage(fmt.Errorf("--codec %q is not known", name)), "there are zstd, gzip, xz, lz4, none")
		}
	}
	if level == nil {
		return c, nil, nil
	}
	l := codec.ByName(p.codecs, "zstd").Levels()
	if c != nil {
		l = c.Levels()
	}
	if *level < l.Min || *level > l.Max {
		return nil, nil, usage(fmt.Errorf("--level %d: there are %d to %d", *level, l.Min, l.Max))
	}
	return c, level, nil
}

func (p *program) initCommand() *cobra.Command {
	var dir, name string
	var areas []string
	cmd := &cobra.Command{
		Use:   "init",
		Short: "Make a repository and a working area",
		Long: `Makes a repository, and makes it and a working area known by name: both are then meant when nothing is said. On a
terminal it asks; --repo and --area answer beforehand.

The settings are a TOML file (tarvm init says which), and can be changed by hand.`,
		Example: `  tarvm init
  tarvm init --repo /srv/vms --area web=/home/me/vms/web`,
		Args: args(0, 0, "nothing but flags"),
		RunE: func(cmd *cobra.Command, _ []string) error { return p.init(cmd.Context(), dir, name, areas) },
	}
	f := cmd.Flags()
	f.StringVar(&dir, "repo", "", "make the repository in `DIR`")
	f.StringVar(&name, "name", "", "call it `NAME` in the settings (default: main, or the directory's name)")
	f.StringArrayVar(&areas, "area", nil, "make a working area, `NAME=DIR` (repeatable)")
	p.jsonFlag(cmd)
	return cmd
}

// initialised is what init writes with --json.
type initialised struct {
	Settings   string            `json:"settings"` // the file
	Repository settings.Choice   `json:"repository"`
	Made       bool              `json:"made"` // false: it was there already
	Areas      []settings.Choice `json:"areas,omitempty"`
}

func (p *program) init(ctx context.Context, dir, name string, areas []string) error {
	set, err := loadSettings()
	if err != nil {
		return err
	}
	if dir == "" {
		if !p.asks() {
			return hint(usage(errors.New("init: no repository given")), "tarvm init --repo DIR --area NAME=DIR; on a terminal, tarvm init asks")
		}
		if dir, areas, err = p.ask(ctx, areas); err != nil {
			return err
		}
	}
	abs, err := filepath.Abs(expandHome(dir))
	if err != nil {
		return err
	}
	out := initialised{Settings: set.Path}
	if name == "" {
		name = "main"
		if d, ok := set.Repositories[name]; ok && d != abs {
			name = settings.MakeName(settings.Repository, filepath.Base(abs), "repository")
		}
		for n, d := range set.Repositories {
			if d == abs {
				name = n
			}
		}
	}
	// The settings first, as far as they can fail, so that nothing is made for which there is no name.
	if err := set.AddRepository(name, abs); err != nil {
		return settingsError(err)
	}
	if set.Repository == "" || set.Repositories[set.Repository] == abs {
		if err := set.SetDefault(settings.Repository, name); err != nil {
			return settingsError(err)
		}
	}
	for _, a := range areas {
		n, d, ok := strings.Cut(a, "=")
		if !ok || n == "" || d == "" {
			return usage(fmt.Errorf("--area %q: want NAME=DIR", a))
		}
		if d, err = filepath.Abs(expandHome(d)); err != nil {
			return err
		}
		if err := set.AddArea(n, settings.WorkingArea{Dir: d}); err != nil {
			return settingsError(err)
		}
		if set.Area == "" {
			if err := set.SetDefault(settings.Area, n); err != nil {
				return settingsError(err)
			}
		}
		out.Areas = append(out.Areas, settings.Choice{Name: n, Dir: d})
	}
	out.Repository = settings.Choice{Name: name, Dir: abs}
	if _, err := repo.CreateDir(ctx, abs, p.repoOptions(&repoFlags{})); err == nil {
		out.Made = true
	} else if !errors.Is(err, fs.ErrExist) {
		return plainPath(err)
	} else if _, oerr := repo.OpenDir(ctx, abs, p.repoOptions(&repoFlags{})); oerr != nil {
		return hint(plainPath(err), "a repository begins in an empty directory")
	}
	for _, a := range out.Areas {
		if err := os.MkdirAll(a.Dir, 0o777); err != nil {
			return plainPath(err)
		}
	}
	if err := p.saveSettings(ctx, set); err != nil {
		return err
	}
	if p.json {
		return p.writeJSON(&out)
	}
	verb := "made"
	if !out.Made {
		verb = "was there already"
	}
	p.note("settings: %s", set.Path)
	if err := p.printf("repository %s: %s %s\n", name, abs, verb); err != nil {
		return err
	}
	for _, a := range out.Areas {
		if err := p.printf("working area %s: %s\n", a.Name, a.Dir); err != nil {
			return err
		}
	}
	if len(out.Areas) > 0 {
		p.note("put a machine into %s, and tarvm save saves it", out.Areas[0].Dir)
	}
	return nil
}

// changeSettings makes one change in the user's settings.
func (p *program) changeSettings(ctx context.Context, change func(*settings.Settings) error) error {
	set, err := loadSettings()
	if err != nil {
		return err
	}
	if err := change(set); err != nil {
		return settingsError(err)
	}
	return p.saveSettings(ctx, set)
}

func (p *program) saveSettings(ctx context.Context, set *settings.Settings) error {
	notices, err := set.Save(ctx)
	for _, n := range notices {
		p.note("%s", n)
	}
	return settingsError(err)
}

// asks reports whether there is somebody to ask.
func (p *program) asks() bool {
	f, ok := p.stdin.(*os.File)
	return ok && isTerminal(f) && isTerminal(p.stderr)
}

// ask asks for the repository and the first working area.
func (p *program) ask(ctx context.Context, areas []string) (string, []string, error) {
	in := bufio.NewReader(p.input(ctx))
	home, err := os.UserHomeDir()
	if err != nil {
		home = "."
	}
	question := func(q, def string) (string, error) {
		_, _ = fmt.Fprintf(p.stderr, "%s [%s]: ", printable(q), printable(def)) // the answer stands behind it
		line, err := in.ReadString('\n')
		if ctx.Err() != nil {
			return "", context.Cause(ctx)
		}
		if err != nil {
			return "", errors.New("no answer")
		}
		return cmp.Or(strings.TrimSpace(line), def), nil
	}
	dir, err := question("Directory for the repository", filepath.Join(home, "vm-entries"))
	if err != nil || len(areas) > 0 {
		return dir, areas, err
	}
	area, err := question("Directory of the machine to work with (working area)", filepath.Join(home, "vm"))
	if err != nil {
		return "", nil, err
	}
	for {
		name, err := question("Name of that working area", settings.MakeName(settings.Area, filepath.Base(area), "vm"))
		if err != nil {
			return "", nil, err
		}
		bad := settings.CheckName(settings.Area, name)
		if bad == nil {
			return dir, []string{name + "=" + area}, nil
		}
		_, _ = fmt.Fprintf(p.stderr, "%s\n", printable(bad.Error()))
	}
}

func expandHome(dir string) string {
	if rest, ok := strings.CutPrefix(dir, "~/"); ok {
		if home, err := os.UserHomeDir(); err == nil {
			return filepath.Join(home, rest)
		}
	}
	return dir
}

func (p *program) areaCommand() *cobra.Command {
	cmd := &cobra.Command{Use: "area", Short: "The working areas", Args: noVerb, RunE: p.onlyHelp}
	var project, repository string
	var def bool
	add := &cobra.Command{
		Use:   "add NAME DIR",
		Short: "Give the directory of a machine a name",
		Long: `Makes DIR known as the working area NAME; it is made if it is not there. The first one is the default, which is
meant when no area is named.`,
		Args: args(2, 2, "a name and a directory"),
		RunE: func(cmd *cobra.Command, a []string) error {
			set, err := loadSettings()
			if err != nil {
				return err
			}
			dir, err := filepath.Abs(expandHome(a[1]))
			if err != nil {
				return err
			}
			if err := set.AddArea(a[0], settings.WorkingArea{Dir: dir, Project: project, Repository: repository}); err != nil {
				return settingsError(err)
			}
			if def || set.Area == "" {
				if err := set.SetDefault(settings.Area, a[0]); err != nil {
					return settingsError(err)
				}
			}
			if err := os.MkdirAll(dir, 0o777); err != nil {
				return plainPath(err)
			}
			if err := p.saveSettings(cmd.Context(), set); err != nil {
				return err
			}
			return p.printf("working area %s: %s\n", a[0], printable(dir))
		},
	}
	add.Flags().StringVar(&project, "project", "", "the project of what is saved from it, `NAME`")
	add.Flags().StringVar(&repository, "repo", "", "the repository of what is saved from it, `NAME`")
	add.Flags().BoolVar(&def, "default", false, "make it the one that is meant when none is named")
	complete(add, "repo", p.completeRepositories)
	list := &cobra.Command{
		Use:   "list",
		Short: "List the working areas",
		Args:  args(0, 0, "nothing but flags"),
		RunE: func(*cobra.Command, []string) error {
			set, err := loadSettings()
			if err != nil {
				return err
			}
			type row struct {
				Name       string       `json:"name"`
				Dir        string       `json:"dir"`
				Project    string       `json:"project,omitempty"`
				Repository string       `json:"repository,omitempty"`
				Default    bool         `json:"default,omitempty"`
				Last       *repo.Record `json:"last,omitempty"`
			}
			rows := []row{}
			t := newTable("AREA", "DIRECTORY", " LAST", "PROJECT", "")
			for _, n := range sortedAreas(set.Areas) {
				a := set.Areas[n]
				r := row{n, a.Dir, a.Project, a.Repository, n == set.Area, readRecord(a.Dir)}
				rows = append(rows, r)
				last, mark := "-", ""
				if r.Last != nil {
					last = fmt.Sprintf("#%d", r.Last.Number)
				}
				if r.Default {
					mark = "default"
				}
				t.add(n, a.Dir, last, dash(a.Project), mark)
			}
			if p.json {
				for i := range rows {
					if rows[i].Last != nil {
						rows[i].Last.Seen = nil
					}
				}
				return p.writeJSON(rows)
			}
			return p.printf("%s", t)
		},
	}
	p.jsonFlag(list)
	rm := &cobra.Command{
		Use:               "rm NAME",
		Short:             "Forget a working area; its directory stays",
		Args:              args(1, 1, "one working area"),
		ValidArgsFunction: p.completeAreas,
		RunE: func(cmd *cobra.Command, a []string) error {
			set, err := loadSettings()
			if err != nil {
				return err
			}
			dir := set.Areas[a[0]].Dir
			if err := set.RemoveArea(a[0]); err != nil {
				return settingsError(err)
			}
			if err := p.saveSettings(cmd.Context(), set); err != nil {
				return err
			}
			p.keepRecord(dir, nil)
			return nil
		},
	}
	cmd.AddCommand(add, list, rm, p.defaultCommand(settings.Area))
	return cmd
}

// defaultCommand sets which one is meant when none is named.
func (p *program) defaultCommand(kind settings.Kind) *cobra.Command {
	what, names := string(kind), p.completeRepositories
	if kind == settings.Area {
		what, names = "working area", p.completeAreas
	}
	return &cobra.Command{
		Use:               "default NAME",
		Short:             fmt.Sprintf("Say which %s is meant when none is named", what),
		Args:              args(1, 1, "one name"),
		ValidArgsFunction: names,
		RunE: func(cmd *cobra.Command, a []string) error {
			return p.changeSettings(cmd.Context(), func(set *settings.Settings) error { return set.SetDefault(kind, a[0]) })
		},
	}
}

func (p *program) repoCommand() *cobra.Command {
	cmd := &cobra.Command{Use: "repo", Short: "The repository as a whole", Args: noVerb, RunE: p.onlyHelp}
	cmd.AddCommand(p.repoListCommand(), p.repoAddCommand(), p.defaultCommand(settings.Repository), p.repoCheckCommand(), p.reindexCommand(), p.statsCommand(),
		p.relocateCommand(), p.repoRmCommand())
	return cmd
}

func (p *program) repoListCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "list",
		Short: "List the repositories of the settings",
		Args:  args(0, 0, "nothing but flags"),
		RunE: func(*cobra.Command, []string) error {
			set, err := loadSettings()
			if err != nil {
				return err
			}
			type row struct {
				Name    string `json:"name"`
				Dir     string `json:"dir"`
				Default bool   `json:"default,omitempty"`
			}
			rows := []row{}
			t := newTable("REPOSITORY", "DIRECTORY", "")
			for _, n := range sortedKeys(set.Repositories) {
				r := row{n, set.Repositories[n], n == set.Repository}
				rows = append(rows, r)
				mark := ""
				if r.Default {
					mark = "default"
				}
				t.add(n, r.Dir, mark)
			}
			if p.json {
				return p.writeJSON(rows)
			}
			return p.printf("%s", t)
		},
	}
	p.jsonFlag(cmd)
	return cmd
}

func (p *program) repoAddCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "add NAME DIR",
		Short: "Give a repository that is there a name; tarvm init makes one",
		Args:  args(2, 2, "a name and a directory"),
		RunE: func(cmd *cobra.Command, a []string) error {
			dir, err := filepath.Abs(expandHome(a[1]))
			if err != nil {
				return err
			}
			if _, err := repo.OpenDir(cmd.Context(), dir, p.repoOptions(&repoFlags{})); err != nil {
				return hint(plainPath(err), "tarvm init --repo %s --name %s makes one", platform.Quote(a[1]), platform.Quote(a[0]))
			}
			return p.changeSettings(cmd.Context(), func(set *settings.Settings) error { return set.AddRepository(a[0], dir) })
		},
	}
}

func (p *program) repoRmCommand() *cobra.Command {
	var all bool
	cmd := &cobra.Command{
		Use:   "rm NAME",
		Short: "Forget a repository; with --entries, remove it with all its entries",
		Long: `Takes a repository out of the settings; its directory stays as it is. With --entries, all its entries are removed first, and
what else the repository has made; what others have put into its directory stays.`,
		Args:              args(1, 1, "one repository"),
		ValidArgsFunction: p.completeRepositories,
		RunE: func(cmd *cobra.Command, a []string) error {
			set, err := loadSettings()
			if err != nil {
				return err
			}
			_, known := set.Repositories[a[0]]
			if known {
				// What cannot be forgotten is not removed either.
				if err := set.RemoveRepository(a[0]); err != nil {
					return settingsError(err)
				}
			} else if !all {
				return settingsError(set.RemoveRepository(a[0]))
			}
			if all {
				s, err := p.openRepo(cmd.Context(), &repoFlags{repo: a[0]}, settings.Given{})
				if err != nil {
					return err
				}
				if err := s.RemoveAll(cmd.Context()); err != nil {
					return plainPath(err)
				}
			}
			if !known {
				return nil
			}
			return p.saveSettings(cmd.Context(), set)
		},
	}
	cmd.Flags().BoolVar(&all, "entries", false, "remove all entries, and the repository")
	return cmd
}

func (p *program) repoCheckCommand() *cobra.Command {
	var o repoFlags
	var co repo.CheckOptions
	cmd := &cobra.Command{
		Use:   "check",
		Short: "Look whether all entries are there and whole",
		Long: `Looks at every entry without believing the index: whether its manifest and archive can be read and belong together,
and whether what it builds on is there. With --read every byte of every archive is compared with its digest, and every
entry is rebuilt without writing it.`,
		Args: args(0, 0, "nothing but flags"),
		RunE: func(cmd *cobra.Command, _ []string) error {
			s, err := p.openRepo(cmd.Context(), &o, settings.Given{})
			if err != nil {
				return err
			}
			co.Progress = p.progress
			rep, err := s.Check(cmd.Context(), co)
			if err != nil {
				return plainPath(err)
			}
			if p.json {
				if err := p.writeJSON(rep); err != nil {
					return err
				}
			} else {
				for _, x := range rep.Problems {
					if err := p.printf("%s\n", printable(x.String())); err != nil {
						return err
					}
				}
				for _, e := range rep.Offline {
					if err := p.printf("%s: its archive is at %s, and cannot be reached\n", printable(e.String()), printable(e.At.String())); err != nil {
						return err
					}
				}
				if err := p.printf("%s, %s: %s\n", count(rep.Entries, "entry"), count(rep.Archives, "archive"), count(len(rep.Problems), "problem")); err != nil {
					return err
				}
			}
			if rep.Stale {
				p.note("the index is behind the entries: tarvm repo reindex makes commands faster")
			}
			if err := rep.Err(); err != nil {
				return fmt.Errorf("%w: %w", errUnverified, err)
			}
			return nil
		},
	}
	o.register(p, cmd)
	cmd.Flags().BoolVar(&co.Read, "read", false, "read and verify everything")
	cmd.Flags().IntVar(&co.Workers, "workers", 0, "how many processors to use (default: all)")
	p.jsonFlag(cmd)
	return cmd
}

func (p *program) reindexCommand() *cobra.Command {
	var o repoFlags
	cmd := &cobra.Command{
		Use:   "reindex",
		Short: "Make the index anew from the archives",
		Long: `Reads what is known of the entries from their files, as after files were copied into the repository by hand. Entries that have
the number of another one get numbers of their own. Leftovers of interrupted commands are removed.`,
		Args: args(0, 0, "nothing but flags"),
		RunE: func(cmd *cobra.Command, _ []string) error {
			s, err := p.openRepo(cmd.Context(), &o, settings.Given{})
			if err != nil {
				return err
			}
			f, err := s.Reindex(cmd.Context())
			if err != nil {
				return plainPath(err)
			}
			s.problems(f)
			if p.json {
				return p.writeJSON(f)
			}
			return p.printf("%s\n", count(len(f.Entries), "entry"))
		},
	}
	o.register(p, cmd)
	p.jsonFlag(cmd)
	return cmd
}

func (p *program) statsCommand() *cobra.Command {
	var o repoFlags
	cmd := &cobra.Command{
		Use:   "stats",
		Short: "Count entries and bytes",
		Args:  args(0, 0, "nothing but flags"),
		RunE: func(cmd *cobra.Command, _ []string) error {
			s, f, err := p.openForest(cmd.Context(), &o, settings.Given{})
			if err != nil {
				return err
			}
			st := f.Stats()
			if p.json {
				return p.writeJSON(st)
			}
			t := newTable("", "")
			t.rows = nil
			t.add("repository", s.sel.Repository.Dir)
			t.add("entries", fmt.Sprintf("%d: %d full, %d incremental, %d differential", st.Entries, st.Kinds[repo.Full], st.Kinds[repo.Incremental], st.Kinds[repo.Differential]))
			t.add("trees", fmt.Sprintf("%d, the longest chain has %s", st.Trees, count(st.Depth, "archive")))
			t.add("archives", size(st.Archives))
			if st.Elsewhere > 0 {
				t.add("elsewhere", size(st.Elsewhere))
			}
			t.add("states", fmt.Sprintf("%s, %s of them data", size(st.States), size(st.Data)))
			if n := st.Archives + st.Elsewhere; n > 0 {
				t.add("ratio", fmt.Sprintf("%.1f", float64(st.Data)/float64(n)))
			}
			return p.printf("%s", t)
		},
	}
	o.register(p, cmd)
	p.jsonFlag(cmd)
	return cmd
}

func (p *program) relocateCommand() *cobra.Command {
	var o repoFlags
	var to, name, note string
	var back bool
	cmd := &cobra.Command{
		Use:   "relocate ENTRY... --to DIR",
		Short: "Move archives to another disk, or back",
		Long: `Moves the archives of entries to another directory, which may be on a disk that is not always there; their manifests stay, so
that they are listed and can be built on. The directory gets a name (--name, by default its last part), under which it
is asked for when an archive is wanted; --note says where to find the disk. An archive is copied, compared and durable before
it goes here. --back brings archives back; without entries, --to with --name says where a place is now.`,
		Example: `  tarvm repo relocate 1..40 --to /mnt/usb7/vms --name usb7 --note 'blue disk, second drawer'
  tarvm repo relocate --to /media/me/usb7/vms --name usb7
  tarvm repo relocate 12 --back`,
		RunE: func(cmd *cobra.Command, a []string) error {
			if back == (to != "") || back && len(a) == 0 {
				return hint(usage(errors.New("relocate: want entries and --to DIR, or --back")), "tarvm repo relocate --help")
			}
			ctx := cmd.Context()
			s, f, err := p.openForest(ctx, &o, settings.Given{})
			if err != nil {
				return err
			}
			es, err := s.entries(f, a)
			if err != nil {
				return err
			}
			ro := repo.RelocateOptions{Progress: p.progress}
			if !back {
				dir, err := filepath.Abs(to)
				if err != nil {
					return err
				}
				ro.Place = repo.Place{Name: cmp.Or(name, filepath.Base(dir)), Dir: dir, Note: note}
				if len(es) == 0 {
					return s.SetPlace(ctx, ro.Place)
				}
			}
			moved, err := s.Relocate(ctx, f, es, ro)
			if err != nil {
				if len(moved) > 0 {
					p.note("moved before that: %s", numbers(moved))
				}
				return plainPath(err)
			}
			if p.json {
				return p.writeJSON(moved)
			}
			if len(moved) == 0 {
				return p.printf("all of them are there already\n")
			}
			return p.printf("moved %s\n", numbers(moved))
		},
	}
	o.register(p, cmd)
	f := cmd.Flags()
	f.StringVar(&to, "to", "", "the directory, `DIR`")
	f.StringVar(&name, "name", "", "what it is called, `NAME`")
	f.StringVar(&note, "note", "", "where the disk is when it is not there")
	f.BoolVar(&back, "back", false, "move archives back into the repository")
	cmd.ValidArgsFunction = p.completeEntries(&o, -1, nil)
	p.jsonFlag(cmd)
	return cmd
}
