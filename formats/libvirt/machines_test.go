package libvirt_test

import "tarvm/formats/machine"

// machines are what other forms say, one of each kind that a domain for QEMU has to find a way for.
func machines() map[string]*machine.Machine {
	disk := func(b machine.Bus, index, unit int) machine.Drive {
		return machine.Drive{Kind: machine.Disk, At: machine.Address{Bus: b, Index: index, Unit: unit}, Media: machine.Media{Path: "/images/d.qcow2", Format: "qcow2"}}
	}
	cd := func(b machine.Bus, index, unit int) machine.Drive {
		return machine.Drive{Kind: machine.Optical, At: machine.Address{Bus: b, Index: index, Unit: unit}}
	}
	scsi := func(index int, model string) machine.Controller {
		return machine.Controller{Bus: machine.SCSI, Index: index, Model: model}
	}
	base := func(platform string) machine.Machine {
		return machine.Machine{
			Name: "m", UUID: "564d1234-5678-9abc-def0-123456789abc", Platform: platform, Arch: "x86_64", CPU: machine.CPU{Count: 2},
			Memory: machine.Memory{Bytes: 1 << 30},
		}
	}
	list := map[string]*machine.Machine{}
	new := func(name, platform string, change func(m *machine.Machine)) {
		m := base(platform)
		change(&m)
		list[name] = &m
	}
	new("nothing", "", func(m *machine.Machine) { *m = machine.Machine{} })
	new("bios-lsi", "vmware", func(m *machine.Machine) {
		m.Name = "a / b"
		m.Notes = "line\nline <&>"
		m.CPU = machine.CPU{Count: 4, Cores: 2}
		m.Boot = []string{"cdrom", "disk", "network"}
		m.Controllers = []machine.Controller{scsi(0, "lsilogic"), {Bus: machine.IDE}, {Bus: machine.USB, Model: "uhci"}, {Bus: machine.USB, Index: 1, Model: "ehci"}, {Bus: machine.USB, Index: 2, Model: "xhci"}}
		for i := range 16 {
			if i != 7 {
				m.Drives = append(m.Drives, disk(machine.SCSI, 0, i))
			}
		}
		m.Drives = append(m.Drives, cd(machine.IDE, 0, 2), machine.Drive{Kind: machine.Diskette, At: machine.Address{Bus: machine.Floppy}, Media: machine.Media{Path: "/images/f.img"}, Connected: machine.Off})
		m.NICs = []machine.NIC{
			{Slot: 0, Model: "vmxnet", MAC: "00:0c:29:00:00:01", Kind: machine.NAT}, {Slot: 1, Model: "pcnet", MAC: "00:0c:29:00:00:02", Kind: machine.Bridged, Connected: machine.Off},
			{Slot: 2, Model: "e1000e", Kind: machine.HostOnly}, {Slot: 3, Model: "vmxnet3", Kind: machine.Named, Network: "VM Network"},
		}
		m.Videos = []machine.Video{{Model: "vmvga", Memory: 134217728, Heads: 4, Accel3D: machine.On}}
		m.Displays = []machine.Display{{Kind: "vnc", Port: 5999, Listen: "127.0.0.1"}}
		m.Sounds = []machine.Sound{{Model: "es1371"}, {}}
		m.Serials = []machine.Port{{Slot: 0, Kind: "file", Path: "/tmp/s.log"}, {Slot: 1, Kind: "pipe", Path: "/tmp/p"}, {Slot: 2, Kind: "tcp", Host: "127.0.0.1", Service: "4000", Server: machine.On, Telnet: machine.On}, {Slot: 3}}
		m.Parallels = []machine.Port{{Slot: 0, Kind: "file", Path: "/tmp/l"}}
		m.Inputs = []machine.Input{{Kind: "mouse", Bus: "ps2"}, {Kind: "tablet", Bus: "usb"}}
		m.Clock = "localtime"
	})
	new("buslogic", "vmware", func(m *machine.Machine) {
		m.Controllers = []machine.Controller{scsi(0, "buslogic"), scsi(1, "lsisas1068"), scsi(2, "vmpvscsi"), scsi(3, "virtio-scsi"), scsi(4, "lsisas1078")}
		m.Drives = []machine.Drive{disk(machine.SCSI, 0, 0), disk(machine.SCSI, 0, 12), disk(machine.SCSI, 1, 0), disk(machine.SCSI, 1, 6), disk(machine.SCSI, 1, 9), disk(machine.SCSI, 2, 15), disk(machine.SCSI, 3, 0), disk(machine.SCSI, 3, 9), disk(machine.SCSI, 4, 3), cd(machine.SCSI, 2, 4)}
	})
	new("efi-nvme", "vmware", func(m *machine.Machine) {
		m.Firmware = machine.Firmware{Type: "efi", SecureBoot: machine.On, Vars: machine.Media{Path: "/vm/m.nvram"}}
		m.TPM = &machine.TPM{Version: "2.0"}
		m.Controllers = []machine.Controller{{Bus: machine.NVMe}, {Bus: machine.SATA, Model: "ahci"}}
		d := disk(machine.NVMe, 0, 0)
		d.Boot, d.SSD = 1, machine.On
		m.Drives = []machine.Drive{d, disk(machine.NVMe, 0, 1), cd(machine.SATA, 0, 0), disk(machine.SATA, 0, 17), cd(machine.IDE, 0, 2)}
		m.NICs = []machine.NIC{{Model: "e1000-82545em", Kind: machine.UserNet}}
		m.Boot = []string{"disk", "network"}
		m.CPU = machine.CPU{Count: 2, Max: 4, HotAdd: machine.On, Nested: machine.On}
		m.Memory.Max, m.Memory.HotAdd = 4<<30, machine.On
		m.Videos = []machine.Video{{Model: "vboxsvga", Memory: 9 << 20}}
	})
	new("efi-ide", "virtualbox", func(m *machine.Machine) {
		m.Firmware = machine.Firmware{Type: "efi", SecureBoot: machine.Off}
		m.Drives = []machine.Drive{disk(machine.IDE, 0, 0), cd(machine.IDE, 0, 2), disk(machine.IDE, 1, 0)}
		m.Sounds = []machine.Sound{{Model: "hda"}}
		m.Videos = []machine.Video{{Model: "vboxvga", Memory: 16 << 20, Heads: 1}}
		m.NICs = []machine.NIC{{Model: "e1000-82543gc", Kind: machine.Internal, Network: "intnet"}, {Slot: 1, Model: "ne2k_pci", Kind: machine.NoNet}, {Slot: 2, Model: "virtio", Kind: machine.Bridged, Network: "eth0"}}
		m.Shares = []machine.Share{{Name: "s", Path: "/srv", ReadOnly: machine.On}}
		m.Displays = []machine.Display{{Kind: "rdp", Port: 3389}, {Kind: "vnc"}, {Kind: "spice"}}
		m.Features = machine.Features{ACPI: machine.On, APIC: machine.On, PAE: machine.On, HPET: machine.Off}
	})
	new("q35-ide", "virtualbox", func(m *machine.Machine) {
		m.Chipset = "q35"
		m.Controllers = []machine.Controller{{Bus: machine.IDE, Model: "piix4"}, {Bus: machine.SATA, Model: "ahci", Ports: 30}, {Bus: machine.USB, Model: "ohci"}}
		d := disk(machine.SATA, 0, 0)
		d.Discard, d.Cache, d.Serial, d.SSD, d.Shared = machine.On, "writeback", "VB12345678", machine.On, machine.On
		d.Media.Format = "raw"
		e := disk(machine.USB, 0, 0)
		e.Removable = machine.On
		m.Drives = []machine.Drive{d, disk(machine.IDE, 0, 0), cd(machine.IDE, 0, 2), cd(machine.IDE, 0, 3), e}
		m.Inputs = []machine.Input{{Kind: "tablet", Bus: "ps2"}, {Kind: "keyboard", Bus: "usb"}}
		m.Others = []machine.Other{{Kind: "balloon", Name: "virtio"}, {Kind: "rng", Name: "virtio"}, {Kind: "watchdog", Name: "i6300esb"}, {Kind: "panic", Name: "isa"}, {Kind: "channel", Name: "org.qemu.guest_agent.0"}, {Kind: "hostdev", Name: "pci"}}
		m.TPM = &machine.TPM{Version: "1.2", Model: "crb"}
	})
	new("xen-hvm", "xen", func(m *machine.Machine) {
		m.Drives = []machine.Drive{disk(machine.Xen, 0, 0), disk(machine.Xen, 0, 30), cd(machine.Xen, 0, 2)}
		m.NICs = []machine.NIC{{Model: "netfront", Kind: machine.Bridged, Network: "xenbr0"}}
		m.Videos = []machine.Video{{Model: "cirrus"}}
		m.Guest = machine.Guest{Osinfo: "http://debian.org/debian/12"}
	})
	new("xen-pv", "xen", func(m *machine.Machine) {
		m.Virtualization = "pv"
		m.Kernel = &machine.Kernel{Path: "/boot/vmlinuz", Initrd: "/boot/initrd", Args: "root=/dev/xvda"}
		m.Drives = []machine.Drive{disk(machine.Xen, 0, 0)}
		m.Drives[0].Media.Format = "raw"
		m.NICs = []machine.NIC{{Kind: machine.Bridged, Network: "xenbr0", MAC: "00:16:3e:00:00:01"}}
	})
	new("virtio", "kvm", func(m *machine.Machine) {
		m.Version, m.Chipset = "pc-q35-7.2", "q35"
		m.Features = machine.Features{ACPI: machine.On, APIC: machine.On}
		lun := machine.Drive{Kind: machine.LUN, At: machine.Address{Bus: machine.SCSI, Unit: 2}, Media: machine.Media{Host: "/dev/sdq"}}
		m.Controllers = []machine.Controller{scsi(0, "virtio-scsi")}
		m.Drives = []machine.Drive{disk(machine.Virtio, 0, 0), disk(machine.Virtio, 0, 27), lun}
		m.Drives[1].Transient, m.Drives[1].Independent, m.Drives[1].ReadOnly = machine.On, machine.On, machine.On
		m.NICs = []machine.NIC{{Model: "virtio", Kind: machine.Bridged, Network: "br0", Boot: 2}, {Slot: 1, Model: "e1000", Kind: machine.Named, Network: "lab"}}
		m.Videos = []machine.Video{{Model: "virtio", Heads: 2, Accel3D: machine.On}}
		m.Displays = []machine.Display{{Kind: "spice", Port: 5900}}
		m.CPU.Model = "host-passthrough"
	})
	new("aarch64", "kvm", func(m *machine.Machine) {
		m.Arch, m.Chipset = "aarch64", "virt"
		m.Firmware.Type = "efi"
		m.Drives = []machine.Drive{disk(machine.Virtio, 0, 0), cd(machine.IDE, 0, 0), {Kind: machine.Diskette, At: machine.Address{Bus: machine.Floppy}}}
		m.Videos = []machine.Video{{Model: "vga"}}
		m.Controllers = []machine.Controller{{Bus: machine.USB, Model: "xhci"}}
	})
	return list
}
