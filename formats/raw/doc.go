// Package raw maps disks without a format: the file is the guest's bytes.
//
// Raw is never recognised by content: its Format claims nothing when asked. That
// a file which no format claims is a raw disk is the caller's decision.
//
// Holes of the file become holes of the map where the Source tells them (see
// Sparse); [NewFile] makes such a Source of an open file.
//
// Security: there is nothing to parse. A raw disk's content belongs to its
// guest, who can make it look like any other format.
package raw
