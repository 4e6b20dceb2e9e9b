package qcow2

import (
	"math"
	"slices"

	"tarvm/formats/internal/parse"
)

// A layout says where in the file metadata is, so that no guest data is read
// there.
type layout struct {
	unit   int64
	tables []span  // what is not one cluster long, in whole clusters: sorted and apart from each other
	blocks []int64 // file offsets of refcount blocks, sorted
	l2s    []int64 // file offsets of L2 tables, sorted
}

// tableAt returns the name of the table, or refcount block, that holds the
// cluster at off. Empty: none.
func (l *layout) tableAt(off int64) string {
	i, found := slices.BinarySearchFunc(l.tables, off, func(s span, off int64) int {
		switch {
		case s.end <= off:
			return -1
		case s.off > off:
			return 1
		}
		return 0
	})
	if found {
		return l.tables[i].what
	}
	if _, found := slices.BinarySearch(l.blocks, off); found {
		return "refcount blocks"
	}
	return ""
}

// clear returns up to where there is no metadata from the cluster at off on, or
// what the cluster is of.
func (l *layout) clear(off int64) (end int64, what string) {
	if what := l.tableAt(off); what != "" {
		return 0, what
	}
	end = math.MaxInt64
	i, _ := slices.BinarySearchFunc(l.tables, off, func(s span, off int64) int {
		if s.off < off {
			return -1
		}
		return 1
	})
	if i < len(l.tables) {
		end = l.tables[i].off
	}
	for _, list := range [][]int64{l.blocks, l.l2s} {
		i, found := slices.BinarySearch(list, off)
		if found {
			return 0, "L2 tables" // blocks were asked above
		}
		if i < len(list) {
			end = min(end, list[i])
		}
	}
	return end, ""
}

// lay fills im.layout.
func (im *image) lay() error {
	l := &im.layout
	l.unit = im.unit
	add := func(off, n int64, what string) {
		if n > 0 {
			l.tables = append(l.tables, span{off &^ (im.unit - 1), (off + n - 1) | (im.unit - 1) + 1, what})
		}
	}
	add(0, 1, "header")
	add(im.active.Off, im.active.Count*8, "L1 table")
	add(im.refs.Off, im.refs.Count*8, "refcount table")
	add(int64(im.snapshotsOff), im.snapsLen, "snapshot table")
	for _, s := range im.snaps {
		if s.good {
			add(s.l1.Off, s.l1.Count*8, s.l1.Name)
		}
	}
	add(im.directory.off, im.directory.end-im.directory.off, im.directory.what)
	for _, b := range im.bitmaps {
		add(b.table.Off, b.table.Count*8, b.table.Name)
	}
	slices.SortStableFunc(l.tables, func(a, b span) int {
		switch {
		case a.off < b.off:
			return -1
		case a.off > b.off:
			return 1
		}
		return 0
	})
	apart := l.tables[:1]
	for _, s := range l.tables[1:] {
		last := &apart[len(apart)-1]
		if s.off < last.end { // Check reports that they overlap
			last.end = max(last.end, s.end)
			continue
		}
		apart = append(apart, s)
	}
	l.tables = apart

	// When the image is dirty the refcount table may be older than the rest.
	if im.incompat&incompatDirty == 0 {
		if err := im.pointers(&im.refs, ^uint64(511), &l.blocks); err != nil {
			return err
		}
	}
	slices.Sort(l.blocks)
	l.blocks = slices.Compact(l.blocks)
	left := int64(mostEntries)
	if err := im.pointers(&im.active, offsetMask, &l.l2s); err != nil {
		return err
	}
	for i := range im.snaps {
		s := &im.snaps[i]
		if left -= s.l1.Count; s.good && left >= 0 {
			if err := im.pointers(&s.l1, offsetMask, &l.l2s); err != nil {
				return err
			}
			if len(l.l2s) > mostEntries {
				slices.Sort(l.l2s)
				l.l2s = slices.Compact(l.l2s)
			}
		}
	}
	slices.Sort(l.l2s)
	l.l2s = slices.Compact(l.l2s)
	return nil
}

// pointers adds to list what the entries of t point at, as far as it is a
// cluster of the file and in no table.
func (im *image) pointers(t *parse.Table, mask uint64, list *[]int64) error {
	for i := int64(0); i < t.Count; {
		_, b, err := t.Page(i)
		if err != nil {
			return err
		}
		for ; len(b) >= 8; b = b[8:] {
			v := bigEndian.Uint64(b) & mask
			i++
			if v == 0 || v%uint64(im.unit) != 0 || v > uint64(im.m.Size()) || !im.m.Inside(int64(v), im.unit) {
				continue
			}
			if im.layout.tableAt(int64(v)) == "" {
				*list = append(*list, int64(v))
			}
		}
	}
	return nil
}
