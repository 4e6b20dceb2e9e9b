package platform

import (
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
)

// A Host is where programs are looked for. The zero value is this machine.
type Host struct {
	OS       string                       // as runtime.GOOS has it
	LookPath func(string) (string, error) // as exec.LookPath
	Exists   func(path string) bool       // whether a file is there
	Getenv   func(string) string          // as os.Getenv
	Root     bool                         // whether the user is root, if LookPath is set
}

func (h Host) filled() Host {
	if h.LookPath == nil {
		h.Root = os.Geteuid() == 0
		h.LookPath = exec.LookPath
	}
	if h.OS == "" {
		h.OS = runtime.GOOS
	}
	if h.Exists == nil {
		h.Exists = func(path string) bool {
			st, err := os.Stat(path)
			return err == nil && st.Mode().IsRegular()
		}
	}
	if h.Getenv == nil {
		h.Getenv = os.Getenv
	}
	return h
}

// places are where installers put programs that are not on the PATH.
func (h *Host) places(program string) []string {
	var list []string
	add := func(paths ...string) { list = append(list, paths...) }
	switch h.OS {
	case "darwin":
		switch program {
		case "vmrun":
			add("/Applications/VMware Fusion.app/Contents/Library/vmrun", "/Applications/VMware Fusion.app/Contents/Public/vmrun")
		case "VBoxManage":
			add("/Applications/VirtualBox.app/Contents/MacOS/VBoxManage", "/usr/local/bin/VBoxManage")
		default:
			add("/opt/homebrew/bin/"+program, "/usr/local/bin/"+program, "/opt/local/bin/"+program)
		}
	case "windows":
		for _, v := range []string{"ProgramFiles(x86)", "ProgramFiles"} {
			dir := h.Getenv(v)
			switch {
			case dir == "":
			case program == "vmrun" || program == "vmware" || program == "vmplayer":
				add(dir+`\VMware\VMware Workstation\`+program+".exe", dir+`\VMware\VMware Player\`+program+".exe", dir+`\VMware\VMware VIX\`+program+".exe")
			case program == "VBoxManage":
				add(dir + `\Oracle\VirtualBox\VBoxManage.exe`)
			}
		}
		if dir := h.Getenv("VBOX_MSI_INSTALL_PATH"); dir != "" && program == "VBoxManage" {
			add(strings.TrimSuffix(dir, `\`) + `\VBoxManage.exe`)
		}
	default:
		switch program {
		case "VBoxManage":
			add("/usr/lib/virtualbox/VBoxManage", "/opt/VirtualBox/VBoxManage")
		case "xl":
			add("/usr/sbin/xl", "/usr/lib/xen/bin/xl", "/usr/local/sbin/xl")
		}
	}
	return list
}

// find returns the path of a program; empty: it is not installed.
func (h *Host) find(program string) string {
	// A program of the working directory, which a relative entry of the PATH gives, comes with an error.
	if p, err := h.LookPath(program); err == nil {
		if abs, err := filepath.Abs(p); err == nil && !strings.Contains(p, `:\`) {
			return abs
		}
		return p
	}
	for _, p := range h.places(program) {
		if h.Exists(p) {
			return p
		}
	}
	return ""
}

// programs are those by which a platform is known to be installed: any of them.
func (h *Host) programs(platform, arch string) []string {
	switch platform {
	case VMware:
		return []string{"vmrun", "vmplayer"}
	case VirtualBox:
		return []string{"VBoxManage"}
	case Libvirt:
		return []string{"virsh"}
	case Xen:
		return []string{"xl"}
	case QEMU:
		if h.OS == "windows" {
			return nil // the script is one of a POSIX shell
		}
		return []string{"qemu-system-" + arch}
	}
	return nil
}

// installed reports whether a platform is.
func (h *Host) installed(platform, arch string) bool {
	for _, p := range h.programs(platform, arch) {
		if h.find(p) != "" {
			return true
		}
	}
	return false
}
