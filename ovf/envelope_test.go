package ovf_test

import (
	"bytes"
	"errors"
	"path/filepath"
	"strings"
	"testing"

	"tarvm/formats/machine"
	"tarvm/formats/machine/machinetest"
	"tarvm/ovf"
)

// envelopes returns what other programs wrote: all that is in the corpus.
func envelopes(t testing.TB) []machinetest.Sample {
	t.Helper()
	var list []machinetest.Sample
	for _, set := range []string{"govmomi", "virt-v2v", "cot", "made-by-clients"} {
		for _, s := range machinetest.Corpus(t, set, ".ovf") {
			s.Name = set + "/" + s.Name
			list = append(list, s)
		}
	}
	return list
}

// refused are those that are no envelopes, and what is said of them.
var refused = map[string]string{
	"govmomi/external/jeos_corrupted.ovf": "illegal character",
	"cot/ersatz_ovf_3.0.ovf":              "envelope/3",
}

func TestDecodeCorpus(t *testing.T) {
	bad := 0
	for _, s := range envelopes(t) {
		e, err := ovf.Decode(s.Data)
		if says, ok := refused[s.Name]; ok {
			var x *machine.SyntaxError
			if !errors.Is(err, ovf.ErrSyntax) || !errors.As(err, &x) || !strings.Contains(err.Error(), says) {
				t.Errorf("%s: %v", s.Name, err)
			}
			bad++
			continue
		}
		if err != nil {
			t.Errorf("%s: %v", s.Name, err)
			continue
		}
		for _, p := range e.Problems {
			t.Logf("%s: %s", s.Name, p)
		}
	}
	if bad != len(refused) {
		t.Errorf("%d files were refused, want %d", bad, len(refused))
	}
}

func TestKeepCorpus(t *testing.T) {
	for _, s := range envelopes(t) {
		e, err := ovf.Decode(s.Data)
		if err != nil {
			continue
		}
		b, losses, err := e.Encode(ovf.EncodeOptions{})
		if err != nil || len(losses) > 0 || !bytes.Equal(b, s.Data) {
			t.Errorf("%s: not the same: %v, %v", s.Name, losses, err)
		}
	}
}

func TestProfilesCorpus(t *testing.T) {
	for _, s := range envelopes(t) {
		e, err := ovf.Decode(s.Data)
		if err != nil {
			continue
		}
		for _, p := range []ovf.Profile{ovf.Generic, ovf.VMware, ovf.VirtualBox, ovf.Xen} {
			for _, v := range []string{"1.1", "2.0"} {
				b, losses, err := e.Encode(ovf.EncodeOptions{Profile: p, Version: v})
				if err != nil {
					t.Errorf("%s as %s: %v", s.Name, p, err)
					continue
				}
				again, err := ovf.Decode(b)
				if err != nil {
					t.Errorf("%s as %s: %v", s.Name, p, err)
					continue
				}
				if len(again.Systems) != len(e.Systems) {
					t.Errorf("%s as %s: %d systems", s.Name, p, len(again.Systems))
					continue
				}
				for i := range e.Systems {
					for _, d := range machine.Difference(e.Systems[i].Machine, again.Systems[i].Machine) {
						t.Logf("%s as %s: %s", filepath.Base(s.Name), p, d)
					}
				}
				for _, l := range losses {
					t.Logf("%s as %s: lost: %s", filepath.Base(s.Name), p, l)
				}
				for _, l := range again.Problems {
					t.Logf("%s as %s: problem: %s", filepath.Base(s.Name), p, l)
				}
			}
		}
	}
}
