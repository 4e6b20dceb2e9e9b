package main

import (
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"sync"

	"github.com/rogpeppe/go-internal/testscript"
)

// serve DIR [FAULT=FILE[:N]]...: serves a directory by HTTP for the rest of the script, at $SERVER. Faults of the first
// answer about a file: cut ends after N bytes, hang stops there until the client goes, busy is 503; of all: gone is 404.
// serve alone ends the server, whose address then has nobody.
func serve(ts *testscript.TestScript, neg bool, args []string) {
	if neg {
		ts.Fatalf("usage: serve [DIR [FAULT=FILE[:N]]...]")
	}
	last, _ := ts.Value(serverKey{}).(*lastServer)
	if last.s != nil {
		last.s.Close()
		last.s = nil
	}
	if len(args) == 0 {
		return
	}
	s := &server{files: http.FileServer(http.Dir(ts.MkAbs(args[0]))), faults: make(map[string]fault)}
	for _, a := range args[1:] {
		kind, file, ok := strings.Cut(a, "=")
		if !ok {
			ts.Fatalf("%q: want FAULT=FILE[:N]", a)
		}
		file, n, _ := strings.Cut(file, ":")
		f := fault{kind: kind}
		if n != "" {
			f.n = number(ts, n)
		}
		s.faults["/"+filepath.ToSlash(file)] = f
	}
	last.s = httptest.NewServer(s)
	ts.Setenv("SERVER", last.s.URL)
	ts.Defer(func() {
		if last.s != nil {
			last.s.CloseClientConnections()
			last.s.Close()
			last.s = nil
		}
	})
}

// serverKey is that of the server of a script, a *lastServer.
type serverKey struct{}

type lastServer struct{ s *httptest.Server }

func noServer(e *testscript.Env) error {
	e.Values[serverKey{}] = &lastServer{}
	return nil
}

type fault struct {
	kind string
	n    int64
}

type server struct {
	files http.Handler

	mu     sync.Mutex
	faults map[string]fault
}

func (s *server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	s.mu.Lock()
	f := s.faults[r.URL.Path]
	if f.kind != "gone" {
		delete(s.faults, r.URL.Path)
	}
	s.mu.Unlock()
	switch f.kind {
	case "gone":
		http.NotFound(w, r)
	case "busy":
		http.Error(w, "busy", http.StatusServiceUnavailable)
	case "cut", "hang":
		s.files.ServeHTTP(&faulty{ResponseWriter: w, left: f.n, hang: f.kind == "hang", done: r.Context().Done()}, r)
	default:
		s.files.ServeHTTP(w, r)
	}
}

// faulty is an answer that does not come to its end.
type faulty struct {
	http.ResponseWriter
	left int64
	hang bool
	done <-chan struct{}
}

func (f *faulty) Write(b []byte) (int, error) {
	n, err := f.ResponseWriter.Write(b[:min(int64(len(b)), f.left)])
	if f.left -= int64(n); f.left > 0 || err != nil {
		return n, err
	}
	if err := http.NewResponseController(f.ResponseWriter).Flush(); err != nil {
		return n, err
	}
	if f.hang {
		<-f.done
	}
	panic(http.ErrAbortHandler)
}
