package xva

import (
	"bufio"
	"bytes"
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

// Compression tells what a file is compressed with by its first 4 bytes: gzip or zstd, with which XenServer and XCP-ng
// export, or "", for anything else.
func Compression(head []byte) string {
	switch {
	case bytes.HasPrefix(head, []byte{0x1f, 0x8b}):
		return "gzip"
	case bytes.HasPrefix(head, []byte{0x28, 0xb5, 0x2f, 0xfd}):
		return "zstd"
	}
	return ""
}

// Decompress unpacks r to w, which [Open] can then read; what is not compressed is copied. It stops with
// formats.ErrUnsupported after limit bytes, and with formats.ErrNotFormat after the first 512 if these do not begin an
// XVA, so that nothing else fills a disk. Damaged compression is formats.ErrCorrupt.
func Decompress(ctx context.Context, w io.Writer, r io.Reader, limit int64) (int64, error) {
	br := bufio.NewReaderSize(readFunc(func(p []byte) (int, error) {
		if ctx.Err() != nil {
			return 0, context.Cause(ctx)
		}
		return r.Read(p)
	}), 1<<20)
	head, err := br.Peek(4)
	if err != nil && !errors.Is(err, io.EOF) {
		return 0, err
	}
	var in io.Reader = br
	kind := Compression(head)
	switch kind {
	case "gzip":
		z, err := gzip.NewReader(br)
		if err != nil {
			return 0, damaged(kind, br, err)
		}
		defer z.Close()
		in = z
	case "zstd":
		z, err := zstd.NewReader(br, zstd.WithDecoderMaxWindow(maxWindow), zstd.WithDecoderConcurrency(2))
		if err != nil {
			return 0, damaged(kind, br, err)
		}
		defer z.Close()
		in = z
	}
	first := make([]byte, 512)
	n, err := io.ReadFull(in, first)
	if err != nil && !errors.Is(err, io.EOF) && !errors.Is(err, io.ErrUnexpectedEOF) {
		return 0, damaged(kind, br, err)
	}
	if !Probe(first[:n]) {
		return 0, &formats.FormatError{Format: form, Structure: "archive", Offset: 0, Got: "it does not begin with ova.xml", Err: formats.ErrNotFormat}
	}
	if _, err := w.Write(first[:n]); err != nil {
		return 0, err
	}
	out := &limited{w: w, left: limit - int64(n)}
	m, err := io.CopyBuffer(out, struct{ io.Reader }{in}, make([]byte, 256<<10))
	done := int64(n) + m
	switch {
	case out.err != nil:
		return done, out.err
	case err != nil && ctx.Err() != nil:
		return done, context.Cause(ctx)
	case err != nil:
		return done, damaged(kind, br, err)
	}
	return done, nil
}

// damaged tells an error of the decoder from one of what it reads.
func damaged(kind string, br *bufio.Reader, err error) error {
	if _, rerr := br.Peek(1); rerr != nil && !errors.Is(rerr, io.EOF) {
		return rerr
	}
	if errors.Is(err, zstd.ErrWindowSizeExceeded) || errors.Is(err, zstd.ErrDecoderSizeExceeded) {
		return fmt.Errorf("xva: %s: %w: %w", kind, err, formats.ErrUnsupported)
	}
	if kind == "" {
		return err
	}
	return fmt.Errorf("xva: %s: %w: %w", kind, err, formats.ErrCorrupt)
}

// readFunc is an io.Reader.
type readFunc func(p []byte) (int, error)

func (f readFunc) Read(p []byte) (int, error) { return f(p) }

type limited struct {
	w    io.Writer
	left int64
	err  error
}

func (l *limited) Write(p []byte) (int, error) {
	if l.err == nil && int64(len(p)) > l.left {
		l.err = fmt.Errorf("xva: more than the limit: %w", formats.ErrUnsupported)
	}
	if l.err != nil {
		return 0, l.err
	}
	var n int
	n, l.err = l.w.Write(p)
	l.left -= int64(n)
	return n, l.err
}
