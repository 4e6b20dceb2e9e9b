// Package ova reads and writes OVF packages as files: the envelope (.ovf) with its manifest (.mf), its certificate (.cert)
// and the files that it refers to, together in a directory, a tar archive (an OVA), or a zip archive.
//
// Sources: DMTF DSP0243, Open Virtualization Format Specification, 1.1.1, sections 5.1 to 5.4 and 7.1, and 2.1.1, sections
// 6.1 to 6.4 and 7.1; POSIX.1-2008, pax (ustar); what importers accept beyond these and refuse within them.
//
// # Reading
//
// Tar archives: ustar, GNU (long names, sizes in base 256, sparse members), PAX; names with "./" before them and in
// sub-directories; members in any order, with bytes behind the end; compressed ones through the caller's
// decompressor. Zip archives: stored and deflated members. The kind is told by content.
//
// [Package.FS] shows the files under the names that the references have, relative to the envelope. A file with
// ovf:compression="gzip" is shown as what it holds, and one that comes in chunks (NAME.000000000 and on) as one file.
// Whatever lies uncompressed in the package is read where it is; the rest is first written to a spool, which the caller
// supplies.
//
// Refused: links, devices and the like, encrypted zip members, two members of one name, and two envelopes if none is
// chosen.
//
// # Writing
//
// [Writer] makes an archive that all importers take: ustar, with GNU's sizes in base 256 for members of 8 GiB and
// more, since VirtualBox and vSphere refuse PAX; plain names; the owner, mode and time that the caller gives. On a pipe
// all sizes must be known before; on a file they are filled in later, also the content of the members that come first
// and are known last. The bytes are the same both ways.
//
// # Security
//
// Packages are untrusted. Names that lead out of the package are refused, and so are links; nothing is ever extracted.
// The number of members, the sizes of the texts, and the number of bytes that are spooled have limits; memory depends on
// the number of members and the size of the texts alone.
package ova
