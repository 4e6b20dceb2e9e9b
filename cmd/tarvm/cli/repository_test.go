package cli

import (
	"bytes"
	"context"
	"fmt"
	"strings"
	"testing"
	"unicode/utf8"

	"tarvm/archive"
	"tarvm/archive/repo"
	"tarvm/archive/vmdir"
	"tarvm/manifest"
)

// A chain stays in its column however long it is, and of branches within branches the left ones are cut off, so that neither
// makes lines long.
func TestDrawTreeWidth(t *testing.T) {
	const n = 10000
	es := make([]*repo.Entry, n)
	for i := range es {
		es[i] = &repo.Entry{Number: i + 1, Name: "e", Kind: repo.Incremental, Project: "p"}
	}
	for _, c := range []struct {
		name     string
		children func(e *repo.Entry) []*repo.Entry
		longest  int
	}{
		{"chain", func(e *repo.Entry) []*repo.Entry { return es[e.Number:min(e.Number+1, n)] }, 50},
		{"comb", func(e *repo.Entry) []*repo.Entry { // each even one has two, of which one goes on
			if e.Number%2 == 0 {
				return nil
			}
			return es[e.Number:min(e.Number+2, n)]
		}, 50 + 3*drawDepth},
	} {
		var b strings.Builder
		drawTree(&b, c.children, es[0], nil)
		lines := strings.Split(strings.TrimSuffix(b.String(), "\n"), "\n")
		if len(lines) != n {
			t.Errorf("%s: %d lines", c.name, len(lines))
		}
		for _, l := range lines {
			if w := utf8.RuneCountInString(l); w > c.longest || !strings.Contains(l, "#") {
				t.Fatalf("%s: %d columns: %s", c.name, w, l)
			}
		}
	}
}

func TestRanges(t *testing.T) {
	for want, ns := range map[string][]int{"": nil, "7": {7}, "1 2": {2, 1}, "1..3": {3, 1, 2, 2}, "1 2 4..6 9": {9, 5, 4, 6, 1, 2}} {
		var es []*repo.Entry
		for _, n := range ns {
			es = append(es, &repo.Entry{Number: n})
		}
		if got := ranges(es); got != want {
			t.Errorf("%v: %q, want %q", ns, got, want)
		}
	}
}

func TestPart(t *testing.T) {
	for share, want := range map[float64]string{0: "0 %", 0.001: "less than 1 %", 0.5: "50 %", 0.9999: "more than 99 %", 1: "all"} {
		if got := part(share); got != want {
			t.Errorf("%v: %q, want %q", share, got, want)
		}
	}
}

// Each error of repositories has an exit code, and a hint.
func TestRepositoryErrors(t *testing.T) {
	e := &repo.Entry{Number: 3, Name: "x", Parent: &manifest.Parent{}}
	for _, c := range []struct {
		err  error
		code int
		hint string
	}{
		{&repo.UnsavedError{Dir: "vm", Base: e}, exitFailed, "--save-first"},
		{&repo.OfflineError{Entry: e, At: &repo.At{Place: "p"}, Place: &repo.Place{Name: "p", Dir: "/mnt/p"}}, exitFailed, "relocate --to DIR --name p"},
		{&repo.OfflineError{Entry: e}, exitFailed, "--search DIR"},
		{&repo.BrokenError{Entry: e, At: e}, exitFailed, "tarvm import adds"},
		{&repo.BusyError{Medium: "r"}, exitFailed, "--lock-wait"},
		{&repo.OverlapError{Dir: "/a", Repository: "/a/b"}, exitFailed, "neither in the other"},
		{repo.ErrVersion, exitFailed, "later version"},
		{repo.ErrCorrupt, exitCorrupt, "tarvm repo check --read"},
		{repo.ErrNoEntry, exitFailed, "tarvm log"},
		{vmdir.ErrInterrupted, exitFailed, "tarvm restore"},
		{orphansHint(&repo.OrphansError{Remove: []*repo.Entry{e}, Orphans: []*repo.Entry{{Number: 4}}}), exitFailed, "tarvm rm 3 4 removes"},
		{restoreHint(&archive.RunningError{Dir: "vm"}), exitFailed, "shut the machine down"},
	} {
		var out bytes.Buffer
		p := &program{stderr: &out, bar: newBar(&out)}
		if code := p.fail(context.Background(), fmt.Errorf("r: %w", c.err)); code != c.code {
			t.Errorf("%v: exit code %d, want %d", c.err, code, c.code)
		}
		if !strings.Contains(out.String(), "\nhint: ") || !strings.Contains(out.String(), c.hint) {
			t.Errorf("%v: wrote %q, want a hint with %q", c.err, out.String(), c.hint)
		}
	}
}
