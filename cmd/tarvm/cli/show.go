package cli

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"tarvm/delta"
	"tarvm/manifest"
)

func (p *program) showCommand() *cobra.Command {
	var search []string
	cmd := &cobra.Command{
		Use:   "show ARCHIVE",
		Short: "Describe an archive and its chain",
		Long: `Says what an archive, a manifest, or an entry of the repository (#3), holds: name, note, labels, id, statistics, and the chain of archives on which it
builds, as far as they or their manifests are found beside it or in a --search directory.`,
		Args: args(1, 1, "one archive or manifest"),
		RunE: func(cmd *cobra.Command, a []string) error { return p.show(cmd.Context(), a[0], search) },
	}
	cmd.Flags().StringArrayVar(&search, "search", nil, "look for ancestors in `DIR`, too (repeatable)")
	p.jsonFlag(cmd)
	return cmd
}

// description is what show writes with --json.
type description struct {
	File     string         `json:"file"`
	Number   int            `json:"number,omitempty"` // of an entry of the repository
	Project  string         `json:"project,omitempty"`
	ID       delta.Digest   `json:"id"`
	Digest   delta.Digest   `json:"digest"` // of manifest.json
	Entry    manifest.Entry `json:"entry"`
	Stats    manifest.Stats `json:"stats"`
	Encoded  int64          `json:"encoded,omitempty"` // bytes of the archive; absent for a manifest
	Roles    []roleStats    `json:"roles"`
	Disks    []diskState    `json:"disks,omitempty"`   // that are in use
	Chain    []chainLink    `json:"chain"`             // base first, the entry itself last
	Complete bool           `json:"complete"`          // whether the chain begins with a full archive
	Missing  *delta.Digest  `json:"missing,omitempty"` // id of the first ancestor that is not found
}

// chainLink is one entry of a chain.
type chainLink struct {
	File    string        `json:"file"`
	Archive bool          `json:"archive"` // false: a manifest alone
	ID      delta.Digest  `json:"id"`
	Kind    manifest.Kind `json:"kind"`
	Name    string        `json:"name,omitempty"`
	Time    manifest.Time `json:"time"`
	Encoded int64         `json:"encoded,omitempty"`
}

// roleStats counts the files of one role and format.
type roleStats struct {
	Role   manifest.Role `json:"role,omitempty"`
	Format string        `json:"format,omitempty"`
	Files  int64         `json:"files"`
	Bytes  int64         `json:"bytes"`
	Stored int64         `json:"stored"`
}

// diskState is an active disk.
type diskState struct {
	Path   manifest.Path `json:"path"`
	Format string        `json:"format"`
	ID     string        `json:"disk_id,omitempty"`
	On     manifest.Path `json:"disk_parent,omitempty"`
}

func (p *program) show(ctx context.Context, path string, search []string) error {
	s := p.newShelf(search)
	defer s.close()
	f, err := s.get(ctx, path)
	if err != nil {
		return err
	}
	d := &description{File: path, ID: f.man.ID, Digest: f.man.Digest, Entry: f.man.Entry, Stats: f.man.Stats, Roles: roles(f.man.Snapshot), Disks: activeDisks(f.man.Snapshot)}
	if f.arch != nil {
		d.Encoded = f.arch.Size()
	}
	if f.entry != nil {
		d.File, d.Number, d.Project = f.path, f.entry.Number, f.entry.Project
	}
	line, missing, err := s.lineage(ctx, f)
	if err != nil {
		return err
	}
	for _, o := range slices.Backward(line) {
		l := chainLink{File: o.path, Archive: o.arch != nil, ID: o.man.ID, Kind: o.man.Entry.Kind, Name: o.man.Entry.Name, Time: o.man.Entry.Time}
		if o.arch != nil {
			l.Encoded = o.arch.Size()
		}
		d.Chain = append(d.Chain, l)
	}
	d.Complete = missing == nil
	if missing != nil {
		d.Missing = &missing.ID
	}
	if p.json {
		return p.writeJSON(d)
	}
	return p.printf("%s", d.text())
}

func roles(s *manifest.Snapshot) []roleStats {
	var rs []roleStats
	at := make(map[[2]string]int)
	for i := range s.Members {
		m := &s.Members[i]
		if m.Type != manifest.File {
			continue
		}
		key := [2]string{string(m.Role), m.Format}
		j, ok := at[key]
		if !ok {
			j = len(rs)
			at[key] = j
			rs = append(rs, roleStats{Role: m.Role, Format: m.Format})
		}
		rs[j].Files++
		rs[j].Bytes += m.Size
		rs[j].Stored += m.Stored.Bytes
	}
	return rs
}

// activeDisks are those that are in use.
func activeDisks(s *manifest.Snapshot) []diskState {
	var list []diskState
	for i := range s.Members {
		if m := &s.Members[i]; m.Active {
			list = append(list, diskState{m.Path, m.Format, m.DiskID, m.DiskParent})
		}
	}
	return list
}

func (d *description) text() string {
	var b strings.Builder
	line := func(key, format string, args ...any) {
		fmt.Fprintf(&b, "%-9s %s\n", key, fmt.Sprintf(format, args...))
	}
	e, st := &d.Entry, &d.Stats
	if d.Number > 0 {
		line("entry", "#%d, project %s", d.Number, quoted(d.Project))
	}
	line("name", "%s", quoted(e.Name))
	if e.Note != "" {
		line("note", "%s", quoted(e.Note))
	}
	for _, k := range slices.Sorted(maps.Keys(e.Labels)) {
		line("label", "%s=%s", quoted(k), quoted(e.Labels[k]))
	}
	line("kind", "%s", e.Kind)
	line("time", "%s", stamp(e.Time))
	if m := e.Machine; m != nil {
		line("machine", "%s, uuid %s", quoted(m.Name), quoted(m.UUID))
	}
	if e.Live {
		line("live", "packed while the machine may have been running")
	}
	line("id", "%s", d.ID)
	if e.Parent != nil {
		line("parent", "%s", e.Parent.ID)
	}
	line("codec", "%s, blocks of %s", quoted(e.Codec), size(e.Block))
	if d.Encoded > 0 {
		line("archive", "%s, %s of the files' sizes", size(d.Encoded), percent(d.Encoded, st.Bytes))
	}
	line("files", "%s in %s, %s, of these %s zeros and holes", count(st.Files, "file"), count(st.Members, "member"), size(st.Bytes), size(st.Zero))
	for _, r := range d.Roles {
		what := strings.TrimSpace(string(r.Role) + " " + r.Format)
		if what == "" {
			what = "other"
		}
		line("", "%s: %s, %s, %s stored", quoted(what), count(r.Files, "file"), size(r.Bytes), size(r.Stored))
	}
	for i, k := range d.Disks {
		key, text := "", fmt.Sprintf("%s (%s)", name(k.Path), quoted(k.Format))
		if i == 0 {
			key = "disks"
		}
		if k.On != "" {
			text += " on " + name(k.On)
		}
		if k.ID != "" {
			text += ", disk id " + k.ID
		}
		line(key, "%s", text)
	}
	if e.Kind == manifest.Incremental {
		line("stored", "%s before compression; %s unchanged", size(st.Stored), count(st.Unchanged, "file"))
		line("deltas", "%s new, %s copied from the parent, %s repeated, %s zeroed, %s as in the parent",
			size(st.Data), size(st.Copy), size(st.Self), size(st.Zeroed), size(st.Same))
	} else {
		line("stored", "%s before compression", size(st.Stored))
	}
	for i, l := range d.Chain {
		key := ""
		if i == 0 {
			key = "chain"
			if d.Missing != nil {
				line(key, "%s  not found", d.Missing.Short())
				key = ""
			}
		}
		n := "manifest alone"
		if l.Archive {
			n = size(l.Encoded)
		}
		line(key, "%s  %s  %s  %s  %s", l.ID.Short(), l.Kind, stamp(l.Time), n, quoted(l.File))
	}
	return b.String()
}

func stamp(t manifest.Time) string { return t.UTC().Format(time.RFC3339) }
