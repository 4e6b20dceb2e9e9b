package vmx_test

import (
	"bytes"
	"regexp"
	"strings"
	"testing"

	"tarvm/formats/machine"
	"tarvm/formats/machine/machinetest"
	"tarvm/formats/vmx"
)

// corpus returns the VMX files that others wrote.
func corpus(t testing.TB) []machinetest.Sample {
	list := machinetest.Corpus(t, "libvirt-vmx2xml", ".vmx")
	return append(list, machinetest.Corpus(t, "virt-v2v", ".vmx")...)
}

func TestCorpus(t *testing.T) {
	for _, s := range corpus(t) {
		t.Run(s.Name, func(t *testing.T) {
			if !(vmx.Form{}).Probe("x", s.Data[:min(len(s.Data), 64<<10)]) {
				t.Error("not recognised")
			}
			out := machinetest.CheckRoundTrip(t, vmx.Form{}, s.Data)
			if !bytes.Equal(out, s.Data) {
				t.Errorf("other bytes than before:\n%s", out)
			}
			// What a new file says where the old one said nothing, as the documentation of Encode has it.
			demanded := regexp.MustCompile(`^(guest\.vmware: nothing, other-64|arch: nothing, x86_64|drives\.\d+\.connected: nothing, off)$`)
			_, diff := machinetest.CheckFresh(t, vmx.Form{}, s.Data)
			for _, d := range diff {
				if !demanded.MatchString(d) {
					t.Errorf("written anew: %s", d)
				}
			}
			m := machinetest.Strip(machinetest.Decode(t, vmx.Form{}, s.Data))
			_, losses := machinetest.Encode(t, vmx.Form{}, m, machine.EncodeOptions{})
			for _, l := range losses {
				if !strings.HasPrefix(l.Part, "hostdev") {
					t.Errorf("lost: %s", l)
				}
			}
		})
	}
}
