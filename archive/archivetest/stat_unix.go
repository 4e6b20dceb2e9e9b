//go:build unix

package archivetest

import (
	"fmt"
	"io/fs"
	"syscall"
)

func inode(st fs.FileInfo) (id string, links uint64) {
	s, ok := st.Sys().(*syscall.Stat_t)
	if !ok {
		return "", 1
	}
	return fmt.Sprint(s.Dev, s.Ino), uint64(s.Nlink)
}

func owner(st fs.FileInfo) string {
	s, ok := st.Sys().(*syscall.Stat_t)
	if !ok {
		return ""
	}
	return fmt.Sprintf(" %d:%d", s.Uid, s.Gid)
}
