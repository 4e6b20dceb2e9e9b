package platform

import (
	"errors"
	"fmt"
	"path"
	"path/filepath"
	"slices"
	"strings"

	"tarvm/formats/libvirt"
	"tarvm/formats/machine"
	"tarvm/formats/qemu"
	"tarvm/formats/xl"
)

// A VM is a machine in a directory.
type VM struct {
	Dir    string // absolute
	Config string // the file that the platform opens: its name in Dir, with slashes
	Form   string // that of Config: vmx, vbox, libvirt, xl, or qemu for a script
	// Machine is what Config says. A script has none.
	Machine *machine.Machine
}

// Options say how. The zero value works.
type Options struct {
	// Platform is the one that is to be used; empty: the one for the form.
	Platform string
	// Headless starts without a window.
	Headless bool
	// Connect is libvirt's URI; empty: LIBVIRT_DEFAULT_URI, else Xen's for its machines, else qemu:///system for root, and
	// qemu:///session for others.
	Connect string
	// Define has libvirt keep the machine's definition. Without, the host forgets it when the machine is off.
	Define bool
	Host   Host
}

// forms are the platforms, in the order in which they are named, with the form that each opens.
var forms = []struct{ platform, form string }{
	{VMware, "vmx"}, {VirtualBox, "vbox"}, {Libvirt, "libvirt"}, {Xen, "xl"}, {QEMU, "qemu"},
}

// Plan says how an action is done. Nothing is asked or changed: what the steps need to know, they ask. Errors are
// *NoPlatformError, *ProgramError, *NameError, and those of encoders.
func Plan(vm VM, action Action, o Options) (*Launch, error) {
	if !filepath.IsAbs(vm.Dir) && !strings.Contains(vm.Dir, `:\`) {
		return nil, fmt.Errorf("%s: is no absolute path", vm.Dir)
	}
	p := &planner{VM: vm, o: o, h: o.Host.filled(), action: action}
	p.config = p.file(vm.Config)
	arch := "x86_64"
	if vm.Machine != nil && vm.Machine.Arch != "" {
		arch = vm.Machine.Arch
		if arch == "i686" {
			arch = "i386"
		}
	}
	missing := &NoPlatformError{Form: vm.Form}
	for _, f := range forms {
		wanted := o.Platform == "" && f.form == vm.Form || o.Platform == f.platform && (f.form == vm.Form || f.platform == QEMU && vm.Machine != nil)
		there := p.h.installed(f.platform, arch)
		switch {
		case wanted && there:
			return p.plan(f.platform)
		case there:
			missing.Others = append(missing.Others, f.form)
		case wanted:
			for _, name := range p.h.programs(f.platform, arch) {
				missing.Looked = append(missing.Looked, Looked{f.platform, name, p.h.places(name)})
			}
		}
	}
	if o.Platform != "" && len(missing.Looked) == 0 {
		return nil, fmt.Errorf("platform %q does not start machines of form %s: %w", o.Platform, vm.Form, missing)
	}
	return nil, missing
}

type planner struct {
	VM
	o      Options
	h      Host
	action Action
	config string // absolute
	notes  []string
}

// errAction is for an action that there is not.
var errAction = errors.New("no such action")

func (p *planner) plan(platform string) (*Launch, error) {
	var steps []Command
	var err error
	switch platform {
	case VMware:
		steps, err = p.vmware()
	case VirtualBox:
		steps, err = p.virtualBox()
	case Libvirt:
		steps, err = p.libvirt()
	case Xen:
		steps, err = p.xen()
	case QEMU:
		steps, err = p.qemu()
	}
	if err != nil {
		return nil, err
	}
	if len(steps) == 0 {
		return nil, fmt.Errorf("%s: %w", p.action, errAction)
	}
	return &Launch{Platform: platform, Action: p.action, Steps: steps, Notes: p.notes, config: p.config, Saved: p.suspended(platform)}, nil
}

func (p *planner) note(format string, args ...any) {
	p.notes = append(p.notes, fmt.Sprintf(format, args...))
}

// file is the path of a file in the directory.
func (p *planner) file(name string) string {
	if p.h.OS == "windows" {
		return strings.TrimRight(p.Dir, `\/`) + `\` + strings.ReplaceAll(name, "/", `\`)
	}
	return path.Join(p.Dir, name)
}

// saved is the file for the memory, where the platform does not name one.
func (p *planner) saved() string {
	base := path.Base(p.Config)
	return p.file(path.Join(path.Dir(p.Config), strings.TrimSuffix(base, path.Ext(base))+".sav"))
}

// one is a single command.
func one(why string, args ...string) ([]Command, error) {
	return []Command{{Args: args, Why: why}}, nil
}

// why says what the single command of an action is for.
func (a Action) why() string {
	return map[Action]string{
		Start: "starts the machine", Suspend: "suspends the machine", Resume: "resumes the machine",
		Stop: "asks the guest to shut down", Kill: "switches the machine off", Status: "asks for the machine's state",
	}[a]
}

func (p *planner) vmware() ([]Command, error) {
	p.outside(p.media())
	vmrun := p.h.find("vmrun")
	if vmrun == "" {
		if p.action != Start && p.action != Resume {
			return nil, &ProgramError{VMware, p.action, []string{"vmrun"}}
		}
		if p.o.Headless {
			return nil, fmt.Errorf("without a window: %w", &ProgramError{VMware, p.action, []string{"vmrun"}})
		}
		p.note("VMware Player runs until its window is closed")
		return one(p.action.why(), p.h.find("vmplayer"), p.config)
	}
	product := "ws"
	if p.h.OS == "darwin" {
		product = "fusion"
	} else if p.h.find("vmware") == "" && p.h.find("vmplayer") != "" {
		product = "player"
	}
	run := func(args ...string) ([]Command, error) {
		return one(p.action.why(), append([]string{vmrun, "-T", product}, args...)...)
	}
	switch p.action {
	case Start, Resume:
		if p.o.Headless {
			return run("start", p.config, "nogui")
		}
		return run("start", p.config, "gui")
	case Suspend:
		return run("suspend", p.config, "hard") // soft ones wait for scripts of VMware Tools in the guest
	case Stop:
		return run("stop", p.config, "soft")
	case Kill:
		return run("stop", p.config, "hard")
	case Status:
		return run("list")
	}
	return nil, nil
}

// id is by what the platform knows the machine: where it tells the guest another UUID, that is not it.
func (p *planner) id() string {
	if p.Machine == nil {
		return ""
	}
	if p.Machine.InstanceUUID != "" {
		return p.Machine.InstanceUUID
	}
	return p.Machine.UUID
}

func (p *planner) virtualBox() ([]Command, error) {
	p.outside(p.media())
	manage := p.h.find("VBoxManage")
	// Machines are named by the path of their settings, which VirtualBox takes for a name: never is another one meant that
	// has the same name or, being a copy, the same UUID.
	info := []string{manage, "showvminfo", p.config, "--machinereadable"}
	switch p.action {
	case Start, Resume:
		window := "gui"
		if p.o.Headless {
			window = "headless"
		}
		return []Command{
			{
				Args: []string{manage, "registervm", p.config}, Why: "registers the machine",
				Unless: &Question{Args: info, Line: `CfgFile="` + strings.NewReplacer(`\`, `\\`, `"`, `\"`).Replace(p.config) + `"`},
			},
			{Args: []string{manage, "startvm", p.config, "--type", window}, Why: p.action.why()},
		}, nil
	case Suspend:
		return one(p.action.why(), manage, "controlvm", p.config, "savestate")
	case Stop:
		return one(p.action.why(), manage, "controlvm", p.config, "acpipowerbutton")
	case Kill:
		return one(p.action.why(), manage, "controlvm", p.config, "poweroff")
	case Status:
		return one(p.action.why(), info...)
	}
	return nil, nil
}

func (p *planner) libvirt() ([]Command, error) {
	virsh := p.h.find("virsh")
	uri := p.o.Connect
	if uri == "" {
		uri = p.h.Getenv("LIBVIRT_DEFAULT_URI")
	}
	switch {
	case uri != "":
	case p.Machine != nil && p.Machine.Platform == "xen":
		uri = "xen:///system"
	case p.h.Root:
		uri = "qemu:///system"
	default:
		uri = "qemu:///session"
	}
	domain := p.id()
	if domain == "" {
		if p.Machine == nil || p.Machine.Name == "" {
			return nil, fmt.Errorf("%s: the machine has neither a UUID nor a name", p.config)
		}
		if domain = p.Machine.Name; digits(domain) {
			return nil, &NameError{Libvirt, domain, "a name of digits is taken for the number of a running machine: give it a UUID"}
		}
	}
	run := func(why string, args ...string) Command {
		return Command{Args: append([]string{virsh, "--connect=" + uri}, args...), Why: why}
	}
	named := "--domain=" + domain
	switch p.action {
	case Start:
		xml, err := p.moved(libvirt.Form{})
		if err != nil {
			return nil, err
		}
		from, verb, why := p.config, "create", p.action.why()
		if p.o.Define {
			verb, why = "define", "defines the machine"
		}
		if xml != "" {
			from = "/dev/stdin"
		}
		steps := []Command{run(why, verb, "--file="+from)}
		steps[0].Stdin = xml
		if p.o.Define {
			steps = append(steps, run(p.action.why(), "start", named))
		}
		if !p.o.Headless {
			p.note("libvirt starts machines without a window; virt-viewer --connect=%s %s opens one", uri, domain)
		}
		return steps, nil
	case Suspend:
		return []Command{run(p.action.why(), "save", named, "--file="+p.saved())}, nil
	case Resume:
		// Resumed a second time, from disks that went on since, it would damage them.
		return []Command{run(p.action.why(), "restore", "--file="+p.saved()), {Args: []string{"rm", "-f", p.saved()}, Why: "removes the memory, which has been used"}}, nil
	case Stop:
		return []Command{run(p.action.why(), "shutdown", named)}, nil
	case Kill:
		return []Command{run(p.action.why(), "destroy", named)}, nil
	case Status:
		c := run(p.action.why(), "domstate", named)
		c.Env = []string{"LC_ALL=C"} // in words that are known here
		return []Command{c}, nil
	}
	return nil, nil
}

func (p *planner) xen() ([]Command, error) {
	program := p.h.find("xl")
	if p.Machine == nil || p.Machine.Name == "" {
		return nil, fmt.Errorf("%s: the machine has no name, by which Xen knows it", p.config)
	}
	name := p.Machine.Name
	if digits(name) {
		return nil, &NameError{Xen, name, "a name of digits is taken for the number of a running machine"}
	}
	switch p.action {
	case Start:
		text, err := p.moved(xl.Form{})
		if err != nil {
			return nil, err
		}
		if !p.o.Headless {
			p.note("Xen starts machines without a window; xl vncviewer %s and xl console %s open one", name, name)
		}
		if text != "" {
			// With this name xl reads nothing, and takes what further arguments say.
			return one(p.action.why(), program, "create", "-f", "/dev/null", text)
		}
		return one(p.action.why(), program, "create", "-f", p.config) // without -f, one with a = is taken for a setting
	case Suspend:
		return one(p.action.why(), program, "save", "--", name, p.saved())
	case Resume:
		return []Command{{Args: []string{program, "restore", p.saved()}, Why: p.action.why()}, {Args: []string{"rm", "-f", p.saved()}, Why: "removes the memory, which has been used"}}, nil
	case Stop:
		return one(p.action.why(), program, "shutdown", "--", name)
	case Kill:
		return one(p.action.why(), program, "destroy", "--", name)
	case Status:
		return one(p.action.why(), program, "list", "--", name)
	}
	return nil, nil
}

// digits reports whether s is a number, as programs read them.
func digits(s string) bool { return s != "" && strings.Trim(s, "0123456789") == "" }

// Files that QEMU makes beside the script while it runs.
const (
	pidFile = "qemu.pid"
	monitor = "qemu.monitor"
)

// maxSocket is how long the name of a socket may be in bytes: macOS has 103, others have more.
const maxSocket = 100

func (p *planner) qemu() ([]Command, error) {
	dir := p.Dir
	if i := strings.LastIndex(p.Config, "/"); i >= 0 {
		dir = path.Join(p.Dir, p.Config[:i])
	}
	sh := func(script string) ([]Command, error) {
		return []Command{{Args: []string{"sh", "-c", script}, Dir: dir, Why: p.action.why()}}, nil
	}
	// talk has the monitor do something.
	talk := func(command string) ([]Command, error) {
		for _, program := range [][]string{{"socat", "-t5", "-", "UNIX-CONNECT:" + monitor}, {"nc", "-U", "-q1", monitor}} {
			if exe := p.h.find(program[0]); exe != "" {
				return []Command{{Args: append([]string{exe}, program[1:]...), Dir: dir, Stdin: command + "\n", Why: p.action.why()}}, nil
			}
		}
		return nil, &ProgramError{QEMU, p.action, []string{"socat", "nc"}}
	}
	switch p.action {
	case Start:
		// QEMU removes the socket when it ends, if its name leads there from anywhere; names of sockets are short.
		socket := path.Join(dir, monitor)
		if len(socket) > maxSocket {
			socket = monitor
		}
		args := []string{"-pidfile", pidFile, "-monitor", "unix:" + strings.ReplaceAll(socket, ",", ",,") + ",server=on,wait=off"}
		if p.o.Headless {
			args = append(args, "-display", "none", "-daemonize")
		} else {
			p.note("QEMU runs until the machine is off")
		}
		if p.Form == "qemu" {
			p.note("%s is a program, which is run as it is", p.config)
			return []Command{{Args: append([]string{"sh", p.config}, args...), Why: p.action.why()}}, nil
		}
		script, losses, err := qemu.Script(p.within(dir), qemu.Options{})
		if err != nil {
			return nil, err
		}
		p.note("the machine is not one of QEMU's: what the guest finds is not quite what it was")
		for _, l := range losses {
			p.note("%s", l.String())
		}
		// The script takes its own name's folder for the machine's.
		return []Command{{Args: append([]string{"sh", "-c", string(script), path.Join(dir, "start.sh")}, args...), Why: p.action.why()}}, nil
	case Suspend:
		p.note("the machine is paused and its memory is not in a file: it is lost when QEMU ends")
		return talk("stop")
	case Resume:
		return talk("cont")
	case Stop:
		return talk("system_powerdown")
	case Kill:
		return sh(`kill "$(cat ` + pidFile + `)"`)
	case Status:
		return sh(`if test -s ` + pidFile + ` && kill -0 "$(cat ` + pidFile + `)" 2>/dev/null; then echo running; else echo off; fi`)
	}
	return nil, nil
}

// media are the names of the machine's own files.
func (p *planner) media() []*machine.Media {
	if p.Machine == nil {
		return nil
	}
	return owned(p.Machine)
}

func owned(m *machine.Machine) []*machine.Media {
	list := []*machine.Media{}
	for i := range m.Drives {
		list = append(list, &m.Drives[i].Media)
	}
	return append(list, &m.Firmware.Vars)
}

// elsewhere reports whether a medium is a file outside of the directory.
func (p *planner) elsewhere(m *machine.Media) bool {
	name := strings.ReplaceAll(m.Path, `\`, "/")
	if name == "" || m.Host != "" || m.URL != "" {
		return false
	}
	if !path.IsAbs(name) && !(len(name) > 2 && name[1] == ':' && name[2] == '/') {
		at := path.Join(path.Dir(p.Config), name)
		return at == ".." || strings.HasPrefix(at, "../")
	}
	dir := strings.TrimRight(strings.ReplaceAll(p.Dir, `\`, "/"), "/") + "/"
	return !strings.HasPrefix(path.Clean(name), dir)
}

// outside notes which files are not in the directory.
func (p *planner) outside(media []*machine.Media) {
	for _, m := range media {
		if p.elsewhere(m) {
			p.note("%s is outside of the machine's directory, and used where it is", m.Path)
		}
	}
}

// moved returns the configuration with the names that the machine's files have now; empty: the file will do. A file
// outside of the directory is that of its name within, if there is one: the directory was moved, or is a copy of the one
// that the configuration was written for. Relative names, which platforms take from wherever they run, become absolute.
func (p *planner) moved(form machine.Config) (string, error) {
	if p.Machine == nil {
		return "", nil
	}
	m := p.Machine.Clone()
	var left []*machine.Media
	changed := false
	for _, f := range owned(m) {
		if f.Path == "" || f.Host != "" || f.URL != "" {
			continue
		}
		away := p.elsewhere(f)
		in := f.Path
		switch {
		case away:
			in = path.Base(in)
		case path.IsAbs(in):
			continue
		}
		name := p.file(path.Join(path.Dir(p.Config), in))
		if !p.h.Exists(name) {
			left = append(left, f)
			continue
		}
		if away {
			p.note("%s: %s is used, which is in the machine's directory", f.Path, name)
		}
		f.Path, changed = name, true
	}
	p.outside(left)
	if !changed {
		return "", nil
	}
	text, losses, err := form.Encode(m, machine.EncodeOptions{})
	for _, l := range losses {
		p.note("%s", l.String())
	}
	return string(text), err
}

// within returns the machine with names relative to a directory for those of its files that are there, as a script has
// them. Like moved, it takes a file outside for that of its name within, if there is one.
func (p *planner) within(dir string) *machine.Machine {
	m := p.Machine.Clone()
	for _, f := range owned(m) {
		if !path.IsAbs(f.Path) || f.Host != "" || f.URL != "" {
			continue
		}
		if in, ok := strings.CutPrefix(path.Clean(f.Path), strings.TrimRight(dir, "/")+"/"); ok {
			f.Path = in
		} else if name := path.Join(dir, path.Base(f.Path)); p.h.Exists(name) {
			p.note("%s: %s is used, which is in the machine's directory", f.Path, name)
			f.Path = path.Base(f.Path)
		}
	}
	return m
}

// suspended reports whether there is a file with the machine's memory.
func (p *planner) suspended(platform string) bool {
	switch platform {
	case VMware:
		return p.Machine != nil && slices.ContainsFunc(p.Machine.Others, func(o machine.Other) bool { return o.Kind == "saved-state" })
	case Libvirt, Xen:
		return p.h.Exists(p.saved())
	}
	return false
}
