package ovf

import (
	"bytes"
	"crypto/x509"
	"encoding/asn1"
	"fmt"
	"math/big"
)

// Object identifiers of RFC 5652 (CMS), section 5 and 11, RFC 8017 (RSA), RFC 5758 (ECDSA) and RFC 5754 (digests).
var (
	oidSignedData    = asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 7, 2}
	oidContentType   = asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 9, 3}
	oidMessageDigest = asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 9, 4}
)

// cmsDigests are the digests by their identifiers.
var cmsDigests = map[string]Algorithm{
	"1.3.14.3.2.26": SHA1, "2.16.840.1.101.3.4.2.1": SHA256, "2.16.840.1.101.3.4.2.2": SHA384, "2.16.840.1.101.3.4.2.3": SHA512,
}

// cmsSignatures are the algorithms of signatures, with the digest that they name; "": the one of the signer. (PSS and
// EdDSA are not among them.)
var cmsSignatures = map[string]Algorithm{
	"1.2.840.113549.1.1.1": "", "1.2.840.113549.1.1.5": SHA1, "1.2.840.113549.1.1.11": SHA256, "1.2.840.113549.1.1.12": SHA384, "1.2.840.113549.1.1.13": SHA512,
	"1.2.840.10045.2.1": "", "1.2.840.10045.4.1": SHA1, "1.2.840.10045.4.3.2": SHA256, "1.2.840.10045.4.3.3": SHA384, "1.2.840.10045.4.3.4": SHA512,
}

// The structures of RFC 5652. encoding/asn1 takes DER alone: what OpenSSL writes as a stream, in BER, is not read.
type (
	cmsContentInfo struct {
		Type    asn1.ObjectIdentifier
		Content asn1.RawValue `asn1:"explicit,tag:0"`
	}
	cmsSignedData struct {
		Version      int
		Digests      asn1.RawValue
		Content      cmsEncapsulated
		Certificates asn1.RawValue `asn1:"optional,tag:0"`
		CRLs         asn1.RawValue `asn1:"optional,tag:1"`
		Signers      []cmsSigner   `asn1:"set"`
	}
	cmsEncapsulated struct {
		Type    asn1.ObjectIdentifier
		Content asn1.RawValue `asn1:"optional,explicit,tag:0"`
	}
	cmsSigner struct {
		Version    int
		ID         asn1.RawValue // issuer and serial number, or [0] the key's identifier
		Digest     cmsAlgorithm
		Signed     asn1.RawValue `asn1:"optional,tag:0"`
		Signature  cmsAlgorithm
		Value      []byte
		Unverified asn1.RawValue `asn1:"optional,tag:1"`
	}
	cmsAlgorithm struct {
		Algorithm  asn1.ObjectIdentifier
		Parameters asn1.RawValue `asn1:"optional"`
	}
	cmsAttribute struct {
		Type   asn1.ObjectIdentifier
		Values asn1.RawValue `asn1:"set"`
	}
	cmsIssuer struct {
		Name   asn1.RawValue
		Serial *big.Int
	}
)

func cmsFail(kind error, format string, a ...any) error {
	return fmt.Errorf("%w: signature in CMS: %s", kind, fmt.Sprintf(format, a...))
}

// verifyCMS compares the block of CMS with a manifest. It is as Verify, but that ErrSyntax is possible.
func (c *Certificate) verifyCMS(manifest []byte, o SignatureOptions) (*Signature, error) {
	var info cmsContentInfo
	if len(c.CMS) > 1 && c.CMS[1] == 0x80 {
		return nil, cmsFail(ErrUnsupported, "it is in BER")
	}
	if err := whole(c.CMS, &info); err != nil {
		return nil, cmsFail(ErrSyntax, "%s", err)
	}
	if !info.Type.Equal(oidSignedData) {
		return nil, cmsFail(ErrUnsupported, "content of type %s", info.Type)
	}
	var data cmsSignedData
	if err := whole(info.Content.Bytes, &data); err != nil {
		return nil, cmsFail(ErrSyntax, "signed data: %s", err)
	}
	if len(data.Signers) != 1 {
		return nil, cmsFail(ErrUnsupported, "%d signers", len(data.Signers))
	}
	chain, err := data.chain(c.Chain)
	if err != nil {
		return nil, err
	}
	signer := &data.Signers[0]
	a, ok := cmsDigests[signer.Digest.Algorithm.String()]
	if !ok {
		return nil, cmsFail(ErrUnsupported, "digest %s", signer.Digest.Algorithm)
	}
	if named, ok := cmsSignatures[signer.Signature.Algorithm.String()]; !ok || named != "" && named != a {
		return nil, cmsFail(ErrUnsupported, "algorithm %s with %s", signer.Signature.Algorithm, a)
	}
	leaf := signer.find(chain)
	if leaf == nil {
		return nil, cmsFail(ErrSyntax, "the signer's certificate is not there")
	}
	s := describe(leaf, a)
	wrong := fmt.Errorf("%w (in CMS, by %q)", ErrSignature, s.Subject)
	if len(data.Content.Content.FullBytes) > 0 {
		var text []byte
		if err := whole(data.Content.Content.Bytes, &text); err != nil {
			return s, cmsFail(ErrSyntax, "content: %s", err)
		}
		if !sameLines(text, manifest) {
			return s, wrong
		}
		manifest = text
	}
	// openssl cms and smime, without -binary, sign text as mail has it.
	for _, text := range [][]byte{manifest, bytes.ReplaceAll(bytes.ReplaceAll(manifest, []byte("\r\n"), []byte("\n")), []byte("\n"), []byte("\r\n"))} {
		digest, err := signer.digest(a, text, data.Content.Type)
		if err != nil {
			return s, err
		}
		if digest == nil {
			continue // not of this text
		}
		right, err := verifyKey(leaf, s, a, digest, signer.Value)
		if err != nil {
			return s, err
		}
		if right {
			return s, s.trust(leaf, chain, o)
		}
	}
	return s, wrong
}

// whole decodes b, all of it.
func whole(b []byte, to any) error {
	rest, err := asn1.Unmarshal(b, to)
	if err == nil && len(rest) > 0 {
		err = fmt.Errorf("%d bytes behind it", len(rest))
	}
	return err
}

func sameLines(a, b []byte) bool {
	plain := func(b []byte) []byte { return bytes.ReplaceAll(b, []byte("\r\n"), []byte("\n")) }
	return bytes.Equal(plain(a), plain(b))
}

// chain returns the certificates of the block, and those beside it.
func (d *cmsSignedData) chain(beside []*x509.Certificate) ([]*x509.Certificate, error) {
	var list []*x509.Certificate
	for rest := d.Certificates.Bytes; len(rest) > 0; {
		var raw asn1.RawValue
		var err error
		if rest, err = asn1.Unmarshal(rest, &raw); err != nil {
			return nil, cmsFail(ErrSyntax, "certificates: %s", err)
		}
		if raw.Class != asn1.ClassUniversal {
			continue // attribute certificates and the like
		}
		x, err := x509.ParseCertificate(raw.FullBytes)
		if err != nil {
			return nil, cmsFail(ErrSyntax, "certificate: %s", err)
		}
		if list = append(list, x); len(list) > maxChain {
			return nil, cmsFail(ErrUnsupported, "more than %d certificates", maxChain)
		}
	}
	return append(list, beside...), nil
}

// find returns the signer's certificate, or nil.
func (s *cmsSigner) find(chain []*x509.Certificate) *x509.Certificate {
	var by cmsIssuer
	named := false
	if s.ID.Class == asn1.ClassUniversal {
		named = whole(s.ID.FullBytes, &by) == nil
	}
	for _, x := range chain {
		switch {
		case named && bytes.Equal(x.RawIssuer, by.Name.FullBytes) && x.SerialNumber.Cmp(by.Serial) == 0:
			return x
		case s.ID.Class == asn1.ClassContextSpecific && s.ID.Tag == 0 && len(x.SubjectKeyId) > 0 && bytes.Equal(x.SubjectKeyId, s.ID.Bytes):
			return x
		}
	}
	return nil
}

// digest returns what was signed: the digest of the text, or of the attributes, if these have the digest of the text. nil:
// they have another.
func (s *cmsSigner) digest(a Algorithm, text []byte, kind asn1.ObjectIdentifier) ([]byte, error) {
	h := a.New()
	h.Write(text)
	sum := h.Sum(nil)
	if len(s.Signed.FullBytes) == 0 {
		return sum, nil
	}
	var gotKind asn1.ObjectIdentifier
	var gotSum []byte
	kinds, sums := 0, 0
	for rest := s.Signed.Bytes; len(rest) > 0; {
		var at cmsAttribute
		var err error
		if rest, err = asn1.Unmarshal(rest, &at); err != nil {
			return nil, cmsFail(ErrSyntax, "attributes: %s", err)
		}
		switch {
		case at.Type.Equal(oidContentType):
			err = whole(at.Values.Bytes, &gotKind)
			kinds++
		case at.Type.Equal(oidMessageDigest):
			err = whole(at.Values.Bytes, &gotSum)
			sums++
		}
		if err != nil {
			return nil, cmsFail(ErrSyntax, "attribute %s: %s", at.Type, err)
		}
	}
	if kinds != 1 || sums != 1 || !gotKind.Equal(kind) {
		return nil, cmsFail(ErrSyntax, "attributes without the type and the digest of the content")
	}
	if !bytes.Equal(gotSum, sum) {
		return nil, nil
	}
	// They are signed as the SET OF that they are, not with the tag that they have in their place.
	set := bytes.Clone(s.Signed.FullBytes)
	set[0] = asn1.TagSet | 0x20
	h = a.New()
	h.Write(set)
	return h.Sum(nil), nil
}
