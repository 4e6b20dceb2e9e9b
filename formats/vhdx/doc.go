// Package vhdx recognises Hyper-V disks of the second format.
//
// Source: Microsoft, [MS-VHDX] "Virtual Hard Disk v2 (VHDX) File Format",
// sections 2.2 (headers, region table) and 2.6 (metadata). All structures and
// payload blocks start at multiples of 1 MiB.
//
// Covered: fixed, dynamic and differencing disks, either header and either
// region table damaged. The log is not replayed: after a crash the metadata
// read here may be older than what the log holds. Refused: unknown regions and
// metadata that are marked as required, other versions.
//
// Security: structures must lie within the file and have the right checksum;
// at most 512 KiB are read. The parent's name is untrusted and returned as
// stored.
package vhdx
