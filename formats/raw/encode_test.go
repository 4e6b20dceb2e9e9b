package raw_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"testing"

	"tarvm/formats"
	"tarvm/formats/formatstest"
	"tarvm/formats/raw"
)

// encode writes d to out.
func encode(d formats.Disk, out formats.Output) error {
	return raw.Format{}.Encode(context.Background(), formats.Outputs{Main: out}, d, formats.EncodeOptions{})
}

func TestFormatClaimsNothing(t *testing.T) {
	h, err := raw.Format{}.Probe(bytes.NewReader(make([]byte, 4096)))
	if h != nil || !errors.Is(err, formats.ErrNotFormat) {
		t.Errorf("%+v, %v", h, err)
	}
}

func TestEncode(t *testing.T) {
	for i, size := range []int64{0, 1, 511, 65535, 65536, 1<<20 - 1, 1 << 20, 1<<20 + 1, 5<<20 + 12345} {
		t.Run(fmt.Sprint(size), func(t *testing.T) {
			p := formatstest.NewPattern(t, uint64(i), size)
			path := formatstest.Encode(t, raw.Format{}, "disk.raw", p, formats.EncodeOptions{})
			b, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			if !bytes.Equal(b, p.Bytes) {
				t.Errorf("%d bytes, and not those of the disk", len(b))
			}
			formatstest.CheckDisk(t, formatstest.Disk(t, formatstest.OpenFile(t, raw.Format{}, path)), p.Source())
			want := filepath.Join(t.TempDir(), "want")
			if err := os.WriteFile(want, p.Bytes, 0o600); err != nil {
				t.Fatal(err)
			}
			if size > 0 { // qemu-img does not compare without bytes
				formatstest.Run(t, ".", "qemu-img", "compare", "-f", "raw", "-F", "raw", path, want)
			}
		})
	}
}

// What is zero is not written, in pieces of 64 KiB, and a stream gets it.
func TestEncodeWritesOnlyData(t *testing.T) {
	const piece = 64 << 10
	b := make([]byte, 3<<20+100)
	for _, i := range []int64{0, 1, 5, 15, 16, 31, 48} {
		b[i*piece+i] = 1
	}
	var out output
	if err := encode(disk(t, b), &out); err != nil {
		t.Fatal(err)
	}
	want := [][2]int64{
		{0, 2 * piece}, {5 * piece, piece}, {15 * piece, piece}, {16 * piece, piece}, {31 * piece, piece},
		{48 * piece, 100},
	}
	if fmt.Sprint(out.writes) != fmt.Sprint(want) || out.size != int64(len(b)) {
		t.Errorf("%v, %d bytes, want %v", out.writes, out.size, want)
	}
	var pipe bytes.Buffer
	if err := encode(disk(t, b), formats.NewStream(&pipe)); err != nil || !bytes.Equal(pipe.Bytes(), b) {
		t.Errorf("%d bytes in a stream, %v", pipe.Len(), err)
	}
}

// disk is a disk of data.
func disk(t *testing.T, b []byte) formats.Disk {
	t.Helper()
	src := bytes.NewReader(b)
	return formatstest.Disk(t, &formats.Image{Map: raw.NewMapper(src), Files: []formats.Source{src}})
}

// A large disk takes work by what it holds.
func TestEncodeSparse(t *testing.T) {
	const size = 3<<40 + 5
	// A source whose only data are some islands.
	m := runs{Reader: bytes.NewReader(nil), runs: [][2]int64{{0, 10}, {1 << 40, 1<<40 + 99}, {size - 1, size}}}
	src := &ones{runs: m, size: size}
	d := formatstest.Disk(t, &formats.Image{Map: raw.NewMapper(src), Files: []formats.Source{src}})
	// Not formatstest.Encode, which writes to a pipe, too.
	f := sparseFile(t, 0)
	if err := encode(d, f); err != nil {
		t.Fatal(err)
	}
	file, err := raw.NewFile(f)
	if err != nil || file.Size() != size {
		t.Fatalf("%d bytes, %v", file.Size(), err)
	}
	for _, off := range []int64{0, 1 << 40, size - 1} {
		var b [1]byte
		if _, err := file.ReadAt(b[:], off); err != nil || b[0] != 1 {
			t.Errorf("byte %d is %d, %v", off, b[0], err)
		}
	}
}

// ones holds 1 in the runs.
type ones struct {
	runs
	size int64
}

func (o *ones) Size() int64 { return o.size }

func (o *ones) DataAt(off int64) (start, end int64, err error) {
	for _, x := range o.runs.runs {
		if x[1] > off {
			return max(off, x[0]), x[1], nil
		}
	}
	return o.size, o.size, nil
}

func (o *ones) ReadAt(p []byte, off int64) (int, error) {
	clear(p)
	for _, x := range o.runs.runs {
		for i := max(x[0], off); i < min(x[1], off+int64(len(p))); i++ {
			p[i-off] = 1
		}
	}
	return len(p), nil
}

func TestEncodeRefuses(t *testing.T) {
	d := disk(t, make([]byte, 512))
	for _, o := range []formats.EncodeOptions{
		{Subformat: "flat"},
		{Compression: "deflate"},
		{Unit: 4096},
		{Base: d},
		{Parent: &formats.ParentRef{Names: []string{"a"}, Format: "raw"}},
	} {
		var out output
		err := raw.Format{}.Encode(context.Background(), formats.Outputs{Main: &out}, d, o)
		var fe *formats.FormatError
		if !errors.Is(err, formats.ErrUnsupported) || !errors.As(err, &fe) || fe.Format != "raw" || out.calls > 0 {
			t.Errorf("%+v: %v", o, err)
		}
	}
}

// output notes what is written. Its call number fail fails.
type output struct {
	writes [][2]int64
	size   int64
	calls  int
	fail   int
	short  bool
}

var errOutput = errors.New("no space")

func (o *output) WriteAt(p []byte, off int64) (int, error) {
	if o.calls++; o.calls == o.fail {
		if o.short {
			return 0, nil
		}
		return 0, errOutput
	}
	o.writes = append(o.writes, [2]int64{off, int64(len(p))})
	return len(p), nil
}

func (o *output) Truncate(size int64) error {
	if o.calls++; o.calls == o.fail {
		return errOutput
	}
	o.size = size
	return nil
}

func TestEncodeFailingOutput(t *testing.T) {
	d := disk(t, bytes.Repeat([]byte{1}, 6<<20))
	before := runtime.NumGoroutine()
	for fail := 1; fail <= 7; fail++ {
		out := output{fail: fail}
		if err := encode(d, &out); !errors.Is(err, errOutput) {
			t.Errorf("call %d: %v", fail, err)
		}
	}
	out := output{fail: 2, short: true}
	if err := encode(d, &out); !errors.Is(err, io.ErrShortWrite) {
		t.Errorf("a short write: %v", err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	err := raw.Format{}.Encode(ctx, formats.Outputs{Main: &output{}}, d, formats.EncodeOptions{})
	if !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: %v", err)
	}
	formatstest.NoneLeft(t, before)
}
