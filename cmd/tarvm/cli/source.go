package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"tarvm/archive"
	"tarvm/formats/layers"
	"tarvm/formats/machine"
	"tarvm/ovf"
	"tarvm/ovf/ova"
	"tarvm/ovf/target"
)

// sourceFlags say how a machine is found.
type sourceFlags struct {
	config string
	system string
	option string
	search []string
	live   bool
	// several has all machines of an OVF package taken, if it is not said which.
	several bool

	// Of a machine without a configuration.
	bareDisks []string
	memory    sizeValue
	cpus      int
	firmware  string
	bus       string
	guest     string
}

func (o *sourceFlags) register(p *program, cmd *cobra.Command) {
	f := cmd.Flags()
	f.StringVar(&o.config, "config", "", "the machine's configuration, a `PATH` in the directory, where there are several")
	f.StringVar(&o.system, "system", "", "the machine of an OVF package with several, by `ID` or name")
	f.StringVar(&o.option, "deployment-option", "", "the deployment option of an OVF package, by `ID` (default: its default)")
	f.StringArrayVar(&o.search, "search", nil, "look for an archive's ancestors in `DIR`, too (repeatable)")
	f.BoolVar(&o.live, "live", false, "read the disks of a machine that runs: what is read may be torn")
	f.StringArrayVar(&o.bareDisks, "disk", nil, "of disks without a configuration: one of them, `FILE[,bus=BUS][,boot][,cdrom]`, in SOURCE; repeatable, in their order")
	f.Var(&o.memory, "memory", "of a disk without a configuration: the machine's memory, such as 4G")
	f.IntVar(&o.cpus, "cpus", 0, "of a disk without a configuration: how many processors, `N`")
	f.StringVar(&o.firmware, "firmware", "", "of a disk without a configuration: the `KIND`, bios or efi")
	f.StringVar(&o.bus, "bus", "", "of a disk without a configuration: its `BUS`: ide, sata, scsi, nvme or virtio")
	f.StringVar(&o.guest, "guest", "", "of a disk without a configuration: the `SYSTEM` on it, in VMware's words, such as debian12-64")
	fixed(cmd, "firmware", "bios", "efi")
	fixed(cmd, "bus", buses...)
}

const sourceHelp = `
SOURCE is the directory of a machine, with its configuration (.vmx, .vbox, libvirt's or Hyper-V's XML, xl.cfg, .ovf); that
configuration; an archive, the last of a chain, which is read without unpacking; a package (.ova, .xva, a Vagrant box, a
zip, compressed or not); or a disk, of which a machine is made with --memory, --cpus and the like. Of several disks in a
directory or an archive without a configuration --disk says which they are, and how they are attached.`

// completeProfile completes --profile with those of the form that --to, or the output's ending, says; else with all.
func (p *program) completeProfile(cmd *cobra.Command) {
	f := func(cmd *cobra.Command, _ []string, _ string) ([]string, cobra.ShellCompDirective) {
		var o exportFlags
		for name, to := range map[string]*string{"to": &o.to, "output": &o.out} {
			*to, _ = cmd.Flags().GetString(name) // empty without such a flag
		}
		if t, err := p.target(&o); err == nil {
			return t.Profiles(), cobra.ShellCompDirectiveNoFileComp
		}
		var all []string
		for _, t := range p.targets {
			all = append(all, t.Profiles()...)
		}
		slices.Sort(all)
		return slices.Compact(all), cobra.ShellCompDirectiveNoFileComp
	}
	if err := cmd.RegisterFlagCompletionFunc("profile", f); err != nil {
		panic(err) // a flag that is not there
	}
}

// smallestChunk is the least --chunk: each is a file with its own digest.
const smallestChunk = 64 << 10

// check looks for flags that contradict each other, or say nothing to this target.
func (o *exportFlags) check(t target.Target) error {
	switch {
	case o.keep && o.renew:
		return usage(errors.New("--keep-identity and --new-identity exclude each other"))
	case o.level < 0 || o.level > 9:
		return usage(fmt.Errorf("--level %d: levels are 1 to 9", o.level))
	case o.compression != "" && o.compression != "deflate" && o.compression != "zstd":
		return hint(usage(fmt.Errorf("--compression %s", o.compression)), "there are deflate and zstd")
	case o.digest != "" && ovf.Algorithm(strings.ToUpper(o.digest)).New() == nil:
		return hint(usage(fmt.Errorf("--digest %s", o.digest)), "there are sha256, sha1, sha512")
	case o.ovf != "" && o.ovf != "1.1" && o.ovf != "2.0":
		return hint(usage(fmt.Errorf("--ovf %s", o.ovf)), "there are 1.1 and 2.0")
	case o.chunk != 0 && o.chunk < smallestChunk:
		return usage(fmt.Errorf("--chunk %d: at least %d bytes", o.chunk, smallestChunk))
	case (o.key == "") != (o.cert == ""):
		return usage(errors.New("--sign-key and --sign-cert belong together"))
	}
	ova := []string{"ova", "ovf"}
	for _, f := range []struct {
		name  string
		given bool
		forms []string
	}{
		{"ovf", o.ovf != "", ova}, {"digest", o.digest != "", ova}, {"gzip-disks", o.gzip, ova}, {"chunk", o.chunk != 0, ova},
		{"sign-key", o.key != "", ova}, {"base", o.base != "", ova}, {"start-order", o.start != "", ova}, {"image-dir", o.imageDir != "", []string{"libvirt", "xl"}},
	} {
		if f.given && !slices.Contains(f.forms, t.Name()) {
			return usage(fmt.Errorf("--%s is for --to %s, and this is %s", f.name, strings.Join(f.forms, " or "), t.Name()))
		}
	}
	return nil
}

// check looks at the values of flags that describe a machine.
func (o *sourceFlags) check() error {
	switch {
	case o.cpus < 0:
		return usage(fmt.Errorf("--cpus %d", o.cpus))
	case o.firmware != "" && o.firmware != "bios" && o.firmware != "efi":
		return hint(usage(fmt.Errorf("--firmware %s", o.firmware)), "there are bios and efi")
	case o.bus != "" && !slices.Contains(buses, o.bus):
		return hint(usage(fmt.Errorf("--bus %s", o.bus)), "there are %s", strings.Join(buses, ", "))
	}
	_, err := o.drives()
	return err
}

// buses are those that --bus takes.
var buses = []string{"ide", "sata", "scsi", "nvme", "virtio"}

// useless looks for flags that say nothing of what was found.
func (s *source) useless(o *sourceFlags) error {
	for _, f := range []struct {
		name  string
		given bool
	}{{"disk", o.bareDisks != nil}, {"memory", o.memory != 0}, {"cpus", o.cpus != 0}, {"firmware", o.firmware != ""}, {"bus", o.bus != ""}, {"guest", o.guest != ""}} {
		if f.given && !s.bare {
			return usage(fmt.Errorf("--%s is for a disk without a configuration, and %s has one", f.name, s.name))
		}
	}
	switch {
	case o.system != "" && s.Envelope == nil:
		return usage(fmt.Errorf("--system is for an OVF package, and %s is none", s.name))
	case o.option != "" && s.Envelope == nil:
		return usage(fmt.Errorf("--deployment-option is for an OVF package, and %s is none", s.name))
	}
	return nil
}

// A source is a machine that was opened, and what must be closed behind it.
type source struct {
	*target.VM
	name string   // as the user calls it
	root *os.Root // where its files are; nil: in an archive or a package
	pkg  *ova.Package
	bare bool         // disks alone
	more []*target.VM // the further machines of a package
	done []func()
}

func (s *source) close() {
	for _, f := range slices.Backward(s.done) {
		f()
	}
}

// openSourceVM opens the machine that an argument names. Errors begin with it.
func (p *program) openVM(ctx context.Context, arg string, o *sourceFlags, spool string) (*source, error) {
	if err := o.check(); err != nil {
		return nil, err
	}
	s := &source{name: arg}
	if err := p.findVM(ctx, s, arg, o, spool); err != nil {
		s.close()
		return nil, err
	}
	if err := s.useless(o); err != nil {
		s.close()
		return nil, err
	}
	if err := p.checkRunning(ctx, s, o); err != nil {
		s.close()
		return nil, err
	}
	return s, nil
}

func (p *program) findVM(ctx context.Context, s *source, arg string, o *sourceFlags, spool string) error {
	if arg == "-" {
		return p.findPackage(ctx, s, arg, o, spool)
	}
	st, err := os.Stat(arg)
	if errors.Is(err, fs.ErrNotExist) || strings.HasPrefix(arg, "#") {
		return p.findArchive(ctx, s, arg, o) // an entry, or nothing
	}
	if err != nil {
		return plainPath(err)
	}
	if st.IsDir() {
		return p.findDir(s, arg, o)
	}
	head, err := readHead(arg)
	if err != nil {
		return err
	}
	if target.Form(filepath.Base(arg), head, p.configs) != "" {
		return p.findConfig(s, arg, o)
	}
	if f, src, err := openSource(arg); err == nil {
		_, aerr := archive.Open(src, p.codecs)
		f.Close()
		if aerr == nil || !errors.Is(aerr, archive.ErrForeign) {
			return p.findArchive(ctx, s, arg, o)
		}
		if p.isPackage(head) {
			return p.findPackage(ctx, s, arg, o, spool)
		}
	}
	return p.findDisk(s, arg, o)
}

// readHead reads the first bytes of a file.
func readHead(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, plainPath(err)
	}
	defer f.Close()
	head := make([]byte, 64<<10)
	n, err := io.ReadFull(f, head)
	if err != nil && !errors.Is(err, io.EOF) && !errors.Is(err, io.ErrUnexpectedEOF) {
		return nil, plainPath(err)
	}
	return head[:n], nil
}

// openTree makes a directory on disk the machine's tree.
func (s *source) openTree(path string) (*layers.Dir, error) {
	abs, err := filepath.Abs(path)
	if err != nil {
		return nil, err
	}
	root, err := os.OpenRoot(abs)
	if err != nil {
		return nil, plainPath(err)
	}
	s.root = root
	d := layers.NewDir(root.FS(), abs)
	s.done = append(s.done, func() {
		d.Close() // only read
		root.Close()
	})
	return d, nil
}

func (p *program) openOptions(o *sourceFlags) target.OpenOptions {
	return target.OpenOptions{Configs: p.configs, Formats: p.disks, System: o.system, Option: o.option}
}

func (p *program) findDir(s *source, arg string, o *sourceFlags) error {
	d, err := s.openTree(arg)
	if err != nil {
		return err
	}
	return p.findInTree(s, d, s.root.FS(), o, p.openOptions(o))
}

// findConfig takes a configuration's directory as the tree, or the one above where the disks are beside that.
func (p *program) findConfig(s *source, arg string, o *sourceFlags) error {
	abs, err := filepath.Abs(arg)
	if err != nil {
		return err
	}
	dir, name := filepath.Split(abs)
	dir = filepath.Clean(dir)
	if up, base := filepath.Split(dir); strings.EqualFold(base, layers.HyperVMachines) {
		dir, name = up, base+"/"+name
	}
	d, err := s.openTree(dir)
	if err != nil {
		return err
	}
	c := *o
	c.config = name
	return p.findInTree(s, d, s.root.FS(), &c, p.openOptions(o))
}

// findInTree looks for a machine's configuration in a tree, or else for its disks.
func (p *program) findInTree(s *source, d *layers.Dir, fsys fs.FS, o *sourceFlags, oo target.OpenOptions) error {
	name := o.config
	if name == "" {
		list, err := target.Find(fsys, p.configs)
		if err != nil {
			return fmt.Errorf("%s: %w", s.name, plainPath(err))
		}
		switch {
		case len(list) == 0:
			if is, err := p.openBox(s, fsys, o); is || err != nil {
				return err
			}
			return p.findDisks(s, d, fsys, o, oo)
		case len(list) > 1:
			var names []string
			for _, c := range list {
				names = append(names, quoted(c.Path))
			}
			return hint(usage(fmt.Errorf("%s: %s are there", s.name, count(len(list), "configuration"))), "--config PATH says which: %s", strings.Join(names, ", "))
		}
		name = list[0].Path
	}
	if !fs.ValidPath(name) {
		return usage(fmt.Errorf("--config %q is no path in %s", name, s.name))
	}
	if strings.EqualFold(path.Ext(name), ".ovf") {
		return p.openTreeOVA(s, fsys, name, o, oo.Unix)
	}
	if _, err := fs.Stat(fsys, name); errors.Is(err, fs.ErrNotExist) {
		return p.noConfig(s, fsys, name)
	}
	var err error
	if s.VM, err = target.Open(d, name, oo); err != nil {
		return fmt.Errorf("%s: %w", s.name, err)
	}
	s.addSnapshots(fsys)
	if s.Unix != 0 {
		return nil
	}
	return s.setTime(fsys)
}

// noConfig is what --config names and is not there.
func (p *program) noConfig(s *source, fsys fs.FS, name string) error {
	err := usage(fmt.Errorf("%s: there is no %s", s.name, quoted(name)))
	list, ferr := target.Find(fsys, p.configs)
	if ferr != nil || len(list) == 0 {
		return err
	}
	var names []string
	for _, c := range list {
		names = append(names, quoted(c.Path))
	}
	return hint(err, "there are %s", strings.Join(names, ", "))
}

var snapshotName = regexp.MustCompile(`(?m)^snapshot[0-9]+\.uid *= *"(.*)"`)

// addSnapshots adds the earlier states of a machine of VMware's, which keeps them in a file of their own.
func (s *source) addSnapshots(fsys fs.FS) {
	if s.Form != "vmx" {
		return
	}
	f, err := fsys.Open(strings.TrimSuffix(s.Config, path.Ext(s.Config)) + ".vmsd")
	if err != nil {
		return // there are none
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, machine.MaxConfig))
	if err != nil {
		s.Notes = append(s.Notes, "its list of snapshots cannot be read")
	}
	for _, m := range snapshotName.FindAllSubmatch(b, -1) {
		s.Machine.Others = append(s.Machine.Others, machine.Other{Kind: "snapshot", Name: string(m[1])})
	}
}

func (p *program) findArchive(ctx context.Context, s *source, arg string, o *sourceFlags) error {
	sh := p.newShelf(o.search)
	s.done = append(s.done, sh.close)
	if _, err := sh.archive(ctx, arg); err != nil {
		return err
	}
	c, err := sh.chain(ctx)
	if err != nil {
		return err
	}
	fsys := c.FS(c.Head())
	d := layers.NewDir(fsys, "")
	s.done = append(s.done, func() { d.Close() })
	oo := p.openOptions(o)
	oo.Unix = c.Snapshot(c.Head()).Entry.Time.Unix()
	return p.findInTree(s, d, fsys, o, oo)
}

// setTime takes the newest time of the files in the tree that belong to the machine as that of its state.
func (s *source) setTime(fsys fs.FS) error {
	if n, set, err := sourceDate(); set || err != nil {
		s.Unix = n
		return err
	}
	names := []string{s.Config}
	for i := range s.Machine.Drives {
		if name, _, err := s.File(s.Machine.Drives[i].Media); err == nil {
			names = append(names, name)
		}
	}
	for _, name := range names {
		if st, err := fs.Stat(fsys, name); err == nil {
			s.Unix = max(s.Unix, st.ModTime().Unix())
		}
	}
	return nil
}

// checkRunning refuses a machine that may be running.
func (p *program) checkRunning(ctx context.Context, s *source, o *sourceFlags) error {
	if s.root == nil || o.live {
		return nil
	}
	var images []layers.Layer
	for _, d := range s.Machine.Disks() {
		if disk, err := s.Disk(d); err == nil { // else the plan will say it
			images = append(images, disk.Layers...)
		}
	}
	return refuseInUse(ctx, s.root, s.name, images, "shut the machine down; --live reads its disks nevertheless, and what is read may be torn")
}
