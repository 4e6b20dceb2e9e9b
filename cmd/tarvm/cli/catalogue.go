package cli

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"tarvm/archive/repo/catalogue"
	"tarvm/cmd/tarvm/settings"
	"tarvm/manifest"
)

// defaultRetries is how often in a row a request is made again that brought nothing.
const defaultRetries = 5

// catalogueRetries bounds it for catalogues: whoever has no network is told so soon.
const catalogueRetries = 2

// catalogueFlags say which catalogues are asked, and how.
type catalogueFlags struct {
	names   []string
	retries int
}

func (o *catalogueFlags) register(p *program, cmd *cobra.Command) {
	f := cmd.Flags()
	f.StringArrayVar(&o.names, "catalogue", nil, "the catalogue, a name of the settings, a `URL` or a path (repeatable; default: those of the settings, by their names)")
	f.IntVar(&o.retries, "retries", defaultRetries, "make a request that brought nothing again, `N` times in a row")
	complete(cmd, "catalogue", p.completeCatalogues)
}

func (o *catalogueFlags) http(p *program) catalogue.HTTP {
	h := catalogue.HTTP{Retries: o.retries, OnRetry: func(err error, wait time.Duration) {
		p.note("%v: trying again in %s", err, wait.Round(100*time.Millisecond))
	}}
	if h.Retries <= 0 {
		h.Retries = -1
	}
	return h
}

// An openCatalogue is one that was read.
type openCatalogue struct {
	*catalogue.Catalogue
	where string // as the user calls it
}

// openCatalogues reads the catalogues that are meant. One of several that cannot be read is warned of.
func (p *program) openCatalogues(ctx context.Context, set *settings.Settings, o *catalogueFlags) ([]*openCatalogue, error) {
	names := o.names
	if len(names) == 0 {
		names = slices.Sorted(maps.Keys(set.Catalogues))
	}
	if len(names) == 0 {
		return nil, hint(usage(errors.New("no catalogue is known")), "tarvm catalogue add NAME URL makes one known; --catalogue URL-or-PATH names one for this time")
	}
	var list []*openCatalogue
	var errs []error
	for _, name := range names {
		place, ok := set.Catalogues[name]
		if !ok {
			place = name
			if !strings.Contains(name, "://") && !strings.ContainsAny(name, `/\`) {
				if _, err := os.Stat(name); err != nil {
					return nil, settingsError(&settings.UnknownError{Kind: settings.Catalogue, Name: name, Known: slices.Sorted(maps.Keys(set.Catalogues))})
				}
			}
		}
		h := o.http(p)
		h.Retries = min(h.Retries, catalogueRetries)
		c, err := catalogue.Open(ctx, place, catalogue.OpenOptions{HTTP: h})
		if err != nil {
			if ok {
				err = fmt.Errorf("catalogue %s: %w", name, plainPath(err))
			}
			errs = append(errs, plainPath(err))
			continue
		}
		list = append(list, &openCatalogue{c, name})
	}
	if len(list) == 0 {
		return nil, hint(errors.Join(errs...), "what was fetched before is in the repository: tarvm log")
	}
	for _, err := range errs {
		p.warn("%v", err)
	}
	return list, nil
}

// completeCatalogues completes names of catalogues, and files.
func (p *program) completeCatalogues(*cobra.Command, []string, string) ([]string, cobra.ShellCompDirective) {
	s, err := loadSettings()
	if err != nil {
		return nil, cobra.ShellCompDirectiveDefault
	}
	var names []string
	for _, n := range slices.Sorted(maps.Keys(s.Catalogues)) {
		names = append(names, n+"\t"+s.Catalogues[n])
	}
	return names, cobra.ShellCompDirectiveDefault
}

// completeMachines completes machines and their versions, and then working areas.
func (p *program) completeMachines(o *catalogueFlags) cobra.CompletionFunc {
	return func(cmd *cobra.Command, a []string, begun string) ([]string, cobra.ShellCompDirective) {
		if len(a) > 0 {
			return p.completeAreas(cmd, a, begun)
		}
		// Whoever presses a key does not wait for a server that is not there.
		ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second)
		defer cancel()
		set, err := loadSettings()
		if err != nil {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		p.quiet = true
		cs, err := p.openCatalogues(ctx, set, &catalogueFlags{names: o.names})
		if err != nil {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		var out []string
		for _, c := range cs {
			for i := range c.Machines {
				m := &c.Machines[i]
				if !strings.Contains(begun, "@") {
					out = append(out, m.Name+"\t"+printable(m.Title))
					continue
				}
				for j := range m.Versions {
					out = append(out, m.Name+"@"+m.Versions[j].Version)
				}
			}
		}
		return out, cobra.ShellCompDirectiveNoFileComp
	}
}

func (p *program) catalogueCommand() *cobra.Command {
	cmd := &cobra.Command{Use: "catalogue", Short: "The catalogues of machines", Args: noVerb, RunE: p.onlyHelp}
	var o catalogueFlags
	add := &cobra.Command{
		Use:   "add NAME URL",
		Short: "Make a catalogue known to tarvm get",
		Long: `Reads the catalogue at URL, which may be a path, and keeps where it is under NAME in the settings.
tarvm get then finds its machines.`,
		Example: "  tarvm catalogue add physics https://example.org/machines/catalogue.json",
		Args:    args(2, 2, "a name, and a URL or a path"),
		RunE: func(cmd *cobra.Command, a []string) error {
			return p.addCatalogue(cmd.Context(), a[0], a[1], &o)
		},
	}
	add.Flags().IntVar(&o.retries, "retries", defaultRetries, "make a request that brought nothing again, `N` times in a row")
	list := &cobra.Command{
		Use:   "list",
		Short: "List the catalogues that are known",
		Args:  args(0, 0, "nothing but flags"),
		RunE: func(*cobra.Command, []string) error {
			set, err := loadSettings()
			if err != nil {
				return err
			}
			type row struct {
				Name  string `json:"name"`
				Place string `json:"place"`
			}
			rows := []row{}
			t := newTable("CATALOGUE", "PLACE")
			for _, n := range slices.Sorted(maps.Keys(set.Catalogues)) {
				rows = append(rows, row{n, set.Catalogues[n]})
				t.add(n, printable(set.Catalogues[n]))
			}
			if p.json {
				return p.writeJSON(rows)
			}
			return p.printf("%s", t)
		},
	}
	p.jsonFlag(list)
	rm := &cobra.Command{
		Use:               "rm NAME",
		Short:             "Forget a catalogue",
		Args:              args(1, 1, "one name"),
		ValidArgsFunction: p.completeCatalogues,
		RunE: func(cmd *cobra.Command, a []string) error {
			return p.changeSettings(cmd.Context(), func(set *settings.Settings) error { return set.RemoveCatalogue(a[0]) })
		},
	}
	cmd.AddCommand(add, list, rm, p.makeCatalogueCommand())
	return cmd
}

func (p *program) addCatalogue(ctx context.Context, name, place string, o *catalogueFlags) error {
	set, err := loadSettings()
	if err != nil {
		return err
	}
	if !strings.Contains(place, "://") {
		place = expandHome(place)
	}
	if err := set.AddCatalogue(name, place); err != nil {
		return settingsError(err)
	}
	c, err := catalogue.Open(ctx, place, catalogue.OpenOptions{HTTP: o.http(p)})
	if err != nil {
		return plainPath(err)
	}
	if err := p.saveSettings(ctx, set); err != nil {
		return err
	}
	title := ""
	if c.Title != "" {
		title = ": " + c.Title
	}
	if c.Base.URL != nil && c.Base.URL.Scheme == "http" {
		p.note("%s comes by http: whoever is on the way can change what it says, and its digests; https is better", c.Base)
	}
	p.note("%s%s, %s", name, title, count(len(c.Machines), "machine"))
	return nil
}

// makeFlags are those of tarvm catalogue make.
type makeFlags struct {
	format string
	arch   string
	url    string
	title  string
	note   string
	time   string
	with   []string
	latest bool
}

func (p *program) makeCatalogueCommand() *cobra.Command {
	var o makeFlags
	cmd := &cobra.Command{
		Use:   "make CATALOGUE NAME@VERSION FILE...",
		Short: "Write a catalogue, or add files to one",
		Long: `Adds FILEs as version VERSION of machine NAME to the catalogue in the file CATALOGUE, which is made when it is not
there: archives of tarvm, packages and disk images, with their sizes and digests. They are the same state in different
forms. A file takes the place of one of the same form.

FILEs in or below the catalogue's directory are named relative to it, so that the directory can be put on a server as it
is; for others --url says where they will be. A raw disk is recognised by --format raw.`,
		Example: `  tarvm catalogue make pub/catalogue.json debian@12 pub/debian-12.tar.zst pub/debian-12.qcow2
  tarvm catalogue make catalogue.json cernvm@1.18 cernvm.vhd --url https://example.org/images/`,
		Args: args(3, -1, "a catalogue, NAME@VERSION, and files"),
		RunE: func(cmd *cobra.Command, a []string) error {
			return p.makeCatalogue(cmd.Context(), a[0], a[1], a[2:], &o)
		},
	}
	f := cmd.Flags()
	f.StringVar(&o.format, "format", "", "what the files are, `FORMAT`: tarvm, ova, ovf, raw, qcow2, ... (default: what their content says)")
	f.StringVar(&o.arch, "arch", "", "the `PROCESSOR` that they are for, such as x86_64 (default: any)")
	f.StringVar(&o.url, "url", "", "the files will be below `URL`")
	f.StringVar(&o.title, "title", "", "the machine's `TITLE`")
	f.StringVar(&o.note, "note", "", "`TEXT` about the version")
	f.StringVar(&o.time, "time", "", "when the version was published, `TIME` as RFC 3339, or @SECONDS")
	f.StringArrayVar(&o.with, "with", nil, "a further `FILE` that belongs beside the only one: a disk of an OVF package (repeatable)")
	f.BoolVar(&o.latest, "latest", false, "this version is what latest means (default: the highest is)")
	p.jsonFlag(cmd)
	return cmd
}

func (p *program) makeCatalogue(ctx context.Context, path, text string, files []string, o *makeFlags) error {
	name, version, ok := strings.Cut(text, "@")
	if !ok || name == "" || version == "" {
		return usage(fmt.Errorf("%q: want NAME@VERSION", text))
	}
	if len(o.with) > 0 && len(files) != 1 {
		return usage(errors.New("--with is for one FILE"))
	}
	var at *manifest.Time
	if o.time != "" {
		t, err := parseTime(o.time)
		if err != nil {
			return usage(fmt.Errorf("--time: %w", err))
		}
		at = &manifest.Time{Time: t}
	}
	c, err := catalogue.Open(ctx, path, catalogue.OpenOptions{})
	if errors.Is(err, fs.ErrNotExist) {
		c, err = catalogue.New(""), nil
	}
	if err != nil {
		return plainPath(err)
	}
	dir, err := filepath.Abs(filepath.Dir(path))
	if err != nil {
		return err
	}
	var added []catalogue.File
	for _, file := range files {
		f, err := catalogue.Describe(ctx, file, o.format, catalogue.Known{Codecs: p.codecs, Disks: p.disks})
		var unknown *catalogue.UnknownFormatError
		if errors.As(err, &unknown) {
			return hint(usage(err), "--format raw, if it is one")
		}
		if err != nil {
			return plainPath(err)
		}
		f.Arch = o.arch
		blobs := []*catalogue.Blob{&f.Blob}
		paths := []string{file}
		if f.Entry != nil && f.Entry.Manifest != nil {
			blobs, paths = append(blobs, f.Entry.Manifest), append(paths, file+".manifest")
		}
		for _, w := range o.with {
			b, err := catalogue.Measure(ctx, w)
			if err != nil {
				return plainPath(err)
			}
			f.With = append(f.With, b)
		}
		for i := range f.With {
			blobs, paths = append(blobs, &f.With[i]), append(paths, o.with[i])
		}
		for i, b := range blobs {
			if b.URL, err = blobURL(dir, paths[i], o.url); err != nil {
				return err
			}
		}
		if err := c.Add(name, version, f); err != nil {
			return fmt.Errorf("%s: %w", file, err)
		}
		added = append(added, f)
	}
	m, v, err := c.Find(name, version)
	if err != nil {
		return err
	}
	if o.title != "" {
		m.Title = o.title
	}
	if o.latest {
		m.Latest = v.Version
	}
	if o.note != "" {
		v.Note = o.note
	}
	if at != nil {
		v.Time = at
	}
	if err := c.Save(path); err != nil {
		return plainPath(err)
	}
	if p.json {
		return p.writeJSON(added)
	}
	for i := range added {
		if err := p.printf("%s@%s: %s, %s, %s\n", name, version, added[i].FileName(), added[i].Form(), size(added[i].Total())); err != nil {
			return err
		}
	}
	return nil
}

// blobURL is the URL of a file in a catalogue of a directory.
func blobURL(dir, file, base string) (string, error) {
	if base != "" {
		return strings.TrimSuffix(base, "/") + "/" + url.PathEscape(filepath.Base(file)), nil
	}
	abs, err := filepath.Abs(file)
	if err != nil {
		return "", err
	}
	rel, err := filepath.Rel(dir, abs)
	if err != nil || !filepath.IsLocal(rel) {
		return "", hint(usage(fmt.Errorf("%s: is not below the catalogue's directory", file)), "--url says where it will be")
	}
	return (&url.URL{Path: filepath.ToSlash(rel)}).String(), nil
}
