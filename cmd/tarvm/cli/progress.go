package cli

import (
	"encoding/json"
	"fmt"
	"io"
	"os"
	"sync"
	"time"
	"unicode/utf8"

	"golang.org/x/term"
)

// A bar shows the progress of a long operation on standard error.
type bar struct {
	w     io.Writer
	mode  string
	width func() int // of the terminal; nil: w is none

	mu    sync.Mutex
	phase string
	start time.Time // of the phase
	base  int64     // bytes that were done then
	last  time.Time // when something was written
	shown bool      // a line that must be cleared
}

// event is what --progress json writes.
type event struct {
	Phase string `json:"phase"`
	Path  string `json:"path,omitempty"`
	Done  int64  `json:"done"`
	Total int64  `json:"total,omitempty"`
}

// isTerminal reports whether somebody reads w on a screen.
func isTerminal(w io.Writer) bool {
	f, ok := w.(*os.File)
	return ok && term.IsTerminal(int(f.Fd()))
}

func newBar(w io.Writer) *bar {
	b := &bar{w: w, mode: "none"}
	if f, ok := w.(*os.File); ok && term.IsTerminal(int(f.Fd())) {
		b.width = func() int {
			n, _, err := term.GetSize(int(f.Fd()))
			if err != nil || n < 20 {
				return 80
			}
			return n
		}
	}
	return b
}

func (b *bar) setMode(mode string, quiet bool) error {
	switch mode {
	case "auto":
		mode = "none"
		if b.width != nil && os.Getenv("TERM") != "dumb" {
			mode = "line"
		}
	case "plain", "json", "none":
	default:
		return hint(usage(fmt.Errorf("--progress %q", mode)), "there are auto, plain, json, none")
	}
	if quiet && mode != "json" {
		mode = "none"
	}
	b.mode = mode
	return nil
}

// report is called by whatever is at work, as often as it likes.
func (b *bar) report(e event) {
	if b.mode == "none" {
		return
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	now := time.Now()
	first := e.Phase != b.phase || e.Done < b.base
	if first {
		b.phase, b.start, b.base = e.Phase, now, e.Done
		b.last = time.Time{}
	}
	every := 100 * time.Millisecond
	if b.mode == "plain" {
		every = 5 * time.Second
	}
	if now.Sub(b.last) < every && !(e.Total > 0 && e.Done == e.Total) {
		return
	}
	b.last = now
	var err error
	switch b.mode {
	case "json":
		var line []byte
		if line, err = json.Marshal(e); err == nil {
			_, err = b.w.Write(append(line, '\n'))
		}
	case "plain":
		_, err = fmt.Fprintln(b.w, b.line(e, now, 0))
	case "line":
		_, err = fmt.Fprintf(b.w, "\r%s\x1b[K", b.line(e, now, b.width()-1))
		b.shown = true
	}
	if err != nil {
		b.mode = "none" // nobody is watching
	}
}

// line says phase, percent, rate, time to go, and the path, whose beginning is left out when the line is
// wider than width.
func (b *bar) line(e event, now time.Time, width int) string {
	s := e.Phase + " "
	if e.Total > 0 {
		s += fmt.Sprintf("%3d %% ", min(100, e.Done*100/e.Total))
	}
	s += size(e.Done)
	if e.Total > 0 {
		s += " of " + size(e.Total)
	}
	took := now.Sub(b.start).Seconds()
	if done := e.Done - b.base; took > 0.5 && done > 0 {
		rate := float64(done) / took
		s += fmt.Sprintf(", %s/s", size(int64(rate)))
		if left := float64(e.Total-e.Done) / rate; e.Total > e.Done {
			s += ", " + time.Duration(left*float64(time.Second)).Round(time.Second).String() + " left"
		}
	}
	if e.Path == "" {
		return s
	}
	path := quoted(e.Path)
	if width > 0 {
		room := width - utf8.RuneCountInString(s) - 2
		if r := []rune(path); len(r) > room {
			if room < 4 {
				return s
			}
			path = "…" + string(r[len(r)-room+1:])
		}
	}
	return s + ": " + path
}

// clear removes the line from the terminal, so that something else can be written.
func (b *bar) clear() {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.shown {
		_, _ = io.WriteString(b.w, "\r\x1b[K")
		b.shown = false
	}
}
