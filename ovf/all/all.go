// Package all lists what a machine can be written as. Only commands and tests import it; libraries are handed the list.
package all

import (
	"tarvm/formats/machine"
	"tarvm/ovf/folder"
	"tarvm/ovf/ova"
	"tarvm/ovf/target"
	"tarvm/ovf/vagrant"
	"tarvm/ovf/xva"
)

// Targets returns all targets. Those that are directories write one of configs.
func Targets(configs []machine.Config) []target.Target {
	list := append(append(ova.Targets(), folder.Targets(configs)...), xva.Target{})
	return append(list, vagrant.Target{Inner: list})
}
