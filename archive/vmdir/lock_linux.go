package vmdir

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// inUse returns the locks of files that somebody else may write.
func inUse(ctx context.Context, root *os.Root, files []*Entry) ([]Lock, error) {
	owners, err := writers(ctx, files)
	if err != nil {
		return nil, err
	}
	loops := loopDevices()
	var locks []Lock
	for _, e := range files {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		locked, pid, err := qemuLocked(root, e)
		if err != nil {
			return nil, err
		}
		owner := owners[e.inode()]
		switch {
		case locked:
			if owner == "" && pid > 0 {
				owner = process(pid)
			}
			locks = append(locks, Lock{Path: e.Path, Kind: LockQEMU, Owner: owner})
		case owner != "":
			locks = append(locks, Lock{Path: e.Path, Kind: LockProcess, Owner: owner})
		}
		if dev := loops[e.inode()]; dev != "" {
			locks = append(locks, Lock{Path: e.Path, Kind: LockLoop, Owner: dev})
		}
	}
	return locks, nil
}

// Bytes of an image that QEMU locks: one above permBase for each permission that it uses.
//
// Source: QEMU, block/file-posix.c (RAW_LOCK_PERM_BASE) and include/block/block-common.h.
// Readers lock byte 100 and the bytes above 200 of what they cannot share; writers, in addition, these.
const (
	permBase           = 100
	permWrite          = 1
	permWriteUnchanged = 2
	permResize         = 3
)

// qemuLocked reports whether somebody holds the locks of a writer. pid is 0 when the kernel does
// not tell, as for locks that belong to open files.
func qemuLocked(root *os.Root, e *Entry) (locked bool, pid int, err error) {
	f, err := OpenRead(root, e)
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, ErrReplaced) {
		return false, 0, nil
	}
	if err != nil {
		return false, 0, err
	}
	defer f.Close()
	lk := unix.Flock_t{Type: unix.F_WRLCK, Whence: 0, Start: permBase + permWrite, Len: permResize - permWrite + 1}
	err = retry(func() error { return unix.FcntlFlock(f.Fd(), unix.F_OFD_GETLK, &lk) })
	if err != nil {
		return false, 0, nil // the file system knows no locks
	}
	return lk.Type != unix.F_UNLCK, int(max(lk.Pid, 0)), nil
}

// writers returns who has which of the files open for writing, as far as /proc shows. Without
// /proc it returns nothing.
func writers(ctx context.Context, files []*Entry) (map[inode]string, error) {
	wanted := make(map[inode]bool, len(files))
	for _, e := range files {
		wanted[e.inode()] = true
	}
	if len(wanted) == 0 {
		return nil, nil
	}
	procs, err := os.ReadDir("/proc")
	if err != nil {
		return nil, nil
	}
	owners := make(map[inode]string)
	for _, p := range procs {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		pid, err := strconv.Atoi(p.Name())
		if err != nil || pid == os.Getpid() {
			continue
		}
		fds, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", pid))
		if err != nil {
			continue // another user's, or gone
		}
		for _, fd := range fds {
			id, ok := openFile(fmt.Sprintf("/proc/%d/fd/%s", pid, fd.Name()))
			if ok && wanted[id] && owners[id] == "" && writes(pid, fd.Name()) {
				owners[id] = process(pid)
			}
		}
	}
	return owners, nil
}

// openFile returns which file a descriptor is open on. It asks no server, which might be gone.
func openFile(link string) (inode, bool) {
	target, err := os.Readlink(link)
	if err != nil || !strings.HasPrefix(target, "/") || strings.HasPrefix(target, "/dev/") {
		return inode{}, false // pipe:[1], socket:[2], a terminal
	}
	var st unix.Statx_t
	if err := unix.Statx(unix.AT_FDCWD, link, unix.AT_STATX_DONT_SYNC, unix.STATX_TYPE|unix.STATX_INO, &st); err != nil {
		return inode{}, false
	}
	return inode{unix.Mkdev(st.Dev_major, st.Dev_minor), st.Ino}, true
}

// writes reads the open flags of a descriptor.
func writes(pid int, fd string) bool {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/fdinfo/%s", pid, fd))
	if err != nil {
		return false
	}
	for line := range strings.Lines(string(b)) {
		if v, ok := strings.CutPrefix(line, "flags:"); ok {
			n, err := strconv.ParseUint(strings.TrimSpace(v), 8, 64)
			return err == nil && n&unix.O_ACCMODE != unix.O_RDONLY
		}
	}
	return false
}

// process names a process: "qemu-system-x86, process 123".
func process(pid int) string {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/comm", pid))
	if err != nil {
		return fmt.Sprintf("process %d", pid)
	}
	return fmt.Sprintf("%s, process %d", printable(strings.TrimSpace(string(b))), pid)
}

// loopDevices returns the files behind the kernel's loop devices that may write.
func loopDevices() map[inode]string {
	list, err := filepath.Glob("/sys/block/loop*/loop/backing_file")
	if err != nil {
		return nil
	}
	m := make(map[inode]string)
	for _, name := range list {
		dev := filepath.Dir(filepath.Dir(name))
		file, err := os.ReadFile(name)
		if err != nil {
			continue
		}
		if ro, err := os.ReadFile(filepath.Join(dev, "ro")); err != nil || strings.TrimSpace(string(ro)) != "0" {
			continue
		}
		var st unix.Statx_t
		path := strings.TrimSuffix(string(file), "\n")
		if err := unix.Statx(unix.AT_FDCWD, path, unix.AT_STATX_DONT_SYNC, unix.STATX_INO, &st); err == nil {
			m[inode{unix.Mkdev(st.Dev_major, st.Dev_minor), st.Ino}] = "/dev/" + filepath.Base(dev)
		}
	}
	return m
}

func hostUUID() string {
	b, err := os.ReadFile("/sys/class/dmi/id/product_uuid") // root only
	if err != nil {
		return ""
	}
	return string(b)
}

// processLives reports whether a process with that number, started at that time in ticks since
// boot, exists. 0: any time.
func processLives(pid int, start uint64) bool {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if errors.Is(err, fs.ErrNotExist) {
		_, err := os.Stat("/proc/self/stat")
		return err != nil // without /proc nobody knows
	}
	if err != nil {
		return true
	}
	// The name, in parentheses, may hold anything. The start time is field 22; 3 follows it.
	s := string(b)
	f := strings.Fields(s[strings.LastIndexByte(s, ')')+1:])
	if start == 0 || len(f) < 20 {
		return true
	}
	now, err := strconv.ParseUint(f[19], 10, 64)
	return err != nil || now == start
}
