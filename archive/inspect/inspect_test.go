package inspect_test

import (
	"bytes"
	"encoding/json"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"reflect"
	"testing"
	"time"

	"pgregory.net/rapid"

	"tarvm/archive"
	"tarvm/archive/codec"
	codecs "tarvm/archive/codec/all"
	"tarvm/archive/inspect"
	"tarvm/delta"
	"tarvm/manifest"
)

const block = 64 << 10

// day is the time of all files, so that times differ only where a test wants it.
var day = time.Date(2026, 5, 1, 12, 0, 0, 0, time.UTC)

// write makes a directory; a nil value is a folder.
func write(t testing.TB, files map[string][]byte) string {
	t.Helper()
	dir := t.TempDir()
	for p, b := range files {
		full := filepath.Join(dir, p)
		if b == nil {
			if err := os.MkdirAll(full, 0o755); err != nil {
				t.Fatal(err)
			}
			continue
		}
		if err := os.MkdirAll(filepath.Dir(full), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(full, b, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	err := filepath.WalkDir(dir, func(p string, d os.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		return os.Chtimes(p, day, day)
	})
	if err != nil {
		t.Fatal(err)
	}
	for range 2 { // folders' times last
		err = filepath.WalkDir(dir, func(p string, d os.DirEntry, err error) error {
			if err != nil {
				return err
			}
			return os.Chtimes(p, day, day)
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

func pack(t testing.TB, dir string, o archive.PackOptions) *archive.Manifest {
	t.Helper()
	o.Codec = codec.ByName(codecs.Codecs(), "none")
	o.Name = "vm"
	plan, err := archive.MakePlan(t.Context(), dir, o)
	if err != nil {
		t.Fatal(err)
	}
	defer plan.Close()
	var side bytes.Buffer
	if _, err := plan.Pack(t.Context(), io.Discard, &side); err != nil {
		t.Fatal(err)
	}
	m, err := archive.OpenManifest(bytes.NewReader(side.Bytes()))
	if err != nil {
		t.Fatal(err)
	}
	return m
}

func compare(t testing.TB, a, b *archive.Manifest) *inspect.Report {
	t.Helper()
	r, err := inspect.Compare(a, b)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func random(seed uint64, n int) []byte {
	b := make([]byte, n)
	r := rand.New(rand.NewPCG(seed, 1))
	for i := range b {
		b[i] = byte(r.Uint32())
	}
	return b
}

func with(b []byte, off int, v string) []byte {
	b = bytes.Clone(b)
	copy(b[off:], v)
	return b
}

func TestSame(t *testing.T) {
	files := map[string][]byte{"a/disk.img": random(1, 300000), "vm.vmx": []byte("x"), "empty": {}, "zero": make([]byte, 2*block)}
	a, b := pack(t, write(t, files), archive.PackOptions{}), pack(t, write(t, files), archive.PackOptions{})
	if r := compare(t, a, b); !r.Same() || r.Bytes != 0 {
		t.Errorf("two packings of the same files differ: %+v", r)
	}
	inc := pack(t, write(t, files), archive.PackOptions{Parent: a})
	if r := compare(t, a, inc); !r.Same() {
		t.Errorf("an increment without a change differs: %+v", r)
	}
}

func TestReport(t *testing.T) {
	disk := random(1, 10*block+1000)
	big := random(2, 3*block)
	a := write(t, map[string][]byte{
		"disk.img": disk, "vm.vmx": []byte("cpus = 1"), "old.log": []byte("log"), "snap/1.vmem": big,
		"grows.img": random(3, 2*block), "shrinks.img": random(4, 4*block+5), "same": []byte("same"), "dir/x": []byte("x"),
	})
	changed := with(with(disk, 0, "first"), 10*block+500, "last")
	b := write(t, map[string][]byte{
		"disk.img": changed, "vm.vmx": []byte("cpus = 2!"), "new": nil, "saved/1.vmem": big,
		"grows.img": append(random(3, 2*block), make([]byte, 3*block)...), "shrinks.img": random(4, 4*block+5)[:2*block], "same": []byte("same"),
		"dir/x": []byte("x"),
	})
	if err := os.Chmod(filepath.Join(b, "dir/x"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Chtimes(filepath.Join(b, "same"), day, day.Add(time.Hour)); err != nil {
		t.Fatal(err)
	}
	ma, mb := pack(t, a, archive.PackOptions{}), pack(t, b, archive.PackOptions{})
	got := compare(t, ma, mb)

	want := &inspect.Report{
		A: inspect.Entry{ID: ma.ID, Name: "vm", Time: ma.Entry.Time},
		B: inspect.Entry{ID: mb.ID, Name: "vm", Time: mb.Entry.Time},
		Added: []inspect.File{
			{Path: "new", Type: manifest.Dir},
			{Path: "saved", Type: manifest.Dir},
		},
		Removed: []inspect.File{
			{Path: "old.log", Type: manifest.File, Size: 3},
			{Path: "snap", Type: manifest.Dir},
		},
		Renamed: []inspect.Rename{{From: "snap/1.vmem", To: "saved/1.vmem", Size: 3 * block}},
		Changed: []inspect.Change{
			{Path: "dir/x", Type: manifest.File, SizeA: 1, SizeB: 1, Metadata: []inspect.Field{{Name: "mode", A: "0644", B: "0600"}}},
			{Path: "disk.img", Type: manifest.File, Role: manifest.RoleDisk, SizeA: 10*block + 1000, SizeB: 10*block + 1000, Bytes: block + 1000},
			{Path: "grows.img", Type: manifest.File, Role: manifest.RoleDisk, SizeA: 2 * block, SizeB: 5 * block},
			{Path: "same", Type: manifest.File, SizeA: 4, SizeB: 4, Metadata: []inspect.Field{
				{Name: "mtime", A: "2026-05-01T12:00:00Z", B: "2026-05-01T13:00:00Z"}}},
			{Path: "shrinks.img", Type: manifest.File, Role: manifest.RoleDisk, SizeA: 4*block + 5, SizeB: 2 * block, Bytes: 2*block + 5},
			{Path: "vm.vmx", Type: manifest.File, Role: manifest.RoleConfig, SizeA: 8, SizeB: 9, Bytes: 9},
		},
		Bytes: block + 1000 + 2*block + 5 + 9,
	}
	if !reflect.DeepEqual(got, want) {
		g, _ := json.MarshalIndent(got, "", " ")
		w, _ := json.MarshalIndent(want, "", " ")
		t.Errorf("got %s\nwant %s", g, w)
	}
	var again inspect.Report
	text, err := json.Marshal(got)
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(text, &again); err != nil || !reflect.DeepEqual(&again, got) {
		t.Errorf("JSON does not carry the report: %v\n%s", err, text)
	}
}

// A directory compared with an entry is on the entry's grid, whatever grid it would choose itself.
func TestSmallAndLarge(t *testing.T) {
	small, large := random(1, block/2), append(random(1, block/2), random(2, 2*block)...)
	a := pack(t, write(t, map[string][]byte{"f": small, "z": make([]byte, 100)}), archive.PackOptions{})
	b := pack(t, write(t, map[string][]byte{"f": large, "z": make([]byte, 4*block)}), archive.PackOptions{})
	for _, m := range [][2]*archive.Manifest{{a, b}, {b, a}} {
		r := compare(t, m[0], m[1])
		if len(r.Changed) != 2 {
			t.Fatalf("changed: %+v", r.Changed)
		}
		// The first block of the large file is not the small file, which is no block.
		if n := r.Changed[0].Bytes; n != int64(len(large)) || r.Changed[0].Coarse {
			t.Errorf("f: %d bytes differ, want %d", n, len(large))
		}
		if n := r.Changed[1].Bytes; n != 0 {
			t.Errorf("z: %d bytes differ between zeros and more zeros", n)
		}
	}
}

func TestOtherGrid(t *testing.T) {
	dir := write(t, map[string][]byte{"disk.img": random(1, 5*block), "tiny": []byte("t")})
	a, b := pack(t, dir, archive.PackOptions{}), pack(t, dir, archive.PackOptions{Block: 2 * block})
	r := compare(t, a, b)
	if len(r.Changed) != 1 || r.Changed[0].Path != "disk.img" || !r.Changed[0].Coarse || r.Changed[0].Bytes != 5*block {
		t.Errorf("on another grid: %+v", r.Changed)
	}
}

func TestTypeChange(t *testing.T) {
	a := pack(t, write(t, map[string][]byte{"f": []byte("12345")}), archive.PackOptions{})
	b := pack(t, write(t, map[string][]byte{"f": nil}), archive.PackOptions{})
	r := compare(t, a, b)
	if len(r.Changed) != 1 || r.Changed[0].Bytes != 5 || r.Changed[0].Metadata[0] != (inspect.Field{Name: "type", A: "file", B: "dir"}) {
		t.Errorf("a file that is a folder now: %+v", r.Changed)
	}
}

func TestRenames(t *testing.T) {
	same := random(1, 2*block)
	a := pack(t, write(t, map[string][]byte{"1/x": same, "2/y": same, "3/gone": same, "e1": {}}), archive.PackOptions{})
	b := pack(t, write(t, map[string][]byte{"4/y": same, "5/x": same, "e2": {}}), archive.PackOptions{})
	r := compare(t, a, b)
	pairs := make(map[manifest.Path]manifest.Path)
	for _, p := range r.Renamed {
		pairs[p.From] = p.To
	}
	want := map[manifest.Path]manifest.Path{"1/x": "5/x", "2/y": "4/y"}
	if !reflect.DeepEqual(pairs, want) {
		t.Errorf("renamed %v, want %v", pairs, want)
	}
	for _, f := range r.Removed {
		if f.Path == "3/gone" {
			return
		}
	}
	t.Errorf("one of three equal files is gone, and not removed: %+v", r.Removed)
}

func TestDamagedTable(t *testing.T) {
	dir := write(t, map[string][]byte{"disk.img": random(1, 5*block)})
	a := pack(t, dir, archive.PackOptions{})
	other := pack(t, write(t, map[string][]byte{"disk.img": random(2, 5*block)}), archive.PackOptions{})
	m := &other.Members[1]
	m.Blocks++
	if _, err := inspect.Compare(a, other); err == nil {
		t.Error("a table that does not fit its member is believed")
	}
}

// The report agrees with the bytes themselves, cut into blocks.
func TestCompareBytes(t *testing.T) {
	const small = delta.MinBlock
	rapid.Check(t, func(rt *rapid.T) {
		gen := func(name string) []byte {
			b := []byte{} // not nil, which is a folder
			for _, v := range rapid.SliceOfN(rapid.IntRange(0, 2), 0, 6).Draw(rt, name) {
				b = append(b, bytes.Repeat([]byte{byte(v)}, small)...)
			}
			return append(b, bytes.Repeat([]byte{1}, rapid.IntRange(0, small-1).Draw(rt, name+" rest"))...)
		}
		x, y := gen("a"), gen("b")
		o := archive.PackOptions{Block: small}
		a, b := pack(t, write(t, map[string][]byte{"f": x}), o), pack(t, write(t, map[string][]byte{"f": y}), o)
		r := compare(t, a, b)
		var want int64
		if len(x) <= small && len(y) <= small {
			if !bytes.Equal(x, y) {
				want = int64(max(len(x), len(y)))
			}
		} else {
			for off := 0; off < max(len(x), len(y)); off += small {
				p, q := x[min(off, len(x)):min(off+small, len(x))], y[min(off, len(y)):min(off+small, len(y))]
				if !bytes.Equal(p, q) && !(delta.IsZero(p) && delta.IsZero(q)) {
					want += int64(max(len(p), len(q)))
				}
			}
		}
		if r.Bytes != want {
			rt.Errorf("%d and %d bytes: %d differ, want %d", len(x), len(y), r.Bytes, want)
		}
		if r.Same() != bytes.Equal(x, y) {
			rt.Errorf("same: %v", r.Same())
		}
	})
}
