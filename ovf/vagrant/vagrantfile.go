package vagrant

import (
	"regexp"
	"strconv"
	"strings"
)

// A Setting is an assignment of a plain value in a Vagrantfile, such as
//
//	libvirt.memory = 2048
type Setting struct {
	// Provider is the block that it is in: libvirt, virtualbox; empty: none, the setting holds for all.
	Provider string
	// Name is what is assigned, without the variable before it: memory, cpus, disk_bus, base_mac. VirtualBox's
	// customize ["modifyvm", :id, "--memory", "1024"] is the setting --memory.
	Name string
	// Value is the text, number, symbol (without its colon), true or false.
	Value string
	// Line counts from 1.
	Line int
}

// number is the value as a number from 1 to limit.
func (s *Setting) number(limit int64) (int64, bool) {
	n, err := strconv.ParseInt(strings.ReplaceAll(s.Value, "_", ""), 10, 64)
	return n, err == nil && n > 0 && n <= limit
}

// maxSettings is how many are kept.
const maxSettings = 10_000

// Values: a text in quotes without anything that Ruby would replace, a number, a symbol, true, false.
const plainValue = `("[^"\\#]*"|'[^'\\]*'|:\w+|\d[\d_]*|true|false)`

var (
	blockLine  = regexp.MustCompile(`^\s*[\w.]+\.provider\s*\(?\s*[:"'](\w+)["']?\s*\)?\s*(?:do|\{)\s*\|\s*(\w+)`)
	assignLine = regexp.MustCompile(`^\s*(\w+)((?:\.\w+)+)\s*=\s*` + plainValue + `\s*(?:#.*)?;?\s*$`)
	customLine = regexp.MustCompile(`^\s*(\w+)\.customize\s*\(?\s*\[\s*["']modifyvm["']\s*,\s*:id\s*,\s*["'](--[\w-]+)["']\s*,\s*` + plainValue + `\s*\]\s*\)?\s*(?:#.*)?$`)
)

// settings reads the assignments of a Vagrantfile, line by line. Nothing is evaluated: expressions, conditions and loops
// are not understood, and a line in one that is never reached is read as any other.
func settings(b []byte) []Setting {
	var out []Setting
	providers := map[string]string{} // of a block's variable
	for i, line := range strings.Split(string(b), "\n") {
		line = strings.TrimRight(line, "\r")
		if len(line) > 4096 || len(out) >= maxSettings {
			continue
		}
		if m := blockLine.FindStringSubmatch(line); m != nil {
			providers[m[2]] = m[1]
			continue
		}
		if m := assignLine.FindStringSubmatch(line); m != nil {
			name := m[2][strings.LastIndexByte(m[2], '.')+1:]
			out = append(out, Setting{providers[m[1]], name, plain(m[3]), i + 1})
			continue
		}
		if m := customLine.FindStringSubmatch(line); m != nil {
			out = append(out, Setting{providers[m[1]], m[2], plain(m[3]), i + 1})
		}
	}
	return out
}

func plain(v string) string {
	switch v[0] {
	case '"', '\'':
		return v[1 : len(v)-1]
	case ':':
		return v[1:]
	}
	return v
}
