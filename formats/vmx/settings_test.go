package vmx_test

import (
	"bytes"
	"fmt"
	"os"
	"strings"
	"testing"

	"tarvm/formats/machine"
	"tarvm/formats/machine/machinetest"
	"tarvm/formats/vmx"
)

const header = "config.version = \"8\"\nvirtualHW.version = \"13\"\n"

// lines puts values into quotes: scsi0.present TRUE.
func lines(s string) string {
	var b strings.Builder
	for l := range strings.Lines(s) {
		if l = strings.TrimSpace(l); l != "" {
			key, value, _ := strings.Cut(l, " ")
			fmt.Fprintf(&b, "%s = \"%s\"\n", key, value)
		}
	}
	return b.String()
}

// disk is enough for a drive to be there, on each bus.
const disk = `scsi0.present TRUE
scsi0:1.present TRUE
scsi0:1.fileName a.vmdk
`

func yes(s machine.Switch) string { return s.String() }

func drive(m *machine.Machine) machine.Drive {
	if len(m.Drives) != 1 {
		return machine.Drive{}
	}
	return m.Drives[0]
}

func nic(m *machine.Machine) string {
	if len(m.NICs) != 1 {
		return ""
	}
	n := m.NICs[0]
	return strings.TrimSpace(fmt.Sprintf("%d %s %s %s %s %v", n.Slot, n.Model, n.Kind, n.Network, n.MAC, n.Generated))
}

func media(m *machine.Machine) string {
	d := drive(m)
	return fmt.Sprintf("%s %s %q %q", d.Kind, d.At, d.Media.Path, d.Media.Host)
}

func serial(m *machine.Machine) string {
	if len(m.Serials) != 1 {
		return ""
	}
	p := m.Serials[0]
	return fmt.Sprintf("%d %s %q %q %q %s %s", p.Slot, p.Kind, p.Path, p.Host, p.Service, p.Server, p.Telnet)
}

func controllers(m *machine.Machine) string {
	var list []string
	for _, c := range m.Controllers {
		list = append(list, fmt.Sprintf("%s%d %s", c.Bus, c.Index, c.Model))
	}
	return strings.Join(list, ", ")
}

// TestSettings: each setting is read; is written of a machine without a file, in the words of out (the same ones if that
// is empty, none if it is "-"); and then is read as the same again.
func TestSettings(t *testing.T) {
	for _, c := range []struct {
		name, in, out string
		get           func(m *machine.Machine) string
		want          string
	}{
		{"name", "displayName a |7C b", "", func(m *machine.Machine) string { return m.Name }, "a | b"},
		{"notes", "annotation one|0Atwo", "", func(m *machine.Machine) string { return m.Notes }, "one\ntwo"},
		{"notes of Windows", "annotation one|0D|0Atwo", "annotation one|0Atwo", func(m *machine.Machine) string { return m.Notes }, "one\ntwo"},
		{"uuid", "uuid.bios 56 4d ad 58 06 29 d3 e6-ec fe 8f f8 39 c5 e3 5d", "", func(m *machine.Machine) string { return m.UUID }, "564dad58-0629-d3e6-ecfe-8ff839c5e35d"},
		{"vCenter", "vc.uuid 52 00 b6 9b 8d 88 7b df-a1 4a 02 70 5d 65 37 72", "", func(m *machine.Machine) string { return m.InstanceUUID }, "5200b69b-8d88-7bdf-a14a-02705d653772"},
		{"generation", "vm.genid -8536691797830587195\nvm.genidX -1723453263670062919", "", func(m *machine.Machine) string { return m.GenerationID }, "8987940a-0951-2cc5-e815-10634ff550b9"},
		{"guest", "guestOS debian12-64", "", func(m *machine.Machine) string { return m.Guest.VMware + " " + m.Arch }, "debian12-64 x86_64"},
		{"guest of 32 bits", "guestOS winxppro", "", func(m *machine.Machine) string { return m.Guest.VMware + " " + m.Arch }, "winxppro i686"},
		{"guest of ARM", "guestOS arm-debian12-64", "", func(m *machine.Machine) string { return m.Guest.VMware + " " + m.Arch }, "arm-debian12-64 aarch64"},
		{"guest in vSphere's words", "guestOS windows9Server64Guest", "guestOS windows9srv-64", func(m *machine.Machine) string { return m.Guest.VMware }, "windows9srv-64"},
		{"other guest", "guestOS otherGuest64\nguestOSAltName My OS", "guestOS other-64\nguestOSAltName My OS", func(m *machine.Machine) string { return m.Guest.VMware + " " + m.Guest.Text }, "other-64 My OS"},
		{"firmware", "firmware efi\nuefi.secureBoot.enabled TRUE\nnvram a.nvram", "", func(m *machine.Machine) string {
			return m.Firmware.Type + " " + yes(m.Firmware.SecureBoot) + " " + m.Firmware.Vars.Path
		}, "efi on a.nvram"},
		{"tpm", "vtpm.present TRUE", "managedvm.autoAddVTPM software", func(m *machine.Machine) string { return fmt.Sprint(m.TPM != nil && m.TPM.Version == "2.0") }, "true"},
		{"managed tpm", "managedvm.autoAddVTPM software", "", func(m *machine.Machine) string { return fmt.Sprint(m.TPM != nil) }, "true"},
		{"memory", "memsize 1024\nmem.hotadd TRUE", "", func(m *machine.Machine) string { return fmt.Sprintf("%d %s", m.Memory.Bytes, yes(m.Memory.HotAdd)) }, "1073741824 on"},
		{"memory in C", "memSize 0x400", "memsize 1024", func(m *machine.Machine) string { return fmt.Sprint(m.Memory.Bytes) }, "1073741824"},
		{"processors", "numvcpus 8\ncpuid.coresPerSocket 4\nvcpu.hotadd TRUE\nvhv.enable FALSE", "", func(m *machine.Machine) string {
			return fmt.Sprintf("%d %d %d %s %s", m.CPU.Count, m.CPU.Sockets, m.CPU.Cores, yes(m.CPU.HotAdd), yes(m.CPU.Nested))
		}, "8 2 4 on off"},
		{"hpet", "hpet0.present FALSE", "", func(m *machine.Machine) string { return yes(m.Features.HPET) }, "off"},
		{"clock", "rtc.diffFromUTC 0", "", func(m *machine.Machine) string { return m.Clock }, "utc"},
		{"boot", "bios.bootOrder cdrom,hdd,floppy", "", func(m *machine.Machine) string { return strings.Join(m.Boot, " ") }, "cdrom disk floppy"},
		{"boot classes", "bios.bootDeviceClasses allow:hd,cd", "bios.bootOrder hdd,cdrom", func(m *machine.Machine) string { return strings.Join(m.Boot, " ") }, "disk cdrom"},
		{"boot of one disk", disk + "bios.bootOrder HDD\nbios.hddOrder scsi0:1", disk + "bios.bootOrder hdd\nbios.hddOrder scsi0:1", func(m *machine.Machine) string { return fmt.Sprint(drive(m).Boot) }, "1"},
		{"no disk before others", disk + "bios.bootOrder cdrom,hdd\nbios.hddOrder scsi0:1", "bios.bootOrder cdrom,hdd", func(m *machine.Machine) string { return fmt.Sprint(drive(m).Boot) }, "0"},
		{"boot from the network", "ethernet0.present TRUE\nbios.bootOrder ethernet0,hdd", "", func(m *machine.Machine) string { return strings.Join(m.Boot, " ") }, "network disk"},

		{"scsi", "scsi0.present TRUE\nscsi0.virtualDev pvscsi\nscsi2.present TRUE\nscsi2.virtualDev lsisas1068", "", controllers, "scsi0 vmpvscsi, scsi2 lsisas1068"},
		{"scsi of old", "scsi0.present TRUE\nscsi0.virtualDev BusLogic", "scsi0.virtualDev buslogic", controllers, "scsi0 buslogic"},
		{"sata and nvme", "sata0.present TRUE\nnvme1.present TRUE", "", controllers, "sata0 ahci, nvme1 "},
		{"usb", "usb.present TRUE\nehci.present TRUE\nusb_xhci.present TRUE", "", controllers, "usb0 uhci, usb1 ehci, usb2 xhci"},
		{"usb 3 alone", "usb_xhci.present TRUE", "", controllers, "usb0 xhci"},

		{"disk", disk + "scsi0:1.deviceType scsi-hardDisk", "", media, `disk scsi0:1 "a.vmdk" ""`},
		{"disk of no type", disk, "scsi0:1.deviceType scsi-hardDisk", media, `disk scsi0:1 "a.vmdk" ""`},
		{"ide disk", "ide1:0.present TRUE\nide1:0.fileName a.vmdk\nide1:0.deviceType ata-hardDisk", "", media, `disk ide0:2 "a.vmdk" ""`},
		{"sata disk", "sata1.present TRUE\nsata1:29.present TRUE\nsata1:29.fileName a.vmdk", "", media, `disk sata1:29 "a.vmdk" ""`},
		{"sata disk that looks like an image", "sata0.present TRUE\nsata0:1.present TRUE\nsata0:1.deviceType new\nsata0:1.fileName a.iso", "sata0:1.deviceType disk", media, `disk sata0:1 "a.iso" ""`},
		{"nvme disk", "nvme0.present TRUE\nnvme0:3.present TRUE\nnvme0:3.fileName a.vmdk", "", media, `disk nvme0:3 "a.vmdk" ""`},
		{"usb disk", "ehci.present TRUE\nehci:0.present TRUE\nehci:0.deviceType disk\nehci:0.fileName a.vmdk", "", media, `disk usb0:0 "a.vmdk" ""`},
		{"raw disk", disk + "scsi0:1.deviceType rawDisk", "scsi0:1.deviceType scsi-hardDisk", media, `disk scsi0:1 "a.vmdk" ""`},
		{"Windows' path", `scsi0.present TRUE
scsi0:1.present TRUE
scsi0:1.fileName C:|5CVMs|5Ca.vmdk`, "scsi0:1.fileName C:/VMs/a.vmdk", media, `disk scsi0:1 "C:/VMs/a.vmdk" ""`},
		{"passthru", "scsi0.present TRUE\nscsi0:1.present TRUE\nscsi0:1.deviceType scsi-passthru\nscsi0:1.fileName /vmfs/devices/x", "", media, `lun scsi0:1 "" "/vmfs/devices/x"`},
		{"image", "ide1:0.present TRUE\nide1:0.deviceType cdrom-image\nide1:0.fileName a.iso", "", media, `cdrom ide0:2 "a.iso" ""`},
		{"image of no type", "ide1:0.present TRUE\nide1:0.fileName a.ISO", "ide1:0.deviceType cdrom-image", media, `cdrom ide0:2 "a.ISO" ""`},
		{"host's drive", "ide1:0.present TRUE\nide1:0.deviceType cdrom-raw\nide1:0.fileName /dev/cdrom", "", media, `cdrom ide0:2 "" "/dev/cdrom"`},
		{"any drive of the host's", "ide1:0.present TRUE\nide1:0.deviceType cdrom-raw\nide1:0.fileName auto detect", "", media, `cdrom ide0:2 "" "auto"`},
		{"emulated drive", "ide1:0.present TRUE\nide1:0.deviceType atapi-cdrom\nide1:0.fileName /dev/scd0", "ide1:0.deviceType cdrom-raw", media, `cdrom ide0:2 "" "/dev/scd0"`},
		{"client's drive", "ide1:0.present TRUE\nide1:0.deviceType cdrom-raw\nide1:0.fileName CD/DVD drive 0\nide1:0.clientDevice TRUE\nide1:0.startConnected FALSE",
			"ide1:0.fileName emptyBackingString\nide1:0.startConnected FALSE", media, `cdrom ide0:2 "" ""`},
		{"floppy image", "floppy0.present TRUE\nfloppy0.fileType file\nfloppy0.fileName a.flp", "", media, `floppy fdc0:0 "a.flp" ""`},
		{"floppy drive", "floppy1.present TRUE\nfloppy1.fileType device\nfloppy1.fileName /dev/fd0", "", media, `floppy fdc0:1 "" "/dev/fd0"`},
		{"floppy that is not said to be there", "floppy0.autodetect TRUE\nfloppy0.fileName ", "floppy0.present TRUE\nfloppy0.autodetect TRUE", media, `floppy fdc0:0 "" "auto"`},
		{"no floppy", "floppy0.present FALSE\nfloppy0.fileName a.flp", "floppy0.present FALSE", media, ` 0:0 "" ""`},
		{"absent", "scsi0.present TRUE\nscsi0:1.present FALSE\nscsi0:1.fileName a.vmdk", "-", media, ` 0:0 "" ""`},
		{"without a controller", "scsi0:1.present TRUE\nscsi0:1.fileName a.vmdk", "-", media, ` 0:0 "" ""`},
		{"the controller's own", "scsi0.present TRUE\nscsi0:7.present TRUE\nscsi0:7.fileName a.vmdk", "-", media, ` 0:0 "" ""`},
		{"connected", disk + "scsi0:1.startConnected FALSE", "", func(m *machine.Machine) string { return yes(drive(m).Connected) }, "off"},
		{"persistent", disk + "scsi0:1.mode persistent", "", mode, "off off"},
		{"independent", disk + "scsi0:1.mode independent-persistent", "", mode, "on off"},
		{"transient", disk + "scsi0:1.mode Independent-NonPersistent", "scsi0:1.mode independent-nonpersistent", mode, "on on"},
		{"nonpersistent", disk + "scsi0:1.mode nonpersistent", "", mode, "off on"},
		{"undoable", disk + "scsi0:1.mode undoable", "-", mode, " "},
		{"cache", disk + "scsi0:1.writeThrough TRUE", "", func(m *machine.Machine) string { return drive(m).Cache }, "writethrough"},
		{"ssd", disk + "scsi0:1.virtualSSD 1", "", func(m *machine.Machine) string { return yes(drive(m).SSD) }, "on"},
		{"no ssd", disk + "scsi0:1.virtualSSD FALSE", "scsi0:1.virtualSSD 0", func(m *machine.Machine) string { return yes(drive(m).SSD) }, "off"},
		{"read-only", disk + "scsi0:1.readonly TRUE", "", func(m *machine.Machine) string { return yes(drive(m).ReadOnly) }, "on"},
		{"shared", disk + "scsi0:1.sharing multi-writer", "", func(m *machine.Machine) string { return yes(drive(m).Shared) }, "on"},
		{"shared bus", disk + "scsi0.sharedBus physical", "scsi0:1.sharing multi-writer", func(m *machine.Machine) string { return yes(drive(m).Shared) }, "on"},

		{"bridged", "ethernet0.present TRUE\nethernet0.connectionType bridged\nethernet0.virtualDev e1000", "", nic, "0 e1000 bridged   false"},
		{"bridged vnet", "ethernet0.present TRUE\nethernet0.connectionType bridged\nethernet0.vnet VMnet2", "", nic, "0  bridged VMnet2  false"},
		{"nat", "ethernet3.present TRUE\nethernet3.connectionType nat\nethernet3.virtualDev vlance", "", nic, "3 pcnet nat   false"},
		{"hostonly", "ethernet0.present TRUE\nethernet0.connectionType hostonly\nethernet0.virtualDev vmxnet3", "", nic, "0 vmxnet3 hostonly   false"},
		{"custom", "ethernet0.present TRUE\nethernet0.connectionType custom\nethernet0.vnet /dev/vmnet8", "", nic, "0  network /dev/vmnet8  false"},
		{"segment", "ethernet0.present TRUE\nethernet0.connectionType pvn\nethernet0.pvnID 52 f9 2a ec 52 26 01 54-fe ab 09 d1 48 32 95 c5", "", nic, "0  internal 52 f9 2a ec 52 26 01 54-fe ab 09 d1 48 32 95 c5  false"},
		{"vSphere's network", "ethernet0.present TRUE\nethernet0.networkName VM Network\nethernet0.virtualDev vmxnet\nethernet0.features 15", "", nic, "0 vmxnet2 network VM Network  false"},
		{"vSphere's bridge", "ethernet0.present TRUE\nethernet0.connectionType bridged\nethernet0.networkName VM Network", "ethernet0.networkName VM Network", nic, "0  network VM Network  false"},
		{"distributed switch", "ethernet0.present TRUE\nethernet0.dvs.portgroupId dvportgroup-12", "ethernet0.networkName dvportgroup-12", nic, "0  network dvportgroup-12  false"},
		{"opaque switch", "ethernet0.present TRUE\nethernet0.opaqueNetwork.id a-b", "ethernet0.networkName a-b", nic, "0  network a-b  false"},
		{"absent adapter", "ethernet0.present FALSE\nethernet0.connectionType nat", "-", nic, ""},
		{"static", "ethernet0.present TRUE\nethernet0.addressType static\nethernet0.address 00:50:56:00:00:01", "", nic, "0    00:50:56:00:00:01 false"},
		{"static, of others", "ethernet0.present TRUE\nethernet0.addressType static\nethernet0.address 52:54:00:AA:00:01", "ethernet0.address 52:54:00:aa:00:01\nethernet0.checkMACAddress FALSE", nic, "0    52:54:00:aa:00:01 false"},
		{"generated", "ethernet0.present TRUE\nethernet0.generatedAddress 00:0c:29:3c:98:3e", "ethernet0.addressType generated\nethernet0.generatedAddress 00:0c:29:3c:98:3e", nic, "0    00:0c:29:3c:98:3e true"},
		{"vpx", "ethernet0.present TRUE\nethernet0.addressType vpx\nethernet0.generatedAddress 00:50:56:9b:5f:0d", "", nic, "0    00:50:56:9b:5f:0d true"},
		{"not connected", "ethernet0.present TRUE\nethernet0.startConnected FALSE", "", func(m *machine.Machine) string { return yes(m.NICs[0].Connected) }, "off"},

		{"screen", "svga.present TRUE\nsvga.vramSize 8388608\nsvga.numDisplays 2\nmks.enable3d TRUE", "", video, "vmvga 8388608 2 on"},
		{"no screen", "svga.present FALSE", "", video, "none 0 0 "},
		{"vnc", "RemoteDisplay.vnc.enabled TRUE\nRemoteDisplay.vnc.port 5901\nRemoteDisplay.vnc.ip 127.0.0.1", "", func(m *machine.Machine) string {
			return fmt.Sprint(m.Displays[0].Kind, m.Displays[0].Port, m.Displays[0].Listen)
		}, "vnc5901127.0.0.1"},
		{"vnc off", "RemoteDisplay.vnc.enabled FALSE\nRemoteDisplay.vnc.port 5901", "-", func(m *machine.Machine) string { return fmt.Sprint(len(m.Displays)) }, "0"},
		{"sound", "sound.present TRUE\nsound.virtualDev hdaudio", "", func(m *machine.Machine) string { return m.Sounds[0].Model }, "hda"},
		{"sound of old", "sound.present TRUE\nsound.virtualDev es1371", "", func(m *machine.Machine) string { return m.Sounds[0].Model }, "es1371"},

		{"serial file", "serial1.present TRUE\nserial1.fileType file\nserial1.fileName a.txt", "", serial, `1 file "a.txt" "" ""  `},
		{"serial device", "serial0.present TRUE\nserial0.fileType device\nserial0.fileName /dev/ttyS0", "", serial, `0 device "/dev/ttyS0" "" ""  `},
		{"serial, any device", "serial0.present TRUE\nserial0.fileType device\nserial0.autodetect TRUE", "serial0.fileName auto detect", serial, `0 device "" "" ""  `},
		{"serial pipe", "serial0.present TRUE\nserial0.fileType pipe\nserial0.fileName \\\\.\\pipe\\com_1\nserial0.pipe.endPoint client", "", serial, `0 pipe "\\\\.\\pipe\\com_1" "" "" off `},
		{"serial socket", "serial0.present TRUE\nserial0.fileType pipe\nserial0.fileName /tmp/s\nserial0.pipe.endPoint server", "", serial, `0 pipe "/tmp/s" "" "" on `},
		{"serial telnet", "serial0.present TRUE\nserial0.fileType network\nserial0.fileName telnet://0.0.0.0:42001\nserial0.network.endPoint server", "", serial, `0 tcp "" "0.0.0.0" "42001" on on`},
		{"serial tcp", "serial0.present TRUE\nserial0.fileType network\nserial0.fileName tcp://[::1]:42001\nserial0.network.endPoint client", "", serial, `0 tcp "" "::1" "42001" off off`},
		{"serial at a zone", "serial0.present TRUE\nserial0.fileType network\nserial0.fileName tcp://[fe80::1%25eth0]:42001\nserial0.network.endPoint client", "", serial, `0 tcp "" "fe80::1%eth0" "42001" off off`},
		{"parallel", "parallel0.present TRUE\nparallel0.fileType file\nparallel0.fileName lpt", "", func(m *machine.Machine) string { return m.Parallels[0].Kind + " " + m.Parallels[0].Path }, "file lpt"},
		{"share", `sharedFolder0.present TRUE
sharedFolder0.enabled TRUE
sharedFolder0.writeAccess TRUE
sharedFolder0.hostPath /srv
sharedFolder0.guestName s
sharedFolder.maxNum 1`, "", func(m *machine.Machine) string {
			return m.Shares[0].Name + m.Shares[0].Path + yes(m.Shares[0].ReadOnly)
		}, "s/srvoff"},
		{"share that is off", "sharedFolder0.present TRUE\nsharedFolder0.enabled FALSE", "-", func(m *machine.Machine) string { return fmt.Sprint(len(m.Shares)) }, "0"},
	} {
		t.Run(c.name, func(t *testing.T) {
			in := header + lines(c.in)
			m := machinetest.Decode(t, vmx.Form{}, []byte(in))
			if got := c.get(m); got != c.want {
				t.Fatalf("read as %q, want %q", got, c.want)
			}
			machinetest.CheckRoundTrip(t, vmx.Form{}, []byte(in))
			out, losses := machinetest.Encode(t, vmx.Form{}, machinetest.Strip(m), machine.EncodeOptions{})
			for _, l := range losses {
				t.Errorf("lost: %s", l)
			}
			want := c.out
			if want == "" {
				want = c.in
			}
			if want != "-" {
				for l := range strings.Lines(lines(want)) {
					if !strings.Contains(string(out), "\n"+l) {
						t.Errorf("not written: %s", l)
					}
				}
			}
			if got := c.get(machinetest.Decode(t, vmx.Form{}, out)); got != c.want {
				t.Errorf("read again as %q, want %q", got, c.want)
			}
			if t.Failed() {
				t.Logf("%s", out)
			}
		})
	}
}

func mode(m *machine.Machine) string {
	return yes(drive(m).Independent) + " " + yes(drive(m).Transient)
}

func video(m *machine.Machine) string {
	v := m.Videos[0]
	return fmt.Sprintf("%s %d %d %s", v.Model, v.Memory, v.Heads, yes(v.Accel3D))
}

// TestGuests: all of vSphere's words become those of a VMX.
func TestGuests(t *testing.T) {
	b, err := os.ReadFile("../machine/guests.tsv")
	if err != nil {
		t.Fatal(err)
	}
	n := 0
	for l := range strings.Lines(string(b)) {
		f := strings.Split(strings.TrimRight(l, "\n"), "\t")
		if strings.HasPrefix(l, "#") || len(f) < 5 || f[3] == "" || f[4] == "" || strings.HasPrefix(f[3]+f[4], "~") || strings.Contains(f[4], "~") {
			continue
		}
		n++
		m := machinetest.Decode(t, vmx.Form{}, []byte(header+lines("guestOS "+f[4])))
		if !strings.EqualFold(m.Guest.VMware, f[3]) {
			t.Errorf("%s becomes %s, want %s", f[4], m.Guest.VMware, f[3])
		}
	}
	if n < 100 {
		t.Errorf("%d guests", n)
	}
}

// TestBIOS: that there is a BIOS is kept where a file says it, and not said anew: libvirt refuses the word, and virt-v2v warns.
func TestBIOS(t *testing.T) {
	in := []byte(header + "firmware = \"bios\"\n")
	m := machinetest.Decode(t, vmx.Form{}, in)
	if m.Firmware.Type != "bios" {
		t.Errorf("%+v", m.Firmware)
	}
	if out := machinetest.CheckRoundTrip(t, vmx.Form{}, in); !bytes.Equal(out, in) {
		t.Errorf("%s", out)
	}
	if out, losses := machinetest.Encode(t, vmx.Form{}, machinetest.Strip(m), machine.EncodeOptions{}); bytes.Contains(out, []byte("firmware")) || len(losses) > 0 {
		t.Errorf("%s%v", out, losses)
	}
	m.Firmware.Type = "efi"
	efi, _ := machinetest.Encode(t, vmx.Form{}, m, machine.EncodeOptions{})
	m = machinetest.Decode(t, vmx.Form{}, efi)
	m.Firmware.Type = "bios"
	if out, _ := machinetest.Encode(t, vmx.Form{}, m, machine.EncodeOptions{}); bytes.Contains(out, []byte("firmware")) {
		t.Errorf("%s", out)
	}
}
