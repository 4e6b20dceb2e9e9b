package vmdir

import "golang.org/x/sys/unix"

const (
	oNoAtime  = 0
	utimeOmit = unix.UTIME_OMIT
	hasXattrs = false
)

func keepXattr(string) bool                             { return false }
func (d *dir) xattrs(string) (map[string][]byte, error) { return nil, nil }
func (d *dir) setXattr(string, string, []byte) error    { return opError("setxattr", unix.EOPNOTSUPP) }
func (d *dir) removeXattr(string, string) error         { return opError("removexattr", unix.EOPNOTSUPP) }

func (d *dir) chmod(name string, mode uint32) error {
	return opError("chmod", retry(func() error { return unix.Fchmodat(d.fd(), name, mode, unix.AT_SYMLINK_NOFOLLOW) }))
}

func (d *dir) mkfifo(name string) error {
	return opError("mkfifo", retry(func() error { return unix.Mknodat(d.fd(), name, unix.S_IFIFO|0o600, 0) }))
}

func freeBytes(st *unix.Statfs_t) int64 { return clampMul(uint64(max(st.Bavail, 0)), int64(st.Bsize)) }
