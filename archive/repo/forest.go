package repo

import (
	"cmp"
	"encoding/hex"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"tarvm/delta"
)

// A Forest is the entries of a repository at one moment, with their parents. It must not be changed.
type Forest struct {
	Repository string    `json:"repository"` // its id
	Entries    []*Entry  `json:"entries"`    // by number
	Problems   []Problem `json:"problems,omitempty"`

	next   int
	unread []Problem // entries that may be there, but could not be read
	// generations are the highest of archives that are there, of numbers that have any.
	generations map[int]int
	byNumber    map[int]*Entry
	byID        map[delta.Digest][]*Entry
	byDigest    map[delta.Digest]*Entry
	first       map[delta.Digest]*Entry // of each state, the entry that is nearest to a full one
	parent      map[int]*Entry
	children    map[int][]*Entry
}

// link resolves parents.
func (f *Forest) link() {
	slices.SortFunc(f.Entries, func(a, b *Entry) int { return cmp.Compare(a.Number, b.Number) })
	f.byNumber = make(map[int]*Entry, len(f.Entries))
	f.byID = make(map[delta.Digest][]*Entry, len(f.Entries))
	f.byDigest = make(map[delta.Digest]*Entry, len(f.Entries))
	for _, e := range f.Entries {
		f.byNumber[e.Number] = e
		f.byID[e.ID] = append(f.byID[e.ID], e)
		if f.byDigest[e.Digest] == nil {
			f.byDigest[e.Digest] = e
		}
	}
	f.parent = make(map[int]*Entry, len(f.Entries))
	f.children = make(map[int][]*Entry)
	// Of several archives of the wanted state the one is taken with which the child was made, unless that leads back to the
	// child; then one that is nearer to a full one, which does not.
	depth := f.depths()
	f.first = make(map[delta.Digest]*Entry, len(f.byID))
	for _, e := range f.Entries {
		d, built := depth[e]
		if best := f.first[e.ID]; built && (best == nil || d < depth[best]) {
			f.first[e.ID] = e
		}
	}
	for _, e := range f.Entries {
		p := f.exact(e, depth)
		if p == nil {
			p = f.nearest(e, depth)
		}
		if p != nil {
			f.parent[e.Number] = p
		}
	}
	for cut := true; cut; {
		cut = false
		for _, e := range f.circle() {
			cut = true
			if p := f.nearest(e, depth); p != nil {
				f.parent[e.Number] = p
			} else {
				delete(f.parent, e.Number)
			}
		}
	}
	for _, e := range f.Entries {
		if p := f.parent[e.Number]; p != nil {
			f.children[p.Number] = append(f.children[p.Number], e)
		}
	}
}

// circle returns the entries that build on each other.
func (f *Forest) circle() []*Entry {
	var round []*Entry
	seen := make(map[*Entry]*Entry, len(f.Entries)) // from which entry one was come to
	for _, from := range f.Entries {
		e := from
		for ; e != nil && seen[e] == nil; e = f.parent[e.Number] {
			seen[e] = from
		}
		if e == nil || seen[e] != from {
			continue
		}
		round = append(round, e)
		for p := f.parent[e.Number]; p != e; p = f.parent[p.Number] {
			round = append(round, p)
		}
	}
	return round
}

// depths are the least numbers of archives from a full one, following states; what is not in it cannot be built.
func (f *Forest) depths() map[*Entry]int {
	wanted := make(map[delta.Digest][]*Entry)
	depth := make(map[*Entry]int, len(f.Entries))
	var queue []*Entry
	for _, e := range f.Entries {
		if e.Parent == nil {
			depth[e] = 0
			queue = append(queue, e)
		} else {
			wanted[e.Parent.ID] = append(wanted[e.Parent.ID], e)
		}
	}
	for ; len(queue) > 0; queue = queue[1:] {
		e := queue[0]
		for _, c := range wanted[e.ID] {
			if _, ok := depth[c]; !ok {
				depth[c] = depth[e] + 1
				queue = append(queue, c)
			}
		}
		delete(wanted, e.ID) // its twins are no nearer
	}
	return depth
}

// exact returns the archive with which e was made, nil when that is not here, or of no use while another is.
func (f *Forest) exact(e *Entry, depth map[*Entry]int) *Entry {
	if e.Parent == nil {
		return nil
	}
	p := f.byDigest[e.Parent.Digest]
	if p == nil || p == e || p.ID != e.Parent.ID {
		return nil
	}
	_, wanted := depth[e]
	if _, built := depth[p]; wanted && !built {
		return nil
	}
	return p
}

// nearest returns the archive of the state on which e builds that is nearest to a full one, nil when none is nearer than e.
func (f *Forest) nearest(e *Entry, depth map[*Entry]int) *Entry {
	ed, ok := depth[e]
	if e.Parent == nil || !ok {
		return nil
	}
	best := f.first[e.Parent.ID]
	if best == nil || depth[best] >= ed {
		return nil
	}
	return best
}

// own returns e as f has it: entries of another moment are told by number and state.
func (f *Forest) own(e *Entry) *Entry {
	if x := f.byNumber[e.Number]; x != nil && x.ID == e.ID {
		return x
	}
	return e
}

// Parent returns the entry on which e builds, nil for a full one, and when it is not here.
func (f *Forest) Parent(e *Entry) *Entry { return f.parent[e.Number] }

// Children returns the entries that build on e, by number.
func (f *Forest) Children(e *Entry) []*Entry { return f.children[e.Number] }

// Roots returns the entries that have no parent here, by number.
func (f *Forest) Roots() []*Entry {
	var rs []*Entry
	for _, e := range f.Entries {
		if f.parent[e.Number] == nil {
			rs = append(rs, e)
		}
	}
	return rs
}

// Twins returns the other entries of e's state.
func (f *Forest) Twins(e *Entry) []*Entry {
	return slices.DeleteFunc(slices.Clone(f.byID[e.ID]), func(t *Entry) bool { return t.Number == e.Number })
}

// Path returns the archives that e is built of, the full one first. When one is not here it is a *BrokenError.
func (f *Forest) Path(e *Entry) ([]*Entry, error) {
	e = f.own(e)
	path := []*Entry{e}
	for e.Parent != nil {
		p := f.parent[e.Number]
		if p == nil || len(path) > len(f.Entries) {
			return nil, &BrokenError{Entry: path[0], At: e}
		}
		path = append(path, p)
		e = p
	}
	slices.Reverse(path)
	return path, nil
}

// A BrokenError says that an entry cannot be built, because an archive is not in the repository on which it builds.
type BrokenError struct {
	Entry *Entry // that is wanted
	At    *Entry // on its way: the one whose parent is not here
}

func (e *BrokenError) Error() string {
	p := e.At.Parent
	name := ""
	if p.Name != "" {
		name = fmt.Sprintf(" (%s)", p.Name)
	}
	if e.At == e.Entry {
		return fmt.Sprintf("%s builds on %s%s, which is not in the repository", e.Entry, p.ID.Short(), name)
	}
	return fmt.Sprintf("%s cannot be built: %s builds on %s%s, which is not in the repository", e.Entry, e.At, p.ID.Short(), name)
}

// Orphans returns which entries could be built no more when those of the set are gone, by number.
func (f *Forest) Orphans(set []*Entry) []*Entry {
	gone := make(map[*Entry]bool, len(set))
	for _, e := range set {
		gone[f.own(e)] = true
	}
	left := &Forest{}
	for _, e := range f.Entries {
		if !gone[e] {
			left.Entries = append(left.Entries, e)
		}
	}
	left.link()
	before, after := f.depths(), left.depths()
	var orphans []*Entry
	for _, e := range left.Entries {
		_, was := before[e]
		if _, is := after[e]; was && !is {
			orphans = append(orphans, e)
		}
	}
	return orphans
}

// An OrphansError says that removing entries would make others unbuildable.
type OrphansError struct {
	Remove  []*Entry
	Orphans []*Entry
}

func (e *OrphansError) Error() string {
	verb := "builds"
	if len(e.Orphans) > 1 {
		verb = "build"
	}
	return fmt.Sprintf("%s cannot go: %s %s on it", refs(e.Remove), refs(e.Orphans), verb)
}

// refs lists numbers for people.
func refs(es []*Entry) string {
	const most = 20
	var s []string
	for i, e := range es {
		if i == most {
			s = append(s, fmt.Sprintf("and %d more", len(es)-most))
			break
		}
		s = append(s, e.Ref())
	}
	return strings.Join(s, ", ")
}

// Find returns the entry that people mean by a text: "#3" or "3" (the number), "latest", a name, which must be one
// entry's alone, with "PROJECT/" in front of it if need be, the beginning of an id (six digits or more), each with "~N" behind it
// for the Nth ancestor. Errors are *FindError.
func (f *Forest) Find(text string) (*Entry, error) {
	name, up := text, 0
	if i := strings.LastIndexByte(text, '~'); i > 0 {
		if n, err := strconv.ParseUint(text[i+1:], 10, 31); err == nil {
			name, up = text[:i], int(n)
		} else if text[i+1:] == "" {
			name, up = text[:i], 1
		}
	}
	e, err := f.find(name)
	if err != nil {
		return nil, err
	}
	for i := range up {
		p := f.parent[e.Number]
		if p == nil {
			return nil, &FindError{Text: text, Why: fmt.Sprintf("%s has %d ancestors here", name, i)}
		}
		e = p
	}
	return e, nil
}

func (f *Forest) find(text string) (*Entry, error) {
	if len(f.Entries) == 0 {
		return nil, &FindError{Text: text, Why: "the repository is empty"}
	}
	num, hash := strings.CutPrefix(text, "#")
	if n, err := parseNumber(num); err == nil && (hash || f.byNumber[n] != nil || len(num) < minPrefix) {
		if e := f.byNumber[n]; e != nil {
			return e, nil
		}
		why := "there is none"
		if n < f.next {
			why = "it was removed"
		}
		return nil, &FindError{Text: text, Why: why}
	}
	if text == "latest" {
		return f.Latest(""), nil
	}
	var found []*Entry
	project, name, in := strings.Cut(text, "/")
	if !in {
		project, name = "", text
	}
	if in && name == "latest" {
		if e := f.Latest(project); e != nil {
			return e, nil
		}
	}
	for _, e := range f.Entries {
		if e.Name == text || in && e.Project == project && e.Name == name {
			found = append(found, e)
		}
	}
	if len(found) == 0 && len(text) >= minPrefix && len(text) <= 64 {
		if _, err := hex.DecodeString(text[:len(text)/2*2]); err == nil {
			for _, e := range f.Entries {
				if id := e.ID.String(); strings.HasPrefix(strings.TrimPrefix(id, "blake3:"), strings.ToLower(text)) {
					found = append(found, e)
				}
			}
			if len(found) > 1 && !slices.ContainsFunc(found, func(e *Entry) bool { return e.ID != found[0].ID }) {
				found = found[:1] // twins
			}
		}
	}
	switch len(found) {
	case 0:
		return nil, &FindError{Text: text, Why: "there is none"}
	case 1:
		return found[0], nil
	}
	return nil, &FindError{Text: text, Several: found}
}

// minPrefix is the shortest beginning of an id that is taken for one.
const minPrefix = 6

// Latest returns the entry of a project ("": of all) that has the highest number, nil if there is none.
func (f *Forest) Latest(project string) *Entry {
	for _, e := range slices.Backward(f.Entries) {
		if project == "" || e.Project == project {
			return e
		}
	}
	return nil
}

// ByDigest returns the entry with exactly that archive, or else one of that state; nil if there is none.
func (f *Forest) ByDigest(id, digest delta.Digest) *Entry {
	if e := f.byDigest[digest]; e != nil && e.ID == id {
		return e
	}
	if es := f.byID[id]; len(es) > 0 {
		return es[0]
	}
	return nil
}

// Projects returns the names of all projects, sorted.
func (f *Forest) Projects() []string {
	var ps []string
	seen := make(map[string]bool)
	for _, e := range f.Entries {
		if !seen[e.Project] {
			seen[e.Project] = true
			ps = append(ps, e.Project)
		}
	}
	slices.Sort(ps)
	return ps
}

// A FindError says that a text names no entry, or more than one. It is ErrNoEntry.
type FindError struct {
	Text    string
	Why     string
	Several []*Entry
}

func (e *FindError) Error() string {
	if len(e.Several) > 0 {
		return fmt.Sprintf("%q is the name of several entries: %s", e.Text, refs(e.Several))
	}
	return fmt.Sprintf("no entry %q: %s", e.Text, e.Why)
}

// Is makes a FindError an ErrNoEntry.
func (e *FindError) Is(target error) bool { return target == ErrNoEntry } //nolint:errorlint // a sentinel
