package catalogue

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"strings"

	"tarvm/delta"
	"tarvm/manifest"
)

// ErrNotFound is wrapped by the errors about what a catalogue does not have.
var ErrNotFound = errors.New("not in the catalogue")

// A NotFoundError says what is not in a catalogue.
type NotFoundError struct {
	What string   // what was asked for: debian@12
	Near []string // what may have been meant, the most likely first
}

func (e *NotFoundError) Error() string { return fmt.Sprintf("%.100q: %v", e.What, ErrNotFound) }

// Unwrap returns ErrNotFound.
func (e *NotFoundError) Unwrap() error { return ErrNotFound }

// near is how many suggestions an error has at most.
const near = 5

// Find returns the version of a machine that is meant: a version as it stands there; "" or Latest for the latest; or
// the beginning of versions, up to a dot or hyphen, for the highest of these. Releases come before what leads to them
// (1.0-rc1), which is found by its full text or where there is nothing else. The error is a *NotFoundError.
func (c *Catalogue) Find(name, version string) (*Machine, *Version, error) {
	i := slices.IndexFunc(c.Machines, func(m Machine) bool { return m.Name == name })
	if i < 0 {
		return nil, nil, &NotFoundError{What: name, Near: c.similar(name)}
	}
	m := &c.Machines[i]
	v := m.find(version)
	if v == nil {
		e := &NotFoundError{What: name + "@" + cmp.Or(version, Latest)}
		sorted := slices.SortedFunc(slices.Values(m.Versions), func(a, b Version) int {
			return cmp.Or(cmp.Compare(distance(a.Version, version), distance(b.Version, version)), Compare(b.Version, a.Version))
		})
		for i := range sorted[:min(near, len(sorted))] {
			e.Near = append(e.Near, name+"@"+sorted[i].Version)
		}
		return nil, nil, e
	}
	return m, v, nil
}

func (m *Machine) find(version string) *Version {
	if version == "" || version == Latest {
		if m.Latest == "" {
			return m.highest(func(string) bool { return true })
		}
		version = m.Latest
	}
	if v := m.highest(func(v string) bool { return v == version }); v != nil {
		return v
	}
	return m.highest(func(v string) bool { return isPrefix(version, v) })
}

// highest returns the highest release of those that fit, or the highest of what leads to one.
func (m *Machine) highest(fits func(version string) bool) *Version {
	var best *Version
	for i := range m.Versions {
		v := &m.Versions[i]
		if !fits(v.Version) {
			continue
		}
		if best != nil {
			if e := isEarly(v.Version); e != isEarly(best.Version) && e || e == isEarly(best.Version) && Compare(v.Version, best.Version) < 0 {
				continue
			}
		}
		best = v
	}
	return best
}

// similar returns names of machines that may have been meant.
func (c *Catalogue) similar(name string) []string {
	if len(name) > maxName {
		return nil
	}
	type scored struct {
		name  string
		score int
	}
	var list []scored
	for i := range c.Machines {
		n := c.Machines[i].Name
		d := distance(n, strings.ToLower(name))
		if len(name) >= 2 && (strings.Contains(n, strings.ToLower(name)) || strings.HasPrefix(strings.ToLower(name), n)) {
			d = min(d, 1)
		}
		if d <= max(1, len(name)/3) {
			list = append(list, scored{n, d})
		}
	}
	slices.SortFunc(list, func(a, b scored) int { return cmp.Or(cmp.Compare(a.score, b.score), cmp.Compare(a.name, b.name)) })
	var names []string
	for _, s := range list[:min(near, len(list))] {
		names = append(names, s.name)
	}
	return names
}

// distance is how many characters must be put in, taken out, changed or swapped with the next to make b of a.
func distance(a, b string) int {
	if len(a) > maxName || len(b) > maxName {
		return maxName + 1
	}
	before, last, row := make([]int, len(b)+1), make([]int, len(b)+1), make([]int, len(b)+1)
	for j := range last {
		last[j] = j
	}
	for i := range len(a) {
		row[0] = i + 1
		for j := range len(b) {
			d := last[j]
			if a[i] != b[j] {
				d++
			}
			d = min(d, last[j+1]+1, row[j]+1)
			if i > 0 && j > 0 && a[i] == b[j-1] && a[i-1] == b[j] {
				d = min(d, before[j-1]+1)
			}
			row[j+1] = d
		}
		before, last, row = last, row, before
	}
	return last[len(b)]
}

// preferred are the formats that Choose takes when it is not told, the best first: with metadata before without, with
// the machine before its disk alone. Others, such as iso, are taken only when they are asked for.
var preferred = []string{"tarvm", "ova", "ovf", "qcow2", "vmdk", "vdi", "vhdx", "vpc", "qed", "parallels", "qcow", "raw"}

func formatRank(format string) int {
	if i := slices.Index(preferred, format); i >= 0 {
		return i
	}
	return len(preferred)
}

// kindOf returns the kind of a known format, "" for others.
func kindOf(format string) Kind {
	switch format {
	case "tarvm":
		return KindArchive
	case "ova", "ovf", "box", "xva":
		return KindPackage
	case "iso":
		return KindDisk
	}
	if slices.Contains(preferred, format) {
		return KindDisk
	}
	return ""
}

// A Preference says which file of a version is wanted.
type Preference struct {
	Formats []string // the best first; others are not taken. Empty: in an order of its own
	Arch    string   // files for other processors are not taken; empty: any
}

// Form returns format and compression as one word: qcow2, raw.gz.
func (f *File) Form() string {
	if f.Compression == "" {
		return f.Format
	}
	return f.Format + "." + suffixOf(f.Compression)
}

// suffixOf returns the ending of files of a compression.
func suffixOf(compression string) string {
	switch compression {
	case "gzip":
		return "gz"
	case "zstd":
		return "zst"
	case "bzip2":
		return "bz2"
	}
	return compression
}

// is reports whether the file is of the form that a person names: its format, with its compression or without, by
// qemu's names or by common endings.
func (f *File) is(form string) bool {
	form, packed, _ := strings.Cut(strings.ToLower(form), ".")
	switch form {
	case "vhd":
		form = "vpc"
	case "img", "hdd":
		form = "raw"
	}
	return form == f.Format && (packed == "" || packed == f.Compression || packed == suffixOf(f.Compression))
}

// Choose returns the file of a version that is preferred: by format, full archives before increments, then the
// smallest. The error is a *NotFoundError with the forms that there are.
func Choose(v *Version, p Preference) (*File, error) {
	var best *File
	var bestRank int
	for i := range v.Files {
		f := &v.Files[i]
		rank := formatRank(f.Format)
		if len(p.Formats) > 0 {
			rank = slices.IndexFunc(p.Formats, f.is)
		} else if rank == len(preferred) {
			rank = -1
		}
		if rank < 0 || p.Arch != "" && f.Arch != "" && f.Arch != p.Arch {
			continue
		}
		if best == nil || cmp.Or(cmp.Compare(rank, bestRank), f.compare(best)) < 0 {
			best, bestRank = f, rank
		}
	}
	if best != nil {
		return best, nil
	}
	e := &NotFoundError{What: strings.Join(append([]string{v.Version}, p.Formats...), " as ")}
	if p.Arch != "" {
		e.What += " for " + p.Arch
	}
	for i := range v.Files {
		s := v.Files[i].Form()
		if a := v.Files[i].Arch; a != "" {
			s += " for " + a
		}
		if !slices.Contains(e.Near, s) {
			e.Near = append(e.Near, s)
		}
	}
	return nil, e
}

func (f *File) compare(o *File) int {
	return cmp.Or(-boolCompare(f.full(), o.full()), cmp.Compare(f.Total(), o.Total()), compareFiles(*f, *o))
}

func boolCompare(a, b bool) int {
	switch {
	case a == b:
		return 0
	case a:
		return 1
	}
	return -1
}

// full reports whether the file needs no other entry.
func (f *File) full() bool { return f.Entry == nil || f.Entry.Kind == manifest.Full }

// Total returns the bytes of the file and of what belongs beside it.
func (f *File) Total() int64 {
	n := f.Size
	for i := range f.With {
		n += f.With[i].Size
	}
	return n
}

// Found is a file and what it is a form of.
type Found struct {
	Machine *Machine
	Version *Version
	File    *File
}

// Entry returns the archives of a state, by its id, full ones first and of those the smallest.
func (c *Catalogue) Entry(id delta.Digest) []Found {
	var list []Found
	for i := range c.Machines {
		m := &c.Machines[i]
		for j := range m.Versions {
			v := &m.Versions[j]
			for k := range v.Files {
				if f := &v.Files[k]; f.Entry != nil && f.Entry.ID == id {
					list = append(list, Found{m, v, f})
				}
			}
		}
	}
	slices.SortStableFunc(list, func(a, b Found) int { return a.File.compare(b.File) })
	return list
}

// Path returns the archives to restore f from, a full one first and f last. have, unless it is nil, says which states
// are at hand already: the path starts above the first of these. A parent that is neither there nor in the catalogue
// is a *NotFoundError.
func (c *Catalogue) Path(f *File, have func(id delta.Digest) bool) ([]Found, error) {
	if f.Entry == nil {
		return nil, fmt.Errorf("%s: is no archive", f.FileName())
	}
	path := []Found{{File: f}}
	for _, o := range c.Entry(f.Entry.ID) {
		if o.File == f {
			path[0] = o
		}
	}
	seen := map[delta.Digest]bool{f.Entry.ID: true}
	for p := f.Entry.Parent; p != nil && (have == nil || !have(p.ID)); {
		list := c.Entry(p.ID)
		if len(list) == 0 {
			return nil, &NotFoundError{What: cmp.Or(p.Name, p.ID.Short())}
		}
		if seen[p.ID] {
			return nil, &FieldError{Field: "parent", Got: p.ID.Short(), Reason: "this entry is below itself"}
		}
		seen[p.ID] = true
		path = append(path, list[0])
		p = list[0].File.Entry.Parent
	}
	slices.Reverse(path)
	return path, nil
}

// ArchOf returns the name that catalogues have for a processor that Go calls by another: x86_64 for amd64.
func ArchOf(goarch string) string {
	switch goarch {
	case "amd64":
		return "x86_64"
	case "386":
		return "i686"
	case "arm64":
		return "aarch64"
	case "loong64":
		return "loongarch64"
	}
	return goarch
}
