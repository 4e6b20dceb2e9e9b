package ovf_test

import (
	"bytes"
	"errors"
	"fmt"
	"regexp"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"tarvm/formats/machine"
	"tarvm/formats/machine/machinetest"
	"tarvm/ovf"
)

func TestQuantity(t *testing.T) {
	for _, tc := range []struct {
		n, units, base string
		want           int64 // -1: an error
	}{
		{"1", "", "byte", 1}, {" 7 ", "byte", "byte", 7}, {"2", "bytes", "byte", 2}, {"512", "MegaBytes", "byte", 512 << 20},
		{"1", "byte * 2^20", "byte", 1 << 20}, {"3", "byte*2^30", "byte", 3 << 30}, {"1", "byte*1024*1024", "byte", 1 << 20},
		{"2", "byte*10^9", "byte", 2e9}, {"2", "byte * 10^3 * 2", "byte", 4000}, {"1", "KiloBytes", "byte", 1 << 10}, {"1", "GigaBytes", "byte", 1 << 30},
		{"1", "GB", "byte", 1 << 30}, {"1", "TB", "byte", 1 << 40}, {"1000", "hertz * 10^6", "hertz", 1e9}, {"2", "Hertz*10^9", "hertz", 2e9},
		{"5", "MegaHertz", "hertz", 5e6}, {"4611686018427387904", "byte", "byte", 1 << 62}, {"1", "byte * 2^62", "byte", 1 << 62},
		{"0x10", "byte", "byte", -1}, {"-1", "byte", "byte", -1}, {"1e3", "byte", "byte", -1}, {"", "byte", "byte", -1}, {"1.5", "GB", "byte", -1},
		{"99999999999999999999", "byte", "byte", -1}, {"9223372036854775807", "byte * 2^20", "byte", -1}, {"1", "byte * 2^63", "byte", -1},
		{"1", "byte * 2^999999", "byte", -1}, {"1", "byte * 0", "byte", -1}, {"1", "byte *", "byte", -1}, {"1", "byte * 2^", "byte", -1},
		{"1", "byte * -2", "byte", -1}, {"1", "hertz * 10^6", "byte", -1}, {"1", "MegaBytes", "hertz", -1}, {"1", "parsec", "byte", -1},
		{"1", "byte / 2", "byte", -1}, {"4611686018427387905", "byte", "byte", -1}, {"${x}", "byte", "byte", -1}, {"1", "byte * 1^255", "byte", 1},
	} {
		n, err := ovf.Quantity(tc.n, tc.units, tc.base)
		if tc.want < 0 && err == nil || tc.want >= 0 && (err != nil || n != tc.want) {
			t.Errorf("%q of %q: %d, %v, want %d", tc.n, tc.units, n, err, tc.want)
		}
	}
}

// item renders an Item of name and value pairs.
func item(pairs ...string) string {
	var b strings.Builder
	b.WriteString("<Item>")
	for i := 0; i+1 < len(pairs); i += 2 {
		fmt.Fprintf(&b, "<rasd:%s>%s</rasd:%s>", pairs[i], pairs[i+1], pairs[i])
	}
	return b.String() + "</Item>\n"
}

const head = `<?xml version="1.0" encoding="UTF-8"?>
<Envelope xmlns="http://schemas.dmtf.org/ovf/envelope/1" xmlns:ovf="http://schemas.dmtf.org/ovf/envelope/1"
 xmlns:rasd="http://schemas.dmtf.org/wbem/wscim/1/cim-schema/2/CIM_ResourceAllocationSettingData"
 xmlns:vssd="http://schemas.dmtf.org/wbem/wscim/1/cim-schema/2/CIM_VirtualSystemSettingData" xmlns:vmw="http://www.vmware.com/schema/ovf">
<References><File ovf:id="f1" ovf:href="a.vmdk"/><File ovf:id="f2" ovf:href="b.iso"/></References>
<DiskSection><Info>x</Info><Disk ovf:diskId="d1" ovf:fileRef="f1" ovf:capacity="1" ovf:capacityAllocationUnits="byte * 2^30"
 ovf:format="http://www.vmware.com/interfaces/specifications/vmdk.html#streamOptimized" ovf:populatedSize="99"/>
<Disk ovf:diskId="d2" ovf:capacity="2048" ovf:parentRef="d1"/></DiskSection>
<NetworkSection><Info>x</Info><Network ovf:name="net"/></NetworkSection>
`

// envelope is a document with one system.
func envelope(items string) []byte {
	return []byte(head + `<VirtualSystem ovf:id="vm"><Info>x</Info><VirtualHardwareSection><Info>x</Info>` + items +
		"</VirtualHardwareSection></VirtualSystem></Envelope>")
}

// TestItems: what an item means, and what is wrong with it.
func TestItems(t *testing.T) {
	scsi := item("Address", "0", "InstanceID", "3", "ResourceSubType", "lsilogic", "ResourceType", "6")
	disk := func(pairs ...string) string {
		return scsi + item(append([]string{"InstanceID", "9", "ResourceType", "17"}, pairs...)...)
	}
	one := func(m *machine.Machine) string {
		if len(m.Drives) == 0 {
			return "none"
		}
		d := m.Drives[len(m.Drives)-1]
		return fmt.Sprintf("%s %s %s %s %d %d", d.Kind, d.At, d.Media.Path, d.Media.Format, d.Media.Capacity, d.Media.Populated)
	}
	controllers := func(m *machine.Machine) string {
		var s []string
		for _, c := range m.Controllers {
			s = append(s, fmt.Sprintf("%s%d %s", c.Bus, c.Index, c.Model))
		}
		return strings.Join(s, ",")
	}
	nic := func(m *machine.Machine) string {
		n := m.NICs[0]
		return fmt.Sprintf("%s %s %s %s %s", n.Model, n.MAC, n.Kind, n.Network, n.Connected)
	}
	for name, tc := range map[string]struct {
		items, want string
		get         func(m *machine.Machine) string
		problem     string // of them, a part; empty: there is none
	}{
		"disk":           {disk("HostResource", "ovf:/disk/d1", "Parent", "3", "AddressOnParent", "5"), "disk scsi0:5 a.vmdk vmdk 1073741824 99", one, ""},
		"disk as in 0.9": {disk("HostResource", "/disk/d1", "Parent", "3", "AddressOnParent", "5"), "disk scsi0:5 a.vmdk vmdk 1073741824 99", one, ""},
		"blank disk":     {disk("HostResource", "ovf:/disk/d2", "Parent", "3"), "disk scsi0:0   2048 0", one, ""},
		"no address": {
			disk("HostResource", "ovf:/disk/d2", "Parent", "3", "AddressOnParent", "0") + item("InstanceID", "10", "ResourceType", "17", "HostResource", "ovf:/disk/d1", "Parent", "3"),
			"disk scsi0:1 a.vmdk vmdk 1073741824 99", one, "",
		},
		"address taken": {
			disk("HostResource", "ovf:/disk/d2", "Parent", "3", "AddressOnParent", "6") + item("InstanceID", "10", "ResourceType", "17", "HostResource", "ovf:/disk/d1", "Parent", "3", "AddressOnParent", "6"),
			"disk scsi0:0 a.vmdk vmdk 1073741824 99", one, "is taken",
		},
		"huge address":        {disk("HostResource", "ovf:/disk/d2", "Parent", "3", "AddressOnParent", "99999999999999999999"), "disk scsi0:0   2048 0", one, "next free"},
		"file as disk":        {disk("HostResource", "ovf:/file/f1", "Parent", "3"), "disk scsi0:0 a.vmdk  0 0", one, ""},
		"disk nowhere":        {disk("HostResource", "ovf:/disk/d7", "Parent", "3"), "disk scsi0:0   0 0", one, `its disk "d7" is nowhere`},
		"parent nowhere":      {disk("HostResource", "ovf:/disk/d2", "Parent", "4"), "disk scsi0:0   2048 0", one, `its Parent "4" is nowhere`},
		"no parent":           {disk("HostResource", "ovf:/disk/d2"), "disk scsi0:0   2048 0", one, "no Parent"},
		"no resource":         {disk("Parent", "3"), "disk scsi0:0   0 0", one, "no HostResource"},
		"size of its own":     {disk("Parent", "3", "VirtualQuantity", "4", "AllocationUnits", "byte * 2^20"), "disk scsi0:0   4194304 0", one, ""},
		"cd":                  {item("InstanceID", "4", "ResourceType", "5", "Address", "1") + item("InstanceID", "9", "ResourceType", "15", "HostResource", "ovf:/file/f2", "Parent", "4", "AddressOnParent", "0"), "cdrom ide0:2 b.iso raw 0 0", one, ""},
		"cd of the host":      {item("InstanceID", "4", "ResourceType", "5") + item("InstanceID", "9", "ResourceType", "16", "HostResource", "/dev/cdrom", "Parent", "4"), "cdrom ide0:0   0 0", one, ""},
		"floppy":              {item("InstanceID", "9", "ResourceType", "14", "AddressOnParent", "1"), "floppy fdc0:1   0 0", one, ""},
		"ide with four":       {item("InstanceID", "4", "ResourceType", "5") + item("InstanceID", "9", "ResourceType", "17", "HostResource", "ovf:/disk/d2", "Parent", "4", "AddressOnParent", "3"), "disk ide0:3   2048 0", one, ""},
		"channels in reverse": {item("InstanceID", "4", "ResourceType", "5", "Address", "1") + item("InstanceID", "5", "ResourceType", "5", "Address", "0"), "ide0 ", controllers, ""},
		"controllers": {
			scsi + item("InstanceID", "4", "ResourceType", "6", "ResourceSubType", "VirtualSCSI", "Address", "1") + item("InstanceID", "5", "ResourceType", "20", "ResourceSubType", "AHCI") +
				item("InstanceID", "6", "ResourceType", "20", "ResourceSubType", "vmware.nvme.controller") + item("InstanceID", "7", "ResourceType", "20", "ResourceSubType", "VirtioSCSI") +
				item("InstanceID", "8", "ResourceType", "5", "ResourceSubType", "PIIX4") + item("InstanceID", "9", "ResourceType", "23", "ResourceSubType", "vmware.usb.xhci"),
			"scsi0 lsilogic,scsi1 vmpvscsi,sata0 ahci,nvme0 ,scsi2 virtio-scsi,ide0 piix4,usb0 xhci", controllers, "",
		},
		"list of models":   {item("InstanceID", "4", "ResourceType", "6", "ResourceSubType", "virtio lsilogic"), "scsi0 virtio-scsi", controllers, ""},
		"unknown model":    {item("InstanceID", "4", "ResourceType", "6", "ResourceSubType", "zip"), "scsi0 ", controllers, "zip"},
		"same id":          {scsi + item("InstanceID", "3", "ResourceType", "6"), "scsi0 lsilogic,scsi1 ", controllers, "same InstanceID"},
		"no id":            {item("ResourceType", "6"), "scsi0 ", controllers, "no InstanceID"},
		"nic":              {item("InstanceID", "9", "ResourceType", "10", "ResourceSubType", "VmxNet3", "Connection", "net", "Address", "00-0C-29-AA-BB-CC", "AutomaticAllocation", "true"), "vmxnet3 00:0c:29:aa:bb:cc network net on", nic, ""},
		"network nowhere":  {item("InstanceID", "9", "ResourceType", "10", "Connection", "nothing"), "  network nothing ", nic, "nowhere"},
		"memory":           {item("InstanceID", "2", "ResourceType", "4", "VirtualQuantity", "2", "AllocationUnits", "byte * 2^30"), "2147483648", func(m *machine.Machine) string { return fmt.Sprint(m.Memory.Bytes) }, ""},
		"memory, no units": {item("InstanceID", "2", "ResourceType", "4", "VirtualQuantity", "2"), "2097152", func(m *machine.Machine) string { return fmt.Sprint(m.Memory.Bytes) }, "taken for MiB"},
		"memory in hertz":  {item("InstanceID", "2", "ResourceType", "4", "VirtualQuantity", "2", "AllocationUnits", "hertz"), "0", func(m *machine.Machine) string { return fmt.Sprint(m.Memory.Bytes) }, "not of bytes"},
		"processors":       {item("InstanceID", "1", "ResourceType", "3", "VirtualQuantity", "999999999"), "0", func(m *machine.Machine) string { return fmt.Sprint(m.CPU.Count) }, "too large"},
		"processors, hex":  {item("InstanceID", "1", "ResourceType", "3", "VirtualQuantity", "0x2"), "0", func(m *machine.Machine) string { return fmt.Sprint(m.CPU.Count) }, "no number"},
		"tpm":              {item("InstanceID", "1", "ResourceType", "1", "ResourceSubType", "vmware.vtpm"), "2.0", func(m *machine.Machine) string { return m.TPM.Version }, ""},
		"unknown device":   {item("InstanceID", "1", "ResourceType", "77", "ElementName", "it"), "resource type 77 it", func(m *machine.Machine) string { return m.Others[0].Kind + " " + m.Others[0].Name }, ""},
	} {
		e, err := ovf.Decode(envelope(tc.items))
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if got := tc.get(e.Systems[0].Machine); got != tc.want {
			t.Errorf("%s: %q, want %q", name, got, tc.want)
		}
		var problems []string
		for _, p := range e.Problems {
			problems = append(problems, p.String())
		}
		if all := strings.Join(problems, "; "); tc.problem == "" && all != "" || !strings.Contains(all, tc.problem) {
			t.Errorf("%s: problems %q, want %q", name, all, tc.problem)
		}
	}
}

// TestOptions: the hardware of each deployment option, and the properties.
func TestOptions(t *testing.T) {
	b := envelope(item("InstanceID", "1", "ResourceType", "3", "VirtualQuantity", "1") +
		strings.Replace(item("InstanceID", "1", "ResourceType", "3", "VirtualQuantity", "2"), "<Item>", `<Item ovf:configuration="two other">`, 1) +
		strings.Replace(item("InstanceID", "1", "ResourceType", "3", "VirtualQuantity", "64"), "<Item>", `<Item ovf:bound="max">`, 1) +
		strings.Replace(item("InstanceID", "2", "ResourceType", "4", "VirtualQuantity", "5", "AllocationUnits", "byte"), "<Item>", `<Item ovf:bound="min">`, 1) +
		strings.Replace(item("InstanceID", "2", "ResourceType", "4", "VirtualQuantity", "9", "AllocationUnits", "byte"), "<Item>", `<Item ovf:bound="max">`, 1) +
		strings.Replace(item("InstanceID", "3", "ResourceType", "6"), "<Item>", `<Item ovf:configuration="two">`, 1))
	b = []byte(strings.Replace(string(b), "<VirtualSystem ", `<DeploymentOptionSection><Info/><Configuration ovf:id="one"><Label>L</Label><Description ovf:msgid="m">D</Description></Configuration>
<Configuration ovf:id="two" ovf:default="true"/></DeploymentOptionSection><VirtualSystem `, 1))
	e, err := ovf.Decode(b)
	if err != nil || len(e.Problems) > 0 || e.DefaultOption() != "two" {
		t.Fatal(err, e.Problems)
	}
	for option, want := range map[string]string{"": "2 5 1", "two": "2 5 1", "one": "1 5 0"} {
		m, problems, err := e.Machine(0, option)
		if err != nil || len(problems) > 0 {
			t.Fatal(err, problems)
		}
		if got := fmt.Sprint(m.CPU.Count, m.Memory.Bytes, len(m.Controllers)); got != want {
			t.Errorf("%q: %s, want %s", option, got, want)
		}
	}
	for _, bad := range []struct {
		system int
		option string
	}{{0, "three"}, {1, ""}, {-1, ""}} {
		if _, _, err := e.Machine(bad.system, bad.option); !errors.Is(err, ovf.ErrSyntax) {
			t.Errorf("%v: %v", bad, err)
		}
	}
	// A change of what one option has leaves the others as they are.
	m, _, err := e.Machine(0, "one")
	if err != nil {
		t.Fatal(err)
	}
	m.CPU.Count = 7
	e.Systems[0].Machine = m
	out, losses, err := e.Encode(ovf.EncodeOptions{})
	if err != nil || len(losses) > 0 {
		t.Fatal(err, losses)
	}
	if e, err = ovf.Decode(out); err != nil {
		t.Fatal(err)
	}
	for option, want := range map[string]int{"one": 7, "two": 2} {
		if m, _, err := e.Machine(0, option); err != nil || m.CPU.Count != want {
			t.Errorf("%s: %v, %d processors, want %d", option, err, m.CPU.Count, want)
		}
	}
}

// numbered renders n items of a type, each with an InstanceID of its own.
func numbered(n int, typ string) string {
	var b strings.Builder
	for i := range n {
		b.WriteString(item("InstanceID", strconv.Itoa(i), "ResourceType", typ))
	}
	return b.String()
}

// TestHostile: documents that were made to do harm end quickly, in little memory, and with an error or a problem.
func TestHostile(t *testing.T) {
	many := func(n int, s string) string { return strings.Repeat(s, n) }
	parents := head
	for i := range 300 {
		parents = strings.Replace(parents, "</DiskSection>", fmt.Sprintf(`<Disk ovf:diskId="p%d" ovf:parentRef="p%d" ovf:capacity="1"/></DiskSection>`, i, (i+1)%300), 1)
	}
	for name, tc := range map[string]struct{ text, says string }{
		"empty":               {"", "no element"},
		"other root":          {"<a/>", "not Envelope"},
		"no system":           {head + "</Envelope>", "no VirtualSystem"},
		"deep collections":    {head + many(800, `<VirtualSystemCollection ovf:id="x">`), "levels"},
		"collections":         {head + many(150, `<VirtualSystemCollection ovf:id="x">`) + many(150, `</VirtualSystemCollection>`) + "</Envelope>", "same id"},
		"entities":            {`<!DOCTYPE a [<!ENTITY b "c">]>` + head, "refused"},
		"100,000 items":       {string(envelope(many(100_000, "<Item/>"))), "more than 20000 items"},
		"20,000 same items":   {string(envelope(many(20_000, item("InstanceID", "1", "ResourceType", "17", "HostResource", "ovf:/disk/d1")))), "more problems"},
		"20,000 controllers":  {string(envelope(numbered(20_000, "6"))), "too many controllers"},
		"20,000 IDE":          {string(envelope(numbered(20_000, "5"))), "more than 4 IDE"},
		"disks without end":   {parents + `<VirtualSystem ovf:id="a"/></Envelope>`, "256 parents"},
		"its own parent":      {strings.Replace(head, `parentRef="d1"`, `parentRef="d2"`, 1) + `<VirtualSystem ovf:id="a"/></Envelope>`, "its own parent"},
		"parent nowhere":      {strings.Replace(head, `parentRef="d1"`, `parentRef="d3"`, 1) + `<VirtualSystem ovf:id="a"/></Envelope>`, `parentRef "d3" is nowhere`},
		"file nowhere":        {strings.Replace(head, `fileRef="f1"`, `fileRef="f9"`, 1) + `<VirtualSystem ovf:id="a"/></Envelope>`, `fileRef "f9" is nowhere`},
		"same file id":        {strings.Replace(head, `id="f2"`, `id="f1"`, 1) + `<VirtualSystem ovf:id="a"/></Envelope>`, "two files have the id"},
		"same disk id":        {strings.Replace(head, `diskId="d2"`, `diskId="d1"`, 1) + `<VirtualSystem ovf:id="a"/></Envelope>`, "two disks have this diskId"},
		"same system id":      {head + `<VirtualSystemCollection ovf:id="c"><VirtualSystem ovf:id="a"/><VirtualSystem ovf:id="a"/></VirtualSystemCollection></Envelope>`, "same id"},
		"huge capacity":       {strings.Replace(head, `capacity="1"`, `capacity="9999999999999999999999"`, 1) + `<VirtualSystem ovf:id="a"/></Envelope>`, "too large"},
		"negative capacity":   {strings.Replace(head, `capacity="1"`, `capacity="-1"`, 1) + `<VirtualSystem ovf:id="a"/></Envelope>`, "negative"},
		"wrong units":         {strings.Replace(head, `byte * 2^30`, `furlong`, 1) + `<VirtualSystem ovf:id="a"/></Envelope>`, "furlong"},
		"huge file":           {strings.Replace(head, `href="a.vmdk"`, `href="a.vmdk" ovf:size="1e9"`, 1) + `</Envelope>`, "size of"},
		"attribute twice":     {strings.Replace(head, `ovf:id="f1"`, `ovf:id="f1" ovf:id="f2"`, 1) + `</Envelope>`, "twice"},
		"unknown version":     {strings.ReplaceAll(head, "envelope/1", "envelope/7") + `</Envelope>`, "envelope/7"},
		"too large":           {head + many(1<<20, "<!-- 3 -->") + `</Envelope>`, "limit"},
		"many small elements": {head + many(600_000, "<a/>") + `</Envelope>`, "elements"},
		"second root":         {head + "</Envelope><Envelope/>", "behind the root"},
	} {
		t.Run(name, func(t *testing.T) {
			var before, after runtime.MemStats
			runtime.GC()
			runtime.ReadMemStats(&before)
			begin := time.Now()
			e, err := ovf.Decode([]byte(tc.text))
			took := time.Since(begin)
			runtime.ReadMemStats(&after)
			says := ""
			if err != nil {
				says = err.Error()
				var s *machine.SyntaxError
				if !errors.Is(err, ovf.ErrSyntax) || !errors.As(err, &s) {
					t.Errorf("an error of no kind: %v", err)
				}
			} else {
				for _, p := range e.Problems {
					says += p.String() + "\n"
				}
				if len(e.Problems) > 1001 {
					t.Errorf("%d problems", len(e.Problems))
				}
				if _, _, err := e.Encode(ovf.EncodeOptions{Profile: ovf.Generic}); err != nil && !errors.Is(err, machine.ErrUnsupported) {
					t.Error(err)
				}
			}
			if !strings.Contains(says, tc.says) {
				t.Errorf("%.300q, want %q", says, tc.says)
			}
			t.Logf("%v, %d MiB allocated", took, (after.TotalAlloc-before.TotalAlloc)>>20)
			if took > 10*time.Second {
				t.Errorf("it took %v", took)
			}
			if n := after.TotalAlloc - before.TotalAlloc; n > 1<<30 {
				t.Errorf("%d MiB allocated", n>>20)
			}
		})
	}
	// Cut off anywhere, it is no envelope.
	whole := string(envelope(item("InstanceID", "1", "ResourceType", "3", "VirtualQuantity", "1")))
	for i := range whole[:len(whole)-len("</Envelope>")+10] {
		if whole[i] != '<' && whole[i] != '>' {
			continue
		}
		if _, err := ovf.Decode([]byte(whole[:i])); !errors.Is(err, ovf.ErrSyntax) {
			t.Errorf("cut at %d: %v", i, err)
		}
	}
}

// TestNewIdentity: an envelope of a version that is not written, with what else asks for a new one.
func TestNewIdentity(t *testing.T) {
	for _, s := range samples(t) {
		e, err := ovf.Decode(s.Data)
		if err != nil || len(e.Systems) == 0 {
			continue
		}
		b, _, err := e.Encode(ovf.EncodeOptions{NewIdentity: true})
		if err != nil {
			t.Fatal(err)
		}
		again, err := ovf.Decode(b)
		if err != nil {
			t.Fatal(err)
		}
		want := map[string]string{"0.9": "1.1", "2.1": "2.0"}[e.Version]
		if want == "" {
			want = e.Version
		}
		if again.Version != want || len(again.Systems) != len(e.Systems) {
			t.Errorf("%s: version %s, want %s", s.Name, again.Version, want)
		}
		for _, n := range again.Systems[0].Machine.NICs {
			if n.MAC != "" {
				t.Errorf("%s: %s", s.Name, n.MAC)
			}
		}
	}
}

// TestBoxCopy: a package for all has EFI in VirtualBox's words, too, and these follow the hardware; who reads it goes by the
// Items.
func TestBoxCopy(t *testing.T) {
	m := built(machine.NVMe, true, 2)
	m.Boot, m.Sounds = nil, []machine.Sound{{Model: "hda"}}
	cut := regexp.MustCompile(`(?s)\n *<vbox:Machine.*</vbox:Machine>`)
	for _, version := range []string{"1.0", "1.1", "2.0"} {
		b, _, err := ovf.New(m, nil, nil).Encode(ovf.EncodeOptions{Version: version})
		if err != nil {
			t.Fatal(err)
		}
		without := cut.ReplaceAll(b, nil)
		if len(without) == len(b) {
			t.Fatalf("no copy\n%s", b)
		}
		var got [2]*ovf.Envelope
		for i, text := range [][]byte{b, without} {
			if got[i], err = ovf.Decode(text); err != nil || len(got[i].Problems) > 0 {
				t.Fatalf("%v, %v", err, got[i])
			}
			got[i].Encode(ovf.EncodeOptions{}) //nolint:errcheck // only that it changes nothing
		}
		for i := range got[1].Disks {
			got[1].Disks[i].UUID = "" // as vbox:uuid has it
		}
		a, c := got[0].Systems[0].Machine, got[1].Systems[0].Machine
		for i := range c.Drives {
			c.Drives[i].Media.UUID = ""
		}
		for _, d := range machine.Difference(a, c) {
			t.Errorf("%s: with the copy: %s", version, d)
		}
		if a.Platform != "vmware" || !slices.Equal(got[0].Disks, got[1].Disks) {
			t.Errorf("%s: %s, %+v", version, a.Platform, got[0].Disks)
		}
		a.Memory.Bytes, a.Name = 777<<20, "other"
		out, losses, err := got[0].Encode(ovf.EncodeOptions{})
		if err != nil || len(losses) > 0 || !bytes.Contains(out, []byte(`RAMSize="777"`)) || !bytes.Contains(out, []byte(`name="other"`)) || bytes.Count(out, []byte("<vbox:Machine")) != 1 {
			t.Errorf("%s: %v, %v\n%s", version, err, losses, out)
		}
		for o, want := range map[ovf.EncodeOptions]string{
			{Profile: ovf.VMware}: "", {Profile: ovf.Xen}: "", {NewIdentity: true}: "The hardware above", {Profile: ovf.Generic}: "The hardware above",
			{Profile: ovf.VirtualBox}: "Complete VirtualBox machine",
		} {
			out, _, err := got[0].Encode(o)
			if n := bytes.Count(out, []byte("<vbox:Machine")); err != nil || n != min(len(want), 1) || !bytes.Contains(out, []byte(want)) {
				t.Errorf("%+v: %d, %v\n%s", o, n, err, out)
			}
		}
	}
	m.Firmware.Type = "bios"
	if b, _, err := ovf.New(m, nil, nil).Encode(ovf.EncodeOptions{}); err != nil || bytes.Contains(b, []byte("vbox:Machine")) {
		t.Errorf("%v\n%s", err, b)
	}
}

// TestUUID: what the guest sees, as VMware's programs write it, and as the API has it.
func TestUUID(t *testing.T) {
	setting := func(name, key, value string) string {
		return fmt.Sprintf(`<vmw:%s ovf:required="false" vmw:key="%s" vmw:value="%s"/>`, name, key, value)
	}
	const want, other = "564d3b0e-51a7-4c52-9d5e-7c1f2a3b4c5d", "11112222-3333-4444-8555-666677778888"
	for text, uuid := range map[string]string{
		setting("ExtraConfig", "uuid.bios", "56 4D 3b 0e 51 a7 4c 52-9d 5e 7c 1f 2a 3b 4c 5d") + setting("Config", "uuid", other): want,
		setting("Config", "uuid", want):                     want,
		setting("ExtraConfig", "uuid.bios", "56 4d 3b 0e"):  "",
		setting("ExtraConfig", "uuid.action", "create"):     "",
		setting("Config", "uuid", strings.Repeat("x", 32)):  "",
		setting("Config", "uuid", strings.Repeat(" ", 999)): "",
	} {
		e, err := ovf.Decode(envelope(text))
		if err != nil || e.Systems[0].Machine.UUID != uuid {
			t.Errorf("%s: %v, %s", text, err, e.Systems[0].Machine.UUID)
		}
	}
	e, err := ovf.Decode(envelope(setting("ExtraConfig", "uuid.bios", want) + setting("ExtraConfig", "vc.uuid", want) + setting("ExtraConfig", "tools.x", "1")))
	if err != nil {
		t.Fatal(err)
	}
	b, _, err := e.Encode(ovf.EncodeOptions{Profile: ovf.VMware, NewIdentity: true})
	if err != nil || strings.Contains(string(b), "uuid") || !strings.Contains(string(b), "tools.x") {
		t.Errorf("%v\n%s", err, b)
	}
}

func FuzzDecode(f *testing.F) {
	for _, s := range seeds(f) {
		f.Add(s)
	}
	f.Fuzz(survives)
}

func TestEdits(t *testing.T) { machinetest.Edits(t, survives, seeds(t)...) }

// seeds are envelopes written here, and the small ones of the corpus.
func seeds(t testing.TB) [][]byte {
	list := [][]byte{envelope(item("InstanceID", "1", "ResourceType", "3", "VirtualQuantity", "1"))}
	for _, s := range samples(t) {
		if len(s.Data) < 8000 {
			list = append(list, s.Data)
		}
	}
	for _, o := range []ovf.EncodeOptions{{}, {Profile: ovf.VirtualBox}, {Version: "2.0"}} {
		b, _, err := whole().Encode(o)
		if err != nil {
			t.Fatal(err)
		}
		list = append(list, b)
	}
	if len(list) < 4 {
		t.Fatal("no seeds")
	}
	return list
}

// survives: what decodes comes back as it was, and is the same with another language and in one of the profiles.
func survives(t *testing.T, b []byte) {
	if len(b) > 1<<16 {
		return
	}
	e, err := ovf.Decode(b)
	if err != nil {
		var s *machine.SyntaxError
		if !errors.Is(err, ovf.ErrSyntax) || !errors.As(err, &s) || !errors.Is(err, machine.ErrSyntax) && !errors.Is(err, machine.ErrUnsupported) {
			t.Fatalf("an error of no kind: %v", err)
		}
		return
	}
	out, losses, err := e.Encode(ovf.EncodeOptions{})
	if err != nil || len(losses) > 0 || !slices.Equal(out, b) {
		t.Fatalf("it does not come back: %v, %v", losses, err)
	}
	// A change in the text of the document: everything else must be read as before.
	if len(e.Systems) > 0 && !serious(e) {
		e.Lang += "x"
		out, _, err := e.Encode(ovf.EncodeOptions{})
		if err != nil {
			t.Fatal(err)
		}
		again, err := ovf.Decode(out)
		if err != nil {
			t.Fatalf("%v\n%s", err, out)
		}
		compare(t, e, again)
	}
	// One of the profiles, so that there is time for more inputs.
	for _, p := range []ovf.Profile{ovf.Generic, ovf.VMware, ovf.VirtualBox, ovf.Xen}[len(b)%4:][:1] {
		out, _, err := e.Encode(ovf.EncodeOptions{Profile: p})
		if errors.Is(err, machine.ErrUnsupported) {
			continue
		}
		if err != nil {
			t.Fatalf("%s: %v", p, err)
		}
		again, err := ovf.Decode(out)
		if err != nil {
			t.Fatalf("%s: %v\n%s", p, err, out)
		}
		if len(again.Systems) != len(e.Systems) {
			t.Fatalf("%s: %d systems, %d before", p, len(again.Systems), len(e.Systems))
		}
	}
}

func compare(t *testing.T, a, b *ovf.Envelope) {
	t.Helper()
	if len(a.Systems) != len(b.Systems) || len(a.Files) != len(b.Files) || len(a.Disks) != len(b.Disks) || len(a.Networks) != len(b.Networks) {
		t.Fatal("not as many as before")
	}
	for i := range a.Systems {
		for _, d := range machine.Difference(a.Systems[i].Machine, b.Systems[i].Machine) {
			t.Error(d)
		}
	}
}
