package cli

import (
	"bytes"
	"context"
	"errors"
	"io"
	"testing"
	"testing/iotest"
	"time"
)

// Standard input is read as it is, however it comes; and one that has nothing yet does not hold up an interrupt.
func TestInput(t *testing.T) {
	want := []byte(guestBytes(1 << 20))
	for name, in := range map[string]io.Reader{
		"whole": bytes.NewReader(want), "halves": iotest.HalfReader(bytes.NewReader(want)), "with its end": iotest.DataErrReader(bytes.NewReader(want)),
	} {
		p := &program{stdin: in}
		if err := iotest.TestReader(p.input(t.Context()), want); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	p := &program{stdin: iotest.TimeoutReader(iotest.HalfReader(bytes.NewReader(want)))}
	if b, err := io.ReadAll(p.input(t.Context())); !errors.Is(err, iotest.ErrTimeout) || len(b) == 0 || !bytes.HasPrefix(want, b) {
		t.Errorf("%d bytes, %v", len(b), err)
	}
	r, w := io.Pipe()
	defer w.Close()
	ctx, stop := context.WithCancelCause(t.Context())
	reason := errors.New("enough")
	time.AfterFunc(50*time.Millisecond, func() { stop(reason) })
	p = &program{stdin: r}
	if _, err := p.input(ctx).Read(make([]byte, 10)); !errors.Is(err, reason) {
		t.Error(err)
	}
}

// Nor does an output that nobody reads.
func TestPipeOutput(t *testing.T) {
	var b bytes.Buffer
	w := (&program{stdout: &b}).toPipe(t.Context())
	for _, s := range []string{"one", "", "two"} {
		if n, err := io.WriteString(w, s); n != len(s) || err != nil {
			t.Error(n, err)
		}
	}
	if b.String() != "onetwo" {
		t.Errorf("%q", b.String())
	}
	r, out := io.Pipe()
	ctx, stop := context.WithCancelCause(t.Context())
	reason := errors.New("enough")
	time.AfterFunc(50*time.Millisecond, func() { stop(reason) })
	w = (&program{stdout: out}).toPipe(ctx)
	for range 2 {
		if _, err := w.Write([]byte("x")); !errors.Is(err, reason) {
			t.Error(err)
		}
	}
	r.Close()
	if _, err := (&program{stdout: out}).toPipe(t.Context()).Write([]byte("x")); !errors.Is(err, io.ErrClosedPipe) {
		t.Error(err)
	}
}
