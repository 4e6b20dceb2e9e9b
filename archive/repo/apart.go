package repo

import (
	"fmt"
	"path/filepath"
	"strings"
)

// An OverlapError says that a directory with a machine holds the repository, or is in it: a restore would remove entries, and
// an entry would hold all earlier ones.
type OverlapError struct {
	Dir        string
	Repository string
}

func (e *OverlapError) Error() string {
	switch {
	case e.Dir == e.Repository:
		return fmt.Sprintf("%s: is the repository", e.Dir)
	case contains(e.Dir, e.Repository):
		return fmt.Sprintf("%s: holds the repository %s", e.Dir, e.Repository)
	}
	return fmt.Sprintf("%s: is in the repository %s", e.Dir, e.Repository)
}

// Apart returns an *OverlapError when one of a machine's directory and the repository is in the other, wherever symbolic
// links lead. The directory need not be there.
func (r *Repo) Apart(dir string) error {
	d, ok := r.m.(*Dir)
	if !ok {
		return nil
	}
	a, err := resolved(dir)
	if err != nil {
		return err
	}
	b, err := resolved(d.root)
	if err != nil {
		return err
	}
	if contains(a, b) || contains(b, a) {
		return &OverlapError{Dir: a, Repository: b}
	}
	return nil
}

// contains reports whether dir is path, or above it.
func contains(dir, path string) bool {
	rel, err := filepath.Rel(dir, path)
	return err == nil && rel != ".." && !strings.HasPrefix(rel, ".."+string(filepath.Separator))
}

// resolved returns a path without symbolic links, as far as it is there.
func resolved(path string) (string, error) {
	abs, err := filepath.Abs(path)
	if err != nil {
		return "", err
	}
	rest := ""
	for up := abs; ; up = filepath.Dir(up) {
		if real, err := filepath.EvalSymlinks(up); err == nil {
			return filepath.Join(real, rest), nil
		}
		if up == filepath.Dir(up) {
			return abs, nil
		}
		rest = filepath.Join(filepath.Base(up), rest)
	}
}
