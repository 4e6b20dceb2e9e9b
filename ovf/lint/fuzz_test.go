package lint_test

import (
	"archive/tar"
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"tarvm/formats/machine/machinetest"
	"tarvm/ovf"
	"tarvm/ovf/lint"
	"tarvm/ovf/ova"
)

// FuzzEnvelope: of any envelope and manifest that open, what Fix makes opens again, is right by its manifest, has nothing left
// to repair, and is what the report says of it.
func FuzzEnvelope(f *testing.F) {
	text, err := os.ReadFile("testdata/blank.ovf")
	must(f, err)
	image := disk(f)
	f.Add(strings.Replace(string(text), "SIZE", itoa(int64(len(image))), 1), "SHA256(blank-disk1.vmdk)= 00\n")
	f.Add(strings.Replace(string(text), "byte * 2^20", "byte * 2^30", 1), "x")
	f.Add(strings.Replace(string(text), ` ovf:size="SIZE"`, ` ovf:chunkSize="7"`, 1), "SHA1 (a) = 00")
	f.Add(strings.Replace(string(text), "</VirtualHardwareSection>", `<vmw:Config ovf:required="false" vmw:key="firmware" vmw:value="efi"/></VirtualHardwareSection>`, 1), "")
	f.Add(`<Envelope xmlns="http://schemas.dmtf.org/ovf/envelope/1"><References><File href="blank-disk1.vmdk"/></References><VirtualSystem><VirtualHardwareSection><Item><InstanceId/><ResourceType>4</ResourceType></Item></VirtualHardwareSection></VirtualSystem></Envelope>`, "")
	f.Fuzz(func(t *testing.T, env, mf string) { repairs(t, image, env, mf) })
}

func TestEdits(t *testing.T) {
	text, err := os.ReadFile("testdata/blank.ovf")
	must(t, err)
	image := disk(t)
	text = bytes.Replace(text, []byte("SIZE"), []byte(itoa(int64(len(image)))), 1)
	machinetest.Edits(t, func(t *testing.T, b []byte) { repairs(t, image, string(b), "SHA256(blank-disk1.vmdk)= 00\n") }, text)
}

func repairs(t *testing.T, image []byte, env, mf string) {
	b := tarred(t, tar.FormatGNU, member{"blank.ovf", []byte(env)}, member{"blank.mf", []byte(mf)}, member{"blank-disk1.vmdk", image}, member{"other", []byte("x")})
	p, err := ova.Open(t.Context(), bytes.NewReader(b), ova.Options{})
	if err != nil {
		return
	}
	defer p.Close()
	before, err := lint.Check(t.Context(), p, lint.Options{})
	if errors.Is(err, ova.ErrSpool) { // it says that something is gzip
		return
	}
	must(t, err)
	for _, x := range before {
		if x.String() == "" || len(x.Verdicts) == 0 {
			t.Fatalf("%+v", x)
		}
	}
	var out bytes.Buffer
	rep, err := lint.Fix(t.Context(), p, ova.NewWriter(&out, ova.WriterOptions{}), lint.FixOptions{Damaged: true})
	if err != nil {
		t.Fatal(err)
	}
	q, err := ova.Open(t.Context(), bytes.NewReader(out.Bytes()), ova.Options{})
	if err != nil {
		t.Fatalf("what was repaired does not open: %v\n%s", err, env)
	}
	defer q.Close()
	if v, err := q.Verify(t.Context(), ova.VerifyOptions{}); err != nil {
		t.Fatal(err)
	} else if errors.Is(v.Err(), ovf.ErrDigest) || errors.Is(v.Err(), ova.ErrNotListed) || errors.Is(v.Err(), ova.ErrSize) {
		t.Fatal(v.Err())
	}
	after, err := lint.Check(t.Context(), q, lint.Options{})
	must(t, err)
	if len(after) != len(rep.Left) {
		t.Fatalf("left %v\nby the report %v", after, rep.Left)
	}
	for _, x := range after {
		if x.Fixes {
			t.Fatalf("not repaired: %s", x)
		}
	}
}

// FuzzImage: any bytes as a disk are looked at without harm, and what is cut off behind a stream's end was behind it.
func FuzzImage(f *testing.F) {
	f.Add(disk(f)[:70_000])
	f.Add(append(disk(f), 1, 2, 3))
	f.Add([]byte("KDMV\x03\x00\x00\x00\x01\x00\x03\x00"))
	text, err := os.ReadFile("testdata/blank.ovf")
	must(f, err)
	f.Fuzz(func(t *testing.T, image []byte) {
		p := &pack{env: string(text), disk: image, name: "blank-disk1.vmdk", mf: manifest}
		q := p.open(t)
		_, err := lint.Check(t.Context(), q, lint.Options{})
		must(t, err)
		var out bytes.Buffer
		_, err = lint.Fix(t.Context(), q, ova.NewWriter(&out, ova.WriterOptions{}), lint.FixOptions{})
		must(t, err)
		r, err := ova.Open(t.Context(), bytes.NewReader(out.Bytes()), ova.Options{})
		must(t, err)
		defer r.Close()
		if n := r.Members[len(r.Members)-1]; n.Size > int64(len(image)) || !bytes.Equal(out.Bytes()[n.Tar.Offset:n.Tar.Offset+n.Size], image[:n.Size]) {
			t.Fatalf("%+v", n)
		}
	})
}

// TestOthers looks at every envelope of the corpus: what is repaired of it has nothing more to repair.
func TestOthers(t *testing.T) {
	n := 0
	for _, s := range machinetest.Corpus(t, "", ".ovf") {
		name := filepath.Base(s.Name)
		q, err := ova.Open(t.Context(), bytes.NewReader(tarred(t, tar.FormatGNU, member{name, s.Data})), ova.Options{})
		if err != nil {
			if !strings.Contains(name, "corrupted") && !strings.Contains(name, "invalid") {
				t.Errorf("%s: %v", s.Name, err)
			}
			continue
		}
		list, err := lint.Check(t.Context(), q, lint.Options{})
		must(t, err)
		var out bytes.Buffer
		rep, err := lint.Fix(t.Context(), q, ova.NewWriter(&out, ova.WriterOptions{}), lint.FixOptions{})
		if err != nil {
			t.Errorf("%s: %v", s.Name, err)
			continue
		}
		for _, f := range rep.Left {
			if f.Fixes {
				t.Errorf("%s: not repaired: %s", s.Name, f)
			}
		}
		if len(rep.Fixed)+len(rep.Left) < len(list) {
			t.Errorf("%s: %d findings, %d repaired, %d left", s.Name, len(list), len(rep.Fixed), len(rep.Left))
		}
		q.Close()
		n++
	}
	t.Logf("%d envelopes", n)
}
