//go:build unix

package vmdir

import (
	"errors"
	"os"

	"golang.org/x/sys/unix"
)

func claim(f *os.File) error {
	err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
	if errors.Is(err, unix.EWOULDBLOCK) {
		return ErrClaimed
	}
	if errors.Is(err, unix.ENOTSUP) || errors.Is(err, unix.ENOLCK) || errors.Is(err, unix.EINVAL) {
		return errors.ErrUnsupported
	}
	return err
}
