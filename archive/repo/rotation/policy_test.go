package rotation_test

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"tarvm/archive/repo/rotation"
)

// machine is one that is saved and rotated by a policy.
type machine struct {
	policy rotation.Policy
	items  []rotation.Item
	forest *rotation.Forest // of them
	at     int
	last   int // number
	rest   int // how many saves come between rotations
}

func (m *machine) set(items []rotation.Item) (err error) {
	m.items = items
	m.forest, err = rotation.NewForest(slices.Clone(items))
	return err
}

// save does what Next says, and then what After says; it returns an error where that breaks a promise.
func (m *machine) save(now time.Time) (next rotation.Next, err error) {
	if m.forest == nil {
		if err := m.set(nil); err != nil {
			return next, err
		}
	}
	if next, err = m.policy.Next(m.forest, m.at, now); err != nil {
		return next, err
	}
	m.last++
	m.at = m.last
	if err := m.set(append(m.items, rotation.Item{Number: m.last, Parent: next.Parent, Kind: next.Kind, Time: now, Bytes: 1})); err != nil {
		return next, err
	}
	if m.rest > 0 && m.last%(m.rest+1) != 0 {
		return next, nil
	}
	kept := make(map[int]bool)
	for again := false; ; again = true {
		verdicts := m.policy.After(m.forest, now)
		for _, v := range verdicts {
			if again && kept[v.Number] && !v.Keep {
				return next, fmt.Errorf("%v: #%d goes the second time", now, v.Number)
			}
			kept[v.Number] = v.Keep
		}
		if !kept[m.last] {
			return next, fmt.Errorf("%v: #%d goes at once", now, m.last)
		}
		plan, err := m.forest.Remove(rotation.Forgotten(verdicts))
		switch {
		case err != nil || len(plan.Remove) == 0:
			return next, err
		case again:
			return next, fmt.Errorf("%v: the second time, %v go", now, plan.Remove)
		}
		if err := m.set(without(m.items, plan)); err != nil {
			return next, err
		}
		if b := m.forest.Broken(); len(b) > 0 {
			return next, fmt.Errorf("%v: %v cannot be built", now, b)
		}
	}
}

// kinds counts entries of each kind.
func kinds(items []rotation.Item) string {
	n := make(map[rotation.Kind]int)
	for _, it := range items {
		n[it.Kind]++
	}
	var s []string
	for _, k := range []rotation.Kind{rotation.Full, rotation.Differential, rotation.Incremental} {
		if n[k] > 0 {
			s = append(s, fmt.Sprintf("%d %s", n[k], k))
		}
	}
	return strings.Join(s, ", ")
}

// M27: three years, saved each night, with what the calendar has in store: the change of clocks twice a year, a leap
// day, a year with 53 weeks.
func TestM27ThreeYears(t *testing.T) {
	berlin := zone(t, "Europe/Berlin")
	start := time.Date(2026, 1, 1, 2, 30, 0, 0, berlin) // a Thursday; on March 29 there is no 2:30
	// 36 months; 156 Mondays, of which 5 begin a month and have its full one.
	const made = "36 full, 151 differential, 909 incremental"
	for _, c := range []struct {
		policy string
		years  int
		rest   int
		made   string // of all that were saved
		left   string
		most   int // entries at any time
	}{
		{"", 1, 99, "1 full, 364 incremental", "1 full, 364 incremental", 365},
		{"full=monthly,differential=weekly,incremental=daily", 1, 99, "12 full, 51 differential, 302 incremental", "12 full, 51 differential, 302 incremental", 365},
		{"full=monthly,incremental=never", 1, 99, "365 full", "365 full", 365},
		// Without rules to keep only increments go. Left are those since the last Monday, December 25, and that of the
		// 24th, which is within a week and needs the five before it.
		{"full=monthly,differential=weekly,incremental=daily,replace", 3, 6, made, "36 full, 151 differential, 12 incremental", 204},
		// Full: of December and the 11 months before, and of two Decembers more. Differential: of four Mondays; the fifth
		// week ends with December 1, a full one.
		{"full=monthly,differential=weekly,replace,keep-weekly=5,keep-monthly=12,keep-yearly=3", 3, 0, made, "14 full, 4 differential, 12 incremental", 30},
		{"full=monthly,differential=weekly,keep-daily=7,keep-weekly=5,keep-monthly=12,keep-yearly=3", 3, 0, made, "14 full, 4 differential, 6 incremental", 29},
		// Fourteen days begin with Monday, December 18.
		{"full=weekly,keep-last=14", 3, 0, "157 full, 939 incremental", "2 full, 12 incremental", 20},
		{"full=yearly,differential=monthly,replace=1m", 3, 6, "3 full, 33 differential, 1060 incremental", "3 full, 33 differential, 59 incremental", 100},
		{"full=every 30 entries,differential=every 7 entries,keep-within=1m", 3, 0, "37 full, 146 differential, 913 incremental", "2 full, 5 differential, 26 incremental", 39},
		{"full=always,keep-daily=7,keep-weekly=4,keep-monthly=12", 3, 0, "1096 full", "21 full", 21},
		{"full=monthly,differential=always,incremental=never,keep-daily=14", 3, 0, "36 full, 1060 differential", "1 full, 14 differential", 15},
	} {
		t.Run(c.policy, func(t *testing.T) {
			m := &machine{policy: parse(t, c.policy), rest: c.rest}
			var all []rotation.Item
			most := 0
			for now := start; now.Year() < start.Year()+c.years; now = time.Date(now.Year(), now.Month(), now.Day()+1, 2, 30, 0, 0, berlin) {
				if _, err := m.save(now); err != nil {
					t.Fatal(err)
				}
				all = append(all, m.items[len(m.items)-1])
				most = max(most, len(m.items))
			}
			if got := kinds(all); got != c.made {
				t.Errorf("made %s, want %s", got, c.made)
			}
			if got := kinds(m.items); got != c.left {
				t.Errorf("left %s, want %s", got, c.left)
			}
			if most > c.most {
				t.Errorf("%d entries at once, want at most %d", most, c.most)
			}
		})
	}
}

// M27: the schedule by days. November of 2026 begins on a Sunday.
func TestM27Schedule(t *testing.T) {
	m := &machine{policy: parse(t, "full=monthly,differential=weekly,incremental=daily,replace")}
	var got []string
	save := func(day int, hour int) {
		t.Helper()
		next, err := m.save(time.Date(2026, 11, day, hour, 0, 0, 0, time.UTC))
		if err != nil {
			t.Fatal(err)
		}
		got = append(got, fmt.Sprintf("%d: %s%s", day, next, map[bool]string{false: " (not due)"}[next.Due]))
	}
	expect := func(left []int, want ...string) {
		t.Helper()
		if !slices.Equal(got, want) {
			t.Errorf("%q\nwant %q", got, want)
		}
		var ns []int
		for _, it := range m.items {
			ns = append(ns, it.Number)
		}
		if !slices.Equal(ns, left) {
			t.Errorf("left %v, want %v", ns, left)
		}
		got = nil
	}
	save(1, 9)
	save(1, 18)
	save(2, 9)
	save(3, 9)
	save(3, 18)
	save(5, 9) // the 4th is left out
	expect([]int{1, 2, 3, 4, 5, 6},
		"1: full: nothing to build on", "1: incremental of #1: one is there today (not due)", "2: differential of #1: none this week",
		"3: incremental of #3: goes on from it", "3: incremental of #4: one is there today (not due)", "5: incremental of #5: goes on from it")
	// #2 is replaced by #3, and as old as that: a week before the 9th at nine.
	save(9, 9)
	save(10, 9)
	expect([]int{1, 3, 4, 5, 6, 7, 8}, "9: differential of #1: none this week", "10: incremental of #7: goes on from it")
	save(11, 9) // #4 and #5 are old enough, but #6 needs them
	expect([]int{1, 3, 4, 5, 6, 7, 8, 9}, "11: incremental of #8: goes on from it")
	save(12, 10)
	expect([]int{1, 3, 7, 8, 9, 10}, "12: incremental of #9: goes on from it")
	save(12+42, 10) // six weeks without
	expect([]int{1, 3, 7, 11}, "54: full: none this month")
}

func TestNext(t *testing.T) {
	items := tree()
	items = append(items, item(8, rotation.Absent, 8), item(9, 0, 9))
	now := epoch.AddDate(0, 0, 7) // Sunday, November 8
	for _, c := range []struct {
		policy string
		at     int
		now    time.Time
		want   string
	}{
		{"", 0, now, "full: nothing to build on"},
		{"", 8, now, "full: #8 cannot be built"},
		{"", 7, now, "incremental of #7: goes on from it"},
		{"", 7, now.AddDate(9, 0, 0), "incremental of #7: goes on from it"},
		{"full=never", 7, now.AddDate(9, 0, 0), "incremental of #7: goes on from it"},
		// M22: an older one, restored: a branch, though a full one is due.
		{"full=monthly", 2, now.AddDate(0, 1, 0), "incremental of #2: a branch, beside #3"},
		{"full=monthly,incremental=never", 2, now.AddDate(0, 1, 0), "full: none this month"},
		{"full=always", 9, now, "full: always"},
		{"full=monthly", 7, now.AddDate(0, 1, 0), "full: none this month"},
		{"full=monthly", 7, now.AddDate(-1, 0, 0), "full: none this month"}, // a clock set back
		{"full=yearly", 7, now.AddDate(0, 1, 0), "incremental of #7: goes on from it"},
		{"full=yearly", 7, now.AddDate(0, 2, 0), "full: none this year"},
		{"full=daily", 7, now, "full: none today"},
		{"full=hourly", 9, now.AddDate(0, 0, 1).Add(59 * time.Minute), "incremental of #9: goes on from it"},
		{"full=hourly", 9, now.AddDate(0, 0, 1).Add(time.Hour), "full: none this hour"},
		{"full=every 7 entries", 7, now, "full: 7 entries since #1"},
		{"full=every 8 entries", 7, now, "incremental of #7: goes on from it"},
		{"differential=weekly", 7, now, "incremental of #7: goes on from it"},
		{"differential=weekly", 7, now.AddDate(0, 0, 1), "differential of #1: none this week"},
		{"differential=weekly", 4, now.AddDate(0, 0, -2), "differential of #1: none this week"},
		{"differential=every 2 entries", 7, now, "differential of #1: 2 entries since #5"},
		{"differential=every 4", 6, now, "differential of #1: 4 entries since #1"},
		{"differential=every 5", 6, now, "incremental of #6: goes on from it"},
		{"full=monthly,differential=weekly", 7, now.AddDate(0, 1, 0), "full: none this month"},
		{"differential=monthly,incremental=never", 7, now, "differential of #1: no increments are wanted (not due)"},
		{"differential=always", 9, now, "differential of #9: always"},
		{"incremental=never", 9, now, "full: no other kind is wanted"},
		{"full=monthly,incremental=never", 9, now, "full: no other kind is wanted (not due)"},
		{"incremental=daily", 7, now, "incremental of #7: goes on from it"},
		{"incremental=daily", 7, now.AddDate(0, 0, -1), "incremental of #7: one is there today (not due)"},
	} {
		p := parse(t, c.policy)
		n, err := p.Next(forest(t, items), c.at, c.now)
		got := n.String()
		if !n.Due {
			got += " (not due)"
		}
		if err != nil || got != c.want {
			t.Errorf("%q, at #%d: %s %v, want %s", c.policy, c.at, got, err, c.want)
		}
	}
	p := rotation.Policy{}
	if _, err := p.Next(forest(t, items), 10, now); !errors.As(err, new(*rotation.UnknownError)) {
		t.Error(err)
	}
}

// A differential replaces increments of its own tree alone, and a full one those of its own group.
func TestReplace(t *testing.T) {
	items := []rotation.Item{
		item(1, 0, 1), item(2, 1, 2),
		item(3, 0, 1), item(4, 3, 2), item(5, 3, 20),
		item(6, 0, 1), item(7, 6, 2), item(8, 0, 20),
	}
	items[4].Kind = rotation.Differential
	for i := range 3 {
		items[5+i].Machine = "another"
	}
	items[1].Labels = map[string]string{"keep": ""}
	for text, want := range map[string]string{
		"replace":                   "#5 no rule | #2 not replaced | #3 no rule | #1 no rule | #8 no rule | #6 no rule",
		"replace,keep-label=keep":   "#5 newest | #2 label keep; not replaced | #8 newest",
		"replace=1y":                "#5 no rule | #4 replaced within 1y | #2 not replaced | #3 no rule | #1 no rule | #8 no rule | #7 replaced within 1y | #6 no rule",
		"replace=2w,keep-monthly=1": "#5 monthly 2026-11 | #2 not replaced | #8 monthly 2026-11",
	} {
		p := parse(t, text)
		got := show(p.After(forest(t, items), epoch.AddDate(0, 1, 0)))
		if got != want {
			t.Errorf("%s: %s\nwant %s", text, got, want)
		}
	}
}

// Whatever the policy, the times (clocks jump, machines rest) and the branches: nothing that is kept is lost, the
// newest stays, and rotation is done when it is done.
func TestPolicyProperty(t *testing.T) {
	berlin := zone(t, "Europe/Berlin")
	rapid.Check(t, func(rt *rapid.T) {
		m := &machine{policy: drawPolicy(rt), rest: rapid.IntRange(0, 3).Draw(rt, "rest")}
		now := time.Date(2028, 2, 20, 0, 0, 0, 0, berlin)
		for range rapid.IntRange(1, 60).Draw(rt, "saves") {
			hours := rapid.SampledFrom([]int{0, 1, 5, 12, 24, 24, 24, 24, 30, 7 * 24, 42 * 24, -1, -24, -500 * 24, 900 * 24}).Draw(rt, "hours")
			now = now.Add(time.Duration(hours) * time.Hour)
			if rapid.IntRange(0, 9).Draw(rt, "restore") == 0 && len(m.items) > 0 {
				m.at = rapid.SampledFrom(m.items).Draw(rt, "at").Number
			}
			before := slices.Clone(m.items)
			next, err := m.save(now)
			if err != nil {
				rt.Fatalf("%s: %v", m.policy, err)
			}
			if next.Kind == rotation.Differential {
				// M23
				i := slices.IndexFunc(before, func(it rotation.Item) bool { return it.Number == next.Parent })
				if before[i].Kind != rotation.Full {
					rt.Fatalf("%s: %s", m.policy, next)
				}
			}
		}
	})
}

func drawPolicy(t *rapid.T) rotation.Policy {
	period := func(name string) rotation.Period {
		p := rotation.Period{Unit: rotation.Unit(rapid.IntRange(int(rotation.Unset), int(rotation.Year)).Draw(t, name))}
		if p.Unit == rotation.Entries {
			p.N = rapid.IntRange(1, 9).Draw(t, "n")
		}
		return p
	}
	count := func() rotation.Count {
		return rotation.Count(rapid.SampledFrom([]int{0, 0, 0, 1, 2, 5, -1}).Draw(t, "count"))
	}
	span := func() rotation.Span {
		if rapid.IntRange(0, 3).Draw(t, "some") > 0 {
			return rotation.Span{}
		}
		part := rapid.SampledFrom([]int{0, 0, 1, 10})
		return rotation.Span{Years: part.Draw(t, "y"), Months: part.Draw(t, "m"), Days: part.Draw(t, "d"), Hours: part.Draw(t, "h")}
	}
	p := rotation.Policy{Full: period("full"), Differential: period("differential"), Incremental: period("incremental")}
	if p.Incremental.Unit == rotation.Entries {
		p.Incremental = rotation.Period{}
	}
	if p.Replace = rapid.Bool().Draw(t, "replace"); p.Replace {
		p.ReplaceAfter = span()
	}
	p.Rules = rotation.Rules{
		Last: count(), Hourly: count(), Daily: count(), Weekly: count(), Monthly: count(), Yearly: count(),
		Within: span(), WithinHourly: span(), WithinDaily: span(), WithinWeekly: span(), WithinMonthly: span(), WithinYearly: span(),
	}
	word := rapid.StringMatching(`[a-z,\\ü]{1,3}( [a-z,\\=]{1,3})?`)
	for range rapid.IntRange(0, 2).Draw(t, "labels") {
		l := rotation.Label{Key: word.Filter(func(s string) bool { return !strings.Contains(s, "=") }).Draw(t, "key"), Any: rapid.Bool().Draw(t, "any")}
		if !l.Any {
			l.Value = word.Draw(t, "value")
		}
		p.Labels = append(p.Labels, l)
	}
	return p
}
