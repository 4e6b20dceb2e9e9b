package rotation

import (
	"fmt"
	"strconv"
	"strings"
	"time"
)

// A Unit is of what a Period is one.
type Unit int

// The units. The calendar's are in order of their length.
const (
	Unset Unit = iota
	Never
	Always
	Entries
	Hour
	Day
	Week
	Month
	Year
)

// units are their names, in periods and in sentences.
var units = [...]struct{ adverb, this string }{
	Never:  {"never", ""},
	Always: {"always", ""},
	Hour:   {"hourly", "this hour"},
	Day:    {"daily", "today"},
	Week:   {"weekly", "this week"},
	Month:  {"monthly", "this month"},
	Year:   {"yearly", "this year"},
}

// String is an adverb: "daily".
func (u Unit) String() string {
	if u < 0 || int(u) >= len(units) {
		return fmt.Sprintf("unit %d", int(u))
	}
	return units[u].adverb
}

func (u Unit) calendar() bool { return u >= Hour && u <= Year }

// name is that of t's period, in t's time zone. Different periods have different names.
func (u Unit) name(t time.Time) string {
	switch u {
	case Hour:
		return t.Format("2006-01-02 15h -0700") // clocks that are set back repeat an hour, in another zone
	case Day:
		return t.Format("2006-01-02")
	case Week:
		y, w := t.ISOWeek()
		return fmt.Sprintf("%04d-W%02d", y, w)
	case Month:
		return t.Format("2006-01")
	}
	return t.Format("2006")
}

// same reports whether two moments are in one period of now's time zone.
func (u Unit) same(t, now time.Time) bool { return u.name(t.In(now.Location())) == u.name(now) }

// A Period says how often. The zero one is unset.
type Period struct {
	Unit Unit
	N    int // with Entries: every how many; from 1
}

const wantPeriod = "hourly, daily, weekly, monthly, yearly, \"every N entries\", always or never"

// ParsePeriod reads what String writes; in "every 8 entries" the last word can be left out. The error is a
// *SyntaxError.
func ParsePeriod(text string) (Period, error) {
	s := strings.TrimSpace(text)
	for u := Never; u <= Year; u++ {
		if s == u.String() && u != Entries {
			return Period{Unit: u}, nil
		}
	}
	if w := strings.Fields(s); len(w) >= 2 && len(w) <= 3 && w[0] == "every" && (len(w) == 2 || w[2] == "entries") {
		if n, err := strconv.ParseUint(w[1], 10, 31); err == nil && n > 0 {
			return Period{Unit: Entries, N: int(n)}, nil
		}
	}
	return Period{}, &SyntaxError{Text: text, Want: wantPeriod}
}

// String is empty for an unset one.
func (p Period) String() string {
	if p.Unit == Entries {
		return fmt.Sprintf("every %d entries", p.N)
	}
	return p.Unit.String()
}

func (p Period) check() error {
	if p.Unit < Unset || p.Unit > Year || (p.Unit == Entries) != (p.N > 0) || p.N < 0 {
		return &SyntaxError{Text: p.String(), Want: wantPeriod}
	}
	return nil
}

// MarshalText is String.
func (p Period) MarshalText() ([]byte, error) { return []byte(p.String()), nil }

// UnmarshalText is ParsePeriod; of an empty text, the unset one.
func (p *Period) UnmarshalText(text []byte) (err error) {
	*p = Period{}
	if len(text) > 0 {
		*p, err = ParsePeriod(string(text))
	}
	return err
}
