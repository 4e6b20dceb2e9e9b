package all_test

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"tarvm/formats/formatstest"
	"tarvm/formats/machine"
)

// The tests of this file need clients that make clients sets up, and are skipped without them.

const manage = formatstest.VBoxManage

var vboxLine = regexp.MustCompile(`(?m)^"?([^"=\n]+)"?="?(.*?)"?$`)

// vboxBuses are the types of VirtualBox's controllers.
var vboxBuses = map[string]machine.Bus{"PIIX4": machine.IDE, "IntelAhci": machine.SATA, "LsiLogic": machine.SCSI, "LsiLogicSas": machine.SCSI, "NVMe": machine.NVMe, "VirtioSCSI": machine.SCSI}

// vboxNICs are the models of VirtualBox's cards.
var vboxNICs = map[string]string{"82540EM": "e1000", "82545EM": "e1000", "virtio": "virtio"}

// vbox is what VirtualBox says of a machine, and where its disks are.
func vbox(t *testing.T, out string) (facts, map[string]string) {
	t.Helper()
	info := map[string]string{}
	for _, m := range vboxLine.FindAllStringSubmatch(out, -1) {
		info[m[1]] = m[2]
	}
	got := facts{"name": info["name"], "uuid": info["hardwareuuid"], "memory": info["memory"], "cpus": info["cpus"], "firmware": "bios"}
	if strings.HasPrefix(info["firmware"], "EFI") {
		got["firmware"] = "efi"
	}
	for i := range 8 {
		if typ := info[fmt.Sprintf("nictype%d", i+1)]; typ != "" && info[fmt.Sprintf("nic%d", i+1)] != "none" {
			var mac []string
			for s := info[fmt.Sprintf("macaddress%d", i+1)]; len(s) >= 2; s = s[2:] {
				mac = append(mac, s[:2])
			}
			got[fmt.Sprintf("nic%d", i)] = vboxNICs[typ] + " " + strings.Join(mac, ":")
		}
	}
	disks := map[string]string{}
	for i := 0; info[fmt.Sprintf("storagecontrollername%d", i)] != ""; i++ {
		name, bus := info[fmt.Sprintf("storagecontrollername%d", i)], vboxBuses[info[fmt.Sprintf("storagecontrollertype%d", i)]]
		for port := range 30 {
			for device := range 2 {
				path := info[fmt.Sprintf("%s-%d-%d", name, port, device)]
				switch base := filepath.Base(path); {
				case strings.HasSuffix(base, ".iso"):
					got["cdrom"] = string(bus)
				case strings.Contains(base, "-disk"):
					_, n, _ := strings.Cut(base, "-disk")
					k, err := strconv.Atoi(n[:1])
					if err != nil {
						t.Error(err)
					}
					key := fmt.Sprintf("disk%d", k-1)
					got[key], disks[key] = string(bus), path
				}
			}
		}
	}
	return got, disks
}

// TestVirtualBoxImport: VirtualBox imports each package, has the machine, and the disks.
func TestVirtualBoxImport(t *testing.T) {
	c := formatstest.NewChroot(t, manage)
	n := 0
	each(t, func(c cell) bool {
		// An NVMe controller that OVF alone tells of gets one port. VMware's products have more.
		return c.is("ova", "ovf") && !(c.profile == "vmware" && c.bus == machine.NVMe && c.disks > 1)
	}, func(t *testing.T, p *product) {
		c.Mu.Lock()
		defer c.Mu.Unlock()
		n++
		in := fmt.Sprintf("%s/in%d", c.Dir, n)
		if err := os.CopyFS(c.Root+in, os.DirFS(filepath.Dir(p.path))); err != nil {
			t.Fatal(err)
		}
		file := in + "/" + filepath.Base(p.path)
		if p.is("ovf") {
			file += "/" + vmStem + ".ovf"
		}
		name := fmt.Sprintf("vm%d", n)
		c.Run(t, manage, "import", file, "--dry-run")
		args := []string{manage, "import", file, "--vsys", "0", "--vmname", name, "--basefolder", c.Dir + "/vms", "--options", "keepallmacs"}
		for try := 1; ; try++ {
			// One in thirty of its imports finds a wrong digest, of its own exports, too, and not when it is asked again.
			out, err := c.Try(t, args...)
			if err == nil {
				break
			}
			if try == 4 || !strings.Contains(out, "Digest mismatch") {
				t.Fatalf("%v\n%s", err, out)
			}
		}
		defer c.Run(t, manage, "unregistervm", name, "--delete")
		got, disks := vbox(t, c.Run(t, manage, "showvminfo", name, "--machinereadable"))
		without := []string{"name", "uuid"} // it makes a new one
		want := p.cell
		switch {
		case p.profile == "generic" && p.efi:
			want.profile = "virtualbox"        // whose settings are there beside the Items
			without = append(without, "cdrom") // it finds media among the disks alone
		case p.profile != "virtualbox":
			without = append(without, "firmware", "nic", "cdrom") // it takes none of these from OVF
		}
		want.compare(t, "VirtualBox", got, without...)
		for i := range p.disks {
			key := fmt.Sprintf("disk%d", i)
			p.sameDisk(t, "vmdk", c.Root+disks[key], i, false)
		}
	})
}

// TestVirtualBoxRegister: VirtualBox takes each directory as its own.
func TestVirtualBoxRegister(t *testing.T) {
	c := formatstest.NewChroot(t, manage)
	n := 0
	each(t, func(c cell) bool { return c.is("vbox") }, func(t *testing.T, p *product) {
		c.Mu.Lock()
		defer c.Mu.Unlock()
		n++
		dir := fmt.Sprintf("%s/reg%d", c.Dir, n) // it remembers an ISO
		if err := os.CopyFS(c.Root+dir, os.DirFS(p.path)); err != nil {
			t.Fatal(err)
		}
		c.Run(t, manage, "registervm", dir+"/"+vmStem+".vbox")
		got, disks := vbox(t, c.Run(t, manage, "showvminfo", vmUUID, "--machinereadable"))
		p.compare(t, "VirtualBox", got)
		for i := range p.disks {
			path := disks[fmt.Sprintf("disk%d", i)]
			if out := c.Run(t, manage, "showmediuminfo", path); !regexp.MustCompile(`State: +created`).MatchString(out) { // it is the one that the settings mean
				t.Errorf("%s: %s", path, out)
			}
			clone := fmt.Sprintf("%s/%d.raw", dir, i)
			c.Run(t, manage, "clonemedium", "disk", path, clone, "--format", "RAW")
			c.Run(t, manage, "closemedium", "disk", clone)
			p.sameDisk(t, "raw", c.Root+clone, i, false)
		}
		c.Run(t, manage, "unregistervm", vmUUID, "--delete")
		if err := os.RemoveAll(c.Root + dir); err != nil {
			t.Error(err)
		}
	})
}

// TestOpenVMDK: VMware's own open reader takes the disks, and reads the same; nothing is behind the end of their streams.
func TestOpenVMDK(t *testing.T) {
	c := formatstest.NewChroot(t, "/usr/bin/vmdk-convert")
	each(t, func(c cell) bool { return c.is("ova") }, func(t *testing.T, p *product) {
		c.Mu.Lock()
		defer c.Mu.Unlock()
		dir := c.Dir + "/vmdk"
		if err := os.CopyFS(c.Root+dir, os.DirFS(p.dir)); err != nil {
			t.Fatal(err)
		}
		for i, d := range p.plan.Disks {
			c.Run(t, "/usr/bin/vmdk-convert", "-i", "--detailed", dir+"/"+d.Name)
			c.Run(t, "/usr/bin/vmdk-convert", dir+"/"+d.Name, dir+"/out.vmdk")
			p.sameDisk(t, "vmdk", c.Root+dir+"/out.vmdk", i, false)
			if n := behind(t, filepath.Join(p.dir, d.Name)); n != 0 {
				t.Errorf("%s: %d bytes behind the end of the stream", d.Name, n)
			}
		}
		if err := os.RemoveAll(c.Root + dir); err != nil {
			t.Error(err)
		}
	})
}

// behind is how many bytes are behind the end-of-stream marker, where VMware's digests end.
func behind(t *testing.T, path string) int {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	u64 := func(off int) int { return int(binary.LittleEndian.Uint64(b[off:])) }
	u32 := func(off int) int { return int(binary.LittleEndian.Uint32(b[off:])) }
	for off := u64(64) * 512; ; {
		v, size, typ := u64(off), u32(off+8), u32(off+12)
		switch {
		case size > 0:
			off += (12 + size + 511) / 512 * 512
		case v == 0 && typ == 0:
			return len(b) - off - 512
		default:
			off += 512 + v*512
		}
	}
}

// TestXenOrchestra: Xen Orchestra's reader of VMDKs makes the same disks of them.
func TestXenOrchestra(t *testing.T) {
	formatstest.OneGoroutine(t)
	modules := filepath.Join(os.Getenv("TARVM_CLIENTS_DIR"), "npm", "node_modules")
	if _, err := os.Stat(filepath.Join(modules, "xo-vmdk-to-vhd")); err != nil || os.Getenv("TARVM_CLIENTS_DIR") == "" {
		t.Skip("no xo-vmdk-to-vhd: make clients sets it up, TARVM_CLIENTS_DIR names where")
	}
	node := formatstest.Client(t, "node")
	each(t, func(c cell) bool { return c.is("ova") && c.profile == "xen" }, func(t *testing.T, p *product) {
		for i, d := range p.plan.Disks {
			vhd := filepath.Join(t.TempDir(), "x.vhd")
			run(t, []string{"NODE_PATH=" + modules}, node, "testdata/xo.js", filepath.Join(p.dir, d.Name), vhd)
			p.sameDisk(t, "vpc", vhd, i, true)
		}
	})
}

// TestGovc: govc, and a vSphere that is simulated, import the machine.
func TestGovc(t *testing.T) {
	formatstest.OneGoroutine(t)
	govc, sim := formatstest.Client(t, "govc"), formatstest.Client(t, "vcsim24")
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
	var url []byte
	for range 100 {
		b, err := os.ReadFile(log.Name())
		if err != nil {
			t.Fatal(err)
		}
		if url = regexp.MustCompile(`https?://\S+`).Find(b); url != nil && bytes.HasSuffix(b, []byte("\n")) {
			break
		}
		time.Sleep(100 * time.Millisecond)
	}
	env := []string{"GOVC_INSECURE=1", "GOVC_URL=" + string(url), "GOVMOMI_HOME=" + t.TempDir()}
	var mu sync.Mutex
	n := 0
	each(t, func(c cell) bool {
		// The simulator knows neither SATA nor NVMe, and other families than VMware's no more than a real one.
		return c.is("ova", "ovf") && (c.profile == "generic" || c.profile == "vmware") && c.opticalBus() == machine.IDE &&
			(c.diskBus() == machine.IDE || c.diskBus() == machine.SCSI)
	}, func(t *testing.T, p *product) {
		mu.Lock()
		defer mu.Unlock()
		verb, file := "import.ova", p.path
		if p.is("ovf") {
			verb, file = "import.ovf", p.file(t, ".ovf")
		}
		name := fmt.Sprintf("vm%d", n)
		n++
		run(t, env, govc, "import.spec", file)
		run(t, env, govc, verb, "-name="+name, "-ds", "LocalDS_0", "-pool", "/DC0/host/DC0_C0/Resources", file)
		out := run(t, env, govc, "vm.info", name)
		if !strings.Contains(out, fmt.Sprintf("%dMB", memory)) || !strings.Contains(out, fmt.Sprintf("%d vCPU", cpus)) {
			t.Errorf("%s", out)
		}
		out = run(t, env, govc, "device.ls", "-vm", name)
		for what, want := range map[string]int{"disk-": p.disks, "ethernet-": 2, "cdrom-": 1} {
			if got := len(regexp.MustCompile(`(?m)^`+what).FindAllString(out, -1)); got != want {
				t.Errorf("%d %s, not %d:\n%s", got, what, want, out)
			}
		}
	})
}

// TestVagrant: Vagrant takes each box, and tells its provider.
func TestVagrant(t *testing.T) {
	formatstest.Tool(t, "vagrant")
	var mu sync.Mutex
	seen := map[string]bool{}
	each(t, func(c cell) bool {
		again := seen[c.profile] // one of each, unless all are wanted: it takes seconds
		keep := c.is("vagrant") && (!again || os.Getenv("TARVM_CLIENTS") == "all")
		seen[c.profile] = again || keep
		return keep
	}, func(t *testing.T, p *product) {
		mu.Lock() // it starts slowly, on all processors
		defer mu.Unlock()
		home := t.TempDir()
		env := []string{"VAGRANT_HOME=" + home, "VAGRANT_CHECKPOINT_DISABLE=1", "LC_ALL=C.UTF-8"}
		run(t, env, "vagrant", "box", "add", "--name", "web", p.path)
		list, err := filepath.Glob(filepath.Join(home, "boxes", "web", "0", "*", "metadata.json"))
		if err != nil || len(list) != 1 || filepath.Base(filepath.Dir(list[0])) != p.profile {
			t.Errorf("%v, %v", list, err)
		}
	})
}
