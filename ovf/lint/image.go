package lint

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math"

	"tarvm/formats"
)

// An image is what the rules ask about a disk image.
type image struct {
	kind string // vmdk, qcow2, vhd, vhdx, vdi, iso; "": something else, such as a raw disk
	size int64  // of the file
	// Of a VMDK:
	sub      string // streamOptimized, sparse, descriptor, cowd
	version  uint32
	capacity int64 // guest bytes; 0: not known
	// end is where the stream ends, behind its end-of-stream marker; 0: there is none.
	end int64
	// cut says what is missing of a stream; "": nothing.
	cut string
}

const (
	sector = 512

	// A hosted sparse VMDK's header: see package vmdk.
	vmdkVersion  = 4
	vmdkFlags    = 8
	vmdkCapacity = 12
	vmdkOverHead = 64
	flagMarkers  = 1 << 17

	// A marker: u64 value, u32 size, u32 type. With a size it is a grain of so many bytes behind the first two fields.
	markerLen   = 16
	grainHeader = 12
	endOfStream = 0
	maxMarker   = 4 // footer is 3; 4 is used by nothing known, and harmless

	isoMagic = 32769
)

func readImage(ctx context.Context, src formats.Source) (*image, error) {
	m := &image{size: src.Size()}
	head := make([]byte, sector)
	n, err := src.ReadAt(head, 0)
	if err != nil && !errors.Is(err, io.EOF) {
		return nil, err
	}
	short := n < sector
	switch {
	case bytes.HasPrefix(head, []byte("KDMV")):
		m.kind, m.sub = "vmdk", "sparse"
		le := binary.LittleEndian
		m.version = le.Uint32(head[vmdkVersion:])
		if c := le.Uint64(head[vmdkCapacity:]); c < math.MaxInt64/sector {
			m.capacity = int64(c) * sector
		}
		if short {
			m.cut = "its header is cut off"
			return m, nil
		}
		if le.Uint32(head[vmdkFlags:])&flagMarkers == 0 {
			return m, nil
		}
		m.sub = "streamOptimized"
		over := le.Uint64(head[vmdkOverHead:])
		if over > math.MaxInt64/sector {
			m.cut = "its header says that the grains begin behind the end"
			return m, nil
		}
		return m, m.walk(ctx, src, int64(over)*sector)
	case bytes.HasPrefix(head, []byte("# Disk DescriptorFile")):
		m.kind, m.sub = "vmdk", "descriptor"
	case bytes.HasPrefix(head, []byte("COWD")):
		m.kind, m.sub = "vmdk", "cowd"
	case bytes.HasPrefix(head, []byte("QFI\xfb")):
		m.kind = "qcow2"
	case bytes.HasPrefix(head, []byte("conectix")):
		m.kind = "vhd"
	case bytes.HasPrefix(head, []byte("vhdxfile")):
		m.kind = "vhdx"
	case bytes.HasPrefix(head[64:], []byte("\x7f\x10\xda\xbe")):
		m.kind = "vdi"
	default:
		b := make([]byte, 5)
		if _, err := src.ReadAt(b, isoMagic); err == nil && string(b) == "CD001" {
			m.kind = "iso"
		} else if err != nil && !errors.Is(err, io.EOF) {
			return nil, err
		}
	}
	return m, nil
}

// walk goes from marker to marker until the end-of-stream marker, as VMware's readers do when they compute the file's
// digest.
func (m *image) walk(ctx context.Context, src formats.Source, off int64) error {
	b := make([]byte, markerLen)
	for i := 0; ; i++ {
		if i%1024 == 0 && ctx.Err() != nil {
			return ctx.Err()
		}
		n, err := src.ReadAt(b, off)
		if err != nil && !errors.Is(err, io.EOF) {
			return err
		}
		if n < markerLen {
			m.cut = fmt.Sprintf("it ends at byte %d, before its end-of-stream marker", m.size)
			return nil
		}
		value, size, kind := binary.LittleEndian.Uint64(b), binary.LittleEndian.Uint32(b[8:]), binary.LittleEndian.Uint32(b[12:])
		switch {
		case size > 0:
			off += (grainHeader + int64(size) + sector - 1) / sector * sector
		case value == 0 && kind == endOfStream:
			m.end = off + sector
			if m.end > m.size {
				m.cut = "its end-of-stream marker is cut off"
			}
			return nil
		case kind > maxMarker || value > uint64(m.size)/sector:
			m.cut = fmt.Sprintf("no marker at byte %d", off)
			return nil
		default:
			off += sector + int64(value)*sector
		}
	}
}

// trailing is the number of bytes behind the end of the stream.
func (m *image) trailing() int64 {
	if m == nil || m.end == 0 {
		return 0
	}
	return max(0, m.size-m.end)
}
