package archive

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"reflect"
	"runtime"
	"slices"
	"sort"
	"sync"

	"github.com/zeebo/blake3"

	"tarvm/archive/codec"
	"tarvm/archive/pax"
	"tarvm/delta"
	"tarvm/manifest"
)

// VerifyOptions say how to verify. The zero value works.
type VerifyOptions struct {
	Quick    bool // structure only: manifest, tables, operations, end
	Workers  int
	Progress func(Progress)
}

// Damage is a part of an archive that is not what a digest says.
type Damage struct {
	Member manifest.Path `json:"member,omitempty"` // "": not a member's data
	Offset int64         `json:"offset"`           // in the member, or in the decoded archive
	Length int64         `json:"length"`
	What   string        `json:"what"`
}

func (d Damage) String() string {
	if d.Member != "" {
		return fmt.Sprintf("%s: bytes %d to %d: %s", d.Member, d.Offset, d.Offset+d.Length, d.What)
	}
	return d.What
}

// Report is the result of a verification.
type Report struct {
	ID      delta.Digest `json:"id"`
	Bytes   int64        `json:"bytes"` // decoded bytes that were compared
	Damages []Damage     `json:"damages,omitempty"`

	mu sync.Mutex // of Damages, while Verify runs
}

// add notes damage; what is adjacent and of one kind becomes one.
func (r *Report) add(d Damage) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if n := len(r.Damages); n > 0 {
		l := &r.Damages[n-1]
		if l.Member == d.Member && l.What == d.What && l.Offset+l.Length == d.Offset && d.Member != "" {
			l.Length += d.Length
			return
		}
	}
	r.Damages = append(r.Damages, d)
}

// Err returns an error that wraps ErrCorrupt when there is damage.
func (r *Report) Err() error {
	switch len(r.Damages) {
	case 0:
		return nil
	case 1:
		return fmt.Errorf("%w: %s", ErrCorrupt, r.Damages[0])
	}
	return fmt.Errorf("%w: %d damaged places, the first: %s", ErrCorrupt, len(r.Damages), r.Damages[0])
}

// Verify compares every byte of the archive with the digest that covers it. It goes on behind
// damage; its error is about what kept it from reading, not about damage.
func (a *Archive) Verify(ctx context.Context, o VerifyOptions) (*Report, error) {
	r := &Report{ID: a.man.ID}
	if err := a.man.CheckBlocks(); err != nil {
		if !errors.Is(err, ErrCorrupt) && !errors.Is(err, delta.ErrTable) {
			return r, err
		}
		r.add(Damage{What: err.Error()})
	}
	if err := a.checkTail(); err != nil {
		if !errors.Is(err, ErrCorrupt) {
			return r, err
		}
		r.add(Damage{What: err.Error()})
	}
	if err := a.checkEntry(); err != nil {
		r.add(Damage{What: fmt.Sprintf("%s: %v", nameEntry, err)})
	}
	for i := range a.man.Members {
		m := &a.man.Members[i]
		for j := range m.Stored.Segments {
			if err := ctx.Err(); err != nil {
				return r, context.Cause(ctx)
			}
			g := &m.Stored.Segments[j]
			if s, err := a.Segment(g); err != nil {
				r.add(Damage{m.Path, g.Start, g.End - g.Start, err.Error()})
			} else if s.Size != m.Size {
				r.add(Damage{m.Path, g.Start, g.End - g.Start, fmt.Sprintf("a segment says that the file has %d bytes", s.Size)})
			}
		}
	}
	if o.Quick {
		return r, nil
	}
	return r, a.verifyData(ctx, o, r)
}

// checkTail compares what follows the frames with the one form that it may have.
func (a *Archive) checkTail() error {
	enc := make([]byte, a.tail.Length)
	if err := readAt(a.src, enc, a.tail.Offset); err != nil {
		return err
	}
	var last codec.Frame
	last.Encoded, last.Decoded = a.tail.Length, tailSize
	sum := delta.Sum(enc)
	copy(last.Digest[:], sum[:])
	want := a.c.AppendTrailer(nil, append(slices.Clone(a.frames), last))
	if int64(len(want)) != a.trail.Length {
		return fmt.Errorf("%w: %d bytes behind the last frame, want %d", ErrCorrupt, a.trail.Length, len(want))
	}
	got := make([]byte, len(want))
	if err := readAt(a.src, got, a.trail.Offset); err != nil {
		return err
	}
	if !bytes.Equal(got, want) {
		return fmt.Errorf("%w: the table behind the last frame, at byte %d, does not list the frames", ErrCorrupt, a.trail.Offset)
	}
	return nil
}

// checkEntry compares entry.json with the manifest's copy.
func (a *Archive) checkEntry() error {
	t := pax.NewReader(io.NewSectionReader(a.data, 0, min(a.data.Size(), 16<<20)), pax.ReaderOptions{})
	h, err := t.Next()
	if err != nil {
		return err
	}
	if h.Name != nameEntry {
		return fmt.Errorf("the first member is %q", h.Name)
	}
	var e manifest.Entry
	if err := json.NewDecoder(t).Decode(&e); err != nil {
		return err
	}
	if !reflect.DeepEqual(e, a.man.Entry) {
		return errors.New("not what the manifest says")
	}
	return nil
}

// covered is a range of the decoded archive whose bytes have digests of their own.
type covered struct {
	span
	m      *manifest.Member
	table  *delta.Table
	runs   []delta.Extent    // whole: where the bytes belong in the file
	seg    *manifest.Segment // delta
	framed bool              // delta: it is in frames, which have digests
}

func (a *Archive) covered() ([]covered, error) {
	var cs []covered
	for _, ms := range [][]manifest.Member{a.man.Members, a.man.Superseded} {
		for i := range ms {
			m := &ms[i]
			switch m.Stored.As {
			case manifest.AsWhole:
				t, err := a.man.Table(m)
				if err != nil {
					return nil, err
				}
				runs := StoredRuns(m, t)
				var n int64
				for _, r := range runs {
					n += r.Length
				}
				if n != m.Stored.Bytes {
					return nil, fmt.Errorf("%w: %s: data runs of %d bytes, %d stored", ErrCorrupt, m.Path, n, m.Stored.Bytes)
				}
				cs = append(cs, covered{span: span{m.Stored.Body, n}, m: m, table: t, runs: runs})
			case manifest.AsDelta:
				for j := range m.Stored.Segments {
					g := &m.Stored.Segments[j]
					cs = append(cs, covered{span: span{g.Body + g.Head, g.Data}, m: m, seg: g, framed: a.c.Name() != "none"})
				}
			}
		}
	}
	sort.SliceStable(cs, func(i, j int) bool { return cs[i].Offset < cs[j].Offset })
	var end int64
	for _, c := range cs {
		if c.Offset < end || c.Length > a.loc.FramesDecoded-c.Offset {
			return nil, fmt.Errorf("%w: %s: data at %d overlaps, or is behind the end", ErrCorrupt, c.m.Path, c.Offset)
		}
		end = c.Offset + c.Length
	}
	return cs, nil
}

// verifyData reads all frames in order and compares all that they hold.
func (a *Archive) verifyData(ctx context.Context, o VerifyOptions, r *Report) error {
	cs, err := a.covered()
	if err != nil {
		r.add(Damage{What: err.Error()})
		return nil
	}
	workers := o.Workers
	if workers <= 0 {
		workers = runtime.GOMAXPROCS(0)
	}
	rd := &damageReader{ctx: ctx, a: a, end: a.loc.FramesDecoded, report: r}
	defer rd.close()
	structure := blake3.New()
	broken := false
	gap := func(to int64) error {
		buf := make([]byte, 64<<10)
		for rd.pos < to {
			b := buf[:min(int64(len(buf)), to-rd.pos)]
			bad, err := rd.read(b)
			if err != nil {
				return err
			}
			broken = broken || bad
			_, _ = structure.Write(b)
		}
		return nil
	}
	err = ordered(ctx, workers, 2*workers+2, func(ctx context.Context, emit func(func() ([]Damage, error)) error) error {
		for i := range cs {
			if err := gap(cs[i].Offset); err != nil {
				return err
			}
			if err := cs[i].read(rd, emit); err != nil {
				return err
			}
			if o.Progress != nil {
				o.Progress(Progress{Phase: "verify", Path: string(cs[i].m.Path), Done: rd.pos, Total: rd.end})
			}
		}
		return gap(rd.end)
	}, func(ds []Damage) error {
		for _, d := range ds {
			r.add(d)
		}
		return nil
	})
	if err != nil {
		return err
	}
	r.Bytes = rd.end
	if delta.Digest(structure.Sum(nil)) != a.loc.Structure && !broken {
		r.add(Damage{What: "headers, operations or the manifest do not have their digest"})
	}
	return nil
}

// read reads the bytes that c covers, and emits what compares them.
func (c *covered) read(rd *damageReader, emit func(func() ([]Damage, error)) error) error {
	if c.seg != nil {
		b := make([]byte, c.Length)
		bad, err := rd.read(b)
		if err != nil {
			return err
		}
		return emit(func() ([]Damage, error) {
			// Without a digest of its own it is under those of its frames, which are compared as they are read.
			framed := c.framed && c.seg.Digest.IsZero()
			if !bad && (len(b) == 0 || framed || delta.Sum(b) == c.seg.Digest) {
				return nil, nil
			}
			return []Damage{{c.m.Path, c.seg.Start, c.seg.End - c.seg.Start, "a segment's data does not have its digest"}}, nil
		})
	}
	g := delta.Grid{Block: delta.MaxBlock}
	if c.table != nil {
		g = c.table.Grid
	}
	runs := c.runs
	for at := int64(0); at < c.m.Size; {
		if c.table == nil {
			g.Block = c.m.Size
		} else if len(runs) == 0 || runs[0].Offset > at+64*g.Block {
			// Holes by the terabyte need no memory: their blocks must be zero in the table.
			to := c.m.Size
			if len(runs) > 0 {
				to, _ = g.Range(g.Index(runs[0].Offset), c.m.Size)
			}
			if err := c.hole(at, to, emit); err != nil {
				return err
			}
			at = to
			continue
		}
		to := min(at+max(chunkSize, g.Block), c.m.Size)
		if to < c.m.Size {
			to, _ = g.Range(g.Index(to), c.m.Size)
		}
		b := make([]byte, to-at)
		bad := false
		for len(runs) > 0 && runs[0].Offset < to {
			n := min(runs[0].Length, to-runs[0].Offset)
			d, err := rd.read(b[runs[0].Offset-at:][:n])
			if err != nil {
				return err
			}
			bad = bad || d
			if n < runs[0].Length {
				runs = slices.Concat([]delta.Extent{{Offset: runs[0].Offset + n, Length: runs[0].Length - n}}, runs[1:])
			} else {
				runs = runs[1:]
			}
		}
		from := at
		if err := emit(func() ([]Damage, error) { return c.compare(g, from, b) }); err != nil {
			return err
		}
		at = to
	}
	return nil
}

func (c *covered) hole(at, to int64, emit func(func() ([]Damage, error)) error) error {
	g := c.table.Grid
	return emit(func() ([]Damage, error) {
		ds := make([]delta.Digest, 4096)
		var out []Damage
		for i, end := g.Index(at), g.Index(to-1)+1; i < end; i += int64(len(ds)) {
			ds = ds[:min(int64(len(ds)), end-i)]
			if err := c.table.Read(i, ds); err != nil {
				return nil, err
			}
			for j := range ds {
				if !ds[j].IsZero() {
					off, n := g.Range(i+int64(j), c.m.Size)
					out = append(out, Damage{c.m.Path, off, n, "a hole where the manifest has data"})
				}
			}
		}
		return out, nil
	})
}

// compare compares the blocks of b, which is at off of the file, with the manifest.
func (c *covered) compare(g delta.Grid, off int64, b []byte) ([]Damage, error) {
	const what = "data does not have its digest"
	if c.table == nil {
		if delta.Sum(b) != c.m.Digest {
			return []Damage{{c.m.Path, 0, c.m.Size, what}}, nil
		}
		return nil, nil
	}
	end := off + int64(len(b))
	first := g.Index(off)
	want := make([]delta.Digest, g.Index(end-1)-first+1)
	if err := c.table.Read(first, want); err != nil {
		return nil, err
	}
	var out []Damage
	for i := range want {
		o, n := g.Range(first+int64(i), c.m.Size)
		p := b[o-off:][:n]
		var d delta.Digest
		if !delta.IsZero(p) {
			d = delta.Sum(p)
		}
		if d != want[i] {
			out = append(out, Damage{c.m.Path, o, n, what})
		}
	}
	return out, nil
}

// damageReader reads the decoded archive from front to back. What is in a damaged frame reads as
// zeros.
type damageReader struct {
	ctx    context.Context
	a      *Archive
	r      io.ReadCloser
	pos    int64
	end    int64
	badTo  int64 // up to here nothing can be read
	report *Report
}

func (d *damageReader) close() {
	if d.r != nil {
		d.r.Close()
		d.r = nil
	}
}

// read fills b and reports whether part of it is damaged. Its error ends everything.
func (d *damageReader) read(b []byte) (bad bool, err error) {
	for len(b) > 0 {
		if d.pos < d.badTo {
			n := min(int64(len(b)), d.badTo-d.pos)
			clear(b[:n])
			b = b[n:]
			d.pos += n
			bad = true
			continue
		}
		if d.r == nil {
			d.r = d.a.data.Section(d.ctx, d.pos, d.end-d.pos)
		}
		n, err := d.r.Read(b)
		b = b[n:]
		d.pos += int64(n)
		if err == nil || len(b) == 0 {
			continue
		}
		if d.ctx.Err() != nil {
			return bad, context.Cause(d.ctx)
		}
		var fe *codec.FrameError
		if !errors.As(err, &fe) {
			return bad, fmt.Errorf("decoded byte %d: %w", d.pos, err)
		}
		f := d.a.data.FrameAt(d.pos)
		to := d.pos
		for d.a.data.FrameAt(to) == f && to < d.end {
			to = d.a.frameEnd(f)
		}
		d.report.add(Damage{Offset: d.pos, Length: to - d.pos, What: fe.Error()})
		d.badTo = to
		d.close()
	}
	return bad, nil
}

// frameEnd returns the decoded offset behind frame i.
func (a *Archive) frameEnd(i int) int64 {
	var n int64
	for _, f := range a.frames[:i+1] {
		n += f.Decoded
	}
	return n
}
