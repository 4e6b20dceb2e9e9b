package vmdk_test

import (
	"bytes"
	"compress/zlib"
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"reflect"
	"runtime"
	"strings"
	"testing"

	"tarvm/formats"
	"tarvm/formats/formatstest"
	"tarvm/formats/vmdk"
)

var testID = [16]byte{0x12, 0x34, 0x56, 0x78, 0x9a, 0xbc, 0x4d, 0xef, 0x81, 0x23, 0x45, 0x67, 0x89, 0xab, 0xcd, 0xe0}

var subformats = vmdk.Format{}.Subformats()

// padded is what a VMDK makes of b: whole sectors, and at least one.
func padded(b []byte) formats.Source {
	n := max(512, (len(b)+511)/512*512)
	return bytes.NewReader(append(bytes.Clone(b), make([]byte, n-len(b))...))
}

// same compares all bytes.
func same(t *testing.T, got, want formats.Source) {
	t.Helper()
	if got.Size() != want.Size() {
		t.Fatalf("%d bytes, want %d", got.Size(), want.Size())
	}
	a, b := make([]byte, 1<<20), make([]byte, 1<<20)
	for off := int64(0); off < want.Size(); off += int64(len(a)) {
		n := min(int64(len(a)), want.Size()-off)
		for _, r := range []struct {
			formats.Source
			b []byte
		}{{got, a[:n]}, {want, b[:n]}} {
			if _, err := r.ReadAt(r.b, off); err != nil && !errors.Is(err, io.EOF) {
				t.Fatal(err)
			}
		}
		for i := range n {
			if a[i] != b[i] {
				t.Fatalf("byte %d is %#x, want %#x", off+i, a[i], b[i])
			}
		}
	}
}

// judge has the image at path read by all that read it, and compares.
func judge(t *testing.T, path string, want formats.Source) {
	t.Helper()
	t.Run("qemu", func(t *testing.T) {
		same(t, formatstest.QemuRaw(t, "vmdk", path), want)
		formatstest.QemuCheck(t, "vmdk", path)
	})
	t.Run("libvmdk", func(t *testing.T) { same(t, formatstest.LibyalRaw(t, "pyvmdk", path), want) })
	t.Run("7-Zip", func(t *testing.T) { same(t, formatstest.SevenZipRaw(t, path), want) })
	t.Run("own", func(t *testing.T) { formatstest.CheckDisk(t, formatstest.Disk(t, open(t, path)), want) })
}

// open opens an image, in which nothing may be wrong.
func open(t *testing.T, path string) *formats.Image {
	t.Helper()
	m := formatstest.OpenFile(t, vmdk.Format{}, path)
	report := func(p formats.Problem) { t.Errorf("%s: %v", filepath.Base(path), p) }
	for _, p := range m.Problems {
		report(p)
	}
	if m.Check != nil {
		if err := m.Check(context.Background(), report); err != nil {
			t.Error(err)
		}
	}
	return m
}

func TestEncode(t *testing.T) {
	for _, sub := range subformats {
		for seed, size := range []int64{0, 512, 3<<16 + 5*512, 33<<20 + 12345} {
			t.Run(fmt.Sprintf("%s/%d", sub, size), func(t *testing.T) {
				p := formatstest.NewPattern(t, uint64(seed), size)
				path := formatstest.Encode(t, vmdk.Format{}, "a disk.vmdk", p, formats.EncodeOptions{Subformat: sub, ID: testID})
				judge(t, path, padded(p.Bytes))
			})
		}
	}
}

// The grain is a matter of choice where readers leave it so.
func TestEncodeGrain(t *testing.T) {
	p := formatstest.NewPattern(t, 5, 9<<20+1024)
	for _, c := range []struct {
		sub  string
		unit int64
	}{
		{"monolithicSparse", 8 << 10}, {"monolithicSparse", 16 << 10}, {"monolithicSparse", 1 << 20},
		{"twoGbMaxExtentSparse", 32 << 10}, {"twoGbMaxExtentSparse", 1 << 20}, {"streamOptimized", 64 << 10},
	} {
		t.Run(fmt.Sprint(c), func(t *testing.T) {
			path := formatstest.Encode(t, vmdk.Format{}, "x.vmdk", p, formats.EncodeOptions{Subformat: c.sub, Unit: c.unit})
			judge(t, path, padded(p.Bytes))
		})
	}
}

func TestEncodeLevels(t *testing.T) {
	p := formatstest.NewPattern(t, 6, 2<<20)
	for level := range 10 {
		path := formatstest.Encode(t, vmdk.Format{}, "x.vmdk", p, formats.EncodeOptions{
			Subformat: "streamOptimized", Compression: "deflate", Level: level,
		})
		b, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		walk(t, b, p.Bytes)
	}
}

// islands is a disk of holes with a few pieces of data.
type islands struct {
	size  int64
	at    []int64 // ascending
	bytes []byte  // of each
}

func (d *islands) Size() int64 { return d.size }

func (d *islands) MapAt(off int64) (formats.Extent, error) {
	if off < 0 || off >= d.size {
		return formats.Extent{}, io.EOF
	}
	last, next := int64(0), d.size
	for i, at := range d.at {
		end := at + int64(len(d.bytes))
		if off >= at && off < end {
			return formats.Extent{Offset: at, Length: end - at, Kind: formats.Data, File: i}, nil
		}
		if off < at {
			next = at
			break
		}
		last = end
	}
	return formats.Extent{Offset: last, Length: next - last, Kind: formats.Hole}, nil
}

func (d *islands) disk(t *testing.T) formats.Disk {
	m := &formats.Image{Header: formats.Header{Format: "islands"}, Map: d}
	for range d.at {
		m.Files = append(m.Files, bytes.NewReader(d.bytes))
	}
	return formatstest.Disk(t, m)
}

// encode writes d once into a new directory, and returns the path.
func encode(t *testing.T, d formats.Disk, o formats.EncodeOptions) string {
	t.Helper()
	dir := t.TempDir()
	create := func(name string) (formats.Output, error) {
		f, err := os.Create(filepath.Join(dir, name))
		if err == nil {
			t.Cleanup(func() { f.Close() })
		}
		return f, err
	}
	f, err := create("disk.vmdk")
	if err != nil {
		t.Fatal(err)
	}
	out := formats.Outputs{Main: f, Name: "disk.vmdk", Create: create}
	if err := (vmdk.Format{}).Encode(context.Background(), out, d, o); err != nil {
		t.Fatal(err)
	}
	return filepath.Join(dir, "disk.vmdk")
}

// dataRuns returns the runs, start and end, that qemu-img takes for data.
func dataRuns(t *testing.T, path string) (runs [][2]int64) {
	t.Helper()
	var all []struct {
		Start, Length int64
		Data, Zero    bool
	}
	out := formatstest.Run(t, filepath.Dir(path), "qemu-img", "map", "--output=json", "-f", "vmdk", path)
	if err := json.Unmarshal(out, &all); err != nil {
		t.Fatal(err)
	}
	for _, r := range all {
		if !r.Data {
			continue
		}
		if n := len(runs); n > 0 && runs[n-1][1] == r.Start {
			runs[n-1][1] += r.Length
		} else {
			runs = append(runs, [2]int64{r.Start, r.Start + r.Length})
		}
	}
	return runs
}

// Disks of more than 4 GiB, of many extents, and of more than 2 TiB, with data
// at both ends, across the border of two extents and in front of one.
func TestEncodeLarge(t *testing.T) {
	const grain, split = 64 << 10, 2047 << 20
	for _, c := range []struct {
		sub  string
		size int64
	}{
		{"monolithicSparse", 9<<30 + 512}, {"twoGbMaxExtentSparse", 9<<30 + 512}, {"streamOptimized", 9<<30 + 512},
		{"monolithicFlat", 9<<30 + 512}, {"monolithicSparse", 3 << 40}, {"streamOptimized", 16 << 40},
	} {
		t.Run(fmt.Sprintf("%s/%d", c.sub, c.size), func(t *testing.T) {
			d := &islands{size: c.size, bytes: bytes.Repeat([]byte{0xa7}, 100<<10)}
			n := int64(len(d.bytes))
			d.at = []int64{0, split - 1000, 2*split - n, 1<<32 - 7, 3 * split, c.size - n}
			path := encode(t, d.disk(t), formats.EncodeOptions{Subformat: c.sub})
			t.Run("own", func(t *testing.T) {
				if c.sub == "monolithicSparse" && d.size > 1<<40 { // whose tables are some 100 MB each way
					checkIslands(t, d, formatstest.Disk(t, formatstest.OpenFile(t, vmdk.Format{}, path)))
					return
				}
				got := formatstest.Disk(t, open(t, path))
				formatstest.CheckExtents(t, got)
				checkIslands(t, d, got)
			})
			t.Run("qemu", func(t *testing.T) {
				if d.size > 1<<40 { // which it would look at grain by grain
					for _, at := range d.at {
						read := fmt.Sprintf("read -P 0xa7 %d %d", at, n)
						out := formatstest.Run(t, ".", "qemu-io", "-r", "-f", "vmdk", "-c", read, path)
						if bytes.Contains(out, []byte("failed")) {
							t.Errorf("%s: %s", read, out)
						}
					}
					return
				}
				var want [][2]int64
				for _, at := range d.at {
					start, end := at/grain*grain, min((at+n+grain-1)/grain*grain, d.size)
					if k := len(want); k > 0 && want[k-1][1] >= start {
						want[k-1][1] = end
					} else {
						want = append(want, [2]int64{start, end})
					}
				}
				if got := dataRuns(t, path); !reflect.DeepEqual(got, want) && c.sub != "monolithicFlat" {
					t.Errorf("data at\n%v, want\n%v", got, want)
				}
				raw := formatstest.QemuRaw(t, "vmdk", path)
				if raw.Size() != d.size {
					t.Fatalf("%d bytes, want %d", raw.Size(), d.size)
				}
				checkIslands(t, d, raw)
			})
		})
	}
}

func checkIslands(t *testing.T, d *islands, got io.ReaderAt) {
	t.Helper()
	b := make([]byte, len(d.bytes))
	for _, at := range d.at {
		if _, err := got.ReadAt(b, at); err != nil && !errors.Is(err, io.EOF) || !bytes.Equal(b, d.bytes) {
			t.Errorf("not what is wanted at %d: %v", at, err)
		}
	}
}

// walk reads a stream front to back as an importer does: the markers tell where
// each thing is. It demands that grains ascend, that each table follows its
// grains and each thing is where the tables say, and that the disk is want.
func walk(t *testing.T, b, want []byte) {
	t.Helper()
	le := binary.LittleEndian
	fail := func(format string, args ...any) {
		t.Helper()
		t.Fatalf(format, args...)
	}
	if string(b[:4]) != "KDMV" || le.Uint32(b[4:]) != 3 || le.Uint32(b[8:]) != 0x30001 || le.Uint64(b[20:]) != 128 ||
		le.Uint32(b[44:]) != 512 || le.Uint64(b[48:]) != 0 || le.Uint64(b[56:]) != ^uint64(0) || le.Uint64(b[64:]) != 128 ||
		string(b[72:79]) != "\x00\n \r\n\x01\x00" {
		fail("header % x", b[:79])
	}
	capacity := int(le.Uint64(b[12:])) * 512
	got := make([]byte, capacity)
	grains := map[int]int{} // the place of each, sectors
	tables := map[int]int{}
	inTable := map[int]uint32{} // of those since the last table
	last, directory := -1, 0
	const (
		end = iota
		table
		dir
		footer
	)
	at := 128
	for {
		m := b[at*512:]
		val, size, kind := int(le.Uint64(m)), int(le.Uint32(m[8:])), le.Uint32(m[12:])
		if size > 0 {
			if val <= last || val%128 != 0 || val*512 >= capacity || directory != 0 {
				fail("grain of sector %d after %d at sector %d", val, last, at)
			}
			z, err := zlib.NewReader(bytes.NewReader(m[12:][:size]))
			if err != nil {
				t.Fatal(err)
			}
			g, err := io.ReadAll(z)
			if err != nil || len(g) != 64<<10 {
				fail("grain of %d bytes, %v", len(g), err)
			}
			if len(bytes.Trim(g, "\x00")) == 0 {
				t.Errorf("the grain of sector %d is of zeros", val)
			}
			copy(got[val*512:], g)
			if last >= 0 && last/65536 != val/65536 && len(inTable) > 0 {
				fail("no table between sectors %d and %d", last, val)
			}
			last, grains[val] = val, at
			inTable[val/128%512] = uint32(at)
			for _, pad := range m[12+size : (12+size+511)/512*512] {
				if pad != 0 {
					fail("not padded with zeros")
				}
			}
			at += (12 + size + 511) / 512
			continue
		}
		body := m[512:][:val*512]
		switch kind {
		case table:
			for i := range 512 {
				if le.Uint32(body[4*i:]) != inTable[i] {
					fail("table at sector %d: entry %d", at, i)
				}
			}
			if len(body) != 2048 || len(inTable) == 0 {
				fail("table of %d bytes for %d grains", len(body), len(inTable))
			}
			tables[last/65536] = at + 1
			clear(inTable)
		case dir:
			if n := (capacity + 32<<20 - 1) / (32 << 20); len(body) != (n*4+511)/512*512 || len(inTable) != 0 {
				fail("directory of %d bytes for %d tables", len(body), n)
			}
			for i := range len(body) / 4 {
				if int(le.Uint32(body[4*i:])) != tables[i] {
					fail("directory: table %d", i)
				}
			}
			directory = at + 1
		case footer:
			f := bytes.Clone(b[:512])
			le.PutUint64(f[56:], uint64(directory))
			if directory == 0 || !bytes.Equal(f, body) {
				fail("footer % x", body)
			}
		case end:
			if val != 0 || (at+1)*512 != len(b) {
				fail("the end is at sector %d of %d bytes", at, len(b))
			}
			if !bytes.Equal(got[:len(want)], want) || len(bytes.Trim(got[len(want):], "\x00")) > 0 {
				fail("other bytes")
			}
			return
		default:
			fail("marker %d at sector %d", kind, at)
		}
		at += 1 + val
	}
}

func TestEncodeStreamLayout(t *testing.T) {
	// The second table is left out.
	p := formatstest.NewPattern(t, 7, 70<<20+512*9)
	clear(p.Bytes[32<<20 : 64<<20])
	for _, q := range []*formatstest.Pattern{p, formatstest.NewPattern(t, 1, 0), formatstest.NewPattern(t, 8, 1<<20)} {
		path := formatstest.Encode(t, vmdk.Format{}, "x.vmdk", q, formats.EncodeOptions{Subformat: "streamOptimized"})
		b, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		walk(t, b, q.Bytes)
	}
}

// Both directories of a sparse extent are complete and say the same; grains are
// aligned to the file, follow each other, and none is of zeros.
func TestEncodeSparseLayout(t *testing.T) {
	p := formatstest.NewPattern(t, 9, 70<<20)
	clear(p.Bytes[32<<20 : 64<<20])
	b, err := os.ReadFile(formatstest.Encode(t, vmdk.Format{}, "x.vmdk", p, formats.EncodeOptions{}))
	if err != nil {
		t.Fatal(err)
	}
	le := binary.LittleEndian
	word := func(sector, i int) int { return int(le.Uint32(b[sector*512+4*i:])) }
	redundant, gd, first := int(le.Uint64(b[48:])), int(le.Uint64(b[56:])), int(le.Uint64(b[64:]))
	if le.Uint32(b[4:]) != 1 || le.Uint32(b[8:]) != 3 || redundant != 21 || first%128 != 0 {
		t.Fatalf("header % x", b[:79])
	}
	next := first
	for i := range 3 {
		a, z := word(redundant, i), word(gd, i)
		if a == 0 || a == z || z+4 > first || !bytes.Equal(b[a*512:][:2048], b[z*512:][:2048]) {
			t.Errorf("tables %d at sectors %d and %d", i, a, z)
		}
		for j := range 512 {
			switch e := word(z, j); e {
			case 0:
			case next:
				next += 128
				if len(bytes.Trim(b[e*512:][:64<<10], "\x00")) == 0 {
					t.Errorf("table %d, entry %d: a grain of zeros", i, j)
				}
			default:
				t.Fatalf("table %d, entry %d: sector %d, want %d", i, j, e, next)
			}
		}
	}
	if next*512 != len(b) {
		t.Errorf("grains end at sector %d of %d bytes", next, len(b))
	}
}

// A delta link holds what differs, and where that is zeros, zeros.
func TestEncodeDelta(t *testing.T) {
	for _, sub := range []string{"monolithicSparse", "twoGbMaxExtentSparse", "streamOptimized"} {
		for _, size := range []int64{8 << 20, 8<<20 + 512*77, 5<<20 + 512} {
			t.Run(fmt.Sprintf("%s/%d", sub, size), func(t *testing.T) {
				base := formatstest.NewPattern(t, 10, 8<<20)
				child := base.Changed(t, 11, size)
				copy(child.Bytes[1<<20:], bytes.Repeat([]byte{7}, 65536))
				copy(base.Bytes[2<<20:], bytes.Repeat([]byte{7}, 3*65536))
				clear(child.Bytes[2<<20:][:3*65536])
				parent := formatstest.Encode(t, vmdk.Format{}, "base.vmdk", base, formats.EncodeOptions{ID: testID})
				ref := &formats.ParentRef{Names: []string{"base.vmdk"}, Format: "vmdk", ID: "89abcde0"}
				path := formatstest.Encode(t, vmdk.Format{}, "child.vmdk", child, formats.EncodeOptions{
					Subformat: sub, Base: base, Parent: ref,
				})
				beside := filepath.Join(filepath.Dir(path), "base.vmdk")
				if err := os.Rename(parent, beside); err != nil {
					t.Fatal(err)
				}
				t.Run("qemu", func(t *testing.T) { same(t, formatstest.QemuRaw(t, "vmdk", path), child.Source()) })
				t.Run("libvmdk", func(t *testing.T) {
					if size > base.Size() {
						t.Skip("libvmdk does not read a child behind the end of its parent")
					}
					same(t, formatstest.LibyalRaw(t, "pyvmdk", path, beside), child.Source())
				})
				t.Run("own", func(t *testing.T) {
					m, b := open(t, path), open(t, beside)
					if m.Parent == nil || m.Parent.ID != ref.ID || b.ID != ref.ID || !reflect.DeepEqual(m.Parent.Names, ref.Names) {
						t.Errorf("parent %+v, its id %q", m.Parent, b.ID)
					}
					d := formatstest.Disk(t, m, b)
					formatstest.CheckDisk(t, d, child.Source())
					var own, inherited int64
					for e, err := range d.Extents(0, d.Size()) {
						if err != nil {
							t.Fatal(err)
						}
						if e.Depth > 0 {
							inherited += e.Length
						} else {
							own += e.Length
						}
					}
					if inherited < base.Size()/4 || own > size*3/4 {
						t.Errorf("%d bytes of its own, %d of the parent's", own, inherited)
					}
				})
			})
		}
	}
}

func TestEncodeDescriptor(t *testing.T) {
	const rest = `
# The Disk Data Base
#DDB

ddb.adapterType = "lsilogic"
ddb.geometry.cylinders = "261"
ddb.geometry.heads = "255"
ddb.geometry.sectors = "63"
ddb.longContentID = "123456789abc4def8123456789abcde0"
ddb.toolsVersion = "2147483647"
ddb.uuid = "60 00 C2 98 9a bc 4d ef-81 23 45 67 89 ab cd e0"
ddb.uuid.image = "12345678-9abc-4def-8123-456789abcde0"
ddb.virtualHWVersion = "4"
`
	want := map[string]string{
		"monolithicSparse":     "RW 4196352 SPARSE \"my disk.VMDK\"\n",
		"streamOptimized":      "RDONLY 4196352 SPARSE \"my disk.VMDK\"\n",
		"twoGbMaxExtentSparse": "RW 4192256 SPARSE \"my disk-s001.vmdk\"\nRW 4096 SPARSE \"my disk-s002.vmdk\"\n",
		"monolithicFlat":       "RW 4196352 FLAT \"my disk-flat.vmdk\" 0\n",
		"vmfs":                 "RW 4196352 VMFS \"my disk-flat.vmdk\"\n",
	}
	d := &islands{size: 2049 << 20}
	for _, sub := range subformats {
		files := newFiles()
		if err := files.encode(d.disk(t), "my disk.VMDK", formats.EncodeOptions{Subformat: sub, ID: testID}); err != nil {
			t.Fatal(err)
		}
		b := files.all["my disk.VMDK"].b
		if string(b[:4]) == "KDMV" {
			b, _, _ = bytes.Cut(b[512:], []byte{0})
		}
		text := "# Disk DescriptorFile\nversion=1\nencoding=\"UTF-8\"\nCID=89abcde0\nparentCID=ffffffff\n"
		if sub == "vmfs" {
			text += "isNativeSnapshot=\"no\"\n"
		}
		text += "createType=\"" + sub + "\"\n\n# Extent description\n" + want[sub] + rest
		if string(b) != text {
			t.Errorf("%s:\n%s\nwant\n%s", sub, b, text)
		}
		d, err := vmdk.ReadDescriptor(bytes.NewReader(files.all["my disk.VMDK"].b))
		if err != nil || d.CID != 0x89abcde0 || d.Size() != 2049<<20 {
			t.Errorf("%s: %+v, %v", sub, d, err)
		}
	}
}

func TestEncodeGeometry(t *testing.T) {
	for _, c := range []struct {
		size    int64
		adapter string
		want    string
	}{
		{100 << 20, "", "100/64/32"},
		{1 << 30, "buslogic", "1024/64/32"},
		{1<<30 + 512, "lsilogic", "130/255/63"},
		{40 << 30, "legacyESX", "5221/255/63"},
		{100 << 20, "ide", "203/16/63"},
		{40 << 30, "ide", "16383/16/63"},
	} {
		files := newFiles()
		d := &islands{size: c.size}
		if err := files.encode(d.disk(t), "x.vmdk", formats.EncodeOptions{Adapter: c.adapter}); err != nil {
			t.Fatal(err)
		}
		got, err := vmdk.ReadDescriptor(bytes.NewReader(files.all["x.vmdk"].b))
		if err != nil {
			t.Fatal(err)
		}
		g := got.DDB["geometry.cylinders"] + "/" + got.DDB["geometry.heads"] + "/" + got.DDB["geometry.sectors"]
		if g != c.want || c.adapter != "" && got.DDB["adaptertype"] != c.adapter {
			t.Errorf("%d bytes, %q: %s, %v", c.size, c.adapter, g, got.DDB)
		}
	}
}

// A content id is none of those that mean something else.
func TestEncodeContentID(t *testing.T) {
	d := &islands{size: 1 << 20}
	for _, id := range []uint32{0, 1, 0xfffffffe, 0xffffffff} {
		o := formats.EncodeOptions{}
		binary.BigEndian.PutUint32(o.ID[12:], id)
		files := newFiles()
		if err := files.encode(d.disk(t), "x.vmdk", o); err != nil {
			t.Fatal(err)
		}
		got, err := vmdk.ReadDescriptor(bytes.NewReader(files.all["x.vmdk"].b))
		if err != nil {
			t.Fatal(err)
		}
		switch got.CID {
		case 0, 0xfffffffe, 0xffffffff:
			t.Errorf("%x: CID %x", id, got.CID)
		}
		if long := got.DDB["longcontentid"]; !strings.HasSuffix(long, fmt.Sprintf("%08x", got.CID)) || len(long) != 32 {
			t.Errorf("%x: CID %x, long %s", id, got.CID, long)
		}
		if _, there := got.DDB["uuid"]; there != (id != 0) {
			t.Errorf("%x: %v", id, got.DDB)
		}
	}
}

func TestEncodeRefuses(t *testing.T) {
	small := (&islands{size: 1 << 20}).disk(t)
	odd := (&islands{size: 1000}).disk(t)
	type options = formats.EncodeOptions
	parent := func(name, format, id string) *formats.ParentRef {
		return &formats.ParentRef{Names: []string{name}, Format: format, ID: id}
	}
	for _, c := range []struct {
		name string
		d    formats.Disk
		file string
		o    options
		says string
	}{
		{"subformat", small, "x", options{Subformat: "seSparse"}, "streamOptimized"},
		{"compression", small, "x", options{Compression: "zstd"}, "monolithicSparse has none"},
		{"no compression", small, "x", options{Subformat: "streamOptimized", Compression: "none"}, "has deflate"},
		{"level", small, "x", options{Subformat: "streamOptimized", Level: 10}, "1 to 9"},
		{"odd grain", small, "x", options{Unit: 3 << 12}, "powers of two from 8192 to 1048576"},
		{"small grain", small, "x", options{Unit: 4096}, "8192"},
		{"large grain", small, "x", options{Unit: 2 << 20}, "1048576"},
		{"grain below zero", small, "x", options{Unit: -1 << 63}, "powers of two"},
		{"split grain", small, "x", options{Subformat: "twoGbMaxExtentSparse", Unit: 4096}, "32768"},
		{"stream grain", small, "x", options{Subformat: "streamOptimized", Unit: 4096}, "has 65536"},
		{"flat grain", small, "x", options{Subformat: "monolithicFlat", Unit: 65536}, "no grains"},
		{"adapter", small, "x", options{Adapter: "pvscsi"}, "lsilogic"},
		{"quote", small, `x"y`, options{Subformat: "monolithicFlat"}, "descriptor"},
		{"line end", small, "x\ny", options{Subformat: "twoGbMaxExtentSparse"}, "descriptor"},
		{"backslash", small, `x\y`, options{Subformat: "vmfs"}, "descriptor"},
		{"no UTF-8", small, "x\xff", options{Subformat: "vmfs"}, "descriptor"},
		{"base without parent", small, "x", options{Base: small}, "no name"},
		{"parent without base", small, "x", options{Parent: parent("p", "", "1")}, "without the disk"},
		{"nameless parent", small, "x", options{Base: small, Parent: &formats.ParentRef{ID: "12345678"}}, "no name"},
		{"parent's quote", small, "x", options{Base: small, Parent: parent(`a"b`, "", "1")}, "descriptor"},
		{"parent's format", small, "x", options{Base: small, Parent: parent("p", "qcow2", "1")}, "not qcow2"},
		{"parent's id", small, "x", options{Base: small, Parent: parent("p", "", "")}, "content id"},
		{"parent's id is none", small, "x", options{Base: small, Parent: parent("p", "", "ffffffff")}, "content id"},
		{"flat delta", small, "x", options{Subformat: "vmfs", Base: small, Parent: parent("p", "", "1")}, "delta links are"},
		{"odd delta", odd, "x", options{Base: small, Parent: parent("p", "", "1")}, "whole sectors"},
		{"too large", (&islands{size: 1 << 62}).disk(t), "x", options{}, "at most"},
		{"larger still", (&islands{size: 1<<63 - 1}).disk(t), "x", options{}, "disk size"},
		{"too many extents", (&islands{size: 100 << 40}).disk(t), "x", options{Subformat: "twoGbMaxExtentSparse"},
			"descriptor passes"},
		{"far too many extents", (&islands{size: 15 << 50}).disk(t), "x",
			options{Subformat: "twoGbMaxExtentSparse", Unit: 1 << 20}, "descriptor passes"},
		{"too many tables", (&islands{size: 200 << 40}).disk(t), "x", options{Unit: 8192},
			"with grains of 8192 bytes at most 140737488355328"},
	} {
		t.Run(c.name, func(t *testing.T) {
			files := newFiles()
			err := files.encode(c.d, c.file, c.o)
			if !errors.Is(err, formats.ErrUnsupported) || !strings.Contains(err.Error(), c.says) {
				t.Errorf("%v, want %q", err, c.says)
			}
			if len(files.all) > 1 || len(files.all[c.file].b) > 0 {
				t.Error("something was written")
			}
		})
	}
	for _, sub := range subformats {
		o := formats.EncodeOptions{Subformat: sub}
		var b bytes.Buffer
		err := vmdk.Format{}.Encode(context.Background(), formats.Outputs{Main: formats.NewStream(&b)}, small, o)
		switch {
		case sub == "streamOptimized":
			if err != nil || !(vmdk.Format{}).Streams(&o) {
				t.Errorf("%s to a pipe: %v", sub, err)
			}
		case sub == "monolithicSparse":
			if !errors.Is(err, formats.ErrSeek) || (vmdk.Format{}).Streams(&o) {
				t.Errorf("%s to a pipe: %v", sub, err)
			}
		case !errors.Is(err, formats.ErrUnsupported) || (vmdk.Format{}).Streams(&o):
			t.Errorf("%s to a pipe: %v", sub, err)
		}
	}
	// The name of the one file there is says nothing.
	files := newFiles()
	if err := files.encode(small, "a\"b\n", formats.EncodeOptions{}); err != nil {
		t.Error(err)
	}
	d, err := vmdk.ReadDescriptor(bytes.NewReader(files.all["a\"b\n"].b))
	if err != nil || d.Extents[0].File != "disk.vmdk" {
		t.Errorf("%+v, %v", d, err)
	}
}

// files are outputs in memory, of which the operation numbered fail does.
type files struct {
	all  map[string]*file
	ops  int
	fail int // negative: none
}

type file struct {
	fs *files
	b  []byte
}

var errOutput = errors.New("the output failed")

func newFiles() *files { return &files{all: map[string]*file{}, fail: -1} }

func (fs *files) op() error {
	fs.ops++
	if fs.ops-1 == fs.fail {
		return errOutput
	}
	return nil
}

func (fs *files) create(name string) (formats.Output, error) {
	if err := fs.op(); err != nil {
		return nil, err
	}
	f := &file{fs: fs}
	fs.all[name] = f
	return f, nil
}

func (fs *files) encode(d formats.Disk, name string, o formats.EncodeOptions) error {
	main := &file{fs: fs}
	fs.all[name] = main
	return vmdk.Format{}.Encode(context.Background(), formats.Outputs{Main: main, Name: name, Create: fs.create}, d, o)
}

func (f *file) WriteAt(p []byte, off int64) (int, error) {
	if err := f.fs.op(); err != nil {
		return 0, err
	}
	if n := off + int64(len(p)); n > int64(len(f.b)) {
		f.b = append(f.b, make([]byte, n-int64(len(f.b)))...)
	}
	return copy(f.b[off:], p), nil
}

func (f *file) Truncate(size int64) error {
	if err := f.fs.op(); err != nil {
		return err
	}
	if size > 1<<30 {
		return nil // a flat disk of zeros
	}
	f.b = append(f.b, make([]byte, max(0, size-int64(len(f.b))))...)[:size]
	return nil
}

// Each failure of an output is the error of the whole, and ends it.
func TestEncodeOutputFails(t *testing.T) {
	p := formatstest.NewPattern(t, 12, 3<<20)
	before := runtime.NumGoroutine()
	for _, sub := range subformats {
		for fail := 0; ; fail++ {
			fs := newFiles()
			fs.fail = fail
			err := fs.encode(p, "x.vmdk", formats.EncodeOptions{Subformat: sub, Workers: 3})
			if fs.ops <= fail {
				if err != nil || fail < 3 {
					t.Errorf("%s: %d operations, %v", sub, fs.ops, err)
				}
				break
			}
			if !errors.Is(err, errOutput) {
				t.Errorf("%s: operation %d failed, Encode says %v", sub, fail, err)
			}
		}
	}
	formatstest.NoneLeft(t, before)
}

func TestEncodeCancel(t *testing.T) {
	p := formatstest.NewPattern(t, 13, 8<<20)
	before := runtime.NumGoroutine()
	for _, sub := range subformats {
		for _, at := range []int64{-1, 0, 3 << 20} {
			ctx, cancel := context.WithCancelCause(context.Background())
			cause := errors.New("enough")
			if at < 0 {
				cancel(cause)
			}
			fs := newFiles()
			main := &file{fs: fs}
			out := formats.Outputs{Main: main, Name: "x.vmdk", Create: fs.create}
			err := vmdk.Format{}.Encode(ctx, out, p, formats.EncodeOptions{
				Subformat: sub, Workers: 2,
				Progress: func(done int64) {
					if done > at {
						cancel(cause)
					}
				},
			})
			if !errors.Is(err, cause) {
				t.Errorf("%s, cancelled at %d: %v", sub, at, err)
			}
			if at < 0 && fs.ops > 0 {
				t.Errorf("%s: cancelled before, and it wrote", sub)
			}
			cancel(nil)
		}
	}
	formatstest.NoneLeft(t, before)
}

// badDisk fails to read.
type badDisk struct{ formats.Disk }

func (badDisk) ReadAt([]byte, int64) (int, error) { return 0, errOutput }

func TestEncodeDiskFails(t *testing.T) {
	p := formatstest.NewPattern(t, 14, 1<<20)
	for _, sub := range subformats {
		if err := newFiles().encode(badDisk{p}, "x.vmdk", formats.EncodeOptions{Subformat: sub}); !errors.Is(err, errOutput) {
			t.Errorf("%s: %v", sub, err)
		}
	}
}
