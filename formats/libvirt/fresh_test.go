package libvirt_test

import (
	"flag"
	"fmt"
	"maps"
	"os"
	"slices"
	"strings"
	"testing"

	"tarvm/formats/libvirt"
	"tarvm/formats/machine"
	"tarvm/formats/machine/machinetest"
)

// TestNoMemory: the memory of a machine that does not say it is that of its cell, too, which QEMU wants where some can be added.
func TestNoMemory(t *testing.T) {
	m := decode(t, []byte(domainOf("")))
	m.Memory = machine.Memory{Max: 4 << 30}
	out, losses := machinetest.Encode(t, libvirt.Form{}, machinetest.Strip(m), machine.EncodeOptions{})
	for _, want := range []string{`<memory unit="KiB">1048576</memory>`, `<cell id="0" cpus="0-0" memory="1048576" unit="KiB"/>`} {
		if !strings.Contains(string(out), want) {
			t.Errorf("no %s in\n%s", want, out)
		}
	}
	if len(losses) != 1 || losses[0].Part != "memory" {
		t.Errorf("lost: %v", losses)
	}
}

var update = flag.Bool("update", false, "write testdata/fresh.txt")

// TestFresh compares what becomes of machines of other forms with testdata/fresh.txt: of each machine the losses, and
// behind them, with a dash, what is not the same when the domain is read.
func TestFresh(t *testing.T) {
	var b strings.Builder
	list := machines()
	for _, name := range slices.Sorted(maps.Keys(list)) {
		m := list[name]
		out, losses := machinetest.Encode(t, libvirt.Form{}, m, machine.EncodeOptions{})
		fmt.Fprintf(&b, "%s\n", name)
		for _, l := range losses {
			fmt.Fprintf(&b, "  %s\n", l)
		}
		for _, d := range machine.Difference(m, decode(t, out)) {
			fmt.Fprintf(&b, "  - %s\n", strings.ReplaceAll(d, "\n", `\n`))
		}
	}
	if *update {
		if err := os.WriteFile("testdata/fresh.txt", []byte(b.String()), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile("testdata/fresh.txt")
	if err != nil {
		t.Fatal(err)
	}
	if b.String() != string(want) {
		t.Errorf("is\n%s", strings.Join(lines(b.String(), string(want)), "\n"))
		t.Errorf("was\n%s", strings.Join(lines(string(want), b.String()), "\n"))
	}
}
