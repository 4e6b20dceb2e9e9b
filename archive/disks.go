package archive

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path"

	"tarvm/delta"
	"tarvm/formats"
	"tarvm/formats/layers"
	"tarvm/manifest"
)

// maxConfig is how much of a configuration is searched for the name of a disk.
const maxConfig = 4 << 20

// findDisks says of each disk on which it builds, and which are active: those on which no other builds; of
// several such on one base, those that a configuration names, if it names any.
func (p *Plan) findDisks(ctx context.Context) error {
	byPath := make(map[string]int)
	var disks []int
	for i := range p.entries {
		e := &p.entries[i]
		if e.Type != manifest.File || e.Role != manifest.RoleDisk || e.Subformat == "extent" || !fs.ValidPath(string(e.Path)) {
			continue
		}
		byPath[string(e.Path)] = i
		disks = append(disks, i)
	}
	if len(disks) == 0 {
		return nil
	}
	dir := layers.NewDir(p.tree.FS(), "")
	defer dir.Close()         // only read
	base := make(map[int]int) // of each disk the last that it builds on
	inner := make(map[int]bool)
	for _, i := range disks {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		e := &p.entries[i]
		d, err := layers.Open(dir, string(e.Path), p.layerOptions(e.Format))
		incomplete := errors.Is(err, formats.ErrNoParent) || errors.Is(err, layers.ErrFormat) || errors.As(err, new(*layers.IDError))
		if err != nil && !incomplete {
			continue // what is damaged, or no disk, is packed as any file
		}
		base[i] = i
		if err != nil {
			continue
		}
		for n, l := range d.Layers[1:] {
			j, ok := byPath[l.Path]
			if !ok {
				break
			}
			if n == 0 && j != i {
				e.DiskParent = p.entries[j].Path
			}
			if j != i {
				inner[j] = true
				base[i] = j
			}
		}
	}
	leaves := make(map[int][]int)
	for _, i := range disks {
		if b, ok := base[i]; ok && !inner[i] {
			leaves[b] = append(leaves[b], i)
		}
	}
	for _, list := range leaves {
		for _, i := range p.named(list) {
			p.entries[i].Active = true
		}
	}
	return nil
}

// layerOptions are those with which a disk of the directory is opened: what the walk found out is not asked again.
func (p *Plan) layerOptions(format string) layers.Options {
	return layers.Options{Formats: p.o.Formats, Format: format}
}

// named returns those of the disks that a configuration names; all, if it names none of them.
func (p *Plan) named(list []int) []int {
	if len(list) == 1 {
		return list
	}
	var texts [][]byte
	for i := range p.entries {
		e := &p.entries[i]
		if e.Type != manifest.File || e.Role != manifest.RoleConfig || e.Size > maxConfig {
			continue
		}
		f, err := p.tree.Open(e)
		if err != nil {
			continue
		}
		b, err := io.ReadAll(io.NewSectionReader(f, 0, maxConfig))
		f.Close()
		if err == nil {
			texts = append(texts, b)
		}
	}
	var out []int
	for _, i := range list {
		name := []byte(path.Base(string(p.entries[i].Path)))
		for _, t := range texts {
			if at := bytes.Index(t, name); at >= 0 && (at == 0 || !inName(t[at-1])) {
				out = append(out, i)
				break
			}
		}
	}
	if len(out) == 0 {
		return list
	}
	return out
}

// inName reports whether c before a name makes it another name.
func inName(c byte) bool {
	return c == '-' || c == '_' || c == '.' || c >= '0' && c <= '9' || c|0x20 >= 'a' && c|0x20 <= 'z'
}

// diskIDs sets the ids of the active disks that can be told from the digests of blocks.
func (k *packer) diskIDs() error {
	if k.Entry.Block != layers.IDUnit {
		return nil
	}
	byPath := make(map[string]int, len(k.members))
	for i := range k.members {
		byPath[string(k.members[i].Path)] = i
	}
	for i := range k.members {
		e := &k.members[i]
		if !e.Active {
			continue
		}
		if k.ctx.Err() != nil {
			return context.Cause(k.ctx)
		}
		// Not from what was open when the plan was made: a file may have been packed again.
		dir := layers.NewDir(k.tree.FS(), "")
		id, err := k.diskID(dir, byPath, e)
		dir.Close() // only read
		if k.ctx.Err() != nil {
			return context.Cause(k.ctx)
		}
		if err == nil {
			e.DiskID = id
		}
	}
	return nil
}

// errNoID: the digests do not tell the disk's id.
var errNoID = errors.New("the disk's id is not known")

// reread is how much of a disk may be read again, where the grid does not serve: blocks that lie across it.
const reread = 64 << 20

// diskID makes the id of a disk from the tables of the members in which it lies.
func (k *packer) diskID(dir *layers.Dir, byPath map[string]int, e *manifest.Member) (string, error) {
	d, err := layers.Open(dir, string(e.Path), k.layerOptions(e.Format))
	if err != nil {
		return "", err
	}
	// The tables of each file of each layer.
	tables := make([][]*delta.Table, len(d.Layers))
	for n, l := range d.Layers {
		for _, src := range l.Image.Files {
			t, err := k.tableOf(dir, byPath, src)
			if err != nil {
				return "", err
			}
			tables[n] = append(tables[n], t)
		}
	}
	w := layers.NewIDWriter(d.Size())
	budget := int64(reread)
	buf := make([]byte, layers.IDUnit)
	digests := make([]delta.Digest, 4096)
	at := int64(0) // below it all blocks are done
	for x, err := range d.Extents(0, d.Size()) {
		if err != nil {
			return "", err
		}
		if k.ctx.Err() != nil {
			return "", context.Cause(k.ctx)
		}
		if x.Kind == formats.Zero || x.Kind == formats.Hole {
			continue
		}
		for off := max(at, x.Offset/layers.IDUnit*layers.IDUnit); off < x.End(); {
			if n := k.wholeBlocks(d, x, off, tables, digests); n > 0 {
				for j := range n {
					if dg := [32]byte(digests[j]); dg != [32]byte{} {
						w.Block(off/layers.IDUnit+int64(j), &dg)
					}
				}
				off += int64(n) * layers.IDUnit
				continue
			}
			if budget -= layers.IDUnit; budget < 0 {
				return "", errNoID
			}
			b := buf[:min(layers.IDUnit, d.Size()-off)]
			if n, err := d.ReadAt(b, off); n < len(b) {
				return "", fmt.Errorf("disk at byte %d: %w", off, err)
			}
			if !delta.IsZero(b) {
				dg := [32]byte(delta.Sum(b))
				w.Block(off/layers.IDUnit, &dg)
			}
			off += layers.IDUnit
		}
		at = (x.End() + layers.IDUnit - 1) / layers.IDUnit * layers.IDUnit
	}
	return w.ID().String(), nil
}

// wholeBlocks reads the digests of the disk's blocks from off on that are whole blocks of a file's grid in x. It
// returns how many.
func (k *packer) wholeBlocks(d *layers.Disk, x formats.Extent, off int64, tables [][]*delta.Table, dst []delta.Digest) int {
	if x.Kind != formats.Data || off < x.Offset {
		return 0
	}
	t := tables[x.Depth][x.File]
	host := x.Host + off - x.Offset
	if t == nil {
		return 0
	}
	first := t.Grid.Index(host)
	n := int64(0)
	for ; n < int64(len(dst)); n++ {
		pos := off + n*layers.IDUnit
		length := min(layers.IDUnit, d.Size()-pos)
		if length <= 0 || pos+length > x.End() || first+n >= t.Grid.Count(t.Size) {
			break
		}
		if o, l := t.Grid.Range(first+n, t.Size); o != host+n*layers.IDUnit || l != length {
			break
		}
	}
	if n == 0 || t.Read(first, dst[:n]) != nil {
		return 0
	}
	return int(n)
}

// tableOf returns the digests of the member that a disk's layer reads as src; nil if it has none.
func (k *packer) tableOf(dir *layers.Dir, byPath map[string]int, src formats.Source) (*delta.Table, error) {
	name, ok := dir.Path(src)
	if !ok {
		return nil, nil
	}
	i, ok := byPath[name]
	if !ok {
		return nil, errNoID // a link, or a file that is left out
	}
	m := &k.members[i]
	if m.Torn || m.Size != src.Size() {
		return nil, errNoID
	}
	pl := k.place[i]
	if pl.length == 0 {
		return nil, nil
	}
	return delta.OpenTable(io.NewSectionReader(&k.blocks, pl.off, pl.length), m.Grid(k.Entry.Block), m.Size, m.Blocks, pl.length)
}
