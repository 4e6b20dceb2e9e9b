package chain

import (
	"bytes"
	"math/rand/v2"
	"os"
	"path/filepath"
	"sync/atomic"
	"testing"

	"tarvm/archive"
	codecs "tarvm/archive/codec/all"
)

// A long chain costs what a full archive costs: each block is read once, from the newest archive that has it, however
// often it was written before; what the target holds is not read; and a block by itself is read without the rest.
func TestCost(t *testing.T) {
	const size, block, links = 8 << 20, 64 << 10, 12
	dir := filepath.Join(t.TempDir(), "vm")
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	disk := make([]byte, size)
	random := rand.NewChaCha8([32]byte{47})
	random.Read(disk)
	var read atomic.Int64
	var archs []*archive.Archive
	var stored int64
	o := packOptions{codec: "none"}
	for i := range links {
		if i > 0 { // the first half each time, and one more block
			random.Read(disk[:size/2])
			random.Read(disk[size/2+i*block:][:block])
		}
		if err := os.WriteFile(filepath.Join(dir, "disk.img"), disk, 0o600); err != nil {
			t.Fatal(err)
		}
		_, m, b := pack(t, dir, o)
		o.parent = m
		stored += int64(len(b))
		a, err := archive.Open(&countingSource{bytes.NewReader(b), &read}, codecs.Codecs())
		if err != nil {
			t.Fatal(err)
		}
		archs = append(archs, a)
	}
	c, err := New(archs)
	if err != nil {
		t.Fatal(err)
	}
	if stored < 5*size {
		t.Fatalf("the chain has %d bytes", stored)
	}
	costs := func(what string, most int64, do func() error) {
		t.Helper()
		read.Store(0)
		if err := do(); err != nil {
			t.Fatalf("%s: %v", what, err)
		}
		if n := read.Load(); n > most {
			t.Errorf("%s: %d bytes of the archives were read, more than %d", what, n, most)
		}
	}
	to := filepath.Join(t.TempDir(), "out")
	var r *RestoreResult
	costs("restoring the last of the chain", size*11/10, func() (err error) {
		r, err = Restore(bg, c, links-1, to, RestoreOptions{NoSync: true})
		return err
	})
	same(t, dir, to)
	var fetched int64
	for _, f := range r.Fetched {
		fetched += f.Bytes
	}
	if fetched > size*11/10 {
		t.Errorf("%d bytes were fetched: %+v", fetched, r.Fetched)
	}
	costs("restoring what is there", 1<<20, func() error {
		_, err := Restore(bg, c, links-1, to, RestoreOptions{NoSync: true})
		return err
	})
	// Two entries back: the half that differs, and two blocks.
	costs("restoring over a descendant", size*6/10, func() error {
		_, err := Restore(bg, c, links-3, to, RestoreOptions{NoSync: true})
		return err
	})
	got := make([]byte, block)
	for _, off := range []int64{0, size/2 + 5*block, size - block} {
		costs("reading a block", 1<<20, func() error {
			f, err := c.Open(links-1, "disk.img")
			if err != nil {
				return err
			}
			_, err = f.ReadAt(got, off)
			return err
		})
		if !bytes.Equal(got, disk[off:][:block]) {
			t.Errorf("the block at %d is another one", off)
		}
	}
}

// countingSource counts the bytes that are read.
type countingSource struct {
	*bytes.Reader
	n *atomic.Int64
}

func (s *countingSource) ReadAt(p []byte, off int64) (int, error) {
	n, err := s.Reader.ReadAt(p, off)
	s.n.Add(int64(n))
	return n, err
}
