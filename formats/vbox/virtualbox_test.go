package vbox

import (
	"bytes"
	"context"
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

	"tarvm/formats/machine"
	"tarvm/formats/machine/machinetest"
)

// A virtualBox is a real one, which is asked what settings mean.
type virtualBox struct {
	root string // of the system that it is installed in
	dir  string // in there, with a slash in front
	runs int
}

// newVirtualBox skips the test when there is none: in TARVM_VBOX, a folder with a system that has VirtualBox 7. It works without its kernel module. It is not required anywhere, because distributions do not
// have it.
func newVirtualBox(t *testing.T) *virtualBox {
	t.Helper()
	root := os.Getenv("TARVM_VBOX")
	if root == "" {
		t.Skip("no VirtualBox: TARVM_VBOX names the folder of a system that has one")
	}
	if _, err := os.Stat(filepath.Join(root, "usr/lib/virtualbox/VBoxManage")); err != nil {
		t.Skipf("no VirtualBox in %s (TARVM_VBOX)", root)
	}
	if _, err := os.Stat(filepath.Join(root, "proc/self")); err != nil || os.Getuid() != 0 {
		t.Skipf("VirtualBox in %s needs root, and proc mounted there", root)
	}
	v := &virtualBox{root: root, dir: fmt.Sprintf("/tmp/tarvm-vbox-%d", os.Getpid())}
	t.Cleanup(func() {
		// Its server ends some seconds after its last client, and writes into its home until then.
		sockets, err := filepath.Glob(filepath.Join(root, "tmp", ".vbox-"+filepath.Base(v.dir)+"*-ipc"))
		if err != nil {
			t.Error(err)
		}
		for _, s := range sockets {
			if err := os.RemoveAll(s); err != nil {
				t.Error(err)
			}
		}
		for range 20 {
			if err = os.RemoveAll(filepath.Join(root, v.dir)); err == nil {
				return
			}
			time.Sleep(500 * time.Millisecond)
		}
		t.Error(err)
	})
	return v
}

// host is the path on this system of a file in v.dir.
func (v *virtualBox) host(name string) string { return filepath.Join(v.root, v.dir, name) }

// manage runs VBoxManage with a home of its own and returns what it prints.
func (v *virtualBox) manage(t *testing.T, home string, args ...string) (string, error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	id := filepath.Base(v.dir) + filepath.Base(home)
	cmd := exec.CommandContext(ctx, "chroot", append([]string{v.root, "env", "HOME=" + home, "USER=" + id, "LOGNAME=" + id,
		"VBOX_USER_HOME=" + home + "/.vb", "VBOX_IPC_SOCKETID=" + id, "/usr/lib/virtualbox/VBoxManage"}, args...)...)
	out, err := os.Create(filepath.Join(t.TempDir(), "out")) // a pipe would be held by its server
	if err != nil {
		t.Fatal(err)
	}
	cmd.Stdout, cmd.Stderr = out, out
	err = cmd.Run()
	if err := out.Close(); err != nil {
		t.Fatal(err)
	}
	b, rerr := os.ReadFile(out.Name())
	if rerr != nil {
		t.Fatal(rerr)
	}
	return string(b), err
}

// store is settings of a machine that has nothing but images: those that settings refer to and do not have.
func store(t *testing.T, settings []byte) []byte {
	t.Helper()
	m := machinetest.Decode(t, Form{}, settings)
	s := &machine.Machine{Name: "store", UUID: "a1a1a1a1-0000-4000-8000-0000000000ff"}
	for _, d := range m.Drives {
		if d.Media.UUID != "" && d.Media.Path == "" {
			d.Media.Path = "/srv/" + d.Media.UUID
			d.At = machine.Address{Bus: machine.SATA, Unit: len(s.Drives)}
			s.Drives = append(s.Drives, machine.Drive{Kind: d.Kind, At: d.At, Media: d.Media})
		}
	}
	if len(s.Drives) == 0 {
		return nil
	}
	b, losses := machinetest.Encode(t, Form{}, s, machine.EncodeOptions{})
	if len(losses) > 0 {
		t.Fatal(losses)
	}
	return regexp.MustCompile(`(?s)\s*<StorageControllers>.*</StorageControllers>`).ReplaceAll(b, nil)
}

// register has settings registered and returns what VirtualBox says of them.
func (v *virtualBox) register(t *testing.T, name string, settings []byte) map[string]string {
	t.Helper()
	v.runs++
	dir := fmt.Sprintf("%d", v.runs) // and a server of its own: it remembers images
	put := func(name string, b []byte) string {
		if err := os.MkdirAll(v.host(dir), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(v.host(dir), name+".vbox"), b, 0o644); err != nil {
			t.Fatal(err)
		}
		return v.dir + "/" + dir + "/" + name + ".vbox"
	}
	manage := func(args ...string) string {
		out, err := v.manage(t, v.dir+"/"+dir, args...)
		if err != nil {
			t.Fatalf("%s: %v\n%s\n%s", args[0], err, out, settings)
		}
		return out
	}
	if s := store(t, settings); s != nil {
		manage("registervm", put("store", s))
	}
	manage("registervm", put(name, settings))
	m := machinetest.Decode(t, Form{}, settings)
	id, _ := attr(m.Origin.(origin).file.mach, "uuid")
	out := manage("showvminfo", strings.Trim(id, "{}"), "--machinereadable")
	info := map[string]string{}
	line := regexp.MustCompile(`(?s)^"?([^"=]+)"?="?(.*?)"?$`)
	for l := range strings.SplitSeq(out, "\n") {
		if f := line.FindStringSubmatch(l); f != nil {
			key := f[1]
			for i := 1; info[key] != ""; i++ { // those of adapters repeat
				key = fmt.Sprintf("%s#%d", f[1], i)
			}
			info[key] = strings.ReplaceAll(f[2], v.dir+"/"+dir, "DIR")
		}
	}
	if info["name"] == "" || info["VMState"] == "inaccessible" {
		t.Fatalf("VirtualBox cannot read it: %s\n%s", out, settings)
	}
	return info
}

// same says where what VirtualBox says of settings is not what a machine says.
func same(t *testing.T, info map[string]string, m *machine.Machine) {
	t.Helper()
	eq := func(key, want string) {
		t.Helper()
		if got := info[key]; !strings.EqualFold(got, want) {
			t.Errorf("%s: VirtualBox says %q, not %q", key, got, want)
		}
	}
	onOff := func(key string, s machine.Switch) {
		t.Helper()
		if s != machine.Unsaid {
			eq(key, s.String())
		}
	}
	eq("name", m.Name)
	eq("hardwareuuid", m.UUID)
	if m.InstanceUUID != "" {
		eq("UUID", m.InstanceUUID)
	} else {
		eq("UUID", m.UUID)
	}
	eq("memory", strconv.FormatInt(m.Memory.Bytes/mib, 10))
	eq("cpus", strconv.Itoa(max(m.CPU.Count, m.CPU.Max)))
	if m.Firmware.Type == "efi" {
		if !strings.HasPrefix(info["firmware"], "EFI") {
			t.Errorf("firmware: VirtualBox says %q, not EFI", info["firmware"])
		}
		vars := m.Firmware.Vars.Path
		if !filepath.IsAbs(vars) {
			vars = "DIR/" + vars
		}
		eq("NvramFile", vars)
	} else {
		eq("firmware", "BIOS")
	}
	if m.Arch == "aarch64" {
		eq("platformArchitecture", "ARM")
		eq("chipset", "armv8virtual")
	} else {
		eq("platformArchitecture", "x86")
		eq("chipset", map[string]string{"i440fx": "piix3", "q35": "ich9"}[m.Chipset])
		onOff("longmode", machine.Is(m.Arch == "x86_64"))
		onOff("pae", m.Features.PAE)
		onOff("hpet", m.Features.HPET)
		onOff("nested-hw-virt", m.CPU.Nested)
		onOff("ioapic", m.Features.APIC)
	}
	onOff("acpi", m.Features.ACPI)
	onOff("rtcuseutc", machine.Is(m.Clock == "utc"))
	var order []string
	for i := 1; i <= maxBoot; i++ {
		if b := info[fmt.Sprintf("boot%d", i)]; b != "none" {
			order = append(order, map[string]string{"disk": "disk", "dvd": "cdrom", "net": "network", "floppy": "floppy"}[b])
		}
	}
	if !slices.Equal(order, m.Boot) {
		t.Errorf("boot: VirtualBox says %v, not %v", order, m.Boot)
	}
	sameNICs(t, info, m, eq, onOff)
	sameStorage(t, info, m, eq)
	v := m.Videos[0]
	eq("graphicscontroller", map[string]string{"vmvga": "vmsvga", "vboxvga": "vboxvga", "vboxsvga": "vboxsvga", "ramfb": "qemuramfb"}[v.Model])
	eq("vram", strconv.FormatInt(v.Memory/mib, 10))
	eq("monitorcount", strconv.Itoa(v.Heads))
	if v.Model != "vboxvga" { // of which VirtualBox 7 has no 3D
		onOff("accelerate3d", v.Accel3D)
	}
	eq("vrde", machine.Is(len(m.Displays) > 0).String())
	if len(m.Displays) > 0 && m.Displays[0].Port > 0 {
		if !strings.HasPrefix(info["vrdeports"], strconv.Itoa(m.Displays[0].Port)) || info["vrdeaddress"] != m.Displays[0].Listen {
			t.Errorf("vrde: VirtualBox says %s %s, not %+v", info["vrdeports"], info["vrdeaddress"], m.Displays[0])
		}
	}
	if (info["audio"] != "none") != (len(m.Sounds) > 0) {
		t.Errorf("audio: VirtualBox says %q, not %v", info["audio"], m.Sounds)
	}
	samePorts(t, info, m, eq)
	var usb []string
	for _, c := range m.Controllers {
		if c.Bus == machine.USB && !c.Implied {
			usb = append(usb, c.Model)
		}
	}
	for key, model := range map[string]string{"usb": "ohci", "ehci": "ehci", "xhci": "xhci"} {
		if key == "usb" && info["platformArchitecture"] == "ARM" {
			continue
		}
		eq(key, machine.Is(slices.Contains(usb, model)).String())
	}
	for i, s := range m.Shares {
		eq(fmt.Sprintf("SharedFolderNameMachineMapping%d", i+1), s.Name)
	}
	if n := info[fmt.Sprintf("SharedFolderNameMachineMapping%d", len(m.Shares)+1)]; n != "" {
		t.Errorf("VirtualBox has a share %s", n)
	}
}

func sameNICs(t *testing.T, info map[string]string, m *machine.Machine, eq func(key, want string), onOff func(key string, s machine.Switch)) {
	t.Helper()
	nics := map[int]machine.NIC{}
	for _, n := range m.NICs {
		nics[n.Slot] = n
	}
	for slot := range maxNICs {
		n, ok := nics[slot]
		key := func(s string) string { return fmt.Sprintf("%s%d", s, slot+1) }
		if !ok {
			if info[key("nic")] != "" {
				eq(key("nic"), "none")
			}
			continue
		}
		kind := map[machine.NetKind]string{machine.UserNet: "nat", machine.NAT: "natnetwork", machine.Bridged: "bridged", machine.HostOnly: "hostonly",
			machine.Internal: "intnet", machine.NoNet: "null", "": "generic"}[n.Kind]
		eq(key("nic"), kind)
		if word, _ := nicModels.word(info[key("nictype")]); word != n.Model {
			t.Errorf("nic %d: VirtualBox says %s, not %s", slot, info[key("nictype")], n.Model)
		}
		onOff(key("cableconnected"), n.Connected)
		if n.MAC != "" {
			eq(key("macaddress"), strings.ReplaceAll(n.MAC, ":", ""))
		}
		if name := map[machine.NetKind]string{machine.NAT: "nat-network", machine.Bridged: "bridgeadapter", machine.HostOnly: "hostonlyadapter", machine.Internal: "intnet"}[n.Kind]; name != "" {
			eq(key(name), n.Network)
		}
	}
}

func sameStorage(t *testing.T, info map[string]string, m *machine.Machine, eq func(key, want string)) {
	t.Helper()
	count := map[machine.Bus]int{}
	drives := 0
	for i := 0; info[fmt.Sprintf("storagecontrollername%d", i)] != ""; i++ {
		name := info[fmt.Sprintf("storagecontrollername%d", i)]
		typ := info[fmt.Sprintf("storagecontrollertype%d", i)]
		if typ == "IntelAhci" {
			typ = "AHCI"
		}
		st := storageTypes[storageType(typ)]
		k := st.kind
		index := count[k.bus]
		if k != usbKind {
			count[k.bus]++
			c := m.Controller(k.bus, index)
			if c == nil || (c.Model != "" && c.Model != st.model) {
				t.Errorf("VirtualBox has %s as %s%d, not %+v", typ, k.bus, index, c)
				continue
			}
			if c.Ports > 0 {
				eq(fmt.Sprintf("storagecontrollerportcount%d", i), strconv.Itoa(c.Ports))
			}
		}
		for u := range k.units() {
			place := fmt.Sprintf("%d-%d", u/k.devices, u%k.devices)
			what := info[name+"-"+place]
			d := m.DriveAt(machine.Address{Bus: k.bus, Index: index, Unit: u})
			if d == nil {
				if what != "" && what != "none" {
					t.Errorf("VirtualBox has %s at %s %s", what, name, place)
				}
				continue
			}
			drives++
			if u := info[name+"-ImageUUID-"+place]; u != d.Media.UUID {
				t.Errorf("drive %s: VirtualBox has image %q, not %q", d.At, u, d.Media.UUID)
			}
			switch {
			case d.Media.Path != "" && strings.TrimPrefix(what, "DIR/") != d.Media.Path:
				t.Errorf("drive %s: VirtualBox has %q, not %q", d.At, what, d.Media.Path)
			case d.Media == (machine.Media{}) && what != "emptydrive":
				t.Errorf("drive %s: VirtualBox has %q, not nothing", d.At, what)
			case d.Media.Host != "" && what != "emptydrive" && !strings.Contains(what, d.Media.Host): // this host may not have it
				t.Errorf("drive %s: VirtualBox has %q, not %q", d.At, what, d.Media.Host)
			}
			if d.SSD != machine.Unsaid {
				eq(name+"-nonrotational-"+place, d.SSD.String())
			}
			if d.Discard != machine.Unsaid {
				eq(name+"-discard-"+place, d.Discard.String())
			}
		}
	}
	if drives != len(m.Drives) {
		t.Errorf("VirtualBox has %d drives, not %d", drives, len(m.Drives))
	}
}

func samePorts(t *testing.T, info map[string]string, m *machine.Machine, eq func(key, want string)) {
	t.Helper()
	serials := map[int]string{}
	for _, p := range m.Serials {
		serials[p.Slot] = map[string]string{"null": "disconnected", "file": "file," + p.Path, "device": p.Path, "pipe": "client," + p.Path, "tcp": "tcpclient," + p.Host + ":" + p.Service}[p.Kind]
		if p.Server == machine.On {
			serials[p.Slot] = map[string]string{"pipe": "server," + p.Path, "tcp": "tcpserver," + p.Service}[p.Kind]
		}
	}
	for slot := range maxSerials {
		if want, ok := serials[slot]; ok {
			eq(fmt.Sprintf("uartmode%d", slot+1), want)
		} else if got := info[fmt.Sprintf("uart%d", slot+1)]; got != "off" && info["platformArchitecture"] != "ARM" {
			t.Errorf("VirtualBox has serial port %d: %q", slot, got)
		}
	}
	for _, p := range m.Parallels {
		eq(fmt.Sprintf("lptmode%d", p.Slot+1), p.Path)
	}
}

// TestVirtualBox asks VirtualBox what the settings of testdata and the corpus mean, the same when they are written again,
// and those that are written fresh.
func TestVirtualBox(t *testing.T) {
	v := newVirtualBox(t)
	all := goldens(t)
	t.Run("corpus", func(t *testing.T) {
		for _, s := range machinetest.Corpus(t, "libvirt-vbox", ".vbox") {
			all[strings.TrimSuffix(s.Name, ".vbox")] = s.Data
		}
	})
	for name, b := range all {
		t.Run(name, func(t *testing.T) {
			m := machinetest.Decode(t, Form{}, b)
			if name != "v1.2" { // older than it reads
				info := v.register(t, m.Name, b)
				same(t, info, m)
				again, losses := machinetest.Encode(t, Form{}, m, machine.EncodeOptions{})
				if len(losses) > 0 {
					t.Errorf("losses %v", losses)
				}
				info2 := v.register(t, m.Name, again)
				for k, x := range info {
					if k != "VMStateChangeTime" && info2[k] != x {
						t.Errorf("%s: VirtualBox said %q, and of what was written again %q", k, x, info2[k])
					}
				}
			}
			fresh, losses := machinetest.Encode(t, Form{}, machinetest.Strip(m), machine.EncodeOptions{})
			t.Log(losses)
			same(t, v.register(t, m.Name, fresh), machinetest.Decode(t, Form{}, fresh))
			if bytes.Equal(fresh, b) {
				t.Error("not fresh")
			}
		})
	}
}

// TestVirtualBoxForeign has VirtualBox register what was another form's, with an image that it made itself.
func TestVirtualBoxForeign(t *testing.T) {
	v := newVirtualBox(t)
	for name, m := range foreign() {
		t.Run(name, func(t *testing.T) {
			b, _ := machinetest.Encode(t, Form{}, m, machine.EncodeOptions{})
			m2 := machinetest.Decode(t, Form{}, b)
			same(t, v.register(t, "m", b), withVars(m2))
		})
	}
	// All that VirtualBox says it takes.
	full := &machine.Machine{Name: "m", Chipset: "q35", CPU: machine.CPU{Count: 64}, Memory: machine.Memory{Bytes: maxMemory}, TPM: &machine.TPM{Backend: "passthrough"}, Arch: "x86_64"}
	for _, st := range storageTypes {
		for index := range 8 {
			k := st.kind
			if !k.several && (index > 0 || st.model == "piix3" || st.model == "ich6") || k == usbKind || st.model == "buslogic" {
				continue
			}
			n := 0
			for _, c := range full.Controllers {
				if c.Bus == k.bus {
					n++
				}
			}
			full.Controllers = append(full.Controllers, machine.Controller{Bus: k.bus, Index: n, Model: st.model, Ports: k.ports})
			kind := machine.Disk
			if k == floppyKind {
				kind = machine.Diskette
			}
			for u := range min(k.units(), 30) {
				full.Drives = append(full.Drives, machine.Drive{
					Kind: kind, At: machine.Address{Bus: k.bus, Index: n, Unit: u}, Media: machine.Media{Path: fmt.Sprintf("%s%d-%d.vdi", k.name, index, u), Format: map[bool]string{true: "vdi"}[kind == machine.Disk]},
				})
			}
		}
	}
	for slot := range maxNICs {
		full.NICs = append(full.NICs, machine.NIC{Slot: slot, Model: nicModels[slot%7].word, Kind: machine.UserNet})
	}
	b, losses := machinetest.Encode(t, Form{}, full, machine.EncodeOptions{})
	if len(losses) > 0 {
		t.Error(losses)
	}
	same(t, v.register(t, "m", b), machinetest.Decode(t, Form{}, b))
}

// withVars says where VirtualBox keeps variables: beside the settings, which the tests name m.
func withVars(m *machine.Machine) *machine.Machine {
	if v := m.Firmware.Vars.Path; m.Firmware.Type == "efi" && (v == "" || v == defaultVars(m.Name)) {
		m.Firmware.Vars.Path = "m.nvram"
	}
	return m
}

// TestVirtualBoxImage: an image that bears the UUID of its settings can be used, another cannot.
func TestVirtualBoxImage(t *testing.T) {
	v := newVirtualBox(t)
	home := v.dir + "/image"
	if err := os.MkdirAll(v.host("image"), 0o755); err != nil {
		t.Fatal(err)
	}
	if out, err := v.manage(t, home, "createmedium", "disk", "--filename", home+"/a.vdi", "--size", "8"); err != nil {
		t.Fatal(out)
	}
	head, err := os.ReadFile(v.host("image/a.vdi"))
	if err != nil {
		t.Fatal(err)
	}
	u := head[0x188:0x198] // uuidCreate of VDI 1.1, first fields little-endian
	id := fmt.Sprintf("%08x-%04x-%04x-%x-%x", uint32(u[0])|uint32(u[1])<<8|uint32(u[2])<<16|uint32(u[3])<<24, uint16(u[4])|uint16(u[5])<<8, uint16(u[6])|uint16(u[7])<<8, u[8:10], u[10:])
	for i, tc := range []struct {
		id   string
		good bool
	}{{id, true}, {"99999999-0000-4000-8000-000000000001", false}} {
		m := &machine.Machine{Name: "m", Drives: []machine.Drive{{Kind: machine.Disk, At: machine.Address{Bus: machine.SATA}, Media: machine.Media{Path: "a.vdi", UUID: tc.id}}}}
		b, _ := machinetest.Encode(t, Form{}, m, machine.EncodeOptions{})
		if err := os.WriteFile(v.host("image/m.vbox"), b, 0o644); err != nil {
			t.Fatal(err)
		}
		other := fmt.Sprintf("%s/%d", home, i) // a server that does not know the image
		if err := os.MkdirAll(filepath.Join(v.root, other), 0o755); err != nil {
			t.Fatal(err)
		}
		if out, err := v.manage(t, other, "registervm", home+"/m.vbox"); err != nil {
			t.Fatal(out)
		}
		out, err := v.manage(t, other, "showmediuminfo", tc.id)
		if good := err == nil && strings.Contains(out, "State:          created"); good != tc.good {
			t.Errorf("%s: %v %s", tc.id, err, out)
		}
	}
}
