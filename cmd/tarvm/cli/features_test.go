package cli

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"testing"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

// features says in which scripts each promise about versions of machines is tested. M7 to M9, M18 and M19 were never given.
var features = map[string][]string{
	"M1":  {"init", "repo-places"},   // a repository, on one disk or several
	"M2":  {"repo-places"},           // entries whose parts are elsewhere
	"M3":  {"init"},                  // working areas
	"M4":  {"m-scenarios"},           // projects, on demand
	"M5":  {"save"},                  // defaults
	"M6":  {"m-area"},                // what is no machine
	"M10": {"m-scenarios"},           // save, of three kinds
	"M11": {"m-scenarios", "open"},   // restore and open
	"M12": {"log"},                   // consult
	"M13": {"entry-export"},          // export and import
	"M14": {"rm"},                    // removal
	"M15": {"init"},                  // repositories and areas
	"M16": {"get"},                   // base machines of a catalogue
	"M17": {"init"},                  // the wizard
	"M20": {"m-scenarios"},           // kinds mixed
	"M21": {"m-scenarios"},           // a forest
	"M22": {"m-scenarios"},           // branches
	"M23": {"m-scenarios"},           // differentials
	"M24": {"m-scenarios"},           // the build path
	"M25": {"m-scenarios", "m-area"}, // from what the area holds
	"M26": {"m-scenarios", "rm"},     // orphans
	"M27": {"forget"},                // rotation
	"M28": {"m-area"},                // identity by the disks
	"M29": {"m-area"},                // twins
	"M30": {"m-area"},                // changed, added, removed; clocks
	"M31": {"m-area"},                // times
	"M32": {"m-area"},                // verification
	"M33": {"m-vmware"},              // VMware's files
	"M34": {"m-vmware", "entry-export"},
	"M35": {"m-area"}, // from one project to another
	"M36": {"m-area"}, // old states looked at, the newest without the tool
}

func TestFeatures(t *testing.T) {
	for id, scripts := range features {
		named := regexp.MustCompile(fmt.Sprintf(`(?m)^# (.*\b)?%s\b`, id))
		for _, s := range scripts {
			b, err := os.ReadFile(filepath.Join("testdata", "script", s+".txtar"))
			if err != nil {
				t.Errorf("%s: %v", id, err)
				continue
			}
			b, _, _ = bytes.Cut(b, []byte("\n-- "))
			if !named.Match(b) {
				t.Errorf("%s.txtar does not say that it tests %s", s, id)
			}
		}
	}
}

// Each flag of the verbs of archives is used by a script.
func TestFlags(t *testing.T) {
	scripts, err := filepath.Glob(filepath.Join("testdata", "script", "*.txtar"))
	if err != nil || len(scripts) == 0 {
		t.Fatal(err)
	}
	var lines []byte
	for _, s := range scripts {
		b, err := os.ReadFile(s)
		if err != nil {
			t.Fatal(err)
		}
		lines = append(lines, b...)
	}
	p := &program{bar: newBar(io.Discard)}
	for _, c := range []*cobra.Command{p.packCommand(), p.unpackCommand(), p.listCommand(), p.showCommand(), p.verifyCommand(), p.diffCommand()} {
		c.Flags().VisitAll(func(f *pflag.Flag) {
			forms := "--" + f.Name
			if f.Shorthand != "" {
				forms += "|-" + f.Shorthand
			}
			if used := regexp.MustCompile(fmt.Sprintf(`(?m)^(exec|exits [0134]) .*tarvm %s( .*)? (%s)( |=|'|$)`, c.Name(), forms)); !used.Match(lines) {
				t.Errorf("no script uses tarvm %s %s", c.Name(), forms)
			}
		})
	}
}
