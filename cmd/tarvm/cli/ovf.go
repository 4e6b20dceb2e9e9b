package cli

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"tarvm/formats/machine"
	"tarvm/ovf"
	"tarvm/ovf/lint"
	"tarvm/ovf/ova"
)

const packageHelp = `
PACKAGE is an OVA, compressed or not, a zip, an .ovf with its files beside it, or the directory that holds one. - reads one
from a pipe.`

func (p *program) ovfCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "ovf",
		Short: "Look into OVF packages, check, repair, sign and verify them",
		Long: `Reads OVF packages of all versions (0.9 to 2.1) and says what they hold, which importers would refuse them and why, and
whether they are what their manifest and certificate say.
` + packageHelp,
		Args:                       noVerb,
		SuggestionsMinimumDistance: 2,
		RunE:                       p.onlyHelp,
	}
	cmd.AddCommand(p.ovfShowCommand(), p.ovfCheckCommand(), p.ovfFixCommand(), p.ovfSignCommand(), p.ovfVerifyCommand())
	return cmd
}

// openPackageArg opens an OVF package, and nothing else.
func (p *program) openPackageArg(ctx context.Context, arg, config, near string) (*source, error) {
	s := &source{name: arg}
	err := p.findPackageArg(ctx, s, arg, config, near)
	if err != nil {
		s.close()
		if pe := new(fs.PathError); errors.As(err, &pe) && pe.Path == arg {
			return nil, plainPath(err)
		}
		if errors.Is(err, ova.ErrNotPackage) {
			err = hint(usage(err), "tarvm export SOURCE -o FILE.ova makes one")
		}
		if errors.Is(err, ova.ErrSeveral) {
			err = hint(usage(err), "--envelope PATH says which")
		}
		return nil, fmt.Errorf("%s: %w", arg, plainPath(err))
	}
	return s, nil
}

func (p *program) findPackageArg(ctx context.Context, s *source, arg, config, near string) error {
	oo := p.packageOptions(s.newSpool(near))
	oo.Envelope = config
	if arg == "-" {
		return s.setPackage(ova.OpenStream(ctx, p.input(ctx), oo))
	}
	dir := arg
	st, err := os.Stat(arg)
	if err != nil {
		return err
	}
	if !st.IsDir() && strings.EqualFold(filepath.Ext(arg), ".ovf") {
		dir, oo.Envelope = filepath.Dir(arg), filepath.Base(arg)
	} else if !st.IsDir() {
		f, src, err := openSource(arg)
		if err != nil {
			return err
		}
		s.done = append(s.done, func() { f.Close() })
		return s.setPackage(ova.Open(ctx, src, oo))
	}
	if _, err := s.openTree(dir); err != nil {
		return err
	}
	return s.setPackage(ova.OpenDir(s.root.FS(), oo))
}

func (s *source) setPackage(pkg *ova.Package, err error) error {
	if err != nil {
		return err
	}
	s.pkg = pkg
	s.done = append(s.done, func() { pkg.Close() })
	return nil
}

// shownSystem is a virtual system in what ovf show writes with --json.
type shownSystem struct {
	ID       string           `json:"id"`
	Families []string         `json:"families,omitempty"`
	Machine  *machine.Machine `json:"machine"`
	Products []ovf.Product    `json:"products,omitempty"`
	EULAs    int              `json:"eulas,omitempty"`
}

// shown is what ovf show writes with --json.
type shown struct {
	Package     string                 `json:"package"`
	Envelope    string                 `json:"envelope"`
	Version     string                 `json:"version"`
	Files       []ovf.File             `json:"files,omitempty"`
	Disks       []ovf.VirtualDisk      `json:"disks,omitempty"`
	Networks    []ovf.Network          `json:"networks,omitempty"`
	Options     []ovf.DeploymentOption `json:"deployment_options,omitempty"`
	Collections []ovf.Collection       `json:"collections,omitempty"`
	Systems     []shownSystem          `json:"systems"`
	Problems    []ovf.Problem          `json:"problems,omitempty"`
	Manifest    bool                   `json:"manifest"`
	Signed      bool                   `json:"signed"`
}

func (p *program) ovfShowCommand() *cobra.Command {
	var option, envelope string
	cmd := &cobra.Command{
		Use:   "show PACKAGE",
		Short: "Describe a package",
		Long: `Says what a package's envelope says: systems and their hardware, disks, networks, what can be set at the deployment, and
what is wrong with it.
` + packageHelp,
		Args: args(1, 1, "one package"),
		RunE: func(cmd *cobra.Command, a []string) error { return p.ovfShow(cmd.Context(), a[0], envelope, option) },
	}
	f := cmd.Flags()
	f.StringVar(&option, "deployment-option", "", "show the hardware with this option, by `ID` (default: the package's default)")
	f.StringVar(&envelope, "envelope", "", "the .ovf, a `PATH` in the package, where there are several")
	p.jsonFlag(cmd)
	return cmd
}

func (p *program) ovfShow(ctx context.Context, arg, envelope, option string) error {
	s, err := p.openPackageArg(ctx, arg, envelope, "")
	if err != nil {
		return err
	}
	defer s.close()
	e, err := ovf.Decode(s.pkg.Envelope.Data)
	if err != nil {
		return fmt.Errorf("%s: %s: %w", arg, s.pkg.Envelope.Name, err)
	}
	v := shown{
		Package: arg, Envelope: s.pkg.Envelope.Name, Version: e.Version, Files: e.Files, Disks: e.Disks, Networks: e.Networks,
		Options: e.Options, Collections: e.Collections, Problems: e.Problems, Manifest: s.pkg.Manifest.Name != "", Signed: s.pkg.Certificate.Name != "",
	}
	for i := range e.Systems {
		sys := &e.Systems[i]
		m, problems, err := e.Machine(i, option)
		if err != nil {
			return fmt.Errorf("%s: %s: %w", arg, s.pkg.Envelope.Name, err)
		}
		for _, pr := range problems {
			if !slices.Contains(v.Problems, pr) {
				v.Problems = append(v.Problems, pr)
			}
		}
		v.Systems = append(v.Systems, shownSystem{sys.ID, sys.Families, m, sys.Products, len(sys.EULAs)})
	}
	for _, missing := range s.pkg.Missing() {
		v.Problems = append(v.Problems, ovf.Problem{Where: "package", What: missing.Error(), Severity: ovf.Error})
	}
	if p.json {
		return p.writeJSON(v)
	}
	return p.printf("%s", describePackage(&v))
}

// describePackage is what people read.
func describePackage(v *shown) string {
	var b strings.Builder
	signed := ""
	if v.Signed {
		signed = ", with a certificate"
	}
	manifest := "with a manifest"
	if !v.Manifest {
		manifest = "without a manifest"
	}
	fmt.Fprintf(&b, "%s: OVF %s, %s%s\n", quoted(v.Package), v.Version, manifest, signed)
	for _, s := range v.Systems {
		fmt.Fprintf(&b, "\n%s\n", describeMachine(s.Machine, s.ID))
		if len(s.Families) > 0 {
			row(&b, "hardware for", strings.Join(s.Families, " "))
		}
		for _, pr := range s.Products {
			name := strings.TrimSpace(pr.Name.Text + " " + pr.Version)
			if name != "" {
				row(&b, "product", name)
			}
			for _, q := range pr.Properties {
				value := q.Value
				if q.Password {
					value = "(a password)"
				}
				row(&b, "property", pr.FullKey(q)+" = "+value)
			}
		}
		if s.EULAs > 0 {
			row(&b, "licence", count(s.EULAs, "agreement"))
		}
	}
	for _, c := range v.Collections {
		describeCollection(&b, &c)
	}
	if len(v.Options) > 0 {
		b.WriteString("\ndeployment options\n")
		for _, o := range v.Options {
			text := o.Label.Text
			if o.Default {
				text += " (default)"
			}
			row(&b, o.ID, text)
		}
	}
	if len(v.Files) > 0 {
		t := newTable("FILE", " SIZE", "HOW")
		for _, f := range v.Files {
			n := "-"
			if f.Size >= 0 {
				n = size(f.Size)
			}
			how := f.Compression
			if f.Chunk > 0 {
				how = strings.TrimSpace(how + " in chunks of " + size(f.Chunk))
			}
			t.add(quoted(f.Href), n, how)
		}
		b.WriteString("\n" + t.String())
	}
	if len(v.Problems) > 0 {
		b.WriteString("\nproblems\n")
		for _, pr := range v.Problems {
			fmt.Fprintf(&b, "  %s\n", printable(pr.String()))
		}
	}
	return b.String()
}

// describeCollection says in which order its members start.
func describeCollection(b *strings.Builder, c *ovf.Collection) {
	fmt.Fprintf(b, "\ncollection %s\n", quoted(cmp.Or(c.Name.Text, c.ID)))
	order := slices.Clone(c.Startup)
	// 0 is at any time.
	slices.SortStableFunc(order, func(a, b ovf.StartupItem) int { return cmp.Compare(uint(a.Order-1), uint(b.Order-1)) })
	rank := 0
	for i, s := range order {
		if i == 0 || s.Order != order[i-1].Order {
			rank++
		}
		when := fmt.Sprintf("starts %d", rank)
		if s.Order == 0 {
			when = "starts any time"
		}
		text := s.ID
		if s.StartAction == "none" {
			text += ", is not started"
		}
		if s.WaitingForGuest {
			text += ", until it says that it is ready"
		}
		if s.StartDelay > 0 {
			text += fmt.Sprintf(", %d s before the next", s.StartDelay)
		}
		row(b, when, text)
	}
	if n := len(c.EULAs); n > 0 {
		row(b, "licence", count(n, "agreement"))
	}
}

func row(b *strings.Builder, name, value string) {
	fmt.Fprintf(b, "  %-18s%s\n", printable(name), printable(value))
}

// describeMachine lists a machine's hardware.
func describeMachine(m *machine.Machine, id string) string {
	var b strings.Builder
	title := m.Name
	if title == "" {
		title = id
	}
	b.WriteString(quoted(title) + "\n")
	add := func(name, value string) {
		if value != "" {
			row(&b, name, value)
		}
	}
	add("guest", m.Guest.Describe())
	add("UUID", m.UUID)
	if n := m.CPU.Count; n > 0 {
		text := fmt.Sprint(n)
		if c := m.CPU.Cores; c > 1 {
			text += fmt.Sprintf(", %d cores in a socket", c)
		}
		add("processors", text)
	}
	if n := m.Memory.Bytes; n > 0 {
		add("memory", size(n))
	}
	fw := m.Firmware.Type
	if m.Firmware.SecureBoot == machine.On {
		fw += ", secure boot"
	}
	add("firmware", fw)
	add("boot order", strings.Join(m.Boot, ", "))
	if m.TPM != nil {
		add("TPM", cmp.Or(m.TPM.Version, "there is one"))
	}
	for i := range m.Drives {
		d := &m.Drives[i]
		text := string(d.Kind)
		if c := m.Controller(d.At.Bus, d.At.Index); c != nil && c.Model != "" {
			text += ", " + c.Model
		}
		if d.Media.Path != "" {
			text += ", " + d.Media.Path
		}
		if d.Media.Capacity > 0 {
			text += ", " + size(d.Media.Capacity)
		}
		add(d.At.String(), text)
	}
	for i := range m.NICs {
		n := &m.NICs[i]
		text := strings.TrimSpace(n.Model + " " + n.MAC)
		if to := cmp.Or(n.Network, string(n.Kind)); to != "" {
			text += ", " + to
		}
		add(fmt.Sprintf("network %d", i), text)
	}
	for i, v := range m.Videos {
		text := cmp.Or(v.Model, "of no model")
		if v.Memory > 0 {
			text += ", " + size(v.Memory)
		}
		if v.Heads > 1 {
			text += fmt.Sprintf(", %d screens", v.Heads)
		}
		add(fmt.Sprintf("video %d", i), text)
	}
	for i, v := range m.Sounds {
		add(fmt.Sprintf("sound %d", i), cmp.Or(v.Model, "of no model"))
	}
	for _, v := range m.Serials {
		add(fmt.Sprintf("serial %d", v.Slot), cmp.Or(v.Kind, "connected to nothing"))
	}
	for _, c := range m.Controllers {
		if c.Bus == machine.USB {
			add(fmt.Sprintf("usb %d", c.Index), cmp.Or(c.Model, "of no model"))
		}
	}
	add("notes", strings.ReplaceAll(m.Notes, "\n", "; "))
	return strings.TrimSuffix(b.String(), "\n")
}

// importers reads --for.
func importers(names []string) ([]lint.Importer, error) {
	var list []lint.Importer
	for _, n := range names {
		if !slices.Contains(lint.Importers(), lint.Importer(n)) {
			return nil, hint(usage(fmt.Errorf("--for %s", n)), "there are %s", strings.Join(importerNames(), ", "))
		}
		list = append(list, lint.Importer(n))
	}
	return list, nil
}

func importerNames() (names []string) {
	for _, i := range lint.Importers() {
		names = append(names, string(i))
	}
	return names
}

// linted is what ovf check writes with --json.
type linted struct {
	Package  string                          `json:"package"`
	Verdicts map[lint.Importer]lint.Severity `json:"verdicts"`
	Findings []lint.Finding                  `json:"findings"`
}

func (p *program) ovfCheckCommand() *cobra.Command {
	var names []string
	var envelope string
	var digests, rules bool
	cmd := &cobra.Command{
		Use:   "check PACKAGE",
		Short: "Say which importers would refuse a package, and why",
		Long: `Compares a package with what importers were seen, or are reported, to mind: ` + strings.Join(importerNames(), ", ") + `.
The exit code is 1 if one of them would refuse it or read another machine from it.
` + packageHelp,
		Example: `  tarvm ovf check vm.ova
  tarvm ovf check vm.ova --for vmware --digests`,
		Args: func(cmd *cobra.Command, a []string) error {
			if rules && len(a) == 0 {
				return nil
			}
			return args(1, 1, "one package")(cmd, a)
		},
		RunE: func(cmd *cobra.Command, a []string) error {
			if rules {
				return p.ovfRules()
			}
			return p.ovfCheck(cmd.Context(), a[0], envelope, names, digests)
		},
	}
	f := cmd.Flags()
	f.StringSliceVar(&names, "for", nil, "ask these `IMPORTERS` only, separated by commas")
	f.BoolVar(&digests, "digests", false, "compare the files with their digests, too, which reads all of them")
	f.BoolVar(&rules, "rules", false, "list the rules, and from where they are known")
	f.StringVar(&envelope, "envelope", "", "the .ovf, a `PATH` in the package, where there are several")
	fixed(cmd, "for", importerNames()...)
	p.jsonFlag(cmd)
	return cmd
}

func (p *program) ovfRules() error {
	list := lint.Rules()
	if p.json {
		return p.writeJSON(list)
	}
	var b strings.Builder
	for _, r := range list {
		fmt.Fprintf(&b, "%s: %s", r.ID, r.Text)
		if r.Fixes {
			b.WriteString(" (fix repairs it)")
		}
		b.WriteString("\n")
		for _, v := range r.Verdicts {
			fmt.Fprintf(&b, "  %-14s %-14s %s\n", v.Importer, v.Severity, v.Evidence)
		}
	}
	return p.printf("%s", b.String())
}

// errMinded: an importer would not take the package.
var errMinded = errors.New("an importer would not take it as it is")

func (p *program) ovfCheck(ctx context.Context, arg, envelope string, names []string, digests bool) error {
	who, err := importers(names)
	if err != nil {
		return err
	}
	s, err := p.openPackageArg(ctx, arg, envelope, "")
	if err != nil {
		return err
	}
	defer s.close()
	o := lint.Options{Importers: who}
	if digests {
		if o.Verified, err = s.pkg.Verify(ctx, p.verifyOptions(arg, nil)); err != nil {
			return fmt.Errorf("%s: %w", arg, err)
		}
		p.bar.clear()
	}
	list, err := lint.Check(ctx, s.pkg, o)
	if err != nil {
		return fmt.Errorf("%s: %w", arg, err)
	}
	if who == nil {
		who = lint.Importers()
	}
	if p.json {
		c := linted{Package: arg, Findings: list, Verdicts: map[lint.Importer]lint.Severity{}}
		for _, i := range who {
			if w := lint.Worst(list, i); w > 0 {
				c.Verdicts[i] = w
			}
		}
		if err := p.writeJSON(c); err != nil {
			return err
		}
	} else if err := p.printFindings(list, who); err != nil {
		return err
	}
	if lint.Worst(list, "") >= lint.ReadsWrong {
		err := fmt.Errorf("%s: %w", arg, errMinded)
		if slices.ContainsFunc(list, func(f lint.Finding) bool { return f.Fixes }) {
			err = hint(err, "tarvm ovf fix %s -o FILE.ova repairs what can be repaired", quoted(arg))
		}
		return err
	}
	return nil
}

func (p *program) printFindings(list []lint.Finding, who []lint.Importer) error {
	var b strings.Builder
	for _, f := range list {
		what := f.Where + ": " + f.Text
		if f.What != "" {
			what += ": " + f.What
		}
		b.WriteString(printable(what) + "\n")
		for _, v := range f.Verdicts {
			fmt.Fprintf(&b, "  %s %s (%s)\n", v.Importer, v.Severity, v.Evidence)
		}
		if f.Fixes {
			b.WriteString("  tarvm ovf fix repairs it\n")
		}
	}
	if len(list) > 0 {
		b.WriteString("\n")
	}
	for _, i := range who {
		verdict := "takes it"
		if w := lint.Worst(list, i); w > 0 {
			verdict = w.String()
			if w == lint.Warns {
				verdict = "takes it, with warnings"
			}
		}
		fmt.Fprintf(&b, "%-14s %s\n", i, verdict)
	}
	return p.printf("%s", b.String())
}

// fixFlags are those of ovf fix.
type fixFlags struct {
	out, hw, digest string
	importers       []string
	envelope        string
	key, cert       string
	damaged, force  bool
}

// repaired is what ovf fix writes with --json.
type repaired struct {
	Package  string            `json:"package"`
	Output   string            `json:"output"`
	Fixed    []lint.Finding    `json:"fixed"`
	Left     []lint.Finding    `json:"left"`
	Renamed  map[string]string `json:"renamed,omitempty"`
	Unsigned bool              `json:"unsigned,omitempty"`
}

func (p *program) ovfFixCommand() *cobra.Command {
	var o fixFlags
	cmd := &cobra.Command{
		Use:   "fix PACKAGE -o FILE.ova",
		Short: "Repair a package",
		Long: `Writes a package anew as an OVA that importers take: form, order and names of the archive, lines of the manifest, bytes
behind a disk's end, chunks, the hardware family, EFI, missing units and names of elements. Disks are not coded again, and
what else the envelope says stays. While it reads them, it compares the files with the old manifest.
` + packageHelp,
		Args: args(1, 1, "one package"),
		RunE: func(cmd *cobra.Command, a []string) error { return p.ovfFix(cmd.Context(), a[0], &o) },
	}
	f := cmd.Flags()
	f.StringVarP(&o.out, "output", "o", "", "the OVA, `FILE`; - is standard output")
	f.StringSliceVar(&o.importers, "for", nil, "repair what these `IMPORTERS` mind, separated by commas (default: all)")
	f.StringVar(&o.hw, "hw", "", "the hardware `FAMILY` in place of one that VMware does not know (default vmx-13)")
	f.StringVar(&o.digest, "digest", "", "`ALGORITHM` of the manifest: sha256 (default), sha1, sha512")
	f.StringVar(&o.envelope, "envelope", "", "the .ovf, a `PATH` in the package, where there are several")
	f.StringVar(&o.key, "sign-key", "", "sign it with the private key in `FILE` (PEM), with --sign-cert")
	f.StringVar(&o.cert, "sign-cert", "", "the X.509 certificate in `FILE` (PEM) that belongs to the key")
	f.BoolVar(&o.damaged, "damaged", false, "take files as they are that do not have their digests, and do without ones that are not there")
	f.BoolVar(&o.force, "force", false, "replace FILE if it is there")
	fixed(cmd, "for", importerNames()...)
	fixed(cmd, "digest", "sha256", "sha1", "sha512")
	p.jsonFlag(cmd)
	return cmd
}

func (p *program) ovfFix(ctx context.Context, arg string, o *fixFlags) error {
	who, err := importers(o.importers)
	if err != nil {
		return err
	}
	lo := lint.FixOptions{
		Importers: who, Hardware: o.hw, Digest: ovf.Algorithm(strings.ToUpper(o.digest)), Damaged: o.damaged,
		Progress: func(done, total int64) { p.bar.report(event{Phase: "fix", Path: arg, Done: done, Total: total}) },
	}
	if (o.key == "") != (o.cert == "") {
		return usage(errors.New("--sign-key and --sign-cert belong together"))
	}
	if o.key != "" {
		if lo.Signer, err = readSigner(o.key, o.cert); err != nil {
			return err
		}
	}
	var rep *lint.FixReport
	err = p.rewrite(ctx, arg, o.envelope, o.out, o.force, func(s *source, w *ova.Writer) (err error) {
		rep, err = lint.Fix(ctx, s.pkg, w, lo)
		return err
	})
	if err != nil {
		switch {
		case errors.Is(err, ovf.ErrDigest):
			err = hint(err, "the package is damaged: get it again; --damaged takes it as it is")
		case errors.Is(err, lint.ErrHardware), errors.Is(err, ovf.ErrUnsupported):
			err = usage(err)
		}
		return err
	}
	if p.json && o.out != "-" {
		return p.writeJSON(repaired{arg, o.out, rep.Fixed, rep.Left, rep.Renamed, rep.Unsigned})
	}
	for _, f := range rep.Fixed {
		p.note("repaired: %s", printable(f.Where+": "+f.Text))
	}
	for _, f := range rep.Left {
		p.note("left: %s", printable(f.String()))
	}
	if rep.Unsigned {
		p.note("the signature was of the old manifest, and is left out")
	}
	p.note("%s: %s repaired, %d left", o.out, count(len(rep.Fixed), "finding"), len(rep.Left))
	return nil
}

// rewrite writes a package anew.
func (p *program) rewrite(ctx context.Context, arg, envelope, out string, force bool, write func(*source, *ova.Writer) error) error {
	if out == "" {
		return hint(usage(errors.New("no output")), "-o FILE.ova")
	}
	if out == "-" && isTerminal(p.stdout) {
		return hint(usage(errors.New("a package is not for a terminal")), "-o FILE, or -o - with a pipe")
	}
	if out == "-" && p.json {
		return usage(errors.New("--json and the package cannot both go to standard output"))
	}
	var wo ova.WriterOptions
	if n, set, err := sourceDate(); err != nil {
		return err
	} else if set {
		wo.ModTime = time.Unix(max(n, 0), 0)
	}
	s, err := p.openPackageArg(ctx, arg, envelope, out)
	if err != nil {
		return err
	}
	defer s.close()
	if out == "-" {
		err = write(s, ova.NewWriter(p.toPipe(ctx), wo))
		p.bar.clear()
		if err != nil {
			err = fmt.Errorf("%s: %w", arg, err)
		}
		return err
	}
	f, err := createFile(out, force)
	if err != nil {
		return err
	}
	defer f.Abort()
	err = write(s, ova.NewWriterAt(f, wo))
	p.bar.clear()
	if err != nil {
		return fmt.Errorf("%s: %w", arg, err)
	}
	return f.Commit()
}

func (p *program) ovfSignCommand() *cobra.Command {
	var out, key, cert, envelope string
	var force bool
	cmd := &cobra.Command{
		Use:   "sign PACKAGE --sign-key KEY --sign-cert CERT [-o FILE.ova]",
		Short: "Sign a package's manifest",
		Long: `Compares a package with its manifest, and signs that with a private key. Of a package in a directory the .cert file is
written beside the manifest; an OVA is written anew, into FILE.ova.
` + packageHelp,
		Args: args(1, 1, "one package"),
		RunE: func(cmd *cobra.Command, a []string) error {
			if key == "" || cert == "" {
				return usage(errors.New("--sign-key and --sign-cert are needed"))
			}
			return p.ovfSign(cmd.Context(), a[0], envelope, out, key, cert, force)
		},
	}
	f := cmd.Flags()
	f.StringVarP(&out, "output", "o", "", "the signed OVA, `FILE`; - is standard output")
	f.StringVar(&key, "sign-key", "", "the private key in `FILE` (PEM)")
	f.StringVar(&cert, "sign-cert", "", "the X.509 certificate in `FILE` (PEM) that belongs to the key, and those between it and an authority")
	f.StringVar(&envelope, "envelope", "", "the .ovf, a `PATH` in the package, where there are several")
	f.BoolVar(&force, "force", false, "replace FILE, or the .cert, if it is there")
	return cmd
}

func (p *program) ovfSign(ctx context.Context, arg, envelope, out, key, cert string, force bool) error {
	signer, err := readSigner(key, cert)
	if err != nil {
		return err
	}
	verify := func(s *source) error {
		v, err := s.pkg.Verify(ctx, p.verifyOptions(arg, nil))
		p.bar.clear()
		if err != nil {
			return err
		}
		for _, f := range v.Files {
			if len(f.Problems) > 0 {
				return fmt.Errorf("not signed: %w", f.Problems[0])
			}
		}
		return nil
	}
	if st, err := os.Stat(arg); err == nil && out == "" && (st.IsDir() || strings.EqualFold(filepath.Ext(arg), ".ovf")) {
		s, err := p.openPackageArg(ctx, arg, envelope, "")
		if err != nil {
			return err
		}
		defer s.close()
		if err := verify(s); err != nil {
			return fmt.Errorf("%s: %w", arg, err)
		}
		text, name, err := ova.Certificate(s.pkg, signer)
		if err != nil {
			return fmt.Errorf("%s: %w", arg, err)
		}
		dir := arg
		if !st.IsDir() {
			dir = filepath.Dir(arg)
		}
		f, err := createFile(filepath.Join(dir, filepath.FromSlash(s.pkg.Dir), name), force)
		if err != nil {
			return err
		}
		defer f.Abort()
		if _, err := f.Write(text); err != nil {
			return err
		}
		return f.Commit()
	}
	return p.rewrite(ctx, arg, envelope, out, force, func(s *source, w *ova.Writer) error {
		if err := verify(s); err != nil {
			return err
		}
		return ova.Sign(ctx, s.pkg, w, signer)
	})
}

// verified is what ovf verify writes with --json.
type verified struct {
	Package   string         `json:"package"`
	OK        bool           `json:"ok"`
	Manifest  bool           `json:"manifest"`
	Files     []verifiedFile `json:"files"`
	Signature *ovf.Signature `json:"signature,omitempty"`
	Problem   string         `json:"signature_problem,omitempty"`
}

type verifiedFile struct {
	Name     string          `json:"name"`
	Size     int64           `json:"size"`
	Digests  []ovf.Algorithm `json:"digests,omitempty"`
	Problems []string        `json:"problems,omitempty"`
}

func (p *program) ovfVerifyCommand() *cobra.Command {
	var roots, envelope string
	cmd := &cobra.Command{
		Use:   "verify PACKAGE",
		Short: "Compare a package with its manifest and its certificate",
		Long: `Compares every file of a package with its digest in the manifest and its size in the envelope, and the manifest with the
certificate, and says who signed it. Whether that is to be trusted is known only with --roots.
` + packageHelp,
		Args: args(1, 1, "one package"),
		RunE: func(cmd *cobra.Command, a []string) error { return p.ovfVerify(cmd.Context(), a[0], envelope, roots) },
	}
	f := cmd.Flags()
	f.StringVar(&roots, "roots", "", "the certificates of authorities that are trusted, in `FILE` (PEM)")
	f.StringVar(&envelope, "envelope", "", "the .ovf, a `PATH` in the package, where there are several")
	p.jsonFlag(cmd)
	return cmd
}

func (p *program) ovfVerify(ctx context.Context, arg, envelope, roots string) error {
	o := p.verifyOptions(arg, nil)
	if roots != "" {
		var err error
		if o.Roots, err = readRoots(roots); err != nil {
			return err
		}
	}
	s, err := p.openPackageArg(ctx, arg, envelope, "")
	if err != nil {
		return err
	}
	defer s.close()
	v, err := s.pkg.Verify(ctx, o)
	p.bar.clear()
	if err != nil {
		return fmt.Errorf("%s: %w", arg, err)
	}
	bad := v.Err()
	out := verified{Package: arg, OK: bad == nil, Manifest: v.Manifest, Signature: v.Signature}
	var b strings.Builder
	for _, f := range v.Files {
		r := verifiedFile{Name: f.Name, Size: f.Size, Digests: f.Digests}
		text := "no digest"
		if len(f.Digests) > 0 {
			text = "ok"
		}
		for _, e := range f.Problems {
			r.Problems = append(r.Problems, e.Error())
			text = e.Error()
			if errors.Is(e, fs.ErrNotExist) {
				text = "is not there"
			}
		}
		out.Files = append(out.Files, r)
		fmt.Fprintf(&b, "%s: %s\n", quoted(f.Name), printable(text))
	}
	switch {
	case v.SignatureErr != nil:
		out.Problem = v.SignatureErr.Error()
		fmt.Fprintf(&b, "certificate: %s\n", printable(out.Problem))
	case v.Signature != nil:
		fmt.Fprintf(&b, "%s\n", printable(v.Signature.String()))
	default:
		b.WriteString("not signed\n")
	}
	if !v.Manifest {
		b.WriteString("no manifest: nothing says whether the files are whole\n")
	}
	if p.json {
		err = p.writeJSON(out)
	} else {
		err = p.printf("%s", b.String())
	}
	if err == nil && bad != nil {
		err = fmt.Errorf("%s: %w", arg, errUnverified)
	}
	return err
}
