package all_test

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	formatsall "tarvm/formats/all"
	"tarvm/formats/layers"
	"tarvm/formats/machine"
	"tarvm/ovf/all"
	"tarvm/ovf/ova"
	"tarvm/ovf/target"
)

func named(t *testing.T, name string) target.Target {
	t.Helper()
	list := all.Targets(formatsall.Configs())
	i := slices.IndexFunc(list, func(x target.Target) bool { return x.Name() == name })
	if i < 0 {
		t.Fatalf("no target %s", name)
	}
	return list[i]
}

// TestSame: the same machine gives the same bytes: with one worker and with three, in a file and in a pipe, from another
// directory.
func TestSame(t *testing.T) {
	o := newOrigin(t)
	s := spec{"vmx", machine.SCSI, true, 3}
	first, second := o.make(t, s), t.TempDir()
	if err := os.CopyFS(second, os.DirFS(first)); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"ova", "ovf", "xva", "vmx", "vbox", "libvirt", "qemu"} {
		to := named(t, name)
		profiles := to.Profiles()
		if profiles == nil {
			profiles = []string{""}
		}
		for _, p := range profiles {
			t.Run(name+p, func(t *testing.T) {
				var want map[string][]byte
				for i, dir := range []string{first, second, first} {
					opts := target.Options{Profile: p}
					opts.Encode.Workers = []int{1, 3, 2}[i]
					out := filepath.Join(t.TempDir(), "x")
					write(t, open(t, dir), to, opts, out, i == 2)
					got := map[string][]byte{}
					err := filepath.Walk(out, func(path string, st os.FileInfo, err error) error {
						if err != nil || st.IsDir() {
							return err
						}
						b, err := os.ReadFile(path)
						got[strings.TrimPrefix(path, out)] = bytes.ReplaceAll(b, []byte(out), []byte("DIR"))
						return err
					})
					if err != nil {
						t.Fatal(err)
					}
					if want == nil {
						want = got
					}
					for file, b := range want {
						if !bytes.Equal(got[file], b) {
							t.Errorf("run %d: %q has other bytes: %d and %d", i, file, len(b), len(got[file]))
						}
					}
					if len(got) != len(want) {
						t.Errorf("run %d: %d files, not %d", i, len(got), len(want))
					}
				}
			})
		}
	}
}

// openPackage opens the machine in an OVA.
func openPackage(t *testing.T, path string) *target.VM {
	t.Helper()
	return openNamed(t, path, vmStem+".ovf")
}

// openNamed opens the machine in an OVA whose envelope has a name.
func openNamed(t *testing.T, path, name string) *target.VM {
	t.Helper()
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	st, err := f.Stat()
	if err != nil {
		t.Fatal(err)
	}
	pkg, err := ova.Open(t.Context(), io.NewSectionReader(f, 0, st.Size()), ova.Options{})
	if err != nil {
		t.Fatal(err)
	}
	vm, err := target.Open(layers.NewDir(pkg.FS(), ""), name, target.OpenOptions{Configs: formatsall.Configs(), Formats: formatsall.Disks(), Unix: written})
	if err != nil {
		t.Fatal(err)
	}
	return vm
}

// lost are the differences that a machine has after it was in a package and came back.
var lost = map[string][]string{
	"": {
		`drives\.\d\.media\.(path|uuid)`, // they have new names
		`(drives|nics)\.\d\.connected: nothing, on`,
		`guest\.text: nothing`,
	},
	"generic": {
		`version: .*, pc`, `arch: x86_64, nothing`, `boot\.0: disk, nothing`, `clock: utc, nothing`, `chipset: q35, i440fx`,
		`features\.a(cpi|pic): on, nothing`, `videos\.0\..*`, `nics\.1\.(kind: bridged, network|model: virtio, e1000)`, `drives\.\d\.read_only: on, nothing`,
		`controllers\.0\.model: virtio-scsi, lsilogic`, `controllers\.[01]\..*: nothing, .*`, // where there was no controller that is listed
		`drives\.\d\.at\.bus: (virtio|sata), (scsi|ide)`, `drives\.3\.at\.unit: 5, 0`,
	},
}

// plain is a machine without the controllers of USB and those that nothing says but a drive.
func plain(m *machine.Machine) *machine.Machine {
	m = m.Clone()
	m.Controllers = slices.DeleteFunc(m.Controllers, func(c machine.Controller) bool { return c.Bus == machine.USB || c.Implied })
	return m
}

// TestThere: a machine goes into a package and comes back as a directory of its hypervisor: it is the same machine, but
// for what is listed, with the same disks.
func TestThere(t *testing.T) {
	o := newOrigin(t)
	for _, c := range []struct {
		spec
		profile string
	}{
		{spec{"vmx", machine.SCSI, true, 3}, "vmware"},
		{spec{"vmx", machine.SATA, false, 1}, "vmware"},
		{spec{"vmx", machine.IDE, true, 3}, "vmware"},
		{spec{"vmx", machine.NVMe, false, 3}, "vmware"},
		{spec{"vbox", machine.SATA, true, 3}, "virtualbox"},
		{spec{"vbox", machine.SCSI, false, 1}, "virtualbox"},
		{spec{"vbox", machine.NVMe, true, 1}, "virtualbox"},
		{spec{"vbox", machine.IDE, true, 3}, "virtualbox"},
		{spec{"vbox", machine.Virtio, false, 3}, "virtualbox"},
		{spec{"libvirt", machine.SCSI, true, 3}, "generic"},
		{spec{"libvirt", machine.IDE, false, 1}, "generic"},
		{spec{"libvirt", machine.SATA, false, 1}, "generic"},
		{spec{"libvirt", machine.Virtio, false, 3}, "generic"},
	} {
		t.Run(fmt.Sprintf("%s-%s", c.spec, c.profile), func(t *testing.T) {
			known := regexp.MustCompile(`^(` + strings.Join(append(lost[""], lost[c.profile]...), "|") + `)`)
			vm := open(t, o.make(t, c.spec))
			pkg := filepath.Join(t.TempDir(), "x.ova")
			write(t, vm, named(t, "ova"), target.Options{Profile: c.profile}, pkg, false)
			p := &product{cell: cell{c.spec, named(t, c.source), ""}, origin: o, path: filepath.Join(t.TempDir(), "x")}
			p.plan = write(t, openPackage(t, pkg), p.target, target.Options{}, p.path, false)
			if len(p.plan.Disks) != c.disks {
				t.Errorf("%d disks", len(p.plan.Disks))
			}
			for i, d := range p.plan.Disks {
				p.sameDisk(t, d.Format, filepath.Join(p.path, d.Name), i, false)
			}
			for _, d := range machine.Difference(plain(vm.Machine), plain(open(t, p.path).Machine)) {
				if !known.MatchString(d) {
					t.Error(d)
				}
			}
		})
	}
}

// TestForeign: a word of another hypervisor is not taken for one of the target's own.
func TestForeign(t *testing.T) {
	vm := open(t, newOrigin(t).make(t, spec{"libvirt", machine.SCSI, false, 1}))
	plan, err := named(t, "vmx").Plan(vm, target.Options{})
	if err != nil {
		t.Fatal(err)
	}
	if text := fmt.Sprint(plan.Losses); !strings.Contains(text, "controller scsi0: virtio-scsi becomes lsilogic") {
		t.Error(text)
	}
}
