package catalogue_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"tarvm/archive/repo/catalogue"
	"tarvm/delta"
)

// example is the one of FORMAT.md.
func example(t testing.TB) []byte {
	t.Helper()
	b, err := os.ReadFile("FORMAT.md")
	if err != nil {
		t.Fatal(err)
	}
	_, rest, ok1 := bytes.Cut(b, []byte("```json\n"))
	text, _, ok2 := bytes.Cut(rest, []byte("```\n"))
	if !ok1 || !ok2 {
		t.Fatal("FORMAT.md has no example")
	}
	return text
}

func decoded(t testing.TB, b []byte) *catalogue.Catalogue {
	t.Helper()
	c, err := catalogue.Decode(b)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// The example of FORMAT.md is what this package writes.
func TestExample(t *testing.T) {
	text := example(t)
	c := decoded(t, text)
	again, err := c.Encode()
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(again, text) {
		t.Errorf("encoded it is:\n%s", again)
	}
	m, v, err := c.Find("cernvm", "1.18")
	if err != nil || v.Version != "1.18-1" || m.Title != "CernVM" {
		t.Fatal(m, v, err)
	}
	f, err := catalogue.Choose(v, catalogue.Preference{Arch: "x86_64"})
	if err != nil || f.Format != "tarvm" {
		t.Fatal(f, err)
	}
	path, err := c.Path(f, nil)
	if err != nil || len(path) != 2 || path[0].Version.Version != "1.17-10" || path[1].File != f || path[1].Machine != m {
		t.Fatal(path, err)
	}
	if path, err = c.Path(f, func(id delta.Digest) bool { return id == path[0].File.Entry.ID }); err != nil || len(path) != 1 {
		t.Fatal(path, err)
	}
	for form, want := range map[string]string{"vhd": "vpc", "vpc": "vpc", "raw": "raw", "hdd": "raw", "iso": "iso", "RAW": "raw"} {
		if f, err := catalogue.Choose(v, catalogue.Preference{Formats: []string{"ova", form}}); err != nil || f.Format != want {
			t.Error(form, f, err)
		}
	}
	var none *catalogue.NotFoundError
	if _, err := catalogue.Choose(v, catalogue.Preference{Formats: []string{"ova"}}); !errors.As(err, &none) || len(none.Near) != 4 {
		t.Error(err)
	}
	if _, err := catalogue.Choose(v, catalogue.Preference{Arch: "aarch64"}); !errors.As(err, &none) {
		t.Error(err)
	}
}

// one is a catalogue with a single file, as text in which a test replaces parts.
const one = `{"tarvm":"catalogue","version":1,"machines":[{"name":"m","versions":[{"version":"1","files":[` +
	`{"url":"d/vm.qcow2","size":1,"kind":"disk","format":"qcow2"}]}]}]}`

func TestHostile(t *testing.T) {
	if c := decoded(t, []byte(one)); c.Machines[0].Versions[0].Files[0].FileName() != "vm.qcow2" {
		t.Fatal(c)
	}
	sha := `"digests":{"sha256":"` + strings.Repeat("0", 64) + `"},`
	archive := func(entry string) string {
		return strings.Replace(one, `"kind":"disk","format":"qcow2"`, `"kind":"archive","format":"tarvm","entry":`+entry, 1)
	}
	id := `"` + strings.Repeat("1", 64) + `"`
	tests := []struct{ name, old, new, says string }{
		{"nothing", one, "", "EOF"},
		{"a number", one, "7", "begin"},
		{"null", one, "null", "begin"},
		{"a list", one, "[]", "begin"},
		{"another thing", `"catalogue"`, `"entry"`, "begin"},
		{"version 0", `"version":1,`, `"version":0,`, "begin"},
		{"cut off", `}]}]}]}`, `}]}]}`, "EOF"},
		{"text behind", `]}]}]}`, `]}]}]}x`, "behind"},
		{"two", `]}]}]}`, `]}]}]}{}`, "behind"},
		{"not UTF-8", `"tarvm"`, "\"x\":\"\xff\",\"tarvm\"", "UTF-8"},
		{"NUL", `"name":"m"`, "\"name\":\"m\x00\"", "invalid"},
		{"escaped NUL", `"name":"m"`, `"name":"m\u0000"`, "name"},
		{"byte order mark", `{"tarvm"`, "\ufeff{\"tarvm\"", "invalid"},
		{"deep", `"tarvm"`, `"x":` + strings.Repeat("[", 100000) + strings.Repeat("]", 100000) + `,"tarvm"`, "deeper"},
		{"deep objects", `"tarvm"`, `"x":` + strings.Repeat(`{"a":`, 50) + "1" + strings.Repeat("}", 50) + `,"tarvm"`, "deeper"},
		{"a key twice", `"size":1`, `"size":1,"size":2`, "twice"},
		{"a key twice in another case", `"size":1`, `"size":1,"SIZE":2`, "twice"},
		{"a type", `"size":1`, `"size":"1"`, "size"},
		{"a fraction", `"size":1`, `"size":1.5`, "size"},
		{"a machine twice", `"machines":[`, `"machines":[{"name":"m","versions":[]},`, "another machine"},
		{"a version twice", `"versions":[`, `"versions":[{"version":"1","files":[]},`, "twice"},
		{"no name", `"name":"m"`, `"name":""`, "name"},
		{"a name with capitals", `"name":"m"`, `"name":"M"`, "name"},
		{"a name of dots", `"name":"m"`, `"name":".."`, "name"},
		{"a name with an escape", `"name":"m"`, `"name":"\u001b[31m"`, "name"},
		{"a name with an at sign", `"name":"m"`, `"name":"m@1"`, "name"},
		{"a long name", `"name":"m"`, `"name":"` + strings.Repeat("m", 65) + `"`, "name"},
		{"a version with a slash", `"version":"1"`, `"version":"1/2"`, "version"},
		{"a version that means another", `"version":"1"`, `"version":"latest"`, "version"},
		{"latest that is none", `"name":"m"`, `"name":"m","latest":"2"`, "latest"},
		{"a title with an escape", `"name":"m"`, `"name":"m","title":"\u001b]0;x\u0007"`, "control"},
		{"a title that turns", `"name":"m"`, `"name":"m","title":"\u202eabc"`, "control"},
		{"a title of lines", `"name":"m"`, `"name":"m","title":"a\nb"`, "control"},
		{"a home that is a program", `"name":"m"`, `"name":"m","home":"javascript:alert(1)"`, "home"},
		{"size 0", `"size":1`, `"size":0`, "size"},
		{"size below 0", `"size":1`, `"size":-1`, "size"},
		{"a huge size", `"size":1`, `"size":9223372036854775807`, "size"},
		{"a size that does not fit", `"size":1`, `"size":18446744073709551616`, "size"},
		{"no URL", `"url":"d/vm.qcow2"`, `"url":""`, "url"},
		{"up", "d/vm.qcow2", "../vm.qcow2", "url"},
		{"up in the middle", "d/vm.qcow2", "d/../../vm.qcow2", "url"},
		{"up, encoded", "d/vm.qcow2", "%2e%2e/vm.qcow2", "url"},
		{"up, with an encoded slash", "d/vm.qcow2", "..%2fvm.qcow2", "url"},
		{"up, with backslashes", "d/vm.qcow2", `..\\vm.qcow2`, "url"},
		{"absolute", "d/vm.qcow2", "/etc/passwd", "url"},
		{"another host", "d/vm.qcow2", "//host/vm.qcow2", "url"},
		{"a file", "d/vm.qcow2", "file:///etc/passwd", "url"},
		{"a drive", "d/vm.qcow2", "c:/vm.qcow2", "url"},
		{"a drive, encoded", "d/vm.qcow2", "c%3a/vm.qcow2", "url"},
		{"a dot", "d/vm.qcow2", ".", "url"},
		{"an encoded NUL", "d/vm.qcow2", "d%00/vm.qcow2", "url"},
		{"a query", "d/vm.qcow2", "vm.qcow2?x", "url"},
		{"a fragment", "d/vm.qcow2", "vm.qcow2#x", "url"},
		{"ftp", "d/vm.qcow2", "ftp://host/vm.qcow2", "url"},
		{"no host", "d/vm.qcow2", "http:///vm.qcow2", "url"},
		{"opaque", "d/vm.qcow2", "http:vm.qcow2", "url"},
		{"a password", `"url":"d/vm.qcow2",`, sha + `"url":"http://me:s3cr3t@host/vm.qcow2",`, "everyone"},
		{"no digest", "d/vm.qcow2", "https://host/vm.qcow2", "digests"},
		{"only sha1", `"url":"d/vm.qcow2",`, `"digests":{"sha1":"` + strings.Repeat("0", 40) + `"},"url":"http://h/vm.qcow2",`, "digests"},
		{"no name for a file", `"url":"d/vm.qcow2",`, sha + `"url":"http://h/",`, "name"},
		{"a name with a space", "d/vm.qcow2", "d/v%20m.qcow2", "name"},
		{"a name that leads away", `"size":1`, `"size":1,"name":"../x"`, "name"},
		{"a hidden name", `"size":1`, `"size":1,"name":".bashrc"`, "name"},
		{"a name of a flag", `"size":1`, `"size":1,"name":"-rf"`, "name"},
		{"a name of a part", `"size":1`, `"size":1,"name":"vm.part"`, "name"},
		{"a short digest", `"size":1`, `"size":1,"digests":{"sha256":"00"}`, "sha256"},
		{"a digest with capitals", `"size":1`, `"size":1,"digests":{"sha256":"` + strings.Repeat("A", 64) + `"}`, "sha256"},
		{"a digest with other letters", `"size":1`, `"size":1,"digests":{"blake3":"` + strings.Repeat("x", 64) + `"}`, "blake3"},
		{"the wrong kind", `"kind":"disk"`, `"kind":"package"`, "kind"},
		{"no kind", `"kind":"disk",`, ``, "kind"},
		{"no format", `"format":"qcow2"`, `"format":""`, "format"},
		{"a disk with an entry", `"format":"qcow2"`, `"format":"qcow2","entry":{"kind":"full","id":` + id + `,"digest":` + id + `}`, "entry"},
		{"an archive without", `"kind":"disk","format":"qcow2"`, `"kind":"archive","format":"tarvm"`, "entry"},
		{"an entry without id", one, archive(`{"kind":"full","digest":` + id + `}`), "id"},
		{"an increment without parent", one, archive(`{"kind":"incremental","id":` + id + `,"digest":` + id + `}`), "parent"},
		{"a full one with", one, archive(`{"kind":"full","id":` + id + `,"digest":` + id + `,"parent":{"id":` + id + `,"digest":` + id + `}}`), "parent"},
		{"another kind of entry", one, archive(`{"kind":"half","id":` + id + `,"digest":` + id + `}`), "parent"},
		{"two files of one name", `"format":"qcow2"`, `"format":"qcow2","with":[{"url":"e/VM.qcow2","size":1}]`, "another file"},
		{"up in what belongs to it", `"format":"qcow2"`, `"format":"qcow2","with":[{"url":"../x","size":1}]`, "with[0].url"},
		{"too much that belongs to it", `"format":"qcow2"`, `"format":"qcow2","with":[` + strings.Repeat(`{"url":"x","size":1},`, 10000) + `{}]`, "with"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			text := strings.Replace(one, test.old, test.new, 1)
			if text == one {
				t.Fatal("nothing was replaced")
			}
			_, err := catalogue.Decode([]byte(text))
			if !errors.Is(err, catalogue.ErrInvalid) || !strings.Contains(err.Error(), test.says) {
				t.Errorf("error %v, want one with %q", err, test.says)
			}
			if err != nil && (strings.Contains(err.Error(), "s3cr3t") || strings.ContainsFunc(err.Error(), func(r rune) bool { return r < ' ' }) || len(err.Error()) > 500) {
				t.Errorf("error %q", err)
			}
		})
	}
	for i := range one {
		if _, err := catalogue.Decode([]byte(one[:i])); !errors.Is(err, catalogue.ErrInvalid) {
			t.Errorf("%d bytes of it: %v", i, err)
		}
	}
}

// Later versions are refused as such, also where their keys have other types; unknown keys are not seen.
func TestVersions(t *testing.T) {
	for _, text := range []string{
		strings.Replace(one, `"version":1,`, `"version":2,`, 1),
		strings.Replace(one, `"version":1,`, `"version":1,"requires":["magic"],`, 1),
		`{"tarvm":"catalogue","version":2,"machines":{}}`,
	} {
		if _, err := catalogue.Decode([]byte(text)); !errors.Is(err, catalogue.ErrVersion) {
			t.Errorf("%s: %v", text, err)
		}
	}
	c := decoded(t, []byte(strings.Replace(one, `"size":1`, `"size":1,"x":{"y":[{"size":[]}]}`, 1)))
	if !reflect.DeepEqual(c, decoded(t, []byte(one))) {
		t.Error("an unknown key was seen")
	}
}

// Many machines are many, and not slow.
func TestMany(t *testing.T) {
	c := catalogue.New("many")
	for i := range 2000 {
		c.Machines = append(c.Machines, catalogue.Machine{Name: fmt.Sprint("m", 2000-i), Versions: []catalogue.Version{
			{Version: "1", Files: []catalogue.File{{Blob: catalogue.Blob{URL: "x", Size: 1}, Kind: "disk", Format: "raw"}}}}})
	}
	b, err := c.Encode()
	if err != nil {
		t.Fatal(err)
	}
	if got := decoded(t, b); len(got.Machines) != 2000 || got.Machines[0].Name != "m1" {
		t.Error(len(got.Machines))
	}
	if c.Machines[0].Name != "m2000" {
		t.Error("encoding sorted the caller's list")
	}
}

// In whatever order files are added, the text is the same; the same again changes nothing; a fault changes nothing.
func TestAdd(t *testing.T) {
	file := func(url, format, compression string) catalogue.File {
		return catalogue.File{Blob: catalogue.Blob{URL: url, Size: 5}, Kind: catalogue.KindDisk, Format: format, Compression: compression}
	}
	type step struct {
		name, version string
		f             catalogue.File
	}
	steps := []step{
		{"b", "1.10", file("b.raw.gz", "raw", "gzip")},
		{"b", "1.9", file("b.raw", "raw", "")},
		{"b", "1.10", file("b.qcow2", "qcow2", "")},
		{"a", "1", file("a.vdi", "vdi", "")},
		{"b", "1.10", file("b.raw.xz", "raw", "xz")},
	}
	text := func(order ...int) string {
		c := catalogue.New("")
		for _, i := range order {
			if err := c.Add(steps[i].name, steps[i].version, steps[i].f); err != nil {
				t.Fatal(err)
			}
		}
		b, err := c.Encode()
		if err != nil {
			t.Fatal(err)
		}
		return string(b)
	}
	want := text(0, 1, 2, 3, 4)
	if got := text(4, 3, 2, 1, 0, 0, 3); got != want {
		t.Errorf("%s\nwant\n%s", got, want)
	}
	c := decoded(t, []byte(want))
	n := steps[0].f
	n.URL, n.Size = "new.raw.gz", 6
	if err := c.Add("b", "1.10", n); err != nil {
		t.Fatal(err)
	}
	if _, v, err := c.Find("b", "1.10"); err != nil || len(v.Files) != 3 {
		t.Error(v, err)
	}
	before, err := c.Encode()
	if err != nil {
		t.Fatal(err)
	}
	n.URL = "../x"
	for _, err := range []error{c.Add("b", "1.10", n), c.Add("B", "1", steps[0].f), c.Add("b", "", steps[0].f)} {
		var field *catalogue.FieldError
		if !errors.As(err, &field) {
			t.Error(err)
		}
	}
	if after, err := c.Encode(); err != nil || !bytes.Equal(after, before) {
		t.Error("changed", err)
	}
	path := filepath.Join(t.TempDir(), "catalogue.json")
	if err := c.Save(path); err != nil {
		t.Fatal(err)
	}
	if b, err := os.ReadFile(path); err != nil || !bytes.Equal(b, before) {
		t.Error("saved otherwise", err)
	}
	only(t, filepath.Dir(path), "catalogue.json")
}

// What was decoded is encoded to text that is decoded to the same, and encoded to itself.
func FuzzDecode(f *testing.F) {
	f.Add(example(f))
	f.Add([]byte(one))
	f.Add([]byte(strings.Replace(one, `"version":1,`, `"version":1,"title":"\u00e4<&>\ud800","x":[{}],`, 1)))
	f.Fuzz(func(t *testing.T, b []byte) {
		c, err := catalogue.Decode(b)
		if err != nil {
			if !errors.Is(err, catalogue.ErrInvalid) && !errors.Is(err, catalogue.ErrVersion) {
				t.Errorf("error %v", err)
			}
			return
		}
		if !json.Valid(b) {
			t.Error("is no JSON")
		}
		text, err := c.Encode()
		if err != nil {
			t.Fatal(err)
		}
		again, err := decoded(t, text).Encode()
		if err != nil || !bytes.Equal(again, text) {
			t.Errorf("encoded again it is %s, %v, before it was %s", again, err, text)
		}
		c.Base = catalogue.Place{Dir: "/base", Name: "c.json"}
		for i := range c.Machines {
			for j := range c.Machines[i].Versions {
				v := &c.Machines[i].Versions[j]
				if _, got, err := c.Find(c.Machines[i].Name, v.Version); err != nil || got != v {
					t.Errorf("%s@%s is not found: %v", c.Machines[i].Name, v.Version, err)
				}
				for k := range v.Files {
					p, err := c.Place(&v.Files[k].Blob)
					if err != nil || p.URL == nil && !filepath.IsLocal(p.Name) {
						t.Errorf("%q is at %v, %v", v.Files[k].URL, p, err)
					}
				}
			}
		}
	})
}
