package qcow2_test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"tarvm/formats"
	"tarvm/formats/formatstest"
	"tarvm/formats/qcow2"
)

// Where things are in the golden v3.qcow2.
const (
	goldenRefTable = 0x10000
	goldenBlock    = 0x20000
	goldenL1       = 0x30000
	goldenL2       = 0x40000
	goldenData     = 0x50000
	goldenEntry    = goldenL2 + 16*8 // of the data at 1 MiB
	copied         = 1 << 63
	compressed     = 1 << 62
)

// A patch is an u64 at an offset.
type patch struct {
	off int64
	v   uint64
}

func patched(b []byte, list ...patch) []byte {
	b = bytes.Clone(b)
	for _, p := range list {
		binary.BigEndian.PutUint64(b[p.off:], p.v)
	}
	return b
}

// Each damage must be found by the check, with this severity and text, and must
// either keep its part of the disk from being read or leave the disk as it is.
func TestDamagedStructures(t *testing.T) {
	golden := formatstest.Golden(t, "v3.qcow2")
	end := uint64(len(golden))
	corrupt, risk := formats.ErrCorrupt, formats.Risk
	for _, c := range []struct {
		name    string
		patches []patch
		read    error // of the whole disk; nil: it has the golden's bytes
		want    formats.Severity
		says    string
	}{
		{"L1 entry to the L1 table", []patch{{goldenL1, goldenL1 | copied}}, corrupt, risk, "lies in the L1 table"},
		{"L1 entry to the header", []patch{{goldenL1, 512 | copied}}, corrupt, risk, "multiple of the cluster"},
		{"L1 entry to the refcount table", []patch{{goldenL1, goldenRefTable | copied}}, corrupt, risk,
			"lies in the refcount table"},
		{"L1 entry to a refcount block", []patch{{goldenL1, goldenBlock | copied}}, corrupt, risk,
			"lies in the refcount blocks"},
		{"L1 entry past the end", []patch{{goldenL1, 1<<40 | copied}}, corrupt, risk, "passes end of file"},
		{"L1 entry with reserved bits", []patch{{goldenL1, goldenL2 | copied | 1<<57}}, nil, risk, "reserved bits"},
		{"L1 entry without the flag", []patch{{goldenL1, goldenL2}}, nil, formats.Note, "is missing"},
		{"data in the header", []patch{{goldenEntry, copied | 512}}, corrupt, risk, "multiple of the cluster"},
		{"data in the L1 table", []patch{{goldenEntry, copied | goldenL1}}, corrupt, risk, "lies in the L1 table"},
		{"data in the L2 table", []patch{{goldenEntry, copied | goldenL2}}, corrupt, risk, "lies in the L2 tables"},
		{"data in the refcount table", []patch{{goldenEntry, copied | goldenRefTable}}, corrupt, risk,
			"lies in the refcount table"},
		{"data in a refcount block", []patch{{goldenEntry, copied | goldenBlock}}, corrupt, risk,
			"lies in the refcount blocks"},
		{"data behind the end", []patch{{goldenEntry, copied | (end+0xffff)&^0xffff}}, corrupt, risk,
			"behind the end of file"},
		{"data with reserved bits", []patch{{goldenEntry, copied | goldenData | 2}}, nil, risk, "reserved bits"},
		{"data without the flag", []patch{{goldenEntry, goldenData}}, nil, formats.Note, "is missing"},
		{"data used twice", []patch{{goldenEntry + 8, copied | goldenData}}, errContent, risk,
			"refcount 1 and are used 2 times"},
		{"data leaked", []patch{{goldenEntry, 0}}, errContent, formats.Leak, "refcount 1 and are used 0 times"},
		{"zero cluster behind the end", []patch{{goldenEntry - 8, 1<<40 | 1}}, nil, risk, "behind the end of file"},
		{"zero cluster in the L1 table", []patch{{goldenEntry - 8, goldenL1 | 1}}, nil, risk, "used for a table"},
		{"compressed cluster in the L1 table", []patch{{goldenEntry, compressed | goldenL1 + 5}}, corrupt, risk,
			"lies in the L1 table"},
		{"compressed cluster behind the end", []patch{{goldenEntry, compressed | 1<<40}}, corrupt, risk,
			"behind the end of file"},
		{"compressed cluster of anything", []patch{{goldenEntry, compressed | goldenData}}, corrupt, risk, "512 bytes"},
		{"refcount too low", []patch{{goldenBlock, 0x0001_0001_0001_0000}}, nil, risk, "refcount 0 and are used 1 times"},
		{"refcount too high", []patch{{goldenBlock + 8, 0x0001_0002_0001_0000}}, nil, risk, "its refcount is"},
		{"refcount of nothing", []patch{{goldenBlock + 4096, 1}}, nil, formats.Leak, "refcount 1 and are used 0 times"},
		{"refcounts missing", []patch{{goldenRefTable, 0}}, nil, risk, "refcount 0 and are used 1 times"},
		{"refcount block twice", []patch{{goldenRefTable + 8, goldenBlock}}, nil, risk, "used for a refcount block"},
		{"refcount block past the end", []patch{{goldenRefTable + 8, 1 << 40}}, nil, risk, "passes end of file"},
		{"refcount block unaligned", []patch{{goldenRefTable + 8, 512}}, nil, risk, "multiple of the cluster"},
		{"refcount block with reserved bits", []patch{{goldenRefTable, goldenBlock + 1}}, nil, risk, "reserved bits"},
		{"refcount table past the end", []patch{{48, 1 << 40}}, nil, risk, ""},
		{"refcount table unaligned", []patch{{48, goldenRefTable + 512}}, nil, risk, "0x10200"},
		{"refcount order", []patch{{96, 7<<32 | 112}}, nil, risk, "7"},
		{"dirty", []patch{{72, 1}}, nil, formats.Note, "dirty"},
		{"corrupt", []patch{{72, 2}}, nil, risk, "corrupt"},
		{"snapshot table past the end", []patch{{56, 1<<32 | 1}, {64, 1 << 40}}, nil, risk, "offset"},
		{"snapshot table of zeros", []patch{{56, 1<<32 | 1}, {64, goldenData + 0x20000}}, nil, risk, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			b := patched(golden, c.patches...)
			_ = formatstest.CheckOpen(t, qcow2.Format{}, b, formats.OpenOptions{})
			m, err := qcow2.Format{}.Open(bytes.NewReader(b), formats.OpenOptions{})
			if err != nil {
				t.Fatal(err)
			}
			found := false
			for _, p := range formatstest.Problems(t, m) {
				found = found || p.Severity == c.want && strings.Contains(p.Text, c.says)
			}
			if !found {
				t.Errorf("%v, want %v: %s", formatstest.Problems(t, m), c.want, c.says)
			}
			d := formatstest.Disk(t, m)
			got := make([]byte, d.Size())
			_, err = d.ReadAt(got, 0)
			if c.read == nil || c.read == errContent {
				same := bytes.Equal(got, goldenDisk())
				if err != nil || same != (c.read == nil) {
					t.Errorf("read: %v; the golden's bytes: %v", err, same)
				}
			} else if !errors.Is(err, c.read) {
				t.Errorf("read: %v, want %v", err, c.read)
			}
		})
	}
}

// errContent: the disk is read, with other bytes.
var errContent = errors.New("other bytes")

func goldenDisk() []byte {
	b := make([]byte, 8<<20)
	copy(b[1<<20:], bytes.Repeat([]byte{0xa5}, 64<<10))
	copy(b[3<<20:], bytes.Repeat([]byte{0x5a}, 64<<10))
	return b
}

func TestOpenRefuses(t *testing.T) {
	v3, child := formatstest.Golden(t, "v3.qcow2"), formatstest.Golden(t, "child.qcow2")
	table := bytes.Index(v3, []byte{0x68, 0x03, 0xf8, 0x57})
	named := bytes.Clone(v3)
	copy(named[table+8:], "\x00\x09frobnication\x00")
	for _, c := range []struct {
		name  string
		b     []byte
		patch []patch
		want  error
		says  string
	}{
		{"AES", v3, []patch{{32, 1<<32 | 1}}, formats.ErrUnsupported, "AES"},
		{"LUKS", v3, []patch{{32, 2<<32 | 1}}, formats.ErrUnsupported, "LUKS"},
		{"encryption 3", v3, []patch{{32, 3<<32 | 1}}, formats.ErrUnsupported, "method 3"},
		{"unknown feature", v3, []patch{{72, 1 << 63}}, formats.ErrUnsupported, "unknown bits 0x8000000000000000"},
		{"named feature", named, []patch{{72, 1 << 9}}, formats.ErrUnsupported, `"frobnication"`},
		{"compression 2", v3, []patch{{72, 8}, {104, 2 << 56}}, formats.ErrUnsupported, "compression type"},
		{"compression without its bit", v3, []patch{{104, 1 << 56}}, formats.ErrCorrupt, "compression type"},
		{"compression bit alone", v3, []patch{{72, 8}}, formats.ErrCorrupt, "compression type"},
		{"L1 table in the header", v3, []patch{{40, 0}}, formats.ErrCorrupt, "lies in the header"},
		{"extension too long", v3, []patch{{112, 0x6803f857<<32 | 0x7fffffff}}, formats.ErrCorrupt, "header extension"},
		{"data file without a name", v3, []patch{{72, 4}}, formats.ErrUnsupported, "does not name it"},
		{"backing name outside the first cluster", child, []patch{{8, 0x4000 - 4}}, formats.ErrCorrupt, "backing file name"},
	} {
		t.Run(c.name, func(t *testing.T) {
			err := formatstest.CheckOpen(t, qcow2.Format{}, patched(c.b, c.patch...), formats.OpenOptions{})
			if !errors.Is(err, c.want) || !strings.Contains(err.Error(), c.says) {
				t.Errorf("%v, want %v, %q", err, c.want, c.says)
			}
		})
	}
}

// qemu 7.2 reads garbage through an L1 entry that points at the L1 table.
func TestQemuAcceptsTheL1Loop(t *testing.T) {
	b := patched(formatstest.Golden(t, "v3.qcow2"), patch{goldenL1, goldenL1 | copied})
	m, err := qcow2.Format{}.Open(bytes.NewReader(b), formats.OpenOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := m.Map.MapAt(0); !errors.Is(err, formats.ErrCorrupt) {
		t.Errorf("MapAt: %v", err)
	}
	risk := false
	for _, p := range formatstest.Problems(t, m) {
		risk = risk || p.Severity == formats.Risk && p.Offset == goldenL1 && p.Length == 512<<20
	}
	if !risk {
		t.Errorf("%v", formatstest.Problems(t, m))
	}
}

// The data of a subcluster image is in 32 parts of a cluster.
func TestSubclusterDamage(t *testing.T) {
	path := filepath.Join(t.TempDir(), "disk.qcow2")
	create(t, path, "extended_l2=on,cluster_size=16k", 1<<20)
	qemuIO(t, path, "write -P 1 0 512", "write -P 2 32k 16k")
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	l1 := binary.BigEndian.Uint64(b[40:])
	l2 := int64(binary.BigEndian.Uint64(b[l1:]) & 0xfffffffffffe00)
	for _, c := range []struct {
		name string
		p    patch
		says string
		want error
	}{
		{"data and zero", patch{l2 + 8, 1<<32 | 1}, "data and zero", formats.ErrCorrupt},
		{"no cluster", patch{l2, 0}, "no cluster", formats.ErrCorrupt},
		{"bit 0", patch{l2, binary.BigEndian.Uint64(b[l2:]) | 1}, "reserved bits", nil},
		{"first subcluster zero, place wrong", patch{l2, 1 << 40}, "behind the end", formats.ErrCorrupt},
	} {
		t.Run(c.name, func(t *testing.T) {
			b := patched(b, c.p)
			if err := formatstest.CheckOpen(t, qcow2.Format{}, b, formats.OpenOptions{}); !errors.Is(err, c.want) {
				t.Errorf("%v, want %v", err, c.want)
			}
			m, err := qcow2.Format{}.Open(bytes.NewReader(b), formats.OpenOptions{})
			if err != nil {
				t.Fatal(err)
			}
			found := false
			for _, p := range formatstest.Problems(t, m) {
				found = found || p.Severity == formats.Risk && strings.Contains(p.Text, c.says)
			}
			if !found {
				t.Errorf("%v, want %q", formatstest.Problems(t, m), c.says)
			}
		})
	}
}

// The last compressed cluster ends with the file, in the middle of the last
// sector that its entry names; cut further, it is corrupt.
func TestCompressedAtTheEnd(t *testing.T) {
	dir := t.TempDir()
	raw, path := filepath.Join(dir, "raw"), filepath.Join(dir, "disk.qcow2")
	var text []byte
	for i := range 3000 {
		text = fmt.Appendf(text, "line %d, and %x\n", i, i*i*i)
	}
	if err := os.WriteFile(raw, text, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, typ := range []string{"zlib", "zstd"} {
		formatstest.Run(t, dir, "qemu-img", "convert", "-c", "-f", "raw", "-O", "qcow2", "-o",
			"cluster_size=4k,compression_type="+typ, raw, path)
		b, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		m, err := qcow2.Format{}.Open(bytes.NewReader(b), formats.OpenOptions{})
		if err != nil {
			t.Fatal(err)
		}
		end := int64(0)
		for off := int64(0); off < m.VirtualSize; {
			e, err := m.Map.MapAt(off)
			if err != nil {
				t.Fatal(err)
			}
			if e.Kind == formats.Compressed || e.Kind == formats.Data {
				end = max(end, e.Host+max(e.Stored, e.Length))
			}
			off = e.End()
		}
		end = min(end, int64(len(b)))
		if end == 0 {
			t.Fatal("nothing is stored")
		}
		bad := 0
		for cut := int64(0); cut < 600; cut += 7 {
			if err := formatstest.CheckOpen(t, qcow2.Format{}, b[:end-cut], formats.OpenOptions{}); err != nil {
				bad++
				if !errors.Is(err, formats.ErrCorrupt) {
					t.Fatal(err)
				}
			}
		}
		if bad == 0 {
			t.Error("a cut compressed cluster is read")
		}
	}
}

// Any bit of the header, of the tables' first entries, and of the refcounts.
func TestFlippedBits(t *testing.T) {
	formatstest.OneGoroutine(t)
	t.Parallel()
	for _, name := range []string{"v3.qcow2", "child.qcow2"} {
		golden := formatstest.Golden(t, name)
		unit := int64(1) << golden[23]
		for cluster := int64(0); cluster < 5; cluster++ {
			from, n := cluster*unit, int64(16)
			if cluster == 0 {
				n = 400
			}
			for off := from; off < min(from+n, int64(len(golden))); off++ {
				bits := 8
				if off >= 128 && off < unit { // names of features
					bits = 1
				}
				for bit := range bits {
					b := bytes.Clone(golden)
					b[off] ^= 1 << bit
					_ = formatstest.CheckOpen(t, qcow2.Format{}, b, formats.OpenOptions{})
				}
			}
		}
	}
}

// An image that was cut must say so, unless nothing but zeros is gone.
func TestTruncatedImages(t *testing.T) {
	golden := formatstest.Golden(t, "v3.qcow2")
	for at := int64(0); at <= int64(len(golden)); at += 0x8000 {
		for _, n := range []int64{at - 1, at, at + 1} {
			if n < 0 || n >= int64(len(golden)) {
				continue
			}
			err := formatstest.CheckOpen(t, qcow2.Format{}, golden[:n], formats.OpenOptions{})
			if err == nil && n <= goldenData+0x10000 {
				t.Errorf("cut at 0x%x: no error", n)
			}
		}
	}
}

// Images with everything that there is, for the fuzzer.
func FuzzOpen(f *testing.F) {
	list := [][]byte{formatstest.Golden(f, "v2.qcow2"), formatstest.Golden(f, "v3.qcow2"), formatstest.Golden(f,
		"child.qcow2")}
	for _, name := range []string{"snapshots.qcow2", "zstd.qcow2", "data.qcow2"} {
		list = append(list, formatstest.Golden(f, name))
	}
	formatstest.FuzzOpen(f, qcow2.Format{}, list, nil)
}
