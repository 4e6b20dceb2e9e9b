// Package inspect says what differs between two entries. It needs their manifests and nothing else: which
// bytes of a disk changed is told by the tables of block digests (manifest/FORMAT.md section 5), without any data.
//
//	r, err := inspect.Compare(monday, tuesday)
//	for _, c := range r.Changed {
//		fmt.Println(c.Path, c.Bytes)
//	}
//
// The guest's view (files inside a disk) is not looked at.
//
// # Security
//
// Manifests are untrusted. Memory grows with the number of members; tables are read piece by piece. Names are
// returned as found, control characters included.
package inspect

import (
	"bytes"
	"cmp"
	"fmt"
	"maps"
	"path"
	"slices"
	"strconv"

	"tarvm/archive"
	"tarvm/delta"
	"tarvm/manifest"
)

// A Report is what differs from entry A to entry B. Members are in the order of their entry: Removed in A's,
// everything else in B's.
type Report struct {
	A       Entry    `json:"a"`
	B       Entry    `json:"b"`
	Added   []File   `json:"added,omitempty"`
	Removed []File   `json:"removed,omitempty"`
	Renamed []Rename `json:"renamed,omitempty"`
	Changed []Change `json:"changed,omitempty"`
	Bytes   int64    `json:"bytes"` // sum over Changed
}

// Same reports whether there is no difference.
func (r *Report) Same() bool {
	return len(r.Added)+len(r.Removed)+len(r.Renamed)+len(r.Changed) == 0
}

// An Entry says which state is compared.
type Entry struct {
	ID   delta.Digest  `json:"id"`
	Name string        `json:"name,omitempty"`
	Time manifest.Time `json:"time"`
}

// A File is a member that only one entry has.
type File struct {
	Path manifest.Path `json:"path"`
	Type manifest.Type `json:"type"`
	Size int64         `json:"size,omitempty"` // bytes; of files
}

// A Rename is a file that has another path in B than in A, with the same size and digest. Of several
// equal files, one with the same base name is preferred.
type Rename struct {
	From     manifest.Path `json:"from"`
	To       manifest.Path `json:"to"`
	Size     int64         `json:"size"`
	Metadata []Field       `json:"metadata,omitempty"`
}

// A Change is a member that both entries have under one path, in different states.
type Change struct {
	Path manifest.Path `json:"path"`
	Type manifest.Type `json:"type"` // in B
	Role manifest.Role `json:"role,omitempty"`
	// SizeA and SizeB are the file's sizes in bytes; 0 for what is no file.
	SizeA int64 `json:"size_a,omitempty"`
	SizeB int64 `json:"size_b,omitempty"`
	// Bytes is how much of the content differs, counted in whole blocks. Of what is behind the end of the
	// shorter file, only blocks that are not zero count. 0: the content is the same.
	Bytes int64 `json:"bytes,omitempty"`
	// Coarse: the two digests are on different grids and say nothing about each other. The whole file is
	// counted, though its content may be the same.
	Coarse   bool    `json:"coarse,omitempty"`
	Metadata []Field `json:"metadata,omitempty"`
}

// A Field is a piece of metadata with its values, as text, in A and B. Names are those of the state in
// manifest/FORMAT.md section 3; of extended attributes "xattr " and the attribute's name, with Go-quoted values
// and an empty one where there is none.
type Field struct {
	Name string `json:"name"`
	A    string `json:"a"`
	B    string `json:"b"`
}

// Compare compares the states of two entries. Where one is to be computed from a directory, packing it as an
// increment of the other gives both the same grids. Errors are about reading the tables, and wrap delta.ErrTable
// or the source's.
func Compare(a, b *archive.Manifest) (*Report, error) {
	r := &Report{A: entry(a), B: entry(b)}
	ia, ib := a.Index(), b.Index()
	var added []*manifest.Member
	for i := range b.Members {
		mb := &b.Members[i]
		j, ok := ia[mb.Path]
		if !ok {
			added = append(added, mb)
			continue
		}
		c, err := compare(a, b, &a.Members[j], mb)
		if err != nil {
			return nil, err
		}
		if c != nil {
			r.Changed = append(r.Changed, *c)
			r.Bytes += c.Bytes
		}
	}
	var removed []*manifest.Member
	for i := range a.Members {
		if ma := &a.Members[i]; !has(ib, ma.Path) {
			removed = append(removed, ma)
		}
	}
	r.pair(a.Entry.Block, b.Entry.Block, removed, added)
	return r, nil
}

func has(index map[manifest.Path]int, p manifest.Path) bool {
	_, ok := index[p]
	return ok
}

func entry(m *archive.Manifest) Entry {
	return Entry{ID: m.ID, Name: m.Entry.Name, Time: m.Entry.Time}
}

// content identifies what a file holds, on one grid.
type content struct {
	grid   delta.Grid
	size   int64
	digest delta.Digest
}

func contentOf(block int64, m *manifest.Member) content {
	c := content{size: m.Size, digest: m.Digest}
	if m.Size > block { // else the digest is that of the bytes, whatever the grid
		c.grid = m.Grid(block)
	}
	return c
}

// pair sorts what only one entry has into renamed, added and removed.
func (r *Report) pair(blockA, blockB int64, removed, added []*manifest.Member) {
	gone := make(map[content][]*manifest.Member)
	for _, m := range removed {
		if m.Type == manifest.File && m.Size > 0 {
			c := contentOf(blockA, m)
			gone[c] = append(gone[c], m)
		}
	}
	from := make(map[*manifest.Member]*manifest.Member) // by the new one
	paired := make(map[*manifest.Member]bool)           // old ones
	// Equal base names first, over all files, so that what moved to another folder stays together.
	for _, sameName := range []bool{true, false} {
		for _, m := range added {
			if m.Type != manifest.File || from[m] != nil {
				continue
			}
			for _, g := range gone[contentOf(blockB, m)] {
				if !paired[g] && (!sameName || path.Base(string(g.Path)) == path.Base(string(m.Path))) {
					from[m] = g
					paired[g] = true
					break
				}
			}
		}
	}
	for _, m := range added {
		if g := from[m]; g != nil {
			r.Renamed = append(r.Renamed, Rename{From: g.Path, To: m.Path, Size: m.Size, Metadata: metadata(&g.State, &m.State)})
			continue
		}
		r.Added = append(r.Added, File{m.Path, m.Type, m.Size})
	}
	for _, m := range removed {
		if !paired[m] {
			r.Removed = append(r.Removed, File{m.Path, m.Type, m.Size})
		}
	}
}

// compare returns nil when the two members are the same.
func compare(a, b *archive.Manifest, ma, mb *manifest.Member) (*Change, error) {
	c := &Change{Path: mb.Path, Type: mb.Type, Role: cmp.Or(mb.Role, ma.Role), SizeA: ma.Size, SizeB: mb.Size, Metadata: metadata(&ma.State, &mb.State)}
	switch {
	case ma.Type != manifest.File || mb.Type != manifest.File:
		if ma.Type != mb.Type {
			c.Bytes = max(ma.Size, mb.Size)
		}
	case contentOf(a.Entry.Block, ma) == contentOf(b.Entry.Block, mb):
	default:
		ba, err := newBlocks(a, ma)
		if err != nil {
			return nil, err
		}
		bb, err := newBlocks(b, mb)
		if err != nil {
			return nil, err
		}
		if c.Bytes, c.Coarse, err = differing(ba, bb); err != nil {
			return nil, fmt.Errorf("%s: %w", mb.Path, err)
		}
	}
	if c.Bytes == 0 && c.SizeA == c.SizeB && len(c.Metadata) == 0 {
		return nil, nil
	}
	return c, nil
}

// blocks is a file's table, also of a file that is so small that it has none.
type blocks struct {
	*delta.Table // nil: one block
	size         int64
	grid         delta.Grid
	digest       delta.Digest
}

func newBlocks(m *archive.Manifest, mem *manifest.Member) (*blocks, error) {
	t, err := m.Table(mem)
	if err != nil {
		return nil, err
	}
	b := &blocks{Table: t, size: mem.Size, grid: m.Grid(mem), digest: mem.Digest}
	if b.digest == zeroes(mem.Size, t) {
		b.digest = delta.Digest{}
	}
	return b, nil
}

// zeroes returns the digest of a file without a table that is all zero.
func zeroes(size int64, t *delta.Table) delta.Digest {
	if t != nil || size > delta.MaxBlock {
		return delta.Digest{}
	}
	return delta.Sum(make([]byte, size))
}

func (b *blocks) count() int64 {
	if b.Table == nil {
		return min(b.size, 1)
	}
	return b.grid.Count(b.size)
}

// read fills ds with the digests from block i on, with zero ones behind the end.
func (b *blocks) read(i int64, ds []delta.Digest) error {
	clear(ds)
	n := max(0, min(int64(len(ds)), b.count()-i))
	if n == 0 {
		return nil
	}
	if b.Table == nil {
		ds[0] = b.digest // i is 0: there is one block
		return nil
	}
	return b.Read(i, ds[:n])
}

// length returns how many bytes block i has.
func (b *blocks) length(i int64) int64 {
	if i >= b.count() {
		return 0
	}
	if b.Table == nil {
		return b.size
	}
	_, n := b.grid.Range(i, b.size)
	return n
}

// differing counts the bytes of blocks that are not the same.
func differing(a, b *blocks) (n int64, coarse bool, err error) {
	if a.Table == nil && b.Table == nil {
		return max(a.size, b.size), false, nil
	}
	if a.Table != nil && b.Table != nil && a.grid != b.grid || a.grid.Block != b.grid.Block {
		return max(a.size, b.size), true, nil
	}
	// A file without a table has its only block at phase 0.
	if cut := (delta.Grid{Block: a.grid.Block}); a.Table == nil && b.grid != cut || b.Table == nil && a.grid != cut {
		return max(a.size, b.size), true, nil
	}
	const batch = 4096
	da, db := make([]delta.Digest, batch), make([]delta.Digest, batch)
	for i, end := int64(0), max(a.count(), b.count()); i < end; i += batch {
		k := min(batch, end-i)
		if err := a.read(i, da[:k]); err != nil {
			return 0, false, err
		}
		if err := b.read(i, db[:k]); err != nil {
			return 0, false, err
		}
		for j := range k {
			if da[j] != db[j] {
				n += max(a.length(i+j), b.length(i+j))
			}
		}
	}
	return n, false, nil
}

// metadata lists what differs besides content.
func metadata(a, b *manifest.State) []Field {
	var fs []Field
	add := func(name, va, vb string) {
		if va != vb {
			fs = append(fs, Field{name, va, vb})
		}
	}
	mode := func(m manifest.Mode) string { return fmt.Sprintf("%04o", uint32(m)) }
	num := func(n int64) string { return strconv.FormatInt(n, 10) }
	stamp := func(t manifest.Time) string {
		text, _ := t.MarshalJSON() // every time has a form
		return string(bytes.Trim(text, `"`))
	}
	add("type", string(a.Type), string(b.Type))
	add("mode", mode(a.Mode), mode(b.Mode))
	add("uid", num(a.UID), num(b.UID))
	add("gid", num(a.GID), num(b.GID))
	add("user", a.User, b.User)
	add("group", a.Group, b.Group)
	add("mtime", stamp(a.ModTime), stamp(b.ModTime))
	add("target", string(a.Target), string(b.Target))
	names := make(map[string]bool)
	for _, x := range []map[string][]byte{a.Xattrs, b.Xattrs} {
		for k := range x {
			names[k] = true
		}
	}
	for _, k := range slices.Sorted(maps.Keys(names)) {
		add("xattr "+k, xattr(a, k), xattr(b, k))
	}
	return fs
}

func xattr(s *manifest.State, name string) string {
	v, ok := s.Xattrs[name]
	if !ok {
		return ""
	}
	return strconv.Quote(string(v))
}
