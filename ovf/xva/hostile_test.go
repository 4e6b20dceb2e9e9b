package xva_test

import (
	"archive/tar"
	"bytes"
	"context"
	"crypto/sha1"
	"encoding/hex"
	"encoding/xml"
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/cespare/xxhash/v2"

	"tarvm/formats"
	"tarvm/formats/formatstest"
	"tarvm/formats/machine"
	"tarvm/formats/machine/machinetest"
	"tarvm/ovf/xva"
)

// A decoder is encoding/xml's, one event at a time.
type decoder struct {
	d          *xml.Decoder
	name, text string
	end        bool
}

func newDecoder(b []byte) *decoder { return &decoder{d: xml.NewDecoder(bytes.NewReader(b))} }

func (d *decoder) next() bool {
	t, err := d.d.Token()
	d.name, d.text, d.end = "", "", false
	switch t := t.(type) {
	case xml.StartElement:
		d.name = t.Name.Local
	case xml.EndElement:
		d.end = true
	case xml.CharData:
		d.text = string(t)
	}
	return err == nil
}

// build makes an archive of an ova.xml and members.
func build(ova []byte, members ...member) []byte {
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	put := func(name string, data []byte) {
		if err := w.WriteHeader(&tar.Header{Name: name, Size: int64(len(data)), Mode: 0o644, Format: tar.FormatUSTAR, Typeflag: tar.TypeReg}); err != nil {
			panic(err)
		}
		if _, err := w.Write(data); err != nil {
			panic(err)
		}
	}
	if ova != nil {
		put("ova.xml", ova)
	}
	for _, m := range members {
		put(m.name, m.data)
	}
	if err := w.Close(); err != nil {
		panic(err)
	}
	return b.Bytes()
}

// xx and sha are a block with its digest.
func xx(name string, data []byte) []member {
	return []member{{name, data}, {name + ".xxhash", []byte(fmt.Sprintf("%016X", xxhash.Sum64(data)))}}
}

func sha(name string, data []byte) []member {
	s := sha1.Sum(data)
	return []member{{name, data}, {name + ".checksum", []byte(hex.EncodeToString(s[:]))}}
}

func fill(n int, c byte) []byte { return bytes.Repeat([]byte{c}, n) }

// oldBlocks are those of testdata/xenserver-5.5.xml.
func oldBlocks() []member {
	var out []member
	out = append(out, sha("Ref:7/00000000", fill(1<<20, 'a'))...)
	out = append(out, sha("Ref:7/00000002", fill(1<<20, 'c'))...)
	out = append(out, sha("Ref:7/00000003", fill(512, 'd'))...)
	out = append(out, sha("Ref:8/00000000", fill(1<<20, 'e'))...)
	out = append(out, sha("Ref:21/00000000", fill(1<<20, 'f'))...)
	return append(out, sha("Ref:30/00000000", fill(1<<20, 'g'))...)
}

// doc is an ova.xml with one disk, Ref:2, of size bytes.
func doc(size string) []byte {
	return []byte(`<value><struct><member><name>version</name><value><struct><member><name>export_vsn</name><value>2</value></member></struct></value></member>
<member><name>objects</name><value><array><data>` +
		object("VM", "Ref:0", "name_label", "x", "VCPUs_max", "1", "memory_static_max", "1048576") +
		object("VBD", "Ref:1", "VM", "Ref:0", "VDI", "Ref:2", "userdevice", "0", "type", "Disk") +
		object("VDI", "Ref:2", "name_label", "d", "virtual_size", size) +
		`</data></array></value></member></struct></value>`)
}

func object(class, id string, fields ...string) string {
	s := `<value><struct><member><name>class</name><value>` + class + `</value></member><member><name>id</name><value>` + id +
		`</value></member><member><name>snapshot</name><value><struct>`
	for i := 0; i < len(fields); i += 2 {
		s += `<member><name>` + fields[i] + `</name><value>` + fields[i+1] + `</value></member>`
	}
	return s + `</struct></value></member></struct></value>`
}

func join(list ...[]member) []member {
	var out []member
	for _, l := range list {
		out = append(out, l...)
	}
	return out
}

// Forms of blocks that xapi reads, by its rules.
func TestLayouts(t *testing.T) {
	const mib = 1 << 16 // what a block has here
	for name, c := range map[string]struct {
		size     int
		members  []member
		want     []byte
		problems string
	}{
		"sparse":       {4 * mib, join(xx("Ref:2/00000000", fill(mib, 1)), xx("Ref:2/00000003", fill(mib, 2))), cat(fill(mib, 1), fill(2*mib, 0), fill(mib, 2)), ""},
		"lower case":   {mib, []member{{"Ref:2/00000000", fill(mib, 1)}, {"Ref:2/00000000.xxhash", []byte(fmt.Sprintf("%016x\n", xxhash.Sum64(fill(mib, 1))))}}, fill(mib, 1), ""},
		"short last":   {mib + 5, join(xx("Ref:2/00000000", fill(mib, 1)), xx("Ref:2/00000001", fill(5, 2))), cat(fill(mib, 1), fill(5, 2)), ""},
		"padded last":  {mib + 5, join(xx("Ref:2/00000000", fill(mib, 1)), xx("Ref:2/00000001", fill(mib, 2))), cat(fill(mib, 1), fill(5, 2)), ""},
		"other size":   {350, join(sha("Ref:2/00000000", fill(100, 1)), sha("Ref:2/00000002", fill(100, 2)), sha("Ref:2/00000003", fill(50, 3))), cat(fill(100, 1), fill(100, 0), fill(100, 2), fill(50, 3)), ""},
		"keep-alive":   {3 * mib, join(xx("Ref:2/00000000", fill(mib, 1)), xx("Ref:2/00000001", nil), xx("Ref:2/00000002", fill(mib, 2)), xx("Ref:2/00000003", fill(mib, 3))), cat(fill(mib, 1), fill(mib, 2), fill(mib, 3)), ""},
		"dots":         {mib, join(xx("./Ref:2/00000000", fill(mib, 1))), fill(mib, 1), ""},
		"apart":        {2 * mib, join(xx("Ref:2/00000000", fill(mib, 1))[:1], xx("Ref:2/00000001", fill(mib, 2)), xx("Ref:2/00000000", fill(mib, 1))[1:]), cat(fill(mib, 1), fill(mib, 2)), ""},
		"not in order": {2 * mib, join(xx("Ref:2/00000001", fill(mib, 2)), xx("Ref:2/00000000", fill(mib, 1))), cat(fill(mib, 1), fill(mib, 2)), "not in order"},
		"no digests":   {mib, []member{{"Ref:2/00000000", fill(mib, 1)}}, fill(mib, 1), "1 of 1 have no digest"},
		"cut short":    {3 * mib, xx("Ref:2/00000000", fill(mib, 1)), cat(fill(mib, 1), fill(2*mib, 0)), "cut short"},
		"no blocks":    {1 << 20, nil, fill(1<<20, 0), "none of its blocks"},
		"stray":        {mib, join(xx("Ref:2/00000000", fill(mib, 1)), xx("Ref:9/00000000", fill(mib, 1)), []member{{"README", nil}}), fill(mib, 1), "Ref:9"},
		"size unsaid":  {0, join(xx("Ref:2/00000000", fill(mib, 1)), xx("Ref:2/00000001", fill(7, 1))), fill(mib+7, 1), "not said"},
		"table": {2 * 50, []member{
			{"Ref:2/00000000", fill(50, 1)}, {"Ref:2/00000001", fill(50, 2)},
			{"checksum.xml", []byte("<value><struct>" + sum("Ref:2/00000000", fill(50, 1)) + sum("Ref:2/00000001", fill(50, 2)) + "</struct></value>")},
		}, cat(fill(50, 1), fill(50, 2)), ""},
	} {
		t.Run(name, func(t *testing.T) {
			p := open(t, build(doc(fmt.Sprint(c.size)), c.members...))
			if len(p.Disks) != 1 {
				t.Fatalf("%d disks", len(p.Disks))
			}
			formatstest.CheckDisk(t, p.Disks[0].Content, bytes.NewReader(c.want))
			if c.problems == "" {
				verify(t, p)
			} else if !strings.Contains(fmt.Sprint(p.Problems), c.problems) {
				t.Errorf("problems %v", p.Problems)
			}
		})
	}
}

func sum(name string, b []byte) string {
	s := sha1.Sum(b)
	return "<member><name>" + name + "</name><value>" + hex.EncodeToString(s[:]) + "</value></member>"
}

func cat(parts ...[]byte) []byte { return bytes.Join(parts, nil) }

// A digest that is wrong is found by reading and by Verify, for each kind of digest.
func TestWrongDigest(t *testing.T) {
	for name, members := range map[string][]member{
		"xxhash": xx("Ref:2/00000000", fill(4096, 1)), "sha1": sha("Ref:2/00000000", fill(4096, 1)),
		"table": {{"Ref:2/00000000", fill(4096, 1)}, {"checksum.xml", []byte("<value><struct>" + sum("Ref:2/00000000", fill(4096, 1)) + "</struct></value>")}},
	} {
		members[0].data = fill(4096, 1)
		members[0].data[1000] ^= 1
		p := open(t, build(doc("4096"), members...))
		var b [10]byte
		_, err := p.Disks[0].Content.ReadAt(b[:], 20)
		if !errors.Is(err, formats.ErrCorrupt) || !strings.Contains(err.Error(), "Ref:2/00000000") {
			t.Errorf("%s: %v", name, err)
		}
		var found []formats.Problem
		if err := p.Verify(context.Background(), func(pr formats.Problem) { found = append(found, pr) }, nil); err != nil || len(found) != 1 ||
			found[0].Guest != 0 || found[0].Length != 4096 || found[0].Severity != formats.Risk {
			t.Errorf("%s: %v, %v", name, found, err)
		}
		var e *formats.FormatError
		if !errors.As(err, &e) || e.Format != "xva" || e.Offset < 512 {
			t.Errorf("%s: %+v", name, e)
		}
	}
}

func TestHostileArchives(t *testing.T) {
	good := xx("Ref:2/00000000", fill(4096, 1))
	link := func(kind byte, name, to string) []byte {
		var b bytes.Buffer
		w := tar.NewWriter(&b)
		if err := w.WriteHeader(&tar.Header{Name: name, Typeflag: kind, Linkname: to}); err != nil {
			panic(err)
		}
		if err := w.Flush(); err != nil {
			panic(err)
		}
		return append(b.Bytes(), build(doc("4096"), good...)...)
	}
	whole := build(doc("4096"), good...)
	for name, c := range map[string]struct {
		b    []byte
		want error
		says string
	}{
		"empty":                 {nil, formats.ErrNotFormat, ""},
		"zeros":                 {make([]byte, 4096), formats.ErrNotFormat, "no ova.xml"},
		"text":                  {fill(4096, 'x'), formats.ErrNotFormat, ""},
		"no ova.xml":            {build(nil, good...), formats.ErrNotFormat, "no ova.xml"},
		"two ova.xml":           {build(doc("4096"), member{"ova.xml", doc("4096")}), formats.ErrCorrupt, "twice"},
		"big ova.xml":           {build(make([]byte, machine.MaxConfig+1)), machine.ErrUnsupported, "limit"},
		"symlink":               {link(tar.TypeSymlink, "ova.xml", "/etc/passwd"), formats.ErrCorrupt, "no plain file"},
		"hard link":             {link(tar.TypeLink, "Ref:2/00000000", "ova.xml"), formats.ErrCorrupt, "no plain file"},
		"device":                {link(tar.TypeChar, "x", ""), formats.ErrCorrupt, "no plain file"},
		"block twice":           {build(doc("8192"), join(good, xx("Ref:2/00000000", fill(4096, 2)))...), formats.ErrCorrupt, "twice"},
		"same number, 9 digits": {build(doc("8192"), join(good, xx("Ref:2/000000000", fill(4096, 2)))...), formats.ErrCorrupt, "twice"},
		"digest twice":          {build(doc("4096"), join(good, good[1:])...), nil, ""},
		"digest thrice":         {build(doc("4096"), join(good, good[1:], good[1:])...), formats.ErrCorrupt, "twice"},
		"digest of 3 bytes":     {build(doc("4096"), good[0], member{"Ref:2/00000000.xxhash", []byte("abc")}), formats.ErrCorrupt, "has 3 bytes"},
		"behind the disk":       {build(doc("4096"), join(good, xx("Ref:2/00000001", fill(4096, 2)))...), formats.ErrCorrupt, "behind the disk"},
		"two behind":            {build(doc("100"), join(xx("Ref:2/00000000", fill(4096, 2)), xx("Ref:2/00000001", fill(4096, 2)))...), formats.ErrCorrupt, "behind the disk"},
		"far behind":            {build(doc("4096"), join(good, xx("Ref:2/999999999999", fill(4096, 2)))...), formats.ErrCorrupt, "behind any disk"},
		"number of 30 digits":   {build(doc("4096"), join(good, xx("Ref:2/"+strings.Repeat("9", 30), fill(4096, 2)))...), nil, ""},
		"huge disk":             {build(doc("70368744177665")), machine.ErrSyntax, "virtual_size"},
		"negative disk":         {build(doc("-1")), machine.ErrSyntax, "virtual_size"},
		"size in words":         {build(doc("4 GiB"), good...), machine.ErrSyntax, "virtual_size"},
		"64 TiB":                {build(doc("70368744177664"), good...), nil, ""},
		"cut in a block":        {whole[:len(whole)-1024-1024-2000], formats.ErrCorrupt, "middle"},
		"cut in a header":       {whole[:len(whole)-1024-1024-300], formats.ErrCorrupt, "middle"},
		"header of nonsense":    {cat(whole[:len(whole)-1024-1024], fill(1024, 'x')), formats.ErrCorrupt, "header"},
	} {
		p, err := xva.Open(bytes.NewReader(c.b))
		if c.want == nil {
			if err != nil {
				t.Errorf("%s: %v", name, err)
			} else {
				formatstest.CheckExtents(t, p.Disks[0].Content)
			}
			continue
		}
		if !errors.Is(err, c.want) || !strings.Contains(fmt.Sprint(err), c.says) {
			t.Errorf("%s: %v, want %v", name, err, c.want)
		}
	}
}

// However short an archive is cut, nothing else than an error or a report comes of it.
func TestTruncated(t *testing.T) {
	whole := build(doc("12288"), join(xx("Ref:2/00000000", fill(4096, 1)), xx("Ref:2/00000001", fill(4096, 1)), xx("Ref:2/00000002", fill(4096, 1)))...)
	end := len(whole) - 1024
	for n := 0; n < end; n += 256 {
		p, err := xva.Open(bytes.NewReader(whole[:n]))
		if err == nil && len(p.Problems) == 0 && n < end-1024 { // all but the last digest is there
			t.Errorf("%d of %d bytes are whole", n, end)
		}
		if err != nil && !errors.Is(err, formats.ErrCorrupt) && !errors.Is(err, formats.ErrNotFormat) {
			t.Errorf("%d bytes: %v", n, err)
		}
	}
}

func TestHostileXML(t *testing.T) {
	g := string(doc("4096"))
	deep := strings.Repeat("<value><array><data>", 100_000)
	for name, c := range map[string]struct {
		b    string
		want error
	}{
		"empty":               {"", machine.ErrSyntax},
		"no XML":              {"ova", machine.ErrSyntax},
		"entities":            {`<!DOCTYPE v [<!ENTITY a "aaaa"><!ENTITY b "&a;&a;">]>` + g, machine.ErrUnsupported},
		"external entity":     {`<!DOCTYPE v SYSTEM "file:///etc/passwd">` + g, machine.ErrUnsupported},
		"deep":                {deep, machine.ErrSyntax},
		"junk behind":         {g + "<value/>", machine.ErrSyntax},
		"XenServer 3":         {`<appliance version="0.1"><vm name="x"/></appliance>`, machine.ErrUnsupported},
		"other root":          {`<Envelope/>`, machine.ErrSyntax},
		"text":                {`<value>x</value>`, machine.ErrSyntax},
		"no objects":          {`<value><struct/></value>`, machine.ErrSyntax},
		"objects a text":      {`<value><struct><member><name>objects</name><value>x</value></member></struct></value>`, machine.ErrSyntax},
		"no VM":               {strings.Replace(g, ">VM<", ">VX<", 1), machine.ErrSyntax},
		"id twice":            {strings.Replace(g, "Ref:1", "Ref:0", 1), machine.ErrSyntax},
		"no id":               {strings.Replace(g, "<value>Ref:1</value>", "<value></value>", 1), machine.ErrSyntax},
		"field twice":         {strings.Replace(g, "VCPUs_max", "memory_static_max", 1), machine.ErrSyntax},
		"later export":        {strings.Replace(g, "<value>2</value>", "<value>3</value>", 1), machine.ErrUnsupported},
		"no number":           {strings.Replace(g, ">1048576<", ">lots<", 1), machine.ErrSyntax},
		"unit":                {strings.Replace(g, ">1048576<", ">1 GiB<", 1), machine.ErrSyntax},
		"negative":            {strings.Replace(g, ">1048576<", ">-5<", 1), machine.ErrSyntax},
		"huge":                {strings.Replace(g, ">1048576<", ">999999999999999999999999<", 1), machine.ErrSyntax},
		"unknown type":        {strings.Replace(g, "<value>1</value>", "<value><blob>1</blob></value>", 1), machine.ErrSyntax},
		"two in a value":      {strings.Replace(g, "<value>1</value>", "<value><int>1</int><int>2</int></value>", 1), machine.ErrSyntax},
		"mixed":               {strings.Replace(g, "<value>1</value>", "<value>x<int>1</int></value>", 1), machine.ErrSyntax},
		"member of three":     {strings.Replace(g, "<name>name_label</name>", "<name>name_label</name><name>b</name>", 1), machine.ErrSyntax},
		"element in a number": {strings.Replace(g, "<value>1</value>", "<value><int><b/></int></value>", 1), machine.ErrSyntax},
		"array of texts":      {strings.Replace(g, "<value>1</value>", "<value><array>x</array></value>", 1), machine.ErrSyntax},
		"two drives": {strings.Replace(g, `<value><struct><member><name>class</name><value>VDI`,
			object("VBD", "Ref:9", "VM", "Ref:0", "userdevice", "xvda", "type", "CD")+`<value><struct><member><name>class</name><value>VDI`, 1), machine.ErrSyntax},
	} {
		_, err := xva.Config{}.Decode([]byte(c.b))
		var s *machine.SyntaxError
		if !errors.Is(err, c.want) || !errors.As(err, &s) || s.Form != "xva" {
			t.Errorf("%s: %v, want %v", name, err, c.want)
		}
	}
	// The unchanged one is read, also in other encodings, so that the changes above are what is refused.
	wide := []byte{0xff, 0xfe}
	for _, r := range g {
		wide = append(wide, byte(r), byte(r>>8))
	}
	for _, b := range [][]byte{[]byte(g), wide, []byte(`<?xml version="1.0" encoding="ISO-8859-1"?>` + strings.Replace(g, ">x<", ">\xfc<", 1))} {
		m := machinetest.Decode(t, xva.Config{}, b)
		if m.Name != "x" && m.Name != "ü" {
			t.Errorf("name %q", m.Name)
		}
		if !(xva.Config{}).Probe("ova.xml", b) {
			t.Error("not recognised")
		}
	}
	if (xva.Config{}).Probe("ova.xml", []byte("<domain/>")) {
		t.Error("a libvirt domain is recognised")
	}
}

// References that lead nowhere, devices that are not said, and strange names.
func TestOddities(t *testing.T) {
	b := strings.Replace(string(doc("4096")), "</data>",
		object("VBD", "Ref:20", "VM", "Ref:0", "VDI", "Ref:404", "userdevice", "autodetect", "type", "Disk")+
			object("VBD", "Ref:21", "VM", "Ref:0", "VDI", "OpaqueRef:NULL", "device", "xvdab", "type", "CD", "empty", "1")+
			object("VBD", "Ref:22", "VM", "Ref:0", "userdevice", "0", "type", "Floppy")+
			object("VIF", "Ref:23", "VM", "Ref:0", "network", "Ref:404", "MAC", "nonsense", "MAC_autogenerated", "1")+
			object("VTPM", "Ref:24", "VM", "Ref:0")+"</data>", 1)
	m := machinetest.Decode(t, xva.Config{}, []byte(b))
	var got []string
	for _, d := range m.Drives {
		got = append(got, string(d.Kind)+" "+d.At.String())
	}
	if want := "[disk xen0:0 disk xen0:1 cdrom xen0:27 floppy fdc0:0]"; fmt.Sprint(got) != want {
		t.Errorf("%v, want %s", got, want)
	}
	if n := m.NICs[0]; n.Kind != machine.NoNet || n.MAC != "" || n.Generated || m.TPM == nil {
		t.Errorf("%+v %+v", n, m.TPM)
	}
	machinetest.CheckRoundTrip(t, xva.Config{}, []byte(b))
}

func FuzzConfig(f *testing.F) { machinetest.Fuzz(f, xva.Config{}, configs(f)...) }

func TestEdits(t *testing.T) {
	machinetest.Edits(t, func(t *testing.T, b []byte) { machinetest.Survive(t, xva.Config{}, b) }, configs(t)...)
}

func configs(f testing.TB) [][]byte {
	seeds := [][]byte{doc("4096"), handmade(f)}
	b, _, err := xva.Config{}.Encode(full(), machine.EncodeOptions{})
	if err != nil {
		f.Fatal(err)
	}
	return append(seeds, b, ova(f, "testdata/xo-three.xva.gz"))
}

// Whatever opens maps its disks in one piece, reads the same in parts, and can be written again.
func FuzzOpen(f *testing.F) {
	f.Add(build(doc("300"), join(xx("Ref:2/00000000", fill(100, 1)), xx("Ref:2/00000002", fill(100, 2)))...))
	f.Add(build(doc("0"), join(sha("Ref:2/00000000", fill(100, 1)), xx("Ref:2/00000001", nil), sha("Ref:2/00000002", fill(10, 2)))...))
	f.Add(build(handmade(f), sha("Ref:7/00000000", fill(100, 1))...))
	f.Fuzz(func(t *testing.T, b []byte) {
		xva.Probe(b)
		p, err := xva.Open(bytes.NewReader(b))
		if err != nil {
			return
		}
		for _, d := range append(p.Disks, p.Others...) {
			if d.Content.Size() > 1<<30 {
				continue
			}
			formatstest.CheckExtents(t, d.Content)
			if d.Content.Size() > 1<<20 {
				continue
			}
			one, two := make([]byte, d.Content.Size()), make([]byte, d.Content.Size())
			_, err1 := readAll(d.Content, one, len(one))
			_, err2 := readAll(d.Content, two, 77)
			if (err1 == nil) != (err2 == nil) || err1 == nil && !bytes.Equal(one, two) {
				t.Fatalf("%v in one piece, %v in parts", err1, err2)
			}
		}
		verified := true
		if err := p.Verify(context.Background(), func(formats.Problem) { verified = false }, nil); err != nil {
			t.Fatal(err)
		}
		total := int64(0)
		for _, d := range p.Disks {
			total += d.Content.Size()
		}
		if total > 8<<20 || !verified {
			return
		}
		var out bytes.Buffer
		if _, err := xva.Write(context.Background(), &out, p.Machine, p.Disks, xva.Options{}); err != nil {
			if errors.Is(err, machine.ErrUnsupported) || errors.Is(err, machine.ErrSyntax) || strings.Contains(err.Error(), "tar") {
				return
			}
			t.Fatal(err)
		}
		q, err := xva.Open(bytes.NewReader(out.Bytes()))
		if err != nil || len(q.Disks) != len(p.Disks) {
			t.Fatalf("what was written does not open, or has other disks: %v", err)
		}
		for i, d := range p.Disks {
			was, is := make([]byte, d.Content.Size()), make([]byte, q.Disks[i].Content.Size())
			if _, err := readAll(d.Content, was, len(was)); err != nil {
				t.Fatal(err)
			}
			if _, err := readAll(q.Disks[i].Content, is, len(is)); err != nil {
				t.Fatal(err)
			}
			// A disk is padded to whole blocks.
			if len(is) < len(was) || !bytes.Equal(is[:len(was)], was) || !formats.IsZero(is[len(was):]) {
				t.Fatalf("disk %d has other bytes", i)
			}
		}
	})
}

func readAll(d formats.Disk, b []byte, step int) (int, error) {
	for off := 0; off < len(b); off += step {
		end := min(off+step, len(b))
		if n, err := d.ReadAt(b[off:end], int64(off)); n < end-off {
			return off, err
		}
	}
	return len(b), nil
}

func FuzzOVMFVariables(f *testing.F) {
	f.Add(flash())
	f.Fuzz(func(t *testing.T, b []byte) {
		out, err := xva.OVMFVariables(b)
		if err != nil {
			if !errors.Is(err, formats.ErrNotFormat) && !errors.Is(err, formats.ErrCorrupt) && !errors.Is(err, formats.ErrUnsupported) {
				t.Fatal(err)
			}
			return
		}
		list, ok := varstored(out)
		if !ok {
			t.Fatalf("%q cannot be read back", out)
		}
		// In a file of OVMF's again, they give the same.
		if again, err := xva.OVMFVariables(store(list...)); err != nil || !bytes.Equal(again, out) {
			t.Fatalf("%v: %q, then %q", err, out, again)
		}
	})
}
