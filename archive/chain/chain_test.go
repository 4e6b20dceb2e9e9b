package chain

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"testing"
	"time"

	"tarvm/archive"
	"tarvm/archive/archivetest"
	"tarvm/archive/codec"
	codecs "tarvm/archive/codec/all"
	disks "tarvm/formats/all"
)

// bg is the context of tests.
var bg = context.Background()

// day is the time of files whose times do not matter.
var day = time.Unix(1_700_000_000, 0)

type packOptions struct {
	codec  string
	parent *archive.Manifest
	block  int64
}

// pack packs dir into memory and opens the archive, and the manifest beside it.
func pack(t testing.TB, dir string, o packOptions) (*archive.Archive, *archive.Manifest, []byte) {
	t.Helper()
	if o.codec == "" {
		o.codec = "lz4"
	}
	c := codec.ByName(codecs.Codecs(), o.codec)
	plan, err := archive.MakePlan(bg, dir, archive.PackOptions{
		Codec: c, Name: filepath.Base(dir), Parent: o.parent, Formats: disks.Disks(), Block: o.block, Workers: 2,
	})
	if err != nil {
		t.Fatal(err)
	}
	defer plan.Close()
	var out, side bytes.Buffer
	if _, err := plan.Pack(bg, &out, &side); err != nil {
		t.Fatal(err)
	}
	a := open(t, out.Bytes())
	m, err := archive.OpenManifest(bytes.NewReader(side.Bytes()))
	if err != nil {
		t.Fatal(err)
	}
	return a, m, out.Bytes()
}

func open(t testing.TB, b []byte) *archive.Archive {
	t.Helper()
	a, err := archive.Open(bytes.NewReader(b), codecs.Codecs())
	if err != nil {
		t.Fatal(err)
	}
	return a
}

// history is a VM directory that lived on: a chain of archives, a copy of each state.
type history struct {
	archs  []*archive.Archive
	raw    [][]byte
	states []string
	sides  []*archive.Manifest
}

func newHistory(t testing.TB, seed uint64, n int, codecName string, prepare ...func(dir string)) *history {
	t.Helper()
	h := &history{}
	base := t.TempDir()
	dir := filepath.Join(base, "vm")
	tr := archivetest.New(t, dir, seed)
	for i := range n {
		if i > 0 {
			tr.Change(t)
		}
		for _, f := range prepare {
			f(dir)
		}
		o := packOptions{codec: codecName}
		if i > 0 {
			o.parent = h.sides[i-1]
		}
		a, m, b := pack(t, dir, o)
		state := filepath.Join(base, fmt.Sprint("state", i))
		archivetest.Copy(t, dir, state)
		h.archs = append(h.archs, a)
		h.sides = append(h.sides, m)
		h.raw = append(h.raw, b)
		h.states = append(h.states, state)
	}
	return h
}

func (h *history) chain(t testing.TB, n int) *Chain {
	t.Helper()
	c, err := New(h.archs[:n])
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func same(t testing.TB, want, got string) {
	t.Helper()
	for i, d := range archivetest.Diff(want, got) {
		if i > 20 {
			break
		}
		t.Error(d)
	}
}

func TestRead(t *testing.T) {
	h := newHistory(t, 1, 4, "lz4")
	c := h.chain(t, 4)
	for k := range c.Len() {
		for i := range c.Snapshot(k).Members {
			m := &c.Snapshot(k).Members[i]
			if m.Type != "file" {
				continue
			}
			f, err := c.Open(k, m.Path)
			if err != nil {
				t.Fatal(err)
			}
			got, err := io.ReadAll(io.NewSectionReader(f, 0, f.Size()))
			if err != nil {
				t.Fatalf("entry %d, %s: %v", k, m.Path, err)
			}
			want, err := os.ReadFile(filepath.Join(h.states[k], string(m.Path)))
			if err != nil {
				t.Fatal(err)
			}
			if !bytes.Equal(got, want) {
				t.Fatalf("entry %d, %s: other bytes", k, m.Path)
			}
		}
	}
}

func TestRestoreEmpty(t *testing.T) {
	for _, name := range []string{"none", "lz4", "zstd"} {
		t.Run(name, func(t *testing.T) {
			h := newHistory(t, 2, 4, name)
			c := h.chain(t, 4)
			for k := range c.Len() {
				dir := filepath.Join(t.TempDir(), "out")
				if _, err := Restore(bg, c, k, dir, RestoreOptions{}); err != nil {
					t.Fatal(err)
				}
				same(t, h.states[k], dir)
			}
		})
	}
}

func TestRestoreOver(t *testing.T) {
	h := newHistory(t, 3, 4, "lz4")
	c := h.chain(t, 4)
	for from := range c.Len() {
		for to := range c.Len() {
			dir := filepath.Join(t.TempDir(), "out")
			archivetest.Copy(t, h.states[from], dir)
			r, err := Restore(bg, c, to, dir, RestoreOptions{})
			if err != nil {
				t.Fatalf("%d to %d: %v", from, to, err)
			}
			same(t, h.states[to], dir)
			if from == to && (r.Written != 0 || len(r.Fetched) != 0) {
				t.Errorf("%d to itself: %+v", from, r)
			}
		}
	}
}
