package all_test

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/beevik/etree"

	"tarvm/formats/formatstest"
	"tarvm/formats/machine"
	"tarvm/formats/machine/machinetest"
)

// run runs a program and returns what it prints, messages, too.
func run(t *testing.T, env []string, name string, args ...string) string {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), name, args...)
	cmd.Env = append(append(os.Environ(), "LC_ALL=C"), env...)
	cmd.WaitDelay = 5 * time.Second
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%s %s: %v\n%s", filepath.Base(name), strings.Join(args, " "), err, out)
	}
	return string(out)
}

// TestDisks: qemu-img finds no fault in the images of any form, and the bytes of the machine's disks.
func TestDisks(t *testing.T) {
	formatstest.Tool(t, "bsdtar")
	each(t, func(c cell) bool { return !c.is("xva") }, func(t *testing.T, p *product) {
		if len(p.plan.Disks) != p.disks {
			t.Fatalf("%d disks, not %d", len(p.plan.Disks), p.disks)
		}
		for i, d := range p.plan.Disks {
			path := filepath.Join(p.dir, d.Name)
			format := d.Format
			if format == "" {
				format = "qcow2"
			}
			p.sameDisk(t, format, path, i, p.is("vagrant"))
			if format == "qcow2" || format == "vdi" || format == "vmdk" && d.Subformat != "vmfs" {
				formatstest.Run(t, ".", "qemu-img", "check", "-q", "-f", format, path)
			}
		}
		if p.is("ova", "ovf", "vmx", "vbox", "libvirt", "xl", "qemu") {
			iso, err := os.ReadFile(p.file(t, ".iso"))
			if err != nil || !bytes.Equal(iso, p.origin.iso) {
				t.Errorf("the ISO is another: %v", err)
			}
		}
	})
}

// TestTar: archives have the one form of tar that every importer reads, and GNU tar and bsdtar list the same in them.
func TestTar(t *testing.T) {
	formatstest.Tool(t, "bsdtar")
	formatstest.Tool(t, "tar")
	each(t, func(c cell) bool { return c.is("ova", "xva") }, func(t *testing.T, p *product) {
		names := ustar(t, p.path)
		for _, tool := range []string{"tar", "bsdtar"} {
			if out := strings.Fields(run(t, nil, tool, "-tf", p.path)); !slices.Equal(out, names) {
				t.Errorf("%s lists %v, not %v", tool, out, names)
			}
		}
		if p.is("ova") {
			if names[0] != vmStem+".ovf" || names[1] != vmStem+".mf" || slices.ContainsFunc(names, func(s string) bool { return strings.Contains(s, "/") }) {
				t.Errorf("%v", names)
			}
		} else if names[0] != "ova.xml" {
			t.Errorf("%v", names)
		}
	})
}

// ustar reads an archive header by header, and returns the names.
func ustar(t *testing.T, path string) (names []string) {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	text := func(b []byte) string { return string(b[:bytes.IndexByte(append(slices.Clip(b), 0), 0)]) }
	for len(b) >= 512 && b[0] != 0 {
		h := b[:512]
		size, err := strconv.ParseInt(strings.TrimSpace(text(h[124:136])), 8, 64)
		if err != nil || string(h[257:265]) != "ustar\x0000" || h[156] != '0' || text(h[345:500]) != "" {
			t.Fatalf("%s: header %q, %v", text(h[:100]), h[100:345], err)
		}
		sum := 8 * int64(' ')
		for i, c := range h {
			if i < 148 || i >= 156 {
				sum += int64(c)
			}
		}
		if want, err := strconv.ParseInt(strings.Trim(text(h[148:156]), " "), 8, 64); err != nil || want != sum {
			t.Fatalf("%s: checksum %q, %o", text(h[:100]), h[148:156], sum)
		}
		names = append(names, text(h[:100]))
		b = b[512+(size+511)/512*512:]
	}
	if len(b) < 1024 || len(bytes.Trim(b, "\x00")) > 0 {
		t.Errorf("%d bytes at the end", len(b))
	}
	return names
}

var digestLine = regexp.MustCompile(`^SHA256\(([\w.-]+)\)= ([0-9a-f]{64})$`)

// TestPackage: the manifest has the one form that all importers take and tells the files; DMTF's schema takes the envelope;
// virt-v2v reads the machine.
func TestPackage(t *testing.T) {
	formatstest.Tool(t, "virt-v2v")
	formatstest.Tool(t, "bsdtar")
	each(t, func(c cell) bool { return c.is("ova", "ovf") }, func(t *testing.T, p *product) {
		mf, err := os.ReadFile(p.file(t, ".mf"))
		if err != nil {
			t.Fatal(err)
		}
		lines := strings.Split(strings.TrimSuffix(string(mf), "\n"), "\n")
		if len(lines) != p.disks+2 { // the envelope, and the ISO
			t.Errorf("%s", mf)
		}
		for _, l := range lines {
			m := digestLine.FindStringSubmatch(l)
			if m == nil {
				t.Fatalf("%q", l)
			}
			b, err := os.ReadFile(filepath.Join(p.dir, m[1]))
			if err != nil {
				t.Fatal(err)
			}
			if sum := sha256.Sum256(b); hex.EncodeToString(sum[:]) != m[2] {
				t.Errorf("%s: %s", m[1], m[2])
			}
		}
		schema(t, p.file(t, ".ovf"))
		var got facts
		if p.is("ova") {
			got = v2v(t, "ova", p.path)
		} else {
			got = v2v(t, "ova", p.dir)
		}
		without := []string{"uuid"}
		if p.profile == "virtualbox" {
			without = append(without, "firmware") // vbox:Machine says it, which it does not read
		}
		want := p.cell
		if b := p.diskBus(); b == machine.NVMe || p.profile == "virtualbox" && (p.bus == machine.Virtio || p.bus == machine.SCSI) && p.source != "vmx" {
			without = append(without, "disk") // it takes whatever is of type 20 for SATA
			for i := range p.disks {
				if got[fmt.Sprintf("disk%d", i)] == "" {
					t.Errorf("no disk %d", i)
				}
			}
		}
		want.compare(t, "virt-v2v", got, without...)
	})
}

// schema has DMTF's schema judge an envelope, without what vendors add, where the corpus has it.
func schema(t *testing.T, path string) {
	t.Helper()
	formatstest.Tool(t, "xmllint")
	doc := etree.NewDocument()
	if err := doc.ReadFromFile(path); err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{"/Envelope/*", "//VirtualSystem/*"} {
		for _, e := range doc.FindElements(path) {
			if e.Space != "" {
				e.Parent().RemoveChild(e)
			}
		}
	}
	b, err := doc.WriteToBytes()
	if err != nil {
		t.Fatal(err)
	}
	plain := filepath.Join(t.TempDir(), "x.ovf")
	put(t, plain, b)
	t.Run("schema", func(t *testing.T) {
		set := machinetest.Corpus(t, "xsd-1.1", "dsp8023_1.1.1.xsd")
		run(t, nil, "xmllint", "--noout", "--nonet", "--schema", set[0].Path, plain)
	})
}

var (
	v2vField  = regexp.MustCompile(`(?m)^ *(source name|memory|nr vCPUs|firmware): (\S.*)$`)
	v2vDisk   = regexp.MustCompile(`(?m)^\t(\d+) \[(\w+)\]`)
	v2vOptic  = regexp.MustCompile(`(?m)^\tCD-ROM \[(\w+)\]`)
	v2vBridge = regexp.MustCompile(`(?m)^\t(?:Bridge|Network) "[^"]*"(?: mac: (\S+))? \[(\w+)\]`)
)

// v2v is what virt-v2v reads.
func v2v(t *testing.T, input, path string) facts {
	t.Helper()
	out := run(t, []string{"LIBGUESTFS_BACKEND=direct"}, "virt-v2v", "--print-source", "-i", input, path, "-o", "null")
	if strings.Contains(out, "warning") {
		t.Errorf("virt-v2v: %s", out)
	}
	got := facts{}
	for _, m := range v2vField.FindAllStringSubmatch(out, -1) {
		switch m[1] {
		case "source name":
			got["name"] = m[2]
		case "memory":
			n, err := strconv.ParseInt(strings.TrimSuffix(m[2], " (bytes)"), 10, 64)
			if err != nil {
				t.Error(err)
			}
			got["memory"] = fmt.Sprint(n >> 20)
		case "nr vCPUs":
			got["cpus"] = m[2]
		case "firmware":
			got["firmware"] = strings.Replace(m[2], "uefi", "efi", 1)
		}
	}
	for _, m := range v2vDisk.FindAllStringSubmatch(out, -1) {
		got["disk"+m[1]] = m[2]
	}
	for _, m := range v2vOptic.FindAllStringSubmatch(out, -1) {
		got["cdrom"] = m[1]
	}
	for i, m := range v2vBridge.FindAllStringSubmatch(out, -1) {
		got[fmt.Sprintf("nic%d", i)] = m[2] + " " + m[1]
	}
	return got
}

// domain is what a libvirt domain says; file is what has to be in front of the names of its images.
func domain(t *testing.T, text, file string) facts {
	t.Helper()
	doc := etree.NewDocument()
	if err := doc.ReadFromString(text); err != nil {
		t.Fatalf("%v\n%s", err, text)
	}
	root := doc.Root()
	attr := func(e *etree.Element, path, name string) string {
		if f := e.FindElement(path); f != nil {
			return f.SelectAttrValue(name, "")
		}
		return ""
	}
	got := facts{"firmware": "bios", "name": root.FindElement("name").Text(), "uuid": root.FindElement("uuid").Text(), "cpus": root.FindElement("vcpu").Text()}
	kib, err := strconv.ParseInt(root.FindElement("memory").Text(), 10, 64)
	if err != nil {
		t.Error(err)
	}
	got["memory"] = fmt.Sprint(kib >> 10)
	if f := attr(root, "os", "firmware"); f != "" {
		got["firmware"] = f
	}
	for _, d := range root.FindElements("devices/disk") {
		bus, source := attr(d, "target", "bus"), attr(d, "source", "file")
		if d.SelectAttrValue("device", "") == "cdrom" {
			got["cdrom"] = bus
			if source != file+vmStem+"-cdrom1.iso" {
				t.Errorf("the ISO is %q", source)
			}
			continue
		}
		name, ok := strings.CutPrefix(source, file+vmStem+"-disk")
		n, err := strconv.Atoi(strings.SplitN(name, ".", 2)[0])
		if !ok || err != nil {
			t.Errorf("there is a disk %q", source)
			continue
		}
		got[fmt.Sprintf("disk%d", n-1)] = bus
	}
	for i, n := range root.FindElements("devices/interface") {
		got[fmt.Sprintf("nic%d", i)] = attr(n, "model", "type") + " " + attr(n, "mac", "address")
	}
	return got
}

// TestVMX: libvirt's reader and virt-v2v's read the same machine.
func TestVMX(t *testing.T) {
	formatstest.Tool(t, "virsh")
	formatstest.Tool(t, "virt-v2v")
	bin := t.TempDir() // the driver that has the reader asks VMware's programs for their version
	for name, says := range map[string]string{"vmrun": "Total running VMs: 0", "vmplayer": "VMware Player 15.5.1 build-15018445", "vmware": "VMware Player 15.5.1 build-15018445"} {
		if err := os.WriteFile(filepath.Join(bin, name), []byte("#!/bin/sh\necho '"+says+"'\n"), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	each(t, func(c cell) bool { return c.is("vmx") }, func(t *testing.T, p *product) {
		path := p.file(t, ".vmx")
		b, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		// It knows ESXi's bridges alone, which have a name.
		for i := range 2 {
			if !bytes.Contains(b, fmt.Appendf(nil, "ethernet%d.networkName", i)) {
				b = fmt.Appendf(b, "ethernet%d.networkName = \"a\"\n", i)
			}
		}
		named := filepath.Join(t.TempDir(), "x.vmx")
		put(t, named, b)
		got := domain(t, run(t, []string{"PATH=" + bin + ":" + os.Getenv("PATH")}, "virsh", "-q", "-c", "vmwareplayer:///session", "domxml-from-native", "vmware-vmx", named), "")
		var without []string
		if p.diskBus() == machine.NVMe {
			without = append(without, "disk") // it has none
		}
		p.compare(t, "libvirt", got, without...)
		got = v2v(t, "vmx", path)
		for i := range 2 { // it reads addresses that VMware generated, no others
			key := fmt.Sprintf("nic%d", i)
			got[key] = strings.Fields(got[key])[0] + " " + p.macs()[i]
		}
		without = []string{"uuid"}
		if p.opticalBus() == machine.SATA {
			without = append(without, "cdrom") // it looks for one on IDE and SCSI
		}
		p.compare(t, "virt-v2v", got, without...)
	})
}

// TestDomain: libvirt's schema and test driver take the domain and read the same machine.
func TestDomain(t *testing.T) {
	formatstest.Tool(t, "virsh")
	formatstest.Tool(t, "virt-xml-validate")
	each(t, func(c cell) bool { return c.is("libvirt") }, func(t *testing.T, p *product) {
		path := p.file(t, ".xml")
		run(t, nil, "virt-xml-validate", path, "domain")
		out := run(t, nil, "virsh", "-q", "-c", "test:///default", fmt.Sprintf("define '%s'; dumpxml '%s'", path, vmName))
		p.compare(t, "libvirt", domain(t, out[strings.Index(out, "<domain"):], p.dir+"/"))
	})
}

var xlDisk = regexp.MustCompile(`(?m)^  disk (\S+) vdev=(hd|sd|xvd)[a-z] fmt=(\d) ro=(\d) cd=(\d)$`)

// TestXL: Xen's own reader takes the configuration, and sees the disks.
func TestXL(t *testing.T) {
	xlp := filepath.Join(t.TempDir(), "xlp")
	formatstest.Compile(t, xlp, "../../formats/xl/testdata/xlp.c", "-lxlutil", "-lxenlight", "-lxentoollog")
	each(t, func(c cell) bool { return c.is("xl") }, func(t *testing.T, p *product) {
		out := run(t, nil, xlp, p.file(t, ".cfg"))
		if !strings.Contains(out, "name="+vmName+" ") || !strings.Contains(out, fmt.Sprintf("memory=%d ", memory)) || !strings.Contains(out, fmt.Sprintf("vcpus=%d", cpus)) {
			t.Errorf("%s", out)
		}
		list := xlDisk.FindAllStringSubmatch(out, -1)
		if len(list) != p.disks+1 {
			t.Fatalf("%s", out)
		}
		paths := map[string]bool{}
		for i := range p.disks {
			paths[filepath.Join(p.dir, fmt.Sprintf("%s-disk%d.img", vmStem, i+1))] = true
		}
		dev := map[machine.Bus]string{machine.Virtio: "xvd", machine.SCSI: "sd"}[p.diskBus()]
		if dev == "" {
			dev = "hd"
		}
		for _, m := range list {
			want := []string{m[1], dev, "4", "0", "0"}
			if m[1] == filepath.Join(p.dir, vmStem+"-cdrom1.iso") {
				want = []string{m[1], "hd", "4", "1", "1"}
			} else if !paths[m[1]] {
				t.Errorf("there is a disk %s", m[1])
			}
			delete(paths, m[1])
			if !slices.Equal(m[1:], want) {
				t.Errorf("%s: not %q", m[0], want)
			}
		}
		if len(paths) > 0 {
			t.Errorf("%v are missing", paths)
		}
		for i, mac := range p.macs() {
			if want := fmt.Sprintf("vif %d: mac=%s", i, mac); !strings.Contains(out, want) {
				t.Errorf("no %q in\n%s", want, out)
			}
		}
	})
}

// qemuBuses are the devices of QEMU for disks of each bus.
var qemuBuses = map[machine.Bus]string{machine.IDE: "ide-hd", machine.SATA: "ide-hd", machine.SCSI: "scsi-hd", machine.NVMe: "nvme-ns", machine.Virtio: "virtio-blk-pci"}

// TestScript: QEMU starts with the script's machine.
func TestScript(t *testing.T) {
	formatstest.Tool(t, "qemu-system-x86_64")
	each(t, func(c cell) bool { return c.is("qemu") }, func(t *testing.T, p *product) {
		if p.efi {
			if _, err := os.Stat("/usr/share/OVMF/OVMF_CODE_4M.fd"); err != nil {
				formatstest.Tool(t, "OVMF")
			}
		}
		cmd := exec.CommandContext(t.Context(), "sh", p.file(t, ".sh"), "-S", "-display", "none", "-monitor", "stdio")
		cmd.Stdin = strings.NewReader("info name\ninfo uuid\ninfo memory_size_summary\ninfo cpus\ninfo block\ninfo qtree\nquit\n")
		cmd.Env = append(os.Environ(), "ACCEL=tcg")
		cmd.WaitDelay = 5 * time.Second
		b, err := cmd.CombinedOutput()
		out := string(b)
		if err != nil {
			t.Fatalf("%v\n%s", err, out)
		}
		for what, want := range map[string]int{
			"\n" + vmName + "\r?\n": 1, "\n" + vmUUID: 1, fmt.Sprintf("base memory: %d\r?\n", memory<<20): 1, "CPU #": cpus,
			`dev: cfi.pflash01`: map[bool]int{true: 2}[p.efi], `media\d+ .*-cdrom1.iso \(raw, read-only\)`: 1,
			`mac = "` + p.macs()[0]: 1, `mac = "` + p.macs()[1]: 1, `media\d+ .*-disk\d.qcow2 \(qcow2\)`: p.disks,
			`dev: (e1000|vmxnet3|virtio-net-pci), id "nic`: 2,
		} {
			if n := len(regexp.MustCompile(what).FindAllString(out, -1)); n != want {
				t.Errorf("%q is there %d times, not %d", what, n, want)
			}
		}
		for i := range p.disks {
			media := regexp.MustCompile(fmt.Sprintf(`(media\d+) .*-disk%d.qcow2`, i+1)).FindStringSubmatch(out)
			dev := qemuBuses[p.diskBus()]
			if media == nil || !regexp.MustCompile(`dev: `+dev+`, id "[^"]*"\r?\n( .*\n)*? *drive = "`+media[1]+`"`).MatchString(out) {
				t.Errorf("disk %d is no %s", i, dev)
			}
		}
		if t.Failed() {
			t.Log(out)
		}
	})
}

// A xapiVM is what testdata/xva.py prints of an XVA.
type xapiVM struct {
	Name, UUID, Firmware, Memory, CPUs string
	VBDs                               []struct {
		Device, Type, Content string
		Size                  int64
	}
	VIFs []struct{ Device, MAC string }
}

// TestXVA: a program that knows the form from elsewhere reads the machine and puts its disks together; xxhsum finds the
// blocks' checksums.
func TestXVA(t *testing.T) {
	formatstest.Tool(t, "python3")
	formatstest.Tool(t, "bsdtar")
	each(t, func(c cell) bool { return c.is("xva") }, func(t *testing.T, p *product) {
		out := t.TempDir()
		var vm xapiVM
		if err := json.Unmarshal([]byte(run(t, nil, "python3", "testdata/xva.py", p.path, out)), &vm); err != nil {
			t.Fatal(err)
		}
		bytes, err := strconv.ParseInt(vm.Memory, 10, 64)
		if err != nil {
			t.Error(err)
		}
		got := facts{"name": vm.Name, "uuid": vm.UUID, "firmware": strings.Replace(vm.Firmware, "uefi", "efi", 1), "memory": fmt.Sprint(bytes >> 20), "cpus": vm.CPUs}
		p.compare(t, "xapi", got, "nic", "disk", "cdrom")
		disks := 0
		for _, b := range vm.VBDs {
			if b.Type != "Disk" {
				continue
			}
			disks++
			i, err := strconv.Atoi(b.Device)
			if err != nil || i >= p.disks || b.Size != (diskSizes[i]+1<<20-1)>>20<<20 {
				t.Errorf("disk %+v, %v", b, err)
				continue
			}
			p.sameDisk(t, "raw", filepath.Join(out, b.Content), i, true)
		}
		if disks != p.disks {
			t.Errorf("%d disks, not %d", disks, p.disks)
		}
		var macs []string
		for _, v := range vm.VIFs {
			macs = append(macs, v.MAC)
		}
		if slices.Sort(macs); !slices.Equal(macs, p.macs()) {
			t.Errorf("addresses %v", macs)
		}
		t.Run("xxhsum", func(t *testing.T) {
			formatstest.Tool(t, "xxhsum")
			blocks, err := filepath.Glob(filepath.Join(p.dir, "Ref:*", "????????"))
			if err != nil || len(blocks) == 0 {
				t.Fatal(blocks, err)
			}
			for line := range strings.Lines(run(t, nil, "xxhsum", append([]string{"-H1"}, blocks...)...)) {
				f := strings.Fields(line)
				if b, err := os.ReadFile(f[1] + ".xxhash"); err != nil || !strings.EqualFold(string(b), f[0]) {
					t.Errorf("%s: %s, %v", line, b, err)
				}
			}
		})
	})
}
