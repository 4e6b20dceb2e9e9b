package chain

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"

	"golang.org/x/sync/errgroup"

	"tarvm/archive/vmdir"
	"tarvm/delta"
	"tarvm/manifest"
)

// stage builds and verifies everything that is not there yet, under names that are not final.
func (r *restorer) stage(ctx context.Context) error {
	if err := r.checkCase(); err != nil {
		return err
	}
	if err := r.makeTree(ctx); err != nil {
		return err
	}
	r.files = newHandles(r.openOut)
	if err := r.moves(); err != nil {
		return err
	}
	if err := r.clones(); err != nil {
		return err
	}
	var total int64
	for _, o := range r.outs {
		total += r.bytesOf(o)
	}
	r.setPhase("restore", total)
	r.f = r.c.newFetcher(r.wk, r, r.locals, func(n int64) { r.progress("", n) })
	r.f.lightly = true
	if err := r.c.windows(ctx, r.k, r.finder(), r.wants, r.divide, func(ps []piece) error { return r.f.run(ctx, ps) }); err != nil {
		return err
	}
	r.setPhase("verify", 0)
	if err := r.complete(ctx); err != nil {
		return err
	}
	return r.makeRest(ctx)
}

func (c *Chain) newFetcher(workers int, s sink, locals *handles, done func(int64)) *fetcher {
	return &fetcher{
		c: c, workers: workers, sink: s, locals: locals, done: done,
		fetched: make([]atomic.Int64, len(c.entries)), frames: make([]atomic.Int64, len(c.entries)),
	}
}

func (r *restorer) finder() finder {
	if r.t == nil {
		return nil // and not a nil pointer in an interface
	}
	return r.t
}

// checkCase refuses names that the file system of the directory does not tell apart, before anything is made.
func (r *restorer) checkCase() error {
	const probe = "Probe"
	base := ""
	if !r.p.fresh {
		base = restoreDir
	}
	if err := r.p.root.Mkdir(path.Join(base, probe), 0o700); err != nil {
		return err
	}
	_, err := r.p.root.Lstat(path.Join(base, strings.ToLower(probe)))
	if rerr := r.p.root.Remove(path.Join(base, probe)); rerr != nil {
		return rerr
	}
	if err != nil {
		return nil
	}
	seen := make(map[string]manifest.Path)
	for i := range r.todos {
		p := r.todos[i].m.Path
		l := strings.ToLower(string(p))
		if o, ok := seen[l]; ok {
			return &CollisionError{p, fmt.Sprintf("%q, which is the same name here", o)}
		}
		seen[l] = p
	}
	return nil
}

// makeTree makes the directories of a fresh tree.
func (r *restorer) makeTree(ctx context.Context) error {
	if !r.p.fresh {
		return nil
	}
	for i := range r.todos {
		m := r.todos[i].m
		if m.Type != manifest.Dir || m.Path == "." {
			continue
		}
		if err := ctx.Err(); err != nil {
			return context.Cause(ctx)
		}
		r.step("mkdir")
		if err := vmdir.Mkdir(r.p.root, m.Path); err != nil {
			return r.collision(m.Path, err)
		}
	}
	return nil
}

func (r *restorer) collision(p manifest.Path, err error) error {
	if errors.Is(err, fs.ErrExist) {
		return &CollisionError{p, "another member, whose name is the same here"}
	}
	return err
}

// openOut opens a staged file, which it makes the first time.
func (r *restorer) openOut(i int32) (*os.File, error) {
	o := r.outs[i]
	if o.made {
		return r.p.root.OpenFile(string(o.name), os.O_RDWR, 0)
	}
	r.step("create")
	f, err := vmdir.CreateFile(r.p.root, o.name)
	if err != nil {
		return nil, r.collision(o.b.m.Path, err)
	}
	if err := f.Truncate(o.b.m.Size); err != nil {
		f.Close()
		return nil, err
	}
	o.made = true
	return f, nil
}

// moves gives files that came out of a stream the places of wanted ones.
func (r *restorer) moves() error {
	for _, o := range r.outs {
		if o.mode != modeMove {
			continue
		}
		r.step("move")
		if fi, err := exists(r.p.root, string(o.name)); err != nil || fi != nil {
			return errors.Join(err, r.collision(o.b.m.Path, fs.ErrExist))
		}
		if err := r.p.root.Rename(r.streamed[o.from], string(o.name)); err != nil {
			return err
		}
		r.streamed[o.from] = string(o.name)
		o.made = true
	}
	return nil
}

// clones turns patches into changes of a clone, where the file system shares blocks.
func (r *restorer) clones() error {
	for i, o := range r.outs {
		if o.mode != modePatch {
			continue
		}
		shared, err := r.clone(int32(i), o)
		if err != nil {
			return err
		}
		if !shared {
			return nil // neither will the others be
		}
		o.mode = modeClone
	}
	return nil
}

func (r *restorer) clone(i int32, o *out) (bool, error) {
	src, err := r.t.openFile(o.from)
	if err != nil {
		return false, err
	}
	defer src.Close()
	h, err := r.files.get(i)
	if err != nil {
		return false, err
	}
	defer r.files.put(h)
	size := min(r.t.entries[o.from].Size, o.b.m.Size)
	if size < o.b.m.Size {
		size = size &^ (64<<10 - 1) // the end of a clone that is not the end of the file must be cut so
	}
	switch err := vmdir.CloneRange(h.File, src, 0, 0, size); {
	case errors.Is(err, errors.ErrUnsupported):
		return false, nil
	case err != nil:
		return false, err
	}
	r.step("cloned")
	// What the clone did not reach is not in place, after all.
	for b := o.b.at(max(size-1, 0)); size < o.b.m.Size && b < o.b.count(); b++ {
		if off, n := o.b.rng(b); off+n > size {
			o.inPlace.clear(b)
		}
	}
	return true, r.eachRun(o, func(off, n int64, zero bool) error {
		if !zero {
			return nil
		}
		return zeroRange(h.File, off, n)
	})
}

func (b bitset) clear(i int64) { b[i/64] &^= 1 << (i % 64) }

// eachRun calls fn for the runs of blocks of o that are not in place.
func (r *restorer) eachRun(o *out, fn func(off, n int64, zero bool) error) error {
	var buf [512]delta.Digest
	var from, length int64
	var zero bool
	flush := func() error {
		if length == 0 {
			return nil
		}
		n := length
		length = 0
		return fn(from, n, zero)
	}
	skip := o.patched()
	for at, count := int64(0), o.b.count(); at < count; {
		ds := buf[:min(int64(len(buf)), count-at)]
		if err := o.b.read(at, ds); err != nil {
			return r.e.fail(o.b.m, -1, err)
		}
		for j, d := range ds {
			off, n := o.b.rng(at + int64(j))
			if skip && o.inPlace.has(at+int64(j)) {
				if err := flush(); err != nil {
					return err
				}
				continue
			}
			if length > 0 && zero != d.IsZero() {
				if err := flush(); err != nil {
					return err
				}
			}
			if length == 0 {
				from, zero = off, d.IsZero()
			}
			length += n
		}
		at += int64(len(ds))
	}
	return flush()
}

// Wants are at most this long, so that a window can be cut between them.
const maxWant = 256 << 20

var errStop = errors.New("stop")

// wants yields what has to be written, file by file.
func (r *restorer) wants(yield func(want) bool) error {
	for i, o := range r.outs {
		if !o.fetched() {
			continue
		}
		err := r.wantsOf(int32(i), o, yield)
		if errors.Is(err, errStop) {
			return nil
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// wantsOf yields the blocks of o that are not zero and not in place, and of these what the entry had as data. It
// returns errStop when yield does not want more.
func (r *restorer) wantsOf(i int32, o *out, yield func(want) bool) error {
	send := func(off, n int64) error {
		for n > 0 {
			k := min(n, maxWant)
			if k < n {
				if c, _ := o.b.rng(o.b.at(off + k)); c > off {
					k = c - off
				}
			}
			if !yield(want{mem: o.mem, file: i, look: true, off: off, n: k, at: off}) {
				return errStop
			}
			off, n = off+k, n-k
		}
		return nil
	}
	x := 0
	return r.eachRun(o, func(off, n int64, zero bool) error {
		if zero {
			return nil
		}
		if o.mode != modeBuild || o.b.t == nil || !o.b.t.Holes {
			return send(off, n)
		}
		data := o.b.t.Data
		for x < len(data) && data[x].End() <= off {
			x++
		}
		for y := x; y < len(data) && data[y].Offset < off+n; y++ {
			lo, hi := max(off, data[y].Offset), min(off+n, data[y].End())
			if err := send(lo, hi-lo); err != nil {
				return err
			}
		}
		return nil
	})
}

// divide returns the start of the block in the middle of w.
func (r *restorer) divide(w want) int64 {
	off, _ := r.outs[w.file].b.rng(r.outs[w.file].b.at(w.off + w.n/2))
	return off
}

// write implements sink.
func (r *restorer) write(file int32, at int64, data []byte) error {
	o := r.outs[file]
	if err := o.verify(at, data, r.e); err != nil {
		return err
	}
	h, err := r.files.get(file)
	if err != nil {
		return err
	}
	defer r.files.put(h)
	r.step("write")
	if _, err := h.WriteAt(data, at); err != nil {
		return err
	}
	r.written.Add(int64(len(data)))
	if !r.o.NoSync && len(data) >= 256<<10 {
		vmdir.StartWriteback(h.File, at, int64(len(data)))
	}
	return nil
}

// lost implements sink: a restore is all or nothing.
func (r *restorer) lost(p piece, err error) error {
	return r.e.fail(r.outs[p.file].b.m, p.at, err)
}

// cut implements sink.
func (r *restorer) cut(file int32, at int64) int64 {
	b := r.outs[file].b
	off, _ := b.rng(b.at(at))
	return off
}

// check reads block b of f, into buf where that is large enough, and verifies it. It returns the buffer.
func (o *out) check(f *os.File, b int64, buf []byte, e *entry) ([]byte, error) {
	off, n := o.b.rng(b)
	if int64(len(buf)) < n {
		buf = make([]byte, n)
	}
	if err := readFull(f, buf[:n], off); err != nil {
		return buf, e.fail(o.b.m, off, err)
	}
	return buf, o.verify(off, buf[:n], e)
}

// verify compares the blocks that lie wholly in data, which is at off of the file, with their digests.
func (o *out) verify(off int64, data []byte, e *entry) error {
	end := off + int64(len(data))
	first := o.b.at(off)
	if start, _ := o.b.rng(first); start < off {
		first++
	}
	last := o.b.at(end - 1)
	if start, n := o.b.rng(last); start+n > end {
		last--
	}
	if last < first {
		return nil
	}
	var small [32]delta.Digest
	var ds []delta.Digest
	if n := last - first + 1; n <= int64(len(small)) {
		ds = small[:n]
	} else {
		ds = make([]delta.Digest, n)
	}
	if err := o.b.read(first, ds); err != nil {
		return e.fail(o.b.m, off, err)
	}
	for j, d := range ds {
		i := first + int64(j)
		start, n := o.b.rng(i)
		if d.IsZero() {
			if !delta.IsZero(data[start-off:][:n]) {
				return &DigestError{e.snap.ID, o.b.m.Path, start, n, d, delta.Sum(data[start-off:][:n])}
			}
		} else if got := delta.Sum(data[start-off:][:n]); got != d {
			return &DigestError{e.snap.ID, o.b.m.Path, start, n, d, got}
		}
		o.good.set(i)
	}
	return nil
}

// complete makes files that nothing was written to, verifies the blocks that came in several parts, reserves the
// space of zeros that were not holes, and sets metadata.
func (r *restorer) complete(ctx context.Context) error {
	g, ctx := errgroup.WithContext(ctx)
	jobs := make(chan func() error)
	g.Go(func() error {
		defer close(jobs)
		for i := range r.todos {
			o := r.todos[i].o
			if o == nil || !o.staged() {
				continue
			}
			n, _ := slices.BinarySearchFunc(r.outs, o.n, func(a *out, n int) int { return a.n - n })
			select {
			case jobs <- func() error { return r.completeFile(ctx, int32(n), o) }:
			case <-ctx.Done():
				return context.Cause(ctx)
			}
		}
		return nil
	})
	for range r.wk {
		g.Go(func() error {
			for f := range jobs {
				if err := f(); err != nil {
					return err
				}
			}
			return nil
		})
	}
	return g.Wait()
}

func (r *restorer) completeFile(ctx context.Context, i int32, o *out) error {
	h, err := r.files.get(i)
	if err != nil {
		return err
	}
	if o.mode == modeMove {
		err = r.readMoved(ctx, h.File, o)
	} else {
		err = r.readBack(ctx, h.File, o)
	}
	if err == nil && (o.mode == modeBuild || o.mode == modeMove) {
		err = r.reserve(h.File, o)
	}
	r.files.put(h)
	if err == nil && o.mode != modePatch {
		err = r.files.drop(i)
		if err == nil {
			r.step("apply")
			err = r.applyTo(o.name, o.b.m)
		}
	}
	return err
}

func (r *restorer) applyTo(p manifest.Path, m *manifest.Member) error {
	opts := r.o.apply()
	ws, err := vmdir.Apply(r.p.root, p, &m.State, opts)
	r.warn(ws)
	return err
}

// readBack verifies the staged blocks of o that are not verified yet.
func (r *restorer) readBack(ctx context.Context, f *os.File, o *out) error {
	var buf []byte
	var ds [256]delta.Digest
	count := o.b.count()
	for at := int64(0); at < count; {
		if err := ctx.Err(); err != nil {
			return context.Cause(ctx)
		}
		n := min(int64(len(ds)), count-at)
		if err := o.b.read(at, ds[:n]); err != nil {
			return r.e.fail(o.b.m, -1, err)
		}
		for j, d := range ds[:n] {
			b := at + int64(j)
			if d.IsZero() || o.good.has(b) || o.patched() && o.inPlace.has(b) {
				continue
			}
			var err error
			if buf, err = o.check(f, b, buf, r.e); err != nil {
				return err
			}
		}
		at += n
	}
	return nil
}

// readMoved verifies all of a file that was written before its digests were known.
func (r *restorer) readMoved(ctx context.Context, f *os.File, o *out) error {
	size := o.b.m.Size
	if fi, err := f.Stat(); err != nil || fi.Size() != size {
		return errors.Join(err, r.e.corrupt(o.b.m, -1, "the archive's file has another size"))
	}
	data, err := vmdir.Extents(f, size)
	if err != nil {
		return err
	}
	if data == nil {
		data = []delta.Extent{{Length: size}}
	}
	// Blocks of zeros outside of the data need no look; readBack finds all others that are not good.
	var buf []byte
	for _, x := range data {
		if x.Length == 0 {
			continue
		}
		for b, last := o.b.at(x.Offset), o.b.at(x.End()-1); b <= last; b++ {
			if err := ctx.Err(); err != nil {
				return context.Cause(ctx)
			}
			if o.good.has(b) {
				continue
			}
			if buf, err = o.check(f, b, buf, r.e); err != nil {
				return err
			}
		}
	}
	return r.readBack(ctx, f, o)
}

// reserve gives blocks of zeros that were no holes their space, where the system can.
func (r *restorer) reserve(f *os.File, o *out) error {
	t := o.b.t
	if t == nil {
		return nil
	}
	x := 0
	supported := true
	alloc := func(lo, hi int64) error {
		if lo >= hi || !supported {
			return nil
		}
		r.step("reserve")
		err := vmdir.Allocate(f, lo, hi-lo)
		if errors.Is(err, errors.ErrUnsupported) {
			supported = false
			return nil
		}
		return err
	}
	return r.eachRun(o, func(off, n int64, zero bool) error {
		if !zero {
			return nil
		}
		if !t.Holes {
			return alloc(off, off+n)
		}
		for x < len(t.Data) && t.Data[x].End() <= off {
			x++
		}
		for y := x; y < len(t.Data) && t.Data[y].Offset < off+n; y++ {
			if err := alloc(max(off, t.Data[y].Offset), min(off+n, t.Data[y].End())); err != nil {
				return err
			}
		}
		return nil
	})
}

// makeRest makes members without content. In a fresh tree all of them and under their names; else those that need a
// new file, in the staging directory.
func (r *restorer) makeRest(ctx context.Context) error {
	for i := range r.todos {
		td := &r.todos[i]
		if td.keep || td.o != nil || td.m.Type == manifest.Dir {
			continue
		}
		if err := ctx.Err(); err != nil {
			return context.Cause(ctx)
		}
		name := td.m.Path
		if !r.p.fresh {
			name = manifest.Path(newName(td.n))
		}
		r.step("make")
		var err error
		switch td.m.Type {
		case manifest.Symlink:
			err = vmdir.Symlink(r.p.root, td.m.Target, name)
		case manifest.Fifo:
			err = vmdir.Mkfifo(r.p.root, name)
			if errors.Is(err, errors.ErrUnsupported) {
				r.warn([]error{fmt.Errorf("%s: FIFO: %w", td.m.Path, err)})
				continue
			}
		case manifest.Link:
			if r.p.fresh {
				err = vmdir.Link(r.p.root, td.m.Target, name)
			}
		}
		if err != nil {
			return r.collision(td.m.Path, err)
		}
		if td.m.Type != manifest.Link {
			if err := r.applyTo(name, td.m); err != nil {
				return err
			}
		}
	}
	return nil
}

// finishFresh gives the whole tree its name.
func (r *restorer) finishFresh() error {
	for i := range slices.Backward(r.todos) {
		if m := r.todos[i].m; m.Type == manifest.Dir && m.Path != "." {
			if err := r.applyTo(m.Path, m); err != nil {
				return err
			}
		}
	}
	if err := r.files.Close(); err != nil {
		return err
	}
	if err := r.closeSources(); err != nil {
		return err
	}
	if r.release != nil {
		if err := removeAll(r.p.root, restoreDir); err != nil {
			return err
		}
	}
	top := r.e.snap.Find(".")
	switch {
	case top != nil && len(r.o.Only) == 0:
		if err := r.applyTo(".", top); err != nil {
			return err
		}
	default:
		if err := r.p.root.Chmod(".", 0o755); err != nil {
			return err
		}
	}
	if err := r.sync(true); err != nil {
		return err
	}
	r.step("rename")
	if err := renameOver(r.p.staging, r.p.dir); err != nil {
		return err
	}
	r.rolled = true
	if r.o.NoSync {
		return nil
	}
	up, err := os.OpenRoot(filepath.Dir(r.p.dir))
	if err != nil {
		return err
	}
	defer up.Close()
	return syncDirs(up, ".")
}

// Up to this many files are synced one by one; more are synced with the whole file system, where that can be done.
const syncEach = 64

// sync waits until what was staged is on disk.
func (r *restorer) sync(dirs bool) error {
	if r.o.NoSync {
		return nil
	}
	r.setPhase("sync", 0)
	r.step("sync")
	made := 0
	for _, o := range r.outs {
		if o.staged() {
			made++
		}
	}
	if made > syncEach || dirs && len(r.todos) > 4*syncEach {
		f, err := r.p.root.Open(".")
		if err != nil {
			return err
		}
		defer f.Close()
		if done, err := syncFS(f); done || err != nil {
			return err
		}
	}
	for _, o := range r.outs {
		if !o.staged() {
			continue
		}
		f, err := openFileAt(r.p.root, o.name)
		if err != nil {
			return err
		}
		if err := errors.Join(f.Sync(), f.Close()); err != nil {
			return fmt.Errorf("%s: %w", o.b.m.Path, err)
		}
	}
	if !dirs {
		return syncDirs(r.p.root, path.Join(restoreDir, newDir), path.Join(restoreDir, oldDir), restoreDir)
	}
	for i := range r.todos {
		if r.todos[i].m.Type == manifest.Dir {
			if err := syncDirs(r.p.root, string(r.todos[i].m.Path)); err != nil {
				return err
			}
		}
	}
	return syncDirs(r.p.root, ".")
}

// finishSteps writes the journal and does what it says.
func (r *restorer) finishSteps(ctx context.Context) error {
	steps, err := r.steps()
	if err != nil {
		return err
	}
	if err := r.closeSources(); err != nil {
		return err
	}
	if err := r.files.Close(); err != nil {
		return err
	}
	if err := r.sync(false); err != nil {
		return err
	}
	if err := ctx.Err(); err != nil {
		return context.Cause(ctx)
	}
	r.setPhase("commit", 0)
	r.step("journal")
	if err := writeJournal(r.p.root, steps, !r.o.NoSync); err != nil {
		return err
	}
	r.rolled = true
	// From here on nothing stops it but the system.
	ro := &roller{root: r.p.root, sync: !r.o.NoSync, hook: r.o.hook}
	err = ro.roll(context.WithoutCancel(ctx), steps, nil)
	r.warn(ro.warnings)
	return err
}

// steps makes the journal.
func (r *restorer) steps() ([]step, error) {
	opts := r.o.apply()
	steps := []step{{Op: opBegin, Opts: &opts}}
	// Directories in which names change must be writable.
	if !isRoot() {
		for i := range r.todos {
			if td := &r.todos[i]; td.m.Type == manifest.Dir && td.keep && td.m.Path != "." {
				if e := r.t.at(td.m.Path); e != nil && e.Mode&0o700 != 0o700 {
					steps = append(steps, step{Op: opOpen, Path: td.m.Path})
					td.meta = true
				}
			}
		}
	}
	rank := func(s *step) int {
		switch {
		case s.Role == manifest.RoleConfig:
			return 0
		case s.M != nil && s.M.Type == manifest.Dir:
			return 1
		}
		return 2
	}
	away := slices.Clone(r.away)
	slices.SortStableFunc(away, func(a, b step) int { return rank(&a) - rank(&b) })
	steps = append(steps, away...)
	steps = append(steps, step{Op: opSync})
	var in, links, meta, dirs []step
	for i := range r.todos {
		td := &r.todos[i]
		s := step{Path: td.m.Path, N: td.n, Role: td.m.Role, M: td.m}
		if td.m.Type == manifest.Dir {
			if !td.keep {
				s.Op, s.M = opMkdir, nil
				steps = append(steps, s)
			}
			if r.dirChanges(td) {
				dirs = append(dirs, step{Op: opMeta, Path: td.m.Path, M: td.m})
			}
			continue
		}
		switch {
		case td.keep:
			if td.meta && td.m.Type != manifest.Link {
				meta = append(meta, step{Op: opMeta, Path: td.m.Path, M: td.m})
			}
			continue
		case td.m.Type == manifest.Link:
			s.Op = opLink
			links = append(links, s)
			continue
		case td.m.Type == manifest.Fifo:
			if fi, err := exists(r.p.root, newName(td.n)); err != nil || fi == nil {
				if err != nil {
					return nil, err
				}
				continue // this system has none
			}
		}
		s.Op = opIn
		if td.o != nil && td.o.mode == modePatch {
			s.Op, s.Size = opPatch, td.m.Size
			old := r.t.entries[td.o.from].Size
			err := r.eachRun(td.o, func(off, n int64, zero bool) error {
				switch {
				case !zero:
					s.Data = append(s.Data, [2]int64{off, n})
				case off < old:
					s.Zero = append(s.Zero, [2]int64{off, min(n, old-off)})
				}
				return nil
			})
			if err != nil {
				return nil, err
			}
		} else {
			s.M = nil
		}
		in = append(in, s)
	}
	slices.SortStableFunc(in, func(a, b step) int { return min(rank(&b), 1) - min(rank(&a), 1) })
	steps = append(steps, in...)
	steps = append(steps, links...)
	steps = append(steps, meta...)
	steps = append(steps, step{Op: opSync})
	slices.Reverse(dirs)
	steps = append(steps, dirs...)
	return append(steps, step{Op: opEnd}), nil
}

// dirChanges reports whether the directory of td needs its metadata set at the end.
func (r *restorer) dirChanges(td *todo) bool {
	if td.m.Path == "." && len(r.o.Only) > 0 {
		return false
	}
	if len(r.o.Only) > 0 && td.keep {
		ok, err := r.matches(td.m.Path)
		return err == nil && ok
	}
	return true
}
