package catalogue_test

import (
	"errors"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"tarvm/archive/repo/catalogue"
	"tarvm/delta"
	"tarvm/manifest"
)

// Versions in their order.
var ordered = []string{
	"bookworm", "trixie", "0.9", "1", "1.0~~x", "1.0~1", "1.0-alpha", "1.0-alpha.2", "1.0-beta", "1.0-dev", "1.0-rc", "1.0-rc4", "1.0-rc10", "1.0RC11", "1.0", "1.00", "1.0a-1", "1.0b2", "1.0z", "1.0.1", "1.1",
	"1.16-3", "1.18-1", "1.18-1.cernvm.x86_64", "2.6-rc1", "2.6", "2.6foo", "2.6.0-4-1", "2.6-1", "2.6.5", "2.6-7", "2.6.10", "2.10", "2.60", "10", "20.04", "2020.07-1",
	"99999999999999999999999999", "100000000000000000000000000",
}

func TestCompare(t *testing.T) {
	sorted := slices.Clone(ordered)
	rand.Shuffle(len(sorted), func(i, j int) { sorted[i], sorted[j] = sorted[j], sorted[i] })
	slices.SortFunc(sorted, catalogue.Compare)
	for i := range ordered {
		if sorted[i] != ordered[i] {
			t.Errorf("%d: %s, want %s", i, sorted[i], ordered[i])
		}
	}
	for i, a := range ordered {
		for j, b := range ordered {
			c := catalogue.Compare(a, b)
			if c != -catalogue.Compare(b, a) || (c == 0) != (i == j) {
				t.Errorf("%s and %s: %d", a, b, c)
			}
			for _, d := range ordered {
				if c < 0 && catalogue.Compare(b, d) < 0 && catalogue.Compare(a, d) >= 0 {
					t.Errorf("%s < %s < %s", a, b, d)
				}
			}
		}
	}
}

// machines is a catalogue of machines without files: "debian 11 12 13-rc1".
func machines(lines ...string) *catalogue.Catalogue {
	c := catalogue.New("")
	for _, l := range lines {
		w := strings.Fields(l)
		m := catalogue.Machine{Name: w[0]}
		for _, v := range w[1:] {
			v, latest := strings.CutPrefix(v, "*")
			if m.Versions = append(m.Versions, catalogue.Version{Version: v}); latest {
				m.Latest = v
			}
		}
		c.Machines = append(c.Machines, m)
	}
	return c
}

func TestFind(t *testing.T) {
	c := machines("debian 11 13-rc1 12 12.5 12.10 12.5-2", "cernvm 2.6.5 2.60 2.6.10 *2.7.2-1-2 4.4", "cernvm-batch 2.7-rc1 2.7-rc2", "empty", "ubuntu-server 24.04")
	for _, test := range []struct{ name, version, want string }{
		{"debian", "", "12.10"},
		{"debian", "latest", "12.10"},
		{"debian", "12", "12"},
		{"debian", "12.5", "12.5"},
		{"debian", "12.5-2", "12.5-2"},
		{"debian", "13", "13-rc1"},
		{"debian", "13-rc1", "13-rc1"},
		{"debian", "1", ""},
		{"debian", "12.", ""},
		{"cernvm", "", "2.7.2-1-2"},
		{"cernvm", "2.6", "2.6.10"},
		{"cernvm", "2", "2.60"},
		{"cernvm", "4", "4.4"},
		{"cernvm", "4.4.1", ""},
		{"cernvm-batch", "latest", "2.7-rc2"},
		{"empty", "", ""},
	} {
		m, v, err := c.Find(test.name, test.version)
		if test.want == "" {
			if !errors.Is(err, catalogue.ErrNotFound) {
				t.Errorf("%s@%s: %v, %v", test.name, test.version, v, err)
			}
		} else if err != nil || m.Name != test.name || v.Version != test.want {
			t.Errorf("%s@%s: %v, %v, want %s", test.name, test.version, v, err, test.want)
		}
	}
	for name, want := range map[string]string{
		"debain": "debian", "Debian": "debian", "debian12": "debian", "cernvn": "cernvm", "cern": "cernvm cernvm-batch", "ubuntu": "ubuntu-server",
		"windows": "", "": "", "x": "", strings.Repeat("x", 1000): "",
	} {
		_, _, err := c.Find(name, "")
		var none *catalogue.NotFoundError
		if !errors.As(err, &none) || strings.Join(none.Near, " ") != want {
			t.Errorf("%.20s: %+v, want %q", name, err, want)
		}
	}
	_, _, err := c.Find("debian", "12.50")
	var none *catalogue.NotFoundError
	if !errors.As(err, &none) || len(none.Near) != 5 || none.Near[0] != "debian@12.10" && none.Near[0] != "debian@12.5" {
		t.Errorf("%+v", none)
	}
}

func TestChoose(t *testing.T) {
	file := func(format, compression, arch string, size int64) catalogue.File {
		return catalogue.File{Blob: catalogue.Blob{URL: "x", Size: size}, Format: format, Compression: compression, Arch: arch}
	}
	v := &catalogue.Version{Version: "1", Files: []catalogue.File{
		file("iso", "", "", 1), file("raw", "", "x86_64", 100), file("raw", "gzip", "x86_64", 40), file("raw", "xz", "x86_64", 30),
		file("qcow2", "", "aarch64", 50), file("vmdk", "", "x86_64", 60),
	}}
	for _, test := range []struct {
		formats, arch string
		want          string
	}{
		{"", "x86_64", "vmdk"},
		{"", "aarch64", "qcow2"},
		{"", "", "qcow2"},
		{"raw", "", "raw.xz"},
		{"raw.gz", "", "raw.gz"},
		{"raw.gzip", "", "raw.gz"},
		{"img vmdk", "", "raw.xz"},
		{"ova vmdk raw", "", "vmdk"},
		{"iso", "aarch64", "iso"},
		{"qcow2", "x86_64", ""},
		{"", "riscv64", ""},
	} {
		f, err := catalogue.Choose(v, catalogue.Preference{Formats: strings.Fields(test.formats), Arch: test.arch})
		switch {
		case test.want == "" && !errors.Is(err, catalogue.ErrNotFound), test.want != "" && (err != nil || f.Form() != test.want):
			t.Errorf("%q for %q: %v, %v, want %s", test.formats, test.arch, f, err, test.want)
		}
	}
}

// Chains of archives: full ones are preferred, loops and gaps are found.
func TestPath(t *testing.T) {
	id := func(b byte) (d delta.Digest) { d[0] = b; return d }
	file := func(size int64, at, parent byte) catalogue.File {
		f := catalogue.File{Blob: catalogue.Blob{URL: "x", Size: size}, Kind: catalogue.KindArchive, Format: "tarvm",
			Entry: &catalogue.Entry{Kind: manifest.Full, ID: id(at), Digest: id(at)}}
		if parent != 0 {
			f.Entry.Kind, f.Entry.Parent = manifest.Incremental, &manifest.Parent{ID: id(parent), Digest: id(parent)}
		}
		return f
	}
	c := machines("m 1 2 3 4", "loop 1 2", "gap 1")
	add := func(m, v int, f ...catalogue.File) { c.Machines[m].Versions[v].Files = f }
	add(0, 0, file(100, 1, 0))
	add(0, 1, file(10, 2, 1), file(90, 2, 0)) // increment and full
	add(0, 2, file(10, 3, 2))
	add(0, 3, file(10, 4, 3), file(5, 4, 1))
	add(1, 0, file(1, 20, 21))
	add(1, 1, file(1, 21, 20))
	add(2, 0, file(1, 30, 31))
	get := func(m, v, f int) ([]catalogue.Found, error) { return c.Path(&c.Machines[m].Versions[v].Files[f], nil) }
	for _, test := range []struct {
		m, v, f int
		want    []byte
	}{{0, 0, 0, []byte{1}}, {0, 1, 0, []byte{1, 2}}, {0, 2, 0, []byte{2, 3}}, {0, 3, 0, []byte{2, 3, 4}}, {0, 3, 1, []byte{1, 4}}} {
		path, err := get(test.m, test.v, test.f)
		var got []byte
		for _, p := range path {
			got = append(got, p.File.Entry.ID[0])
		}
		if err != nil || !slices.Equal(got, test.want) {
			t.Errorf("%v, %v, want %v", got, err, test.want)
		}
	}
	if _, err := get(1, 0, 0); !errors.Is(err, catalogue.ErrInvalid) {
		t.Error(err)
	}
	if _, err := get(2, 0, 0); !errors.Is(err, catalogue.ErrNotFound) {
		t.Error(err)
	}
	if f, err := catalogue.Choose(&c.Machines[0].Versions[1], catalogue.Preference{}); err != nil || f.Size != 90 {
		t.Error(f, err)
	}
}
