package xl

import (
	"bytes"
	"strings"

	"tarvm/formats/machine"
)

// Form is xl.cfg.
type Form struct{}

// Name is xl.
func (Form) Name() string { return "xl" }

// known are settings that hardly anything but a guest of Xen has together.
var known = []string{"name", "memory", "disk", "vif", "vcpus", "builder", "type", "kernel", "bootloader", "maxmem", "uuid",
	"on_poweroff", "vfb", "ramdisk"}

// Probe goes by content: lines that assign to at least two of the settings that a guest has, memory, type or builder among
// them. Files of xm that are programs are taken, too, so that Decode can say why it does not read them.
func (Form) Probe(name string, head []byte) bool {
	if bytes.IndexByte(head, 0) >= 0 {
		return false
	}
	seen := map[string]bool{}
	for line := range bytes.SplitSeq(head, []byte{'\n'}) {
		for part := range bytes.SplitSeq(line, []byte{';'}) {
			k, _, ok := strings.Cut(string(part), "=")
			if k = strings.TrimSuffix(strings.TrimSpace(k), "+"); ok {
				seen[strings.TrimSpace(k)] = true
			}
		}
	}
	// VMX has names with dots, Parallels and systemd have sections.
	if seen["config.version"] || seen["virtualHW.version"] || seen[".encoding"] || bytes.HasPrefix(bytes.TrimSpace(head), []byte("[")) {
		return false
	}
	n := 0
	for _, k := range known {
		if seen[k] {
			n++
		}
	}
	return n >= 2 && (seen["memory"] || seen["type"] || seen["builder"] || seen["disk"] || seen["maxmem"])
}

// A source tells what was made of one text from what was made of others.
type source struct{ _ byte }

// An origin is the text that a Machine was made of.
type origin struct {
	text     []byte
	settings []setting
	was      *machine.Machine // what Decode meant; only read
	of       *source
	builder  bool // the type is said by builder
}

// Form is xl.
func (*origin) Form() string { return "xl" }

// An item is the part of a list that a part of a Machine was made of.
type item struct {
	of    *source
	name  string // of the list
	index int
	disk  disk     // of drives
	keys  []string // of network adapters: parameters that the model has no word for
}

// Form is xl.
func (*item) Form() string { return "xl" }
