// Package vhdx reads, checks and writes Hyper-V disks of the second format.
//
// Source: Microsoft, [MS-VHDX] "Virtual Hard Disk v2 (VHDX) File Format",
// sections 2.2 (headers, region table), 2.3 (log), 2.4 and 2.5 (blocks, BAT) and
// 2.6 (metadata). All numbers are little-endian. All structures and payload
// blocks start at multiples of 1 MiB.
//
// Covered: fixed, dynamic and differencing disks, logical sectors of 512 and
// 4096 bytes, blocks of 1 to 256 MiB, either header and either region table
// damaged. A log that was not empty when the file was last closed is replayed in
// memory: what is read is the file as it will be when a program that writes has
// opened it. The file itself is never written to. Blocks in the states undefined
// and unmapped, whose content the format leaves open, read as zeros.
//
// Written: dynamic, fixed and differencing disks with logical sectors of 512
// bytes and an empty log.
//
// Refused: unknown regions and metadata that are marked as required, other
// versions, a log in use of more than 64 MiB, one without a valid sequence of
// entries, and a file that is shorter than its log says it was.
//
// Security: structures must lie within the file and have the right checksum.
// Nothing is allocated by a count found in the file: the BAT and the sector
// bitmaps are read by pieces and kept in caches of fixed size, and what the log
// overwrites is kept as a list of at most 262,144 places. No block may lie in a
// structure. The parent's names are untrusted and returned as stored.
package vhdx
