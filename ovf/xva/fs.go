package xva

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"slices"
	"strings"
	"time"

	"tarvm/formats"
	"tarvm/ovf/internal/opendir"
)

// FS returns the package as a flat directory: ova.xml, efi-variables.bin where the firmware has variables, and each disk
// as its raw bytes, as if the machine were a directory of files. Files implement io.ReaderAt and io.Seeker; those of
// disks also Size and DataAt (see raw.Sparse), so that their holes are known. Closing a file does nothing. There are no
// times.
func (p *Package) FS() fs.FS {
	f := &packageFS{}
	add := func(name string, d formats.Source) { f.files = append(f.files, entry{name, d}) }
	add("ova.xml", bytes.NewReader(p.ova))
	if p.vars != nil {
		add(varsFile, bytes.NewReader(p.vars))
	}
	for _, d := range p.Disks {
		add(d.Name, &holes{d.Content, d.Image.Map})
	}
	for _, d := range p.Others {
		add(d.Name, &holes{d.Content, d.Image.Map})
	}
	slices.SortFunc(f.files, func(a, b entry) int { return strings.Compare(a.name, b.name) })
	return f
}

// holes is a disk that tells its holes.
type holes struct {
	formats.Disk
	m formats.Mapper
}

// DataAt implements raw.Sparse.
func (h *holes) DataAt(off int64) (start, end int64, err error) {
	size := h.Size()
	start = -1
	for at := off; at < size; {
		e, err := h.m.MapAt(at)
		if err != nil {
			return 0, 0, err
		}
		at = e.End()
		if e.Kind == formats.Hole {
			if start >= 0 {
				return start, e.Offset, nil
			}
			continue
		}
		if start < 0 {
			start = max(off, e.Offset)
		}
	}
	if start < 0 {
		start = size
	}
	return start, size, nil
}

type entry struct {
	name string
	src  formats.Source
}

func (e entry) Name() string               { return e.name }
func (e entry) Size() int64                { return e.src.Size() }
func (entry) Mode() fs.FileMode            { return 0o444 }
func (entry) ModTime() time.Time           { return time.Time{} }
func (entry) IsDir() bool                  { return false }
func (entry) Sys() any                     { return nil }
func (entry) Type() fs.FileMode            { return 0 }
func (e entry) Info() (fs.FileInfo, error) { return e, nil }

type rootInfo struct{}

func (rootInfo) Name() string       { return "." }
func (rootInfo) Size() int64        { return 0 }
func (rootInfo) Mode() fs.FileMode  { return fs.ModeDir | 0o555 }
func (rootInfo) ModTime() time.Time { return time.Time{} }
func (rootInfo) IsDir() bool        { return true }
func (rootInfo) Sys() any           { return nil }

type packageFS struct{ files []entry }

func (f *packageFS) find(op, name string) (entry, error) {
	if !fs.ValidPath(name) {
		return entry{}, &fs.PathError{Op: op, Path: name, Err: fs.ErrInvalid}
	}
	i, ok := slices.BinarySearchFunc(f.files, name, func(e entry, name string) int { return strings.Compare(e.name, name) })
	if !ok {
		return entry{}, &fs.PathError{Op: op, Path: name, Err: fs.ErrNotExist}
	}
	return f.files[i], nil
}

// Open implements fs.FS.
func (f *packageFS) Open(name string) (fs.File, error) {
	if name == "." {
		list, err := f.ReadDir(name)
		return &opendir.Dir{Info: rootInfo{}, Entries: list}, err
	}
	e, err := f.find("open", name)
	if err != nil {
		return nil, err
	}
	r := io.NewSectionReader(e.src, 0, e.src.Size())
	if h, ok := e.src.(*holes); ok {
		return &openDisk{openFile{r, e}, h}, nil
	}
	return &openFile{r, e}, nil
}

// ReadDir implements fs.ReadDirFS.
func (f *packageFS) ReadDir(name string) ([]fs.DirEntry, error) {
	if name != "." {
		if _, err := f.find("readdir", name); err != nil {
			return nil, err
		}
		return nil, &fs.PathError{Op: "readdir", Path: name, Err: errors.New("not a directory")}
	}
	list := make([]fs.DirEntry, len(f.files))
	for i, e := range f.files {
		list[i] = e
	}
	return list, nil
}

// Stat implements fs.StatFS.
func (f *packageFS) Stat(name string) (fs.FileInfo, error) {
	if name == "." {
		return rootInfo{}, nil
	}
	return f.find("stat", name)
}

// ReadFile implements fs.ReadFileFS. What does not fit in memory is an error.
func (f *packageFS) ReadFile(name string) ([]byte, error) {
	e, err := f.find("read", name)
	if err != nil {
		return nil, err
	}
	if e.Size() > 1<<31-1 {
		return nil, &fs.PathError{Op: "read", Path: name, Err: fmt.Errorf("%d bytes do not fit in memory", e.Size())}
	}
	b := make([]byte, e.Size())
	if _, err := io.ReadFull(io.NewSectionReader(e.src, 0, e.Size()), b); err != nil {
		return nil, &fs.PathError{Op: "read", Path: name, Err: err}
	}
	return b, nil
}

type openFile struct {
	*io.SectionReader
	e entry
}

func (o *openFile) Stat() (fs.FileInfo, error) { return o.e, nil }
func (o *openFile) Close() error               { return nil }

type openDisk struct {
	openFile
	h *holes
}

// DataAt implements raw.Sparse.
func (o *openDisk) DataAt(off int64) (start, end int64, err error) { return o.h.DataAt(off) }
