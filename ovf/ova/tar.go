package ova

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"strings"

	"tarvm/formats"
	"tarvm/ovf"
)

const (
	tarBlock = 512
	// tarRecord is what tar writes at once: archives are padded to it with zeros.
	tarRecord = 20 * tarBlock

	offName     = 0   // 100 bytes
	offSize     = 124 // 12 bytes, octal; or base 256 if the first bit is set
	offChecksum = 148 // 8 bytes, octal: the sum of the block's bytes with spaces here
	lenChecksum = 8
)

// A TarHeader is how a member lies in a tar archive.
type TarHeader struct {
	Offset int64  `json:"offset"` // of the content, from the archive's start, in bytes
	Form   string `json:"form"`   // v7, ustar, gnu, pax
	// Base256: the size is not in octal digits but binary, as GNU tar writes 8 GiB and more.
	Base256 bool `json:"base256,omitempty"`
	// Sparse: runs of zeros were left out.
	Sparse bool `json:"sparse,omitempty"`
}

func isTar(head []byte) bool {
	if len(head) < tarBlock || head[offName] == 0 {
		return false
	}
	sum := int64(0)
	for i, c := range head[:tarBlock] {
		if i >= offChecksum && i < offChecksum+lenChecksum {
			c = ' '
		}
		sum += int64(c)
	}
	digits := strings.Trim(string(head[offChecksum:offChecksum+lenChecksum]), " \x00")
	var n int64
	for _, c := range digits {
		if c < '0' || c > '7' {
			return false
		}
		n = n<<3 | int64(c-'0')
	}
	return digits != "" && n == sum
}

// openTar lists an archive that can be read at random.
func (p *Package) openTar(ctx context.Context, src formats.Source) error {
	r := io.NewSectionReader(src, 0, src.Size())
	pos := func() int64 {
		n, _ := r.Seek(0, io.SeekCurrent) // this cannot fail
		return n
	}
	if err := p.scanTar(ctx, r, src, pos, src.Size); err != nil {
		return err
	}
	p.Trailing = trailing(src, pos())
	return nil
}

// spoolTar copies an archive to a spool and lists it on the way. It stops at the archive's end, so that nothing behind
// that is unpacked.
func (p *Package) spoolTar(ctx context.Context, r io.Reader) error {
	s, err := p.spool("package.tar")
	if err != nil {
		return err
	}
	l := &limited{p: p, w: s}
	pos := func() int64 { return l.n }
	return p.scanTar(ctx, io.TeeReader(stopReader{ctx, r}, l), s, pos, pos)
}

// scanTar fills Members from an archive that r reads from the start; at reads what r has passed, and pos is where r is. If
// the archive ends too early, end says where.
func (p *Package) scanTar(ctx context.Context, r io.Reader, at io.ReaderAt, pos, end func() int64) error {
	p.Container = Tar
	t := tar.NewReader(r)
	seen := make(map[string]bool)
	global := false
	holes := int64(0) // what sparse members are, with their holes
	for headers := 0; ; headers++ {
		if err := ctx.Err(); err != nil {
			return err
		}
		if headers > maxMembers {
			return fmt.Errorf("%w: more than %d members", ErrLimit, maxMembers)
		}
		h, err := t.Next()
		switch {
		case errors.Is(err, io.EOF):
			if most := MostUnpacked(pos()); holes > most {
				return fmt.Errorf("%w: sparse members of %d bytes, in an archive of %d", ErrLimit, holes, pos())
			}
			return nil
		case errors.Is(err, tar.ErrInsecurePath): // a build may have asked for that; names are looked at below
		case errors.Is(err, io.ErrUnexpectedEOF):
			return p.cut(end())
		case err != nil:
			return fmt.Errorf("tar, at byte %d: %w", pos(), damage(err))
		}
		switch h.Typeflag {
		case tar.TypeXGlobalHeader:
			global = true
			continue
		case tar.TypeDir:
			if name := strings.TrimRight(h.Name, "/"); name != "" && name != "." {
				if _, err := cleanName(name); err != nil {
					return err
				}
			}
			continue
		case tar.TypeReg, tar.TypeGNUSparse:
		default:
			return fmt.Errorf("%w: member %.200q is not a file but of type %q", ovf.ErrUnsafe, h.Name, h.Typeflag)
		}
		name, err := cleanName(h.Name)
		if err != nil {
			return err
		}
		if seen[name] {
			return fmt.Errorf("%w: member %.200q is there twice", ErrCorrupt, name)
		}
		seen[name] = true
		m := Member{Name: h.Name, Path: name, Size: h.Size, Time: h.ModTime, Tar: &TarHeader{Offset: pos(), Form: "v7"}}
		switch {
		case h.Format == tar.FormatPAX || global:
			m.Tar.Form = "pax"
		case h.Format == tar.FormatGNU:
			m.Tar.Form = "gnu"
		case h.Format == tar.FormatUSTAR:
			m.Tar.Form = "ustar"
		}
		m.Tar.Sparse = h.Typeflag == tar.TypeGNUSparse
		for k := range h.PAXRecords {
			m.Tar.Sparse = m.Tar.Sparse || strings.HasPrefix(k, "GNU.sparse.")
		}
		if m.Tar.Sparse {
			if m.Size > defaultMaxSpool-min(holes, defaultMaxSpool) {
				return fmt.Errorf("%w: member %.200q is sparse, of %d bytes", ErrLimit, name, m.Size)
			}
			holes += m.Size
			m.content = &content{size: h.Size, stream: sparse(at, name)}
		} else {
			m.content = &content{size: h.Size, at: io.NewSectionReader(at, m.Tar.Offset, h.Size)}
			var b [1]byte
			if _, err := at.ReadAt(b[:], m.Tar.Offset-tarBlock+offSize); err != nil {
				return err
			}
			m.Tar.Base256 = b[0]&0x80 != 0
		}
		p.Members = append(p.Members, m)
	}
}

// cut says of an archive that ends at a byte what is not whole.
func (p *Package) cut(end int64) error {
	if n := len(p.Members); n > 0 {
		m := &p.Members[n-1]
		if to := m.Tar.Offset + m.Size; to > end && !m.Tar.Sparse {
			return fmt.Errorf("%w: it ends at byte %d, and %.200q goes to byte %d", ErrTruncated, end, m.Path, to)
		}
	}
	return fmt.Errorf("%w: it ends at byte %d, in a header", ErrTruncated, end)
}

// sparse reads a sparse member. The archive is walked again from its start, because where the member's own headers
// begin is not known; there are hardly ever such members.
func sparse(at io.ReaderAt, name string) func() (io.ReadCloser, error) {
	return func() (io.ReadCloser, error) {
		t := tar.NewReader(io.NewSectionReader(at, 0, 1<<62))
		for {
			h, err := t.Next()
			if err != nil && !errors.Is(err, tar.ErrInsecurePath) {
				return nil, fmt.Errorf("%s: %w", name, err)
			}
			if n, err := cleanName(h.Name); err == nil && n == name && h.Typeflag != tar.TypeDir && h.Typeflag != tar.TypeXGlobalHeader {
				return io.NopCloser(t), nil
			}
		}
	}
}

// trailing counts the bytes behind the end of an archive, which pos is, if they are not its padding.
func trailing(src formats.Source, pos int64) int64 {
	rest := src.Size() - pos
	b := make([]byte, max(0, min(rest, 64<<10)))
	n, _ := src.ReadAt(b, pos) // what cannot be read here will not be missed
	if len(bytes.Trim(b[:n], "\x00")) == 0 && rest <= tarRecord {
		return 0
	}
	return max(rest, 0)
}
