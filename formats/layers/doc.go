// Package layers opens disks with all that they build on: the files that a
// descriptor names, and the chain of parents. On what it opened it compares,
// describes and identifies disks.
//
// # Where names lead
//
// Names that images hold are untrusted. A [Dir] looks for them in one tree, an
// fs.FS: the VM's directory on disk (of an os.Root, so that links do not lead out
// of it), or that of an entry in a chain of archives. A name is tried as it
// stands, relative to the image that holds it; without the path of the tree, if
// it is absolute and begins with that; and as a base name beside the image. Of
// names from other systems the drive is dropped, and backslashes are taken for
// slashes.
//
// A parent must have the format that the image records, and the ID (VMDK's CID,
// the UUIDs of VDI, VHD and VHDX) if it records one. If no name leads to such a
// file, all files of the tree are asked for their ID: VDI records no names, and
// files get renamed.
//
// # Formats
//
// The format of the first image is told by its content, or by the caller. That
// of a parent is what the image records; one that is not recorded (an old qcow2)
// is an error until the caller names it, since a raw parent's content belongs to
// its guest, who could make it look like any other format.
//
// # The disk id
//
// [ID] is a digest of what the guest sees: the same for a raw file, a VMDK with
// its snapshots, a qcow2 of any cluster size. See there for its definition.
//
//	d := layers.NewDir(root.FS(), root.Name())
//	defer d.Close()
//	disk, err := layers.Open(d, "vm-000002.vmdk", layers.Options{Formats: all.Disks()})
package layers
