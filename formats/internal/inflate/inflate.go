// Package inflate decodes DEFLATE (RFC 1951) and zlib (RFC 1950) streams that are
// wholly in memory into slices of a known size: the compressed grains and clusters
// of disks.
//
// Package flate of the standard library, and klauspost's, decode from an io.Reader
// into a window: every byte is copied once more, and each symbol asks for input. Here
// a symbol costs a table look-up. The disk of the bench takes half the time: 2.0 s of
// processor instead of 3.8 for 878 MB in a qcow2, all included. The tables are those
// of libdeflate: https://github.com/ebiggers/libdeflate.
//
// Security: input is untrusted. Nothing is written outside dst or read outside src,
// whatever they say, no memory is allocated, and the work is bounded by the lengths
// of both.
package inflate

import (
	"encoding/binary"
	"errors"
	"hash/adler32"
	"io"
	"math/bits"
)

// The reasons why a stream is not decoded, besides io.ErrUnexpectedEOF: src ends
// before it does.
var (
	// ErrCorrupt: src is not a stream of the format.
	ErrCorrupt = errors.New("not a deflate stream")
	// ErrFull: the stream has more than dst has room for, which is full.
	ErrFull = errors.New("more data than there is room")
	// ErrSum: the data are not those that were compressed.
	ErrSum = errors.New("the data's checksum is wrong")
	// ErrHeader: the stream does not begin as zlib's do, or needs a dictionary.
	ErrHeader = errors.New("not a zlib header")
)

// Codes of up to so many bits are found by one look-up, longer ones by two. Eleven
// and eight are measured: tables that fit into the first cache.
const (
	litBits  = 11
	distBits = 8
	preBits  = 7 // the longest code of code lengths
	maxBits  = 15

	numLit  = 288
	numDist = 32
	numPre  = 19
	// The largest tables that complete codes of 15 bits need: zlib's enough.c.
	litRoom  = 2342
	distRoom = 402
)

// An entry of a table says what a code of the next bits stands for:
//
//	bits 0 to 7    how many bits it takes, with the extra bits that follow
//	bits 8 to 11   how many of these are the code's
//	bit 12         it is not a code
//	bit 13         end of block
//	bit 14         the code is longer: bits 16 to 30 are where its table begins, bits 8
//	               to 11 how many bits are its index
//	bit 15         one of bits 12 to 14
//	bits 16 to 30  the length's or distance's first value, the literal
//	bit 31         literal
const (
	isInvalid = 1<<15 | 1<<12
	isEnd     = 1<<15 | 1<<13
	isLonger  = 1<<15 | 1<<14
	isSpecial = 1 << 15
	isLiteral = 1 << 31
)

// What the symbols mean, without the bits of their codes.
var (
	litMeans  = litMeaning()
	distMeans = distMeaning()
	preMeans  = preMeaning()
)

func litMeaning() (m [numLit]uint32) {
	for i := range 256 {
		m[i] = isLiteral | uint32(i)<<16
	}
	m[256] = isEnd
	length := uint32(3)
	for i := 257; i < 285; i++ {
		extra := uint32(0)
		if i >= 265 {
			extra = uint32(i-261) / 4
		}
		m[i] = length<<16 | extra
		length += 1 << extra
	}
	m[285] = 258 << 16
	m[286], m[287] = isInvalid, isInvalid // they have codes in fixed blocks
	return m
}

func distMeaning() (m [numDist]uint32) {
	dist := uint32(1)
	for i := range 30 {
		extra := uint32(max(0, i/2-1))
		m[i] = dist<<16 | extra
		dist += 1 << extra
	}
	m[30], m[31] = isInvalid, isInvalid
	return m
}

func preMeaning() (m [numPre]uint32) {
	for i := range m {
		m[i] = uint32(i) << 16
	}
	return m
}

// A Decoder holds the tables that decoding takes, 11 KiB. The zero value is ready.
type Decoder struct {
	lit     [litRoom]uint32
	dist    [distRoom]uint32
	pre     [1 << preBits]uint32
	lengths [numLit + numDist]uint8
	sorted  [numLit]uint16
	fixed   bool // lit and dist are those of fixed blocks

	src  []byte
	pos  int    // the next byte of src
	bits uint64 // what was read and not used, from bit 0 on; above left it may hold what comes next
	left uint   // how many of bits count
}

// Deflate decodes the stream at the start of src into dst. It returns how much of
// both it used, of src in whole bytes. With an error, dst may have been written to
// beyond n, too.
func (d *Decoder) Deflate(dst, src []byte) (n, used int, err error) {
	d.src, d.pos, d.bits, d.left = src, 0, 0, 0
	defer func() { d.src = nil }()
	for last := false; !last; {
		head, err := d.take(3)
		if err != nil {
			return n, d.pos, err
		}
		last = head&1 != 0
		switch head >> 1 {
		case 0:
			n, err = d.stored(dst, n)
		case 1:
			d.fixedCodes()
			n, err = d.block(dst, n)
		case 2:
			if err = d.codes(); err == nil {
				n, err = d.block(dst, n)
			}
		default:
			err = ErrCorrupt
		}
		if err != nil {
			return n, d.pos, err
		}
	}
	d.pos -= int(d.left / 8)
	return n, d.pos, nil
}

// Zlib decodes the zlib stream at the start of src into dst, and checks its sum. It
// returns how many bytes it has.
func (d *Decoder) Zlib(dst, src []byte) (n int, err error) {
	// u8: method and window; u8: flags, bit 5: a dictionary. Both, as a big-endian
	// number, are a multiple of 31.
	if len(src) < 2 {
		return 0, io.ErrUnexpectedEOF
	}
	if head := binary.BigEndian.Uint16(src); src[0]&15 != 8 || src[0]>>4 > 7 || head%31 != 0 || head&(1<<5) != 0 {
		return 0, ErrHeader
	}
	n, used, err := d.Deflate(dst, src[2:])
	if err != nil {
		return n, err
	}
	sum := src[2+used:]
	if len(sum) < 4 {
		return n, io.ErrUnexpectedEOF
	}
	if binary.BigEndian.Uint32(sum) != adler32.Checksum(dst[:n]) {
		return n, ErrSum
	}
	return n, nil
}

// fill reads until there are 56 bits or src ends.
func (d *Decoder) fill() {
	if len(d.src)-d.pos >= 8 {
		d.bits |= binary.LittleEndian.Uint64(d.src[d.pos:]) << (d.left & 63)
		d.pos += int((63 - d.left) >> 3)
		d.left |= 56
		return
	}
	for d.left < 56 && d.pos < len(d.src) {
		d.bits |= uint64(d.src[d.pos]) << (d.left & 63)
		d.pos++
		d.left += 8
	}
}

// take returns the next n bits, at most 32.
func (d *Decoder) take(n uint) (uint32, error) {
	if d.left < n {
		if d.fill(); d.left < n {
			return 0, io.ErrUnexpectedEOF
		}
	}
	v := uint32(d.bits & (1<<n - 1))
	d.bits >>= n
	d.left -= n
	return v, nil
}

// stored copies a block that is not compressed: u16 length and its complement
// after the byte at hand, then the bytes.
func (d *Decoder) stored(dst []byte, n int) (int, error) {
	d.pos -= int(d.left / 8)
	d.bits, d.left = 0, 0
	if len(d.src)-d.pos < 4 {
		return n, io.ErrUnexpectedEOF
	}
	length := binary.LittleEndian.Uint16(d.src[d.pos:])
	if length != ^binary.LittleEndian.Uint16(d.src[d.pos+2:]) {
		return n, ErrCorrupt
	}
	d.pos += 4
	b := d.src[d.pos:]
	b = b[:min(int(length), len(b))]
	m := copy(dst[n:], b)
	d.pos += m
	switch {
	case m < len(b):
		return n + m, ErrFull
	case m < int(length):
		return n + m, io.ErrUnexpectedEOF
	}
	return n + m, nil
}

// fixedCodes makes the tables of a block with fixed codes.
func (d *Decoder) fixedCodes() {
	if d.fixed {
		return
	}
	for i := range numLit {
		switch {
		case i < 144:
			d.lengths[i] = 8
		case i < 256:
			d.lengths[i] = 9
		case i < 280:
			d.lengths[i] = 7
		default:
			d.lengths[i] = 8
		}
	}
	for i := range numDist {
		d.lengths[numLit+i] = 5
	}
	// They are complete: no error.
	_ = d.build(d.lit[:], litBits, d.lengths[:numLit], litMeans[:], true)
	_ = d.build(d.dist[:], distBits, d.lengths[numLit:], distMeans[:], true)
	d.fixed = true
}

// order is that in which a block stores the lengths of the codes of code lengths.
var order = [numPre]uint8{16, 17, 18, 0, 8, 7, 9, 6, 10, 5, 11, 4, 12, 3, 13, 2, 14, 1, 15}

// codes reads the codes of a block and makes its tables.
func (d *Decoder) codes() error {
	d.fixed = false
	head, err := d.take(14)
	if err != nil {
		return err
	}
	lits, dists, pres := int(head&31)+257, int(head>>5&31)+1, int(head>>10)+4
	if lits > 286 || dists > 30 {
		return ErrCorrupt
	}
	var pre [numPre]uint8
	for i := range pres {
		v, err := d.take(3)
		if err != nil {
			return err
		}
		pre[order[i]] = uint8(v)
	}
	if err := d.build(d.pre[:], preBits, pre[:], preMeans[:], false); err != nil {
		return err
	}
	for i := 0; i < lits+dists; {
		// A code has at most 7 bits, and 7 follow.
		if d.left < 14 {
			d.fill()
		}
		e := d.pre[d.bits&(1<<preBits-1)]
		if e&isInvalid == isInvalid {
			return ErrCorrupt
		}
		if _, err := d.take(uint(e & 0xff)); err != nil {
			return err
		}
		sym := e >> 16
		if sym < 16 {
			d.lengths[i] = uint8(sym)
			i++
			continue
		}
		v, base, more := uint8(0), 3, uint(2)
		switch sym {
		case 16:
			if i == 0 {
				return ErrCorrupt
			}
			v = d.lengths[i-1]
		case 17:
			more = 3
		case 18:
			base, more = 11, 7
		}
		x, err := d.take(more)
		if err != nil {
			return err
		}
		repeat := base + int(x)
		if repeat > lits+dists-i {
			return ErrCorrupt
		}
		for range repeat {
			d.lengths[i] = v
			i++
		}
	}
	if d.lengths[256] == 0 {
		return ErrCorrupt // a block that cannot end
	}
	if err := d.build(d.lit[:], litBits, d.lengths[:lits], litMeans[:], true); err != nil {
		return err
	}
	return d.build(d.dist[:], distBits, d.lengths[lits:lits+dists], distMeans[:], true)
}

// build makes the table, of 1<<root entries and those for longer codes, of the
// canonical code with these lengths. Where one is allowed, a code may be empty, or
// have one symbol of one bit: zlib takes that, too.
func (d *Decoder) build(table []uint32, root int, lengths []uint8, means []uint32, one bool) error {
	var count [maxBits + 1]int
	for _, n := range lengths {
		count[n&maxBits]++
	}
	var first [maxBits + 2]int // where the symbols of a length begin in sorted
	space := 0                 // how much of 1<<maxBits is used
	longest := 0
	for n := 1; n <= maxBits; n++ {
		first[n+1] = first[n] + count[n]
		space += count[n] << (maxBits - n)
		if count[n] > 0 {
			longest = n
		}
	}
	switch {
	case space > 1<<maxBits:
		return ErrCorrupt
	case space < 1<<maxBits && (!one || longest > 1):
		return ErrCorrupt
	case space < 1<<maxBits:
		for i := range table[:1<<root] {
			table[i] = isInvalid
		}
		for sym, n := range lengths {
			for i := 0; n == 1 && i < 1<<root; i += 2 {
				table[i] = means[sym] + 1<<8 + 1
			}
		}
		return nil
	}
	next := first
	for sym, n := range lengths {
		if n > 0 {
			d.sorted[next[n]] = uint16(sym)
			next[n]++
		}
	}
	// Codes come in order, with their bits reversed, as they stand in the stream.
	// The table of the codes so far doubles with each length.
	code, end, n := uint(0), uint(1), 0
	symbols := d.sorted[:first[maxBits+1]]
	for len(symbols) > 0 {
		for n++; n <= root && count[n] == 0; n++ {
			copy(table[end:], table[:end])
			end <<= 1
		}
		if n > root {
			break
		}
		copy(table[end:], table[:end])
		end <<= 1
		bitsOf := uint32(n)<<8 + uint32(n)
		for _, sym := range symbols[:count[n]] {
			table[code] = means[sym] + bitsOf
			code = following(code, end)
		}
		symbols = symbols[count[n]:]
	}
	for ; len(symbols) == 0 && end < 1<<root; end <<= 1 {
		copy(table[end:], table[:end])
	}
	end = 1 << root
	mask := end - 1
	for at, prefix, left := uint(0), ^uint(0), 0; len(symbols) > 0; symbols = symbols[1:] {
		for left == 0 {
			if left = count[n]; left == 0 {
				n++
			}
		}
		if code&mask != prefix {
			// As many bits as the codes with this prefix fill.
			prefix, at = code&mask, end
			more := n - root
			for used := left; used < 1<<more && root+more < maxBits; {
				more++
				used = used<<1 + count[root+more]
			}
			end = at + 1<<more
			if end > uint(len(table)) {
				return ErrCorrupt // never: complete codes have room
			}
			table[prefix] = uint32(at)<<16 | isLonger | uint32(more)<<8 | uint32(root)
		}
		more := n - root
		e := means[symbols[0]] + uint32(more)<<8 + uint32(more)
		for i := at + code>>root; i < end; i += 1 << more {
			table[i] = e
		}
		code = following(code, 1<<n)
		if left--; left == 0 {
			n++
		}
	}
	return nil
}

// following returns the code behind code, reversed, of those with as many bits as
// end has zeros: 0 after the last.
func following(code, end uint) uint {
	if code == end-1 {
		return 0
	}
	bit := uint(1) << (bits.Len(code^(end-1)) - 1)
	return code&(bit-1) | bit
}

// What block needs in front of it to go without looking: a match, three literals,
// and copies that run over by a few words; two fills.
const (
	outRoom = 258 + 3 + 40
	inRoom  = 16
)

// block decodes the symbols of a block behind dst[:n].
func (d *Decoder) block(dst []byte, n int) (int, error) {
	src, pos, buf, left := d.src, d.pos, d.bits, d.left
	for len(dst)-n >= outRoom && len(src)-pos >= inRoom {
		buf |= binary.LittleEndian.Uint64(src[pos:]) << (left & 63)
		pos += int((63 - left) >> 3)
		left |= 56
		e := d.lit[buf&(1<<litBits-1)]
		// Three literals take 33 of 56 bits, or less: see isLonger for others.
		if e&isLiteral != 0 {
			buf >>= e & 63
			left -= uint(e & 63)
			dst[n] = byte(e >> 16)
			n++
			if e = d.lit[buf&(1<<litBits-1)]; e&isLiteral != 0 {
				buf >>= e & 63
				left -= uint(e & 63)
				dst[n] = byte(e >> 16)
				n++
				if e = d.lit[buf&(1<<litBits-1)]; e&isLiteral != 0 {
					buf >>= e & 63
					left -= uint(e & 63)
					dst[n] = byte(e >> 16)
					n++
					continue
				}
			}
			buf |= binary.LittleEndian.Uint64(src[pos:]) << (left & 63)
			pos += int((63 - left) >> 3)
			left |= 56
		}
		if e&isSpecial != 0 {
			if e&isLonger == isLonger {
				buf >>= litBits
				left -= litBits
				e = d.lit[int(e>>16)+int(buf&(1<<(e>>8&15)-1))]
				if e&isLiteral != 0 {
					buf >>= e & 63
					left -= uint(e & 63)
					dst[n] = byte(e >> 16)
					n++
					continue
				}
			}
			if e&isSpecial != 0 {
				buf >>= e & 63
				left -= uint(e & 63)
				d.pos, d.bits, d.left = pos, buf, left
				if e&isEnd != isEnd {
					return n, ErrCorrupt
				}
				return n, nil
			}
		}
		// A length and a distance take 15 + 5 + 15 + 13 of 56 bits.
		length := int(e>>16) + int(buf&(1<<(e&63)-1)>>(e>>8&15))
		buf >>= e & 63
		left -= uint(e & 63)
		e = d.dist[buf&(1<<distBits-1)]
		if e&isSpecial != 0 {
			if e&isLonger == isLonger {
				buf >>= distBits
				left -= distBits
				e = d.dist[int(e>>16)+int(buf&(1<<(e>>8&15)-1))]
			}
			if e&isSpecial != 0 {
				return n, ErrCorrupt
			}
		}
		dist := int(e>>16) + int(buf&(1<<(e&63)-1)>>(e>>8&15))
		buf >>= e & 63
		left -= uint(e & 63)
		if dist > n {
			return n, ErrCorrupt
		}
		to := dst[n : n+length+16 : n+length+16]
		n += length
		switch {
		case dist >= 16:
			from := dst[n-length-dist:][:length+16]
			for i := 0; i < length; i += 16 {
				*(*[16]byte)(to[i:]) = [16]byte(from[i:])
			}
		case dist >= 8:
			from := dst[n-length-dist:][:length+8]
			for i := 0; i < length; i += 8 {
				binary.LittleEndian.PutUint64(to[i:], binary.LittleEndian.Uint64(from[i:]))
			}
		case dist == 1:
			v := uint64(dst[n-length-1]) * 0x0101010101010101
			var b [16]byte
			binary.LittleEndian.PutUint64(b[:], v)
			binary.LittleEndian.PutUint64(b[8:], v)
			for i := 0; i < length; i += 16 {
				*(*[16]byte)(to[i:]) = b
			}
		default:
			overlap(dst[n-length-dist:n], dist)
		}
	}
	d.pos, d.bits, d.left = pos, buf, left
	return d.careful(dst, n)
}

// overlap makes b repeat its first dist bytes.
func overlap(b []byte, dist int) {
	for done := dist; done < len(b); {
		done += copy(b[done:], b[:done])
	}
}

// code finds the entry of the next code, and takes all of its bits. root is that
// of the table. bits are those it took, behind the ones of a first table.
func (d *Decoder) code(table []uint32, root uint) (e uint32, bits uint64, err error) {
	d.fill()
	e = table[d.bits&(1<<root-1)]
	if e&isLonger == isLonger {
		if _, err := d.take(root); err != nil {
			return 0, 0, err
		}
		e = table[int(e>>16)+int(d.bits&(1<<(e>>8&15)-1))]
	}
	if e&isInvalid == isInvalid {
		if d.left == 0 {
			return 0, 0, io.ErrUnexpectedEOF
		}
		return 0, 0, ErrCorrupt
	}
	bits = d.bits
	_, err = d.take(uint(e & 0xff))
	return e, bits, err
}

// careful is block near the ends of dst or src.
func (d *Decoder) careful(dst []byte, n int) (int, error) {
	for {
		e, buf, err := d.code(d.lit[:], litBits)
		switch {
		case err != nil:
			return n, err
		case e&isEnd == isEnd:
			return n, nil
		case n == len(dst):
			return n, ErrFull
		case e&isLiteral != 0:
			dst[n] = byte(e >> 16)
			n++
			continue
		}
		length := int(e>>16) + int(buf&(1<<(e&63)-1)>>(e>>8&15))
		if e, buf, err = d.code(d.dist[:], distBits); err != nil {
			return n, err
		}
		dist := int(e>>16) + int(buf&(1<<(e&63)-1)>>(e>>8&15))
		if dist > n {
			return n, ErrCorrupt
		}
		full := length > len(dst)-n
		length = min(length, len(dst)-n)
		overlap(dst[n-dist:n+length], dist)
		n += length
		if full {
			return n, ErrFull
		}
	}
}
