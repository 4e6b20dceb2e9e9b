// Package chain reads entries that are spread over several archives: a base and
// the increments that build on it.
//
// [New] orders archives that come in any order into a [Chain]. Every question
// about an entry is then one question: where do these bytes of this file come
// from. The answer is a list of pieces, each of which is in one archive, or
// zero. Reading ([File], [FS]), packing again ([Tree]), verifying ([Verify]) and restoring ([Restore],
// [RestoreStream]) are users of that list, so that a block is read once, from
// the newest archive that holds it, however long the chain is.
//
// The formats are those of archive/FORMAT.md (sections 3 and 4: whole members
// and deltas) and manifest/FORMAT.md (section 5: grids and digests).
//
// # Restoring
//
// A directory that is absent or empty is built beside its place and renamed. In
// one that has content, everything is staged under .tarvm-restore first and
// verified; then a journal is written, and from there on only forward: every
// member that changes leaves its name before any new one gets it, configuration
// files first out and last in. Before the journal a crash leaves the old state;
// behind it [Recover], or the next restore, completes the new one.
//
// What the directory holds already is used: files are scanned, and blocks that
// have the digest that is wanted are taken from there and not from an archive.
//
// # Security
//
// Manifests and operations are untrusted. Names must pass pax.CheckName, parents
// of members must be directories of the same manifest, and all access goes
// through os.Root. Each step from entry to entry goes to an older one, and a
// reference within an entry must name data that is stored in front of it, so
// that nothing loops; there is no recursion. Every byte that leaves this package
// as content has been compared with a digest that the entry's id commits to.
package chain
