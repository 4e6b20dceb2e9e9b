// Package vhd reads, checks and writes Virtual PC and Hyper-V disks (qemu: vpc).
//
// Source: Microsoft, "Virtual Hard Disk Image Format Specification", version
// 1.0: "Hard Disk Footer Format", "Dynamic Disk Header Format", "Block
// Allocation Table and Data Blocks", "Implementing a Dynamic Disk",
// "Implementing a Differencing Hard Disk", and, for cylinders, heads and
// sectors, its appendix. Fixed disks are raw data followed by a footer of 512
// bytes; dynamic and differencing ones carry a copy of the footer first, then a
// header, a table of 32-bit sector numbers (BAT), and blocks, each behind a
// bitmap of its sectors.
//
// Read: all three types (Hyper-V's .avhd is a differencing disk), footers of 511 bytes (old Virtual PC), a damaged
// footer with an intact copy at the start, the sizes that Virtual PC means as
// cylinders, heads and sectors, blocks of any power of two. A sector whose bit is
// clear reads as zero in a dynamic disk, and as the parent's in a differencing
// one. A last block that the file holds only as far as the disk goes is read.
// Refused: footers and headers whose checksum is wrong (but one footer of two
// may be), other types. Ignored: Xen's map of blocks (tdbatmap).
//
// Written: fixed, dynamic and differencing disks whose current size is exact and
// whose geometry is only for show, as Hyper-V writes them, with guest data at
// multiples of 4 KiB in the file. See [Format.Encode].
//
// Security: the header and the table must lie within the file, and where nothing
// else is, before they are read. Memory is bounded whatever a file says: the
// table is read by pages of 64 KiB, bitmaps one by one, and both are kept in
// caches of a few MiB; a check adds 32 MiB. The parent's names are untrusted and
// are returned as stored. Recognition of a fixed disk rests on its last sector,
// which in a raw disk belongs to the guest: a recorded format wins over
// recognition.
package vhd
