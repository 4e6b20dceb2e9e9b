package pax_test

import (
	"encoding/binary"
	"fmt"
	"strconv"
	"strings"

	"tarvm/archive/pax"
)

// rawBlock makes a header block by hand: what AppendHeader would not write. Fields in edits are offset and bytes.
func rawBlock(magic string, typ byte, name string, size int64, edits ...any) []byte {
	b := make([]byte, 512)
	copy(b, name)
	copy(b[100:], "0000644\x000000000\x000000000\x00")
	copy(b[124:], fmt.Sprintf("%011o", size))
	copy(b[136:], "00000000000")
	b[156] = typ
	switch magic {
	case "ustar":
		copy(b[257:], "ustar\x0000")
	case "gnu":
		copy(b[257:], "ustar  \x00")
	}
	for i := 0; i < len(edits); i += 2 {
		copy(b[edits[i].(int):], edits[i+1].(string))
	}
	return rawSeal(b)
}

func rawSeal(b []byte) []byte {
	copy(b[148:156], "        ")
	sum := 0
	for _, c := range b {
		sum += int(c)
	}
	copy(b[148:156], fmt.Sprintf("%06o\x00 ", sum))
	return b
}

func rawRecord(k, v string) string {
	n := len(k) + len(v) + 3
	for n != len(k)+len(v)+3+len(strconv.Itoa(n)) {
		n = len(k) + len(v) + 3 + len(strconv.Itoa(n))
	}
	return fmt.Sprintf("%d %s=%s\n", n, k, v)
}

// rawExtended is an extended header of type x or g.
func rawExtended(typ byte, records string) []byte {
	b := append(rawBlock("ustar", typ, "PaxHeaders/x", int64(len(records))), records...)
	return pax.AppendPadding(b, int64(len(records)))
}

// rawMember is a member named "n" with records and body.
func rawMember(records, magic string, typ byte, body []byte, edits ...any) []byte {
	var b []byte
	if records != "" {
		b = rawExtended('x', records)
	}
	b = append(b, rawBlock(magic, typ, "n", int64(len(body)), edits...)...)
	b = append(b, body...)
	return pax.AppendPadding(b, int64(len(body)))
}

// base256 is a binary number of the given width.
func base256(width int, v int64) string {
	b := make([]byte, width)
	if v < 0 {
		for i := range b {
			b[i] = 0xff
		}
	}
	if width >= 8 {
		binary.BigEndian.PutUint64(b[width-8:], uint64(v))
	} else {
		for i := range b {
			b[width-1-i] = byte(v >> (8 * i))
		}
	}
	b[0] |= 0x80
	return string(b)
}

// oldEntries are entries of an old GNU sparse table.
func oldEntries(e ...int64) string {
	var b strings.Builder
	for _, v := range e {
		fmt.Fprintf(&b, "%011o\x00", v)
	}
	return b.String()
}
