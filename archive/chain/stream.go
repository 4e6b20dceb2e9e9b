package chain

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"slices"
	"strconv"

	"tarvm/archive"
	"tarvm/archive/codec"
	"tarvm/archive/pax"
	"tarvm/archive/vmdir"
	"tarvm/delta"
	"tarvm/manifest"
)

// StreamOptions say how to restore from a stream.
type StreamOptions struct {
	RestoreOptions
	Want delta.Digest // id that the last entry must have; zero: any
}

// Names in the staging directory of a restore from a stream.
const (
	streamDir   = "stream" // files of the base, and archives that build on it
	prefixBase  = "base-"
	prefixInc   = "archive-"
	tableOfBase = "blocks"
)

const (
	entryName    = archive.Prefix + "/entry.json"
	manifestName = archive.Prefix + "/manifest.json"
	blocksName   = archive.Prefix + "/blocks"

	maxEntry    = 1 << 20
	maxManifest = 2 << 30
)

// ErrOrder: archives in a stream do not follow each other.
var ErrOrder = errors.New("archives in the wrong order")

// RestoreStream makes dir what the last archive in r says. R holds a chain, one archive behind the other, the base first,
// each in any codec. It is read once, from front to back. The base's files are written as they come, and
// get their names when they are verified; archives that build on it are kept, decoded, in the staging directory
// until the end. What dir holds is used as Restore does.
//
// R may instead hold one tar of another program: its files, directories, links and FIFOs are restored, and there are no
// digests to compare them with. Devices, and names that lead out of dir, are ErrUnsafe.
//
// Errors are those of Restore, ErrOrder, archive.ErrForeign, archive.ErrTruncated, archive.ErrCorrupt, or the source's.
func RestoreStream(ctx context.Context, r io.Reader, codecs []codec.Codec, dir string, o StreamOptions) (*RestoreResult, error) {
	s := &streamer{
		restorer: restorer{o: o.RestoreOptions, moved: make(map[int32]bool)},
		src:      &source{r: r, ctx: ctx}, want: o.Want, codecs: codecs,
	}
	in, err := codec.Open(codecs, s.src)
	if errors.Is(err, codec.ErrUnknown) {
		return nil, fmt.Errorf("%w: %w", archive.ErrForeign, err)
	}
	if err != nil {
		return nil, s.bad(err)
	}
	s.ins = append(s.ins, in)
	defer s.closeIns()
	s.in = bufio.NewReaderSize(in, 1<<20)
	if err := s.open(ctx, dir); err != nil {
		return nil, err
	}
	defer s.close()
	s.release = s.closeSpools
	defer s.closeSpools()
	res, err := s.run(ctx, s.load)
	if err != nil {
		return nil, err
	}
	res.Foreign = s.foreign
	return res, nil
}

// streamer is a restorer that gets its chain from a stream.
type streamer struct {
	restorer
	src    *source
	want   delta.Digest
	codecs []codec.Codec

	in      *bufio.Reader // decoded
	ins     []io.Closer   // of decoders, each of which reads what the one before it decoded
	dir     string        // where what comes is kept, in the place's root
	spools  []spool
	foreign bool
	skipped []error
}

// source remembers an error of a medium, its own or that of a spool, which decoders may hide.
type source struct {
	r   io.Reader
	ctx context.Context // of one RestoreStream call
	err error
}

func (s *source) Read(p []byte) (int, error) {
	if s.ctx.Err() != nil {
		s.err = context.Cause(s.ctx)
		return 0, s.err
	}
	n, err := s.r.Read(p)
	if err != nil && !errors.Is(err, io.EOF) {
		s.err = err
	}
	return n, err
}

// spool is a file for what comes. It remembers an error, which whoever reads and writes in one takes for one of
// reading.
type spool struct {
	f   *os.File
	src *source
}

func (s spool) Write(p []byte) (int, error) {
	n, err := s.f.Write(p)
	if err != nil && s.src.err == nil {
		s.src.err = err
	}
	return n, err
}

// bad says what an error of reading means.
func (s *streamer) bad(err error) error {
	switch {
	case s.src.err != nil:
		return s.src.err
	case errors.Is(err, io.ErrUnexpectedEOF), errors.Is(err, io.EOF):
		return fmt.Errorf("%w: %w", archive.ErrTruncated, io.ErrUnexpectedEOF)
	}
	return fmt.Errorf("%w: %w", archive.ErrCorrupt, err)
}

func (s *streamer) closeSpools() {
	for _, f := range s.spools {
		f.f.Close() // only read by now, or of no use
	}
	s.spools = nil
}

// load reads the stream, and stages what it holds.
func (s *streamer) load(ctx context.Context) error {
	if err := s.begin(); err != nil {
		return err
	}
	s.setPhase("read", 0)
	c := &Chain{cache: newLRU(segmentCache)}
	for more := true; more; {
		err := s.archive(ctx, c)
		if err != nil {
			if n := len(c.entries); n > 0 {
				return fmt.Errorf("archive %d of the stream: %w", n+1, err)
			}
			return err
		}
		if s.foreign {
			break
		}
		if more, err = s.between(); err != nil {
			return fmt.Errorf("behind archive %d of the stream: %w", len(c.entries), err)
		}
	}
	if err := s.of(c, c.Head()); err != nil {
		return err
	}
	if id := s.e.snap.ID; !s.want.IsZero() && id != s.want {
		return fmt.Errorf("%w: the stream ends with entry %s, wanted is %s", ErrCorrupt, label(s.e.snap), s.want.Short())
	}
	if err := s.prepare(ctx); err != nil {
		return err
	}
	if err := s.space(); err != nil {
		return err
	}
	s.warn(s.skipped)
	return s.stage(ctx)
}

func (s *streamer) begin() error {
	if s.p.fresh {
		if err := s.p.root.Mkdir(restoreDir, 0o700); err != nil {
			return err
		}
	}
	s.dir = path.Join(restoreDir, streamDir)
	return s.p.root.Mkdir(s.dir, 0o700)
}

// between skips what fills the last record of a tar, and reports whether another archive follows.
func (s *streamer) between() (bool, error) {
	for {
		b, err := s.in.Peek(pax.BlockSize)
		switch {
		case len(b) == 0 && errors.Is(err, io.EOF):
			return false, nil
		case err != nil:
			return false, s.bad(err)
		case !delta.IsZero(b):
			return true, s.decode(b)
		}
		if _, err := s.in.Discard(len(b)); err != nil {
			return false, s.bad(err)
		}
	}
}

// decode begins to decode what follows an archive without a codec, and begins with head. Where there is a codec, its end
// is seen by codec.Open.
func (s *streamer) decode(head []byte) error {
	c := codec.Detect(s.codecs, head)
	if c == nil || c.Name() == "none" {
		return nil
	}
	in, err := codec.Open(s.codecs, s.in)
	if err != nil {
		return s.bad(err)
	}
	s.ins = append(s.ins, in)
	s.in = bufio.NewReaderSize(in, 1<<20)
	return nil
}

func (s *streamer) closeIns() {
	for _, in := range slices.Backward(s.ins) {
		in.Close() // only read
	}
}

// archive reads one archive and adds its entry to c.
func (s *streamer) archive(ctx context.Context, c *Chain) error {
	base := len(c.entries) == 0
	var in io.Reader = s.in
	var whole spool // of what is no base
	var buf *bufio.Writer
	if !base {
		var err error
		if whole, err = s.create(prefixInc + strconv.Itoa(len(c.entries))); err != nil {
			return err
		}
		buf = bufio.NewWriterSize(whole, 1<<20)
		in = io.TeeReader(s.in, buf)
	}
	r := pax.NewReader(in, pax.ReaderOptions{})
	h, err := r.Next()
	if errors.Is(err, pax.ErrHeader) && base {
		return fmt.Errorf("%w: %w", archive.ErrForeign, err)
	}
	if err != nil {
		return s.bad(err)
	}
	if h.Name != entryName {
		if !base {
			return fmt.Errorf("%w: it begins with %q", archive.ErrForeign, h.Name)
		}
		s.foreign = true
		return s.tar(ctx, c, r, h)
	}
	text, err := s.text(r, h, maxEntry)
	if err != nil {
		return err
	}
	var head manifest.Entry
	if err := json.Unmarshal(text, &head); err != nil {
		return fmt.Errorf("%w: %s: %w", archive.ErrCorrupt, entryName, err)
	}
	if err := head.Check(); err != nil {
		return err
	}
	if err := follows(c, &head); err != nil {
		return err
	}
	m, err := s.members(ctx, r, whole.f)
	if err != nil {
		return err
	}
	if err := follows(c, &m.snap.Entry); err != nil {
		return err
	}
	e := &entry{snap: m.snap, table: archive.NewManifest(m.snap, m.table).Table}
	if base {
		err = s.base(e, m.files)
	} else {
		err = buf.Flush()
		e.data, e.size = whole.f, r.Offset()
		e.segment = func(g *manifest.Segment) (*delta.Segment, error) { return archive.ReadSegment(whole.f, g) }
	}
	if err != nil {
		return err
	}
	c.add(e)
	return nil
}

// follows checks that an archive belongs behind those of c.
func follows(c *Chain, e *manifest.Entry) error {
	name := e.Name
	n := len(c.entries)
	switch {
	case n == 0 && e.Parent == nil:
		return nil
	case n == 0:
		return fmt.Errorf("%w: the stream begins with increment %q, which builds on entry %s (%s); a base must come first", ErrOrder, name, e.Parent.ID.Short(), e.Parent.Name)
	case e.Parent == nil:
		return fmt.Errorf("%w: %q is a base, and follows %s", ErrOrder, name, label(c.entries[n-1].snap))
	case e.Parent.ID != c.entries[n-1].snap.ID:
		return fmt.Errorf("%w: %q builds on entry %s (%s), and follows %s", ErrOrder, name, e.Parent.ID.Short(), e.Parent.Name, label(c.entries[n-1].snap))
	}
	return nil
}

// create makes a file that is there until the end of the restore.
func (s *streamer) create(name string) (spool, error) {
	s.step("spool")
	f, err := s.p.root.OpenFile(path.Join(s.dir, name), os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return spool{}, err
	}
	sp := spool{f, s.src}
	s.spools = append(s.spools, sp)
	return sp, nil
}

// small refuses what is no small member.
func small(h *pax.Header, limit int64) error {
	if h.Stored > limit || h.Type != pax.TypeReg || h.Sparse != nil {
		return fmt.Errorf("%w: %s of %d bytes", archive.ErrCorrupt, h.Name, h.Stored)
	}
	return nil
}

// text reads a small member.
func (s *streamer) text(r *pax.Reader, h *pax.Header, limit int64) ([]byte, error) {
	if err := small(h, limit); err != nil {
		return nil, err
	}
	var b bytes.Buffer // grows with what is there, not with what the header says
	if _, err := io.Copy(&b, r); err != nil {
		return nil, s.bad(err)
	}
	return b.Bytes(), nil
}

// members are what an archive holds behind entry.json.
type members struct {
	snap  *manifest.Snapshot
	table *io.SectionReader       // of blocks
	files map[manifest.Path]int32 // of a base: those that were kept, by their last name
}

// members reads the rest of an archive. All of it goes into whole; if that is nil, it is a base, whose files are kept.
func (s *streamer) members(ctx context.Context, r *pax.Reader, whole *os.File) (*members, error) {
	m := &members{files: make(map[manifest.Path]int32)}
	for {
		if ctx.Err() != nil {
			return nil, context.Cause(ctx)
		}
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return nil, s.bad(err)
		}
		switch {
		case h.Name == manifestName:
			if err := small(h, maxManifest); err != nil {
				return nil, err
			}
			m.snap, err = manifest.Read(r)
			if errors.Is(err, manifest.ErrCorrupt) || errors.Is(err, manifest.ErrVersion) {
				return nil, err
			}
			if err != nil {
				return nil, s.bad(err)
			}
		case h.Name == blocksName && whole != nil:
			m.table = io.NewSectionReader(whole, h.Body, h.Stored)
		case h.Name == blocksName:
			f, err := s.create(tableOfBase)
			if err != nil {
				return nil, err
			}
			n, err := io.Copy(f, r)
			if err != nil {
				return nil, s.bad(err)
			}
			m.table = io.NewSectionReader(f.f, 0, n)
		case h.Type == pax.TypeReg && whole == nil && !reservedName(manifest.Path(h.Name)):
			if m.files[manifest.Path(h.Name)], err = s.keep(ctx, r, h); err != nil {
				return nil, err
			}
		}
	}
	if m.snap == nil || m.table == nil || m.table.Size() != m.snap.Blocks.Length {
		return nil, fmt.Errorf("%w: it has no manifest, or not all of it", archive.ErrCorrupt)
	}
	return m, nil
}

// base makes the files that were kept the content of e.
func (s *streamer) base(e *entry, files map[manifest.Path]int32) error {
	byMember := make(map[int32]int32)
	for i := range e.snap.Members {
		m := &e.snap.Members[i]
		if m.Stored.As != manifest.AsWhole {
			continue
		}
		n, ok := files[m.Path]
		if !ok {
			return e.corrupt(m, -1, "the archive does not hold it")
		}
		byMember[int32(i)] = n
	}
	e.local = func(mem int32) int32 { return s.targets() + byMember[mem] }
	return nil
}

// keep writes the current member to a file, and returns its number.
func (s *streamer) keep(ctx context.Context, r *pax.Reader, h *pax.Header) (int32, error) {
	name := path.Join(s.dir, prefixBase+strconv.Itoa(len(s.streamed)))
	s.step("create")
	f, err := vmdir.CreateFile(s.p.root, manifest.Path(name))
	if err != nil {
		return 0, err
	}
	err = s.write(ctx, f, r, h)
	if err := errors.Join(err, f.Close()); err != nil {
		return 0, err
	}
	s.streamed = append(s.streamed, name)
	return int32(len(s.streamed) - 1), nil
}

// write copies the runs of a member into f, and leaves holes where they are zero.
func (s *streamer) write(ctx context.Context, f *os.File, r *pax.Reader, h *pax.Header) error {
	if err := f.Truncate(h.Size); err != nil {
		return err
	}
	runs := h.Sparse
	if runs == nil {
		runs = []pax.Extent{{Length: h.Size}}
	}
	const unit = 4 << 10
	buf := make([]byte, min(256<<10, max(h.Stored, 1)))
	for _, x := range runs {
		for at, end := x.Offset, x.Offset+x.Length; at < end; {
			if ctx.Err() != nil {
				return context.Cause(ctx)
			}
			b := buf[:min(int64(len(buf)), end-at)]
			if _, err := io.ReadFull(r, b); err != nil {
				return s.bad(err)
			}
			s.progress(manifest.Path(h.Name), int64(len(b)))
			for len(b) > 0 {
				// Runs of units that are zero, and of those that are not.
				n, zero := 0, delta.IsZero(b[:min(unit, len(b))])
				for n < len(b) && delta.IsZero(b[n:min(n+unit, len(b))]) == zero {
					n = min(n+unit, len(b))
				}
				if !zero {
					s.step("write")
					if _, err := f.WriteAt(b[:n], at); err != nil {
						return err
					}
					s.written.Add(int64(n))
				}
				at += int64(n)
				b = b[n:]
			}
		}
	}
	if !s.o.NoSync && h.Stored >= 1<<20 {
		vmdir.StartWriteback(f, 0, h.Size)
	}
	return nil
}

// tar makes a base of a tar of another program, whose first member is h.
func (s *streamer) tar(ctx context.Context, c *Chain, r *pax.Reader, h *pax.Header) error {
	t := newForeign(s)
	for {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		if err := t.member(ctx, r, h); err != nil {
			return err
		}
		var err error
		h, err = r.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return s.bad(err)
		}
	}
	e, err := t.entry(ctx)
	if err != nil {
		return err
	}
	c.add(e)
	return nil
}
