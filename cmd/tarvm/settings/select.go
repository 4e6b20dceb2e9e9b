package settings

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
)

// Given is what flags say; empty: nothing.
type Given struct{ Repository, Area, Project, Policy string }

// A Choice is what is meant. The zero value: nothing says it.
type Choice struct {
	Name string `json:"name,omitempty"` // empty: a directory that has none
	Dir  string `json:"dir,omitempty"`  // absolute; of repositories and areas
	From string `json:"from,omitempty"` // who said it: --area, TARVM_AREA, /home/u/.config/tarvm/config.toml:3
}

// A Selection is what a command works on.
type Selection struct {
	Repository Choice `json:"repository,omitzero"`
	Area       Choice `json:"area,omitzero"`
	Project    Choice `json:"project,omitzero"`
	Policy     Choice `json:"policy,omitzero"`
}

// Select decides what is meant: what a flag says, else the environment (TARVM_REPO, TARVM_AREA, TARVM_PROJECT), else,
// for repository and project, what the file says of the area, else the file's default. Where a repository or an area is
// to be named, the path of a directory will do: it has a separator, or is . or .. . The error is an *UnknownError or a
// *NameError.
func (s *Settings) Select(flags Given) (Selection, error) {
	var sel Selection
	var err error
	if sel.Area, err = s.directory(Area, []said{
		{flags.Area, "--area", nil}, {os.Getenv(EnvArea), EnvArea, nil}, {s.Area, "", []string{"area"}},
	}); err != nil {
		return sel, err
	}
	own := s.Areas[sel.Area.Name]
	if sel.Repository, err = s.directory(Repository, []said{
		{flags.Repository, "--repo", nil}, {os.Getenv(EnvRepository), EnvRepository, nil},
		{own.Repository, "", []string{"areas", sel.Area.Name, "repository"}}, {s.Repository, "", []string{"repository"}},
	}); err != nil {
		return sel, err
	}
	if sel.Project, err = s.name(Project, []said{
		{flags.Project, "--project", nil}, {os.Getenv(EnvProject), EnvProject, nil},
		{own.Project, "", []string{"areas", sel.Area.Name, "project"}}, {s.Project, "", []string{"project"}},
	}); err != nil {
		return sel, err
	}
	sel.Policy, err = s.name(Policy, []said{{flags.Policy, "--policy", nil}, {s.Policy, "", []string{"policy"}}})
	return sel, err
}

// said is something that may be said, by from or at a key of the file.
type said struct {
	what, from string
	key        []string
}

// first returns the first that is said at all.
func (s *Settings) first(list []said) (what, from string) {
	for _, x := range list {
		switch {
		case x.what == "":
		case x.key == nil:
			return x.what, x.from
		default:
			if n := s.doc.lineOf(x.key); n > 0 {
				return x.what, fmt.Sprintf("%s:%d", s.Path, n)
			}
			return x.what, s.Path
		}
	}
	return "", ""
}

func (s *Settings) directory(kind Kind, list []said) (Choice, error) {
	what, from := s.first(list)
	if what == "" {
		return Choice{}, nil
	}
	dirs := s.Repositories
	if kind == Area {
		dirs = make(map[string]string)
		for name, a := range s.Areas {
			dirs[name] = a.Dir
		}
	}
	if dir, ok := dirs[what]; ok {
		return Choice{what, dir, from}, nil
	}
	if what != "." && what != ".." && !strings.ContainsFunc(what, func(r rune) bool { return r < 0x80 && os.IsPathSeparator(uint8(r)) }) {
		return Choice{}, s.unknown(kind, what, from)
	}
	abs, err := filepath.Abs(what)
	if err != nil {
		return Choice{}, fmt.Errorf("%s: %w", from, err)
	}
	for name, dir := range dirs {
		if dir == abs {
			return Choice{name, abs, from}, nil
		}
	}
	return Choice{Dir: abs, From: from}, nil
}

func (s *Settings) name(kind Kind, list []said) (Choice, error) {
	what, from := s.first(list)
	if what == "" {
		return Choice{}, nil
	}
	if err := CheckName(kind, what); err != nil {
		return Choice{}, fmt.Errorf("%s: %w", from, err)
	}
	return Choice{Name: what, From: from}, nil
}
