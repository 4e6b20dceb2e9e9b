// Package parallels reads and checks Parallels disk images: single files (.hds,
// and the older .hdd), and bundles, folders in which a DiskDescriptor.xml names
// such files.
//
// Source: QEMU, docs/interop/parallels.txt (files and the format extension),
// docs/interop/prl-xml.txt (bundles) and block/parallels.c. A file is a header, a
// table of 32-bit cluster places, then clusters. The older magic counts places
// in sectors, so that clusters may lie anywhere; the newer one counts in
// clusters, so that they are aligned to the start of the file. A place of 0 is a
// cluster that is not stored: zero, or the parent's in a snapshot's file.
//
// A bundle splits the disk into storages, and each storage has an image file per
// snapshot: Plain, that is raw, which only the oldest may be, or Compressed,
// which means a file as above. The snapshots are a tree; the newest layer, which
// the guest writes to, is the image that Open returns, the next layer down comes
// from its ParentRef.Open, and all other snapshots are in Image.Snapshots. IDs
// are GUIDs as in the descriptor, in lower case and without braces. The files
// are asked for by base name.
//
// Covered: both magics, any cluster size (63 sectors exist), images left open,
// the format extension with its dirty bitmaps, which are listed but not read;
// bundles with splits and snapshots. Refused: other versions, encryption,
// padding, and bundles in which two files differ in their folder only. Nothing is
// written.
//
// Security: counts are checked against the file; the table is read in pages, and
// each entry is checked against the file before it is followed; clusters cannot
// lie in the header or in the table. A descriptor is read up to 1 MiB, without
// document types, of limited depth, with limited numbers of snapshots and files;
// loops of snapshots are refused. Names of files lose their folders before
// anybody is asked for them.
package parallels
