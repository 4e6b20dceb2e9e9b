package ova_test

import (
	"archive/tar"
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"tarvm/formats/formatstest"
	"tarvm/ovf"
	"tarvm/ovf/ova"
)

// write writes the same three members to a pipe, or to a file with what comes first filled in last.
func write(t *testing.T, w *ova.Writer, disk string) {
	t.Helper()
	const room = 500
	text, err := ova.Pad([]byte("<Envelope/>"), room)
	must(t, err)
	mf := ovf.AppendDigest(nil, ovf.Digest{Algorithm: ovf.SHA256, Name: "vm.ovf", Sum: make([]byte, 32)})
	if n := ova.ManifestSize(ovf.SHA256, []string{"vm.ovf"}); n != int64(len(mf)) {
		t.Fatalf("a manifest of %d bytes, said to be %d", len(mf), n)
	}
	put := func(name string, size int64, b []byte) {
		must(t, w.Next(name, size))
		_, err := io.Copy(w, io.MultiReader(bytes.NewReader(b))) // in pieces
		must(t, err)
	}
	if !w.CanSeek() {
		put("vm.ovf", room, text)
		put("vm.mf", int64(len(mf)), mf)
		put("disk.vmdk", int64(len(disk)), []byte(disk))
		must(t, w.Close())
		return
	}
	a, err := w.Reserve("vm.ovf", room)
	must(t, err)
	b, err := w.Reserve("vm.mf", int64(len(mf)))
	must(t, err)
	put("disk.vmdk", -1, []byte(disk))
	must(t, b.Fill(mf))
	must(t, a.Fill(text))
	must(t, w.Close())
}

func TestWriter(t *testing.T) {
	o := ova.WriterOptions{ModTime: time.Unix(1_700_000_000, 123), UID: 64, GID: 64}
	dir := t.TempDir()
	for _, n := range []int{0, 1, 511, 512, 513, 100_000} {
		disk := strings.Repeat("d", n)
		var pipe bytes.Buffer
		write(t, ova.NewWriter(&pipe, o), disk)
		name := filepath.Join(dir, fmt.Sprint(n, ".ova"))
		f, err := os.Create(name)
		must(t, err)
		write(t, ova.NewWriterAt(f, o), disk)
		must(t, f.Close())
		file, err := os.ReadFile(name)
		must(t, err)
		if !bytes.Equal(file, pipe.Bytes()) {
			t.Errorf("%d bytes: not the same in a pipe and a file", n)
		}
		if len(file)%10240 != 0 || !bytes.HasSuffix(file, make([]byte, 1024)) {
			t.Errorf("%d bytes: an archive of %d", n, len(file))
		}
		for i := 0; i < 3; i++ {
			r := tar.NewReader(bytes.NewReader(file))
			var h *tar.Header
			for range i + 1 {
				h, err = r.Next()
				must(t, err)
			}
			if h.Format != tar.FormatUSTAR || h.Uid != 64 || h.Gid != 64 || h.ModTime.UnixNano() != 1_700_000_000e9 || h.Mode != 0o644 {
				t.Errorf("%+v", h)
			}
		}
		for _, tool := range []string{"tar", "bsdtar"} {
			t.Run(fmt.Sprint(tool, n), func(t *testing.T) {
				if got := string(formatstest.Run(t, dir, tool, "-tf", name)); got != "vm.ovf\nvm.mf\ndisk.vmdk\n" {
					t.Errorf("%q", got)
				}
				if got := string(formatstest.Run(t, dir, tool, "-xOf", name, "disk.vmdk")); got != disk {
					t.Errorf("%s reads %d bytes of %d", tool, len(got), n)
				}
			})
		}
	}
}

// TestSetTime: members have times of their own, also those whose size is known later, unless there is one for all.
func TestSetTime(t *testing.T) {
	at := func(n int64) time.Time { return time.Unix(n, 5) }
	for _, all := range []time.Time{{}, time.Unix(7, 0)} {
		f, err := os.Create(filepath.Join(t.TempDir(), "x.ova"))
		must(t, err)
		w := ova.NewWriterAt(f, ova.WriterOptions{ModTime: all})
		must(t, w.Next("none", 0))
		w.SetTime(at(1_000_000_000))
		must(t, w.Next("first", -1))
		_, err = w.Write([]byte("x"))
		must(t, err)
		w.SetTime(at(1_100_000_000))
		h, err := w.Reserve("second", 1)
		must(t, err)
		w.SetTime(at(-1))
		must(t, w.Next("early", 0))
		w.SetTime(at(1 << 33))
		must(t, w.Next("late", 0))
		must(t, h.Fill([]byte("y")))
		must(t, w.Close())
		must(t, f.Close())
		b, err := os.ReadFile(f.Name())
		must(t, err)
		r := tar.NewReader(bytes.NewReader(b))
		for _, want := range []int64{0, 1_000_000_000, 1_100_000_000, 0, 0} {
			if !all.IsZero() {
				want = 7
			}
			if h, err := r.Next(); err != nil || h.ModTime.Unix() != want || h.ModTime.Nanosecond() != 0 {
				t.Errorf("%+v, %v, want %d", h, err, want)
			}
		}
	}
}

// TestLargeMember: 8 GiB need another form of size.
func TestLargeMember(t *testing.T) {
	for size, format := range map[int64]tar.Format{1<<33 - 1: tar.FormatUSTAR, 1 << 33: tar.FormatGNU, 1 << 45: tar.FormatGNU} {
		var b bytes.Buffer
		w := ova.NewWriter(&b, ova.WriterOptions{})
		must(t, w.Next("disk.vmdk", size))
		h, err := tar.NewReader(bytes.NewReader(b.Bytes())).Next()
		must(t, err)
		if h.Size != size || h.Format != format || b.Len() != 512 {
			t.Errorf("%d: %d, %v", size, h.Size, h.Format)
		}
	}
	formatstest.Tool(t, "tar")
	// Sparse, so that it takes no room.
	name := filepath.Join(t.TempDir(), "large.ova")
	f, err := os.Create(name)
	must(t, err)
	w := ova.NewWriterAt(sparse{f}, ova.WriterOptions{})
	must(t, w.Next("disk.vmdk", -1))
	zero := make([]byte, 64<<20)
	for range (1 << 33) / len(zero) {
		_, err := w.Write(zero)
		must(t, err)
	}
	must(t, w.Next("last", 1))
	_, err = w.Write([]byte("x"))
	must(t, err)
	must(t, w.Close())
	must(t, f.Close())
	if got := string(formatstest.Run(t, ".", "tar", "-tvf", name)); !strings.Contains(got, " 8589934592 ") || !strings.HasSuffix(got, "last\n") {
		t.Error(got)
	}
	g, err := os.Open(name)
	must(t, err)
	defer g.Close()
	r := tar.NewReader(g)
	for _, want := range []int64{1 << 33, 1} {
		h, err := r.Next()
		must(t, err)
		if h.Size != want {
			t.Errorf("%d", h.Size)
		}
	}
}

// sparse writes no zeros.
type sparse struct{ f *os.File }

func (s sparse) WriteAt(b []byte, off int64) (int, error) {
	if len(b) > 1<<20 {
		return len(b), nil
	}
	return s.f.WriteAt(b, off)
}

func TestWriterRefuses(t *testing.T) {
	file := func() *ova.Writer {
		f, err := os.Create(filepath.Join(t.TempDir(), "x"))
		must(t, err)
		t.Cleanup(func() { f.Close() })
		return ova.NewWriterAt(f, ova.WriterOptions{})
	}
	pipe := func() *ova.Writer { return ova.NewWriter(io.Discard, ova.WriterOptions{}) }
	second := func(_ any, err error) error { return err }
	for name, c := range map[string]struct {
		w    *ova.Writer
		do   func(w *ova.Writer) error
		want error
	}{
		"unknown size":  {pipe(), func(w *ova.Writer) error { return w.Next("a", -1) }, ova.ErrPipe},
		"reserve":       {pipe(), func(w *ova.Writer) error { return second(w.Reserve("a", 5)) }, ova.ErrPipe},
		"too much":      {pipe(), func(w *ova.Writer) error { return errors.Join(w.Next("a", 1), second(w.Write([]byte("xx")))) }, ova.ErrWrite},
		"too little":    {pipe(), func(w *ova.Writer) error { return errors.Join(w.Next("a", 1), w.Close()) }, ova.ErrWrite},
		"nothing begun": {pipe(), func(w *ova.Writer) error { return second(w.Write([]byte("x"))) }, ova.ErrWrite},
		"twice":         {pipe(), func(w *ova.Writer) error { return errors.Join(w.Next("a", 0), w.Next("a", 0)) }, ova.ErrName},
		"not filled":    {file(), func(w *ova.Writer) error { _, err := w.Reserve("a", 5); return errors.Join(err, w.Close()) }, ova.ErrWrite},
		"filled wrong":  {file(), func(w *ova.Writer) error { h, err := w.Reserve("a", 5); return errors.Join(err, h.Fill([]byte("x"))) }, ova.ErrWrite},
		"written into": {file(), func(w *ova.Writer) error {
			_, err := w.Reserve("a", 5)
			return errors.Join(err, second(w.Write([]byte("x"))))
		}, ova.ErrWrite},
		"filled twice": {file(), func(w *ova.Writer) error {
			h, err := w.Reserve("a", 1)
			return errors.Join(err, h.Fill([]byte("x")), h.Fill([]byte("x")))
		}, ova.ErrWrite},
	} {
		if err := c.do(c.w); !errors.Is(err, c.want) {
			t.Errorf("%s: %v", name, err)
		}
		if err := c.w.Close(); !errors.Is(err, c.want) {
			t.Errorf("%s: the error does not stay: %v", name, err)
		}
	}
	if _, err := ova.Pad([]byte("abc"), 2); !errors.Is(err, ova.ErrWrite) {
		t.Error(err)
	}
	if n := ova.ManifestSize("MD5", []string{"a"}); n != 0 {
		t.Errorf("MD5: %d", n)
	}
}

type failing struct{ after int }

var errDisk = errors.New("disk full")

func (f *failing) Write(b []byte) (int, error) {
	if f.after -= len(b); f.after < 0 {
		return 0, errDisk
	}
	return len(b), nil
}

func TestOutputFails(t *testing.T) {
	for n := 0; n < 10240; n += 300 {
		w := ova.NewWriter(&failing{n}, ova.WriterOptions{})
		err := w.Next("a", 1000)
		if err == nil {
			_, err = w.Write(make([]byte, 1000))
		}
		if e := w.Close(); !errors.Is(e, errDisk) || err != nil && !errors.Is(err, errDisk) {
			t.Errorf("after %d bytes: %v, %v", n, err, e)
		}
	}
}

func TestNames(t *testing.T) {
	for name, ok := range map[string]bool{
		"disk-1.vmdk": true, "My VM (2).ovf": true, strings.Repeat("x", 100): true, "a=b": true, "x": true,
		"": false, strings.Repeat("x", 101): false, "a/b": false, `a\b`: false, ".x": false, "x.": false, " x": false, "x ": false,
		"a*": false, "a?": false, "[a]": false, "a:b": false, "ä": false, "a\n": false, "a%20b": false, "a#b": false, "\x7f": false, "..": false,
	} {
		if err := ova.CheckName(name); (err == nil) != ok || err != nil && !errors.Is(err, ova.ErrName) {
			t.Errorf("%q: %v", name, err)
		}
		taken := map[string]bool{"file": true}
		safe := ova.SafeName(name, taken)
		if ova.CheckName(safe) != nil || taken[safe] || ok && safe != name {
			t.Errorf("%q becomes %q", name, safe)
		}
		taken[safe] = true
		if again := ova.SafeName(name, taken); ova.CheckName(again) != nil || taken[again] {
			t.Errorf("%q becomes %q, which is taken", name, again)
		}
	}
	for name, want := range map[string]string{
		"./a.vmdk": "a.vmdk", "d/虚拟机.ovf": "___.ovf", "a[1].iso": "a_1_.iso", strings.Repeat("x", 120) + ".vmdk": strings.Repeat("x", 87) + ".vmdk",
	} {
		if got := ova.SafeName(name, nil); got != want {
			t.Errorf("%q becomes %q", name, got)
		}
	}
}
