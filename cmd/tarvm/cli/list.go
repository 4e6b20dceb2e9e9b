package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"time"

	"github.com/spf13/cobra"

	"tarvm/archive"
	"tarvm/archive/codec"
	"tarvm/archive/pax"
	"tarvm/delta"
	"tarvm/manifest"
)

func (p *program) listCommand() *cobra.Command {
	var search []string
	cmd := &cobra.Command{
		Use:   "list ARCHIVE",
		Short: "List what is in an archive",
		Long: `Lists the members of an archive, or of a manifest, and how each is stored: whole; as a delta, the changed blocks; or
not at all, because it is unchanged. What an increment removes is listed when the parent's manifest or archive is found
beside the archive, or in a --search directory. With -v modes, owners and times are listed, too.

Any other tar is listed as well.`,
		Args: args(1, 1, "one archive or manifest"),
		RunE: func(cmd *cobra.Command, a []string) error { return p.list(cmd.Context(), a[0], search) },
	}
	cmd.Flags().StringArrayVar(&search, "search", nil, "look for the parent in `DIR`, too (repeatable)")
	p.jsonFlag(cmd)
	return cmd
}

// listing is what list writes with --json.
type listing struct {
	File       string            `json:"file"`
	ID         delta.Digest      `json:"id"`
	Digest     delta.Digest      `json:"digest"`
	Entry      manifest.Entry    `json:"entry"`
	Stats      manifest.Stats    `json:"stats"`
	Members    []manifest.Member `json:"members"`
	Superseded []manifest.Member `json:"superseded,omitempty"`
	// Removed is absent, not empty, when the parent's manifest was not found.
	Removed *[]manifest.Path `json:"removed,omitempty"`
}

func (p *program) list(ctx context.Context, path string, search []string) error {
	s := p.newShelf(search)
	defer s.close()
	f, err := s.get(ctx, path)
	if errors.Is(err, archive.ErrForeign) {
		return p.listForeign(path, err)
	}
	if err != nil {
		return err
	}
	l := &listing{
		File: path, ID: f.man.ID, Digest: f.man.Digest, Entry: f.man.Entry, Stats: f.man.Stats,
		Members: f.man.Members, Superseded: f.man.Superseded,
	}
	if par := f.man.Entry.Parent; par != nil {
		found, err := s.pick(ctx, par, true)
		if err != nil {
			return err
		}
		if len(found) > 0 {
			gone := removed(found[0].man.Snapshot, f.man.Snapshot)
			l.Removed = &gone
		} else {
			p.note("note: the parent, %s, is not found: what was removed is not listed", par.ID.Short())
		}
	}
	if p.json {
		return p.writeJSON(l)
	}
	return p.printList(l)
}

// removed lists what b has no more.
func removed(a, b *manifest.Snapshot) []manifest.Path {
	have := b.Index()
	gone := []manifest.Path{}
	for i := range a.Members {
		if _, ok := have[a.Members[i].Path]; !ok {
			gone = append(gone, a.Members[i].Path)
		}
	}
	return gone
}

// how is what is stored of a member, in a word.
func how(m *manifest.Member) string {
	switch {
	case m.Type != manifest.File:
		return string(m.Type)
	case m.Stored.As == manifest.AsSame:
		return "unchanged"
	}
	return m.Stored.As
}

func (p *program) printList(l *listing) error {
	titles := []string{"HOW", " SIZE", " STORED", " RATIO", "NAME"}
	if p.verbose {
		titles = slices.Concat([]string{"MODE", "OWNER", "MODIFIED"}, titles)
	}
	t := newTable(titles...)
	for i := range l.Members {
		m := &l.Members[i]
		n := memberName(m.Path, m.Type)
		row := []string{how(m), "-", "-", "-"}
		switch m.Type {
		case manifest.File:
			row = []string{how(m), size(m.Size), size(m.Stored.Bytes), percent(m.Stored.Bytes, m.Size)}
			if m.Torn {
				n += " (changed while it was packed)"
			}
		case manifest.Symlink:
			n += " -> " + name(m.Target)
		case manifest.Link:
			n += " = " + name(m.Target)
		}
		row = append(row, n)
		if p.verbose {
			row = slices.Concat([]string{fmt.Sprintf("%04o", uint32(m.Mode)), owner(&m.State), m.ModTime.UTC().Format(time.DateTime)}, row)
		}
		t.add(row...)
	}
	if l.Removed != nil {
		for _, path := range *l.Removed {
			row := []string{"removed", "-", "-", "-", name(path)}
			if p.verbose {
				row = slices.Concat([]string{"-", "-", "-"}, row)
			}
			t.add(row...)
		}
	}
	return p.printf("%s", t)
}

func owner(s *manifest.State) string {
	user, group := s.User, s.Group
	if user == "" {
		user = fmt.Sprint(s.UID)
	}
	if group == "" {
		group = fmt.Sprint(s.GID)
	}
	return quoted(user + "/" + group)
}

// foreignMember is a member of a tar of another program.
type foreignMember struct {
	Path    manifest.Path `json:"path"`
	Type    string        `json:"type"`
	Size    int64         `json:"size"`
	Mode    manifest.Mode `json:"mode"`
	ModTime manifest.Time `json:"mtime"`
	Target  manifest.Path `json:"target,omitempty"`
}

// listForeign lists a tar of another program. When it is none, the error is why.
func (p *program) listForeign(path string, why error) error {
	f, err := os.Open(path)
	if err != nil {
		return plainPath(err)
	}
	defer f.Close()
	r, err := codec.Open(p.codecs, f)
	if err != nil {
		return why
	}
	defer r.Close()
	t := newTable("TYPE", " SIZE", "NAME")
	var members []foreignMember
	for tr := pax.NewReader(r, pax.ReaderOptions{}); ; {
		h, err := tr.Next()
		if errors.Is(err, io.EOF) && len(members) > 0 {
			break
		}
		if err != nil && len(members) == 0 {
			return why
		}
		if err != nil {
			return fmt.Errorf("%s: %w", path, err)
		}
		m := foreignMember{
			Path: manifest.Path(h.Name), Type: foreignType(h.Type), Size: h.Size,
			Mode: manifest.Mode(h.Mode & 0o7777), ModTime: manifest.Time{Time: h.ModTime}, Target: manifest.Path(h.Linkname),
		}
		members = append(members, m)
		n := name(m.Path)
		if m.Target != "" {
			n += " -> " + name(m.Target)
		}
		t.add(m.Type, size(m.Size), n)
	}
	p.note("note: %s is a tar of another program", path)
	if p.json {
		return p.writeJSON(struct {
			File    string          `json:"file"`
			Foreign bool            `json:"foreign"`
			Members []foreignMember `json:"members"`
		}{path, true, members})
	}
	return p.printf("%s", t)
}

func foreignType(b pax.Type) string {
	switch b {
	case pax.TypeReg:
		return "file"
	case pax.TypeDir:
		return "dir"
	case pax.TypeSymlink:
		return "symlink"
	case pax.TypeLink:
		return "link"
	case pax.TypeFifo:
		return "fifo"
	}
	return fmt.Sprintf("type %q", byte(b))
}
