// Package lz4 codes frames of LZ4 (LZ4 Frame Format Description, version 1.6.4) around the block coder of pierrec/lz4.
package lz4

import (
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

// Match looks for the magic.
func (Codec) Match(head []byte) bool {
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
func (Codec) NewDecoder() (codec.Decoder, error) { return decoder{}, nil }

type decoder struct{}

func (decoder) Decode(dst, frame []byte, size int64) ([]byte, error) {
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
	if at != len(out) || len(b) != 4 || binary.LittleEndian.Uint32(b) != xxh32(out[n:]) {
		return bad("%d bytes, want %d, or the checksum does not fit", at-n, size)
	}
	return out, nil
}

// NewReader decodes a stream of frames, also of those that others make.
func (Codec) NewReader(r io.Reader) (io.ReadCloser, error) {
	return io.NopCloser(lz4.NewReader(r)), nil
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
