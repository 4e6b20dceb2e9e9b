package xl

import (
	"fmt"
	"strings"

	"tarvm/formats/machine"
)

const (
	maxDepth  = 8       // of lists within lists; xl itself needs 2 (vnuma)
	maxValues = 1 << 16 // in one file
)

// A value is a string, a number, or a list.
type value struct {
	text  string // of a string, without quotes and escapes; of a number, as it stands
	list  []value
	isLst bool
	num   bool // not in quotes
	// start and end are the bytes of the file that it takes.
	start, end int
	line       int
}

// A setting is an assignment.
type setting struct {
	name string
	add  bool // +=
	val  value
	// start is that of the name; the end is that of the value.
	start int
	line  int
}

// A lexer goes over a file.
type lexer struct {
	b      []byte
	pos    int
	line   int
	values int
}

func fault(line int, err error, what, format string, args ...any) error {
	return &machine.SyntaxError{Form: "xl", Line: line, What: what, Got: fmt.Sprintf(format, args...), Err: err}
}

// parse returns the assignments of a file, in its order.
func parse(b []byte) ([]setting, error) {
	if len(b) > machine.MaxConfig {
		return nil, fault(0, machine.ErrUnsupported, "", "%d bytes, limit %d", len(b), machine.MaxConfig)
	}
	l := &lexer{b: b, line: 1}
	if strings.HasPrefix(string(b[:min(3, len(b))]), "\xef\xbb\xbf") {
		return nil, fault(1, machine.ErrSyntax, "", "a byte order mark, which xl does not take")
	}
	var list []setting
	for {
		l.blank(true)
		c, ok := l.peek()
		switch {
		case !ok:
			return list, nil
		case c == ';':
			l.pos++
			continue
		case c < 'a' || c > 'z':
			return nil, l.bad("a setting's name was expected")
		}
		s := setting{start: l.pos, line: l.line}
		s.name = l.word()
		l.blank(false)
		switch {
		case l.has("+="):
			s.add = true
		case l.has("="):
			if c, _ := l.peek(); c == '=' {
				return nil, l.python("==")
			}
		default:
			return nil, l.python(s.name)
		}
		l.blank(false)
		v, err := l.value(0)
		if err != nil {
			return nil, err
		}
		s.val = v
		list = append(list, s)
		l.blank(false)
		switch c, ok := l.peek(); {
		case !ok || c == '\n' || c == ';' || c == '#':
		default:
			return nil, l.bad("the end of the line was expected")
		}
	}
}

// peek returns the next byte.
func (l *lexer) peek() (byte, bool) {
	if l.pos >= len(l.b) {
		return 0, false
	}
	return l.b[l.pos], true
}

// has takes s if it is next.
func (l *lexer) has(s string) bool {
	if strings.HasPrefix(string(l.b[l.pos:min(l.pos+len(s), len(l.b))]), s) {
		l.pos += len(s)
		return true
	}
	return false
}

// word takes letters, digits and underscores.
func (l *lexer) word() string {
	start := l.pos
	for l.pos < len(l.b) {
		c := l.b[l.pos]
		if c != '_' && (c < '0' || c > '9') && (c < 'a' || c > 'z') {
			break
		}
		l.pos++
	}
	return string(l.b[start:l.pos])
}

// blank takes white space and comments, and the ends of lines if these are asked for. A comment ends before its line does.
// Carriage returns are white space, though libxlutil does not take them: files go through other systems.
func (l *lexer) blank(lines bool) {
	for l.pos < len(l.b) {
		switch c := l.b[l.pos]; {
		case c == ' ' || c == '\t' || c == '\r':
			l.pos++
		case c == '\n' && lines:
			l.pos++
			l.line++
		case c == '#' && lines:
			for l.pos < len(l.b) && l.b[l.pos] != '\n' {
				l.pos++
			}
		default:
			return
		}
	}
}

// value takes what may be right of a = or within a list.
func (l *lexer) value(depth int) (value, error) {
	if l.values++; l.values > maxValues {
		return value{}, fault(l.line, machine.ErrUnsupported, "", "more than %d values", maxValues)
	}
	v := value{start: l.pos, line: l.line}
	c, ok := l.peek()
	switch {
	case !ok:
		return v, l.bad("a value was expected")
	case c == '"' || c == '\'':
		s, err := l.quoted(c)
		v.text, v.end = s, l.pos
		return v, err
	case c >= '0' && c <= '9':
		v.text, v.num = l.word(), true
		v.end = l.pos
		if strings.Trim(v.text, "0123456789abcdefx") != "" {
			return v, l.bad("no number")
		}
		return v, nil
	case c != '[':
		return v, l.python("")
	case depth == maxDepth:
		return v, fault(l.line, machine.ErrUnsupported, "", "lists within lists, more than %d", maxDepth)
	}
	l.pos++
	v.isLst = true
	for {
		l.blank(true)
		if l.has("]") {
			v.end = l.pos
			return v, nil
		}
		item, err := l.value(depth + 1)
		if err != nil {
			return v, err
		}
		v.list = append(v.list, item)
		l.blank(true)
		if l.has(",") {
			continue
		}
		if c, _ := l.peek(); c != ']' {
			return v, l.bad("a comma or ] was expected")
		}
	}
}

// escapes are the letters behind a backslash that stand for another byte.
var escapes = strings.NewReplacer(`a`, "\a", `b`, "\b", `f`, "\f", `n`, "\n", `r`, "\r", `t`, "\t", `v`, "\v")

// quoted takes a string.
func (l *lexer) quoted(q byte) (string, error) {
	var s []byte
	for l.pos++; l.pos < len(l.b); l.pos++ {
		c := l.b[l.pos]
		switch {
		case c == q:
			l.pos++
			return string(s), nil
		case c == '\n' || c == 0:
			return "", l.bad("a string that does not end in its line")
		case c != '\\':
			s = append(s, c)
			continue
		}
		if l.pos++; l.pos == len(l.b) {
			break
		}
		switch c := l.b[l.pos]; {
		case c == '\n' || c == 0:
			return "", l.bad("a string that does not end in its line")
		case c == 'x' || c >= '0' && c <= '7':
			return "", fault(l.line, machine.ErrUnsupported, "", `numeric escape \%c in a string, which libxlutil misreads`, c)
		case strings.IndexByte(`"'\`, c) >= 0:
			s = append(s, c)
		case strings.IndexByte(`abfnrtv`, c) >= 0:
			s = append(s, escapes.Replace(string(c))...)
		default:
			return "", fault(l.line, machine.ErrSyntax, "", `\%c in a string is no escape`, c)
		}
	}
	return "", l.bad("a string that does not end")
}

// bad says what is wrong at the position.
func (l *lexer) bad(what string) error {
	rest := l.b[l.pos:min(l.pos+20, len(l.b))]
	if i := strings.IndexByte(string(rest), '\n'); i >= 0 {
		rest = rest[:i]
	}
	return fault(l.line, machine.ErrSyntax, "", "%s, not %q", what, rest)
}

// python tells what Python is from what is no configuration at all.
func (l *lexer) python(after string) error {
	rest := string(l.b[l.pos:min(l.pos+64, len(l.b))])
	if i := strings.IndexByte(rest, '\n'); i >= 0 {
		rest = rest[:i]
	}
	switch after {
	case "import", "from", "def", "if", "else", "elif", "for", "while", "try", "print", "exec", "del", "return", "==":
		return fault(l.line, machine.ErrUnsupported, after, "Python, which xm took and xl does not")
	}
	if len(rest) > 0 && (strings.IndexByte("(.+-{%", rest[0]) >= 0 || rest[0] >= 'a' && rest[0] <= 'z' ||
		rest[0] >= 'A' && rest[0] <= 'Z') && strings.ContainsAny(rest+after, "(.+-{%") || strings.HasPrefix(rest, "None") ||
		strings.HasPrefix(rest, "True") || strings.HasPrefix(rest, "False") {
		return fault(l.line, machine.ErrUnsupported, after, "%q: an expression of Python, which xm took and xl does not", rest)
	}
	return l.bad("a value was expected")
}

// quote returns s as a string of a configuration. Control characters other than those that have an escape are refused by
// valid before.
func quote(s string) string {
	r := strings.NewReplacer(`\`, `\\`, `"`, `\"`, "\n", `\n`, "\t", `\t`, "\r", `\r`, "\a", `\a`, "\b", `\b`, "\f", `\f`,
		"\v", `\v`)
	return `"` + r.Replace(s) + `"`
}
