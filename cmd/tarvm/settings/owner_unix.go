//go:build unix

package settings

import (
	"io/fs"
	"os"
	"syscall"
)

// sameOwner gives f the owner of what it is to replace: root may change the settings of others.
func sameOwner(f *os.File, st fs.FileInfo) error {
	mine, err := f.Stat()
	if err != nil {
		return err
	}
	have, ok := mine.Sys().(*syscall.Stat_t)
	want, ok2 := st.Sys().(*syscall.Stat_t)
	if !ok || !ok2 || have.Uid == want.Uid && have.Gid == want.Gid {
		return nil
	}
	err = f.Chown(int(want.Uid), int(want.Gid))
	if err != nil && have.Uid == want.Uid {
		return nil // a group that the user is not in
	}
	return err
}
