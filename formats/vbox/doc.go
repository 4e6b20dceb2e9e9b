// Package vbox reads and writes the settings files of VirtualBox machines, NAME.vbox, as machines.
//
// The form is described by VirtualBox's own reader and writer, src/VBox/Main/xml/Settings.cpp (MachineConfigFile), and by
// the lists of values in src/VBox/Main/xml/VirtualBox-settings.xsd. What they leave open was tried on VirtualBox 7.2.
//
// # Covered
//
// Settings of all versions from 1.0 to 1.20, in both namespaces: storage as HardDiskAttachments, DVDDrive and FloppyDrive
// (before 1.7 and 1.9), as a child of Machine (before 1.19) and of Hardware; processors, chipset and clock in Hardware
// (before 1.20) and in Platform; firmware's settings in BIOS and (1.20) in Firmware. Paths of images come from the
// machine's MediaRegistry, whose trees of differencing images are walked. Settings before 1.11 have none, because their
// images are in the host's VirtualBox.xml: a drive has then a Media.UUID and no Path.
//
// Refused are encrypted machines and versions above 1.20 (machine.ErrUnsupported), VirtualBox.xml itself, elements that
// are there twice where one is meant, images with one UUID, and drives at one address (machine.ErrSyntax).
//
// # What is read
//
// The form leaves out what has its default value, and defaults depend on the settings' version. Those of parts that each
// machine has are read as said: one processor, BIOS, PIIX3, local time, ACPI, no I/O APIC, no HPET, boot from floppy, CD
// and disk, VBoxVGA with 8 MiB, PS/2 mouse and keyboard. So are the place of an EFI's variables (NAME.nvram beside the
// settings, which is not there before the first start), a 64-bit processor, the model of a network adapter and its cable. Other flags that
// are left out are machine.Unsaid.
//
// A machine whose settings do not mention the first network adapter has one, with NAT: so VirtualBox takes it. UUID is
// that of the hardware (Hardware/@uuid); without one, the machine's own, else that is InstanceUUID. NAT is
// machine.UserNet, because each machine has one of its own, and NATNetwork is machine.NAT. The current state is read;
// each snapshot is one of Others, and so are redirected ports, a saved state, USB filters and devices of the host. What is taken from Others is taken from the
// settings, snapshots excepted.
// Adapters, ports, sound and a remote display that are disabled are kept but are not in the Machine. Whether Secure Boot
// is on is said by the file of variables alone.
//
// # What is written
//
// A machine that came from this form is written into its own document: version, unknown settings, comments, snapshots and
// white space stay. Settings before 1.11 keep their drives and controllers as they are; changes of these are losses.
//
// Any other machine becomes settings 1.19, which VirtualBox 7.0 and later read, or 1.20 (7.1) on ARM. What the form
// demands and a machine does not say:
//
//   - UUIDs of the machine and of its images are made of their names (RFC 9562, version 5). An image must bear the UUID
//     that is written here: VirtualBox compares, except with ISO and floppy images.
//   - Without a name: "machine". Without memory: 1024 MiB. A guest that
//     machine.Guest.InVirtualBox does not know: Other, or Other_64 and Other_arm64 by Arch.
//   - A network adapter without a model is an 82540EM (e1000); one without a kind of network is attached to NAT.
//   - An I/O APIC, a little-endian UUID and the folder for snapshots, as VBoxManage createvm has them.
//   - Image formats are taken from names where they are not said, else VDI. Sound is played, not recorded.
//
// VirtualBox has one controller of each kind (eight on ICH9), IDE with 4 devices, floppy 2, USB 8, SCSI 16, SATA 30, SAS
// and NVMe 255, virtio-scsi 256. Drives of controllers too many, and of buses that it lacks (virtio-blk, Xen, SD), move to
// free places, in the end to SATA. vmxnet adapters become e1000 because guests have that driver; pvscsi becomes LsiLogic.
// Machine.Version and EncodeOptions.Version are the hardware's version, 1 or 2. Each change is a machine.Loss.
//
// # Security
//
// Settings are untrusted: machine.MaxConfig bounds their size, package xmldoc their depth and counts; entities and
// document types are refused. Paths are returned as they stand, and nothing is opened.
package vbox
