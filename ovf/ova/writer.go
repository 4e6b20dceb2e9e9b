package ova

import (
	"archive/tar"
	"bytes"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"tarvm/ovf"
)

// Errors of a Writer; test with errors.Is.
var (
	// ErrName: a name that some importer cannot take.
	ErrName = errors.New("name is not for an OVA")
	// ErrPipe: a size or a content that is known only later, and an output that cannot go back.
	ErrPipe = errors.New("the size must be known before, as the output cannot go back")
	// ErrWrite: bytes beyond a member's size, or too few.
	ErrWrite = errors.New("member has another size")
)

// maxOctal is the largest size in a ustar header's eleven octal digits.
const maxOctal = 1<<33 - 1

// WriterOptions are what the headers of all members say. The zero value is user and group 0, mode 0644, and 1970, or what
// SetTime says.
type WriterOptions struct {
	ModTime  time.Time // in whole seconds; what is less is cut off. From 1970 to 2242
	UID, GID int       // at most 2097151 (seven octal digits)
	// Mode is the permissions; 0: 0644.
	Mode int64
}

// A Writer writes an OVA: members one after the other, front to back. Its first error stays. It is not for several
// goroutines at once.
type Writer struct {
	w    io.Writer
	at   io.WriterAt
	off  int64 // bytes written
	opts WriterOptions
	err  error

	names map[string]bool
	// The member that is being written.
	name  string
	time  time.Time // of those that are begun from here on
	start int64     // of its header
	size  int64     // -1: known at its end
	n     int64
	open  bool
	holes map[*Hole]bool
}

// NewWriter returns a Writer to a pipe.
func NewWriter(w io.Writer, o WriterOptions) *Writer {
	return &Writer{w: w, opts: o, names: make(map[string]bool), holes: make(map[*Hole]bool)}
}

// NewWriterAt returns a Writer that can go back, such as to an *os.File; it writes from byte 0.
func NewWriterAt(at io.WriterAt, o WriterOptions) *Writer {
	w := NewWriter(nil, o)
	w.at = at
	return w
}

// CanSeek reports whether sizes and reserved content may be given later.
func (w *Writer) CanSeek() bool { return w.at != nil }

// SetTime gives members that are begun from here on a time of their own, unless WriterOptions.ModTime is that of all. One
// that a header has no room for is 1970. It is for between members: a size that is known later is written with the time.
func (w *Writer) SetTime(t time.Time) {
	if !w.opts.ModTime.IsZero() {
		return
	}
	if err := w.finish(); err != nil {
		return // it stays
	}
	w.time = time.Unix(0, 0)
	if n := t.Unix(); n > 0 && n <= maxOctal {
		w.time = time.Unix(n, 0)
	}
}

// Next begins a member of size bytes, which are then written with Write. With a negative size it is what will have been
// written; the error is ErrPipe if the output cannot go back. The name is checked: see CheckName.
func (w *Writer) Next(name string, size int64) error {
	if err := w.finish(); err != nil {
		return err
	}
	if size < 0 && w.at == nil {
		return w.fail(fmt.Errorf("%s: %w", name, ErrPipe))
	}
	if err := CheckName(name); err != nil {
		return w.fail(err)
	}
	if w.names[name] {
		return w.fail(fmt.Errorf("%w: %q is there already", ErrName, name))
	}
	w.names[name] = true
	h, err := w.header(name, max(size, 0))
	if err != nil {
		return w.fail(err)
	}
	w.name, w.start, w.size, w.n, w.open = name, w.off, size, 0, true
	return w.put(h)
}

// Write writes bytes of the current member.
func (w *Writer) Write(b []byte) (int, error) {
	if w.err != nil {
		return 0, w.err
	}
	if !w.open {
		return 0, w.fail(fmt.Errorf("%w: no member was begun", ErrWrite))
	}
	if w.size >= 0 && int64(len(b)) > w.size-w.n {
		return 0, w.fail(fmt.Errorf("%s: %w: more than its %d bytes", w.name, ErrWrite, w.size))
	}
	if err := w.put(b); err != nil {
		return 0, err
	}
	w.n += int64(len(b))
	return len(b), nil
}

// A Hole is a member whose content is known later.
type Hole struct {
	w    *Writer
	name string
	off  int64 // of the content
	size int64
}

// Reserve makes a member of size bytes that is filled in later: the envelope and the manifest come first, and say what is
// known only when all others are written. It is ErrPipe on an output that cannot go back.
func (w *Writer) Reserve(name string, size int64) (*Hole, error) {
	if w.at == nil {
		if w.err != nil {
			return nil, w.err
		}
		return nil, w.fail(fmt.Errorf("%s: %w", name, ErrPipe))
	}
	if size < 0 {
		return nil, w.fail(fmt.Errorf("%s: %w: %d", name, ErrWrite, size))
	}
	if err := w.Next(name, size); err != nil {
		return nil, err
	}
	h := &Hole{w: w, name: name, off: w.off, size: size}
	w.off += size
	w.n = size
	w.holes[h] = true
	return h, w.finish()
}

// Fill writes the content, which must have the reserved size.
func (h *Hole) Fill(b []byte) error {
	if h.w.err != nil {
		return h.w.err
	}
	if !h.w.holes[h] || int64(len(b)) != h.size {
		return h.w.fail(fmt.Errorf("%s: %w: %d bytes for %d that were reserved", h.name, ErrWrite, len(b), h.size))
	}
	if _, err := h.w.at.WriteAt(b, h.off); err != nil {
		return h.w.fail(err)
	}
	delete(h.w.holes, h)
	return nil
}

// Close ends the archive with zeros up to a multiple of 10240 bytes, at least 1024, as tar does. It does not close the output. It
// fails when a reserved member was not filled.
func (w *Writer) Close() error {
	if err := w.finish(); err != nil {
		return err
	}
	for h := range w.holes {
		return w.fail(fmt.Errorf("%s: %w: nothing for %d bytes that were reserved", h.name, ErrWrite, h.size))
	}
	end := w.off + 2*tarBlock
	end = (end + tarRecord - 1) / tarRecord * tarRecord
	if err := w.put(make([]byte, end-w.off)); err != nil {
		return err
	}
	w.err = errors.New("archive is closed")
	return nil
}

// finish pads the current member and writes its size.
func (w *Writer) finish() error {
	if w.err != nil || !w.open {
		return w.err
	}
	w.open = false
	if w.size >= 0 && w.n != w.size {
		return w.fail(fmt.Errorf("%s: %w: %d bytes of its %d", w.name, ErrWrite, w.n, w.size))
	}
	if err := w.put(make([]byte, -w.off&(tarBlock-1))); err != nil {
		return err
	}
	if w.size >= 0 {
		return nil
	}
	h, err := w.header(w.name, w.n)
	if err != nil {
		return w.fail(err)
	}
	if _, err := w.at.WriteAt(h, w.start); err != nil {
		return w.fail(err)
	}
	return nil
}

// put writes at the end.
func (w *Writer) put(b []byte) error {
	var n int
	var err error
	if w.at != nil {
		n, err = w.at.WriteAt(b, w.off)
	} else {
		n, err = w.w.Write(b)
	}
	w.off += int64(n)
	if err != nil {
		return w.fail(err)
	}
	return nil
}

func (w *Writer) fail(err error) error {
	if w.err == nil {
		w.err = err
	}
	return w.err
}

// header returns a member's one header block.
func (w *Writer) header(name string, size int64) ([]byte, error) {
	h := tar.Header{
		Typeflag: tar.TypeReg, Name: name, Size: size, Mode: w.opts.Mode, Uid: w.opts.UID, Gid: w.opts.GID,
		ModTime: time.Unix(0, 0), Format: tar.FormatUSTAR,
	}
	switch {
	case !w.opts.ModTime.IsZero():
		h.ModTime = time.Unix(w.opts.ModTime.Unix(), 0) // a fraction would need PAX
	case !w.time.IsZero():
		h.ModTime = w.time
	}
	if h.Mode == 0 {
		h.Mode = 0o644
	}
	if size > maxOctal {
		h.Format = tar.FormatGNU
	}
	var b bytes.Buffer
	if err := tar.NewWriter(&b).WriteHeader(&h); err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	if b.Len() != tarBlock {
		return nil, fmt.Errorf("%w: %q needs more than one header", ErrName, name)
	}
	return b.Bytes(), nil
}

const maxName = 100 // bytes in a tar header's first field; Xen Orchestra does not read the second

// badInName are the characters with which importers or their hosts have trouble: separators, the wildcards of Go's
// path.Match, by which govc looks for a member, what Windows has in no file's name, and % and #, which mean something
// else in an href.
const badInName = `/\:*?[]"<>|%#`

// CheckName reports ErrName unless all importers take the name of a member: a base name of up to 100 printable ASCII
// characters, not beginning with a dot, and without path separators, wildcards, quotes and the like.
func CheckName(name string) error {
	switch {
	case name == "" || len(name) > maxName:
		return fmt.Errorf("%w: %.120q has %d bytes, 1 to %d are possible", ErrName, name, len(name), maxName)
	case name[0] == '.' || name[0] == ' ' || name[len(name)-1] == ' ' || name[len(name)-1] == '.':
		return fmt.Errorf("%w: %q has a dot or a space at its start or end", ErrName, name)
	}
	for i := range len(name) {
		if c := name[i]; c < ' ' || c > '~' || strings.IndexByte(badInName, c) >= 0 {
			return fmt.Errorf("%w: %q holds %q", ErrName, name, rune(c))
		}
	}
	return nil
}

// SafeName returns name if CheckName accepts it and it is not in taken, else one that is near it and is not in taken.
func SafeName(name string, taken map[string]bool) string {
	name = name[strings.LastIndexAny(name, `/\`)+1:]
	b := []rune(name)
	for i, c := range b {
		if c < ' ' || c > '~' || strings.ContainsRune(badInName, c) {
			b[i] = '_'
		}
	}
	name = strings.TrimRight(strings.TrimLeft(string(b), ". "), ". ")
	if name == "" {
		name = "file"
	}
	stem, ext := name, ""
	if i := strings.LastIndexByte(name, '.'); i > 0 && len(name)-i <= 12 {
		stem, ext = name[:i], name[i:]
	}
	const room = 8 // for a number
	stem = strings.TrimRight(stem[:min(len(stem), maxName-len(ext)-room)], ". ")
	if len(name) > maxName {
		name = stem + ext
	}
	for i := 2; taken[name]; i++ {
		name = fmt.Sprintf("%s-%d%s", stem, i, ext)
	}
	return name
}

// Pad returns a text of exactly size bytes: b and newlines behind it. It is an error if b is longer. An envelope says how
// large the others are, and comes before them: its room is what the same text takes with sizes of 20 digits, and what
// is left of that is filled so, also where the sizes are known before, that the bytes are always the same.
func Pad(b []byte, size int64) ([]byte, error) {
	n := size - int64(len(b))
	if n < 0 {
		return nil, fmt.Errorf("%w: %d bytes for %d that were reserved", ErrWrite, len(b), size)
	}
	out := bytes.Clone(b)
	return append(out, bytes.Repeat([]byte{'\n'}, int(n))...), nil
}

// ManifestSize is the number of bytes of a manifest with these files, before their digests are known. It is 0 for an
// algorithm that is not known.
func ManifestSize(a ovf.Algorithm, names []string) int64 {
	h := a.New()
	if h == nil {
		return 0
	}
	var b []byte
	for _, n := range names {
		b = ovf.AppendDigest(b, ovf.Digest{Algorithm: a, Name: n, Sum: make([]byte, h.Size())})
	}
	return int64(len(b))
}
