package ovf_test

import (
	"archive/tar"
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"tarvm/archive/archivetest"
	"tarvm/formats/formatstest"
	"tarvm/formats/machine"
	"tarvm/ovf"
)

// built returns a machine with n disks on a bus.
func built(bus machine.Bus, efi bool, n int) *machine.Machine {
	m := &machine.Machine{
		Name: "built", Notes: "first line\nsecond & <last>", UUID: "11223344-5566-4788-99aa-bbccddeeff00", Arch: "x86_64",
		Guest:  machine.Guest{VMware: "debian12-64", VirtualBox: "Debian12_64", CIM: 96, Text: "Debian GNU/Linux 12 (64-bit)"},
		CPU:    machine.CPU{Count: 4, Sockets: 2, Cores: 2},
		Memory: machine.Memory{Bytes: 1536 << 20},
		NICs: []machine.NIC{
			{Slot: 0, Model: "e1000", MAC: "08:00:27:11:22:33", Kind: machine.Bridged},
			{Slot: 1, Model: "e1000", MAC: "08:00:27:11:22:44", Kind: machine.Named, Network: "VM Network"},
		},
		Controllers: []machine.Controller{{Bus: machine.USB, Model: "ehci"}},
		Videos:      []machine.Video{{Memory: 16 << 20}},
	}
	if efi {
		m.Firmware = machine.Firmware{Type: "efi"}
	}
	c := machine.Controller{Bus: bus}
	switch bus {
	case machine.SCSI:
		c.Model = "lsilogic"
	case machine.SATA:
		c.Model = "ahci"
	}
	m.Controllers = append(m.Controllers, c)
	for i := range n {
		m.Drives = append(m.Drives, machine.Drive{
			Kind: machine.Disk, At: machine.Address{Bus: bus, Unit: i},
			Media: machine.Media{Path: fmt.Sprintf("disk%d.vmdk", i+1), Format: "vmdk", Capacity: 10 << 20},
		})
	}
	m.Drives = append(m.Drives, machine.Drive{Kind: machine.Optical, At: machine.Address{Bus: machine.IDE, Unit: 3}, Media: machine.Media{Path: "cd.iso", Format: "raw"}})
	if bus != machine.IDE {
		m.Controllers = append(m.Controllers, machine.Controller{Bus: machine.IDE})
	}
	return m
}

// pack puts an envelope and its files into an OVA: every disk has 10 MiB.
func pack(t *testing.T, dir string, envelope []byte, files []ovf.File) string {
	t.Helper()
	raw, disk := filepath.Join(dir, "raw"), filepath.Join(dir, "disk")
	// VirtualBox refuses what qemu-img makes of nothing but zeros.
	if err := os.WriteFile(raw, bytes.Repeat([]byte("pattern "), 1<<15), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(raw, 10<<20); err != nil {
		t.Fatal(err)
	}
	command(t, dir, "qemu-img", "convert", "-f", "raw", "-O", "vmdk", "-o", "subformat=streamOptimized", raw, disk)
	vmdk, err := os.ReadFile(disk)
	if err != nil {
		t.Fatal(err)
	}
	out := filepath.Join(dir, "x.ova")
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	put := func(name string, data []byte) {
		h := &tar.Header{Name: name, Size: int64(len(data)), Mode: 0o644, Typeflag: tar.TypeReg, Format: tar.FormatUSTAR}
		if err := w.WriteHeader(h); err != nil {
			t.Fatal(err)
		}
		if _, err := w.Write(data); err != nil {
			t.Fatal(err)
		}
	}
	put("x.ovf", envelope)
	for _, f := range files {
		if strings.HasSuffix(f.Href, ".iso") {
			put(f.Href, make([]byte, 1<<20))
		} else {
			put(f.Href, vmdk)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(out, b.Bytes(), 0o600); err != nil {
		t.Fatal(err)
	}
	return out
}

type variant struct {
	bus     machine.Bus
	efi     bool
	disks   int
	profile ovf.Profile
}

func (v variant) String() string {
	return fmt.Sprintf("%s-%s-%d-%s", v.profile, v.bus, v.disks, map[bool]string{false: "bios", true: "efi"}[v.efi])
}

func variants(profiles ...ovf.Profile) []variant {
	var list []variant
	for _, p := range profiles {
		for i, bus := range []machine.Bus{machine.SCSI, machine.SATA, machine.IDE, machine.NVMe, machine.Virtio} {
			list = append(list, variant{bus, i%2 == 0, 1 + 2*((i+1)%2), p})
		}
	}
	return list
}

func (v variant) encode(t *testing.T, version string) ([]byte, *ovf.Envelope) {
	t.Helper()
	b, _, err := ovf.New(built(v.bus, v.efi, v.disks), nil, nil).Encode(ovf.EncodeOptions{Profile: v.profile, Version: version})
	if err != nil {
		t.Fatal(err)
	}
	e, err := ovf.Decode(b)
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range e.Problems {
		t.Errorf("what was written has a problem: %s", p)
	}
	return b, e
}

// TestVirtV2V: virt-v2v reads the same machine.
func TestVirtV2V(t *testing.T) {
	formatstest.OneGoroutine(t)
	archivetest.Tools(t, "virt-v2v", "qemu-img")
	list := variants(ovf.Generic, ovf.VMware, ovf.VirtualBox, ovf.Xen)
	if os.Getenv("TARVM_CLIENTS") != "all" { // each takes seconds
		list = variants(ovf.Generic)
	}
	for _, v := range list {
		t.Run(v.String(), func(t *testing.T) {
			t.Parallel() // it sleeps a second for each disk
			b, e := v.encode(t, "")
			ova := pack(t, t.TempDir(), b, e.Files)
			ctx, stop := context.WithTimeout(context.Background(), time.Minute)
			defer stop()
			cmd := exec.CommandContext(ctx, "virt-v2v", "--print-source", "-i", "ova", ova, "-o", "null")
			cmd.Env = append(os.Environ(), "LC_ALL=C", "LIBGUESTFS_BACKEND=direct")
			out, err := cmd.CombinedOutput()
			if err != nil || bytes.Contains(out, []byte("warning")) {
				t.Fatalf("%v\n%s", err, out)
			}
			m := e.Systems[0].Machine
			want := []string{
				"source name: built", "memory: 1610612736 (bytes)", "nr vCPUs: 4", "CD-ROM [ide]", `Bridge "VM Network" mac: 08:00:27:11:22:44 [e1000]`,
			}
			if v.profile != ovf.VirtualBox {
				want = append(want, map[bool]string{false: "firmware: bios", true: "firmware: uefi"}[v.efi])
			}
			for i, d := range m.Disks() {
				bus := string(d.At.Bus)
				if bus == "nvme" {
					bus = "sata" // it knows no other
				}
				want = append(want, fmt.Sprintf("%d [%s]", i, bus))
			}
			for _, s := range want {
				if !strings.Contains(string(out), s) {
					t.Errorf("%q is missing:\n%s", s, out)
				}
			}
		})
	}
}

// TestGovc: the import specification that govc makes of it, and the import by vcsim.
func TestGovc(t *testing.T) {
	formatstest.OneGoroutine(t)
	govc, sim := formatstest.Client(t, "govc"), formatstest.Client(t, "vcsim24")
	archivetest.Tools(t, "qemu-img")
	server := exec.Command(sim)
	log, err := os.Create(filepath.Join(t.TempDir(), "log"))
	if err != nil {
		t.Fatal(err)
	}
	defer log.Close()
	server.Stdout, server.Stderr = log, log
	if err := server.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = server.Process.Kill(); _ = server.Wait() }()
	var url string
	for range 100 {
		b, err := os.ReadFile(log.Name())
		if err != nil {
			t.Fatal(err)
		}
		if url = regexp.MustCompile(`https?://[^\s]+`).FindString(string(b)); url != "" {
			break
		}
		time.Sleep(100 * time.Millisecond)
	}
	if url == "" {
		t.Fatal("vcsim does not start")
	}
	run := func(args ...string) (string, error) {
		ctx, stop := context.WithTimeout(context.Background(), time.Minute)
		defer stop()
		cmd := exec.CommandContext(ctx, govc, args...)
		cmd.Env = append(os.Environ(), "GOVC_INSECURE=1", "GOVC_URL="+url)
		out, err := cmd.CombinedOutput()
		return string(out), err
	}
	list := variants(ovf.Generic)
	// vcsim knows neither SATA nor NVMe.
	list = append(list, slices.DeleteFunc(variants(ovf.VMware), func(v variant) bool { return v.bus == machine.SATA || v.bus == machine.NVMe })...)
	for i, v := range list {
		t.Run(v.String(), func(t *testing.T) {
			b, e := v.encode(t, "")
			ova := pack(t, t.TempDir(), b, e.Files)
			if out, err := run("import.spec", ova); err != nil || !strings.Contains(out, `"VM Network"`) {
				t.Fatalf("%v\n%s", err, out)
			}
			name := fmt.Sprintf("vm%d", i)
			if out, err := run("import.ova", "-name="+name, "-ds", "LocalDS_0", "-pool", "/DC0/host/DC0_C0/Resources", ova); err != nil {
				t.Fatalf("%v\n%s", err, out)
			}
			out, err := run("vm.info", name)
			if err != nil || !strings.Contains(out, "4 vCPU") || !strings.Contains(out, "1536MB") {
				t.Errorf("%v\n%s", err, out)
			}
			out, err = run("device.ls", "-vm", name)
			if n := strings.Count(out, "disk-"); err != nil || n != v.disks || strings.Count(out, "ethernet-") != 2 || !strings.Contains(out, "cdrom-") {
				t.Errorf("%v\n%s", err, out)
			}
		})
	}
}

// TestVirtualBox: a real import, and what VirtualBox then says of the machine.
func TestVirtualBox(t *testing.T) {
	c := formatstest.NewChroot(t, formatstest.VBoxManage)
	archivetest.Tools(t, "qemu-img")
	run := func(t *testing.T, args ...string) (string, error) {
		t.Helper()
		return c.Try(t, append([]string{formatstest.VBoxManage}, args...)...)
	}
	all := variants(ovf.Generic, ovf.VMware, ovf.VirtualBox, ovf.Xen)
	if testing.Short() {
		all = variants(ovf.VirtualBox)
	}
	for i, v := range all {
		for _, version := range []string{"1.1", "2.0"} {
			if version == "2.0" && (v.profile != ovf.VirtualBox || v.bus != machine.SCSI) {
				continue
			}
			t.Run(v.String()+"-"+version, func(t *testing.T) {
				b, e := v.encode(t, version)
				dir := filepath.Join(c.Root+c.Dir, fmt.Sprintf("%d-%s", i, version))
				if err := os.Mkdir(dir, 0o700); err != nil {
					t.Fatal(err)
				}
				pack(t, dir, b, e.Files)
				at := c.Dir + "/" + filepath.Base(dir)
				if out, err := run(t, "import", at+"/x.ova", "--dry-run"); err != nil {
					t.Fatalf("%v\n%s\n%s", err, out, b)
				}
				name := fmt.Sprintf("ovftest%d-%d", os.Getpid(), i) + version[:1]
				if out, err := run(t, "import", at+"/x.ova", "--vsys", "0", "--vmname", name, "--basefolder", at, "--options", "keepallmacs"); err != nil {
					t.Fatalf("%v\n%s\n%s", err, out, b)
				}
				defer func() {
					if out, err := run(t, "unregistervm", name, "--delete"); err != nil {
						t.Errorf("%v\n%s", err, out)
					}
				}()
				out, err := run(t, "showvminfo", name, "--machinereadable")
				if err != nil {
					t.Fatalf("%v\n%s", err, out)
				}
				want := []string{"memory=1536", "cpus=4"}
				if v.profile != ovf.VirtualBox && !(v.profile == ovf.Generic && v.efi) {
					// Without VirtualBox's family it takes the other of its two cards, and it takes no addresses from an OVF.
					want = append(want, `nictype1="82545EM"`)
				} else {
					want = append(want, `nictype1="82540EM"`)
					want = append(want, map[bool]string{false: `firmware="BIOS"`, true: `firmware="EFI64"`}[v.efi], `nic1="bridged"`, `macaddress1="080027112233"`, `macaddress2="080027112244"`)
					typ := map[machine.Bus]string{machine.SCSI: "LsiLogic", machine.SATA: "IntelAhci", machine.IDE: "PIIX4", machine.NVMe: "NVMe", machine.Virtio: "IntelAhci"}[v.bus]
					want = append(want, `="`+typ+`"`)
				}
				for _, s := range want {
					if !strings.Contains(out, s) {
						t.Errorf("%q is missing", s)
					}
				}
				if n := strings.Count(out, `.vmdk"`); n != v.disks {
					t.Errorf("%d disks, want %d", n, v.disks)
				}
				if t.Failed() {
					t.Logf("%s\n%s", out, b)
				}
			})
		}
	}
}
