// Package qcow2 reads, checks and writes QCOW2 images. Their predecessor QCOW
// (version 1), which has the same magic, is package qcow's.
//
// Source: QEMU, docs/interop/qcow2.rst, and where that is silent block/qcow2.c.
// Guest data lies in clusters that are aligned to the start of the file. An L1 table names L2 tables, whose entries name
// clusters; a table of refcounts says how often each cluster of the file is used.
//
// Covered: versions 2 and 3, any cluster size, subclusters, clusters compressed
// with deflate and zstd, parents, external data files, internal snapshots with
// their saved memory, dirty bitmaps (Bitmaps). Probe also describes encrypted
// images, whose data is ciphertext.
// Refused: opening encrypted images, unknown incompatible features, unknown compression, zstd windows of more than 8 MiB.
//
// Where a file ends inside its last cluster the rest reads as zero: programs
// leave away what they never wrote. A cluster that begins behind the end, or in
// a table, a refcount block or an L2 table, is corrupt.
//
// Image.Check recomputes all refcounts as `qemu-img check` does, and also decodes
// compressed clusters. A flag that allows to write in place to a shared cluster is
// a risk; one that is only missing is a note.
//
// Security: all offsets and counts are checked before use, and tables are read by
// pages of 64 KiB. Open reads the L1 and refcount tables, at most 72 MiB of a file
// that is as large, and keeps where L2 tables are; a check keeps two bytes for each
// cluster in use, at most 512 MiB. The names of the backing file and of the external
// data file are untrusted and are returned, or given to OpenOptions.Find, as stored.
// The header of an image is writable by whoever may write the file, and a raw disk
// that starts with this magic was made by its guest: a recorded format wins over
// recognition.
package qcow2
