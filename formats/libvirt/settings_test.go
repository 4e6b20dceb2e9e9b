package libvirt_test

import (
	"cmp"
	"os"
	"slices"
	"strings"
	"testing"

	"tarvm/formats/libvirt"
	"tarvm/formats/machine"
	"tarvm/formats/machine/machinetest"
)

func rich(t testing.TB) []byte {
	t.Helper()
	b, err := os.ReadFile("testdata/rich.xml")
	if err != nil {
		t.Fatal(err)
	}
	return append([]byte("<!-- ours -->\n"), b...)
}

const plain = `<domain type="kvm"><name>a</name><memory>1024</memory><os><type>hvm</type></os><devices><disk type="file"><target dev="hda"/></disk><interface type="network"><source network="n"/></interface></devices></domain>`

// changes are settings, each changed alone. What comes back must be what was set.
var changes = map[string]func(m *machine.Machine){
	"name":          func(m *machine.Machine) { m.Name = "other <name>" },
	"notes":         func(m *machine.Machine) { m.Notes = "a\nb\n\"c\" <d> & ü€😀" },
	"no notes":      func(m *machine.Machine) { m.Notes = "" },
	"uuid":          func(m *machine.Machine) { m.UUID = "00000000-0000-4000-8000-000000000001" },
	"genid":         func(m *machine.Machine) { m.GenerationID = "00000000-0000-4000-8000-000000000002" },
	"no genid":      func(m *machine.Machine) { m.GenerationID = "" },
	"osinfo":        func(m *machine.Machine) { m.Guest.Osinfo = "http://ubuntu.com/ubuntu/22.04" },
	"no osinfo":     func(m *machine.Machine) { m.Guest.Osinfo = "" },
	"platform":      func(m *machine.Machine) { m.Platform = "xen" },
	"version":       func(m *machine.Machine) { m.Version, m.Chipset = "pc-i440fx-7.2", "i440fx" },
	"chipset":       func(m *machine.Machine) { m.Version, m.Chipset = "pc", "i440fx" },
	"arch":          func(m *machine.Machine) { m.Arch = "i686" },
	"pv":            func(m *machine.Machine) { m.Virtualization = "pv" },
	"bios":          func(m *machine.Machine) { m.Firmware = machine.Firmware{Type: "bios"} },
	"efi":           func(m *machine.Machine) { m.Firmware.Type = "efi" },
	"no firmware":   func(m *machine.Machine) { m.Firmware = machine.Firmware{} },
	"secure boot":   func(m *machine.Machine) { m.Firmware.Type, m.Firmware.SecureBoot = "efi", machine.On },
	"insecure boot": func(m *machine.Machine) { m.Firmware.Type, m.Firmware.SecureBoot = "efi", machine.Off },
	"unsaid secure": func(m *machine.Machine) { m.Firmware.SecureBoot = machine.Unsaid },
	"loader":        func(m *machine.Machine) { m.Firmware.Type, m.Firmware.Loader = "efi", "/usr/share/OVMF/OVMF_CODE.fd" },
	"vars":          func(m *machine.Machine) { m.Firmware.Vars = machine.Media{Path: "/v.fd", Format: "qcow2"} },
	"vars device":   func(m *machine.Machine) { m.Firmware.Vars = machine.Media{Host: "/dev/vg/v"} },
	"vars url":      func(m *machine.Machine) { m.Firmware.Vars = machine.Media{URL: "nbd://h:1/v"} },
	"template":      func(m *machine.Machine) { m.Firmware.Template = "/t.fd" },
	"tpm 1.2":       func(m *machine.Machine) { m.TPM = &machine.TPM{Version: "1.2", Model: "tis", Backend: "emulator"} },
	"tpm device":    func(m *machine.Machine) { m.TPM = &machine.TPM{Model: "tis", Backend: "passthrough"} },
	"no tpm":        func(m *machine.Machine) { m.TPM = nil },
	"processors":    func(m *machine.Machine) { m.CPU = machine.CPU{Count: 6} },
	"more later":    func(m *machine.Machine) { m.CPU = machine.CPU{Count: 2, Max: 6, HotAdd: machine.On} },
	"topology":      func(m *machine.Machine) { m.CPU = machine.CPU{Count: 12, Sockets: 2, Cores: 3, Threads: 2} },
	"cpu model":     func(m *machine.Machine) { m.CPU.Model = "EPYC" },
	"host's cpu":    func(m *machine.Machine) { m.CPU.Model = "host-passthrough" },
	"nested":        func(m *machine.Machine) { m.CPU.Model, m.CPU.Nested = "EPYC", machine.On },
	"not nested":    func(m *machine.Machine) { m.CPU.Model, m.CPU.Nested = "EPYC", machine.Off },
	"nested unsaid": func(m *machine.Machine) { m.CPU.Nested = machine.Unsaid },
	"memory max":    func(m *machine.Machine) { m.Memory.Max, m.Memory.HotAdd = 8<<30, machine.On },
	"no memory max": func(m *machine.Machine) { m.Memory.Max, m.Memory.HotAdd = 0, machine.Unsaid },
	"features":      func(m *machine.Machine) { m.Features = machine.Features{ACPI: machine.On, HPET: machine.On} },
	"pae":           func(m *machine.Machine) { m.Features.PAE, m.Features.APIC = machine.On, machine.On },
	"no hpet":       func(m *machine.Machine) { m.Features.HPET = machine.Off },
	"unsaid hpet":   func(m *machine.Machine) { m.Features.HPET = machine.Unsaid },
	"utc":           func(m *machine.Machine) { m.Clock = "utc" },
	"localtime":     func(m *machine.Machine) { m.Clock = "localtime" },
	"no clock":      func(m *machine.Machine) { m.Clock = "" },
	"kernel":        func(m *machine.Machine) { m.Kernel = &machine.Kernel{Path: "/k", Initrd: "/i", Args: "a=b  c"} },
	"kernel alone":  func(m *machine.Machine) { m.Kernel = &machine.Kernel{Path: "/k"} },
	"boot of kinds": func(m *machine.Machine) { own(m); m.Boot = []string{"network", "disk", "cdrom", "floppy"} },
	"boot of drive": func(m *machine.Machine) { own(m); m.Boot = nil; m.Drives[0].Boot = 4 },
	"boot of nic":   func(m *machine.Machine) { own(m); m.Boot = nil; m.NICs[0].Boot = 1 },
	"no order":      func(m *machine.Machine) { own(m); m.Boot = nil },
	"no drives":     func(m *machine.Machine) { m.Drives = nil },
	"drive file":    func(m *machine.Machine) { m.Drives[0].Media = machine.Media{Path: "/x y.vmdk", Format: "vmdk"} },
	"drive raw":     func(m *machine.Machine) { m.Drives[0].Media = machine.Media{Path: "/x", Format: "raw"} },
	"drive ploop":   func(m *machine.Machine) { m.Drives[0].Media = machine.Media{Path: "/x", Format: "parallels"} },
	"drive device":  func(m *machine.Machine) { m.Drives[0].Media = machine.Media{Host: "/dev/sdz"} },
	"drive nbd":     func(m *machine.Machine) { m.Drives[0].Media = machine.Media{URL: "nbd://h:10809/e/x"} },
	"drive nbd unix": func(m *machine.Machine) {
		m.Drives[0].Media = machine.Media{URL: "nbd+unix:///e?socket=%2Frun%2Fn.sock"}
	},
	"drive https":  func(m *machine.Machine) { m.Drives[0].Media = machine.Media{URL: "https://h/p/a%20b.iso?x=1&y=2"} },
	"drive ipv6":   func(m *machine.Machine) { m.Drives[0].Media = machine.Media{URL: "iscsi://[fe80::1]:3260/iqn.x/1"} },
	"drive rbd":    func(m *machine.Machine) { m.Drives[0].Media = machine.Media{URL: "rbd:///pool/image"} },
	"drive volume": func(m *machine.Machine) { m.Drives[0].Media = machine.Media{URL: "volume://p%2F1/v"} },
	"drive nvme":   func(m *machine.Machine) { m.Drives[0].Media = machine.Media{URL: "nvme://0000:01:00.0/1"} },
	"drive vhost":  func(m *machine.Machine) { m.Drives[0].Media = machine.Media{URL: "vhost-user:/run/s"} },
	"drive vdpa":   func(m *machine.Machine) { m.Drives[0].Media = machine.Media{URL: "vhost-vdpa:/dev/vdpa0"} },
	"drive empty":  func(m *machine.Machine) { m.Drives[0].Media = machine.Media{} },
	"drive kind":   func(m *machine.Machine) { m.Drives[0].Kind = machine.Optical },
	"drive lun":    func(m *machine.Machine) { m.Drives[0].Kind = machine.LUN },
	"drive ide":    func(m *machine.Machine) { m.Drives[0].At = machine.Address{Bus: machine.IDE, Unit: 3}; complete(m) },
	"drive sata": func(m *machine.Machine) {
		m.Drives[0].At = machine.Address{Bus: machine.SATA, Index: 1, Unit: 5}
		complete(m)
	},
	"drive scsi": func(m *machine.Machine) {
		m.Drives[0].At = machine.Address{Bus: machine.SCSI, Index: 2, Unit: 12}
		complete(m)
	},
	"drive virtio": func(m *machine.Machine) { m.Drives[0].At = machine.Address{Bus: machine.Virtio, Unit: 30}; complete(m) },
	"drive usb":    func(m *machine.Machine) { m.Drives[0].At = machine.Address{Bus: machine.USB, Unit: 700}; complete(m) },
	"drive nvme bus": func(m *machine.Machine) {
		m.Drives[0].At = machine.Address{Bus: machine.NVMe, Index: 1, Unit: 2}
		complete(m)
	},
	"drive cached":   func(m *machine.Machine) { m.Drives[0].Cache = "directsync" },
	"not cached":     func(m *machine.Machine) { m.Drives[0].Cache = "" },
	"drive discards": func(m *machine.Machine) { m.Drives[0].Discard = machine.On },
	"keeps":          func(m *machine.Machine) { m.Drives[0].Discard = machine.Off },
	"read-only":      func(m *machine.Machine) { m.Drives[0].ReadOnly = machine.On },
	"shared":         func(m *machine.Machine) { m.Drives[0].Shared = machine.On },
	"transient":      func(m *machine.Machine) { m.Drives[0].Transient = machine.On },
	"independent":    func(m *machine.Machine) { m.Drives[0].Independent = machine.On },
	"serial number":  func(m *machine.Machine) { m.Drives[0].Serial = "S-1.2" },
	"ssd": func(m *machine.Machine) {
		m.Drives[0].At = machine.Address{Bus: machine.SATA, Unit: 1}
		m.Drives[0].SSD = machine.On
		complete(m)
	},
	"tray": func(m *machine.Machine) {
		m.Drives[0].Kind, m.Drives[0].Connected = machine.Optical, machine.Off
	},
	"new drive": func(m *machine.Machine) {
		m.Drives = append(m.Drives, machine.Drive{Kind: machine.Disk, At: machine.Address{Bus: machine.Virtio, Unit: 99}, Media: machine.Media{Path: "/n"}})
		complete(m)
	},
	"new controller": func(m *machine.Machine) {
		m.Controllers = append(m.Controllers, machine.Controller{Bus: machine.SCSI, Index: 9, Model: "lsisas1068"}, machine.Controller{Bus: machine.USB, Index: 9, Model: "ehci"})
	},
	"nic nat":       func(m *machine.Machine) { m.NICs[0].Kind, m.NICs[0].Network = machine.NAT, "" },
	"nic bridge":    func(m *machine.Machine) { m.NICs[0].Kind, m.NICs[0].Network = machine.Bridged, "br7" },
	"nic network":   func(m *machine.Machine) { m.NICs[0].Kind, m.NICs[0].Network = machine.Named, "lab 2" },
	"nic user":      func(m *machine.Machine) { m.NICs[0].Kind, m.NICs[0].Network = machine.UserNet, "" },
	"nic model":     func(m *machine.Machine) { m.NICs[0].Model = "e1000e" },
	"nic no model":  func(m *machine.Machine) { m.NICs[0].Model = "" },
	"nic mac":       func(m *machine.Machine) { m.NICs[0].MAC = "02:00:00:00:00:01" },
	"nic no mac":    func(m *machine.Machine) { m.NICs[0].MAC = "" },
	"nic unplugged": func(m *machine.Machine) { m.NICs[0].Connected = machine.Off },
	"nic plugged":   func(m *machine.Machine) { m.NICs[0].Connected = machine.On },
	"no nics":       func(m *machine.Machine) { m.NICs = nil; backends(m) },
	"new nic": func(m *machine.Machine) {
		m.NICs = append(m.NICs, machine.NIC{Slot: len(m.NICs), Model: "virtio", Kind: machine.NAT})
	},
	"video": func(m *machine.Machine) {
		m.Videos = []machine.Video{{Model: "qxl", Memory: 64 << 20, Heads: 3}, {Model: "virtio", Accel3D: machine.On}}
	},
	"no video": func(m *machine.Machine) { m.Videos = nil },
	"displays": func(m *machine.Machine) {
		m.Displays = []machine.Display{{Kind: "vnc", Port: 5902, Listen: "::"}, {Kind: "spice"}, {Kind: "sdl"}}
	},
	"sounds": func(m *machine.Machine) {
		m.Sounds = []machine.Sound{{Model: "hda"}, {Model: "sb16"}, {Model: "es1370"}}
	},
	"ports": func(m *machine.Machine) {
		m.Serials = []machine.Port{
			{Slot: 0, Kind: "file", Path: "/f"}, {Slot: 1, Kind: "pipe", Path: "/p"}, {Slot: 2, Kind: "pty"}, {Slot: 3, Kind: "null"},
			{Slot: 4, Kind: "tcp", Host: "h", Service: "23", Server: machine.Off, Telnet: machine.On},
			{Slot: 5, Kind: "tcp", Service: "24", Server: machine.On, Telnet: machine.Off},
			{Slot: 6, Kind: "udp", Host: "h", Service: "25"}, {Slot: 7, Kind: "unix", Path: "/u", Server: machine.On}, {Slot: 8, Kind: "device", Path: "/dev/ttyS0"},
			{Slot: 9, Kind: "stdio"}, {Slot: 10, Kind: "vc"},
		}
		m.Parallels = []machine.Port{{Slot: 0, Kind: "device", Path: "/dev/parport0"}}
	},
	"port changed": func(m *machine.Machine) {
		if len(m.Serials) > 0 {
			m.Serials[0] = machine.Port{Slot: 0, Kind: "file", Path: "/f", Origin: m.Serials[0].Origin}
		}
	},
	"no ports": func(m *machine.Machine) { m.Serials, m.Parallels = nil, nil },
	"inputs": func(m *machine.Machine) {
		m.Inputs = []machine.Input{{Kind: "mouse", Bus: "usb"}, {Kind: "keyboard", Bus: "virtio"}, {Kind: "tablet"}}
	},
	"no others": func(m *machine.Machine) {
		m.Others = slices.DeleteFunc(m.Others, func(o machine.Other) bool { return o.Kind != "network backend" })
	},
}

func own(m *machine.Machine) {
	for i := range m.Drives {
		m.Drives[i].Boot = 0
	}
	for i := range m.NICs {
		m.NICs[i].Boot = 0
	}
}

func complete(m *machine.Machine) {
	if err := m.Complete(); err != nil {
		panic(err)
	}
	// Implied ones that nothing is attached to any more are in no document.
	used := map[machine.Address]bool{}
	for _, d := range m.Drives {
		used[machine.Address{Bus: d.At.Bus, Index: d.At.Index}] = true
	}
	kept := m.Controllers[:0]
	for _, c := range m.Controllers {
		if !c.Implied || used[machine.Address{Bus: c.Bus, Index: c.Index}] {
			kept = append(kept, c)
		}
	}
	m.Controllers = kept
	slices.SortStableFunc(m.Controllers, func(a, b machine.Controller) int {
		return cmp.Or(cmp.Compare(a.Bus, b.Bus), cmp.Compare(a.Index, b.Index))
	})
}

// backends drops the Others that name what an adapter is attached to.
func backends(m *machine.Machine) {
	kept := m.Others[:0]
	for _, o := range m.Others {
		if o.Kind != "network backend" {
			kept = append(kept, o)
		}
	}
	m.Others = kept
}

// TestSettings changes one setting of a domain, in one that has everything and in one that has nothing: the domain that is
// written must have the setting, nothing else may differ, and what is not known must still be there.
func TestSettings(t *testing.T) {
	for base, text := range map[string][]byte{"rich": rich(t), "plain": []byte(plain)} {
		for name, change := range changes {
			t.Run(base+"/"+name, func(t *testing.T) {
				m := decode(t, text)
				want := m.Clone()
				change(want)
				out, losses := machinetest.Encode(t, libvirt.Form{}, want, machine.EncodeOptions{})
				for _, l := range losses {
					t.Errorf("lost: %s", l)
				}
				got := decode(t, out)
				for _, m := range []*machine.Machine{got, want} { // implied ones are in the order of the drives
					complete(m)
				}
				if base == "plain" && want.Features.HPET != machine.Unsaid {
					want.Clock = "utc" // a timer is in a clock, and that has to say
				}
				for _, d := range machine.Difference(want, got) {
					t.Errorf("%s\n%s", d, out)
				}
				if base == "plain" {
					return
				}
				for _, kept := range []string{
					"<!-- ours -->", "<title>All that it has</title>", "<app:x ", "<sysinfo ", "<hyperv ", "<seclabel ", "<on_crash>", "<pm>", "<emulator>",
					`type="virtio-serial"`,
				} {
					if !strings.Contains(string(out), kept) {
						t.Errorf("%s is gone:\n%s", kept, out)
					}
				}
				if extra := len(strings.Split(string(out), "\n")) - len(strings.Split(string(text), "\n")); extra > 60 {
					t.Errorf("%d lines more", extra)
				}
			})
		}
	}
}

// TestUntouched: a change leaves every line as it was but those of the element.
func TestUntouched(t *testing.T) {
	text := strings.ReplaceAll(string(rich(t)), "'", `"`)
	m := decode(t, []byte(text))
	m.Drives[0].Media.Path = "/elsewhere"
	m.NICs = m.NICs[1:]
	m.NICs[0].MAC = "02:00:00:00:00:09"
	m.Drives = append(m.Drives, machine.Drive{Kind: machine.Disk, At: machine.Address{Bus: machine.Virtio, Unit: 3}, Media: machine.Media{Path: "/new"}})
	out, _ := machinetest.Encode(t, libvirt.Form{}, m, machine.EncodeOptions{})
	gone, came := lines(text, string(out)), lines(string(out), text)
	want := []string{"    <disk type=\"file\" device=\"disk\"><driver", "    <interface type=\"network\"><mac address=\"52:54:00:AA:bb:01\"", "    <interface type=\"bridge\"><mac"}
	if len(gone) != len(want) {
		t.Errorf("%d lines are gone: %q", len(gone), gone)
	}
	for i, w := range want {
		if i < len(gone) && !strings.HasPrefix(gone[i], w) {
			t.Errorf("gone: %s", gone[i])
		}
	}
	if all := strings.Join(came, "\n"); !strings.Contains(all, `<source file="/elsewhere"/>`) || !strings.Contains(all, "\n    <disk ") || !strings.Contains(all, `<target dev="vdd" bus="virtio"/>`) || len(came) > 7 {
		t.Errorf("new: %s", all)
	}
}

// lines returns the lines of a that are not in b.
func lines(a, b string) []string {
	in := map[string]bool{}
	for _, l := range strings.Split(b, "\n") {
		in[l] = true
	}
	var list []string
	for _, l := range strings.Split(a, "\n") {
		if !in[l] {
			list = append(list, l)
		}
	}
	return list
}
