package vhdx_test

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"tarvm/formats"
	"tarvm/formats/formatstest"
	"tarvm/formats/vhdx"
)

// A dirty is an image whose log is in use.
type dirty struct {
	disk disk
	log  []byte
	want []*logEntry // to be replayed
	// notQemu says why qemu 7.2 is no judge; empty: it is.
	notQemu string
}

// put makes entries at a sector of the log, one after the other.
func (d *dirty) put(at int64, entries ...*logEntry) int64 {
	for _, e := range entries {
		e.guid = 0x77
		at = putLog(d.log, at, e.make())
	}
	return at
}

// images returns the image with its log in use, and as it is after the replay.
func (d *dirty) images() (before, after []byte) {
	d.disk.logGUID, d.disk.log = 0x77, d.log
	before = d.disk.make()
	after = bytes.Clone(before)
	for _, e := range d.want {
		after = e.apply(after)
	}
	return before, cleaned(after)
}

// batSector is a sector of the BAT that puts blocks from the first on at places
// of the file.
func batSector(places ...int64) []byte {
	b := make([]byte, 4096)
	for i, p := range places {
		if p != 0 {
			le.PutUint64(b[8*i:], uint64(p)|6)
		}
	}
	return b
}

// dirtyLogs are logs in use. The disk has 8 blocks of 1 MiB, of which 0 and 2 are
// in the file, at 4 and 5 MiB.
func dirtyLogs() map[string]*dirty {
	made := func() *dirty {
		return &dirty{
			disk: disk{size: 8 * mib, block: mib, blocks: map[int64]block{
				0: {state: 6, data: noise(1, mib)}, 2: {state: 6, data: noise(2, mib)},
			}},
			log: make([]byte, mib),
		}
	}
	const p0, p2, p3, p4, end = 4 * mib, 5 * mib, 6 * mib, 7 * mib, 8 * mib
	data := func(off int64, b []byte) write { return write{off: off, data: b} }
	all := map[string]*dirty{}

	one := made()
	one.want = []*logEntry{{sequence: 5, flushed: p3, last: p3, writes: []write{data(p0+8192, noise(7, 4096))}}}
	one.put(0, one.want...)
	all["one entry"] = one

	grow := made()
	grow.want = []*logEntry{
		{sequence: 1, flushed: p3, last: p4, writes: []write{data(genBAT, batSector(p0, 0, p2, p3))}},
		{sequence: 2, flushed: p3, last: p4, writes: []write{data(p3, noise(8, 4096)), data(p3+4096, noise(9, 4096)),
			{off: p0, zero: 128 << 10}}},
		{sequence: 3, flushed: p3, last: end, writes: []write{
			data(p3, noise(10, 4096)), data(p0+64<<10, noise(11, 4096)), data(genBAT, batSector(p0, 0, p2, p3, p4)),
			{off: p3 + 4096, zero: 8192}, data(p4+mib-4096, noise(12, 4096)),
		}},
	}
	grow.put(0, grow.want...)
	all["several entries"] = grow

	wrapped := made()
	const near = 256 - 4
	wrapped.want = []*logEntry{
		{sequence: 1<<32 - 1, tail: near, flushed: p3, last: p4, writes: []write{data(genBAT, batSector(p0, 0, p2, p3)),
			data(p3, noise(20, 4096))}},
		{sequence: 1 << 32, tail: near, flushed: p3, last: p4, writes: []write{data(p3+4096, noise(21, 4096)),
			data(p3+8192, noise(22, 4096)), {off: p2, zero: 4096}}},
		{sequence: 1<<32 + 1, tail: near, flushed: p3, last: p4, writes: []write{data(p0, noise(23, 4096))}},
	}
	wrapped.put(near, wrapped.want...)
	wrapped.notQemu = "it takes the part of a sequence behind the wrap for a sequence"
	all["around the end"] = wrapped

	torn := made()
	torn.want = []*logEntry{
		{sequence: 9, tail: 10, flushed: p3, last: p3, writes: []write{data(p0, noise(30, 4096))}},
		{sequence: 10, tail: 10, flushed: p3, last: p3, writes: []write{data(p2, noise(31, 4096))}},
	}
	at := torn.put(10, torn.want...)
	lost := &logEntry{sequence: 11, tail: 10, flushed: p3, last: p3, writes: []write{data(p0, noise(32, 4096)), data(p2,
		noise(33, 4096))}}
	torn.put(at, lost)
	clear(torn.log[(at+2)*4096:][:4096]) // its last data sector was not written
	all["torn last entry"] = torn

	// Entries before the tail were flushed: replaying them would undo others.
	flushed := made()
	old := &logEntry{sequence: 3, tail: 0, flushed: p3, last: p3, writes: []write{data(p0, noise(40, 4096)), data(p2,
		noise(41, 4096))}}
	flushed.want = []*logEntry{{sequence: 4, tail: 3, flushed: p3, last: p3, writes: []write{data(p0, noise(42, 4096))}}}
	flushed.put(flushed.put(0, old), flushed.want...)
	flushed.notQemu = "it replays entries that lie before the tail"
	all["tail behind older entries"] = flushed

	// Two sequences: the one with the greater number counts, wherever it lies.
	two := made()
	stale := &logEntry{sequence: 50, tail: 100, flushed: p3, last: p3, writes: []write{data(p2, noise(50, 4096))}}
	two.want = []*logEntry{{sequence: 60, tail: 20, flushed: p3, last: p3, writes: []write{data(p0, noise(51, 4096))}}}
	two.put(100, stale)
	two.put(20, two.want...)
	all["older sequence behind"] = two

	// A sequence whose tail is gone is not valid; an older one that is whole is.
	gone := made()
	gone.want = []*logEntry{{sequence: 2, tail: 0, flushed: p3, last: p3, writes: []write{data(p0, noise(60, 4096))}}}
	at = gone.put(0, gone.want...)
	gone.put(at+5, &logEntry{sequence: 9, tail: at + 3, flushed: p3, last: p3, writes: []write{data(p2, noise(61, 4096))}})
	gone.notQemu = "it does not look for the tail"
	all["newer sequence without its tail"] = gone

	// Entries of an earlier use of the log do not count.
	other := made()
	other.want = []*logEntry{{sequence: 2, tail: 0, flushed: p3, last: p3, writes: []write{data(p0, noise(62, 4096))}}}
	at = other.put(0, other.want...)
	foreign := logEntry{sequence: 3, tail: 0, guid: 0x78, flushed: p3, last: p3, writes: []write{data(p2, noise(63,
		4096))}}
	putLog(other.log, at, foreign.make())
	all["entry of another log"] = other

	nothing := made()
	nothing.want = []*logEntry{{sequence: 2, flushed: p3, last: p3}}
	nothing.put(0, nothing.want...)
	all["entry without writes"] = nothing

	// Descriptors that fill more than one sector.
	many := &logEntry{sequence: 2, flushed: p3, last: p3}
	for i := range 130 {
		w := data(p0+int64(i)*4096, noise(100+i, 4096))
		if i%3 == 0 {
			w = write{off: w.off, zero: 4096}
		}
		many.writes = append(many.writes, w)
	}
	more := made()
	more.want = []*logEntry{many}
	more.put(0, many)
	more.notQemu = "it reads each descriptor sector over the one before"
	all["many descriptors"] = more
	return all
}

// What is read is what the file holds after its log was replayed.
func TestLogReplay(t *testing.T) {
	for name, d := range dirtyLogs() {
		t.Run(name, func(t *testing.T) {
			before, after := d.images()
			m, clean := open(t, before), open(t, after)
			sound(t, clean)
			if len(m.Problems) != 1 || m.Problems[0].Severity != formats.Note ||
				!strings.Contains(m.Problems[0].Text, fmt.Sprintf("in use: %d entries", len(d.want))) {
				t.Errorf("problems %v", m.Problems)
			}
			if list := problems(t, m); len(list) != 1 {
				t.Errorf("problems %q", list)
			}
			want := readAll(t, clean)
			formatstest.CheckDisk(t, formatstest.Disk(t, m), bytes.NewReader(want))
			if _, err := formatstest.CheckProbe(t, vhdx.Format{}, before); err != nil {
				t.Error(err)
			}
			// The file as Files has it is that after the replay, but for the log.
			if m.Files[0].Size() != int64(len(after)) {
				t.Errorf("file of %d bytes, want %d", m.Files[0].Size(), len(after))
			}
			b := make([]byte, len(after)-genBAT)
			if _, err := m.Files[0].ReadAt(b, genBAT); err != nil || !bytes.Equal(b, after[genBAT:]) {
				t.Errorf("the file after the replay: %v", err)
			}
			t.Run("qemu", func(t *testing.T) {
				if d.notQemu != "" {
					t.Skip(d.notQemu)
				}
				formatstest.Tool(t, "qemu-img")
				path := filepath.Join(t.TempDir(), "disk.vhdx")
				if err := os.WriteFile(path, before, 0o600); err != nil {
					t.Fatal(err)
				}
				formatstest.Run(t, filepath.Dir(path), "qemu-img", "check", "-r", "all", "-f", "vhdx", path)
				formatstest.CheckDisk(t, formatstest.Disk(t, m), formatstest.QemuRaw(t, "vhdx", path))
			})
		})
	}
}

// The log may hold metadata: here the disk grows.
func TestLogHoldsMetadata(t *testing.T) {
	d := &dirty{disk: disk{size: 4 * mib, block: mib, blocks: map[int64]block{0: {state: 6, data: noise(1, mib)}}},
		log: make([]byte, mib)}
	clean := d.disk.make()
	items := bytes.Clone(clean[genMeta+64<<10:][:4096])
	le.PutUint64(items[8:], 6*mib)
	d.put(0, &logEntry{sequence: 1, flushed: 5 * mib, last: 5 * mib, writes: []write{{off: genMeta + 64<<10,
		data: items}}})
	before, _ := d.images()
	h, err := formatstest.CheckProbe(t, vhdx.Format{}, before)
	if err != nil || h.VirtualSize != 6*mib {
		t.Errorf("%+v, %v", h, err)
	}
	if m := open(t, before); m.Map.Size() != 6*mib || m.VirtualSize != 6*mib {
		t.Errorf("%+v", m.Header)
	}
	// Probe does not read a log of 2 MiB, and says nothing of what it may hold.
	for i := range 2 {
		le.PutUint32(before[64<<10*(i+1)+68:], 2*mib)
	}
	fix(before)
	h, err = formatstest.CheckProbe(t, vhdx.Format{}, before)
	if err != nil || *h != (formats.Header{Format: "vhdx", Unit: mib}) {
		t.Errorf("large log: %+v, %v", h, err)
	}
}

func TestDamagedLog(t *testing.T) {
	before, _ := dirtyLogs()["one entry"].images()
	u32 := func(v uint32) []byte { return le.AppendUint32(nil, v) }
	for _, c := range []struct {
		name  string
		at    int64
		patch []byte
		seal  int64 // bytes of the entry whose checksum is repaired
		want  error
		says  string
	}{
		{"checksum", genLog + 100, []byte{1}, 0, formats.ErrCorrupt,
			"log at byte 0x100000: in use, and without a valid sequence"},
		{"file cut", genLog + 48, u32(64 * mib), 8192, formats.ErrCorrupt,
			"the file had 67108864 bytes at least, and has 6291456"},
		{"long file", genLog + 56, bytes.Repeat([]byte{0xff}, 8), 8192, formats.ErrCorrupt, "log at byte 0x100038"},
		{"tail outside", genLog + 12, u32(mib), 8192, formats.ErrCorrupt, "without a valid sequence"},
		{"tail elsewhere", genLog + 12, u32(8192), 8192, formats.ErrCorrupt, "without a valid sequence"},
		{"tail unaligned", genLog + 12, u32(1), 8192, formats.ErrCorrupt, "without a valid sequence"},
		{"number 0", genLog + 16, make([]byte, 8), 8192, formats.ErrCorrupt, "without a valid sequence"},
		{"many descriptors", genLog + 24, u32(0xffffffff), 8192, formats.ErrCorrupt, "without a valid sequence"},
		{"no length", genLog + 8, u32(0), 8192, formats.ErrCorrupt, "without a valid sequence"},
		{"great length", genLog + 8, u32(0xfffff000), 8192, formats.ErrCorrupt, "without a valid sequence"},
		{"descriptor's signature", genLog + 64, []byte("what"), 8192, formats.ErrCorrupt, "without a valid sequence"},
		{"descriptor's number", genLog + 64 + 24, []byte{9}, 8192, formats.ErrCorrupt, "without a valid sequence"},
		{"descriptor's place", genLog + 64 + 16, []byte{9}, 8192, formats.ErrCorrupt, "without a valid sequence"},
		{"place at 2^63", genLog + 64 + 23, []byte{0x80}, 8192, formats.ErrCorrupt, "without a valid sequence"},
		{"data's number", genLog + 4096 + 4, []byte{9}, 8192, formats.ErrCorrupt, "without a valid sequence"},
		{"data's signature", genLog + 4096, []byte("what"), 8192, formats.ErrCorrupt, "without a valid sequence"},
		{"log's version", 128<<10 + 64, []byte{1}, 0, formats.ErrUnsupported, "log version"},
		{"log outside", 128<<10 + 72, u32(64 * mib), 0, formats.ErrCorrupt, "log at byte 0x20044"},
		{"no length of the log", 128<<10 + 68, u32(0), 0, formats.ErrCorrupt, "log at byte 0x20044"},
	} {
		t.Run(c.name, func(t *testing.T) {
			b := bytes.Clone(before)
			copy(b[c.at:], c.patch)
			if c.seal > 0 {
				sealed(b[genLog:][:c.seal])
			}
			fix(b)
			err := formatstest.CheckOpen(t, vhdx.Format{}, b, formats.OpenOptions{})
			if !errors.Is(err, c.want) || !strings.Contains(fmt.Sprint(err), c.says) {
				t.Errorf("%v, want %v, %q", err, c.want, c.says)
			}
			if _, err := formatstest.CheckProbe(t, vhdx.Format{}, b); !errors.Is(err, c.want) {
				t.Errorf("Probe: %v", err)
			}
		})
	}
}

// A log made to be slow: every sector may begin an entry as long as the log.
func TestHostileLog(t *testing.T) {
	d := dirtyLogs()["one entry"]
	b := make([]byte, mib)
	for i := 0; i < mib; i += 4096 {
		e := b[i:]
		copy(e, "loge")
		le.PutUint32(e[8:], mib)
		le.PutUint64(e[16:], 1)
		copy(e[32:], bytes.Repeat([]byte{0x77}, 16))
	}
	d.log = b
	before, _ := d.images()
	if err := formatstest.CheckOpen(t, vhdx.Format{}, before, formats.OpenOptions{}); !errors.Is(err, formats.ErrCorrupt) {
		t.Error(err)
	}
	// One entry of nothing but zero descriptors that overlap.
	e := &logEntry{sequence: 1, flushed: 6 * mib, last: 6 * mib}
	for i := range int64(32000) {
		e.writes = append(e.writes, write{off: 4*mib + i*4096, zero: (32001 - i) * 8192})
	}
	d.log = make([]byte, mib)
	d.put(0, e)
	before, _ = (&dirty{disk: d.disk, log: d.log}).images()
	if err := formatstest.CheckOpen(t, vhdx.Format{}, before, formats.OpenOptions{}); err != nil {
		t.Error(err)
	}
}

// A log as qemu leaves it when it cannot write to the BAT.
func TestLogThatQemuLeaves(t *testing.T) {
	formatstest.Tool(t, "qemu-io")
	dir := t.TempDir()
	path := filepath.Join(dir, "disk.vhdx")
	formatstest.Run(t, dir, "qemu-img", "create", "-q", "-f", "vhdx", "-o", "block_size=1M", path, "16M")
	formatstest.Run(t, dir, "qemu-io", "-f", "vhdx", "-c", "write -P 1 5M 64k", path)
	// The BAT is at 2 MiB, sector 4096.
	image := `json:{"driver":"vhdx","file":{"driver":"blkdebug","image":{"driver":"file","filename":"disk.vhdx"},` +
		`"inject-error":[{"event":"none","iotype":"write","errno":5,"sector":4096}]}}`
	cmd := exec.Command("qemu-io", "-c", "write -P 0x5a 3M 64k", image)
	cmd.Dir = dir
	out, _ := cmd.CombinedOutput() // it fails, as it must
	before, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	m := open(t, before)
	if len(m.Problems) != 1 || !strings.Contains(m.Problems[0].Text, "in use: 1 entries with 1 writes") {
		t.Errorf("problems %v; qemu-io says %s", m.Problems, out)
	}
	b := make([]byte, 64<<10)
	if _, err := formatstest.Disk(t, m).ReadAt(b, 3*mib); err != nil || !bytes.Equal(b, bytes.Repeat([]byte{0x5a},
		len(b))) {
		t.Errorf("what the log says was written: %x, %v", b[:16], err)
	}
	formatstest.Run(t, dir, "qemu-img", "check", "-r", "all", "-f", "vhdx", path)
	formatstest.CheckDisk(t, formatstest.Disk(t, m), formatstest.QemuRaw(t, "vhdx", path))
}
