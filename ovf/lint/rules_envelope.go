package lint

import (
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/beevik/etree"
)

// defaultHardware is known to vSphere 6.5 and all later.
const defaultHardware = "vmx-13"

func envelopeRules() []Rule {
	return []Rule{
		{
			ID: "ovf-2", Text: "the envelope is OVF 2",
			Verdicts: append(all(ReadsWrong, tried+": nothing of it is read", VirtV2V), all(Refuses, "reported: blackarch#1937, macos-virtualbox#300: \"Unsupported element 'StorageItem'\"", VMware)...),
			check: func(v *view, found func(hit)) {
				if ns := v.root().NamespaceURI(); strings.HasPrefix(ns, nsEnvelope2) {
					found(hit{where: v.envelope, what: ns})
				}
			},
		},
		{
			ID: "ovf-namespace", Text: "the envelope has not the namespace of OVF 1",
			Verdicts: append(all(ReadsWrong, tried+": nothing of it is read", VirtV2V), all(Refuses, "reported: xen-orchestra#3962, of XenCenter's", XenOrchestra)...),
			check: func(v *view, found func(hit)) {
				if ns := v.root().NamespaceURI(); ns != nsEnvelope1 && !strings.HasPrefix(ns, nsEnvelope2) {
					found(hit{where: v.envelope, what: quote(ns)})
				}
			},
		},
		{
			ID: "xml-prefix", Text: "a prefix is not bound to a namespace",
			Verdicts: append(all(Refuses, "reported: sdfs#97", VMware), all(Warns, tried, VirtV2V)...),
			check: func(v *view, found func(hit)) {
				seen := map[string]bool{"xml": true, "xmlns": true, "": true}
				walk(v.root(), func(e *etree.Element) {
					prefixes := []string{e.Space}
					for _, a := range e.Attr {
						prefixes = append(prefixes, a.Space)
					}
					for _, p := range prefixes {
						if !seen[p] && !bound(e, p) {
							seen[p] = true
							found(hit{where: v.envelope, what: quote(p + ":")})
						}
					}
				})
			},
		},
		{
			ID: "several-systems", Text: "there are several machines, of which the first is taken",
			Verdicts: append(all(ReadsWrong, "source", VirtV2V), all(Refuses, "source: it looks for one VirtualSystem", XenOrchestra)...),
			check: func(v *view, found func(hit)) {
				if n := len(v.systems()); n > 1 {
					found(hit{where: v.envelope, what: fmt.Sprintf("%d", n)})
				}
			},
		},
		{
			ID: "collection", Text: "the machine is in a collection",
			Verdicts: all(Refuses, "source: it looks for a VirtualSystem in the Envelope", XenOrchestra),
			check: func(v *view, found func(hit)) {
				for _, s := range v.systems() {
					if p := s.Parent(); len(v.systems()) == 1 && p != v.root() {
						id, _ := attribute(p, "id")
						found(hit{where: p.Tag + " " + quote(id)})
					}
				}
			},
		},
		{
			ID: "no-family", Text: "the hardware has no System, which says for what family it is",
			Verdicts: all(Refuses, "source: it takes the machine's name from there", XenOrchestra),
			check: func(v *view, found func(hit)) {
				for _, h := range v.sections("VirtualHardwareSection") {
					if _, s := child(h, "System"); s == nil {
						found(hit{where: v.envelope})
					}
				}
			},
		},
		{
			ID: "no-name", Text: "a machine has no Name", Fixes: true,
			Verdicts: all(Warns, tried+": \"could not parse ovf:Name\"", VirtV2V),
			check: func(v *view, found func(hit)) {
				for _, s := range v.systems() {
					id, _ := attribute(s, "id")
					if _, e := child(s, "Name"); e == nil && !strings.HasPrefix(v.root().NamespaceURI(), "http://www.vmware.com/") {
						found(hit{where: s.Tag + " " + quote(id), left: id == "", fix: func() {
							if id == "" {
								return
							}
							n := etree.NewElement("Name")
							n.Space = s.Space
							n.SetText(id)
							at := 0
							if _, info := child(s, "Info"); info != nil {
								at = info.Index() + 1
							}
							s.InsertChildAt(at, n)
						}})
					}
				}
			},
		},
		{
			ID: "hardware-family", Text: "the hardware family is not one of VMware's", Fixes: true,
			Verdicts: append(all(Refuses, tried+": OvfUnsupportedType", Govc), all(Refuses, "reported: cyphon#176, dradis#297, nixos-generators#128: \"Unsupported hardware family 'virtualbox-2.2'\"", VMware)...),
			check: func(v *view, found func(hit)) {
				for _, t := range v.families() {
					if !slices.ContainsFunc(split(t.Text()), isFamily) {
						found(hit{where: v.envelope, what: quote(strings.TrimSpace(t.Text())), fix: func() { t.SetText(v.hardware) }})
					}
				}
			},
		},
		{
			ID: "hardware-family-hosted", Text: "the hardware family is of VMware Workstation alone", Fixes: true,
			Verdicts: all(Refuses, "reported: nextcloud/vm#556, of ESXi", VMware),
			check: func(v *view, found func(hit)) {
				for _, t := range v.families() {
					list := split(t.Text())
					hosted := func(s string) bool { return s == "vmx-12" || s == "vmx-16" }
					if slices.ContainsFunc(list, hosted) && !slices.ContainsFunc(list, func(s string) bool { return isFamily(s) && !hosted(s) }) {
						found(hit{where: v.envelope, what: quote(strings.TrimSpace(t.Text())), fix: func() { t.SetText(v.hardware) }})
					}
				}
			},
		},
		{
			ID: "firmware-value", Text: "the firmware is neither bios nor efi",
			Verdicts: all(Refuses, "source", VirtV2V),
			check: func(v *view, found func(hit)) {
				for _, c := range v.configs("firmware") {
					if f, _ := attribute(c, "value"); f != "bios" && f != "efi" {
						found(hit{where: v.envelope, what: quote(f)})
					}
				}
			},
		},
		{
			ID: "firmware-vbox", Text: "that the firmware is EFI is said in VMware's way alone, and is BIOS to VirtualBox", Fixes: true,
			Verdicts: all(ReadsWrong, tried, VirtualBox),
			check: func(v *view, found func(hit)) {
				for _, c := range v.configs("firmware") {
					s := systemOf(c)
					if f, _ := attribute(c, "value"); f != "efi" || vboxEFI(s) {
						continue
					}
					_, err := v.box(s)
					found(hit{where: v.envelope, what: "vmw:Config firmware=efi", left: err != nil, fix: func() { v.boxes = append(v.boxes, s) }})
				}
			},
		},
		{
			ID: "firmware-vmware", Text: "that the firmware is EFI is said in VirtualBox's way alone, and is BIOS to others", Fixes: true,
			Verdicts: all(ReadsWrong, tried+" (virt-v2v); source", VMware, VirtV2V),
			check: func(v *view, found func(hit)) {
				for _, s := range v.systems() {
					_, e := child(s, "VirtualHardwareSection")
					if e == nil || !vboxEFI(s) || slices.ContainsFunc(v.configs("firmware"), func(c *etree.Element) bool { return systemOf(c) == s }) {
						continue
					}
					found(hit{where: v.envelope, what: "vbox:Machine Firmware type=EFI", fix: func() {
						c := e.CreateElement(v.prefix(nsVMware, "vmw") + ":Config")
						v.set(c, "required", "false")
						p := v.prefix(nsVMware, "vmw") + ":"
						c.CreateAttr(p+"key", "firmware")
						c.CreateAttr(p+"value", "efi")
					}})
				}
			},
		},
		{
			ID: "boot-order", Text: "vmw:BootOrderSection makes vSphere take BIOS for EFI", Fixes: true,
			Verdicts: all(ReadsWrong, "reported: govmomi#2304, packer#9898, osbuild/image-builder#619", VMware),
			check: func(v *view, found func(hit)) {
				efi := slices.ContainsFunc(v.configs("firmware"), func(c *etree.Element) bool { f, _ := attribute(c, "value"); return f == "efi" })
				walk(v.root(), func(e *etree.Element) {
					if e.Tag == "BootOrderSection" && efi {
						found(hit{where: v.envelope, what: "BootOrderSection", fix: func() { remove(e) }})
					}
				})
			},
		},
		{
			ID: "config-required", Text: "a vmw:Config or vmw:ExtraConfig must be understood, and is not by older hosts", Fixes: true,
			Verdicts: all(Warns, "reported: sexigraf#240, #241: \"Unable to parse 'tools.syncTime'\"", VMware),
			check: func(v *view, found func(hit)) {
				walk(v.root(), func(e *etree.Element) {
					if e.Tag != "Config" && e.Tag != "ExtraConfig" {
						return
					}
					if r, _ := attribute(e, "required"); r == "true" || r == "1" {
						k, _ := attribute(e, "key")
						found(hit{where: v.envelope, what: quote(k), fix: func() { v.set(e, "required", "false") }})
					}
				})
			},
		},
		{
			ID: "section-required", Text: "a section that is not the specification's must be understood", Fixes: true,
			Verdicts: all(Refuses, "reported: xenadmin#202: \"Unsupported section\"", VMware),
			check: func(v *view, found func(hit)) {
				for _, parent := range append(v.systems(), v.root()) {
					for _, e := range parent.ChildElements() {
						if knownSection(e, v.root().NamespaceURI()) {
							continue
						}
						if r, _ := attribute(e, "required"); r != "false" && r != "0" {
							found(hit{where: v.envelope, what: quote(e.FullTag()), fix: func() { v.set(e, "required", "false") }})
						}
					}
				}
			},
		},
		{
			ID: "eula", Text: "there is a licence to be accepted (VBoxManage: --vsys N --eula accept)",
			Verdicts: all(Warns, tried+"; reported: packer#1383", VirtualBox),
			check: func(v *view, found func(hit)) {
				for _, e := range append(v.sections("EulaSection"), v.root().SelectElements("EulaSection")...) {
					found(hit{where: v.envelope, what: e.Tag})
				}
			},
		},
		{
			ID: "network-hostonly", Text: "a network is called HostOnly, which ESXi does not take",
			Verdicts: all(Warns, "reported: gns3#3197", VMware),
			check: func(v *view, found func(hit)) {
				for n := range v.networks() {
					if strings.EqualFold(n, "HostOnly") {
						found(hit{where: v.envelope, what: quote(n)})
					}
				}
			},
		},
	}
}

// networks are the names in the NetworkSection.
func (v *view) networks() map[string]bool {
	list := make(map[string]bool)
	for _, s := range v.root().ChildElements() {
		if s.Tag != "NetworkSection" && s.Tag != "Section" {
			continue
		}
		for _, e := range s.ChildElements() {
			if e.Tag == "Network" {
				n, _ := attribute(e, "name")
				list[n] = true
			}
		}
	}
	return list
}

// families returns the elements that name a hardware family.
func (v *view) families() []*etree.Element {
	var list []*etree.Element
	for _, s := range v.sections("VirtualHardwareSection") {
		for _, sys := range s.ChildElements() {
			if sys.Tag != "System" {
				continue
			}
			for _, t := range sys.ChildElements() {
				if t.Tag == "VirtualSystemType" && strings.TrimSpace(t.Text()) != "" {
					list = append(list, t)
				}
			}
		}
	}
	return list
}

// split splits a list of families, which is separated by spaces or commas.
func split(s string) []string {
	return strings.FieldsFunc(s, func(r rune) bool { return r == ' ' || r == ',' || r == ';' || r == '\n' || r == '\t' })
}

func isFamily(s string) bool {
	n, ok := strings.CutPrefix(s, "vmx-")
	if !ok || len(n) != 2 {
		return false
	}
	_, err := strconv.ParseUint(n, 10, 8)
	return err == nil
}

// configs returns the vmw:Config elements of a key.
func (v *view) configs(key string) []*etree.Element {
	var list []*etree.Element
	for _, s := range v.sections("VirtualHardwareSection") {
		for _, c := range s.ChildElements() {
			if k, _ := attribute(c, "key"); c.Tag == "Config" && k == key {
				list = append(list, c)
			}
		}
	}
	return list
}

// systemOf is the virtual system that an element is in.
func systemOf(e *etree.Element) *etree.Element {
	for ; e != nil; e = e.Parent() {
		if e.Tag == "VirtualSystem" || e.Tag == "Content" {
			return e
		}
	}
	return nil
}

// vboxEFI reports whether VirtualBox's own description of a machine says EFI.
func vboxEFI(system *etree.Element) bool {
	if system == nil {
		return false
	}
	_, m := child(system, "Machine")
	if m == nil {
		return false
	}
	efi := false
	walk(m, func(e *etree.Element) {
		t, _ := attribute(e, "type")
		if e.Tag == "Firmware" && strings.HasPrefix(strings.ToUpper(t), "EFI") && e.Parent().Tag != "Snapshot" {
			efi = true
		}
	})
	return efi
}

// knownSection reports whether an element of an envelope or a virtual system is of DSP0243.
func knownSection(e *etree.Element, ns string) bool {
	if e.NamespaceURI() != ns {
		return false
	}
	switch e.Tag {
	case "References", "DiskSection", "NetworkSection", "DeploymentOptionSection", "ResourceAllocationSection", "ProductSection", "EulaSection",
		"AnnotationSection", "StartupSection", "InstallSection", "OperatingSystemSection", "VirtualHardwareSection", "SharedDiskSection",
		"ScaleOutSection", "PlacementGroupSection", "PlacementSection", "EncryptionSection", "EnvironmentFilesSection", "BootDeviceSection",
		"VirtualSystem", "VirtualSystemCollection", "Strings", "Info", "Name", "Section", "Content", "Description":
		return true
	}
	return false
}

func walk(e *etree.Element, f func(*etree.Element)) {
	children := e.ChildElements()
	f(e)
	for _, c := range children {
		walk(c, f)
	}
}

// bound reports whether a prefix is bound at an element.
func bound(e *etree.Element, prefix string) bool {
	for ; e != nil; e = e.Parent() {
		for _, a := range e.Attr {
			if a.Space == "xmlns" && a.Key == prefix {
				return true
			}
		}
	}
	return false
}

func remove(e *etree.Element) {
	if p := e.Parent(); p != nil {
		p.RemoveChild(e)
	}
}
