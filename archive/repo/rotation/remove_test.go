package rotation_test

import (
	"errors"
	"math"
	"reflect"
	"slices"
	"testing"

	"pgregory.net/rapid"

	"tarvm/archive/repo/rotation"
)

func TestRemove(t *testing.T) {
	p, err := forest(t, tree()).Remove([]int{1, 2, 3, 5, 7})
	want := &rotation.Plan{
		Remove: []int{7, 5}, Freed: 20,
		Needed: []rotation.Need{{Number: 1, By: 6, Others: 1}, {Number: 2, By: 6, Others: 1}, {Number: 3, By: 6, Others: 1}},
	}
	if err != nil || !reflect.DeepEqual(p, want) {
		t.Errorf("%+v %v", p, err)
	}
	// Between #1 and #6, #3 stays for itself.
	p, err = forest(t, tree()).Remove([]int{1, 2, 4})
	want = &rotation.Plan{
		Remove: []int{4}, Freed: 10,
		Needed: []rotation.Need{{Number: 1, By: 5, Others: 1}, {Number: 2, By: 3}},
	}
	if err != nil || !reflect.DeepEqual(p, want) {
		t.Errorf("%+v %v", p, err)
	}
	for n, want := range map[int]string{0: "needed by #7", 1: "needed by #7 and another", 3: "needed by #7 and 3 others"} {
		if got := (rotation.Need{Number: 1, By: 7, Others: n}).String(); got != want {
			t.Errorf("%s, want %s", got, want)
		}
	}
	if _, err := forest(t, tree()).Remove([]int{8}); !errors.As(err, new(*rotation.UnknownError)) {
		t.Error(err)
	}
}

func TestReparent(t *testing.T) {
	// #4 and #6 part at #3, which goes: each gets what it had.
	p, err := forest(t, tree()).Reparent([]int{1, 3, 5})
	want := &rotation.Plan{
		Reparent: []rotation.Reparent{
			{Number: 2, Kind: rotation.Full, Bytes: 1010},
			{Number: 4, Parent: 2, Kind: rotation.Incremental, Bytes: 20},
			{Number: 6, Parent: 2, Kind: rotation.Incremental, Bytes: 20},
			{Number: 7, Kind: rotation.Full, Bytes: 1020},
		},
		Remove: []int{5, 3, 1}, Freed: 1020, Written: 2070,
	}
	if err != nil || !reflect.DeepEqual(p, want) {
		t.Errorf("%+v %v", p, err)
	}
	// Of a chain on something outside, the next builds on that; and what is not known is not guessed.
	items := []rotation.Item{item(1, 0, 1), item(2, 1, 2), item(3, 2, 3)}
	items[0].Kind, items[2].Bytes = rotation.Incremental, 5
	p, err = forest(t, items).Reparent([]int{1, 2})
	want = &rotation.Plan{Reparent: []rotation.Reparent{{Number: 3, Kind: rotation.Incremental}}, Remove: []int{2, 1}}
	if err != nil || !reflect.DeepEqual(p, want) {
		t.Errorf("%+v %v", p, err)
	}
	if _, err := forest(t, tree()).Reparent([]int{8}); !errors.As(err, new(*rotation.UnknownError)) {
		t.Error(err)
	}
}

// Archives may claim any size.
func TestHugeBytes(t *testing.T) {
	items := tree()
	for i := range items {
		items[i].Bytes = math.MaxInt64 - 1
	}
	p, err := forest(t, items).Reparent([]int{1, 2, 3})
	if err != nil || p.Freed != math.MaxInt64 || p.Written != math.MaxInt64 || len(p.Reparent) != 3 {
		t.Errorf("%+v %v", p, err)
	}
}

// Plans and Closed on random forests, against the definition: what can be built is, at each step; what is needed is
// needed; Closed says yes exactly when nothing is orphaned.
func TestPlanProperty(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		items := drawForest(t)
		set := drawSet(t, items)
		f := forest(t, items)
		before := buildable(items)
		twins := slices.ContainsFunc(items, func(it rotation.Item) bool { return it.Twin != "" })
		steps := func(items []rotation.Item, remove []int) {
			for k, n := range remove {
				now := buildable(items, remove[:k+1]...)
				for _, it := range items {
					if before[it.Number] && !now[it.Number] && !slices.Contains(remove[:k+1], it.Number) {
						t.Fatalf("removing %v: #%d cannot be built when #%d is gone", remove, it.Number, n)
					}
				}
			}
		}
		sound := func(left []rotation.Item) {
			f := forest(t, left)
			for _, it := range left {
				if _, err := f.Path(it.Number); err != nil && before[it.Number] {
					t.Fatal(err)
				}
			}
		}

		p, err := f.Remove(set)
		if err != nil {
			t.Fatal(err)
		}
		steps(items, p.Remove)
		left := without(items, p)
		sound(left)
		all := slices.Clone(p.Remove)
		for _, n := range p.Needed {
			all = append(all, n.Number)
			if !before[n.By] || slices.Contains(set, n.By) {
				t.Fatalf("%+v", n)
			}
		}
		slices.Sort(all)
		if !slices.Equal(all, set) {
			t.Fatalf("asked for %v, planned %+v", set, p)
		}
		for _, m := range p.Moved {
			if !before[m.Number] || !slices.Contains(p.Remove, m.From) || slices.Contains(p.Remove, m.To) || items[m.From-1].Twin != items[m.To-1].Twin {
				t.Fatalf("%+v", m)
			}
		}
		var still []int
		for _, n := range p.Needed {
			still = append(still, n.Number)
			now := buildable(left, n.Number)
			if !twins && !slices.ContainsFunc(left, func(it rotation.Item) bool { return it.Number != n.Number && before[it.Number] && !now[it.Number] }) {
				t.Fatalf("%+v is not needed", n)
			}
		}
		if again, err := forest(t, left).Remove(still); err != nil || len(again.Remove) > 0 {
			t.Fatalf("again: %+v %v", again, err)
		}

		order, err := f.Closed(set)
		now := buildable(items, set...)
		var orphans []int
		for _, it := range items {
			if before[it.Number] && !now[it.Number] && !slices.Contains(set, it.Number) {
				orphans = append(orphans, it.Number)
			}
		}
		var oe *rotation.OrphansError
		switch {
		case len(orphans) == 0 && err == nil:
			if len(order) != len(set) {
				t.Fatalf("%v is closed: %v", set, order)
			}
			steps(items, order)
		case errors.As(err, &oe):
			var got []int
			for _, o := range oe.Orphans {
				got = append(got, o.Number)
				if k := len(o.Chain) - 1; o.Chain[0] != o.Number || k < 1 || !slices.Contains(set, o.Chain[k]) {
					t.Fatalf("%+v", o)
				}
			}
			if !slices.Equal(got, orphans) {
				t.Fatalf("%v orphans %v, not %v", set, orphans, got)
			}
		default:
			t.Fatalf("%v orphans %v: %v, %v", set, orphans, order, err)
		}

		p, err = f.Reparent(set)
		if err != nil {
			t.Fatal(err)
		}
		merged := slices.Clone(items)
		for _, r := range p.Reparent {
			if (r.Kind == rotation.Full) && r.Parent != 0 || slices.Contains(set, r.Parent) || slices.Contains(set, r.Number) {
				t.Fatalf("%+v", r)
			}
			merged[r.Number-1].Parent, merged[r.Number-1].Kind = r.Parent, r.Kind
		}
		if got := buildable(merged); !reflect.DeepEqual(got, before) {
			t.Fatalf("merged: %v, before %v", got, before)
		}
		if len(p.Remove) != len(set) || len(p.Needed) > 0 {
			t.Fatalf("asked for %v, planned %+v", set, p)
		}
		steps(merged, p.Remove)
		sound(without(items, p))
	})
}
