package all_test

import (
	"context"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sync/errgroup"

	"tarvm/formats"
	formatsall "tarvm/formats/all"
	"tarvm/formats/formatstest"
	"tarvm/formats/machine"
	"tarvm/ovf/all"
	"tarvm/ovf/target"
)

// A cell is a machine and what it is written as.
type cell struct {
	spec
	target  target.Target
	profile string
}

func (c cell) String() string {
	s := c.spec.String() + "-to-" + c.target.Name()
	if c.profile != "" {
		s += "-" + c.profile
	}
	return s
}

// is reports whether the target is one of those.
func (c cell) is(names ...string) bool { return slices.Contains(names, c.target.Name()) }

// cells are all that there are.
func cells() []cell {
	var list []cell
	for _, t := range all.Targets(formatsall.Configs()) {
		profiles := t.Profiles()
		if len(profiles) == 0 {
			profiles = []string{""}
		}
		for _, p := range profiles {
			for _, source := range sourceNames {
				for _, b := range buses[source] {
					for _, efi := range []bool{false, true} {
						for _, n := range []int{1, 3} {
							list = append(list, cell{spec{source, b, efi, n}, t, p})
						}
					}
				}
			}
		}
	}
	return list
}

// chosen are all cells if TARVM_CLIENTS is all; else so many that each two values meet in one of them: target and source,
// target and bus, source and firmware, and so on. Each is the one that has most pairs that were not there before.
func chosen() []cell {
	rest := cells()
	if os.Getenv("TARVM_CLIENTS") == "all" {
		return rest
	}
	pairs := func(c cell) []string {
		v := []string{"s" + c.source, "b" + string(c.bus), fmt.Sprint("e", c.efi), fmt.Sprint("d", c.disks), "t" + c.target.Name() + c.profile}
		var list []string
		for i := range v {
			for j := range i {
				list = append(list, v[j]+" "+v[i])
			}
		}
		return list
	}
	seen := map[string]bool{}
	var list []cell
	for {
		best, most := -1, 0
		for i, c := range rest {
			n := 0
			for _, p := range pairs(c) {
				if !seen[p] {
					n++
				}
			}
			if n > most {
				best, most = i, n
			}
		}
		if best < 0 {
			return list
		}
		for _, p := range pairs(rest[best]) {
			seen[p] = true
		}
		list = append(list, rest[best])
	}
}

// A product is what was written of a cell.
type product struct {
	cell
	origin *origin
	plan   *target.Plan
	path   string // a file, or a directory
	dir    string // the files: path, or where path was unpacked
}

// each runs a test for each cell: several at once, because judges wait more than they work.
func each(t *testing.T, keep func(c cell) bool, f func(t *testing.T, p *product)) {
	t.Helper()
	formatstest.OneGoroutine(t)
	if testing.Short() {
		t.Skip("foreign programs, a minute")
	}
	o := newOrigin(t)
	var g errgroup.Group
	g.SetLimit(6)
	n := 0
	for _, c := range chosen() {
		if !keep(c) {
			continue
		}
		n++
		g.Go(func() error {
			t.Run(c.String(), func(t *testing.T) { f(t, produce(t, o, c)) })
			return nil
		})
	}
	_ = g.Wait() // the tests themselves fail
	if n == 0 {
		t.Error("nothing was chosen")
	}
}

// produce makes a machine and writes it.
func produce(t *testing.T, o *origin, c cell) *product {
	t.Helper()
	p := &product{cell: c, origin: o, path: filepath.Join(t.TempDir(), vmStem+"."+c.target.Name())}
	p.plan = write(t, open(t, o.make(t, c.spec)), c.target, target.Options{Profile: c.profile}, p.path, false)
	p.dir = p.path
	if c.target.Single() {
		p.dir = t.TempDir()
		formatstest.Run(t, p.dir, "bsdtar", "-xf", p.path)
	}
	return p
}

// write writes a machine to path, or into a pipe whose other end is path.
func write(t *testing.T, vm *target.VM, to target.Target, o target.Options, path string, pipe bool) *target.Plan {
	t.Helper()
	plan, err := tryWrite(t, vm, to, o, path, pipe)
	if err != nil {
		t.Fatal(err)
	}
	return plan
}

// tryWrite returns what the writing of the plan ends with.
func tryWrite(t *testing.T, vm *target.VM, to target.Target, o target.Options, path string, pipe bool) (*target.Plan, error) {
	t.Helper()
	o.Dir = path
	plan, err := to.Plan(vm, o)
	if err != nil {
		t.Fatal(err)
	}
	create := func(name string, mode fs.FileMode) (*os.File, error) {
		f, err := os.OpenFile(name, os.O_RDWR|os.O_CREATE|os.O_EXCL, mode)
		if err == nil {
			t.Cleanup(func() { f.Close() })
		}
		return f, err
	}
	sink := target.Sink{Temp: func() (target.TempFile, error) { return create(filepath.Join(t.TempDir(), "temp"), 0o600) }}
	if to.Single() {
		f, err := create(path, 0o600)
		if err != nil {
			t.Fatal(err)
		}
		if sink.File = f; pipe {
			sink.File, sink.Pipe = nil, struct{ writer }{f}
		}
	} else {
		if err := os.Mkdir(path, 0o755); err != nil {
			t.Fatal(err)
		}
		sink.Create = func(name string, mode fs.FileMode) (formats.Output, error) {
			return create(filepath.Join(path, name), mode)
		}
	}
	return plan, plan.Write(context.Background(), sink)
}

// A writer is a file of which nothing else is known.
type writer interface{ Write(b []byte) (int, error) }

// file returns the one file whose name ends in suffix.
func (p *product) file(t *testing.T, suffix string) string {
	t.Helper()
	list, err := filepath.Glob(filepath.Join(p.dir, "*"+suffix))
	if err != nil || len(list) != 1 {
		t.Fatalf("%s: %v, %v", suffix, list, err)
	}
	return list[0]
}

// Facts are what a machine is, in words that do not depend on who says it: name, uuid, memory (MiB), cpus, firmware, nicN
// (its model and address), diskN (its bus), cdrom (its bus).
type facts map[string]string

// want is what a judge must say: what the machine is, with what the target is known to make of it.
func (c cell) want() facts {
	f := facts{"name": vmName, "uuid": vmUUID, "memory": fmt.Sprint(memory), "cpus": fmt.Sprint(cpus), "firmware": c.firmware()}
	for i, mac := range c.macs() {
		f[fmt.Sprintf("nic%d", i)] = c.nic(i) + " " + mac
	}
	for i := range c.disks {
		f[fmt.Sprintf("disk%d", i)] = string(c.diskBus())
	}
	f["cdrom"] = string(c.opticalBus())
	return f
}

// nic is the model of adapter i.
func (c cell) nic(i int) string {
	m := c.nics()[i]
	switch {
	case m == "virtio" && (c.is("vmx") || c.is("vagrant") && c.profile == "vmware_desktop"):
		return "vmxnet3"
	case m == "virtio" && c.is("ova", "ovf") && c.profile != "virtualbox", m == "vmxnet3" && (c.is("vbox") || c.profile == "xen" || c.profile == "virtualbox"):
		return "e1000"
	}
	return m
}

// diskBus is how disks are attached.
func (c cell) diskBus() machine.Bus {
	blk := c.source == "libvirt" && c.bus == machine.Virtio // not virtio-scsi
	b := c.bus
	if b == machine.Virtio && !blk {
		b = machine.SCSI
	}
	switch {
	case c.is("ova", "ovf") && (c.profile == "generic" || c.profile == "xen"):
		if b != machine.IDE {
			return machine.SCSI
		}
	case blk && (c.is("vbox") || c.profile == "virtualbox"):
		return machine.SATA
	case blk && (c.is("vmx") || c.profile == "vmware" || c.profile == "vmware_desktop"):
		return machine.SCSI
	case b == machine.NVMe && c.is("libvirt"):
		return machine.SATA
	}
	return b
}

// opticalBus is how the drive with the ISO is attached.
func (c cell) opticalBus() machine.Bus {
	if strings.Contains(domainText(c.spec), "q35") && c.source == "libvirt" && !(c.is("ova", "ovf") && (c.profile == "generic" || c.profile == "xen")) {
		return machine.SATA
	}
	return machine.IDE
}

// compare says where a judge disagrees, and where it says nothing of what it was asked.
func (c cell) compare(t *testing.T, judge string, got facts, without ...string) {
	t.Helper()
	want := c.want()
	for key := range want {
		for _, w := range without {
			if strings.HasPrefix(key, w) {
				delete(want, key)
			}
		}
	}
	for key, w := range want {
		if g, ok := got[key]; !ok || !strings.EqualFold(g, w) {
			t.Errorf("%s: %s is %q, not %q", judge, key, g, w)
		}
	}
	for key, g := range got {
		if _, ok := want[key]; !ok && (strings.HasPrefix(key, "disk") || strings.HasPrefix(key, "nic")) && !slices.ContainsFunc(without, func(w string) bool { return strings.HasPrefix(key, w) }) {
			t.Errorf("%s: there is %s, %q", judge, key, g)
		}
	}
}

// sameDisk has qemu-img compare an image with what disk i was made of. Grown says that there may be zeros behind its end.
func (p *product) sameDisk(t *testing.T, format, path string, i int, grown bool) {
	t.Helper()
	out := formatstest.Run(t, ".", "qemu-img", "compare", "-f", format, "-F", "raw", path, p.origin.raw[i])
	if !grown && !strings.HasPrefix(string(out), "Images are identical") {
		t.Errorf("%s: %s", path, out)
	}
}
