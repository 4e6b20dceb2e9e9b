package formatstest

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"
)

// VBoxManage is VirtualBox's command in a Chroot; that on the path would speak of a missing kernel module.
const VBoxManage = "/usr/lib/virtualbox/VBoxManage"

// A Chroot is the folder of a system that has VirtualBox and open-vmdk.
type Chroot struct {
	Root string
	Dir  string // in there, with a slash in front; of this test alone
	// Mu is for those who do several things that belong together.
	Mu sync.Mutex
}

// NewChroot skips the test when there is none: in TARVM_VBOX, or sid in TARVM_CLIENTS_DIR.
func NewChroot(t *testing.T, program string) *Chroot {
	t.Helper()
	OneGoroutine(t)
	root := os.Getenv("TARVM_VBOX")
	if dir := os.Getenv("TARVM_CLIENTS_DIR"); root == "" && dir != "" {
		root = filepath.Join(dir, "sid")
	}
	if root == "" {
		t.Skip("no system with VirtualBox and open-vmdk: make clients sets it up, TARVM_VBOX names its folder")
	}
	if _, err := os.Stat(filepath.Join(root, program)); err != nil {
		t.Skipf("no %s in %s", program, root)
	}
	if _, err := os.Stat(filepath.Join(root, "proc/self")); err != nil || os.Getuid() != 0 {
		t.Skipf("%s needs root, and proc mounted there", root)
	}
	dir, err := os.MkdirTemp(filepath.Join(root, "tmp"), "tarvm-all")
	if err != nil {
		t.Fatal(err)
	}
	c := &Chroot{Root: root, Dir: "/tmp/" + filepath.Base(dir)}
	t.Cleanup(func() {
		// VirtualBox's server ends some seconds after its last client, and writes into its home until then.
		sockets, err := filepath.Glob(filepath.Join(root, "tmp", ".vbox-"+filepath.Base(dir)+"*-ipc"))
		for _, s := range append(sockets, dir) {
			for range 20 {
				if err = os.RemoveAll(s); err == nil {
					break
				}
				time.Sleep(500 * time.Millisecond)
			}
			if err != nil {
				t.Error(err)
			}
		}
	})
	return c
}

// Run runs a program of the system.
func (c *Chroot) Run(t *testing.T, args ...string) string {
	t.Helper()
	out, err := c.Try(t, args...)
	if err != nil {
		t.Fatalf("%s: %v\n%s", strings.Join(args, " "), err, out)
	}
	return out
}

// Try runs a program of the system and returns what it wrote.
func (c *Chroot) Try(t *testing.T, args ...string) (string, error) {
	t.Helper()
	ctx, stop := context.WithTimeout(t.Context(), 3*time.Minute)
	defer stop()
	id := filepath.Base(c.Dir)
	cmd := exec.CommandContext(ctx, "chroot", append([]string{c.Root, "env", "HOME=" + c.Dir, "USER=" + id, "LOGNAME=" + id,
		"VBOX_USER_HOME=" + c.Dir + "/.vb", "VBOX_IPC_SOCKETID=" + id, "LC_ALL=C"}, args...)...)
	out, err := os.Create(filepath.Join(t.TempDir(), "out")) // a pipe would be held by VirtualBox's server
	if err != nil {
		t.Fatal(err)
	}
	cmd.Stdout, cmd.Stderr = out, out
	err = cmd.Run()
	if cerr := out.Close(); cerr != nil {
		t.Fatal(cerr)
	}
	b, rerr := os.ReadFile(out.Name())
	if rerr != nil {
		t.Fatal(rerr)
	}
	return string(b), err
}
