package target

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"tarvm/formats/machine"
)

// ErrNetwork: a Mapping is of a network that there is not.
var ErrNetwork = errors.New("no such network")

// A Mapping attaches the network adapters of one network to another. From is a network's name or, for those that have
// none, its kind: nat, bridged, hostonly, internal, none. To is a name, or one of these kinds.
type Mapping struct{ From, To string }

// netKinds are the kinds that have names in a Mapping.
var netKinds = []machine.NetKind{machine.NAT, machine.Bridged, machine.HostOnly, machine.Internal, machine.NoNet}

func netKind(name string) (machine.NetKind, bool) {
	k := machine.NetKind(strings.ToLower(name))
	return k, slices.Contains(netKinds, k)
}

// is reports whether an adapter is of a network.
func (x Mapping) is(n *machine.NIC) bool {
	if n.Network != "" && n.Network == x.From {
		return true
	}
	k, ok := netKind(x.From)
	return ok && (n.Kind == k || k == machine.NAT && n.Kind == machine.UserNet)
}

// Networks returns the networks of the machine's adapters, in the words that a Mapping takes as From.
func (vm *VM) Networks() (list []string) {
	for i := range vm.Machine.NICs {
		n := &vm.Machine.NICs[i]
		name := n.Network
		if name == "" && n.Kind == machine.UserNet {
			name = string(machine.NAT)
		} else if name == "" {
			name = string(n.Kind)
		}
		if name != "" && !slices.Contains(list, name) {
			list = append(list, name)
		}
	}
	return list
}

// CheckNetworks looks whether every mapping has a network in one of the machines.
func CheckNetworks(mappings []Mapping, vms ...*VM) error {
	for _, x := range mappings {
		var have []string
		found := false
		for _, vm := range vms {
			for i := range vm.Machine.NICs {
				found = found || x.is(&vm.Machine.NICs[i])
			}
			for _, name := range vm.Networks() {
				if name = quote(name); !slices.Contains(have, name) {
					have = append(have, name)
				}
			}
		}
		switch {
		case x.To == "":
			return fmt.Errorf("network %s becomes one without a name: %w", quote(x.From), ErrNetwork)
		case !found && len(have) == 0:
			return fmt.Errorf("%w: %s; the machine has none", ErrNetwork, quote(x.From))
		case !found:
			return fmt.Errorf("%w: %s; there are %s", ErrNetwork, quote(x.From), strings.Join(have, ", "))
		}
	}
	return nil
}

// networks attaches the adapters to other networks. All mappings see the networks of the source.
func (p *Plan) networks(s *Shape) error {
	if p.Options.Member == 0 {
		if err := CheckNetworks(p.Options.Networks, p.VM); err != nil {
			return err
		}
	}
	for i := range p.Machine.NICs {
		n := &p.Machine.NICs[i]
		for _, x := range p.Options.Networks {
			if !x.is(n) {
				continue
			}
			k, isKind := netKind(x.To)
			named := s.Envelope || n.Kind != machine.Bridged && n.Kind != machine.HostOnly && n.Kind != machine.Internal
			switch {
			case isKind:
				n.Kind, n.Network = k, ""
			case named:
				n.Kind, n.Network = machine.Named, x.To
			default:
				n.Network = x.To // another bridge, another network of the same kind
			}
			break
		}
	}
	return nil
}

// renamed returns what a network of the source's envelope becomes.
func (p *Plan) renamed(name string) (string, bool) {
	for _, x := range p.Options.Networks {
		if x.From == name {
			return x.To, true
		}
		if k, ok := netKind(x.From); ok && strings.EqualFold(name, string(k)) {
			return x.To, true
		}
	}
	return name, false
}
