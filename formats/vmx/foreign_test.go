package vmx_test

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"tarvm/formats/machine"
	"tarvm/formats/machine/machinetest"
	"tarvm/formats/vmx"
)

func at(b machine.Bus, index, unit int) machine.Address {
	return machine.Address{Bus: b, Index: index, Unit: unit}
}

// kvm is a machine as libvirt has it: with much that VMware has not.
func kvm() *machine.Machine {
	return &machine.Machine{
		Name: "guest \"1\"", UUID: "564dad58-0629-d3e6-ecfe-8ff839c5e35d", Platform: "kvm", Version: "pc-q35-7.2",
		Arch: "x86_64", Chipset: "q35", Guest: machine.Guest{Osinfo: "http://example.com/unheard/1"},
		Firmware: machine.Firmware{Type: "efi", SecureBoot: machine.On, Loader: "/usr/share/OVMF/OVMF_CODE.fd", Vars: machine.Media{Path: "/var/lib/libvirt/qemu/nvram/guest_VARS.fd"}},
		TPM:      &machine.TPM{Version: "1.2", Model: "tis", Backend: "emulator"},
		CPU:      machine.CPU{Count: 8, Max: 16, Sockets: 2, Cores: 2, Threads: 2, Model: "Haswell"},
		Memory:   machine.Memory{Bytes: 1<<30 + 1, Max: 2 << 30},
		Features: machine.Features{ACPI: machine.On, APIC: machine.On},
		Clock:    "localtime",
		Boot:     []string{"disk", "network", "usb"},
		Kernel:   &machine.Kernel{Path: "/vmlinuz"},
		Controllers: []machine.Controller{
			{Bus: machine.SCSI, Model: "virtio-scsi"}, {Bus: machine.Virtio, Implied: true}, {Bus: machine.USB, Model: "xhci"}, {Bus: machine.USB, Index: 1, Model: "xhci"},
		},
		Drives: []machine.Drive{
			{Kind: machine.Disk, At: at(machine.Virtio, 0, 0), Media: machine.Media{Path: "a.qcow2", Format: "qcow2"}, Cache: "none", Discard: machine.On, Serial: "x", Boot: 1},
			{Kind: machine.Disk, At: at(machine.SCSI, 0, 0), Media: machine.Media{Path: "b.vmdk"}},
			{Kind: machine.Optical, At: at(machine.USB, 0, 0), ReadOnly: machine.On},
			{Kind: machine.Disk, At: at(machine.SCSI, 0, 200), Media: machine.Media{URL: "nbd://h/x"}},
			{Kind: machine.Optical, At: at(machine.SATA, 0, 0), Media: machine.Media{Path: "a.iso"}, Boot: 2},
		},
		NICs: []machine.NIC{
			{Slot: 0, Model: "virtio", MAC: "52:54:00:12:34:56", Kind: machine.Bridged, Network: "br0"},
			{Slot: 1, Model: "rtl8139", MAC: "00:50:56:01:02:03", Kind: machine.UserNet, Boot: 3},
			{Slot: 2, Model: "e1000", Kind: machine.Internal, Network: "lan"},
		},
		Videos:   []machine.Video{{Model: "qxl", Memory: 64 << 20, Heads: 2}, {Model: "virtio"}},
		Displays: []machine.Display{{Kind: "spice", Port: 5900}},
		Sounds:   []machine.Sound{{Model: "ich9"}},
		Serials:  []machine.Port{{Slot: 0, Kind: "pty"}, {Slot: 1, Kind: "tcp", Host: "::1", Service: "7", Server: machine.On}},
		Inputs:   []machine.Input{{Kind: "keyboard", Bus: "ps2"}, {Kind: "tablet", Bus: "usb"}},
		Others:   []machine.Other{{Kind: "rng", Name: "virtio"}},
	}
}

const kvmFile = `.encoding = "UTF-8"
config.version = "8"
virtualHW.version = "13"
pciBridge0.present = "TRUE"
pciBridge4.present = "TRUE"
pciBridge4.virtualDev = "pcieRootPort"
pciBridge4.functions = "8"
pciBridge5.present = "TRUE"
pciBridge5.virtualDev = "pcieRootPort"
pciBridge5.functions = "8"
pciBridge6.present = "TRUE"
pciBridge6.virtualDev = "pcieRootPort"
pciBridge6.functions = "8"
pciBridge7.present = "TRUE"
pciBridge7.virtualDev = "pcieRootPort"
pciBridge7.functions = "8"
vmci0.present = "TRUE"
displayName = "guest |221|22"
uuid.bios = "56 4d ad 58 06 29 d3 e6-ec fe 8f f8 39 c5 e3 5d"
guestOS = "other-64"
firmware = "efi"
uefi.secureBoot.enabled = "TRUE"
managedvm.autoAddVTPM = "software"
numvcpus = "8"
cpuid.coresPerSocket = "4"
memsize = "1028"
usb_xhci.present = "TRUE"
scsi0.present = "TRUE"
scsi0.virtualDev = "lsilogic"
scsi0.sharedBus = "none"
sata0.present = "TRUE"
scsi0:1.present = "TRUE"
scsi0:1.deviceType = "scsi-hardDisk"
scsi0:1.fileName = "a.qcow2"
scsi0:0.present = "TRUE"
scsi0:0.deviceType = "scsi-hardDisk"
scsi0:0.fileName = "b.vmdk"
ide1:0.present = "TRUE"
ide1:0.deviceType = "cdrom-image"
ide1:0.fileName = "emptyBackingString"
ide1:0.startConnected = "FALSE"
scsi0:2.present = "TRUE"
scsi0:2.deviceType = "scsi-hardDisk"
scsi0:2.fileName = ""
sata0:0.present = "TRUE"
sata0:0.deviceType = "cdrom-image"
sata0:0.fileName = "a.iso"
sata0:0.clientDevice = "FALSE"
floppy0.present = "FALSE"
ethernet0.present = "TRUE"
ethernet0.virtualDev = "vmxnet3"
ethernet0.connectionType = "bridged"
ethernet0.addressType = "static"
ethernet0.address = "52:54:00:12:34:56"
ethernet0.checkMACAddress = "FALSE"
ethernet1.present = "TRUE"
ethernet1.virtualDev = "e1000"
ethernet1.connectionType = "nat"
ethernet1.addressType = "static"
ethernet1.address = "00:50:56:01:02:03"
ethernet2.present = "TRUE"
ethernet2.virtualDev = "e1000"
ethernet2.connectionType = "pvn"
ethernet2.pvnID = "a6 8d 30 cc 84 8b 58 22-83 6d bc 79 63 8d e7 90"
ethernet2.addressType = "generated"
bios.bootOrder = "hdd,cdrom,ethernet1,ethernet0,ethernet2"
bios.hddOrder = "scsi0:1"
svga.present = "TRUE"
svga.vramSize = "67108864"
svga.numDisplays = "2"
svga.autodetect = "FALSE"
sound.present = "TRUE"
sound.virtualDev = "hdaudio"
sound.fileName = "-1"
sound.autodetect = "TRUE"
serial0.present = "TRUE"
serial0.fileType = "file"
serial0.fileName = "serial0.out"
serial1.present = "TRUE"
serial1.fileType = "network"
serial1.fileName = "tcp://[::1]:7"
serial1.network.endPoint = "server"
`

const kvmLosses = `guest: becomes other-64
chipset: q35 becomes VMware's 440BX
firmware: its file is left out: VMware brings its own
firmware: its variables are left out: /var/lib/libvirt/qemu/nvram/guest_VARS.fd is not VMware's
tpm: becomes 2.0
cpu: more than 8, up to 16: left out
cpu: threads become cores
cpu: model Haswell: left out, the guest sees the host's
memory: becomes 1028 MiB
memory: more than it starts with, up to 2147483648 bytes: left out
clock: localtime is left to the host
kernel: left out: VMware boots from disks
controller usb1: left out: there is one of a kind
controller scsi0: virtio-scsi becomes lsilogic
drive virtio0:0: becomes scsi0:1
drive virtio0:0: its image is qcow2, VMware opens vmdk alone
drive virtio0:0: cache none: left out
drive virtio0:0: discard: left out
drive virtio0:0: its serial number is left out
drive usb0:0: becomes ide1:0
drive scsi0:200: becomes scsi0:2
drive scsi0:200: its medium at nbd://h/x is left out
drive scsi0:200: its medium is not said
nic 0: virtio becomes vmxnet3
nic 0: bridged to br0: becomes the default bridge
nic 1: rtl8139 becomes e1000
nic 1: a network of its own becomes NAT for all machines
nic 2: network lan gets an identifier in place of its name
boot: usb: left out
video 0: qxl becomes vmvga
video 1: left out: there is one
display spice: left out
sound 0: ich9 becomes hdaudio
serial 0: pty becomes a file
input tablet: becomes VMware's own
rng virtio: left out`

// TestForeign: what becomes of a machine from another form, and what is said of it.
func TestForeign(t *testing.T) {
	out, losses := machinetest.Encode(t, vmx.Form{}, kvm(), machine.EncodeOptions{})
	if string(out) != kvmFile {
		t.Errorf("written:\n%s", out)
	}
	var list []string
	for _, l := range losses {
		list = append(list, l.String())
	}
	if got := strings.Join(list, "\n"); got != kvmLosses {
		t.Errorf("lost:\n%s", got)
	}
	machinetest.CheckRoundTrip(t, vmx.Form{}, out)

	// libvirt takes it but for the disk without a file.
	read := libvirt(t)
	m := kvm()
	m.Drives = slices.Delete(m.Drives, 3, 4)
	out, _ = machinetest.Encode(t, vmx.Form{}, m, machine.EncodeOptions{})
	// It does not know LAN segments, nor the bridge that goes without a name.
	out = []byte(strings.NewReplacer("a.qcow2", "a.vmdk", `"pvn"`, `"nat"`, `"bridged"`, `"nat"`).Replace(string(out)))
	name := filepath.Join(t.TempDir(), "kvm.vmx")
	if err := os.WriteFile(name, out, 0o600); err != nil {
		t.Fatal(err)
	}
	x, err := read(name)
	if err != nil {
		t.Fatal(err)
	}
	compare(t, facts(machinetest.Decode(t, vmx.Form{}, out), out), domain(t, x))
}

// TestVersion: the version of the hardware is that of the options, the machine's, or one that is widely known.
func TestVersion(t *testing.T) {
	esx, err := os.ReadFile("testdata/esx.vmx")
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		m       *machine.Machine
		version string
		want    string
	}{
		{&machine.Machine{}, "", "13"},
		{&machine.Machine{Version: "vmx-07"}, "", "7"},
		{&machine.Machine{Version: "vmx-07"}, "vmx-20", "20"},
		{&machine.Machine{Version: "pc-q35-7.2"}, "", "13"},
		{machinetest.Decode(t, vmx.Form{}, esx), "", "19"},
		{machinetest.Decode(t, vmx.Form{}, esx), "vmx-11", "11"},
		{&machine.Machine{}, "pc-q35-7.2", ""},
		{&machine.Machine{}, "vmx-0", ""},
		{&machine.Machine{}, "vmx-99999", ""},
		{machinetest.Decode(t, vmx.Form{}, esx), "19", ""},
	} {
		out, _, err := vmx.Form{}.Encode(c.m, machine.EncodeOptions{Version: c.version})
		if c.want == "" {
			if !errors.Is(err, machine.ErrUnsupported) || out != nil {
				t.Errorf("%q: %v, want ErrUnsupported", c.version, err)
			}
		} else if err != nil || !strings.Contains(string(out), "virtualHW.version = \""+c.want+"\"\n") {
			t.Errorf("%s and %q: %v\n%s", c.m.Version, c.version, err, out)
		}
		if c.want == "7" != strings.Contains(string(out), "pciBridge0") && c.want == "7" {
			t.Error("version 7 without PCI Express bridges")
		}
	}
	if out, _, _ := (vmx.Form{}).Encode(&machine.Machine{Version: "vmx-04"}, machine.EncodeOptions{}); strings.Contains(string(out), "pciBridge") {
		t.Error("version 4 with PCI Express bridges")
	}
}

// TestLimits: more than VMware takes goes elsewhere, and is left out when everything is full.
func TestLimits(t *testing.T) {
	m := &machine.Machine{}
	for i := range 70 {
		m.Drives = append(m.Drives, machine.Drive{Kind: machine.Disk, At: at(machine.Virtio, 0, i), Media: machine.Media{Path: fmt.Sprintf("%d.vmdk", i)}})
	}
	for i := range 6 {
		m.Drives = append(m.Drives, machine.Drive{Kind: machine.Optical, At: at(machine.IDE, i/4, i%4)})
	}
	m.Drives = append(m.Drives, machine.Drive{Kind: machine.Diskette, At: at(machine.Floppy, 0, 0)}, machine.Drive{Kind: machine.Diskette, At: at(machine.Floppy, 0, 1)},
		machine.Drive{Kind: machine.Diskette, At: at(machine.Floppy, 0, 2)})
	for i := range 12 {
		m.NICs = append(m.NICs, machine.NIC{Slot: i})
	}
	out, losses := machinetest.Encode(t, vmx.Form{}, m, machine.EncodeOptions{})
	got := machinetest.Decode(t, vmx.Form{}, out)
	count := map[string]int{}
	for _, d := range got.Drives {
		count[string(d.Kind)+" "+string(d.At.Bus)]++
	}
	if want := map[string]int{"disk scsi": 60, "disk sata": 10, "cdrom ide": 4, "cdrom sata": 2, "floppy fdc": 2}; fmt.Sprint(count) != fmt.Sprint(want) {
		t.Errorf("%v, want %v", count, want)
	}
	if len(got.NICs) != 10 {
		t.Errorf("%d adapters", len(got.NICs))
	}
	for _, want := range []string{"drive fdc0:2: left out: no place for it is free", "nic 10: left out: there are 10", "nic 11: left out: there are 10", "drive virtio0:69: becomes sata0:9"} {
		if !slices.ContainsFunc(losses, func(l machine.Loss) bool { return l.String() == want }) {
			t.Errorf("not said: %s", want)
		}
	}
	// All places of the source's own stay.
	for _, d := range []machine.Drive{
		{Kind: machine.Disk, At: at(machine.SCSI, 3, 15)}, {Kind: machine.Disk, At: at(machine.SATA, 3, 29)}, {Kind: machine.Disk, At: at(machine.NVMe, 3, 14)}, {Kind: machine.Disk, At: at(machine.IDE, 0, 3)},
	} {
		out, losses := machinetest.Encode(t, vmx.Form{}, &machine.Machine{Drives: []machine.Drive{d}}, machine.EncodeOptions{})
		if got := drive(machinetest.Decode(t, vmx.Form{}, out)); got.At != d.At {
			t.Errorf("%s becomes %s: %v", d.At, got.At, losses)
		}
	}
}

// TestWindows: Windows since Vista has no driver for the parallel LSI Logic.
func TestWindows(t *testing.T) {
	for word, want := range map[string]string{"windows9-64": "lsisas1068", "windows2019srvNext-64": "lsisas1068", "winxppro": "lsilogic", "debian12-64": "lsilogic"} {
		m := &machine.Machine{Guest: machine.Guest{VMware: word}, Drives: []machine.Drive{{Kind: machine.Disk, At: at(machine.Virtio, 0, 0), Media: machine.Media{Path: "a.vmdk"}}}}
		out, _ := machinetest.Encode(t, vmx.Form{}, m, machine.EncodeOptions{})
		if !strings.Contains(string(out), "scsi0.virtualDev = \""+want+"\"\n") {
			t.Errorf("%s:\n%s", word, out)
		}
	}
}

// TestInjection: no text becomes a line of its own.
func TestInjection(t *testing.T) {
	evil := "x\"\r\nscsi0.present = \"TRUE\"\n|22\x00\x7f\t\xff"
	m := &machine.Machine{
		Name: evil, Notes: evil, Guest: machine.Guest{VMware: evil, Text: evil}, Firmware: machine.Firmware{Type: "efi", Vars: machine.Media{Path: evil + ".nvram"}},
		Drives: []machine.Drive{{Kind: machine.Disk, At: at(machine.IDE, 0, 0), Media: machine.Media{Path: evil}}},
		NICs:   []machine.NIC{{Kind: machine.Named, Network: evil, MAC: evil}},
		Shares: []machine.Share{{Name: evil, Path: evil}}, Serials: []machine.Port{{Kind: "tcp", Host: evil, Service: evil}},
		Displays: []machine.Display{{Kind: "vnc", Listen: evil}},
	}
	out, _ := machinetest.Encode(t, vmx.Form{}, m, machine.EncodeOptions{})
	got := machinetest.Decode(t, vmx.Form{}, out)
	if c := got.Controller(machine.SCSI, 0); c != nil {
		t.Errorf("a controller came out of a name:\n%s", out)
	}
	if want := strings.ToValidUTF8(evil, "\uFFFD"); got.Name != want || got.Shares[0].Path != want {
		t.Errorf("%q, want %q", got.Name, want)
	}
}
