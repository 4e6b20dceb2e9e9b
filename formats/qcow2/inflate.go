package qcow2

import (
	"bytes"
	"errors"
	"io"
	"sync"

	"github.com/klauspost/compress/zstd"

	"tarvm/formats"
	"tarvm/formats/internal/inflate"
)

// maxWindow bounds the memory of a zstd decoder. A cluster has at most 2 MiB, so
// that writers have no use for a larger window than that.
const maxWindow = 8 << 20

// An inflater decodes one cluster after the other.
type inflater struct {
	in    []byte
	out   []byte
	plain inflate.Decoder
	zstd  *zstd.Decoder
	// A decoder that was left in the middle of a stream would keep DecodeAll
	// waiting for ever.
	slow *zstd.Decoder
	src  bytes.Reader
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
	var got int
	var err error
	if im.compression == compressZstd {
		got, err = d.unzstd(dst)
	} else {
		got, _, err = d.plain.Deflate(dst, d.in)
	}
	switch {
	case got == len(dst):
		return nil
	case errors.Is(err, zstd.ErrWindowSizeExceeded) || errors.Is(err, zstd.ErrDecoderSizeExceeded):
		return im.m.Unsupported("compressed cluster", e.Host, "a window of more than %d bytes", maxWindow)
	case err == nil || errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF):
		return im.m.Corrupt("compressed cluster", e.Host, "%d bytes give %d of %d", n, got, len(dst))
	}
	return im.m.Corrupt("compressed cluster", e.Host, "%d bytes: %v", n, err)
}

// slack is the room behind the data with which the decoder copies in larger pieces:
// that saves a twentieth of the time, with the copy to dst.
const slack = 64

// unzstd decodes d.in into dst.
func (d *inflater) unzstd(dst []byte) (n int, err error) {
	// Without the reader's copies: nearly always there is one frame that is the
	// cluster, and the rest of its last sector.
	if n := frameLen(d.in); n > 0 {
		if d.zstd == nil {
			if d.zstd, err = newZstd(); err != nil {
				return 0, err
			}
		}
		if cap(d.out) < len(dst)+slack {
			d.out = make([]byte, len(dst)+slack)
		}
		b, err := d.zstd.DecodeAll(d.in[:n], d.out[:0])
		if err == nil && len(b) == len(dst) {
			return copy(dst, b), nil
		}
	}
	if d.slow == nil {
		if d.slow, err = newZstd(); err != nil {
			return 0, err
		}
	}
	d.src.Reset(d.in)
	if err := d.slow.Reset(&d.src); err != nil {
		return 0, err
	}
	return io.ReadFull(d.slow, dst)
}

func newZstd() (*zstd.Decoder, error) {
	return zstd.NewReader(nil, zstd.WithDecoderConcurrency(1), zstd.WithDecoderLowmem(true),
		zstd.WithDecoderMaxWindow(maxWindow), zstd.WithDecodeAllCapLimit(true))
}

// frameLen returns how many bytes the zstd frame (RFC 8878) has at the start of b;
// 0: there is none, or it is not whole.
func frameLen(b []byte) int {
	// u32: magic; u8: bits 6 and 7: width of the content's size, bit 5: single
	// segment, without a window's u8, bit 2: a checksum of 4 bytes at the end, bits 0
	// and 1: width of the dictionary's number.
	const head = 5
	if len(b) < head || string(b[:4]) != "\x28\xb5\x2f\xfd" {
		return 0
	}
	flags := b[4]
	n := head + [...]int{0, 1, 2, 4}[flags&3]
	switch size := flags >> 6; {
	case flags&(1<<5) == 0:
		n += 1 + [...]int{0, 2, 4, 8}[size]
	default:
		n += [...]int{1, 2, 4, 8}[size]
	}
	for last := false; !last; {
		// u24: bit 0: the last block, bits 1 and 2: kind, bits 3 to 23: size.
		if len(b)-n < 3 {
			return 0
		}
		block := int(b[n]) | int(b[n+1])<<8 | int(b[n+2])<<16
		last = block&1 != 0
		if n += 3; block>>1&3 == 1 {
			n++ // one byte, repeated
		} else {
			n += block >> 3
		}
		if n > len(b) {
			return 0
		}
	}
	if flags&(1<<2) != 0 {
		n += 4
	}
	if n > len(b) {
		return 0
	}
	return n
}
