package target

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path"
	"slices"
	"strings"

	"tarvm/formats"
	"tarvm/formats/layers"
	"tarvm/formats/machine"
	"tarvm/formats/machine/xmldoc"
	"tarvm/ovf"
)

// Errors of this package; test with errors.Is.
var (
	// ErrNoMachine: there is no configuration, and nothing else that says what the machine is.
	ErrNoMachine = errors.New("no virtual machine")
	// ErrSeveral: there are several machines, and it is not said which.
	ErrSeveral = errors.New("several virtual machines")
	// ErrMissing: a file that the machine needs is not there.
	ErrMissing = errors.New("not in the machine's directory")
)

// A VM is a machine and the tree of files that it consists of.
type VM struct {
	Machine *machine.Machine
	// Form is the Name of the Config that Machine was decoded from, or "ovf"; empty: there was no configuration.
	Form string
	// Config is the configuration's path in the tree; empty: there was none.
	Config string
	// Dir finds the machine's files.
	Dir *layers.Dir
	// Formats are what disks may be.
	Formats []formats.Format
	// Envelope is what an OVF package says besides the hardware, nil for other sources; System is which of its systems
	// the machine is.
	Envelope *ovf.Envelope
	System   int
	// Unix is the time of the machine's state, seconds since 1970.
	Unix int64
	// Seed is what ids are derived from: the configuration's bytes, or what else tells this VM from others.
	Seed []byte
	// Notes are remarks on the source for people.
	Notes []string
}

// A Candidate is a file that may be the configuration of a machine.
type Candidate struct {
	Path string `json:"path"`
	Form string `json:"form"`
}

const (
	maxDepth = 4
	maxFiles = 10_000
	headLen  = 64 << 10
)

// Form names of what is not a machine.Config.
const FormOVF = "ovf"

// Find lists the configurations in a tree, those nearest to its top first. Backups that hypervisors keep are left out.
// Files that cannot be read are passed over.
func Find(fsys fs.FS, configs []machine.Config) ([]Candidate, error) {
	var list []Candidate
	n := 0
	err := fs.WalkDir(fsys, ".", func(name string, e fs.DirEntry, err error) error {
		switch {
		case err != nil && name == ".":
			return err
		case err != nil:
			return nil
		case e.IsDir() && (strings.Count(name, "/") >= maxDepth || name == ".tarvm"):
			return fs.SkipDir
		case !e.Type().IsRegular() || backup(name):
			return nil
		}
		if n++; n > maxFiles {
			return fs.SkipAll
		}
		if form := probe(fsys, name, configs); form != "" {
			list = append(list, Candidate{name, form})
		}
		return nil
	})
	slices.SortStableFunc(list, func(a, b Candidate) int { return strings.Count(a.Path, "/") - strings.Count(b.Path, "/") })
	return list, err
}

// backup reports whether a hypervisor or an editor keeps an older state under this name.
func backup(name string) bool {
	for _, suffix := range []string{"-prev", "~", ".bak", ".orig", ".tmp"} {
		if strings.HasSuffix(name, suffix) {
			return true
		}
	}
	return strings.HasPrefix(path.Base(name), ".")
}

// probe returns the form of a file, "" if it is none.
func probe(fsys fs.FS, name string, configs []machine.Config) string {
	f, err := fsys.Open(name)
	if err != nil {
		return ""
	}
	defer f.Close()
	st, err := f.Stat()
	if err != nil || st.Size() > ovf.MaxEnvelope {
		return ""
	}
	head := make([]byte, min(st.Size(), headLen))
	if _, err := io.ReadFull(f, head); err != nil {
		return ""
	}
	return Form(name, head, configs)
}

// Form tells the form of a configuration from its name and the beginning of its content: the Name of one of configs, or
// FormOVF; empty if it is none of them.
func Form(name string, head []byte, configs []machine.Config) string {
	if root, _ := xmldoc.Root(head); root == "Envelope" {
		return FormOVF
	}
	for _, c := range configs {
		if c.Probe(name, head) {
			return c.Name()
		}
	}
	return ""
}

// An OpenOptions says how a VM is opened.
type OpenOptions struct {
	Configs []machine.Config
	Formats []formats.Format
	// System is which machine of an OVF package with several is taken, by its id or name; empty: the only one.
	System string
	// Option is the deployment option of an OVF package; empty: its default.
	Option string
	// Unix is the time of the machine's state.
	Unix int64
}

// Open reads the configuration at name, a path in dir. Errors begin with that name.
func Open(dir *layers.Dir, name string, o OpenOptions) (*VM, error) {
	list, err := OpenAll(dir, name, o)
	if err == nil && len(list) > 1 {
		var ids []string
		for _, vm := range list {
			ids = append(ids, quote(vm.Envelope.Systems[vm.System].ID))
		}
		err = fmt.Errorf("%s: %w: %s", name, ErrSeveral, strings.Join(ids, ", "))
	}
	if err != nil {
		return nil, err
	}
	return list[0], nil
}

// OpenAll reads the configuration at name and returns the machines in it: all of an OVF package if o does not say which,
// one of every other form. Errors begin with that name.
func OpenAll(dir *layers.Dir, name string, o OpenOptions) ([]*VM, error) {
	list, err := open(dir, name, &o)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	return list, nil
}

func open(dir *layers.Dir, name string, o *OpenOptions) ([]*VM, error) {
	src, err := dir.Open(name)
	if err != nil {
		return nil, err
	}
	if src.Size() > ovf.MaxEnvelope {
		return nil, fmt.Errorf("%d bytes are no configuration: %w", src.Size(), ErrNoMachine)
	}
	b := make([]byte, src.Size())
	if _, err := io.ReadFull(io.NewSectionReader(src, 0, src.Size()), b); err != nil {
		return nil, err
	}
	vm := VM{Config: name, Dir: dir, Formats: o.Formats, Unix: o.Unix, Seed: b}
	vm.Form = Form(name, b[:min(len(b), headLen)], o.Configs)
	if vm.Form == FormOVF {
		return vm.openEnvelope(b, o)
	}
	for _, c := range o.Configs {
		if c.Name() == vm.Form {
			vm.Machine, err = c.Decode(b)
			return []*VM{&vm}, err
		}
	}
	return nil, fmt.Errorf("no configuration of a machine that is known: %w", ErrNoMachine)
}

// Bare makes a machine of a disk image alone, with what the caller says of it.
func Bare(dir *layers.Dir, name string, m *machine.Machine, o OpenOptions) *VM {
	return &VM{Machine: m, Dir: dir, Formats: o.Formats, Unix: o.Unix, Seed: []byte("bare disk " + name)}
}

// format returns a format that is known under its qemu name. What a configuration says must not be overruled by the
// image's content, which belongs to the guest; but a word that is not known here says nothing.
func (vm *VM) format(name string) string {
	if name == "raw" {
		return name
	}
	for _, f := range vm.Formats {
		if f.Name() == name {
			return name
		}
	}
	return ""
}

// File opens what a Media names, and returns its path in the tree.
func (vm *VM) File(m machine.Media) (string, formats.Source, error) { return vm.find(m) }

func (vm *VM) find(m machine.Media) (string, formats.Source, error) {
	switch {
	case m.Path == "" && m.Host != "":
		return "", nil, fmt.Errorf("is the host's device %s: %w", quote(m.Host), ErrMissing)
	case m.Path == "" && m.URL != "":
		return "", nil, fmt.Errorf("is on a network, at %s: %w", quote(m.URL), ErrMissing)
	case m.Path == "" && m.UUID != "":
		return "", nil, fmt.Errorf("the configuration gives its id %s and no file: %w", m.UUID, ErrMissing)
	case m.Path == "":
		return "", nil, fmt.Errorf("the configuration names no file: %w", ErrMissing)
	}
	name, src, err := vm.Dir.Find(vm.Config, m.Path)
	if errors.Is(err, fs.ErrNotExist) {
		return "", nil, fmt.Errorf("%s: %w", quote(m.Path), ErrMissing)
	}
	return name, src, err
}

// quote is an untrusted name, for a message.
func quote(s string) string { return fmt.Sprintf("%.300q", s) }

// id derives 16 bytes from what the VM is and what they are for.
func (vm *VM) id(purpose string, more ...string) (id [16]byte) {
	h := sha256.New()
	h.Write(vm.Seed)
	for _, s := range append([]string{purpose}, more...) {
		h.Write([]byte{0})
		io.WriteString(h, s)
	}
	copy(id[:], h.Sum(nil))
	return random(id)
}

// random gives an id the form of a random UUID (RFC 9562, version 4): that is what disk formats make of ids, too.
func random(id [16]byte) [16]byte {
	id[6] = id[6]&0x0f | 0x40
	id[8] = id[8]&0x3f | 0x80
	return id
}

// UUID is the text of an id.
func UUID(id [16]byte) string {
	return fmt.Sprintf("%x-%x-%x-%x-%x", id[:4], id[4:6], id[6:8], id[8:10], id[10:])
}
