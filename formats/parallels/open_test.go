package parallels_test

import (
	"bytes"
	"context"
	"crypto/md5"
	"crypto/sha256"
	"encoding/binary"
	"encoding/csv"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"tarvm/formats"
	"tarvm/formats/formatstest"
	"tarvm/formats/parallels"
)

var le = binary.LittleEndian

const (
	inUseOpen   = 0x746F6E59
	inUseClosed = 0x312e3276
)

func open(t testing.TB, b []byte) *formats.Image {
	t.Helper()
	m, err := parallels.Format{}.Open(bytes.NewReader(b), formats.OpenOptions{})
	if err != nil {
		t.Fatal(err)
	}
	return m
}

// compare demands the problems want, by parts of their text.
func compare(t testing.TB, got, want []string) {
	t.Helper()
	if len(got) != len(want) {
		t.Fatalf("%q, want %q", got, want)
	}
	for i := range want {
		if !strings.Contains(got[i], want[i]) {
			t.Errorf("%q, want %q", got[i], want[i])
		}
	}
}

// judge compares the image at path with what qemu-img reads in it.
func judge(t testing.TB, path string) *formats.Image {
	t.Helper()
	m := formatstest.OpenFile(t, parallels.Format{}, path)
	d := formatstest.Disk(t, m)
	formatstest.CheckDisk(t, d, formatstest.QemuRaw(t, "parallels", path))
	formatstest.CheckMap(t, d, "parallels", path)
	return m
}

func TestWhatQemuWrites(t *testing.T) {
	formatstest.Tool(t, "qemu-img")
	for _, c := range []struct {
		options, size string
		io            []string
	}{
		{"cluster_size=1M", "5M", nil},
		{"cluster_size=1M", "20M", []string{"write -P 1 14M 1M", "write -P 2 0 64k", "write -P 3 5M 3M",
			"write -P 4 4M 1M"}},
		{"cluster_size=64k", "3000320", []string{"write -P 7 2999808 512", "write -P 8 0 512", "write -P 9 1M 300k"}},
		{"cluster_size=32256", "3000320", []string{"write -P 7 2999808 512", "write -P 8 0 512", "write -P 9 1M 300k"}},
		{"cluster_size=512", "100k", []string{"write -P 7 33k 1k", "write -P 8 0 512"}},
		{"cluster_size=1M", "512", []string{"write -P 8 0 512"}},
		{"cluster_size=1M", "4098M", []string{"write -P 7 4097M 1M"}},
	} {
		t.Run(c.options+" "+c.size, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "disk.hds")
			formatstest.Run(t, ".", "qemu-img", "create", "-q", "-f", "parallels", "-o", c.options, path, c.size)
			for _, op := range c.io {
				formatstest.Run(t, ".", "qemu-io", "-f", "parallels", "-c", op, path)
			}
			m := judge(t, path)
			compare(t, formatstest.ProblemTexts(t, m), nil)
			formatstest.QemuCheck(t, "parallels", path)
			if m.Parent != nil {
				t.Errorf("parent %v", m.Parent)
			}
		})
	}
	for _, size := range []int64{512, 7<<20 + 512} {
		dir := t.TempDir()
		p := formatstest.NewPattern(t, uint64(size), size)
		if err := os.WriteFile(filepath.Join(dir, "raw"), p.Bytes, 0o600); err != nil {
			t.Fatal(err)
		}
		formatstest.Run(t, dir, "qemu-img", "convert", "-f", "raw", "-O", "parallels", "raw", "disk.hds")
		m := judge(t, filepath.Join(dir, "disk.hds"))
		formatstest.CheckDisk(t, formatstest.Disk(t, m), p.Source())
	}
}

// The images that Parallels and Virtuozzo made.
func TestCorpus(t *testing.T) {
	dir := filepath.Join("..", "..", "..", "shared", "corpus", "images")
	sums := rawSums(t, dir)
	found := 0
	for _, s := range formatstest.Corpus(t, dir, 8<<20, "parallels") {
		found++
		t.Run(s.Path, func(t *testing.T) {
			m := open(t, s.Bytes)
			compare(t, formatstest.ProblemTexts(t, m), nil)
			d := formatstest.Disk(t, m)
			if want := sums[s.Path]; want != "" {
				sum := sha256.New()
				if _, err := io.Copy(sum, io.NewSectionReader(d, 0, d.Size())); err != nil || fmt.Sprintf("%x",
					sum.Sum(nil)) != want {
					t.Errorf("sum %x, %v, want %s", sum.Sum(nil), err, want)
				}
			}
			if strings.Contains(s.Path, "bitmap") && (len(m.Facts) != 7 || !strings.HasSuffix(m.Facts[6].Value,
				", a bit for 65536 bytes")) {
				t.Errorf("%q", m.Facts)
			}
			path := filepath.Join(t.TempDir(), "disk.hds")
			if err := os.WriteFile(path, s.Bytes, 0o600); err != nil {
				t.Fatal(err)
			}
			formatstest.Tool(t, "qemu-img")
			if d.Size() < 1<<30 {
				formatstest.CheckDisk(t, d, formatstest.QemuRaw(t, "parallels", path))
			}
			formatstest.CheckMap(t, d, "parallels", path)
		})
	}
	if found != 3 {
		t.Errorf("%d images", found)
	}
}

// rawSums reads the sums of raw contents from the corpus' index.
func rawSums(t *testing.T, dir string) map[string]string {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(dir, "INDEX.tsv"))
	if err != nil {
		t.Skip(err)
	}
	r := csv.NewReader(bytes.NewReader(b))
	r.Comma, r.LazyQuotes, r.FieldsPerRecord = '\t', true, -1
	rows, err := r.ReadAll()
	if err != nil {
		t.Fatal(err)
	}
	path, sum := slices.Index(rows[0], "path"), slices.Index(rows[0], "sha256_raw")
	all := map[string]string{}
	for _, row := range rows[1:] {
		all[row[path]] = row[sum]
	}
	return all
}

// built is what the test's own generator puts into a file.
type built struct {
	ext     bool
	cluster int // sectors
	sectors int // of the disk
	data    int // sector of the first cluster
	inUse   uint32
	entries []uint32 // the table
	slots   int      // clusters from data on; each is filled with its number plus one
	fill    int      // or with that much more
}

func (c built) bytes() []byte {
	unit := c.cluster * 512
	b := make([]byte, c.data*512+c.slots*unit)
	copy(b, "WithoutFreeSpace")
	if c.ext {
		copy(b, "WithouFreSpacExt")
	}
	for off, v := range map[int]uint32{
		16: 2, 20: 16, 24: 7, 28: uint32(c.cluster), 32: uint32(len(c.entries)),
		36: uint32(c.sectors), 44: c.inUse, 48: uint32(c.data),
	} {
		le.PutUint32(b[off:], v)
	}
	for i, v := range c.entries {
		le.PutUint32(b[64+4*i:], v)
	}
	for i := range c.slots {
		copy(b[c.data*512+i*unit:], bytes.Repeat([]byte{byte(c.fill + i + 1)}, unit))
	}
	return b
}

// disk is what a guest sees above parent.
func (c built) disk(parent []byte) []byte {
	unit := c.cluster * 512
	disk := make([]byte, len(c.entries)*unit)
	file := c.bytes()
	copy(disk, parent)
	for i, v := range c.entries {
		at := int(v) * 512
		if c.ext {
			at *= c.cluster
		}
		if v != 0 {
			copy(disk[i*unit:][:unit], file[at:])
		}
	}
	return disk[:c.sectors*512]
}

func TestLayouts(t *testing.T) {
	for name, c := range map[string]built{
		"v2":             {ext: true, cluster: 8, sectors: 48, data: 8, entries: []uint32{3, 4, 0, 1, 0, 2}, slots: 4},
		"v1":             {cluster: 8, sectors: 48, data: 1, entries: []uint32{17, 25, 0, 1, 0, 9}, slots: 4},
		"63 sectors, v1": {cluster: 63, sectors: 300, data: 3, entries: []uint32{66, 0, 3, 129, 0}, slots: 3},
		"63 sectors, v2": {ext: true, cluster: 63, sectors: 300, data: 63, entries: []uint32{2, 0, 1, 3, 0}, slots: 3},
		"more entries":   {ext: true, cluster: 8, sectors: 12, data: 8, entries: []uint32{1, 2, 0, 0}, slots: 2},
		"nothing":        {ext: true, cluster: 8, sectors: 16, data: 8, entries: []uint32{0, 0}},
		"an empty disk":  {ext: true, cluster: 8, data: 8},
		"several map pages": {cluster: 1, sectors: 40000, data: 400, entries: slices.Repeat([]uint32{400, 401, 0, 0},
			10000), slots: 2},
	} {
		t.Run(name, func(t *testing.T) {
			b := c.bytes()
			m := open(t, b)
			formatstest.CheckDisk(t, formatstest.Disk(t, m), bytes.NewReader(c.disk(nil)))
			if name == "several map pages" {
				list := formatstest.ProblemTexts(t, m)
				if len(list) != 101 || !strings.Contains(list[100], "19998 clusters are used twice") {
					t.Errorf("%d: %q", len(list), list[len(list)-1])
				}
				return
			}
			compare(t, formatstest.ProblemTexts(t, m), nil)
			path := filepath.Join(t.TempDir(), "disk.hds")
			if err := os.WriteFile(path, b, 0o600); err != nil {
				t.Fatal(err)
			}
			formatstest.Tool(t, "qemu-img")
			if c.sectors > 0 {
				judge(t, path)
			}
		})
	}
}

// What is wrong, what reading says, and what the check says.
func TestProblems(t *testing.T) {
	v2 := built{ext: true, cluster: 8, sectors: 48, data: 8, inUse: inUseClosed, entries: []uint32{3, 4, 0, 1, 0, 2},
		slots: 4}
	v1 := built{cluster: 8, sectors: 48, data: 1, entries: []uint32{17, 25, 0, 1, 0, 9}, slots: 4}
	for _, c := range []struct {
		name  string
		image built
		off   int
		patch []byte
		cut   int      // bytes that are missing; negative: more
		read  string   // part of the error; empty: none
		check []string // parts of the problems
	}{
		{name: "nothing wrong", image: v2},
		{name: "used twice", image: v2, off: 64, patch: []byte{4}, check: []string{
			"risk: table at byte 0x44: the cluster at 0x4000 is used twice", "leak: clusters at byte 0x3000: 1 clusters",
		}},
		{name: "used twice, v1", image: v1, off: 64, patch: []byte{25}, check: []string{
			"risk: table at byte 0x44: the cluster at 0x3200 is used twice", "leak: clusters at byte 0x2200: 1 clusters",
		}},
		{name: "overlapping", image: v1, off: 64, patch: []byte{20}, check: []string{
			"risk: table at byte 0x40: the cluster at 0x2800 overlaps another",
			"note: table at byte 0x40: 1 clusters are not at a multiple",
		}},
		{name: "overlapping strays", image: v1, off: 64, patch: []byte{12, 0, 0, 0, 15}, check: []string{
			"risk: table at byte 0x40: the cluster at 0x1800 overlaps another",
			"risk: table at byte 0x40: the cluster at 0x1e00 overlaps another",
			"risk: table at byte 0x40: the clusters at 0x1800 and 0x1e00 overlap",
			"note: table at byte 0x40: 2 clusters are not", "leak: clusters at byte 0x3200: 1",
		}},
		{name: "past the end", image: v2, off: 64, patch: []byte{5},
			read: "table at byte 0x40: cluster 0 of the disk is at 0x5000 of a file of 0x5000 bytes", check: []string{
				"risk: table at byte 0x40: cluster 0 of the disk is at 0x5000", "leak",
			}},
		{name: "far past the end", image: v2, off: 64, patch: []byte{0xff, 0xff, 0xff, 0xff}, read: "is at 0xffffffff000",
			check: []string{"risk", "leak"}},
		{name: "in the table", image: built{cluster: 8, sectors: 48, data: 1, entries: slices.Repeat([]uint32{0}, 200),
			slots: 1}, off: 64, patch: []byte{1},
			read: "within the table", check: []string{"note: header at byte 0x30",
				"risk: table at byte 0x40: cluster 0 of the disk is at 0x200, within the table",
				"leak: table at byte 0x40: 88 clusters are behind the end"}},
		{name: "cut in a cluster", image: v2, cut: 100,
			read: "cluster 1 of the disk is at 0x4000 of a file of 0x4f9c bytes", check: []string{
				"risk: table at byte 0x44: cluster 1 of the disk is at 0x4000",
			}},
		{name: "more at the end", image: v2, cut: -5000, check: []string{"leak: clusters at byte 0x5000: 2 clusters"}},
		{name: "left open", image: v2, off: 44, patch: []byte("Ynot"),
			check: []string{"note: header at byte 0x2c: the image was not closed"}},
		{name: "closed by an old program", image: v2, off: 44, patch: make([]byte, 4)},
		{name: "unknown state", image: v2, off: 44, patch: []byte{1},
			check: []string{"note: header at byte 0x2c: the state 0x312e3201"}},
		{name: "empty flag", image: v2, off: 52, patch: []byte{1},
			check: []string{"note: table at byte 0x40: the header says that the image is empty, but 4"}},
		{name: "data not aligned", image: v2, off: 48, patch: []byte{9}, check: []string{
			"note: header at byte 0x30: the first cluster is at 0x1200, which is not aligned",
			"note: table at byte 0x40: 1 clusters are before 0x1200",
		}},
		{name: "no data offset", image: v2, off: 48, patch: []byte{0},
			check: []string{"note: header at byte 0x30: the first cluster is at 0x200, which is not"}},
		{name: "smaller disk", image: v2, off: 36, patch: []byte{33},
			check: []string{"leak: table at byte 0x40: 1 clusters are behind the end"}},
		{name: "extension past the end", image: v2, off: 56, patch: []byte{40},
			check: []string{"note: format extension at byte 0x38: it is at 0x5000 of a file of 0x5000"}},
		{name: "extension nowhere", image: v2, off: 56, patch: bytes.Repeat([]byte{0xff}, 8),
			check: []string{"note: format extension at byte 0x38"}},
		{name: "extension without magic", image: v2, off: 56, patch: []byte{8}, check: []string{
			"note: format extension at byte 0x1000: magic 0x101010101010101",
			"risk: format extension at byte 0x38: the cluster at 0x1000 is used twice",
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			b := c.image.bytes()
			copy(b[c.off:], c.patch)
			if c.cut > 0 {
				b = b[:len(b)-c.cut]
			} else {
				b = append(b, make([]byte, -c.cut)...)
			}
			err := formatstest.CheckOpen(t, parallels.Format{}, b, formats.OpenOptions{})
			switch {
			case c.read == "" && err != nil:
				t.Error(err)
			case c.read != "" && (!errors.Is(err, formats.ErrCorrupt) || !strings.Contains(err.Error(), c.read)):
				t.Errorf("%v, want %q", err, c.read)
			}
			compare(t, formatstest.ProblemTexts(t, open(t, b)), c.check)
		})
	}
}

// extended is an image with a format extension of a dirty bitmap, in clusters of
// 4 KiB: header, extension, bits, data.
func extended() []byte {
	b := built{ext: true, cluster: 8, sectors: 48, data: 8, inUse: inUseClosed, entries: []uint32{3, 0, 0, 0, 0, 0},
		slots: 3}.bytes()
	b[56] = 8
	x := b[4096:8192]
	clear(x)
	le.PutUint64(x, 0xAB234CEF23DCEA87)
	le.PutUint64(x[24:], 0x20385FAE252CB34A)
	le.PutUint32(x[40:], 32+8*3)
	f := x[48:]
	le.PutUint64(f, 48)
	copy(f[8:], "0123456789abcdef")
	le.PutUint32(f[24:], 4)
	le.PutUint32(f[28:], 3)
	le.PutUint64(f[32:], 0)
	le.PutUint64(f[40:], 1)
	le.PutUint64(f[48:], 16)
	seal(b)
	return b
}

// seal makes the checksum of the extension right.
func seal(b []byte) {
	if len(b) >= 8192 {
		sum := md5.Sum(b[4096+24 : 8192])
		copy(b[4096+8:], sum[:])
	}
}

func TestExtension(t *testing.T) {
	const x = 4096
	for _, c := range []struct {
		name   string
		off    int
		patch  []byte
		unseal bool
		facts  int
		check  []string
	}{
		{name: "nothing wrong", facts: 1},
		{name: "checksum", off: x + 4000, patch: []byte{1}, unseal: true, facts: 1,
			check: []string{"note: format extension at byte 0x1008: the checksum is wrong"}},
		{name: "magic", off: x, patch: []byte{1}, check: []string{"note: format extension at byte 0x1000: magic",
			"leak: clusters at byte 0x2000: 1"}},
		{name: "old program", off: 44, patch: make([]byte, 4), facts: 1,
			check: []string{"note: format extension at byte 0x1000: the image was not closed by"}},
		{name: "unknown feature", off: x + 24, patch: []byte{1, 2},
			check: []string{"note: format extension at byte 0x1018: feature 0x20385fae252c0201 with flags 0x0", "leak"}},
		{name: "no end", off: x + 48 + 56, patch: bytes.Repeat([]byte{1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0,
			0, 0, 0, 0, 0, 0}, 64), facts: 1,
			check: append(slices.Repeat([]string{"note: format extension"}, 63), "no end of features")},
		{name: "too long", off: x + 40, patch: []byte{0, 0x20},
			check: []string{"note: format extension at byte 0x1018: a feature of 8192 bytes", "leak"}},
		{name: "too short", off: x + 40, patch: []byte{31}, check: []string{
			"note: dirty bitmap at byte 0x1030: 31 bytes", "note: format extension at byte 0x1050: feature 0x0", "leak",
		}[:1]},
		{name: "other disk", off: x + 48, patch: []byte{47}, facts: 1,
			check: []string{"note: dirty bitmap at byte 0x1030: of 47 sectors, the disk has 48"}},
		{name: "2^32 entries", off: x + 48 + 28, patch: []byte{0xff, 0xff, 0xff, 0xff}, facts: 1,
			check: []string{"note: dirty bitmap at byte 0x1030: 4294967295 entries"}},
		{name: "bits past the end", off: x + 48 + 48, patch: []byte{32}, facts: 1,
			check: []string{"note: dirty bitmap at byte 0x1060: a cluster at sector 32", "leak"}},
		{name: "bits are data", off: x + 48 + 48, patch: []byte{24}, facts: 1,
			check: []string{"risk: dirty bitmap at byte 0x1060: the cluster at 0x3000 is used twice", "leak"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			b := extended()
			copy(b[c.off:], c.patch)
			if !c.unseal {
				seal(b)
			}
			if err := formatstest.CheckOpen(t, parallels.Format{}, b, formats.OpenOptions{}); err != nil {
				t.Error(err)
			}
			m := open(t, b)
			if len(m.Facts) != 6+c.facts {
				t.Errorf("%q", m.Facts)
			}
			if c.facts > 0 && m.Facts[6].Value != "30313233-3435-3637-3839-616263646566, a bit for 2048 bytes" {
				t.Errorf("%q", m.Facts[6])
			}
			got := formatstest.ProblemTexts(t, m)
			if c.name == "too short" {
				got = got[:1] // what follows depends on what the bytes mean then
			}
			compare(t, got, c.check)
		})
	}
}

// What is there of a cut cluster is read.
func TestCutCluster(t *testing.T) {
	c := built{ext: true, cluster: 8, sectors: 24, data: 8, entries: []uint32{1, 2, 3}, slots: 3}
	b := c.bytes()
	d := formatstest.Disk(t, open(t, b[:len(b)-4096-1000]))
	got := make([]byte, 3*4096)
	n, err := d.ReadAt(got, 0)
	if n != 2*4096-1000 || !errors.Is(err, formats.ErrCorrupt) || !bytes.Equal(got[:n], c.disk(nil)[:n]) {
		t.Errorf("%d bytes, %v", n, err)
	}
	if _, err := d.ReadAt(got[:1], 2*4096); !errors.Is(err, formats.ErrCorrupt) || !strings.Contains(err.Error(),
		"cluster 2 of the disk") {
		t.Error(err)
	}
}

func TestEachBitOfTheHeader(t *testing.T) {
	for _, b := range [][]byte{
		extended(),
		built{cluster: 63, sectors: 300, data: 3, entries: []uint32{66, 0, 3, 129, 0}, slots: 3}.bytes(),
	} {
		for i := range 8 * (64 + 24) {
			b[i/8] ^= 1 << (i % 8)
			_ = formatstest.CheckOpen(t, parallels.Format{}, b, formats.OpenOptions{})
			b[i/8] ^= 1 << (i % 8)
		}
	}
	b := extended()
	for i := 8 * 4096; i < 8*(4096+48+64); i++ {
		b[i/8] ^= 1 << (i % 8)
		_ = formatstest.CheckOpen(t, parallels.Format{}, b, formats.OpenOptions{})
		b[i/8] ^= 1 << (i % 8)
	}
}

func TestTruncatedAtEachStructure(t *testing.T) {
	for name, b := range map[string][]byte{"ext.hds": formatstest.Golden(t, "ext.hds"), "extended": extended()} {
		for _, at := range []int{0, 16, 64, 64 + 4*6, 64 + 4*8, 512, 4096, 4096 + 24, 4096 + 48, 8192, 12288, 1 << 20,
			2 << 20, len(b)} {
			for _, n := range []int{at - 1, at, at + 1} {
				if n >= 0 && n <= len(b) {
					err := formatstest.CheckOpen(t, parallels.Format{}, b[:n], formats.OpenOptions{})
					if n < len(b) && err == nil {
						t.Errorf("%s cut to %d bytes: no error", name, n)
					}
				}
			}
		}
	}
}

// huge is an image of a disk of 16 TiB with one cluster. It counts what is read.
type huge struct {
	head []byte
	size int64
	read int64
}

const hugeEntries = 16 << 20

func (h *huge) Size() int64 { return h.size }

func (h *huge) ReadAt(p []byte, off int64) (int, error) {
	n := min(int64(len(p)), h.size-off)
	clear(p[:n])
	if off < int64(len(h.head)) {
		copy(p, h.head[off:])
	}
	const entry = 64 + 4*12345678
	for at := max(off, entry); at < min(off+n, entry+4); at++ {
		p[at-off] = byte(uint32(h.size/(1<<20)-1) >> (8 * (at - entry)))
	}
	h.read += n
	if n < int64(len(p)) {
		return int(n), io.EOF
	}
	return int(n), nil
}

func TestHuge(t *testing.T) {
	h := &huge{head: built{ext: true, cluster: 2048, data: 2048 * 65, inUse: inUseClosed}.bytes()[:64], size: 66 << 20}
	le.PutUint32(h.head[32:], hugeEntries)
	le.PutUint64(h.head[36:], hugeEntries*2048)
	m, err := parallels.Format{}.Open(h, formats.OpenOptions{})
	if err != nil || h.read > 4096 {
		t.Fatalf("%v after %d bytes", err, h.read)
	}
	var got []formats.Extent
	for e, err := range formatstest.Disk(t, m).Extents(0, m.Map.Size()) {
		if err != nil {
			t.Fatal(err)
		}
		got = append(got, e)
	}
	if len(got) != 3 || got[1].Kind != formats.Data || got[1].Offset != 12345678<<20 || got[1].Host != 65<<20 ||
		got[2].End() != 16<<40 {
		t.Errorf("%+v", got)
	}
	if h.read > 66<<20 {
		t.Errorf("read %d bytes", h.read)
	}
	compare(t, formatstest.ProblemTexts(t, m), nil)
}

func TestCheckIsCancelled(t *testing.T) {
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	for _, b := range [][]byte{formatstest.Golden(t, "ext.hds"), extended()} {
		if err := open(t, b).Check(ctx, func(formats.Problem) {}); !errors.Is(err, context.Canceled) {
			t.Error(err)
		}
	}
}

func FuzzOpen(f *testing.F) {
	formatstest.FuzzOpen(f, parallels.Format{}, [][]byte{
		extended(),
		built{ext: true, cluster: 8, sectors: 48, data: 8, entries: []uint32{3, 4, 0, 1, 0, 2}, slots: 4}.bytes(),
		built{cluster: 63, sectors: 300, data: 3, entries: []uint32{66, 0, 3, 129, 0}, slots: 3}.bytes(),
		formatstest.Golden(f, "ext.hds"),
		[]byte(plainDescriptor),
	}, seal)
}
