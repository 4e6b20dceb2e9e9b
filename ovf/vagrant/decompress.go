package vagrant

import (
	"bytes"
	"context"
	"io"

	"tarvm/formats"
	"tarvm/ovf/internal/unpack"
)

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
	f := unpack.Form{Name: "vagrant", Kind: Compression, Accept: func(first []byte) error {
		if len(first) < block || !sumRight((*[block]byte)(first)) {
			return fail("archive", 0, formats.ErrNotFormat, "no tar archive")
		}
		return nil
	}}
	return f.To(ctx, w, r, limit)
}
