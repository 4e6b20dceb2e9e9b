package main

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"tarvm/archive/archivetest"
	"tarvm/archive/repo"
	"tarvm/cmd/tarvm/cli"
	"tarvm/delta"
)

// A disk is what a file system has in memory, and what of it is on the disk: what was not synced may be lost when the power
// fails, in any order, files torn; a rename happens as a whole. It learns from the system calls of a command what that did.
type disk struct {
	t       *testing.T
	root    *diskNode
	pos     map[int]int64 // of open files, which all threads have
	changes int           // of directories
	// what the model does not know
	strange []string
}

type diskNode struct {
	dir     bool
	ino     uint64 // of a file that was there at the beginning
	data    []byte // as it is seen
	synced  []byte // as it is on disk
	live    map[string]*diskNode
	durable map[string]*diskNode
	pending []diskChange // of a directory, since it was synced
}

type diskChange struct {
	name  string
	node  *diskNode // nil: the name has gone
	id    int       // the two halves of a rename have the same one
	other *diskNode // where the other half is; nil: there is none
}

func newDiskDir() *diskNode {
	return &diskNode{dir: true, live: make(map[string]*diskNode), durable: make(map[string]*diskNode)}
}

// load takes a directory as it is, all of it on disk.
func (d *disk) load(dir string) {
	must := func(err error) {
		d.t.Helper()
		if err != nil {
			d.t.Fatal(err)
		}
	}
	up := d.root
	for _, name := range strings.Split(strings.Trim(dir, "/"), "/") {
		next := up.live[name]
		if next == nil {
			next = newDiskDir()
			up.live[name], up.durable[name] = next, next
		}
		up = next
	}
	must(filepath.WalkDir(dir, func(p string, e fs.DirEntry, err error) error {
		if err != nil || p == dir {
			return err
		}
		n := newDiskDir()
		if !e.IsDir() {
			b, err := os.ReadFile(p)
			if err != nil {
				return err
			}
			n = &diskNode{data: b, synced: bytes.Clone(b), ino: inode(d.t, p)}
		}
		parent, name := d.parent(p)
		parent.live[name], parent.durable[name] = n, n
		return nil
	}))
}

func (d *disk) find(path string) *diskNode {
	n := d.root
	for _, name := range strings.Split(strings.Trim(path, "/"), "/") {
		if n == nil || !n.dir {
			return nil
		}
		n = n.live[name]
	}
	return n
}

func (d *disk) parent(path string) (*diskNode, string) {
	dir, name := filepath.Split(path)
	return d.find(dir), name
}

// change gives a name to n, or takes it away from what has it.
func (d *disk) change(path string, n *diskNode) {
	d.changes++
	d.half(path, n, nil)
}

// rename gives the names at and to to what is said, both at once.
func (d *disk) rename(at string, n *diskNode, to string, m *diskNode) {
	d.changes++
	from, _ := d.parent(at)
	dir, _ := d.parent(to)
	d.half(at, n, dir)
	d.half(to, m, from)
}

func (d *disk) half(path string, n, other *diskNode) {
	dir, name := d.parent(path)
	if dir == nil {
		return // somewhere else
	}
	if n == nil {
		delete(dir.live, name)
	} else {
		dir.live[name] = n
	}
	dir.pending = append(dir.pending, diskChange{name, n, d.changes, other})
}

// sync makes the changes of a directory durable, up to that with the given id, and those of others without which they are none.
func (n *diskNode) sync(last int) {
	for len(n.pending) > 0 && n.pending[0].id <= last {
		x := n.pending[0]
		n.pending = n.pending[1:]
		n.durable[x.name] = x.node
		if x.node == nil {
			delete(n.durable, x.name)
		}
		if x.other != nil {
			x.other.sync(x.id)
		}
	}
}

// survival says what of the things that are not synced survives.
type survival int

const (
	everything survival = iota // the command is killed, and nothing else
	synced                     // what was synced
	part                       // that, and a part of the rest
)

// A wreck is what is made of a disk.
type wreck struct {
	how    survival
	rnd    *rand.Rand
	chance map[int]bool      // which changes of directories survive, by id
	at     map[uint64]string // where the files are that had an inode at the beginning
}

func newWreck(how survival, rnd *rand.Rand) *wreck {
	return &wreck{how: how, rnd: rnd, chance: make(map[int]bool), at: make(map[uint64]string)}
}

func (w *wreck) survives(id int) bool {
	if _, ok := w.chance[id]; !ok {
		w.chance[id] = w.rnd.IntN(2) == 0
	}
	return w.how == everything || w.how == part && w.chance[id]
}

// write makes a directory of what survives.
func (n *diskNode) write(path string, w *wreck) error {
	if !n.dir {
		b := n.data
		switch {
		case bytes.Equal(n.data, n.synced) || w.how == everything:
		case w.how == synced || w.rnd.IntN(3) == 0:
			b = n.synced
		default: // torn, with zeros where nothing was written
			b = bytes.Clone(n.data)
			for off := 0; off < len(b); off += 512 {
				if w.rnd.IntN(2) == 0 {
					part := b[off:min(off+512, len(b))]
					clear(part)
					if off < len(n.synced) {
						copy(part, n.synced[off:])
					}
				}
			}
		}
		if n.ino != 0 {
			w.at[n.ino] = path
		}
		return os.WriteFile(path, b, 0o644)
	}
	if err := os.MkdirAll(path, 0o755); err != nil {
		return err
	}
	there := make(map[string]*diskNode)
	for name, c := range n.durable {
		there[name] = c
	}
	for _, c := range n.pending {
		if w.survives(c.id) {
			there[c.name] = c.node
		}
	}
	for name, c := range there {
		if c == nil {
			continue
		}
		if err := c.write(filepath.Join(path, name), w); err != nil {
			return err
		}
	}
	return nil
}

// A call is a system call that succeeded.
type call struct {
	name   string
	args   []string
	result int64
	made   string // the path of a file that was opened
}

var callPattern = regexp.MustCompile(`^(\w+)\((.*)\)\s+= (\d+)(?:<([^>]*)>)?`)

// calls reads what strace -f -y -xx wrote.
func calls(log []byte) (list []call, err error) {
	begun := make(map[string]string)
	s := bufio.NewScanner(bytes.NewReader(log))
	s.Buffer(nil, 64<<20)
	for s.Scan() {
		process, line, _ := strings.Cut(s.Text(), " ")
		line = strings.TrimLeft(line, " ")
		if first, ok := strings.CutSuffix(line, " <unfinished ...>"); ok {
			begun[process] = first
			continue
		}
		if strings.HasPrefix(line, "<... ") {
			_, rest, _ := strings.Cut(line, " resumed>")
			line = begun[process] + rest
		}
		m := callPattern.FindStringSubmatch(line)
		if m == nil {
			continue // it failed, or is a signal
		}
		c := call{name: m[1], args: strings.Split(m[2], ", "), made: unhex(m[4])}
		if c.result, err = strconv.ParseInt(m[3], 10, 64); err != nil {
			return nil, err
		}
		list = append(list, c)
	}
	return list, s.Err()
}

// unhex decodes what strace -xx writes.
func unhex(s string) string {
	if !strings.Contains(s, `\x`) {
		return s
	}
	var b []byte
	for len(s) >= 4 && s[:2] == `\x` {
		n, err := strconv.ParseUint(s[2:4], 16, 8)
		if err != nil {
			break
		}
		b = append(b, byte(n))
		s = s[4:]
	}
	return string(b) + s
}

func (c *call) text(i int) string {
	s, _ := strings.CutPrefix(c.args[i], `"`)
	s, ok := strings.CutSuffix(s, `"`)
	if !ok {
		panic("strace cut off " + c.args[i])
	}
	return unhex(s)
}

// file returns the number and path of an argument that is an open file.
func (c *call) file(i int) (int, string) {
	num, path, _ := strings.Cut(c.args[i], "<")
	n, err := strconv.Atoi(num)
	if err != nil {
		n = -1 // AT_FDCWD
	}
	return n, unhex(strings.TrimSuffix(path, ">"))
}

func (c *call) number(i int) int64 {
	n, err := strconv.ParseInt(c.args[i], 0, 64)
	if err != nil {
		panic(err)
	}
	return n
}

// offset is a number that the call was given a pointer to, [N] or [N => M].
func (c *call) offset(i int) int64 {
	s, _, _ := strings.Cut(strings.Trim(c.args[i], "[]"), " ")
	n, err := strconv.ParseInt(s, 0, 64)
	if err != nil {
		panic("no position: " + c.args[i])
	}
	return n
}

// at is the path of a name below an open directory.
func (c *call) at(i int) string {
	name := c.text(i + 1)
	if filepath.IsAbs(name) {
		return filepath.Clean(name)
	}
	_, dir := c.file(i)
	return filepath.Join(dir, name)
}

// apply does what a call did, and reports whether it changed something.
func (d *disk) apply(c *call) bool {
	node := func() *diskNode {
		_, path := c.file(0)
		n := d.find(path)
		if n != nil && !n.dir {
			return n
		}
		return nil
	}
	put := func(n *diskNode, off int64, b []byte) {
		if grow := off + int64(len(b)) - int64(len(n.data)); grow > 0 {
			n.data = append(n.data, make([]byte, grow)...)
		}
		copy(n.data[off:], b)
	}
	pos := d.pos
	switch c.name {
	case "openat":
		pos[int(c.result)] = 0
		path, flags := filepath.Clean(c.made), c.args[2]
		dir, _ := d.parent(path)
		switch n := d.find(path); {
		case dir == nil:
			return false
		case n == nil && strings.Contains(flags, "O_CREAT"):
			d.change(path, &diskNode{})
			return true
		case n != nil && strings.Contains(flags, "O_TRUNC"):
			n.data = nil
			return true
		case n == nil && strings.Contains(flags, "O_TMPFILE"):
			d.strange = append(d.strange, "O_TMPFILE in "+path)
		}
	case "lseek":
		fd, _ := c.file(0)
		pos[fd] = c.result
	case "read":
		fd, _ := c.file(0)
		pos[fd] += c.result
	case "write":
		fd, _ := c.file(0)
		off := pos[fd]
		pos[fd] += c.result
		if n := node(); n != nil {
			put(n, off, []byte(c.text(1))[:c.result])
			return true
		}
	case "pwrite64":
		if n := node(); n != nil {
			put(n, c.number(3), []byte(c.text(1))[:c.result])
			return true
		}
	case "copy_file_range":
		_, to := c.file(2)
		if n := d.find(to); n != nil {
			_, from := c.file(0)
			src, off := d.find(from), c.offset(1)
			if src == nil || src.dir {
				d.strange = append(d.strange, "copy_file_range from "+from)
				return false
			}
			put(n, c.offset(3), bytes.Clone(src.data[off:off+c.result]))
			return true
		}
	case "ftruncate":
		if n := node(); n != nil {
			size := int(c.number(1))
			n.data = append(slices.Clip(n.data[:min(size, len(n.data))]), make([]byte, max(0, size-len(n.data)))...)
			return true
		}
	case "fallocate":
		if n := node(); n != nil {
			off, size := c.number(2), c.number(3)
			switch {
			case strings.Contains(c.args[1], "PUNCH_HOLE"), strings.Contains(c.args[1], "ZERO_RANGE"):
				if off < int64(len(n.data)) {
					clear(n.data[off:min(off+size, int64(len(n.data)))])
				}
			case !strings.Contains(c.args[1], "KEEP_SIZE"):
				put(n, off+size, nil)
			}
			return true
		}
	case "fsync", "fdatasync":
		_, path := c.file(0)
		n := d.find(path)
		if n == nil {
			return false
		}
		n.synced = bytes.Clone(n.data)
		n.sync(d.changes)
		return true
	case "mkdirat":
		d.change(c.at(0), newDiskDir())
		return true
	case "renameat", "renameat2", "linkat":
		n := d.find(c.at(0))
		if n == nil {
			if dir, _ := d.parent(c.at(2)); dir != nil {
				d.strange = append(d.strange, c.name+" from elsewhere to "+c.at(2))
			}
			return false
		}
		switch {
		case c.name == "linkat":
			d.change(c.at(2), n)
		case strings.Contains(strings.Join(c.args, " "), "RENAME_EXCHANGE"):
			d.rename(c.at(0), d.find(c.at(2)), c.at(2), n)
		default:
			d.rename(c.at(0), nil, c.at(2), n)
		}
		return true
	case "unlinkat":
		if d.find(c.at(0)) != nil {
			d.change(c.at(0), nil)
			return true
		}
	default: // what changes files in other ways
		for i := range c.args {
			if _, path := c.file(i); path != "" && d.find(path) != nil && !d.find(path).dir {
				d.strange = append(d.strange, fmt.Sprintf("%s(%s)", c.name, path))
			}
		}
	}
	return false
}

// traced are the calls that change files, and some more so that none is overlooked.
const traced = "openat,lseek,read,write,writev,pwrite64,pwritev,ftruncate,truncate,fallocate,fsync,fdatasync,mkdirat,mkdir,renameat,renameat2,rename,linkat,link,unlinkat,unlink,rmdir," +
	"symlinkat,copy_file_range,sendfile,splice"

// trace runs the command below strace, and returns its calls.
func (k *killing) trace(args ...string) []call {
	k.Helper()
	log := k.path("calls")
	var errs bytes.Buffer
	cmd := k.below([]string{"-f", "-y", "-xx", "-s", "4000000", "-o", log, "-e", "trace=" + traced}, args...)
	cmd.Stderr = &errs
	if err := cmd.Run(); err != nil {
		k.Fatalf("tarvm %q: %v: %s", args, err, errs.String())
	}
	b, err := os.ReadFile(log)
	k.ok(err)
	list, err := calls(b)
	k.ok(err)
	return list
}

// below makes the command run below strace, on one processor, so that its calls come in much the same order each time.
func (k *killing) below(options []string, args ...string) *exec.Cmd {
	exe, err := os.Executable()
	k.ok(err)
	cmd := exec.Command("strace", slices.Concat(options, []string{exe}, args)...)
	cmd.Env = append(k.environment(), "GOMAXPROCS=1", "GODEBUG=asyncpreemptoff=1")
	return cmd
}

// needStrace skips a test where processes cannot be traced.
func needStrace(t *testing.T) {
	if archivetest.Race {
		t.Skip("what is tested is the order of calls; it runs without the race detector")
	}
	err := exec.Command("strace", "-f", "-o", os.DevNull, "true").Run()
	if err == nil {
		return
	}
	if os.Getenv("TARVM_REQUIRE_TOOLS") == "1" && errors.Is(err, exec.ErrNotFound) {
		t.Fatal("strace is missing, and TARVM_REQUIRE_TOOLS is 1")
	}
	t.Skip("no process can be traced: ", err)
}

// A feat is something that a command does to a repository of
//
//	stable0 ─ stable1 ─ stable2
//	             └ side
//
// where vm is another state, place another disk, areas/old a machine that is stable0, and export has x1 and x2.
type feat struct {
	name string
	// args are the command's, as long as f is not yet what it makes; nil: nothing is to be done.
	args  func(k *killing, f *repo.Forest) []string
	keeps []string // names of entries that stay
	// done reports whether it was done; nil: it changes nothing in the repository.
	done func(f *repo.Forest) bool
	// area is the directory that becomes stable2.
	area string
}

func feats(ids map[string]delta.Digest) []feat {
	every := []string{"stable0", "stable1", "stable2", "side"}
	// remove removes those that are there still.
	remove := func(f *repo.Forest, names []string, flags ...string) []string {
		names = slices.DeleteFunc(slices.Clone(names), func(n string) bool { return named(f, n) == nil })
		if len(names) == 0 {
			return nil
		}
		return slices.Concat([]string{"rm"}, names, flags)
	}
	gone := func(names ...string) func(*repo.Forest) bool {
		return func(f *repo.Forest) bool {
			return !slices.ContainsFunc(names, func(n string) bool { return named(f, n) != nil })
		}
	}
	restore := func(name, area string) feat {
		return feat{name: name, keeps: every, area: area, args: func(k *killing, _ *repo.Forest) []string {
			return []string{"restore", "stable2", k.path(area), "--discard", "--workers", "1"}
		}}
	}
	return []feat{
		{name: "save", args: func(k *killing, _ *repo.Forest) []string {
			return []string{"save", k.path("vm"), "--name", "new", "--project", "new", "--codec", "none", "--workers", "1"}
		}, keeps: every, done: func(f *repo.Forest) bool { return named(f, "new") != nil }},
		{name: "merge", args: func(*killing, *repo.Forest) []string { return []string{"merge", "stable2", "--workers", "1"} }, keeps: every,
			done: func(f *repo.Forest) bool { return named(f, "stable2").Kind == repo.Full }},
		{name: "rm", args: func(_ *killing, f *repo.Forest) []string { return remove(f, every[1:]) }, keeps: every[:1], done: gone(every[1:]...)},
		{name: "rm --reparent", args: func(_ *killing, f *repo.Forest) []string {
			return remove(f, []string{"stable1"}, "--reparent", "--workers", "1")
		}, keeps: []string{"stable0", "stable2", "side"}, done: gone("stable1")},
		{name: "squash", args: func(_ *killing, f *repo.Forest) []string {
			if e := named(f, "stable2"); e.Parent.ID != ids["stable1"] {
				return remove(f, []string{"stable1"}, "--reparent", "--workers", "1") // it was merged before
			}
			return []string{"merge", "--squash", "stable1..stable2", "--reparent", "--workers", "1"}
		}, keeps: []string{"stable0", "stable2", "side"}, done: gone("stable1")},
		{name: "import", args: func(k *killing, _ *repo.Forest) []string {
			return []string{"import", k.path("export"), "--workers", "1"}
		}, keeps: every, done: func(f *repo.Forest) bool { return named(f, "x1") != nil && named(f, "x2") != nil }},
		{name: "relocate", args: func(k *killing, _ *repo.Forest) []string {
			return []string{"repo", "relocate", "stable1", "--to", k.path("place"), "--name", "disk"}
		}, keeps: every, done: func(f *repo.Forest) bool { return named(f, "stable1").Missing }},
		restore("restore", "areas/new"),
		restore("restore in place", "areas/old"),
	}
}

// prepareFeats makes the scene of feats.
func (k *killing) prepareFeats() map[string]delta.Digest {
	k.Helper()
	k.prepare()
	ctx := context.Background()
	f, err := k.r.Forest(ctx)
	k.ok(err)
	k.machine("side", 1, 9)
	_, err = k.r.Save(ctx, k.path("side"), repo.SaveOptions{Project: "stable", Parent: named(f, "stable1")})
	k.ok(err)
	k.machine("vm", 1, 100)
	f, err = k.r.Forest(ctx)
	k.ok(err)
	k.ok(os.MkdirAll(k.path("areas"), 0o755))
	_, err = k.r.Restore(ctx, f, named(f, "stable0"), k.path("areas/old"), repo.RestoreOptions{})
	k.ok(err)
	ids := make(map[string]delta.Digest)
	for _, e := range f.Entries {
		ids[e.Name] = e.ID
	}
	return ids
}

// whole makes sure that the entries of the names are there and whole, and nothing else is wrong; leftovers are what the
// next writer removes.
func (k *killing) whole(where string, ids map[string]delta.Digest, names []string, leftovers bool) *repo.Forest {
	k.Helper()
	ctx := context.Background()
	r, err := repo.OpenDir(ctx, k.path("repo"), k.options())
	k.ok(err)
	rep, err := r.Check(ctx, repo.CheckOptions{Read: true, Workers: 1})
	k.ok(err)
	for _, p := range rep.Problems {
		if !leftovers || !strings.Contains(p.What, "another archive has taken its place") {
			k.Errorf("%s: problem: %s", where, p)
		}
	}
	if len(rep.Offline) > 0 || rep.Stale && !leftovers {
		k.Errorf("%s: offline %v, stale %v", where, rep.Offline, rep.Stale)
	}
	f, err := r.Forest(ctx)
	k.ok(err)
	for _, name := range names {
		if e := named(f, name); e == nil || e.ID != ids[name] {
			k.Errorf("%s: %s has gone, or is another", where, name)
		}
	}
	return f
}

// again does it once more, in this process, and makes sure that it is done and nothing is left of the first time.
func (k *killing) again(where string, ft *feat, ids map[string]delta.Digest, f *repo.Forest) {
	k.Helper()
	if args := ft.args(k, f); args != nil {
		var out bytes.Buffer
		if code := cli.Main(context.Background(), append(args, "-q"), strings.NewReader(""), &out, &out); code != 0 {
			k.Errorf("%s: done again: tarvm %q: %s", where, args, out.String())
		}
	}
	if ft.area != "" {
		k.sameContent(where, ft.area)
	}
	// Whoever writes next cleans up.
	k.ok(k.r.SetPlace(context.Background(), repo.Place{Name: fmt.Sprint("p", k.rnd.Int()), Dir: k.path("nowhere")}))
	_, err := k.r.Reindex(context.Background())
	k.ok(err)
	if f = k.whole(where+", done again", ids, ft.keeps, false); ft.done != nil && !ft.done(f) {
		k.Errorf("%s: done again, and it is not done", where)
	}
	k.ok(filepath.WalkDir(k.path("repo"), func(p string, d fs.DirEntry, err error) error {
		if err == nil && (strings.HasPrefix(d.Name(), ".") || filepath.Base(filepath.Dir(p)) == "tmp") {
			k.Errorf("%s: left: %s", where, p)
		}
		return err
	}))
}

// sameContent makes sure that a directory is stable2, but for times.
func (k *killing) sameContent(where, area string) {
	k.Helper()
	list, err := os.ReadDir(k.path(area))
	// What is left of a restore that has ended is removed by the next one, unless it could be taken for one that has not.
	list = slices.DeleteFunc(list, func(e fs.DirEntry) bool {
		_, err := os.Stat(filepath.Join(k.path(area), ".tarvm-restore", "journal"))
		return e.Name() == ".tarvm-restore" && errors.Is(err, fs.ErrNotExist)
	})
	if err != nil || len(list) != 2 {
		k.Errorf("%s: in %s are %d files, %v", where, area, len(list), err)
		return
	}
	if err := k.differs(area, "stable2"); err != nil {
		k.Errorf("%s: %v", where, err)
	}
}

// differs says which files of an area are not those of a state; nil: none.
func (k *killing) differs(area, state string) error {
	k.Helper()
	var all []error
	for _, name := range []string{"disk.raw", "notes"} {
		want, err := os.ReadFile(filepath.Join(k.path(state), name))
		k.ok(err)
		if got, err := os.ReadFile(filepath.Join(k.path(area), name)); err != nil || !bytes.Equal(got, want) {
			all = append(all, fmt.Errorf("%s in %s is another one, %v", name, area, err))
		}
	}
	return errors.Join(all...)
}

// oldOrNew makes sure that areas/old is what it was, or stable2, or has a journal that makes it so. The journal knows files
// by their inodes, which are others where the disk was written again.
func (k *killing) oldOrNew(where string, w *wreck) {
	k.Helper()
	journal := filepath.Join(k.path("areas/old"), ".tarvm-restore", "journal")
	text, err := os.ReadFile(journal)
	if err == nil {
		k.ok(os.WriteFile(journal, journalInode.ReplaceAllFunc(text, func(b []byte) []byte {
			n, err := strconv.ParseUint(string(b[len(`"ino":`):]), 10, 64)
			k.ok(err)
			if at, ok := w.at[n]; ok {
				n = inode(k.T, at)
			}
			return fmt.Appendf(nil, `"ino":%d`, n)
		}), 0o600))
		return
	}
	if k.differs("areas/old", "stable0") == nil || k.differs("areas/old", "stable2") == nil {
		return
	}
	k.Errorf("%s: areas/old is neither what it was nor stable2, and there is no journal", where)
}

var journalInode = regexp.MustCompile(`"ino":\d+`)

func inode(t *testing.T, path string) uint64 {
	t.Helper()
	st, err := os.Lstat(path)
	if err != nil {
		t.Fatal(err)
	}
	return st.Sys().(*syscall.Stat_t).Ino
}

// scene copies k for a feat.
func (k *killing) scene(t *testing.T, seed uint64) *killing {
	t.Helper()
	c := &killing{T: t, dir: memoryDir(t), rnd: rand.New(rand.NewPCG(3, seed))}
	c.ok(os.CopyFS(c.dir, os.DirFS(k.dir)))
	for name, value := range map[string]string{"TMPDIR": c.path("temp"), "XDG_CONFIG_HOME": c.path("config"), "XDG_STATE_HOME": c.path("state"), "TARVM_REPO": c.path("repo")} {
		t.Setenv(name, value)
	}
	var err error
	c.r, err = repo.OpenDir(t.Context(), c.path("repo"), c.options())
	c.ok(err)
	return c
}

// TestPowerLoss has the power fail behind each call that changes something in a repository, on another disk of it, or in a
// working area: what was there is there, what is new is so as a whole or not at all, and what was reported as done is.
func TestPowerLoss(t *testing.T) {
	needStrace(t)
	base := &killing{T: t, dir: memoryDir(t), rnd: rand.New(rand.NewPCG(1, 1))}
	ids := base.prepareFeats()
	roots := []string{"repo", "place", "areas"}
	base.ok(os.Mkdir(base.path("place"), 0o755))
	for i, ft := range feats(ids) {
		t.Run(ft.name, func(t *testing.T) {
			k := base.scene(t, uint64(i))
			d := &disk{t: t, root: newDiskDir(), pos: make(map[int]int64)}
			for _, root := range roots {
				d.load(k.path(root))
			}
			f, err := k.r.Forest(t.Context())
			k.ok(err)
			list := k.trace(append(ft.args(k, f), "-q")...)
			states, writes := 0, 0
			for i := range list {
				last := i == len(list)-1
				if !d.apply(&list[i]) && !last {
					continue
				}
				// Of many writes one behind the other a few will do.
				if strings.Contains(list[i].name, "write") && !last {
					if writes++; writes%7 != 0 {
						continue
					}
				}
				for _, how := range []survival{everything, synced, part} {
					if testing.Short() && !last && states%4 > 0 {
						states++
						continue
					}
					states++
					where := fmt.Sprintf("state %d, behind call %d of %d (%s), %d survives", states, i+1, len(list), list[i].name, how)
					w := newWreck(how, k.rnd)
					for _, root := range roots {
						k.ok(os.RemoveAll(k.path(root)))
						k.ok(d.find(k.path(root)).write(k.path(root), w))
					}
					if ft.area == "areas/old" {
						k.oldOrNew(where, w)
					}
					f := k.whole(where, ids, ft.keeps, true)
					if last && ft.done != nil && !ft.done(f) {
						t.Errorf("%s: it was reported as done, and is not", where)
					}
					if last && ft.area != "" {
						k.sameContent(where, ft.area)
					}
					if ft.area == "areas/old" || states%3 == 0 || last {
						k.again(where, &ft, ids, f)
					}
					if t.Failed() {
						t.FailNow()
					}
				}
			}
			if len(d.strange) > 0 {
				t.Errorf("calls that the model of the disk does not know: %q", d.strange)
			}
			t.Logf("%d states", states)
		})
	}
}
