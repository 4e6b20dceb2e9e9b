package chain

import (
	"cmp"
	"context"
	"errors"
	"io/fs"
	"slices"
	"sync"

	"tarvm/archive"
	"tarvm/archive/vmdir"
	"tarvm/delta"
	"tarvm/manifest"
)

// errExclude: an entry of a chain is packed whole or not at all.
var errExclude = errors.New("nothing can be left out of an entry that is packed from its chain")

// Tree returns entry k as what archive.MakePlanOf packs, so that an entry of several archives becomes one of a single
// archive (a full one, or an increment of any other entry) without the machine's directory. See [PackOptions].
//
// The archive is, to the byte, what packing a directory that holds the same files makes: what the files are to the machine is
// found out anew from their content, by the formats of the options, and not copied. Three things are the entry's own:
//
//   - Grids, because the entry's id commits to them. An increment keeps the grids of its parent; where a fresh pack without
//     that parent would choose another one (an image has grown data since that tell it better, or was made anew), it makes
//     another id, and therefore other bytes.
//   - That a file was torn when it was packed.
//   - User and group names, which a directory has from the system at hand.
//
// Every block that is read is compared with its digest; an error names the file and the entry. What an increment's new
// parent has in the same place is not read. PackOptions.Exclude is refused. There are no locks, and nothing changes; what this machine saw of files is not known, so that a later pack that
// trusts times will read them once.
func Tree(c *Chain, k int) archive.Tree {
	return &tree{c: c, k: k, e: c.entries[k]}
}

// PackOptions returns o with what entry k of c says of itself: name, note, labels, project, machine, time, whether it was
// packed live, and, unless there is a parent, the size of blocks. What o says stays. Want is set to the entry's id: an archive
// of anything else is an *archive.StateError.
func PackOptions(c *Chain, k int, o archive.PackOptions) archive.PackOptions {
	s := c.entries[k].snap
	e := &s.Entry
	o.Name = cmp.Or(o.Name, e.Name)
	o.Note = cmp.Or(o.Note, e.Note)
	o.Project = cmp.Or(o.Project, e.Project)
	if o.Labels == nil {
		o.Labels = e.Labels
	}
	if o.Machine == nil {
		o.Machine = e.Machine
	}
	if o.Time.IsZero() {
		o.Time = e.Time.Time
	}
	if o.Block == 0 && o.Parent == nil {
		o.Block = e.Block
	}
	o.Live = o.Live || e.Live
	o.Want = s.ID
	return o
}

type tree struct {
	c *Chain
	k int
	e *entry
}

func (t *tree) Name() string { return t.e.snap.Entry.Name }
func (t *tree) Close() error { return nil }

// List implements archive.Tree.
func (t *tree) List(ctx context.Context, o vmdir.WalkOptions) (*archive.Listing, error) {
	if len(o.Exclude) > 0 {
		return nil, errExclude
	}
	members := t.e.snap.Members
	l := &archive.Listing{
		Entries: make([]vmdir.Entry, len(members)),
		Grids:   o.Block == t.e.snap.Entry.Block, // on others the id is another one anyway
	}
	for i := range members {
		m := &members[i]
		if err := checkPath(m.Path); err != nil {
			return nil, t.e.fail(m, -1, err)
		}
		e := &l.Entries[i]
		e.State = m.State
		e.Digest = delta.Digest{}
		e.SetGrid(delta.Grid{})
		e.Torn = m.Torn
	}
	open := func(e *vmdir.Entry) (vmdir.Content, error) {
		f, err := t.c.Open(t.k, e.Path)
		if err != nil {
			return nil, err
		}
		return &treeFile{File: f}, nil
	}
	if err := vmdir.Recognise(ctx, l.Entries, open, o); err != nil {
		return nil, err
	}
	for i := range members {
		e := &l.Entries[i]
		if e.Type == manifest.Link {
			if j := t.e.find(e.Target, 0); j >= 0 {
				f := &l.Entries[j]
				e.Role, e.Format, e.Subformat = f.Role, f.Format, f.Subformat
			}
		}
		if l.Grids {
			e.Phase, e.Stride = members[i].Phase, members[i].Stride
		}
	}
	return l, nil
}

// Open implements archive.Tree. What it opens is read from front to back.
func (t *tree) Open(e *vmdir.Entry) (archive.TreeFile, error) {
	f, err := t.c.Open(t.k, e.Path)
	if err != nil {
		return nil, err
	}
	if f.Size() < expectMin {
		return &treeFile{f}, nil
	}
	return &treeReader{treeFile: treeFile{f}, ahead: &fileAhead{f: f}}, nil
}

// Refresh implements archive.Tree; nothing changes.
func (t *tree) Refresh(*vmdir.Entry) error { return nil }

// FS implements archive.Tree.
func (t *tree) FS() fs.FS { return &treeFS{&chainFS{c: t.c, k: t.k, e: t.e}} }

// A treeFile is a File with the holes that were recorded, and not those that its blocks let on: what is packed, and what is
// read again for the id of a disk, goes by holes as a directory has them.
type treeFile struct{ *File }

// Known implements archive.KnownFile.
func (f *treeFile) Known(g delta.Grid, _ *delta.Table) (*delta.Table, error) {
	if f.b.t == nil || f.b.t.Grid != g {
		return nil, nil
	}
	if err := f.check(); err != nil {
		return nil, err
	}
	return f.b.t, nil
}

// Extents implements archive.TreeFile.
func (f *treeFile) Extents(*vmdir.Entry) ([]delta.Extent, error) {
	if f.b.t == nil || !f.b.t.Holes {
		return nil, nil
	}
	if f.b.t.Data == nil {
		return []delta.Extent{}, nil
	}
	return f.b.t.Data, nil
}

// Changed implements archive.TreeFile.
func (f *treeFile) Changed(*vmdir.Entry) (bool, error) { return false, nil }

// Close implements io.Closer.
func (f *treeFile) Close() error { return nil }

// expectBytes is how far a treeReader looks ahead, or half of it. To pack the last of three entries, with a disk of 1.8 GB
// and 512 MB of memory, takes 61 s of CPU without this and 21 s with it; to pack its directory takes 14 s.
const expectBytes = 1 << 30

// expectMin is the size of files for which that is done. Small ones share frames with those beside them.
const expectMin = 8 << 20

// A treeReader is a treeFile that is read once, from front to back, by several goroutines that are not far from each other. It
// says what it will read, because a file's order jumps among the frames of the archives.
type treeReader struct {
	treeFile

	mu       sync.Mutex
	ahead    *fileAhead
	expected int64 // up to here it was said
}

// Known implements archive.KnownFile.
func (f *treeReader) Known(g delta.Grid, parent *delta.Table) (*delta.Table, error) {
	t, err := f.treeFile.Known(g, parent)
	if t != nil {
		f.ahead.skip = parent
	}
	return t, err
}

// ReadAt implements io.ReaderAt.
func (f *treeReader) ReadAt(p []byte, off int64) (int, error) {
	f.expect(off)
	return f.treeFile.ReadAt(p, off)
}

func (f *treeReader) expect(off int64) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.expected < f.Size() && off >= f.expected-expectBytes/2 {
		from := max(off, f.expected)
		f.expected = min(f.Size(), off+expectBytes)
		f.ahead.Expect(from, f.expected-from)
	}
}

// Close implements io.Closer.
func (f *treeReader) Close() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.ahead.Close()
	return nil
}

// DataAt takes the place of File's.
func (f *treeFile) DataAt(off int64) (start, end int64, err error) {
	size := f.Size()
	if f.b.t == nil || !f.b.t.Holes {
		return min(off, size), size, nil
	}
	runs := f.b.t.Data
	i, _ := slices.BinarySearchFunc(runs, off, func(x delta.Extent, off int64) int { return cmp.Compare(x.End(), off+1) })
	if i == len(runs) {
		return size, size, nil
	}
	return max(off, runs[i].Offset), runs[i].End(), nil
}

// treeFS is the entry's files with the holes of a treeFile.
type treeFS struct{ *chainFS }

// Open implements fs.FS.
func (t *treeFS) Open(name string) (fs.File, error) {
	f, err := t.chainFS.Open(name)
	if o, ok := f.(*openFile); ok {
		return &treeOpenFile{o, treeFile{o.file}}, err
	}
	return f, err
}

type treeOpenFile struct {
	*openFile
	tree treeFile
}

func (o *treeOpenFile) DataAt(off int64) (start, end int64, err error) { return o.tree.DataAt(off) }
