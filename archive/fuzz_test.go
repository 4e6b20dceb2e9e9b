package archive_test

import (
	"bytes"
	"context"
	"errors"
	"os"
	"path/filepath"
	"runtime/metrics"
	"testing"
	"time"

	"tarvm/archive"
	"tarvm/archive/codec"
	codecs "tarvm/archive/codec/all"
	"tarvm/archive/pax"
	"tarvm/delta"
	"tarvm/manifest"
)

// seeds are archives of a tree that has each kind of member, small enough to be mutated at speed: a full one
// and an increment with a delta of each codec.
func seeds(tb testing.TB) (fulls, incs []packed) {
	tb.Helper()
	dir := filepath.Join(tb.TempDir(), "vm")
	mustDo(tb, os.MkdirAll(filepath.Join(dir, "sub"), 0o755))
	writeFile(tb, dir, "a", []byte("a small file"))
	sparse(tb, filepath.Join(dir, "disk"), 1<<20, map[int64][]byte{0: bytes.Repeat([]byte("disk"), 300), 500 << 10: []byte("data")})
	writeFile(tb, dir, "sub/two blocks", bytes.Repeat([]byte("ab"), 3000))
	mustDo(tb, os.Link(filepath.Join(dir, "a"), filepath.Join(dir, "z")))
	// A fuzzer's processes make their seeds on their own: they must be the same.
	now := time.Unix(1_700_000_000, 0)
	settle := func(paths ...string) {
		for _, p := range paths {
			mustDo(tb, os.Chtimes(filepath.Join(dir, p), now, now))
		}
	}
	settle("a", "disk", "sub/two blocks", "sub", ".")
	for _, c := range codecs.Codecs() {
		fulls = append(fulls, pack(tb, dir, archive.PackOptions{Codec: c, Block: 4096}))
	}
	sparse(tb, filepath.Join(dir, "disk"), 1<<20, map[int64][]byte{600 << 10: []byte("changed"), 0: make([]byte, 4096)})
	mustDo(tb, os.Remove(filepath.Join(dir, "sub", "two blocks")))
	settle("disk", "sub")
	for i, c := range codecs.Codecs() {
		incs = append(incs, pack(tb, dir, archive.PackOptions{Codec: c, Parent: fulls[i].manifest(tb)}))
	}
	return fulls, incs
}

// allocated returns how many bytes this process has allocated so far.
func allocated() uint64 {
	s := []metrics.Sample{{Name: "/gc/heap/allocs:bytes"}}
	metrics.Read(s)
	return s[0].Value.Uint64()
}

// bounded fails when fn allocates more than an input of n bytes may ask for: the frames of a codec, and 48 MiB for the
// largest table of frames, which is compressed.
func bounded(t *testing.T, n int, fn func()) {
	t.Helper()
	const most = 512 << 20
	before := allocated()
	fn()
	if got := allocated() - before; got > most+64*uint64(n) {
		t.Errorf("%d MiB allocated for an input of %d bytes", got>>20, n)
	}
}

// FuzzOpen: whatever the bytes are, Open and Verify return, with errors of their classes and with bounded memory. If
// both find nothing, the bytes are those of an archive that was packed here, all of them.
func FuzzOpen(f *testing.F) {
	good := make(map[string]bool)
	fulls, incs := seeds(f)
	for _, p := range append(fulls, incs...) {
		if err := check(p.data); err != nil {
			f.Fatalf("a seed is damaged: %v", err)
		}
		good[string(p.data)] = true
		f.Add(p.data)
		f.Add(p.data[:len(p.data)-1])
		// What Open believes is at the end.
		for _, back := range []int{1, 9, 17, 40, 1100, 1300, 1500, 1536, 1600, 2000, 2100, 2500, 3000} {
			if at := len(p.data) - back; at > 0 {
				b := bytes.Clone(p.data)
				b[at] ^= 3
				f.Add(b)
			}
		}
		// And, without a codec, the manifest, of which the id covers a part only.
		if i := bytes.Index(p.data, []byte(`"body":`)); i > 0 {
			for _, c := range []string{"0", "9"} {
				b := bytes.Clone(p.data)
				copy(b[i+len(`"body":`):], c)
				f.Add(b)
			}
		}
	}
	if len(good) < 2*len(codecs.Codecs()) {
		f.Fatalf("%d seeds", len(good))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		bounded(t, len(b), func() {
			a, err := archive.Open(bytes.NewReader(b), codecs.Codecs())
			if err != nil {
				if !known(err) {
					t.Errorf("error without its class: %v", err)
				}
				return
			}
			r, err := a.Verify(context.Background(), archive.VerifyOptions{Workers: 1})
			if err != nil {
				if !known(err) {
					t.Errorf("Verify: error without its class: %v", err)
				}
				return
			}
			if r.Err() == nil && !good[string(b)] {
				t.Error("this archive was never packed, and verifies")
			}
			quick, err := a.Verify(context.Background(), archive.VerifyOptions{Quick: true})
			if err == nil && quick.Err() != nil && r.Err() == nil {
				t.Errorf("only the quick verification finds damage: %v", quick.Damages)
			}
		})
	})
}

// FuzzOpenManifest: the manifest beside an archive is checked as far as it goes, and packing on top of what
// opens is safe: it fails, or makes an archive that verifies.
func FuzzOpenManifest(f *testing.F) {
	fulls, incs := seeds(f)
	n := 0
	for _, p := range []packed{fulls[0], incs[0]} {
		p.manifest(f)
		f.Add(p.side)
		f.Add(p.side[:len(p.side)-1024])
		for _, key := range []string{`"body":`, `"offset":`, `"length":`, `"blocks":`, `"size":`, `"key":"`, `"unit":`, `"seen":[`, `"digest":"`, `"phase":`} {
			if i := bytes.Index(p.side, []byte(key)); i > 0 {
				b := bytes.Clone(p.side)
				b[i+len(key)] ^= 1
				f.Add(b)
				n++
			}
		}
	}
	if n < 8 {
		f.Fatalf("%d seeds", n)
	}
	dir := filepath.Join(f.TempDir(), "vm")
	mustDo(f, os.Mkdir(dir, 0o755))
	writeFile(f, dir, "a", []byte("a small file"))
	sparse(f, filepath.Join(dir, "disk"), 1<<20, map[int64][]byte{0: bytes.Repeat([]byte("disk"), 300), 700 << 10: []byte("new")})
	none := codec.ByName(codecs.Codecs(), "none")
	f.Fuzz(func(t *testing.T, b []byte) {
		bounded(t, len(b), func() {
			m, err := archive.OpenManifest(bytes.NewReader(b))
			if err != nil {
				if !known(err) && !errors.Is(err, pax.ErrHeader) && !errors.Is(err, pax.ErrTruncated) && !errors.Is(err, pax.ErrUnsupported) {
					t.Errorf("error without its class: %v", err)
				}
				return
			}
			if got := manifest.ComputeID(m.Entry.Block, m.Members); got != m.ID {
				t.Errorf("id %s of members with %s", m.ID, got)
			}
			if err := m.CheckBlocks(); err != nil && !known(err) && !errors.Is(err, delta.ErrTable) {
				t.Errorf("CheckBlocks: error without its class: %v", err)
			}
			if m.Entry.Block > 1<<20 {
				return
			}
			plan, err := archive.MakePlan(context.Background(), dir, archive.PackOptions{Codec: none, Parent: m, TrustTimes: true, Workers: 1})
			if err != nil {
				t.Fatal(err)
			}
			defer plan.Close()
			var out bytes.Buffer
			if _, err := plan.Pack(context.Background(), &out, nil); err != nil {
				return
			}
			if err := check(out.Bytes()); err != nil && m.CheckBlocks() == nil {
				t.Errorf("packed on top of it: %v", err)
			}
		})
	})
}
