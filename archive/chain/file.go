package chain

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"slices"
	"sort"
	"sync"

	"tarvm/delta"
	"tarvm/formats"
	"tarvm/manifest"
)

const (
	fileCache = 4 << 20 // bytes of verified blocks that a File keeps
	readBatch = 4 << 20 // bytes that one look-up resolves
	mapRange  = 1 << 20 // bytes that one MapAt looks at
)

// A File is a file of one entry, wherever in the chain its bytes are. It is a formats.Source and a
// formats.Mapper, safe for concurrent use, and holds nothing that must be closed.
type File struct {
	c     *Chain
	e     *entry
	mem   int32
	b     blocks
	cache *lru // block index -> []byte

	once sync.Once
	err  error // of the table of blocks
}

var (
	_ formats.Source = (*File)(nil)
	_ formats.Mapper = (*File)(nil)

	_ formats.Anticipator = (*File)(nil)
)

// Open opens a file of entry k; a hard link is opened as the file that it names. An error is fs.ErrNotExist
// when the entry has no such member, and fs.ErrInvalid when it is no file.
func (c *Chain) Open(k int, path manifest.Path) (*File, error) {
	if k < 0 || k >= len(c.entries) {
		return nil, fmt.Errorf("entry %d of %d: %w", k, len(c.entries), fs.ErrInvalid)
	}
	e := c.entries[k]
	i := e.find(path, 0)
	if i >= 0 && e.snap.Members[i].Type == manifest.Link {
		i = e.find(e.snap.Members[i].Target, i)
	}
	if i < 0 {
		return nil, &fs.PathError{Op: "open", Path: string(path), Err: fs.ErrNotExist}
	}
	m := &e.snap.Members[i]
	if m.Type != manifest.File {
		return nil, &fs.PathError{Op: "open", Path: string(path), Err: fs.ErrInvalid}
	}
	b, err := e.blocks(m)
	if err != nil {
		return nil, err
	}
	return &File{c: c, e: e, mem: i, b: b, cache: newLRU(fileCache)}, nil
}

// Size is the file's length in bytes.
func (f *File) Size() int64 { return f.b.m.Size }

// Member returns what the manifest says of the file. It must not be changed.
func (f *File) Member() *manifest.Member { return f.b.m }

// ReadAt reads as io.ReaderAt does. Whole blocks are put together and compared with their digests before any
// byte is returned; what does not match is a *DigestError.
func (f *File) ReadAt(p []byte, off int64) (int, error) {
	if off < 0 {
		return 0, &fs.PathError{Op: "read", Path: string(f.b.m.Path), Err: fs.ErrInvalid}
	}
	size := f.Size()
	if off >= size {
		return 0, io.EOF
	}
	if err := f.check(); err != nil {
		return 0, err
	}
	n := int(min(int64(len(p)), size-off))
	done := 0
	for done < n {
		k, err := f.readBlocks(p[done:n], off+int64(done))
		done += k
		if err != nil {
			return done, err
		}
	}
	if done < len(p) {
		return done, io.EOF
	}
	return done, nil
}

// check compares the table of blocks with the member's digest, once.
func (f *File) check() error {
	if f.once.Do(func() { f.err = f.b.check() }); f.err != nil {
		return f.e.fail(f.b.m, -1, f.err)
	}
	return nil
}

// readBlocks reads at least one byte of p.
func (f *File) readBlocks(p []byte, off int64) (int, error) {
	first := f.b.at(off)
	last := f.b.at(off + int64(min(len(p), readBatch)) - 1)
	digests := make([]delta.Digest, last-first+1)
	if err := f.b.read(first, digests); err != nil {
		return 0, f.e.fail(f.b.m, off, err)
	}
	bufs := make([][]byte, len(digests))
	known := make([]bool, len(digests)) // to have its digest
	var wants []want
	for j, d := range digests {
		i := first + int64(j)
		boff, n := f.b.rng(i)
		if d.IsZero() {
			continue
		}
		if b, ok := f.cache.get(i).([]byte); ok {
			bufs[j], known[j] = b, true
			continue
		}
		if at := boff - off; at >= 0 && at+n <= int64(len(p)) {
			bufs[j] = p[at : at+n : at+n] // all of it is wanted there
		} else {
			bufs[j] = make([]byte, n)
		}
		if f.c.ahead.read(f, i, bufs[j]) {
			continue
		}
		wants = append(wants, want{mem: f.mem, file: int32(j), off: boff, n: n})
	}
	if err := f.fill(wants, bufs); err != nil {
		return 0, err
	}
	done := 0
	for j, d := range digests {
		i := first + int64(j)
		boff, n := f.b.rng(i)
		dst := p[done:min(int64(len(p)), boff+n-off)]
		b := bufs[j]
		if b == nil {
			clear(dst)
			done += len(dst)
			continue
		}
		if !known[j] {
			if got := delta.Sum(b); got != d {
				return done, &DigestError{f.e.snap.ID, f.b.m.Path, boff, n, d, got}
			}
			if int64(len(dst)) == n && &dst[0] == &b[0] {
				done += len(dst)
				continue
			}
			f.cache.put(i, b, n)
		}
		done += copy(dst, b[off+int64(done)-boff:])
	}
	return done, nil
}

// fill reads wants, whose destinations are numbers of bufs.
func (f *File) fill(wants []want, bufs [][]byte) error {
	if len(wants) == 0 {
		return nil
	}
	ps, err := f.c.resolve(context.Background(), f.e.k, wants, nil, 0)
	if err != nil {
		return err
	}
	// In the order of the archives, so that each frame is decoded once.
	slices.SortFunc(ps, func(a, b piece) int {
		return cmp.Or(cmp.Compare(a.arch, b.arch), cmp.Compare(a.src, b.src))
	})
	for _, p := range ps {
		if p.arch == zeroPiece {
			clear(bufs[p.file][p.at : p.at+p.n]) // which may be the caller's
			continue
		}
		if p.arch < 0 {
			return f.e.corrupt(f.b.m, p.at, "its content is not in an archive")
		}
		if err := readFull(f.c.entries[p.arch].data, bufs[p.file][p.at:p.at+p.n], p.src); err != nil {
			return f.e.fail(f.b.m, -1, fmt.Errorf("in the archive of entry %s: %w", f.c.entries[p.arch].snap.ID.Short(), err))
		}
	}
	return nil
}

// readFull reads all of b; the end of the source is an io.ErrUnexpectedEOF.
func readFull(r io.ReaderAt, b []byte, off int64) error {
	n, err := r.ReadAt(b, off)
	if n == len(b) {
		return nil
	}
	if err == nil || errors.Is(err, io.EOF) {
		err = io.ErrUnexpectedEOF
	}
	return fmt.Errorf("at byte %d: %w", off+int64(n), err)
}

// DataAt returns the first run of data [start, end) that ends behind off, clipped to begin at off. Without one, start
// and end are the Size. What lies outside of the runs reads as zero.
func (f *File) DataAt(off int64) (start, end int64, err error) {
	size := f.Size()
	for start = off; start < size; {
		x, err := f.MapAt(start)
		if err != nil {
			return 0, 0, err
		}
		if x.Kind == formats.Data {
			return start, x.End(), nil
		}
		start = x.End()
	}
	return size, size, nil
}

// MapAt says where the bytes from off on are: Data with Host an offset in the decoded archive of the entry
// that is Depth entries down, Hole where the file was recorded to have one, or Zero. Runs are at most
// 1 MiB long, so that one look-up is cheap. off outside of the file gives io.EOF.
func (f *File) MapAt(off int64) (formats.Extent, error) {
	size := f.Size()
	if off < 0 || off >= size {
		return formats.Extent{}, io.EOF
	}
	end := min(size, off+mapRange)
	if t := f.b.t; t != nil && t.Holes {
		i := sort.Search(len(t.Data), func(i int) bool { return t.Data[i].End() > off })
		next := size
		if i < len(t.Data) {
			next = t.Data[i].Offset
		}
		if next > off {
			return formats.Extent{Offset: off, Length: next - off, Kind: formats.Hole}, nil
		}
		end = min(end, t.Data[i].End())
	}
	ps, err := f.c.resolve(context.Background(), f.e.k, []want{{mem: f.mem, off: off, n: end - off, at: off}}, nil, 0)
	if err != nil {
		return formats.Extent{}, err
	}
	slices.SortFunc(ps, func(a, b piece) int { return cmp.Compare(a.at, b.at) })
	x := formats.Extent{Offset: off}
	for i, p := range ps {
		switch {
		case i == 0 && p.arch == zeroPiece:
			x.Kind = formats.Zero
		case i == 0 && p.arch >= 0:
			x.Kind, x.Host, x.Depth = formats.Data, p.src, f.e.k-int(p.arch)
		case i == 0:
			return x, f.e.corrupt(f.b.m, off, "its content is not in an archive")
		case p.arch != ps[0].arch || p.arch >= 0 && p.src != x.Host+x.Length:
			return x, nil
		}
		x.Length += p.n
	}
	return x, nil
}
