package formatstest

import (
	"bytes"
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"sync"
	"testing"
	"time"

	"tarvm/formats"
)

// CheckDisk checks what every Disk promises, and that d holds the bytes of want.
// Disks of more than 256 MiB are read where there is something, and at samples.
func CheckDisk(t testing.TB, d formats.Disk, want formats.Source) {
	t.Helper()
	if d.Size() != want.Size() {
		t.Fatalf("disk of %d bytes, want %d", d.Size(), want.Size())
	}
	CheckExtents(t, d)
	const most = 256 << 20
	var read int64
	for e, err := range d.Extents(0, d.Size()) {
		if err != nil {
			t.Fatal(err)
		}
		if (e.Kind == formats.Zero || e.Kind == formats.Hole) && read > most {
			continue
		}
		for off := e.Offset; off < e.End(); off += 1 << 20 {
			same(t, d, want, off, min(1<<20, e.End()-off))
			if read += 1 << 20; read > most && e.Kind != formats.Data && e.Kind != formats.Compressed {
				break
			}
		}
	}
	if d.Size() == 0 {
		return
	}
	r := rand.New(rand.NewPCG(1, 2))
	var wg sync.WaitGroup
	for range 4 {
		seed := r.Uint64()
		wg.Go(func() {
			r := rand.New(rand.NewPCG(seed, 0))
			for range 64 {
				off := r.Int64N(d.Size())
				n := min(r.Int64N(1<<uint(r.IntN(21))+1), d.Size()-off)
				if !same(t, d, want, off, n) {
					return
				}
			}
		})
	}
	wg.Wait()
	same(t, d, want, d.Size()-1, 1)
	var b [2]byte
	if n, err := d.ReadAt(b[:], d.Size()-1); n != 1 || !errors.Is(err, io.EOF) {
		t.Errorf("read over the end: %d bytes, %v", n, err)
	}
	if n, err := d.ReadAt(b[:], d.Size()+5); n != 0 || !errors.Is(err, io.EOF) {
		t.Errorf("read behind the end: %d bytes, %v", n, err)
	}
	if _, err := d.ReadAt(b[:], -1); err == nil {
		t.Error("read before the start")
	}
}

func same(t testing.TB, d formats.Disk, want formats.Source, off, n int64) bool {
	t.Helper()
	got, exp := bytes.Repeat([]byte{0xa5}, int(n)), make([]byte, n)
	if _, err := d.ReadAt(got, off); err != nil && !errors.Is(err, io.EOF) {
		t.Errorf("%d bytes at %d: %v", n, off, err)
		return false
	}
	if _, err := want.ReadAt(exp, off); err != nil && !errors.Is(err, io.EOF) {
		t.Errorf("what is wanted: %v", err)
		return false
	}
	if bytes.Equal(got, exp) {
		return true
	}
	for i := range got {
		if got[i] != exp[i] {
			t.Errorf("byte %d of the disk is %#x, want %#x (read of %d at %d)", off+int64(i), got[i], exp[i], n, off)
			return false
		}
	}
	return false
}

// CheckExtents checks that the extents of d tile it, in one piece and in parts,
// and that those that read as zero do.
func CheckExtents(t testing.TB, d formats.Disk) []formats.Extent {
	t.Helper()
	var all []formats.Extent
	at := int64(0)
	for e, err := range d.Extents(0, d.Size()) {
		if err != nil {
			t.Fatal(err)
		}
		if e.Offset != at || e.Length <= 0 || e.End() > d.Size() || e.Kind < formats.Data || e.Kind > formats.Parent {
			t.Fatalf("extent %+v at %d of %d", e, at, d.Size())
		}
		at = e.End()
		all = append(all, e)
		if e.Kind == formats.Zero || e.Kind == formats.Hole {
			for _, off := range []int64{e.Offset, e.Offset + e.Length/2, e.End() - min(e.Length, 4096)} {
				b := bytes.Repeat([]byte{1}, int(min(4096, e.End()-off)))
				if _, err := d.ReadAt(b, off); err != nil && !errors.Is(err, io.EOF) || len(bytes.Trim(b, "\x00")) > 0 {
					t.Fatalf("%v at %d does not read as zero: %v", e.Kind, off, err)
				}
			}
		}
	}
	if at != d.Size() {
		t.Fatalf("extents end at %d of %d", at, d.Size())
	}
	r := rand.New(rand.NewPCG(3, 4))
	for range min(50, 5*len(all)) {
		i := r.IntN(len(all))
		off := all[i].Offset + r.Int64N(all[i].Length)
		for e, err := range d.Extents(off, 1) {
			w := all[i]
			if err != nil || e.Offset != off || e.Length != 1 || e.Kind != w.Kind || e.Depth != w.Depth || e.File != w.File ||
				w.Kind == formats.Data && e.Host != w.Host+off-w.Offset {
				t.Fatalf("one byte at %d: %+v, %v; in one piece: %+v", off, e, err, w)
			}
		}
	}
	return all
}

// Sources opens the files that an image names, from memory.
func Sources(files map[string][]byte) func(name string) (formats.Source, error) {
	return func(name string) (formats.Source, error) {
		b, ok := files[name]
		if !ok {
			return nil, &os.PathError{Op: "open", Path: name, Err: os.ErrNotExist}
		}
		return bytes.NewReader(b), nil
	}
}

// OpenFile opens the image at path, whose further files are beside it.
func OpenFile(t testing.TB, f formats.Format, path string) *formats.Image {
	t.Helper()
	open := func(path string) (formats.Source, error) {
		f, err := os.Open(path)
		if err != nil {
			return nil, err
		}
		t.Cleanup(func() { f.Close() })
		st, err := f.Stat()
		if err != nil {
			return nil, err
		}
		return io.NewSectionReader(f, 0, st.Size()), nil
	}
	src, err := open(path)
	if err != nil {
		t.Fatal(err)
	}
	m, err := f.Open(src, formats.OpenOptions{Find: func(name string) (formats.Source, error) {
		return open(filepath.Join(filepath.Dir(path), filepath.Base(name)))
	}})
	if err != nil {
		t.Fatalf("%s: %v", path, err)
	}
	return m
}

// Disk makes the disk of an image and its parents, the topmost first.
func Disk(t testing.TB, layers ...*formats.Image) formats.Disk {
	t.Helper()
	d, err := formats.NewDisk(layers...)
	if err != nil {
		t.Fatal(err)
	}
	return d
}

// A Pattern is a disk in memory for tests of encoders.
type Pattern struct {
	formats.Disk
	Bytes []byte
}

// NewPattern makes a disk of data, some of it compressible, of zeros that are
// stored, and of holes, in runs of up to 300 KiB whose ends are seldom aligned.
func NewPattern(t testing.TB, seed uint64, size int64) *Pattern {
	t.Helper()
	r := rand.New(rand.NewPCG(seed, 7))
	p := &Pattern{Bytes: make([]byte, size)}
	var list []formats.Extent
	for off := int64(0); off < size; {
		n := 1 + r.Int64N(300<<10)
		if r.IntN(2) == 0 {
			n = n&^0xffff + 65536 - off%65536
		}
		n = min(n, size-off)
		e := formats.Extent{Offset: off, Length: n, Kind: formats.Data, Host: off}
		b := p.Bytes[off:][:n]
		switch r.IntN(6) {
		case 0:
			e.Kind, e.Host = formats.Zero, 0
		case 1:
			e.Kind, e.Host = formats.Hole, 0
		case 2: // stored zeros
		case 3:
			fill(r, b)
		default:
			line := fmt.Sprintf("%d: the same text over and over, %x\n", off, r.Uint64())
			for len(b) > 0 {
				b = b[copy(b, line):]
			}
		}
		list = append(list, e)
		off += n
	}
	p.Disk = Disk(t, &formats.Image{
		Header: formats.Header{Format: "pattern", VirtualSize: size},
		Map:    &listed{size, list}, Files: []formats.Source{bytes.NewReader(p.Bytes)},
	})
	return p
}

func fill(r *rand.Rand, b []byte) {
	for ; len(b) >= 8; b = b[8:] {
		binary.LittleEndian.PutUint64(b, r.Uint64())
	}
	for i := range b {
		b[i] = byte(r.Uint32())
	}
}

// Changed returns a disk of size bytes that has most bytes of p.
func (p *Pattern) Changed(t testing.TB, seed uint64, size int64) *Pattern {
	t.Helper()
	r := rand.New(rand.NewPCG(seed, 8))
	q := &Pattern{Bytes: make([]byte, size)}
	copy(q.Bytes, p.Bytes)
	for range 20 {
		if size == 0 {
			break
		}
		off := r.Int64N(size)
		b := q.Bytes[off:][:min(r.Int64N(100<<10), size-off)]
		if r.IntN(3) == 0 {
			clear(b)
		} else {
			fill(r, b)
		}
	}
	q.Disk = Disk(t, &formats.Image{
		Header: formats.Header{Format: "pattern", VirtualSize: size},
		Map:    &listed{size, []formats.Extent{{Length: size, Kind: formats.Data}}}, Files: []formats.Source{bytes.NewReader(q.Bytes)},
	})
	return q
}

// Source returns the bytes.
func (p *Pattern) Source() formats.Source { return bytes.NewReader(p.Bytes) }

type listed struct {
	size int64
	list []formats.Extent
}

func (l *listed) Size() int64 { return l.size }

func (l *listed) MapAt(off int64) (formats.Extent, error) {
	for _, e := range l.list {
		if off >= e.Offset && off < e.End() {
			return e, nil
		}
	}
	return formats.Extent{}, io.EOF
}

// Encode writes d as the file name in a new directory, twice, with 1 and with 3
// workers, demands that both are the same bytes, and returns the path of one. An
// encoder that says that it streams is given a pipe the second time.
func Encode(t testing.TB, enc formats.Encoder, name string, d formats.Disk, o formats.EncodeOptions) string {
	t.Helper()
	var dirs [2]string
	for i, workers := range []int{1, 3} {
		dirs[i] = t.TempDir()
		o.Workers = workers
		var last int64
		o.Progress = func(done int64) {
			if done < last || done > d.Size() {
				t.Errorf("progress from %d to %d of %d", last, done, d.Size())
			}
			last = done
		}
		create := func(name string) (*os.File, error) {
			f, err := os.OpenFile(filepath.Join(dirs[i], name), os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600)
			if err == nil {
				t.Cleanup(func() { f.Close() })
			}
			return f, err
		}
		f, err := create(name)
		if err != nil {
			t.Fatal(err)
		}
		out := formats.Outputs{Main: f, Name: name, Create: func(name string) (formats.Output, error) { return create(name) }}
		if i == 1 && enc.Streams(&o) {
			out.Main, out.Create = formats.NewStream(f), nil
		}
		if err := enc.Encode(context.Background(), out, d, o); err != nil {
			t.Fatalf("%d workers: %v", workers, err)
		}
		if last != d.Size() {
			t.Errorf("progress ended at %d of %d", last, d.Size())
		}
	}
	names, err := os.ReadDir(dirs[0])
	if err != nil {
		t.Fatal(err)
	}
	for _, n := range names {
		a, err := os.ReadFile(filepath.Join(dirs[0], n.Name()))
		if err != nil {
			t.Fatal(err)
		}
		b, err := os.ReadFile(filepath.Join(dirs[1], n.Name()))
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(a, b) {
			t.Errorf("%s: %d bytes by one worker, %d by three, and they differ", n.Name(), len(a), len(b))
		}
	}
	return filepath.Join(dirs[0], name)
}

// qemuImg runs qemu-img in the directory of the image at path, which is what the
// argument IMAGE stands for: names in an image may be relative to the directory
// that a program runs in.
func qemuImg(t testing.TB, path string, args ...string) []byte {
	t.Helper()
	abs, err := filepath.Abs(path)
	if err != nil {
		t.Fatal(err)
	}
	args[slices.Index(args, "IMAGE")] = abs
	return Run(t, filepath.Dir(abs), "qemu-img", args...)
}

// QemuRaw returns what qemu-img reads in the image at path, of a format in qemu's
// words.
func QemuRaw(t testing.TB, format, path string) formats.Source {
	t.Helper()
	raw := filepath.Join(t.TempDir(), "raw")
	qemuImg(t, path, "convert", "-f", format, "-O", "raw", "IMAGE", raw)
	return openRaw(t, raw)
}

// QemuCheck demands that qemu-img finds neither an error nor a leak.
func QemuCheck(t testing.TB, format, path string) {
	t.Helper()
	qemuImg(t, path, "check", "-f", format, "IMAGE")
}

// CheckOpen opens the image b, which may be hostile, reads its map and some of
// its data within bounds, and runs its check. It returns the error of any step.
// What is promised for any input: no panic, extents that tile, and zeros that
// read as zero.
func CheckOpen(t testing.TB, f formats.Format, b []byte, o formats.OpenOptions) error {
	t.Helper()
	m, err := f.Open(bytes.NewReader(b), o)
	if err != nil {
		if m != nil {
			t.Errorf("an image and an error: %v", err)
		}
		return err
	}
	if h, err := f.Probe(bytes.NewReader(b)); err != nil || h.Format != m.Format || h.VirtualSize != 0 && h.VirtualSize != m.Map.Size() {
		t.Errorf("Open makes a disk of %d bytes, Probe says %+v, %v", m.Map.Size(), h, err)
	}
	d, err := formats.NewDisk(m)
	if err != nil {
		return err
	}
	first := readSome(t, d)
	for i := range m.Snapshots {
		if m.Snapshots[i].Image != nil {
			if d, err := formats.NewDisk(m.Snapshots[i].Image); err == nil {
				_ = readSome(t, d)
			}
		}
		if st := m.Snapshots[i].State; st != nil {
			d := Disk(t, &formats.Image{Map: st, Files: m.Files, Inflate: m.Inflate, Parent: m.Parent})
			_ = readSome(t, d)
		}
	}
	if m.Check != nil {
		risk := false
		if err := m.Check(context.Background(), func(p formats.Problem) {
			if p.Severity < formats.Note || p.Severity > formats.Risk || p.Text == "" || p.Structure == "" {
				t.Errorf("problem %+v", p)
			}
			risk = risk || p.Severity == formats.Risk
		}); err != nil {
			t.Errorf("check: %v", err)
		}
		for _, p := range m.Problems {
			risk = risk || p.Severity == formats.Risk
		}
		if errors.Is(first, formats.ErrCorrupt) && !risk {
			t.Errorf("reading fails with %v, and the check finds no risk", first)
		}
	}
	return first
}

// readSome reads the map of d and some of its data, within bounds, and returns
// the first error.
func readSome(t testing.TB, d formats.Disk) error {
	t.Helper()
	first := error(nil)
	note := func(err error) {
		if first == nil {
			first = err
		}
	}
	buf := make([]byte, 8192)
	runs := 0
	for e, err := range d.Extents(0, d.Size()) {
		if err != nil {
			note(err)
			break
		}
		if runs++; runs > 2000 {
			break
		}
		p := buf[:min(int64(len(buf)), e.Length)]
		p[0] = 1
		_, err := d.ReadAt(p, e.Offset)
		switch {
		case err != nil && !errors.Is(err, formats.ErrNoParent):
			note(err)
		case (e.Kind == formats.Zero || e.Kind == formats.Hole) && len(bytes.Trim(p, "\x00")) > 0:
			t.Errorf("%+v does not read as zero", e)
		}
	}
	return first
}

// FuzzOpen fuzzes f.Open with goldens, which it cuts and patches: see CheckOpen.
// fix, if not nil, repairs checksums of a patched image in place, so that the
// fuzzer gets behind them. Other files that an image names are found, and hold
// 64 KiB of zeros.
func FuzzOpen(f *testing.F, format formats.Format, goldens [][]byte, fix func(b []byte)) {
	if len(goldens) == 0 {
		f.Fatal("no goldens")
	}
	o := formats.OpenOptions{Find: func(string) (formats.Source, error) { return bytes.NewReader(make([]byte, 64<<10)), nil }}
	for i, g := range goldens {
		if err := CheckOpen(f, format, g, o); err != nil && !errors.Is(err, formats.ErrNoParent) {
			f.Fatalf("golden %d: %v", i, err)
		}
		for _, off := range []uint32{0, 24, 72, 512, 1536, 64 << 10, 192<<10 + 16, 1 << 20, 2 << 20} {
			f.Add(uint8(i), uint32(0), off, []byte("\xff\xff\xff\xff"))
			f.Add(uint8(i), uint32(0), off+8, []byte("\x00\x00\x01"))
		}
		f.Add(uint8(i), uint32(len(g)/2), uint32(0), []byte{})
	}
	f.Fuzz(func(t *testing.T, i uint8, cut, off uint32, patch []byte) {
		g := goldens[int(i)%len(goldens)]
		b := bytes.Clone(g[:len(g)-int(int64(cut)%int64(len(g)+1))])
		if int64(off) < int64(len(b)) {
			copy(b[off:], patch)
		}
		_ = CheckOpen(t, format, b, o)
		if fix != nil {
			fix(b)
			_ = CheckOpen(t, format, b, o)
		}
	})
}

// libyal reads a whole disk with one of libyal's modules: pyvmdk, pyqcow, pyvhdi.
const libyal = `
import importlib, sys
module, out, paths = sys.argv[1], sys.argv[2], sys.argv[3:]
lib = importlib.import_module(module)
def open_one(path):
    f = lib.handle() if module == "pyvmdk" else lib.file()
    f.open(path)
    if module == "pyvmdk":
        f.open_extent_data_files()
    return f
files = [open_one(p) for p in paths]
for child, parent in zip(files, files[1:]):
    child.set_parent(parent)
top = files[0]
size = top.get_media_size()
with open(out, "wb") as w:
    w.truncate(size)
    top.seek_offset(0, 0)
    off = 0
    while off < size:
        b = top.read_buffer(min(1 << 20, size - off))
        if not b:
            sys.exit("ends at %d of %d" % (off, size))
        if b.strip(b"\0"):
            w.seek(off)
            w.write(b)
        off += len(b)
`

// LibyalRaw returns what one of libyal's modules, pyvmdk, pyqcow or pyvhdi, reads
// in the image at the first path, whose parents are the others.
func LibyalRaw(t testing.TB, module string, paths ...string) formats.Source {
	t.Helper()
	const python = "/usr/bin/python3" // the one that Debian's packages of modules are for
	Tool(t, python)
	if err := exec.Command(python, "-c", "import "+module).Run(); err != nil {
		if os.Getenv("TARVM_REQUIRE_TOOLS") == "1" {
			t.Fatalf("required: %s of libyal", module)
		}
		t.Skipf("%s of libyal is not installed", module)
	}
	raw := filepath.Join(t.TempDir(), "raw")
	Run(t, ".", python, append([]string{"-c", libyal, module, raw}, paths...)...)
	return openRaw(t, raw)
}

// SevenZipRaw returns what 7-Zip reads in the image at path.
func SevenZipRaw(t testing.TB, path string) formats.Source {
	t.Helper()
	dir := t.TempDir()
	Run(t, dir, "7zz", "x", "-y", "-bd", path)
	names, err := os.ReadDir(dir)
	if err != nil || len(names) != 1 {
		t.Fatalf("7-Zip made %v, %v", names, err)
	}
	return openRaw(t, filepath.Join(dir, names[0].Name()))
}

func openRaw(t testing.TB, path string) formats.Source {
	t.Helper()
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	st, err := f.Stat()
	if err != nil {
		t.Fatal(err)
	}
	return io.NewSectionReader(f, 0, st.Size())
}

// A QemuRun is a run as qemu-img map lists it.
type QemuRun struct {
	Start, Length       int64
	Depth               int
	Zero, Data, Present bool
	Offset              *int64 // in the file, of data that is not compressed
}

// QemuMap returns the runs that qemu-img maps in the image at path.
func QemuMap(t testing.TB, format, path string) (list []QemuRun) {
	t.Helper()
	out := qemuImg(t, path, "map", "-f", format, "--output=json", "IMAGE")
	if err := json.Unmarshal(out, &list); err != nil {
		t.Fatal(err)
	}
	return list
}

// CheckMap compares where the extents of d, which has no parents, find data with
// what qemu-img maps.
func CheckMap(t testing.TB, d formats.Disk, format, path string) {
	t.Helper()
	for _, q := range QemuMap(t, format, path) {
		for e, err := range d.Extents(q.Start, q.Length) {
			if err != nil {
				t.Fatal(err)
			}
			if q.Offset != nil && (e.Kind != formats.Data || e.Host != *q.Offset+e.Offset-q.Start) {
				t.Errorf("%+v; qemu has data at 0x%x of the file for 0x%x", e, *q.Offset, q.Start)
			}
			if q.Offset == nil && e.Kind == formats.Data {
				t.Errorf("%+v; qemu has no data there: %+v", e, q)
			}
		}
	}
}

// Problems returns what is wrong in m, what Open found first.
func Problems(t testing.TB, m *formats.Image) []formats.Problem {
	t.Helper()
	list := slices.Clone(m.Problems)
	if m.Check != nil {
		if err := m.Check(context.Background(), func(p formats.Problem) { list = append(list, p) }); err != nil {
			t.Fatal(err)
		}
	}
	return list
}

// NoneLeft checks that the goroutines begun since there were n have ended.
func NoneLeft(t testing.TB, n int) {
	t.Helper()
	for range 2000 {
		if runtime.NumGoroutine() <= n {
			return
		}
		time.Sleep(time.Millisecond) // they are done, and on their way out
	}
	t.Errorf("%d goroutines, there were %d", runtime.NumGoroutine(), n)
}

// ProblemTexts is Problems as texts: the severity, a colon, and what is wrong.
func ProblemTexts(t testing.TB, m *formats.Image) (list []string) {
	t.Helper()
	for _, p := range Problems(t, m) {
		list = append(list, p.Severity.String()+": "+p.String())
	}
	return list
}
