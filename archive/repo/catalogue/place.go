package catalogue

import (
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"net/url"
	"path"
	"path/filepath"
	"runtime"
	"strings"
)

// A Place is where a file is: at an http or https URL, or below a directory of this machine.
type Place struct {
	URL *url.URL // nil: a file
	Dir string   // a directory, which links do not lead out of
	// Name is the file's path below Dir, with slashes.
	Name string
}

// String returns the place for messages: of URLs without user, password and query.
func (p Place) String() string {
	if p.URL != nil {
		return bare(p.URL)
	}
	return filepath.Join(p.Dir, filepath.FromSlash(p.Name))
}

// bare leaves out of a URL what may be secret.
func bare(u *url.URL) string {
	b := url.URL{Scheme: u.Scheme, Host: u.Host, Path: u.Path, RawPath: u.RawPath}
	return b.String()
}

// display returns the text of a URL without what may be secret.
func display(s string) string {
	u, err := url.Parse(s)
	if err != nil {
		return ""
	}
	return bare(u)
}

// ParsePlace reads what a person gives: an http, https or file URL, or a path.
func ParsePlace(where string) (Place, error) {
	scheme, _, found := strings.Cut(where, "://")
	if !found || strings.ContainsAny(scheme, `/\`) {
		return fileAt(where)
	}
	u, err := url.Parse(where)
	if err != nil {
		// Its text has the whole URL.
		return Place{}, errors.New("catalogue: the URL cannot be read")
	}
	switch {
	case u.Scheme == "http" || u.Scheme == "https":
		if u.Hostname() == "" {
			return Place{}, fmt.Errorf("%s: the URL names no host", bare(u))
		}
		u.Fragment, u.RawFragment = "", ""
		return Place{URL: u}, nil
	case u.Scheme == "file" && (u.Host == "" || u.Host == "localhost"):
		p := u.Path
		if runtime.GOOS == "windows" {
			p = strings.TrimPrefix(p, "/") // file:///C:/x
		}
		return fileAt(filepath.FromSlash(p))
	case u.Scheme == "file":
		return Place{}, fmt.Errorf("%s: files of other machines cannot be read", bare(u))
	}
	return Place{}, fmt.Errorf("%.20q: want an http, https or file URL, or a path", scheme)
}

func fileAt(name string) (Place, error) {
	if name == "" || strings.ContainsRune(name, 0) {
		return Place{}, &fs.PathError{Op: "open", Path: name, Err: fs.ErrInvalid}
	}
	abs, err := filepath.Abs(name)
	if err != nil {
		return Place{}, err
	}
	return Place{Dir: filepath.Dir(abs), Name: filepath.Base(abs)}, nil
}

// absolute reports whether a URL of a catalogue has a scheme.
func absolute(s string) bool {
	scheme, _, ok := strings.Cut(s, ":")
	return ok && !strings.ContainsAny(scheme, "/?#")
}

// checkURL refuses what FORMAT.md section 3 does.
func checkURL(s string) error {
	if s == "" {
		return errors.New("is missing")
	}
	if len(s) > 8<<10 {
		return errors.New("is too long")
	}
	u, err := url.Parse(s)
	if err != nil {
		return errors.New("is not a URL")
	}
	if u.Fragment != "" || strings.Contains(s, "#") {
		return errors.New("has a fragment")
	}
	if u.Scheme != "" {
		switch {
		case u.Scheme != "http" && u.Scheme != "https":
			return errors.New("want http, https, or a path below the catalogue's directory")
		case u.User != nil:
			return errors.New("has a user's name: everyone can read catalogues")
		case u.Hostname() == "" || u.Opaque != "":
			return errors.New("names no host")
		}
		return nil
	}
	// One rule for all catalogues, so that one that is read over a network can be copied with its files and is still the same.
	if u.Host != "" || u.User != nil || u.RawQuery != "" || u.ForceQuery || !fs.ValidPath(u.Path) || u.Path == "." {
		return errors.New("want a path below the catalogue's directory, without . and .., and no query")
	}
	for _, r := range u.Path {
		if r < 0x20 || r == 0x7F || r == '\\' || r == ':' {
			return errors.New("has characters that paths cannot have everywhere")
		}
	}
	return nil
}

// FileName is what the file is stored as.
func (b *Blob) FileName() string {
	if b.Name != "" {
		return b.Name
	}
	u, err := url.Parse(b.URL)
	if err != nil || u.Path == "" {
		return ""
	}
	return path.Base(u.Path)
}

// Place returns where a file of the catalogue is.
func (c *Catalogue) Place(b *Blob) (Place, error) {
	if err := checkURL(b.URL); err != nil {
		return Place{}, fmt.Errorf("%s: %w", cmp.Or(display(b.URL), b.FileName()), err)
	}
	u, err := url.Parse(b.URL)
	if err != nil {
		return Place{}, fmt.Errorf("%s: is not a URL", b.FileName())
	}
	if u.Scheme != "" {
		return Place{URL: u}, nil
	}
	if c.Base.URL != nil {
		return Place{URL: c.Base.URL.ResolveReference(u)}, nil
	}
	if c.Base.Dir == "" {
		return Place{}, fmt.Errorf("%s: it is not known where the catalogue is that names it", b.URL)
	}
	if !filepath.IsLocal(filepath.FromSlash(u.Path)) {
		return Place{}, fmt.Errorf("%s: %w", u.Path, fs.ErrInvalid)
	}
	return Place{Dir: c.Base.Dir, Name: path.Join(path.Dir(c.Base.Name), u.Path)}, nil
}

// relativeURL returns the URL of a file beside a catalogue.
func relativeURL(name string) string { return (&url.URL{Path: name}).String() }
