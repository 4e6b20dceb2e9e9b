package lint_test

import (
	"archive/tar"
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha1"
	"crypto/sha256"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"io"
	"math/big"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"tarvm/formats"
	"tarvm/formats/raw"
	"tarvm/formats/vmdk"
	"tarvm/ovf"
	"tarvm/ovf/lint"
	"tarvm/ovf/ova"
)

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func itoa(n int64) string { return strconv.FormatInt(n, 10) }

func source(t testing.TB, f *os.File) formats.Source {
	t.Helper()
	s, err := raw.NewFile(f)
	must(t, err)
	return s
}

// fix repairs to a file and to a pipe, and compares these.
func fix(t *testing.T, p *ova.Package, out string, o lint.FixOptions) *lint.FixReport {
	t.Helper()
	f, err := os.Create(out)
	must(t, err)
	rep, err := lint.Fix(t.Context(), p, ova.NewWriterAt(f, ova.WriterOptions{}), o)
	must(t, err)
	must(t, f.Close())
	g, err := os.Create(out + ".pipe")
	must(t, err)
	_, err = lint.Fix(t.Context(), p, ova.NewWriter(g, ova.WriterOptions{}), o)
	must(t, err)
	must(t, g.Close())
	a, err := os.ReadFile(out)
	must(t, err)
	b, err := os.ReadFile(out + ".pipe")
	must(t, err)
	if string(a) != string(b) {
		t.Errorf("%d bytes into a file, %d into a pipe, and not the same", len(a), len(b))
	}
	return rep
}

// disk is a small streamOptimized VMDK.
func disk(t testing.TB) []byte {
	t.Helper()
	name := filepath.Join(t.TempDir(), "disk.vmdk")
	f, err := os.Create(name)
	must(t, err)
	data := bytes.Repeat([]byte("guest data "), 20_000)
	data = append(data, make([]byte, 64<<20-len(data))...)
	im, err := raw.Format{}.Open(bytes.NewReader(data), formats.OpenOptions{})
	must(t, err)
	d, err := formats.NewDisk(im)
	must(t, err)
	must(t, vmdk.Format{}.Encode(t.Context(), formats.Outputs{Main: f, Name: "blank-disk1.vmdk"}, d, formats.EncodeOptions{Subformat: "streamOptimized"}))
	must(t, f.Close())
	b, err := os.ReadFile(name)
	must(t, err)
	return b
}

type member struct {
	name string
	data []byte
}

func tarred(t testing.TB, format tar.Format, list ...member) []byte {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, m := range list {
		must(t, w.WriteHeader(&tar.Header{Name: m.name, Size: int64(len(m.data)), Mode: 0o644, Format: format}))
		_, err := w.Write(m.data)
		must(t, err)
	}
	must(t, w.Close())
	return b.Bytes()
}

// A pack is a package that tests change.
type pack struct {
	env  string
	disk []byte
	name string // of the disk
	mf   func(env string, files ...member) string
	more []member
	// behind is what follows the archive.
	behind []byte
}

func manifest(env string, files ...member) string {
	var b []byte
	for _, m := range append([]member{{"blank.ovf", []byte(env)}}, files...) {
		sum := sha256.Sum256(m.data)
		b = ovf.AppendDigest(b, ovf.Digest{Algorithm: ovf.SHA256, Name: m.name, Sum: sum[:]})
	}
	return string(b)
}

func good(t testing.TB, image []byte) *pack {
	t.Helper()
	text, err := os.ReadFile("testdata/blank.ovf")
	must(t, err)
	return &pack{env: string(text), disk: image, name: "blank-disk1.vmdk", mf: manifest}
}

func (p *pack) bytes(t testing.TB) []byte {
	t.Helper()
	env := strings.Replace(p.env, "SIZE", itoa(int64(len(p.disk))), 1)
	d := member{p.name, p.disk}
	list := []member{{"blank.ovf", []byte(env)}}
	if p.mf != nil {
		list = append(list, member{"blank.mf", []byte(p.mf(env, append([]member{d}, p.more...)...))})
	}
	format := tar.FormatUSTAR
	if strings.ContainsFunc(p.name, func(r rune) bool { return r > '~' }) {
		format = tar.FormatGNU
	}
	return append(tarred(t, format, append(append(list, d), p.more...)...), p.behind...)
}

func (p *pack) open(t testing.TB) *ova.Package {
	t.Helper()
	q, err := ova.Open(t.Context(), bytes.NewReader(p.bytes(t)), ova.Options{})
	must(t, err)
	t.Cleanup(func() { q.Close() })
	return q
}

func TestGood(t *testing.T) {
	p := good(t, disk(t)).open(t)
	for _, f := range check(t, p) {
		t.Errorf("in a good package: %s", f)
	}
	out := filepath.Join(t.TempDir(), "out.ova")
	rep := fix(t, p, out, lint.FixOptions{})
	if len(rep.Fixed)+len(rep.Left)+len(rep.Renamed) > 0 || rep.Unsigned {
		t.Errorf("%+v", rep)
	}
	q := open(t, out)
	if string(q.Manifest.Data) != string(p.Manifest.Data) {
		t.Errorf("the manifest became\n%s", q.Manifest.Data)
	}
}

// TestRules has each rule find what it is for, in a package that is good but for that, and nothing else; and Fix repair it
// where it says so.
func TestRules(t *testing.T) {
	image := disk(t)
	const hardware, item = "</VirtualHardwareSection>", "<Item><rasd:ElementName>x</rasd:ElementName><rasd:InstanceID>99</rasd:InstanceID>"
	replace := func(list ...string) func(p *pack) {
		return func(p *pack) {
			for i := 0; i < len(list); i += 2 {
				if !strings.Contains(p.env, list[i]) {
					t.Fatalf("no %q", list[i])
				}
				p.env = strings.Replace(p.env, list[i], list[i+1], 1)
			}
		}
	}
	withSecond := func(item string) func(p *pack) { return replace(hardware, item+hardware) }
	for _, c := range []struct {
		rule string
		make func(p *pack)
		also []string // rules that must find something too
		left []string // of these, what is not repaired
		want string   // in the envelope after it was repaired
	}{
		{"mf-syntax", func(p *pack) {
			p.mf = func(e string, m ...member) string { return manifest(e, m...) + "hello\n" }
		}, nil, nil, ""},
		{"mf-self", func(p *pack) {
			p.mf = func(e string, m ...member) string {
				return manifest(e, append(m, member{"blank.mf", nil})...)
			}
		}, nil, nil, ""},
		{"mf-sha1", func(p *pack) {
			p.mf = func(e string, m ...member) string {
				s := sha1.Sum([]byte(e))
				return string(ovf.AppendDigest(nil, ovf.Digest{Algorithm: ovf.SHA1, Name: "blank.ovf", Sum: s[:]})) + manifest(e, m...)[len("SHA256(blank.ovf)= ")+65:]
			}
		}, nil, nil, ""},
		{"mf-end-of-stream", func(p *pack) { p.disk = append(bytes.Clone(p.disk), make([]byte, 1000)...) }, nil, nil, ""},
		{"two-envelopes", func(p *pack) { p.more = []member{{"other.ovf", []byte("<x/>")}} }, nil, nil, ""},
		{"name-glob", func(p *pack) {
			p.name = "a[1].vmdk"
			replace("blank-disk1.vmdk", "a[1].vmdk")(p)
		}, nil, nil, `ovf:href="a_1_.vmdk"`},
		{"name-ascii", func(p *pack) {
			p.name = "ä.vmdk"
			replace("blank-disk1.vmdk", "%C3%A4.vmdk")(p)
			p.mf = nil
		}, nil, nil, `ovf:href="_.vmdk"`},
		{"name-dot", func(p *pack) {
			p.name = ".a.vmdk"
			replace("blank-disk1.vmdk", ".a.vmdk")(p)
		}, nil, nil, `ovf:href="a.vmdk"`},
		{"name-long", func(p *pack) {
			p.name = strings.Repeat("d", 60) + "/" + strings.Repeat("n", 60) + ".vmdk"
			replace("blank-disk1.vmdk", p.name)(p)
		}, []string{"tar-directory"}, nil, `ovf:href="nnn`},
		{"file-missing", replace("</References>", `<File ovf:id="f2" ovf:href="no.iso"/></References>`), nil, []string{"file-missing"}, ""},
		{"file-size", replace(` ovf:size="SIZE"`, ` ovf:size="5"`), nil, nil, itoa(int64(len(image)))},
		{"disk-not-stream", func(p *pack) { p.disk = append([]byte("# Disk DescriptorFile\n"), make([]byte, 2000)...) }, nil, []string{"disk-not-stream"}, ""},
		{"disk-kind", func(p *pack) { p.disk = append([]byte("conectix"), make([]byte, 2000)...) }, nil, []string{"disk-kind"}, ""},
		{"disk-name", func(p *pack) {
			p.name = "blank-disk1.img"
			replace("blank-disk1.vmdk", "blank-disk1.img")(p)
		}, nil, nil, `ovf:href="blank-disk1.img.vmdk"`},
		{"collection", replace("<VirtualSystem ", `<VirtualSystemCollection ovf:id="all"><Info/><VirtualSystem `, "</VirtualSystem>", "</VirtualSystem></VirtualSystemCollection>"), nil, []string{"collection"}, ""},
		{"no-family", func(p *pack) {
			i, j := strings.Index(p.env, "<System>"), strings.Index(p.env, "</System>")
			p.env = p.env[:i] + p.env[j+len("</System>"):]
		}, nil, []string{"no-family"}, ""},
		{"disk-capacity", replace("67108864", "67108865"), nil, nil, `ovf:capacity="67108864"`},
		{"disk-format", replace("vmdk.html#streamOptimized", "vmdk.html#"), nil, nil, "#streamOptimized"},
		{"disk-file", replace(`ovf:fileRef="file1"`, `ovf:fileRef="no"`), nil, []string{"disk-file"}, ""},
		{"disk-parent", replace(`ovf:fileRef="file1"`, `ovf:fileRef="file1" ovf:parentRef="x"`), nil, []string{"disk-parent"}, ""},
		{"iso-content", func(p *pack) {
			iso := make([]byte, 40_000)
			copy(iso[32769:], "CD001")
			p.more = []member{{"cd.iso", iso}}
			replace("</References>", `<File ovf:id="f2" ovf:href="cd.iso" ovf:size="40000"/></References>`)(p)
		}, nil, []string{"iso-content"}, ""},
		{"floppy-content", func(p *pack) {
			p.more = []member{{"a.flp", make([]byte, 1000)}}
			replace("</References>", `<File ovf:id="f2" ovf:href="a.flp" ovf:size="1000"/></References>`)(p)
			withSecond(item + "<rasd:HostResource>ovf:/file/f2</rasd:HostResource><rasd:ResourceType>14</rasd:ResourceType></Item>")(p)
		}, nil, []string{"floppy-content"}, ""},
		{"ovf-namespace", func(p *pack) {
			p.env = strings.ReplaceAll(p.env, "http://schemas.dmtf.org/ovf/envelope/1", "http://schemas.citrix.com/ovf/envelope/1")
		}, nil, []string{"ovf-namespace"}, ""},
		{"xml-prefix", replace("<Info>Disks</Info>", `<Info xsi:type="x">Disks</Info>`), nil, []string{"xml-prefix"}, ""},
		{"several-systems", replace("</VirtualSystem>", `</VirtualSystem><VirtualSystem ovf:id="b"><Info/><Name>b</Name></VirtualSystem>`), nil, []string{"several-systems"}, ""},
		{"hardware-family-hosted", replace("vmx-10", "vmx-16"), nil, nil, ">vmx-13<"},
		{"firmware-value", replace(hardware, `<vmw:Config ovf:required="false" vmw:key="firmware" vmw:value="uefi"/>`+hardware), nil, []string{"firmware-value"}, ""},
		{"firmware-vbox", replace(hardware, `<vmw:Config ovf:required="false" vmw:key="firmware" vmw:value="efi"/>`+hardware), nil, nil, `<vbox:Machine ovf:required="false" uuid=`},
		{"firmware-vmware", func(p *pack) {
			replace(hardware+"\n", hardware+`<vbox:Machine xmlns:vbox="http://www.virtualbox.org/ovf/machine" ovf:required="false"><vbox:Hardware><vbox:Firmware type="EFI"/></vbox:Hardware></vbox:Machine>`)(p)
		}, nil, nil, `<vmw:Config ovf:required="false" vmw:key="firmware" vmw:value="efi"/>`},
		{"boot-order", func(p *pack) {
			replace(hardware, `<vmw:Config ovf:required="false" vmw:key="firmware" vmw:value="efi"/>`+hardware+`<vmw:BootOrderSection ovf:required="false"><Info/></vmw:BootOrderSection>`)(p)
		}, []string{"firmware-vbox"}, nil, `<Firmware type="EFI"/>`},
		{"config-required", replace(hardware, `<vmw:Config ovf:required="true" vmw:key="a" vmw:value="b"/>`+hardware), nil, nil, `<vmw:Config ovf:required="false"`},
		{"section-required", replace("</VirtualSystem>", `<vmw:XSection><Info/></vmw:XSection></VirtualSystem>`), nil, nil, `<vmw:XSection ovf:required="false">`},
		{"eula", replace("</VirtualSystem>", `<EulaSection><Info/><License>x</License></EulaSection></VirtualSystem>`), nil, []string{"eula"}, ""},
		{"network-hostonly", func(p *pack) { p.env = strings.ReplaceAll(p.env, "VM Network", "HostOnly") }, nil, []string{"network-hostonly"}, ""},
		{"memory-no-units", replace("<rasd:AllocationUnits>byte * 2^20</rasd:AllocationUnits>", ""), nil, nil, "<Item>\n        \n        <rasd:AllocationUnits>byte * 2^20</rasd:AllocationUnits><rasd:ElementName>Memory"},
		{"memory-units", replace("byte * 2^20", "byte*2^20"), nil, nil, ">byte * 2^20<"},
		{"memory-units", replace("byte * 2^20", "byte * 2^20 "), nil, nil, ">byte * 2^20<"},
		{"memory-units", replace("byte * 2^20", "GigaBytes"), nil, nil, ">1048576<"},
		{"memory-units", replace("byte * 2^20", "byte * 2^10", ">1024<", ">1025<"), nil, []string{"memory-units"}, ""},
		{"memory-units", replace("byte * 2^20", "lots"), nil, []string{"memory-units"}, ""},
		{"scsi-subtype", replace("<rasd:ResourceSubType>lsilogic</rasd:ResourceSubType>", ""), nil, []string{"scsi-subtype"}, ""},
		{"tar-trailing", func(p *pack) { p.behind = make([]byte, 50_000) }, nil, nil, ""},
		{"tar-trailing", func(p *pack) { p.behind = []byte("x") }, nil, nil, ""},
		{"duplicate-id", replace("<rasd:InstanceID>5<", "<rasd:InstanceID>4<"), nil, []string{"duplicate-id"}, ""},
		{"storage-subtype", withSecond(item + "<rasd:ResourceSubType>VirtioSCSI</rasd:ResourceSubType><rasd:ResourceType>20</rasd:ResourceType></Item>"), nil, []string{"storage-subtype"}, ""},
		{"no-parent", replace("<rasd:Parent>3<", "<rasd:Parent>33<"), nil, []string{"no-parent"}, ""},
		{"same-address", withSecond(item + "<rasd:AddressOnParent>0</rasd:AddressOnParent><rasd:Parent>3</rasd:Parent><rasd:ResourceType>15</rasd:ResourceType></Item>"), nil, []string{"same-address"}, ""},
		{"controllers", withSecond(item + "<rasd:ResourceSubType>lsilogic</rasd:ResourceSubType><rasd:ResourceType>6</rasd:ResourceType></Item>"), nil, []string{"controllers"}, ""},
		{"disk-reference", replace("ovf:/disk/vmdisk1", "ovf:/disk/x"), nil, []string{"disk-reference"}, ""},
		{"network-reference", replace("<rasd:Connection>VM Network", "<rasd:Connection>other"), nil, []string{"network-reference"}, ""},
		{"nic-automatic", replace("<rasd:AutomaticAllocation>true</rasd:AutomaticAllocation>", ""), nil, nil, "<rasd:AutomaticAllocation>true</rasd:AutomaticAllocation><rasd:Connection>"},
	} {
		t.Run(c.rule, func(t *testing.T) {
			p := good(t, image)
			c.make(p)
			q, err := ova.Open(t.Context(), bytes.NewReader(p.bytes(t)), ova.Options{Envelope: "blank.ovf"})
			must(t, err)
			defer q.Close()
			list, err := lint.Check(t.Context(), q, lint.Options{})
			must(t, err)
			rules := func(list []lint.Finding) string {
				var out []string
				for _, f := range list {
					out = append(out, f.Rule)
				}
				slices.Sort(out)
				return strings.Join(out, " ")
			}
			want := append([]string{c.rule}, c.also...)
			slices.Sort(want)
			if got := rules(list); got != strings.Join(want, " ") {
				t.Errorf("found %s, want %s", got, want)
			}
			for _, f := range list {
				if f.Fixes == slices.Contains(c.left, f.Rule) {
					t.Errorf("%s: repair %v", f.Rule, f.Fixes)
				}
			}
			out := filepath.Join(t.TempDir(), "out.ova")
			rep := fix(t, q, out, lint.FixOptions{})
			if got := rules(rep.Left); got != strings.Join(c.left, " ") {
				t.Errorf("left %s, want %s", got, c.left)
			}
			if len(rep.Fixed) != len(list)-len(c.left) {
				t.Errorf("repaired %s", rules(rep.Fixed))
			}
			r := open(t, out)
			if !strings.Contains(string(r.Envelope.Data), c.want) {
				t.Errorf("no %q in\n%s", c.want, r.Envelope.Data)
			}
			if c.rule == "file-missing" {
				return
			}
			v, err := r.Verify(t.Context(), ova.VerifyOptions{})
			must(t, err)
			if v.Err() != nil {
				t.Error(v.Err())
			}
		})
	}
}

// TestRulesAreData: each rule says what it stands on, and is for someone.
func TestRulesAreData(t *testing.T) {
	seen := make(map[string]bool)
	for _, r := range lint.Rules() {
		if seen[r.ID] || r.ID == "" || r.Text == "" || len(r.Verdicts) == 0 {
			t.Errorf("%+v", r)
		}
		seen[r.ID] = true
		for _, v := range r.Verdicts {
			if v.Evidence == "" || v.Severity < lint.Warns || v.Severity > lint.Refuses || !slices.Contains(lint.Importers(), v.Importer) {
				t.Errorf("%s: %+v", r.ID, v)
			}
		}
	}
}

func TestImporters(t *testing.T) {
	p := good(t, disk(t))
	p.env = strings.Replace(p.env, "vmx-10", "virtualbox-2.2", 1)
	q := p.open(t)
	list, err := lint.Check(t.Context(), q, lint.Options{Importers: []lint.Importer{lint.VirtualBox, lint.Govc}})
	must(t, err)
	if len(list) != 1 || len(list[0].Verdicts) != 1 || list[0].Worst(lint.Govc) != lint.Refuses || list[0].Worst(lint.VMware) != 0 {
		t.Errorf("%v", list)
	}
	if s := list[0].String(); s != `blank.ovf: the hardware family is not one of VMware's: "virtualbox-2.2": govc refuses` {
		t.Error(s)
	}
	if _, err := lint.Check(t.Context(), q, lint.Options{Importers: []lint.Importer{"x"}}); !errors.Is(err, lint.ErrImporter) {
		t.Error(err)
	}
	// What nobody asked for minds is not touched.
	out := filepath.Join(t.TempDir(), "a.ova")
	rep := fix(t, q, out, lint.FixOptions{Importers: []lint.Importer{lint.VirtualBox}})
	if e := open(t, out).Envelope.Data; len(rep.Fixed) != 0 || !bytes.Contains(e, []byte("virtualbox-2.2")) {
		t.Errorf("%+v\n%s", rep, e)
	}
	rep = fix(t, q, out, lint.FixOptions{Hardware: "vmx-19", Digest: ovf.SHA1})
	r := open(t, out)
	if len(rep.Fixed) != 1 || !bytes.Contains(r.Envelope.Data, []byte(">vmx-19<")) || !bytes.HasPrefix(r.Manifest.Data, []byte("SHA1(blank.ovf)= ")) {
		t.Errorf("%+v\n%s", rep, r.Envelope.Data)
	}
	for _, o := range []lint.FixOptions{{Hardware: "x"}, {Hardware: "vmx-1<x"}, {Digest: "MD5"}, {Importers: []lint.Importer{"x"}}} {
		if _, err := lint.Fix(t.Context(), q, ova.NewWriter(io.Discard, ova.WriterOptions{}), o); err == nil {
			t.Errorf("%+v is no error", o)
		}
	}
}

// TestCutOff: of a package that ends before its disk, the manifest tells what is missing, and goes on doing so.
func TestCutOff(t *testing.T) {
	p := good(t, disk(t))
	b := p.bytes(t)
	b = b[:bytes.Index(b, p.disk)-512]
	q, err := ova.Open(t.Context(), bytes.NewReader(b), ova.Options{})
	must(t, err)
	defer q.Close()
	if _, err := lint.Fix(t.Context(), q, ova.NewWriter(io.Discard, ova.WriterOptions{}), lint.FixOptions{}); !errors.Is(err, ovf.ErrDigest) || !strings.Contains(err.Error(), "blank-disk1.vmdk") {
		t.Errorf("%v", err)
	}
	rep := fix(t, q, filepath.Join(t.TempDir(), "out.ova"), lint.FixOptions{Damaged: true})
	if !slices.ContainsFunc(rep.Left, func(f lint.Finding) bool { return f.Rule == "file-missing" }) {
		t.Errorf("left: %v", rep.Left)
	}
}

// TestDamaged: a wrong digest is not made right.
func TestDamaged(t *testing.T) {
	p := good(t, disk(t))
	p.disk = append(p.disk, make([]byte, 700)...)
	b := p.bytes(t)
	n := bytes.Index(b, p.disk)
	b[n+5000] ^= 1
	q, err := ova.Open(t.Context(), bytes.NewReader(b), ova.Options{})
	must(t, err)
	defer q.Close()
	var wrong *ovf.DigestError
	for _, w := range []*ova.Writer{ova.NewWriter(io.Discard, ova.WriterOptions{}), ova.NewWriterAt(formats.NewStream(io.Discard), ova.WriterOptions{})} {
		if _, err := lint.Fix(t.Context(), q, w, lint.FixOptions{}); !errors.As(err, &wrong) || wrong.Name != "blank-disk1.vmdk" {
			t.Errorf("%v", err)
		}
	}
	fix(t, q, filepath.Join(t.TempDir(), "out.ova"), lint.FixOptions{Damaged: true})
	// A digest up to the end of the stream is as right as one of the whole.
	p.mf = func(env string, m ...member) string {
		return manifest(env, member{m[0].name, m[0].data[:len(m[0].data)-700]})
	}
	out := filepath.Join(t.TempDir(), "out.ova")
	fix(t, p.open(t), out, lint.FixOptions{})
	if r := open(t, out); r.References[0].Size != int64(len(p.disk)-700) {
		t.Errorf("%+v", r.References)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := lint.Fix(ctx, q, ova.NewWriter(io.Discard, ova.WriterOptions{}), lint.FixOptions{}); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
}

func TestSigned(t *testing.T) {
	for name, k := range map[string]string{"old certificate goes": "", "signed anew": "key"} {
		p := good(t, disk(t))
		p.more = []member{{"blank.cert", []byte("x")}}
		p.mf = func(env string, m ...member) string { return manifest(env, m[0]) }
		var s *ovf.Signer
		if k != "" {
			s = signer(t)
		}
		out := filepath.Join(t.TempDir(), "out.ova")
		rep := fix(t, p.open(t), out, lint.FixOptions{Signer: s})
		v, err := open(t, out).Verify(t.Context(), ova.VerifyOptions{})
		must(t, err)
		if rep.Unsigned == (s != nil) || (v.Signature != nil) != (s != nil) || v.Err() != nil {
			t.Errorf("%s: %+v, %v", name, rep, v.Err())
		}
	}
}

func signer(t *testing.T) *ovf.Signer {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	must(t, err)
	x := &x509.Certificate{SerialNumber: big.NewInt(1), NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, x, x, key.Public(), key)
	must(t, err)
	text, err := x509.MarshalECPrivateKey(key)
	must(t, err)
	s, err := ovf.ReadSigner(pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: text}), pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}))
	must(t, err)
	return s
}
