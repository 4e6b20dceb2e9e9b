package libvirt

import (
	"tarvm/formats/machine"
	"tarvm/formats/machine/xmldoc"
)

// formName is what errors, Origins and the registry call this form.
const formName = "libvirt"

// maxDevices is how many devices one domain may have; libvirt's own tests have up to 500.
const maxDevices = 10_000

// Form is domain XML. It has no state.
type Form struct{}

var _ machine.Config = Form{}

// Name is "libvirt".
func (Form) Name() string { return formName }

// Probe goes by the root element, which is domain without a namespace.
func (Form) Probe(_ string, head []byte) bool {
	name, space := xmldoc.Root(head)
	return name == "domain" && space == ""
}
