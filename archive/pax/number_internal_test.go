package pax

import (
	"math"
	"math/rand/v2"
	"testing"
	"time"
)

func TestSums(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 2))
	for i := range 1000 {
		var b block
		for k := range b {
			b[k] = byte(rng.Uint32())
			if i == 0 {
				b[k] = 0xff // the lanes must not overflow
			}
		}
		unsigned, signed := sums(&b)
		var u, s int64
		for k, c := range b {
			if k >= 148 && k < 156 {
				c = ' '
			}
			u += int64(c)
			s += int64(int8(c))
		}
		if u != unsigned || s != signed {
			t.Fatalf("%d, %d; want %d, %d", unsigned, signed, u, s)
		}
	}
}

func TestNumbers(t *testing.T) {
	var b [12]byte
	for _, v := range []int64{0, 1, 7, 8, 1<<33 - 1} {
		putOctal(b[:], v)
		if got, err := parseNumber(b[:]); err != nil || got != v {
			t.Errorf("octal %d: %q %d %v", v, b, got, err)
		}
	}
	for _, v := range []int64{0, 1, 1 << 33, 1 << 62, math.MaxInt64} {
		putBinary(b[:], v)
		if got, err := parseNumber(b[:]); err != nil || got != v {
			t.Errorf("base-256 %d: %q %d %v", v, b, got, err)
		}
	}
	for s, want := range map[string]int64{
		"\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff": -1,
		"\xff\xff\xff\xff\x80\x00\x00\x00\x00\x00\x00\x00": math.MinInt64,
		"\xff\xff\xff\xff\xff\xff\xff\xfe":                 -2,
		"\x80\x00\x00\x01\x00\x00\x00\x00":                 1 << 32,
		"\xbf\xff\xff\xff\xff\xff\xff\xff":                 0x3fffffffffffffff,
		"            ":                                     0,
		"\x00\x00\x00\x00\x00\x00\x00\x00":                 0,
		"777777777777":                                     1<<36 - 1, // all 12 digits, as star writes
		"  12 \x00  ":                                      0o12,
	} {
		if got, err := parseNumber([]byte(s)); err != nil || got != want {
			t.Errorf("%q: %d %v, want %d", s, got, err, want)
		}
	}
}

func TestTimes(t *testing.T) {
	for s, want := range map[string]time.Time{
		"0": time.Unix(0, 0), "1.5": time.Unix(1, 5e8), "-1.5": time.Unix(-2, 5e8), "-0.5": time.Unix(-1, 5e8), "-1": time.Unix(-1, 0),
		"-0.000000001": time.Unix(-1, 999_999_999), "0.000000001": time.Unix(0, 1), "-1.999999999": time.Unix(-2, 1),
		"12345678901.25": time.Unix(12345678901, 25e7),
	} {
		got, ok := parseTime(s)
		if !ok || !got.Equal(want) {
			t.Errorf("%s: %v", s, got)
		}
		if text := string(appendTime(nil, want.Unix(), int64(want.Nanosecond()))); text != s {
			t.Errorf("%v is written %s, want %s", want, text, s)
		}
	}
	if got, ok := parseTime("-0"); !ok || got.Unix() != 0 {
		t.Error(got)
	}
	for _, s := range []string{"", "-", ".", ".5", "1.", "+1", " 1", "1 ", "1,5", "0x1", "1.-5", "1152921504606846977"} {
		if got, ok := parseTime(s); ok {
			t.Errorf("%q: %v", s, got)
		}
	}
}

func TestXattrEscapes(t *testing.T) {
	for name, want := range map[string]string{
		"a": "a", "a=b": "a%3Db", "%": "%", "%25": "%2525", "%3D": "%253D", "%2": "%2", "%%25": "%%2525", "%3d": "%3d", "%=": "%%3D", "=25": "%3D25",
	} {
		if got := escapeXattr(name); got != want || unescapeXattr(got) != name {
			t.Errorf("%q: %q, back %q", name, got, unescapeXattr(got))
		}
	}
}
