package rotation

import (
	"cmp"
	"container/heap"
	"fmt"
	"math"
	"slices"
	"strings"
	"time"
)

// Kind is how an entry depends on others.
type Kind string

// The kinds of entries.
const (
	Full         Kind = "full"         // on none
	Incremental  Kind = "incremental"  // on any other
	Differential Kind = "differential" // on the first of its chain
)

// Absent is the parent of an item that builds on an entry which is not there: the item cannot be built.
const Absent = -1

// An Item is what rotation has to know of an entry.
type Item struct {
	Number int // from 1; no two items have the same
	// Parent is the number of the entry that this one builds on. 0: none, or one outside of the repository that is always
	// there; a full item has none. A number that no item has is as Absent. Where the parent is gone and a twin of it is
	// there, Parent is the twin.
	Parent  int
	Twin    string // items with the same one are the same state, and what builds on one builds on each; "": unique
	Time    time.Time
	Kind    Kind
	Project string
	Machine string // where rules count by machine within a project, which one; "" otherwise
	Labels  map[string]string
	Bytes   int64 // of the archive; 0: not known
}

// older orders by time, and by number within a time.
func older(a, b *Item) int {
	return cmp.Or(a.Time.Compare(b.Time), cmp.Compare(a.Number, b.Number))
}

// An ItemError says that an item contradicts itself or another.
type ItemError struct {
	Number int
	Why    string
}

func (e *ItemError) Error() string { return fmt.Sprintf("entry #%d: %s", e.Number, e.Why) }

// An UnknownError says that there is no entry of a number.
type UnknownError struct{ Number int }

func (e *UnknownError) Error() string { return fmt.Sprintf("no entry #%d", e.Number) }

// A BrokenError says that an entry cannot be built, as what it builds on is not there, or builds on it.
type BrokenError struct{ Number int }

func (e *BrokenError) Error() string {
	return fmt.Sprintf("entry #%d cannot be built: what it builds on is not there", e.Number)
}

// A Forest is all entries of a repository. It is not changed by any method, which may run together.
type Forest struct {
	items []*Item     // by number
	index map[int]int // of numbers in items
	state []int       // of each item: the number of its state
	needs []int       // of each item: the state on which it builds, needsNone or needsAbsent
	of    [][]int     // of each state: its items
	after [][]int     // of each state: the items that build on it
	built built
}

const (
	needsNone   = -1
	needsAbsent = -2
)

// built says how entries are built.
type built struct {
	order []int // the items that can be built, each behind what it builds on
	on    []int // of each item: the one it builds on, -1 for none; without meaning for what cannot be built
	can   []bool
}

// NewForest takes all items of a repository: of those in other projects others may have been saved. It keeps them;
// they must not be changed. Errors are *ItemError.
func NewForest(items []Item) (*Forest, error) {
	f := &Forest{index: make(map[int]int, len(items)), state: make([]int, len(items)), needs: make([]int, len(items))}
	for i := range items {
		f.items = append(f.items, &items[i])
	}
	slices.SortFunc(f.items, func(a, b *Item) int { return cmp.Compare(a.Number, b.Number) })
	states := make(map[string]int)
	for i, it := range f.items {
		why := ""
		switch {
		case it.Number < 1:
			why = "numbers are from 1"
		case i > 0 && f.items[i-1].Number == it.Number:
			why = "is there twice"
		case it.Parent < Absent:
			why = fmt.Sprintf("parent #%d", it.Parent)
		case it.Kind != Full && it.Kind != Incremental && it.Kind != Differential:
			why = fmt.Sprintf("kind %q: want %s, %s or %s", it.Kind, Full, Incremental, Differential)
		case it.Kind == Full && it.Parent != 0:
			why = "is full and has a parent"
		case it.Bytes < 0:
			why = fmt.Sprintf("%d bytes", it.Bytes)
		}
		if why != "" {
			return nil, &ItemError{it.Number, why}
		}
		f.index[it.Number] = i
		s, ok := states[it.Twin]
		if !ok || it.Twin == "" {
			s = len(f.of)
			states[it.Twin] = s
			f.of = append(f.of, nil)
		}
		f.state[i] = s
		f.of[s] = append(f.of[s], i)
	}
	f.after = make([][]int, len(f.of))
	for i, it := range f.items {
		f.needs[i] = needsAbsent
		if it.Parent == 0 {
			f.needs[i] = needsNone
		} else if p, ok := f.index[it.Parent]; ok {
			f.needs[i] = f.state[p]
			f.after[f.state[p]] = append(f.after[f.state[p]], i)
		}
	}
	f.built = f.build(nil, nil)
	return f, nil
}

// build finds how the items that are not gone are built, at the least cost: that of its bytes, and one more, for each
// archive, but nothing for the free ones. Those held are there without being built. It is Dijkstra's algorithm. What
// builds on a state builds on the first item of it that is reached, so that ways to the same state are shared; and as
// order is that of being reached, nothing builds on what comes later, even where twins seem to lead in a circle.
func (f *Forest) build(gone, free []bool, held ...int) built {
	b := built{on: make([]int, len(f.items)), can: make([]bool, len(f.items))}
	var q queue
	push := func(i, on int, cost int64) {
		if gone != nil && gone[i] || slices.Contains(held, i) {
			return
		}
		if free == nil || !free[i] {
			if cost += 1; cost > math.MaxInt64-f.items[i].Bytes {
				cost = math.MaxInt64 - 1 - f.items[i].Bytes
			}
			cost += f.items[i].Bytes
		}
		b.on[i] = on
		heap.Push(&q, reach{i, cost})
	}
	for _, i := range held {
		b.on[i] = -1
		heap.Push(&q, reach{i, 0})
	}
	for i := range f.items {
		if f.needs[i] == needsNone {
			push(i, -1, 0)
		}
	}
	seen := make([]bool, len(f.of))
	for len(q) > 0 {
		r, _ := heap.Pop(&q).(reach)
		b.can[r.item] = true
		b.order = append(b.order, r.item)
		s := f.state[r.item]
		if seen[s] {
			continue
		}
		seen[s] = true
		for _, c := range f.after[s] {
			push(c, r.item, r.cost)
		}
	}
	return b
}

// reach is an item, and what it costs to get there.
type reach struct {
	item int
	cost int64
}

type queue []reach

func (q queue) Len() int { return len(q) }
func (q queue) Less(i, j int) bool {
	return cmp.Or(cmp.Compare(q[i].cost, q[j].cost), cmp.Compare(q[i].item, q[j].item)) < 0
}
func (q queue) Swap(i, j int) { q[i], q[j] = q[j], q[i] }
func (q *queue) Push(x any) {
	if r, ok := x.(reach); ok {
		*q = append(*q, r)
	}
}
func (q *queue) Pop() any {
	n := len(*q) - 1
	r := (*q)[n]
	*q = (*q)[:n]
	return r
}

// Path returns the entries of which one is built, the first of its chain first and itself last; of twins, those that
// lead to the fewest bytes. Errors are *UnknownError and *BrokenError.
func (f *Forest) Path(number int) ([]int, error) {
	i, ok := f.index[number]
	if !ok {
		return nil, &UnknownError{number}
	}
	if !f.built.can[i] {
		return nil, &BrokenError{number}
	}
	var path []int
	for ; i >= 0; i = f.built.on[i] {
		path = append(path, f.items[i].Number)
	}
	slices.Reverse(path)
	return path, nil
}

// PathFrom is Path for a place that holds an entry: when have is on a way, those behind it, of the way that costs the
// fewest bytes; what is held costs none. have may be 0, for an empty place, and may be one that cannot be built.
// Nothing is left when the place holds the wanted state.
func (f *Forest) PathFrom(have, number int) ([]int, error) {
	if have == 0 {
		return f.Path(number)
	}
	h, ok := f.index[have]
	if !ok {
		return nil, &UnknownError{have}
	}
	i, ok := f.index[number]
	if !ok {
		return nil, &UnknownError{number}
	}
	if f.state[i] == f.state[h] {
		return nil, nil
	}
	b := f.build(nil, nil, h)
	if !b.can[i] {
		return nil, &BrokenError{number}
	}
	var path []int
	for ; i >= 0 && i != h; i = b.on[i] {
		path = append(path, f.items[i].Number)
	}
	slices.Reverse(path)
	return path, nil
}

// Broken returns the entries that cannot be built, by number.
func (f *Forest) Broken() []int {
	var ns []int
	for i, it := range f.items {
		if !f.built.can[i] {
			ns = append(ns, it.Number)
		}
	}
	return ns
}

// Newest returns the entry of a group that was saved last, the one with the highest number that can be built; 0 when
// there is none.
func (f *Forest) Newest(project, machine string) int {
	for i, it := range slices.Backward(f.items) {
		if it.Project == project && it.Machine == machine && f.built.can[i] {
			return it.Number
		}
	}
	return 0
}

// numbers lists entries for people, at most so many of them.
func numbers(ns []int, sep string) string {
	const most = 8
	var s []string
	for i, n := range ns {
		if i == most-1 && len(ns) > most {
			s = append(s, fmt.Sprintf("and %d more", len(ns)-i))
			break
		}
		s = append(s, fmt.Sprintf("#%d", n))
	}
	return strings.Join(s, sep)
}
