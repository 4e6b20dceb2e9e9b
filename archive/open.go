package archive

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"sort"
	"sync"

	"github.com/zeebo/blake3"

	"tarvm/archive/codec"
	"tarvm/archive/pax"
	"tarvm/archive/vmdir"
	"tarvm/delta"
	"tarvm/formats"
	"tarvm/manifest"
)

// Errors of Open and OpenManifest.
var (
	// ErrForeign: no archive of tarvm. It may be another tar.
	ErrForeign = errors.New("not an archive of tarvm")
	// ErrTruncated: the archive has no end.
	ErrTruncated = errors.New("archive is cut off")
	// ErrCorrupt: a part of the archive is not what a digest says.
	ErrCorrupt = errors.New("archive is damaged")
)

// An Archive is an entry's archive, opened for reading at random. It is safe for concurrent use.
// It does not own its source.
type Archive struct {
	c    codec.Codec
	src  formats.Source
	data *codec.Reader
	loc  *locator
	man  *Manifest
	// what follows the frames that the table lists: those of the table itself, and the tail
	frames []codec.Frame
	tail   span // encoded: last frame
	trail  span // encoded: the codec's trailer
}

// Open opens an archive by its end. Errors wrap ErrForeign, ErrTruncated, ErrCorrupt,
// manifest.ErrCorrupt or manifest.ErrVersion, or are the source's.
func Open(src formats.Source, codecs []codec.Codec) (*Archive, error) {
	head := make([]byte, min(codec.HeadLen, src.Size()))
	if err := readAt(src, head, 0); err != nil {
		return nil, err
	}
	c := codec.Detect(codecs, head)
	if c == nil {
		return nil, ErrForeign
	}
	a := &Archive{c: c, src: src}
	if err := a.readTail(); err != nil {
		return nil, a.explain(err)
	}
	if err := a.readFrames(); err != nil {
		return nil, err
	}
	if err := a.readManifest(); err != nil {
		return nil, err
	}
	return a, nil
}

func readAt(src io.ReaderAt, b []byte, off int64) error {
	n, err := src.ReadAt(b, off)
	if n == len(b) {
		return nil
	}
	if err == nil || errors.Is(err, io.EOF) {
		err = io.ErrUnexpectedEOF
	}
	return fmt.Errorf("at byte %d: %w", off+int64(n), err)
}

var errNoTail = errors.New("no locator at the end")

// readTail finds and parses the locator, and checks that the end has its one form.
func (a *Archive) readTail() error {
	size := a.src.Size()
	last := make([]byte, min(64, size))
	if err := readAt(a.src, last, size-int64(len(last))); err != nil {
		return err
	}
	n, err := a.c.TrailerLen(last)
	if err != nil {
		return fmt.Errorf("%w: %w", errNoTail, err)
	}
	a.trail = span{size - n, n}
	a.tail.Length = int64(a.c.StoredLen(tailSize))
	a.tail.Offset = size - n - a.tail.Length
	if a.tail.Offset < 0 {
		return errNoTail
	}
	enc := make([]byte, a.tail.Length)
	if err := readAt(a.src, enc, a.tail.Offset); err != nil {
		return err
	}
	d, err := a.c.NewDecoder(codec.DecoderOptions{})
	if err != nil {
		return err
	}
	b, err := d.Decode(nil, enc, tailSize)
	if err != nil {
		return fmt.Errorf("%w: %w", errNoTail, err)
	}
	h, err := pax.NewReader(bytes.NewReader(b), pax.ReaderOptions{}).Next()
	if err != nil || h.Name != nameLocator || h.Body != pax.BlockSize || h.Size != locatorSize {
		return errNoTail
	}
	if !bytes.Equal(a.c.AppendStored(nil, b), enc) || !delta.IsZero(b[2*pax.BlockSize:]) {
		return fmt.Errorf("%w: the last frame is not in its one form", ErrCorrupt)
	}
	if a.loc, err = parseLocator(b[pax.BlockSize:][:locatorSize]); err != nil {
		return fmt.Errorf("%w: %w", ErrCorrupt, err)
	}
	again, err := pax.AppendHeader(nil, (&stream{time: h.ModTime}).own(nameLocator, locatorSize))
	if err != nil || !bytes.Equal(again, b[:pax.BlockSize]) {
		return fmt.Errorf("%w: the locator's header is not in its one form", ErrCorrupt)
	}
	return nil
}

// explain tells a cut-off archive from a file that is none.
func (a *Archive) explain(err error) error {
	if !errors.Is(err, errNoTail) {
		return err
	}
	r, rerr := a.c.NewReader(io.NewSectionReader(a.src, 0, a.src.Size()))
	if rerr != nil {
		return ErrForeign
	}
	defer r.Close()
	h, rerr := pax.NewReader(r, pax.ReaderOptions{}).Next()
	if rerr != nil || h.Name != nameEntry {
		return ErrForeign
	}
	return fmt.Errorf("%w after %d bytes, or its end is damaged: there is no locator", ErrTruncated, a.src.Size())
}

func (a *Archive) readFrames() error {
	bad := func(f string, v ...any) error { return fmt.Errorf("%w: %s", ErrCorrupt, fmt.Sprintf(f, v...)) }
	l := a.loc
	if l.Frames.Offset < 0 || l.Frames.Length < 0 || l.Frames.Offset+l.Frames.Length != a.tail.Offset {
		return bad("table of frames at %d, %d bytes, should end at %d", l.Frames.Offset, l.Frames.Length, a.tail.Offset)
	}
	if a.c.Name() == "none" {
		if l.Frames.Length != 0 || l.FramesDecoded != l.Frames.Offset || !l.Framed.IsZero() {
			return bad("frames in an archive without a codec")
		}
	} else {
		if l.Frames.Length > 2*maxFrames*frameEntry {
			return bad("table of frames of %d bytes", l.Frames.Length)
		}
		enc := make([]byte, l.Frames.Length)
		if err := readAt(a.src, enc, l.Frames.Offset); err != nil {
			return err
		}
		if delta.Sum(enc) != l.Framed {
			return bad("table of frames at byte %d does not have its digest", l.Frames.Offset)
		}
		r, err := a.c.NewReader(bytes.NewReader(enc))
		if err != nil {
			return bad("table of frames: %v", err)
		}
		defer r.Close()
		t := pax.NewReader(r, pax.ReaderOptions{})
		h, err := t.Next()
		if err != nil || h.Name != nameFrames || h.Size > 16+maxFrames*frameEntry {
			return bad("table of frames: no member %s", nameFrames)
		}
		b := make([]byte, h.Size)
		if _, err := io.ReadFull(t, b); err != nil {
			return bad("table of frames: %v", err)
		}
		if a.frames, err = parseFrames(b); err != nil {
			return bad("%v", err)
		}
		dec := h.Body + h.Size + pax.Padding(h.Size)
		var e, d int64
		for _, f := range a.frames {
			e += f.Encoded
			d += f.Decoded
		}
		if e != l.Frames.Offset || d != l.FramesDecoded {
			return bad("frames of %d bytes, decoded %d, should be %d and %d", e, d, l.Frames.Offset, l.FramesDecoded)
		}
		var f codec.Frame
		f.Encoded, f.Decoded = l.Frames.Length, dec
		copy(f.Digest[:], l.Framed[:])
		a.frames = append(a.frames, f)
	}
	var err error
	if a.data, err = codec.NewReader(a.src, a.c, a.frames, codec.ReaderOptions{}); err != nil {
		return bad("%v", err)
	}
	return nil
}

func (a *Archive) readManifest() error {
	m, b := a.loc.Manifest, a.loc.Blocks
	end := a.loc.FramesDecoded
	if m.Offset < 0 || m.Length > end-m.Offset || b.Offset < m.Offset+m.Length || b.Length > end-b.Offset {
		return fmt.Errorf("%w: manifest at %d+%d, blocks at %d+%d of %d", ErrCorrupt, m.Offset, m.Length, b.Offset, b.Length, end)
	}
	snap, err := readSnapshot(io.NewSectionReader(a.data, m.Offset, m.Length))
	if err != nil {
		return err
	}
	if snap.ID != a.loc.ID || snap.Blocks.Length != b.Length || snap.Entry.Codec != a.c.Name() {
		return fmt.Errorf("%w: manifest and locator do not belong together", ErrCorrupt)
	}
	a.man = NewManifest(snap, io.NewSectionReader(a.data, b.Offset, b.Length))
	return nil
}

// readSnapshot reads a manifest.json.
func readSnapshot(r io.Reader) (*manifest.Snapshot, error) {
	s, err := manifest.Read(r)
	if err != nil && !errors.Is(err, manifest.ErrCorrupt) && !errors.Is(err, manifest.ErrVersion) {
		err = fmt.Errorf("%s: %w", nameManifest, err)
	}
	return s, err
}

// readGrowing reads n bytes without believing n before they are there.
func readGrowing(r io.Reader, n int64) ([]byte, error) {
	var buf bytes.Buffer
	buf.Grow(int(min(n, 1<<20)))
	if _, err := io.CopyN(&buf, r, n); err != nil {
		return nil, err
	}
	return buf.Bytes(), nil
}

// Manifest returns the entry's manifest.
func (a *Archive) Manifest() *Manifest { return a.man }

// Data returns the decoded bytes as far as the manifest.
func (a *Archive) Data() *codec.Reader { return a.data }

// Codec returns the archive's codec.
func (a *Archive) Codec() codec.Codec { return a.c }

// Size returns the encoded size in bytes.
func (a *Archive) Size() int64 { return a.src.Size() }

// Segment reads the operations of a segment of a delta. It decodes the frames that hold them,
// and none of the data. Errors wrap delta.ErrSegment or are of the reader.
func (a *Archive) Segment(g *manifest.Segment) (*delta.Segment, error) { return ReadSegment(a.data, g) }

// ReadSegment does the same in a decoded archive.
func ReadSegment(data io.ReaderAt, g *manifest.Segment) (*delta.Segment, error) {
	if g.Head < 0 || g.Head > 8<<20 {
		return nil, fmt.Errorf("%w: head of %d bytes", delta.ErrSegment, g.Head)
	}
	b := make([]byte, g.Head)
	if err := readAt(data, b, g.Body); err != nil {
		return nil, err
	}
	s, err := delta.ParseSegment(b)
	if err != nil {
		return nil, err
	}
	if s.Start != g.Start || s.End != g.End || s.Head != g.Head || s.Data != g.Data {
		return nil, fmt.Errorf("%w: range %d to %d with %d+%d bytes, the manifest says %d to %d with %d+%d",
			delta.ErrSegment, s.Start, s.End, s.Head, s.Data, g.Start, g.End, g.Head, g.Data)
	}
	return s, nil
}

// A Manifest is a snapshot manifest with access to its tables. It is safe for concurrent use.
type Manifest struct {
	*manifest.Snapshot
	blocks  *io.SectionReader
	starts  []int64 // by position in withTable: digests before it
	members []int   // the members that have digests
	digests int64   // of Members, without Superseded
	local   *local

	mu     sync.Mutex
	tables map[*manifest.Member]*delta.Table
}

// local is what only the manifest beside an archive has.
type local struct {
	key  delta.Key
	sums *io.SectionReader
	seen []vmdir.Identity
}

// NewManifest returns a manifest whose table of blocks is in blocks, and which has no part of its own beside the archive.
func NewManifest(s *manifest.Snapshot, blocks *io.SectionReader) *Manifest {
	m := &Manifest{Snapshot: s, blocks: blocks, tables: make(map[*manifest.Member]*delta.Table)}
	for i := range s.Members {
		if mem := &s.Members[i]; mem.Length > 0 {
			m.members = append(m.members, i)
			m.starts = append(m.starts, m.digests)
			m.digests += mem.Blocks
		}
	}
	return m
}

// OpenManifest opens the manifest beside an archive. Errors wrap ErrForeign, ErrCorrupt,
// manifest.ErrCorrupt, manifest.ErrVersion or pax errors, or are the source's.
func OpenManifest(src formats.Source) (*Manifest, error) {
	r := pax.NewReader(io.NewSectionReader(src, 0, src.Size()), pax.ReaderOptions{})
	parts := make(map[string]*io.SectionReader)
	for _, want := range []string{nameManifest, nameBlocks, nameLocal, nameFind} {
		h, err := r.Next()
		if want == nameLocal && errors.Is(err, io.EOF) {
			break // it was taken out of the archive
		}
		if err != nil || h.Name != want {
			if want == nameManifest {
				return nil, ErrForeign
			}
			return nil, fmt.Errorf("%w: no member %s (%w)", ErrCorrupt, want, errors.Join(err, ErrTruncated))
		}
		if h.Size > src.Size()-h.Body {
			return nil, fmt.Errorf("%w: %s", ErrTruncated, want)
		}
		parts[want] = io.NewSectionReader(src, h.Body, h.Size)
	}
	snap, err := readSnapshot(parts[nameManifest])
	if err != nil {
		return nil, err
	}
	if parts[nameBlocks].Size() != snap.Blocks.Length {
		return nil, fmt.Errorf("%w: table of blocks of %d bytes, want %d", ErrCorrupt, parts[nameBlocks].Size(), snap.Blocks.Length)
	}
	m := NewManifest(snap, parts[nameBlocks])
	if parts[nameLocal] == nil {
		return m, nil
	}
	return m, m.readLocal(parts[nameLocal], parts[nameFind])
}

// WriteManifest writes the manifest as it stands beside an archive, without what only the machine knows that packed. An
// increment on it is right, and larger than it could be: of what was moved, only whole blocks are found.
func (a *Archive) WriteManifest(w io.Writer) error {
	s := &stream{time: a.man.Entry.Time.Time}
	for _, p := range []struct {
		name string
		at   span
	}{{nameManifest, a.loc.Manifest}, {nameBlocks, a.loc.Blocks}} {
		if err := plainCopy(w, p.name, io.NewSectionReader(a.data, p.at.Offset, p.at.Length), p.at.Length, s); err != nil {
			return err
		}
	}
	_, err := w.Write(pax.AppendEnd(nil))
	return err
}

// OpenAll opens the archives of a file that holds one or several behind each other, the first one first. Errors are those
// of Open.
func OpenAll(src formats.Source, codecs []codec.Codec) ([]*Archive, error) {
	var as []*Archive
	for end := src.Size(); ; {
		a, start, err := openLast(io.NewSectionReader(src, 0, end), codecs)
		if err != nil {
			if len(as) > 0 {
				err = fmt.Errorf("the archive before byte %d: %w", end, err)
			}
			return nil, err
		}
		as = append(as, a)
		if start == 0 {
			slices.Reverse(as)
			return as, nil
		}
		if len(as) > maxTogether {
			return nil, fmt.Errorf("%w: more than %d archives in a file", ErrCorrupt, maxTogether)
		}
		end = start
	}
}

// maxTogether is the length of a chain at most.
const maxTogether = 100_000

// openLast opens the last archive in src, and returns where it starts.
func openLast(src formats.Source, codecs []codec.Codec) (*Archive, int64, error) {
	head := make([]byte, min(codec.HeadLen, src.Size()))
	if err := readAt(src, head, 0); err != nil {
		return nil, 0, err
	}
	probe := &Archive{src: src, c: codec.Detect(codecs, head)}
	if probe.c != nil && probe.readTail() == nil {
		l := probe.loc.Frames
		if start := probe.tail.Offset - l.Offset - l.Length; l.Offset >= 0 && l.Length >= 0 && start > 0 && start < src.Size() {
			a, err := Open(io.NewSectionReader(src, start, src.Size()-start), codecs)
			return a, start, err
		}
	}
	a, err := Open(src, codecs)
	return a, 0, err
}

func (m *Manifest) readLocal(r, sums *io.SectionReader) error {
	text, err := readGrowing(r, r.Size())
	if err != nil {
		return fmt.Errorf("%s: %w", nameLocal, err)
	}
	var l localFile
	if err := json.Unmarshal(text, &l); err != nil {
		return fmt.Errorf("%w: %s: %w", ErrCorrupt, nameLocal, err)
	}
	key, err := base64.StdEncoding.DecodeString(l.Find.Key)
	if err != nil || len(key) != len(delta.Key{}) || l.Find.Unit != delta.FindUnit || len(l.Seen) != len(m.Members) ||
		sums.Size() != m.digests*m.Entry.Block/delta.FindUnit*16 {
		return fmt.Errorf("%w: %s and %s do not fit the manifest", ErrCorrupt, nameLocal, nameFind)
	}
	m.local = &local{key: delta.Key(key), sums: sums, seen: l.Seen}
	return nil
}

// Table returns the digests of mem, which is one of Members or Superseded. It is nil for a member
// of at most one block.
func (m *Manifest) Table(mem *manifest.Member) (*delta.Table, error) {
	if mem.Length == 0 {
		return nil, nil
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if t := m.tables[mem]; t != nil {
		return t, nil
	}
	t, err := delta.OpenTable(io.NewSectionReader(m.blocks, mem.Offset, mem.Length), m.Grid(mem), mem.Size, mem.Blocks, mem.Length)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", mem.Path, err)
	}
	if len(m.tables) > 10000 {
		clear(m.tables) // small files by the hundred thousand: their tables are quickly read again
	}
	m.tables[mem] = t
	return t, nil
}

// CheckBlocks reads the whole table of blocks and compares it with its digest and those of the members.
func (m *Manifest) CheckBlocks() error {
	h := blake3.New()
	if _, err := io.Copy(h, io.NewSectionReader(m.blocks, 0, m.blocks.Size())); err != nil {
		return fmt.Errorf("%s: %w", nameBlocks, err)
	}
	if delta.Digest(h.Sum(nil)) != m.Blocks.Digest {
		return fmt.Errorf("%w: %s does not have its digest", ErrCorrupt, nameBlocks)
	}
	for _, ms := range [][]manifest.Member{m.Members, m.Superseded} {
		for i := range ms {
			t, err := m.Table(&ms[i])
			if err != nil {
				return err
			}
			if t == nil {
				continue
			}
			if d, err := t.Sum(); err != nil || d != ms[i].Digest {
				return fmt.Errorf("%w: blocks of %s do not have the file's digest", errors.Join(ErrCorrupt, err), ms[i].Path)
			}
		}
	}
	return nil
}

// unchanged reports whether member i, as this machine saw it when it was packed (or as seen says), is e.
func (m *Manifest) unchanged(i int, e *vmdir.Entry, seen map[manifest.Path]vmdir.Identity) bool {
	o := &m.Members[i]
	var was vmdir.Identity
	switch {
	case seen != nil:
		was = seen[o.Path]
	case m.local != nil:
		was = m.local.seen[i]
	}
	return !o.Torn && o.Size == e.Size && o.ModTime.Equal(e.ModTime.Time) && was == e.Identity() && e.Ino != 0
}

// memberAt returns the member that has digest number ord, and the number of the digest in its table.
func (m *Manifest) memberAt(ord int64) (*manifest.Member, int64) {
	i := sort.Search(len(m.starts), func(i int) bool { return m.starts[i] > ord }) - 1
	return &m.Members[m.members[i]], ord - m.starts[i]
}

func (m *Manifest) startOf(mem *manifest.Member) int64 {
	i := sort.Search(len(m.members), func(i int) bool { return m.Members[m.members[i]].Offset >= mem.Offset })
	return m.starts[i]
}

// sumRange returns where the sums of mem are.
func (m *Manifest) sumRange(mem *manifest.Member) (off, n int64) {
	per := m.Entry.Block / delta.FindUnit * 16
	return m.startOf(mem) * per, mem.Blocks * per
}

// appendRows appends the sums of blocks of mem from block first on, which have the digests pd in its table t: subs for each block. It
// appends nothing if they are not known.
func (m *Manifest) appendRows(dst []delta.FindSum, mem *manifest.Member, t *delta.Table, first int64, subs int, pd []delta.Digest) ([]delta.FindSum, error) {
	if m.local == nil || t == nil {
		return dst, nil
	}
	ord, _ := t.Ordinal(first) // those of blocks that are not zero stand side by side
	have := 0
	for _, d := range pd {
		if !d.IsZero() {
			have++
		}
	}
	b := make([]byte, have*subs*16)
	if off, _ := m.sumRange(mem); have > 0 {
		if err := readAt(m.local.sums, b, off+ord*int64(subs)*16); err != nil {
			return dst, fmt.Errorf("parent's manifest: %s: %w", nameFind, err)
		}
	}
	for _, d := range pd {
		for range subs {
			var s delta.FindSum
			if !d.IsZero() {
				b = b[copy(s[:], b):]
			}
			dst = append(dst, s)
		}
	}
	return dst, nil
}

// digestReader reads the digests of all members as one table.
type digestReader struct {
	m *Manifest
}

func (r *digestReader) ReadAt(p []byte, off int64) (int, error) {
	n := 0
	for n < len(p) {
		ord := (off + int64(n)) / delta.DigestSize
		if ord >= r.m.digests {
			return n, io.EOF
		}
		mem, o := r.m.memberAt(ord)
		skip := (off + int64(n)) % delta.DigestSize
		at := o*delta.DigestSize + skip
		k := min(int64(len(p)-n), mem.Blocks*delta.DigestSize-at)
		if err := readAt(r.m.blocks, p[n:n+int(k)], mem.Offset+at); err != nil {
			return n, err
		}
		n += int(k)
	}
	return n, nil
}
