package lint

import (
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"

	"github.com/beevik/etree"
)

// Resource types of CIM_ResourceAllocationSettingData.
const (
	typeProcessor = 3
	typeMemory    = 4
	typeIDE       = 5
	typeSCSI      = 6
	typeEthernet  = 10
	typeFloppy    = 14
	typeCD        = 15
	typeDVD       = 16
	typeDisk      = 17
	typeStorage   = 20 // SATA, NVMe, and what else has a subtype of its own
	typeUSB       = 23
	typeVideo     = 24
	typeSound     = 35
)

func hardwareRules() []Rule {
	return []Rule{
		{
			ID: "memory-units", Text: "the memory is not in MiB, or these are not called as all do", Fixes: true,
			Verdicts: append(all(ReadsWrong, tried+": it takes every number for MiB", VirtV2V, Govc), all(Refuses, tried+": it knows only some spellings", VirtualBox)...),
			check: func(v *view, found func(hit)) {
				for _, i := range v.items {
					units, e := child(i.e, "AllocationUnits")
					if i.kind != typeMemory || units == "" {
						continue
					}
					n, ok := factor(units)
					var only []Importer
					if !ok || n != 1<<20 {
						only = append(only, VirtV2V, Govc)
					}
					if !slices.Contains(unitsVBox, e.Text()) {
						only = append(only, VirtualBox)
					}
					if only == nil {
						continue
					}
					h := hit{where: i.where(), what: quote(e.Text()), left: true, only: only}
					quantity, _ := child(i.e, "VirtualQuantity")
					if bytes, ok := scaled(quantity, units); ok && bytes%(1<<20) == 0 {
						h.left, h.fix = false, func() { i.mebibytes(n) }
					}
					found(h)
				}
			},
		},
		{
			ID: "memory-no-units", Text: "the memory has no units: by specification it is bytes, and who takes it takes MiB", Fixes: true,
			Verdicts: append(append(all(Refuses, tried, VirtualBox), all(Refuses, "source", XenOrchestra)...), append(all(Warns, tried, VirtV2V, Govc), all(Warns, spec, VMware)...)...),
			check: func(v *view, found func(hit)) {
				for _, i := range v.items {
					units, e := child(i.e, "AllocationUnits")
					if i.kind != typeMemory || units != "" {
						continue
					}
					q, _ := child(i.e, "VirtualQuantity")
					n, err := strconv.ParseInt(q, 10, 64)
					found(hit{where: i.where(), what: quote(q), left: err != nil || n > 64<<20, fix: func() {
						if err != nil || n > 64<<20 { // it may well be bytes
							return
						}
						if e == nil {
							e = i.insert("AllocationUnits")
						}
						e.SetText("byte * 2^20")
					}})
				}
			},
		},
		{
			ID: "instance-id", Text: "an Item has InstanceId, the spelling of OVF 0.9", Fixes: true,
			Verdicts: append(all(ReadsWrong, tried+": the disk's bus is lost", VirtV2V), all(ReadsWrong, tried+": the disk is left out", Govc)...),
			check: func(v *view, found func(hit)) {
				if v.root().NamespaceURI() != nsEnvelope1 {
					return
				}
				for _, i := range v.items {
					if _, e := child(i.e, "InstanceId"); e != nil {
						found(hit{where: i.where(), fix: func() { e.Tag = "InstanceID" }})
					}
				}
			},
		},
		{
			ID: "duplicate-id", Text: "two Items have the same InstanceID",
			Verdicts: all(Refuses, spec+"; others were tried and do not look", VMware),
			check: func(v *view, found func(hit)) {
				type key struct {
					system *etree.Element
					id     string
				}
				seen := make(map[key]*item)
				for _, i := range v.items {
					k := key{i.system, i.id}
					// Alternatives for deployment options have the same.
					if o := seen[k]; o != nil && i.configuration() == o.configuration() {
						found(hit{where: i.where()})
					}
					seen[k] = i
				}
			},
		},
		{
			ID: "subtype-list", Text: "a controller has a list of subtypes", Fixes: true,
			Verdicts: all(Refuses, tried+": unknown controller", Govc),
			check: func(v *view, found func(hit)) {
				for _, i := range v.items {
					s, e := child(i.e, "ResourceSubType")
					list := split(s)
					if i.kind != typeSCSI || len(list) < 2 {
						continue
					}
					found(hit{where: i.where(), what: quote(s), fix: func() {
						best := list[0]
						if slices.ContainsFunc(list, func(s string) bool { return strings.EqualFold(s, "lsilogic") }) {
							best = "lsilogic" // as VirtualBox chooses
						}
						e.SetText(best)
					}})
				}
			},
		},
		{
			ID: "scsi-subtype", Text: "a SCSI controller is of no kind that is known",
			Verdicts: append(all(Refuses, tried+": unknown SCSI controller type", Govc), all(Refuses, spec, VMware)...),
			check: func(v *view, found func(hit)) {
				for _, i := range v.items {
					s, _ := child(i.e, "ResourceSubType")
					if i.kind != typeSCSI || len(split(s)) > 1 {
						continue
					}
					switch strings.ToLower(s) {
					case "lsilogic", "lsilogicsas", "buslogic", "virtualscsi":
					default:
						found(hit{where: i.where(), what: quote(s)})
					}
				}
			},
		},
		{
			ID: "ide-subtype", Text: "an IDE controller has a subtype", Fixes: true,
			Verdicts: all(Refuses, "reported: packetfence#5522: \"VALUE_ILLEGAL 'PIIX4' of ResourceSubType\"", VMware),
			check: func(v *view, found func(hit)) {
				for _, i := range v.items {
					if s, e := child(i.e, "ResourceSubType"); i.kind == typeIDE && s != "" {
						found(hit{where: i.where(), what: quote(s), fix: func() { remove(e) }})
					}
				}
			},
		},
		{
			ID: "sata", Text: "there is a SATA controller",
			Verdicts: all(Refuses, tried+": the simulator knows no resource type 20; vCenter itself does", Govc),
			check: func(v *view, found func(hit)) {
				for _, i := range v.items {
					s, _ := child(i.e, "ResourceSubType")
					if i.kind == typeStorage && isSATA(s) {
						found(hit{where: i.where(), what: quote(s)})
					}
				}
			},
		},
		{
			ID: "sata-subtype", Text: "a SATA controller is not called vmware.sata.ahci", Fixes: true,
			Verdicts: all(Refuses, "source: the one subtype of vSphere's; VirtualBox takes both (tried)", VMware),
			check: func(v *view, found func(hit)) {
				for _, i := range v.items {
					s, e := child(i.e, "ResourceSubType")
					if i.kind == typeStorage && isSATA(s) && !strings.EqualFold(s, "vmware.sata.ahci") {
						found(hit{where: i.where(), what: quote(s), fix: func() { e.SetText("vmware.sata.ahci") }})
					}
				}
			},
		},
		{
			ID: "nvme", Text: "there is an NVMe controller",
			Verdicts: append(all(ReadsWrong, tried+": read as SATA", VirtV2V), all(Refuses, tried+": the simulator knows no resource type 20; vCenter itself does", Govc)...),
			check: func(v *view, found func(hit)) {
				for _, i := range v.items {
					if s, _ := child(i.e, "ResourceSubType"); i.kind == typeStorage && isNVMe(s) {
						found(hit{where: i.where(), what: quote(s)})
					}
				}
			},
		},
		{
			ID: "storage-subtype", Text: "a storage controller is of a kind that few know",
			Verdicts: append(all(Refuses, tried+": \"AHCI or Virtio-SCSI or NVMe only\"", VirtualBox), append(all(Refuses, tried, Govc), all(Refuses, "source", VMware)...)...),
			check: func(v *view, found func(hit)) {
				for _, i := range v.items {
					s, _ := child(i.e, "ResourceSubType")
					if i.kind != typeStorage || isSATA(s) || isNVMe(s) {
						continue
					}
					h := hit{where: i.where(), what: quote(s)}
					if strings.HasPrefix(strings.ToLower(s), "virtioscsi") {
						h.only = []Importer{VMware, Govc}
					}
					found(h)
				}
			},
		},
		{
			ID: "unknown-device", Text: "a device of a resource type that the importer does not know must be there (no ovf:required=\"false\")",
			Verdicts: append(all(Refuses, tried, VirtualBox), all(Refuses, spec, VMware)...),
			check: func(v *view, found func(hit)) {
				for _, i := range v.items {
					if !i.required || i.kind < 0 {
						continue
					}
					var only []Importer
					if !slices.Contains(knownVBox, i.kind) {
						only = append(only, VirtualBox)
					}
					if !slices.Contains(knownVMware, i.kind) {
						only = append(only, VMware)
					}
					if only != nil {
						found(hit{where: i.where(), what: fmt.Sprintf("resource type %d", i.kind), only: only})
					}
				}
			},
		},
		{
			ID: "unknown-device-simulator", Text: "a device is of a resource type that the simulator does not know",
			Verdicts: all(Refuses, tried+": also with ovf:required=\"false\"", Govc),
			check: func(v *view, found func(hit)) {
				for _, i := range v.items {
					if i.kind >= 0 && i.kind != typeStorage && !slices.Contains(knownSimulator, i.kind) {
						found(hit{where: i.where(), what: fmt.Sprintf("resource type %d", i.kind)})
					}
				}
			},
		},
		{
			ID: "no-parent", Text: "a disk is at no controller, or at one that is not there",
			Verdicts: append(all(Refuses, tried, VirtualBox), append(all(ReadsWrong, tried+": with a warning it takes some bus", VirtV2V), all(Refuses, spec, VMware)...)...),
			check: func(v *view, found func(hit)) {
				for _, i := range v.items {
					if i.kind != typeDisk {
						continue
					}
					if !slices.ContainsFunc(v.items, func(o *item) bool { return o.system == i.system && o.id == i.parent && o.id != "" }) {
						found(hit{where: i.where(), what: "Parent " + quote(i.parent)})
					}
				}
			},
		},
		{
			ID: "same-address", Text: "two devices have the same place at a controller",
			Verdicts: append(all(Refuses, spec, VMware), all(ReadsWrong, "source: it numbers them anew", XenOrchestra)...),
			check: func(v *view, found func(hit)) {
				type place struct {
					system          *etree.Element
					parent, address string
				}
				seen := make(map[place]*item)
				for _, i := range v.items {
					a, e := child(i.e, "AddressOnParent")
					if e == nil || i.parent == "" || i.kind != typeDisk && i.kind != typeCD && i.kind != typeDVD {
						continue
					}
					p := place{i.system, i.parent, a}
					if o := seen[p]; o != nil && o.configuration() == i.configuration() {
						found(hit{where: i.where(), what: fmt.Sprintf("%s, as %s", quote(a), o.where())})
					}
					seen[p] = i
				}
			},
		},
		{
			ID: "controllers", Text: "there are more controllers of a kind than VirtualBox has",
			Verdicts: all(Warns, "source: one for SCSI, SATA and NVMe each, 4 for IDE; with an empty second one tried: it is left out", VirtualBox),
			check: func(v *view, found func(hit)) {
				type key struct {
					system *etree.Element
					kind   string
				}
				count := make(map[key]int)
				for _, i := range v.items {
					s, _ := child(i.e, "ResourceSubType")
					k, most := "", 1
					switch {
					case i.kind == typeIDE:
						k, most = "IDE", 4
					case i.kind == typeSCSI && strings.EqualFold(s, "lsilogicsas"):
						k = "SAS"
					case i.kind == typeSCSI:
						k = "SCSI"
					case i.kind == typeStorage && isSATA(s):
						k = "SATA"
					case i.kind == typeStorage && isNVMe(s):
						k = "NVMe"
					default:
						continue
					}
					at := key{i.system, k}
					if count[at]++; count[at] == most+1 {
						found(hit{where: i.where(), what: fmt.Sprintf("%s, more than %d", k, most)})
					}
				}
			},
		},
		{
			ID: "disk-reference", Text: "a device refers to a disk or file that the envelope does not have",
			Verdicts: append(all(Refuses, tried, VirtualBox, VirtV2V, Govc), all(Refuses, spec, VMware, XenOrchestra)...),
			check: func(v *view, found func(hit)) {
				for _, i := range v.items {
					for _, c := range i.e.ChildElements() {
						if c.Tag != "HostResource" {
							continue
						}
						r := strings.TrimSpace(c.Text())
						at := strings.LastIndexByte(r, '/')
						kind, id := r[:at+1], r[at+1:]
						switch {
						case strings.HasSuffix(kind, "/disk/") && !slices.ContainsFunc(v.disks, func(d *diskElement) bool { return d.id == id }),
							strings.HasSuffix(kind, "/file/") && !slices.ContainsFunc(v.files, func(f *refFile) bool { return f.ID == id }):
							found(hit{where: i.where(), what: quote(r)})
						}
					}
				}
			},
		},
		{
			ID: "network-reference", Text: "a network adapter is at a network that the NetworkSection does not have",
			Verdicts: all(Refuses, spec, VMware),
			check: func(v *view, found func(hit)) {
				have := v.networks()
				for _, i := range v.items {
					if n, e := child(i.e, "Connection"); i.kind == typeEthernet && e != nil && !have[n] {
						found(hit{where: i.where(), what: quote(n)})
					}
				}
			},
		},
		{
			ID: "nic-automatic", Text: "a network adapter has not AutomaticAllocation true, and is left out", Fixes: true,
			Verdicts: all(ReadsWrong, "source", XenOrchestra),
			check: func(v *view, found func(hit)) {
				for _, i := range v.items {
					a, e := child(i.e, "AutomaticAllocation")
					if i.kind != typeEthernet || strings.EqualFold(a, "true") || a == "1" {
						continue
					}
					found(hit{where: i.where(), fix: func() {
						if e == nil {
							e = i.insert("AutomaticAllocation")
						}
						e.SetText("true")
					}})
				}
			},
		},
	}
}

// unitsVBox are the units of memory that VirtualBox takes, to the letter: "byte*2^20" and "megabytes" it refuses (tried).
var unitsVBox = []string{"byte * 2^20", "MegaBytes", "MB", "byte * 2^30", "GigaBytes"}

// What is read of an Item that must be understood: VirtualBox's and vSphere's readers, and the simulator's.
var (
	knownVBox      = []int{typeProcessor, typeMemory, typeIDE, typeSCSI, typeEthernet, typeFloppy, typeCD, typeDisk, typeStorage, typeUSB, typeSound}
	knownVMware    = []int{1, typeProcessor, typeMemory, typeIDE, typeSCSI, typeEthernet, typeFloppy, typeCD, typeDVD, typeDisk, typeStorage, typeUSB, typeVideo, typeSound}
	knownSimulator = []int{1, typeProcessor, typeMemory, typeIDE, typeSCSI, typeEthernet, typeFloppy, typeCD, typeDisk, typeUSB, typeVideo}
)

func isSATA(subtype string) bool {
	s := strings.ToLower(subtype)
	return strings.HasPrefix(s, "ahci") || s == "vmware.sata.ahci"
}

func isNVMe(subtype string) bool { return strings.Contains(strings.ToLower(subtype), "nvme") }

// configuration is the deployment option for which an item is.
func (i *item) configuration() string {
	c, _ := attribute(i.e, "configuration")
	b, _ := attribute(i.e, "bound")
	return c + "\x00" + b
}

// mebibytes makes the units of an item MiB, of which one had factor bytes.
func (i *item) mebibytes(factor int64) {
	for _, c := range i.e.ChildElements() {
		switch c.Tag {
		case "AllocationUnits":
			c.SetText("byte * 2^20")
		case "VirtualQuantity", "Reservation", "Limit":
			if n, err := strconv.ParseInt(strings.TrimSpace(c.Text()), 10, 64); err == nil && n >= 0 && (factor == 0 || n <= math.MaxInt64/factor) {
				c.SetText(strconv.FormatInt((n*factor+1<<20-1)>>20, 10))
			}
		case "VirtualQuantityUnits":
			remove(c)
		}
	}
}

// insert makes a child element with the prefix of its neighbours, where the schema's alphabetical order has it.
func (i *item) insert(tag string) *etree.Element {
	n := etree.NewElement(tag)
	children := i.e.ChildElements()
	if len(children) == 0 {
		i.e.AddChild(n)
		return n
	}
	n.Space = children[0].Space
	for _, c := range children {
		if c.Tag > tag {
			i.e.InsertChildAt(c.Index(), n)
			return n
		}
	}
	i.e.InsertChildAt(children[len(children)-1].Index()+1, n)
	return n
}

// scaled is a number with units in bytes; false if one of them is not known or the product too large.
func scaled(number, units string) (int64, bool) {
	n, err := strconv.ParseInt(strings.TrimSpace(number), 10, 64)
	f, ok := factor(units)
	if err != nil || !ok || n < 0 || n > math.MaxInt64/f {
		return 0, false
	}
	return n * f, true
}

// factor is what units (DSP0004, annex C: "byte * 2^20"; and names that are in use) are in bytes. No units are bytes.
func factor(units string) (int64, bool) {
	u := strings.ToLower(strings.Join(strings.Fields(units), ""))
	switch u {
	case "", "byte", "bytes":
		return 1, true
	case "kilobytes", "kilobyte", "kb", "kbytes":
		return 1 << 10, true
	case "megabytes", "megabyte", "mb", "mbytes":
		return 1 << 20, true
	case "gigabytes", "gigabyte", "gb", "gbytes":
		return 1 << 30, true
	}
	n := int64(1)
	parts := strings.Split(u, "*")
	if parts[0] != "byte" || len(parts) > 8 {
		return 0, false
	}
	for _, p := range parts[1:] {
		base, exponent, power := strings.Cut(p, "^")
		b, err := strconv.ParseInt(base, 10, 32)
		if err != nil || b < 1 {
			return 0, false
		}
		e := int64(1)
		if power {
			if e, err = strconv.ParseInt(exponent, 10, 8); err != nil || e < 0 {
				return 0, false
			}
		}
		for ; e > 0; e-- {
			if n > math.MaxInt64/b {
				return 0, false
			}
			n *= b
		}
	}
	return n, true
}
