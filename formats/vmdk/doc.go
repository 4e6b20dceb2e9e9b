// Package vmdk recognises VMware disks: hosted sparse extents (monolithicSparse,
// twoGbMaxExtentSparse, streamOptimized), ESX copy-on-write extents (vmfsSparse),
// space-efficient sparse extents (seSparse), and the text descriptors that name
// the extents of a disk.
//
// Sources: VMware, "Virtual Disk Format 5.0"; for vmfsSparse version 1.1 of it;
// for seSparse QEMU, block/vmdk.c; for the dialects of descriptors VirtualBox,
// src/VBox/Storage/VMDK.cpp, and libyal, "VMware Virtual Disk (VMDK) format".
//
// Guest data of a hosted sparse extent lies in grains, which start at any
// sector: VMware puts them wherever its preallocated tables end. The header
// does not say where, so Probe looks at the first tables that hold grains.
//
// Covered: header versions 1 to 3, grain directories at the start, in a footer,
// and the redundant one when the first is out of the file. Flat extents have no
// magic; [Descriptor] names them. Refused: other versions and compressions.
//
// Security: directories and tables are read in pieces with a fixed budget, a
// descriptor is at most [MaxDescriptor] bytes. Names in a descriptor are
// untrusted and returned as stored: they may be absolute or climb out of the VM
// directory.
//
//	d, err := vmdk.ReadDescriptor(src)
//	for _, e := range d.Extents {
//		name := d.DecodeName(e.File) // confine it before use
//	}
package vmdk
