package vdi_test

import (
	"bytes"
	"context"
	"encoding/binary"
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
	"tarvm/formats/vdi"
)

var le = binary.LittleEndian

// open opens b, which must be an image.
func open(t testing.TB, b []byte) *formats.Image {
	t.Helper()
	m, err := vdi.Format{}.Open(bytes.NewReader(b), formats.OpenOptions{})
	if err != nil {
		t.Fatal(err)
	}
	return m
}

func TestWhatQemuWrites(t *testing.T) {
	formatstest.Tool(t, "qemu-img")
	for _, c := range []struct {
		name, options, size string
		io                  []string
	}{
		{"empty dynamic", "static=off", "5M", nil},
		{"empty fixed", "static=on", "5M", nil},
		{"out of order", "static=off", "20M", []string{"write -P 1 14M 1M", "write -P 2 0 64k", "write -P 3 5M 3M",
			"write -P 4 4M 1M"}},
		{"zeros", "static=off", "20M", []string{"write -P 1 2M 6M", "write -z 3M 2M", "discard 5M 1M",
			"write -P 0 12M 1M"}},
		{"fixed", "static=on", "8M", []string{"write -P 1 2M 3M", "write -P 9 7M 1M"}},
		{"part of a block", "static=off", "3000320", []string{"write -P 7 2999808 512", "write -P 8 0 512"}},
		{"one sector", "static=off", "512", []string{"write -P 7 0 512"}},
		{"past 4 GiB", "static=off", "9G", []string{"write -P 7 8G 1M", "write -P 8 5G 512"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "disk.vdi")
			formatstest.Run(t, ".", "qemu-img", "create", "-q", "-f", "vdi", "-o", c.options, path, c.size)
			for _, op := range c.io {
				formatstest.Run(t, ".", "qemu-io", "-f", "vdi", "-c", op, path)
			}
			m := formatstest.OpenFile(t, vdi.Format{}, path)
			d := formatstest.Disk(t, m)
			formatstest.CheckDisk(t, d, formatstest.QemuRaw(t, "vdi", path))
			formatstest.CheckMap(t, d, "vdi", path)
			if list := formatstest.ProblemTexts(t, m); len(list) > 0 {
				t.Errorf("%q", list)
			}
			if m.Parent != nil || len(m.ID) != 73 {
				t.Errorf("parent %v, ID %q", m.Parent, m.ID)
			}
		})
	}
}

// built is what the test's own generator puts into an image.
type built struct {
	version      uint32 // 1.1 if zero
	kind         uint32
	size         int64
	block, extra int
	table, data  int      // offsets; behind each other if zero
	entries      []uint32 // the map
	slots        int      // blocks in the file; filled with their number plus one
	allocated    int      // the number of slots if zero
	link         bool     // names a parent
}

var (
	ids     = [4]string{"create UUID 0000", "modify UUID 0000", "parent UUID 0000", "parent modified0"}
	wantIDs = [4]string{
		"61657263-6574-5520-5549-442030303030", "69646f6d-7966-5520-5549-442030303030",
		"65726170-746e-5520-5549-442030303030", "65726170-746e-6d20-6f64-696669656430",
	}
)

const (
	free = 0xFFFFFFFF
	zero = 0xFFFFFFFE
)

func (c built) bytes() []byte {
	if c.version == 0 {
		c.version = 0x10001
	}
	if c.allocated == 0 {
		c.allocated = c.slots
	}
	if c.table == 0 {
		c.table = 512
	}
	if c.version == 2 {
		c.table = 420
	}
	if c.data == 0 {
		c.data = c.table + 4*len(c.entries)
	}
	step := c.block + c.extra
	b := make([]byte, c.data+c.slots*step)
	copy(b, "<<< Sun VirtualBox Disk Image >>>\n")
	put := func(off int, v uint32) { le.PutUint32(b[off:], v) }
	put(64, 0xBEDA107F)
	put(68, c.version)
	o := struct{ kind, size, block, count, id int }{76, 368, 376, 384, 392}
	if c.version == 2 {
		o.kind, o.size, o.block, o.count, o.id = 72, 352, 360, 364, 372
	} else {
		put(72, 400)
		put(340, uint32(c.table))
		put(344, uint32(c.data))
		put(380, uint32(c.extra))
		put(468, 512)
	}
	put(o.kind, c.kind)
	le.PutUint64(b[o.size:], uint64(c.size))
	put(o.block, uint32(c.block))
	put(o.count, uint32(len(c.entries)))
	put(o.count+4, uint32(c.allocated))
	for i, id := range ids {
		if i < 2 || c.link && (c.version != 2 || i == 2) {
			copy(b[o.id+16*i:], id)
		}
	}
	for i, v := range c.entries {
		put(c.table+4*i, v)
	}
	for i := range c.slots {
		at := c.data + i*step
		copy(b[at:], bytes.Repeat([]byte{0xee}, c.extra))
		copy(b[at+c.extra:], bytes.Repeat([]byte{byte(i + 1)}, c.block))
	}
	return b
}

// disk is what a guest sees, without a parent.
func (c built) disk() []byte {
	b := make([]byte, len(c.entries)*c.block)
	for i, v := range c.entries {
		if v < zero {
			copy(b[i*c.block:], bytes.Repeat([]byte{byte(v + 1)}, c.block))
		}
	}
	return b[:c.size]
}

func TestLayouts(t *testing.T) {
	entries := []uint32{2, 3, free, zero, 0, 1, free, 4}
	for name, c := range map[string]built{
		"dynamic":        {kind: 1, size: 8 * 4096, block: 4096, entries: entries, slots: 5},
		"fixed":          {kind: 2, size: 3 * 4096, block: 4096, entries: []uint32{0, 1, 2}, slots: 3},
		"smallest block": {kind: 1, size: 8 * 512, block: 512, entries: entries, slots: 5},
		"extra":          {kind: 1, size: 8 * 4096, block: 4096, extra: 512, entries: entries, slots: 5},
		"part of a block": {
			kind: 1, size: 7*4096 + 512, block: 4096, entries: entries, slots: 5,
		},
		"far data":         {kind: 1, size: 8 * 4096, block: 4096, table: 8192, data: 1 << 20, entries: entries, slots: 5},
		"version 0":        {version: 2, kind: 1, size: 8 * 4096, block: 4096, entries: entries, slots: 5},
		"version 0, fixed": {version: 2, kind: 2, size: 3 * 4096, block: 4096, entries: []uint32{0, 1, 2}, slots: 3},
		"nothing":          {kind: 1, block: 4096},
		"one map page full": {kind: 1, size: 20000 * 512, block: 512, entries: slices.Repeat([]uint32{free, zero, 0, 1},
			5000)[:20000], slots: 2},
	} {
		t.Run(name, func(t *testing.T) {
			b := c.bytes()
			formatstest.CheckDisk(t, formatstest.Disk(t, open(t, b)), bytes.NewReader(c.disk()))
			if _, err := formatstest.CheckProbe(t, vdi.Format{}, b); err != nil {
				t.Error(err)
			}
			if len(b) < 100000 {
				formatstest.CheckTruncated(t, vdi.Format{}, b)
			}
			if list := formatstest.ProblemTexts(t, open(t, b)); len(list) > 0 && name != "one map page full" {
				t.Errorf("%q", list)
			}
		})
	}
}

// Free blocks of a child are its parent's, zero ones are not.
func TestChild(t *testing.T) {
	parent := built{kind: 1, size: 6 * 4096, block: 4096, entries: []uint32{0, 1, 2, free, 3, 4}, slots: 5}
	child := built{kind: 4, size: 8 * 4096, block: 4096, entries: []uint32{free, zero, 0, free, 1, free, free, 2},
		slots: 3, link: true}
	for name, kind := range map[string]uint32{"differencing": 4, "undo": 3} {
		child.kind = kind
		c, p := open(t, child.bytes()), open(t, parent.bytes())
		if c.Subformat != name || c.Parent == nil || c.Parent.Format != "vdi" || len(c.Parent.Names) > 0 {
			t.Fatalf("%+v", c)
		}
		want := child.disk()
		copy(want, parent.disk()[:4096])
		copy(want[5*4096:], parent.disk()[5*4096:])
		d := formatstest.Disk(t, c, p)
		formatstest.CheckDisk(t, d, bytes.NewReader(want))
		if list := formatstest.ProblemTexts(t, c); len(list) > 0 {
			t.Errorf("%q", list)
		}
		if _, err := formatstest.Disk(t, c).ReadAt(make([]byte, 1), 0); !errors.Is(err, formats.ErrNoParent) {
			t.Errorf("without its parent: %v", err)
		}
	}
	c := open(t, child.bytes())
	if c.ID != wantIDs[0]+"/"+wantIDs[1] || c.Parent.ID != wantIDs[2]+"/"+wantIDs[3] {
		t.Errorf("%q, parent %q", c.ID, c.Parent.ID)
	}
}

func TestFacts(t *testing.T) {
	b := built{kind: 4, size: 4096, block: 4096, entries: []uint32{0}, slots: 1, link: true}.bytes()
	copy(b[84:], "a comment\x1b[31m\nand more\xff")
	le.PutUint32(b[456:], 17)
	le.PutUint32(b[460:], 16)
	le.PutUint32(b[464:], 63)
	var got []string
	for _, f := range open(t, b).Facts {
		got = append(got, f.Name+"="+f.Value)
	}
	want := []string{
		"version=1.1", "type=differencing", "block size=4096", "blocks=1", "allocated=1", "data offset=516",
		"header size=400",
		"creator=<<< Sun VirtualBox Disk Image >>>", "comment=a comment[31mand more",
		"UUID=" + wantIDs[0], "modification UUID=" + wantIDs[1],
		"parent UUID=" + wantIDs[2], "parent modification UUID=" + wantIDs[3], "geometry=17/16/63",
	}
	if !slices.Equal(got, want) {
		t.Errorf("%q\nwant %q", got, want)
	}
}

// What is wrong, what reading says, and what the check says.
func TestProblems(t *testing.T) {
	base := built{kind: 1, size: 5 * 4096, block: 4096, data: 8192, entries: []uint32{2, free, 0, zero, 1}, slots: 3}
	for _, c := range []struct {
		name  string
		off   int // negative: from the end
		patch []byte
		cut   int
		read  string   // part of the error; empty: none
		check []string // parts of the problems
	}{
		{name: "nothing wrong"},
		{name: "used twice", off: 512, patch: []byte{1}, check: []string{
			"risk: block table at byte 0x210: block 1 of the file is used twice, the second time for block 4 of the disk",
			"leak: blocks at byte 0x4000: 1 blocks of the file are used by nothing, the first is 2",
		}},
		{name: "past the end", off: 512, patch: []byte{3},
			read: "block table at byte 0x200: block 0 of the disk is block 3 of the file", check: []string{
				"risk: block table at byte 0x200: block 0 of the disk is block 3 of the file, which has 0 of its 4096 bytes",
				"leak: blocks at byte 0x4000",
			}},
		{name: "far past the end", off: 512, patch: []byte{0xfd, 0xff, 0xff, 0xff}, read: "block 4294967293 of the file",
			check: []string{
				"risk: block table at byte 0x200", "leak: blocks",
			}},
		{name: "cut in a block", cut: 100, read: "block 0 of the disk is block 2 of the file", check: []string{
			"risk: block table at byte 0x200: block 0 of the disk is block 2 of the file, which has 3996 of its 4096 bytes",
		}},
		{name: "cut before the blocks", cut: 3*4096 + 10, read: "block 0 of the disk", check: []string{
			"risk", "risk", "risk",
		}},
		{name: "junk at the end", cut: -5000, check: []string{"leak: blocks at byte 0x5000: 2 blocks"}},
		{name: "allocated too small", off: 388, patch: []byte{2}, check: []string{
			"risk: allocated count at byte 0x184: it is 2, but block 2 of the file is in use and may be overwritten",
		}},
		{name: "allocated too large", off: 388, patch: []byte{4}, check: []string{
			"note: allocated count at byte 0x184: it is 4, but 3 blocks are in use",
		}},
		{name: "allocated more than there are", off: 388, patch: []byte{6}, check: []string{
			"note: allocated count", "note: allocated count at byte 0x184: it is 6 of 5 blocks: VirtualBox refuses",
		}},
		{name: "flags", off: 80, patch: []byte{3}, check: []string{"note: header at byte 0x50: unknown flags 0x2"}},
		{name: "known flag", off: 80, patch: []byte{1}},
		{name: "no UUID", off: 392, patch: make([]byte, 16), check: []string{"note: header at byte 0x188: a UUID is zero"}},
		{name: "half a sector", off: 368, patch: []byte{0xff, 0x4f},
			check: []string{"note: header at byte 0x170: the disk of 20479 bytes"}},
		{name: "other sectors", off: 468, patch: []byte{0, 16},
			check: []string{"note: header at byte 0x1d4: sectors of 4096 bytes"}},
		{name: "a parent", off: 424, patch: []byte{1},
			check: []string{"risk: header at byte 0x1a8: the type is dynamic, but parent 00000001-0000"}},
		{name: "no parent", off: 76, patch: []byte{4},
			check: []string{"note: header at byte 0x1a8: the type is differencing, but no parent"}},
		{name: "smaller disk", off: 368, patch: []byte{0, 0x30},
			check: []string{"leak: block table at byte 0x200: 1 blocks are behind the end"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			b := base.bytes()
			copy(b[c.off:], c.patch)
			if c.cut > 0 {
				b = b[:len(b)-c.cut]
			} else {
				b = append(b, make([]byte, -c.cut)...)
			}
			err := formatstest.CheckOpen(t, vdi.Format{}, b, formats.OpenOptions{})
			switch {
			case c.read == "" && err != nil && !errors.Is(err, formats.ErrNoParent):
				t.Error(err)
			case c.read != "" && (!errors.Is(err, formats.ErrCorrupt) || !strings.Contains(err.Error(), c.read)):
				t.Errorf("%v, want %q", err, c.read)
			}
			got := formatstest.ProblemTexts(t, open(t, b))
			if len(got) != len(c.check) {
				t.Fatalf("%q, want %q", got, c.check)
			}
			for i, want := range c.check {
				if !strings.Contains(got[i], want) {
					t.Errorf("%q, want %q", got[i], want)
				}
			}
		})
	}
}

// What is there of a cut block is read.
func TestCutBlock(t *testing.T) {
	c := built{kind: 1, size: 3 * 4096, block: 4096, entries: []uint32{0, 1, 2}, slots: 3}
	b := c.bytes()
	d := formatstest.Disk(t, open(t, b[:len(b)-4096-1000]))
	got := make([]byte, 3*4096)
	n, err := d.ReadAt(got, 0)
	if n != 2*4096-1000 || !errors.Is(err, formats.ErrCorrupt) || !bytes.Equal(got[:n], c.disk()[:n]) {
		t.Errorf("%d bytes, %v", n, err)
	}
	if _, err := d.ReadAt(got[:1], 2*4096); !errors.Is(err, formats.ErrCorrupt) || !strings.Contains(err.Error(),
		"block 2 of the disk") {
		t.Error(err)
	}
}

// qemu-img finds the same counts wrong.
func TestCheckLikeQemu(t *testing.T) {
	formatstest.Tool(t, "qemu-img")
	c := built{kind: 1, size: 5 << 20, block: 1 << 20, data: 8192, entries: []uint32{2, free, 0, zero, 1}, slots: 3}
	for name, allocated := range map[string]int{"right": 3, "small": 1, "large": 5} {
		c.allocated = allocated
		b := c.bytes()
		le.PutUint32(b[360:], 512) // qemu wants it
		path := filepath.Join(t.TempDir(), "disk.vdi")
		if err := os.WriteFile(path, b, 0o600); err != nil {
			t.Fatal(err)
		}
		out := string(formatstest.Run(t, ".", "sh", "-c", "qemu-img check -f vdi "+path+" 2>&1 || true"))
		if clean, want := len(formatstest.ProblemTexts(t, open(t, b))) == 0, strings.Contains(out, "No errors"); clean != want {
			t.Errorf("%s: clean: %t, qemu says %s", name, clean, out)
		}
		formatstest.CheckDisk(t, formatstest.Disk(t, open(t, b)), formatstest.QemuRaw(t, "vdi", path))
	}
}

func TestEachBitOfTheHeader(t *testing.T) {
	for _, version := range []uint32{0x10001, 2} {
		c := built{version: version, kind: 4, size: 5 * 4096, block: 4096, entries: []uint32{2, free, 0, zero, 1}, slots: 3,
			link: true}
		b := c.bytes()
		for i := range 8 * (512 + 20) {
			b[i/8] ^= 1 << (i % 8)
			_ = formatstest.CheckOpen(t, vdi.Format{}, b, formats.OpenOptions{})
			b[i/8] ^= 1 << (i % 8)
		}
	}
}

func TestTruncatedAtEachStructure(t *testing.T) {
	for _, name := range []string{"dynamic.vdi", "fixed.vdi"} {
		b := formatstest.Golden(t, name)
		for _, at := range []int{0, 64, 68, 72, 420, 456, 472, 512, 512 + 16, 1024, 1024 + 1<<20, 1024 + 2<<20, len(b)} {
			for _, n := range []int{at - 1, at, at + 1} {
				if n >= 0 && n <= len(b) {
					err := formatstest.CheckOpen(t, vdi.Format{}, b[:n], formats.OpenOptions{})
					if n < len(b) && err == nil {
						t.Errorf("%s cut to %d bytes: no error", name, n)
					}
				}
			}
		}
	}
}

var freePage = bytes.Repeat([]byte{0xff}, 64<<10)

// huge is an image of a large disk: head, a map of nothing but one entry, and one
// block. It counts what is read.
type huge struct {
	head  []byte
	table int64 // where the map is
	end   int64 // and where it ends
	entry int64 // the offset of the entry that is 0
	size  int64
	read  int64
}

func (h *huge) Size() int64 { return h.size }

func (h *huge) ReadAt(p []byte, off int64) (int, error) {
	n := min(int64(len(p)), h.size-off)
	clear(p[:n])
	if off < int64(len(h.head)) {
		copy(p, h.head[off:])
	}
	for at := max(off, h.table); at < min(off+n, h.end); {
		at += int64(copy(p[at-off:min(n, h.end-off)], freePage))
	}
	for at := max(off, h.entry); at < min(off+n, h.entry+4); at++ {
		p[at-off] = 0
	}
	h.read += n
	if n < int64(len(p)) {
		return int(n), io.EOF
	}
	return int(n), nil
}

// A disk of 16 TiB with one block: opening reads the header only, and the map is
// read once.
func TestHuge(t *testing.T) {
	const blocks = 16 << 20
	h := &huge{head: built{kind: 1, size: 1 << 20, block: 1 << 20, entries: []uint32{0}}.bytes()[:472], table: 512,
		end: 512 + 4*blocks}
	le.PutUint64(h.head[368:], blocks<<20)
	le.PutUint32(h.head[384:], blocks)
	le.PutUint32(h.head[388:], 1)
	le.PutUint32(h.head[344:], 512+4*blocks)
	h.entry, h.size = 512+4*12345678, h.end+1<<20
	m, err := vdi.Format{}.Open(h, formats.OpenOptions{})
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
	if len(got) != 3 || got[1].Kind != formats.Data || got[1].Offset != 12345678<<20 || got[1].Host != h.end ||
		got[2].End() != 16<<40 {
		t.Errorf("%+v", got)
	}
	if h.read > h.end+1<<20 {
		t.Errorf("read %d bytes for a map of %d", h.read, h.end)
	}
	if list := formatstest.ProblemTexts(t, m); len(list) > 0 {
		t.Errorf("%q", list)
	}
}

// A check ends with its context.
func TestCheckIsCancelled(t *testing.T) {
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	err := open(t, formatstest.Golden(t, "dynamic.vdi")).Check(ctx, func(formats.Problem) {})
	if !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
}

// Many problems of one kind are summed up.
func TestManyProblems(t *testing.T) {
	m := open(t, built{kind: 1, size: 2000 * 512, block: 512, entries: slices.Repeat([]uint32{0, 7}, 1000),
		slots: 1}.bytes())
	list := formatstest.ProblemTexts(t, m)
	if len(list) != 100+100+1+1+1 || !strings.Contains(strings.Join(list, "\n"), fmt.Sprintf("%d blocks are used twice",
		999)) {
		t.Errorf("%d: %q", len(list), list[max(0, len(list)-4):])
	}
}

func FuzzOpen(f *testing.F) {
	formatstest.FuzzOpen(f, vdi.Format{}, [][]byte{
		built{kind: 4, size: 5*4096 - 512, block: 4096, entries: []uint32{2, free, 0, zero, 1}, slots: 3,
			link: true}.bytes(),
		built{kind: 1, size: 5 * 4096, block: 4096, extra: 512, entries: []uint32{2, free, 0, zero, 1}, slots: 3}.bytes(),
		built{version: 2, kind: 2, size: 3 * 512, block: 512, entries: []uint32{0, 1, 2}, slots: 3}.bytes(),
		formatstest.Golden(f, "dynamic.vdi"),
	}, nil)
}
