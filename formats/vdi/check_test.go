package vdi

import (
	"bytes"
	"context"
	"encoding/binary"
	"slices"
	"testing"

	"tarvm/formats"
	"tarvm/formats/internal/parse"
)

// A check in several passes finds what one pass finds.
func TestWindows(t *testing.T) {
	le := binary.LittleEndian
	entries := []uint32{5, 9, entryFree, 63, 64, 9, 5, 130, 65, entryZero, 200, 0, 130, 64}
	b := make([]byte, 512+150*512)
	for i, v := range entries {
		le.PutUint32(b[440+4*i:], v)
	}
	find := func(window int64) (list []string) {
		m := parse.Image{Source: bytes.NewReader(b), Format: Name}
		h := &header{
			kind: typeDynamic, table: 440, data: 512, block: 512,
			blocks: int64(len(entries)), size: int64(len(entries)) * 512, allocated: 150,
		}
		im := &image{header: h, Image: m, entries: &parse.Table{
			Name: "block table", Off: 440, Count: h.blocks, Width: 4, Order: le, Cache: parse.NewCache(m, 1),
		}}
		c := &checker{image: im, window: window, report: func(p formats.Problem) { list = append(list, p.String()) }}
		if err := c.run(context.Background()); err != nil {
			t.Fatal(err)
		}
		slices.Sort(list)
		return list
	}
	want := find(windowBits)
	if len(want) != 4+1+1+2 {
		t.Fatalf("%q", want)
	}
	for _, window := range []int64{1, 7, 64, 65, 149, 150, 151} {
		if got := find(window); !slices.Equal(got, want) {
			t.Errorf("%d at a time: %q\nwant %q", window, got, want)
		}
	}
}
