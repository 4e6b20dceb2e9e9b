// Package codec compresses an archive as a run of frames, each an independent frame, member or stream of
// its codec: workers code them side by side, the stock program decodes the whole in one go, a reader
// with the table of frames reads at random, and a damaged frame costs only itself.
//
// A Codec is one compression format; package all lists them. Writer cuts a stream into frames and
// writes them in order; Reader reads decoded bytes by the table of frames. archive/FORMAT.md
// sections 5 to 7 say how an archive uses them.
//
// What is read is untrusted: a frame's digest is compared before it is decoded, unless the caller of Frames does without
// because it compares what it takes, and decoding never produces more than the size that the table gives.
package codec

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"strings"
)

// MaxFrame is the largest decoded size of a frame in bytes.
const MaxFrame = 64 << 20

// HeadLen is how many bytes of a stream Match wants to see, where the stream has them.
const HeadLen = 512

// MinStored and MaxStored are the shortest and the longest data that AppendStored takes, in bytes.
const (
	MinStored = 256
	MaxStored = 32 << 10
)

// Frame describes one frame of an encoded stream.
type Frame struct {
	Encoded, Decoded int64    // bytes
	Digest           [16]byte // first half of BLAKE3 of the encoded bytes; zero with codec none
}

// Levels are those that a codec has; a larger one compresses more. Max 0: it has none.
type Levels struct{ Min, Default, Max int }

// A Codec is one compression format. Its values are safe for concurrent use.
type Codec interface {
	// Name is "zstd", "gzip", "xz", "lz4" or "none".
	Name() string
	// Suffixes are those of file names, the preferred one first.
	Suffixes() []string
	Levels() Levels
	// FrameSize is the recommended size of a frame before coding, in bytes.
	FrameSize() int
	// Match reports whether a stream that begins with head, HeadLen bytes if it has them, is of this codec.
	Match(head []byte) bool
	// NewEncoder returns an encoder for one goroutine.
	NewEncoder(level int) (Encoder, error)
	// NewDecoder returns a decoder for one goroutine.
	NewDecoder(DecoderOptions) (Decoder, error)
	// NewReader decodes a whole stream of any origin, as the stock program would, in bounded memory.
	NewReader(r io.Reader) (io.ReadCloser, error)
	// NewRun decodes the frames of the codec with which b begins, and leaves what stands behind them in b. A stream without
	// frames goes to the end of b.
	NewRun(b *bufio.Reader) (io.ReadCloser, error)
	// AppendStored appends data as one frame without compression, in the one form of
	// archive/FORMAT.md section 7. It takes MinStored to MaxStored bytes.
	AppendStored(dst, data []byte) []byte
	// StoredLen is the length of that frame for n bytes of data.
	StoredLen(n int) int
	// AppendTrailer appends what follows the last of frames for other programs, which may be nothing.
	AppendTrailer(dst []byte, frames []Frame) []byte
	// TrailerLen returns the length of the trailer of a file that ends with tail, of which 64 bytes are
	// enough. It is 0 when there is none. Errors wrap ErrCorrupt.
	TrailerLen(tail []byte) (int64, error)
}

// An Encoder appends one frame that holds src.
type Encoder interface {
	Encode(dst, src []byte) ([]byte, error)
}

// DecoderOptions say how to decode. The zero value works.
type DecoderOptions struct {
	// Unchecked: the codec's own checksum of what is decoded need not be compared. It is for who compares that with digests.
	Unchecked bool
}

// A Decoder appends the size decoded bytes of exactly one frame. Another size, one that is negative or larger
// than MaxFrame, and bytes that are missing or too many, are errors that wrap ErrCorrupt.
type Decoder interface {
	Decode(dst, frame []byte, size int64) ([]byte, error)
}

// Errors of decoding.
var (
	ErrCorrupt = errors.New("compressed data is damaged")
	ErrDigest  = errors.New("frame does not have its digest")
	ErrUnknown = errors.New("neither a tar nor one in a known compression")
)

// FrameError says which frame cannot be read.
type FrameError struct {
	Frame   int
	Offset  int64 // of the encoded frame
	Size    int64 // of the encoded frame
	Decoded int64 // offset of its first decoded byte
	Err     error
}

func (e *FrameError) Error() string {
	return fmt.Sprintf("frame %d, bytes %d to %d of the file: %v", e.Frame, e.Offset, e.Offset+e.Size, e.Err)
}

func (e *FrameError) Unwrap() error { return e.Err }

// ByName returns the codec with that name, nil if there is none.
func ByName(list []Codec, name string) Codec {
	for _, c := range list {
		if c.Name() == name {
			return c
		}
	}
	return nil
}

// ForPath returns the codec that a file name's ending asks for, nil if it asks for none.
func ForPath(list []Codec, path string) Codec {
	var best Codec
	n := 0
	for _, c := range list {
		for _, s := range c.Suffixes() {
			if len(s) > n && strings.HasSuffix(strings.ToLower(path), s) {
				best, n = c, len(s)
			}
		}
	}
	return best
}

// Detect returns the codec of a stream that begins with head, nil if none matches.
func Detect(list []Codec, head []byte) Codec {
	for _, c := range list {
		if c.Match(head) {
			return c
		}
	}
	return nil
}

// Open decodes a stream in whatever codec of list it is; frames of one codec may be followed by those of another. It is
// ErrUnknown when it begins with none of them.
func Open(list []Codec, r io.Reader) (io.ReadCloser, error) {
	m := &mixed{list: list, b: bufio.NewReaderSize(r, 1<<20)}
	err := m.next()
	if errors.Is(err, io.EOF) {
		err = ErrUnknown
	}
	if err != nil {
		return nil, err
	}
	return m, nil
}

// mixed decodes one run of frames after the other.
type mixed struct {
	list []Codec
	b    *bufio.Reader
	run  io.ReadCloser
	name string // of its codec
	err  error
}

// next begins a run. It is io.EOF at the end of the stream.
func (m *mixed) next() error {
	head, err := m.b.Peek(HeadLen)
	if len(head) == 0 && err != nil || err != nil && !errors.Is(err, io.EOF) {
		return err
	}
	c := Detect(m.list, head)
	switch {
	case c == nil && m.name == "":
		return ErrUnknown
	case c == nil:
		return fmt.Errorf("%w: behind the frames of %s stands what is in no known compression", ErrCorrupt, m.name)
	}
	m.name = c.Name()
	m.run, err = c.NewRun(m.b)
	return err
}

func (m *mixed) Read(p []byte) (int, error) {
	for m.err == nil {
		n, err := m.run.Read(p)
		if errors.Is(err, io.EOF) {
			if err = m.run.Close(); err == nil {
				err = m.next()
			}
		}
		m.err = err
		if n > 0 || len(p) == 0 {
			return n, nil
		}
	}
	return 0, m.err
}

func (m *mixed) Close() error {
	if m.err != nil {
		return nil // closed, or of no use
	}
	return m.run.Close()
}
