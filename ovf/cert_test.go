package ovf_test

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"math/big"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"crypto"

	"tarvm/ovf"
)

var (
	now    = time.Date(2026, 6, 1, 0, 0, 0, 0, time.UTC)
	mfText = []byte("SHA256(vm.ovf)= " + strings.Repeat("00", 32) + "\n")
)

func certificate(t testing.TB, name string, key crypto.Signer, issuer *x509.Certificate, issuerKey crypto.Signer) *x509.Certificate {
	t.Helper()
	x := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: name}, NotBefore: now.AddDate(-1, 0, 0), NotAfter: now.AddDate(1, 0, 0),
		IsCA: issuer == nil || strings.HasPrefix(name, "CA"), BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageDigitalSignature,
	}
	if issuer == nil {
		issuer, issuerKey = x, key
	}
	b, err := x509.CreateCertificate(rand.Reader, x, issuer, key.Public(), issuerKey)
	if err != nil {
		t.Fatal(err)
	}
	if x, err = x509.ParseCertificate(b); err != nil {
		t.Fatal(err)
	}
	return x
}

func block(kind string, b []byte) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: b})
}

func pkcs8(t testing.TB, key any) []byte {
	t.Helper()
	b, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	return block("PRIVATE KEY", b)
}

// keys are of all kinds that are supported, with their certificates.
func keys(t testing.TB) map[string][2][]byte {
	t.Helper()
	r, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	out := map[string][2][]byte{
		"RSA":         {pkcs8(t, r), block("CERTIFICATE", certificate(t, "rsa", r, nil, nil).Raw)},
		"RSA PKCS #1": {block("RSA PRIVATE KEY", x509.MarshalPKCS1PrivateKey(r)), block("CERTIFICATE", certificate(t, "rsa1", r, nil, nil).Raw)},
	}
	for _, c := range []elliptic.Curve{elliptic.P256(), elliptic.P521()} {
		e, err := ecdsa.GenerateKey(c, rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		b, err := x509.MarshalECPrivateKey(e)
		if err != nil {
			t.Fatal(err)
		}
		x := block("CERTIFICATE", certificate(t, "ec", e, nil, nil).Raw)
		out[c.Params().Name] = [2][]byte{append(block("EC PARAMETERS", []byte{6}), block("EC PRIVATE KEY", b)...), x}
		out[c.Params().Name+" PKCS #8"] = [2][]byte{pkcs8(t, e), x}
	}
	return out
}

func TestSign(t *testing.T) {
	for name, k := range keys(t) {
		for _, a := range []ovf.Algorithm{ovf.SHA1, ovf.SHA256, ovf.SHA384, ovf.SHA512} {
			s, err := ovf.ReadSigner(k[0], k[1])
			if err != nil {
				t.Fatalf("%s: %v", name, err)
			}
			b, err := s.Sign(a, "vm.mf", mfText)
			if err != nil {
				t.Fatalf("%s: %v", name, err)
			}
			again, err := s.Sign(a, "vm.mf", mfText)
			if err != nil || !bytes.Equal(b, again) || int64(len(b)) != s.Size(a, "vm.mf") {
				t.Errorf("%s: not the same twice, or not of the size %d", name, s.Size(a, "vm.mf"))
			}
			c, err := ovf.ReadCertificate(b)
			if err != nil || c.Algorithm != a || c.Name != "vm.mf" || c.CMS != nil {
				t.Fatalf("%s: %+v, %v", name, c, err)
			}
			sig, err := c.Verify(mfText, ovf.SignatureOptions{Now: now})
			if err != nil || !sig.SelfSigned || sig.Authority != ovf.NotChecked || !strings.HasPrefix(sig.Subject, "CN=") || sig.Key == "" {
				t.Errorf("%s: %+v, %v", name, sig, err)
			}
			if _, err := c.Verify(append([]byte("\n"), mfText...), ovf.SignatureOptions{Now: now}); !errors.Is(err, ovf.ErrSignature) {
				t.Errorf("%s: another manifest: %v", name, err)
			}
			c.Value[len(c.Value)-1] ^= 1
			if _, err := c.Verify(mfText, ovf.SignatureOptions{Now: now}); !errors.Is(err, ovf.ErrSignature) {
				t.Errorf("%s: another signature: %v", name, err)
			}
		}
	}
}

// TestSignForOpenssl has openssl verify what is signed here, and verifies here what it signs.
func TestSignForOpenssl(t *testing.T) {
	dir := t.TempDir()
	put := func(name string, b []byte) {
		if err := os.WriteFile(filepath.Join(dir, name), b, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	put("vm.mf", mfText)
	for name, k := range keys(t) {
		t.Run(name, func(t *testing.T) {
			for _, a := range []ovf.Algorithm{ovf.SHA1, ovf.SHA256, ovf.SHA512} {
				flag := "-" + strings.ToLower(string(a))
				s, err := ovf.ReadSigner(k[1], k[0]) // in another order
				if err != nil {
					t.Fatal(err)
				}
				b, err := s.Sign(a, "vm.mf", mfText)
				if err != nil {
					t.Fatal(err)
				}
				c, err := ovf.ReadCertificate(b)
				if err != nil {
					t.Fatal(err)
				}
				put("sig", c.Value)
				put("cert.pem", k[1])
				put("pub.pem", []byte(command(t, dir, "openssl", "x509", "-in", "cert.pem", "-pubkey", "-noout")))
				if out := command(t, dir, "openssl", "dgst", flag, "-verify", "pub.pem", "-signature", "sig", "vm.mf"); out != "Verified OK\n" {
					t.Errorf("openssl: %s", out)
				}
				put("key.pem", k[0])
				command(t, dir, "openssl", "dgst", flag, "-sign", "key.pem", "-out", "theirs", "vm.mf")
				theirs, err := os.ReadFile(filepath.Join(dir, "theirs"))
				if err != nil {
					t.Fatal(err)
				}
				text := string(a) + " (vm.mf) = " + strings.ToUpper(hex.EncodeToString(theirs)) + "\r\n" + string(k[1])
				if c, err = ovf.ReadCertificate([]byte(text)); err != nil {
					t.Fatal(err)
				}
				if _, err := c.Verify(mfText, ovf.SignatureOptions{Now: now}); err != nil {
					t.Errorf("openssl's: %v", err)
				}
			}
		})
	}
}

func TestAuthorities(t *testing.T) {
	newKey := func() crypto.Signer {
		k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		return k
	}
	rootKey, midKey, key := newKey(), newKey(), newKey()
	root := certificate(t, "CA root", rootKey, nil, nil)
	mid := certificate(t, "CA between", midKey, root, rootKey)
	leaf := certificate(t, "signer", key, mid, midKey)
	s, err := ovf.ReadSigner(pkcs8(t, key), block("CERTIFICATE", leaf.Raw), block("CERTIFICATE", mid.Raw))
	if err != nil {
		t.Fatal(err)
	}
	b, err := s.Sign(ovf.SHA256, "vm.mf", mfText)
	if err != nil {
		t.Fatal(err)
	}
	pool := func(list ...*x509.Certificate) *x509.CertPool {
		p := x509.NewCertPool()
		for _, x := range list {
			p.AddCert(x)
		}
		return p
	}
	for name, c := range map[string]struct {
		roots     *x509.CertPool
		now       time.Time
		want, not error
		authority string
	}{
		"none":            {nil, now, nil, nil, ovf.NotChecked},
		"trusted":         {pool(root), now, nil, nil, ovf.Trusted},
		"the one between": {pool(mid), now, nil, nil, ovf.Trusted},
		"empty":           {pool(), now, ovf.ErrAuthority, ovf.ErrValidity, ovf.NotTrusted},
		"another":         {pool(certificate(t, "CA x", newKey(), nil, nil)), now, ovf.ErrAuthority, ovf.ErrValidity, ovf.NotTrusted},
		"expired":         {nil, now.AddDate(2, 0, 0), ovf.ErrValidity, ovf.ErrAuthority, ovf.NotChecked},
		"expired, root":   {pool(root), now.AddDate(2, 0, 0), ovf.ErrValidity, ovf.ErrAuthority, ovf.Trusted},
		"too early":       {nil, now.AddDate(-2, 0, 0), ovf.ErrValidity, ovf.ErrSignature, ovf.NotChecked},
	} {
		cert, err := ovf.ReadCertificate(b)
		if err != nil {
			t.Fatal(err)
		}
		sig, err := cert.Verify(mfText, ovf.SignatureOptions{Roots: c.roots, Now: c.now})
		if !errors.Is(err, c.want) || c.not != nil && errors.Is(err, c.not) || sig == nil || sig.Authority != c.authority || sig.SelfSigned {
			t.Errorf("%s: %v, %+v", name, err, sig)
		}
	}
	cert, err := ovf.ReadCertificate(b)
	if err != nil {
		t.Fatal(err)
	}
	sig, err := cert.Verify(mfText, ovf.SignatureOptions{Now: now})
	if want := `signed by "CN=signer" (issued by "CN=CA between"), valid 2025-06-01 to 2027-06-01, not checked against any authority`; err != nil || sig.String() != want {
		t.Errorf("%s, %v", sig, err)
	}
	// Without the one between, the root does not help.
	cert.Chain = cert.Chain[:1]
	if _, err := cert.Verify(mfText, ovf.SignatureOptions{Roots: pool(root), Now: now}); !errors.Is(err, ovf.ErrAuthority) {
		t.Error(err)
	}
}

func TestCertificateErrors(t *testing.T) {
	k := keys(t)["P-256"]
	x := string(k[1])
	const line = "SHA256(vm.mf)= 00ff\n"
	_, ed, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	edCert := string(block("CERTIFICATE", certificate(t, "ed", ed, nil, nil).Raw))
	for name, c := range map[string]struct {
		text string
		want error
	}{
		"empty": {"", ovf.ErrSyntax}, "no certificate": {line, ovf.ErrSyntax}, "no signature": {x, ovf.ErrSyntax},
		"two signatures": {line + line + x, ovf.ErrSyntax}, "cut": {line + x[:len(x)/2], ovf.ErrSyntax},
		"no DER":   {line + string(block("CERTIFICATE", []byte("x"))), ovf.ErrSyntax},
		"key":      {line + x + string(k[0]), ovf.ErrUnsupported},
		"CMS":      {line + x + strings.Repeat(string(block("CMS", []byte("x"))), 2), ovf.ErrSyntax},
		"too much": {line + x + strings.Repeat("\n", ovf.MaxCertificate), ovf.ErrSyntax},
		"chain":    {line + strings.Repeat(x, 33), ovf.ErrUnsupported},
	} {
		if _, err := ovf.ReadCertificate([]byte(c.text)); !errors.Is(err, c.want) {
			t.Errorf("%s: %v", name, err)
		}
	}
	for name, text := range map[string]string{
		"line behind": x + line, "text around": "Certificate:\n    Data:\n" + x + "\n\n" + line, "with CMS": line + x + string(block("PKCS7", []byte("x"))),
		"mark, CRLF": "\ufeff" + strings.ReplaceAll(line+x, "\n", "\r\n"),
	} {
		c, err := ovf.ReadCertificate([]byte(text))
		if err != nil || hex.EncodeToString(c.Value) != "00ff" || len(c.Chain) != 1 || (c.CMS != nil) != (name == "with CMS") {
			t.Errorf("%s: %+v, %v", name, c, err)
		}
	}
	for text, want := range map[string]error{
		line + edCert: ovf.ErrUnsupported, "MD5(vm.mf)= 00\n" + x: ovf.ErrUnsupported, line + x: ovf.ErrSignature,
	} {
		c, err := ovf.ReadCertificate([]byte(text))
		if err != nil {
			t.Fatal(err)
		}
		if _, err := c.Verify(mfText, ovf.SignatureOptions{}); !errors.Is(err, want) {
			t.Errorf("%.20q: %v", text, err)
		}
	}
	other := keys(t)["P-256"]
	for name, c := range map[string]struct {
		text []byte
		want error
	}{
		"nothing": {nil, ovf.ErrSyntax}, "no key": {k[1], ovf.ErrSyntax}, "no certificate": {k[0], ovf.ErrSyntax},
		"another's": {append(bytes.Clone(k[0]), other[1]...), ovf.ErrSignature}, "two keys": {append(append(bytes.Clone(k[0]), other[0]...), k[1]...), ovf.ErrSyntax},
		"Ed25519":   {append(pkcs8(t, ed), edCert...), ovf.ErrUnsupported},
		"encrypted": {block("ENCRYPTED PRIVATE KEY", []byte("x")), ovf.ErrUnsupported}, "broken": {block("PRIVATE KEY", []byte("x")), ovf.ErrSyntax},
		"old encryption": {pem.EncodeToMemory(&pem.Block{Type: "RSA PRIVATE KEY", Headers: map[string]string{"DEK-Info": "AES"}, Bytes: []byte("x")}), ovf.ErrUnsupported},
	} {
		if _, err := ovf.ReadSigner(c.text); !errors.Is(err, c.want) {
			t.Errorf("%s: %v", name, err)
		}
	}
	s, err := ovf.ReadSigner(k[0], k[1])
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.Sign("MD5", "vm.mf", nil); !errors.Is(err, ovf.ErrUnsupported) {
		t.Error(err)
	}
}

func FuzzReadCertificate(f *testing.F) {
	k := keys(f)
	for _, name := range []string{"RSA", "P-256"} {
		s, err := ovf.ReadSigner(k[name][0], k[name][1])
		if err != nil {
			f.Fatal(err)
		}
		b, err := s.Sign(ovf.SHA256, "vm.mf", mfText)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
	}
	f.Add([]byte("SHA1(x)= 00\n-----BEGIN CMS-----\n-----END CMS-----\n"))
	f.Fuzz(func(t *testing.T, b []byte) {
		c, err := ovf.ReadCertificate(b)
		if err != nil {
			if !errors.Is(err, ovf.ErrSyntax) && !errors.Is(err, ovf.ErrUnsupported) {
				t.Fatal(err)
			}
			return
		}
		// What was read is read again from what is written of it.
		text := ovf.AppendDigest(nil, ovf.Digest{Algorithm: c.Algorithm, Name: c.Name, Sum: c.Value})
		for _, x := range c.Chain {
			text = append(text, block("CERTIFICATE", x.Raw)...)
		}
		if c.Value != nil && strings.TrimSpace(c.Name) == c.Name && strings.TrimSpace(string(c.Algorithm)) != "" && !strings.ContainsAny(c.Name+string(c.Algorithm), "\r\n") {
			again, err := ovf.ReadCertificate(text)
			if err != nil || again.Name != c.Name || !bytes.Equal(again.Value, c.Value) || len(again.Chain) != len(c.Chain) {
				t.Fatalf("%v\n%s", err, text)
			}
		}
		s, err := c.Verify(mfText, ovf.SignatureOptions{Roots: x509.NewCertPool(), Now: now})
		if err == nil {
			t.Fatalf("an empty list of authorities trusts %s", s)
		}
	})
}

// TestVirtualBoxSigned reads what VBoxManage signova of VirtualBox 7.2.22 made, with --no-pkcs7 and a key that openssl req
// -x509 -newkey rsa:2048 -subj "/CN=Test Signer/O=Example" made. (VBoxManage import takes what Sign makes of the same
// manifest and key with the same remark, that the certificate is self-signed.)
func TestVirtualBoxSigned(t *testing.T) {
	read := func(name string) []byte {
		b, err := os.ReadFile(filepath.Join("testdata", name))
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	c, err := ovf.ReadCertificate(read("virtualbox-7.2.22.cert"))
	if err != nil {
		t.Fatal(err)
	}
	s, err := c.Verify(read("virtualbox-7.2.22.mf"), ovf.SignatureOptions{Now: time.Date(2027, 1, 1, 0, 0, 0, 0, time.UTC)})
	if err != nil || s.Subject != "CN=Test Signer,O=Example" || s.Key != "RSA, 2048 bits" || !s.SelfSigned || c.Name != "blank.mf" {
		t.Errorf("%+v, %v", s, err)
	}
}
