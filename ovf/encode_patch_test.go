package ovf_test

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/beevik/etree"

	"tarvm/formats/machine"
	"tarvm/formats/machine/machinetest"
	"tarvm/ovf"
)

// samples are the corpus, where there is one, VirtualBox's exports of one machine in three versions, and two envelopes with
// what these lack: notes, properties, and VMware's way to say EFI.
func samples(t testing.TB) []machinetest.Sample {
	t.Helper()
	paths, err := filepath.Glob("testdata/*.ovf")
	if err != nil || len(paths) < 3 {
		t.Fatalf("testdata: %d files, %v", len(paths), err)
	}
	var list []machinetest.Sample
	for _, p := range paths {
		b, err := os.ReadFile(p)
		if err != nil {
			t.Fatal(err)
		}
		list = append(list, machinetest.Sample{Name: filepath.Base(p), Path: p, Data: b})
	}
	for i := range 2 {
		m := built(machine.SCSI, true, 1+i)
		m.Notes = "a note"
		e := ovf.New(m, nil, nil)
		e.Systems[0].Products = []ovf.Product{{Info: "Software", Properties: []ovf.Property{{Key: "address", Type: "string", Value: "10.0.0.1", UserConfigurable: true}}}}
		b, _, err := e.Encode(ovf.EncodeOptions{Profile: ovf.VMware})
		if err != nil {
			t.Fatal(err)
		}
		list = append(list, machinetest.Sample{Name: fmt.Sprintf("built %d", i), Data: b})
	}
	if _, err := os.Stat("../../shared/corpus/ovf"); err == nil {
		list = append(list, envelopes(t)...)
	}
	return list
}

// elements counts what a document has by path and content, names of prefixes aside.
func elements(t testing.TB, b []byte) map[string]int {
	t.Helper()
	doc := etree.NewDocument()
	if err := doc.ReadFromBytes(b); err != nil {
		t.Fatal(err)
	}
	count := map[string]int{}
	var walk func(path string, e *etree.Element)
	walk = func(path string, e *etree.Element) {
		path += "/" + e.Tag
		count[path+"="+strings.TrimSpace(e.Text())]++
		for _, a := range e.Attr {
			if a.Space != "xmlns" {
				count[path+"@"+a.Key+"="+a.Value]++
			}
		}
		for _, c := range e.ChildElements() {
			walk(path, c)
		}
	}
	walk("", doc.Root())
	return count
}

// gone lists what of a is not in b.
func gone(a, b map[string]int) []string {
	var list []string
	for k, n := range a {
		for range n - b[k] {
			list = append(list, k)
		}
	}
	return list
}

// TestPatch changes one thing after another in every envelope, and wants this change and no other.
func TestPatch(t *testing.T) {
	changes := []struct {
		name   string
		change func(e *ovf.Envelope, m *machine.Machine) bool
		gone   int // lines of the document
	}{
		{"name", func(_ *ovf.Envelope, m *machine.Machine) bool { m.Name += " 2"; return true }, 2},
		{"memory", func(_ *ovf.Envelope, m *machine.Machine) bool {
			m.Memory.Bytes += 3 << 20
			return m.Memory.Bytes > 3<<20
		}, 4},
		{"processors", func(_ *ovf.Envelope, m *machine.Machine) bool {
			m.CPU.Count, m.CPU.Cores, m.CPU.Sockets = m.CPU.Count+2, 0, 0
			return m.CPU.Count > 2
		}, 5},
		{"notes", func(_ *ovf.Envelope, m *machine.Machine) bool {
			if strings.Count(m.Notes, "\n") > 0 {
				return false
			}
			m.Notes = "new <notes>"
			return true
		}, 2},
		{"firmware", func(_ *ovf.Envelope, m *machine.Machine) bool {
			if m.Platform == "virtualbox" {
				return false
			}
			m.Firmware.Type = "efi"
			m.Firmware.SecureBoot = machine.On
			return true
		}, 2},
		{"identity", func(_ *ovf.Envelope, m *machine.Machine) bool {
			m.UUID = "11223344-5566-4788-99aa-bbccddeeff00"
			return m.Platform == "vmware"
		}, 1},
		{"VirtualBox's own", func(_ *ovf.Envelope, m *machine.Machine) bool {
			if m.Platform != "virtualbox" || len(m.Videos) == 0 {
				return false
			}
			m.UUID, m.Boot, m.Clock, m.Features.PAE = "11223344-5566-4788-99aa-bbccddeeff00", []string{"network", "disk"}, "utc", machine.On
			m.Videos[0].Memory = 99 << 20
			return true
		}, 12},
		{"new adapter", func(_ *ovf.Envelope, m *machine.Machine) bool {
			m.NICs = append(m.NICs, machine.NIC{
				Slot: len(m.NICs), Model: "e1000", MAC: "00:0c:29:00:00:01", Kind: machine.Named, Network: "new one", Connected: machine.On,
			})
			return true
		}, 0},
		{"no adapter", func(_ *ovf.Envelope, m *machine.Machine) bool {
			had := len(m.NICs) > 0
			m.NICs = nil
			return had
		}, 200},
		{"other network", func(_ *ovf.Envelope, m *machine.Machine) bool {
			for i := range m.NICs {
				m.NICs[i].Kind, m.NICs[i].Network = machine.Named, "another"
			}
			return len(m.NICs) > 0
		}, 40},
		{"new disk", func(_ *ovf.Envelope, m *machine.Machine) bool {
			c := machine.Controller{Bus: machine.SCSI, Index: 9, Model: "vmpvscsi"}
			if m.Platform == "virtualbox" {
				c.Model = "lsilogic"
			}
			m.Controllers = append(m.Controllers, c)
			m.Drives = append(m.Drives, machine.Drive{
				Kind: machine.Disk, At: machine.Address{Bus: machine.SCSI, Index: 9, Unit: 3},
				Media: machine.Media{Path: "new.vmdk", Format: "vmdk", Capacity: 5 << 20},
			})
			return true
		}, 0},
		{"no drives", func(_ *ovf.Envelope, m *machine.Machine) bool { m.Drives = nil; return true }, 400},
		{"file", func(e *ovf.Envelope, _ *machine.Machine) bool {
			for i := range e.Files {
				e.Files[i].Size = 77
			}
			return len(e.Files) > 0
		}, 60},
		{"capacity", func(e *ovf.Envelope, m *machine.Machine) bool {
			had := false
			for i := range e.Disks {
				if d := &e.Disks[i]; d.CapacityText == "" {
					d.Capacity = 12345 * 512
					for j := range m.Drives {
						if v := &m.Drives[j]; v.Media.Capacity > 0 && len(e.Systems) == 1 {
							v.Media.Capacity = d.Capacity
							had = true
						}
					}
				}
			}
			return had
		}, 60},
		{"property", func(e *ovf.Envelope, _ *machine.Machine) bool {
			for i := range e.Systems {
				for j := range e.Systems[i].Products {
					for k := range e.Systems[i].Products[j].Properties {
						e.Systems[i].Products[j].Properties[k].Value = "x\ny"
						return true
					}
				}
			}
			return false
		}, 1},
	}
	for _, c := range changes {
		tried := 0
		for _, s := range samples(t) {
			e, err := ovf.Decode(s.Data)
			if err != nil || len(e.Systems) == 0 || serious(e) {
				continue
			}
			v := &e.Systems[0]
			m := v.Machine
			if len(v.ID) == 0 || !c.change(e, m) {
				continue
			}
			tried++
			want := m.Clone()
			if err := want.Complete(); err != nil {
				t.Fatal(err)
			}
			b, losses, err := e.Encode(ovf.EncodeOptions{})
			if err != nil {
				t.Errorf("%s: %s: %v", s.Name, c.name, err)
				continue
			}
			for _, l := range losses {
				t.Errorf("%s: %s: lost: %s", s.Name, c.name, l)
			}
			again, err := ovf.Decode(b)
			if err != nil {
				t.Errorf("%s: %s: %v", s.Name, c.name, err)
				continue
			}
			for _, d := range machine.Difference(ordered(want), ordered(again.Systems[0].Machine)) {
				t.Errorf("%s: %s: %s", s.Name, c.name, d)
			}
			if a, b := len(e.Problems), len(again.Problems); b > a {
				t.Errorf("%s: %s: problems: %v", s.Name, c.name, again.Problems)
			}
			if lost := gone(elements(t, s.Data), elements(t, b)); len(lost) > c.gone {
				t.Errorf("%s: %s: %d lines are gone, at most %d should be: %q", s.Name, c.name, len(lost), c.gone, lost)
			}
			if x, _, err := again.Encode(ovf.EncodeOptions{}); err != nil || !bytes.Equal(x, b) {
				t.Errorf("%s: %s: what was written does not come back", s.Name, c.name)
			}
			if c.name == "property" && again.Systems[0].Products[0].Properties[0].Value != "x\ny" && !strings.Contains(string(b), "x&#xA;y") {
				t.Errorf("%s: the value is not there", s.Name)
			}
		}
		if tried < 2 {
			t.Errorf("%s: tried on %d envelopes", c.name, tried)
		}
	}
}

// serious reports whether an envelope contradicts itself: then what it means may change with any part of it.
func serious(e *ovf.Envelope) bool {
	for _, p := range e.Problems {
		if p.Severity == ovf.Error {
			return true
		}
	}
	return false
}

// ordered returns m with lists that have an order of their own by it: what is added goes where the form has it.
func ordered(m *machine.Machine) *machine.Machine {
	c := m.Clone()
	// OVF has none for diskettes: there is one when there is a drive.
	c.Controllers = slices.DeleteFunc(c.Controllers, func(c machine.Controller) bool { return c.Bus == machine.Floppy })
	for i := range c.Controllers {
		c.Controllers[i].Implied = false
	}
	sortBy(c.Controllers, func(c machine.Controller) string { return machine.Address{Bus: c.Bus, Index: c.Index}.String() })
	sortBy(c.Drives, func(d machine.Drive) string { return d.At.String() })
	return c
}

func sortBy[T any](list []T, key func(T) string) {
	for i := range list {
		for j := i; j > 0 && key(list[j]) < key(list[j-1]); j-- {
			list[j], list[j-1] = list[j-1], list[j]
		}
	}
}
