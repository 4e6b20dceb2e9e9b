package settings

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"unicode/utf8"

	"github.com/BurntSushi/toml"
)

// maxFile is the largest file that is read, in bytes.
const maxFile = 1 << 20

// Settings are what the file says, and what was changed since. They are not safe for concurrent use.
type Settings struct {
	// Path of the file, as it was given.
	Path string
	// What is meant when nothing is said; empty: nothing.
	Repository, Area, Project, Policy string
	// TrustTimes takes files whose size and times have not changed for unchanged.
	TrustTimes bool
	// Repositories are directories, by name.
	Repositories map[string]string
	// Areas are the working areas, by name.
	Areas map[string]WorkingArea
	// Catalogues are paths or URLs, by name.
	Catalogues map[string]string

	content content
	meta    toml.MetaData
	doc     *document
	changes []change
}

// A WorkingArea is a directory that holds at most one machine.
type WorkingArea struct {
	Dir        string // absolute
	Project    string // of what is saved from here; empty: that of the settings
	Repository string // that it is saved to; empty: that of the settings
}

// content is the file as it is decoded, with nothing expanded.
type content struct {
	Repository   string                    `toml:"repository,omitempty"`
	Area         string                    `toml:"area,omitempty"`
	Project      string                    `toml:"project,omitempty"`
	Policy       string                    `toml:"policy,omitempty"`
	TrustTimes   bool                      `toml:"trust_times,omitempty"`
	Repositories map[string]string         `toml:"repositories,omitempty"`
	Areas        map[string]areaContent    `toml:"areas,omitempty"`
	Policies     map[string]toml.Primitive `toml:"policies,omitempty"`
	Catalogues   map[string]string         `toml:"catalogues,omitempty"`
}

type areaContent struct {
	Dir        string `toml:"dir"`
	Project    string `toml:"project,omitempty"`
	Repository string `toml:"repository,omitempty"`
}

// Load reads a file. One that is not there is empty. Errors in it are *Error.
func Load(path string) (*Settings, error) {
	text, err := read(path)
	if err != nil {
		return nil, err
	}
	return decode(path, text)
}

func read(path string) (string, error) {
	st, err := os.Stat(path)
	if errors.Is(err, fs.ErrNotExist) || err == nil && path == os.DevNull {
		return "", nil
	}
	if err != nil {
		return "", fmt.Errorf("settings: %w", err)
	}
	if !st.Mode().IsRegular() {
		return "", fmt.Errorf("settings: %s: is not a regular file", path)
	}
	f, err := os.Open(path)
	if err != nil {
		return "", fmt.Errorf("settings: %w", err)
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, maxFile+1))
	if err != nil {
		return "", fmt.Errorf("settings: %w", err)
	}
	if len(b) > maxFile {
		return "", &Error{Path: path, Err: fmt.Errorf("is larger than %d bytes", maxFile)}
	}
	return string(b), nil
}

// The keys that there are: in the file, and in the table of an area. A dot is in the names of tables.
var (
	topKeys  = []string{"repository", "area", "project", "policy", "trust_times", "repositories", "areas", "policies", "catalogues"}
	areaKeys = []string{"dir", "project", "repository"}
)

func decode(path, text string) (*Settings, error) {
	s := &Settings{Path: path}
	// The decoder lets some of it pass.
	if i := strings.IndexFunc(text, func(r rune) bool { return r == 0 || r == utf8.RuneError }); i >= 0 && !utf8.ValidString(text) || strings.ContainsRune(text, 0) {
		return nil, &Error{Path: path, Line: 1 + strings.Count(text[:i], "\n"), Err: errors.New("is not UTF-8 text")}
	}
	var tables map[string]toml.Primitive
	meta, err := toml.Decode(text, &tables)
	if err != nil {
		e := &Error{Path: path, Err: err}
		var pe toml.ParseError
		if errors.As(err, &pe) {
			e.Line, e.Key, e.Err = pe.Position.Line, pe.LastKey, errors.New(pe.Message)
		}
		return nil, e
	}
	s.doc = parse(text)
	for _, key := range meta.Keys() {
		if err := s.check(key, meta.Type(key...)); err != nil {
			return nil, err
		}
	}
	if s.meta, err = toml.Decode(text, &s.content); err != nil {
		return nil, &Error{Path: path, Err: err}
	}
	// What the check above lets pass and nothing takes would be lost when the file is written anew.
	for _, key := range s.meta.Undecoded() {
		if key[0] != "policies" {
			return nil, s.fail(key, errors.New("is not a setting"))
		}
	}
	if err := s.fill(); err != nil {
		return nil, err
	}
	return s, nil
}

// fail says what is wrong with a key.
func (s *Settings) fail(key []string, err error) *Error {
	return &Error{Path: s.Path, Line: s.doc.lineOf(key), Key: dotted(key), Err: err}
}

// check is for keys that are known, and have values of their type.
func (s *Settings) check(key []string, typ string) error {
	want, known, kind := "String", topKeys, Kind("")
	switch len(key) {
	case 1:
		switch key[0] {
		case "repositories", "areas", "policies", "catalogues":
			want = "Hash"
		case "trust_times":
			want = "Bool"
		}
	case 2:
		known = nil
		switch key[0] {
		case "repositories":
			kind = Repository
		case "areas":
			want, kind = "Hash", Area
		case "policies":
			want, kind = "Hash", Policy
		case "catalogues":
			kind = Catalogue
		}
	default:
		if key[0] == "policies" {
			return nil
		}
		known = areaKeys
	}
	last := key[len(key)-1]
	if known != nil && !slices.Contains(known, last) {
		e := s.fail(key, errors.New("is not a setting"))
		e.Near = near(last, known)
		return e
	}
	if kind != "" {
		if err := CheckName(kind, last); err != nil {
			return s.fail(key, err)
		}
	}
	if typ != want {
		names := map[string]string{"String": "a string", "Bool": "true or false", "Hash": "a table"}
		return s.fail(key, fmt.Errorf("is to be %s", names[want]))
	}
	return nil
}

// fill makes of the content what others see.
func (s *Settings) fill() error {
	c := &s.content
	s.Repository, s.Area, s.Project, s.Policy, s.TrustTimes = c.Repository, c.Area, c.Project, c.Policy, c.TrustTimes
	for _, d := range []struct {
		kind Kind
		name string
	}{{Repository, c.Repository}, {Area, c.Area}, {Project, c.Project}, {Policy, c.Policy}} {
		if d.name == "" {
			continue
		}
		if err := CheckName(d.kind, d.name); err != nil {
			return s.fail([]string{string(d.kind)}, err)
		}
	}
	s.Repositories = make(map[string]string)
	for _, name := range slices.Sorted(maps.Keys(c.Repositories)) {
		dir, err := expand(c.Repositories[name])
		if err != nil {
			return s.fail([]string{"repositories", name}, err)
		}
		s.Repositories[name] = dir
	}
	s.Areas = make(map[string]WorkingArea)
	for _, name := range slices.Sorted(maps.Keys(c.Areas)) {
		a := c.Areas[name]
		dir, err := expand(a.Dir)
		if err != nil {
			return s.fail([]string{"areas", name, "dir"}, err)
		}
		if a.Project != "" {
			if err := CheckName(Project, a.Project); err != nil {
				return s.fail([]string{"areas", name, "project"}, err)
			}
		}
		if _, ok := c.Repositories[a.Repository]; !ok && a.Repository != "" {
			return s.fail([]string{"areas", name, "repository"}, s.unknown(Repository, a.Repository, ""))
		}
		s.Areas[name] = WorkingArea{dir, a.Project, a.Repository}
	}
	s.Catalogues = make(map[string]string)
	for _, name := range slices.Sorted(maps.Keys(c.Catalogues)) {
		place := c.Catalogues[name]
		if !strings.Contains(place, "://") {
			var err error
			if place, err = expand(place); err != nil {
				return s.fail([]string{"catalogues", name}, err)
			}
		}
		s.Catalogues[name] = place
	}
	return nil
}

// unknown is the error for a name that the file does not have.
func (s *Settings) unknown(kind Kind, name, from string) *UnknownError {
	return &UnknownError{kind, name, from, s.names(kind)}
}

// names returns the names that there are of a kind, sorted.
func (s *Settings) names(kind Kind) []string {
	switch kind {
	case Repository:
		return slices.Sorted(maps.Keys(s.content.Repositories))
	case Area:
		return slices.Sorted(maps.Keys(s.content.Areas))
	case Policy:
		return s.Policies()
	case Catalogue:
		return slices.Sorted(maps.Keys(s.content.Catalogues))
	}
	return nil
}

// Policies returns the names of the policies in the file, sorted.
func (s *Settings) Policies() []string { return slices.Sorted(maps.Keys(s.content.Policies)) }

// DecodePolicy decodes the table of a policy into v, a pointer to a struct with toml tags. A key that the struct has no
// field for is an error. Errors are *UnknownError and *Error.
func (s *Settings) DecodePolicy(name string, v any) error {
	p, ok := s.content.Policies[name]
	if !ok {
		return s.unknown(Policy, name, "")
	}
	table := []string{"policies", name}
	if err := s.meta.PrimitiveDecode(p, v); err != nil {
		e := s.fail(table, err)
		var pe toml.ParseError
		if errors.As(err, &pe) {
			e.Line, e.Err = max(e.Line, pe.Position.Line), errors.New(pe.Message)
		}
		return e
	}
	for _, key := range s.meta.Undecoded() {
		if len(key) > len(table) && prefixed(key, table) {
			e := s.fail(key, errors.New("is not a setting of policies"))
			e.Near = near(key[len(key)-1], tags(v))
			return e
		}
	}
	return nil
}

// tags are the keys of a struct.
func tags(v any) []string {
	t := reflect.TypeOf(v)
	for t.Kind() == reflect.Pointer {
		t = t.Elem()
	}
	if t.Kind() != reflect.Struct {
		return nil
	}
	var list []string
	for f := range t.Fields() {
		name, _, _ := strings.Cut(f.Tag.Get("toml"), ",")
		if name == "" {
			name = f.Name
		}
		list = append(list, name)
	}
	return list
}

// A change is made on what the file says when it is saved.
type change func(*content) error

// do makes a change here; Save makes it in the file.
func (s *Settings) do(c change) error {
	changed := s.content.clone()
	if err := c(&changed); err != nil {
		return err
	}
	before := s.content
	s.content = changed
	if err := s.fill(); err != nil {
		s.content = before
		_ = s.fill() // succeeded before
		return err
	}
	s.changes = append(s.changes, c)
	return nil
}

func (c *content) clone() content {
	n := *c
	n.Repositories, n.Areas = maps.Clone(c.Repositories), maps.Clone(c.Areas)
	if n.Repositories == nil {
		n.Repositories = make(map[string]string)
	}
	if n.Areas == nil {
		n.Areas = make(map[string]areaContent)
	}
	if n.Catalogues = maps.Clone(c.Catalogues); n.Catalogues == nil {
		n.Catalogues = make(map[string]string)
	}
	return n
}

// absolute is a directory as it is kept. The file is UTF-8, which names of files need not be.
func absolute(dir string) (string, error) {
	if dir == "" {
		return "", errors.New("no directory is named")
	}
	if strings.HasPrefix(dir, "~/") {
		return expand(dir)
	}
	abs, err := filepath.Abs(dir)
	if err == nil && (!utf8.ValidString(abs) || strings.ContainsRune(abs, 0)) {
		err = fmt.Errorf("%q: the settings cannot hold a name that is not UTF-8", abs)
	}
	return abs, err
}

// AddArea adds a working area; its relative directory is made absolute. That very area being there already is no error.
// Errors are *NameError, *ExistsError for a name or a directory that is taken, *OverlapError and *UnknownError for its
// repository.
func (s *Settings) AddArea(name string, a WorkingArea) error {
	if err := CheckName(Area, name); err != nil {
		return err
	}
	if a.Project != "" {
		if err := CheckName(Project, a.Project); err != nil {
			return err
		}
	}
	dir, err := absolute(a.Dir)
	if err != nil {
		return err
	}
	a.Dir = dir
	return s.do(func(c *content) error {
		if there, ok := c.Areas[name]; ok {
			if d, err := expand(there.Dir); err == nil && (WorkingArea{d, there.Project, there.Repository}) == a {
				return nil
			}
			return &ExistsError{Area, name, there.Dir}
		}
		for other, there := range c.Areas {
			if d, err := expand(there.Dir); err == nil && d == dir {
				return &ExistsError{Area, other, dir}
			}
		}
		if _, ok := c.Repositories[a.Repository]; !ok && a.Repository != "" {
			return &UnknownError{Repository, a.Repository, "", slices.Sorted(maps.Keys(c.Repositories))}
		}
		for repo, there := range c.Repositories {
			if d, err := expand(there); err == nil && overlap(d, dir) {
				return &OverlapError{dir, repo, d}
			}
		}
		c.Areas[name] = areaContent{dir, a.Project, a.Repository}
		return nil
	})
}

// overlap reports whether one of two directories is, or holds, the other.
func overlap(a, b string) bool {
	within := func(dir, in string) bool {
		rel, err := filepath.Rel(in, dir)
		return err == nil && rel != ".." && !strings.HasPrefix(rel, ".."+string(filepath.Separator))
	}
	return within(a, b) || within(b, a)
}

// RemoveArea forgets a working area, and that it is the default. Its directory stays. The error is *UnknownError.
func (s *Settings) RemoveArea(name string) error {
	return s.do(func(c *content) error {
		if _, ok := c.Areas[name]; !ok {
			return &UnknownError{Area, name, "", slices.Sorted(maps.Keys(c.Areas))}
		}
		delete(c.Areas, name)
		if c.Area == name {
			c.Area = ""
		}
		return nil
	})
}

// AddRepository adds a repository. See AddArea.
func (s *Settings) AddRepository(name, dir string) error {
	if err := CheckName(Repository, name); err != nil {
		return err
	}
	dir, err := absolute(dir)
	if err != nil {
		return err
	}
	return s.do(func(c *content) error {
		for other, there := range c.Repositories {
			d, err := expand(there)
			switch {
			case err == nil && d == dir && other == name:
				return nil
			case other == name || err == nil && d == dir:
				return &ExistsError{Repository, other, there}
			}
		}
		for _, a := range c.Areas {
			if d, err := expand(a.Dir); err == nil && overlap(d, dir) {
				return &OverlapError{d, name, dir}
			}
		}
		c.Repositories[name] = dir
		return nil
	})
}

// RemoveRepository forgets a repository, and that it is the default. Its files stay. Errors are *UnknownError, and
// *InUseError when areas name it.
func (s *Settings) RemoveRepository(name string) error {
	return s.do(func(c *content) error {
		if _, ok := c.Repositories[name]; !ok {
			return &UnknownError{Repository, name, "", slices.Sorted(maps.Keys(c.Repositories))}
		}
		var users []string
		for area, a := range c.Areas {
			if a.Repository == name {
				users = append(users, area)
			}
		}
		if len(users) > 0 {
			slices.Sort(users)
			return &InUseError{name, users}
		}
		delete(c.Repositories, name)
		if c.Repository == name {
			c.Repository = ""
		}
		return nil
	})
}

// AddCatalogue adds a catalogue, at a URL or a path; a relative path is made absolute. See AddArea.
func (s *Settings) AddCatalogue(name, place string) error {
	if err := CheckName(Catalogue, name); err != nil {
		return err
	}
	if !strings.Contains(place, "://") {
		var err error
		if place, err = absolute(place); err != nil {
			return err
		}
	}
	return s.do(func(c *content) error {
		if there, ok := c.Catalogues[name]; ok {
			if d, err := expand(there); there == place || err == nil && d == place {
				return nil
			}
			return &ExistsError{Catalogue, name, there}
		}
		c.Catalogues[name] = place
		return nil
	})
}

// RemoveCatalogue forgets a catalogue. The error is *UnknownError.
func (s *Settings) RemoveCatalogue(name string) error {
	return s.do(func(c *content) error {
		if _, ok := c.Catalogues[name]; !ok {
			return &UnknownError{Catalogue, name, "", slices.Sorted(maps.Keys(c.Catalogues))}
		}
		delete(c.Catalogues, name)
		return nil
	})
}

// SetDefault sets what is meant when nothing of a kind is named; an empty name: nothing. Repositories and areas must be
// there. Projects are made on demand, and policies need not be the file's.
func (s *Settings) SetDefault(kind Kind, name string) error {
	if name != "" {
		if err := CheckName(kind, name); err != nil {
			return err
		}
	}
	return s.do(func(c *content) error {
		switch kind {
		case Repository:
			if _, ok := c.Repositories[name]; !ok && name != "" {
				return &UnknownError{kind, name, "", slices.Sorted(maps.Keys(c.Repositories))}
			}
			c.Repository = name
		case Area:
			if _, ok := c.Areas[name]; !ok && name != "" {
				return &UnknownError{kind, name, "", slices.Sorted(maps.Keys(c.Areas))}
			}
			c.Area = name
		case Project:
			c.Project = name
		case Policy:
			c.Policy = name
		default:
			return fmt.Errorf("there is no default %s", kind)
		}
		return nil
	})
}
