package vmdir

import (
	"os"

	"golang.org/x/sys/windows"
)

func freeSpace(root *os.Root) (int64, error) {
	p, err := windows.UTF16PtrFromString(root.Name())
	if err != nil {
		return 0, opError("statfs", err)
	}
	var free uint64
	if err := windows.GetDiskFreeSpaceEx(p, &free, nil, nil); err != nil {
		return 0, opError("statfs", err)
	}
	return clampMul(free, 1), nil
}
