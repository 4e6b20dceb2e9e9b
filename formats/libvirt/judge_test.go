package libvirt_test

import (
	"bytes"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"tarvm/formats/formatstest"
	"tarvm/formats/libvirt"
	"tarvm/formats/machine"
	"tarvm/formats/machine/machinetest"
)

// virsh runs commands and returns what they print, messages last.
func virsh(t testing.TB, uri, script string) ([]byte, error) {
	t.Helper()
	cmd := exec.Command("virsh", "-q", "-c", uri, script)
	cmd.Env = append(os.Environ(), "LC_ALL=C")
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err == nil && strings.Contains(stderr.String(), "error:") { // of all but the last command
		err = errors.New("a command failed")
	}
	if err != nil {
		return append(out, stderr.Bytes()...), err
	}
	return out, nil
}

// valid has libvirt's schema judge a domain, and its test driver take it. (The driver has no domains of its own here.)
func valid(t *testing.T, b []byte) {
	t.Helper()
	dir := t.TempDir()
	file, node := filepath.Join(dir, "d.xml"), filepath.Join(dir, "node.xml")
	if err := os.WriteFile(file, b, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(node, []byte("<node/>"), 0o600); err != nil {
		t.Fatal(err)
	}
	formatstest.Tool(t, "virt-xml-validate")
	if out, err := exec.Command("virt-xml-validate", file, "domain").CombinedOutput(); err != nil {
		t.Errorf("libvirt's schema: %s\n%s", out, b)
	}
	formatstest.Tool(t, "virsh")
	if out, err := virsh(t, "test://"+node, "define "+file); err != nil {
		t.Errorf("libvirt's test driver: %s\n%s", out, b)
	}
}

// host makes paths absolute, as one who writes a domain for this host does.
func host(m *machine.Machine) {
	abs := func(p *string) {
		if *p != "" && !filepath.IsAbs(*p) && !strings.HasPrefix(*p, "[") {
			*p = "/var/lib/libvirt/images/" + *p
		}
	}
	for i := range m.Drives {
		abs(&m.Drives[i].Media.Path)
	}
	for i := range m.Serials {
		abs(&m.Serials[i].Path)
	}
	for i := range m.Parallels {
		abs(&m.Parallels[i].Path)
	}
	abs(&m.Firmware.Vars.Path)
}

// TestValid: what is written stands before libvirt's schema and its test driver.
func TestValid(t *testing.T) {
	formatstest.OneGoroutine(t)
	check := func(t *testing.T, s machinetest.Sample) {
		m := decode(t, s.Data)
		if !strings.Contains(s.Name, "vmware") && m.Platform != "vmware" && m.Arch != "loongarch64" { // libvirt 9 does not know it
			same, _ := machinetest.Encode(t, libvirt.Form{}, m, machine.EncodeOptions{})
			valid(t, same)
		}
		m = machinetest.Strip(m)
		host(m)
		fresh, _ := machinetest.Encode(t, libvirt.Form{}, m, machine.EncodeOptions{})
		if m.Arch != "loongarch64" {
			valid(t, fresh)
		}
	}
	for _, s := range goldens(t) {
		t.Run(s.Name, func(t *testing.T) { check(t, s) })
	}
	t.Run("corpus", func(t *testing.T) {
		for _, s := range whole(t) {
			if !strings.Contains(s.Name, "vz-ct") {
				t.Run(s.Name, func(t *testing.T) { check(t, s) })
			}
		}
	})
	t.Run("vmx", func(t *testing.T) {
		for _, s := range fromVMX(t) {
			t.Run(s.Name, func(t *testing.T) { check(t, s) })
		}
	})
	t.Run("machines", func(t *testing.T) {
		for name, m := range machines() {
			t.Run(name, func(t *testing.T) {
				b, _ := machinetest.Encode(t, libvirt.Form{}, m, machine.EncodeOptions{})
				valid(t, b)
			})
		}
	})
}
