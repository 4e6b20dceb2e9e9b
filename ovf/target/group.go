package target

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"tarvm/formats/machine"
	"tarvm/ovf"
)

// ErrStart: Options.Start is no order of the machines.
var ErrStart = errors.New("no order of the machines")

// NewGroup begins the plan of several machines: NewPlan for each, with names of files that are its own.
func NewGroup(vms []*VM, o Options, s Shape) (*Plan, error) {
	if len(vms) == 0 {
		return nil, ErrNoMachine
	}
	if o.Base != nil {
		return nil, fmt.Errorf("delta disks of several machines: %w", machine.ErrUnsupported)
	}
	g := &Plan{Target: s.Target, Profile: s.Profile, Options: o, Stem: o.Stem, title: o.Name}
	g.whole = wholeEnvelope(vms) && o.Name == "" && o.Start == nil
	if g.title == "" && g.whole {
		root := vms[0].Envelope.Collections[0].Content
		if g.title = root.Name.Text; g.title == "" {
			g.title = root.ID
		}
	}
	if g.title == "" {
		g.title = o.Stem
	}
	if g.title == "" {
		g.title = "vapp"
	}
	if g.Stem == "" {
		g.Stem = FileName(g.title)
	}
	if err := CheckNetworks(o.Networks, vms...); err != nil {
		return nil, err
	}
	stems := Stems(vms)
	for i, vm := range vms {
		mo := o
		mo.Name, mo.Stem, mo.Member = "", stems[i], i+1
		p, err := NewPlan(vm, mo, s)
		if err != nil {
			return nil, fmt.Errorf("machine %s: %w", quote(vm.Machine.Name), err)
		}
		p.group = g
		g.Members = append(g.Members, p)
	}
	for i, p := range g.Members {
		if e := p.VM.Envelope; e != nil && s.Envelope && g.first(i) {
			p.sharedFiles(e)
			if g.whole {
				p.collectionFiles(e)
			} else {
				p.merged(g, e)
			}
		}
		for _, n := range p.Notes {
			g.Notes = append(g.Notes, p.Machine.Name+": "+n)
		}
		g.loseOf(p, p.Losses)
	}
	if !g.whole {
		g.ids()
		if err := g.order(); err != nil {
			return nil, err
		}
	}
	return g, nil
}

// Stems returns names for the files of machines, each another one on every system: they differ in more than the case of
// letters.
func Stems(vms []*VM) []string {
	var list []string
	for _, vm := range vms {
		name := vm.Machine.Name
		if name == "" {
			name = stemOf(vm.Config)
		}
		list = append(list, FileName(name))
	}
	return distinct(list)
}

// distinct adds numbers to the later ones of names that are the same.
func distinct(names []string) []string {
	seen := map[string]bool{}
	for _, n := range names {
		seen[strings.ToLower(n)] = true
	}
	given := map[string]bool{}
	out := slices.Clone(names)
	for i, n := range names {
		for k := 2; given[strings.ToLower(out[i])]; k++ {
			if try := fmt.Sprintf("%s-%d", n, k); !seen[strings.ToLower(try)] {
				out[i] = try
			}
		}
		given[strings.ToLower(out[i])] = true
	}
	return out
}

// wholeEnvelope reports whether the machines are all those of one envelope with a collection, in its order.
func wholeEnvelope(vms []*VM) bool {
	e := vms[0].Envelope
	if e == nil || len(e.Collections) == 0 || len(e.Systems) != len(vms) {
		return false
	}
	for i, vm := range vms {
		if vm.Envelope != e || vm.System != i {
			return false
		}
	}
	return true
}

// first reports whether member i is the first of its envelope.
func (p *Plan) first(i int) bool {
	return !slices.ContainsFunc(p.Members[:i], func(m *Plan) bool { return m.VM.Envelope == p.Members[i].VM.Envelope })
}

// loseOf adds a member's losses to those of all.
func (p *Plan) loseOf(m *Plan, losses []machine.Loss) {
	for _, l := range losses {
		l.Part = m.Machine.Name + ": " + l.Part
		p.Losses = append(p.Losses, l)
	}
}

// LoseAll adds losses that an envelope of several machines has: those of a member's begin with its name.
func (p *Plan) LoseAll(losses []machine.Loss) {
	for _, l := range losses {
		owner := p.Members[0]
		for _, m := range p.Members {
			if part, is := strings.CutPrefix(l.Part, m.Machine.Name+": "); is {
				owner, l.Part = m, part
				break
			}
		}
		owner.Losses = append(owner.Losses, l)
		p.loseOf(owner, []machine.Loss{l})
	}
}

// ids gives each system an id of its own, which is what its source calls it where that is possible.
func (p *Plan) ids() {
	var names []string
	for _, m := range p.Members {
		id := m.Machine.Name
		if m.VM.Envelope != nil {
			id = m.VM.Envelope.Systems[m.VM.System].ID
		}
		if id == "" {
			id = m.Stem
		}
		names = append(names, id)
	}
	names = distinct(names)
	for i, m := range p.Members {
		m.systemID = names[i]
	}
	p.systemID = p.title
	for n := 2; slices.ContainsFunc(names, func(s string) bool { return strings.EqualFold(s, p.systemID) }); n++ {
		p.systemID = fmt.Sprintf("%s-%d", p.title, n)
	}
}

// order says when the members are started.
func (p *Plan) order() error {
	item := func(m *Plan, order int) { p.startup = append(p.startup, ovf.StartupItem{ID: m.systemID, Order: order}) }
	if p.Options.Start == nil {
		for i, m := range p.Members {
			item(m, i+1)
		}
		return nil
	}
	started := map[*Plan]bool{}
	for i, group := range p.Options.Start {
		for _, name := range group {
			var found []*Plan
			var have []string
			for _, m := range p.Members {
				if m.Machine.Name == name || m.systemID == name {
					found = append(found, m)
				}
				have = append(have, quote(m.systemID))
			}
			switch {
			case len(found) == 0:
				return fmt.Errorf("%w: no machine is called %s; there are %s", ErrStart, quote(name), strings.Join(have, ", "))
			case len(found) > 1:
				found = slices.DeleteFunc(found, func(m *Plan) bool { return m.systemID != name })
			}
			if started[found[0]] {
				return fmt.Errorf("%w: %s is named twice", ErrStart, quote(name))
			}
			started[found[0]] = true
			item(found[0], i+1)
		}
	}
	for _, m := range p.Members {
		if !started[m] {
			item(m, 0)
		}
	}
	return nil
}

// collectionFiles has those files copied that collections name.
func (p *Plan) collectionFiles(e *ovf.Envelope) {
	for i := range e.Collections {
		for j := range e.Collections[i].Products {
			for _, icon := range e.Collections[i].Products[j].Icons {
				p.sectionFile(e, "icon", icon.FileRef)
			}
		}
	}
}

// merged lists what of an envelope has no place beside others: what its collections say, and of options and texts those
// of all envelopes but the first that has them.
func (p *Plan) merged(g *Plan, e *ovf.Envelope) {
	for i := range e.Collections {
		p.collectionLost(&e.Collections[i])
	}
	for _, u := range e.Unknown {
		p.lose("section "+u.Name, "left out")
	}
	rest := ovf.Envelope{Options: e.Options, Bundles: e.Bundles}
	if g.owner(hasOptions) == e {
		rest.Options = nil
	}
	if g.owner(hasTexts) == e {
		rest.Bundles = nil
	}
	p.envelopeLost(&rest)
}

func hasOptions(e *ovf.Envelope) bool { return len(e.Options) > 0 }
func hasTexts(e *ovf.Envelope) bool   { return len(e.Bundles) > 0 }

// owner returns the first envelope of the sources that has something, or nil.
func (p *Plan) owner(has func(*ovf.Envelope) bool) *ovf.Envelope {
	for _, m := range p.Members {
		if e := m.VM.Envelope; e != nil && has(e) {
			return e
		}
	}
	return nil
}

// collect makes the envelope of all members.
func (p *Plan) collect(files []ovf.File, disks []ovf.VirtualDisk) *ovf.Envelope {
	if p.whole {
		m := p.Members[0]
		e := *m.VM.Envelope
		e.Files, e.Disks = files, disks
		e.Networks, e.Bundles = m.sectionNetworks(e.Networks), m.bundles(files)
		e.Collections, e.Systems = slices.Clone(e.Collections), nil
		for i := range e.Collections {
			e.Collections[i].Products = m.products(e.Collections[i].Products, files)
		}
		for _, m := range p.Members {
			e.Systems = append(e.Systems, m.system(files))
		}
		return &e
	}
	e := &ovf.Envelope{Files: files, Disks: disks}
	e.Collections = []ovf.Collection{{Content: ovf.Content{ID: p.systemID, Name: ovf.Msg{Text: p.title}}, Startup: p.startup}}
	options, texts := p.owner(hasOptions), p.owner(hasTexts)
	if options != nil {
		e.Options = slices.Clone(options.Options)
		if options != texts {
			for i := range e.Options {
				e.Options[i].Label.ID, e.Options[i].Description.ID = "", ""
			}
		}
	}
	for i, m := range p.Members {
		src := m.VM.Envelope
		if src == nil {
			e.Systems = append(e.Systems, ovf.System{Content: ovf.Content{ID: m.systemID}, Machine: m.Machine})
			continue
		}
		v := m.system(files)
		v.ID, v.Parent, v.Unknown = m.systemID, 0, nil
		v.Products = slices.Clone(v.Products)
		for j := range v.Products {
			if v.Products[j].Properties = slices.Clone(v.Products[j].Properties); src != options {
				v.Products[j].Properties = chosen(v.Products[j].Properties, src.DefaultOption())
			}
		}
		if src != texts {
			v.EULAs = slices.Clone(v.EULAs)
			eachText(&v, func(t *ovf.Msg) { t.ID = "" })
		}
		if src == texts && p.first(i) {
			e.Bundles, e.Lang = m.bundles(files), src.Lang
		}
		e.Systems = append(e.Systems, v)
		for _, n := range m.sectionNetworks(src.Networks) {
			if src != texts {
				n.Description.ID = ""
			}
			if m.uses(n.Name) && !slices.ContainsFunc(e.Networks, func(o ovf.Network) bool { return o.Name == n.Name }) {
				e.Networks = append(e.Networks, n)
			}
		}
	}
	return e
}

// uses reports whether an adapter of the machine is attached to a network, by its name in an envelope.
func (p *Plan) uses(network string) bool {
	x := Mapping{From: network}
	return slices.ContainsFunc(p.Machine.NICs, func(n machine.NIC) bool { return x.is(&n) })
}

// chosen returns properties as they are with one deployment option.
func chosen(list []ovf.Property, option string) (out []ovf.Property) {
	for _, q := range list {
		if q.Configuration != "" && !slices.Contains(strings.Fields(q.Configuration), option) {
			continue
		}
		q.Value, q.Values, q.Configuration = q.In(option), nil, ""
		out = append(out, q)
	}
	return out
}

// eachText calls f for the texts of a system, which are its own.
func eachText(v *ovf.System, f func(*ovf.Msg)) {
	f(&v.Name)
	for i := range v.EULAs {
		f(&v.EULAs[i])
	}
	for i := range v.Products {
		p := &v.Products[i]
		f(&p.Name)
		f(&p.Vendor)
		for j := range p.Properties {
			q := &p.Properties[j]
			f(&q.Label)
			f(&q.Description)
			f(&q.Category)
		}
	}
}
