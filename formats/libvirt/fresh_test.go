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
