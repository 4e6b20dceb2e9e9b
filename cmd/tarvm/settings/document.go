package settings

import (
	"slices"
	"strconv"
	"strings"

	"github.com/BurntSushi/toml"
)

// A document is TOML text that was found to be valid, cut into its statements, so that single ones can be changed.
type document struct {
	text       string
	statements []statement
}

// A statement is a table's header or one key with its value. Offsets are into the text.
type statement struct {
	key      []string // from the root
	header   bool
	section  []string // the key of the header that it stands below, nil for the root
	line     int      // from 1
	from, to int      // its lines, with the newline at the end
	value    [2]int   // what stands for the value, without a comment
}

func (s *statement) at(key []string) bool     { return slices.Equal(s.key, key) }
func (s *statement) within(key []string) bool { return prefixed(s.key, key) }

func prefixed(key, prefix []string) bool {
	return len(key) >= len(prefix) && slices.Equal(key[:len(prefix)], prefix)
}

// parse cuts text, which a decoder of TOML has accepted.
func parse(text string) *document {
	d := &document{text: text}
	var section []string
	i := 0
	if strings.HasPrefix(text, "\ufeff") {
		i = len("\ufeff")
	}
	for i < len(text) {
		from := i
		for i < len(text) && strings.IndexByte(" \t\r\n", text[i]) >= 0 {
			if text[i] == '\n' {
				from = i + 1
			}
			i++
		}
		if i == len(text) {
			break
		}
		if text[i] == '#' {
			i = d.lineEnd(i)
			continue
		}
		s := statement{from: from, line: 1 + strings.Count(text[:i], "\n")}
		if text[i] == '[' {
			s.header = true
			i += len(text[i:]) - len(strings.TrimLeft(text[i:], "["))
			s.key, i = d.keys(i)
			section = s.key
		} else {
			var key []string
			key, i = d.keys(i)
			s.key = slices.Concat(section, key)
			s.section = section
			i = min(i+1, len(text)) // the =
			for i < len(text) && (text[i] == ' ' || text[i] == '\t') {
				i++
			}
			s.value[0] = i
			i = d.valueEnd(i)
			s.value[1] = s.value[0] + len(strings.TrimRight(text[s.value[0]:i], " \t\r"))
		}
		i = d.lineEnd(i)
		s.to = i
		d.statements = append(d.statements, s)
	}
	return d
}

// lineEnd returns where the line after the one that i is in begins.
func (d *document) lineEnd(i int) int {
	if n := strings.IndexByte(d.text[i:], '\n'); n >= 0 {
		return i + n + 1
	}
	return len(d.text)
}

// keys reads a key with its dots, up to the = or ] after it.
func (d *document) keys(i int) ([]string, int) {
	var key []string
	for i < len(d.text) {
		switch c := d.text[i]; c {
		case '=', ']':
			return key, i
		case ' ', '\t', '.':
			i++
		case '"', '\'':
			end := d.quoteEnd(i)
			key = append(key, unquote(d.text[i:end]))
			i = end
		default:
			n := strings.IndexAny(d.text[i:], " \t.=]\n")
			if n <= 0 {
				return key, len(d.text)
			}
			key = append(key, d.text[i:i+n])
			i += n
		}
	}
	return key, i
}

// quoteEnd returns the end of the string that begins at i, of any of the four kinds.
func (d *document) quoteEnd(i int) int {
	t := d.text
	q := t[i : i+1]
	if long := strings.Repeat(q, 3); strings.HasPrefix(t[i:], long) {
		q = long
	}
	i += len(q)
	for i < len(t) && !strings.HasPrefix(t[i:], q) {
		if t[i] == '\\' && q[0] == '"' {
			i++
		}
		i++
	}
	i += len(q)
	for n := 0; len(q) == 3 && n < 2 && i < len(t) && t[i] == q[0]; n++ {
		i++ // """ah""""" ends with two quotes of the text
	}
	return min(i, len(t))
}

// valueEnd returns the end of the value at i: a newline or a comment outside of strings and brackets.
func (d *document) valueEnd(i int) int {
	for depth := 0; i < len(d.text); {
		switch c := d.text[i]; c {
		case '"', '\'':
			i = d.quoteEnd(i)
			continue
		case '[', '{':
			depth++
		case ']', '}':
			depth--
		case '#':
			if depth == 0 {
				return i
			}
			i = d.lineEnd(i)
			continue
		case '\n':
			if depth == 0 {
				return i
			}
		}
		i++
	}
	return i
}

func unquote(s string) string {
	var v struct{ X string }
	if _, err := toml.Decode("X = "+s, &v); err != nil {
		return s
	}
	return v.X
}

// lineOf returns the line of a key, or of what it is within; 0 if it has none.
func (d *document) lineOf(key []string) int {
	for n := len(key); n > 0; n-- {
		for i := range d.statements {
			if s := &d.statements[i]; s.at(key[:n]) || n == len(key) && !s.header && s.within(key) {
				return s.line
			}
		}
	}
	return 0
}

// newline is how the text ends its lines.
func (d *document) newline() string {
	if i := strings.IndexByte(d.text, '\n'); i > 0 && d.text[i-1] == '\r' {
		return "\r\n"
	}
	return "\n"
}

// set returns the text with a key that has this value: in place of its former one, or where it belongs. Within an inline
// table it changes nothing.
func (d *document) set(key []string, value string) string {
	parent := key[:len(key)-1]
	var last, header, root *statement
	first := len(d.text) // where the first table begins
	for i := range d.statements {
		s := &d.statements[i]
		switch {
		case s.header:
			first = min(first, s.from)
			if s.at(parent) {
				header = s
			}
			continue
		case s.at(key):
			return d.text[:s.value[0]] + value + d.text[s.value[1]:]
		case prefixed(key, s.key):
			return d.text // an inline table takes no more keys, even where a decoder lets that pass
		case s.section == nil:
			root = s
		}
		if len(parent) > 0 && s.within(parent) {
			last = s
		}
	}
	nl := d.newline()
	switch {
	case len(parent) == 0 && root != nil:
		return d.insert(root.to, d.indent(root)+line(key, value)+nl)
	case len(parent) == 0 && first == len(d.text):
		return d.insert(len(d.text), line(key, value)+nl)
	case len(parent) == 0:
		return d.insert(d.above(first), line(key, value)+nl+nl)
	case header != nil:
		after := header
		for i := range d.statements {
			if s := &d.statements[i]; !s.header && s.from > header.from && slices.Equal(s.section, parent) {
				after = s
			}
		}
		return d.insert(after.to, d.indent(after)+line(key[len(parent):], value)+nl)
	case last != nil && len(last.section) <= len(parent):
		return d.insert(last.to, d.indent(last)+line(key[len(last.section):], value)+nl)
	}
	// A table of its own, after those of its kind.
	at := len(d.text)
	for i := range d.statements {
		if s := &d.statements[i]; s.within(key[:1]) && (s.header || s.section != nil) {
			at = s.to
		}
	}
	table := "[" + dotted(parent) + "]" + nl + line(key[len(parent):], value) + nl
	if strings.TrimSpace(d.text[:at]) != "" {
		table = nl + table
	}
	return d.insert(at, table)
}

// insert puts lines at an offset where a line begins, or at the end of the text.
func (d *document) insert(at int, lines string) string {
	before, after := d.text[:at], d.text[at:]
	if before != "" && !strings.HasSuffix(before, "\n") && before != "\ufeff" {
		before += d.newline()
	}
	return before + lines + after
}

// above returns where the comment begins that stands directly above an offset.
func (d *document) above(at int) int {
	for at > 0 {
		start := strings.LastIndexByte(d.text[:at-1], '\n') + 1
		l := strings.TrimLeft(d.text[start:at], " \t")
		if !strings.HasPrefix(l, "#") {
			break
		}
		at = start
	}
	return at
}

func (d *document) indent(s *statement) string {
	l := strings.TrimPrefix(d.text[s.from:s.to], "\ufeff")
	return l[:len(l)-len(strings.TrimLeft(l, " \t"))]
}

// remove returns the text without a key and what is within it. Comments above it stay.
func (d *document) remove(key []string) string {
	text := d.text
	for i := len(d.statements) - 1; i >= 0; i-- {
		if !d.statements[i].within(key) {
			continue
		}
		// Whatever stands between the lines of one table goes with them.
		to := d.statements[i].to
		for i > 0 && !d.statements[i].header && d.statements[i-1].within(key) {
			i--
		}
		before, after := text[:d.statements[i].from], text[to:]
		if blankEnd(before) {
			after = strings.TrimLeft(after, "\r\n")
		}
		text = before + after
	}
	return text
}

// blankEnd reports whether nothing is there, or the last line is empty.
func blankEnd(s string) bool {
	s = strings.ReplaceAll(s, "\r", "")
	return s == "" || strings.HasSuffix(s, "\n\n")
}

func line(key []string, value string) string { return dotted(key) + " = " + value }

func dotted(key []string) string { return toml.Key(key).String() }

// quote writes a string: as it stands if that is possible, as it is with Windows' paths.
func quote(s string) string {
	control := strings.ContainsFunc(s, func(r rune) bool { return r < ' ' && r != '\t' || r == 0x7f })
	if strings.Contains(s, `\`) && !control && !strings.Contains(s, "'") {
		return "'" + s + "'"
	}
	var b strings.Builder
	b.WriteByte('"')
	for _, r := range s {
		switch {
		case r == '"' || r == '\\':
			b.WriteString(`\` + string(r))
		case r < ' ' || r == 0x7f:
			h := strconv.FormatInt(int64(r), 16)
			b.WriteString(`\u` + strings.Repeat("0", 4-len(h)) + h)
		default:
			b.WriteRune(r)
		}
	}
	b.WriteByte('"')
	return b.String()
}
