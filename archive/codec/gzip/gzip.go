// Package gzip codes members of gzip, RFC 1952, with klauspost/compress/flate, and whole streams with klauspost/pgzip.
package gzip

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"io"

	"github.com/klauspost/compress/flate"
	"github.com/klauspost/pgzip"

	"tarvm/archive/codec"
)

// Codec codes with gzip.
type Codec struct{}

// Name returns "gzip".
func (Codec) Name() string { return "gzip" }

// Suffixes returns those of a compressed tar.
func (Codec) Suffixes() []string { return []string{".tar.gz", ".tgz", ".gz"} }

// Levels are those of the gzip program.
func (Codec) Levels() codec.Levels { return codec.Levels{Min: 1, Default: 6, Max: 9} }

// FrameSize is 1 MiB: deflate looks back 32 KiB, and larger members gain nothing.
func (Codec) FrameSize() int { return 1 << 20 }

// header is that of each member: deflate, no flags, no time, no system.
const header = "\x1f\x8b\x08\x00\x00\x00\x00\x00\x00\xff"

const trailerLen = 8

// Match looks for the magic and deflate.
func (Codec) Match(head []byte) bool { return bytes.HasPrefix(head, []byte(header[:3])) }

// NewEncoder returns an encoder of one goroutine.
func (Codec) NewEncoder(level int) (codec.Encoder, error) {
	e := &encoder{}
	w, err := flate.NewWriter(&e.out, level)
	if err != nil {
		return nil, fmt.Errorf("gzip: %w", err)
	}
	e.w = w
	return e, nil
}

type buffer []byte

func (b *buffer) Write(p []byte) (int, error) {
	*b = append(*b, p...)
	return len(p), nil
}

type encoder struct {
	w   *flate.Writer
	out buffer
}

func (e *encoder) Encode(dst, src []byte) ([]byte, error) {
	e.out = append(dst, header...)
	e.w.Reset(&e.out)
	if _, err := e.w.Write(src); err != nil {
		return dst, fmt.Errorf("gzip: %w", err)
	}
	if err := e.w.Close(); err != nil {
		return dst, fmt.Errorf("gzip: %w", err)
	}
	out := appendTrailer(e.out, src)
	e.out = nil
	return out, nil
}

func appendTrailer(dst, data []byte) []byte {
	dst = binary.LittleEndian.AppendUint32(dst, crc32.ChecksumIEEE(data))
	return binary.LittleEndian.AppendUint32(dst, uint32(len(data)))
}

// NewDecoder returns a decoder of one goroutine.
func (Codec) NewDecoder(o codec.DecoderOptions) (codec.Decoder, error) {
	return &decoder{unchecked: o.Unchecked, r: flate.NewReader(bytes.NewReader(nil))}, nil
}

type decoder struct {
	r         io.ReadCloser
	src       bytes.Reader
	unchecked bool
}

func (d *decoder) Decode(dst, frame []byte, size int64) ([]byte, error) {
	bad := func(f string, a ...any) ([]byte, error) {
		return dst, fmt.Errorf("%w: gzip: %s", codec.ErrCorrupt, fmt.Sprintf(f, a...))
	}
	if size < 0 || size > codec.MaxFrame {
		return bad("member of %d bytes", size)
	}
	if len(frame) < len(header)+trailerLen || string(frame[:len(header)]) != header {
		return bad("no header of a member")
	}
	d.src.Reset(frame[len(header) : len(frame)-trailerLen])
	rs, ok := d.r.(flate.Resetter)
	if !ok {
		return bad("the reader cannot be reset")
	}
	if err := rs.Reset(&d.src, nil); err != nil {
		return bad("%v", err)
	}
	n := len(dst)
	out := dst
	if int64(cap(out)-n) < size {
		out = append(make([]byte, 0, int64(n)+size), dst...)
	}
	out = out[:int64(n)+size]
	if _, err := io.ReadFull(d.r, out[n:]); err != nil {
		return bad("%v", err)
	}
	var one [1]byte
	if k, err := d.r.Read(one[:]); k != 0 || err != io.EOF || d.src.Len() != 0 {
		return bad("more than %d bytes", size)
	}
	trailer := frame[len(frame)-trailerLen:]
	if !d.unchecked && !bytes.Equal(appendTrailer(nil, out[n:]), trailer) || binary.LittleEndian.Uint32(trailer[4:]) != uint32(size) {
		return bad("checksum or size does not fit")
	}
	return out, nil
}

// NewReader decodes a stream of members, which zeros may follow.
func (Codec) NewReader(r io.Reader) (io.ReadCloser, error) {
	m, err := newMembers(bufio.NewReaderSize(r, 64<<10))
	if err != nil {
		return nil, err
	}
	return m, nil
}

// NewRun decodes the members with which b begins.
func (Codec) NewRun(b *bufio.Reader) (io.ReadCloser, error) {
	m, err := newMembers(b)
	if err != nil {
		return nil, err
	}
	m.run = true
	return m, nil
}

func newMembers(b *bufio.Reader) (*members, error) {
	z, err := pgzip.NewReader(b)
	if err != nil {
		return nil, fmt.Errorf("gzip: %w", cutOff(err))
	}
	z.Multistream(false)
	return &members{z: z, r: b}, nil
}

// members goes from one member to the next. The library can do so too, but takes a stream that ends within a
// member's header for complete.
type members struct {
	z   *pgzip.Reader
	r   *bufio.Reader // left behind the member at its end
	run bool          // what is no member may follow
	err error
}

func (m *members) Read(p []byte) (int, error) {
	for m.err == nil {
		n, err := m.z.Read(p)
		if err == io.EOF {
			m.err = m.next()
		} else if err != nil {
			m.err = fmt.Errorf("gzip: %w", cutOff(err))
		}
		if n > 0 || len(p) == 0 {
			return n, nil
		}
	}
	return 0, m.err
}

// next begins the next member, or returns io.EOF.
func (m *members) next() error {
	b, err := m.r.Peek(1)
	if err == nil && m.run && b[0] != 0 && b[0] != 0x1f {
		return io.EOF
	}
	if err == nil && b[0] != 0 {
		if err := m.z.Reset(m.r); err != nil {
			return fmt.Errorf("gzip: %w", cutOff(err))
		}
		m.z.Multistream(false)
		return nil
	}
	for err == nil {
		var c byte
		if c, err = m.r.ReadByte(); err == nil && c != 0 {
			return fmt.Errorf("gzip: %w", pgzip.ErrHeader)
		}
	}
	if err != io.EOF {
		return fmt.Errorf("gzip: %w", err)
	}
	return err
}

func (m *members) Close() error { return m.z.Close() }

func cutOff(err error) error {
	if err == io.EOF {
		return io.ErrUnexpectedEOF
	}
	return err
}

// NewStreamWriter returns a writer of one member for streams that are written whole, for others. Level
// is 1 to 9, 0 for the default.
func NewStreamWriter(w io.Writer, level, workers int) (io.WriteCloser, error) {
	if level == 0 {
		level = 6
	}
	z, err := pgzip.NewWriterLevel(w, level)
	if err != nil {
		return nil, fmt.Errorf("gzip: %w", err)
	}
	if err := z.SetConcurrency(1<<20, max(1, workers)); err != nil {
		return nil, fmt.Errorf("gzip: %w", err)
	}
	return z, nil
}

// AppendStored appends a member of one stored block.
func (Codec) AppendStored(dst, data []byte) []byte {
	dst = append(dst, header...)
	dst = append(dst, 1) // stored, final
	n := uint16(len(data))
	dst = binary.LittleEndian.AppendUint16(dst, n)
	dst = binary.LittleEndian.AppendUint16(dst, ^n)
	dst = append(dst, data...)
	return appendTrailer(dst, data)
}

// StoredLen returns the length of that member.
func (Codec) StoredLen(n int) int { return len(header) + 5 + n + trailerLen }

// AppendTrailer appends nothing.
func (Codec) AppendTrailer(dst []byte, _ []codec.Frame) []byte { return dst }

// TrailerLen returns 0.
func (Codec) TrailerLen([]byte) (int64, error) { return 0, nil }
