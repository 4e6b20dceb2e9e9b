package repo

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"slices"

	"tarvm/archive"
	"tarvm/archive/chain"
)

// CheckOptions say how much is checked.
type CheckOptions struct {
	Read     bool // every byte of every archive, and that every entry can be rebuilt
	Workers  int
	TempDir  string
	Progress func(archive.Progress)
}

// CheckReport is the result of a check.
type CheckReport struct {
	Entries  int       `json:"entries"`
	Archives int       `json:"archives"`          // that are here, or at a place that can be reached
	Bytes    int64     `json:"bytes"`             // decoded bytes that were compared
	Offline  []*Entry  `json:"offline,omitempty"` // whose archives cannot be reached now
	Stale    bool      `json:"stale,omitempty"`   // the index is not what the entries are
	Problems []Problem `json:"problems,omitempty"`
}

// Err returns an error that wraps ErrCorrupt when there are problems.
func (c *CheckReport) Err() error {
	switch len(c.Problems) {
	case 0:
		return nil
	case 1:
		return fmt.Errorf("%w: %s", ErrCorrupt, c.Problems[0])
	}
	return fmt.Errorf("%w: %d problems, the first: %s", ErrCorrupt, len(c.Problems), c.Problems[0])
}

// Check looks at every entry without believing the index: that its manifest and its archive can be read and belong together,
// and that what it builds on is here. It changes nothing. Problems are in the report; the error is about what kept it from
// looking.
func (r *Repo) Check(ctx context.Context, o CheckOptions) (*CheckReport, error) {
	f, old, err := r.load(ctx, &cache{next: 1})
	if err != nil {
		return nil, err
	}
	rep := &CheckReport{Entries: len(f.Entries), Problems: slices.Clone(f.Problems)}
	if believed, err := r.Forest(ctx); err != nil {
		return nil, err
	} else if stale, err := differ(f.Entries, believed.Entries); err != nil {
		return nil, err
	} else {
		rep.Stale = stale
	}
	for _, x := range old {
		rep.Problems = append(rep.Problems, Problem{File: x.name.archive(), What: "another archive has taken its place, and it was not removed: the next writer does that"})
	}
	bad := make(map[*Entry]bool)
	problem := func(e *Entry, err error) {
		bad[e] = true
		rep.Problems = append(rep.Problems, Problem{File: e.File, What: fmt.Sprintf("%s: %v", e, err), Err: err})
	}
	for i, e := range f.Entries {
		if o.Progress != nil && !o.Read {
			o.Progress(archive.Progress{Phase: "check", Path: e.String(), Done: int64(i), Total: int64(len(f.Entries))})
		}
		if err := r.checkEntry(ctx, f, e, o, rep); err != nil {
			if ctx.Err() != nil {
				return rep, context.Cause(ctx)
			}
			problem(e, err)
		}
	}
	if !o.Read {
		return rep, nil
	}
	// The tips of the forest have what all others have, put together.
	for _, e := range f.Entries {
		path, err := f.Path(e)
		if err != nil || len(f.children[e.Number]) > 0 && !slices.ContainsFunc(f.children[e.Number], func(c *Entry) bool { return bad[c] }) ||
			slices.ContainsFunc(path, func(p *Entry) bool { return bad[p] || slices.Contains(rep.Offline, p) }) {
			continue
		}
		rd, err := r.Read(ctx, f, e)
		if err == nil {
			var all *chain.Report
			all, err = chain.Verify(ctx, rd.Chain, chain.VerifyOptions{Workers: o.Workers, TempDir: o.TempDir, Progress: o.Progress})
			rd.Close()
			if err == nil {
				rep.Bytes += all.Bytes
				err = all.Err()
			}
		}
		if ctx.Err() != nil {
			return rep, context.Cause(ctx)
		}
		if err != nil {
			problem(e, err)
		}
	}
	return rep, nil
}

// differ reports whether two lists of entries say different things.
func differ(a, b []*Entry) (bool, error) {
	x, err := json.Marshal(a)
	if err != nil {
		return false, err
	}
	y, err := json.Marshal(b)
	return string(x) != string(y), err
}

func (r *Repo) checkEntry(ctx context.Context, f *Forest, e *Entry, o CheckOptions, rep *CheckReport) error {
	if e.Parent != nil && f.parent[e.Number] == nil {
		return &BrokenError{Entry: e, At: e}
	}
	name, err := nameOf(e)
	if err != nil {
		return err
	}
	// The file beside the archive, if it is there, on its own: Forest takes the one within instead.
	b, err := r.m.Open(ctx, name.manifest())
	switch {
	case err == nil:
		m, err := archive.OpenManifest(b)
		if err == nil && o.Read {
			err = m.CheckBlocks()
		}
		if err == nil && (m.ID != e.ID || m.Digest != e.Digest) {
			err = fmt.Errorf("%w: it is that of another entry", ErrCorrupt)
		}
		b.Close()
		if err != nil {
			return r.named(name.manifest(), err)
		}
	case !errors.Is(err, fs.ErrNotExist):
		return err
	}
	if e.Missing && e.At != nil && e.At.URL != "" {
		rep.Offline = append(rep.Offline, e)
		return nil
	}
	op, err := r.open(ctx, e)
	var off *OfflineError
	if errors.As(err, &off) && off.At != nil {
		rep.Offline = append(rep.Offline, e)
		return nil
	}
	if err != nil {
		return err
	}
	defer op.blob.Close()
	rep.Archives++
	vo := archive.VerifyOptions{Quick: !o.Read, Workers: o.Workers, Progress: o.Progress}
	v, err := op.arch.Verify(ctx, vo)
	if err != nil {
		return err
	}
	rep.Bytes += v.Bytes
	return v.Err()
}

// Stats are what a repository holds. Sizes are bytes.
type Stats struct {
	Entries   int            `json:"entries"`
	Kinds     map[Kind]int   `json:"kinds"`
	Trees     int            `json:"trees"`
	Depth     int            `json:"depth"`    // archives of the longest chain
	Archives  int64          `json:"archives"` // size of those that are here
	Elsewhere int64          `json:"elsewhere"`
	States    int64          `json:"states"` // what all entries would have unpacked, with holes
	Data      int64          `json:"data"`   // the same without zeros
	Projects  []ProjectStats `json:"projects"`
}

// ProjectStats are those of one project.
type ProjectStats struct {
	Name     string `json:"name"`
	Entries  int    `json:"entries"`
	Archives int64  `json:"archives"`
	Latest   *Entry `json:"latest"`
}

// Stats counts what is in a forest.
func (f *Forest) Stats() *Stats {
	s := &Stats{Entries: len(f.Entries), Kinds: make(map[Kind]int), Trees: len(f.Roots()), Projects: []ProjectStats{}}
	for _, name := range f.Projects() {
		s.Projects = append(s.Projects, ProjectStats{Name: name})
	}
	depths := f.depths()
	for _, e := range f.Entries {
		s.Kinds[e.Kind]++
		s.Depth = max(s.Depth, depths[e]+1)
		s.States += e.Stats.Bytes
		s.Data += max(0, e.Stats.Bytes-e.Stats.Zero) // zeros are counted in whole blocks
		if e.Missing {
			s.Elsewhere += e.Size
		} else {
			s.Archives += e.Size
		}
		i, _ := slices.BinarySearchFunc(s.Projects, e.Project, func(p ProjectStats, n string) int {
			switch {
			case p.Name < n:
				return -1
			case p.Name > n:
				return 1
			}
			return 0
		})
		p := &s.Projects[i]
		p.Entries++
		p.Archives += e.Size
		p.Latest = e
	}
	return s
}
