package libvirt_test

import (
	"bytes"
	"cmp"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"tarvm/formats/formatstest"
	"tarvm/formats/libvirt"
	"tarvm/formats/machine"
	"tarvm/formats/machine/machinetest"
)

// TestAsLibvirtReads compares what a domain means here with what libvirt 9.0 made of it: addresses, indexes of
// controllers, units, defaults. (Written by define and dumpxml of its QEMU driver; libvirt sorts drives and controllers,
// and adds what is there by default.)
func TestAsLibvirtReads(t *testing.T) {
	for name, added := range map[string][]string{
		"rich": {
			`^controllers\.`, // sata0 and fdc0, which are Implied without, and usb's own
			`^drives\.\d+\.connected: nothing, on$`,
			`^drives\.\d+\.media\.format: nothing, raw$`,
			`^drives\.\d+\.read_only`,
			`^inputs\.`,      // PS/2 mouse and keyboard
			`^others\.\d+\.`, // in libvirt's order
			`^sounds\.`,
		},
		"names": {
			`^controllers\.`,
			`^cpu\.model: nothing, qemu64$`,
			`^drives\.\d+\.media\.format: nothing, raw$`,
			`^inputs\.`,
			`^serials\.`,
			`^version: pc, pc-i440fx-7\.2$`,
			`^videos\.0\.`, // memory and heads
			`^memory\.bytes: 512000000, 512000000$`,
			`^displays\.0\.listen`,
		},
	} {
		t.Run(name, func(t *testing.T) {
			read := func(file string) *machine.Machine {
				b, err := os.ReadFile(file)
				if err != nil {
					t.Fatal(err)
				}
				m := decode(t, b)
				slices.SortFunc(m.Drives, func(a, b machine.Drive) int { return cmp.Compare(a.At.String(), b.At.String()) })
				return m
			}
			ours, libs := read("testdata/"+name+".xml"), read("testdata/"+name+".libvirt.xml")
			for _, d := range machine.Difference(ours, libs) {
				if !slices.ContainsFunc(added, func(p string) bool { return regexp.MustCompile(p).MatchString(d) }) {
					t.Errorf("not as libvirt has it: %s", d)
				}
			}
			for _, c := range ours.Controllers {
				if l := libs.Controller(c.Bus, c.Index); l == nil && c.Bus != machine.Virtio && c.Bus != machine.USB {
					t.Errorf("libvirt has no %s%d", c.Bus, c.Index)
				} else if l != nil && !c.Implied && l.Model != c.Model {
					t.Errorf("%s%d is %q, libvirt's %q", c.Bus, c.Index, c.Model, l.Model)
				}
			}
			if len(ours.Others) > len(libs.Others)+1 {
				t.Errorf("%d others, libvirt's %d", len(ours.Others), len(libs.Others))
			}
		})
	}
}

// TestRoundTrip: what was read is written as it was but for the quotes of attributes.
func TestRoundTrip(t *testing.T) {
	quotes := strings.NewReplacer("'", `"`, "&quot;", `"`)
	check := func(t *testing.T, s machinetest.Sample) {
		out := machinetest.CheckRoundTrip(t, libvirt.Form{}, s.Data)
		if quotes.Replace(string(out)) != quotes.Replace(string(s.Data)) {
			t.Errorf("not the text that was read:\n%s", out)
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
}

// fromVMX returns the domains that libvirt's VMware driver makes of the corpus' VMX files.
func fromVMX(t *testing.T) []machinetest.Sample {
	t.Helper()
	vmx := append(machinetest.Corpus(t, "libvirt-vmx2xml", ".vmx"), machinetest.Corpus(t, "virt-v2v", ".vmx")...)
	formatstest.Tool(t, "virsh")
	dir := t.TempDir() // the driver wants a vmrun and a version, so it gets some
	for name, says := range map[string]string{"vmrun": "Total running VMs: 0", "vmplayer": "VMware Player 15.5.1 build-15018445"} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte("#!/bin/sh\necho '"+says+"'\n"), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	t.Setenv("PATH", dir+":"+os.Getenv("PATH"))
	var list []machinetest.Sample
	for _, s := range vmx {
		out, err := virsh(t, "vmwareplayer:///session", "domxml-from-native vmware-vmx "+s.Path)
		if err != nil {
			t.Logf("libvirt does not read %s: %s", s.Name, out)
			continue
		}
		list = append(list, machinetest.Sample{Name: filepath.Base(s.Name), Data: out})
	}
	if len(list) < len(vmx)-3 || len(list) < 40 {
		t.Fatalf("libvirt reads %d of %d", len(list), len(vmx))
	}
	return list
}

// TestVMware reads what libvirt's VMware driver writes, and compares the addresses of drives with the names that the
// driver gave them, from the same function of libvirt.
func TestVMware(t *testing.T) {
	formatstest.OneGoroutine(t)
	letters := regexp.MustCompile(`(?s)<target dev='([a-z]+)' bus='([a-z]+)'/>.*?<address type='drive' controller='(\d+)' bus='(\d+)' target='(\d+)' unit='(\d+)'/>`)
	address := regexp.MustCompile(`\s*<address type='drive'[^>]*/>`)
	// The driver names disks by their places, libvirt numbers names without gaps: these have a disk above unit 15, or on a
	// controller above one that is not full.
	renamed := map[string]bool{"esx-in-the-wild-11.vmx": true, "esx-in-the-wild-2.vmx": true, "test-i-vmx-1.vmx": true}
	n := 0
	for _, s := range fromVMX(t) {
		t.Run(s.Name, func(t *testing.T) {
			m := decode(t, machinetest.CheckRoundTrip(t, libvirt.Form{}, s.Data))
			if m.Platform != "vmware" {
				t.Errorf("platform %q", m.Platform)
			}
			bare := decode(t, address.ReplaceAll(s.Data, nil))
			for i, d := range m.Drives {
				if bare.Drives[i].At != d.At && !renamed[s.Name] {
					t.Errorf("%s by its address, %s by its name", d.At, bare.Drives[i].At)
				}
				n++
			}
			if got := len(letters.FindAllSubmatch(s.Data, -1)); got != len(m.Drives) {
				t.Errorf("%d drives, %d addresses in the text", len(m.Drives), got)
			}
			out, _ := machinetest.CheckFresh(t, libvirt.Form{}, s.Data)
			if !bytes.Contains(out, []byte(`<domain type="kvm">`)) {
				t.Error("the new domain is not one for QEMU")
			}
		})
	}
	if n < 50 {
		t.Errorf("%d drives compared", n)
	}
}
