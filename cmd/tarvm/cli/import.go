package cli

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/spf13/cobra"

	"tarvm/archive"
	"tarvm/ovf/target"
)

func (p *program) importCommand() *cobra.Command {
	var o exportFlags
	var dir string
	cmd := &cobra.Command{
		Use:   "import FILE [-C DIR [--to FORM]]",
		Short: "Add a file to the repository, or make a machine's directory of a package",
		Long: `Without -C and -o: adds what FILE holds to the repository. Archives of tarvm (of an entry, or of a whole chain behind each other)
become entries, after all has been verified; what is there already is said. A machine in any other form is saved as an entry.

With -C: makes a directory that a hypervisor opens of a package that another one wrote: OVF in a directory, an OVA, a zip, each
compressed or not, an XVA, a Vagrant box; or of anything else that tarvm export reads. Digests in the package are verified.
- reads a package from a pipe.

` + p.targetsHelp(false) + `
Of a package with several machines each gets a directory in DIR, named after it; --system takes one, into DIR itself.

Without --to the form is that of the platform for which the package was written. With -o FILE the directory is packed
into an archive at once, as tarvm pack does; it needs room for the disks beside FILE meanwhile.`,
		Example: `  tarvm import vm.ova -C vm
  tarvm import vm.xva -C /srv/vm --to libvirt
  tarvm import vm.box -o vm.tar.zst
  tarvm import web.tar.zst`,
		Args: args(1, 1, "one file"),
		RunE: func(cmd *cobra.Command, a []string) error {
			if dir == "" && o.out == "" && !o.dryRun && o.to == "" {
				return p.importEntry(cmd.Context(), a[0], &o.chainFlags, &o)
			}
			if dir == "" && o.out == "" && !o.dryRun {
				return hint(usage(errors.New("no output")), "-C DIR, or -o FILE for an archive")
			}
			if o.project != "" {
				return usage(errors.New("--project is for what goes into the repository, without -C and -o"))
			}
			if dir != "" && o.out != "" {
				return usage(errors.New("-C and -o exclude each other"))
			}
			return p.importPackage(cmd.Context(), a[0], dir, &o)
		},
	}
	o.register(p, cmd)
	f := cmd.Flags()
	f.StringVarP(&dir, "directory", "C", "", "the `DIR` to make; it is empty, or not there yet")
	f.StringVarP(&o.out, "output", "o", "", "the archive to make, `FILE`")
	f.StringVar(&o.to, "to", "", "the `FORM` of the directory, see above (default: by the package)")
	f.StringVar(&o.profile, "profile", "", "the `PROFILE`, for whom the form is written, see above")
	f.BoolVar(&o.force, "force", false, "replace FILE if it is there")
	f.StringVar(&o.project, "project", "", "in the repository: the group of entries, `NAME` (default: as the archives say)")
	o.registerOutput(p, cmd)
	var names []string
	for _, t := range p.targets {
		if !t.Single() {
			names = append(names, t.Name())
		}
	}
	fixed(cmd, "to", names...)
	return cmd
}

// platformForms are the forms of the directories that platforms open.
var platformForms = map[string]string{"vmware": "vmx", "virtualbox": "vbox", "kvm": "libvirt", "qemu": "libvirt", "xen": "xl"}

func (p *program) importPackage(ctx context.Context, arg, dir string, o *exportFlags) error {
	file := o.out
	if file != "" && !special(file) {
		// The directory is made beside the archive, which is where there is room for it.
		if _, err := os.Lstat(file); err == nil && !o.force {
			return hint(fmt.Errorf("%s: %w", file, fs.ErrExist), "--force overwrites it")
		}
		tmp, err := archive.NewTempDir(file)
		if err != nil {
			return plainPath(err)
		}
		defer tmp.Remove()
		dir = filepath.Join(tmp.Path, "vm")
	} else if file != "" {
		return usage(fmt.Errorf("%s: an import goes to a file", file))
	}
	o.out, o.within = dir, o.within || file != ""
	o.several = true
	s, err := p.openVM(ctx, arg, &o.sourceFlags, dir)
	if err != nil {
		return p.openError(err)
	}
	defer s.close()
	if o.to == "" {
		if o.to = platformForms[s.Machine.Platform]; o.to == "" {
			o.to = "vmx"
		}
	}
	t, err := p.target(o)
	if err != nil {
		return err
	}
	if t.Single() {
		return hint(usage(fmt.Errorf("%s is a package", t.Name())), "tarvm export %s -o FILE --to %s", quoted(arg), t.Name())
	}
	if err := o.check(t); err != nil {
		return err
	}
	if err := p.verifyPackage(ctx, s); err != nil {
		return err
	}
	json := p.json
	if file != "" {
		p.json = false // one object: that of the archive
	}
	to, err := p.exportOptions(o, t)
	if err != nil {
		return err
	}
	if len(s.more) > 0 {
		err = p.transferEach(ctx, s, t, to, o)
	} else {
		err = p.transfer(ctx, s, t, to, o)
	}
	if err == nil && o.within && !o.dryRun {
		err = setTimes(dir, time.Unix(s.Unix, 0))
	}
	if err != nil || file == "" || o.dryRun {
		return err
	}
	p.json = json
	name := o.name
	if name == "" {
		name = target.FileName(s.Machine.Name)
		if len(s.more) > 0 {
			name = stem(arg)
		}
	}
	return p.pack(ctx, dir, &packFlags{out: file, name: name, force: o.force, workers: o.workers, time: fmt.Sprintf("@%d", s.Unix)})
}

// setTimes gives all files of a tree, and the tree, the time of what they hold, so that an archive of them is the same
// each time.
func setTimes(dir string, at time.Time) error {
	return filepath.WalkDir(dir, func(name string, _ fs.DirEntry, err error) error {
		if err != nil {
			return plainPath(err)
		}
		return os.Chtimes(name, at, at)
	})
}
