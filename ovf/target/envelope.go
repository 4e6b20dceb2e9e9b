package target

import (
	"bytes"
	"encoding/json"
	"fmt"
	"path"
	"slices"
	"strings"

	"tarvm/formats"
	"tarvm/formats/machine"
	"tarvm/ovf"
)

// openEnvelope takes the machines out of an OVF envelope. vm is what they have in common.
func (vm VM) openEnvelope(b []byte, o *OpenOptions) ([]*VM, error) {
	e, err := ovf.Decode(b)
	if err != nil {
		return nil, err
	}
	which, err := systems(e, o.System)
	if err != nil {
		return nil, err
	}
	var list []*VM
	for _, i := range which {
		one := vm
		if err := one.openSystem(e, i, o.Option); err != nil {
			return nil, err
		}
		if n := len(e.Systems); n > len(which) {
			one.Notes = append(one.Notes, fmt.Sprintf("one of the package's %d virtual systems", n))
		}
		list = append(list, &one)
	}
	return list, nil
}

func (vm *VM) openSystem(e *ovf.Envelope, i int, option string) error {
	m, problems, err := e.Machine(i, option)
	if err != nil {
		return err
	}
	for _, p := range problems {
		vm.Notes = append(vm.Notes, p.String())
	}
	for d := range m.Drives {
		media := &m.Drives[d].Media
		if media.Path == "" {
			continue
		}
		name, err := ovf.File{Href: media.Path}.Name()
		if err != nil {
			return fmt.Errorf("drive %s: %w", m.Drives[d].At, err)
		}
		media.Path = name
	}
	vm.Machine, vm.Envelope, vm.System = m, e, i
	return nil
}

// systems finds a system by its id or name; without one it returns all.
func systems(e *ovf.Envelope, want string) (list []int, err error) {
	var names []string
	for i := range e.Systems {
		s := &e.Systems[i]
		if want != "" && (s.ID == want || s.Name.Text == want) {
			return []int{i}, nil
		}
		list = append(list, i)
		names = append(names, quote(s.ID))
	}
	switch {
	case len(list) == 0:
		return nil, fmt.Errorf("an envelope without a virtual system: %w", ErrNoMachine)
	case want != "":
		return nil, fmt.Errorf("no virtual system %s, but %s: %w", quote(want), strings.Join(names, ", "), ErrNoMachine)
	}
	return list, nil
}

// sections plans what an OVF package says besides the hardware: the files that it needs, or its loss.
func (p *Plan) sections(s *Shape) {
	e := p.VM.Envelope
	if e == nil {
		return
	}
	v := &e.Systems[p.VM.System]
	if s.Envelope {
		p.sectionFiles(e, v)
	} else {
		p.contentLost(&v.Content, "")
		p.systemLost(v)
		p.envelopeLost(e)
	}
	if len(e.Options) > 0 && s.Envelope {
		p.otherHardware(e)
	}
	// A machine that is taken out of a collection leaves what is said of that behind: it is said once of several. An
	// envelope of several may keep it.
	if p.Options.Member > 1 || p.Options.Member > 0 && s.Envelope {
		return
	}
	for i := range e.Collections {
		p.collectionLost(&e.Collections[i])
	}
}

// sectionFiles has the files that sections name copied.
func (p *Plan) sectionFiles(e *ovf.Envelope, v *ovf.System) {
	for i := range v.Products {
		for _, icon := range v.Products[i].Icons {
			p.sectionFile(e, "icon", icon.FileRef)
		}
	}
	for _, f := range v.EnvironmentFiles {
		p.sectionFile(e, "environment file", f.FileRef)
	}
	if p.Options.Member == 0 {
		p.sharedFiles(e)
	}
}

// sharedFiles has those files copied that are of all machines of an envelope.
func (p *Plan) sharedFiles(e *ovf.Envelope) {
	for _, b := range e.Bundles {
		p.sectionFile(e, "texts in "+b.Lang, b.FileRef)
	}
}

// sectionFile plans one file, by its id in the source's envelope.
func (p *Plan) sectionFile(e *ovf.Envelope, what, id string) {
	if id == "" || p.refs[id] != "" {
		return
	}
	f := e.File(id)
	if f == nil {
		p.lose(what, "left out: its file %s is nowhere", quote(id))
		return
	}
	href, err := f.Name()
	var name string
	var src formats.Source
	if err == nil {
		name, src, err = p.VM.find(machine.Media{Path: href})
	}
	if err != nil {
		p.lose(what, "left out: %v", err)
		return
	}
	if p.refs == nil {
		p.refs = map[string]string{}
	}
	for _, c := range p.Copies {
		if c.Source == name {
			p.refs[id] = c.Name
			return
		}
	}
	stem, suffix := path.Base(href), ""
	if ext := path.Ext(stem); len(ext) > 1 {
		stem, suffix = strings.TrimSuffix(stem, ext), "."+FileName(ext[1:])
	}
	c := Copy{Name: p.Stem + "-" + FileName(stem) + suffix, Source: name, Size: src.Size(), File: src}
	for n := 2; p.has(c.Name); n++ {
		c.Name = fmt.Sprintf("%s-%s-%d%s", p.Stem, FileName(stem), n, suffix)
	}
	p.refs[id] = c.Name
	p.Copies = append(p.Copies, c)
}

// has reports whether a file of the output has a name.
func (p *Plan) has(name string) bool {
	return p.HasDisk(name) || slices.ContainsFunc(p.Copies, func(c Copy) bool { return c.Name == name })
}

// contentLost lists what systems and collections have alike. of is what it belongs to, for a collection.
func (p *Plan) contentLost(c *ovf.Content, of string) {
	for i := range c.Products {
		product := &c.Products[i]
		what := "left out" + of
		if product.Name.Text != "" {
			what += ": " + product.Name.Text
		}
		var keys []string
		for _, q := range product.Properties {
			keys = append(keys, product.FullKey(q))
		}
		if len(keys) > 0 {
			what += ", with the properties " + strings.Join(keys, ", ")
		}
		p.lose("section ProductSection", "%.2000s", what)
	}
	if n := len(c.EULAs); n > 0 {
		p.lose("section EulaSection", "left out%s: license agreements (%d)", of, n)
	}
	for _, u := range c.Unknown {
		p.lose("section "+u.Name, "left out%s", of)
	}
}

// systemLost lists what systems alone have.
func (p *Plan) systemLost(v *ovf.System) {
	if v.Install != nil {
		p.lose("section InstallSection", "left out: the system restarts once for its own setup")
	}
	if len(v.EnvironmentFiles) > 0 {
		p.lose("section EnvironmentFilesSection", "left out: files for the guest (%d)", len(v.EnvironmentFiles))
	}
	if len(v.Transports) > 0 {
		p.lose("properties", "how the guest gets them is left out: %s", strings.Join(v.Transports, ", "))
	}
}

// envelopeLost lists what is the package's.
func (p *Plan) envelopeLost(e *ovf.Envelope) {
	if len(e.Options) > 0 {
		var ids []string
		for _, o := range e.Options {
			ids = append(ids, o.ID)
		}
		p.lose("section DeploymentOptionSection", "left out: the choice of %s", strings.Join(ids, ", "))
	}
	if len(e.Bundles) > 0 {
		var langs []string
		for _, b := range e.Bundles {
			langs = append(langs, b.Lang)
		}
		p.lose("section Strings", "left out: texts in %s", strings.Join(langs, ", "))
	}
	for _, u := range e.Unknown {
		p.lose("section "+u.Name, "left out")
	}
}

// collectionLost lists what is said of a collection and not of its members.
func (p *Plan) collectionLost(c *ovf.Collection) {
	of := " of the collection " + quote(c.ID)
	p.contentLost(&c.Content, of)
	if len(c.Startup) > 0 {
		p.lose("section StartupSection", "left out%s", of)
	}
	if len(c.Resources) > 0 {
		p.lose("section ResourceAllocationSection", "left out%s", of)
	}
	if c.Annotation.Text != "" {
		p.lose("section AnnotationSection", "left out%s", of)
	}
}

// otherHardware tells of deployment options in which the machine is another one.
func (p *Plan) otherHardware(e *ovf.Envelope) {
	mine, err := json.Marshal(p.VM.Machine)
	if err != nil {
		return
	}
	var others []string
	for _, o := range e.Options {
		m, _, err := e.Machine(p.VM.System, o.ID)
		if err != nil {
			continue
		}
		m = m.Clone()
		for i := range m.Drives {
			if name, err := (ovf.File{Href: m.Drives[i].Media.Path}).Name(); err == nil {
				m.Drives[i].Media.Path = name
			}
		}
		if b, err := json.Marshal(m); err == nil && !bytes.Equal(b, mine) {
			others = append(others, o.ID)
		}
	}
	if len(others) > 0 {
		p.lose("section DeploymentOptionSection", "the hardware is the same with all options: what is other with %s is left out", strings.Join(others, ", "))
	}
}

// Sections returns an envelope for the machine of a plan, or for its Members: what an OVF package said besides the
// hardware, or an empty one. Files and disks are those given.
func (p *Plan) Sections(files []ovf.File, disks []ovf.VirtualDisk) *ovf.Envelope {
	if p.Members != nil {
		return p.collect(files, disks)
	}
	vm := p.VM
	if vm.Envelope == nil {
		return ovf.New(p.Machine, files, disks)
	}
	e := *vm.Envelope
	e.Files, e.Disks, e.Collections = files, disks, nil
	e.Networks = p.sectionNetworks(e.Networks)
	e.Bundles = p.bundles(files)
	e.Systems = []ovf.System{p.system(files)}
	return &e
}

// system returns what the source's envelope says of the machine, with the plan's files and hardware.
func (p *Plan) system(files []ovf.File) ovf.System {
	v := p.VM.Envelope.Systems[p.VM.System]
	v.Machine = p.Machine
	v.Products = p.products(v.Products, files)
	v.EnvironmentFiles = slices.Clone(v.EnvironmentFiles)
	for i := range v.EnvironmentFiles {
		v.EnvironmentFiles[i].FileRef = p.ref(files, v.EnvironmentFiles[i].FileRef)
	}
	v.EnvironmentFiles = slices.DeleteFunc(v.EnvironmentFiles, func(f ovf.EnvironmentFile) bool { return f.FileRef == "" })
	return v
}

// ref returns the id in the output of a file of the source's envelope; empty: it is not there.
func (p *Plan) ref(files []ovf.File, id string) string {
	name := p.refs[id]
	for _, f := range files {
		if name != "" && f.Href == name {
			return f.ID
		}
	}
	return ""
}

// products returns products whose icons are files of the output.
func (p *Plan) products(list []ovf.Product, files []ovf.File) []ovf.Product {
	list = slices.Clone(list)
	for i := range list {
		icons := slices.Clone(list[i].Icons)
		for j := range icons {
			icons[j].FileRef = p.ref(files, icons[j].FileRef)
		}
		list[i].Icons = slices.DeleteFunc(icons, func(x ovf.Icon) bool { return x.FileRef == "" })
	}
	return list
}

// bundles returns the texts, whose files are those of the output.
func (p *Plan) bundles(files []ovf.File) (list []ovf.Bundle) {
	for _, b := range p.VM.Envelope.Bundles {
		if b.FileRef != "" {
			b.FileRef = p.ref(files, b.FileRef)
		}
		if b.FileRef != "" || len(b.Messages) > 0 {
			list = append(list, b)
		}
	}
	return list
}

// sectionNetworks returns the networks as they are called in the output.
func (p *Plan) sectionNetworks(list []ovf.Network) (out []ovf.Network) {
	for _, n := range list {
		name, is := p.renamed(n.Name)
		if is {
			n = ovf.Network{Name: name, Description: ovf.Msg{Text: "The " + name + " network"}}
		}
		if !is || !slices.ContainsFunc(out, func(o ovf.Network) bool { return o.Name == name }) {
			out = append(out, n)
		}
	}
	return out
}
