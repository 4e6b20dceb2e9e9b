// Package xz codes streams of xz (The .xz File Format, version 1.1.0) with ulikunitz/xz. It is a format for interchange: in pure Go it is
// slow and compresses less than the xz program; zstd is the better choice where the receiver has it.
package xz

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"hash/crc64"
	"io"

	"github.com/ulikunitz/xz"

	"tarvm/archive/codec"
)

// Codec codes with xz.
type Codec struct{}

// Name returns "xz".
func (Codec) Name() string { return "xz" }

// Suffixes returns those of a compressed tar.
func (Codec) Suffixes() []string { return []string{".tar.xz", ".txz", ".xz"} }

// Levels choose the dictionary: 256 KiB << level, as far as a frame is long.
func (Codec) Levels() codec.Levels { return codec.Levels{Min: 0, Default: 6, Max: 9} }

// FrameSize is 4 MiB, which is as far as a frame's encoder looks back.
func (Codec) FrameSize() int { return 4 << 20 }

const (
	magic    = "\xfd7zXZ\x00"
	maxDict  = 64 << 20 // of foreign streams: what xz -9 makes
	checkCRC = 4        // CRC-64
)

// Match looks for the magic.
func (Codec) Match(head []byte) bool { return bytes.HasPrefix(head, []byte(magic)) }

// NewEncoder returns an encoder of one goroutine.
func (Codec) NewEncoder(level int) (codec.Encoder, error) {
	return encoder{xz.WriterConfig{DictCap: min(4<<20, 256<<10<<level), CheckSum: xz.CRC64}}, nil
}

type encoder struct {
	c xz.WriterConfig
}

type buffer []byte

func (b *buffer) Write(p []byte) (int, error) {
	*b = append(*b, p...)
	return len(p), nil
}

func (e encoder) Encode(dst, src []byte) ([]byte, error) {
	b := buffer(dst)
	w, err := e.c.NewWriter(&b)
	if err == nil {
		_, err = w.Write(src)
	}
	if err == nil {
		err = w.Close()
	}
	if err != nil {
		return dst, fmt.Errorf("xz: %w", err)
	}
	return b, nil
}

// NewDecoder returns a decoder of one goroutine. The library always compares checksums.
func (Codec) NewDecoder(codec.DecoderOptions) (codec.Decoder, error) { return decoder{}, nil }

type decoder struct{}

func (decoder) Decode(dst, frame []byte, size int64) ([]byte, error) {
	bad := func(f string, a ...any) ([]byte, error) {
		return dst, fmt.Errorf("%w: xz: %s", codec.ErrCorrupt, fmt.Sprintf(f, a...))
	}
	if size < 0 || size > codec.MaxFrame {
		return bad("stream of %d bytes", size)
	}
	r, err := open(newBuffer(bytes.NewReader(frame)), true, false)
	if err != nil {
		return bad("%v", err)
	}
	n := len(dst)
	out := dst
	if int64(cap(out)-n) < size {
		out = append(make([]byte, 0, int64(n)+size), dst...)
	}
	out = out[:int64(n)+size]
	if _, err := io.ReadFull(r, out[n:]); err != nil {
		return bad("%v", err)
	}
	var one [1]byte
	for {
		k, err := r.Read(one[:])
		if k != 0 {
			return bad("more than %d bytes", size)
		}
		if err == io.EOF {
			break
		}
		if err != nil {
			return bad("%v", err)
		}
	}
	return out, nil
}

func newBuffer(r io.Reader) *bufio.Reader { return bufio.NewReaderSize(r, 64<<10) }

func open(b *bufio.Reader, single, run bool) (io.Reader, error) {
	return xz.ReaderConfig{DictCap: 1 << 16, SingleStream: single}.NewReader(newGuard(b, run))
}

// NewReader decodes a concatenation of streams.
func (Codec) NewReader(r io.Reader) (io.ReadCloser, error) { return newReader(newBuffer(r), false) }

// NewRun decodes the streams with which b begins.
func (Codec) NewRun(b *bufio.Reader) (io.ReadCloser, error) { return newReader(b, true) }

func newReader(b *bufio.Reader, run bool) (io.ReadCloser, error) {
	z, err := open(b, false, run)
	if err != nil {
		return nil, fmt.Errorf("xz: %w", err)
	}
	return io.NopCloser(z), nil
}

var table = crc64.MakeTable(crc64.ECMA)

// AppendStored appends a stream of one block that holds one uncompressed chunk.
func (Codec) AppendStored(dst, data []byte) []byte {
	le := binary.LittleEndian
	flags := []byte{0, checkCRC}
	dst = append(dst, magic...)
	dst = append(dst, flags...)
	dst = le.AppendUint32(dst, crc32.ChecksumIEEE(flags))
	block := []byte{2, 0, 0x21, 1, 0, 0, 0, 0} // 12 bytes in all; one filter, LZMA2 with a dictionary of 4 KiB
	dst = append(dst, block...)
	dst = le.AppendUint32(dst, crc32.ChecksumIEEE(block))
	n := uint16(len(data) - 1)
	dst = append(dst, 1, byte(n>>8), byte(n)) // uncompressed, resets the dictionary
	dst = append(dst, data...)
	dst = append(dst, 0)
	body := 3 + len(data) + 1
	dst = append(dst, make([]byte, pad(body))...)
	dst = le.AppendUint64(dst, crc64.Checksum(data, table))
	index := []byte{0, 1}
	index = binary.AppendUvarint(index, uint64(len(block)+4+body+8))
	index = binary.AppendUvarint(index, uint64(len(data)))
	index = append(index, make([]byte, pad(len(index)))...)
	dst = append(dst, index...)
	dst = le.AppendUint32(dst, crc32.ChecksumIEEE(index))
	foot := le.AppendUint32(nil, uint32((len(index)+4)/4-1))
	foot = append(foot, flags...)
	dst = le.AppendUint32(dst, crc32.ChecksumIEEE(foot))
	dst = append(dst, foot...)
	return append(dst, 'Y', 'Z')
}

func pad(n int) int { return -n & 3 }

// StoredLen returns the length of that stream.
func (c Codec) StoredLen(n int) int { return len(c.AppendStored(nil, make([]byte, n))) }

// AppendTrailer appends nothing.
func (Codec) AppendTrailer(dst []byte, _ []codec.Frame) []byte { return dst }

// TrailerLen returns 0.
func (Codec) TrailerLen([]byte) (int64, error) { return 0, nil }
