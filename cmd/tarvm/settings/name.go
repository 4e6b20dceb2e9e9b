package settings

import (
	"fmt"
	"strings"
	"unicode"
	"unicode/utf8"
)

// maxName is the greatest length of a name in bytes.
const maxName = 64

// CheckName says whether something can be called name: letters and digits of any script, _, - and . are what it is
// made of. It must not look like an entry's number or a flag. The error is a *NameError.
func CheckName(kind Kind, name string) error {
	fail := func(format string, args ...any) error {
		return &NameError{kind, name, fmt.Sprintf(format, args...)}
	}
	switch {
	case name == "":
		return fail("a name has at least one character")
	case len(name) > maxName:
		return fail("a name has at most %d bytes, not %d", maxName, len(name))
	case !utf8.ValidString(name):
		return fail("is not UTF-8")
	case strings.HasPrefix(name, "-"):
		return fail("would be taken for a flag")
	case strings.Trim(name, ".") == "":
		return fail("would be taken for a directory")
	}
	digits := true
	for _, r := range name {
		if !unicode.In(r, unicode.L, unicode.M, unicode.N) && !strings.ContainsRune("_.-", r) {
			return fail("%q is no character of a name: letters, digits, _, - and . are", r)
		}
		digits = digits && unicode.IsNumber(r)
	}
	if digits {
		return fail("only digits would be taken for the number of an entry")
	}
	return nil
}
