package formats_test

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"testing"

	"tarvm/formats"
)

// answer is a Format that gives one answer.
type answer struct {
	name string
	h    *formats.Header
	err  error
}

func (a answer) Name() string                                  { return a.name }
func (a answer) Probe(formats.Source) (*formats.Header, error) { return a.h, a.err }
func (a answer) Open(formats.Source, formats.OpenOptions) (*formats.Image, error) {
	return nil, a.err
}

func TestProbeTakesTheFirstThatClaims(t *testing.T) {
	src := bytes.NewReader([]byte("x"))
	no := answer{"no", nil, formats.ErrNotFormat}
	wrapped := answer{"wrapped", nil, fmt.Errorf("header: %w", formats.ErrNotFormat)}
	yes := answer{"yes", &formats.Header{Format: "yes", Unit: 4}, nil}
	damaged := answer{"damaged", &formats.Header{Format: "damaged", VirtualSize: 7}, &formats.FormatError{Format: "damaged", Err: formats.ErrCorrupt}}
	bare := answer{"bare", nil, io.ErrUnexpectedEOF}

	h, err := formats.Probe(src, []formats.Format{no, wrapped, yes, damaged})
	if err != nil || h.Format != "yes" || h.Unit != 4 {
		t.Errorf("%+v, %v", h, err)
	}
	h, err = formats.Probe(src, []formats.Format{no, damaged, yes})
	if !errors.Is(err, formats.ErrCorrupt) || h == nil || h.Format != "damaged" || h.VirtualSize != 7 {
		t.Errorf("a damaged match must win over later formats: %+v, %v", h, err)
	}
	h, err = formats.Probe(src, []formats.Format{bare, yes})
	if !errors.Is(err, io.ErrUnexpectedEOF) || h == nil || h.Format != "bare" {
		t.Errorf("an error of the medium must stop the search: %+v, %v", h, err)
	}
	for _, list := range [][]formats.Format{nil, {no, wrapped}} {
		if h, err = formats.Probe(src, list); !errors.Is(err, formats.ErrNotFormat) || h != nil {
			t.Errorf("nothing claims: %+v, %v", h, err)
		}
	}
}

func TestFormatErrorText(t *testing.T) {
	for _, c := range []struct {
		e    formats.FormatError
		want string
	}{
		{formats.FormatError{Format: "qcow2", Structure: "L1 table", Offset: 0x30000, Got: "9000 entries pass end of file", Err: formats.ErrCorrupt},
			"qcow2: L1 table at byte 0x30000: 9000 entries pass end of file: corrupt"},
		{formats.FormatError{Format: "vpc", Structure: "footer", Offset: -1, Err: formats.ErrUnsupported}, "vpc: footer: not supported"},
		{formats.FormatError{Format: "vdi", Structure: "header", Offset: 0}, "vdi: header at byte 0x0"},
	} {
		if got := c.e.Error(); got != c.want {
			t.Errorf("got %q, want %q", got, c.want)
		}
		if c.e.Err != nil && !errors.Is(&c.e, c.e.Err) {
			t.Errorf("%q does not unwrap", c.want)
		}
	}
}

func TestHeaderStep(t *testing.T) {
	for _, c := range []struct {
		h    formats.Header
		want int64
	}{
		{formats.Header{}, 0},
		{formats.Header{Unit: 65536}, 65536},
		{formats.Header{Unit: 2 << 20, Stride: 2<<20 + 512}, 2<<20 + 512},
	} {
		if got := c.h.Step(); got != c.want {
			t.Errorf("%+v: %d, want %d", c.h, got, c.want)
		}
	}
}

func TestKindString(t *testing.T) {
	want := map[formats.Kind]string{
		formats.Data: "data", formats.Compressed: "compressed", formats.Zero: "zero",
		formats.Hole: "hole", formats.Parent: "parent", 0: "invalid",
	}
	for k, s := range want {
		if k.String() != s {
			t.Errorf("%d: %s, want %s", k, k, s)
		}
	}
}
