package catalogue

import (
	"bytes"
	"cmp"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"

	"tarvm/archive"
	"tarvm/delta"
	"tarvm/manifest"
)

// FormatVersion is the version of catalogues that this package writes, and the latest that it reads.
const FormatVersion = 1

// Errors about catalogues.
var (
	// ErrInvalid: not a catalogue, or one that breaks a rule of the format.
	ErrInvalid = errors.New("not a valid catalogue")
	// ErrVersion: it was made for later versions.
	ErrVersion = errors.New("catalogue needs a later version of tarvm")
)

// A FieldError says which value of a catalogue breaks a rule. It wraps ErrInvalid.
type FieldError struct {
	Field  string // machines[2].versions[0].files[1].size
	Got    string // quoted, or empty
	Reason string
}

func (e *FieldError) Error() string {
	s := e.Field + ": "
	if e.Got != "" {
		s += e.Got + ": "
	}
	return s + e.Reason
}

// Unwrap returns ErrInvalid.
func (e *FieldError) Unwrap() error { return ErrInvalid }

// A Catalogue lists machines. Its text is encoded by Encode. It may be read by several goroutines at once.
type Catalogue struct {
	Tarvm       string    `json:"tarvm"` // "catalogue"
	Version     int       `json:"version"`
	Requires    []string  `json:"requires,omitempty"`
	Title       string    `json:"title,omitempty"`
	Description string    `json:"description,omitempty"`
	Home        string    `json:"home,omitempty"` // where people read more
	Machines    []Machine `json:"machines"`

	// Base is where it was read: relative URLs start there. It is not part of the JSON.
	Base Place `json:"-"`
}

// A Machine is what one asks for by name.
type Machine struct {
	Name        string    `json:"name"`
	Title       string    `json:"title,omitempty"`
	Description string    `json:"description,omitempty"`
	Home        string    `json:"home,omitempty"`
	Latest      string    `json:"latest,omitempty"` // what "latest" means; else the highest
	Versions    []Version `json:"versions"`
}

// A Version is one state of a machine. Its files are that state in different forms, or for different processors.
type Version struct {
	Version string         `json:"version"`
	Time    *manifest.Time `json:"time,omitempty"` // of its publication
	Note    string         `json:"note,omitempty"`
	Files   []File         `json:"files"`
}

// Kind is what a file is to a reader.
type Kind string

// The kinds of files.
const (
	KindArchive Kind = "archive" // an entry's archive
	KindPackage Kind = "package" // a whole machine in a form of others
	KindDisk    Kind = "disk"    // a disk image; its machine is made up by who restores it
)

// A File is one form of a version.
type File struct {
	Blob
	Kind        Kind   `json:"kind"`
	Format      string `json:"format"`                // tarvm, ova, ovf, or a disk format's name, which is qemu's
	Compression string `json:"compression,omitempty"` // around the format: gzip, xz, zstd, lz4; an archive's own does not count
	Arch        string `json:"arch,omitempty"`        // processor: x86_64, aarch64
	Unpacked    int64  `json:"unpacked,omitempty"`    // bytes that it takes once it is restored, 0 if unknown
	Entry       *Entry `json:"entry,omitempty"`       // of an archive
	With        []Blob `json:"with,omitempty"`        // further files that belong beside it: an OVF's disks, an archive's volumes
}

// An Entry is what an archive holds.
type Entry struct {
	Kind     manifest.Kind    `json:"kind"`
	ID       delta.Digest     `json:"id"`
	Digest   delta.Digest     `json:"digest"`             // of its manifest.json
	Parent   *manifest.Parent `json:"parent,omitempty"`   // of an increment
	Manifest *Blob            `json:"manifest,omitempty"` // the manifest beside the archive: enough to build on it
}

// A Blob is a file to fetch.
type Blob struct {
	URL     string  `json:"url"`            // http, https, or relative: see FORMAT.md
	Name    string  `json:"name,omitempty"` // to store it under; else the last part of the URL
	Size    int64   `json:"size"`           // bytes, at least 1
	Digests Digests `json:"digests,omitzero"`
}

// Digests are in lower case hexadecimal; empty is unknown.
type Digests struct {
	SHA256 string `json:"sha256,omitempty"`
	SHA512 string `json:"sha512,omitempty"`
	BLAKE3 string `json:"blake3,omitempty"` // of 256 bits

	// For people who compare with other lists. They are not verified.
	SHA1 string `json:"sha1,omitempty"`
	MD5  string `json:"md5,omitempty"`
}

// Strong reports whether there is a digest that proves something.
func (d *Digests) Strong() bool { return d.SHA256 != "" || d.SHA512 != "" || d.BLAKE3 != "" }

// The limits of a catalogue.
const (
	maxDepth = 32       // of nested JSON, with keys that nobody knows
	maxName  = 64       // bytes of names of machines and of versions
	maxFile  = 200      // bytes of file names, so that what is added while they are fetched fits into 255
	maxText  = 64 << 10 // bytes of any other text
	maxWith  = 10000
	maxSize  = 1 << 60 // bytes of a file
)

// New returns a catalogue without machines.
func New(title string) *Catalogue {
	return &Catalogue{Tarvm: "catalogue", Version: FormatVersion, Title: title, Machines: []Machine{}}
}

// Decode reads a catalogue from its text, all of it. Errors wrap ErrInvalid, most as *FieldError, or ErrVersion.
func Decode(b []byte) (*Catalogue, error) {
	if err := checkJSON(b); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrInvalid, err)
	}
	var kind struct {
		Tarvm    string
		Version  int
		Requires []string
	}
	// What makes a later version later may be a key that has another type.
	if err := json.Unmarshal(b, &kind); err != nil || kind.Tarvm != "catalogue" || kind.Version < 1 {
		return nil, fmt.Errorf("%w: it does not begin as one", ErrInvalid)
	}
	if kind.Version > FormatVersion || len(kind.Requires) > 0 {
		return nil, fmt.Errorf("%w: version %d, requires %q", ErrVersion, kind.Version, kind.Requires)
	}
	c := new(Catalogue)
	if err := json.Unmarshal(b, c); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrInvalid, err)
	}
	return c, c.check()
}

// checkJSON refuses what JSON readers read differently: other encodings, keys that appear twice, text behind the end;
// and nesting that has no purpose.
func checkJSON(b []byte) error {
	if !utf8.Valid(b) {
		return errors.New("it is not UTF-8")
	}
	type level struct {
		keys map[string]bool // nil: a list
		key  bool            // the next token is a key
	}
	var stack []level
	d := json.NewDecoder(bytes.NewReader(b))
	d.UseNumber()
	for {
		t, err := d.Token()
		if err != nil {
			if errors.Is(err, io.EOF) {
				err = io.ErrUnexpectedEOF
			}
			return err
		}
		var top *level
		if len(stack) > 0 {
			top = &stack[len(stack)-1]
		}
		if top != nil && top.key {
			if k, ok := t.(string); ok {
				// Go's decoder takes keys in any case.
				if k = strings.ToLower(k); top.keys[k] {
					return fmt.Errorf("key %.40q appears twice, at byte %d", k, d.InputOffset())
				}
				top.keys[k], top.key = true, false
				continue
			}
		} else if top != nil {
			top.key = top.keys != nil
		}
		switch t {
		case json.Delim('{'):
			stack = append(stack, level{keys: make(map[string]bool), key: true})
		case json.Delim('['):
			stack = append(stack, level{})
		case json.Delim('}'), json.Delim(']'):
			stack = stack[:len(stack)-1]
		}
		if len(stack) > maxDepth {
			return fmt.Errorf("nested deeper than %d, at byte %d", maxDepth, d.InputOffset())
		}
		if len(stack) == 0 {
			break
		}
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return fmt.Errorf("text behind the end, at byte %d", d.InputOffset())
	}
	return nil
}

// Encode returns the text of a catalogue: UTF-8, indented, a line feed at the end. Machines are sorted by name,
// versions by Compare, files by format, compression, processor and URL, so that it is the same in whatever order they
// were added. Errors are those of Decode.
func (c *Catalogue) Encode() ([]byte, error) {
	if err := c.check(); err != nil {
		return nil, err
	}
	s := *c
	s.Requires = nil
	s.Machines = append([]Machine{}, c.Machines...)
	slices.SortFunc(s.Machines, func(a, b Machine) int { return cmp.Compare(a.Name, b.Name) })
	for i := range s.Machines {
		m := &s.Machines[i]
		m.Versions = append([]Version{}, m.Versions...)
		slices.SortFunc(m.Versions, func(a, b Version) int { return Compare(a.Version, b.Version) })
		for j := range m.Versions {
			v := &m.Versions[j]
			v.Files = append([]File{}, v.Files...)
			slices.SortStableFunc(v.Files, compareFiles)
		}
	}
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	e.SetIndent("", "  ")
	if err := e.Encode(&s); err != nil {
		return nil, err
	}
	return b.Bytes(), nil
}

func compareFiles(a, b File) int {
	return cmp.Or(
		cmp.Compare(formatRank(a.Format), formatRank(b.Format)),
		cmp.Compare(a.Format, b.Format),
		cmp.Compare(a.Compression, b.Compression),
		cmp.Compare(a.Arch, b.Arch),
		cmp.Compare(a.URL, b.URL),
		cmp.Compare(a.Name, b.Name))
}

// Save writes the catalogue to a file, whole or not at all.
func (c *Catalogue) Save(path string) error {
	b, err := c.Encode()
	if err != nil {
		return err
	}
	return writeFile(path, b)
}

func writeFile(path string, b []byte) error {
	o, err := archive.CreateOutput(path, true)
	if err != nil {
		return err
	}
	defer o.Abort()
	if _, err := o.Write(b); err != nil {
		return err
	}
	return o.Commit()
}

// Add puts a file into a version of a machine, both of which are made when they are not there. It takes the place of
// one of the same format, compression, processor, and state if it is an archive. The catalogue is as it was
// before when the result would not be valid.
func (c *Catalogue) Add(name, version string, f File) error {
	n := *c
	n.Machines = slices.Clone(c.Machines)
	i := slices.IndexFunc(n.Machines, func(m Machine) bool { return m.Name == name })
	if i < 0 {
		i = len(n.Machines)
		n.Machines = append(n.Machines, Machine{Name: name})
	}
	m := &n.Machines[i]
	m.Versions = slices.Clone(m.Versions)
	j := slices.IndexFunc(m.Versions, func(v Version) bool { return v.Version == version })
	if j < 0 {
		j = len(m.Versions)
		m.Versions = append(m.Versions, Version{Version: version})
	}
	v := &m.Versions[j]
	v.Files = slices.DeleteFunc(slices.Clone(v.Files), func(o File) bool {
		return o.Format == f.Format && o.Compression == f.Compression && o.Arch == f.Arch && sameEntry(o.Entry, f.Entry)
	})
	v.Files = append(v.Files, f)
	if err := n.check(); err != nil {
		return err
	}
	*c = n
	return nil
}

func sameEntry(a, b *Entry) bool {
	if a == nil || b == nil {
		return a == b
	}
	return a.ID == b.ID && a.Kind == b.Kind
}

// check says what breaks a rule of the format.
func (c *Catalogue) check() error {
	if c.Tarvm != "catalogue" || c.Version != FormatVersion {
		return &FieldError{Field: "version", Got: strconv.Itoa(c.Version), Reason: "want a catalogue of version 1"}
	}
	k := checker{}
	k.text("title", c.Title, false)
	k.text("description", c.Description, true)
	k.home("home", c.Home)
	names := make(map[string]bool)
	for i := range c.Machines {
		m := &c.Machines[i]
		at := fmt.Sprintf("machines[%d].", i)
		switch {
		case !validName(m.Name):
			k.fail(at+"name", m.Name, "want at most 64 of a-z, 0-9, dot, underscore and hyphen, a letter or digit first")
		case names[m.Name]:
			k.fail(at+"name", m.Name, "is the name of another machine, too")
		}
		names[m.Name] = true
		k.machine(at, m)
		if k.err != nil {
			return k.err
		}
	}
	return k.err
}

// A checker keeps the first fault.
type checker struct{ err error }

func (k *checker) fail(field, got, reason string) {
	if k.err == nil {
		if got != "" {
			got = strconv.QuoteToASCII(got[:min(len(got), maxName)])
		}
		k.err = &FieldError{Field: field, Got: got, Reason: reason}
	}
}

func (k *checker) machine(at string, m *Machine) {
	k.text(at+"title", m.Title, false)
	k.text(at+"description", m.Description, true)
	k.home(at+"home", m.Home)
	versions := make(map[string]bool)
	for j := range m.Versions {
		v := &m.Versions[j]
		at := fmt.Sprintf("%sversions[%d].", at, j)
		switch {
		case !validVersion(v.Version):
			k.fail(at+"version", v.Version, `want at most 64 letters, digits, dots, underscores, plus signs, tildes and hyphens, a letter or digit first, and not "latest"`)
		case versions[v.Version]:
			k.fail(at+"version", v.Version, "is there twice")
		}
		versions[v.Version] = true
		k.text(at+"note", v.Note, true)
		if v.Time != nil && (v.Time.UTC().Year() < 0 || v.Time.UTC().Year() > 9999) {
			k.fail(at+"time", "", "want a year of four digits")
		}
		for n := range v.Files {
			k.file(fmt.Sprintf("%sfiles[%d].", at, n), &v.Files[n])
		}
		if k.err != nil {
			return
		}
	}
	if m.Latest != "" && !versions[m.Latest] {
		k.fail(at+"latest", m.Latest, "is none of its versions")
	}
}

func (k *checker) file(at string, f *File) {
	k.blob(at, &f.Blob)
	if want := kindOf(f.Format); f.Kind != KindArchive && f.Kind != KindPackage && f.Kind != KindDisk || want != "" && f.Kind != want {
		k.fail(at+"kind", string(f.Kind), "is not the kind of a file of this format")
	}
	if !validName(f.Format) {
		k.fail(at+"format", f.Format, "is not the name of a format")
	}
	if f.Compression != "" && !validName(f.Compression) || f.Compression != "" && f.Kind == KindArchive {
		k.fail(at+"compression", f.Compression, "is not the name of a compression, or the archive's own")
	}
	if f.Arch != "" && !validName(f.Arch) {
		k.fail(at+"arch", f.Arch, "is not the name of a processor")
	}
	if f.Unpacked < 0 || f.Unpacked > maxSize {
		k.fail(at+"unpacked", strconv.FormatInt(f.Unpacked, 10), "is no size")
	}
	names := map[string]bool{strings.ToLower(f.FileName()): true}
	also := func(at string, b *Blob) {
		k.blob(at, b)
		n := strings.ToLower(b.FileName())
		if names[n] {
			k.fail(at+"name", b.FileName(), "is the name of another file that belongs to this one")
		}
		names[n] = true
	}
	if e := f.Entry; e != nil {
		k.entry(at+"entry.", e)
		if e.Manifest != nil {
			also(at+"entry.manifest.", e.Manifest)
		}
	}
	if (f.Entry != nil) != (f.Kind == KindArchive) {
		k.fail(at+"entry", "", "archives have one, other files none")
	}
	if len(f.With) > maxWith {
		k.fail(at+"with", strconv.Itoa(len(f.With)), "are too many files")
		return
	}
	for i := range f.With {
		also(fmt.Sprintf("%swith[%d].", at, i), &f.With[i])
	}
}

func (k *checker) entry(at string, e *Entry) {
	if e.ID.IsZero() || e.Digest.IsZero() {
		k.fail(at+"id", "", "id and digest are missing")
	}
	if p := e.Parent; (e.Kind != manifest.Full || p != nil) && (e.Kind != manifest.Incremental || p == nil || p.ID.IsZero() || p.Digest.IsZero()) {
		k.fail(at+"kind", string(e.Kind), "does not fit its parent")
	}
	if e.Parent != nil {
		k.text(at+"parent.name", e.Parent.Name, false)
	}
}

func (k *checker) blob(at string, b *Blob) {
	if err := checkURL(b.URL); err != nil {
		k.fail(at+"url", display(b.URL), err.Error())
	}
	if b.Size < 1 || b.Size > maxSize {
		k.fail(at+"size", strconv.FormatInt(b.Size, 10), "want the number of bytes")
	}
	if n := b.FileName(); !validFileName(n) {
		k.fail(at+"name", n, "is not a name for a file, as it stands here or at the end of the URL")
	}
	d := &b.Digests
	for _, s := range []struct {
		name, sum string
		bytes     int
	}{{"sha256", d.SHA256, 32}, {"sha512", d.SHA512, 64}, {"blake3", d.BLAKE3, 32}, {"sha1", d.SHA1, 20}, {"md5", d.MD5, 16}} {
		if s.sum == "" {
			continue
		}
		if x, err := hex.DecodeString(s.sum); err != nil || len(x) != s.bytes || s.sum != strings.ToLower(s.sum) {
			k.fail(at+"digests."+s.name, s.sum, fmt.Sprintf("want %d lower case hexadecimal digits", 2*s.bytes))
		}
	}
	if absolute(b.URL) && !d.Strong() {
		k.fail(at+"digests", "", "want sha256, sha512 or blake3 of what comes from elsewhere")
	}
}

// text checks what is shown to people: nothing in it moves the cursor or turns the direction of writing.
func (k *checker) text(field, s string, lines bool) {
	if len(s) > maxText {
		k.fail(field, "", "is too long")
	}
	if !utf8.ValidString(s) {
		k.fail(field, s, "is not UTF-8")
	}
	for _, r := range s {
		if unicode.IsControl(r) && (r != '\n' || !lines) || unicode.Is(unicode.Bidi_Control, r) || r == '\u2028' || r == '\u2029' {
			k.fail(field, s, "has control characters")
			return
		}
	}
}

// home checks a URL for people.
func (k *checker) home(field, s string) {
	k.text(field, s, false)
	if s != "" && (!absolute(s) || checkURL(s) != nil) {
		k.fail(field, display(s), "want an http or https URL")
	}
}

func validName(s string) bool {
	return validWord(s, func(c byte) bool { return c == '.' || c == '_' || c == '-' }, false)
}

func validVersion(s string) bool {
	return s != Latest && validWord(s, func(c byte) bool { return strings.IndexByte("._+~-", c) >= 0 }, true)
}

func validWord(s string, also func(c byte) bool, upper bool) bool {
	if s == "" || len(s) > maxName {
		return false
	}
	for i := range len(s) {
		c := s[i]
		if !isDigit(c) && (c < 'a' || c > 'z') && (!upper || c < 'A' || c > 'Z') && (i == 0 || !also(c)) {
			return false
		}
	}
	return true
}

// validFileName accepts names that mean the same on all systems.
func validFileName(s string) bool {
	if s == "" || len(s) > maxFile || s[0] == '.' || s[0] == '-' || strings.HasSuffix(s, ".") ||
		strings.HasSuffix(s, partSuffix) || strings.HasSuffix(s, stateSuffix) {
		return false
	}
	for i := range len(s) {
		if c := s[i]; !isDigit(c) && (c|0x20 < 'a' || c|0x20 > 'z') && strings.IndexByte("._+~@-", c) < 0 {
			return false
		}
	}
	return true
}
