package chain

import (
	"fmt"
	"sort"
	"sync"

	"tarvm/archive"
	"tarvm/archive/codec"
	"tarvm/delta"
	"tarvm/manifest"
)

// A Chain is the archives from which an entry can be rebuilt, base first. It is safe for concurrent
// use. It does not own the archives' sources.
type Chain struct {
	entries []*entry
	notes   []string
	cache   *lru
	ahead   ahead
}

// New orders archives into the chain of their last entry: the one on which no other builds. They may
// come in any order, and there may be more than are needed, as long as these are not last entries
// of their own. Errors are *MissingParentError, *HeadsError, or wrap ErrDepth.
func New(archives []*archive.Archive) (*Chain, error) {
	o := newOrder(archives)
	if len(o.all) == 0 {
		return nil, fmt.Errorf("chain: %w", errNoArchives)
	}
	head, err := o.head()
	if err != nil {
		return nil, err
	}
	return o.chain(head)
}

// NewFor orders archives into the chain of the entry with the given id, or whose manifest.json has
// that digest. Errors are those of New.
func NewFor(id delta.Digest, archives []*archive.Archive) (*Chain, error) {
	o := newOrder(archives)
	head := -1
	for i, m := range o.all {
		switch {
		case m.Digest == id:
			return o.chain(i)
		case m.ID == id && (head < 0 || m.Entry.Kind == manifest.Full && o.all[head].Entry.Kind != manifest.Full):
			head = i
		}
	}
	if head < 0 {
		return nil, &MissingParentError{ID: id}
	}
	return o.chain(head)
}

// frameCache is how many bytes of decoded frames are kept, of all archives together: with a cache in each, memory would
// grow with the chain.
const frameCache = 16 << 20

// Len is the number of entries.
func (c *Chain) Len() int { return len(c.entries) }

// Head is the index of the last entry.
func (c *Chain) Head() int { return len(c.entries) - 1 }

// Entry returns the archive of entry i, 0 being the base. It is nil for what a stream supplied.
func (c *Chain) Entry(i int) *archive.Archive { return c.entries[i].arch }

// Snapshot returns the manifest of entry i.
func (c *Chain) Snapshot(i int) *manifest.Snapshot { return c.entries[i].snap }

// Notes are remarks on the chain for people: a parent that has the right state, but is another
// archive than the child was made with.
func (c *Chain) Notes() []string { return c.notes }

func label(s *manifest.Snapshot) string {
	if s.Entry.Name == "" {
		return s.ID.Short()
	}
	return fmt.Sprintf("%s (%s)", s.ID.Short(), s.Entry.Name)
}

// order links archives by their parents.
type order struct {
	archs    []*archive.Archive
	all      []*archive.Manifest
	byID     map[delta.Digest][]int
	byDigest map[delta.Digest]int
	dist     []int // number of entries below; -1: no way to a base
}

func newOrder(archives []*archive.Archive) *order {
	o := &order{byID: make(map[delta.Digest][]int), byDigest: make(map[delta.Digest]int)}
	for _, a := range archives {
		m := a.Manifest()
		if _, twice := o.byDigest[m.Digest]; twice {
			continue
		}
		i := len(o.all)
		o.byDigest[m.Digest] = i
		o.byID[m.ID] = append(o.byID[m.ID], i)
		o.all = append(o.all, m)
		o.archs = append(o.archs, a)
	}
	// Breadth first from the bases, so that no chain of parents is too deep for the stack.
	wanted := make(map[delta.Digest][]int)
	o.dist = make([]int, len(o.all))
	var queue []int
	for i, m := range o.all {
		o.dist[i] = -1
		if m.Entry.Parent == nil {
			o.dist[i] = 0
			queue = append(queue, i)
		} else {
			wanted[m.Entry.Parent.ID] = append(wanted[m.Entry.Parent.ID], i)
		}
	}
	for ; len(queue) > 0; queue = queue[1:] {
		i := queue[0]
		for _, child := range wanted[o.all[i].ID] {
			if o.dist[child] < 0 {
				o.dist[child] = o.dist[i] + 1
				queue = append(queue, child)
			}
		}
	}
	return o
}

// parent chooses the parent of i among those with the right state, -1 if there is none: the archive with which
// i was made, if a base can be reached from it; else the one nearest to a base.
func (o *order) parent(i int, exact bool) int {
	p := o.all[i].Entry.Parent
	best := -1
	for _, j := range o.byID[p.ID] {
		if j == i {
			continue
		}
		if exact && o.all[j].Digest == p.Digest && (o.dist[j] >= 0 || o.dist[i] < 0) {
			return j
		}
		if o.dist[j] >= 0 && (best < 0 || o.dist[best] < 0 || o.dist[j] < o.dist[best]) || best < 0 {
			best = j
		}
	}
	return best
}

// head finds the entry on which no other builds.
func (o *order) head() (int, error) {
	used := make([]bool, len(o.all))
	wantedBy := make(map[delta.Digest]int)
	for i, m := range o.all {
		if m.Entry.Parent == nil {
			continue
		}
		wantedBy[m.Entry.Parent.ID]++
		if j := o.parent(i, true); j >= 0 {
			used[j] = true
		}
	}
	var heads, strict []int
	for i, m := range o.all {
		if used[i] {
			continue
		}
		heads = append(heads, i)
		// A second archive of a state that another entry builds on is an alternative, not a head.
		if wantedBy[m.ID] == 0 {
			strict = append(strict, i)
		}
	}
	if len(strict) > 0 {
		heads = strict
	}
	if len(heads) == 0 {
		// A machine came back to a state that it had: by their states the archives build on each other in a circle, by
		// their digests they cannot.
		for i, m := range o.all {
			if _, ok := o.byDigest[m.Entry.Parent.Digest]; !ok {
				return 0, o.missing(i)
			}
		}
	}
	// Several archives of one state: any will do, the shortest way is best.
	sort.SliceStable(heads, func(a, b int) bool { return uint(o.dist[heads[a]]) < uint(o.dist[heads[b]]) })
	e := &HeadsError{}
	for _, h := range heads {
		if o.all[h].ID != o.all[heads[0]].ID || len(e.Heads) == 0 {
			e.Heads = append(e.Heads, label(o.all[h].Snapshot))
		}
	}
	if len(e.Heads) > 1 {
		return 0, e
	}
	return heads[0], nil
}

func (o *order) chain(head int) (*Chain, error) {
	path, err := o.path(head, true)
	if err != nil && o.dist[head] >= 0 {
		// The archives that were meant are not all there; along dist there is a way.
		path, err = o.path(head, false)
	}
	if err != nil {
		return nil, err
	}
	c := &Chain{cache: newLRU(segmentCache)}
	frames := codec.NewCache(frameCache)
	for n := range path {
		i := path[len(path)-1-n]
		if p := o.all[i].Entry.Parent; p != nil {
			if par := c.entries[n-1].snap; par.Digest != p.Digest {
				c.notes = append(c.notes, fmt.Sprintf("%s was made from another archive of state %s than the one in use", label(o.all[i].Snapshot), p.ID.Short()))
			}
		}
		a, m := o.archs[i], o.all[i]
		a.Data().Share(frames)
		c.add(&entry{arch: a, snap: m.Snapshot, table: m.Table, segment: a.Segment, data: a.Data(), size: a.Data().Size()})
	}
	return c, nil
}

func (c *Chain) add(e *entry) {
	e.k = len(c.entries)
	e.index = sync.OnceValue(func() map[manifest.Path]int { return e.snap.Index() })
	c.entries = append(c.entries, e)
}

// path returns the way from i to a base, i first.
func (o *order) path(i int, exact bool) ([]int, error) {
	on := make(map[int]bool)
	var path []int
	for {
		if len(path) == MaxDepth {
			return nil, fmt.Errorf("%s: %w: more than %d entries", label(o.all[path[0]].Snapshot), ErrDepth, MaxDepth)
		}
		on[i] = true
		path = append(path, i)
		p := o.all[i].Entry.Parent
		if p == nil {
			return path, nil
		}
		next := o.parent(i, exact)
		if next < 0 || on[next] {
			return nil, o.missing(i)
		}
		i = next
	}
}

// missing says that the parent of i is not there.
func (o *order) missing(i int) error {
	p := o.all[i].Entry.Parent
	return &MissingParentError{ID: p.ID, Digest: p.Digest, Name: p.Name, Child: label(o.all[i].Snapshot)}
}
