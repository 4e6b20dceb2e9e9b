package repo

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"slices"

	"tarvm/archive"
)

// RemoveOptions say how to remove.
type RemoveOptions struct {
	// Reparent makes new archives for the entries that build on what goes, so that they can do without.
	Reparent bool
	Pack     archive.PackOptions // of these archives: Codec, Level, Workers, TempDir, Progress
	Search   []string
}

// RemoveResult says what was removed.
type RemoveResult struct {
	Removed    []*Entry `json:"removed"`
	Reparented []*Entry `json:"reparented,omitempty"`
	Left       []string `json:"left,omitempty"` // archives at other places, which could not be removed there
	Bytes      int64    `json:"bytes"`          // that are free now
}

// Remove removes entries. When others could not be built without them it is an *OrphansError, and nothing goes; a set with all
// that builds on it goes. Children go before their parents, so that what is left can be built at any moment.
func (r *Repo) Remove(ctx context.Context, es []*Entry, o RemoveOptions) (*RemoveResult, error) {
	res := &RemoveResult{}
	if o.Reparent {
		f, err := r.Forest(ctx)
		if err != nil {
			return nil, err
		}
		if res.Reparented, err = r.reparent(ctx, f, es, o); err != nil {
			return res, err
		}
	}
	unlock, err := r.lock(ctx, "rm")
	if err != nil {
		return res, err
	}
	defer unlock()
	if err := r.m.Sweep(ctx); err != nil {
		return res, err
	}
	f, old, err := r.writable(ctx)
	if err != nil {
		return res, err
	}
	if len(f.unread) > 0 {
		return res, fmt.Errorf("what builds on %s cannot be told: %w", refs(es), f.unread[0].Err)
	}
	var set []*Entry
	for _, e := range es {
		x := f.byNumber[e.Number]
		if x == nil || x.ID != e.ID {
			return res, &FindError{Text: e.Ref(), Why: "it was removed meanwhile"}
		}
		if !slices.Contains(set, x) {
			set = append(set, x)
		}
	}
	if orphans := f.Orphans(set); len(orphans) > 0 {
		return res, &OrphansError{Remove: set, Orphans: orphans}
	}
	err = r.removeOld(ctx, old)
	for _, e := range f.childrenFirst(set) {
		if err != nil {
			break
		}
		if err = context.Cause(ctx); err != nil {
			break
		}
		var left string
		if left, err = r.removeEntry(ctx, e); err != nil {
			err = fmt.Errorf("%s: %w", e, err)
			break
		}
		if left != "" {
			res.Left = append(res.Left, left)
		}
		res.Removed = append(res.Removed, e)
		res.Bytes += e.Size
		f.Entries = slices.DeleteFunc(f.Entries, func(x *Entry) bool { return x == e })
	}
	f.link()
	if ierr := r.writeIndex(context.WithoutCancel(ctx), f); err == nil {
		err = ierr // behind another failure it is made anew in any case
	}
	return res, err
}

// removeEntry removes the files of an entry, and its archive at another place if that can be reached.
func (r *Repo) removeEntry(ctx context.Context, e *Entry) (left string, err error) {
	name, err := nameOf(e)
	if err != nil {
		return "", err
	}
	if e.Missing && e.At != nil {
		// What is left of it is recognised by the next writer, when this one is killed.
		at := *e.At
		at.Removed = true
		if err := r.putAt(ctx, name, &at); err != nil {
			return "", err
		}
	}
	if err := r.m.Remove(ctx, name.manifest()); err != nil {
		return "", err
	}
	if e.At != nil {
		left = r.removeThere(ctx, e.At)
	}
	return left, r.removeFiles(ctx, name)
}

// removeThere removes an archive at its place, and returns where it is still.
func (r *Repo) removeThere(ctx context.Context, at *At) (left string) {
	if at.Place == "" {
		return ""
	}
	places, err := r.Places(ctx)
	if err != nil {
		return at.Place + ": " + at.File
	}
	for _, p := range places {
		if p.Name != at.Place {
			continue
		}
		d, err := NewDir(p.Dir)
		if err != nil {
			break
		}
		// Only what is the archive: what the repository says of other directories may be anything.
		b, err := d.Open(ctx, at.File)
		if errors.Is(err, fs.ErrNotExist) {
			return ""
		}
		if err != nil {
			break
		}
		a, err := archive.Open(b, r.o.Codecs)
		ours := err == nil && a.Manifest().ID == at.ID && a.Manifest().Digest == at.Digest
		b.Close()
		if !ours || d.Remove(ctx, at.File) != nil {
			break
		}
		return ""
	}
	return at.Place + ": " + at.File
}

// childrenFirst orders a set so that what builds on another goes before it.
func (f *Forest) childrenFirst(set []*Entry) []*Entry {
	// Each is one deeper than its parent; what is known of that is not looked for again.
	depths := make(map[*Entry]int, len(f.Entries))
	var up []*Entry
	for _, e := range set {
		up = up[:0]
		for p := e; p != nil; p = f.parent[p.Number] {
			if _, ok := depths[p]; ok {
				break
			}
			up = append(up, p)
		}
		for _, p := range slices.Backward(up) {
			if parent := f.parent[p.Number]; parent != nil {
				depths[p] = depths[parent] + 1
			} else {
				depths[p] = 0
			}
		}
	}
	out := slices.Clone(set)
	slices.SortFunc(out, func(a, b *Entry) int {
		if d := depths[b] - depths[a]; d != 0 {
			return d
		}
		return b.Number - a.Number
	})
	return out
}

// RemoveAll removes the repository with all that it has made, and nothing else: what others put there stays, with the
// directory. The archives at other places stay.
func (r *Repo) RemoveAll(ctx context.Context) error {
	unlock, err := r.lock(ctx, "repo rm")
	if err != nil {
		return err
	}
	defer unlock()
	f, old, err := r.writable(ctx)
	if err != nil {
		return err
	}
	if err := r.removeOld(ctx, old); err != nil {
		return err
	}
	for _, e := range f.childrenFirst(f.Entries) {
		if _, err := r.removeEntry(ctx, e); err != nil {
			return fmt.Errorf("%s: %w", e, err)
		}
	}
	if err := r.m.Sweep(ctx); err != nil {
		return err
	}
	for _, name := range []string{fileIndex, filePlaces, fileReadme, fileRepository} {
		if err := r.m.Remove(ctx, name); err != nil {
			return err
		}
	}
	return nil
}
