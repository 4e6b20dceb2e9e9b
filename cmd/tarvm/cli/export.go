package cli

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"tarvm/archive"
	"tarvm/formats"
	"tarvm/formats/machine"
	"tarvm/ovf"
	"tarvm/ovf/target"
)

// exportFlags are those of tarvm export and tarvm import.
type exportFlags struct {
	sourceFlags
	to          string
	out         string
	profile     string
	name        string
	hw          string
	ovf         string
	digest      string
	format      string
	subformat   string
	compression string
	level       int
	workers     int
	gzip        bool
	chunk       sizeValue
	key, cert   string
	imageDir    string
	keep, renew bool
	strict      bool
	dryRun      bool
	force       bool
	within      bool // the output is a step on the way to another one
	nets        []string
	base        string
	start       string
	chainFlags
}

// exported is what tarvm export writes with --json.
type exported struct {
	*target.Plan
	Source  string        `json:"source"`
	Output  string        `json:"output,omitempty"`
	DryRun  bool          `json:"dry_run,omitempty"`
	Elapsed time.Duration `json:"elapsed_ns"`
}

// registerOutput adds the flags that say how a machine is written.
func (o *exportFlags) registerOutput(p *program, cmd *cobra.Command) {
	f := cmd.Flags()
	f.StringVar(&o.name, "name", "", "`NAME` of the machine in the output (default: its own)")
	f.StringVar(&o.hw, "hw", "", "`VERSION` of the virtual hardware, such as vmx-13 (default: one that most installations know)")
	f.StringVar(&o.format, "disk-format", "", "`FORMAT` of the disks, of those that the target takes, see above")
	f.StringVar(&o.subformat, "subformat", "", "`SUBFORMAT` of the disks, as tarvm image convert lists them")
	f.StringVar(&o.compression, "compression", "", "the `METHOD`, deflate or zstd, where the disks' format can be compressed")
	f.IntVar(&o.level, "level", 0, "the `LEVEL` of compression, 1 (fastest) to 9 (smallest)")
	f.IntVar(&o.workers, "workers", 0, "use `N` processors (default: all)")
	f.StringVar(&o.imageDir, "image-dir", "", "the `DIR` in which the configuration says that the disks are (libvirt, xl; default: where they are written)")
	f.StringArrayVar(&o.nets, "net", nil, "attach the network adapters of one network to another, `OLD=NEW`: names, or kinds (nat, bridged, hostonly, internal, none); repeatable")
	f.BoolVar(&o.keep, "keep-identity", false, "keep UUIDs and MAC addresses (the default)")
	f.BoolVar(&o.renew, "new-identity", false, "new UUIDs and MAC addresses, for a second machine beside the first")
	f.BoolVar(&o.strict, "strict", false, "write nothing if something of the machine cannot be expressed")
	f.BoolVar(&o.dryRun, "dry-run", false, "only say what would be written, and what would be lost")
	fixed(cmd, "compression", "deflate", "zstd")
	p.completeProfile(cmd)
	p.jsonFlag(cmd)
}

func (p *program) exportCommand() *cobra.Command {
	var o exportFlags
	cmd := &cobra.Command{
		Use:   "export SOURCE... -o OUT [--to FORM]",
		Short: "Write a machine in a form that another hypervisor takes, or an entry for another repository",
		Long: `Writes a machine, with what its disks hold now, as a package or as a directory that another hypervisor takes.
` + sourceHelp + `

` + p.targetsHelp(true) + `
What the form cannot express is listed; --dry-run lists it before the work, --strict refuses.

Several machines, or all of a package, become a collection in one OVF package, called --name. With --base the package
has the disks of another state of the machine, and of the machine's own disks what differs from these
(ovf:parentRef); tarvm import makes whole disks of them, other importers mostly refuse them.

An entry of the repository (#3) is a source like others. Without --to, into a file that is not named like a form, its whole
chain is written, one archive behind the other, as tarvm import and tarvm unpack - take it; --full makes one archive of it,
--have writes what somebody lacks who has an earlier one.

The output appears under its name when it is complete. A form of one file can go to a pipe, with -o -: a tar's header
needs sizes, so that disks are compressed twice then, once to measure them. Nothing is stored on the way. The same
machine gives the same bytes each time, in a file and in a pipe.`,
		Example: `  tarvm export vm -o vm.ova
  tarvm export tuesday.tar.zst -o vm.ova --profile virtualbox
  tarvm export vm -o /srv/vm --to libvirt
  tarvm export db web1 web2 -o app.ova --start-order db,web1+web2 --net nat='VM Network'
  tarvm export tuesday.tar.zst --base monday.tar.zst -o tuesday.ova
  tarvm export '#7' -o web.tar.zst
  tarvm export vm -o - --to xva | ssh xen 'xe vm-import filename=/dev/stdin'`,
		Args: args(1, -1, "machines"),
		RunE: func(cmd *cobra.Command, a []string) error { return p.export(cmd.Context(), a, &o) },
	}
	o.register(p, cmd)
	f := cmd.Flags()
	f.StringVarP(&o.out, "output", "o", "", "where it goes: a `FILE` or a directory; - is standard output")
	f.StringVar(&o.to, "to", "", "the `FORM`, see above (default: by OUT's ending)")
	f.StringVar(&o.profile, "profile", "", "the `PROFILE`, for whom the form is written, see above")
	f.StringVar(&o.ovf, "ovf", "", "`VERSION` of the OVF envelope: 1.1 (default) or 2.0, which VMware's products and virt-v2v do not read")
	f.StringVar(&o.digest, "digest", "", "`ALGORITHM` of an OVF package's manifest: sha256 (default), sha1 for ESXi up to 6.0, sha512")
	f.BoolVar(&o.gzip, "gzip-disks", false, "compress an OVF package's disks with gzip, too; few importers read that")
	f.Var(&o.chunk, "chunk", "cut an OVF package's disks into files of this `SIZE`; few importers read that")
	f.StringVar(&o.key, "sign-key", "", "sign an OVF package with the private key in `FILE` (PEM), with --sign-cert")
	f.StringVar(&o.cert, "sign-cert", "", "the X.509 certificate in `FILE` (PEM) that belongs to the key")
	f.StringVar(&o.base, "base", "", "write an OVF package with the disks of another `SOURCE`, such as an earlier archive, and what differs from these")
	f.StringVar(&o.start, "start-order", "", "of several machines: the `ORDER` in which they start, NAME,NAME+NAME,... (default: that of the arguments)")
	f.BoolVar(&o.force, "force", false, "replace OUT if it is a file that is there")
	o.registerOutput(p, cmd)
	o.registerExport(cmd)
	fixed(cmd, "ovf", "1.1", "2.0")
	fixed(cmd, "digest", "sha256", "sha1", "sha512")
	var names []string
	for _, t := range p.targets {
		names = append(names, t.Name())
	}
	fixed(cmd, "to", names...)
	return cmd
}

// targetsHelp lists what can be written, with packages or without.
func (p *program) targetsHelp(packages bool) string {
	var b strings.Builder
	b.WriteString("Forms, and their profiles, the default first:\n")
	for _, t := range p.targets {
		if t.Single() && !packages {
			continue
		}
		fmt.Fprintf(&b, "  %-8s  %s", t.Name(), t.Description())
		if list := t.Profiles(); len(list) > 0 {
			fmt.Fprintf(&b, " (%s)", strings.Join(list, ", "))
		}
		b.WriteString("\n")
	}
	return b.String()
}

// target finds what is to be written.
func (p *program) target(o *exportFlags) (target.Target, error) {
	name := o.to
	if name == "" {
		name = strings.TrimPrefix(strings.ToLower(filepath.Ext(o.out)), ".")
		if name == "box" {
			name = "vagrant"
		}
	}
	var names []string
	for _, t := range p.targets {
		if t.Name() != name {
			names = append(names, t.Name())
			continue
		}
		if o.profile != "" && !slices.Contains(t.Profiles(), o.profile) {
			err := usage(fmt.Errorf("%s has no profile %q", name, o.profile))
			if len(t.Profiles()) == 0 {
				return nil, err
			}
			return nil, hint(err, "there are %s", strings.Join(t.Profiles(), ", "))
		}
		return t, nil
	}
	err := fmt.Errorf("form %q is not known", o.to)
	if o.to == "" {
		err = fmt.Errorf("%s: the name does not tell the form", o.out)
	}
	return nil, hint(usage(err), "--to FORM: %s", strings.Join(names, ", "))
}

// options makes the library's options of flags.
func (p *program) exportOptions(o *exportFlags, t target.Target) (target.Options, error) {
	to := target.Options{
		Name: o.name, Profile: o.profile, Version: o.hw, OVF: o.ovf, Format: o.format, Compress: o.gzip, Chunk: int64(o.chunk),
		Encode: formats.EncodeOptions{Subformat: o.subformat, Compression: o.compression, Level: o.level, Workers: o.workers},
		Digest: ovf.Algorithm(strings.ToUpper(o.digest)),
		Dir:    o.imageDir,
	}
	if o.format == "vhd" {
		to.Format = "vpc"
	}
	to.Progress = func(e target.Progress) {
		p.bar.report(event{Phase: e.Phase, Path: e.File, Done: e.Done, Total: e.Total})
	}
	if err := o.mappings(&to); err != nil {
		return to, err
	}
	if o.renew {
		to.NewIdentity = make([]byte, 16)
		_, _ = rand.Read(to.NewIdentity) // never fails
	}
	if o.key != "" {
		s, err := readSigner(o.key, o.cert)
		if err != nil {
			return to, err
		}
		to.Signer = s
	}
	if to.Dir == "" && o.out != "" && !t.Single() {
		abs, err := filepath.Abs(o.out)
		if err != nil {
			return to, err
		}
		to.Dir = abs
	}
	return to, nil
}

func (p *program) export(ctx context.Context, args []string, o *exportFlags) error {
	if o.toArchive(p, args[0]) {
		if len(args) > 1 {
			return usage(errors.New("one entry at a time goes into an archive"))
		}
		if _, err := os.Lstat(args[0]); err == nil && !strings.HasPrefix(args[0], "#") {
			return hint(usage(fmt.Errorf("%s: is there as a file, and no entry of the repository", args[0])), "tarvm pack makes an archive of a directory; of what has the name of a file, the number names an entry: '#1'")
		}
		return p.exportEntry(ctx, args[0], o)
	}
	t, err := p.checkOutput(o)
	if err != nil {
		return err
	}
	collector, ok := t.(target.Collector)
	if !ok && len(args) > 1 {
		return hint(usage(fmt.Errorf("%s holds one machine, and %d are given", t.Name(), len(args))), "ova and ovf hold several")
	}
	o.several = ok
	var list []*source
	for _, arg := range args {
		s, err := p.openVM(ctx, arg, &o.sourceFlags, o.out)
		if err != nil {
			return p.openError(err)
		}
		defer s.close()
		list = append(list, s)
		if o.dryRun {
			continue
		}
		if err := p.verifyPackage(ctx, s); err != nil {
			return err
		}
	}
	to, err := p.exportOptions(o, t)
	if err != nil {
		return err
	}
	if o.base != "" {
		base, err := p.openBase(ctx, o)
		if err != nil {
			return err
		}
		defer base.close()
		to.Base = base.VM
	}
	if len(list) > 1 || len(list[0].more) > 0 {
		return p.transferAll(ctx, list, collector, to, o)
	}
	if o.start != "" {
		return usage(errors.New("--start-order is for several machines"))
	}
	return p.transfer(ctx, list[0], t, to, o)
}

// checkOutput looks at what can be wrong before anything is read.
func (p *program) checkOutput(o *exportFlags) (target.Target, error) {
	if o.out == "" && (!o.dryRun || o.to == "") {
		return nil, hint(usage(errors.New("no output")), "-o FILE, or -o - for a pipe")
	}
	t, err := p.target(o)
	if err == nil {
		err = o.check(t)
	}
	if err != nil {
		return nil, err
	}
	if o.dryRun || o.out == "" {
		return t, nil
	}
	if o.out == "-" {
		if !t.Single() {
			return nil, usage(fmt.Errorf("%s is a directory, which cannot go to a pipe", t.Name()))
		}
		if isTerminal(p.stdout) {
			return nil, hint(usage(errors.New("a package is not for a terminal")), "-o FILE, or -o - with a pipe")
		}
		if p.json {
			return nil, usage(errors.New("--json and the package cannot both go to standard output"))
		}
	} else if _, err := os.Lstat(o.out); err == nil && t.Single() && !o.force && !special(o.out) {
		return nil, hint(fmt.Errorf("%s: %w", o.out, fs.ErrExist), "--force overwrites it")
	}
	return t, nil
}

// transfer writes a machine.
func (p *program) transfer(ctx context.Context, s *source, t target.Target, to target.Options, o *exportFlags) error {
	began, arg := time.Now(), s.name
	plan, err := t.Plan(s.VM, to)
	if err != nil {
		return p.machineError(fmt.Errorf("%s: %w", arg, err))
	}
	if p.json && (o.dryRun || o.strict && len(plan.Losses) > 0) {
		if err := p.writeJSON(exported{Plan: plan, Source: arg, DryRun: true, Elapsed: time.Since(began)}); err != nil {
			return err
		}
	}
	if !p.json {
		if o.dryRun {
			if err := p.printExport(plan); err != nil {
				return err
			}
		} else {
			p.sayLosses(plan)
		}
	}
	if o.strict && len(plan.Losses) > 0 {
		return hint(fmt.Errorf("%s: %s cannot be expressed as %s, and --strict was given", arg, count(len(plan.Losses), "setting"), t.Name()), "nothing was written")
	}
	if o.dryRun {
		return nil
	}
	if err := p.writePlan(ctx, s, plan, t, o); err != nil {
		return p.machineError(err)
	}
	p.bar.clear()
	if p.json {
		return p.writeJSON(exported{Plan: plan, Source: arg, Output: o.out, Elapsed: time.Since(began)})
	}
	if o.out != "-" && !o.within {
		p.note("%s: %s, %s, %s of disk in %.1f s", o.out, t.Name(), count(len(plan.Disks), "disk"), size(plan.Capacity()), time.Since(began).Seconds())
	}
	return nil
}

// sayLosses tells the user what does not come along.
func (p *program) sayLosses(plan *target.Plan) {
	for _, n := range plan.Notes {
		p.note("%s", printable(n))
	}
	for _, l := range plan.Losses {
		p.note("%s", printable(l.String()))
	}
}

// printExport prints what --dry-run says.
func (p *program) printExport(plan *target.Plan) error {
	t := newTable("FILE", "FORMAT", " SIZE", " DATA", "FROM")
	for _, d := range plan.Disks {
		format := d.Format
		if d.Subformat != "" {
			format += " " + d.Subformat
		}
		if d.Base != "" {
			format += ", delta to " + d.Base
		}
		t.add(quoted(d.Name), format, size(d.Capacity), size(d.Data), quoted(d.Source))
	}
	for _, c := range plan.Copies {
		t.add(quoted(c.Name), "as it is", size(c.Size), "", quoted(c.Source))
	}
	for _, name := range plan.Texts {
		t.add(quoted(name), "text", "", "", "")
	}
	var b strings.Builder
	b.WriteString(t.String())
	for _, n := range plan.Notes {
		fmt.Fprintf(&b, "\n%s\n", printable(n))
	}
	if len(plan.Losses) > 0 {
		b.WriteString("\nwhat does not come along, or not as it is:\n")
		for _, l := range plan.Losses {
			fmt.Fprintf(&b, "  %s\n", printable(l.String()))
		}
	}
	return p.printf("%s", b.String())
}

// createDir starts a directory that must not be there yet.
func createDir(path string) (*archive.OutputDir, error) {
	d, err := archive.CreateOutputDir(path)
	if errors.Is(err, fs.ErrExist) {
		return nil, hint(err, "choose a directory that is empty, or not there yet")
	}
	if err != nil {
		return nil, plainPath(err)
	}
	return d, nil
}

// writePlan writes to where the flags say.
func (p *program) writePlan(ctx context.Context, s *source, plan *target.Plan, t target.Target, o *exportFlags) error {
	sp := s.newSpool(o.out)
	temp := func() (target.TempFile, error) {
		f, err := sp.create("")
		if err == nil {
			s.done = append(s.done, func() { f.Close() })
		}
		return f, err
	}
	if o.out == "-" {
		return plan.Write(ctx, target.Sink{Pipe: p.toPipe(ctx), Temp: temp})
	}
	if !t.Single() {
		d, err := createDir(o.out)
		if err != nil {
			return err
		}
		defer d.Abort()
		create := func(name string, mode fs.FileMode) (formats.Output, error) { return d.Create(name, mode) }
		if err := plan.Write(ctx, target.Sink{Create: create, Temp: temp}); err != nil {
			return err
		}
		return d.Commit()
	}
	if special(o.out) {
		f, err := os.OpenFile(o.out, os.O_WRONLY, 0)
		if err != nil {
			return plainPath(err)
		}
		err = plan.Write(ctx, target.Sink{Pipe: f, Temp: temp})
		if cerr := f.Close(); err == nil {
			err = cerr
		}
		return err
	}
	f, err := createFile(o.out, o.force)
	if err != nil {
		return err
	}
	defer f.Abort()
	if err := plan.Write(ctx, target.Sink{File: f, Temp: temp}); err != nil {
		return err
	}
	return f.Commit()
}

// openError adds what the user can do about a source.
func (p *program) openError(err error) error {
	if errors.Is(err, target.ErrMissing) {
		return p.machineError(err)
	}
	return p.parentHint(err)
}

// machineError adds what the user can do.
func (p *program) machineError(err error) error {
	switch {
	case errors.Is(err, target.ErrMissing):
		return hint(err, "put the file beside the configuration; the network and the host's devices are never read")
	case errors.Is(err, machine.ErrUnsupported), errors.Is(err, ovf.ErrUnsupported), errors.Is(err, target.ErrNetwork), errors.Is(err, target.ErrStart):
		return usage(err)
	}
	return p.parentHint(err)
}

// readSigner reads a key and its certificate.
func readSigner(key, cert string) (*ovf.Signer, error) {
	k, err := os.ReadFile(key)
	if err != nil {
		return nil, plainPath(err)
	}
	c, err := os.ReadFile(cert)
	if err != nil {
		return nil, plainPath(err)
	}
	s, err := ovf.ReadSigner(k, c)
	if errors.Is(err, ovf.ErrSignature) {
		return nil, usage(fmt.Errorf("%s is not the key of the first certificate in %s", key, cert))
	}
	if err != nil {
		return nil, fmt.Errorf("%s, %s: %w", key, cert, err)
	}
	return s, nil
}
