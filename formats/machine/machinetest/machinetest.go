// Package machinetest tests what reads and writes configurations of machines. It is for tests alone.
package machinetest

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"iter"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/beevik/etree"

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
	need(f, c, seeds)
	for _, s := range seeds {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, b []byte) { Survive(t, c, b) })
}

// Edits calls check with small edits of the seeds: elements, attributes and lines left out, written twice, in another
// order, and with other values. A fuzzer, which knows of bytes alone, comes upon few of them. It takes a good thousand evenly
// from all that there are, and every one where the environment has TARVM_EDITS=all.
func Edits(t *testing.T, check func(t *testing.T, b []byte), seeds ...[]byte) {
	total, most := 0, 1500
	for _, s := range seeds {
		for range edits(s) {
			total++
		}
	}
	if total == 0 {
		t.Fatal("no edit")
	}
	if testing.Short() {
		most /= 10
	}
	step := 1 + total/most
	if os.Getenv("TARVM_EDITS") == "all" {
		step = 1
	}
	n, failed := 0, 0
	for i, s := range seeds {
		for what, write := range edits(s) {
			if n++; n%step != 0 {
				continue
			}
			b := write()
			if !t.Run(fmt.Sprintf("%d %s", i, what), func(t *testing.T) { check(t, b) }) {
				if failed++; failed == 20 {
					t.Fatal("and perhaps more")
				}
			}
		}
	}
}

// need fails a test whose seeds it could not do anything with.
func need(t testing.TB, c machine.Config, seeds [][]byte) {
	t.Helper()
	for _, s := range seeds {
		if _, err := c.Decode(s); err == nil {
			return
		}
	}
	t.Fatalf("none of %d seeds can be decoded", len(seeds))
}

// Survive tests the round trip of whatever decodes.
func Survive(t *testing.T, c machine.Config, b []byte) {
	t.Helper()
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
}

// Anew tests that what is written of b without its origin says, when read, what it says when written again.
func Anew(t *testing.T, c machine.Config, b []byte) {
	t.Helper()
	m, err := c.Decode(b)
	if err != nil {
		return
	}
	anew := func(m *machine.Machine) []byte {
		out, _, err := c.Encode(Strip(m), machine.EncodeOptions{})
		if err != nil {
			t.Fatal(err)
		}
		return out
	}
	out := anew(m)
	if m, err = c.Decode(out); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	if again := anew(m); !bytes.Equal(out, again) {
		t.Errorf("written\n%s\nthen\n%s", out, again)
	}
}

// edits returns the small edits of a document, which is XML or has lines of the form key = value: what each is, and what
// writes it, to be called before the next is asked for.
func edits(b []byte) iter.Seq2[string, func() []byte] {
	doc := etree.NewDocument()
	if err := doc.ReadFromBytes(b); err == nil && doc.Root() != nil {
		return func(yield func(string, func() []byte) bool) { (&editor{doc, yield}).element(doc.Root()) }
	}
	lines := strings.Split(string(b), "\n")
	return func(yield func(string, func() []byte) bool) {
		for i, l := range lines {
			put := func(what string, now ...string) bool {
				return yield(fmt.Sprintf("line %d %s", i+1, what), func() []byte {
					return []byte(strings.Join(slices.Concat(lines[:i], now, lines[i+1:]), "\n"))
				})
			}
			if strings.TrimSpace(l) == "" {
				continue
			}
			if !put("left out") || !put("twice", l, l) || !put("last", append(slices.Clone(lines[i+1:]), l)...) {
				return
			}
			key, value, ok := strings.Cut(l, "=")
			if !ok {
				continue
			}
			for _, v := range values(strings.Trim(value, " \"'\r")) {
				if !put(fmt.Sprintf("is %q", v), fmt.Sprintf("%s= %q", key, v)) {
					return
				}
			}
		}
	}
}

// values are what to put in the place of a value.
func values(v string) []string {
	list := []string{"", "0", "1", "9", "-1", "4294967296", "true", "FALSE", "none", "ide", "disk", "a b", v + "0", v + v, " " + v, "0x" + v}
	return slices.DeleteFunc(list, func(x string) bool { return x == v })
}

// An editor makes the edits of a document, one at a time, and takes each back.
type editor struct {
	doc   *etree.Document
	yield func(string, func() []byte) bool
}

func (x *editor) put(e *etree.Element, what string) bool {
	return x.yield(e.Tag+" "+what, func() []byte {
		b, err := x.doc.WriteToBytes()
		if err != nil {
			panic(err)
		}
		return b
	})
}

func (x *editor) element(e *etree.Element) bool {
	if e != x.doc.Root() && !x.place(e) {
		return false
	}
	was := slices.Clone(e.Attr)
	for i, a := range was {
		e.Attr = slices.Delete(slices.Clone(was), i, i+1)
		if !x.put(e, "without "+a.Key) {
			return false
		}
		e.Attr = slices.Clone(was)
		for _, v := range values(a.Value) {
			e.Attr[i].Value = v
			if !x.put(e, fmt.Sprintf("with %s %q", a.Key, v)) {
				return false
			}
		}
		e.Attr[i].Value = a.Value
	}
	if text := e.Text(); strings.TrimSpace(text) != "" {
		for _, v := range values(text) {
			e.SetText(v)
			if !x.put(e, fmt.Sprintf("is %q", v)) {
				return false
			}
		}
		e.SetText(text)
	}
	for _, c := range e.ChildElements() {
		if !x.element(c) {
			return false
		}
	}
	return true
}

// place leaves an element out, and puts it elsewhere.
func (x *editor) place(e *etree.Element) bool {
	p, at := e.Parent(), e.Index()
	twin := e.Copy()
	p.InsertChildAt(at, twin)
	ok := x.put(e, "twice")
	p.RemoveChild(twin)
	p.RemoveChild(e)
	ok = ok && x.put(e, "left out")
	p.AddChild(e)
	ok = ok && x.put(e, "last")
	p.RemoveChild(e)
	p.InsertChildAt(0, e)
	ok = ok && x.put(e, "first")
	p.RemoveChild(e)
	p.InsertChildAt(at, e)
	return ok
}
