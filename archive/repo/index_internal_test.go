package repo

import (
	"bytes"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"tarvm/delta"
	"tarvm/manifest"
)

// fill gives every field of a value one that no other has, so that a field that is not kept is missed.
func fill(t testing.TB, v reflect.Value, n *int) {
	t.Helper()
	*n++
	switch v.Kind() {
	case reflect.Struct:
		if v.Type() == reflect.TypeFor[manifest.Time]() {
			v.Set(reflect.ValueOf(manifest.Time{Time: time.Unix(int64(*n), 987654321).UTC()}))
			return
		}
		for i := range v.NumField() {
			fill(t, v.Field(i), n)
		}
	case reflect.Pointer:
		v.Set(reflect.New(v.Type().Elem()))
		fill(t, v.Elem(), n)
	case reflect.String:
		v.SetString(fmt.Sprintf("text %d é\n\x00", *n))
	case reflect.Int, reflect.Int64:
		v.SetInt(int64(*n) * 1000)
	case reflect.Bool:
		v.SetBool(true)
	case reflect.Array:
		for i := range v.Len() {
			v.Index(i).SetUint(uint64(*n+i) % 256)
		}
	case reflect.Map:
		v.Set(reflect.ValueOf(map[string]string{"b": fmt.Sprint(*n), "a": "", "": "x"}))
	default:
		t.Fatalf("a field of kind %s: the index does not keep it", v.Kind())
	}
}

// Every field of an entry is kept by the index. A field that is new has to be added to the record, with a new version. At.Removed is
// none: what has it is no entry.
func TestRecord(t *testing.T) {
	whole := new(Entry)
	n := 0
	fill(t, reflect.ValueOf(whole).Elem(), &n)
	whole.At.Removed = false
	es := []*Entry{
		whole, {Number: 1}, {Number: maxNumber, Time: manifest.Time{Time: time.Unix(-1, 5).UTC()}, Parent: &manifest.Parent{}, Machine: &manifest.Machine{}, At: &At{}},
	}
	for i := range 7 { // each flag alone
		e := &Entry{Number: i + 1, Memory: i == 0, Live: i == 1, Missing: i == 2, Size: -1}
		switch i {
		case 3:
			e.Parent = whole.Parent
		case 4:
			e.Machine = whole.Machine
		case 5:
			e.At = whole.At
		case 6:
			e.DiskID = whole.DiskID
		}
		es = append(es, e)
	}
	var b []byte
	for _, e := range es {
		b = appendEntry(b, e)
	}
	got, err := decodeEntries(b, len(es))
	if err != nil {
		t.Fatal(err)
	}
	for i, e := range es {
		e.Time.Time = e.Time.UTC()
		if !reflect.DeepEqual(&got[i], e) {
			x, _ := json.Marshal(got[i])
			y, _ := json.Marshal(e)
			t.Errorf("%d:\n%s\nwant\n%s", i, x, y)
		}
	}
	for n := range b {
		if _, err := decodeEntries(b[:n], len(es)); err == nil {
			t.Fatalf("the first %d of %d bytes are an index", n, len(b))
		}
	}
	for _, count := range []int{-1, 0, len(es) - 1, len(es) + 1, 1 << 40} {
		if _, err := decodeEntries(b, count); err == nil {
			t.Errorf("%d entries are read of %d", count, len(es))
		}
	}
}

func FuzzRecords(f *testing.F) {
	whole := new(Entry)
	n := 0
	fill(f, reflect.ValueOf(whole).Elem(), &n)
	f.Add(appendEntry(nil, whole), 1)
	f.Add(appendEntry(appendEntry(nil, whole), &Entry{Number: 1}), 2)
	f.Fuzz(func(t *testing.T, b []byte, count int) {
		es, err := decodeEntries(b, count)
		if err != nil {
			return
		}
		var again []byte
		for i := range es {
			again = appendEntry(again, &es[i])
		}
		back, err := decodeEntries(again, len(es))
		if err != nil || !reflect.DeepEqual(es, back) {
			t.Fatalf("%v: %+v became %+v", err, es, back)
		}
	})
}

// large makes a repository of n entries in p projects, of which only what Forest looks at is there.
func large(b testing.TB, n int) *Repo {
	b.Helper()
	dir, err := os.MkdirTemp("/dev/shm", "tarvm-test-*")
	if err != nil {
		dir = b.TempDir()
	}
	b.Cleanup(func() { os.RemoveAll(dir) })
	r, err := CreateDir(b.Context(), dir, Options{})
	if err != nil {
		b.Fatal(err)
	}
	rnd := rand.New(rand.NewPCG(1, 2))
	var es []*Entry
	for i := 1; i <= n; i++ {
		parent, p := "", 0
		if i%50 != 1 {
			p = i - 1 - rnd.IntN((i-1)%50)
			parent = fmt.Sprint("s", p)
		}
		e := entry(i, fmt.Sprint("s", i), parent, p)
		e.Note = strings.Repeat("what was done ", 3)
		e.Labels = map[string]string{"ticket": fmt.Sprint(i)}
		e.Machine = &manifest.Machine{Name: "web", UUID: "564d1e0e-0000-4000-8000-000000000000"}
		e.Stats = manifest.Stats{Members: 12, Files: 11, Bytes: 10 << 30, Zero: 4 << 30, Stored: 1 << 20, Same: 5 << 30}
		e.DiskID = e.ID
		e.Project = fmt.Sprint("project ", i%10)
		e.File = fmt.Sprintf("entries/%s/%06d-s%d.tar.zst", e.Project, i, i)
		e.Size = 12345
		es = append(es, e)
		path := filepath.Join(dir, filepath.FromSlash(e.File))
		if i <= 10 {
			if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
				b.Fatal(err)
			}
		}
		for _, name := range []string{path, path + suffixManifest} {
			if err := os.WriteFile(name, nil, 0o644); err != nil {
				b.Fatal(err)
			}
		}
	}
	if err := r.writeIndex(b.Context(), forest(es...)); err != nil {
		b.Fatal(err)
	}
	return r
}

// The index is believed as far as its files are there, and is of this repository alone.
func TestIndexIsBelieved(t *testing.T) {
	r := large(t, 60)
	f, err := r.Forest(t.Context())
	if err != nil || len(f.Entries) != 60 || len(f.Problems) > 0 || f.next != 61 {
		t.Fatalf("%v: %d entries, %v", err, len(f.Entries), f.Problems)
	}
	if e := f.Entries[41]; e.Labels["ticket"] != "42" || f.Parent(e) == nil || e.Project != "project 2" {
		t.Errorf("%+v", e)
	}
	d, ok := r.m.(*Dir)
	if !ok {
		t.Fatal("no directory")
	}
	for _, suffix := range []string{"", suffixManifest} {
		if err := os.Remove(d.Path(f.Entries[9].File + suffix)); err != nil {
			t.Fatal(err)
		}
	}
	if f, err = r.Forest(t.Context()); err != nil || len(f.Entries) != 59 || slices.ContainsFunc(f.Entries, func(e *Entry) bool { return e.Number == 10 }) {
		t.Errorf("%v: %d entries, one of which has gone", err, len(f.Entries))
	}
	// What is changed within is no index.
	b, err := os.ReadFile(d.Path(fileIndex))
	if err != nil {
		t.Fatal(err)
	}
	head, rest, _ := bytes.Cut(b, []byte("\n"))
	var h indexHead
	if err := json.Unmarshal(head, &h); err != nil {
		t.Fatal(err)
	}
	with := func(change func(h *indexHead, rest []byte) []byte) []byte {
		h := h
		rest := change(&h, bytes.Clone(rest))
		head, err := json.Marshal(h)
		if err != nil {
			t.Fatal(err)
		}
		return slices.Concat(head, []byte("\n"), rest)
	}
	for name, bad := range map[string][]byte{
		"empty": {}, "no head": rest, "torn": b[:len(b)/2], "head alone": head, "one byte less": b[:len(b)-1], "one byte more": append(bytes.Clone(b), 0),
		"zeros":                 make([]byte, len(b)),
		"flipped":               with(func(_ *indexHead, rest []byte) []byte { rest[len(rest)/2] ^= 1; return rest }),
		"of another repository": with(func(h *indexHead, rest []byte) []byte { h.Repository = strings.Repeat("0", 32); return rest }),
		"of another version":    with(func(h *indexHead, rest []byte) []byte { h.Version++; return rest }),
		"of too many":           with(func(h *indexHead, rest []byte) []byte { h.Count = 1 << 50; return rest }),
		"with a bad number":     with(func(h *indexHead, rest []byte) []byte { h.Next = -3; return rest }),
		"of nothing": with(func(h *indexHead, _ []byte) []byte {
			h.Digest = delta.Sum([]byte{1, 2})
			return []byte{1, 2}
		}),
	} {
		if err := os.WriteFile(d.Path(fileIndex), bad, 0o644); err != nil {
			t.Fatal(err)
		}
		if c, err := r.readIndex(t.Context()); err != nil || len(c.byFile) > 0 || c.next != 1 {
			t.Errorf("%s: %v, %d entries are believed", name, err, len(c.byFile))
		}
	}
}

func BenchmarkForest(b *testing.B) {
	for _, n := range []int{100, 10_000} {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			r := large(b, n)
			b.ReportAllocs()
			for b.Loop() {
				f, err := r.Forest(b.Context())
				if err != nil || len(f.Entries) != n {
					b.Fatal(err)
				}
			}
		})
	}
}
