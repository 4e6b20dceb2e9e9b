// Package libvirt reads and writes libvirt's domain XML, the form in which libvirt keeps machines of QEMU, Xen, VMware,
// VirtualBox, bhyve, Hyper-V and Parallels.
//
// Source: libvirt's "Domain XML format" (https://libvirt.org/formatdomain.html), its schemas/domain.rng, and for the
// addresses of disks that have none src/conf/domain_conf.c (virDomainDiskDefAssignAddress), version 9.0.
//
// # Read
//
// Domains of every driver but containers (lxc, openvz, uml, and those of type exe), which are ErrUnsupported.
// Identity, notes, libosinfo's name of the guest, processors, memory with every unit, firmware and its variables, TPM,
// boot order, kernel, clock, controllers for drives and USB, disks of every type, network adapters, screens, sound,
// serial and parallel ports, inputs, shares; every other device is named as an Other.
//
// Where a disk has no address it is the one that libvirt makes of the name of its target: four to an IDE controller, six
// to one of SATA, seven to one of SCSI (fifteen, without unit 7, for VMware), two to one for diskettes. The unit of a SCSI
// drive is its LUN where the target is 0, else its target; drives which that would put in one place get the next unit
// that is free. Units on virtio, Xen, USB and SD are the letters of the target's name.
//
// USB controllers that share a number (an EHCI and its companions) are one Controller. A console that is only another
// name for a serial port is none. What the graphics' passwords are stays in the document.
//
// # Written
//
// What was read from a domain is written into a copy of the document: only what was changed in the Machine changes there,
// and comments, order and all that is not known here stay. Elements that belong to a device go with it.
//
// Everything else becomes a domain for QEMU: of type qemu if that is the machine's Platform, else kvm; Xen's
// paravirtualized machines become domains of type xen. The chipset is the machine's; if it does not say: q35 for secure
// boot, for EFI without IDE drives, and for drives on SATA or NVMe alone, else i440fx. Firmware is chosen by libvirt
// (firmware='efi'), because a loader's path is one of the source's host. Drives that the chipset has no place for move,
// and a Loss says where. Taken where the form demands a value and the machine has none: the name "unnamed"; 1 GiB of
// memory (and a Loss); ACPI and APIC on, unless the source is one of QEMU's, where absence is off; the clock utc, where a
// timer is said; the network default;
// a pseudo-terminal behind a port; the sound card ich6; the watchdog's and the other models that libvirt documents as its
// defaults.
//
// Paths are written as they are. libvirt wants absolute ones: a Loss names those that are not.
//
// # Security
//
// Input is untrusted: its size, depth and the number of its devices are limited, document types are refused (see package
// xmldoc). No file that a domain names is opened. Names and paths come back as they stand. Writing never turns a network
// that reaches only the host, or only other machines, into one that reaches further.
package libvirt
