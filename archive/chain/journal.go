package chain

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"slices"
	"strconv"

	"tarvm/archive/pax"
	"tarvm/archive/vmdir"
	"tarvm/manifest"
)

// Names in the staging directory of a restore into a directory that has content:
//
//	.tarvm-restore/new/N      what gets a name, by number; of a patch only the changed blocks
//	.tarvm-restore/old/N      what lost its name
//	.tarvm-restore/journal    what is to be done; its presence means: only forward
//	.tarvm-restore/done       the journal after everything in it was done
const (
	restoreDir  = ".tarvm-restore"
	newDir      = "new"
	oldDir      = "old"
	journalName = "journal"
	journalTemp = "journal.tmp"
	doneName    = "done"
)

// A step of a journal. Every step may be done again after it was done wholly or in part.
type step struct {
	Op   string              `json:"op"`
	Path manifest.Path       `json:"path,omitempty"`
	N    int                 `json:"n,omitempty"`    // number in new and old
	Ino  uint64              `json:"ino,omitempty"`  // away: of what is to be moved; 0: not known
	Role manifest.Role       `json:"role,omitempty"` // of the member
	M    *manifest.Member    `json:"member,omitempty"`
	Size int64               `json:"size,omitempty"`    // patch: of the file
	Data [][2]int64          `json:"data,omitempty"`    // patch: ranges (offset, length) that new/N holds
	Zero [][2]int64          `json:"zero,omitempty"`    // patch: ranges that become zero
	Opts *vmdir.ApplyOptions `json:"options,omitempty"` // begin
}

// The operations of steps, in the order in which a journal has them.
const (
	opBegin = "begin" // first: options
	opAway  = "away"  // Path to old/N
	opOpen  = "open"  // a directory gets the permissions to change it
	opMkdir = "mkdir"
	opPatch = "patch" // old/N becomes the new file, and gets its name
	opIn    = "in"    // new/N to Path
	opLink  = "link"  // Path becomes another name of the member's target
	opMeta  = "meta"
	opSync  = "sync" // everything so far must be on disk before the next step
	opEnd   = "end"  // last: the journal is whole
)

func newName(n int) string { return path.Join(restoreDir, newDir, strconv.Itoa(n)) }
func oldName(n int) string { return path.Join(restoreDir, oldDir, strconv.Itoa(n)) }

// writeJournal makes the journal durable under its name. From then on a restore is only completed.
func writeJournal(root *os.Root, steps []step, sync bool) (err error) {
	f, err := root.OpenFile(path.Join(restoreDir, journalTemp), os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	w := bufio.NewWriter(f)
	enc := json.NewEncoder(w)
	enc.SetEscapeHTML(false)
	for i := range steps {
		if err := enc.Encode(&steps[i]); err != nil {
			f.Close()
			return err
		}
	}
	err = w.Flush()
	if sync {
		err = errors.Join(err, f.Sync())
	}
	if err := errors.Join(err, f.Close()); err != nil {
		return fmt.Errorf("journal of the restore: %w", err)
	}
	if err := root.Rename(path.Join(restoreDir, journalTemp), path.Join(restoreDir, journalName)); err != nil {
		return err
	}
	if !sync {
		return nil
	}
	return syncDirs(root, restoreDir, ".")
}

func readJournal(root *os.Root) ([]step, error) {
	f, err := root.Open(path.Join(restoreDir, journalName))
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return parseJournal(f)
}

func parseJournal(r io.Reader) ([]step, error) {
	bad := func(err error) ([]step, error) {
		return nil, fmt.Errorf("%w: journal of an interrupted restore, %s/%s: %w", ErrCorrupt, restoreDir, journalName, err)
	}
	var steps []step
	d := json.NewDecoder(bufio.NewReader(r))
	for {
		var s step
		err := d.Decode(&s)
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return bad(err)
		}
		if s.Path != "" && s.Path != "." {
			if err := checkPath(s.Path); err != nil {
				return bad(err)
			}
		}
		if s.N < 0 || s.M == nil && (s.Op == opMeta || s.Op == opLink || s.Op == opPatch) {
			return bad(fmt.Errorf("step %d is not valid", len(steps)))
		}
		for _, x := range slices.Concat(s.Data, s.Zero) {
			if x[0] < 0 || x[1] < 0 || x[1] > s.Size-x[0] {
				return bad(fmt.Errorf("step %d: %d bytes at %d of a file of %d", len(steps), x[1], x[0], s.Size))
			}
		}
		steps = append(steps, s)
	}
	if len(steps) < 2 || steps[0].Op != opBegin || steps[0].Opts == nil || steps[len(steps)-1].Op != opEnd {
		return bad(io.ErrUnexpectedEOF)
	}
	return steps, nil
}

// checkPath refuses names that lead out of the directory, or to what a restore itself needs.
func checkPath(p manifest.Path) error {
	if err := pax.CheckName(string(p)); err != nil {
		return fmt.Errorf("%w: %w", ErrUnsafe, err)
	}
	if path.Clean(string(p)) != string(p) {
		return fmt.Errorf("%w: %q is not in its shortest form", ErrUnsafe, p)
	}
	if reservedName(p) {
		return fmt.Errorf("%w: %q is a name that is reserved", ErrUnsafe, p)
	}
	return nil
}

// roller does the steps of a journal.
type roller struct {
	root *os.Root
	sync bool
	hook func(string) // of tests; nil: none

	opts     vmdir.ApplyOptions
	warnings []error
	dirs     map[string]bool // changed since the last sync
}

func (r *roller) step(name string) {
	if r.hook != nil {
		r.hook(name)
	}
}

func (r *roller) changed(p string) { r.dirs[path.Dir(p)] = true }

// roll does all steps, and then removes the staging directory.
func (r *roller) roll(ctx context.Context, steps []step, done func(s *step)) error {
	r.dirs = make(map[string]bool)
	var top *manifest.Member
	for i := range steps {
		s := &steps[i]
		if s.Op == opMeta && s.Path == "." {
			top = s.M // the last change of the directory is that the staging directory goes
			continue
		}
		r.step("roll " + s.Op)
		if err := r.do(s); err != nil {
			return fmt.Errorf("%s: %w (the restore is not complete; the next one completes it)", s.Path, err)
		}
		if done != nil {
			done(s)
		}
	}
	if err := r.flush(); err != nil {
		return err
	}
	r.step("roll done")
	if err := r.root.Rename(path.Join(restoreDir, journalName), path.Join(restoreDir, doneName)); err != nil {
		return err
	}
	// A journal that came back after a power failure would be done again, over what the machine has written meanwhile.
	if r.sync {
		if err := syncDirs(r.root, restoreDir); err != nil {
			return err
		}
	}
	r.step("roll clean")
	if err := removeAll(r.root, restoreDir); err != nil {
		return err
	}
	if top != nil {
		return r.apply(".", top)
	}
	return nil
}

func (r *roller) apply(p manifest.Path, m *manifest.Member) error {
	w, err := vmdir.Apply(r.root, p, &m.State, r.opts)
	r.warnings = append(r.warnings, w...)
	return err
}

func (r *roller) flush() error {
	if !r.sync || len(r.dirs) == 0 {
		return nil
	}
	list := []string{path.Join(restoreDir, oldDir), path.Join(restoreDir, newDir)}
	for d := range r.dirs {
		list = append(list, d)
	}
	r.dirs = make(map[string]bool)
	return syncDirs(r.root, list...)
}

func exists(root *os.Root, name string) (fs.FileInfo, error) {
	fi, err := root.Lstat(name)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	return fi, err
}

func (r *roller) do(s *step) error {
	p := string(s.Path)
	switch s.Op {
	case opBegin:
		r.opts = *s.Opts
		r.opts.Names = new(vmdir.Names)
	case opEnd:
	case opSync:
		return r.flush()
	case opAway:
		old := oldName(s.N)
		if fi, err := exists(r.root, old); err != nil || fi != nil {
			return err
		}
		fi, err := exists(r.root, p)
		if err != nil || fi == nil {
			return err
		}
		if ino := inodeOf(fi); s.Ino != 0 && ino != 0 && ino != s.Ino {
			return nil // what is here now is the new one
		}
		r.changed(p)
		return r.root.Rename(p, old)
	case opOpen:
		return r.root.Chmod(p, 0o700)
	case opMkdir:
		r.changed(p)
		if err := vmdir.Mkdir(r.root, s.Path); err != nil && !errors.Is(err, fs.ErrExist) {
			return err
		}
		fi, err := r.root.Lstat(p)
		if err == nil && !fi.IsDir() {
			return &CollisionError{s.Path, fi.Mode().Type().String()}
		}
		return err
	case opPatch:
		old := oldName(s.N)
		if fi, err := exists(r.root, old); err != nil || fi == nil {
			return err // it has its name already
		}
		if err := r.patch(s, old); err != nil {
			return err
		}
		if err := r.apply(manifest.Path(old), s.M); err != nil {
			return err
		}
		return r.in(s, old)
	case opIn:
		return r.in(s, newName(s.N))
	case opLink:
		return r.link(s)
	case opMeta:
		return r.apply(s.Path, s.M)
	default:
		return fmt.Errorf("%w: journal has a step %q, which needs a later version of tarvm", ErrCorrupt, s.Op)
	}
	return nil
}

// in gives what is at from its name.
func (r *roller) in(s *step, from string) error {
	if fi, err := exists(r.root, from); err != nil || fi == nil {
		return err // it has it already
	}
	// Everything that was here has been moved away: what is here now has a name that this file system takes for
	// the same, or was made by somebody else.
	if fi, err := exists(r.root, string(s.Path)); err != nil || fi != nil {
		if err == nil {
			err = &CollisionError{s.Path, "a file that came while the restore was running, or whose name is the same here"}
		}
		return err
	}
	r.changed(string(s.Path))
	return r.root.Rename(from, string(s.Path))
}

func (r *roller) link(s *step) error {
	p, target := string(s.Path), string(s.M.Target)
	if err := checkPath(s.M.Target); err != nil {
		return err
	}
	fi, err := exists(r.root, p)
	if err != nil {
		return err
	}
	if fi != nil {
		of, err := r.root.Lstat(target)
		if err == nil && os.SameFile(fi, of) {
			return nil
		}
		return errors.Join(err, &CollisionError{s.Path, "another file"})
	}
	r.changed(p)
	return vmdir.Link(r.root, s.M.Target, s.Path)
}

// patch changes the file at old into the new one.
func (r *roller) patch(s *step, old string) (err error) {
	if err := r.root.Chmod(old, 0o600); err != nil {
		return err
	}
	f, err := r.root.OpenFile(old, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	if fi, err := f.Stat(); err != nil || !fi.Mode().IsRegular() {
		return errors.Join(err, fmt.Errorf("%s: is no file", old))
	}
	var src *os.File
	if len(s.Data) > 0 {
		if src, err = r.root.Open(newName(s.N)); err != nil {
			return err
		}
		defer src.Close()
	}
	r.step("roll patch size")
	if err := f.Truncate(s.Size); err != nil {
		return err
	}
	for _, z := range s.Zero {
		if err := zeroRange(f, z[0], z[1]); err != nil {
			return err
		}
	}
	for _, d := range s.Data {
		r.step("roll patch range")
		if err := vmdir.CopyRange(f, src, d[0], d[0], d[1]); err != nil {
			return err
		}
	}
	if r.sync {
		return f.Sync()
	}
	return nil
}

// zeroRange makes n bytes of f zero, as a hole where that is possible.
func zeroRange(f *os.File, off, n int64) error {
	err := vmdir.PunchHole(f, off, n)
	if !errors.Is(err, errors.ErrUnsupported) {
		return err
	}
	for n > 0 {
		k, err := f.WriteAt(zeroBuf[:min(n, int64(len(zeroBuf)))], off)
		if err != nil {
			return err
		}
		off, n = off+int64(k), n-int64(k)
	}
	return nil
}

// Recover completes a restore into dir that was interrupted after its journal was written, and removes what
// one left that was interrupted before. It reports whether there was one to complete. A restore that
// still runs in another process is ErrBusy.
func Recover(ctx context.Context, dir string) (bool, error) {
	root, err := os.OpenRoot(dir)
	if err != nil {
		return false, err
	}
	defer root.Close()
	return recoverRoot(ctx, root, nil)
}

func recoverRoot(ctx context.Context, root *os.Root, hook func(string)) (bool, error) {
	fi, err := exists(root, restoreDir)
	if err != nil || fi == nil {
		return false, err
	}
	if !fi.IsDir() {
		return false, &CollisionError{restoreDir, "no directory"}
	}
	lock, err := lockDir(root, restoreDir)
	if err != nil {
		return false, err
	}
	defer lock.Close()
	steps, err := readJournal(root)
	if errors.Is(err, fs.ErrNotExist) {
		return false, removeAll(root, restoreDir)
	}
	if err != nil {
		return false, err
	}
	r := &roller{root: root, sync: true, hook: hook}
	return true, r.roll(ctx, steps, nil)
}

// removeAll removes a tree, also one with directories that may not be written.
func removeAll(root *os.Root, name string) error {
	if err := root.RemoveAll(name); err == nil {
		return nil
	}
	_ = fs.WalkDir(root.FS(), name, func(p string, d fs.DirEntry, err error) error {
		if err == nil && d.IsDir() {
			_ = root.Chmod(p, 0o700) // RemoveAll says what could not be done
		}
		return nil
	})
	return root.RemoveAll(name)
}
