package rotation

import (
	"cmp"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"
)

// Rules say what is kept. The zero value says nothing, and so everything is.
type Rules struct {
	Last    Count `json:"keep_last,omitzero" toml:"keep_last,omitzero"`
	Hourly  Count `json:"keep_hourly,omitzero" toml:"keep_hourly,omitzero"`
	Daily   Count `json:"keep_daily,omitzero" toml:"keep_daily,omitzero"`
	Weekly  Count `json:"keep_weekly,omitzero" toml:"keep_weekly,omitzero"`
	Monthly Count `json:"keep_monthly,omitzero" toml:"keep_monthly,omitzero"`
	Yearly  Count `json:"keep_yearly,omitzero" toml:"keep_yearly,omitzero"`

	Within        Span `json:"keep_within,omitzero" toml:"keep_within,omitempty"`
	WithinHourly  Span `json:"keep_within_hourly,omitzero" toml:"keep_within_hourly,omitempty"`
	WithinDaily   Span `json:"keep_within_daily,omitzero" toml:"keep_within_daily,omitempty"`
	WithinWeekly  Span `json:"keep_within_weekly,omitzero" toml:"keep_within_weekly,omitempty"`
	WithinMonthly Span `json:"keep_within_monthly,omitzero" toml:"keep_within_monthly,omitempty"`
	WithinYearly  Span `json:"keep_within_yearly,omitzero" toml:"keep_within_yearly,omitempty"`

	Labels []Label `json:"keep_label,omitempty" toml:"keep_label,omitempty"` // any of them
}

// Empty reports whether there is no rule.
func (r *Rules) Empty() bool {
	if len(r.Labels) > 0 || r.Last != 0 || r.Within != (Span{}) {
		return false
	}
	return !slices.ContainsFunc(r.periodic(), func(p periodic) bool { return p.count != 0 || p.within != (Span{}) })
}

// periodic is the two rules of a unit.
type periodic struct {
	unit   Unit
	count  Count
	within Span
}

func (r *Rules) periodic() []periodic {
	return []periodic{
		{Hour, r.Hourly, r.WithinHourly},
		{Day, r.Daily, r.WithinDaily},
		{Week, r.Weekly, r.WithinWeekly},
		{Month, r.Monthly, r.WithinMonthly},
		{Year, r.Yearly, r.WithinYearly},
	}
}

// A Count is how many are kept; 0 is no rule.
type Count int

// All is the Count without end.
const All Count = -1

// ParseCount reads a number, or "all". The error is a *SyntaxError.
func ParseCount(text string) (Count, error) {
	s := strings.TrimSpace(text)
	n, err := strconv.ParseInt(s, 10, 32)
	switch {
	case s == "all":
		return All, nil
	case err != nil || Count(n).check() != nil:
		return 0, &SyntaxError{Text: text, Want: wantCount}
	}
	return Count(n), nil
}

const wantCount = "a number, or all"

func (c Count) check() error {
	if c < All {
		return &SyntaxError{Text: c.String(), Want: wantCount}
	}
	return nil
}

func (c Count) String() string {
	if c == All {
		return "all"
	}
	return strconv.Itoa(int(c))
}

// MarshalText is String.
func (c Count) MarshalText() ([]byte, error) { return []byte(c.String()), nil }

// UnmarshalText is ParseCount.
func (c *Count) UnmarshalText(text []byte) (err error) {
	*c, err = ParseCount(string(text))
	return err
}

// A Label is one that an entry must have.
type Label struct {
	Key   string
	Any   bool // whatever its value is
	Value string
}

// ParseLabel reads KEY or KEY=VALUE, without blanks around it. The error is a *SyntaxError.
func ParseLabel(text string) (Label, error) {
	k, v, ok := strings.Cut(strings.TrimSpace(text), "=")
	if k == "" {
		return Label{}, &SyntaxError{Text: text, Want: wantLabel}
	}
	return Label{k, !ok, v}, nil
}

const wantLabel = "a label, KEY or KEY=VALUE"

func (l Label) String() string {
	if l.Any {
		return l.Key
	}
	return l.Key + "=" + l.Value
}

func (l Label) check() error {
	if m, err := ParseLabel(l.String()); err != nil || m != l {
		return &SyntaxError{Text: l.String(), Want: wantLabel}
	}
	return nil
}

func (l Label) match(labels map[string]string) bool {
	v, ok := labels[l.Key]
	return ok && (l.Any || v == l.Value)
}

// MarshalText is String.
func (l Label) MarshalText() ([]byte, error) { return []byte(l.String()), nil }

// UnmarshalText is ParseLabel.
func (l *Label) UnmarshalText(text []byte) (err error) {
	*l, err = ParseLabel(string(text))
	return err
}

// A Verdict is what becomes of an entry, and why.
type Verdict struct {
	Number int  `json:"number"`
	Keep   bool `json:"keep"`
	// Reasons are for people: "last 1" is the newest, "daily 2026-11-20", "within 14d", "oldest yearly 2019". There is
	// none for what goes.
	Reasons []string `json:"reasons,omitempty"`
}

// Forgotten returns the numbers of what is not kept.
func Forgotten(vs []Verdict) []int {
	var ns []int
	for _, v := range vs {
		if !v.Keep {
			ns = append(ns, v.Number)
		}
	}
	return ns
}

// Keep judges all entries by rules, as of now and in now's time zone. Verdicts are in order of project and machine,
// the newest first.
func (f *Forest) Keep(r Rules, now time.Time) []Verdict {
	return f.judge(now, func(g *group) { g.rules(r, func(Unit, Kind) bool { return true }) })
}

// A group is the entries within which rules count.
type group struct {
	now     time.Time
	counted []*Item // the newest first
	newest  time.Time
	reasons map[*Item][]string
}

// judge has rules add reasons for the counted entries of each group.
func (f *Forest) judge(now time.Time, rules func(g *group)) []Verdict {
	all := slices.Clone(f.items)
	same := func(a, b *Item) int {
		return cmp.Or(cmp.Compare(a.Project, b.Project), cmp.Compare(a.Machine, b.Machine))
	}
	slices.SortFunc(all, func(a, b *Item) int { return cmp.Or(same(a, b), older(b, a)) })
	vs := make([]Verdict, 0, len(all))
	for len(all) > 0 {
		n := 1
		for n < len(all) && same(all[0], all[n]) == 0 {
			n++
		}
		g := &group{now: now, reasons: make(map[*Item][]string)}
		last := -1
		for i, it := range all[:n] {
			switch {
			case !f.built.can[f.index[it.Number]]:
				g.keep(it, "cannot be built")
				continue
			case it.Time.After(now):
				g.keep(it, "from the future")
			default:
				g.counted = append(g.counted, it)
			}
			if last < 0 || it.Number > all[last].Number {
				last = i
			}
		}
		if len(g.counted) > 0 {
			g.newest = g.counted[0].Time.In(now.Location())
			rules(g)
			if it := g.counted[0]; len(g.reasons[it]) == 0 {
				g.keep(it, "newest")
			}
		}
		if last >= 0 && len(g.reasons[all[last]]) == 0 {
			g.keep(all[last], "saved last")
		}
		for _, it := range all[:n] {
			why := g.reasons[it]
			vs = append(vs, Verdict{it.Number, len(why) > 0, why})
		}
		all = all[n:]
	}
	return vs
}

func (g *group) keep(it *Item, why string) { g.reasons[it] = append(g.reasons[it], why) }

// rules applies them. Of a period, the last entry counts of a kind that is meant for it, or else the last.
func (g *group) rules(r Rules, meant func(Unit, Kind) bool) {
	if r.Empty() {
		for _, it := range g.counted {
			g.keep(it, "no rule")
		}
		return
	}
	for i, it := range g.counted {
		if r.Last < 0 || i < int(r.Last) {
			g.keep(it, fmt.Sprintf("last %d", i+1))
		}
		if r.Within != (Span{}) && !it.Time.Before(r.Within.before(g.newest)) {
			g.keep(it, "within "+r.Within.String())
		}
	}
	for _, p := range r.periodic() {
		if p.count == 0 && p.within == (Span{}) {
			continue
		}
		g.periodic(p, meant)
	}
	for _, it := range g.counted {
		for _, l := range r.Labels {
			if l.match(it.Labels) {
				g.keep(it, "label "+l.String())
			}
		}
	}
}

func (g *group) periodic(p periodic, meant func(Unit, Kind) bool) {
	var since time.Time
	if p.within != (Span{}) {
		since = p.within.before(g.newest)
	}
	left := p.count
	var name string
	var last *Item // that was kept by the count
	for rest := g.counted; len(rest) > 0; {
		name = p.unit.name(rest[0].Time.In(g.now.Location()))
		n := 1
		for n < len(rest) && p.unit.name(rest[n].Time.In(g.now.Location())) == name {
			n++
		}
		of := func(items []*Item) *Item {
			return items[max(0, slices.IndexFunc(items, func(it *Item) bool { return meant(p.unit, it.Kind) }))]
		}
		if left != 0 {
			last = of(rest[:n])
			g.keep(last, fmt.Sprintf("%s %s", p.unit, name))
			if left > 0 {
				left--
			}
		}
		if p.within != (Span{}) {
			// A period that began before the span has a last entry within all the same.
			in := n
			for in > 0 && rest[in-1].Time.Before(since) {
				in--
			}
			if in > 0 {
				g.keep(of(rest[:in]), fmt.Sprintf("%s %s within %s", p.unit, name, p.within))
			}
		}
		rest = rest[n:]
	}
	if oldest := g.counted[len(g.counted)-1]; left != 0 && oldest != last {
		g.keep(oldest, fmt.Sprintf("oldest %s %s", p.unit, name))
	}
}
