package main

import (
	"encoding/binary"
	"os"

	"golang.org/x/sys/unix"
)

// A watch sees files come and go.
type watch struct{ f *os.File }

// watch begins to look at what commands change that are killed, in the repository and in the working area.
func (k *killing) watch() *watch {
	k.Helper()
	fd, err := unix.InotifyInit1(unix.IN_CLOEXEC | unix.IN_NONBLOCK)
	k.ok(err)
	for _, dir := range []string{"repo/entries", "repo/entries/stable", "repo/entries/victim", "repo/entries/imported", "out"} {
		// One that is not there has nothing to be seen.
		_, _ = unix.InotifyAddWatch(fd, k.path(dir), unix.IN_CREATE|unix.IN_DELETE|unix.IN_MOVED_FROM|unix.IN_MOVED_TO)
	}
	return &watch{os.NewFile(uintptr(fd), "inotify")}
}

// wait reports whether so many changes have come; not when the watch was closed.
func (w *watch) wait(changes int) bool {
	var buf [4096]byte
	for {
		n, err := w.f.Read(buf[:])
		if err != nil {
			return false
		}
		for at := 0; at+unix.SizeofInotifyEvent <= n; changes-- {
			if changes <= 1 {
				return true
			}
			at += unix.SizeofInotifyEvent + int(binary.NativeEndian.Uint32(buf[at+12:])) // the length of the name
		}
	}
}

func (w *watch) close() { _ = w.f.Close() }
