package catalogue_test

import (
	"compress/gzip"
	"errors"
	"io/fs"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"tarvm/archive/repo/catalogue"
)

func TestOpenLocal(t *testing.T) {
	dir := t.TempDir()
	name := filepath.Join(dir, "catalogue.json")
	data := content(1000, 1)
	for path, b := range map[string][]byte{"catalogue.json": []byte(one), "big.json": make([]byte, 17<<20), "d/vm.qcow2": data, "bad.json": []byte(one[1:])} {
		path = filepath.Join(dir, path)
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, b, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	t.Chdir(dir)
	link := filepath.Join(t.TempDir(), "link")
	if err := os.Symlink(name, link); err != nil {
		link = name
	}
	file := (&url.URL{Scheme: "file", Path: "/" + strings.TrimPrefix(filepath.ToSlash(name), "/")}).String()
	for _, where := range []string{name, "catalogue.json", "./catalogue.json", link, file, strings.Replace(file, "file://", "file://localhost", 1)} {
		c, err := catalogue.Open(t.Context(), where, catalogue.OpenOptions{})
		if err != nil {
			t.Errorf("%s: %v", where, err)
			continue
		}
		f := c.Machines[0].Versions[0].Files[0]
		f.Blob = *blobOf(data)
		f.URL = "d/vm.qcow2"
		out := t.TempDir()
		list, err := c.Fetch(t.Context(), &f, out, quick())
		if err != nil || len(list) != 1 || list[0].Path != filepath.Join(out, "vm.qcow2") {
			t.Errorf("%s: %v, %v", where, list, err)
			continue
		}
		same(t, list[0].Path, data)
	}
	for where, target := range map[string]error{
		"none.json": fs.ErrNotExist, "file:///none.json": fs.ErrNotExist, "": fs.ErrInvalid, "a\x00b": fs.ErrInvalid, "bad.json": catalogue.ErrInvalid,
		dir: nil, "file://host/catalogue.json": nil, "ftp://host/catalogue.json": nil, "http:///catalogue.json": nil, "big.json": nil,
	} {
		_, err := catalogue.Open(t.Context(), where, catalogue.OpenOptions{})
		if err == nil || target != nil && !errors.Is(err, target) {
			t.Errorf("%q: %v", where, err)
		}
	}
	var size *catalogue.SizeError
	if _, err := catalogue.Open(t.Context(), "big.json", catalogue.OpenOptions{}); !errors.As(err, &size) || !strings.Contains(err.Error(), "big.json") {
		t.Error(err)
	}
	if runtime.GOOS == "linux" {
		// One that waits for ever when it is opened.
		if _, err := catalogue.Open(t.Context(), "/dev/tty", catalogue.OpenOptions{}); err == nil {
			t.Error("a terminal was read")
		}
	}
}

func TestOpenHTTP(t *testing.T) {
	n := 0
	data := content(1000, 2)
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		n++
		switch r.URL.Path {
		case "/old/catalogue.json":
			http.Redirect(w, r, "/new/place/catalogue.json?token=s3cr3t", http.StatusMovedPermanently)
		case "/new/place/catalogue.json":
			if n%3 == 0 {
				w.WriteHeader(http.StatusServiceUnavailable)
				return
			}
			w.Header().Set("Content-Encoding", "gzip")
			z := gzip.NewWriter(w)
			_, _ = z.Write([]byte(one))
			z.Close()
		case "/new/place/d/vm.qcow2":
			if u, p, ok := r.BasicAuth(); !ok || u != "me" || p != "s3cr3t" || r.URL.RawQuery != "" {
				w.WriteHeader(http.StatusUnauthorized)
				return
			}
			_, _ = w.Write(data)
		case "/bomb":
			w.Header().Set("Content-Encoding", "gzip")
			z := gzip.NewWriter(w)
			for range 3 {
				_, _ = z.Write(make([]byte, 1<<20))
			}
			z.Close()
		case "/page":
			_, _ = w.Write([]byte("<html>log in</html>"))
		default:
			w.WriteHeader(http.StatusNotFound)
		}
	}))
	defer s.Close()
	o := catalogue.OpenOptions{HTTP: catalogue.HTTP{Backoff: time.Millisecond, Retries: 2}, MaxSize: 1 << 20}
	for range 4 {
		c, err := catalogue.Open(t.Context(), s.URL+"/old/catalogue.json", o)
		if err != nil {
			t.Fatal(err)
		}
		p, err := c.Place(&c.Machines[0].Versions[0].Files[0].Blob)
		if err != nil || p.String() != s.URL+"/new/place/d/vm.qcow2" || p.URL.RawQuery != "" {
			t.Fatal(p, err)
		}
	}
	for path, says := range map[string]string{"/none": "404", "/bomb": "more than", "/page": "not a valid catalogue"} {
		_, err := catalogue.Open(t.Context(), strings.Replace(s.URL, "//", "//me:s3cr3t@", 1)+path+"?token=s3cr3t", o)
		if err == nil || !strings.Contains(err.Error(), says) || !strings.Contains(err.Error(), path) || strings.Contains(err.Error(), "s3cr3t") {
			t.Errorf("%s: %v", path, err)
		}
	}
	// Who may read the catalogue may read the files beside it; nothing of that is written down.
	c, err := catalogue.Open(t.Context(), strings.Replace(s.URL, "//", "//me:s3cr3t@", 1)+"/new/place/catalogue.json", o)
	if err != nil {
		t.Fatal(err)
	}
	f := c.Machines[0].Versions[0].Files[0]
	f.Blob = *blobOf(data)
	f.URL = "d/vm.qcow2"
	dir := t.TempDir()
	fo := quick()
	fo.Progress = func(int64, int64) {
		b, err := os.ReadFile(filepath.Join(dir, "vm.qcow2.part.json"))
		if err != nil || strings.Contains(string(b), "s3cr3t") || !strings.Contains(string(b), "/new/place/d/vm.qcow2") {
			t.Errorf("%s, %v", b, err)
		}
	}
	if _, err := c.Fetch(t.Context(), &f, dir, fo); err != nil {
		t.Fatal(err)
	}
	same(t, filepath.Join(dir, "vm.qcow2"), data)
}

// Files that belong together come together, and their progress is one.
func TestFetchWith(t *testing.T) {
	dir, out := t.TempDir(), t.TempDir()
	c := catalogue.New("")
	c.Base = catalogue.Place{Dir: dir, Name: "catalogue.json"}
	f := &catalogue.File{Kind: catalogue.KindPackage, Format: "ovf"}
	for i, name := range []string{"vm.ovf", "disk1.vmdk", "disk2.vmdk"} {
		data := content(1000*(i+1), uint64(i))
		if err := os.WriteFile(filepath.Join(dir, name), data, 0o600); err != nil {
			t.Fatal(err)
		}
		b, err := catalogue.Measure(t.Context(), filepath.Join(dir, name))
		if err != nil {
			t.Fatal(err)
		}
		if want := blobOf(data); b.URL != name || b.Size != want.Size || b.Digests.SHA256 != want.Digests.SHA256 || b.Digests.BLAKE3 != want.Digests.BLAKE3 {
			t.Errorf("%+v, want %+v", b, want)
		}
		if i == 0 {
			f.Blob = b
		} else {
			f.With = append(f.With, b)
		}
	}
	if err := c.Add("m", "1", *f); err != nil {
		t.Fatal(err)
	}
	o := quick()
	var last int64
	o.Progress = func(done, total int64) {
		if done <= last || total != 6000 {
			t.Errorf("%d of %d after %d", done, total, last)
		}
		last = done
	}
	list, err := c.Fetch(t.Context(), f, out, o)
	if err != nil || len(list) != 3 || last != 6000 {
		t.Fatal(list, err, last)
	}
	only(t, out, "disk1.vmdk", "disk2.vmdk", "vm.ovf")
}
