package vhdx_test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"hash/crc32"
	"testing"
	"unicode/utf16"

	"tarvm/formats"
	"tarvm/formats/formatstest"
	"tarvm/formats/vhdx"
)

var golden = formats.Header{Format: "vhdx", Subformat: "dynamic", VirtualSize: 8 << 20, Unit: 1 << 20}

func TestGolden(t *testing.T) {
	h, err := formatstest.CheckProbe(t, vhdx.Format{}, formatstest.Golden(t, "dynamic.vhdx"))
	if err != nil || *h != golden {
		t.Errorf("%+v, %v, want %+v", h, err, golden)
	}
}

func TestTruncated(t *testing.T) {
	formatstest.CheckTruncated(t, vhdx.Format{}, formatstest.Golden(t, "dynamic.vhdx"))
}

// fix repairs the checksums of headers and region tables.
func fix(b []byte) {
	for _, s := range [][2]int{{64 << 10, 4 << 10}, {128 << 10, 4 << 10}, {192 << 10, 64 << 10}, {256 << 10, 64 << 10}} {
		if s[0]+s[1] > len(b) {
			return
		}
		x := b[s[0]:][:s[1]]
		clear(x[4:8])
		binary.LittleEndian.PutUint32(x[4:], crc32.Checksum(x, crc32.MakeTable(crc32.Castagnoli)))
	}
}

// metadata returns the file offset of the metadata region, by the region table.
func metadata(t *testing.T, b []byte) int64 {
	for i := range 2 {
		e := b[192<<10+16+32*i:]
		if bytes.HasPrefix(e, []byte{0x06, 0xA2, 0x7C, 0x8B}) {
			return int64(binary.LittleEndian.Uint64(e[16:]))
		}
	}
	t.Fatal("no metadata region")
	return 0
}

// entry returns the file offset of the metadata table's entry whose GUID starts
// with the given group.
func entry(t *testing.T, b []byte, group uint32) int64 {
	at := metadata(t, b)
	for i := range int64(16) {
		if off := at + 32 + 32*i; binary.LittleEndian.Uint32(b[off:]) == group {
			return off
		}
	}
	t.Fatalf("no metadata item %x", group)
	return 0
}

func TestDamage(t *testing.T) {
	b := formatstest.Golden(t, "dynamic.vhdx")
	ff := []byte{0xff, 0xff, 0xff, 0xff}
	formatstest.CheckDamage(t, vhdx.Format{}, b, nil, []formatstest.Damage{
		formatstest.Patch("magic", 0, []byte{0}, formats.ErrNotFormat, ""),
		formatstest.Patch("first header", 64<<10+100, ff, nil, ""),
		formatstest.Patch("second header", 128<<10+100, ff, nil, ""),
		formatstest.Patch("first region table", 192<<10+1000, ff, nil, ""),
		formatstest.Patch("second region table", 256<<10+1000, ff, nil, ""),
		formatstest.Patch("both headers", 64<<10, make([]byte, 128<<10), formats.ErrCorrupt, "neither copy"),
		formatstest.Patch("both region tables", 192<<10, make([]byte, 128<<10), formats.ErrCorrupt, "neither copy"),
	})
	meta := metadata(t, b)
	parameters, size := entry(t, b, 0xCAA16737), entry(t, b, 0x2FA54224)
	item := func(at int64) int64 { return meta + int64(binary.LittleEndian.Uint32(b[at+16:])) }
	formatstest.CheckDamage(t, vhdx.Format{}, b, fix, []formatstest.Damage{
		formatstest.Patch("regions", 192<<10+8, ff, formats.ErrCorrupt, "region table at byte 0x30008"),
		formatstest.Patch("unknown required region", 192<<10+16, append(bytes.Repeat([]byte{0xff}, 28), 1), formats.ErrUnsupported, "required region"),
		formatstest.Patch("unknown region", 192<<10+16, bytes.Repeat([]byte{0xfe}, 32), formats.ErrCorrupt, "no BAT"),
		formatstest.Patch("region past the end", 192<<10+16+22, []byte{1}, formats.ErrCorrupt, "region of"),
		formatstest.Patch("region at 2^63", 192<<10+16+23, []byte{0x80}, formats.ErrCorrupt, "region of"),
		formatstest.Patch("region unaligned", 192<<10+16+16, []byte{1}, formats.ErrCorrupt, "region of"),
		formatstest.Patch("long region", 192<<10+16+24, ff, formats.ErrCorrupt, "region of"),
		formatstest.Patch("no regions", 192<<10+8, []byte{0}, formats.ErrCorrupt, "no BAT"),
		formatstest.Patch("metadata signature", meta, []byte{0}, formats.ErrCorrupt, "signature"),
		formatstest.Patch("metadata entries", meta+10, ff[:2], formats.ErrCorrupt, "entries"),
		formatstest.Patch("no metadata", meta+10, []byte{0, 0}, formats.ErrCorrupt, "no file parameters"),
		formatstest.Patch("unknown required item", parameters, []byte{1}, formats.ErrUnsupported, "required item"),
		formatstest.Patch("item past the region", size+16, ff, formats.ErrCorrupt, "disk size"),
		formatstest.Patch("short item", size+20, []byte{1}, formats.ErrCorrupt, "disk size"),
		formatstest.Patch("block size 0", item(parameters), []byte{0, 0, 0, 0}, formats.ErrCorrupt, "block size"),
		formatstest.Patch("block size 512 MiB", item(parameters), []byte{0, 0, 0, 0x20}, formats.ErrCorrupt, "block size"),
		formatstest.Patch("disk of 2^63", item(size)+7, []byte{0x80}, formats.ErrCorrupt, "disk size"),
	})
	both := bytes.Clone(b)
	for _, at := range []int{64 << 10, 128 << 10} {
		both[at+66] = 2
	}
	fix(both)
	if _, err := formatstest.CheckProbe(t, vhdx.Format{}, both); !errors.Is(err, formats.ErrUnsupported) {
		t.Errorf("version 2: %v", err)
	}
}

func TestSubformat(t *testing.T) {
	for flags, want := range []string{"dynamic", "fixed", "differencing", "differencing"} {
		b := formatstest.Golden(t, "dynamic.vhdx")
		e := entry(t, b, 0xCAA16737)
		b[metadata(t, b)+int64(binary.LittleEndian.Uint32(b[e+16:]))+4] = byte(flags)
		h, err := formatstest.CheckProbe(t, vhdx.Format{}, b)
		if err != nil || h.Subformat != want {
			t.Errorf("flags %d: %+v, %v, want %s", flags, h, err, want)
		}
	}
}

// withLocator adds a parent locator of the given keys and values.
func withLocator(t *testing.T, kv ...string) []byte {
	b := formatstest.Golden(t, "dynamic.vhdx")
	meta := metadata(t, b)
	var head, text []byte
	le := binary.LittleEndian
	textAt := 20 + 12*len(kv)/2
	put := func(s string) (off uint32, n uint16) {
		off = uint32(textAt + len(text))
		for _, c := range utf16.Encode([]rune(s)) {
			text = le.AppendUint16(text, c)
		}
		return off, uint16(textAt + len(text) - int(off))
	}
	for i := 0; i < len(kv); i += 2 {
		ko, kn := put(kv[i])
		vo, vn := put(kv[i+1])
		head = le.AppendUint32(head, ko)
		head = le.AppendUint32(head, vo)
		head = le.AppendUint16(head, kn)
		head = le.AppendUint16(head, vn)
	}
	item := make([]byte, 20)
	le.PutUint16(item[18:], uint16(len(kv)/2))
	item = append(append(item, head...), text...)

	const at = 512 << 10 // within the metadata region, behind what qemu put there
	copy(b[meta+at:], item)
	count := le.Uint16(b[meta+10:])
	le.PutUint16(b[meta+10:], count+1)
	e := b[meta+32+32*int64(count):]
	copy(e, []byte{0x2D, 0x5F, 0xD3, 0xA8, 0x0B, 0xB3, 0x4D, 0x45, 0xAB, 0xF7, 0xD3, 0xD8, 0x48, 0x34, 0xAB, 0x0C})
	le.PutUint32(e[16:], at)
	le.PutUint32(e[20:], uint32(len(item)))
	le.PutUint32(e[24:], 4)
	return b
}

func TestParentLocator(t *testing.T) {
	for _, c := range []struct {
		kv   []string
		want string
	}{
		{[]string{"parent_linkage", "{x}", "relative_path", `..\p.vhdx`, "absolute_win32_path", `\\?\C:\p.vhdx`}, `..\p.vhdx`},
		{[]string{"absolute_win32_path", `C:\größe.vhdx`, "parent_linkage", "{x}"}, `C:\größe.vhdx`},
		{[]string{"relative_path", "", "absolute_win32_path", `C:\p.vhdx`}, `C:\p.vhdx`},
		{[]string{"parent_linkage", "{x}"}, ""},
		{nil, ""},
	} {
		h, err := formatstest.CheckProbe(t, vhdx.Format{}, withLocator(t, c.kv...))
		if err != nil || h.ParentHint != c.want {
			t.Errorf("%q: %+v, %v, want %q", c.kv, h, err, c.want)
		}
	}
}

// A locator whose strings lie outside of it names nobody.
func TestParentLocatorHostile(t *testing.T) {
	b := withLocator(t, "relative_path", "p.vhdx")
	at := metadata(t, b) + 512<<10
	for _, p := range []struct {
		off int64
		b   []byte
	}{{20, []byte{0xff, 0xff, 0xff, 0xff}}, {24, []byte{0xff, 0xff, 0xff, 0xff}}, {30, []byte{0xff, 0xff}}, {18, []byte{0, 0}}} {
		c := bytes.Clone(b)
		copy(c[at+p.off:], p.b)
		h, err := formatstest.CheckProbe(t, vhdx.Format{}, c)
		if err != nil || h.ParentHint != "" {
			t.Errorf("%+v: %+v, %v", p, h, err)
		}
	}
}

func FuzzProbe(f *testing.F) {
	formatstest.FuzzProbe(f, vhdx.Format{}, [][]byte{formatstest.Golden(f, "dynamic.vhdx")}, fix)
}
