// Package vdi recognises VirtualBox disk images.
//
// Source: VirtualBox, src/VBox/Storage/VDICore.h and VDI.cpp (header version
// 1.1). A text and a signature, a header, a table of 32-bit block numbers, then
// blocks of equal size at offData + n*(extra+blockSize), where the extra bytes
// precede the data.
//
// Covered: header version 1.1; dynamic, fixed, undo and differencing images.
// Refused: header version 0 (before VirtualBox 1.1).
//
// Security: sizes are checked against each other and against the file; the
// block table is not read. The parent is named by UUID only, so nothing here
// can point out of the VM directory.
package vdi
