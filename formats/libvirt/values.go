package libvirt

import (
	"fmt"
	"math"
	"strconv"
	"strings"

	"tarvm/formats/machine"
)

// Words of libvirt on the left, of the model on the right.

var platforms = map[string]string{"vbox": "virtualbox", "parallels": "parallels", "vz": "parallels"}

// containers are the drivers whose domains are no machines.
var containers = map[string]bool{"lxc": true, "openvz": true, "uml": true}

var virtualizations = map[string]string{"hvm": "hvm", "xen": "pv", "linux": "pv", "xenpvh": "pvh"}

var bootKinds = map[string]string{"hd": "disk", "cdrom": "cdrom", "network": "network", "fd": "floppy"}

var bootWords = map[string]string{"disk": "hd", "cdrom": "cdrom", "network": "network", "floppy": "fd"}

// imageFormats are the words of driver's type whose meaning is another of qemu's.
var imageFormats = map[string]string{"iso": "raw", "aio": "raw", "ploop": "parallels", "dir": "", "fat": "", "vhd": "vpc"}

// imageWords are qemu's formats that libvirt (to 11) can name. The rest it would take for raw.
var imageWords = map[string]string{
	"raw": "raw", "bochs": "bochs", "cloop": "cloop", "dmg": "dmg", "vpc": "vpc", "vdi": "vdi", "cow": "cow", "qcow": "qcow",
	"qcow2": "qcow2", "qed": "qed", "vmdk": "vmdk", "parallels": "ploop",
}

// nicModels are names of network adapters in lower case; others are the same on both sides.
var nicModels = map[string]string{
	"virtio-transitional": "virtio", "virtio-non-transitional": "virtio", "virtio-net-pci": "virtio",
	"vlance": "pcnet", "pcnet32": "pcnet", "vmxnet2": "vmxnet2", "virtio-net": "virtio",
	// VirtualBox's driver has VirtualBox's words.
	"am79c970a": "pcnet", "am79c973": "pcnet", "82540em": "e1000", "82543gc": "e1000-82543gc", "82545em": "e1000-82545em",
}

// qemuNICs are the adapters that QEMU has, by the model's names.
var qemuNICs = map[string]string{
	"virtio": "virtio", "e1000": "e1000", "e1000e": "e1000e", "e1000-82545em": "e1000-82545em", "rtl8139": "rtl8139", "pcnet": "pcnet",
	"ne2k_pci": "ne2k_pci", "vmxnet3": "vmxnet3", "i82551": "i82551", "i82557b": "i82557b", "i82559er": "i82559er", "igb": "igb",
	"tulip": "tulip",
}

// nearNICs are what becomes of others. A guest with drivers for the old vmxnets has those of vmxnet3 in the same package.
var nearNICs = map[string]string{"vmxnet": "vmxnet3", "vmxnet2": "vmxnet3", "e1000-82543gc": "e1000", "netfront": "virtio"}

var scsiModels = map[string]string{"auto": "", "virtio-transitional": "virtio-scsi", "virtio-non-transitional": "virtio-scsi"}

// qemuSCSI are the SCSI controllers that QEMU has, with the number of drives that each takes and whether a drive's number
// is its LUN (else its target; of the LSI 53C895A, libvirt calls that the unit, too).
var qemuSCSI = map[string]struct {
	drives int
	target bool
}{
	"": {7, false}, "lsilogic": {7, false}, "lsisas1068": {8, true}, "lsisas1078": {7, true}, "vmpvscsi": {64, true}, "virtio-scsi": {256, false},
}

func usbModel(s string) string {
	switch {
	case strings.HasSuffix(s, "xhci"):
		return "xhci"
	case s == "ehci" || s == "ich9-ehci1":
		return "ehci"
	case strings.HasSuffix(s, "ohci"):
		return "ohci"
	case strings.Contains(s, "uhci"):
		return "uhci"
	}
	return ""
}

var qemuUSB = map[string]string{"xhci": "qemu-xhci", "ehci": "ich9-ehci1", "ohci": "pci-ohci", "uhci": "piix3-uhci"}

var videoModels = map[string]string{"vbox": "vboxvga"}

var qemuVideos = map[string]string{
	"vga": "vga", "cirrus": "cirrus", "vmvga": "vmvga", "qxl": "qxl", "virtio": "virtio", "bochs": "bochs", "none": "none", "ramfb": "ramfb",
}

// nearVideos: VirtualBox's VBoxSVGA is VMware's adapter with additions.
var nearVideos = map[string]string{"vboxvga": "vga", "vboxsvga": "vmvga", "xen": "vga"}

var soundModels = map[string]string{"ich6": "hda"}

var soundWords = map[string]string{
	"hda": "ich6", "ac97": "ac97", "es1370": "es1370", "sb16": "sb16", "ich9": "ich9", "ich7": "ich7", "usb": "usb", "pcspk": "pcspk",
	"virtio": "virtio",
}

var portKinds = map[string]string{"dev": "device"}

var portWords = map[string]string{
	"file": "file", "pipe": "pipe", "pty": "pty", "tcp": "tcp", "udp": "udp", "unix": "unix", "device": "dev", "stdio": "stdio", "vc": "vc",
	"null": "null",
}

// otherKinds are elements of devices that the model names in another way.
var otherKinds = map[string]string{"memballoon": "balloon"}

// others returns the model's word: that of the table, or the same.
func translate(table map[string]string, s string) string {
	if t, ok := table[s]; ok {
		return t
	}
	return s
}

// back returns libvirt's word for a word of the model, from a table of the other direction.
func back(table map[string]string, s, otherwise string) string {
	if t, ok := table[s]; ok {
		return t
	}
	return otherwise
}

// bytesOf returns a number with libvirt's unit (virScaleInteger) in bytes.
func bytesOf(number, unit string) (int64, error) {
	n, err := strconv.ParseUint(strings.TrimSpace(number), 10, 63)
	if err != nil {
		return 0, fmt.Errorf("%q is no size", number)
	}
	scale := int64(1024)
	switch u := strings.ToLower(strings.TrimSpace(unit)); {
	case u == "":
	case u == "b" || u == "bytes":
		scale = 1
	default:
		power := strings.IndexByte("kmgtpe", u[0]) + 1
		base := int64(0)
		switch u[1:] {
		case "", "ib":
			base = 1024
		case "b":
			base = 1000
		}
		if power == 0 || base == 0 {
			return 0, fmt.Errorf("%q is no unit", unit)
		}
		scale = 1
		for range power {
			scale *= base
		}
	}
	if int64(n) > math.MaxInt64/scale {
		return 0, fmt.Errorf("%s %s is too much", number, unit)
	}
	return int64(n) * scale, nil
}

// uuidOf returns an identifier as 8-4-4-4-12 lower-case digits. libvirt takes 32 digits, with hyphens anywhere.
func uuidOf(s string) (string, bool) {
	s = strings.ToLower(strings.ReplaceAll(strings.TrimSpace(s), "-", ""))
	if len(s) != 32 || strings.Trim(s, "0123456789abcdef") != "" {
		return "", false
	}
	return s[:8] + "-" + s[8:12] + "-" + s[12:16] + "-" + s[16:20] + "-" + s[20:], true
}

// macOf returns an address as six pairs of lower-case digits with colons.
func macOf(s string) (string, bool) {
	pairs := strings.Split(strings.ToLower(strings.TrimSpace(s)), ":")
	if len(pairs) != 6 {
		return "", false
	}
	for i, p := range pairs {
		if p == "" || len(p) > 2 || strings.Trim(p, "0123456789abcdef") != "" {
			return "", false
		}
		if len(p) == 1 {
			pairs[i] = "0" + p
		}
	}
	return strings.Join(pairs, ":"), true
}

// maxIndex bounds the numbers of controllers, units and names, so that sums of them stay far from the end of an int.
const maxIndex = 1 << 20

// diskPrefixes are what names of targets begin with (virDiskNameParse).
var diskPrefixes = []string{"fd", "hd", "vd", "sd", "xvd", "ubd"}

// nameIndex is the number that the letters of a target's name give: sda is 0, sdz 25, sdaa 26. A partition's number
// behind it does not count.
func nameIndex(dev string) (prefix string, index int, ok bool) {
	dev = strings.TrimPrefix(dev, "ioemu:")
	for _, p := range diskPrefixes {
		if rest, found := strings.CutPrefix(dev, p); found {
			letters := strings.TrimRight(rest, "0123456789")
			if letters == "" || len(rest) > len(letters) && rest[len(letters)] == '0' {
				continue
			}
			n := 0
			for _, c := range []byte(letters) {
				if c < 'a' || c > 'z' || n > maxIndex {
					return "", 0, false
				}
				n = n*26 + int(c-'a') + 1
			}
			return p, n - 1, n <= maxIndex
		}
	}
	return "", 0, false
}

// diskName is the inverse of nameIndex.
func diskName(prefix string, index int) string {
	var letters []byte
	for n := index + 1; n > 0; n = (n - 1) / 26 {
		letters = append([]byte{byte('a' + (n-1)%26)}, letters...)
	}
	return prefix + string(letters)
}

// prefixOf is how names of targets begin on a bus.
func prefixOf(b machine.Bus) string {
	switch b {
	case machine.IDE:
		return "hd"
	case machine.Virtio:
		return "vd"
	case machine.Xen:
		return "xvd"
	case machine.Floppy:
		return "fd"
	}
	return "sd"
}

// busOf is the bus that libvirt takes if a target has none.
func busOf(kind machine.DriveKind, prefix string) machine.Bus {
	if kind == machine.Diskette {
		return machine.Floppy
	}
	switch prefix {
	case "fd":
		return machine.Floppy
	case "sd":
		return machine.SCSI
	case "vd":
		return machine.Virtio
	case "xvd":
		return machine.Xen
	}
	return machine.IDE
}

// byName is the address that libvirt gives a disk whose target's name has that index.
func byName(b machine.Bus, index int, wide bool) machine.Address {
	per := 0
	switch b {
	case machine.IDE:
		per = 4
	case machine.SATA:
		per = 6
	case machine.Floppy:
		per = 2
	case machine.SCSI:
		per = 7
		if wide {
			a := machine.Address{Bus: b, Index: index / 15, Unit: index % 15}
			if a.Unit >= 7 { // is the controller
				a.Unit++
			}
			return a
		}
	default:
		return machine.Address{Bus: b, Unit: index}
	}
	return machine.Address{Bus: b, Index: index / per, Unit: index % per}
}

// nameOf is the index of the name that byName turns into the address, if there is one.
func nameOf(a machine.Address, wide bool) int {
	n := -1
	switch {
	case a.Bus == machine.IDE && a.Unit < 4:
		n = a.Index*4 + a.Unit
	case a.Bus == machine.SATA && a.Unit < 6:
		n = a.Index*6 + a.Unit
	case a.Bus == machine.Floppy && a.Unit < 2:
		n = a.Index*2 + a.Unit
	case a.Bus == machine.SCSI && wide && a.Unit < 16:
		n = a.Index*15 + a.Unit
		if a.Unit >= 7 {
			n--
		}
	case a.Bus == machine.SCSI && !wide && a.Unit < 7:
		n = a.Index*7 + a.Unit
	case a.Bus == machine.Virtio, a.Bus == machine.Xen, a.Bus == machine.USB, a.Bus == machine.SD:
		n = a.Unit
	}
	if n > maxIndex {
		return -1
	}
	return n
}
