package ovf_test

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/asn1"
	"encoding/pem"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"tarvm/ovf"
)

// openssl makes signatures of CMS in a folder of its own.
type openssl struct {
	t   *testing.T
	dir string
}

func (o openssl) put(name string, b []byte) {
	o.t.Helper()
	if err := os.WriteFile(filepath.Join(o.dir, name), b, 0o600); err != nil {
		o.t.Fatal(err)
	}
}

// sign has key.pem and cert.pem sign vm.mf, and returns the block.
func (o openssl) sign(args ...string) []byte {
	o.t.Helper()
	all := append([]string{args[0], "-sign", "-in", "vm.mf", "-signer", "cert.pem", "-inkey", "key.pem", "-outform", "PEM", "-out", "sig.pem"}, args[1:]...)
	command(o.t, o.dir, "openssl", all...)
	b, err := os.ReadFile(filepath.Join(o.dir, "sig.pem"))
	if err != nil {
		o.t.Fatal(err)
	}
	return b
}

// TestCMS verifies what openssl signs, and nothing else.
func TestCMS(t *testing.T) {
	o := openssl{t, t.TempDir()}
	o.put("vm.mf", mfText)
	list := map[string]crypto.Signer{}
	var err error
	if list["RSA"], err = rsa.GenerateKey(rand.Reader, 2048); err != nil {
		t.Fatal(err)
	}
	if list["P-256"], err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader); err != nil {
		t.Fatal(err)
	}
	other := bytes.ReplaceAll(mfText, []byte("0"), []byte("1"))
	for kind, key := range list {
		root := certificate(t, "CA "+kind, list["P-256"], nil, nil)
		leaf := certificate(t, "signer", key, root, list["P-256"])
		x := block("CERTIFICATE", leaf.Raw)
		o.put("key.pem", pkcs8(t, key))
		o.put("cert.pem", x)
		roots := x509.NewCertPool()
		roots.AddCert(root)
		for name, args := range map[string][]string{
			"cms":          {"cms", "-binary"},
			"text as mail": {"cms"},
			"smime":        {"smime", "-binary"},
			"SHA-1":        {"cms", "-binary", "-md", "sha1"},
			"SHA-512":      {"cms", "-binary", "-md", "sha512"},
			"attached":     {"cms", "-binary", "-nodetach"},
			"no attribute": {"cms", "-binary", "-noattr"},
			"key's id":     {"cms", "-binary", "-keyid"},
			"no certs":     {"cms", "-binary", "-nocerts"},
		} {
			if name == "key's id" && len(leaf.SubjectKeyId) == 0 {
				continue
			}
			text := o.sign(args...)
			if name == "no certs" {
				text = append(text, x...)
			}
			c, err := ovf.ReadCertificate(text)
			if err != nil {
				t.Errorf("%s, %s: %v", kind, name, err)
				continue
			}
			s, err := c.Verify(mfText, ovf.SignatureOptions{Roots: roots, Now: now})
			if err != nil || s.Subject != "CN=signer" || s.Issuer != "CN=CA "+kind || s.Authority != ovf.Trusted || s.Key == "" || s.CMS != "" {
				t.Errorf("%s, %s: %+v, %v", kind, name, s, err)
			}
			if s, err := c.Verify(other, ovf.SignatureOptions{Now: now}); !errors.Is(err, ovf.ErrSignature) || s == nil {
				t.Errorf("%s, %s: another manifest: %+v, %v", kind, name, s, err)
			}
			if _, err := c.Verify(mfText, ovf.SignatureOptions{Roots: x509.NewCertPool(), Now: now}); !errors.Is(err, ovf.ErrAuthority) {
				t.Errorf("%s, %s: no authority: %v", kind, name, err)
			}
			if _, err := c.Verify(mfText, ovf.SignatureOptions{Now: now.AddDate(9, 0, 0)}); !errors.Is(err, ovf.ErrValidity) {
				t.Errorf("%s, %s: expired: %v", kind, name, err)
			}
			// Whatever byte is changed, another manifest does not pass.
			for i := 0; i < len(c.CMS); i += 37 {
				d := *c
				d.CMS = bytes.Clone(c.CMS)
				d.CMS[i] ^= 1
				_, err = d.Verify(other, ovf.SignatureOptions{Now: now})
				if err == nil || !errors.Is(err, ovf.ErrSignature) && !errors.Is(err, ovf.ErrSyntax) && !errors.Is(err, ovf.ErrUnsupported) {
					t.Errorf("%s, %s: byte %d changed: another manifest: %v", kind, name, i, err)
				}
			}
		}
		// Beside a line, both must be right.
		signer, err := ovf.ReadSigner(pkcs8(t, key), x)
		if err != nil {
			t.Fatal(err)
		}
		line, err := signer.Sign(ovf.SHA256, "vm.mf", mfText)
		if err != nil {
			t.Fatal(err)
		}
		good := o.sign("cms", "-binary")
		o.put("vm.mf", other)
		bad := o.sign("cms", "-binary")
		o.put("vm.mf", mfText)
		for name, tc := range map[string]struct {
			cms  []byte
			says string
			err  error
		}{
			"right":  {good, "verified", nil},
			"wrong":  {bad, "", ovf.ErrSignature},
			"broken": {block("CMS", []byte("x")), "invalid OVF: signature in CMS: ", nil},
			"BER":    {block("CMS", []byte{0x30, 0x80, 6, 1, 0}), "it is in BER", nil},
		} {
			c, err := ovf.ReadCertificate(append(bytes.Clone(line), tc.cms...))
			if err != nil {
				t.Fatal(err)
			}
			s, err := c.Verify(mfText, ovf.SignatureOptions{Now: now})
			if !errors.Is(err, tc.err) || s == nil || !strings.Contains(s.CMS, tc.says) || tc.says != "" && !strings.Contains(s.String(), "in CMS, too: ") {
				t.Errorf("%s, %s: %+v, %v", kind, name, s, err)
			}
		}
	}
}

// TestCMSErrors: structures that contradict themselves.
func TestCMSErrors(t *testing.T) {
	o := openssl{t, t.TempDir()}
	o.put("vm.mf", mfText)
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	x := certificate(t, "signer", key, nil, nil)
	o.put("key.pem", pkcs8(t, key))
	o.put("cert.pem", block("CERTIFICATE", x.Raw))
	good, _ := pem.Decode(o.sign("cms", "-binary"))
	change := func(from, to []byte) []byte {
		if bytes.Count(good.Bytes, from) == 0 || len(from) != len(to) {
			t.Fatalf("%x", from)
		}
		return bytes.ReplaceAll(good.Bytes, from, to)
	}
	pss, _ := pem.Decode(o.sign("cms", "-binary", "-keyopt", "rsa_padding_mode:pss"))
	bare, _ := pem.Decode(o.sign("cms", "-binary", "-nocerts"))
	oid := func(list ...int) []byte {
		b, err := asn1.Marshal(asn1.ObjectIdentifier(list))
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	for name, tc := range map[string]struct {
		der  []byte
		want error
	}{
		"none":             {[]byte{}, ovf.ErrSyntax},
		"no ASN.1":         {[]byte("hello"), ovf.ErrSyntax},
		"cut":              {good.Bytes[:len(good.Bytes)-9], ovf.ErrSyntax},
		"more behind":      {append(bytes.Clone(good.Bytes), 5, 0), ovf.ErrSyntax},
		"enveloped":        {change(oid(1, 2, 840, 113549, 1, 7, 2), oid(1, 2, 840, 113549, 1, 7, 3)), ovf.ErrUnsupported},
		"digest":           {change(oid(2, 16, 840, 1, 101, 3, 4, 2, 1), oid(2, 16, 840, 1, 101, 3, 4, 2, 9)), ovf.ErrUnsupported},
		"no digest inside": {change(oid(1, 2, 840, 113549, 1, 9, 4), oid(1, 2, 840, 113549, 1, 9, 7)), ovf.ErrSyntax},
		"two types":        {change(oid(1, 2, 840, 113549, 1, 9, 4), oid(1, 2, 840, 113549, 1, 9, 3)), ovf.ErrSyntax},
		"PSS":              {pss.Bytes, ovf.ErrUnsupported},
		"nobody":           {bare.Bytes, ovf.ErrSyntax},
	} {
		c, err := ovf.ReadCertificate(block("PKCS7", tc.der))
		if err != nil {
			t.Fatal(err)
		}
		if _, err := c.Verify(mfText, ovf.SignatureOptions{Now: now}); !errors.Is(err, tc.want) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func FuzzCMS(f *testing.F) {
	f.Add([]byte{0x30, 0x80}, []byte("x"))
	f.Add([]byte("\x30\x0d\x06\x09\x2a\x86\x48\x86\xf7\x0d\x01\x07\x02"), []byte("x"))
	f.Fuzz(func(t *testing.T, der, manifest []byte) {
		c := &ovf.Certificate{CMS: append([]byte{}, der...)}
		s, err := c.Verify(manifest, ovf.SignatureOptions{Roots: x509.NewCertPool(), Now: now})
		if err == nil {
			t.Fatalf("an empty list of authorities trusts %s", s)
		}
	})
}
