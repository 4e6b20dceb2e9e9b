package cli

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"tarvm/archive"
	"tarvm/formats"
	"tarvm/formats/raw"
)

// convertFlags are those of tarvm image convert.
type convertFlags struct {
	imageFlags
	to       string
	options  []string
	base     string
	baseName string
	force    bool
	workers  int
}

// converted is what image convert writes with --json.
type converted struct {
	Source      string        `json:"source"`
	Output      string        `json:"output"`
	Files       []string      `json:"files"`
	Format      string        `json:"format"`
	VirtualSize int64         `json:"virtual_size"`
	Elapsed     time.Duration `json:"elapsed_ns"`
}

// suffixes say which format the name of an output asks for.
var suffixes = map[string]string{
	".vmdk": "vmdk", ".qcow2": "qcow2", ".vdi": "vdi", ".vhd": "vpc", ".vhdx": "vhdx", ".raw": raw.Name, ".img": raw.Name,
}

func (p *program) imageConvertCommand() *cobra.Command {
	var o convertFlags
	cmd := &cobra.Command{
		Use:   "convert IMAGE OUTPUT",
		Short: "Write a disk in another format",
		Long: `Writes what the guest sees on a disk, its parents included, as an image of another format. The format is that of -O, or
of OUTPUT's name. OUTPUT - is standard output, for the forms that are written front to back. The output, and what
belongs to it, appears under its name when it is complete.

` + p.convertOptions() + `
With --base the output builds on an image, holds only what differs from it, and names it (by --base-name, or relative
to the output).
` + imageHelp,
		Example: `  tarvm image convert vm-000002.vmdk vm.qcow2 -o compression=zstd
  tarvm image convert vm.qcow2 vm.vmdk -o subformat=streamOptimized
  tarvm image convert tuesday.tar.zst:disk.vdi - -O vmdk -o subformat=streamOptimized | ssh host 'cat > disk.vmdk'`,
		Args: args(2, 2, "an image and an output"),
		RunE: func(cmd *cobra.Command, a []string) error { return p.convert(cmd.Context(), a[0], a[1], &o) },
	}
	o.register(p, cmd)
	f := cmd.Flags()
	f.StringVarP(&o.to, "output-format", "O", "", "write this `FORMAT` (default: by OUTPUT's name)")
	f.StringArrayVarP(&o.options, "options", "o", nil, "`NAME=VALUE,...` of the output's form, see above (repeatable)")
	f.StringVarP(&o.base, "base", "B", "", "write only what differs from `IMAGE`, on which the output builds")
	f.StringVar(&o.baseName, "base-name", "", "the `NAME` of the base that the output records")
	f.BoolVar(&o.force, "force", false, "replace OUTPUT if it is there")
	f.IntVar(&o.workers, "workers", 0, "how many processors to use (default: all)")
	var names []string
	for _, e := range p.encoders() {
		names = append(names, e.Name())
	}
	fixed(cmd, "output-format", names...)
	p.jsonFlag(cmd)
	return cmd
}

// encoders are the formats that can be written.
func (p *program) encoders() []formats.Encoder {
	var list []formats.Encoder
	for _, f := range append([]formats.Format{raw.Format{}}, p.disks...) {
		if e, ok := f.(formats.Encoder); ok {
			list = append(list, e)
		}
	}
	return list
}

// convertOptions is the part of the help that lists what -o takes.
func (p *program) convertOptions() string {
	var b strings.Builder
	b.WriteString("Formats and subformats, the default first:\n")
	for _, e := range p.encoders() {
		fmt.Fprintf(&b, "  %-8s %s\n", e.Name(), strings.Join(e.Subformats(), ", "))
	}
	b.WriteString(`
Options of -o, where the format has them:
  subformat=NAME       see above
  compression=NAME     deflate, zstd or none
  level=1..9           fastest to smallest
  unit=SIZE            cluster, grain or block, such as 64K
  adapter=NAME         vmdk: ide, buslogic, lsilogic, legacyESX
  id=HEX               32 digits of which UUIDs are made (default: random)
`)
	return b.String()
}

func (p *program) encoder(o *convertFlags, output string) (formats.Encoder, error) {
	list := p.encoders()
	name := o.to
	if name == "" {
		name = suffixes[strings.ToLower(filepath.Ext(output))]
	}
	if name == "vhd" {
		name = "vpc"
	}
	var names []string
	for _, e := range list {
		if e.Name() == name {
			return e, nil
		}
		names = append(names, e.Name())
	}
	err := fmt.Errorf("format %q cannot be written", name)
	if name == "" {
		err = fmt.Errorf("%s: the name does not tell the format", output)
	}
	return nil, hint(usage(err), "-O FORMAT: %s", strings.Join(names, ", "))
}

// sourceDate is what SOURCE_DATE_EPOCH says, in seconds since 1970, if it is set.
func sourceDate() (unix int64, set bool, err error) {
	s := os.Getenv("SOURCE_DATE_EPOCH")
	if s == "" {
		return 0, false, nil
	}
	if unix, err = strconv.ParseInt(s, 10, 64); err != nil {
		return 0, false, usage(fmt.Errorf("SOURCE_DATE_EPOCH: %w", err))
	}
	return unix, true, nil
}

// encodeOptions reads -o.
func (o *convertFlags) encodeOptions() (formats.EncodeOptions, error) {
	eo := formats.EncodeOptions{Workers: o.workers, Unix: time.Now().Unix()}
	if n, set, err := sourceDate(); err != nil {
		return eo, err
	} else if set {
		eo.Unix = n
	}
	_, _ = rand.Read(eo.ID[:]) // never fails
	for _, option := range strings.Split(strings.Join(o.options, ","), ",") {
		if option == "" {
			continue
		}
		name, value, _ := strings.Cut(option, "=")
		var err error
		switch name {
		case "subformat":
			eo.Subformat = value
		case "compression":
			eo.Compression = value
		case "level":
			eo.Level, err = strconv.Atoi(value)
			if err == nil && (eo.Level < 1 || eo.Level > 9) {
				err = errors.New("levels are 1 to 9")
			}
		case "unit":
			eo.Unit, err = parseSize(value)
		case "adapter":
			eo.Adapter = value
		case "id":
			var b []byte
			if b, err = hex.DecodeString(strings.ReplaceAll(value, "-", "")); err == nil && len(b) != len(eo.ID) {
				err = fmt.Errorf("%d digits, want 32", 2*len(b))
			}
			copy(eo.ID[:], b)
		default:
			err = errors.New("unknown; there are subformat, compression, level, unit, adapter, id")
		}
		if err != nil {
			return eo, usage(fmt.Errorf("-o %s: %w", option, err))
		}
	}
	return eo, nil
}

func (p *program) convert(ctx context.Context, source, output string, o *convertFlags) (err error) {
	began := time.Now()
	enc, err := p.encoder(o, output)
	if err != nil {
		return err
	}
	eo, err := o.encodeOptions()
	if err != nil {
		return err
	}
	if eo.Subformat != "" && !slices.Contains(enc.Subformats(), eo.Subformat) {
		return hint(usage(fmt.Errorf("%s has no subformat %q", enc.Name(), eo.Subformat)), "there are %s", strings.Join(enc.Subformats(), ", "))
	}
	if output == "-" && !enc.Streams(&eo) {
		return hint(usage(fmt.Errorf("this form of %s is not written front to back", enc.Name())), "write it to a file; raw, vmdk with subformat=streamOptimized, and fixed vpc and vdi can go to a pipe")
	}
	i, err := p.openImage(ctx, source, &o.imageFlags, openContent)
	if err != nil {
		return err
	}
	defer i.close()
	if o.base != "" {
		base, err := p.convertBase(ctx, output, o, &eo)
		if err != nil {
			return err
		}
		defer base.close()
	}
	eo.Progress = p.imageProgress("convert", source, i.Size())
	out, err := p.createOutputs(ctx, output, o.force)
	if err != nil {
		return err
	}
	defer out.abort()
	if err := enc.Encode(ctx, out.Outputs, i, eo); err != nil {
		if errors.Is(err, formats.ErrUnsupported) {
			err = usage(err)
		}
		if pe := new(fs.PathError); errors.As(err, &pe) && slices.Contains(out.names, pe.Path) {
			return fmt.Errorf("%s: %w", pe.Path, pe.Err) // nothing is wrong with the source
		}
		return p.imageError(source, err)
	}
	if err := out.commit(); err != nil {
		return err
	}
	p.bar.clear()
	r := converted{source, output, out.names, enc.Name(), i.Size(), time.Since(began)}
	switch {
	case p.json && output != "-":
		return p.writeJSON(r)
	case output != "-":
		p.note("%s: %s, %s of disk in %.1f s", output, enc.Name(), size(r.VirtualSize), r.Elapsed.Seconds())
	}
	return nil
}

// convertBase opens the base, and says how the output names it.
func (p *program) convertBase(ctx context.Context, output string, o *convertFlags, eo *formats.EncodeOptions) (*image, error) {
	base, err := p.openImage(ctx, o.base, &imageFlags{dir: o.dir, search: o.search, parentFormat: o.parentFormat, force: o.imageFlags.force, live: o.live}, openContent)
	if err != nil {
		return nil, err
	}
	top := base.Layers[0].Image
	name := o.baseName
	if name == "" && base.tree != "" && output != "-" {
		if name, err = relative(filepath.Dir(output), base.path(base.Layers[0])); err != nil {
			base.close()
			return nil, err
		}
	}
	eo.Base = base
	eo.Parent = &formats.ParentRef{Format: top.Format, ID: top.ID}
	if name != "" {
		eo.Parent.Names = []string{name}
	}
	return base, nil
}

// relative is the path of a file, seen from dir.
func relative(dir, file string) (string, error) {
	dir, err := filepath.Abs(dir)
	if err != nil {
		return "", err
	}
	if file, err = filepath.Abs(file); err != nil {
		return "", err
	}
	if rel, err := filepath.Rel(dir, file); err == nil {
		return filepath.ToSlash(rel), nil
	}
	return file, nil // on another drive
}

// outputs are the files of an image that is written. They get their names together, the one that the user named last.
type outputs struct {
	formats.Outputs
	files []*archive.Output
	names []string
}

func (p *program) createOutputs(ctx context.Context, path string, overwrite bool) (*outputs, error) {
	if path == "-" {
		if isTerminal(p.stdout) {
			return nil, hint(usage(errors.New("an image is not for a terminal")), "OUTPUT is a file, or - with a pipe")
		}
		return &outputs{Outputs: formats.Outputs{Main: formats.NewStream(p.toPipe(ctx)), Name: "disk"}, names: []string{"-"}}, nil
	}
	o := &outputs{}
	create := func(path string) (formats.Output, error) {
		f, err := createFile(path, overwrite)
		if err != nil {
			return nil, err
		}
		o.files = append(o.files, f)
		o.names = append(o.names, path)
		return f, nil
	}
	var err error
	if o.Main, err = create(path); err != nil {
		return nil, err
	}
	o.Name = filepath.Base(path)
	o.Create = func(name string) (formats.Output, error) {
		if filepath.Base(name) != name {
			return nil, fmt.Errorf("%q is no name of a file", name)
		}
		return create(filepath.Join(filepath.Dir(path), name))
	}
	return o, nil
}

func (o *outputs) commit() error {
	for i := len(o.files) - 1; i >= 0; i-- {
		if err := o.files[i].Commit(); err != nil {
			return err
		}
	}
	return nil
}

func (o *outputs) abort() {
	for _, f := range o.files {
		f.Abort()
	}
}
