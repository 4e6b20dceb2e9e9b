package vmdir_test

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"tarvm/archive/vmdir"
)

// TestSweepTemp: what nobody claims goes, and only that: not what is claimed, of another kind, or somebody else's.
func TestSweepTemp(t *testing.T) {
	for _, dirs := range []bool{false, true} {
		dir := t.TempDir()
		path := filepath.Join(dir, "disk")
		put := func(name string, asDir bool) string {
			if asDir {
				if err := os.Mkdir(name, 0o700); err != nil {
					t.Fatal(err)
				}
			} else if err := os.WriteFile(name, nil, 0o600); err != nil {
				t.Fatal(err)
			}
			return name
		}
		left := put(vmdir.Temp(path), dirs)
		claimed := put(vmdir.Temp(path), dirs)
		f, err := os.Open(claimed)
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		if err := vmdir.Claim(f); err != nil {
			t.Fatal(err)
		}
		keep := []string{
			claimed,
			put(vmdir.Temp(path), !dirs),
			put(vmdir.Temp(path+"2"), dirs),
			put(left+"0", dirs),
			put(left[:len(left)-1]+"g", dirs),
			put(path, dirs),
		}
		if err := os.Symlink("nowhere", left[:len(left)-8]+"00000000"); err != nil {
			t.Fatal(err)
		}
		keep = append(keep, left[:len(left)-8]+"00000000")

		failed := errors.New("failed")
		var asked []string
		err = vmdir.SweepTemp(path, dirs, func(name string) error {
			asked = append(asked, name)
			return failed
		})
		if !errors.Is(err, failed) || !slices.Equal(asked, []string{left, left}) {
			t.Fatalf("dirs %v: %v, asked to remove %q", dirs, err, asked)
		}
		if err := vmdir.SweepTemp(path, dirs, os.Remove); err != nil {
			t.Fatal(err)
		}
		if _, err := os.Lstat(left); err == nil {
			t.Errorf("dirs %v: %s is still there", dirs, left)
		}
		for _, k := range keep {
			if _, err := os.Lstat(k); err != nil {
				t.Errorf("dirs %v: %v", dirs, err)
			}
		}
	}
}
