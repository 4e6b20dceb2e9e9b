// Package archivetest makes VM directories for tests, lets them live on, and compares them by what the
// file system says, with no code that packing and restoring use.
package archivetest

import (
	"bytes"
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"sort"
	"strings"
	"testing"
	"time"
)

// A Tree is a directory with a virtual machine's kind of files, and a history that only the seed decides.
type Tree struct {
	Dir string
	r   *rand.Rand
	n   int
	now time.Time
}

// New makes a directory with a sparse disk, a memory image that mirrors parts of it, configuration, logs, links, and
// some small files with unusual names.
func New(t testing.TB, dir string, seed uint64) *Tree {
	t.Helper()
	tr := &Tree{Dir: dir, r: rand.New(rand.NewPCG(seed, 7)), now: time.Unix(1_700_000_000, 123456789)}
	tr.must(t, os.MkdirAll(dir, 0o755))
	tr.must(t, os.MkdirAll(tr.path("logs/old"), 0o750))
	tr.disk(t, "disk.img", 3<<20+tr.r.Int64N(1<<20))
	disk, err := os.ReadFile(tr.path("disk.img"))
	tr.must(t, err)
	mem := make([]byte, 2<<20)
	for p := 0; p < len(mem); p += 4096 {
		switch tr.r.IntN(4) {
		case 0:
			o := tr.r.IntN(len(disk)/4096) * 4096
			copy(mem[p:], disk[o:min(len(disk), o+4096)])
		case 1:
			tr.fill(mem[p : p+4096])
		}
	}
	tr.write(t, "vm.vmem", mem)
	tr.write(t, "vm.vmx", []byte("config.version = \"8\"\ndisplayName = \"vm\"\n"))
	tr.write(t, "logs/vmware.log", tr.text(30_000))
	tr.write(t, "logs/old/empty", nil)
	tr.write(t, "name with spaces, é and \xff", []byte("x"))
	tr.write(t, "block", tr.data(64<<10))
	tr.write(t, "block+1", tr.data(64<<10+1))
	tr.write(t, "million", tr.data(1<<20))
	tr.must(t, os.Symlink("logs/vmware.log", tr.path("link")))
	tr.must(t, os.Symlink("nowhere/at all", tr.path("dangling")))
	tr.must(t, os.Link(tr.path("vm.vmx"), tr.path("zz-hard")))
	tr.must(t, os.Chmod(tr.path("block"), 0o4711))
	return tr
}

func (tr *Tree) path(p string) string { return filepath.Join(tr.Dir, p) }

func (tr *Tree) must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// fill makes b neither empty nor incompressible. The race detector would take half of a test's time here, to watch memory
// that nobody else has.
//
//go:norace
func (tr *Tree) fill(b []byte) {
	seed := byte(tr.r.Uint32()) | 1
	for i := range b {
		b[i] = byte(i)*seed + byte(i>>8)
	}
	for range 1 + len(b)/512 {
		b[tr.r.IntN(len(b))] = byte(tr.r.Uint32())
	}
}

func (tr *Tree) data(n int) []byte {
	b := make([]byte, n)
	for i := 0; i < n; i += 4096 {
		tr.fill(b[i:min(n, i+4096)])
	}
	return b
}

func (tr *Tree) text(n int) []byte {
	var b bytes.Buffer
	for b.Len() < n {
		fmt.Fprintf(&b, "2024-03-%02d vcpu-%d: command took %d ms\n", tr.r.IntN(30), tr.r.IntN(4), tr.r.IntN(9999))
	}
	return b.Bytes()
}

// touch gives p a time of its own, so that times are tested to the nanosecond.
func (tr *Tree) touch(t testing.TB, p string) {
	tr.now = tr.now.Add(time.Duration(tr.r.Int64N(int64(time.Hour))))
	tr.must(t, os.Chtimes(tr.path(p), tr.now, tr.now))
}

func (tr *Tree) write(t testing.TB, p string, b []byte) {
	tr.must(t, os.WriteFile(tr.path(p), b, 0o644))
	tr.touch(t, p)
}

func (tr *Tree) disk(t testing.TB, p string, size int64) {
	f, err := os.OpenFile(tr.path(p), os.O_CREATE|os.O_RDWR, 0o600)
	tr.must(t, err)
	defer f.Close()
	tr.must(t, f.Truncate(size))
	for range 12 {
		_, err := f.WriteAt(tr.data(4096*(1+tr.r.IntN(40))), tr.r.Int64N(size/4096)*4096)
		tr.must(t, err)
	}
	st, err := f.Stat()
	tr.must(t, err)
	if st.Size() > size {
		tr.must(t, f.Truncate(size))
	}
	tr.touch(t, p)
}

// Change lets the machine live on: some random changes.
func (tr *Tree) Change(t testing.TB) {
	t.Helper()
	for range 1 + tr.r.IntN(5) {
		tr.change(t)
	}
}

func (tr *Tree) files(t testing.TB) (files []string) {
	tr.must(t, filepath.WalkDir(tr.Dir, func(p string, d fs.DirEntry, err error) error {
		if err == nil && d.Type().IsRegular() {
			rel, _ := filepath.Rel(tr.Dir, p)
			files = append(files, rel)
		}
		return err
	}))
	return files
}

func (tr *Tree) change(t testing.TB) {
	fs := tr.files(t)
	p := fs[tr.r.IntN(len(fs))]
	if tr.r.IntN(2) == 0 && slices.Contains(fs, "disk.img") {
		p = "disk.img"
	}
	tr.n++
	f, err := os.OpenFile(tr.path(p), os.O_RDWR, 0)
	tr.must(t, err)
	defer f.Close()
	st, err := f.Stat()
	tr.must(t, err)
	size := st.Size()
	at := func(n int64) int64 { return tr.r.Int64N(max(1, size-n)) }
	switch tr.r.IntN(14) {
	case 0, 1, 2: // write in place
		_, err = f.WriteAt(tr.data(1+tr.r.IntN(200_000)), at(1)/512*512)
	case 3: // grow
		err = f.Truncate(size + tr.r.Int64N(300_000))
	case 4: // shrink
		err = f.Truncate(tr.r.Int64N(size + 1))
	case 5: // zeros, or a hole
		b := make([]byte, tr.r.IntN(300_000))
		_, err = f.WriteAt(b, at(int64(len(b))))
		if tr.r.IntN(2) == 0 {
			_ = exec.Command("fallocate", "-d", tr.path(p)).Run() // where there is none, zeros stay zeros
		}
	case 6, 7: // move data
		b := make([]byte, min(size, 4096*(1+tr.r.Int64N(60))))
		_, err = f.ReadAt(b, at(int64(len(b)))/4096*4096)
		if err == io.EOF {
			err = nil
		}
		if err == nil {
			_, err = f.WriteAt(b, at(int64(len(b)))/4096*4096)
		}
	case 8: // rename
		tr.must(t, os.Rename(tr.path(p), tr.path(fmt.Sprintf("renamed-%d", tr.n))))
		return
	case 9: // delete
		tr.must(t, os.Remove(tr.path(p)))
		if p == "disk.img" || len(fs) < 4 {
			tr.disk(t, "disk.img", 2<<20)
		}
		return
	case 10: // another type
		tr.must(t, os.Remove(tr.path(p)))
		if tr.r.IntN(2) == 0 {
			tr.must(t, os.Symlink("target", tr.path(p)))
		} else {
			tr.must(t, os.Mkdir(tr.path(p), 0o700))
			tr.write(t, filepath.Join(p, "inside"), tr.data(100))
		}
		if len(fs) < 4 {
			tr.disk(t, "disk.img", 2<<20)
		}
		return
	case 11: // metadata
		err = os.Chmod(tr.path(p), os.FileMode(0o400+tr.r.IntN(0o400)))
	case 12: // clone a disk, with differences
		var b []byte
		if b, err = os.ReadFile(tr.path(p)); err == nil {
			if len(b) > 5000 {
				tr.fill(b[4096:5000])
			}
			tr.write(t, fmt.Sprintf("clone-%d", tr.n), b)
		}
		return
	case 13: // new things
		tr.disk(t, fmt.Sprintf("disk-%d.img", tr.n), 1<<20+tr.r.Int64N(1<<20))
		tr.write(t, fmt.Sprintf("small-%d", tr.n), tr.data(tr.r.IntN(100_000)))
		return
	}
	tr.must(t, err)
	tr.touch(t, p)
}

// Copy copies a directory as it is, with holes, links and times.
func Copy(t testing.TB, from, to string) {
	t.Helper()
	if out, err := exec.Command("cp", "-a", from, to).CombinedOutput(); err != nil {
		t.Fatalf("cp: %v: %s", err, out)
	}
}

// Diff lists what differs between two directories: names, types, sizes, content, modes, times of change of
// content, link targets and which names are hard links of each other.
func Diff(a, b string) []string {
	var diffs []string
	x, err := list(a)
	if err != nil {
		return []string{err.Error()}
	}
	y, err := list(b)
	if err != nil {
		return []string{err.Error()}
	}
	for p, s := range x {
		if o, ok := y[p]; !ok {
			diffs = append(diffs, fmt.Sprintf("%q is in %s only", p, a))
		} else if s != o {
			diffs = append(diffs, fmt.Sprintf("%q: %s, and %s", p, s, o))
		} else if strings.HasPrefix(s, "-") {
			if at := differ(filepath.Join(a, p), filepath.Join(b, p)); at != "" {
				diffs = append(diffs, fmt.Sprintf("%q: %s", p, at))
			}
		}
	}
	for p := range y {
		if _, ok := x[p]; !ok {
			diffs = append(diffs, fmt.Sprintf("%q is in %s only", p, b))
		}
	}
	sort.Strings(diffs)
	return diffs
}

func list(dir string) (map[string]string, error) {
	m := make(map[string]string)
	inodes := make(map[string]string)
	err := filepath.WalkDir(dir, func(p string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		st, err := os.Lstat(p)
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(dir, p)
		if err != nil {
			return err
		}
		s := fmt.Sprintf("%v %d", st.Mode(), st.ModTime().UnixNano())
		if st.Mode().IsRegular() {
			s += fmt.Sprintf(" %d bytes", st.Size())
			if id, links := inode(st); links > 1 {
				if first, ok := inodes[id]; ok {
					s += " = " + first
				} else {
					inodes[id] = rel
				}
			}
		}
		if st.Mode()&fs.ModeSymlink != 0 {
			target, err := os.Readlink(p)
			if err != nil {
				return err
			}
			s += " -> " + target
		}
		s += owner(st)
		m[rel] = s
		return nil
	})
	return m, err
}

func differ(a, b string) string {
	x, err := os.ReadFile(a)
	if err != nil {
		return err.Error()
	}
	y, err := os.ReadFile(b)
	if err != nil {
		return err.Error()
	}
	if bytes.Equal(x, y) {
		return ""
	}
	for i := range x {
		if i >= len(y) || x[i] != y[i] {
			return fmt.Sprintf("differs from byte %d on", i)
		}
	}
	return ""
}
