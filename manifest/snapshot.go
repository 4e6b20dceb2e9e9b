package manifest

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"runtime"
	"strings"
	"sync"

	"github.com/zeebo/blake3"

	"tarvm/delta"
)

// Version is the version of manifests and archives that this package writes, and the latest that it reads.
const Version = 1

// Errors about manifests.
var (
	ErrCorrupt = errors.New("manifest is damaged")
	ErrVersion = errors.New("manifest needs a later version of tarvm")
)

// Kind is whether an archive needs another one.
type Kind string

// The kinds of archives.
const (
	Full        Kind = "full"
	Incremental Kind = "incremental"
)

// Entry is what entry.json says, the first member of an archive.
type Entry struct {
	Tarvm    string            `json:"tarvm"` // "entry"
	Version  int               `json:"version"`
	Kind     Kind              `json:"kind"`
	Name     string            `json:"name,omitempty"`
	Note     string            `json:"note,omitempty"`
	Labels   map[string]string `json:"labels,omitempty"`
	Time     Time              `json:"time"`
	Parent   *Parent           `json:"parent,omitempty"`
	Block    int64             `json:"block"`
	Digest   string            `json:"digest"`
	Codec    string            `json:"codec"`
	Live     bool              `json:"live,omitempty"`
	Requires []string          `json:"requires,omitempty"`

	// For repositories and people; an archive reads the same without.
	Differential bool     `json:"differential,omitempty"` // the parent was chosen because it is the full one of its chain
	Project      string   `json:"project,omitempty"`      // the group of entries in which it was saved
	Machine      *Machine `json:"machine,omitempty"`
}

// Machine is what the configuration in an entry calls its machine.
type Machine struct {
	Name string `json:"name,omitempty"`
	UUID string `json:"uuid,omitempty"` // 8-4-4-4-12 lower case hexadecimal digits
}

// Parent names the entry that an increment builds on.
type Parent struct {
	ID     delta.Digest `json:"id"`
	Digest delta.Digest `json:"digest"` // of its manifest.json
	Name   string       `json:"name,omitempty"`
}

// DigestName is what Entry.Digest says.
const DigestName = "blake3-256"

// Check refuses what this version cannot read.
func (e *Entry) Check() error {
	if e.Version > Version || len(e.Requires) > 0 {
		return fmt.Errorf("%w: version %d, requires %q", ErrVersion, e.Version, e.Requires)
	}
	if e.Version < 1 || e.Digest != DigestName {
		return fmt.Errorf("%w: version %d, digest %q", ErrCorrupt, e.Version, e.Digest)
	}
	if (e.Kind != Full || e.Parent != nil) && (e.Kind != Incremental || e.Parent == nil || e.Parent.ID.IsZero()) {
		return fmt.Errorf("%w: kind %q does not fit its parent", ErrCorrupt, e.Kind)
	}
	if err := (delta.Grid{Block: e.Block}).Check(); err != nil {
		return fmt.Errorf("%w: %w", ErrCorrupt, err)
	}
	return nil
}

// Stats are numbers for people. Sizes are bytes.
type Stats struct {
	Members   int64 `json:"members"`
	Files     int64 `json:"files"`
	Bytes     int64 `json:"bytes"`               // sizes of all files
	Zero      int64 `json:"zero"`                // holes and blocks of zeros
	Stored    int64 `json:"stored"`              // data in the archive, before compression
	Unchanged int64 `json:"unchanged,omitempty"` // files whose content is the parent's
	Same      int64 `json:"same,omitempty"`      // in deltas: as in the parent at the same place
	Data      int64 `json:"data,omitempty"`      // new
	Copy      int64 `json:"copy,omitempty"`      // elsewhere in the parent
	Self      int64 `json:"self,omitempty"`      // earlier in this archive
	Zeroed    int64 `json:"zeroed,omitempty"`
}

// BlocksInfo describes the table of blocks.
type BlocksInfo struct {
	Length int64        `json:"length"`
	Digest delta.Digest `json:"digest"`
}

// A Snapshot is a decoded manifest.json.
type Snapshot struct {
	Entry      Entry
	ID         delta.Digest
	Stats      Stats
	Blocks     BlocksInfo
	Members    []Member
	Superseded []Member

	// Digest is that of manifest.json as it was decoded or encoded last; it is not part of the JSON.
	Digest delta.Digest
}

// ComputeID returns the id of a state: what identifies an entry however it is stored.
func ComputeID(block int64, members []Member) delta.Digest {
	h := blake3.New()
	b := fmt.Appendf(make([]byte, 0, 4096), "tarvm state 1\nblock %d\n", block)
	for i := range members {
		b = append(members[i].AppendState(b), '\n')
		if len(b) > 3000 {
			_, _ = h.Write(b) // a hash does not fail
			b = b[:0]
		}
	}
	_, _ = h.Write(b)
	return delta.Digest(h.Sum(nil))
}

type header struct {
	Tarvm   string       `json:"tarvm"` // "manifest"
	Version int          `json:"version"`
	Entry   Entry        `json:"entry"`
	ID      delta.Digest `json:"id"`
	Stats   Stats        `json:"stats"`
	Blocks  BlocksInfo   `json:"blocks"`
}

// The text between the parts of manifest.json. The reader relies on members standing on lines
// of their own, which makes it possible to decode them side by side.
const (
	membersKey    = `,"members":[` + "\n"
	supersededKey = "\n" + `],"superseded":[` + "\n"
	endKey        = "\n]}\n"
)

// Encode writes manifest.json to w, and sets s.ID and s.Digest.
func (s *Snapshot) Encode(w io.Writer) error {
	s.ID = ComputeID(s.Entry.Block, s.Members)
	h := blake3.New()
	bw := bufio.NewWriterSize(io.MultiWriter(w, h), 64<<10)
	head, err := marshal(header{"manifest", Version, s.Entry, s.ID, s.Stats, s.Blocks})
	if err != nil {
		return err
	}
	bw.Write(head[:len(head)-1]) // without the closing brace; errors stick in bw
	bw.WriteString(membersKey)
	if err := writeMembers(bw, s.Members); err != nil {
		return err
	}
	if len(s.Superseded) > 0 {
		bw.WriteString(supersededKey)
		if err := writeMembers(bw, s.Superseded); err != nil {
			return err
		}
	}
	bw.WriteString(endKey)
	if err := bw.Flush(); err != nil {
		return err
	}
	s.Digest = delta.Digest(h.Sum(nil))
	return nil
}

func writeMembers(w *bufio.Writer, ms []Member) error {
	for i := range ms {
		if i > 0 {
			w.WriteString(",\n")
		}
		b, err := ms[i].MarshalJSON()
		if err != nil {
			return fmt.Errorf("member %q: %w", ms[i].Path, err)
		}
		w.Write(b)
	}
	return nil
}

func marshal(v any) ([]byte, error) {
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	err := e.Encode(v)
	return bytes.TrimSuffix(b.Bytes(), []byte("\n")), err
}

// Decode reads a whole manifest.json and checks what it says of itself: the id, the order and
// uniqueness of paths, the sizes of sections. Errors wrap ErrCorrupt or ErrVersion.
func Decode(b []byte) (*Snapshot, error) { return Read(bytes.NewReader(b)) }

// Read does the same with all that r holds, and keeps no more of the text than a part of it: of many small files, that is
// most of what a manifest takes. Errors may be those of r, too.
func Read(r io.Reader) (*Snapshot, error) {
	t := &textReader{h: blake3.New()}
	t.r = bufio.NewReaderSize(io.TeeReader(r, t.h), 64<<10)
	s, err := t.snapshot()
	if err != nil {
		if t.err != nil {
			err = t.err
		} else if !errors.Is(err, ErrVersion) && !errors.Is(err, ErrCorrupt) {
			err = fmt.Errorf("%w: %w", ErrCorrupt, err)
		}
		return nil, err
	}
	s.Digest = delta.Digest(t.h.Sum(nil))
	return s, nil
}

// A textReader reads the lines of manifest.json.
type textReader struct {
	r    *bufio.Reader
	h    *blake3.Hasher
	err  error // of the reader below
	done int   // lines
}

var errCut = errors.New("it is cut off")

// line appends a line to b, without its end.
func (t *textReader) line(b []byte) ([]byte, error) {
	for {
		p, err := t.r.ReadSlice('\n')
		b = append(b, p...)
		switch {
		case err == nil:
			t.done++
			return b[:len(b)-1], nil
		case errors.Is(err, bufio.ErrBufferFull):
		case errors.Is(err, io.EOF):
			return b, errCut
		default:
			t.err = err
			return b, err
		}
	}
}

func (t *textReader) snapshot() (*Snapshot, error) {
	first, err := t.line(nil)
	if err != nil {
		return nil, err
	}
	head, ok := bytes.CutSuffix(first, []byte(strings.TrimSuffix(membersKey, "\n")))
	if !ok {
		return nil, errors.New("no list of members")
	}
	var h header
	if err := json.Unmarshal(append(head, '}'), &h); err != nil {
		return nil, err
	}
	if h.Tarvm != "manifest" {
		return nil, fmt.Errorf("it says that it is a %q", h.Tarvm)
	}
	if h.Version > Version {
		return nil, fmt.Errorf("%w: version %d", ErrVersion, h.Version)
	}
	if err := h.Entry.Check(); err != nil {
		return nil, err
	}
	s := &Snapshot{Entry: h.Entry, ID: h.ID, Stats: h.Stats, Blocks: h.Blocks}
	var end string
	if s.Members, end, err = t.members(h.Stats.Members); err != nil {
		return nil, err
	}
	if "\n"+end+"\n" == supersededKey {
		if s.Superseded, end, err = t.members(0); err != nil {
			return nil, err
		}
	}
	if "\n"+end+"\n" != endKey {
		return nil, fmt.Errorf("line %d: %.20q ends a list", t.done, end)
	}
	if _, err := t.r.ReadByte(); !errors.Is(err, io.EOF) {
		t.err = err
		return nil, errors.New("it goes on behind its end")
	}
	return s, s.check()
}

// A batch of so many bytes of text is decoded by several goroutines at once.
const batchText = 1 << 20

// members reads the lines of a list, and the line that ends it. The list may have the given length; that is not believed.
func (t *textReader) members(likely int64) (ms []Member, end string, err error) {
	var text []byte
	var ends []int // of the lines in text
	flush := func() error {
		if n := len(ms) + len(ends); n > cap(ms) {
			// To twice the length at most, so that a lie costs no more than what is there.
			grown := make([]Member, len(ms), max(n, int(min(int64(2*n), likely))))
			copy(grown, ms)
			ms = grown
		}
		at := len(ms)
		ms = ms[:at+len(ends)]
		err := decodeMembers(ms[at:], text, ends, t.done-len(ends)) // those of ends are the last that were read
		text, ends = text[:0], ends[:0]
		return err
	}
	for more := true; ; { // the line before says so
		from := len(text)
		if text, err = t.line(text); err != nil {
			return nil, "", err
		}
		l := text[from:]
		if len(l) > 0 && l[0] == ']' {
			if more {
				return nil, "", fmt.Errorf("line %d: a list ends behind a comma", t.done)
			}
			t.done-- // it is no member
			err := flush()
			t.done++
			return ms, string(l), err
		}
		if !more {
			return nil, "", fmt.Errorf("line %d: a member without a comma before it", t.done)
		}
		if len(l) == 0 && len(ms)+len(ends) == 0 { // an empty list
			more = false
			continue
		}
		if more = bytes.HasSuffix(l, []byte(",")); more {
			text = text[:len(text)-1]
		}
		ends = append(ends, len(text))
		if len(text) >= batchText {
			if err := flush(); err != nil {
				return nil, "", err
			}
		}
	}
}

// decodeMembers decodes the lines of text, which end where ends says; the first of them is line number first+1.
func decodeMembers(ms []Member, text []byte, ends []int, first int) error {
	workers := min(runtime.GOMAXPROCS(0), len(ends)/64+1)
	errs := make([]error, workers)
	var wg sync.WaitGroup
	for w := range workers {
		wg.Go(func() {
			for i := w * len(ends) / workers; i < (w+1)*len(ends)/workers; i++ {
				from := 0
				if i > 0 {
					from = ends[i-1]
				}
				if err := ms[i].UnmarshalJSON(text[from:ends[i]]); err != nil {
					errs[w] = fmt.Errorf("line %d: %w", first+i+1, err)
					return
				}
			}
		})
	}
	wg.Wait()
	return errors.Join(errs...)
}

// check verifies what the manifest says about itself.
func (s *Snapshot) check() error {
	if id := ComputeID(s.Entry.Block, s.Members); id != s.ID {
		return fmt.Errorf("the id is %s, the members have %s", s.ID.Short(), id.Short())
	}
	seen := make(map[Path]int, len(s.Members))
	var off int64
	for i := range s.Members {
		m := &s.Members[i]
		if _, dup := seen[m.Path]; dup {
			return fmt.Errorf("member %q stands twice", m.Path)
		}
		seen[m.Path] = i
		if err := s.checkMember(m, &off); err != nil {
			return fmt.Errorf("member %q: %w", m.Path, err)
		}
		if m.Type == Link {
			j, ok := seen[m.Target]
			if !ok || s.Members[j].Type != File && s.Members[j].Type != Fifo {
				return fmt.Errorf("member %q: link to %q, which is no earlier file", m.Path, m.Target)
			}
		}
	}
	for i := range s.Superseded {
		if err := s.checkMember(&s.Superseded[i], &off); err != nil {
			return fmt.Errorf("superseded member %q: %w", s.Superseded[i].Path, err)
		}
	}
	if off != s.Blocks.Length {
		return fmt.Errorf("sections of %d bytes in a table of %d", off, s.Blocks.Length)
	}
	return nil
}

func (s *Snapshot) checkMember(m *Member, off *int64) error {
	switch m.Type {
	case File, Dir, Symlink, Link, Fifo:
	default:
		return fmt.Errorf("unknown type %q", m.Type)
	}
	g := m.Grid(s.Entry.Block)
	if err := g.Check(); err != nil {
		return err
	}
	if m.Type != File {
		if m.Length != 0 || m.Stored.As != AsNone {
			return errors.New("content without a file")
		}
		return nil
	}
	if m.Size < 0 || m.Digest.IsZero() {
		return fmt.Errorf("size %d, digest %s", m.Size, m.Digest)
	}
	if (m.Size > s.Entry.Block) != (m.Length > 0) || m.Length < 0 || m.Length > 0 && m.Offset != *off || m.Blocks < 0 || m.Blocks > g.Count(m.Size) {
		return fmt.Errorf("section of %d bytes at %d with %d digests", m.Length, m.Offset, m.Blocks)
	}
	*off += m.Length
	return s.checkStored(m)
}

func (s *Snapshot) checkStored(m *Member) error {
	st := &m.Stored
	inc := s.Entry.Kind == Incremental
	switch {
	case st.As == AsWhole:
		if st.Body <= 0 || st.Bytes < 0 || st.Bytes > m.Size {
			return fmt.Errorf("%d bytes stored at %d", st.Bytes, st.Body)
		}
	case st.As == AsSame && inc:
	case st.As == AsDelta && inc:
		var end int64
		if len(st.Segments) == 0 {
			return errors.New("delta without a segment")
		}
		for i, g := range st.Segments {
			if g.Start < end || g.End < g.Start || g.End > m.Size || g.Body <= 0 || g.Head <= 0 || g.Data < 0 || g.Data > delta.MaxData {
				return fmt.Errorf("segment %d is not valid", i)
			}
			end = g.End
		}
	default:
		return fmt.Errorf("stored as %q in a %s archive", st.As, s.Entry.Kind)
	}
	return nil
}

// Find returns the member with the given path, nil when there is none. It takes time in
// proportion to the number of members; see Index.
func (s *Snapshot) Find(p Path) *Member {
	for i := range s.Members {
		if s.Members[i].Path == p {
			return &s.Members[i]
		}
	}
	return nil
}

// Index returns the positions of the members by path.
func (s *Snapshot) Index() map[Path]int {
	m := make(map[Path]int, len(s.Members))
	for i := range s.Members {
		m[s.Members[i].Path] = i
	}
	return m
}

// Grid returns the grid of member m.
func (s *Snapshot) Grid(m *Member) delta.Grid {
	return m.Grid(s.Entry.Block)
}
