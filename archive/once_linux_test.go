package archive_test

import (
	"bytes"
	"context"
	"os"
	"path/filepath"
	"sync"
	"testing"

	"golang.org/x/sys/unix"

	"tarvm/archive"
	"tarvm/archive/archivetest"
	"tarvm/archive/vmdir"
	"tarvm/manifest"
)

// Packing reads each byte of data once, holes not at all, and changes nothing of what it reads: not even the times at
// which files were read last.
func TestReadsOnce(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "vm")
	tr := archivetest.New(t, dir, 12)
	writeFile(t, dir, "dense.img", noise(1, 9<<20+5))
	sparse(t, filepath.Join(dir, "sparse.img"), 64<<20, map[int64][]byte{5 << 20: noise(2, 70_000), 40 << 20: noise(3, 2<<20)})
	base := pack(t, dir, archive.PackOptions{})
	tr.Change(t)
	was := filepath.Join(t.TempDir(), "was")
	archivetest.Copy(t, dir, was)
	old := unix.Timespec{Sec: 1_000_000_000}
	var files []string
	mustDo(t, filepath.WalkDir(dir, func(p string, d os.DirEntry, err error) error {
		if err == nil && d.Type().IsRegular() {
			files = append(files, p)
			err = unix.UtimesNanoAt(unix.AT_FDCWD, p, []unix.Timespec{old, {Nsec: unix.UTIME_OMIT}}, 0)
		}
		return err
	}))
	for _, par := range []*archive.Manifest{nil, base.manifest(t)} {
		tree, err := archive.OpenDir(dir)
		mustDo(t, err)
		c := &countingTree{Tree: tree, read: make(map[manifest.Path]map[int64]int)}
		plan, err := archive.MakePlanOf(context.Background(), c, archive.PackOptions{Codec: codecNamed(t, "none"), Parent: par, Workers: 3})
		mustDo(t, err)
		clear(c.read) // a plan looks for the names of disks in configurations
		var out bytes.Buffer
		r, err := plan.Pack(context.Background(), &out, nil)
		mustDo(t, err)
		mustDo(t, plan.Close())
		count := 0
		for i := range r.Snapshot.Members {
			m := &r.Snapshot.Members[i]
			if m.Type != manifest.File {
				continue
			}
			count++
			var n int64
			for page, times := range c.read[m.Path] {
				if times != 1 {
					t.Errorf("increment %v: %s: what is at %d was read %d times", par != nil, m.Path, page*page4, times)
				}
				n += min(page4, m.Size-page*page4)
			}
			// Where a hole is smaller than a block, it is read with it.
			if data := m.Size - m.Holes; n < data || m.Size > 1<<20 && n > data+1<<20 {
				t.Errorf("increment %v: %s: %d bytes were read, it has %d", par != nil, m.Path, n, data)
			}
		}
		if count < 5 {
			t.Errorf("%d files", count)
		}
	}
	for _, p := range files {
		var st unix.Stat_t
		mustDo(t, unix.Lstat(p, &st))
		if st.Atim.Sec != old.Sec {
			t.Errorf("%s: it can be seen that it was read", p)
		}
	}
	same(t, was, dir)
}

const page4 = 4096

// A countingTree counts how often each page of a file is read.
type countingTree struct {
	archive.Tree
	mu   sync.Mutex
	read map[manifest.Path]map[int64]int
}

func (c *countingTree) Open(e *vmdir.Entry) (archive.TreeFile, error) {
	f, err := c.Tree.Open(e)
	return &countingFile{f, c, e.Path}, err
}

type countingFile struct {
	archive.TreeFile
	c    *countingTree
	path manifest.Path
}

func (f *countingFile) ReadAt(p []byte, off int64) (int, error) {
	n, err := f.TreeFile.ReadAt(p, off)
	f.c.mu.Lock()
	defer f.c.mu.Unlock()
	pages := f.c.read[f.path]
	if pages == nil {
		pages = make(map[int64]int)
		f.c.read[f.path] = pages
	}
	// A page counts for the read that has its first byte: blocks may begin between pages.
	for at := (off + page4 - 1) / page4; at*page4 < off+int64(n); at++ {
		pages[at]++
	}
	return n, err
}
