package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"tarvm/archive"
	"tarvm/archive/codec"
	"tarvm/archive/vmdir"
	"tarvm/delta"
	"tarvm/manifest"
)

const manifestSuffix = ".manifest"

// packFlags are those of tarvm pack.
type packFlags struct {
	out, manifest string
	codec         string
	level         int
	levelSet      bool
	block         sizeValue
	exclude       []string
	workers       int
	name, note    string
	labels        []string
	time          string
	dryRun        bool
	force         bool
	tries         int
	parent        string
	differential  bool
	search        []string
	trustTimes    bool
	live          bool
}

func (p *program) packCommand() *cobra.Command {
	var o packFlags
	cmd := &cobra.Command{
		Use:   "pack DIR -o FILE",
		Short: "Pack a VM's directory, or what changed in it",
		Long: `Packs the directory of a virtual machine into FILE, and writes FILE.manifest beside it: what the next increment
needs. The archive is a tar, and tar restores it. The directory is only read.

With --parent the archive is an increment: of disks and memory images it holds the blocks that the parent does not
have. The parent's manifest is enough; its archive may be far away. Where the manifest lies beside the parent's
archive, it is used, because it finds more copies.

A machine should be shut down, or paused, while its directory is packed. Pack refuses one that runs, and reads files
again that changed meanwhile; --live packs them as they are. Lock files, sockets and devices are not packed.

FILE gets its name when it is complete. It may also be a pipe or a tape drive, or - for standard output; these get no
manifest without --manifest.`,
		Example: `  tarvm pack vm -o monday.tar.zst
  tarvm pack vm -o tuesday.tar.zst --parent monday.tar.zst
  tarvm pack vm -o friday.tar.zst --parent thursday.tar.zst --differential
  tarvm pack vm -o - --codec gzip --manifest vm.manifest | ssh vault 'cat >vm.tar.gz'`,
		Args: args(1, 1, "one directory"),
		RunE: func(cmd *cobra.Command, a []string) error {
			o.levelSet = cmd.Flags().Changed("level")
			return p.pack(cmd.Context(), a[0], &o)
		},
	}
	f := cmd.Flags()
	f.StringVarP(&o.out, "output", "o", "", "the archive, `FILE`; - is standard output")
	f.StringVar(&o.manifest, "manifest", "", "where the manifest goes, instead of FILE.manifest")
	f.StringVar(&o.codec, "codec", "", "compression: zstd, gzip, xz, lz4 or none (default: by the ending of FILE, or zstd)")
	f.IntVar(&o.level, "level", 0, "level of compression, as the codec's own program has them (default: the codec's)")
	f.Var(&o.block, "block-size", "unit of comparison, 4K to 4M; an increment has its parent's (default 64K)")
	f.StringArrayVar(&o.exclude, "exclude", nil, "leave out what matches `PATTERN`: * ? [] within a name, ** across folders; without a slash a name in any folder (repeatable)")
	f.IntVar(&o.workers, "workers", 0, "how many processors to use (default: all)")
	f.StringVar(&o.name, "name", "", "name of the entry (default: the directory's)")
	f.StringVar(&o.note, "note", "", "a remark that the archive carries")
	f.StringArrayVar(&o.labels, "label", nil, "a label that the archive carries, `KEY=VALUE` (repeatable)")
	f.StringVar(&o.time, "time", "", "time of the entry, as 2026-05-01T12:00:00Z or @SECONDS (default: SOURCE_DATE_EPOCH, or the newest file's)")
	f.BoolVarP(&o.dryRun, "dry-run", "n", false, "only say what would be done")
	f.BoolVarP(&o.force, "force", "f", false, "overwrite FILE and its manifest")
	f.IntVar(&o.tries, "tries", 0, "how often a file that changes is read (default 3)")
	f.StringVar(&o.parent, "parent", "", "pack what changed since this `ARCHIVE` or manifest")
	f.BoolVar(&o.differential, "differential", false, "with --parent: pack what changed since the full archive at the start of the parent's chain")
	f.StringArrayVar(&o.search, "search", nil, "with --differential: look for that archive in `DIR`, too (repeatable)")
	f.BoolVar(&o.trustTimes, "trust-times", false, "with --parent: do not read files whose size, times and inode are as they were")
	f.BoolVar(&o.live, "live", false, "pack a machine that runs: the state is what a power failure would leave, without files that vanish meanwhile")
	p.jsonFlag(cmd)
	var names []string
	for _, c := range p.codecs {
		names = append(names, c.Name())
	}
	fixed(cmd, "codec", names...)
	return cmd
}

// options checks the flags and turns them into the library's options, without the parent.
func (o *packFlags) options(p *program) (archive.PackOptions, error) {
	po := archive.PackOptions{
		Workers: o.workers, Name: o.name, Note: o.note, Block: int64(o.block), Exclude: o.exclude, Formats: p.disks,
		TrustTimes: o.trustTimes, Differential: o.differential, Live: o.live, Tries: o.tries,
		Progress: func(e archive.Progress) { p.bar.report(event(e)) },
	}
	bad := func(format string, args ...any) (archive.PackOptions, error) {
		return po, usage(fmt.Errorf(format, args...))
	}
	byEnding := codec.ForPath(p.codecs, o.out)
	switch {
	case o.codec != "":
		if po.Codec = codec.ByName(p.codecs, o.codec); po.Codec == nil {
			_, err := bad("--codec %q is not known", o.codec)
			return po, hint(err, "there are zstd, gzip, xz, lz4, none")
		}
		if byEnding != nil && byEnding.Name() != o.codec {
			p.note("note: %s ends like %s, and is %s as --codec says", o.out, byEnding.Name(), o.codec)
		}
	case byEnding != nil:
		po.Codec = byEnding
	case slices.Contains(otherEndings, strings.ToLower(filepath.Ext(o.out))):
		_, err := bad("%s: %s is the ending of a compression that tarvm does not write", o.out, filepath.Ext(o.out))
		return po, hint(err, "there are .tar.zst, .tar.gz, .tar.xz, .tar.lz4, .tar; --codec makes it one of these, whatever the ending")
	default:
		po.Codec = codec.ByName(p.codecs, "zstd")
	}
	if o.levelSet {
		if l := po.Codec.Levels(); o.level < l.Min || o.level > l.Max {
			return bad("--level %d: %s has %d to %d", o.level, po.Codec.Name(), l.Min, l.Max)
		}
		po.Level = &o.level
	}
	if o.block != 0 {
		if err := (delta.Grid{Block: int64(o.block)}).Check(); err != nil {
			return bad("--block-size: %w", err)
		}
	}
	if err := checkPatterns("--exclude", o.exclude); err != nil {
		return po, err
	}
	if o.workers < 0 || o.tries < 0 {
		return bad("--workers and --tries must not be negative")
	}
	for _, l := range o.labels {
		k, v, ok := strings.Cut(l, "=")
		if !ok || k == "" {
			return bad("--label %q: want KEY=VALUE", l)
		}
		if po.Labels == nil {
			po.Labels = make(map[string]string)
		}
		po.Labels[k] = v
	}
	stamp, flag := o.time, "--time"
	if stamp == "" {
		if s := os.Getenv("SOURCE_DATE_EPOCH"); s != "" {
			stamp, flag = "@"+s, "SOURCE_DATE_EPOCH"
		}
	}
	if stamp != "" {
		t, err := parseTime(stamp)
		if err != nil {
			return bad("%s: %w", flag, err)
		}
		po.Time = t
	}
	if o.parent == "" && (o.differential || o.trustTimes) {
		return bad("--differential and --trust-times need --parent")
	}
	if o.out == "" && !o.dryRun {
		_, err := bad("pack: no output given")
		return po, hint(err, "-o FILE names the archive; -o - writes it to standard output")
	}
	if p.json && o.out == "-" && !o.dryRun {
		return bad("--json needs standard output, and the archive goes there")
	}
	return po, nil
}

// otherEndings are those from which tar, and people, conclude that a file is what no codec here makes.
var otherEndings = []string{".bz2", ".bz", ".tbz", ".tbz2", ".tb2", ".lzma", ".tlz", ".lz", ".lzo", ".tzo", ".z", ".taz", ".br", ".7z", ".zip", ".rar"}

// checkPatterns refuses patterns that cannot match anything.
func checkPatterns(flag string, patterns []string) error {
	for _, pattern := range patterns {
		if _, err := vmdir.Match(pattern, "x"); err != nil {
			return usage(fmt.Errorf("%s: %w", flag, err))
		}
	}
	return nil
}

func (p *program) pack(ctx context.Context, dir string, o *packFlags) error {
	po, err := o.options(p)
	if err != nil {
		return err
	}
	s := p.newShelf(o.search)
	defer s.close()
	if o.parent != "" {
		if po.Parent, err = s.parent(ctx, o.parent, o.differential); err != nil {
			return err
		}
	}
	side := o.manifest
	if side == "" && o.out != "" && !special(o.out) {
		side = o.out + manifestSuffix
	}
	if err := checkOutputs(dir, o.out, side, s); err != nil {
		return err
	}
	began := time.Now()
	plan, err := archive.MakePlan(ctx, dir, po)
	if err != nil {
		return plainPath(err)
	}
	defer plan.Close()
	for _, l := range plan.Skipped {
		if p.verbose || l.Reason != "lock file" {
			p.note("%s: not packed: %s", name(l.Path), l.Reason)
		}
	}
	if o.dryRun {
		return p.printPlan(plan)
	}
	for _, l := range plan.Locks {
		if l.Stale || o.live {
			p.note("%s: %s", name(l.Path), l.Kind)
		}
	}
	r, err := p.packTo(ctx, plan, o.out, side, o.force)
	if err != nil {
		return plainPath(err)
	}
	for _, t := range r.Torn {
		p.warn("%s: changed while it was read; its state is what a power failure would leave", name(t))
	}
	for _, g := range r.Vanished {
		p.warn("%s: vanished before it was read; it is left out", name(g))
	}
	if p.json {
		return p.writeJSON(r)
	}
	kind := string(plan.Entry.Kind)
	p.note("%s: %s, %s for %s in %s, %.1f s; id %s", o.out, kind, size(r.Encoded), size(r.Stats.Bytes),
		count(r.Stats.Files, "file"), time.Since(began).Seconds(), r.ID.Short())
	return nil
}

// packTo writes the archive and its manifest, and leaves nothing when that fails.
func (p *program) packTo(ctx context.Context, plan *archive.Plan, path, side string, force bool) (*archive.Result, error) {
	out, err := p.output(ctx, path, force)
	if err != nil {
		return nil, err
	}
	defer out.Abort()
	var beside output
	var w io.Writer // stays a nil interface without a manifest
	if side != "" {
		if beside, err = p.output(ctx, side, force); err != nil {
			return nil, err
		}
		defer beside.Abort()
		w = beside
	}
	r, err := plan.Pack(ctx, out, w)
	if err != nil {
		return nil, err
	}
	if ctx.Err() != nil {
		return nil, context.Cause(ctx)
	}
	if err := commit(out, beside, side); err != nil {
		return nil, err
	}
	return r, nil
}

// commit gives an archive and its manifest, which is to be at side unless it is nil, their names. These may be those of an earlier archive and
// its manifest: after an error each archive has its own manifest, or none.
func commit(out, beside output, side string) error {
	if beside == nil {
		return out.Commit()
	}
	// What can fail has not failed when the first has its name. That is the manifest: an archive that has its name has its
	// manifest.
	err := out.Sync()
	if err == nil {
		err = beside.Commit()
	}
	if err == nil || beside.Named() {
		if oerr := out.Commit(); err == nil {
			err = oerr
		}
	}
	if err != nil && beside.Named() && !out.Named() {
		os.Remove(side) // it describes an archive that is not there
	}
	return err
}

// parent opens what an increment is packed against.
func (s *shelf) parent(ctx context.Context, path string, differential bool) (*archive.Manifest, error) {
	f, err := s.get(ctx, path)
	if err != nil {
		return nil, err
	}
	if differential && f.man.Entry.Kind != manifest.Full {
		line, missing, err := s.lineage(ctx, f)
		if err != nil {
			return nil, err
		}
		if f = line[len(line)-1]; missing != nil {
			return nil, hint(fmt.Errorf("%s: the full archive of its chain is not found: %s builds on entry %s (%s)", path, f.path, missing.ID, missing.Name),
				"looked in %s; --search DIR looks in a further directory", strings.Join(s.dirs(), ", "))
		}
	}
	if f.arch == nil {
		return f.man, nil
	}
	beside, err := s.get(ctx, f.path+manifestSuffix)
	switch {
	case err == nil && beside.arch == nil && beside.man.ID == f.man.ID:
		for _, o := range s.open {
			if o != beside {
				o.arch, o.man = nil, nil // of many small files, that is much memory
			}
		}
		return beside.man, nil
	case err == nil:
		s.p.note("note: %s%s is of another entry, and not used", f.path, manifestSuffix)
	case !errors.Is(err, fs.ErrNotExist):
		s.p.note("note: %v; the archive's own manifest is used", err)
	}
	return f.man, nil
}

// special reports whether path is something into which to write, rather than to replace: standard output, a
// pipe, a tape drive.
func special(path string) bool {
	if path == "-" {
		return true
	}
	st, err := os.Stat(path)
	return err == nil && !st.Mode().IsRegular() && !st.IsDir()
}

// An output is where an archive goes.
type output interface {
	io.Writer
	Sync() error
	Commit() error
	Abort()
	// Named reports whether it is a file that has its name.
	Named() bool
}

// direct is an output that cannot be taken back.
type direct struct {
	io.Writer
	c io.Closer // nil: not ours
}

// Sync does nothing: a pipe or a device has what it was given.
func (d *direct) Sync() error { return nil }

// Named is false: what a pipe or a device has is not removed.
func (d *direct) Named() bool { return false }

func (d *direct) Commit() error {
	if d.c == nil {
		return nil
	}
	c := d.c
	d.c = nil
	return c.Close()
}

func (d *direct) Abort() {
	if d.c != nil {
		d.c.Close() // what was written is of no use
	}
}

func (p *program) output(ctx context.Context, path string, force bool) (output, error) {
	if path == "-" {
		if isTerminal(p.stdout) {
			return nil, hint(usage(errors.New("an archive is not for a terminal")), "-o FILE, or a pipe")
		}
		return &direct{Writer: p.toPipe(ctx)}, nil
	}
	if special(path) {
		f, err := os.OpenFile(path, os.O_WRONLY, 0)
		if err != nil {
			return nil, plainPath(err)
		}
		if term.IsTerminal(int(f.Fd())) {
			f.Close()
			return nil, hint(usage(fmt.Errorf("%s: an archive is not for a terminal", path)), "-o FILE, or a pipe")
		}
		return &direct{f, f}, nil
	}
	return createFile(path, force)
}

// createFile starts a file that appears under its name when it is complete.
func createFile(path string, force bool) (*archive.Output, error) {
	if st, err := os.Stat(path); err == nil && st.IsDir() {
		return nil, hint(usage(fmt.Errorf("%s: is a directory", path)), "name a file in it")
	}
	o, err := archive.CreateOutput(path, force)
	if errors.Is(err, fs.ErrExist) {
		return nil, hint(plainPath(err), "--force overwrites it")
	}
	if err != nil {
		return nil, plainPath(err)
	}
	return o, nil
}

// checkOutputs refuses outputs that are in the packed directory, or would replace the parent.
func checkOutputs(dir, out, side string, s *shelf) error {
	top, err := os.Stat(dir)
	if err != nil {
		return plainPath(err)
	}
	if !top.IsDir() {
		return hint(usage(fmt.Errorf("%s: is not a directory", dir)), "pack takes the directory that holds the machine's files")
	}
	if out != "" && out == side {
		return usage(fmt.Errorf("%s: archive and manifest cannot be one file", out))
	}
	for _, path := range []string{out, side} {
		if path == "" || special(path) {
			continue
		}
		in, err := inside(path, top)
		if err != nil {
			return err
		}
		if in {
			return hint(usage(fmt.Errorf("%s: is in the directory that is to be packed", path)), "choose a place outside of %s", dir)
		}
		st, err := os.Stat(path)
		if err != nil {
			continue
		}
		for _, f := range s.open {
			if o, err := os.Stat(f.path); err == nil && os.SameFile(st, o) {
				return hint(usage(fmt.Errorf("%s: is the parent", path)), "an increment cannot replace what it builds on")
			}
		}
	}
	return nil
}

// inside reports whether path is below the directory top, however either of them is spelled.
func inside(path string, top os.FileInfo) (bool, error) {
	dir, err := filepath.Abs(filepath.Dir(path))
	if err != nil {
		return false, err
	}
	if dir, err = filepath.EvalSymlinks(dir); err != nil {
		return false, plainPath(err)
	}
	for {
		st, err := os.Stat(dir)
		if err != nil {
			return false, plainPath(err)
		}
		if os.SameFile(st, top) {
			return true, nil
		}
		up := filepath.Dir(dir)
		if up == dir {
			return false, nil
		}
		dir = up
	}
}

func (p *program) printPlan(plan *archive.Plan) error {
	if p.json {
		return p.writeJSON(plan)
	}
	e := &plan.Entry
	what := string(e.Kind)
	if e.Parent != nil {
		what += " on " + e.Parent.ID.Short()
	}
	if err := p.printf("%s: %s, %s, blocks of %s, %s, %s to read\n", quoted(e.Name), what, e.Codec, size(e.Block),
		count(len(plan.Items), "member"), size(plan.Bytes)); err != nil {
		return err
	}
	t := newTable("ACTION", "ROLE", "FORMAT", " SIZE", "NAME")
	for _, it := range plan.Items {
		n := "-"
		if it.Type == manifest.File {
			n = size(it.Size)
		}
		t.add(string(it.Action), dash(string(it.Role)), dash(it.Format), n, memberName(it.Path, it.Type))
	}
	for _, path := range plan.Removed {
		t.add("remove", "-", "-", "-", name(path))
	}
	for _, l := range plan.Locks {
		if !l.Stale {
			p.note("%s: %s: the machine seems to run", name(l.Path), l.Kind)
		}
	}
	return p.printf("%s", t)
}

func dash(s string) string {
	if s == "" {
		return "-"
	}
	return s
}

// memberName is a path with a slash behind a directory.
func memberName(p manifest.Path, t manifest.Type) string {
	if t == manifest.Dir {
		p += "/"
	}
	return name(p)
}
