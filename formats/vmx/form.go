package vmx

import (
	"bytes"
	"strings"

	"tarvm/formats/machine"
)

const form = "vmx"

// Form is the machine.Config of VMX files. The zero value is ready.
type Form struct{}

var _ machine.Config = Form{}

// Name returns vmx.
func (Form) Name() string { return form }

// Probe reports whether a file is a VMX: all lines of head, but a last one that is cut, are of the form, and a version of
// the configuration or of the hardware is among them. Of encrypted ones these cannot be seen: they are known by the key
// encryption.data and a name that ends in .vmx.
func (Form) Probe(name string, head []byte) bool {
	if len(head) >= 64<<10 {
		head = head[:wholeLines(head)]
	}
	d, err := parse(head)
	if err != nil {
		return false
	}
	r := &reader{doc: d}
	return r.isDocument() || r.has("encryption.data") && strings.HasSuffix(lower(name), ".vmx")
}

// wholeLines returns the length of all lines but the last.
func wholeLines(b []byte) int {
	eol := []byte("\n")
	switch {
	case bytes.HasPrefix(b, []byte("\xff\xfe")):
		eol = []byte("\n\x00")
	case bytes.HasPrefix(b, []byte("\xfe\xff")):
		eol = []byte("\x00\n")
	}
	for end := len(b); ; {
		i := bytes.LastIndex(b[:end], eol)
		if i < 0 {
			return len(b)
		}
		if i%len(eol) == 0 {
			return i + len(eol)
		}
		end = i + len(eol) - 1
	}
}

// Decode reads a VMX. Errors are *machine.SyntaxError.
func (Form) Decode(b []byte) (*machine.Machine, error) {
	d, err := parse(bytes.Clone(b)) // lines of the document are parts of it
	if err != nil {
		return nil, err
	}
	return decode(d)
}
