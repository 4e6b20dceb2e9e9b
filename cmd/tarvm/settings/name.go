package settings

import (
	"fmt"
	"strings"
	"unicode"
	"unicode/utf8"
)

// maxName is the greatest length of a name in bytes.
const maxName = 64

// maxProject is that of a project's, which is a folder's name in the repository.
const maxProject = 100

// CheckName says whether something can be called name: letters and digits of any script, _, - and . are what it is
// made of, and blanks within a project's, which may come from a directory. It must not look like an entry's number or a
// flag. The error is a *NameError.
func CheckName(kind Kind, name string) error {
	fail := func(format string, args ...any) error {
		return &NameError{kind, name, fmt.Sprintf(format, args...)}
	}
	most, blanks := maxName, ""
	if kind == Project {
		most, blanks = maxProject, " "
	}
	switch {
	case name == "":
		return fail("a name has at least one character")
	case len(name) > most:
		return fail("a name has at most %d bytes, not %d", most, len(name))
	case strings.Trim(name, " ") != name:
		return fail("a name neither begins nor ends with a blank")
	case !utf8.ValidString(name):
		return fail("is not UTF-8")
	case strings.HasPrefix(name, "-"):
		return fail("would be taken for a flag")
	case strings.Trim(name, ".") == "":
		return fail("would be taken for a directory")
	}
	digits := true
	for _, r := range name {
		if !unicode.In(r, unicode.L, unicode.M, unicode.N) && !strings.ContainsRune("_.-"+blanks, r) {
			return fail("%q is no character of a name: letters, digits, _, - and . are", r)
		}
		digits = digits && unicode.IsNumber(r)
	}
	if digits {
		return fail("only digits would be taken for the number of an entry")
	}
	return nil
}

// MakeName makes a name out of any text, such as that of a directory; or when nothing of it can be in a name.
func MakeName(kind Kind, text, or string) string {
	name := strings.Map(func(r rune) rune {
		if r != utf8.RuneError && CheckName(kind, "x"+string(r)) == nil {
			return r
		}
		return '-'
	}, text)
	name = strings.Trim(name, "-. ")
	for len(name) > maxName {
		_, n := utf8.DecodeLastRuneInString(name)
		name = name[:len(name)-n]
	}
	if CheckName(kind, name) != nil {
		return or
	}
	return name
}
