//go:build !unix

package archivetest

import "io/fs"

func inode(fs.FileInfo) (id string, links uint64) { return "", 1 }

func owner(fs.FileInfo) string { return "" }
