//go:build !linux && !darwin && !freebsd && !windows

package vmdir

import (
	"errors"
	"os"
)

func freeSpace(*os.Root) (int64, error) { return 0, opError("statfs", errors.ErrUnsupported) }
