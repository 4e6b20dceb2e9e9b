// Package pax reads and writes tar archives at the level of header blocks: POSIX pax with sparse members, offsets and
// maps in the open. The standard library's archive/tar cannot write sparse members and hides where a body lies.
//
// # Sources
//
//   - POSIX.1-2017, pax, "pax Interchange Format" and "ustar Interchange Format": blocks, records, checksum.
//   - GNU tar manual, "Basic Tar Format" and "Sparse Formats": magic "ustar  ", base-256 numbers, L and K members,
//     the old sparse member S, directory contents D, and pax sparse 0.0, 0.1 and 1.0.
//   - star's SCHILY.xattr records.
//
// # Writing
//
// [AppendHeader] is a pure function of the [Header]: no clock, no process id, maps in sorted order. A field goes into
// the ustar block where it fits and into a pax record otherwise. Choices that other tools decided:
//
//   - A sparse member is GNU.sparse 1.0. Its size field counts the map and the data, never the logical size. At 8 GiB
//     and more it is base-256 and not a pax "size" record: Python's tarfile loses its place in a sparse member that
//     has such a record. GNU tar, bsdtar, Python and Go read the base-256 form.
//   - The map ends with an empty run at the end of the file where the file ends in a hole: without it, GNU tar 1.34
//     restores a file that is only a hole as an empty one. Go reads maps up to 1 MiB, and GNU tar takes
//     each run to start at a block, which others do not: see [LimitExtents].
//   - A name that is not UTF-8 stays as it is in the ustar field. Where it must be a record, hdrcharset=BINARY goes
//     with it: bsdtar 3.6 exits 1 without; GNU tar 1.34 warns about it and exits 0.
//   - '=' in the name of an extended attribute is written %3D, and '%' before "25" or "3D" is written %25, which GNU
//     tar decodes. bsdtar 3.6 keeps the escape in the name.
//   - A time before 1970 with a fraction is written as POSIX says, -1.5 for one and a half seconds before. GNU tar,
//     Go and Python agree; bsdtar 3.6 reads (and writes) the fraction with the wrong sign.
//
// A reader without support for sparse members finds map and data as a plain file in a folder GNUSparseFile.0.
//
// # Reading
//
// [Reader] reads v7, ustar, star, GNU and pax archives. Where readers in use disagree about what an archive says, it is
// refused rather than guessed: two extended headers before one member, L beside a pax path, names or sizes in a global
// header, an extended header before nothing. A keyword repeated within one header counts with its last value, as POSIX
// says and all of them do. Unknown member types are returned with their type and their body.
//
// # Security
//
// Counts are compared with limits before they are used and memory grows only with bytes that were read: at most
// [ReaderOptions.MaxHeader] for records and 16 bytes for each of [ReaderOptions.MaxExtents]. Names are returned as
// found: a caller that writes files must use [CheckName] and os.Root.
package pax
