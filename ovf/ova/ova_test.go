package ova_test

import (
	"archive/tar"
	"archive/zip"
	"bytes"
	"compress/gzip"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"strings"
	"testing"
	"testing/fstest"

	"tarvm/formats/layers"
	"tarvm/ovf"
	"tarvm/ovf/ova"
)

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// memory is a Spool.
type memory struct {
	bytes.Buffer
	closed bool
}

func (m *memory) Close() error { m.closed = true; return nil }

func (m *memory) ReadAt(b []byte, off int64) (int, error) {
	return bytes.NewReader(m.Bytes()).ReadAt(b, off)
}

func spool(string) (ova.Spool, error) { return new(memory), nil }

type member struct{ name, data string }

func envelope(files string) string {
	return `<?xml version="1.0"?><Envelope xmlns="http://schemas.dmtf.org/ovf/envelope/1" xmlns:ovf="http://schemas.dmtf.org/ovf/envelope/1"><References>` +
		files + `</References><DiskSection><Info/><Disk ovf:diskId="vmdisk1" ovf:fileRef="f1" ovf:capacity="1"/></DiskSection></Envelope>`
}

func digest(name, data string) string {
	return fmt.Sprintf("SHA256(%s)= %x\n", name, sha256.Sum256([]byte(data)))
}

var (
	disk = strings.Repeat("disk ", 5000)
	env1 = envelope(`<File ovf:id="f1" ovf:href="disk.vmdk" ovf:size="25000"/>`)
	good = []member{{"vm.ovf", env1}, {"vm.mf", digest("vm.ovf", env1) + digest("disk.vmdk", disk)}, {"disk.vmdk", disk}}
)

func tarred(t testing.TB, format tar.Format, list ...member) []byte {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, m := range list {
		h := &tar.Header{Name: m.name, Size: int64(len(m.data)), Mode: 0o644, Typeflag: tar.TypeReg, Format: format}
		if strings.HasSuffix(m.name, "/") {
			h.Typeflag, h.Size = tar.TypeDir, 0
		}
		if format == tar.FormatPAX {
			h.PAXRecords = map[string]string{"comment": "x"}
		}
		must(t, w.WriteHeader(h))
		if _, err := io.WriteString(w, m.data[:h.Size]); err != nil {
			t.Fatal(err)
		}
	}
	must(t, w.Close())
	return b.Bytes()
}

func open(b []byte, o ova.Options) (*ova.Package, error) {
	return ova.Open(context.Background(), bytes.NewReader(b), o)
}

func opened(t testing.TB, b []byte, o ova.Options) *ova.Package {
	t.Helper()
	p, err := open(b, o)
	must(t, err)
	t.Cleanup(func() { must(t, p.Close()) })
	return p
}

func content(t *testing.T, p *ova.Package, name string) string {
	t.Helper()
	b, err := fs.ReadFile(p.FS(), name)
	must(t, err)
	return string(b)
}

func zipped(t testing.TB, method uint16, list ...member) []byte {
	t.Helper()
	var b bytes.Buffer
	w := zip.NewWriter(&b)
	for _, m := range list {
		f, err := w.CreateHeader(&zip.FileHeader{Name: m.name, Method: method})
		must(t, err)
		_, err = io.WriteString(f, m.data)
		must(t, err)
	}
	must(t, w.Close())
	return b.Bytes()
}

func gzipped(t testing.TB, b string) string {
	t.Helper()
	var out bytes.Buffer
	w := gzip.NewWriter(&out)
	_, err := io.WriteString(w, b)
	must(t, err)
	must(t, w.Close())
	return out.String()
}

func prefixed(prefix string, list []member) []member {
	var out []member
	for _, m := range list {
		out = append(out, member{prefix + m.name, m.data})
	}
	return out
}

func TestOpen(t *testing.T) {
	reversed := []member{good[2], good[1], good[0]}
	plain := tarred(t, tar.FormatUSTAR, good...)
	for name, b := range map[string][]byte{
		"ustar":              plain,
		"gnu":                tarred(t, tar.FormatGNU, good...),
		"pax":                tarred(t, tar.FormatPAX, good...),
		"other order":        tarred(t, tar.FormatUSTAR, reversed...),
		"dot slash":          tarred(t, tar.FormatGNU, prefixed("./", good)...),
		"directories":        tarred(t, tar.FormatUSTAR, append([]member{{"./", ""}, {"a/", ""}}, prefixed("a/b/", good)...)...),
		"apple double":       tarred(t, tar.FormatUSTAR, append([]member{{"._vm.ovf", "x"}}, good...)...),
		"garbage behind it":  append(bytes.Clone(plain), "garbage"...),
		"no end":             bytes.TrimRight(plain, "\x00"),
		"long directory":     tarred(t, tar.FormatGNU, prefixed(strings.Repeat("directory/", 30), good)...),
		"zip, stored":        zipped(t, zip.Store, good...),
		"zip, deflated":      zipped(t, zip.Deflate, good...),
		"zip in a directory": zipped(t, zip.Deflate, append([]member{{"a/", ""}}, prefixed("a/", good)...)...),
		"gzip":               []byte(gzipped(t, string(plain))),
	} {
		t.Run(name, func(t *testing.T) {
			if name == "no end" { // the padding of the last block is cut off too
				b = append(b, make([]byte, -len(b)&511)...)
			}
			p := opened(t, b, ova.Options{Spool: spool})
			if p.Envelope.Name != "vm.ovf" || p.Manifest.Name != "vm.mf" || len(p.References) != 1 {
				t.Errorf("%q, %q, %v", p.Envelope.Name, p.Manifest.Name, p.References)
			}
			if got := content(t, p, "disk.vmdk"); got != disk {
				t.Errorf("disk of %d bytes", len(got))
			}
			if want := name == "garbage behind it"; (p.Trailing > 0) != want {
				t.Errorf("%d bytes behind the end", p.Trailing)
			}
			if name != "apple double" {
				must(t, fstest.TestFS(p.FS(), "vm.ovf", "vm.mf", "disk.vmdk"))
			}
			v, err := p.Verify(t.Context(), ova.VerifyOptions{})
			must(t, err)
			if len(v.Files) != 2 || !v.Manifest || v.Err() != nil || len(v.Files[0].Digests) != 1 {
				t.Errorf("%+v", v)
			}
			d := layers.NewDir(p.FS(), "")
			src, err := d.Open("disk.vmdk")
			must(t, err)
			if src.Size() != int64(len(disk)) {
				t.Errorf("size %d", src.Size())
			}
			must(t, d.Close())
			// The same through a pipe.
			q, err := ova.OpenStream(t.Context(), io.MultiReader(bytes.NewReader(b)), ova.Options{Spool: spool})
			if strings.HasPrefix(name, "zip") {
				if !errors.Is(err, ova.ErrNotPackage) {
					t.Error(err)
				}
				return
			}
			must(t, err)
			if content(t, q, "disk.vmdk") != disk || len(q.Members) != len(p.Members) {
				t.Error("through a pipe it is another")
			}
			must(t, q.Close())
		})
	}
}

func TestOpenRefuses(t *testing.T) {
	header := func(h tar.Header) []byte {
		var b bytes.Buffer
		w := tar.NewWriter(&b)
		h.Mode = 0o644
		must(t, w.WriteHeader(&h))
		must(t, w.Flush())
		return append(b.Bytes(), tarred(t, tar.FormatUSTAR, good...)...)
	}
	plain := tarred(t, tar.FormatUSTAR, good...)
	encrypted := bytes.ReplaceAll(zipped(t, zip.Store, good...), []byte("PK\x01\x02\x14\x00\x14\x00\x08"), []byte("PK\x01\x02\x14\x00\x14\x00\x09"))
	zeros := gzipped(t, string(tarred(t, tar.FormatUSTAR, append(good, member{"zeros", strings.Repeat("\x00", 1<<20)})...)))
	for name, c := range map[string]struct {
		b    []byte
		want error
		o    ova.Options
	}{
		"empty":                      {nil, ova.ErrNotPackage, ova.Options{}},
		"text":                       {[]byte("hello"), ova.ErrNotPackage, ova.Options{}},
		"envelope":                   {[]byte(env1), ova.ErrNotPackage, ova.Options{}},
		"no envelope":                {tarred(t, tar.FormatUSTAR, good[1:]...), ova.ErrNotPackage, ova.Options{}},
		"another is chosen":          {plain, ova.ErrNotPackage, ova.Options{Envelope: "x.ovf"}},
		"two envelopes":              {tarred(t, tar.FormatUSTAR, append(good, member{"b.ovf", env1})...), ova.ErrSeveral, ova.Options{}},
		"twice":                      {tarred(t, tar.FormatUSTAR, append(good, good[2])...), ova.ErrCorrupt, ova.Options{}},
		"twice, otherwise":           {tarred(t, tar.FormatUSTAR, append(good, member{"./disk.vmdk", "x"})...), ova.ErrCorrupt, ova.Options{}},
		"up":                         {tarred(t, tar.FormatUSTAR, append(good, member{"../x", ""})...), ovf.ErrUnsafe, ova.Options{}},
		"up within":                  {tarred(t, tar.FormatUSTAR, append(good, member{"a/../x", ""})...), ovf.ErrUnsafe, ova.Options{}},
		"absolute":                   {tarred(t, tar.FormatUSTAR, append(good, member{"/x", ""})...), ovf.ErrUnsafe, ova.Options{}},
		"drive":                      {tarred(t, tar.FormatUSTAR, append(good, member{"c:x", ""})...), ovf.ErrUnsafe, ova.Options{}},
		"backslash":                  {tarred(t, tar.FormatUSTAR, append(good, member{`a\..\x`, ""})...), ovf.ErrUnsafe, ova.Options{}},
		"escape":                     {tarred(t, tar.FormatGNU, append(good, member{"a\x1b[2J", ""})...), ovf.ErrUnsafe, ova.Options{}},
		"not UTF-8":                  {tarred(t, tar.FormatGNU, append(good, member{"a\xff", ""})...), ovf.ErrUnsafe, ova.Options{}},
		"directory up":               {tarred(t, tar.FormatUSTAR, append(good, member{"../x/", ""})...), ovf.ErrUnsafe, ova.Options{}},
		"file and directory":         {tarred(t, tar.FormatUSTAR, append(good, member{"disk.vmdk/x", ""})...), ova.ErrCorrupt, ova.Options{}},
		"symbolic link":              {header(tar.Header{Name: "l", Linkname: "/etc/passwd", Typeflag: tar.TypeSymlink}), ovf.ErrUnsafe, ova.Options{}},
		"hard link":                  {header(tar.Header{Name: "l", Linkname: "disk.vmdk", Typeflag: tar.TypeLink}), ovf.ErrUnsafe, ova.Options{}},
		"device":                     {header(tar.Header{Name: "l", Typeflag: tar.TypeBlock}), ovf.ErrUnsafe, ova.Options{}},
		"FIFO":                       {header(tar.Header{Name: "l", Typeflag: tar.TypeFifo}), ovf.ErrUnsafe, ova.Options{}},
		"cut in a member":            {plain[:len(plain)-tarEnd-4096], ova.ErrTruncated, ova.Options{}},
		"cut in a header":            {plain[:512+len(env1)+(-len(env1)&511)+100], ova.ErrTruncated, ova.Options{}},
		"no spool":                   {[]byte(zeros), ova.ErrSpool, ova.Options{}},
		"sparse bomb":                {sparseTar(1 << 45), ova.ErrLimit, ova.Options{}},
		"sparse bomb through a pipe": {[]byte(gzipped(t, string(sparseTar(17<<30)))), ova.ErrLimit, ova.Options{Spool: spool}},
		"bomb":                       {[]byte(zeros), ova.ErrLimit, ova.Options{Spool: spool, MaxSpool: 100_000}},
		"gzip, cut":                  {[]byte(zeros[:len(zeros)/2]), ova.ErrCorrupt, ova.Options{Spool: spool}},
		"gzip of text":               {[]byte(gzipped(t, "hello")), ova.ErrCorrupt, ova.Options{Spool: spool}},
		"encrypted":                  {encrypted, ovf.ErrUnsupported, ova.Options{}},
		"zip, twice":                 {zipped(t, zip.Store, append(good, good[2])...), ova.ErrCorrupt, ova.Options{}},
		"zip, up":                    {zipped(t, zip.Store, append(good, member{"../x", ""})...), ovf.ErrUnsafe, ova.Options{}},
		"zip, cut":                   {zipped(t, zip.Store, good...)[:500], ova.ErrCorrupt, ova.Options{}},
		"no XML":                     {tarred(t, tar.FormatUSTAR, member{"vm.ovf", "hello"}), ovf.ErrSyntax, ova.Options{}},
		"document type":              {tarred(t, tar.FormatUSTAR, member{"vm.ovf", `<!DOCTYPE a [<!ENTITY x "y">]><Envelope/>`}), ovf.ErrSyntax, ova.Options{}},
		"large manifest":             {tarred(t, tar.FormatUSTAR, good[0], member{"vm.mf", strings.Repeat("\n", ovf.MaxManifest+1)}), ova.ErrLimit, ova.Options{}},
		"two ways": {tarred(t, tar.FormatUSTAR, member{"vm.ovf", envelope(`<File ovf:id="a" ovf:href="d" ovf:chunkSize="5"/><File ovf:id="b" ovf:href="d.000000000"/>`)},
			member{"d.000000000", "12345"}), ova.ErrCorrupt, ova.Options{}},
	} {
		t.Run(name, func(t *testing.T) {
			p, err := open(c.b, c.o)
			if !errors.Is(err, c.want) || p != nil {
				t.Errorf("%v, want %v", err, c.want)
			}
		})
	}
	if _, err := open(tarred(t, tar.FormatUSTAR, append(good, member{"b.ovf", env1})...), ova.Options{}); !strings.Contains(fmt.Sprint(err), `"vm.ovf", "b.ovf"`) {
		t.Errorf("it does not name both: %v", err)
	}
	p := opened(t, tarred(t, tar.FormatUSTAR, append(good, member{"b.ovf", envelope("")})...), ova.Options{Envelope: "b.ovf"})
	if p.Envelope.Name != "b.ovf" || len(p.References) != 0 {
		t.Errorf("%+v", p.Envelope)
	}
}

const tarEnd = 1024

// sparseTar is a package with a member of so many bytes, all of which are a hole, in GNU's oldest form.
func sparseTar(size int64) []byte {
	h := make([]byte, 512)
	copy(h, "hole.iso")
	copy(h[100:], "0000644\x000000000\x000000000\x0000000000000\x0000000000000\x00        S")
	copy(h[257:], "ustar  \x00")
	copy(h[483:], []byte{0x80, 0, 0, 0})
	for i := range 8 {
		h[483+11-i] = byte(size >> (8 * i))
	}
	h[483] |= 0x80
	sum := 0
	for _, c := range h {
		sum += int(c)
	}
	copy(h[148:], fmt.Sprintf("%06o\x00 ", sum))
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	if err := w.WriteHeader(&tar.Header{Name: "vm.ovf", Size: int64(len(env1)), Mode: 0o644}); err != nil {
		panic(err)
	}
	if _, err := w.Write([]byte(env1)); err != nil {
		panic(err)
	}
	if err := w.Flush(); err != nil {
		panic(err)
	}
	b.Write(h)
	b.Write(make([]byte, 1024))
	return b.Bytes()
}

// TestTruncated cuts a package at every block: it must be told, or hold what it held.
func TestTruncated(t *testing.T) {
	plain := tarred(t, tar.FormatUSTAR, good...)
	for n := 0; n < len(plain)-tarEnd; n += 256 {
		p, err := open(plain[:n], ova.Options{})
		if err == nil {
			if len(p.Missing()) == 0 {
				t.Errorf("cut at %d of %d, it is whole", n, len(plain))
			}
			p.Close()
		}
	}
}

func TestTarHeaders(t *testing.T) {
	long := strings.Repeat("n", 150) + ".iso"
	for form, format := range map[string]tar.Format{"ustar": tar.FormatUSTAR, "gnu": tar.FormatGNU, "pax": tar.FormatPAX} {
		list := good
		if form == "gnu" {
			list = append(list[:len(list):len(list)], member{long, "x"})
		}
		p := opened(t, tarred(t, format, list...), ova.Options{})
		for _, m := range p.Members {
			if m.Tar.Form != form || m.Tar.Base256 || m.Tar.Sparse {
				// Go's tar writer marks short members of GNU archives as GNU's too.
				t.Errorf("%s: %+v", form, m.Tar)
			}
		}
		if last := p.Members[len(p.Members)-1].Name; form == "gnu" && last != long {
			t.Errorf("%q", last)
		}
	}
	// A size in base 256.
	b := tarred(t, tar.FormatGNU, good...)
	h := b[:512]
	copy(h[124:136], []byte{0x80, 0, 0, 0, 0, 0, 0, 0, 0, 0, byte(len(env1) >> 8), byte(len(env1))})
	copy(h[148:156], "        ")
	sum := 0
	for _, c := range h {
		sum += int(c)
	}
	copy(h[148:156], fmt.Sprintf("%06o\x00 ", sum))
	p := opened(t, b, ova.Options{})
	if !p.Members[0].Tar.Base256 || string(p.Envelope.Data) != env1 {
		t.Errorf("%+v", p.Members[0].Tar)
	}
}

func TestGzipAndChunks(t *testing.T) {
	z := gzipped(t, disk)
	const chunk = 30
	var parts []member
	for i := 0; i*chunk < len(z); i++ {
		parts = append(parts, member{fmt.Sprintf("disk.vmdk.gz.%09d", i), z[i*chunk : min(len(z), (i+1)*chunk)]})
	}
	if len(parts) < 2 || len(z)%chunk == 0 {
		t.Fatalf("%d bytes are not for this test", len(z))
	}
	env := envelope(fmt.Sprintf(`<File ovf:id="f1" ovf:href="disk.vmdk.gz" ovf:size="%d" ovf:compression="gzip" ovf:chunkSize="%d"/>`, len(z), chunk))
	mf := digest("vm.ovf", env)
	for _, m := range parts {
		mf += digest(m.name, m.data)
	}
	list := append([]member{{"vm.ovf", env}, {"vm.mf", mf}}, parts...)
	dir := fstest.MapFS{}
	for _, m := range list {
		dir[m.name] = &fstest.MapFile{Data: []byte(m.data)}
	}
	inDir, err := ova.OpenDir(readable{dir}, ova.Options{Spool: spool})
	must(t, err)
	for name, p := range map[string]*ova.Package{
		"tar":       opened(t, tarred(t, tar.FormatUSTAR, list...), ova.Options{Spool: spool}),
		"zip":       opened(t, zipped(t, zip.Deflate, list...), ova.Options{Spool: spool}),
		"directory": inDir,
	} {
		t.Run(name, func(t *testing.T) {
			must(t, fstest.TestFS(p.FS(), "disk.vmdk.gz"))
			if got := content(t, p, "disk.vmdk.gz"); got != disk {
				t.Errorf("%d bytes", len(got))
			}
			if n := p.Parts("disk.vmdk.gz"); len(n) != len(parts) {
				t.Errorf("parts %q", n)
			}
			r, n, err := p.Stored("disk.vmdk.gz")
			must(t, err)
			b, err := io.ReadAll(r)
			must(t, err)
			must(t, r.Close())
			if string(b) != z || n != int64(len(z)) {
				t.Errorf("stored: %d bytes", len(b))
			}
			v, err := p.Verify(t.Context(), ova.VerifyOptions{})
			must(t, err)
			if v.Err() != nil || len(v.Files) != 1+len(parts) {
				t.Errorf("%v", v.Err())
			}
		})
	}
	// Without compression, parts are read where they are.
	env = envelope(fmt.Sprintf(`<File ovf:id="f1" ovf:href="disk.vmdk" ovf:size="%d" ovf:chunkSize="6000"/>`, len(disk)))
	list = []member{{"vm.ovf", env}}
	for i := 0; i*6000 < len(disk); i++ {
		list = append(list, member{fmt.Sprintf("disk.vmdk.%09d", i), disk[i*6000 : min(len(disk), (i+1)*6000)]})
	}
	p := opened(t, tarred(t, tar.FormatUSTAR, list...), ova.Options{})
	f, err := p.FS().Open("disk.vmdk")
	must(t, err)
	b := make([]byte, 7000)
	if _, err := f.(io.ReaderAt).ReadAt(b, 5999); err != nil || string(b) != disk[5999:12999] {
		t.Errorf("across chunks: %v", err)
	}
	if n, err := f.(io.ReaderAt).ReadAt(b, int64(len(disk))-10); n != 10 || !errors.Is(err, io.EOF) {
		t.Errorf("at the end: %d, %v", n, err)
	}
	for name, bad := range map[string][]member{
		"a short one in between": {list[0], {list[1].name, "short"}, list[2], list[3], list[4], list[5]},
		"one too long":           {list[0], {list[1].name, strings.Repeat("x", 6001)}},
		"the last is missing":    list[:len(list)-1],
	} {
		if _, err := open(tarred(t, tar.FormatUSTAR, bad...), ova.Options{}); !errors.Is(err, ova.ErrCorrupt) {
			t.Errorf("%s: %v", name, err)
		}
	}
	// What was compressed is spooled within the limit, and its damage is told.
	env = envelope(`<File ovf:id="f1" ovf:href="d.gz" ovf:compression="gzip"/>`)
	damaged := []byte(z)
	damaged[len(z)-5] ^= 1
	for name, c := range map[string]struct {
		data string
		o    ova.Options
		want error
	}{
		"no spool": {z, ova.Options{}, ova.ErrSpool}, "limit": {z, ova.Options{Spool: spool, MaxSpool: 24_999}, ova.ErrLimit},
		"checksum": {string(damaged), ova.Options{Spool: spool}, ova.ErrCorrupt}, "cut": {z[:50], ova.Options{Spool: spool}, ova.ErrCorrupt},
		"not gzip": {"hello", ova.Options{Spool: spool}, ova.ErrCorrupt}, "right": {z, ova.Options{Spool: spool, MaxSpool: 25_000}, nil},
	} {
		p := opened(t, tarred(t, tar.FormatUSTAR, member{"vm.ovf", env}, member{"d.gz", c.data}), c.o)
		if _, err := p.FS().Open("d.gz"); !errors.Is(err, c.want) {
			t.Errorf("%s: %v", name, err)
		}
	}
	env = envelope(`<File ovf:id="f1" ovf:href="d" ovf:compression="bzip2"/>`)
	if _, err := open(tarred(t, tar.FormatUSTAR, member{"vm.ovf", env}, member{"d", "x"}), ova.Options{}); !errors.Is(err, ovf.ErrUnsupported) {
		t.Errorf("bzip2: %v", err)
	}
}

// readable makes files of a MapFS readable at random, which they are already; os.DirFS's are.
type readable struct{ fs.FS }

func TestDirectory(t *testing.T) {
	dir := t.TempDir()
	env := envelope(`<File ovf:id="f1" ovf:href="disks/disk%201.vmdk" ovf:size="25000"/><File ovf:id="f2" ovf:href="no/such.iso"/><File ovf:id="f3" ovf:href="../secret"/>`)
	must(t, os.MkdirAll(path.Join(dir, "vm", "disks"), 0o700))
	for name, data := range map[string]string{"vm/vm.ovf": env, "vm/disks/disk 1.vmdk": disk, "vm/disks/other": "x", "secret": "s"} {
		must(t, os.WriteFile(path.Join(dir, name), []byte(data), 0o600))
	}
	for _, c := range []struct{ dir, envelope string }{{path.Join(dir, "vm"), ""}, {dir, "vm/vm.ovf"}} {
		p, err := ova.OpenDir(os.DirFS(c.dir), ova.Options{Envelope: c.envelope})
		must(t, err)
		if content(t, p, "disks/disk 1.vmdk") != disk {
			t.Error("another disk")
		}
		var names []string
		must(t, fs.WalkDir(p.FS(), ".", func(name string, _ fs.DirEntry, err error) error { names = append(names, name); return err }))
		if got := strings.Join(names, " "); got != ". disks disks/disk 1.vmdk vm.ovf" {
			t.Errorf("it shows %q", got)
		}
		miss := p.Missing()
		if len(miss) != 2 || !errors.Is(miss[1], ovf.ErrUnsafe) {
			t.Fatalf("missing: %v", miss)
		}
		if s := miss[0].Error(); s != `no/such.iso: not in the package, needed by reference "f2"` {
			t.Error(s)
		}
		_, err = p.FS().Open("no/such.iso")
		var e *ova.MissingError
		if !errors.As(err, &e) || !errors.Is(err, fs.ErrNotExist) || len(e.Users) != 1 {
			t.Error(err)
		}
		if _, err := p.FS().Open("../secret"); !errors.Is(err, fs.ErrInvalid) {
			t.Error(err)
		}
		must(t, p.Close())
	}
}

func TestVerify(t *testing.T) {
	sum := digest("disk.vmdk", disk)
	for name, c := range map[string]struct {
		mf   string
		disk string
		want []error
		text string
	}{
		"right":       {good[1].data, disk, nil, ""},
		"no manifest": {"", disk, nil, ""},
		"wrong":       {good[1].data, strings.ToUpper(disk), []error{ovf.ErrDigest}, "disk.vmdk"},
		"size":        {digest("vm.ovf", env1) + digest("disk.vmdk", "x"), "x", []error{ova.ErrSize}, "it has 1 bytes, the envelope says 25000"},
		"not listed":  {digest("vm.ovf", env1), disk, []error{ova.ErrNotListed}, "disk.vmdk"},
		"no envelope": {sum, disk, []error{ova.ErrNotListed}, "vm.ovf"},
		"absent":      {good[1].data + digest("b.iso", ""), disk, []error{fs.ErrNotExist}, "b.iso: not in the package, needed by the manifest"},
		"MD5":         {good[1].data + "MD5(disk.vmdk)= 00\n", disk, []error{ovf.ErrUnsupported}, "MD5"},
		"two, one wrong": {good[1].data + "SHA1(disk.vmdk)= " + strings.Repeat("00", 20) + "\n", disk,
			[]error{ovf.ErrDigest}, "SHA1"},
		"up":          {good[1].data + digest("../disk.vmdk", disk), disk, []error{fs.ErrNotExist}, "../disk.vmdk"},
		"its own dir": {strings.ReplaceAll(good[1].data, "(", "(./"), disk, nil, ""},
	} {
		list := []member{good[0]}
		if c.mf != "" {
			list = append(list, member{"vm.mf", c.mf})
		}
		p := opened(t, tarred(t, tar.FormatUSTAR, append(list, member{"disk.vmdk", c.disk})...), ova.Options{})
		var done, total int64
		v, err := p.Verify(t.Context(), ova.VerifyOptions{Progress: func(d, n int64) { done, total = d, n }})
		must(t, err)
		err = v.Err()
		if len(c.want) == 0 && err != nil {
			t.Errorf("%s: %v", name, err)
		}
		for _, w := range c.want {
			if !errors.Is(err, w) || !strings.Contains(err.Error(), c.text) {
				t.Errorf("%s: %v, want %v of %s", name, err, w, c.text)
			}
		}
		n := 0
		for _, f := range v.Files {
			n += len(f.Problems)
		}
		if n != len(c.want) {
			t.Errorf("%s: %d problems: %v", name, n, err)
		}
		if c.mf != "" && name != "not listed" && name != "no envelope" && (done != total || total < int64(len(c.disk))) {
			t.Errorf("%s: progress %d of %d", name, done, total)
		}
	}
	p := opened(t, tarred(t, tar.FormatUSTAR, good...), ova.Options{})
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := p.Verify(ctx, ova.VerifyOptions{}); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
	if _, err := ova.Open(ctx, bytes.NewReader(tarred(t, tar.FormatUSTAR, good...)), ova.Options{}); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
}
