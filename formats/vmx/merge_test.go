package vmx_test

import (
	"cmp"
	"os"
	"slices"
	"strings"
	"testing"

	"tarvm/formats/machine"
	"tarvm/formats/machine/machinetest"
	"tarvm/formats/vmx"
)

// TestMerge: of a file whose machine was changed only the lines change that say what changed.
func TestMerge(t *testing.T) {
	drop := func(at string) func(m *machine.Machine) {
		return func(m *machine.Machine) {
			m.Drives = slices.DeleteFunc(m.Drives, func(d machine.Drive) bool { return d.At.String() == at })
		}
	}
	for _, c := range []struct {
		name, file string
		change     func(m *machine.Machine)
		gone, new  string // lines, in the order of the file
	}{
		{"nothing", "esx", func(m *machine.Machine) {}, "", ""},
		{"name", "esx", func(m *machine.Machine) { m.Name = `a "b"` },
			"displayName = \"Datenbank – 数据库\"", "displayName = \"a |22b|22\""},
		{"notes", "esx", func(m *machine.Machine) { m.Notes = "x\ny" }, "", `annotation = "x|0Ay"`},
		{"memory keeps the key's case", "esx", func(m *machine.Machine) { m.Memory.Bytes = 4 << 30 },
			`memSize = "2048"`, `memSize = "4096"`},
		{"address", "esx", func(m *machine.Machine) { m.NICs[0].MAC = "00:50:56:9b:5f:0e" },
			`ethernet0.generatedAddress = "00:50:56:9b:5f:0d"`, `ethernet0.generatedAddress = "00:50:56:9b:5f:0e"`},
		{"address that is said", "esx", func(m *machine.Machine) {
			m.NICs[0].MAC, m.NICs[0].Generated = "52:54:00:00:00:01", false
		}, `ethernet0.addressType = "vpx"
ethernet0.generatedAddress = "00:50:56:9b:5f:0d"`, `ethernet0.addressType = "static"
ethernet0.address = "52:54:00:00:00:01"
ethernet0.checkMACAddress = "FALSE"`},
		{"network", "esx", func(m *machine.Machine) { m.NICs[1].Network = "DMZ" }, `ethernet1.dvs.switchId = "50 34 26 b2 94 e9 3b 16-1d 68 87 bf ff 4a 54 40"
ethernet1.dvs.portId = "33"
ethernet1.dvs.portgroupId = "dvportgroup-1285"
ethernet1.dvs.connectionId = "408217997"`, `ethernet1.networkName = "DMZ"`},
		{"kind of network", "esx", func(m *machine.Machine) { m.NICs[0].Kind, m.NICs[0].Network = machine.NAT, "" },
			`ethernet0.networkName = "VM Network"`, `ethernet0.connectionType = "nat"`},
		{"disk's file", "esx", func(m *machine.Machine) { m.Drives[1].Media.Path = "db_1.vmdk" },
			`scsi0:8.fileName = "/vmfs/volumes/ds1/db/db_1.vmdk"`, `scsi0:8.fileName = "db_1.vmdk"`},
		{"no disk", "esx", drop("scsi0:0"), `scsi0:0.deviceType = "scsi-hardDisk"
scsi0:0.fileName = "db.vmdk"
scsi0:0.present = "TRUE"
scsi0:0.writeThrough = "TRUE"
sched.scsi0:0.shares = "normal"`, ""},
		{"disk moved", "esx", func(m *machine.Machine) { m.Drives[0].At.Unit = 3 }, `scsi0:0.deviceType = "scsi-hardDisk"
scsi0:0.fileName = "db.vmdk"
scsi0:0.present = "TRUE"
scsi0:0.writeThrough = "TRUE"
sched.scsi0:0.shares = "normal"`, `scsi0:3.deviceType = "scsi-hardDisk"
scsi0:3.fileName = "db.vmdk"
scsi0:3.present = "TRUE"
scsi0:3.writeThrough = "TRUE"
sched.scsi0:3.shares = "normal"`},
		{"another disk", "esx", func(m *machine.Machine) {
			m.Drives = append(m.Drives, machine.Drive{Kind: machine.Disk, At: machine.Address{Bus: machine.SCSI, Unit: 1}, Media: machine.Media{Path: "new.vmdk"}})
		}, "", `scsi0:1.present = "TRUE"
scsi0:1.deviceType = "scsi-hardDisk"
scsi0:1.fileName = "new.vmdk"`},
		{"a medium", "esx", func(m *machine.Machine) { m.DriveAt(machine.Address{Bus: machine.IDE, Unit: 2}).Media.Path = "a.iso" },
			`ide1:0.clientDevice = "TRUE"
ide1:0.deviceType = "cdrom-raw"
ide1:0.fileName = "emptyBackingString"`, `ide1:0.clientDevice = "FALSE"
ide1:0.deviceType = "cdrom-image"
ide1:0.fileName = "a.iso"`},
		{"controller", "esx", func(m *machine.Machine) { m.Controllers[0].Model = "lsilogic" },
			`scsi0.virtualDev = "pvscsi"`, `scsi0.virtualDev = "lsilogic"`},
		{"no controller", "esx", func(m *machine.Machine) { m.Controllers = slices.Delete(m.Controllers, 1, 2) }, `scsi1.virtualDev = "lsisas1068"
scsi1.present = "TRUE"`, ""},
		{"no passthrough", "esx", func(m *machine.Machine) { m.Others = nil }, `pciPassthru0.present = "TRUE"
pciPassthru0.id = "00000:006:00.0"`, ""},
		{"no tpm", "esx", func(m *machine.Machine) { m.TPM = nil }, `vtpm.present = "TRUE"`, ""},
		{"no adapter", "esx", func(m *machine.Machine) { m.NICs = m.NICs[1:] }, `ethernet0.virtualDev = "vmxnet3"
ethernet0.networkName = "VM Network"
ethernet0.addressType = "vpx"
ethernet0.generatedAddress = "00:50:56:9b:5f:0d"
ethernet0.pciSlotNumber = "192"
ethernet0.present = "TRUE"`, ""},
		{"adapter in the place of an absent one", "hosted", func(m *machine.Machine) {
			m.NICs = append(m.NICs, machine.NIC{Slot: 1, Model: "vmxnet3", Kind: machine.NAT, MAC: "00:50:56:00:00:01"})
		}, `ethernet1.present = "FALSE"
ethernet1.virtualDev = "e1000"`, `ethernet1.present = "TRUE"
ethernet1.virtualDev = "vmxnet3"
ethernet1.connectionType = "nat"
ethernet1.addressType = "static"
ethernet1.address = "00:50:56:00:00:01"`},
		{"guest", "hosted", func(m *machine.Machine) { m.Guest.VMware = "windows11-64" }, `guestOS = "windows9-64"`, `guestOS = "windows11-64"`},
		{"port of vnc, the password stays", "hosted", func(m *machine.Machine) { m.Displays[0].Port = 5902 },
			`RemoteDisplay.vnc.port = "5901"`, `RemoteDisplay.vnc.port = "5902"`},
		{"no usb 3", "hosted", func(m *machine.Machine) {
			m.Controllers = slices.DeleteFunc(m.Controllers, func(c machine.Controller) bool { return c.Model == "xhci" })
		}, `usb_xhci.present = "TRUE"`, ""},
		{"floppy", "hosted", func(m *machine.Machine) {
			m.Drives = append(m.Drives, machine.Drive{Kind: machine.Diskette, At: machine.Address{Bus: machine.Floppy}, Media: machine.Media{Path: "a.flp"}})
		}, `floppy0.present = "FALSE"`, `floppy0.present = "TRUE"
floppy0.fileType = "file"
floppy0.fileName = "a.flp"
floppy0.clientDevice = "FALSE"`},
		{"share", "hosted", func(m *machine.Machine) {
			m.Shares = append(m.Shares, machine.Share{Name: "b", Path: "/b", ReadOnly: machine.Off})
		}, `sharedFolder.maxNum = "1"`, `sharedFolder.maxNum = "2"
sharedFolder1.present = "TRUE"
sharedFolder1.enabled = "TRUE"
sharedFolder1.readAccess = "TRUE"
sharedFolder1.writeAccess = "TRUE"
sharedFolder1.hostPath = "/b"
sharedFolder1.guestName = "b"
sharedFolder1.expiration = "never"`},
	} {
		t.Run(c.name, func(t *testing.T) {
			b, err := os.ReadFile("testdata/" + c.file + ".vmx")
			if err != nil {
				t.Fatal(err)
			}
			m := machinetest.Decode(t, vmx.Form{}, b)
			c.change(m)
			out, losses := machinetest.Encode(t, vmx.Form{}, m, machine.EncodeOptions{})
			for _, l := range losses {
				t.Errorf("lost: %s", l)
			}
			split := func(s string) []string { return strings.Split(strings.ReplaceAll(s, "\r\n", "\n"), "\n") }
			before, after := split(string(b)), split(string(out))
			var gone, made []string
			for _, l := range before {
				if !slices.Contains(after, l) {
					gone = append(gone, l)
				}
			}
			for _, l := range after {
				if !slices.Contains(before, l) {
					made = append(made, l)
				}
			}
			if strings.Join(gone, "\n") != c.gone {
				t.Errorf("lines that are gone:\n%s\nwant\n%s", strings.Join(gone, "\n"), c.gone)
			}
			if strings.Join(made, "\n") != c.new {
				t.Errorf("lines that are new:\n%s\nwant\n%s", strings.Join(made, "\n"), c.new)
			}
			again := machinetest.Decode(t, vmx.Form{}, out)
			ends := strings.Count(string(out), "\n") == strings.Count(string(out), "\r\n")
			if crlf := strings.Contains(string(b), "\r\n"); crlf != ends {
				t.Errorf("ends of lines changed")
			}
			for _, d := range machine.Difference(sorted(m), sorted(again)) {
				t.Errorf("read again: %s", d)
			}
		})
	}
}

// sorted returns a machine with what has an order of no meaning in one, and without controllers that nobody said.
func sorted(m *machine.Machine) *machine.Machine {
	c := m.Clone()
	c.Controllers = slices.DeleteFunc(c.Controllers, func(c machine.Controller) bool { return c.Implied })
	slices.SortFunc(c.Controllers, func(a, b machine.Controller) int {
		return cmp.Or(strings.Compare(string(a.Bus), string(b.Bus)), a.Index-b.Index)
	})
	slices.SortFunc(c.Drives, func(a, b machine.Drive) int {
		return cmp.Or(strings.Compare(string(a.At.Bus), string(b.At.Bus)), a.At.Index-b.At.Index, a.At.Unit-b.At.Unit)
	})
	slices.SortFunc(c.NICs, func(a, b machine.NIC) int { return a.Slot - b.Slot })
	return c
}

// TestSwap: drives that change places take all their keys along.
func TestSwap(t *testing.T) {
	in := header + lines(disk+"scsi0:1.redo \nsched.scsi0:1.shares high\nscsi0:2.present TRUE\nscsi0:2.fileName b.vmdk\nscsi0:2.ctkEnabled TRUE")
	m := machinetest.Decode(t, vmx.Form{}, []byte(in))
	m.Drives[0].At, m.Drives[1].At = m.Drives[1].At, m.Drives[0].At
	out, losses := machinetest.Encode(t, vmx.Form{}, m, machine.EncodeOptions{})
	want := strings.NewReplacer("scsi0:1", "scsi0:2", "scsi0:2", "scsi0:1").Replace(in)
	if string(out) != want || len(losses) > 0 {
		t.Errorf("%v\n%s\nwant\n%s", losses, out, want)
	}

	// A copy of a drive that stays is a new one.
	m = machinetest.Decode(t, vmx.Form{}, []byte(in))
	d := m.Drives[0]
	d.At.Unit = 5
	m.Drives = append(m.Drives, d)
	out, _ = machinetest.Encode(t, vmx.Form{}, m, machine.EncodeOptions{})
	if want := in + lines("scsi0:5.present TRUE\nscsi0:5.deviceType scsi-hardDisk\nscsi0:5.fileName a.vmdk"); string(out) != want {
		t.Errorf("%s\nwant\n%s", out, want)
	}
}

// TestMergeEncodings: a file whose encoding was declared for one value becomes UTF-8 with a later one.
func TestMergeEncodings(t *testing.T) {
	for _, first := range []string{"", "#!/usr/bin/vmware\n"} {
		m := machinetest.Decode(t, vmx.Form{}, []byte(first+header+"annotation = \"\xfc\"\n"))
		m.UUID, m.Name, m.Notes = "564d9176-621f-0239-f5ad-3a002371953b", "é", "数"
		out, _ := machinetest.Encode(t, vmx.Form{}, m, machine.EncodeOptions{})
		again := machinetest.Decode(t, vmx.Form{}, out)
		if again.Name != m.Name || again.Notes != m.Notes || !strings.HasPrefix(string(out), first+".encoding = \"UTF-8\"\n") {
			t.Errorf("%q", out)
		}
	}
}

// TestMergeEncoding: a value that a file's encoding has not makes the file UTF-8, and nothing of it is lost; one of an
// encoding that is not known stays as it was.
func TestMergeEncoding(t *testing.T) {
	for _, c := range []struct{ name, in, text, want string }{
		{"has it", ".encoding = \"windows-1252\"\n#\xe4\n" + header + "annotation = \"\xfc\"\n", "é",
			".encoding = \"windows-1252\"\n#\xe4\n" + header + "annotation = \"\xfc\"\ndisplayName = \"\xe9\"\n"},
		{"has not", ".encoding = \"windows-1252\"\n#\xe4\n" + header + "annotation = \"\xfc|FC\"\n", "数",
			".encoding = \"UTF-8\"\n#ä\n" + header + "annotation = \"üü\"\ndisplayName = \"数\"\n"},
		{"is not said", "#!/usr/bin/vmware\n" + header, "数", "#!/usr/bin/vmware\n.encoding = \"UTF-8\"\n" + header + "displayName = \"数\"\n"},
		{"is not said, and not UTF-8", header + "annotation = \"\xfc\"\n", "数", ".encoding = \"UTF-8\"\n" + header + "annotation = \"ü\"\ndisplayName = \"数\"\n"},
		{"is not said, and has it", header + "annotation = \"\xfc\"\n", "é", ".encoding = \"windows-1252\"\n" + header + "annotation = \"\xfc\"\ndisplayName = \"\xe9\"\n"},
		{"of Japan", ".encoding = \"Shift_JIS\"\n" + header, "表", ".encoding = \"Shift_JIS\"\n" + header + "displayName = \"\x95\\\"\n"},
		{"of Japan, with a bar", ".encoding = \"Shift_JIS\"\n" + header, "\uff5c", ".encoding = \"Shift_JIS\"\n" + header + "displayName = \"\x81b\"\n"},
		{"of China", ".encoding = \"GBK\"\n" + header, "数据库", ".encoding = \"GBK\"\n" + header + "displayName = \"\xca\xfd\xbe\xdd\xbf\xe2\"\n"},
		{"unknown", ".encoding = \"EBCDIC\"\n" + header + "displayName = \"\xe9\"", "ü", ".encoding = \"EBCDIC\"\n" + header + "displayName = \"\xe9\""},
	} {
		t.Run(c.name, func(t *testing.T) {
			m := machinetest.Decode(t, vmx.Form{}, []byte(c.in))
			m.Name = c.text
			out, losses := machinetest.Encode(t, vmx.Form{}, m, machine.EncodeOptions{})
			if string(out) != c.want {
				t.Errorf("written:\n%q\nwant\n%q", out, c.want)
			}
			if lost := len(losses) > 0; lost != (c.name == "unknown") {
				t.Errorf("lost: %v", losses)
			}
			if again := machinetest.Decode(t, vmx.Form{}, out); c.name != "unknown" && again.Name != c.text {
				t.Errorf("read again: %q", again.Name)
			}
		})
	}
}
