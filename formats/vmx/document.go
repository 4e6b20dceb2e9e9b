package vmx

import (
	"bytes"
	"fmt"
	"strings"
	"unicode/utf16"
	"unicode/utf8"

	"tarvm/formats/machine"
)

// maxLines of one file; the largest that were seen have some 500.
const maxLines = 100_000

// A line is one of a file, with what ends it.
type line struct {
	raw  []byte
	key  string // as it is spelled; "" for a comment or a blank line
	low  string // the key in lower case
	text string // the value: without quotes, escapes undone, as UTF-8
	// Where in raw the key and the value with its quotes are.
	key0, key1, val0, val1 int
	removed                bool
	after                  []line // lines that were added behind this one
}

// head is the part of the key before its first dot, in lower case: the device.
func (l *line) head() string { return head(l.key) }

func head(key string) string {
	h, _, _ := strings.Cut(lower(key), ".")
	return h
}

// lower is of ASCII alone, as VMware compares keys.
func lower(s string) string {
	for i := range len(s) {
		if c := s[i]; 'A' <= c && c <= 'Z' {
			b := []byte(s)
			for ; i < len(b); i++ {
				if c := b[i]; 'A' <= c && c <= 'Z' {
					b[i] += 'a' - 'A'
				}
			}
			return string(b)
		}
	}
	return s
}

// A document is a file.
type document struct {
	charset charset
	mark    []byte // the byte order mark, as it was
	wide    bool   // UTF-16, with its order in big; lines are UTF-8
	big     bool
	eol     string
	first   []line // added before the others
	lines   []line
	index   map[string]int // number of the first line with a key, by the key in lower case
	// The last line with a head, and with a class of heads (see class), for what is added.
	heads, classes map[string]int
}

// parse reads a file. The errors are *machine.SyntaxError.
func parse(b []byte) (*document, error) {
	fail := func(n int, err error, format string, args ...any) error {
		return &machine.SyntaxError{Form: form, Line: n, Got: fmt.Sprintf(format, args...), Err: err}
	}
	if len(b) > machine.MaxConfig {
		return nil, fail(0, machine.ErrUnsupported, "%d bytes, limit %d", len(b), machine.MaxConfig)
	}
	d := &document{index: map[string]int{}, eol: "\n"}
	switch {
	case bytes.HasPrefix(b, []byte("\xef\xbb\xbf")):
		d.mark, b = b[:3], b[3:]
	case bytes.HasPrefix(b, []byte("\xff\xfe")), bytes.HasPrefix(b, []byte("\xfe\xff")):
		d.mark, d.wide, d.big = b[:2], true, b[0] == 0xfe
		text, ok := fromWide(b[2:], d.big)
		if !ok {
			return nil, fail(0, machine.ErrSyntax, "invalid UTF-16")
		}
		b = text
	}
	if i := bytes.IndexByte(b, 0); i >= 0 {
		return nil, fail(1+bytes.Count(b[:i], []byte("\n")), machine.ErrSyntax, "a NUL byte")
	}
	if bytes.Contains(b, []byte("\r\n")) {
		d.eol = "\r\n"
	}
	if n := bytes.Count(b, []byte("\n")); n >= maxLines {
		return nil, fail(0, machine.ErrUnsupported, "%d lines, limit %d", n, maxLines)
	}
	for rest := b; len(rest) > 0; {
		n := bytes.IndexByte(rest, '\n') + 1
		if n == 0 {
			n = len(rest)
		}
		l := line{raw: rest[:n:n]}
		rest = rest[n:]
		if !l.lex() {
			return nil, fail(len(d.lines)+1, machine.ErrSyntax, "not of the form key = \"value\"")
		}
		d.lines = append(d.lines, l)
	}
	d.reindex()
	var name string
	if i, ok := d.index[".encoding"]; ok {
		name = string(d.lines[i].value())
	}
	d.charset = newCharset(name, b)
	if d.wide || len(d.mark) == 3 {
		d.charset = charset{name: name}
	}
	for i := range d.lines {
		if l := &d.lines[i]; l.key != "" {
			l.text = d.charset.decode(l.value())
		}
	}
	return d, nil
}

// reindex fills the maps of keys.
func (d *document) reindex() {
	d.index, d.heads, d.classes = map[string]int{}, map[string]int{}, map[string]int{}
	for i := range d.lines {
		l := &d.lines[i]
		if l.key == "" || l.removed {
			continue
		}
		k := l.low
		if _, ok := d.index[k]; !ok { // the first one counts
			d.index[k] = i
		}
		if strings.Contains(k, ".") {
			h := head(k)
			d.heads[h] = i
			d.classes[class(h)] = i
		}
	}
}

// class is what a device is one of: scsi0 for scsi0:1, ethernet for ethernet0.
func class(head string) string {
	if c, _, ok := strings.Cut(head, ":"); ok {
		return c
	}
	return strings.TrimRight(head, "0123456789")
}

// lex finds the parts of a line, by the grammar in dictll.c. It is false when there are none.
func (l *line) lex() bool {
	b := bytes.TrimRight(l.raw, "\n")
	b = bytes.TrimRight(b, "\r")
	skip := func(i int, set string) int {
		for i < len(b) && strings.IndexByte(set, b[i]) >= 0 {
			i++
		}
		return i
	}
	until := func(i int, set string) int {
		for i < len(b) && strings.IndexByte(set, b[i]) < 0 {
			i++
		}
		return i
	}
	const space = " \t"
	i := skip(0, space)
	if i == len(b) || b[i] == '#' {
		return true
	}
	l.key0 = i
	l.key1 = until(i, " \t#=")
	i = skip(l.key1, space)
	if l.key1 == l.key0 || i == len(b) || b[i] != '=' {
		return false
	}
	i = skip(i+1, space)
	l.val0 = i
	if i < len(b) && b[i] == '"' {
		i = until(i+1, `"`)
		if i == len(b) {
			return false
		}
		i++
	} else {
		i = until(i, " \t#")
	}
	l.val1 = i
	i = skip(i, space)
	l.key = string(b[l.key0:l.key1])
	l.low = lower(l.key)
	return i == len(b) || b[i] == '#'
}

// value returns the bytes of the value, escapes undone.
func (l *line) value() []byte {
	b := l.raw[l.val0:l.val1]
	if len(b) > 1 && b[0] == '"' {
		b = b[1 : len(b)-1]
	}
	if bytes.IndexByte(b, '|') < 0 {
		return b
	}
	out := make([]byte, 0, len(b))
	for i := 0; i < len(b); i++ {
		if b[i] == '|' && i+2 < len(b) {
			if hi, lo := hex(b[i+1]), hex(b[i+2]); hi >= 0 && lo >= 0 {
				out = append(out, byte(hi<<4|lo))
				i += 2
				continue
			}
		}
		out = append(out, b[i])
	}
	return out
}

func hex(c byte) int {
	i := strings.IndexByte("0123456789abcdefABCDEF", c)
	if i > 15 {
		i -= 6
	}
	return i
}

// quoted returns the bytes of a value as they stand in a file: in quotes, and with quotes, bars and control characters but
// the tab escaped.
func quoted(b []byte) []byte {
	out := make([]byte, 0, len(b)+2)
	out = append(out, '"')
	for _, c := range b {
		if c == '"' || c == '|' || c == 0x7f || c < ' ' && c != '\t' {
			out = fmt.Appendf(out, "|%02X", c)
		} else {
			out = append(out, c)
		}
	}
	return append(out, '"')
}

// clone returns a copy that can be changed.
func (d *document) clone() *document {
	c := *d
	c.lines = append([]line(nil), d.lines...)
	return &c
}

// get returns the value of a key, in whatever case, and the number of its line from 1; 0 if it is absent.
func (d *document) get(key string) (string, int) {
	i, ok := d.index[lower(key)]
	if !ok {
		return "", 0
	}
	return d.lines[i].text, i + 1
}

// set gives a key a value: in its place, or where others of its device are. It is false when the file's encoding has no
// bytes for the value, which is then as before.
func (d *document) set(key, value string) bool {
	b, ok := d.charset.encode(value)
	if !ok {
		if !d.upgrade() {
			return false
		}
		b = []byte(strings.ToValidUTF8(value, "\uFFFD"))
	}
	if !ascii(b) || d.charset.table != nil {
		d.declare()
	}
	if i, ok := d.index[lower(key)]; ok && !d.lines[i].removed {
		d.lines[i].put(quoted(b))
		return true
	}
	l := d.newLine(key, b)
	h := head(key)
	at, ok := d.heads[h]
	if !ok && strings.Contains(key, ".") {
		at, ok = d.classes[class(h)]
	}
	if !ok || !strings.Contains(key, ".") {
		at = len(d.lines) - 1
	}
	if at < 0 {
		d.first = append(d.first, l)
	} else {
		d.lines[at].after = append(d.lines[at].after, l)
	}
	return true
}

func (d *document) newLine(key string, value []byte) line {
	l := line{raw: append(append([]byte(key+" = "), quoted(value)...), d.eol...)}
	l.lex()
	l.text = d.charset.decode(value)
	return l
}

// declare says what the encoding is, where that goes without saying no longer: in a file that was ASCII, or that was taken
// for windows-1252 because of bytes that may be gone.
func (d *document) declare() {
	if d.charset.name != "" || d.wide || len(d.mark) > 0 {
		return
	}
	d.charset.name = "UTF-8"
	if d.charset.table != nil {
		d.charset.name = "windows-1252"
	}
	l := d.newLine(".encoding", []byte(d.charset.name))
	if len(d.lines) > 0 && bytes.HasPrefix(d.lines[0].raw, []byte("#!")) {
		d.lines[0].after = append([]line{l}, d.lines[0].after...)
		return
	}
	d.first = append([]line{l}, d.first...)
}

// put replaces the value.
func (l *line) put(value []byte) {
	raw := append([]byte(nil), l.raw[:l.val0]...)
	raw = append(raw, value...)
	raw = append(raw, l.raw[l.val1:]...)
	l.raw, l.val1 = raw, l.val0+len(value)
}

// upgrade makes the file UTF-8, as VMware does when a value cannot be written otherwise. It is false when the encoding is
// not known.
func (d *document) upgrade() bool {
	if d.charset.unknown {
		return false
	}
	old := d.charset
	convert := func(l *line) {
		if l.key == "" {
			l.raw = []byte(old.decode(l.raw))
			return
		}
		if ascii(l.raw) && ascii(l.text) {
			return
		}
		b := []byte(old.decode(l.raw[:l.val0]))
		v0 := len(b)
		b = append(b, quoted([]byte(old.decode(l.value())))...)
		v1 := len(b)
		b = append(b, old.decode(l.raw[l.val1:])...)
		l.raw, l.val0, l.val1 = b, v0, v1
	}
	each := func(list []line) {
		for i := range list {
			convert(&list[i])
			list[i].after = append([]line(nil), list[i].after...)
			for j := range list[i].after {
				convert(&list[i].after[j])
			}
		}
	}
	each(d.first)
	each(d.lines)
	d.charset = charset{name: old.name}
	if l := d.declaration(); l != nil {
		l.put([]byte(`"UTF-8"`))
		d.charset.name = "UTF-8"
	} else {
		d.declare()
	}
	return true
}

// declaration returns the line that says what the encoding is: one of the file, or what declare put there; nil: there is none.
func (d *document) declaration() *line {
	if i, ok := d.index[".encoding"]; ok && !d.lines[i].removed {
		return &d.lines[i]
	}
	lists := [][]line{d.first}
	if len(d.lines) > 0 {
		lists = append(lists, d.lines[0].after)
	}
	for _, list := range lists {
		for i := range list {
			if list[i].key == ".encoding" {
				return &list[i]
			}
		}
	}
	return nil
}

func (d *document) drop(l *line) {
	l.removed = true
	if d.charset.table != nil {
		d.declare()
	}
}

// remove takes all lines with a key out.
func (d *document) remove(key string) {
	key = lower(key)
	i, ok := d.index[key]
	if !ok {
		return
	}
	for ; i < len(d.lines); i++ {
		if l := &d.lines[i]; l.key != "" && l.low == key {
			d.drop(l)
		}
	}
}

// removeIf takes all lines out whose key, in lower case, matches.
func (d *document) removeIf(match func(key string) bool) {
	for i := range d.lines {
		if l := &d.lines[i]; l.key != "" && match(l.low) {
			d.drop(l)
		}
	}
}

// rename gives devices other heads, and removes what had these.
func (d *document) rename(heads map[string]string) *document {
	taken := map[string]bool{}
	for _, to := range heads {
		taken[to] = true
	}
	c := d.clone()
	c.lines = c.lines[:0]
	for _, l := range d.lines {
		h, off := l.head(), 0
		if h == "sched" {
			off = len("sched.")
			h = head(l.key[min(off, len(l.key)):])
		}
		if to, ok := heads[h]; ok && l.key != "" {
			at := l.key0 + off
			raw := append([]byte(nil), l.raw[:at]...)
			raw = append(append(raw, to...), l.raw[at+len(h):]...)
			text := l.text
			l = line{raw: raw}
			l.lex()
			l.text = text
		} else if taken[h] {
			continue
		}
		c.lines = append(c.lines, l)
	}
	c.reindex()
	return c
}

// bytes returns the file.
func (d *document) bytes() []byte {
	var out []byte
	var add func(list []line)
	add = func(list []line) {
		for i := range list {
			if l := &list[i]; !l.removed {
				if len(out) > 0 && out[len(out)-1] != '\n' && len(l.raw) > 0 {
					out = append(out, d.eol...)
				}
				out = append(out, l.raw...)
			}
			add(list[i].after)
		}
	}
	add(d.first)
	add(d.lines)
	if d.wide {
		out = toWide(out, d.big)
	}
	return append(append([]byte(nil), d.mark...), out...)
}

// fromWide turns UTF-16 into UTF-8. It is false when that could not be turned back.
func fromWide(b []byte, big bool) ([]byte, bool) {
	if len(b)%2 != 0 {
		return nil, false
	}
	out := make([]byte, 0, len(b))
	unit := func(i int) rune {
		if big {
			return rune(b[i])<<8 | rune(b[i+1])
		}
		return rune(b[i+1])<<8 | rune(b[i])
	}
	for i := 0; i < len(b); i += 2 {
		r := unit(i)
		if utf16.IsSurrogate(r) {
			if i+3 >= len(b) {
				return nil, false
			}
			i += 2
			if r = utf16.DecodeRune(r, unit(i)); r == utf8.RuneError {
				return nil, false
			}
		}
		out = utf8.AppendRune(out, r)
	}
	return out, true
}

func toWide(b []byte, big bool) []byte {
	out := make([]byte, 0, 2*len(b))
	for _, u := range utf16.Encode([]rune(string(b))) {
		if big {
			out = append(out, byte(u>>8), byte(u))
		} else {
			out = append(out, byte(u), byte(u>>8))
		}
	}
	return out
}
