package vmdir

import (
	"fmt"
	"path"
	"strings"
)

// Match reports whether pattern names the file at name, or a directory that name is
// below. Name is relative and slash separated.
//
// A pattern without a slash matches any one component of name ("*.log"). One with a
// slash matches from the top, component by component; the component ** stands for
// any number of them, also none. A leading slash only anchors ("/vm.log"), a trailing
// one has no meaning. Within a component the syntax is that of path.Match. The only
// error wraps path.ErrBadPattern.
func Match(pattern, name string) (bool, error) {
	p, err := compile(pattern)
	if err != nil {
		return false, err
	}
	return p.match(name), nil
}

// pattern is one in parts: with one part and not anchored it matches anywhere.
type pattern struct {
	parts    []string
	anchored bool
}

const anyDepth = "**"

func compile(s string) (pattern, error) {
	t := strings.TrimSuffix(s, "/")
	p := pattern{anchored: strings.Contains(t, "/")}
	p.parts = strings.Split(strings.TrimPrefix(t, "/"), "/")
	for _, c := range p.parts {
		if c == "" || c == "." || c == ".." {
			return p, fmt.Errorf("pattern %q: %w: component %q", s, path.ErrBadPattern, c)
		}
		if _, err := path.Match(c, ""); err != nil {
			return p, fmt.Errorf("pattern %q: %w", s, err)
		}
	}
	return p, nil
}

func compileAll(list []string) ([]pattern, error) {
	all := make([]pattern, len(list))
	for i, s := range list {
		var err error
		if all[i], err = compile(s); err != nil {
			return nil, err
		}
	}
	return all, nil
}

func (p *pattern) match(name string) bool {
	if name == "." {
		return false // the directory itself
	}
	comps := strings.Split(name, "/")
	if !p.anchored {
		for _, c := range comps {
			if p.parts[0] == anyDepth || component(p.parts[0], c) {
				return true
			}
		}
		return false
	}
	// at[i]: the first i parts match the components so far. A set instead of
	// backtracking keeps many ** linear.
	at := make([]bool, len(p.parts)+1)
	at[0] = true
	p.skip(at)
	for _, c := range comps {
		for i := len(p.parts) - 1; i >= 0; i-- {
			deep := p.parts[i] == anyDepth
			at[i+1] = at[i] && (deep || component(p.parts[i], c)) || deep && at[i+1]
		}
		at[0] = false
		p.skip(at)
		if at[len(p.parts)] {
			return true // name itself, or a directory above it
		}
	}
	return false
}

// skip lets each ** stand for no component.
func (p *pattern) skip(at []bool) {
	for i, c := range p.parts {
		if c == anyDepth && at[i] && i+1 < len(p.parts) {
			at[i+1] = true
		}
	}
}

func component(pattern, c string) bool {
	ok, _ := path.Match(pattern, c) // compile has seen the pattern
	return ok
}
