package chain

import (
	"context"
	"errors"
	"slices"

	"tarvm/delta"
	"tarvm/manifest"
)

// Action is what a restore does with a member.
type Action string

// The actions of a plan.
const (
	ActionKeep   Action = "keep"   // it is there
	ActionMeta   Action = "meta"   // its content is there, its metadata are set
	ActionPatch  Action = "patch"  // a part of its content is there
	ActionBuild  Action = "build"  // written from nothing
	ActionCreate Action = "create" // directory, link, FIFO
	ActionRemove Action = "remove" // the entry does not have it
)

// A PlanItem is one member of a plan.
type PlanItem struct {
	Path   manifest.Path `json:"path"`
	Type   manifest.Type `json:"type"`
	Action Action        `json:"action"`
	Size   int64         `json:"size,omitempty"`
	Write  int64         `json:"write,omitempty"` // bytes
}

// A Plan says what a restore would do. Sizes are bytes.
type Plan struct {
	ID        delta.Digest `json:"id"`
	Dir       string       `json:"dir"`
	Fresh     bool         `json:"fresh"` // the directory is absent or empty, and appears as a whole
	Items     []PlanItem   `json:"items"`
	Fetch     []Fetched    `json:"fetch"` // from each archive
	Local     int64        `json:"local"` // taken from other places in the directory
	Keep      int64        `json:"keep"`  // in place
	Write     int64        `json:"write"`
	Need      int64        `json:"need"` // space, besides what the directory has
	Free      int64        `json:"free"` // -1: not known
	Recovered bool         `json:"recovered,omitempty"`
}

// PlanRestore says what Restore would do. It reads what the directory holds and the operations of the archives, and
// changes nothing; but a restore that was interrupted behind its journal is completed first, as there is no way to
// tell what the directory holds before.
func PlanRestore(ctx context.Context, c *Chain, k int, dir string, o RestoreOptions) (*Plan, error) {
	r, err := newRestorer(ctx, c, k, dir, o)
	if err != nil {
		return nil, err
	}
	defer r.close()
	p := &Plan{ID: r.e.snap.ID, Dir: r.p.dir, Fresh: r.p.fresh, Need: r.need, Free: -1, Recovered: r.p.resumed}
	if n, err := r.free(); err == nil {
		p.Free = n
	} else if !errors.Is(err, errors.ErrUnsupported) {
		return nil, err
	}
	for i := range r.todos {
		td := &r.todos[i]
		it := PlanItem{Path: td.m.Path, Type: td.m.Type, Action: ActionKeep, Size: td.m.Size}
		switch {
		case td.keep && td.meta && td.m.Path != ".":
			it.Action = ActionMeta
		case td.keep:
		case td.o == nil:
			it.Action = ActionCreate
		case td.o.mode == modePatch:
			it.Action = ActionPatch
			p.Keep += td.o.inPlace.count() * td.o.b.t.Grid.Block
		default:
			it.Action = ActionBuild
		}
		if td.o != nil && td.keep {
			p.Keep += td.m.Size
		} else if td.o != nil {
			it.Write = r.bytesOf(td.o)
			p.Write += it.Write
		}
		p.Items = append(p.Items, it)
	}
	for _, path := range r.gone {
		e := r.t.at(path)
		p.Items = append(p.Items, PlanItem{Path: path, Type: e.Type, Action: ActionRemove, Size: e.Size})
	}
	bytes := make([]int64, len(c.entries))
	frames := make([]int64, len(c.entries))
	err = c.windows(ctx, k, r.finder(), r.wants, r.divide, func(ps []piece) error {
		slices.SortFunc(ps, func(a, b piece) int { return int(min(max(a.src-b.src, -1), 1)) })
		last := make(map[int32]int)
		for _, q := range ps {
			switch {
			case q.arch <= localPiece:
				p.Local += q.n
			case q.arch >= 0:
				bytes[q.arch] += q.n
				if rd := c.entries[q.arch].reader(); rd != nil {
					lo, hi := rd.FrameAt(q.src), rd.FrameAt(q.src+q.n-1)
					if l, ok := last[q.arch]; ok {
						lo = max(lo, l+1)
					}
					if hi >= lo {
						frames[q.arch] += int64(hi - lo + 1)
						last[q.arch] = hi
					}
				}
			}
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	for i, e := range c.entries {
		if bytes[i] > 0 {
			p.Fetch = append(p.Fetch, Fetched{Index: i, ID: e.snap.ID, Name: e.snap.Entry.Name, Bytes: bytes[i], Frames: frames[i]})
		}
	}
	return p, nil
}
