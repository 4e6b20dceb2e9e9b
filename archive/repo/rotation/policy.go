package rotation

import (
	"fmt"
	"time"
)

// A Policy says of which kind new entries are, and which old ones go. The zero value is increments only, of which all
// are kept.
type Policy struct {
	Full         Period `json:"full,omitzero" toml:"full,omitempty"`                 // unset: never
	Differential Period `json:"differential,omitzero" toml:"differential,omitempty"` // unset: never
	Incremental  Period `json:"incremental,omitzero" toml:"incremental,omitempty"`   // unset: always; not Entries

	Replace      bool `json:"replace,omitzero" toml:"replace,omitempty"`             // increments go that a later entry replaces
	ReplaceAfter Span `json:"replace_after,omitzero" toml:"replace_after,omitempty"` // when they are so old; unset: a week

	Rules
}

// defaultReplaceAfter is the span of the increments that the last differential did not replace: one can still go back to
// each day.
var defaultReplaceAfter = Span{Days: 7}

// Check returns a *SyntaxError for what Parse would not read: for policies that come from elsewhere.
func (p *Policy) Check() error {
	if p.Incremental.Unit == Entries {
		return &SyntaxError{Key: "incremental", Text: p.Incremental.String(), Want: "hourly, daily, weekly, monthly, yearly, always or never"}
	}
	if !p.Replace && p.ReplaceAfter != (Span{}) {
		return &SyntaxError{Key: "replace-after", Text: p.ReplaceAfter.String(), Want: "replace as well"}
	}
	for _, f := range p.fields() {
		if err := f.check(); err != nil {
			return named(err, f.key)
		}
	}
	return nil
}

// A Next is how an entry is to be saved.
type Next struct {
	Kind   Kind   `json:"kind"`
	Parent int    `json:"parent,omitempty"` // 0: none
	Reason string `json:"reason"`           // for people: "none this month"
	Due    bool   `json:"due"`              // the policy wants one now; false when today's is there
}

func (n Next) String() string {
	if n.Parent == 0 {
		return fmt.Sprintf("%s: %s", n.Kind, n.Reason)
	}
	return fmt.Sprintf("%s of #%d: %s", n.Kind, n.Parent, n.Reason)
}

// Next says how a machine is to be saved that is at an entry: was last saved as it, or restored from it. at is 0 for one
// of which nothing is known. Periods are those of now's time zone. The error is an *UnknownError.
func (p *Policy) Next(f *Forest, at int, now time.Time) (Next, error) {
	if at == 0 {
		return Next{Full, 0, "nothing to build on", true}, nil
	}
	i, ok := f.index[at]
	if !ok {
		return Next{}, &UnknownError{at}
	}
	if !f.built.can[i] {
		return Next{Full, 0, fmt.Sprintf("#%d cannot be built", at), true}, nil
	}
	// root is the first of the chain; from is the last that is no increment, and since how many entries come from it on.
	root, from, since := i, -1, 0
	for j := i; j >= 0; j = f.built.on[j] {
		if root = j; from < 0 {
			since++
			if f.items[j].Kind != Incremental {
				from = j
			}
		}
	}
	if from < 0 {
		from = root
	}
	on := f.items[i]
	inc := p.Incremental.Unit
	branch := len(f.after[f.state[i]]) > 0
	switch why, due := p.Full.due(f.items[root], f.tree(p.Full, root), now); {
	case branch && inc != Never:
		return Next{Incremental, at, fmt.Sprintf("a branch, beside #%d", f.items[f.after[f.state[i]][0]].Number), true}, nil
	case due:
		return Next{Full, 0, why, true}, nil
	}
	differential := Next{Kind: Differential, Parent: f.items[root].Number, Due: true}
	if why, due := p.Differential.due(f.items[from], since, now); due {
		differential.Reason = why
		return differential, nil
	}
	if inc == Never {
		if p.Differential.Unit == Never || p.Differential.Unit == Unset {
			return Next{Full, 0, "no other kind is wanted", p.Full.Unit == Never || p.Full.Unit == Unset}, nil
		}
		differential.Reason, differential.Due = "no increments are wanted", false
		return differential, nil
	}
	n := Next{Incremental, at, "goes on from it", true}
	if inc.calendar() && inc.same(on.Time, now) {
		n.Due, n.Reason = false, fmt.Sprintf("one is there %s", units[inc].this)
	}
	return n, nil
}

// tree counts the entries of the tree that root begins, where a period asks for that.
func (f *Forest) tree(p Period, root int) int {
	if p.Unit != Entries {
		return 0
	}
	in := make([]bool, len(f.items))
	n := 0
	for _, i := range f.built.order {
		if on := f.built.on[i]; i == root || on >= 0 && in[on] {
			in[i] = true
			n++
		}
	}
	return n
}

// due reports whether another is due when last was the last one and n entries come from it on, and why.
func (p Period) due(last *Item, n int, now time.Time) (string, bool) {
	switch {
	case p.Unit == Always:
		return "always", true
	case p.Unit == Entries && n >= p.N:
		return fmt.Sprintf("%d entries since #%d", n, last.Number), true
	case p.Unit.calendar() && !p.Unit.same(last.Time, now):
		return fmt.Sprintf("none %s", units[p.Unit].this), true
	}
	return "", false
}

// After judges all entries by the policy, as of now and in now's time zone. Verdicts are in order of project and machine,
// the newest first. Running it again on what is left changes nothing.
func (p *Policy) After(f *Forest, now time.Time) []Verdict {
	if !p.Replace {
		return f.judge(now, func(g *group) { g.rules(p.Rules, p.meant) })
	}
	after := p.ReplaceAfter
	if after == (Span{}) {
		after = defaultReplaceAfter
	}
	root := make([]int, len(f.items))
	for _, i := range f.built.order {
		root[i] = i
		if on := f.built.on[i]; on >= 0 {
			root[i] = root[on]
		}
	}
	return f.judge(now, func(g *group) {
		if !p.Empty() {
			g.rules(p.Rules, p.meant)
		}
		since := after.before(g.newest)
		full := false                 // there is one that is newer than it
		differs := make(map[int]bool) // the same of differentials, by root
		for _, it := range g.counted {
			r := root[f.index[it.Number]]
			switch it.Kind {
			case Full:
				full = true
			case Differential:
				differs[r] = true
			case Incremental:
				if !full && !differs[r] {
					g.keep(it, "not replaced")
				} else if !it.Time.Before(since) {
					g.keep(it, "replaced within "+after.String())
				}
				continue
			}
			if p.Empty() {
				g.keep(it, "no rule")
			}
		}
	})
}

// meant reports whether an entry of a kind is meant for the rule of a unit.
func (p *Policy) meant(u Unit, k Kind) bool {
	switch {
	case p.Full.Unit.calendar() && u >= p.Full.Unit:
		return k == Full
	case p.Differential.Unit.calendar() && u >= p.Differential.Unit:
		return k != Incremental
	}
	return true
}
