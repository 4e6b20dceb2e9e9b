package repo

import (
	"context"
	"fmt"
	"slices"

	"tarvm/archive"
	"tarvm/archive/chain"
	"tarvm/archive/codec"
)

// MergeOptions say how the new archive is made.
type MergeOptions struct {
	Pack archive.PackOptions // Codec (default: the old archive's), Level, Workers, TempDir, Progress

	// Reparent, of Squash: entries that build on what goes get archives of their own on what stays.
	Reparent bool
}

// MergeResult says what was merged.
type MergeResult struct {
	Entry      *Entry          `json:"entry"`
	Parent     *Entry          `json:"parent,omitempty"` // nil: it is a full one now
	Before     int64           `json:"before"`           // bytes of the archive that was replaced
	Pack       *archive.Result `json:"pack"`
	Removed    []*Entry        `json:"removed,omitempty"` // by Squash
	Reparented []*Entry        `json:"reparented,omitempty"`
	Left       []string        `json:"left,omitempty"`
}

// Merge gives an entry another archive, on another parent: nil makes it a full one. The machine is not needed, only the
// entry's chain. The new archive is what packing the same files afresh would make, byte for byte, at equal options; it has the
// entry's number and id, and what builds on the entry builds on it. It is read again and compared before it takes the
// place of the old one.
func (r *Repo) Merge(ctx context.Context, f *Forest, e, parent *Entry, o MergeOptions) (*MergeResult, error) {
	e = f.own(e)
	if parent != nil {
		parent = f.own(parent)
		path, err := f.Path(parent)
		if err != nil {
			return nil, err
		}
		if slices.Contains(path, e) {
			return nil, fmt.Errorf("%s cannot build on %s, which builds on it", e, parent)
		}
	}
	rd, err := r.Read(ctx, f, e)
	if err != nil {
		return nil, err
	}
	defer rd.Close()
	s, err := r.packEntry(ctx, f, rd, e, parent, o.Pack)
	if err != nil {
		return nil, err
	}
	defer s.Close()
	if err := r.verifyNew(ctx, f, s, o.Pack); err != nil {
		return nil, err
	}
	res := &MergeResult{Parent: parent, Before: e.Size, Pack: s.result}
	res.Entry, res.Left, err = r.replace(ctx, e, s)
	return res, err
}

// packEntry packs an entry out of its chain.
func (r *Repo) packEntry(ctx context.Context, f *Forest, rd *Reading, e, parent *Entry, po archive.PackOptions) (*saving, error) {
	s := &saving{parent: parent, project: e.Project, doing: "merge"}
	if po.Formats == nil {
		po.Formats = r.o.Formats
	}
	if po.Codec == nil {
		if po.Codec = codec.ByName(r.o.Codecs, e.Codec); po.Codec == nil {
			return nil, fmt.Errorf("merge: no codec %q", e.Codec)
		}
	}
	if parent != nil {
		m, c, err := r.ManifestOf(ctx, parent)
		if err != nil {
			return nil, err
		}
		defer c.Close()
		po.Parent = m
		po.Differential = parent.Kind == Full && (e.Kind == Differential || f.parent[e.Number] != parent && len(rd.Path) > 2)
	}
	plan, err := archive.MakePlanOf(ctx, chain.Tree(rd.Chain, rd.Head()), chain.PackOptions(rd.Chain, rd.Head(), po))
	if err != nil {
		return nil, err
	}
	defer plan.Close()
	return s, r.write(ctx, s, plan, po.TempDir)
}

// verifyNew reads an archive that has no name yet and, unless it holds all of the entry, rebuilds the entry from it and what
// it builds on: that was not read to make it.
func (r *Repo) verifyNew(ctx context.Context, f *Forest, s *saving, po archive.PackOptions) error {
	b, err := s.archive.Open(ctx)
	if err != nil {
		return err
	}
	defer b.Close()
	a, err := archive.Open(b, r.o.Codecs)
	if err != nil {
		return err
	}
	rep, err := a.Verify(ctx, archive.VerifyOptions{Workers: po.Workers, Progress: po.Progress})
	if err == nil {
		err = rep.Err()
	}
	if err != nil || s.parent == nil {
		return err
	}
	as := []*archive.Archive{a}
	rd, err := r.Read(ctx, f, s.parent)
	if err != nil {
		return err
	}
	defer rd.Close()
	for i := range rd.Len() {
		as = append(as, rd.Chain.Entry(i))
	}
	c, err := chain.NewFor(a.Manifest().Digest, as)
	if err != nil {
		return err
	}
	all, err := chain.Verify(ctx, c, chain.VerifyOptions{Workers: po.Workers, TempDir: po.TempDir, Progress: po.Progress})
	if err != nil {
		return err
	}
	return all.Err()
}

// replace puts an archive into the place of e's.
func (r *Repo) replace(ctx context.Context, e *Entry, s *saving) (*Entry, []string, error) {
	unlock, err := r.lock(ctx, s.doing)
	if err != nil {
		return nil, nil, err
	}
	defer unlock()
	if err := r.m.Sweep(ctx); err != nil {
		return nil, nil, err
	}
	f, old, err := r.writable(ctx)
	if err != nil {
		return nil, nil, err
	}
	now := f.byNumber[e.Number]
	if now == nil || now.ID != e.ID || now.File != e.File {
		return nil, nil, fmt.Errorf("%w: %s was removed or replaced meanwhile", ErrNoEntry, e)
	}
	if s.parent != nil && f.ByDigest(s.parent.ID, s.parent.Digest) == nil {
		return nil, nil, &goneError{s.parent}
	}
	name, err := nameOf(e)
	if err != nil {
		return nil, nil, err
	}
	next := newFileName(name.project, name.number, max(name.generation, f.generations[name.number])+1, s.snap.Entry.Name, s.suffix)
	next.rest = name.rest
	if s.snap.Entry.Codec != e.Codec {
		next.rest = newFileName(name.project, name.number, 0, s.snap.Entry.Name, s.suffix).rest
	}
	f.Entries = slices.DeleteFunc(f.Entries, func(x *Entry) bool { return x == now })
	made, err := r.add(ctx, f, old, s, next)
	if err != nil {
		return nil, nil, err
	}
	left, err := r.removeEntry(ctx, now)
	if err != nil {
		return made, nil, fmt.Errorf("%s was merged, but its old archive could not be removed: %w", e, err)
	}
	if left != "" {
		return made, []string{left}, nil
	}
	return made, nil, nil
}

// Squash makes one increment of those from a to b, which must build on a: b gets an archive on a's parent, and what was
// between goes. What else builds on that is an *OrphansError, or, with o.Reparent, gets archives of its own.
func (r *Repo) Squash(ctx context.Context, f *Forest, a, b *Entry, o MergeOptions) (*MergeResult, error) {
	a, b = f.own(a), f.own(b)
	path, err := f.Path(b)
	if err != nil {
		return nil, err
	}
	i := slices.Index(path, a)
	if i < 0 || a == b {
		return nil, fmt.Errorf("%s does not build on %s", b, a)
	}
	set := path[i : len(path)-1]
	var others []*Entry
	for _, e := range set {
		for _, c := range f.children[e.Number] {
			if c != b && !slices.Contains(set, c) {
				others = append(others, c)
			}
		}
	}
	if len(others) > 0 && !o.Reparent {
		return nil, &OrphansError{Remove: slices.Clone(set), Orphans: others}
	}
	var parent *Entry
	if i > 0 {
		parent = path[i-1]
	}
	res, err := r.Merge(ctx, f, b, parent, o)
	if err != nil {
		return nil, err
	}
	rm, err := r.Remove(ctx, set, RemoveOptions{Reparent: o.Reparent, Pack: o.Pack})
	if rm != nil {
		res.Removed, res.Reparented, res.Left = rm.Removed, rm.Reparented, append(res.Left, rm.Left...)
	}
	return res, err
}

// reparent gives archives of their own to those that build on what goes, so that they build on what stays.
func (r *Repo) reparent(ctx context.Context, f *Forest, set []*Entry, o RemoveOptions) ([]*Entry, error) {
	var done []*Entry
	gone := make(map[int]bool)
	for _, e := range set {
		gone[e.Number] = true
	}
	// Of several that lose their full one, the first becomes full, and the others build on that.
	first := make(map[int]int)
	for {
		var todo *Entry
		for _, e := range f.Entries {
			if p := f.parent[e.Number]; p != nil && gone[p.Number] && !gone[e.Number] && !slices.ContainsFunc(f.Twins(p), func(t *Entry) bool { return !gone[t.Number] }) {
				todo = e
				break
			}
		}
		if todo == nil {
			return done, nil
		}
		path, err := f.Path(todo)
		if err != nil {
			return done, err
		}
		var parent *Entry
		for _, p := range slices.Backward(path[:len(path)-1]) {
			if !gone[p.Number] {
				parent = p
				break
			}
		}
		root := path[0].Number
		if parent == nil {
			if n, ok := first[root]; ok {
				parent = f.byNumber[n]
			} else {
				first[root] = todo.Number
			}
		}
		m, err := r.Merge(ctx, f, todo, parent, MergeOptions{Pack: o.Pack})
		if err != nil {
			return done, err
		}
		done = append(done, m.Entry)
		if f, err = r.Forest(ctx); err != nil {
			return done, err
		}
	}
}
