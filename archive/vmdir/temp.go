package vmdir

import (
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

// Temp returns a name beside path for what is to become path: .BASE.tarvm-XXXXXXXX, X a random hexadecimal digit.
// Whoever makes it claims it: see Claim.
func Temp(path string) string {
	return fmt.Sprintf("%s%08x", tempPrefix(path), rand.Uint32())
}

func tempPrefix(path string) string {
	return filepath.Join(filepath.Dir(path), "."+filepath.Base(path)+".tarvm-")
}

// SweepTemp has remove take away what killed processes left of path under names of Temp: the files, or the
// directories, that nobody has claimed. It returns the first error of remove, and stops there.
func SweepTemp(path string, dirs bool, remove func(name string) error) error {
	up := filepath.Dir(path)
	list, err := os.ReadDir(up)
	if err != nil {
		return err
	}
	prefix := filepath.Base(tempPrefix(path))
	for _, e := range list {
		rest, ok := strings.CutPrefix(e.Name(), prefix)
		if _, err := strconv.ParseUint(rest, 16, 32); !ok || err != nil || len(rest) != 8 {
			continue
		}
		if t := e.Type(); t != 0 && t != fs.ModeDir || e.IsDir() != dirs {
			continue
		}
		if err := sweepOne(filepath.Join(up, e.Name()), remove); err != nil {
			return err
		}
	}
	return nil
}

func sweepOne(name string, remove func(name string) error) error {
	f, err := os.Open(name)
	if err != nil {
		return nil // it has gone, or is not ours
	}
	if Claim(f) != nil {
		f.Close()
		return nil
	}
	// Claimed while it goes, so that nobody takes it up.
	err = remove(name)
	f.Close()
	if err != nil {
		err = remove(name) // some systems remove nothing that is open
	}
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}
