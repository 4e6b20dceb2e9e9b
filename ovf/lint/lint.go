package lint

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"tarvm/ovf"
	"tarvm/ovf/ova"
)

// An Importer is a program that packages are for.
type Importer string

// The importers of which something is known.
const (
	VMware       Importer = "vmware"        // vSphere, ESXi, Workstation, Fusion, ovftool
	VirtualBox   Importer = "virtualbox"    // VBoxManage import
	VirtV2V      Importer = "virt-v2v"      // to libvirt, oVirt, OpenStack
	Govc         Importer = "govc"          // govc import.ova with govmomi's vCenter simulator
	XenOrchestra Importer = "xen-orchestra" // XCP-ng and XenServer through it
)

// Importers returns all of them.
func Importers() []Importer { return []Importer{VMware, VirtualBox, VirtV2V, Govc, XenOrchestra} }

// ErrImporter: a name that is none of Importers.
var ErrImporter = errors.New("unknown importer")

// Severity is what an importer does; the greater the worse.
type Severity uint8

// The severities.
const (
	Warns      Severity = iota + 1 // it takes the package, and complains or leaves something unchecked
	ReadsWrong                     // it takes the package, and makes another machine of it
	Refuses                        // it does not take the package
)

// String returns warns, reads wrongly, or refuses.
func (s Severity) String() string {
	switch s {
	case Warns:
		return "warns"
	case ReadsWrong:
		return "reads wrongly"
	case Refuses:
		return "refuses"
	}
	return fmt.Sprintf("severity %d", uint8(s))
}

// MarshalText returns String.
func (s Severity) MarshalText() ([]byte, error) { return []byte(s.String()), nil }

// A Verdict is what one importer does, and from where that is known.
type Verdict struct {
	Importer Importer `json:"importer"`
	Severity Severity `json:"severity"`
	Evidence string   `json:"evidence"` // "tried", "reported: haos#826"
}

// A Rule is a thing that some importer minds.
type Rule struct {
	ID       string    `json:"id"`
	Text     string    `json:"text"` // what is wrong, in general
	Verdicts []Verdict `json:"verdicts"`
	Fixes    bool      `json:"fixes"` // Fix repairs it, where that can be done

	check func(v *view, found func(hit))
}

// A hit is one place where a rule applies.
type hit struct {
	where string // the file or element
	what  string // what is there
	// fix repairs the envelope. It may be nil, and then the rule's repair is in how the package is written (if the rule
	// has one), or there is none.
	fix func()
	// left: the rule has a repair, but not for this.
	left bool
	// only is to whom it matters, of those in the rule; nil: to all.
	only []Importer
}

// A Finding is one place in a package that some importer minds.
type Finding struct {
	Rule  string `json:"rule"`
	Text  string `json:"text"`  // the rule's
	Where string `json:"where"` // the file or element: "vm.mf line 2", "Item 5"
	What  string `json:"what"`  // what is there; may be empty
	// Verdicts are those of the importers that were asked for, the worst first.
	Verdicts []Verdict `json:"verdicts"`
	Fixes    bool      `json:"fixes"` // Fix repairs it
}

// Worst is the greatest severity among the verdicts; for says of which importer, "" for all. It is 0 if there is none.
func (f Finding) Worst(of Importer) Severity {
	worst := Severity(0)
	for _, v := range f.Verdicts {
		if of == "" || v.Importer == of {
			worst = max(worst, v.Severity)
		}
	}
	return worst
}

// String gives the form "disk.vmdk: bytes behind the end-of-stream marker: 64512: vmware refuses".
func (f Finding) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s: %s", f.Where, f.Text)
	if f.What != "" {
		b.WriteString(": " + f.What)
	}
	sep := ": "
	for _, v := range f.Verdicts {
		fmt.Fprintf(&b, "%s%s %s", sep, v.Importer, v.Severity)
		sep = ", "
	}
	return b.String()
}

// Worst is the greatest severity for one importer in a list of findings; "" for all importers. 0: none.
func Worst(list []Finding, of Importer) Severity {
	worst := Severity(0)
	for _, f := range list {
		worst = max(worst, f.Worst(of))
	}
	return worst
}

// Rules returns all rules. The caller may change the list, but not what the verdicts' slices hold.
func Rules() []Rule {
	return slices.Concat(archiveRules(), manifestRules(), fileRules(), envelopeRules(), hardwareRules())
}

// maxHits of one rule in a package; what is more is counted in the last.
const maxHits = 100

// Options say what is looked at. The zero value is all importers, and no digests.
type Options struct {
	// Importers are those to ask; nil: all.
	Importers []Importer
	// Verified is what the package's Verify found out. nil: that files have their digests is taken for granted, as to find
	// out would read all of them.
	Verified *ova.Verification
}

// Check returns what the importers would mind in the package, in the order of the rules. It reads the headers of disks
// and, of streamOptimized ones, a block for each grain; disks that are stored compressed are not looked into. Errors are
// ErrImporter, the context's, or of reading the package.
func Check(ctx context.Context, p *ova.Package, o Options) ([]Finding, error) {
	v, err := newView(ctx, p)
	if err != nil {
		return nil, err
	}
	if o.Verified != nil {
		for _, f := range o.Verified.Files {
			for _, err := range f.Problems {
				if errors.Is(err, ovf.ErrDigest) {
					v.damaged = append(v.damaged, f.Name)
				}
			}
		}
	}
	found, err := v.check(o.Importers)
	if err != nil {
		return nil, err
	}
	return findings(found), nil
}

func findings(list []found) []Finding {
	out := make([]Finding, len(list))
	for i := range list {
		out[i] = list[i].Finding
	}
	return out
}

// found is a finding with its repair.
type found struct {
	Finding
	fix func()
}

func (v *view) check(importers []Importer) ([]found, error) {
	if importers == nil {
		importers = Importers()
	}
	for _, i := range importers {
		if !slices.Contains(Importers(), i) {
			return nil, fmt.Errorf("%w: %.40q", ErrImporter, i)
		}
	}
	var list []found
	for _, r := range Rules() {
		n := 0
		r.check(v, func(h hit) {
			var verdicts []Verdict
			for _, vd := range r.Verdicts {
				if slices.Contains(importers, vd.Importer) && (h.only == nil || slices.Contains(h.only, vd.Importer)) {
					verdicts = append(verdicts, vd)
				}
			}
			if len(verdicts) == 0 {
				return
			}
			if n++; n > maxHits {
				list[len(list)-1].What = fmt.Sprintf("and %d more places", n-maxHits)
				last := list[len(list)-1].fix
				list[len(list)-1].fix = both(last, h.fix)
				return
			}
			slices.SortStableFunc(verdicts, func(a, b Verdict) int { return int(b.Severity) - int(a.Severity) })
			list = append(list, found{
				Finding: Finding{Rule: r.ID, Text: r.Text, Where: h.where, What: h.what, Verdicts: verdicts, Fixes: r.Fixes && !h.left},
				fix:     h.fix,
			})
		})
	}
	return list, nil
}

func both(a, b func()) func() {
	switch {
	case a == nil:
		return b
	case b == nil:
		return a
	}
	return func() { a(); b() }
}

// quote is for text from the package.
func quote(s string) string { return fmt.Sprintf("%.80q", s) }

// all makes verdicts of the same severity and evidence.
func all(s Severity, evidence string, list ...Importer) []Verdict {
	out := make([]Verdict, len(list))
	for i, imp := range list {
		out[i] = Verdict{imp, s, evidence}
	}
	return out
}
