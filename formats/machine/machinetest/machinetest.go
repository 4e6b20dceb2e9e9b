// Package machinetest tests what reads and writes configurations of machines. It is for tests alone.
package machinetest

import (
	"bytes"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"tarvm/formats/machine"
)

// A Sample is a file of the corpus.
type Sample struct {
	Name string // its path below the set's folder
	Path string // on disk
	Data []byte
}

// Corpus returns the files of one set of configurations that other programs wrote, those whose names end in suffix, in
// the order of their names. It skips the test when there is no corpus, and fails it when the set is empty.
func Corpus(t testing.TB, set, suffix string) []Sample {
	t.Helper()
	root := corpus()
	if root == "" {
		t.Skip("no corpus of configurations beside the project (../shared/corpus/ovf)")
	}
	var list []Sample
	err := filepath.WalkDir(filepath.Join(root, set), func(path string, e fs.DirEntry, err error) error {
		if err != nil || e.IsDir() || !strings.HasSuffix(path, suffix) {
			return err
		}
		b, err := os.ReadFile(path)
		rel, _ := filepath.Rel(filepath.Join(root, set), path)
		list = append(list, Sample{rel, path, b})
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	if len(list) == 0 {
		t.Fatalf("corpus: %s has no files *%s", set, suffix)
	}
	return list
}

// corpus finds the folder beside the module.
func corpus() string {
	dir, err := os.Getwd()
	for err == nil {
		if _, err := os.Stat(filepath.Join(dir, "go.mod")); err == nil {
			c := filepath.Join(dir, "..", "shared", "corpus", "ovf")
			if _, err := os.Stat(c); err != nil {
				return ""
			}
			return c
		}
		up := filepath.Dir(dir)
		if up == dir {
			break
		}
		dir = up
	}
	return ""
}

// Decode decodes b and fails the test when that fails or when the machine contradicts itself.
func Decode(t testing.TB, c machine.Config, b []byte) *machine.Machine {
	t.Helper()
	m, err := c.Decode(b)
	if err != nil {
		t.Fatal(err)
	}
	if err := m.Clone().Complete(); err != nil {
		t.Fatal(err)
	}
	return m
}

// Encode encodes m and fails the test when that fails, when it is not the same each time, or changed m.
func Encode(t testing.TB, c machine.Config, m *machine.Machine, o machine.EncodeOptions) ([]byte, []machine.Loss) {
	t.Helper()
	before := m.Clone()
	b, losses, err := c.Encode(m, o)
	if err != nil {
		t.Fatal(err)
	}
	for _, d := range machine.Difference(before, m) {
		t.Errorf("encoding changed the machine: %s", d)
	}
	again, _, err := c.Encode(m, o)
	if err != nil || !bytes.Equal(b, again) {
		t.Errorf("encoding twice gives two results (%v)", err)
	}
	return b, losses
}

// CheckRoundTrip decodes b, encodes the machine, and decodes that: the machines must be the same, nothing may be lost,
// and encoding the second must give the same bytes as the first. It returns what was written.
func CheckRoundTrip(t testing.TB, c machine.Config, b []byte) []byte {
	t.Helper()
	m := Decode(t, c, b)
	out, losses := Encode(t, c, m, machine.EncodeOptions{})
	for _, l := range losses {
		t.Errorf("lost on the way back: %s", l)
	}
	m2 := Decode(t, c, out)
	for _, d := range machine.Difference(m, m2) {
		t.Errorf("not the same after a round trip: %s", d)
	}
	if again, _ := Encode(t, c, m2, machine.EncodeOptions{}); !bytes.Equal(out, again) {
		t.Errorf("the second round trip gives other bytes than the first:\n%s\nthen\n%s", out, again)
	}
	return out
}

// CheckFresh encodes what b says without its Origins, as it comes from another form, and decodes that. It returns what was
// written, and how the machines differ, which the caller compares with the losses.
func CheckFresh(t testing.TB, c machine.Config, b []byte) (out []byte, differences []string) {
	t.Helper()
	m := Strip(Decode(t, c, b))
	out, _ = Encode(t, c, m, machine.EncodeOptions{})
	return out, machine.Difference(m, Decode(t, c, out))
}

// Strip returns a copy of m without Origins.
func Strip(m *machine.Machine) *machine.Machine {
	c := m.Clone()
	c.Origin = nil
	if c.TPM != nil {
		c.TPM.Origin = nil
	}
	for i := range c.Controllers {
		c.Controllers[i].Origin = nil
	}
	for i := range c.Drives {
		c.Drives[i].Origin = nil
	}
	for i := range c.NICs {
		c.NICs[i].Origin = nil
	}
	for i := range c.Videos {
		c.Videos[i].Origin = nil
	}
	for i := range c.Displays {
		c.Displays[i].Origin = nil
	}
	for i := range c.Sounds {
		c.Sounds[i].Origin = nil
	}
	for i := range c.Serials {
		c.Serials[i].Origin = nil
	}
	for i := range c.Parallels {
		c.Parallels[i].Origin = nil
	}
	for i := range c.Inputs {
		c.Inputs[i].Origin = nil
	}
	for i := range c.Shares {
		c.Shares[i].Origin = nil
	}
	for i := range c.Others {
		c.Others[i].Origin = nil
	}
	return c
}

// Fuzz is the body of a fuzz target: whatever decodes must survive a round trip, and what does not must say why.
func Fuzz(f *testing.F, c machine.Config, seeds ...[]byte) {
	if len(seeds) == 0 {
		f.Fatal("no seeds")
	}
	decoded := false
	for _, s := range seeds {
		f.Add(s)
		if _, err := c.Decode(s); err == nil {
			decoded = true
		}
	}
	if !decoded {
		f.Fatal("no seed can be decoded")
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		c.Probe("x", b)
		m, err := c.Decode(b)
		if err != nil {
			if !errors.Is(err, machine.ErrSyntax) && !errors.Is(err, machine.ErrUnsupported) {
				t.Fatalf("an error of neither kind: %v", err)
			}
			return
		}
		out, _, err := c.Encode(m, machine.EncodeOptions{})
		if err != nil {
			t.Fatalf("what was decoded cannot be encoded: %v", err)
		}
		m2, err := c.Decode(out)
		if err != nil {
			t.Fatalf("what was encoded cannot be decoded: %v\n%s", err, out)
		}
		for _, d := range machine.Difference(m, m2) {
			t.Errorf("not the same after a round trip: %s", d)
		}
		if _, _, err := c.Encode(Strip(m), machine.EncodeOptions{}); err != nil && !errors.Is(err, machine.ErrUnsupported) {
			t.Fatalf("without its origin it cannot be encoded: %v", err)
		}
	})
}
