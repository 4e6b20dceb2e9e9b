package rotation

import (
	"fmt"
	"math"
	"slices"
)

// A Plan says how entries go. First come all of Reparent, then all of Remove, each in its order. Stopped anywhere, all
// entries can be built that could be before, but for the removed ones.
type Plan struct {
	Reparent []Reparent `json:"reparent,omitempty"`
	Remove   []int      `json:"remove"` // children before parents
	Needed   []Need     `json:"needed,omitempty"`
	Moved    []Move     `json:"moved,omitempty"`
	Freed    int64      `json:"freed"`             // bytes of what goes, as far as they are known
	Written  int64      `json:"written,omitempty"` // bytes of Reparent, as far as they are known
}

// A Need is an entry that should go, and stays as others build on it.
type Need struct {
	Number int `json:"number"`
	By     int `json:"by"`               // the latest of those that stay for themselves and have no other such between
	Others int `json:"others,omitempty"` // how many of those are there besides
}

func (n Need) String() string {
	switch n.Others {
	case 0:
		return fmt.Sprintf("needed by #%d", n.By)
	case 1:
		return fmt.Sprintf("needed by #%d and another", n.By)
	}
	return fmt.Sprintf("needed by #%d and %d others", n.By, n.Others)
}

// A Move is an entry that builds on a twin of its parent from now on. No archive changes for that.
type Move struct {
	Number int `json:"number"`
	From   int `json:"from"`
	To     int `json:"to"`
}

// A Reparent is an entry that gets another archive of the same state, merged of its own and those between it and its
// new parent.
type Reparent struct {
	Number int   `json:"number"`
	Parent int   `json:"parent"` // that stays; 0: none, or what the chain's first builds on outside
	Kind   Kind  `json:"kind"`
	Bytes  int64 `json:"bytes"` // of what is merged, more than which there cannot be; 0: not known
}

// set finds the items of numbers.
func (f *Forest) set(numbers []int) ([]bool, error) {
	in := make([]bool, len(f.items))
	for _, n := range numbers {
		i, ok := f.index[n]
		if !ok {
			return nil, &UnknownError{n}
		}
		in[i] = true
	}
	return in, nil
}

func not(set []bool) []bool {
	out := make([]bool, len(set))
	for i, b := range set {
		out[i] = !b
	}
	return out
}

// Remove plans how those of the numbers go that no other needs. Where an entry could be built on several twins, those
// stay that cost the fewest bytes. The error is an *UnknownError.
func (f *Forest) Remove(numbers []int) (*Plan, error) {
	gone, err := f.set(numbers)
	if err != nil {
		return nil, err
	}
	// What stays anyway costs nothing, so that the ways found lead through it where they can.
	b := f.build(nil, not(gone))
	needed := make([]*Need, len(f.items))
	p := &Plan{Remove: []int{}}
	for _, i := range slices.Backward(b.order) {
		n, on := needed[i], b.on[i]
		if gone[i] && n == nil || on < 0 {
			continue
		}
		if !gone[on] {
			continue
		}
		by := Need{By: f.items[i].Number}
		if n != nil {
			by = *n
		}
		if up := needed[on]; up == nil {
			needed[on] = &Need{Number: f.items[on].Number, By: by.By, Others: by.Others}
		} else {
			up.By = max(up.By, by.By)
			up.Others += by.Others + 1
		}
	}
	for i := range f.items {
		if needed[i] != nil {
			p.Needed = append(p.Needed, *needed[i])
			gone[i] = false
		}
	}
	p.remove(f, gone, b)
	return p, nil
}

// remove lists what goes: first what cannot be built, on which nothing builds that could be, then against the order
// of building. What stays and has lost its parent builds on a twin.
func (p *Plan) remove(f *Forest, gone []bool, b built) {
	for i, it := range slices.Backward(f.items) {
		if gone[i] && !f.built.can[i] {
			p.Remove = append(p.Remove, it.Number)
		}
	}
	for _, i := range slices.Backward(b.order) {
		if gone[i] {
			p.Remove = append(p.Remove, f.items[i].Number)
		}
	}
	for i, it := range f.items {
		if gone[i] {
			p.Freed = sum(p.Freed, it.Bytes)
		} else if on := b.on[i]; b.can[i] && on >= 0 && !gone[on] && gone[f.index[it.Parent]] {
			p.Moved = append(p.Moved, Move{it.Number, it.Parent, f.items[on].Number})
		}
	}
}

// Reparent plans how all entries of the numbers go, and what needs them is merged before, each with the nearest on
// its way that stays, or to a full one. Entries that part at one that goes each get what it had: compare Freed with
// Written. The error is an *UnknownError.
func (f *Forest) Reparent(numbers []int) (*Plan, error) {
	gone, err := f.set(numbers)
	if err != nil {
		return nil, err
	}
	b := f.build(nil, not(gone))
	// Of what goes: the nearest on its way that stays, or -1, and the bytes up to there.
	type way struct {
		stays   int
		bytes   int64
		unknown bool
		first   Kind // of the chain's first, where stays is -1
	}
	ways := make([]way, len(f.items))
	p := &Plan{Remove: []int{}}
	for _, i := range b.order {
		it, on := f.items[i], b.on[i]
		w := way{stays: on, first: it.Kind}
		if on >= 0 && gone[on] {
			w = ways[on]
		}
		w.bytes = sum(w.bytes, it.Bytes)
		w.unknown = w.unknown || it.Bytes == 0
		ways[i] = w
		if gone[i] || on < 0 || !gone[on] {
			continue
		}
		r := Reparent{Number: it.Number, Kind: it.Kind, Bytes: w.bytes}
		if w.stays >= 0 {
			r.Parent = f.items[w.stays].Number
		} else if w.first == Full {
			r.Kind = Full
		}
		if w.unknown {
			r.Bytes = 0
		}
		p.Written = sum(p.Written, r.Bytes)
		p.Reparent = append(p.Reparent, r)
	}
	p.remove(f, gone, b)
	return p, nil
}

// sum adds bytes, of which untrusted archives may claim any number.
func sum(a, b int64) int64 {
	if a > math.MaxInt64-b {
		return math.MaxInt64
	}
	return a + b
}

// An Orphan is an entry that could not be built any more.
type Orphan struct {
	Number int   `json:"number"`
	Chain  []int `json:"chain"` // from it to what would be gone, each building on the next
}

// An OrphansError says what would become of others if entries were removed.
type OrphansError struct {
	Orphans []Orphan // by number
}

func (e *OrphansError) Error() string {
	var ns []int
	for _, o := range e.Orphans {
		ns = append(ns, o.Number)
	}
	o := e.Orphans[len(e.Orphans)-1]
	chain := numbers(o.Chain, " on ")
	if len(e.Orphans) == 1 {
		return fmt.Sprintf("entry #%d could not be built any more: %s", o.Number, chain)
	}
	return fmt.Sprintf("entries %s could not be built any more, as %s", numbers(ns, ", "), chain)
}

// Closed returns the numbers in an order in which they can be removed, if no other entry needs them; twins of those
// that stay may go. Errors are *OrphansError, which names all that would become unbuildable, and *UnknownError.
func (f *Forest) Closed(numbers []int) (order []int, err error) {
	gone, err := f.set(numbers)
	if err != nil {
		return nil, err
	}
	left := f.build(gone, nil)
	var oe OrphansError
	for i, it := range f.items {
		if gone[i] || !f.built.can[i] || left.can[i] {
			continue
		}
		o := Orphan{Number: it.Number, Chain: []int{it.Number}}
		// All on the way are orphans themselves, or i would be none.
		for j := i; !gone[j]; {
			j = f.built.on[j]
			o.Chain = append(o.Chain, f.items[j].Number)
		}
		oe.Orphans = append(oe.Orphans, o)
	}
	if len(oe.Orphans) > 0 {
		return nil, &oe
	}
	p, err := f.Remove(numbers)
	if err != nil {
		return nil, err
	}
	return p.Remove, nil
}
