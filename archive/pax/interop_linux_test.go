package pax_test

import (
	"archive/tar"
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"tarvm/archive/archivetest"
	"tarvm/archive/pax"
)

// run runs a foreign program. What it says on standard error may only be what warnings lists.
func run(t testing.TB, dir string, warnings []string, name string, args ...string) string {
	t.Helper()
	cmd := exec.Command(archivetest.Tool(t, name), args...)
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "LC_ALL=C.UTF-8", "TZ=UTC", "PYTHONUTF8=1")
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if err := cmd.Run(); err != nil {
		t.Fatalf("%s %q: %v\n%s", name, args, err, stderr.String())
	}
line:
	for line := range strings.Lines(stderr.String()) {
		for _, w := range warnings {
			if strings.Contains(line, w) {
				continue line
			}
		}
		t.Errorf("%s %q says: %s", name, args, line)
	}
	return stdout.String()
}

// setxattr reports whether the file system takes user attributes.
func setxattr(path, key, value string) error { return syscall.Setxattr(path, key, []byte(value), 0) }

func getxattr(path, key string) (string, error) {
	b := make([]byte, 64<<10)
	n, err := syscall.Getxattr(path, key, b)
	return string(b[:max(n, 0)]), err
}

// extractable are members that a folder of a user can take, with all that AppendHeader does in its own way.
func extractable(t testing.TB) []file {
	var out []file
	for _, f := range samples() {
		switch {
		case f.Name == "/", f.Type == pax.TypeChar, f.Type == pax.TypeBlock, strings.HasPrefix(f.Name, "xattr"), f.Size > 1<<40:
			continue
		case strings.HasPrefix(f.Name, "owner"):
			f.UID, f.GID = 0, 0
			f.Mode = 0o640
		case f.Name == "time6", f.Name == "time7", f.Name == "time5": // no time of every file system
			continue
		case f.Name == "hard": // Python sets mode and time of a link, too
			f.Mode, f.ModTime = 0o644, time.Unix(1_700_000_000, 0)
		case f.Name == "dir":
			f.Records = nil // GNU tar would act on it
			f.Mode = 0o755
		case f.Name == "fifo":
			f.Mode = 0o600
		}
		out = append(out, f)
	}
	x := reg("xattr", "x")
	x.Xattrs = map[string]string{"user.plain": "value", "user.empty": "", "user.binary": "\x00\n=\xff", "user.50%": "p", "user.a=b": "e"}
	if err := setxattr(t.TempDir(), "user.probe", "x"); err == nil {
		out = append(out, x)
	}
	return out
}

// What this package writes is restored by other tools: names, types, bytes, holes, times, modes, attributes.
func TestToolsExtract(t *testing.T) {
	files := extractable(t)
	archive := filepath.Join(t.TempDir(), "a.tar")
	if err := os.WriteFile(archive, build(t, files...), 0o600); err != nil {
		t.Fatal(err)
	}
	gnuWarns := []string{"implausibly old", "Ignoring unknown extended header keyword 'hdrcharset'", "in the future",
		"Removing leading"}
	const script = `
import sys, tarfile
with tarfile.open(sys.argv[1]) as a:
    a.extractall('.')
`
	for name, extract := range map[string]func(t *testing.T, dir string){
		"tar": func(t *testing.T, dir string) {
			run(t, dir, gnuWarns, "tar", "--xattrs", "--xattrs-include=*", "--no-same-owner", "-xpf", archive)
		},
		"bsdtar":  func(t *testing.T, dir string) { run(t, dir, nil, "bsdtar", "-xpof", archive) },
		"python3": func(t *testing.T, dir string) { run(t, dir, nil, "python3", "-c", script, archive) },
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			extract(t, dir)
			for _, f := range files {
				checkExtracted(t, name, dir, f)
			}
		})
	}
}

func checkExtracted(t *testing.T, tool, dir string, f file) {
	t.Helper()
	path := filepath.Join(dir, f.Name)
	fi, err := os.Lstat(path)
	if err != nil {
		t.Errorf("%.60q: %v", f.Name, err)
		return
	}
	types := map[pax.Type]fs.FileMode{pax.TypeDir: fs.ModeDir, pax.TypeSymlink: fs.ModeSymlink, pax.TypeFifo: fs.ModeNamedPipe}
	if fi.Mode().Type() != types[f.Type] {
		t.Errorf("%.60q: mode %v", f.Name, fi.Mode())
	}
	switch f.Type {
	case pax.TypeSymlink:
		if got, err := os.Readlink(path); err != nil || got != f.Linkname {
			t.Errorf("%.60q: target %q, %v", f.Name, got, err)
		}
	case pax.TypeLink:
		target, err := os.Stat(filepath.Join(dir, f.Linkname))
		if err != nil || !os.SameFile(fi, target) {
			t.Errorf("%.60q: no link to %q: %v", f.Name, f.Linkname, err)
		}
		return // the rest is the target's
	case pax.TypeReg:
		got, err := os.ReadFile(path)
		if err != nil || !bytes.Equal(got, expand(f)) {
			t.Errorf("%.60q: %d bytes differ from %d, %v", f.Name, len(got), f.Size, err)
		}
		// Tools leave holes of whole pages only.
		if st := fi.Sys().(*syscall.Stat_t); f.Sparse != nil && f.Size >= 1<<20 && st.Blocks*512 > 64<<10 {
			t.Errorf("%.60q: %d bytes allocated, holes are gone", f.Name, st.Blocks*512)
		}
		if int64(fi.Mode().Perm()) != f.Mode&0o777 {
			t.Errorf("%.60q: mode %v, want %o", f.Name, fi.Mode(), f.Mode)
		}
	}
	for k, want := range f.Xattrs {
		if tool == "python3" {
			break // restores none
		}
		if tool == "bsdtar" && k == "user.a=b" {
			k = "user.a%3Db" // does not decode
		}
		if got, err := getxattr(path, k); err != nil || got != want {
			t.Errorf("%.60q: attribute %q is %q, %v", f.Name, k, got, err)
		}
	}
	if f.Type == pax.TypeDir && tool == "python3" || f.Type == pax.TypeSymlink && tool == "python3" {
		return // sets no times of links
	}
	slack := time.Duration(0)
	if tool == "python3" {
		slack = time.Microsecond // floating point
	}
	if tool == "bsdtar" && f.ModTime.Unix() < 0 && f.ModTime.Nanosecond() != 0 {
		return // reads the fraction with the wrong sign
	}
	if d := fi.ModTime().Sub(f.ModTime); d.Abs() > slack {
		t.Errorf("%.60q: time %v, want %v", f.Name, fi.ModTime(), f.ModTime)
	}
}

// Go's reader sees everything that other tools are not asked for: owners, devices, records, huge sparse files.
func TestGoReads(t *testing.T) {
	files := samples()
	r := tar.NewReader(bytes.NewReader(build(t, files...)))
	for _, f := range files {
		h, err := r.Next()
		if err != nil {
			t.Fatalf("%q: %v", f.Name, err)
		}
		name := f.Name
		if f.Type == pax.TypeDir && name != "/" {
			name += "/"
		}
		if h.Name != name || h.Linkname != f.Linkname || h.Size != f.Size || h.Typeflag != byte(f.Type) || h.Mode != f.Mode ||
			h.Uname != f.Uname || h.Gname != f.Gname || int64(h.Uid) != f.UID || int64(h.Gid) != f.GID ||
			h.Devmajor != f.Devmajor || h.Devminor != f.Devminor || !h.ModTime.Equal(f.ModTime) {
			t.Errorf("%q: %+v", f.Name, h)
		}
		for k, v := range f.Records {
			if h.PAXRecords[k] != v {
				t.Errorf("%q: record %q is %q", f.Name, k, h.PAXRecords[k])
			}
		}
		if f.Name == "xattr" && len(h.PAXRecords) < 120 {
			t.Errorf("%d records", len(h.PAXRecords))
		}
		if f.Size < 1<<21 {
			if got, err := io.ReadAll(r); err != nil || !bytes.Equal(got, expand(f)) {
				t.Errorf("%q: bytes differ, %v", f.Name, err)
			}
		}
	}
	if _, err := r.Next(); err != io.EOF {
		t.Error(err)
	}
}

// listers return lines of "SIZE NAME", names with a few bytes only.
var listers = map[string]func(t *testing.T, archive string) string{
	"tar": func(t *testing.T, a string) string {
		return fields(run(t, "", nil, "tar", "-tvf", a), 2, 5)
	},
	"bsdtar": func(t *testing.T, a string) string {
		return fields(run(t, "", nil, "bsdtar", "-tvf", a), 4, 8)
	},
	"python3": func(t *testing.T, a string) string {
		return run(t, "", nil, "python3", "-c", `
import sys, tarfile
for m in tarfile.open(sys.argv[1]): print(m.size, m.name)`, a)
	},
	"go": func(t *testing.T, a string) string {
		f, err := os.Open(a)
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		var out strings.Builder
		for r := tar.NewReader(f); ; {
			h, err := r.Next()
			if err == io.EOF {
				return out.String()
			}
			if err != nil {
				t.Fatal(err)
			}
			fmt.Fprintln(&out, h.Size, h.Name)
		}
	},
	"tarvm": func(t *testing.T, a string) string {
		f, err := os.Open(a)
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		var out strings.Builder
		for r := pax.NewReader(f, pax.ReaderOptions{}); ; {
			h, err := r.Next()
			if err == io.EOF {
				return out.String()
			}
			if err != nil {
				t.Fatal(err)
			}
			fmt.Fprintln(&out, h.Size, h.Name)
		}
	},
}

func fields(listing string, size, name int) string {
	var out strings.Builder
	for line := range strings.Lines(listing) {
		f := strings.Fields(line)
		fmt.Fprintln(&out, f[size], f[name])
	}
	return out.String()
}

// Bodies around and past 8 GiB, plain and sparse: the member after each is found by everyone. The archive is a sparse file.
func TestLargeBodies(t *testing.T) {
	const octal = 8 << 30 // the first size that 11 digits cannot say
	whole := func(name string, size int64) file {
		return file{pax.Header{Name: name, Type: pax.TypeReg, Mode: 0o644, Size: size, ModTime: time.Unix(1, 0)}, ""}
	}
	part := func(name string, size int64, ext ...pax.Extent) file {
		f := whole(name, size)
		f.Sparse = append([]pax.Extent{}, ext...)
		return f
	}
	members := []file{
		whole("plain-1", octal-1), whole("plain", octal), whole("plain+1", octal+1), whole("tera", 1<<40),
		part("sparse-512", 20<<30, pax.Extent{Offset: 1 << 30, Length: octal - 1024}),
		part("sparse", 20<<30, pax.Extent{Offset: 1 << 30, Length: octal - 512}),
		part("sparse+1", 20<<30, pax.Extent{Offset: 1 << 30, Length: octal + 1}),
		part("sparsetera", 16<<40, pax.Extent{Offset: 0, Length: 1 << 39}, pax.Extent{Offset: 15 << 40, Length: 1 << 39}),
		part("hole", 1<<60),
		part("comb", 1<<40, pax.LimitExtents(comb(200_000, 1<<20, 4096), 1<<40)...),
		reg("after", "abc"),
	}
	var want strings.Builder
	archive := filepath.Join(t.TempDir(), "large.tar")
	out, err := os.Create(archive)
	if err != nil {
		t.Fatal(err)
	}
	defer out.Close()
	at := int64(0)
	for _, f := range members {
		b, err := pax.AppendHeader(nil, &f.Header)
		if err != nil {
			t.Fatal(err)
		}
		b = append(b, f.data...)
		if _, err := out.WriteAt(b, at); err != nil {
			t.Fatal(err)
		}
		stored := f.Size
		if f.Sparse != nil {
			stored = 0
			for _, e := range f.Sparse {
				stored += e.Length
			}
		}
		at += int64(len(b)-len(f.data)) + stored + pax.Padding(stored)
		fmt.Fprintln(&want, f.Size, f.Name)
	}
	if err := out.Truncate(at); err != nil { // ends in zeros
		if errors.Is(err, syscall.EFBIG) || errors.Is(err, syscall.ENOSPC) {
			t.Skip("file system has no files of this size:", err)
		}
		t.Fatal(err)
	}
	if _, err := out.WriteAt(pax.AppendEnd(nil), at); err != nil {
		t.Fatal(err)
	}
	for name, list := range listers {
		t.Run(name, func(t *testing.T) {
			if got := list(t, archive); got != want.String() {
				t.Errorf("listing:\n%swant:\n%s", got, want.String())
			}
		})
	}
}

// A keyword repeated within a header counts with its last value, for everyone.
func TestLastOfRepeatedRecords(t *testing.T) {
	b := rawMember(rawRecord("path", "first")+rawRecord("path", "second")+rawRecord("comment", "a")+rawRecord("comment", "b"),
		"ustar", '0', nil)
	archive := filepath.Join(t.TempDir(), "a.tar")
	if err := os.WriteFile(archive, pax.AppendEnd(b), 0o600); err != nil {
		t.Fatal(err)
	}
	for name, list := range listers {
		t.Run(name, func(t *testing.T) {
			if got := list(t, archive); got != "0 second\n" {
				t.Errorf("listing: %s", got)
			}
		})
	}
}

// A tree for other tools to pack. long says that the format knows long names; plain, that it knows only what v7 knew.
func makeTree(t *testing.T, long bool) string {
	t.Helper()
	dir := t.TempDir()
	check := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	write := func(name, data string) string {
		p := filepath.Join(dir, name)
		check(os.MkdirAll(filepath.Dir(p), 0o755))
		check(os.WriteFile(p, []byte(data), 0o640))
		return p
	}
	write("plain", "hello")
	write("empty", "")
	write("block", strings.Repeat("b", 512))
	write("sub/more", strings.Repeat("m", 1300))
	write("newline\nx", "n")
	write("raw\xff\xfe", "bytes")
	write("größe", "utf-8")
	check(os.Symlink("sub/../plain", filepath.Join(dir, "soft")))
	check(os.Link(filepath.Join(dir, "plain"), filepath.Join(dir, "zhard")))
	check(syscall.Mkfifo(filepath.Join(dir, "fifo"), 0o600))
	check(os.Mkdir(filepath.Join(dir, "emptydir"), 0o711))
	check(os.Chmod(filepath.Join(dir, "block"), 0o4755|fs.ModeSetuid))
	if long {
		write(strings.Repeat("component/", 9)+strings.Repeat("n", 120), "long")
		write(strings.Repeat(strings.Repeat("c", 200)+"/", 4)+"deep", "deeper")
		check(os.Symlink(strings.Repeat("t/", 90), filepath.Join(dir, "longsoft")))
	}
	// Sparse: a few runs, more than one extension block of the old form has, only a hole, data at the end.
	holes := func(name string, size int64, runs int, step int64) {
		f, err := os.Create(filepath.Join(dir, name))
		check(err)
		for i := range int64(runs) {
			_, err := f.WriteAt(bytes.Repeat([]byte{byte('A' + i%26)}, 4096), (2*i+1)*step)
			check(err)
		}
		check(f.Truncate(size))
		check(f.Close())
	}
	holes("sparse3", 1<<20, 3, 65536)
	holes("sparse60", 8<<20, 60, 65536)
	holes("hole", 1<<20, 0, 0)
	holes("dataend", 65536+4096, 1, 65536)
	if err := setxattr(filepath.Join(dir, "plain"), "user.a=b%3D", "v\x00w\n"); err == nil {
		check(setxattr(filepath.Join(dir, "plain"), "user.plain", "value"))
	}
	check(os.Chtimes(filepath.Join(dir, "plain"), time.Time{}, time.Unix(1_600_000_000, 123_456_789)))
	check(os.Chtimes(filepath.Join(dir, "empty"), time.Time{}, time.Unix(1_600_000_000, 0)))
	return dir
}

// packed compares what the Reader says with the tree that a tool packed. Names may start with "./".
func packed(t *testing.T, dir, archive, format string, wantSparse bool, times time.Duration, xattrs bool) []file {
	t.Helper()
	b, err := os.ReadFile(archive)
	if err != nil {
		t.Fatal(err)
	}
	files, err := readAll(bytes.NewReader(b), pax.ReaderOptions{})
	if err != nil {
		t.Fatal(err)
	}
	want := make(map[string]bool)
	if err := filepath.WalkDir(dir, func(p string, _ fs.DirEntry, err error) error {
		rel, _ := filepath.Rel(dir, p)
		want[rel] = true
		return err
	}); err != nil {
		t.Fatal(err)
	}
	sum := func(b []byte) string { s := sha256.Sum256(b); return hex.EncodeToString(s[:4]) }
	formats := make(map[string]int)
	sparses, links, attrs := 0, 0, 0
	for _, f := range files {
		formats[f.Format]++
		name := filepath.Clean(f.Name)
		if !want[name] {
			t.Errorf("%q is too much", f.Name)
			continue
		}
		delete(want, name)
		p := filepath.Join(dir, name)
		fi, err := os.Lstat(p)
		if err != nil {
			t.Fatal(err)
		}
		if f.Stored != int64(len(f.data)) || string(b[f.Body:f.Body+f.Stored]) != f.data {
			t.Errorf("%q: body is not at %d", f.Name, f.Body)
		}
		kind := fi.Mode().Type()
		switch f.Type {
		case pax.TypeLink:
			links++
			target, err := os.Lstat(filepath.Join(dir, f.Linkname))
			if err != nil || !os.SameFile(fi, target) || f.Size != 0 {
				t.Errorf("%q: link to %q, size %d, %v", f.Name, f.Linkname, f.Size, err)
			}
			continue
		case pax.TypeSymlink:
			if target, err := os.Readlink(p); err != nil || target != f.Linkname || kind != fs.ModeSymlink {
				t.Errorf("%q: target %q, want %q", f.Name, f.Linkname, target)
			}
		case pax.TypeDir:
			if kind != fs.ModeDir {
				t.Errorf("%q: is no directory", f.Name)
			}
		case pax.TypeFifo:
			if kind != fs.ModeNamedPipe {
				t.Errorf("%q: is no fifo", f.Name)
			}
		case pax.TypeReg:
			data, err := os.ReadFile(p)
			if err != nil {
				t.Fatal(err)
			}
			if f.Size != fi.Size() || sum(expand(f)) != sum(data) {
				t.Errorf("%q: %d bytes %s, want %d bytes %s", f.Name, f.Size, sum(expand(f)), fi.Size(), sum(data))
			}
			if f.Sparse != nil {
				sparses++
				if f.Stored >= f.Size {
					t.Errorf("%q: stores %d of %d bytes", f.Name, f.Stored, f.Size)
				}
			}
		default:
			t.Errorf("%q: type %q", f.Name, byte(f.Type))
		}
		st := fi.Sys().(*syscall.Stat_t)
		if kind != fs.ModeSymlink && f.Mode != int64(st.Mode&0o7777) || f.UID != int64(st.Uid) || f.GID != int64(st.Gid) {
			t.Errorf("%q: mode %o, owner %d:%d; want %o, %d:%d", f.Name, f.Mode, f.UID, f.GID, st.Mode&0o7777, st.Uid, st.Gid)
		}
		low := time.Duration(0) // cut to seconds, or rounded by floating point
		if times < time.Second {
			low = -times
		}
		if d := fi.ModTime().Sub(f.ModTime); d < low || d > times {
			t.Errorf("%q: time %v, want %v", f.Name, f.ModTime, fi.ModTime())
		}
		for k, v := range f.Xattrs {
			attrs++
			if got, err := getxattr(p, k); err != nil || got != v {
				t.Errorf("%q: attribute %q=%q, want %q, %v", f.Name, k, v, got, err)
			}
		}
	}
	for name := range want {
		t.Errorf("%q is missing", name)
	}
	if wantSparse && sparses < 4 {
		t.Errorf("%d sparse members", sparses)
	}
	if !wantSparse && sparses != 0 {
		t.Errorf("%d sparse members, want none", sparses)
	}
	if links != 1 {
		t.Errorf("%d links", links)
	}
	if formats[format] == 0 {
		t.Errorf("formats %v, want %s", formats, format)
	}
	if _, err := getxattr(filepath.Join(dir, "plain"), "user.plain"); err == nil && xattrs && attrs != 2 {
		t.Errorf("%d extended attributes, want 2", attrs)
	}

	// Written again and read again, it is the same.
	for i := range files {
		files[i].Header = written(files[i].Header)
	}
	again, err := readAll(bytes.NewReader(build(t, files...)), pax.ReaderOptions{})
	if err != nil {
		t.Fatal(err)
	}
	sameFiles(t, again, files)
	return files
}

func TestReadsGNUTar(t *testing.T) {
	for _, c := range []struct {
		name, format string
		args         []string
		long, sparse bool
		times        time.Duration
	}{
		{"v7", "v7", []string{"--format=v7"}, false, false, time.Second},
		{"ustar", "ustar", []string{"--format=ustar"}, false, false, time.Second},
		{"oldgnu", "gnu", []string{"--format=oldgnu"}, true, false, time.Second},
		{"gnu", "gnu", []string{"--format=gnu"}, true, false, time.Second},
		{"posix", "pax", []string{"--format=posix", "--xattrs"}, true, false, 0},
		{"oldgnu sparse", "gnu", []string{"--format=oldgnu", "-S"}, true, true, time.Second},
		{"gnu sparse", "gnu", []string{"--format=gnu", "-S"}, true, true, time.Second},
		{"posix sparse 0.0", "pax", []string{"--format=posix", "-S", "--sparse-version=0.0", "--xattrs"}, true, true, 0},
		{"posix sparse 0.1", "pax", []string{"--format=posix", "-S", "--sparse-version=0.1", "--xattrs"}, true, true, 0},
		{"posix sparse 1.0", "pax", []string{"--format=posix", "-S", "--sparse-version=1.0", "--xattrs"}, true, true, 0},
	} {
		t.Run(c.name, func(t *testing.T) {
			archivetest.Tool(t, "tar")
			dir := makeTree(t, c.long)
			if c.name == "v7" {
				if err := os.Remove(filepath.Join(dir, "fifo")); err != nil { // not in v7
					t.Fatal(err)
				}
			}
			archive := filepath.Join(t.TempDir(), "a.tar")
			run(t, dir, nil, "tar", slices.Concat(c.args, []string{"--sort=name", "-cf", archive, "."})...)
			packed(t, dir, archive, c.format, c.sparse, c.times, slices.Contains(c.args, "--xattrs"))
		})
	}
}

// GNU tar's incremental archives: what a directory held is a body of type D in one format and a record in the other.
func TestReadsGNUIncremental(t *testing.T) {
	archivetest.Tool(t, "tar")
	dir := makeTree(t, true)
	var seen []string
	for _, format := range []string{"gnu", "posix"} {
		archive := filepath.Join(t.TempDir(), "a.tar")
		run(t, dir, nil, "tar", "--format="+format, "--sort=name", "-g", filepath.Join(t.TempDir(), "snar"), "-cf", archive, ".")
		files := packed(t, dir, archive, map[string]string{"gnu": "gnu", "posix": "pax"}[format], false, time.Second, false)
		var dirs strings.Builder
		for _, f := range files {
			if f.Type == pax.TypeDir {
				fmt.Fprintf(&dirs, "%q %q\n", f.Name, f.Records["GNU.dumpdir"])
			}
		}
		if !strings.Contains(dirs.String(), `Yplain\x00`) {
			t.Errorf("%s: %s", format, dirs.String())
		}
		seen = append(seen, dirs.String())
	}
	if seen[0] != seen[1] {
		t.Errorf("%s\nis not\n%s", seen[0], seen[1])
	}
}

func TestReadsBsdtar(t *testing.T) {
	for _, c := range []struct {
		format, want string
		long, sparse bool
		times        time.Duration
	}{
		{"ustar", "ustar", false, false, time.Second},
		{"gnutar", "gnu", true, false, time.Second},
		{"pax", "pax", true, true, 0},
	} {
		t.Run(c.format, func(t *testing.T) {
			archivetest.Tool(t, "bsdtar")
			dir := makeTree(t, c.long)
			archive := filepath.Join(t.TempDir(), "a.tar")
			args := []string{"--format", c.format, "-cf", archive, "."}
			run(t, dir, []string{"can't translate", "Can't translate"}, "bsdtar", args...)
			files := packed(t, dir, archive, c.want, c.sparse, c.times, c.format == "pax")
			if len(files) < 10 {
				t.Error(len(files))
			}
		})
	}
}

func TestReadsPython(t *testing.T) {
	const script = `
import sys, tarfile
with tarfile.open(sys.argv[1], 'w', format=getattr(tarfile, sys.argv[2])) as a: a.add('.')
`
	for _, c := range []struct {
		format, want string
		long         bool
		times        time.Duration
	}{
		{"USTAR_FORMAT", "ustar", false, time.Second},
		{"GNU_FORMAT", "gnu", true, time.Second},
		{"PAX_FORMAT", "pax", true, 2 * time.Microsecond},
	} {
		t.Run(c.format, func(t *testing.T) {
			archivetest.Tool(t, "python3")
			dir := makeTree(t, c.long)
			archive := filepath.Join(t.TempDir(), "a.tar")
			run(t, dir, nil, "python3", "-c", script, archive, c.format)
			packed(t, dir, archive, c.want, false, c.times, false)
		})
	}
}

// A sparse disk of 3 TiB with one page of data, in all sparse forms of GNU tar and bsdtar, and plain headers past 8 GiB.
func TestReadsHugeSparse(t *testing.T) {
	const size, at = 3 << 40, 2<<40 + 4096
	dir := t.TempDir()
	f, err := os.Create(filepath.Join(dir, "disk"))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.WriteAt(bytes.Repeat([]byte("D"), 4096), at); err != nil {
		t.Skip("no files of this size here:", err)
	}
	if err := f.Truncate(size); err != nil {
		t.Fatal(err)
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	for _, args := range [][]string{
		{"tar", "--format=gnu", "-S"},
		{"tar", "--format=posix", "-S", "--sparse-version=0.0"},
		{"tar", "--format=posix", "-S", "--sparse-version=0.1"},
		{"tar", "--format=posix", "-S", "--sparse-version=1.0"},
		{"bsdtar", "--format", "pax"},
	} {
		t.Run(strings.Join(args, " "), func(t *testing.T) {
			archive := filepath.Join(t.TempDir(), "a.tar")
			run(t, dir, nil, args[0], append(args[1:], "-cf", archive, "disk")...)
			b, err := os.ReadFile(archive)
			if err != nil {
				t.Fatal(err)
			}
			files, err := readAll(bytes.NewReader(b), pax.ReaderOptions{})
			if err != nil {
				t.Fatal(err)
			}
			if len(files) != 1 || files[0].Size != size || !slices.Equal(files[0].Sparse, []pax.Extent{{Offset: at, Length: 4096}}) ||
				files[0].data != strings.Repeat("D", 4096) {
				t.Errorf("%+v", files)
			}
		})
	}
}

// GNU tar compares what this package wrote with a file system: the strictest reader of owners and times there is.
func TestGNUTarCompares(t *testing.T) {
	archivetest.Tool(t, "tar")
	dir := makeTree(t, true)
	first, second := filepath.Join(t.TempDir(), "1.tar"), filepath.Join(t.TempDir(), "2.tar")
	run(t, dir, nil, "tar", "--format=posix", "-S", "--xattrs", "--sort=name", "-cf", first, ".")
	files := packed(t, dir, first, "pax", true, 0, true)
	if err := os.WriteFile(second, build(t, files...), 0o600); err != nil {
		t.Fatal(err)
	}
	run(t, dir, []string{"hdrcharset"}, "tar", "--xattrs", "-df", second)
	// And a difference is found, so that the comparison says something.
	if err := os.Chtimes(filepath.Join(dir, "plain"), time.Time{}, time.Unix(1, 0)); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(archivetest.Tool(t, "tar"), "-df", second)
	cmd.Dir = dir
	if err := cmd.Run(); err == nil {
		t.Error("tar -d found nothing")
	}
}

// Readers without sparse support find names that differ, in a folder that tells what they are.
func TestSparseFallbackNames(t *testing.T) {
	names := make(map[string]bool)
	for _, name := range []string{"a", "d/a", strings.Repeat("l/", 60) + "a", strings.Repeat("l/", 60) + "b",
		strings.Repeat("l/", 61) + "a", strings.Repeat("n", 200), strings.Repeat("n", 201)} {
		f := sparse(name, 1<<20)
		b := build(t, f)
		// Any reader of pax takes the path record and this size; take the sparse records away.
		b = bytes.ReplaceAll(b, []byte("GNU.sparse."), []byte("XXX.sparse."))
		h, err := tar.NewReader(bytes.NewReader(b)).Next()
		if err != nil {
			t.Fatal(err)
		}
		if !strings.Contains(h.Name, "GNUSparseFile.0/") || names[h.Name] || h.Size != 512 {
			t.Errorf("%s: %s, %s bytes", name, h.Name, strconv.FormatInt(h.Size, 10))
		}
		names[h.Name] = true
	}
}
