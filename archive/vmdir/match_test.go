package vmdir_test

import (
	"errors"
	"path"
	"strings"
	"testing"

	"tarvm/archive/vmdir"
)

func TestMatch(t *testing.T) {
	for _, c := range []struct {
		pattern, name string
		want          bool
	}{
		{"*.log", "vm.log", true},
		{"*.log", "a/b/vm.log", true},
		{"*.log", "vm.log.d/x", false},
		{"*.log", "vm.log", true},
		{"cache", "cache/a/b", true}, // below a directory that matches
		{"cache", "a/cache/b", true},
		{"cache", "acache", false},
		{"cache/", "cache", true},
		{"/vm.log", "vm.log", true},
		{"/vm.log", "a/vm.log", false},
		{"a/*.log", "a/vm.log", true},
		{"a/*.log", "a/b/vm.log", false},
		{"a/*.log", "b/a/vm.log", false},
		{"a/b", "a", false},
		{"a/b", "a/b/c/d", true},
		{"a/**/z", "a/z", true},
		{"a/**/z", "a/b/c/z", true},
		{"a/**/z", "a/b/c/z/below", true},
		{"a/**/z", "b/z", false},
		{"**/z", "z", true},
		{"**/z", "a/b/z", true},
		{"a/**", "a/b", true},
		{"a/**", "a/b/c", true},
		{"a/**", "a", false}, // the content, not the directory
		{"**", "x", true},
		{"**", "x/y", true},
		{"/**", "x", true},
		{"**/**/z", "z", true},
		{"?", "é", true},
		{"[a-c]x", "bx", true},
		{`\*`, "*", true},
		{`\*`, "a", false},
		{"*", "a", true},
		{"*", ".", false},
		{"**", ".", false},
	} {
		got, err := vmdir.Match(c.pattern, c.name)
		if err != nil || got != c.want {
			t.Errorf("Match(%q, %q) = %v, %v, want %v", c.pattern, c.name, got, err, c.want)
		}
	}
}

func TestMatchBadPattern(t *testing.T) {
	for _, p := range []string{"", "/", "a//b", "[", "a/[", "a/[x/b", `a\`, "../a", "./a", "a/.."} {
		if _, err := vmdir.Match(p, "zzz"); !errors.Is(err, path.ErrBadPattern) {
			t.Errorf("Match(%q) = %v, want ErrBadPattern", p, err)
		}
	}
}

// plainMatch tries every way, as the documentation says it.
func plainMatch(pattern, name []string) bool {
	if len(pattern) == 0 {
		return true // name itself, or a directory above it
	}
	if pattern[0] == "**" {
		for i := range len(name) + 1 {
			if i == 0 && len(pattern) == 1 {
				continue // a ** at the end stands for what is below, at least one
			}
			if plainMatch(pattern[1:], name[i:]) {
				return true
			}
		}
		return false
	}
	if len(name) == 0 {
		return false
	}
	ok, _ := path.Match(pattern[0], name[0])
	return ok && plainMatch(pattern[1:], name[1:])
}

func FuzzMatch(f *testing.F) {
	for _, s := range []string{"a/**/b|a/x/b", "**/**|x/y", "/a|a/b", "a/*/?|a/b/c", "**/a/**/b/**|x/a/y/b/z", "a*|b/ab/c"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		pattern, name, _ := strings.Cut(s, "|")
		if len(s) > 40 || name == "" || name == "." || strings.Contains("/"+name+"/", "//") {
			return
		}
		got, err := vmdir.Match(pattern, name)
		if err != nil {
			return
		}
		comps := strings.Split(name, "/")
		parts := strings.Split(strings.TrimPrefix(strings.TrimSuffix(pattern, "/"), "/"), "/")
		want := plainMatch(parts, comps)
		if !strings.Contains(strings.TrimSuffix(pattern, "/"), "/") {
			for i := range comps {
				want = want || plainMatch(parts, comps[i:])
			}
		}
		if got != want {
			t.Errorf("Match(%q, %q) = %v, want %v", pattern, name, got, want)
		}
	})
}
