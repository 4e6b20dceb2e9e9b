package chain

import (
	"fmt"
	"io"
	"io/fs"
	"path"
	"slices"
	"strings"
	"sync"
	"time"

	"tarvm/formats"
	"tarvm/manifest"
)

// FS returns the tree of entry k as a file system: an fs.ReadDirFS, fs.StatFS, fs.ReadFileFS and
// fs.ReadLinkFS. Names follow symbolic links as os.DirFS does, but never out of the tree. Sys of a FileInfo is the
// *manifest.Member. Members whose names are not UTF-8 are not shown: fs.ValidPath has no place for them.
func (c *Chain) FS(k int) fs.FS {
	return &chainFS{c: c, k: k, e: c.entries[k]}
}

type chainFS struct {
	c *Chain
	k int
	e *entry

	once sync.Once
	kids map[string][]int32
}

var (
	_ fs.ReadDirFS  = (*chainFS)(nil)
	_ fs.StatFS     = (*chainFS)(nil)
	_ fs.ReadFileFS = (*chainFS)(nil)
	_ fs.ReadLinkFS = (*chainFS)(nil)
)

func (f *chainFS) children(dir string) []int32 {
	f.once.Do(func() {
		f.kids = make(map[string][]int32)
		for i := range f.e.snap.Members {
			p := string(f.e.snap.Members[i].Path)
			if p != "." && fs.ValidPath(p) {
				f.kids[path.Dir(p)] = append(f.kids[path.Dir(p)], int32(i))
			}
		}
	})
	return f.kids[dir]
}

// maxLinks is how many symbolic links a name may follow.
const maxLinks = 40

// walk returns the member that name leads to, -1 for a root that the manifest does not list.
func (f *chainFS) walk(op, name string, last bool) (int32, error) {
	fail := func(err error) (int32, error) { return 0, &fs.PathError{Op: op, Path: name, Err: err} }
	if !fs.ValidPath(name) {
		return fail(fs.ErrInvalid)
	}
	rest, at, links := name, ".", 0
	mem := f.e.find(".", 0)
	for rest != "" && rest != "." {
		elem, more, _ := strings.Cut(rest, "/")
		next := path.Join(at, elem)
		i := f.e.find(manifest.Path(next), 0)
		if elem == "" || elem == "." {
			rest = more
			continue
		}
		if elem == ".." {
			if at == "." {
				return fail(fs.ErrNotExist)
			}
			at, rest = path.Dir(at), more
			mem = f.e.find(manifest.Path(at), 0)
			continue
		}
		if i < 0 {
			return fail(fs.ErrNotExist)
		}
		m := &f.e.snap.Members[i]
		if m.Type == manifest.Symlink && (more != "" || last) {
			if links++; links > maxLinks || strings.HasPrefix(string(m.Target), "/") || m.Target == "" {
				return fail(fs.ErrNotExist)
			}
			rest = string(m.Target)
			if more != "" {
				rest += "/" + more
			}
			continue
		}
		if more != "" && m.Type != manifest.Dir {
			return fail(fs.ErrNotExist)
		}
		mem, at, rest = i, next, more
	}
	return mem, nil
}

func (f *chainFS) info(i int32, name string) *memberInfo {
	if i < 0 {
		return &memberInfo{name: path.Base(name), m: &manifest.Member{State: manifest.State{Path: ".", Type: manifest.Dir, Mode: 0o755}}}
	}
	m := &f.e.snap.Members[i]
	n := &memberInfo{name: path.Base(name), m: m, of: m}
	if m.Type == manifest.Link {
		if j := f.e.find(m.Target, i); j >= 0 {
			n.of = &f.e.snap.Members[j]
		}
	}
	return n
}

// Open implements fs.FS.
func (f *chainFS) Open(name string) (fs.File, error) {
	i, err := f.walk("open", name, true)
	if err != nil {
		return nil, err
	}
	info := f.info(i, name)
	switch {
	case info.IsDir():
		return &openDir{f: f, name: name, info: info}, nil
	case !info.Mode().IsRegular():
		return nil, &fs.PathError{Op: "open", Path: name, Err: fs.ErrInvalid}
	}
	file, err := f.c.Open(f.k, info.m.Path)
	if err != nil {
		return nil, err
	}
	return &openFile{SectionReader: io.NewSectionReader(file, 0, file.Size()), file: file, info: info}, nil
}

// Stat implements fs.StatFS.
func (f *chainFS) Stat(name string) (fs.FileInfo, error) {
	i, err := f.walk("stat", name, true)
	if err != nil {
		return nil, err
	}
	return f.info(i, name), nil
}

// Lstat implements fs.ReadLinkFS.
func (f *chainFS) Lstat(name string) (fs.FileInfo, error) {
	i, err := f.walk("lstat", name, false)
	if err != nil {
		return nil, err
	}
	return f.info(i, name), nil
}

// ReadLink implements fs.ReadLinkFS.
func (f *chainFS) ReadLink(name string) (string, error) {
	i, err := f.walk("readlink", name, false)
	if err != nil {
		return "", err
	}
	if i < 0 || f.e.snap.Members[i].Type != manifest.Symlink {
		return "", &fs.PathError{Op: "readlink", Path: name, Err: fs.ErrInvalid}
	}
	return string(f.e.snap.Members[i].Target), nil
}

// ReadFile implements fs.ReadFileFS.
func (f *chainFS) ReadFile(name string) ([]byte, error) {
	o, err := f.Open(name)
	if err != nil {
		return nil, err
	}
	r, ok := o.(*openFile)
	if !ok {
		return nil, &fs.PathError{Op: "read", Path: name, Err: fs.ErrInvalid}
	}
	if r.Size() > 1<<31-1 {
		return nil, &fs.PathError{Op: "read", Path: name, Err: fmt.Errorf("%d bytes do not fit in memory", r.Size())}
	}
	b := make([]byte, r.Size())
	if _, err := io.ReadFull(r, b); err != nil {
		return nil, &fs.PathError{Op: "read", Path: name, Err: err}
	}
	return b, nil
}

// ReadDir implements fs.ReadDirFS.
func (f *chainFS) ReadDir(name string) ([]fs.DirEntry, error) {
	i, err := f.walk("readdir", name, true)
	if err != nil {
		return nil, err
	}
	info := f.info(i, name)
	if !info.IsDir() {
		return nil, &fs.PathError{Op: "readdir", Path: name, Err: fs.ErrInvalid}
	}
	return f.list(string(info.m.Path)), nil
}

func (f *chainFS) list(dir string) []fs.DirEntry {
	kids := f.children(dir)
	es := make([]fs.DirEntry, len(kids))
	for j, i := range kids {
		es[j] = fs.FileInfoToDirEntry(f.info(i, string(f.e.snap.Members[i].Path)))
	}
	slices.SortFunc(es, func(a, b fs.DirEntry) int { return strings.Compare(a.Name(), b.Name()) })
	return es
}

type openFile struct {
	*io.SectionReader
	file *File
	info *memberInfo
}

// DataAt is that of File: who reads a disk asks for its holes.
func (o *openFile) DataAt(off int64) (start, end int64, err error) { return o.file.DataAt(off) }

// Ahead is that of File.
func (o *openFile) Ahead() formats.Ahead { return o.file.Ahead() }

func (o *openFile) Stat() (fs.FileInfo, error) { return o.info, nil }
func (o *openFile) Close() error               { return nil }

type openDir struct {
	f    *chainFS
	name string
	info *memberInfo
	list []fs.DirEntry
	at   int
	read bool
}

func (o *openDir) Stat() (fs.FileInfo, error) { return o.info, nil }
func (o *openDir) Close() error               { return nil }
func (o *openDir) Read([]byte) (int, error) {
	return 0, &fs.PathError{Op: "read", Path: o.name, Err: fs.ErrInvalid}
}

// ReadDir implements fs.ReadDirFile.
func (o *openDir) ReadDir(n int) ([]fs.DirEntry, error) {
	if !o.read {
		o.list, o.read = o.f.list(string(o.info.m.Path)), true
	}
	rest := o.list[o.at:]
	if n > 0 {
		if len(rest) == 0 {
			return nil, io.EOF
		}
		rest = rest[:min(n, len(rest))]
	}
	o.at += len(rest)
	return slices.Clone(rest), nil
}

// memberInfo is an fs.FileInfo. Of is the file that a hard link names, else m itself.
type memberInfo struct {
	name string
	m    *manifest.Member
	of   *manifest.Member
}

func (i *memberInfo) member() *manifest.Member {
	if i.of != nil {
		return i.of
	}
	return i.m
}

func (i *memberInfo) Name() string       { return i.name }
func (i *memberInfo) Size() int64        { return i.member().Size }
func (i *memberInfo) ModTime() time.Time { return i.member().ModTime.Time }
func (i *memberInfo) IsDir() bool        { return i.m.Type == manifest.Dir }
func (i *memberInfo) Sys() any           { return i.m }

func (i *memberInfo) Mode() fs.FileMode {
	m := i.member()
	mode := fs.FileMode(m.Mode & 0o777)
	for bit, f := range map[manifest.Mode]fs.FileMode{0o4000: fs.ModeSetuid, 0o2000: fs.ModeSetgid, 0o1000: fs.ModeSticky} {
		if m.Mode&bit != 0 {
			mode |= f
		}
	}
	switch m.Type {
	case manifest.Dir:
		mode |= fs.ModeDir
	case manifest.Symlink:
		mode |= fs.ModeSymlink
	case manifest.Fifo:
		mode |= fs.ModeNamedPipe
	}
	return mode
}
