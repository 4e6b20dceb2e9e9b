package raw

import (
	"context"
	"fmt"
	"io"

	"tarvm/formats"
)

var _ formats.Encoder = Format{}

// A unit is read and written at once. Its pieces that are zero are left out, so
// that the file can be sparse.
const (
	encodeUnit  = 1 << 20
	encodePiece = 64 << 10
)

// Subformats implements formats.Encoder: there are none.
func (Format) Subformats() []string { return nil }

// Streams implements formats.Encoder.
func (Format) Streams(*formats.EncodeOptions) bool { return true }

// Encode implements formats.Encoder. The file is the guest's bytes, to the byte;
// 64 KiB of zeros at a multiple of 64 KiB are not written. A subformat,
// compression, Unit or Base is ErrUnsupported; the other options mean nothing
// here.
func (Format) Encode(ctx context.Context, out formats.Outputs, d formats.Disk, o formats.EncodeOptions) error {
	switch {
	case o.Subformat != "":
		return unsupported("subformat", "%q", o.Subformat)
	case o.Compression != "" && o.Compression != "none":
		return unsupported("compression", "%q", o.Compression)
	case o.Unit != 0:
		return unsupported("unit", "%d bytes", o.Unit)
	case o.Base != nil || o.Parent != nil:
		return unsupported("parent", "a raw disk cannot have one")
	}
	size := d.Size()
	work := func(_ int, u *formats.Unit) error {
		u.Any = pieces(u.Data)
		return nil
	}
	emit := func(u *formats.Unit) error {
		runs, _ := u.Any.(uint16)
		at := u.Index * encodeUnit
		data := u.Data[:min(encodeUnit, size-at)]
		return eachRun(runs, func(start, end int64) error {
			return writeFull(out.Main, data[start:min(end, int64(len(data)))], at+start)
		})
	}
	if err := formats.Units(ctx, d, encodeUnit, &o, work, emit); err != nil {
		return err
	}
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	return out.Main.Truncate(size)
}

// pieces returns which pieces of a unit hold something: bit 0 is the first.
func pieces(b []byte) (runs uint16) {
	for i := range len(b) / encodePiece {
		if !formats.IsZero(b[i*encodePiece:][:encodePiece]) {
			runs |= 1 << i
		}
	}
	return runs
}

// eachRun calls do for each run of pieces, with its bytes in the unit.
func eachRun(runs uint16, do func(start, end int64) error) error {
	for i := 0; runs>>i != 0; i++ {
		start := i
		for runs>>i&1 != 0 {
			i++
		}
		if start == i {
			continue
		}
		if err := do(int64(start)*encodePiece, int64(i)*encodePiece); err != nil {
			return err
		}
	}
	return nil
}

func writeFull(w io.WriterAt, p []byte, off int64) error {
	n, err := w.WriteAt(p, off)
	if err == nil && n < len(p) {
		err = io.ErrShortWrite
	}
	return err
}

func unsupported(structure, format string, a ...any) error {
	return &formats.FormatError{
		Format: Name, Structure: structure, Offset: -1, Got: fmt.Sprintf(format, a...), Err: formats.ErrUnsupported,
	}
}
