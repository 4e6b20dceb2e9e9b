package qcow2_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"tarvm/formats"
	"tarvm/formats/formatstest"
	"tarvm/formats/qcow2"
)

// sectors is b with zeros up to a whole sector.
func encSectors(b []byte) []byte {
	return append(bytes.Clone(b), make([]byte, -len(b)&511)...)
}

// same compares what a program read with the disk that was written.
func encSame(t *testing.T, got formats.Source, want []byte) {
	t.Helper()
	b, err := io.ReadAll(io.NewSectionReader(got, 0, got.Size()))
	if err != nil {
		t.Fatal(err)
	}
	want = encSectors(want)
	if len(b) != len(want) {
		t.Fatalf("%d bytes, want %d", len(b), len(want))
	}
	for i := range b {
		if b[i] != want[i] {
			t.Fatalf("byte %d is %#x, want %#x", i, b[i], want[i])
		}
	}
}

// judge has qemu-img check and read the image at path.
func encJudge(t *testing.T, path string, want []byte) {
	t.Helper()
	formatstest.QemuCheck(t, "qcow2", path)
	encSame(t, formatstest.QemuRaw(t, "qcow2", path), want)
}

// encOwn has this package check and read the image at path, whose parent, if it
// has one, is base.
func encOwn(t *testing.T, path string, want []byte, base ...*formats.Image) {
	t.Helper()
	m := formatstest.OpenFile(t, qcow2.Format{}, path)
	for _, p := range m.Problems {
		t.Error(p)
	}
	if err := m.Check(context.Background(), func(p formats.Problem) { t.Error(p) }); err != nil {
		t.Error(err)
	}
	d := formatstest.Disk(t, append([]*formats.Image{m}, base...)...)
	formatstest.CheckDisk(t, d, bytes.NewReader(encSectors(want)))
}

func encForms() (all []formats.EncodeOptions) {
	for bits := 9; bits <= 21; bits++ {
		for _, compression := range []string{"none", "deflate", "zstd"} {
			all = append(all, formats.EncodeOptions{Unit: 1 << bits, Compression: compression})
		}
	}
	for _, unit := range []int64{512, 64 << 10, 2 << 20} {
		for _, compression := range []string{"none", "deflate"} {
			all = append(all, formats.EncodeOptions{Subformat: "v2", Unit: unit, Compression: compression})
		}
	}
	return append(all, formats.EncodeOptions{})
}

func encName(o formats.EncodeOptions) string { return fmt.Sprint(o.Subformat, o.Unit, o.Compression) }

func TestEncode(t *testing.T) {
	// Several refcount blocks and L2 tables for small clusters.
	p := formatstest.NewPattern(t, 1, 2<<20+1234)
	for _, o := range encForms() {
		t.Run(encName(o), func(t *testing.T) {
			t.Parallel()
			path := formatstest.Encode(t, qcow2.Format{}, "x", p, o)
			encJudge(t, path, p.Bytes)
			encOwn(t, path, p.Bytes)
			h, err := qcow2.Format{}.Probe(encFile(t, path))
			if err != nil {
				t.Fatal(err)
			}
			size := int64(len(encSectors(p.Bytes)))
			want := formats.Header{Format: "qcow2", Subformat: "v3", VirtualSize: size, Unit: 64 << 10}
			if o.Unit != 0 {
				want.Unit = o.Unit
			}
			if o.Subformat != "" {
				want.Subformat = o.Subformat
			}
			if *h != want {
				t.Errorf("%+v, want %+v", *h, want)
			}
		})
	}
}

func encFile(t *testing.T, path string) formats.Source {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return bytes.NewReader(b)
}

func TestEncodeLevels(t *testing.T) {
	p := formatstest.NewPattern(t, 2, 1<<20)
	for level := 1; level <= 9; level += 2 {
		for _, compression := range []string{"deflate", "zstd"} {
			t.Run(fmt.Sprint(compression, level), func(t *testing.T) {
				o := formats.EncodeOptions{Compression: compression, Level: level}
				encJudge(t, formatstest.Encode(t, qcow2.Format{}, "x", p, o), p.Bytes)
			})
		}
	}
}

func TestEncodeSizes(t *testing.T) {
	for _, size := range []int64{0, 1, 511, 512, 513, 65535, 65536, 65537, 1 << 20} {
		for _, compression := range []string{"none", "deflate", "zstd"} {
			t.Run(fmt.Sprint(size, compression), func(t *testing.T) {
				p := &formatstest.Pattern{Bytes: bytes.Repeat([]byte("abcdefg"), int(size)/7+1)[:size]}
				p.Disk = encMemory(t, p.Bytes)
				encJudge(t, formatstest.Encode(t, qcow2.Format{}, "x", p, formats.EncodeOptions{Compression: compression}), p.Bytes)
			})
		}
	}
}

// memory is a disk of data.
func encMemory(t *testing.T, b []byte) formats.Disk {
	t.Helper()
	return formatstest.Disk(t, &formats.Image{Map: encData(len(b)), Files: []formats.Source{bytes.NewReader(b)}})
}

type encData int64

func (m encData) Size() int64 { return int64(m) }

func (m encData) MapAt(off int64) (formats.Extent, error) {
	if off < 0 || off >= int64(m) {
		return formats.Extent{}, io.EOF
	}
	return formats.Extent{Length: int64(m), Kind: formats.Data}, nil
}

// Nothing is stored of a disk of zeros.
func TestEncodeZeros(t *testing.T) {
	b := make([]byte, 5<<20)
	path := formatstest.Encode(t, qcow2.Format{}, "x", encMemory(t, b), formats.EncodeOptions{})
	encJudge(t, path, b)
	if size := encFile(t, path).Size(); size != 4*64<<10 {
		t.Errorf("%d bytes", size)
	}
}

func TestEncodeOthersRead(t *testing.T) {
	p := formatstest.NewPattern(t, 3, 2<<20+77)
	for _, o := range []formats.EncodeOptions{
		{},
		{Compression: "deflate"},
		{Subformat: "v2", Compression: "deflate"},
		{Unit: 512},
		{Unit: 4 << 10, Compression: "deflate"},
		{Unit: 2 << 20, Compression: "deflate"},
	} {
		path := formatstest.Encode(t, qcow2.Format{}, "x.qcow2", p, o)
		t.Run("libqcow"+encName(o), func(t *testing.T) { encSame(t, formatstest.LibyalRaw(t, "pyqcow", path), p.Bytes) })
		t.Run("7-Zip"+encName(o), func(t *testing.T) { encSame(t, formatstest.SevenZipRaw(t, path), p.Bytes) })
	}
}

// Clusters of a few bytes share host clusters, whose refcounts are high, and
// straddle them; every second one is not compressible and comes in between.
func TestEncodePacked(t *testing.T) {
	for _, unit := range []int64{512, 4 << 10, 64 << 10} {
		b := make([]byte, 400*unit)
		random := formatstest.NewPattern(t, 4, 1<<20).Bytes
		for i := range int64(400) {
			c := b[i*unit:][:unit]
			switch {
			case i%50 == 7:
				copy(c, random[len(random)-int(unit)-int(i):])
			case i%3 == 1: // a part of the cluster
				copy(c, random[:(i*31)%unit])
				c[unit-1] = 1
			default:
				copy(c, bytes.Repeat([]byte{byte(i) | 1}, int(unit)))
			}
		}
		for _, compression := range []string{"deflate", "zstd"} {
			t.Run(fmt.Sprint(unit, compression), func(t *testing.T) {
				o := formats.EncodeOptions{Unit: unit, Compression: compression}
				encJudge(t, formatstest.Encode(t, qcow2.Format{}, "x", encMemory(t, b), o), b)
			})
		}
	}
}

// Clusters of 2 MiB that are compressed best: the highest refcounts there are.
func TestEncodeManyInOneCluster(t *testing.T) {
	const clusters = 40
	m := encConstant(clusters * 2 << 20)
	d := formatstest.Disk(t, &formats.Image{Map: encData(m), Files: []formats.Source{m}})
	path := formatstest.Encode(t, qcow2.Format{}, "x", d, formats.EncodeOptions{Unit: 2 << 20, Compression: "zstd"})
	formatstest.QemuCheck(t, "qcow2", path)
	formatstest.Run(t, ".", "qemu-io", "-r", "-f", "qcow2", "-c", fmt.Sprintf("read -P 0x55 %dM 8M", clusters*2-8), path)
}

// constant is a Source of so many bytes 0x55.
type encConstant int64

func (c encConstant) Size() int64 { return int64(c) }

func (c encConstant) ReadAt(p []byte, off int64) (int, error) {
	for i := range p {
		p[i] = 0x55
	}
	return len(p), nil
}

// What qemu-img maps as data are the clusters that hold something.
func TestEncodeMap(t *testing.T) {
	p := formatstest.NewPattern(t, 5, 4<<20)
	const unit = 64 << 10
	for _, o := range []formats.EncodeOptions{{}, {Subformat: "v2"}, {Compression: "deflate"}, {Compression: "zstd"}} {
		path := formatstest.Encode(t, qcow2.Format{}, "x", p, o)
		file := encFile(t, path)
		for _, x := range formatstest.QemuMap(t, "qcow2", path) {
			for off := x.Start; off < x.Start+x.Length; off += unit {
				want := p.Bytes[off:][:unit]
				if x.Data == formats.IsZero(want) {
					t.Errorf("%s: data at %d: %v", encName(o), off, x.Data)
				}
				if x.Offset == nil {
					continue
				}
				got := make([]byte, unit)
				if _, err := file.ReadAt(got, *x.Offset+off-x.Start); err != nil || !bytes.Equal(got, want) {
					t.Errorf("%s: at %d of the file is not what the disk has at %d: %v", encName(o), *x.Offset, off, err)
				}
			}
		}
	}
}

// encChains are the sizes of a base and its child.
var encChains = map[string]struct{ base, child int64 }{
	"equal":   {2 << 20, 2 << 20},
	"shorter": {2<<20 + 512, 1<<20 + 100},
	"longer":  {1<<20 + 1536, 2<<20 + 7},
	"odd":     {2<<20 + 99, 2<<20 + 3},
	"empty":   {0, 1 << 20},
}

func TestEncodeChild(t *testing.T) {
	for title, size := range encChains {
		base := formatstest.NewPattern(t, 6, size.base)
		path := formatstest.Encode(t, qcow2.Format{}, "base.qcow2", base, formats.EncodeOptions{Compression: "deflate"})
		raw := filepath.Join(t.TempDir(), "base.raw")
		if err := os.WriteFile(raw, encSectors(base.Bytes), 0o600); err != nil {
			t.Fatal(err)
		}
		below := formatstest.OpenFile(t, qcow2.Format{}, path)
		child := base.Changed(t, 7, size.child)
		parents := []formats.ParentRef{
			{Names: []string{path, "other"}, Format: "qcow2"},
			{Names: []string{raw, "other"}, Format: "raw"},
		}
		for i, o := range []formats.EncodeOptions{
			{},
			{Unit: 4 << 10},
			{Unit: 1 << 20},
			{Unit: 512, Compression: "zstd"},
			{Compression: "deflate"},
			{Subformat: "v2"},
			{Subformat: "v2", Unit: 4 << 10, Compression: "deflate"},
		} {
			o.Base, o.Parent = base, &parents[i%2]
			t.Run(title+encName(o), func(t *testing.T) {
				t.Parallel()
				if o.Unit == 512 && len(o.Parent.Names[0]) > 300 {
					t.Skip("the path of temporary files does not fit into a cluster")
				}
				image := formatstest.Encode(t, qcow2.Format{}, "child", child, o)
				encJudge(t, image, child.Bytes)
				encOwn(t, image, child.Bytes, below)
			})
		}
	}
}

// A child of an equal disk stores nothing, and one of zeros only that they are.
func TestEncodeChildStoresWhatDiffers(t *testing.T) {
	base := formatstest.NewPattern(t, 8, 4<<20)
	zeros := encMemory(t, make([]byte, 6<<20))
	for _, x := range []struct {
		subformat string
		d         formats.Disk
		most      int64
	}{
		{"v3", base, 4 * 64 << 10},
		{"v2", base, 4 * 64 << 10},
		{"v3", zeros, 5 * 64 << 10},
	} {
		path := formatstest.Encode(t, qcow2.Format{}, "child", x.d, formats.EncodeOptions{
			Subformat: x.subformat, Base: base, Parent: &formats.ParentRef{Names: []string{"base"}, Format: "raw"},
		})
		if size := encFile(t, path).Size(); size > x.most {
			t.Errorf("%s: %d bytes, want at most %d", x.subformat, size, x.most)
		}
	}
}

// The header names the parent and its format.
func TestEncodeParentName(t *testing.T) {
	base := formatstest.NewPattern(t, 9, 1<<20)
	child := base.Changed(t, 10, 1<<20)
	for _, subformat := range []string{"v2", "v3"} {
		for _, parent := range []string{"b", "./a:b", "dir/a:b.qcow2", `C:\vm\base.qcow2`, strings.Repeat("n", 1023)} {
			path := formatstest.Encode(t, qcow2.Format{}, "child", child, formats.EncodeOptions{
				Subformat: subformat, Base: base, Parent: &formats.ParentRef{Names: []string{parent}, Format: "vmdk"},
			})
			h, err := qcow2.Format{}.Probe(encFile(t, path))
			if err != nil || h.ParentHint != parent {
				t.Errorf("%q: %+v, %v", parent, h, err)
			}
			if strings.Contains(parent, "C:") {
				continue // a protocol here
			}
			var info struct {
				Name   string `json:"backing-filename"`
				Format string `json:"backing-filename-format"`
			}
			out := formatstest.Run(t, ".", "qemu-img", "info", "-f", "qcow2", "--output=json", path)
			if err := json.Unmarshal(out, &info); err != nil || info.Name != parent || info.Format != "vmdk" {
				t.Errorf("%q: %+v, %v", parent, info, err)
			}
		}
	}
}

func TestEncodeRefuses(t *testing.T) {
	d := formatstest.NewPattern(t, 11, 1<<20)
	parent := func(format string, names ...string) *formats.ParentRef {
		return &formats.ParentRef{Names: names, Format: format}
	}
	long := strings.Repeat("n", 400)
	large := formatstest.Disk(t, &formats.Image{Map: encIslands{size: 128<<30 + 1}})
	huge := formatstest.Disk(t, &formats.Image{Map: encIslands{size: 1 << 62}})
	for title, x := range map[string]struct {
		d formats.Disk
		o formats.EncodeOptions
	}{
		"subformat":                {d, formats.EncodeOptions{Subformat: "v4"}},
		"compression":              {d, formats.EncodeOptions{Compression: "lz4"}},
		"zstd in v2":               {d, formats.EncodeOptions{Subformat: "v2", Compression: "zstd"}},
		"level":                    {d, formats.EncodeOptions{Compression: "zstd", Level: 10}},
		"level below":              {d, formats.EncodeOptions{Compression: "deflate", Level: -1}},
		"small cluster":            {d, formats.EncodeOptions{Unit: 256}},
		"large cluster":            {d, formats.EncodeOptions{Unit: 4 << 20}},
		"odd cluster":              {d, formats.EncodeOptions{Unit: 65537}},
		"negative cluster":         {d, formats.EncodeOptions{Unit: -512}},
		"disk too large":           {huge, formats.EncodeOptions{Unit: 2 << 20}},
		"disk of small clusters":   {large, formats.EncodeOptions{Unit: 512}},
		"base without parent":      {d, formats.EncodeOptions{Base: d}},
		"parent without base":      {d, formats.EncodeOptions{Parent: parent("raw", "a")}},
		"parent without name":      {d, formats.EncodeOptions{Base: d, Parent: parent("raw")}},
		"parent with empty name":   {d, formats.EncodeOptions{Base: d, Parent: parent("raw", "", "b")}},
		"parent without format":    {d, formats.EncodeOptions{Base: d, Parent: parent("", "a")}},
		"long format":              {d, formats.EncodeOptions{Base: d, Parent: parent("abcdefghijklmnop", "a")}},
		"long name":                {d, formats.EncodeOptions{Base: d, Parent: parent("raw", strings.Repeat("n", 1024))}},
		"name with a zero":         {d, formats.EncodeOptions{Base: d, Parent: parent("raw", "a\x00b")}},
		"name with a protocol":     {d, formats.EncodeOptions{Base: d, Parent: parent("raw", "nbd:host:1")}},
		"name of json":             {d, formats.EncodeOptions{Base: d, Parent: parent("raw", `json:{"file":"/x"}`)}},
		"name longer than cluster": {d, formats.EncodeOptions{Base: d, Unit: 512, Parent: parent("raw", long)}},
	} {
		var out encOutput
		err := qcow2.Format{}.Encode(context.Background(), formats.Outputs{Main: &out}, x.d, x.o)
		if !errors.Is(err, formats.ErrUnsupported) {
			t.Errorf("%s: %v", title, err)
		}
		var fe *formats.FormatError
		if !errors.As(err, &fe) || fe.Format != "qcow2" || fe.Structure == "" {
			t.Errorf("%s: %v", title, err)
		}
		if out.writes > 0 {
			t.Errorf("%s: %d writes", title, out.writes)
		}
	}
}

// encIslands is a disk of holes, with a cluster of data at multiples of step.
type encIslands struct{ size, step int64 }

const encIsland = 64 << 10

func (m encIslands) Size() int64 { return m.size }

func (m encIslands) MapAt(off int64) (formats.Extent, error) {
	if off < 0 || off >= m.size {
		return formats.Extent{}, io.EOF
	}
	e := formats.Extent{Length: m.size, Kind: formats.Hole}
	if m.step > 0 {
		if e.Offset = off / m.step * m.step; off < e.Offset+encIsland {
			e.Kind, e.Length = formats.Data, encIsland
		} else {
			e.Offset += encIsland
			e.Length = m.step - encIsland
		}
	}
	e.Length = min(e.Length, m.size-e.Offset)
	return e, nil
}

func encSparse(t *testing.T, size, step int64) formats.Disk {
	t.Helper()
	src := encConstant(encIsland)
	return formatstest.Disk(t, &formats.Image{Map: encIslands{size, step}, Files: []formats.Source{src}})
}

// A large disk takes work by what it holds: here an L2 table for each island.
func TestEncodeSparse(t *testing.T) {
	const size, step = 3<<40 + 4096, 300 << 30
	for _, o := range []formats.EncodeOptions{
		{},
		{Subformat: "v2", Compression: "deflate"},
		{Unit: 2 << 20, Compression: "zstd"},
	} {
		t.Run(encName(o), func(t *testing.T) {
			path := formatstest.Encode(t, qcow2.Format{}, "x", encSparse(t, size, step), o)
			formatstest.QemuCheck(t, "qcow2", path)
			var data int64
			args := []string{"-r", "-f", "qcow2"}
			for _, x := range formatstest.QemuMap(t, "qcow2", path) {
				if !x.Data {
					continue
				}
				if x.Start%step != 0 {
					t.Errorf("data at %d", x.Start)
				}
				data += x.Length
				args = append(args, "-c", fmt.Sprintf("read -P 0x55 %d 64k", x.Start))
			}
			formatstest.Run(t, ".", "qemu-io", append(args, path)...)
			unit := max(o.Unit, encIsland)
			if data != 11*unit {
				t.Errorf("%d bytes of data", data)
			}
		})
	}
}

// The L1 table alone takes more clusters than a refcount block counts.
func TestEncodeLongL1(t *testing.T) {
	d := encSparse(t, 1<<30, 60<<20)
	path := formatstest.Encode(t, qcow2.Format{}, "x", d, formats.EncodeOptions{Unit: 512})
	formatstest.QemuCheck(t, "qcow2", path)
	formatstest.Run(t, ".", "qemu-io", "-r", "-f", "qcow2", "-c", "read -P 0x55 600M 64k",
		"-c", "read -P 0 601M 50M", path)
}

// Bytes that were never written must read as zero in any Output: nothing relies
// on the file having been empty where it is written twice.
func TestEncodeIsWhole(t *testing.T) {
	p := formatstest.NewPattern(t, 12, 1<<20+5)
	for _, o := range []formats.EncodeOptions{{}, {Compression: "deflate", Unit: 4 << 10}} {
		var out encOutput
		if err := (qcow2.Format{}).Encode(context.Background(), formats.Outputs{Main: &out}, p, o); err != nil {
			t.Fatal(err)
		}
		unit := max(o.Unit, 4<<10)
		if int64(len(out.b))%unit != 0 {
			t.Errorf("%d bytes", len(out.b))
		}
		if out.headerAt != out.writes {
			t.Errorf("the header was write %d of %d", out.headerAt, out.writes)
		}
		refcounts := binary.BigEndian.Uint64(out.b[48:])
		if refcounts == 0 || refcounts >= uint64(len(out.b)) {
			t.Errorf("refcount table at %d", refcounts)
		}
	}
}

// encOutput is a file in memory whose call number fail fails.
type encOutput struct {
	b        []byte
	fail     int
	calls    int
	writes   int
	headerAt int // which write wrote the header
	short    bool
}

var errEncOutput = errors.New("no space")

func (o *encOutput) call() error {
	if o.calls++; o.calls == o.fail {
		return errEncOutput
	}
	return nil
}

func (o *encOutput) WriteAt(p []byte, off int64) (int, error) {
	if err := o.call(); err != nil {
		if o.short {
			return len(p) / 2, nil
		}
		return 0, err
	}
	o.writes++
	if off == 0 {
		o.headerAt = o.writes
	}
	if end := off + int64(len(p)); end > int64(len(o.b)) {
		o.b = append(o.b, make([]byte, end-int64(len(o.b)))...)
	}
	return copy(o.b[off:], p), nil
}

func (o *encOutput) Truncate(size int64) error {
	if err := o.call(); err != nil {
		return err
	}
	if size > int64(len(o.b)) {
		o.b = append(o.b, make([]byte, size-int64(len(o.b)))...)
	}
	o.b = o.b[:size]
	return nil
}

// Every write may fail: the error comes through, and nothing keeps running.
func TestEncodeFailingOutput(t *testing.T) {
	p := formatstest.NewPattern(t, 13, 6<<20)
	before := runtime.NumGoroutine()
	for _, o := range []formats.EncodeOptions{{}, {Compression: "deflate"}, {Unit: 512}} {
		for fail := 1; ; fail++ {
			out := encOutput{fail: fail}
			err := qcow2.Format{}.Encode(context.Background(), formats.Outputs{Main: &out}, p, o)
			if err == nil {
				if fail < 5 {
					t.Errorf("only %d calls", fail)
				}
				break
			}
			if !errors.Is(err, errEncOutput) {
				t.Errorf("call %d: %v", fail, err)
			}
			if _, err := (qcow2.Format{}).Probe(bytes.NewReader(out.b)); !errors.Is(err, formats.ErrNotFormat) {
				t.Errorf("call %d leaves an image: %v", fail, err)
			}
		}
	}
	formatstest.NoneLeft(t, before)
	out := encOutput{fail: 2, short: true}
	err := qcow2.Format{}.Encode(context.Background(), formats.Outputs{Main: &out}, p, formats.EncodeOptions{})
	if !errors.Is(err, io.ErrShortWrite) {
		t.Errorf("a short write: %v", err)
	}
}

func TestEncodeCancelled(t *testing.T) {
	p := formatstest.NewPattern(t, 14, 8<<20)
	before := runtime.NumGoroutine()
	for _, at := range []int64{-1, 1 << 20, 8 << 20} {
		ctx, cancel := context.WithCancel(context.Background())
		o := formats.EncodeOptions{Compression: "deflate", Progress: func(done int64) {
			if at >= 0 && done >= at {
				cancel()
			}
		}}
		if at < 0 {
			cancel()
		}
		var out encOutput
		err := qcow2.Format{}.Encode(ctx, formats.Outputs{Main: &out}, p, o)
		if !errors.Is(err, context.Canceled) {
			t.Errorf("at %d: %v", at, err)
		}
		cancel()
	}
	formatstest.NoneLeft(t, before)
}

// A disk that cannot be read is an error, and not a hole.
func TestEncodeUnreadable(t *testing.T) {
	broken := formatstest.Disk(t, &formats.Image{Map: encData(1 << 20), Files: []formats.Source{encBroken{}}})
	good := formatstest.NewPattern(t, 15, 1<<20)
	for title, o := range map[string]formats.EncodeOptions{
		"disk": {},
		"base": {Base: broken, Parent: &formats.ParentRef{Names: []string{"a"}, Format: "raw"}},
	} {
		d := formats.Disk(good)
		if title == "disk" {
			d = broken
		}
		var out encOutput
		err := qcow2.Format{}.Encode(context.Background(), formats.Outputs{Main: &out}, d, o)
		if !errors.Is(err, errEncOutput) {
			t.Errorf("%s: %v", title, err)
		}
	}
}

type encBroken struct{}

func (encBroken) Size() int64 { return 1 << 20 }

func (encBroken) ReadAt(p []byte, off int64) (int, error) {
	if off >= 512<<10 {
		return 0, errEncOutput
	}
	clear(p)
	p[0] = 1
	return len(p), nil
}

func BenchmarkEncode(b *testing.B) {
	p := formatstest.NewPattern(b, 16, 32<<20)
	for _, compression := range []string{"none", "deflate", "zstd"} {
		b.Run(compression, func(b *testing.B) {
			b.SetBytes(p.Size())
			b.ReportAllocs()
			for b.Loop() {
				out := encOutput{b: make([]byte, 0, 40<<20)}
				o := formats.EncodeOptions{Compression: compression}
				if err := (qcow2.Format{}).Encode(context.Background(), formats.Outputs{Main: &out}, p, o); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
