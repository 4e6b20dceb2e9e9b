package vmdk_test

import (
	"bytes"
	"errors"
	"reflect"
	"strings"
	"testing"

	"tarvm/formats"
	"tarvm/formats/formatstest"
	"tarvm/formats/vmdk"
)

const plain = `# Disk DescriptorFile
version=1
encoding="UTF-8"
CID=8f67ca74
parentCID=0172e8a4
isNativeSnapshot="no"
createType="vmfsSparse"
parentFileNameHint="base disk.vmdk"

# Extent description
RW 4096 VMFSSPARSE "a disk-000001-delta.vmdk"
RDONLY 1000 FLAT "/vmfs/volumes/x/flat.vmdk" 63
NOACCESS 2000 ZERO

# Change Tracking File
changeTrackPath="a disk-000001-ctk.vmdk"

# The Disk Data Base
#DDB

ddb.adapterType = "lsilogic"
ddb.geometry.heads = "255"
ddb.longContentID = "0123456789abcdef012345678f67ca74"
`

var parsed = vmdk.Descriptor{
	Version: 1, Encoding: "UTF-8", CID: 0x8f67ca74, ParentCID: 0x0172e8a4, CreateType: "vmfsSparse",
	ParentFileNameHint: "base disk.vmdk", ChangeTrackPath: "a disk-000001-ctk.vmdk",
	Extents: []vmdk.Extent{
		{Access: "RW", Sectors: 4096, Type: "VMFSSPARSE", File: "a disk-000001-delta.vmdk"},
		{Access: "RDONLY", Sectors: 1000, Type: "FLAT", File: "/vmfs/volumes/x/flat.vmdk", Offset: 63},
		{Access: "NOACCESS", Sectors: 2000, Type: "ZERO"},
	},
	DDB:   map[string]string{"adaptertype": "lsilogic", "geometry.heads": "255", "longcontentid": "0123456789abcdef012345678f67ca74"},
	Other: map[string]string{"isnativesnapshot": "no"},
}

// Every dialect says the same.
func TestDialects(t *testing.T) {
	swap := func(pairs ...string) string {
		s := strings.NewReplacer(pairs...).Replace(plain)
		if s == plain {
			t.Fatalf("%q changes nothing", pairs)
		}
		return s
	}
	for name, text := range map[string]string{
		"plain":              plain,
		"CR LF":              swap("\n", "\r\n"),
		"trailing spaces":    swap("\n", " \t \n"),
		"leading spaces":     swap("\n", "\n  "),
		"upper case keys":    swap("version", "VERSION", "CID", "cid", "createType", "CREATETYPE", "parentFileNameHint", "ParentFilenameHint", "ddb.", "DDB."),
		"no quotes":          swap(`"vmfsSparse"`, "vmfsSparse", `"255"`, "255", `"UTF-8"`, "UTF-8", `"base disk.vmdk"`, "base disk.vmdk"),
		"spaces round =":     swap("=", " = "),
		"lower case extents": swap("RW 4096", "rw  4096", "FLAT", "flat", "ZERO", "\tzero"),
		"VirtualBox":         swap("DescriptorFile", "Descriptor File"),
		"spoilt signature":   swap("# Disk DescriptorFile", "#disk   descriptorfile  "),
		"comments first":     "\n\r\n# made by something\n" + plain,
		"byte order mark":    "\xEF\xBB\xBF" + plain,
		"NUL padding":        plain + strings.Repeat("\x00", 1000) + "garbage",
		"no last newline":    strings.TrimSuffix(plain, "\n"),
		"repeated keys":      plain + "CID=00000000\nddb.adapterType = \"ide\"\ncreateType=\"x\"\n",
		"unquoted extent":    swap(`"/vmfs/volumes/x/flat.vmdk"`, "/vmfs/volumes/x/flat.vmdk"),
		"partition's extent": swap(`flat.vmdk" 63`, `flat.vmdk" 63 partitionUUID "x=y"`),
	} {
		d, err := vmdk.ParseDescriptor([]byte(text))
		if err != nil {
			t.Errorf("%s: %v", name, err)
		} else if !reflect.DeepEqual(*d, parsed) {
			t.Errorf("%s: %+v", name, d)
		}
	}
	if got, want := parsed.Size(), int64(7096*512); got != want {
		t.Errorf("size %d, want %d", got, want)
	}
}

func TestNotADescriptor(t *testing.T) {
	for _, text := range []string{
		"", "#", "# Disk", "version=1\n# Disk DescriptorFile\n", "#!/bin/sh\nversion=1\n",
		"Disk DescriptorFile\n", strings.Repeat("#\n", 4096) + plain, "\x00# Disk DescriptorFile\n",
	} {
		if d, err := vmdk.ParseDescriptor([]byte(text)); !errors.Is(err, formats.ErrNotFormat) || d != nil {
			t.Errorf("%.40q: %+v, %v", text, d, err)
		}
	}
}

func TestDescriptorErrors(t *testing.T) {
	const start = "# Disk DescriptorFile\n"
	for _, c := range []struct{ line, says string }{
		{"CID=xyz", "hexadecimal"},
		{"parentCID=123456789", "hexadecimal"},
		{"version=one", "not a number"},
		{"version=-1", "not a number"},
		{"hello", "descriptor line"},
		{"RW", "descriptor line"},
		{"RW x SPARSE \"a\"", "number of sectors"},
		{"RW -1 SPARSE \"a\"", "number of sectors"},
		{"RW 9223372036854775807 SPARSE \"a\"", "number of sectors"},
		{"RW 18014398509481983 ZERO\nRW 1 ZERO", "sum up"},
		{"RW 1", "no type"},
		{"RW 1 SPARSE", "no file name"},
		{"RW 1 SPARSE \"a", "closing quote"},
		{"RW 1 FLAT \"a\" x", "number of sectors"},
		{strings.Repeat("x", 1000), `xxx"...`},
	} {
		d, err := vmdk.ParseDescriptor([]byte(start + c.line + "\n"))
		var fe *formats.FormatError
		if !errors.Is(err, formats.ErrCorrupt) || !errors.As(err, &fe) || !strings.Contains(err.Error(), c.says) || d != nil {
			t.Errorf("%.40s: %+v, %v, want %q", c.line, d, err, c.says)
			continue
		}
		if first, _, two := strings.Cut(c.line, "\n"); !two && fe.Offset != int64(len(start)) || two && fe.Offset != int64(len(start)+len(first)+1) {
			t.Errorf("%.40s: offset %d", c.line, fe.Offset)
		}
	}
	huge := []byte(start + strings.Repeat("#\n", vmdk.MaxDescriptor/2))
	if _, err := vmdk.ParseDescriptor(huge); !errors.Is(err, formats.ErrUnsupported) {
		t.Errorf("a huge descriptor: %v", err)
	}
	if _, err := vmdk.ReadDescriptor(bytes.NewReader(huge)); !errors.Is(err, formats.ErrUnsupported) {
		t.Errorf("a huge file: %v", err)
	}
}

func TestReadDescriptor(t *testing.T) {
	for name, want := range map[string]string{
		"split.vmdk": "twoGbMaxExtentSparse", "monolithicSparse.vmdk": "monolithicSparse", "streamOptimized.vmdk": "streamOptimized",
	} {
		d, err := vmdk.ReadDescriptor(bytes.NewReader(formatstest.Golden(t, name)))
		if err != nil || d.CreateType != want || len(d.Extents) != 1 || d.Size() != 8<<20 || d.ParentCID != vmdk.NoCID {
			t.Errorf("%s: %+v, %v", name, d, err)
		}
	}
	for name, b := range map[string][]byte{
		"extent of a split disk": formatstest.Golden(t, "split-s001.vmdk"),
		"COWD":                   cowd(1, 0, make([]byte, 512)),
		"empty":                  {},
		"other":                  []byte("hello"),
	} {
		if d, err := vmdk.ReadDescriptor(bytes.NewReader(b)); !errors.Is(err, formats.ErrNotFormat) || d != nil {
			t.Errorf("%s: %+v, %v", name, d, err)
		}
	}
	// An error in an embedded descriptor has its offset in the file.
	b := formatstest.Golden(t, "monolithicSparse.vmdk")
	i := bytes.Index(b, []byte("version=1"))
	b[i+8] = 'x'
	_, err := vmdk.ReadDescriptor(bytes.NewReader(b))
	var fe *formats.FormatError
	if !errors.As(err, &fe) || fe.Offset != int64(i) {
		t.Errorf("%v, want byte 0x%x", err, i)
	}
}

func TestDecodeName(t *testing.T) {
	for _, c := range []struct{ encoding, stored, want string }{
		{"UTF-8", "größe.vmdk", "größe.vmdk"},
		{"", "größe.vmdk", "größe.vmdk"},
		{"windows-1252", "gr\xf6\xdfe \x80 \x9f.vmdk", "größe € Ÿ.vmdk"},
		{"WINDOWS-1252", "gr\xf6\xdfe", "größe"},
		{"UTF-8", "gr\xf6\xdfe", "größe"},
		{"windows-1252", "plain.vmdk", "plain.vmdk"},
	} {
		d := vmdk.Descriptor{Encoding: c.encoding}
		if got := d.DecodeName(c.stored); got != c.want {
			t.Errorf("%s %q: %q, want %q", c.encoding, c.stored, got, c.want)
		}
	}
}

// FuzzDescriptor: line ends and trailing spaces do not matter, and what was
// parsed is consistent.
func FuzzDescriptor(f *testing.F) {
	f.Add([]byte(plain))
	f.Add([]byte(strings.ToUpper(plain)))
	f.Add(formatstest.Golden(f, "split.vmdk"))
	f.Add([]byte("\xEF\xBB\xBF#DiskDescriptorFile\rRW 1 ZERO\nRW = 7\nrw 1 x y 2 3"))
	f.Fuzz(func(t *testing.T, b []byte) {
		d, err := vmdk.ParseDescriptor(b)
		if err == nil != (d != nil) {
			t.Fatalf("%+v, %v", d, err)
		}
		if errors.Is(err, formats.ErrNotFormat) == vmdk.IsDescriptor(b) {
			t.Fatalf("%v, IsDescriptor %v", err, vmdk.IsDescriptor(b))
		}
		if err != nil {
			return
		}
		var size int64
		for _, e := range d.Extents {
			if e.Sectors < 0 || e.Offset < 0 || e.Type == "" || e.File == "" && e.Type != "ZERO" && !bytes.Contains(b, []byte(`""`)) {
				t.Fatalf("%+v", e)
			}
			size += e.Sectors.Bytes()
		}
		if size < 0 || size != d.Size() {
			t.Fatalf("size %d, extents %d", d.Size(), size)
		}
		if len(b) > 2000 {
			return // the signature must stay in its window
		}
		crlf := bytes.ReplaceAll(b, []byte("\n"), []byte(" \r\n"))
		d2, err := vmdk.ParseDescriptor(crlf)
		if err != nil || !reflect.DeepEqual(d, d2) {
			t.Fatalf("with CR LF %+v, %v, without %+v", d2, err, d)
		}
	})
}
