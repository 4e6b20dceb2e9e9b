package qemu

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"tarvm/formats/formatstest"
	"tarvm/formats/machine"
	"tarvm/formats/machine/machinetest"
)

// write makes a script in a folder with the disks that the machine names.
func write(t *testing.T, m *machine.Machine, o Options) (dir string, text []byte, losses []machine.Loss) {
	t.Helper()
	before := m.Clone()
	text, losses, err := Script(m, o)
	if err != nil {
		t.Fatal(err)
	}
	if d := machine.Difference(before, m); len(d) > 0 {
		t.Errorf("writing changed the machine: %q", d)
	}
	if again, _, _ := Script(m, o); !bytes.Equal(again, text) {
		t.Error("twice gives two results")
	}
	dir = filepath.Join(t.TempDir(), "a folder's $x")
	if err := os.MkdirAll(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	for _, d := range m.Drives {
		if p := d.Media.Path; p != "" && filepath.IsLocal(p) {
			make1(t, filepath.Join(dir, p), d.Media.Format)
		}
	}
	if err := os.WriteFile(filepath.Join(dir, "start.sh"), text, 0o700); err != nil {
		t.Fatal(err)
	}
	return dir, text, losses
}

// make1 makes an image.
func make1(t *testing.T, path, format string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		t.Fatal(err)
	}
	if format == "" || format == "raw" {
		if err := os.WriteFile(path, make([]byte, 1<<20), 0o600); err != nil {
			t.Fatal(err)
		}
		return
	}
	formatstest.Run(t, ".", "qemu-img", "create", "-q", "-f", format, path, "1M")
}

// run starts the script with a machine that does not run, and returns what its monitor says to the commands.
func run(t *testing.T, dir string, env []string, commands ...string) string {
	t.Helper()
	for _, s := range []string{"sh", "qemu-system-x86_64"} {
		formatstest.Tool(t, s)
	}
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, "sh", filepath.Join(dir, "start.sh"), "-S", "-display", "none", "-monitor", "stdio")
	cmd.Stdin = strings.NewReader(strings.Join(append(commands, "quit"), "\n") + "\n")
	cmd.Env = append(append(os.Environ(), "ACCEL=tcg"), env...)
	cmd.WaitDelay = time.Second
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	// A file, because it takes everything at once: what a pipe is too slow for, "quit" takes with it.
	file, err := os.Create(filepath.Join(t.TempDir(), "out"))
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	cmd.Stdout = file
	if err := cmd.Run(); err != nil {
		text, _ := os.ReadFile(filepath.Join(dir, "start.sh"))
		t.Fatalf("%v\n%s\n%s", err, stderr.Bytes(), text)
	}
	for line := range strings.Lines(stderr.String()) {
		if !strings.Contains(line, "warning: nic ") { // a cable that leads nowhere
			t.Errorf("QEMU says %s", line)
		}
	}
	out, err := os.ReadFile(file.Name())
	if err != nil {
		t.Fatal(err)
	}
	return string(out)
}

func disk(b machine.Bus, index, unit int) machine.Drive {
	return machine.Drive{Kind: machine.Disk, At: machine.Address{Bus: b, Index: index, Unit: unit},
		Media: machine.Media{Path: fmt.Sprintf("%s%d-%d.img", b, index, unit), Format: "raw"}}
}

func optical(b machine.Bus, index, unit int) machine.Drive {
	d := disk(b, index, unit)
	d.Kind = machine.Optical
	return d
}

// machines have each controller, adapter, card and the rest at least once.
func machines() map[string]*machine.Machine {
	all := map[string]*machine.Machine{
		"empty": {},
		"name":  {Name: "a, 'b' \"c\" $(d) `e`\nf; \\", UUID: "01234567-89ab-cdef-0123-456789abcdef", GenerationID: "11234567-89ab-cdef-0123-456789abcdef"},
		"cpu": {CPU: machine.CPU{Count: 2, Sockets: 1, Cores: 2, Threads: 1, Max: 4}, Memory: machine.Memory{Bytes: 256<<20 + 1, Max: 1 << 30},
			Features: machine.Features{ACPI: machine.Off, APIC: machine.Off, PAE: machine.Off, HPET: machine.Off}, Clock: "localtime"},
		"topology": {CPU: machine.CPU{Count: 3, Cores: 2}},
		"model":    {Platform: "kvm", CPU: machine.CPU{Model: "Westmere"}},
		"order": {Boot: []string{"network", "cdrom", "disk"}, Drives: []machine.Drive{disk(machine.SATA, 0, 0), optical(machine.SATA, 0, 1)},
			NICs: []machine.NIC{{Model: "e1000"}}},
		"efi":      {Firmware: machine.Firmware{Type: "efi"}, Drives: []machine.Drive{disk(machine.SATA, 0, 0)}},
		"efi vars": {Platform: "vmware", Firmware: machine.Firmware{Type: "efi", Vars: machine.Media{Path: "x.nvram"}}},
		"secure":   {Firmware: machine.Firmware{Type: "efi", SecureBoot: machine.On}, TPM: &machine.TPM{Version: "2.0"}},
		"tpm 1.2":  {TPM: &machine.TPM{Version: "1.2"}},
		"floppy": {Drives: []machine.Drive{{Kind: machine.Diskette, At: machine.Address{Bus: machine.Floppy}, Media: machine.Media{Path: "f.img", Format: "raw"}},
			{Kind: machine.Diskette, At: machine.Address{Bus: machine.Floppy, Unit: 1}}}},
		"flags": {Drives: []machine.Drive{
			{Kind: machine.Disk, At: machine.Address{Bus: machine.SCSI}, Media: machine.Media{Path: "sub/a,b=c:d 'e'.qcow2", Format: "qcow2"},
				ReadOnly: machine.On, SSD: machine.On, Serial: "x,y", Shared: machine.On, Cache: "none"},
			{Kind: machine.Disk, At: machine.Address{Bus: machine.SATA}, Media: machine.Media{Path: "-b.vmdk", Format: "vmdk"},
				SSD: machine.On, Transient: machine.On, Discard: machine.On, Serial: "0123456789012345678901234567890"},
			{Kind: machine.Disk, At: machine.Address{Bus: machine.USB}, Media: machine.Media{Path: "c.vdi", Format: "vdi"}, Removable: machine.On},
			{Kind: machine.Disk, At: machine.Address{Bus: machine.Virtio}, Media: machine.Media{Path: "d.vhd", Format: "vpc"}, Serial: "s"},
			{Kind: machine.Disk, At: machine.Address{Bus: machine.NVMe}, Media: machine.Media{Path: "e.vhdx", Format: "vhdx"}},
			{Kind: machine.Disk, At: machine.Address{Bus: machine.IDE}, Media: machine.Media{Path: "f.img"}, Serial: "0123456789012345678901234567890"},
		}},
		"ports": {Serials: []machine.Port{{Kind: "file", Path: "a,b.log"}, {Slot: 1, Kind: "pty"}, {Slot: 2, Kind: "tcp", Host: "127.0.0.1", Service: "0", Server: machine.On, Telnet: machine.On},
			{Slot: 3, Kind: "unix", Path: "sock", Server: machine.On}}, Parallels: []machine.Port{{Kind: "file", Path: "lpt"}, {Slot: 2, Kind: "null"}}},
		"inputs": {Inputs: []machine.Input{{Kind: "tablet", Bus: "usb"}, {Kind: "mouse", Bus: "usb"}, {Kind: "keyboard", Bus: "usb"},
			{Kind: "tablet", Bus: "virtio"}, {Kind: "keyboard", Bus: "virtio"}, {Kind: "mouse", Bus: "virtio"}, {Kind: "mouse", Bus: "ps2"}}},
		"shares":   {Shares: []machine.Share{{Name: "s,1", Path: ".", ReadOnly: machine.On}}},
		"two vga":  {Videos: []machine.Video{{Model: "vga", Memory: 20 << 20}, {Model: "vga"}, {Model: "virtio", Heads: 2}, {Model: "bochs"}}},
		"nets":     {NICs: []machine.NIC{{Kind: machine.HostOnly, MAC: "00:50:56:01:02:03"}, {Kind: machine.NoNet}, {Kind: machine.Internal, Network: "a"}, {Connected: machine.Off}, {Kind: machine.Bridged, Network: "br,0"}}},
		"xen":      {Platform: "xen", Drives: []machine.Drive{disk(machine.Xen, 0, 0), disk(machine.IDE, 0, 1), disk(machine.SD, 0, 0)}},
		"audio":    {Sounds: []machine.Sound{{Model: "usb"}, {Model: "virtio"}, {Model: "es1371"}, {Model: ""}}},
		"empty cd": {Drives: []machine.Drive{{Kind: machine.Optical, At: machine.Address{Bus: machine.IDE, Unit: 3}}, {Kind: machine.Optical, At: machine.Address{Bus: machine.SCSI}}}},
		"usb bus":  {Controllers: []machine.Controller{{Bus: machine.USB, Model: "ehci"}, {Bus: machine.USB, Index: 1, Model: "ohci"}, {Bus: machine.USB, Index: 2, Model: "uhci"}, {Bus: machine.USB, Index: 3, Model: "xhci"}}},
	}
	var many []machine.Drive
	for i := range 31 {
		many = append(many, disk(machine.SATA, 0, i), disk(machine.SCSI, 0, i+1))
	}
	many = append(many, disk(machine.IDE, 0, 4), disk(machine.IDE, 0, 0), disk(machine.IDE, 1, 0))
	many = slices.DeleteFunc(many, func(d machine.Drive) bool { return d.At.Bus == machine.SCSI && d.At.Unit == 7 })
	all["many drives"] = &machine.Machine{Drives: many}
	all["many nics"] = &machine.Machine{NICs: make([]machine.NIC, 14)}
	for _, model := range []string{"", "buslogic", "lsilogic", "lsisas1068", "lsisas1078", "vmpvscsi", "virtio-scsi", "foo"} {
		m := &machine.Machine{Controllers: []machine.Controller{{Bus: machine.SCSI, Model: model}}}
		for u := range 10 {
			if u != 7 {
				m.Drives = append(m.Drives, disk(machine.SCSI, 0, u))
			}
		}
		m.Drives = append(m.Drives, optical(machine.SCSI, 1, 2))
		all["scsi "+model] = m
	}
	for _, b := range []machine.Bus{machine.IDE, machine.SATA, machine.NVMe, machine.USB, machine.Virtio, machine.Xen} {
		m := &machine.Machine{}
		for u := range 3 {
			m.Drives = append(m.Drives, disk(b, 0, u))
		}
		m.Drives = append(m.Drives, optical(b, 0, 3))
		all["bus "+string(b)] = m
	}
	for model := range nicModels {
		all["nic "+model] = &machine.Machine{NICs: []machine.NIC{{Model: model, MAC: "52:54:00:12:34:56", Boot: 1}, {Slot: 1, Model: model}}}
	}
	for model := range videoModels {
		all["video "+model] = &machine.Machine{Videos: []machine.Video{{Model: model, Memory: 16 << 20, Heads: 1}}}
	}
	all["video none"] = &machine.Machine{Videos: []machine.Video{{Model: "none"}}}
	for _, model := range []string{"ac97", "es1370", "sb16", "hda", "ich9"} {
		all["sound "+model] = &machine.Machine{Sounds: []machine.Sound{{Model: model}}}
	}
	newer := map[string]*machine.Machine{} // on the newer chipset, too, where that has other places
	for name, m := range all {
		if kind, _, _ := strings.Cut(name, " "); kind == "nic" || kind == "video" || kind == "sound" {
			continue
		}
		c := m.Clone()
		c.Chipset = "q35"
		newer[name+" q35"] = c
	}
	maps.Copy(all, newer)
	return all
}

// TestQEMU has QEMU take each of the machines, and looks for the drives that were not left out.
func TestQEMU(t *testing.T) {
	formatstest.OneGoroutine(t)
	formatstest.Tool(t, "qemu-system-x86_64")
	for name, m := range machines() {
		t.Run(name, func(t *testing.T) {
			if name == "secure" || strings.HasPrefix(name, "efi") {
				if _, err := os.Stat("/usr/share/OVMF/OVMF_CODE_4M.fd"); err != nil {
					formatstest.Tool(t, "OVMF")
				}
			}
			if strings.HasPrefix(name, "tpm") || strings.HasPrefix(name, "secure") {
				formatstest.Tool(t, "swtpm")
			}
			dir, _, losses := write(t, m, Options{})
			out := run(t, dir, nil, "info qtree", "info block")
			left := map[string]bool{}
			for _, l := range losses {
				if strings.HasPrefix(l.What, "left out") {
					left[l.Part] = true
				}
			}
			for i, d := range m.Drives {
				if want := !left["drive "+d.At.String()]; strings.Contains(out, fmt.Sprintf(`id "drive%d"`, i)) != want {
					t.Errorf("drive %s: there is %v, not %v: %v", d.At, !want, want, losses)
				}
			}
			for i, n := range m.NICs {
				if want := !left[fmt.Sprintf("nic %d", n.Slot)] || i < mostNICs; strings.Contains(out, fmt.Sprintf(`id "nic%d"`, i)) != want {
					t.Errorf("nic %d: %v", i, losses)
				}
				if n.MAC != "" && !strings.Contains(out, n.MAC) {
					t.Errorf("nic %d: no %s", i, n.MAC)
				}
			}
		})
	}
}

func TestShells(t *testing.T) {
	dir := t.TempDir()
	for name, m := range machines() {
		text, _, err := Script(m, Options{})
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, name+".sh"), text, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	list, _ := filepath.Glob(filepath.Join(dir, "*.sh"))
	for _, shell := range []string{"sh", "dash", "bash"} {
		t.Run(shell, func(t *testing.T) {
			formatstest.Tool(t, shell)
			for _, path := range list {
				if out, err := exec.Command(shell, "-n", path).CombinedOutput(); err != nil || len(out) > 0 {
					t.Errorf("%s: %v: %s", path, err, out)
				}
			}
		})
	}
}

func TestShellcheck(t *testing.T) {
	formatstest.Tool(t, "shellcheck")
	dir := t.TempDir()
	// SC2016, SC1003: names that are not to be expanded are in single quotes.
	args := []string{"-s", "sh", "-e", "SC2016,SC1003"}
	for name, m := range machines() {
		text, _, err := Script(m, Options{})
		if err != nil {
			t.Fatal(err)
		}
		path := filepath.Join(dir, name+".sh")
		if err := os.WriteFile(path, text, 0o600); err != nil {
			t.Fatal(err)
		}
		args = append(args, path)
	}
	if out, err := exec.Command("shellcheck", args...).CombinedOutput(); err != nil {
		t.Errorf("%s", out)
	}
}

// fake is a QEMU that prints its arguments, one a line.
func fake(t *testing.T, dir string, env []string, args ...string) (string, error) {
	t.Helper()
	formatstest.Tool(t, "sh")
	prog := filepath.Join(t.TempDir(), "fake")
	if err := os.WriteFile(prog, []byte("#!/bin/sh\nprintf '<%s>\\n' \"$PWD\" \"$@\"\n"), 0o700); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("sh", append([]string{filepath.Join(dir, "start.sh")}, args...)...)
	cmd.Env = append(append(os.Environ(), "QEMU="+prog, "ACCEL=tcg"), env...)
	out, err := cmd.CombinedOutput()
	return string(out), err
}

// TestWords looks at what the program gets, with names made to break the shell's words and QEMU's options.
func TestWords(t *testing.T) {
	evil := "x'\"$(touch pwned)`touch pwned`;touch pwned\n#,if=none & \\"
	m := &machine.Machine{
		Name: evil, CPU: machine.CPU{Model: evil}, Kernel: &machine.Kernel{Path: evil, Args: evil, Initrd: "-i"},
		Platform: "kvm",
		Drives: []machine.Drive{{Kind: machine.Disk, At: machine.Address{Bus: machine.IDE}, Serial: evil, Cache: evil,
			Media: machine.Media{Path: evil, Format: "raw"}},
			{Kind: machine.Disk, At: machine.Address{Bus: machine.IDE, Unit: 1}, Media: machine.Media{Path: "a", Format: evil}}},
		NICs:    []machine.NIC{{Model: evil, MAC: evil, Kind: machine.Bridged, Network: evil}},
		Serials: []machine.Port{{Kind: "file", Path: evil}, {Slot: 1, Kind: evil, Path: evil}}, Videos: []machine.Video{{Model: evil}}, Sounds: []machine.Sound{{Model: evil}},
		Shares: []machine.Share{{Name: evil, Path: evil}}, UUID: evil, GenerationID: evil, Clock: evil, Boot: []string{evil},
		Firmware: machine.Firmware{Type: "efi", Vars: machine.Media{Path: evil}},
	}
	m.Drives[0].Media.Path = strings.ReplaceAll(evil, "\\", "") // a backslash is Windows'
	m.Kernel.Path, m.Serials[0].Path, m.Shares[0].Path, m.Firmware.Vars.Path = m.Drives[0].Media.Path, m.Drives[0].Media.Path, m.Drives[0].Media.Path, m.Drives[0].Media.Path
	text, _, err := Script(m, Options{})
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	for name, b := range map[string][]byte{"start.sh": text, "code": {1}, "template": {1}} {
		if err := os.WriteFile(filepath.Join(dir, name), b, 0o700); err != nil {
			t.Fatal(err)
		}
	}
	out, err := fake(t, dir, []string{"OVMF_CODE=code", "OVMF_VARS=template"}, "-more", "a b")
	if err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	file := "./" + m.Drives[0].Media.Path
	for _, want := range []string{
		"<guest=" + escape(evil) + ">", "<" + file + ">", "<" + evil + ">", "<./-i>",
		"<if=none,id=media0,file.driver=file,file.filename=" + escape(file) + ",format=raw>",
		"<ide-hd,bus=ide.0,unit=0,id=drive0,drive=media0,serial=" + escape(evil) + ">",
		"<file,id=serial0,path=" + escape(file) + ">", "<if=pflash,unit=1,format=raw,file=" + escape(file) + ">", "<-more>\n<a b>\n",
		"<local,id=fs0,path=" + escape(file) + ",security_model=mapped-xattr>", "<virtio-9p-pci,fsdev=fs0,mount_tag=" + escape(evil) + ">",
	} {
		if !strings.Contains(out, want) {
			t.Errorf("no %s in\n%s", want, out)
		}
	}
	if strings.Contains(strings.ReplaceAll(out, "touch pwned", ""), "pwned") {
		t.Error("a command ran")
	}
	if list, _ := filepath.Glob(filepath.Join(dir, "pwned")); len(list) > 0 {
		t.Error("a command ran")
	}
}

// TestOutside has nothing of the host in the script, unless that is asked for.
func TestOutside(t *testing.T) {
	m := &machine.Machine{
		Kernel: &machine.Kernel{Path: "/boot/vmlinuz"},
		Drives: []machine.Drive{
			{Kind: machine.Disk, At: machine.Address{Bus: machine.IDE}, Media: machine.Media{Path: "/etc/shadow1"}},
			{Kind: machine.Disk, At: machine.Address{Bus: machine.IDE, Unit: 1}, Media: machine.Media{Path: "a/../../shadow2"}},
			{Kind: machine.Disk, At: machine.Address{Bus: machine.SCSI}, Media: machine.Media{Host: "/dev/sda3"}},
			{Kind: machine.Disk, At: machine.Address{Bus: machine.SCSI, Unit: 1}, Media: machine.Media{URL: "nbd://host4"}},
			{Kind: machine.Optical, At: machine.Address{Bus: machine.IDE, Unit: 2}, Media: machine.Media{Host: "/dev/cdrom5"}},
			{Kind: machine.Disk, At: machine.Address{Bus: machine.SCSI, Unit: 2}, Media: machine.Media{Path: `C:\disk6.vmdk`}},
		},
		Serials: []machine.Port{{Kind: "file", Path: "/tmp/log7"}, {Slot: 1, Kind: "tcp", Service: "4008", Server: machine.On}},
		Shares:  []machine.Share{{Name: "s", Path: "/home9"}},
	}
	marks := []string{"vmlinuz", "shadow1", "shadow2", "sda3", "host4", "cdrom5", "disk6", "log7", "4008", "home9"}
	text, losses, err := Script(m, Options{})
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range marks {
		if strings.Contains(string(text), s) {
			t.Errorf("%s is in the script", s)
		}
		if !strings.Contains(fmt.Sprint(losses), s) {
			t.Errorf("%s is not in the losses: %v", s, losses)
		}
	}
	if !strings.Contains(string(text), "id=drive4") {
		t.Error("the optical drive is not there without its medium")
	}
	text, _, err = Script(m, Options{Host: true})
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range marks {
		if !strings.Contains(string(text), s) {
			t.Errorf("%s is not in the script", s)
		}
	}
}

// TestFirmware has the firmware's variables made once, kept, and matched by size.
func TestFirmware(t *testing.T) {
	m := &machine.Machine{Firmware: machine.Firmware{Type: "efi"}}
	dir, _, _ := write(t, m, Options{})
	for name, text := range map[string]string{"code,1": "c", "vars": "template"} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o400); err != nil {
			t.Fatal(err)
		}
	}
	env := []string{"OVMF_CODE=./code,1", "OVMF_VARS=./vars"}
	out, err := fake(t, dir, env)
	if err != nil || !strings.Contains(out, "<if=pflash,unit=0,format=raw,readonly=on,file=./code,,1>") {
		t.Fatalf("%v: %s", err, out)
	}
	kept := filepath.Join(dir, "efi-vars.fd")
	if b, err := os.ReadFile(kept); err != nil || string(b) != "template" {
		t.Fatalf("%q, %v", b, err)
	}
	if err := os.WriteFile(kept, []byte("changed"), 0o600); err != nil {
		t.Fatal(err)
	}
	if out, err := fake(t, dir, env); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	if b, err := os.ReadFile(kept); err != nil || string(b) != "changed" {
		t.Errorf("%q, %v", b, err)
	}
	// Of no known size: no firmware goes with it.
	if out, err := fake(t, dir, nil); err == nil || !strings.Contains(out, "no firmware found") {
		t.Errorf("%v: %s", err, out)
	}
}

func TestMissing(t *testing.T) {
	dir, _, _ := write(t, &machine.Machine{TPM: &machine.TPM{}}, Options{})
	cmd := exec.Command("sh", filepath.Join(dir, "start.sh"))
	cmd.Env = append(os.Environ(), "QEMU=/nonexistent/qemu")
	if out, err := cmd.CombinedOutput(); err == nil || !strings.Contains(string(out), "/nonexistent/qemu is not installed") {
		t.Errorf("%v: %s", err, out)
	}
	// A PATH with little more than the shell's tools has no swtpm.
	bin := t.TempDir()
	for _, s := range []string{"sh", "dirname", "uname", "cat"} {
		p, err := exec.LookPath(s)
		if err != nil {
			t.Skip(err)
		}
		if err := os.Symlink(p, filepath.Join(bin, s)); err != nil {
			t.Fatal(err)
		}
	}
	if out, err := fake(t, dir, []string{"PATH=" + bin}); err != nil || !strings.Contains(out, "without its TPM") || strings.Contains(out, "tpm-crb") {
		t.Errorf("%v: %s", err, out)
	}
}

// TestArguments has the variables and the arguments change what is run.
func TestArguments(t *testing.T) {
	m := &machine.Machine{NICs: []machine.NIC{{Model: "e1000", Kind: machine.NAT}, {Slot: 1, Kind: machine.HostOnly}}, Sounds: []machine.Sound{{Model: "ac97"}}}
	dir, _, _ := write(t, m, Options{Memory: 3 << 30})
	for _, c := range []struct {
		env, args []string
		want      []string
	}{
		{nil, nil, []string{"<user,id=net0>", "<user,id=net1,restrict=on>", "<-accel>\n<tcg>", "<-cpu>\n<max>", "<-m>\n<3072>"}},
		{[]string{"NET=br0"}, nil, []string{"<bridge,id=net0,br=br0>", "<bridge,id=net1,br=br0>"}},
		{[]string{"CPU=qemu64", "ACCEL=kvm:tcg", "AUDIO=alsa"}, nil, []string{"<-cpu>\n<qemu64>", "<-accel>\n<kvm>\n<-accel>\n<tcg>", "<alsa,id=snd>"}},
		{[]string{"DISPLAY=", "WAYLAND_DISPLAY="}, nil, []string{"<-vnc>\n<127.0.0.1:0,to=99>"}},
		{[]string{"DISPLAY=:0"}, []string{"-snapshot"}, []string{"<-snapshot>\n"}},
	} {
		out, err := fake(t, dir, c.env, c.args...)
		if err != nil {
			t.Fatalf("%v: %s", err, out)
		}
		for _, want := range c.want {
			if !strings.Contains(out, want) {
				t.Errorf("%v: no %q in\n%s", c.env, want, out)
			}
		}
		if len(c.args) > 0 && strings.Contains(out, "<-vnc>") {
			t.Errorf("VNC beside a screen:\n%s", out)
		}
	}
	if out, err := fake(t, dir, []string{"DISPLAY=", "WAYLAND_DISPLAY="}, "-display", "none"); err != nil || strings.Contains(out, "<-vnc>") {
		t.Errorf("%v: VNC though a display is named:\n%s", err, out)
	}
}

func TestLosses(t *testing.T) {
	m := &machine.Machine{
		Virtualization: "pv", CPU: machine.CPU{Count: 4, Sockets: 1, Cores: 2, Model: "Opteron"}, Memory: machine.Memory{Bytes: 1 << 30, Max: 2 << 30},
		Firmware:    machine.Firmware{Loader: "/x", Vars: machine.Media{Path: "a.nvram"}},
		Controllers: []machine.Controller{{Bus: machine.SCSI, Model: "buslogic"}},
		Drives:      []machine.Drive{disk(machine.SCSI, 0, 0), disk(machine.SCSI, 0, 8), disk(machine.SATA, 0, 9), {Kind: machine.Disk, At: machine.Address{Bus: machine.IDE}}},
		NICs:        []machine.NIC{{Model: "vmxnet"}, {Slot: 1, Model: "zzz", Kind: machine.Internal}},
		Videos:      []machine.Video{{Model: "vboxvga", Memory: 9 << 20, Heads: 2, Accel3D: machine.On}},
		Displays:    []machine.Display{{Kind: "vnc"}}, Sounds: []machine.Sound{{Model: "es1371"}},
		Inputs: []machine.Input{{Kind: "tablet", Bus: "xen"}}, Others: []machine.Other{{Kind: "watchdog", Name: "w"}},
	}
	_, losses, err := Script(m, Options{})
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, l := range losses {
		got = append(got, l.String())
	}
	want := []string{
		"machine: a guest of type pv starts only if it can do without Xen",
		"cpu: topology of 1 sockets, 2 cores, 1 threads is left out: that is not 4",
		"cpu: model Opteron becomes what the host has",
		"memory: 1073741824 bytes are all: more cannot be added while it runs",
		"firmware: /x becomes what is installed where the script runs",
		"firmware: variables in a.nvram are left out: OVMF has its own",
		"controller scsi0: buslogic becomes lsi53c895a: QEMU has no BusLogic",
		"drive scsi0:8: becomes lsi53c895a scsi0, unit 1",
		"drive sata0:9: becomes ich9-ahci sata0, unit 0",
		"drive ide0:0: left out: it has no medium",
		"nic 0: vmxnet becomes pcnet",
		"nic 1: zzz becomes e1000",
		"nic 1: internal network becomes one that reaches nothing, unless NET names a bridge",
		"video 0: vboxvga becomes VGA",
		"video 0: memory of 9437184 bytes becomes 16777216",
		"video 0: 2 screens become one",
		"video 0: acceleration in three dimensions is left out",
		"display vnc: left out: the screen is in QEMU's window; arguments of the script can change that",
		"sound 0: es1371 becomes ES1370",
		"input tablet: left out: QEMU has none on the bus xen",
		"watchdog w: left out",
	}
	if !slices.Equal(got, want) {
		t.Errorf("lost:\n%s\nnot\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
	if _, _, err := Script(&machine.Machine{Arch: "ppc64"}, Options{}); !errors.Is(err, machine.ErrUnsupported) {
		t.Errorf("ppc64: %v", err)
	}
	for _, l := range machinesLost(t) {
		t.Error(l)
	}
}

// machinesLost looks for losses that name a part without a word.
func machinesLost(t *testing.T) (bad []machine.Loss) {
	for _, m := range machines() {
		_, losses, err := Script(machinetest.Strip(m), Options{})
		if err != nil {
			t.Fatal(err)
		}
		for _, l := range losses {
			if l.Part == "" || l.What == "" || strings.Contains(l.What, "  ") {
				bad = append(bad, l)
			}
		}
	}
	return bad
}

// TestArm writes a machine for another processor. Where its QEMU is not installed, the shell's view of it is all there is.
func TestArm(t *testing.T) {
	m := &machine.Machine{Arch: "aarch64", Drives: []machine.Drive{disk(machine.IDE, 0, 0), disk(machine.SCSI, 0, 0), disk(machine.Virtio, 0, 0)},
		NICs: []machine.NIC{{Model: "virtio"}}, Videos: []machine.Video{{Model: "virtio"}}}
	_, text, losses := write(t, m, Options{})
	for _, want := range []string{"qemu-system-aarch64", "-machine virt", "virtio-gpu-pci", "usb-kbd", "AAVMF_CODE.fd", "virtio-scsi-pci"} {
		if !strings.Contains(string(text), want) {
			t.Errorf("no %s in\n%s", want, text)
		}
	}
	if len(losses) != 1 {
		t.Errorf("%v", losses)
	}
}

// FuzzScript has any strings in a machine come through the shell whole: its syntax holds, and nothing is run.
func FuzzScript(f *testing.F) {
	if _, err := exec.LookPath("sh"); err != nil {
		f.Skip(err)
	}
	f.Add("name", "disk.qcow2", "serial,x")
	f.Add("'; touch x #", "$(a),b", "`\\\n")
	dir := f.TempDir()
	prog := filepath.Join(dir, "fake")
	if err := os.WriteFile(prog, []byte("#!/bin/sh\nprintf '<%s>\\n' \"$@\"\n"), 0o700); err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, name, path, serial string) {
		m := &machine.Machine{Name: name, Drives: []machine.Drive{{Kind: machine.Disk, At: machine.Address{Bus: machine.SATA}, Serial: serial,
			Media: machine.Media{Path: path, Format: "raw"}}}}
		text, losses, err := Script(m, Options{})
		if err != nil {
			t.Fatal(err)
		}
		script := filepath.Join(t.TempDir(), "start.sh")
		if err := os.WriteFile(script, text, 0o600); err != nil {
			t.Fatal(err)
		}
		cmd := exec.Command("sh", script)
		cmd.Env = []string{"QEMU=" + prog, "ACCEL=tcg", "PATH=" + os.Getenv("PATH")}
		out, err := cmd.CombinedOutput()
		if err != nil {
			t.Fatalf("%v: %s\n%s", err, out, text)
		}
		if n := strings.ReplaceAll(name, "\x00", ""); name != "" && !strings.Contains(string(out), "<guest="+escape(n)+">") {
			t.Errorf("name %q: %s", name, out)
		}
		if len(losses) == 0 && serial != "" && !strings.Contains(string(out), ",serial="+escape(serial)+">") {
			t.Errorf("serial %q: %s", serial, out)
		}
	})
}
