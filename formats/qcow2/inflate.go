package qcow2

import (
	"bytes"
	"errors"
	"io"
	"sync"

	"github.com/klauspost/compress/flate"
	"github.com/klauspost/compress/zstd"

	"tarvm/formats"
)

// maxWindow bounds the memory of a zstd decoder. A cluster has at most 2 MiB, so
// that writers have no use for a larger window than that.
const maxWindow = 8 << 20

// An inflater decodes one cluster after the other.
type inflater struct {
	src   bytes.Reader
	in    []byte
	plain io.Reader // flate
	zstd  *zstd.Decoder
}

var inflaters = sync.Pool{New: func() any { return new(inflater) }}

// inflate implements formats.Image.Inflate. Deflate streams have no header. What
// follows the cluster's last byte is not looked at: it may be another cluster's.
func (im *image) inflate(e formats.Extent, dst []byte) error {
	d := inflaters.Get().(*inflater) //nolint:forcetypeassert // the pool holds nothing else
	defer inflaters.Put(d)
	n := min(e.Stored, im.m.Size()-e.Host, 2*im.unit)
	if n <= 0 || e.Host < 0 {
		return im.m.Corrupt("compressed cluster", e.Host, "%d bytes", e.Stored)
	}
	if int64(cap(d.in)) < n {
		d.in = make([]byte, n)
	}
	d.in = d.in[:n]
	if got, err := im.m.ReadAt(d.in, e.Host); int64(got) != n {
		if err == nil || errors.Is(err, io.EOF) {
			err = io.ErrUnexpectedEOF
		}
		return &formats.FormatError{Format: im.m.Format, Structure: "compressed cluster", Offset: e.Host, Err: err}
	}
	d.src.Reset(d.in)
	r, err := d.reader(im.compression)
	if err != nil {
		return err
	}
	got, err := io.ReadFull(r, dst)
	switch {
	case got == len(dst):
		return nil
	case errors.Is(err, zstd.ErrWindowSizeExceeded) || errors.Is(err, zstd.ErrDecoderSizeExceeded):
		return im.m.Unsupported("compressed cluster", e.Host, "a window of more than %d bytes", maxWindow)
	case errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF):
		return im.m.Corrupt("compressed cluster", e.Host, "%d bytes give %d of %d", n, got, len(dst))
	}
	return im.m.Corrupt("compressed cluster", e.Host, "%d bytes: %v", n, err)
}

// reader returns what decodes d.src.
func (d *inflater) reader(compression byte) (io.Reader, error) {
	if compression == compressZstd {
		if d.zstd == nil {
			var err error
			d.zstd, err = zstd.NewReader(nil, zstd.WithDecoderConcurrency(1), zstd.WithDecoderLowmem(true),
				zstd.WithDecoderMaxWindow(maxWindow))
			if err != nil {
				return nil, err
			}
		}
		return d.zstd, d.zstd.Reset(&d.src)
	}
	if d.plain == nil {
		d.plain = flate.NewReader(&d.src)
		return d.plain, nil
	}
	return d.plain, d.plain.(flate.Resetter).Reset(&d.src, nil) //nolint:forcetypeassert // as flate documents
}
