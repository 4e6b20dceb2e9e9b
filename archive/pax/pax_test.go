package pax_test

import (
	"archive/tar"
	"bytes"
	"errors"
	"fmt"
	"io"
	"maps"
	"math"
	"slices"
	"strings"
	"testing"
	"testing/iotest"
	"time"

	"pgregory.net/rapid"

	"tarvm/archive/pax"
)

// A file is a member with its stored bytes.
type file struct {
	pax.Header
	data string
}

// build writes an archive.
func build(t testing.TB, files ...file) []byte {
	t.Helper()
	var b []byte
	for i := range files {
		var err error
		if b, err = pax.AppendHeader(b, &files[i].Header); err != nil {
			t.Fatal(err)
		}
		b = append(b, files[i].data...)
		b = pax.AppendPadding(b, int64(len(files[i].data)))
	}
	return pax.AppendEnd(b)
}

// readAll reads an archive to its end, and what it read if there is an error.
func readAll(r io.Reader, o pax.ReaderOptions) ([]file, error) {
	var files []file
	rd := pax.NewReader(r, o)
	for {
		h, err := rd.Next()
		if err == io.EOF {
			return files, nil
		}
		if err != nil {
			return files, err
		}
		data, err := io.ReadAll(rd)
		if err != nil {
			return files, err
		}
		files = append(files, file{*h, string(data)})
	}
}

// written removes from a header what only the reader sets.
func written(h pax.Header) pax.Header {
	h.Offset, h.Body, h.Stored, h.Format = 0, 0, 0, ""
	return h
}

// same compares headers as written; nil and empty maps are the same, nil and empty Sparse are not.
func same(a, b pax.Header) error {
	a, b = written(a), written(b)
	if !maps.Equal(a.Xattrs, b.Xattrs) {
		return fmt.Errorf("xattrs %q, want %q", a.Xattrs, b.Xattrs)
	}
	if !maps.Equal(a.Records, b.Records) {
		return fmt.Errorf("records %q, want %q", a.Records, b.Records)
	}
	if (a.Sparse == nil) != (b.Sparse == nil) || !slices.Equal(a.Sparse, b.Sparse) {
		return fmt.Errorf("sparse %v, want %v", a.Sparse, b.Sparse)
	}
	if !a.ModTime.Equal(b.ModTime) {
		return fmt.Errorf("time %v, want %v", a.ModTime, b.ModTime)
	}
	a.Xattrs, a.Records, a.Sparse, a.ModTime = nil, nil, nil, time.Time{}
	b.Xattrs, b.Records, b.Sparse, b.ModTime = nil, nil, nil, time.Time{}
	if fmt.Sprintf("%#v", a) != fmt.Sprintf("%#v", b) {
		return fmt.Errorf("%#v\nwant %#v", a, b)
	}
	return nil
}

func sameFiles(t testing.TB, got, want []file) {
	t.Helper()
	if len(got) != len(want) {
		t.Fatalf("%d members, want %d", len(got), len(want))
	}
	for i := range got {
		if err := same(got[i].Header, want[i].Header); err != nil {
			t.Errorf("%q: %v", want[i].Name, err)
		}
		if got[i].data != want[i].data {
			t.Errorf("%q: data differs", want[i].Name)
		}
	}
}

// expand returns the logical bytes of a member.
func expand(f file) []byte {
	if f.Sparse == nil {
		return []byte(f.data)
	}
	b := make([]byte, f.Size)
	data := f.data
	for _, e := range f.Sparse {
		copy(b[e.Offset:], data[:e.Length])
		data = data[e.Length:]
	}
	return b
}

func reg(name, data string) file {
	return file{pax.Header{Name: name, Type: pax.TypeReg, Mode: 0o644, Size: int64(len(data)),
		ModTime: time.Unix(1_700_000_000, 0)}, data}
}

func sparse(name string, size int64, ext ...pax.Extent) file {
	var n int64
	for _, e := range ext {
		n += e.Length
	}
	f := reg(name, strings.Repeat("x", int(n)))
	f.Size, f.Sparse = size, append([]pax.Extent{}, ext...)
	return f
}

// samples has one of everything that AppendHeader writes in its own way.
func samples() []file {
	at := time.Unix(1_700_000_000, 123_456_789)
	long := strings.Repeat("component/", 25)
	full := make(map[string]string)
	for c := range 256 {
		full["user."+string([]byte{byte(c | 1)})] = string([]byte{byte(c), 0, '\n', '='})
	}
	delete(full, "user.\x00")
	fs := []file{
		reg("plain", "hello"),
		reg("empty", ""),
		reg("block", strings.Repeat("b", 512)),
		reg("block+1", strings.Repeat("b", 513)),
		reg("newline\nand\ttab \x1b[31m", "x"),
		reg(strings.Repeat("n", 100), "exactly 100"),
		reg(strings.Repeat("n", 101), "101"),
		reg(long[:150]+"split", "prefix and name"),
		reg(long+strings.Repeat("n", 101), "record"),
		reg(strings.Repeat(strings.Repeat("c", 255)+"/", 15)+strings.Repeat("c", 160), "4000"),
		reg("größe/日本", "utf-8"),
		reg("bad\xff\xfe", "bytes"),
		reg("bad\xff/"+strings.Repeat("\xfe", 200), "long bytes"),
		{pax.Header{Name: "dir", Type: pax.TypeDir, Mode: 0o1777, ModTime: at,
			Records: map[string]string{"GNU.dumpdir": "Yplain\x00Ddir\x00\x00", "comment": "a=b\nc"}}, ""},
		{pax.Header{Name: long[:150] + "dir", Type: pax.TypeDir, Mode: 0o755, ModTime: at}, ""},
		{pax.Header{Name: "/", Type: pax.TypeDir, Mode: 0o755}, ""},
		{pax.Header{Name: "hard", Type: pax.TypeLink, Linkname: "plain", ModTime: at}, ""},
		{pax.Header{Name: "soft", Type: pax.TypeSymlink, Mode: 0o777, Linkname: long + "../ünï", ModTime: at}, ""},
		{pax.Header{Name: "softraw", Type: pax.TypeSymlink, Mode: 0o777, Linkname: "\xff", ModTime: at}, ""},
		{pax.Header{Name: "chr", Type: pax.TypeChar, Mode: 0o600, Devmajor: 1, Devminor: 3}, ""},
		{pax.Header{Name: "blk", Type: pax.TypeBlock, Mode: 0o600, Devmajor: 259, Devminor: 1048575}, ""},
		{pax.Header{Name: "fifo", Type: pax.TypeFifo, Mode: 0o4600}, ""},
		{pax.Header{Name: "owner", Type: pax.TypeReg, Mode: 0o7777, UID: 1 << 31, GID: 2097152, Uname: "ünï",
			Gname: strings.Repeat("g", 32), ModTime: at}, ""},
		{pax.Header{Name: "owner31", Type: pax.TypeReg, UID: 2097151, GID: 2097151, Uname: strings.Repeat("u", 31)}, ""},
		{pax.Header{Name: "xattr", Type: pax.TypeReg, Xattrs: full}, ""},
		{pax.Header{Name: "xattr2", Type: pax.TypeReg, Xattrs: map[string]string{"user.%25": "", "user.a=b%3D%2": "v",
			"user.%3D=": "w"}}, ""},
		sparse("sparse", 1<<20, pax.Extent{Offset: 0, Length: 512}, pax.Extent{Offset: 4096, Length: 1000}),
		sparse("d/all hole", 3<<40),
		sparse("no hole", 5, pax.Extent{Offset: 0, Length: 5}),
		sparse("sparse empty", 0),
		sparse("lead", 2048, pax.Extent{Offset: 1024, Length: 1024}),
		sparse(long+"sparse", 3<<40, pax.Extent{Offset: 1 << 40, Length: 7}),
		sparse("\xffsparse", 99, pax.Extent{Offset: 9, Length: 7}),
	}
	for i, at := range []time.Time{
		time.Unix(-1, 0), time.Unix(-2, 500_000_000), time.Unix(-1, 1), time.Unix(0, 1), time.Unix(1<<33-1, 0),
		time.Unix(1<<33, 0), time.Unix(253402300800, 250_000_000), time.Unix(-1<<40, 999_999_999),
	} {
		f := reg(fmt.Sprintf("time%d", i), "")
		f.ModTime = at
		fs = append(fs, f)
	}
	for i := range fs {
		if fs[i].ModTime.IsZero() {
			fs[i].ModTime = time.Unix(0, 0) // what the zero Time is written as
		}
	}
	return fs
}

func TestRoundTrip(t *testing.T) {
	want := samples()
	b := build(t, want...)
	got, err := readAll(bytes.NewReader(b), pax.ReaderOptions{Offset: 1 << 40})
	if err != nil {
		t.Fatal(err)
	}
	sameFiles(t, got, want)
	for _, f := range got {
		o, d := f.Offset-1<<40, f.Body-1<<40
		if o%512 != 0 || d%512 != 0 || o >= d {
			t.Errorf("%q: offset %d, body %d", f.Name, o, d)
		}
		if f.Stored != int64(len(f.data)) || string(b[d:d+f.Stored]) != f.data {
			t.Errorf("%q: body is not at %d", f.Name, d)
		}
		// A member can be read again from its Offset alone.
		h, err := pax.NewReader(bytes.NewReader(b[o:]), pax.ReaderOptions{Offset: f.Offset}).Next()
		if err != nil || h.Offset != f.Offset || h.Body != f.Body {
			t.Errorf("%q again: %+v, %v", f.Name, h, err)
		}
		if err == nil {
			if err := same(*h, f.Header); err != nil {
				t.Errorf("%q again: %v", f.Name, err)
			}
		}
	}
	if again := build(t, want...); !bytes.Equal(again, b) {
		t.Error("the same headers gave other bytes")
	}
}

// Sources of all habits give the same members.
func TestSources(t *testing.T) {
	want := samples()
	b := build(t, want...)
	for name, wrap := range map[string]func(io.Reader) io.Reader{
		"one byte": iotest.OneByteReader, "half": iotest.HalfReader, "data with error": iotest.DataErrReader,
	} {
		got, err := readAll(wrap(bytes.NewReader(b)), pax.ReaderOptions{})
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		sameFiles(t, got, want)
	}
	if _, err := readAll(stuck{}, pax.ReaderOptions{}); !errors.Is(err, io.ErrNoProgress) {
		t.Errorf("stuck source: %v", err)
	}
	cause := errors.New("medium")
	for n := range len(b) / 256 {
		src := io.MultiReader(bytes.NewReader(b[:n*256]), iotest.ErrReader(cause))
		_, err := readAll(src, pax.ReaderOptions{})
		var fe *pax.FormatError
		if !errors.Is(err, cause) || !errors.As(err, &fe) || fe.Offset != int64(n*256) {
			t.Fatalf("error at %d: %v", n*256, err)
		}
	}
}

type stuck struct{}

func (stuck) Read([]byte) (int, error) { return 0, nil }

// Bodies that are not read are skipped, by seeking or not, and their end is missed either way.
func TestSkip(t *testing.T) {
	b := build(t, reg("a", strings.Repeat("a", 300_000)), reg("b", "b"))
	for name, src := range map[string]func([]byte) io.Reader{
		"seeker": func(b []byte) io.Reader { return bytes.NewReader(b) },
		"stream": func(b []byte) io.Reader { return io.MultiReader(bytes.NewReader(b)) },
		"broken": func(b []byte) io.Reader { return noSeek{bytes.NewReader(b)} },
	} {
		for _, read := range []int{0, 1, 299_999, 300_000} {
			r := pax.NewReader(src(b), pax.ReaderOptions{})
			if _, err := r.Next(); err != nil {
				t.Fatal(err)
			}
			if _, err := io.ReadFull(r, make([]byte, read)); err != nil {
				t.Fatal(err)
			}
			h, err := r.Next()
			if err != nil || h.Name != "b" {
				t.Fatalf("%s: %+v, %v", name, h, err)
			}
			if _, err := r.Next(); err != io.EOF || r.Offset() != int64(len(b)) {
				t.Errorf("%s: %v at %d, want the end at %d", name, err, r.Offset(), len(b))
			}
			if n, err := r.Read(make([]byte, 1)); n != 0 || err != io.EOF {
				t.Errorf("%s: Read after the end: %d, %v", name, n, err)
			}
		}
		r := pax.NewReader(src(b[:100_000]), pax.ReaderOptions{})
		if _, err := r.Next(); err != nil {
			t.Fatal(err)
		}
		_, err := r.Next()
		if !errors.Is(err, pax.ErrTruncated) {
			t.Errorf("%s, cut: %v", name, err)
		}
		if _, again := r.Next(); again != err {
			t.Errorf("%s: the error is not final: %v", name, again)
		}
	}
}

type noSeek struct{ *bytes.Reader }

func (noSeek) Seek(int64, int) (int64, error) { return 0, errors.New("illegal seek") }

func TestTruncation(t *testing.T) {
	fs := samples()
	archives := map[string][]byte{
		"plain": build(t, reg("a", "hello"), reg("b", "")),
		"mixed": build(t, fs[13], fs[17], fs[25], fs[26], fs[27], fs[31]),
		"empty": build(t),
	}
	for name, b := range archives {
		whole, err := readAll(bytes.NewReader(b), pax.ReaderOptions{})
		if err != nil {
			t.Fatal(name, err)
		}
		border := map[int]bool{0: true}
		for _, f := range whole {
			border[int(f.Body+f.Stored+pax.Padding(f.Stored))] = true
		}
		border[len(b)-1024+512] = true // between the two zero blocks all members are whole, too
		for n := range b {
			got, err := readAll(bytes.NewReader(b[:n]), pax.ReaderOptions{})
			want := pax.ErrTruncated
			if border[n] {
				want = pax.ErrNoEnd
			}
			var fe *pax.FormatError
			if !errors.Is(err, want) || !errors.Is(err, io.ErrUnexpectedEOF) || !errors.As(err, &fe) || fe.Offset != int64(n) {
				t.Fatalf("%s cut at %d: %v, want %v", name, n, err, want)
			}
			for i, f := range got {
				if same(f.Header, whole[i].Header) != nil || f.data != whole[i].data {
					t.Fatalf("%s cut at %d: member %d differs", name, n, i)
				}
			}
		}
	}
}

func TestBitFlips(t *testing.T) {
	fs := samples()
	b := build(t, fs[0], fs[13], fs[26])
	whole, err := readAll(bytes.NewReader(b), pax.ReaderOptions{})
	if err != nil {
		t.Fatal(err)
	}
	// Header blocks have a checksum: no flipped bit may go unnoticed there.
	for _, f := range whole {
		for i := f.Offset * 8; i < (f.Offset+512)*8; i++ {
			c := bytes.Clone(b)
			c[i/8] ^= 1 << (i % 8)
			got, err := readAll(bytes.NewReader(c), pax.ReaderOptions{})
			if err != nil {
				continue
			}
			// The checksum's own field has spellings that mean the same.
			if k := i/8 - f.Offset; k < 148 || k >= 156 {
				t.Fatalf("flip of bit %d of %q was not noticed", i, f.Name)
			}
			sameFiles(t, got, whole)
		}
	}
}

func TestRefusedHeaders(t *testing.T) {
	ok := func() pax.Header { return reg("n", "").Header }
	for name, c := range map[string]struct {
		change func(*pax.Header)
		want   error
	}{
		"no name":              {func(h *pax.Header) { h.Name = "" }, pax.ErrHeader},
		"NUL in name":          {func(h *pax.Header) { h.Name = "a\x00b" }, pax.ErrHeader},
		"slash at end":         {func(h *pax.Header) { h.Name = "a/" }, pax.ErrHeader},
		"slash at end of dir":  {func(h *pax.Header) { h.Name, h.Type = "a/", pax.TypeDir }, pax.ErrHeader},
		"type":                 {func(h *pax.Header) { h.Type = 'x' }, pax.ErrHeader},
		"no type":              {func(h *pax.Header) { h.Type = 0 }, pax.ErrHeader},
		"target of a file":     {func(h *pax.Header) { h.Linkname = "x" }, pax.ErrHeader},
		"link without target":  {func(h *pax.Header) { h.Type = pax.TypeLink }, pax.ErrHeader},
		"NUL in target":        {func(h *pax.Header) { h.Type, h.Linkname = pax.TypeLink, "\x00" }, pax.ErrHeader},
		"mode":                 {func(h *pax.Header) { h.Mode = 0o100644 }, pax.ErrHeader},
		"negative mode":        {func(h *pax.Header) { h.Mode = -1 }, pax.ErrHeader},
		"negative uid":         {func(h *pax.Header) { h.UID = -1 }, pax.ErrHeader},
		"negative gid":         {func(h *pax.Header) { h.GID = -1 }, pax.ErrHeader},
		"NUL in uname":         {func(h *pax.Header) { h.Uname = "\x00" }, pax.ErrHeader},
		"NUL in gname":         {func(h *pax.Header) { h.Gname = "\x00" }, pax.ErrHeader},
		"negative size":        {func(h *pax.Header) { h.Size = -1 }, pax.ErrHeader},
		"size of a dir":        {func(h *pax.Header) { h.Size, h.Type = 1, pax.TypeDir }, pax.ErrHeader},
		"huge size":            {func(h *pax.Header) { h.Size = math.MaxInt64 }, pax.ErrTooLarge},
		"huge time":            {func(h *pax.Header) { h.ModTime = time.Unix(1<<61, 0) }, pax.ErrTooLarge},
		"device of a file":     {func(h *pax.Header) { h.Devminor = 1 }, pax.ErrHeader},
		"huge device":          {func(h *pax.Header) { h.Type, h.Devmajor = pax.TypeChar, 1<<21 }, pax.ErrTooLarge},
		"negative device":      {func(h *pax.Header) { h.Type, h.Devminor = pax.TypeChar, -1 }, pax.ErrTooLarge},
		"record of a field":    {func(h *pax.Header) { h.Records = map[string]string{"path": "x"} }, pax.ErrHeader},
		"sparse record":        {func(h *pax.Header) { h.Records = map[string]string{"GNU.sparse.x": "x"} }, pax.ErrHeader},
		"xattr record":         {func(h *pax.Header) { h.Records = map[string]string{"SCHILY.xattr.x": "x"} }, pax.ErrHeader},
		"record key with =":    {func(h *pax.Header) { h.Records = map[string]string{"a=b": "x"} }, pax.ErrHeader},
		"record key with NUL":  {func(h *pax.Header) { h.Records = map[string]string{"a\x00": "x"} }, pax.ErrHeader},
		"empty record key":     {func(h *pax.Header) { h.Records = map[string]string{"": "x"} }, pax.ErrHeader},
		"empty record":         {func(h *pax.Header) { h.Records = map[string]string{"comment": ""} }, pax.ErrHeader},
		"empty xattr key":      {func(h *pax.Header) { h.Xattrs = map[string]string{"": "x"} }, pax.ErrHeader},
		"NUL in xattr key":     {func(h *pax.Header) { h.Xattrs = map[string]string{"\x00": "x"} }, pax.ErrHeader},
		"large record":         {func(h *pax.Header) { h.Records = map[string]string{"c": strings.Repeat("x", 1<<20)} }, pax.ErrTooLarge},
		"sparse dir":           {func(h *pax.Header) { h.Type, h.Sparse = pax.TypeDir, []pax.Extent{} }, pax.ErrHeader},
		"empty run":            {func(h *pax.Header) { h.Size, h.Sparse = 9, []pax.Extent{{1, 0}} }, pax.ErrHeader},
		"negative run":         {func(h *pax.Header) { h.Size, h.Sparse = 9, []pax.Extent{{-1, 2}} }, pax.ErrHeader},
		"touching runs":        {func(h *pax.Header) { h.Size, h.Sparse = 9, []pax.Extent{{0, 2}, {2, 2}} }, pax.ErrHeader},
		"runs out of order":    {func(h *pax.Header) { h.Size, h.Sparse = 9, []pax.Extent{{5, 2}, {0, 2}} }, pax.ErrHeader},
		"run past the end":     {func(h *pax.Header) { h.Size, h.Sparse = 9, []pax.Extent{{5, 5}} }, pax.ErrHeader},
		"run of half a block":  {func(h *pax.Header) { h.Size, h.Sparse = 9999, []pax.Extent{{0, 511}, {4096, 512}} }, pax.ErrHeader},
		"run overflows":        {func(h *pax.Header) { h.Size, h.Sparse = 9, []pax.Extent{{5, math.MaxInt64}} }, pax.ErrHeader},
		"map too long":         {func(h *pax.Header) { h.Size, h.Sparse = 1<<40, comb(200_000, 1024, 512) }, pax.ErrTooLarge},
		"sparse and huge size": {func(h *pax.Header) { h.Size, h.Sparse = math.MaxInt64-2048, []pax.Extent{{0, math.MaxInt64 - 2048}} }, pax.ErrTooLarge},
	} {
		h := ok()
		c.change(&h)
		b, err := pax.AppendHeader([]byte("before"), &h)
		var fe *pax.FormatError
		if !errors.Is(err, c.want) || !errors.As(err, &fe) || fe.Offset != -1 || fe.Field == "" {
			t.Errorf("%s: %v, want %v", name, err, c.want)
		}
		if string(b) != "before" {
			t.Errorf("%s: destination was changed: %q", name, b)
		}
	}
}

// comb has n runs of length l, one every step bytes.
func comb(n int, step, l int64) []pax.Extent {
	ext := make([]pax.Extent, n)
	for i := range ext {
		ext[i] = pax.Extent{Offset: int64(i) * step, Length: l}
	}
	return ext
}

// Every length of a record around a change in its number of digits.
func TestRecordLengths(t *testing.T) {
	for n := 1; n < 1100; n++ {
		f := reg("f", "")
		f.Records = map[string]string{"c": strings.Repeat("v", n)}
		got, err := readAll(bytes.NewReader(build(t, f)), pax.ReaderOptions{})
		if err != nil {
			t.Fatal(n, err)
		}
		sameFiles(t, got, []file{f})
	}
}

// The limit of an extended header holds exactly, and what is written at the limit can be read.
func TestHeaderLimit(t *testing.T) {
	f := reg("f", "")
	n := pax.MaxHeader - len("1048576 c=\n")
	f.Records = map[string]string{"c": strings.Repeat("v", n)}
	b := build(t, f)
	got, err := readAll(bytes.NewReader(b), pax.ReaderOptions{})
	if err != nil {
		t.Fatal(err)
	}
	sameFiles(t, got, []file{f})
	if _, err := readAll(bytes.NewReader(b), pax.ReaderOptions{MaxHeader: pax.MaxHeader - 1}); !errors.Is(err, pax.ErrTooLarge) {
		t.Errorf("below the limit: %v", err)
	}
	f.Records["c"] += "v"
	if _, err := pax.AppendHeader(nil, &f.Header); !errors.Is(err, pax.ErrTooLarge) {
		t.Errorf("above the limit: %v", err)
	}
}

func drawExtents(t *rapid.T, size int64) []pax.Extent {
	ext := []pax.Extent{}
	for at := int64(0); at < size && rapid.IntRange(0, 9).Draw(t, "more") > 0; {
		off := at + rapid.Int64Range(min(1, at), 1<<rapid.IntRange(0, 40).Draw(t, "log hole")).Draw(t, "hole")
		if off >= size {
			break
		}
		l := rapid.Int64Range(1, min(size-off, 2000)).Draw(t, "run")
		ext = append(ext, pax.Extent{Offset: off, Length: l})
		at = off + l
	}
	return ext
}

func drawText(t *rapid.T, label string) string {
	s := rapid.OneOf(rapid.StringMatching(`[a-z./%=]{1,300}`), rapid.String(),
		rapid.Map(rapid.SliceOf(rapid.Byte()), func(b []byte) string { return string(b) })).Draw(t, label)
	return strings.ReplaceAll(s, "\x00", "")
}

func drawName(t *rapid.T, label string) string {
	s := strings.TrimRight(drawText(t, label), "/")
	if s == "" {
		return "n"
	}
	return s
}

func drawFile(t *rapid.T) file {
	var f file
	f.Type = pax.Type(rapid.SampledFrom([]byte("00001234567")[:10]).Draw(t, "type"))
	f.Name = drawName(t, "name")
	f.Mode = rapid.Int64Range(0, 0o7777).Draw(t, "mode")
	f.UID = rapid.Int64Range(0, math.MaxInt64).Draw(t, "uid") >> rapid.IntRange(0, 63).Draw(t, "uid shift")
	f.GID = rapid.Int64Range(0, math.MaxInt64).Draw(t, "gid") >> rapid.IntRange(0, 63).Draw(t, "gid shift")
	f.Uname, f.Gname = drawText(t, "uname"), drawText(t, "gname")
	f.ModTime = time.Unix(rapid.Int64Range(-1<<60, 1<<60).Draw(t, "sec")>>rapid.IntRange(0, 60).Draw(t, "sec shift"),
		rapid.SampledFrom([]int64{0, 0, 1, 10, 500_000_000, 999_999_999}).Draw(t, "nsec"))
	key := rapid.StringMatching(`[A-Za-z.%:]{1,20}`).Filter(func(s string) bool {
		return !slices.Contains([]string{"path", "linkpath", "size", "uid", "gid", "uname", "gname", "mtime", "hdrcharset"}, s)
	})
	if rapid.Bool().Draw(t, "has records") {
		f.Records = rapid.MapOfN(key, rapid.StringN(1, 40, -1), 0, 4).Draw(t, "records")
	}
	if rapid.Bool().Draw(t, "has xattrs") {
		f.Xattrs = rapid.MapOfN(rapid.StringMatching(`user\.[a-z%=235D]{1,12}`), rapid.String(), 0, 20).Draw(t, "xattrs")
	}
	switch f.Type {
	case pax.TypeLink, pax.TypeSymlink:
		f.Linkname = drawName(t, "linkname")
	case pax.TypeChar, pax.TypeBlock:
		f.Devmajor = rapid.Int64Range(0, 1<<21-1).Draw(t, "major")
		f.Devminor = rapid.Int64Range(0, 1<<21-1).Draw(t, "minor")
	case pax.TypeReg:
		if rapid.Bool().Draw(t, "is sparse") {
			f.Size = rapid.Int64Range(0, 1<<50).Draw(t, "size") >> rapid.IntRange(0, 50).Draw(t, "size shift")
			f.Sparse = pax.LimitExtents(drawExtents(t, f.Size), f.Size)
			var n int64
			for _, e := range f.Sparse {
				n += e.Length
			}
			f.data = strings.Repeat("s", int(n))
		} else {
			f.data = strings.Repeat("d", rapid.IntRange(0, 2000).Draw(t, "length"))
			f.Size = int64(len(f.data))
		}
	}
	return f
}

func TestRoundTripAny(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		var want []file
		for range rapid.IntRange(0, 5).Draw(rt, "members") {
			want = append(want, drawFile(rt))
		}
		b := build(t, want...)
		got, err := readAll(bytes.NewReader(b), pax.ReaderOptions{})
		if err != nil {
			rt.Fatal(err)
		}
		if len(got) != len(want) {
			rt.Fatalf("%d members, want %d", len(got), len(want))
		}
		for i := range got {
			if err := same(got[i].Header, want[i].Header); err != nil {
				rt.Fatalf("%q: %v", want[i].Name, err)
			}
			if got[i].data != want[i].data {
				rt.Fatalf("%q: data", want[i].Name)
			}
		}
	})
}

func TestCheckName(t *testing.T) {
	for _, ok := range []string{"a", "a/b", ".", "./a", "a/./b", "a//b", "..a", "a..", "...", "a/...", "C", "c:d", "disk:1/x", "a\\b",
		"ab:\\c", "1:/x", "\xff", " ", "a/"} {
		if err := pax.CheckName(ok); err != nil {
			t.Errorf("%q: %v", ok, err)
		}
	}
	for _, bad := range []string{"", "/", "/a", "//a", "..", "../a", "a/..", "a/../b", "./..", "a\x00", "\x00", `\a`, `\\host\share`,
		`C:\a`, "c:/a", "Z:", `..\a`, `a\..\b`, `a/..\b`, "a/../"} {
		err := pax.CheckName(bad)
		var ne *pax.NameError
		if !errors.Is(err, pax.ErrUnsafeName) || !errors.As(err, &ne) || ne.Name != bad {
			t.Errorf("%q: %v", bad, err)
		}
	}
}

func TestLimitExtents(t *testing.T) {
	const size = 1 << 44
	for name, ext := range map[string][]pax.Extent{
		"none":    {},
		"few":     comb(1000, 1<<20, 4096),
		"equal":   comb(200_000, 1<<20, 4096),
		"million": comb(1_000_000, 1<<20, 4096),
		"odd":     comb(500, 1<<20, 4097),
	} {
		before := slices.Clone(ext)
		got := pax.LimitExtents(ext, size)
		if !slices.Equal(before, ext) {
			t.Fatalf("%s: input was changed", name)
		}
		f := sparse("f", size)
		f.Sparse = got
		if _, err := pax.AppendHeader(nil, &f.Header); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if len(ext) <= 1000 && len(got) != len(ext) {
			t.Errorf("%s: holes were closed in a map that fits", name)
		}
		if len(ext) > 1000 && len(got) < 37_000 {
			t.Errorf("%s: only %d runs left", name, len(got))
		}
		if !slices.Equal(pax.LimitExtents(ext, size), got) {
			t.Errorf("%s: two results", name)
		}
	}
}

func TestLimitExtentsAny(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		const size = 1 << 50
		odd := drawExtents(t, size)
		limit := rapid.Int64Range(60, 400).Draw(t, "limit")
		ext := pax.AlignExtents(odd, size)
		for i, e := range ext {
			if e.Offset%512 != 0 || e.Length%512 != 0 && e.Offset+e.Length != size || i > 0 && e.Offset <= end(ext[:i]) {
				t.Fatalf("aligned: %v", ext)
			}
		}
		for _, e := range odd {
			if !slices.ContainsFunc(ext, func(a pax.Extent) bool {
				return a.Offset <= e.Offset && a.Offset+a.Length >= e.Offset+e.Length
			}) {
				t.Fatalf("%v is not in %v", e, ext)
			}
		}
		got := pax.LimitExtentsTo(odd, size, limit)
		if pax.MapLen(got, size) > limit {
			t.Fatalf("%d bytes, limit %d", pax.MapLen(got, size), limit)
		}
		if pax.MapLen(ext, size) <= limit && !slices.Equal(ext, got) && !slices.Equal(odd, got) {
			t.Fatal("holes were closed in a map that fits")
		}
		if slices.Equal(odd, got) {
			return
		}
		// What was data still is, and the holes that are left are old ones no smaller than any that was closed.
		type hole struct{ off, n int64 }
		holes := func(ext []pax.Extent) map[hole]bool {
			m := make(map[hole]bool)
			for i := 1; i < len(ext); i++ {
				end := ext[i-1].Offset + ext[i-1].Length
				m[hole{end, ext[i].Offset - end}] = true
			}
			return m
		}
		old, left := holes(ext), holes(got)
		var closed int64
		for h := range old {
			if !left[h] {
				closed = max(closed, h.n)
			}
		}
		for h := range left {
			if !old[h] || h.n < closed {
				t.Fatalf("hole %v is left, one of %d bytes was closed", h, closed)
			}
		}
		if len(ext) > 0 && (ext[0].Offset != got[0].Offset || end(ext) != end(got)) {
			t.Fatal("data at an end was lost or made")
		}
		// One hole fewer would not have fitted.
		if len(got) < len(ext) {
			if more := pax.CloseAllBut(ext, len(got)); pax.MapLen(more, size) <= limit {
				t.Fatal("more holes were closed than needed")
			}
		}
	})
}

func end(ext []pax.Extent) int64 {
	e := ext[len(ext)-1]
	return e.Offset + e.Length
}

// Names of every length around the borders of the header's fields, of files and folders.
func TestNameLengths(t *testing.T) {
	var files []file
	for _, base := range []int{1, 99, 100, 101} {
		for _, dir := range []int{0, 1, 54, 55, 98, 99, 100, 153, 154, 155, 156, 157} {
			name := strings.Repeat("b", base)
			if dir > 0 {
				name = strings.Repeat("d", dir) + "/" + name
			}
			f := reg(name, "")
			files = append(files, f)
			f.Type = pax.TypeDir
			files = append(files, f)
		}
	}
	var records int
	b := build(t, files...)
	got, err := readAll(bytes.NewReader(b), pax.ReaderOptions{})
	if err != nil {
		t.Fatal(err)
	}
	sameFiles(t, got, files)
	r := tar.NewReader(bytes.NewReader(b))
	for i, f := range files {
		h, err := r.Next()
		if err != nil || strings.TrimSuffix(h.Name, "/") != f.Name || strings.HasSuffix(h.Name, "/") != (f.Type == pax.TypeDir) {
			t.Fatalf("%q: Go reads %+v, %v", f.Name, h, err)
		}
		dir, base, _ := strings.Cut(f.Name, "/")
		if base == "" {
			dir, base = "", dir
		}
		n := len(f.Name)
		if f.Type == pax.TypeDir {
			base += "/"
			n++
		}
		fits := n <= 100 || dir != "" && len(dir) <= 155 && len(base) <= 100
		if fits != (got[i].Format == "ustar") {
			t.Errorf("%d+%d bytes: %s", len(dir), len(base), got[i].Format)
		}
		if !fits {
			records++
		}
	}
	if records == 0 || records == len(files) {
		t.Errorf("%d records", records)
	}
}

func TestErrorText(t *testing.T) {
	_, err := pax.AppendHeader(nil, &pax.Header{Name: "a\x1b[31m\n", Type: pax.TypeReg, UID: -1})
	if want := `tar member "a\x1b[31m\n": uid: invalid tar header: negative: -1`; err == nil || err.Error() != want {
		t.Errorf("%v, want %s", err, want)
	}
	_, err = readAll(bytes.NewReader(make([]byte, 100)), pax.ReaderOptions{Offset: 1000})
	if want := "tar: header at byte 1100: archive ends inside a member: unexpected EOF"; err == nil || err.Error() != want {
		t.Errorf("%v, want %s", err, want)
	}
	if err, want := pax.CheckName("../\n"), `unsafe name "../\n": has a ".." component`; err == nil || err.Error() != want {
		t.Errorf("%v, want %s", err, want)
	}
}

// Readers that skip records find names that are short, plain and do not leave the folder, wherever they are cut.
func TestFallbackNames(t *testing.T) {
	for n := range 140 {
		for _, typ := range []pax.Type{pax.TypeReg, pax.TypeDir} {
			for _, tail := range []string{"/..x", "/./y", "/ü", "/..x/..y/ü", "/" + strings.Repeat("ü", 99), strings.Repeat("/..x", 30)} {
				f := reg(strings.Repeat("d", n+1)+tail, "")
				f.Type = typ
				if typ == pax.TypeReg && n%2 == 0 {
					f.Sparse = []pax.Extent{}
				}
				b := build(t, f)
				for at := 0; at < len(b)-1024; at += 512 {
					if string(b[at+257:at+262]) != "ustar" {
						continue
					}
					name, _, _ := strings.Cut(string(b[at:at+100]), "\x00")
					if prefix, _, _ := strings.Cut(string(b[at+345:at+500]), "\x00"); prefix != "" {
						name = prefix + "/" + name
					}
					if err := pax.CheckName(name); err != nil {
						t.Fatalf("%q: %v", f.Name, err)
					}
					if strings.ContainsFunc(name, func(r rune) bool { return r >= 0x7f || r < ' ' }) {
						t.Fatalf("%q: %q", f.Name, name)
					}
				}
			}
		}
	}
}
