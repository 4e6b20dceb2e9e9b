package all_test

import (
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"tarvm/formats/all"
	"tarvm/formats/formatstest"
	"tarvm/formats/layers"
	"tarvm/formats/machine"
	"tarvm/ovf/target"
)

// A spec says what a machine is, whose directory a test makes as its hypervisor does.
type spec struct {
	source string // vmx, vbox, libvirt
	bus    machine.Bus
	efi    bool
	disks  int
}

func (s spec) String() string {
	return fmt.Sprintf("%s-%s-%s-%d", s.source, s.bus, s.firmware(), s.disks)
}

func (s spec) firmware() string {
	if s.efi {
		return "efi"
	}
	return "bios"
}

// What is the same in all of them.
const (
	vmName  = "web 01"
	vmStem  = "web-01" // of files
	vmUUID  = "564d3b0e-51a7-4c52-9d5e-7c1f2a3b4c5d"
	memory  = 640 // MiB
	cpus    = 2
	written = 1_700_000_000 // seconds since 1970
)

// diskSizes are those of the disks; the last is not whole MiB.
var diskSizes = []int64{16 << 20, 10 << 20, 11<<20 + 192<<10}

// buses are those of each source's disks.
var buses = map[string][]machine.Bus{
	"vmx":     {machine.SCSI, machine.SATA, machine.IDE, machine.NVMe},
	"vbox":    {machine.SATA, machine.SCSI, machine.IDE, machine.NVMe, machine.Virtio}, // the last: virtio-scsi
	"libvirt": {machine.Virtio, machine.SATA, machine.SCSI, machine.IDE},
}

// sourceNames are the keys of buses, in order.
var sourceNames = []string{"vmx", "vbox", "libvirt"}

// macs are the addresses of the two adapters.
func (s spec) macs() []string {
	prefix := map[string]string{"vmx": "00:50:56", "vbox": "08:00:27", "libvirt": "52:54:00"}[s.source]
	return []string{prefix + ":11:22:33", prefix + ":11:22:44"}
}

// nics are the models of the two adapters.
func (s spec) nics() []string {
	if s.source == "vmx" {
		return []string{"e1000", "vmxnet3"}
	}
	return []string{"e1000", "virtio"}
}

// An origin is what the machines of a test are made of: raw images.
type origin struct {
	raw []string
	iso []byte
}

func newOrigin(t *testing.T) *origin {
	t.Helper()
	formatstest.Tool(t, "qemu-img")
	dir := t.TempDir()
	o := &origin{iso: formatstest.NewPattern(t, 99, 1<<20).Bytes}
	copy(o.iso[32769:], "CD001")
	for i, size := range diskSizes {
		p := filepath.Join(dir, fmt.Sprintf("disk%d.raw", i))
		b := formatstest.NewPattern(t, uint64(i), size).Bytes
		copy(b, fmt.Sprintf("disk %d", i))
		put(t, p, b)
		o.raw = append(o.raw, p)
	}
	return o
}

func put(t *testing.T, path string, b []byte) {
	t.Helper()
	if err := os.WriteFile(path, b, 0o600); err != nil {
		t.Fatal(err)
	}
}

// make makes the machine's directory.
func (o *origin) make(t *testing.T, s spec) string {
	t.Helper()
	dir := t.TempDir()
	put(t, filepath.Join(dir, "cd.iso"), o.iso)
	image := map[string]string{"vmx": "vmdk", "vbox": "vdi", "libvirt": "qcow2"}[s.source]
	for i := range s.disks {
		name := filepath.Join(dir, diskName(i, image))
		formatstest.Run(t, dir, "qemu-img", "convert", "-f", "raw", "-O", image, o.raw[i], name)
		if image == "vdi" {
			stamp(t, name, vdiUUID(i))
		}
	}
	name, text := "vm.vmx", vmxText(s)
	switch s.source {
	case "vbox":
		name, text = "vm.vbox", vboxText(s)
	case "libvirt":
		name, text = "vm.xml", domainText(s)
	}
	put(t, filepath.Join(dir, name), []byte(text))
	return dir
}

func diskName(i int, suffix string) string { return fmt.Sprintf("disk%d.%s", i, suffix) }

func vdiUUID(i int) string { return fmt.Sprintf("11112222-3333-4444-8555-66667777888%d", i) }

// stamp sets the UUID of a VDI.
func stamp(t *testing.T, name, uuid string) {
	t.Helper()
	b, err := hex.DecodeString(strings.ReplaceAll(uuid, "-", ""))
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range [][2]int{{0, 4}, {4, 6}} {
		for i, j := f[0], f[1]-1; i < j; i, j = i+1, j-1 {
			b[i], b[j] = b[j], b[i]
		}
	}
	binary.LittleEndian.PutUint16(b[6:], binary.BigEndian.Uint16(b[6:]))
	f, err := os.OpenFile(name, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.WriteAt(b, 0x188); err != nil {
		t.Error(err)
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
}

// open opens a machine's directory.
func open(t *testing.T, dir string) *target.VM {
	t.Helper()
	list, err := target.Find(os.DirFS(dir), all.Configs())
	if err != nil || len(list) != 1 {
		t.Fatalf("%v, %v", list, err)
	}
	d := layers.NewDir(os.DirFS(dir), dir)
	t.Cleanup(func() {
		if err := d.Close(); err != nil {
			t.Error(err)
		}
	})
	vm, err := target.Open(d, list[0].Path, target.OpenOptions{Configs: all.Configs(), Formats: all.Disks(), Unix: written})
	if err != nil {
		t.Fatal(err)
	}
	return vm
}

func vmxText(s spec) string {
	var b strings.Builder
	set := func(key string, value any) { fmt.Fprintf(&b, "%s = \"%v\"\n", key, value) }
	set(".encoding", "UTF-8")
	set("config.version", 8)
	set("virtualHW.version", 14)
	set("displayName", vmName)
	set("guestOS", "debian10-64")
	set("memsize", memory)
	set("numvcpus", cpus)
	set("cpuid.coresPerSocket", 1)
	set("uuid.bios", "56 4d 3b 0e 51 a7 4c 52-9d 5e 7c 1f 2a 3b 4c 5d")
	set("annotation", "first line|0Asecond line")
	if s.efi {
		set("firmware", "efi")
	}
	for i := range 4 {
		if i == 0 {
			set("pciBridge0.present", "TRUE")
			continue
		}
		set(fmt.Sprintf("pciBridge%d.present", i+3), "TRUE")
		set(fmt.Sprintf("pciBridge%d.virtualDev", i+3), "pcieRootPort")
	}
	places := []string{"0:0", "0:1", "0:2"}
	switch s.bus {
	case machine.IDE:
		places[2] = "1:1"
	case machine.SCSI:
		set("scsi0.present", "TRUE")
		set("scsi0.virtualDev", "lsilogic")
	default:
		set(string(s.bus)+"0.present", "TRUE")
	}
	for i := range s.disks {
		at := string(s.bus) + places[i]
		set(at+".present", "TRUE")
		set(at+".fileName", diskName(i, "vmdk"))
		if s.bus == machine.IDE {
			set(at+".deviceType", "ata-hardDisk") // without it virt-v2v sees no disk
		}
	}
	set("ide1:0.present", "TRUE")
	set("ide1:0.deviceType", "cdrom-image")
	set("ide1:0.fileName", "cd.iso")
	for i, mac := range s.macs() {
		e := fmt.Sprintf("ethernet%d.", i)
		set(e+"present", "TRUE")
		set(e+"virtualDev", s.nics()[i])
		set(e+"connectionType", []string{"nat", "bridged"}[i])
		set(e+"addressType", "static")
		set(e+"address", mac)
	}
	set("usb.present", "TRUE")
	set("ehci.present", "TRUE")
	set("floppy0.present", "FALSE")
	return b.String()
}

func vboxText(s spec) string {
	var b strings.Builder
	say := func(format string, args ...any) { fmt.Fprintf(&b, format+"\n", args...) }
	say(`<?xml version="1.0"?>`)
	say(`<VirtualBox xmlns="http://www.virtualbox.org/" version="1.19-linux">`)
	say(`<Machine uuid="{%s}" name="%s" OSType="Debian_64" snapshotFolder="Snapshots" lastStateChange="2023-11-14T22:13:20Z">`, vmUUID, vmName)
	say("<Description>first line\nsecond line</Description>")
	say(`<MediaRegistry><HardDisks>`)
	for i := range s.disks {
		say(`<HardDisk uuid="{%s}" location="%s" format="VDI" type="Normal"/>`, vdiUUID(i), diskName(i, "vdi"))
	}
	say(`</HardDisks><DVDImages><Image uuid="{feb7b209-3106-496a-9e0f-d55222401280}" location="cd.iso"/></DVDImages></MediaRegistry>`)
	say(`<Hardware>`)
	say(`<CPU count="%d"><PAE enabled="false"/><LongMode enabled="true"/></CPU>`, cpus)
	say(`<Memory RAMSize="%d"/>`, memory)
	say(`<Boot><Order position="1" device="DVD"/><Order position="2" device="HardDisk"/><Order position="3" device="None"/><Order position="4" device="None"/></Boot>`)
	say(`<Display controller="VMSVGA" VRAMSize="16"/>`)
	if s.efi {
		say(`<Firmware type="EFI"/>`)
	}
	say(`<BIOS><IOAPIC enabled="true"/><SmbiosUuidLittleEndian enabled="true"/></BIOS>`)
	say(`<Network>`)
	for i, mac := range s.macs() {
		say(`<Adapter slot="%d" enabled="true" MACAddress="%s" type="%s">%s</Adapter>`, i, strings.ToUpper(strings.ReplaceAll(mac, ":", "")),
			[]string{"82540EM", "virtio"}[i], []string{"<NAT/>", `<BridgedInterface name="eth0"/>`}[i])
	}
	say(`</Network>`)
	say(`</Hardware>`)
	say(`<StorageControllers>`)
	disk := func(i, port, device int) {
		say(`<AttachedDevice type="HardDisk" hotpluggable="false" port="%d" device="%d"><Image uuid="{%s}"/></AttachedDevice>`, port, device, vdiUUID(i))
	}
	kind := map[machine.Bus]string{machine.SATA: "AHCI", machine.SCSI: "LsiLogic", machine.NVMe: "NVMe", machine.Virtio: "VirtioSCSI"}[s.bus]
	if kind != "" {
		say(`<StorageController name="%s" type="%s" PortCount="%d" useHostIOCache="false" Bootable="true"%s>`, kind, kind, map[bool]int{false: 4, true: 16}[kind == "LsiLogic"],
			map[bool]string{true: ` IDE0MasterEmulationPort="0" IDE0SlaveEmulationPort="1" IDE1MasterEmulationPort="2" IDE1SlaveEmulationPort="3"`}[kind == "AHCI"])
		for i := range s.disks {
			disk(i, i, 0)
		}
		say(`</StorageController>`)
	}
	say(`<StorageController name="IDE" type="PIIX4" PortCount="2" useHostIOCache="true" Bootable="true">`)
	if kind == "" {
		for i := range s.disks {
			disk(i, []int{0, 0, 1}[i], []int{0, 1, 1}[i])
		}
	}
	say(`<AttachedDevice passthrough="false" type="DVD" hotpluggable="false" port="1" device="0"><Image uuid="{feb7b209-3106-496a-9e0f-d55222401280}"/></AttachedDevice>`)
	say(`</StorageController>`)
	say(`</StorageControllers>`)
	say(`</Machine>`)
	say(`</VirtualBox>`)
	return b.String()
}

func domainText(s spec) string {
	var b strings.Builder
	say := func(format string, args ...any) { fmt.Fprintf(&b, format+"\n", args...) }
	chipset := "pc-i440fx-7.2"
	if s.efi && s.bus != machine.IDE {
		chipset = "pc-q35-7.2"
	}
	say(`<domain type="kvm">`)
	say(`  <name>%s</name>`, vmName)
	say(`  <uuid>%s</uuid>`, vmUUID)
	say(`  <metadata><libosinfo:libosinfo xmlns:libosinfo="http://libosinfo.org/xmlns/libvirt/domain/1.0"><libosinfo:os id="http://debian.org/debian/11"/></libosinfo:libosinfo></metadata>`)
	say("  <description>first line\nsecond line</description>")
	say(`  <memory unit="KiB">%d</memory>`, memory<<10)
	say(`  <vcpu placement="static">%d</vcpu>`, cpus)
	firmware := ""
	if s.efi {
		firmware = ` firmware="efi"`
	}
	say(`  <os%s><type arch="x86_64" machine="%s">hvm</type><boot dev="hd"/></os>`, firmware, chipset)
	say(`  <features><acpi/><apic/></features>`)
	say(`  <clock offset="utc"/>`)
	say(`  <devices>`)
	dev := map[machine.Bus]string{machine.Virtio: "vd", machine.IDE: "hd"}[s.bus]
	if dev == "" {
		dev = "sd"
	}
	if s.bus == machine.SCSI {
		say(`    <controller type="scsi" index="0" model="virtio-scsi"/>`)
	}
	for i := range s.disks {
		letter := string(rune('a' + i))
		if s.bus == machine.IDE && i == 2 {
			letter = "d"
		}
		say(`    <disk type="file" device="disk"><driver name="qemu" type="qcow2"/><source file="/srv/vm/%s"/><target dev="%s%s" bus="%s"/></disk>`, diskName(i, "qcow2"), dev, letter, s.bus)
	}
	cd := map[bool]string{true: `<target dev="sdf" bus="sata"/>`, false: `<target dev="hdc" bus="ide"/>`}[strings.Contains(chipset, "q35")]
	say(`    <disk type="file" device="cdrom"><driver name="qemu" type="raw"/><source file="/srv/vm/cd.iso"/>%s<readonly/></disk>`, cd)
	for i, mac := range s.macs() {
		say(`    <interface type="%s"><mac address="%s"/>%s<model type="%s"/></interface>`, []string{"network", "bridge"}[i], mac,
			[]string{`<source network="default"/>`, `<source bridge="br0"/>`}[i], s.nics()[i])
	}
	say(`    <video><model type="vga" vram="16384" heads="1"/></video>`)
	say(`  </devices>`)
	say(`</domain>`)
	return b.String()
}
