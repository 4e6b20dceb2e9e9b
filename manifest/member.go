package manifest

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"time"
	"unicode/utf8"

	"tarvm/delta"
)

// A Path is a member's name relative to the VM directory, slash separated,
// without "." or ".." and without a trailing slash. File systems allow any
// bytes; in JSON a path that is not UTF-8 is {"base64": "..."}.
type Path string

// MarshalJSON writes a string, or an object when p is not UTF-8.
func (p Path) MarshalJSON() ([]byte, error) {
	if utf8.ValidString(string(p)) {
		return appendString(nil, string(p)), nil
	}
	b := append([]byte(`{"base64":"`), base64.StdEncoding.EncodeToString([]byte(p))...)
	return append(b, `"}`...), nil
}

// UnmarshalJSON reads both forms.
func (p *Path) UnmarshalJSON(b []byte) error {
	if len(b) > 0 && b[0] == '{' {
		var o struct{ Base64 []byte }
		if err := json.Unmarshal(b, &o); err != nil {
			return err
		}
		*p = Path(o.Base64)
		return nil
	}
	return json.Unmarshal(b, (*string)(p))
}

// Type is what kind of file a member is.
type Type string

// The types of members. Sockets and devices are not members.
const (
	File    Type = "file"
	Dir     Type = "dir"
	Symlink Type = "symlink"
	Link    Type = "link" // a further name of an earlier member of type File (or Fifo)
	Fifo    Type = "fifo"
)

// Role is what a file is to its virtual machine.
type Role string

// The roles of files.
const (
	RoleDisk   Role = "disk"
	RoleConfig Role = "config"
	RoleMemory Role = "memory" // RAM, device state, saved state
	RoleNVRAM  Role = "nvram"
	RoleLog    Role = "log"
	RoleLock   Role = "lock"
	RoleOther  Role = ""
)

// Mode holds the permission bits, with set-user-ID, set-group-ID and sticky as in
// POSIX (07777). In JSON it is the octal text that chmod takes.
type Mode uint32

// MarshalText writes octal.
func (m Mode) MarshalText() ([]byte, error) {
	return fmt.Appendf(nil, "%04o", uint32(m)), nil
}

// UnmarshalText reads octal.
func (m *Mode) UnmarshalText(b []byte) error {
	v, err := strconv.ParseUint(string(b), 8, 32)
	if err != nil || v > 0o7777 {
		return fmt.Errorf("mode %q: want octal digits up to 7777", b)
	}
	*m = Mode(v)
	return nil
}

// A Time is a point in time to the nanosecond. In JSON it is RFC 3339 in UTC; years
// outside 0 to 9999, which RFC 3339 cannot say, are decimal seconds since 1970 in a string.
type Time struct{ time.Time }

// MarshalJSON writes the time.
func (t Time) MarshalJSON() ([]byte, error) {
	u := t.UTC()
	if y := u.Year(); y < 0 || y > 9999 {
		return fmt.Appendf(nil, `"%d.%09d"`, u.Unix(), u.Nanosecond()), nil
	}
	b := append(make([]byte, 0, 40), '"')
	return append(u.AppendFormat(b, time.RFC3339Nano), '"'), nil
}

// UnmarshalJSON reads both forms.
func (t *Time) UnmarshalJSON(b []byte) error {
	var s string
	if err := json.Unmarshal(b, &s); err != nil {
		return err
	}
	u, err := time.Parse(time.RFC3339Nano, s)
	if err == nil {
		t.Time = u.UTC()
		return nil
	}
	sec, frac, ok := cutLast(s, '.')
	if !ok || len(frac) != 9 {
		return fmt.Errorf("time %q: %w", s, err)
	}
	n, err1 := strconv.ParseInt(sec, 10, 64)
	ns, err2 := strconv.ParseUint(frac, 10, 32)
	if err := errors.Join(err1, err2); err != nil {
		return fmt.Errorf("time %q: %w", s, err)
	}
	t.Time = time.Unix(n, int64(ns)).UTC()
	return nil
}

func cutLast(s string, c byte) (before, after string, ok bool) {
	for i := len(s) - 1; i >= 0; i-- {
		if s[i] == c {
			return s[:i], s[i+1:], true
		}
	}
	return s, "", false
}

// A Member is one file of the VM directory in one state.
//
// The first group of fields is the state itself: the entry's id commits to it. The
// hints may get better from version to version and are outside the id.
type Member struct {
	State
	Hints
	Stored Stored // how the archive holds the content; zero in a plan
}

// State is what a restore has to bring back. FORMAT.md section 3.
type State struct {
	Path    Path
	Type    Type
	Size    int64 // bytes; of File only
	Mode    Mode
	UID     int64
	GID     int64
	User    string // "" when the number has no name
	Group   string
	ModTime Time
	Target  Path              // Symlink: what it says; Link: the first name
	Xattrs  map[string][]byte // by full name ("user.x", "system.posix_acl_access")
	Phase   int64             // of the member's grid, see delta.Grid
	Stride  int64             // likewise; 0: none
	Digest  delta.Digest      // File only: see Section
}

// Hints say what the file seems to be.
type Hints struct {
	Role      Role   `json:"role,omitempty"`
	Format    string `json:"format,omitempty"`    // disk format, qemu's name
	Subformat string `json:"subformat,omitempty"` // as the format calls it
	// Of disks: the member on which it builds, whether it is the present state of the machine's disk, and the
	// digest of what the guest sees (see layers.ID) of one that is.
	DiskParent Path   `json:"disk_parent,omitempty"`
	Active     bool   `json:"active,omitempty"`
	DiskID     string `json:"disk_id,omitempty"`

	Holes  int64 `json:"holes,omitempty"`  // bytes of the file that are holes
	Torn   bool  `json:"torn,omitempty"`   // packed while it was being changed
	Offset int64 `json:"offset,omitempty"` // of the member's section in the table of blocks
	Length int64 `json:"length,omitempty"` // of that section in bytes; 0: it has none
	Blocks int64 `json:"blocks,omitempty"` // number of digests in it
}

// How an archive holds a member's content.
const (
	AsWhole = "whole" // at its own path, as tar would
	AsDelta = "delta" // segments under .tarvm/delta/PATH
	AsSame  = "same"  // not at all: the content is the parent's
	AsNone  = ""      // the member has no content (directory, link, ...)
)

// Stored says where a member's content lies in the decoded archive. Sizes are bytes
// before compression.
type Stored struct {
	As       string    `json:"as,omitempty"`
	Body     int64     `json:"body,omitempty"`     // AsWhole: offset of the first data byte (behind a sparse map)
	Bytes    int64     `json:"bytes,omitempty"`    // data bytes stored, without headers and maps
	Segments []Segment `json:"segments,omitempty"` // AsDelta
}

// A Segment is one .tarvm/delta member.
type Segment struct {
	Start  int64        `json:"start"`           // of the range of the file that it describes
	End    int64        `json:"end"`             //
	Body   int64        `json:"body"`            // offset of the segment in the decoded archive
	Head   int64        `json:"head"`            // bytes of header and operations, padded to 512
	Data   int64        `json:"data"`            // bytes of data behind them
	Digest delta.Digest `json:"digest,omitzero"` // of the data; zero when there is none, or the digests of frames cover it
}

// A member's line in manifest.json is three objects: what the id commits to, hints, storage.
type line struct {
	State  json.RawMessage `json:"state"`
	Hints  *Hints          `json:"hints,omitempty"`
	Stored *Stored         `json:"stored,omitempty"`
}

// AppendState appends the canonical encoding of s: JSON without white space, keys in the
// order of FORMAT.md section 3, absent when empty. An entry's id is the digest of these.
func (s *State) AppendState(b []byte) []byte {
	b = append(b, `{"path":`...)
	b = appendPath(b, s.Path)
	b = append(b, `,"type":`...)
	b = appendString(b, string(s.Type))
	if s.Type == File {
		b = append(b, `,"size":`...)
		b = strconv.AppendInt(b, s.Size, 10)
	}
	b = append(b, `,"mode":"`...)
	b = append(b, byte('0'+s.Mode>>9&7), byte('0'+s.Mode>>6&7), byte('0'+s.Mode>>3&7), byte('0'+s.Mode&7))
	b = append(b, `","uid":`...)
	b = strconv.AppendInt(b, s.UID, 10)
	b = append(b, `,"gid":`...)
	b = strconv.AppendInt(b, s.GID, 10)
	if s.User != "" {
		b = append(b, `,"user":`...)
		b = appendPath(b, Path(s.User))
	}
	if s.Group != "" {
		b = append(b, `,"group":`...)
		b = appendPath(b, Path(s.Group))
	}
	b = append(b, `,"mtime":`...)
	t, _ := s.ModTime.MarshalJSON() // cannot fail: every time has a form
	b = append(b, t...)
	if s.Type == Symlink || s.Type == Link {
		b = append(b, `,"target":`...)
		b = appendPath(b, s.Target)
	}
	if len(s.Xattrs) > 0 {
		b = append(b, `,"xattrs":{`...)
		for i, k := range sortedKeys(s.Xattrs) {
			if i > 0 {
				b = append(b, ',')
			}
			b = appendString(b, k)
			b = append(b, ':', '"')
			b = base64.StdEncoding.AppendEncode(b, s.Xattrs[k])
			b = append(b, '"')
		}
		b = append(b, '}')
	}
	if s.Phase != 0 {
		b = append(b, `,"phase":`...)
		b = strconv.AppendInt(b, s.Phase, 10)
	}
	if s.Stride != 0 {
		b = append(b, `,"stride":`...)
		b = strconv.AppendInt(b, s.Stride, 10)
	}
	if s.Type == File {
		b = append(b, `,"digest":"`...)
		b = append(b, s.Digest.String()...)
		b = append(b, '"')
	}
	return append(b, '}')
}

// Grid returns the grid on which the file is cut into blocks of the given size.
func (s *State) Grid(block int64) delta.Grid {
	return delta.Grid{Block: block, Phase: s.Phase, Stride: s.Stride}
}

// SetGrid is the opposite of Grid.
func (s *State) SetGrid(g delta.Grid) { s.Phase, s.Stride = g.Phase, g.Stride }

func appendPath(b []byte, p Path) []byte {
	t, _ := p.MarshalJSON() // cannot fail
	return append(b, t...)
}

// appendString appends s, which is UTF-8, as JSON with the fewest escapes, so that
// there is one encoding of each string.
func appendString(b []byte, s string) []byte {
	b = append(b, '"')
	for i := 0; i < len(s); i++ {
		switch c := s[i]; {
		case c == '"' || c == '\\':
			b = append(b, '\\', c)
		case c < 0x20:
			b = fmt.Appendf(b, `\u%04x`, c)
		default:
			b = append(b, c)
		}
	}
	return append(b, '"')
}

// stateJSON is State as encoding/json reads it.
type stateJSON struct {
	Path    Path              `json:"path"`
	Type    Type              `json:"type"`
	Size    int64             `json:"size"`
	Mode    Mode              `json:"mode"`
	UID     int64             `json:"uid"`
	GID     int64             `json:"gid"`
	User    Path              `json:"user"`
	Group   Path              `json:"group"`
	ModTime Time              `json:"mtime"`
	Target  Path              `json:"target"`
	Xattrs  map[string][]byte `json:"xattrs"`
	Phase   int64             `json:"phase"`
	Stride  int64             `json:"stride"`
	Digest  delta.Digest      `json:"digest"`
}

// MarshalJSON writes the member's line.
func (m *Member) MarshalJSON() ([]byte, error) {
	l := line{State: m.AppendState(nil)}
	if m.Hints != (Hints{}) {
		l.Hints = &m.Hints
	}
	if m.Stored.As != "" {
		l.Stored = &m.Stored
	}
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	if err := e.Encode(l); err != nil {
		return nil, err
	}
	return bytes.TrimSuffix(b.Bytes(), []byte("\n")), nil
}

// UnmarshalJSON reads a member's line. The state must be in its canonical encoding, or
// the id could not be checked.
func (m *Member) UnmarshalJSON(b []byte) error {
	var l line
	if err := json.Unmarshal(b, &l); err != nil {
		return err
	}
	var s stateJSON
	if err := json.Unmarshal(l.State, &s); err != nil {
		return err
	}
	*m = Member{State: State{
		Path: s.Path, Type: s.Type, Size: s.Size, Mode: s.Mode, UID: s.UID, GID: s.GID,
		User: string(s.User), Group: string(s.Group), ModTime: s.ModTime, Target: s.Target,
		Xattrs: s.Xattrs, Phase: s.Phase, Stride: s.Stride, Digest: s.Digest,
	}}
	if l.Hints != nil {
		m.Hints = *l.Hints
	}
	if l.Stored != nil {
		m.Stored = *l.Stored
	}
	if c := m.AppendState(nil); !bytes.Equal(c, l.State) {
		return fmt.Errorf("member %q: state is not in canonical form", s.Path)
	}
	return nil
}
