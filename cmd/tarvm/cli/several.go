package cli

import (
	"context"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"tarvm/archive"
	"tarvm/formats"
	"tarvm/formats/layers"
	"tarvm/ovf/ova"
	"tarvm/ovf/target"
)

// openSystems opens the machine of a package that o names; with several, all if it names none.
func (s *source) openSystems(d *layers.Dir, pkg *ova.Package, o target.OpenOptions, several bool) error {
	var list []*target.VM
	var err error
	if several {
		list, err = target.OpenAll(d, pkg.Envelope.Name, o)
	} else {
		list = make([]*target.VM, 1)
		list[0], err = target.Open(d, pkg.Envelope.Name, o)
	}
	if err != nil {
		return err
	}
	for _, vm := range list {
		s.VM = vm
		if err := s.setTime(pkg.FS()); err != nil {
			return err
		}
	}
	s.VM, s.more = list[0], list[1:]
	return nil
}

// machines returns all that were opened.
func (s *source) machines() []*target.VM { return append([]*target.VM{s.VM}, s.more...) }

// openBase opens what --base names.
func (p *program) openBase(ctx context.Context, o *exportFlags) (*source, error) {
	s, err := p.openVM(ctx, o.base, &sourceFlags{search: o.search, live: o.live}, o.out)
	if err != nil {
		return nil, p.openError(err)
	}
	if !o.dryRun {
		if err := p.verifyPackage(ctx, s); err != nil {
			s.close()
			return nil, err
		}
	}
	return s, nil
}

// mappings reads --net and --start-order.
func (o *exportFlags) mappings(to *target.Options) error {
	for _, s := range o.nets {
		from, name, ok := strings.Cut(s, "=")
		if !ok || from == "" || name == "" {
			return hint(usage(fmt.Errorf("--net %q", s)), "--net OLD=NEW")
		}
		to.Networks = append(to.Networks, target.Mapping{From: from, To: name})
	}
	if o.start == "" {
		return nil
	}
	for _, group := range strings.Split(o.start, ",") {
		to.Start = append(to.Start, strings.Split(group, "+"))
	}
	return nil
}

// stem is the name of a file without directory and ending.
func stem(path string) string {
	base := filepath.Base(path)
	return target.FileName(strings.TrimSuffix(base, filepath.Ext(base)))
}

// transferAll writes several machines into one package.
func (p *program) transferAll(ctx context.Context, list []*source, t target.Collector, to target.Options, o *exportFlags) error {
	began := time.Now()
	var vms []*target.VM
	var names []string // of the sources, one for each machine
	for _, s := range list {
		for _, vm := range s.machines() {
			vms, names = append(vms, vm), append(names, s.name)
		}
	}
	if o.out != "" && o.out != "-" {
		to.Stem = stem(o.out)
	}
	plan, err := t.PlanAll(vms, to)
	if err != nil {
		return p.machineError(err)
	}
	j := job{names: names, plans: plan.Members, began: began, o: o}
	print := func() error {
		for i, m := range plan.Members {
			if err := p.printMember(m, i > 0); err != nil {
				return err
			}
		}
		return p.printf("\n%s: %s\n", quoted(plan.Texts[0]), strings.Join(plan.Texts[1:], ", "))
	}
	if done, err := p.announce(&j, t, print); done || err != nil {
		return err
	}
	if err := p.writePlan(ctx, list[0], plan, t, o); err != nil {
		return p.machineError(err)
	}
	return p.finish(&j, t)
}

// transferEach writes the machines of a package into a directory each.
func (p *program) transferEach(ctx context.Context, s *source, t target.Target, to target.Options, o *exportFlags) error {
	vms := s.machines()
	if o.name != "" {
		return hint(usage(fmt.Errorf("%s: --name for %d machines", s.name, len(vms))), "--system ID takes one of them")
	}
	if err := target.CheckNetworks(to.Networks, vms...); err != nil {
		return p.machineError(err)
	}
	j := job{began: time.Now(), o: o}
	stems := target.Stems(vms)
	for i, vm := range vms {
		mo := to
		mo.Member = i + 1
		if to.Dir != "" {
			mo.Dir = filepath.Join(to.Dir, stems[i])
		}
		plan, err := t.Plan(vm, mo)
		if err != nil {
			return p.machineError(fmt.Errorf("%s: machine %s: %w", s.name, quoted(vm.Machine.Name), err))
		}
		j.plans, j.names = append(j.plans, plan), append(j.names, s.name)
	}
	print := func() error {
		for i, plan := range j.plans {
			if err := p.printMember(plan, i > 0); err != nil {
				return err
			}
		}
		return nil
	}
	if done, err := p.announce(&j, t, print); done || err != nil {
		return err
	}
	d, err := createDir(o.out)
	if err != nil {
		return err
	}
	defer d.Abort()
	for i, plan := range j.plans {
		if err := writeInto(ctx, filepath.Join(d.Path(), stems[i]), plan); err != nil {
			return p.machineError(fmt.Errorf("%s: %w", stems[i], err))
		}
	}
	if err := d.Commit(); err != nil {
		return err
	}
	return p.finish(&j, t)
}

// writeInto makes a directory of a plan.
func writeInto(ctx context.Context, dir string, plan *target.Plan) (err error) {
	if err := os.Mkdir(dir, 0o777); err != nil {
		return plainPath(err)
	}
	var files []*os.File
	defer func() {
		for _, f := range files {
			serr := f.Sync()
			if cerr := f.Close(); serr == nil {
				serr = cerr
			}
			if err == nil && serr != nil {
				err = plainPath(serr)
			}
		}
		if err == nil {
			err = archive.SyncDir(dir)
		}
	}()
	return plan.Write(ctx, target.Sink{Create: func(name string, mode fs.FileMode) (formats.Output, error) {
		if filepath.Base(name) != name || name == "." || name == ".." {
			return nil, fmt.Errorf("%q is no name of a file", name)
		}
		f, err := os.OpenFile(filepath.Join(dir, name), os.O_RDWR|os.O_CREATE|os.O_EXCL, mode)
		if err == nil {
			files = append(files, f)
		}
		return f, err
	}})
}

// A job is several machines that are written at once.
type job struct {
	names []string // where each is from
	plans []*target.Plan
	began time.Time
	o     *exportFlags
}

// announce says what does not come along, and reports whether that is all that is to be done.
func (p *program) announce(j *job, t target.Target, print func() error) (bool, error) {
	lost := 0
	for _, plan := range j.plans {
		lost += len(plan.Losses)
	}
	refused := j.o.strict && lost > 0
	switch {
	case p.json && (j.o.dryRun || refused):
		if err := p.writeJSON(j.exported("", true)); err != nil {
			return true, err
		}
	case p.json:
	case j.o.dryRun:
		if err := print(); err != nil {
			return true, err
		}
	default:
		for _, plan := range j.plans {
			for _, n := range plan.Notes {
				p.note("%s: %s", printable(plan.Machine.Name), printable(n))
			}
			for _, l := range plan.Losses {
				p.note("%s: %s", printable(plan.Machine.Name), printable(l.String()))
			}
		}
	}
	if refused {
		return true, hint(fmt.Errorf("%s cannot be expressed as %s, and --strict was given", count(lost, "setting"), t.Name()), "nothing was written")
	}
	return j.o.dryRun, nil
}

// exported is what --json writes: a list.
func (j *job) exported(output string, dry bool) (list []exported) {
	for i, plan := range j.plans {
		list = append(list, exported{Plan: plan, Source: j.names[i], Output: output, DryRun: dry, Elapsed: time.Since(j.began)})
	}
	return list
}

// finish says what was done.
func (p *program) finish(j *job, t target.Target) error {
	p.bar.clear()
	if p.json {
		return p.writeJSON(j.exported(j.o.out, false))
	}
	disks, bytes := 0, int64(0)
	for _, plan := range j.plans {
		disks += len(plan.Disks)
		bytes += plan.Capacity()
	}
	if j.o.out != "-" && !j.o.within {
		p.note("%s: %s, %s, %s, %s of disk in %.1f s", j.o.out, t.Name(), count(len(j.plans), "machine"), count(disks, "disk"), size(bytes), time.Since(j.began).Seconds())
	}
	return nil
}

// printMember prints what --dry-run says of one of several machines.
func (p *program) printMember(plan *target.Plan, more bool) error {
	head := ""
	if more {
		head = "\n"
	}
	if err := p.printf("%smachine %s\n", head, quoted(plan.Machine.Name)); err != nil {
		return err
	}
	return p.printExport(plan)
}
