package formats_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"sync"
	"testing"

	"tarvm/formats"
	"tarvm/formats/formatstest"
)

// told is a Source that demands that what is read was expected before, by bytes.
type told struct {
	t *testing.T
	formats.Source

	mu     sync.Mutex
	state  []byte // 1: expected
	calls  int
	last   int64
	opened int
	closed int
	sorted bool
}

func newTold(t *testing.T, b []byte) *told {
	return &told{t: t, Source: bytes.NewReader(b), state: make([]byte, len(b)), sorted: true}
}

func (s *told) Ahead() formats.Ahead {
	s.opened++
	return s
}

func (s *told) Close() { s.closed++ }

func (s *told) Expect(off, n int64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.calls++
	s.sorted = s.sorted && off >= s.last
	s.last = off + n
	if n <= 0 || n > 1<<20 || off < 0 || off+n > s.Size() {
		s.t.Errorf("%d bytes at %d are expected of %d", n, off, s.Size())
		return
	}
	for i := range s.state[off : off+n] {
		s.state[off:][i]++
	}
}

func (s *told) ReadAt(p []byte, off int64) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed == s.opened {
		s.t.Errorf("read at %d after the end", off)
	}
	for i := range p {
		if s.state[off:][i] != 1 {
			s.t.Errorf("byte %d is read and was expected %d times", off+int64(i), s.state[off:][i])
			return 0, io.ErrUnexpectedEOF
		}
	}
	return s.Source.ReadAt(p, off)
}

// runs is a Mapper of runs.
type runs struct {
	size int64
	list []formats.Extent
}

func (r *runs) Size() int64 { return r.size }

func (r *runs) MapAt(off int64) (formats.Extent, error) {
	for _, e := range r.list {
		if off >= e.Offset && off < e.End() {
			return e, nil
		}
	}
	return formats.Extent{}, io.EOF
}

// TestUnitsAhead: each file of each layer is told what will be read of it, in its order, once and before that; at the
// end that is over, also when something went wrong.
func TestUnitsAhead(t *testing.T) {
	const mib = 1 << 20
	boom := errors.New("boom")
	for _, workers := range []int{1, 3} {
		for _, fail := range []bool{false, true} {
			content := bytes.Repeat([]byte("content "), 3*mib/8)
			top := [2]*told{newTold(t, content), newTold(t, content)}
			parent, base := newTold(t, content), newTold(t, content[:2*mib])
			d := formatstest.Disk(t,
				&formats.Image{Parent: &formats.ParentRef{}, Files: []formats.Source{top[0], top[1]}, Map: &runs{10 * mib, []formats.Extent{
					{Offset: 0, Length: mib, Kind: formats.Data, File: 1, Host: mib},
					{Offset: mib, Length: mib, Kind: formats.Zero},
					{Offset: 2 * mib, Length: 2 * mib, Kind: formats.Parent},
					{Offset: 4 * mib, Length: 2*mib + 5000, Kind: formats.Data, File: 0, Host: 7},
					{Offset: 6*mib + 5000, Length: 4*mib - 5000, Kind: formats.Hole},
				}}},
				&formats.Image{Files: []formats.Source{parent}, Map: &runs{3 * mib, []formats.Extent{
					{Offset: 0, Length: 3 * mib, Kind: formats.Data},
				}}})
			o := formats.EncodeOptions{Workers: workers, Base: formatstest.Disk(t, &formats.Image{
				Files: []formats.Source{base}, Map: &runs{8 * mib, []formats.Extent{
					{Offset: 0, Length: 6 * mib, Kind: formats.Hole}, {Offset: 6 * mib, Length: 2 * mib, Kind: formats.Data},
				}},
			})}
			n := 0
			err := formats.Units(context.Background(), d, 60_000, &o, nil, func(*formats.Unit) error {
				if n++; fail && n == 30 {
					return boom
				}
				return nil
			})
			if fail != errors.Is(err, boom) || !fail && err != nil {
				t.Error(err)
			}
			for i, s := range []*told{top[0], top[1], parent, base} {
				if s.opened != 1 || s.closed != 1 || s.calls == 0 || !s.sorted {
					t.Errorf("file %d: opened %d times, closed %d times, told %d times, in order: %v", i, s.opened, s.closed, s.calls, s.sorted)
				}
			}
		}
	}
}

// TestAheadNobody: a disk whose files do not want to know does not, either.
func TestAheadNobody(t *testing.T) {
	p := formatstest.NewPattern(t, 4, 100_000)
	if a := p.Ahead(); a != nil {
		t.Errorf("%T", a)
	}
}
