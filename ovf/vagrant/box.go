package vagrant

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path"
	"slices"
	"strconv"
	"strings"

	"tarvm/formats"
	"tarvm/formats/machine"
)

// maxText is what a metadata.json, info.json or Vagrantfile may have, in bytes.
const maxText = 1 << 20

// maxNested bounds how deep a JSON text is.
const maxNested = 100

// A Box is what a box says of its machine.
type Box struct {
	// Provider is what the box is for, in Vagrant's words: virtualbox, libvirt, vmware_desktop, hyperv, parallels, qemu,
	// utm or any other. Family is that with older names replaced: vmware_fusion, vmware_workstation and vmware_ovf are
	// vmware_desktop; kvm is libvirt.
	Provider, Family string
	// Architecture is Vagrant's word: amd64, arm64, i386; empty: not said.
	Architecture string
	// Metadata is metadata.json, Info is info.json, as they stand; nil: there is none.
	Metadata, Info json.RawMessage
	// Config is the file that says what the machine is: an OVF, a VMX, Hyper-V's XML (or, if the box has none, its .vmcx).
	// Empty: none, and Machine tells what the rest of the box says.
	Config string
	// Disks are the disks, in the order of the box. A disk of several files is the one that the others belong to, as far
	// as names tell.
	Disks []Disk
	// Others are files with the state of firmware and the like: .nvram, .vmsd, .mf.
	Others []string
	// Settings are the assignments of the Vagrantfile.
	Settings []Setting
	// Problems are what is odd: a disk that is named and is not there.
	Problems []formats.Problem
}

// A Disk is a disk in a box, or one that is written.
type Disk struct {
	// Path is its file, with slashes, from the top of the box.
	Path string
	// Format is qemu's name of the image's format, as the box says or the name tells; empty: not said.
	Format string
	// VirtualSize is the guest's disk in bytes. Boxes hold whole GiB (of 2^30), rounded up; 0: not said.
	VirtualSize int64
}

// metadata is metadata.json, as far as it is known.
type metadata struct {
	Provider     string          `json:"provider"`
	Architecture string          `json:"architecture"`
	Format       string          `json:"format"`
	VirtualSize  json.RawMessage `json:"virtual_size"`
	Disks        []struct {
		Path        string          `json:"path"`
		Format      string          `json:"format"`
		VirtualSize json.RawMessage `json:"virtual_size"`
	} `json:"disks"`
}

// Open reads what a box is from its files. It is formats.ErrNotFormat when there is neither a metadata.json nor an OVF,
// and wraps machine.ErrSyntax or machine.ErrUnsupported when one of the texts cannot be read.
func Open(f fs.FS) (*Box, error) {
	b := &Box{}
	var meta metadata
	raw, err := small(f, "metadata.json")
	if err != nil {
		return nil, err
	}
	if raw != nil {
		if err := parse("metadata.json", raw, &meta); err != nil {
			return nil, err
		}
		if meta.Provider == "" {
			return nil, syntax("metadata.json", "no provider", machine.ErrSyntax)
		}
		b.Metadata, b.Provider, b.Architecture = raw, meta.Provider, meta.Architecture
	}
	files, err := list(f)
	if err != nil {
		return nil, err
	}
	if raw == nil {
		if len(with(files, ".ovf")) == 0 {
			return nil, fail("box", -1, formats.ErrNotFormat, "neither metadata.json nor an OVF")
		}
		b.Provider = "virtualbox" // as of Vagrant 1.0
	}
	b.Family = family(b.Provider)
	if b.Info, err = small(f, "info.json"); err != nil {
		return nil, err
	}
	if b.Info != nil {
		if err := parse("info.json", b.Info, &json.RawMessage{}); err != nil {
			return nil, err
		}
	}
	ruby, err := small(f, "Vagrantfile")
	if err != nil {
		return nil, err
	}
	b.Settings = settings(ruby)
	if err := b.sort(files, &meta); err != nil {
		return nil, err
	}
	return b, nil
}

func syntax(what, got string, err error) error {
	return &machine.SyntaxError{Form: form, What: what, Got: got, Err: err}
}

func family(provider string) string {
	switch provider {
	case "vmware_fusion", "vmware_workstation", "vmware_ovf", "vmware":
		return "vmware_desktop"
	case "kvm":
		return "libvirt"
	}
	return provider
}

// small reads a text; nil without error: it is not there.
func small(f fs.FS, name string) ([]byte, error) {
	o, err := f.Open(name)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	defer o.Close()
	b, err := io.ReadAll(io.LimitReader(o, maxText+1))
	if err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	if len(b) > maxText {
		return nil, syntax(name, fmt.Sprintf("more than %d bytes", maxText), machine.ErrUnsupported)
	}
	return bytes.TrimPrefix(b, []byte("\xef\xbb\xbf")), nil
}

// parse decodes one JSON value, without anything behind it and without keys that are there twice at the top.
func parse(name string, b []byte, to any) error {
	depth := 0
	for d := json.NewDecoder(bytes.NewReader(b)); ; {
		t, err := d.Token()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return syntax(name, err.Error(), machine.ErrSyntax)
		}
		switch t {
		case json.Delim('{'), json.Delim('['):
			depth++
		case json.Delim('}'), json.Delim(']'):
			depth--
		}
		if depth > maxNested {
			return syntax(name, fmt.Sprintf("more than %d levels", maxNested), machine.ErrSyntax)
		}
	}
	if err := json.Unmarshal(b, to); err != nil {
		return syntax(name, err.Error(), machine.ErrSyntax)
	}
	return nil
}

// list returns the plain files of a box.
func list(f fs.FS) ([]string, error) {
	var files []string
	err := fs.WalkDir(f, ".", func(name string, e fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if e.Type().IsRegular() {
			files = append(files, name)
		}
		if len(files) > maxMembers {
			return fail("box", -1, formats.ErrUnsupported, "more than %d files", maxMembers)
		}
		return nil
	})
	return files, err
}

func with(files []string, exts ...string) []string {
	var out []string
	for _, f := range files {
		if slices.Contains(exts, strings.ToLower(path.Ext(f))) {
			out = append(out, f)
		}
	}
	return out
}

// images are the extensions of disks, and what they say.
var images = map[string]string{
	".vmdk": "vmdk", ".vdi": "vdi", ".vhd": "vpc", ".vhdx": "vhdx", ".qcow2": "qcow2", ".img": "", ".raw": "raw", ".qcow": "qcow", ".hdd": "parallels",
}

func (b *Box) sort(files []string, meta *metadata) error {
	var err error
	switch b.Family {
	case "virtualbox":
		b.Config = first(with(files, ".ovf"))
	case "vmware_desktop":
		if b.Config = first(with(files, ".vmx")); b.Config == "" {
			b.Config = first(with(files, ".ovf"))
		}
	case "hyperv":
		b.Config = first(with(under(files, "Virtual Machines"), ".xml"))
		if b.Config == "" {
			b.Config = first(with(under(files, "Virtual Machines"), ".vmcx"))
		}
	case "utm":
		b.Config = first(slices.DeleteFunc(with(files, ".plist"), func(f string) bool { return path.Base(f) != "config.plist" }))
	case "libvirt", "qemu":
		err = b.libvirt(files, meta)
	}
	if err != nil {
		return err
	}
	if len(b.Disks) == 0 {
		b.Disks = disks(files)
	}
	if len(b.Disks) == 0 {
		b.problem("box", "no disk")
	}
	for _, f := range files {
		switch strings.ToLower(path.Ext(f)) {
		case ".nvram", ".vmsd", ".vmxf", ".mf", ".cert", ".fd", ".vmcx", ".vmrs", ".vmgs":
			if f != b.Config {
				b.Others = append(b.Others, f)
			}
		}
	}
	return nil
}

func (b *Box) problem(structure, format string, a ...any) {
	b.Problems = append(b.Problems, formats.Problem{Severity: formats.Risk, Structure: structure, Offset: -1, Text: fmt.Sprintf(format, a...)})
}

func first(files []string) string {
	if len(files) == 0 {
		return ""
	}
	// The one that is nearest the top, and then by name.
	slices.SortStableFunc(files, func(a, b string) int { return strings.Count(a, "/") - strings.Count(b, "/") })
	return files[0]
}

func under(files []string, dir string) []string {
	var out []string
	for _, f := range files {
		if strings.EqualFold(path.Base(path.Dir(f)), dir) {
			out = append(out, f)
		}
	}
	return out
}

// libvirt reads the two forms of metadata: box.img, or a list of disks.
func (b *Box) libvirt(files []string, meta *metadata) error {
	for i, d := range meta.Disks {
		if !fs.ValidPath(d.Path) || d.Path == "." || strings.Contains(d.Path, `\`) {
			return syntax("metadata.json", fmt.Sprintf("disk %d: path %q", i, clip(d.Path)), machine.ErrSyntax)
		}
		size, err := gib(d.VirtualSize)
		if err != nil {
			return err
		}
		if !slices.Contains(files, d.Path) {
			b.problem("disk "+clip(d.Path), "it is not there")
		}
		b.Disks = append(b.Disks, Disk{d.Path, d.Format, size})
	}
	if len(meta.Disks) > 0 {
		return nil
	}
	size, err := gib(meta.VirtualSize)
	if err != nil {
		return err
	}
	switch {
	case slices.Contains(files, "box.img"):
		b.Disks = []Disk{{"box.img", meta.Format, size}}
	case b.Provider != "qemu":
		b.problem("disk box.img", "it is not there")
	}
	return nil
}

// gib reads a virtual_size, a number of GiB, also as text.
func gib(raw json.RawMessage) (int64, error) {
	s := strings.Trim(string(raw), `"`)
	if s == "" || s == "null" {
		return 0, nil
	}
	v, err := strconv.ParseFloat(s, 64)
	if err != nil || !(v >= 0 && v <= 64<<10) {
		return 0, syntax("metadata.json", fmt.Sprintf("virtual_size %s is no number of GiB up to 65536", clip(s)), machine.ErrSyntax)
	}
	return int64(v * (1 << 30)), nil
}

// disks are the files that end like disks, but for extents of a VMDK whose descriptor is there.
func disks(files []string) []Disk {
	var out []Disk
	for _, f := range files {
		ext := strings.ToLower(path.Ext(f))
		format, ok := images[ext]
		if !ok || ext == ".vmdk" && extent(f, files) {
			continue
		}
		out = append(out, Disk{Path: f, Format: format})
	}
	return out
}

// extent reports whether f is a-s001.vmdk, a-f001.vmdk or a-flat.vmdk of a.vmdk.
func extent(f string, files []string) bool {
	stem := f[:len(f)-len(path.Ext(f))]
	i := strings.LastIndexByte(stem, '-')
	if i < 0 || !slices.Contains(files, stem[:i]+path.Ext(f)) {
		return false
	}
	tail := stem[i+1:]
	digits := strings.TrimLeft(tail, "sf")
	return tail == "flat" || len(tail) == 4 && len(digits) == 3 && strings.Trim(digits, "0123456789") == ""
}

// Machine is what a box says beside its Config, for boxes that have none (of libvirt, qemu) and for those who cannot read
// it: the disks, and what the Vagrantfile sets. Disks are on the bus that the Vagrantfile names, or virtio, which
// vagrant-libvirt takes by itself; so is the adapter. Guests of Hyper-V have no drivers for that: their disks are on SATA.
func (b *Box) Machine() *machine.Machine {
	m := &machine.Machine{Platform: map[string]string{"libvirt": "kvm", "qemu": "qemu", "hyperv": "hyperv"}[b.Family]}
	m.Arch = map[string]string{"amd64": "x86_64", "arm64": "aarch64", "i386": "i686"}[b.Architecture]
	bus, model := machine.Virtio, ""
	switch b.Family {
	case "libvirt":
		model = "virtio"
	case "hyperv":
		bus = machine.SATA
	}
	for _, s := range b.Settings {
		if s.Provider != "" && family(s.Provider) != b.Family {
			continue
		}
		switch s.Name {
		case "memory":
			if n, ok := s.number(1 << 24); ok {
				m.Memory.Bytes = n << 20
			}
		case "cpus":
			if n, ok := s.number(1 << 16); ok {
				m.CPU.Count = int(n)
			}
		case "cpu_mode":
			if s.Value == "host-passthrough" || s.Value == "host-model" {
				m.CPU.Model = s.Value
			}
		case "nested":
			m.CPU.Nested = machine.Is(s.Value == "true")
		case "machine_type":
			m.Version = s.Value
			if strings.Contains(s.Value, "q35") {
				m.Chipset = "q35"
			}
		case "disk_bus":
			switch v := machine.Bus(s.Value); v {
			case machine.Virtio, machine.SCSI, machine.SATA, machine.IDE, machine.USB:
				bus = v
			}
		case "nic_model_type":
			model = s.Value
		case "video_type":
			m.Videos = []machine.Video{{Model: s.Value}}
		case "loader":
			m.Firmware.Type, m.Firmware.Loader = "efi", s.Value
		case "nvram":
			m.Firmware.Vars.Path = s.Value
		case "nvram_template":
			m.Firmware.Template = s.Value
		}
	}
	for i, d := range b.Disks {
		m.Drives = append(m.Drives, machine.Drive{
			Kind: machine.Disk, At: m.Free(bus, 0, i),
			Media: machine.Media{Path: d.Path, Format: d.Format, Capacity: d.VirtualSize},
		})
	}
	m.NICs = []machine.NIC{{Model: model, Kind: machine.NAT, MAC: b.BaseMAC()}}
	if err := m.Complete(); err != nil {
		return nil // a bug: addresses are free ones
	}
	return m
}

// BaseMAC is config.vm.base_mac, which a box of VirtualBox must say, in the form of machine.NIC.MAC; empty: not said.
func (b *Box) BaseMAC() string {
	for _, s := range slices.Backward(b.Settings) {
		if s.Name != "base_mac" {
			continue
		}
		hex := strings.ToLower(strings.NewReplacer(":", "", "-", "").Replace(s.Value))
		if len(hex) != 12 || strings.Trim(hex, "0123456789abcdef") != "" {
			return ""
		}
		parts := make([]string, 6)
		for i := range parts {
			parts[i] = hex[2*i:][:2]
		}
		return strings.Join(parts, ":")
	}
	return ""
}
