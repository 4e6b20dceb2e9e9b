package rotation

import (
	"errors"
	"fmt"
	"slices"
	"strings"
)

// A SyntaxError says what a text should have been.
type SyntaxError struct {
	Key  string // of a policy, or ""
	Text string
	Want string
}

func (e *SyntaxError) Error() string {
	if e.Key != "" {
		return fmt.Sprintf("%s=%s: want %s", e.Key, e.Text, e.Want)
	}
	return fmt.Sprintf("%q: want %s", e.Text, e.Want)
}

// A field is one key of a policy's text.
type field struct {
	key string
	set func(string) error
	get func() []string // what Parse reads for it; none when it is unset

	check func() error
}

// named is err, with the key when it is a SyntaxError.
func named(err error, key string) error {
	var se *SyntaxError
	if errors.As(err, &se) {
		se.Key = key
	}
	return err
}

func textField[T interface {
	comparable
	fmt.Stringer
	check() error
}](key string, v *T, parse func(string) (T, error)) field {
	return field{key, func(s string) (err error) {
		*v, err = parse(s)
		return err
	}, func() []string {
		var unset T
		if *v == unset {
			return nil
		}
		return []string{(*v).String()}
	}, func() error { return (*v).check() }}
}

const keyLabel = "keep-label"

// fields are those of p, in the order of String.
func (p *Policy) fields() []field {
	return []field{
		textField("full", &p.Full, ParsePeriod),
		textField("differential", &p.Differential, ParsePeriod),
		textField("incremental", &p.Incremental, ParsePeriod),
		{"replace", p.setReplace, func() []string {
			if !p.Replace {
				return nil
			}
			return []string{p.ReplaceAfter.String()}
		}, p.ReplaceAfter.check},
		{"replace-after", p.setReplaceAfter, func() []string { return nil }, p.ReplaceAfter.check}, // replace has it
		textField("keep-last", &p.Last, ParseCount),
		textField("keep-hourly", &p.Hourly, ParseCount),
		textField("keep-daily", &p.Daily, ParseCount),
		textField("keep-weekly", &p.Weekly, ParseCount),
		textField("keep-monthly", &p.Monthly, ParseCount),
		textField("keep-yearly", &p.Yearly, ParseCount),
		textField("keep-within", &p.Within, ParseSpan),
		textField("keep-within-hourly", &p.WithinHourly, ParseSpan),
		textField("keep-within-daily", &p.WithinDaily, ParseSpan),
		textField("keep-within-weekly", &p.WithinWeekly, ParseSpan),
		textField("keep-within-monthly", &p.WithinMonthly, ParseSpan),
		textField("keep-within-yearly", &p.WithinYearly, ParseSpan),
		{keyLabel, func(s string) error {
			l, err := ParseLabel(s)
			p.Labels = append(p.Labels, l)
			return err
		}, func() (ls []string) {
			for _, l := range p.Labels {
				ls = append(ls, l.String())
			}
			return ls
		}, func() error {
			for _, l := range p.Labels {
				if err := l.check(); err != nil {
					return err
				}
			}
			return nil
		}},
	}
}

// setReplace reads what stands behind "replace=", and "" for the word alone.
func (p *Policy) setReplace(s string) error {
	switch s {
	case "", "true", "false":
		p.Replace = s != "false"
		return nil
	}
	if _, err := ParseSpan(s); err != nil {
		return &SyntaxError{Text: s, Want: "nothing behind it, true, false, or a span such as 14d"}
	}
	p.Replace = true
	return p.setReplaceAfter(s)
}

func (p *Policy) setReplaceAfter(s string) error {
	span, err := ParseSpan(s)
	if err == nil && p.ReplaceAfter != (Span{}) {
		err = &SyntaxError{Text: s, Want: wantOnce}
	}
	p.ReplaceAfter = span
	return err
}

const wantOnce = "it only once"

// Parse reads a policy's text, which the package's documentation describes. The error is a *SyntaxError.
func Parse(text string) (Policy, error) {
	var p Policy
	if strings.TrimSpace(text) == "" {
		return p, nil
	}
	fields := p.fields()
	seen := make(map[string]bool)
	for _, item := range split(text) {
		key, value, has := strings.Cut(item, "=")
		key = strings.ReplaceAll(strings.TrimSpace(key), "_", "-")
		i := slices.IndexFunc(fields, func(f field) bool { return f.key == key })
		switch {
		case i < 0:
			return Policy{}, &SyntaxError{Text: key, Want: "one of " + keys(fields)}
		case !has && key != "replace":
			return Policy{}, &SyntaxError{Text: key, Want: key + "=VALUE"}
		case seen[key] && key != keyLabel:
			return Policy{}, &SyntaxError{Key: key, Text: value, Want: wantOnce}
		}
		seen[key] = true
		if value = strings.TrimSpace(value); has && value == "" {
			return Policy{}, &SyntaxError{Key: key, Want: "a value"}
		}
		if err := fields[i].set(value); err != nil {
			return Policy{}, named(err, key)
		}
	}
	if err := p.Check(); err != nil {
		return Policy{}, err
	}
	return p, nil
}

func keys(fields []field) string {
	var ks []string
	for _, f := range fields {
		ks = append(ks, f.key)
	}
	return strings.Join(ks, ", ")
}

// split cuts at commas, and takes off the backslash before those that are none.
func split(text string) []string {
	var items []string
	var b strings.Builder
	for i := 0; i < len(text); i++ {
		switch c := text[i]; {
		case c == '\\' && i+1 < len(text) && (text[i+1] == ',' || text[i+1] == '\\'):
			i++
			b.WriteByte(text[i])
		case c == ',':
			items = append(items, b.String())
			b.Reset()
		default:
			b.WriteByte(c)
		}
	}
	return append(items, b.String())
}

// String is what Parse reads; "" for the zero value.
func (p Policy) String() string {
	var items []string
	for _, f := range p.fields() {
		for _, v := range f.get() {
			item := f.key
			if v != "" {
				item += "=" + strings.NewReplacer(`\`, `\\`, ",", `\,`).Replace(v)
			}
			items = append(items, item)
		}
	}
	return strings.Join(items, ",")
}
