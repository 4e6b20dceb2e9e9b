package rotation

import (
	"fmt"
	"strconv"
	"strings"
	"time"
)

// A Span is a length of time by the calendar. No part is negative.
type Span struct {
	Years, Months, Days, Hours int
}

// maxSpan is the most that a part of a span can be: enough for everything, and no calendar overflows.
const maxSpan = 100_000

// ParseSpan reads what String writes: numbers with y, m (months), w, d or h, such as 1y6m or 14d, the units in any
// order, each at most once; not of nothing. The error is a *SyntaxError.
func ParseSpan(text string) (Span, error) {
	bad := &SyntaxError{Text: text, Want: "a span such as 14d or 1y6m (y, m for months, w, d, h)"}
	var s Span
	rest, seen := strings.TrimSpace(text), ""
	if rest == "" {
		return s, bad
	}
	for rest != "" {
		k := strings.IndexFunc(rest, func(r rune) bool { return r < '0' || r > '9' })
		if k < 1 || strings.Contains(seen, rest[k:k+1]) {
			return Span{}, bad
		}
		n, err := strconv.Atoi(rest[:k])
		if err != nil || n > maxSpan {
			return Span{}, bad
		}
		switch rest[k] {
		case 'y':
			s.Years = n
		case 'm':
			s.Months = n
		case 'w':
			s.Days += 7 * n
		case 'd':
			s.Days += n
		case 'h':
			s.Hours = n
		default:
			return Span{}, bad
		}
		seen += rest[k : k+1]
		rest = rest[k+1:]
	}
	if s == (Span{}) {
		return s, bad // it would be as if nothing were said
	}
	return s, nil
}

// String is empty for no span.
func (s Span) String() string {
	var b strings.Builder
	for _, p := range []struct {
		n    int
		unit byte
	}{{s.Years, 'y'}, {s.Months, 'm'}, {s.Days, 'd'}, {s.Hours, 'h'}} {
		if p.n != 0 {
			fmt.Fprintf(&b, "%d%c", p.n, p.unit)
		}
	}
	return b.String()
}

// before returns the moment that long before t, in t's time zone: the same time of a day, and no month is left out
// because it is short, as it would be with time.AddDate.
func (s Span) before(t time.Time) time.Time {
	y, m, d := t.Date()
	first := time.Date(y-s.Years, m-time.Month(s.Months), 1, 12, 0, 0, 0, time.UTC)
	d = min(d, first.AddDate(0, 1, -1).Day())
	return time.Date(first.Year(), first.Month(), d-s.Days, t.Hour(), t.Minute(), t.Second(), t.Nanosecond(), t.Location()).
		Add(-time.Duration(s.Hours) * time.Hour)
}

func (s Span) check() error {
	for _, n := range []int{s.Years, s.Months, s.Days, s.Hours} {
		if n < 0 || n > 8*maxSpan { // of which weeks are seven, and days one
			return &SyntaxError{Text: s.String(), Want: fmt.Sprintf("a span of parts from 0 to %d", maxSpan)}
		}
	}
	return nil
}

// MarshalText is String.
func (s Span) MarshalText() ([]byte, error) { return []byte(s.String()), nil }

// UnmarshalText is ParseSpan; of an empty text, no span.
func (s *Span) UnmarshalText(text []byte) (err error) {
	*s = Span{}
	if len(text) > 0 {
		*s, err = ParseSpan(string(text))
	}
	return err
}
