package cli

import (
	"context"
	"io"
)

// A pipe may stall for as long as it likes, and a read or a write that has begun cannot be taken back. It goes on beside, so
// that a run can be interrupted, until the program ends.

// input returns standard input for a run.
func (p *program) input(ctx context.Context) io.Reader {
	return &input{ctx: ctx, in: p.stdin, buf: make([]byte, 256<<10), got: make(chan piece, 1)}
}

type piece struct {
	n   int
	err error
}

// An input is used by one goroutine.
type input struct {
	ctx  context.Context // of one run
	in   io.Reader
	buf  []byte
	rest []byte // what was read and not taken
	err  error  // behind that
	got  chan piece
	busy bool // a read has begun
}

func (r *input) Read(b []byte) (int, error) {
	if len(b) == 0 {
		return 0, nil
	}
	for len(r.rest) == 0 {
		if r.err != nil {
			return 0, r.err
		}
		if !r.busy {
			r.busy = true
			go func() {
				n, err := r.in.Read(r.buf)
				r.got <- piece{n, err}
			}()
		}
		select {
		case x := <-r.got:
			r.busy, r.rest, r.err = false, r.buf[:x.n], x.err
		case <-r.ctx.Done():
			return 0, context.Cause(r.ctx)
		}
	}
	n := copy(b, r.rest)
	r.rest = r.rest[n:]
	return n, nil
}

// toPipe returns standard output for a run.
func (p *program) toPipe(ctx context.Context) io.Writer { return &pipeOutput{ctx: ctx, out: p.stdout} }

// A pipeOutput is used by one goroutine.
type pipeOutput struct {
	ctx context.Context // of one run
	out io.Writer
	buf []byte
	err error
}

// Write writes all of b at once, as the devices want it for which sizes matter.
func (w *pipeOutput) Write(b []byte) (int, error) {
	if w.err != nil {
		return 0, w.err
	}
	w.buf = append(w.buf[:0], b...)
	done := make(chan piece, 1)
	go func() {
		n, err := w.out.Write(w.buf)
		done <- piece{n, err}
	}()
	select {
	case x := <-done:
		w.err = x.err
		return x.n, x.err
	case <-w.ctx.Done():
		w.err = context.Cause(w.ctx) // the buffer is in use
		return 0, w.err
	}
}
