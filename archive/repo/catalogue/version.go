package catalogue

import (
	"cmp"
	"slices"
	"strings"
)

// Latest is the version that means the one that a catalogue says is the latest, or the highest.
const Latest = "latest"

// early are the words for what comes before a release. Single letters are not among them: 1.0.2a follows 1.0.2.
var early = []string{"alpha", "beta", "dev", "pre", "preview", "rc", "snapshot", "testing"}

// Compare orders two versions: -1 if a is lower, +1 if it is higher, 0 only if they are the same text. FORMAT.md
// section 4 has the rule.
func Compare(a, b string) int {
	x, y := pieces(a), pieces(b)
	for i := range max(len(x), len(y)) {
		var p, q piece
		if i < len(x) {
			p = x[i]
		}
		if i < len(y) {
			q = y[i]
		}
		if c := p.compare(q); c != 0 {
			return c
		}
	}
	return cmp.Compare(a, b)
}

// rank orders what can stand at one place of a version.
type rank int8

const (
	rankEarly  rank = iota - 1
	rankEnd         // nothing stands there any more
	rankWord        // 1.0a... is below 1.0.1 and above 1.0
	rankNumber      // digits
)

type piece struct {
	rank rank
	text string // lower case; digits without leading zeros
}

func (p piece) compare(q piece) int {
	if c := cmp.Compare(p.rank, q.rank); c != 0 {
		return c
	}
	if p.rank == rankNumber {
		if c := cmp.Compare(len(p.text), len(q.text)); c != 0 {
			return c
		}
	}
	return cmp.Compare(p.text, q.text)
}

// pieces cuts a version into its numbers and words. What is behind a tilde comes before a release, whatever it is.
func pieces(v string) []piece {
	var list []piece
	for v != "" {
		if c := v[0]; !isDigit(c) && !isLetter(c) {
			if c == '~' {
				list = append(list, piece{rank: rankEarly})
			}
			v = v[1:]
			continue
		}
		is := isLetter
		if isDigit(v[0]) {
			is = isDigit
		}
		n := 1
		for n < len(v) && is(v[n]) {
			n++
		}
		p := piece{rank: rankWord, text: strings.ToLower(v[:n])}
		if isDigit(v[0]) {
			p = piece{rank: rankNumber, text: strings.TrimLeft(v[:n], "0")}
		} else if slices.Contains(early, p.text) {
			p.rank = rankEarly
		}
		list = append(list, p)
		v = v[n:]
	}
	return list
}

func isDigit(c byte) bool  { return c >= '0' && c <= '9' }
func isLetter(c byte) bool { return c|0x20 >= 'a' && c|0x20 <= 'z' }

// isEarly reports whether a version comes before a release.
func isEarly(v string) bool {
	return slices.ContainsFunc(pieces(v), func(p piece) bool { return p.rank == rankEarly })
}

// isPrefix reports whether v is of the line p: 2.6.5 and 2.6-1 of 2.6, 2.60 not.
func isPrefix(p, v string) bool {
	rest, ok := strings.CutPrefix(v, p)
	return ok && rest != "" && !isDigit(rest[0]) && !isLetter(rest[0])
}
