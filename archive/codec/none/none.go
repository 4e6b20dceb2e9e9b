// Package none is the codec that does not compress: an archive is the tar itself.
package none

import (
	"bufio"
	"errors"
	"io"

	"tarvm/archive/codec"
)

// Codec does not compress.
type Codec struct{}

// Name returns "none".
func (Codec) Name() string { return "none" }

// Suffixes returns those of a plain tar.
func (Codec) Suffixes() []string { return []string{".tar"} }

// Levels returns none.
func (Codec) Levels() codec.Levels { return codec.Levels{} }

// FrameSize is of no consequence: there are no frames.
func (Codec) FrameSize() int { return 4 << 20 }

// Match looks for the magic of a tar header, at byte 257.
func (Codec) Match(head []byte) bool { return len(head) >= 262 && string(head[257:262]) == "ustar" }

// NewEncoder returns what copies.
func (Codec) NewEncoder(int) (codec.Encoder, error) { return copier{}, nil }

// NewDecoder returns what copies.
func (Codec) NewDecoder(codec.DecoderOptions) (codec.Decoder, error) { return copier{}, nil }

// NewReader returns r.
func (Codec) NewReader(r io.Reader) (io.ReadCloser, error) { return io.NopCloser(r), nil }

// NewRun returns b.
func (Codec) NewRun(b *bufio.Reader) (io.ReadCloser, error) { return io.NopCloser(b), nil }

// AppendStored appends data.
func (Codec) AppendStored(dst, data []byte) []byte { return append(dst, data...) }

// StoredLen returns n.
func (Codec) StoredLen(n int) int { return n }

// AppendTrailer appends nothing.
func (Codec) AppendTrailer(dst []byte, _ []codec.Frame) []byte { return dst }

// TrailerLen returns 0.
func (Codec) TrailerLen([]byte) (int64, error) { return 0, nil }

type copier struct{}

func (copier) Encode(dst, src []byte) ([]byte, error) { return append(dst, src...), nil }

func (copier) Decode(dst, frame []byte, size int64) ([]byte, error) {
	if int64(len(frame)) != size {
		return dst, errors.Join(codec.ErrCorrupt, io.ErrUnexpectedEOF)
	}
	return append(dst, frame...), nil
}
