package ovf

import (
	"bufio"
	"crypto/sha1" //nolint:gosec // what ESXi before 6.5 and many packages have
	"crypto/sha256"
	"crypto/sha512"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"io"
	"strings"
)

// Errors of this package; test with errors.Is.
var (
	// ErrSyntax: not an envelope or a manifest, or not one that can be understood.
	ErrSyntax = errors.New("invalid OVF")
	// ErrDigest: a file does not have the digest that the manifest gives.
	ErrDigest = errors.New("file does not have its digest")
	// ErrUnsupported: valid or possibly valid, but not known here.
	ErrUnsupported = errors.New("not supported")
	// ErrUnsafe: a name that leads out of the package.
	ErrUnsafe = errors.New("unsafe name")
)

// Algorithm is a digest algorithm by its name in a manifest: "SHA1", "SHA256", "SHA384" or "SHA512".
type Algorithm string

// The algorithms that are written and verified.
const (
	SHA1   Algorithm = "SHA1"
	SHA256 Algorithm = "SHA256"
	SHA384 Algorithm = "SHA384"
	SHA512 Algorithm = "SHA512"
)

// New returns a hash of the algorithm, nil if it is not known.
func (a Algorithm) New() hash.Hash {
	switch a {
	case SHA1:
		return sha1.New() //nolint:gosec // as above
	case SHA256:
		return sha256.New()
	case SHA384:
		return sha512.New384()
	case SHA512:
		return sha512.New()
	}
	return nil
}

// A Digest is one line of a manifest.
type Digest struct {
	Algorithm Algorithm // an unknown one is as it was found
	Name      string    // of the file, relative to the package
	Sum       []byte
}

// MaxManifest is the largest manifest that is read, in bytes.
const MaxManifest = 16 << 20

// ReadDigests reads a manifest in all forms that are in use: with and without spaces around the parenthesis and the
// equals sign, algorithm names in any case, as "SHA2-256" (OpenSSL 3) or "SHA-256", CRLF, no newline at the end, blank
// lines. Errors wrap ErrSyntax or are the reader's.
func ReadDigests(r io.Reader) ([]Digest, error) {
	s := bufio.NewScanner(io.LimitReader(r, MaxManifest+1))
	s.Buffer(nil, 64<<10)
	var ds []Digest
	read := 0
	for n := 1; s.Scan(); n++ {
		if read += len(s.Bytes()) + 1; read > MaxManifest+1 {
			return nil, fmt.Errorf("%w: manifest of more than %d bytes", ErrSyntax, MaxManifest)
		}
		line := strings.TrimSpace(s.Text())
		if n == 1 {
			line = strings.TrimPrefix(line, "\ufeff")
		}
		if line == "" {
			continue
		}
		d, err := parseDigest(line)
		if err != nil {
			return nil, fmt.Errorf("%w: line %d of the manifest: %w", ErrSyntax, n, err)
		}
		ds = append(ds, d)
	}
	if err := s.Err(); errors.Is(err, bufio.ErrTooLong) {
		return nil, fmt.Errorf("%w: a line of more than %d bytes in the manifest", ErrSyntax, 64<<10)
	} else if err != nil {
		return nil, err
	}
	return ds, nil
}

func parseDigest(line string) (Digest, error) {
	d, err := splitDigest(line)
	if err != nil {
		return Digest{}, err
	}
	if h := d.Algorithm.New(); h != nil && h.Size() != len(d.Sum) {
		return Digest{}, fmt.Errorf("digest of %.60q has %d bytes, %s has %d", d.Name, len(d.Sum), d.Algorithm, h.Size())
	}
	return d, nil
}

// splitDigest splits a line, whatever the number of its digits.
func splitDigest(line string) (Digest, error) {
	// A name may hold parentheses and equals signs, a digest none: the last ")" that an "=" follows ends the name.
	open := strings.IndexByte(line, '(')
	eq := strings.LastIndexByte(line, '=')
	if open < 0 || eq < open {
		return Digest{}, fmt.Errorf("%.60q is not ALGORITHM(NAME)= DIGEST", line)
	}
	head := strings.TrimSpace(line[open+1 : eq])
	name, ok := strings.CutSuffix(head, ")")
	if !ok || name == "" {
		return Digest{}, fmt.Errorf("%.60q is not ALGORITHM(NAME)= DIGEST", line)
	}
	sum, err := hex.DecodeString(strings.TrimSpace(line[eq+1:]))
	if err != nil || len(sum) == 0 {
		return Digest{}, fmt.Errorf("digest of %.60q is not hexadecimal", name)
	}
	return Digest{Algorithm: algorithm(strings.TrimSpace(line[:open])), Name: name, Sum: sum}, nil
}

func algorithm(s string) Algorithm {
	u := strings.ToUpper(s)
	u = strings.Replace(u, "SHA2-", "SHA", 1)
	u = strings.Replace(u, "SHA-", "SHA", 1)
	if a := Algorithm(u); a.New() != nil {
		return a
	}
	return Algorithm(s)
}

// AppendDigest appends a line in the one form that all importers take: ESXi refuses a space before the
// parenthesis, and names of algorithms other than these.
func AppendDigest(b []byte, d Digest) []byte {
	return fmt.Appendf(b, "%s(%s)= %x\n", d.Algorithm, d.Name, d.Sum)
}

// A DigestError says that a file is not what the manifest says. It is ErrDigest.
type DigestError struct {
	Name      string // of the file
	Algorithm Algorithm
	Want, Got []byte // the manifest's digest, and the file's
}

// Error gives the form "disk.vmdk: file does not have its digest: SHA256 is 00ff, the manifest says 01fe".
func (e *DigestError) Error() string {
	return fmt.Sprintf("%s: %s: %s is %x, the manifest says %x", e.Name, ErrDigest, e.Algorithm, e.Got, e.Want)
}

// Unwrap returns ErrDigest.
func (e *DigestError) Unwrap() error { return ErrDigest }

// Verify compares the content of r with d. Errors are *DigestError, wrap ErrUnsupported, or are the reader's.
func (d Digest) Verify(r io.Reader) error {
	h := d.Algorithm.New()
	if h == nil {
		return fmt.Errorf("%s: digest %.40q: %w", d.Name, d.Algorithm, ErrUnsupported)
	}
	if _, err := io.Copy(h, r); err != nil {
		return fmt.Errorf("%s: %w", d.Name, err)
	}
	if got := h.Sum(nil); string(got) != string(d.Sum) {
		return &DigestError{Name: d.Name, Algorithm: d.Algorithm, Want: d.Sum, Got: got}
	}
	return nil
}
