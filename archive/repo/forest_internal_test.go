package repo

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"tarvm/delta"
	"tarvm/manifest"
)

func digest(s string) delta.Digest { return delta.Sum([]byte(s)) }

// entry makes an entry of a state, by names: its archive is told by its number, the parent's by state and number.
func entry(number int, state, parent string, archive int) *Entry {
	e := &Entry{
		Number: number, ID: digest(state), Digest: digest(fmt.Sprint(state, number)), Kind: Full, Project: "p", Name: state,
		Time: manifest.Time{Time: time.Unix(int64(number), 0).UTC()}, Codec: "none", Block: 65536,
		File: fmt.Sprintf("entries/p/%06d-%s.tar", number, state),
	}
	if parent != "" {
		e.Kind = Incremental
		e.Parent = &manifest.Parent{ID: digest(parent), Digest: digest(fmt.Sprint(parent, archive)), Name: parent}
	}
	return e
}

func forest(es ...*Entry) *Forest {
	f := &Forest{Entries: es, next: len(es) + 1}
	f.link()
	return f
}

// buildable are the entries that can be built, by states alone: the simplest way to say it.
func buildable(es []*Entry) map[*Entry]bool {
	have := make(map[delta.Digest]bool)
	can := make(map[*Entry]bool)
	for again := true; again; {
		again = false
		for _, e := range es {
			if !can[e] && (e.Parent == nil || have[e.Parent.ID]) {
				can[e], have[e.ID], again = true, true, true
			}
		}
	}
	return can
}

// TestForest compares forests of any entries with what can be built by states alone: with twins, missing parents, and states
// that build on each other.
func TestForest(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		n := rapid.IntRange(0, 14).Draw(t, "entries")
		states := rapid.IntRange(1, 8).Draw(t, "states")
		var es []*Entry
		for i := range n {
			parent := ""
			if rapid.IntRange(0, 3).Draw(t, "kind") > 0 {
				parent = fmt.Sprint("s", rapid.IntRange(0, states).Draw(t, "parent")) // one of them nobody has
			}
			es = append(es, entry(i+1, fmt.Sprint("s", rapid.IntRange(0, states-1).Draw(t, "state")), parent, rapid.IntRange(1, n).Draw(t, "archive")))
		}
		f := forest(es...)
		can := buildable(es)
		roots := 0
		for _, e := range es {
			p := f.Parent(e)
			if p == nil {
				roots++
			} else if e.Parent == nil || p.ID != e.Parent.ID || p == e {
				t.Fatalf("%s builds on %s", e, p)
			}
			if p != nil && !slices.Contains(f.Children(p), e) {
				t.Fatalf("%s is no child of its parent", e)
			}
			// The archive with which it was made, when that can be built: unless it is made with a circle.
			path, err := f.Path(e)
			if can[e] != (err == nil) {
				t.Fatalf("%s can be built: %v, path %v, %v", e, can[e], path, err)
			}
			var broken *BrokenError
			if err != nil && (!errors.As(err, &broken) || broken.Entry != e || broken.At == nil || f.Parent(broken.At) != nil) {
				t.Fatalf("%s: %v", e, err)
			}
			for i, x := range path {
				if (i == 0) != (x.Parent == nil) || i > 0 && f.Parent(x) != path[i-1] {
					t.Fatalf("path of %s: %v", e, refs(path))
				}
			}
			for _, x := range f.Twins(e) {
				if x == e || x.ID != e.ID {
					t.Fatalf("twin of %s: %s", e, x)
				}
			}
		}
		if len(f.Roots()) != roots {
			t.Fatalf("%d roots, want %d", len(f.Roots()), roots)
		}
		// Every entry hangs on exactly one root.
		total := 0
		for _, r := range f.Roots() {
			total += len(f.tree(r))
		}
		if total != len(es) {
			t.Fatalf("%d entries in trees, of %d", total, len(es))
		}
		f.Stats()
		if n == 0 {
			return
		}
		set := slices.DeleteFunc(slices.Clone(es), func(*Entry) bool { return rapid.Bool().Draw(t, "stays") })
		left := slices.DeleteFunc(slices.Clone(es), func(e *Entry) bool { return slices.Contains(set, e) })
		after := buildable(left)
		var want []*Entry
		for _, e := range left {
			if can[e] && !after[e] {
				want = append(want, e)
			}
		}
		if got := f.Orphans(set); !slices.Equal(got, want) {
			t.Fatalf("without %s: orphans %s, want %s", refs(set), refs(got), refs(want))
		}
		// Children before their parents, so that the rest can be built at any moment.
		order := f.childrenFirst(set)
		if len(order) != len(set) {
			t.Fatalf("order has %d of %d", len(order), len(set))
		}
		for i, e := range order {
			for _, later := range order[i+1:] {
				if f.Parent(later) == e {
					t.Fatalf("%s goes before %s, which builds on it", e, later)
				}
			}
		}
	})
}

// Two archives of the same states, each of which was made with the other's, do not hide that one of them can be built.
func TestForestCircle(t *testing.T) {
	full := entry(1, "P", "", 0)
	e := entry(2, "E", "P", 3) // made with #3, which wants E
	p := entry(3, "P", "E", 9)
	f := forest(full, e, p)
	for _, x := range []*Entry{full, e, p} {
		if _, err := f.Path(x); err != nil {
			t.Errorf("%s: %v", x, err)
		}
	}
	// Without the full one nothing can be, and nothing loops.
	f = forest(entry(2, "E", "P", 3), entry(3, "P", "E", 2))
	for _, x := range f.Entries {
		if p, err := f.Path(x); err == nil {
			t.Errorf("%s is built of %s", x, refs(p))
		}
		if _, err := f.Find(x.Ref() + "~2000000000"); !errors.Is(err, ErrNoEntry) {
			t.Errorf("%s: %v", x, err)
		}
	}
	if o := f.Orphans(f.Entries[:1]); len(o) != 0 {
		t.Errorf("orphans of what could not be built: %s", refs(o))
	}
	f.childrenFirst(f.Entries)
	// The exact archive counts, even if its twin is nearer.
	f = forest(entry(1, "A", "", 0), entry(2, "B", "A", 1), entry(3, "A", "B", 2), entry(4, "C", "A", 3))
	if p := f.Parent(f.Entries[3]); p.Number != 3 {
		t.Errorf("#4 builds on %s", p)
	}
}

// deep is a chain, wide are increments of one, twins are archives of the same state with as many children.
func shapes(n int) map[string]*Forest {
	var deep, wide, twins, circles []*Entry
	for i := 1; i <= n; i++ {
		parent, root, twin := fmt.Sprint("s", i-1), "s1", "t"
		if i == 1 {
			parent, root, twin = "", "", ""
		}
		deep = append(deep, entry(i, fmt.Sprint("s", i), parent, i-1))
		wide = append(wide, entry(i, fmt.Sprint("s", i), root, 1))
		twins = append(twins, entry(i, "t", twin, i-1))
		circles = append(circles, entry(i, fmt.Sprint("s", i), fmt.Sprint("s", (i-1)^1+1), (i-1)^1+1))
	}
	return map[string]*Forest{"deep": forest(deep...), "wide": forest(wide...), "twins": forest(twins...), "circles": forest(circles...)}
}

// TestForestLarge would not end where something takes the square of the number of entries.
func TestForestLarge(t *testing.T) {
	const n = 10_000
	for name, f := range shapes(n) {
		last := f.Entries[n-1]
		path, err := f.Path(last)
		want := map[string]int{"deep": n, "wide": 2, "twins": n, "circles": 1}[name]
		if name == "circles" {
			if err == nil {
				t.Errorf("circles: path of %d", len(path))
			}
		} else if err != nil || len(path) != want {
			t.Errorf("%s: path of %d, want %d: %v", name, len(path), want, err)
		}
		if o := f.Orphans(f.Entries[:1]); name == "deep" && len(o) != n-1 || name == "wide" && len(o) != n-1 {
			t.Errorf("%s: %d orphans", name, len(o))
		}
		if o := f.childrenFirst(f.Entries); len(o) != n || name == "deep" && o[0] != last {
			t.Errorf("%s: order of %d begins with %s", name, len(o), o[0])
		}
		f.Stats()
		if _, err := f.Find(fmt.Sprintf("#%d~%d", n, want)); !errors.Is(err, ErrNoEntry) {
			t.Errorf("%s: beyond the root: %v", name, err)
		}
	}
}

func TestFind(t *testing.T) {
	es := []*Entry{entry(1, "base", "", 0), entry(2, "web", "base", 1), entry(3, "web", "web", 2), entry(5, "123", "web", 3), entry(6, "latest", "", 0), entry(7, "a/b", "base", 1), entry(8, "x~1", "", 0)}
	es[2].ID, es[2].Project = digest("other"), "q"
	es[3].Parent = &manifest.Parent{ID: es[2].ID, Digest: es[2].Digest}
	twin := entry(9, "base", "", 0)
	twin.Name = "twin"
	es = append(es, twin)
	f := forest(es...)
	f.next = 12
	hex := strings.TrimPrefix(digest("other").String(), "blake3:")
	for _, c := range []struct {
		text string
		want int    // 0: none
		why  string // of the error
	}{
		{"#3", 3, ""}, {"3", 3, ""}, {"#000003", 3, ""}, {"#4", 0, "it was removed"}, {"4", 0, "it was removed"}, {"#12", 0, "there is none"},
		{"#0", 0, "there is none"}, {"#-1", 0, "there is none"}, {"#99999999999999999999", 0, "there is none"}, {"", 0, "there is none"}, {"#", 0, "there is none"},
		{"base", 1, ""}, {"web", 0, "several entries: #2, #3"}, {"p/web", 2, ""}, {"q/web", 3, ""}, {"q/base", 0, "there is none"},
		{"123", 0, "there is none"}, {"p/123", 5, ""}, {"latest", 9, ""}, {"q/latest", 3, ""}, {"p/latest", 9, ""}, {"none/latest", 0, "there is none"},
		{"a/b", 7, ""}, {"p/a/b", 7, ""},
		{hex[:6], 3, ""}, {hex[:7], 3, ""}, {strings.ToUpper(hex[:10]), 3, ""}, {hex, 3, ""}, {hex[:5], 0, "there is none"}, {hex + "0", 0, "there is none"},
		{strings.TrimPrefix(digest("base").String(), "blake3:")[:8], 1, ""},
		{"#5~1", 3, ""}, {"#5~", 3, ""}, {"#5~2", 2, ""}, {"#5~3", 1, ""}, {"#5~0", 5, ""}, {"#5~4", 0, "has 3 ancestors here"}, {"latest~1", 0, "has 0 ancestors"},
		{"p/web~", 1, ""}, {"#1~99999999999999999999", 0, "there is none"}, {"~1", 0, "there is none"}, {"#1~-1", 0, "there is none"}, {hex[:8] + "~1", 2, ""},
	} {
		e, err := f.Find(c.text)
		var fe *FindError
		switch {
		case c.want > 0 && (err != nil || e.Number != c.want):
			t.Errorf("%q: %v %v, want #%d", c.text, e, err, c.want)
		case c.want == 0 && (!errors.As(err, &fe) || !errors.Is(err, ErrNoEntry) || !strings.Contains(err.Error(), c.why)):
			t.Errorf("%q: %v %v, want %q", c.text, e, err, c.why)
		}
	}
	if _, err := forest().Find("#1"); !errors.Is(err, ErrNoEntry) || !strings.Contains(err.Error(), "empty") {
		t.Error(err)
	}
}

func FuzzFind(f *testing.F) {
	fo := forest(entry(1, "base", "", 0), entry(2, "web", "base", 1), entry(3, "web", "web", 2))
	for _, s := range []string{"#1", "web~1", "p/latest", "abcdef0", "~", "#~", "é/~9", "\x00"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, text string) {
		if e, err := fo.Find(text); (e == nil) == (err == nil) || err != nil && !errors.Is(err, ErrNoEntry) {
			t.Fatalf("%q: %v %v", text, e, err)
		}
	})
}

// A name of a file says what it was made of, and is made of no other.
func TestFileName(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		f := newFileName("p", rapid.IntRange(1, maxNumber).Draw(t, "number"), rapid.IntRange(0, 1<<20).Draw(t, "generation"), rapid.String().Draw(t, "name"), ".tar.zst")
		name := strings.TrimPrefix(f.archive(), "entries/p/")
		got, ok := parseFileName("p", name)
		if !ok || got != f || len(f.rest) > maxName+len(".tar.zst") {
			t.Fatalf("%q: %v %+v, want %+v", name, ok, got, f)
		}
	})
	rapid.Check(t, func(t *rapid.T) {
		name := rapid.StringMatching(`[0-9]{0,9}(\.[0-9]{0,3})?-?[a-z./-]{0,5}`).Draw(t, "name")
		if f, ok := parseFileName("p", name); ok && f.archive() != "entries/p/"+name {
			t.Fatalf("%q is taken for %q", name, f.archive())
		}
	})
	for _, bad := range []string{"", "-", "1-a.tar", "00001-a.tar", "0000001-a.tar", "000000-a.tar", "000001.0-a.tar", "000001.01-a.tar", "000001.-a.tar", "+00001-a.tar", "000001-a/b.tar", "00000١-a", "2147483648-a", "000001.9999999999-a"} {
		if f, ok := parseFileName("p", bad); ok {
			t.Errorf("%q is taken for %+v", bad, f)
		}
	}
}

func TestProjectName(t *testing.T) {
	for _, ok := range []string{"a", "web server", "日本", "é", "x.y-z_1", strings.Repeat("a", 100)} {
		if err := CheckProject(ok); err != nil || projectName(ok) != ok {
			t.Errorf("%q: %v, %q", ok, err, projectName(ok))
		}
	}
	for _, bad := range []string{"", ".", "..", ".hidden", "a/b", "a\\b", "a\nb", "a\x00b", " a", "a ", "a.", "\xff", "a:b", "\x1b[31m", "a\u202eb", strings.Repeat("a", 101)} {
		if err := CheckProject(bad); err == nil {
			t.Errorf("%q is a project's name", bad)
		}
		if err := CheckProject(projectName(bad)); err != nil {
			t.Errorf("%q becomes %q: %v", bad, projectName(bad), err)
		}
	}
	rapid.Check(t, func(t *rapid.T) {
		s := projectName(rapid.String().Draw(t, "text"))
		if err := CheckProject(s); err != nil {
			t.Fatal(err)
		}
	})
}

func BenchmarkLink(b *testing.B) {
	r := rand.New(rand.NewPCG(1, 2))
	var es []*Entry
	for i := 1; i <= 10_000; i++ {
		parent, p := "", 0
		if i%50 != 1 {
			p = i - 1 - r.IntN((i-1)%50)
			parent = fmt.Sprint("s", p)
		}
		es = append(es, entry(i, fmt.Sprint("s", i), parent, p))
	}
	for b.Loop() {
		forest(es...)
	}
}
