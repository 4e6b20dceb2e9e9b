package vmdk

import (
	"encoding/binary"
	"errors"
	"io"
	"sync"

	"tarvm/formats"
	"tarvm/formats/internal/inflate"
)

// A marker stands before each compressed grain, little-endian, not padded. The
// zlib stream (RFC 1950) follows it.
const (
	offMarkerLBA  = 0 // u64, the grain's place in the extent, guest sectors
	offMarkerSize = 8 // u32, bytes of the zlib stream
	markerLen     = 12
)

// Metadata of a stream have a sector of their own before them: with a size of 0
// and this type.
const (
	offMarkerType   = 12 // u32
	markerEnd       = 0  // end of stream
	markerTable     = 1
	markerDirectory = 2
	markerFooter    = 3
)

// most is the largest compressed form of a grain that is read. Others read two
// grains at most, marker included; deflate adds less than a thousandth to what it
// cannot compress.
func (s *sparse) most() int64 { return 2*s.grain + sector }

// packedAt makes the run of the compressed grain g, whose marker is at byte host.
// Its entry is at byte at.
func (s *sparse) packedAt(st *state, at, g, host int64) (formats.Extent, error) {
	e := s.clip(g, 1, formats.Compressed, host)
	if !s.m.Inside(host, markerLen+1) {
		return e, s.m.Corrupt("grain table", at, "grain at 0x%x passes end of file at %d", host, s.m.Size())
	}
	if r, err := s.inMetadata(st, host, host+markerLen); err != nil {
		return e, err
	} else if r != nil {
		return e, s.m.Corrupt("grain table", at, "grain at 0x%x lies in the %s", host, r.name)
	}
	if !s.markers {
		e.Stored = min(s.most(), s.m.Size()-host)
		return e, nil
	}
	b, err := s.m.Bytes("grain marker", host, markerLen)
	if err != nil {
		return e, err
	}
	n, err := s.marker(b, g, host)
	e.Stored = markerLen + n
	return e, err
}

// marker checks the marker b of grain g, found at byte host, and returns the
// length of the stream behind it.
func (s *sparse) marker(b []byte, g, host int64) (int64, error) {
	le := binary.LittleEndian
	n := int64(le.Uint32(b[offMarkerSize:]))
	if lba := le.Uint64(b[offMarkerLBA:]); lba != uint64(g*(s.grain/sector)) {
		return 0, s.m.Corrupt("grain marker", host, "is of sector %d, want %d", lba, g*(s.grain/sector))
	}
	if n == 0 || n > s.most() || !s.m.Inside(host+markerLen, n) {
		return 0, s.m.Corrupt("grain marker", host+offMarkerSize, "%d bytes, at most %d, in a file of %d", n, s.most(),
			s.m.Size())
	}
	return n, nil
}

// An inflater is what decoding one grain needs.
type inflater struct {
	d    inflate.Decoder
	buf  []byte // the stream
	more []byte // a grain of which only the start is the disk's
}

var inflaters = sync.Pool{New: func() any { return new(inflater) }}

// keepBytes is the largest buffer that goes back into the pool.
const keepBytes = 1 << 20

// inflate decodes the run e, whose offset is one in the extent, into dst.
func (s *sparse) inflate(e formats.Extent, dst []byte) error {
	if !s.packed || e.Offset%s.grain != 0 || e.Stored < 1 || e.Stored > markerLen+s.most() || !s.m.Inside(e.Host,
		e.Stored) ||
		int64(len(dst)) > s.grain {
		return s.m.Corrupt("compressed grain", e.Host, "%d bytes for byte %d of the disk", e.Stored, e.Offset)
	}
	f, _ := inflaters.Get().(*inflater)
	defer func() {
		if cap(f.buf) <= keepBytes && cap(f.more) <= keepBytes {
			inflaters.Put(f)
		}
	}()
	if int64(cap(f.buf)) < e.Stored {
		f.buf = make([]byte, e.Stored, e.Stored+e.Stored/4)
	}
	b := f.buf[:e.Stored]
	if n, err := s.m.ReadAt(b, e.Host); n < len(b) {
		if err == nil || errors.Is(err, io.EOF) {
			err = io.ErrUnexpectedEOF
		}
		return &formats.FormatError{Format: Name, Structure: "compressed grain", Offset: e.Host, Err: err}
	}
	at := e.Host
	if s.markers {
		if len(b) <= markerLen {
			return s.m.Corrupt("grain marker", e.Host, "%d bytes", len(b))
		}
		if _, err := s.marker(b, e.Offset/s.grain, e.Host); err != nil {
			return err
		}
		b, at = b[markerLen:], at+markerLen
	}
	if err := f.decode(b, dst, s.grain); err != nil {
		return s.m.Corrupt("compressed grain", at, "%v", err)
	}
	return nil
}

var errTooLong = errors.New("decodes to more than a grain")

// decode fills dst from the zlib stream b, which may have more than dst has room
// for, but no more than most bytes, and checks its sum.
func (f *inflater) decode(b, dst []byte, most int64) error {
	n, err := f.d.Zlib(dst, b)
	if errors.Is(err, inflate.ErrFull) && int64(len(dst)) < most {
		if int64(cap(f.more)) < most {
			f.more = make([]byte, most)
		}
		n, err = f.d.Zlib(f.more[:most], b)
		n = min(n, len(dst))
		copy(dst, f.more[:n])
	}
	switch {
	case errors.Is(err, inflate.ErrFull):
		err = errTooLong
	case err == nil && n < len(dst):
		err = io.ErrUnexpectedEOF
	}
	if err != nil {
		clear(dst)
	}
	return err
}
