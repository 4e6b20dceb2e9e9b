package vmdir

import (
	"path"
	"strings"

	"tarvm/manifest"
)

// kind is what a file seems to be.
type kind struct {
	role   manifest.Role
	format string // of a disk, qemu's name
}

// byExt gives the role of names by their extension, in lower case.
var byExt = map[string]kind{
	// Disks whose content nothing recognised: damaged, or extents of another file.
	".vmdk": {manifest.RoleDisk, ""}, ".vdi": {manifest.RoleDisk, ""}, ".vhd": {manifest.RoleDisk, ""}, ".vhdx": {manifest.RoleDisk, ""},
	".avhd": {manifest.RoleDisk, ""}, ".avhdx": {manifest.RoleDisk, ""}, ".qcow": {manifest.RoleDisk, ""}, ".qcow2": {manifest.RoleDisk, ""},
	".qed": {manifest.RoleDisk, ""}, ".hds": {manifest.RoleDisk, ""}, ".hdd": {manifest.RoleDisk, ""},
	".img": {manifest.RoleDisk, "raw"}, ".raw": {manifest.RoleDisk, "raw"}, ".dd": {manifest.RoleDisk, "raw"}, ".iso": {manifest.RoleDisk, "raw"},
	// VMware, VirtualBox, Hyper-V, Parallels, Xen, UTM, OVF.
	".vmx": {role: manifest.RoleConfig}, ".vmxf": {role: manifest.RoleConfig}, ".vmtm": {role: manifest.RoleConfig}, ".vmsd": {role: manifest.RoleConfig},
	".vbox": {role: manifest.RoleConfig}, ".vbox-prev": {role: manifest.RoleConfig},
	".vmcx": {role: manifest.RoleConfig}, ".pvs": {role: manifest.RoleConfig}, ".cfg": {role: manifest.RoleConfig}, ".ovf": {role: manifest.RoleConfig},
	// Memory and state of devices.
	".vmem": {role: manifest.RoleMemory}, ".vmss": {role: manifest.RoleMemory}, ".vmsn": {role: manifest.RoleMemory},
	".sav": {role: manifest.RoleMemory}, ".mem": {role: manifest.RoleMemory}, ".vmrs": {role: manifest.RoleMemory}, ".vsv": {role: manifest.RoleMemory},
	".nvram": {role: manifest.RoleNVRAM}, ".fd": {role: manifest.RoleNVRAM}, ".vmgs": {role: manifest.RoleNVRAM},
	".log": {role: manifest.RoleLog},
}

// byName tells what a file's name says.
func byName(name string, size int64) kind {
	lower := strings.ToLower(name)
	ext := path.Ext(lower)
	stem := strings.TrimSuffix(lower, ext)
	switch {
	case lower == "diskdescriptor.xml" || lower == "config.plist":
		return kind{role: manifest.RoleConfig}
	case ext == ".bin" && isGUID(stem): // Hyper-V before 2016
		return kind{role: manifest.RoleMemory}
	case ext == ".lock" && size == 0:
		return kind{role: manifest.RoleLock}
	case path.Ext(stem) == ".log" && isNumber(ext[1:]): // vm.log.1
		return kind{role: manifest.RoleLog}
	}
	if k, ok := byExt[ext]; ok {
		return k
	}
	if strings.Contains(lower, "_vars") || strings.HasSuffix(lower, ".fd.tmpl") {
		return kind{role: manifest.RoleNVRAM}
	}
	return kind{}
}

// opens tells whether a file is opened to see what it holds.
func opens(name string, size int64) bool {
	const small = 64 << 10 // an empty qcow2 image has 192 KiB
	if size >= small {
		return true
	}
	ext := strings.ToLower(path.Ext(name))
	if size < 512 {
		return ext == ".vmdk" && size > 0 // qemu-img's descriptors have 350 bytes
	}
	return ext == ".xml" || byExt[ext].role == manifest.RoleDisk || byExt[ext].role == manifest.RoleMemory
}

// isLock tells the locks of VMware: M12345.lck in vm.vmdk.lck, and ESX's .lck-0123456789abcdef.
func isLock(name string, t manifest.Type) bool {
	if t != manifest.File && t != manifest.Dir {
		return false
	}
	lower := strings.ToLower(name)
	hex, esx := strings.CutPrefix(lower, ".lck-")
	return strings.HasSuffix(lower, ".lck") || esx && hex != "" && strings.Trim(hex, "0123456789abcdef") == ""
}

func isNumber(s string) bool { return s != "" && strings.Trim(s, "0123456789") == "" }

// isGUID tells 8-4-4-4-12 hexadecimal digits, in lower case.
func isGUID(s string) bool {
	if len(s) != 36 {
		return false
	}
	for i, c := range []byte(s) {
		if dash := i == 8 || i == 13 || i == 18 || i == 23; dash != (c == '-') || !dash && !strings.ContainsRune("0123456789abcdef", rune(c)) {
			return false
		}
	}
	return true
}
