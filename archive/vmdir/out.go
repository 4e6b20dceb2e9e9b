package vmdir

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"math"
	"math/bits"
	"os"
	"slices"
	"strings"
	"unicode/utf8"

	"tarvm/manifest"
)

// Mkdir makes a directory that only its owner may enter; Apply opens it later. It is an error that
// is fs.ErrExist when the name is taken, as for all functions that make something.
func Mkdir(root *os.Root, p manifest.Path) error {
	return at(root, p, func(d *dir, name string) error { return d.mkdir(name) })
}

// Symlink makes a symbolic link that says target, whatever that is.
func Symlink(root *os.Root, target, p manifest.Path) error {
	return at(root, p, func(d *dir, name string) error { return d.symlink(target, name) })
}

// Link makes p another name of the file at old. Both are below root.
func Link(root *os.Root, old, p manifest.Path) error { return link(root, old, p) }

// Mkfifo makes a FIFO; errors.ErrUnsupported on Windows and macOS.
func Mkfifo(root *os.Root, p manifest.Path) error {
	return at(root, p, func(d *dir, name string) error { return d.mkfifo(name) })
}

// CreateFile makes a new file, for reading and writing by its owner alone until Apply. The caller
// closes it.
func CreateFile(root *os.Root, p manifest.Path) (f *os.File, err error) {
	err = at(root, p, func(d *dir, name string) error {
		f, err = d.create(name)
		return err
	})
	return f, err
}

// ApplyOptions say which metadata to restore. The zero value restores what tar does: the
// owner only when running as root.
type ApplyOptions struct {
	Owner    bool   // change owner and group in any case, and fail where that is not possible
	Numeric  bool   // owners by number, even when their names are known here
	NoXattrs bool   // leave extended attributes as they are
	NoSetID  bool   // drop set-user-ID, set-group-ID and capabilities of files
	Names    *Names // keeps looked up names from call to call; nil: look up each time
}

// Apply gives the file at p the metadata in s: owner, extended attributes (those that s does not
// have are removed), mode, and last the modification time. Links are not followed; of symbolic
// links owner and time are set, of a member of type Link nothing. Call it after the content has
// been written, and for a directory after everything in it.
//
// What the file system or the user's rights do not allow is returned as warnings, each with
// the path. Set-user-ID and set-group-ID are set only on files that have the wanted owner.
// It is ErrReplaced when a file of another type is at p.
func Apply(root *os.Root, p manifest.Path, s *manifest.State, o ApplyOptions) (warnings []error, err error) {
	if s.Type == manifest.Link {
		return nil, check(p)
	}
	a := applier{state: s, o: o}
	err = at(root, p, a.apply)
	for i, w := range a.warnings {
		a.warnings[i] = named(p, w)
	}
	return a.warnings, err
}

type applier struct {
	state    *manifest.State
	o        ApplyOptions
	warnings []error
}

// soft makes a warning of an error that is no reason to stop.
func (a *applier) soft(err error) error {
	if err == nil || !keepOnly(err) {
		return err
	}
	a.warnings = append(a.warnings, err)
	return nil
}

func (a *applier) apply(d *dir, name string) error {
	s := a.state
	var now Entry
	if err := d.stat(name, &now); err != nil {
		return err
	}
	if now.Type != s.Type {
		return opError("stat", ErrReplaced)
	}
	// Changing the owner clears set-user-ID and capabilities, so that it comes first.
	mode, err := a.owner(d, name, &now)
	if err != nil {
		return err
	}
	if s.Type != manifest.Symlink {
		// Attributes come before the mode, which may forbid to write them.
		if !a.o.NoXattrs && hasXattrs && s.Type != manifest.Fifo {
			if err := a.xattrs(d, name, &now); err != nil {
				return err
			}
		}
		if err := a.soft(d.chmod(name, uint32(mode))); err != nil {
			return err
		}
	}
	return a.soft(d.setTime(name, s.ModTime.Time))
}

// owner changes the owner, and returns the mode that is right for the owner that the file has then.
func (a *applier) owner(d *dir, name string, now *Entry) (manifest.Mode, error) {
	s := a.state
	uid, gid := s.UID, s.GID
	if !a.o.Numeric {
		n := a.o.Names
		if n == nil {
			n = new(Names)
		}
		uid, gid = n.uid(s.User, uid), n.gid(s.Group, gid)
	}
	root := geteuid() == 0
	differs := uid != now.UID || gid != now.GID
	if hasOwners && differs && (a.o.Owner || root) {
		var err error
		if uid < 0 || gid < 0 || uid >= math.MaxUint32 || gid >= math.MaxUint32 {
			err = opError("chown", fs.ErrInvalid) // all ones means: leave as it is
		} else {
			err = d.chown(name, int(uid), int(gid))
		}
		if err != nil && (a.o.Owner || !keepOnly(err) && !errors.Is(err, fs.ErrInvalid)) {
			return 0, err
		}
		if err != nil {
			a.warnings = append(a.warnings, err)
		} else {
			now.UID, now.GID = uid, gid
		}
	}
	mode := s.Mode
	const setUID, setGID = 0o4000, 0o2000
	if s.Type == manifest.File {
		if a.o.NoSetID || now.UID != uid {
			mode &^= setUID
		}
		if a.o.NoSetID || now.GID != gid {
			mode &^= setGID
		}
		if mode != s.Mode {
			a.warnings = append(a.warnings, opError("chmod", fmt.Errorf("mode %04o instead of %04o: %w", mode, s.Mode, fs.ErrPermission)))
		}
	}
	return mode, nil
}

const capability = "security.capability"

// xattrs makes the attributes those of the state.
func (a *applier) xattrs(d *dir, name string, now *Entry) error {
	have, err := d.xattrs(name)
	if err != nil {
		return a.soft(err)
	}
	want := a.state.Xattrs
	same := func(k string) bool {
		v, ok := have[k]
		return ok && bytes.Equal(v, want[k])
	}
	// The owner of a read-only file may not write its attributes; root may.
	if writable := now.Mode | 0o600; writable != now.Mode && geteuid() != 0 && !maps.EqualFunc(have, want, bytes.Equal) {
		if err := a.soft(d.chmod(name, uint32(writable))); err != nil {
			return err
		}
	}
	for _, k := range slices.Sorted(maps.Keys(have)) {
		if _, ok := want[k]; !ok {
			if err := a.soft(d.removeXattr(name, k)); err != nil {
				return err
			}
		}
	}
	for _, k := range slices.Sorted(maps.Keys(want)) {
		if same(k) {
			continue
		}
		if !keepXattr(k) || checkXattr(k) != nil || k == capability && a.o.NoSetID {
			a.warnings = append(a.warnings, opError("setxattr "+fmt.Sprintf("%q", k), fs.ErrPermission))
			continue
		}
		if err := a.soft(d.setXattr(name, k, want[k])); err != nil {
			return err
		}
	}
	return nil
}

// checkXattr refuses a name that neither a tar header nor a manifest can hold.
func checkXattr(name string) error {
	if !utf8.ValidString(name) || strings.ContainsAny(name, "=\x00\n") {
		return fmt.Errorf("extended attribute %q: this name cannot be stored; remove the attribute", name)
	}
	return nil
}

// PunchHole frees bytes off to off+n of f, which read as zeros then; the size stays.
// errors.ErrUnsupported: the system or file system cannot.
func PunchHole(f *os.File, off, n int64) error { return punchHole(f, off, n) }

// Allocate reserves space for bytes off to off+n of f without writing. Holes in it become allocated
// zeros, data stays as it is, a shorter file grows. errors.ErrUnsupported: the system or file
// system cannot; write zeros.
func Allocate(f *os.File, off, n int64) error { return allocate(f, off, n) }

// CloneRange makes n bytes of dst share the blocks of src. errors.ErrUnsupported: they are not
// on one file system that shares blocks, or the range is not cut as it demands (blocks of mostly
// 4 KiB; only the end of src may be anywhere). Nothing has been changed then.
func CloneRange(dst, src *os.File, dstOff, srcOff, n int64) error {
	return cloneRange(dst, src, dstOff, srcOff, n)
}

// copyBuffer was measured with a warm cache: 1 MiB copies at 5 GB/s, as does 4 MiB.
const copyBuffer = 1 << 20

// CopyRange copies n bytes from src to dst, in the kernel where it can. It is
// io.ErrUnexpectedEOF when src ends before. Neither file's offset moves.
func CopyRange(dst, src *os.File, dstOff, srcOff, n int64) error {
	for n > 0 {
		m, err := copySome(dst, src, dstOff, srcOff, n)
		if m == 0 || errors.Is(err, errors.ErrUnsupported) {
			return copyBytes(dst, src, dstOff, srcOff, n)
		}
		if err != nil {
			return err
		}
		dstOff, srcOff, n = dstOff+m, srcOff+m, n-m
	}
	return nil
}

func copyBytes(dst, src *os.File, dstOff, srcOff, n int64) error {
	b := make([]byte, min(n, copyBuffer))
	for n > 0 {
		m, err := src.ReadAt(b[:min(n, copyBuffer)], srcOff)
		if _, err := dst.WriteAt(b[:m], dstOff); err != nil {
			return err
		}
		dstOff, srcOff, n = dstOff+int64(m), srcOff+int64(m), n-int64(m)
		if err == io.EOF && n > 0 {
			return &fs.PathError{Op: "copy", Path: src.Name(), Err: io.ErrUnexpectedEOF}
		}
		if err != nil && err != io.EOF {
			return err
		}
	}
	return nil
}

// ErrClaimed: another process works with the file.
var ErrClaimed = errors.New("in use by another process")

// Claim locks an open file or directory for as long as it is open, so that nobody takes it for one that a killed
// process left. It is ErrClaimed when somebody else has it, errors.ErrUnsupported on file systems without locks. On
// Windows it does nothing: files that are open cannot be removed there.
func Claim(f *os.File) error { return claim(f) }

// SyncDir makes renames in an open directory durable, where the file system can.
func SyncDir(d *os.File) error {
	if err := d.Sync(); err != nil && !unsyncable(err) {
		return err
	}
	return nil
}

// StartWriteback has what was written to a range of f go to disk, so that a later Sync has little to wait for. It
// is a hint, and does not wait.
func StartWriteback(f *os.File, off, n int64) { startWriteback(f, off, n) }

// FreeSpace returns how many bytes this user may still write to the file system of root.
func FreeSpace(root *os.Root) (int64, error) {
	n, err := freeSpace(root)
	return n, named(manifest.Path(root.Name()), err)
}

func clampMul(n uint64, unit int64) int64 {
	hi, lo := bits.Mul64(n, uint64(unit))
	if hi != 0 || lo > math.MaxInt64 {
		return math.MaxInt64
	}
	return int64(lo)
}
