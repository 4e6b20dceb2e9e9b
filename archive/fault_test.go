package archive_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"

	"tarvm/archive"
	"tarvm/archive/archivetest"
	codecs "tarvm/archive/codec/all"
	"tarvm/archive/vmdir"
	"tarvm/delta"
)

// quiet fails the test when a run of fn leaves goroutines or files in TempDir behind.
func quiet(t testing.TB, temp string, fn func()) {
	t.Helper()
	before := runtime.NumGoroutine()
	fn()
	for deadline := time.Now().Add(5 * time.Second); runtime.NumGoroutine() > before; time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			b := make([]byte, 1<<20)
			t.Fatalf("%d goroutines, before it were %d:\n%s", runtime.NumGoroutine(), before, b[:runtime.Stack(b, true)])
		}
	}
	left, err := os.ReadDir(temp)
	if err != nil || len(left) > 0 {
		t.Fatalf("left in TempDir: %v %v", left, err)
	}
}

// A disk that fills up, or fails, at any byte: the error is the writer's, at once.
func TestOutputFails(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "vm")
	tr := archivetest.New(t, dir, 2)
	base := pack(t, dir, archive.PackOptions{})
	parent := base.manifest(t)
	tr.Change(t)
	temp := t.TempDir()
	r := rand.New(rand.NewPCG(1, 2))
	for _, c := range codecs.Codecs() {
		for _, par := range []*archive.Manifest{nil, parent} {
			o := archive.PackOptions{Codec: c, Name: "test", Parent: par, TempDir: temp}
			whole := pack(t, dir, o)
			run := func(out, side io.Writer) (*archive.Result, error) {
				plan, err := archive.MakePlan(context.Background(), dir, o)
				mustDo(t, err)
				defer plan.Close()
				return plan.Pack(context.Background(), out, side)
			}
			points := 16
			if testing.Short() || archivetest.Race || c.Name() == "xz" {
				points = 3
			}
			for i := range points {
				want := []error{syscall.ENOSPC, syscall.EIO}[i%2]
				n := r.IntN(len(whole.data))
				switch i {
				case 0:
					n = 0
				case 1:
					n = len(whole.data) - 1
				}
				quiet(t, temp, func() {
					_, err := run(&limited{n, &os.PathError{Op: "write", Path: "out", Err: want}}, io.Discard)
					if !errors.Is(err, want) {
						t.Errorf("%s: output fails at byte %d of %d: %v", c.Name(), n, len(whole.data), err)
					}
				})
				n = r.IntN(len(whole.side))
				if i == 1 {
					n = len(whole.side) - 1
				}
				quiet(t, temp, func() {
					_, err := run(io.Discard, &limited{n, &os.PathError{Op: "write", Path: "side", Err: want}})
					if !errors.Is(err, want) {
						t.Errorf("%s: manifest fails at byte %d of %d: %v", c.Name(), n, len(whole.side), err)
					}
				})
			}
			quiet(t, temp, func() {
				if _, err := run(shortWriter{}, nil); !errors.Is(err, io.ErrShortWrite) {
					t.Errorf("%s: a writer that writes less, without an error: %v", c.Name(), err)
				}
				if _, err := run(io.Discard, shortWriter{}); !errors.Is(err, io.ErrShortWrite) {
					t.Errorf("%s: manifest: a writer that writes less, without an error: %v", c.Name(), err)
				}
			})
		}
	}
}

type shortWriter struct{}

func (shortWriter) Write(p []byte) (int, error) { return len(p) / 2, nil }

// A table that does not fit in memory, and nowhere to put it.
func TestNoTempDir(t *testing.T) {
	if testing.Short() || archivetest.Race {
		t.Skip("reads 2 GiB")
	}
	dir := t.TempDir()
	// Digests of 17 MiB: blocks of 4 KiB, and the sums are as long again.
	const size = 17 << 20 / 32 * 4096
	f, err := os.Create(filepath.Join(dir, "disk.img"))
	mustDo(t, err)
	b := bytes.Repeat([]byte("not zero"), 1<<17)
	for n := 0; n < size; n += len(b) {
		_, err := f.Write(b)
		mustDo(t, err)
	}
	mustDo(t, f.Close())
	temp := t.TempDir()
	o := archive.PackOptions{Codec: codecNamed(t, "lz4"), Block: 4096, TempDir: filepath.Join(temp, "missing")}
	quiet(t, temp, func() {
		if _, err := tryPack(dir, o); !errors.Is(err, os.ErrNotExist) || !strings.Contains(err.Error(), "temporary table") {
			t.Errorf("without a directory: %v", err)
		}
	})
}

// Cancelled anywhere, Pack returns the cause soon, and leaves nothing behind.
func TestCancel(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "vm")
	tr := archivetest.New(t, dir, 6)
	writeFile(t, dir, "more.img", noise(6, 8<<20))
	base := pack(t, dir, archive.PackOptions{})
	parent := base.manifest(t)
	tr.Change(t)
	writeFile(t, dir, "more.img", noise(7, 8<<20))
	temp := t.TempDir()
	r := rand.New(rand.NewPCG(3, 4))
	cause := errors.New("enough")
	runs := 40
	if testing.Short() || archivetest.Race {
		runs = 12
	}
	late := 0
	for i := range runs {
		o := archive.PackOptions{Codec: codecNamed(t, []string{"none", "zstd", "lz4", "gzip"}[i/2%4]), TempDir: temp}
		if i == 1 {
			o.Codec = codecNamed(t, "xz") // the slowest: once is enough
		}
		if i%2 == 1 {
			o.Parent = parent
		}
		plan, err := archive.MakePlan(context.Background(), dir, o)
		mustDo(t, err)
		quiet(t, temp, func() {
			ctx, cancel := context.WithCancelCause(context.Background())
			defer cancel(nil)
			// By bytes, so that it happens at the same places on slow machines and on fast ones; a third by time.
			w := &canceller{n: r.Int64N(14 << 20)}
			var at time.Time
			w.cancel = func() { at = time.Now(); cancel(cause) }
			if i%3 == 0 {
				w.n = 1 << 62
				timer := time.AfterFunc(time.Duration(r.IntN(30_000))*time.Microsecond, func() { cancel(cause) })
				defer timer.Stop()
			}
			_, err := plan.Pack(ctx, w, w)
			if ctx.Err() == nil {
				late++ // it was done before
				if err != nil {
					t.Errorf("run %d: %v", i, err)
				}
				return
			}
			if err != nil && !errors.Is(err, cause) {
				t.Errorf("run %d: %v", i, err)
			}
			if d := time.Since(at); !at.IsZero() && d > 10*time.Second {
				t.Errorf("run %d: %v until it returned", i, d)
			}
		})
		mustDo(t, plan.Close())
	}
	if late > runs*3/4 {
		t.Errorf("%d of %d runs were done before they were cancelled", late, runs)
	}
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if _, err := archive.MakePlan(ctx, dir, archive.PackOptions{Codec: codecNamed(t, "none")}); !errors.Is(err, context.Canceled) {
		t.Errorf("MakePlan: %v", err)
	}
	plan, err := archive.MakePlan(context.Background(), dir, archive.PackOptions{Codec: codecNamed(t, "none")})
	mustDo(t, err)
	defer plan.Close()
	if _, err := plan.Pack(ctx, io.Discard, io.Discard); !errors.Is(err, context.Canceled) {
		t.Errorf("Pack: %v", err)
	}
	if _, err := base.open(t).Verify(ctx, archive.VerifyOptions{}); !errors.Is(err, context.Canceled) {
		t.Errorf("Verify: %v", err)
	}
}

// Packing that waits for a busy file to stand still is cancelled, too.
func TestCancelWhileItWaits(t *testing.T) {
	dir := t.TempDir()
	writeFile(t, dir, "disk.img", noise(1, liveSize))
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	plan, err := archive.MakePlan(ctx, dir, archive.PackOptions{
		Codec: codecNamed(t, "none"), Workers: 1, Tries: 1000,
		Progress: at("disk.img", func(n int) {
			changes[0].do(t, filepath.Join(dir, "disk.img"))
			if n == 2 { // the wait that follows lasts 400 ms
				time.AfterFunc(200*time.Millisecond, cancel)
			}
		}),
	})
	mustDo(t, err)
	defer plan.Close()
	quiet(t, t.TempDir(), func() {
		if _, err := plan.Pack(ctx, io.Discard, nil); !errors.Is(err, context.Canceled) {
			t.Error(err)
		}
	})
}

// A file of the machine that cannot be read, anywhere: packing ends with its error and its name, once, and leaves nothing
// behind; what the medium says is never taken for a file that changed or vanished.
func TestFilesFail(t *testing.T) {
	dir := t.TempDir()
	const large, small, tiny = "disks/large.img", "small.img", "tiny.vmx"
	mustDo(t, os.Mkdir(filepath.Join(dir, "disks"), 0o755))
	sizes := map[string]int64{large: 5<<20 + 77, small: 300_000, tiny: 700}
	for i, n := range []string{large, small, tiny} {
		writeFile(t, dir, n, noise(uint64(i), int(sizes[n])))
	}
	base := pack(t, dir, archive.PackOptions{})
	parent := base.manifest(t)
	temp := t.TempDir()
	for name, size := range sizes {
		for _, at := range []int64{0, 1, size / 2, size - 1} {
			for _, live := range []bool{false, true} {
				for _, par := range []*archive.Manifest{nil, parent} {
					fault{path: name, read: at, err: syscall.EIO}.check(t, dir, temp, archive.PackOptions{Live: live, Parent: par})
				}
			}
		}
		for _, f := range []fault{
			{open: true}, {changed: 1}, {changed: 2}, {extents: true, read: -1},
		} {
			if f.extents && name == tiny {
				continue // nobody asks for its holes
			}
			f.path, f.err, f.read = name, syscall.EIO, -1
			f.check(t, dir, temp, archive.PackOptions{Parent: parent})
			f.err = syscall.ESTALE
			f.check(t, dir, temp, archive.PackOptions{Live: true})
		}
	}
}

// A fault is what fails in a tree of files.
type fault struct {
	path    string
	open    bool
	read    int64 // of the byte at this offset; -1: none
	extents bool
	changed int // the call with this number; 0: none
	err     error
}

func (f fault) check(t testing.TB, dir, temp string, o archive.PackOptions) {
	t.Helper()
	tree, err := archive.OpenDir(dir)
	mustDo(t, err)
	o.Codec, o.TempDir = codecNamed(t, "lz4"), temp
	plan, err := archive.MakePlanOf(context.Background(), &faultyTree{tree, f}, o)
	mustDo(t, err)
	defer plan.Close()
	quiet(t, temp, func() {
		_, err := plan.Pack(context.Background(), io.Discard, io.Discard)
		if !errors.Is(err, f.err) || strings.Count(err.Error(), f.path) != 1 {
			t.Errorf("%+v, live %v, increment %v: %v", f, o.Live, o.Parent != nil, err)
		}
	})
}

type faultyTree struct {
	archive.Tree
	f fault
}

func (t *faultyTree) Open(e *vmdir.Entry) (archive.TreeFile, error) {
	file, err := t.Tree.Open(e)
	if err != nil || string(e.Path) != t.f.path {
		return file, err
	}
	if t.f.open {
		return nil, errors.Join(fmt.Errorf("%s: %w", e.Path, t.f.err), file.Close())
	}
	return &faultyFile{file, t.f, 0}, nil
}

type faultyFile struct {
	archive.TreeFile
	f     fault
	calls int
}

func (f *faultyFile) fail() error { return fmt.Errorf("%s: %w", f.f.path, f.f.err) }

func (f *faultyFile) ReadAt(p []byte, off int64) (int, error) {
	if f.f.read >= off && f.f.read < off+int64(len(p)) {
		n, _ := f.TreeFile.ReadAt(p[:f.f.read-off], off)
		return n, f.fail()
	}
	return f.TreeFile.ReadAt(p, off)
}

func (f *faultyFile) Extents(e *vmdir.Entry) ([]delta.Extent, error) {
	if f.f.extents {
		return nil, f.fail()
	}
	return f.TreeFile.Extents(e)
}

func (f *faultyFile) Changed(e *vmdir.Entry) (bool, error) {
	if f.calls++; f.calls == f.f.changed {
		return false, f.fail()
	}
	return f.TreeFile.Changed(e)
}

// canceller cancels when n bytes have been written.
type canceller struct {
	n      int64
	cancel func()
}

func (c *canceller) Write(p []byte) (int, error) {
	if c.n >= 0 && c.n < int64(len(p)) {
		c.cancel()
	}
	c.n -= int64(len(p))
	return len(p), nil
}

// A source that cannot be read is no damage: Open and Verify hand its error on.
func TestSourceFails(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "vm")
	archivetest.New(t, dir, 1)
	for _, c := range codecs.Codecs() {
		if archivetest.Race && c.Name() == "xz" {
			continue // slow, and coded by the same workers
		}
		p := pack(t, dir, archive.PackOptions{Codec: c})
		n := int64(len(p.data))
		for i := range int64(24) {
			bad := n * i / 23
			src := &failing{bytes.NewReader(p.data), max(0, bad-1), max(1, bad)}
			a, err := archive.Open(src, codecs.Codecs())
			if err != nil {
				if !errors.Is(err, syscall.EIO) {
					t.Errorf("%s: EIO at byte %d of %d: Open: %v", c.Name(), bad, n, err)
				}
				continue
			}
			r, err := a.Verify(context.Background(), archive.VerifyOptions{Workers: 2})
			if err == nil && r.Err() == nil {
				t.Errorf("%s: EIO at byte %d of %d is not found", c.Name(), bad, n)
			}
			if err != nil && !errors.Is(err, syscall.EIO) {
				t.Errorf("%s: EIO at byte %d of %d: Verify: %v", c.Name(), bad, n, err)
			}
			if err == nil && !strings.Contains(fmt.Sprint(r.Damages), syscall.EIO.Error()) {
				t.Errorf("%s: EIO at byte %d of %d: damages %v", c.Name(), bad, n, r.Damages)
			}
		}
	}
}

// failing is a source of which the bytes from lo to hi cannot be read.
type failing struct {
	*bytes.Reader
	lo, hi int64
}

func (f *failing) ReadAt(p []byte, off int64) (int, error) {
	if off < f.hi && off+int64(len(p)) > f.lo {
		n, _ := f.Reader.ReadAt(p[:max(0, f.lo-off)], off)
		return n, &os.PathError{Op: "read", Path: "a.tar", Err: syscall.EIO}
	}
	return f.Reader.ReadAt(p, off)
}
