package archive

import (
	"context"
	"fmt"
	"io"
	"time"

	"github.com/zeebo/blake3"

	"tarvm/archive/codec"
	"tarvm/archive/pax"
	"tarvm/delta"
	"tarvm/manifest"
)

// stream writes an archive from front to back, and accounts for every byte: what is not data under
// block or segment digests goes into the structure digest.
type stream struct {
	tap       *tap
	w         *codec.Writer
	c         codec.Codec
	structure *blake3.Hasher
	buf       []byte
	time      time.Time
}

// tap counts what goes to the output, and hashes it where asked to.
type tap struct {
	w io.Writer
	n int64
	h *blake3.Hasher
}

func (t *tap) Write(p []byte) (int, error) {
	n, err := t.w.Write(p)
	t.n += int64(n)
	if t.h != nil {
		_, _ = t.h.Write(p[:n])
	}
	if err == nil && n < len(p) {
		err = io.ErrShortWrite
	}
	return n, err
}

func newStream(ctx context.Context, out io.Writer, c codec.Codec, o codec.WriterOptions, t time.Time) (*stream, error) {
	s := &stream{tap: &tap{w: out}, c: c, structure: blake3.New(), time: memberTime(t)}
	w, err := codec.NewWriter(ctx, s.tap, c, o)
	if err != nil {
		return nil, err
	}
	s.w = w
	return s, nil
}

// memberTime is the time of members under .tarvm: whole seconds that fit a ustar header, which
// keeps the locator's header a single block.
func memberTime(t time.Time) time.Time {
	const last = 1<<33 - 1
	return time.Unix(min(max(t.Unix(), 0), last), 0).UTC()
}

func (s *stream) offset() int64 { return s.w.Offset() }

// meta writes bytes that the structure digest covers.
func (s *stream) meta(b []byte) error {
	_, _ = s.structure.Write(b)
	_, err := s.w.Write(b)
	return err
}

// data writes bytes that are covered by other digests.
func (s *stream) data(b []byte) error {
	_, err := s.w.Write(b)
	return err
}

// header writes a member's header.
func (s *stream) header(h *pax.Header) error {
	var err error
	s.buf, err = pax.AppendHeader(s.buf[:0], h)
	if err != nil {
		return err
	}
	return s.meta(s.buf)
}

// pad writes the zeros that follow n bytes of a member's data.
func (s *stream) pad(n int64) error {
	return s.meta(pax.AppendPadding(s.buf[:0], n))
}

// own returns the header of a member under .tarvm.
func (s *stream) own(name string, size int64) *pax.Header {
	return &pax.Header{Name: name, Type: pax.TypeReg, Mode: 0o644, Size: size, ModTime: s.time}
}

// file writes a small member under .tarvm.
func (s *stream) file(name string, b []byte) error {
	if err := s.header(s.own(name, int64(len(b)))); err != nil {
		return err
	}
	if err := s.meta(b); err != nil {
		return err
	}
	return s.pad(int64(len(b)))
}

// copy writes a member under .tarvm of n bytes from r, and returns where its body is.
func (s *stream) copy(name string, r io.Reader, n int64) (span, error) {
	if err := s.header(s.own(name, n)); err != nil {
		return span{}, err
	}
	body := span{s.offset(), n}
	buf := make([]byte, 256<<10)
	for left := n; left > 0; {
		k, err := io.ReadFull(r, buf[:min(left, int64(len(buf)))])
		if err != nil {
			return span{}, fmt.Errorf("%s: %w", name, err)
		}
		if err := s.meta(buf[:k]); err != nil {
			return span{}, err
		}
		left -= int64(k)
	}
	return body, s.pad(n)
}

// finish writes the table of frames, the locator and the end.
func (s *stream) finish(loc *locator) error {
	if err := s.w.Flush(); err != nil {
		return err
	}
	loc.Structure = delta.Digest(s.structure.Sum(nil))
	if s.c.Name() != "none" {
		frames := s.w.Frames()
		table := appendFrames(nil, frames)
		if len(table) > maxFrames*frameEntry {
			return fmt.Errorf("archive of %d frames: more than %d", len(frames), maxFrames)
		}
		b, err := pax.AppendHeader(nil, s.own(nameFrames, int64(len(table))))
		if err != nil {
			return err
		}
		b = append(b, table...)
		b = pax.AppendPadding(b, int64(len(table)))
		loc.Frames = span{s.tap.n, 0}
		loc.FramesDecoded = s.offset()
		s.tap.h = blake3.New()
		if err := s.w.WriteFrame(b); err != nil {
			return err
		}
		loc.Frames.Length = s.tap.n - loc.Frames.Offset
		loc.Framed = delta.Digest(s.tap.h.Sum(nil))
		s.tap.h = nil
	} else {
		loc.Frames = span{s.tap.n, 0}
		loc.FramesDecoded = s.offset()
	}
	b, err := pax.AppendHeader(nil, s.own(nameLocator, locatorSize))
	if err != nil {
		return err
	}
	b = loc.append(b)
	b = pax.AppendEnd(b)
	if len(b) != tailSize {
		return fmt.Errorf("locator of %d bytes", len(b)) // memberTime prevents it
	}
	if err := s.w.WriteStored(b); err != nil {
		return err
	}
	if t := s.c.AppendTrailer(nil, s.w.Frames()); len(t) > 0 {
		if _, err := s.tap.Write(t); err != nil {
			return err
		}
	}
	return s.w.Close()
}

// toHeader is the tar header of a member.
func toHeader(m *manifest.Member) *pax.Header {
	h := &pax.Header{
		Name: string(m.Path), Mode: int64(m.Mode), UID: m.UID, GID: m.GID, Uname: m.User, Gname: m.Group,
		ModTime: m.ModTime.Time, Linkname: string(m.Target),
	}
	switch m.Type {
	case manifest.File:
		h.Type, h.Size = pax.TypeReg, m.Size
	case manifest.Dir:
		h.Type = pax.TypeDir
	case manifest.Symlink:
		h.Type = pax.TypeSymlink
	case manifest.Link:
		h.Type = pax.TypeLink
	case manifest.Fifo:
		h.Type = pax.TypeFifo
	}
	if len(m.Xattrs) > 0 {
		h.Xattrs = make(map[string]string, len(m.Xattrs))
		for k, v := range m.Xattrs {
			h.Xattrs[k] = string(v)
		}
		for _, a := range aclRecords {
			if text := aclText(h.Xattrs[a.xattr]); text != "" {
				setRecord(h, a.record, text)
			}
		}
	}
	return h
}

func setRecord(h *pax.Header, key, value string) {
	if h.Records == nil {
		h.Records = make(map[string]string)
	}
	h.Records[key] = value
}
