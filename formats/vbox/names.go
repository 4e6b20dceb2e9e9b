package vbox

import (
	"strings"

	"tarvm/formats/machine"
)

// names are pairs of VirtualBox's word and the model's. Where one word has several, the first is written.
type names []struct{ vbox, word string }

func (n names) word(vbox string) (string, bool) {
	for _, p := range n {
		if strings.EqualFold(p.vbox, vbox) {
			return p.word, true
		}
	}
	return strings.ToLower(vbox), false
}

func (n names) vbox(word string) (string, bool) {
	for _, p := range n {
		if p.word == word {
			return p.vbox, true
		}
	}
	return "", false
}

var (
	// Network/Adapter/@type
	nicModels = names{
		{"82540EM", "e1000"}, {"Am79C973", "pcnet"}, {"Am79C970A", "pcnet"}, {"82543GC", "e1000-82543gc"},
		{"82545EM", "e1000-82545em"}, {"82583V", "e1000e"}, {"virtio", "virtio"}, {"usbnet", "usb-net"},
		{"NE2000", "ne2k_isa"}, {"NE1000", "ne1000"}, {"Am79C960", "am79c960"}, {"WD8003", "wd8003"},
		{"WD8013", "wd8013"}, {"3C503", "3c503"}, {"3C501", "3c501"},
	}
	// Boot/Order/@device
	bootDevices = names{{"HardDisk", "disk"}, {"DVD", "cdrom"}, {"Network", "network"}, {"Floppy", "floppy"}}
	// Chipset/@type
	chipsets = names{{"PIIX3", "i440fx"}, {"ICH9", "q35"}, {"ARMv8Virtual", "virt"}}
	// Display/@controller
	videoModels = names{
		{"VMSVGA", "vmvga"}, {"VBoxVGA", "vboxvga"}, {"VBoxSVGA", "vboxsvga"}, {"None", "none"}, {"QemuRamFB", "ramfb"},
	}
	// AudioAdapter/@controller
	soundModels = names{{"AC97", "ac97"}, {"SB16", "sb16"}, {"HDA", "hda"}}
	// USB/Controllers/Controller/@type
	usbModels = names{{"OHCI", "ohci"}, {"EHCI", "ehci"}, {"XHCI", "xhci"}}
	// HardDisk/@format. VirtualBox's QCOW reads both versions.
	imageFormats = names{
		{"VDI", "vdi"}, {"VMDK", "vmdk"}, {"VHD", "vpc"}, {"VHDX", "vhdx"}, {"Parallels", "parallels"}, {"QCOW", "qcow2"},
		{"QED", "qed"}, {"RAW", "raw"}, {"DMG", "dmg"},
	}
)

// A kind is a storage controller's: a bus in VirtualBox's sense, of which there can be one, or eight on ICH9.
type kind struct {
	name     string // of the controller that is written
	bus      machine.Bus
	ports    int // the most
	fixed    bool
	devices  int // of each port
	hostIO   bool
	several  bool // on ICH9
	reserved int  // a unit that is never chosen, or -1
}

var (
	ideKind    = &kind{name: "IDE", bus: machine.IDE, ports: 2, fixed: true, devices: 2, hostIO: true, reserved: -1}
	sataKind   = &kind{name: "SATA", bus: machine.SATA, ports: 30, devices: 1, several: true, reserved: -1}
	scsiKind   = &kind{name: "SCSI", bus: machine.SCSI, ports: 16, fixed: true, devices: 1, several: true, reserved: 7}
	sasKind    = &kind{name: "SAS", bus: machine.SCSI, ports: 255, devices: 1, several: true, reserved: -1}
	virtioKind = &kind{name: "VirtioSCSI", bus: machine.SCSI, ports: 256, devices: 1, several: true, reserved: -1}
	nvmeKind   = &kind{name: "NVMe", bus: machine.NVMe, ports: 255, devices: 1, several: true, reserved: -1}
	usbKind    = &kind{name: "USB", bus: machine.USB, ports: 8, fixed: true, devices: 1, reserved: -1}
	floppyKind = &kind{name: "Floppy", bus: machine.Floppy, ports: 1, fixed: true, devices: 2, hostIO: true, reserved: -1}
)

// units is how many drives a controller takes.
func (k *kind) units() int { return k.ports * k.devices }

// storageTypes are the values of StorageController/@type. The first of a bus is written where no model is said.
var storageTypes = []struct {
	vbox  string
	kind  *kind
	model string
}{
	{"PIIX4", ideKind, "piix4"}, {"PIIX3", ideKind, "piix3"}, {"ICH6", ideKind, "ich6"},
	{"AHCI", sataKind, "ahci"},
	{"LsiLogic", scsiKind, "lsilogic"}, {"BusLogic", scsiKind, "buslogic"}, {"LsiLogicSas", sasKind, "lsisas1068"},
	{"VirtioSCSI", virtioKind, "virtio-scsi"},
	{"NVMe", nvmeKind, ""}, {"USB", usbKind, ""}, {"I82078", floppyKind, ""},
}

// storageType returns the place in storageTypes of a type, or -1.
func storageType(vbox string) int {
	for i, t := range storageTypes {
		if t.vbox == vbox {
			return i
		}
	}
	return -1
}

// storageFor returns the place in storageTypes for a bus and a model, or -1 for a bus that VirtualBox lacks; exact is
// false when it is another model.
func storageFor(b machine.Bus, model string) (i int, exact bool) {
	first := -1
	for i, t := range storageTypes {
		if t.kind.bus != b {
			continue
		}
		if t.model == model || model == "" {
			return i, true
		}
		if first < 0 {
			first = i
		}
	}
	if b == machine.SCSI && model == "lsisas1078" {
		return storageType("LsiLogicSas"), false
	}
	return first, false
}
