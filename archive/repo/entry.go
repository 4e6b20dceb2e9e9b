package repo

import (
	"fmt"
	"path"
	"slices"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/zeebo/blake3"

	"tarvm/archive"
	"tarvm/delta"
	"tarvm/manifest"
)

// Kind is how an entry depends on others.
type Kind string

// The kinds of entries.
const (
	Full         Kind = "full"         // on none
	Incremental  Kind = "incremental"  // on any other
	Differential Kind = "differential" // on the full one of its tree
)

// An Entry is one version of a machine.
type Entry struct {
	Number int              `json:"number"` // from 1
	ID     delta.Digest     `json:"id"`     // of the state
	Digest delta.Digest     `json:"digest"` // of manifest.json: of this archive of the state
	Kind   Kind             `json:"kind"`
	Parent *manifest.Parent `json:"parent,omitempty"`

	Project string            `json:"project"`
	Name    string            `json:"name,omitempty"`
	Note    string            `json:"note,omitempty"`
	Labels  map[string]string `json:"labels,omitempty"`
	Time    manifest.Time     `json:"time"`

	DiskID  delta.Digest      `json:"disk_id,omitzero"` // of what the guest sees on the present disks; see DiskID
	Machine *manifest.Machine `json:"machine,omitempty"`
	Memory  bool              `json:"memory,omitempty"` // memory or a saved state is part of it
	Live    bool              `json:"live,omitempty"`   // saved while the machine ran

	Block int64          `json:"block"`
	Codec string         `json:"codec"`
	Stats manifest.Stats `json:"stats"`

	File    string `json:"file"`              // the archive's name in the repository
	Size    int64  `json:"size,omitempty"`    // of the archive in bytes
	Missing bool   `json:"missing,omitempty"` // the archive is not in the repository
	At      *At    `json:"at,omitempty"`      // where else it is
}

// Ref is how people name an entry.
func (e *Entry) Ref() string { return "#" + strconv.Itoa(e.Number) }

// String is the number, and the name if there is one.
func (e *Entry) String() string {
	if e.Name == "" {
		return e.Ref()
	}
	return fmt.Sprintf("%s (%s)", e.Ref(), e.Name)
}

// DiskID returns the identity of what the guest sees on its disks: the disk ids of all disks that are a present state,
// with their paths. It is zero where a disk has none, or there is no disk.
func DiskID(s *manifest.Snapshot) delta.Digest {
	h := blake3.New()
	n := 0
	for i := range s.Members {
		m := &s.Members[i]
		if !m.Active || m.Role != manifest.RoleDisk {
			continue
		}
		if m.DiskID == "" {
			return delta.Digest{}
		}
		fmt.Fprintf(h, "%d:%s %s\n", len(m.Path), m.Path, m.DiskID)
		n++
	}
	if n == 0 {
		return delta.Digest{}
	}
	return delta.Digest(h.Sum(nil))
}

// entryOf makes an entry of a manifest; the rest comes from its file's name.
func entryOf(m *archive.Manifest) *Entry {
	me := &m.Entry
	e := &Entry{
		ID: m.ID, Digest: m.Digest, Kind: Full, Parent: me.Parent, Project: me.Project, Name: me.Name, Note: me.Note, Labels: me.Labels,
		Time: me.Time, DiskID: DiskID(m.Snapshot), Machine: me.Machine, Live: me.Live, Block: me.Block, Codec: me.Codec, Stats: m.Stats,
	}
	switch {
	case me.Differential:
		e.Kind = Differential
	case me.Parent != nil:
		e.Kind = Incremental
	}
	e.Memory = slices.ContainsFunc(m.Members, func(m manifest.Member) bool { return m.Role == manifest.RoleMemory && m.Size > 0 })
	return e
}

// Names in a repository; FORMAT.md section 1.
const (
	fileRepository = "tarvm-repository.json"
	fileReadme     = "README.txt"
	filePlaces     = "places.json"
	fileIndex      = "index"
	dirEntries     = "entries"

	suffixManifest = ".manifest"
	suffixAt       = ".at"
)

// fileName is what the name of an entry's file says.
type fileName struct {
	project    string
	number     int
	generation int // which archive of the entry: the highest counts
	rest       string
}

// maxName is how much of an entry's name its file's name has, in bytes.
const maxName = 60

func newFileName(project string, number, generation int, name, suffix string) fileName {
	rest := strings.Map(func(r rune) rune {
		switch {
		case r == '-' || r == '_' || r == '.' || unicode.IsLetter(r) || unicode.IsDigit(r):
			return r
		}
		return '_'
	}, strings.ToValidUTF8(name, "_"))
	for len(rest) > maxName {
		_, n := utf8.DecodeLastRuneInString(rest)
		rest = rest[:len(rest)-n]
	}
	return fileName{project, number, generation, rest + suffix}
}

// archive is the name of the archive's file.
func (f fileName) archive() string {
	n := fmt.Sprintf("%06d", f.number)
	if f.generation > 0 {
		n += "." + strconv.Itoa(f.generation)
	}
	return path.Join(dirEntries, f.project, n+"-"+f.rest)
}

func (f fileName) manifest() string { return f.archive() + suffixManifest }

func (f fileName) at() string { return f.archive() + suffixAt }

// parseFileName reads the name of an archive's file in a project's folder.
func parseFileName(project, name string) (f fileName, ok bool) {
	num, rest, ok := strings.Cut(name, "-")
	if !ok || len(num) > 32 {
		return f, false
	}
	num, gen, more := strings.Cut(num, ".")
	f = fileName{project: project, rest: rest}
	var err error
	if f.number, err = parseNumber(num); err != nil {
		return f, false
	}
	if more {
		if f.generation, err = parseNumber(gen); err != nil {
			return f, false
		}
	}
	return f, plain(num, 6) && (!more || plain(gen, 1)) && !strings.Contains(rest, "/")
}

// plain reports whether num, a number, is written as FORMAT.md wants it: with leading zeros up to so many digits.
func plain(num string, digits int) bool {
	return len(num) == digits || len(num) > digits && num[0] != '0'
}

// maxNumber is more entries than a repository will ever have.
const maxNumber = 1<<31 - 2

func parseNumber(s string) (int, error) {
	n, err := strconv.ParseUint(s, 10, 31)
	if err == nil && (n == 0 || n > maxNumber) {
		err = strconv.ErrRange
	}
	return int(n), err
}

// CheckProject returns an error when name cannot be that of a project: it is a folder's.
func CheckProject(name string) error {
	bad := func(r rune) bool {
		return !(r == '-' || r == '_' || r == '.' || r == ' ' || unicode.IsLetter(r) || unicode.IsDigit(r) || unicode.IsMark(r))
	}
	switch {
	case name == "":
		return fmt.Errorf("a project needs a name")
	case len(name) > 100 || !utf8.ValidString(name) || strings.ContainsFunc(name, bad) || strings.HasPrefix(name, ".") || strings.TrimSpace(name) != name || strings.HasSuffix(name, "."):
		return fmt.Errorf("project %q: want letters, digits, and - _ . or blanks within, at most 100 bytes", name)
	}
	return nil
}

// projectName makes a project's name of any text.
func projectName(s string) string {
	s = strings.Map(func(r rune) rune {
		if CheckProject(string(r)) == nil || r == ' ' || r == '.' {
			return r
		}
		return '_'
	}, strings.ToValidUTF8(s, "_"))
	s = strings.Trim(s, " .")
	for len(s) > 100 {
		_, n := utf8.DecodeLastRuneInString(s)
		s = s[:len(s)-n]
	}
	if s = strings.Trim(s, " ."); s == "" {
		return DefaultProject
	}
	return s
}

// DefaultProject is where entries go that belong to none.
const DefaultProject = "default"
