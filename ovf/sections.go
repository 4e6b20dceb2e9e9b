package ovf

import (
	"fmt"
	"strings"

	"github.com/beevik/etree"

	"tarvm/formats/machine"
)

func (d *decoder) diskSection(s *etree.Element) {
	for _, c := range s.ChildElements() {
		if c.Tag != "Disk" && c.Tag != "SharedDisk" {
			continue
		}
		v := VirtualDisk{
			ID: attr(c, "diskId"), FileRef: attr(c, "fileRef"), ParentRef: attr(c, "parentRef"), Format: attr(c, "format"),
			Populated: -1, UUID: uuid(attr(c, "uuid")), Shared: c.Tag == "SharedDisk",
		}
		where := fmt.Sprintf("Disk %.60s", v.ID)
		said, units := strings.TrimSpace(attr(c, "capacity")), attr(c, "capacityAllocationUnits")
		switch {
		case strings.HasPrefix(said, "${"):
			v.CapacityText, v.CapacityUnits = said, units
		case said == "":
			d.problem(Warning, where, "it has no capacity")
		default:
			n, err := Quantity(said, units, "byte")
			if err != nil {
				d.problem(Error, where, "capacity: %v", err)
			}
			v.Capacity = n
		}
		if p := attr(c, "populatedSize"); p != "" {
			n, err := number(p)
			if err != nil {
				d.problem(Warning, where, "populatedSize: %v", err)
				n = -1
			}
			v.Populated = n
		}
		if v.ID == "" {
			d.problem(Error, "DiskSection", "a disk has no diskId")
		} else if d.disks[v.ID] != nil {
			d.problem(Error, where, "two disks have this diskId: the first is taken")
		}
		d.e.Disks = append(d.e.Disks, v)
		if d.disks[v.ID] == nil {
			p := v // the list may move while it grows
			d.disks[v.ID] = &p
		}
	}
}

func (d *decoder) networkSection(s *etree.Element) {
	seen := map[string]bool{}
	for _, c := range s.ChildElements() {
		if c.Tag != "Network" {
			continue
		}
		n := Network{attr(c, "name"), msg(child(c, "Description"))}
		if seen[n.Name] {
			d.problem(Warning, "NetworkSection", "two networks have the name %.60q", n.Name)
		}
		seen[n.Name] = true
		d.e.Networks = append(d.e.Networks, n)
	}
}

func (d *decoder) optionSection(s *etree.Element) {
	seen := map[string]bool{}
	defaults := 0
	for _, c := range s.ChildElements() {
		if c.Tag != "Configuration" {
			continue
		}
		o := DeploymentOption{
			ID: attr(c, "id"), Label: msg(child(c, "Label")), Description: msg(child(c, "Description")),
			Default: truth(attr(c, "default")) == machine.On,
		}
		if seen[o.ID] {
			d.problem(Error, "DeploymentOptionSection", "two options have the id %.60q", o.ID)
		}
		if o.Default {
			if defaults++; defaults == 2 {
				d.problem(Warning, "DeploymentOptionSection", "more than one option is the default: the first is taken")
			}
		}
		seen[o.ID] = true
		d.e.Options = append(d.e.Options, o)
	}
}

func decodeBundle(e *etree.Element) Bundle {
	b := Bundle{Lang: lang(e), FileRef: attr(e, "fileRef")}
	for _, c := range e.ChildElements() {
		if c.Tag == "Msg" {
			b.Messages = append(b.Messages, msg(c))
		}
	}
	return b
}

// small reads a number of seconds, pixels, or the like; what is none is 0 and a problem.
func (d *decoder) small(where string, e *etree.Element, name string) int {
	s := attr(e, name)
	if s == "" {
		return 0
	}
	n, err := number(s)
	if err == nil && n > 1<<31-1 {
		err = fmt.Errorf("%d is too large", n)
	}
	if err != nil {
		d.problem(Warning, where, "%s: %v", name, err)
		return 0
	}
	return int(n)
}

func (d *decoder) startup(s *etree.Element) []StartupItem {
	var list []StartupItem
	for _, c := range s.ChildElements() {
		if c.Tag != "Item" {
			continue
		}
		where := fmt.Sprintf("StartupSection, Item %.60s", attr(c, "id"))
		list = append(list, StartupItem{
			ID: attr(c, "id"), Order: d.small(where, c, "order"),
			StartDelay: d.small(where, c, "startDelay"), StopDelay: d.small(where, c, "stopDelay"),
			WaitingForGuest: truth(attr(c, "waitingForGuest")) == machine.On,
			StartAction:     attr(c, "startAction"), StopAction: attr(c, "stopAction"),
		})
	}
	return list
}

func (d *decoder) allocations(s *etree.Element) []Allocation {
	var list []Allocation
	for _, c := range s.ChildElements() {
		if c.Tag != "Item" {
			continue
		}
		where := "ResourceAllocationSection"
		count := func(name string) int64 {
			s := word(child(c, name))
			if s == "" {
				return -1
			}
			n, err := number(s)
			if err != nil {
				d.problem(Warning, where, "%s: %v", name, err)
				return -1
			}
			return n
		}
		list = append(list, Allocation{
			Type: max(int(min(count("ResourceType"), 1<<16)), 0), Name: text(child(c, "ElementName")), Configuration: attr(c, "configuration"),
			Bound: attr(c, "bound"), Units: word(child(c, "AllocationUnits")), Reservation: count("Reservation"), Limit: count("Limit"),
			Weight: count("Weight"),
		})
	}
	return list
}

func (d *decoder) product(s *etree.Element) Product {
	p := Product{Class: attr(s, "class"), Instance: attr(s, "instance"), Required: truth(attr(s, "required"))}
	category := Msg{}
	where := "ProductSection"
	if p.Class != "" {
		where += " " + p.Class
	}
	seen := map[string]bool{}
	for _, c := range s.ChildElements() {
		switch c.Tag {
		case "Info":
			p.Info = text(c)
		case "Product":
			p.Name = msg(c)
		case "Vendor":
			p.Vendor = msg(c)
		case "Version":
			p.Version = text(c)
		case "FullVersion":
			p.FullVersion = text(c)
		case "ProductUrl":
			p.URL = text(c)
		case "VendorUrl":
			p.VendorURL = text(c)
		case "AppUrl":
			p.AppURL = text(c)
		case "Icon":
			ref := attr(c, "fileRef")
			if d.files[ref] == nil {
				d.problem(Warning, where, "the icon's fileRef %.60q is nowhere", ref)
			}
			p.Icons = append(p.Icons, Icon{ref, attr(c, "mimeType"), d.small(where, c, "width"), d.small(where, c, "height")})
		case "Category":
			category = msg(c)
		case "Property":
			q := Property{
				Key: attr(c, "key"), Type: attr(c, "type"), Qualifiers: attr(c, "qualifiers"), Value: attr(c, "value"),
				UserConfigurable: truth(attr(c, "userConfigurable")) == machine.On, Password: truth(attr(c, "password")) == machine.On,
				Configuration: attr(c, "configuration"), Label: msg(child(c, "Label")), Description: msg(child(c, "Description")),
				Category: category,
			}
			for _, v := range c.ChildElements() {
				if v.Tag == "Value" {
					q.Values = append(q.Values, PropertyValue{attr(v, "configuration"), attr(v, "value")})
				}
			}
			if key := q.Key + "\x00" + q.Configuration; seen[key] {
				d.problem(Warning, where, "two properties have the key %.60q", q.Key)
			} else {
				seen[key] = true
			}
			if q.Key == "" {
				d.problem(Error, where, "a property has no key")
			}
			p.Properties = append(p.Properties, q)
		}
	}
	return p
}

func (d *decoder) guest(s *etree.Element, g *machine.Guest) {
	if id := attr(s, "id"); id != "" {
		n, err := number(id)
		if err != nil || n > 1<<16-1 {
			d.problem(Warning, "OperatingSystemSection", "its id %.40q is no number of CIM's", id)
			n = 0
		}
		g.CIM = int(n)
	}
	g.CIMVersion = attr(s, "version")
	g.Text = text(child(s, "Description"))
	if t := attr(s, "osType"); t != "" {
		g.VMware = machine.VMwareOf(t)
	}
	if t := child(s, "OSType"); t != nil {
		g.VirtualBox = word(t)
	}
}

// uuid returns a UUID in the form of the machine's, and nothing when it is none.
func uuid(s string) string {
	s = strings.ToLower(strings.Trim(strings.TrimSpace(s), "{}"))
	if len(s) != 36 {
		return ""
	}
	for i, c := range []byte(s) {
		switch {
		case i == 8 || i == 13 || i == 18 || i == 23:
			if c != '-' {
				return ""
			}
		case (c < '0' || c > '9') && (c < 'a' || c > 'f'):
			return ""
		}
	}
	return s
}

// mac returns an Ethernet address in the form of the machine's, and nothing when it is none.
func mac(s string) string {
	var digits []byte
	for _, c := range []byte(strings.ToLower(strings.TrimSpace(s))) {
		switch {
		case (c >= '0' && c <= '9') || (c >= 'a' && c <= 'f'):
			digits = append(digits, c)
		case c != ':' && c != '-' && c != '.':
			return ""
		}
	}
	if len(digits) != 12 {
		return ""
	}
	var b strings.Builder
	for i, c := range digits {
		if i > 0 && i%2 == 0 {
			b.WriteByte(':')
		}
		b.WriteByte(c)
	}
	return b.String()
}
