package xva_test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"testing"

	"tarvm/formats"
	"tarvm/ovf/xva"
)

// An efiVariable is one in a store.
type efiVariable struct {
	name, data, guid, time string
	state                  byte
	attributes             uint32
}

// store is a file of OVMF's. Names are in UTF-16, without their ends.
func store(list ...efiVariable) []byte {
	le := binary.LittleEndian
	b := make([]byte, 72)
	copy(b[40:], "_FVH")
	le.PutUint16(b[48:], 72)
	store := []byte{0x78, 0x2c, 0xf3, 0xaa, 0x7b, 0x94, 0x9a, 0x43, 0xa1, 0x80, 0x2e, 0x14, 0x4e, 0xc3, 0x77, 0x92}
	store = le.AppendUint32(store, 0)
	store = append(store, 0x5a, 0xfe, 0, 0, 0, 0, 0, 0)
	for _, v := range list {
		h := make([]byte, 60)
		le.PutUint16(h, 0x55aa)
		h[2] = v.state
		le.PutUint32(h[4:], v.attributes)
		copy(h[16:], v.time)
		le.PutUint32(h[36:], uint32(len(v.name)+2))
		le.PutUint32(h[40:], uint32(len(v.data)))
		copy(h[44:], v.guid)
		h = append(append(append(h, v.name...), 0, 0), v.data...)
		for len(h)%4 != 0 {
			h = append(h, 0xff)
		}
		store = append(store, h...)
	}
	for range 100 {
		store = append(store, 0xff)
	}
	le.PutUint32(store[16:], uint32(len(store)))
	return append(b, store...)
}

// flash has three variables: one in use, one deleted, one volatile.
func flash() []byte {
	var list []efiVariable
	for _, v := range []struct {
		name, data string
		state      byte
		attributes uint32
	}{{"Boot0000", "entry", 0x3f, 7}, {"Gone", "x", 0x3c, 7}, {"Volatile", "y", 0x3f, 6}} {
		var name []byte
		for _, c := range v.name {
			name = append(name, byte(c), 0)
		}
		list = append(list, efiVariable{string(name), v.data, "guid of sixteen.", "time of sixteen.", v.state, v.attributes})
	}
	return store(list...)
}

// varstored reads what varstored reads: magic, version, count, and that many variables with nothing left.
func varstored(b []byte) (list []efiVariable, ok bool) {
	le := binary.LittleEndian
	if len(b) < 24 || string(b[:4]) != "VARS" || le.Uint32(b[4:]) != 1 || le.Uint64(b[16:]) != uint64(len(b)-24) {
		return nil, false
	}
	n := le.Uint64(b[8:])
	b = b[24:]
	for range n {
		v := efiVariable{state: 0x3f}
		for _, text := range []*string{&v.name, &v.data} {
			if len(b) < 8 || le.Uint64(b) == 0 || le.Uint64(b) > uint64(len(b)-8) {
				return nil, false
			}
			end := 8 + le.Uint64(b)
			*text, b = string(b[8:end]), b[end:]
		}
		if len(b) < 68 {
			return nil, false
		}
		v.guid, v.attributes, v.time = string(b[:16]), le.Uint32(b[16:]), string(b[20:36])
		b = b[68:]
		list = append(list, v)
	}
	return list, len(b) == 0
}

func TestOVMFVariables(t *testing.T) {
	out, err := xva.OVMFVariables(flash())
	if err != nil {
		t.Fatal(err)
	}
	if list, ok := varstored(out); len(list) != 1 || !ok {
		t.Errorf("%d variables, %v: %q", len(list), ok, out)
	}
	want := []byte("\x10\x00\x00\x00\x00\x00\x00\x00B\x00o\x00o\x00t\x000\x000\x000\x000\x00\x05\x00\x00\x00\x00\x00\x00\x00entry" +
		"guid of sixteen.\x07\x00\x00\x00time of sixteen.")
	if !bytes.Equal(out[24:], append(want, make([]byte, 32)...)) {
		t.Errorf("%q", out)
	}
	for name, c := range map[string]struct {
		change func(b []byte) []byte
		want   error
	}{
		"empty":            {func(b []byte) []byte { return nil }, formats.ErrNotFormat},
		"no volume":        {func(b []byte) []byte { b[40] = 'x'; return b }, formats.ErrNotFormat},
		"other store":      {func(b []byte) []byte { b[72] = 0; return b }, formats.ErrUnsupported},
		"header behind":    {func(b []byte) []byte { b[49] = 0xff; return b }, formats.ErrCorrupt},
		"store behind":     {func(b []byte) []byte { b[90] = 0xff; return b }, formats.ErrCorrupt},
		"store of 3 bytes": {func(b []byte) []byte { copy(b[88:], []byte{3, 0, 0, 0}); return b }, formats.ErrCorrupt},
		"name behind":      {func(b []byte) []byte { b[100+39] = 0xff; return b }, formats.ErrCorrupt},
		"data behind":      {func(b []byte) []byte { b[100+43] = 0xff; return b }, formats.ErrCorrupt},
		"too much": {func(b []byte) []byte {
			big := append(b[:100:100], b[100:160]...)
			binary.LittleEndian.PutUint32(big[140:], 200_000)
			big = append(big, make([]byte, 300_000)...)
			binary.LittleEndian.PutUint32(big[88:], uint32(len(big)-72))
			big[160] = 'n'
			return big
		}, formats.ErrUnsupported},
	} {
		if _, err := xva.OVMFVariables(c.change(flash())); !errors.Is(err, c.want) {
			t.Errorf("%s: %v, want %v", name, err, c.want)
		}
	}
}
