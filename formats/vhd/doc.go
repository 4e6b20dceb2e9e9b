// Package vhd recognises Virtual PC and Hyper-V disks (qemu: vpc).
//
// Source: Microsoft, "Virtual Hard Disk Image Format Specification", version
// 1.0. Fixed disks are raw data followed by a footer of 512 bytes; dynamic and
// differencing ones carry a copy of the footer first, then a header, a table of
// 32-bit sector numbers (BAT), and blocks, each behind a bitmap of its sectors.
//
// Covered: all three types, footers of 511 bytes (old Virtual PC), a damaged
// footer with an intact copy at the start, the sizes that Virtual PC means as
// cylinders, heads and sectors. Refused: footers and headers whose checksum is
// wrong, other types.
//
// Security: the table must lie within the file before it is read; at most 1 MiB
// of it is. The parent's name is untrusted and is returned as stored.
// Recognition of a fixed disk rests on its last sector, which in a raw disk
// belongs to the guest: a recorded format wins over recognition.
package vhd
