package xva

import (
	"bytes"
	"context"
	"io"

	"tarvm/formats"
	"tarvm/ovf/internal/unpack"
)

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
	f := unpack.Form{Name: form, Kind: Compression, Accept: func(first []byte) error {
		if !Probe(first) {
			return &formats.FormatError{Format: form, Structure: "archive", Offset: 0, Got: "it does not begin with ova.xml", Err: formats.ErrNotFormat}
		}
		return nil
	}}
	return f.To(ctx, w, r, limit)
}
