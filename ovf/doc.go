// Package ovf reads and writes the texts of OVF packages: envelopes (.ovf), manifests with the digests of the files (.mf),
// and certificates that sign these (.cert). Packages as a whole are those of package ova.
//
// Sources: DMTF DSP0243, Open Virtualization Format Specification, 1.1.1 and 2.1.1; its schemas DSP8023 1.1.1 and 2.0.1; the
// CIM schemas of the three kinds of settings data; DSP0004, annex C (units). For what is in no specification: what
// VirtualBox 7.2, virt-v2v 2.2 and govmomi read and write.
//
// # Reading
//
// Decode takes versions 0.9 to 2.1, in any encoding of package xmldoc: files, disks with parents, shared disks, networks,
// deployment options, nested collections with their startup order and allocations, systems with products, properties,
// licences, environment files, and texts in other languages. The hardware of each system becomes a machine.Machine, with
// the deployment option that is the default; Envelope.Machine gives it with another. VirtualBox's own settings
// inside of an envelope are read for what OVF cannot say (firmware, TPM, chipset, clock, boot order, graphics, numbers of
// ports, the host's networks), but not for directories, files and ports of the host.
//
// Packages in the wild break rules. What can be read is read, and what is wrong is listed in Envelope.Problems. A drive
// without AddressOnParent, or with one that is taken, gets the first free unit of its controller. A number, or units, that
// make no sense count as not said. Of items with one InstanceID all are taken.
//
// # Writing
//
// Encode writes 1.1, or 1.0 or 2.0, in one of the profiles: the fields of items in the order of the schemas, memory in
// byte * 2^20, capacities with units, a network for each adapter, two IDE controllers for the two channels, nothing of a
// vendor's that is required, and no BootOrderSection, with which vSphere forgets EFI. The machine's UUID is a setting of
// VMware's there (uuid.bios as ExtraConfig with the profile VMware, uuid as Config with Generic). With the profile
// VirtualBox there are the machine's settings as well, as package vbox writes them: VirtualBox goes by these.
//
// With the profile Keep, an envelope that was decoded comes back byte for byte if nothing in it was changed. If something
// was, the document stays as it was but for that: unknown sections, attributes, items of other deployment options, comments
// and order included. It is then written as UTF-8.
//
// Not written: 0.9, 2.1, boot order but for VirtualBox, and PlacementGroup, ScaleOut and BootDevice sections of 2.x, which are kept.
//
// # Security
//
// Envelopes and manifests are untrusted. Their size, depth and number of elements are limited, document types and entities
// refused, the items of a system bounded, chains of parents checked for loops. Names of files stand in a Machine as they
// are in the envelope: File.Name refuses those that lead out of the package, and Encode adds none of them.
package ovf
