package repo

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"slices"

	"tarvm/archive"
	"tarvm/archive/chain"
	"tarvm/archive/codec"
	"tarvm/formats"
	"tarvm/manifest"
)

// ExportOptions say what is exported. The zero value exports the whole chain.
type ExportOptions struct {
	Full bool              // one full archive
	Have *archive.Manifest // an entry that the receiver has: only what it lacks
	Pack archive.PackOptions
}

// ExportResult says what was written.
type ExportResult struct {
	Entry   *Entry   `json:"entry"`
	Entries []*Entry `json:"entries,omitempty"` // whose archives were written as they are
	// Made: an archive was made for the purpose, an increment of what the receiver has or a full one.
	Made  *archive.Result `json:"made,omitempty"`
	Bytes int64           `json:"bytes"`
}

// ErrHasIt: the receiver has the entry already.
var ErrHasIt = errors.New("the receiver has this state already")

// A CodecsError says that a chain cannot be written into one file as it is.
type CodecsError struct {
	Entry  *Entry
	Codecs []string
}

func (e *CodecsError) Error() string {
	return fmt.Sprintf("the chain of %s has archives of several codecs (%q), which cannot stand in one file", e.Entry, e.Codecs)
}

// Export writes an entry for another repository, or for tarvm unpack, to w: its archives one behind the other, the full
// one first, or one that is made for the purpose.
func (r *Repo) Export(ctx context.Context, f *Forest, e *Entry, w io.Writer, o ExportOptions) (*ExportResult, error) {
	rd, err := r.Read(ctx, f, e)
	if err != nil {
		return nil, err
	}
	defer rd.Close()
	res := &ExportResult{Entry: e}
	from := 0
	made := o.Full
	if o.Have != nil {
		if o.Have.ID == e.ID {
			return nil, fmt.Errorf("%s: %w", e, ErrHasIt)
		}
		i := slices.IndexFunc(rd.Path, func(p *Entry) bool { return p.ID == o.Have.ID })
		from, made = i+1, i < 0
	}
	if made {
		po := o.Pack
		if po.Formats == nil {
			po.Formats = r.o.Formats
		}
		if po.Codec == nil {
			po.Codec = codec.ByName(r.o.Codecs, e.Codec)
		}
		if !o.Full {
			po.Parent = o.Have
		}
		plan, err := archive.MakePlanOf(ctx, chain.Tree(rd.Chain, rd.Head()), chain.PackOptions(rd.Chain, rd.Head(), po))
		if err != nil {
			return nil, err
		}
		defer plan.Close()
		if res.Made, err = plan.Pack(ctx, w, nil); err != nil {
			return nil, err
		}
		res.Bytes = res.Made.Encoded
		return res, nil
	}
	res.Entries = rd.Path[from:]
	var codecs []string
	var total int64
	for i := from; i < rd.Len(); i++ {
		if c := rd.Chain.Entry(i).Codec().Name(); !slices.Contains(codecs, c) {
			codecs = append(codecs, c)
		}
		total += rd.Chain.Entry(i).Size()
	}
	if len(codecs) > 1 {
		return nil, &CodecsError{Entry: e, Codecs: codecs}
	}
	for i, b := range rd.blobs[from:] {
		src := b.(Blob) //nolint:forcetypeassert // read puts nothing else there
		// What leaves has been compared, so that damage is not handed on.
		rep, err := rd.Chain.Entry(from+i).Verify(ctx, archive.VerifyOptions{Workers: o.Pack.Workers})
		if err == nil {
			err = rep.Err()
		}
		if err != nil {
			return nil, fmt.Errorf("%s: %w", res.Entries[i], err)
		}
		n, err := io.Copy(w, contextReader{ctx, &progressReader{r: io.NewSectionReader(src, 0, src.Size()), p: archive.Progress{Phase: "export", Path: res.Entries[i].String(), Done: res.Bytes, Total: total}, f: o.Pack.Progress}})
		res.Bytes += n
		if err != nil {
			return nil, err
		}
	}
	return res, nil
}

// progressReader reports what is read.
type progressReader struct {
	r io.Reader
	p archive.Progress
	f func(archive.Progress)
}

func (r *progressReader) Read(p []byte) (int, error) {
	n, err := r.r.Read(p)
	r.p.Done += int64(n)
	if r.f != nil {
		r.f(r.p)
	}
	return n, err
}

// ImportOptions say how archives are added.
type ImportOptions struct {
	Project  string // "": as the archives say, or their names
	Workers  int
	TempDir  string
	Progress func(archive.Progress)
}

// ImportResult says what was added.
type ImportResult struct {
	Entry    *Entry   `json:"entry"`              // the last one of the file
	Added    []*Entry `json:"added,omitempty"`    // oldest first
	Present  []*Entry `json:"present,omitempty"`  // entries whose states were here already
	Refilled []*Entry `json:"refilled,omitempty"` // of these, those whose archives were not here, and are now
}

// Import adds the archives in src, one or several one behind the other, the first one first. All of them are verified with
// the chains on which they build before the first one is added. States that are here already are not added again. Errors are
// those of archive.OpenAll, *chain.MissingParentError when a parent is neither in src nor here, and those of verifying.
func (r *Repo) Import(ctx context.Context, src formats.Source, o ImportOptions) (*ImportResult, error) {
	if o.Project != "" {
		if err := CheckProject(o.Project); err != nil {
			return nil, err
		}
	}
	as, err := archive.OpenAll(src, r.o.Codecs)
	if err != nil {
		return nil, err
	}
	f, err := r.Forest(ctx)
	if err != nil {
		return nil, err
	}
	res := &ImportResult{}
	var fresh []*taken
	defer func() {
		for _, t := range fresh {
			t.Close()
		}
	}()
	off := int64(0)
	for _, a := range as {
		m := a.Manifest()
		here := io.NewSectionReader(src, off, a.Size())
		off += a.Size()
		if e := f.ByDigest(m.ID, m.Digest); e != nil {
			res.Present = append(res.Present, e)
			res.Entry = e
			if e.Missing && e.Digest == m.Digest {
				if err := r.refill(ctx, e, a, here, o); err != nil {
					return res, err
				}
				res.Refilled = append(res.Refilled, e)
			}
			continue
		}
		t, err := r.takeIn(ctx, a, here, o)
		if err != nil {
			return res, err
		}
		fresh = append(fresh, t)
	}
	if len(fresh) == 0 {
		return res, nil
	}
	if err := r.verifyImport(ctx, f, fresh, o); err != nil {
		return nil, err
	}
	for _, t := range fresh {
		t.blob.Close() // only read
		e, err := r.publish(ctx, t.saving)
		var there *presentError
		switch {
		case errors.As(err, &there):
			e = there.entry
			res.Present = append(res.Present, e)
		case err != nil:
			return res, err
		default:
			res.Added = append(res.Added, e)
		}
		res.Entry = e
	}
	return res, nil
}

// taken is an archive that was copied into the repository, and has no name yet.
type taken struct {
	*saving
	arch *archive.Archive
	blob Blob
}

// Close drops what has not been published.
func (t *taken) Close() {
	if t.blob != nil {
		t.blob.Close() // only read
	}
	t.saving.Close()
}

// copied opens an archive that was copied from a's source. What is verified is the copy: the source may be on a disk, or
// come over a network, that gives other bytes the next time.
func (r *Repo) copied(ctx context.Context, up Upload, a *archive.Archive) (*archive.Archive, Blob, error) {
	b, err := up.Open(ctx)
	if err != nil {
		return nil, nil, err
	}
	c, err := archive.Open(b, r.o.Codecs)
	if err == nil && (c.Manifest().ID != a.Manifest().ID || c.Manifest().Digest != a.Manifest().Digest) {
		err = fmt.Errorf("%w: it was another one when it was copied", archive.ErrCorrupt)
	}
	if err != nil {
		b.Close()
		return nil, nil, err
	}
	return c, b, nil
}

// refill puts the archive of an entry into its place, from which it has gone.
func (r *Repo) refill(ctx context.Context, e *Entry, a *archive.Archive, src *io.SectionReader, o ImportOptions) error {
	name, err := nameOf(e)
	if err != nil {
		return err
	}
	up, err := r.m.Create(ctx)
	if err != nil {
		return err
	}
	defer up.Abort()
	if _, err := io.Copy(up, o.reader(ctx, a, src)); err != nil {
		return err
	}
	c, b, err := r.copied(ctx, up, a)
	if err != nil {
		return err
	}
	rep, err := c.Verify(ctx, archive.VerifyOptions{Workers: o.Workers, Progress: o.Progress})
	if err == nil {
		err = rep.Err()
	}
	b.Close() // only read
	if err != nil {
		return err
	}
	unlock, err := r.lock(ctx, "import")
	if err != nil {
		return err
	}
	defer unlock()
	f, err := r.Forest(ctx)
	if err != nil {
		return err
	}
	if now := f.byNumber[e.Number]; now == nil || now.File != e.File || !now.Missing {
		return nil // it has gone, or somebody was faster
	}
	if err := up.Commit(ctx, name.archive()); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	if f, err = r.Forest(ctx); err != nil {
		return err
	}
	return r.writeIndex(ctx, f)
}

// reader reads an archive, and reports how far it is.
func (o *ImportOptions) reader(ctx context.Context, a *archive.Archive, src *io.SectionReader) io.Reader {
	return contextReader{ctx, &progressReader{r: src, p: archive.Progress{Phase: "copy", Path: a.Manifest().Entry.Name, Total: src.Size()}, f: o.Progress}}
}

// verifyImport compares every byte of new archives, and rebuilds the last of their entries.
func (r *Repo) verifyImport(ctx context.Context, f *Forest, list []*taken, o ImportOptions) error {
	var fresh []*archive.Archive
	for _, t := range list {
		fresh = append(fresh, t.arch)
		rep, err := t.arch.Verify(ctx, archive.VerifyOptions{Workers: o.Workers, Progress: o.Progress})
		if err == nil {
			err = rep.Err()
		}
		if err != nil {
			return err
		}
	}
	here := slices.Clone(fresh)
	has := func(p *manifest.Parent) bool {
		return slices.ContainsFunc(here, func(a *archive.Archive) bool { return a.Manifest().ID == p.ID })
	}
	for _, a := range fresh {
		p := a.Manifest().Entry.Parent
		if p == nil || has(p) {
			continue
		}
		e := f.ByDigest(p.ID, p.Digest)
		if e == nil {
			return &chain.MissingParentError{ID: p.ID, Digest: p.Digest, Name: p.Name, Child: a.Manifest().ID.Short()}
		}
		rd, err := r.Read(ctx, f, e)
		if err != nil {
			return err
		}
		defer rd.Close()
		for i := range rd.Len() {
			here = append(here, rd.Chain.Entry(i))
		}
	}
	built := make(map[int]bool)
	for i, a := range slices.Backward(fresh) {
		if built[i] {
			continue
		}
		c, err := chain.NewFor(a.Manifest().Digest, here)
		if err != nil {
			return err
		}
		for k := range c.Len() {
			if j := slices.Index(fresh, c.Entry(k)); j >= 0 {
				built[j] = true
			}
		}
		rep, err := chain.Verify(ctx, c, chain.VerifyOptions{Workers: o.Workers, TempDir: o.TempDir, Progress: o.Progress})
		if err == nil {
			err = rep.Err()
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// takeIn copies an archive into the repository, without a name.
func (r *Repo) takeIn(ctx context.Context, a *archive.Archive, src *io.SectionReader, o ImportOptions) (_ *taken, err error) {
	m := a.Manifest()
	s := &saving{doing: "import", snap: m.Snapshot, result: &archive.Result{Encoded: a.Size()}, project: o.Project, suffix: a.Codec().Suffixes()[0]}
	if s.project == "" {
		s.project = projectName(m.Entry.Project)
		if m.Entry.Project == "" {
			s.project = projectName(m.Entry.Name)
		}
	}
	s.there = func(f *Forest) *Entry {
		if e := f.byDigest[m.Digest]; e != nil && e.ID == m.ID {
			return e
		}
		return nil
	}
	if p := m.Entry.Parent; p != nil {
		s.parent = &Entry{ID: p.ID, Digest: p.Digest, Name: p.Name}
	}
	if err := r.start(ctx, s, o.TempDir); err != nil {
		return nil, err
	}
	t := &taken{saving: s}
	defer func() {
		if err != nil {
			t.Close()
		}
	}()
	if _, err := io.Copy(s.archive, o.reader(ctx, a, src)); err != nil {
		return nil, err
	}
	if t.arch, t.blob, err = r.copied(ctx, s.archive, a); err != nil {
		return nil, err
	}
	if err := t.arch.WriteManifest(s.side); err != nil {
		return nil, err
	}
	st, err := s.side.Stat()
	if err != nil {
		return nil, err
	}
	s.result.Manifest = st.Size()
	return t, nil
}
