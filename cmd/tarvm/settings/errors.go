package settings

import (
	"fmt"
	"slices"
	"strings"
)

// A Kind is a sort of thing that has a name here.
type Kind string

// The kinds, as they are called in the file and in messages.
const (
	Repository Kind = "repository"
	Area       Kind = "area"
	Project    Kind = "project"
	Policy     Kind = "policy"
	Catalogue  Kind = "catalogue"
)

// An Error is something in the file that cannot be used.
type Error struct {
	Path string
	Line int    // from 1; 0: no line in particular
	Key  string // areas.work.dir; empty: the text is not TOML
	Near string // the key that may have been meant, if Key is not known
	Err  error
}

func (e *Error) Error() string {
	var b strings.Builder
	b.WriteString(e.Path + ":")
	if e.Line > 0 {
		fmt.Fprintf(&b, "%d:", e.Line)
	}
	if e.Key != "" {
		b.WriteString(" " + e.Key + ":")
	}
	b.WriteString(" " + e.Err.Error())
	if e.Near != "" {
		fmt.Fprintf(&b, " (did you mean %s?)", e.Near)
	}
	return b.String()
}

func (e *Error) Unwrap() error { return e.Err }

// A NameError says why a name cannot be one.
type NameError struct {
	Kind Kind
	Name string
	Why  string
}

func (e *NameError) Error() string { return fmt.Sprintf("%s %q: %s", e.Kind, e.Name, e.Why) }

// An UnknownError is a name that the file does not have.
type UnknownError struct {
	Kind  Kind
	Name  string
	From  string   // who said it: a flag, a variable, a line of the file; empty: the caller
	Known []string // the names that there are, sorted
}

func (e *UnknownError) Error() string {
	s := fmt.Sprintf("no %s is called %q", e.Kind, e.Name)
	if e.From != "" {
		s = e.From + ": " + s
	}
	if n := near(e.Name, e.Known); n != "" {
		s += fmt.Sprintf(" (did you mean %s?)", n)
	}
	return s
}

// An ExistsError is a name, or a directory, that is taken.
type ExistsError struct {
	Kind Kind
	Name string // the one that is there
	Dir  string // its directory
}

func (e *ExistsError) Error() string {
	return fmt.Sprintf("%s %s is %s already", e.Kind, e.Name, e.Dir)
}

// An OverlapError is a working area within a repository, or the other way round: restoring into the area would take
// the repository's files for a machine's.
type OverlapError struct {
	AreaDir, Repository, RepositoryDir string
}

func (e *OverlapError) Error() string {
	return fmt.Sprintf("working area %s and repository %s (%s) must not hold one another", e.AreaDir, e.Repository, e.RepositoryDir)
}

// An InUseError is a repository that areas name as theirs.
type InUseError struct {
	Name  string
	Areas []string // sorted
}

func (e *InUseError) Error() string {
	return fmt.Sprintf("repository %s is that of area %s", e.Name, strings.Join(e.Areas, ", "))
}

// A LockedError is a file that another process is changing, and does not finish with.
type LockedError struct{ Path string }

func (e *LockedError) Error() string {
	return e.Path + ": another process holds this lock of the settings"
}

// near returns the one of words that is most like s, if any is: no more than a third of it differs.
func near(s string, words []string) string {
	best, at := "", len([]rune(s))/3+1
	for _, w := range words {
		if d := distance(strings.ToLower(s), strings.ToLower(w)); d < at || d == at && best == "" {
			best, at = w, d
		}
	}
	return best
}

// distance is how many characters are to be added, removed, replaced or swapped with the next to make b of a.
func distance(a, b string) int {
	x, y := []rune(a), []rune(b)
	var before []int
	row := make([]int, len(y)+1)
	for j := range row {
		row[j] = j
	}
	for i := range x {
		next := make([]int, len(y)+1)
		next[0] = i + 1
		for j := range y {
			cost := 1
			if x[i] == y[j] {
				cost = 0
			}
			next[j+1] = slices.Min([]int{row[j+1] + 1, next[j] + 1, row[j] + cost})
			if i > 0 && j > 0 && x[i] == y[j-1] && x[i-1] == y[j] {
				next[j+1] = min(next[j+1], before[j-1]+1)
			}
		}
		before, row = row, next
	}
	return row[len(y)]
}
