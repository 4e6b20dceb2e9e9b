// Package repo keeps entries: versions of virtual machines, each an archive and its manifest, in a repository.
//
// A [Repo] is a handful of files on a [Medium], a directory by default ([OpenDir], [CreateDir]); FORMAT.md says which. The
// files of entries are never modified: they are added, replaced as a whole by another archive of the same state ([Repo.Merge]),
// and removed. Everything that is known of an entry stands in its archive and in its file's name; the index is a cache that
// [Repo.Reindex] makes anew. So a repository can be carried off by cp, and read by tar.
//
//	r, err := repo.OpenDir(ctx, "/srv/vms", repo.Options{Codecs: all.Codecs(), Formats: disks.Disks()})
//	saved, err := r.Save(ctx, "/home/me/vms/web", repo.SaveOptions{Name: "web"})
//	f, err := r.Forest(ctx)
//	e, err := f.Find("#3")
//	_, err = r.Restore(ctx, e, "/home/me/vms/web", repo.RestoreOptions{})
//
// # Entries
//
// An entry is full, incremental (against any other) or differential (against the full one of its tree). It has a number,
// which people use and which is never given twice, and the id of its state, which programs use: the same state has the same
// id everywhere. Two entries of one state are twins, and what builds on one can be built on the other. Entries with their
// parents are a forest ([Forest]).
//
// # Writers and readers
//
// Writers exclude each other for the moment in which files appear or go, by [Medium.Lock]; archives are written before, aside.
// Readers take no lock. They see an entry from when its archive has its name. A writer that is killed leaves files aside,
// which the next one removes; every entry that was there is still there, and the new one is there wholly or not at all.
//
// # Security
//
// All that is read from a repository is untrusted, as archives are (package chain): names of files are checked before they
// are used, the index is compared with the files that are there, and an archive with the record that led to it. Whoever may
// write to a repository can remove entries from it, and can put in others under the same numbers, but not change a state
// and keep its id.
package repo
