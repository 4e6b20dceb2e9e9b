package archive_test

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"sort"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"tarvm/archive"
	"tarvm/archive/archivetest"
	"tarvm/manifest"
)

// attributed makes a directory whose files have attributes of all kinds that are kept. It skips
// the test where the file system has none.
func attributed(t testing.TB) string {
	t.Helper()
	archivetest.Tools(t, "setfacl", "getfacl", "getfattr", "setfattr")
	dir := filepath.Join(t.TempDir(), "vm")
	mustDo(t, os.Mkdir(dir, 0o755))
	mustDo(t, os.Mkdir(filepath.Join(dir, "sub"), 0o750))
	writeFile(t, dir, "disk.img", noise(1, 3<<20))
	writeFile(t, dir, "small", []byte("small"))
	writeFile(t, dir, "plain", []byte("plain"))
	writeFile(t, dir, "sub/file", []byte("file"))
	mustDo(t, os.Symlink("small", filepath.Join(dir, "link")))
	set := func(name, attr string, value []byte) {
		if err := unix.Lsetxattr(filepath.Join(dir, name), attr, value, 0); err != nil {
			if errors.Is(err, unix.ENOTSUP) {
				t.Skipf("%s: this file system keeps no attributes", attr)
			}
			t.Fatalf("%s of %s: %v", attr, name, err)
		}
	}
	set("disk.img", "user.text", []byte("text"))
	set("disk.img", "user.empty", nil)
	set("disk.img", "user.bytes", []byte("\x00\x01\xff\n=\x00"))
	set("small", "user.long", bytes.Repeat([]byte("0123456789abcdef"), 120))
	set("small", "user.name with spaces, é", []byte("x"))
	set("sub", "user.on.a.directory", []byte("yes"))
	set(".", "user.top", []byte("top"))
	if os.Geteuid() == 0 {
		set("plain", "security.capability", []byte("\x01\x00\x00\x02\x00\x04\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00")) // cap_net_bind_service=ep
	}
	command(t, dir, "setfacl", "-m", "u:12345:rw,g:23456:r", "small", "disk.img")
	command(t, dir, "setfacl", "-m", "u:12345:rwx", "sub")
	command(t, dir, "setfacl", "-d", "-m", "u:12345:rx,o::-", "sub")
	return dir
}

// attributes is what getfattr and getfacl say of a directory, without what is not kept.
func attributes(t testing.TB, dir string) string {
	t.Helper()
	facl := command(t, dir, "getfacl", "-R", "-n", "-p", ".")
	fattr := command(t, dir, "getfattr", "-R", "-h", "-d", "-m", "-", "-e", "hex", ".")
	var parts []string
	for part := range strings.SplitSeq(facl+"\n"+fattr, "\n\n") {
		var lines []string
		for line := range strings.Lines(part) {
			if line = strings.TrimSpace(line); line != "" && !strings.HasPrefix(line, "security.selinux") {
				lines = append(lines, line)
			}
		}
		if len(lines) > 1 || len(lines) == 1 && !strings.HasPrefix(lines[0], "# file:") {
			sort.Strings(lines[1:])
			parts = append(parts, strings.Join(lines, "\n"))
		}
	}
	sort.Strings(parts)
	return strings.Join(parts, "\n\n")
}

func TestXattrs(t *testing.T) {
	dir := attributed(t)
	want := attributes(t, dir)
	for _, s := range []string{"user.text", "user.on.a.directory", "user:12345:rw", "default:user:12345:r-x", "user.top"} {
		if !strings.Contains(want, s) {
			t.Fatalf("%s is not there:\n%s", s, want)
		}
	}
	full := pack(t, dir, archive.PackOptions{})
	full.verify(t)
	if m := member(t, full.result.Snapshot, "disk.img"); len(m.Xattrs) != 4 || string(m.Xattrs["user.bytes"]) != "\x00\x01\xff\n=\x00" {
		t.Errorf("%q", m.Xattrs)
	}
	file := filepath.Join(t.TempDir(), "a.tar")
	mustDo(t, os.WriteFile(file, full.data, 0o600))
	check := func(name, to string) {
		t.Helper()
		mustDo(t, os.RemoveAll(filepath.Join(to, ".tarvm")))
		if got := attributes(t, to); got != want {
			t.Errorf("%s: got\n%s\n\nwant\n%s", name, got, want)
		}
	}
	t.Run("restore", func(t *testing.T) {
		to := filepath.Join(t.TempDir(), "out")
		restoreChain(t, to, file)
		check("restored", to)
		same(t, dir, to)
	})
	t.Run("restore.py", func(t *testing.T) {
		archivetest.Tools(t, "python3")
		to := filepath.Join(t.TempDir(), "out")
		restorePy(t, to, full)
		check("restore.py", to)
	})
	t.Run("tar", func(t *testing.T) {
		archivetest.Tools(t, "tar")
		to := t.TempDir()
		if out := command(t, to, "tar", "--xattrs", "--xattrs-include=*", "--acls", "-xpf", file); out != "" {
			t.Errorf("tar says: %s", out)
		}
		check("tar --xattrs --acls", to)
	})
	t.Run("increment", func(t *testing.T) {
		mustDo(t, unix.Lsetxattr(filepath.Join(dir, "disk.img"), "user.text", []byte("other"), 0))
		mustDo(t, unix.Lremovexattr(filepath.Join(dir, "small"), "user.long"))
		command(t, dir, "setfacl", "-b", "small")
		command(t, dir, "setfacl", "-m", "g:34567:x", "sub/file", "sub")
		want = attributes(t, dir)
		inc := pack(t, dir, archive.PackOptions{Parent: full.manifest(t)})
		inc.verify(t)
		if inc.result.Stats.Stored != 0 || inc.result.ID == full.result.ID {
			t.Errorf("attributes alone: %+v", inc.result.Stats)
		}
		if m := member(t, inc.result.Snapshot, "small"); len(m.Xattrs) != 1 || m.Stored.As != manifest.AsSame {
			t.Errorf("%q, stored as %s", m.Xattrs, m.Stored.As)
		}
		next := filepath.Join(t.TempDir(), "b.tar")
		mustDo(t, os.WriteFile(next, inc.data, 0o600))
		to := filepath.Join(t.TempDir(), "out")
		restoreChain(t, to, file, next)
		check("restored", to)
		same(t, dir, to)
		// Into a directory that has the attributes of before.
		to = filepath.Join(t.TempDir(), "in place")
		restoreChain(t, to, file)
		restoreChain(t, to, file, next)
		check("restored in place", to)
	})
}
