package libvirt_test

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
	"unicode/utf16"

	"tarvm/formats/libvirt"
	"tarvm/formats/machine"
	"tarvm/formats/machine/machinetest"
)

// domainOf puts text into a domain.
func domainOf(s string) string {
	return `<domain type="kvm"><name>a</name><memory>1024</memory><os><type arch="x86_64">hvm</type></os>` + s + `</domain>`
}

func devices(s string) string { return domainOf("<devices>" + s + "</devices>") }

func diskAt(dev, bus, address string) string {
	return `<disk type="file"><source file="/x"/><target dev="` + dev + `" bus="` + bus + `"/>` + address + `</disk>`
}

func drive(c, b, t, u int) string {
	return fmt.Sprintf(`<address type="drive" controller="%d" bus="%d" target="%d" unit="%d"/>`, c, b, t, u)
}

func TestRefused(t *testing.T) {
	for name, tc := range map[string]struct {
		text string
		says string
		err  error
	}{
		"empty":              {"", "no element", machine.ErrSyntax},
		"another root":       {"<network/>", "root element", machine.ErrSyntax},
		"prefixed root":      {`<x:domain xmlns:x="y" type="kvm"/>`, "root element", machine.ErrSyntax},
		"no type":            {"<domain/>", "domain type", machine.ErrSyntax},
		"lxc":                {`<domain type="lxc"/>`, "container", machine.ErrUnsupported},
		"openvz":             {`<domain type="openvz"/>`, "container", machine.ErrUnsupported},
		"exe":                {`<domain type="vz"><os><type>exe</type></os></domain>`, "container", machine.ErrUnsupported},
		"doctype":            {`<!DOCTYPE domain [<!ENTITY a "b">]><domain type="kvm"><name>&a;</name></domain>`, "refused", machine.ErrUnsupported},
		"external entity":    {`<!DOCTYPE domain SYSTEM "file:///etc/passwd"><domain type="kvm"/>`, "refused", machine.ErrUnsupported},
		"second domain":      {`<domain type="kvm"/><domain type="kvm"/>`, "behind the root", machine.ErrSyntax},
		"attribute twice":    {`<domain type="kvm" type="qemu"/>`, "twice", machine.ErrSyntax},
		"deep":               {`<domain type="kvm">` + strings.Repeat("<a>", 100_000), "levels", machine.ErrSyntax},
		"too long":           {`<domain type="kvm">` + strings.Repeat(" ", machine.MaxConfig), "limit", machine.ErrUnsupported},
		"many devices":       {devices(strings.Repeat("<hub/>", 25_000)), "limit", machine.ErrUnsupported},
		"memory word":        {`<domain type="kvm"><memory>lots</memory></domain>`, "no size", machine.ErrSyntax},
		"memory negative":    {`<domain type="kvm"><memory>-1</memory></domain>`, "no size", machine.ErrSyntax},
		"memory huge":        {`<domain type="kvm"><memory unit="EiB">9</memory></domain>`, "too much", machine.ErrSyntax},
		"memory huger":       {`<domain type="kvm"><memory>99999999999999999999</memory></domain>`, "no size", machine.ErrSyntax},
		"memory unit":        {`<domain type="kvm"><memory unit="pounds">1</memory></domain>`, "no unit", machine.ErrSyntax},
		"memory unit zib":    {`<domain type="kvm"><memory unit="ZiB">1</memory></domain>`, "no unit", machine.ErrSyntax},
		"current memory":     {`<domain type="kvm"><currentMemory unit="x">1</currentMemory></domain>`, "no unit", machine.ErrSyntax},
		"no processors":      {`<domain type="kvm"><vcpu>0</vcpu></domain>`, "vcpu", machine.ErrSyntax},
		"many processors":    {`<domain type="kvm"><vcpu>99999999</vcpu></domain>`, "vcpu", machine.ErrSyntax},
		"more than all":      {`<domain type="kvm"><vcpu current="3">2</vcpu></domain>`, "3 of 2", machine.ErrSyntax},
		"topology":           {`<domain type="kvm"><cpu><topology sockets="0" cores="1" threads="1"/></cpu></domain>`, "sockets", machine.ErrSyntax},
		"topology product":   {`<domain type="kvm"><cpu><topology sockets="1" cores="1024" dies="1024" clusters="1024" threads="1"/></cpu></domain>`, "cores", machine.ErrSyntax},
		"uuid":               {`<domain type="kvm"><uuid>1234</uuid></domain>`, "uuid", machine.ErrSyntax},
		"uuid letters":       {`<domain type="kvm"><uuid>z6695eb0-1f6a-4830-479a-a97f2502e193</uuid></domain>`, "uuid", machine.ErrSyntax},
		"mac":                {devices(`<interface type="user"><mac address="00:11:22:33:44"/></interface>`), "mac", machine.ErrSyntax},
		"mac digits":         {devices(`<interface type="user"><mac address="00:11:22:33:44:555"/></interface>`), "mac", machine.ErrSyntax},
		"boot order":         {devices(`<interface type="user"><boot order="0"/></interface>`), "order", machine.ErrSyntax},
		"boot order word":    {devices(`<interface type="user"><boot order="x"/></interface>`), "no number", machine.ErrSyntax},
		"device":             {devices(`<disk device="tape"/>`), "tape", machine.ErrSyntax},
		"disk type":          {devices(`<disk type="tape"><source a="b"/></disk>`), "tape", machine.ErrUnsupported},
		"one address":        {devices(diskAt("sda", "scsi", drive(0, 0, 0, 1)) + diskAt("sdb", "scsi", drive(0, 0, 0, 1))), "1 and 2 have one address", machine.ErrSyntax},
		"address of ide":     {devices(diskAt("hda", "ide", drive(0, 0, 0, 7))), "IDE", machine.ErrSyntax},
		"address number":     {devices(diskAt("sda", "scsi", `<address type="drive" unit="4294967296"/>`)), "unit", machine.ErrSyntax},
		"one controller":     {devices(`<controller type="scsi" index="0"/><controller type="scsi" index="0"/>`), "two controllers are scsi0", machine.ErrSyntax},
		"controller's index": {devices(`<controller type="scsi" index="-2"/>`), "index", machine.ErrSyntax},
		"vram":               {devices(`<video><model type="vga" vram="99999999999"/></video>`), "vram", machine.ErrSyntax},
		"rotation":           {devices(`<disk><target dev="sda" rotation_rate="1e9"/></disk>`), "rotation_rate", machine.ErrSyntax},
		"yes or no":          {devices(`<disk><target dev="sda" removable="perhaps"/></disk>`), "perhaps", machine.ErrSyntax},
		"port":               {devices(`<graphics type="vnc" port="70000"/>`), "port", machine.ErrSyntax},
		"binary":             {"\x7fELF\x02\x01\x01", "", machine.ErrSyntax},
	} {
		t.Run(name, func(t *testing.T) {
			start := time.Now()
			m, err := libvirt.Form{}.Decode([]byte(tc.text))
			var s *machine.SyntaxError
			if !errors.As(err, &s) || !errors.Is(err, tc.err) || !strings.Contains(err.Error(), tc.says) {
				t.Errorf("%v, %v; want %q", m, err, tc.says)
			}
			if d := time.Since(start); d > 5*time.Second {
				t.Errorf("took %s", d)
			}
		})
	}
}

// TestCut: a domain that ends early is none.
func TestCut(t *testing.T) {
	b, err := os.ReadFile("testdata/rich.libvirt.xml")
	if err != nil {
		t.Fatal(err)
	}
	end := strings.LastIndex(string(b), ">")
	n := 0
	for i := 0; i < end; i++ {
		if b[i] == '>' || b[i] == '<' || i%97 == 0 {
			n++
			if _, err := (libvirt.Form{}).Decode(b[:i]); !errors.Is(err, machine.ErrSyntax) {
				t.Fatalf("cut at byte %d: %v", i, err)
			}
		}
	}
	if n < 500 {
		t.Fatal(n)
	}
}

// TestPlaces: drives whose addresses the model has no words for get units of their own, and keep their addresses.
func TestPlaces(t *testing.T) {
	text := devices(diskAt("sda", "scsi", drive(0, 0, 0, 0)) + diskAt("sdb", "scsi", drive(0, 0, 1, 0)) + diskAt("sdc", "scsi", drive(0, 0, 0, 1)) +
		diskAt("sdd", "scsi", drive(0, 0, 3, 4)) + diskAt("sde", "scsi", drive(0, 1, 0, 0)) + diskAt("sdx", "virtio", "") + diskAt("vdx", "virtio", "") +
		diskAt("odd", "virtio", "") + diskAt("nvme1n3", "nvme", ""))
	m := decode(t, []byte(text))
	var got []string
	for _, d := range m.Drives {
		got = append(got, d.At.String())
	}
	if want := "scsi0:0 scsi0:1 scsi0:2 scsi0:3 scsi0:4 virtio0:23 virtio0:0 virtio0:1 nvme1:2"; strings.Join(got, " ") != want {
		t.Errorf("%s, want %s", strings.Join(got, " "), want)
	}
	out, losses := machinetest.Encode(t, libvirt.Form{}, m, machine.EncodeOptions{})
	if string(out) != text || len(losses) != 0 {
		t.Errorf("%s, %v", out, losses)
	}
}

// TestMany: ten thousand disks with one name take no longer than others.
func TestMany(t *testing.T) {
	m := decode(t, []byte(devices(strings.Repeat(`<disk><target dev="odd" bus="virtio"/></disk>`, 10_000))))
	start := time.Now()
	machinetest.Encode(t, libvirt.Form{}, machinetest.Strip(m), machine.EncodeOptions{})
	if d := time.Since(start); d > 20*time.Second {
		t.Errorf("took %s", d)
	}
}

func TestUnits(t *testing.T) {
	for text, want := range map[string]int64{
		`<memory>1</memory>`: 1024, `<memory unit="b">4096</memory>`: 4096, `<memory unit="bytes">4096</memory>`: 4096,
		`<memory unit="KB">2</memory>`: 2000, `<memory unit="k">2</memory>`: 2048, `<memory unit="KiB">2</memory>`: 2048,
		`<memory unit="MB">2</memory>`: 2_000_000, `<memory unit="M">2</memory>`: 2 << 20, `<memory unit="MiB"> 2 </memory>`: 2 << 20,
		`<memory unit="GB">2</memory>`: 2_000_000_000, `<memory unit="g">2</memory>`: 2 << 30, `<memory unit="GiB">2</memory>`: 2 << 30,
		`<memory unit="TB">2</memory>`: 2_000_000_000_000, `<memory unit="TiB">2</memory>`: 2 << 40, `<memory unit="PiB">2</memory>`: 2 << 50,
		`<memory unit="E">2</memory>`: 2 << 60, `<memory/>`: -1,
	} {
		m, err := libvirt.Form{}.Decode([]byte(`<domain type="kvm">` + text + `</domain>`))
		if want < 0 {
			if err == nil {
				t.Errorf("%s: %d", text, m.Memory.Bytes)
			}
			continue
		}
		if err != nil || m.Memory.Bytes != want {
			t.Errorf("%s: %v, %v; want %d", text, m, err, want)
		}
	}
}

// TestEncodings: UTF-16 and windows-1252 are read, and UTF-8 is written.
func TestEncodings(t *testing.T) {
	text := `<domain type="kvm"><name>für</name></domain>`
	wide := []byte{0xff, 0xfe}
	for _, u := range utf16.Encode([]rune(text)) {
		wide = append(wide, byte(u), byte(u>>8))
	}
	latin := []byte(`<?xml version="1.0" encoding="windows-1252"?>` + strings.ReplaceAll(text, "ü", "\xfc"))
	for _, b := range [][]byte{wide, latin} {
		if !(libvirt.Form{}).Probe("x", b) {
			t.Error("not recognized")
		}
		if m := decode(t, b); m.Name != "für" {
			t.Errorf("%q", m.Name)
		}
		if out := machinetest.CheckRoundTrip(t, libvirt.Form{}, b); !strings.Contains(string(out), "für") {
			t.Errorf("%q", out)
		}
	}
}

func TestProbe(t *testing.T) {
	for text, want := range map[string]bool{
		`<domain type="kvm">`: true, "<?xml version='1.0'?>\n<!--\nWARNING: THIS IS AN AUTO-GENERATED FILE.\n-->\n\n<domain type='kvm'>": true,
		`<domain xmlns="http://xmlns.oracle.com/weblogic/domain">`: false, `<domainsnapshot>`: false, "": false, "domain": false,
		`<VirtualBox xmlns="http://www.virtualbox.org/">`: false, ".encoding = \"UTF-8\"\n": false,
	} {
		if got := (libvirt.Form{}).Probe("a.xml", []byte(text)); got != want {
			t.Errorf("%q: %v", text, got)
		}
	}
}

// seeds are small domains, those of testdata, and those of the corpus where there is one.
func seeds(f testing.TB) [][]byte {
	list := [][]byte{
		[]byte(plain), []byte(domainOf("")), []byte("\xff\xfe<\x00a\x00/\x00>\x00"),
		[]byte(devices(diskAt("sda", "scsi", drive(0, 0, 1, 0)) + diskAt("sdb", "scsi", drive(0, 0, 0, 1)) + `<controller type="usb"/><controller type="usb" index="1"><master/></controller><controller type="usb" index="1"/><console type="pty"/><console/>`)),
		[]byte(domainOf(`<description>a&#13;b<!-- c -->d<![CDATA[<e>]]></description><uuid/><vcpu current="1">4</vcpu><clock offset="timezone"/>`)),
	}
	for _, s := range goldens(f) {
		list = append(list, s.Data)
	}
	more, err := filepath.Glob("../../../shared/corpus/ovf/virt-manager-xml/*.xml")
	if err != nil {
		f.Fatal(err)
	}
	for _, p := range more {
		b, err := os.ReadFile(p)
		if err != nil {
			f.Fatal(err)
		}
		list = append(list, b)
	}
	return list
}

func FuzzDomain(f *testing.F) { machinetest.Fuzz(f, libvirt.Form{}, seeds(f)...) }

func TestEdits(t *testing.T) {
	machinetest.Edits(t, func(t *testing.T, b []byte) {
		machinetest.Survive(t, libvirt.Form{}, b)
		machinetest.Anew(t, libvirt.Form{}, b)
	}, seeds(t)...)
}

// FuzzFresh writes what was read as a new domain: reading that and writing it as new once more must change nothing.
func FuzzFresh(f *testing.F) {
	for _, s := range seeds(f) {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, b []byte) { machinetest.Anew(t, libvirt.Form{}, b) })
}
