// Package catalogue reads and writes catalogues of machines, and fetches what they name.
//
// A catalogue is a JSON file at a path or URL: machines with versions, and for each version the files that it can be
// had as, archives of tarvm, packages or disk images, with sizes and digests. FORMAT.md has its terms and fields.
//
//	c, err := catalogue.Open(ctx, "https://example.org/machines/catalogue.json", catalogue.OpenOptions{})
//	m, v, err := c.Find("debian", "12")
//	f, err := catalogue.Choose(v, catalogue.Preference{Arch: "x86_64"})
//	paths, err := c.Fetch(ctx, f, dir, catalogue.FetchOptions{})
//
// # Fetching
//
// [Fetch] writes to NAME.part, with NAME.part.json saying what it will be, and gives the file its name when size and
// digests are right and everything is on disk. Whatever ends it before, a later call goes on where it was, with a
// request for the rest that the server answers only for the same version. What was there already is read again for its
// digest; a digest that is wrong after a file was put together from several answers makes it start over, once.
//
// # Security
//
// A catalogue is not believed beyond what its digests say, and these count only as much as the way that it came by:
// fetch catalogues by https. Its text has no control characters; its relative URLs lead below its own directory, links
// that leave it are not followed there; it names no other file of the machine. Sizes are limits: not a byte more is
// written. A server that was asked by https cannot redirect to anything less. User names, passwords and queries of URLs
// are in no message and no file. MD5 and SHA-1 are shown to people and prove nothing.
package catalogue
