// Package all lists the disk formats. Only commands and tests import it;
// libraries are handed the list.
package all

import (
	"tarvm/formats"
	"tarvm/formats/parallels"
	"tarvm/formats/qcow2"
	"tarvm/formats/qed"
	"tarvm/formats/vdi"
	"tarvm/formats/vhd"
	"tarvm/formats/vhdx"
	"tarvm/formats/vmdk"
)

// Disks returns the formats that are recognised by content, in the order to
// ask them: VHD is last, because only it has to look at the end of a file.
// Raw is not among them.
func Disks() []formats.Format {
	return []formats.Format{
		vmdk.Format{},
		qcow2.Format{},
		vdi.Format{},
		vhdx.Format{},
		parallels.Format{},
		qed.Format{},
		vhd.Format{},
	}
}
