package codec

import (
	"bufio"
	"io"
)

// A Walker passes the frames of a stream on as they are, and follows where they begin and end, so that what stands behind
// the last of them is left for others.
type Walker struct {
	b    *bufio.Reader
	step func(w *Walker) error
	head []byte // read and looked at, to pass on
	skip int64  // bytes to pass on as they are
	err  error
}

// NewWalker returns a Walker of the frames with which b begins. Step is called wherever it is to be found out what comes
// next: it calls Take, Drop and Skip. It returns io.EOF in front of what is no frame, and sets by Next what is called
// afterwards.
func NewWalker(b *bufio.Reader, step func(*Walker) error) *Walker { return &Walker{b: b, step: step} }

// Next sets the function that is called when what was taken has been passed on.
func (w *Walker) Next(step func(*Walker) error) { w.step = step }

// Peek returns the next n bytes, fewer at the end of the stream.
func (w *Walker) Peek(n int) ([]byte, error) {
	p, err := w.b.Peek(n)
	if err == io.EOF { //nolint:errorlint // bufio returns it as it is
		err = nil
	}
	return p, err
}

// Take passes n bytes on, and returns them until the next call.
func (w *Walker) Take(n int) ([]byte, error) {
	at := len(w.head)
	w.head = append(w.head, make([]byte, n)...)
	k, err := io.ReadFull(w.b, w.head[at:])
	w.head = w.head[:at+k]
	return w.head[at:], cutOff(err)
}

// Drop reads n bytes, and does not pass them on.
func (w *Walker) Drop(n int64) error {
	_, err := io.CopyN(io.Discard, w.b, n)
	return cutOff(err)
}

// Skip passes n bytes on behind those that were taken, unseen.
func (w *Walker) Skip(n int64) { w.skip = n }

func cutOff(err error) error {
	if err == io.EOF { //nolint:errorlint // ReadFull and CopyN return it as it is
		return io.ErrUnexpectedEOF
	}
	return err
}

// Read implements io.Reader.
func (w *Walker) Read(p []byte) (int, error) {
	if len(p) == 0 {
		return 0, nil
	}
	for len(w.head) == 0 && w.skip == 0 {
		if w.err != nil {
			return 0, w.err
		}
		w.err = w.step(w) // what was taken before it failed is passed on
	}
	if len(w.head) > 0 {
		n := copy(p, w.head)
		if w.head = w.head[n:]; len(w.head) == 0 {
			w.head = w.head[:0:0]
		}
		return n, nil
	}
	n, err := w.b.Read(p[:min(int64(len(p)), w.skip)])
	w.skip -= int64(n)
	if err != nil && n == 0 {
		w.err = cutOff(err)
		return 0, w.err
	}
	return n, nil
}
