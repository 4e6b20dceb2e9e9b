package chain

import (
	"context"
	"errors"
	"fmt"
	"os"
	"runtime"
	"slices"
	"sort"
	"strings"
	"sync"
	"time"

	"tarvm/archive"
	"tarvm/archive/vmdir"
	"tarvm/delta"
	"tarvm/manifest"
)

// VerifyOptions say what to verify. The zero value verifies the last entry.
type VerifyOptions struct {
	Entry    int      // index from the end: 0 the last entry, 1 its parent
	Only     []string // patterns of vmdir.Match; none: all members
	Workers  int
	TempDir  string // for blocks that come in many parts; "": the system's
	Progress func(archive.Progress)
}

// Damage is a range of a member that cannot be rebuilt, or not as it was.
type Damage struct {
	Member manifest.Path `json:"member"`
	Offset int64         `json:"offset"`
	Length int64         `json:"length"`
	What   string        `json:"what"`
}

func (d Damage) String() string {
	return fmt.Sprintf("%s: bytes %d to %d: %s", d.Member, d.Offset, d.Offset+d.Length, d.What)
}

// Report is the result of a verification.
type Report struct {
	ID      delta.Digest `json:"id"`
	Members int          `json:"members"` // files that were rebuilt
	Bytes   int64        `json:"bytes"`   // their sizes
	Damages []Damage     `json:"damages,omitempty"`
	More    int64        `json:"more,omitempty"` // damaged ranges that are not listed
}

// Err returns an error that wraps ErrCorrupt when there is damage.
func (r *Report) Err() error {
	switch len(r.Damages) {
	case 0:
		return nil
	case 1:
		return fmt.Errorf("%w: %s", ErrCorrupt, r.Damages[0])
	}
	return fmt.Errorf("%w: %d damaged places, the first: %s", ErrCorrupt, int64(len(r.Damages))+r.More, r.Damages[0])
}

// maxDamages are listed in a report; the rest is counted.
const maxDamages = 10_000

// Verify rebuilds every block of an entry and compares it with its digest, without writing anything. It goes on
// behind damage; its error is about what kept it from reading, not about damage. Frames are decoded once and in order.
// Blocks that come in parts are put together in at most 64 MiB of memory, more of them in a temporary file.
func Verify(ctx context.Context, c *Chain, o VerifyOptions) (*Report, error) {
	k := c.Head() - o.Entry
	if k < 0 || k > c.Head() {
		return nil, fmt.Errorf("entry %d of a chain of %d", k, c.Len())
	}
	v := &verifier{
		restorer: restorer{c: c, k: k, e: c.entries[k], o: RestoreOptions{Only: o.Only, Progress: o.Progress}, p: &place{fresh: true}, wk: o.Workers},
		report:   &Report{ID: c.entries[k].snap.ID},
		parts:    make(map[blockKey]*parts),
		bad:      make(map[int32]bitset),
	}
	if v.wk <= 0 {
		v.wk = runtime.GOMAXPROCS(0)
	}
	v.asm.dir = o.TempDir
	defer v.asm.close()
	return v.run(ctx)
}

// verifier is a restorer whose sink keeps nothing.
type verifier struct {
	restorer
	report *Report

	mu    sync.Mutex
	parts map[blockKey]*parts
	bad   map[int32]bitset // blocks that are reported already
	asm   assembly
}

type blockKey struct {
	file  int32
	block int64
}

// parts are the bytes of a block so far.
type parts struct {
	slot int
	have []delta.Extent // within the block, in order, not touching
}

func (v *verifier) run(ctx context.Context) (*Report, error) {
	if err := v.chooseAll(); err != nil {
		return nil, err
	}
	var total int64
	for _, o := range v.outs {
		total += v.bytesOf(o)
	}
	v.setPhase("verify", total)
	f := v.c.newFetcher(v.wk, v, nil, func(n int64) { v.progress("", n) })
	err := v.c.windows(ctx, v.k, nil, v.wants, v.divide, func(ps []piece) error {
		if err := f.run(ctx, ps); err != nil {
			return err
		}
		return v.endWindow()
	})
	if errors.Is(err, ErrCorrupt) {
		// Operations that contradict each other keep a whole window from being resolved: file by file it can
		// be told which are affected.
		err = v.eachFile(ctx, f)
	}
	if err != nil {
		return nil, err
	}
	for i, o := range v.outs {
		v.missing(int32(i), o)
	}
	slices.SortStableFunc(v.report.Damages, func(a, b Damage) int {
		if n := strings.Compare(string(a.Member), string(b.Member)); n != 0 {
			return n
		}
		return int(min(max(a.Offset-b.Offset, -1), 1))
	})
	v.report.Damages = slices.CompactFunc(v.report.Damages, func(a, b Damage) bool { return a == b })
	return v.report, nil
}

// chooseAll lists the files; those whose table of blocks is damaged are reported and left out.
func (v *verifier) chooseAll() error {
	for i := range v.e.snap.Members {
		m := &v.e.snap.Members[i]
		if m.Type != manifest.File {
			continue
		}
		ok, err := v.matches(m.Path)
		if err != nil {
			return err
		}
		if !ok {
			continue
		}
		b, err := v.e.blocks(m)
		if err == nil {
			err = b.check()
		}
		if err != nil {
			v.damage(Damage{m.Path, 0, m.Size, err.Error()})
			continue
		}
		v.report.Members++
		v.report.Bytes += m.Size
		n := b.count()
		v.outs = append(v.outs, &out{e: v.e, mem: int32(i), b: b, n: len(v.outs), good: newBitset(n)})
	}
	return nil
}

func (v *verifier) eachFile(ctx context.Context, f *fetcher) error {
	for i, o := range v.outs {
		gen := func(yield func(want) bool) error {
			if err := v.wantsOf(int32(i), o, yield); !errors.Is(err, errStop) {
				return err
			}
			return nil
		}
		err := v.c.windows(ctx, v.k, nil, gen, v.divide, func(ps []piece) error {
			if err := f.run(ctx, ps); err != nil {
				return err
			}
			return v.endWindow()
		})
		if errors.Is(err, ErrCorrupt) {
			v.note(int32(i), 0, o.b.m.Size, err.Error())
			err = nil
		}
		if err != nil {
			return err
		}
	}
	return nil
}

func (v *verifier) damage(d Damage) {
	if len(v.report.Damages) >= maxDamages {
		v.report.More++
		return
	}
	if n := len(v.report.Damages); n > 0 {
		if l := &v.report.Damages[n-1]; l.Member == d.Member && l.What == d.What && l.Offset+l.Length == d.Offset {
			l.Length += d.Length
			return
		}
	}
	v.report.Damages = append(v.report.Damages, d)
}

// note reports bytes of a file, and marks their blocks. It must be called with mu held, or from one goroutine.
func (v *verifier) note(file int32, off, n int64, what string) {
	b := v.outs[file].b
	if n <= 0 {
		return
	}
	bad := v.bad[file]
	if bad == nil {
		bad = newBitset(b.count())
		v.bad[file] = bad
	}
	for i := b.at(off); i <= b.at(off+n-1); i++ {
		bad.set(i)
	}
	v.damage(Damage{b.m.Path, off, n, what})
}

// write implements sink.
func (v *verifier) write(file int32, at int64, data []byte) error {
	o := v.outs[file]
	for len(data) > 0 {
		i := o.b.at(at)
		off, n := o.b.rng(i)
		d := data[:min(int64(len(data)), off+n-at)]
		if err := v.block(file, o, i, at-off, d); err != nil {
			return err
		}
		at += int64(len(d))
		data = data[len(d):]
	}
	return nil
}

// block takes bytes of block i, from off in it.
func (v *verifier) block(file int32, o *out, i, off int64, data []byte) error {
	start, n := o.b.rng(i)
	if o.good.has(i) {
		return nil // a second look, after another file's operations were refused
	}
	if int64(len(data)) < n {
		return v.part(file, o, i, off, data)
	}
	return v.compare(file, o, i, start, data)
}

func (v *verifier) compare(file int32, o *out, i, start int64, data []byte) error {
	err := o.verify(start, data, v.e)
	var de *DigestError
	if !errors.As(err, &de) {
		return err
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	v.note(file, start, int64(len(data)), fmt.Sprintf("digest %s, want %s", de.Found.Short(), de.Want.Short()))
	return nil
}

// part keeps a part of a block until the block is whole.
func (v *verifier) part(file int32, o *out, i, off int64, data []byte) error {
	v.mu.Lock()
	defer v.mu.Unlock()
	key := blockKey{file, i}
	p := v.parts[key]
	if p == nil {
		p = &parts{slot: v.asm.take()}
		v.parts[key] = p
	}
	block := max(v.e.snap.Entry.Block, 1)
	if err := v.asm.write(p.slot, block, off, data); err != nil {
		return err
	}
	p.add(delta.Extent{Offset: off, Length: int64(len(data))})
	start, n := o.b.rng(i)
	if len(p.have) != 1 || p.have[0].Offset != 0 || p.have[0].Length != n {
		return nil
	}
	return v.whole(key, p, o, i, start, n)
}

func (v *verifier) whole(key blockKey, p *parts, o *out, i, start, n int64) error {
	buf, err := v.asm.read(p.slot, max(v.e.snap.Entry.Block, 1), n)
	if err != nil {
		return err
	}
	delete(v.parts, key)
	v.asm.free(p.slot)
	err = o.verify(start, buf, v.e)
	var de *DigestError
	if errors.As(err, &de) {
		v.note(key.file, start, n, fmt.Sprintf("digest %s, want %s", de.Found.Short(), de.Want.Short()))
		return nil
	}
	return err
}

// add joins x to what is there.
func (p *parts) add(x delta.Extent) {
	p.have = append(p.have, x)
	slices.SortFunc(p.have, func(a, b delta.Extent) int { return int(a.Offset - b.Offset) })
	out := p.have[:1]
	for _, e := range p.have[1:] {
		if l := &out[len(out)-1]; e.Offset <= l.End() {
			l.Length = max(l.End(), e.End()) - l.Offset
		} else {
			out = append(out, e)
		}
	}
	p.have = out
}

// endWindow ends the blocks that are not whole: what is missing of them was a hole, or is lost.
func (v *verifier) endWindow() error {
	v.mu.Lock()
	defer v.mu.Unlock()
	block := max(v.e.snap.Entry.Block, 1)
	for key, p := range v.parts {
		o := v.outs[key.file]
		start, n := o.b.rng(key.block)
		if v.bad[key.file].has(key.block) {
			delete(v.parts, key)
			v.asm.free(p.slot)
			continue
		}
		if v.endsLater(o, start, n, p) {
			continue
		}
		at := int64(0)
		for _, e := range append(slices.Clone(p.have), delta.Extent{Offset: n}) {
			for at < e.Offset {
				k := min(e.Offset-at, int64(len(zeroBuf)))
				if err := v.asm.write(p.slot, block, at, zeroBuf[:k]); err != nil {
					return err
				}
				at += k
			}
			at = e.End()
		}
		if err := v.whole(key, p, o, key.block, start, n); err != nil {
			return err
		}
	}
	return nil
}

// endsLater reports whether more of a block will come with the next window: wants are cut at blocks, and at the
// edges of recorded holes.
func (v *verifier) endsLater(o *out, start, n int64, p *parts) bool {
	if o.b.t == nil || !o.b.t.Holes {
		return true
	}
	var data int64
	runs := o.b.t.Data
	i := sort.Search(len(runs), func(i int) bool { return runs[i].End() > start })
	for ; i < len(runs) && runs[i].Offset < start+n; i++ {
		x := runs[i]
		if lo, hi := max(x.Offset, start), min(x.End(), start+n); lo < hi {
			data += hi - lo
		}
	}
	var have int64
	for _, e := range p.have {
		have += e.Length
	}
	return have < data
}

// missing reports blocks of which nothing or not all came, which no one else has reported.
func (v *verifier) missing(i int32, o *out) {
	var ds [256]delta.Digest
	for at, count := int64(0), o.b.count(); at < count; {
		n := min(int64(len(ds)), count-at)
		if err := o.b.read(at, ds[:n]); err != nil {
			v.note(i, 0, o.b.m.Size, err.Error())
			return
		}
		for j, d := range ds[:n] {
			if b := at + int64(j); !d.IsZero() && !o.good.has(b) && !v.bad[i].has(b) {
				off, l := o.b.rng(b)
				v.note(i, off, l, "a block that is not in the archives")
			}
		}
		at += n
	}
}

// lost implements sink.
func (v *verifier) lost(p piece, err error) error {
	if errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded) {
		return err
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	v.note(p.file, p.at, p.n, err.Error())
	return nil
}

func (v *verifier) setPhase(phase string, total int64) {
	v.phase, v.total, v.last = phase, total, time.Time{}
	v.progress("", 0)
}

// assembly holds blocks that are put together: the first ones in memory, the others in a file.
type assembly struct {
	dir  string
	mem  [][]byte
	used int // slots ever taken
	idle []int
	file *os.File
	name string // as of vmdir.Nameless
}

const assemblyMemory = 64 << 20

func (a *assembly) take() int {
	if n := len(a.idle); n > 0 {
		s := a.idle[n-1]
		a.idle = a.idle[:n-1]
		return s
	}
	a.used++
	return a.used - 1
}

func (a *assembly) free(slot int) { a.idle = append(a.idle, slot) }

func (a *assembly) write(slot int, block, off int64, data []byte) error {
	if int64(slot) < assemblyMemory/block {
		for len(a.mem) <= slot {
			a.mem = append(a.mem, nil)
		}
		if a.mem[slot] == nil {
			a.mem[slot] = make([]byte, block)
		}
		copy(a.mem[slot][off:], data)
		return nil
	}
	if a.file == nil {
		f, name, err := vmdir.Nameless(a.dir, ".tarvm-verify-*")
		if err != nil {
			return err
		}
		a.file, a.name = f, name
	}
	_, err := a.file.WriteAt(data, int64(slot)*block+off)
	return err
}

func (a *assembly) read(slot int, block, n int64) ([]byte, error) {
	if int64(slot) < assemblyMemory/block {
		return a.mem[slot][:n], nil
	}
	b := make([]byte, n)
	return b, readFull(a.file, b, int64(slot)*block)
}

func (a *assembly) close() {
	if a.file != nil {
		a.file.Close()
		if a.name != "" {
			os.Remove(a.name)
		}
	}
}
