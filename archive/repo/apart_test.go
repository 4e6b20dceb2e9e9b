package repo_test

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"tarvm/archive/repo"
)

// A machine's directory is not the repository, not in it and not around it, wherever links lead; a directory beside it, with a
// name that begins like its own, is.
func TestApart(t *testing.T) {
	dir := t.TempDir()
	r := open(t, filepath.Join(dir, "repo"))
	if err := os.Symlink("repo", filepath.Join(dir, "link")); err != nil {
		t.Skip(err)
	}
	for name, want := range map[string]string{
		"repo": "is the repository", "link": "is the repository", "repo/x/y": "is in the repository", "link/x": "is in the repository",
		"repo/entries": "is in the repository", "": "holds the repository", "repository": "", "vm": "", "repo/../vm": "", "..repo": "",
	} {
		err := r.Apart(filepath.Join(dir, name))
		var overlap *repo.OverlapError
		switch {
		case want == "" && err != nil:
			t.Errorf("%s: %v", name, err)
		case want != "" && (!errors.As(err, &overlap) || !strings.Contains(err.Error(), want)):
			t.Errorf("%s: %v, want %q", name, err, want)
		}
	}
	if _, err := r.Save(t.Context(), dir, repo.SaveOptions{}); !errors.As(err, new(*repo.OverlapError)) {
		t.Errorf("saving what holds the repository: %v", err)
	}
}
