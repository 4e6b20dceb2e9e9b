package vhdx_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"tarvm/formats"
	"tarvm/formats/formatstest"
	"tarvm/formats/vhdx"
)

// open opens an image in memory that must be whole.
func open(t testing.TB, b []byte) *formats.Image {
	t.Helper()
	m, err := vhdx.Format{}.Open(bytes.NewReader(b), formats.OpenOptions{})
	if err != nil {
		t.Fatal(err)
	}
	return m
}

// problems are those of opening and of the check, as text.
func problems(t testing.TB, m *formats.Image) (list []string) {
	t.Helper()
	note := func(p formats.Problem) {
		list = append(list, p.Severity.String()+" "+p.String())
	}
	for _, p := range m.Problems {
		note(p)
	}
	if err := m.Check(t.Context(), note); err != nil {
		t.Fatal(err)
	}
	return list
}

// sound demands that nothing is wrong with an image.
func sound(t testing.TB, m *formats.Image) {
	t.Helper()
	if list := problems(t, m); len(list) > 0 {
		t.Errorf("problems: %q", list)
	}
}

func readAll(t testing.TB, m *formats.Image) []byte {
	t.Helper()
	d := formatstest.Disk(t, m)
	b := make([]byte, d.Size())
	if _, err := io.ReadFull(io.NewSectionReader(d, 0, d.Size()), b); err != nil {
		t.Fatal(err)
	}
	return b
}

// Each subformat and block size that qemu writes, written to out of order. Qemu's
// own map of such an image is one run of data, and tells nothing.
func TestWhatQemuWrites(t *testing.T) {
	for _, c := range []struct{ options, size string }{
		{"", "100M"},
		{"block_size=1M", "20M"},
		{"block_size=1M", "5G"},
		{"block_size=2M,log_size=2M", "33M"},
		{"block_size=256M", "40M"},
		{"block_size=8M,block_state_zero=off", "70M"},
		{"subformat=fixed", "20M"},
		{"subformat=fixed,block_size=1M", "20971008"},
		{"block_size=1M", "20971008"},
		{"block_size=1M", "512"},
	} {
		t.Run(c.options+" "+c.size, func(t *testing.T) {
			formatstest.Tool(t, "qemu-img")
			dir := t.TempDir()
			args := []string{"create", "-q", "-f", "vhdx"}
			if c.options != "" {
				args = append(args, "-o", c.options)
			}
			formatstest.Run(t, dir, "qemu-img", append(args, "disk.vhdx", c.size)...)
			if c.size != "512" {
				cmd := []string{"-f", "vhdx"}
				places := []string{"14M", "0", "5177344", "9371648", "19M", "15M"}
				if c.size == "5G" {
					places = append(places, "4095M", "4097M", "4096M", "5119M")
				}
				for i, off := range places {
					cmd = append(cmd, "-c", fmt.Sprintf("write -P %d %s 64k", 0x11*(i+1), off))
				}
				if c.size != "5G" {
					cmd = append(cmd, "-c", "write -z 16M 2M")
				}
				formatstest.Run(t, dir, "qemu-io", append(cmd, "disk.vhdx")...)
			}
			path := filepath.Join(dir, "disk.vhdx")
			m := formatstest.OpenFile(t, vhdx.Format{}, path)
			d := formatstest.Disk(t, m)
			raw := formatstest.QemuRaw(t, "vhdx", path)
			if c.size == "5G" {
				checkPlaces(t, d, raw, []int64{0, 5177344, 9371648, 14 * mib, 15 * mib, 19 * mib, 4095 * mib, 4096 * mib,
					4097 * mib, 5119 * mib})
			} else {
				formatstest.CheckDisk(t, d, raw)
			}
			if strings.Contains(c.options, "fixed") {
				// Qemu gives a fixed disk its space, and then puts blocks behind it.
				if list := problems(t, m); len(list) != 1 || !strings.HasPrefix(list[0], "leak") {
					t.Errorf("problems: %q", list)
				}
				return
			}
			sound(t, m)
		})
	}
}

// checkPlaces compares 64 KiB at each place, and demands that nothing else is data.
func checkPlaces(t *testing.T, d formats.Disk, want formats.Source, places []int64) {
	t.Helper()
	for _, off := range places {
		a, b := make([]byte, 64<<10), make([]byte, 64<<10)
		_, err1 := d.ReadAt(a, off)
		_, err2 := want.ReadAt(b, off)
		if err1 != nil || err2 != nil || !bytes.Equal(a, b) || formats.IsZero(a) {
			t.Errorf("at %d: %v, %v", off, err1, err2)
		}
	}
	for _, e := range formatstest.CheckExtents(t, d) {
		near := func(off int64) bool { return off>>20 >= e.Offset>>20 && off < e.End() }
		if e.Kind == formats.Data && !slices.ContainsFunc(places, near) {
			t.Errorf("data where nobody wrote: %+v", e)
		}
	}
}

func TestOpenGolden(t *testing.T) {
	m := open(t, formatstest.Golden(t, "dynamic.vhdx"))
	formatstest.CheckDisk(t, formatstest.Disk(t, m), bytes.NewReader(make([]byte, 8<<20)))
	if len(m.ID) != 36 || m.Parent != nil || m.Header != golden {
		t.Errorf("%+v", m)
	}
	facts := map[string]string{}
	for _, f := range m.Facts {
		facts[f.Name] = f.Value
	}
	if facts["block size"] != "1048576" || facts["logical sector size"] != "512" || facts["log"] != "clean" ||
		!strings.HasPrefix(facts["creator"], "QEMU") {
		t.Errorf("facts %q", facts)
	}
	sound(t, m)
}

// Every state, sector size and a size that is not a multiple of the block.
func TestStates(t *testing.T) {
	for _, sector := range []uint32{512, 4096} {
		for _, blockSize := range []int64{mib, 2 * mib} {
			d := &disk{size: 9*blockSize - 3*4096, block: blockSize, sector: sector, blocks: map[int64]block{
				1: {state: 1}, 2: {state: 2}, 3: {state: 3}, 4: {state: 6, data: noise(4, int(blockSize))},
				5: {state: 6, data: noise(5, int(blockSize))}, 8: {state: 6, data: noise(8, int(blockSize))},
			}}
			want := make([]byte, 9*blockSize)
			for i, x := range d.blocks {
				copy(want[i*blockSize:], x.data)
			}
			m := open(t, d.make())
			sound(t, m)
			disk := formatstest.Disk(t, m)
			formatstest.CheckDisk(t, disk, bytes.NewReader(want[:d.size]))
			var kinds []string
			for _, e := range formatstest.CheckExtents(t, disk) {
				kinds = append(kinds, fmt.Sprintf("%v %d+%d", e.Kind, e.Offset/blockSize, (e.Length+blockSize-1)/blockSize))
			}
			if got := strings.Join(kinds, ", "); got != "hole 0+1, zero 1+3, data 4+2, hole 6+2, data 8+1" {
				t.Errorf("sectors of %d: %s", sector, got)
			}
		}
	}
}

// The interleaved entries of sector bitmap blocks must be stepped over.
func TestChunks(t *testing.T) {
	const ratio = 4096 // blocks of 1 MiB, sectors of 512 bytes
	d := &disk{size: (2*ratio + 3) * mib, block: mib, blocks: map[int64]block{}}
	for _, i := range []int64{0, ratio - 1, ratio, ratio + 1, 2*ratio - 1, 2 * ratio, 2*ratio + 2} {
		d.blocks[i] = block{state: 6, data: noise(int(i), 4096)}
	}
	m := open(t, d.make())
	sound(t, m)
	disk := formatstest.Disk(t, m)
	for i, x := range d.blocks {
		b := make([]byte, 4096)
		if _, err := disk.ReadAt(b, i*mib); err != nil || !bytes.Equal(b, x.data) {
			t.Errorf("block %d: %v", i, err)
		}
	}
	formatstest.CheckExtents(t, disk)
}

// A differencing disk: what is partly present, and what is the parent's.
func TestDifferencing(t *testing.T) {
	for _, sector := range []uint32{512, 4096} {
		parent := &disk{size: 10 * mib, block: 2 * mib, sector: sector, dataWrite: 0xAB, blocks: map[int64]block{}}
		for i := range int64(4) {
			parent.blocks[i] = block{state: 6, data: noise(int(i)+100, 2*mib)}
		}
		per := mib / int64(sector)
		all := make([]int64, per)
		for i := range all {
			all[i] = int64(i)
		}
		child := &disk{size: 12 * mib, block: mib, sector: sector, flags: 2, blocks: map[int64]block{
			0: {state: 7, data: noise(0, mib), sectors: []int64{0, 1, 2, 7, 8, 9, per - 1}},
			1: {state: 7, data: noise(1, mib)},               // nothing is present
			2: {state: 7, data: noise(2, mib), sectors: all}, // all is
			3: {state: 6, data: noise(3, mib)},
			4: {state: 2}, 5: {state: 3}, 6: {state: 1},
			9:  {state: 7, data: noise(9, mib), sectors: []int64{3, 4, 5, 6, 31}},
			10: {state: 7, data: noise(10, mib), sectors: []int64{1}},
		}, locator: []string{
			"parent_linkage", "{abababab-abab-abab-abab-abababababab}", "absolute_win32_path", `\\?\C:\vm\p.vhdx`,
			"relative_path", `..\p.vhdx`, "volume_path", `\\?\Volume{x}\vm\p.vhdx`, "parent_linkage2", "{2}",
		}}
		want := make([]byte, child.size)
		for i, x := range parent.blocks {
			copy(want[i*parent.block:], x.data)
		}
		for i, x := range child.blocks {
			b := want[i*mib:][:mib]
			switch {
			case x.state == 6:
				copy(b, x.data)
			case x.state < 6:
				clear(b)
			}
			for _, s := range x.sectors {
				copy(b[s*int64(sector):][:sector], x.data[s*int64(sector):])
			}
		}
		base, top := open(t, parent.make()), open(t, child.make())
		sound(t, base)
		sound(t, top)
		p := top.Parent
		if p == nil || p.ID != base.ID || p.Format != "vhdx" ||
			strings.Join(p.Names, " ") != `..\p.vhdx \\?\Volume{x}\vm\p.vhdx \\?\C:\vm\p.vhdx` || top.ParentHint != p.Names[0] {
			t.Errorf("parent %+v, its ID %s", p, base.ID)
		}
		formatstest.CheckDisk(t, formatstest.Disk(t, top, base), bytes.NewReader(want))
		// Alone it must not read as if it were whole.
		if _, err := formatstest.Disk(t, top).ReadAt(make([]byte, 4096), 7*mib); !errors.Is(err, formats.ErrNoParent) {
			t.Errorf("without its parent: %v", err)
		}
		if sector != 512 {
			continue
		}
		t.Run("libvhdi", func(t *testing.T) {
			dir := t.TempDir()
			a, b := filepath.Join(dir, "p.vhdx"), filepath.Join(dir, "c.vhdx")
			// Its parents must not be shorter, and it shows them through blocks
			// that are zero.
			long, plain := *parent, *child
			long.size, plain.blocks = child.size, maps.Clone(child.blocks)
			maps.DeleteFunc(plain.blocks, func(_ int64, x block) bool { return x.state < 6 })
			for path, d := range map[string]*disk{a: &long, b: &plain} {
				if err := os.WriteFile(path, d.make(), 0o600); err != nil {
					t.Fatal(err)
				}
			}
			formatstest.CheckDisk(t, formatstest.Disk(t, open(t, plain.make()), open(t, long.make())),
				formatstest.LibyalRaw(t, "pyvhdi", b, a))
		})
	}
}

// Each bit of headers, region tables and metadata flipped in turn.
func TestBitFlips(t *testing.T) {
	formatstest.OneGoroutine(t)
	b := (&disk{size: 4*mib + 512, block: mib, flags: 2, locator: []string{"relative_path", "p", "parent_linkage", "{x}"},
		blocks: map[int64]block{0: {state: 7, data: noise(1, 4096), sectors: []int64{1, 2}}, 3: {state: 6}}}).make()
	flip := func(from, n int64, seal bool) {
		for i := from * 8; i < (from+n)*8; i++ {
			b[i/8] ^= 1 << (i % 8)
			if seal {
				fix(b)
			}
			_ = formatstest.CheckOpen(t, vhdx.Format{}, b, formats.OpenOptions{})
			b[i/8] ^= 1 << (i % 8)
		}
		fix(b)
	}
	flip(0, 8, false)
	flip(128<<10, 80, false)
	flip(128<<10+8, 72, true)
	flip(192<<10, 80, false)
	flip(192<<10+8, 72, true)
	flip(genMeta, 32+32*6, false)
	flip(genMeta+64<<10, 100, false)
	flip(genBAT, 8*5, false)
	flip(genBAT+8*4096, 8, false)
}

func TestCutAtEachStructure(t *testing.T) {
	d := &disk{size: 4 * mib, block: mib, flags: 2, locator: []string{"relative_path", "p"}, blocks: map[int64]block{
		0: {state: 7, data: noise(1, mib), sectors: []int64{0, 2000}}, 1: {state: 6, data: noise(2, mib)},
	}}
	b := d.make()
	for _, at := range []int{0, 8, 64 << 10, 128 << 10, 192 << 10, 256 << 10, mib, 2 * mib, 3 * mib, 3*mib + 64<<10,
		4 * mib, 5 * mib, 6 * mib, 7 * mib} {
		for _, n := range []int{at - 1, at, at + 1, at + 4096} {
			if n < 0 || n > len(b) {
				continue
			}
			err := formatstest.CheckOpen(t, vhdx.Format{}, b[:n], formats.OpenOptions{})
			switch {
			case n < 8 && !errors.Is(err, formats.ErrNotFormat),
				n >= 8 && n < len(b) && !errors.Is(err, formats.ErrCorrupt) && !errors.Is(err, formats.ErrNoParent),
				n == len(b) && err != nil:
				t.Errorf("cut at %d: %v", n, err)
			}
		}
	}
	// What is there can be read.
	m := open(t, b[:6*mib+4096])
	got := make([]byte, 4096)
	if _, err := formatstest.Disk(t, m).ReadAt(got, mib); err != nil || !bytes.Equal(got, noise(2, 4096)) {
		t.Errorf("the block's part before the cut: %v", err)
	}
	if _, err := formatstest.Disk(t, m).ReadAt(got, mib+1); !errors.Is(err, formats.ErrCorrupt) {
		t.Errorf("over the cut: %v", err)
	}
}

func TestDamagedBAT(t *testing.T) {
	d := &disk{size: 6 * mib, block: mib, flags: 2, locator: []string{"relative_path", "p", "parent_linkage", "{x}"},
		blocks: map[int64]block{
			0: {state: 7, data: noise(1, mib), sectors: []int64{0}}, 1: {state: 6, data: noise(2, mib)}, 2: {state: 6,
				data: noise(3, mib)},
		}}
	good := d.make()
	for _, c := range []struct {
		name  string
		at    int64
		entry uint64
		read  string // of guest block 1 or, with a bitmap, 0; empty: it can be read
		check string
	}{
		{"in the header section", d.batAt(1), 6, "lies in the header section",
			"risk BAT at byte 0x200008: payload block 1 at 0x0 lies in the header section"},
		{"in the log", d.batAt(1), genLog | 6, "lies in the log", "lies in the log"},
		{"in the BAT", d.batAt(1), genBAT | 6, "lies in the BAT", "lies in the BAT"},
		{"in the metadata", d.batAt(1), genMeta | 6, "lies in the metadata region", "lies in the metadata region"},
		{"behind the end", d.batAt(1), 1<<30 | 6, "passes end of file",
			"risk BAT at byte 0x200008: payload block 1 at 0x40000000 passes end of file"},
		{"at 2^48 and more", d.batAt(1), 1<<63 | 6, "2^48", "2^48"},
		{"state 4", d.batAt(1), 4, "state 4", "state 4"},
		{"state 5", d.batAt(1), 5, "", "note BAT at byte 0x200008: payload block 1 in state 5"},
		{"reserved bits", d.batAt(1), le.Uint64(good[d.batAt(1):]) | 0x80, "", "reserved bits"},
		{"used twice", d.batAt(1), le.Uint64(good[d.batAt(2):]), "",
			"risk BAT at byte 0x200010: payload block 2 at 0x700000 lies where another block does"},
		{"lost", d.batAt(1), 0, "parent needed", "leak file at byte 0x600000: 1 MiB are not in use"},
		{"unmapped with its space", d.batAt(1), le.Uint64(good[d.batAt(1):])&^7 | 3, "", ""},
		{"no bitmap", d.bitmapAt(0), 0, "sector bitmap block of chunk 0, which is needed",
			"risk BAT at byte 0x208000: payload block 0 is partly present, and its sector bitmap block is missing"},
		{"bitmap in state 7", d.bitmapAt(0), 7, "sector bitmap block of chunk 0, which is needed", "is missing"},
		{"bitmap in the BAT", d.bitmapAt(0), genBAT | 6, "lies in the BAT",
			"risk BAT at byte 0x208000: sector bitmap block 0"},
		{"bitmap behind the end", d.bitmapAt(0), 1<<30 | 6, "passes end of file", "passes end of file"},
		{"bitmap where a block is", d.bitmapAt(0), le.Uint64(good[d.batAt(2):]), "parent needed",
			"risk BAT at byte 0x208000: sector bitmap block 0 at 0x700000 lies where another block does"},
	} {
		t.Run(c.name, func(t *testing.T) {
			b := bytes.Clone(good)
			le.PutUint64(b[c.at:], c.entry)
			_ = formatstest.CheckOpen(t, vhdx.Format{}, b, formats.OpenOptions{})
			m := open(t, b)
			list := problems(t, m)
			if all := strings.Join(list, "\n"); c.check == "" && len(list) > 0 || !strings.Contains(all, c.check) {
				t.Errorf("check says %q, want %q", all, c.check)
			}
			off := int64(mib)
			if c.at == d.bitmapAt(0) {
				off = 0
			}
			_, err := formatstest.Disk(t, m).ReadAt(make([]byte, 512), off)
			if (err == nil) != (c.read == "") || err != nil && !strings.Contains(err.Error(), c.read) {
				t.Errorf("read says %v, want %q", err, c.read)
			}
		})
	}
}

// A BAT without one good entry is reported, but not entry by entry.
func TestManyProblems(t *testing.T) {
	d := &disk{size: 5000 * mib, block: mib, blocks: map[int64]block{}}
	for i := range int64(5000) {
		d.blocks[i] = block{state: 4}
	}
	m := open(t, d.make())
	list := problems(t, m)
	if n := len(list); n != 1001 || list[n-1] != "risk BAT at byte 0x200000: 4000 more problems of this kind" {
		t.Errorf("%d problems, the last %s", n, list[n-1])
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := m.Check(ctx, func(formats.Problem) {}); !errors.Is(err, context.Canceled) {
		t.Errorf("stopped: %v", err)
	}
}

// Without a parent nobody reads the entries of sector bitmap blocks.
func TestUnusedBitmapEntries(t *testing.T) {
	d := &disk{size: 5000 * mib, block: mib, blocks: map[int64]block{4095: {state: 6, data: noise(1, 4096)}}}
	b := d.make()
	copy(b[d.bitmapAt(0):][:8], b[d.batAt(4095):])
	list := problems(t, open(t, b))
	if len(list) != 1 || !strings.HasPrefix(list[0], "note BAT at byte 0x208000: sector bitmap block 0 in state 6") {
		t.Errorf("%q", list)
	}
}

func TestDamagedStructures(t *testing.T) {
	d := &disk{size: 6 * mib, block: mib, blocks: map[int64]block{1: {state: 6, data: noise(2, mib)}}}
	good := d.make()
	entry := func(group uint32) int64 { return entry(t, good, group) }
	item := func(group uint32) int64 { return genMeta + int64(le.Uint32(good[entry(group)+16:])) }
	u32 := func(v uint32) []byte { return le.AppendUint32(nil, v) }
	for _, c := range []struct {
		name  string
		at    int64
		patch []byte
		fix   bool
		open  error
		says  string // of the error, or of the check
	}{
		{"first header", 64<<10 + 99, []byte{1}, false, nil, "note header at byte 0x10000: the checksum is wrong"},
		{"second header", 128<<10 + 99, []byte{1}, false, nil, "note header at byte 0x20000: the checksum is wrong"},
		{"first region table", 192<<10 + 99, []byte{1}, false, nil,
			"note region table at byte 0x30000: the checksum is wrong"},
		{"second region table", 256<<10 + 99, []byte{1}, false, nil,
			"note region table at byte 0x40000: the checksum is wrong"},
		{"region tables differ", 256<<10 + 99, []byte{1}, true, nil,
			"risk region table at byte 0x40000: differs from the copy at byte 0x30000"},
		{"like numbers", 128<<10 + 8, []byte{7}, true, nil,
			"note headers at byte 0x10000: both copies have sequence number 7"},
		{"like numbers, and they differ", 128<<10 + 8, []byte{7, 0, 0, 0, 0, 0, 0, 0, 5}, true, formats.ErrCorrupt,
			"they differ"},
		{"version", 128<<10 + 66, []byte{2}, true, formats.ErrUnsupported, "version"},
		{"no log", 128<<10 + 68, make([]byte, 12), true, nil, "note header at byte 0x20044: no place for a log"},
		{"log over the BAT", 128<<10 + 72, u32(genBAT), true, nil, "risk BAT at byte 0x200000: overlaps the log"},
		{"two BATs", 192<<10 + 48, []byte{0x66, 0x77, 0xC2, 0x2D, 0x23, 0xF6, 0x00, 0x42, 0x9D, 0x64, 0x11, 0x5E, 0x9B,
			0xFD, 0x4A, 0x08}, true, formats.ErrCorrupt, "a second BAT"},
		{"metadata over the BAT", 192<<10 + 64, u32(genBAT), true, formats.ErrCorrupt, "signature"},
		{"short BAT", 192<<10 + 40, u32(40), true, formats.ErrCorrupt, "BAT at byte 0x200000: 5 entries, 6 blocks need 6"},
		{"no logical sector", entry(0x8141BF1D), []byte{0xff}, false, formats.ErrUnsupported, "required item"},
		{"logical sector of 513 bytes", item(0x8141BF1D), u32(513), false, formats.ErrCorrupt, "logical sector size"},
		{"physical sector of 513 bytes", item(0xCDA348C7), u32(513), false, nil, "note physical sector size"},
		{"optional unknown item", entry(0xBECA12AB) + 24, []byte{1}, false, formats.ErrUnsupported, ""},
		{"disk of 65 TiB", item(0x2FA54224), []byte{0, 0, 0, 0, 0, 0x41}, false, formats.ErrCorrupt, "disk size"},
		{"disk of half sectors", item(0x2FA54224), u32(6*mib - 100), false, nil, "not a multiple of the sector"},
		{"item in the table", entry(0x2FA54224) + 16, u32(32), false, formats.ErrCorrupt, "disk size"},
		{"items overlap", entry(0xBECA12AB) + 16, u32(64<<10 + 4), false, nil, "overlaps the metadata item"},
		{"item twice", entry(0xBECA12AB), good[entry(0x2FA54224):][:16], false, formats.ErrCorrupt, "a second item"},
		{"more items than there are", genMeta + 10, []byte{0xff, 0x07}, false, formats.ErrCorrupt, "a second item"},
		{"parent without a locator", item(0xCAA16737) + 4, []byte{2}, false, nil, "risk parent locator"},
	} {
		t.Run(c.name, func(t *testing.T) {
			b := bytes.Clone(good)
			copy(b[c.at:], c.patch)
			if strings.HasPrefix(c.name, "item twice") {
				b[entry(0xBECA12AB)+24] = 6
			}
			if c.fix {
				fix(b)
			}
			if c.name == "optional unknown item" {
				// The same GUID as the user's is another item.
				b[entry(0xBECA12AB)+24] = 5
			}
			err := formatstest.CheckOpen(t, vhdx.Format{}, b, formats.OpenOptions{})
			if c.open != nil || err != nil && !errors.Is(err, formats.ErrNoParent) {
				if !errors.Is(err, c.open) || !strings.Contains(fmt.Sprint(err), c.says) {
					t.Errorf("%v, want %v, %q", err, c.open, c.says)
				}
				return
			}
			list := problems(t, open(t, b))
			if all := strings.Join(list, "\n"); !strings.Contains(all, c.says) {
				t.Errorf("check says %q, want %q", all, c.says)
			}
		})
	}
}

// sparse is a long file that is zero where it has no pages.
type sparse struct {
	size  int64
	pages map[int64][]byte // of 64 KiB
	most  int64            // bytes of the largest read
}

func (s *sparse) Size() int64 { return s.size }

func (s *sparse) ReadAt(p []byte, off int64) (int, error) {
	s.most = max(s.most, int64(len(p)))
	for n := 0; n < len(p); {
		page, at := (off+int64(n))>>16, (off+int64(n))&0xffff
		dst := p[n:][:min(len(p)-n, int(65536-at))]
		clear(dst)
		if b := s.pages[page]; b != nil {
			copy(dst, b[at:])
		}
		n += len(dst)
	}
	return len(p), nil
}

// A disk of 64 TiB, nearly empty, is opened, mapped and checked by small reads.
func TestLargest(t *testing.T) {
	d := &disk{size: 1 << 30, block: mib}
	head := d.make()
	const batLen = 513 * mib // 64 Mi blocks and their bitmaps
	copy(head[entryItem(t, head, 0x2FA54224):], []byte{0, 0, 0, 0, 0, 0x40, 0, 0})
	for i := range 2 {
		le.PutUint32(head[192<<10+64<<10*i+40:], batLen)
		le.PutUint64(head[192<<10+64<<10*i+32:], genFirst)
	}
	fix(head)
	s := &sparse{size: genFirst + batLen + mib, pages: map[int64][]byte{}}
	for i := 0; i < genFirst; i += 65536 {
		s.pages[int64(i>>16)] = head[i:][:65536]
	}
	last := make([]byte, 65536)
	const blocks = 64 << 20
	entry := int64(blocks-1+(blocks-1)/4096)*8 + genFirst
	le.PutUint64(last[entry&0xffff:], uint64(genFirst+batLen)|6)
	s.pages[entry>>16] = last
	s.pages[(genFirst+batLen)>>16] = bytes.Repeat([]byte{7}, 65536)
	m, err := vhdx.Format{}.Open(s, formats.OpenOptions{})
	if err != nil {
		t.Fatal(err)
	}
	x, err := m.Map.MapAt(64<<40 - 1)
	if err != nil || x.Kind != formats.Data || x.Host != genFirst+batLen || x.End() != 64<<40 {
		t.Errorf("last block: %+v, %v", x, err)
	}
	runs := 0
	for e, err := range formatstest.Disk(t, m).Extents(60<<40, 4<<40) {
		if err != nil {
			t.Fatal(err)
		}
		runs++
		if e.Kind != formats.Hole && e.Offset != 64<<40-mib {
			t.Errorf("%+v", e)
		}
	}
	if runs != 2 || s.most > mib {
		t.Errorf("%d runs, reads of up to %d bytes", runs, s.most)
	}
	if testing.Short() {
		return
	}
	sound(t, m)
}

// entryItem returns the file offset of a metadata item.
func entryItem(t *testing.T, b []byte, group uint32) int64 {
	return metadata(t, b) + int64(le.Uint32(b[entry(t, b, group)+16:]))
}

func FuzzOpen(f *testing.F) {
	diff := &disk{size: 5*mib + 512, block: mib, flags: 2, locator: []string{"relative_path", "p", "parent_linkage",
		"{x}"},
		blocks: map[int64]block{0: {state: 7, data: noise(1, 4096), sectors: []int64{1, 2, 9}}, 3: {state: 6}}}
	dirty, _ := dirtyLogs()["several entries"].images()
	formatstest.FuzzOpen(f, vhdx.Format{}, [][]byte{formatstest.Golden(f, "dynamic.vhdx"), diff.make(), dirty}, fixAll)
}

// fixAll repairs the checksums of log entries, too.
func fixAll(b []byte) {
	fix(b)
	for at := genLog; at+4096 <= min(len(b), genBAT); at += 4096 {
		if e := b[at:]; string(e[:4]) == "loge" {
			if n := int(le.Uint32(e[8:])); n >= 4096 && n <= len(e) {
				sealed(e[:n])
			}
		}
	}
}
