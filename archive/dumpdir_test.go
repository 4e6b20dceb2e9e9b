package archive_test

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"tarvm/archive"
	"tarvm/archive/archivetest"
)

// tarIncrements extracts archives, one after the other, with GNU tar's incremental mode. It returns what tar said.
func tarIncrements(t testing.TB, chain ...packed) (dir, said string) {
	t.Helper()
	archivetest.Tools(t, "tar")
	dir = t.TempDir()
	for _, p := range chain {
		file := filepath.Join(t.TempDir(), "a.tar")
		mustDo(t, os.WriteFile(file, p.data, 0o600))
		said += command(t, dir, "tar", "--listed-incremental=/dev/null", "-xpf", file)
	}
	return dir, said
}

// Without tarvm, GNU tar follows the changes of whole files: what was removed or renamed is gone, what took the
// place of something else has it.
func TestDumpdirByGNUTar(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "vm")
	mustDo(t, os.MkdirAll(filepath.Join(dir, "logs", "old", "older"), 0o755))
	mustDo(t, os.MkdirAll(filepath.Join(dir, "emptied"), 0o755))
	mustDo(t, os.MkdirAll(filepath.Join(dir, "to-file"), 0o755))
	for _, f := range []string{
		"same", "changed", "removed", "renamed", "to-dir", "to-link", "name with spaces", "logs/vm.log", "logs/vm-0.log",
		"logs/old/a", "logs/old/older/b", "emptied/x", "emptied/y", "to-file/inside", "\xff\xfe", "Y", "D", "N\nnewline",
	} {
		writeFile(t, dir, f, []byte("content of "+f))
	}
	mustDo(t, os.Symlink("same", filepath.Join(dir, "link")))
	mustDo(t, os.Symlink("logs", filepath.Join(dir, "link-to-dir")))
	mustDo(t, os.Link(filepath.Join(dir, "same"), filepath.Join(dir, "hard")))
	chain := []packed{pack(t, dir, archive.PackOptions{})}

	do := func(err error) { t.Helper(); mustDo(t, err) }
	p := func(name string) string { return filepath.Join(dir, name) }
	writeFile(t, dir, "changed", []byte("changed"))
	writeFile(t, dir, "new", []byte("new"))
	do(os.Remove(p("removed")))
	do(os.Rename(p("renamed"), p("renamed to this")))
	do(os.Remove(p("to-dir")))
	do(os.Mkdir(p("to-dir"), 0o700))
	writeFile(t, dir, "to-dir/inside", []byte("inside"))
	do(os.Remove(p("to-link")))
	do(os.Symlink("new", p("to-link")))
	do(os.RemoveAll(p("to-file")))
	writeFile(t, dir, "to-file", []byte("a file now"))
	do(os.Remove(p("logs/vm-0.log")))
	do(os.Rename(p("logs/vm.log"), p("logs/vm-0.log")))
	writeFile(t, dir, "logs/vm.log", []byte("begins again"))
	do(os.RemoveAll(p("logs/old/older")))
	do(os.Remove(p("emptied/x")))
	do(os.Remove(p("emptied/y")))
	do(os.Remove(p("link")))
	do(os.Remove(p("\xff\xfe")))
	do(os.Mkdir(p("new-dir"), 0o755))
	writeFile(t, dir, "new-dir/file", []byte("file"))
	chain = append(chain, pack(t, dir, archive.PackOptions{Parent: chain[0].manifest(t)}))

	check := func(step string) {
		t.Helper()
		to, said := tarIncrements(t, chain...)
		if said != "" {
			t.Errorf("%s: tar says: %s", step, said)
		}
		mustDo(t, os.RemoveAll(filepath.Join(to, ".tarvm")))
		fixTop(t, dir, to)
		if d := archivetest.Diff(dir, to); len(d) > 0 {
			t.Errorf("%s:\n%s", step, strings.Join(d, "\n"))
		}
	}
	check("first increment")

	// The content of a file with two names, changed in place.
	f, err := os.OpenFile(p("hard"), os.O_WRONLY|os.O_APPEND, 0)
	do(err)
	_, err = f.WriteString(", and more")
	do(errors.Join(err, f.Close()))
	chain = append(chain, pack(t, dir, archive.PackOptions{Parent: chain[1].manifest(t)}))
	check("a file with two names")

	// Nothing but a removal, deep below; then nothing at all; then a whole tree.
	do(os.Remove(p("logs/old/a")))
	chain = append(chain, pack(t, dir, archive.PackOptions{Parent: chain[2].manifest(t)}))
	check("a removal")
	chain = append(chain, pack(t, dir, archive.PackOptions{Parent: chain[3].manifest(t)}))
	check("nothing")
	do(os.RemoveAll(p("logs")))
	do(os.Rename(p("new-dir"), p("moved-dir")))
	chain = append(chain, pack(t, dir, archive.PackOptions{Parent: chain[4].manifest(t)}))
	check("a tree")
}

// Large files that changed are deltas: tar puts those under .tarvm, and leaves the file as it was.
func TestDumpdirBesideDeltas(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "vm")
	mustDo(t, os.Mkdir(dir, 0o755))
	for i := range 3 {
		writeFile(t, dir, fmt.Sprintf("disk%d.img", i), noise(uint64(i), 2<<20))
	}
	writeFile(t, dir, "vm.log", []byte("log"))
	full := pack(t, dir, archive.PackOptions{})
	writeFile(t, dir, "disk0.img", noise(9, 2<<20))
	mustDo(t, os.Remove(filepath.Join(dir, "disk1.img")))
	writeFile(t, dir, "disk3.img", noise(10, 2<<20))
	mustDo(t, os.Remove(filepath.Join(dir, "vm.log")))
	inc := pack(t, dir, archive.PackOptions{Parent: full.manifest(t)})
	to, said := tarIncrements(t, full, inc)
	if said != "" {
		t.Errorf("tar says: %s", said)
	}
	for name, want := range map[string]bool{
		"disk0.img": true, "disk1.img": false, "disk2.img": true, "disk3.img": false, "vm.log": false,
		".tarvm/delta/disk0.img/00000000": true, ".tarvm/delta/disk1.img": false, ".tarvm/delta/disk3.img/00000000": true,
		".tarvm/manifest.json": true,
	} {
		if _, err := os.Lstat(filepath.Join(to, name)); (err == nil) != want {
			t.Errorf("%s: %v, want it to be there: %v", name, err, want)
		}
	}
}
