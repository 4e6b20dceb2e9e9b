package repo

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"

	"tarvm/archive"
	"tarvm/archive/chain"
	"tarvm/delta"
)

// At says where an archive is that is not in the repository; FORMAT.md section 3. Either Place or URL is given.
type At struct {
	Place  string       `json:"place,omitempty"` // a name of Places
	File   string       `json:"file,omitempty"`  // its path there, slash separated
	URL    string       `json:"url,omitempty"`   // of a catalogue's file
	Name   string       `json:"name,omitempty"`  // of the catalogue's machine, with @ and the version
	Size   int64        `json:"size"`            // bytes
	SHA    string       `json:"sha256,omitempty"`
	ID     delta.Digest `json:"id"`     // of the entry
	Digest delta.Digest `json:"digest"` // of its manifest.json
	// Removed: without a manifest this is no damage, but what is left of an entry that was removed.
	Removed bool `json:"removed,omitempty"`
}

func (a *At) String() string {
	switch {
	case a.Name != "":
		return a.Name
	case a.URL != "":
		return a.URL
	}
	return a.Place
}

// A Place is a directory that holds archives of a repository: another disk, or one that is not always there.
type Place struct {
	Name string `json:"name"`
	Dir  string `json:"dir"`
	Note string `json:"note,omitempty"` // where the disk or tape is when it is not there
}

type placesFile struct {
	Tarvm   string  `json:"tarvm"` // "places"
	Version int     `json:"version"`
	Places  []Place `json:"places"`
}

// Places returns the places that archives were moved to.
func (r *Repo) Places(ctx context.Context) ([]Place, error) {
	b, err := readFile(ctx, r.m, filePlaces, 1<<20)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	var f placesFile
	if err := json.Unmarshal(b, &f); err != nil || f.Tarvm != "places" {
		return nil, fmt.Errorf("%s: %w: %s: %w", r.m, ErrCorrupt, filePlaces, errors.Join(err, errors.New("is no list of places")))
	}
	if f.Version > 1 {
		return nil, fmt.Errorf("%s: %w: %s is of version %d", r.m, ErrVersion, filePlaces, f.Version)
	}
	return f.Places, nil
}

// SetPlace adds a place, or says where one is now.
func (r *Repo) SetPlace(ctx context.Context, p Place) error {
	if err := CheckProject(p.Name); err != nil {
		return fmt.Errorf("place: %w", err)
	}
	unlock, err := r.lock(ctx, "relocate")
	if err != nil {
		return err
	}
	defer unlock()
	return r.setPlace(ctx, p)
}

func (r *Repo) setPlace(ctx context.Context, p Place) error {
	ps, err := r.Places(ctx)
	if err != nil {
		return err
	}
	if i := slices.IndexFunc(ps, func(x Place) bool { return x.Name == p.Name }); i >= 0 {
		if ps[i] == p {
			return nil
		}
		ps[i] = p
	} else {
		ps = append(ps, p)
	}
	b, err := json.MarshalIndent(placesFile{"places", 1, ps}, "", "  ")
	if err != nil {
		return err
	}
	return r.m.Put(ctx, filePlaces, append(b, '\n'))
}

// An OfflineError says that an archive is wanted which cannot be reached.
type OfflineError struct {
	Entry  *Entry
	At     *At    // nil: nobody knows where it is
	Place  *Place // of At
	Looked []string
}

func (e *OfflineError) Error() string {
	s := fmt.Sprintf("the archive of %s is not in the repository", e.Entry)
	switch {
	case e.Place != nil:
		s += fmt.Sprintf(": it is at %s, %s", e.Place.Name, filepath.Join(e.Place.Dir, filepath.FromSlash(e.At.File)))
		if e.Place.Note != "" {
			s += " (" + e.Place.Note + ")"
		}
		s += ", where it cannot be found now"
	case e.At != nil:
		s += ": it is at " + e.At.String()
	default:
		s += ", and nothing says where it is"
	}
	return s
}

// opened is an archive that was opened, with what must be closed.
type opened struct {
	arch *archive.Archive
	blob Blob
}

// open opens the archive of e wherever it is, and makes sure that it is e's.
func (r *Repo) open(ctx context.Context, e *Entry) (*opened, error) {
	f, err := nameOf(e)
	if err != nil {
		return nil, err
	}
	b, err := r.m.Open(ctx, f.archive())
	where := r.m.String() + ": " + f.archive()
	if errors.Is(err, fs.ErrNotExist) {
		b, where, err = r.openElsewhere(ctx, e, f)
	}
	if err != nil {
		return nil, err
	}
	a, err := archive.Open(b, r.o.Codecs)
	if err == nil && (a.Manifest().ID != e.ID || a.Manifest().Digest != e.Digest) {
		err = fmt.Errorf("%w: it is another archive (of state %s, made as %q) than that of %s", ErrCorrupt, a.Manifest().ID.Short(), a.Manifest().Entry.Name, e)
	}
	if err != nil {
		b.Close()
		return nil, fmt.Errorf("%s: %w", where, err)
	}
	return &opened{a, b}, nil
}

// openNow is open for an entry of another moment: a writer may have put another archive of the same state into its place
// meanwhile, or moved it. It also returns the entry as it is now. One that has gone is ErrNoEntry.
func (r *Repo) openNow(ctx context.Context, e *Entry) (*opened, *Entry, error) {
	for try := 0; ; try++ {
		o, err := r.open(ctx, e)
		var off *OfflineError
		if err == nil || try == readTries || ctx.Err() != nil || !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, ErrCorrupt) && !errors.As(err, &off) {
			return o, e, err
		}
		f, ferr := r.Forest(ctx)
		if ferr != nil {
			return nil, e, err
		}
		now := f.own(e)
		switch {
		case now == e:
			return nil, e, &removedError{e}
		case now.File == e.File && now.Missing == e.Missing && (now.At == e.At || now.At != nil && e.At != nil && *now.At == *e.At):
			return nil, e, err // nothing has changed
		}
		e = now
	}
}

// openElsewhere opens the archive of e at its place, or in a directory that the user named.
func (r *Repo) openElsewhere(ctx context.Context, e *Entry, f fileName) (Blob, string, error) {
	off := &OfflineError{Entry: e, At: e.At}
	var paths []string
	base := path.Base(f.archive())
	if e.At != nil && e.At.Place != "" {
		places, err := r.Places(ctx)
		if err != nil {
			return nil, "", err
		}
		if i := slices.IndexFunc(places, func(p Place) bool { return p.Name == e.At.Place }); i >= 0 && fs.ValidPath(e.At.File) {
			off.Place = &places[i]
			paths = append(paths, filepath.Join(places[i].Dir, filepath.FromSlash(e.At.File)))
			base = path.Base(e.At.File)
		}
	}
	for _, dir := range r.o.Search {
		paths = append(paths, filepath.Join(dir, base), filepath.Join(dir, dirEntries, f.project, base))
	}
	for _, p := range paths {
		b, err := openFile(p)
		if err == nil {
			return b, p, nil
		}
		if !errors.Is(err, fs.ErrNotExist) {
			return nil, "", err
		}
		off.Looked = append(off.Looked, p)
	}
	if e.At != nil && e.At.URL != "" && r.o.Fetch != nil {
		if err := r.fetch(ctx, e, f); err != nil {
			return nil, "", err
		}
		b, err := r.m.Open(ctx, f.archive())
		return b, r.m.String() + ": " + f.archive(), err
	}
	return nil, "", off
}

// fetch brings an archive of a catalogue into the repository.
func (r *Repo) fetch(ctx context.Context, e *Entry, f fileName) error {
	up, err := r.m.Create(ctx)
	if err != nil {
		return err
	}
	defer up.Abort()
	if err := r.o.Fetch(ctx, e.At, up); err != nil {
		return fmt.Errorf("%s of %s: %w", e.At, e, err)
	}
	b, err := up.Open(ctx)
	if err != nil {
		return err
	}
	a, err := archive.Open(b, r.o.Codecs)
	if err == nil && (a.Manifest().ID != e.ID || a.Manifest().Digest != e.Digest) {
		err = fmt.Errorf("%w: it is the archive of another entry", ErrCorrupt)
	}
	b.Close()
	if err != nil {
		return fmt.Errorf("%s of %s: %w", e.At, e, err)
	}
	unlock, err := r.lock(ctx, "get")
	if err != nil {
		return err
	}
	defer unlock()
	if err := up.Commit(ctx, f.archive()); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	return nil
}

// A Reading is a chain of archives of a repository that are open.
type Reading struct {
	*chain.Chain
	Path  []*Entry // the full one first
	blobs []io.Closer
}

// Close closes the archives.
func (r *Reading) Close() error {
	var errs []error
	for _, b := range r.blobs {
		errs = append(errs, b.Close())
	}
	return errors.Join(errs...)
}

// readTries is how often a reader looks again, when writers replace what it reads.
const readTries = 5

// Read opens the chain of e for reading. Errors are *BrokenError, *OfflineError, or the archives'.
func (r *Repo) Read(ctx context.Context, f *Forest, e *Entry) (*Reading, error) {
	for try := 0; ; try++ {
		rd, err := r.read(ctx, f, e)
		if err == nil || try == readTries || ctx.Err() != nil {
			return rd, err
		}
		var off *OfflineError
		if !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, ErrCorrupt) && !errors.As(err, &off) {
			return nil, err
		}
		// A writer may have put another archive of the same state into its place meanwhile.
		now, ferr := r.Forest(ctx)
		if ferr != nil {
			return nil, err
		}
		same := now.own(e)
		if same == e {
			return nil, &removedError{e}
		}
		f, e = now, same
	}
}

func (r *Repo) read(ctx context.Context, f *Forest, e *Entry) (_ *Reading, err error) {
	rd := &Reading{}
	defer func() {
		if err != nil {
			rd.Close()
		}
	}()
	if rd.Path, err = f.Path(e); err != nil {
		return nil, err
	}
	var as []*archive.Archive
	for _, p := range rd.Path {
		o, err := r.open(ctx, p)
		if err != nil {
			return nil, err
		}
		rd.blobs = append(rd.blobs, o.blob)
		as = append(as, o.arch)
	}
	rd.Chain, err = chain.NewFor(e.Digest, as)
	return rd, err
}

// copyFile copies a file within the medium.
func (r *Repo) copyFile(ctx context.Context, from, to string) error {
	b, err := r.m.Open(ctx, from)
	if err != nil {
		return err
	}
	defer b.Close()
	return r.upload(ctx, io.NewSectionReader(b, 0, b.Size()), to)
}

// upload makes a file of what src holds.
func (r *Repo) upload(ctx context.Context, src io.Reader, name string) error {
	up, err := r.m.Create(ctx)
	if err != nil {
		return err
	}
	defer up.Abort()
	if _, err := io.Copy(up, contextReader{ctx, src}); err != nil {
		return err
	}
	return up.Commit(ctx, name)
}

// contextReader ends when its context does.
type contextReader struct {
	ctx context.Context
	r   io.Reader
}

func (c contextReader) Read(p []byte) (int, error) {
	if err := context.Cause(c.ctx); err != nil {
		return 0, err
	}
	return c.r.Read(p)
}

// RelocateOptions say where archives go.
type RelocateOptions struct {
	Place    Place // Dir is made if need be; Name "": back into the repository
	Progress func(archive.Progress)
}

// Relocate moves the archives of entries to another directory, or back into the repository. An archive is copied, verified
// and durable there before it goes here. It returns the entries that were moved; of those that are there already, none.
func (r *Repo) Relocate(ctx context.Context, f *Forest, es []*Entry, o RelocateOptions) ([]*Entry, error) {
	var there Medium
	if o.Place.Name != "" {
		if err := CheckProject(o.Place.Name); err != nil {
			return nil, fmt.Errorf("place: %w", err)
		}
		abs, err := filepath.Abs(o.Place.Dir)
		if err != nil {
			return nil, err
		}
		o.Place.Dir = abs
		if d, ok := r.m.(*Dir); ok && strings.HasPrefix(abs+string(filepath.Separator), d.root+string(filepath.Separator)) {
			return nil, fmt.Errorf("%s: is in the repository itself", o.Place.Dir)
		}
		if err := os.MkdirAll(abs, 0o777); err != nil {
			return nil, err
		}
		if there, err = NewDir(abs); err != nil {
			return nil, err
		}
		if err := r.SetPlace(ctx, o.Place); err != nil {
			return nil, err
		}
	}
	var moved []*Entry
	for _, e := range es {
		now, err := r.relocate(ctx, e, there, o)
		if err != nil {
			return moved, err
		}
		if now != nil {
			moved = append(moved, now)
		}
	}
	if len(moved) == 0 {
		return nil, nil
	}
	unlock, err := r.lock(ctx, "relocate")
	if err != nil {
		return moved, err
	}
	defer unlock()
	now, old, err := r.writable(ctx)
	if err != nil {
		return moved, err
	}
	// What the index says of these may be of another place.
	for _, e := range moved {
		f, err := nameOf(e)
		x := now.byNumber[e.Number]
		if err != nil || x == nil || x.File != e.File {
			continue
		}
		if x.At, err = r.readAt(ctx, &present{name: f}); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return moved, err
		}
		if x.Missing && x.At != nil {
			x.Size = x.At.Size
		}
	}
	if err := r.removeOld(ctx, old); err != nil {
		return moved, err
	}
	return moved, r.writeIndex(ctx, now)
}

// relocate returns the entry that was moved, nil when it is there already.
func (r *Repo) relocate(ctx context.Context, e *Entry, there Medium, o RelocateOptions) (*Entry, error) {
	isThere := func() bool {
		return there == nil && !e.Missing || there != nil && e.Missing && e.At != nil && e.At.Place == o.Place.Name
	}
	if isThere() {
		return nil, nil
	}
	from, e, err := r.openNow(ctx, e)
	if err != nil {
		return nil, err
	}
	defer from.blob.Close()
	if isThere() {
		return nil, nil
	}
	f, err := nameOf(e)
	if err != nil {
		return nil, err
	}
	if o.Progress != nil {
		o.Progress(archive.Progress{Phase: "copy", Path: e.String(), Total: from.blob.Size()})
	}
	rep, err := from.arch.Verify(ctx, archive.VerifyOptions{Progress: o.Progress})
	if err == nil {
		err = rep.Err()
	}
	if err != nil {
		return nil, fmt.Errorf("%s: %w", e, err)
	}
	src := io.NewSectionReader(from.blob, 0, from.blob.Size())
	dst := r.m
	if there != nil {
		dst = there
	}
	up, err := dst.Create(ctx)
	if err != nil {
		return nil, err
	}
	defer up.Abort()
	if _, err := io.Copy(up, contextReader{ctx, src}); err != nil {
		return nil, fmt.Errorf("%s: %w", e, err)
	}
	unlock, err := r.lock(ctx, "relocate")
	if err != nil {
		return nil, err
	}
	defer unlock()
	now, _, err := r.writable(ctx)
	if err != nil {
		return nil, err
	}
	if x := now.byNumber[e.Number]; x == nil || x.Digest != e.Digest || x.File != e.File {
		return nil, fmt.Errorf("%w: %s was removed or replaced meanwhile", ErrNoEntry, e)
	}
	if err := up.Commit(ctx, f.archive()); err != nil && !errors.Is(err, fs.ErrExist) {
		return nil, err
	}
	if err := sameFile(ctx, dst, f.archive(), from.blob); err != nil {
		return nil, err
	}
	if there == nil {
		if err := r.m.Remove(ctx, f.at()); err != nil || e.At == nil {
			return e, err
		}
		r.removeThere(ctx, e.At) // it was read from elsewhere when it cannot be reached
		return e, nil
	}
	if err := r.keepManifest(ctx, f, from.arch); err != nil {
		return nil, err
	}
	at := &At{Place: o.Place.Name, File: f.archive(), Size: from.blob.Size(), ID: e.ID, Digest: e.Digest}
	if err := r.putAt(ctx, f, at); err != nil {
		return nil, err
	}
	return e, r.m.Remove(ctx, f.archive())
}

// sameFile reads a copy again and compares it.
func sameFile(ctx context.Context, m Medium, name string, with Blob) error {
	b, err := m.Open(ctx, name)
	if err != nil {
		return err
	}
	defer b.Close()
	if b.Size() != with.Size() {
		return fmt.Errorf("%s: %s: %w: %d bytes, should be %d", m, name, ErrCorrupt, b.Size(), with.Size())
	}
	var p, q [256 << 10]byte
	for off := int64(0); off < b.Size(); off += int64(len(p)) {
		if err := context.Cause(ctx); err != nil {
			return err
		}
		n := min(int64(len(p)), b.Size()-off)
		if _, err := b.ReadAt(p[:n], off); err != nil && !errors.Is(err, io.EOF) {
			return fmt.Errorf("%s: %s: %w", m, name, err)
		}
		if _, err := with.ReadAt(q[:n], off); err != nil && !errors.Is(err, io.EOF) {
			return err
		}
		if p != q {
			return fmt.Errorf("%s: %s: %w: the copy differs between bytes %d and %d", m, name, ErrCorrupt, off, off+n)
		}
	}
	return nil
}

// keepManifest makes sure that the manifest stands beside the archive.
func (r *Repo) keepManifest(ctx context.Context, f fileName, a *archive.Archive) error {
	b, err := r.m.Open(ctx, f.manifest())
	if err == nil {
		m, merr := archive.OpenManifest(b)
		b.Close()
		if merr == nil && m.Digest == a.Manifest().Digest {
			return nil
		}
		if err := r.m.Remove(ctx, f.manifest()); err != nil {
			return err
		}
	} else if !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	up, err := r.m.Create(ctx)
	if err != nil {
		return err
	}
	defer up.Abort()
	if err := a.WriteManifest(up); err != nil {
		return err
	}
	return up.Commit(ctx, f.manifest())
}

// Evict removes the archive of an entry that a catalogue has, and keeps its manifest: a restore fetches it again. The
// archive must be the file that at says, with its size and SHA-256.
func (r *Repo) Evict(ctx context.Context, e *Entry, at At) error {
	o, e, err := r.openNow(ctx, e)
	if err != nil {
		return err
	}
	defer o.blob.Close()
	f, err := nameOf(e)
	if err != nil {
		return err
	}
	if at.URL == "" || at.ID != e.ID || at.Digest != e.Digest {
		return fmt.Errorf("%s: what the catalogue has is another archive", e)
	}
	h := sha256.New()
	if _, err := io.Copy(h, contextReader{ctx, io.NewSectionReader(o.blob, 0, o.blob.Size())}); err != nil {
		return fmt.Errorf("%s: %w", e, err)
	}
	if at.Size != o.blob.Size() || at.SHA != hex.EncodeToString(h.Sum(nil)) {
		return fmt.Errorf("%s: the file that the catalogue has is another one", e)
	}
	unlock, err := r.lock(ctx, "get")
	if err != nil {
		return err
	}
	defer unlock()
	if err := r.keepManifest(ctx, f, o.arch); err != nil {
		return err
	}
	now, _, err := r.writable(ctx)
	if err != nil {
		return err
	}
	if x := now.byNumber[e.Number]; x == nil || x.Digest != e.Digest || x.File != e.File {
		return fmt.Errorf("%w: %s was removed or replaced meanwhile", ErrNoEntry, e)
	}
	if err := r.putAt(ctx, f, &at); err != nil {
		return err
	}
	if err := r.m.Remove(ctx, f.archive()); err != nil {
		return err
	}
	if now, _, err = r.writable(ctx); err != nil {
		return err
	}
	return r.writeIndex(ctx, now)
}

// putAt says where the archive of an entry is.
func (r *Repo) putAt(ctx context.Context, f fileName, at *At) error {
	b, err := json.Marshal(at)
	if err != nil {
		return err
	}
	return r.m.Put(ctx, f.at(), append(b, '\n'))
}

// Where says for people where the archive of an entry is.
func (r *Repo) Where(ctx context.Context, e *Entry) string {
	switch {
	case !e.Missing:
		if d, ok := r.m.(*Dir); ok {
			return d.Path(e.File)
		}
		return r.m.String() + ": " + e.File
	case e.At == nil:
		return "missing"
	case e.At.Place == "":
		return e.At.String()
	}
	places, err := r.Places(ctx)
	if err != nil {
		return e.At.String()
	}
	for _, p := range places {
		if p.Name != e.At.Place {
			continue
		}
		path := filepath.Join(p.Dir, filepath.FromSlash(e.At.File))
		if _, err := os.Stat(path); err != nil {
			path += ", which is not there now"
			if p.Note != "" {
				path += ": " + p.Note
			}
		}
		return path
	}
	return e.At.String()
}

// Archive opens the archive of an entry alone; what is returned beside it must be closed.
func (r *Repo) Archive(ctx context.Context, e *Entry) (*archive.Archive, io.Closer, error) {
	o, _, err := r.openNow(ctx, e)
	if err != nil {
		return nil, nil, err
	}
	return o.arch, o.blob, nil
}
