// Package manifest reads and writes the snapshot manifest: which files an entry has, with metadata and
// digests, and how its archive holds them.
//
// The format is this project's own and is described in FORMAT.md. A Snapshot is manifest.json; the table of
// block digests behind it belongs to package delta, the tar around both to package archive.
//
// A manifest is untrusted input. Decode checks what it says about itself: its id, the order and size of
// sections, that no path stands twice, that links name earlier files. It does not check that a path is
// safe to create; who restores does.
package manifest
