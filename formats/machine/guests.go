package machine

import (
	_ "embed"
	"slices"
	"strconv"
	"strings"
	"sync"
)

// guestsTSV is the table; its first lines say what is in it.
//
// Sources: the identifiers of the vSphere API 8.0 U3 (VirtualMachineGuestOsIdentifier),
// with those that VMX has in their place; `VBoxManage list ostypes` of VirtualBox 7.2; CIM_OperatingSystem.OsType of the CIM
// schema 2.52, as VirtualBox numbers it; libosinfo's database of November 2022, with what has come since.
//
//go:embed guests.tsv
var guestsTSV string

// The vocabularies, as the columns of the table.
const (
	inVMware = iota
	inVSphere
	inVirtualBox
	inCIM
	inOsinfo
	vocabularies
)

// A guestRow is a line of the table.
type guestRow struct {
	text   string
	family string
	bits   int
	words  [vocabularies]string // without the mark
	means  [vocabularies]bool   // the word means this line
}

// A guestTable finds lines by words, which are in lower case.
type guestTable struct {
	rows []guestRow
	by   [vocabularies]map[string]*guestRow
	// bits is of each word on any line; 0: of both.
	bits [vocabularies]map[string]int
}

var guests = sync.OnceValue(func() *guestTable {
	t := &guestTable{}
	for line := range strings.Lines(guestsTSV) {
		f := strings.Split(strings.TrimSuffix(line, "\n"), "\t")
		if strings.HasPrefix(line, "#") {
			continue
		}
		r := guestRow{text: f[0], family: f[1]}
		r.bits, _ = strconv.Atoi(f[2])
		for i, w := range f[3:] {
			r.words[i] = strings.TrimPrefix(w, "~")
			r.means[i] = w != "" && r.words[i] == w
		}
		t.rows = append(t.rows, r)
	}
	for v := range t.by {
		t.by[v], t.bits[v] = map[string]*guestRow{}, map[string]int{}
		for i := range t.rows {
			r := &t.rows[i]
			w := strings.ToLower(r.words[v])
			if w == "" {
				continue
			}
			if r.means[v] {
				t.by[v][w] = r
			}
			if b, ok := t.bits[v][w]; ok && b != r.bits {
				t.bits[v][w] = 0
			} else {
				t.bits[v][w] = r.bits
			}
		}
	}
	return t
})

// cimNames are the values of CIM_OperatingSystem.OsType, by number.
var cimNames = [...]string{
	"Unknown", "Other", "MACOS", "ATTUNIX", "DGUX", "DECNT", "Tru64 UNIX", "OpenVMS", "HPUX", "AIX", // 0
	"MVS", "OS400", "OS/2", "JavaVM", "MSDOS", "WIN3x", "WIN95", "WIN98", "WINNT", "WINCE", // 10
	"NCR3000", "NetWare", "OSF", "DC/OS", "Reliant UNIX", "SCO UnixWare", "SCO OpenServer", "Sequent", "IRIX", "Solaris", // 20
	"SunOS", "U6000", "ASERIES", "HP NonStop OS", "HP NonStop OSS", "BS2000", "LINUX", "Lynx", "XENIX", "VM", // 30
	"Interactive UNIX", "BSDUNIX", "FreeBSD", "NetBSD", "GNU Hurd", "OS9", "MACH Kernel", "Inferno", "QNX", "EPOC", // 40
	"IxWorks", "VxWorks", "MiNT", "BeOS", "HP MPE", "NextStep", "PalmPilot", "Rhapsody", "Windows 2000", "Dedicated", // 50
	"OS/390", "VSE", "TPF", "Windows (R) Me", "Caldera Open UNIX", "OpenBSD", "Not Applicable", "Windows XP", "z/OS", // 60
	"Microsoft Windows Server 2003", "Microsoft Windows Server 2003 64-Bit", "Windows XP 64-Bit", "Windows XP Embedded", // 69
	"Windows Vista", "Windows Vista 64-Bit", "Windows Embedded for Point of Service", "Microsoft Windows Server 2008", // 73
	"Microsoft Windows Server 2008 64-Bit", "FreeBSD 64-Bit", "RedHat Enterprise Linux", // 77
	"RedHat Enterprise Linux 64-Bit", "Solaris 64-Bit", "SUSE", "SUSE 64-Bit", "SLES", "SLES 64-Bit", "Novell OES", // 80
	"Novell Linux Desktop", "Sun Java Desktop System", "Mandriva", "Mandriva 64-Bit", "TurboLinux", // 87
	"TurboLinux 64-Bit", "Ubuntu", "Ubuntu 64-Bit", "Debian", "Debian 64-Bit", "Linux 2.4.x", "Linux 2.4.x 64-Bit", // 92
	"Linux 2.6.x", "Linux 2.6.x 64-Bit", "Linux 64-Bit", "Other 64-Bit", "Microsoft Windows Server 2008 R2", // 99
	"VMware ESXi", "Microsoft Windows 7", "CentOS 32-bit", "CentOS 64-bit", "Oracle Enterprise Linux 32-bit", // 104
	"Oracle Enterprise Linux 64-bit", "eComStation 32-bitx", "Microsoft Windows Server 2011", // 109
	"Microsoft Windows Server 2012", "Microsoft Windows 8", "Microsoft Windows 8 64-bit", // 112
	"Microsoft Windows Server 2012 R2", "Microsoft Windows 8.1", "Microsoft Windows 8.1 64-bit", // 115
	"Microsoft Windows Server 2016", "Microsoft Windows 10", "Microsoft Windows 10 64-bit", // 118
}

// vmwareAliases are words of old VMX files for those that came after them.
var vmwareAliases = map[string]string{"linux": "otherlinux", "whistler": "winxppro", "win2000": "win2000pro", "winserver2003": "winnetstandard",
	"winlonghorn": "longhorn", "winlonghorn-64": "longhorn-64", "debian": "debian4", "debian-64": "debian4-64", "solaris": "solaris9"}

// VMwareOf returns the word of a VMX for one of vSphere: debian12-64 for debian12_64Guest. A word that is not known is
// taken apart as those that are.
func VMwareOf(vsphere string) string {
	w := strings.ToLower(vsphere)
	if r := guests().by[inVSphere][w]; r != nil {
		return r.words[inVMware]
	}
	w, long := strings.CutSuffix(w, "guest")
	if s, ok := strings.CutSuffix(w, "_64"); ok && long {
		return s + "-64"
	}
	return w
}

// said returns the words of each vocabulary that the source said, in lower case.
func (g Guest) said() [vocabularies]string {
	var s [vocabularies]string
	s[inVMware] = strings.ToLower(g.VMware)
	if a := vmwareAliases[s[inVMware]]; a != "" {
		s[inVMware] = a
	}
	if strings.HasSuffix(s[inVMware], "guest") || strings.HasSuffix(s[inVMware], "guest64") {
		s[inVMware] = VMwareOf(s[inVMware])
	}
	s[inVirtualBox], s[inOsinfo] = strings.ToLower(g.VirtualBox), strings.ToLower(strings.TrimSuffix(g.Osinfo, "/"))
	if g.CIM > 0 {
		s[inCIM] = strconv.Itoa(g.CIM)
	}
	return s
}

// exact returns the line that a word means. Of several words, one that names a version comes first, then VMware's,
// VirtualBox's, libosinfo's and CIM's.
func (g Guest) exact() *guestRow {
	t, said := guests(), g.said()
	var found *guestRow
	for _, v := range []int{inVMware, inVirtualBox, inOsinfo, inCIM} {
		r := t.by[v][said[v]]
		if r == nil {
			continue
		}
		if v == inCIM && g.CIMVersion != "" {
			r = t.version(r, g.CIMVersion)
		}
		if found == nil || !found.versioned() && r.versioned() && found.family == r.family {
			found = r
		}
	}
	return found
}

// versioned reports whether a line is of a version.
func (r *guestRow) versioned() bool {
	name, _, _ := strings.Cut(r.text, " (")
	return strings.ContainsAny(name, "0123456789")
}

// version returns the line of a version (12, 22.04) that has the same number of CIM's, or r.
func (t *guestTable) version(r *guestRow, version string) *guestRow {
	major, _, _ := strings.Cut(version, ".")
	for i := range t.rows {
		s := &t.rows[i]
		if s.words[inCIM] == r.words[inCIM] && s.bits == r.bits && !strings.Contains(s.text, "ARM") {
			if f := strings.Fields(s.text); slices.Contains(f, version) || slices.Contains(f, major) {
				return s
			}
		}
	}
	return r
}

// near returns the line of the newest version before that which a word names, of the same system; else that of the system
// without a version, else of the oldest version.
func (g Guest) near() *guestRow {
	t, said := guests(), g.said()
	for _, v := range []int{inVMware, inVirtualBox, inOsinfo} {
		if said[v] == "" {
			continue
		}
		prefix, number, suffix, ok := versionOf(v, said[v])
		if prefix == "" || !ok && v != inOsinfo {
			continue
		}
		var older, plain, newer *guestRow
		var best, least []int
		for i := range t.rows {
			r := &t.rows[i]
			w := strings.ToLower(r.words[v])
			p, n, s, ok := versionOf(v, w)
			if !r.means[v] || p != prefix || s != suffix {
				continue
			}
			if !ok {
				if plain == nil && slices.Contains(unversioned, w[strings.LastIndexByte(w, '/')+1:]) {
					plain = r
				}
				continue
			}
			switch c := slices.Compare(n, number); {
			case c <= 0 && (older == nil || slices.Compare(n, best) > 0):
				older, best = r, n
			case c > 0 && (newer == nil || slices.Compare(n, least) < 0):
				newer, least = r, n
			}
		}
		for _, r := range []*guestRow{older, plain, newer} {
			if r != nil {
				return r
			}
		}
	}
	return nil
}

// unversioned is what libosinfo has instead of a version.
var unversioned = []string{"unknown", "testing", "rolling", "stable", "nightly", "current", "tumbleweed"}

// versionOf takes a word apart: debian, 12, -64; ubuntu, 24, _64; http://debian.org/debian/, 12, nothing. It is not ok if
// there is no version; libosinfo's words have a prefix nevertheless.
func versionOf(vocabulary int, w string) (prefix string, number []int, suffix string, ok bool) {
	var digits string
	if vocabulary == inOsinfo {
		i := strings.LastIndexByte(w, '/') + 1
		prefix, digits = w[:i], w[i:]
		digits, _, _ = strings.Cut(digits, "-")           // 8-unknown
		if d, ok := strings.CutPrefix(digits, "2k"); ok { // Windows' servers: 2k12r2
			prefix, digits = prefix+"2k", strings.ReplaceAll(d, "r", ".")
		}
	} else {
		i := strings.IndexAny(w, "0123456789")
		if i <= 0 {
			return "", nil, "", false
		}
		n := i
		for n < len(w) && w[n] >= '0' && w[n] <= '9' {
			n++
		}
		prefix, digits, suffix = w[:i], w[i:n], strings.ReplaceAll(w[n:], "_lts", "")
	}
	for d := range strings.SplitSeq(digits, ".") {
		n, err := strconv.Atoi(d)
		if err != nil {
			return prefix, nil, suffix, false
		}
		number = append(number, n)
	}
	return prefix, number, suffix, prefix != ""
}

// families are what words of a family contain, each with the lines that stand for the family, of 64 and 32 bits.
var families = []struct {
	has        []string
	family     string
	in64, in32 string
}{
	{[]string{"microsoft.com/win", "windows", "winnet", "winxp"}, "windows", "Windows (64-bit)", "Windows (32-bit)"},
	{[]string{"bsd"}, "bsd", "FreeBSD (64-bit)", "FreeBSD (32-bit)"},
	{[]string{"solaris"}, "solaris", "Solaris 11 (64-bit)", "Solaris 10 (32-bit)"},
	{[]string{"darwin", "macos", "apple.com"}, "macos", "Mac OS X (64-bit)", "Mac OS X (32-bit)"},
	{[]string{"linux", "debian", "ubuntu", "fedora", "centos", "redhat", "rhel", "suse", "sles", "oracle.com/ol", "rocky", "gentoo", "mandriva",
		"mageia", "photon", "coreos", "nixos", "elementary", "popos", "manjaro", "univention", "pureos", "endlessos", "cirros", "silverblue", "slackware", "asianux", "android", "hyperbola", "trisquel", "guix", "freenix",
		"gnome"},
		"linux", "Linux (64-bit)", "Linux (32-bit)"},
}

// byFamily returns the line that stands for the family of a word, with its bits; those that are not said are 64.
func (g Guest) byFamily() *guestRow {
	t, said := guests(), g.said()
	for _, v := range []int{inVMware, inVirtualBox, inOsinfo} {
		for _, f := range families {
			if said[v] == "" || !slices.ContainsFunc(f.has, func(s string) bool { return strings.Contains(said[v], s) }) {
				continue
			}
			text := f.in64
			if v != inOsinfo && bitsOf(said[v]) != 64 {
				text = f.in32
			}
			if i := slices.IndexFunc(t.rows, func(r guestRow) bool { return r.text == text }); i >= 0 {
				return &t.rows[i]
			}
		}
	}
	return nil
}

// bitsOf goes by the end of a word.
func bitsOf(w string) int {
	for _, s := range []string{"-64", "_64", "_arm64", "64guest"} {
		if strings.HasSuffix(w, s) {
			return 64
		}
	}
	return 0
}

// translate returns the word of a vocabulary: that of the line that is meant, else of the nearest version, else of the
// family; nothing if none of them is known.
func (g Guest) translate(vocabulary int) string {
	for _, f := range []func(Guest) *guestRow{Guest.exact, Guest.near, Guest.byFamily} {
		if r := f(g); r != nil {
			if w := r.words[vocabulary]; w != "" || vocabulary != inOsinfo || r.family != "linux" {
				return w
			}
			return guests().rows[slices.IndexFunc(guests().rows, func(r guestRow) bool { return r.text == "Linux (64-bit)" })].words[inOsinfo]
		}
	}
	return ""
}

// InVMware returns guestOS of a VMX, in lower case if it is a translation: debian12-64. As in all of these functions, what
// the source said in the vocabulary comes first, then what it said in another one: the same system, the newest known
// version before its own, or any of its family. It is empty when not even the family is known.
func (g Guest) InVMware() string {
	if g.VMware != "" {
		return g.VMware
	}
	return g.translate(inVMware)
}

// InVSphere returns vSphere's longer word: debian12_64Guest. It has none for guests of ARM.
func (g Guest) InVSphere() string {
	w := g.said()[inVMware]
	if w == "" {
		return g.translate(inVSphere)
	}
	if r := guests().by[inVMware][w]; r != nil {
		return r.words[inVSphere]
	}
	if prefix, _, suffix, ok := versionOf(inVMware, w); ok && strings.Trim(prefix, "abcdefghijklmnopqrstuvwxyz") == "" && (suffix == "" || suffix == "-64") {
		return strings.ReplaceAll(w, "-64", "_64") + "Guest" // a version that came after this table
	}
	return g.translate(inVSphere)
}

// InVirtualBox returns OSType of a .vbox: Debian12_64.
func (g Guest) InVirtualBox() string {
	if g.VirtualBox != "" {
		return g.VirtualBox
	}
	return g.translate(inVirtualBox)
}

// InOsinfo returns libosinfo's URI: http://debian.org/debian/12.
func (g Guest) InOsinfo() string {
	if g.Osinfo != "" {
		return g.Osinfo
	}
	return g.translate(inOsinfo)
}

// InCIM returns the number in CIM_OperatingSystem.OsType, and CIM's name for it: 96, "Debian 64-Bit"; 0 and nothing if it
// is not known.
func (g Guest) InCIM() (number int, description string) {
	number = g.CIM
	if number <= 0 {
		number, _ = strconv.Atoi(g.translate(inCIM)) // empty is 0
	}
	if number > 0 && number < len(cimNames) {
		description = cimNames[number]
	}
	return number, description
}

// Describe returns a text for people: what the source said to them, else a name of the system, else a word as it stands.
func (g Guest) Describe() string {
	if g.Text != "" {
		return g.Text
	}
	if r := g.exact(); r != nil {
		if g.Bits() != 0 {
			return r.text
		}
		name, _, _ := strings.Cut(r.text, " (")
		return name
	}
	for _, s := range []string{g.VMware, g.VirtualBox, g.Osinfo} {
		if s != "" {
			return s
		}
	}
	_, s := g.InCIM()
	return s
}

// Bits returns 64 or 32, as far as a word says that; 0: not known.
func (g Guest) Bits() int {
	t, said := guests(), g.said()
	for _, v := range []int{inVMware, inVirtualBox, inCIM, inOsinfo} {
		if said[v] == "" || v == inCIM && g.CIM == 1 { // other, of any kind
			continue
		}
		if b := t.bits[v][said[v]]; b != 0 {
			return b
		}
		if b := bitsOf(said[v]); b != 0 {
			return b
		}
	}
	return 0
}

// Family returns linux, windows, bsd, solaris, macos, or other for what is known and none of these; empty: not known.
func (g Guest) Family() string {
	for _, f := range []func(Guest) *guestRow{Guest.exact, Guest.near, Guest.byFamily} {
		if r := f(g); r != nil {
			return r.family
		}
	}
	return ""
}
