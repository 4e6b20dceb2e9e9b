package ovf

import (
	"strings"

	"tarvm/formats/machine"
)

// An Envelope is what an OVF descriptor says. Lists are in the document's order. It may be changed at will, or made
// from nothing; then Encode writes it. Machines in it are shared, not copied.
type Envelope struct {
	// Version is 0.9, 1.0, 1.1, 2.0 or 2.1: that of ovf:version where it fits the namespace, else the namespace's first.
	Version string        `json:"version,omitempty"`
	Lang    string        `json:"lang,omitempty"` // of the texts: xml:lang; empty: en-US
	Files   []File        `json:"files,omitempty"`
	Disks   []VirtualDisk `json:"disks,omitempty"`
	// Networks are named by the network adapters.
	Networks []Network          `json:"networks,omitempty"`
	Options  []DeploymentOption `json:"options,omitempty"`
	// Collections are the VirtualSystemCollections, parents before their members. The first one, if there is any, is the
	// root that holds all others and all systems.
	Collections []Collection `json:"collections,omitempty"`
	Systems     []System     `json:"systems,omitempty"`
	// Bundles are the Strings: texts in other languages.
	Bundles []Bundle `json:"bundles,omitempty"`
	// Unknown are the sections of the package, not of a system, that have no field here.
	Unknown []Unknown `json:"unknown,omitempty"`
	// Problems are what is wrong with the document and does not keep it from being read.
	Problems []Problem `json:"problems,omitempty"`

	raw []byte // what it was decoded from; nil: it was made
}

// A Msg is a text for people. ID is its ovf:msgid, by which Bundles give it in other languages; it may be empty.
type Msg struct {
	Text string `json:"text"`
	ID   string `json:"id,omitempty"`
}

// A VirtualDisk is an element of the DiskSection or, Shared, of 2.0's SharedDiskSection.
type VirtualDisk struct {
	ID string `json:"id"`
	// FileRef is the ID of the file with its content; empty: the disk is blank.
	FileRef string `json:"file_ref,omitempty"`
	// ParentRef is the ID of the disk that it is a difference to; empty: none.
	ParentRef string `json:"parent_ref,omitempty"`
	// Format is a URI: see FormatVMDK. Empty: it does not say.
	Format string `json:"format,omitempty"`
	// Capacity is in bytes; 0: unknown, or as CapacityText says.
	Capacity int64 `json:"capacity,omitempty"`
	// CapacityText is a capacity that is a property (${disksize}), and CapacityUnits its units, in the words of the
	// document.
	CapacityText  string `json:"capacity_text,omitempty"`
	CapacityUnits string `json:"capacity_units,omitempty"`
	// Populated is how many bytes are in use; -1: it does not say.
	Populated int64 `json:"populated"`
	// UUID is what VirtualBox knows the disk by, in the form of machine.Machine's.
	UUID   string `json:"uuid,omitempty"`
	Shared bool   `json:"shared,omitempty"`
}

// The URIs of disk formats that are written. Importers know FormatVMDK alone; VirtualBox knows FormatISO too.
const (
	FormatVMDK  = "http://www.vmware.com/interfaces/specifications/vmdk.html#streamOptimized"
	FormatISO   = "http://www.ecma-international.org/publications/standards/Ecma-119.htm"
	FormatVHD   = "http://go.microsoft.com/fwlink/?LinkId=137171"
	FormatVHDX  = "https://www.microsoft.com/en-us/download/details.aspx?id=34750"
	FormatQcow2 = "http://www.gnome.org/~markmc/qcow-image-format.html"
)

// FormatName returns qemu's name of a format by its URI, and empty when it is not known: vmdk, vpc, vhdx, qcow2, vdi,
// raw; optical media and diskettes are raw.
func FormatName(uri string) string {
	u := strings.ToLower(uri)
	for _, f := range []struct{ part, name string }{
		{"vmdk.html", "vmdk"}, {"linkid=137171", "vpc"}, {"#vhdx", "vhdx"}, {"id=34750", "vhdx"}, {"vhdx", "vhdx"}, {"#vhd", "vpc"},
		{"virtual-hard-disk", "vpc"}, {"/vhd", "vpc"}, {"qcow", "qcow2"}, {"vdi", "vdi"}, {"ecma-119", "raw"}, {"iso9660", "raw"}, {"#raw", "raw"},
		{"/raw", "raw"},
	} {
		if strings.Contains(u, f.part) {
			return f.name
		}
	}
	return ""
}

// A Network is one of the NetworkSection.
type Network struct {
	Name        string `json:"name,omitempty"`
	Description Msg    `json:"description,omitzero"`
}

// A DeploymentOption is a configuration of the DeploymentOptionSection.
type DeploymentOption struct {
	ID          string `json:"id"`
	Label       Msg    `json:"label,omitzero"`
	Description Msg    `json:"description,omitzero"`
	Default     bool   `json:"default,omitempty"`
}

// Content is what systems and collections have in common.
type Content struct {
	ID   string `json:"id"`
	Info string `json:"info,omitempty"`
	// Name is what people call it.
	Name Msg `json:"name,omitzero"`
	// Parent is the index of the collection that holds it. It says nothing when there are no collections, and nothing of
	// the root.
	Parent   int       `json:"parent,omitempty"`
	Products []Product `json:"products,omitempty"`
	EULAs    []Msg     `json:"eulas,omitempty"`
	Unknown  []Unknown `json:"unknown,omitempty"`
}

// A Collection is a VirtualSystemCollection: a vApp.
type Collection struct {
	Content
	Annotation Msg           `json:"annotation,omitzero"`
	Startup    []StartupItem `json:"startup,omitempty"`
	Resources  []Allocation  `json:"resources,omitempty"`
}

// A System is a VirtualSystem.
type System struct {
	Content
	// Machine is its hardware, guest, name and annotation, with the deployment option that is the default.
	Machine *machine.Machine `json:"machine,omitempty"`
	// Families are the kinds of virtual hardware that it runs on: vmx-13, virtualbox-2.2.
	Families []string `json:"families,omitempty"`
	// Transports are the ways in which the guest gets the properties: iso, com.vmware.guestInfo.
	Transports []string `json:"transports,omitempty"`
	// Install is the InstallSection: the system restarts once for its own setup.
	Install *Install `json:"install,omitempty"`
	// EnvironmentFiles are 2.0's.
	EnvironmentFiles []EnvironmentFile `json:"environment_files,omitempty"`
}

// Install is an InstallSection.
type Install struct {
	// StopDelay is how many seconds to wait for the system to stop; 0: forever.
	StopDelay int `json:"stop_delay,omitempty"`
}

// An EnvironmentFile is a file that the guest finds at Path.
type EnvironmentFile struct {
	FileRef string `json:"file_ref"`
	Path    string `json:"path"`
}

// A StartupItem says when a member of a collection is started.
type StartupItem struct {
	ID    string `json:"id"`              // of the member
	Order int    `json:"order,omitempty"` // lower ones first; 0: at any time
	// StartDelay and StopDelay are seconds before the next one.
	StartDelay      int    `json:"start_delay,omitempty"`
	StopDelay       int    `json:"stop_delay,omitempty"`
	WaitingForGuest bool   `json:"waiting_for_guest,omitempty"` // the next one is started when the guest says that it is ready
	StartAction     string `json:"start_action,omitempty"`
	StopAction      string `json:"stop_action,omitempty"` // powerOn, none; powerOff, guestShutdown, none; empty: the first of these
}

// An Allocation is a limit of what the members of a collection may use, from its ResourceAllocationSection.
type Allocation struct {
	Type          int    `json:"type,omitempty"`          // 3: processors, 4: memory
	Name          string `json:"name,omitempty"`          // for people
	Configuration string `json:"configuration,omitempty"` // the deployment options that it is for, separated by spaces; empty: all
	Bound         string `json:"bound,omitempty"`         // min, max, normal; empty: normal
	Units         string `json:"units,omitempty"`
	Reservation   int64  `json:"reservation"` // in Units; -1: it does not say
	Limit         int64  `json:"limit"`       // the same
	Weight        int64  `json:"weight"`      // -1: it does not say
}

// A Product is a ProductSection: software, and what can be set of it.
type Product struct {
	Class       string         `json:"class,omitempty"`
	Instance    string         `json:"instance,omitempty"`
	Info        string         `json:"info,omitempty"`
	Name        Msg            `json:"name,omitzero"`
	Vendor      Msg            `json:"vendor,omitzero"`
	Version     string         `json:"version,omitempty"`
	FullVersion string         `json:"full_version,omitempty"`
	URL         string         `json:"url,omitempty"`
	VendorURL   string         `json:"vendor_url,omitempty"`
	AppURL      string         `json:"app_url,omitempty"`
	Icons       []Icon         `json:"icons,omitempty"`
	Properties  []Property     `json:"properties,omitempty"`
	Required    machine.Switch `json:"required,omitempty"`
}

// An Icon is a picture of a product.
type Icon struct {
	FileRef  string `json:"file_ref,omitempty"`
	MimeType string `json:"mime_type,omitempty"`
	Width    int    `json:"width,omitempty"`
	Height   int    `json:"height,omitempty"`
}

// A Property is a setting that the guest reads at its start.
type Property struct {
	Key        string `json:"key,omitempty"`
	Type       string `json:"type,omitempty"`
	Qualifiers string `json:"qualifiers,omitempty"`
	Value      string `json:"value,omitempty"` // without a deployment option of its own
	// Values are those of deployment options.
	Values           []PropertyValue `json:"values,omitempty"`
	UserConfigurable bool            `json:"user_configurable,omitempty"`
	Password         bool            `json:"password,omitempty"`
	// Configuration is the deployment options that it is there in, separated by spaces; empty: all.
	Configuration string `json:"configuration,omitempty"`
	Label         Msg    `json:"label,omitzero"`
	Description   Msg    `json:"description,omitzero"`
	// Category is the heading above it.
	Category Msg `json:"category,omitzero"`
}

// A PropertyValue is the value in one deployment option.
type PropertyValue struct {
	Configuration string `json:"configuration"`
	Value         string `json:"value"`
}

// FullKey returns the key as the guest sees it: class.key.instance.
func (p Product) FullKey(q Property) string {
	s := q.Key
	if p.Class != "" {
		s = p.Class + "." + s
	}
	if p.Instance != "" {
		s += "." + p.Instance
	}
	return s
}

// In returns the value that a property has with a deployment option.
func (q Property) In(option string) string {
	for _, v := range q.Values {
		for _, c := range strings.Fields(v.Configuration) {
			if c == option {
				return v.Value
			}
		}
	}
	return q.Value
}

// An Unknown is a section that is kept and not understood.
type Unknown struct {
	Name     string `json:"name"`               // of its element
	Space    string `json:"space,omitempty"`    // the namespace of that
	Required bool   `json:"required,omitempty"` // an importer that does not know it should refuse the package
}

// A Bundle is a Strings element: texts in one language, in the envelope, in a file, or both.
type Bundle struct {
	Lang     string `json:"lang,omitempty"`
	FileRef  string `json:"file_ref,omitempty"` // the file that has more of them; empty: none
	Messages []Msg  `json:"messages,omitempty"`
}

// Severity is how bad a Problem is.
type Severity string

// The severities. An Error is a part of the machine that is not there, or may be another one than was meant; a Warning
// breaks a rule and leaves no doubt of what was meant.
const (
	Warning Severity = "warning"
	Error   Severity = "error"
)

// A Problem is something wrong with an envelope that can be read nevertheless.
type Problem struct {
	Where    string   `json:"where"` // "VirtualSystem vm, Item 7"
	What     string   `json:"what"`
	Severity Severity `json:"severity"`
}

// String gives the form "error: VirtualSystem vm, Item 7: its Parent 12 is nowhere".
func (p Problem) String() string { return string(p.Severity) + ": " + p.Where + ": " + p.What }

// DefaultOption returns the ID of the deployment option that is taken when none is asked for; empty: there are none.
func (e *Envelope) DefaultOption() string {
	for _, o := range e.Options {
		if o.Default {
			return o.ID
		}
	}
	if len(e.Options) > 0 {
		return e.Options[0].ID
	}
	return ""
}

// Text returns m in a language (de, en-GB), or as it stands when no bundle has it. It takes what a bundle in the envelope
// says; those in files are added to Bundles with DecodeBundle.
func (e *Envelope) Text(m Msg, lang string) string {
	if m.ID == "" {
		return m.Text
	}
	best, text := 0, m.Text
	for _, b := range e.Bundles {
		n := matches(b.Lang, lang)
		if n <= best {
			continue
		}
		for _, t := range b.Messages {
			if t.ID == m.ID {
				best, text = n, t.Text
			}
		}
	}
	return text
}

// matches returns how well a language fits the one that is wanted: 3: the same, 2: the same but for its region, 1: none
// is said, 0: it does not.
func matches(have, want string) int {
	have, want = strings.ToLower(have), strings.ToLower(want)
	h, _, _ := strings.Cut(have, "-")
	w, _, _ := strings.Cut(want, "-")
	switch {
	case have == "":
		return 1
	case have == want:
		return 3
	case h == w:
		return 2
	}
	return 0
}

// File returns the file with an ID, or nil.
func (e *Envelope) File(id string) *File {
	for i := range e.Files {
		if e.Files[i].ID == id {
			return &e.Files[i]
		}
	}
	return nil
}

// Disk returns the disk with an ID, or nil.
func (e *Envelope) Disk(id string) *VirtualDisk {
	for i := range e.Disks {
		if e.Disks[i].ID == id {
			return &e.Disks[i]
		}
	}
	return nil
}
