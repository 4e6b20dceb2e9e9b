// Package vdi reads, checks and writes VirtualBox disk images.
//
// Source: VirtualBox, src/VBox/Storage/VDICore.h and VDI.cpp (header versions
// 0.2 and 1.1), and QEMU, block/vdi.c. A text and a signature, a header, a map
// of 32-bit block numbers, then blocks of equal size at
// offData + n*(extra+blockSize), where the extra bytes precede the data. The
// map's two highest values mean a block that is not stored: free, which reads
// as the parent, or as zero where there is none, and zero.
//
// Covered: header version 1.1 with and without the geometry at its end, and
// version 0.2, of before VirtualBox 1.1; dynamic, fixed, undo and differencing
// images; blocks of any power of two; extra bytes. Written: version 1.1 in
// VirtualBox's own layout, dynamic, fixed and differencing. Refused: other
// versions and types.
//
// A child names its parent by two UUIDs: the one that the parent was created
// with, and the one that it got when it was last written to. The form of
// formats.Image.ID and formats.ParentRef.ID is both in their usual text form,
// with a slash between: "create/modify". There are no names of files.
//
// Security: sizes are checked against each other and against the file. The map
// is read in pages, and each entry is checked against the file before it is
// followed; blocks cannot lie in the header or in the map. Text of the header
// is stripped of what is not printable. The parent is named by UUID only, so
// nothing here can point out of the VM directory.
//
//	m, err := vdi.Format{}.Open(src, formats.OpenOptions{})
//	...
//	d, err := formats.NewDisk(m) // and its parents, where m.Parent is not nil
package vdi
