package machine

import (
	"errors"
	"fmt"
)

// MaxConfig is the largest configuration that is read, in bytes.
const MaxConfig = 8 << 20

// The reasons why a configuration cannot be read or written. Test with errors.Is.
var (
	// ErrSyntax: it is not of the form, or contradicts it.
	ErrSyntax = errors.New("invalid configuration")
	// ErrUnsupported: valid or possibly valid, but not known to this reader or writer.
	ErrUnsupported = errors.New("not supported")
)

// A SyntaxError says what is wrong with a configuration, and where.
type SyntaxError struct {
	Form string // "vmx"
	Line int    // from 1; 0: not known
	What string // the setting or element at fault: "memsize"
	Got  string // what is wrong with it: "\"lots\" is no number"
	Err  error  // ErrSyntax, ErrUnsupported, or the error of a parser
}

// Error gives the form "vmx: line 12: memsize: \"lots\" is no number: invalid configuration".
func (e *SyntaxError) Error() string {
	s := e.Form + ": "
	if e.Line > 0 {
		s += fmt.Sprintf("line %d: ", e.Line)
	}
	for _, part := range []string{e.What, e.Got} {
		if part != "" {
			s += part + ": "
		}
	}
	return s + e.Err.Error()
}

// Unwrap returns Err.
func (e *SyntaxError) Unwrap() error { return e.Err }

// A Machine is a virtual machine's hardware and what its configuration says about it. Lists are in the source's order.
type Machine struct {
	Name string `json:"name,omitempty"`
	// Notes are free text for people, lines separated by \n.
	Notes string `json:"notes,omitempty"`
	// UUID is what the guest sees in its SMBIOS, as 8-4-4-4-12 lower-case digits.
	UUID string `json:"uuid,omitempty"`
	// InstanceUUID is what the management knows the machine by, where that is another one (VMware's vc.uuid).
	InstanceUUID string `json:"instance_uuid,omitempty"`
	// GenerationID is the identifier that changes when the machine is rolled back or cloned, in the form of UUID.
	GenerationID string `json:"generation_id,omitempty"`
	Guest        Guest  `json:"guest,omitzero"`
	// Platform is for whom the configuration was written: vmware, virtualbox, kvm, qemu, xen, hyperv.
	Platform string `json:"platform,omitempty"`
	// Version is that of the virtual hardware in the platform's words: vmx-19, pc-q35-7.2, xenfv.
	Version string `json:"version,omitempty"`
	// Arch is the processor's architecture in QEMU's words: x86_64, i686, aarch64.
	Arch string `json:"arch,omitempty"`
	// Chipset is i440fx, q35 or virt.
	Chipset string `json:"chipset,omitempty"`
	// Virtualization is hvm, pv or pvh (Xen's words). Empty: hvm, or not said.
	Virtualization string   `json:"virtualization,omitempty"`
	Firmware       Firmware `json:"firmware,omitzero"`
	TPM            *TPM     `json:"tpm,omitempty"`
	CPU            CPU      `json:"cpu,omitzero"`
	Memory         Memory   `json:"memory,omitzero"`
	Features       Features `json:"features,omitzero"`
	// Clock is what the guest finds in its real time clock: utc or localtime.
	Clock string `json:"clock,omitempty"`
	// Boot is the order in which kinds of devices are tried: disk, cdrom, network, floppy. Devices may have a place of
	// their own (Drive.Boot, NIC.Boot), which goes first.
	Boot []string `json:"boot,omitempty"`
	// Kernel is what the hypervisor boots instead of what is on the disks.
	Kernel      *Kernel      `json:"kernel,omitempty"`
	Controllers []Controller `json:"controllers,omitempty"`
	Drives      []Drive      `json:"drives,omitempty"`
	NICs        []NIC        `json:"nics,omitempty"`
	Videos      []Video      `json:"videos,omitempty"`
	Displays    []Display    `json:"displays,omitempty"`
	Sounds      []Sound      `json:"sounds,omitempty"`
	Serials     []Port       `json:"serials,omitempty"`
	Parallels   []Port       `json:"parallels,omitempty"`
	Inputs      []Input      `json:"inputs,omitempty"`
	Shares      []Share      `json:"shares,omitempty"`
	// Others are devices that have no words of their own here: they are named so that their loss is noticed.
	Others []Other `json:"others,omitempty"`
	Origin Origin  `json:"-"`
}

// An Origin is the part of a configuration from which a part of a Machine was made. Only the package of that form looks
// into it. It must not be changed once it is in a Machine, because copies share it.
type Origin interface {
	// Form is the Name of the Config.
	Form() string
}

// A Switch is a setting that is on, off, or not said.
type Switch uint8

// The values of a Switch.
const (
	Unsaid Switch = iota
	On
	Off
)

// Is returns On or Off.
func Is(on bool) Switch {
	if on {
		return On
	}
	return Off
}

// String returns on, off, or nothing.
func (s Switch) String() string { return [...]string{"", "on", "off"}[s%3] }

// MarshalText returns String.
func (s Switch) MarshalText() ([]byte, error) { return []byte(s.String()), nil }

// Firmware is what starts the guest.
type Firmware struct {
	// Type is bios or efi.
	Type       string `json:"type,omitempty"`
	SecureBoot Switch `json:"secure_boot,omitzero"`
	// Loader is the file of the firmware's code, where the source names one: mostly one of the host's.
	Loader string `json:"loader,omitempty"`
	// Vars is where the firmware keeps its variables (VMware's and VirtualBox's .nvram, OVMF's variables).
	Vars Media `json:"vars,omitzero"`
	// Template is the file that Vars is made of when it is not there: one of the host's.
	Template string `json:"template,omitempty"`
}

// TPM is a trusted platform module. Its state is a file of the machine or of the host, and never in a configuration.
type TPM struct {
	Version string `json:"version,omitempty"` // 1.2 or 2.0
	Model   string `json:"model,omitempty"`   // tis, crb, spapr
	Backend string `json:"backend,omitempty"` // emulator, passthrough, external
	Origin  Origin `json:"-"`
}

// CPU is the processors.
type CPU struct {
	// Count is the number of virtual processors that the machine starts with, Max the number up to which more can be
	// added while it runs; 0: not said.
	Count int `json:"count,omitempty"`
	Max   int `json:"max,omitempty"`
	// Sockets, Cores of each socket and Threads of each core are the topology; 0: not said.
	Sockets int    `json:"sockets,omitempty"`
	Cores   int    `json:"cores,omitempty"`
	Threads int    `json:"threads,omitempty"`
	HotAdd  Switch `json:"hot_add,omitzero"`
	// Model is libvirt's name of a processor, or host-passthrough, host-model.
	Model string `json:"model,omitempty"`
	// Nested is whether the guest can be a hypervisor.
	Nested Switch `json:"nested,omitzero"`
	// Affinity, Reservation and the like stay in the Origin of the Machine.
}

// Memory is the guest's, in bytes; 0: not said.
type Memory struct {
	Bytes  int64  `json:"bytes,omitempty"`
	Max    int64  `json:"max,omitempty"`
	HotAdd Switch `json:"hot_add,omitzero"`
}

// Features are what the chipset has.
type Features struct {
	ACPI Switch `json:"acpi,omitzero"`
	APIC Switch `json:"apic,omitzero"`
	PAE  Switch `json:"pae,omitzero"`
	HPET Switch `json:"hpet,omitzero"`
}

// Kernel is what is booted directly. The files are mostly the host's.
type Kernel struct {
	Path   string `json:"path,omitempty"`
	Initrd string `json:"initrd,omitempty"`
	Args   string `json:"args,omitempty"`
}

// A Bus is that by which drives and others are attached.
type Bus string

// The buses. A drive on Virtio (virtio-blk), Xen (vbd) and Floppy has no controller that could be chosen; one is listed
// nevertheless, so that every address has one.
const (
	IDE    Bus = "ide" // Unit is 2*channel + device: 0 to 3
	SCSI   Bus = "scsi"
	SATA   Bus = "sata"
	NVMe   Bus = "nvme"
	USB    Bus = "usb"
	Virtio Bus = "virtio"
	Xen    Bus = "xen"
	Floppy Bus = "fdc"
	SD     Bus = "sd"
)

// An Address is a place on a controller.
type Address struct {
	Bus   Bus `json:"bus"`
	Index int `json:"index"` // which controller of that bus, from 0
	// Unit is the target (SCSI), port (SATA), namespace from 0 (NVMe), 2*channel + device (IDE), drive (floppy), or the
	// letter of the device, a being 0 (virtio, Xen).
	Unit int `json:"unit"`
}

// String gives the form "scsi0:3".
func (a Address) String() string { return fmt.Sprintf("%s%d:%d", a.Bus, a.Index, a.Unit) }

// A Controller is what drives are attached to.
type Controller struct {
	Bus   Bus `json:"bus"`
	Index int `json:"index"`
	// Model in QEMU's and libvirt's words. SCSI: buslogic, lsilogic, lsisas1068, lsisas1078, vmpvscsi, virtio-scsi. SATA:
	// ahci. IDE: piix3, piix4, ich6. USB: uhci, ohci, ehci, xhci. Empty: not said.
	Model string `json:"model,omitempty"`
	// Ports is how many drives it takes; 0: not said.
	Ports int `json:"ports,omitempty"`
	// Implied: no source says that it is there but the address of a drive.
	Implied bool   `json:"implied,omitempty"`
	Origin  Origin `json:"-"`
}

// A DriveKind is what a drive is to the guest.
type DriveKind string

// The kinds of drives. LUN is a device of the host that is passed through with its commands.
const (
	Disk     DriveKind = "disk"
	Optical  DriveKind = "cdrom"
	Diskette DriveKind = "floppy"
	LUN      DriveKind = "lun"
)

// A Drive is a disk, or a drive with or without a medium.
type Drive struct {
	Kind DriveKind `json:"kind"`
	At   Address   `json:"at"`
	// Media is its content. The zero value: nothing is inserted.
	Media Media `json:"media,omitzero"`
	// Connected is whether the medium is there when the machine starts.
	Connected Switch `json:"connected,omitzero"`
	ReadOnly  Switch `json:"read_only,omitzero"`
	// Removable disks can be taken out while the machine runs; Shared ones belong to several machines; what is written
	// to Transient ones is discarded when the machine stops; Independent ones are left out of snapshots.
	Removable   Switch `json:"removable,omitzero"`
	Shared      Switch `json:"shared,omitzero"`
	Transient   Switch `json:"transient,omitzero"`
	Independent Switch `json:"independent,omitzero"`
	// SSD is whether the guest is told that it does not rotate; Discard whether it may free blocks.
	SSD     Switch `json:"ssd,omitzero"`
	Discard Switch `json:"discard,omitzero"`
	// Cache is QEMU's word: none, writeback, writethrough, directsync, unsafe.
	Cache string `json:"cache,omitempty"`
	// Serial is the serial number that the guest sees.
	Serial string `json:"serial,omitempty"`
	// Boot is the drive's place in the boot order, from 1; 0: none of its own.
	Boot   int    `json:"boot,omitempty"`
	Origin Origin `json:"-"`
}

// Media is where the content of a drive, or of a store of variables, is.
type Media struct {
	// Path is a file as the source names it, with slashes: relative to the configuration, or absolute on the source's
	// host. It is untrusted.
	Path string `json:"path,omitempty"`
	// Host is a device of the host that is used instead: /dev/cdrom, a drive letter; "auto" if it is not said which.
	Host string `json:"host,omitempty"`
	// URL is a medium that is reached over a network: nbd://, rbd:, iscsi://.
	URL string `json:"url,omitempty"`
	// Format is qemu's name of the image's format; empty: not said.
	Format string `json:"format,omitempty"`
	// UUID is by what the source refers to the image, in the form of Machine.UUID.
	UUID string `json:"uuid,omitempty"`
	// Capacity is the size that the guest sees, in bytes; 0: not said. Populated is how much of that the source says is
	// in use.
	Capacity  int64 `json:"capacity,omitempty"`
	Populated int64 `json:"populated,omitempty"`
}

// NetKind is what a network adapter is attached to.
type NetKind string

// The kinds of networks.
const (
	Bridged  NetKind = "bridged"  // Network is a bridge or an adapter of the host
	NAT      NetKind = "nat"      // the hypervisor's own, for all machines
	UserNet  NetKind = "user"     // NAT for this machine alone (slirp, passt)
	HostOnly NetKind = "hostonly" // reaches the host alone
	Internal NetKind = "internal" // machines alone; Network is its name
	Named    NetKind = "network"  // Network is the name that the management knows it by
	NoNet    NetKind = "none"     // a cable that leads nowhere
)

// A NIC is a network adapter.
type NIC struct {
	// Slot is its number in the source where there are gaps; else its index.
	Slot int `json:"slot"`
	// Model: e1000, e1000e, vmxnet, vmxnet2, vmxnet3, pcnet, rtl8139, ne2k_pci, virtio, netfront. VirtualBox's other Intel
	// cards are e1000-82543gc and e1000-82545em. Empty: not said.
	Model string `json:"model,omitempty"`
	// MAC as six pairs of lower-case digits with colons. Generated: the source made it of something else, such as the
	// machine's UUID, and may make another.
	MAC       string  `json:"mac,omitempty"`
	Generated bool    `json:"generated,omitempty"`
	Kind      NetKind `json:"kind,omitempty"`
	Network   string  `json:"network,omitempty"`
	// Connected is whether the cable is plugged in when the machine starts.
	Connected Switch `json:"connected,omitzero"`
	// Boot is the adapter's place in the boot order, from 1; 0: none of its own.
	Boot   int    `json:"boot,omitempty"`
	Origin Origin `json:"-"`
}

// A Video is a graphics adapter.
type Video struct {
	// Model: vga, cirrus, vmvga, qxl, virtio, bochs, vboxvga, vboxsvga, xen, none.
	Model string `json:"model,omitempty"`
	// Memory in bytes, and Heads, the number of screens; 0: not said.
	Memory  int64  `json:"memory,omitempty"`
	Heads   int    `json:"heads,omitempty"`
	Accel3D Switch `json:"accel_3d,omitzero"`
	Origin  Origin `json:"-"`
}

// A Display is how people see the screen. Passwords stay in the Origin.
type Display struct {
	Kind   string `json:"kind"` // vnc, spice, rdp, sdl, gtk
	Port   int    `json:"port,omitempty"`
	Listen string `json:"listen,omitempty"`
	Origin Origin `json:"-"`
}

// A Sound is a sound card.
type Sound struct {
	// Model: ac97, es1370, es1371, sb16, hda (ich6), ich9, usb, virtio.
	Model  string `json:"model,omitempty"`
	Origin Origin `json:"-"`
}

// A Port is a serial or a parallel one.
type Port struct {
	// Slot is the port's number from 0: COM1 is 0.
	Slot int `json:"slot"`
	// Kind: file, pipe, pty, tcp, udp, unix, device, stdio, vc, null.
	Kind string `json:"kind,omitempty"`
	// Path is the file, pipe, socket or device of the host.
	Path string `json:"path,omitempty"`
	// Host and Service are the address of tcp and udp; Server is whether the machine listens there. For pipes, too.
	Host    string `json:"host,omitempty"`
	Service string `json:"service,omitempty"`
	Server  Switch `json:"server,omitzero"`
	Telnet  Switch `json:"telnet,omitzero"`
	Origin  Origin `json:"-"`
}

// An Input is a keyboard, or something to point with.
type Input struct {
	Kind   string `json:"kind"`          // keyboard, mouse, tablet
	Bus    string `json:"bus,omitempty"` // ps2, usb, virtio, xen
	Origin Origin `json:"-"`
}

// A Share is a directory of the host that the guest sees.
type Share struct {
	Name     string `json:"name"`
	Path     string `json:"path"`
	ReadOnly Switch `json:"read_only,omitzero"`
	Origin   Origin `json:"-"`
}

// An Other is a device, or something like one, that this model only names.
type Other struct {
	// Kind: hostdev, watchdog, rng, vsock, balloon, panic, filesystem and the like; saved-state for the memory of a machine
	// that is suspended, and snapshot for each earlier state that the configuration keeps.
	Kind   string `json:"kind"`
	Name   string `json:"name,omitempty"` // what tells it from others
	Origin Origin `json:"-"`
}

// Controller returns the controller at an address, or nil.
func (m *Machine) Controller(b Bus, index int) *Controller {
	for i := range m.Controllers {
		if c := &m.Controllers[i]; c.Bus == b && c.Index == index {
			return c
		}
	}
	return nil
}

// DriveAt returns the drive at an address, or nil.
func (m *Machine) DriveAt(a Address) *Drive {
	for i := range m.Drives {
		if m.Drives[i].At == a {
			return &m.Drives[i]
		}
	}
	return nil
}

// Disks returns the drives of kind Disk.
func (m *Machine) Disks() []*Drive {
	var list []*Drive
	for i := range m.Drives {
		if m.Drives[i].Kind == Disk {
			list = append(list, &m.Drives[i])
		}
	}
	return list
}

// Free returns the first unit of a controller from unit on that no drive has. Unit 7 of SCSI controllers is their own.
func (m *Machine) Free(b Bus, index, unit int) Address {
	a := Address{b, index, unit}
	for (b == SCSI && a.Unit == 7) || m.DriveAt(a) != nil {
		a.Unit++
	}
	return a
}

// Complete adds, as Implied, the controllers that drives are attached to and that are not listed. It is an error that
// wraps ErrSyntax when two drives have one address, or two controllers one number. Decoders call it last.
func (m *Machine) Complete() error {
	type key struct {
		b Bus
		i int
	}
	seen := map[key]bool{}
	for _, c := range m.Controllers {
		k := key{c.Bus, c.Index}
		if seen[k] {
			return fmt.Errorf("two controllers are %s%d: %w", c.Bus, c.Index, ErrSyntax)
		}
		seen[k] = true
	}
	at := map[Address]bool{}
	for _, d := range m.Drives {
		if at[d.At] {
			return fmt.Errorf("two drives are at %s: %w", d.At, ErrSyntax)
		}
		at[d.At] = true
		if k := (key{d.At.Bus, d.At.Index}); !seen[k] {
			seen[k] = true
			m.Controllers = append(m.Controllers, Controller{Bus: d.At.Bus, Index: d.At.Index, Implied: true})
		}
	}
	return nil
}

// Clone returns a copy that shares nothing with m but Origins.
func (m *Machine) Clone() *Machine {
	c := *m
	if m.TPM != nil {
		t := *m.TPM
		c.TPM = &t
	}
	if m.Kernel != nil {
		k := *m.Kernel
		c.Kernel = &k
	}
	c.Boot = append([]string(nil), m.Boot...)
	c.Controllers = append([]Controller(nil), m.Controllers...)
	c.Drives = append([]Drive(nil), m.Drives...)
	c.NICs = append([]NIC(nil), m.NICs...)
	c.Videos = append([]Video(nil), m.Videos...)
	c.Displays = append([]Display(nil), m.Displays...)
	c.Sounds = append([]Sound(nil), m.Sounds...)
	c.Serials = append([]Port(nil), m.Serials...)
	c.Parallels = append([]Port(nil), m.Parallels...)
	c.Inputs = append([]Input(nil), m.Inputs...)
	c.Shares = append([]Share(nil), m.Shares...)
	c.Others = append([]Other(nil), m.Others...)
	return &c
}
