package vmdk

import (
	"errors"
	"math"
	"testing"

	"tarvm/formats"
)

// last is an Output that remembers the end of what was written.
type last struct{ end int64 }

func (o *last) WriteAt(p []byte, off int64) (int, error) {
	o.end = off + int64(len(p))
	return len(p), nil
}

func (o *last) Truncate(size int64) error {
	o.end = size
	return nil
}

// Tables hold sectors of 32 bits: what they cannot name is refused, and not
// written as another place.
func TestEncodeFileTooLarge(t *testing.T) {
	out := &last{}
	w, err := newSparseWriter(out, 4<<40/sector, grainBytes/sector, nil)
	if err != nil {
		t.Fatal(err)
	}
	w.next = math.MaxUint32
	grain := make([]byte, grainBytes)
	if err := w.add(0, grain); err != nil || out.end != math.MaxUint32*sector+grainBytes {
		t.Errorf("the last grain: ends at %d, %v", out.end, err)
	}
	if err := w.add(1, grain); !errors.Is(err, formats.ErrUnsupported) {
		t.Errorf("a grain behind 2 TiB: %v", err)
	}

	s := &streamWriter{out: out, at: math.MaxUint32 - 2, index: -1, directory: make([]byte, sector)}
	if err := s.add(0, grain[:sector]); err != nil {
		t.Error(err)
	}
	if err := s.add(1, grain[:sector]); !errors.Is(err, formats.ErrUnsupported) {
		t.Errorf("a grain behind 2 TiB: %v", err)
	}
}
