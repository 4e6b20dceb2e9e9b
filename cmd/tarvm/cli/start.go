package cli

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"tarvm/cmd/tarvm/platform"
	"tarvm/cmd/tarvm/settings"
	"tarvm/ovf/target"
)

// launchFlags say how a machine is started, and by what.
type launchFlags struct {
	platform string
	connect  string
	config   string
	headless bool
	define   bool
	print    bool
}

func (o *launchFlags) register(cmd *cobra.Command) {
	f := cmd.Flags()
	f.StringVar(&o.platform, "platform", "", "use this `PLATFORM`: vmware, virtualbox, libvirt, xen or qemu (default: the one for the machine's form)")
	f.StringVar(&o.connect, "connect", "", "libvirt's `URI` (default: LIBVIRT_DEFAULT_URI, or qemu:///system for root, and qemu:///session for others)")
	f.StringVar(&o.config, "config", "", "the machine's configuration, a `PATH` in the directory, where there are several")
	f.BoolVar(&o.print, "print", false, "only write the commands, as a line for a shell")
	fixed(cmd, "platform", platform.VMware, platform.VirtualBox, platform.Libvirt, platform.Xen, platform.QEMU)
}

// registerStart adds what only starting has.
func (o *launchFlags) registerStart(cmd *cobra.Command) {
	f := cmd.Flags()
	f.BoolVar(&o.headless, "headless", false, "without a window")
	f.BoolVar(&o.define, "define", false, "have libvirt keep the machine's definition when it is off")
}

func (p *program) openCommand() *cobra.Command {
	var o restoreFlags
	var l launchFlags
	var noRestore bool
	cmd := &cobra.Command{
		Use:   "open ENTRY [AREA]",
		Short: "Restore an entry and start the machine",
		Long: `Makes AREA the state that was saved as ENTRY, as tarvm restore does, and starts the machine in it by the hypervisor that
is installed and opens machines of its form: vmrun (VMware), VBoxManage, virsh, xl, or QEMU by itself. A machine that was
saved while it was suspended goes on from its memory.

With --print it is restored, and the commands that would start it are written and not run; --print --no-restore takes
the machine that is in AREA already. A machine whose form is a script of QEMU's is started with --platform qemu: the
script is a program, and is run as it is.`,
		Example: `  tarvm open 3
  tarvm open 'before the upgrade' web --save-first --headless
  tarvm open latest ./vm --print`,
		Args: args(1, 2, "an entry, and perhaps a working area"),
		RunE: func(cmd *cobra.Command, a []string) error {
			if noRestore && !l.print {
				return hint(usage(errors.New("--no-restore is for --print")), "tarvm vm start starts the machine in a working area as it is")
			}
			return p.open(cmd.Context(), a, &o, &l, noRestore)
		},
	}
	o.register(p, cmd)
	l.register(cmd)
	l.registerStart(cmd)
	cmd.Flags().BoolVar(&noRestore, "no-restore", false, "with --print: do not restore, say what would start the machine that is there")
	return cmd
}

// openedEntry is what open writes with --json.
type openedEntry struct {
	*restoredEntry
	Launch *platform.Launch `json:"launch"`
}

func (p *program) open(ctx context.Context, a []string, o *restoreFlags, l *launchFlags, noRestore bool) error {
	if noRestore {
		return p.act(ctx, platform.Start, a[1:], l)
	}
	restored, dir, err := p.restoreArea(ctx, a, o)
	if err != nil {
		return err
	}
	out := openedEntry{restoredEntry: restored}
	switch {
	case p.json:
	case l.print:
		p.note("%s", p.restoredText(restored, dir))
	default:
		if err := p.printf("%s\n", printable(p.restoredText(restored, dir))); err != nil {
			return err
		}
	}
	if out.Launch, err = p.launch(ctx, dir, "open", l); err != nil || !p.json {
		return err
	}
	return p.writeJSON(&out)
}

// vmActions are the verbs below tarvm vm.
var vmActions = []struct {
	action      platform.Action
	short, long string
}{
	{platform.Start, "Start the machine in a working area", "A machine that is suspended is resumed instead: tarvm vm resume."},
	{platform.Suspend, "Suspend the machine, with its memory", "tarvm save then saves it with its memory, and tarvm open goes on from there."},
	{platform.Resume, "Go on with a suspended machine", ""},
	{platform.Stop, "Ask the guest to shut down", "The guest may take its time, or not listen: tarvm vm status says whether it has, tarvm vm kill does not ask."},
	{platform.Kill, "Take the machine's power away", "What the guest has not written to its disks is lost."},
	{platform.Status, "Say what the machine is doing", "Writes running, paused, suspended, off, or unknown."},
}

func (p *program) vmCommand() *cobra.Command {
	cmd := &cobra.Command{Use: "vm", Short: "Start and stop the machine in a working area", Args: noVerb, RunE: p.onlyHelp}
	for _, v := range vmActions {
		var o launchFlags
		long := v.short + ", AREA or the default one, by the hypervisor that is installed and opens machines of its form."
		if v.long != "" {
			long += "\n" + v.long
		}
		c := &cobra.Command{
			Use:               string(v.action) + " [AREA]",
			Short:             v.short,
			Long:              long,
			Args:              args(0, 1, "at most a working area"),
			ValidArgsFunction: p.completeAreas,
			RunE:              func(cmd *cobra.Command, a []string) error { return p.act(cmd.Context(), v.action, a, &o) },
		}
		o.register(c)
		if v.action == platform.Start || v.action == platform.Resume {
			o.registerStart(c)
		}
		p.jsonFlag(c)
		cmd.AddCommand(c)
	}
	return cmd
}

// actedOn is what the verbs of tarvm vm write with --json.
type actedOn struct {
	Dir    string           `json:"dir"`
	Launch *platform.Launch `json:"launch"`
	State  platform.State   `json:"state,omitempty"`
}

// act does something with the machine of an area.
func (p *program) act(ctx context.Context, action platform.Action, a []string, o *launchFlags) error {
	set, err := loadSettings()
	if err != nil {
		return err
	}
	given := settings.Given{}
	if len(a) > 0 {
		given.Area = a[0]
	}
	sel, err := set.Select(given)
	if err != nil {
		return settingsError(err)
	}
	area, err := (&session{sel: sel}).area()
	if err != nil {
		return err
	}
	out := actedOn{Dir: area.Dir}
	if action != platform.Status || o.print {
		out.Launch, err = p.launch(ctx, area.Dir, action, o)
	} else if out.Launch, err = p.plan(area.Dir, action, o); err == nil {
		if out.State, err = out.Launch.State(ctx); err == nil && !p.json {
			return p.printf("%s\n", out.State)
		}
	}
	if err != nil || !p.json {
		return err
	}
	return p.writeJSON(&out)
}

// actOpen starts a machine, or goes on from the memory that was saved with it.
const actOpen platform.Action = "open"

// launch does something with the machine in a directory, or prints how.
func (p *program) launch(ctx context.Context, dir string, action platform.Action, o *launchFlags) (*platform.Launch, error) {
	wanted := action
	if action == actOpen {
		action = platform.Start
	}
	l, err := p.plan(dir, action, o)
	if err != nil {
		return nil, err
	}
	if l.Saved && action == platform.Start {
		if wanted != actOpen && l.Platform != platform.VMware { // whose start resumes
			return nil, hint(fmt.Errorf("%s: the machine is suspended: starting it would give up its memory", dir), "tarvm vm resume goes on from it")
		}
		if l, err = p.plan(dir, platform.Resume, o); err != nil {
			return nil, err
		}
	}
	for _, n := range l.Notes {
		p.note("%s", n)
	}
	if o.print {
		if p.json {
			return l, nil
		}
		return l, p.printf("%s\n", printable(l.Shell()))
	}
	var says io.Writer
	if !p.quiet {
		says = p.stderr
	}
	p.bar.clear()
	if err := platform.Run(ctx, l, says, says); err != nil {
		return nil, fmt.Errorf("%s: %w", dir, err)
	}
	return l, nil
}

// plan says how something is done with the machine in a directory.
func (p *program) plan(dir string, action platform.Action, o *launchFlags) (*platform.Launch, error) {
	vm, err := p.machineIn(dir, o)
	if err != nil {
		return nil, err
	}
	l, err := platform.Plan(vm, action, platform.Options{Platform: o.platform, Headless: o.headless, Connect: o.connect, Define: o.define})
	var none *platform.NoPlatformError
	if errors.As(err, &none) {
		return nil, hint(fmt.Errorf("%s: %w", dir, err), "%s", none.Hint())
	}
	if err != nil {
		return nil, fmt.Errorf("%s: %w", dir, err)
	}
	return l, nil
}

// machineIn finds the configuration of the machine in a directory.
func (p *program) machineIn(dir string, o *launchFlags) (platform.VM, error) {
	vm := platform.VM{}
	abs, err := filepath.Abs(dir)
	if err != nil {
		return vm, err
	}
	vm.Dir = abs
	root, err := os.OpenRoot(abs)
	if err != nil {
		return vm, plainPath(err)
	}
	defer root.Close()
	if o.config == "" {
		list, err := target.Find(root.FS(), p.configs)
		if err != nil {
			return vm, fmt.Errorf("%s: %w", dir, plainPath(err))
		}
		if len(list) == 0 {
			return p.scriptIn(vm, root, o)
		}
	} else if is, err := isScript(root, o.config); err == nil && is {
		return script(vm, o.config, o)
	}
	s := &source{name: dir}
	defer s.close()
	if err := p.findDir(s, abs, &sourceFlags{config: o.config}); err != nil {
		return vm, p.openError(err)
	}
	vm.Config, vm.Form, vm.Machine = s.Config, s.Form, s.Machine
	return vm, nil
}

// isScript reports whether a file is a script that starts QEMU, as tarvm export --to qemu writes it.
func isScript(root *os.Root, name string) (bool, error) {
	f, err := root.Open(filepath.FromSlash(name))
	if err != nil {
		return false, err
	}
	defer f.Close()
	head := make([]byte, 64)
	n, err := io.ReadFull(f, head)
	if err != nil && !errors.Is(err, io.ErrUnexpectedEOF) {
		return false, err
	}
	return bytes.HasPrefix(head[:n], []byte("#!/bin/sh\n# Starts a virtual machine under QEMU")), nil
}

// scriptIn looks for the script of a machine that has no configuration.
func (p *program) scriptIn(vm platform.VM, root *os.Root, o *launchFlags) (platform.VM, error) {
	d, err := root.Open(".")
	if err != nil {
		return vm, plainPath(err)
	}
	defer d.Close()
	names, err := d.Readdirnames(-1)
	if err != nil {
		return vm, plainPath(err)
	}
	names = slices.DeleteFunc(names, func(n string) bool {
		is, err := isScript(root, n)
		return !strings.HasSuffix(n, ".sh") || err != nil || !is
	})
	slices.Sort(names)
	switch len(names) {
	case 0:
		return vm, fmt.Errorf("%s: %w: no .vmx, .vbox, domain XML, xl.cfg or script of QEMU's", vm.Dir, target.ErrNoMachine)
	case 1:
		return script(vm, names[0], o)
	}
	return vm, hint(usage(fmt.Errorf("%s: %s are there", vm.Dir, count(len(names), "script"))), "--config PATH says which: %s", strings.Join(names, ", "))
}

// script takes a script for a machine. It is a program, which may have come from anywhere: whoever runs it says so.
func script(vm platform.VM, name string, o *launchFlags) (platform.VM, error) {
	if o.platform != platform.QEMU {
		return vm, hint(fmt.Errorf("%s: the machine is started by a script, %s, which is a program", vm.Dir, quoted(name)), "--platform qemu runs it, as it is")
	}
	vm.Config, vm.Form = name, "qemu"
	return vm, nil
}
