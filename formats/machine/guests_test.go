package machine

import (
	"bufio"
	"bytes"
	"encoding/xml"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
)

// missing skips a test, or fails it when TARVM_REQUIRE_TOOLS is 1.
func missing(t *testing.T, why string) {
	t.Helper()
	if os.Getenv("TARVM_REQUIRE_TOOLS") == "1" {
		t.Fatalf("required: %s", why)
	}
	t.Skip(why)
}

func TestGuestTable(t *testing.T) {
	seen := map[string]bool{}
	texts := map[string]bool{}
	n := 0
	for i, line := range strings.Split(strings.TrimSuffix(guestsTSV, "\n"), "\n") {
		if strings.HasPrefix(line, "#") {
			continue
		}
		n++
		f := strings.Split(line, "\t")
		if len(f) != 8 {
			t.Fatalf("line %d has %d columns", i+1, len(f))
		}
		if texts[f[0]] {
			t.Errorf("%s is there twice", f[0])
		}
		texts[f[0]] = true
		if !slices.Contains([]string{"linux", "windows", "bsd", "solaris", "macos", "other"}, f[1]) || f[2] != "32" && f[2] != "64" {
			t.Errorf("line %d: %s, %s", i+1, f[1], f[2])
		}
		for c, w := range f[3:] {
			if w == "" {
				if c == inVMware || c == inVirtualBox || c == inCIM {
					t.Errorf("%s has no word in column %d", f[0], c)
				}
				continue
			}
			if k := strconv.Itoa(c) + strings.ToLower(w); !strings.HasPrefix(w, "~") {
				if seen[k] {
					t.Errorf("%s is there twice", w)
				}
				seen[k] = true
			}
		}
		if cim, err := strconv.Atoi(strings.TrimPrefix(f[6], "~")); err != nil || cim < 1 || cim >= len(cimNames) {
			t.Errorf("%s: CIM %s", f[0], f[6])
		}
		if (f[4] == "") != strings.HasPrefix(strings.TrimPrefix(f[3], "~"), "arm-") {
			t.Errorf("%s: vSphere's word %q beside VMware's %q", f[0], f[4], f[3])
		}
	}
	if n < 300 || n != len(guests().rows) {
		t.Errorf("%d lines, %d rows", n, len(guests().rows))
	}
	// Each word that stands in for another is one itself.
	for _, r := range guests().rows {
		for v, w := range r.words {
			if w != "" && v != inOsinfo && guests().by[v][strings.ToLower(w)] == nil {
				t.Errorf("%s: %s is no line's own", r.text, w)
			}
		}
	}
	if len(cimNames) != 121 || cimNames[36] != "LINUX" || cimNames[69] != "Microsoft Windows Server 2003" || cimNames[80] != "RedHat Enterprise Linux 64-Bit" ||
		cimNames[96] != "Debian 64-Bit" || cimNames[103] != "Microsoft Windows Server 2008 R2" || cimNames[120] != "Microsoft Windows 10 64-bit" {
		t.Errorf("CIM's names are shifted: %d", len(cimNames))
	}
}

// TestGuestStable translates each line's words to those of the others and back.
func TestGuestStable(t *testing.T) {
	for _, r := range guests().rows {
		if r.means[inVMware] && r.means[inVirtualBox] {
			vm, vb := Guest{VMware: r.words[inVMware]}, Guest{VirtualBox: r.words[inVirtualBox]}
			if got := vm.InVirtualBox(); got != r.words[inVirtualBox] {
				t.Errorf("%s: %s becomes %s", r.text, vm.VMware, got)
			}
			if got := vb.InVMware(); got != r.words[inVMware] {
				t.Errorf("%s: %s becomes %s", r.text, vb.VirtualBox, got)
			}
			if vm.Family() != r.family || vm.Describe() != r.text || vm.Bits() != r.bits && r.text != "Other (32-bit)" {
				t.Errorf("%s: %s, %s, %d", r.text, vm.Family(), vm.Describe(), vm.Bits())
			}
		}
		if w := r.words[inVSphere]; r.means[inVSphere] && (VMwareOf(w) != r.words[inVMware] || Guest{VMware: r.words[inVMware]}.InVSphere() != w) {
			t.Errorf("%s: %s, %s", w, VMwareOf(w), Guest{VMware: r.words[inVMware]}.InVSphere())
		}
		if r.means[inCIM] && r.means[inVMware] {
			n, _ := strconv.Atoi(r.words[inCIM])
			if got := (Guest{CIM: n}).InVMware(); got != r.words[inVMware] {
				t.Errorf("%s: CIM %d becomes %s", r.text, n, got)
			}
		}
		if r.means[inOsinfo] {
			if got := (Guest{Osinfo: r.words[inOsinfo]}).InVirtualBox(); got != r.words[inVirtualBox] {
				t.Errorf("%s: %s becomes %s", r.text, r.words[inOsinfo], got)
			}
		}
	}
}

func TestGuestTranslate(t *testing.T) {
	type want struct {
		vmware, vsphere, vbox, osinfo string
		cim                           int
		bits                          int
		family, text                  string
	}
	for _, c := range []struct {
		name string
		g    Guest
		want want
	}{
		{"nothing", Guest{}, want{}},
		{"text alone", Guest{Text: "my system"}, want{text: "my system"}},
		{"debian", Guest{VMware: "debian12-64"}, want{"debian12-64", "debian12_64Guest", "Debian12_64", "http://debian.org/debian/12", 96, 64, "linux", "Debian 12 (64-bit)"}},
		{"case", Guest{VMware: "winNetEnterprise-64"}, want{"winNetEnterprise-64", "winNetEnterprise64Guest", "Windows2003_64", "http://microsoft.com/win/2k3r2", 70, 64, "windows", "Windows Server 2003 Enterprise (64-bit)"}},
		{"vSphere's word", Guest{VMware: "windows9Server64Guest"}, want{"windows9Server64Guest", "windows9Server64Guest", "Windows2016_64", "http://microsoft.com/win/2k16", 118, 64, "windows", "Windows Server 2016 (64-bit)"}},
		{"later version", Guest{VMware: "debian17-64"}, want{"debian17-64", "debian17_64Guest", "Debian13_64", "http://debian.org/debian/13", 96, 64, "linux", "debian17-64"}},
		{"later, VirtualBox", Guest{VirtualBox: "Ubuntu29_LTS_64"}, want{"ubuntu-64", "ubuntu64Guest", "Ubuntu29_LTS_64", "http://ubuntu.com/ubuntu/25.04", 94, 64, "linux", "Ubuntu29_LTS_64"}},
		{"later, libosinfo", Guest{Osinfo: "http://debian.org/debian/14"}, want{"debian13-64", "debian13_64Guest", "Debian13_64", "http://debian.org/debian/14", 96, 0, "linux", "http://debian.org/debian/14"}},
		{"between", Guest{Osinfo: "http://redhat.com/rhel/8.5"}, want{"rhel8-64", "rhel8_64Guest", "RedHat8_64", "http://redhat.com/rhel/8.5", 80, 0, "linux", "http://redhat.com/rhel/8.5"}},
		{"fedora", Guest{Osinfo: "http://fedoraproject.org/fedora/37"}, want{"fedora-64", "fedora64Guest", "Fedora_64", "http://fedoraproject.org/fedora/37", 100, 0, "linux", "http://fedoraproject.org/fedora/37"}},
		{"earlier", Guest{Osinfo: "http://debian.org/debian/1.1"}, want{"debian12-64", "debian12_64Guest", "Debian_64", "http://debian.org/debian/1.1", 96, 0, "linux", "http://debian.org/debian/1.1"}},
		{"family", Guest{Osinfo: "http://system76.com/popos/20.04"}, want{"otherlinux-64", "otherLinux64Guest", "Linux_64", "http://system76.com/popos/20.04", 101, 0, "linux", "http://system76.com/popos/20.04"}},
		{"unknown linux", Guest{VMware: "foolinux-64"}, want{"foolinux-64", "otherLinux64Guest", "Linux_64", "http://libosinfo.org/linux/2022", 101, 64, "linux", "foolinux-64"}},
		{"unknown linux 32", Guest{VMware: "foolinux"}, want{"foolinux", "otherLinuxGuest", "Linux", "http://libosinfo.org/linux/2022", 36, 0, "linux", "foolinux"}},
		{"unknown", Guest{VMware: "plan9"}, want{"plan9", "plan9Guest", "", "", 0, 0, "", "plan9"}},
		{"unknown CIM", Guest{CIM: 9999}, want{cim: 9999}},
		{"CIM without a line", Guest{CIM: 9}, want{cim: 9, text: "AIX"}},
		{"CIM", Guest{CIM: 96}, want{"debian12-64", "debian12_64Guest", "Debian_64", "http://debian.org/debian/testing", 96, 64, "linux", "Debian (64-bit)"}},
		{"CIM with version", Guest{CIM: 96, CIMVersion: "11"}, want{"debian11-64", "debian11_64Guest", "Debian11_64", "http://debian.org/debian/11", 96, 64, "linux", "Debian 11 (64-bit)"}},
		{"CIM with minor version", Guest{CIM: 107, CIMVersion: "7.9"}, want{"centos7-64", "centos7_64Guest", "RedHat7_64", "http://centos.org/centos/7.0", 107, 64, "linux", "CentOS 7 (64-bit)"}},
		{"CIM of both", Guest{CIM: 105}, want{"windows7-64", "windows7_64Guest", "Windows7_64", "http://microsoft.com/win/7", 105, 0, "windows", "Windows 7"}},
		{"other", Guest{CIM: 1}, want{"other", "otherGuest", "Other", "http://libosinfo.org/unknown", 1, 0, "other", "Other"}},
		{"the more exact", Guest{VMware: "ubuntu-64", VirtualBox: "Ubuntu24_LTS_64", CIM: 94}, want{"ubuntu-64", "ubuntu64Guest", "Ubuntu24_LTS_64", "http://ubuntu.com/ubuntu/24.04", 94, 64, "linux", "Ubuntu 24.04 (64-bit)"}},
		{"arm", Guest{VirtualBox: "Debian12_arm64"}, want{"arm-debian12-64", "", "Debian12_arm64", "http://debian.org/debian/12", 96, 64, "linux", "Debian 12 (ARM, 64-bit)"}},
		{"old word", Guest{VMware: "linux"}, want{"linux", "otherLinuxGuest", "Linux", "http://libosinfo.org/linux/2022", 36, 32, "linux", "Linux (32-bit)"}},
		{"said twice", Guest{VMware: "debian11-64", CIM: 101, Text: "Debian"}, want{"debian11-64", "debian11_64Guest", "Debian11_64", "http://debian.org/debian/11", 101, 64, "linux", "Debian"}},
		{"windows of libosinfo", Guest{Osinfo: "http://microsoft.com/win/2k28"}, want{"windows2022srvnext-64", "windows2022srvNext_64Guest", "Windows2025_64", "http://microsoft.com/win/2k28", 118, 0, "windows", "http://microsoft.com/win/2k28"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			n, name := c.g.InCIM()
			got := want{c.g.InVMware(), c.g.InVSphere(), c.g.InVirtualBox(), c.g.InOsinfo(), n, c.g.Bits(), c.g.Family(), c.g.Describe()}
			if got != c.want {
				t.Errorf("%+v\nnot\n%+v", got, c.want)
			}
			if (name == "") != (n <= 0 || n >= len(cimNames)) {
				t.Errorf("CIM %d is named %q", n, name)
			}
		})
	}
}

func TestGuestConcurrent(t *testing.T) {
	var w sync.WaitGroup
	for range 4 {
		w.Go(func() {
			if s := (Guest{CIM: 96}).InVirtualBox(); s != "Debian_64" {
				t.Error(s)
			}
		})
	}
	w.Wait()
}

// own returns the words of a vocabulary that are lines' own, and all that are there.
func own(v int) (own, all []string) {
	for _, r := range guests().rows {
		if w := r.words[v]; w != "" {
			if r.means[v] {
				own = append(own, w)
			}
			all = append(all, w)
		}
	}
	return own, all
}

// TestGuestVirtualBox compares with VirtualBox's own list: `VBoxManage list ostypes`, by the program on the PATH or the one
// that TARVM_VBOXMANAGE names with its arguments. It is not required anywhere, because distributions do not have it.
func TestGuestVirtualBox(t *testing.T) {
	prog := strings.Fields(os.Getenv("TARVM_VBOXMANAGE"))
	if len(prog) == 0 {
		prog = []string{"VBoxManage"}
	}
	if _, err := exec.LookPath(prog[0]); err != nil {
		t.Skip(err)
	}
	out, err := exec.Command(prog[0], append(prog[1:], "list", "ostypes")...).Output()
	if err != nil {
		t.Fatal(err)
	}
	var list []string
	for _, m := range regexp.MustCompile(`(?m)^ID(?: / Description)?: +(\S+)`).FindAllSubmatch(out, -1) {
		list = append(list, string(m[1]))
	}
	compare(t, list, inVirtualBox)
}

// compare demands that each word of an official list is a line's own, and the other way round.
func compare(t *testing.T, list []string, v int, newer ...string) {
	t.Helper()
	if len(list) < 100 {
		t.Fatalf("%d words", len(list))
	}
	mine, _ := own(v)
	for _, w := range list {
		if !slices.Contains(mine, w) {
			t.Errorf("%s is not in the table", w)
		}
	}
	for _, w := range mine {
		if !slices.Contains(list, w) && !slices.Contains(newer, w) {
			t.Errorf("%s is in the table alone", w)
		}
	}
}

// TestGuestVSphere compares with govmomi's list, which the file that TARVM_GOVMOMI_ENUM names holds: vim25/types/enum.go.
// Without it, there is Debian's package golang-github-vmware-govmomi-dev.
func TestGuestVSphere(t *testing.T) {
	path := os.Getenv("TARVM_GOVMOMI_ENUM")
	if path == "" {
		path = "/usr/share/gocode/src/github.com/vmware/govmomi/vim25/types/enum.go"
	}
	b, err := os.ReadFile(path)
	if err != nil {
		missing(t, err.Error())
	}
	var list []string
	for _, m := range regexp.MustCompile(`VirtualMachineGuestOsIdentifier\("([^"]+)"\)`).FindAllSubmatch(b, -1) {
		list = append(list, string(m[1]))
	}
	// What came with vSphere 8, after the package.
	compare(t, list, inVSphere, "almalinux_64Guest", "crxSys1Guest", "darwin22_64Guest", "darwin23_64Guest", "debian12Guest", "debian12_64Guest",
		"debian13Guest", "debian13_64Guest", "freebsd14Guest", "freebsd14_64Guest", "freebsd15Guest", "freebsd15_64Guest", "oracleLinux10_64Guest",
		"other6xLinux64Guest", "other6xLinuxGuest", "other7xLinux64Guest", "other7xLinuxGuest", "rhel10_64Guest", "rockylinux_64Guest", "vmkernel8Guest",
		"windows11_64Guest", "windows12_64Guest", "windows2022srvNext_64Guest")
}

// TestGuestOsinfo looks for each URI in libosinfo's database.
func TestGuestOsinfo(t *testing.T) {
	if _, err := exec.LookPath("osinfo-query"); err != nil {
		missing(t, err.Error())
	}
	out, err := exec.Command("osinfo-query", "os", "--fields=id").Output()
	if err != nil {
		t.Fatal(err)
	}
	known := map[string]bool{}
	for s := bufio.NewScanner(bytes.NewReader(out)); s.Scan(); {
		known[strings.TrimSpace(s.Text())] = true
	}
	if len(known) < 500 {
		t.Fatalf("%d systems", len(known))
	}
	later := []string{"debian/12", "debian/13", "freebsd/14.0", "win/2k25", "ol/9.0", "rhel/10.0", "ubuntu/23.04", "ubuntu/23.10", "ubuntu/24.04",
		"ubuntu/24.10", "ubuntu/25.04"} // than the database of November 2022
	_, all := own(inOsinfo)
	for _, w := range all {
		if !known[w] && !slices.ContainsFunc(later, func(s string) bool { return strings.HasSuffix(w, "/"+s) }) {
			t.Errorf("libosinfo does not know %s", w)
		}
	}
	// Whatever libosinfo knows has a family, and a word everywhere.
	for id := range known {
		if !strings.HasPrefix(id, "http") {
			continue
		}
		g := Guest{Osinfo: id}
		if g.Family() == "" {
			t.Errorf("%s has no family", id)
		}
	}
}

// TestGuestCorpus compares pairs that other programs wrote in OVF with the table.
func TestGuestCorpus(t *testing.T) {
	root := filepath.Join("..", "..", "..", "shared", "corpus", "ovf")
	if _, err := os.Stat(root); err != nil {
		t.Skip("no corpus of configurations beside the project (../shared/corpus/ovf)")
	}
	// What VMware writes for systems that CIM has no number of, or had none of then.
	deviations := map[[2]string]bool{
		{"windows7Server64Guest", "74"}: true, {"windows7_64Guest", "74"}: true, {"windows2019srv_64Guest", "112"}: true,
		{"other3xLinux64Guest", "101"}: true, {"centosGuest", "36"}: true,
	}
	type section struct {
		ID      string `xml:"id,attr"`
		OSType  string `xml:"osType,attr"`
		VBox    string `xml:"OSType"`
		Version string `xml:"version,attr"`
	}
	seen := map[section]int{}
	files := 0
	err := filepath.WalkDir(root, func(path string, e fs.DirEntry, err error) error {
		if err != nil || e.IsDir() || !strings.HasSuffix(path, ".ovf") {
			return err
		}
		b, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		files++
		d := xml.NewDecoder(bytes.NewReader(b))
		for {
			tok, err := d.Token()
			if err != nil {
				return nil // some are not well-formed, on purpose
			}
			if s, ok := tok.(xml.StartElement); ok && s.Name.Local == "OperatingSystemSection" {
				var x section
				if d.DecodeElement(&x, &s) == nil {
					seen[x]++
				}
			}
		}
	})
	if err != nil || files == 0 {
		t.Fatalf("%d files, %v", files, err)
	}
	pairs := 0
	for x, n := range seen {
		if x.OSType != "" {
			r := guests().by[inVSphere][strings.ToLower(x.OSType)]
			if r == nil {
				t.Errorf("%s is not in the table", x.OSType)
			} else if r.words[inCIM] != x.ID && !deviations[[2]string{x.OSType, x.ID}] {
				t.Errorf("%s has CIM %s, here %s", x.OSType, x.ID, r.words[inCIM])
			}
			pairs += n
		}
		if x.VBox != "" {
			r := guests().by[inVirtualBox][strings.ToLower(x.VBox)]
			if r == nil || r.words[inCIM] != x.ID {
				t.Errorf("%s has CIM %s, here %v", x.VBox, x.ID, r)
			}
			pairs += n
		}
	}
	if pairs < 40 {
		t.Errorf("%d pairs", pairs)
	}
}

// FuzzGuest translates any words. A translation that is known is one of the table's.
func FuzzGuest(f *testing.F) {
	f.Add("debian12-64", "Debian_64", "http://debian.org/debian/12", 96, "12")
	f.Add("windows9Server64Guest", "", "http://microsoft.com/win/2k12r2", 0, "")
	f.Add("", "Ubuntu99999999999999999999_LTS_64", "/", -1, "..")
	f.Fuzz(func(t *testing.T, vmware, vbox, osinfo string, cim int, version string) {
		g := Guest{VMware: vmware, VirtualBox: vbox, Osinfo: osinfo, CIM: cim, CIMVersion: version}
		g.Describe()
		g.InVSphere()
		g.InCIM()
		if b := g.Bits(); b != 0 && b != 32 && b != 64 {
			t.Error(b)
		}
		if w := g.InVMware(); w != "" && w != vmware && guests().by[inVMware][w] == nil {
			t.Errorf("%+v: VMware's %s", g, w)
		}
		if w := g.InVirtualBox(); w != "" && w != vbox && guests().by[inVirtualBox][strings.ToLower(w)] == nil {
			t.Errorf("%+v: VirtualBox's %s", g, w)
		}
	})
}
