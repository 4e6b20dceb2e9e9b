package archive_test

import (
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"tarvm/archive"
)

// What may not be read is an error that names it, once, before anything is written.
func TestUnreadable(t *testing.T) {
	if os.Geteuid() == 0 {
		asNobody(t)
		return
	}
	for _, name := range []string{"small", "large", "dir"} {
		dir := t.TempDir()
		writeFile(t, dir, "small", noise(1, 100))
		writeFile(t, dir, "large", noise(1, 2<<20))
		mustDo(t, os.Mkdir(filepath.Join(dir, "dir"), 0o755))
		p := filepath.Join(dir, name)
		mustDo(t, os.Chmod(p, 0))
		t.Cleanup(func() { _ = os.Chmod(p, 0o755) })
		out, err := tryPack(dir, archive.PackOptions{})
		if !errors.Is(err, os.ErrPermission) || strings.Count(err.Error(), name) != 1 || len(out.data) > 0 {
			t.Errorf("%s: %v after %d bytes", name, err, len(out.data))
		}
	}
	// What is not to be packed may be unreadable.
	dir := t.TempDir()
	writeFile(t, dir, "secret", nil)
	mustDo(t, os.Chmod(filepath.Join(dir, "secret"), 0))
	pack(t, dir, archive.PackOptions{Exclude: []string{"secret"}}).verify(t)
}

// asNobody runs the test once more, as a user who may not read everything.
func asNobody(t *testing.T) {
	const nobody = 65534
	exe, err := os.Executable()
	mustDo(t, err)
	src, err := os.Open(exe)
	mustDo(t, err)
	defer src.Close()
	dir := t.TempDir()
	mustDo(t, os.Chmod(filepath.Dir(dir), 0o755))
	mustDo(t, os.Chmod(dir, 0o755))
	mustDo(t, os.Mkdir(filepath.Join(dir, "tmp"), 0o755))
	mustDo(t, os.Chown(filepath.Join(dir, "tmp"), nobody, nobody))
	bin, err := os.OpenFile(filepath.Join(dir, "test"), os.O_CREATE|os.O_WRONLY, 0o755)
	mustDo(t, err)
	_, err = io.Copy(bin, src)
	mustDo(t, errors.Join(err, bin.Close()))
	cmd := exec.Command(bin.Name(), "-test.run=^"+t.Name()+"$")
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "TMPDIR="+filepath.Join(dir, "tmp"))
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: nobody, Gid: nobody}}
	out, err := cmd.CombinedOutput()
	if errors.Is(err, os.ErrPermission) {
		t.Skip("cannot become another user here: ", err)
	}
	if err != nil {
		t.Fatalf("as nobody: %v\n%s", err, out)
	}
}
