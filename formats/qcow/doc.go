// Package qcow reads and checks images of QEMU's first copy-on-write format, which
// no program has written by default since 2008 but which old VMs and Xen's still
// have. Its successor has the same magic: package qcow2.
//
// Source: QEMU, block/qcow.c. An L1 table names L2 tables, whose entries name
// clusters of guest data; neither tables nor compressed clusters are aligned.
//
// Covered: all sizes of clusters and tables, compressed clusters, parents.
// Refused: opening encrypted images, whose data is ciphertext.
//
// Image.Check looks for entries that lead out of the file, for bytes that are used
// twice and for clusters that nothing uses, and decodes compressed clusters. qemu-img
// has no check of this format.
//
// Security: all offsets are checked before use, and tables are read by pages of
// 64 KiB. Data that overlaps the header or the L1 table is corrupt; where it overlaps
// an L2 table only a check says so. A check keeps 32 bytes for each run of clusters,
// of at most 16 million runs. The backing file's name is untrusted and returned as
// stored.
package qcow
