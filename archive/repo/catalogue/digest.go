package catalogue

import (
	"crypto/sha256"
	"crypto/sha512"
	"encoding/hex"
	"fmt"
	"hash"

	"github.com/zeebo/blake3"
)

// A DigestError: what came is not what the catalogue says.
type DigestError struct {
	Algorithm string
	Want, Got string
}

func (e *DigestError) Error() string {
	return fmt.Sprintf("%s is %.16s..., the catalogue says %.16s...", e.Algorithm, e.Got, e.Want)
}

// A SizeError: a file is longer or shorter than the catalogue says, or longer than it may be.
type SizeError struct {
	Want, Got int64  // bytes; Got is -1 when there are more than Want
	Encoding  string // in which the server sent it, though it was asked not to
}

func (e *SizeError) Error() string {
	s := fmt.Sprintf("has %d bytes, want %d", e.Got, e.Want)
	if e.Got < 0 {
		s = fmt.Sprintf("has more than %d bytes", e.Want)
	}
	if e.Encoding != "" {
		s += fmt.Sprintf(" (the server sends it %.20q encoded)", e.Encoding)
	}
	return s
}

// A hasher computes the strong digests that a blob has, SHA-256 if it has none.
type hasher struct {
	sums []sum
}

type sum struct {
	name, want string
	hash       hash.Hash
}

func newHasher(d *Digests) *hasher {
	h := &hasher{}
	if d.BLAKE3 != "" {
		h.sums = append(h.sums, sum{"blake3", d.BLAKE3, blake3.New()})
	}
	if d.SHA512 != "" {
		h.sums = append(h.sums, sum{"sha512", d.SHA512, sha512.New()})
	}
	if d.SHA256 != "" || len(h.sums) == 0 {
		h.sums = append(h.sums, sum{"sha256", d.SHA256, sha256.New()})
	}
	return h
}

// Write never fails.
func (h *hasher) Write(p []byte) (int, error) {
	for i := range h.sums {
		_, _ = h.sums[i].hash.Write(p)
	}
	return len(p), nil
}

func (h *hasher) reset() {
	for i := range h.sums {
		h.sums[i].hash.Reset()
	}
}

// check compares all digests.
func (h *hasher) check() error {
	for _, s := range h.sums {
		if got := hex.EncodeToString(s.hash.Sum(nil)); s.want != "" && got != s.want {
			return &DigestError{Algorithm: s.name, Want: s.want, Got: got}
		}
	}
	return nil
}
