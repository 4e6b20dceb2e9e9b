package rotation_test

import (
	"errors"
	"fmt"
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"

	"tarvm/archive/repo/rotation"
)

func forest(t interface {
	Helper()
	Fatal(...any)
}, items []rotation.Item) *rotation.Forest {
	t.Helper()
	f, err := rotation.NewForest(slices.Clone(items))
	if err != nil {
		t.Fatal(err)
	}
	return f
}

// buildable finds which items can be built when some are gone, by going round until nothing is added: what a forest
// finds in another way.
func buildable(items []rotation.Item, gone ...int) map[int]bool {
	can := make(map[int]bool)
	state := make(map[string]bool)
	by := make(map[int]rotation.Item)
	for _, it := range items {
		by[it.Number] = it
	}
	for more := true; more; {
		more = false
		for _, it := range items {
			if can[it.Number] || slices.Contains(gone, it.Number) {
				continue
			}
			if p := by[it.Parent]; it.Parent == 0 || can[it.Parent] || p.Twin != "" && state[p.Twin] {
				can[it.Number], state[it.Twin], more = true, true, true
			}
		}
	}
	return can
}

// without does what a plan says, as a repository does it.
func without(items []rotation.Item, p *rotation.Plan) []rotation.Item {
	var left []rotation.Item
	for _, it := range items {
		if slices.Contains(p.Remove, it.Number) {
			continue
		}
		for _, r := range p.Reparent {
			if r.Number == it.Number {
				it.Parent, it.Kind = r.Parent, r.Kind
			}
		}
		for _, m := range p.Moved {
			if m.Number == it.Number {
				it.Parent = m.To
			}
		}
		left = append(left, it)
	}
	return left
}

var epoch = time.Date(2026, 11, 1, 3, 0, 0, 0, time.UTC)

// item is one of a day of November 2026.
func item(number, parent int, day int) rotation.Item {
	k := rotation.Incremental
	if parent == 0 {
		k = rotation.Full
	}
	return rotation.Item{Number: number, Parent: parent, Kind: k, Time: epoch.AddDate(0, 0, day-1)}
}

// drawForest makes forests of all shapes: with twins, entries whose parents are missing, and those that build on a
// twin of their own.
func drawForest(t *rapid.T) []rotation.Item {
	n := rapid.IntRange(1, 24).Draw(t, "n")
	var items []rotation.Item
	for i := 1; i <= n; i++ {
		it := item(i, 0, rapid.IntRange(1, 40).Draw(t, "day"))
		it.Bytes = rapid.SampledFrom([]int64{0, 1, 10, 1000}).Draw(t, "bytes")
		it.Project = rapid.SampledFrom([]string{"a", "b"}).Draw(t, "project")
		it.Twin = rapid.SampledFrom([]string{"", "", "", "x", "y"}).Draw(t, "twin")
		switch p := rapid.IntRange(-4, i-1).Draw(t, "parent"); {
		case p == -4:
			it.Kind, it.Parent = rotation.Incremental, rotation.Absent
		case p == -3:
			it.Kind, it.Parent = rotation.Incremental, n+7
		case p > 0:
			it.Kind, it.Parent = rapid.SampledFrom([]rotation.Kind{rotation.Incremental, rotation.Differential}).Draw(t, "kind"), p
		case p == -2:
			it.Kind = rotation.Incremental // on something outside
		}
		items = append(items, it)
	}
	return items
}

func drawSet(t *rapid.T, items []rotation.Item) []int {
	var set []int
	for _, it := range items {
		if rapid.Bool().Draw(t, "in") {
			set = append(set, it.Number)
		}
	}
	return set
}

// M21, M24, M29: each entry has one way to be built, of which each step is recorded or its twin's.
func TestPathProperty(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		items := drawForest(t)
		f := forest(t, items)
		can := buildable(items)
		for _, it := range items {
			path, err := f.Path(it.Number)
			if broken := new(rotation.BrokenError); errors.As(err, &broken) == can[it.Number] {
				t.Fatalf("#%d: buildable %v, error %v", it.Number, can[it.Number], err)
			}
			if slices.Contains(f.Broken(), it.Number) == can[it.Number] {
				t.Fatalf("#%d: broken %v", it.Number, f.Broken())
			}
			for k, n := range path {
				p := items[n-1].Parent
				switch {
				case slices.Contains(path[:k], n), k == 0 && p != 0:
					t.Fatalf("#%d: %v", it.Number, path)
				case k > 0 && path[k-1] != p && (items[p-1].Twin == "" || items[p-1].Twin != items[path[k-1]-1].Twin):
					t.Fatalf("#%d: %v: #%d does not build on #%d", it.Number, path, n, path[k-1])
				}
			}
			if len(path) > 0 && path[len(path)-1] != it.Number {
				t.Fatalf("#%d: %v", it.Number, path)
			}
			have := rapid.IntRange(1, len(items)).Draw(t, "have")
			path, err = f.PathFrom(have, it.Number)
			if can[it.Number] && err != nil {
				t.Fatal(err)
			}
			at := []int{have}
			for _, n := range path {
				p := items[n-1].Parent
				if p != 0 && !slices.ContainsFunc(at, func(a int) bool { return a == p || items[a-1].Twin != "" && items[a-1].Twin == items[p-1].Twin }) {
					t.Fatalf("#%d from #%d: %v: nothing to build #%d on", it.Number, have, path, n)
				}
				at = []int{n}
			}
		}
	})
}

// tree is what the scenarios are about:
//
//	#1 ┬ #2 ─ #3 ┬ #4
//	   │         └ #6   a branch
//	   └ #5 ─ #7        a differential, and what builds on it
func tree() []rotation.Item {
	items := []rotation.Item{item(1, 0, 1), item(2, 1, 2), item(3, 2, 3), item(4, 3, 4), item(5, 1, 5), item(6, 3, 6), item(7, 5, 7)}
	items[4].Kind = rotation.Differential
	for i := range items {
		items[i].Bytes = 10
	}
	items[0].Bytes = 1000
	return items
}

func TestM24Path(t *testing.T) {
	f := forest(t, tree())
	for number, want := range map[int][]int{1: {1}, 4: {1, 2, 3, 4}, 6: {1, 2, 3, 6}, 7: {1, 5, 7}} {
		if got, err := f.Path(number); err != nil || !slices.Equal(got, want) {
			t.Errorf("#%d: %v %v, want %v", number, got, err, want)
		}
	}
	if _, err := f.Path(8); !errors.As(err, new(*rotation.UnknownError)) {
		t.Error(err)
	}
}

func TestM25PathFrom(t *testing.T) {
	items := append(tree(), item(8, 0, 9), item(9, 8, 10))
	items[8].Twin, items[2].Twin = "x", "x" // #9 is #3's state, with a history of its own
	items[7].Bytes = 5000
	f := forest(t, items)
	for _, c := range []struct {
		have, number int
		want         []int
	}{
		{0, 4, []int{1, 2, 3, 4}},
		{2, 4, []int{3, 4}},
		{4, 4, nil},
		{6, 4, []int{1, 2, 3, 4}}, // a sister
		{4, 3, []int{1, 2, 3}},    // a descendant
		{5, 7, []int{7}},
		{9, 4, []int{4}}, // a twin of what is on the way
		{8, 4, []int{9, 4}},
		{9, 3, nil},
	} {
		if got, err := f.PathFrom(c.have, c.number); err != nil || !slices.Equal(got, c.want) {
			t.Errorf("#%d from #%d: %v %v, want %v", c.number, c.have, got, err, c.want)
		}
	}
	if _, err := f.PathFrom(77, 4); !errors.As(err, new(*rotation.UnknownError)) {
		t.Error(err)
	}
}

func TestItems(t *testing.T) {
	two := item(2, 0, 1)
	full, kind, bytes := item(1, 0, 1), item(1, 0, 1), item(1, 0, 1)
	full.Parent, kind.Kind, bytes.Bytes = 2, "copy", -1
	for want, items := range map[string][]rotation.Item{
		"entry #0: numbers are from 1":                                  {item(0, 0, 1)},
		"entry #2: is there twice":                                      {two, item(1, 0, 1), two},
		"entry #1: parent #-2":                                          {item(1, -2, 1)},
		"entry #1: is full and has a parent":                            {full, two},
		`entry #1: kind "copy": want full, incremental or differential`: {kind},
		"entry #1: -1 bytes":                                            {bytes},
	} {
		_, err := rotation.NewForest(items)
		if ie := new(rotation.ItemError); !errors.As(err, &ie) || err.Error() != want {
			t.Errorf("%v, want %s", err, want)
		}
	}
	f := forest(t, []rotation.Item{item(1, 2, 1), item(2, 1, 1), item(3, 3, 1)})
	if got := f.Broken(); !slices.Equal(got, []int{1, 2, 3}) {
		t.Errorf("of circles, broken are %v", got)
	}
	if n := f.Newest("", ""); n != 0 {
		t.Errorf("newest is #%d", n)
	}
	if n := forest(t, append(tree(), item(9, 8, 1))).Newest("", ""); n != 7 {
		t.Errorf("newest is #%d", n)
	}
}

func TestM26Closed(t *testing.T) {
	f := forest(t, tree())
	for _, c := range []struct {
		set   []int
		order []int
		err   string
	}{
		{[]int{7}, []int{7}, ""},
		{[]int{3, 4, 6}, []int{6, 4, 3}, ""},
		{[]int{1, 2, 3, 4, 5, 6, 7}, []int{6, 4, 7, 3, 5, 2, 1}, ""},
		{nil, nil, ""},
		{[]int{5}, nil, "entry #7 could not be built any more: #7 on #5"},
		{[]int{2}, nil, "entries #3, #4, #6 could not be built any more, as #6 on #3 on #2"},
		{[]int{3, 4}, nil, "entry #6 could not be built any more: #6 on #3"},
		{[]int{9}, nil, "no entry #9"},
	} {
		order, err := f.Closed(c.set)
		if got := fmt.Sprint(err); got != c.err && (err != nil || c.err != "") || !slices.Equal(order, c.order) {
			t.Errorf("%v: %v, %v; want %v, %s", c.set, order, err, c.order, c.err)
		}
	}
	var oe *rotation.OrphansError
	if _, err := f.Closed([]int{2}); !errors.As(err, &oe) || len(oe.Orphans) != 3 || !slices.Equal(oe.Orphans[2].Chain, []int{6, 3, 2}) {
		t.Errorf("%+v", oe)
	}
}

func TestM29Twins(t *testing.T) {
	// The machine was at #2, at #3, and at #2's state again: #4. #5 was saved from there.
	items := []rotation.Item{item(1, 0, 1), item(2, 1, 2), item(3, 2, 3), item(4, 3, 4), item(5, 4, 5)}
	items[1].Twin, items[3].Twin = "x", "x"
	f := forest(t, items)
	if path, err := f.Path(5); err != nil || !slices.Equal(path, []int{1, 2, 5}) {
		t.Errorf("%v %v", path, err)
	}
	p, err := f.Remove([]int{3, 4})
	if err != nil || !slices.Equal(p.Remove, []int{4, 3}) || !slices.Equal(p.Moved, []rotation.Move{{Number: 5, From: 4, To: 2}}) {
		t.Errorf("%+v %v", p, err)
	}
	if _, err := f.Closed([]int{3, 4}); err != nil {
		t.Error(err)
	}
	// #4 is made from #3, and that from #2: it is no way to do without #2.
	if _, err := f.Closed([]int{2}); err == nil || err.Error() != "entries #3, #4, #5 could not be built any more, as #5 on #2" {
		t.Error(err)
	}
}
