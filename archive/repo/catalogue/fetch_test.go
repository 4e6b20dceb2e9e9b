package catalogue_test

import (
	"bytes"
	"compress/gzip"
	"context"
	"crypto/sha256"
	"crypto/sha512"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/zeebo/blake3"

	"tarvm/archive/repo/catalogue"
	"tarvm/archive/vmdir"
)

// content is n bytes that do not compress, with zeros in the middle.
func content(n int, seed uint64) []byte {
	b := make([]byte, n)
	var key [32]byte
	key[0] = byte(seed)
	_, _ = rand.NewChaCha8(key).Read(b)
	if n > 400<<10 {
		clear(b[100<<10 : 300<<10])
	}
	return b
}

func blobOf(b []byte) *catalogue.Blob {
	s2, s5, b3 := sha256.Sum256(b), sha512.Sum512(b), blake3.Sum256(b)
	return &catalogue.Blob{URL: "vm.ova", Size: int64(len(b)), Digests: catalogue.Digests{
		SHA256: hex.EncodeToString(s2[:]), SHA512: hex.EncodeToString(s5[:]), BLAKE3: hex.EncodeToString(b3[:])}}
}

// A server gives one file and counts. Before it answers, what the test wants to happen happens.
type server struct {
	*httptest.Server
	t    *testing.T
	mu   sync.Mutex
	data []byte
	etag string
	n    int      // requests
	sent int64    // bytes of bodies
	asks []string // ranges of the requests
	// fault, unless it is nil, may answer the request by itself: it returns true then.
	fault func(n int, w http.ResponseWriter, r *http.Request) bool
}

func serve(t *testing.T, data []byte) *server {
	s := &server{t: t, data: data, etag: `"one"`}
	s.Server = httptest.NewServer(s)
	t.Cleanup(s.Close)
	return s
}

func (s *server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	s.mu.Lock()
	s.n++
	n := s.n
	s.asks = append(s.asks, r.Header.Get("Range"))
	s.mu.Unlock()
	if a := r.Header.Get("Accept-Encoding"); a != "identity" {
		s.t.Errorf("Accept-Encoding is %q", a)
	}
	w = &counting{ResponseWriter: w, s: s}
	if s.fault != nil && s.fault(n, w, r) {
		return
	}
	if s.etag != "" {
		w.Header().Set("ETag", s.etag)
	}
	http.ServeContent(w, r, "vm.ova", time.Time{}, bytes.NewReader(s.data))
}

type counting struct {
	http.ResponseWriter
	s *server
}

func (c *counting) Write(p []byte) (int, error) {
	n, err := c.ResponseWriter.Write(p)
	c.s.mu.Lock()
	c.s.sent += int64(n)
	c.s.mu.Unlock()
	return n, err
}

func (c *counting) Unwrap() http.ResponseWriter { return c.ResponseWriter }

// cut sends the first n bytes of a whole answer, and ends the connection.
func (s *server) cut(w http.ResponseWriter, from, n int) bool {
	w.Header().Set("ETag", s.etag)
	w.Header().Set("Content-Length", strconv.Itoa(len(s.data)-from))
	if from > 0 {
		w.Header().Set("Content-Range", fmt.Sprintf("bytes %d-%d/%d", from, len(s.data)-1, len(s.data)))
		w.WriteHeader(http.StatusPartialContent)
	}
	_, _ = w.Write(s.data[from:][:n])
	_ = http.NewResponseController(w).Flush()
	panic(http.ErrAbortHandler)
}

func (s *server) place() catalogue.Place {
	u, err := url.Parse(s.URL + "/vm.ova")
	if err != nil {
		s.t.Fatal(err)
	}
	return catalogue.Place{URL: u}
}

// quick are options with which retries take no time.
func quick() catalogue.FetchOptions {
	return catalogue.FetchOptions{HTTP: catalogue.HTTP{Backoff: time.Millisecond, Retries: 3}}
}

// same checks that the file is there and nothing else is in its directory.
func same(t *testing.T, dst string, want []byte) {
	t.Helper()
	got, err := os.ReadFile(dst)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got, want) {
		t.Fatalf("the file differs: %d bytes, want %d", len(got), len(want))
	}
	only(t, filepath.Dir(dst), filepath.Base(dst))
}

// only checks what is in a directory.
func only(t *testing.T, dir string, names ...string) {
	t.Helper()
	list, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, e := range list {
		got = append(got, e.Name())
	}
	if strings.Join(got, " ") != strings.Join(names, " ") {
		t.Fatalf("in the directory: %q, want %q", got, names)
	}
}

func TestFetch(t *testing.T) {
	data := content(3<<20+17, 1)
	s := serve(t, data)
	dst := filepath.Join(t.TempDir(), "vm.ova")
	o := quick()
	var last int64
	o.Progress = func(done, total int64) {
		if done < last || total != int64(len(data)) {
			t.Errorf("progress %d of %d after %d", done, total, last)
		}
		last = done
	}
	r, err := catalogue.Fetch(t.Context(), s.place(), blobOf(data), dst, o)
	if err != nil {
		t.Fatal(err)
	}
	same(t, dst, data)
	if r.Received != int64(len(data)) || r.Present || r.Resumed != 0 || r.Restarts != 0 || last != int64(len(data)) {
		t.Errorf("%+v, progress %d", r, last)
	}
	// It is there: the server is not asked.
	r, err = catalogue.Fetch(t.Context(), s.place(), blobOf(data), dst, o)
	if err != nil || !r.Present || s.n != 1 {
		t.Errorf("%+v, %v, %d requests", r, err, s.n)
	}
	// Another file of that name stays, unless it is to be overwritten.
	if err := os.WriteFile(dst, []byte("mine"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err = catalogue.Fetch(t.Context(), s.place(), blobOf(data), dst, o); !errors.Is(err, fs.ErrExist) || s.n != 1 {
		t.Errorf("%v, %d requests", err, s.n)
	}
	same(t, dst, []byte("mine"))
	last, o.Overwrite = 0, true
	if _, err = catalogue.Fetch(t.Context(), s.place(), blobOf(data), dst, o); err != nil {
		t.Fatal(err)
	}
	same(t, dst, data)
}

// What goes wrong on the way is repaired by asking for the rest, and nothing comes twice.
func TestFetchFaults(t *testing.T) {
	data := content(1<<20, 2)
	n := len(data)
	tests := []struct {
		name     string
		fault    func(s *server, n int, w http.ResponseWriter, r *http.Request) bool
		requests int
		restarts int
		twice    bool // bytes come again
	}{
		{"reset at byte 1", func(s *server, n int, w http.ResponseWriter, _ *http.Request) bool { return n == 1 && s.cut(w, 0, 1) }, 2, 0, false},
		{"reset before the answer", func(_ *server, n int, _ http.ResponseWriter, _ *http.Request) bool {
			if n == 1 {
				panic(http.ErrAbortHandler)
			}
			return false
		}, 2, 0, false},
		{"reset again and again", func(s *server, n int, w http.ResponseWriter, _ *http.Request) bool {
			return n <= 3 && s.cut(w, (n-1)*300<<10, 300<<10)
		}, 4, 0, false},
		{"reset at the last byte", func(s *server, n int, w http.ResponseWriter, _ *http.Request) bool {
			return n == 1 && s.cut(w, 0, len(s.data)-1)
		}, 2, 0, false},
		{"500", status(500), 2, 0, false},
		{"502", status(502), 2, 0, false},
		{"503", status(503), 2, 0, false},
		{"429", status(429), 2, 0, false},
		{"408", status(408), 2, 0, false},
		{"an end without error, in the middle", func(s *server, n int, w http.ResponseWriter, _ *http.Request) bool {
			if n == 1 {
				_ = http.NewResponseController(w).Flush() // chunked: there is no length
				_, _ = w.Write(s.data[:500<<10])
			}
			return n == 1
		}, 2, 0, false},
		{"no ranges", func(s *server, n int, w http.ResponseWriter, _ *http.Request) bool {
			if n == 1 {
				return s.cut(w, 0, 400<<10)
			}
			_, _ = w.Write(s.data)
			return true
		}, 2, 1, true},
		{"no tag and no date", func(s *server, n int, w http.ResponseWriter, _ *http.Request) bool {
			s.etag = ""
			return n == 1 && s.cut(w, 0, 400<<10)
		}, 2, 0, false},
		{"a weak tag is not sent", func(s *server, n int, w http.ResponseWriter, r *http.Request) bool {
			s.etag = `W/"one"`
			if r.Header.Get("If-Range") != "" {
				s.t.Error("If-Range is", r.Header.Get("If-Range"))
			}
			return n == 1 && s.cut(w, 0, 400<<10)
		}, 2, 0, false},
		{"another version, the tag tells", func(s *server, n int, w http.ResponseWriter, _ *http.Request) bool {
			if n == 1 {
				// What came is of a version before.
				w.Header().Set("ETag", `"zero"`)
				w.Header().Set("Content-Length", strconv.Itoa(len(s.data)))
				_, _ = w.Write(make([]byte, 400<<10))
				panic(http.ErrAbortHandler)
			}
			return false
		}, 2, 1, true},
		{"another version, only the digest tells", func(s *server, n int, w http.ResponseWriter, _ *http.Request) bool {
			s.etag = ""
			if n == 1 {
				w.Header().Set("Content-Length", strconv.Itoa(len(s.data)))
				_, _ = w.Write(make([]byte, 400<<10))
				panic(http.ErrAbortHandler)
			}
			return false
		}, 3, 1, true},
		{"another range than asked for", func(s *server, n int, w http.ResponseWriter, r *http.Request) bool {
			if r.Header.Get("Range") != "" {
				w.Header().Set("Content-Range", fmt.Sprintf("bytes 0-%d/%d", len(s.data)-1, len(s.data)))
				w.WriteHeader(http.StatusPartialContent)
				_, _ = w.Write(s.data)
				return true
			}
			return n == 1 && s.cut(w, 0, 400<<10)
		}, 3, 1, true},
		{"a range that is not there", func(s *server, n int, w http.ResponseWriter, r *http.Request) bool {
			if r.Header.Get("Range") != "" {
				w.WriteHeader(http.StatusRequestedRangeNotSatisfiable)
				return true
			}
			return n == 1 && s.cut(w, 0, 400<<10)
		}, 3, 1, true},
		{"If-Range ignored, another tag", func(s *server, n int, w http.ResponseWriter, r *http.Request) bool {
			if n == 2 {
				r.Header.Del("If-Range")
				s.etag = `"two"`
			}
			return n == 1 && s.cut(w, 0, 400<<10)
		}, 3, 1, true},
		{"a compressed file with a Content-Encoding of its own", func(_ *server, _ int, w http.ResponseWriter, _ *http.Request) bool {
			w.Header().Set("Content-Encoding", "x-gzip")
			return false
		}, 1, 0, false},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			s := serve(t, data)
			s.fault = func(n int, w http.ResponseWriter, r *http.Request) bool { return test.fault(s, n, w, r) }
			dst := filepath.Join(t.TempDir(), "vm.ova")
			r, err := catalogue.Fetch(t.Context(), s.place(), blobOf(data), dst, quick())
			if err != nil {
				t.Fatalf("%v (asked for %q)", err, s.asks)
			}
			same(t, dst, data)
			if s.n != test.requests || r.Restarts != test.restarts {
				t.Errorf("%d requests %q, %d restarts; want %d and %d", s.n, s.asks, r.Restarts, test.requests, test.restarts)
			}
			if r.Received < int64(n) || !test.twice && r.Received != int64(n) {
				t.Errorf("%d bytes came, of %d", r.Received, n)
			}
		})
	}
}

// status answers the first request with a code.
func status(code int) func(*server, int, http.ResponseWriter, *http.Request) bool {
	return func(_ *server, n int, w http.ResponseWriter, _ *http.Request) bool {
		if n == 1 {
			w.WriteHeader(code)
		}
		return n == 1
	}
}

// What cannot be repaired is an error at once, and leaves nothing.
func TestFetchRefuses(t *testing.T) {
	data := content(1<<20, 3)
	is := func(target any) func(error) bool { return func(err error) bool { return errors.As(err, target) } }
	tests := []struct {
		name     string
		fault    func(s *server, w http.ResponseWriter) bool
		wanted   func(error) bool
		says     string
		requests int
	}{
		{"404", func(_ *server, w http.ResponseWriter) bool { w.WriteHeader(404); return true }, is(new(*catalogue.StatusError)), "404", 1},
		{"403", func(_ *server, w http.ResponseWriter) bool { w.WriteHeader(403); return true }, is(new(*catalogue.StatusError)), "403", 1},
		{"501", func(_ *server, w http.ResponseWriter) bool { w.WriteHeader(501); return true }, is(new(*catalogue.StatusError)), "501", 1},
		{"304", func(_ *server, w http.ResponseWriter) bool { w.WriteHeader(304); return true }, func(error) bool { return true }, "304", 1},
		{"500 for ever", func(_ *server, w http.ResponseWriter) bool { w.WriteHeader(500); return true }, is(new(*catalogue.StatusError)), "500", 4},
		{"wait an hour", func(_ *server, w http.ResponseWriter) bool {
			w.Header().Set("Retry-After", "3600")
			w.WriteHeader(503)
			return true
		}, is(new(*catalogue.StatusError)), "come back in 1h0m0s", 1},
		{"shorter", func(s *server, w http.ResponseWriter) bool { _, _ = w.Write(s.data[:1000]); return true }, is(new(*catalogue.SizeError)), "1000", 1},
		{"longer", func(s *server, w http.ResponseWriter) bool {
			w.Header().Set("Content-Length", strconv.Itoa(len(s.data)+1))
			_, _ = w.Write(append(s.data[:len(s.data):len(s.data)], 0))
			return true
		}, is(new(*catalogue.SizeError)), "want 1048576", 1},
		{"without end", func(s *server, w http.ResponseWriter) bool {
			for range 64 {
				if _, err := w.Write(s.data); err != nil {
					break
				}
			}
			return true
		}, is(new(*catalogue.SizeError)), "more than", 1},
		{"another content", func(s *server, w http.ResponseWriter) bool {
			_, _ = w.Write(append([]byte{^s.data[0]}, s.data[1:]...))
			return true
		}, is(new(*catalogue.DigestError)), "blake3", 1},
		{"compressed on the way", func(s *server, w http.ResponseWriter) bool {
			w.Header().Set("Content-Encoding", "gzip")
			z := gzip.NewWriter(w)
			_, _ = z.Write(s.data)
			return z.Close() == nil
		}, is(new(*catalogue.SizeError)), `"gzip" encoded`, 1},
		{"redirect to a file", func(_ *server, w http.ResponseWriter) bool {
			w.Header().Set("Location", "file:///etc/passwd")
			w.WriteHeader(302)
			return true
		}, is(new(*catalogue.RedirectError)), "file:", 1},
		{"redirect in a circle", func(_ *server, w http.ResponseWriter) bool {
			w.Header().Set("Location", "/vm.ova")
			w.WriteHeader(302)
			return true
		}, func(error) bool { return true }, "10 redirects", 10},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			s := serve(t, data)
			s.fault = func(_ int, w http.ResponseWriter, _ *http.Request) bool { return test.fault(s, w) }
			dir := t.TempDir()
			_, err := catalogue.Fetch(t.Context(), s.place(), blobOf(data), filepath.Join(dir, "vm.ova"), quick())
			if err == nil || !test.wanted(err) || !strings.Contains(err.Error(), test.says) || !strings.Contains(err.Error(), "/vm.ova") {
				t.Errorf("error %v", err)
			}
			if s.n != test.requests {
				t.Errorf("%d requests, want %d", s.n, test.requests)
			}
			only(t, dir)
		})
	}
}

// From https nothing leads to http. From http to https is fine.
func TestFetchRedirect(t *testing.T) {
	data := content(1000, 4)
	secure := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Referer") != "" {
			t.Error("Referer is", r.Header.Get("Referer"))
		}
		if to := r.URL.Query().Get("to"); to != "" {
			http.Redirect(w, r, to, http.StatusFound)
			return
		}
		_, _ = w.Write(data)
	}))
	defer secure.Close()
	s := serve(t, data)
	s.fault = func(_ int, w http.ResponseWriter, r *http.Request) bool {
		if to := r.URL.Query().Get("to"); to != "" {
			http.Redirect(w, r, to, http.StatusFound)
			return true
		}
		return false
	}
	o := quick()
	o.Client = secure.Client()
	get := func(from, to string) error {
		u, err := url.Parse(from + "/vm.ova?secret=s3cr3t&to=" + url.QueryEscape(to+"/vm.ova?secret=s3cr3t"))
		if err != nil {
			t.Fatal(err)
		}
		u.User = url.UserPassword("me", "s3cr3t")
		dir := t.TempDir()
		_, err = catalogue.Fetch(t.Context(), catalogue.Place{URL: u}, blobOf(data), filepath.Join(dir, "vm.ova"), o)
		if err != nil && strings.Contains(err.Error(), "s3cr3t") {
			t.Errorf("a secret is told: %v", err)
		}
		return err
	}
	var refused *catalogue.RedirectError
	if err := get(secure.URL, s.URL); !errors.As(err, &refused) || s.n != 0 {
		t.Errorf("%v, %d requests", err, s.n)
	}
	if err := get(s.URL, secure.URL); err != nil {
		t.Error(err)
	}
	// Secrets are in no message, whatever goes wrong.
	o.Client, o.Retries = &http.Client{}, -1
	if err := get(secure.URL, s.URL); err == nil || !strings.Contains(err.Error(), "certificate") {
		t.Error(err)
	}
	if err := get("http://127.0.0.1:1", s.URL); !errors.Is(err, syscall.ECONNREFUSED) {
		t.Error(err)
	}
	// An error that the client's own rule makes is the error.
	mine := errors.New("no")
	o.Client = secure.Client()
	o.Client.CheckRedirect = func(*http.Request, []*http.Request) error { return mine }
	if err := get(s.URL, secure.URL); !errors.Is(err, mine) {
		t.Error(err)
	}
}

// Stopped at any byte, a later call goes on there: the bytes are equal, and hardly any comes twice.
func TestFetchResume(t *testing.T) {
	data := content(2<<20+5, 5)
	b := blobOf(data)
	for seed := range uint64(6) {
		rnd := rand.New(rand.NewPCG(seed, 6))
		s := serve(t, data)
		dst := filepath.Join(t.TempDir(), "vm.ova")
		var kept int64
		for {
			ctx, cancel := context.WithCancelCause(t.Context())
			stop := errors.New("stopped")
			at := kept + rnd.Int64N(int64(len(data)))
			o := quick()
			first := int64(-1)
			o.Progress = func(done, _ int64) {
				if first < 0 {
					first = done
				}
				if done >= at {
					cancel(stop)
				}
			}
			r, err := catalogue.Fetch(ctx, s.place(), b, dst, o)
			cancel(nil)
			if r.Resumed != kept {
				t.Fatalf("seed %d: resumed at %d, want %d", seed, r.Resumed, kept)
			}
			if err == nil {
				break
			}
			if !errors.Is(err, stop) {
				t.Fatalf("seed %d: %v", seed, err)
			}
			only(t, filepath.Dir(dst), "vm.ova.part", "vm.ova.part.json")
			st, err := os.Stat(dst + ".part")
			if err != nil {
				t.Fatal(err)
			}
			if st.Size() < kept {
				t.Fatalf("seed %d: %d bytes after %d", seed, st.Size(), kept)
			}
			kept = st.Size()
		}
		same(t, dst, data)
		for i, a := range s.asks {
			if (a == "") != (i == 0) {
				t.Errorf("seed %d: request %d is for %q", seed, i, a)
			}
		}
	}
}

// A state of another version, of another file, or without a part is not gone on with; a foreign file is not touched.
func TestFetchOldPart(t *testing.T) {
	data, other := content(1<<20, 7), content(1<<20, 8)
	start := func(t *testing.T, data []byte) (s *server, dst string) {
		s = serve(t, data)
		s.fault = func(n int, w http.ResponseWriter, _ *http.Request) bool { return n == 1 && s.cut(w, 0, 500<<10) }
		dst = filepath.Join(t.TempDir(), "vm.ova")
		o := quick()
		o.Retries = -1
		if _, err := catalogue.Fetch(t.Context(), s.place(), blobOf(data), dst, o); err == nil {
			t.Fatal("no error")
		}
		return s, dst
	}
	t.Run("another file", func(t *testing.T) {
		s, dst := start(t, data)
		s.data = other
		r, err := catalogue.Fetch(t.Context(), s.place(), blobOf(other), dst, quick())
		if err != nil || r.Resumed != 0 || r.Restarts != 1 {
			t.Fatal(r, err)
		}
		same(t, dst, other)
	})
	t.Run("another server", func(t *testing.T) {
		_, dst := start(t, data)
		s := serve(t, data)
		s.etag = `"of its own"`
		r, err := catalogue.Fetch(t.Context(), s.place(), blobOf(data), dst, quick())
		if err != nil || r.Resumed != 500<<10 || r.Received != 524<<10 {
			t.Fatal(r, err)
		}
		same(t, dst, data)
	})
	t.Run("damaged", func(t *testing.T) {
		s, dst := start(t, data)
		f, err := os.OpenFile(dst+".part", os.O_WRONLY, 0)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := f.WriteAt(make([]byte, 5000), 4096); err != nil {
			t.Fatal(err)
		}
		f.Close()
		r, err := catalogue.Fetch(t.Context(), s.place(), blobOf(data), dst, quick())
		if err != nil || r.Resumed != 0 || r.Restarts != 1 {
			t.Fatal(r, err)
		}
		same(t, dst, data)
	})
	t.Run("longer", func(t *testing.T) {
		s, dst := start(t, data)
		if err := os.Truncate(dst+".part", 2<<20); err != nil {
			t.Fatal(err)
		}
		if _, err := catalogue.Fetch(t.Context(), s.place(), blobOf(data), dst, quick()); err != nil {
			t.Fatal(err)
		}
		same(t, dst, data)
	})
	t.Run("complete", func(t *testing.T) {
		s, dst := start(t, data)
		if err := os.WriteFile(dst+".part", data, 0o600); err != nil {
			t.Fatal(err)
		}
		r, err := catalogue.Fetch(t.Context(), s.place(), blobOf(data), dst, quick())
		if err != nil || r.Received != 0 || s.n != 1 {
			t.Fatal(r, err, s.n)
		}
		same(t, dst, data)
	})
	t.Run("a page instead of the file", func(t *testing.T) {
		s, dst := start(t, data)
		s.fault = func(n int, w http.ResponseWriter, _ *http.Request) bool {
			if n == 2 {
				_, _ = w.Write([]byte("<html>log in</html>"))
			}
			return n == 2
		}
		var size *catalogue.SizeError
		if _, err := catalogue.Fetch(t.Context(), s.place(), blobOf(data), dst, quick()); !errors.As(err, &size) || size.Got != 19 {
			t.Fatal(err)
		}
		r, err := catalogue.Fetch(t.Context(), s.place(), blobOf(data), dst, quick())
		if err != nil || r.Resumed != 500<<10 || r.Received != 524<<10 {
			t.Fatal(r, err)
		}
		same(t, dst, data)
	})
	t.Run("no state", func(t *testing.T) {
		s, dst := start(t, data)
		if err := os.Remove(dst + ".part.json"); err != nil {
			t.Fatal(err)
		}
		var foreign *catalogue.ForeignPartError
		if _, err := catalogue.Fetch(t.Context(), s.place(), blobOf(data), dst, quick()); !errors.As(err, &foreign) || s.n != 1 {
			t.Fatal(err)
		}
		only(t, filepath.Dir(dst), "vm.ova.part")
	})
	t.Run("a link", func(t *testing.T) {
		s := serve(t, data)
		dir := t.TempDir()
		if err := os.Symlink(filepath.Join(t.TempDir(), "x"), filepath.Join(dir, "vm.ova.part")); err != nil {
			t.Skip(err)
		}
		var foreign *catalogue.ForeignPartError
		if _, err := catalogue.Fetch(t.Context(), s.place(), blobOf(data), filepath.Join(dir, "vm.ova"), quick()); !errors.As(err, &foreign) {
			t.Fatal(err)
		}
	})
}

// A body that does not go on is given up, and asked for again from where it stopped.
func TestFetchStall(t *testing.T) {
	data := content(1<<20, 9)
	s := serve(t, data)
	s.fault = func(n int, w http.ResponseWriter, r *http.Request) bool {
		if n == 1 {
			w.Header().Set("Content-Length", strconv.Itoa(len(data)))
			w.Header().Set("ETag", s.etag)
			_, _ = w.Write(data[:300<<10])
			_ = http.NewResponseController(w).Flush()
			<-r.Context().Done()
			panic(http.ErrAbortHandler)
		}
		return false
	}
	dst := filepath.Join(t.TempDir(), "vm.ova")
	o := quick()
	o.Stall = 50 * time.Millisecond
	var why error
	o.OnRetry = func(err error, _ time.Duration) { why = err }
	r, err := catalogue.Fetch(t.Context(), s.place(), blobOf(data), dst, o)
	if err != nil || !errors.Is(why, catalogue.ErrStalled) || r.Received != int64(len(data)) {
		t.Fatal(r, err, why)
	}
	same(t, dst, data)
}

// Stopping ends a wait at once: for a body, and for the time that a server asked for.
func TestFetchCancel(t *testing.T) {
	data := content(1000, 10)
	stop := errors.New("stopped")
	for _, test := range []string{"body", "Retry-After"} {
		t.Run(test, func(t *testing.T) {
			s := serve(t, data)
			ctx, cancel := context.WithCancelCause(t.Context())
			defer cancel(nil)
			o := quick()
			s.fault = func(_ int, w http.ResponseWriter, r *http.Request) bool {
				if test == "Retry-After" {
					w.Header().Set("Retry-After", "7")
					w.WriteHeader(http.StatusTooManyRequests)
					return true
				}
				cancel(stop)
				<-r.Context().Done()
				panic(http.ErrAbortHandler)
			}
			o.OnRetry = func(_ error, wait time.Duration) {
				if wait != 7*time.Second {
					t.Errorf("waits %v", wait)
				}
				cancel(stop)
			}
			dir := t.TempDir()
			start := time.Now()
			if _, err := catalogue.Fetch(ctx, s.place(), blobOf(data), filepath.Join(dir, "vm.ova"), o); !errors.Is(err, stop) {
				t.Error(err)
			}
			if d := time.Since(start); d > 5*time.Second {
				t.Errorf("took %v", d)
			}
			only(t, dir)
		})
	}
}

// Two at once: one works, the other is told so, and nothing is harmed.
func TestFetchTwice(t *testing.T) {
	data := content(600<<10, 11)
	s := serve(t, data)
	dst := filepath.Join(t.TempDir(), "vm.ova")
	var inner error
	var once sync.Once
	o := quick()
	o.Progress = func(int64, int64) {
		once.Do(func() { _, inner = catalogue.Fetch(t.Context(), s.place(), blobOf(data), dst, quick()) })
	}
	if _, err := catalogue.Fetch(t.Context(), s.place(), blobOf(data), dst, o); err != nil {
		t.Fatal(err)
	}
	if !errors.Is(inner, vmdir.ErrClaimed) {
		t.Errorf("the other: %v", inner)
	}
	same(t, dst, data)

	// Many at once, until each has it.
	dst = filepath.Join(t.TempDir(), "vm.ova")
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			for {
				_, err := catalogue.Fetch(t.Context(), s.place(), blobOf(data), dst, quick())
				if err == nil {
					return
				}
				if !errors.Is(err, vmdir.ErrClaimed) {
					t.Error(err)
					return
				}
				time.Sleep(time.Millisecond)
			}
		})
	}
	wg.Wait()
	same(t, dst, data)
	if s.n != 2 {
		t.Errorf("%d requests", s.n)
	}
}

func TestFetchLocal(t *testing.T) {
	data := content(1<<20+3, 12)
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "vm.ova"), data, 0o600); err != nil {
		t.Fatal(err)
	}
	from := catalogue.Place{Dir: dir, Name: "vm.ova"}
	get := func(from catalogue.Place, b *catalogue.Blob) (string, error) {
		dst := filepath.Join(t.TempDir(), "vm.ova")
		_, err := catalogue.Fetch(t.Context(), from, b, dst, quick())
		if err != nil {
			only(t, filepath.Dir(dst))
		}
		return dst, err
	}
	dst, err := get(from, blobOf(data))
	if err != nil {
		t.Fatal(err)
	}
	same(t, dst, data)
	// A file of this machine needs no digest.
	if dst, err = get(from, &catalogue.Blob{URL: "vm.ova", Size: int64(len(data))}); err != nil {
		t.Fatal(err)
	}
	same(t, dst, data)
	var size *catalogue.SizeError
	if _, err = get(from, blobOf(data[1:])); !errors.As(err, &size) {
		t.Error(err)
	}
	var digest *catalogue.DigestError
	if _, err = get(from, blobOf(content(len(data), 1))); !errors.As(err, &digest) {
		t.Error(err)
	}
	for _, name := range []string{"../x", "/etc/passwd", "out", "dir", "none"} {
		if name == "out" {
			if err := os.Symlink(filepath.Join(t.TempDir(), "vm.ova"), filepath.Join(dir, "out")); err != nil {
				continue
			}
		}
		_ = os.Mkdir(filepath.Join(dir, "dir"), 0o700)
		if _, err = get(catalogue.Place{Dir: dir, Name: name}, blobOf(data)); err == nil {
			t.Errorf("%s was read", name)
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	out := t.TempDir()
	if _, err := catalogue.Fetch(ctx, from, blobOf(data), filepath.Join(out, "vm.ova"), quick()); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
	only(t, out)
}

// Nothing is fetched that could not be verified.
func TestFetchNeedsDigest(t *testing.T) {
	s := serve(t, []byte("x"))
	for _, b := range []*catalogue.Blob{
		{URL: "vm.ova", Size: 1},
		{URL: "vm.ova", Size: 1, Digests: catalogue.Digests{SHA1: strings.Repeat("0", 40), MD5: strings.Repeat("0", 32)}},
		{URL: "vm.ova", Digests: blobOf([]byte("x")).Digests},
	} {
		if _, err := catalogue.Fetch(t.Context(), s.place(), b, filepath.Join(t.TempDir(), "vm.ova"), quick()); !errors.Is(err, catalogue.ErrInvalid) {
			t.Error(err)
		}
	}
	if s.n != 0 {
		t.Error("the server was asked")
	}
}
