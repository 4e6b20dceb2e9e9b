package opendir_test

import (
	"errors"
	"io"
	"io/fs"
	"testing"
	"testing/fstest"

	"tarvm/ovf/internal/opendir"
)

func TestDir(t *testing.T) {
	files := fstest.MapFS{"d/a": {}, "d/b": {}, "d/c": {}}
	info, err := files.Stat("d")
	if err != nil {
		t.Fatal(err)
	}
	list, err := files.ReadDir("d")
	if err != nil {
		t.Fatal(err)
	}
	var d fs.ReadDirFile = &opendir.Dir{Info: info, Entries: list}
	if i, err := d.Stat(); err != nil || i.Name() != "d" || !i.IsDir() {
		t.Error(i, err)
	}
	if _, err := d.Read(make([]byte, 1)); !errors.Is(err, fs.ErrInvalid) {
		t.Error(err)
	}
	var names string
	for {
		part, err := d.ReadDir(2)
		for _, e := range part {
			names += e.Name()
		}
		if len(part) > 0 {
			part[0] = nil // it is the caller's
		}
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil || len(part) == 0 || len(part) > 2 {
			t.Fatal(part, err)
		}
	}
	if names != "abc" || list[0] == nil {
		t.Errorf("%q", names)
	}
	if rest, err := d.ReadDir(-1); err != nil || len(rest) != 0 {
		t.Error(rest, err)
	}
	if err := d.Close(); err != nil {
		t.Error(err)
	}
}
