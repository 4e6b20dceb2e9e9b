package platform_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"tarvm/cmd/tarvm/platform"
	"tarvm/formats/formatstest"
	"tarvm/formats/libvirt"
	"tarvm/formats/machine"
	"tarvm/formats/qemu"
	"tarvm/formats/xl"
)

func posix(t *testing.T) {
	t.Helper()
	if runtime.GOOS == "windows" {
		t.Skip("fake programs are scripts of a POSIX shell")
	}
}

// recorder is a program that writes its working directory, arguments and input to $RECORD, a NUL after each, prints
// $ANSWER and ends with $CODE, after saying $SAYS.
const recorder = `#!/bin/sh
{
	printf '%s\0' "$(basename -- "$0")" "$PWD" "$#" "$@"
	[ -z "$READS" ] || cat
	printf '\0'
} >>"$RECORD"
[ -z "$ANSWER" ] || printf '%s\n' "$ANSWER"
[ -z "$SAYS" ] || printf '%s\n' "$SAYS" >&2
exit "${CODE:-0}"
`

// fakes makes programs in a directory of their own, and a host that has only these.
func fakes(t *testing.T, names ...string) platform.Host {
	t.Helper()
	dir := t.TempDir()
	for _, n := range names {
		if err := os.WriteFile(filepath.Join(dir, n), []byte(recorder), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	t.Setenv("RECORD", filepath.Join(t.TempDir(), "record"))
	for _, v := range []string{"ANSWER", "SAYS", "CODE", "READS", "LIBVIRT_DEFAULT_URI"} {
		t.Setenv(v, "")
	}
	return platform.Host{
		OS: "linux",
		LookPath: func(name string) (string, error) {
			return exec.LookPath(filepath.Join(dir, name))
		},
	}
}

// recorded returns and removes what was recorded.
func recorded(t *testing.T) string {
	t.Helper()
	b, err := os.ReadFile(os.Getenv("RECORD"))
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(os.Getenv("RECORD")); err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// want is what commands record when they get these arguments. The program of the first step may be the question's.
func record(t *testing.T, dir string, args []string, stdin string) string {
	t.Helper()
	parts := []string{filepath.Base(args[0]), dir, fmt.Sprint(len(args) - 1)}
	return strings.Join(append(parts, args[1:]...), "\x00") + "\x00" + stdin + "\x00"
}

const uuid = "11111111-2222-4333-8444-555555555555"

// hostile are names that mean something to a shell or to a parser of flags.
var hostile = []string{
	"plain", "-$(touch x)`id` 'a' \"b\" \\ *;&|<>(){}#!~=%s\nnew\tü", "-x", "--help", "a b", `q"u'o\te`, "new\nline", "$(touch x)`id`$HOME", "a;b&c|d>e", "*?[a]~", "#hash", "!bang", "=", "%s", "ü日本", "{a,b}", "tab\t", "co,mma",
}

// Each action of each platform is the arguments that the platform documents, whatever the names are; and the line for
// the shell gives the same.
func TestArguments(t *testing.T) {
	posix(t)
	h := fakes(t, "vmrun", "vmware", "VBoxManage", "virsh", "xl", "socat", "qemu-system-x86_64")
	sh, err := exec.LookPath("sh")
	if err != nil {
		t.Skip(err)
	}
	root := t.TempDir()
	for _, name := range hostile {
		dir := filepath.Join(root, name)
		if err := os.Mkdir(dir, 0o755); err != nil {
			t.Fatal(err)
		}
		named := &machine.Machine{Name: name}
		known := &machine.Machine{Name: name, UUID: "99999999-2222-4333-8444-555555555555", InstanceUUID: uuid}
		at := func(ext string) string { return filepath.Join(dir, name+ext) }
		virsh := []string{"virsh", "--connect=qemu:///session"}
		info := []string{"VBoxManage", "showvminfo", at(".vbox"), "--machinereadable"}
		register := []string{"VBoxManage", "registervm", at(".vbox")}
		steps := func(list ...[]string) [][]string { return list }
		for _, c := range []struct {
			form, ext string
			m         *machine.Machine
			action    platform.Action
			o         platform.Options
			want      [][]string
		}{
			{"vmx", ".vmx", known, platform.Start, platform.Options{}, steps([]string{"vmrun", "-T", "ws", "start", at(".vmx"), "gui"})},
			{"vmx", ".vmx", known, platform.Start, platform.Options{Headless: true}, steps([]string{"vmrun", "-T", "ws", "start", at(".vmx"), "nogui"})},
			{"vmx", ".vmx", known, platform.Suspend, platform.Options{}, steps([]string{"vmrun", "-T", "ws", "suspend", at(".vmx"), "hard"})},
			{"vmx", ".vmx", known, platform.Resume, platform.Options{}, steps([]string{"vmrun", "-T", "ws", "start", at(".vmx"), "gui"})},
			{"vmx", ".vmx", known, platform.Stop, platform.Options{}, steps([]string{"vmrun", "-T", "ws", "stop", at(".vmx"), "soft"})},
			{"vmx", ".vmx", known, platform.Kill, platform.Options{}, steps([]string{"vmrun", "-T", "ws", "stop", at(".vmx"), "hard"})},
			{"vmx", ".vmx", known, platform.Status, platform.Options{}, steps([]string{"vmrun", "-T", "ws", "list"})},
			{"vbox", ".vbox", known, platform.Start, platform.Options{}, steps(info, register, []string{"VBoxManage", "startvm", at(".vbox"), "--type", "gui"})},
			{"vbox", ".vbox", known, platform.Resume, platform.Options{Headless: true}, steps(info, register, []string{"VBoxManage", "startvm", at(".vbox"), "--type", "headless"})},
			{"vbox", ".vbox", known, platform.Suspend, platform.Options{}, steps([]string{"VBoxManage", "controlvm", at(".vbox"), "savestate"})},
			{"vbox", ".vbox", known, platform.Stop, platform.Options{}, steps([]string{"VBoxManage", "controlvm", at(".vbox"), "acpipowerbutton"})},
			{"vbox", ".vbox", known, platform.Kill, platform.Options{}, steps([]string{"VBoxManage", "controlvm", at(".vbox"), "poweroff"})},
			{"vbox", ".vbox", known, platform.Status, platform.Options{}, steps(info)},
			{"libvirt", ".xml", known, platform.Start, platform.Options{}, steps(append(virsh, "create", "--file="+at(".xml")))},
			{"libvirt", ".xml", known, platform.Start, platform.Options{Define: true}, steps(append(virsh, "define", "--file="+at(".xml")), append(virsh, "start", "--domain="+uuid))},
			{"libvirt", ".xml", named, platform.Suspend, platform.Options{}, steps(append(virsh, "save", "--domain="+name, "--file="+at(".sav")))},
			{"libvirt", ".xml", named, platform.Resume, platform.Options{}, steps(append(virsh, "restore", "--file="+at(".sav")))},
			{"libvirt", ".xml", named, platform.Stop, platform.Options{}, steps(append(virsh, "shutdown", "--domain="+name))},
			{"libvirt", ".xml", named, platform.Kill, platform.Options{Connect: "test:///default"}, steps([]string{"virsh", "--connect=test:///default", "destroy", "--domain=" + name})},
			{"libvirt", ".xml", named, platform.Status, platform.Options{}, steps(append(virsh, "domstate", "--domain="+name))},
			{"xl", ".cfg", named, platform.Start, platform.Options{}, steps([]string{"xl", "create", "-f", at(".cfg")})},
			{"xl", ".cfg", named, platform.Suspend, platform.Options{}, steps([]string{"xl", "save", "--", name, at(".sav")})},
			{"xl", ".cfg", named, platform.Resume, platform.Options{}, steps([]string{"xl", "restore", at(".sav")})},
			{"xl", ".cfg", named, platform.Stop, platform.Options{}, steps([]string{"xl", "shutdown", "--", name})},
			{"xl", ".cfg", named, platform.Kill, platform.Options{}, steps([]string{"xl", "destroy", "--", name})},
			{"xl", ".cfg", named, platform.Status, platform.Options{}, steps([]string{"xl", "list", "--", name})},
		} {
			// All names in all places would take seconds.
			all := name == hostile[0] || name == hostile[1]
			if !all && (c.form != "libvirt" && c.form != "xl" || c.action != platform.Suspend) {
				continue
			}
			c.o.Host = h
			l, err := platform.Plan(platform.VM{Dir: dir, Config: name + c.ext, Form: c.form, Machine: c.m}, c.action, c.o)
			if err != nil {
				t.Errorf("%s %s %q: %v", c.form, c.action, name, err)
				continue
			}
			var want string
			wd, err := os.Getwd()
			if err != nil {
				t.Fatal(err)
			}
			for _, args := range c.want {
				want += record(t, wd, args, "")
			}
			if err := platform.Run(t.Context(), l, nil, nil); err != nil {
				t.Errorf("%s %s %q: %v", c.form, c.action, name, err)
			}
			if got := recorded(t); got != want {
				t.Errorf("%s %s %q:\n got %q\nwant %q", c.form, c.action, name, got, want)
			}
			if name == hostile[0] && c.action != platform.Status {
				continue
			}
			if out, err := exec.Command(sh, "-c", l.Shell()).CombinedOutput(); err != nil {
				t.Errorf("%s: %v: %s", l.Shell(), err, out)
			}
			if got := recorded(t); got != want {
				t.Errorf("%s:\n got %q\nwant %q", l.Shell(), got, want)
			}
		}
		// QEMU's steps are not all of one program.
		for _, c := range []struct {
			action platform.Action
			stdin  string
		}{{platform.Suspend, "stop\n"}, {platform.Resume, "cont\n"}, {platform.Stop, "system_powerdown\n"}} {
			if name != hostile[0] && name != hostile[1] {
				continue
			}
			t.Setenv("READS", "1")
			l, err := platform.Plan(platform.VM{Dir: dir, Config: name + ".sh", Form: "qemu"}, c.action, platform.Options{Host: h})
			if err != nil {
				t.Fatal(err)
			}
			want := record(t, dir, []string{"socat", "-t5", "-", "UNIX-CONNECT:qemu.monitor"}, c.stdin)
			if err := platform.Run(t.Context(), l, nil, nil); err != nil {
				t.Error(err)
			}
			if got := recorded(t); got != want {
				t.Errorf("qemu %s %q:\n got %q\nwant %q", c.action, name, got, want)
			}
			if out, err := exec.Command(sh, "-c", l.Shell()).CombinedOutput(); err != nil {
				t.Errorf("%s: %v: %s", l.Shell(), err, out)
			}
			if got := recorded(t); got != want {
				t.Errorf("%s:\n got %q\nwant %q", l.Shell(), got, want)
			}
			t.Setenv("READS", "")
		}
	}
}

// A directory's own script, and one that is made of the machine, start QEMU in the directory.
func TestQEMUStarts(t *testing.T) {
	posix(t)
	h := fakes(t, "qemu-system-x86_64")
	qemuPath, err := h.LookPath("qemu-system-x86_64")
	if err != nil {
		t.Fatal(err)
	}
	t.Setenv("QEMU", qemuPath)
	t.Setenv("ACCEL", "tcg")
	m := &machine.Machine{
		Name: "m", UUID: uuid, Memory: machine.Memory{Bytes: 64 << 20},
		Drives: []machine.Drive{{Kind: machine.Disk, At: machine.Address{Bus: machine.IDE}, Media: machine.Media{Path: "d.img", Format: "raw"}}},
	}
	if err := m.Complete(); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"plain", "-x y,z", "$(id)'\""} {
		dir := filepath.Join(t.TempDir(), name)
		if err := os.Mkdir(dir, 0o755); err != nil {
			t.Fatal(err)
		}
		script, _, err := qemu.Script(m, qemu.Options{})
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, "start.sh"), script, 0o644); err != nil { // not executable
			t.Fatal(err)
		}
		var both [2]string
		for i, vm := range []platform.VM{{Dir: dir, Config: "start.sh", Form: "qemu"}, {Dir: dir, Config: "m.vmx", Form: "vmx", Machine: m}} {
			l, err := platform.Plan(vm, platform.Start, platform.Options{Host: h, Platform: platform.QEMU, Headless: true})
			if err != nil {
				t.Fatal(err)
			}
			if len(l.Notes) == 0 {
				t.Error("no notes")
			}
			for _, run := range []func() error{
				func() error { return platform.Run(t.Context(), l, nil, nil) },
				func() error { return exec.Command("sh", "-c", l.Shell()).Run() },
			} {
				if err := run(); err != nil {
					t.Fatal(err)
				}
				got := recorded(t)
				if both[i] != "" && got != both[i] {
					t.Errorf("by the shell %q, else %q", got, both[i])
				}
				both[i] = got
			}
			end := strings.Join([]string{"-pidfile", "qemu.pid", "-monitor", "unix:" + strings.ReplaceAll(socket(dir), ",", ",,") + ",server=on,wait=off", "-display", "none", "-daemonize"}, "\x00") + "\x00\x00"
			if !strings.HasPrefix(both[i], "qemu-system-x86_64\x00"+dir+"\x00") || !strings.HasSuffix(both[i], end) {
				t.Errorf("%q", both[i])
			}
		}
		if both[0] != both[1] {
			t.Errorf("by its script %q, by its configuration %q", both[0], both[1])
		}
	}
}

func socket(dir string) string {
	if s := filepath.Join(dir, "qemu.monitor"); len(s) <= 100 {
		return s
	}
	return "qemu.monitor"
}

// A machine that VirtualBox has registered from this directory is not registered again.
func TestRegistered(t *testing.T) {
	posix(t)
	h := fakes(t, "VBoxManage")
	dir := t.TempDir()
	l, err := platform.Plan(platform.VM{Dir: dir, Config: `a"b\c.vbox`, Form: "vbox", Machine: &machine.Machine{UUID: uuid}}, platform.Start, platform.Options{Host: h})
	if err != nil {
		t.Fatal(err)
	}
	count := func(run func() error) int {
		t.Helper()
		if err := run(); err != nil {
			t.Fatal(err)
		}
		return strings.Count(recorded(t), "VBoxManage\x00")
	}
	ways := []func() error{
		func() error { return platform.Run(t.Context(), l, nil, nil) },
		func() error { return exec.Command("sh", "-c", l.Shell()).Run() },
	}
	for answer, want := range map[string]int{
		`CfgFile="` + dir + `/a\"b\\c.vbox"`:      2,
		`xCfgFile="` + dir + `/a\"b\\c.vbox"`:     3,
		`CfgFile="/elsewhere/a\"b\\c.vbox"`:       3,
		`name="CfgFile=` + dir + `/a\"b\\c.vbox"`: 3,
	} {
		t.Setenv("ANSWER", "name=\"x\"\n"+answer+"\nVMState=\"poweroff\"")
		for i, run := range ways {
			if n := count(run); n != want {
				t.Errorf("%d %s: %d programs, want %d", i, answer, n, want)
			}
		}
	}
}

// A directory that was moved is started with its own files.
func TestMoved(t *testing.T) {
	posix(t)
	h := fakes(t, "virsh", "xl")
	t.Setenv("READS", "1")
	dir := t.TempDir()
	for _, name := range []string{"d.img", "rel.img", "vars.fd"} {
		if err := os.WriteFile(filepath.Join(dir, name), nil, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	const xml = `<domain type='kvm'><name>m</name><uuid>` + uuid + `</uuid><memory unit='MiB'>64</memory><os><type arch='x86_64'>hvm</type>` +
		`<nvram>/old/vars.fd</nvram></os><metadata><x:y xmlns:x='z'>kept</x:y></metadata><devices>` +
		`<disk type='file' device='disk'><driver name='qemu' type='raw' io='native'/><source file='/old/d.img'/><target dev='vda' bus='virtio'/></disk>` +
		`<disk type='file' device='disk'><driver name='qemu' type='raw'/><source file='rel.img'/><target dev='vdb' bus='virtio'/></disk>` +
		`<disk type='file' device='cdrom'><source file='/isos/x.iso'/><target dev='sda' bus='sata'/></disk>` +
		`</devices></domain>`
	m, err := libvirt.Form{}.Decode([]byte(xml))
	if err != nil {
		t.Fatal(err)
	}
	l, err := platform.Plan(platform.VM{Dir: dir, Config: "m.xml", Form: "libvirt", Machine: m}, platform.Start, platform.Options{Host: h, Headless: true})
	if err != nil {
		t.Fatal(err)
	}
	text := l.Steps[0].Stdin
	for _, want := range []string{dir + "/d.img", dir + "/rel.img", dir + "/vars.fd", "/isos/x.iso", "kept", "io="} {
		if !strings.Contains(text, want) {
			t.Errorf("%s: no %s", text, want)
		}
	}
	if strings.Contains(text, "/old/") {
		t.Error(text)
	}
	if notes := strings.Join(l.Notes, "\n"); !strings.Contains(notes, "/isos/x.iso is outside") || !strings.Contains(notes, "/old/d.img: "+dir+"/d.img is used") {
		t.Error(notes)
	}
	wd, err := os.Getwd()
	if err != nil {
		t.Fatal(err)
	}
	want := record(t, wd, []string{"virsh", "--connect=qemu:///session", "create", "--file=/dev/stdin"}, text)
	if err := platform.Run(t.Context(), l, nil, nil); err != nil {
		t.Fatal(err)
	}
	if got := recorded(t); got != want {
		t.Errorf("got %q, want %q", got, want)
	}
	if out, err := exec.Command("sh", "-c", l.Shell()).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	if got := recorded(t); got != want {
		t.Errorf("by the shell %q, want %q", got, want)
	}

	cfg := "name = 'm' # mine\ntype = 'hvm'\nmemory = 64\ndisk = [ 'format=raw, vdev=hda, target=/old/d.img' ]\n"
	if m, err = (xl.Form{}).Decode([]byte(cfg)); err != nil {
		t.Fatal(err)
	}
	l, err = platform.Plan(platform.VM{Dir: dir, Config: "m.cfg", Form: "xl", Machine: m}, platform.Start, platform.Options{Host: h})
	if err != nil {
		t.Fatal(err)
	}
	args := l.Steps[0].Args
	if len(args) != 5 || args[3] != "/dev/null" || !strings.Contains(args[4], dir+"/d.img") || !strings.Contains(args[4], "# mine") {
		t.Errorf("%q", args)
	}
	// Where the files are is where they should be: the configuration itself is used.
	m.Drives[0].Media.Path = dir + "/d.img"
	if l, err = platform.Plan(platform.VM{Dir: dir, Config: "m.cfg", Form: "xl", Machine: m}, platform.Start, platform.Options{Host: h}); err != nil || l.Steps[0].Args[3] != dir+"/m.cfg" {
		t.Errorf("%+v %v", l, err)
	}
}

func TestNoPlatform(t *testing.T) {
	none := func(string) (string, error) { return "", exec.ErrNotFound }
	m := &machine.Machine{Name: "m"}
	plan := func(form string, o platform.Options) error {
		_, err := platform.Plan(platform.VM{Dir: "/vm", Config: "m", Form: form, Machine: m}, platform.Start, o)
		return err
	}
	host := platform.Host{OS: "darwin", LookPath: none, Exists: func(string) bool { return false }}
	err := plan("vmx", platform.Options{Host: host})
	var e *platform.NoPlatformError
	const want = "nothing that starts machines of form vmx is installed: vmware's vmrun is not on the PATH, nor is there " +
		"/Applications/VMware Fusion.app/Contents/Library/vmrun, /Applications/VMware Fusion.app/Contents/Public/vmrun; vmware's vmplayer is not on the PATH"
	if !errors.As(err, &e) || !strings.HasPrefix(err.Error(), want) || e.Hint() != "tarvm export --to FORM converts the machine" {
		t.Errorf("%v", err)
	}
	host.Exists = func(p string) bool {
		return strings.Contains(p, "VirtualBox") || strings.HasPrefix(p, "/opt/homebrew/bin/qemu")
	}
	if err := plan("vmx", platform.Options{Host: host}); !errors.As(err, &e) || e.Hint() != "tarvm export --to vbox or qemu converts the machine" {
		t.Errorf("%v", err)
	}
	if err := plan("hyperv", platform.Options{Host: host}); !errors.As(err, &e) || !strings.Contains(err.Error(), `"hyperv"`) {
		t.Errorf("%v", err)
	}
	if err := plan("vmx", platform.Options{Host: host, Platform: "virtualbox"}); !errors.As(err, &e) || !strings.Contains(err.Error(), `platform "virtualbox" does not start machines of form vmx`) {
		t.Errorf("%v", err)
	}
	for _, name := range []string{"17", ""} {
		for _, form := range []string{"xl", "libvirt"} {
			m.Name = name
			host.Exists = func(p string) bool { return true }
			if err := plan(form, platform.Options{Host: host}); err == nil || name != "" && !errors.As(err, new(*platform.NameError)) {
				t.Errorf("%s %q: %v", form, name, err)
			}
		}
	}
	if err := plan("vmx", platform.Options{Host: host}); err != nil {
		t.Error(err)
	}
	if _, err := platform.Plan(platform.VM{Dir: "/vm", Config: "m", Form: "vmx"}, "dance", platform.Options{Host: host}); err == nil {
		t.Error("dances")
	}
	if _, err := platform.Plan(platform.VM{Dir: "vm", Config: "m", Form: "vmx"}, platform.Start, platform.Options{Host: host}); err == nil {
		t.Error("a relative directory")
	}
}

// Programs lie where installers put them.
func TestPlaces(t *testing.T) {
	for _, c := range []struct {
		os, form, there string
		want            []string
	}{
		{"darwin", "vmx", "/Applications/VMware Fusion.app/Contents/Public/vmrun", []string{"-T", "fusion", "start", "/vm/m", "gui"}},
		{"linux", "vbox", "/usr/lib/virtualbox/VBoxManage", []string{"registervm", "/vm/m"}},
		{"windows", "vmx", `C:\P (x86)\VMware\VMware Workstation\vmrun.exe`, []string{"-T", "ws", "start", `C:\vm\m`, "gui"}},
		{"windows", "vbox", `D:\VBox\VBoxManage.exe`, []string{"registervm", `C:\vm\m`}},
		{"windows", "vbox", `C:\P\Oracle\VirtualBox\VBoxManage.exe`, []string{"registervm", `C:\vm\m`}},
	} {
		dir := "/vm"
		if c.os == "windows" {
			dir = `C:\vm\`
		}
		l, err := platform.Plan(platform.VM{Dir: dir, Config: "m", Form: c.form, Machine: &machine.Machine{}}, platform.Start, platform.Options{Host: platform.Host{
			OS:       c.os,
			LookPath: func(string) (string, error) { return "", exec.ErrNotFound },
			Exists:   func(p string) bool { return p == c.there },
			Getenv: func(name string) string {
				return map[string]string{"ProgramFiles(x86)": `C:\P (x86)`, "ProgramFiles": `C:\P`, "VBOX_MSI_INSTALL_PATH": `D:\VBox\`}[name]
			},
		}})
		if err != nil {
			t.Errorf("%s %s: %v", c.os, c.form, err)
			continue
		}
		if got := l.Steps[0].Args; got[0] != c.there || !slices.Equal(got[1:], c.want) {
			t.Errorf("%s %s: %q", c.os, c.form, got)
		}
	}
	// The Player without vmrun does one thing.
	player := platform.Options{Host: platform.Host{OS: "linux", Exists: func(string) bool { return false }, LookPath: func(name string) (string, error) {
		if name == "vmplayer" {
			return "/usr/bin/vmplayer", nil
		}
		return "", exec.ErrNotFound
	}}}
	vm := platform.VM{Dir: "/vm", Config: "m.vmx", Form: "vmx"}
	if runtime.GOOS != "windows" {
		if l, err := platform.Plan(vm, platform.Start, player); err != nil || !slices.Equal(l.Steps[0].Args, []string{"/usr/bin/vmplayer", "/vm/m.vmx"}) {
			t.Errorf("%+v %v", l, err)
		}
	}
	for _, a := range []platform.Action{platform.Suspend, platform.Stop, platform.Status} {
		if _, err := platform.Plan(vm, a, player); !errors.As(err, new(*platform.ProgramError)) {
			t.Errorf("%s: %v", a, err)
		}
	}
}

func TestState(t *testing.T) {
	posix(t)
	h := fakes(t, "vmrun", "VBoxManage", "virsh", "xl")
	dir := t.TempDir()
	m := &machine.Machine{Name: "m", UUID: uuid}
	saved := m.Clone()
	saved.Others = []machine.Other{{Kind: "saved-state"}}
	for _, c := range []struct {
		form              string
		m                 *machine.Machine
		answer, says, end string
		want              platform.State
	}{
		{"vmx", m, "Total running VMs: 1\n" + dir + "/m", "", "", platform.Running},
		{"vmx", m, "Total running VMs: 1\n/other" + dir + "/m", "", "", platform.Off},
		{"vmx", saved, "Total running VMs: 0", "", "", platform.Suspended},
		{"vbox", m, "VMState=\"running\"\r", "", "", platform.Running},
		{"vbox", m, `VMState="saved"`, "", "", platform.Suspended},
		{"vbox", m, `VMState="aborted"`, "", "", platform.Off},
		{"vbox", m, `VMState="teleporting"`, "", "", platform.Unknown},
		{"vbox", m, "", "VBoxManage: error: Could not find a registered machine named 'm'\nVBoxManage: error: Details: code\nVBoxManage: error: Context: x", "1", platform.Off},
		{"libvirt", m, "running\n", "", "", platform.Running},
		{"libvirt", m, "paused\n", "", "", platform.Paused},
		{"libvirt", m, "shut off\n", "", "", platform.Off},
		{"libvirt", m, "", "error: failed to get domain 'm'", "1", platform.Off},
		{"xl", m, "Name ID Mem VCPUs State Time(s)\na b 3 128 1 -b---- 1.0", "", "", platform.Running},
		{"xl", m, "Name ID Mem VCPUs State Time(s)\nm 3 128 1 --p--- 1.0", "", "", platform.Paused},
		{"xl", m, "", "m is an invalid domain identifier (rc=-6)", "1", platform.Off},
	} {
		t.Setenv("ANSWER", c.answer)
		t.Setenv("SAYS", c.says)
		t.Setenv("CODE", c.end)
		l, err := platform.Plan(platform.VM{Dir: dir, Config: "m", Form: c.form, Machine: c.m}, platform.Status, platform.Options{Host: h})
		if err != nil {
			t.Fatal(err)
		}
		if got, err := l.State(t.Context()); err != nil || got != c.want {
			t.Errorf("%s %q %q: %s %v, want %s", c.form, c.answer, c.says, got, err, c.want)
		}
	}
	t.Setenv("SAYS", "error: no server")
	l, err := platform.Plan(platform.VM{Dir: dir, Config: "m", Form: "libvirt", Machine: m}, platform.Status, platform.Options{Host: h})
	if err != nil {
		t.Fatal(err)
	}
	if s, err := l.State(t.Context()); err == nil || !strings.Contains(err.Error(), "no server") {
		t.Errorf("%s %v", s, err)
	}
	if err := os.WriteFile(filepath.Join(dir, "m.sav"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	t.Setenv("SAYS", "error: failed to get domain 'm'")
	if l, err = platform.Plan(platform.VM{Dir: dir, Config: "m.xml", Form: "libvirt", Machine: m}, platform.Status, platform.Options{Host: h}); err != nil {
		t.Fatal(err)
	}
	if s, err := l.State(t.Context()); err != nil || s != platform.Suspended {
		t.Errorf("%s %v", s, err)
	}
}

// The first step that fails is the last, and its message says why.
func TestRunFails(t *testing.T) {
	posix(t)
	var out, warnings bytes.Buffer
	l := &platform.Launch{Steps: []platform.Command{
		{Args: []string{"/bin/sh", "-c", "echo one; echo two >&2"}},
		{Args: []string{"/bin/sh", "-c", "echo three; printf 'first\nVM: \"x\" is locked\n\nVBoxManage: error: Context: y\n' >&2; exit 3"}},
		{Args: []string{"/bin/sh", "-c", "echo four"}},
	}}
	err := platform.Run(t.Context(), l, &out, &warnings)
	var e *platform.StepError
	var ee *exec.ExitError
	if !errors.As(err, &e) || !errors.As(err, &ee) || ee.ExitCode() != 3 || err.Error() != `sh -c: exit status 3: VM: "x" is locked` {
		t.Errorf("%v", err)
	}
	if out.String() != "one\nthree\n" || !strings.HasPrefix(warnings.String(), "two\nfirst\n") {
		t.Errorf("%q %q", out.String(), warnings.String())
	}
	l.Steps = []platform.Command{{Args: []string{"/nowhere/x"}}}
	if err := platform.Run(t.Context(), l, nil, nil); !errors.As(err, &e) || !errors.Is(err, os.ErrNotExist) {
		t.Errorf("%v", err)
	}
	// What a program leaves behind does not hold us.
	begin := time.Now()
	l.Steps = []platform.Command{{Args: []string{"/bin/sh", "-c", "echo x; sleep 20 & exit 0"}}}
	out.Reset()
	if err := platform.Run(t.Context(), l, &out, &warnings); err != nil || out.String() != "x\n" {
		t.Errorf("%v %q", err, out.String())
	}
	if d := time.Since(begin); d > 10*time.Second {
		t.Errorf("after %v", d)
	}
}

func TestRunInterrupted(t *testing.T) {
	posix(t)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	marks := t.TempDir()
	l := &platform.Launch{Steps: []platform.Command{
		{Args: []string{"/bin/sh", "-c", `trap 'echo >end; exit 0' INT; echo >begin; while :; do sleep 0.02; done`}, Dir: marks},
		{Args: []string{"/bin/sh", "-c", "echo >next"}, Dir: marks},
	}}
	go func() {
		for range 1000 {
			if _, err := os.Stat(filepath.Join(marks, "begin")); err == nil {
				break
			}
			time.Sleep(5 * time.Millisecond)
		}
		cancel()
	}()
	if err := platform.Run(ctx, l, nil, nil); !errors.Is(err, context.Canceled) {
		t.Errorf("%v", err)
	}
	for name, want := range map[string]bool{"end": true, "next": false} {
		if _, err := os.Stat(filepath.Join(marks, name)); (err == nil) != want {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestJSON(t *testing.T) {
	b, err := json.Marshal(&platform.Launch{Platform: "xen", Action: platform.Start, Steps: []platform.Command{{Args: []string{"xl"}}}})
	if err != nil || string(b) != `{"platform":"xen","action":"start","steps":[{"args":["xl"]}]}` {
		t.Errorf("%s %v", b, err)
	}
}

// libvirt's own driver for tests takes what is planned, from the file and from the standard input.
func TestVirsh(t *testing.T) {
	formatstest.Tool(t, "virsh")
	dir := filepath.Join(t.TempDir(), "-a b'\"$(x)")
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	xml := `<domain type='test'><name>-n</name><uuid>` + uuid + `</uuid><memory unit='MiB'>64</memory><os><type>hvm</type></os><devices>` +
		`<disk type='file' device='disk'><source file='/old/d.img'/><target dev='vda' bus='virtio'/></disk></devices></domain>`
	if err := os.WriteFile(filepath.Join(dir, "m.xml"), []byte(xml), 0o644); err != nil {
		t.Fatal(err)
	}
	m, err := libvirt.Form{}.Decode([]byte(xml))
	if err != nil {
		t.Fatal(err)
	}
	vm := platform.VM{Dir: dir, Config: "m.xml", Form: "libvirt", Machine: m}
	o := platform.Options{Connect: "test:///default", Headless: true}
	run := func(a platform.Action, o platform.Options, steps int) string {
		t.Helper()
		l, err := platform.Plan(vm, a, o)
		if err != nil {
			t.Fatal(err)
		}
		l.Steps = l.Steps[:steps] // the driver forgets everything between two connections
		var out bytes.Buffer
		if err := platform.Run(t.Context(), l, &out, &out); err != nil {
			t.Errorf("%s: %v", a, err)
		}
		return out.String()
	}
	if got := run(platform.Start, o, 1); !strings.Contains(got, "created") {
		t.Error(got)
	}
	o.Define = true
	if got := run(platform.Start, o, 1); !strings.Contains(got, "defined") {
		t.Error(got)
	}
	if err := os.WriteFile(filepath.Join(dir, "d.img"), nil, 0o644); err != nil {
		t.Fatal(err)
	}
	if got := run(platform.Start, o, 1); !strings.Contains(got, "defined") {
		t.Error(got)
	}
	// The one that the driver always has.
	vm.Machine = &machine.Machine{Name: "test"}
	o.Define = false
	state := func() platform.State {
		t.Helper()
		l, err := platform.Plan(vm, platform.Status, o)
		if err != nil {
			t.Fatal(err)
		}
		s, err := l.State(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		return s
	}
	if s := state(); s != platform.Running {
		t.Error(s)
	}
	run(platform.Stop, o, 1)
	run(platform.Kill, o, 1)
	// It is not suspended: virsh 9.0 now and then waits for ever for the end of what this driver has done at once.
	if err := os.WriteFile(filepath.Join(dir, "m.sav"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	vm.Machine = &machine.Machine{Name: "none"}
	if s := state(); s != platform.Suspended {
		t.Error(s)
	}
}

// A real QEMU, that executes nothing, starts, is asked, and ends.
func TestQEMU(t *testing.T) {
	posix(t)
	formatstest.Tool(t, "qemu-system-x86_64")
	dir := filepath.Join(t.TempDir(), "a b,'c")
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	m := &machine.Machine{Name: "m", Memory: machine.Memory{Bytes: 32 << 20}}
	script, _, err := qemu.Script(m, qemu.Options{})
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "m.sh"), script, 0o755); err != nil {
		t.Fatal(err)
	}
	t.Setenv("ACCEL", "tcg")
	t.Setenv("NET", "")
	vm := platform.VM{Dir: dir, Config: "m.sh", Form: "qemu"}
	do := func(a platform.Action) *platform.Launch {
		t.Helper()
		l, err := platform.Plan(vm, a, platform.Options{Headless: true})
		if err != nil {
			t.Fatal(err)
		}
		return l
	}
	state := func(want platform.State) {
		t.Helper()
		var s platform.State
		for range 100 {
			if s, err = do(platform.Status).State(t.Context()); err != nil {
				t.Fatal(err)
			}
			if s == want {
				return
			}
			time.Sleep(20 * time.Millisecond)
		}
		t.Errorf("%s, want %s", s, want)
	}
	state(platform.Off)
	start := do(platform.Start)
	start.Steps[0].Args = append(start.Steps[0].Args, "-S")
	t.Cleanup(func() {
		if s, err := do(platform.Status).State(context.Background()); err == nil && s == platform.Running {
			_ = platform.Run(context.Background(), do(platform.Kill), nil, nil)
		}
	})
	if err := platform.Run(t.Context(), start, nil, nil); err != nil {
		t.Fatal(err)
	}
	state(platform.Running)
	if l, err := platform.Plan(vm, platform.Suspend, platform.Options{}); err == nil { // socat or nc is here
		var out bytes.Buffer
		if err := platform.Run(t.Context(), l, &out, nil); err != nil || !strings.Contains(out.String(), "QEMU") {
			t.Errorf("%v %q", err, out.String())
		}
	} else if !errors.As(err, new(*platform.ProgramError)) {
		t.Error(err)
	}
	if err := platform.Run(t.Context(), do(platform.Kill), nil, nil); err != nil {
		t.Fatal(err)
	}
	state(platform.Off)
	list, err := os.ReadDir(dir)
	if err != nil || len(list) != 1 {
		t.Errorf("left behind: %v %v", list, err)
	}
}
