package archive_test

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"testing"

	"tarvm/archive"
	"tarvm/archive/archivetest"
	"tarvm/manifest"
)

// sparse makes a file of size bytes with data at the given offsets, and holes where the system has them.
func sparse(t testing.TB, path string, size int64, data map[int64][]byte) {
	t.Helper()
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o600)
	mustDo(t, err)
	mustDo(t, f.Truncate(size))
	for off, b := range data {
		_, err := f.WriteAt(b, off)
		mustDo(t, err)
	}
	mustDo(t, f.Close())
}

// Sizes around the limits: nothing, a block, what is read at once, what is stored whole in an increment; each
// dense, with a hole in front, behind, between, and with nothing else.
func TestSizes(t *testing.T) {
	archivetest.Tools(t, "python3", "tar")
	for _, block := range []int64{0, 4 << 10, 4 << 20} {
		if block != 0 && (testing.Short() || archivetest.Race) {
			continue
		}
		t.Run(fmt.Sprint(block), func(t *testing.T) {
			dir := filepath.Join(t.TempDir(), "vm")
			mustDo(t, os.Mkdir(dir, 0o755))
			for _, size := range []int64{0, 1, 511, 512, 4095, 4096, 4097, 8192, 65535, 65536, 65537, 200_000, 1<<20 - 1, 1 << 20, 1<<20 + 1, 4<<20 + 1} {
				writeFile(t, dir, fmt.Sprintf("%d-dense", size), noise(uint64(size), int(size)))
				sparse(t, filepath.Join(dir, fmt.Sprintf("%d-hole", size)), size, nil)
				if size < 8192 {
					continue
				}
				b := noise(uint64(size), 4096)
				last := size - 4096
				for name, d := range map[string]map[int64][]byte{
					"front":  {last: b},
					"behind": {0: b},
					"middle": {0: b, last: b},
					"around": {size / 2 &^ 4095: b[:1]},
					"many":   {0: b, size / 4 &^ 4095: b[:600], size / 2 &^ 4095: b, last: b[:4096]},
				} {
					sparse(t, filepath.Join(dir, fmt.Sprintf("%d-%s", size, name)), size, d)
				}
			}
			full := pack(t, dir, archive.PackOptions{Block: block})
			full.verify(t)
			out := filepath.Join(t.TempDir(), "out")
			restorePy(t, out, full)
			same(t, dir, out)
			file := filepath.Join(t.TempDir(), "a.tar")
			mustDo(t, os.WriteFile(file, full.data, 0o600))
			to := t.TempDir()
			command(t, to, "tar", "-xpf", file)
			mustDo(t, os.RemoveAll(filepath.Join(to, ".tarvm")))
			fixTop(t, dir, to)
			same(t, dir, to)

			// A byte more, a byte less, and another byte, of each.
			for i, m := range full.result.Snapshot.Members {
				if m.Type != manifest.File {
					continue
				}
				p := filepath.Join(dir, string(m.Path))
				switch i % 4 {
				case 0:
					mustDo(t, os.Truncate(p, m.Size+1))
				case 1:
					mustDo(t, os.Truncate(p, max(0, m.Size-1)))
				case 2:
					sparse(t, p, max(m.Size, 2), map[int64][]byte{m.Size / 2: {1, 2}})
				}
			}
			inc := pack(t, dir, archive.PackOptions{Parent: full.manifest(t)})
			inc.verify(t)
			out = filepath.Join(t.TempDir(), "out")
			restorePy(t, out, full, inc)
			same(t, dir, out)
		})
	}
}

// A plan is packed once: the second time there would be nothing in the archive.
func TestPackedOnce(t *testing.T) {
	dir := t.TempDir()
	writeFile(t, dir, "a", []byte("a"))
	plan, err := archive.MakePlan(context.Background(), dir, archive.PackOptions{Codec: codecNamed(t, "none")})
	mustDo(t, err)
	defer plan.Close()
	_, err = plan.Pack(context.Background(), io.Discard, nil)
	mustDo(t, err)
	var out bytes.Buffer
	if _, err := plan.Pack(context.Background(), &out, nil); err == nil || out.Len() > 0 {
		t.Errorf("again: %d bytes, %v", out.Len(), err)
	}
}
