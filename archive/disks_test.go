package archive_test

import (
	"bytes"
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"tarvm/archive"
	"tarvm/archive/archivetest"
	"tarvm/archive/codec"
	codecs "tarvm/archive/codec/all"
	"tarvm/formats"
	disks "tarvm/formats/all"
	"tarvm/formats/layers"
	"tarvm/manifest"
)

// qemu runs a program of QEMU's in dir.
func qemu(t *testing.T, dir, name string, args ...string) {
	t.Helper()
	cmd := exec.Command(archivetest.Tool(t, name), args...)
	cmd.Dir = dir
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%s %q: %v\n%s", name, args, err, out)
	}
}

// packDisks packs dir and returns its members by path.
func packDisks(t *testing.T, dir string, parent *archive.Manifest) (map[string]manifest.Hints, *archive.Manifest) {
	t.Helper()
	plan, err := archive.MakePlan(context.Background(), dir, archive.PackOptions{
		Codec: codec.ByName(codecs.Codecs(), "lz4"), Formats: disks.Disks(), Parent: parent,
	})
	if err != nil {
		t.Fatal(err)
	}
	defer plan.Close()
	var out, side bytes.Buffer
	if _, err := plan.Pack(context.Background(), &out, &side); err != nil {
		t.Fatal(err)
	}
	m, err := archive.OpenManifest(bytes.NewReader(side.Bytes()))
	if err != nil {
		t.Fatal(err)
	}
	hints := make(map[string]manifest.Hints)
	for i := range m.Members {
		hints[string(m.Members[i].Path)] = m.Members[i].Hints
	}
	return hints, m
}

// idOf reads the disk for its id.
func idOf(t *testing.T, dir, name string) string {
	t.Helper()
	root, err := os.OpenRoot(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer root.Close()
	d := layers.NewDir(root.FS(), dir)
	defer d.Close()
	disk, err := layers.Open(d, name, layers.Options{Formats: disks.Disks()})
	if err != nil {
		t.Fatal(err)
	}
	id, err := layers.ID(context.Background(), disk, formats.EncodeOptions{})
	if err != nil {
		t.Fatal(err)
	}
	return id.String()
}

// TestDisksOfSnapshots: the links of a chain are told, and which disk is active; its id is what reading it gives.
func TestDisksOfSnapshots(t *testing.T) {
	dir := t.TempDir()
	write := func(name, text string) {
		t.Helper()
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	qemu(t, dir, "qemu-img", "create", "-q", "-f", "vmdk", "vm.vmdk", "20M")
	qemu(t, dir, "qemu-io", "-f", "vmdk", "-c", "write -q -P 1 0 5M", "-c", "write -q -P 2 9M 33k", "vm.vmdk")
	hints, first := packDisks(t, dir, nil)
	if h := hints["vm.vmdk"]; !h.Active || h.DiskParent != "" || h.DiskID != idOf(t, dir, "vm.vmdk") {
		t.Errorf("alone: %+v", h)
	}
	qemu(t, dir, "qemu-img", "create", "-q", "-f", "vmdk", "-b", "vm.vmdk", "-F", "vmdk", "vm-000001.vmdk")
	qemu(t, dir, "qemu-io", "-f", "vmdk", "-c", "write -q -P 3 1M 100k", "vm-000001.vmdk")
	qemu(t, dir, "qemu-img", "create", "-q", "-f", "vmdk", "-b", "vm.vmdk", "-F", "vmdk", "vm-000002.vmdk")
	qemu(t, dir, "qemu-io", "-f", "vmdk", "-c", "write -q -P 4 3M 100k", "vm-000002.vmdk")
	qemu(t, dir, "qemu-img", "create", "-q", "-f", "vmdk", "-b", "vm-000001.vmdk", "-F", "vmdk", "vm-000003.vmdk")
	qemu(t, dir, "qemu-img", "convert", "-f", "vmdk", "-O", "qcow2", "vm-000003.vmdk", "other.qcow2")
	check := func(hints map[string]manifest.Hints, active ...string) {
		t.Helper()
		want := map[string]string{"vm.vmdk": "", "vm-000001.vmdk": "vm.vmdk", "vm-000002.vmdk": "vm.vmdk", "vm-000003.vmdk": "vm-000001.vmdk", "other.qcow2": ""}
		for name, parent := range want {
			h := hints[name]
			is := strings.Contains(strings.Join(active, " "), name)
			if string(h.DiskParent) != parent || h.Active != is || (h.DiskID != "") != is {
				t.Errorf("%s: %+v", name, h)
			}
			if is && h.DiskID != idOf(t, dir, name) {
				t.Errorf("%s: id %s", name, h.DiskID)
			}
		}
		if hints["vm-000003.vmdk"].Active && hints["vm-000003.vmdk"].DiskID != hints["other.qcow2"].DiskID {
			t.Error("the copy has another id")
		}
	}
	hints, _ = packDisks(t, dir, first)
	check(hints, "vm-000002.vmdk", "vm-000003.vmdk", "other.qcow2")
	write("vm.vmx", ".encoding = \"UTF-8\"\nconfig.version = \"8\"\nscsi0:0.fileName = \"vm-000003.vmdk\"\n")
	hints, _ = packDisks(t, dir, nil)
	check(hints, "vm-000003.vmdk", "other.qcow2")
	write("vm.vmx", ".encoding = \"UTF-8\"\nconfig.version = \"8\"\nscsi0:0.fileName = \"vm-000002.vmdk\"\n")
	hints, _ = packDisks(t, dir, nil)
	check(hints, "vm-000002.vmdk", "other.qcow2")
}

// TestDiskIDs: a disk's id is the same from every format whose grid serves, and left out where it does not.
func TestDiskIDs(t *testing.T) {
	dir := t.TempDir()
	qemu(t, dir, "qemu-img", "create", "-q", "-f", "raw", "a.raw", "30000128")
	qemu(t, dir, "qemu-io", "-f", "raw", "-c", "write -q -P 1 512 5M", "-c", "write -q -P 2 9M 33k", "-c", "write -q -P 3 29999616 512", "a.raw")
	want := idOf(t, dir, "a.raw")
	for _, f := range []string{"qcow2", "vmdk", "vdi", "vhdx", "vpc"} {
		args := []string{"convert", "-f", "raw", "-O", f}
		if f == "vpc" {
			args = append(args, "-o", "force_size=on")
		}
		qemu(t, dir, "qemu-img", append(args, "a.raw", "b."+f)...)
	}
	qemu(t, dir, "qemu-img", "convert", "-f", "raw", "-O", "qcow2", "-c", "a.raw", "compressed.qcow2")
	qemu(t, dir, "qemu-img", "convert", "-f", "raw", "-O", "vmdk", "-o", "subformat=twoGbMaxExtentFlat", "a.raw", "split.vmdk")
	hints, _ := packDisks(t, dir, nil)
	for name, h := range hints {
		if h.Role != manifest.RoleDisk || h.Subformat == "extent" {
			continue
		}
		if h.DiskID != want && (h.DiskID != "" || !strings.HasPrefix(name, "compressed")) {
			t.Errorf("%s: %+v, want %s", name, h, want)
		}
	}
	if hints["split.vmdk"].DiskID == "" || hints["b.vpc"].DiskID == "" || hints["a.raw"].Role != manifest.RoleDisk && hints["a.raw"].DiskID != "" {
		t.Errorf("%+v, %+v, %+v", hints["split.vmdk"], hints["b.vpc"], hints["a.raw"])
	}
}
