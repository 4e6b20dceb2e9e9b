package xl

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"tarvm/formats/formatstest"
	"tarvm/formats/machine"
	"tarvm/formats/machine/machinetest"
)

// newJudge returns a function that has libxlutil read a configuration, by the program of testdata, and returns what it
// sees.
func newJudge(t *testing.T) func(t *testing.T, b []byte) string {
	dir := t.TempDir()
	prog := filepath.Join(dir, "xlp")
	return func(t *testing.T, b []byte) string {
		t.Helper()
		if _, err := os.Stat(prog); err != nil {
			formatstest.Compile(t, prog, "testdata/xlp.c", "-lxlutil", "-lxenlight", "-lxentoollog")
		}
		path := filepath.Join(dir, "a.cfg")
		if err := os.WriteFile(path, b, 0o600); err != nil {
			t.Fatal(err)
		}
		text, err := exec.Command(prog, path).CombinedOutput()
		if err != nil {
			t.Errorf("libxlutil: %v\n%s\n%s", err, text, b)
		}
		return string(text)
	}
}

// xluDisks are the lines that xlp prints for the disks of m.
func xluDisks(m *machine.Machine) []string {
	var list []string
	for _, d := range m.Drives {
		k := d.Origin.(*item).disk
		format := map[string]int{"": 4, "raw": 4, "qcow": 1, "qcow2": 2, "vhd": 3, "empty": 5, "qed": 6}[k.format]
		if k.cdrom && k.target == "" {
			format = 5
		}
		ro, cd := 0, 0
		if strings.HasPrefix(k.access, "r") && k.access != "rw" || k.cdrom {
			ro = 1
		}
		if k.cdrom {
			cd = 1
		}
		target := k.target
		if target == "" && !k.hasTarget {
			target = "-"
		}
		list = append(list, fmt.Sprintf("  disk %s vdev=%s fmt=%d ro=%d cd=%d", target, k.vdev, format, ro, cd))
	}
	return list
}

var diskLine = regexp.MustCompile(`(?m)^  disk .*$`)

func TestCorpus(t *testing.T) {
	for _, s := range machinetest.Corpus(t, "libvirt-xlconfig", ".cfg") {
		t.Run(s.Name, func(t *testing.T) {
			if !(Form{}).Probe("x", s.Data) {
				t.Error("not probed")
			}
			if out := machinetest.CheckRoundTrip(t, Form{}, s.Data); !bytes.Equal(out, s.Data) {
				t.Errorf("other bytes: %s", out)
			}
			out, diff := machinetest.CheckFresh(t, Form{}, s.Data)
			for _, d := range diff {
				if strings.HasPrefix(d, "others.") {
					continue // channels: named by a loss, below
				}
				t.Errorf("fresh: %s\n%s", d, out)
			}
		})
	}
}

func TestCorpusJudged(t *testing.T) {
	judge := newJudge(t)
	for _, s := range machinetest.Corpus(t, "libvirt-xlconfig", ".cfg") {
		t.Run(s.Name, func(t *testing.T) {
			m := machinetest.Decode(t, Form{}, s.Data)
			if got, want := diskLine.FindAllString(judge(t, s.Data), -1), xluDisks(m); !slices.Equal(got, want) {
				t.Errorf("libxlutil sees\n%q, not\n%q", got, want)
			}
			out, _ := machinetest.Encode(t, Form{}, machinetest.Strip(m), machine.EncodeOptions{})
			m = machinetest.Decode(t, Form{}, out)
			if got, want := diskLine.FindAllString(judge(t, out), -1), xluDisks(m); !slices.Equal(got, want) {
				t.Errorf("libxlutil sees\n%q, not\n%q", got, want)
			}
		})
	}
}

const sample = `# a guest
name = 'web'; uuid="0123456789ABCDEF0123456789abcdef" # no hyphens
builder = "hvm"
memory = 0x400
maxmem = '2048'
vcpus = 2
maxvcpus=4
bios = "ovmf"
boot = "dcn"
disk = [
	'file:/vm/a.img,hda,w',	# the first
	"/vm/b.qcow2, qcow2, hdb, rw, discard,direct-io-safe",
	'phy:vg/c,xvdc,w',
	'format=vhd,vdev=sda,access=ro,script=block-iscsi,target=iqn=x,portal=1.2.3.4:3260',
	',hdc:cdrom,r',
]
disk += [ "/vm/root,raw,xvdd1,w", "tap:qcow2:/vm/swap,xvdd2,w" ]
vif = [ 'mac=00:16:3E:0:0:1, bridge=xenbr0, model=e1000, vifname=v0,ip=10.0.0.1', 'type=vif', '' ]
vnc=1 ; vnclisten="0.0.0.0:3"
vncpasswd="secret"
usb=1
usbdevice=['tablet', 'host:1234:5678']
soundhw="ac97"
serial=['pty', "tcp:127.0.0.1:4555,server,nowait"]
pci=[ '01:00.0', '02:00.1,permissive=1' ]
p9=[ "tag=share,path=/srv/x,security_model=none" ]
hap=1
vga="qxl"
videoram=128
localtime=1
nestedhvm=1; hpet=0
`

func TestDecode(t *testing.T) {
	m := machinetest.Decode(t, Form{}, []byte(sample))
	want := &machine.Machine{
		Name: "web", UUID: "01234567-89ab-cdef-0123-456789abcdef", Platform: "xen", Virtualization: "hvm",
		Firmware: machine.Firmware{Type: "efi"}, CPU: machine.CPU{Count: 2, Max: 4, Nested: machine.On},
		Memory: machine.Memory{Bytes: 1 << 30, Max: 2 << 30}, Features: machine.Features{HPET: machine.Off},
		Clock: "localtime", Boot: []string{"cdrom", "disk", "network"},
		Controllers: []machine.Controller{
			{Bus: machine.USB},
			{Bus: machine.IDE, Implied: true}, {Bus: machine.Xen, Implied: true}, {Bus: machine.SCSI, Implied: true},
		},
		Drives: []machine.Drive{
			{Kind: machine.Disk, At: machine.Address{Bus: machine.IDE}, ReadOnly: machine.Off, Media: machine.Media{Path: "/vm/a.img"}},
			{Kind: machine.Disk, At: machine.Address{Bus: machine.IDE, Unit: 1}, ReadOnly: machine.Off, Discard: machine.On,
				Media: machine.Media{Path: "/vm/b.qcow2", Format: "qcow2"}},
			{Kind: machine.Disk, At: machine.Address{Bus: machine.Xen, Unit: 2}, ReadOnly: machine.Off, Media: machine.Media{Host: "/dev/vg/c"}},
			{Kind: machine.Disk, At: machine.Address{Bus: machine.SCSI}, ReadOnly: machine.On,
				Media: machine.Media{URL: "block-iscsi:iqn=x,portal=1.2.3.4:3260", Format: "vpc"}},
			{Kind: machine.Optical, At: machine.Address{Bus: machine.IDE, Unit: 2}, ReadOnly: machine.On},
			{Kind: machine.Disk, At: machine.Address{Bus: machine.Xen}, ReadOnly: machine.Off, Media: machine.Media{Path: "/vm/root", Format: "raw"}},
			{Kind: machine.Disk, At: machine.Address{Bus: machine.Xen, Unit: 1}, ReadOnly: machine.Off, Media: machine.Media{Path: "/vm/swap", Format: "qcow2"}},
		},
		NICs: []machine.NIC{
			{MAC: "00:16:3e:00:00:01", Model: "e1000", Kind: machine.Bridged, Network: "xenbr0"},
			{Slot: 1, Model: "netfront"}, {Slot: 2},
		},
		Videos:   []machine.Video{{Model: "qxl", Memory: 128 << 20}},
		Displays: []machine.Display{{Kind: "vnc", Port: 5903, Listen: "0.0.0.0"}},
		Sounds:   []machine.Sound{{Model: "ac97"}},
		Serials: []machine.Port{{Kind: "pty"},
			{Slot: 1, Kind: "tcp", Host: "127.0.0.1", Service: "4555", Server: machine.On}},
		Inputs: []machine.Input{{Kind: "tablet", Bus: "usb"}},
		Shares: []machine.Share{{Name: "share", Path: "/srv/x"}},
		Others: []machine.Other{{Kind: "partition", Name: "xvdd1"}, {Kind: "partition", Name: "xvdd2"},
			{Kind: "usbdevice", Name: "host:1234:5678"},
			{Kind: "hostdev", Name: "01:00.0"}, {Kind: "hostdev", Name: "02:00.1,permissive=1"}},
	}
	for _, d := range machine.Difference(m, want) {
		t.Error(d)
	}
	out := machinetest.CheckRoundTrip(t, Form{}, []byte(sample))
	if string(out) != sample {
		t.Errorf("unchanged, it became\n%s", out)
	}
	newJudge(t)(t, out)
}

// TestChange changes a thing at a time and looks at which lines of the text are others then.
func TestChange(t *testing.T) {
	judge := newJudge(t)
	for _, c := range []struct {
		name        string
		change      func(m *machine.Machine)
		gone, added string // lines
	}{
		{"name", func(m *machine.Machine) { m.Name = `a "b" \c` },
			`name = 'web'; uuid="0123456789ABCDEF0123456789abcdef" # no hyphens`,
			`name = "a \"b\" \\c"; uuid="0123456789ABCDEF0123456789abcdef" # no hyphens`},
		{"no UUID", func(m *machine.Machine) { m.UUID = "" },
			`name = 'web'; uuid="0123456789ABCDEF0123456789abcdef" # no hyphens`, `name = 'web';  # no hyphens`},
		{"memory", func(m *machine.Machine) { m.Memory.Bytes = 512 << 20 }, "memory = 0x400", "memory = 512"},
		{"no maxmem", func(m *machine.Machine) { m.Memory.Max = 0 }, "maxmem = '2048'", ""},
		{"acpi", func(m *machine.Machine) { m.Features.ACPI = machine.On }, "", "acpi = 1"},
		{"type", func(m *machine.Machine) { m.Firmware.Type = "bios" }, `bios = "ovmf"`, `bios = "seabios"`},
		{"media", func(m *machine.Machine) { m.Drives[0].Media = machine.Media{Path: "/vm/x,y.qcow2", Format: "qcow2"} },
			"	'file:/vm/a.img,hda,w',	# the first",
			`	"format=qcow2,vdev=hda,access=w,target=/vm/x,y.qcow2",	# the first`},
		{"insert", func(m *machine.Machine) { m.Drives[4].Media.Path = "/i.iso" }, "	',hdc:cdrom,r',",
			`	"vdev=hdc,access=r,devtype=cdrom,target=/i.iso",`},
		{"keeps flags", func(m *machine.Machine) { m.Drives[1].Discard = machine.Off },
			`	"/vm/b.qcow2, qcow2, hdb, rw, discard,direct-io-safe",`,
			`	"format=qcow2,vdev=hdb,access=rw,no-discard,direct-io-safe,target=/vm/b.qcow2",`},
		{"phy", func(m *machine.Machine) { m.Drives[2].ReadOnly = machine.On }, `	'phy:vg/c,xvdc,w',`,
			`	"vdev=xvdc,access=ro,target=/dev/vg/c",`},
		{"script", func(m *machine.Machine) { m.Drives[3].ReadOnly = machine.Off },
			`	'format=vhd,vdev=sda,access=ro,script=block-iscsi,target=iqn=x,portal=1.2.3.4:3260',`,
			`	"format=vhd,vdev=sda,access=rw,script=block-iscsi,target=iqn=x,portal=1.2.3.4:3260",`},
		{"another disk", func(m *machine.Machine) {
			m.Drives = append(m.Drives, machine.Drive{Kind: machine.Disk, At: machine.Address{Bus: machine.Xen, Unit: 5},
				Media: machine.Media{Path: "/n.img"}})
		}, `disk += [ "/vm/root,raw,xvdd1,w", "tap:qcow2:/vm/swap,xvdd2,w" ]`,
			`disk += [ "/vm/root,raw,xvdd1,w", "tap:qcow2:/vm/swap,xvdd2,w", "vdev=xvdf,target=/n.img" ]`},
		{"nic", func(m *machine.Machine) { m.NICs[0].Network = "br1" },
			"vif = [ 'mac=00:16:3E:0:0:1, bridge=xenbr0, model=e1000, vifname=v0,ip=10.0.0.1', 'type=vif', '' ]",
			`vif = [ "mac=00:16:3e:00:00:01,bridge=br1,model=e1000,vifname=v0,ip=10.0.0.1", 'type=vif', '' ]`},
		{"no nic", func(m *machine.Machine) { m.NICs = m.NICs[1:] },
			"vif = [ 'mac=00:16:3E:0:0:1, bridge=xenbr0, model=e1000, vifname=v0,ip=10.0.0.1', 'type=vif', '' ]",
			`vif = [ 'type=vif', '' ]`},
		{"boot", func(m *machine.Machine) { m.Boot = []string{"network"} }, `boot = "dcn"`, `boot = "n"`},
		{"no sound", func(m *machine.Machine) { m.Sounds = nil }, `soundhw="ac97"`, ""},
		{"one pci", func(m *machine.Machine) { m.Others = m.Others[:4] }, "pci=[ '01:00.0', '02:00.1,permissive=1' ]",
			`pci=[ "01:00.0" ]`},
		{"kernel", func(m *machine.Machine) { m.Kernel = &machine.Kernel{Path: "/k", Args: "quiet"} }, "",
			"kernel = \"/k\"\ncmdline = \"quiet\""},
		{"clock", func(m *machine.Machine) { m.Clock = "" }, "localtime=1", ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			m := machinetest.Decode(t, Form{}, []byte(sample))
			c.change(m)
			out, losses := machinetest.Encode(t, Form{}, m, machine.EncodeOptions{})
			for _, l := range losses {
				t.Error(l)
			}
			was, is := strings.Split(sample, "\n"), strings.Split(string(out), "\n")
			minus := func(a, b []string) string {
				return strings.Join(slices.DeleteFunc(slices.Clone(a), func(s string) bool { return slices.Contains(b, s) }), "\n")
			}
			if got := minus(was, is); got != c.gone {
				t.Errorf("gone:\n%s\nnot\n%s", got, c.gone)
			}
			if got := minus(is, was); got != c.added {
				t.Errorf("added:\n%s\nnot\n%s", got, c.added)
			}
			m2 := machinetest.Decode(t, Form{}, out)
			for i := range m.NICs {
				m.NICs[i].Slot = i // the place in the list
			}
			for _, d := range machine.Difference(m, m2) {
				if !strings.Contains(d, "controllers.") {
					t.Error(d)
				}
			}
			judge(t, out)
		})
	}
}

// TestFresh writes a machine from elsewhere, and looks at what is written and what is said to be lost.
func TestFresh(t *testing.T) {
	m := &machine.Machine{
		Name: "vm", Notes: "n", Platform: "vmware", Version: "vmx-19", Guest: machine.Guest{VMware: "debian12-64"},
		Firmware: machine.Firmware{Type: "efi", SecureBoot: machine.On, Vars: machine.Media{Path: "vm.nvram"}},
		TPM:      &machine.TPM{Version: "2.0"}, CPU: machine.CPU{Count: 4, Sockets: 2, Cores: 2},
		Memory: machine.Memory{Bytes: 3 << 29},
		Drives: []machine.Drive{
			{Kind: machine.Disk, At: machine.Address{Bus: machine.SCSI}, Media: machine.Media{Path: "/d/a.vhd", Format: "vpc"}, Boot: 1},
			{Kind: machine.Disk, At: machine.Address{Bus: machine.NVMe}, Media: machine.Media{Path: "/d/b.qcow2"}},
			{Kind: machine.Disk, At: machine.Address{Bus: machine.SCSI, Unit: 1}, Media: machine.Media{Path: "/d/c.vmdk", Format: "vmdk"}},
			{Kind: machine.Optical, At: machine.Address{Bus: machine.IDE, Unit: 2}, Media: machine.Media{Host: "auto"}},
			{Kind: machine.Diskette, At: machine.Address{Bus: machine.Floppy}, Media: machine.Media{Path: "f.flp"}},
			{Kind: machine.Disk, At: machine.Address{Bus: machine.SCSI, Unit: 2}, Media: machine.Media{Path: "/d/d", Format: "raw"}},
			{Kind: machine.Disk, At: machine.Address{Bus: machine.SCSI, Unit: 3}, Media: machine.Media{Path: "/d/e", Format: "raw"}, ReadOnly: machine.On},
		},
		NICs: []machine.NIC{{Model: "vmxnet3", MAC: "00:50:56:00:00:01", Kind: machine.NAT, Boot: 2},
			{Slot: 1, Model: "e1000e", Kind: machine.HostOnly, Network: "VMnet 1"}},
		Videos: []machine.Video{{Model: "vmvga", Memory: 4 << 20}}, Sounds: []machine.Sound{{Model: "es1371"}},
		Serials: []machine.Port{{Slot: 1, Kind: "file", Path: "/log"}},
		Inputs:  []machine.Input{{Kind: "tablet", Bus: "usb"}},
	}
	out, losses := machinetest.Encode(t, Form{}, m, machine.EncodeOptions{})
	want := `name = "vm"
type = "hvm"
memory = 1536
vcpus = 4
bios = "ovmf"
boot = "cn"
vga = "stdvga"
videoram = 16
soundhw = "es1370"
serial = [ "none", "file:/log" ]
usb = 1
usbdevice = "tablet"
disk = [ "format=vhd,vdev=hda,target=/d/a.vhd", "format=qcow2,vdev=hdb,target=/d/b.qcow2", ` +
		`"vdev=hdc,devtype=cdrom", "format=raw,vdev=hdd,target=/d/d", "format=raw,vdev=xvde,access=ro,target=/d/e" ]
vif = [ "mac=00:50:56:00:00:01,script=vif-nat,model=e1000", "model=e1000e" ]
`
	if string(out) != want {
		t.Errorf("written:\n%s\nnot\n%s", out, want)
	}
	var lines []string
	for _, l := range losses {
		lines = append(lines, l.String())
	}
	wantLost := []string{
		"notes: left out: xl.cfg has none",
		"guest: left out: xl.cfg does not say which operating system it is",
		"firmware: secure boot is left out: xl.cfg has none",
		"firmware: variables vm.nvram are left out: Xen keeps none in a file",
		"tpm: left out: xl.cfg has no emulated TPM; vtpm= wants a domain of its own",
		"cpu: topology of 2 sockets, 2 cores and 1 threads is left out: xl.cfg has none",
		"drive scsi0:0: becomes ide0:0 (hda, and xvda with Xen's drivers)",
		"drive scsi0:0: its place in the boot order becomes that of its kind",
		"drive nvme0:0: becomes ide0:1 (hdb, and xvdb with Xen's drivers)",
		"drive scsi0:1: left out: xl reads raw, qcow, qcow2, qed and vhd, not vmdk",
		"drive ide0:2: medium auto is left out: xl.cfg cannot say it",
		"drive fdc0:0: left out: xl has no diskette drives",
		"drive scsi0:2: becomes ide0:3 (hdd, and xvdd with Xen's drivers)",
		"drive scsi0:3: becomes xen0:4 (xvde)",
		"nic 0: model vmxnet3 becomes e1000",
		"nic 0: its place in the boot order becomes that of its kind",
		"nic 1: hostonly VMnet 1 becomes xl's own bridge",
		"video 0: model vmvga becomes vga",
		"video 0: memory 4194304 becomes 16777216",
		"sound 0: model es1371 becomes es1370",
	}
	if !slices.Equal(lines, wantLost) {
		t.Errorf("lost:\n%s\nnot\n%s", strings.Join(lines, "\n"), strings.Join(wantLost, "\n"))
	}
	newJudge(t)(t, out)
}

// TestPlaces gives each bus its names.
func TestPlaces(t *testing.T) {
	judge := newJudge(t)
	disk := func(b machine.Bus, unit int) machine.Drive {
		return machine.Drive{Kind: machine.Disk, At: machine.Address{Bus: b, Unit: unit}, Media: machine.Media{Path: "/x", Format: "raw"}}
	}
	cd := func(b machine.Bus, unit int) machine.Drive {
		return machine.Drive{Kind: machine.Optical, At: machine.Address{Bus: b, Unit: unit}}
	}
	for _, c := range []struct {
		name     string
		platform string
		virt     string
		drives   []machine.Drive
		want     string
	}{
		{"kvm", "kvm", "", []machine.Drive{disk(machine.Virtio, 0), disk(machine.Virtio, 1), cd(machine.SATA, 0)}, "hdb hdc hda"},
		{"sata", "virtualbox", "", []machine.Drive{disk(machine.SATA, 0), cd(machine.SATA, 1), disk(machine.SATA, 7)}, "hda hdb hdc"},
		{"xen", "xen", "", []machine.Drive{disk(machine.Xen, 0), disk(machine.SCSI, 8), disk(machine.Virtio, 0), cd(machine.Xen, 1)}, "hda sdh hdc hdb"},
		{"xen, to boot from", "xen", "", []machine.Drive{disk(machine.Xen, 0), cd(machine.Xen, 3), disk(machine.Xen, 1), disk(machine.Xen, 4), disk(machine.Xen, 2)}, "hda hdd hdb xvde hdc"},
		{"xen, without one", "xen", "pv", []machine.Drive{disk(machine.Xen, 0), cd(machine.Xen, 3)}, "xvda xvdd"},
		{"xvda and hda are one", "xen", "", []machine.Drive{disk(machine.Xen, 4), disk(machine.Xen, 0), disk(machine.IDE, 0), disk(machine.NVMe, 0)}, "xvde hda hdb hdc"},
		{"pv", "vmware", "pv", []machine.Drive{disk(machine.SCSI, 0), disk(machine.SCSI, 1), cd(machine.IDE, 0)}, "xvdb xvdc xvda"},
		{"optical", "kvm", "", []machine.Drive{cd(machine.SATA, 0), cd(machine.SATA, 1), cd(machine.SATA, 2), cd(machine.SATA, 3),
			cd(machine.SATA, 4), disk(machine.SATA, 5)}, "hda hdb hdc hdd - xvde"},
	} {
		m := &machine.Machine{Platform: c.platform, Virtualization: c.virt, Drives: c.drives}
		w := &writer{o: &origin{was: &machine.Machine{}}, m: m}
		w.place()
		var got []string
		for _, s := range w.spots {
			if s.vdev == "" {
				s.vdev = "-"
			}
			got = append(got, s.vdev)
		}
		if s := strings.Join(got, " "); s != c.want {
			t.Errorf("%s: %s, not %s", c.name, s, c.want)
		}
		out, _ := machinetest.Encode(t, Form{}, m, machine.EncodeOptions{})
		judge(t, out)
	}
}

func TestVdev(t *testing.T) {
	for s, want := range map[string]place{
		"hda": {machine.IDE, 0, 0}, "hdd63": {machine.IDE, 3, 63}, "xvda": {machine.Xen, 0, 0}, "xvdaa": {machine.Xen, 26, 0},
		"xvdz15": {machine.Xen, 25, 15}, "sdp": {machine.SCSI, 15, 0}, "d3p1": {machine.Xen, 3, 1}, "768": {machine.IDE, 0, 0},
		"0x1600": {machine.IDE, 2, 0}, "5696": {machine.IDE, 3, 0}, "51728": {machine.Xen, 1, 0}, "2049": {machine.SCSI, 0, 1},
		"0x10000100": {machine.Xen, 1, 0}, "/dev/xvdb": {machine.Xen, 1, 0},
	} {
		if got, err := vdevPlace(s); err != nil || got != want {
			t.Errorf("%s: %v, %v", s, got, err)
		}
	}
	for _, s := range []string{"", "hde", "sdq", "xvd", "hd1", "hda0", "hda64", "sda16", "d1", "dp", "fda", "xvdaaaaaa", "9999999999", "hdA", "1"} {
		if got, err := vdevPlace(s); err == nil {
			t.Errorf("%s is %v", s, got)
		}
	}
	for _, n := range []int{0, 25, 26, 701, 702, 99999} {
		if got, err := vdevPlace(deviceName("xvd", n)); err != nil || got.disk != n {
			t.Errorf("%d: %s, %v", n, deviceName("xvd", n), err)
		}
	}
}

func TestRefused(t *testing.T) {
	for _, c := range []struct{ name, text, want string }{
		{"empty", "", "no settings"},
		{"comments", "# x\n\n", "no settings"},
		{"python import", "import os\nname='x'", "Python"},
		{"python call", "arch = os.uname()[4]", "Python"},
		{"python if", "if 1:\n", "Python"},
		{"python sum", "name='x'\nvcpus = 1+1", "line 2"},
		{"python format", "name = \"a%d\" % 3", "end of the line"},
		{"python None", "name = None", "Python"},
		{"two on a line", `name="a" memory=3`, "end of the line"},
		{"no string end", `name="a`, "does not end"},
		{"string over lines", "name=\"a\nb\"", "does not end in its line"},
		{"NUL", "name=\"a\x00b\"", "does not end in its line"},
		{"escape", `name="a\q"`, "no escape"},
		{"numeric escape", `name="\x41"`, "numeric escape"},
		{"no list end", `disk=["a"`, "comma or ]"},
		{"comma first", `disk=[,]`, ""},
		{"deep", "a=" + strings.Repeat("[", 1<<16), "lists within lists"},
		{"wide", "a=[" + strings.Repeat("1,", 1<<17) + "]", "values"},
		{"large", "#" + strings.Repeat(" ", machine.MaxConfig), "limit"},
		{"mark", "\xef\xbb\xbfname='a'", "byte order mark"},
		{"memory", "memory=\"lots\"", "no number"},
		{"memory huge", "memory=99999999999999999999", "no number"},
		{"memory large", "memory=0x20000000000", "at most"},
		{"memory negative", "memory='-1'", "no number"},
		{"vcpus", "vcpus=70000", "at most"},
		{"unit", "memory='512M'", "no number"},
		{"type", "type='kvm'", "type"},
		{"uuid", "uuid='1234'", "uuid"},
		{"mac", "vif=['mac=00:11:22:33:44']", "mac"},
		{"mac digits", "vif=['mac=00:11:22:33:44:123']", "mac"},
		{"vdev twice", "disk=['/a,raw,hda,w','/b,raw,hda,w']", "twice"},
		{"vdev", "disk=['/a,raw,zzz,w']", "name of a device"},
		{"no vdev", "disk=['/a']", "no vdev"},
		{"format", "disk=['/a,vmdk,hda,w']", "format"},
		{"access", "disk=['/a,raw,hda,q']", "access"},
		{"devtype", "disk=['devtype=tape,vdev=hda,target=/a']", "devtype"},
		{"positional", "disk=['/a,raw,hda,w,x']", "more than"},
		{"twice", "disk=['vdev=hda,vdev=hdb,target=/a']", "given twice"},
		{"list in disk", "disk=[['/a,raw,hda,w']]", "list"},
		{"added", "disk=['/a,raw,hda,w']\ndisk+='x'", "list and a string"},
		{"vnc", "vfb=['vnc=1,vncdisplay=99999']", "vncdisplay"},
	} {
		_, err := Form{}.Decode([]byte(c.text))
		var s *machine.SyntaxError
		if !errors.As(err, &s) || !strings.Contains(err.Error(), c.want) {
			if c.name == "comma first" && err == nil {
				t.Errorf("%s: taken", c.name)
				continue
			}
			t.Errorf("%s: %v", c.name, err)
		}
	}
	for i := range len(sample) { // a cut is refused, or read
		if _, err := (Form{}).Decode([]byte(sample[:i])); err != nil {
			var s *machine.SyntaxError
			if !errors.As(err, &s) {
				t.Fatalf("cut at %d: %v", i, err)
			}
		}
	}
}

func TestProbe(t *testing.T) {
	for text, want := range map[string]bool{
		sample: true,
		"import os\nname='a'\nmemory = 128\ndisk=[]\n": true,
		"":               false,
		"name = \"a\"\n": false,
		"config.version = \"8\"\nmemory = \"1\"\nname=\"x\"\n": false,
		"<domain/>":                   false,
		"[section]\nname=a\ntype=b\n": false,
		"name='a'\nmemory=1\n\x00":    false,
	} {
		if got := (Form{}).Probe("a.cfg", []byte(text)); got != want {
			t.Errorf("%q: %v", text, got)
		}
	}
}

func FuzzDecode(f *testing.F) { machinetest.Fuzz(f, Form{}, seeds()...) }

func TestEdits(t *testing.T) {
	machinetest.Edits(t, func(t *testing.T, b []byte) {
		machinetest.Survive(t, Form{}, b)
		changed(t, b, uint16(len(b)*7919))
	}, seeds()...)
}

// seeds are small files, and those of the corpus where it is.
func seeds() [][]byte {
	list := [][]byte{[]byte(sample), []byte("name='a'\nmemory=1\n"), []byte("type='pv'\ndisk=[ 'target=/a,b,vdev=xvda1' ]\nvfb=['vnc=1']")}
	if paths, err := filepath.Glob("../../../shared/corpus/ovf/libvirt-xlconfig/*.cfg"); err == nil {
		for _, path := range paths {
			if b, err := os.ReadFile(path); err == nil {
				list = append(list, b)
			}
		}
	}
	return list
}

// FuzzChange changes what was read. What is then read again is that, but for what is said to be lost.
func FuzzChange(f *testing.F) {
	for n := range 12 {
		f.Add([]byte(sample), uint16(1<<n))
	}
	f.Add([]byte("type='hvm';disk=['/a,raw,hda,w'];disk+=['/b,raw,hdb,w'];vif=['']# x"), uint16(0xffff))
	f.Add([]byte("name='a'\nname+='b'\nvnc=1;usb=1"), uint16(0xffff))
	f.Fuzz(changed)
}

func changed(t *testing.T, b []byte, n uint16) {
	m, err := Form{}.Decode(b)
	if err != nil {
		return
	}
	for i, change := range []func(){
		func() { m.Name = "new" },
		func() { m.Memory.Bytes = 77 << 20 },
		func() { m.UUID = "" },
		func() { m.Features.ACPI = machine.On },
		func() { m.Virtualization = "hvm" },
		func() { m.Firmware = machine.Firmware{Type: "efi"} },
		func() {
			m.Drives = slices.DeleteFunc(m.Drives, func(d machine.Drive) bool { return d.Kind == machine.Optical })
		},
		func() { m.Drives = m.Drives[:len(m.Drives)/2] },
		func() {
			a := m.Free(machine.Xen, 0, 30)
			m.Drives = append(m.Drives, machine.Drive{Kind: machine.Disk, At: a, Media: machine.Media{Path: "/n,w", Format: "qcow2"}})
		},
		func() {
			m.NICs = append(m.NICs, machine.NIC{MAC: "00:16:3e:01:02:03", Kind: machine.Bridged, Network: "br9"})
		},
		func() { m.NICs = m.NICs[len(m.NICs)/2:] },
		func() { m.Kernel = &machine.Kernel{Path: "/k", Args: `a "b"`} },
		func() { m.Displays = []machine.Display{{Kind: "vnc", Port: 5901, Listen: "::"}} },
		func() { m.Sounds = nil },
		func() { m.Serials = []machine.Port{{Slot: 1, Kind: "pty"}} },
		func() { m.Boot = []string{"network", "disk"} },
	} {
		if n>>i&1 != 0 {
			change()
		}
	}
	out, losses, err := Form{}.Encode(m, machine.EncodeOptions{})
	if err != nil {
		t.Fatal(err)
	}
	m2, err := Form{}.Decode(out)
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	if len(losses) > 0 {
		return
	}
	for i := range m.NICs {
		m.NICs[i].Slot = i // the place in the list
	}
	for _, d := range machine.Difference(m, m2) {
		if !strings.HasPrefix(d, "controllers.") && !strings.Contains(d, ": nothing, ") {
			t.Errorf("%s\nfrom %q\nto %q", d, b, out)
		}
	}
}
