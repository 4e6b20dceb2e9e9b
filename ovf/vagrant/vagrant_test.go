package vagrant_test

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"
	"testing/fstest"

	"tarvm/formats"
	"tarvm/formats/formatstest"
	"tarvm/formats/machine"
	"tarvm/formats/raw"
	"tarvm/ovf/vagrant"
)

func file(name, text string) vagrant.File {
	return vagrant.File{Name: name, Size: int64(len(text)), Write: func(w io.Writer) error {
		_, err := io.WriteString(w, text)
		return err
	}}
}

// boxes are one of each kind that is written.
func boxes() map[string]*vagrant.Package {
	mib := int64(2048) << 20
	return map[string]*vagrant.Package{
		"virtualbox": {
			Provider: "virtualbox", Architecture: "amd64", Info: map[string]string{"author": "x", "Homepage": "http://example.org"},
			Files:       []vagrant.File{file("box.ovf", "<Envelope/>"), file("box-disk001.vmdk", strings.Repeat("vmdk", 1000))},
			Vagrantfile: vagrant.Defaults{BaseMAC: "08:00:27:ab:cd:ef", Memory: mib, CPUs: 2},
		},
		"libvirt": {
			Provider: "libvirt", Files: []vagrant.File{file("box.img", "QFI\xfb")},
			Disks: []vagrant.Disk{{Path: "box.img", Format: "qcow2", VirtualSize: 40<<30 - 5}},
			Vagrantfile: vagrant.Defaults{
				Memory: mib + 1, CPUs: 3, DiskBus: "sata", NICModel: "e1000", Machine: "pc-q35-7.2", Loader: "/usr/share/OVMF/OVMF_CODE.fd", NVRAM: "n.fd",
			},
		},
		"libvirt-three": {
			Provider: "libvirt", Architecture: "arm64", Files: []vagrant.File{file("a.img", "a"), file("b.img", "b"), file("c.img", "c")},
			Disks: []vagrant.Disk{{Path: "a.img", Format: "qcow2"}, {Path: "b.img", Format: "qcow2"}, {Path: "c.img", Format: "qcow2"}},
		},
		"vmware": {
			Provider: "vmware_desktop", Architecture: "amd64",
			Files: []vagrant.File{
				file("b.vmx", "x"), file("d.vmdk", "d"), file("d-s001.vmdk", "e"), file("two.vmdk", "f"), file("b.nvram", "n"), file("b.vmsd", ""),
			},
			Vagrantfile: vagrant.Defaults{Memory: mib, CPUs: 2},
		},
		"hyperv": {
			Provider: "hyperv", Files: []vagrant.File{file("Virtual Machines/box.xml", "<configuration/>"), file("Virtual Hard Disks/disk.vhdx", "vhdxfile")},
		},
	}
}

func write(t testing.TB, p *vagrant.Package, o vagrant.Options) []byte {
	t.Helper()
	var b bytes.Buffer
	if err := vagrant.Write(context.Background(), struct{ io.Writer }{&b}, p, o); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func unpack(t testing.TB, b []byte) fs.FS {
	t.Helper()
	var out bytes.Buffer
	if _, err := vagrant.Decompress(context.Background(), &out, bytes.NewReader(b), 1<<30); err != nil {
		t.Fatal(err)
	}
	f, err := vagrant.OpenTar(bytes.NewReader(out.Bytes()))
	if err != nil {
		t.Fatal(err)
	}
	return f
}

func open(t testing.TB, f fs.FS) *vagrant.Box {
	t.Helper()
	b, err := vagrant.Open(f)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// What is written is read as it was said.
func TestBothWays(t *testing.T) {
	for name, p := range boxes() {
		t.Run(name, func(t *testing.T) {
			packed := write(t, p, vagrant.Options{})
			for _, o := range []vagrant.Options{{Workers: 1}, {Workers: 5}} {
				if !bytes.Equal(write(t, p, o), packed) {
					t.Error("other bytes for other workers")
				}
			}
			plain := write(t, p, vagrant.Options{Level: -1})
			var out bytes.Buffer
			if _, err := vagrant.Decompress(context.Background(), &out, bytes.NewReader(packed), 1<<30); err != nil || !bytes.Equal(out.Bytes(), plain) {
				t.Errorf("%v", err)
			}
			f := unpack(t, packed)
			b := open(t, f)
			if b.Provider != p.Provider || b.Architecture != p.Architecture || len(b.Problems) > 0 {
				t.Errorf("%+v", b)
			}
			for _, w := range p.Files {
				var want bytes.Buffer
				if err := w.Write(&want); err != nil {
					t.Fatal(err)
				}
				if got, err := fs.ReadFile(f, w.Name); err != nil || !bytes.Equal(got, want.Bytes()) {
					t.Errorf("%s: %q, %v", w.Name, got, err)
				}
			}
			if err := fstest.TestFS(f, "metadata.json", "Vagrantfile", p.Files[0].Name); err != nil {
				t.Error(err)
			}
			// Info comes back as it was.
			if p.Info != nil {
				got := map[string]string{}
				if err := json.Unmarshal(b.Info, &got); err != nil || fmt.Sprint(got) != fmt.Sprint(p.Info) {
					t.Errorf("%s, %v", b.Info, err)
				}
			}
		})
	}
}

func TestContents(t *testing.T) {
	for name, want := range map[string]struct {
		config, mac string
		disks       []vagrant.Disk
		others      []string
	}{
		"virtualbox":    {"box.ovf", "08:00:27:ab:cd:ef", []vagrant.Disk{{Path: "box-disk001.vmdk", Format: "vmdk"}}, nil},
		"libvirt":       {"", "", []vagrant.Disk{{Path: "box.img", Format: "qcow2", VirtualSize: 40 << 30}}, nil},
		"libvirt-three": {"", "", []vagrant.Disk{{Path: "a.img", Format: "qcow2"}, {Path: "b.img", Format: "qcow2"}, {Path: "c.img", Format: "qcow2"}}, nil},
		"vmware":        {"b.vmx", "", []vagrant.Disk{{Path: "d.vmdk", Format: "vmdk"}, {Path: "two.vmdk", Format: "vmdk"}}, []string{"b.nvram", "b.vmsd"}},
		"hyperv":        {"Virtual Machines/box.xml", "", []vagrant.Disk{{Path: "Virtual Hard Disks/disk.vhdx", Format: "vhdx"}}, nil},
	} {
		b := open(t, unpack(t, write(t, boxes()[name], vagrant.Options{})))
		if b.Config != want.config || b.BaseMAC() != want.mac || !slices.Equal(b.Disks, want.disks) || !slices.Equal(b.Others, want.others) {
			t.Errorf("%s: %+v", name, b)
		}
	}
	b := open(t, unpack(t, write(t, boxes()["libvirt"], vagrant.Options{})))
	want := &machine.Machine{
		Platform: "kvm", Version: "pc-q35-7.2", Chipset: "q35", CPU: machine.CPU{Count: 3}, Memory: machine.Memory{Bytes: 2049 << 20},
		Firmware:    machine.Firmware{Type: "efi", Loader: "/usr/share/OVMF/OVMF_CODE.fd", Vars: machine.Media{Path: "n.fd"}},
		Controllers: []machine.Controller{{Bus: machine.SATA, Implied: true}},
		Drives: []machine.Drive{{
			Kind: machine.Disk, At: machine.Address{Bus: machine.SATA}, Media: machine.Media{Path: "box.img", Format: "qcow2", Capacity: 40 << 30},
		}},
		NICs: []machine.NIC{{Model: "e1000", Kind: machine.NAT}},
	}
	for _, d := range machine.Difference(want, b.Machine()) {
		t.Error(d)
	}
	m := open(t, unpack(t, write(t, boxes()["libvirt-three"], vagrant.Options{}))).Machine()
	if m.Arch != "aarch64" || len(m.Drives) != 3 || m.Drives[2].At != (machine.Address{Bus: machine.Virtio, Unit: 2}) || m.NICs[0].Model != "virtio" {
		t.Errorf("%+v", m)
	}
	// Beside a configuration, for who cannot read that: a guest of Hyper-V has no drivers for virtio.
	m = open(t, unpack(t, write(t, boxes()["hyperv"], vagrant.Options{}))).Machine()
	if len(m.Drives) != 1 || m.Drives[0].At.Bus != machine.SATA || m.Drives[0].Media.Path != "Virtual Hard Disks/disk.vhdx" || m.Platform != "hyperv" {
		t.Errorf("%+v", m)
	}
}

// Vagrant itself takes every box, and tells its provider.
func TestVagrant(t *testing.T) {
	formatstest.OneGoroutine(t)
	formatstest.Tool(t, "vagrant")
	if testing.Short() {
		t.Skip("seconds for each box")
	}
	dir := t.TempDir()
	run := func(args ...string) string {
		cmd := exec.Command("vagrant", args...)
		cmd.Dir = dir
		cmd.Env = append(os.Environ(), "VAGRANT_HOME="+filepath.Join(dir, "home"), "VAGRANT_CHECKPOINT_DISABLE=1", "LC_ALL=C.UTF-8")
		out, err := cmd.CombinedOutput()
		if err != nil {
			t.Fatalf("vagrant %v: %v\n%s", args, err, out)
		}
		return string(out)
	}
	all := boxes()
	for name, p := range all {
		if err := os.WriteFile(filepath.Join(dir, "x.box"), write(t, p, vagrant.Options{}), 0o600); err != nil {
			t.Fatal(err)
		}
		run("box", "add", "--name", name, "x.box")
		// What it unpacked is what was packed, and opens as a directory.
		var found string
		if err := filepath.WalkDir(filepath.Join(dir, "home", "boxes", name), func(path string, e fs.DirEntry, err error) error {
			if e != nil && e.Name() == "Vagrantfile" {
				found = filepath.Dir(path)
			}
			return err
		}); err != nil || found == "" {
			t.Fatalf("%q, %v", found, err)
		}
		got, want := open(t, os.DirFS(found)), open(t, unpack(t, write(t, p, vagrant.Options{})))
		// Vagrant adds to info.json and metadata.json; what was read from them must be the same.
		got.Metadata, want.Metadata, got.Info, want.Info = nil, nil, nil, nil
		if fmt.Sprintf("%+v", got) != fmt.Sprintf("%+v", want) {
			t.Errorf("%s: unpacked %+v, packed %+v", name, got, want)
		}
	}
	listed := run("box", "list", "-i")
	for name, p := range all {
		line := ""
		for l := range strings.Lines(listed) {
			if strings.HasPrefix(l, name+" ") {
				line = l
			}
		}
		if !strings.Contains(line, "("+p.Provider+",") || p.Info != nil && !strings.Contains(listed, "author: x") {
			t.Errorf("%s: %s", name, listed)
		}
	}
}

// GNU tar and bsdtar list what is written, and what they write is read, with holes.
func TestTarTools(t *testing.T) {
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "x.box"), write(t, boxes()["hyperv"], vagrant.Options{}), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, tool := range []string{"tar", "bsdtar"} {
		out := formatstest.Run(t, dir, tool, "-tf", "x.box")
		if want := "metadata.json\nVagrantfile\nVirtual Machines/box.xml\nVirtual Hard Disks/disk.vhdx\n"; string(out) != want {
			t.Errorf("%s: %q", tool, out)
		}
	}
	const size = 40 << 20
	want := make([]byte, size)
	for off := 0; off < size; off += 3 << 20 { // more runs than fit in a header
		copy(want[off:], fmt.Sprintf("data at %d", off))
	}
	in := filepath.Join(dir, "in")
	if err := os.Mkdir(in, 0o700); err != nil {
		t.Fatal(err)
	}
	img, err := os.Create(filepath.Join(in, "box.img"))
	if err != nil {
		t.Fatal(err)
	}
	for off := 0; off < size; off += 3 << 20 {
		if _, err := img.WriteAt(want[off:off+30], int64(off)); err != nil {
			t.Fatal(err)
		}
	}
	if err := errors.Join(img.Truncate(size), img.Close()); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(in, "metadata.json"), []byte(`{"provider":"libvirt","format":"qcow2","virtual_size":"1"}`), 0o600); err != nil {
		t.Fatal(err)
	}
	for name, args := range map[string][]string{
		"gnu": {"tar", "-S", "--format=gnu"}, "pax 1.0": {"tar", "-S", "--format=pax", "--sparse-version=1.0"},
		"pax 0.1": {"tar", "-S", "--format=pax", "--sparse-version=0.1"}, "pax 0.0": {"tar", "-S", "--format=pax", "--sparse-version=0.0"},
		"ustar": {"tar", "--format=ustar"}, "v7": {"tar", "--format=v7"}, "bsdtar pax": {"bsdtar", "--format=pax"}, "bsdtar gnu": {"bsdtar", "--format=gnutar"},
	} {
		t.Run(name, func(t *testing.T) {
			formatstest.Run(t, in, args[0], append(args[1:], "-cf", "../y.box", "./metadata.json", "./box.img")...)
			b, err := os.ReadFile(filepath.Join(dir, "y.box"))
			if err != nil {
				t.Fatal(err)
			}
			f, err := vagrant.OpenTar(bytes.NewReader(b))
			if err != nil {
				t.Fatal(err)
			}
			if box := open(t, f); box.Disks[0] != (vagrant.Disk{Path: "box.img", Format: "qcow2", VirtualSize: 1 << 30}) {
				t.Errorf("%+v", box.Disks)
			}
			o, err := f.Open("box.img")
			if err != nil {
				t.Fatal(err)
			}
			src, ok := o.(formats.Source)
			if !ok {
				t.Fatalf("%T", o)
			}
			d, err := formats.NewDisk(&formats.Image{Map: raw.NewMapper(src), Files: []formats.Source{src}})
			if err != nil {
				t.Fatal(err)
			}
			formatstest.CheckDisk(t, d, bytes.NewReader(want))
			holes := 0
			for e, err := range d.Extents(0, size) {
				if err != nil {
					t.Fatal(err)
				}
				if e.Kind == formats.Hole {
					holes++
				}
			}
			if sparse := len(b) < size; sparse != (holes > 5) || strings.Contains(name, "-S") && !sparse {
				t.Errorf("%d bytes, %d holes", len(b), holes)
			}
		})
	}
}

func TestVagrantfile(t *testing.T) {
	b := open(t, fstest.MapFS{
		"metadata.json": {Data: []byte(`{"provider":"virtualbox"}`)}, "box.ovf": {Data: []byte("x")}, "d.vmdk": {Data: []byte("x")},
		"Vagrantfile": {Data: []byte(`# config.vm.base_mac = "000000000000"
Vagrant::Config.run do |config|
  config.vm.base_mac = '080027-AABBCC' # comment
  config.vm.provider :virtualbox do |vb, override|
    vb.memory = 1_024
    vb.customize ["modifyvm", :id, "--cpus", "2"]
    vb.gui = true
  end
  config.vm.provider "libvirt" do |lv|
    lv.memory = 2 * 1024
    lv.memory = "4096"
    lv.nested = false
    lv.disk_bus = :scsi
    lv.loader = "#{evil}"
    lv.cpus = system("rm -rf /")
  end
end` + "\r\nx.y.z = 5\r\n")},
	})
	var got []string
	for _, s := range b.Settings {
		got = append(got, fmt.Sprintf("%d %s %s %s", s.Line, s.Provider, s.Name, s.Value))
	}
	want := []string{
		"3  base_mac 080027-AABBCC", "5 virtualbox memory 1_024", "6 virtualbox --cpus 2", "7 virtualbox gui true",
		"11 libvirt memory 4096", "12 libvirt nested false", "13 libvirt disk_bus scsi", "18  z 5",
	}
	if !slices.Equal(got, want) || b.BaseMAC() != "08:00:27:aa:bb:cc" {
		t.Errorf("%q, %s", got, b.BaseMAC())
	}
}

func TestOldAndOther(t *testing.T) {
	one := func(meta string, files ...string) fstest.MapFS {
		f := fstest.MapFS{}
		if meta != "" {
			f["metadata.json"] = &fstest.MapFile{Data: []byte(meta)}
		}
		for _, name := range files {
			f[name] = &fstest.MapFile{Data: []byte("x")}
		}
		return f
	}
	for name, c := range map[string]struct {
		f              fs.FS
		family, config string
		disks          string
		problems       int
	}{
		"Vagrant 1.0":    {one("", "box.ovf", "box.vmdk"), "virtualbox", "box.ovf", "[{box.vmdk vmdk 0}]", 0},
		"fusion":         {one(`{"provider":"vmware_fusion"}`, "a.vmx", "a.vmdk", "a-flat.vmdk", "a-f001.vmdk", "a-000001.vmdk"), "vmware_desktop", "a.vmx", "[{a-000001.vmdk vmdk 0} {a.vmdk vmdk 0}]", 0},
		"parallels":      {one(`{"provider":"parallels"}`, "b.pvm/config.pvs", "b.pvm/d.hdd/d.hds", "b.pvm/x.hdd"), "parallels", "", "[{b.pvm/x.hdd parallels 0}]", 0},
		"hyperv":         {one(`{"provider":"hyperv"}`, "Virtual Machines/1.vmcx", "Virtual Machines/1.vmrs", "Virtual Hard Disks/d.vhdx"), "hyperv", "Virtual Machines/1.vmcx", "[{Virtual Hard Disks/d.vhdx vhdx 0}]", 0},
		"utm":            {one(`{"provider":"utm"}`, "box.utm/config.plist", "box.utm/Data/d.qcow2"), "utm", "box.utm/config.plist", "[{box.utm/Data/d.qcow2 qcow2 0}]", 0},
		"kvm":            {one(`{"provider":"kvm","format":"qcow2","virtual_size":1.5}`, "box.img"), "libvirt", "", "[{box.img qcow2 1610612736}]", 0},
		"disk missing":   {one(`{"provider":"libvirt","disks":[{"path":"gone.img","format":"qcow2","virtual_size":2}]}`), "libvirt", "", "[{gone.img qcow2 2147483648}]", 1},
		"nothing":        {one(`{"provider":"docker"}`), "docker", "", "[]", 1},
		"no box.img":     {one(`{"provider":"libvirt"}`, "other.qcow2"), "libvirt", "", "[{other.qcow2 qcow2 0}]", 1},
		"qemu":           {one(`{"provider":"qemu","architecture":"arm64"}`, "linked-box.qcow2"), "qemu", "", "[{linked-box.qcow2 qcow2 0}]", 0},
		"byte-order":     {one("\xef\xbb\xbf"+`{"provider":"virtualbox"}`, "box.ovf", "d.vdi"), "virtualbox", "box.ovf", "[{d.vdi vdi 0}]", 0},
		"nearest config": {one(`{"provider":"virtualbox"}`, "a/b.ovf", "z.ovf", "d.vmdk"), "virtualbox", "z.ovf", "[{d.vmdk vmdk 0}]", 0},
	} {
		b, err := vagrant.Open(c.f)
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if b.Family != c.family || b.Config != c.config || fmt.Sprint(b.Disks) != c.disks && !(c.disks == "[]" && len(b.Disks) == 0) || len(b.Problems) != c.problems {
			t.Errorf("%s: %+v", name, b)
		}
	}
	deep := strings.Repeat("[", 1000)
	for name, c := range map[string]struct {
		f    fs.FS
		want error
	}{
		"empty":            {one(""), formats.ErrNotFormat},
		"no provider":      {one(`{}`, "box.ovf"), machine.ErrSyntax},
		"no JSON":          {one(`provider`), machine.ErrSyntax},
		"two values":       {one(`{"provider":"a"}{}`), machine.ErrSyntax},
		"a list":           {one(`[]`), machine.ErrSyntax},
		"provider 5":       {one(`{"provider":5}`), machine.ErrSyntax},
		"deep":             {one(`{"provider":"x","y":` + deep), machine.ErrSyntax},
		"disk leads out":   {one(`{"provider":"libvirt","disks":[{"path":"../../etc/shadow"}]}`), machine.ErrSyntax},
		"disk is absolute": {one(`{"provider":"libvirt","disks":[{"path":"/dev/sda"}]}`), machine.ErrSyntax},
		"disk of Windows":  {one(`{"provider":"libvirt","disks":[{"path":"..\\x"}]}`), machine.ErrSyntax},
		"size in words":    {one(`{"provider":"libvirt","virtual_size":"big"}`, "box.img"), machine.ErrSyntax},
		"size negative":    {one(`{"provider":"libvirt","virtual_size":-1}`, "box.img"), machine.ErrSyntax},
		"size huge":        {one(`{"provider":"libvirt","virtual_size":1e300}`, "box.img"), machine.ErrSyntax},
		"big":              {one(`{"provider":"libvirt","x":"` + strings.Repeat("x", 2<<20) + `"}`), machine.ErrUnsupported},
	} {
		if _, err := vagrant.Open(c.f); !errors.Is(err, c.want) {
			t.Errorf("%s: %v, want %v", name, err, c.want)
		}
	}
}

func TestWriteErrors(t *testing.T) {
	before := runtime.NumGoroutine()
	ctx := context.Background()
	full := errors.New("full")
	for name, c := range map[string]struct {
		p    *vagrant.Package
		want error
	}{
		"no provider":  {&vagrant.Package{}, machine.ErrSyntax},
		"provider":     {&vagrant.Package{Provider: "a b"}, machine.ErrSyntax},
		"no disk":      {&vagrant.Package{Provider: "libvirt"}, machine.ErrUnsupported},
		"raw":          {&vagrant.Package{Provider: "libvirt", Disks: []vagrant.Disk{{Path: "box.img", Format: "raw", VirtualSize: 1}}}, machine.ErrUnsupported},
		"no size":      {&vagrant.Package{Provider: "libvirt", Disks: []vagrant.Disk{{Path: "box.img", Format: "qcow2"}}}, machine.ErrSyntax},
		"not in files": {&vagrant.Package{Provider: "libvirt", Disks: []vagrant.Disk{{Path: "box.img", Format: "qcow2", VirtualSize: 1}}}, machine.ErrSyntax},
		"MAC":          {&vagrant.Package{Provider: "virtualbox", Vagrantfile: vagrant.Defaults{BaseMAC: `"; system("x")`}}, machine.ErrSyntax},
		"loader":       {&vagrant.Package{Provider: "libvirt", Files: []vagrant.File{file("box.img", "x")}, Disks: []vagrant.Disk{{Path: "box.img", Format: "qcow2", VirtualSize: 1}}, Vagrantfile: vagrant.Defaults{Loader: "a'; x '"}}, machine.ErrUnsupported},
		"name":         {&vagrant.Package{Provider: "x", Files: []vagrant.File{file("../x", "")}}, machine.ErrSyntax},
		"twice":        {&vagrant.Package{Provider: "x", Files: []vagrant.File{file("VAGRANTFILE", "")}}, machine.ErrSyntax},
		"negative":     {&vagrant.Package{Provider: "x", Files: []vagrant.File{{Name: "x", Size: -1}}}, machine.ErrSyntax},
		"too long":     {&vagrant.Package{Provider: "x", Files: []vagrant.File{{Name: "x", Size: 1, Write: file("x", "ab").Write}}}, tar.ErrWriteTooLong},
		"fails":        {&vagrant.Package{Provider: "x", Files: []vagrant.File{{Name: "x", Size: 1, Write: func(io.Writer) error { return full }}}}, full},
	} {
		if err := vagrant.Write(ctx, io.Discard, c.p, vagrant.Options{}); !errors.Is(err, c.want) {
			t.Errorf("%s: %v, want %v", name, err, c.want)
		}
	}
	short := &vagrant.Package{Provider: "x", Files: []vagrant.File{{Name: "x", Size: 5, Write: file("x", "ab").Write}}}
	if err := vagrant.Write(ctx, io.Discard, short, vagrant.Options{}); err == nil {
		t.Error("a file that is too short")
	}
	pr, pw := io.Pipe()
	if err := errors.Join(pr.Close()); err != nil {
		t.Fatal(err)
	}
	if err := vagrant.Write(ctx, pw, boxes()["virtualbox"], vagrant.Options{}); !errors.Is(err, io.ErrClosedPipe) {
		t.Errorf("broken pipe: %v", err)
	}
	stopped, stop := context.WithCancel(ctx)
	stop()
	if err := vagrant.Write(stopped, io.Discard, boxes()["virtualbox"], vagrant.Options{}); !errors.Is(err, context.Canceled) {
		t.Errorf("stopped: %v", err)
	}
	formatstest.NoneLeft(t, before)
}

// A file of 8 GiB and more has GNU's form of the size, which Vagrant's bsdtar reads, and never a pax header.
func TestBig(t *testing.T) {
	p := &vagrant.Package{Provider: "x", Files: []vagrant.File{{Name: "big.vmdk", Size: 8 << 30, Write: func(io.Writer) error { return errors.New("that is enough") }}}}
	var b bytes.Buffer
	if err := vagrant.Write(context.Background(), &b, p, vagrant.Options{Level: -1}); err == nil {
		t.Fatal("no error")
	}
	h := b.Bytes()[b.Len()-512:]
	if string(h[:8]) != "big.vmdk" || h[124] != 0x80 || h[156] != '0' || bytes.Contains(b.Bytes(), []byte("PaxHeader")) {
		t.Errorf("%q", h)
	}
}

func members(list ...tar.Header) []byte {
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, h := range list {
		h.Mode = 0o644
		if err := w.WriteHeader(&h); err != nil {
			panic(err)
		}
		if _, err := w.Write(make([]byte, h.Size)); err != nil {
			panic(err)
		}
	}
	if err := w.Close(); err != nil {
		panic(err)
	}
	return b.Bytes()
}

func TestHostileArchives(t *testing.T) {
	good := members(tar.Header{Name: "a", Size: 700}, tar.Header{Name: "b", Size: 5})
	change := func(f func(b []byte) []byte) []byte { return f(slices.Clone(good)) }
	for name, c := range map[string]struct {
		b    []byte
		want error
	}{
		"empty":        {nil, formats.ErrNotFormat},
		"zeros":        {make([]byte, 2048), formats.ErrNotFormat},
		"text":         {bytes.Repeat([]byte("x"), 2048), formats.ErrNotFormat},
		"short":        {good[:100], formats.ErrNotFormat},
		"cut in data":  {good[:800], formats.ErrCorrupt},
		"cut header":   {good[:1536+100], formats.ErrCorrupt},
		"bad sum":      {change(func(b []byte) []byte { b[1536] = 'x'; return b }), formats.ErrCorrupt},
		"dots":         {members(tar.Header{Name: "../a"}), formats.ErrCorrupt},
		"dots inside":  {members(tar.Header{Name: "a/../b"}), formats.ErrCorrupt},
		"absolute":     {members(tar.Header{Name: "/a"}), formats.ErrCorrupt},
		"backslash":    {members(tar.Header{Name: `..\a`}), formats.ErrCorrupt},
		"no UTF-8":     {members(tar.Header{Name: "a\xff", Format: tar.FormatGNU}), formats.ErrCorrupt},
		"twice":        {members(tar.Header{Name: "a"}, tar.Header{Name: "./a"}), formats.ErrCorrupt},
		"file and dir": {members(tar.Header{Name: "a"}, tar.Header{Name: "a/b"}), formats.ErrCorrupt},
		"dir and file": {members(tar.Header{Name: "a/b"}, tar.Header{Name: "a"}), formats.ErrCorrupt},
	} {
		if _, err := vagrant.OpenTar(bytes.NewReader(c.b)); !errors.Is(err, c.want) {
			t.Errorf("%s: %v, want %v", name, err, c.want)
		}
	}
	// Links and devices are not there; long names are, and directories may be said twice.
	long := strings.Repeat("n", 90) + "/" + strings.Repeat("m", 190)
	f, err := vagrant.OpenTar(bytes.NewReader(members(
		tar.Header{Name: "l", Typeflag: tar.TypeSymlink, Linkname: "/etc/passwd"}, tar.Header{Name: "h", Typeflag: tar.TypeLink, Linkname: "a"},
		tar.Header{Name: "d/", Typeflag: tar.TypeDir}, tar.Header{Name: "d/", Typeflag: tar.TypeDir}, tar.Header{Name: "d/x", Size: 3},
		tar.Header{Name: "c", Typeflag: tar.TypeChar}, tar.Header{Name: long, Format: tar.FormatPAX}, tar.Header{Name: long + "2", Format: tar.FormatGNU, Size: 9},
	)))
	if err != nil {
		t.Fatal(err)
	}
	if err := fstest.TestFS(f, "d/x", long, long+"2"); err != nil {
		t.Error(err)
	}
	for _, name := range []string{"l", "h", "c"} {
		if _, err := fs.Stat(f, name); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("%s: %v", name, err)
		}
	}
	for n := 0; n < len(good)-1024; n += 256 {
		_, err := vagrant.OpenTar(bytes.NewReader(good[:n]))
		if err != nil && !errors.Is(err, formats.ErrCorrupt) && !errors.Is(err, formats.ErrNotFormat) {
			t.Errorf("%d bytes: %v", n, err)
		}
	}
}

// sparse is a member of kind S, or with pax records.
func sparse(records map[string]string, body string) []byte {
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	if err := w.WriteHeader(&tar.Header{Name: "s", Size: int64(len(body)), Format: tar.FormatPAX, PAXRecords: map[string]string{"X.y": "z"}}); err != nil {
		panic(err)
	}
	if _, err := io.WriteString(w, body); err != nil {
		panic(err)
	}
	if err := w.Close(); err != nil {
		panic(err)
	}
	// The library does not write these records: they take the place of the one above.
	var recs string
	for k, v := range records {
		line := fmt.Sprintf(" %s=%s\n", k, v)
		n := len(line) + 2
		if n >= 100 {
			n++
		}
		recs += fmt.Sprint(n) + line
	}
	out := b.Bytes()
	copy(out[512:1024], append([]byte(recs), make([]byte, 512-len(recs))...))
	copy(out[124:136], fmt.Sprintf("%011o\x00", len(recs)))
	sum := 0
	copy(out[148:156], "        ")
	for _, c := range out[:512] {
		sum += int(c)
	}
	copy(out[148:156], fmt.Sprintf("%06o\x00 ", sum))
	return out
}

func TestHostileSparse(t *testing.T) {
	v1 := func(real, m string, data int) []byte {
		return sparse(map[string]string{"GNU.sparse.major": "1", "GNU.sparse.minor": "0", "GNU.sparse.realsize": real, "GNU.sparse.name": "real"},
			m+strings.Repeat("\x00", max(0, 512-len(m)))+strings.Repeat("d", data))
	}
	f, err := vagrant.OpenTar(bytes.NewReader(v1("1000", "2\n0\n3\n900\n4\n", 7)))
	if err != nil {
		t.Fatal(err)
	}
	if b, err := fs.ReadFile(f, "real"); err != nil || len(b) != 1000 || string(b[900:904]) != "dddd" || b[3] != 0 || b[904] != 0 {
		t.Errorf("%q, %v", b, err)
	}
	for name, c := range map[string][]byte{
		"run behind":     v1("1000", "1\n998\n7\n", 7),
		"run before":     v1("1000", "2\n900\n3\n0\n4\n", 7),
		"overlap":        v1("1000", "2\n0\n4\n2\n3\n", 7),
		"too little":     v1("1000", "1\n0\n8\n", 7),
		"too much":       v1("1000", "1\n0\n6\n", 7),
		"negative":       v1("1000", "1\n-5\n7\n", 7),
		"huge":           v1("1000", "1\n9223372036854775807\n7\n", 7),
		"many runs":      v1("1000", "4194304\n", 7),
		"more runs":      v1("1000", "999999999999\n", 7),
		"no end":         v1("1000", strings.Repeat("1", 512), 7),
		"letters":        v1("1000", "x\n", 7),
		"size":           v1("lots", "1\n0\n7\n", 7),
		"negative size":  v1("-1", "0\n", 0),
		"0.1: odd":       sparse(map[string]string{"GNU.sparse.size": "100", "GNU.sparse.map": "0,1,2"}, "d"),
		"0.1: letters":   sparse(map[string]string{"GNU.sparse.size": "100", "GNU.sparse.map": "0,x"}, "d"),
		"0.1: no size":   sparse(map[string]string{"GNU.sparse.map": "0,1"}, "d"),
		"0.1: left over": sparse(map[string]string{"GNU.sparse.size": "100"}, "d"),
	} {
		if _, err := vagrant.OpenTar(bytes.NewReader(c)); !errors.Is(err, formats.ErrCorrupt) && !errors.Is(err, formats.ErrUnsupported) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestDecompress(t *testing.T) {
	ctx := context.Background()
	plain := write(t, boxes()["vmware"], vagrant.Options{Level: -1})
	packed := write(t, boxes()["vmware"], vagrant.Options{})
	if vagrant.Compression(packed) != "gzip" || vagrant.Compression(plain) != "" {
		t.Error("compression is not told")
	}
	// The header holds neither time nor name.
	z, err := gzip.NewReader(bytes.NewReader(packed))
	if err != nil || !z.ModTime.IsZero() || z.Name != "" {
		t.Errorf("%+v, %v", z, err)
	}
	if _, err := vagrant.Decompress(ctx, io.Discard, bytes.NewReader(packed), 600); !errors.Is(err, formats.ErrUnsupported) {
		t.Errorf("limit: %v", err)
	}
	if _, err := vagrant.Decompress(ctx, io.Discard, bytes.NewReader(packed[:len(packed)-5]), 1<<30); !errors.Is(err, formats.ErrCorrupt) {
		t.Errorf("cut short: %v", err)
	}
	for _, b := range [][]byte{[]byte("PK\x03\x04xxxxxxxx"), []byte("\xfd7zXZ\x00xxxxxx")} {
		if _, err := vagrant.Decompress(ctx, io.Discard, bytes.NewReader(b), 1<<30); !errors.Is(err, formats.ErrUnsupported) {
			t.Errorf("%q: %v", b, err)
		}
	}
	var bomb bytes.Buffer
	w := gzip.NewWriter(&bomb)
	if _, err := w.Write(make([]byte, 10<<20)); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	if n, err := vagrant.Decompress(ctx, io.Discard, &bomb, 1<<40); n != 0 || !errors.Is(err, formats.ErrNotFormat) {
		t.Errorf("bomb: %d, %v", n, err)
	}
}

// Whatever opens reads the same at once and in parts, as archive/tar has it.
func FuzzOpenTar(f *testing.F) {
	for _, p := range boxes() {
		var b bytes.Buffer
		if err := vagrant.Write(context.Background(), &b, p, vagrant.Options{Level: -1}); err != nil {
			f.Fatal(err)
		}
		f.Add(b.Bytes())
	}
	f.Add(sparse(map[string]string{"GNU.sparse.major": "1", "GNU.sparse.minor": "0", "GNU.sparse.realsize": "9", "GNU.sparse.name": "r"}, "1\n3\n2\n"+strings.Repeat("\x00", 506)+"ab"))
	f.Fuzz(func(t *testing.T, b []byte) {
		files, err := vagrant.OpenTar(bytes.NewReader(b))
		if err != nil {
			return
		}
		contents := map[string][]byte{}
		err = fs.WalkDir(files, ".", func(name string, e fs.DirEntry, err error) error {
			if err != nil || e.IsDir() {
				return err
			}
			i, err := e.Info()
			if err != nil || i.Size() > 1<<20 {
				return err
			}
			whole, err := fs.ReadFile(files, name)
			if err != nil {
				return err
			}
			o, err := files.Open(name)
			if err != nil {
				return err
			}
			parts := make([]byte, 0, len(whole))
			for {
				var p [37]byte
				n, err := o.Read(p[:])
				parts = append(parts, p[:n]...)
				if errors.Is(err, io.EOF) {
					break
				}
				if err != nil {
					return err
				}
			}
			if !bytes.Equal(whole, parts) || int64(len(whole)) != i.Size() {
				t.Fatalf("%q at once, %q in parts", whole, parts)
			}
			contents[name] = whole
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
		// The standard library, where it reads all of it, reads the same.
		if lib, ok := library(b); ok {
			for name, want := range lib {
				if got, ok := contents[name]; ok && !bytes.Equal(got, want) {
					t.Fatalf("%s: %q, the library has %q", name, got, want)
				}
			}
		}
		if box, err := vagrant.Open(files); err == nil {
			box.Machine()
			box.BaseMAC()
		}
	})
}

func library(b []byte) (map[string][]byte, bool) {
	out := map[string][]byte{}
	for r := tar.NewReader(bytes.NewReader(b)); ; {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			return out, true
		}
		if err != nil || h.Size > 1<<20 {
			return nil, false
		}
		data, err := io.ReadAll(r)
		if err != nil {
			return nil, false
		}
		out[strings.TrimPrefix(h.Name, "./")] = data
	}
}

func FuzzOpen(f *testing.F) {
	f.Add([]byte(`{"provider":"libvirt","format":"qcow2","virtual_size":40}`), []byte("config.vm.provider :libvirt do |v|\n v.memory = 2048\nend"))
	f.Add([]byte(`{"provider":"libvirt","disks":[{"path":"box.img"}]}`), []byte(`config.vm.base_mac = "080027AABBCC"`))
	f.Fuzz(func(t *testing.T, meta, ruby []byte) {
		b, err := vagrant.Open(fstest.MapFS{"metadata.json": {Data: meta}, "Vagrantfile": {Data: ruby}, "box.img": {Data: []byte("x")}})
		if err != nil {
			if !errors.Is(err, machine.ErrSyntax) && !errors.Is(err, machine.ErrUnsupported) {
				t.Fatal(err)
			}
			return
		}
		m := b.Machine()
		if m == nil || b.Family != "libvirt" || len(b.Problems) > 0 {
			return
		}
		// Written again it says the same.
		p := &vagrant.Package{Provider: b.Provider, Architecture: b.Architecture, Files: []vagrant.File{file("box.img", "x")}, Vagrantfile: vagrant.Defaults{
			BaseMAC: b.BaseMAC(), Memory: m.Memory.Bytes, CPUs: m.CPU.Count, Loader: m.Firmware.Loader,
		}}
		for _, d := range b.Disks {
			p.Disks = append(p.Disks, vagrant.Disk{Path: d.Path, Format: "qcow2", VirtualSize: max(d.VirtualSize, 1)})
		}
		var out bytes.Buffer
		if err := vagrant.Write(context.Background(), &out, p, vagrant.Options{Level: -1}); err != nil {
			if errors.Is(err, machine.ErrSyntax) || errors.Is(err, machine.ErrUnsupported) {
				return
			}
			t.Fatal(err)
		}
		files, err := vagrant.OpenTar(bytes.NewReader(out.Bytes()))
		if err != nil {
			t.Fatal(err)
		}
		back, err := vagrant.Open(files)
		if err != nil {
			t.Fatal(err)
		}
		n := back.Machine()
		if n.Memory != m.Memory || n.CPU.Count != m.CPU.Count || back.BaseMAC() != b.BaseMAC() || n.Firmware.Loader != m.Firmware.Loader {
			t.Fatalf("%+v, was %+v\n%s", n, m, out.Bytes())
		}
	})
}
