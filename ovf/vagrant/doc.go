// Package vagrant reads and writes Vagrant boxes: a virtual machine as one hypervisor's files, with a metadata.json that
// says which, in a tar archive that is mostly compressed.
//
// # Sources
//
//   - Vagrant documentation, "Box File Format", "Box Info Format", and the pages of the providers VirtualBox, VMware and
//     Hyper-V about theirs.
//   - hashicorp/vagrant, lib/vagrant/box.rb and action/builtin/box_add.rb: what is demanded of a box.
//   - vagrant-libvirt, lib/vagrant-libvirt/action/handle_box_image.rb: box.img with format and virtual_size, or a list
//     of disks; tools/create_box.sh, which packs with tar -S.
//
// # Reading
//
// [Open] takes a box as files: the directory that Vagrant unpacks it to, or the FS of [OpenTar], which reads an archive
// at random access; [Decompress] unpacks one before that, if it is of gzip or zstd. Archives are ustar, GNU and pax, with sparse members of all
// four forms. A box without metadata.json is of VirtualBox if it holds an OVF, as Vagrant has it.
//
// The files of the machine are not read here: [Box.Config] names what another package decodes (an OVF, a VMX, Hyper-V's
// XML), and [Box.Disks] the disks. Providers whose files are understood: virtualbox, vmware_desktop (and its older names),
// hyperv, libvirt, qemu, utm; recognised, with disks alone: parallels; of others the disks are those that end like disks.
//
// The Vagrantfile in a box is a Ruby program. It is never run: assignments of plain values are read from its lines, which
// is how the providers' tools write them, and everything else is passed over.
//
// # Writing
//
// [Write] writes metadata.json, Vagrantfile, info.json and the machine's files front to back, in ustar, or GNU tar where
// a file has 8 GiB or more, and compresses with gzip in parallel. The same input gives the same bytes.
//
// # Security
//
// A box is untrusted. Names that are absolute or lead out of the box are refused, as are names that are there twice;
// links and devices are left out. metadata.json, info.json and Vagrantfile are limited to 1 MiB, the members of an
// archive in number, sparse maps in runs.
//
//	f, err := vagrant.OpenTar(src)
//	b, err := vagrant.Open(f)
//	fmt.Println(b.Provider, b.Config, b.Disks)
package vagrant
