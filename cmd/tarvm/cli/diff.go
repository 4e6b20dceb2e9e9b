package cli

import (
	"context"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/spf13/cobra"

	"tarvm/archive"
	"tarvm/archive/codec"
	"tarvm/archive/inspect"
	"tarvm/archive/vmdir"
	"tarvm/manifest"
)

func (p *program) diffCommand() *cobra.Command {
	var exit bool
	var exclude []string
	cmd := &cobra.Command{
		Use:   "diff A B",
		Short: "Compare two states of a machine",
		Long: `Says what differs from A to B. Each is an archive, a manifest, an entry of the repository (#3) or a directory; of archives only the
manifests are read, and their ancestors are not needed. A directory is read in full.

  + added, - removed, > renamed, * changed (with the size of the blocks that differ), . only metadata

A change of time alone is listed with -v. The exit code is 0, with --exit-code 1 when there is a difference.`,
		Example: `  tarvm diff monday.tar.zst tuesday.tar.zst
  tarvm diff monday.tar.zst.manifest vm`,
		Args: args(2, 2, "two archives, manifests, entries or directories"),
		RunE: func(cmd *cobra.Command, a []string) error {
			return p.diff(cmd.Context(), a[0], a[1], exclude, exit)
		},
	}
	f := cmd.Flags()
	f.BoolVar(&exit, "exit-code", false, "exit with 1 when there is a difference")
	f.StringArrayVar(&exclude, "exclude", nil, "leave out what matches `PATTERN` in a directory (repeatable)")
	p.jsonFlag(cmd)
	return cmd
}

func (p *program) diff(ctx context.Context, a, b string, exclude []string, exit bool) error {
	s := p.newShelf(nil)
	defer s.close()
	var ms [2]*archive.Manifest
	// A directory is compared on the grid of the other side, which therefore comes first.
	order := []int{0, 1}
	if isDir(a) && !isDir(b) {
		order = []int{1, 0}
	}
	var first *archive.Manifest
	for _, i := range order {
		path := []string{a, b}[i]
		if isDir(path) {
			m, done, err := p.scanDir(ctx, path, first, exclude)
			if err != nil {
				return err
			}
			defer done()
			ms[i] = m
		} else {
			f, err := s.get(ctx, path)
			if err != nil {
				return err
			}
			ms[i] = f.man
		}
		if first == nil {
			first = ms[i]
		}
	}
	r, err := inspect.Compare(ms[0], ms[1])
	if err != nil {
		return err
	}
	if p.json {
		err = p.writeJSON(r)
	} else {
		err = p.printDiff(r)
	}
	if err == nil && exit && !r.Same() {
		return errDifferent
	}
	return err
}

func isDir(path string) bool {
	st, err := os.Stat(path)
	return err == nil && st.IsDir()
}

// scanDir makes a directory's manifest as packing would, without an archive. Done releases it.
func (p *program) scanDir(ctx context.Context, dir string, grid *archive.Manifest, exclude []string) (m *archive.Manifest, done func(), err error) {
	plan, err := archive.MakePlan(ctx, dir, archive.PackOptions{
		Codec: codec.ByName(p.codecs, "none"), Parent: grid, Live: true, Formats: p.disks, Exclude: exclude,
		Progress: func(e archive.Progress) {
			e.Phase = "scan"
			p.bar.report(event(e))
		},
	})
	if err != nil {
		return nil, nil, plainPath(err)
	}
	defer plan.Close()
	f, temp, err := vmdir.Nameless("", ".tarvm-manifest-*")
	if err != nil {
		return nil, nil, err
	}
	done = func() {
		f.Close()
		if temp != "" {
			os.Remove(temp)
		}
	}
	r, err := plan.Pack(ctx, io.Discard, f)
	if err != nil {
		done()
		return nil, nil, err
	}
	for _, t := range r.Torn {
		p.warn("%s: changed while it was read", name(t))
	}
	if m, err = archive.OpenManifest(io.NewSectionReader(f, 0, r.Manifest)); err != nil {
		done()
		return nil, nil, fmt.Errorf("%s: %w", dir, err)
	}
	return m, done, nil
}

func (p *program) printDiff(r *inspect.Report) error {
	var b strings.Builder
	for _, f := range r.Removed {
		fmt.Fprintf(&b, "- %s%s\n", memberName(f.Path, f.Type), sizeOf(f.Type, f.Size))
	}
	for _, f := range r.Added {
		fmt.Fprintf(&b, "+ %s%s\n", memberName(f.Path, f.Type), sizeOf(f.Type, f.Size))
	}
	for _, f := range r.Renamed {
		fmt.Fprintf(&b, "> %s -> %s (%s)%s\n", name(f.From), name(f.To), size(f.Size), p.fields(f.Metadata))
	}
	times, contents := 0, 0
	for _, c := range r.Changed {
		sign, what := ".", ""
		if c.Bytes > 0 || c.SizeA != c.SizeB {
			contents++
			sign = "*"
			what = ": " + size(c.Bytes) + " differ"
			if c.Coarse {
				what = ": may differ (blocks cut elsewhere)"
			}
			if c.SizeA != c.SizeB {
				what += fmt.Sprintf(", size %s -> %s", size(c.SizeA), size(c.SizeB))
				if size(c.SizeA) == size(c.SizeB) {
					what += fmt.Sprintf(" (%d -> %d bytes)", c.SizeA, c.SizeB)
				}
			}
		}
		meta := p.fields(c.Metadata)
		if what == "" && meta == "" {
			times++
			continue
		}
		if what == "" {
			meta = ":" + strings.TrimPrefix(meta, ",")
		}
		fmt.Fprintf(&b, "%s %s%s%s\n", sign, memberName(c.Path, c.Type), what, meta)
	}
	if times > 0 {
		fmt.Fprintf(&b, "  and the times of %s\n", count(times, "member"))
	}
	switch {
	case r.Same():
		b.WriteString("no difference\n")
	default:
		fmt.Fprintf(&b, "%d removed, %d added, %d renamed, %d changed (%s)\n",
			len(r.Removed), len(r.Added), len(r.Renamed), contents, size(r.Bytes))
	}
	return p.printf("%s", b.String())
}

func sizeOf(t manifest.Type, n int64) string {
	if t != manifest.File {
		return ""
	}
	return " (" + size(n) + ")"
}

// fields says which metadata differs, without times unless they are wanted.
func (p *program) fields(fs []inspect.Field) string {
	var b strings.Builder
	for _, f := range fs {
		if f.Name == "mtime" && !p.verbose {
			continue
		}
		fmt.Fprintf(&b, ", %s %s -> %s", quoted(f.Name), dash(f.A), dash(f.B))
	}
	return printable(b.String())
}
