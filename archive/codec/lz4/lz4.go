// Package lz4 codes frames of LZ4 (LZ4 Frame Format Description, version 1.6.4) around the block coder of pierrec/lz4.
package lz4

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"fmt"
	"io"

	"github.com/pierrec/lz4/v4"

	"tarvm/archive/codec"
)

// Codec codes with LZ4.
type Codec struct{}

// Name returns "lz4".
func (Codec) Name() string { return "lz4" }

// Suffixes returns those of a compressed tar.
func (Codec) Suffixes() []string { return []string{".tar.lz4", ".tlz4", ".lz4"} }

// Levels: 1 only. The high compression of the library takes ten times the program's time.
func (Codec) Levels() codec.Levels { return codec.Levels{Min: 1, Default: 1, Max: 1} }

// FrameSize is 4 MiB, the largest block that a frame may have.
func (Codec) FrameSize() int { return blockMax }

const (
	magic     = 0x184D2204
	blockMax  = 4 << 20
	flg       = 0x40 | 0x20 | 0x08 | 0x04 // version 1, independent blocks, content size, content checksum
	bd4M      = 7 << 4
	bd64K     = 4 << 4
	stored    = 1 << 31 // in a block's size
	headerLen = 4 + 2 + 8 + 1
)

// Match looks for the magic, behind skippable frames.
func (Codec) Match(head []byte) bool {
	for len(head) >= 8 && binary.LittleEndian.Uint32(head)&^15 == skippable {
		head = head[min(int64(len(head)), 8+int64(binary.LittleEndian.Uint32(head[4:]))):]
	}
	return len(head) >= 4 && binary.LittleEndian.Uint32(head) == magic
}

func appendHeader(dst []byte, bd byte, size int) []byte {
	dst = binary.LittleEndian.AppendUint32(dst, magic)
	d := len(dst)
	dst = append(dst, flg, bd)
	dst = binary.LittleEndian.AppendUint64(dst, uint64(size))
	return append(dst, byte(xxh32(dst[d:])>>8))
}

// NewEncoder returns an encoder of one goroutine.
func (Codec) NewEncoder(int) (codec.Encoder, error) { return &encoder{}, nil }

type encoder struct {
	c lz4.Compressor
}

func (e *encoder) Encode(dst, src []byte) ([]byte, error) {
	all := src
	dst = appendHeader(dst, bd4M, len(src))
	for len(src) > 0 {
		b := src[:min(len(src), blockMax)]
		src = src[len(b):]
		at := len(dst)
		need := at + 4 + lz4.CompressBlockBound(len(b))
		if cap(dst) < need {
			dst = append(make([]byte, 0, need+8), dst...)
		}
		n, err := e.c.CompressBlock(b, dst[at+4:need])
		if err != nil {
			return dst[:at], fmt.Errorf("lz4: %w", err)
		}
		if n == 0 || n >= len(b) {
			dst = binary.LittleEndian.AppendUint32(dst, uint32(len(b))|stored)
			dst = append(dst, b...)
			continue
		}
		dst = binary.LittleEndian.AppendUint32(dst, uint32(n))
		dst = dst[:at+4+n]
	}
	return appendEnd(dst, all), nil
}

func appendEnd(dst, data []byte) []byte {
	dst = binary.LittleEndian.AppendUint32(dst, 0)
	return binary.LittleEndian.AppendUint32(dst, xxh32(data))
}

// NewDecoder returns a decoder of one goroutine. It reads the frames that this package makes.
func (Codec) NewDecoder(o codec.DecoderOptions) (codec.Decoder, error) {
	return decoder{o.Unchecked}, nil
}

type decoder struct{ unchecked bool }

func (d decoder) Decode(dst, frame []byte, size int64) ([]byte, error) {
	bad := func(f string, a ...any) ([]byte, error) {
		return dst, fmt.Errorf("%w: lz4: %s", codec.ErrCorrupt, fmt.Sprintf(f, a...))
	}
	if len(frame) < headerLen+8 || size < 0 || size > codec.MaxFrame {
		return bad("frame of %d bytes, %d decoded", len(frame), size)
	}
	bd := frame[5]
	if bd != bd4M && bd != bd64K || !bytes.Equal(appendHeader(nil, bd, int(size)), frame[:headerLen]) {
		return bad("header does not fit %d bytes", size)
	}
	n := len(dst)
	out := dst
	if int64(cap(out)-n) < size {
		out = append(make([]byte, 0, int64(n)+size), dst...)
	}
	out = out[:int64(n)+size]
	at := n
	b := frame[headerLen:]
	for {
		if len(b) < 4 {
			return bad("cut off")
		}
		h := binary.LittleEndian.Uint32(b)
		b = b[4:]
		if h == 0 {
			break
		}
		l := int64(h &^ stored)
		if l > int64(len(b)) {
			return bad("block of %d bytes", l)
		}
		room := out[at:min(len(out), at+blockMax)]
		if h&stored != 0 {
			if l > int64(len(room)) {
				return bad("more than %d bytes", size)
			}
			at += copy(room, b[:l])
		} else {
			k, err := lz4.UncompressBlock(b[:l], room)
			if err != nil {
				return bad("%v", err)
			}
			at += k
		}
		b = b[l:]
	}
	if at != len(out) || len(b) != 4 || !d.unchecked && binary.LittleEndian.Uint32(b) != xxh32(out[n:]) {
		return bad("%d bytes, want %d, or the checksum does not fit", at-n, size)
	}
	return out, nil
}

// NewReader decodes a stream of frames, also of those that others make.
func (Codec) NewReader(r io.Reader) (io.ReadCloser, error) {
	return newReader(bufio.NewReaderSize(r, 64<<10), false), nil
}

// NewRun decodes the frames and skippable frames with which b begins.
func (Codec) NewRun(b *bufio.Reader) (io.ReadCloser, error) { return newReader(b, true), nil }

func newReader(b *bufio.Reader, run bool) io.ReadCloser {
	k := walker{run}
	return io.NopCloser(lz4.NewReader(codec.NewWalker(b, k.frame)))
}

// A walker goes over frames, and leaves skippable ones out: the library refuses those that come first.
type walker struct{ run bool }

const skippable = 0x184D2A50 // and 15 more

func (k walker) frame(w *codec.Walker) error {
	p, err := w.Peek(4)
	if err != nil {
		return err
	}
	if len(p) == 0 {
		return io.EOF
	}
	var m uint32
	if len(p) == 4 {
		m = binary.LittleEndian.Uint32(p)
	}
	switch {
	case m&^15 == skippable:
		if p, err = w.Peek(8); err != nil {
			return err
		}
		if len(p) < 8 {
			return io.ErrUnexpectedEOF
		}
		return w.Drop(8 + int64(binary.LittleEndian.Uint32(p[4:])))
	case m != magic && k.run && len(p) == 4:
		return io.EOF
	case m != magic:
		return fmt.Errorf("%w: lz4: no frame where one should begin", codec.ErrCorrupt)
	}
	if p, err = w.Take(6); err != nil {
		return err
	}
	flags := p[4]
	n := 1 // checksum of the header
	if flags&8 != 0 {
		n += 8 // size
	}
	if flags&1 != 0 {
		n += 4 // dictionary
	}
	if _, err := w.Take(n); err != nil {
		return err
	}
	w.Next(func(w *codec.Walker) error { return k.block(w, flags) })
	return nil
}

// block goes over a block, or the end of a frame.
func (k walker) block(w *codec.Walker, flags byte) error {
	p, err := w.Take(4)
	if err != nil {
		return err
	}
	n := int64(binary.LittleEndian.Uint32(p) &^ stored)
	switch {
	case n == 0:
		if flags&4 != 0 {
			n = 4
		}
		w.Next(k.frame)
	case flags&0x10 != 0:
		n += 4
	}
	w.Skip(n)
	return nil
}

// AppendStored appends a frame of one uncompressed block.
func (Codec) AppendStored(dst, data []byte) []byte {
	dst = appendHeader(dst, bd64K, len(data))
	dst = binary.LittleEndian.AppendUint32(dst, uint32(len(data))|stored)
	dst = append(dst, data...)
	return appendEnd(dst, data)
}

// StoredLen returns the length of that frame.
func (Codec) StoredLen(n int) int { return headerLen + 4 + n + 8 }

// AppendTrailer appends nothing.
func (Codec) AppendTrailer(dst []byte, _ []codec.Frame) []byte { return dst }

// TrailerLen returns 0.
func (Codec) TrailerLen([]byte) (int64, error) { return 0, nil }
