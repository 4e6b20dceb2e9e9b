package platform

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"
)

const (
	// stopWait is how long a program may take to end when it was interrupted: QEMU writes back what its disks have in memory.
	stopWait = 30 * time.Second
	// drainWait is how long output is waited for after a program ended. Servers that it left behind, such as VirtualBox's,
	// hold its output for as long as they run.
	drainWait = 200 * time.Millisecond
)

// A StepError is a program that did not do what it should.
type StepError struct {
	Step Command
	Last string // the last line that it wrote to its standard error
	Err  error  // of exec

	said string // the end of its standard error
}

func (e *StepError) Error() string {
	s := fmt.Sprintf("%s: %v", filepath.Base(e.Step.Args[0]), e.Err)
	if len(e.Step.Args) > 1 && !strings.ContainsAny(e.Step.Args[1], "/\n") {
		s = fmt.Sprintf("%s %s: %v", filepath.Base(e.Step.Args[0]), e.Step.Args[1], e.Err)
	}
	if e.Last != "" {
		s += ": " + e.Last
	}
	return s
}

func (e *StepError) Unwrap() error { return e.Err }

// Run runs the steps, and passes on what they print; either writer may be nil. The first that fails ends it, with a
// *StepError. When ctx ends, the program that runs is interrupted, as by a terminal's ^C, and after 30 seconds killed.
func Run(ctx context.Context, l *Launch, stdout, stderr io.Writer) error {
	for _, c := range l.Steps {
		if c.Unless != nil {
			var answer bytes.Buffer
			// Its failing is a no.
			_ = run(ctx, Command{Args: c.Unless.Args, Dir: c.Dir, Env: c.Env}, &answer, nil)
			lines := strings.Split(strings.ReplaceAll(answer.String(), "\r\n", "\n"), "\n")
			if slices.Contains(lines, c.Unless.Line) {
				continue
			}
		}
		if err := run(ctx, c, stdout, stderr); err != nil {
			return err
		}
	}
	return nil
}

func run(ctx context.Context, c Command, stdout, stderr io.Writer) (err error) {
	if err := ctx.Err(); err != nil {
		return err
	}
	cmd := exec.CommandContext(ctx, c.Args[0], c.Args[1:]...)
	cmd.Dir = c.Dir
	cmd.Env = append(os.Environ(), c.Env...)
	if c.Stdin != "" {
		cmd.Stdin = strings.NewReader(c.Stdin)
	}
	cmd.Cancel = func() error {
		if err := cmd.Process.Signal(os.Interrupt); err != nil { // Windows has none
			return cmd.Process.Kill()
		}
		return nil
	}
	cmd.WaitDelay = stopWait
	last := &tail{}
	out, err := pass(stdout)
	if err != nil {
		return err
	}
	warnings, err := pass(both{last, stderr})
	if err != nil {
		out.end()
		return err
	}
	cmd.Stdout, cmd.Stderr = out.file, warnings.file
	err = cmd.Run()
	out.end()
	warnings.end()
	if err != nil && ctx.Err() != nil {
		err = ctx.Err()
	}
	if err != nil {
		return &StepError{c, last.line(), err, last.text()}
	}
	return nil
}

// A pipe passes on what a program writes.
type pipe struct {
	file   *os.File // what the program writes to
	reader *os.File
	done   chan struct{}
}

func pass(to io.Writer) (*pipe, error) {
	if f, ok := to.(*os.File); ok {
		return &pipe{file: f}, nil
	}
	r, w, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	p := &pipe{w, r, make(chan struct{})}
	go func() {
		defer close(p.done)
		if to == nil {
			to = io.Discard
		}
		if _, err := io.Copy(to, r); err != nil && !errors.Is(err, os.ErrDeadlineExceeded) {
			_, _ = io.Copy(io.Discard, r) // the program is not to be stopped by our own output
		}
	}()
	return p, nil
}

// end waits for what was written before the program ended.
func (p *pipe) end() {
	if p.reader == nil {
		return
	}
	p.file.Close()
	_ = p.reader.SetReadDeadline(time.Now().Add(drainWait)) // where there are none, servers do not hold it either
	<-p.done
	p.reader.Close()
}

// both writes to the first, and to the second if there is one.
type both struct{ a, b io.Writer }

func (w both) Write(p []byte) (int, error) {
	if n, err := w.a.Write(p); err != nil || w.b == nil {
		return n, err
	}
	return w.b.Write(p)
}

// A tail keeps the end of what is written.
type tail struct {
	mu sync.Mutex
	b  []byte
}

const maxTail = 4 << 10

func (t *tail) Write(p []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.b = append(t.b, p...)
	t.b = t.b[max(0, len(t.b)-maxTail):]
	return len(p), nil
}

func (t *tail) text() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return strings.TrimSpace(string(t.b))
}

// line returns the last line that is for people: VBoxManage's ends with where in its source the error arose.
func (t *tail) line() string {
	lines := strings.FieldsFunc(t.text(), func(r rune) bool { return r == '\n' || r == '\r' })
	for i := len(lines) - 1; i >= 0; i-- {
		l := strings.TrimSpace(lines[i])
		if l != "" && !strings.HasPrefix(l, "VBoxManage: error: Details:") && !strings.HasPrefix(l, "VBoxManage: error: Context:") {
			return l
		}
	}
	return ""
}

// State runs a Launch of the action Status and says what the machine is doing.
func (l *Launch) State(ctx context.Context) (State, error) {
	if l.Action != Status || len(l.Steps) != 1 {
		return "", fmt.Errorf("%s: %w", l.Action, errAction)
	}
	var out bytes.Buffer
	err := run(ctx, l.Steps[0], &out, nil)
	if ctx.Err() != nil {
		return "", err
	}
	off := Off
	if l.Saved {
		off = Suspended
	}
	var step *StepError
	if errors.As(err, &step) {
		// A machine that the platform does not know does not run there.
		for _, unknown := range []string{"Could not find a registered machine", "failed to get domain", "Domain not found", "is an invalid domain identifier"} {
			if strings.Contains(step.said, unknown) {
				return off, nil
			}
		}
	}
	if err != nil {
		return "", err
	}
	lines := strings.Split(strings.ReplaceAll(out.String(), "\r\n", "\n"), "\n")
	switch l.Platform {
	case VMware:
		if slices.Contains(lines, l.config) {
			return Running, nil
		}
		return off, nil
	case VirtualBox:
		for _, line := range lines {
			if v, ok := strings.CutPrefix(line, "VMState="); ok {
				return word(strings.Trim(v, `"`), off), nil
			}
		}
	case Libvirt, QEMU:
		return word(strings.TrimSpace(lines[0]), off), nil
	case Xen:
		// The columns are name, number, memory, processors, state and time.
		if len(lines) > 1 {
			if f := strings.Fields(lines[1]); len(f) > 5 {
				if strings.Contains(f[len(f)-2], "p") {
					return Paused, nil
				}
				return Running, nil
			}
		}
	}
	return Unknown, nil
}

// word is what a platform's word means.
func word(w string, off State) State {
	switch w {
	case "running", "idle", "in shutdown":
		return Running
	case "paused":
		return Paused
	case "saved", "aborted-saved":
		return Suspended
	case "off", "shut off", "poweroff", "aborted", "crashed":
		return off
	}
	return Unknown
}
