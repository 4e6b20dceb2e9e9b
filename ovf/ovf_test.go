package ovf_test

import (
	"bytes"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"tarvm/archive/archivetest"
	"tarvm/ovf"
)

// corpus returns the files below ../shared/corpus/ovf, or skips.
func corpus(t *testing.T, ext string) []string {
	t.Helper()
	dir := os.Getenv("TARVM_CORPUS")
	if dir == "" {
		dir = "../../shared/corpus"
	}
	var list []string
	err := filepath.WalkDir(filepath.Join(dir, "ovf"), func(p string, d os.DirEntry, err error) error {
		if err == nil && filepath.Ext(p) == ext {
			list = append(list, p)
		}
		return err
	})
	if err != nil || len(list) == 0 {
		t.Skipf("no %s files of other programs: %v", ext, err)
	}
	return list
}

func TestReadDigests(t *testing.T) {
	const sum = "da39a3ee5e6b4b0d3255bfef95601890afd80709"
	const sum256 = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
	text := "\ufeffSHA1(a.ovf)= " + sum + "\r\n\r\nSHA1 (b (1) = 2.vmdk) = " + strings.ToUpper(sum) + "\nsha256(c)=" + sum256 + "\nSHA2-256(d)= " + sum256 +
		"\nSHA-256(e)= " + sum256 + "\nMD5(f)= 00"
	ds, err := ovf.ReadDigests(strings.NewReader(text))
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, d := range ds {
		got = append(got, string(d.Algorithm)+" "+d.Name)
		err := d.Verify(strings.NewReader(""))
		if d.Name == "f" {
			if !errors.Is(err, ovf.ErrUnsupported) {
				t.Errorf("MD5: %v", err)
			}
			continue
		}
		if err != nil {
			t.Error(err)
		}
		if err := d.Verify(strings.NewReader("x")); !errors.Is(err, ovf.ErrDigest) {
			t.Errorf("%s of another file: %v", d.Name, err)
		}
		again, err := ovf.ReadDigests(bytes.NewReader(ovf.AppendDigest(nil, d)))
		if err != nil || len(again) != 1 || !reflect.DeepEqual(again[0], d) {
			t.Errorf("%+v written and read: %+v, %v", d, again, err)
		}
	}
	want := []string{"SHA1 a.ovf", "SHA1 b (1) = 2.vmdk", "SHA256 c", "SHA256 d", "SHA256 e", "MD5 f"}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got %q", got)
	}
	if b := ovf.AppendDigest(nil, ds[1]); string(b) != "SHA1(b (1) = 2.vmdk)= "+sum+"\n" {
		t.Errorf("written: %q", b)
	}
	for _, bad := range []string{"hello", "SHA1(a)= xyz", "SHA1(a)= 00", "SHA1()= " + sum, "(=)", strings.Repeat("x", 70_000)} {
		if _, err := ovf.ReadDigests(strings.NewReader(bad)); !errors.Is(err, ovf.ErrSyntax) {
			t.Errorf("%.40q: %v", bad, err)
		}
	}
}

func TestDigestsOfOthers(t *testing.T) {
	for _, p := range corpus(t, ".mf") {
		f, err := os.Open(p)
		if err != nil {
			t.Fatal(err)
		}
		ds, err := ovf.ReadDigests(f)
		f.Close()
		if err != nil || len(ds) == 0 {
			t.Errorf("%s: %v", p, err)
		}
		for _, d := range ds {
			g, err := os.Open(filepath.Join(filepath.Dir(p), d.Name))
			if err != nil {
				continue // disks are not kept
			}
			if err := d.Verify(g); err != nil {
				t.Errorf("%s: %v", p, err)
			}
			g.Close()
		}
	}
}

func TestReadReferences(t *testing.T) {
	const text = `<?xml version="1.0"?>
<ovf:Envelope xmlns:ovf="http://schemas.dmtf.org/ovf/envelope/1">
  <ovf:References>
    <ovf:File ovf:id="f1" ovf:href="disk%201.vmdk.gz" ovf:size="1234" ovf:compression="gzip" ovf:chunkSize="100"/>
    <ovf:File ovf:id="f2" ovf:href="cd.iso"/>
  </ovf:References>
</ovf:Envelope>`
	got, err := ovf.ReadReferences(strings.NewReader(text))
	want := []ovf.File{{ID: "f1", Href: "disk%201.vmdk.gz", Size: 1234, Compression: "gzip", Chunk: 100}, {ID: "f2", Href: "cd.iso", Size: -1}}
	if err != nil || !reflect.DeepEqual(got, want) {
		t.Fatalf("%+v, %v", got, err)
	}
	if n, err := got[0].Name(); err != nil || n != "disk 1.vmdk.gz" {
		t.Errorf("%q, %v", n, err)
	}
	for href, want := range map[string]error{
		"../x": ovf.ErrUnsafe, "/etc/passwd": ovf.ErrUnsafe, "a/../../x": ovf.ErrUnsafe, "%2e%2e/x": ovf.ErrUnsafe, `..\x`: ovf.ErrUnsafe,
		"http://host/x": ovf.ErrUnsupported, "file://host/x": ovf.ErrUnsupported, "file:x": ovf.ErrUnsafe, "100% x.vmdk": nil, "a/b": nil,
	} {
		if _, err := (ovf.File{Href: href}).Name(); !errors.Is(err, want) {
			t.Errorf("%q: %v, want %v", href, err, want)
		}
	}
	for name, bad := range map[string]string{
		"empty": "", "text": "hello", "another root": "<a/>", "cut off": text[:300],
		"size":    strings.Replace(text, "1234", "-1", 1),
		"no href": strings.Replace(text, `ovf:href="cd.iso"`, "", 1),
		"deep":    strings.Repeat("<a>", 100_000),
	} {
		if _, err := ovf.ReadReferences(strings.NewReader(bad)); !errors.Is(err, ovf.ErrSyntax) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestReferencesOfOthers(t *testing.T) {
	n := 0
	for _, p := range corpus(t, ".ovf") {
		b, err := os.ReadFile(p)
		if err != nil {
			t.Fatal(err)
		}
		files, err := ovf.ReadReferences(bytes.NewReader(b))
		if strings.Contains(p, "corrupted") {
			if !errors.Is(err, ovf.ErrSyntax) {
				t.Errorf("%s: %v", p, err)
			}
			continue
		}
		if err != nil {
			t.Errorf("%s: %v", p, err)
		}
		if c := bytes.Count(b, []byte("<File ")) + bytes.Count(b, []byte(":File ")); c != len(files) {
			t.Errorf("%s: %d files, the text has %d", p, len(files), c)
		}
		n += len(files)
	}
	if n == 0 {
		t.Error("no files in any envelope")
	}
}

func FuzzReadDigests(f *testing.F) {
	f.Add("SHA1(a.ovf)= da39a3ee5e6b4b0d3255bfef95601890afd80709\n")
	f.Add("SHA256 (a) b) = 00\r\n")
	f.Fuzz(func(t *testing.T, s string) {
		ds, err := ovf.ReadDigests(strings.NewReader(s))
		if err != nil {
			return
		}
		var b []byte
		for _, d := range ds {
			b = ovf.AppendDigest(b, d)
		}
		again, err := ovf.ReadDigests(bytes.NewReader(b))
		if err != nil || len(again) != len(ds) {
			t.Fatalf("%q: %v", b, err)
		}
		for i := range ds {
			if ds[i].Name != strings.TrimSpace(ds[i].Name) || strings.TrimSpace(string(ds[i].Algorithm)) == "" {
				continue
			}
			if !reflect.DeepEqual(ds[i], again[i]) {
				t.Fatalf("%+v became %+v", ds[i], again[i])
			}
		}
	})
}

func FuzzReadReferences(f *testing.F) {
	f.Add([]byte(`<Envelope><References><File id="a" href="b" size="1"/></References></Envelope>`))
	f.Fuzz(func(t *testing.T, b []byte) {
		files, err := ovf.ReadReferences(bytes.NewReader(b))
		if err != nil && !errors.Is(err, ovf.ErrSyntax) {
			t.Fatal(err)
		}
		for _, f := range files {
			if n, err := f.Name(); err == nil && !filepath.IsLocal(filepath.FromSlash(n)) {
				t.Errorf("%q gives %q", f.Href, n)
			}
		}
	})
}

// TestDigestsForOthers: the lines are those that coreutils and openssl know.
func TestDigestsForOthers(t *testing.T) {
	dir := t.TempDir()
	var mf []byte
	for i, a := range []ovf.Algorithm{ovf.SHA1, ovf.SHA256, ovf.SHA512} {
		name := []string{"disk 1 (copy).vmdk", "vm.ovf", "b.nvram"}[i]
		data := []byte(strings.Repeat(name, 1000))
		if err := os.WriteFile(filepath.Join(dir, name), data, 0o600); err != nil {
			t.Fatal(err)
		}
		h := a.New()
		h.Write(data)
		line := ovf.AppendDigest(nil, ovf.Digest{Name: name, Algorithm: a, Sum: h.Sum(nil)})
		sum := strings.ToLower(string(a)) + "sum"
		if err := os.WriteFile(filepath.Join(dir, sum), line, 0o600); err != nil {
			t.Fatal(err)
		}
		if out := command(t, dir, sum, "-c", sum); !strings.Contains(out, ": OK") {
			t.Errorf("%s: %s", sum, out)
		}
		mf = append(mf, line...)
		// openssl 3 calls SHA256 so: SHA2-256
		want := strings.Replace(command(t, dir, "openssl", "dgst", "-"+strings.ToLower(string(a)), name), "SHA2-", "SHA", 1)
		if string(line) != want {
			t.Errorf("%q, openssl writes %q", line, want)
		}
	}
	ds, err := ovf.ReadDigests(bytes.NewReader(mf))
	if err != nil || len(ds) != 3 {
		t.Errorf("%v, %v", ds, err)
	}
}

func command(t *testing.T, dir, name string, args ...string) string {
	t.Helper()
	cmd := exec.Command(archivetest.Tool(t, name), args...)
	cmd.Dir = dir
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%s %q: %v\n%s", name, args, err, out)
	}
	return string(out)
}
