package vmdir

import (
	"bytes"
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"tarvm/manifest"
)

// What a Lock is.
const (
	LockVMware     = "vmware lck"
	LockQEMU       = "qemu image lock"
	LockVirtualBox = "virtualbox"
	LockProcess    = "open by process"
	LockLoop       = "loop device"
)

// A Lock is a sign that the machine runs.
type Lock struct {
	Path  manifest.Path `json:"path"`            // of the lock, or of the file that is in use
	Kind  string        `json:"kind"`            // one of the constants
	Owner string        `json:"owner,omitempty"` // who holds it: "qemu-system-x86, process 123"
	Hint  string        `json:"hint,omitempty"`  // how to stop the machine
	Stale bool          `json:"stale,omitempty"` // it was left behind on this host, and holds nothing
}

// Running returns the signs that a machine is running from the directory; none: it seems to be
// stopped. Entries are those of Walk; dir is the directory's path, for hints.
//
// VMware: a directory NAME.lck with a lock file in it, or another file that is named like a lock.
// A lock is Stale when its machine id is this host's and its process does not exist any more;
// the id is known by the host's UUID, which VMware for Linux does not use, so that there, and for
// locks of other hosts, a lock is always taken for held.
//
// On Linux also: QEMU's locks on images, as far as they tell that somebody may write; loop
// devices that write to a file; and processes, other than this one, that have a file open for
// writing. Files that are looked at are those with role disk, memory or nvram, and others of
// at least 1 MiB except logs. Processes of other users are seen by root only.
//
// Elsewhere only VMware is recognised. A machine that QEMU or VirtualBox has paused keeps its
// files open, and therefore counts as running.
func Running(ctx context.Context, root *os.Root, dir string, entries []Entry) ([]Lock, error) {
	h := hints{dir: dir}
	for i := range entries {
		if e := &entries[i]; h.vmx == "" && strings.HasSuffix(strings.ToLower(string(e.Path)), ".vmx") {
			h.vmx = string(e.Path)
		}
	}
	var locks []Lock
	for i := range entries {
		e := &entries[i]
		if e.Role != manifest.RoleLock || e.Skipped == "" || e.Type != manifest.File {
			continue // an empty lock directory holds nothing
		}
		l, err := vmwareLock(root, e)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return nil, err
		}
		l.Hint = h.vmware()
		locks = append(locks, l)
	}
	var used []*Entry
	for i := range entries {
		if mayBeUsed(&entries[i]) {
			used = append(used, &entries[i])
		}
	}
	more, err := inUse(ctx, root, used)
	if err != nil {
		return nil, err
	}
	for i := range more {
		more[i].Hint = h.process(more[i].Owner)
		if strings.HasPrefix(strings.ToLower(more[i].Owner), "vbox") || strings.HasPrefix(more[i].Owner, "VirtualBox") {
			more[i].Kind = LockVirtualBox
		}
	}
	return append(locks, more...), nil
}

// InUse returns the signs that some of the files of a directory are in use by a running machine, as Running does, of
// VMware's locks those beside the files. Hints are left out. Files that are not there are not in use.
func InUse(ctx context.Context, root *os.Root, paths []manifest.Path) ([]Lock, error) {
	var locks []Lock
	var used []*Entry
	for _, p := range paths {
		e := &Entry{Member: manifest.Member{State: manifest.State{Path: p, Type: manifest.File}}}
		err := Refresh(root, e)
		if errors.Is(err, fs.ErrNotExist) || errors.Is(err, ErrReplaced) {
			continue
		}
		if err != nil {
			return nil, err
		}
		used = append(used, e)
		list, err := fs.ReadDir(root.FS(), string(p)+".lck")
		if err != nil {
			continue // there is none
		}
		for _, f := range list {
			l := &Entry{Member: manifest.Member{State: manifest.State{Path: p + ".lck/" + manifest.Path(f.Name()), Type: manifest.File}}}
			if err := Refresh(root, l); err != nil {
				continue // it has gone
			}
			lock, err := vmwareLock(root, l)
			if err == nil {
				locks = append(locks, lock)
			} else if !errors.Is(err, fs.ErrNotExist) {
				return nil, err
			}
		}
	}
	more, err := inUse(ctx, root, used)
	return append(locks, more...), err
}

// mayBeUsed tells the files that a running machine holds open for writing.
func mayBeUsed(e *Entry) bool {
	if e.Type != manifest.File || e.Skipped != "" {
		return false
	}
	switch e.Role {
	case manifest.RoleDisk, manifest.RoleMemory, manifest.RoleNVRAM:
		return true
	case manifest.RoleOther:
		return e.Size >= 1<<20 // perhaps a disk that nothing recognised
	}
	return false
}

// hints say how to stop a machine.
type hints struct{ dir, vmx string }

func (h *hints) vmware() string {
	vmx := "FILE.vmx"
	if h.vmx != "" {
		vmx = strconv.Quote(filepath.Join(h.dir, filepath.FromSlash(h.vmx)))
	}
	return "suspend it (vmrun suspend " + vmx + ") or shut it down, or pack it live"
}

func (h *hints) process(owner string) string {
	o := strings.ToLower(owner)
	switch {
	case strings.HasPrefix(o, "vbox"), strings.HasPrefix(o, "virtualbox"):
		return "save its state (VBoxManage controlvm NAME savestate) or shut it down, or pack it live"
	case strings.HasPrefix(o, "vmware"), strings.HasPrefix(o, "vmx"):
		return h.vmware()
	case strings.HasPrefix(o, "qemu"), strings.HasPrefix(o, "kvm"), o == "":
		return "save it (virsh managedsave NAME) or shut it down; or pause it (virsh suspend NAME) and pack it live"
	}
	return "end the program that uses it, or pack it live"
}

// lockMax is the size of VMware's lock files, 512 bytes, with some room.
const lockMax = 4 << 10

// vmwareLock reads a lock file.
//
// Source: open-vm-tools, lib/file/fileLockPrimitive.c and fileLockPosix.c. The words are the id of
// the machine, that of the process ("PID", "PID-START" or "PID-START(NAME)"), a number, and S or X.
func vmwareLock(root *os.Root, e *Entry) (Lock, error) {
	l := Lock{Path: e.Path, Kind: LockVMware}
	f, err := OpenRead(root, e)
	if errors.Is(err, ErrReplaced) || errors.Is(err, fs.ErrPermission) {
		return l, nil // still there: held
	}
	if err != nil {
		return l, err
	}
	defer f.Close()
	b := make([]byte, lockMax)
	n, _ := f.ReadAt(b, 0) // what cannot be read cannot be judged, and counts as held
	b, _, _ = bytes.Cut(b[:n], []byte{0})
	words := strings.Fields(string(b))
	if len(words) < 2 {
		return l, nil
	}
	host, process := words[0], words[1]
	pid, start, name := parseProcess(process)
	if pid == 0 {
		l.Owner = fmt.Sprintf("%q", process)
		return l, nil
	}
	l.Owner = fmt.Sprintf("process %d on machine %s", pid, printable(host))
	if name != "" {
		l.Owner = printable(name) + ", " + l.Owner
	}
	l.Stale = isThisHost(host) && !processLives(pid, start)
	return l, nil
}

// parseProcess reads "PID-START(NAME)"; START and NAME may be missing. pid is 0 when s says none.
func parseProcess(s string) (pid int, start uint64, name string) {
	if i := strings.IndexByte(s, '('); i >= 0 {
		name = strings.TrimSuffix(s[i+1:], ")")
		s = s[:i]
	}
	p, at, _ := strings.Cut(s, "-")
	n, err := strconv.ParseInt(p, 10, 32)
	if err != nil || n <= 0 {
		return 0, 0, ""
	}
	start, err = strconv.ParseUint(at, 10, 64)
	if err != nil {
		start = 0 // not known
	}
	return int(n), start, name
}

// isThisHost compares "uuid=56-4d-..." with the host's UUID. VMware writes the 16 bytes in
// memory order; firmware tools show the first three groups in either order.
func isThisHost(id string) bool {
	s, ok := strings.CutPrefix(id, "uuid=")
	theirs := uuidBytes(s)
	ours := uuidBytes(hostUUID())
	if !ok || theirs == nil || ours == nil || slices.Max(ours) == 0 || slices.Min(ours) == 0xFF {
		return false
	}
	if bytes.Equal(theirs, ours) {
		return true
	}
	slices.Reverse(ours[0:4])
	slices.Reverse(ours[4:6])
	slices.Reverse(ours[6:8])
	return bytes.Equal(theirs, ours)
}

// uuidBytes returns the 16 bytes of s, nil when it has more or less.
func uuidBytes(s string) []byte {
	b, err := hex.DecodeString(strings.NewReplacer("-", "", " ", "").Replace(strings.TrimSpace(s)))
	if err != nil || len(b) != 16 {
		return nil
	}
	return b
}

// printable makes text from a file harmless in a message.
func printable(s string) string {
	const most = 64
	if len(s) > most {
		s = s[:most] + "..."
	}
	q := strconv.QuoteToASCII(s)
	return q[1 : len(q)-1]
}
