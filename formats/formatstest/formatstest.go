// Package formatstest is the test suite that every disk format runs, and what
// the formats' tests share: foreign tools, golden images, the corpus.
package formatstest

import (
	"bytes"
	"compress/bzip2"
	"compress/gzip"
	"crypto/sha256"
	"encoding/csv"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"testing"

	"tarvm/formats"
)

// MaxRead is how many bytes a Probe may read.
const MaxRead = 2 << 20

// A counter is a Source that counts, refuses reads outside the file, and fails
// the read numbered fail.
type counter struct {
	t     testing.TB
	b     []byte
	reads int
	bytes int64
	fail  int // negative: none
}

var errMedium = errors.New("the medium failed")

func (c *counter) Size() int64 { return int64(len(c.b)) }

func (c *counter) ReadAt(p []byte, off int64) (int, error) {
	c.t.Helper()
	if off < 0 || off+int64(len(p)) > c.Size() {
		c.t.Errorf("read of %d bytes at %d, the file has %d", len(p), off, c.Size())
		return 0, io.EOF
	}
	if len(p) == 0 {
		return 0, nil
	}
	c.reads++
	c.bytes += int64(len(p))
	if c.reads-1 == c.fail {
		return 0, errMedium
	}
	return copy(p, c.b[off:]), nil
}

// CheckProbe probes the image b twice and with failing reads, and checks what
// every Format promises. It returns the answer.
func CheckProbe(t testing.TB, f formats.Format, b []byte) (*formats.Header, error) {
	t.Helper()
	src := &counter{t: t, b: b, fail: -1}
	h, err := f.Probe(src)
	if src.bytes > MaxRead {
		t.Errorf("%s: Probe read %d bytes", f.Name(), src.bytes)
	}
	h2, err2 := f.Probe(bytes.NewReader(b))
	if !reflect.DeepEqual(h, h2) || text(err) != text(err2) {
		t.Errorf("%s: two answers: %+v, %v and %+v, %v", f.Name(), h, err, h2, err2)
	}
	var fe *formats.FormatError
	switch {
	case errors.Is(err, formats.ErrNotFormat):
		if h != nil {
			t.Errorf("%s: ErrNotFormat with a Header %+v", f.Name(), h)
		}
	case err != nil:
		if !errors.Is(err, formats.ErrCorrupt) && !errors.Is(err, formats.ErrUnsupported) {
			t.Errorf("%s: error %v is none of the sentinels", f.Name(), err)
		}
		if !errors.As(err, &fe) {
			t.Errorf("%s: error %v is no FormatError", f.Name(), err)
		}
		if h == nil || h.Format == "" {
			t.Errorf("%s: error %v without a Header that names the format", f.Name(), err)
		}
	default:
		checkHeader(t, h)
	}
	for i := range min(src.reads, 8) {
		bad := &counter{t: t, b: b, fail: i}
		_, err := f.Probe(bad)
		if bad.bytes > 0 && !errors.Is(err, errMedium) {
			t.Errorf("%s: read %d failed, Probe says %v", f.Name(), i, err)
		}
		if errors.Is(err, formats.ErrCorrupt) || errors.Is(err, formats.ErrNotFormat) {
			t.Errorf("%s: a failing medium is taken for %v", f.Name(), err)
		}
	}
	return h, err
}

func text(err error) string {
	if err == nil {
		return ""
	}
	return err.Error()
}

func checkHeader(t testing.TB, h *formats.Header) {
	t.Helper()
	switch {
	case h == nil || h.Format == "":
		t.Errorf("no Header, no error: %+v", h)
	case h.VirtualSize < 0 || h.Unit < 0 || h.Grid < 0 || h.Stride < 0,
		h.Stride != 0 && h.Stride < h.Unit,
		h.Stride == 0 && h.Grid >= max(h.Unit, 1),
		h.Compressed && h.Grid != 0:
		t.Errorf("inconsistent %+v", h)
	}
}

// CheckTruncated probes b cut at every structure's neighbourhood: at each of
// its first 1024 lengths, then at growing steps, and 1024 bytes before its end.
// Nothing but the conditions of CheckProbe is asked of the answers, except that
// no other format is reported.
func CheckTruncated(t *testing.T, f formats.Format, b []byte) {
	t.Helper()
	whole, err := f.Probe(bytes.NewReader(b))
	if err != nil {
		t.Fatalf("whole image: %v", err)
	}
	try := func(n int) {
		h, err := CheckProbe(t, f, b[:n])
		if err == nil && (h.Format != whole.Format || h.VirtualSize > whole.VirtualSize) {
			t.Errorf("cut at %d: %+v, whole %+v", n, h, whole)
		}
	}
	for n := 0; n < len(b); {
		try(n)
		if n < 1024 || n > len(b)-1024 {
			n++
		} else {
			n += max(1, min(n/16, len(b)-1024-n))
		}
	}
}

// FuzzProbe fuzzes f.Probe with goldens, which it cuts and patches, and with
// plain bytes. fix, if not nil, repairs checksums of a patched image in place,
// so that the fuzzer gets behind them.
func FuzzProbe(f *testing.F, format formats.Format, goldens [][]byte, fix func(b []byte)) {
	if len(goldens) == 0 {
		f.Fatal("no goldens")
	}
	for i, g := range goldens {
		if _, err := format.Probe(bytes.NewReader(g)); err != nil {
			f.Fatalf("golden %d: %v", i, err)
		}
		for _, off := range []uint32{0, 24, 72, 512, 1536, 64 << 10, 192<<10 + 16, 2 << 20} {
			f.Add(uint8(i), uint32(0), off, []byte("\xff\xff\xff\xff"))
		}
		f.Add(uint8(i), uint32(len(g)/2), uint32(0), []byte{})
	}
	f.Add(uint8(255), uint32(0), uint32(0), goldens[0][:min(1024, len(goldens[0]))])
	f.Fuzz(func(t *testing.T, i uint8, cut, off uint32, patch []byte) {
		b := patch
		if i != 255 {
			g := goldens[int(i)%len(goldens)]
			b = bytes.Clone(g[:len(g)-int(int64(cut)%int64(len(g)+1))])
			if int64(off) < int64(len(b)) {
				copy(b[off:], patch)
			}
		}
		CheckProbe(t, format, b)
		if fix != nil && i != 255 {
			fix(b)
			CheckProbe(t, format, b)
		}
	})
}

// Golden reads testdata/name+".gz" of the package under test, whose sum must be
// in testdata/README.md.
func Golden(t testing.TB, name string) []byte {
	t.Helper()
	f, err := os.Open(filepath.Join("testdata", name+".gz"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	z, err := gzip.NewReader(f)
	if err != nil {
		t.Fatal(err)
	}
	b, err := io.ReadAll(io.LimitReader(z, 64<<20))
	if err != nil {
		t.Fatal(err)
	}
	readme, err := os.ReadFile(filepath.Join("testdata", "README.md"))
	if err != nil {
		t.Fatal(err)
	}
	if sum := fmt.Sprintf("%x", sha256.Sum256(b)); !bytes.Contains(readme, []byte("| "+name+" |")) || !bytes.Contains(readme, []byte(sum)) {
		t.Fatalf("testdata/README.md does not list %s with sum %s", name, sum)
	}
	return b
}

// A Damage is a patch to a golden and the error that it must cause.
type Damage struct {
	Name  string
	Off   int64  // where Patch goes; negative: from the end
	Patch []byte // replaces the bytes there
	Want  error  // a sentinel; nil: still read
	Says  string // part of the error's text
}

// Patch makes a Damage.
func Patch(name string, off int64, patch []byte, want error, says string) Damage {
	return Damage{Name: name, Off: off, Patch: patch, Want: want, Says: says}
}

// CheckDamage probes b with each patch in turn, after fix repaired checksums,
// if it is not nil.
func CheckDamage(t *testing.T, f formats.Format, b []byte, fix func([]byte), list []Damage) {
	t.Helper()
	for _, d := range list {
		t.Run(d.Name, func(t *testing.T) {
			c := bytes.Clone(b)
			if d.Off < 0 {
				d.Off += int64(len(c))
			}
			if n := copy(c[d.Off:], d.Patch); n != len(d.Patch) {
				t.Fatal("patch passes end of image")
			}
			if fix != nil {
				fix(c)
			}
			h, err := CheckProbe(t, f, c)
			if !errors.Is(err, d.Want) || !strings.Contains(text(err), d.Says) {
				t.Errorf("%+v, %v; want %v, %q", h, err, d.Want, d.Says)
			}
		})
	}
}

// Tool skips the test when the program is not installed, and fails it when
// TARVM_REQUIRE_TOOLS is 1.
func Tool(t testing.TB, name string) {
	t.Helper()
	if _, err := exec.LookPath(name); err != nil {
		if os.Getenv("TARVM_REQUIRE_TOOLS") == "1" {
			t.Fatalf("required: %v", err)
		}
		t.Skip(err)
	}
}

// Run runs a program in dir and returns its output. See Tool for a missing one.
func Run(t testing.TB, dir, name string, args ...string) []byte {
	t.Helper()
	Tool(t, name)
	cmd := exec.Command(name, args...)
	cmd.Dir = dir
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("%s %s: %v\n%s%s", name, strings.Join(args, " "), err, out, stderr.Bytes())
	}
	return out
}

// A Sample is a row of the corpus' index.
type Sample struct {
	Path        string // below the corpus
	Format      string // qemu's name; "?" where qemu does not open it
	VirtualSize int64  // as qemu reports; 0 for "?"
	Notes       string
	Bytes       []byte // decompressed
	// NonZero is the hexadecimal SHA-256 of what the guest sees: over each block
	// of 64 KiB that is not all zero, after its index as a little-endian u64.
	// Empty: not known.
	NonZero string
}

// Corpus returns the images below dir, a folder of collected images with an
// INDEX.tsv, without those larger than limit bytes, and of the given formats
// only, if any is given. It skips the test when dir is absent.
func Corpus(t testing.TB, dir string, limit int64, only ...string) []Sample {
	t.Helper()
	f, err := os.Open(filepath.Join(dir, "INDEX.tsv"))
	if errors.Is(err, fs.ErrNotExist) {
		t.Skip(err)
	}
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	r := csv.NewReader(f)
	r.Comma, r.LazyQuotes, r.FieldsPerRecord = '\t', true, -1
	rows, err := r.ReadAll()
	if err != nil || len(rows) < 2 {
		t.Fatalf("INDEX.tsv: %d rows, %v", len(rows), err)
	}
	column := map[string]int{}
	for i, name := range rows[0] {
		column[name] = i
	}
	var all []Sample
	for _, row := range rows[1:] {
		get := func(name string) string {
			if i, ok := column[name]; ok && i < len(row) {
				return row[i]
			}
			return ""
		}
		number := func(name string) int64 {
			n, err := strconv.ParseInt(get(name), 10, 64)
			if err != nil && get(name) != "" {
				t.Fatal(err)
			}
			return n
		}
		if len(only) > 0 && !slices.Contains(only, get("format")) {
			continue
		}
		if n := number("bytes"); n > limit {
			t.Logf("%s: %d bytes, above this test's limit", get("path"), n)
			continue
		}
		b, err := readSample(filepath.Join(dir, get("path")))
		if errors.Is(err, fs.ErrNotExist) {
			t.Logf("in the index only: %v", err)
			continue
		}
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, Sample{get("path"), get("format"), number("virtual_size"), get("notes"), b, get("sha256_nz64k")})
	}
	return all
}

func readSample(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	var r io.Reader = f
	switch filepath.Ext(path) {
	case ".gz":
		if r, err = gzip.NewReader(f); err != nil {
			return nil, err
		}
	case ".bz2":
		r = bzip2.NewReader(f)
	}
	return io.ReadAll(r)
}
