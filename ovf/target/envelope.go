package target

import (
	"fmt"
	"strings"

	"tarvm/ovf"
)

// openEnvelope takes a machine out of an OVF envelope.
func (vm *VM) openEnvelope(b []byte, o *OpenOptions) error {
	e, err := ovf.Decode(b)
	if err != nil {
		return err
	}
	i, err := system(e, o.System)
	if err != nil {
		return err
	}
	m, problems, err := e.Machine(i, o.Option)
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
	if n := len(e.Systems); n > 1 {
		vm.Notes = append(vm.Notes, fmt.Sprintf("one of the package's %d virtual systems", n))
	}
	vm.Machine, vm.Envelope, vm.System = m, e, i
	return nil
}

// system finds a system by its id or name.
func system(e *ovf.Envelope, want string) (int, error) {
	var names []string
	for i := range e.Systems {
		s := &e.Systems[i]
		if want != "" && (s.ID == want || s.Name.Text == want) {
			return i, nil
		}
		names = append(names, quote(s.ID))
	}
	switch {
	case len(names) == 0:
		return 0, fmt.Errorf("an envelope without a virtual system: %w", ErrNoMachine)
	case want != "":
		return 0, fmt.Errorf("no virtual system %s, but %s: %w", quote(want), strings.Join(names, ", "), ErrNoMachine)
	case len(names) > 1:
		return 0, fmt.Errorf("%w: %s", ErrSeveral, strings.Join(names, ", "))
	}
	return 0, nil
}

// Sections returns an envelope for the machine of a plan: what an OVF package said besides the hardware, or an empty one.
// Files and disks are those given.
func (p *Plan) Sections(files []ovf.File, disks []ovf.VirtualDisk) *ovf.Envelope {
	vm := p.VM
	if vm.Envelope == nil {
		return ovf.New(p.Machine, files, disks)
	}
	e := *vm.Envelope
	e.Files, e.Disks, e.Collections = files, disks, nil
	s := e.Systems[vm.System]
	s.Machine = p.Machine
	e.Systems = []ovf.System{s}
	return &e
}
