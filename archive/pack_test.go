package archive_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"tarvm/archive"
	"tarvm/archive/archivetest"
	"tarvm/archive/codec"
	codecs "tarvm/archive/codec/all"
	"tarvm/delta"
	disks "tarvm/formats/all"
	"tarvm/manifest"
)

func codecNamed(t testing.TB, name string) codec.Codec {
	t.Helper()
	c := codec.ByName(codecs.Codecs(), name)
	if c == nil {
		t.Fatalf("no codec %s", name)
	}
	return c
}

// packed is an archive in memory with the manifest that belongs beside it.
type packed struct {
	data, side []byte
	result     *archive.Result
}

func pack(t testing.TB, dir string, o archive.PackOptions) packed {
	t.Helper()
	p, err := tryPack(dir, o)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func tryPack(dir string, o archive.PackOptions) (packed, error) {
	if o.Codec == nil {
		o.Codec = codec.ByName(codecs.Codecs(), "none")
	}
	if o.Name == "" {
		o.Name = "test"
	}
	o.Formats = disks.Disks()
	plan, err := archive.MakePlan(context.Background(), dir, o)
	if err != nil {
		return packed{}, err
	}
	defer plan.Close()
	var out, side bytes.Buffer
	r, err := plan.Pack(context.Background(), &out, &side)
	return packed{out.Bytes(), side.Bytes(), r}, err
}

func (p packed) manifest(t testing.TB) *archive.Manifest {
	t.Helper()
	m, err := archive.OpenManifest(bytes.NewReader(p.side))
	if err != nil {
		t.Fatal(err)
	}
	return m
}

func (p packed) open(t testing.TB) *archive.Archive {
	t.Helper()
	a, err := archive.Open(bytes.NewReader(p.data), codecs.Codecs())
	if err != nil {
		t.Fatal(err)
	}
	return a
}

func (p packed) verify(t testing.TB) {
	t.Helper()
	r, err := p.open(t).Verify(context.Background(), archive.VerifyOptions{})
	if err != nil || r.Err() != nil {
		t.Fatalf("verify: %v %v %v", err, r.Err(), r.Damages)
	}
}

func command(t testing.TB, dir, name string, args ...string) string {
	t.Helper()
	cmd := exec.Command(name, args...)
	cmd.Dir = dir
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%s %q: %v\n%s", name, args, err, out)
	}
	return string(out)
}

// restorePy restores a chain with nothing but Python, the decompressor and the script in the archive.
func restorePy(t testing.TB, target string, chain ...packed) {
	t.Helper()
	dir := t.TempDir()
	script := filepath.Join(dir, "restore.py")
	b, err := os.ReadFile("restore.py")
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(script, b, 0o600); err != nil {
		t.Fatal(err)
	}
	args := []string{script, target}
	for i, p := range chain {
		f := filepath.Join(dir, fmt.Sprint(i))
		if err := os.WriteFile(f, p.data, 0o600); err != nil {
			t.Fatal(err)
		}
		args = append(args, f)
	}
	if out := command(t, dir, "python3", args...); out != "" {
		t.Fatalf("restore.py says: %s", out)
	}
}

func same(t testing.TB, a, b string) {
	t.Helper()
	if d := archivetest.Diff(a, b); len(d) > 0 {
		t.Fatalf("%s and %s differ:\n%s", a, b, strings.Join(d, "\n"))
	}
}

// Full archives are tars: every foreign reader restores them, from every codec.
func TestFullByForeignTools(t *testing.T) {
	if archivetest.Race {
		t.Skip("what other programs read is the same without the race detector")
	}
	dir := filepath.Join(t.TempDir(), "vm")
	archivetest.New(t, dir, 1)
	for _, c := range codecs.Codecs() {
		p := pack(t, dir, archive.PackOptions{Codec: c})
		p.verify(t)
		file := filepath.Join(t.TempDir(), "a.tar")
		if err := os.WriteFile(file, p.data, 0o600); err != nil {
			t.Fatal(err)
		}
		for name, args := range map[string][]string{
			"tar":    {"-xpf"},
			"bsdtar": {"-xpf"},
		} {
			t.Run(c.Name()+"/"+name, func(t *testing.T) {
				archivetest.Tools(t, name)
				if c.Name() != "none" {
					archivetest.Tools(t, c.Name())
				}
				to := t.TempDir()
				if name == "tar" && c.Name() == "lz4" {
					args = append([]string{"-I", "lz4"}, args...) // GNU tar knows it by this option only
				}
				if out := command(t, to, name, append(args, file)...); out != "" {
					t.Errorf("%s says: %s", name, out)
				}
				if err := os.RemoveAll(filepath.Join(to, ".tarvm")); err != nil {
					t.Fatal(err)
				}
				fixTop(t, dir, to)
				same(t, dir, to)
			})
		}
		t.Run(c.Name()+"/restore.py", func(t *testing.T) {
			archivetest.Tools(t, "python3")
			to := filepath.Join(t.TempDir(), "out")
			restorePy(t, to, p)
			same(t, dir, to)
		})
	}
}

// fixTop gives the top directory the times that removing .tarvm changed.
func fixTop(t testing.TB, from, to string) {
	t.Helper()
	st, err := os.Stat(from)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Chtimes(to, st.ModTime(), st.ModTime()); err != nil {
		t.Fatal(err)
	}
}

// A random history with a branch comes back from its archives, by the script that is in them.
func TestChainByScript(t *testing.T) {
	if archivetest.Race {
		t.Skip("what other programs read is the same without the race detector")
	}
	archivetest.Tools(t, "python3", "zstd", "gzip", "xz", "lz4")
	all := codecs.Codecs()
	for seed := range uint64(6) {
		t.Run(fmt.Sprint("seed ", seed), func(t *testing.T) {
			base := t.TempDir()
			dir := filepath.Join(base, "vm")
			tr := archivetest.New(t, dir, seed)
			var chain []packed
			var state []string
			for i := range 4 {
				if i > 0 {
					tr.Change(t)
				}
				o := archive.PackOptions{Codec: all[(int(seed)+i)%len(all)]}
				if i > 0 {
					o.Parent = chain[i-1].manifest(t)
					if seed%3 == 1 {
						o.Parent = chain[i-1].open(t).Manifest() // without the small sums
					}
				}
				p := pack(t, dir, o)
				p.verify(t)
				chain = append(chain, p)
				s := filepath.Join(base, fmt.Sprint("state", i))
				archivetest.Copy(t, dir, s)
				state = append(state, s)
			}
			for i := range chain {
				to := filepath.Join(base, fmt.Sprint("out", i))
				restorePy(t, to, chain[:i+1]...)
				same(t, state[i], to)
			}
		})
	}
}

// The same directory makes the same bytes, with any number of workers.
func TestReproducible(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "vm")
	tr := archivetest.New(t, dir, 3)
	for _, name := range []string{"none", "zstd", "gzip", "lz4", "xz"} {
		one := pack(t, dir, archive.PackOptions{Codec: codecNamed(t, name), Workers: 1})
		eight := pack(t, dir, archive.PackOptions{Codec: codecNamed(t, name), Workers: 8})
		if !bytes.Equal(one.data, eight.data) {
			t.Errorf("%s: 1 and 8 workers make different full archives", name)
		}
	}
	full := pack(t, dir, archive.PackOptions{})
	tr.Change(t)
	tr.Change(t)
	one := pack(t, dir, archive.PackOptions{Parent: full.manifest(t), Workers: 1})
	eight := pack(t, dir, archive.PackOptions{Parent: full.manifest(t), Workers: 8})
	if !bytes.Equal(one.data, eight.data) {
		t.Error("1 and 8 workers make different increments")
	}
}

// What did not change costs nothing, whatever the times say; an id names a state, however it is stored.
func TestUnchanged(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "vm")
	archivetest.New(t, dir, 4)
	full := pack(t, dir, archive.PackOptions{})
	inc := pack(t, dir, archive.PackOptions{Parent: full.manifest(t)})
	if inc.result.ID != full.result.ID {
		t.Error("one state has two ids")
	}
	if inc.result.Stats.Stored != 0 || inc.result.Stats.Unchanged != full.result.Stats.Files {
		t.Errorf("%+v of an unchanged directory", inc.result.Stats)
	}
	later := time.Now().Add(-time.Hour)
	if err := os.Chtimes(filepath.Join(dir, "disk.img"), later, later); err != nil {
		t.Fatal(err)
	}
	touched := pack(t, dir, archive.PackOptions{Parent: full.manifest(t)})
	if touched.result.Stats.Stored != 0 || touched.result.ID == full.result.ID {
		t.Errorf("a touched file: %+v", touched.result.Stats)
	}
	again := pack(t, dir, archive.PackOptions{})
	if again.result.ID != touched.result.ID {
		t.Error("a full and an increment of one state have different ids")
	}
}

// A changed byte costs a unit, a moved run and a clone cost no data.
func TestDeltaIsSmall(t *testing.T) {
	dir := t.TempDir()
	r := rand.NewChaCha8([32]byte{5})
	disk := make([]byte, 8<<20)
	r.Read(disk)
	write := func(name string, b []byte) {
		t.Helper()
		if err := os.WriteFile(filepath.Join(dir, name), b, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write("disk.img", disk)
	full := pack(t, dir, archive.PackOptions{})
	par := full.manifest(t)

	b := bytes.Clone(disk)
	b[5_000_000]++
	write("disk.img", b)
	if s := pack(t, dir, archive.PackOptions{Parent: par}).result.Stats; s.Stored != delta.FindUnit {
		t.Errorf("a changed byte stores %d bytes", s.Stored)
	}
	b = bytes.Clone(disk)
	copy(b[1<<20:2<<20], disk[5<<20+4096:])
	write("disk.img", b)
	if s := pack(t, dir, archive.PackOptions{Parent: par}).result.Stats; s.Stored != 0 || s.Copy != 1<<20 {
		t.Errorf("a moved MiB: %+v", s)
	}
	write("disk.img", disk)
	write("clone.img", disk)
	if s := pack(t, dir, archive.PackOptions{Parent: par}).result.Stats; s.Stored != 0 || s.Copy != int64(len(disk)) {
		t.Errorf("a clone: %+v", s)
	}
	if err := os.Rename(filepath.Join(dir, "disk.img"), filepath.Join(dir, "renamed.img")); err != nil {
		t.Fatal(err)
	}
	fresh := make([]byte, 2<<20)
	r.Read(fresh)
	write("clone.img", append(bytes.Clone(fresh), fresh...))
	p := pack(t, dir, archive.PackOptions{Parent: par})
	if s := p.result.Stats; s.Stored != int64(len(fresh)) || s.Self != int64(len(fresh)) || s.Copy != int64(len(disk)) {
		t.Errorf("a rename and a repetition: %+v", s)
	}
	p.verify(t)
	archivetest.Tools(t, "python3")
	to := filepath.Join(t.TempDir(), "out")
	restorePy(t, to, full, p)
	same(t, dir, to)
}

// Every flipped bit of every byte is found, and what opens nevertheless is never different.
func TestFlippedBits(t *testing.T) {
	dir := t.TempDir()
	r := rand.NewChaCha8([32]byte{9})
	b := make([]byte, 9_000)
	r.Read(b[:3000])
	if err := os.WriteFile(filepath.Join(dir, "disk"), b, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, c := range codecs.Codecs() {
		if archivetest.Race && c.Name() == "xz" {
			continue // slow, and coded by the same workers
		}
		t.Run(c.Name(), func(t *testing.T) {
			t.Parallel()
			p := pack(t, dir, archive.PackOptions{Codec: c, Block: 4096})
			p.verify(t)
			// Every byte of those that are read quickly. Of the others every byte of the first headers and of the end, where each has
			// a meaning of its own; of the frames between, which are all alike, every few.
			every := !testing.Short() && !archivetest.Race && (c.Name() == "zstd" || c.Name() == "none")
			const ends = 800
			for i := 0; i < len(p.data); i++ {
				if i == ends && !testing.Short() && !every {
					i += len(p.data) % 7
				}
				if i > ends && i < len(p.data)-3*ends && !every {
					i += 6
				}
				if archivetest.Race {
					i += 30
				}
				if i >= len(p.data) {
					break
				}
				bad := bytes.Clone(p.data)
				bad[i] ^= 1 << (i % 8)
				if err := check(bad); err == nil {
					t.Fatalf("byte %d of %d, bit %d: not found", i, len(bad), i%8)
				} else if !known(err) {
					t.Fatalf("byte %d: error without its class: %v", i, err)
				}
			}
		})
	}
}

// What a delta's segments hold is under a digest of its own, or under those of its frames: every flipped bit is found without the
// parent.
func TestFlippedSegments(t *testing.T) {
	dir := t.TempDir()
	disk := noise(5, 2<<20)
	writeFile(t, dir, "disk", disk)
	full := pack(t, dir, archive.PackOptions{})
	copy(disk[1<<20:], noise(6, 5000))
	writeFile(t, dir, "disk", disk)
	for _, name := range []string{"none", "zstd"} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			p := pack(t, dir, archive.PackOptions{Codec: codecNamed(t, name), Parent: full.manifest(t)})
			p.verify(t)
			m := member(t, p.open(t).Manifest().Snapshot, "disk")
			if len(m.Stored.Segments) != 1 || m.Stored.Segments[0].Data != 8192 || m.Stored.Segments[0].Digest.IsZero() != (name != "none") {
				t.Fatalf("%+v", m.Stored)
			}
			for i := 0; i < len(p.data); i++ {
				if testing.Short() || archivetest.Race {
					i += 60
				}
				if i >= len(p.data) {
					break
				}
				bad := bytes.Clone(p.data)
				bad[i] ^= 1 << (i % 8)
				if err := check(bad); err == nil || !known(err) {
					t.Fatalf("byte %d of %d, bit %d: %v", i, len(bad), i%8, err)
				}
			}
		})
	}
}

func check(b []byte) error {
	a, err := archive.Open(bytes.NewReader(b), codecs.Codecs())
	if err != nil {
		return err
	}
	r, err := a.Verify(context.Background(), archive.VerifyOptions{Workers: 1})
	if err != nil {
		return err
	}
	return r.Err()
}

func known(err error) bool {
	var fe *codec.FrameError
	for _, e := range []error{archive.ErrForeign, archive.ErrTruncated, archive.ErrCorrupt, manifest.ErrCorrupt, manifest.ErrVersion} {
		if errors.Is(err, e) {
			return true
		}
	}
	return errors.As(err, &fe)
}

// An archive that is cut off anywhere is refused.
func TestTruncated(t *testing.T) {
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "disk"), bytes.Repeat([]byte("disk"), 30_000), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, c := range codecs.Codecs() {
		if archivetest.Race && c.Name() == "xz" {
			continue // slow, and coded by the same workers
		}
		t.Run(c.Name(), func(t *testing.T) {
			t.Parallel()
			p := pack(t, dir, archive.PackOptions{Codec: c})
			step := 1
			if c.Name() == "lz4" || c.Name() == "xz" { // slow
				step = max(1, len(p.data)/3000)
			}
			if archivetest.Race {
				step *= 10
			}
			for n := 0; n < len(p.data); n += step {
				err := check(p.data[:n])
				if err == nil || !known(err) {
					t.Fatalf("cut at %d of %d: %v", n, len(p.data), err)
				}
			}
		})
	}
	// The manifest beside it, too.
	p := pack(t, dir, archive.PackOptions{})
	for n := range p.side {
		if m, err := archive.OpenManifest(bytes.NewReader(p.side[:n])); err == nil && n < len(p.side)-1024 {
			t.Fatalf("manifest cut at %d of %d: %v", n, len(p.side), m.ID)
		}
	}
}

// What fails to be written fails the run.
func TestWriteErrors(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "vm")
	archivetest.New(t, dir, 1)
	for _, c := range codecs.Codecs() {
		if archivetest.Race && c.Name() == "xz" {
			continue // slow, and coded by the same workers
		}
		whole := pack(t, dir, archive.PackOptions{Codec: c})
		for _, n := range []int{0, 1, 1000, len(whole.data) / 2, len(whole.data) - 1} {
			plan, err := archive.MakePlan(context.Background(), dir, archive.PackOptions{Codec: c, Name: "test"})
			if err != nil {
				t.Fatal(err)
			}
			full := errors.New("no space")
			if _, err := plan.Pack(context.Background(), &limited{n, full}, io.Discard); !errors.Is(err, full) {
				t.Errorf("%s: output of %d bytes: %v", c.Name(), n, err)
			}
			plan.Close()
		}
	}
}

type limited struct {
	n   int
	err error
}

func (l *limited) Write(p []byte) (int, error) {
	if len(p) > l.n {
		n := l.n
		l.n = 0
		return n, l.err
	}
	l.n -= len(p)
	return len(p), nil
}
