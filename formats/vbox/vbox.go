package vbox

import (
	"bytes"
	"fmt"
	"strconv"
	"strings"

	"github.com/beevik/etree"

	"tarvm/formats/machine"
	"tarvm/formats/machine/xmldoc"
)

// Form is the form of VirtualBox's machine settings.
type Form struct{}

var _ machine.Config = Form{}

const (
	formName = "vbox"
	// The root element's namespace, and that before VirtualBox 1.5.
	space    = "http://www.virtualbox.org/"
	oldSpace = "http://www.innotek.de/VirtualBox-settings"

	newest     = 20 // settings 1.20 are the newest that are read
	freshMinor = 19 // settings of which a fresh document is, except on ARM
)

// Name returns vbox.
func (Form) Name() string { return formName }

// Probe tells machine settings by their root element, which they share with VirtualBox.xml, and by what is in it.
func (Form) Probe(_ string, head []byte) bool {
	name, ns := xmldoc.Root(head)
	return name == "VirtualBox" && (ns == space || ns == oldSpace) &&
		!bytes.Contains(head, []byte("<Global")) && !bytes.Contains(head, []byte("<\x00G\x00l\x00o\x00b\x00a\x00l"))
}

// Decode reads settings.
func (Form) Decode(b []byte) (*machine.Machine, error) {
	doc, err := xmldoc.Parse(formName, b, machine.MaxConfig)
	if err != nil {
		return nil, err
	}
	root := doc.Root()
	if root.Tag != "VirtualBox" {
		return nil, &machine.SyntaxError{Form: formName, What: root.Tag, Got: "the root element is not VirtualBox", Err: machine.ErrSyntax}
	}
	if ns := root.NamespaceURI(); ns != space && ns != oldSpace && ns != "" {
		return nil, &machine.SyntaxError{Form: formName, What: "VirtualBox", Got: fmt.Sprintf("namespace %q", ns), Err: machine.ErrUnsupported}
	}
	version, _ := attr(root, "version")
	list := children(root, "Machine")
	switch {
	case child(root, "MachineEncrypted") != nil:
		return nil, &machine.SyntaxError{Form: formName, What: "MachineEncrypted", Got: "the machine is encrypted", Err: machine.ErrUnsupported}
	case len(list) != 1:
		return nil, &machine.SyntaxError{Form: formName, What: "Machine", Got: fmt.Sprintf("%d elements, want 1", len(list)), Err: machine.ErrSyntax}
	}
	return decode(doc, list[0], version)
}

// DecodeElement reads the element Machine of settings, or vbox:Machine of an OVF envelope, whose attribute version is
// that of the settings (absent: 1.15). It changes nothing in it. What is returned has Origins, but only Encode of a
// document and EncodeElement of an element begin with them.
func DecodeElement(e *etree.Element) (*machine.Machine, error) {
	version, ok := attr(e, "version")
	if !ok {
		version = "1.15" // VBOX_XML_IMPORT_VERSION_FULL
	}
	doc := etree.NewDocument()
	c := e.Copy()
	doc.SetRoot(c)
	return decode(doc, c, version)
}

// A file is the document that a machine came from, and what it meant. Neither changes.
type file struct {
	doc   *etree.Document
	mach  *etree.Element // in doc
	minor int            // of the settings' version: 19 of 1.19
	meant *machine.Machine
}

// An origin is an element of a file. That of the Machine is file.mach.
type origin struct {
	file *file
	e    *etree.Element
}

// Form returns vbox.
func (origin) Form() string { return formName }

// of returns the element of an Origin that is of f, or nil.
func (f *file) of(o machine.Origin) *etree.Element {
	if o, ok := o.(origin); ok && f != nil && o.file == f {
		return o.e
	}
	return nil
}

// The places of elements that moved, below Machine.

func cpuPath(minor int) string      { return pick(minor, "Platform/CPU", "Hardware/CPU") }
func cpuFlagsPath(minor int) string { return pick(minor, "Platform/x86/CPU", "Hardware/CPU") }
func hpetPath(minor int) string     { return pick(minor, "Platform/x86/HPET", "Hardware/HPET") }
func chipsetPath(minor int) string  { return pick(minor, "Platform/Chipset", "Hardware/Chipset") }
func clockPath(minor int) string    { return pick(minor, "Platform/RTC", "Hardware/RTC") }
func biosPath(minor int) string     { return pick(minor, "Hardware/Firmware", "Hardware/BIOS") }

func pick(minor int, from120, before string) string {
	if minor >= 20 {
		return from120
	}
	return before
}

// parseVersion returns 19 for "1.19-linux".
func parseVersion(s string) (int, error) {
	number, _, _ := strings.Cut(s, "-")
	rest, ok := strings.CutPrefix(number, "1.")
	minor, err := strconv.ParseUint(rest, 10, 16)
	switch {
	case s == "":
		return 0, &machine.SyntaxError{Form: formName, What: "version", Got: "not said", Err: machine.ErrSyntax}
	case !ok || err != nil || minor > newest:
		return 0, &machine.SyntaxError{Form: formName, What: "version", Got: fmt.Sprintf("%q, want 1.0 to 1.%d", s, newest), Err: machine.ErrUnsupported}
	}
	return int(minor), nil
}

// parseUUID takes 8-4-4-4-12 digits with or without braces and returns them in lower case; "" for the nil UUID.
func parseUUID(s string) (string, bool) {
	s = strings.ToLower(strings.TrimSuffix(strings.TrimPrefix(strings.TrimSpace(s), "{"), "}"))
	if len(s) != 36 {
		return "", false
	}
	for i, c := range []byte(s) {
		dash := i == 8 || i == 13 || i == 18 || i == 23
		if dash != (c == '-') || !dash && !strings.ContainsRune("0123456789abcdef", rune(c)) {
			return "", false
		}
	}
	if s == "00000000-0000-0000-0000-000000000000" {
		return "", true
	}
	return s, true
}
