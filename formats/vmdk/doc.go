// Package vmdk recognises, reads, checks and writes VMware disks: hosted sparse
// extents (monolithicSparse, twoGbMaxExtentSparse, streamOptimized), ESX
// copy-on-write extents (vmfsSparse), space-efficient sparse extents (seSparse),
// and the text descriptors that name the extents of a disk, flat ones
// (monolithicFlat, twoGbMaxExtentFlat, vmfs) among them.
//
// Sources: VMware, "Virtual Disk Format 5.0"; for vmfsSparse version 1.1 of it;
// for seSparse QEMU, block/vmdk.c; for the dialects of descriptors VirtualBox,
// src/VBox/Storage/VMDK.cpp, and libyal, "VMware Virtual Disk (VMDK) format".
//
// Guest data of a hosted sparse extent lies in grains, which start at any
// sector: VMware puts them wherever its preallocated tables end. The header
// does not say where, so Probe looks at the first tables that hold grains.
//
// Covered: header versions 1 to 3, zeroed grains, grain directories at the
// start, in a footer, and the redundant one, which is used when the first is not
// in the file, and table by table when the first copy has an entry that cannot
// be; compressed grains with and without markers; links of a chain, by the CID of
// the parent. A sparse extent that is opened alone is the share of the disk that
// it is. Refused: other versions and compressions, grain tables of more than
// 16384 entries, compressed grains of more than 4 MiB, extents on devices,
// encrypted disks, and seSparse extents whose journal was not replayed.
//
// Security: directories and tables are read in pieces, which a cache of bounded
// size keeps, a descriptor is at most [MaxDescriptor] bytes, and no place in a
// file is used before it was compared with the file's size and with where its
// metadata are. A compressed grain decodes to a grain at most. Names in a
// descriptor are untrusted and returned as stored, to the caller's Find, too:
// they may be absolute or climb out of the VM directory.
//
//	d, err := vmdk.ReadDescriptor(src)
//	for _, e := range d.Extents {
//		name := d.DecodeName(e.File) // confine it before use
//	}
package vmdk
