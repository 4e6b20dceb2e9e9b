package formats_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"testing"

	"tarvm/formats"
	"tarvm/formats/formatstest"
)

// TestUnits: what is handed on is all that is not zero, in order, the same for any number of workers; with a base
// it is all that is not equal to that.
func TestUnits(t *testing.T) {
	for _, size := range []int64{0, 1, 4096, 1 << 20, 5<<20 + 77} {
		p := formatstest.NewPattern(t, uint64(size), size)
		for _, base := range []*formatstest.Pattern{nil, p.Changed(t, 1, size), p.Changed(t, 2, size/2), p.Changed(t, 3, size+100_000), p} {
			for _, workers := range []int{1, 2, 7} {
				o := formats.EncodeOptions{Workers: workers}
				got := make([]byte, size)
				if base != nil {
					o.Base = base.Disk
					copy(got, base.Bytes)
				}
				const unit = 10_000
				last := int64(-1)
				var told int64
				o.Progress = func(n int64) { told = max(told, n) }
				err := formats.Units(context.Background(), p, unit, &o, func(w int, u *formats.Unit) error {
					if w < 0 || w >= workers {
						return fmt.Errorf("worker %d of %d", w, workers)
					}
					u.Out = append(append(u.Spare(), 'x'), u.Data...)
					u.Any = len(u.Data)
					return nil
				}, func(u *formats.Unit) error {
					if u.Index <= last || u.Any != len(u.Data) || u.Out[0] != 'x' || !bytes.Equal(u.Out[1:], u.Data) {
						return fmt.Errorf("unit %d after %d: %d bytes became %d", u.Index, last, len(u.Data), len(u.Out))
					}
					last = u.Index
					off := u.Index * unit
					data := u.Data
					if data == nil {
						if base == nil {
							return fmt.Errorf("unit %d is zero", u.Index)
						}
						data = make([]byte, unit)
					} else if formats.IsZero(data) {
						return fmt.Errorf("unit %d has zeros", u.Index)
					}
					if int64(len(data)) != unit {
						return fmt.Errorf("unit %d has %d bytes", u.Index, len(data))
					}
					was := make([]byte, unit)
					if base != nil && off < int64(len(base.Bytes)) {
						copy(was[:min(unit, size-off)], base.Bytes[off:])
					}
					if bytes.Equal(was, data) {
						return fmt.Errorf("unit %d is what it was", u.Index)
					}
					copy(got[off:], data)
					return nil
				})
				if err != nil || !bytes.Equal(got, p.Bytes) || told != size {
					t.Errorf("%d bytes, %d workers, base %v: %v; the bytes are right: %v; told of %d", size, workers, base != nil, err, bytes.Equal(got, p.Bytes), told)
				}
			}
		}
	}
}

func TestUnitsErrors(t *testing.T) {
	p := formatstest.NewPattern(t, 5, 3<<20)
	boom := errors.New("boom")
	n := 0
	after := func(u *formats.Unit) error {
		if n++; n == 5 {
			return boom
		}
		return nil
	}
	o := formats.EncodeOptions{Workers: 3}
	if err := formats.Units(context.Background(), p, 4096, &o, nil, after); !errors.Is(err, boom) {
		t.Errorf("emit: %v", err)
	}
	if err := formats.Units(context.Background(), p, 4096, &o, func(_ int, u *formats.Unit) error {
		if u.Index > 100 {
			return boom
		}
		return nil
	}, func(*formats.Unit) error { return nil }); !errors.Is(err, boom) {
		t.Errorf("work: %v", err)
	}
	ctx, cancel := context.WithCancelCause(context.Background())
	if err := formats.Units(ctx, p, 4096, &o, nil, func(u *formats.Unit) error { cancel(boom); return nil }); !errors.Is(err, boom) {
		t.Errorf("cancel: %v", err)
	}
	bad := formatstest.Disk(t, layer{runs: "ddded", size: 500, err: boom}.image())
	if err := formats.Units(context.Background(), bad, 100, &o, nil, func(*formats.Unit) error { return nil }); !errors.Is(err, boom) {
		t.Errorf("extents: %v", err)
	}
	short := layer{runs: "ddd", size: 300}.image()
	short.Files[0] = bytes.NewReader(make([]byte, 150))
	if err := formats.Units(context.Background(), formatstest.Disk(t, short), 100, &o, nil, func(*formats.Unit) error { return nil }); !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Errorf("read: %v", err)
	}
}

func TestStream(t *testing.T) {
	var b bytes.Buffer
	s := formats.NewStream(&b)
	for _, w := range []struct {
		off  int64
		text string
		err  error
	}{{0, "ab", nil}, {2, "c", nil}, {5, "d", nil}, {5, "e", formats.ErrSeek}, {100_000, "f", nil}} {
		if n, err := s.WriteAt([]byte(w.text), w.off); !errors.Is(err, w.err) || err == nil && n != len(w.text) {
			t.Errorf("%+v: %d, %v", w, n, err)
		}
	}
	if err := s.Truncate(200_000); err != nil {
		t.Error(err)
	}
	if err := s.Truncate(1); !errors.Is(err, formats.ErrSeek) {
		t.Error(err)
	}
	want := make([]byte, 200_000)
	copy(want, "abc\x00\x00d")
	want[100_000] = 'f'
	if !bytes.Equal(b.Bytes(), want) {
		t.Errorf("%d bytes", b.Len())
	}
	r, w := io.Pipe()
	r.Close()
	if _, err := formats.NewStream(w).WriteAt([]byte("x"), 70_000); !errors.Is(err, io.ErrClosedPipe) {
		t.Error(err)
	}
}

func TestIsZero(t *testing.T) {
	for _, n := range []int{0, 1, 4096, 65536, 65537, 200_000} {
		b := make([]byte, n)
		if !formats.IsZero(b) {
			t.Errorf("%d zeros", n)
		}
		for _, i := range []int{0, n / 2, n - 1} {
			if n > 0 {
				b[i] = 1
				if formats.IsZero(b) {
					t.Errorf("%d bytes, one at %d", n, i)
				}
				b[i] = 0
			}
		}
	}
}
