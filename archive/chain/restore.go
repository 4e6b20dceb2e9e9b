package chain

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"tarvm/archive"
	"tarvm/archive/vmdir"
	"tarvm/delta"
	"tarvm/manifest"
)

// RestoreOptions say how to restore. The zero value restores everything, and removes what the entry
// does not have.
type RestoreOptions struct {
	Only    []string // patterns of vmdir.Match: only what matches is restored (and removed)
	Keep    bool     // leave what the entry does not have
	Workers int      // 0: as many as CPUs are usable

	Owner    bool // set owners, and fail where that is not possible
	Numeric  bool // owners by number
	NoXattrs bool
	NoSetID  bool // no set-user-ID, set-group-ID or capabilities

	// Force also replaces a directory that has nothing in common with the entry, which is an
	// *UnrelatedError otherwise.
	Force bool

	// Known is what the directory is known to hold: files that are as Known has them, by size, modification time, and the
	// identity in Seen, are not read, neither before the restore nor, where they stay, behind it.
	Known *archive.Manifest
	Seen  map[manifest.Path]vmdir.Identity

	NoSync   bool // do not wait until everything is on disk; a power failure may then lose what is new
	Progress func(archive.Progress)

	hook func(string) // of tests: called before each step that changes something
}

func (o *RestoreOptions) apply() vmdir.ApplyOptions {
	return vmdir.ApplyOptions{Owner: o.Owner, Numeric: o.Numeric, NoXattrs: o.NoXattrs, NoSetID: o.NoSetID}
}

// Fetched says what came from one archive.
type Fetched struct {
	Index  int          `json:"index"` // in the chain
	ID     delta.Digest `json:"id"`
	Name   string       `json:"name,omitempty"`
	Bytes  int64        `json:"bytes"`            // decoded
	Frames int64        `json:"frames,omitempty"` // decoded whole
}

// RestoreResult says what was done. Sizes are bytes.
type RestoreResult struct {
	ID        delta.Digest    `json:"id"`
	Dir       string          `json:"dir"`
	Files     int             `json:"files"` // written, wholly or in part
	Same      int             `json:"same"`  // that were right already
	Removed   []manifest.Path `json:"removed,omitempty"`
	Written   int64           `json:"written"`
	Kept      int64           `json:"kept"`  // were in place already
	Local     int64           `json:"local"` // taken from other places in the directory
	Fetched   []Fetched       `json:"fetched"`
	Foreign   bool            `json:"foreign,omitempty"`   // a tar of another program: there were no digests to compare with
	Recovered bool            `json:"recovered,omitempty"` // an interrupted restore was completed first
	Warnings  []string        `json:"warnings,omitempty"`
}

// outMode is how a wanted file comes about.
type outMode uint8

const (
	modeBuild outMode = iota // written from nothing
	modeKeep                 // is there
	modePatch                // a part is there, the changed blocks are staged
	modeClone                // a part is there and was cloned; the changed blocks are written into the clone
	modeMove                 // came out of a stream, and gets its place by a rename
)

// An out is a wanted file.
type out struct {
	e       *entry
	mem     int32
	b       blocks
	mode    outMode
	n       int // number of the member
	name    manifest.Path
	inPlace bitset // blocks that the directory holds at their place
	good    bitset // blocks that were compared with their digests
	made    bool   // under the lock of handles
	from    int32  // entry of the target; for modeMove number of the streamed file
}

func (o *out) grid(block int64) delta.Grid {
	if o.b.t != nil {
		return o.b.t.Grid
	}
	return delta.Grid{Block: block}
}

// staged reports whether o has a file in the staging directory.
func (o *out) staged() bool { return o.mode != modeKeep }

// patched reports whether o has what was in place before.
func (o *out) patched() bool { return o.mode == modePatch || o.mode == modeClone }

// fetched reports whether bytes are brought to that file.
func (o *out) fetched() bool { return o.staged() && o.mode != modeMove }

// A todo is a wanted member and what becomes of it.
type todo struct {
	m    *manifest.Member
	n    int
	o    *out // of files
	away bool // what is at the path has to go first
	keep bool // what is at the path is right, but for its metadata
	meta bool // with keep: the metadata differ
}

type restorer struct {
	c  *Chain
	k  int
	e  *entry
	o  RestoreOptions
	p  *place
	t  *target // nil: nothing is there
	wk int

	todos  []todo
	outs   []*out
	away   []step
	gone   []manifest.Path
	files  *handles // outs, in the staging directory
	locals *handles // files at hand
	f      *fetcher
	need   int64

	release  func()         // of a stream: closes what was read from; nil: none
	streamed []string       // files of a stream's base by number, in the staging directory
	moved    map[int32]bool // of these, what became a wanted file

	written  atomic.Int64
	warnMu   sync.Mutex
	warnings []error

	progMu sync.Mutex
	last   time.Time
	phase  string
	done   int64
	total  int64
	rolled bool
}

// Restore makes dir what entry k is. The directory need not exist, its parent must. On an error the directory is
// as it was, unless the error says that the next restore completes this one.
//
// Errors are *SpaceError, *DigestError, *MemberError, *CollisionError, or wrap ErrCorrupt, ErrUnsafe, ErrBusy or
// those of the archives and the system.
func Restore(ctx context.Context, c *Chain, k int, dir string, o RestoreOptions) (*RestoreResult, error) {
	r, err := newRestorer(ctx, c, k, dir, o)
	if err != nil {
		return nil, err
	}
	defer r.close()
	if err := r.space(); err != nil {
		return nil, err
	}
	return r.run(ctx, r.stage)
}

// newRestorer knows what a restore of entry k into dir has to do.
func newRestorer(ctx context.Context, c *Chain, k int, dir string, o RestoreOptions) (*restorer, error) {
	r := &restorer{o: o}
	if err := r.of(c, k); err != nil {
		return nil, err
	}
	if err := r.open(ctx, dir); err != nil {
		return nil, err
	}
	if err := r.prepare(ctx); err != nil {
		r.close()
		return nil, err
	}
	return r, nil
}

// of says what is restored.
func (r *restorer) of(c *Chain, k int) error {
	if k < 0 || k >= len(c.entries) {
		return fmt.Errorf("entry %d of a chain of %d", k, len(c.entries))
	}
	r.c, r.k, r.e = c, k, c.entries[k]
	return checkMembers(r.e.snap)
}

// open says where it is restored, and looks at what is there.
func (r *restorer) open(ctx context.Context, dir string) (err error) {
	if r.wk = r.o.Workers; r.wk <= 0 {
		r.wk = runtime.GOMAXPROCS(0)
	}
	r.p, err = findPlace(dir, func(root *os.Root) (bool, error) { return recoverRoot(ctx, root, r.o.hook) })
	if err != nil || r.p.fresh {
		return err
	}
	entries, err := vmdir.Walk(ctx, r.p.root, vmdir.WalkOptions{Exclude: []string{"/.tarvm"}})
	if err != nil {
		r.p.close()
		return fmt.Errorf("%s: %w", r.p.dir, err)
	}
	r.t = newTarget(r.p.root, entries)
	r.t.know(r.o.Known, r.o.Seen)
	return nil
}

func (r *restorer) close() {
	if r.files != nil {
		r.files.Close() // after success closed already, else of no use
	}
	if r.locals != nil {
		r.locals.Close() // only read
	}
	r.p.close()
}

// closeSources closes what is read from, so that it can be renamed and removed: Windows does neither to an open file.
func (r *restorer) closeSources() error {
	if r.release != nil {
		r.release()
	}
	if r.locals == nil {
		return nil
	}
	return r.locals.Close()
}

func (r *restorer) step(name string) {
	if r.o.hook != nil {
		r.o.hook(name)
	}
}

// run makes the staging directory, lets stage fill it, and gives everything its name.
func (r *restorer) run(ctx context.Context, stage func(context.Context) error) (res *RestoreResult, err error) {
	r.step("begin")
	if err = r.p.begin(); err == nil {
		err = stage(ctx)
	}
	if err == nil && r.p.fresh {
		err = r.finishFresh()
	} else if err == nil {
		err = r.finishSteps(ctx)
	}
	if err != nil {
		if !r.rolled {
			if r.files != nil {
				r.files.Close()
			}
			_ = r.closeSources() // the first error is the one that counts
			if aerr := r.p.abandon(); aerr != nil {
				err = errors.Join(err, fmt.Errorf("staging directory: %w", aerr))
			}
		}
		return nil, err
	}
	return r.result(), nil
}

// prepare decides what is to be done. It changes nothing.
func (r *restorer) prepare(ctx context.Context) error {
	if err := r.choose(); err != nil {
		return err
	}
	if err := r.related(); err != nil {
		return err
	}
	r.locals = newHandles(r.openLocal)
	if r.t != nil {
		var total int64
		for i := range r.t.entries {
			total += r.t.entries[i].Size
		}
		r.setPhase("scan", total)
		if err := r.t.scan(ctx, r.c, r.k, r.outs, r.wk, r.progress); err != nil {
			return err
		}
	}
	return r.decide()
}

// related refuses to remove everything from a directory that may have been named by mistake.
func (r *restorer) related() error {
	if r.t == nil || r.o.Force || r.o.Keep || len(r.o.Only) > 0 {
		return nil
	}
	n := 0
	for i := range r.t.entries {
		e := &r.t.entries[i]
		if e.Type == manifest.Dir {
			continue
		}
		if r.e.find(e.Path, 0) >= 0 {
			return nil
		}
		n++
	}
	if n == 0 {
		return nil
	}
	return &UnrelatedError{Path: r.p.dir, Files: n}
}

// openLocal opens a file that is at hand: of the target, or of a stream.
func (r *restorer) openLocal(i int32) (*os.File, error) {
	if n := r.targets(); i >= n {
		return openFileAt(r.p.root, manifest.Path(r.streamed[i-n]))
	}
	return r.t.openFile(i)
}

// targets is the number of local files that the target has; those of a stream follow.
func (r *restorer) targets() int32 {
	if r.t == nil {
		return 0
	}
	return int32(len(r.t.entries))
}

func openFileAt(root *os.Root, p manifest.Path) (*os.File, error) {
	return vmdir.OpenRead(root, &vmdir.Entry{Member: manifest.Member{State: manifest.State{Path: p, Type: manifest.File}}})
}

// checkMembers refuses an entry whose members cannot be put into a directory without a risk for what is outside.
func checkMembers(s *manifest.Snapshot) error {
	types := make(map[manifest.Path]manifest.Type, len(s.Members))
	for i := range s.Members {
		m := &s.Members[i]
		fail := func(f string, a ...any) error {
			return &MemberError{Entry: s.ID, Member: m.Path, Offset: -1, Err: fmt.Errorf("%w: %s", ErrUnsafe, fmt.Sprintf(f, a...))}
		}
		if m.Path == "." {
			if m.Type != manifest.Dir {
				return fail("the directory itself is a %s", m.Type)
			}
			types["."] = manifest.Dir
			continue
		}
		if err := checkPath(m.Path); err != nil {
			return &MemberError{Entry: s.ID, Member: m.Path, Offset: -1, Err: err}
		}
		up := manifest.Path(path.Dir(string(m.Path)))
		if t, ok := types[up]; up != "." && (!ok || t != manifest.Dir) {
			return fail("it is below %q, which is no directory of the entry", up)
		}
		if _, twice := types[m.Path]; twice {
			return fail("it stands twice")
		}
		if m.Type == manifest.Symlink && (m.Target == "" || strings.ContainsRune(string(m.Target), 0)) {
			return fail("a symbolic link to %q", m.Target)
		}
		types[m.Path] = m.Type
	}
	return nil
}

// matches reports whether p is to be restored.
func (r *restorer) matches(p manifest.Path) (bool, error) {
	if len(r.o.Only) == 0 {
		return true, nil
	}
	for _, pat := range r.o.Only {
		if ok, err := vmdir.Match(pat, string(p)); err != nil || ok {
			return ok, err
		}
	}
	return false, nil
}

// choose lists the wanted members and files.
func (r *restorer) choose() error {
	ms := r.e.snap.Members
	chosen := make([]bool, len(ms))
	needed := make(map[manifest.Path]bool) // directories above what was chosen
	any := false
	for i := len(ms) - 1; i >= 0; i-- {
		ok, err := r.matches(ms[i].Path)
		if err != nil {
			return err
		}
		if ok && len(r.o.Only) > 0 && ms[i].Path == "." {
			ok = false
		}
		any = any || ok
		chosen[i] = ok || ms[i].Type == manifest.Dir && needed[ms[i].Path]
		if chosen[i] && len(r.o.Only) > 0 {
			needed[manifest.Path(path.Dir(string(ms[i].Path)))] = true
		}
	}
	if len(r.o.Only) > 0 && !any {
		return fmt.Errorf("entry %s has no member that matches %s", r.e.snap.ID.Short(), strings.Join(r.o.Only, ", "))
	}
	for i := range ms {
		if !chosen[i] {
			continue
		}
		m, mem := &ms[i], int32(i)
		if m.Type == manifest.Link {
			j := r.e.find(m.Target, mem)
			if j < 0 || ms[j].Type != manifest.File && ms[j].Type != manifest.Fifo {
				return r.e.fail(m, -1, fmt.Errorf("%w: it is a link to %q, which is no file", ErrUnsafe, m.Target))
			}
			if !chosen[j] {
				// Its first name is not wanted: it becomes a file of its own.
				c := ms[j]
				c.Path = m.Path
				m, mem = &c, j
			}
		}
		td := todo{m: m, n: len(r.todos)}
		if m.Type == manifest.File {
			b, err := r.e.blocks(&ms[mem])
			if err != nil {
				return err
			}
			if err := b.check(); err != nil {
				return r.e.fail(m, -1, err)
			}
			b.m = m
			n := b.count()
			td.o = &out{e: r.e, mem: mem, b: b, n: td.n, good: newBitset(n), from: -1}
			if r.t != nil {
				td.o.inPlace = newBitset(n)
			}
			r.outs = append(r.outs, td.o)
		}
		r.todos = append(r.todos, td)
	}
	return nil
}

// decide compares what is wanted with what is there.
func (r *restorer) decide() error {
	byPath := make(map[manifest.Path]*todo, len(r.todos))
	for i := range r.todos {
		td := &r.todos[i]
		byPath[td.m.Path] = td
		if o := td.o; o != nil {
			o.name = td.m.Path
			if !r.p.fresh {
				o.name = manifest.Path(newName(td.n))
			}
		}
		if td.m.Path == "." {
			td.keep, td.meta = true, true
			continue
		}
		e := r.t.at(td.m.Path)
		if e == nil {
			r.move(td.o)
			continue
		}
		same := e.Type == td.m.Type && e.Skipped == ""
		switch td.m.Type {
		case manifest.Dir:
			td.keep = same
		case manifest.File:
			if td.keep = same && r.judge(td.o, e); !td.keep {
				r.move(td.o)
			}
		case manifest.Symlink:
			td.keep = same && e.Target == td.m.Target
		case manifest.Fifo:
			td.keep = same && e.Nlink <= 1
		case manifest.Link:
			first := byPath[td.m.Target]
			td.keep = same && e.Target == td.m.Target && first != nil && first.keep
		}
		td.away = !td.keep
		td.meta = td.keep && !sameMeta(&e.State, &td.m.State)
		if td.away && e.Type == manifest.Dir && r.o.Keep {
			return &CollisionError{td.m.Path, "a directory, which is to be kept"}
		}
	}
	if r.t != nil {
		if err := r.leavers(byPath); err != nil {
			return err
		}
	}
	for _, o := range r.outs {
		r.need += r.bytesOf(o)
	}
	return nil
}

// judge decides how o comes about from the file e, and reports whether it is there.
func (r *restorer) judge(o *out, e *vmdir.Entry) bool {
	o.from = r.t.byPath[e.Path]
	have := o.inPlace.count()
	if have == o.b.count() && e.Size == o.b.m.Size {
		o.mode = modeKeep
		return true
	}
	// Of what is there as data, the most part must be right, or changing the old file costs more than a new one.
	if o.b.t == nil || e.Nlink > 1 {
		return false
	}
	data, zero := o.b.t.Blocks, o.b.count()-o.b.t.Blocks
	if have-min(have, zero) > data/2 {
		o.mode = modePatch
	}
	return false
}

// move takes the file that a stream brought for o, if that is the whole of it.
func (r *restorer) move(o *out) {
	if o == nil || o.mode != modeBuild || len(r.streamed) == 0 {
		return
	}
	mem, path := o.mem, o.e.snap.Members[o.mem].Path
	for k := r.k; k >= 0; k-- {
		e := r.c.entries[k]
		if mem = e.find(path, mem); mem < 0 {
			return
		}
		switch m := &e.snap.Members[mem]; {
		case m.Stored.As == manifest.AsSame:
		case m.Stored.As == manifest.AsWhole && e.local != nil:
			if n := e.local(mem) - r.targets(); !r.moved[n] && m.Size == o.b.m.Size {
				r.moved[n] = true
				o.mode, o.from = modeMove, n
			}
			return
		default:
			return
		}
	}
}

// sameMeta reports whether a restore would not change what a has.
func sameMeta(a, b *manifest.State) bool {
	if a.Mode != b.Mode && b.Type != manifest.Symlink || a.UID != b.UID || a.GID != b.GID || !a.ModTime.Equal(b.ModTime.Time) || len(a.Xattrs) != len(b.Xattrs) {
		return false
	}
	for k, v := range a.Xattrs {
		if w, ok := b.Xattrs[k]; !ok || string(w) != string(v) {
			return false
		}
	}
	return true
}

// leavers lists what loses its name, a directory with all that is below it as one.
func (r *restorer) leavers(byPath map[manifest.Path]*todo) error {
	below := ""
	next := len(r.todos)
	for i := range r.t.entries {
		e := &r.t.entries[i]
		p := e.Path
		if p == "." || below != "" && strings.HasPrefix(string(p), below) {
			continue
		}
		td := byPath[p]
		s := step{Op: opAway, Path: p, Ino: e.Ino, Role: e.Role}
		switch {
		case td != nil && td.away:
			s.N = td.n
			if td.m.Role != manifest.RoleOther {
				s.Role = td.m.Role
			}
		case td != nil || r.o.Keep || r.e.find(p, 0) >= 0:
			continue
		default:
			ok, err := r.matches(p)
			if err != nil {
				return err
			}
			if !ok {
				continue
			}
			s.N = next
			next++
			r.gone = append(r.gone, p)
		}
		if e.Type == manifest.Dir {
			below = string(p) + "/"
		}
		r.away = append(r.away, s)
	}
	return nil
}

// bytesOf is how many bytes o takes until the end of the restore, besides what is there.
func (r *restorer) bytesOf(o *out) int64 {
	if !o.fetched() {
		return 0
	}
	if o.b.t == nil {
		return o.b.m.Size
	}
	n := o.b.m.Size
	if o.b.t.Holes {
		n = 0
		for _, x := range o.b.t.Data {
			n += x.Length
		}
	}
	if o.mode != modeBuild {
		n = min(n, (o.b.count()-o.inPlace.count())*o.b.t.Grid.Block)
	}
	return n
}

// space refuses a restore that would not fit.
func (r *restorer) space() error {
	free, err := r.free()
	if err != nil {
		if errors.Is(err, errors.ErrUnsupported) {
			return nil
		}
		return err
	}
	// Directories, metadata, and the blocks that a file does not fill.
	need := r.need + int64(len(r.outs))*512 + 1<<20
	if need > free {
		return &SpaceError{Path: r.p.dir, Need: need, Free: free}
	}
	return nil
}

func (r *restorer) free() (int64, error) {
	root := r.p.root
	if root == nil {
		up, err := os.OpenRoot(filepath.Dir(r.p.dir))
		if err != nil {
			return 0, err
		}
		defer up.Close()
		root = up
	}
	return vmdir.FreeSpace(root)
}

func (r *restorer) setPhase(phase string, total int64) {
	r.progMu.Lock()
	r.phase, r.done, r.total, r.last = phase, 0, total, time.Time{}
	r.progMu.Unlock()
	r.progress("", 0)
}

func (r *restorer) progress(p manifest.Path, n int64) {
	if r.o.Progress == nil {
		return
	}
	r.progMu.Lock()
	defer r.progMu.Unlock()
	r.done += n
	if time.Since(r.last) > 50*time.Millisecond {
		r.last = time.Now()
		r.o.Progress(archive.Progress{Phase: r.phase, Path: string(p), Done: r.done, Total: r.total})
	}
}

func (r *restorer) warn(ws []error) {
	if len(ws) > 0 {
		r.warnMu.Lock()
		defer r.warnMu.Unlock()
		r.warnings = append(r.warnings, ws...)
	}
}

func (r *restorer) result() *RestoreResult {
	res := &RestoreResult{
		ID: r.e.snap.ID, Dir: r.p.dir, Written: r.written.Load(), Local: r.f.local.Load(), Removed: r.gone, Recovered: r.p.resumed,
	}
	for _, o := range r.outs {
		if o.mode == modeKeep {
			res.Same++
			res.Kept += o.b.m.Size
			continue
		}
		res.Files++
		if o.patched() {
			res.Kept += o.inPlace.count() * o.b.t.Grid.Block
		}
	}
	for i, e := range r.c.entries {
		if n := r.f.fetched[i].Load(); n > 0 {
			res.Fetched = append(res.Fetched, Fetched{Index: i, ID: e.snap.ID, Name: e.snap.Entry.Name, Bytes: n, Frames: r.f.frames[i].Load()})
		}
	}
	for _, w := range r.warnings {
		res.Warnings = append(res.Warnings, w.Error())
	}
	return res
}
