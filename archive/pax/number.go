package pax

import (
	"encoding/binary"
	"math"
	"math/bits"
	"strconv"
	"strings"
	"time"
)

// putOctal fills b with octal digits and a NUL. v must fit.
func putOctal(b []byte, v int64) {
	b[len(b)-1] = 0
	for i := len(b) - 2; i >= 0; i-- {
		b[i] = '0' + byte(v&7)
		v >>= 3
	}
}

// putBinary fills the 12 bytes of b with GNU base-256.
func putBinary(b []byte, v int64) {
	clear(b[:4])
	b[0] = 0x80
	binary.BigEndian.PutUint64(b[4:12], uint64(v))
}

// parseNumber reads a numeric header field, which is 8 or 12 bytes. A field of NULs and spaces is 0.
func parseNumber(b []byte) (int64, error) {
	if b[0]&0x80 != 0 {
		return parseBinary(b)
	}
	i := 0
	for i < len(b) && (b[i] == ' ' || b[i] == 0) {
		i++
	}
	var v int64
	for ; i < len(b) && b[i] != ' ' && b[i] != 0; i++ {
		if b[i] < '0' || b[i] > '7' {
			return 0, headerErr("octal number %q", b)
		}
		v = v<<3 | int64(b[i]-'0')
	}
	for ; i < len(b); i++ {
		if b[i] != ' ' && b[i] != 0 {
			return 0, headerErr("octal number %q", b)
		}
	}
	return v, nil
}

func parseBinary(b []byte) (int64, error) {
	// The first byte has seven bits of value; the top one of them is the sign.
	var inv byte
	if b[0]&0x40 != 0 {
		inv = 0xff
	}
	var v uint64
	for i, c := range b {
		c ^= inv
		if i == 0 {
			c &= 0x7f
		}
		if v>>56 != 0 {
			return 0, headerErr("base-256 number %x overflows", b)
		}
		v = v<<8 | uint64(c)
	}
	if v>>63 != 0 {
		return 0, headerErr("base-256 number %x overflows", b)
	}
	if inv != 0 {
		return ^int64(v), nil
	}
	return int64(v), nil
}

// parseDecimal reads one or more digits and nothing else.
func parseDecimal(s string) (int64, bool) {
	if s == "" || len(s) > 19 {
		return 0, false
	}
	var v uint64 // 19 digits fit
	for i := 0; i < len(s); i++ {
		c := s[i] - '0'
		if c > 9 {
			return 0, false
		}
		v = v*10 + uint64(c)
	}
	return int64(v), v <= math.MaxInt64
}

// maxSeconds keeps times inside what time.Time can hold.
const maxSeconds = 1 << 60

// parseTime reads decimal seconds since 1970 with an optional sign and fraction. Digits past the ninth are dropped.
func parseTime(s string) (time.Time, bool) {
	digits, neg := strings.CutPrefix(s, "-")
	whole, frac, dot := strings.Cut(digits, ".")
	sec, ok := parseDecimal(whole)
	if !ok || sec > maxSeconds || dot && frac == "" {
		return time.Time{}, false
	}
	var nsec int64
	scale := int64(100_000_000)
	for i := 0; i < len(frac); i++ {
		c := frac[i] - '0'
		if c > 9 {
			return time.Time{}, false
		}
		nsec += int64(c) * scale
		scale /= 10
	}
	if neg {
		sec, nsec = -sec, -nsec
	}
	return time.Unix(sec, nsec).UTC(), true
}

// appendTime writes what parseTime reads.
func appendTime(dst []byte, sec, nsec int64) []byte {
	if sec < 0 && nsec > 0 {
		sec, nsec = sec+1, 1_000_000_000-nsec
		if sec == 0 { // -0.5 has its sign although its seconds have none
			dst = append(dst, '-')
		}
	}
	dst = appendInt(dst, sec)
	if nsec == 0 {
		return dst
	}
	dst = append(dst, '.')
	for scale := int64(100_000_000); nsec > 0; scale /= 10 {
		dst = append(dst, '0'+byte(nsec/scale))
		nsec %= scale
	}
	return dst
}

// digits counts the decimal digits of v >= 0.
func digits(v int64) int {
	n := 1
	for ; v >= 10; v /= 10 {
		n++
	}
	return n
}

// sums returns the header checksum of b with bytes taken as unsigned and, as some old writers did, as signed.
func sums(b *block) (unsigned, signed int64) {
	// Two sums of 16-bit lanes: 128 additions of at most 255 each stay below 65536.
	const lanes = 0x00ff00ff00ff00ff
	var acc uint64
	var high int64
	for i := 0; i < BlockSize; i += 8 {
		w := binary.LittleEndian.Uint64(b[i:])
		acc += w&lanes + w>>8&lanes
		high += int64(bits.OnesCount64(w & 0x8080808080808080))
	}
	for ; acc != 0; acc >>= 16 {
		unsigned += int64(acc & 0xffff)
	}
	for _, c := range b[posChecksum : posChecksum+lenChecksum] {
		unsigned += ' ' - int64(c)
		high -= int64(c >> 7)
	}
	return unsigned, unsigned - 256*high
}

func appendInt(dst []byte, v int64) []byte { return strconv.AppendInt(dst, v, 10) }
