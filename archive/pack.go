package archive

import (
	"bytes"
	"context"
	"crypto/rand"
	_ "embed"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path"
	"runtime"
	"slices"
	"sync"
	"time"

	"github.com/zeebo/blake3"

	"tarvm/archive/pax"
	"tarvm/archive/vmdir"
	"tarvm/delta"
	"tarvm/manifest"
)

//go:embed restore.py
var restoreScript []byte

//go:embed README.txt
var readme []byte

const (
	// Files below this size are stored whole in an increment: a delta's segment costs about
	// 2 KiB of headers, and plain tar can restore what is whole.
	wholeMax = 1 << 20
	// A chunk is what one job reads. Its pieces are hashed while they are in the cache.
	chunkSize = 1 << 20
	pieceSize = 256 << 10
	// A segment gets so much data: a frame of the default codec.
	segmentData = 4 << 20
)

// Result says what was packed.
type Result struct {
	Snapshot *manifest.Snapshot `json:"-"`
	ID       delta.Digest       `json:"id"`
	Digest   delta.Digest       `json:"digest"`   // of manifest.json
	Encoded  int64              `json:"encoded"`  // bytes written to the archive
	Decoded  int64              `json:"decoded"`  // bytes of the tar inside
	Manifest int64              `json:"manifest"` // bytes written beside the archive
	Stats    manifest.Stats     `json:"stats"`
	Torn     []manifest.Path    `json:"torn,omitempty"`     // live only: files that changed while they were read
	Vanished []manifest.Path    `json:"vanished,omitempty"` // live only: files that were listed, and gone when their turn came
}

// Pack writes the archive to out, from front to back, and its manifest to side unless side is nil. It
// reads each file once. Neither writer is closed. With *RunningError, *ChangedError or any other error
// what was written is of no use. A plan is packed once.
func (p *Plan) Pack(ctx context.Context, out, side io.Writer) (*Result, error) {
	if locks := p.running(); len(locks) > 0 && !p.o.Live {
		return nil, &RunningError{p.Dir, locks}
	}
	if p.entries == nil { // there is one for the directory itself at least
		return nil, errPacked
	}
	workers := p.o.Workers
	if workers <= 0 {
		workers = runtime.GOMAXPROCS(0)
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	s, err := newStream(ctx, out, p.o.Codec, p.writerOptions(workers), p.Entry.Time.Time)
	if err != nil {
		return nil, err
	}
	k := &packer{
		Plan: p, s: s, workers: workers,
		blocks: spool{dir: p.o.TempDir}, sums: spool{dir: p.o.TempDir},
		place: make([]place, len(p.entries)),
		paths: []string{""},
		open:  make(map[*large]bool),
		ctx:   ctx,
	}
	k.takeEntries()
	defer k.closeFiles()
	defer k.blocks.Close()
	defer k.sums.Close()
	r, err := k.run(ctx, side)
	if err != nil {
		cancel(err)
		s.w.Close()
		return nil, err
	}
	return r, nil
}

var errPacked = errors.New("this plan was packed already")

// place is where a member's digests and sums lie in the spools.
type place struct {
	off, length int64
	sums, nsums int64
}

type packer struct {
	*Plan
	s       *stream
	workers int

	blocks, sums spool
	members      []manifest.Member // as the walk left them until they are packed
	here         []here            // of each
	place        []place
	superseded   []manifest.Member
	oldPlace     []place

	payload []byte // of the segment of a delta that is being filled
	sumBuf  []byte

	key     delta.Key
	subs    int // sums for each digest
	index   func() (*finder, error)
	self    delta.SelfIndex
	paths   []string // of files that self may refer to, by delta.Place.File; "" when it is void
	kids    map[manifest.Path][]string
	pkids   map[manifest.Path][]string
	linked  map[manifest.Path]int // increments: the members that links name
	stats   manifest.Stats
	torn    []manifest.Path
	gone    map[int]bool // members that vanished
	done    int64
	retry   []int
	tries   map[int]int
	bufs    buffers // of chunks
	scratch buffers // of pieces
	chunks  chunks
	report  time.Time

	ctx    context.Context // of the run: jobs and their results wait on it
	openMu sync.Mutex
	open   map[*large]bool
}

// here is what is true of a member on this machine alone.
type here struct {
	dev, ino, nlink uint64
	ctime           int64
}

// takeEntries takes the plan's entries apart: of many small files they are the most of what packing keeps, and a member
// takes the place of its entry when it is packed.
func (k *packer) takeEntries() {
	k.members, k.here = make([]manifest.Member, len(k.entries)), make([]here, len(k.entries))
	for i := range k.entries {
		k.update(i, &k.entries[i])
	}
	k.entries = nil
}

// entry returns the entry of member i, which is not packed yet.
func (k *packer) entry(i int) *vmdir.Entry {
	h := &k.here[i]
	return &vmdir.Entry{Member: k.members[i], Dev: h.dev, Ino: h.ino, Nlink: h.nlink, CTime: h.ctime}
}

// update makes e the entry of member i.
func (k *packer) update(i int, e *vmdir.Entry) {
	k.members[i], k.here[i] = e.Member, here{e.Dev, e.Ino, e.Nlink, e.CTime}
	k.members[i].Stored = manifest.Stored{}
}

// keep remembers a file that is to be closed at the latest at the end.
func (k *packer) keep(l *large) {
	k.openMu.Lock()
	defer k.openMu.Unlock()
	k.open[l] = true
}

// forget closes the file of l.
func (k *packer) forget(l *large) {
	k.openMu.Lock()
	defer k.openMu.Unlock()
	delete(k.open, l)
	l.f.Close() // it was only read
}

func (k *packer) closeFiles() {
	for l := range k.open {
		l.f.Close()
	}
}

func (k *packer) run(ctx context.Context, side io.Writer) (*Result, error) {
	k.subs = int(k.Entry.Block / delta.FindUnit)
	k.tries = make(map[int]int)
	if err := k.makeKey(); err != nil {
		return nil, err
	}
	k.index = sync.OnceValues(func() (*finder, error) { return newFinder(k.o.Parent) })
	if k.o.Parent != nil {
		k.kids, k.pkids = childNames(len(k.members), func(i int) *manifest.Member { return &k.members[i] }),
			childNames(len(k.o.Parent.Members), func(i int) *manifest.Member { return &k.o.Parent.Members[i] })
		k.linked = make(map[manifest.Path]int)
		for i := range slices.Backward(k.members) { // links stand behind what they name
			e := &k.members[i]
			if _, ok := k.linked[e.Path]; ok {
				k.linked[e.Path] = i
			}
			if e.Type == manifest.Link {
				k.linked[e.Target] = -1
			}
		}
	}
	entry, err := json.Marshal(&k.Entry)
	if err != nil {
		return nil, err
	}
	for _, f := range []struct {
		name string
		b    []byte
	}{{nameEntry, append(entry, '\n')}, {nameReadme, readme}, {nameRestore, restoreScript}} {
		if err := k.s.file(f.name, f.b); err != nil {
			return nil, err
		}
	}
	todo := make([]int, len(k.members))
	for i := range todo {
		todo[i] = i
	}
	for len(todo) > 0 {
		if todo, err = k.inherit(todo); err != nil {
			return nil, err
		}
		k.retry = nil
		err := ordered(ctx, k.workers, 2*k.workers+2, func(ctx context.Context, emit func(func() (func() error, error)) error) error {
			for _, i := range todo {
				if err := k.produce(ctx, i, emit); err != nil {
					return err
				}
			}
			return nil
		}, func(f func() error) error { return f() })
		if err != nil {
			return nil, err
		}
		todo = k.retry
	}
	return k.finish(side)
}

// makeKey takes the parent's key, so that its sums can be taken over. Without it the self index still
// must not depend on chance: its key then comes from the parent's manifest, which a
// guest cannot know either.
func (k *packer) makeKey() error {
	switch par := k.o.Parent; {
	case par == nil:
		_, err := rand.Read(k.key[:])
		return err
	case par.local != nil:
		k.key = par.local.key
	default:
		blake3.DeriveKey("tarvm 2026 find key", par.Digest[:], k.key[:])
	}
	return nil
}

func (k *packer) progress(m *manifest.Member, n int64) {
	k.done += n
	if k.o.Progress != nil && (n == 0 || time.Since(k.report) > 50*time.Millisecond) {
		k.report = time.Now()
		k.o.Progress(Progress{Phase: "pack", Path: string(m.Path), Done: k.done, Total: k.Bytes})
	}
}

// vanished reports whether err says that a file is not there any more, where that is no reason to give up.
func (k *packer) vanished(err error) bool {
	return k.o.Live && (errors.Is(err, fs.ErrNotExist) || errors.Is(err, vmdir.ErrReplaced))
}

// vanish leaves member i out.
func (k *packer) vanish(i int) error {
	if k.gone == nil {
		k.gone = make(map[int]bool)
	}
	k.gone[i] = true
	return nil
}

// isGone reports whether the member of that path has vanished.
func (k *packer) isGone(p manifest.Path) bool {
	for i := range k.gone {
		if k.members[i].Path == p {
			return true
		}
	}
	return false
}

// inherit makes the first of the links to a file that vanished the file itself, and the others links to that. It returns
// those of todo that are left.
func (k *packer) inherit(todo []int) ([]int, error) {
	heir := make(map[manifest.Path]manifest.Path)
	left := todo[:0]
	for _, i := range todo {
		if m := &k.members[i]; m.Type == manifest.Link && k.isGone(m.Target) {
			if to, ok := heir[m.Target]; ok {
				m.Target = to
			} else {
				e := k.entry(i)
				e.Type, e.Target = manifest.File, ""
				if err := k.tree.Refresh(e); k.vanished(err) {
					_ = k.vanish(i)
					continue
				} else if err != nil {
					return nil, err
				}
				k.keepGrid(e)
				heir[m.Target] = m.Path
				k.update(i, e)
				if k.linked != nil {
					k.linked[m.Path] = i
				}
			}
		}
		left = append(left, i)
	}
	return left, nil
}

// leaveOut removes the members that vanished. The directories of an increment that listed them stand in the archive once
// more, without them, because tar -x -g removes what is listed no longer.
func (k *packer) leaveOut() ([]manifest.Path, error) {
	if len(k.gone) == 0 {
		return nil, nil
	}
	var paths []manifest.Path
	lists := make(map[manifest.Path]bool)
	n := 0
	for i := range k.members {
		if k.gone[i] {
			paths = append(paths, k.members[i].Path)
			lists[manifest.Path(path.Dir(string(k.members[i].Path)))] = true
			continue
		}
		k.members[n], k.here[n], k.place[n] = k.members[i], k.here[i], k.place[i]
		n++
	}
	k.members, k.here, k.place = k.members[:n], k.here[:n], k.place[:n]
	if k.o.Parent == nil {
		return paths, nil
	}
	k.kids = childNames(n, func(i int) *manifest.Member { return &k.members[i] })
	for i := range k.members {
		if m := &k.members[i]; lists[m.Path] {
			h := toHeader(m)
			setRecord(h, "GNU.dumpdir", k.dumpdir(m.Path))
			if err := k.s.header(h); err != nil {
				return nil, err
			}
		}
	}
	return paths, nil
}

type emitFunc = func(func() (func() error, error)) error

// produce emits the jobs of member i.
func (k *packer) produce(ctx context.Context, i int, emit emitFunc) error {
	e := &k.members[i]
	if e.Type != manifest.File {
		return emit(func() (func() error, error) {
			return func() error { return k.plain(i) }, nil
		})
	}
	if k.Items[i].Action == ActionTrust {
		return emit(func() (func() error, error) {
			return func() error { return k.takeOver(i) }, nil
		})
	}
	if e.Size < wholeMax {
		return emit(func() (func() error, error) { return k.readSmall(ctx, i) })
	}
	return k.produceLarge(i, emit)
}

// plain writes a member without content.
func (k *packer) plain(i int) error {
	m := &k.members[i]
	if m.Type == manifest.Link && (k.isGone(m.Target) || slices.ContainsFunc(k.retry, func(j int) bool { return k.members[j].Path == m.Target })) {
		k.retry = append(k.retry, i) // tar links it to what stands before it
		return nil
	}
	h := toHeader(m)
	if k.o.Parent != nil {
		pm := k.parent(m)
		same := pm != nil && string(pm.AppendState(nil)) == string(m.AppendState(nil))
		if m.Type == manifest.Dir {
			same = same && slices.Equal(k.kids[m.Path], k.pkids[m.Path])
			setRecord(h, "GNU.dumpdir", k.dumpdir(m.Path))
		}
		if m.Type == manifest.Link && k.members[k.linked[m.Target]].Stored.As == manifest.AsWhole {
			same = false // tar -x makes a new file of the target
		}
		if same {
			return nil
		}
	}
	return k.s.header(h)
}

// childNames lists the names in each directory, in order, directories with a slash.
func childNames(n int, member func(int) *manifest.Member) map[manifest.Path][]string {
	kids := make(map[manifest.Path][]string)
	for i := range n {
		m := member(i)
		if m.Path == "." {
			continue
		}
		dir, name := manifest.Path("."), string(m.Path)
		for j := len(m.Path) - 1; j >= 0; j-- {
			if m.Path[j] == '/' {
				dir, name = m.Path[:j], string(m.Path[j+1:])
				break
			}
		}
		if m.Type == manifest.Dir {
			name += "/"
		}
		kids[dir] = append(kids[dir], name)
	}
	return kids
}

func (k *packer) dumpdir(dir manifest.Path) string {
	var b []byte
	if dir == "." {
		b = append(b, "D"+Prefix+"\x00"...)
	}
	for _, name := range k.kids[dir] {
		path := manifest.Path(name)
		if dir != "." {
			path = dir + "/" + path
		}
		switch {
		case name[len(name)-1] == '/':
			b = append(b, 'D')
			name = name[:len(name)-1]
		case k.inParent(path):
			b = append(b, 'N')
		default:
			b = append(b, 'Y')
		}
		b = append(append(b, name...), 0)
	}
	return string(append(b, 0))
}

// inParent reports whether the parent has p, and not as a directory, which tar -x removes for Y alone.
func (k *packer) inParent(p manifest.Path) bool {
	i, ok := k.pidx[p]
	return ok && k.o.Parent.Members[i].Type != manifest.Dir
}

// takeOver makes member i what the parent's manifest says, unread.
func (k *packer) takeOver(i int) error {
	m := &k.members[i]
	pm := k.parent(m)
	m.Digest, m.Phase, m.Stride = pm.Digest, pm.Phase, pm.Stride
	m.Holes = pm.Holes
	m.Stored = manifest.Stored{As: manifest.AsSame}
	k.stats.Unchanged++
	t, err := k.o.Parent.Table(pm)
	if err != nil || t == nil {
		return err
	}
	pl := place{off: k.blocks.n, length: pm.Length, sums: k.sums.n}
	m.Blocks = pm.Blocks
	if _, err := io.Copy(&k.blocks, io.NewSectionReader(k.o.Parent.blocks, pm.Offset, pm.Length)); err != nil {
		return fmt.Errorf("parent's table of blocks: %w", err)
	}
	off, n := k.o.Parent.sumRange(pm)
	if _, err := io.Copy(&k.sums, io.NewSectionReader(k.o.Parent.local.sums, off, n)); err != nil {
		return fmt.Errorf("parent's table of sums: %w", err)
	}
	pl.nsums = k.sums.n - pl.sums
	k.place[i] = pl
	k.stats.Zero += (t.Grid.Count(t.Size) - t.Blocks) * t.Grid.Block
	return nil
}

// chunk is a run of consecutive blocks of a file, as a job left it.
type chunk struct {
	off     int64   // in the file
	buf     *[]byte // of data
	data    []byte  // of a full; of an increment what its units of kind Data have; nil: all zero
	digests []delta.Digest
	sums    []delta.FindSum // subs for each digest that is not zero
	units   []unit          // increments only
	short   bool            // the file ended early

	parent   []delta.Digest  // increments only: the parent's digests
	inParent int             // so many of the blocks the parent has
	old      []delta.FindSum // of these blocks the parent's sums, empty: not known
	look     look
}

// look is what looking for the units of a block needs, kept for the next block.
type look struct {
	kinds []delta.Kind
	want  []bool
	list  [][]byte
	pos   []int64
}

// unit is a run of bytes of one kind.
type unit struct {
	kind delta.Kind
	n    int64
	pos  int64 // Copy: position in the parent's table
	sum  delta.FindSum
}

// readSmall reads a whole file and returns what stores it.
func (k *packer) readSmall(ctx context.Context, i int) (func() error, error) {
	e := k.entry(i)
	var m manifest.Member
	var data []byte
	var extents []delta.Extent
	for try := 1; ; try++ {
		changed, err := func() (bool, error) {
			f, err := k.tree.Open(e)
			if err != nil {
				return false, err
			}
			defer f.Close()
			// What is packed is the file as it is now, not as it was when the directory was walked.
			if again, err := f.Changed(e); err != nil {
				return false, err
			} else if again {
				if err := k.tree.Refresh(e); err != nil {
					return false, err
				}
				k.keepGrid(e)
			}
			m = manifest.Member{State: e.State, Hints: e.Hints}
			if e.Size >= 4*wholeMax && e.Size > k.Entry.Block {
				return false, nil
			}
			extents = nil
			if e.Size > k.Entry.Block { // below, there is no section that could keep them
				if extents, err = f.Extents(e); err != nil {
					return false, err
				}
			}
			data = make([]byte, e.Size)
			if n, err := f.ReadAt(data, 0); err != nil && !errors.Is(err, io.EOF) {
				return false, err
			} else if int64(n) < e.Size {
				return true, nil
			}
			return f.Changed(e)
		}()
		if k.vanished(err) {
			return func() error { return k.vanish(i) }, nil
		}
		if err != nil {
			return nil, err
		}
		if e.Size >= 4*wholeMax && e.Size > k.Entry.Block {
			return func() error { return k.grown(i, e) }, nil
		}
		if !changed {
			break
		}
		if try == k.o.Tries {
			if !k.o.Live {
				return nil, &ChangedError{e.Path, try}
			}
			m.Torn = true
			break
		}
		if err := sleep(ctx, time.Duration(try)*100*time.Millisecond); err != nil {
			return nil, err
		}
	}
	var c chunk
	if e.Size > k.Entry.Block {
		c = chunk{data: data}
		k.digest(&c, m.Grid(k.Entry.Block), 0)
		c.sums = k.allSums(nil, &c, m.Grid(k.Entry.Block), 0, e.Size)
	} else {
		m.Digest = delta.Sum(data)
	}
	return func() error {
		k.progress(&m, m.Size)
		k.update(i, e)
		return k.storeSmall(i, &m, &c, data, extents)
	}, nil
}

// grown puts a file that is not small any more on the list of those to be packed later.
func (k *packer) grown(i int, e *vmdir.Entry) error {
	if k.tries[i]++; k.tries[i] > k.o.Tries {
		return &ChangedError{e.Path, k.tries[i]}
	}
	k.update(i, e)
	k.retry = append(k.retry, i)
	return nil
}

func sleep(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

func (k *packer) storeSmall(i int, m *manifest.Member, c *chunk, data []byte, extents []delta.Extent) error {
	if m.Size > k.Entry.Block {
		w := k.startSection(i, m)
		w.Add(c.digests)
		k.addSums(c)
		if err := k.endSection(i, m, w, extents); err != nil {
			return err
		}
	}
	k.setHoles(m, extents)
	if pm := k.parent(m); pm != nil && pm.Digest == m.Digest && pm.Size == m.Size && !m.Torn {
		m.Stored = manifest.Stored{As: manifest.AsSame}
		k.stats.Unchanged++
		k.members[i] = *m
		return nil
	}
	if err := k.startWhole(m, extents); err != nil {
		return err
	}
	if err := k.wholeData(m, extents, 0, data); err != nil {
		return err
	}
	if err := k.s.pad(m.Stored.Bytes); err != nil {
		return err
	}
	if m.Torn {
		k.torn = append(k.torn, m.Path)
	}
	k.members[i] = *m
	return nil
}

func (k *packer) setHoles(m *manifest.Member, extents []delta.Extent) {
	m.Holes = 0
	if extents != nil {
		m.Holes = m.Size
		for _, e := range extents {
			m.Holes -= e.Length
		}
	}
}

func (k *packer) startSection(i int, m *manifest.Member) *delta.SectionWriter {
	k.place[i] = place{off: k.blocks.n, sums: k.sums.n}
	return delta.NewSectionWriter(&k.blocks, m.Grid(k.Entry.Block), m.Size)
}

func (k *packer) endSection(i int, m *manifest.Member, w *delta.SectionWriter, extents []delta.Extent) error {
	d, blocks, length, err := w.Close(extents != nil, extents)
	if err != nil {
		return err
	}
	m.Digest, m.Blocks = d, blocks
	k.place[i].length = length
	k.place[i].nsums = k.sums.n - k.place[i].sums
	return nil
}

func (k *packer) addSums(c *chunk) {
	k.sumBuf = k.sumBuf[:0]
	for _, s := range c.sums {
		k.sumBuf = append(k.sumBuf, s[:]...)
	}
	_, _ = k.sums.Write(k.sumBuf) // its error sticks, and finish reads it
	for _, d := range c.digests {
		if d.IsZero() {
			k.stats.Zero += k.Entry.Block // about: the last block may be shorter
		}
	}
}

// startWhole writes the header of a file that is stored whole.
func (k *packer) startWhole(m *manifest.Member, extents []delta.Extent) error {
	h := toHeader(m)
	m.Stored = manifest.Stored{As: manifest.AsWhole, Bytes: m.Size}
	if extents != nil {
		h.Sparse = sparseMap(extents, m.Size)
		m.Stored.Bytes = 0
		for _, e := range h.Sparse {
			m.Stored.Bytes += e.Length
		}
	}
	if err := k.s.header(h); err != nil {
		return fmt.Errorf("%s: %w", m.Path, err)
	}
	m.Stored.Body = k.s.offset()
	k.stats.Stored += m.Stored.Bytes
	return nil
}

// sparseMap returns the data runs that the archive stores of a file with the given data runs. A
// reader of the archive computes the same.
func sparseMap(extents []delta.Extent, size int64) []pax.Extent {
	runs := make([]pax.Extent, len(extents))
	for i, e := range extents {
		runs[i] = pax.Extent(e)
	}
	return pax.LimitExtents(runs, size)
}

// StoredRuns returns the data runs of member m as they follow each other in the archive, for a
// member stored whole whose section is t (nil: it has none).
func StoredRuns(m *manifest.Member, t *delta.Table) []delta.Extent {
	if t == nil || !t.Holes {
		if m.Size == 0 {
			return nil
		}
		return []delta.Extent{{Offset: 0, Length: m.Size}}
	}
	runs := sparseMap(t.Data, m.Size)
	out := make([]delta.Extent, len(runs))
	for i, r := range runs {
		out[i] = delta.Extent(r)
	}
	return out
}

// wholeData writes what of data, which is at off of the file, is in the file's data runs.
func (k *packer) wholeData(m *manifest.Member, extents []delta.Extent, off int64, data []byte) error {
	if extents == nil {
		return k.s.data(data)
	}
	end := off + int64(len(data))
	for _, e := range sparseMap(extents, m.Size) {
		lo, hi := max(off, e.Offset), min(end, e.Offset+e.Length)
		if lo < hi {
			if err := k.s.data(data[lo-off : hi-off]); err != nil {
				return err
			}
		}
	}
	return nil
}

// digest computes the digests of the blocks of c, the first of which is block first of the grid.
func (k *packer) digest(c *chunk, g delta.Grid, first int64) {
	at := c.off
	end := c.off + int64(len(c.data))
	for i := first; at < end; i++ {
		_, n := g.Range(i, end)
		b := c.data[at-c.off:][:n]
		if delta.IsZero(b) {
			c.digests = append(c.digests, delta.Digest{})
		} else {
			c.digests = append(c.digests, delta.Sum(b))
		}
		at += n
	}
}

// allSums appends the sums of all blocks of c that are not zero.
func (k *packer) allSums(sums []delta.FindSum, c *chunk, g delta.Grid, first, size int64) []delta.FindSum {
	sums = slices.Grow(sums, len(c.digests)*k.subs)
	for j, d := range c.digests {
		if !d.IsZero() {
			off, n := g.Range(first+int64(j), size)
			sums = k.key.AppendSums(sums, c.data[off-c.off:][:n], k.subs)
		}
	}
	return sums
}

// finish assembles the tables, and writes the end of the archive and the manifest beside it.
func (k *packer) finish(side io.Writer) (*Result, error) {
	if err := errors.Join(k.blocks.err, k.sums.err); err != nil {
		return nil, err
	}
	gone, err := k.leaveOut()
	if err != nil {
		return nil, err
	}
	if err := k.diskIDs(); err != nil {
		return nil, err
	}
	snap := &manifest.Snapshot{Entry: k.Entry, Members: k.members, Superseded: k.superseded}
	places := slices.Concat(k.place, k.oldPlace)
	var off int64
	h := blake3.New()
	for i, ms := 0, slices.Concat(k.refs(snap.Members), k.refs(snap.Superseded)); i < len(ms); i++ {
		if places[i].length == 0 {
			continue
		}
		ms[i].Offset, ms[i].Length = off, places[i].length
		off += places[i].length
		if _, err := io.Copy(h, io.NewSectionReader(&k.blocks, places[i].off, places[i].length)); err != nil {
			return nil, err
		}
	}
	snap.Blocks = manifest.BlocksInfo{Length: off, Digest: delta.Digest(h.Sum(nil))}
	k.stats.Members = int64(len(k.members))
	for i := range k.members {
		if m := &k.members[i]; m.Type == manifest.File {
			k.stats.Files++
			k.stats.Bytes += m.Size
		}
	}
	snap.Stats = k.stats
	text := spool{dir: k.o.TempDir}
	defer text.Close()
	if err := snap.Encode(&text); err != nil {
		return nil, err
	}
	if want := k.o.Want; !want.IsZero() && snap.ID != want {
		return nil, &StateError{Want: want, Have: snap.ID}
	}
	section := func(s *spool, list []place, f func(place) (off, n int64)) io.Reader {
		var rs []io.Reader
		for _, p := range list {
			if off, n := f(p); n > 0 {
				rs = append(rs, io.NewSectionReader(s, off, n))
			}
		}
		return io.MultiReader(rs...)
	}
	table := func() io.Reader {
		return section(&k.blocks, places, func(p place) (int64, int64) { return p.off, p.length })
	}
	loc := &locator{ID: snap.ID}
	if err := k.s.w.Cut(); err != nil {
		return nil, err
	}
	if loc.Manifest, err = k.s.copy(nameManifest, io.NewSectionReader(&text, 0, text.n), text.n); err != nil {
		return nil, err
	}
	if loc.Blocks, err = k.s.copy(nameBlocks, table(), off); err != nil {
		return nil, err
	}
	if err := k.s.finish(loc); err != nil {
		return nil, err
	}
	r := &Result{
		Snapshot: snap, ID: snap.ID, Digest: snap.Digest, Encoded: k.s.tap.n, Decoded: k.s.offset(), Stats: snap.Stats, Torn: k.torn, Vanished: gone,
	}
	if side == nil {
		return r, nil
	}
	st := &tap{w: side}
	local, err := k.localJSON()
	if err != nil {
		return nil, err
	}
	var nsums int64
	for _, p := range k.place {
		nsums += p.nsums
	}
	err = errors.Join(
		plainCopy(st, nameManifest, io.NewSectionReader(&text, 0, text.n), text.n, k.s),
		plainCopy(st, nameBlocks, table(), off, k.s),
		plainCopy(st, nameLocal, local, int64(local.Len()), k.s),
		plainCopy(st, nameFind, section(&k.sums, k.place, func(p place) (int64, int64) { return p.sums, p.nsums }), nsums, k.s))
	if err == nil {
		_, err = st.Write(pax.AppendEnd(nil))
	}
	r.Manifest = st.n
	return r, err
}

func (k *packer) refs(ms []manifest.Member) []*manifest.Member {
	rs := make([]*manifest.Member, len(ms))
	for i := range ms {
		rs[i] = &ms[i]
	}
	return rs
}

// plainCopy writes a member of the manifest beside the archive.
func plainCopy(w io.Writer, name string, r io.Reader, n int64, s *stream) error {
	b, err := pax.AppendHeader(nil, s.own(name, n))
	if err != nil {
		return err
	}
	if _, err := w.Write(b); err != nil {
		return err
	}
	if _, err := io.CopyN(w, r, n); err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	_, err = w.Write(pax.AppendPadding(nil, n))
	return err
}

// localFile is local.json; manifest/FORMAT.md section 6.
type localFile struct {
	Packed time.Time        `json:"packed"`
	Find   localFind        `json:"find"`
	Seen   []vmdir.Identity `json:"seen"`
}

type localFind struct {
	Key  string `json:"key"`
	Unit int64  `json:"unit"`
}

func (k *packer) localJSON() (*bytes.Reader, error) {
	l := localFile{Packed: time.Now().UTC(), Find: localFind{base64.StdEncoding.EncodeToString(k.key[:]), delta.FindUnit}}
	for _, h := range k.here {
		e := vmdir.Entry{Dev: h.dev, Ino: h.ino, CTime: h.ctime}
		l.Seen = append(l.Seen, e.Identity())
	}
	b, err := json.Marshal(&l)
	return bytes.NewReader(append(b, '\n')), err
}
