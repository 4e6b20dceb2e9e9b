package catalogue_test

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"errors"
	"os"
	"path/filepath"
	"testing"

	"tarvm/archive"
	"tarvm/archive/codec"
	codecs "tarvm/archive/codec/all"
	"tarvm/archive/repo/catalogue"
	disks "tarvm/formats/all"
	"tarvm/manifest"
)

// pack writes an archive with its manifest beside it.
func pack(t *testing.T, dir, path string, parent *archive.Manifest) *archive.Manifest {
	t.Helper()
	plan, err := archive.MakePlan(t.Context(), dir, archive.PackOptions{Name: "m", Codec: codec.ByName(codecs.Codecs(), "gzip"), Formats: disks.Disks(), Parent: parent})
	if err != nil {
		t.Fatal(err)
	}
	var data, side bytes.Buffer
	if _, err := plan.Pack(t.Context(), &data, &side); err != nil {
		t.Fatal(err)
	}
	for p, b := range map[string][]byte{path: data.Bytes(), path + ".manifest": side.Bytes()} {
		if err := os.WriteFile(p, b, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	m, err := archive.OpenManifest(bytes.NewReader(side.Bytes()))
	if err != nil {
		t.Fatal(err)
	}
	return m
}

// A site makes a catalogue of its files; who has it gets the chain.
func TestPublish(t *testing.T) {
	vm, site := t.TempDir(), t.TempDir()
	if err := os.WriteFile(filepath.Join(vm, "disk.raw"), content(200<<10, 1), 0o600); err != nil {
		t.Fatal(err)
	}
	full := pack(t, vm, filepath.Join(site, "m-1.tar.gz"), nil)
	if err := os.WriteFile(filepath.Join(vm, "disk.raw"), content(200<<10, 2), 0o600); err != nil {
		t.Fatal(err)
	}
	incr := pack(t, vm, filepath.Join(site, "m-2.tar.gz"), full)
	known := catalogue.Known{Codecs: codecs.Codecs(), Disks: disks.Disks()}
	c := catalogue.New("site")
	for version, name := range map[string]string{"1": "m-1.tar.gz", "2": "m-2.tar.gz"} {
		f, err := catalogue.Describe(t.Context(), filepath.Join(site, name), "", known)
		if err != nil {
			t.Fatal(err)
		}
		if err := c.Add("m", version, f); err != nil {
			t.Fatal(err)
		}
	}
	if err := c.Save(filepath.Join(site, "catalogue.json")); err != nil {
		t.Fatal(err)
	}
	got, err := catalogue.Open(t.Context(), filepath.Join(site, "catalogue.json"), catalogue.OpenOptions{})
	if err != nil {
		t.Fatal(err)
	}
	_, v, err := got.Find("m", "")
	if err != nil {
		t.Fatal(err)
	}
	f, err := catalogue.Choose(v, catalogue.Preference{})
	if err != nil {
		t.Fatal(err)
	}
	e := f.Entry
	if e.ID != incr.ID || e.Digest != incr.Digest || e.Kind != manifest.Incremental || e.Parent.ID != full.ID || e.Parent.Digest != full.Digest || e.Manifest == nil {
		t.Errorf("%+v", e)
	}
	path, err := got.Path(f, nil)
	if err != nil || len(path) != 2 {
		t.Fatal(path, err)
	}
	out := t.TempDir()
	for _, p := range path {
		if _, err := got.Fetch(t.Context(), p.File, out, quick()); err != nil {
			t.Error(err)
		}
	}
	only(t, out, "m-1.tar.gz", "m-2.tar.gz")
}

func TestDescribe(t *testing.T) {
	dir := t.TempDir()
	qcow2 := append([]byte("QFI\xfb\x00\x00\x00\x03"), make([]byte, 1<<17)...)
	copy(qcow2[20:], []byte{0, 0, 0, 16, 0, 0, 0, 0, 0, 0x10, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 1, 0, 0})
	qcow2[103] = 104
	var ova, zipped bytes.Buffer
	w := tar.NewWriter(&ova)
	if err := errors.Join(w.WriteHeader(&tar.Header{Name: "vm.ovf", Size: 3, Mode: 0o644, Format: tar.FormatUSTAR}), w.Close()); err == nil {
		t.Fatal("a member without its content")
	}
	ova.Write(make([]byte, 2048))
	z := gzip.NewWriter(&zipped)
	_, _ = z.Write(make([]byte, 1000))
	if err := z.Close(); err != nil {
		t.Fatal(err)
	}
	known := catalogue.Known{Codecs: codecs.Codecs(), Disks: disks.Disks()}
	for _, test := range []struct {
		name   string
		data   []byte
		format string
		want   string // "": it is not known
		kind   catalogue.Kind
	}{
		{"vm.ova", ova.Bytes(), "", "ova", "package"},
		{"vm.bin", ova.Bytes(), "", "ova", "package"},
		{"vm.raw", make([]byte, 1<<20), "", "", ""},
		{"vm.hdd", make([]byte, 1<<20), "raw", "raw", "disk"},
		{"vm.img", qcow2, "", "qcow2", "disk"},
		{"vm.vdi.gz", zipped.Bytes(), "", "vdi.gz", "disk"},
		{"vm.vhd.gz", zipped.Bytes(), "", "vpc.gz", "disk"},
		{"vm.raw.gz", zipped.Bytes(), "", "", ""},
		{"vm.hdd.gz", zipped.Bytes(), "raw", "raw.gz", "disk"},
		{"vm.gz", zipped.Bytes(), "", "", ""},
		{"vm.iso", make([]byte, 4096), "iso", "iso", "disk"},
		{"vm.ovf", []byte("<?xml version='1.0'?><Envelope/>"), "", "ovf", "package"},
		{"vm.tar.gz", zipped.Bytes(), "tarvm", "", ""},
		{"x.ova", nil, "ova", "", ""},
	} {
		path := filepath.Join(dir, test.name)
		if err := os.WriteFile(path, test.data, 0o600); err != nil {
			t.Fatal(err)
		}
		f, err := catalogue.Describe(t.Context(), path, test.format, known)
		switch {
		case test.want == "" && err == nil, test.want != "" && (err != nil || f.Form() != test.want || f.Kind != test.kind || f.URL != test.name):
			t.Errorf("%s: %+v, %v", test.name, f, err)
		case err == nil:
			if err := catalogue.New("").Add("m", "1", f); err != nil {
				t.Errorf("%s: %v", test.name, err)
			}
		}
	}
	var unknown *catalogue.UnknownFormatError
	if _, err := catalogue.Describe(t.Context(), filepath.Join(dir, "vm.raw"), "", known); !errors.As(err, &unknown) {
		t.Error(err)
	}
}
