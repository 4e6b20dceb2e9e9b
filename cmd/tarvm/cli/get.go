package cli

import (
	"cmp"
	"compress/bzip2"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net/url"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"tarvm/archive/chain"
	"tarvm/archive/repo"
	"tarvm/archive/repo/catalogue"
	"tarvm/archive/vmdir"
	"tarvm/cmd/tarvm/platform"
	"tarvm/cmd/tarvm/settings"
	"tarvm/delta"
	"tarvm/manifest"
)

// getFlags are those of tarvm get.
type getFlags struct {
	restoreFlags
	catalogueFlags
	launchFlags
	bare         sourceFlags
	project      string
	formats      []string
	arch         string
	to           string
	list         bool
	noRestore    bool
	open         bool
	manifestOnly bool
}

func (p *program) getCommand() *cobra.Command {
	var o getFlags
	cmd := &cobra.Command{
		Use:   "get NAME[@VERSION] [AREA]",
		Short: "Fetch a machine that a catalogue has, and restore it",
		Long: `Fetches a machine by its name in a catalogue, adds it to the repository, and makes AREA its state. VERSION may be the
beginning of one: 2.6 is the latest 2.6.x; without it, the latest is meant.

Catalogues are JSON files on servers or on disk: tarvm catalogue add makes one known, --catalogue names one for this
time. What is fetched is compared with the catalogue's digests before it is used; an interrupted get goes on where it
was. Of an archive of tarvm only those of its chain are fetched that are not here. A package (OVA, Vagrant box) or a
disk image becomes the directory of a machine, in the form of its platform, or that of --to, and is saved as an entry.
The parts of a chain, and archives that --manifest-only left at their catalogue, are fetched when a restore needs them.

HTTPS_PROXY, HTTP_PROXY and NO_PROXY in the environment are heeded. What is half fetched is below XDG_CACHE_HOME.`,
		Example: `  tarvm get --list
  tarvm get debian
  tarvm get cernvm@1.18 web --open
  tarvm get debian --format qcow2 --memory 4G --no-restore --catalogue https://example.org/catalogue.json`,
		Args: args(0, 2, "the name of a machine, and perhaps a working area"),
		RunE: func(cmd *cobra.Command, a []string) error {
			if o.list {
				return p.listMachines(cmd.Context(), a, &o)
			}
			return p.get(cmd.Context(), a, &o)
		},
	}
	o.restoreFlags.register(p, cmd)
	o.catalogueFlags.register(p, cmd)
	f := cmd.Flags()
	f.BoolVarP(&o.list, "list", "l", false, "list what the catalogues have: all machines, or one with its forms")
	f.StringArrayVar(&o.formats, "format", nil, "take the file of this `FORMAT`: tarvm, ova, qcow2, vhd, raw, raw.gz, ... (repeatable, the best first)")
	f.StringVar(&o.arch, "arch", catalogue.ArchOf(runtime.GOARCH), "take what is for this `PROCESSOR`; empty: any")
	f.StringVar(&o.project, "project", "", "in the repository: the group of entries, `NAME` (default: as an archive says, else that of the settings, or the machine's name)")
	f.BoolVar(&o.noRestore, "no-restore", false, "only add it to the repository")
	f.BoolVar(&o.manifestOnly, "manifest-only", false, "keep only the manifest of a fetched archive in the repository: a later restore fetches it again")
	f.BoolVarP(&o.dryRun, "dry-run", "n", false, "only say what would be fetched")
	f.BoolVar(&o.open, "open", false, "start the machine")
	f.StringVar(&o.platform, "platform", "", "with --open: use this `PLATFORM`, as tarvm open does")
	f.StringVar(&o.connect, "connect", "", "with --open: libvirt's `URI`")
	o.registerStart(cmd)
	fixed(cmd, "platform", platform.VMware, platform.VirtualBox, platform.Libvirt, platform.Xen, platform.QEMU)
	f.StringVar(&o.to, "to", "", "of what is no archive: the `FORM` of the directory, as tarvm import --to has it (default: the package's platform's; of a disk, that which takes it as it is)")
	f.Var(&o.bare.memory, "memory", "of a disk: the machine's memory, such as 4G")
	f.IntVar(&o.bare.cpus, "cpus", 0, "of a disk: how many processors, `N`")
	f.StringVar(&o.bare.firmware, "firmware", "", "of a disk: the `KIND`, bios or efi")
	f.StringVar(&o.bare.bus, "bus", "", "of a disk: its `BUS`: ide, sata, scsi, nvme or virtio")
	f.StringVar(&o.bare.guest, "guest", "", "of a disk: the `SYSTEM` on it, in VMware's words, such as debian12-64")
	fixed(cmd, "firmware", "bios", "efi")
	fixed(cmd, "bus", buses...)
	fixed(cmd, "to", "vmx", "vbox", "libvirt", "xl", "qemu")
	cmd.ValidArgsFunction = p.completeMachines(&o.catalogueFlags)
	return cmd
}

// A wanted is a file of a catalogue that is to be fetched.
type wanted struct {
	in *openCatalogue
	catalogue.Found
}

// String is how people name it.
func (w *wanted) String() string { return w.Machine.Name + "@" + w.Version.Version }

// got is what get writes with --json.
type got struct {
	Catalogue string              `json:"catalogue"`
	Machine   string              `json:"machine"`
	Version   string              `json:"version"`
	Form      string              `json:"form"`
	Fetch     []fetchedFile       `json:"fetch,omitempty"` // with --dry-run, what would be
	Added     []*repo.Entry       `json:"added,omitempty"`
	Evicted   []*repo.Entry       `json:"evicted,omitempty"` // by --manifest-only
	Entry     *repo.Entry         `json:"entry,omitempty"`
	Restored  *restoredEntry      `json:"restored,omitempty"`
	Launch    *platform.Launch    `json:"launch,omitempty"`
	origins   map[string]*repo.At // by the digest of the manifest
}

type fetchedFile struct {
	Name     string `json:"name"`
	Size     int64  `json:"size"`
	Resumed  int64  `json:"resumed,omitempty"`
	Received int64  `json:"received,omitempty"`
}

func (p *program) get(ctx context.Context, a []string, o *getFlags) error {
	switch {
	case len(a) == 0:
		return hint(usage(errors.New("get: no machine is named")), "tarvm get --list lists them")
	case o.noRestore && (o.open || len(a) > 1):
		return usage(errors.New("--no-restore leaves nothing to open, and no working area"))
	case o.discard && o.saveFirst:
		return usage(errors.New("--discard and --save-first exclude each other"))
	}
	if err := o.bare.check(); err != nil {
		return err
	}
	given := settings.Given{Project: o.project}
	if len(a) > 1 {
		given.Area = a[1]
	}
	s, err := p.openRepo(ctx, &o.repoFlags, given)
	if err != nil {
		return err
	}
	var area settings.Choice
	if !o.noRestore {
		// What is missing is said before the fetching.
		if area, err = s.area(); err != nil {
			return err
		}
	}
	cs, err := p.openCatalogues(ctx, s.set, &o.catalogueFlags)
	if err != nil {
		return err
	}
	w, err := find(cs, a[0], catalogue.Preference{Formats: o.formats, Arch: o.arch})
	if err != nil {
		return err
	}
	f, err := s.forest(ctx)
	if err != nil {
		return err
	}
	out := &got{Catalogue: w.in.where, Machine: w.Machine.Name, Version: w.Version.Version, Form: w.File.Form(), origins: make(map[string]*repo.At)}
	if w.File.Kind == catalogue.KindArchive {
		err = p.getArchive(ctx, s, f, w, cs, o, out)
	} else {
		err = p.getMachine(ctx, s, f, w, o, out)
	}
	if err != nil || o.dryRun {
		if err == nil && p.json {
			err = p.writeJSON(out)
		}
		return err
	}
	if !o.noRestore {
		if out.Restored, _, err = p.restoreArea(ctx, []string{out.Entry.Ref(), area.Dir}, &o.restoreFlags); err != nil {
			here := fmt.Sprintf("%s is in the repository: tarvm restore %d restores it", out.Entry, out.Entry.Number)
			return hint(err, "%s", strings.Join(append([]string{here}, hints(err)...), "; "))
		}
	}
	if o.manifestOnly {
		if err := p.evict(ctx, s, out); err != nil {
			return err
		}
	}
	if !p.json {
		text := fmt.Sprintf("%s: %s in project %s", out.Entry, out.Entry.Kind, out.Entry.Project)
		if out.Restored != nil {
			text = p.restoredText(out.Restored, area.Dir)
		}
		if err := p.printf("%s\n", printable(text)); err != nil {
			return err
		}
	}
	if o.open {
		if out.Launch, err = p.launch(ctx, area.Dir, actOpen, &o.launchFlags); err != nil {
			return err
		}
	}
	if !p.json {
		return nil
	}
	return p.writeJSON(out)
}

// find returns the file that is meant by NAME[@VERSION].
func find(cs []*openCatalogue, text string, pref catalogue.Preference) (*wanted, error) {
	w, err := findVersion(cs, text)
	if err != nil {
		return nil, err
	}
	w.File, err = catalogue.Choose(w.Version, pref)
	var missing *catalogue.NotFoundError
	if errors.As(err, &missing) {
		err = hint(usage(fmt.Errorf("%s: %w", w.Machine.Name, err)), "there are %s", strings.Join(missing.Near, ", "))
	}
	return w, err
}

// findVersion returns the version that is meant by NAME[@VERSION]: of the first catalogue that has it.
func findVersion(cs []*openCatalogue, text string) (*wanted, error) {
	name, version, _ := strings.Cut(text, "@")
	var near []string
	var first error
	for _, c := range cs {
		m, v, err := c.Find(name, version)
		if err == nil {
			return &wanted{in: c, Found: catalogue.Found{Machine: m, Version: v}}, nil
		}
		var missing *catalogue.NotFoundError
		if !errors.As(err, &missing) {
			return nil, fmt.Errorf("%s: %w", c.where, err)
		}
		if first == nil || len(near) == 0 {
			first = err
		}
		for _, n := range missing.Near {
			if !slices.Contains(near, n) {
				near = append(near, n)
			}
		}
	}
	if len(near) > 0 {
		return nil, hint(usage(first), "did you mean %s?", strings.Join(near[:min(len(near), 5)], ", "))
	}
	return nil, hint(usage(first), "tarvm get --list lists what there is")
}

// above lists the archives to fetch for the state of an entry, the oldest first: those above the first that is here.
// Of a parent that is nowhere there is a *catalogue.NotFoundError.
func above(cs []*openCatalogue, w *wanted, here func(id, digest delta.Digest) bool) ([]*wanted, error) {
	path := []*wanted{w}
	seen := map[delta.Digest]bool{w.File.Entry.ID: true}
	for p := w.File.Entry.Parent; p != nil && !here(p.ID, p.Digest); p = path[len(path)-1].File.Entry.Parent {
		// Its own catalogue is the likeliest to have a parent.
		next := locate(append([]*openCatalogue{path[len(path)-1].in}, cs...), p.ID)
		if next == nil || seen[p.ID] {
			return nil, &catalogue.NotFoundError{What: cmp.Or(p.Name, p.ID.Short())}
		}
		seen[p.ID] = true
		path = append(path, next)
	}
	slices.Reverse(path)
	return path, nil
}

// locate looks for an archive of a state.
func locate(cs []*openCatalogue, id delta.Digest) *wanted {
	for _, c := range cs {
		if list := c.Entry(id); len(list) > 0 {
			return &wanted{in: c, Found: list[0]}
		}
	}
	return nil
}

// getArchive adds an archive of tarvm, and those of its chain that are not here.
func (p *program) getArchive(ctx context.Context, s *session, f *repo.Forest, w *wanted, cs []*openCatalogue, o *getFlags, out *got) error {
	if o.to != "" || o.bare.describes() {
		return hint(usage(fmt.Errorf("%s is an archive with its configuration: --to, --memory and the like are for packages and disks", w)), "--format takes another of its forms, which tarvm get --list %s lists", w.Machine.Name)
	}
	here := func(id, digest delta.Digest) bool { return f.ByDigest(id, digest) != nil }
	if e := f.ByDigest(w.File.Entry.ID, w.File.Entry.Digest); e != nil {
		p.note("%s is here already: %s", w, e)
		out.Entry = e
		if o.manifestOnly && !e.Missing {
			at, err := origin(w)
			if err != nil {
				return err
			}
			out.origins[e.Digest.String()] = at
		}
		return nil
	}
	path, err := above(cs, w, here)
	if err != nil {
		return fmt.Errorf("%s builds on what is in no catalogue that is known: %w", w, err)
	}
	if o.dryRun {
		return p.sayFetch(path, out)
	}
	for _, x := range path {
		e, err := p.fetchArchive(ctx, s, x, o, out)
		if err != nil {
			return err
		}
		out.Entry = e
	}
	return nil
}

// sayFetch says what would be fetched.
func (p *program) sayFetch(path []*wanted, out *got) error {
	for _, x := range path {
		out.Fetch = append(out.Fetch, fetchedFile{Name: x.File.FileName(), Size: x.File.Total()})
		if p.json {
			continue
		}
		if err := p.printf("fetch %s: %s, %s\n", x, x.File.Form(), size(x.File.Total())); err != nil {
			return err
		}
	}
	return nil
}

// fetchArchive fetches one archive, and adds it.
func (p *program) fetchArchive(ctx context.Context, s *session, w *wanted, o *getFlags, out *got) (*repo.Entry, error) {
	d, err := p.fetch(ctx, w, o.http(p), out)
	if err != nil {
		return nil, err
	}
	src, closer, err := d.open()
	if err != nil {
		return nil, err
	}
	defer closer.Close()
	r, err := s.Import(ctx, src, repo.ImportOptions{Project: o.project, Workers: o.workers, Progress: p.progress})
	if err != nil {
		err = fmt.Errorf("%s: %w", w, plainPath(err))
		if exitCode(err) == exitCorrupt {
			d.remove() // it is what the catalogue says, and will be the next time
		}
		return nil, err
	}
	if r.Entry.ID != w.File.Entry.ID {
		return nil, fmt.Errorf("%s: %w: the archive is of another state (%s) than the catalogue says", w, repo.ErrCorrupt, r.Entry.ID.Short())
	}
	for _, e := range r.Added {
		p.note("%s: %s", w, e)
	}
	out.Added = append(out.Added, r.Added...)
	if o.manifestOnly {
		at, err := origin(w)
		if err != nil {
			return nil, err
		}
		if at.SHA == "" {
			b, err := catalogue.Measure(ctx, d.files[0])
			if err != nil {
				return nil, plainPath(err)
			}
			at.SHA = b.Digests.SHA256
		}
		out.origins[r.Entry.Digest.String()] = at
	}
	d.remove()
	return r.Entry, nil
}

// origin says where an archive is fetched again.
func origin(w *wanted) (*repo.At, error) {
	place, err := w.in.Place(&w.File.Blob)
	if err != nil {
		return nil, err
	}
	if len(w.File.With) > 0 {
		return nil, usage(fmt.Errorf("%s: --manifest-only is for archives in one file", w))
	}
	u := place.URL
	if u == nil {
		path := filepath.ToSlash(filepath.Join(place.Dir, filepath.FromSlash(place.Name)))
		if !strings.HasPrefix(path, "/") {
			path = "/" + path // C:/x
		}
		u = &url.URL{Scheme: "file", Path: path}
	} else if u.User != nil || u.RawQuery != "" {
		return nil, usage(fmt.Errorf("%s: --manifest-only would write the password in its URL into the repository", w))
	}
	return &repo.At{
		URL: u.String(), Name: w.String(), Size: w.File.Size, SHA: w.File.Digests.SHA256,
		ID: w.File.Entry.ID, Digest: w.File.Entry.Digest,
	}, nil
}

// evict removes the archives from the repository that a catalogue has, the newest first.
func (p *program) evict(ctx context.Context, s *session, out *got) error {
	f, err := s.Forest(ctx)
	if err != nil {
		return err
	}
	for _, e := range slices.Backward(f.Entries) {
		at := out.origins[e.Digest.String()]
		if at == nil || at.ID != e.ID || e.Missing {
			continue
		}
		if err := s.Evict(ctx, e, *at); err != nil {
			return plainPath(err)
		}
		out.Evicted = append(out.Evicted, e)
		p.note("%s: only its manifest is kept: %s is left at the catalogue", e, size(e.Size))
	}
	return nil
}

// Labels of entries that were made of a package or a disk.
const (
	labelMachine = "catalogue"      // NAME@VERSION
	labelFile    = "catalogue-file" // the digest of the file
	labelForm    = "catalogue-form" // that of the directory
)

// describes reports whether there are flags that describe a machine without a configuration.
func (o *sourceFlags) describes() bool {
	return o.memory != 0 || o.cpus != 0 || o.firmware != "" || o.bus != "" || o.guest != ""
}

// formsOfDisks are the forms whose platforms open a disk of a format as it is.
var formsOfDisks = map[string]string{"qcow2": "libvirt", "raw": "libvirt", "qed": "libvirt", "qcow": "libvirt", "vdi": "vbox"}

// getMachine fetches a package or a disk, and saves the machine that it holds.
func (p *program) getMachine(ctx context.Context, s *session, f *repo.Forest, w *wanted, o *getFlags, out *got) error {
	switch {
	case w.File.Format == "iso":
		return hint(usage(fmt.Errorf("%s: an optical disc is no machine", w)), "--format takes another form, which tarvm get --list %s lists", w.Machine.Name)
	case o.manifestOnly:
		return usage(fmt.Errorf("%s: --manifest-only is for archives of tarvm, and this is %s", w, w.File.Form()))
	}
	disk, shaped := w.File.Kind == catalogue.KindDisk, o.bare.describes()
	if shaped && !disk {
		return usage(fmt.Errorf("%s is a whole machine: --memory and the like are for disks", w))
	}
	eo := exportFlags{sourceFlags: o.bare, to: o.to, workers: o.workers}
	if disk {
		eo.name = w.Machine.Name
	}
	if eo.to == "" && disk {
		eo.to = p.installedForm(cmp.Or(formsOfDisks[w.File.Format], "vmx"), o)
	}
	sum := digestOf(&w.File.Blob)
	for _, e := range slices.Backward(f.Entries) {
		if sum != "" && e.Labels[labelFile] == sum && (e.Labels[labelForm] == eo.to || eo.to == "") && !shaped {
			p.note("%s is here already: %s", w, e)
			out.Entry = e
			return nil
		}
	}
	if o.dryRun {
		return p.sayFetch([]*wanted{w}, out)
	}
	d, err := p.fetch(ctx, w, o.http(p), out)
	if err != nil {
		return err
	}
	path := d.files[0]
	if disk {
		if path, err = p.plainDisk(ctx, d, w); err != nil {
			return err
		}
	}
	so := repo.SaveOptions{Project: o.project, Identify: p.identify}
	so.Pack.Workers, so.Pack.Progress, so.Pack.Name = o.workers, p.progress, w.Machine.Name+" "+w.Version.Version
	so.Pack.Note = w.Version.Note
	so.Pack.Labels = map[string]string{labelMachine: w.String()}
	if sum != "" {
		so.Pack.Labels[labelFile] = sum
	}
	if eo.to != "" {
		so.Pack.Labels[labelForm] = eo.to
	}
	if so.Project == "" {
		so.Project = s.sel.Project.Name
	}
	if so.Project == "" {
		so.Project = w.Machine.Name
	}
	r, err := p.importMachine(ctx, s, path, so, &eo)
	if err != nil {
		return fmt.Errorf("%s: %w", w, err)
	}
	if r.Unchanged {
		p.note("%s is here already: %s", w, r.Entry)
	} else {
		p.note("%s: %s, %s", w, r.Entry, r.Entry.Kind)
		out.Added = append(out.Added, r.Entry)
	}
	out.Entry = r.Entry
	d.remove()
	return nil
}

// installedForm returns another form than that of a disk when the machine is to be started and only others can be.
func (p *program) installedForm(form string, o *getFlags) string {
	if !o.open || o.platform != "" {
		return form
	}
	_, err := platform.Plan(platform.VM{Dir: os.TempDir(), Form: form}, platform.Status, platform.Options{})
	var none *platform.NoPlatformError
	if errors.As(err, &none) {
		for _, other := range none.Others {
			if other != "qemu" { // a script, which is run only when that is asked for
				return other
			}
		}
	}
	return form
}

func digestOf(b *catalogue.Blob) string {
	return cmp.Or(b.Digests.SHA256, b.Digests.SHA512, b.Digests.BLAKE3)
}

// A download is a folder with what was fetched.
type download struct {
	dir   string
	files []string
}

func (d *download) remove() { _ = os.RemoveAll(d.dir) } // a cache: what is left is no harm

// open opens the volumes of an archive as one.
func (d *download) open() (*io.SectionReader, io.Closer, error) {
	if len(d.files) > 1 {
		return nil, nil, fmt.Errorf("%s: archives in several volumes are not taken from catalogues", filepath.Base(d.files[0]))
	}
	f, src, err := openSource(d.files[0])
	return src, f, err
}

// downloadDir is where a file is fetched to: the same each time, so that it is gone on with.
func downloadDir(key string) (string, error) {
	cache, err := os.UserCacheDir()
	if err != nil {
		return "", hint(err, "XDG_CACHE_HOME says where half of a file can wait for the other")
	}
	sum := sha256.Sum256([]byte(key))
	all := filepath.Join(cache, "tarvm", "downloads")
	sweepDownloads(all)
	dir := filepath.Join(all, hex.EncodeToString(sum[:8]))
	return dir, plainPath(os.MkdirAll(dir, 0o700))
}

// keepDownloads is how long what is half fetched waits for somebody who wants the rest.
const keepDownloads = 30 * 24 * time.Hour

// sweepDownloads removes what nobody came back for.
func sweepDownloads(all string) {
	dirs, err := os.ReadDir(all)
	if err != nil {
		return // there are none
	}
	for _, d := range dirs {
		dir := filepath.Join(all, d.Name())
		old := true
		files, err := os.ReadDir(dir)
		for _, f := range append(files, d) {
			st, serr := f.Info()
			old = old && err == nil && serr == nil && time.Since(st.ModTime()) > keepDownloads
		}
		if old {
			(&download{dir: dir}).remove()
		}
	}
}

// fetch fetches a file of a catalogue with what belongs beside it.
func (p *program) fetch(ctx context.Context, w *wanted, h catalogue.HTTP, out *got) (*download, error) {
	place, err := w.in.Place(&w.File.Blob)
	if err != nil {
		return nil, err
	}
	dir, err := downloadDir(cmp.Or(digestOf(&w.File.Blob), place.String()))
	if err != nil {
		return nil, err
	}
	p.note("fetching %s from %s: %s, %s", w, place, w.File.Form(), size(w.File.Total()))
	o := catalogue.FetchOptions{HTTP: h, Progress: func(done, total int64) {
		p.bar.report(event{Phase: "fetch", Path: w.File.FileName(), Done: done, Total: total})
	}}
	list, err := w.in.Fetch(ctx, w.File, dir, o)
	p.bar.clear()
	d := &download{dir: dir}
	for _, x := range list {
		if x.Resumed > 0 {
			p.note("went on at %s", size(x.Resumed))
		}
		d.files = append(d.files, x.Path)
	}
	if err != nil {
		_ = os.Remove(dir) // if nothing is kept in it
		return nil, fetchError(fmt.Errorf("%s: %w", w, plainPath(err)))
	}
	for i, x := range list {
		b := &w.File.Blob
		if i > 0 {
			b = &w.File.With[i-1]
		}
		out.Fetch = append(out.Fetch, fetchedFile{Name: filepath.Base(x.Path), Size: b.Size, Resumed: x.Resumed, Received: x.Received})
	}
	return d, nil
}

// fetchError adds what the user can do.
func fetchError(err error) error {
	var (
		digest *catalogue.DigestError
		length *catalogue.SizeError
		space  *catalogue.SpaceError
		status *catalogue.StatusError
	)
	switch {
	case errors.As(err, &digest), errors.As(err, &length):
		return hint(err, "what came is not what the catalogue says: it was thrown away; whoever keeps the catalogue can say which is right")
	case errors.As(err, &space):
		return hint(err, "make room for %s in %s, or set XDG_CACHE_HOME to another directory; what came is kept", size(space.Need-space.Free), space.Dir)
	case errors.Is(err, vmdir.ErrClaimed):
		return hint(err, "another tarvm is fetching it: wait for that one")
	case errors.As(err, &status), errors.Is(err, context.Canceled), errors.Is(err, os.ErrPermission):
		return err
	}
	return hint(err, "what came is kept: the same command goes on with it")
}

// plainDisk returns the path of a fetched disk as it is without compression, under a name that says what it is.
func (p *program) plainDisk(ctx context.Context, d *download, w *wanted) (string, error) {
	path := d.files[0]
	named := path
	if w.File.Compression != "" {
		named = strings.TrimSuffix(path, filepath.Ext(path))
	}
	if w.File.Format == "raw" && !slices.Contains(rawSuffixes, strings.ToLower(filepath.Ext(named))) {
		named += ".img"
	}
	if w.File.Compression == "" {
		if named != path {
			_ = os.Remove(named) // of an earlier call
			if err := os.Link(path, named); err != nil {
				return "", err
			}
		}
		return named, nil
	}
	if named == path { // no ending that tells the compression
		named += ".disk"
	}
	f, err := os.Open(path)
	if err != nil {
		return "", plainPath(err)
	}
	defer f.Close()
	var r io.ReadCloser
	if w.File.Compression == "bzip2" {
		r = io.NopCloser(bzip2.NewReader(f))
	} else if r, err = p.decoder(f, nil); err != nil {
		return "", fmt.Errorf("%s: %w", w, err)
	}
	defer r.Close()
	to, err := os.Create(named)
	if err != nil {
		return "", plainPath(err)
	}
	err = p.unpackDisk(ctx, to, r)
	if cerr := to.Close(); err == nil {
		err = cerr
	}
	if err != nil {
		os.Remove(named)
		return "", fmt.Errorf("%s: %w", w, plainPath(err))
	}
	return named, nil
}

// unpackDisk copies a disk, whose zeros become holes.
func (p *program) unpackDisk(ctx context.Context, to *os.File, r io.Reader) error {
	buf := make([]byte, 256<<10)
	for off := int64(0); ; {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		n, err := io.ReadFull(r, buf)
		if n > 0 && !delta.IsZero(buf[:n]) {
			if _, err := to.WriteAt(buf[:n], off); err != nil {
				return err
			}
		}
		if off += int64(n); off > maxUnpacked {
			return fmt.Errorf("more than %s to unpack", size(maxUnpacked))
		}
		p.bar.report(event{Phase: "unpack", Done: off})
		if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
			return to.Truncate(off)
		}
		if err != nil {
			return err
		}
	}
}

// fetchAt brings an archive that a catalogue has, when a restore needs it: from where it was, or else from where the
// catalogues that are known have it now.
func (p *program) fetchAt(ctx context.Context, at *repo.At, w io.Writer) error {
	place, err := catalogue.ParsePlace(at.URL)
	if err != nil {
		return err
	}
	h := (&catalogueFlags{retries: defaultRetries}).http(p)
	b := &catalogue.Blob{URL: at.URL, Size: at.Size, Digests: catalogue.Digests{SHA256: at.SHA}}
	dir, err := downloadDir(cmp.Or(at.SHA, at.URL))
	if err != nil {
		return err
	}
	p.note("fetching %s from %s: %s", at, place, size(at.Size))
	fo := catalogue.FetchOptions{HTTP: h, Progress: func(done, total int64) {
		p.bar.report(event{Phase: "fetch", Path: at.String(), Done: done, Total: total})
	}}
	path := filepath.Join(dir, "archive")
	_, err = catalogue.Fetch(ctx, place, b, path, fo)
	if err != nil && ctx.Err() == nil {
		if moved := p.fetchMoved(ctx, at, path, fo); moved {
			err = nil
		}
	}
	p.bar.clear()
	if err != nil {
		return fetchError(plainPath(err))
	}
	f, err := os.Open(path)
	if err != nil {
		return plainPath(err)
	}
	defer f.Close()
	if _, err := io.Copy(w, f); err != nil {
		return err
	}
	(&download{dir: dir}).remove()
	return nil
}

// fetchMoved looks for an archive in the catalogues, and reports whether it is fetched.
func (p *program) fetchMoved(ctx context.Context, at *repo.At, path string, fo catalogue.FetchOptions) bool {
	set, err := loadSettings()
	if err != nil || len(set.Catalogues) == 0 {
		return false
	}
	cs, err := p.openCatalogues(ctx, set, &catalogueFlags{})
	if err != nil {
		return false
	}
	for _, c := range cs {
		for _, x := range c.Entry(at.ID) {
			place, err := c.Place(&x.File.Blob)
			if err != nil || x.File.Entry.Digest != at.Digest || len(x.File.With) > 0 || place.String() == at.URL {
				continue
			}
			p.note("it is not there: trying %s", place)
			if _, err := catalogue.Fetch(ctx, place, &x.File.Blob, path, fo); err == nil {
				return true
			}
		}
	}
	return false
}

// fetchParents adds the archives on which one builds that is to be imported, from the catalogues that are known. It
// reports whether they are there.
func (p *program) fetchParents(ctx context.Context, s *session, missing *chain.MissingParentError, project string) (bool, error) {
	if len(s.set.Catalogues) == 0 {
		return false, nil
	}
	cs, err := p.openCatalogues(ctx, s.set, &catalogueFlags{retries: defaultRetries})
	if err != nil {
		return false, err
	}
	w := locate(cs, missing.ID)
	if w == nil {
		return false, nil
	}
	p.note("it builds on %s, which a catalogue has", w)
	f, err := s.Forest(ctx)
	if err != nil {
		return false, err
	}
	o := &getFlags{catalogueFlags: catalogueFlags{retries: defaultRetries}, project: project}
	out := &got{origins: make(map[string]*repo.At)}
	return true, p.getArchive(ctx, s, f, w, cs, o, out)
}

// listedVersion is what get --list writes with --json of each version.
type listedVersion struct {
	Catalogue string `json:"catalogue"`
	Machine   string `json:"machine"`
	Title     string `json:"title,omitempty"`
	Latest    bool   `json:"latest,omitempty"`
	*catalogue.Version

	of *catalogue.Machine
}

// listMachines lists what the catalogues have: all of it in a line for each version, or one machine with its files.
func (p *program) listMachines(ctx context.Context, a []string, o *getFlags) error {
	if len(a) > 1 {
		return usage(errors.New("get --list: want at most the name of a machine"))
	}
	set, err := loadSettings()
	if err != nil {
		return err
	}
	cs, err := p.openCatalogues(ctx, set, &o.catalogueFlags)
	if err != nil {
		return err
	}
	name, version := "", ""
	if len(a) > 0 {
		name, version, _ = strings.Cut(a[0], "@")
		if _, err := findVersion(cs, a[0]); err != nil {
			return err
		}
	}
	rows := []listedVersion{}
	for _, c := range cs {
		for i := range c.Machines {
			m := &c.Machines[i]
			if name != "" && m.Name != name {
				continue
			}
			_, latest, err := c.Find(m.Name, "")
			if err != nil {
				latest = nil
			}
			_, only, err := c.Find(m.Name, version)
			if err != nil {
				continue
			}
			for j := range slices.Backward(m.Versions) {
				v := &m.Versions[j]
				if version != "" && v != only {
					continue
				}
				rows = append(rows, listedVersion{c.where, m.Name, m.Title, v == latest, v, m})
			}
		}
	}
	if p.json {
		return p.writeJSON(rows)
	}
	if name != "" {
		return p.printFiles(rows, o)
	}
	titles := []string{"MACHINE", "VERSION", "PUBLISHED", " SIZE", "FORMS", "TITLE"}
	if len(cs) > 1 {
		titles = append([]string{"CATALOGUE"}, titles...)
	}
	t := newTable(titles...)
	for _, r := range rows {
		var forms []string
		for i := range r.Files {
			if form := r.Files[i].Form(); !slices.Contains(forms, form) {
				forms = append(forms, form)
			}
		}
		cells := []string{r.Machine, r.Version.Version + mark(r.Latest), published(r.Time), least(r.Version, o), strings.Join(forms, " "), printable(r.Title)}
		if len(cs) > 1 {
			cells = append([]string{printable(r.Catalogue)}, cells...)
		}
		t.add(cells...)
	}
	return p.printf("%s", t)
}

func mark(latest bool) string {
	if latest {
		return " *"
	}
	return ""
}

func published(t *manifest.Time) string {
	if t == nil {
		return "-"
	}
	return t.Format(time.DateOnly)
}

// least is how much the file has that get would take.
func least(v *catalogue.Version, o *getFlags) string {
	f, err := catalogue.Choose(v, catalogue.Preference{Formats: o.formats, Arch: o.arch})
	if err != nil {
		return "-"
	}
	return size(f.Total())
}

// printFiles lists the files of one machine.
func (p *program) printFiles(rows []listedVersion, o *getFlags) error {
	t := newTable("VERSION", "PUBLISHED", "FORM", "KIND", "PROCESSOR", " SIZE", "NOTE")
	for i, r := range rows {
		if i == 0 {
			for _, text := range []string{r.of.Title, r.of.Description, r.of.Home} {
				if text != "" {
					if err := p.printf("%s\n", printable(text)); err != nil {
						return err
					}
				}
			}
		}
		for k := range r.Files {
			f := &r.Files[k]
			if len(o.formats) > 0 {
				if _, err := catalogue.Choose(&catalogue.Version{Files: []catalogue.File{*f}}, catalogue.Preference{Formats: o.formats}); err != nil {
					continue
				}
			}
			kind := string(f.Kind)
			if f.Entry != nil {
				kind = string(f.Entry.Kind) + " archive"
			}
			t.add(r.Version.Version+mark(r.Latest), published(r.Time), f.Form(), kind, dash(f.Arch), size(f.Total()), strings.ReplaceAll(printable(r.Note), "\n", " "))
		}
	}
	return p.printf("%s", t)
}
