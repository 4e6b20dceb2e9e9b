package target

import (
	"errors"
	"slices"
	"testing"

	"tarvm/formats/machine"
)

func TestDistinct(t *testing.T) {
	for _, x := range []struct{ in, want []string }{
		{nil, nil},
		{[]string{"a", "b"}, []string{"a", "b"}},
		{[]string{"a", "A", "a"}, []string{"a", "A-2", "a-3"}},
		{[]string{"a", "a", "a-2"}, []string{"a", "a-3", "a-2"}},
		{[]string{"a-2", "a", "a"}, []string{"a-2", "a", "a-3"}},
	} {
		if got := distinct(x.in); !slices.Equal(got, x.want) {
			t.Errorf("%q: %q", x.in, got)
		}
	}
}

func TestMapping(t *testing.T) {
	kinds := []machine.NIC{{Kind: machine.UserNet}, {Kind: machine.Bridged, Network: "br0"}, {Kind: machine.HostOnly}, {Kind: machine.NoNet}, {Kind: machine.Named, Network: "nat"}, {}}
	vm := &VM{Machine: &machine.Machine{NICs: kinds}}
	if got := vm.Networks(); !slices.Equal(got, []string{"nat", "br0", "hostonly", "none"}) {
		t.Errorf("%q", got)
	}
	apply := func(envelope bool, list ...Mapping) (got []machine.NIC) {
		p := &Plan{VM: vm, Machine: vm.Machine.Clone(), Options: Options{Networks: list}}
		if err := p.networks(&Shape{Envelope: envelope}); err != nil {
			t.Error(err)
		}
		return p.Machine.NICs
	}
	got := apply(false, Mapping{"nat", "front"}, Mapping{"bridged", "br1"}, Mapping{"hostonly", "nat"}, Mapping{"none", "LAN"}, Mapping{"br0", "never: the first counts"})
	want := []machine.NIC{{Kind: machine.Named, Network: "front"}, {Kind: machine.Bridged, Network: "br1"}, {Kind: machine.NAT}, {Kind: machine.Named, Network: "LAN"}, {Kind: machine.Named, Network: "front"}, {}}
	if !slices.Equal(got, want) {
		t.Errorf("%+v", got)
	}
	if got := apply(true, Mapping{"br0", "LAN"}); got[1] != (machine.NIC{Kind: machine.Named, Network: "LAN"}) {
		t.Errorf("%+v", got[1])
	}
	for _, x := range []Mapping{{"LAN", "x"}, {"internal", "x"}, {"br0", ""}} {
		if err := CheckNetworks([]Mapping{x}, vm); !errors.Is(err, ErrNetwork) {
			t.Errorf("%v: %v", x, err)
		}
	}
	if err := CheckNetworks([]Mapping{{"br0", "x"}}, &VM{Machine: &machine.Machine{}}, vm); err != nil {
		t.Error(err)
	}
}
