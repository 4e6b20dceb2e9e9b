package pax

import "strings"

// CheckName reports, with a *NameError, why a member's name must not be joined to a folder on any system: it is empty,
// absolute, starts with a backslash or a drive (C:\, C:/ or C: alone), has a ".." component between slashes or
// backslashes, or holds a NUL. "." components pass. It knows nothing of symbolic links on the way: use os.Root.
func CheckName(name string) error {
	bad := func(reason string) error { return &NameError{Name: name, Reason: reason} }
	switch {
	case name == "":
		return bad("empty")
	case strings.IndexByte(name, 0) >= 0:
		return bad("holds a NUL byte")
	case isSlash(name[0]):
		return bad("absolute")
	case len(name) >= 2 && name[1] == ':' && isLetter(name[0]) && (len(name) == 2 || isSlash(name[2])):
		return bad("starts with a drive")
	}
	for rest := name; ; {
		i := strings.IndexAny(rest, `/\`)
		if i < 0 {
			if rest == ".." {
				return bad(`has a ".." component`)
			}
			return nil
		}
		if rest[:i] == ".." {
			return bad(`has a ".." component`)
		}
		rest = rest[i+1:]
	}
}

func isSlash(c byte) bool  { return c == '/' || c == '\\' }
func isLetter(c byte) bool { return c|0x20 >= 'a' && c|0x20 <= 'z' }
