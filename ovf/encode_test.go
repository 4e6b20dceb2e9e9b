package ovf_test

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/beevik/etree"

	"tarvm/archive/archivetest"
	"tarvm/formats/machine"
	"tarvm/formats/machine/machinetest"
	"tarvm/ovf"
)

// whole is an envelope with everything that there is a field for.
func whole() *ovf.Envelope {
	first, second := built(machine.SCSI, true, 2), built(machine.SATA, false, 1)
	first.Name, second.Name = "first", "second"
	second.Drives[0].Media = machine.Media{Path: "delta.vmdk", Format: "vmdk", Capacity: 10 << 20, Populated: 4096}
	first.TPM = &machine.TPM{Version: "2.0"}
	first.Firmware.SecureBoot, first.CPU.HotAdd, first.Memory.HotAdd, first.CPU.Nested = machine.On, machine.On, machine.Off, machine.On
	first.Drives = append(first.Drives, machine.Drive{Kind: machine.Diskette, At: machine.Address{Bus: machine.Floppy}, Connected: machine.Off})
	return &ovf.Envelope{
		Lang: "en-US",
		Files: []ovf.File{
			{ID: "a", Href: "disk1.vmdk", Size: 100}, {ID: "b", Href: "disk2.vmdk.gz", Size: 50, Compression: "gzip"},
			{ID: "c", Href: "delta.vmdk", Size: -1, Chunk: 1 << 20}, {ID: "icon", Href: "icon.png", Size: 5}, {ID: "de", Href: "de.xml", Size: 7},
		},
		Disks: []ovf.VirtualDisk{
			{ID: "base", FileRef: "a", Capacity: 10 << 20, Populated: 0, Format: ovf.FormatVMDK},
			{ID: "second", FileRef: "c", ParentRef: "base", Capacity: 10 << 20, Populated: 4096, Format: ovf.FormatVMDK},
			{ID: "text", CapacityText: "${size}", CapacityUnits: "byte * 2^30", Populated: -1},
		},
		Networks: []ovf.Network{{Name: "bridged", Description: ovf.Msg{Text: "outside", ID: "n"}}, {Name: "VM Network"}},
		Options: []ovf.DeploymentOption{
			{ID: "small", Label: ovf.Msg{Text: "Small"}, Description: ovf.Msg{Text: "d", ID: "x"}}, {ID: "large", Label: ovf.Msg{Text: "L"}, Default: true},
		},
		Collections: []ovf.Collection{
			{
				Content:    ovf.Content{ID: "app", Info: "An app", Name: ovf.Msg{Text: "App", ID: "app"}, EULAs: []ovf.Msg{{Text: "Yes?", ID: "e"}}},
				Annotation: ovf.Msg{Text: "of both"},
				Startup: []ovf.StartupItem{
					{ID: "one", Order: 1, StartDelay: 30, WaitingForGuest: true, StartAction: "powerOn"},
					{ID: "inner", Order: 2, StopDelay: 9, StopAction: "guestShutdown"},
				},
				Resources: []ovf.Allocation{{Type: 4, Name: "memory", Units: "byte * 2^20", Reservation: 100, Limit: -1, Weight: 3, Configuration: "small"}},
			},
			{Content: ovf.Content{ID: "inner", Info: "Inside"}},
		},
		Systems: []ovf.System{
			{
				Content: ovf.Content{
					ID: "one", Info: "The first", Name: ovf.Msg{Text: "first", ID: "f"}, EULAs: []ovf.Msg{{Text: "a"}, {Text: "b\nc"}},
					Products: []ovf.Product{{
						Class: "org.x", Instance: "1", Info: "p", Name: ovf.Msg{Text: "Product", ID: "p"}, Vendor: ovf.Msg{Text: "V"}, Version: "1", FullVersion: "1.0",
						URL: "http://p", VendorURL: "http://v", AppURL: "http://a", Required: machine.Off,
						Icons: []ovf.Icon{{FileRef: "icon", MimeType: "image/png", Width: 16, Height: 17}},
						Properties: []ovf.Property{
							{
								Key: "k", Type: "string", Qualifiers: `MinLen(1)`, Value: "a\n\"b\" <c>", UserConfigurable: true, Password: true, Label: ovf.Msg{Text: "K"},
								Description: ovf.Msg{Text: "D", ID: "kd"}, Values: []ovf.PropertyValue{{Configuration: "small", Value: "s"}}, Category: ovf.Msg{Text: "C"},
							},
							{Key: "k2", Type: "int", Value: "1", Configuration: "large", Category: ovf.Msg{Text: "C"}},
						},
					}},
				},
				Machine: first, Transports: []string{"iso", "com.vmware.guestInfo"}, Install: &ovf.Install{StopDelay: 60},
			},
			{Content: ovf.Content{ID: "two", Parent: 1}, Machine: second},
		},
		Bundles: []ovf.Bundle{{Lang: "de", FileRef: "de", Messages: []ovf.Msg{{ID: "app", Text: "Anwendung"}}}},
	}
}

// TestWhole: what is written of everything is read again, in both versions, and nothing is wrong with it.
func TestWhole(t *testing.T) {
	for _, o := range []ovf.EncodeOptions{{Version: "1.0"}, {}, {Profile: ovf.VMware}, {Version: "2.0"}} {
		e := whole()
		if o.Version == "2.0" {
			e.Systems[0].EnvironmentFiles = []ovf.EnvironmentFile{{FileRef: "icon", Path: "/x"}}
			e.Disks[2].Shared = true
		}
		b, losses, err := e.Encode(o)
		if err != nil {
			t.Fatal(err)
		}
		for _, l := range losses {
			// What built has on purpose.
			if !strings.Contains(l.String(), "becomes") {
				t.Errorf("%v: lost: %s", o, l)
			}
		}
		got, err := ovf.Decode(b)
		if err != nil {
			t.Fatal(err)
		}
		for _, p := range got.Problems {
			t.Errorf("%v: %s", o, p)
		}
		if o.Version == "" {
			o.Version = "1.1"
		}
		if got.Version != o.Version {
			t.Errorf("%v: version %s", o, got.Version)
		}
		if !slices.Equal(e.Files, got.Files[:len(e.Files)]) || len(got.Files) != len(e.Files)+2 {
			t.Errorf("%v: files %+v", o, got.Files)
		}
		has := func(d ovf.VirtualDisk) bool { return slices.Contains(got.Disks, d) }
		if !has(e.Disks[0]) || !has(e.Disks[1]) || !has(e.Disks[2]) {
			t.Errorf("%v: disks %+v", o, got.Disks)
		}
		if !reflect.DeepEqual(e.Networks, got.Networks) || !reflect.DeepEqual(e.Options, got.Options) || !reflect.DeepEqual(e.Bundles, got.Bundles) {
			t.Errorf("%v: %+v", o, got)
		}
		if !reflect.DeepEqual(e.Collections[0], got.Collections[0]) || got.Collections[1].ID != "inner" || got.Collections[1].Parent != 0 {
			t.Errorf("%v: collections %+v", o, got.Collections)
		}
		for i := range e.Systems {
			want, is := e.Systems[i], got.Systems[i]
			is.Families = nil
			want.Machine, is.Machine = nil, nil
			if i == 1 {
				want.Name, want.Info = is.Name, is.Info
			}
			if !reflect.DeepEqual(want, is) {
				t.Errorf("%v: system %d: %+v, want %+v", o, i, is, want)
			}
		}
		if got.Systems[0].Products[0].FullKey(got.Systems[0].Products[0].Properties[0]) != "org.x.k.1" || got.Systems[0].Products[0].Properties[0].In("small") != "s" ||
			got.Text(got.Collections[0].Name, "de-AT") != "Anwendung" || got.Text(got.Collections[0].Name, "fr") != "App" {
			t.Error("keys and languages")
		}
		m := got.Systems[0].Machine
		first := e.Systems[0].Machine.UUID
		if m.TPM == nil || m.Firmware.SecureBoot != machine.On || m.CPU.HotAdd != machine.On || m.Memory.HotAdd != machine.Off || m.CPU.Nested != machine.On ||
			m.NICs[0].MAC != "08:00:27:11:22:33" || m.UUID != first || m.Notes != "first line\nsecond & <last>" || m.Guest.VMware != "debian12-64" {
			t.Errorf("%+v", m)
		}
		again, _, err := e.Encode(o)
		if err != nil || !bytes.Equal(again, b) {
			t.Error("not the same each time")
		}
	}
}

// TestSchemas: the schemas of DMTF take what is written. Sections of vendors are not in them, and are left out.
func TestSchemas(t *testing.T) {
	tool := archivetest.Tool(t, "xmllint")
	set := machinetest.Corpus(t, "xsd-1.1", "dsp8023_1.1.1.xsd")
	dir := filepath.Dir(filepath.Dir(set[0].Path))
	list := []*ovf.Envelope{whole()}
	for _, v := range variants(ovf.Generic) {
		list = append(list, ovf.New(built(v.bus, v.efi, v.disks), nil, nil))
	}
	for _, s := range samples(t) {
		if e, err := ovf.Decode(s.Data); err == nil && len(e.Systems) > 0 {
			list = append(list, e)
		}
	}
	for version, schema := range map[string]string{"1.1": "xsd-1.1/dsp8023_1.1.1.xsd", "2.0": "xsd-2.0/dsp8023_2.0.1.xsd"} {
		tmp := t.TempDir()
		args := []string{"--noout", "--nonet", "--schema", filepath.Join(dir, schema)}
		for i, e := range list {
			for _, p := range []ovf.Profile{ovf.Generic, ovf.VMware, ovf.VirtualBox, ovf.Xen} {
				b, _, err := e.Encode(ovf.EncodeOptions{Version: version, Profile: p})
				if err != nil {
					t.Fatal(err)
				}
				doc := etree.NewDocument()
				if err := doc.ReadFromBytes(b); err != nil {
					t.Fatal(err)
				}
				for _, path := range []string{"/Envelope/*", "//VirtualSystem/*", "//VirtualSystemCollection/*"} {
					for _, el := range doc.FindElements(path) {
						if el.Space != "" || el.Tag == "RandomSection" {
							el.Parent().RemoveChild(el)
						}
					}
				}
				if b, err = doc.WriteToBytes(); err != nil {
					t.Fatal(err)
				}
				name := fmt.Sprintf("%d-%s.ovf", i, p)
				if err := os.WriteFile(filepath.Join(tmp, name), b, 0o600); err != nil {
					t.Fatal(err)
				}
				args = append(args, name)
			}
		}
		command(t, tmp, tool, args...)
		t.Logf("%s: %d envelopes", version, len(args)-4)
	}
}

// TestLosses: what a profile cannot say is named.
func TestLosses(t *testing.T) {
	m := built(machine.Virtio, true, 1)
	m.Chipset, m.Clock, m.Boot, m.GenerationID = "q35", "utc", []string{"disk"}, "11223344-5566-4788-99aa-bbccddeeff00"
	m.NICs[0].Model, m.NICs[1].Model = "virtio", "vmxnet3"
	m.Sounds = []machine.Sound{{Model: "hda"}}
	m.Serials = []machine.Port{{Kind: "pty"}}
	m.Shares = []machine.Share{{Name: "s", Path: "/s"}}
	m.Others = []machine.Other{{Kind: "rng"}}
	m.Firmware.Vars.Path = "vm.nvram"
	m.Platform, m.Version = "kvm", "vmx-19"
	m.Kernel = &machine.Kernel{Path: "/k"}
	m.Drives[0].Cache, m.Drives[0].Serial = "none", "abc"
	m.Drives = append(m.Drives,
		machine.Drive{Kind: machine.Disk, At: machine.Address{Bus: machine.Virtio, Unit: 5}, Media: machine.Media{Path: "../../etc/passwd", Capacity: 1}},
		machine.Drive{Kind: machine.LUN, At: machine.Address{Bus: machine.SCSI}, Media: machine.Media{Host: "/dev/sg0"}},
		machine.Drive{Kind: machine.Disk, At: machine.Address{Bus: machine.SCSI, Unit: 3}, Media: machine.Media{URL: "nbd://x"}})
	for profile, want := range map[ovf.Profile]string{
		ovf.Generic: `drive virtio0:0: becomes scsi0:0; drive virtio0:5: its file is not in the package: ../../etc/passwd; drive scsi0:0: left out: it is a device;` +
			`drive scsi0:3: left out: its content is not a file: nbd://x; drive virtio0:0: left out: cache none, serial number abc; nic 0: virtio becomes e1000; serial 0: left out; ` +
			`device rng: left out; firmware: its variables; version: vmx-19 becomes vmx-13; generation id; chipset; clock; boot; kernel; share s`,
		ovf.VMware:     `nic 0: virtio becomes e1000; serial 0: what; device rng; firmware: its variables; chipset; drive virtio0:0: becomes scsi`,
		ovf.VirtualBox: `nic 1: vmxnet3 becomes e1000; drive virtio0:0: becomes sata; share s; cpu: 2 sockets; drive virtio0:0: becomes sata0:0; generation_id; kernel`,
		ovf.Xen:        `nic 1: vmxnet3 becomes e1000; drive virtio0:0: becomes scsi; sound; chipset; serial 0: left out; uuid`,
	} {
		e := ovf.New(m, nil, nil)
		b, losses, err := e.Encode(ovf.EncodeOptions{Profile: profile})
		if err != nil {
			t.Fatal(err)
		}
		var all []string
		for _, l := range losses {
			all = append(all, l.String())
		}
		for _, w := range strings.Split(want, ";") {
			if !slices.ContainsFunc(all, func(s string) bool { return strings.HasPrefix(s, strings.TrimSpace(w)) }) {
				t.Errorf("%s: %q is not among %q", profile, w, all)
			}
		}
		if profile == ovf.VirtualBox && slices.ContainsFunc(all, func(s string) bool { return strings.HasPrefix(s, "boot") || strings.HasPrefix(s, "video") }) {
			t.Errorf("%s: %q", profile, all)
		}
		if bytes.Contains(b, []byte("passwd")) || bytes.Contains(b, []byte("BootOrderSection")) {
			t.Errorf("%s:\n%s", profile, b)
		}
		if _, l, err := e.Encode(ovf.EncodeOptions{Profile: profile, Strict: true}); !errors.Is(err, machine.ErrUnsupported) || len(l) != len(losses) {
			t.Errorf("%s, strict: %v", profile, err)
		}
	}
	for _, o := range []ovf.EncodeOptions{{Profile: "x"}, {Version: "0.9"}, {Version: "3"}, {Hardware: "13"}, {Hardware: "vmx-new"}} {
		if _, _, err := ovf.New(m, nil, nil).Encode(o); !errors.Is(err, machine.ErrUnsupported) {
			t.Errorf("%v: %v", o, err)
		}
	}
	if _, _, err := (&ovf.Envelope{}).Encode(ovf.EncodeOptions{}); !errors.Is(err, machine.ErrUnsupported) {
		t.Error(err)
	}
}

// TestForms: what each profile has in the places that importers look at.
func TestForms(t *testing.T) {
	full := built(machine.NVMe, true, 1)
	full.NICs[0].Model = "vmxnet3"
	full.TPM = &machine.TPM{Version: "2.0"}
	full.Platform, full.Firmware.Vars.Path = "vmware", "vm.nvram"
	for _, tc := range []struct {
		o         ovf.EncodeOptions
		has, hasn string
	}{
		{
			ovf.EncodeOptions{Profile: ovf.VMware, Hardware: "vmx-19"},
			`>vmx-19<|>vmware.nvme.controller<|vmw:key="firmware" vmw:value="efi"|ovf:/file/file|>VmxNet3<|>vmware.vtpm<|>byte * 2^20<|>1536<|vmw:osType="debian12_64Guest"|` +
				`>08:00:27:11:22:33<|vmw:key="nvram" vmw:value="ovf:/file/|>VirtualIDEController 0<|>VirtualIDEController 1<|<vmw:CoresPerSocket ovf:required="false">2<|` +
				`<vmw:ExtraConfig ovf:required="false" vmw:key="uuid.bios" vmw:value="11 22 33 44 55 66 47 88-99 aa bb cc dd ee ff 00"/>`,
			`PIIX4|vbox:Machine|ovf:required="true"|BootOrder|key="uuid"`,
		},
		{ovf.EncodeOptions{Profile: ovf.VMware, Hardware: "vmx-10"}, `>vmx-10<|>lsilogic<`, `nvme`},
		{ovf.EncodeOptions{Profile: ovf.Generic}, `>vmx-13<|>lsilogic<|vmw:value="efi"|vmw:key="nvram"|<vmw:Config ovf:required="false" vmw:key="uuid" vmw:value="11223344-5566-4788-99aa-bbccddeeff00"/>|` +
			`<vbox:Machine ovf:required="false"|<Firmware type="EFI64"/>`, `uuid.bios|>20<|>35<|>32768<`},
		{ovf.EncodeOptions{}, `>vmx-13<|<vbox:Machine ovf:required="false"`, `virtualbox-2.2`},
		{
			ovf.EncodeOptions{Profile: ovf.VirtualBox},
			`>virtualbox-2.2<|>NVMe<|<vbox:Machine ovf:required="false"|type="EFI64"|type="v2_0"|MACAddress="080027112233"|uuid="{11223344-5566-4788-99aa-bbccddeeff00}"|` +
				`Ecma-119|<vbox:OSType ovf:required="false">Debian12_64<|>PIIX4<`,
			`vmw:Config|vmx-|vm.nvram`,
		},
		{ovf.EncodeOptions{Profile: ovf.VirtualBox, NewIdentity: true}, `type="EFI64"`, `080027112233|08:00:27|11223344-5566`},
		{ovf.EncodeOptions{Profile: ovf.Xen}, `>xen-3<`, `vtpm|nvram`},
		{ovf.EncodeOptions{Profile: ovf.Generic, NewIdentity: true}, `>vmx-13<`, `08:00:27|080027|11223344-5566|key="uuid`},
		{ovf.EncodeOptions{Profile: ovf.VMware, NewIdentity: true}, `>vmx-13<`, `08:00:27|uuid`},
		{ovf.EncodeOptions{Version: "2.0"}, `envelope/2"|ovf:version="2.0"|<StorageItem>|<EthernetPortItem>|<sasd:HostResource>|<epasd:Connection>`, `envelope/1"`},
	} {
		b, _, err := ovf.New(full, nil, nil).Encode(tc.o)
		if err != nil {
			t.Fatal(err)
		}
		for _, s := range strings.Split(tc.has, "|") {
			if !bytes.Contains(b, []byte(s)) {
				t.Errorf("%+v: no %s in\n%s", tc.o, s, b)
			}
		}
		for _, s := range strings.Split(tc.hasn, "|") {
			if bytes.Contains(b, []byte(s)) {
				t.Errorf("%+v: %s in\n%s", tc.o, s, b)
			}
		}
	}
}
