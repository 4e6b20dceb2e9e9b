package xz

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
)

// guard passes a concatenation of streams on, and follows its structure (sections 2 to 4 of the format): the library allocates
// the dictionary that a block asks for, up to 4 GiB, and takes a stream that ends between blocks for complete.
// It refuses larger dictionaries than any stock level makes, and filters that the library does not have.
type guard struct {
	r     *bufio.Reader
	head  []byte // read and looked at, to pass on
	skip  int64  // bytes to pass on as they are
	next  func(*guard) error
	err   error
	check int64 // length of the check behind a block
	block int64 // bytes of the block's data so far
	run   bool  // what is no stream may follow
}

func newGuard(b *bufio.Reader, run bool) *guard {
	return &guard{r: b, next: (*guard).stream, run: run}
}

func (g *guard) Read(p []byte) (int, error) {
	if len(p) == 0 {
		return 0, nil
	}
	for len(g.head) == 0 && g.skip == 0 {
		if g.err == nil {
			g.err = g.next(g)
		}
		if g.err != nil {
			return 0, g.err
		}
	}
	if len(g.head) > 0 {
		n := copy(p, g.head)
		g.head = g.head[n:]
		return n, nil
	}
	n, err := g.r.Read(p[:min(int64(len(p)), g.skip)])
	g.skip -= int64(n)
	if err != nil && n == 0 {
		g.err = cutOff(err)
		return 0, g.err
	}
	return n, nil
}

func cutOff(err error) error {
	if err == io.EOF {
		return io.ErrUnexpectedEOF
	}
	return err
}

// take appends n bytes to head.
func (g *guard) take(n int) error {
	at := len(g.head)
	g.head = append(g.head, make([]byte, n)...)
	_, err := io.ReadFull(g.r, g.head[at:])
	return cutOff(err)
}

// stream reads a stream header, or four bytes of padding. Only here the input may end.
func (g *guard) stream() error {
	b, err := g.r.Peek(1)
	if err != nil {
		return err
	}
	if g.run && b[0] != magic[0] && b[0] != 0 {
		return io.EOF
	}
	g.head = g.head[:0]
	if err := g.take(4); err != nil {
		return err
	}
	if bytes.Equal(g.head, make([]byte, 4)) {
		return nil
	}
	if err := g.take(8); err != nil {
		return err
	}
	switch id := g.head[7] & 15; { // the flags' second byte
	case id == 0:
		g.check = 0
	default: // by threes: 4, 8, 16, 32, 64
		g.check = 4 << ((id - 1) / 3)
	}
	g.next = (*guard).header
	return nil
}

// header reads a block header, or begins the index.
func (g *guard) header() error {
	g.head = g.head[:0]
	if err := g.take(1); err != nil {
		return err
	}
	if g.head[0] == 0 {
		g.next = (*guard).index
		return nil
	}
	if err := g.take(4*(int(g.head[0])+1) - 1); err != nil {
		return err
	}
	d, err := dictSize(g.head)
	if err != nil {
		return err
	}
	if d > maxDict {
		return fmt.Errorf("dictionary of %d bytes: more than %d", d, maxDict)
	}
	g.block = 0
	g.next = (*guard).chunk
	return nil
}

// dictSize reads the dictionary size of a block header: LZMA2 is filter 0x21 with one byte of properties.
func dictSize(b []byte) (int64, error) {
	flags := b[1]
	p := 2
	for range flags>>6&1 + flags>>7 { // sizes
		_, n := binary.Uvarint(b[p:])
		if n <= 0 {
			return 0, errors.New("block header is damaged")
		}
		p += n
	}
	if flags&3 != 0 || len(b) < p+3 || b[p] != 0x21 || b[p+1] != 1 {
		return 0, errors.New("block with other filters than LZMA2")
	}
	bits := b[p+2]
	if bits >= 40 {
		return 1<<32 - 1, nil
	}
	return int64(2|bits&1) << (bits/2 + 11), nil
}

// chunk reads the header of an LZMA2 chunk, or the end of a block.
func (g *guard) chunk() error {
	g.head = g.head[:0]
	if err := g.take(1); err != nil {
		return err
	}
	control := g.head[0]
	n := 2 // uncompressed: size
	switch {
	case control == 0:
		g.skip = -(g.block+1)&3 + g.check
		g.next = (*guard).header
		return nil
	case control >= 0xc0: // sizes and properties
		n = 5
	case control >= 0x80:
		n = 4
	case control > 2:
		return fmt.Errorf("chunk of kind %#x", control)
	}
	if err := g.take(n); err != nil {
		return err
	}
	size := g.head[1:3]
	if n > 2 {
		size = g.head[3:5]
	}
	g.skip = int64(binary.BigEndian.Uint16(size)) + 1
	g.block += int64(1+n) + g.skip
	return nil
}

// index passes the records on one by one, then the checksum and the footer.
func (g *guard) index() error {
	g.head = g.head[:0]
	length := int64(1)
	count, err := g.varint(&length)
	if err != nil {
		return err
	}
	left := 2 * count
	g.next = func(g *guard) error {
		g.head = g.head[:0]
		for ; left > 0 && len(g.head) < 1<<10; left-- {
			if _, err := g.varint(&length); err != nil {
				return err
			}
		}
		if left == 0 {
			g.skip = -length&3 + 4 + 12
			g.next = (*guard).stream
		}
		return nil
	}
	return nil
}

// varint appends a number to head, and its length to length.
func (g *guard) varint(length *int64) (uint64, error) {
	at := len(g.head)
	for range 9 {
		if err := g.take(1); err != nil {
			return 0, err
		}
		*length++
		if g.head[len(g.head)-1] < 0x80 {
			v, _ := binary.Uvarint(g.head[at:])
			return v, nil
		}
	}
	return 0, errors.New("index is damaged")
}
