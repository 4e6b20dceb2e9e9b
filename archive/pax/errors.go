package pax

import (
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"
)

var (
	// ErrHeader marks a header, record or map that breaks the format, or that readers in use take differently.
	ErrHeader = errors.New("invalid tar header")
	// ErrTruncated marks an archive that ends inside a member. It is an io.ErrUnexpectedEOF.
	ErrTruncated = fmt.Errorf("archive ends inside a member: %w", io.ErrUnexpectedEOF)
	// ErrNoEnd marks an archive that ends cleanly after a member but without its two blocks of zeros: all members so
	// far are whole, but more may be missing. It is an io.ErrUnexpectedEOF.
	ErrNoEnd = fmt.Errorf("archive ends without its end mark, members may be missing: %w", io.ErrUnexpectedEOF)
	// ErrTooLarge marks what is past a limit: of this package, or of the form.
	ErrTooLarge = errors.New("too large")
	// ErrUnsupported marks a form this package does not know.
	ErrUnsupported = errors.New("unsupported tar form")
	// ErrUnsafeName marks a name that CheckName refuses.
	ErrUnsafeName = errors.New("unsafe name")
)

// A FormatError says what is wrong and where.
type FormatError struct {
	Offset int64  // in the tar stream; -1 when writing
	Member string // as far as known
	Field  string // header field, record key or part, such as "checksum" or "sparse map"
	Err    error  // wraps a sentinel of this package, or the source's own error
}

func (e *FormatError) Error() string {
	var b strings.Builder
	b.WriteString("tar")
	if e.Member != "" {
		b.WriteString(" member ")
		b.WriteString(strconv.Quote(e.Member[:min(len(e.Member), 256)]))
	}
	if e.Field != "" {
		b.WriteString(": ")
		b.WriteString(e.Field)
	}
	if e.Offset >= 0 {
		b.WriteString(" at byte ")
		b.WriteString(strconv.FormatInt(e.Offset, 10))
	}
	b.WriteString(": ")
	b.WriteString(e.Err.Error())
	return b.String()
}

func (e *FormatError) Unwrap() error { return e.Err }

// recordField names a record in a FormatError; keys are as hostile as names.
func recordField(key string) string {
	if key == "" {
		return "record"
	}
	return "record " + strconv.Quote(clip(key))
}

// clip keeps hostile values out of long messages.
func clip(s string) string { return s[:min(len(s), 40)] }

func headerErr(format string, args ...any) error {
	return fmt.Errorf("%w: %s", ErrHeader, fmt.Sprintf(format, args...))
}

func tooLarge(format string, args ...any) error {
	return fmt.Errorf("%w: %s", ErrTooLarge, fmt.Sprintf(format, args...))
}

// A NameError says why a name is unsafe to use below a folder. It is an ErrUnsafeName.
type NameError struct {
	Name   string
	Reason string
}

func (e *NameError) Error() string {
	return "unsafe name " + strconv.Quote(e.Name[:min(len(e.Name), 256)]) + ": " + e.Reason
}

func (e *NameError) Unwrap() error { return ErrUnsafeName }

func unsupported(format string, args ...any) error {
	return fmt.Errorf("%w: %s", ErrUnsupported, fmt.Sprintf(format, args...))
}
