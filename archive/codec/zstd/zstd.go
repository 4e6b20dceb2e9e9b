// Package zstd codes frames of Zstandard, RFC 8878, with klauspost/compress, and appends the table of the seekable format
// (facebook/zstd, contrib/seekable_format/zstd_seekable_compression_format.md, version 0.1.0).
//
// Streams of any origin are read with windows of up to 128 MiB, as zstd -d does without --long.
package zstd

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"fmt"
	"io"

	"github.com/cespare/xxhash/v2"
	"github.com/klauspost/compress/zstd"

	"tarvm/archive/codec"
)

// Codec codes with Zstandard.
type Codec struct{}

// Name returns "zstd".
func (Codec) Name() string { return "zstd" }

// Suffixes returns those of a compressed tar.
func (Codec) Suffixes() []string { return []string{".tar.zst", ".tar.zstd", ".tzst", ".zst"} }

// Levels are numbered as the zstd program's. The encoder has four speeds: 1 and 2, 3 to 5, 6 to 9, and
// from 10 on. From 3 to 5, frames of which a probe says that they gain little are coded as with 1.
func (Codec) Levels() codec.Levels { return codec.Levels{Min: 1, Default: 3, Max: 19} }

// FrameSize is 4 MiB: on VM data smaller ones cost 3 % (1 MiB) and 15 % (64 KiB) in size.
func (Codec) FrameSize() int { return 4 << 20 }

const (
	magic      = "\x28\xb5\x2f\xfd"
	skippable  = 0x184D2A50 // and 15 more
	tableMagic = 0x184D2A5E
	footMagic  = 0x8F92EAB1
	footLen    = 9
)

// Match looks for a frame's magic.
func (Codec) Match(head []byte) bool {
	return bytes.HasPrefix(head, []byte(magic)) ||
		len(head) >= 4 && binary.LittleEndian.Uint32(head)&^15 == skippable && !isLZ4Next(head)
}

// isLZ4Next reports whether skippable frames, which both formats have, are followed by an lz4 frame.
func isLZ4Next(head []byte) bool {
	for len(head) >= 8 && binary.LittleEndian.Uint32(head)&^15 == skippable {
		head = head[min(int64(len(head)), 8+int64(binary.LittleEndian.Uint32(head[4:]))):]
	}
	return len(head) >= 4 && binary.LittleEndian.Uint32(head) == 0x184D2204
}

func speed(level int) zstd.EncoderLevel {
	switch {
	case level <= 2:
		return zstd.SpeedFastest
	case level <= 5:
		return zstd.SpeedDefault
	case level <= 9:
		return zstd.SpeedBetterCompression
	}
	return zstd.SpeedBestCompression
}

// NewEncoder returns an encoder of one goroutine.
func (Codec) NewEncoder(level int) (codec.Encoder, error) {
	e, err := newEncoder(speed(level))
	if err != nil {
		return nil, err
	}
	if speed(level) != zstd.SpeedDefault {
		return &encoder{e: e}, nil
	}
	fast, err := newEncoder(zstd.SpeedFastest)
	if err != nil {
		return nil, err
	}
	return &encoder{e: e, fast: fast}, nil
}

// window is that of a frame: a larger one costs memory, and finds nothing more.
const window = 4 << 20

func newEncoder(l zstd.EncoderLevel) (*zstd.Encoder, error) {
	e, err := zstd.NewWriter(nil, zstd.WithEncoderLevel(l), zstd.WithEncoderConcurrency(1), zstd.WithEncoderCRC(true),
		zstd.WithZeroFrames(true), zstd.WithLowerEncoderMem(false), zstd.WithWindowSize(window))
	if err != nil {
		return nil, fmt.Errorf("zstd: %w", err)
	}
	return e, nil
}

type encoder struct {
	e            *zstd.Encoder
	fast         *zstd.Encoder // for frames that e does not make much smaller; nil: none
	pages, probe []byte
}

// The probe of a frame is some pages of it, far from each other: new data of a VM changes its nature within a frame. A frame for which
// the fast encoder needs less than worth of the probe's size more is given to it.
//
// New data of three states of a Debian machine, in MB and seconds of a processor for encoding, the probe included:
//
//	                                           1.4 GB         630 MB         430 MB
//	never fast                                 304.3  3.87    273.3  2.16    180.2  1.71
//	one run of 48 KiB, 0.03 of what it makes   308.5  3.67    276.9  2.03    184.7  1.60
//	8 pages, 0.0150 of the probe's size        309.4  3.50    276.3  1.89    184.9  1.56
//	8 pages, 0.0175                            310.4  3.44    277.1  1.85    185.1  1.52
//	8 pages, 0.0200                            312.1  3.37    278.8  1.80    185.4  1.50
//	12 pages, 0.0175                           309.9  3.48    277.1  1.89    183.1  1.55
//	always fast                                317.9  3.02    283.5  1.57    189.2  1.25
const (
	probePages = 8
	probePage  = 4 << 10
	worth      = 0.0175
)

func (e *encoder) Encode(dst, src []byte) ([]byte, error) {
	if e.fast != nil && len(src) >= 8*probePages*probePage {
		p := e.pages[:0]
		for i := range probePages {
			at := (len(src) - probePage) * (2*i + 1) / (2 * probePages) / probePage * probePage
			p = append(p, src[at:at+probePage]...)
		}
		e.pages = p
		e.probe = e.fast.EncodeAll(p, e.probe[:0])
		fast := len(e.probe)
		e.probe = e.e.EncodeAll(p, e.probe[:0])
		if slow := len(e.probe); float64(fast-slow) < worth*float64(len(p)) {
			return e.fast.EncodeAll(src, dst), nil
		}
	}
	return e.e.EncodeAll(src, dst), nil
}

// NewDecoder returns a decoder of one goroutine.
func (Codec) NewDecoder(o codec.DecoderOptions) (codec.Decoder, error) {
	d, err := zstd.NewReader(nil, zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxMemory(codec.MaxFrame),
		zstd.WithDecodeAllCapLimit(true), zstd.IgnoreChecksum(o.Unchecked))
	if err != nil {
		return nil, fmt.Errorf("zstd: %w", err)
	}
	return &decoder{d}, nil
}

type decoder struct {
	d *zstd.Decoder
}

func (d *decoder) Decode(dst, frame []byte, size int64) ([]byte, error) {
	if size < 0 || size > codec.MaxFrame {
		return dst, fmt.Errorf("%w: zstd: frame of %d bytes", codec.ErrCorrupt, size)
	}
	// The header says how much will come, unless that is less than 256 bytes, which it has no field for. In any case
	// the decoder is given room for the size, and makes no more.
	var h zstd.Header
	if err := h.Decode(frame); err != nil {
		return dst, fmt.Errorf("%w: zstd: %w", codec.ErrCorrupt, err)
	}
	if h.Skippable || h.HasFCS && h.FrameContentSize != uint64(size) {
		return dst, fmt.Errorf("%w: zstd: frame of %d bytes, want %d", codec.ErrCorrupt, h.FrameContentSize, size)
	}
	if !single(&h, frame) {
		return dst, fmt.Errorf("%w: zstd: %d bytes are not one frame", codec.ErrCorrupt, len(frame))
	}
	n := len(dst)
	if int64(cap(dst)-n) < size {
		dst = append(make([]byte, 0, int64(n)+size), dst...)
	}
	out, err := d.d.DecodeAll(frame, dst[n:n:int64(n)+size])
	if err != nil {
		return dst, fmt.Errorf("%w: zstd: %w", codec.ErrCorrupt, err)
	}
	if int64(len(out)) != size {
		return dst, fmt.Errorf("%w: zstd: %d bytes, want %d", codec.ErrCorrupt, len(out), size)
	}
	return dst[:n+len(out)], nil // where it is already; to append it would copy it onto itself
}

// single reports whether b is one frame with header h, to its last byte: the library would take more frames.
func single(h *zstd.Header, b []byte) bool {
	b = b[h.HeaderSize:]
	for last := false; !last; {
		if len(b) < 3 {
			return false
		}
		v := int(b[0]) | int(b[1])<<8 | int(b[2])<<16
		n := v >> 3
		if v>>1&3 == 1 { // one byte, repeated n times
			n = 1
		}
		if len(b) < 3+n {
			return false
		}
		last, b = v&1 != 0, b[3+n:]
	}
	return len(b) == 0 && !h.HasCheckSum || len(b) == 4 && h.HasCheckSum
}

// NewReader decodes a stream of frames and skippable frames.
func (Codec) NewReader(r io.Reader) (io.ReadCloser, error) { return newReader(r) }

// NewRun decodes the frames and skippable frames with which b begins.
func (Codec) NewRun(b *bufio.Reader) (io.ReadCloser, error) {
	return newReader(codec.NewWalker(b, walk))
}

// walk goes over a frame (RFC 8878, section 3.1).
func walk(w *codec.Walker) error {
	p, err := w.Peek(4)
	if err != nil {
		return err
	}
	if len(p) < 4 { // the decoder says what is wrong with it
		if len(p) > 0 && (p[0] == magic[0] || p[0]&^15 == skippable&0xff) {
			_, err := w.Take(len(p))
			return err
		}
		return io.EOF
	}
	if binary.LittleEndian.Uint32(p)&^15 == skippable {
		if p, err = w.Take(8); err == nil {
			w.Skip(int64(binary.LittleEndian.Uint32(p[4:])))
		}
		return err
	}
	if string(p) != magic {
		return io.EOF
	}
	if p, err = w.Take(5); err != nil {
		return err
	}
	desc := p[4]
	n := []int{0, 1, 2, 4}[desc&3] + []int{0, 2, 4, 8}[desc>>6] // dictionary, size
	switch single := desc&0x20 != 0; {
	case !single:
		n++ // window
	case desc>>6 == 0:
		n++ // a size of one byte
	}
	if _, err = w.Take(n); err != nil {
		return err
	}
	w.Next(func(w *codec.Walker) error { return block(w, desc&4 != 0) })
	return nil
}

// block goes over a block, and what is behind the last.
func block(w *codec.Walker, sum bool) error {
	p, err := w.Take(3)
	if err != nil {
		return err
	}
	v := int64(p[0]) | int64(p[1])<<8 | int64(p[2])<<16
	n := v >> 3
	if v>>1&3 == 1 { // one byte, repeated n times
		n = 1
	}
	if v&1 != 0 {
		if sum {
			n += 4
		}
		w.Next(walk)
	}
	w.Skip(n)
	return nil
}

func newReader(r io.Reader) (io.ReadCloser, error) {
	d, err := zstd.NewReader(r, zstd.WithDecoderMaxWindow(128<<20), zstd.WithDecoderConcurrency(2))
	if err != nil {
		return nil, fmt.Errorf("zstd: %w", err)
	}
	return d.IOReadCloser(), nil
}

// AppendStored appends a frame of one raw block. FCS of two bytes holds sizes from 256 on.
func (Codec) AppendStored(dst, data []byte) []byte {
	dst = append(dst, magic...)
	dst = append(dst, 0x40|0x20|0x04) // content size in 2 bytes, single segment, checksum
	dst = binary.LittleEndian.AppendUint16(dst, uint16(len(data)-256))
	h := uint32(len(data))<<3 | 1 // raw, last
	dst = append(dst, byte(h), byte(h>>8), byte(h>>16))
	dst = append(dst, data...)
	return binary.LittleEndian.AppendUint32(dst, uint32(xxhash.Sum64(data)))
}

// StoredLen returns the length of that frame.
func (Codec) StoredLen(n int) int { return 4 + 1 + 2 + 3 + n + 4 }

// AppendTrailer appends the seek table.
func (Codec) AppendTrailer(dst []byte, frames []codec.Frame) []byte {
	le := binary.LittleEndian
	dst = le.AppendUint32(dst, tableMagic)
	dst = le.AppendUint32(dst, uint32(8*len(frames)+footLen))
	for _, f := range frames {
		dst = le.AppendUint32(dst, uint32(f.Encoded))
		dst = le.AppendUint32(dst, uint32(f.Decoded))
	}
	dst = le.AppendUint32(dst, uint32(len(frames)))
	dst = append(dst, 0) // no checksums
	return le.AppendUint32(dst, footMagic)
}

// TrailerLen reads the footer of the seek table.
func (Codec) TrailerLen(tail []byte) (int64, error) {
	if len(tail) < footLen {
		return 0, nil
	}
	f := tail[len(tail)-footLen:]
	if binary.LittleEndian.Uint32(f[5:]) != footMagic {
		return 0, nil
	}
	if f[4] != 0 {
		return 0, fmt.Errorf("%w: seek table with descriptor %#x", codec.ErrCorrupt, f[4])
	}
	return 8 + 8*int64(binary.LittleEndian.Uint32(f)) + footLen, nil
}
