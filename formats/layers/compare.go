package layers

import (
	"context"
	"fmt"
	"io"

	"tarvm/formats"
)

// A Range is a run of a disk's bytes.
type Range struct {
	Offset int64 `json:"offset"`
	Length int64 `json:"length"`
}

// A Difference says where two disks differ.
type Difference struct {
	Sizes [2]int64 `json:"sizes"`
	// Bytes is the length of all ranges. They are as exact as a sector of 512
	// bytes.
	Bytes int64 `json:"bytes"`
	// Ranges are the first of them; Count is how many there are.
	Ranges []Range `json:"ranges"`
	Count  int64   `json:"count"`
}

// MaxRanges is how many ranges a Difference names.
const MaxRanges = 10_000

const sector = 512

// Compare compares what guests see. Where one disk is longer, the rest is compared
// with zeros. Of o it takes Workers and Progress.
func Compare(ctx context.Context, a, b formats.Disk, o formats.EncodeOptions) (*Difference, error) {
	r := &Difference{Sizes: [2]int64{a.Size(), b.Size()}, Ranges: []Range{}}
	long, short := a, b
	if b.Size() > a.Size() {
		long, short = b, a
	}
	o.Base = &padded{short, long.Size()}
	const unit = 1 << 20
	var last Range
	end := func() {
		if last.Length > 0 {
			r.Bytes += last.Length
			if r.Count++; len(r.Ranges) < MaxRanges {
				r.Ranges = append(r.Ranges, last)
			}
		}
	}
	err := formats.Units(ctx, long, unit, &o, func(_ int, u *formats.Unit) error {
		off := u.Index * unit
		n := min(unit, long.Size()-off)
		x := make([]byte, n)
		copy(x, u.Data)
		y := make([]byte, n)
		if _, err := o.Base.ReadAt(y, off); err != nil {
			return fmt.Errorf("disk at byte %d: %w", off, err)
		}
		var list []Range
		for k := int64(0); k < n; k += sector {
			m := min(sector, n-k)
			switch {
			case string(x[k:k+m]) == string(y[k:k+m]):
			case len(list) > 0 && list[len(list)-1].Offset+list[len(list)-1].Length == off+k:
				list[len(list)-1].Length += m
			default:
				list = append(list, Range{off + k, m})
			}
		}
		u.Any = list
		return nil
	}, func(u *formats.Unit) error {
		list, _ := u.Any.([]Range)
		for _, x := range list {
			if last.Length > 0 && last.Offset+last.Length == x.Offset {
				last.Length += x.Length
				continue
			}
			end()
			last = x
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	end()
	return r, nil
}

// padded is a disk with zeros behind its end.
type padded struct {
	formats.Disk
	size int64
}

func (p *padded) Size() int64 { return p.size }

func (p *padded) ReadAt(b []byte, off int64) (int, error) {
	n := max(0, min(int64(len(b)), p.Disk.Size()-off))
	if n > 0 {
		if got, err := p.Disk.ReadAt(b[:n], off); int64(got) < n {
			if err == nil || err == io.EOF {
				err = io.ErrUnexpectedEOF
			}
			return got, err
		}
	}
	clear(b[n:])
	return len(b), nil
}
