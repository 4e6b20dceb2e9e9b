package vagrant

import (
	"archive/tar"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path"
	"runtime"
	"slices"
	"strings"
	"time"

	"github.com/klauspost/pgzip"

	"tarvm/formats/machine"
)

// A File is a file of a box that is written.
type File struct {
	// Name is where it goes, with slashes, from the top of the box.
	Name string
	// Size is its bytes, known before they are.
	Size int64
	// Write writes exactly Size bytes to w. It is called once.
	Write func(w io.Writer) error
}

// A Package is a box that is written.
type Package struct {
	// Provider and Architecture are Vagrant's words; Architecture may be empty.
	Provider, Architecture string
	// Files are those of the machine, the configuration first where there is one.
	Files []File
	// Disks are the disks of a box for libvirt, among Files: one must be box.img in qcow2, several may have any name at
	// the top of the box. Other providers' disks are named by their configuration, and these are not needed.
	Disks []Disk
	// Info becomes info.json, in the order of its keys; nil: none.
	Info map[string]string
	// Vagrantfile is what defaults say.
	Vagrantfile Defaults
}

// Defaults are what a box sets for those who use it. Zero values are not written.
type Defaults struct {
	// BaseMAC is the address of the first adapter, six pairs of hexadecimal digits. VirtualBox's boxes should have it: a guest
	// that knows its adapters by address has no network else.
	BaseMAC string
	// Memory is in bytes, and written in MiB; CPUs is the number of processors.
	Memory int64
	CPUs   int
	// DiskBus, NICModel, Machine, Loader and NVRAM are vagrant-libvirt's disk_bus, nic_model_type, machine_type, loader
	// and nvram; others have no use for them.
	DiskBus, NICModel, Machine, Loader, NVRAM string
}

// Options say how a box is written. The zero value works.
type Options struct {
	// Unix is the time of the members, seconds since 1970.
	Unix int64
	// Level of gzip, 1 fastest to 9 smallest; 0: 6; negative: the archive is not compressed.
	Level int
	// Workers is how many goroutines compress; 0: GOMAXPROCS. The bytes written are the same for any number.
	Workers int
}

const gzipBlock = 1 << 20 // bytes that are compressed at a time; the output depends on it

// Write writes a box to w, front to back. A file that does not have its Size is an error, as is a name that is there
// twice or leads elsewhere. What was written is of no use after an error.
func Write(ctx context.Context, w io.Writer, p *Package, o Options) error {
	head, err := p.head()
	if err != nil {
		return err
	}
	watched := writeFunc(func(b []byte) (int, error) {
		if ctx.Err() != nil {
			return 0, context.Cause(ctx)
		}
		return w.Write(b)
	})
	if o.Level < 0 {
		return p.archive(ctx, watched, head, &o)
	}
	level := o.Level
	if level == 0 {
		level = 6
	}
	z, err := pgzip.NewWriterLevel(watched, level)
	if err != nil {
		return fmt.Errorf("vagrant: %w", err)
	}
	z.ModTime = time.Unix(0, 0) // none, as gzip has it
	workers := o.Workers
	if workers <= 0 {
		workers = runtime.GOMAXPROCS(0)
	}
	if err := z.SetConcurrency(gzipBlock, workers); err != nil {
		return fmt.Errorf("vagrant: %w", err)
	}
	// It begins goroutines with the first write, and ends them when it is closed: also after an error.
	return errors.Join(p.archive(ctx, z, head, &o), z.Close())
}

type writeFunc func(p []byte) (int, error)

func (f writeFunc) Write(p []byte) (int, error) { return f(p) }

// head checks the box and returns the files that are made here.
func (p *Package) head() ([]File, error) {
	if p.Provider == "" || strings.Trim(p.Provider, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-") != "" {
		return nil, fmt.Errorf("vagrant: provider %q: %w", p.Provider, machine.ErrSyntax)
	}
	meta, err := p.metadata()
	if err != nil {
		return nil, err
	}
	ruby, err := p.vagrantfile()
	if err != nil {
		return nil, err
	}
	files := []File{literal("metadata.json", meta), literal("Vagrantfile", ruby)}
	if p.Info != nil {
		b, err := json.Marshal(p.Info) // in the order of the keys
		if err != nil {
			return nil, fmt.Errorf("vagrant: info.json: %w", err)
		}
		files = append(files, literal("info.json", append(b, '\n')))
	}
	seen := map[string]bool{}
	for _, f := range append(slices.Clone(files), p.Files...) {
		if !fs.ValidPath(f.Name) || f.Name == "." || strings.ContainsAny(f.Name, "\\\x00") {
			return nil, fmt.Errorf("vagrant: name %q: %w", f.Name, machine.ErrSyntax)
		}
		if f.Size < 0 {
			return nil, fmt.Errorf("vagrant: %s: %d bytes: %w", f.Name, f.Size, machine.ErrSyntax)
		}
		if key := strings.ToLower(f.Name); seen[key] {
			return nil, fmt.Errorf("vagrant: %s is there twice: %w", f.Name, machine.ErrSyntax)
		} else {
			seen[key] = true
		}
	}
	for _, d := range p.Disks {
		if !seen[strings.ToLower(d.Path)] {
			return nil, fmt.Errorf("vagrant: disk %s is not among the files: %w", d.Path, machine.ErrSyntax)
		}
	}
	return files, nil
}

func literal(name string, b []byte) File {
	return File{name, int64(len(b)), func(w io.Writer) error {
		_, err := w.Write(b)
		return err
	}}
}

func (p *Package) metadata() ([]byte, error) {
	type disk struct {
		Path   string `json:"path"`
		Format string `json:"format"`
	}
	meta := struct {
		Provider     string `json:"provider"`
		Architecture string `json:"architecture,omitempty"`
		Format       string `json:"format,omitempty"`
		VirtualSize  int64  `json:"virtual_size,omitempty"`
		Disks        []disk `json:"disks,omitempty"`
	}{Provider: p.Provider, Architecture: p.Architecture}
	if family(p.Provider) == "libvirt" {
		if len(p.Disks) == 0 {
			return nil, fmt.Errorf("vagrant: a box for libvirt without a disk: %w", machine.ErrUnsupported)
		}
		for _, d := range p.Disks {
			if d.Format != "qcow2" || path.Dir(d.Path) != "." {
				return nil, fmt.Errorf("vagrant: disk %s (%s): vagrant-libvirt takes qcow2 at the top of the box: %w", d.Path, d.Format, machine.ErrUnsupported)
			}
			meta.Disks = append(meta.Disks, disk{d.Path, d.Format})
		}
		if len(p.Disks) == 1 && p.Disks[0].Path == "box.img" {
			// The form that all its versions read. It demands the size, and takes whole GiB.
			if p.Disks[0].VirtualSize <= 0 {
				return nil, fmt.Errorf("vagrant: the size of box.img is not said: %w", machine.ErrSyntax)
			}
			meta.Disks, meta.Format = nil, "qcow2"
			meta.VirtualSize = gibUp(p.Disks[0].VirtualSize)
		}
	}
	b, err := json.Marshal(meta)
	if err != nil {
		return nil, fmt.Errorf("vagrant: metadata.json: %w", err)
	}
	return append(b, '\n'), nil
}

// gibUp is a size in GiB, rounded up.
func gibUp(n int64) int64 { return (n + 1<<30 - 1) >> 30 }

// vagrantfile writes the defaults as Ruby.
func (p *Package) vagrantfile() ([]byte, error) {
	d := &p.Vagrantfile
	var b bytes.Buffer
	b.WriteString("Vagrant.configure(\"2\") do |config|\n")
	if d.BaseMAC != "" {
		hex := strings.ToUpper(strings.NewReplacer(":", "", "-", "").Replace(d.BaseMAC))
		if len(hex) != 12 || strings.Trim(hex, "0123456789ABCDEF") != "" {
			return nil, fmt.Errorf("vagrant: base MAC address %q: %w", d.BaseMAC, machine.ErrSyntax)
		}
		fmt.Fprintf(&b, "  config.vm.base_mac = \"%s\"\n", hex)
	}
	var lines []string
	fam := family(p.Provider)
	mib := (d.Memory + 1<<20 - 1) >> 20
	switch fam {
	case "virtualbox", "libvirt", "hyperv", "parallels", "qemu":
		if mib > 0 {
			lines = append(lines, fmt.Sprintf("memory = %d", mib))
		}
		if d.CPUs > 0 {
			lines = append(lines, fmt.Sprintf("cpus = %d", d.CPUs))
		}
	case "vmware_desktop":
		if mib > 0 {
			lines = append(lines, fmt.Sprintf("vmx[\"memsize\"] = \"%d\"", mib))
		}
		if d.CPUs > 0 {
			lines = append(lines, fmt.Sprintf("vmx[\"numvcpus\"] = \"%d\"", d.CPUs))
		}
	}
	if fam == "libvirt" {
		for _, l := range [][2]string{
			{"disk_bus", d.DiskBus}, {"nic_model_type", d.NICModel}, {"machine_type", d.Machine}, {"loader", d.Loader}, {"nvram", d.NVRAM},
		} {
			if l[1] == "" {
				continue
			}
			if strings.ContainsAny(l[1], "'\\\r\n\x00") {
				return nil, fmt.Errorf("vagrant: %s %q: %w", l[0], l[1], machine.ErrUnsupported)
			}
			lines = append(lines, fmt.Sprintf("%s = '%s'", l[0], l[1]))
		}
	}
	if len(lines) > 0 {
		fmt.Fprintf(&b, "  config.vm.provider :%s do |v|\n", strings.ReplaceAll(p.Provider, "-", "_"))
		for _, l := range lines {
			b.WriteString("    v." + l + "\n")
		}
		b.WriteString("  end\n")
	}
	b.WriteString("end\n")
	return b.Bytes(), nil
}

// maxUSTAR is the size from which on a header needs GNU's form of numbers.
const maxUSTAR = 8 << 30

func (p *Package) archive(ctx context.Context, w io.Writer, head []File, o *Options) error {
	tw := tar.NewWriter(w)
	for _, f := range append(slices.Clone(head), p.Files...) {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		h := &tar.Header{
			Typeflag: tar.TypeReg, Name: f.Name, Size: f.Size, Mode: 0o644, ModTime: time.Unix(o.Unix, 0).UTC(), Format: tar.FormatUSTAR,
		}
		if _, _, fits := split(f.Name); f.Size >= maxUSTAR || !fits {
			h.Format = tar.FormatGNU
		}
		if err := tw.WriteHeader(h); err != nil {
			return fmt.Errorf("vagrant: %s: %w", f.Name, err)
		}
		if err := f.Write(tw); err != nil {
			return fmt.Errorf("vagrant: %s: %w", f.Name, err)
		}
		if err := tw.Flush(); err != nil { // fewer bytes than it should have
			return fmt.Errorf("vagrant: %s: %w", f.Name, err)
		}
	}
	return tw.Close()
}

// split divides a name between the two fields of ustar, which take 155 and 100 bytes of ASCII.
func split(name string) (prefix, rest string, ok bool) {
	for _, c := range []byte(name) {
		if c >= 0x80 {
			return "", "", false
		}
	}
	if len(name) <= 100 {
		return "", name, true
	}
	for i := min(len(name)-1, 155); i > 0; i-- {
		if name[i] == '/' && len(name)-i-1 <= 100 {
			return name[:i], name[i+1:], true
		}
	}
	return "", "", false
}
