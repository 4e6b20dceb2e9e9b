package archive

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"strconv"
	"strings"

	"tarvm/archive/codec"
	"tarvm/delta"
)

// Names of the members that tarvm adds; FORMAT.md section 1.
const (
	Prefix       = ".tarvm"
	nameEntry    = ".tarvm/entry.json"
	nameReadme   = ".tarvm/README"
	nameRestore  = ".tarvm/restore.py"
	nameDelta    = ".tarvm/delta/"
	nameManifest = ".tarvm/manifest.json"
	nameBlocks   = ".tarvm/blocks"
	nameFrames   = ".tarvm/frames"
	nameLocator  = ".tarvm/locator"
	nameLocal    = ".tarvm/local.json"
	nameFind     = ".tarvm/find"
)

const (
	locatorSize = 512
	tailSize    = 2048 // locator's header, locator, end of the tar
	framesMagic = "TARVMFR1"
	frameEntry  = 24
	maxFrames   = 2 << 20 // their table is one frame
)

// locator is the last member; FORMAT.md section 6.
type locator struct {
	Frames        span // encoded
	FramesDecoded int64
	Framed        delta.Digest
	Manifest      span
	Blocks        span
	Structure     delta.Digest
	ID            delta.Digest
}

type span struct {
	Offset, Length int64
}

func (l *locator) append(b []byte) []byte {
	n := len(b)
	b = fmt.Appendf(b, "tarvm locator 1\nframes %019d %019d %019d\nframed %x\nmanifest %019d %019d\nblocks %019d %019d\nstructure %x\nid %x\n",
		l.Frames.Offset, l.Frames.Length, l.FramesDecoded, l.Framed[:], l.Manifest.Offset, l.Manifest.Length,
		l.Blocks.Offset, l.Blocks.Length, l.Structure[:], l.ID[:])
	return append(b, make([]byte, locatorSize-(len(b)-n))...)
}

func parseLocator(b []byte) (*locator, error) {
	text := string(bytes.TrimRight(b, "\x00"))
	lines := strings.Split(strings.TrimSuffix(text, "\n"), "\n")
	if lines[0] != "tarvm locator 1" {
		return nil, fmt.Errorf("locator begins with %.40q", lines[0])
	}
	var l locator
	var errs []error
	num := func(s string, v *int64) {
		n, err := strconv.ParseInt(s, 10, 64)
		if err == nil && n < 0 {
			err = fmt.Errorf("number %q", s)
		}
		*v = n
		errs = append(errs, err)
	}
	for _, line := range lines[1:] {
		f := strings.Fields(line)
		switch {
		case len(f) == 4 && f[0] == "frames":
			num(f[1], &l.Frames.Offset)
			num(f[2], &l.Frames.Length)
			num(f[3], &l.FramesDecoded)
		case len(f) == 3 && f[0] == "manifest":
			num(f[1], &l.Manifest.Offset)
			num(f[2], &l.Manifest.Length)
		case len(f) == 3 && f[0] == "blocks":
			num(f[1], &l.Blocks.Offset)
			num(f[2], &l.Blocks.Length)
		case len(f) == 2 && f[0] == "framed":
			errs = append(errs, l.Framed.UnmarshalText([]byte(f[1])))
		case len(f) == 2 && f[0] == "structure":
			errs = append(errs, l.Structure.UnmarshalText([]byte(f[1])))
		case len(f) == 2 && f[0] == "id":
			errs = append(errs, l.ID.UnmarshalText([]byte(f[1])))
		default:
			errs = append(errs, fmt.Errorf("locator line %.40q", line))
		}
	}
	if err := errors.Join(errs...); err != nil {
		return nil, err
	}
	if again := l.append(nil); !bytes.Equal(again, b) {
		return nil, errors.New("locator is not in its one form")
	}
	return &l, nil
}

func appendFrames(b []byte, frames []codec.Frame) []byte {
	b = append(b, framesMagic...)
	b = binary.LittleEndian.AppendUint64(b, uint64(len(frames)))
	for _, f := range frames {
		b = binary.LittleEndian.AppendUint32(b, uint32(f.Encoded))
		b = binary.LittleEndian.AppendUint32(b, uint32(f.Decoded))
		b = append(b, f.Digest[:]...)
	}
	return b
}

func parseFrames(b []byte) ([]codec.Frame, error) {
	if len(b) < 16 || string(b[:8]) != framesMagic {
		return nil, errors.New("no table of frames")
	}
	n := binary.LittleEndian.Uint64(b[8:])
	b = b[16:]
	if n > maxFrames || n*frameEntry != uint64(len(b)) {
		return nil, fmt.Errorf("table of %d frames in %d bytes", n, len(b))
	}
	frames := make([]codec.Frame, n)
	for i := range frames {
		e := b[i*frameEntry:]
		frames[i] = codec.Frame{Encoded: int64(binary.LittleEndian.Uint32(e)), Decoded: int64(binary.LittleEndian.Uint32(e[4:]))}
		copy(frames[i].Digest[:], e[8:frameEntry])
	}
	return frames, nil
}
