package cli

import (
	"fmt"
	"strconv"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"tarvm/manifest"
)

// name makes a member's path fit to be printed in a line: as it is, or Go-quoted where it holds what could
// mislead or drive a terminal.
func name(p manifest.Path) string { return quoted(string(p)) }

func quoted(s string) string {
	for _, r := range s {
		if r == utf8.RuneError || !unicode.IsPrint(r) {
			return strconv.Quote(s)
		}
	}
	if s == "" || s[0] == ' ' || s[0] == '"' || s[len(s)-1] == ' ' {
		return strconv.Quote(s)
	}
	return s
}

// printable escapes what a message must not send to a terminal. Line feeds stay: messages have lines.
func printable(s string) string {
	var b strings.Builder
	for i, r := range s {
		switch {
		case r == utf8.RuneError:
			_, n := utf8.DecodeRuneInString(s[i:])
			if n == 1 {
				fmt.Fprintf(&b, `\x%02x`, s[i])
				continue
			}
			b.WriteRune(r)
		case r == '\n' || r == '\t' || unicode.IsPrint(r):
			b.WriteRune(r)
		default:
			q := strconv.QuoteRune(r)
			b.WriteString(q[1 : len(q)-1])
		}
	}
	return b.String()
}

// size is a number of bytes for people.
func size(n int64) string {
	if n < 1<<10 {
		return fmt.Sprintf("%d B", n)
	}
	v, units := float64(n)/1024, "KMGTPE"
	for v >= 1023.95 && len(units) > 1 {
		v /= 1024
		units = units[1:]
	}
	return fmt.Sprintf("%.1f %ciB", v, units[0])
}

// percent is part of whole for people.
func percent(part, whole int64) string {
	switch {
	case whole == 0:
		return "-"
	case part == 0:
		return "0 %"
	case part*1000 < whole:
		return "<0.1 %"
	case part*10 < whole:
		return fmt.Sprintf("%.1f %%", 100*float64(part)/float64(whole))
	}
	return fmt.Sprintf("%.0f %%", 100*float64(part)/float64(whole))
}

// count is a number of things.
func count[N ~int | ~int64](n N, one string) string {
	if n == 1 {
		return "1 " + one
	}
	if s, ok := strings.CutSuffix(one, "y"); ok {
		return fmt.Sprintf("%d %sies", n, s)
	}
	return fmt.Sprintf("%d %ss", n, one)
}

// parseSize reads a number of bytes with an optional unit: 65536, 64K, 64KiB, 1M.
func parseSize(s string) (int64, error) {
	num := strings.TrimRight(s, "KMGTiBkb")
	n, err := strconv.ParseInt(num, 10, 64)
	if err != nil || n < 0 {
		return 0, fmt.Errorf("%q is not a size like 65536, 64K or 1M", s)
	}
	shift := 0
	switch strings.ToUpper(s[len(num):]) {
	case "", "B":
	case "K", "KB", "KIB":
		shift = 10
	case "M", "MB", "MIB":
		shift = 20
	case "G", "GB", "GIB":
		shift = 30
	case "T", "TB", "TIB":
		shift = 40
	default:
		return 0, fmt.Errorf("%q is not a size like 65536, 64K or 1M", s)
	}
	if n > (1<<62)>>shift {
		return 0, fmt.Errorf("%q is too large", s)
	}
	return n << shift, nil
}

// sizeValue is a flag that parseSize reads.
type sizeValue int64

func (v *sizeValue) String() string {
	if *v == 0 {
		return ""
	}
	return strconv.FormatInt(int64(*v), 10)
}

func (v *sizeValue) Set(s string) error {
	n, err := parseSize(s)
	*v = sizeValue(n)
	return err
}

func (v *sizeValue) Type() string { return "SIZE" }

// parseTime reads RFC 3339, or seconds since 1970 behind an @.
func parseTime(s string) (time.Time, error) {
	if sec, ok := strings.CutPrefix(s, "@"); ok {
		n, err := strconv.ParseInt(sec, 10, 64)
		if err != nil {
			return time.Time{}, fmt.Errorf("%q: want seconds since 1970 behind the @", s)
		}
		return time.Unix(n, 0).UTC(), nil
	}
	t, err := time.Parse(time.RFC3339Nano, s)
	if err != nil {
		return time.Time{}, fmt.Errorf("%q: want a time like 2026-05-01T12:00:00Z, or @ and seconds since 1970", s)
	}
	return t.UTC(), nil
}

// A table prints rows with columns as wide as they need, the last one as it is. Columns whose title begins with a
// space are set flush right.
type table struct {
	right []bool
	rows  [][]string
}

func newTable(titles ...string) *table {
	t := &table{}
	for i, s := range titles {
		t.right = append(t.right, strings.HasPrefix(s, " "))
		titles[i] = strings.TrimSpace(s)
	}
	t.rows = append(t.rows, titles)
	return t
}

func (t *table) add(cells ...string) { t.rows = append(t.rows, cells) }

func (t *table) String() string {
	width := make([]int, len(t.right))
	for _, r := range t.rows {
		for i, c := range r {
			width[i] = max(width[i], utf8.RuneCountInString(c))
		}
	}
	var b strings.Builder
	for _, r := range t.rows {
		var line strings.Builder
		for i, c := range r {
			fill := strings.Repeat(" ", width[i]-utf8.RuneCountInString(c))
			switch {
			case t.right[i]:
				line.WriteString(fill + c)
			default:
				line.WriteString(c + fill)
			}
			if i < len(r)-1 {
				line.WriteString("  ")
			}
		}
		b.WriteString(strings.TrimRight(line.String(), " ") + "\n")
	}
	return b.String()
}
