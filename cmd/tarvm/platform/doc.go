// Package platform finds how a virtual machine that lies in a directory is started, suspended, resumed and stopped by
// the hypervisor that is installed here, and does that.
//
// What is to be done is data first, a [Launch]: the programs in their order, with their arguments. It can be shown as a
// line for a shell, or run.
//
//	form     platform    programs                          suspended, the memory is in
//	vmx      VMware      vmrun, vmplayer (starts only)     the directory, as the product names it
//	vbox     VirtualBox  VBoxManage                        the directory, as the product names it
//	libvirt  libvirt     virsh                             NAME.sav in the directory
//	xl       Xen         xl                                NAME.sav in the directory
//	qemu     QEMU        the directory's script, by sh     the process, which is paused
//
// QEMU starts machines of the other forms, too, when it is asked for by name; it is never chosen for them by itself,
// because what its hardware is to the guest, and what it does to the disks, another platform may not take back.
//
// libvirt and Xen need absolute names of files. A directory that was moved or restored elsewhere is therefore started
// with the names that its files have now: not with the disks of the machine that it is a copy of.
//
// VirtualBox knows machines by their UUIDs and refuses to register two of one: a copy that it has from another
// directory is neither started in place of this one, nor replaced.
//
// # Security
//
// Names and identifiers in a configuration are untrusted: they are single arguments of programs, never parts of a
// command for a shell, and never taken for flags. What a machine may do to its host is its platform's matter; and the
// script of the form qemu is a program, which is run as it is.
package platform
