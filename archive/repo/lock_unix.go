//go:build unix

package repo

import (
	"errors"
	"syscall"

	"golang.org/x/sys/unix"
)

// alive reports whether there is a process with that number on this host.
func alive(pid int) bool {
	err := syscall.Kill(pid, 0)
	return err == nil || errors.Is(err, syscall.EPERM)
}

// noLocks reports whether the file system has no locks.
func noLocks(err error) bool {
	return errors.Is(err, unix.ENOTSUP) || errors.Is(err, unix.ENOLCK) || errors.Is(err, unix.ENOSYS) || errors.Is(err, unix.EINVAL)
}
