package repo

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"time"

	"tarvm/archive"
	"tarvm/archive/codec"
	"tarvm/archive/vmdir"
	"tarvm/delta"
	"tarvm/manifest"
)

// A Record says what was last saved from a directory or restored into it, and how its files were seen then. It is a hint:
// what it says counts only as far as the directory bears it out. The user keeps it, outside of the directory.
type Record struct {
	Tarvm      string       `json:"tarvm"` // "area"
	Version    int          `json:"version"`
	Repository string       `json:"repository"` // its id
	Dir        string       `json:"dir"`
	ID         delta.Digest `json:"id"` // of the state
	Digest     delta.Digest `json:"digest"`
	Number     int          `json:"number"`
	Time       time.Time    `json:"time"`
	// Seen are the identities of the files that were the entry's, without those that were so new that a later write could
	// not be told by them.
	Seen map[manifest.Path]vmdir.Identity `json:"seen"`
}

// seenTick is how coarse the time stamps of file systems may be that have fractions of seconds: the tick of slow kernels, with
// a margin.
const seenTick = 40 * time.Millisecond

// record looks at dir, of which is known that it holds e.
func (r *Repo) record(ctx context.Context, e *Entry, m *manifest.Snapshot, dir string) (*Record, error) {
	rec := &Record{
		Tarvm: "area", Version: 1, Repository: r.info.ID, Dir: dir, ID: e.ID, Digest: e.Digest, Number: e.Number, Time: time.Now().UTC(),
		Seen: make(map[manifest.Path]vmdir.Identity),
	}
	entries, err := walk(ctx, dir)
	if err != nil {
		return nil, err
	}
	// A write within the tick of the last one cannot be told: wait until that is over.
	now, wait := time.Now(), time.Duration(0)
	for i := range entries {
		age := now.Sub(time.Unix(0, entries[i].CTime))
		tick := seenTick
		if entries[i].CTime%1e9 == 0 {
			tick = 2 * time.Second
		}
		if age >= 0 && age < tick {
			wait = max(wait, tick-age)
		}
	}
	if wait > 0 {
		select {
		case <-time.After(wait):
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		}
		if entries, err = walk(ctx, dir); err != nil {
			return nil, err
		}
		now = time.Now()
	}
	index := m.Index()
	for i := range entries {
		x := &entries[i]
		j, ok := index[x.Path]
		if !ok || x.Type != manifest.File || x.Skipped != "" || x.Ino == 0 || now.Sub(time.Unix(0, x.CTime)) < seenTick {
			continue
		}
		if o := &m.Members[j]; o.Type == x.Type && o.Size == x.Size && o.ModTime.Equal(x.ModTime.Time) && !o.Torn {
			rec.Seen[x.Path] = x.Identity()
		}
	}
	return rec, nil
}

func walk(ctx context.Context, dir string) ([]vmdir.Entry, error) {
	root, err := os.OpenRoot(dir)
	if err != nil {
		return nil, err
	}
	defer root.Close()
	entries, err := vmdir.Walk(ctx, root, vmdir.WalkOptions{})
	if err != nil {
		return nil, fmt.Errorf("%s: %w", dir, err)
	}
	return entries, nil
}

// of returns the entry of the record, nil when it is of another repository or has gone.
func (rec *Record) of(f *Forest, dir string) *Entry {
	if rec == nil || rec.Repository != f.Repository || rec.Dir != dir {
		return nil
	}
	return f.ByDigest(rec.ID, rec.Digest)
}

// A Scan is what a directory holds, by its digests.
type Scan struct {
	*archive.Manifest
	Seen map[manifest.Path]vmdir.Identity
	file *os.File
	name string // as of vmdir.Nameless
}

// Close releases the scan.
func (s *Scan) Close() error {
	if s.file == nil {
		return nil
	}
	err := s.file.Close()
	if s.name != "" {
		err = errors.Join(err, os.Remove(s.name))
	}
	return err
}

// ScanOptions say how to scan. The zero value reads everything.
type ScanOptions struct {
	Parent  *archive.Manifest // whose grids are used; nil: none
	Block   int64             // bytes; 0: the parent's, or delta.DefaultBlock
	Exclude []string
	// TrustTimes with Seen leaves out files that are as Parent has them.
	TrustTimes bool
	Seen       map[manifest.Path]vmdir.Identity
	Live       bool
	Workers    int
	TempDir    string
	Progress   func(archive.Progress)
}

// ScanDir reads what a directory holds, as packing would, without making an archive.
func (r *Repo) ScanDir(ctx context.Context, dir string, o ScanOptions) (*Scan, error) {
	none := codec.ByName(r.o.Codecs, "none")
	if none == nil {
		return nil, errors.New("scan: no codec \"none\"")
	}
	before, err := walk(ctx, dir)
	if err != nil {
		return nil, err
	}
	plan, err := archive.MakePlan(ctx, dir, archive.PackOptions{
		Codec: none, Parent: o.Parent, Block: o.Block, Formats: r.o.Formats, Exclude: o.Exclude, TrustTimes: o.TrustTimes && o.Seen != nil, Seen: o.Seen, Live: o.Live,
		Workers: o.Workers, TempDir: o.TempDir, Progress: func(p archive.Progress) {
			if o.Progress != nil {
				p.Phase = "scan"
				o.Progress(p)
			}
		},
	})
	if err != nil {
		return nil, err
	}
	defer plan.Close()
	f, name, err := vmdir.Nameless(o.TempDir, ".tarvm-scan-*")
	if err != nil {
		return nil, err
	}
	s := &Scan{file: f, name: name, Seen: make(map[manifest.Path]vmdir.Identity)}
	res, err := plan.Pack(ctx, io.Discard, f)
	if err == nil {
		s.Manifest, err = archive.OpenManifest(io.NewSectionReader(f, 0, res.Manifest))
	}
	if err != nil {
		s.Close()
		return nil, fmt.Errorf("%s: %w", dir, err)
	}
	// A file that was written to within the same tick in which it was looked at first cannot be told from one that was not.
	now := time.Now()
	for i := range before {
		if x := &before[i]; x.Type == manifest.File && x.Ino != 0 && now.Sub(time.Unix(0, x.CTime)) > seenTick {
			s.Seen[x.Path] = x.Identity()
		}
	}
	return s, nil
}

// State is what a directory holds, compared with what is saved.
type State struct {
	Dir   string `json:"dir"`
	Empty bool   `json:"empty,omitempty"` // there is nothing in it, or it is not there
	// Absent: there is no such directory.
	Absent bool   `json:"absent,omitempty"`
	Entry  *Entry `json:"entry,omitempty"` // the state that the directory has; nil: it is not saved
	Base   *Entry `json:"base,omitempty"`  // what was there last, as far as is known
	// Quick: the files were compared with Base by size, times and inode alone, and Changed are those that differ.
	Quick   bool            `json:"quick,omitempty"`
	Changed []manifest.Path `json:"changed,omitempty"`

	Scan *Scan `json:"-"` // nil when Quick or Empty; to be closed
}

// Close releases the scan, if there is one.
func (s *State) Close() error {
	if s.Scan == nil {
		return nil
	}
	return s.Scan.Close()
}

// StateOptions say how to find out what a directory holds.
type StateOptions struct {
	Record *Record // nil: nothing is known
	// TrustTimes believes that a file is what Record says when size, times and inode are what they were.
	TrustTimes bool
	// Quick does not read any file, and says less: when something seems to have changed, Entry is nil.
	Quick    bool
	Exclude  []string
	Live     bool
	Workers  int
	TempDir  string
	Progress func(archive.Progress)
}

// State finds out what a directory holds. The result must be closed.
func (r *Repo) State(ctx context.Context, f *Forest, dir string, o StateOptions) (*State, error) {
	s := &State{Dir: dir}
	list, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) || err == nil && len(list) == 0 {
		s.Empty, s.Absent = true, err != nil
		return s, nil
	}
	if err != nil {
		return nil, err
	}
	s.Base = o.Record.of(f, dir)
	var base *archive.Manifest
	if s.Base != nil {
		m, c, err := r.ManifestOf(ctx, s.Base)
		switch {
		case err == nil:
			defer c.Close()
			base = m
		case ctx.Err() != nil:
			return nil, context.Cause(ctx)
		default:
			s.Base = nil // what cannot be read does not help
		}
	}
	if o.Quick {
		s.Quick = true
		if base == nil {
			return s, nil
		}
		return s, r.quick(ctx, s, base, o.Record)
	}
	so := ScanOptions{Parent: base, Exclude: o.Exclude, Live: o.Live, Workers: o.Workers, TempDir: o.TempDir, Progress: o.Progress}
	if base == nil {
		so.Block = f.block()
	}
	if base != nil && o.TrustTimes {
		so.TrustTimes, so.Seen = true, o.Record.Seen
	}
	if s.Scan, err = r.ScanDir(ctx, dir, so); err != nil {
		return nil, err
	}
	prefer := delta.Digest{}
	if s.Base != nil {
		prefer = s.Base.Digest
	}
	s.Entry = f.ByDigest(s.Scan.ID, prefer)
	if s.Entry == nil && base != nil && sameButFolders(base.Snapshot, s.Scan.Snapshot) {
		s.Entry = s.Base
	}
	return s, nil
}

// quick compares the directory with the record.
func (r *Repo) quick(ctx context.Context, s *State, base *archive.Manifest, rec *Record) error {
	now, err := walk(ctx, s.Dir)
	if err != nil {
		return err
	}
	index := base.Index()
	for i := range now {
		x := &now[i]
		if x.Skipped != "" {
			continue
		}
		j, ok := index[x.Path]
		if ok {
			m := &base.Members[j]
			delete(index, x.Path)
			same := m.Type == x.Type && m.Size == x.Size && m.Target == x.Target && (m.Mode == x.Mode || m.Type == manifest.Symlink)
			if m.Type == manifest.File {
				id, known := rec.Seen[x.Path]
				same = same && known && id == x.Identity() && m.ModTime.Equal(x.ModTime.Time)
			}
			if same {
				continue
			}
		}
		s.Changed = append(s.Changed, x.Path)
	}
	for i := range base.Members {
		if p := base.Members[i].Path; index[p] == i {
			if _, gone := index[p]; gone {
				s.Changed = append(s.Changed, p)
			}
		}
	}
	if len(s.Changed) == 0 {
		s.Entry = s.Base
	}
	return nil
}

// block is the size of blocks with which what nothing is known of has the best chance to be recognised: that of the newest
// entry; 0 when there is none.
func (f *Forest) block() int64 {
	if e := f.Latest(""); e != nil {
		return e.Block
	}
	return 0
}

// ManifestOf opens the manifest of an entry, which must be closed.
func (r *Repo) ManifestOf(ctx context.Context, e *Entry) (*archive.Manifest, io.Closer, error) {
	for try := 0; ; try++ {
		m, c, err := r.manifestOf(ctx, e)
		if !errors.Is(err, fs.ErrNotExist) || try == readTries {
			return m, c, err
		}
		// A writer may have put another archive of the same state into its place meanwhile.
		f, ferr := r.Forest(ctx)
		if ferr != nil {
			return nil, nil, err
		}
		now := f.own(e)
		switch {
		case now == e:
			return nil, nil, &removedError{e}
		case now.File == e.File:
			return nil, nil, err
		}
		e = now
	}
}

func (r *Repo) manifestOf(ctx context.Context, e *Entry) (*archive.Manifest, io.Closer, error) {
	f, err := nameOf(e)
	if err != nil {
		return nil, nil, err
	}
	m, c, err := r.manifest(ctx, f)
	if err != nil {
		return nil, nil, err
	}
	if m.Digest != e.Digest || m.ID != e.ID {
		c.Close()
		if m, c, err = r.manifestWithin(ctx, f); err == nil {
			if m.Digest == e.Digest && m.ID == e.ID {
				return m, c, nil
			}
			c.Close()
		}
		return nil, nil, fmt.Errorf("%s: %s: %w: it is the manifest of another entry than %s", r.m, f.manifest(), ErrCorrupt, e)
	}
	return m, c, nil
}
