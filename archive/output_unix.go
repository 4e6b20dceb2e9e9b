//go:build unix

package archive

import (
	"errors"
	"syscall"
)

// unsyncable reports whether err says that a directory cannot be synced on this file system.
func unsyncable(err error) bool {
	return errors.Is(err, syscall.EINVAL) || errors.Is(err, syscall.ENOTSUP)
}
