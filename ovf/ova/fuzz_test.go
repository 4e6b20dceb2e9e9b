package ova_test

import (
	"archive/tar"
	"archive/zip"
	"bytes"
	"errors"
	"io"
	"io/fs"
	"path"
	"strings"
	"testing"

	"tarvm/ovf"
	"tarvm/ovf/ova"
)

// FuzzOpen: whatever opens shows files with clean names that can be read and are as long as they are said to be, and is
// the same when it comes through a pipe.
func FuzzOpen(f *testing.F) {
	f.Add(tarred(f, tar.FormatUSTAR, good...))
	f.Add(tarred(f, tar.FormatPAX, good...))
	f.Add(tarred(f, tar.FormatGNU, prefixed("./", good)...))
	f.Add(zipped(f, zip.Store, good...))
	f.Add(zipped(f, zip.Deflate, good...))
	f.Add([]byte(gzipped(f, string(tarred(f, tar.FormatUSTAR, good...)))))
	f.Add(tarred(f, tar.FormatUSTAR, member{"vm.ovf", envelope(`<File ovf:id="f1" ovf:href="d" ovf:chunkSize="2"/>`)}, member{"d.000000000", "ab"}, member{"d.000000001", "c"}))
	f.Fuzz(func(t *testing.T, b []byte) {
		o := ova.Options{Spool: spool, MaxSpool: 1 << 20}
		p, err := open(b, o)
		if err != nil {
			known := false
			for _, e := range []error{ova.ErrNotPackage, ova.ErrCorrupt, ova.ErrLimit, ova.ErrSeveral, ovf.ErrSyntax, ovf.ErrUnsafe, ovf.ErrUnsupported} {
				known = known || errors.Is(err, e)
			}
			if !known {
				t.Fatalf("an error of no kind: %v", err)
			}
			return
		}
		defer p.Close()
		p.Missing()
		var names []string
		err = fs.WalkDir(p.FS(), ".", func(name string, e fs.DirEntry, err error) error {
			if err != nil {
				return err
			}
			if !fs.ValidPath(name) || strings.ContainsAny(path.Base(name), "\\\x00\n") {
				t.Fatalf("name %q", name)
			}
			if e.IsDir() {
				return nil
			}
			names = append(names, name)
			data, err := fs.ReadFile(p.FS(), name)
			if err != nil {
				return nil // damaged, or too large
			}
			st, err := fs.Stat(p.FS(), name)
			if err != nil || st.Size() != int64(len(data)) {
				t.Fatalf("%q: %d bytes, said to be %d", name, len(data), st.Size())
			}
			if !p.IsGzip(name) {
				r, _, err := p.Stored(name)
				if err != nil {
					t.Fatal(err)
				}
				again, err := io.ReadAll(r)
				if err != nil || !bytes.Equal(again, data) {
					t.Fatalf("%q is another as it is stored: %v", name, err)
				}
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := p.Verify(t.Context(), ova.VerifyOptions{}); err != nil && !errors.Is(err, ovf.ErrSyntax) && !errors.Is(err, ova.ErrCorrupt) && p.Container == ova.Tar {
			t.Logf("verify: %v", err)
		}
		if p.Container != ova.Tar {
			return
		}
		q, err := ova.OpenStream(t.Context(), bytes.NewReader(b), o)
		if err != nil {
			if errors.Is(err, ova.ErrLimit) {
				return
			}
			t.Fatalf("through a pipe: %v", err)
		}
		defer q.Close()
		if len(q.Members) != len(p.Members) || string(q.Envelope.Data) != string(p.Envelope.Data) {
			t.Fatal("through a pipe it is another package")
		}
	})
}

// FuzzSafeName: every name becomes one that may be written, and only such are taken.
func FuzzSafeName(f *testing.F) {
	f.Add("a[1].vmdk", "x")
	f.Add("\xff/..", "")
	f.Fuzz(func(t *testing.T, name, other string) {
		taken := map[string]bool{ova.SafeName(other, nil): true}
		s := ova.SafeName(name, taken)
		if err := ova.CheckName(s); err != nil || taken[s] {
			t.Fatalf("%q becomes %q: %v", name, s, err)
		}
		if ova.CheckName(name) == nil && !taken[name] && s != name {
			t.Fatalf("%q becomes %q", name, s)
		}
		var b bytes.Buffer
		w := ova.NewWriter(&b, ova.WriterOptions{})
		if err := w.Next(s, 0); err != nil {
			t.Fatal(err)
		}
		h, err := tar.NewReader(&b).Next()
		if err != nil || h.Name != s {
			t.Fatalf("%q in a tar is %+v: %v", s, h, err)
		}
	})
}
