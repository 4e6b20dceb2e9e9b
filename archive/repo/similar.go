package repo

import (
	"context"
	"errors"
	"slices"

	"tarvm/archive"
	"tarvm/delta"
)

// sampleMax is how many digests of a state are looked for in others: enough for a tenth of a per cent.
const sampleMax = 1 << 16

// A sample is some of the blocks of a state, chosen by their digests, so that two states choose the same ones of those
// that they share.
type sample struct {
	bits   uint // a block is chosen when so many bits of its digest are zero
	blocks map[delta.Digest]bool
}

// sampleOf takes a sample of m. Files of one block, and blocks of zeros, say nothing.
func sampleOf(ctx context.Context, m *archive.Manifest) (*sample, error) {
	s := &sample{blocks: make(map[delta.Digest]bool)}
	err := eachDigest(ctx, m, func(d delta.Digest) {
		if !s.chooses(d) {
			return
		}
		s.blocks[d] = true
		for len(s.blocks) > sampleMax {
			s.bits++
			for b := range s.blocks {
				if !s.chooses(b) {
					delete(s.blocks, b)
				}
			}
		}
	})
	return s, err
}

func (s *sample) chooses(d delta.Digest) bool {
	v := uint32(d[0]) | uint32(d[1])<<8 | uint32(d[2])<<16 | uint32(d[3])<<24
	return v&(1<<s.bits-1) == 0
}

// in returns which part of the sample m has, from 0 to 1.
func (s *sample) in(ctx context.Context, m *archive.Manifest) (float64, error) {
	if len(s.blocks) == 0 {
		return 0, nil
	}
	found := make(map[delta.Digest]bool)
	err := eachDigest(ctx, m, func(d delta.Digest) {
		if s.chooses(d) && s.blocks[d] {
			found[d] = true
		}
	})
	return float64(len(found)) / float64(len(s.blocks)), err
}

func eachDigest(ctx context.Context, m *archive.Manifest, f func(delta.Digest)) error {
	buf := make([]delta.Digest, 4096)
	for i := range m.Members {
		if err := context.Cause(ctx); err != nil {
			return err
		}
		t, err := m.Table(&m.Members[i])
		if err != nil {
			return err
		}
		if t == nil {
			continue
		}
		for at, n := int64(0), t.Grid.Count(t.Size); at < n; at += int64(len(buf)) {
			b := buf[:min(int64(len(buf)), n-at)]
			if err := t.Read(at, b); err != nil {
				return err
			}
			for _, d := range b {
				if !d.IsZero() {
					f(d)
				}
			}
		}
	}
	return nil
}

// errNoBlocks: there are no blocks by which a machine could be told from others, as when its disks are empty.
var errNoBlocks = errors.New("nothing to compare")

// similar returns the entry that has the largest part of m's blocks, and that part; errNoBlocks when m has none. It looks
// at the newest entries of all trees first, and then at all of the tree that is best.
func (r *Repo) similar(ctx context.Context, f *Forest, m *archive.Manifest) (*Entry, float64, error) {
	s, err := sampleOf(ctx, m)
	if err == nil && len(s.blocks) == 0 {
		err = errNoBlocks
	}
	if err != nil {
		return nil, 0, err
	}
	tried := make(map[*Entry]bool)
	var best *Entry
	part := 0.0
	try := func(es []*Entry) error {
		for _, e := range es {
			if tried[e] || e.Block != m.Entry.Block {
				continue
			}
			tried[e] = true
			em, c, err := r.ManifestOf(ctx, e)
			if err != nil {
				if ctx.Err() != nil {
					return context.Cause(ctx)
				}
				continue // what cannot be read is no parent
			}
			p, err := s.in(ctx, em)
			c.Close()
			if err != nil {
				if ctx.Err() != nil {
					return context.Cause(ctx)
				}
				continue
			}
			if p > part || p == part && best != nil && e.Number > best.Number {
				best, part = e, p
			}
		}
		return nil
	}
	var tips []*Entry
	for _, root := range f.Roots() {
		tree := f.tree(root)
		tips = append(tips, slices.MaxFunc(tree, func(a, b *Entry) int { return a.Number - b.Number }))
	}
	if err := try(tips); err != nil || best == nil {
		return nil, 0, err
	}
	root := best
	for f.parent[root.Number] != nil {
		root = f.parent[root.Number]
	}
	return best, part, try(f.tree(root))
}

// tree returns an entry with all that builds on it.
func (f *Forest) tree(root *Entry) []*Entry {
	tree := []*Entry{root}
	for i := 0; i < len(tree); i++ {
		tree = append(tree, f.children[tree[i].Number]...)
	}
	return tree
}
