package vagrant

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

// maxWindow bounds what a decoder may be asked to keep in memory.
const maxWindow = 128 << 20

// Compression tells what a box is compressed with by its first 6 bytes: gzip, zstd, xz, zip, or "", for anything else.
func Compression(head []byte) string {
	for _, k := range []struct{ magic, name string }{
		{"\x1f\x8b", "gzip"}, {"\x28\xb5\x2f\xfd", "zstd"}, {"\xfd7zXZ\x00", "xz"}, {"PK\x03\x04", "zip"},
	} {
		if bytes.HasPrefix(head, []byte(k.magic)) {
			return k.name
		}
	}
	return ""
}

// Decompress unpacks gzip or zstd from r to w, which [OpenTar] can then read; what is not compressed is copied, so that r
// may be the output of another decoder. It stops with formats.ErrUnsupported after limit bytes, and at once for xz
// and zip, and with formats.ErrNotFormat after the first 512 if these are no tar
// header, so that nothing else fills a disk. Damaged compression is formats.ErrCorrupt.
func Decompress(ctx context.Context, w io.Writer, r io.Reader, limit int64) (int64, error) {
	br := bufio.NewReaderSize(readFunc(func(p []byte) (int, error) {
		if ctx.Err() != nil {
			return 0, context.Cause(ctx)
		}
		return r.Read(p)
	}), 1<<20)
	head, err := br.Peek(6)
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
	case "xz", "zip":
		return 0, fmt.Errorf("vagrant: %s: %w", kind, formats.ErrUnsupported)
	}
	var first [block]byte
	n, err := io.ReadFull(in, first[:])
	if err != nil && !errors.Is(err, io.EOF) && !errors.Is(err, io.ErrUnexpectedEOF) {
		return 0, damaged(kind, br, err)
	}
	if n < block || !sumRight(&first) {
		return 0, fail("archive", 0, formats.ErrNotFormat, "no tar archive")
	}
	out := &limited{w: w, left: limit}
	if _, err := out.Write(first[:]); err != nil {
		return 0, err
	}
	m, err := io.CopyBuffer(out, struct{ io.Reader }{in}, make([]byte, 256<<10))
	done := block + m
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
		return fmt.Errorf("vagrant: %s: %w: %w", kind, err, formats.ErrUnsupported)
	}
	if kind == "" {
		return err
	}
	return fmt.Errorf("vagrant: %s: %w: %w", kind, err, formats.ErrCorrupt)
}

type readFunc func(p []byte) (int, error)

func (f readFunc) Read(p []byte) (int, error) { return f(p) }

type limited struct {
	w    io.Writer
	left int64
	err  error
}

func (l *limited) Write(p []byte) (int, error) {
	if l.err == nil && int64(len(p)) > l.left {
		l.err = fmt.Errorf("vagrant: more than the limit: %w", formats.ErrUnsupported)
	}
	if l.err != nil {
		return 0, l.err
	}
	var n int
	n, l.err = l.w.Write(p)
	l.left -= int64(n)
	return n, l.err
}
