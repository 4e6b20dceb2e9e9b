package vbox

import (
	"bytes"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/beevik/etree"

	"tarvm/formats/machine"
	"tarvm/formats/machine/machinetest"
)

// goldens returns the settings in testdata by name.
func goldens(t testing.TB) map[string][]byte {
	t.Helper()
	list, err := filepath.Glob("testdata/*.vbox")
	if err != nil || len(list) < 7 {
		t.Fatalf("%d settings in testdata: %v", len(list), err)
	}
	out := map[string][]byte{}
	for _, p := range list {
		b, err := os.ReadFile(p)
		if err != nil {
			t.Fatal(err)
		}
		out[strings.TrimSuffix(filepath.Base(p), ".vbox")] = b
	}
	return out
}

// canonical is a document's elements, attributes and text without the white space between elements.
func canonical(t *testing.T, b []byte) string {
	t.Helper()
	d := etree.NewDocument()
	d.ReadSettings.PreserveCData = true
	d.ReadSettings.CharsetReader = nil
	if err := d.ReadFromBytes(bytes.Replace(b, []byte("ISO-8859-1"), []byte("UTF-8"), 1)); err != nil {
		t.Fatal(err)
	}
	d.Indent(1)
	s, err := d.WriteToString()
	if err != nil {
		t.Fatal(err)
	}
	_, s, _ = strings.Cut(s, "?>")
	return s
}

// TestRoundTrip: what is read and written without a change is the same document.
func TestRoundTrip(t *testing.T) {
	all := goldens(t)
	t.Run("corpus", func(t *testing.T) {
		for _, s := range machinetest.Corpus(t, "libvirt-vbox", ".vbox") {
			all[s.Name] = s.Data
		}
	})
	for name, b := range all {
		t.Run(name, func(t *testing.T) {
			if !(Form{}).Probe("x", b[:min(len(b), 65536)]) {
				t.Error("not recognised")
			}
			out := machinetest.CheckRoundTrip(t, Form{}, b)
			if got, want := canonical(t, out), canonical(t, b); got != want {
				t.Errorf("another document:\n%s\nwas\n%s", got, want)
			}
		})
	}
}

// TestFresh: what came from this form and is written as from another says the same, but what a loss names.
func TestFresh(t *testing.T) {
	for name, want := range map[string][]string{
		"full": {
			"drive scsi2:4: what is written to it is kept",
			"forward nic 0: tcp 127.0.0.1:2222 to :22: left out",
			"network nic 4: GenericInterface UDPTunnel: left out",
		},
		"snap": {
			"drive ide0:3: nothing is inserted: where image feb7b209-3106-496a-9e0f-d55222401280 is, is not said",
			"snapshot first: left out", "snapshot second: left out", "snapshot brother: left out",
		},
		"x20": {"video 0: ramfb becomes vmvga"},
		"arm": nil,
		"v1.2": {
			"drive ide0:0: left out: a disk needs an image", "drive ide0:3: left out: a disk needs an image",
			"drive ide0:2: nothing is inserted: where image b2b2b2b2-0000-4000-8000-000000000009 is, is not said",
		},
		"v1.8": {"drive ide0:0: left out: a disk needs an image", "drive scsi0:3: left out: a disk needs an image"},
	} {
		t.Run(name, func(t *testing.T) {
			m := machinetest.Strip(machinetest.Decode(t, Form{}, goldens(t)[name]))
			out, losses := machinetest.Encode(t, Form{}, m, machine.EncodeOptions{})
			var got []string
			for _, l := range losses {
				got = append(got, l.String())
			}
			slices.Sort(got)
			slices.Sort(want)
			if !slices.Equal(got, want) {
				t.Errorf("losses %q, want %q", got, want)
			}
			// What the losses name, made so in what was wanted.
			m.Others = nil
			m.Drives = slices.DeleteFunc(m.Drives, func(d machine.Drive) bool { return d.Kind == machine.Disk && d.Media.Path == "" })
			for i := range m.Drives {
				d := &m.Drives[i]
				d.Transient = machine.Unsaid
				if d.Media.Path == "" && d.Media.Host == "" {
					d.Media = machine.Media{}
				}
			}
			if name == "x20" {
				m.Videos[0].Model = "vmvga"
			}
			if name == "full" {
				m.NICs[4].Kind = machine.UserNet
				usb := m.Drives[6] // the controller of USB disks comes last
				m.Drives = append(slices.Delete(m.Drives, 6, 7), usb)
			}
			m2 := machinetest.Strip(machinetest.Decode(t, Form{}, out))
			for _, m := range []*machine.Machine{m, m2} { // implied ones come last
				slices.SortFunc(m.Controllers, func(a, b machine.Controller) int {
					return strings.Compare(fmt.Sprint(a.Bus, a.Index), fmt.Sprint(b.Bus, b.Index))
				})
			}
			for i := range m2.Controllers {
				if c := &m2.Controllers[i]; c.Implied && name == "v1.2" {
					t.Errorf("controller %s%d is implied", c.Bus, c.Index)
				}
			}
			for i := range m.Controllers {
				m.Controllers[i].Implied = false
				if name[0] == 'v' && m.Controllers[i].Ports == 0 { // there is no other way to say it
					m.Controllers[i].Model, m.Controllers[i].Ports = m2.Controllers[i].Model, m2.Controllers[i].Ports
				}
			}
			for _, d := range machine.Difference(m, m2) {
				t.Error(d)
			}
		})
	}
}

const (
	unsaid = machine.Unsaid
	on     = machine.On
	off    = machine.Off
)

// TestDecode compares with what people read in the settings.
func TestDecode(t *testing.T) {
	ps2 := []machine.Input{{Kind: "mouse", Bus: "ps2"}, {Kind: "keyboard", Bus: "ps2"}}
	for name, want := range map[string]*machine.Machine{
		"v1.2": {
			Name: "v12", UUID: "a1a1a1a1-0000-4000-8000-000000000012", Guest: machine.Guest{VirtualBox: "win2k"}, Platform: "virtualbox", Arch: "x86_64",
			Chipset: "i440fx", Firmware: machine.Firmware{Type: "bios"}, CPU: machine.CPU{Count: 1}, Memory: machine.Memory{Bytes: 128 << 20},
			Features: machine.Features{ACPI: off, APIC: off, PAE: off, HPET: off}, Clock: "localtime", Boot: []string{"floppy", "cdrom", "disk"},
			Controllers: []machine.Controller{{Bus: machine.IDE, Implied: true}},
			Drives: []machine.Drive{
				{Kind: machine.Disk, At: machine.Address{Bus: machine.IDE}, Media: machine.Media{UUID: "b2b2b2b2-0000-4000-8000-000000000001"}},
				{Kind: machine.Disk, At: machine.Address{Bus: machine.IDE, Unit: 3}, Media: machine.Media{UUID: "b2b2b2b2-0000-4000-8000-000000000002"}},
				{Kind: machine.Optical, At: machine.Address{Bus: machine.IDE, Unit: 2}, Media: machine.Media{UUID: "b2b2b2b2-0000-4000-8000-000000000009"}},
			},
			NICs:     []machine.NIC{{Model: "pcnet", MAC: "08:00:27:0a:0b:0e", Kind: machine.Bridged, Network: "VirtualBox Host Interface 1", Connected: on}},
			Videos:   []machine.Video{{Model: "vboxvga", Memory: 8 << 20, Heads: 1, Accel3D: off}},
			Displays: []machine.Display{{Kind: "rdp"}}, // as VirtualBox takes it up to 1.15
			Inputs:   ps2,
		},
		"v1.3": {
			Name: "v13", UUID: "a1a1a1a1-0000-4000-8000-000000000013", Guest: machine.Guest{VirtualBox: "WindowsXP"}, Platform: "virtualbox", Arch: "x86_64",
			Chipset: "i440fx", Firmware: machine.Firmware{Type: "bios"}, CPU: machine.CPU{Count: 1}, Memory: machine.Memory{Bytes: 192 << 20},
			Features: machine.Features{ACPI: on, APIC: off, PAE: off, HPET: off}, Clock: "localtime", Boot: []string{"floppy", "cdrom", "disk"},
			Controllers: []machine.Controller{
				{Bus: machine.IDE, Model: "piix3", Ports: 2}, {Bus: machine.SATA, Model: "ahci", Ports: 2}, {Bus: machine.USB, Model: "ohci"}, {Bus: machine.Floppy, Implied: true},
			},
			Drives: []machine.Drive{
				{Kind: machine.Disk, At: machine.Address{Bus: machine.IDE}, Media: machine.Media{UUID: "b1b1b1b1-0000-4000-8000-000000000001"}},
				{Kind: machine.Disk, At: machine.Address{Bus: machine.IDE, Unit: 3}, Media: machine.Media{UUID: "b1b1b1b1-0000-4000-8000-000000000002"}},
				{Kind: machine.Disk, At: machine.Address{Bus: machine.SATA, Unit: 1}, Media: machine.Media{UUID: "b1b1b1b1-0000-4000-8000-000000000003"}},
				{Kind: machine.Optical, At: machine.Address{Bus: machine.IDE, Unit: 2}, Media: machine.Media{Host: "/dev/cdrom"}},
				{Kind: machine.Diskette, At: machine.Address{Bus: machine.Floppy}},
			},
			NICs: []machine.NIC{
				{Model: "pcnet", MAC: "08:00:27:0a:0b:0c", Kind: machine.UserNet, Connected: on},
				{Slot: 1, Model: "e1000", MAC: "08:00:27:0a:0b:0d", Kind: machine.Internal, Network: "old net", Connected: off},
			},
			Videos:   []machine.Video{{Model: "vboxvga", Memory: 16 << 20, Heads: 2, Accel3D: off}},
			Displays: []machine.Display{{Kind: "rdp", Port: 3390, Listen: "127.0.0.1"}},
			Sounds:   []machine.Sound{{Model: "sb16"}},
			Serials:  []machine.Port{{Kind: "pipe", Path: "/tmp/com1", Server: on}},
			Inputs:   ps2,
			Shares:   []machine.Share{{Name: "data", Path: "C:/Data/Share", ReadOnly: off}},
			Others:   []machine.Other{{Kind: "usb-filter", Name: "stick"}},
		},
		"arm": {
			Name: "arm", UUID: "88ac593e-00ae-41ba-bf48-8037151de27e", Guest: machine.Guest{VirtualBox: "Debian12_arm64"}, Platform: "virtualbox", Arch: "aarch64",
			Chipset: "virt", Firmware: machine.Firmware{Type: "efi", Vars: machine.Media{Path: "arm.nvram"}}, CPU: machine.CPU{Count: 2}, Memory: machine.Memory{Bytes: 2 << 30},
			Features: machine.Features{ACPI: on}, Clock: "utc", Boot: []string{"floppy", "cdrom", "disk"},
			Controllers: []machine.Controller{{Bus: machine.SCSI, Model: "virtio-scsi", Ports: 1}},
			Drives: []machine.Drive{{
				Kind: machine.Disk, At: machine.Address{Bus: machine.SCSI}, Media: machine.Media{Path: "a.vdi", Format: "vdi", UUID: "e70bfb41-1e7d-427b-a6f4-d9d7eb563178"}, Removable: off,
			}},
			NICs:   []machine.NIC{{Model: "usb-net", MAC: "08:00:27:af:d7:eb", Kind: machine.UserNet, Connected: on}},
			Videos: []machine.Video{{Model: "vboxvga", Memory: 8 << 20, Heads: 1, Accel3D: off}},
			Sounds: []machine.Sound{{Model: "ac97"}},
			Inputs: ps2,
		},
	} {
		t.Run(name, func(t *testing.T) {
			for _, d := range machine.Difference(want, machinetest.Decode(t, Form{}, goldens(t)[name])) {
				t.Errorf("want, got: %s", d)
			}
		})
	}
	m := machinetest.Decode(t, Form{}, goldens(t)["full"])
	if m.UUID != "11112222-3333-4444-5555-666677778888" || m.InstanceUUID != "b3557fe7-3835-4ff4-a462-a7541dc35e91" || m.Notes != "Two lines: <a> & \"b\"\nüöä €" {
		t.Errorf("full: %q %q %q", m.UUID, m.InstanceUUID, m.Notes)
	}
	m = machinetest.Decode(t, Form{}, goldens(t)["snap"])
	if d := m.Drives[0]; d.Media.Path != "Snapshots/{7be23155-b382-4947-b7da-89e0862227e3}.vmdk" {
		t.Errorf("snap: the current image is %+v", d.Media)
	}
	if n := len(m.Others); n != 3 || m.Others[2].Name != "brother" {
		t.Errorf("snap: %+v", m.Others)
	}
}

// doc is settings with something in the places that %s have.
func doc(attrs, media, machinePart, hardware string) []byte {
	network := ""
	if !strings.Contains(hardware, "<Network>") {
		network = `<Network><Adapter slot="0"/></Network>` // or there is one
	}
	return fmt.Appendf(nil, `<?xml version="1.0"?>
<VirtualBox xmlns="http://www.virtualbox.org/" version="1.19-linux">
  <Machine uuid="{00000001-0000-4000-8000-000000000001}" name="m"%s>
    <MediaRegistry>
      <HardDisks>
        <HardDisk uuid="{00000002-0000-4000-8000-000000000001}" location="d.vdi" format="VDI" type="Normal"/>
      </HardDisks>%s
    </MediaRegistry>%s
    <Hardware>
      <Memory RAMSize="64"/>%s%s
    </Hardware>
  </Machine>
</VirtualBox>
`, attrs, media, machinePart, hardware, network)
}

// TestSettings has each setting read, set in settings that do not have it, taken away, and written fresh.
func TestSettings(t *testing.T) {
	sata := func(attached string) string {
		return `<StorageControllers><StorageController name="SATA" type="AHCI" PortCount="4" useHostIOCache="false" Bootable="true">` + attached + `</StorageController></StorageControllers>`
	}
	image := `<Image uuid="{00000002-0000-4000-8000-000000000001}"/>`
	sataCtl := func(m *machine.Machine) {
		m.Controllers = append(m.Controllers, machine.Controller{Bus: machine.SATA, Model: "ahci", Ports: 4})
	}
	disk := func(set func(d *machine.Drive)) func(m *machine.Machine) {
		return func(m *machine.Machine) {
			sataCtl(m)
			d := machine.Drive{Kind: machine.Disk, At: machine.Address{Bus: machine.SATA}, Media: machine.Media{Path: "d.vdi", Format: "vdi", UUID: "00000002-0000-4000-8000-000000000001"}}
			set(&d)
			m.Drives = append(m.Drives, d)
		}
	}
	nic := func(attrs, mode string) string {
		return `<Network><Adapter slot="0" enabled="true" MACAddress="080027000001" ` + attrs + `>` + mode + `</Adapter></Network>`
	}
	adapter := func(set func(n *machine.NIC)) func(m *machine.Machine) {
		return func(m *machine.Machine) {
			n := machine.NIC{Model: "e1000", MAC: "08:00:27:00:00:01", Kind: machine.UserNet, Connected: on}
			set(&n)
			m.NICs = append(m.NICs, n)
		}
	}
	port := func(attrs string) string {
		return `<UART><Port slot="1" enabled="true" IOBase="0x2f8" IRQ="3" ` + attrs + `/></UART>`
	}
	serial := func(p machine.Port) func(m *machine.Machine) {
		return func(m *machine.Machine) { p.Slot = 1; m.Serials = append(m.Serials, p) }
	}
	video := func(set func(v *machine.Video)) func(m *machine.Machine) {
		return func(m *machine.Machine) { set(&m.Videos[0]) }
	}
	inputs := func(list ...machine.Input) func(m *machine.Machine) {
		return func(m *machine.Machine) { m.Inputs = list }
	}
	keyboard := machine.Input{Kind: "keyboard", Bus: "ps2"}
	ctl := func(typ, ports string) string {
		return `<StorageControllers><StorageController name="X" type="` + typ + `" PortCount="` + ports + `" useHostIOCache="false" Bootable="true"/></StorageControllers>`
	}
	for name, tc := range map[string]struct {
		attrs, media, machinePart, hardware string
		set                                 func(m *machine.Machine)
	}{
		"guest":      {attrs: ` OSType="Debian12_64"`, set: func(m *machine.Machine) { m.Guest.VirtualBox = "Debian12_64" }},
		"notes":      {machinePart: "<Description>a\nb &lt;</Description>", set: func(m *machine.Machine) { m.Notes = "a\nb <" }},
		"32 bits":    {hardware: `<CPU><LongMode enabled="false"/></CPU>`, set: func(m *machine.Machine) { m.Arch = "i686" }},
		"processors": {hardware: `<CPU count="4"/>`, set: func(m *machine.Machine) { m.CPU.Count = 4 }},
		"no hotplug": {hardware: `<CPU hotplug="false"/>`, set: func(m *machine.Machine) { m.CPU.HotAdd = off }},
		"hotplug":    {hardware: `<CPU count="8" hotplug="true"><CpuTree><Cpu id="0"/><Cpu id="1"/></CpuTree></CPU>`, set: func(m *machine.Machine) { m.CPU = machine.CPU{Count: 2, Max: 8, HotAdd: on} }},
		"nested":     {hardware: `<CPU><NestedHWVirt enabled="true"/></CPU>`, set: func(m *machine.Machine) { m.CPU.Nested = on }},
		"PAE":        {hardware: `<CPU><PAE enabled="false"/></CPU>`, set: func(m *machine.Machine) { m.Features.PAE = off }},
		"memory":     {set: func(m *machine.Machine) {}},
		"EFI": {hardware: `<Firmware type="EFI"/>`, set: func(m *machine.Machine) {
			m.Firmware = machine.Firmware{Type: "efi", Vars: machine.Media{Path: "m.nvram"}}
		}},
		"EFIDUAL": {hardware: `<Firmware type="EFIDUAL"/>`, set: func(m *machine.Machine) {
			m.Firmware = machine.Firmware{Type: "efi", Vars: machine.Media{Path: "m.nvram"}}
		}},
		"NVRAM": {hardware: `<Firmware type="EFI64"/><BIOS><NVRAM path="x\y.nvram"/></BIOS>`, set: func(m *machine.Machine) {
			m.Firmware = machine.Firmware{Type: "efi", Vars: machine.Media{Path: "x/y.nvram"}}
		}},
		"TPM 1.2":       {hardware: `<TrustedPlatformModule type="v1_2" location=""/>`, set: func(m *machine.Machine) { m.TPM = &machine.TPM{Version: "1.2", Backend: "emulator"} }},
		"TPM 2.0":       {hardware: `<TrustedPlatformModule type="v2_0" location=""/>`, set: func(m *machine.Machine) { m.TPM = &machine.TPM{Version: "2.0", Backend: "emulator"} }},
		"TPM of host":   {hardware: `<TrustedPlatformModule type="Host" location="/dev/tpm0"/>`, set: func(m *machine.Machine) { m.TPM = &machine.TPM{Backend: "passthrough"} }},
		"no TPM":        {hardware: `<TrustedPlatformModule type="None"/>`, set: func(m *machine.Machine) {}},
		"ICH9":          {hardware: `<Chipset type="ICH9"/>`, set: func(m *machine.Machine) { m.Chipset = "q35" }},
		"no ACPI":       {hardware: `<BIOS><ACPI enabled="false"/></BIOS>`, set: func(m *machine.Machine) { m.Features.ACPI = off }},
		"IOAPIC":        {hardware: `<BIOS><IOAPIC enabled="true"/></BIOS>`, set: func(m *machine.Machine) { m.Features.APIC = on }},
		"HPET":          {hardware: `<HPET enabled="true"/>`, set: func(m *machine.Machine) { m.Features.HPET = on }},
		"UTC":           {hardware: `<RTC localOrUTC="UTC"/>`, set: func(m *machine.Machine) { m.Clock = "utc" }},
		"boot":          {hardware: `<Boot><Order position="2" device="HardDisk"/><Order position="1" device="Network"/><Order position="3" device="None"/></Boot>`, set: func(m *machine.Machine) { m.Boot = []string{"network", "disk"} }},
		"version":       {hardware: `<VideoCapture/>`, set: func(m *machine.Machine) {}},
		"VMSVGA":        {hardware: `<Display controller="vmsvga" VRAMSize="16" monitorCount="3" accelerate3D="true"/>`, set: video(func(v *machine.Video) { *v = machine.Video{Model: "vmvga", Memory: 16 << 20, Heads: 3, Accel3D: on} })},
		"VBoxSVGA":      {hardware: `<Display controller="VBoxSVGA"/>`, set: video(func(v *machine.Video) { v.Model = "vboxsvga" })},
		"no video":      {hardware: `<Display controller="None"/>`, set: video(func(v *machine.Video) { v.Model = "none" })},
		"RDP":           {hardware: `<RemoteDisplay enabled="true"><VRDEProperties><Property name="TCP/Ports" value="5000"/><Property name="TCP/Address" value="::1"/></VRDEProperties></RemoteDisplay>`, set: func(m *machine.Machine) { m.Displays = []machine.Display{{Kind: "rdp", Port: 5000, Listen: "::1"}} }},
		"RDP default":   {hardware: `<RemoteDisplay enabled="true"/>`, set: func(m *machine.Machine) { m.Displays = []machine.Display{{Kind: "rdp"}} }},
		"RDP disabled":  {hardware: `<RemoteDisplay enabled="false"/>`, set: func(m *machine.Machine) {}},
		"NAT":           {hardware: nic(`type="82540EM"`, `<NAT/>`), set: adapter(func(n *machine.NIC) {})},
		"no cable":      {hardware: nic(`type="82540EM" cable="false"`, `<NAT/>`), set: adapter(func(n *machine.NIC) { n.Connected = off })},
		"NAT network":   {hardware: nic(`type="82540EM"`, `<NATNetwork name="N"/>`), set: adapter(func(n *machine.NIC) { n.Kind, n.Network = machine.NAT, "N" })},
		"bridged":       {hardware: nic(`type="82540EM"`, `<DisabledModes><NAT/></DisabledModes><BridgedInterface name="eth0"/>`), set: adapter(func(n *machine.NIC) { n.Kind, n.Network = machine.Bridged, "eth0" })},
		"bridge?":       {hardware: nic(`type="82540EM"`, `<BridgedInterface/>`), set: adapter(func(n *machine.NIC) { n.Kind = machine.Bridged })},
		"host only":     {hardware: nic(`type="82540EM"`, `<HostOnlyInterface name="vboxnet0"/>`), set: adapter(func(n *machine.NIC) { n.Kind, n.Network = machine.HostOnly, "vboxnet0" })},
		"host only mac": {hardware: nic(`type="82540EM"`, `<HostOnlyNetwork name="h"/>`), set: adapter(func(n *machine.NIC) { n.Kind, n.Network = machine.HostOnly, "h" })},
		"internal":      {hardware: nic(`type="82540EM"`, `<InternalNetwork name="i"/>`), set: adapter(func(n *machine.NIC) { n.Kind, n.Network = machine.Internal, "i" })},
		"no network":    {hardware: nic(`type="82540EM"`, ``), set: adapter(func(n *machine.NIC) { n.Kind = machine.NoNet })},
		"PCnet":         {hardware: nic(``, `<NAT/>`), set: adapter(func(n *machine.NIC) { n.Model = "pcnet" })},
		"PCnet PCI II":  {hardware: nic(`type="Am79C970A"`, `<NAT/>`), set: adapter(func(n *machine.NIC) { n.Model = "pcnet" })},
		"e1000 server":  {hardware: nic(`type="82545EM"`, `<NAT/>`), set: adapter(func(n *machine.NIC) { n.Model = "e1000-82545em" })},
		"e1000 T":       {hardware: nic(`type="82543GC"`, `<NAT/>`), set: adapter(func(n *machine.NIC) { n.Model = "e1000-82543gc" })},
		"e1000e":        {hardware: nic(`type="82583V"`, `<NAT/>`), set: adapter(func(n *machine.NIC) { n.Model = "e1000e" })},
		"virtio":        {hardware: nic(`type="virtio"`, `<NAT/>`), set: adapter(func(n *machine.NIC) { n.Model = "virtio" })},
		"disabled":      {hardware: `<Network><Adapter slot="0" type="82540EM"/></Network>`, set: func(m *machine.Machine) {}},
		"serial null":   {hardware: port(`hostMode="Disconnected"`), set: serial(machine.Port{Kind: "null"})},
		"serial file":   {hardware: port(`path="/f" hostMode="RawFile"`), set: serial(machine.Port{Kind: "file", Path: "/f"})},
		"serial device": {hardware: port(`path="/dev/ttyS0" hostMode="HostDevice"`), set: serial(machine.Port{Kind: "device", Path: "/dev/ttyS0"})},
		"serial pipe":   {hardware: port(`server="true" path="/p" hostMode="HostPipe"`), set: serial(machine.Port{Kind: "pipe", Path: "/p", Server: on})},
		"serial client": {hardware: port(`server="false" path="h:1" hostMode="TCP"`), set: serial(machine.Port{Kind: "tcp", Host: "h", Service: "1", Server: off})},
		"serial server": {hardware: port(`server="true" path="23" hostMode="TCP"`), set: serial(machine.Port{Kind: "tcp", Service: "23", Server: on})},
		"parallel":      {hardware: `<LPT><Port slot="1" enabled="true" IOBase="0x278" IRQ="5" path="/dev/lp0"/></LPT>`, set: func(m *machine.Machine) { m.Parallels = []machine.Port{{Slot: 1, Kind: "device", Path: "/dev/lp0"}} }},
		"sound":         {hardware: `<AudioAdapter controller="HDA" driver="Null" enabled="true"/>`, set: func(m *machine.Machine) { m.Sounds = []machine.Sound{{Model: "hda"}} }},
		"no sound":      {hardware: `<AudioAdapter controller="HDA" driver="Null"/>`, set: func(m *machine.Machine) {}},
		"USB": {hardware: `<USB><Controllers><Controller name="OHCI" type="OHCI"/><Controller name="xHCI" type="XHCI"/></Controllers></USB>`, set: func(m *machine.Machine) {
			m.Controllers = []machine.Controller{{Bus: machine.USB, Model: "ohci"}, {Bus: machine.USB, Index: 1, Model: "xhci"}}
		}},
		"tablet": {hardware: `<HID Pointing="USBTablet"/><USB><Controllers><Controller name="OHCI" type="OHCI"/></Controllers></USB>`, set: func(m *machine.Machine) {
			m.Controllers = []machine.Controller{{Bus: machine.USB, Model: "ohci"}}
			inputs(machine.Input{Kind: "tablet", Bus: "usb"}, keyboard)(m)
		}},
		"two mice": {hardware: `<HID Pointing="ComboMouse" Keyboard="ComboKeyboard"/><USB><Controllers><Controller name="OHCI" type="OHCI"/></Controllers></USB>`, set: func(m *machine.Machine) {
			m.Controllers = []machine.Controller{{Bus: machine.USB, Model: "ohci"}}
			inputs(machine.Input{Kind: "mouse", Bus: "ps2"}, machine.Input{Kind: "mouse", Bus: "usb"}, keyboard, machine.Input{Kind: "keyboard", Bus: "usb"})(m)
		}},
		"no mouse":  {hardware: `<HID Pointing="None"/>`, set: inputs(keyboard)},
		"share":     {hardware: `<SharedFolders><SharedFolder name="s" hostPath="D:\x y" writable="true"/></SharedFolders>`, set: func(m *machine.Machine) { m.Shares = []machine.Share{{Name: "s", Path: "D:/x y", ReadOnly: off}} }},
		"read only": {hardware: `<SharedFolders><SharedFolder name="s" hostPath="/x"/></SharedFolders>`, set: func(m *machine.Machine) { m.Shares = []machine.Share{{Name: "s", Path: "/x", ReadOnly: on}} }},
		"SATA":      {hardware: sata(""), set: sataCtl},
		"PIIX3 IDE": {hardware: ctl("PIIX3", "2"), set: func(m *machine.Machine) {
			m.Controllers = []machine.Controller{{Bus: machine.IDE, Model: "piix3", Ports: 2}}
		}},
		"ICH6 IDE": {hardware: ctl("ICH6", "2"), set: func(m *machine.Machine) {
			m.Controllers = []machine.Controller{{Bus: machine.IDE, Model: "ich6", Ports: 2}}
		}},
		"LsiLogic": {hardware: ctl("LsiLogic", "16"), set: func(m *machine.Machine) {
			m.Controllers = []machine.Controller{{Bus: machine.SCSI, Model: "lsilogic", Ports: 16}}
		}},
		"BusLogic": {hardware: ctl("BusLogic", "16"), set: func(m *machine.Machine) {
			m.Controllers = []machine.Controller{{Bus: machine.SCSI, Model: "buslogic", Ports: 16}}
		}},
		"SAS": {hardware: ctl("LsiLogicSas", "9"), set: func(m *machine.Machine) {
			m.Controllers = []machine.Controller{{Bus: machine.SCSI, Model: "lsisas1068", Ports: 9}}
		}},
		"virtio-scsi": {hardware: ctl("VirtioSCSI", "7"), set: func(m *machine.Machine) {
			m.Controllers = []machine.Controller{{Bus: machine.SCSI, Model: "virtio-scsi", Ports: 7}}
		}},
		"NVMe":   {hardware: ctl("NVMe", "3"), set: func(m *machine.Machine) { m.Controllers = []machine.Controller{{Bus: machine.NVMe, Ports: 3}} }},
		"floppy": {hardware: ctl("I82078", "1"), set: func(m *machine.Machine) { m.Controllers = []machine.Controller{{Bus: machine.Floppy, Ports: 1}} }},
		"disk":   {hardware: sata(`<AttachedDevice type="HardDisk" port="0" device="0">` + image + `</AttachedDevice>`), set: disk(func(d *machine.Drive) {})},
		"disk flags": {
			hardware: sata(`<AttachedDevice type="HardDisk" nonrotational="true" discard="false" hotpluggable="true" port="3" device="0">` + image + `</AttachedDevice>`),
			set:      disk(func(d *machine.Drive) { d.SSD, d.Discard, d.Removable, d.At.Unit = on, off, on, 3 }),
		},
		"empty CD": {hardware: sata(`<AttachedDevice passthrough="false" type="DVD" port="1" device="0"/>`), set: disk(func(d *machine.Drive) {
			*d = machine.Drive{Kind: machine.Optical, At: machine.Address{Bus: machine.SATA, Unit: 1}}
		})},
		"host's CD": {hardware: sata(`<AttachedDevice passthrough="true" type="DVD" port="1" device="0"><HostDrive src="/dev/sr0"/></AttachedDevice>`), set: disk(func(d *machine.Drive) {
			*d = machine.Drive{Kind: machine.Optical, At: machine.Address{Bus: machine.SATA, Unit: 1}, Media: machine.Media{Host: "/dev/sr0"}}
		})},
		"ISO": {
			media:    `<DVDImages><Image uuid="{00000003-0000-4000-8000-000000000001}" location="C:\i.iso"/></DVDImages>`,
			hardware: sata(`<AttachedDevice type="DVD" port="1" device="0"><Image uuid="{00000003-0000-4000-8000-000000000001}"/></AttachedDevice>`),
			set: disk(func(d *machine.Drive) {
				*d = machine.Drive{Kind: machine.Optical, At: machine.Address{Bus: machine.SATA, Unit: 1}, Media: machine.Media{Path: "C:/i.iso", UUID: "00000003-0000-4000-8000-000000000001"}}
			}),
		},
	} {
		t.Run(name, func(t *testing.T) {
			bare := doc("", "", "", "")
			text := doc(tc.attrs, tc.media, tc.machinePart, tc.hardware)
			want := machinetest.Decode(t, Form{}, bare)
			tc.set(want)
			got := machinetest.Decode(t, Form{}, text)
			for _, d := range machine.Difference(want, got) {
				t.Errorf("read: want, got: %s", d)
			}
			check := func(what string, m *machine.Machine) {
				t.Helper()
				out, losses := machinetest.Encode(t, Form{}, m, machine.EncodeOptions{})
				if len(losses) > 0 {
					t.Errorf("%s: losses %v", what, losses)
				}
				for _, d := range machine.Difference(m, machinetest.Decode(t, Form{}, out)) {
					t.Errorf("%s: wanted, written: %s\n%s", what, d, out)
				}
			}
			check("set", want)
			fresh := machinetest.Strip(want)
			if fresh.Guest.VirtualBox == "" {
				fresh.Guest.VirtualBox = "Other_64"
			}
			check("fresh", fresh)
			// Take it away.
			away := machinetest.Decode(t, Form{}, bare)
			away.Origin = got.Origin
			away.Guest = got.Guest
			check("taken away", away)
			machinetest.CheckRoundTrip(t, Form{}, text)
		})
	}
}

// TestGiven: VirtualBox gives an adapter to a machine whose settings do not mention the first.
func TestGiven(t *testing.T) {
	b := bytes.Replace(doc("", "", "", ""), []byte(`<Adapter slot="0"/>`), []byte(`<Adapter slot="1"/>`), 1)
	machinetest.CheckRoundTrip(t, Form{}, b)
	for name, change := range map[string]func(m *machine.Machine){
		"removed":  func(m *machine.Machine) { m.NICs = nil },
		"changed":  func(m *machine.Machine) { m.NICs[0].Model, m.NICs[0].Connected = "virtio", off },
		"replaced": func(m *machine.Machine) { m.NICs[0] = machine.NIC{Model: "e1000", Kind: machine.NoNet, Connected: on} },
		"joined": func(m *machine.Machine) {
			m.NICs = append(m.NICs, machine.NIC{Slot: 1, Model: "e1000", Kind: machine.UserNet, Connected: on})
		},
	} {
		m := machinetest.Decode(t, Form{}, b)
		if len(m.NICs) != 1 || m.NICs[0].Kind != machine.UserNet {
			t.Fatalf("%+v", m.NICs)
		}
		change(m)
		out, losses := machinetest.Encode(t, Form{}, m, machine.EncodeOptions{})
		if diff := machine.Difference(m, machinetest.Decode(t, Form{}, out)); len(diff)+len(losses) > 0 {
			t.Errorf("%s: %v %v\n%s", name, diff, losses, out)
		}
	}
}

// TestKept: settings without a word here survive changes around them.
func TestKept(t *testing.T) {
	b := goldens(t)["full"]
	m := machinetest.Decode(t, Form{}, b)
	m.Name = "renamed"
	m.Memory.Bytes = 5 << 30
	m.CPU.Count = 2
	m.Notes = ""
	m.NICs[0].Kind, m.NICs[0].Network = machine.Bridged, "br0"
	m.NICs[1].Kind, m.NICs[1].Network = machine.UserNet, ""
	m.NICs[5].Network = "Other"
	m.NICs = slices.Delete(m.NICs, 2, 3)
	m.NICs = append(m.NICs, machine.NIC{Slot: 7, Model: "virtio", MAC: "52:54:00:00:00:01", Kind: machine.Internal, Network: "x", Connected: on})
	m.Drives[0].At.Unit = 0 // from the second channel to the first
	m.Drives[1].Media.Path = "moved/d1.vdi"
	m.Drives[2].Media = machine.Media{Path: "new.vmdk", Format: "vmdk", UUID: "99999999-0000-4000-8000-000000000001"}
	m.Drives = slices.DeleteFunc(m.Drives, func(d machine.Drive) bool { return d.At.Bus == machine.NVMe })
	m.Controllers = slices.DeleteFunc(m.Controllers, func(c machine.Controller) bool { return c.Bus == machine.NVMe })
	m.Serials[3].Service = "100"
	m.Serials = slices.Delete(m.Serials, 0, 1)
	m.Shares = m.Shares[1:]
	m.Sounds = nil
	m.TPM = nil
	m.Displays[0].Port = 6000
	m.Firmware.Vars.Path = "renamed.nvram"
	out, losses := machinetest.Encode(t, Form{}, m, machine.EncodeOptions{})
	if len(losses) > 0 {
		t.Error(losses)
	}
	m2 := machinetest.Decode(t, Form{}, out)
	// Adapters are in the document's order; port forwarding goes with the mode that is disabled.
	nic := m.NICs[len(m.NICs)-1]
	m.NICs = slices.Insert(m.NICs[:len(m.NICs)-1], 6, nic)
	m.Others = m.Others[1:]
	for _, d := range machine.Difference(m, m2) {
		t.Errorf("wanted, written: %s", d)
	}
	for _, s := range []string{
		`<ExtraDataItem name="My/Key" value="some &quot;value&quot; &lt;x&gt;"/>`, `<GuestProperty name="/my/prop"`, `<BandwidthGroup name="Limit"`, `bandwidthGroup="Limit"`,
		`<Clipboard mode="Bidirectional"/>`, `<Group name="/a/b"/>`, `lastStateChange="2026-`, `IDE0SlaveEmulationPort="1"`, "** DO NOT EDIT THIS FILE.",
		`promiscuousModePolicy="AllowAll"`, `bootPriority="2"`, `<Forwarding name="ssh"`, `<Property name="dport" value="1234"/>`, `name="Security/Method"`,
	} {
		if !strings.Contains(string(b), strings.Replace(s, "&gt;", ">", 1)) && !strings.Contains(string(b), s) {
			t.Fatalf("%s was not there", s)
		}
		if !strings.Contains(string(out), s) && !strings.Contains(string(out), strings.Replace(s, "&gt;", ">", 1)) {
			t.Errorf("%s is lost", s)
		}
	}
	for _, s := range []string{"b936b0e6-0f81-409e-bb19-40daeb2fb509", "77795f55-e1dd-4de8-9d59-43b044c6f9a0", "/tmp/com1\" hostMode=\"HostPipe\" enabled=\"true\""} {
		if strings.Contains(string(out), s) {
			t.Errorf("%s is still there", s)
		}
	}
	if strings.Contains(string(out), "><") && strings.Contains(strings.ReplaceAll(string(out), "></", ""), "><") {
		t.Errorf("elements on one line:\n%s", out)
	}
}

// TestSnapshots: they stay when the current state changes, with their images, and go together, with these.
func TestSnapshots(t *testing.T) {
	b := bytes.Replace(goldens(t)["snap"], []byte(` currentSnapshot=`), []byte(` currentStateModified="false" currentSnapshot=`), 1)
	m := machinetest.Decode(t, Form{}, b)
	m.Memory.Bytes = 1 << 30
	m.Drives = m.Drives[1:]
	others := m.Others
	m.Others = slices.DeleteFunc(slices.Clone(others), func(o machine.Other) bool { return o.Name == "brother" })
	out, losses := machinetest.Encode(t, Form{}, m, machine.EncodeOptions{})
	if len(losses) != 1 || losses[0].String() != "snapshot brother: stays" {
		t.Error(losses)
	}
	snap := func(b []byte) string {
		s := string(b)
		return s[strings.Index(s, "<Snapshot "):strings.LastIndex(s, "</Snapshot>")]
	}
	if snap(out) != snap(b) {
		t.Error("the snapshots changed")
	}
	if strings.Contains(string(out), "currentStateModified") {
		t.Error("the current state is still said to be unmodified")
	}
	if strings.Contains(string(out), "7be23155-b382-4947-b7da-89e0862227e3") || !strings.Contains(string(out), "1ccf080d-ae81-4d00-8ad8-fe701b948947") {
		t.Errorf("images:\n%s", out)
	}

	m = machinetest.Decode(t, Form{}, b)
	m.Others = nil
	m.Drives = slices.DeleteFunc(m.Drives, func(d machine.Drive) bool { return d.Kind != machine.Disk })[:1]
	m.Drives[0].Media = machine.Media{Path: "new.vdi", Format: "vdi", UUID: "11111111-2222-4333-8444-555555555555"}
	out, losses = machinetest.Encode(t, Form{}, m, machine.EncodeOptions{})
	if len(losses) != 0 {
		t.Error(losses)
	}
	for _, gone := range []string{"<Snapshot ", "currentSnapshot=", "1ccf080d-ae81-4d00-8ad8-fe701b948947"} {
		if strings.Contains(string(out), gone) {
			t.Errorf("%s is still there:\n%s", gone, out)
		}
	}
	if n := strings.Count(string(out), "<HardDisk "); n != 1 {
		t.Errorf("%d images in the registry", n)
	}
}

// TestOld: storage of old settings stays, and says so.
func TestOld(t *testing.T) {
	m := machinetest.Decode(t, Form{}, goldens(t)["v1.8"])
	m.Drives[0].Media.Path = "x.vdi"
	m.Memory.Bytes *= 2
	m.Controllers = slices.DeleteFunc(m.Controllers, func(c machine.Controller) bool { return c.Model == "ehci" })
	m.Displays = []machine.Display{{Kind: "rdp", Port: 99}}
	m.NICs[0].Connected = off
	out, losses := machinetest.Encode(t, Form{}, m, machine.EncodeOptions{})
	m2 := machinetest.Decode(t, Form{}, out)
	diff := machine.Difference(m, m2)
	if len(diff) != 1 || diff[0] != "drives.0.media.path: x.vdi, nothing" {
		t.Error(diff)
	}
	if !slices.ContainsFunc(losses, func(l machine.Loss) bool { return strings.HasPrefix(l.String(), "drive ide0:0: stays") }) {
		t.Error(losses)
	}
}

// foreign are machines as other forms have them.
func foreign() map[string]*machine.Machine {
	at := func(b machine.Bus, index, unit int) machine.Address {
		return machine.Address{Bus: b, Index: index, Unit: unit}
	}
	file := func(p string) machine.Media { return machine.Media{Path: p, Format: "vmdk"} }
	vmware := &machine.Machine{
		Name: "a/b vm", UUID: "564d0000-1111-2222-3333-444455556666", InstanceUUID: "52000000-1111-2222-3333-444455556666", GenerationID: "52000000-1111-2222-3333-444455556667",
		Guest: machine.Guest{VMware: "debian12-64"}, Platform: "vmware", Version: "vmx-19", Arch: "x86_64",
		Firmware: machine.Firmware{Type: "efi", SecureBoot: on, Vars: machine.Media{Path: "vm.nvram"}}, TPM: &machine.TPM{Version: "2.0"},
		CPU: machine.CPU{Count: 4, Sockets: 2, Cores: 2, HotAdd: on}, Memory: machine.Memory{Bytes: 4<<30 + 512, HotAdd: on}, Boot: []string{"network", "disk"},
		Drives: []machine.Drive{
			{Kind: machine.Disk, At: at(machine.SCSI, 0, 0), Media: file("a.vmdk")},
			{Kind: machine.Disk, At: at(machine.SCSI, 1, 0), Media: file("b.vmdk")},
			{Kind: machine.Disk, At: at(machine.SCSI, 1, 15), Media: file("c.vmdk"), Independent: on},
			{Kind: machine.Disk, At: at(machine.NVMe, 1, 2), Media: file("d.vmdk")},
			{Kind: machine.Optical, At: at(machine.SATA, 0, 0), Media: machine.Media{Host: "auto"}},
			{Kind: machine.Optical, At: at(machine.IDE, 0, 2), Media: machine.Media{Path: "x.iso"}, Connected: off},
			{Kind: machine.Disk, At: at(machine.SCSI, 0, 1), Media: machine.Media{Host: "/dev/sda"}},
			{Kind: machine.Diskette, At: at(machine.Floppy, 0, 0), Media: machine.Media{Path: "f.flp"}},
		},
		Controllers: []machine.Controller{
			{Bus: machine.SCSI, Model: "vmpvscsi"}, {Bus: machine.SCSI, Index: 1, Model: "lsilogic"}, {Bus: machine.NVMe, Index: 1}, {Bus: machine.USB, Model: "ehci"}, {Bus: machine.USB, Index: 1, Model: "xhci"},
		},
		NICs: []machine.NIC{
			{Slot: 0, Model: "vmxnet3", MAC: "00:0c:29:01:02:03", Kind: machine.Bridged, Connected: on},
			{Slot: 3, Model: "e1000e", MAC: "00:0c:29:01:02:04", Kind: machine.NAT},
			{Slot: 9, Kind: machine.Named, Network: "VM Network"},
			{Slot: 3, Model: "e1000", Kind: machine.HostOnly},
		},
		Videos:  []machine.Video{{Model: "vmvga", Memory: 4 << 20}, {Model: "vga"}},
		Sounds:  []machine.Sound{{Model: "es1371"}},
		Serials: []machine.Port{{Kind: "pipe", Path: `\\.\pipe\com_1`, Server: on}, {Slot: 5, Kind: "file", Path: "x"}},
		Others:  []machine.Other{{Kind: "hostdev", Name: "pci0"}},
	}
	libvirt := &machine.Machine{
		Name: "kvm", UUID: "c7a5fdbd-cdaf-9455-926a-d65c16db1809", Platform: "kvm", Version: "pc-q35-7.2", Arch: "x86_64", Chipset: "q35",
		Firmware: machine.Firmware{Type: "efi", Loader: "/usr/share/OVMF/OVMF_CODE.fd", Vars: machine.Media{Path: "/var/lib/vars.fd"}}, TPM: &machine.TPM{Version: "2.0", Model: "crb", Backend: "external"},
		CPU: machine.CPU{Count: 200, Max: 300, Model: "host-passthrough"}, Memory: machine.Memory{Bytes: 2 << 30, Max: 4 << 30}, Features: machine.Features{ACPI: on, APIC: on, PAE: on, HPET: off}, Clock: "utc",
		Kernel:      &machine.Kernel{Path: "/boot/vmlinuz"},
		Controllers: []machine.Controller{{Bus: machine.USB, Model: "qemu-xhci", Ports: 15}, {Bus: machine.SATA, Model: "ahci", Ports: 6}, {Bus: machine.Virtio, Implied: true}, {Bus: machine.SCSI, Model: "virtio-scsi"}},
		Drives: []machine.Drive{
			{Kind: machine.Disk, At: at(machine.Virtio, 0, 0), Media: machine.Media{Path: "/vm/a.qcow2", Format: "qcow2"}, Boot: 2, Cache: "none", Discard: on},
			{Kind: machine.Disk, At: at(machine.Virtio, 0, 1), Media: machine.Media{Path: "/vm/b.img", Format: "raw"}, Serial: "S1"},
			{Kind: machine.Optical, At: at(machine.SATA, 0, 0), ReadOnly: on, Boot: 1},
			{Kind: machine.LUN, At: at(machine.SCSI, 0, 0), Media: machine.Media{Host: "/dev/sdb"}},
			{Kind: machine.Disk, At: at(machine.SCSI, 0, 3), Media: machine.Media{URL: "nbd://x/y"}},
			{Kind: machine.Disk, At: at(machine.USB, 0, 1), Media: machine.Media{Path: "/vm/u.vdi", Format: "luks"}},
		},
		NICs: []machine.NIC{
			{Model: "virtio", MAC: "52:54:00:11:22:33", Kind: machine.Named, Network: "default", Boot: 3},
			{Slot: 1, Model: "rtl8139", MAC: "bad", Kind: machine.UserNet},
		},
		Videos:   []machine.Video{{Model: "qxl", Memory: 65536 << 10, Heads: 1}},
		Displays: []machine.Display{{Kind: "spice"}, {Kind: "vnc", Port: 5900}},
		Sounds:   []machine.Sound{{Model: "ich9"}},
		Serials:  []machine.Port{{Kind: "pty"}, {Slot: 1, Kind: "unix", Path: "/run/s", Server: on}, {Slot: 2, Kind: "tcp", Host: "::1", Service: "9", Server: on, Telnet: on}},
		Inputs:   []machine.Input{{Kind: "tablet", Bus: "usb"}, {Kind: "mouse", Bus: "ps2"}, {Kind: "keyboard", Bus: "virtio"}},
		Shares:   []machine.Share{{Name: "s", Path: "/srv/s"}},
	}
	xen := &machine.Machine{Name: "xen\x01vm", Platform: "xen", Version: "xenfv", Virtualization: "pv", Memory: machine.Memory{Bytes: 1 << 30}, Clock: "utc"}
	for i := range 40 {
		xen.Drives = append(xen.Drives, machine.Drive{Kind: machine.Disk, At: at(machine.Xen, 0, i), Media: machine.Media{Path: fmt.Sprintf("d%d.vhd", i), Format: "vpc"}})
		xen.NICs = append(xen.NICs, machine.NIC{Slot: i, Model: "netfront", Kind: machine.Bridged, Network: "xenbr0"})
	}
	all := map[string]*machine.Machine{"vmware": vmware, "libvirt": libvirt, "xen": xen, "empty": {}, "arm": {Name: "arm", Arch: "aarch64", Firmware: machine.Firmware{Type: "efi"}, CPU: machine.CPU{Count: 2, Nested: on}}}
	for _, m := range all {
		if err := m.Complete(); err != nil {
			panic(err)
		}
	}
	return all
}

// TestForeign compares losses of machines from other forms, and what is written with what is left.
func TestForeign(t *testing.T) {
	for name, tc := range map[string]struct {
		losses []string
		drives []string
		nics   []string
	}{
		"vmware": {
			losses: []string{
				"generation_id: left out: VirtualBox has none", "firmware: secure boot is said by the file of variables alone: VBoxManage modifynvram secureboot",
				"cpu: 2 sockets, 2 cores, 0 threads become cores of one socket", "memory: 4294967808 bytes become 4294967296", "memory: none can be added to a running machine",
				"controller scsi0: vmpvscsi becomes LsiLogic", "controller scsi1: left out: VirtualBox has 1 of them", "drive scsi1:0: moves to SCSI, port 1", "drive scsi1:15: moves to SCSI, port 2",
				"controller nvme1: becomes nvme0", "drive sata0:0: nothing is inserted: it is not said which drive of the host", "drive ide0:2: nothing is inserted: it was not connected",
				"drive scsi0:1: left out: VirtualBox has no disk /dev/sda of the host without an image that names it", "nic 0: vmxnet3 becomes e1000", "nic 3: nat becomes user: VirtualBox's NAT is each machine's own",
				"nic 9: becomes the adapter in slot 1", "nic 9: network VM Network becomes user", "nic 3: becomes the adapter in slot 2", "video 1: vga left out: VirtualBox has one adapter",
				"sound 0: es1371 becomes ac97", "serial 5: left out: VirtualBox has 4", "hostdev pci0: left out",
			},
			drives: []string{"scsi0:0 a.vmdk", "scsi0:1 b.vmdk", "scsi0:2 c.vmdk", "nvme0:2 d.vmdk", "sata0:0 ", "ide0:2 ", "fdc0:0 f.flp"},
			nics:   []string{"0 e1000 bridged", "1 e1000 user", "2 e1000 hostonly", "3 e1000e user"},
		},
		"libvirt": {
			losses: []string{
				"firmware: loader /usr/share/OVMF/OVMF_CODE.fd left out", "tpm: VirtualBox chooses the interface, not crb", "tpm: the one outside becomes VirtualBox's own, v2_0",
				"cpu: 300 processors become 64", "cpu: model host-passthrough becomes the host's", "memory: none can be added to a running machine", "kernel: left out: VirtualBox boots from media",
				"drive virtio0:0: its place in the boot order becomes that of all its kind", "drive virtio0:0: moves to SATA, port 1", "drive virtio0:1: moves to SATA, port 2",
				"drive virtio0:0: cache none left out", "drive virtio0:1: serial number S1 left out", "drive scsi0:0: lun left out", "drive scsi0:3: left out: VirtualBox does not reach nbd://x/y",
				"drive usb0:1: left out: VirtualBox does not read images in luks", "controller usb0: qemu-xhci becomes ohci", "nic 0: network default becomes user", "nic 1: MAC address \"bad\" left out", "nic 1: rtl8139 becomes e1000",
				"video 0: qxl becomes vmvga", "display 0: spice left out", "display 1: vnc left out", "sound 0: ich9 becomes hda", "serial 0: pty becomes null", "serial 1: unix becomes pipe, which is a socket on Unix",
				"serial 2: listens on all addresses, not ::1", "serial 2: telnet left out", "input 2: virtio keyboard becomes usb",
			},
			drives: []string{"sata0:0 ", "sata0:1 /vm/a.qcow2", "sata0:2 /vm/b.img"},
			nics:   []string{"0 virtio user", "1 e1000 user"},
		},
		"empty": {},
		"arm":   {losses: []string{"cpu: nested virtualization left out: not on ARM"}},
	} {
		t.Run(name, func(t *testing.T) {
			m := foreign()[name]
			out, losses := machinetest.Encode(t, Form{}, m, machine.EncodeOptions{})
			left := slices.Clone(tc.losses)
			for _, l := range losses {
				i := slices.Index(left, l.String())
				if i < 0 {
					t.Errorf("loss %s", l)
					continue
				}
				left = slices.Delete(left, i, i+1)
			}
			if len(left) > 0 {
				t.Errorf("no losses %q", left)
			}
			m2 := machinetest.Decode(t, Form{}, out)
			var drives, nics []string
			for _, d := range m2.Drives {
				drives = append(drives, d.At.String()+" "+d.Media.Path)
			}
			for _, n := range m2.NICs {
				nics = append(nics, fmt.Sprintf("%d %s %s", n.Slot, n.Model, n.Kind))
			}
			sorted := func(s []string) []string { s = slices.Clone(s); slices.Sort(s); return s }
			if !slices.Equal(sorted(drives), sorted(tc.drives)) || !slices.Equal(sorted(nics), sorted(tc.nics)) {
				t.Errorf("drives %q, adapters %q", drives, nics)
			}
		})
	}
	m := foreign()["xen"]
	out, losses := machinetest.Encode(t, Form{}, m, machine.EncodeOptions{})
	m2 := machinetest.Decode(t, Form{}, out)
	if len(m2.Drives) != 40 || len(m2.NICs) != 8 || m2.Drives[29].At.String() != "sata0:29" || m2.Drives[30].At.String() != "scsi0:0" || m2.Name != "xen\ufffdvm" {
		t.Errorf("%d drives, %d adapters, %v\n%s", len(m2.Drives), len(m2.NICs), m2.Drives[29:31], out)
	}
	if len(losses) != 1+1+40+40 { // name, pv, each drive; models of 8 adapters, and 32 adapters
		t.Errorf("%d losses: %v", len(losses), losses)
	}
}

func TestUUIDs(t *testing.T) {
	m := &machine.Machine{Name: "m", Drives: []machine.Drive{
		{Kind: machine.Disk, At: machine.Address{Bus: machine.SATA}, Media: machine.Media{Path: "a.vdi"}},
		{Kind: machine.Disk, At: machine.Address{Bus: machine.SATA, Unit: 1}, Media: machine.Media{Path: "b.VMDK", UUID: "00000001-0000-4000-8000-00000000000A"}},
	}}
	b, _ := machinetest.Encode(t, Form{}, m, machine.EncodeOptions{})
	one := machinetest.Decode(t, Form{}, b)
	if one.UUID == "" || one.UUID[14] != '5' || one.Drives[0].Media.UUID[14] != '5' || one.Drives[1].Media.UUID != "00000001-0000-4000-8000-00000000000a" {
		t.Errorf("%s, %+v", one.UUID, one.Drives)
	}
	if one.Drives[0].Media.Format != "vdi" || one.Drives[1].Media.Format != "vmdk" {
		t.Errorf("formats %+v", one.Drives)
	}
	m.Name = "n"
	b, _ = machinetest.Encode(t, Form{}, m, machine.EncodeOptions{})
	two := machinetest.Decode(t, Form{}, b)
	if two.UUID == one.UUID || two.Drives[0].Media.UUID != one.Drives[0].Media.UUID {
		t.Error("UUIDs are not made of names")
	}
	m.Drives[0].Media.UUID = m.Drives[1].Media.UUID
	if _, _, err := (Form{}).Encode(m, machine.EncodeOptions{}); !errors.Is(err, machine.ErrUnsupported) {
		t.Errorf("two images with one UUID: %v", err)
	}
	// RFC 9562, appendix A.4, has another namespace: only the form can be compared.
	if got := derived("x"); len(got) != 36 || !strings.ContainsRune("89ab", rune(got[19])) {
		t.Error(got)
	}
}

func TestVersions(t *testing.T) {
	m := &machine.Machine{Name: "m", Platform: "virtualbox", Version: "2"}
	for _, tc := range []struct {
		version, want string
		err           error
	}{{"", "2", nil}, {"1", "1", nil}, {"vmx-19", "", machine.ErrUnsupported}} {
		b, _, err := Form{}.Encode(m, machine.EncodeOptions{Version: tc.version})
		if !errors.Is(err, tc.err) {
			t.Errorf("%q: %v", tc.version, err)
		}
		if err == nil && machinetest.Decode(t, Form{}, b).Version != tc.want {
			t.Errorf("%q: %s", tc.version, b)
		}
	}
	for _, tc := range []struct {
		m    machine.Machine
		want string
	}{
		{machine.Machine{Guest: machine.Guest{VMware: "debian12-64"}}, "Debian12_64"},
		{machine.Machine{Guest: machine.Guest{VirtualBox: "Own_64", VMware: "debian12-64"}}, "Own_64"},
		{machine.Machine{Guest: machine.Guest{VMware: "debian12-64"}, Arch: "aarch64"}, "Other_arm64"},
		{machine.Machine{Arch: "x86_64"}, "Other_64"},
		{machine.Machine{}, "Other"},
	} {
		b, _ := machinetest.Encode(t, Form{}, &tc.m, machine.EncodeOptions{})
		if got := machinetest.Decode(t, Form{}, b).Guest.VirtualBox; got != tc.want {
			t.Errorf("%+v %s: %s, want %s", tc.m.Guest, tc.m.Arch, got, tc.want)
		}
	}
	if _, _, err := (Form{}).Encode(&machine.Machine{Arch: "s390x"}, machine.EncodeOptions{}); !errors.Is(err, machine.ErrUnsupported) {
		t.Errorf("s390x: %v", err)
	}
}

// TestElement reads and writes what an OVF envelope has.
func TestElement(t *testing.T) {
	d := etree.NewDocument()
	if err := d.ReadFromString(`<o:E xmlns:o="http://x" xmlns:vbox="http://www.virtualbox.org/ovf/machine"><vbox:Machine o:required="false" version="1.19-linux" uuid="{7705c30f-e2b7-41ad-b0f2-a6692af37652}" name="i" OSType="Debian_64"><o:Info>x</o:Info>
<Hardware><Memory RAMSize="1024"/><Firmware type="EFI"/><StorageControllers><StorageController name="S" type="LsiLogic" PortCount="16"><AttachedDevice type="HardDisk" port="2" device="0"><Image uuid="{e15e25d0-a7e0-4af8-ac16-c4f45ba549a5}"/></AttachedDevice></StorageController></StorageControllers></Hardware></vbox:Machine></o:E>`); err != nil {
		t.Fatal(err)
	}
	before, _ := d.WriteToString()
	e := d.Root().ChildElements()[0]
	m, err := DecodeElement(e)
	if err != nil {
		t.Fatal(err)
	}
	if after, _ := d.WriteToString(); after != before {
		t.Error("it was changed")
	}
	if m.Firmware.Type != "efi" || m.Memory.Bytes != 1<<30 || len(m.Drives) != 1 || m.Drives[0].Media.UUID != "e15e25d0-a7e0-4af8-ac16-c4f45ba549a5" || m.Drives[0].At.Unit != 2 {
		t.Errorf("%+v", m)
	}
	for name, m := range map[string]*machine.Machine{"kept": m, "fresh": machinetest.Strip(m)} {
		m.Memory.Bytes = 2 << 30
		m.NICs = []machine.NIC{{Model: "e1000", Kind: machine.UserNet, Connected: on}}
		out, losses, err := EncodeElement(m, machine.EncodeOptions{})
		if err != nil || len(losses) > 0 {
			t.Fatal(name, err, losses)
		}
		if v, _ := attr(out, "version"); v != "1.19-linux" || out.Parent() != nil || child(out, "MediaRegistry") != nil {
			t.Errorf("%s: version %s", name, v)
		}
		if (child(out, "Info") != nil) != (name == "kept") || child(out, "Hardware").Space != "" {
			t.Errorf("%s: not what it began with", name)
		}
		m2, err := DecodeElement(out)
		if err != nil {
			t.Fatal(err)
		}
		for _, d := range machine.Difference(m, m2) {
			t.Errorf("%s: %s", name, d)
		}
		b, _ := machinetest.Encode(t, Form{}, m, machine.EncodeOptions{}) // as settings: a document of its own
		if !(Form{}).Probe("", b) {
			t.Errorf("%s: %s", name, b)
		}
	}
}

// TestElementOfSettings: a machine from settings takes what they say to the element, with their version.
func TestElementOfSettings(t *testing.T) {
	for version, kept := range map[string]bool{"1.19-linux": true, "1.12-windows": true, "1.10-linux": false} {
		storage := `<StorageControllers><StorageController name="mine" type="AHCI" PortCount="4"/></StorageControllers>`
		text := `<VirtualBox xmlns="http://www.virtualbox.org/" version="` + version + `"><Machine uuid="{7705c30f-e2b7-41ad-b0f2-a6692af37652}" name="i" OSType="Debian_64">` +
			`<MediaRegistry><HardDisks/></MediaRegistry><ExtraData><ExtraDataItem name="a" value="b"/></ExtraData><Hardware><Memory RAMSize="64"/></Hardware>` + storage + `</Machine></VirtualBox>`
		m, err := Form{}.Decode([]byte(text))
		if err != nil {
			t.Fatal(version, err)
		}
		image := "e15e25d0-a7e0-4af8-ac16-c4f45ba549a5"
		m.Drives = []machine.Drive{{Kind: machine.Disk, At: machine.Address{Bus: machine.SATA, Unit: 2}, Media: machine.Media{UUID: image}}}
		e, losses, err := EncodeElement(m, machine.EncodeOptions{})
		if err != nil || len(losses) > 0 {
			t.Fatal(version, err, losses)
		}
		want := version
		if !kept {
			want = "1.19-linux"
		}
		if v, _ := attr(e, "version"); v != want || (child(e, "ExtraData") != nil) != kept || child(e, "MediaRegistry") != nil || e.Parent() != nil {
			t.Errorf("%s: version %s", version, v)
		}
		got, err := DecodeElement(e)
		if err != nil {
			t.Fatal(version, err)
		}
		if d := got.DriveAt(machine.Address{Bus: machine.SATA, Unit: 2}); d == nil || d.Media.UUID != image || got.Controller(machine.SATA, 0).Ports != 4 {
			t.Errorf("%s: %+v", version, got)
		}
	}
}

func TestProbe(t *testing.T) {
	for text, want := range map[string]bool{
		`<VirtualBox xmlns="http://www.virtualbox.org/" version="1.12-linux"><Machine/>`:       true,
		`<VirtualBox xmlns="http://www.virtualbox.org/" version="1.12-linux"><Global><Extra/>`: false,
		`<VirtualBox version="1.12-linux"><Machine/>`:                                          false,
		`<domain type="kvm"><name>VirtualBox</name>`:                                           false,
		`config.version = "8"`: false,
		``:                     false,
	} {
		if got := (Form{}).Probe("x.vbox", []byte(text)); got != want {
			t.Errorf("%s: %v", text, got)
		}
	}
}

func TestHostile(t *testing.T) {
	const head = `<VirtualBox xmlns="http://www.virtualbox.org/" version="1.19-linux"><Machine uuid="{00000001-0000-4000-8000-000000000001}" name="m">`
	const tail = `</Machine></VirtualBox>`
	hw := func(s string) string { return head + "<Hardware>" + s + "</Hardware>" + tail }
	sata := func(s string) string {
		return hw(`<StorageControllers><StorageController name="S" type="AHCI" PortCount="30">` + s + `</StorageController></StorageControllers>`)
	}
	for name, tc := range map[string]struct {
		text, says string
		err        error
	}{
		"entities":            {`<!DOCTYPE V [<!ENTITY a "aaaa"><!ENTITY b "&a;&a;">]>` + head + "&b;" + tail, "refused", machine.ErrUnsupported},
		"external entity":     {`<!DOCTYPE V SYSTEM "file:///etc/passwd">` + head + tail, "refused", machine.ErrUnsupported},
		"deep snapshots":      {head + strings.Repeat("<Snapshot><Snapshots>", 5000) + strings.Repeat("</Snapshots></Snapshot>", 5000) + tail, "levels", machine.ErrSyntax},
		"large":               {head + strings.Repeat(" ", machine.MaxConfig) + tail, "limit", machine.ErrUnsupported},
		"other root":          {`<Machine/>`, "root element", machine.ErrSyntax},
		"other namespace":     {`<VirtualBox xmlns="http://x/" version="1.19"><Machine/></VirtualBox>`, "namespace", machine.ErrUnsupported},
		"no version":          {`<VirtualBox><Machine/></VirtualBox>`, "not said", machine.ErrSyntax},
		"version 1.21":        {`<VirtualBox version="1.21-linux"><Machine/></VirtualBox>`, "1.21", machine.ErrUnsupported},
		"version 2.0":         {`<VirtualBox version="2.0"><Machine/></VirtualBox>`, "2.0", machine.ErrUnsupported},
		"huge version":        {`<VirtualBox version="1.99999999999999999999"><Machine/></VirtualBox>`, "want 1.0", machine.ErrUnsupported},
		"encrypted":           {`<VirtualBox version="1.19"><MachineEncrypted/></VirtualBox>`, "encrypted", machine.ErrUnsupported},
		"no machine":          {`<VirtualBox version="1.19"><Global/></VirtualBox>`, "0 elements", machine.ErrSyntax},
		"two machines":        {`<VirtualBox version="1.19"><Machine/><Machine/></VirtualBox>`, "2 elements", machine.ErrSyntax},
		"two hardwares":       {head + `<Hardware/><Hardware/>` + tail, "twice", machine.ErrSyntax},
		"two memories":        {hw(`<Memory RAMSize="1"/><Memory RAMSize="2"/>`), "twice", machine.ErrSyntax},
		"memory in words":     {hw(`<Memory RAMSize="lots"/>`), "no number", machine.ErrSyntax},
		"memory with a unit":  {hw(`<Memory RAMSize="1G"/>`), "no number", machine.ErrSyntax},
		"negative memory":     {hw(`<Memory RAMSize="-1"/>`), "no number", machine.ErrSyntax},
		"huge memory":         {hw(`<Memory RAMSize="18446744073709551615"/>`), "no number", machine.ErrSyntax},
		"processors":          {hw(`<CPU count="4294967295"/>`), "4294967295", machine.ErrSyntax},
		"plugged processors":  {hw(`<CPU count="1" hotplug="true"><CpuTree><Cpu id="3"/></CpuTree></CPU>`), "2 processors of 1", machine.ErrSyntax},
		"flag":                {hw(`<HPET enabled="maybe"/>`), "neither", machine.ErrSyntax},
		"UUID":                {`<VirtualBox version="1.19"><Machine uuid="{zz}"/></VirtualBox>`, "no UUID", machine.ErrSyntax},
		"firmware":            {hw(`<Firmware type="OpenBoot"/>`), "OpenBoot", machine.ErrSyntax},
		"two adapters":        {hw(`<Network><Adapter slot="1"/><Adapter slot="1"/></Network>`), "twice", machine.ErrSyntax},
		"slot":                {hw(`<Network><Adapter slot="36"/></Network>`), "more than 35", machine.ErrSyntax},
		"MAC":                 {hw(`<Network><Adapter slot="1" enabled="1" MACAddress="08002700000"/></Network>`), "MACAddress", machine.ErrSyntax},
		"two serial ports":    {hw(`<UART><Port slot="0"/><Port slot="0"/></UART>`), "twice", machine.ErrSyntax},
		"boot position":       {hw(`<Boot><Order position="0" device="DVD"/></Boot>`), "position", machine.ErrSyntax},
		"boot twice":          {hw(`<Boot><Order position="1" device="DVD"/><Order position="1" device="HardDisk"/></Boot>`), "twice", machine.ErrSyntax},
		"boot device":         {hw(`<Boot><Order position="1" device="Tape"/></Boot>`), "Tape", machine.ErrSyntax},
		"controller":          {hw(`<StorageControllers><StorageController type="ESDI"/></StorageControllers>`), "ESDI", machine.ErrSyntax},
		"two drives":          {sata(`<AttachedDevice type="DVD" port="1" device="0"/><AttachedDevice type="DVD" port="1" device="0"/>`), "two drives are at sata0:1", machine.ErrSyntax},
		"second device":       {sata(`<AttachedDevice type="DVD" port="1" device="1"/>`), "port 1, device 1", machine.ErrSyntax},
		"huge port":           {sata(`<AttachedDevice type="DVD" port="4294967296" device="0"/>`), "no number", machine.ErrSyntax},
		"two images":          {head + `<MediaRegistry><HardDisks><HardDisk uuid="{00000001-0000-4000-8000-000000000001}" location="a"><HardDisk uuid="{00000001-0000-4000-8000-000000000001}" location="b"/></HardDisk></HardDisks></MediaRegistry>` + tail, "twice", machine.ErrSyntax},
		"image without UUID":  {head + `<MediaRegistry><HardDisks><HardDisk location="a"/></HardDisks></MediaRegistry>` + tail, "no UUID", machine.ErrSyntax},
		"attribute twice":     {hw(`<Memory RAMSize="1" RAMSize="2"/>`), "twice", machine.ErrSyntax},
		"behind the root":     {head + tail + "x", "outside", machine.ErrSyntax},
		"many snapshots":      {head + strings.Repeat("<Snapshot/>", 2) + tail, "twice", machine.ErrSyntax},
		"snapshots in one":    {head + "<Snapshot><Snapshots>" + strings.Repeat("<Snapshot/>", maxSnapshots) + "</Snapshots></Snapshot>" + tail, "more than", machine.ErrSyntax},
		"invalid disk attach": {`<VirtualBox version="1.3"><Machine><HardDiskAttachments><HardDiskAttachment bus="ide7" device="x"/></HardDiskAttachments></Machine></VirtualBox>`, "ide7", machine.ErrSyntax},
	} {
		_, err := Form{}.Decode([]byte(tc.text))
		var s *machine.SyntaxError
		if !errors.As(err, &s) || s.Form != "vbox" || !errors.Is(err, tc.err) || !strings.Contains(err.Error(), tc.says) {
			t.Errorf("%s: %v, want %q", name, err, tc.says)
		}
		if err != nil && len(err.Error()) > 300 {
			t.Errorf("%s: an error of %d bytes", name, len(err.Error()))
		}
	}
	// Cut at each element.
	b := goldens(t)["full"]
	for i := range b {
		if b[i] == '<' && i > 0 {
			if _, err := (Form{}).Decode(b[:i]); err == nil {
				t.Fatalf("cut at %d: no error", i)
			}
		}
	}
}

func FuzzDecode(f *testing.F) { machinetest.Fuzz(f, Form{}, seeds(f)...) }

// TestPortsOfNewController: a controller that replaces one has ports for the drives that stay where they were.
func TestPortsOfNewController(t *testing.T) {
	m := machinetest.Decode(t, Form{}, goldens(t)["full"])
	for i := range m.Controllers {
		m.Controllers[i].Origin, m.Controllers[i].Ports = nil, 0
	}
	out, _ := machinetest.Encode(t, Form{}, m, machine.EncodeOptions{})
	again := machinetest.Decode(t, Form{}, out)
	if len(again.Drives) != len(m.Drives) {
		t.Fatalf("%d drives, %d before", len(again.Drives), len(m.Drives))
	}
	for _, d := range again.Drives {
		units := d.At.Unit + 1
		if d.At.Bus == machine.IDE || d.At.Bus == machine.Floppy {
			units = d.At.Unit/2 + 1
		}
		if c := again.Controller(d.At.Bus, d.At.Index); d.At.Bus != machine.USB && (c == nil || c.Ports < units) {
			t.Errorf("%s: of the controller: %+v", d.At, c)
		}
	}
}

func TestEdits(t *testing.T) {
	machinetest.Edits(t, func(t *testing.T, b []byte) { machinetest.Survive(t, Form{}, b) }, seeds(t)...)
}

// seeds are the files of this package, small ones, and one of the corpus where it is.
func seeds(t testing.TB) [][]byte {
	var list [][]byte
	all := goldens(t)
	for _, name := range slices.Sorted(maps.Keys(all)) {
		list = append(list, all[name])
	}
	for _, h := range []string{
		`<CPU count="0x2"><CpuTree/></CPU><HID Pointing="ComboMouse"/>`,
		`<StorageControllers><StorageController type="USB"><AttachedDevice type="DVD"/></StorageController></StorageControllers>`,
		"<Network><Adapter slot=\"9\" enabled=\"yes\"><HostOnlyNetwork name=\"a&#10;b\"/></Adapter></Network><Boot/>",
	} {
		list = append(list, doc(" stateFile='x'", "", "<Description>a<![CDATA[b]]><!-- c -->&#13;\n</Description>", h))
	}
	more, err := filepath.Glob("../../../shared/corpus/ovf/libvirt-vbox/2disks-nosnap.vbox") // none without the corpus
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range more {
		b, err := os.ReadFile(p)
		if err != nil {
			t.Fatal(err)
		}
		list = append(list, b)
	}
	return list
}

// mixed is a machine of parts of others, with the origin of one of them.
func mixed(seed uint64, pool []*machine.Machine) *machine.Machine {
	r := rand.New(rand.NewPCG(seed, 1))
	pick := func() *machine.Machine { return pool[r.IntN(len(pool))] }
	m := pick().Clone()
	m.Origin = pick().Origin
	for range r.IntN(4) {
		o := pick()
		switch r.IntN(14) {
		case 0:
			m.Name, m.Notes, m.UUID, m.InstanceUUID = o.Name, o.Notes, o.UUID, o.InstanceUUID
		case 1:
			m.Firmware, m.TPM, m.Chipset = o.Firmware, o.TPM, o.Chipset
		case 2:
			m.CPU, m.Memory, m.Features = o.CPU, o.Memory, o.Features
		case 3:
			m.Arch, m.Guest, m.Platform, m.Version = o.Arch, o.Guest, o.Platform, o.Version
		case 4:
			m.Clock, m.Boot = o.Clock, o.Boot
		case 5:
			m.Controllers, m.Drives = slices.Clone(o.Controllers), slices.Clone(o.Drives)
		case 6:
			m.Drives = slices.DeleteFunc(m.Drives, func(machine.Drive) bool { return r.IntN(3) == 0 })
		case 7:
			m.Controllers = slices.DeleteFunc(m.Controllers, func(machine.Controller) bool { return r.IntN(3) == 0 })
		case 8:
			m.NICs = slices.Clone(o.NICs)
		case 9:
			m.NICs = slices.DeleteFunc(m.NICs, func(machine.NIC) bool { return r.IntN(3) == 0 })
			for i := range m.NICs {
				if r.IntN(3) == 0 {
					m.NICs[i].Slot = r.IntN(10)
				}
			}
		case 10:
			m.Videos, m.Displays, m.Sounds = o.Videos, o.Displays, o.Sounds
		case 11:
			m.Serials, m.Parallels, m.Inputs = o.Serials, o.Parallels, o.Inputs
		case 12:
			m.Shares, m.Others = slices.Clone(o.Shares), o.Others
		case 13:
			for i := range m.Drives {
				if r.IntN(3) == 0 {
					m.Drives[i].At.Unit = r.IntN(9)
					m.Drives[i].Media.Path += "x"
					m.Drives[i].Media.UUID = ""
				}
			}
		}
	}
	return m
}

// FuzzEdit writes machines of parts of others: what is written must be readable, and the same when it is written again.
func FuzzEdit(f *testing.F) {
	var pool []*machine.Machine
	all := goldens(f)
	for _, name := range slices.Sorted(maps.Keys(all)) {
		pool = append(pool, machinetest.Decode(f, Form{}, all[name]))
	}
	others := foreign()
	for _, name := range slices.Sorted(maps.Keys(others)) {
		pool = append(pool, others[name])
	}
	for seed := range uint64(400) {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, seed uint64) {
		m := mixed(seed, pool)
		before := m.Clone()
		out, losses, err := Form{}.Encode(m, machine.EncodeOptions{})
		if err != nil {
			if !errors.Is(err, machine.ErrUnsupported) {
				t.Fatal(err)
			}
			return
		}
		if d := machine.Difference(before, m); len(d) > 0 {
			t.Fatalf("it was changed: %v", d)
		}
		again, err := Form{}.Decode(out)
		if err != nil {
			t.Fatalf("%v\n%s", err, out)
		}
		second, more, err := Form{}.Encode(again, machine.EncodeOptions{})
		if err != nil || len(more) > 0 || !bytes.Equal(second, out) {
			t.Fatalf("not the same again: %v %v\n%s\n%s", err, more, out, second)
		}
		if len(losses) > 0 {
			return
		}
		// What is not lost is there, though what was not said may be, and in another order.
		for _, m := range []*machine.Machine{before, again} {
			slices.SortFunc(m.Drives, func(a, b machine.Drive) int { return strings.Compare(a.At.String(), b.At.String()) })
			slices.SortFunc(m.NICs, func(a, b machine.NIC) int { return a.Slot - b.Slot })
			slices.SortFunc(m.Serials, func(a, b machine.Port) int { return a.Slot - b.Slot })
			m.Controllers, m.Others, m.Platform, m.Version, m.Guest.VMware = nil, nil, "", "", ""
			if m.Arch == "aarch64" {
				m.Features = machine.Features{}
			}
		}
		for _, d := range machine.Difference(before, again) {
			if !strings.Contains(d, ": nothing, ") {
				t.Errorf("wanted, written: %s", d)
			}
		}
	})
}
