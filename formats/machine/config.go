package machine

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
)

// A Config is a form in which the configuration of one machine is written. Implementations have no state and may be used
// from several goroutines.
type Config interface {
	// Name is the form's: vmx, vbox, libvirt, xl.
	Name() string
	// Probe reports whether a file is of this form, by its name and the first bytes of its content (64 KiB, or all of it
	// if it is shorter). It goes by content where that tells.
	Probe(name string, head []byte) bool
	// Decode reads a configuration. Errors are *SyntaxError, or wrap ErrSyntax or ErrUnsupported.
	Decode(b []byte) (*Machine, error)
	// Encode writes m. It changes nothing in m. What the form cannot express comes back as losses, in the order of the
	// fields of Machine; it is an error only when nothing that can be used could be written.
	Encode(m *Machine, o EncodeOptions) ([]byte, []Loss, error)
}

// EncodeOptions say how a configuration is written. The zero value works for every form.
type EncodeOptions struct {
	// Version of the virtual hardware in the form's words (vmx-19, pc-q35-7.2); empty: the machine's own if it is one of
	// the form's, else one that most installations know.
	Version string
}

// A Loss is something that a machine has and a form cannot express, or not as it was.
type Loss struct {
	// Part of the machine: "tpm", "nic 1", "drive scsi0:3".
	Part string `json:"part"`
	// What happens: "left out: xl.cfg has no TPM 1.2", "becomes e1000".
	What string `json:"what"`
}

// String gives the form "tpm: left out".
func (l Loss) String() string { return l.Part + ": " + l.What }

// Difference compares what two machines are, Origins left out, and returns one line for each thing that is not the same,
// in the form "nics.0.mac: 00:11:22:33:44:55, 00:11:22:33:44:66".
func Difference(a, b *Machine) []string {
	flat := func(m *Machine) map[string]string {
		out := map[string]string{}
		text, err := json.Marshal(m)
		if err != nil {
			panic(err) // a bug: nothing in a Machine can fail
		}
		var v any
		if err := json.Unmarshal(text, &v); err != nil {
			panic(err)
		}
		flatten(out, "", v)
		return out
	}
	x, y := flat(a), flat(b)
	var lines []string
	for k, v := range x {
		if w, ok := y[k]; !ok || w != v {
			lines = append(lines, k+": "+v+", "+orNothing(w, ok))
		}
	}
	for k, w := range y {
		if _, ok := x[k]; !ok {
			lines = append(lines, k+": nothing, "+w)
		}
	}
	slices.Sort(lines)
	return lines
}

func orNothing(s string, ok bool) string {
	if !ok {
		return "nothing"
	}
	return s
}

func flatten(out map[string]string, path string, v any) {
	switch v := v.(type) {
	case map[string]any:
		for k, w := range v {
			flatten(out, strings.TrimPrefix(path+"."+k, "."), w)
		}
	case []any:
		for i, w := range v {
			flatten(out, fmt.Sprintf("%s.%d", path, i), w)
		}
	default:
		out[path] = fmt.Sprint(v)
	}
}
