package chain

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"maps"
	"path"
	"slices"
	"strings"

	"tarvm/archive"
	"tarvm/archive/pax"
	"tarvm/archive/vmdir"
	"tarvm/delta"
	"tarvm/manifest"
)

// foreignBlock is the block size of an entry that is made from another program's tar.
const foreignBlock = 64 << 10

// A foreign makes an entry from the members of another program's tar. The last member of a name counts, as
// it does for tar.
type foreign struct {
	s       *streamer
	members map[manifest.Path]manifest.Member
	files   map[manifest.Path]int32 // by first name
}

func newForeign(s *streamer) *foreign {
	return &foreign{s: s, members: make(map[manifest.Path]manifest.Member), files: make(map[manifest.Path]int32)}
}

// cleanName returns the shortest form of a tar member's name.
func cleanName(name string) (manifest.Path, error) {
	if name == "." || name == "./" {
		return ".", nil
	}
	for strings.HasPrefix(name, "./") {
		name = strings.TrimLeft(name[2:], "/")
	}
	if err := pax.CheckName(name); err != nil {
		return "", fmt.Errorf("%w: %w", ErrUnsafe, err)
	}
	return manifest.Path(path.Clean(name)), nil
}

// member takes the current member of r.
func (t *foreign) member(ctx context.Context, r *pax.Reader, h *pax.Header) error {
	p, err := cleanName(h.Name)
	if err != nil {
		return err
	}
	if reservedName(p) {
		if h.Type != pax.TypeDir {
			t.s.skipped = append(t.s.skipped, fmt.Errorf("%s: not restored: the name is tarvm's own", p))
		}
		return nil
	}
	m := manifest.Member{State: manifest.State{
		Path: p, Mode: manifest.Mode(h.Mode & 0o7777), UID: h.UID, GID: h.GID, User: h.Uname, Group: h.Gname,
		ModTime: manifest.Time{Time: h.ModTime.UTC()},
	}}
	for k, v := range h.Xattrs {
		if m.Xattrs == nil {
			m.Xattrs = make(map[string][]byte)
		}
		m.Xattrs[k] = []byte(v)
	}
	switch h.Type {
	case pax.TypeReg:
		m.Type, m.Size = manifest.File, h.Size
		if t.files[p], err = t.s.keep(ctx, r, h); err != nil {
			return err
		}
	case pax.TypeDir:
		m.Type = manifest.Dir
	case pax.TypeSymlink:
		m.Type, m.Target = manifest.Symlink, manifest.Path(h.Linkname)
	case pax.TypeFifo:
		m.Type = manifest.Fifo
	case pax.TypeLink:
		m.Type = manifest.Link
		if m.Target, err = cleanName(h.Linkname); err != nil {
			return err
		}
	case pax.TypeChar, pax.TypeBlock:
		return fmt.Errorf("%s: %w: a device", p, ErrUnsafe)
	case 'V': // GNU: the volume's label
		return nil
	default:
		return fmt.Errorf("%s: %w: member of type %q", p, pax.ErrUnsupported, byte(h.Type))
	}
	t.members[p] = m
	return nil
}

// entry returns what the members make up.
func (t *foreign) entry(ctx context.Context) (*entry, error) {
	if len(t.members) == 0 {
		return nil, fmt.Errorf("%w: a tar without members", archive.ErrForeign)
	}
	if err := t.links(); err != nil {
		return nil, err
	}
	t.parents()
	snap := &manifest.Snapshot{Entry: manifest.Entry{
		Tarvm: "entry", Version: manifest.Version, Kind: manifest.Full, Block: foreignBlock, Digest: manifest.DigestName,
	}}
	var table bytes.Buffer
	for _, p := range slices.Sorted(maps.Keys(t.members)) {
		m := t.members[p]
		if m.Type == manifest.File {
			if err := t.digest(ctx, &m, &table); err != nil {
				return nil, err
			}
		}
		snap.Members = append(snap.Members, m)
	}
	snap.Blocks.Length = int64(table.Len())
	snap.ID = manifest.ComputeID(foreignBlock, snap.Members)
	e := &entry{snap: snap}
	e.table = archive.NewManifest(snap, io.NewSectionReader(bytes.NewReader(table.Bytes()), 0, int64(table.Len()))).Table
	return e, t.s.base(e, t.files)
}

// links makes the first of a file's names in the entry's order the file, and the others links to it.
func (t *foreign) links() error {
	names := make(map[manifest.Path][]manifest.Path)
	for p, m := range t.members {
		if m.Type != manifest.Link {
			continue
		}
		first := m.Target
		for range len(t.members) {
			f, ok := t.members[first]
			if !ok || f.Type != manifest.File && f.Type != manifest.Fifo && f.Type != manifest.Link {
				return fmt.Errorf("%s: %w: a link to %q, which is no file of the archive", p, ErrUnsafe, m.Target)
			}
			if f.Type != manifest.Link {
				names[first] = append(names[first], p)
				break
			}
			first = f.Target
		}
	}
	for first, others := range names {
		all := append(others, first)
		slices.Sort(all)
		m := t.members[first]
		file, isFile := t.files[first]
		for i, p := range all {
			n := m
			n.Path = p
			if i > 0 {
				n.Type, n.Size, n.Target, n.Xattrs = manifest.Link, 0, all[0], nil
			}
			t.members[p] = n
		}
		if isFile {
			t.files[all[0]] = file
		}
	}
	// A circle of links has no first name.
	for p, m := range t.members {
		if f := t.members[m.Target]; m.Type == manifest.Link && f.Type == manifest.Link {
			return fmt.Errorf("%s: %w: links in a circle", p, ErrUnsafe)
		}
	}
	return nil
}

// parents adds directories that have no member of their own.
func (t *foreign) parents() {
	for _, p := range slices.Sorted(maps.Keys(t.members)) {
		m := t.members[p]
		for up := manifest.Path(path.Dir(string(p))); p != "."; up = manifest.Path(path.Dir(string(up))) {
			if _, ok := t.members[up]; ok {
				break
			}
			if up == "." {
				break
			}
			t.members[up] = manifest.Member{State: manifest.State{
				Path: up, Type: manifest.Dir, Mode: 0o755, UID: m.UID, GID: m.GID, User: m.User, Group: m.Group, ModTime: m.ModTime,
			}}
		}
	}
}

// digest computes what a manifest says of a file.
func (t *foreign) digest(ctx context.Context, m *manifest.Member, table *bytes.Buffer) (err error) {
	f, err := openFileAt(t.s.p.root, manifest.Path(t.s.streamed[t.files[m.Path]]))
	if err != nil {
		return err
	}
	defer f.Close()
	m.Stored = manifest.Stored{As: manifest.AsWhole, Bytes: m.Size}
	g := delta.Grid{Block: foreignBlock}
	buf := make([]byte, min(m.Size, foreignBlock))
	if m.Size <= foreignBlock {
		if err := readFull(f, buf, 0); err != nil {
			return err
		}
		m.Digest = delta.Sum(buf)
		return nil
	}
	data, err := vmdir.Extents(f, m.Size)
	if err != nil {
		return err
	}
	m.Offset = int64(table.Len())
	w := delta.NewSectionWriter(table, g, m.Size)
	next := int64(0) // block
	holes := data != nil
	runs := data
	if !holes {
		runs = []delta.Extent{{Length: m.Size}}
	}
	for _, x := range runs {
		if x.Length == 0 {
			continue
		}
		first := max(next, g.Index(x.Offset))
		w.AddZeros(first - next)
		for next = first; next <= g.Index(x.End()-1); next++ {
			if ctx.Err() != nil {
				return context.Cause(ctx)
			}
			off, n := g.Range(next, m.Size)
			if err := readFull(f, buf[:n], off); err != nil {
				return err
			}
			var d [1]delta.Digest
			if !delta.IsZero(buf[:n]) {
				d[0] = delta.Sum(buf[:n])
			}
			w.Add(d[:])
		}
	}
	w.AddZeros(g.Count(m.Size) - next)
	m.Digest, m.Blocks, m.Length, err = w.Close(holes, data)
	return err
}
