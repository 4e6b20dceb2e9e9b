package archive_test

import (
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"tarvm/archive"
	"tarvm/archive/archivetest"
	"tarvm/archive/vmdir"
	"tarvm/manifest"
)

// machine makes a directory with a raw disk, a configuration, and a qcow2 header's worth of an image.
func machine(t testing.TB) string {
	t.Helper()
	dir := t.TempDir()
	writeFile(t, dir, "disk.raw", noise(1, 2<<20))
	writeFile(t, dir, "vm.vmx", []byte("config.version = \"8\"\n"))
	return dir
}

// refused packs dir, which must be refused for one lock at path, and returns that. Live, the same
// directory is packed and the archive says so.
func refused(t testing.TB, dir string, path manifest.Path, kind string) vmdir.Lock {
	t.Helper()
	_, err := tryPack(dir, archive.PackOptions{})
	var re *archive.RunningError
	if !errors.As(err, &re) {
		t.Fatalf("%v, want a *RunningError", err)
	}
	if len(re.Locks) != 1 || re.Locks[0].Path != path || re.Locks[0].Kind != kind || re.Locks[0].Stale || re.Dir != dir {
		t.Fatalf("%+v, want a lock of kind %q at %s", re, kind, path)
	}
	for _, want := range []string{dir, string(path), kind} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("%q does not say %q", err, want)
		}
	}
	if !strings.Contains(re.Locks[0].Hint, "pack it live") {
		t.Errorf("hint %q", re.Locks[0].Hint)
	}
	p := pack(t, dir, archive.PackOptions{Live: true})
	p.verify(t)
	if !p.result.Snapshot.Entry.Live || len(p.result.Torn) != 0 {
		t.Errorf("packed live: live %v, torn %q", p.result.Snapshot.Entry.Live, p.result.Torn)
	}
	return re.Locks[0]
}

func TestLockVMware(t *testing.T) {
	dir := machine(t)
	mustDo(t, os.Mkdir(filepath.Join(dir, "disk.vmdk.lck"), 0o755))
	pack(t, dir, archive.PackOptions{}) // empty: it holds nothing
	writeFile(t, dir, "disk.vmdk.lck/M05150.lck", []byte("fedora 4711-8159(vmware-vmx) 1 X lc=1 \x00"))
	l := refused(t, dir, "disk.vmdk.lck/M05150.lck", vmdir.LockVMware)
	if want := "vmware-vmx, process 4711 on machine fedora"; l.Owner != want {
		t.Errorf("owner %q, want %q", l.Owner, want)
	}
	if !strings.Contains(l.Hint, "vmrun suspend") || !strings.Contains(l.Hint, "vm.vmx") {
		t.Errorf("hint %q", l.Hint)
	}
	// A lock is no member: restored, it would keep the machine from starting.
	p := pack(t, dir, archive.PackOptions{Live: true})
	for _, m := range p.result.Snapshot.Members {
		if strings.Contains(string(m.Path), ".lck") {
			t.Errorf("%s was packed", m.Path)
		}
	}
}

// holder starts a process with the given name that has file open for writing. It ends with the test.
func holder(t testing.TB, name, file string) {
	t.Helper()
	script := filepath.Join(t.TempDir(), name)
	mustDo(t, os.WriteFile(script, []byte("#!/bin/sh\nexec 3<>\"$1\"\necho ready\nread x\n"), 0o755))
	cmd := exec.Command(script, file)
	in, err := cmd.StdinPipe()
	mustDo(t, err)
	out, err := cmd.StdoutPipe()
	mustDo(t, err)
	mustDo(t, cmd.Start())
	t.Cleanup(func() {
		in.Close()
		_ = cmd.Wait() // read fails at the end of its input
	})
	if _, err := io.ReadFull(out, make([]byte, len("ready"))); err != nil {
		t.Fatal(err)
	}
}

func TestLockOfProcesses(t *testing.T) {
	for _, c := range []struct{ name, kind, hint string }{
		{"VBoxHeadless", vmdir.LockVirtualBox, "VBoxManage controlvm"},
		{"VirtualBoxVM", vmdir.LockVirtualBox, "VBoxManage controlvm"},
		{"vmware-vmx", vmdir.LockProcess, "vmrun suspend"},
		{"qemu-system-x86", vmdir.LockProcess, "virsh managedsave"},
		{"dd", vmdir.LockProcess, "end the program"},
	} {
		t.Run(c.name, func(t *testing.T) {
			dir := machine(t)
			holder(t, c.name, filepath.Join(dir, "disk.raw"))
			l := refused(t, dir, "disk.raw", c.kind)
			if !strings.HasPrefix(l.Owner, c.name+", process ") || !strings.Contains(l.Hint, c.hint) {
				t.Errorf("owner %q, hint %q", l.Owner, l.Hint)
			}
		})
	}
	// Files that no machine keeps open for writing do not count, and neither do readers.
	dir := machine(t)
	writeFile(t, dir, "vm.log", []byte("log"))
	holder(t, "VBoxSVC", filepath.Join(dir, "vm.log"))
	f, err := os.Open(filepath.Join(dir, "disk.raw"))
	mustDo(t, err)
	defer f.Close()
	pack(t, dir, archive.PackOptions{})
}

// ofd takes a lock of n bytes at off as QEMU does: one that belongs to the open file.
func ofd(t testing.TB, path string, kind int16, off, n int64) *os.File {
	t.Helper()
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	mustDo(t, err)
	t.Cleanup(func() { f.Close() })
	lk := unix.Flock_t{Type: kind, Start: off, Len: n}
	mustDo(t, unix.FcntlFlock(f.Fd(), unix.F_OFD_SETLK, &lk))
	return f
}

func TestLockQEMU(t *testing.T) {
	const permBase, sharedBase = 100, 200 // RAW_LOCK_PERM_BASE and RAW_LOCK_SHARED_BASE of block/file-posix.c
	for _, c := range []struct {
		name   string
		off, n int64
		held   bool
	}{
		{"consistent read", permBase, 1, false},
		{"write", permBase + 1, 1, true},
		{"write unchanged", permBase + 2, 1, true},
		{"resize", permBase + 3, 1, true},
		{"shares nothing", sharedBase, 5, false},
		{"all", permBase, 200, true},
		{"a byte before", permBase - 1, 1, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			dir := machine(t)
			f := ofd(t, filepath.Join(dir, "disk.raw"), unix.F_RDLCK, c.off, c.n)
			if c.held {
				l := refused(t, dir, "disk.raw", vmdir.LockQEMU)
				if !strings.Contains(l.Hint, "virsh") {
					t.Errorf("hint %q", l.Hint)
				}
				mustDo(t, f.Close())
			}
			pack(t, dir, archive.PackOptions{})
		})
	}
}

// What QEMU itself locks, for each format.
func TestLockQEMUByQEMU(t *testing.T) {
	archivetest.Tools(t, "qemu-io", "qemu-img")
	for _, format := range []string{"raw", "qcow2", "vmdk", "vdi", "vhdx"} {
		t.Run(format, func(t *testing.T) {
			dir := machine(t)
			mustDo(t, os.Remove(filepath.Join(dir, "disk.raw")))
			img := filepath.Join(dir, "disk."+format)
			command(t, dir, "qemu-img", "create", "-q", "-f", format, img, "8M")
			stop := qemuIO(t, img, "-f", format)
			l := refused(t, dir, manifest.Path("disk."+format), vmdir.LockQEMU)
			if !strings.HasPrefix(l.Owner, "qemu-io, process ") {
				t.Errorf("owner %q", l.Owner)
			}
			stop()
			// One that reads does not forbid packing.
			stop = qemuIO(t, img, "-r", "-f", format)
			pack(t, dir, archive.PackOptions{})
			stop()
			pack(t, dir, archive.PackOptions{})
		})
	}
}

// qemuIO opens an image, and returns what closes it.
func qemuIO(t testing.TB, img string, args ...string) (stop func()) {
	t.Helper()
	cmd := exec.Command("qemu-io", append(args, img)...)
	in, err := cmd.StdinPipe()
	mustDo(t, err)
	out, err := cmd.StdoutPipe()
	mustDo(t, err)
	mustDo(t, cmd.Start())
	stop = func() {
		in.Close()
		_ = cmd.Wait() // the second call of a defer fails
	}
	t.Cleanup(stop)
	if _, err := fmt.Fprintln(in, "length"); err != nil {
		t.Fatal(err)
	}
	// The answer to the first command comes when the image is open.
	var got []byte
	b := make([]byte, 256)
	for deadline := time.Now().Add(20 * time.Second); !strings.Contains(string(got), "MiB"); {
		n, err := out.Read(b)
		got = append(got, b[:n]...)
		if err != nil || time.Now().After(deadline) {
			t.Fatalf("qemu-io says %q: %v", got, err)
		}
	}
	return stop
}

// A loop device that writes to a disk.
func TestLockLoop(t *testing.T) {
	archivetest.Tools(t, "losetup")
	dir := machine(t)
	disk := filepath.Join(dir, "disk.raw")
	attach := func(args ...string) func() {
		out, err := exec.Command("losetup", append(args, "--show", "-f", disk)...).CombinedOutput()
		if err != nil {
			t.Skipf("no loop device for this user: %v: %s", err, out)
		}
		dev := strings.TrimSpace(string(out))
		return func() { command(t, dir, "losetup", "-d", dev) }
	}
	detach := attach()
	l := refused(t, dir, "disk.raw", vmdir.LockLoop)
	detach()
	if !strings.HasPrefix(l.Owner, "/dev/loop") {
		t.Errorf("owner %q", l.Owner)
	}
	detach = attach("-r")
	pack(t, dir, archive.PackOptions{})
	detach()
}

// A lock that was left behind on this host is a note in the plan, and no reason to refuse.
func TestLockStale(t *testing.T) {
	id, err := os.ReadFile("/sys/class/dmi/id/product_uuid")
	if err != nil {
		t.Skip("this host has no UUID that could be read: ", err)
	}
	dead := exec.Command("true")
	mustDo(t, dead.Run())
	dir := machine(t)
	mustDo(t, os.Mkdir(filepath.Join(dir, "disk.vmdk.lck"), 0o755))
	lock := func(pid int) string {
		return fmt.Sprintf("uuid=%s %d-1(vmware-vmx) 1 X lc=1 \x00", strings.TrimSpace(string(id)), pid)
	}
	writeFile(t, dir, "disk.vmdk.lck/M1.lck", []byte(lock(dead.Process.Pid)))
	p := pack(t, dir, archive.PackOptions{})
	p.verify(t)
	writeFile(t, dir, "disk.vmdk.lck/M1.lck", []byte(strings.Replace(lock(os.Getpid()), "-1(", "(", 1)))
	refused(t, dir, "disk.vmdk.lck/M1.lck", vmdir.LockVMware)
}
