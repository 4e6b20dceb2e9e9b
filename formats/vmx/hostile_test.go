package vmx_test

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"
	"unicode/utf16"

	"tarvm/formats/formatstest"
	"tarvm/formats/machine"
	"tarvm/formats/machine/machinetest"
	"tarvm/formats/vmx"
)

// TestSyntax: the grammar of lines, and which of two keys counts.
func TestSyntax(t *testing.T) {
	for _, c := range []struct{ name, in, want string }{
		{"plain", "displayName = \"a\"\n", "a"},
		{"no spaces", "displayName=\"a\"\n", "a"},
		{"tabs", "\t displayName\t=\t\"a\"\t \n", "a"},
		{"comment", "displayName = \"a # b\" # c\n", "a # b"},
		{"comment with quotes", "displayName = \"a\"#\"b\"\n", "a"},
		{"commented out", "# displayName = \"a\"\n", ""},
		{"no quotes", "displayName = a\n", "a"},
		{"no quotes, comment", "displayName = a#b\n", "a"},
		{"no quotes, quotes within", "displayName = a\"b\"\n", "a\"b\""},
		{"nothing", "displayName =\n", ""},
		{"empty", "displayName = \"\"\n", ""},
		{"CRLF", "displayName = \"a\"\r\n", "a"},
		{"CR CR LF", "displayName = \"a\"\r\r\n", "a"},
		{"no end", "displayName = \"a\"", "a"},
		{"case", "DISPLAYNAME = \"a\"\n", "a"},
		{"escapes", "displayName = \"|22|7c|7C|0a|41\"\n", "\"||\nA"},
		{"broken escapes", "displayName = \"||2|g1|\"\n", "||2|g1|"},
		{"escape that is cut", "displayName = \"a|2\"\n", "a|2"},
		{"escaped UTF-8", "displayName = \"|C3|A4\"\n", "ä"},
		{"twice", "displayName = \"a\"\ndisplayname = \"b\"\n", "a"},
		{"windows-1252 said", ".encoding = \"windows-1252\"\ndisplayName = \"\x80\xe4\"\n", "€ä"},
		{"windows-1252 not said", "displayName = \"\x80\xe4\"\n", "€ä"},
		{"UTF-8 not said", "displayName = \"ä\"\n", "ä"},
		{"UTF-8 that is none", ".encoding = \"UTF-8\"\ndisplayName = \"a\xff\"\n", "a\uFFFD"},
		{"ISO-8859-1", ".encoding = \"ISO-8859-1\"\ndisplayName = \"\xe4\"\n", "ä"},
		{"ISO-8859-2", ".encoding = \"ISO-8859-2\"\ndisplayName = \"\xb9\"\n", "š"},
		{"Shift_JIS", ".encoding = \"Shift_JIS\"\ndisplayName = \"\x95\\\x83|7C\"\n", "表ポ"},
		{"GBK", ".encoding = \"GBK\"\ndisplayName = \"\xca\xfd\xbe\xdd\"\n", "数据"},
		{"Big5", ".encoding = \"Big5\"\ndisplayName = \"\xa4\xa4\"\n", "中"},
		{"EUC-KR", ".encoding = \"windows-949\"\ndisplayName = \"\xc7\xd1\"\n", "한"},
		{"unknown", ".encoding = \"x-unknown\"\ndisplayName = \"\xe4\"\n", "ä"},
		{"mark", "\xef\xbb\xbfdisplayName = \"ä\"\n", "ä"},
	} {
		t.Run(c.name, func(t *testing.T) {
			in := []byte(c.in + header)
			if !strings.HasSuffix(c.in, "\n") {
				in = []byte(header + c.in)
			}
			out := machinetest.CheckRoundTrip(t, vmx.Form{}, in)
			if !bytes.Equal(in, out) {
				t.Errorf("%q\nbecame\n%q", in, out)
			}
			if m := machinetest.Decode(t, vmx.Form{}, in); m.Name != c.want {
				t.Errorf("%q, want %q", m.Name, c.want)
			}
			if !(vmx.Form{}).Probe("x", in) {
				t.Error("not recognised")
			}
		})
	}
}

// TestEncodings: each name of an encoding is known, in VMware's spelling and in that of others.
func TestEncodings(t *testing.T) {
	for names, want := range map[string]string{
		"windows-1250 cp1250": "\x9a š", "windows-1251 CP1251": "\xff я", "windows-1253": "\xe1 α", "windows-1254 ISO-8859-9": "\xfe ş",
		"windows-1255": "\xe0 א", "windows-1256": "\xc7 ا", "windows-1257": "\xf0 š", "windows-1258": "\xf5 ơ", "windows-874 TIS-620": "\xa1 ก",
		"ISO-8859-2": "\xb1 ą", "ISO-8859-5": "\xef я", "ISO-8859-7": "\xe1 α", "ISO-8859-15": "\xa4 €", "KOI8-R": "\xd1 я", "US-ASCII": "a a",
		"GB18030": "\x81\x30\x86\x38 À", "windows-936 GB2312": "\xd6\xd0 中", "windows-950": "\xa4\xa4 中", "EUC-JP": "\xc9\xbd 表",
		"windows-932 x-sjis": "\x95\\ 表", "EUC-KR": "\xc7\xd1 한", "UTF8 UTF-8": "ä ä",
	} {
		raw, text, _ := strings.Cut(want, " ")
		for _, name := range strings.Fields(names) {
			in := ".encoding = \"" + name + "\"\n" + header + "displayName = \"" + raw + "\"\nannotation = \"x\"\n"
			m := machinetest.Decode(t, vmx.Form{}, []byte(in))
			if m.Name != text {
				t.Errorf("%s: %q, want %q", name, m.Name, text)
			}
			m.Notes = text
			out, _ := machinetest.Encode(t, vmx.Form{}, m, machine.EncodeOptions{})
			if want := strings.Replace(in, "\"x\"", "\""+raw+"\"", 1); string(out) != want {
				t.Errorf("%s: %q, want %q", name, out, want)
			}
		}
	}
}

func wide(s string, big bool) []byte {
	var b []byte
	for _, u := range utf16.Encode([]rune("\ufeff" + s)) {
		if big {
			b = append(b, byte(u>>8), byte(u))
		} else {
			b = append(b, byte(u), byte(u>>8))
		}
	}
	return b
}

func TestUTF16(t *testing.T) {
	for _, big := range []bool{false, true} {
		in := wide(".encoding = \"UTF-16\"\r\n"+header+"displayName = \"ä数😀\"\r\n", big)
		out := machinetest.CheckRoundTrip(t, vmx.Form{}, in)
		if !bytes.Equal(in, out) {
			t.Errorf("other bytes")
		}
		m := machinetest.Decode(t, vmx.Form{}, in)
		if m.Name != "ä数😀" {
			t.Errorf("%q", m.Name)
		}
		m.Name = "😀"
		out, _ = machinetest.Encode(t, vmx.Form{}, m, machine.EncodeOptions{})
		if want := wide(".encoding = \"UTF-16\"\r\n"+header+"displayName = \"😀\"\r\n", big); !bytes.Equal(out, want) {
			t.Errorf("changed:\n%q\nwant\n%q", out, want)
		}
		if !(vmx.Form{}).Probe("x", in) {
			t.Error("not recognised")
		}
		long := wide(header+strings.Repeat("# Ċ਀\n", 20000), big) // units that have the byte of a line's end
		if !(vmx.Form{}).Probe("x", long[:64<<10]) {
			t.Error("cut after 64 KiB: not recognised")
		}
	}
}

// TestErrors: what is refused, with the place.
func TestErrors(t *testing.T) {
	many := strings.Repeat("\n", 100_000)
	for _, c := range []struct {
		name, in string
		want     error
		says     string
	}{
		{"nothing", "", machine.ErrSyntax, "config.version"},
		{"no VMX", ".encoding = \"UTF-8\"\nsnapshot0.uid = \"1\"\n", machine.ErrSyntax, "config.version"},
		{"encrypted", ".encoding = \"UTF-8\"\nencryption.keySafe = \"x\"\nencryption.data = \"y\"\n", machine.ErrUnsupported, "encrypted"},
		{"XML", "<?xml version=\"1.0\"?>\n<a/>\n", machine.ErrSyntax, "line 1"},
		{"no value", header + "memsize\n", machine.ErrSyntax, "line 3: "},
		{"open quotes", header + "memsize = \"1\n", machine.ErrSyntax, "line 3: "},
		{"two values", header + "memsize = \"1\" \"2\"\n", machine.ErrSyntax, "line 3: "},
		{"two words", header + "displayName = My VM\n", machine.ErrSyntax, "line 3: "},
		{"no key", header + "= \"1\"\n", machine.ErrSyntax, "line 3: "},
		{"NUL", header + "displayName = \"\x00\"\n", machine.ErrSyntax, "line 3: a NUL byte"},
		{"memory in words", header + "memsize = \"lots\"\n", machine.ErrSyntax, `line 3: memsize: "lots" is no number`},
		{"negative memory", header + "memsize = \"-1\"\n", machine.ErrSyntax, "line 3: memsize: -1 is not between"},
		{"huge memory", header + "memsize = \"9223372036854775807\"\n", machine.ErrSyntax, "memsize"},
		{"more than 64 bits", header + "memsize = \"99999999999999999999\"\n", machine.ErrSyntax, "is no number"},
		{"huge count", header + "numvcpus = \"4294967297\"\n", machine.ErrSyntax, "numvcpus"},
		{"grouped", header + "numvcpus = \"1_0\"\n", machine.ErrSyntax, "is no number"},
		{"UUID", header + "uuid.bios = \"56 4d\"\n", machine.ErrSyntax, "uuid.bios"},
		{"UUID of letters", header + "uuid.bios = \"zz 4d ad 58 06 29 d3 e6-ec fe 8f f8 39 c5 e3 5d\"\n", machine.ErrSyntax, "uuid.bios"},
		{"generation", header + "vm.genid = \"1\"\nvm.genidX = \"9223372036854775808\"\n", machine.ErrSyntax, "vm.genidX"},
		{"MAC", header + "ethernet0.present = \"TRUE\"\nethernet0.generatedAddress = \"00:0c:29:zz:00:00\"\n", machine.ErrSyntax, "line 4: ethernet0.generatedAddress"},
		{"firmware", header + "firmware = \"openboot\"\n", machine.ErrSyntax, "openboot"},
		{"odd UTF-16", "\xff\xfea", machine.ErrSyntax, "UTF-16"},
		{"half a pair", "\xff\xfe\x3d\xd8", machine.ErrSyntax, "UTF-16"},
		{"no pair", "\xff\xfe\x3d\xd8a\x00", machine.ErrSyntax, "UTF-16"},
		{"lines", header + many, machine.ErrUnsupported, "100002 lines"},
		{"size", header + strings.Repeat("#", machine.MaxConfig), machine.ErrUnsupported, "limit 8388608"},
	} {
		t.Run(c.name, func(t *testing.T) {
			m, err := vmx.Form{}.Decode([]byte(c.in))
			var s *machine.SyntaxError
			if m != nil || !errors.Is(err, c.want) || !errors.As(err, &s) || s.Form != "vmx" || !strings.Contains(err.Error(), c.says) {
				t.Errorf("%v, want %v, %q", err, c.want, c.says)
			}
		})
	}
}

// TestProbe: other files of VMware's have the same syntax.
func TestProbe(t *testing.T) {
	for _, c := range []struct {
		name, in string
		want     bool
	}{
		{"a.vmx", header, true},
		{"a", header, true},
		{"a.vmtx", header, true},
		{"a.vmx", header + strings.Repeat("a = \"b\"\n", 10000), true},
		{"a.vmx", ".encoding = \"UTF-8\"\nencryption.data = \"x\"\n", true},
		{"a.vmsd", ".encoding = \"UTF-8\"\nsnapshot.lastUID = \"1\"\n", false},
		{"a.vmx", "", false},
		{"a.vmx", "not a configuration", false},
		{"a.vmxf", "<?xml version=\"1.0\"?>\n<Foundry>\n", false},
		{"a.vmdk", "# Disk DescriptorFile\nversion=1\nCID=fffffffe\n", false},
		{"a.cfg", "name = \"x\"\nmemory = 512\n", false},
		{"a.vmx", "KDMV\x00\x00", false},
	} {
		if got := (vmx.Form{}).Probe(c.name, []byte(c.in)[:min(len(c.in), 64<<10)]); got != c.want {
			t.Errorf("%s %.30q: %v", c.name, c.in, got)
		}
	}
}

// TestTruncated: a file that is cut anywhere gives an error or a machine, which survives the way back.
func TestTruncated(t *testing.T) {
	for _, name := range []string{"esx", "hosted"} {
		b, err := os.ReadFile(filepath.Join("testdata", name+".vmx"))
		if err != nil {
			t.Fatal(err)
		}
		for n := range b {
			m, err := vmx.Form{}.Decode(b[:n])
			if err != nil {
				if !errors.Is(err, machine.ErrSyntax) {
					t.Fatalf("cut at %d: %v", n, err)
				}
				continue
			}
			out, _, err := vmx.Form{}.Encode(m, machine.EncodeOptions{})
			if err != nil || !bytes.Equal(out, b[:n]) {
				t.Fatalf("cut at %d: %v\n%q", n, err, out)
			}
		}
	}
}

// TestBounded: the largest files take little time and memory.
func TestBounded(t *testing.T) {
	formatstest.OneGoroutine(t)
	if testing.Short() {
		t.Skip("-short")
	}
	key := func(i int) string { return "k" + string(rune('a'+i%26)) + strings.Repeat("x", i%40) }
	var many strings.Builder
	many.WriteString(header)
	for i := range 99_000 {
		many.WriteString(key(i) + ".v = \"\"\n")
	}
	for name, in := range map[string]string{
		"one value":   header + "annotation = \"" + strings.Repeat("|41", machine.MaxConfig/3-100) + "\"\n",
		"many keys":   many.String(),
		"one key":     header + strings.Repeat("scsi0:0.present = \"TRUE\"\n", 99_000),
		"all devices": header + strings.Repeat("ethernet0.present = \"TRUE\"\n", 1000) + strings.Repeat("x", 100) + " = \"\"\n",
	} {
		t.Run(name, func(t *testing.T) {
			var before, after runtime.MemStats
			runtime.ReadMemStats(&before)
			start := time.Now()
			m, err := vmx.Form{}.Decode([]byte(in))
			if err != nil {
				t.Fatal(err)
			}
			m.Name = "x"
			for i := range 30 {
				m.Drives = append(m.Drives, machine.Drive{Kind: machine.Disk, At: at(machine.SATA, 0, i), Media: machine.Media{Path: "x"}})
			}
			if _, _, err := (vmx.Form{}).Encode(m, machine.EncodeOptions{}); err != nil {
				t.Fatal(err)
			}
			runtime.ReadMemStats(&after)
			if d := time.Since(start); d > 10*time.Second {
				t.Errorf("%s", d)
			}
			if n := after.TotalAlloc - before.TotalAlloc; n > 512<<20 {
				t.Errorf("%d MiB allocated", n>>20)
			}
		})
	}
}

// seeds are the corpus where it is, and the files of this package.
func seeds(f testing.TB) [][]byte {
	list := [][]byte{
		[]byte(header), []byte(header + lines(disk+"scsi0:1.mode undoable")), []byte(header + "displayName = \"\xe4|22\" # x\r\ndisplayname = y\n"),
		wide(header+"displayName = \"ä\"\n", true),
	}
	names, err := filepath.Glob("testdata/*.vmx")
	if err != nil || len(names) == 0 {
		f.Fatal("no seeds in testdata", err)
	}
	more, _ := filepath.Glob("../../../shared/corpus/ovf/*/*.vmx")
	for _, name := range append(names, more...) {
		b, err := os.ReadFile(name)
		if err != nil {
			f.Fatal(err)
		}
		list = append(list, b)
	}
	return list
}

func FuzzDecode(f *testing.F) { machinetest.Fuzz(f, vmx.Form{}, seeds(f)...) }

func TestEdits(t *testing.T) {
	machinetest.Edits(t, func(t *testing.T, b []byte) {
		machinetest.Survive(t, vmx.Form{}, b)
		machinetest.Anew(t, vmx.Form{}, b)
		changed(t, b, uint8(len(b)), "näme", 512)
	}, seeds(t)...)
}

// FuzzFresh: what is written anew says, when read, what it says when written again.
func FuzzFresh(f *testing.F) {
	for _, s := range seeds(f) {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, b []byte) { machinetest.Anew(t, vmx.Form{}, b) })
}

// FuzzChange: of a machine that was changed, the file says all of it.
func FuzzChange(f *testing.F) {
	for i, s := range seeds(f) {
		f.Add(s, uint8(i), "näme", uint16(512))
	}
	f.Fuzz(changed)
}

func changed(t *testing.T, b []byte, which uint8, name string, mib uint16) {
	m, err := vmx.Form{}.Decode(b)
	if err != nil {
		return
	}
	if strings.Contains(string(b), "encoding") {
		name = "x" // some have no bytes for it
	}
	m.Name, m.Notes = strings.ToValidUTF8(name, ""), strings.ReplaceAll(strings.ToValidUTF8(name, ""), "\r", "")
	m.Memory.Bytes = int64(mib) << 20
	if n := len(m.Drives); n > 0 && which&1 > 0 {
		m.Drives = slices.Delete(m.Drives, int(which)%n, int(which)%n+1)
		m.Boot = nil
	}
	if n := len(m.NICs); n > 0 && which&2 > 0 {
		m.NICs[0].Kind, m.NICs[0].Network, m.NICs[0].MAC, m.NICs[0].Generated = machine.NAT, "", "00:50:56:00:00:01", false
	}
	if len(m.Drives) > 0 && which&4 > 0 {
		d := &m.Drives[int(which)%len(m.Drives)]
		d.Media = machine.Media{Path: "other.vmdk"}
		if d.Kind == machine.LUN {
			d.Media = machine.Media{Host: "/dev/sg0"}
		}
	}
	if which&8 > 0 && m.DriveAt(at(machine.SATA, 0, 1)) == nil && m.Controller(machine.SATA, 0) != nil {
		m.Drives = append(m.Drives, machine.Drive{Kind: machine.Optical, At: at(machine.SATA, 0, 1), Media: machine.Media{Path: "a.iso"}})
	}
	for i := range m.Drives {
		m.Drives[i].Boot = 0
	}
	out, _, err := vmx.Form{}.Encode(m, machine.EncodeOptions{})
	if err != nil {
		t.Fatal(err)
	}
	m2, err := vmx.Form{}.Decode(out)
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	for _, d := range machine.Difference(sorted(m), sorted(m2)) {
		t.Errorf("%s\n%s\nbecame\n%s", d, b, out)
	}
}
