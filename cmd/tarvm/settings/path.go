package settings

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"unicode"
)

// Variables of the environment that go before the file.
const (
	EnvConfig     = "TARVM_CONFIG" // the file itself
	EnvRepository = "TARVM_REPO"
	EnvArea       = "TARVM_AREA"
	EnvProject    = "TARVM_PROJECT"
)

// Path returns where the file is, whether or not it is there: what TARVM_CONFIG says, else tarvm/config.toml in
// XDG_CONFIG_HOME or ~/.config; on macOS in ~/Library/Application Support, on Windows in %AppData%.
func Path() (string, error) {
	if p := os.Getenv(EnvConfig); p != "" {
		return filepath.Abs(p)
	}
	dir, err := os.UserConfigDir()
	if err != nil {
		return "", fmt.Errorf("settings: %w: %s names a file", err, EnvConfig)
	}
	return filepath.Join(dir, "tarvm", "config.toml"), nil
}

// StatePath returns where what tarvm remembers of a thing is kept. The kind is a directory below tarvm in
// XDG_STATE_HOME or ~/.local/state; on macOS and Windows in state beside the settings. The key is the path, relative
// paths being made absolute, of what is remembered; other strings will do as well. Nothing is made.
func StatePath(kind, key string) (string, error) {
	dir, err := stateDir()
	if err != nil {
		return "", fmt.Errorf("state: %w", err)
	}
	if key, err = filepath.Abs(key); err != nil {
		return "", fmt.Errorf("state: %w", err)
	}
	// The digest is what counts; the rest is for people.
	readable := strings.Map(func(r rune) rune {
		if r == '-' || r == '_' || r < unicode.MaxASCII && (unicode.IsLetter(r) || unicode.IsDigit(r)) {
			return r
		}
		return '_'
	}, filepath.Base(key))
	sum := sha256.Sum256([]byte(key))
	return filepath.Join(dir, kind, readable[:min(len(readable), 40)]+"-"+hex.EncodeToString(sum[:16])), nil
}

func stateDir() (string, error) {
	if runtime.GOOS == "windows" || runtime.GOOS == "darwin" {
		dir, err := os.UserConfigDir()
		return filepath.Join(dir, "tarvm", "state"), err
	}
	// The specification has relative ones ignored.
	if dir := os.Getenv("XDG_STATE_HOME"); filepath.IsAbs(dir) {
		return filepath.Join(dir, "tarvm"), nil
	}
	home, err := os.UserHomeDir()
	return filepath.Join(home, ".local", "state", "tarvm"), err
}

// expand replaces a leading ~/ by the user's home. Directories must then be absolute.
func expand(dir string) (string, error) {
	if strings.ContainsRune(dir, 0) {
		return "", errors.New("holds a byte 0")
	}
	if rest, ok := strings.CutPrefix(dir, "~"); ok && (rest == "" || os.IsPathSeparator(rest[0])) {
		home, err := os.UserHomeDir()
		if err != nil {
			return "", err
		}
		dir = filepath.Join(home, rest)
	}
	switch {
	case dir == "":
		return "", errors.New("is empty")
	case !filepath.IsAbs(dir):
		return "", fmt.Errorf("%q is neither absolute nor begins with ~/", dir)
	}
	return filepath.Clean(dir), nil
}
