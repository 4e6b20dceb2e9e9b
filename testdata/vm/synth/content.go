package main

import (
	"encoding/binary"
	"strconv"
)

// blockSize is the guest's block and its memory page, in bytes.
const blockSize = 4096

// kind says what a guest file's bytes look like.
type kind uint8

const (
	kindBoot    kind = iota // one MBR with a partition that starts at 1 MiB
	kindInodes              // file system tables: records of mostly small numbers
	kindText                // prose and sources
	kindLog                 // lines with counting times
	kindProgram             // machine code, pointer tables, strings
	kindPages               // a database's pages
	kindRandom              // compressed or encrypted: does not shrink
	kindHeap                // a process's memory: pointers, counters, short strings
	kindPatch               // another block with a few runs of bytes overwritten
)

// content is where the bytes of a guest file come from: its blocks are a pure function of this and an index.
type content struct {
	kind   kind
	seed   uint64
	blocks uint32
	tail   uint16 // bytes used in the last block, 1 to blockSize; the rest is zero, as slack is
	base   ref    // kindPatch: the block that was overwritten
}

// ref names a block's bytes: the number of a content in the high half, the block's index in it in the low one.
// The zero ref is a block of zeros, which is why content 0 is never used.
type ref uint64

func makeRef(content, index uint32) ref { return ref(content)<<32 | ref(index) }
func (r ref) split() (uint32, uint32)   { return uint32(r >> 32), uint32(r) }

// rng is xorshift64* behind a splitmix64 seed: fast, and the same everywhere for ever.
type rng uint64

func newRNG(seeds ...uint64) rng {
	var x uint64
	for _, s := range seeds {
		x += s + 0x9e3779b97f4a7c15
		x = (x ^ x>>30) * 0xbf58476d1ce4e5b9
		x = (x ^ x>>27) * 0x94d049bb133111eb
		x ^= x >> 31
	}
	return rng(x | 1)
}

func (r *rng) next() uint64 {
	x := uint64(*r)
	x ^= x >> 12
	x ^= x << 25
	x ^= x >> 27
	*r = rng(x)
	return x * 0x2545f4914f6cdd1d
}

// below returns a number in [0, n); n must be positive.
func (r *rng) below(n int) int { return int(r.next() >> 33 % uint64(n)) }

// chance is true with probability p.
func (r *rng) chance(p float64) bool { return float64(r.next()>>11)/(1<<53) < p }

// words is the vocabulary of one machine: after a word, a few others are likely, as in prose.
type words struct {
	word [2048]string
	next [2048][8]uint16
	code [256][]byte // instruction templates for kindProgram
}

func newWords(seed uint64) *words {
	r := newRNG(seed, 'w')
	w := new(words)
	const vowels, consonants = "aaeeeiioou", "bcddfghklllmnnnprrrsssttttvwxyz"
	for i := range w.word {
		var b []byte
		for n := 1 + r.below(4); n > 0; n-- {
			b = append(b, consonants[r.below(len(consonants))], vowels[r.below(len(vowels))])
		}
		if r.chance(0.4) {
			b = append(b, consonants[r.below(len(consonants))])
		}
		w.word[i] = string(b)
		for j := range w.next[i] {
			w.next[i][j] = uint16(r.below(len(w.word)) * r.below(len(w.word)) / len(w.word))
		}
	}
	for i := range w.code {
		w.code[i] = make([]byte, 1+r.below(5))
		for j := range w.code[i] {
			w.code[i][j] = byte(r.next() >> 40)
		}
	}
	return w
}

// render writes a block's bytes over all of p, which is blockSize long.
func (g *guest) render(p []byte, at ref) {
	if at == 0 {
		clear(p)
		return
	}
	ci, index := at.split()
	c := &g.contents[ci]
	r := newRNG(c.seed, uint64(index))
	switch c.kind {
	case kindBoot:
		clear(p)
		copy(p[440:], []byte{0x70, 0x1e, 0x3c, 0x5a, 0, 0, 0x80, 0x20, 0x21, 0, 0x83, 0xfe, 0xff, 0xff})
		binary.LittleEndian.PutUint32(p[454:], 2048)
		binary.LittleEndian.PutUint32(p[458:], uint32(min(int64(len(g.disk))*blockSize/512-2048, 1<<32-1)))
		p[510], p[511] = 0x55, 0xaa
	case kindInodes:
		g.renderInodes(p, &r, index)
	case kindText:
		g.renderText(p, &r)
	case kindLog:
		g.renderLog(p, &r, index)
	case kindProgram:
		g.renderProgram(p, &r, index, c.blocks)
	case kindPages:
		g.renderPages(p, &r, index)
	case kindRandom:
		renderRandom(p, &r)
	case kindHeap:
		g.renderHeap(p, &r)
	case kindPatch:
		g.render(p, c.base)
		for n := 1 + r.below(4); n > 0; n-- {
			run := 8 + r.below(120)
			renderRandom(p[r.below(blockSize-run):][:run], &r)
		}
	}
	if index == c.blocks-1 {
		clear(p[c.tail:])
	}
}

func renderRandom(p []byte, r *rng) {
	for ; len(p) >= 8; p = p[8:] {
		binary.LittleEndian.PutUint64(p, r.next())
	}
	for i := range p {
		p[i] = byte(r.next() >> 32)
	}
}

func (g *guest) renderText(p []byte, r *rng) {
	w := r.below(len(g.words.word))
	line := 0
	for len(p) > 0 {
		x := r.next()
		if x&7 == 0 {
			w = int(x >> 40 % uint64(len(g.words.word)))
		} else {
			w = int(g.words.next[w][x>>8&7])
		}
		n := copy(p, g.words.word[w])
		p, line = p[n:], line+n+1
		if len(p) == 0 {
			return
		}
		if p[0] = ' '; line > 72 {
			p[0], line = '\n', 0
		}
		p = p[1:]
	}
}

func (g *guest) renderLog(p []byte, r *rng, index uint32) {
	ms := int64(index) * 40_000
	var b []byte
	for len(p) > 0 {
		ms += int64(r.below(2000))
		b = append(b[:0], "2024-03-02T"...)
		for i, v := range []int64{ms / 3_600_000 % 24, ms / 60_000 % 60, ms / 1000 % 60} {
			b = append(b, '0'+byte(v/10), '0'+byte(v%10), ":::"[i])
		}
		b = strconv.AppendInt(append(b, " web01 "...), 1000+ms%1000, 10)
		b = append(append(b, ' '), g.words.word[r.below(24)]...)
		b = strconv.AppendInt(append(b, "["...), int64(400+r.below(60)), 10)
		b = append(append(b, "]: request "...), g.words.word[r.below(200)]...)
		b = strconv.AppendInt(append(b, " user="...), int64(r.below(100_000)), 10)
		b = append(strconv.AppendInt(append(b, " status=200 bytes="...), int64(r.below(20_000)), 10), '\n')
		p = p[copy(p, b):]
	}
}

func (g *guest) renderProgram(p []byte, r *rng, index, blocks uint32) {
	switch {
	case index == 0:
		copy(p, "\x7fELF\x02\x01\x01\x00\x00\x00\x00\x00\x00\x00\x00\x00\x03\x00\x3e\x00\x01\x00\x00\x00")
		clear(p[24:64])
		p = p[64:]
		fallthrough
	case index < blocks*7/10: // code
		for len(p) > 0 {
			x := r.next()
			p = p[copy(p, g.words.code[(x&0xff)*(x>>8&0xff)>>8]):]
			if x>>16&7 == 0 && len(p) >= 4 {
				binary.LittleEndian.PutUint32(p, uint32(x>>44))
				p = p[4:]
			}
		}
	case index < blocks*8/10: // relocations: a growing address, a type, an addend
		at := uint64(0x200000) + uint64(index)*blockSize
		for ; len(p) >= 24; p = p[24:] {
			at += 8 * uint64(1+r.below(3))
			binary.LittleEndian.PutUint64(p, at)
			binary.LittleEndian.PutUint64(p[8:], 8)
			binary.LittleEndian.PutUint64(p[16:], uint64(r.below(1<<20)))
		}
		clear(p)
	default: // names
		for len(p) > 0 {
			p = p[copy(p, g.words.word[r.below(len(g.words.word))]):]
			if n := copy(p, "_"); r.chance(0.5) && n > 0 {
				p[0] = 0
			}
			p = p[min(1, len(p)):]
		}
	}
}

func (g *guest) renderPages(p []byte, r *rng, index uint32) {
	clear(p)
	binary.BigEndian.PutUint32(p, uint32(r.next()))
	binary.BigEndian.PutUint32(p[4:], index)
	binary.BigEndian.PutUint64(p[16:], 0x1_0000_0000+uint64(index)*97)
	// A page is filled to between a half and all of it; the directory of rows grows from its end.
	end := blockSize/2 + r.below(blockSize/2-200)
	row := uint32(index) * 40
	for at, slot := 38, blockSize-2; at < end; slot -= 2 {
		row++
		binary.BigEndian.PutUint32(p[at:], row)
		binary.BigEndian.PutUint16(p[slot:], uint16(at))
		at += 8
		for n := 2 + r.below(6); n > 0 && at < slot-24; n-- {
			at += copy(p[at:], g.words.word[r.below(len(g.words.word))])
			p[at] = ' '
			at++
		}
	}
}

func (g *guest) renderInodes(p []byte, r *rng, index uint32) {
	clear(p)
	for i := 0; i < blockSize; i += 256 {
		if r.chance(0.2) {
			continue // an inode that is free
		}
		rec := p[i:]
		binary.LittleEndian.PutUint16(rec, 0x81a4)
		binary.LittleEndian.PutUint32(rec[4:], uint32(r.below(1<<20)))
		for _, at := range []int{8, 12, 16} {
			binary.LittleEndian.PutUint32(rec[at:], 0x65e20000+index%512+uint32(r.below(4096)))
		}
		binary.LittleEndian.PutUint32(rec[40:], 0x4f30a)
		binary.LittleEndian.PutUint32(rec[60:], uint32(r.below(1<<20)))
	}
}

func (g *guest) renderHeap(p []byte, r *rng) {
	heap := 0x0000_5555_0000_0000 + r.next()>>40<<12
	for ; len(p) >= 64; p = p[64:] {
		clear(p[:64])
		switch r.below(4) {
		case 0:
			copy(p[:64], g.words.word[r.below(len(g.words.word))])
			fallthrough
		case 1:
			binary.LittleEndian.PutUint64(p[32:], heap+uint64(r.below(1<<16))<<4)
			binary.LittleEndian.PutUint64(p[40:], heap+uint64(r.below(1<<16))<<4)
		case 2:
			binary.LittleEndian.PutUint32(p, uint32(r.below(1<<12)))
		}
	}
}
