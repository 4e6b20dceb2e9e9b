package cli

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"tarvm/archive"
	"tarvm/archive/vmdir"
	"tarvm/formats"
	"tarvm/formats/layers"
	"tarvm/formats/raw"
	"tarvm/manifest"
)

// imageFlags say how an image is opened.
type imageFlags struct {
	format, parentFormat string
	parents              []string
	dir                  string
	search               []string
	snapshot             string
	force                bool
	live                 bool
}

func (o *imageFlags) register(p *program, cmd *cobra.Command) {
	f := cmd.Flags()
	f.StringVarP(&o.format, "format", "f", "", "the image's `FORMAT` (default: by its content; raw when no format claims it)")
	f.StringVar(&o.parentFormat, "parent-format", "", "the `FORMAT` of parents whose format the image does not record")
	f.StringArrayVar(&o.parents, "parent", nil, "`IMAGE` on which the image builds, instead of the one that it names (repeatable, nearest first)")
	f.StringVar(&o.dir, "dir", "", "look in `DIR` and below for parents and extents (default: the image's directory)")
	f.StringArrayVar(&o.search, "search", nil, "look for an archive's ancestors in `DIR`, too (repeatable)")
	f.StringVar(&o.snapshot, "snapshot", "", "the state that the image keeps under this ID or `NAME`, instead of the present one")
	f.BoolVar(&o.force, "force-parent", false, "take a parent that was written to since the image was made on it, or another one")
	f.BoolVar(&o.live, "live", false, "read a disk that is in use: what is read may be torn")
	fixed(cmd, "format", p.formatNames()...)
	fixed(cmd, "parent-format", p.formatNames()...)
}

func (p *program) formatNames() []string {
	list := []string{raw.Name}
	for _, f := range p.disks {
		list = append(list, f.Name())
	}
	return list
}

// image is a disk that was opened, and what must be closed behind it.
type image struct {
	*layers.Disk
	name string // as the user calls it
	tree string // where Path of the layers is; empty: in an archive
	root *os.Root
	done []func()
}

func (i *image) close() {
	for _, f := range i.done {
		f()
	}
}

// path returns the name of a layer's file for the user.
func (i *image) path(l layers.Layer) string {
	if i.tree == "" {
		return i.name
	}
	if filepath.IsAbs(l.Path) {
		return l.Path
	}
	return filepath.Join(i.tree, filepath.FromSlash(l.Path))
}

const imageHelp = `
IMAGE is a file, with the files and parents that it names beside it; a bundle's directory; or ARCHIVE:MEMBER, a disk of
an entry, read from its chain of archives without unpacking. Parents that the image does not name are found by the id
that it records.`

// How an image is opened.
const (
	openPlain   = iota // for its structures
	openAlone          // without parents
	openContent        // for its data, which nobody may change meanwhile
)

// openImage opens what an argument names. Errors begin with it.
func (p *program) openImage(ctx context.Context, arg string, o *imageFlags, how int) (*image, error) {
	i := &image{name: arg}
	d, name, err := p.findImage(ctx, arg, o, i)
	if err != nil {
		i.close()
		return nil, err
	}
	lo := layers.Options{
		Formats: p.disks, Format: o.format, ParentFormat: o.parentFormat, Force: o.force, Snapshot: o.snapshot, Shallow: how == openAlone,
	}
	for _, path := range o.parents {
		abs, err := filepath.Abs(path)
		if err != nil {
			i.close()
			return nil, err
		}
		f, err := os.Open(path)
		if err == nil {
			err = d.Add(abs, f)
		}
		if err != nil {
			i.close()
			return nil, plainPath(err)
		}
		lo.Parents = append(lo.Parents, abs)
	}
	i.Disk, err = layers.Open(d, name, lo)
	if err != nil {
		i.close()
		return nil, p.imageError(arg, err)
	}
	if how == openContent {
		if err := p.checkInUse(ctx, i, o); err != nil {
			i.close()
			return nil, err
		}
	}
	if l := i.Layers[0]; l.Image.Format == raw.Name && o.format == "" && i.tree != "" {
		if src, err := d.Open(name); err == nil {
			if a, err := archive.Open(src, p.codecs); err == nil {
				i.close()
				return nil, hint(usage(fmt.Errorf("%s: is an archive", arg)), "%s", imagesIn(arg, a))
			}
		}
	}
	return i, nil
}

// checkInUse refuses an image that a running machine may be writing to.
func (p *program) checkInUse(ctx context.Context, i *image, o *imageFlags) error {
	if i.root == nil || o.live {
		return nil
	}
	return refuseInUse(ctx, i.root, i.name, i.Layers, "suspend the machine or shut it down; --live reads the disk nevertheless, and what is read may be torn")
}

// refuseInUse refuses images in root that a running machine may be writing to. arg is what the user calls them.
func refuseInUse(ctx context.Context, root *os.Root, arg string, images []layers.Layer, advice string) error {
	var paths []manifest.Path
	for _, l := range images {
		if fs.ValidPath(l.Path) {
			paths = append(paths, manifest.Path(l.Path))
		}
	}
	locks, err := vmdir.InUse(ctx, root, paths)
	if err != nil {
		return err
	}
	for _, l := range locks {
		if l.Stale {
			continue
		}
		what := l.Kind
		if l.Owner != "" {
			what += ", " + l.Owner
		}
		return hint(fmt.Errorf("%s: %s seems to be in use (%s)", arg, name(l.Path), what), "%s", advice)
	}
	return nil
}

// imagesIn says how the disks of an archive are named.
func imagesIn(arg string, a *archive.Archive) string {
	var list []string
	m := a.Manifest()
	for i := range m.Members {
		if x := &m.Members[i]; x.Role == "disk" && len(list) < 5 {
			list = append(list, quoted(arg+":"+string(x.Path)))
		}
	}
	if len(list) == 0 {
		return "ARCHIVE:MEMBER names a file in it"
	}
	return "its disks are " + strings.Join(list, ", ")
}

// imageError says what can be done.
func (p *program) imageError(arg string, err error) error {
	return p.parentHint(fmt.Errorf("%s: %w", arg, plainPath(err)))
}

// parentHint adds what the user can do about a parent that is not found, or not the right one.
func (p *program) parentHint(err error) error {
	var other *layers.IDError
	switch {
	case errors.As(err, &other):
		return hint(err, "the parent was written to after the image was made on it, or is another disk: find the right one (--parent, --dir), or take it with --force-parent if you know better")
	case errors.Is(err, layers.ErrFormat):
		return hint(err, "--parent-format FORMAT says it; raw or %s", strings.Join(p.formatNames()[1:], ", "))
	case errors.Is(err, formats.ErrNoParent):
		return hint(err, "--dir DIR looks in a larger directory, --parent IMAGE names it")
	}
	return err
}

// findImage opens the tree that holds what an argument names.
func (p *program) findImage(ctx context.Context, arg string, o *imageFlags, i *image) (*layers.Dir, string, error) {
	if _, err := os.Stat(arg); err == nil {
		return p.findFile(arg, o, i)
	}
	if arg == "-" {
		return nil, "", hint(usage(errors.New("an image cannot be read from a pipe")), "write it to a file first")
	}
	for at := 1; at < len(arg); at++ {
		if arg[at] != ':' {
			continue
		}
		if st, err := os.Stat(arg[:at]); err == nil && st.Mode().IsRegular() {
			return p.findMember(ctx, arg[:at], arg[at+1:], o, i)
		}
	}
	_, err := os.Stat(arg)
	return nil, "", plainPath(err)
}

func (p *program) findFile(arg string, o *imageFlags, i *image) (*layers.Dir, string, error) {
	tree, name, err := layers.At(arg)
	if err != nil {
		return nil, "", plainPath(err)
	}
	if o.dir != "" {
		abs, err := filepath.Abs(o.dir)
		if err != nil {
			return nil, "", err
		}
		rel, err := filepath.Rel(abs, filepath.Join(tree, name))
		if err != nil || !filepath.IsLocal(rel) {
			return nil, "", usage(fmt.Errorf("%s: is not below --dir %s", arg, o.dir))
		}
		tree, name = abs, filepath.ToSlash(rel)
	}
	root, err := os.OpenRoot(tree)
	if err != nil {
		return nil, "", plainPath(err)
	}
	d := layers.NewDir(root.FS(), tree)
	i.tree, i.root = tree, root
	i.done = append(i.done, func() {
		d.Close() // only read
		root.Close()
	})
	return d, name, nil
}

func (p *program) findMember(ctx context.Context, path, member string, o *imageFlags, i *image) (*layers.Dir, string, error) {
	s := p.newShelf(o.search)
	i.done = append(i.done, s.close)
	if _, err := s.archive(ctx, path); err != nil {
		return nil, "", err
	}
	c, err := s.chain(ctx)
	if err != nil {
		return nil, "", err
	}
	fsys := c.FS(c.Head())
	if !fs.ValidPath(member) {
		return nil, "", usage(fmt.Errorf("%s: %q is no path of a member", path, member))
	}
	st, err := fs.Stat(fsys, member)
	if err == nil && st.IsDir() {
		member += "/DiskDescriptor.xml"
		_, err = fs.Stat(fsys, member)
	}
	if err != nil {
		return nil, "", hint(fmt.Errorf("%s: no member %s", path, quoted(member)), "tarvm list %s", quoted(path))
	}
	d := layers.NewDir(fsys, "")
	i.done = append(i.done, func() { d.Close() })
	return d, member, nil
}

func (p *program) imageCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "image",
		Short: "Look into virtual disks, compare and convert them",
		Long: `Reads the disks of all hypervisors: raw, VMDK, QCOW2, QED, VDI, VHD, VHDX and Parallels, with the files and parents on
which they build. Nothing is ever written to an image that is read.
` + imageHelp,
		Args:                       noVerb,
		SuggestionsMinimumDistance: 2,
		RunE:                       p.onlyHelp,
	}
	cmd.AddCommand(p.imageInfoCommand(), p.imageMapCommand(), p.imageCheckCommand(), p.imageCompareCommand(), p.imageConvertCommand(), p.imageIDCommand())
	return cmd
}

func (p *program) imageInfoCommand() *cobra.Command {
	var o imageFlags
	cmd := &cobra.Command{
		Use:   "info IMAGE...",
		Short: "Describe a disk and what it builds on",
		Long: `Says what an image's headers and tables say: format, sizes, ids, what is allocated, snapshots, parents, and what is wrong
with it as far as that is seen in passing; tarvm image check looks for more.
` + imageHelp,
		Example: `  tarvm image info vm-000002.vmdk
  tarvm image info monday.tar.zst:disk.qcow2 --json`,
		Args: args(1, -1, "images"),
		RunE: func(cmd *cobra.Command, a []string) error {
			for n, arg := range a {
				if err := p.imageInfo(cmd.Context(), arg, &o, n > 0); err != nil {
					return err
				}
			}
			return nil
		},
	}
	o.register(p, cmd)
	p.jsonFlag(cmd)
	return cmd
}

func (p *program) imageInfo(ctx context.Context, arg string, o *imageFlags, again bool) error {
	var alone error
	i, err := p.openImage(ctx, arg, o, openPlain)
	if err != nil && (errors.Is(err, formats.ErrNoParent) || errors.Is(err, layers.ErrFormat) || errors.As(err, new(*layers.IDError))) {
		// What there is can be described.
		alone = err
		i, err = p.openImage(ctx, arg, o, openAlone)
	}
	if err != nil {
		return err
	}
	defer i.close()
	info, err := layers.Describe(ctx, i.Disk)
	if err != nil {
		return fmt.Errorf("%s: %w", arg, err)
	}
	if alone != nil {
		info.Problems = append(info.Problems, formats.Problem{Severity: formats.Risk, Structure: "parent", Offset: -1, Text: strings.TrimPrefix(alone.Error(), arg+": ")})
	}
	if p.json {
		return p.writeJSON(info)
	}
	var b strings.Builder
	if again {
		b.WriteString("\n")
	}
	list := info.Layers
	if len(list) == 0 {
		list = []*layers.Info{info}
	}
	for n, l := range list {
		if n > 0 {
			b.WriteString("\nbuilds on\n")
		}
		path := arg
		if n < len(i.Layers) && i.tree != "" {
			path = i.path(i.Layers[n])
		} else if n > 0 {
			path = l.Path
		}
		if n == 0 {
			l.Problems = info.Problems
		}
		writeInfo(&b, quoted(path), l)
	}
	return p.printf("%s", b.String())
}

func writeInfo(b *strings.Builder, path string, i *layers.Info) {
	row := func(name, value string) { fmt.Fprintf(b, "  %-18s%s\n", name, printable(value)) }
	fmt.Fprintf(b, "%s\n", path)
	format := i.Format
	if i.Subformat != "" {
		format += " (" + i.Subformat + ")"
	}
	row("format", format)
	row("virtual size", fmt.Sprintf("%s (%d bytes)", size(i.VirtualSize), i.VirtualSize))
	row("file size", size(i.FileSize))
	if i.Unit > 0 {
		row("unit", size(i.Unit))
	}
	c := i.Content
	for _, x := range []struct {
		name string
		n    int64
	}{{"data", c.Data}, {"compressed", c.Compressed}, {"zero", c.Zero}, {"not stored", c.Hole}, {"of the parent", c.Parent}} {
		if x.n > 0 {
			text := fmt.Sprintf("%s, %s", size(x.n), percent(x.n, i.VirtualSize))
			if x.name == "compressed" {
				text += fmt.Sprintf(" (%s in the file)", size(c.Stored))
			}
			row(x.name, text)
		}
	}
	if i.ID != "" {
		row("id", i.ID)
	}
	if q := i.Parent; q != nil {
		var what []string
		if len(q.Names) > 0 {
			what = append(what, quoted(q.Names[0]))
		}
		if q.Format != "" {
			what = append(what, q.Format)
		}
		if q.ID != "" {
			what = append(what, "id "+q.ID)
		}
		row("parent", strings.Join(what, ", "))
	}
	for _, f := range i.Facts {
		row(f.Name, f.Value)
	}
	for _, s := range i.Snapshots {
		text := quoted(s.ID)
		if s.Name != "" && s.Name != s.ID {
			text += " " + quoted(s.Name)
		}
		if s.Unix != 0 {
			text += ", " + time.Unix(s.Unix, 0).UTC().Format("2006-01-02 15:04:05 UTC")
		}
		if s.StateSize > 0 {
			text += ", with " + size(s.StateSize) + " of saved state"
		}
		row("snapshot", text)
	}
	for _, q := range i.Problems {
		row(q.Severity.String(), q.String())
	}
}

func (p *program) imageMapCommand() *cobra.Command {
	var o imageFlags
	cmd := &cobra.Command{
		Use:   "map IMAGE",
		Short: "List where the guest's bytes are",
		Long: `Lists the runs of a disk: guest offset, length, whether it is data, compressed, zero, a hole (not stored anywhere), and in
which file, and where in it, the bytes are. With --json it is what qemu-img map writes, and more.
` + imageHelp,
		Example: `  tarvm image map vm-000002.vmdk`,
		Args:    args(1, 1, "an image"),
		RunE:    func(cmd *cobra.Command, a []string) error { return p.imageMap(cmd.Context(), a[0], &o) },
	}
	o.register(p, cmd)
	p.jsonFlag(cmd)
	return cmd
}

// mapped is a run as qemu-img map writes it, with our own fields behind.
type mapped struct {
	Start      int64  `json:"start"`
	Length     int64  `json:"length"`
	Depth      int    `json:"depth"`
	Present    bool   `json:"present"`
	Zero       bool   `json:"zero"`
	Data       bool   `json:"data"`
	Compressed bool   `json:"compressed"`
	Offset     *int64 `json:"offset,omitempty"` // of data that is not compressed
	Kind       string `json:"kind"`
	File       string `json:"file,omitempty"` // of the layer, in its directory
	Part       int    `json:"part,omitempty"` // which of the layer's files
	Host       *int64 `json:"host,omitempty"` // of compressed data
	Stored     int64  `json:"stored,omitempty"`
}

func (p *program) imageMap(ctx context.Context, arg string, o *imageFlags) error {
	i, err := p.openImage(ctx, arg, o, openPlain)
	if err != nil {
		return err
	}
	defer i.close()
	// A map may have millions of lines.
	out := bufio.NewWriter(p.stdout)
	n := 0
	if !p.json {
		if _, err := fmt.Fprintf(out, "%14s  %14s  %-10s  %5s  %14s  %s\n", "OFFSET", "LENGTH", "KIND", "DEPTH", "AT", "FILE"); err != nil {
			return err
		}
	}
	for e, err := range i.Extents(0, i.Size()) {
		if err != nil {
			return fmt.Errorf("%s: %w", arg, err)
		}
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		stored := e.Kind == formats.Data || e.Kind == formats.Compressed
		if p.json {
			m := mapped{
				Start: e.Offset, Length: e.Length, Depth: e.Depth, Present: e.Kind != formats.Hole && e.Kind != formats.Parent,
				Zero: !stored, Data: stored, Compressed: e.Kind == formats.Compressed, Kind: e.Kind.String(), Stored: e.Stored, Part: e.File,
			}
			switch e.Kind {
			case formats.Data:
				m.Offset = &e.Host
			case formats.Compressed:
				m.Host = &e.Host
			}
			if stored {
				m.File = i.Layers[e.Depth].Path
			}
			if err := jsonItem(out, n, m); err != nil {
				return err
			}
		} else {
			at, file := "", ""
			if stored {
				at, file = fmt.Sprint(e.Host), quoted(i.Layers[e.Depth].Path)
				if e.File > 0 {
					file += fmt.Sprintf(" (part %d)", e.File)
				}
			}
			if _, err := fmt.Fprintf(out, "%14d  %14d  %-10s  %5d  %14s  %s\n", e.Offset, e.Length, e.Kind, e.Depth, at, file); err != nil {
				return err
			}
		}
		n++
	}
	if p.json {
		if err := jsonEnd(out, n); err != nil {
			return err
		}
	}
	return out.Flush()
}

func (p *program) imageIDCommand() *cobra.Command {
	var o imageFlags
	var workers int
	cmd := &cobra.Command{
		Use:   "id IMAGE...",
		Short: "Say the digest of what the guest sees",
		Long: `Reads disks and writes their disk ids: a digest of the guest's bytes and the disk's size that does not depend on format,
subformat, cluster size and parents. Zeros that are stored and what is not stored are the same.
` + imageHelp,
		Example: `  tarvm image id vm.vmdk vm.qcow2`,
		Args:    args(1, -1, "images"),
		RunE: func(cmd *cobra.Command, a []string) error {
			type result struct {
				Image string        `json:"image"`
				ID    layers.DiskID `json:"id"`
				Size  int64         `json:"virtual_size"`
			}
			all := []result{}
			for _, arg := range a {
				i, err := p.openImage(cmd.Context(), arg, &o, openContent)
				if err != nil {
					return err
				}
				id, err := layers.ID(cmd.Context(), i, formats.EncodeOptions{Workers: workers, Progress: p.imageProgress("read", arg, i.Size())})
				i.close()
				if err != nil {
					return p.imageError(arg, err)
				}
				all = append(all, result{arg, id, i.Size()})
				if !p.json {
					p.bar.clear()
					if err := p.printf("%s  %s\n", id, quoted(arg)); err != nil {
						return err
					}
				}
			}
			if p.json {
				return p.writeJSON(all)
			}
			return nil
		},
	}
	o.register(p, cmd)
	cmd.Flags().IntVar(&workers, "workers", 0, "how many processors to use (default: all)")
	p.jsonFlag(cmd)
	return cmd
}

func (p *program) imageProgress(phase, path string, total int64) func(done int64) {
	return func(done int64) { p.bar.report(event{Phase: phase, Path: path, Done: done, Total: total}) }
}

func (p *program) imageCompareCommand() *cobra.Command {
	var o imageFlags
	var strict bool
	var workers int
	cmd := &cobra.Command{
		Use:   "compare A B",
		Short: "Compare what guests see on two disks",
		Long: `Compares the bytes of two disks of any formats. Where one is longer, the rest must be zero; with --strict the sizes must be
the same. The exit code is 0 when they are equal, and 1 when they differ; the ranges are listed, the first ten
without -v. The flags that say how an image is opened hold for both.
` + imageHelp,
		Example: `  tarvm image compare vm.vmdk vm.qcow2
  tarvm image compare monday.tar.zst:disk.vmdk tuesday.tar.zst:disk.vmdk`,
		Args: args(2, 2, "two images"),
		RunE: func(cmd *cobra.Command, a []string) error {
			return p.imageCompare(cmd.Context(), a[0], a[1], &o, strict, workers)
		},
	}
	o.register(p, cmd)
	cmd.Flags().BoolVar(&strict, "strict", false, "the sizes must be the same, too")
	cmd.Flags().IntVar(&workers, "workers", 0, "how many processors to use (default: all)")
	p.jsonFlag(cmd)
	return cmd
}

func (p *program) imageCompare(ctx context.Context, a, b string, o *imageFlags, strict bool, workers int) error {
	x, err := p.openImage(ctx, a, o, openContent)
	if err != nil {
		return err
	}
	defer x.close()
	y, err := p.openImage(ctx, b, o, openContent)
	if err != nil {
		return err
	}
	defer y.close()
	total := max(x.Size(), y.Size())
	d, err := layers.Compare(ctx, x, y, formats.EncodeOptions{Workers: workers, Progress: p.imageProgress("compare", a, total)})
	if err != nil {
		return err
	}
	p.bar.clear()
	sizes := d.Sizes[0] != d.Sizes[1]
	same := d.Count == 0 && !(strict && sizes)
	switch {
	case p.json:
		err = p.writeJSON(d)
	case same && sizes:
		err = p.printf("equal, but for the sizes: %d and %d bytes\n", d.Sizes[0], d.Sizes[1])
	case same:
		err = p.printf("equal\n")
	case d.Count == 0:
		err = p.printf("the sizes differ: %d and %d bytes\n", d.Sizes[0], d.Sizes[1])
	default:
		err = p.printDifference(d)
	}
	if err == nil && !same {
		return errDifferent
	}
	return err
}

func (p *program) printDifference(d *layers.Difference) error {
	const few = 10
	list := d.Ranges
	if !p.verbose && len(list) > few {
		list = list[:few]
	}
	for _, r := range list {
		if err := p.printf("%d bytes at %d differ\n", r.Length, r.Offset); err != nil {
			return err
		}
	}
	if n := d.Count - int64(len(list)); n > 0 {
		if err := p.printf("and %d ranges more\n", n); err != nil {
			return err
		}
	}
	return p.printf("%s of %s differ\n", size(d.Bytes), size(max(d.Sizes[0], d.Sizes[1])))
}

func (p *program) imageCheckCommand() *cobra.Command {
	var o imageFlags
	var alone bool
	cmd := &cobra.Command{
		Use:   "check IMAGE...",
		Short: "Look for damage in disks",
		Long: `Looks for what is inconsistent in an image and its parents: references past the end, units used twice or lost,
structures that overlap, wrong checksums and counters, copies that differ, broken links between parent and child.

  risk  some of the guest's data cannot be read, is wrong, or may be overwritten when the image is used: exit code 4
  leak  space in the file is lost; the data is whole: exit code 3
  note  it is odd; the data is whole

Nothing is repaired in place: tarvm image convert makes a sound image of what can be read.
` + imageHelp,
		Example: `  tarvm image check vm.qcow2`,
		Args:    args(1, -1, "images"),
		RunE:    func(cmd *cobra.Command, a []string) error { return p.imageCheck(cmd.Context(), a, &o, alone) },
	}
	o.register(p, cmd)
	cmd.Flags().BoolVar(&alone, "alone", false, "only the image, not its parents")
	p.jsonFlag(cmd)
	return cmd
}

// checked is what image check writes with --json.
type checked struct {
	Image  string         `json:"image"`
	OK     bool           `json:"ok"` // nothing but notes
	Risk   bool           `json:"risk"`
	Error  string         `json:"error,omitempty"` // why it cannot be opened
	Layers []checkedLayer `json:"layers"`
}

type checkedLayer struct {
	Path     string            `json:"path"`
	Format   string            `json:"format"`
	Problems []formats.Problem `json:"problems"`
	More     int64             `json:"more,omitempty"` // problems that are not listed
}

// maxProblems is how many problems of a layer are listed.
const maxProblems = 1000

func (p *program) imageCheck(ctx context.Context, paths []string, o *imageFlags, alone bool) error {
	all := []*checked{}
	risk := false
	for _, arg := range paths {
		c, err := p.checkImage(ctx, arg, o, alone)
		if err != nil {
			return err
		}
		all = append(all, c)
		risk = risk || c.Risk
		p.warned = p.warned || !c.OK
		if !p.json {
			if err := p.printChecked(c); err != nil {
				return err
			}
		}
	}
	if p.json {
		if err := p.writeJSON(all); err != nil {
			return err
		}
	}
	if risk {
		return fmt.Errorf("%w: data is at risk", errUnverified)
	}
	return nil
}

func (p *program) checkImage(ctx context.Context, arg string, o *imageFlags, alone bool) (*checked, error) {
	c := &checked{Image: arg, OK: true, Layers: []checkedLayer{}}
	how := openPlain
	if alone {
		how = openAlone
	}
	i, err := p.openImage(ctx, arg, o, how)
	if err != nil {
		if !errors.Is(err, formats.ErrCorrupt) && !errors.Is(err, formats.ErrNoParent) && !errors.As(err, new(*layers.IDError)) {
			return nil, err
		}
		c.OK, c.Risk, c.Error = false, true, strings.TrimPrefix(err.Error(), arg+": ")
		if alone {
			return c, nil
		}
		// What there is can be checked.
		if i, err = p.openImage(ctx, arg, o, openAlone); err != nil {
			return c, nil //nolint:nilerr // it is reported
		}
	}
	defer i.close()
	if err := p.checkInUse(ctx, i, o); err != nil {
		return nil, err
	}
	for _, l := range i.Layers {
		r := checkedLayer{Path: l.Path, Format: l.Image.Format, Problems: []formats.Problem{}}
		report := func(q formats.Problem) {
			if q.Severity != formats.Note {
				c.OK = false
			}
			c.Risk = c.Risk || q.Severity == formats.Risk
			if len(r.Problems) < maxProblems {
				r.Problems = append(r.Problems, q)
			} else {
				r.More++
			}
		}
		for _, q := range l.Image.Problems {
			report(q)
		}
		if l.Image.Check != nil {
			if err := l.Image.Check(ctx, report); err != nil {
				return nil, fmt.Errorf("%s: %w", arg, err)
			}
		}
		c.Layers = append(c.Layers, r)
	}
	return c, nil
}

func (p *program) printChecked(c *checked) error {
	var b strings.Builder
	if c.Error != "" {
		fmt.Fprintf(&b, "%s: risk: %s\n", quoted(c.Image), printable(c.Error))
	}
	n := 0
	for k, l := range c.Layers {
		path := c.Image
		if k > 0 {
			path = l.Path
		}
		for _, q := range l.Problems {
			fmt.Fprintf(&b, "%s: %s: %s\n", quoted(path), q.Severity, printable(q.String()))
		}
		if l.More > 0 {
			fmt.Fprintf(&b, "%s: and %d problems more\n", quoted(path), l.More)
		}
		n += len(l.Problems)
	}
	switch {
	case c.Risk:
		fmt.Fprintf(&b, "%s: data is at risk\n", quoted(c.Image))
	case !c.OK:
		fmt.Fprintf(&b, "%s: the data is whole, space is lost\n", quoted(c.Image))
	default:
		what := "image"
		if len(c.Layers) > 1 {
			what = fmt.Sprintf("image and %s", count(len(c.Layers)-1, "parent"))
		}
		fmt.Fprintf(&b, "%s: ok, %s\n", quoted(c.Image), what)
	}
	return p.printf("%s", b.String())
}

// jsonItem writes the element n of a list that is too long to keep.
func jsonItem(w io.Writer, n int, v any) error {
	b, err := json.Marshal(v)
	if err != nil {
		return err
	}
	before := ",\n "
	if n == 0 {
		before = "["
	}
	_, err = fmt.Fprintf(w, "%s%s", before, b)
	return err
}

// jsonEnd ends a list of n elements.
func jsonEnd(w io.Writer, n int) error {
	end := "]\n"
	if n == 0 {
		end = "[]\n"
	}
	_, err := io.WriteString(w, end)
	return err
}
