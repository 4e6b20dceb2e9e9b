//go:build unix

package libvirt_test

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"

	"tarvm/formats/formatstest"
	"tarvm/formats/libvirt"
	"tarvm/formats/machine"
	"tarvm/formats/machine/machinetest"
)

// nobody is who runs libvirt's QEMU driver in tests, if they are run by root: for root it wants a user of its own.
const nobody = 65534

// embedded runs commands of virsh with a QEMU driver of its own, whose files are below dir.
func embedded(t *testing.T, dir, script string) ([]byte, error) {
	t.Helper()
	formatstest.Tool(t, "virsh")
	cmd := exec.Command("virsh", "-q", "-c", "qemu:///embed?root="+dir+"/root", script)
	cmd.Dir = dir
	// There are no networks and pools here, and libvirt would wait five seconds for each daemon of theirs that it starts.
	cmd.Env = []string{"PATH=" + os.Getenv("PATH"), "HOME=" + dir, "LC_ALL=C", "LIBVIRT_AUTOSTART=0"}
	cmd.WaitDelay = time.Second
	if os.Getuid() == 0 {
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: nobody, Gid: nobody}}
	}
	out, err := cmd.CombinedOutput()
	if err == nil && bytes.Contains(out, []byte("\nerror:")) {
		err = errors.New("a command failed")
	}
	return out, err
}

// embeddedDir makes a folder for embedded, and skips the test where there is no such driver.
func embeddedDir(t *testing.T) string {
	t.Helper()
	formatstest.Tool(t, "virsh")
	formatstest.Tool(t, "qemu-system-x86_64")
	dir, err := os.MkdirTemp("/tmp", "lv") // names of sockets have to be short
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	if os.Getuid() == 0 {
		if err := os.Chown(dir, nobody, nobody); err != nil {
			t.Fatal(err)
		}
	}
	if out, err := embedded(t, dir, "version"); err != nil {
		if os.Getenv("TARVM_REQUIRE_TOOLS") == "1" {
			t.Fatalf("libvirt's QEMU driver is required: %s", out)
		}
		t.Skipf("libvirt's QEMU driver does not run: %s", out)
	}
	return dir
}

var interfaces = regexp.MustCompile(`(?s)<interface .*?</interface>\s*`)

// virtual turns a domain into one that QEMU runs without KVM.
func virtual(b []byte) []byte {
	return bytes.Replace(b, []byte(`<domain type="kvm">`), []byte(`<domain type="qemu">`), 1)
}

// emulated turns a domain into one that QEMU runs without KVM, and without networks of the host.
func emulated(b []byte) []byte {
	b = virtual(b)
	b = regexp.MustCompile(`<interface type="(network|bridge)">\s*(<source (network|bridge)="[^"]*"/>)?`).ReplaceAll(b, []byte(`<interface type="user">`))
	b = regexp.MustCompile(`mode="host-(passthrough|model)"`).ReplaceAll(b, []byte(`mode="maximum"`))
	return b
}

// TestQEMU has libvirt's QEMU driver take each new domain, and make a command line of it, which checks what QEMU has:
// machines, models, addresses, firmware.
func TestQEMU(t *testing.T) {
	formatstest.OneGoroutine(t)
	dir := embeddedDir(t)
	type tried struct {
		script string
		xml    []byte
	}
	list := map[string]tried{}
	prepare := func(name string, m *machine.Machine) {
		m.Name, m.UUID = name, ""
		b, _ := machinetest.Encode(t, libvirt.Form{}, m, machine.EncodeOptions{})
		whole, bare := filepath.Join(dir, name+".xml"), filepath.Join(dir, name+".bare.xml")
		for file, b := range map[string][]byte{whole: virtual(b), bare: interfaces.ReplaceAll(emulated(b), nil)} { // argv makes all interfaces taps
			if err := os.WriteFile(file, b, 0o644); err != nil {
				t.Fatal(err)
			}
		}
		list[name] = tried{"define " + whole + "; undefine --nvram " + name + "; domxml-to-native qemu-argv --xml " + bare + "; ", virtual(b)}
	}
	for name, m := range machines() {
		if m.Virtualization != "pv" && m.Arch != "aarch64" { // not for qemu-system-x86_64
			prepare(name, m)
		}
	}
	if len(list) < 8 {
		t.Fatal(len(list))
	}
	t.Run("machines", func(t *testing.T) {
		for _, s := range fromVMX(t) {
			m := machinetest.Strip(decode(t, s.Data))
			host(m)
			if m.Arch == "i686" && m.Firmware.Type == "efi" {
				m.Arch = "x86_64" // no distribution has a 32-bit EFI for QEMU's machines
			}
			prepare(strings.TrimSuffix(s.Name, ".vmx"), m)
		}
	})
	var script strings.Builder
	for _, c := range list {
		script.WriteString(c.script)
	}
	out, err := embedded(t, dir, script.String())
	if n := bytes.Count(out, []byte(" -machine ")); err == nil && n == len(list) {
		return
	}
	for name, c := range list { // to know which
		if out, err := embedded(t, dir, c.script); err != nil || !bytes.Contains(out, []byte(" -machine ")) {
			t.Errorf("%s: %s\n%s", name, out, c.xml)
		}
	}
	if !t.Failed() {
		t.Errorf("together: %s", out)
	}
}

// TestStart starts QEMU with new domains, paused: QEMU makes every device.
func TestStart(t *testing.T) {
	formatstest.OneGoroutine(t)
	t.Parallel() // libvirt waits most of the time
	dir := embeddedDir(t)
	scripts, texts := map[string]string{}, map[string][]byte{}
	for name, m := range machines() {
		if m.Virtualization == "pv" || m.Arch == "aarch64" { // not for qemu-system-x86_64
			continue
		}
		m.Name, m.UUID = name, ""
		small(t, dir, m)
		b, _ := machinetest.Encode(t, libvirt.Form{}, m, machine.EncodeOptions{})
		b = emulated(b)
		file := filepath.Join(dir, name+".xml")
		if err := os.WriteFile(file, b, 0o644); err != nil {
			t.Fatal(err)
		}
		scripts[name], texts[name] = "create "+file+" --paused; domstate "+name+"; destroy "+name+"; ", b
	}
	if len(scripts) < 8 {
		t.Fatal(len(scripts))
	}
	var all strings.Builder
	for _, s := range scripts {
		all.WriteString(s)
	}
	out, err := embedded(t, dir, all.String())
	if err == nil && bytes.Count(out, []byte("paused\n")) == len(scripts) {
		return
	}
	for name, s := range scripts { // to know which
		if out, err := embedded(t, dir, s); err != nil || !bytes.Contains(out, []byte("paused")) {
			t.Errorf("%s: %s\n%s", name, out, texts[name])
		}
	}
	if !t.Failed() {
		t.Errorf("together: %s", out)
	}
}

// small makes of a machine one that can be started here: with images that are there, and without what leads out.
func small(t *testing.T, dir string, m *machine.Machine) {
	t.Helper()
	if m.Firmware.Vars.Path != "" {
		m.Firmware.Vars.Path = filepath.Join(dir, "vars.fd")
	}
	m.Memory.Bytes, m.Memory.Max = min(m.Memory.Bytes, 256<<20), min(m.Memory.Max, 1<<30)
	for i := range m.Drives {
		d := &m.Drives[i]
		if d.Kind == machine.LUN {
			d.Kind = machine.Disk
		}
		if d.Media == (machine.Media{}) {
			continue
		}
		d.Media = machine.Media{Path: filepath.Join(dir, fmt.Sprintf("%s-%d.img", m.Name, i)), Format: "raw"}
		if err := os.WriteFile(d.Media.Path, make([]byte, 1<<20), 0o666); err != nil {
			t.Fatal(err)
		}
		if err := os.Chmod(d.Media.Path, 0o666); err != nil {
			t.Fatal(err)
		}
	}
	for _, list := range [][]machine.Port{m.Serials, m.Parallels} {
		for i := range list {
			list[i] = machine.Port{Slot: list[i].Slot, Kind: "null"}
		}
	}
	m.Displays, m.Shares, m.TPM = nil, nil, nil
	for i := range m.Videos {
		m.Videos[i].Accel3D = machine.Unsaid
	}
}
