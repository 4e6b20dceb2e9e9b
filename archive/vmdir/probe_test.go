package vmdir_test

import (
	"encoding/binary"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"tarvm/archive/vmdir"
	"tarvm/formats/all"
	"tarvm/manifest"
)

// padded is s at the start of n bytes.
func padded(s string, n int) string { return s + strings.Repeat("\x00", n-len(s)) }

func bootSector() string {
	b := make([]byte, 1<<20)
	b[446], b[450] = 0x80, 0x83
	binary.LittleEndian.PutUint32(b[454:], 2048)
	binary.LittleEndian.PutUint32(b[458:], 1000)
	b[510], b[511] = 0x55, 0xAA
	return string(b)
}

func gpt() string { return strings.Repeat("\x00", 512) + padded("EFI PART", 1<<20-512) }

func elf(kind byte) string {
	return padded("\x7fELF\x02\x01\x01"+strings.Repeat("\x00", 9)+string([]byte{kind}), 100<<10)
}

// Content goes before names, and what nothing recognises has no role.
func TestRoles(t *testing.T) {
	const big = 100 << 10
	for _, c := range []struct {
		name, content string
		role          manifest.Role
		format        string
	}{
		{"a.vmx", "config.version", manifest.RoleConfig, ""},
		{"VM.VMX", "config.version", manifest.RoleConfig, ""},
		{"a.vbox-prev", "<?xml", manifest.RoleConfig, ""},
		{"a.nvram", "x", manifest.RoleNVRAM, ""},
		{"OVMF_VARS.fd", "x", manifest.RoleNVRAM, ""},
		{"a_VARS.bin", "x", manifest.RoleNVRAM, ""},
		{"vmware.log", "x", manifest.RoleLog, ""},
		{"VBox.log.3", "x", manifest.RoleLog, ""},
		{"a.log.txt", "x", manifest.RoleOther, ""},
		{"0a1b2c3d-1111-2222-3333-444455556666.bin", "x", manifest.RoleMemory, ""},
		{"0a1b2c3d-1111-2222-3333-44445555666g.bin", "x", manifest.RoleOther, ""},
		{"DiskDescriptor.xml", "x", manifest.RoleConfig, ""},
		{"notes.txt", "x", manifest.RoleOther, ""},
		{"empty.vmdk", "", manifest.RoleDisk, ""},
		// Names that content contradicts, and content under any name.
		{"a.bin", padded("QEVM\x00\x00\x00\x03", big), manifest.RoleMemory, ""},
		{"b.bin", padded("QEVM\x00\x00\x00\x04", big), manifest.RoleOther, ""},
		{"saved", padded("LibvirtQemudSave", big), manifest.RoleMemory, ""},
		{"vb", padded("\x7fVirtualBox SavedState V2.0", big), manifest.RoleMemory, ""},
		{"a.img", padded("\xd2\xbe\xd2\xbe", big), manifest.RoleMemory, ""},
		{"core", elf(4), manifest.RoleMemory, ""},
		{"program", elf(2), manifest.RoleOther, ""},
		{"domain.xml", padded("<?xml version='1.0'?>\n<!-- a > b -->\n<domain type='kvm'>", 600), manifest.RoleConfig, ""},
		{"other.xml", padded("<?xml version='1.0'?>\n<domains>", 600), manifest.RoleOther, ""},
		{"open.xml", padded("<?xml version='1.0'", 600), manifest.RoleOther, ""},
		{"mbr", bootSector(), manifest.RoleDisk, "raw"},
		{"gpt", gpt(), manifest.RoleDisk, "raw"},
		{"odd size", bootSector() + "x", manifest.RoleOther, ""},
		{"zeros", padded("", 1<<20), manifest.RoleOther, ""},
		{"q.img", padded("QFI\xfb\x00\x00\x00\x63", big), manifest.RoleDisk, "qcow2"}, // of a version that nobody knows
		{"cd.iso", strings.Repeat("\x00", 16*2048) + padded("\x01CD001", big), manifest.RoleDisk, "iso"},
	} {
		dir := t.TempDir()
		must(t, os.WriteFile(filepath.Join(dir, c.name), []byte(c.content), 0o644))
		e := find(t, walk(t, dir, vmdir.WalkOptions{Formats: all.Disks(), Block: 64 << 10}), c.name)
		if e.Role != c.role || e.Format != c.format || e.Skipped != "" || e.Phase != 0 {
			t.Errorf("%s: role %q, format %q, skipped %q, phase %d, want %q and %q", c.name, e.Role, e.Format, e.Skipped, e.Phase, c.role, c.format)
		}
	}
}

// Disks by other programs, under a name that says nothing.
func TestRolesOfDisks(t *testing.T) {
	for format, opts := range map[string]string{
		"qcow2": "", "vdi": "", "vhdx": "", "vpc": "subformat=dynamic", "vmdk": "subformat=monolithicSparse", "qed": "", "parallels": "",
	} {
		dir := t.TempDir()
		args := []string{"create", "-q", "-f", format}
		if opts != "" {
			args = append(args, "-o", opts)
		}
		run(t, "qemu-img", append(args, filepath.Join(dir, "image"), "64M")...)
		e := find(t, walk(t, dir, vmdir.WalkOptions{Formats: all.Disks(), Block: 64 << 10}), "image")
		if e.Size < 64<<10 {
			continue // so small that only its name could have it opened
		}
		if e.Role != manifest.RoleDisk || e.Format != format {
			t.Errorf("%s: role %q, format %q", format, e.Role, e.Format)
		}
	}
	// A descriptor names raw extents.
	dir := t.TempDir()
	run(t, "qemu-img", "create", "-q", "-f", "vmdk", "-o", "subformat=twoGbMaxExtentFlat", filepath.Join(dir, "d.vmdk"), "3G")
	entries := walk(t, dir, vmdir.WalkOptions{Formats: all.Disks(), Block: 64 << 10})
	if e := find(t, entries, "d.vmdk"); e.Format != "vmdk" || e.Subformat != "descriptor" {
		t.Errorf("%+v", e.Hints)
	}
	for _, name := range []string{"d-f001.vmdk", "d-f002.vmdk"} {
		if e := find(t, entries, name); e.Role != manifest.RoleDisk || e.Format != "raw" || e.Subformat != "extent" {
			t.Errorf("%s: %+v", name, e.Hints)
		}
	}
}
