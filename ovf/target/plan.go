package target

import (
	"errors"
	"fmt"
	"path"
	"slices"
	"strings"

	"tarvm/formats"
	"tarvm/formats/layers"
	"tarvm/formats/machine"
	"tarvm/formats/raw"
	"tarvm/ovf"
)

// A Target is a form that a hypervisor takes. Implementations have no state and may be used from several goroutines.
type Target interface {
	// Name is what users call it: ova, ovf, vmx, vbox, libvirt, xl, xva, vagrant, qemu.
	Name() string
	// Description is a line for people.
	Description() string
	// Profiles are the values of Options.Profile, the default first; nil: there is no choice.
	Profiles() []string
	// Single reports whether it is one file, which may be a pipe, rather than a directory.
	Single() bool
	// Plan decides what is written. Disks are opened, and not read but for their maps.
	Plan(vm *VM, o Options) (*Plan, error)
}

// A Collector is a Target whose output can hold several machines.
type Collector interface {
	Target
	// PlanAll decides what is written of several machines. Options.Name and Stem are those of the output, and the machines
	// keep their names. Each of them is one of the Plan's Members.
	PlanAll(vms []*VM, o Options) (*Plan, error)
}

// Options say how a VM is written. The zero value works for every target.
type Options struct {
	// Name of the machine in the output; empty: its own.
	Name string
	// Stem is what the names of files begin with; empty: the machine's name.
	Stem string
	// Profile is for whom the target is written: one of its Profiles.
	Profile string
	// Version of the virtual hardware in the target's words: vmx-13.
	Version string
	// OVF is the version of the envelope: 1.1 (also if empty) or 2.0.
	OVF string
	// Encode says how disks are encoded, where the target has a choice: Subformat, Compression, Level, Workers.
	Encode formats.EncodeOptions
	// Format of disks, one of those that the target takes; empty: the target's default.
	Format string
	// Digest is that of the package's manifest; empty: SHA256.
	Digest ovf.Algorithm
	// NewIdentity renews UUIDs and MAC addresses: they are made of Random, 16 bytes. nil: they are kept.
	NewIdentity []byte
	// Networks says what the networks of the source become.
	Networks []Mapping
	// Base is an earlier state of the machine, or another one, whose disks are written too; of the machine's own disks only
	// what differs from these is written. nil: they are written whole. Not every target can do that.
	Base *VM
	// Start is the order in which a Collector says that the machines are started, by their names: those of one list at the
	// same time, those that are in none at any time. nil: one after the other.
	Start [][]string
	// Member is which machine of an output of several it is, from 1, so that ids made for it are its own; 0: the only one.
	Member int
	// Compress has the disks of a package compressed with gzip (ovf:compression), Chunk cuts them into files of so many
	// bytes (ovf:chunkSize). Both are refused by most importers.
	Compress bool
	Chunk    int64
	// Signer signs the manifest of a package; nil: it is not signed.
	Signer *ovf.Signer
	// Dir is where a directory will be, absolute, for forms that demand absolute paths.
	Dir string
	// Progress is told how much was done; nil: nobody.
	Progress func(Progress)
}

// Progress says how far a run has come. Bytes are those that the guest sees.
type Progress struct {
	Phase string // "measure" (sizes and digests, for a pipe) or "write"
	File  string // in the output
	Done  int64
	Total int64
}

// A Plan is what a Target will write.
type Plan struct {
	Target  string `json:"target"`
	Profile string `json:"profile,omitempty"`
	// Machine is what the target is written of: with the names of the files that it will have. nil: several, see Members.
	Machine *machine.Machine `json:"machine,omitempty"`
	Disks   []Disk           `json:"disks,omitempty"`
	Copies  []Copy           `json:"copies,omitempty"`
	// Texts are the names of files that are made.
	Texts []string `json:"texts,omitempty"`
	// Losses are what the target cannot express.
	Losses []machine.Loss `json:"losses,omitempty"`
	// Notes are remarks for people.
	Notes []string `json:"notes,omitempty"`
	// Members are the plans of the machines in an output of several. Their disks, files and losses are theirs; Losses and
	// Notes have those of all, with the machine's name. They are not written by themselves.
	Members []*Plan `json:"members,omitempty"`

	// Stem is what the names of files begin with.
	Stem    string  `json:"-"`
	VM      *VM     `json:"-"`
	Options Options `json:"-"`

	write    Writer
	group    *Plan             // of which it is a member, or nil
	systemID string            // in an envelope of several; that of a group is its collection's
	title    string            // a group's: the collection's name
	whole    bool              // a group's: its members are all machines of one envelope, which is kept
	startup  []ovf.StartupItem // a group's
	refs     map[string]string // names in the output of files of the source's envelope, by their ids there
}

// A Disk is one that will be encoded.
type Disk struct {
	Name      string `json:"name"`   // of the file in the output
	Drive     int    `json:"drive"`  // index in Machine.Drives, the first that has it; -1: none, it is a Base
	Source    string `json:"source"` // path in the VM's tree
	Format    string `json:"format"`
	Subformat string `json:"subformat,omitempty"`
	Capacity  int64  `json:"capacity"` // bytes
	Data      int64  `json:"data"`     // of these not known to be zero, by the maps
	// Base is the Name of the disk in the output that it is a difference to; empty: it is whole.
	Base string `json:"base,omitempty"`

	Disk    *layers.Disk          `json:"-"`
	Encoder formats.Encoder       `json:"-"` // nil: the target has its own
	Options formats.EncodeOptions `json:"-"`
}

// A Copy is a file that is written as it is.
type Copy struct {
	Name   string         `json:"name"`
	Source string         `json:"source"`
	Size   int64          `json:"size"`
	File   formats.Source `json:"-"`
}

// A Shape is what targets have in common: how NewPlan makes the beginning of a Plan.
type Shape struct {
	Target  string
	Profile string
	// Formats are those that disks may have, the default first, and Subformats what is taken of each if Options does not
	// say. A nil list: the target writes disks itself.
	Formats    []string
	Subformats map[string]string
	// Suffixes of files by format. Without one it is the format's name.
	Suffixes map[string]string
	// Variables are the kinds of EFI variable stores (see VariableStore) that are of use.
	Variables []string
	// Optical is whether images of optical media and diskettes come along.
	Optical bool
	// Envelope is whether the target has an envelope, in which what a package says besides the hardware comes along, and
	// networks that have no kinds but names.
	Envelope bool
	// Deltas is whether disks may be differences to others.
	Deltas bool
}

// Kinds of stores of EFI variables, by their content.
const (
	StoreVMware     = "vmware"     // .nvram of VMware's products: MRVN
	StoreVolume     = "edk2"       // a firmware volume, as OVMF has it
	StoreVirtualBox = "virtualbox" // the same with VirtualBox's layout, or a tar with that and a TPM's state
	StoreUnknown    = "unknown"
)

// storeUser is whose a store is.
var storeUser = map[string]string{
	StoreVMware: "VMware's products", StoreVolume: "OVMF", StoreVirtualBox: "VirtualBox", StoreUnknown: "its hypervisor",
}

// VariableStore tells the kind of a store from its first bytes.
func VariableStore(head []byte) string {
	switch {
	case len(head) >= 4 && string(head[:4]) == "MRVN":
		return StoreVMware
	case len(head) >= 44 && string(head[40:44]) == "_FVH":
		return StoreVolume
	case len(head) >= 262 && string(head[257:262]) == "ustar":
		return StoreVirtualBox
	}
	return StoreUnknown
}

// NewPlan begins a plan: it opens the disks, gives the files of the output their names, renews the identity if that is
// asked for, and notes what does not come along. The Machine is a copy that names the files of the output.
func NewPlan(vm *VM, o Options, s Shape) (*Plan, error) {
	p := &Plan{Target: s.Target, Profile: s.Profile, VM: vm, Options: o, Machine: vm.Machine.Clone(), Notes: slices.Clone(vm.Notes)}
	m := p.Machine
	if o.Name != "" {
		m.Name = o.Name
	}
	if m.Name == "" {
		m.Name = stemOf(vm.Config)
	}
	if o.NewIdentity != nil {
		renew(m, p.seed())
	}
	if err := p.networks(&s); err != nil {
		return nil, err
	}
	p.Stem = o.Stem
	if p.Stem == "" {
		p.Stem = FileName(m.Name)
	}
	stem := p.Stem
	enc, err := p.encoder(&s)
	if err != nil {
		return nil, err
	}
	for i := range m.Drives {
		d := &m.Drives[i]
		switch {
		case d.Kind == machine.LUN:
			p.lose(driveName(d), "is the host's device, left out")
			d.Media = machine.Media{}
		case d.Kind == machine.Disk:
			if err := p.disk(i, stem, enc, &s); err != nil {
				return nil, err
			}
		case d.Media.Path != "":
			p.medium(i, stem, &s)
		case d.Media.Host != "", d.Media.URL != "":
			p.lose(driveName(d), "the host's device %s stays with the host: the drive is empty", quote(d.Media.Host+d.Media.URL))
			d.Media = machine.Media{}
		}
	}
	m.Drives = slices.DeleteFunc(m.Drives, func(d machine.Drive) bool { return d.Kind == machine.LUN })
	for i := range p.Disks {
		p.Disks[i].Drive = slices.IndexFunc(m.Drives, func(d machine.Drive) bool { return d.Media.Path == p.Disks[i].Name })
	}
	if err := p.bases(&s); err != nil {
		return nil, err
	}
	p.firmware(stem, &s)
	p.states()
	p.sections(&s)
	return p, nil
}

// states leaves out what the output has no more: earlier states, and the memory of a machine that is suspended.
func (p *Plan) states() {
	snapshots := 0
	p.Machine.Others = slices.DeleteFunc(p.Machine.Others, func(o machine.Other) bool {
		switch o.Kind {
		case "snapshot":
			snapshots++
		case "saved-state":
			p.lose("memory", "the machine is suspended: what it holds in memory does not come along, and its disks are as after a power failure")
		default:
			return false
		}
		return true
	})
	if snapshots > 0 {
		p.lose("snapshots", "the present state alone comes along; earlier ones (%d) do not", snapshots)
	}
}

// FileName makes a name of a file that every system and every importer takes of a machine's name: ASCII letters, digits,
// dots, dashes and underlines, 60 at most.
func FileName(name string) string {
	var b strings.Builder
	for _, r := range name {
		switch {
		case r >= 'a' && r <= 'z', r >= 'A' && r <= 'Z', r >= '0' && r <= '9', r == '.', r == '_':
			b.WriteRune(r)
		default:
			if s := b.String(); s != "" && !strings.HasSuffix(s, "-") {
				b.WriteByte('-')
			}
		}
		if b.Len() == 60 {
			break
		}
	}
	if s := strings.Trim(b.String(), ".-"); s != "" {
		return s
	}
	return "vm"
}

func stemOf(config string) string {
	base := path.Base(config)
	return strings.TrimSuffix(base, path.Ext(base))
}

func driveName(d *machine.Drive) string { return "drive " + d.At.String() }

func (p *Plan) lose(part, format string, args ...any) {
	p.Losses = append(p.Losses, machine.Loss{Part: part, What: fmt.Sprintf(format, args...)})
}

// encoder is what writes the disks.
func (p *Plan) encoder(s *Shape) (formats.Encoder, error) {
	if s.Formats == nil {
		return nil, nil
	}
	want := p.Options.Format
	if want == "" {
		want = s.Formats[0]
	}
	if !slices.Contains(s.Formats, want) {
		return nil, fmt.Errorf("%s takes no %s disks, but %s: %w", s.Target, want, strings.Join(s.Formats, ", "), machine.ErrUnsupported)
	}
	for _, f := range append(p.VM.Formats[:len(p.VM.Formats):len(p.VM.Formats)], raw.Format{}) {
		if e, ok := f.(formats.Encoder); ok && f.Name() == want {
			return e, nil
		}
	}
	return nil, fmt.Errorf("disks of format %s cannot be written: %w", want, machine.ErrUnsupported)
}

// disk plans drive i.
func (p *Plan) disk(i int, stem string, enc formats.Encoder, s *Shape) error {
	d := &p.Machine.Drives[i]
	disk, err := p.VM.Disk(d)
	if err != nil {
		return err
	}
	if c := d.Media.Capacity; c != 0 && c != disk.Size() {
		p.Notes = append(p.Notes, fmt.Sprintf("%s: the configuration says %d bytes, the image has %d", driveName(d), c, disk.Size()))
	}
	// One image in two drives is one file, where the target has files.
	for j := range p.Machine.Drives[:i] {
		other := &p.Machine.Drives[j]
		if n := slices.IndexFunc(p.Disks, func(x Disk) bool { return x.Name == other.Media.Path }); enc != nil && n >= 0 && sameImage(p.Disks[n].Disk, disk) {
			d.Media = other.Media
			return nil
		}
	}
	n := len(p.Disks)
	item := Disk{Drive: i, Source: disk.Layers[0].Path, Capacity: disk.Size(), Disk: disk, Encoder: enc, Format: "raw"}
	if item.Data, err = stored(disk); err != nil {
		return fmt.Errorf("%s: %s: %w", driveName(d), item.Source, err)
	}
	id := p.id(p.VM, "disk", fmt.Sprint(n), disk.Layers[0].Image.ID, fmt.Sprint(disk.Size()), string(p.Options.NewIdentity))
	if enc != nil {
		item.Format = enc.Name()
		o := p.Options.Encode
		o.ID, o.Unix = id, p.VM.Unix
		if o.Subformat == "" {
			o.Subformat = s.Subformats[item.Format]
		}
		if o.Subformat != "" && !slices.Contains(enc.Subformats(), o.Subformat) {
			return fmt.Errorf("%s has no subformat %q, but %s: %w", item.Format, o.Subformat, strings.Join(enc.Subformats(), ", "), machine.ErrUnsupported)
		}
		item.Subformat = o.Subformat
		o.Adapter = adapter(p.Machine, d)
		item.Options = o
	}
	suffix := item.Format
	if t, ok := s.Suffixes[item.Format]; ok {
		suffix = t
	}
	item.Name = fmt.Sprintf("%s-disk%d.%s", stem, n+1, suffix)
	d.Media = machine.Media{Path: item.Name, Format: item.Format, Capacity: item.Capacity, UUID: UUID(id)}
	p.Disks = append(p.Disks, item)
	return nil
}

// stored returns how many bytes of a disk are not known to be zero.
func stored(disk *layers.Disk) (n int64, err error) {
	for e, err := range disk.Extents(0, disk.Size()) {
		if err != nil {
			return 0, err
		}
		if e.Kind == formats.Data || e.Kind == formats.Compressed {
			n += e.Length
		}
	}
	return n, nil
}

// sameImage reports whether two disks are one.
func sameImage(a, b *layers.Disk) bool {
	return len(a.Layers) == len(b.Layers) && a.Layers[0].Path != "" && a.Layers[0].Path == b.Layers[0].Path
}

// id derives an id from what a VM is and what it is for, and which machine of the output it is.
func (p *Plan) id(vm *VM, purpose string, more ...string) [16]byte {
	if n := p.Options.Member; n > 0 {
		more = append(more, fmt.Sprint("member ", n))
	}
	return vm.id(purpose, more...)
}

// seed is what new identities are made of.
func (p *Plan) seed() []byte {
	seed := p.Options.NewIdentity
	if n := p.Options.Member; n > 0 {
		return fmt.Appendf(slices.Clip(seed), "member %d", n)
	}
	return seed
}

// Rename gives disk i another name.
func (p *Plan) Rename(i int, name string) {
	old := p.Disks[i].Name
	p.Disks[i].Name = name
	for j := range p.Disks {
		if p.Disks[j].Base == old {
			p.Disks[j].Base = name
		}
	}
	for j := range p.Machine.Drives {
		if m := &p.Machine.Drives[j].Media; m.Path == old {
			m.Path = name
		}
	}
}

// LeaveOut takes out the drives that the target has no place for: those whose files has does not know. Their files go too,
// and the bases of these. It reports whether there were any.
func (p *Plan) LeaveOut(has func(name string) bool) bool {
	gone := map[string]bool{}
	for i := range p.Machine.Drives {
		if name := p.Machine.Drives[i].Media.Path; name != "" && !has(name) {
			gone[name] = true
		}
	}
	for i := range p.Disks {
		if d := &p.Disks[i]; gone[d.Name] && d.Base != "" {
			gone[d.Base] = true
		}
	}
	p.Disks = slices.DeleteFunc(p.Disks, func(d Disk) bool { return gone[d.Name] })
	p.Copies = slices.DeleteFunc(p.Copies, func(c Copy) bool { return gone[c.Name] })
	p.Machine.Drives = slices.DeleteFunc(p.Machine.Drives, func(d machine.Drive) bool { return gone[d.Media.Path] })
	for i := range p.Disks {
		if d := &p.Disks[i]; d.Drive >= 0 {
			d.Drive = slices.IndexFunc(p.Machine.Drives, func(x machine.Drive) bool { return x.Media.Path == d.Name })
		}
	}
	return len(gone) > 0
}

// adapter is the controller in VMDK's words.
func adapter(m *machine.Machine, d *machine.Drive) string {
	switch d.At.Bus {
	case machine.IDE, machine.SATA:
		return "ide"
	case machine.SCSI:
		if c := m.Controller(d.At.Bus, d.At.Index); c != nil && c.Model == "buslogic" {
			return "buslogic"
		}
	}
	return "lsilogic"
}

// medium plans the medium in drive i, or empties the drive.
func (p *Plan) medium(i int, stem string, s *Shape) {
	d := &p.Machine.Drives[i]
	if !s.Optical {
		p.lose(driveName(d), "the medium %s does not come along: the drive is empty", quote(d.Media.Path))
		d.Media = machine.Media{}
		return
	}
	name, src, err := p.VM.File(d.Media)
	if err != nil {
		what := err.Error()
		if errors.Is(err, ErrMissing) {
			what = fmt.Sprintf("the medium %s is not in the machine's directory", quote(d.Media.Path))
		}
		p.lose(driveName(d), "%s: the drive is empty", what)
		d.Media = machine.Media{}
		return
	}
	suffix := "iso"
	if d.Kind == machine.Diskette {
		suffix = "img"
	}
	for _, c := range p.Copies {
		if c.Source == name {
			d.Media = machine.Media{Path: c.Name, Format: "raw", Capacity: c.Size}
			return
		}
	}
	c := Copy{Name: fmt.Sprintf("%s-%s%d.%s", stem, d.Kind, len(p.Copies)+1, suffix), Source: name, Size: src.Size(), File: src}
	d.Media = machine.Media{Path: c.Name, Format: "raw", Capacity: c.Size, UUID: UUID(p.id(p.VM, "medium", name))}
	p.Copies = append(p.Copies, c)
}

// firmware plans the store of EFI variables.
func (p *Plan) firmware(stem string, s *Shape) {
	f := &p.Machine.Firmware
	if f.Vars == (machine.Media{}) {
		return
	}
	vars := f.Vars
	f.Vars, f.Template = machine.Media{}, ""
	efi := f.Type == "efi"
	name, src, err := p.VM.File(vars)
	if err != nil {
		if efi {
			p.lose("firmware", "its variables (%v) do not come along: boot entries are made anew", err)
		}
		return
	}
	head := make([]byte, min(512, src.Size()))
	if _, err := src.ReadAt(head, 0); err != nil && int64(len(head)) != src.Size() {
		p.lose("firmware", "its variables in %s cannot be read: %v", quote(name), err)
		return
	}
	kind := VariableStore(head)
	if kind == StoreVolume && p.VM.Form == "vbox" {
		kind = StoreVirtualBox
	}
	if !slices.Contains(s.Variables, kind) {
		if efi {
			p.lose("firmware", "its variables in %s are of use to %s alone: boot entries are made anew", quote(name), storeUser[kind])
		}
		return
	}
	c := Copy{Name: stem + ".nvram", Source: name, Size: src.Size(), File: src}
	if kind == StoreVolume {
		c.Name = stem + "_VARS.fd"
	}
	f.Vars = machine.Media{Path: c.Name}
	p.Copies = append(p.Copies, c)
}
