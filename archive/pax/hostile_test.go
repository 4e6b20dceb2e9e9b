package pax_test

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"math"
	"runtime"
	"strings"
	"testing"
	"time"

	"tarvm/archive/pax"
)

func cat(parts ...[]byte) []byte { return bytes.Join(parts, nil) }

// sparse10 is a member of the pax 1.0 form with the given map text.
func sparse10(realsize, mapText, data string) []byte {
	body := append(pax.AppendPadding([]byte(mapText), int64(len(mapText))), data...)
	return rawMember(rawRecord("GNU.sparse.major", "1")+rawRecord("GNU.sparse.minor", "0")+rawRecord("GNU.sparse.name", "s")+
		rawRecord("GNU.sparse.realsize", realsize), "ustar", '0', body)
}

// sparse01 is a member of the pax 0.1 form.
func sparse01(size, blocks, mapText, data string) []byte {
	return rawMember(rawRecord("GNU.sparse.size", size)+rawRecord("GNU.sparse.numblocks", blocks)+rawRecord("GNU.sparse.name", "s")+
		rawRecord("GNU.sparse.map", mapText), "ustar", '0', []byte(data))
}

// sparse00 is a member of the pax 0.0 form; pairs are offsets and lengths.
func sparse00(size, blocks, data string, pairs ...string) []byte {
	r := rawRecord("GNU.sparse.size", size) + rawRecord("GNU.sparse.numblocks", blocks)
	for i := 0; i < len(pairs); i += 2 {
		r += rawRecord("GNU.sparse.offset", pairs[i]) + rawRecord("GNU.sparse.numbytes", pairs[i+1])
	}
	return rawMember(r, "ustar", '0', []byte(data))
}

// sparseOld is an old GNU sparse member whose table fits in the header.
func sparseOld(realsize, entries string, data string) []byte {
	return rawMember("", "gnu", 'S', []byte(data), 386, entries, 483, realsize)
}

type hostileCase struct {
	name   string
	data   []byte
	want   error
	offset int64  // of the error
	field  string // part of FormatError.Field
}

func hostileCases() []hostileCase {
	records := func(r string) []byte { return rawMember(r, "ustar", '0', nil) }
	field := func(pos int, s string) []byte { return rawBlock("ustar", '0', "n", 0, pos, s) }
	badSum := rawBlock("ustar", '0', "n", 0)
	badSum[5] ^= 1
	long := func(typ byte, s string) []byte {
		return pax.AppendPadding(append(rawBlock("gnu", typ, "././@LongLink", int64(len(s))), s...), int64(len(s)))
	}
	// An old sparse member whose extension blocks never end.
	var endless []byte
	{
		ext := make([]byte, 512)
		for i := range 21 {
			copy(ext[i*24:], oldEntries(0, 0))
		}
		ext[504] = 1
		endless = append(rawBlock("gnu", 'S', "n", 0, 482, "\x01", 483, "77777777777\x00"), bytes.Repeat(ext, 20)...)
	}
	const big = "9223372036854775807"
	o12 := func(v int64) string { return fmt.Sprintf("%011o\x00", v) }

	return []hostileCase{
		{"checksum", badSum, pax.ErrHeader, 148, "checksum"},
		{"checksum is no number", append(bytes.Clone(badSum[:148]), append([]byte("zzzzzzzz"), badSum[156:]...)...), pax.ErrHeader, 148, "checksum"},
		{"text", []byte(strings.Repeat("not a tar archive\n", 100)), pax.ErrHeader, 148, "checksum"},

		{"octal with a letter", field(124, "0000000000x"), pax.ErrHeader, 124, "size"},
		{"octal with a sign", field(124, "-0000000001"), pax.ErrHeader, 124, "size"},
		{"octal with a gap", field(124, "000 0000001"), pax.ErrHeader, 124, "size"},
		{"base-256 overflow", field(124, "\x80\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff"), pax.ErrHeader, 124, "size"},
		{"base-256 overflow by one bit", field(124, "\x80\x00\x00\x00\x80\x00\x00\x00\x00\x00\x00\x00"), pax.ErrHeader, 124, "size"},
		{"base-256 negative overflow", field(136, "\xc0\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00"), pax.ErrHeader, 136, "mtime"},
		{"base-256 negative size", field(124, base256(12, -1)), pax.ErrHeader, 124, "size"},
		{"base-256 largest size", field(124, base256(12, math.MaxInt64)), pax.ErrTooLarge, 124, "size"},
		{"base-256 largest time", field(136, base256(12, math.MaxInt64)), pax.ErrTooLarge, 136, "mtime"},
		{"negative uid", field(108, base256(8, -2)), pax.ErrHeader, 108, "uid"},
		{"negative gid", field(116, base256(8, -2)), pax.ErrHeader, 116, "gid"},
		{"negative mode", field(100, base256(8, -2)), pax.ErrHeader, 100, "mode"},
		{"negative device", rawBlock("ustar", '3', "n", 0, 329, base256(8, -2)), pax.ErrHeader, 329, "devmajor"},
		{"bad minor device", rawBlock("ustar", '4', "n", 0, 337, "?"), pax.ErrHeader, 337, "devminor"},

		{"no name", rawBlock("ustar", '0', "", 0), pax.ErrHeader, 0, "name"},
		{"file with a slash at its end", rawMember("", "ustar", '0', []byte("x"), 0, "n/"), pax.ErrHeader, 0, "name"},
		{"link with a slash at its end", rawBlock("ustar", '2', "n/", 0, 157, "t"), pax.ErrHeader, 0, "name"},
		{"link without target", rawBlock("ustar", '1', "n", 0), pax.ErrHeader, 157, "link target"},

		{"single block of zeros", cat(make([]byte, 512), rawBlock("ustar", '0', "n", 0)), pax.ErrHeader, 0, "header"},
		{"extended header before the end", pax.AppendEnd(rawExtended('x', rawRecord("path", "p"))), pax.ErrHeader, 1024, "header"},
		{"long name before the end", pax.AppendEnd(long('L', "name\x00")), pax.ErrHeader, 1024, "header"},
		{"two extended headers", cat(rawExtended('x', rawRecord("path", "p")), records(rawRecord("path", "q"))), pax.ErrHeader, 1024, "extended header"},
		{"two long names", cat(long('L', "a\x00"), long('L', "b\x00"), rawBlock("gnu", '0', "n", 0)), pax.ErrHeader, 1024, "long name"},
		{"two long targets", cat(long('K', "a\x00"), long('K', "b\x00"), rawBlock("gnu", '2', "n", 0)), pax.ErrHeader, 1024, "long name"},
		{"empty long name", cat(long('L', "\x00a"), rawBlock("gnu", '0', "n", 0)), pax.ErrHeader, 0, "long name"},
		{"long name and path", cat(long('L', "a\x00"), records(rawRecord("path", "q"))), pax.ErrHeader, 0, "long name"},
		{"long target and linkpath", cat(long('K', "a\x00"), rawExtended('x', rawRecord("linkpath", "q")), rawBlock("gnu", '2', "n", 0)), pax.ErrHeader, 0, "long name"},
		{"global header after an extended one", cat(rawExtended('x', rawRecord("path", "p")), rawExtended('g', rawRecord("comment", "c"))), pax.ErrHeader, 1024, "extended header"},
		{"global path", cat(rawExtended('g', rawRecord("path", "p")), records("")), pax.ErrHeader, 512, `"path"`},
		{"global linkpath", cat(rawExtended('g', rawRecord("linkpath", "p")), records("")), pax.ErrHeader, 512, `"linkpath"`},
		{"global size", cat(rawExtended('g', rawRecord("comment", "c")+rawRecord("size", "1")), records("")), pax.ErrHeader, 525, `"size"`},
		{"global sparse", cat(rawExtended('g', rawRecord("GNU.sparse.major", "1")), records("")), pax.ErrHeader, 512, `"GNU.sparse.major"`},

		{"pax header of 1 GiB", rawBlock("ustar", 'x', "x", 1<<30), pax.ErrTooLarge, 124, "extended header"},
		{"pax header of 2^63-1", rawBlock("ustar", 'x', "x", 0, 124, base256(12, math.MaxInt64)), pax.ErrTooLarge, 124, "extended header"},
		{"pax header of negative size", rawBlock("ustar", 'x', "x", 0, 124, base256(12, -512)), pax.ErrHeader, 124, "size"},
		{"global header of 1 GiB", rawBlock("ustar", 'g', "x", 1<<30), pax.ErrTooLarge, 124, "extended header"},
		{"long name of 1 GiB", rawBlock("gnu", 'L', "x", 1<<30), pax.ErrTooLarge, 124, "long name"},
		{"long target of 1 GiB", rawBlock("gnu", 'K', "x", 1<<30), pax.ErrTooLarge, 124, "long name"},
		{"directory list of 1 GiB", rawBlock("gnu", 'D', "x", 1<<30), pax.ErrTooLarge, 124, "GNU.dumpdir"},
		{"pax header of 1 MiB that is not there", cat(rawBlock("ustar", 'x', "x", 1<<20), make([]byte, 4096)), pax.ErrTruncated, 512 + 4096, "extended header"},
		{"directory list twice", cat(rawExtended('x', rawRecord("GNU.dumpdir", "Yn\x00\x00")), rawBlock("gnu", 'D', "x", 0)), pax.ErrHeader, 1024, "GNU.dumpdir"},

		{"record length of nothing", records("x"), pax.ErrHeader, 512, "record"},
		{"record length 0", records("0 a=b\n"), pax.ErrHeader, 512, "record"},
		{"record length too short", records("3 a=b\n"), pax.ErrHeader, 512, "record"},
		{"record length only itself", records("2 "), pax.ErrHeader, 512, "record"},
		{"record length one too long", records("7 a=b\n"), pax.ErrHeader, 512, "record"},
		{"record length one too short", records("5 a=b\n"), pax.ErrHeader, 512, "record"},
		{"record length past the header", records(rawRecord("c", "d") + "99 a=b\n"), pax.ErrHeader, 518, "record"},
		{"record length negative", records("-6 a=b\n"), pax.ErrHeader, 512, "record"},
		{"record length with plus", records("+7 a=b\n"), pax.ErrHeader, 512, "record"},
		{"record length overflows", records("99999999999999999999 a=b\n"), pax.ErrHeader, 512, "record"},
		{"record length is 2^63", records("9223372036854775808 a=b\n"), pax.ErrHeader, 512, "record"},
		{"record length without end", records(strings.Repeat("1", 4000)), pax.ErrHeader, 512, "record"},
		{"record without equals sign", records("6 abc\n"), pax.ErrHeader, 512, "record"},
		{"record without key", records("5 =b\n"), pax.ErrHeader, 512, "record"},
		{"record key with NUL", records("6 \x00=b\n"), pax.ErrHeader, 512, "record"},
		{"path with NUL", records(rawRecord("path", "a\x00b")), pax.ErrHeader, 512, `"path"`},
		{"uname with NUL", records(rawRecord("uname", "a\x00b")), pax.ErrHeader, 512, `"uname"`},
		{"uid is text", records(rawRecord("uid", "root")), pax.ErrHeader, 512, `"uid"`},
		{"uid negative", records(rawRecord("uid", "-1")), pax.ErrHeader, 512, `"uid"`},
		{"gid too large", records(rawRecord("gid", "9223372036854775808")), pax.ErrHeader, 512, `"gid"`},
		{"size negative", records(rawRecord("size", "-1")), pax.ErrHeader, 512, `"size"`},
		{"size overflows", records(rawRecord("size", "18446744073709551617")), pax.ErrHeader, 512, `"size"`},
		{"size too large to add", records(rawRecord("size", big)), pax.ErrTooLarge, 1024 + 124, "size"},
		{"mtime is text", records(rawRecord("mtime", "now")), pax.ErrHeader, 512, `"mtime"`},
		{"mtime with two points", records(rawRecord("mtime", "1.2.3")), pax.ErrHeader, 512, `"mtime"`},
		{"mtime with exponent", records(rawRecord("mtime", "1e9")), pax.ErrHeader, 512, `"mtime"`},
		{"mtime with two signs", records(rawRecord("mtime", "--1")), pax.ErrHeader, 512, `"mtime"`},
		{"mtime ends in a point", records(rawRecord("mtime", "1.")), pax.ErrHeader, 512, `"mtime"`},
		{"mtime too large", records(rawRecord("mtime", big)), pax.ErrHeader, 512, `"mtime"`},
		{"attribute without name", records(rawRecord("SCHILY.xattr.", "v")), pax.ErrHeader, 512, `"SCHILY.xattr."`},

		// Sparse maps, in each of the four forms.
		{"1.0: count of 2^62", sparse10("99", "4611686018427387904\n", ""), pax.ErrTooLarge, 1536, "sparse map"},
		{"1.0: count past the limit", sparse10("99", "4194305\n", ""), pax.ErrTooLarge, 1536, "sparse map"},
		{"1.0: count overflows", sparse10("99", "99999999999999999999\n", ""), pax.ErrHeader, 1536 + 18, "sparse map"},
		{"1.0: count larger than the map", sparse10("99", "4000000\n0\n0\n", ""), pax.ErrHeader, 1536 + 12, "sparse map"},
		{"1.0: map larger than the member", sparse10("99", "1000\n"+strings.Repeat("0\n0\n", 126)+"00\n", ""), pax.ErrHeader, 2048, "sparse map"},
		{"1.0: no map", sparse10("99", "", ""), pax.ErrHeader, 1536, "sparse map"},
		{"1.0: number without end", sparse10("99", strings.Repeat("0", 600), ""), pax.ErrHeader, 1536 + 19, "sparse map"},
		{"1.0: empty number", sparse10("99", "1\n\n5\n", ""), pax.ErrHeader, 1536 + 2, "sparse map"},
		{"1.0: negative offset", sparse10("99", "1\n-5\n5\n", ""), pax.ErrHeader, 1536 + 2, "sparse map"},
		{"1.0: not ascending", sparse10("99", "2\n50\n5\n0\n5\n", strings.Repeat("x", 10)), pax.ErrHeader, 1536 + 10, "sparse map"},
		{"1.0: overlap", sparse10("99", "2\n0\n5\n4\n5\n", strings.Repeat("x", 10)), pax.ErrHeader, 1536 + 9, "sparse map"},
		{"1.0: up to the end", sparse10("100", "1\n95\n5\n", "xxxxx"), nil, 0, ""},
		{"1.0: past the end", sparse10("100", "1\n95\n6\n", "xxxxxx"), pax.ErrHeader, 1536 + 6, "sparse map"},
		{"1.0: sum overflows", sparse10("99", "1\n5\n9223372036854775797\n", "x"), pax.ErrHeader, 0, "sparse map"},
		{"1.0: stores more", sparse10("99", "1\n5\n5\n", "xxxxxx"), pax.ErrHeader, 0, "sparse map"},
		{"1.0: stores less", sparse10("99", "1\n5\n5\n", "xxxx"), pax.ErrHeader, 0, "sparse map"},
		{"1.0: negative size", sparse10("-1", "0\n", ""), pax.ErrHeader, 0, `"GNU.sparse.realsize"`},
		{"1.0: no size", records(rawRecord("GNU.sparse.major", "1") + rawRecord("GNU.sparse.minor", "0")), pax.ErrHeader, 1024, "sparse records"},
		{"1.0: mixed with 0.1", records(rawRecord("GNU.sparse.major", "1") + rawRecord("GNU.sparse.minor", "0") + rawRecord("GNU.sparse.realsize", "0") + rawRecord("GNU.sparse.map", "0,0")), pax.ErrHeader, 1024, "sparse records"},
		{"1.0: on a directory", rawMember(rawRecord("GNU.sparse.major", "1")+rawRecord("GNU.sparse.minor", "0")+rawRecord("GNU.sparse.realsize", "0"), "ustar", '5', nil), pax.ErrHeader, 1024, "sparse records"},
		{"1.0: on an old sparse member", rawMember(rawRecord("GNU.sparse.major", "1")+rawRecord("GNU.sparse.minor", "0")+rawRecord("GNU.sparse.realsize", "0"), "gnu", 'S', nil), pax.ErrHeader, 1024 + 156, "type"},
		{"version 2.0", records(rawRecord("GNU.sparse.major", "2") + rawRecord("GNU.sparse.minor", "0") + rawRecord("GNU.sparse.realsize", "0")), pax.ErrUnsupported, 1024, "sparse records"},
		{"sparse key unknown", records(rawRecord("GNU.sparse.other", "2")), pax.ErrHeader, 0, `"GNU.sparse.other"`},
		{"sparse name alone", records(rawRecord("GNU.sparse.name", "x")), pax.ErrHeader, 1024, "sparse records"},

		{"0.1: count lies", sparse01("99", "99999999999", "5,5", "xxxxx"), pax.ErrHeader, 0, "sparse records"},
		{"0.1: no count", records(rawRecord("GNU.sparse.size", "9") + rawRecord("GNU.sparse.map", "5,5")), pax.ErrHeader, 0, "sparse records"},
		{"0.1: odd map", sparse01("99", "1", "5", "xxxxx"), pax.ErrHeader, 0, `"GNU.sparse.map"`},
		{"0.1: comma at the end", sparse01("99", "1", "5,5,", "xxxxx"), pax.ErrHeader, 0, `"GNU.sparse.map"`},
		{"0.1: negative", sparse01("99", "1", "-5,5", "xxxxx"), pax.ErrHeader, 0, `"GNU.sparse.map"`},
		{"0.1: not ascending", sparse01("99", "2", "50,5,0,5", strings.Repeat("x", 10)), pax.ErrHeader, 0, "sparse map"},
		{"0.1: past the end", sparse01("9", "1", "5,5", "xxxxx"), pax.ErrHeader, 0, "sparse map"},
		{"0.1: sum lies", sparse01("99", "1", "5,5", "xxxx"), pax.ErrHeader, 0, "sparse map"},
		{"0.1: overflow", sparse01(big, "2", "0,"+big+",1,"+big, "xxxx"), pax.ErrHeader, 0, "sparse map"},
		{"0.1: empty map", sparse01("99", "0", "", ""), pax.ErrHeader, 0, `"GNU.sparse.map"`},
		{"0.1: largest size", sparse01(big, "1", "0,0", ""), pax.ErrTooLarge, 0, "sparse size"},

		{"0.0: count lies", sparse00("99", "2", "xxxxx", "5", "5"), pax.ErrHeader, 0, "sparse records"},
		{"0.0: no pairs", sparse00("99", "0", ""), pax.ErrHeader, 0, "sparse records"},
		{"0.0: huge count", sparse00("99", big, "xxxxx", "5", "5"), pax.ErrHeader, 0, "sparse records"},
		{"0.0: length without offset", records(rawRecord("GNU.sparse.numbytes", "5")), pax.ErrHeader, 512, `"GNU.sparse.numbytes"`},
		{"0.0: offset without length", records(rawRecord("GNU.sparse.offset", "5")), pax.ErrHeader, 512 + 23, `"GNU.sparse.offset"`},
		{"0.0: two offsets", records(rawRecord("GNU.sparse.offset", "5") + rawRecord("GNU.sparse.offset", "5")), pax.ErrHeader, 512 + 23, `"GNU.sparse.offset"`},
		{"0.0: not a number", records(rawRecord("GNU.sparse.offset", "x")), pax.ErrHeader, 512, `"GNU.sparse.offset"`},
		{"0.0: not ascending", sparse00("99", "2", strings.Repeat("x", 10), "50", "5", "0", "5"), pax.ErrHeader, 0, "sparse map"},
		{"0.0: past the end", sparse00("9", "1", "xxxxx", "5", "5"), pax.ErrHeader, 0, "sparse map"},
		{"0.0: sum lies", sparse00("99", "1", "xxxx", "5", "5"), pax.ErrHeader, 0, "sparse map"},

		{"old: without the magic of GNU", rawMember("", "ustar", 'S', nil), pax.ErrHeader, 257, "magic"},
		{"old: endless extension", endless, pax.ErrTruncated, int64(len(endless)), "header"},
		{"old: negative size", sparseOld(base256(12, -1), oldEntries(0, 5), "xxxxx"), pax.ErrHeader, 483, "sparse size"},
		{"old: negative entry", sparseOld(o12(99), base256(12, -1)+o12(5), "xxxxx"), pax.ErrHeader, 386, "sparse map"},
		{"old: overflow", sparseOld(o12(99), o12(1)+base256(12, math.MaxInt64), "xxxxx"), pax.ErrHeader, 386, "sparse map"},
		{"old: not ascending", sparseOld(o12(99), oldEntries(50, 5, 0, 5), strings.Repeat("x", 10)), pax.ErrHeader, 386 + 24, "sparse map"},
		{"old: past the end", sparseOld(o12(9), oldEntries(5, 5), "xxxxx"), pax.ErrHeader, 386, "sparse map"},
		{"old: sum lies", sparseOld(o12(99), oldEntries(5, 5), "xxxx"), pax.ErrHeader, 0, "sparse map"},
		{"old: no number", sparseOld(o12(99), "zzz", "xxxx"), pax.ErrHeader, 386, "sparse map"},
	}
}

func TestHostile(t *testing.T) {
	for _, c := range hostileCases() {
		t.Run(c.name, func(t *testing.T) {
			before := totalAlloc()
			start := time.Now()
			_, err := readAll(bytes.NewReader(c.data), pax.ReaderOptions{})
			if c.want == nil { // the neighbour of a bad case is good, as far as it goes
				if !errors.Is(err, pax.ErrNoEnd) {
					t.Fatal(err)
				}
				return
			}
			var fe *pax.FormatError
			if !errors.Is(err, c.want) || !errors.As(err, &fe) {
				t.Fatalf("%v, want %v", err, c.want)
			}
			if fe.Offset != c.offset && c.offset != 0 {
				t.Errorf("%v: at %d, want %d", err, fe.Offset, c.offset)
			}
			if !strings.Contains(fe.Field, c.field) {
				t.Errorf("%v: field %q, want %q", err, fe.Field, c.field)
			}
			if n := totalAlloc() - before; n > 4<<20 {
				t.Errorf("%d bytes allocated for %d read", n, len(c.data))
			}
			if d := time.Since(start); d > 5*time.Second {
				t.Errorf("took %v", d)
			}
			for _, r := range err.Error() {
				if r < ' ' {
					t.Errorf("control character in %q", err)
				}
			}
		})
	}
}

func totalAlloc() uint64 {
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.TotalAlloc
}

// A map of as many entries as come, without end: reading stops at the limit, and memory stays near what the limit allows.
func TestSparseMapBombs(t *testing.T) {
	const size = "1152921504606846976"
	ten := func(entry func(i int) string) io.Reader { // pax 1.0, endless
		head := sparse10(size, "4194304\n", "")
		head = head[:len(head)-512] // without the map
		h := head[len(head)-512:]
		copy(h[124:], "77777777777\x00")
		copy(h, rawSeal(h))
		return io.MultiReader(bytes.NewReader(head), strings.NewReader("4194304\n"), &generator{next: entry})
	}
	old := func() io.Reader {
		head := rawBlock("gnu", 'S', "n", 0, 482, "\x01", 483, base256(12, 1<<60))
		at := int64(0)
		return io.MultiReader(bytes.NewReader(head), &generator{next: func(int) string {
			b := make([]byte, 512)
			for i := range 21 {
				copy(b[i*24:], base256(12, at)+base256(12, 1))
				at += 2
			}
			b[504] = 1
			return string(b)
		}})
	}
	opt := pax.ReaderOptions{MaxExtents: 100_000}
	for name, c := range map[string]struct {
		src  io.Reader
		opt  pax.ReaderOptions
		want error
	}{
		"old":               {old(), opt, pax.ErrTooLarge},
		"1.0 count":         {ten(func(i int) string { return fmt.Sprintf("%d\n1\n", 2*i) }), opt, pax.ErrTooLarge},
		"1.0 empty entries": {ten(func(int) string { return "0\n0\n" }), pax.ReaderOptions{}, pax.ErrHeader},
		"0.1": {bytes.NewReader(sparse01(size, "1", strings.Repeat("0,0,", 20_000)+"0,0", "")),
			pax.ReaderOptions{MaxExtents: 20_000}, pax.ErrTooLarge},
	} {
		before := totalAlloc()
		_, err := readAll(c.src, c.opt)
		if !errors.Is(err, c.want) {
			t.Errorf("%s: %v", name, err)
		}
		if n := totalAlloc() - before; n > 32<<20 {
			t.Errorf("%s: %d bytes allocated", name, n)
		}
	}
}

// A generator is an endless reader of what next returns.
type generator struct {
	next func(i int) string
	i    int
	rest string
}

func (g *generator) Read(p []byte) (int, error) {
	n := 0
	for n < len(p) {
		if g.rest == "" {
			g.rest = g.next(g.i)
			g.i++
		}
		k := copy(p[n:], g.rest)
		g.rest = g.rest[k:]
		n += k
	}
	return n, nil
}

// What looks odd and is right.
func TestReadsOddForms(t *testing.T) {
	signed := rawBlock("ustar", '0', "\xff\xfe\xfd", 0)
	{
		sum := 0
		copy(signed[148:], "        ")
		for _, c := range signed {
			sum += int(int8(c))
		}
		copy(signed[148:], fmt.Sprintf("%06o\x00 ", sum))
	}
	star := rawBlock("ustar", '0', "n", 0, 345, strings.Repeat("p", 131), 476, "00000000001 00000000001 ", 508, "tar\x00")
	for name, c := range map[string]struct {
		data []byte
		want func(h *pax.Header) bool
	}{
		"signed checksum": {signed, func(h *pax.Header) bool { return h.Name == "\xff\xfe\xfd" && h.Format == "ustar" }},
		"star":            {star, func(h *pax.Header) bool { return h.Name == strings.Repeat("p", 131)+"/n" && h.Format == "ustar" }},
		"v7":              {rawBlock("", 0, "n", 0), func(h *pax.Header) bool { return h.Type == pax.TypeReg && h.Format == "v7" }},
		"v7 directory":    {rawBlock("", 0, "n/", 0), func(h *pax.Header) bool { return h.Type == pax.TypeDir && h.Name == "n" }},
		"directory by its slash": {rawBlock("ustar", '0', "n//", 0), func(h *pax.Header) bool {
			return h.Type == pax.TypeDir && h.Name == "n"
		}},
		"contiguous":          {rawBlock("ustar", '7', "n", 0), func(h *pax.Header) bool { return h.Type == pax.TypeReg }},
		"file type in mode":   {rawBlock("ustar", '0', "n", 0, 100, "0100644\x00"), func(h *pax.Header) bool { return h.Mode == 0o644 }},
		"spaces":              {rawBlock("ustar", '0', "n", 0, 100, "   644 \x00", 108, "       \x00"), func(h *pax.Header) bool { return h.Mode == 0o644 && h.UID == 0 }},
		"negative time":       {rawBlock("gnu", '0', "n", 0, 136, base256(12, -5)), func(h *pax.Header) bool { return h.ModTime.Unix() == -5 }},
		"base-256 owner":      {rawBlock("gnu", '0', "n", 0, 108, base256(8, 1<<40)), func(h *pax.Header) bool { return h.UID == 1<<40 }},
		"size of a directory": {rawBlock("ustar", '5', "n", 4096), func(h *pax.Header) bool { return h.Size == 0 && h.Stored == 0 }},
		"size of a link":      {rawBlock("ustar", '1', "n", 4096, 157, "t"), func(h *pax.Header) bool { return h.Size == 0 && h.Linkname == "t" }},
		"other type":          {rawBlock("gnu", 'V', "n", 0), func(h *pax.Header) bool { return h.Type == 'V' }},
		"fraction of ten digits": {rawMember(rawRecord("mtime", "1.0123456789"), "ustar", '0', nil), func(h *pax.Header) bool {
			return h.ModTime.Equal(time.Unix(1, 12345678)) && h.Format == "pax"
		}},
		"empty value": {rawMember(rawRecord("comment", "x")+rawRecord("comment", "")+rawRecord("uname", ""), "ustar", '0', nil, 265, "u"),
			func(h *pax.Header) bool { return h.Records == nil && h.Uname == "u" }},
		"globals": {cat(rawExtended('g', rawRecord("comment", "c")+rawRecord("uid", "7")+rawRecord("gid", "8")+rawRecord("SCHILY.xattr.user.a", "b")),
			rawExtended('g', rawRecord("gid", "9")), rawMember(rawRecord("uid", ""), "ustar", '0', nil)),
			func(h *pax.Header) bool {
				return h.Records["comment"] == "c" && h.UID == 0 && h.GID == 9 && h.Xattrs["user.a"] == "b" && h.Offset == 2048
			}},
		"global without extended header": {cat(rawExtended('g', rawRecord("uid", "7")), rawBlock("ustar", '0', "n", 0)),
			func(h *pax.Header) bool { return h.UID == 7 && h.Format == "pax" && h.Offset == 1024 }},
		"sparse 0.1 without runs": {sparse01("99", "1", "99,0", ""), func(h *pax.Header) bool {
			return h.Size == 99 && h.Sparse != nil && len(h.Sparse) == 0
		}},
		"runs that touch": {sparse10("99", "4\n0\n5\n5\n5\n50\n0\n50\n1\n", strings.Repeat("x", 11)), func(h *pax.Header) bool {
			return fmt.Sprint(h.Sparse) == "[{0 10} {50 1}]" && h.Stored == 11
		}},
	} {
		data := pax.AppendEnd(bytes.Clone(c.data))
		files, err := readAll(bytes.NewReader(data), pax.ReaderOptions{})
		if err != nil || len(files) != 1 || !c.want(&files[0].Header) {
			t.Errorf("%s: %+v, %v", name, files, err)
		}
	}
}

// Values that a global header sets are each member's own: changing one's map does not change the next.
func TestGlobalsAreNotShared(t *testing.T) {
	one := rawBlock("ustar", '0', "n", 0)
	b := pax.AppendEnd(cat(rawExtended('g', rawRecord("comment", "c")), one, one))
	r := pax.NewReader(bytes.NewReader(b), pax.ReaderOptions{})
	for range 2 {
		h, err := r.Next()
		if err != nil || h.Records["comment"] != "c" {
			t.Fatalf("%+v, %v", h, err)
		}
		h.Records["comment"] = "changed"
	}
}
