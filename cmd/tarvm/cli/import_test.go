package cli

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"unicode/utf16"
)

// A member is a file of a package.
type member struct {
	name, body, link string
	kind             byte
}

// tarOf makes a tar archive.
func tarOf(t testing.TB, list ...member) string {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, m := range list {
		h := &tar.Header{Name: m.name, Size: int64(len(m.body)), Typeflag: m.kind, Linkname: m.link, Mode: 0o644, Format: tar.FormatUSTAR}
		if h.Typeflag == 0 {
			h.Typeflag = tar.TypeReg
		}
		if err := w.WriteHeader(h); err != nil {
			t.Fatal(err)
		}
		if _, err := io.WriteString(w, m.body); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.String()
}

func gzipOf(t testing.TB, s string) string {
	t.Helper()
	var b bytes.Buffer
	w := gzip.NewWriter(&b)
	if _, err := io.WriteString(w, s); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.String()
}

// members reads a tar archive.
func members(t testing.TB, file string) (list []member) {
	t.Helper()
	f, err := os.Open(file)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for r := tar.NewReader(f); ; {
		h, err := r.Next()
		if err == io.EOF { //nolint:errorlint // as package tar says
			return list
		}
		if err != nil {
			t.Fatal(err)
		}
		b, err := io.ReadAll(r)
		if err != nil {
			t.Fatal(err)
		}
		list = append(list, member{name: h.Name, body: string(b)})
	}
}

// command runs the command as main does, in the current directory.
func command(args ...string) (stdout, stderr string, code int) {
	var out, errs bytes.Buffer
	code = Main(context.Background(), args, strings.NewReader(""), &out, &errs)
	return out.String(), errs.String(), code
}

func must(t testing.TB, args ...string) (stdout, stderr string) {
	t.Helper()
	stdout, stderr, code := command(args...)
	if code != exitDone {
		t.Fatalf("tarvm %s: exit code %d: %s", strings.Join(args, " "), code, stderr)
	}
	return stdout, stderr
}

func write(t testing.TB, name, body string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(name), 0o777); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(name, []byte(body), 0o666); err != nil {
		t.Fatal(err)
	}
}

func read(t testing.TB, name string) string {
	t.Helper()
	b, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// tree lists all names below the current directory.
func tree(t testing.TB) (names []string) {
	t.Helper()
	err := fs.WalkDir(os.DirFS("."), ".", func(name string, _ fs.DirEntry, err error) error {
		names = append(names, name)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return names
}

const plainVMX = `.encoding = "UTF-8"
config.version = "8"
virtualHW.version = "13"
displayName = "web"
guestOS = "debian11-64"
numvcpus = "1"
memsize = "512"
scsi0.present = "TRUE"
scsi0.virtualDev = "lsilogic"
scsi0:0.present = "TRUE"
scsi0:0.fileName = "disk.img"
`

// guestBytes are a disk that does not compress well.
func guestBytes(n int) string {
	b := make([]byte, n)
	r := rand.New(rand.NewPCG(1, 2))
	for i := range b[:n/2] {
		b[i] = byte(r.Uint32())
	}
	return string(b)
}

// sample is a package that is right: what the hostile ones are made of.
type sample struct{ ovf, mf, disk member }

func newSample(t *testing.T) sample {
	write(t, "src/vm.vmx", plainVMX)
	write(t, "src/disk.img", guestBytes(256<<10))
	must(t, "export", "src", "-o", "sample.ova", "-q")
	list := members(t, "sample.ova")
	if err := os.RemoveAll("src"); err != nil {
		t.Fatal(err)
	}
	if len(list) != 3 || list[0].name != "web.ovf" || list[1].name != "web.mf" || list[2].name != "web-disk1.vmdk" {
		t.Fatalf("the sample is %d members", len(list))
	}
	return sample{list[0], list[1], list[2]}
}

// with replaces a part of the envelope; there is no manifest then, which would tell.
func (s sample) with(t *testing.T, old, to string) member {
	t.Helper()
	if !strings.Contains(s.ovf.body, old) {
		t.Fatalf("the envelope has no %q:\n%s", old, s.ovf.body)
	}
	return member{name: s.ovf.name, body: strings.ReplaceAll(s.ovf.body, old, to)}
}

// utf16le is a text in UTF-16 with its mark.
func utf16le(s string) string {
	var b []byte
	for _, u := range append([]uint16{0xfeff}, utf16.Encode([]rune(s))...) {
		b = binary.LittleEndian.AppendUint16(b, u)
	}
	return string(b)
}

const bomb = `<!DOCTYPE Envelope [<!ENTITY a "aaaaaaaaaa"><!ENTITY b "&a;&a;&a;&a;&a;&a;&a;&a;"><!ENTITY c "&b;&b;&b;&b;&b;&b;&b;&b;">]>`

// What is wrong with a package is said, whatever it is made with; nothing outside of it is read, and nothing stays behind.
func TestHostilePackages(t *testing.T) {
	t.Chdir(t.TempDir())
	s := newSample(t)
	href := `ovf:href="web-disk1.vmdk"`
	ref := func(to string) func(*testing.T) string {
		return func(t *testing.T) string {
			return tarOf(t, s.with(t, href, `ovf:href="`+to+`"`), s.disk)
		}
	}
	fixed := func(list ...member) func(*testing.T) string {
		return func(t *testing.T) string { return tarOf(t, list...) }
	}
	cut := func(n int) func(*testing.T) string {
		return func(t *testing.T) string { return tarOf(t, s.ovf, s.mf, s.disk)[:n] }
	}
	whole := len(tarOf(t, s.ovf, s.mf, s.disk))
	inDisk := whole - 1024 - len(s.disk.body)
	for _, c := range []struct {
		name  string
		build func(*testing.T) string
		codes []int
		want  string // in the message
	}{
		{"href up", ref("../secret.vmdk"), []int{1, 4}, `secret\.vmdk`},
		{"href up later", ref("a/../../secret.vmdk"), []int{1, 4}, `secret\.vmdk`},
		{"href absolute", ref("/etc/shadow"), []int{1, 4}, `/etc/shadow`},
		{"href file scheme", ref("file:///etc/shadow"), []int{1, 4}, `shadow`},
		{"href http", ref("http://127.0.0.1:1/web.vmdk"), []int{1, 2, 4}, `127\.0\.0\.1`},
		{"href backslash", ref(`..\secret.vmdk`), []int{1, 4}, `secret`},
		{"href terminal", ref("&#x9b;2Jweb&#x202e;.vmdk"), []int{1, 4}, `web`},
		{"href nowhere", ref("nowhere.vmdk"), []int{1, 4}, `nowhere\.vmdk`},
		{"member missing", fixed(s.ovf, s.mf), []int{1, 4}, `web-disk1\.vmdk`},
		{"symbolic link", fixed(s.ovf, member{name: s.disk.name, kind: tar.TypeSymlink, link: "../secret.vmdk"}), []int{1, 4}, `web-disk1\.vmdk`},
		{"hard link", fixed(s.ovf, member{name: s.disk.name, kind: tar.TypeLink, link: "/etc/shadow"}), []int{1, 4}, `web-disk1\.vmdk`},
		{"device", fixed(s.ovf, member{name: s.disk.name, kind: tar.TypeFifo}), []int{1, 4}, `web-disk1\.vmdk`},
		{"member up", fixed(s.ovf, s.mf, s.disk, member{name: "../up", body: "x"}), []int{1, 4}, `\.\./up`},
		{"member absolute", fixed(s.ovf, s.mf, s.disk, member{name: "/etc/tarvm-test", body: "x"}), []int{1, 4}, `/etc/tarvm-test`},
		{"disk doubled", fixed(s.ovf, s.mf, s.disk, s.disk), []int{1, 4}, `web-disk1\.vmdk`},
		{"envelope doubled", fixed(s.ovf, s.ovf, s.mf, s.disk), []int{1, 4}, `web\.ovf`},
		{"two envelopes", fixed(s.ovf, member{name: "x.ovf", body: s.ovf.body}, s.mf, s.disk), []int{2}, `several envelopes`},
		{"digest of the disk", fixed(s.ovf, s.mf, member{name: s.disk.name, body: s.disk.body[:len(s.disk.body)-1] + "x"}), []int{4}, `web-disk1\.vmdk: .*digest`},
		{"digest of the envelope", fixed(s.with(t, "<rasd:VirtualQuantity>512<", "<rasd:VirtualQuantity>513<"), s.mf, s.disk), []int{4}, `web\.ovf: .*digest`},
		{"digest missing", fixed(s.ovf, member{name: s.mf.name, body: s.mf.body[:strings.Index(s.mf.body, "\n")+1]}, s.disk), []int{4}, `not in the manifest`},
		{"manifest of nonsense", fixed(s.ovf, member{name: s.mf.name, body: "\x00\x01nonsense\n"}, s.disk), []int{1, 4}, `web\.mf`},
		{"empty", func(*testing.T) string { return "" }, []int{1, 2, 4}, `vm\.ova`},
		{"cut in the first header", cut(100), []int{1, 2, 4}, `vm\.ova`},
		{"cut behind the first header", cut(512), []int{4}, `vm\.ova`},
		{"cut in the envelope", cut(700), []int{4}, `vm\.ova`},
		{"cut before the disk's header", cut(inDisk - 600), []int{1}, `vm\.ova`},
		{"cut before the disk", cut(inDisk - 80), []int{4}, `vm\.ova`},
		{"cut in the disk", cut(inDisk + len(s.disk.body)/2), []int{4}, `vm\.ova`},
		{"cut at the disk's last byte", cut(whole - 1024 - 1), []int{4}, `vm\.ova`},
		{"cut gzip", func(t *testing.T) string {
			z := gzipOf(t, tarOf(t, s.ovf, s.mf, s.disk))
			return z[:len(z)/2]
		}, []int{4}, `vm\.ova: .*cut off`},
		{"damaged gzip", func(t *testing.T) string {
			z := []byte(gzipOf(t, tarOf(t, s.ovf, s.mf, s.disk)))
			z[len(z)-6] ^= 1 // its checksum
			return string(z)
		}, []int{4}, `vm\.ova: damaged package`},
		{"gzip in gzip", func(t *testing.T) string { return gzipOf(t, gzipOf(t, tarOf(t, s.ovf, s.mf, s.disk))) }, []int{1}, `no package`},
		{"gzip of zeros", func(t *testing.T) string { return gzipOf(t, strings.Repeat("\x00", 100<<20)) }, []int{1}, `no package`},
		{"envelope of 20 MiB", func(t *testing.T) string {
			return gzipOf(t, tarOf(t, member{name: "web.ovf", body: strings.Repeat(" ", 20<<20)}))
		}, []int{1, 4}, `limit passed`},
		{"DTD", func(t *testing.T) string {
			return tarOf(t, s.with(t, "<Envelope", bomb+"<Envelope"), s.disk)
		}, []int{1}, `web\.ovf: .*line 2: .*entities are refused`},
		{"entities", func(t *testing.T) string { return tarOf(t, s.with(t, "<Info>", "<Info>&c;"), s.disk) }, []int{1}, `web\.ovf: `},
		{"deep", func(t *testing.T) string {
			return tarOf(t, s.with(t, "<References>", strings.Repeat("<a>", 100_000)+"<References>"), s.disk)
		}, []int{1}, `web\.ovf: `},
		{"no XML", fixed(member{name: "web.ovf", body: "nonsense"}, s.disk), []int{1, 2}, `web\.ovf|vm\.ova`},
		{"huge numbers", func(t *testing.T) string {
			return tarOf(t, s.with(t, `ovf:capacity="262144"`, `ovf:capacity="99999999999999999999999999"`), s.mf, s.disk)
		}, []int{4}, `web\.ovf`},
		{"disk of another kind", fixed(s.ovf, member{name: s.disk.name, body: strings.Repeat("x", len(s.disk.body))}), []int{1, 4}, `web-disk1\.vmdk`},
		{"parent outside", fixed(s.ovf, member{name: s.disk.name, body: "# Disk DescriptorFile\nversion=1\nCID=fffffffe\nparentCID=12345678\ncreateType=\"monolithicFlat\"\nparentFileNameHint=\"/etc/shadow\"\nRW 512 FLAT \"/etc/shadow\" 0\n"}), []int{1, 4}, `web-disk1\.vmdk`},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Chdir(t.TempDir())
			write(t, "secret.vmdk", "SECRET")
			write(t, "in/vm.ova", c.build(t))
			before := tree(t)
			for _, args := range [][]string{
				{"import", "in/vm.ova", "-C", "in/out", "--to", "vmx"}, {"export", "in/vm.ova", "-o", "in/out.xva"},
				{"export", "in/vm.ova", "-o", "in/out.ova"}, {"import", "in/vm.ova", "-o", "in/out.tar"},
			} {
				_, stderr, code := command(args...)
				if !slices.Contains(c.codes, code) {
					t.Errorf("%s: exit code %d, want one of %d: %s", args, code, c.codes, stderr)
				}
				if !regexp.MustCompile(c.want).MatchString(stderr) {
					t.Errorf("%s: the message has no %q: %s", args, c.want, stderr)
				}
				if strings.ContainsAny(stderr, "\x1b\u009b\u202e") || strings.Contains(stderr, "SECRET") || strings.Contains(stderr, "panic") {
					t.Errorf("%s: wrote %q", args, stderr)
				}
				if after := tree(t); !slices.Equal(after, before) {
					t.Fatalf("%s: left %q", args, after)
				}
			}
			// To look is safe, too.
			for _, args := range [][]string{
				{"ovf", "show", "in/vm.ova"}, {"ovf", "check", "in/vm.ova"}, {"ovf", "verify", "in/vm.ova"}, {"ovf", "fix", "in/vm.ova", "-o", "in/fixed.ova"},
			} {
				stdout, stderr, _ := command(args...)
				if all := stdout + stderr; strings.ContainsAny(all, "\x1b\u009b\u202e") || strings.Contains(all, "SECRET") {
					t.Errorf("%s: wrote %q", args, all)
				}
				if err := os.Remove("in/fixed.ova"); err != nil && !os.IsNotExist(err) {
					t.Error(err)
				}
				if after := tree(t); !slices.Equal(after, before) {
					t.Fatalf("%s: left %q", args, after)
				}
			}
		})
	}
}

// A configuration names no file outside of its directory, in any form.
func TestHostileConfigurations(t *testing.T) {
	domain := func(driver, path string) string {
		return fmt.Sprintf(`<domain type="kvm"><name>d</name><memory unit="MiB">512</memory><vcpu>1</vcpu><os><type arch="x86_64">hvm</type></os>
<devices><disk type="file" device="disk"><driver name="qemu" type="%s"/><source file="%s"/><target dev="vda" bus="virtio"/></disk></devices></domain>`, driver, path)
	}
	vbox := func(path string) string {
		return fmt.Sprintf(`<?xml version="1.0"?>
<VirtualBox xmlns="http://www.virtualbox.org/" version="1.19-linux"><Machine uuid="{12345678-1234-4234-8234-123456789abc}" name="b" OSType="Debian_64">
<MediaRegistry><HardDisks><HardDisk uuid="{22345678-1234-4234-8234-123456789abc}" location="%s" format="RAW" type="Normal"/></HardDisks></MediaRegistry>
<Hardware><Memory RAMSize="512"/><StorageControllers><StorageController name="SATA" type="AHCI" PortCount="1"><AttachedDevice type="HardDisk" port="0" device="0"><Image uuid="{22345678-1234-4234-8234-123456789abc}"/></AttachedDevice></StorageController></StorageControllers></Hardware></Machine></VirtualBox>`, path)
	}
	xl := func(path string) string {
		return fmt.Sprintf("name = \"x\"\ntype = \"hvm\"\nmemory = 512\nvcpus = 1\ndisk = [ \"format=raw,vdev=xvda,target=%s\" ]\n", path)
	}
	for _, c := range []struct{ name, file, text, want string }{
		{"VMX up", "vm.vmx", strings.ReplaceAll(plainVMX, "disk.img", "../secret.img"), `"\.\./secret\.img": not in the machine's directory`},
		{"VMX further up", "vm.vmx", strings.ReplaceAll(plainVMX, "disk.img", "../../../../../../../../etc/passwd"), `etc/passwd": not in the machine's directory`},
		{"VMX absolute", "vm.vmx", strings.ReplaceAll(plainVMX, "disk.img", "/etc/shadow"), `"/etc/shadow": not in`},
		{"VMX Windows", "vm.vmx", strings.ReplaceAll(plainVMX, "disk.img", `C:\\..\\secret.img`), `secret\.img": not in`},
		{"VMX link", "vm.vmx", strings.ReplaceAll(plainVMX, "disk.img", "link.img"), `link\.img: path escapes`},
		{"VMX terminal", "vm.vmx", strings.ReplaceAll(plainVMX, "disk.img", "a\x1b[2Jb"), `a\\x1b\[2Jb": not in`},
		{"VMX extent", "vm.vmx", strings.ReplaceAll(plainVMX, "disk.img", "extent.vmdk"), `extent\.vmdk`},
		{"VMX qcow2 parent", "vm.vmx", strings.ReplaceAll(plainVMX, "disk.img", "child.qcow2"), `child\.qcow2`},
		{"vbox up", "vm.vbox", vbox("../secret.img"), `secret\.img": not in`},
		{"vbox absolute", "vm.vbox", vbox("/etc/shadow"), `"/etc/shadow": not in`},
		{"vbox DTD", "vm.vbox", strings.Replace(vbox("disk.img"), "<VirtualBox", bomb+"<VirtualBox", 1), `vm\.vbox`},
		{"domain up", "vm.xml", domain("raw", "../secret.img"), `secret\.img": not in`},
		{"domain absolute", "vm.xml", domain("raw", "/etc/shadow"), `"/etc/shadow": not in`},
		{"domain device", "vm.xml", strings.ReplaceAll(strings.ReplaceAll(domain("raw", "/dev/sda"), `type="file"`, `type="block"`), "file=", "dev="), `/dev/sda`},
		{"domain URL", "vm.xml", strings.Replace(domain("raw", "x"), `type="file" device="disk"`, `type="network" device="disk"`, 1), `not in the machine's directory`},
		{"domain DTD", "vm.xml", strings.Replace(bomb, "Envelope", "domain", 1) + domain("raw", "disk.img"), `vm\.xml`},
		{"domain external entity", "vm.xml", `<!DOCTYPE domain [<!ENTITY x SYSTEM "file:///etc/passwd">]>` + strings.Replace(domain("raw", "disk.img"), "<name>d", "<name>&x;", 1), `vm\.xml`},
		{"domain qcow2 parent", "vm.xml", domain("qcow2", "child.qcow2"), `child\.qcow2`},
		{"xl up", "vm.cfg", xl("../secret.img"), `secret\.img": not in`},
		{"xl absolute", "vm.cfg", xl("/etc/shadow"), `"/etc/shadow": not in`},
		{"xl device", "vm.cfg", xl("/dev/sda"), `/dev/sda`},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Chdir(t.TempDir())
			secret := strings.Repeat("SECRET!!", 8192)
			write(t, "secret.img", secret)
			write(t, "vm/"+c.file, c.text)
			if strings.Contains(c.text, "disk.img") {
				write(t, "vm/disk.img", guestBytes(64<<10))
			}
			if err := os.Symlink("../secret.img", "vm/link.img"); err != nil {
				t.Skip(err)
			}
			if strings.Contains(c.text, "extent.vmdk") {
				write(t, "vm/extent.vmdk", "# Disk DescriptorFile\nversion=1\nCID=fffffffe\nparentCID=ffffffff\ncreateType=\"monolithicFlat\"\nRW 128 FLAT \"../secret.img\" 0\nddb.adapterType = \"lsilogic\"\n")
			}
			if strings.Contains(c.text, "child.qcow2") {
				write(t, "raw.img", secret)
				must(t, "image", "convert", "raw.img", "vm/child.qcow2", "-q")
				// The parent's name: its offset in the file, and its length.
				b := []byte(read(t, "vm/child.qcow2"))
				binary.BigEndian.PutUint64(b[8:], 4096)
				binary.BigEndian.PutUint32(b[16:], uint32(copy(b[4096:], "../secret.img")))
				write(t, "vm/child.qcow2", string(b))
			}
			before := tree(t)
			for _, args := range [][]string{{"export", "vm", "-o", "x.ova"}, {"export", "vm", "-o", "x", "--to", "libvirt", "--disk-format", "raw"}, {"export", "vm/" + c.file, "-o", "x.xva"}} {
				_, stderr, code := command(args...)
				if code == exitDone || code == exitWarned || !regexp.MustCompile(c.want).MatchString(stderr) {
					t.Errorf("%s: exit code %d, and the message has no %q: %s", args, code, c.want, stderr)
				}
				if strings.ContainsAny(stderr, "\x1b\u009b\u202e") || strings.Contains(stderr, "SECRET") {
					t.Errorf("%s: wrote %q", args, stderr)
				}
				if after := tree(t); !slices.Equal(after, before) {
					t.Fatalf("%s: left %q", args, after)
				}
			}
		})
	}
}

// What a configuration says of a disk's format is not overruled by the disk's content, which belongs to the guest.
func TestRawStaysRaw(t *testing.T) {
	t.Chdir(t.TempDir())
	write(t, "inner.raw", guestBytes(128<<10))
	must(t, "image", "convert", "inner.raw", "inner.qcow2", "-q")
	write(t, "vm/disk.img", read(t, "inner.qcow2"))
	write(t, "vm/vm.xml", `<domain type="kvm"><name>d</name><memory unit="MiB">512</memory><vcpu>1</vcpu><os><type arch="x86_64">hvm</type></os>
<devices><disk type="file" device="disk"><driver name="qemu" type="raw"/><source file="disk.img"/><target dev="vda" bus="virtio"/></disk></devices></domain>`)
	must(t, "export", "vm", "-o", "out", "--to", "libvirt", "--disk-format", "raw", "-q")
	if got, want := read(t, "out/d-disk1.img"), read(t, "vm/disk.img"); got != want {
		t.Errorf("a raw disk of %d bytes became one of %d", len(want), len(got))
	}
}

// Texts in the encodings that VMware writes become names in UTF-8.
func TestEncodings(t *testing.T) {
	text := strings.ReplaceAll(plainVMX, `"web"`, `"Müller"`)
	for name, vmx := range map[string]string{
		"UTF-8":               text,
		"UTF-8 with its mark": "\ufeff" + text,
		"windows-1252":        strings.ReplaceAll(strings.ReplaceAll(text, "UTF-8", "windows-1252"), "ü", "\xfc"),
		"UTF-16":              utf16le(strings.ReplaceAll(text, "UTF-8", "UTF-16LE")),
	} {
		t.Run(name, func(t *testing.T) {
			t.Chdir(t.TempDir())
			write(t, "vm/vm.vmx", vmx)
			write(t, "vm/disk.img", guestBytes(64<<10))
			must(t, "export", "vm", "-o", "x.ova", "-q")
			out, _ := must(t, "ovf", "show", "x.ova")
			if !strings.Contains(out, "\nMüller\n") {
				t.Errorf("the machine is called otherwise: %s", out)
			}
		})
	}
	t.Run("OVF in UTF-16", func(t *testing.T) {
		t.Chdir(t.TempDir())
		s := newSample(t)
		body := utf16le(strings.ReplaceAll(s.ovf.body, `encoding="UTF-8"`, `encoding="UTF-16"`))
		write(t, "x.ova", tarOf(t, member{name: "web.ovf", body: body}, s.disk))
		must(t, "import", "x.ova", "-C", "x", "-q")
		if got := read(t, "x/web.vmx"); !strings.Contains(got, `displayName = "web"`) {
			t.Error(got)
		}
	})
}

// A capacity that is not the disk's is reported, and the disk's is taken.
func TestOtherCapacity(t *testing.T) {
	t.Chdir(t.TempDir())
	s := newSample(t)
	write(t, "x.ova", tarOf(t, s.with(t, `ovf:capacity="262144"`, `ovf:capacity="10485760"`), s.disk))
	_, stderr := must(t, "import", "x.ova", "-C", "x")
	if want := "tarvm: drive scsi0:0: the configuration says 10485760 bytes, the image has 262144\n"; !strings.Contains(stderr, want) {
		t.Errorf("no %q in %s", want, stderr)
	}
	if !strings.Contains(stderr, "tarvm: x.ova: has no manifest: nothing says whether its files are whole\n") {
		t.Errorf("it does not say that there is no manifest: %s", stderr)
	}
	out, _, code := command("ovf", "check", "x.ova", "--for", "xen-orchestra")
	if code != exitFailed || !strings.Contains(out, "another capacity") {
		t.Errorf("check: exit code %d: %s", code, out)
	}
}

// What is in a name of a machine reaches neither a terminal nor a file system.
func TestHostileNames(t *testing.T) {
	for _, name := range []string{"../../x", "/etc/x", "a\x1b[2Jb", "..", "con:|<>", strings.Repeat("long", 500), "-rf", "é\u202eexe"} {
		t.Run("", func(t *testing.T) {
			t.Chdir(t.TempDir())
			write(t, "vm/vm.vmx", strings.ReplaceAll(plainVMX, `"web"`, `"`+name+`"`))
			write(t, "vm/disk.img", guestBytes(64<<10))
			for _, to := range []string{"ova", "ovf", "vmx", "vbox", "libvirt", "xl", "qemu", "xva", "vagrant"} {
				if _, _, code := command("export", "vm", "-o", "out/"+to, "--to", to); code != exitFailed {
					t.Fatalf("%s: without a directory above it: exit code %d", to, code)
				}
				if err := os.MkdirAll("out", 0o777); err != nil {
					t.Fatal(err)
				}
				dry, _, _ := command("export", "vm", "--to", to, "--dry-run")
				stdout, stderr, code := command("export", "vm", "-o", "out/"+to, "--to", to)
				if code != exitDone {
					t.Errorf("%s: exit code %d: %s", to, code, stderr)
				}
				if all := dry + stdout + stderr; strings.ContainsAny(all, "\x1b\u009b\u202e") {
					t.Errorf("%s: wrote %q", to, all)
				}
				for _, n := range tree(t) {
					if base := filepath.Base(n); strings.Trim(base, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789.-_") != "" || strings.HasPrefix(base, "-") || len(base) > 100 {
						t.Errorf("%s: made %q", to, n)
					}
				}
				if err := os.RemoveAll("out"); err != nil {
					t.Fatal(err)
				}
			}
			if list := tree(t); len(list) != 4 {
				t.Errorf("made %q", list)
			}
		})
	}
}

// A Vagrant box's members stay in it.
func TestHostileBoxes(t *testing.T) {
	meta := member{name: "metadata.json", body: `{"provider":"libvirt","format":"qcow2","virtual_size":1}`}
	for name, list := range map[string][]member{
		"absolute":    {meta, {name: "/etc/box.img", body: "x"}},
		"up":          {meta, {name: "../box.img", body: "x"}},
		"link":        {meta, {name: "box.img", kind: tar.TypeSymlink, link: "../secret.img"}},
		"hard link":   {meta, {name: "box.img", kind: tar.TypeLink, link: "../secret.img"}},
		"no disk":     {meta},
		"bad JSON":    {{name: "metadata.json", body: `{"provider":`}, {name: "box.img", body: "x"}},
		"no metadata": {{name: "box.img", body: "x"}},
		"doubled":     {meta, meta, {name: "box.img", body: "x"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Chdir(t.TempDir())
			write(t, "secret.img", "SECRET")
			write(t, "in/x.box", gzipOf(t, tarOf(t, list...)))
			before := tree(t)
			for _, args := range [][]string{{"import", "in/x.box", "-C", "in/out", "--to", "qemu"}, {"export", "in/x.box", "-o", "in/out.ova"}} {
				_, stderr, code := command(args...)
				if code == exitDone || code == exitWarned || !strings.HasPrefix(stderr, "tarvm: in/x.box: ") || strings.Contains(stderr, "SECRET") {
					t.Errorf("%s: exit code %d: %s", args, code, stderr)
				}
				if after := tree(t); !slices.Equal(after, before) {
					t.Fatalf("%s: left %q", args, after)
				}
			}
		})
	}
}

// An XVA's blocks have digests: damage is found while the disk is read, and nothing stays behind.
func TestDamagedXVA(t *testing.T) {
	t.Chdir(t.TempDir())
	write(t, "vm/vm.vmx", plainVMX)
	write(t, "vm/disk.img", guestBytes(3<<20))
	must(t, "export", "vm", "-o", "x.xva", "-q")
	b := []byte(read(t, "x.xva"))
	b[len(b)/3] ^= 1
	write(t, "bad.xva", string(b))
	write(t, "cut.xva", string(b[:len(b)/2]))
	before := tree(t)
	for _, file := range []string{"bad.xva", "cut.xva"} {
		for _, args := range [][]string{{"import", file, "-C", "out"}, {"export", file, "-o", "out.ova"}, {"import", file, "-o", "out.tar"}} {
			_, stderr, code := command(args...)
			if code != exitCorrupt || !strings.Contains(stderr, "xva: ") || !strings.Contains(stderr, "hint: it is damaged: get it again\n") {
				t.Errorf("%s: exit code %d: %s", args, code, stderr)
			}
			if after := tree(t); !slices.Equal(after, before) {
				t.Fatalf("%s: left %q", args, after)
			}
		}
	}
}
