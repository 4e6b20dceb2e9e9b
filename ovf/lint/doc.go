// Package lint says of an OVF package what importers would make of it: which would refuse it, read it wrongly or complain,
// and why; and repairs what can be repaired without a look into the guest.
//
// The rules are data: see [Rules]. Each says what it stands on. "Tried" means that a package that differed from a good one
// in nothing else was given to that importer: VirtualBox 7.2.22 (VBoxManage import), virt-v2v 2.2 (-i ova) and govmomi's
// govc 0.18 with its simulator of vCenter. "Reported" names a thread in which users of the importer met it, on GitHub as
// repository#number or in a vendor's knowledge base. "Specification" is DMTF DSP0243 1.1.1 where nobody was seen to stumble.
//
// Not looked at: what is on the disks, versions of importers other than these, and what an importer asks its user (networks,
// licences), unless it fails without an answer.
//
// # Security
//
// Packages are untrusted. The envelope's size and depth are limited by package xmldoc, findings by their number. Of
// disks the headers and markers are read, one block at a time. Names and values from the package stand in findings
// quoted and cut.
package lint
