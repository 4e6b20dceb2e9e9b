package archive_test

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"tarvm/archive"
	"tarvm/archive/archivetest"
	"tarvm/archive/chain"
	"tarvm/archive/codec"
	codecs "tarvm/archive/codec/all"
	"tarvm/archive/vmdir"
	"tarvm/delta"
	"tarvm/formats"
	disks "tarvm/formats/all"
	"tarvm/manifest"
)

// childEnv has the job of a process that is there to be measured.
const childEnv = "TARVM_TEST_JOB"

// job is what such a process does: pack Dir to Out and Out.side, or verify Out.
type job struct {
	Dir    string
	Out    string
	Parent string // an Out; "": full
	Codec  string
	Verify bool
	Trust  bool
	Files  int // in Dir, about
}

type jobDone struct {
	Peak   int64 // VmHWM in bytes
	Plan   time.Duration
	Time   time.Duration
	Result *archive.Result
}

func TestMain(m *testing.M) {
	if s := os.Getenv(childEnv); s != "" {
		if err := child(s); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	os.Exit(m.Run())
}

func child(s string) error {
	var j job
	if err := json.Unmarshal([]byte(s), &j); err != nil {
		return err
	}
	var done jobDone
	start := time.Now()
	if err := j.do(&done, start); err != nil {
		return err
	}
	done.Time = time.Since(start)
	var err error
	if done.Peak, err = peak(); err != nil {
		return err
	}
	return json.NewEncoder(os.Stdout).Encode(&done)
}

func (j *job) do(done *jobDone, start time.Time) (err error) {
	ctx := context.Background()
	if j.Verify {
		src, err := openFile(j.Out)
		if err != nil {
			return err
		}
		a, err := archive.Open(src, codecs.Codecs())
		if err != nil {
			return err
		}
		r, err := a.Verify(ctx, archive.VerifyOptions{})
		return errors.Join(err, r.Err())
	}
	o := archive.PackOptions{Codec: codec.ByName(codecs.Codecs(), j.Codec), Name: "scale", Formats: disks.Disks(), TrustTimes: j.Trust}
	if j.Parent != "" {
		src, err := openFile(j.Parent + ".side")
		if err != nil {
			return err
		}
		if o.Parent, err = archive.OpenManifest(src); err != nil {
			return err
		}
	}
	plan, err := archive.MakePlan(ctx, j.Dir, o)
	if err != nil {
		return err
	}
	defer plan.Close()
	done.Plan = time.Since(start)
	out, err := os.Create(j.Out)
	if err != nil {
		return err
	}
	side, err := os.Create(j.Out + ".side")
	if err != nil {
		return err
	}
	done.Result, err = plan.Pack(ctx, out, side)
	return errors.Join(err, out.Close(), side.Close())
}

// openFile opens a source; the process's end closes it.
func openFile(name string) (formats.Source, error) {
	f, err := os.Open(name)
	if err != nil {
		return nil, err
	}
	st, err := f.Stat()
	if err != nil {
		return nil, err
	}
	return io.NewSectionReader(f, 0, st.Size()), nil
}

// peak returns the largest amount of memory that this process has had.
func peak() (int64, error) {
	b, err := os.ReadFile("/proc/self/status")
	if err != nil {
		return 0, err
	}
	s := bufio.NewScanner(bytes.NewReader(b))
	for s.Scan() {
		if v, ok := strings.CutPrefix(s.Text(), "VmHWM:"); ok {
			n, err := strconv.ParseInt(strings.Fields(v)[0], 10, 64)
			return n << 10, err
		}
	}
	return 0, errors.New("no VmHWM in /proc/self/status")
}

// What packing and verifying may take, whatever the sizes of the files. Names and metadata are in memory, of the
// parent's, too: an increment of 200,000 files takes 320 MiB.
const (
	maxMemory = 300 << 20
	forFile   = 600
)

// measure does a job in a process of its own, and checks how much memory that took.
func measure(t testing.TB, j job) jobDone {
	t.Helper()
	if j.Codec == "" {
		j.Codec = "zstd"
	}
	b, err := json.Marshal(j)
	mustDo(t, err)
	exe, err := os.Executable()
	mustDo(t, err)
	cmd := exec.Command(exe)
	cmd.Env = []string{childEnv + "=" + string(b), "PATH=" + os.Getenv("PATH"), "TMPDIR=" + t.TempDir(),
		"GOGC=50", "GOMEMLIMIT=240MiB"} // as the command has it
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("%+v: %v\n%s", j, err, &stderr)
	}
	var d jobDone
	mustDo(t, json.Unmarshal(out, &d))
	t.Logf("%+v: %d MiB, plan %v, all %v", j, d.Peak>>20, d.Plan.Round(time.Millisecond), d.Time.Round(time.Millisecond))
	if most := int64(maxMemory + j.Files*forFile); d.Peak > most && !archivetest.Race {
		t.Errorf("%d MiB of memory, more than %d", d.Peak>>20, most>>20)
	}
	return d
}

// restoreChain restores the last of some archives in files.
func restoreChain(t testing.TB, to string, files ...string) {
	t.Helper()
	var as []*archive.Archive
	for _, f := range files {
		src, err := openFile(f)
		mustDo(t, err)
		a, err := archive.Open(src, codecs.Codecs())
		mustDo(t, err)
		as = append(as, a)
	}
	c, err := chain.New(as)
	mustDo(t, err)
	_, err = chain.Restore(context.Background(), c, c.Head(), to, chain.RestoreOptions{})
	mustDo(t, err)
}

// A terabyte with little in it takes seconds and little memory, full and as an increment; GNU tar
// restores the full one with its holes.
func TestTebibyte(t *testing.T) {
	if archivetest.Race {
		t.Skip("it is about memory and time, which the race detector changes")
	}
	const size = 1 << 40
	dir := filepath.Join(t.TempDir(), "vm")
	mustDo(t, os.Mkdir(dir, 0o755))
	disk := filepath.Join(dir, "disk.img")
	data := map[int64][]byte{0: noise(1, 100_000), 5 << 30: noise(2, 1<<20), size/2 + 4096: noise(3, 3<<20), size - 4096: noise(4, 4096)}
	for i := range int64(200) {
		data[i*(size/300)&^4095] = noise(uint64(100+i), 20_000)
	}
	sparse(t, disk, size, data)
	holes(t, disk)
	out := t.TempDir()
	full, inc := filepath.Join(out, "0"), filepath.Join(out, "1")
	start := time.Now()
	d := measure(t, job{Dir: dir, Out: full})
	if d.Result.Stats.Stored > 20<<20 || d.Result.Encoded > 20<<20 {
		t.Errorf("%+v", d.Result)
	}
	measure(t, job{Out: full, Verify: true})
	same := measure(t, job{Dir: dir, Out: inc, Parent: full})
	if same.Result.ID != d.Result.ID || same.Result.Stats.Stored != 0 {
		t.Errorf("an increment without a change: %+v", same.Result)
	}
	sparse(t, disk, size, map[int64][]byte{3 << 38: noise(9, 50_000), 5 << 30: make([]byte, 8192), size/2 + 4096: data[0]})
	d = measure(t, job{Dir: dir, Out: inc, Parent: full})
	if s := d.Result.Stats; s.Stored == 0 || s.Stored > 1<<20 {
		t.Errorf("an increment of three changes: %+v", s)
	}
	measure(t, job{Out: inc, Verify: true})
	to := filepath.Join(t.TempDir(), "restored")
	restoreChain(t, to, full, inc)
	alike(t, disk, filepath.Join(to, "disk.img"))
	// A longer and a shorter disk.
	for i, n := range []int64{size + 1<<30 + 1, size / 3} {
		mustDo(t, os.Truncate(disk, n))
		next := filepath.Join(out, fmt.Sprint(2+i))
		prev := filepath.Join(out, fmt.Sprint(1+i))
		if d = measure(t, job{Dir: dir, Out: next, Parent: prev}); d.Result.Stats.Stored > 1<<20 {
			t.Errorf("%d bytes: %+v", n, d.Result.Stats)
		}
	}
	to = filepath.Join(t.TempDir(), "restored")
	restoreChain(t, to, full, inc, filepath.Join(out, "2"), filepath.Join(out, "3"))
	alike(t, disk, filepath.Join(to, "disk.img"))
	if e := time.Since(start); e > time.Minute && !archivetest.Race {
		t.Errorf("it took %v", e) // reading a terabyte of holes takes much longer
	}
}

// By GNU tar, on the same kind of disk.
func TestTebibyteByTar(t *testing.T) {
	archivetest.Tools(t, "tar", "zstd")
	const size = 1 << 40
	dir := filepath.Join(t.TempDir(), "vm")
	mustDo(t, os.Mkdir(dir, 0o755))
	disk := filepath.Join(dir, "disk.img")
	sparse(t, disk, size, map[int64][]byte{0: noise(1, 100_000), 9 << 30: noise(2, 1<<20), size - 4096: noise(4, 4096)})
	holes(t, disk)
	file := filepath.Join(t.TempDir(), "a.tar.zst")
	measure(t, job{Dir: dir, Out: file})
	to := t.TempDir()
	command(t, to, "tar", "-xpf", file)
	alike(t, disk, filepath.Join(to, "disk.img"))
}

// holes skips the test where the file system has none.
func holes(t testing.TB, path string) {
	t.Helper()
	var st unix.Stat_t
	mustDo(t, unix.Stat(path, &st))
	if st.Blocks*512 > 1<<30 {
		t.Skip("this file system makes no holes")
	}
}

// alike compares two files with holes by what is in them.
func alike(t testing.TB, a, b string) {
	t.Helper()
	x, err := os.Open(a)
	mustDo(t, err)
	defer x.Close()
	y, err := os.Open(b)
	mustDo(t, err)
	defer y.Close()
	size, err := x.Seek(0, io.SeekEnd)
	mustDo(t, err)
	if n, err := y.Seek(0, io.SeekEnd); err != nil || n != size {
		t.Fatalf("%s has %d bytes, %s has %d: %v", a, size, b, n, err)
	}
	p, q := make([]byte, 1<<20), make([]byte, 1<<20)
	for _, f := range []*os.File{x, y} {
		for off := int64(0); off < size; {
			data, err := unix.Seek(int(f.Fd()), off, unix.SEEK_DATA)
			if errors.Is(err, unix.ENXIO) {
				break
			}
			mustDo(t, err)
			end, err := unix.Seek(int(f.Fd()), data, unix.SEEK_HOLE)
			mustDo(t, err)
			for data < end {
				n := min(end-data, int64(len(p)))
				if _, err := x.ReadAt(p[:n], data); err != nil {
					t.Fatal(err)
				}
				if _, err := y.ReadAt(q[:n], data); err != nil {
					t.Fatal(err)
				}
				if !bytes.Equal(p[:n], q[:n]) {
					t.Fatalf("%s and %s differ between %d and %d", a, b, data, data+n)
				}
				data += n
			}
			off = end
		}
	}
}

// A member past 8 GiB, the end of a ustar header's size.
func TestPast8GiB(t *testing.T) {
	archivetest.Tools(t, "tar", "bsdtar")
	for _, size := range []int64{8<<30 - 1, 8 << 30, 8<<30 + 1} {
		dir := filepath.Join(t.TempDir(), "vm")
		mustDo(t, os.Mkdir(dir, 0o755))
		disk := filepath.Join(dir, "disk.img")
		sparse(t, disk, size, map[int64][]byte{4<<30 - 10: noise(1, 4096), size - 5: []byte("end.\n")})
		holes(t, disk)
		file := filepath.Join(t.TempDir(), "a.tar")
		measure(t, job{Dir: dir, Out: file, Codec: "none"})
		measure(t, job{Out: file, Verify: true})
		for _, tool := range []string{"tar", "bsdtar"} {
			if out := command(t, dir, tool, "-tvf", file); !strings.Contains(out, fmt.Sprint(" ", size, " ")) {
				t.Errorf("%s does not list a member of %d bytes:\n%s", tool, size, out)
			}
			to := t.TempDir()
			command(t, to, tool, "-xpf", file)
			alike(t, disk, filepath.Join(to, "disk.img"))
		}
	}
}

// A dense member past 8 GiB, as the tar has it: what is stored passes the limit, too, and so do the places of what follows.
// The file is there only while it is read.
func TestDensePast8GiB(t *testing.T) {
	if testing.Short() || archivetest.Race {
		t.Skip("packs 8 GiB of data")
	}
	archivetest.Tools(t, "tar", "lz4")
	const size = 8<<30 + 1<<20 + 5
	dir := t.TempDir()
	writeFile(t, dir, "disk.img", nil)
	writeFile(t, dir, "next", noise(1, 70_000))
	tree, err := archive.OpenDir(dir)
	mustDo(t, err)
	o := archive.PackOptions{Codec: codecNamed(t, "lz4")}
	plan, err := archive.MakePlanOf(context.Background(), &denseTree{tree, size}, o)
	mustDo(t, err)
	defer plan.Close()
	file := filepath.Join(t.TempDir(), "a.tar.lz4")
	f, err := os.Create(file)
	mustDo(t, err)
	defer f.Close()
	r, err := plan.Pack(context.Background(), f, nil)
	mustDo(t, err)
	if r.Stats.Stored != size+70_000 {
		t.Errorf("%+v", r.Stats)
	}
	measure(t, job{Out: file, Verify: true})
	out := command(t, dir, "tar", "-I", "lz4", "-tvf", file)
	for _, want := range []string{fmt.Sprint(" ", size, " "), " next\n", " .tarvm/locator\n"} {
		if !strings.Contains(out, want) {
			t.Errorf("tar does not list %q:\n%s", want, out)
		}
	}
}

// A denseTree has a disk.img of that size, without a hole, and without a disk that holds it.
type denseTree struct {
	archive.Tree
	size int64
}

func (t *denseTree) List(ctx context.Context, o vmdir.WalkOptions) (*archive.Listing, error) {
	l, err := t.Tree.List(ctx, o)
	for i := range l.Entries {
		if e := &l.Entries[i]; e.Path == "disk.img" {
			e.Size = t.size
		}
	}
	return l, err
}

func (t *denseTree) Open(e *vmdir.Entry) (archive.TreeFile, error) {
	f, err := t.Tree.Open(e)
	if err != nil || e.Path != "disk.img" {
		return f, err
	}
	return denseFile{f, t.size}, nil
}

type denseFile struct {
	archive.TreeFile
	size int64
}

func (f denseFile) Extents(*vmdir.Entry) ([]delta.Extent, error) { return nil, nil }
func (f denseFile) Changed(*vmdir.Entry) (bool, error)           { return false, nil }

var densePage = bytes.Repeat([]byte("dense..."), 4<<10)

func (f denseFile) ReadAt(p []byte, off int64) (int, error) {
	n := min(int64(len(p)), f.size-off)
	for at := int64(0); at < n; {
		at += int64(copy(p[at:n], densePage[(off+at)%int64(len(densePage)):]))
	}
	if n < int64(len(p)) {
		return int(n), io.EOF
	}
	return int(n), nil
}

// Many small files: TARVM_BIG=1 makes it 200,000.
func TestManyFiles(t *testing.T) {
	n := 50_000
	if testing.Short() || archivetest.Race {
		t.Skip("makes 50,000 files")
	}
	if os.Getenv("TARVM_BIG") != "" {
		n = 200_000
	}
	dir := filepath.Join(t.TempDir(), "vm")
	b := noise(1, 4096)
	for i := range n {
		sub := filepath.Join(dir, fmt.Sprintf("d%03d", i/1000))
		if i%1000 == 0 {
			mustDo(t, os.MkdirAll(sub, 0o755))
		}
		// Of 0 to 700 bytes, most of them different.
		mustDo(t, os.WriteFile(filepath.Join(sub, fmt.Sprintf("file-%06d.txt", i)), b[i%3000:][:i%701], 0o644))
	}
	out := t.TempDir()
	full, inc := filepath.Join(out, "0"), filepath.Join(out, "1")
	per := func(what string, d jobDone) {
		t.Logf("%s: %v for a file", what, d.Time/time.Duration(n))
	}
	d := measure(t, job{Files: n, Dir: dir, Out: full})
	per("full", d)
	if d.Result.Stats.Files != int64(n) {
		t.Errorf("%+v", d.Result.Stats)
	}
	per("verify", measure(t, job{Files: n, Out: full, Verify: true}))
	mustDo(t, os.WriteFile(filepath.Join(dir, "d007", "new"), []byte("new"), 0o644))
	mustDo(t, os.Remove(filepath.Join(dir, "d009", "file-009001.txt")))
	d = measure(t, job{Files: n, Dir: dir, Out: inc, Parent: full})
	per("increment", d)
	if s := d.Result.Stats; s.Unchanged != int64(n-1) || s.Stored != 3 {
		t.Errorf("%+v", s)
	}
	trust := measure(t, job{Files: n, Dir: dir, Out: inc + "t", Parent: full, Trust: true})
	per("increment, times trusted", trust)
	if trust.Result.ID != d.Result.ID {
		t.Error("trusting the times makes another state")
	}
}

// Very many names of one file: one member with content, the others links to it. TARVM_BIG=1 makes it as many as file
// systems have.
func TestManyHardLinks(t *testing.T) {
	n := 20_000
	if testing.Short() || archivetest.Race {
		n = 5_000
	} else if os.Getenv("TARVM_BIG") != "" {
		n = 60_000
	}
	dir := filepath.Join(t.TempDir(), "vm")
	mustDo(t, os.Mkdir(dir, 0o755))
	writeFile(t, dir, "00000", noise(1, 2<<20))
	for i := 1; i < n; i++ {
		if err := os.Link(filepath.Join(dir, "00000"), filepath.Join(dir, fmt.Sprintf("%05d", i))); err != nil {
			if i > 1000 && errors.Is(err, unix.EMLINK) {
				n = i
				break
			}
			t.Fatal(err)
		}
	}
	file := filepath.Join(t.TempDir(), "a.tar")
	d := measure(t, job{Dir: dir, Out: file, Codec: "none"})
	if s := d.Result.Stats; s.Files != 1 || s.Members != int64(n)+1 || s.Stored != 2<<20 {
		t.Errorf("%+v", s)
	}
	measure(t, job{Out: file, Verify: true})
	archivetest.Tools(t, "tar")
	to := t.TempDir()
	command(t, to, "tar", "-xpf", file)
	var st unix.Stat_t
	mustDo(t, unix.Stat(filepath.Join(to, fmt.Sprintf("%05d", n-1)), &st))
	if uint64(st.Nlink) != uint64(n) {
		t.Errorf("%d links after tar -x, want %d", st.Nlink, n)
	}
	// Without a change, and with one name less: the first, whose place the second takes.
	inc := filepath.Join(t.TempDir(), "b.tar")
	mustDo(t, os.Remove(filepath.Join(dir, "00000")))
	measure(t, job{Dir: dir, Out: inc, Codec: "none", Parent: file})
	measure(t, job{Out: inc, Verify: true})
	if !testing.Short() {
		back := filepath.Join(t.TempDir(), "out")
		restoreChain(t, back, file, inc)
		mustDo(t, unix.Stat(filepath.Join(back, "00001"), &st))
		if uint64(st.Nlink) != uint64(n)-1 {
			t.Errorf("%d links restored, want %d", st.Nlink, n-1)
		}
	}
}

// Paths as long as a system call takes, and longer: made and walked a component at a time.
func TestLongPaths(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "vm")
	mustDo(t, os.Mkdir(dir, 0o755))
	comp := strings.Repeat("n", 249)
	path := func(n int) string { // of n bytes, the last component being a file
		var b strings.Builder
		for b.Len()+len(comp)+1 < n-1 {
			b.WriteString(comp + "/")
		}
		return b.String() + strings.Repeat("f", n-b.Len())
	}
	deep := func(p string, content []byte) {
		root, err := os.OpenRoot(dir)
		mustDo(t, err)
		parts := strings.Split(p, "/")
		for _, c := range parts[:len(parts)-1] {
			if err := root.Mkdir(c, 0o755); err != nil && !errors.Is(err, os.ErrExist) {
				t.Fatal(err)
			}
			sub, err := root.OpenRoot(c)
			mustDo(t, errors.Join(err, root.Close()))
			root = sub
		}
		mustDo(t, root.WriteFile(parts[len(parts)-1], content, 0o640))
		mustDo(t, root.Close())
	}
	p4, p9 := path(4000), path(9000)
	if len(p4) != 4000 || len(p9) != 9000 {
		t.Fatal(len(p4), len(p9))
	}
	deep(p4, noise(1, 70_000))
	out := t.TempDir()
	file := func(i int) string { return filepath.Join(out, fmt.Sprint(i)) }
	measure(t, job{Dir: dir, Out: file(0), Codec: "none"})
	measure(t, job{Out: file(0), Verify: true})
	archivetest.Tools(t, "tar")
	to := t.TempDir()
	command(t, to, "tar", "-xpf", file(0))
	root, err := os.OpenRoot(to)
	mustDo(t, err)
	defer root.Close()
	if b, err := root.ReadFile(p4); err != nil || !bytes.Equal(b, noise(1, 70_000)) {
		t.Errorf("tar: %d bytes, %v", len(b), err)
	}

	deep(p9, noise(2, 3<<20)) // a delta
	deep(p4+"2", noise(3, 10))
	d := measure(t, job{Dir: dir, Out: file(1), Codec: "none", Parent: file(0)})
	measure(t, job{Out: file(1), Verify: true})
	if d.Result.Stats.Unchanged != 1 || d.Result.Stats.Data != 3<<20 {
		t.Errorf("%+v", d.Result.Stats)
	}
	back := filepath.Join(t.TempDir(), "out")
	restoreChain(t, back, file(0), file(1))
	broot, err := os.OpenRoot(back)
	mustDo(t, err)
	defer broot.Close()
	for p, want := range map[string][]byte{p4: noise(1, 70_000), p9: noise(2, 3<<20), p4 + "2": noise(3, 10)} {
		f, err := broot.Open(p)
		mustDo(t, err)
		b, err := io.ReadAll(f)
		f.Close()
		if err != nil || !bytes.Equal(b, want) {
			t.Errorf("path of %d bytes: %d bytes, %v", len(p), len(b), err)
		}
	}
	src, err := openFile(file(1))
	mustDo(t, err)
	a, err := archive.Open(src, codecs.Codecs())
	mustDo(t, err)
	m := member(t, a.Manifest().Snapshot, manifest.Path(p9))
	if m.Stored.As != manifest.AsDelta || len(m.Stored.Segments) != 1 {
		t.Errorf("%+v", m.Stored)
	}
	if s, err := a.Segment(&m.Stored.Segments[0]); err != nil || s.Size != 3<<20 || len(s.Ops) == 0 || s.Ops[0].Kind != delta.Data {
		t.Errorf("%+v, %v", s, err)
	}
}
