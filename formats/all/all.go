// Package all lists the disk formats and the forms of configurations. Only
// commands and tests import it; libraries are handed the lists.
package all

import (
	"tarvm/formats"
	"tarvm/formats/hyperv"
	"tarvm/formats/libvirt"
	"tarvm/formats/machine"
	"tarvm/formats/parallels"
	"tarvm/formats/qcow"
	"tarvm/formats/qcow2"
	"tarvm/formats/qed"
	"tarvm/formats/vbox"
	"tarvm/formats/vdi"
	"tarvm/formats/vhd"
	"tarvm/formats/vhdx"
	"tarvm/formats/vmdk"
	"tarvm/formats/vmx"
	"tarvm/formats/xl"
)

// Disks returns the formats that are recognised by content, in the order to
// ask them: VHD is last, because only it has to look at the end of a file.
// Raw is not among them.
func Disks() []formats.Format {
	return []formats.Format{
		vmdk.Format{},
		qcow2.Format{},
		qcow.Format{},
		vdi.Format{},
		vhdx.Format{},
		parallels.Format{},
		qed.Format{},
		vhd.Format{},
	}
}

// Configs returns the forms of machines' configurations, in the order to ask
// them: xl is last, because its files look like many others. That of hyperv is
// only read.
func Configs() []machine.Config {
	return []machine.Config{
		vmx.Form{},
		vbox.Form{},
		libvirt.Form{},
		hyperv.Form{},
		xl.Form{},
	}
}
