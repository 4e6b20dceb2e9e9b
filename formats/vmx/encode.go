package vmx

import (
	"bytes"
	"fmt"
	"maps"
	"slices"
	"strings"

	"tarvm/formats/machine"
)

// defaultHardware is vSphere 6.5's and Workstation 14's: what came later opens it, too.
const defaultHardware = 13

// Encode writes m. One that comes from a VMX keeps its file: only the lines change, come or go whose settings are not
// what they were, and an unchanged machine gives the same bytes. The encoding stays, unless a new value cannot be written
// in it: then the file becomes UTF-8.
//
// A machine from another form becomes a new file in UTF-8, with what VMware demands where nothing is said: hardware
// version 13, the guest other-64 (other and arm-other-64 by the architecture), an LSI Logic controller (the SAS one for
// Windows since Vista), addresses of network adapters to be generated, drives without a medium not connected, no floppy.
// Drives on buses that VMware has not, or beyond their limits, go to the first free unit of a SCSI controller (optical
// ones: IDE, then SATA). Each of these is a Loss, and so is each model that becomes another one.
//
// The error wraps machine.ErrUnsupported, when the version in o is not of the form vmx-NN.
func (Form) Encode(m *machine.Machine, o machine.EncodeOptions) ([]byte, []machine.Loss, error) {
	hw, ok := hardware(m.Version)
	if !ok {
		hw = defaultHardware
	}
	if o.Version != "" {
		if hw, ok = hardware(o.Version); !ok {
			return nil, nil, fmt.Errorf("%s: version %q is not of the form vmx-NN: %w", form, o.Version, machine.ErrUnsupported)
		}
	}
	if from, ok := m.Origin.(*origin); ok {
		return merge(from.doc, m, hw)
	}
	var b bytes.Buffer
	r := render(m, nil, hw)
	b.WriteString(".encoding = \"UTF-8\"\n")
	for _, s := range r.settings {
		fmt.Fprintf(&b, "%s = %s\n", s.key, quoted([]byte(strings.ToValidUTF8(s.value, "\uFFFD"))))
	}
	return b.Bytes(), r.losses, nil
}

// merge changes in a copy of a file what differs between what it says and m.
func merge(doc *document, m *machine.Machine, hw int) ([]byte, []machine.Loss, error) {
	now := render(m, doc, hw)
	doc, was, err := moved(doc, now.heads)
	if err != nil {
		return nil, nil, err
	}
	old := render(was.m, doc, was.hw)
	d := doc.clone()

	// Devices that are gone, and what was left of others where there is a new one.
	gone := map[string]bool{}
	for g := range old.groups {
		if !now.groups[g] {
			gone[g] = true
		}
	}
	for g := range now.groups {
		if !old.groups[g] {
			gone[g] = true
		}
	}
	d.removeDevices(gone)

	var losses []machine.Loss
	put := func(s setting) {
		if !d.set(s.key, s.value) {
			losses = append(losses, machine.Loss{Part: s.key, What: "left as it is: not in the encoding " + doc.charset.name})
		}
	}
	touched := map[string]bool{}
	for _, s := range now.settings {
		k := lower(s.key)
		if i, ok := old.index[k]; !ok || old.settings[i].value != s.value {
			put(s)
			touched[cluster(k)] = true
		}
	}
	for _, s := range old.settings {
		k := lower(s.key)
		if _, ok := now.index[k]; !ok {
			d.remove(k)
			touched[cluster(k)] = true
		}
	}

	// Keys that only mean something together.
	delete(touched, "")
	if len(touched) > 0 {
		d.removeIf(func(k string) bool {
			_, ok := now.index[k]
			// The type of a drive stays if it was not one that would have been written here: rawDisk, disk.
			return !ok && touched[cluster(k)] && !strings.HasSuffix(k, ".devicetype")
		})
		for _, s := range now.settings {
			k := lower(s.key)
			i, before := old.index[k]
			if !touched[cluster(k)] || !before || old.settings[i].value != s.value {
				continue
			}
			v, n := d.get(k)
			if n == 0 && !s.keep || n > 0 && (strings.HasSuffix(k, ".autodetect") || strings.HasSuffix(k, ".clientdevice")) && !strings.EqualFold(v, s.value) {
				put(s)
			}
		}
	}
	for _, l := range now.losses {
		if !slices.Contains(old.losses, l) {
			losses = append(losses, l)
		}
	}
	return d.bytes(), losses, nil
}

// A past is what a document says.
type past struct {
	m  *machine.Machine
	hw int
}

// moved returns the document with the devices where they are now, and its machine.
func moved(doc *document, heads map[string]string) (*document, past, error) {
	heads = maps.Clone(heads)
	maps.DeleteFunc(heads, func(from, to string) bool { return from == to })
	if len(heads) > 0 {
		if d := doc.rename(heads); d != nil {
			if m, err := decode(d); err == nil {
				return d, newPast(m), nil
			}
		}
	}
	m, err := decode(doc)
	if err != nil {
		return nil, past{}, err
	}
	return doc, newPast(m), nil
}

func newPast(m *machine.Machine) past {
	hw, ok := hardware(m.Version)
	if !ok {
		hw = defaultHardware
	}
	return past{m, hw}
}

// removeDevices takes out what is said of some: also of what hangs on a USB controller, and of the shares of a disk's
// bandwidth.
func (d *document) removeDevices(heads map[string]bool) {
	if len(heads) == 0 {
		return
	}
	d.removeIf(func(k string) bool {
		h, rest, ok := strings.Cut(strings.TrimPrefix(k, "sched."), ".")
		if !ok {
			return false
		}
		c, _, port := strings.Cut(h, ":")
		switch {
		case heads[h]:
			return true
		case port && slices.ContainsFunc(usbKinds[:], func(u usbKind) bool { return u.head == c }):
			return heads[c]
		case h == "managedvm":
			return heads["vtpm"] && rest == "autoaddvtpm"
		case h == "remotedisplay":
			return heads["remotedisplay.vnc"] && strings.HasPrefix(rest, "vnc.")
		}
		return false
	})
}

// cluster names the keys that one belongs to, in lower case: when one of them changes, the others that are not said any
// more must go. Empty: none.
func cluster(key string) string {
	h, rest, ok := strings.Cut(key, ".")
	if !ok {
		return ""
	}
	first, _, _ := strings.Cut(rest, ".")
	switch class(h) {
	case "ethernet":
		switch first {
		case "connectiontype", "networkname", "vnet", "pvnid", "bridgename", "dvs", "opaquenetwork", "externalid":
			return h + " network"
		case "addresstype", "address", "generatedaddress", "generatedaddressoffset", "checkmacaddress":
			return h + " address"
		case "virtualdev", "features":
			return h + " model"
		}
	case "serial", "parallel":
		switch first {
		case "filename", "filetype", "autodetect", "pipe", "network", "vspc":
			return h + " medium"
		}
	case "svga":
		switch first {
		case "autodetect", "vramsize", "numdisplays":
			return h
		}
	case "bios":
		switch first {
		case "bootorder", "bootdeviceclasses":
			return h
		}
	default:
		switch first {
		case "filename", "filetype", "devicetype", "clientdevice", "autodetect":
			return h + " medium"
		}
	}
	return ""
}
