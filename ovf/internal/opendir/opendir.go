// Package opendir is a directory of a file system whose entries are all known when it is opened.
package opendir

import (
	"io"
	"io/fs"
	"slices"
)

// A Dir is an open directory. It implements fs.ReadDirFile.
type Dir struct {
	Info    fs.FileInfo
	Entries []fs.DirEntry // those that were not read yet, in their order
}

// Stat returns Info.
func (d *Dir) Stat() (fs.FileInfo, error) { return d.Info, nil }

// Close does nothing.
func (*Dir) Close() error { return nil }

// Read is an error.
func (d *Dir) Read([]byte) (int, error) {
	return 0, &fs.PathError{Op: "read", Path: d.Info.Name(), Err: fs.ErrInvalid}
}

// ReadDir implements fs.ReadDirFile.
func (d *Dir) ReadDir(n int) ([]fs.DirEntry, error) {
	rest := d.Entries
	if n > 0 {
		if len(rest) == 0 {
			return nil, io.EOF
		}
		rest = rest[:min(n, len(rest))]
	}
	d.Entries = d.Entries[len(rest):]
	return slices.Clone(rest), nil
}
