package cli

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"reflect"
	"regexp"
	"strings"
	"testing"
	"time"

	"tarvm/formats"
	"tarvm/formats/machine"
	"tarvm/ovf"
	"tarvm/ovf/lint"
	"tarvm/ovf/ova"
	"tarvm/ovf/target"
)

// Each error of the packages of machines has an exit code, and a hint.
func TestMachineErrors(t *testing.T) {
	for _, c := range []struct {
		err  error
		code int
		hint string
	}{
		{ovf.ErrDigest, exitCorrupt, "tarvm ovf verify"},
		{ova.ErrSize, exitCorrupt, "tarvm ovf verify"},
		{ova.ErrNotListed, exitCorrupt, "tarvm ovf verify"},
		{ova.ErrCorrupt, exitCorrupt, "get it again"},
		{ova.ErrTruncated, exitCorrupt, "to its end"},
		{ovf.ErrSignature, exitCorrupt, "whoever signed it"},
		{ova.ErrLimit, exitFailed, "nothing was written"},
		{ovf.ErrUnsafe, exitFailed, "leads out of the package"},
		{&formats.FormatError{Format: "raw", Err: &formats.FormatError{Format: "xva", Structure: "block", Err: formats.ErrCorrupt}}, exitCorrupt, "get it again"},
		{&formats.FormatError{Format: "vagrant", Structure: "header", Err: formats.ErrCorrupt}, exitCorrupt, "get it again"},
		{&formats.FormatError{Format: "vmdk", Structure: "header", Err: formats.ErrCorrupt}, exitCorrupt, "tarvm image check"},
		{target.ErrNoMachine, exitFailed, "a disk with --memory and --cpus"},
		{target.ErrSeveral, exitFailed, "--system"},
		{&machine.SyntaxError{Form: "vmx", What: "memsize", Err: machine.ErrSyntax}, exitFailed, "mend it"},
		{ovf.ErrSyntax, exitFailed, "mend it"},
	} {
		var out bytes.Buffer
		p := &program{stderr: &out, bar: newBar(&out)}
		if code := p.fail(context.Background(), fmt.Errorf("vm.ova: %w", c.err)); code != c.code {
			t.Errorf("%v: exit code %d, want %d", c.err, code, c.code)
		}
		if !strings.Contains(out.String(), "hint: ") || !strings.Contains(out.String(), c.hint) {
			t.Errorf("%v: wrote %q, want a hint with %q", c.err, out.String(), c.hint)
		}
	}
	if c := exitCode(errors.Join(errors.New("x"), ovf.ErrDigest)); c != exitCorrupt {
		t.Errorf("joined: exit code %d", c)
	}
}

var snake = regexp.MustCompile(`^[a-z0-9]+(_[a-z0-9]+)*$`)

// names looks for fields that --json would write under Go's names.
func names(t *testing.T, typ reflect.Type, seen map[reflect.Type]bool) {
	for typ.Kind() == reflect.Pointer || typ.Kind() == reflect.Slice || typ.Kind() == reflect.Map || typ.Kind() == reflect.Array {
		typ = typ.Elem()
	}
	if typ.Kind() != reflect.Struct || seen[typ] || typ == reflect.TypeFor[time.Time]() {
		return
	}
	seen[typ] = true
	for i := range typ.NumField() {
		f := typ.Field(i)
		tag, _, _ := strings.Cut(f.Tag.Get("json"), ",")
		switch {
		case tag == "-" || !f.IsExported() && !f.Anonymous:
			continue
		case !f.Anonymous && !snake.MatchString(tag):
			t.Errorf("%v.%s: its name in JSON is %q", typ, f.Name, tag)
		}
		names(t, f.Type, seen)
	}
}

// What --json writes has names of one form.
func TestNamesInJSON(t *testing.T) {
	seen := make(map[reflect.Type]bool)
	for _, v := range []any{
		exported{}, shown{}, linted{}, repaired{}, verified{}, lint.Rule{}, ovf.Envelope{}, event{},
	} {
		names(t, reflect.TypeOf(v), seen)
	}
	if len(seen) < 30 {
		t.Errorf("only %d types were looked at", len(seen))
	}
}

// certificate makes a key and a certificate of it that was valid at some time.
func certificate(t *testing.T, from, to time.Time) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	c := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "signer\x1b[2J"}, NotBefore: from, NotAfter: to}
	der, err := x509.CreateCertificate(rand.Reader, c, c, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	k, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	write(t, "key.pem", string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: k})))
	write(t, "cert.pem", string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})))
}

// A certificate that has expired says nothing against the files: verify says it, and an import warns and goes on.
func TestExpiredCertificate(t *testing.T) {
	t.Chdir(t.TempDir())
	s := newSample(t)
	certificate(t, time.Unix(1e9, 0), time.Unix(1.1e9, 0))
	write(t, "x.ova", tarOf(t, s.ovf, s.mf, s.disk))
	must(t, "ovf", "sign", "x.ova", "--sign-key", "key.pem", "--sign-cert", "cert.pem", "-o", "signed.ova")
	out, stderr, code := command("ovf", "verify", "signed.ova")
	if code != exitCorrupt || !strings.Contains(out, "not valid at this time") || strings.Contains(out+stderr, "\x1b") {
		t.Errorf("verify: exit code %d: %q, %q", code, out, stderr)
	}
	_, stderr, code = command("import", "signed.ova", "-C", "x", "-q")
	if code != exitWarned || !strings.Contains(stderr, "tarvm: warning: signed.ova: ") {
		t.Errorf("import: exit code %d: %s", code, stderr)
	}
	read(t, "x/web.vmx")
}

// A signature of another manifest is refused, and --json says so.
func TestForgedManifest(t *testing.T) {
	t.Chdir(t.TempDir())
	s := newSample(t)
	certificate(t, time.Now().Add(-time.Hour), time.Now().Add(time.Hour))
	write(t, "x.ova", tarOf(t, s.ovf, s.mf, s.disk))
	must(t, "ovf", "sign", "x.ova", "--sign-key", "key.pem", "--sign-cert", "cert.pem", "-o", "signed.ova")
	list := members(t, "signed.ova")
	for i, m := range list {
		if strings.HasSuffix(m.name, ".mf") {
			list[i].body += "\n"
		}
	}
	write(t, "forged.ova", tarOf(t, list...))
	out, _, code := command("ovf", "verify", "forged.ova", "--json")
	var v struct {
		OK      bool   `json:"ok"`
		Problem string `json:"signature_problem"`
	}
	if err := json.Unmarshal([]byte(out), &v); err != nil || code != exitCorrupt || v.OK || !strings.Contains(v.Problem, "signature does not match") {
		t.Errorf("exit code %d, %v: %s", code, err, out)
	}
	if _, stderr, code := command("import", "forged.ova", "-C", "y"); code != exitCorrupt || !strings.Contains(stderr, "signature does not match") {
		t.Errorf("import: exit code %d: %s", code, stderr)
	}
}
