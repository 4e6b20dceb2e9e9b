package ovf_test

import (
	"encoding/binary"
	"fmt"
	"os"
	"regexp"
	"strings"
	"testing"
	"unicode/utf16"

	"tarvm/formats/machine"
	"tarvm/formats/machine/machinetest"
	"tarvm/ovf"
)

// TestAsVirtV2V: virt-v2v's own tests say what it reads of their envelopes.
func TestAsVirtV2V(t *testing.T) {
	texts := map[string]string{}
	for _, suffix := range []string{".expected", ".expected2"} {
		for _, s := range machinetest.Corpus(t, "virt-v2v", suffix) {
			name, _, _ := strings.Cut(s.Name, ".")
			if strings.Contains(string(s.Data), "source name:") {
				texts[name] = string(s.Data)
			}
		}
	}
	compared := 0
	for _, s := range machinetest.Corpus(t, "virt-v2v", ".ovf") {
		want := texts[strings.TrimSuffix(s.Name, ".ovf")]
		if want == "" {
			continue
		}
		compared++
		e, err := ovf.Decode(s.Data)
		if err != nil {
			t.Errorf("%s: %v", s.Name, err)
			continue
		}
		m := e.Systems[0].Machine
		field := func(name string) string {
			r := regexp.MustCompile(`(?m)^ *` + name + `: *(.*?)(?: \(bytes\))? *$`).FindStringSubmatch(want)
			if r == nil {
				return ""
			}
			return r[1]
		}
		firmware := map[string]string{"": "unknown", "efi": "uefi"}[m.Firmware.Type]
		if firmware == "" {
			firmware = m.Firmware.Type
		}
		if f := field("firmware"); f == "bios" && firmware == "unknown" {
			firmware = "bios" // it takes that where nothing is said
		}
		for name, got := range map[string]string{
			"source name": m.Name, "memory": fmt.Sprint(m.Memory.Bytes), "nr vCPUs": fmt.Sprint(m.CPU.Count), "firmware": firmware,
		} {
			if field(name) != got {
				t.Errorf("%s: %s is %q, virt-v2v reads %q", s.Name, name, got, field(name))
			}
		}
		var disks, wanted string
		for _, d := range m.Disks() {
			disks += string(d.At.Bus) + " "
		}
		_, part, _ := strings.Cut(want, "\ndisks:")
		part, _, _ = strings.Cut(part, "\nremovable")
		for _, l := range regexp.MustCompile(`(?m) \[(\w+)\]$`).FindAllStringSubmatch(part, -1) {
			wanted += l[1] + " "
		}
		if disks != wanted {
			t.Errorf("%s: disks %q, virt-v2v reads %q", s.Name, disks, wanted)
		}
		nics := regexp.MustCompile(`(?:Bridge|Network) "(.*)".*\[(\w+)\]`).FindAllStringSubmatch(want, -1)
		if len(nics) != len(m.NICs) {
			t.Errorf("%s: %d network adapters, virt-v2v reads %d", s.Name, len(m.NICs), len(nics))
			continue
		}
		for i, n := range nics {
			if m.NICs[i].Network != n[1] || m.NICs[i].Model != n[2] {
				t.Errorf("%s: %+v, virt-v2v reads %q", s.Name, m.NICs[i], n[1:])
			}
		}
	}
	if compared < 4 {
		t.Errorf("only %d were compared", compared)
	}
}

// TestVirtualBoxExports: one machine in VirtualBox's three versions is one machine.
func TestVirtualBoxExports(t *testing.T) {
	var machines []*machine.Machine
	for _, v := range []struct{ name, version string }{{"ovf09", "0.9"}, {"ovf10", "1.0"}, {"ovf20", "2.0"}} {
		b, err := os.ReadFile("testdata/virtualbox-7.2-" + v.name + ".ovf")
		if err != nil {
			t.Fatal(err)
		}
		e, err := ovf.Decode(b)
		if err != nil {
			t.Fatal(err)
		}
		if e.Version != v.version || len(e.Problems) > 0 {
			t.Errorf("%s: version %s, %v", v.name, e.Version, e.Problems)
		}
		machines = append(machines, e.Systems[0].Machine)
	}
	m := machines[0]
	for i, o := range machines[1:] {
		for _, d := range machine.Difference(m, o) {
			// UUIDs are made anew with each export; and it says vmx-6 in 0.9.
			if !strings.Contains(d, "media.uuid") && !strings.HasPrefix(d, "uuid") && d != "version: vmx-6, virtualbox-2.2" {
				t.Errorf("%d: %s", i+1, d)
			}
		}
	}
	got := fmt.Sprint(m.Name, " ", m.Platform, " ", m.Version, " ", m.CPU.Count, " ", m.Memory.Bytes>>20, " ", m.Firmware.Type, " ", m.Firmware.Vars.Path, " ", m.TPM.Version,
		" ", m.Chipset, " ", m.Guest.CIM, " ", m.Guest.VirtualBox, " ", m.Notes)
	if want := "rich virtualbox vmx-6 4 2048 efi rich.nvram 2.0 q35 96 Debian_64 Notes\ntwo"; got != want {
		t.Errorf("%q, want %q", got, want)
	}
	var s []string
	for _, d := range m.Drives {
		s = append(s, fmt.Sprintf("%s %s %s", d.Kind, d.At, d.Media.Path))
	}
	for _, n := range m.NICs {
		s = append(s, fmt.Sprintf("%s %s %q %s", n.Model, n.Kind, n.Network, n.MAC))
	}
	want := []string{
		"floppy fdc0:0 ", "disk sata0:0 rich-disk001.vmdk", "disk scsi1:3 rich-disk002.vmdk", "disk nvme0:0 rich-disk003.vmdk", "disk scsi2:0 rich-disk004.vmdk",
		"disk scsi1:0 rich-disk005.vmdk", "cdrom sata0:2 rich-disk006.iso",
		`virtio user "" 08:00:27:f2:23:2c`, `e1000 bridged "eth0" 08:00:27:b9:06:bf`, `pcnet internal "mynet" 08:00:27:e1:c7:2c`, `e1000 hostonly "" 08:00:27:f2:29:4c`,
	}
	if strings.Join(s, "\n") != strings.Join(want, "\n") {
		t.Errorf("%q", s)
	}
}

// TestEncodings: an envelope in UTF-16 is read, and what is changed in it is written as UTF-8.
func TestEncodings(t *testing.T) {
	text := strings.Replace(string(envelope("")), `ovf:id="vm">`, `ovf:id="vm"><Name>für 2 €</Name>`, 1)
	b := []byte{0xff, 0xfe}
	for _, u := range utf16.Encode([]rune(strings.Replace(text, "UTF-8", "UTF-16", 1))) {
		b = binary.LittleEndian.AppendUint16(b, u)
	}
	e, err := ovf.Decode(b)
	if err != nil || e.Systems[0].Machine.Name != "für 2 €" {
		t.Fatal(err)
	}
	e.Systems[0].Machine.CPU.Count = 3
	out, _, err := e.Encode(ovf.EncodeOptions{})
	if err != nil || !strings.Contains(string(out), "für 2 €") || !strings.Contains(string(out), `encoding="UTF-8"`) {
		t.Errorf("%v\n%s", err, out)
	}
}

func TestDecodeBundle(t *testing.T) {
	b, err := ovf.DecodeBundle([]byte(`<Strings xmlns:ovf="x" xml:lang="de"><Msg ovf:msgid="a">b</Msg></Strings>`))
	if err != nil || b.Lang != "de" || len(b.Messages) != 1 || b.Messages[0] != (ovf.Msg{Text: "b", ID: "a"}) {
		t.Errorf("%+v, %v", b, err)
	}
	if _, err := ovf.DecodeBundle([]byte("<x/>")); err == nil {
		t.Error("another root was taken")
	}
}

func TestFormatName(t *testing.T) {
	for uri, want := range map[string]string{
		ovf.FormatVMDK: "vmdk", ovf.FormatISO: "raw", ovf.FormatVHD: "vpc", ovf.FormatVHDX: "vhdx", ovf.FormatQcow2: "qcow2", "": "", "http://x/y": "",
		"http://www.vmware.com/specifications/vmdk.html#sparse": "vmdk", "http://www.vmware.com/specifications/vmdk.html#compressed": "vmdk",
	} {
		if got := ovf.FormatName(uri); got != want {
			t.Errorf("%q: %q, want %q", uri, got, want)
		}
	}
}
