// Package delta describes a file by its blocks, and by what differs from another state of it.
//
// A file is cut on a Grid. The blocks that are not all zero have a Digest, by which restored data is
// verified; a Table gives a file's digests from the table of blocks of a manifest. An Index finds
// units of 4 KiB, by cheap keyed sums, anywhere in another entry. What differs is a list of operations (Op) in
// segments, which a SegmentWriter makes and ParseSegment reads.
//
// The formats are this project's own: archive/FORMAT.md section 4 (segments) and manifest/FORMAT.md
// section 5 (tables) and 7 (sums). The package knows neither archives nor disk formats.
//
// Segments and tables are read as untrusted input: counts are checked against the bytes that are
// there before anything is allocated, and ranges against the file. Operations that name other files
// are checked by who has these files.
package delta
