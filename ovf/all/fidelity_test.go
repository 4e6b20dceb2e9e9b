package all_test

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"testing/fstest"

	formatsall "tarvm/formats/all"
	"tarvm/formats/formatstest"
	"tarvm/formats/layers"
	"tarvm/formats/machine"
	"tarvm/ovf"
	"tarvm/ovf/all"
	"tarvm/ovf/target"
)

// richBox is a machine of VirtualBox with much that OVF has no words for.
const richBox = `<?xml version="1.0"?>
<VirtualBox xmlns="http://www.virtualbox.org/" version="1.19-linux">
<Machine uuid="{564d3b0e-51a7-4c52-9d5e-7c1f2a3b4c5d}" name="rich box" OSType="Debian_64" snapshotFolder="Snapshots">
<Description>first
second</Description>
<MediaRegistry><HardDisks>
<HardDisk uuid="{11112222-3333-4444-8555-666677778880}" location="disk0.vdi" format="VDI" type="Normal"/>
<HardDisk uuid="{11112222-3333-4444-8555-666677778881}" location="disk1.vdi" format="VDI" type="Normal"/>
</HardDisks></MediaRegistry>
<Hardware uuid="{99999999-8888-4777-8666-555544443333}">
<CPU count="3"><PAE enabled="true"/><LongMode enabled="true"/><NestedHWVirt enabled="true"/></CPU>
<Memory RAMSize="640"/>
<HID Pointing="USBTablet" Keyboard="USBKeyboard"/>
<Boot><Order position="1" device="Network"/><Order position="2" device="HardDisk"/><Order position="3" device="DVD"/><Order position="4" device="None"/></Boot>
<Display controller="VBoxSVGA" VRAMSize="77" monitorCount="3" accelerate3D="true"/>
<RemoteDisplay enabled="true"><VRDEProperties><Property name="TCP/Ports" value="4567"/></VRDEProperties></RemoteDisplay>
<Firmware type="EFI"/>
<BIOS><IOAPIC enabled="true"/><SmbiosUuidLittleEndian enabled="true"/></BIOS>
<TrustedPlatformModule type="v2_0" location=""/>
<Chipset type="ICH9"/>
<HPET enabled="true"/>
<RTC localOrUTC="UTC"/>
<USB><Controllers><Controller name="OHCI" type="OHCI"/><Controller name="EHCI" type="EHCI"/></Controllers></USB>
<Network>
<Adapter slot="0" enabled="true" MACAddress="080027112233" type="82543GC"><NAT><Forwarding name="ssh" proto="1" hostport="2222" guestport="22"/></NAT></Adapter>
<Adapter slot="1" enabled="true" MACAddress="080027112244" type="virtio"><BridgedInterface name="enp7s0"/></Adapter>
<Adapter slot="3" enabled="true" MACAddress="080027112255" type="Am79C973" cable="false"><InternalNetwork name="ours"/></Adapter>
<Adapter slot="5" enabled="true" MACAddress="080027112266" type="82540EM"><HostOnlyInterface name="vboxnet7"/></Adapter>
</Network>
<UART><Port slot="1" enabled="true" IOBase="0x2f8" IRQ="3" hostMode="RawFile" path="/srv/log"/></UART>
<AudioAdapter controller="HDA" useDefault="true" driver="ALSA" enabled="true" enabledOut="true"/>
<SharedFolders><SharedFolder name="s" hostPath="/srv/s" writable="true"/></SharedFolders>
<StorageControllers>
<StorageController name="Big" type="AHCI" PortCount="7" useHostIOCache="true" Bootable="true">
<AttachedDevice type="HardDisk" hotpluggable="true" nonrotational="true" discard="true" port="3" device="0"><Image uuid="{11112222-3333-4444-8555-666677778880}"/></AttachedDevice>
<AttachedDevice passthrough="false" type="DVD" hotpluggable="false" port="5" device="0"/>
</StorageController>
<StorageController name="Sas" type="LsiLogicSas" PortCount="9" useHostIOCache="false" Bootable="true">
<AttachedDevice type="HardDisk" hotpluggable="false" port="2" device="0"><Image uuid="{11112222-3333-4444-8555-666677778881}"/></AttachedDevice>
</StorageController>
</StorageControllers>
</Hardware>
</Machine>
</VirtualBox>
`

// rich makes the directory of richBox.
func rich(t *testing.T, o *origin) string {
	t.Helper()
	dir := t.TempDir()
	put(t, filepath.Join(dir, "vm.vbox"), []byte(richBox))
	for i := range 2 {
		name := filepath.Join(dir, diskName(i, "vdi"))
		formatstest.Run(t, dir, "qemu-img", "convert", "-f", "raw", "-O", "vdi", o.raw[i], name)
		stamp(t, name, vdiUUID(i))
	}
	return dir
}

// TestRichBox: a package has VirtualBox's own settings with all that VirtualBox says of a machine, but for what is its
// host's, and they come back.
func TestRichBox(t *testing.T) {
	known := regexp.MustCompile(`^(drives\.\d\.media\.(path|uuid)|drives\.\d\.connected: nothing|guest\.text: nothing|firmware\.vars\.path` +
		`|(displays|shares|others)\.0\.|serials\.0\.(kind|path): )`) // the host's, and what nothing else has words for
	o := newOrigin(t)
	vm := open(t, rich(t, o))
	pkg := filepath.Join(t.TempDir(), "x.ova")
	plan := write(t, vm, named(t, "ova"), target.Options{Profile: "virtualbox"}, pkg, false)
	for _, l := range plan.Losses {
		if s := l.String(); !strings.HasPrefix(s, "share") && !strings.HasPrefix(s, "display") && !strings.HasPrefix(s, "serial 1: what it is connected to") && !strings.HasPrefix(s, "firmware: its variables") {
			t.Errorf("lost: %s", s)
		}
	}
	out := filepath.Join(t.TempDir(), "x")
	in := openNamed(t, pkg, "rich-box.ovf")
	write(t, in, named(t, "vbox"), target.Options{}, out, false)
	for _, d := range machine.Difference(vm.Machine, open(t, out).Machine) {
		if !known.MatchString(d) {
			t.Error(d)
		}
	}
}

// TestRichBoxImport: VirtualBox has the machine as it was.
func TestRichBoxImport(t *testing.T) {
	c := formatstest.NewChroot(t, manage)
	pkg := filepath.Join(c.Root+c.Dir, "rich.ova")
	write(t, open(t, rich(t, newOrigin(t))), named(t, "ova"), target.Options{Profile: "virtualbox"}, pkg, false)
	c.Run(t, manage, "import", c.Dir+"/rich.ova", "--vsys", "0", "--vmname", "rich", "--basefolder", c.Dir+"/vms", "--options", "keepallmacs")
	defer c.Run(t, manage, "unregistervm", "rich", "--delete")
	got := c.Run(t, manage, "showvminfo", "rich", "--machinereadable")
	for _, want := range []string{
		`memory=640`, `cpus=3`, `pae="on"`, `nested-hw-virt="on"`, `vram=77`, `graphicscontroller="vboxsvga"`, `monitorcount=3`, `chipset="ich9"`, `firmware="EFI"`,
		`boot1="net"`, `boot2="disk"`, `boot3="dvd"`, `hpet="on"`, `rtcuseutc="on"`, `hidpointing="usbtablet"`, `hidkeyboard="usbkbd"`,
		`storagecontrollerportcount0="7"`, `storagecontrollerportcount1="9"`, `hardwareuuid="99999999-8888-4777-8666-555544443333"`,
		`nic1="nat"`, `nictype1="82543GC"`, `macaddress1="080027112233"`, `nic2="bridged"`, `bridgeadapter2="enp7s0"`, `nictype2="virtio"`, `nic4="intnet"`, `intnet4="ours"`,
		`cableconnected4="off"`, `nic6="hostonly"`, `hostonlyadapter6="vboxnet7"`, `uart1="off"`, `uart2="0x02f8,3"`, `uartmode2="disconnected"`, `audio="default"`,
		`Forwarding(0)="ssh,tcp,,2222,,22"`,
	} {
		if !strings.Contains(got, want+"\n") {
			t.Errorf("no %s", want)
		}
	}
	if strings.Contains(got, "/srv") || strings.Contains(got, `vrde="on"`) {
		t.Error("it has what was the host's")
	}
	if b, err := os.ReadFile(filepath.Join(c.Root+c.Dir, "vms", "rich", "rich.vbox")); err != nil || !strings.Contains(string(b), `<TrustedPlatformModule type="v2_0"`) {
		t.Errorf("no TPM: %v\n%s", err, b)
	}
	if t.Failed() {
		t.Log(got)
	}
	for i, at := range []string{"Big-3-0", "Sas-2-0"} {
		m := regexp.MustCompile(fmt.Sprintf(`(?m)^"%s"="(.*)"$`, at)).FindStringSubmatch(got)
		if m == nil {
			t.Fatalf("no disk at %s:\n%s", at, got)
		}
		if st, err := os.Stat(c.Root + m[1]); err != nil || st.Size() == 0 {
			t.Errorf("disk %d: %v", i, err)
		}
	}
}

// small is a machine of n disks of 1 KiB on SCSI, 15 on a controller, and a diskette, whose second disk
// may be one that cannot be read.
func small(t *testing.T, n int, unreadable bool) *target.VM {
	t.Helper()
	fsys := fstest.MapFS{"boot.img": {Data: make([]byte, 512)}}
	m := &machine.Machine{Name: "small", CPU: machine.CPU{Count: 1}, Memory: machine.Memory{Bytes: 64 << 20}}
	for i := range n {
		name := fmt.Sprintf("source%d.img", i)
		fsys[name] = &fstest.MapFile{Data: bytes.Repeat([]byte{byte(i + 1)}, 1024)}
		unit := i % 15
		if unit >= 7 {
			unit++ // the controller's own
		}
		m.Drives = append(m.Drives, machine.Drive{Kind: machine.Disk, At: machine.Address{Bus: machine.SCSI, Index: i / 15, Unit: unit}, Media: machine.Media{Path: name, Format: "raw"}})
	}
	m.Drives = append(m.Drives, machine.Drive{Kind: machine.Diskette, At: machine.Address{Bus: machine.Floppy}, Media: machine.Media{Path: "boot.img", Format: "raw"}})
	var files fs.FS = fsys
	if unreadable {
		files = unreadableFS{fsys}
	}
	dir := layers.NewDir(files, "")
	t.Cleanup(func() {
		if err := dir.Close(); err != nil {
			t.Error(err)
		}
	})
	return target.Bare(dir, "", m, target.OpenOptions{Formats: formatsall.Disks()})
}

// TestNoPlace: files of drives that a profile has no place for are not in the package.
func TestNoPlace(t *testing.T) {
	for _, c := range []struct {
		profile        string
		disks, floppys int
	}{{"xen", 15, 0}, {"generic", 20, 1}, {"virtualbox", 20, 1}, {"vmware", 20, 1}} {
		for _, compress := range []bool{false, true} {
			path := filepath.Join(t.TempDir(), "x")
			plan := write(t, small(t, 20, false), named(t, "ovf"), target.Options{Profile: c.profile, Compress: compress}, path, false)
			disks, err := filepath.Glob(filepath.Join(path, "*.vmdk*"))
			if err != nil || len(disks) != c.disks || len(plan.Disks) != c.disks || len(plan.Machine.Drives) != c.disks+c.floppys {
				t.Errorf("%s: %d disks, %d planned, %d drives, %v", c.profile, len(disks), len(plan.Disks), len(plan.Machine.Drives), err)
			}
			floppys, err := filepath.Glob(filepath.Join(path, "*.img"))
			if err != nil || len(floppys) != c.floppys {
				t.Errorf("%s: %q, %v", c.profile, floppys, err)
			}
			left := 0
			for _, l := range plan.Losses {
				if strings.Contains(l.What, "no place") || strings.Contains(l.What, "no floppy") {
					left++
				}
			}
			if left != 21-c.disks-c.floppys {
				t.Errorf("%s: %d drives are said to be left out: %v", c.profile, left, plan.Losses)
			}
			text, err := os.ReadFile(filepath.Join(path, "small.ovf"))
			if err != nil {
				t.Fatal(err)
			}
			e, err := ovf.Decode(text)
			if err != nil || len(e.Problems) > 0 || len(e.Disks) != c.disks || len(e.Files) != c.disks+c.floppys {
				t.Errorf("%s: %v, %v\n%s", c.profile, err, e.Problems, text)
			}
		}
	}
}

// TestUnreadable: what cannot be read is named as the source has it.
func TestUnreadable(t *testing.T) {
	for _, to := range all.Targets(formatsall.Configs()) {
		vm := small(t, 2, true)
		vm.Machine.Drives = vm.Machine.Drives[:2]
		_, err := tryWrite(t, vm, to, target.Options{}, filepath.Join(t.TempDir(), "x"), false)
		if !errors.Is(err, errMedium) || !strings.Contains(fmt.Sprint(err), "source1.img") {
			t.Errorf("%s: %v", to.Name(), err)
		}
	}
}

var errMedium = errors.New("medium error")

// unreadableFS has files of which the second disk cannot be read.
type unreadableFS struct{ fs.FS }

func (u unreadableFS) Open(name string) (fs.File, error) {
	f, err := u.FS.Open(name)
	if err == nil && name == "source1.img" {
		f = unreadableFile{f}
	}
	return f, err
}

type unreadableFile struct{ fs.File }

func (unreadableFile) ReadAt([]byte, int64) (int, error) { return 0, errMedium }
