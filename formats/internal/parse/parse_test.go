package parse_test

import (
	"bytes"
	"errors"
	"io"
	"math"
	"testing"

	"tarvm/formats"
	"tarvm/formats/internal/parse"
)

// shrunk promises more bytes than it has.
type shrunk struct{ *bytes.Reader }

func (shrunk) Size() int64 { return 100 }

func TestBytesChecksBeforeItAllocates(t *testing.T) {
	m := parse.Image{Source: bytes.NewReader(make([]byte, parse.Limit+10)), Format: "x"}
	for _, c := range []struct {
		off, n int64
		want   error
	}{
		{0, 10, nil},
		{parse.Limit, 10, nil},
		{parse.Limit, 11, formats.ErrCorrupt},
		{-1, 4, formats.ErrCorrupt},
		{4, -1, formats.ErrCorrupt},
		{math.MaxInt64, math.MaxInt64, formats.ErrCorrupt},
		{1, math.MaxInt64, formats.ErrCorrupt},
		{0, parse.Limit + 1, formats.ErrUnsupported},
	} {
		b, err := m.Bytes("thing", c.off, c.n)
		if !errors.Is(err, c.want) || err == nil && int64(len(b)) != c.n {
			t.Errorf("%d at %d: %d bytes, %v, want %v", c.n, c.off, len(b), err, c.want)
		}
	}
}

func TestShrunkFileIsAFaultOfTheMedium(t *testing.T) {
	m := parse.Image{Source: shrunk{bytes.NewReader(make([]byte, 50))}, Format: "x"}
	_, err := m.Bytes("thing", 40, 20)
	if !errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, formats.ErrCorrupt) {
		t.Error(err)
	}
}

func TestPhase(t *testing.T) {
	p := parse.Phase{Step: 100}
	if got := p.Winner(250); got != 50 {
		t.Errorf("no votes: %d, want the fallback's 50", got)
	}
	for _, off := range []int64{130, 270, 330, 470} {
		p.Add(off)
	}
	if got := p.Winner(0); got != 30 {
		t.Errorf("a tie: %d, want the smaller, 30", got)
	}
	p.Add(970)
	if got := p.Winner(0); got != 70 {
		t.Errorf("%d, want the majority's 70", got)
	}
	for !p.Full() {
		p.Add(0)
	}
	if got := p.Winner(1); got != 0 {
		t.Errorf("%d, want 0", got)
	}
}
