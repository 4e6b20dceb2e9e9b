package ova_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
	"testing/fstest"

	"tarvm/formats"
	"tarvm/formats/all"
	"tarvm/formats/formatstest"
	"tarvm/formats/layers"
	"tarvm/formats/machine"
	"tarvm/formats/raw"
	"tarvm/formats/vmdk"
	"tarvm/ovf"
	"tarvm/ovf/folder"
	"tarvm/ovf/ova"
	"tarvm/ovf/target"
)

const unix = 1_700_000_000

// noise is what a disk holds: a part of it random, the rest zeros.
func noise(seed uint64, size int) []byte {
	b := make([]byte, size)
	r := rand.New(rand.NewPCG(seed, 0))
	for i := range min(size, 200_000) {
		b[i] = byte(r.Uint32())
	}
	return b
}

// vmx makes a VMware directory with raw disks, which are in the order of their places on scsi0 and on.
func vmx(t *testing.T, name, more string, disks ...[]byte) *target.VM {
	t.Helper()
	fsys := fstest.MapFS{}
	text := fmt.Sprintf(".encoding = \"UTF-8\"\nconfig.version = \"8\"\nvirtualHW.version = \"13\"\ndisplayName = %q\nguestOS = \"debian12-64\"\nmemsize = \"512\"\nnumvcpus = \"1\"\n%s", name, more)
	for i, b := range disks {
		if i%15 == 0 {
			text += fmt.Sprintf("scsi%d.present = \"TRUE\"\nscsi%[1]d.virtualDev = \"lsilogic\"\n", i/15)
		}
		unit := i % 15
		if unit >= 7 {
			unit++ // 7 is the controller's own
		}
		text += fmt.Sprintf("scsi%d:%d.present = \"TRUE\"\nscsi%[1]d:%[2]d.fileName = \"disk%d.img\"\n", i/15, unit, i)
		fsys[fmt.Sprintf("disk%d.img", i)] = &fstest.MapFile{Data: b}
	}
	fsys["vm.vmx"] = &fstest.MapFile{Data: []byte(text)}
	fsys["cd.iso"] = &fstest.MapFile{Data: noise(99, 6*2048)}
	d := layers.NewDir(fsys, "")
	t.Cleanup(func() { d.Close() })
	vm, err := target.Open(d, "vm.vmx", opening(""))
	must(t, err)
	return vm
}

func opening(system string) target.OpenOptions {
	return target.OpenOptions{Configs: all.Configs(), Formats: all.Disks(), System: system, Unix: unix}
}

const nets = `ethernet0.present = "TRUE"
ethernet0.virtualDev = "e1000"
ethernet0.connectionType = "nat"
ethernet1.present = "TRUE"
ethernet1.virtualDev = "e1000"
ethernet1.connectionType = "bridged"
`

func targetOVA() target.Collector {
	c, ok := ova.Targets()[0].(target.Collector)
	if !ok {
		panic("an OVA holds several machines")
	}
	return c
}

// output is a file in memory.
type output struct{ b []byte }

func (o *output) WriteAt(p []byte, off int64) (int, error) {
	if n := off + int64(len(p)); n > int64(len(o.b)) {
		o.b = append(o.b, make([]byte, n-int64(len(o.b)))...)
	}
	return copy(o.b[off:], p), nil
}

func (o *output) Truncate(n int64) error {
	o.b = append(o.b, make([]byte, max(0, n-int64(len(o.b))))...)[:n]
	return nil
}

// written writes a plan into a file and into a pipe, and wants the same bytes.
func written(t *testing.T, p *target.Plan) []byte {
	t.Helper()
	var file output
	must(t, p.Write(context.Background(), target.Sink{File: &file}))
	var pipe bytes.Buffer
	must(t, p.Write(context.Background(), target.Sink{Pipe: &pipe}))
	if !bytes.Equal(file.b, pipe.Bytes()) {
		t.Errorf("%d bytes in a file, %d in a pipe, and not the same", len(file.b), pipe.Len())
	}
	return file.b
}

// unpacked opens a package whose digests are right, and the machines in it.
func unpacked(t *testing.T, b []byte) []*target.VM {
	t.Helper()
	dir := t.TempDir()
	p, err := ova.Open(context.Background(), bytes.NewReader(b), ova.Options{Spool: func(string) (ova.Spool, error) { return os.CreateTemp(dir, "") }})
	must(t, err)
	t.Cleanup(func() { p.Close() })
	v, err := p.Verify(context.Background(), ova.VerifyOptions{})
	must(t, err)
	must(t, v.Err())
	d := layers.NewDir(p.FS(), "")
	t.Cleanup(func() { d.Close() })
	list, err := target.OpenAll(d, p.Envelope.Name, opening(""))
	must(t, err)
	return list
}

// reopened is unpacked for one machine.
func reopened(t *testing.T, b []byte) *target.VM {
	t.Helper()
	list := unpacked(t, b)
	if len(list) != 1 {
		t.Fatalf("%d machines", len(list))
	}
	return list[0]
}

// holds compares the disks of a machine with what they are to hold; VMDKs have whole sectors.
func holds(t *testing.T, vm *target.VM, disks ...[]byte) {
	t.Helper()
	drives := vm.Machine.Disks()
	if len(drives) != len(disks) {
		t.Fatalf("%d disks, want %d", len(drives), len(disks))
	}
	for i, d := range drives {
		got, err := vm.Disk(d)
		must(t, err)
		if want := max(1, (int64(len(disks[i]))+511)/512) * 512; got.Size() != want || d.Media.Capacity != want {
			t.Errorf("disk %d: %d bytes, said to be %d, want %d", i, got.Size(), d.Media.Capacity, want)
		}
		diff, err := layers.Compare(context.Background(), got, plain(t, disks[i]), formats.EncodeOptions{})
		must(t, err)
		if diff.Bytes > 0 {
			t.Errorf("disk %d: %d bytes differ, first %+v", i, diff.Bytes, diff.Ranges[0])
		}
	}
}

func planned(t *testing.T, vm *target.VM, o target.Options) *target.Plan {
	t.Helper()
	p, err := targetOVA().Plan(vm, o)
	must(t, err)
	return p
}

func envelopeOf(t *testing.T, vm *target.VM) *ovf.Envelope {
	t.Helper()
	if list := vm.Envelope.Problems; len(list) > 0 {
		t.Errorf("problems: %v", list)
	}
	return vm.Envelope
}

// TestSeveral: machines, two of which have one name, are a collection, and are the same again when it is opened.
func TestSeveral(t *testing.T) {
	disks := [][]byte{noise(1, 1<<20), noise(2, 1<<20), noise(3, 2<<20)}
	vms := []*target.VM{vmx(t, "db", nets, disks[0]), vmx(t, "web", nets, disks[1]), vmx(t, "Web", "sound.present = \"TRUE\"\nsound.virtualDev = \"hdaudio\"\n", disks[2])}
	p, err := targetOVA().PlanAll(vms, target.Options{Stem: "app", Name: "web", Profile: "virtualbox", Start: [][]string{{"Web-2"}, {"db"}}})
	must(t, err)
	if len(p.Members) != 3 || p.Machine != nil || p.Capacity() != 4<<20 || p.Texts[0] != "app.ovf" {
		t.Errorf("%d members, %d bytes, %q", len(p.Members), p.Capacity(), p.Texts)
	}
	list := unpacked(t, written(t, p))
	if len(list) != 3 {
		t.Fatalf("%d machines", len(list))
	}
	e := envelopeOf(t, list[0])
	var names []string
	for i, vm := range list {
		names = append(names, vm.Machine.Name)
		holds(t, vm, disks[i])
		if got, want := e.Systems[i].ID, []string{"db", "web", "Web-2"}[i]; got != want {
			t.Errorf("id %q, want %q", got, want)
		}
		if got, want := vm.Machine.Drives[0].Media.Path, []string{"db-disk1.vmdk", "web-disk1.vmdk", "Web-2-disk1.vmdk"}[i]; got != want {
			t.Errorf("disk %q, want %q", got, want)
		}
	}
	if !slices.Equal(names, []string{"db", "web", "Web"}) {
		t.Errorf("names %q", names)
	}
	if c := e.Collections; len(c) != 1 || c[0].ID != "web-2" && c[0].ID != "web-3" || c[0].Name.Text != "web" {
		t.Errorf("collections %+v", c)
	}
	if got, want := e.Collections[0].Startup, []ovf.StartupItem{{ID: "Web-2", Order: 1}, {ID: "db", Order: 2}, {ID: "web"}}; !reflect.DeepEqual(got, want) {
		t.Errorf("startup %+v", got)
	}
	if len(e.Networks) != 2 {
		t.Errorf("networks %+v", e.Networks)
	}
	if e.Disks[0].UUID == e.Disks[1].UUID || e.Disks[0].UUID == "" {
		t.Errorf("disks %+v", e.Disks)
	}

	// A machine twice is two machines.
	p, err = targetOVA().PlanAll([]*target.VM{vms[0], vms[0]}, target.Options{Profile: "virtualbox"})
	must(t, err)
	list = unpacked(t, written(t, p))
	if e = envelopeOf(t, list[1]); e.Systems[0].ID == e.Systems[1].ID || e.Disks[0].UUID == e.Disks[1].UUID || e.Collections[0].ID != "vapp" {
		t.Errorf("%+v", e)
	}
	holds(t, list[1], disks[0])
	if got := e.Collections[0].Startup; len(got) != 2 || got[0].Order != 1 || got[1].Order != 2 {
		t.Errorf("startup %+v", got)
	}
	for _, start := range [][][]string{{{"nobody"}}, {{"db"}, {"db"}}} {
		if _, err := targetOVA().PlanAll(vms, target.Options{Start: start}); !errors.Is(err, target.ErrStart) {
			t.Errorf("%q: %v", start, err)
		}
	}
	if _, err := targetOVA().PlanAll(vms, target.Options{Base: vms[0]}); !errors.Is(err, machine.ErrUnsupported) {
		t.Errorf("deltas of several: %v", err)
	}
}

// TestSeveralLosses: what is lost of each has its name.
func TestSeveralLosses(t *testing.T) {
	lossy := vmx(t, "lossy", "serial0.present = \"TRUE\"\nserial0.fileType = \"file\"\nserial0.fileName = \"log\"\n", noise(1, 1<<20))
	p, err := targetOVA().PlanAll([]*target.VM{vmx(t, "fine", "", noise(1, 1<<20)), lossy}, target.Options{})
	must(t, err)
	if len(p.Members[0].Losses) != 0 || len(p.Members[1].Losses) == 0 || len(p.Losses) != len(p.Members[1].Losses) {
		t.Errorf("%v; %v; %v", p.Losses, p.Members[0].Losses, p.Members[1].Losses)
	}
	for i, l := range p.Losses {
		if l.Part != "lossy: "+p.Members[1].Losses[i].Part {
			t.Errorf("%s, of a member %s", l, p.Members[1].Losses[i])
		}
	}
}

// TestDelta: the package has a base and what differs, and opens to the whole disk.
func TestDelta(t *testing.T) {
	old := [][]byte{noise(1, 3<<20), noise(2, 1<<20), noise(3, 1<<20)}
	now := [][]byte{slices.Clone(old[0]), noise(4, 2<<20), slices.Clone(old[2])}
	clear(now[0][:65536])
	copy(now[0][2<<20:], "something else")
	base, vm := vmx(t, "vm", "", old...), vmx(t, "vm", "", now...)
	for name, o := range map[string]target.Options{
		"plain": {}, "gzip": {Compress: true}, "chunk": {Chunk: 100_000}, "both": {Compress: true, Chunk: 70_000}, "virtualbox": {Profile: "virtualbox"},
	} {
		o.Base = base
		t.Run(name, func(t *testing.T) {
			p := planned(t, vm, o)
			// The second disk has another size, and is whole.
			if len(p.Disks) != 5 || p.Disks[0].Drive != -1 || p.Disks[1].Base != p.Disks[0].Name || p.Disks[2].Base != "" || len(p.Notes) != 2 {
				t.Errorf("%+v, %q", p.Disks, p.Notes)
			}
			b := written(t, p)
			if again := written(t, planned(t, vm, o)); !bytes.Equal(b, again) {
				t.Error("other bytes the second time")
			}
			back := reopened(t, b)
			holds(t, back, now...)
			e := envelopeOf(t, back)
			if d := e.Disks; len(d) != 5 || d[1].ParentRef != d[0].ID || d[2].ParentRef != "" || d[4].ParentRef != d[3].ID {
				t.Errorf("%+v", d)
			}
			if disk, err := back.Disk(back.Machine.Disks()[0]); err != nil || len(disk.Layers) != 2 {
				t.Errorf("%+v, %v", disk, err)
			}
			if name == "plain" {
				if n := e.Files[4].Size; n > 80_000 {
					t.Errorf("a disk that does not differ has %d bytes", n)
				}
			}
		})
	}
	other := folder.Targets(all.Configs())[0]
	if _, err := other.Plan(vm, target.Options{Base: base}); !errors.Is(err, machine.ErrUnsupported) {
		t.Errorf("%s: %v", other.Name(), err)
	}
}

// TestDeltaByOrder: a disk that moved to another place has the base with its number.
func TestDeltaByOrder(t *testing.T) {
	disk := noise(1, 1<<20)
	base := vmx(t, "vm", "", disk)
	base.Machine.Drives[0].At = machine.Address{Bus: machine.SATA}
	p := planned(t, vmx(t, "vm", "", disk, noise(2, 1<<20)), target.Options{Base: base})
	if len(p.Disks) != 3 || p.Disks[1].Base == "" || p.Disks[2].Base != "" {
		t.Errorf("%+v", p.Disks)
	}
}

// TestDeltaQemu: QEMU reads the delta with its base as the same disk.
func TestDeltaQemu(t *testing.T) {
	formatstest.Tool(t, "qemu-img")
	old := noise(1, 1<<20)
	now := slices.Clone(old)
	copy(now[300_000:], "something else")
	p, err := ova.Targets()[1].Plan(vmx(t, "vm", "", now), target.Options{Base: vmx(t, "vm", "", old)})
	must(t, err)
	dir := t.TempDir()
	must(t, p.Write(context.Background(), target.Sink{Create: func(name string, mode os.FileMode) (formats.Output, error) {
		f, err := os.OpenFile(filepath.Join(dir, name), os.O_RDWR|os.O_CREATE|os.O_EXCL, mode)
		if err == nil {
			t.Cleanup(func() { f.Close() })
		}
		return f, err
	}}))
	for name, want := range map[string][]byte{"vm-base1.vmdk": old, "vm-disk1.vmdk": now} {
		must(t, os.WriteFile(filepath.Join(dir, "want.img"), want, 0o600))
		formatstest.Run(t, dir, "qemu-img", "compare", "-f", "vmdk", "-F", "raw", name, "want.img")
		formatstest.Run(t, dir, "qemu-img", "check", "-f", "vmdk", name)
	}
}

// image encodes a stream, as a delta if there is a base.
func image(t *testing.T, id byte, b, base []byte, parent *formats.ParentRef) []byte {
	t.Helper()
	o := formats.EncodeOptions{Subformat: "streamOptimized", ID: [16]byte{15: id}}
	if base != nil {
		o.Base, o.Parent = plain(t, base), parent
	}
	var w bytes.Buffer
	must(t, vmdk.Format{}.Encode(context.Background(), formats.Outputs{Main: formats.NewStream(&w), Name: "disk.vmdk"}, plain(t, b), o))
	return w.Bytes()
}

func plain(t *testing.T, b []byte) formats.Disk {
	t.Helper()
	m, err := raw.Format{}.Open(bytes.NewReader(b), formats.OpenOptions{})
	must(t, err)
	d, err := formats.NewDisk(m)
	must(t, err)
	return d
}

// unlinked is an image without its link to a parent: as a disk that is a difference for its envelope alone.
func unlinked(t *testing.T, b []byte) []byte {
	t.Helper()
	b = slices.Clone(b)
	i := bytes.Index(b, []byte("parentCID="))
	if i < 0 {
		t.Fatal("no parentCID")
	}
	copy(b[i:], "parentCID=ffffffff")
	return b
}

// TestParentRef: chains of deltas, as an envelope says and as the images say.
func TestParentRef(t *testing.T) {
	first := noise(1, 1<<20)
	second, third := slices.Clone(first), slices.Clone(first)
	copy(second[100_000:], "the second")
	copy(third[100_000:], "the second")
	copy(third[900_000:], "the third")
	link := func(id byte) *formats.ParentRef {
		return &formats.ParentRef{Names: []string{"elsewhere.vmdk"}, Format: "vmdk", ID: vmdk.Format{}.ImageID([16]byte{15: id})}
	}
	a, b, c := image(t, 1, first, nil, nil), image(t, 2, second, first, link(1)), image(t, 3, third, second, link(2))
	other := image(t, 9, first, nil, nil)
	const files = `<File ovf:id="f1" ovf:href="a.vmdk"/><File ovf:id="f2" ovf:href="b.vmdk"/><File ovf:id="f3" ovf:href="c.vmdk"/>`
	chain := func(x, y, z string) string {
		return fmt.Sprintf(`<Disk ovf:diskId="d1" ovf:capacity="1048576" %s/><Disk ovf:diskId="d2" ovf:capacity="1048576" %s/><Disk ovf:diskId="d" ovf:capacity="1048576" %s/>`, x, y, z)
	}
	whole := chain(`ovf:fileRef="f1"`, `ovf:fileRef="f2" ovf:parentRef="d1"`, `ovf:fileRef="f3" ovf:parentRef="d2"`)
	var id *layers.IDError
	for name, x := range map[string]struct {
		a, b, c []byte
		disks   string
		want    []byte
		err     error
		as      any
		says    string
	}{
		"linked":           {a, b, c, whole, third, nil, nil, ""},
		"unlinked":         {a, unlinked(t, b), unlinked(t, c), whole, third, nil, nil, ""},
		"top unlinked":     {a, b, unlinked(t, c), whole, third, nil, nil, ""},
		"middle unlinked":  {a, unlinked(t, b), c, whole, third, nil, nil, ""},
		"nothing on top":   {a, b, c, chain(`ovf:fileRef="f1"`, `ovf:fileRef="f2" ovf:parentRef="d1"`, `ovf:parentRef="d2"`), second, nil, nil, ""},
		"nothing between":  {a, b, unlinked(t, b), chain(`ovf:fileRef="f1"`, `ovf:parentRef="d1"`, `ovf:fileRef="f3" ovf:parentRef="d2"`), second, nil, nil, ""},
		"blank":            {a, b, c, chain(`ovf:fileRef="f1"`, "", ""), make([]byte, 1<<20), nil, nil, ""},
		"nothing on blank": {a, b, c, chain("", `ovf:parentRef="d1"`, `ovf:parentRef="d2"`), make([]byte, 1<<20), nil, nil, ""},
		"base rewritten":   {other, b, c, whole, nil, nil, &id, ""},
		"another parent":   {a, b, c, chain(`ovf:fileRef="f1"`, `ovf:fileRef="f1"`, `ovf:fileRef="f3" ovf:parentRef="d2"`), nil, ovf.ErrSyntax, nil, `parentRef says "a.vmdk"`},
		"own parent":       {a, b, c, chain("", "", `ovf:fileRef="f1" ovf:parentRef="d"`), nil, ovf.ErrSyntax, nil, "its own parent"},
		"circle":           {a, b, c, chain(`ovf:fileRef="f1" ovf:parentRef="d"`, `ovf:fileRef="f2" ovf:parentRef="d1"`, `ovf:fileRef="f3" ovf:parentRef="d2"`), nil, ovf.ErrSyntax, nil, "its own parent"},
		"nowhere":          {a, b, c, chain("", "", `ovf:fileRef="f1" ovf:parentRef="dx"`), nil, ovf.ErrSyntax, nil, `parentRef "dx" is nowhere`},
		"file nowhere":     {a, b, c, chain(`ovf:fileRef="fx"`, "", `ovf:fileRef="f3" ovf:parentRef="d1"`), nil, ovf.ErrSyntax, nil, `fileRef "fx" is nowhere`},
		"file not there":   {a, nil, c, whole, nil, target.ErrMissing, nil, "b.vmdk"},
		"no base":          {a, b, c, chain("", "", `ovf:fileRef="f3"`), nil, nil, nil, ""},
	} {
		t.Run(name, func(t *testing.T) {
			fsys := fstest.MapFS{"vm.ovf": {Data: []byte(`<Envelope xmlns="http://schemas.dmtf.org/ovf/envelope/1" xmlns:ovf="http://schemas.dmtf.org/ovf/envelope/1" xmlns:rasd="http://schemas.dmtf.org/wbem/wscim/1/cim-schema/2/CIM_ResourceAllocationSettingData">
<References>` + files + `</References><DiskSection><Info/>` + x.disks + `</DiskSection><VirtualSystem ovf:id="vm"><Info/><VirtualHardwareSection><Info/>
<Item><rasd:ElementName>c</rasd:ElementName><rasd:InstanceID>1</rasd:InstanceID><rasd:ResourceType>6</rasd:ResourceType></Item>
<Item><rasd:AddressOnParent>0</rasd:AddressOnParent><rasd:ElementName>d</rasd:ElementName><rasd:HostResource>ovf:/disk/d</rasd:HostResource><rasd:InstanceID>2</rasd:InstanceID><rasd:Parent>1</rasd:Parent><rasd:ResourceType>17</rasd:ResourceType></Item>
</VirtualHardwareSection></VirtualSystem></Envelope>`)}}
			for file, b := range map[string][]byte{"a.vmdk": x.a, "b.vmdk": x.b, "c.vmdk": x.c} {
				if b != nil {
					fsys[file] = &fstest.MapFile{Data: b}
				}
			}
			d := layers.NewDir(fsys, "")
			defer d.Close()
			vm, err := target.Open(d, "vm.ovf", opening(""))
			must(t, err)
			if name == "no base" {
				// The images say it themselves.
				holds(t, vm, third)
				return
			}
			if x.want != nil {
				holds(t, vm, x.want)
				return
			}
			_, err = vm.Disk(vm.Machine.Disks()[0])
			if x.err != nil && !errors.Is(err, x.err) || x.as != nil && !errors.As(err, x.as) || err == nil || !strings.Contains(err.Error(), x.says) {
				t.Errorf("%v", err)
			}
		})
	}
}

// TestDisks: disks of odd sizes, none, many, one image in two drives, one medium in two drives, a blank one.
func TestDisks(t *testing.T) {
	var many [][]byte
	for i := range 20 {
		many = append(many, noise(uint64(i), 1<<16))
	}
	for name, disks := range map[string][][]byte{
		"odd": {noise(1, 1000), noise(2, 5<<20+512), noise(3, 3<<20+7), noise(4, 1)}, "none": nil, "many": many, "zero": {make([]byte, 1<<20)},
	} {
		for _, profile := range targetOVA().Profiles() {
			if name == "many" && profile == "xen" {
				continue // it has not that many places
			}
			t.Run(name+" "+profile, func(t *testing.T) {
				back := reopened(t, written(t, planned(t, vmx(t, "vm", "", disks...), target.Options{Profile: profile})))
				holds(t, back, disks...)
				if e := envelopeOf(t, back); len(e.Files) != len(disks) {
					t.Errorf("%d files", len(e.Files))
				}
			})
		}
	}
	two := `ide0:0.present = "TRUE"
ide0:0.deviceType = "cdrom-image"
ide0:0.fileName = "cd.iso"
ide0:1.present = "TRUE"
ide0:1.deviceType = "cdrom-image"
ide0:1.fileName = "cd.iso"
scsi0:3.present = "TRUE"
scsi0:3.fileName = "disk0.img"
`
	for _, profile := range targetOVA().Profiles() {
		t.Run("twice "+profile, func(t *testing.T) {
			b := noise(1, 1<<20)
			p := planned(t, vmx(t, "vm", two, b), target.Options{Profile: profile})
			if len(p.Disks) != 1 || len(p.Copies) != 1 {
				t.Fatalf("%+v, %+v", p.Disks, p.Copies)
			}
			back := reopened(t, written(t, p))
			holds(t, back, b, b)
			n := 0
			for i := range back.Machine.Drives {
				d := &back.Machine.Drives[i]
				if d.Kind != machine.Optical {
					continue
				}
				name, src, err := back.File(d.Media)
				must(t, err)
				if n++; name != "vm-cdrom1.iso" || src.Size() != 6*2048 {
					t.Errorf("%s, %d bytes", name, src.Size())
				}
			}
			if n != 2 {
				t.Errorf("%d optical drives", n)
			}
		})
	}
}

// TestTooMany: a package has no place for a disk, and says so.
func TestTooMany(t *testing.T) {
	var many [][]byte
	for range 17 {
		many = append(many, make([]byte, 512))
	}
	p := planned(t, vmx(t, "vm", "", many...), target.Options{Profile: "xen"})
	if !slices.ContainsFunc(p.Losses, func(l machine.Loss) bool { return strings.Contains(l.What, "no place") }) {
		t.Errorf("%v", p.Losses)
	}
}

// TestForms: disks that are compressed, and cut.
func TestForms(t *testing.T) {
	b := noise(1, 1<<20)
	cd := "ide0:0.present = \"TRUE\"\nide0:0.deviceType = \"cdrom-image\"\nide0:0.fileName = \"cd.iso\"\n"
	for _, o := range []target.Options{{Compress: true}, {Chunk: 100_000}, {Chunk: 5000}, {Compress: true, Chunk: 65536}, {Compress: true, OVF: "2.0", Digest: ovf.SHA1}} {
		t.Run(fmt.Sprintf("gzip %v chunk %d", o.Compress, o.Chunk), func(t *testing.T) {
			back := reopened(t, written(t, planned(t, vmx(t, "vm", cd, b), o)))
			holds(t, back, b)
			e := envelopeOf(t, back)
			if f := e.Files[0]; (f.Compression == "gzip") != o.Compress || f.Chunk != o.Chunk || e.Files[1].Compression != "" {
				t.Errorf("%+v", e.Files)
			}
			for i := range back.Machine.Drives {
				if d := &back.Machine.Drives[i]; d.Kind == machine.Optical {
					_, src, err := back.File(d.Media)
					must(t, err)
					got := make([]byte, src.Size())
					if _, err := src.ReadAt(got, 0); err != nil && !bytes.Equal(got, noise(99, 6*2048)) {
						t.Errorf("the medium: %d bytes, %v", len(got), err)
					}
				}
			}
		})
	}
}

// full is an envelope with all the sections that come along.
const full = `<Envelope xmlns="http://schemas.dmtf.org/ovf/envelope/1" xmlns:ovf="http://schemas.dmtf.org/ovf/envelope/1" xmlns:rasd="http://schemas.dmtf.org/wbem/wscim/1/cim-schema/2/CIM_ResourceAllocationSettingData" ovf:version="1.1" xml:lang="en">
<References><File ovf:id="file1" ovf:href="icon.png"/><File ovf:id="de" ovf:href="de.bundle"/><File ovf:id="f" ovf:href="d.vmdk"/></References>
<DiskSection><Info/><Disk ovf:diskId="d" ovf:fileRef="f" ovf:capacity="1048576"/></DiskSection>
<NetworkSection><Info/><Network ovf:name="LAN"><Description ovf:msgid="lan">Inside</Description></Network></NetworkSection>
<DeploymentOptionSection><Info/><Configuration ovf:id="small"><Label ovf:msgid="small">Small</Label><Description>Little of it</Description></Configuration>
<Configuration ovf:id="large" ovf:default="true"><Label>Large</Label><Description>A lot</Description></Configuration></DeploymentOptionSection>
<VirtualSystem ovf:id="sys"><Info>about</Info><Name>the machine</Name>
<AnnotationSection><Info/><Annotation>some words</Annotation></AnnotationSection>
<ProductSection ovf:class="org.example" ovf:instance="1"><Info/><Product ovf:msgid="p">Thing</Product><Vendor>Us</Vendor><Version>1</Version><FullVersion>1.2</FullVersion><ProductUrl>http://p</ProductUrl>
<Icon ovf:height="16" ovf:width="16" ovf:mimeType="image/png" ovf:fileRef="file1"/>
<Category>Net</Category><Property ovf:key="ip" ovf:type="string" ovf:userConfigurable="true" ovf:value="1.2.3.4" ovf:qualifiers="MinLen(1)"><Label>Address</Label><Description>of it</Description><Value ovf:value="5.6.7.8" ovf:configuration="small"/></Property>
<Property ovf:key="pw" ovf:type="string" ovf:password="true"/></ProductSection>
<EulaSection><Info/><License ovf:msgid="eula">Agree &amp; go on.</License></EulaSection>
<VirtualHardwareSection ovf:transport="iso com.vmware.guestInfo"><Info/>
<Item><rasd:ElementName>cpu</rasd:ElementName><rasd:InstanceID>3</rasd:InstanceID><rasd:ResourceType>3</rasd:ResourceType><rasd:VirtualQuantity>2</rasd:VirtualQuantity></Item>
<Item ovf:configuration="small"><rasd:ElementName>cpu</rasd:ElementName><rasd:InstanceID>3</rasd:InstanceID><rasd:ResourceType>3</rasd:ResourceType><rasd:VirtualQuantity>1</rasd:VirtualQuantity></Item>
<Item><rasd:AllocationUnits>byte * 2^20</rasd:AllocationUnits><rasd:ElementName>m</rasd:ElementName><rasd:InstanceID>4</rasd:InstanceID><rasd:ResourceType>4</rasd:ResourceType><rasd:VirtualQuantity>512</rasd:VirtualQuantity></Item>
<Item><rasd:ElementName>c</rasd:ElementName><rasd:InstanceID>1</rasd:InstanceID><rasd:ResourceSubType>lsilogic</rasd:ResourceSubType><rasd:ResourceType>6</rasd:ResourceType></Item>
<Item><rasd:AddressOnParent>0</rasd:AddressOnParent><rasd:ElementName>d</rasd:ElementName><rasd:HostResource>ovf:/disk/d</rasd:HostResource><rasd:InstanceID>2</rasd:InstanceID><rasd:Parent>1</rasd:Parent><rasd:ResourceType>17</rasd:ResourceType></Item>
<Item><rasd:AutomaticAllocation>true</rasd:AutomaticAllocation><rasd:Connection>LAN</rasd:Connection><rasd:ElementName>n</rasd:ElementName><rasd:InstanceID>5</rasd:InstanceID><rasd:ResourceSubType>E1000</rasd:ResourceSubType><rasd:ResourceType>10</rasd:ResourceType></Item>
</VirtualHardwareSection>
<InstallSection ovf:initialBootStopDelay="300"><Info/></InstallSection>
</VirtualSystem>
<Strings xml:lang="de"><Msg ovf:msgid="p">Ding</Msg></Strings><Strings xml:lang="de" ovf:fileRef="de"/>
</Envelope>`

func fullVM(t *testing.T, content []byte) *target.VM {
	t.Helper()
	d := layers.NewDir(fstest.MapFS{
		"vm.ovf": {Data: []byte(full)}, "icon.png": {Data: []byte("png")}, "de.bundle": {Data: []byte("<Strings/>")}, "d.vmdk": {Data: image(t, 1, content, nil, nil)},
	}, "")
	t.Cleanup(func() { d.Close() })
	vm, err := target.Open(d, "vm.ovf", opening(""))
	must(t, err)
	return vm
}

// same compares what two envelopes say besides the hardware. Files have other names.
func same(t *testing.T, got, want *ovf.System) {
	t.Helper()
	strip := func(list []ovf.Product) []ovf.Product {
		list = slices.Clone(list)
		for i := range list {
			list[i].Icons = slices.Clone(list[i].Icons)
			for j := range list[i].Icons {
				list[i].Icons[j].FileRef = ""
			}
			list[i].Info = "" // which may not be empty in what is written
		}
		return list
	}
	for _, x := range []struct{ got, want any }{
		{got.ID, want.ID}, {got.Name, want.Name}, {got.Info, want.Info}, {strip(got.Products), strip(want.Products)}, {got.EULAs, want.EULAs},
		{got.Install, want.Install}, {got.Transports, want.Transports}, {got.Machine.Notes, want.Machine.Notes},
	} {
		if !reflect.DeepEqual(x.got, x.want) {
			t.Errorf("got %+v, want %+v", x.got, x.want)
		}
	}
}

// refers checks what a reference leads to.
func refers(t *testing.T, vm *target.VM, id, want string) {
	t.Helper()
	f := vm.Envelope.File(id)
	if f == nil {
		t.Errorf("no file %q", id)
		return
	}
	_, src, err := vm.File(machine.Media{Path: f.Href})
	must(t, err)
	b := make([]byte, src.Size())
	if _, err := src.ReadAt(b, 0); err != nil && string(b) != want || string(b) != want {
		t.Errorf("%s: %q, %v", f.Href, b, err)
	}
}

// TestSections: what a package says besides the hardware is in the next package, too, and elsewhere lost by name.
func TestSections(t *testing.T) {
	content := noise(1, 1<<20)
	vm := fullVM(t, content)
	for _, profile := range targetOVA().Profiles() {
		t.Run(profile, func(t *testing.T) {
			p := planned(t, vm, target.Options{Profile: profile})
			for _, l := range p.Losses {
				if strings.HasPrefix(l.Part, "section") && !strings.Contains(l.What, "small") {
					t.Errorf("lost: %s", l)
				}
			}
			back := reopened(t, written(t, p))
			holds(t, back, content)
			got, want := envelopeOf(t, back), vm.Envelope
			same(t, &got.Systems[0], &want.Systems[0])
			if !reflect.DeepEqual(got.Options, want.Options) || !reflect.DeepEqual(got.Networks, want.Networks) || got.Lang != want.Lang {
				t.Errorf("%+v, %+v, %q", got.Options, got.Networks, got.Lang)
			}
			if b := got.Bundles; len(b) != 2 || !reflect.DeepEqual(b[0], want.Bundles[0]) || b[1].Lang != "de" {
				t.Fatalf("%+v", b)
			}
			refers(t, back, got.Systems[0].Products[0].Icons[0].FileRef, "png")
			refers(t, back, got.Bundles[1].FileRef, "<Strings/>")
		})
	}
	for _, other := range folder.Targets(all.Configs()) {
		p, err := other.Plan(vm, target.Options{Dir: "/"})
		must(t, err)
		for _, section := range []string{"ProductSection", "EulaSection", "InstallSection", "DeploymentOptionSection", "Strings"} {
			n := 0
			for _, l := range p.Losses {
				if l.Part == "section "+section {
					n++
				}
			}
			if n != 1 {
				t.Errorf("%s: %s is lost %d times: %v", other.Name(), section, n, p.Losses)
			}
		}
		if !slices.ContainsFunc(p.Losses, func(l machine.Loss) bool { return strings.Contains(l.What, "org.example.ip.1, org.example.pw.1") }) {
			t.Errorf("%s: %v", other.Name(), p.Losses)
		}
		if len(p.Copies) > 0 {
			t.Errorf("%s: %+v", other.Name(), p.Copies)
		}
	}
}

// TestSectionsOfSeveral: packages among several machines keep what they say; options and texts are those of the first
// that has them.
func TestSectionsOfSeveral(t *testing.T) {
	content := noise(1, 1<<20)
	one, two := fullVM(t, content), fullVM(t, content)
	p, err := targetOVA().PlanAll([]*target.VM{vmx(t, "vm", nets, noise(2, 1<<20)), one, two}, target.Options{})
	must(t, err)
	list := unpacked(t, written(t, p))
	e, want := envelopeOf(t, list[0]), one.Envelope
	same(t, &e.Systems[1], &want.Systems[0])
	if !reflect.DeepEqual(e.Options, want.Options) || len(e.Bundles) != 2 || len(e.Networks) != 3 {
		t.Errorf("%+v, %+v, %+v", e.Options, e.Bundles, e.Networks)
	}
	// The third has the values of its default, and no texts of the second's.
	third := e.Systems[2]
	q := third.Products[0].Properties
	if third.ID != "sys-2" || len(q) != 2 || q[0].Value != "1.2.3.4" || q[0].Values != nil || third.Products[0].Name.ID != "" || third.EULAs[0].Text != want.Systems[0].EULAs[0].Text {
		t.Errorf("%+v", third)
	}
	for i, n := range []int{0, 0, 2} {
		lost := 0
		for _, l := range p.Members[i].Losses {
			if l.Part == "section Strings" || l.Part == "section DeploymentOptionSection" && strings.Contains(l.What, "choice") {
				lost++
			}
		}
		if lost != n {
			t.Errorf("%d: %v", i, p.Members[i].Losses)
		}
	}
	refers(t, list[1], e.Systems[1].Products[0].Icons[0].FileRef, "png")
	refers(t, list[2], third.Products[0].Icons[0].FileRef, "png")
	if e.Systems[1].Products[0].Icons[0].FileRef == third.Products[0].Icons[0].FileRef {
		t.Error("one icon for both")
	}

	// All machines of that package again: it keeps its collection.
	p, err = targetOVA().PlanAll(list, target.Options{})
	must(t, err)
	again := unpacked(t, written(t, p))
	x := envelopeOf(t, again[0])
	if !reflect.DeepEqual(x.Collections, e.Collections) || len(p.Losses) > 0 && slices.ContainsFunc(p.Losses, func(l machine.Loss) bool { return strings.Contains(l.Part, "StartupSection") }) {
		t.Errorf("%+v, %v", x.Collections, p.Losses)
	}
	for i := range x.Systems {
		same(t, &x.Systems[i], &e.Systems[i])
	}
	// One of them leaves the collection behind.
	single := planned(t, list[1], target.Options{})
	if !slices.ContainsFunc(single.Losses, func(l machine.Loss) bool { return l.Part == "section StartupSection" }) {
		t.Errorf("%v", single.Losses)
	}
}

// TestNetworks: adapters are attached to other networks, and envelopes list those alone.
func TestNetworks(t *testing.T) {
	b := noise(1, 1<<20)
	vm := vmx(t, "vm", nets, b)
	names := func(e *ovf.Envelope) (list []string) {
		for _, n := range e.Networks {
			list = append(list, n.Name)
		}
		return list
	}
	for _, x := range []struct {
		maps []target.Mapping
		want []string
	}{
		{nil, []string{"nat", "bridged"}},
		{[]target.Mapping{{From: "NAT", To: "VM Network"}}, []string{"VM Network", "bridged"}},
		{[]target.Mapping{{From: "nat", To: "bridged"}}, []string{"bridged"}},
		{[]target.Mapping{{From: "nat", To: "bridged"}, {From: "bridged", To: "nat"}}, []string{"bridged", "nat"}},
		{[]target.Mapping{{From: "bridged", To: "LAN"}, {From: "nat", To: "LAN"}}, []string{"LAN"}},
	} {
		back := reopened(t, written(t, planned(t, vm, target.Options{Networks: x.maps})))
		if got := names(envelopeOf(t, back)); !slices.Equal(got, x.want) {
			t.Errorf("%v: %q", x.maps, got)
		}
	}
	if _, err := targetOVA().Plan(vm, target.Options{Networks: []target.Mapping{{From: "LAN", To: "x"}}}); !errors.Is(err, target.ErrNetwork) || !strings.Contains(err.Error(), `"nat", "bridged"`) {
		t.Errorf("%v", err)
	}
	// A package's networks are known by their names, and each machine of several has what it has.
	full := fullVM(t, b)
	back := reopened(t, written(t, planned(t, full, target.Options{Networks: []target.Mapping{{From: "LAN", To: "DMZ"}}})))
	if got := names(envelopeOf(t, back)); !slices.Equal(got, []string{"DMZ"}) || back.Machine.NICs[0].Network != "DMZ" {
		t.Errorf("%q", got)
	}
	p, err := targetOVA().PlanAll([]*target.VM{vm, full}, target.Options{Networks: []target.Mapping{{From: "LAN", To: "nat"}}})
	must(t, err)
	if got := names(envelopeOf(t, unpacked(t, written(t, p))[0])); !slices.Equal(got, []string{"nat", "bridged"}) {
		t.Errorf("%q", got)
	}
	if _, err := targetOVA().PlanAll([]*target.VM{vm, full}, target.Options{Networks: []target.Mapping{{From: "DMZ", To: "nat"}}}); !errors.Is(err, target.ErrNetwork) {
		t.Errorf("%v", err)
	}
	// Elsewhere bridges have names, too.
	for _, other := range folder.Targets(all.Configs()) {
		p, err := other.Plan(vm, target.Options{Dir: "/", Networks: []target.Mapping{{From: "bridged", To: "br7"}, {From: "nat", To: "front"}}})
		must(t, err)
		if n := p.Machine.NICs; n[0].Kind != machine.Named || n[0].Network != "front" || n[1].Kind != machine.Bridged || n[1].Network != "br7" {
			t.Errorf("%s: %+v", other.Name(), n)
		}
	}
}
