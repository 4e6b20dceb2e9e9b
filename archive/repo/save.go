package repo

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"tarvm/archive"
	"tarvm/archive/codec"
	"tarvm/archive/vmdir"
	"tarvm/delta"
	"tarvm/manifest"
)

// SaveOptions say how to save. The zero value finds the parent by itself.
type SaveOptions struct {
	Pack    archive.PackOptions // Parent, Machine, Project, Differential and Seen are filled in; Codec: zstd by default
	Project string              // "": the parent's, or one named like the directory
	Kind    Kind                // "": incremental when there is a parent
	Parent  *Entry              // nil: found
	Record  *Record             // what was last in the directory
	Force   bool                // make an entry even when nothing has changed
	// NoMemory leaves out files with memory or a saved state.
	NoMemory bool

	// Identify returns what the configuration in the directory says of the machine; nil: nothing.
	Identify func(ctx context.Context, dir string) (*manifest.Machine, error)
}

// Reason is why a parent was chosen.
type Reason string

// The reasons.
const (
	ReasonGiven   Reason = "given"     // by the user
	ReasonDisk    Reason = "disk id"   // the disks are those of the entry
	ReasonLast    Reason = "last here" // it was saved from or restored into the directory last
	ReasonUUID    Reason = "uuid"      // the machine's
	ReasonSimilar Reason = "similar"   // it has most blocks of the machine
	ReasonFull    Reason = "full"      // asked for
	ReasonNone    Reason = "none"      // nothing here is like it
)

// SaveResult says what was saved.
type SaveResult struct {
	Entry  *Entry          `json:"entry"`            // the new one, or, Unchanged, the one that the directory holds
	Parent *Entry          `json:"parent,omitempty"` // nil: a full one
	Reason Reason          `json:"reason"`
	Shared float64         `json:"shared"`          // part of the machine's data that is the parent's, from 0 to 1
	Tried  []*Entry        `json:"tried,omitempty"` // parents that turned out to be the wrong ones
	Pack   *archive.Result `json:"pack,omitempty"`

	Unchanged bool    `json:"unchanged,omitempty"`
	Record    *Record `json:"-"`
}

const (
	// A guessed parent that has less of the machine's data is compared with others.
	sharedEnough = 0.5
	// Below, a machine is another one: what operating systems have in common is more than that in a clone, and
	// less between two installations.
	sharedForeign = 0.05
)

// choice is a parent with the reason for it.
type choice struct {
	parent *Entry
	reason Reason
	shared float64
}

// Save adds what a directory holds as a new entry. When nothing has changed since an entry, there is none.
func (r *Repo) Save(ctx context.Context, dir string, o SaveOptions) (*SaveResult, error) {
	abs, err := filepath.Abs(dir)
	if err != nil {
		return nil, err
	}
	// What is in the repository, such as a directory that is made for an import, may be saved.
	var overlap *OverlapError
	if err := r.Apart(abs); err != nil && (!errors.As(err, &overlap) || contains(overlap.Dir, overlap.Repository)) {
		return nil, err
	}
	if o.Project != "" {
		if err := CheckProject(o.Project); err != nil {
			return nil, err
		}
	}
	if o.Pack.Codec == nil {
		if o.Pack.Codec = codec.ByName(r.o.Codecs, "zstd"); o.Pack.Codec == nil {
			return nil, errors.New("save: no codec")
		}
	}
	if o.Pack.Formats == nil {
		o.Pack.Formats = r.o.Formats
	}
	if o.Pack.Name == "" {
		o.Pack.Name = filepath.Base(abs)
	}
	if o.Pack.Time.IsZero() {
		o.Pack.Time = time.Now().UTC().Truncate(time.Second)
	}
	if o.Identify != nil && o.Pack.Machine == nil {
		if o.Pack.Machine, err = o.Identify(ctx, dir); err != nil {
			return nil, err
		}
	}
	if o.NoMemory {
		if err := o.leaveMemory(ctx, abs); err != nil {
			return nil, err
		}
	}
	const tries = 3 // parents can go while an archive is made, and their removal is rare
	for try := 1; ; try++ {
		res, err := r.save(ctx, abs, o)
		var gone *goneError
		if err == nil || try == tries || !errors.As(err, &gone) {
			return res, err
		}
	}
}

// A goneError says that a parent was removed while an archive was made that builds on it.
type goneError struct{ entry *Entry }

func (e *goneError) Error() string {
	return fmt.Sprintf("%s was removed while an entry was saved that builds on it", e.entry)
}

func (r *Repo) save(ctx context.Context, dir string, o SaveOptions) (*SaveResult, error) {
	f, err := r.Forest(ctx)
	if err != nil {
		return nil, err
	}
	c, err := r.guess(f, dir, &o)
	if err != nil {
		return nil, err
	}
	res := &SaveResult{}
	for {
		s, err := r.pack(ctx, f, dir, c, &o)
		if err != nil {
			return nil, err
		}
		next, same, err := r.judge(ctx, f, s, c, &o, len(res.Tried) > 0)
		switch {
		case err != nil:
		case same != nil:
			s.Close()
			res.Entry, res.Unchanged, res.Reason, res.Parent = same, true, c.reason, f.Parent(same)
			res.Record, err = r.record(ctx, same, s.snap, dir)
			return res, err
		case next != nil:
			s.Close()
			if c.parent != nil {
				res.Tried = append(res.Tried, c.parent)
			}
			c = next
			continue
		default:
			res.Parent, res.Reason, res.Shared, res.Pack = s.parent, c.reason, c.shared, s.result
			res.Entry, err = r.publish(ctx, s)
		}
		s.Close()
		var there *presentError
		if errors.As(err, &there) {
			res.Entry, res.Parent, res.Pack, res.Unchanged, err = there.entry, there.parent, nil, true, nil
		}
		if err != nil {
			return nil, err
		}
		res.Record, err = r.record(ctx, res.Entry, s.snap, dir)
		return res, err
	}
}

// guess chooses a parent by what can be known before the directory is read.
func (r *Repo) guess(f *Forest, dir string, o *SaveOptions) (*choice, error) {
	if o.Kind == Full {
		return &choice{reason: ReasonFull}, nil
	}
	if o.Parent != nil {
		return &choice{parent: o.Parent, reason: ReasonGiven}, nil
	}
	uuid := ""
	if o.Pack.Machine != nil {
		uuid = o.Pack.Machine.UUID
	}
	usable := func(e *Entry) bool { return o.Pack.Block == 0 || o.Pack.Block == e.Block }
	if e := o.Record.of(f, dir); e != nil && usable(e) && (uuid == "" || e.Machine == nil || e.Machine.UUID == "" || e.Machine.UUID == uuid) {
		return &choice{parent: e, reason: ReasonLast}, nil
	}
	if uuid != "" {
		for i := len(f.Entries) - 1; i >= 0; i-- {
			if e := f.Entries[i]; e.Machine != nil && e.Machine.UUID == uuid && usable(e) {
				return &choice{parent: e, reason: ReasonUUID}, nil
			}
		}
	}
	if o.Kind == Differential || o.Kind == Incremental {
		return &choice{reason: ReasonNone}, nil
	}
	return &choice{reason: ReasonNone}, nil
}

// saving is an archive that has no name yet.
type saving struct {
	parent   *Entry // that the archive builds on
	snap     *manifest.Snapshot
	result   *archive.Result
	archive  Upload
	side     *os.File // the manifest: it is read before it has a name
	sideName string   // to be removed at the end, where an open file cannot be
	suffix   string
	project  string
	doing    string
	// there returns the entry because of which there is to be none of the archive; nil: there is always to be one.
	there func(*Forest) *Entry
}

// A presentError says that another writer has added the same meanwhile.
type presentError struct{ entry, parent *Entry }

func (e *presentError) Error() string { return fmt.Sprintf("%s is that state already", e.entry) }

// Close drops what has not been published.
func (s *saving) Close() {
	s.archive.Abort()
	s.side.Close()
	if s.sideName != "" {
		os.Remove(s.sideName)
	}
}

// manifest reads the archive's manifest.
func (s *saving) manifest() (*archive.Manifest, error) {
	return archive.OpenManifest(io.NewSectionReader(s.side, 0, s.result.Manifest))
}

// base returns the parent that an archive of the wanted kind has, when e was chosen.
func base(f *Forest, e *Entry, kind Kind) (*Entry, error) {
	if e == nil || kind != Differential {
		return e, nil
	}
	path, err := f.Path(e)
	if err != nil {
		return nil, err
	}
	return path[0], nil
}

// pack makes an archive of the directory.
func (r *Repo) pack(ctx context.Context, f *Forest, dir string, c *choice, o *SaveOptions) (_ *saving, err error) {
	s := &saving{doing: "save"}
	if !o.Force {
		s.there = func(f *Forest) *Entry { return o.same(f, s) }
	}
	if s.parent, err = base(f, c.parent, o.Kind); err != nil {
		return nil, err
	}
	po := o.Pack
	if po.Block == 0 && s.parent == nil && c.reason == ReasonNone {
		po.Block = f.block() // what it may be like has that
	}
	po.Differential = s.parent != nil && o.Kind == Differential
	if s.parent != nil {
		m, closer, err := r.ManifestOf(ctx, s.parent)
		if errors.Is(err, fs.ErrNotExist) {
			return nil, &goneError{s.parent}
		}
		if err != nil {
			return nil, err
		}
		defer closer.Close()
		po.Parent, s.project = m, s.parent.Project
		if po.Seen == nil && o.Record != nil && o.Record.ID == s.parent.ID {
			po.Seen = o.Record.Seen
		} else {
			po.TrustTimes = false // nothing is known of how the files were seen
		}
	} else {
		po.TrustTimes = false
	}
	if o.Project != "" {
		s.project = o.Project
	}
	if s.project == "" {
		s.project = projectName(filepath.Base(dir))
	}
	po.Project = s.project
	plan, err := archive.MakePlan(ctx, dir, po)
	if err != nil {
		return nil, err
	}
	defer plan.Close()
	return s, r.write(ctx, s, plan, po.TempDir)
}

// write packs a plan into files without names. After an error nothing is left.
func (r *Repo) write(ctx context.Context, s *saving, plan *archive.Plan, temp string) (err error) {
	if err := r.start(ctx, s, temp); err != nil {
		return err
	}
	if s.result, err = plan.Pack(ctx, s.archive, s.side); err != nil {
		s.Close()
		return err
	}
	s.snap = s.result.Snapshot
	suffix := ".tar"
	if c := codec.ByName(r.o.Codecs, s.snap.Entry.Codec); c != nil && len(c.Suffixes()) > 0 {
		suffix = c.Suffixes()[0]
	}
	s.suffix = suffix
	return nil
}

// start makes the files of s.
func (r *Repo) start(ctx context.Context, s *saving, temp string) (err error) {
	if s.archive, err = r.m.Create(ctx); err != nil {
		return err
	}
	if s.side, s.sideName, err = vmdir.Nameless(temp, ".tarvm-manifest-*"); err != nil {
		s.archive.Abort()
	}
	return err
}

// judge looks at an archive that was made by a guess. It returns a better parent, or the entry that the directory holds
// unchanged.
func (r *Repo) judge(ctx context.Context, f *Forest, s *saving, c *choice, o *SaveOptions, again bool) (next *choice, same *Entry, err error) {
	if !o.Force {
		if e := o.same(f, s); e != nil {
			return nil, e, nil
		}
		if s.parent != nil && o.Kind != Full {
			m, closer, err := r.ManifestOf(ctx, s.parent)
			if errors.Is(err, fs.ErrNotExist) {
				return nil, nil, &goneError{s.parent}
			}
			if err != nil {
				return nil, nil, err
			}
			idle := sameButFolders(m.Snapshot, s.snap)
			closer.Close()
			if idle {
				return nil, s.parent, nil
			}
		}
	}
	st := &s.snap.Stats
	kept := 0.0 // part of the parent's data that is there still
	if s.parent != nil {
		if data := st.Bytes - st.Zero; data > 0 {
			c.shared = max(0, 1-float64(st.Stored)/float64(data))
		}
		if had := s.parent.Stats.Bytes - s.parent.Stats.Zero; had > 0 {
			kept = float64(st.Bytes-st.Zero-st.Stored-st.Self) / float64(had)
		}
	}
	if again || c.reason == ReasonGiven || c.reason == ReasonFull {
		return nil, nil, nil
	}
	// The disks' own identity is the best there is.
	if id := DiskID(s.snap); !id.IsZero() && (c.parent == nil || c.parent.DiskID != id) {
		for i := len(f.Entries) - 1; i >= 0; i-- {
			if e := f.Entries[i]; e.DiskID == id && e.Block == s.snap.Entry.Block {
				return &choice{parent: e, reason: ReasonDisk}, nil, nil
			}
		}
	}
	if c.shared >= sharedEnough || len(f.Entries) == 0 {
		return nil, nil, nil
	}
	m, err := s.manifest()
	if err != nil {
		return nil, nil, err
	}
	e, part, err := r.similar(ctx, f, m)
	switch {
	case errors.Is(err, errNoBlocks):
		return nil, nil, nil // nothing says that it is another machine
	case err != nil:
		return nil, nil, err
	case e != nil && e != c.parent && part > c.shared+0.1 && part >= sharedForeign:
		return &choice{parent: e, reason: ReasonSimilar, shared: part}, nil, nil
	// What got large disks has all that it had.
	case c.parent != nil && c.shared < sharedForeign && part < sharedForeign && kept < sharedEnough:
		return &choice{reason: ReasonNone}, nil, nil
	}
	return nil, nil, nil
}

// same returns the entry that is what was packed, nil when there is none.
func (o *SaveOptions) same(f *Forest, s *saving) *Entry {
	var prefer delta.Digest
	if s.parent != nil {
		prefer = s.parent.Digest
	}
	if e := f.ByDigest(s.snap.ID, prefer); e != nil && (o.Kind != Full || e.Kind == Full) {
		return e
	}
	return nil
}

// sameButFolders reports whether b differs from a in the modification times of folders alone: a machine that was only looked
// at has had lock files for a while.
func sameButFolders(a, b *manifest.Snapshot) bool {
	if len(a.Members) != len(b.Members) || a.Entry.Block != b.Entry.Block {
		return false
	}
	for i := range a.Members {
		x, y := a.Members[i].State, b.Members[i].State
		if x.Type == manifest.Dir && y.Type == manifest.Dir {
			y.ModTime = x.ModTime
		}
		if string(x.AppendState(nil)) != string(y.AppendState(nil)) {
			return false
		}
	}
	return true
}

// publish gives an archive its number.
func (r *Repo) publish(ctx context.Context, s *saving) (*Entry, error) {
	unlock, err := r.lock(ctx, s.doing)
	if err != nil {
		return nil, err
	}
	defer unlock()
	if err := r.m.Sweep(ctx); err != nil {
		return nil, err
	}
	f, old, err := r.writable(ctx)
	if err != nil {
		return nil, err
	}
	if s.there != nil {
		if e := s.there(f); e != nil {
			return nil, &presentError{e, f.Parent(e)}
		}
	}
	if s.parent != nil && f.ByDigest(s.parent.ID, s.parent.Digest) == nil {
		return nil, &goneError{s.parent}
	}
	if err := r.clash(f, s.project); err != nil {
		return nil, err
	}
	return r.add(ctx, f, old, s, newFileName(s.project, f.next, 0, s.snap.Entry.Name, s.suffix))
}

// add gives an archive a name, under the lock, and returns its entry.
func (r *Repo) add(ctx context.Context, f *Forest, old []*present, s *saving, name fileName) (*Entry, error) {
	if err := s.archive.Commit(ctx, name.archive()); err != nil {
		return nil, err
	}
	// From here on the entry is there, whatever else fails.
	if err := r.upload(ctx, io.NewSectionReader(s.side, 0, s.result.Manifest), name.manifest()); err != nil {
		return nil, fmt.Errorf("entry %d was saved, but not all that belongs to it: %w", name.number, err)
	}
	e := entryOf(archive.NewManifest(s.snap, nil))
	e.Number, e.Project, e.File, e.Size = name.number, name.project, name.archive(), s.result.Encoded
	f.Entries = append(f.Entries, e)
	f.next = max(f.next, name.number+1)
	f.link()
	if err := errors.Join(r.removeOld(ctx, old), r.writeIndex(ctx, f)); err != nil {
		return nil, fmt.Errorf("entry %d was saved, but not all that belongs to it: %w", name.number, err)
	}
	return e, nil
}

// clash refuses a project that some file systems cannot tell from another.
func (r *Repo) clash(f *Forest, project string) error {
	for _, p := range f.Projects() {
		if p != project && strings.EqualFold(p, project) {
			return fmt.Errorf("project %q: there is %q, which some file systems cannot tell from it", project, p)
		}
	}
	return nil
}

// leaveMemory excludes what has memory, as far as files are told by their content.
func (o *SaveOptions) leaveMemory(ctx context.Context, dir string) error {
	root, err := os.OpenRoot(dir)
	if err != nil {
		return err
	}
	defer root.Close()
	entries, err := vmdir.Walk(ctx, root, vmdir.WalkOptions{Formats: o.Pack.Formats, Exclude: o.Pack.Exclude})
	if err != nil {
		return fmt.Errorf("%s: %w", dir, err)
	}
	quote := strings.NewReplacer("*", "\\*", "?", "\\?", "[", "\\[", "\\", "\\\\")
	o.Pack.Exclude = slices.Clone(o.Pack.Exclude)
	for i := range entries {
		if e := &entries[i]; e.Role == manifest.RoleMemory && e.Type != manifest.Dir && !onlyDevices(e, entries) {
			o.Pack.Exclude = append(o.Pack.Exclude, "/"+quote.Replace(string(e.Path)))
		}
	}
	return nil
}

// onlyDevices reports whether e is the state of VMware's devices for a snapshot that has no memory, which the product needs
// to go back to it: a small .vmsn without a .vmem.
func onlyDevices(e *vmdir.Entry, entries []vmdir.Entry) bool {
	const most = 16 << 20
	stem, ok := strings.CutSuffix(string(e.Path), ".vmsn")
	return ok && e.Size < most && !slices.ContainsFunc(entries, func(x vmdir.Entry) bool { return string(x.Path) == stem+".vmem" })
}
