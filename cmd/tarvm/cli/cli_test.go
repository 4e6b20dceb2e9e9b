package cli

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"strings"
	"syscall"
	"testing"
	"time"
	"unicode/utf8"

	"tarvm/archive"
	"tarvm/archive/chain"
	"tarvm/archive/codec"
	"tarvm/archive/vmdir"
	"tarvm/delta"
	"tarvm/manifest"
)

func TestSize(t *testing.T) {
	for n, want := range map[int64]string{
		0: "0 B", 1023: "1023 B", 1024: "1.0 KiB", 1536: "1.5 KiB", 1<<20 - 1: "1.0 MiB", 1 << 20: "1.0 MiB",
		1 << 40: "1.0 TiB", 1<<63 - 1: "8.0 EiB",
	} {
		if got := size(n); got != want {
			t.Errorf("%d: %q, want %q", n, got, want)
		}
	}
}

func TestPercent(t *testing.T) {
	for _, c := range []struct {
		part, whole int64
		want        string
	}{{0, 0, "-"}, {0, 5, "0 %"}, {1, 1 << 40, "<0.1 %"}, {1, 100, "1.0 %"}, {1, 3, "33 %"}, {5, 5, "100 %"}} {
		if got := percent(c.part, c.whole); got != c.want {
			t.Errorf("%d of %d: %q, want %q", c.part, c.whole, got, c.want)
		}
	}
}

func TestParseSize(t *testing.T) {
	for s, want := range map[string]int64{
		"0": 0, "65536": 65536, "64K": 65536, "64k": 65536, "64KiB": 65536, "64KB": 65536, "1M": 1 << 20, "2G": 2 << 30, "1T": 1 << 40, "7B": 7,
		"": -1, "K": -1, "-1": -1, "1.5M": -1, "64Q": -1, "64KK": -1, "9999999999T": -1, "99999999999999999999": -1,
	} {
		got, err := parseSize(s)
		if err != nil {
			got = -1
		}
		if got != want {
			t.Errorf("%q: %d (%v), want %d", s, got, err, want)
		}
	}
}

func TestParseTime(t *testing.T) {
	for s, want := range map[string]string{
		"2026-05-01T14:00:00+02:00": "2026-05-01T12:00:00Z", "@0": "1970-01-01T00:00:00Z", "@-1": "1969-12-31T23:59:59Z",
		"2026-05-01": "", "@": "", "": "", "now": "",
	} {
		got, err := parseTime(s)
		if want == "" && err == nil || want != "" && (err != nil || got.Format(time.RFC3339) != want) {
			t.Errorf("%q: %v, %v, want %q", s, got, err, want)
		}
	}
}

func TestCount(t *testing.T) {
	if a, b, c := count(1, "file"), count(int64(2), "file"), count(0, "entry"); a != "1 file" || b != "2 files" || c != "0 entries" {
		t.Error(a, b, c)
	}
}

// Nothing that comes out of quoted or printable drives a terminal, and what is plain stays as it is.
func FuzzPrintable(f *testing.F) {
	for _, s := range []string{"disk.img", "a b", "\x1b[2J", "é", "\xff\xfe", "a\nb", "\u202egnp.exe", "\x00", " lead", `"q"`, "", "\u0085", "\ufffd"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		q := quoted(s)
		for _, r := range q + strings.ReplaceAll(strings.ReplaceAll(printable(s), "\n", ""), "\t", "") {
			if r < 0x20 || r >= 0x7f && r < 0xa0 || r == '\u202e' || r == '\u2066' {
				t.Fatalf("%q becomes %q and %q", s, q, printable(s))
			}
		}
		if !utf8.ValidString(q) || !utf8.ValidString(printable(s)) {
			t.Fatalf("%q becomes %q and %q", s, q, printable(s))
		}
		if plain := strings.Trim(s, "abcdefghijklmnopqrstuvwxyz./-_0123456789") == ""; plain && s != "" && (q != s || printable(s) != s) {
			t.Fatalf("%q becomes %q and %q", s, q, printable(s))
		}
	})
}

func TestDistance(t *testing.T) {
	for _, c := range []struct {
		a, b string
		want int
	}{{"", "", 0}, {"exclude", "exlude", 1}, {"output", "otput", 1}, {"keep", "kepe", 2}, {"a", "xyz", 3}} {
		if got := distance(c.a, c.b); got != c.want {
			t.Errorf("%s, %s: %d, want %d", c.a, c.b, got, c.want)
		}
	}
}

func TestTable(t *testing.T) {
	tb := newTable("A", " N", "NAME")
	tb.add("long word", "1", "é")
	tb.add("x", "12345", "name")
	want := "A              N  NAME\nlong word      1  é\nx          12345  name\n"
	if got := tb.String(); got != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
}

// Each error of the libraries has an exit code, and where the user can do something, a hint.
func TestErrors(t *testing.T) {
	id := delta.Sum([]byte("x"))
	for _, c := range []struct {
		err  error
		code int
		hint string
	}{
		{&archive.RunningError{Dir: "vm", Locks: []vmdir.Lock{{Path: "d", Hint: "virsh suspend vm"}}}, exitFailed, "virsh suspend vm"},
		{&archive.RunningError{Dir: "vm"}, exitFailed, "--live"},
		{&archive.ChangedError{Path: "d", Tries: 3}, exitFailed, "--tries"},
		{&chain.MissingParentError{ID: id}, exitFailed, "--search"},
		{&chain.HeadsError{Heads: []string{"a", "b"}}, exitFailed, "each of them"},
		{&chain.SpaceError{Path: "x", Need: 3 << 30, Free: 1 << 30}, exitFailed, "make room for 2.0 GiB"},
		{&chain.CollisionError{Path: "a", Other: "A"}, exitFailed, "--only"},
		{&chain.DigestError{Member: "a"}, exitCorrupt, "tarvm verify"},
		{chain.ErrUnsafe, exitFailed, "nothing was restored"},
		{manifest.ErrVersion, exitFailed, "later version"},
		{manifest.ErrCorrupt, exitCorrupt, "tarvm verify"},
		{archive.ErrTruncated, exitCorrupt, "copy it again"},
		{archive.ErrCorrupt, exitCorrupt, "tarvm verify"},
		{archive.ErrForeign, exitFailed, "tarvm pack made"},
		{delta.ErrTable, exitCorrupt, "tarvm verify"},
		{delta.ErrSegment, exitCorrupt, "tarvm verify"},
		{&codec.FrameError{Err: errors.New("x")}, exitCorrupt, "tarvm verify"},
		{&fs.PathError{Op: "write", Path: "x", Err: syscall.ENOSPC}, exitFailed, "make room"},
		{syscall.EACCES, exitFailed, "as a user who may"},
		{usage(errors.New("x")), exitUsage, ""},
		{hint(usage(errors.New("x")), "do %s", "y"), exitUsage, "do y"},
		{errUnverified, exitCorrupt, ""},
		{errors.New("x"), exitFailed, ""},
	} {
		err := fmt.Errorf("f.tar: %w", c.err)
		var out bytes.Buffer
		p := &program{stderr: &out, bar: newBar(&out)}
		if code := p.fail(context.Background(), err); code != c.code {
			t.Errorf("%v: exit code %d, want %d", err, code, c.code)
		}
		if !strings.HasPrefix(out.String(), "tarvm: f.tar: ") || !strings.Contains(out.String(), c.hint) || c.hint == "" && strings.Contains(out.String(), "hint:") {
			t.Errorf("%v: wrote %q, want a hint with %q", err, out.String(), c.hint)
		}
	}
}

func TestQuietEnds(t *testing.T) {
	stopped, cancel := context.WithCancel(context.Background())
	cancel()
	for _, c := range []struct {
		ctx  context.Context
		err  error
		code int
		want string
	}{
		{context.Background(), &fs.PathError{Op: "write", Path: "stdout", Err: syscall.EPIPE}, exitFailed, ""},
		{context.Background(), errDifferent, exitFailed, ""},
		{stopped, errors.New("whatever came of it"), exitFailed, "tarvm: interrupted\n"},
		{stopped, usage(errors.New("x")), exitUsage, "tarvm: x\n"},
	} {
		var out bytes.Buffer
		p := &program{stderr: &out, bar: newBar(&out)}
		if code := p.fail(c.ctx, c.err); code != c.code || out.String() != c.want {
			t.Errorf("%v: code %d, wrote %q", c.err, code, out.String())
		}
	}
}

func TestBarLine(t *testing.T) {
	start := time.Unix(1000, 0)
	b := &bar{start: start, base: 10 << 20}
	e := event{Phase: "pack", Path: "some/long/path/to/disk.img", Done: 110 << 20, Total: 1010 << 20}
	at := start.Add(10 * time.Second)
	want := "pack  10 % 110.0 MiB of 1010.0 MiB, 10.0 MiB/s, 1m30s left: some/long/path/to/disk.img"
	if got := b.line(e, at, 0); got != want {
		t.Errorf("got %q, want %q", got, want)
	}
	for width := range 120 {
		if n := utf8.RuneCountInString(b.line(e, at, width)); width > 70 && n > width {
			t.Errorf("%d columns in %d", n, width)
		}
	}
	if got := b.line(e, at, 72); !strings.HasSuffix(got, "left: …to/disk.img") {
		t.Errorf("cut: %q", got)
	}
	e.Path, e.Total = "a\x1b[2J", 0
	if got := b.line(e, start, 0); got != `pack 110.0 MiB: "a\x1b[2J"` {
		t.Errorf("got %q", got)
	}
}

func TestBarModes(t *testing.T) {
	run := func(mode string, quiet bool) string {
		var out bytes.Buffer
		b := newBar(&out)
		if err := b.setMode(mode, quiet); err != nil {
			t.Fatal(err)
		}
		for i := range int64(11) {
			b.report(event{Phase: "pack", Path: "d", Done: i, Total: 10})
		}
		b.clear()
		return out.String()
	}
	for _, c := range []struct {
		mode  string
		quiet bool
	}{{"auto", false}, {"none", false}, {"plain", true}} {
		if got := run(c.mode, c.quiet); got != "" {
			t.Errorf("%v: %q", c, got)
		}
	}
	lines := strings.Split(strings.TrimSpace(run("json", true)), "\n")
	var last event
	if err := json.Unmarshal([]byte(lines[len(lines)-1]), &last); err != nil || last.Done != 10 {
		t.Errorf("the last event is %q", lines)
	}
	if len(lines) != 2 {
		t.Errorf("%d events in no time", len(lines))
	}
	if got := run("plain", false); !strings.Contains(got, "pack 100 % 10 B of 10 B: d\n") {
		t.Errorf("plain: %q", got)
	}
	if err := newBar(nil).setMode("sometimes", false); err == nil {
		t.Error("an unknown mode is taken")
	}
}

// A writer that fails must not fail the work.
type closed struct{}

func (closed) Write([]byte) (int, error) { return 0, syscall.EPIPE }

func TestBarWithoutReader(t *testing.T) {
	b := newBar(closed{})
	b.mode = "json"
	b.report(event{Phase: "x"})
	if b.mode != "none" {
		t.Error("it keeps writing to nobody")
	}
}
