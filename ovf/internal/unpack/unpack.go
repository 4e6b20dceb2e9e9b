// Package unpack writes what a compressed package holds to where it can be read at random. It knows gzip and zstd, in
// which machines are exported, and copies what is not compressed.
//
// Security: streams are untrusted. No more is written than a limit, nothing before the caller has accepted how the content
// begins, and a zstd frame may ask for 128 MiB of memory.
package unpack

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"

	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"

	"tarvm/formats"
)

// maxWindow bounds what a zstd frame may ask for in memory; xapi's need 8 MiB.
const maxWindow = 128 << 20

const (
	headLen  = 6   // bytes that tell the compression
	firstLen = 512 // bytes that tell the content: a tar header
)

// A Form is a kind of package.
type Form struct {
	Name string // begins errors
	// Kind tells the compression from the first bytes: gzip, zstd, "" for none; others are formats.ErrUnsupported.
	Kind func(head []byte) string
	// Accept is shown the first 512 bytes of the content, or all of it, and returns why it is no such package.
	Accept func(first []byte) error
}

// To unpacks r to w and returns how many bytes that were. It is formats.ErrUnsupported after limit bytes, and
// formats.ErrCorrupt when the compression is damaged; else the error of Accept, r or w.
func (f Form) To(ctx context.Context, w io.Writer, r io.Reader, limit int64) (int64, error) {
	br := bufio.NewReaderSize(readFunc(func(p []byte) (int, error) {
		if ctx.Err() != nil {
			return 0, context.Cause(ctx)
		}
		return r.Read(p)
	}), 1<<20)
	head, err := br.Peek(headLen)
	if err != nil && !errors.Is(err, io.EOF) {
		return 0, err
	}
	var in io.Reader = br
	kind := f.Kind(head)
	switch kind {
	case "":
	case "gzip":
		z, err := gzip.NewReader(br)
		if err != nil {
			return 0, f.damaged(kind, br, err)
		}
		defer z.Close()
		in = z
	case "zstd":
		z, err := zstd.NewReader(br, zstd.WithDecoderMaxWindow(maxWindow), zstd.WithDecoderConcurrency(2))
		if err != nil {
			return 0, f.damaged(kind, br, err)
		}
		defer z.Close()
		in = z
	default:
		return 0, fmt.Errorf("%s: %s: %w", f.Name, kind, formats.ErrUnsupported)
	}
	first := make([]byte, firstLen)
	n, err := io.ReadFull(in, first)
	if err != nil && !errors.Is(err, io.EOF) && !errors.Is(err, io.ErrUnexpectedEOF) {
		return 0, f.damaged(kind, br, err)
	}
	if err := f.Accept(first[:n]); err != nil {
		return 0, err
	}
	out := &limited{w: w, form: f.Name, left: limit}
	if _, err := out.Write(first[:n]); err != nil {
		return 0, err
	}
	m, err := io.CopyBuffer(out, struct{ io.Reader }{in}, make([]byte, 256<<10))
	done := int64(n) + m
	switch {
	case out.err != nil:
		return done, out.err
	case err != nil && ctx.Err() != nil:
		return done, context.Cause(ctx)
	case err != nil:
		return done, f.damaged(kind, br, err)
	}
	return done, nil
}

// damaged tells an error of the decoder from one of what it reads.
func (f Form) damaged(kind string, br *bufio.Reader, err error) error {
	if _, rerr := br.Peek(1); rerr != nil && !errors.Is(rerr, io.EOF) {
		return rerr
	}
	if errors.Is(err, zstd.ErrWindowSizeExceeded) || errors.Is(err, zstd.ErrDecoderSizeExceeded) {
		return fmt.Errorf("%s: %s: %w: %w", f.Name, kind, err, formats.ErrUnsupported)
	}
	if kind == "" {
		return err
	}
	return fmt.Errorf("%s: %s: %w: %w", f.Name, kind, err, formats.ErrCorrupt)
}

type readFunc func(p []byte) (int, error)

func (f readFunc) Read(p []byte) (int, error) { return f(p) }

type limited struct {
	w    io.Writer
	form string
	left int64
	err  error
}

func (l *limited) Write(p []byte) (int, error) {
	if l.err == nil && int64(len(p)) > l.left {
		l.err = fmt.Errorf("%s: more than the limit: %w", l.form, formats.ErrUnsupported)
	}
	if l.err != nil {
		return 0, l.err
	}
	var n int
	n, l.err = l.w.Write(p)
	l.left -= int64(n)
	return n, l.err
}
