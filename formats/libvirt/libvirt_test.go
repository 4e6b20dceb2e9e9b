package libvirt_test

import (
	"bytes"
	"os"
	"path/filepath"
	"testing"

	"tarvm/formats/libvirt"
	"tarvm/formats/machine"
	"tarvm/formats/machine/machinetest"
)

// whole returns the corpus' files that are whole domains: some are only parts of what programs printed.
func whole(t testing.TB) []machinetest.Sample {
	t.Helper()
	var list []machinetest.Sample
	for _, s := range machinetest.Corpus(t, "virt-manager-xml", ".xml") {
		if bytes.HasPrefix(s.Data, []byte("<domain")) {
			list = append(list, s)
		}
	}
	if len(list) < 5 {
		t.Fatalf("%d domains in the corpus", len(list))
	}
	return list
}

// goldens are the domains of testdata.
func goldens(t testing.TB) []machinetest.Sample {
	t.Helper()
	paths, err := filepath.Glob("testdata/*.xml")
	if err != nil || len(paths) == 0 {
		t.Fatalf("no goldens (%v)", err)
	}
	var list []machinetest.Sample
	for _, p := range paths {
		b, err := os.ReadFile(p)
		if err != nil {
			t.Fatal(err)
		}
		list = append(list, machinetest.Sample{Name: filepath.Base(p), Path: p, Data: b})
	}
	return list
}

func decode(t testing.TB, b []byte) *machine.Machine {
	t.Helper()
	return machinetest.Decode(t, libvirt.Form{}, b)
}
