package xva_test

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"
	"testing/fstest"

	"github.com/klauspost/compress/zstd"

	"tarvm/formats"
	"tarvm/formats/formatstest"
	"tarvm/formats/machine"
	"tarvm/formats/machine/machinetest"
	"tarvm/formats/raw"
	"tarvm/ovf/xva"
)

// A made is a machine of testdata/machines.json.
type made struct {
	File, Name, Description, Firmware string
	Memory                            int64
	CPUs                              int
	Disks                             []struct {
		Label string
		Size  int64
		Runs  [][2]int64
	}
	Networks []struct {
		MACAddress  string
		IsGenerated bool
	}
}

func machines(t testing.TB) []made {
	t.Helper()
	b, err := os.ReadFile("testdata/machines.json")
	if err != nil {
		t.Fatal(err)
	}
	var list []made
	if err := json.Unmarshal(b, &list); err != nil {
		t.Fatal(err)
	}
	return list
}

// content is the disk that make.mjs makes of a description, in whole MiB, as the writer pads it.
func content(size int64, runs [][2]int64) []byte {
	b := make([]byte, (size+1<<20-1)>>20<<20)
	for _, r := range runs {
		for i := r[0]; i < min(r[0]+r[1], size); i++ {
			b[i] = byte(i%251 + 1)
		}
	}
	return b
}

// plain unpacks a golden.
func plain(t testing.TB, path string) []byte {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	var out bytes.Buffer
	if _, err := xva.Decompress(context.Background(), &out, bytes.NewReader(b), 1<<30); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

func open(t testing.TB, b []byte) *xva.Package {
	t.Helper()
	p, err := xva.Open(bytes.NewReader(b))
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// verify demands that no digest is wrong and nothing is odd.
func verify(t testing.TB, p *xva.Package) {
	t.Helper()
	for _, pr := range p.Problems {
		t.Errorf("problem: %s", pr)
	}
	var done int64
	err := p.Verify(context.Background(), func(pr formats.Problem) { t.Errorf("problem: %s", pr) }, func(n int64) { done = n })
	if err != nil || done == 0 {
		t.Errorf("verify: %d bytes, %v", done, err)
	}
}

// Files that Xen Orchestra's writer made: what was put in comes out.
func TestForeign(t *testing.T) {
	for _, w := range machines(t) {
		t.Run(w.File, func(t *testing.T) {
			p := open(t, plain(t, "testdata/xo-"+w.File+".xva.gz"))
			verify(t, p)
			m := p.Machine
			if m.Name != w.Name || m.Notes != w.Description && !(w.Description == "" && m.Notes == "") || m.Memory.Bytes != w.Memory || m.Memory.Max != 0 ||
				m.CPU.Count != w.CPUs || m.Virtualization != "hvm" || m.Platform != "xen" || m.UUID == "" ||
				m.Firmware.Type != map[string]string{"bios": "bios", "uefi": "efi"}[w.Firmware] ||
				m.Firmware.SecureBoot != machine.Off || m.Features.ACPI != machine.On || !slices.Equal(m.Boot, []string{"cdrom", "disk", "network"}) {
				t.Errorf("machine %+v", m)
			}
			if p.Version != "XCP-ng 8.2.1" || len(p.Systems) != 1 || p.Systems[0].Kind != xva.Normal || len(p.Others) != 0 {
				t.Errorf("%q, %+v, %d others", p.Version, p.Systems, len(p.Others))
			}
			if len(p.Disks) != len(w.Disks) || len(m.Drives) != len(w.Disks) {
				t.Fatalf("%d disks, %d drives", len(p.Disks), len(m.Drives))
			}
			names := map[string]bool{}
			for i, d := range p.Disks {
				want := content(w.Disks[i].Size, w.Disks[i].Runs)
				formatstest.CheckDisk(t, d.Content, bytes.NewReader(want))
				// This writer counts devices from 1.
				if d.At != (machine.Address{Bus: machine.Xen, Unit: i + 1}) || d.Label != w.Disks[i].Label || names[d.Name] {
					t.Errorf("disk %d: %+v", i, d)
				}
				names[d.Name] = true
				v := m.DriveAt(d.At)
				if v.Media.Path != d.Name || v.Media.Capacity != int64(len(want)) || v.Media.Format != "raw" || v.Media.UUID == "" {
					t.Errorf("drive %d: %+v", i, v)
				}
				checkHoles(t, p.FS(), d.Name, want)
				compare(t, p.FS(), d.Name, want)
			}
			for i, n := range w.Networks {
				got := m.NICs[i]
				if got.Slot != i+1 || got.MAC != strings.ToLower(n.MACAddress) || got.Generated != n.IsGenerated ||
					got.Kind != machine.Named || got.Network != "Pool-wide network" || got.Model != "" {
					t.Errorf("nic %d: %+v", i, got)
				}
			}
			if len(m.NICs) != len(w.Networks) {
				t.Errorf("%d nics", len(m.NICs))
			}
		})
	}
}

// Labels that lead elsewhere, or are there twice, become names that do not.
func TestNames(t *testing.T) {
	p := open(t, plain(t, "testdata/xo-three.xva.gz"))
	var names []string
	for _, d := range p.Disks {
		names = append(names, d.Name)
	}
	if want := []string{"data.raw", "data-2.raw", "_.._etc_passwd.raw"}; !slices.Equal(names, want) {
		t.Errorf("%q", names)
	}
	if err := fstest.TestFS(open(t, build(doc("1500"), xx("Ref:2/00000000", fill(1000, 7))...)).FS(), "d.raw", "ova.xml"); err != nil {
		t.Error(err)
	}
	for _, bad := range []string{"../ova.xml", "/ova.xml", "nothing", "data.raw/x"} {
		if _, err := p.FS().Open(bad); err == nil {
			t.Errorf("%q opens", bad)
		}
	}
}

// checkHoles demands that a file's holes are zero and its first data is found.
func checkHoles(t *testing.T, f fs.FS, name string, want []byte) {
	t.Helper()
	o, err := f.Open(name)
	if err != nil {
		t.Fatal(err)
	}
	defer o.Close()
	src, ok := o.(interface {
		formats.Source
		raw.Sparse
	})
	if !ok {
		t.Fatalf("%T tells no holes", o)
	}
	covered := make([]bool, len(want)>>20)
	for off := int64(0); off < src.Size(); {
		start, end, err := src.DataAt(off)
		if err != nil || start < off || end < start {
			t.Fatalf("data at %d: %d to %d, %v", off, start, end, err)
		}
		for at := start >> 20; at < end>>20; at++ {
			covered[at] = true
		}
		off = max(end, start)
		if start == src.Size() {
			break
		}
	}
	holes := 0
	for i, c := range covered {
		if !c {
			holes++
		}
		if !c && !formats.IsZero(want[i<<20:][:1<<20]) {
			t.Fatalf("MiB %d is data, and a hole", i)
		}
	}
	if len(covered) > 4 && holes == 0 {
		t.Error("no holes")
	}
	d, err := formats.NewDisk(&formats.Image{Map: raw.NewMapper(src), Files: []formats.Source{src}})
	if err != nil {
		t.Fatal(err)
	}
	formatstest.CheckExtents(t, d)
}

// compare has qemu-img compare a disk.
func compare(t *testing.T, f fs.FS, name string, want []byte) {
	t.Helper()
	if _, err := exec.LookPath("qemu-img"); err != nil && os.Getenv("TARVM_REQUIRE_TOOLS") != "1" {
		return
	}
	dir := t.TempDir()
	b, err := fs.ReadFile(f, name)
	if err != nil {
		t.Fatal(err)
	}
	for n, b := range map[string][]byte{"got": b, "want": want} {
		if err := os.WriteFile(filepath.Join(dir, n), b, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	out := formatstest.Run(t, dir, "qemu-img", "compare", "-s", "-f", "raw", "-F", "raw", "got", "want")
	if !strings.Contains(string(out), "identical") {
		t.Errorf("%s", out)
	}
}

// What Xen Orchestra wrote for others.
func TestCorpus(t *testing.T) {
	for _, s := range machinetest.Corpus(t, "made-by-clients", ".xva.gz") {
		p := open(t, plain(t, s.Path))
		verify(t, p)
		if p.Machine.Name != "t" || p.Machine.Memory.Bytes != 512<<20 || len(p.Disks) != 1 || p.Disks[0].Content.Size() != 4<<20 {
			t.Errorf("%s: %+v", s.Name, p.Machine)
		}
		formatstest.CheckExtents(t, p.Disks[0].Content)
	}
}

func ova(t testing.TB, path string) []byte {
	t.Helper()
	b, err := fs.ReadFile(open(t, plain(t, path)).FS(), "ova.xml")
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// full is a machine with all that this form has words for.
func full() *machine.Machine {
	return &machine.Machine{
		Name: "full <&>\r\n", Notes: "one\n\ttwo ☃", UUID: "01234567-89ab-cdef-0123-456789abcdef", Platform: "xen", Virtualization: "hvm",
		Firmware: machine.Firmware{Type: "efi", SecureBoot: machine.On},
		CPU:      machine.CPU{Count: 2, Max: 8, Cores: 4, Nested: machine.On},
		Memory:   machine.Memory{Bytes: 2 << 30, Max: 4 << 30},
		Features: machine.Features{ACPI: machine.On, APIC: machine.On, PAE: machine.On, HPET: machine.Off},
		Boot:     []string{"disk", "cdrom", "network", "floppy"},
		Controllers: []machine.Controller{
			{Bus: machine.Xen, Implied: true},
		},
		Drives: []machine.Drive{
			{
				Kind: machine.Disk, At: machine.Address{Bus: machine.Xen},
				Media: machine.Media{Path: "a.raw", Format: "raw", Capacity: 5 << 20, UUID: "11111111-89ab-cdef-0123-456789abcdef"},
			},
			{
				Kind: machine.Disk, At: machine.Address{Bus: machine.Xen, Unit: 2}, ReadOnly: machine.On, Shared: machine.On,
				Media: machine.Media{Path: "b.raw", Format: "raw", Capacity: 7 << 20, UUID: "21111111-89ab-cdef-0123-456789abcdef"},
			},
			{Kind: machine.Optical, At: machine.Address{Bus: machine.Xen, Unit: 3}},
		},
		NICs: []machine.NIC{
			{Slot: 0, Model: "e1000", MAC: "00:16:3e:00:00:01", Kind: machine.Named, Network: "LAN"},
			{Slot: 3, Model: "e1000", MAC: "00:16:3e:00:00:02", Generated: true, Kind: machine.Named, Network: "LAN"},
			{Slot: 4, Model: "e1000", Kind: machine.Named, Network: "DMZ"},
		},
		Videos: []machine.Video{{Model: "vga", Memory: 16 << 20}},
	}
}

// Every setting goes out and comes back.
func TestBothWays(t *testing.T) {
	c := xva.Config{}
	b, losses := machinetest.Encode(t, c, full(), machine.EncodeOptions{})
	for _, l := range losses {
		t.Errorf("loss %s", l)
	}
	for _, d := range machine.Difference(full(), machinetest.Decode(t, c, b)) {
		t.Error(d)
	}
	machinetest.CheckRoundTrip(t, c, b)
	for name, change := range map[string]func(m *machine.Machine){
		"name":        func(m *machine.Machine) { m.Name = "" },
		"uuid":        func(m *machine.Machine) { m.UUID = "ffffffff-89ab-cdef-0123-456789abcdef" },
		"bios":        func(m *machine.Machine) { m.Firmware.Type = "bios" },
		"secure boot": func(m *machine.Machine) { m.Firmware.SecureBoot = machine.Off },
		"cpus":        func(m *machine.Machine) { m.CPU = machine.CPU{Count: 3} },
		"cores":       func(m *machine.Machine) { m.CPU.Cores = 2 },
		"not nested":  func(m *machine.Machine) { m.CPU.Nested = machine.Off },
		"memory":      func(m *machine.Machine) { m.Memory = machine.Memory{Bytes: 1 << 28} },
		"features": func(m *machine.Machine) {
			m.Features = machine.Features{ACPI: machine.Off, APIC: machine.Off, PAE: machine.Off, HPET: machine.On}
		},
		"boot":      func(m *machine.Machine) { m.Boot = []string{"network"} },
		"no video":  func(m *machine.Machine) { m.Videos = nil },
		"cirrus":    func(m *machine.Machine) { m.Videos = []machine.Video{{Model: "cirrus"}} },
		"no drives": func(m *machine.Machine) { m.Drives, m.Controllers = nil, nil },
		"one less":  func(m *machine.Machine) { m.Drives = m.Drives[1:] },
		"writable":  func(m *machine.Machine) { m.Drives[1].ReadOnly, m.Drives[1].Shared = 0, 0 },
		"move":      func(m *machine.Machine) { m.Drives[0].At.Unit = 1 },
		"grow":      func(m *machine.Machine) { m.Drives[0].Media.Capacity = 9 << 20 },
		"rename":    func(m *machine.Machine) { m.Drives[0].Media.Path = "x.raw" },
		"disk uuid": func(m *machine.Machine) { m.Drives[0].Media.UUID = "ffffffff-89ab-cdef-0123-456789abcdef" },
		"no nics":   func(m *machine.Machine) { m.NICs = nil },
		"mac":       func(m *machine.Machine) { m.NICs[1].MAC = "00:16:3e:00:00:ff"; m.NICs[1].Generated = false },
		"network":   func(m *machine.Machine) { m.NICs[0].Network = "other" },
		"rtl8139": func(m *machine.Machine) {
			for i := range m.NICs {
				m.NICs[i].Model = "rtl8139"
			}
		},
		"no model": func(m *machine.Machine) {
			for i := range m.NICs {
				m.NICs[i].Model = ""
			}
		},
		"pv": func(m *machine.Machine) {
			m.Virtualization, m.Firmware, m.Boot = "pv", machine.Firmware{SecureBoot: machine.On}, nil
			m.Kernel = &machine.Kernel{Path: "/boot/vmlinuz", Initrd: "/boot/initrd", Args: "quiet"}
		},
		"pvh": func(m *machine.Machine) {
			m.Virtualization = "pvh"
			m.Kernel = &machine.Kernel{Path: "/k"}
		},
	} {
		t.Run(name, func(t *testing.T) {
			// As a new machine, and as a change of one that was read.
			fresh, read := full(), machinetest.Decode(t, c, b)
			change(fresh)
			change(read)
			for what, m := range map[string]*machine.Machine{"new": fresh, "changed": read} {
				out, losses := machinetest.Encode(t, c, m, machine.EncodeOptions{})
				for _, l := range losses {
					t.Errorf("%s: loss %s", what, l)
				}
				back := machinetest.Decode(t, c, out)
				if err := m.Complete(); err != nil {
					t.Fatal(err)
				}
				for _, d := range machine.Difference(m, back) {
					t.Errorf("%s: %s", what, d)
				}
			}
		})
	}
}

// An ova.xml comes back as it was: each object, field and type.
func TestKeepsAll(t *testing.T) {
	samples := map[string][]byte{"by hand": handmade(t)}
	for _, w := range machines(t) {
		samples[w.File] = ova(t, "testdata/xo-"+w.File+".xva.gz")
	}
	for name, b := range samples {
		t.Run(name, func(t *testing.T) {
			out := machinetest.CheckRoundTrip(t, xva.Config{}, b)
			got, want := flat(t, out), flat(t, b)
			for k, v := range want {
				if got[k] != v {
					t.Errorf("%s was %q and is %q", k, v, got[k])
				}
			}
			if len(got) != len(want) || len(want) < 100 {
				t.Errorf("%d values, had %d", len(got), len(want))
			}
		})
	}
}

// Without the document that they came from, machines say the same but for what the form demands.
func TestFresh(t *testing.T) {
	for _, w := range machines(t) {
		out, differences := machinetest.CheckFresh(t, xva.Config{}, ova(t, "testdata/xo-"+w.File+".xva.gz"))
		for _, d := range differences {
			t.Errorf("%s: %s\n", w.File, d)
		}
		machinetest.CheckRoundTrip(t, xva.Config{}, out)
	}
}

func handmade(t testing.TB) []byte {
	t.Helper()
	b, err := os.ReadFile("testdata/xenserver-5.5.xml")
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// An old export: no domain_type, memory before it was dynamic, devices by name, a template and a snapshot beside the
// machine, an ISO in the drive, a suspended machine's memory.
func TestOld(t *testing.T) {
	m := machinetest.Decode(t, xva.Config{}, handmade(t))
	want := &machine.Machine{
		Name: "old", UUID: "aaaaaaaa-0000-0000-0000-000000000001", Platform: "xen", Virtualization: "pv",
		Guest: machine.Guest{Text: "CentOS release 5.5 (Final)"},
		CPU:   machine.CPU{Count: 1}, Memory: machine.Memory{Bytes: 256 << 20},
		Features:    machine.Features{ACPI: machine.On, APIC: machine.On, PAE: machine.On},
		Kernel:      &machine.Kernel{Path: "/boot/guest/vmlinuz", Args: "ro"},
		Controllers: []machine.Controller{{Bus: machine.Xen, Implied: true}},
		Drives: []machine.Drive{
			{
				Kind: machine.Disk, At: machine.Address{Bus: machine.Xen},
				Media: machine.Media{Path: "0.raw", Format: "raw", Capacity: 3<<20 + 512, UUID: "aaaaaaaa-0000-0000-0000-000000000011"},
			},
			{
				Kind: machine.Disk, At: machine.Address{Bus: machine.Xen, Unit: 1}, ReadOnly: machine.On,
				Media: machine.Media{Path: "1.raw", Format: "raw", Capacity: 1 << 20, UUID: "aaaaaaaa-0000-0000-0000-000000000012"},
			},
			{
				Kind: machine.Optical, At: machine.Address{Bus: machine.Xen, Unit: 3},
				Media: machine.Media{Path: "centos.iso", UUID: "aaaaaaaa-0000-0000-0000-000000000013"},
			},
		},
		NICs: []machine.NIC{{MAC: "c2:00:00:00:00:01", Generated: true, Kind: machine.Named, Network: "Pool-wide network associated with eth0"}},
	}
	for _, d := range machine.Difference(want, m) {
		t.Error(d)
	}
}

// losing is a machine of another kind, with what cannot be said.
func losing() *machine.Machine {
	return &machine.Machine{
		Name: "w", Platform: "vmware", Arch: "x86_64", Chipset: "q35", GenerationID: "01234567-89ab-cdef-0123-456789abcdef",
		InstanceUUID: "01234567-89ab-cdef-0123-456789abcdee", Guest: machine.Guest{VMware: "debian12-64"}, Clock: "localtime",
		Firmware: machine.Firmware{Type: "efi", Vars: machine.Media{Path: "w.nvram"}}, TPM: &machine.TPM{Version: "2.0"},
		CPU:    machine.CPU{Count: 4, Sockets: 1, Cores: 1, Threads: 2, Model: "Haswell"},
		Memory: machine.Memory{Bytes: 1 << 30},
		Kernel: &machine.Kernel{Path: "/k"},
		Controllers: []machine.Controller{
			{Bus: machine.SCSI, Model: "vmpvscsi"}, {Bus: machine.SATA}, {Bus: machine.USB, Model: "xhci"}, {Bus: machine.IDE, Model: "piix4"},
			{Bus: machine.Floppy, Implied: true},
		},
		Drives: []machine.Drive{
			{Kind: machine.Disk, At: machine.Address{Bus: machine.SCSI, Unit: 0}, Media: machine.Media{Path: "w.vmdk", Capacity: 1<<20 + 1}, Boot: 2, SSD: machine.On},
			{Kind: machine.Disk, At: machine.Address{Bus: machine.SCSI, Unit: 1}, Media: machine.Media{Path: "w2.vmdk", Capacity: 1 << 20}, Independent: machine.On},
			{Kind: machine.Optical, At: machine.Address{Bus: machine.SATA, Unit: 0}, Media: machine.Media{Path: "x.iso"}, Boot: 1},
			{Kind: machine.Diskette, At: machine.Address{Bus: machine.Floppy}},
		},
		NICs: []machine.NIC{
			{Model: "vmxnet3", MAC: "00:0c:29:00:00:01", Kind: machine.Bridged},
			{Slot: 1, Model: "e1000", Kind: machine.Named, Network: "LAN", Connected: machine.Off},
		},
		Videos: []machine.Video{{Model: "vmvga", Memory: 4 << 20, Accel3D: machine.On}}, Displays: []machine.Display{{Kind: "vnc"}},
		Sounds: []machine.Sound{{Model: "hda"}}, Serials: []machine.Port{{Kind: "file"}}, Parallels: []machine.Port{{Kind: "file"}},
		Inputs: []machine.Input{{Kind: "keyboard", Bus: "usb"}, {Kind: "tablet", Bus: "usb"}}, Shares: []machine.Share{{Name: "s"}},
		Others: []machine.Other{{Kind: "hostdev", Name: "gpu"}},
	}
}

func TestLosses(t *testing.T) {
	b, losses := machinetest.Encode(t, xva.Config{}, losing(), machine.EncodeOptions{})
	var got []string
	for _, l := range losses {
		got = append(got, l.String())
	}
	want := []string{
		"instance uuid: left out: a machine has one UUID",
		"generation id: left out: an import makes a new one",
		`guest: left out: the file says which template a machine was made of, and that becomes "Other install media"`,
		"chipset: q35 becomes i440fx",
		"clock: becomes utc: the file holds the distance from it, which is not known",
		"cpu: 2 threads of a core become cores",
		"cpu: model Haswell left out: guests see the pool's",
		"firmware: variables left out: the content of w.nvram was not given",
		"tpm: left out: its state is not in the file, and an import makes no new one",
		"kernel: left out: only paravirtual machines start one of the host's files",
		"drive scsi0:0: becomes device 0 (xvda)",
		"drive scsi0:0: that it does not rotate: left out",
		"drive scsi0:0: grows from 1048577 to 2097152 bytes: disks are whole MiB",
		"drive scsi0:1: becomes device 1 (xvdb)",
		"drive scsi0:1: independent: snapshots hold it",
		"drive sata0:0: becomes device 3 (xvdd)",
		"drive sata0:0: medium x.iso left out: the drive is empty",
		"drive fdc0:0: left out: there are no floppy drives",
		"nic 0: vmxnet3 becomes XenServer's own (netfront), with rtl8139 for guests without drivers",
		`nic 0: bridged network becomes the one labelled "Network 0"`,
		"nic 1: e1000 becomes XenServer's own (netfront), with rtl8139 for guests without drivers",
		"nic 1: disconnected: left out",
		"controller scsi0: left out: drives are Xen devices",
		"controller sata0: left out: drives are Xen devices",
		"controller usb0: left out: drives are Xen devices",
		"video: vmvga becomes vga",
		"video: 3D left out",
		"display vnc: left out: xapi has the console",
		"sound 0: hda left out",
		"serial: left out: an import makes no ports",
		"parallel: left out: there are no ports",
		"input keyboard: usb becomes ps2",
		"share s: left out",
		"hostdev gpu: left out",
	}
	for i := range max(len(got), len(want)) {
		g, w := "", ""
		if i < len(got) {
			g = got[i]
		}
		if i < len(want) {
			w = want[i]
		}
		if g != w {
			t.Errorf("loss %d: %q, want %q", i, g, w)
		}
	}
	m := machinetest.Decode(t, xva.Config{}, b)
	if !slices.Equal(m.Boot, []string{"cdrom", "disk"}) || m.CPU.Cores != 2 || len(m.Drives) != 3 || m.Drives[2].Kind != machine.Optical {
		t.Errorf("%+v", m)
	}
	if _, _, err := (xva.Config{}).Encode(&machine.Machine{Arch: "aarch64"}, machine.EncodeOptions{}); !errors.Is(err, machine.ErrUnsupported) {
		t.Errorf("aarch64: %v", err)
	}
}

// A drive for discs gets an emulated device although there are many disks, and drives beyond the last are reported.
func TestManyDrives(t *testing.T) {
	m := &machine.Machine{Name: "many"}
	for i := range 17 {
		m.Drives = append(m.Drives, machine.Drive{
			Kind: machine.Disk, At: machine.Address{Bus: machine.SATA, Unit: i}, Media: machine.Media{Path: fmt.Sprintf("%d.raw", i), Capacity: 1 << 20},
		})
	}
	m.Drives = append(m.Drives, machine.Drive{Kind: machine.Optical, At: machine.Address{Bus: machine.SATA, Unit: 20}})
	b, losses := machinetest.Encode(t, xva.Config{}, m, machine.EncodeOptions{})
	back := machinetest.Decode(t, xva.Config{}, b)
	if d := back.DriveAt(machine.Address{Bus: machine.Xen, Unit: 3}); d == nil || d.Kind != machine.Optical || len(back.Drives) != 16 {
		t.Errorf("%d drives, %+v", len(back.Drives), d)
	}
	left := 0
	for _, l := range losses {
		if strings.HasPrefix(l.What, "left out") {
			left++
		}
	}
	if left != 2 {
		t.Errorf("%d are left out: %v", left, losses)
	}
}

// flat lists the leaves of an XML-RPC value, with their types. It is written without the package's own parser.
func flat(t testing.TB, b []byte) map[string]string {
	t.Helper()
	out := map[string]string{}
	type node struct {
		name string
		text string
		kids []*node
	}
	d := newDecoder(b)
	var read func() *node
	read = func() *node {
		n := &node{name: d.name}
		for d.next() {
			switch {
			case d.end:
				return n
			case d.name != "":
				n.kids = append(n.kids, read())
			default:
				n.text += d.text
			}
		}
		return n
	}
	var walk func(n *node, path string)
	walk = func(n *node, path string) {
		if len(n.kids) == 0 {
			out[path+" string"] = n.text
			return
		}
		k := n.kids[0]
		switch k.name {
		case "struct":
			if len(k.kids) == 0 {
				out[path+" struct"] = ""
			}
			for _, m := range k.kids {
				walk(m.kids[1], path+"/"+m.kids[0].text)
			}
		case "array":
			if len(k.kids[0].kids) == 0 {
				out[path+" array"] = ""
			}
			for i, v := range k.kids[0].kids {
				walk(v, fmt.Sprintf("%s/%d", path, i))
			}
		default:
			out[path+" "+k.name] = k.text
		}
	}
	for d.next() {
		if d.name != "" && !d.end {
			walk(read(), "")
		}
	}
	return out
}

// Our ova.xml has every object, field and type that Xen Orchestra's has for such a machine.
func TestFieldsOfXenOrchestra(t *testing.T) {
	src := plain(t, "testdata/xo-three.xva.gz")
	p := open(t, src)
	var out bytes.Buffer
	if _, err := xva.Write(context.Background(), &out, machinetest.Strip(p.Machine), p.Disks, xva.Options{}); err != nil {
		t.Fatal(err)
	}
	ours, err := fs.ReadFile(open(t, out.Bytes()).FS(), "ova.xml")
	if err != nil {
		t.Fatal(err)
	}
	theirs, err := fs.ReadFile(p.FS(), "ova.xml")
	if err != nil {
		t.Fatal(err)
	}
	// Names that xapi's data model does not have.
	skip := map[string]bool{"vbds": true, "vifs": true, "descriptionLabel": true, "$ref": true}
	classes := func(b []byte) map[string]map[string]string {
		f := flat(t, b)
		class := map[string]string{}
		for k, v := range f {
			if parts := strings.Split(k, "/"); len(parts) == 4 && parts[3] == "class string" {
				class[parts[2]] = v
			}
		}
		out := map[string]map[string]string{}
		for k := range f {
			path, kind, _ := strings.Cut(k, " ")
			parts := strings.Split(path, "/")
			if len(parts) < 5 || parts[1] != "objects" || parts[3] != "snapshot" {
				if len(parts) == 3 && parts[1] == "version" {
					put(out, "version", parts[2], kind)
				}
				continue
			}
			name := strings.Join(parts[4:], "/")
			if i := len(parts) - 1; i == 5 && strings.Trim(parts[5], "0123456789") == "" {
				name, kind = parts[4], "array" // of any length
			}
			put(out, class[parts[2]], name, kind)
		}
		return out
	}
	got, want := classes(ours), classes(theirs)
	checked := 0
	for class, names := range want {
		for name, kind := range names {
			if skip[name] {
				continue
			}
			checked++
			g := got[class][name]
			// xapi writes doubles as such; this writer does not.
			if g != kind && !(name == "HVM_shadow_multiplier" && g == "double") && !(kind == "struct" && g == "") {
				t.Errorf("%s.%s is %q, theirs %q", class, name, g, kind)
			}
			if kind == "struct" && g == "" && !strings.Contains(fmt.Sprint(got[class]), name+"/") {
				t.Errorf("%s.%s is not there", class, name)
			}
		}
	}
	if checked < 130 || len(want) != 7 { // version, VM, SR, VDI, VBD, VIF, network
		t.Errorf("compared %d fields of %d classes", checked, len(want))
	}
	t.Logf("%d fields of %d classes", checked, len(want))
}

func put(m map[string]map[string]string, a, b, v string) {
	if m[a] == nil {
		m[a] = map[string]string{}
	}
	m[a][b] = v
}

// A member as a tar reader sees it.
type member struct {
	name string
	data []byte
}

func list(t testing.TB, b []byte) []member {
	t.Helper()
	var out []member
	for r := tar.NewReader(bytes.NewReader(b)); ; {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			return out
		}
		if err != nil {
			t.Fatal(err)
		}
		if h.Format != tar.FormatUSTAR || h.Typeflag != tar.TypeReg || h.Mode != 0o644 {
			t.Errorf("%s: %v %c %o", h.Name, h.Format, h.Typeflag, h.Mode)
		}
		data, err := io.ReadAll(r)
		if err != nil {
			t.Fatal(err)
		}
		out = append(out, member{h.Name, data})
	}
}

// three is a machine with three disks, two of them no whole MiB.
func three(t testing.TB) (*machine.Machine, []xva.Disk, []*formatstest.Pattern) {
	m := &machine.Machine{Name: "three", Firmware: machine.Firmware{Type: "bios"}, CPU: machine.CPU{Count: 2}, Memory: machine.Memory{Bytes: 1 << 30}}
	var disks []xva.Disk
	var patterns []*formatstest.Pattern
	for i, size := range []int64{7<<20 + 512, 3 << 20, 1000} {
		at := machine.Address{Bus: machine.SCSI, Unit: i}
		m.Drives = append(m.Drives, machine.Drive{Kind: machine.Disk, At: at, Media: machine.Media{Path: fmt.Sprintf("d%d.vmdk", i), Capacity: size}})
		p := formatstest.NewPattern(t, uint64(i), size)
		patterns = append(patterns, p)
		disks = append(disks, xva.Disk{At: at, Content: p})
	}
	// The order in which disks are given means nothing.
	slices.Reverse(disks)
	return m, disks, patterns
}

// onlyWriter hides everything else that a writer can do.
type onlyWriter struct{ io.Writer }

func TestWrite(t *testing.T) {
	m, disks, patterns := three(t)
	var first []byte
	for _, workers := range []int{1, 3, 8} {
		var b bytes.Buffer
		last := int64(0)
		losses, err := xva.Write(context.Background(), onlyWriter{&b}, m, disks, xva.Options{
			Workers: workers, Unix: 1e9, ID: [16]byte{1}, Progress: func(n int64) {
				if n < last {
					t.Errorf("progress from %d to %d", last, n)
				}
				last = n
			},
		})
		if err != nil {
			t.Fatal(err)
		}
		if last != 7<<20+512+3<<20+1000 {
			t.Errorf("progress ends at %d", last)
		}
		if len(losses) != 5 { // three devices, two sizes
			t.Errorf("%q", losses)
		}
		if dry, err := xva.Losses(m, disks, xva.Options{}); err != nil || !slices.Equal(dry, losses) {
			t.Errorf("before the work: %q, %v", dry, err)
		}
		if first == nil {
			first = b.Bytes()
		}
		if !bytes.Equal(first, b.Bytes()) {
			t.Fatalf("%d workers give other bytes", workers)
		}
	}
	p := open(t, first)
	verify(t, p)
	if len(p.Disks) != 3 {
		t.Fatalf("%d disks", len(p.Disks))
	}
	for i, d := range p.Disks {
		want := make([]byte, (len(patterns[i].Bytes)+1<<20-1)>>20<<20)
		copy(want, patterns[i].Bytes)
		formatstest.CheckDisk(t, d.Content, bytes.NewReader(want))
		compare(t, p.FS(), d.Name, want)
		if d.Name != fmt.Sprintf("d%d.raw", i) || d.At != (machine.Address{Bus: machine.Xen, Unit: i}) {
			t.Errorf("%+v", d)
		}
	}
	members := list(t, first)
	if members[0].name != "ova.xml" {
		t.Errorf("first is %s", members[0].name)
	}
	for i := 1; i < len(members); i += 2 {
		b, s := members[i], members[i+1]
		if len(b.data) != 1<<20 || s.name != b.name+".xxhash" || len(s.data) != 16 || strings.ToUpper(string(s.data)) != string(s.data) {
			t.Errorf("%s of %d bytes, %s: %q", b.name, len(b.data), s.name, s.data)
		}
		if i > 1 && b.name <= members[i-2].name {
			t.Errorf("%s is behind %s", b.name, members[i-2].name)
		}
	}
	// Read and written again it is the same, but for nothing: no loss, no growth.
	var again bytes.Buffer
	losses, err := xva.Write(context.Background(), &again, p.Machine, p.Disks, xva.Options{Unix: 1e9})
	if err != nil || len(losses) > 0 || !bytes.Equal(again.Bytes(), first) {
		t.Errorf("again: %q, %v, same bytes: %v", losses, err, bytes.Equal(again.Bytes(), first))
	}
	// Other identity, other UUIDs.
	var other bytes.Buffer
	if _, err := xva.Write(context.Background(), &other, m, disks, xva.Options{Unix: 1e9, ID: [16]byte{2}}); err != nil {
		t.Fatal(err)
	}
	if a, b := open(t, other.Bytes()).Machine.UUID, p.Machine.UUID; a == b || a == "" {
		t.Errorf("UUIDs %s and %s", a, b)
	}
}

// GNU tar and bsdtar list what we write, as plain files in the order of an import.
func TestTarTools(t *testing.T) {
	m, disks, _ := three(t)
	dir := t.TempDir()
	f, err := os.Create(filepath.Join(dir, "x.xva"))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := xva.Write(context.Background(), f, m, disks, xva.Options{}); err != nil {
		t.Fatal(err)
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	b, err := os.ReadFile(f.Name())
	if err != nil {
		t.Fatal(err)
	}
	var want []string
	for _, m := range list(t, b) {
		want = append(want, m.name)
	}
	for _, tool := range []string{"tar", "bsdtar"} {
		t.Run(tool, func(t *testing.T) {
			got := strings.Fields(string(formatstest.Run(t, dir, tool, "-tf", "x.xva")))
			if !slices.Equal(got, want) || len(want) < 10 {
				t.Errorf("%q, want %q", got, want)
			}
		})
	}
}

// zeros is a disk of zeros that does not know it: all of it must be read.
type zeros int64

func (z zeros) Size() int64 { return int64(z) }
func (z zeros) MapAt(off int64) (formats.Extent, error) {
	return formats.Extent{Length: int64(z), Kind: formats.Hole}, nil
}

// Of a long row of zeros the first block, the last and each 4096th are there.
func TestKeepAlive(t *testing.T) {
	const size = (2*4096 + 5) << 20
	d, err := formats.NewDisk(&formats.Image{Map: zeros(size)})
	if err != nil {
		t.Fatal(err)
	}
	at := machine.Address{Bus: machine.Xen}
	m := &machine.Machine{Name: "z", Drives: []machine.Drive{{Kind: machine.Disk, At: at, Media: machine.Media{Path: "z.raw"}}}}
	var b bytes.Buffer
	if _, err := xva.Write(context.Background(), &b, m, []xva.Disk{{At: at, Content: d}}, xva.Options{}); err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, m := range list(t, b.Bytes()) {
		names = append(names, strings.TrimPrefix(m.name, "Ref:003"))
	}
	if want := []string{
		"ova.xml", "/00000000", "/00000000.xxhash", "/00004096", "/00004096.xxhash", "/00008192", "/00008192.xxhash",
		"/00008196", "/00008196.xxhash",
	}; !slices.Equal(names, want) {
		t.Errorf("%q", names)
	}
	p := open(t, b.Bytes())
	verify(t, p)
	if p.Disks[0].Content.Size() != size {
		t.Errorf("%d bytes", p.Disks[0].Content.Size())
	}
}

func TestWriteErrors(t *testing.T) {
	before := runtime.NumGoroutine()
	m, disks, _ := three(t)
	ctx := context.Background()
	for name, c := range map[string]struct {
		disks []xva.Disk
		want  error
	}{
		"no drive":  {[]xva.Disk{{At: machine.Address{Bus: machine.SATA}, Content: disks[0].Content}}, machine.ErrSyntax},
		"one twice": {[]xva.Disk{disks[0], disks[0]}, machine.ErrSyntax},
		"huge":      {[]xva.Disk{{At: disks[0].At, Content: sized{disks[0].Content, 64<<40 + 1}}}, machine.ErrUnsupported},
	} {
		if _, err := xva.Write(ctx, io.Discard, m, c.disks, xva.Options{}); !errors.Is(err, c.want) {
			t.Errorf("%s: %v", name, err)
		}
	}
	// A disk that is not given is a loss, and has no VDI.
	var b bytes.Buffer
	losses, err := xva.Write(ctx, &b, m, disks[:1], xva.Options{})
	if err != nil || !strings.Contains(fmt.Sprint(losses), "scsi0:0: left out: its content was not given") || len(open(t, b.Bytes()).Machine.Drives) != 1 {
		t.Errorf("%v, %v", losses, err)
	}
	for n := int64(0); n < 6<<20; n += 500_000 {
		if _, err := xva.Write(ctx, &failing{n}, m, disks, xva.Options{}); !errors.Is(err, errFull) {
			t.Errorf("full after %d bytes: %v", n, err)
		}
	}
	stopped, stop := context.WithCancel(ctx)
	stop()
	if _, err := xva.Write(stopped, io.Discard, m, disks, xva.Options{}); !errors.Is(err, context.Canceled) {
		t.Errorf("stopped: %v", err)
	}
	formatstest.NoneLeft(t, before)
}

type sized struct {
	formats.Disk
	n int64
}

func (s sized) Size() int64 { return s.n }

var errFull = errors.New("full")

type failing struct{ left int64 }

func (f *failing) Write(p []byte) (int, error) {
	if f.left -= int64(len(p)); f.left < 0 {
		return 0, errFull
	}
	return len(p), nil
}

// Several machines in one file: one is written, without what an import would miss.
func TestPrune(t *testing.T) {
	src := build(handmade(t), oldBlocks()...)
	p := open(t, src)
	if len(p.Systems) != 3 || p.Systems[1].Kind != xva.Snapshot || p.Systems[2].Kind != xva.Template || p.Machine != p.Systems[0].Machine {
		t.Errorf("%+v", p.Systems)
	}
	if len(p.Disks) != 2 || len(p.Others) != 2 || p.Others[0].Name != "snap.raw" || p.Others[1].Name != "memory.suspend" {
		t.Fatalf("%+v, %+v", p.Disks, p.Others)
	}
	verify(t, p)
	var b bytes.Buffer
	losses, err := xva.Write(context.Background(), &b, p.Machine, p.Disks, xva.Options{})
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, l := range losses {
		got = append(got, l.String())
	}
	if want := []string{
		"snapshot snap of old: left out: the file holds one machine", "template tmpl: left out: the file holds one machine",
		"memory: left out: the machine is halted",
	}; !slices.Equal(got, want) {
		t.Errorf("%q", got)
	}
	q := open(t, b.Bytes())
	verify(t, q)
	if len(q.Systems) != 1 || len(q.Others) != 0 || len(q.Disks) != 2 {
		t.Errorf("%+v", q)
	}
	for _, d := range machine.Difference(p.Machine, q.Machine) {
		t.Error(d)
	}
	// The size that is no whole MiB stays, as the last block is.
	for i := range p.Disks {
		formatstest.CheckDisk(t, q.Disks[i].Content, p.Disks[i].Content)
	}
}

func TestDecompress(t *testing.T) {
	src := plain(t, "testdata/xo-small.xva.gz")
	packed := map[string][]byte{"": src}
	var gz bytes.Buffer
	zw := gzip.NewWriter(&gz)
	if _, err := zw.Write(src); err != nil {
		t.Fatal(err)
	}
	if err := zw.Close(); err != nil {
		t.Fatal(err)
	}
	packed["gzip"] = gz.Bytes()
	enc, err := zstd.NewWriter(nil)
	if err != nil {
		t.Fatal(err)
	}
	packed["zstd"] = enc.EncodeAll(src, nil)
	ctx := context.Background()
	for kind, b := range packed {
		if got := xva.Compression(b); got != kind {
			t.Errorf("%q is taken for %q", kind, got)
		}
		var out bytes.Buffer
		if n, err := xva.Decompress(ctx, &out, bytes.NewReader(b), int64(len(src))); err != nil || n != int64(len(src)) || !bytes.Equal(out.Bytes(), src) {
			t.Errorf("%q: %d bytes, %v", kind, n, err)
		}
		if _, err := xva.Decompress(ctx, io.Discard, bytes.NewReader(b), int64(len(src))-1); !errors.Is(err, formats.ErrUnsupported) {
			t.Errorf("%q: over the limit: %v", kind, err)
		}
		if kind != "" {
			if _, err := xva.Decompress(ctx, io.Discard, bytes.NewReader(b[:len(b)-9]), 1<<30); !errors.Is(err, formats.ErrCorrupt) {
				t.Errorf("%q: cut short: %v", kind, err)
			}
		}
		if _, err := xva.Decompress(ctx, io.Discard, io.MultiReader(bytes.NewReader(b[:len(b)/2]), broken{}), 1<<30); !errors.Is(err, errFull) {
			t.Errorf("%q: broken medium: %v", kind, err)
		}
		if _, err := xva.Decompress(ctx, &failing{600}, bytes.NewReader(b), 1<<30); !errors.Is(err, errFull) {
			t.Errorf("%q: full: %v", kind, err)
		}
	}
	// What is no XVA is not unpacked at all.
	var bomb bytes.Buffer
	zw = gzip.NewWriter(&bomb)
	if _, err := zw.Write(make([]byte, 10<<20)); err != nil {
		t.Fatal(err)
	}
	if err := zw.Close(); err != nil {
		t.Fatal(err)
	}
	if n, err := xva.Decompress(ctx, &failing{0}, &bomb, 1<<40); !errors.Is(err, formats.ErrNotFormat) || n != 0 {
		t.Errorf("bomb: %d bytes, %v", n, err)
	}
	big, err := zstd.NewWriter(nil, zstd.WithWindowSize(256<<20))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := xva.Decompress(ctx, io.Discard, bytes.NewReader(big.EncodeAll(append(slices.Clone(src), make([]byte, 257<<20)...), nil)), 1<<40); !errors.Is(err, formats.ErrUnsupported) {
		t.Errorf("window of 256 MiB: %v", err)
	}
}

type broken struct{}

func (broken) Read([]byte) (int, error) { return 0, errFull }

// The firmware's variables go from OVMF's file into the package, and through it.
func TestVariables(t *testing.T) {
	for _, name := range []string{"OVMF_VARS_4M.fd", "OVMF_VARS_4M.ms.fd", "OVMF_VARS.ms.fd"} {
		b, err := os.ReadFile("/usr/share/OVMF/" + name)
		if err != nil {
			if os.Getenv("TARVM_REQUIRE_TOOLS") == "1" {
				t.Fatal(err)
			}
			t.Skip(err)
		}
		m, disks, _ := three(t)
		m.Firmware = machine.Firmware{Type: "efi", Vars: machine.Media{Path: "OVMF_VARS.fd"}}
		var out bytes.Buffer
		losses, err := xva.Write(context.Background(), &out, m, disks, xva.Options{Variables: b})
		if err != nil || strings.Contains(fmt.Sprint(losses), "variables") {
			t.Fatalf("%v %v", losses, err)
		}
		p := open(t, out.Bytes())
		got, err := fs.ReadFile(p.FS(), p.Machine.Firmware.Vars.Path)
		if err != nil {
			t.Fatal(err)
		}
		// The Microsoft files hold keys; their names are in it as UTF-16.
		for _, key := range []string{"PK", "KEK", "db", "dbx"} {
			wide := ""
			for _, c := range key {
				wide += string(c) + "\x00"
			}
			if strings.Contains(name, ".ms.") != bytes.Contains(got, append([]byte{byte(len(wide)), 0, 0, 0, 0, 0, 0, 0}, wide...)) {
				t.Errorf("%s: key %s", name, key)
			}
		}
		var again bytes.Buffer
		if losses, err := xva.Write(context.Background(), &again, p.Machine, p.Disks, xva.Options{}); err != nil || len(losses) > 0 || !bytes.Equal(out.Bytes(), again.Bytes()) {
			t.Errorf("again: %v, %v", losses, err)
		}
		if base64.StdEncoding.EncodeToString(got) == "" || string(got[:8]) != "VARS\x01\x00\x00\x00" {
			t.Errorf("%q", got[:8])
		}
	}
}
