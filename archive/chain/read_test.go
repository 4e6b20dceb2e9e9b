package chain

import (
	"bytes"
	"errors"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"sync"
	"testing"
)

// TestReadTogether: several goroutines read what they like of one File, whole blocks and parts of them, into buffers
// that held something else.
func TestReadTogether(t *testing.T) {
	h := newHistory(t, 7, 3, "zstd")
	c := h.chain(t, 3)
	for i := range c.Snapshot(2).Members {
		m := &c.Snapshot(2).Members[i]
		if m.Type != "file" || m.Size == 0 {
			continue
		}
		f, err := c.Open(2, m.Path)
		if err != nil {
			t.Fatal(err)
		}
		want, err := os.ReadFile(filepath.Join(h.states[2], string(m.Path)))
		if err != nil {
			t.Fatal(err)
		}
		var wg sync.WaitGroup
		for g := range 4 {
			wg.Go(func() {
				rnd := rand.New(rand.NewPCG(uint64(g), 7))
				p := bytes.Repeat([]byte{0xa5}, 1<<20)
				for range 20 {
					off := rnd.Int64N(m.Size)
					if rnd.IntN(2) == 0 {
						off &^= 64<<10 - 1
					}
					b := p[:1+rnd.IntN(len(p))]
					n, err := f.ReadAt(b, off)
					end := min(off+int64(len(b)), m.Size)
					if err != nil && (!errors.Is(err, io.EOF) || n == len(b)) || !bytes.Equal(b[:n], want[off:end]) {
						t.Errorf("%s at %d: %d of %d bytes, %v, or other bytes", m.Path, off, n, len(b), err)
						return
					}
				}
			})
		}
		wg.Wait()
	}
}
