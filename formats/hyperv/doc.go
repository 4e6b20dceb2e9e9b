// Package hyperv reads the XML in which Hyper-V kept a virtual machine's configuration up to Windows Server 2012 R2, and
// which boxes of Vagrant's for Hyper-V still have.
//
// # Sources
//
// Microsoft has documented the form nowhere. Its shape was learnt from what reads and writes it: Vagrant's
// import_vm_xml.ps1, the export of Packer's builder for Hyper-V, Image Factory's writer of boxes
// (imagefactory_plugins/HyperV), and the device types that dissect.target looks for in the later form, whose tree is the
// same.
//
// # The two dialects
//
// Hyper-V's own file, mostly in UTF-16: the root element configuration has an element for each device, named by its
// instance (_83f8638b-8dca-4152-9eda-2ca8b33039b4_), a manifest that gives each instance its type, and properties,
// settings and global_settings. Values are text, with their kind in the attribute type.
//
// Packer's, for hosts whose own files are binary (.vmcx): the same properties and settings; the controllers in
// vm-controllers, those for SCSI in an element with an attribute ChannelInstanceGuid; AltSwitchName, boot, notes and
// secure_boot_enabled right below the root. It numbers drives that are not disks, so that several can have one name: they
// follow each other.
//
// # What is read
//
// Name, notes, identity, generation (of which firmware follows: 1 is a BIOS, 2 is EFI), Secure Boot, processors, memory,
// boot order, drives at IDE, SCSI and floppy controllers, synthetic and legacy network adapters, serial ports that are
// connected, and, by name alone, dynamic memory, saved states, checkpoints, and devices of other types. Generation 1 has
// a floppy drive always: it is left out while it is empty.
//
// A synthetic adapter, netvsc, has no counterpart elsewhere: other forms make something else of it, and say so. A switch
// is a network, by its name where the file gives one, else by its identifier.
//
// Nothing is written in this form: Hyper-V imports it no longer. The binary form (.vmcx) is not read.
//
// # Security
//
// Configurations are untrusted. Size, depth and numbers are limited, entities are refused (see xmldoc), and names of files
// are returned as they stand, with slashes.
package hyperv
