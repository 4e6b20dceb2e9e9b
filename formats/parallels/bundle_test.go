package parallels_test

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"tarvm/formats"
	"tarvm/formats/formatstest"
	"tarvm/formats/parallels"
)

const (
	topGUID  = "5fbaabe3-6958-40ff-92a7-860e329aab41"
	nullGUID = "00000000-0000-0000-0000-000000000000"
	baseGUID = "11111111-aaaa-bbbb-cccc-000000000001"
	midGUID  = "11111111-aaaa-bbbb-cccc-000000000002"
	sideGUID = "11111111-aaaa-bbbb-cccc-000000000003"
)

// plainDescriptor needs nothing but a file of 64 KiB.
const plainDescriptor = `<?xml version='1.0' encoding='UTF-8'?>
<Parallels_disk_image Version="1.0">
    <Disk_Parameters><Disk_size>128</Disk_size><Padding>0</Padding></Disk_Parameters>
    <StorageData>
        <Storage><Start>0</Start><End>128</End><Blocksize>8</Blocksize>
            <Image><GUID>{5fbaabe3-6958-40ff-92a7-860e329aab41}</GUID><Type>Plain</Type><File>disk.hds</File></Image>
        </Storage>
    </StorageData>
    <Snapshots>
        <Shot>
            <GUID>{5fbaabe3-6958-40ff-92a7-860e329aab41}</GUID>
            <ParentGUID>{00000000-0000-0000-0000-000000000000}</ParentGUID>
        </Shot>
    </Snapshots>
</Parallels_disk_image>
`

// xmlPart is a storage of a descriptor: where it ends, and its image files as
// GUID, type and name.
type xmlPart struct {
	end    int
	images [][3]string
}

// descriptor writes a DiskDescriptor.xml. shots are GUID and parent.
func descriptor(size int, parts []xmlPart, shots [][2]string, top string) []byte {
	var b bytes.Buffer
	b.WriteString("\ufeff<?xml version='1.0' encoding='UTF-8'?>\n<!-- made by a test -->\n")
	b.WriteString("<Parallels_disk_image Version=\"1.0\">\n")
	fmt.Fprintf(&b, "<Disk_Parameters><Disk_size>%d</Disk_size><Cylinders>3</Cylinders><Padding>0</Padding>", size)
	b.WriteString("<Encryption><Engine>{" + nullGUID + "}</Engine><Data></Data></Encryption>")
	b.WriteString("<UID>{18162a18-c23a-4f90-8a9d-b7c93a4ef2a6}</UID><Name>a &amp; b</Name></Disk_Parameters>\n")
	b.WriteString("<StorageData>\n")
	start := 0
	for _, p := range parts {
		fmt.Fprintf(&b, "<Storage><Start> %d </Start><End>%d</End><Blocksize>8</Blocksize>\n", start, p.end)
		for _, i := range p.images {
			fmt.Fprintf(&b, "<Image><GUID>{%s}</GUID><Type>%s</Type><File>%s</File></Image>\n", i[0], i[1], i[2])
		}
		b.WriteString("</Storage>\n")
		start = p.end
	}
	b.WriteString("</StorageData>\n<Snapshots>\n")
	if top != "" {
		b.WriteString("<TopGUID>{" + strings.ToUpper(top) + "}</TopGUID>\n")
	}
	for _, s := range shots {
		fmt.Fprintf(&b, "<Shot><GUID>{%s}</GUID><ParentGUID>{%s}</ParentGUID></Shot>\n", s[0], s[1])
	}
	b.WriteString("</Snapshots>\n</Parallels_disk_image>\n")
	return b.Bytes()
}

// part is an image file of 6 clusters of 8 sectors, with the given table, whose
// lowest entry is first.
func part(first int, entries ...uint32) built {
	used := len(entries)
	for _, v := range entries {
		if v == 0 {
			used--
		}
	}
	return built{ext: true, cluster: 8, sectors: 48, data: first * 8, inUse: inUseClosed, entries: entries, slots: used,
		fill: first}
}

// example is a disk of two storages, of 48 sectors each, and four layers:
//
//	base (plain, compressed) - mid - top
//	                         \ side
type example struct {
	xml   []byte
	files map[string][]byte
	want  map[string][]byte // by GUID: what a guest sees
}

func makeExample() example {
	x := example{files: map[string][]byte{}, want: map[string][]byte{}}
	raw := bytes.Repeat([]byte("plain file!\n"), 48*512/12)
	base := part(1, 1, 0, 2, 0, 3, 0)
	first := map[string]built{
		midGUID: part(10, 10, 11, 0, 0, 0, 0), topGUID: part(20, 0, 20, 21, 0, 0, 0), sideGUID: part(30, 0, 0, 0, 0, 0, 30),
	}
	second := map[string]built{
		midGUID: part(12, 0, 12, 13, 0, 0, 0), topGUID: part(22, 22, 23, 0, 24, 0, 0), sideGUID: part(32, 0, 0, 0, 0, 0, 0),
	}
	x.files["a0.hds"], x.files["b0.hds"] = raw, base.bytes()
	x.want[baseGUID] = slices.Concat(raw, base.disk(nil))
	parts := []xmlPart{
		{48, [][3]string{{baseGUID, "Plain", "a0.hds"}}},
		{96, [][3]string{{baseGUID, "Compressed", "/Users/x/Parallels/other.hdd/b0.hds"}}},
	}
	for _, c := range [][2]string{{midGUID, baseGUID}, {topGUID, midGUID}, {sideGUID, baseGUID}} {
		below := x.want[c[1]]
		a, b := first[c[0]], second[c[0]]
		x.want[c[0]] = slices.Concat(a.disk(below[:48*512]), b.disk(below[48*512:]))
		for i, f := range []built{a, b} {
			name := string(rune('a'+i)) + c[0] + ".hds"
			x.files[name] = f.bytes()
			parts[i].images = append(parts[i].images, [3]string{c[0], "Compressed", `C:\disks\` + name})
		}
	}
	// Newest first, as it may be.
	x.xml = descriptor(96, parts, [][2]string{{topGUID, midGUID}, {sideGUID, baseGUID}, {midGUID, baseGUID}, {baseGUID,
		nullGUID}}, "")
	return x
}

func (x example) open(t testing.TB) *formats.Image {
	t.Helper()
	m, err := parallels.Format{}.Open(bytes.NewReader(x.xml), formats.OpenOptions{Find: formatstest.Sources(x.files)})
	if err != nil {
		t.Fatal(err)
	}
	return m
}

// layers follows the parents of m.
func layers(t testing.TB, m *formats.Image) []*formats.Image {
	t.Helper()
	list := []*formats.Image{m}
	for m.Parent != nil {
		p, err := m.Parent.Open()
		if err != nil {
			t.Fatal(err)
		}
		if p.ID != m.Parent.ID || m.Parent.Format != "parallels" || len(m.Parent.Names) > 0 {
			t.Errorf("parent %+v, opened %q", m.Parent, p.ID)
		}
		list, m = append(list, p), p
	}
	return list
}

// sameBytes is a sharper CheckDisk for layers.
func sameBytes(t *testing.T, m *formats.Image, want []byte, depth int) {
	t.Helper()
	list := layers(t, m)
	if len(list) != depth {
		t.Fatalf("%d layers, want %d", len(list), depth)
	}
	formatstest.CheckDisk(t, formatstest.Disk(t, list...), bytes.NewReader(want))
}

func TestBundle(t *testing.T) {
	x := makeExample()
	h, err := formatstest.CheckProbe(t, parallels.Format{}, x.xml)
	if want := (formats.Header{Format: "parallels", Subformat: "bundle", VirtualSize: 96 * 512}); err != nil ||
		*h != want {
		t.Errorf("%+v, %v", h, err)
	}
	for n := 0; n < len(x.xml)-1; n += 1 + n/64 {
		if _, err := formatstest.CheckProbe(t, parallels.Format{}, x.xml[:n]); err == nil {
			t.Errorf("cut to %d bytes: no error", n)
		}
	}
	m := x.open(t)
	if m.ID != topGUID || len(m.Files) != 2 || m.Header != *h {
		t.Errorf("%+v", m)
	}
	sameBytes(t, m, x.want[topGUID], 3)
	var ids []string
	for i, s := range m.Snapshots {
		ids = append(ids, s.ID)
		sameBytes(t, s.Image, x.want[s.ID], []int{1, 2, 2}[i])
	}
	if !slices.Equal(ids, []string{baseGUID, sideGUID, midGUID}) {
		t.Errorf("snapshots %q", ids)
	}
	compare(t, formatstest.ProblemTexts(t, m), nil)
	for _, s := range m.Snapshots {
		compare(t, formatstest.ProblemTexts(t, s.Image), nil)
	}
	var facts []string
	for _, f := range m.Facts[:6] {
		facts = append(facts, f.Name+"="+f.Value)
	}
	if want := []string{"name=a & b", "UID={18162a18-c23a-4f90-8a9d-b7c93a4ef2a6}", "storages=2", "layers=4",
		"top=" + topGUID,
		`file="a` + topGUID + `.hds"`}; !slices.Equal(facts, want) {
		t.Errorf("%q", facts)
	}
	for e, err := range formatstest.Disk(t, m).Extents(0, m.Map.Size()) {
		if err != nil || e.Kind == formats.Hole || e.Kind == formats.Zero {
			t.Errorf("%+v, %v: a layer has no holes", e, err)
		}
	}
}

// Each layer's file of the second storage alone is what qemu reads, too: above
// another, since qemu opens single files only.
func TestBundleFilesByQemu(t *testing.T) {
	formatstest.Tool(t, "qemu-img")
	for name, b := range makeExample().files {
		if name == "a0.hds" {
			continue
		}
		path := filepath.Join(t.TempDir(), "x.hds")
		if err := os.WriteFile(path, b, 0o600); err != nil {
			t.Fatal(err)
		}
		judge(t, path)
	}
}

func TestTopGUID(t *testing.T) {
	x := makeExample()
	x.xml = bytes.Replace(x.xml, []byte("<Snapshots>"), []byte("<Snapshots><TopGUID>{"+sideGUID+"}</TopGUID>"), 1)
	m := x.open(t)
	sameBytes(t, m, x.want[sideGUID], 2)
	if len(m.Snapshots) != 3 || m.Snapshots[2].ID != topGUID {
		t.Errorf("%+v", m.Snapshots)
	}
}

func TestDescriptorOfTheCorpus(t *testing.T) {
	b, err := os.ReadFile(filepath.Join("..", "..", "..", "shared", "corpus", "images", "dfvfs", "hfsplus.hdd",
		"DiskDescriptor.xml"))
	if errors.Is(err, os.ErrNotExist) {
		t.Skip(err)
	}
	if err != nil {
		t.Fatal(err)
	}
	h, err := formatstest.CheckProbe(t, parallels.Format{}, b)
	if err != nil || h.VirtualSize != 32<<20 {
		t.Fatalf("%+v, %v", h, err)
	}
	file := built{ext: true, cluster: 2048, sectors: 65536, data: 2048, inUse: inUseClosed, entries: make([]uint32, 32),
		slots: 1}
	file.entries[3] = 1
	m, err := parallels.Format{}.Open(bytes.NewReader(b),
		formats.OpenOptions{Find: formatstest.Sources(map[string][]byte{
			"hfsplus.hdd.0.{5fbaabe3-6958-40ff-92a7-860e329aab41}.hds": file.bytes(),
		})})
	if err != nil {
		t.Fatal(err)
	}
	sameBytes(t, m, file.disk(nil), 1)
	compare(t, formatstest.ProblemTexts(t, m), nil)
}

// A descriptor without snapshots, with one image.
func TestNoSnapshots(t *testing.T) {
	file := part(1, 1, 0, 2, 0, 3, 0)
	for _, guid := range []string{topGUID, baseGUID} {
		x := example{
			xml:   descriptor(48, []xmlPart{{48, [][3]string{{guid, "Compressed", "x.hds"}}}}, nil, ""),
			files: map[string][]byte{"x.hds": file.bytes()},
		}
		sameBytes(t, x.open(t), file.disk(nil), 1)
	}
}

// The disk was made larger after the snapshot.
func TestGrownDisk(t *testing.T) {
	old, grown := part(1, 1, 0, 2, 0, 3, 4), part(10, 0, 10, 0, 0, 0, 0, 11, 0)
	grown.sectors = 64
	x := example{
		xml: descriptor(64, []xmlPart{{64, [][3]string{{baseGUID, "Compressed", "old.hds"}, {topGUID, "Compressed",
			"new.hds"}}}},
			[][2]string{{baseGUID, nullGUID}, {topGUID, baseGUID}}, ""),
		files: map[string][]byte{"old.hds": old.bytes(), "new.hds": grown.bytes()},
	}
	m := x.open(t)
	below := make([]byte, 64*512)
	copy(below, old.disk(nil))
	sameBytes(t, m, grown.disk(below), 2)
	compare(t, formatstest.ProblemTexts(t, m), nil)
	compare(t, formatstest.ProblemTexts(t, m.Snapshots[0].Image), []string{`note: image file "old.hds": a disk of 24576 bytes`})
}

func TestBundleProblems(t *testing.T) {
	const b2 = "b" + midGUID + ".hds"
	for _, c := range []struct {
		name   string
		change func(x *example)
		read   string   // part of an error of reading the top
		check  []string // of the top
		parent string   // part of the error of opening the parent
	}{
		{name: "left open", change: func(x *example) { copy(x.files["a"+topGUID+".hds"][44:], "Ynot") },
			check: []string{`note: header of "a` + topGUID + `.hds" at byte 0x2c`}},
		{name: "cut side",
			change: func(x *example) { x.files["a"+sideGUID+".hds"] = x.files["a"+sideGUID+".hds"][:30*4096] },
			check:  []string{`risk: table of "a` + sideGUID + `.hds" at byte 0x54: cluster 5`}},
		{name: "cut top", change: func(x *example) { x.files["b"+topGUID+".hds"] = x.files["b"+topGUID+".hds"][:24*4096] },
			read:  `table of "b` + topGUID + `.hds" at byte 0x4c: cluster 3 of the disk`,
			check: []string{`risk: table of "b` + topGUID}},
		{name: "plain is short", change: func(x *example) { x.files["a0.hds"] = x.files["a0.hds"][:5*4096+1] },
			read: `image file "a0.hds" at byte 0x5001: 20481 bytes, its storage has 24576`, check: []string{}},
		{name: "plain is long", change: func(x *example) { x.files["a0.hds"] = append(x.files["a0.hds"], 1) }},
		{name: "middle is gone", change: func(x *example) { delete(x.files, b2) },
			check: []string{"risk: snapshot " + midGUID + `: parallels: image file "` + b2}, parent: "not exist"},
		{name: "middle is something else", change: func(x *example) { x.files[b2] = make([]byte, 5000) },
			parent: "no magic",
			check:  []string{"risk: snapshot " + midGUID + `: image file "` + b2 + `": parallels: header at byte 0x0: no magic`}},
		{name: "other clusters", change: func(x *example) {
			x.xml = bytes.Replace(x.xml, []byte("<Blocksize>8<"), []byte("<Blocksize>16<"), 1)
		}, check: []string{"note: image file \"a" + topGUID, "note: image file \"a" + sideGUID}},
		{name: "smaller disk", change: func(x *example) {
			x.xml = bytes.Replace(x.xml, []byte("<Disk_size>96<"), []byte("<Disk_size>80<"), 1)
			for guid, b := range x.want {
				x.want[guid] = b[:80*512]
			}
		}, check: []string{"note: descriptor: Disk_size 80, the storages have 96 sectors"}},
		{name: "image of no snapshot", change: func(x *example) {
			x.xml = bytes.Replace(x.xml, []byte("</Storage>"), []byte(
				"<Image><GUID>{99999999-aaaa-bbbb-cccc-000000000003}</GUID><Type>Plain</Type><File>z</File></Image></Storage>"),
				1)
		}, check: []string{`note: descriptor: image file "z" belongs to no snapshot`}},
	} {
		t.Run(c.name, func(t *testing.T) {
			x := makeExample()
			c.change(&x)
			if err := formatstest.CheckOpen(t, parallels.Format{}, x.xml,
				formats.OpenOptions{Find: formatstest.Sources(x.files)}); err != nil &&
				!errors.Is(err, formats.ErrNoParent) && !errors.Is(err, formats.ErrCorrupt) {
				t.Error(err)
			}
			m := x.open(t)
			compare(t, formatstest.ProblemTexts(t, m), c.check)
			if c.parent != "" {
				if p, err := m.Parent.Open(); p != nil || err == nil || !strings.Contains(err.Error(), c.parent) {
					t.Errorf("%v, %v", p, err)
				}
				if m.Snapshots[2].ID != midGUID || m.Snapshots[2].Image != nil {
					t.Errorf("%+v", m.Snapshots)
				}
				return
			}
			if c.read == "" {
				sameBytes(t, m, x.want[topGUID], 3)
				return
			}
			d := formatstest.Disk(t, layers(t, m)...)
			if _, err := d.ReadAt(make([]byte, d.Size()), 0); !errors.Is(err, formats.ErrCorrupt) ||
				!strings.Contains(err.Error(), c.read) {
				t.Errorf("%v, want %q", err, c.read)
			}
		})
	}
	// What the base lacks is the base's to report.
	x := makeExample()
	x.files["a0.hds"] = x.files["a0.hds"][:5*4096+1]
	list := layers(t, x.open(t))
	compare(t, formatstest.ProblemTexts(t, list[2]), []string{`risk: image file "a0.hds" at byte 0x5001: 20481 bytes`})
}

func TestBundleDamage(t *testing.T) {
	good := string(makeExample().xml)
	for _, c := range []struct {
		name, old, new string
		want           error
		says           string
	}{
		{"another root", "<Parallels_disk_image ", "<Parallels_disk_images ", formats.ErrNotFormat, ""},
		{"not XML", "\ufeff<?xml", "hello<?xml", formats.ErrNotFormat, ""},
		{"version", `Version="1.0"`, `Version="2.0"`, formats.ErrUnsupported, "version"},
		{"character set", "'UTF-8'", "'UTF-16'", formats.ErrUnsupported, "character set"},
		{"document type", "<Parallels", `<!DOCTYPE x [<!ENTITY a "aaa">]><Parallels`, formats.ErrNotFormat, ""},
		{"simple document type", "<Parallels", `<!DOCTYPE x><Parallels`, formats.ErrUnsupported, "document type"},
		{"entity", "a &amp; b", "a &b; b", formats.ErrCorrupt, "entity"},
		{"not closed", "</Parallels_disk_image>", "", formats.ErrCorrupt, "EOF"},
		{"closed wrongly", "</StorageData>", "</Storage>", formats.ErrCorrupt, "Storage"},
		{"second root", "</Parallels_disk_image>", "</Parallels_disk_image><x/>", formats.ErrCorrupt, `"x"`},
		{"deep", "<Name>", strings.Repeat("<x>", 20), formats.ErrUnsupported, "levels"},
		{"padding", "<Padding>0", "<Padding>1", formats.ErrUnsupported, "padding"},
		{"encrypted", "<Engine>{0", "<Engine>{1", formats.ErrUnsupported, "encryption"},
		{"size", "<Disk_size>96", "<Disk_size>97", formats.ErrCorrupt, "Disk_size"},
		{"size of letters", "<Disk_size>96", "<Disk_size>0x96", formats.ErrCorrupt, "Disk_size"},
		{"negative size", "<Disk_size>96", "<Disk_size>-96", formats.ErrCorrupt, "Disk_size"},
		{"size of 2^63", "<Disk_size>96", "<Disk_size>9223372036854775807", formats.ErrCorrupt, "Disk_size"},
		{"size twice", "<Disk_size>", "<Disk_size>96</Disk_size><Disk_size>", formats.ErrCorrupt, "twice"},
		{"overlapping storages", "<Start> 48 <", "<Start>47<", formats.ErrCorrupt, "storage from sector 47"},
		{"gap", "<Start> 48 <", "<Start>49<", formats.ErrCorrupt, "storage from sector 49"},
		{"backward storage", "<End>96<", "<End>40<", formats.ErrCorrupt, "storage from sector 48 to 40"},
		{"no end", "<End>96</End>", "", formats.ErrCorrupt, "End"},
		{"blocks", "<Blocksize>8", "<Blocksize>x", formats.ErrCorrupt, "Blocksize"},
		{"type", "<Type>Plain", "<Type>Strange", formats.ErrUnsupported, "Strange"},
		{"no GUID", "<GUID>{" + baseGUID + "}</GUID><Type>Plain", "<Type>Plain", formats.ErrCorrupt, "without GUID"},
		{"bad GUID", "{" + baseGUID + "}", "{" + baseGUID, formats.ErrCorrupt, "GUID"},
		{"worse GUID", "{" + baseGUID + "}", "{" + baseGUID[:35] + "x}", formats.ErrCorrupt, "GUID"},
		{"GUID twice", midGUID + "}</GUID><Type>", baseGUID + "}</GUID><Type>", formats.ErrCorrupt, "twice"},
		{"no file", "<File>a0.hds", "<File>", formats.ErrCorrupt, "image file"},
		{"a folder", "<File>a0.hds", "<File>../..", formats.ErrCorrupt, "image file"},
		{"the same file", "<File>a0.hds", "<File>/other/b0.hds", formats.ErrUnsupported, "two image files"},
		{"unknown parent", "<ParentGUID>{" + midGUID, "<ParentGUID>{" + midGUID[:35] + "9", formats.ErrCorrupt,
			"is not there"},
		{"a loop", "<ParentGUID>{" + nullGUID, "<ParentGUID>{" + topGUID, formats.ErrCorrupt, "its own parent"},
		{"no top", "<Shot><GUID>{" + topGUID, "<Shot><GUID>{" + topGUID[:35] + "9", formats.ErrCorrupt, "top snapshot"},
		{"shot twice", "<Shot><GUID>{" + sideGUID, "<Shot><GUID>{" + topGUID, formats.ErrCorrupt, "twice"},
	} {
		t.Run(c.name, func(t *testing.T) {
			if !strings.Contains(good, c.old) {
				t.Fatal("not in the descriptor")
			}
			b := []byte(strings.Replace(good, c.old, c.new, 1))
			h, err := formatstest.CheckProbe(t, parallels.Format{}, b)
			if !errors.Is(err, c.want) || !strings.Contains(err.Error(), c.says) {
				t.Errorf("%+v, %v, want %v, %q", h, err, c.want, c.says)
			}
			if c.want == formats.ErrNotFormat {
				return
			}
			if err := formatstest.CheckOpen(t, parallels.Format{}, b,
				formats.OpenOptions{Find: formatstest.Sources(nil)}); !errors.Is(err, c.want) {
				t.Error(err)
			}
		})
	}
}

func TestBundleNeedsItsFiles(t *testing.T) {
	x := makeExample()
	open := func(o formats.OpenOptions) error { return formatstest.CheckOpen(t, parallels.Format{}, x.xml, o) }
	if err := open(formats.OpenOptions{}); !errors.Is(err, formats.ErrUnsupported) {
		t.Error(err)
	}
	delete(x.files, "a"+topGUID+".hds")
	if err := open(formats.OpenOptions{Find: formatstest.Sources(x.files)}); !errors.Is(err, os.ErrNotExist) {
		t.Error(err)
	}
	// A storage without an image of the top.
	y := makeExample()
	y.xml = bytes.Replace(y.xml, []byte("{"+topGUID+"}</GUID><Type>"), []byte("{"+topGUID[:35]+"9}</GUID><Type>"), 1)
	x = y
	if err := open(formats.OpenOptions{Find: formatstest.Sources(y.files)}); !errors.Is(err, formats.ErrCorrupt) {
		t.Error(err)
	}
	// A plain file cannot have a parent.
	x = makeExample()
	x.xml = bytes.Replace(x.xml, []byte("<GUID>{"+topGUID+"}</GUID><Type>Compressed"),
		[]byte("<GUID>{"+topGUID+"}</GUID><Type>Plain"), 1)
	if err := open(formats.OpenOptions{Find: formatstest.Sources(x.files)}); !errors.Is(err, formats.ErrCorrupt) {
		t.Error(err)
	}
}

// Large and many-layered descriptors are refused before they cost anything.
func TestBundleLimits(t *testing.T) {
	shots := func(n int) []byte {
		var list [][2]string
		parent := nullGUID
		for i := range n {
			guid := fmt.Sprintf("%08x%s", i+1, nullGUID[8:])
			list = append(list, [2]string{guid, parent})
			parent = guid
		}
		return descriptor(8, []xmlPart{{8, [][3]string{{parent, "Plain", "x"}}}}, list, parent)
	}
	for name, c := range map[string]struct {
		b    []byte
		says string
	}{
		"large":     {append([]byte(plainDescriptor), bytes.Repeat([]byte(" "), 1<<20)...), "limit 1048576"},
		"shots":     {shots(1025), "more than 1024 snapshots"},
		"late root": {append([]byte("<!--"+strings.Repeat("x", 5000)+"-->"), plainDescriptor...), "not this format"},
		"many letters": {[]byte(strings.Replace(plainDescriptor, "<StorageData>", "<x>"+strings.Repeat("y", 500<<10), 1)),
			"closed by"},
	} {
		_, err := formatstest.CheckProbe(t, parallels.Format{}, c.b)
		if err == nil || !strings.Contains(err.Error(), c.says) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := formatstest.CheckProbe(t, parallels.Format{}, shots(1024)); err != nil {
		t.Error(err)
	}
}

// Bits of a descriptor, of each of its bytes.
func TestEachBitOfADescriptor(t *testing.T) {
	x := makeExample()
	find := formatstest.Sources(x.files)
	for i := 0; i < 8*len(x.xml); i += 7 {
		x.xml[i/8] ^= 1 << (i % 8)
		_ = formatstest.CheckOpen(t, parallels.Format{}, x.xml, formats.OpenOptions{Find: find})
		x.xml[i/8] ^= 1 << (i % 8)
	}
}
