package chain

import (
	"os"

	"golang.org/x/sys/unix"
)

// isMount reports whether something is mounted at dir, so that it cannot be renamed.
func isMount(dir string) bool {
	var st unix.Statx_t
	if unix.Statx(unix.AT_FDCWD, dir, unix.AT_SYMLINK_NOFOLLOW, 0, &st) != nil {
		return false
	}
	return st.Attributes_mask&unix.STATX_ATTR_MOUNT_ROOT != 0 && st.Attributes&unix.STATX_ATTR_MOUNT_ROOT != 0
}

// syncFS writes everything of the file system of f to disk.
func syncFS(f *os.File) (bool, error) { return true, unix.Syncfs(int(f.Fd())) }
