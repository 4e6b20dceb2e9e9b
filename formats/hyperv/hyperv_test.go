package hyperv

import (
	"encoding/binary"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"unicode/utf16"

	"tarvm/formats/machine"
	"tarvm/formats/machine/machinetest"
)

func read(t testing.TB, name string) []byte {
	t.Helper()
	b, err := os.ReadFile(filepath.Join("testdata", name))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// wide is text as Hyper-V writes it.
func wide(b []byte) []byte {
	out := []byte{0xff, 0xfe}
	for _, u := range utf16.Encode([]rune(strings.ReplaceAll(string(b), "\n", "\r\n"))) {
		out = binary.LittleEndian.AppendUint16(out, u)
	}
	return out
}

func TestDecode(t *testing.T) {
	for name, want := range map[string]string{
		"gen1.xml": `{"name":"Böse Namen","notes":"first line\nsecond line","uuid":"a1b2c3d4-0102-0304-0506-0708090a0b0c",` +
			`"instance_uuid":"0aa394fa-7c4a-4070-ba32-773d43b28a68","generation_id":"00112233-4455-6677-8899-aabbccddeeff",` +
			`"platform":"hyperv","version":"5.0","firmware":{"type":"bios"},"cpu":{"count":2},"memory":{"bytes":2147483648},` +
			`"boot":["cdrom","disk","network","floppy"],` +
			`"controllers":[{"bus":"ide","index":0},{"bus":"scsi","index":0}],` +
			`"drives":[{"kind":"disk","at":{"bus":"ide","index":0,"unit":0},"media":{"path":"D:/VMs/Böse Namen/Snapshots/system_0FA5.avhd","format":"vpc"}},` +
			`{"kind":"cdrom","at":{"bus":"ide","index":0,"unit":2}},` +
			`{"kind":"disk","at":{"bus":"scsi","index":0,"unit":0},"media":{"path":"D:/VMs/Böse Namen/Virtual Hard Disks/data.vhdx","format":"vhdx"}},` +
			`{"kind":"disk","at":{"bus":"scsi","index":0,"unit":2},"media":{"host":"\\\\.\\PHYSICALDRIVE3"}}],` +
			`"nics":[{"slot":0,"model":"netvsc","mac":"00:15:5d:0a:0b:0c","kind":"network","network":"Office"},` +
			`{"slot":1,"model":"tulip","generated":true,"kind":"none","connected":"off"}],` +
			`"serials":[{"slot":1,"kind":"pipe","path":"\\\\.\\pipe\\console","server":"on"}],` +
			`"others":[{"kind":"balloon","name":"dynamic memory, 512 to 4096 MiB"},{"kind":"device","name":"Synthetic Fibre Channel Port"},` +
			`{"kind":"saved-state"},{"kind":"snapshot","name":"1"}]}`,
		"gen2-packer.xml": `{"name":"box","platform":"hyperv","firmware":{"type":"efi","secure_boot":"on"},"cpu":{"count":4},` +
			`"memory":{"bytes":4294967296},"boot":["cdrom"],"controllers":[{"bus":"scsi","index":0},{"bus":"scsi","index":1}],` +
			`"drives":[{"kind":"disk","at":{"bus":"scsi","index":0,"unit":0},"media":{"path":"C:/Users/packer/AppData/Local/Temp/hyperv1/Virtual Hard Disks/box.vhdx","format":"vhdx"}},` +
			`{"kind":"cdrom","at":{"bus":"scsi","index":0,"unit":1}},` +
			`{"kind":"disk","at":{"bus":"scsi","index":1,"unit":0},"media":{"path":"C:/Users/packer/AppData/Local/Temp/hyperv1/Virtual Hard Disks/box-1.vhdx","format":"vhdx"}}],` +
			`"nics":[{"slot":0,"model":"netvsc","kind":"network","network":"Default Switch"}]}`,
	} {
		b := read(t, name)
		for _, text := range [][]byte{b, wide(b)} {
			if !(Form{}).Probe("x.xml", text) {
				t.Errorf("%s: not probed", name)
			}
			got, err := json.Marshal(machinetest.Decode(t, Form{}, text))
			if err != nil || string(got) != want {
				t.Errorf("%s:\n got %s\nwant %s (%v)", name, got, want, err)
			}
		}
	}
}

// other returns a small configuration with something in its settings.
func other(settings, rest string) string {
	return `<configuration><properties><name>a</name></properties><settings>` + settings + `</settings>` + rest + `</configuration>`
}

func TestRefused(t *testing.T) {
	ide := func(s string) string { return "<_" + typeIDE + "_>" + s + "</_" + typeIDE + "_>" }
	drive := func(name string) string {
		return "<" + name + "><type>VHD</type><pathname>a.vhd</pathname></" + name + ">"
	}
	for name, tc := range map[string]struct {
		text, says string
		err        error
	}{
		"empty":            {"", "no element", machine.ErrSyntax},
		"another root":     {"<domain/>", "root element", machine.ErrSyntax},
		"of a program":     {"<configuration><appSettings/></configuration>", "no properties", machine.ErrSyntax},
		"doctype":          {"<!DOCTYPE configuration><configuration/>", "refused", machine.ErrUnsupported},
		"generation":       {`<configuration><properties><subtype>2</subtype></properties><settings/></configuration>`, "generation 3", machine.ErrUnsupported},
		"memory":           {other("<memory><bank><size>lots</size></bank></memory>", ""), "settings/memory/bank/size", machine.ErrSyntax},
		"much memory":      {other("<memory><bank><size>99999999999999</size></bank></memory>", ""), "no number", machine.ErrSyntax},
		"processors":       {other("<processors><count>-1</count></processors>", ""), "settings/processors/count", machine.ErrSyntax},
		"identifier":       {other("", "<_"+typeFirmware+"_><bios_guid>{1}</bios_guid></_"+typeFirmware+"_>"), "bios_guid", machine.ErrSyntax},
		"address":          {other("", "<_"+strings.Repeat("1", 36)+"_><MacAddress>00-11</MacAddress></_"+strings.Repeat("1", 36)+"_>"), "MacAddress", machine.ErrSyntax},
		"third IDE":        {other("", ide("<controller2>"+drive("drive0")+"</controller2>")), "no controller of ide", machine.ErrSyntax},
		"crowded IDE":      {other("", ide("<controller1>"+drive("drive0")+drive("drive1")+drive("drive1")+"</controller1>")), "room", machine.ErrSyntax},
		"many controllers": {other("", ide("<controller9999999/>")), "controllers", machine.ErrSyntax},
		"many snapshots":   {other("", "<global_settings><snapshots><list><size>999999999</size></list></snapshots></global_settings>"), "size", machine.ErrSyntax},
	} {
		m, err := Form{}.Decode([]byte(tc.text))
		var s *machine.SyntaxError
		if !errors.As(err, &s) || !errors.Is(err, tc.err) || !strings.Contains(err.Error(), tc.says) {
			t.Errorf("%s: %v, %v; want %q", name, m, err, tc.says)
		}
	}
}

func TestProbe(t *testing.T) {
	for name, text := range map[string]string{
		"a program's": `<configuration><appSettings><add key="subtype" value="1"/></appSettings></configuration>`,
		"logging":     `<configuration><properties/><settings/></configuration>`,
		"a domain":    `<domain type="hyperv"><VDEVVersion type="integer"/></domain>`,
		"binary":      "\x14\x20\x28\x01configuration<VDEVVersion ",
	} {
		if (Form{}).Probe("a.xml", []byte(text)) {
			t.Errorf("%s is taken for a machine", name)
		}
	}
	if _, _, err := (Form{}).Encode(&machine.Machine{}, machine.EncodeOptions{}); !errors.Is(err, machine.ErrUnsupported) {
		t.Error(err)
	}
}

// A configuration that ends early is none.
func TestCut(t *testing.T) {
	b := read(t, "gen1.xml")
	end := strings.LastIndex(string(b), ">")
	for i := 0; i < end; i += 37 {
		if _, err := (Form{}).Decode(b[:i]); !errors.Is(err, machine.ErrSyntax) {
			t.Fatalf("cut at byte %d: %v", i, err)
		}
	}
}

func TestEdits(t *testing.T) {
	machinetest.Edits(t, survives, read(t, "gen1.xml"), read(t, "gen2-packer.xml"))
}

func FuzzDecode(f *testing.F) {
	for _, name := range []string{"gen1.xml", "gen2-packer.xml"} {
		b := read(f, name)
		if _, err := (Form{}).Decode(b); err != nil {
			f.Fatal(err)
		}
		f.Add(b)
		f.Add(wide(b))
	}
	f.Fuzz(survives)
}

func survives(t *testing.T, b []byte) {
	(Form{}).Probe("x", b)
	m, err := Form{}.Decode(b)
	if err != nil {
		if !errors.Is(err, machine.ErrSyntax) && !errors.Is(err, machine.ErrUnsupported) {
			t.Fatalf("an error of neither kind: %v", err)
		}
		return
	}
	if err := m.Clone().Complete(); err != nil {
		t.Fatal(err)
	}
	for _, d := range m.Drives {
		if d.At.Unit < 0 || d.At.Unit >= maxDrive {
			t.Fatalf("drive at %s", d.At)
		}
	}
	again, err := Form{}.Decode(b)
	if err != nil || len(machine.Difference(m, again)) > 0 {
		t.Fatalf("not the same twice: %v", err)
	}
}
