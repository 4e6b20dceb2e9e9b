package repo

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"path"
	"slices"
	"strings"
	"syscall"

	"tarvm/archive"
	"tarvm/archive/codec"
	"tarvm/delta"
)

// indexHead is the first line of the index, FORMAT.md section 4. Records of entries follow.
type indexHead struct {
	Tarvm      string       `json:"tarvm"` // "index"
	Version    int          `json:"version"`
	Repository string       `json:"repository"` // its id: files of two repositories have the same names
	Next       int          `json:"next"`       // the number of the next entry
	Count      int          `json:"count"`      // of records
	Digest     delta.Digest `json:"digest"`     // of the records
}

// indexVersion changes with what is in a record: an index of another version is made anew.
const indexVersion = 2

// maxIndex bounds what is read as an index: some million entries.
const maxIndex = 1 << 30

// cache is what is known before the entries' files are looked at.
type cache struct {
	next   int
	byFile map[string]*Entry
	digest delta.Digest // of the records
}

// readIndex returns what the index has, or nothing: it is a cache. An error is the medium's, when there may be an index that
// cannot be read now.
func (r *Repo) readIndex(ctx context.Context) (*cache, error) {
	c := &cache{next: 1}
	b, err := readFile(ctx, r.m, fileIndex, maxIndex)
	switch {
	case errors.Is(err, fs.ErrNotExist) || errors.Is(err, ErrCorrupt):
		return c, nil
	case err != nil:
		if ctx.Err() != nil {
			err = context.Cause(ctx)
		}
		return c, err
	}
	line, rest, _ := bytes.Cut(b, []byte{'\n'})
	var h indexHead
	if json.Unmarshal(line, &h) != nil || h.Tarvm != "index" || h.Version != indexVersion || h.Repository != r.info.ID || h.Next < 1 ||
		h.Next > maxNumber+1 || delta.Sum(rest) != h.Digest {
		return c, nil
	}
	es, err := decodeEntries(rest, h.Count)
	if err != nil {
		return c, nil //nolint:nilerr // it is made anew
	}
	c.byFile = make(map[string]*Entry, len(es))
	for i := range es {
		c.byFile[es[i].File] = &es[i]
	}
	c.next, c.digest = h.Next, h.Digest
	return c, nil
}

// writeIndex writes the index. The writer holds the lock.
func (r *Repo) writeIndex(ctx context.Context, f *Forest) error {
	var b []byte
	for _, e := range f.Entries {
		b = appendEntry(b, e)
	}
	h, err := json.Marshal(indexHead{Tarvm: "index", Version: indexVersion, Repository: r.info.ID, Next: f.next, Count: len(f.Entries), Digest: delta.Sum(b)})
	if err != nil {
		return err
	}
	return r.m.Put(ctx, fileIndex, slices.Concat(h, []byte{'\n'}, b))
}

// present is what there is of one archive of an entry.
type present struct {
	name                  fileName
	path                  string // of the archive
	archive, manifest, at bool
}

// A Problem is something in a repository that is not as it should be.
type Problem struct {
	File string `json:"file"`
	What string `json:"what"`
	Err  error  `json:"-"`
}

func (p Problem) String() string { return p.File + ": " + p.What }

// files lists what is there of entries, the archive that counts for each number first.
func (r *Repo) files(ctx context.Context) ([]*present, []Problem, error) {
	var all []*present
	var problems []Problem
	projects, err := r.m.List(ctx, dirEntries)
	if err != nil {
		return nil, nil, err
	}
	suffixes := make(map[string]bool) // whether they are a codec's
	for _, p := range projects {
		folder := path.Join(dirEntries, p.Name)
		if !p.Dir {
			problems = append(problems, Problem{File: folder, What: "is no folder of a project"})
			continue
		}
		if CheckProject(p.Name) != nil {
			problems = append(problems, Problem{File: folder, What: "is no name of a project"})
			continue
		}
		names, err := r.m.List(ctx, folder)
		if err != nil {
			return nil, nil, err
		}
		here := make(map[string]*present, len(names))
		for _, n := range names {
			base, kind := n.Name, ""
			if b, ok := strings.CutSuffix(n.Name, suffixManifest); ok {
				base, kind = b, suffixManifest
			} else if b, ok := strings.CutSuffix(n.Name, suffixAt); ok {
				base, kind = b, suffixAt
			}
			x := here[base]
			if x == nil || n.Dir {
				f, ok := parseFileName(p.Name, base)
				if !ok || n.Dir || !r.archiveName(base, suffixes) {
					problems = append(problems, Problem{File: folder + "/" + n.Name, What: "is no file of an entry"})
					continue
				}
				x = &present{name: f, path: folder + "/" + base}
				here[base] = x
				all = append(all, x)
			}
			switch kind {
			case suffixManifest:
				x.manifest = true
			case suffixAt:
				x.at = true
			default:
				x.archive = true
			}
		}
	}
	slices.SortFunc(all, func(a, b *present) int {
		if a.name.number != b.name.number {
			return a.name.number - b.name.number
		}
		return cmp.Or(-cmp.Compare(a.rank(), b.rank()), -cmp.Compare(a.name.generation, b.name.generation), strings.Compare(a.path, b.path))
	})
	return all, problems, nil
}

// archiveName reports whether a file is named as an archive of one of the codecs; known has what was found before.
func (r *Repo) archiveName(base string, known map[string]bool) bool {
	if len(r.o.Codecs) == 0 {
		return true
	}
	// No suffix has more than two parts.
	from := strings.LastIndexByte(base, '.')
	if from > 0 {
		if i := strings.LastIndexByte(base[:from], '.'); i >= 0 {
			from = i
		}
	}
	key := base[max(from, 0):]
	ok, is := known[key]
	if !is {
		ok = codec.ForPath(r.o.Codecs, base) != nil
		known[key] = ok
	}
	return ok
}

// rank tells a whole entry from leftovers.
func (x *present) rank() int {
	switch {
	case x.archive || x.at && x.manifest:
		return 2
	case x.manifest:
		return 1
	}
	return 0
}

// Forest reads which entries there are: the index as far as the files that it speaks of are there, and files that
// it does not know. It takes no lock.
func (r *Repo) Forest(ctx context.Context) (*Forest, error) {
	c, err := r.readIndex(ctx)
	if ctx.Err() != nil {
		return nil, context.Cause(ctx)
	}
	f, _, lerr := r.load(ctx, c)
	if lerr == nil && err != nil {
		f.Problems = append(f.Problems, Problem{File: fileIndex, What: err.Error(), Err: err})
	}
	return f, lerr
}

// writable is the forest for a writer, which holds the lock. It also returns the files that are no entry's any more:
// archives which another one of the same state replaced, and what is left of removed ones.
func (r *Repo) writable(ctx context.Context) (*Forest, []*present, error) {
	c, err := r.readIndex(ctx)
	if err != nil {
		return nil, nil, err // or the numbers of removed entries would be given again
	}
	return r.load(ctx, c)
}

// loadTries is how often it is looked again where writers are at work.
const loadTries = 20

// load looks at what there is, and believes c.
func (r *Repo) load(ctx context.Context, c *cache) (*Forest, []*present, error) {
	var last delta.Digest
	for try := 0; ; try++ {
		f, old, missed, err := r.look(ctx, c)
		if err != nil || !missed || try == loadTries {
			return f, old, err
		}
		// While it was listed an archive came into the place of another: either may be overlooked then, and once more for as
		// long as the index says that writers go on.
		now, err := r.readIndex(ctx)
		if err != nil || try > 0 && now.digest == last {
			return f, old, nil
		}
		last = now.digest
		if c.byFile != nil {
			c = now
		}
	}
}

// look is load, once. It also reports whether an entry may have been overlooked.
func (r *Repo) look(ctx context.Context, c *cache) (*Forest, []*present, bool, error) {
	all, problems, err := r.files(ctx)
	if err != nil {
		return nil, nil, false, err
	}
	missed := c.lacks(all)
	f := &Forest{Repository: r.info.ID, Problems: problems, next: c.next}
	var old []*present
	var last *Entry // of the number that is looked at
	for _, x := range all {
		f.next = max(f.next, x.name.number+1)
		if x.name.generation > 0 {
			if f.generations == nil {
				f.generations = make(map[int]int)
			}
			f.generations[x.name.number] = max(f.generations[x.name.number], x.name.generation)
		}
		if last != nil && last.Number == x.name.number {
			if r.replaced(ctx, x, last) {
				old = append(old, x)
			} else if r.listed(ctx, x) { // or a writer has just removed it
				f.Problems = append(f.Problems, Problem{File: x.path, What: fmt.Sprintf("has the number of %s", last.File)})
			}
			continue
		}
		if x.rank() == 0 {
			if at, err := r.readAt(ctx, x); err == nil && at.Removed {
				old = append(old, x)
			} else if !errors.Is(err, fs.ErrNotExist) {
				f.Problems = append(f.Problems, Problem{File: x.name.at(), What: "there is no manifest beside it", Err: err})
			}
			continue
		}
		e := c.byFile[x.path]
		if e == nil || e.Missing && x.archive || (e.At != nil) != x.at {
			var problem error
			if e, problem, err = r.readEntry(ctx, x); err != nil {
				if ctx.Err() != nil {
					return nil, nil, false, context.Cause(ctx)
				}
				if errors.Is(err, fs.ErrNotExist) && !r.listed(ctx, x) {
					missed = true
					continue // it was removed meanwhile, or another archive is in its place
				}
				problem = err
			}
			if problem != nil {
				f.Problems = append(f.Problems, Problem{File: x.path, What: problem.Error(), Err: problem})
			}
			if e == nil {
				if ofMedium(problem) {
					f.unread = append(f.unread, f.Problems[len(f.Problems)-1])
				}
				continue
			}
		}
		e.Missing = !x.archive
		last = e
		f.Entries = append(f.Entries, e)
	}
	f.link()
	return f, old, missed, nil
}

// ofMedium reports whether err says that a file could not be read, rather than what is wrong with it.
func ofMedium(err error) bool {
	var pe *fs.PathError
	var no syscall.Errno
	return (errors.As(err, &pe) || errors.As(err, &no)) && !errors.Is(err, fs.ErrNotExist)
}

// lacks reports whether all has nothing of an entry that c knows.
func (c *cache) lacks(all []*present) bool {
	there := make(map[int]bool, len(all))
	for _, x := range all {
		there[x.name.number] = true
	}
	for _, e := range c.byFile {
		if !there[e.Number] {
			return true
		}
	}
	return false
}

// replaced reports whether x is what a newer archive of the same state has replaced, e's.
func (r *Repo) replaced(ctx context.Context, x *present, e *Entry) bool {
	now, err := nameOf(e)
	if err != nil || now.project != x.name.project || now.generation <= x.name.generation {
		return false
	}
	if x.rank() == 0 {
		at, err := r.readAt(ctx, x)
		return err == nil && at.Removed
	}
	// Not by its name alone: somebody may have put it there.
	m, c, err := r.manifest(ctx, x.name)
	if err != nil {
		return false
	}
	c.Close()
	return m.ID == e.ID
}

// listed reports whether any of an entry's files is still there.
func (r *Repo) listed(ctx context.Context, x *present) bool {
	names, err := r.m.List(ctx, path.Dir(x.path))
	return err != nil || slices.ContainsFunc(names, func(n Name) bool { return strings.HasPrefix(n.Name, path.Base(x.path)) })
}

// readEntry makes an entry of its files. The archive says what it is; what is beside it does when that cannot be read, which
// is the problem then.
func (r *Repo) readEntry(ctx context.Context, x *present) (e *Entry, problem, err error) {
	var size int64
	if x.archive {
		if e, size, problem = r.readArchive(ctx, x.name); ctx.Err() != nil {
			return nil, nil, context.Cause(ctx)
		}
	}
	if e == nil {
		m, c, err := r.manifest(ctx, x.name)
		if err != nil {
			return nil, nil, cmp.Or(problem, err)
		}
		e = entryOf(m)
		c.Close()
	}
	e.Number, e.Project, e.File, e.Size = x.name.number, x.name.project, x.path, size
	e.Missing = !x.archive
	if x.at {
		at, err := r.readAt(ctx, x)
		switch {
		case err == nil:
			e.At = at
			if !x.archive {
				e.Size = at.Size
			}
		case ofMedium(err):
			return nil, nil, err
		case !x.archive && !errors.Is(err, fs.ErrNotExist):
			problem = cmp.Or(problem, err)
		}
	}
	return e, problem, nil
}

// readArchive makes an entry of what its archive says.
func (r *Repo) readArchive(ctx context.Context, f fileName) (*Entry, int64, error) {
	b, err := r.m.Open(ctx, f.archive())
	if err != nil {
		return nil, 0, err
	}
	defer b.Close()
	if len(r.o.Codecs) == 0 {
		return nil, b.Size(), nil
	}
	a, err := archive.Open(b, r.o.Codecs)
	if err != nil {
		return nil, b.Size(), r.named(f.archive(), err)
	}
	return entryOf(a.Manifest()), b.Size(), nil
}

// readAt reads where an archive is.
func (r *Repo) readAt(ctx context.Context, x *present) (*At, error) {
	b, err := readFile(ctx, r.m, x.name.at(), 64<<10)
	if err != nil {
		return nil, err
	}
	at := new(At)
	if err := json.Unmarshal(b, at); err != nil {
		return nil, fmt.Errorf("%s: %w: %s: %w", r.m, ErrCorrupt, x.name.at(), err)
	}
	return at, nil
}

// nameOf returns the names of an entry's files.
func nameOf(e *Entry) (fileName, error) {
	rest, ok := strings.CutPrefix(e.File, dirEntries+"/")
	project, base, ok2 := strings.Cut(rest, "/")
	f, ok3 := parseFileName(project, base)
	if !ok || !ok2 || !ok3 || f.number != e.Number {
		return f, fmt.Errorf("%w: %q is no file of %s", ErrCorrupt, e.File, e.Ref())
	}
	return f, nil
}

// Reindex makes the index anew from the entries' files, and gives a number of its own to what has that of another. It
// returns what it finds wrong.
func (r *Repo) Reindex(ctx context.Context) (*Forest, error) {
	unlock, err := r.lock(ctx, "reindex")
	if err != nil {
		return nil, err
	}
	defer unlock()
	if err := r.m.Sweep(ctx); err != nil {
		return nil, err
	}
	// That the index cannot be read is why it is made.
	c, err := r.readIndex(ctx)
	if ctx.Err() != nil {
		return nil, err
	}
	c = &cache{next: c.next}
	if err := r.renumber(ctx, c.next); err != nil {
		return nil, err
	}
	f, old, err := r.load(ctx, c)
	if err != nil {
		return nil, err
	}
	if err := r.removeOld(ctx, old); err != nil {
		return nil, err
	}
	return f, r.writeIndex(ctx, f)
}

// renumber copies entries that have another one's number to numbers of their own, and removes them at the old.
func (r *Repo) renumber(ctx context.Context, next int) error {
	all, _, err := r.files(ctx)
	if err != nil {
		return err
	}
	for _, x := range all {
		next = max(next, x.name.number+1)
	}
	var last *present
	for _, x := range all {
		if x.rank() == 0 {
			continue
		}
		if last == nil || last.name.number != x.name.number {
			last = x
			continue
		}
		if last.name.project == x.name.project && last.name.generation != x.name.generation {
			continue // a leftover, or for people to decide
		}
		to := x.name
		to.number, to.generation = next, 0
		next++
		for _, f := range []struct {
			there    bool
			from, to string
		}{{x.archive, x.name.archive(), to.archive()}, {x.at, x.name.at(), to.at()}, {x.manifest, x.name.manifest(), to.manifest()}} {
			if !f.there {
				continue
			}
			if err := r.copyFile(ctx, f.from, f.to); err != nil {
				return err
			}
		}
		if err := r.removeFiles(ctx, x.name); err != nil {
			return err
		}
	}
	return nil
}

// removeFiles removes an archive with what belongs to it. What makes it an entry goes last: the archive, or, of one that is
// elsewhere, the manifest goes before what says where.
func (r *Repo) removeFiles(ctx context.Context, f fileName) error {
	for _, name := range []string{f.manifest(), f.at(), f.archive()} {
		if err := r.m.Remove(ctx, name); err != nil {
			return err
		}
	}
	return nil
}

// removeOld removes archives that were replaced.
func (r *Repo) removeOld(ctx context.Context, old []*present) error {
	for _, x := range old {
		if x.at {
			if at, err := r.readAt(ctx, x); err == nil {
				r.removeThere(ctx, at)
			}
		}
		if err := r.removeFiles(ctx, x.name); err != nil {
			return err
		}
	}
	return nil
}
