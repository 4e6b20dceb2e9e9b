package ovf

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"strings"
	"time"
)

// The reasons why a signature is not to be trusted; test with errors.Is.
var (
	// ErrSignature: the manifest is not what was signed with the certificate's key.
	ErrSignature = errors.New("signature does not match the manifest")
	// ErrAuthority: none of the authorities that are trusted stands behind the certificate.
	ErrAuthority = errors.New("certificate comes from no trusted authority")
	// ErrValidity: the certificate has expired, or is not valid yet.
	ErrValidity = errors.New("certificate is not valid at this time")
)

const (
	// MaxCertificate is the largest .cert that is read, in bytes.
	MaxCertificate = 1 << 20
	maxChain       = 32
	maxKey         = 16384 // bits of an RSA key; larger ones would take long to use
	minKey         = 1024
)

// A Certificate is what a .cert file holds (DSP0243, section 5.1): the signature of the manifest in a line like the manifest's
// own, ALGORITHM(NAME.mf)= HEX, and the X.509 certificate of the key in PEM; or a detached signature of CMS.
type Certificate struct {
	Algorithm Algorithm // of the manifest's digest that was signed
	Name      string    // of the manifest
	Value     []byte    // RSA: PKCS #1 1.5; ECDSA: ASN.1; both as openssl dgst -sign writes them
	// Chain is the certificates: the signer's first, then those between it and an authority.
	Chain []*x509.Certificate
	// CMS is a signature of the manifest in a block of CMS (PKCS #7; RFC 5652), in DER, as VirtualBox adds it: beside the
	// line or, with a Value that is nil, in its place. nil: there is none.
	CMS []byte
}

// ReadCertificate reads a .cert file, with the line before or behind the certificates. Errors wrap ErrSyntax or ErrUnsupported.
func ReadCertificate(b []byte) (*Certificate, error) {
	fail := func(kind error, format string, args ...any) (*Certificate, error) {
		return nil, fmt.Errorf("%w: certificate: %s", kind, fmt.Sprintf(format, args...))
	}
	if len(b) > MaxCertificate {
		return fail(ErrSyntax, "%d bytes, at most %d", len(b), MaxCertificate)
	}
	c := new(Certificate)
	rest := bytes.TrimPrefix(b, []byte("\ufeff"))
	var text []byte // what is not PEM
	for {
		start := bytes.Index(rest, []byte("-----BEGIN "))
		if start < 0 {
			text = append(text, rest...)
			break
		}
		text = append(append(text, rest[:start]...), '\n')
		block, after := pem.Decode(rest[start:])
		if block == nil || len(after) >= len(rest)-start {
			return fail(ErrSyntax, "a PEM block without end")
		}
		rest = after
		switch block.Type {
		case "CERTIFICATE", "X509 CERTIFICATE":
			x, err := x509.ParseCertificate(block.Bytes)
			if err != nil {
				return fail(ErrSyntax, "%s", err)
			}
			if c.Chain = append(c.Chain, x); len(c.Chain) > maxChain {
				return fail(ErrUnsupported, "more than %d certificates", maxChain)
			}
		case "CMS", "PKCS7", "PKCS #7 SIGNED DATA":
			if c.CMS != nil {
				return fail(ErrSyntax, "two signatures in CMS")
			}
			c.CMS = append([]byte{}, block.Bytes...)
		default:
			return fail(ErrUnsupported, "a PEM block %.40q", block.Type)
		}
	}
	for line := range strings.Lines(string(text)) {
		if line = strings.TrimSpace(line); line == "" {
			continue
		}
		d, err := splitDigest(line)
		if err != nil {
			// What openssl x509 -text prints before the PEM block is for people.
			continue
		}
		if c.Value != nil {
			return fail(ErrSyntax, "two signatures")
		}
		c.Algorithm, c.Name, c.Value = d.Algorithm, d.Name, d.Sum
	}
	switch {
	case c.Value == nil && c.CMS != nil: // which can hold the certificates, too
	case c.Value == nil:
		return fail(ErrSyntax, "no line ALGORITHM(NAME)= SIGNATURE")
	case len(c.Chain) == 0:
		return fail(ErrSyntax, "no X.509 certificate in PEM")
	}
	return c, nil
}

// SignatureOptions say what a certificate is compared with.
type SignatureOptions struct {
	// Roots are the authorities that are trusted. nil: the certificate is compared with none.
	Roots *x509.CertPool
	// Now is when it must be valid; zero: the time of the call. The form does not say when it was signed.
	Now time.Time
}

// A Signature says who signed a manifest.
type Signature struct {
	Algorithm Algorithm `json:"algorithm"` // of the digest
	Key       string    `json:"key"`       // "RSA, 2048 bits"
	// Subject is who signed, Issuer who says so, as RFC 4514 writes distinguished names.
	Subject string `json:"subject"`
	Issuer  string `json:"issuer"`
	// SelfSigned: nobody but the signer says who that is.
	SelfSigned  bool      `json:"self_signed"`
	NotBefore   time.Time `json:"not_before"`
	NotAfter    time.Time `json:"not_after"`
	Fingerprint string    `json:"fingerprint"` // SHA-256 of the certificate, hexadecimal
	// Authority is not checked (no authorities were given), trusted, or not trusted.
	Authority string `json:"authority"`
	// CMS is what became of a signature in CMS beside this one: verified, with the signer if that is another one, or why
	// it is not known; empty: there is none.
	CMS string `json:"cms,omitempty"`
}

// The values of Signature.Authority.
const (
	NotChecked = "not checked against any authority"
	Trusted    = "trusted"
	NotTrusted = "not trusted"
)

// String says it in a line: `signed by "CN=x" (issued by itself), valid 2020-01-01 to 2030-01-01, not checked against any
// authority`.
func (s *Signature) String() string {
	by := fmt.Sprintf("issued by %q", s.Issuer)
	if s.SelfSigned {
		by = "issued by itself"
	}
	const day = "2006-01-02"
	text := fmt.Sprintf("signed by %q (%s), valid %s to %s, %s", s.Subject, by, s.NotBefore.UTC().Format(day), s.NotAfter.UTC().Format(day), s.Authority)
	if s.CMS != "" {
		text += "; in CMS, too: " + s.CMS
	}
	return text
}

// Verify compares the signature with the bytes of a manifest: that of the line, that in CMS, or both. The Signature is
// returned with an error too, if the certificate could be read. Errors wrap ErrSignature (and are then no others),
// ErrAuthority, ErrValidity, or ErrUnsupported for a kind of key, digest or structure that is not known; ErrSyntax for CMS
// that is none. Beside a line, CMS that cannot be read is no error: Signature.CMS says so.
func (c *Certificate) Verify(manifest []byte, o SignatureOptions) (*Signature, error) {
	if c.Value == nil && c.CMS != nil {
		return c.verifyCMS(manifest, o)
	}
	if len(c.Chain) == 0 {
		return nil, fmt.Errorf("%w: no certificate", ErrSyntax)
	}
	leaf := c.Chain[0]
	s := describe(leaf, c.Algorithm)
	h := c.Algorithm.New()
	if h == nil {
		return s, fmt.Errorf("signature: digest %.40q: %w", c.Algorithm, ErrUnsupported)
	}
	h.Write(manifest)
	right, err := verifyKey(leaf, s, c.Algorithm, h.Sum(nil), c.Value)
	if err != nil {
		return s, err
	}
	if !right {
		return s, fmt.Errorf("%w (signed by %q)", ErrSignature, s.Subject)
	}
	err = s.trust(leaf, c.Chain[1:], o)
	if c.CMS == nil {
		return s, err
	}
	other, cerr := c.verifyCMS(manifest, o)
	switch {
	case errors.Is(cerr, ErrSignature):
		return s, cerr
	case errors.Is(cerr, ErrSyntax), errors.Is(cerr, ErrUnsupported):
		s.CMS = cerr.Error()
	case other.Fingerprint != s.Fingerprint:
		s.CMS = "verified, " + other.String()
		err = errors.Join(err, cerr)
	default:
		s.CMS = "verified"
	}
	return s, err
}

// describe says who signed.
func describe(leaf *x509.Certificate, a Algorithm) *Signature {
	sum := sha256.Sum256(leaf.Raw)
	return &Signature{
		Algorithm: a, Subject: leaf.Subject.String(), Issuer: leaf.Issuer.String(), NotBefore: leaf.NotBefore, NotAfter: leaf.NotAfter,
		Fingerprint: hex.EncodeToString(sum[:]), SelfSigned: selfSigned(leaf), Authority: NotChecked,
	}
}

// verifyKey reports whether the certificate's key signed a digest, and says of which kind it is.
func verifyKey(leaf *x509.Certificate, s *Signature, a Algorithm, digest, value []byte) (bool, error) {
	switch k := leaf.PublicKey.(type) {
	case *rsa.PublicKey:
		s.Key = fmt.Sprintf("RSA, %d bits", k.N.BitLen())
		if k.N.BitLen() > maxKey || k.N.BitLen() < minKey {
			return false, fmt.Errorf("signature: RSA key of %d bits: %w", k.N.BitLen(), ErrUnsupported)
		}
		return rsa.VerifyPKCS1v15(k, a.hash(), digest, value) == nil, nil
	case *ecdsa.PublicKey:
		s.Key = "ECDSA, " + k.Curve.Params().Name
		return ecdsa.VerifyASN1(k, digest, value), nil
	}
	return false, fmt.Errorf("signature: a key of kind %s: %w", leaf.PublicKeyAlgorithm, ErrUnsupported)
}

// trust compares the signer's certificate with the time and with the authorities.
func (s *Signature) trust(leaf *x509.Certificate, others []*x509.Certificate, o SignatureOptions) error {
	now := o.Now
	if now.IsZero() {
		now = time.Now()
	}
	var errs []error
	if now.Before(leaf.NotBefore) || now.After(leaf.NotAfter) {
		errs = append(errs, fmt.Errorf("%w: it is valid from %s to %s", ErrValidity, leaf.NotBefore.UTC().Format(time.RFC3339), leaf.NotAfter.UTC().Format(time.RFC3339)))
	}
	if o.Roots != nil {
		between := x509.NewCertPool()
		for _, x := range others {
			between.AddCert(x)
		}
		// That it has expired was said; who stands behind it is another question.
		at := now
		if at.After(leaf.NotAfter) {
			at = leaf.NotAfter
		} else if at.Before(leaf.NotBefore) {
			at = leaf.NotBefore
		}
		_, err := leaf.Verify(x509.VerifyOptions{Roots: o.Roots, Intermediates: between, CurrentTime: at, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageAny}})
		s.Authority = Trusted
		if err != nil {
			s.Authority = NotTrusted
			errs = append(errs, fmt.Errorf("%w: %w", ErrAuthority, err))
		}
	}
	return errors.Join(errs...)
}

func selfSigned(c *x509.Certificate) bool {
	if !bytes.Equal(c.RawIssuer, c.RawSubject) {
		return false
	}
	if k, ok := c.PublicKey.(*rsa.PublicKey); ok && k.N.BitLen() > maxKey {
		return false
	}
	err := c.CheckSignature(c.SignatureAlgorithm, c.RawTBSCertificate, c.Signature)
	var old x509.InsecureAlgorithmError // SHA-1 and MD5, which are not computed: the names have to do
	return err == nil || errors.As(err, &old)
}

// hash is the algorithm in the words of package crypto; 0: not known.
func (a Algorithm) hash() crypto.Hash {
	switch a {
	case SHA1:
		return crypto.SHA1
	case SHA256:
		return crypto.SHA256
	case SHA384:
		return crypto.SHA384
	case SHA512:
		return crypto.SHA512
	}
	return 0
}

// A Signer signs manifests.
type Signer struct {
	key   crypto.Signer
	chain []*x509.Certificate
}

// ReadSigner reads a private key (PKCS #1, PKCS #8 or EC) and its certificate, followed by those between it and an authority,
// from PEM blocks in any order. They may come in several texts. Errors wrap ErrSyntax, ErrUnsupported for a key that is
// encrypted or of another kind, or ErrSignature if key and certificate do not belong together.
func ReadSigner(texts ...[]byte) (*Signer, error) {
	s := new(Signer)
	for _, text := range texts {
		if len(text) > MaxCertificate {
			return nil, fmt.Errorf("%w: key: %d bytes, at most %d", ErrSyntax, len(text), MaxCertificate)
		}
		for {
			var block *pem.Block
			if block, text = pem.Decode(text); block == nil {
				break
			}
			if err := s.add(block); err != nil {
				return nil, err
			}
		}
	}
	switch {
	case s.key == nil:
		return nil, fmt.Errorf("%w: no private key in PEM", ErrSyntax)
	case len(s.chain) == 0:
		return nil, fmt.Errorf("%w: no certificate in PEM", ErrSyntax)
	}
	type equal interface{ Equal(crypto.PublicKey) bool }
	if k, ok := s.key.Public().(equal); !ok || !k.Equal(s.chain[0].PublicKey) {
		return nil, fmt.Errorf("%w: the first certificate is not the key's", ErrSignature)
	}
	return s, nil
}

func (s *Signer) add(block *pem.Block) error {
	var key any
	var err error
	switch block.Type {
	case "CERTIFICATE", "X509 CERTIFICATE":
		x, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return fmt.Errorf("%w: certificate: %w", ErrSyntax, err)
		}
		if s.chain = append(s.chain, x); len(s.chain) > maxChain {
			return fmt.Errorf("%w: more than %d certificates", ErrUnsupported, maxChain)
		}
		return nil
	case "EC PARAMETERS": // openssl ecparam -genkey writes it before the key, which has it again
		return nil
	case "RSA PRIVATE KEY":
		if block.Headers["DEK-Info"] != "" {
			return fmt.Errorf("%w: the private key is encrypted", ErrUnsupported)
		}
		key, err = x509.ParsePKCS1PrivateKey(block.Bytes)
	case "EC PRIVATE KEY":
		if block.Headers["DEK-Info"] != "" {
			return fmt.Errorf("%w: the private key is encrypted", ErrUnsupported)
		}
		key, err = x509.ParseECPrivateKey(block.Bytes)
	case "PRIVATE KEY":
		key, err = x509.ParsePKCS8PrivateKey(block.Bytes)
	case "ENCRYPTED PRIVATE KEY":
		return fmt.Errorf("%w: the private key is encrypted", ErrUnsupported)
	default:
		return fmt.Errorf("%w: a PEM block %.40q", ErrUnsupported, block.Type)
	}
	if err != nil {
		return fmt.Errorf("%w: private key: %w", ErrSyntax, err)
	}
	if s.key != nil {
		return fmt.Errorf("%w: two private keys", ErrSyntax)
	}
	switch k := key.(type) {
	case *rsa.PrivateKey:
		if n := k.N.BitLen(); n < minKey || n > maxKey {
			return fmt.Errorf("%w: RSA key of %d bits", ErrUnsupported, n)
		}
		s.key = k
	case *ecdsa.PrivateKey:
		s.key = k
	default:
		return fmt.Errorf("%w: private key of kind %T", ErrUnsupported, key)
	}
	return nil
}

// Sign returns a .cert file for a manifest of that name in the package and that content. The same key gives the same
// bytes each time, and Size of them: newlines fill up what an ECDSA signature is shorter than it could be. Errors wrap
// ErrUnsupported for the algorithm, or are the key's.
func (s *Signer) Sign(a Algorithm, name string, manifest []byte) ([]byte, error) {
	h := a.New()
	if h == nil {
		return nil, fmt.Errorf("signature: digest %.40q: %w", a, ErrUnsupported)
	}
	h.Write(manifest)
	// Without a source of chance ECDSA is RFC 6979's, and PKCS #1 1.5 needs none.
	value, err := s.key.Sign(nil, h.Sum(nil), a.hash())
	if err != nil {
		return nil, fmt.Errorf("signature: %w", err)
	}
	b := s.file(a, name, value)
	return append(b, bytes.Repeat([]byte{'\n'}, max(0, int(s.Size(a, name))-len(b)))...), nil
}

// Size is the number of bytes that Sign returns for a manifest of that name.
func (s *Signer) Size(a Algorithm, name string) int64 {
	n := 0
	switch k := s.key.Public().(type) {
	case *rsa.PublicKey:
		n = k.Size()
	case *ecdsa.PublicKey:
		n = sizeASN1(k.Curve)
	}
	return int64(len(s.file(a, name, make([]byte, n))))
}

// sizeASN1 is that of the longest sequence of two integers below a curve's order.
func sizeASN1(c elliptic.Curve) int {
	n := (c.Params().BitSize+7)/8 + 1 + 2 // a sign byte, tag and length
	return 2*n + 3                        // tag, and a length of two bytes
}

func (s *Signer) file(a Algorithm, name string, value []byte) []byte {
	b := AppendDigest(nil, Digest{Algorithm: a, Name: name, Sum: value})
	for _, x := range s.chain {
		b = append(b, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: x.Raw})...)
	}
	return b
}
